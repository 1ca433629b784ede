import bz2
import gzip
import io
import lzma
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data import fits as reading
from lensstudy.data.fits import SUFFIXES, choice_note, image_index, opened
from lensstudy.data.fits import read_image as read


def read_image(content, extension=None):
    return read(content, extension)[0]


def read_scale(content):
    return read(content)[1].get("pixel_scale")


def file_of(*names, first=None, scale=None) -> bytes:
    """A FITS file with an image under each name, filled with its place, behind an empty or a filled first HDU."""
    hdus = [fits.PrimaryHDU(first)]
    hdus += [fits.ImageHDU(np.full((8, 8), i + 1.0), name=name) for i, name in enumerate(names)]
    if scale:
        hdus[0].header["PIXSCALE"] = scale
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    return content.getvalue()


@pytest.mark.parametrize("other", ["ERR", "MASK", "PSF", "DQ", "WHT", "VARIANCE", "RMS", "UNCERT"])
@pytest.mark.parametrize("image", ["SCI", "DATA", "IMAGE", "VIS_BGSUB", "FLUX"])
def test_the_image_is_the_extension_called_so_wherever_it_stands(image, other):
    assert read_image(file_of(other, image))[0, 0] == 2
    assert read_image(file_of(image, other))[0, 0] == 1


@pytest.mark.parametrize("seed", range(30))
def test_neither_order_nor_type_of_the_extensions_matters(seed):
    generator = np.random.default_rng(seed)
    maps = ["ERR", "MASK", "PSF", "DQ", "WHT", "VAR_POISSON", "RMS", "IVAR", "EXP", "CHI2", "MODEL", "OVER_SAMPLE", ""]
    names = [*generator.choice(maps, 4, replace=False), generator.choice(["SCI", "DATA", "IMAGE", "FLUX", "BGSUB"])]
    generator.shuffle(names)
    kinds = generator.choice(["u1", ">i2", "i4", ">f4", "f8"], 5)
    arrays = [np.full((8, 8), i, kind) for i, kind in enumerate(kinds)]
    hdus = [fits.ImageHDU(array, name=name) for array, name in zip(arrays, names, strict=True)]
    first = fits.PrimaryHDU(hdus[0].data, hdus[0].header) if generator.random() < 0.5 else None
    content = io.BytesIO()
    fits.HDUList([first, *hdus[1:]] if first else [fits.PrimaryHDU(), *hdus]).writeto(content)
    expected = next(i for i, name in enumerate(names) if name in ("SCI", "DATA", "IMAGE", "FLUX", "BGSUB"))
    assert (read_image(content.getvalue()) == expected).all()


def test_a_first_image_counts_unless_another_is_called_image():
    assert read_image(file_of("MASK", "UNCERT", first=np.zeros((8, 8))))[0, 0] == 0
    assert read_image(file_of("", "", first=np.zeros((8, 8))))[0, 0] == 0
    assert read_image(file_of("ERR", "G"))[0, 0] == 2, "the only one that is none of the others"


def test_several_extensions_that_could_be_the_image_are_named():
    with pytest.raises(
        ValueError, match=r"4 extensions could be the image \(1, 2, 3, 4\); choose one with --extension"
    ):
        read_image(file_of("", "", "", ""))
    assert read_image(file_of("", "", "", ""), 3)[0, 0] == 3
    with pytest.raises(ValueError, match="no image among its extensions ERR, MASK"):
        read_image(file_of("ERR", "MASK"))
    with (
        opened(file_of("ERR", "SCI")) as hdus,
        pytest.raises(ValueError, match="no FITS extension '9'; there are ERR, SCI"),
    ):
        image_index(hdus, 9)


def test_the_first_header_speaks_for_an_image_that_is_silent():
    assert read_scale(file_of("ERR", "SCI", scale=0.08)) == 0.08
    assert read_scale(file_of("ERR", "SCI")) is None


def test_bands_that_are_all_called_image_are_named():
    """As Euclid's cutouts have them, in any order."""
    bands = file_of("DES_G_BGSUB", "DES_G_RMS", "VIS_BGSUB", "VIS_PSF")
    with pytest.raises(ValueError, match=r"2 extensions could be the image \(1 DES_G_BGSUB, 3 VIS_BGSUB\)"):
        read_image(bands)
    assert read_image(bands, "VIS_BGSUB")[0, 0] == 3
    with pytest.raises(ValueError, match="2 extensions could be the image"):
        read_image(file_of("SCI", "ERR", "SCI", "ERR"))


def planes_of(*cards: dict, scale=0.1, sides=()) -> bytes:
    """A FITS file with an image for each header, filled with its place."""
    hdus = [fits.PrimaryHDU()]
    for i, header in enumerate(cards):
        side = sides[i] if sides else 20
        hdus.append(fits.ImageHDU(np.full((side, side), i + 1.0), fits.Header({"PIXSCALE": scale} | header)))
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    return content.getvalue()


def names(*texts) -> list[dict]:
    return [{"EXTNAME": text} for text in texts]


def filters(*texts, name="SCI") -> list[dict]:
    return [{"EXTNAME": name, "FILTER": text} for text in texts]


@pytest.mark.parametrize(
    "headers, order",
    [
        (names("g", "r", "i"), (1, 2, 3)),
        (names("I", "G", "R"), (2, 3, 1)),
        (names("BAND_R", "ERR_R", "BAND_G", "ERR_G", "MASK", "PSF"), (3, 1)),
        (names("SCI_Z", "WHT_Z", "SCI_Y", "SCI_U"), (4, 1, 3)),
        (names("NIR_H_BGSUB", "VIS_BGSUB", "NIR_Y_BGSUB", "NIR_J_BGSUB", "VIS_PSF", "VIS_RMS"), (2, 3, 4, 1)),
        (names("F160W", "F814W", "F435W", "F105W"), (3, 2, 4, 1)),
        (names("F444W", "F115W", "F277W"), (2, 3, 1)),
        (filters("F606W", "F475W"), (2, 1)),
        (filters("i DECam SDSS c0003 7835.0 1470.0", "g DECam SDSS c0001 4720.0 1520.0"), (2, 1)),
        ([*filters("r"), *filters("r", name="ERR"), *filters("g"), *filters("g", name="ERR")], (3, 1)),
        (filters("broad", "narrow", name=""), (1, 2)),
        (names("BAND_1", "BAND_2", "BAND_3"), (1, 2, 3)),
    ],
)
def test_bands_of_one_lens_are_one_image_by_wavelength(headers, order):
    image, about = read(planes_of(*headers))
    np.testing.assert_array_equal(image, np.ones((len(order), 20, 20)) * np.reshape(order, (-1, 1, 1)))
    places = [int(word) for word in about["note"].replace(",", "").split() if word.isdigit()]
    assert tuple(places) == order and "were taken as bands" in about["note"] and about["pixel_scale"] == 0.1


def test_the_first_hdu_is_a_band_where_its_header_says_so():
    first = fits.PrimaryHDU(np.zeros((20, 20)), fits.Header({"FILTER": "r"}))
    content = io.BytesIO()
    fits.HDUList([first, fits.ImageHDU(np.ones((20, 20)), fits.Header({"FILTER": "g"}))]).writeto(content)
    assert read_image(content.getvalue())[:, 0, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    "file",
    [
        planes_of(*names("SCI", "SCI", "SCI")),
        planes_of(*filters("F814W", "F814W")),
        planes_of(*filters("F814W"), *names("SCI")),
        planes_of(*names("G", "R", "COADD")),
        planes_of(*names("G", "R"), sides=(20, 30)),
        planes_of({"EXTNAME": "G"}, {"EXTNAME": "R", "PIXSCALE": 0.2}),
        planes_of(*names("LENS1_G", "LENS2_R")),
        planes_of(*names("G", "G")),
    ],
)
def test_what_could_be_anything_but_bands_is_refused_with_the_list(file):
    with pytest.raises(ValueError, match=r"[23] extensions could be the image \(1 .*\); choose one with --extension"):
        read_image(file)


def test_one_of_several_bands_is_chosen_by_name_or_filter():
    assert read_image(planes_of(*names("BAND_G", "BAND_R")), "r")[0, 0] == 2
    assert read_image(planes_of(*filters("F814W", "F475W")), "F475W")[0, 0] == 2


def test_a_plain_name_comes_before_one_that_says_more():
    assert read_image(file_of("LENS_IMAGE", "DATA", "MODEL_IMAGE", "SIGNAL_TO_NOISE"))[0, 0] == 2


@pytest.mark.parametrize("other", ["MODEL", "RESID", "SEG", "EXPOSURE", "CHI2", "INVVAR", "SNR", "BKG", "PSF_ERR"])
def test_maps_are_never_the_image(other):
    assert read_image(file_of(other, "G"))[0, 0] == 2
    with pytest.raises(ValueError, match=f"no image among its extensions {other}"):
        read_image(file_of(other))


def test_a_choice_that_no_name_made_is_said():
    def note(content, extension=None):
        with opened(content) as hdus:
            return choice_note(hdus, extension)

    first = np.zeros((8, 8))
    said = "the image of HDU 0 was taken; choose another (1, 2 G) with --extension"
    assert note(file_of("", "G", "ERR", first=first)) == said
    assert note(file_of("", "G", "ERR", first=first), 1) == ""
    assert note(file_of("MASK", "UNCERT", first=first)) == note(file_of("SCI", "OTHER")) == note(file_of("G")) == ""


def packed(content: bytes, kind: str) -> bytes:
    if kind.endswith(".fz"):
        with fits.open(io.BytesIO(content)) as hdus:
            image = fits.CompImageHDU(hdus[1].data, hdus[1].header, compression_type="RICE_1", quantize_level=0)
            new = io.BytesIO()
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(new)
            return new.getvalue()
    return {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(kind, bytes)(content)


@pytest.mark.parametrize("kind", ["", ".gz", ".bz2", ".xz", ".fz"])
@pytest.mark.parametrize("ending", [".fits", ".fit", ".fts"])
def test_a_compressed_file_holds_the_same_image(kind, ending, tmp_path):
    content = io.BytesIO()
    image = np.arange(4096, dtype=np.int32).reshape(64, 64)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI")]).writeto(content)
    file = tmp_path / f"lens{ending}{kind}"
    file.write_bytes(packed(content.getvalue(), kind))
    assert file.name.endswith(SUFFIXES)
    np.testing.assert_array_equal(read_image(file), image)
    np.testing.assert_array_equal(read_image(file.read_bytes()), image)


@pytest.mark.parametrize("kind", [".gz", ".bz2", ".xz"])
def test_what_unpacks_to_too_much_or_is_damaged_is_refused(kind, monkeypatch):
    content = packed(file_of("SCI"), kind)
    with pytest.raises((ValueError, OSError)):
        read_image(content[: len(content) // 2])
    with pytest.raises(ValueError, match="does not begin with SIMPLE"):
        read_image(packed(b"nothing of the kind", kind))
    tracemalloc.start()
    assert read_image(content).shape == (8, 8)
    assert tracemalloc.get_traced_memory()[1] < 2**25, "memory is for what is there"
    tracemalloc.stop()
    monkeypatch.setattr(reading, "UNPACKED_LIMIT", 2**10)
    with pytest.raises(ValueError, match="unpacks to more than 1 GiB"):
        read_image(content)


@pytest.mark.parametrize("values", ["integers", "floats"])
def test_a_tile_that_unpacks_to_more_than_its_pixels_is_refused(values, monkeypatch):
    """In a column of its own where the pixels are floats that no other algorithm packs."""
    image = np.zeros((64, 64), np.int32 if values == "integers" else np.float32)
    kind = "GZIP_1" if values == "integers" else "RICE_1"
    content = io.BytesIO()
    packed_image = fits.CompImageHDU(image, compression_type=kind, tile_shape=(64, 64))
    fits.HDUList([fits.PrimaryHDU(), packed_image]).writeto(content)
    monkeypatch.setattr(reading, "UNPACKED_LIMIT", 2**20)
    np.testing.assert_array_equal(read_image(content.getvalue()), image)
    with fits.open(io.BytesIO(content.getvalue()), disable_image_compression=True) as hdus:
        bomb = np.frombuffer(gzip.compress(bytes(2**22)), np.uint8)
        place = "COMPRESSED_DATA" if values == "integers" else "GZIP_COMPRESSED_DATA"
        columns = [fits.Column(place, f"1PB({len(bomb)})", array=[bomb])]
        columns += [column for column in hdus[1].columns if column.name != place]
        table = fits.BinTableHDU.from_columns(columns, hdus[1].header)
        content = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(content)
    with pytest.raises(ValueError, match="a compressed tile unpacks to more than its pixels"):
        read_image(content.getvalue())


@pytest.mark.parametrize("names", [[], ["SCI"]], ids=["the first header", "a later one"])
def test_a_header_that_lacks_a_card_is_told_with_its_name(names):
    content = file_of(*names, first=np.zeros((8, 8)))
    before, card, after = content.rpartition(b"NAXIS   =                    ")
    damaged = before + card + after.replace(b"2", b"3", 1)
    with pytest.raises(ValueError, match="^a header lacks the card NAXIS3, without which its pixels cannot be read$"):
        read_image(damaged)
