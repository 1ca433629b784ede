"""FITS files: which of their HDUs is the image, its pixels, and the arcseconds of one pixel.

Every FITS file of a data set or an observation is opened here, within limits on what it may unpack to. An HDU's name
says what it holds, in the words of `companions.ROLES`: noise maps, masks and PSFs are never taken for the image.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lensstudy.data.companions import COMPRESSED, role_and_key, says_image
from lensstudy.data.dataset import SCALE_TOLERANCE
from lensstudy.data.scale import header_scale
from lensstudy.files import regular

__all__ = [
    "SUFFIXES",
    "bands",
    "bands_of_one",
    "choice_note",
    "contents",
    "image_index",
    "opened",
    "pixels",
    "read_image",
]

SUFFIXES = tuple(kind + packed for kind in (".fits", ".fit", ".fts") for packed in ("", *COMPRESSED)) + (".fz",)
UNPACKERS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}  # by their start
UNPACKED_LIMIT = 2**30  # bytes
PIECE = 2**20  # bytes that are unpacked at a time
DEFLATE_MOST = 1032  # times its size that gzip unpacks to
HDU_LIMIT = 1000
MOST_BANDS = 12  # of one image (`formats.BANDS`)
FILTERS = ("FILTER", "FILTER1", "FILTER2", "FILTNAM1", "BAND")  # header cards that say the band
BAND_WORDS = ("band", "filter", "filt", "nir")  # words beside a band in the name of an extension
WAVELENGTHS = {"u": 355, "b": 440, "g": 480, "v": 550, "r": 620, "vis": 710, "i": 770, "z": 900, "y": 1000}  # nm
WAVELENGTHS |= {"j": 1250, "h": 1650, "k": 2200, "ks": 2150}
HUBBLE = re.compile(r"f(\d{3,4})(?:[wmnx]|lp|w2)")  # F814W at 814 nm, and F160W at 1600
# Names of James Webb's camera that would be taken for Hubble's: F444W is at 4440 nm.
NIRCAM = "f200w f210m f212n f250m f277w f300m f322w2 f323n f335m f356w f360m f405n f430m f444w f460m f466n f470n f480m"


def opened(content: bytes | Path):
    """Open a FITS file, given as its bytes or its path, as astropy's list of HDUs (a context manager).

    astropy unpacks whatever is compressed, to any size; here gzip, bzip2 and xz are, up to `UNPACKED_LIMIT`. Raises
    `ValueError` for anything else.
    """
    from astropy.io import fits

    with io.BytesIO(content) if isinstance(content, bytes) else open(regular(content), "rb") as file:
        start = file.read(6)
        file.seek(0)
        if unpacker := UNPACKERS.get(start[:2]):
            try:
                with unpacker(file) as unpacked:
                    pieces = iter(lambda: unpacked.read(PIECE), b"")
                    content = b"".join(itertools.islice(pieces, UNPACKED_LIMIT // PIECE + 1))
            except (EOFError, lzma.LZMAError, zlib.error) as error:
                raise ValueError(f"the compressed file is damaged ({error})") from None
            if len(content) > UNPACKED_LIMIT:
                raise ValueError("unpacks to more than 1 GiB; unpack it if you trust it")
            start = content[:6]
        if start != b"SIMPLE":
            raise ValueError("not a FITS file: it does not begin with SIMPLE")
    content = content if isinstance(content, bytes) else content.absolute()  # or astropy takes a folder ~ for home
    _check_tiles(content)
    try:
        hdus = fits.open(io.BytesIO(content) if isinstance(content, bytes) else content, memmap=False)
        with contextlib.suppress(IndexError):
            _ = hdus[HDU_LIMIT]
            hdus.close()
            raise ValueError(f"more than {HDU_LIMIT:,} HDUs; expected a FITS file of images")
    except KeyError as error:
        card = str(error.args[0]).removeprefix("Keyword '").removesuffix("' not found.")
        raise ValueError(f"a header lacks the card {card}, without which its pixels cannot be read") from None
    return hdus


def _check_tiles(content: bytes | Path) -> None:
    """Raise `ValueError` where a tile of an image that is packed by gzip inside a FITS file unpacks to more than its
    pixels, which astropy would unpack whole. A small file cannot reach the limit."""
    from astropy.io import fits

    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size * DEFLATE_MOST < UNPACKED_LIMIT:
        return
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    with fits.open(file, memmap=False, disable_image_compression=True) as hdus:
        for hdu in itertools.islice(hdus, 1, HDU_LIMIT):
            if not hdu.header.get("ZIMAGE"):
                continue
            sides = [hdu.header.get(f"ZTILE{i}", 1 if i > 1 else hdu.header["ZNAXIS1"]) for i in (1, 2, 3)]
            largest = min(8 * math.prod(sides), UNPACKED_LIMIT)
            names = {"GZIP_COMPRESSED_DATA"}
            names |= {"COMPRESSED_DATA"} if "GZIP" in hdu.header["ZCMPTYPE"] else set()
            for tile in itertools.chain(*(hdu.data[name] for name in names & set(hdu.columns.names))):
                if len(zlib.decompressobj(31).decompress(bytes(tile), largest + 1)) > largest:
                    raise ValueError("a compressed tile unpacks to more than its pixels; unpack it if you trust it")


def image_index(hdus, extension: str | int | None = None) -> int:
    """Place of the image among HDUs.

    Args:
        hdus: an open FITS file.
        extension: name or number of the HDU that is asked for, or the band in its name (`VIS` for `VIS_BGSUB`).

    Returns:
        That of `extension`, else the one whose name says image (`SCI`, `VIS_FLUX`), else the first HDU, else the only
        one that is no noise map, PSF, mask or weight.

    Raises:
        ValueError: none or several could be; they are listed.
    """
    planes = _planes(hdus)
    if extension is not None:
        try:
            return range(len(hdus))[hdus.index_of(extension)]
        except (KeyError, IndexError):
            band = tuple(re.split(r"[_. -]+", str(extension).lower()))
            of_band = [i for i, name in planes.items() if role_and_key(name) == ("image", band)]
            of_band = of_band or [i for i in _images(planes) if _band(hdus[i])[1] == str(extension).strip().lower()]
            if len(of_band) == 1:
                return of_band[0]
            known = ", ".join(name or str(i) for i, name in planes.items())
            raise ValueError(f"no FITS extension '{extension}'; there are {known}") from None
    if not planes:
        raise ValueError("a FITS file without an image")
    images = _images(planes)
    if not images:
        raise ValueError(f"no image among its extensions {', '.join(planes.values())}; choose one with --extension")
    if 0 in images and not says_image(next(iter(images.values()))):
        return 0
    if len(images) == 1:
        return next(iter(images))
    raise ValueError(f"{len(images)} extensions could be the image ({_listed(images)}); choose one with --extension")


def choice_note(hdus, extension: str | int | None = None) -> str:
    """What to say of a file whose image was chosen from several that could be it: the bands that were taken, or the
    first HDU, with images beside it that no name tells from it. Empty where nothing had to be chosen."""
    if extension is None and (taken := bands_of_one(hdus)):
        which = _listed({i: f"{hdus[i].name} ({band})" for i, band in taken.items()})
        return f"extensions {which} were taken as bands, in this order; choose one with --extension"
    others = _images(_planes(hdus)) if extension is None else {}
    if len(others) < 2:
        return ""
    taken = image_index(hdus)
    others.pop(taken)
    return f"the image of HDU {taken} was taken; choose another ({_listed(others)}) with --extension"


def bands_of_one(hdus) -> dict[int, str]:
    """Which images of a FITS file are the bands of one lens, and their names.

    Args:
        hdus: an open FITS file.

    Returns:
        Place and band of each HDU that could be the image, where each names another band by its name (`R`, `BAND_G`,
        `SCI_F814W`) or in its header (`FILTER`), and all have one size and pixel scale; by wavelength where that of all
        is known, else as in the file. Empty where they could be anything else.
    """
    images = _images(_planes(hdus))
    if not 2 <= len(images) <= MOST_BANDS:
        return {}
    rests, names = zip(*(_band(hdus[i]) for i in images), strict=True)
    sizes = {tuple(side for side in hdus[i].shape if side > 1) for i in images}
    if not all(names) or len(set(names)) < len(names) or len(set(rests)) > 1 or len(sizes) > 1 or len(min(sizes)) != 2:
        return {}
    scales = {header_scale(hdus[i].header, hdus[0].header) or 0.0 for i in images}
    if max(scales) - min(scales) > SCALE_TOLERANCE * min(scales):
        return {}
    webb = any("JWST" in str(hdus[i].header.get("TELESCOP", "")).upper() for i in (0, *images))
    lengths = [_wavelength(name, webb) for name in names]
    found = list(zip(images, names, strict=True))
    if all(lengths):
        found = [one for _, one in sorted(zip(lengths, found, strict=True))]
    return dict(found)


def _band(hdu) -> tuple[tuple[str, ...], str]:
    """What the name of an HDU says beside its band, and the band in small letters, empty where neither its name nor its
    header says one."""
    words = _key(hdu.name)
    rest = tuple(word for word in words if word not in BAND_WORDS)
    known = [word for word in rest if _wavelength(word)] or (list(rest) if len(rest) == 1 and rest != words else [])
    if len(known) == 1:
        return tuple(word for word in rest if word != known[0]), known[0]
    said = (str(hdu.header.get(card, "")).strip().lower() for card in FILTERS)
    text = next((text for text in said if text and not text.startswith("clear")), "")
    known = [word for word in re.split(r"[^a-z0-9]+", text) if _wavelength(word)]
    return words, known[0] if len(known) == 1 else text


def _wavelength(band: str, webb: bool = False) -> int:
    """That of a band in nm, 0 where it is unknown."""
    if number := HUBBLE.fullmatch(band):
        nanometres = int(number[1])
        return nanometres * (10 if nanometres < 200 or webb or band in NIRCAM.split() else 1)
    return WAVELENGTHS.get(band, 0)


def bands(hdus) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Say what belongs together in a FITS file.

    Args:
        hdus: an open FITS file.

    Returns:
        By the name of each band, empty where there is one without, the place of its image, noise map, PSF, ... by their
        role (`companions.ROLES`); and the names of the HDUs that could not be told and belong to no band.

    Raises:
        ValueError: none could be an image, or several of the same name.
    """
    planes = _planes(hdus)
    images = _images(planes)
    if 0 in images and not any(map(says_image, images.values())):
        images = {0: images[0]}
    if not images:
        raise ValueError(f"no image among its extensions ({_listed(planes) or 'none'})")
    keys = {i: _key(name) for i, name in images.items()}
    if len(set(keys.values())) < len(keys):
        raise ValueError(
            f"{len(images)} extensions could be the image ({_listed(images)}); name them by EXTNAME (G_FLUX, G_RMS)"
        )
    found = {"_".join(key).upper(): {"image": i} for i, key in keys.items()}
    for i, name in sorted(planes.items(), key=lambda one: not _key(one[1])):  # what is meant for all bands comes last
        role, key = role_and_key(name)[0], _key(name)
        for band in ("_".join(key).upper(),) if key in keys.values() else found if not key else ():
            if role not in ("image", "other"):
                found[band].setdefault(role, i)
    unknown = [name or str(i) for i, name in planes.items() if i not in images and role_and_key(name)[0] == "image"]
    return found, unknown


def _key(name: str) -> tuple[str, ...]:
    return () if name == "PRIMARY" else role_and_key(name)[1]


def _planes(hdus) -> dict[int, str]:
    """Numbers and names of the HDUs with an image."""
    return {i: hdu.name for i, hdu in enumerate(hdus) if hdu.is_image and hdu.header["NAXIS"] >= 2}


def _images(planes: dict[int, str]) -> dict[int, str]:
    """Those that could be the image: whose names say so, of these the ones that say nothing else; without such names
    all that are no noise map, PSF, mask or weight."""
    images = {i: name for i, name in planes.items() if role_and_key(name)[0] == "image"}
    named = {i: name for i, name in images.items() if says_image(name)}
    plain = {i: name for i, name in named.items() if not role_and_key(name)[1]}
    return plain or named or images


def _listed(planes: dict[int, str]) -> str:
    return ", ".join(f"{i} {name}".strip() for i, name in planes.items())


def pixels(hdu) -> np.ndarray:
    """The array of an HDU; `ValueError` for a compressed one that unpacks to more than the limit."""
    from astropy.io.fits import CompImageHDU

    if isinstance(hdu, CompImageHDU):
        number = max(int(np.prod(shape, dtype=object)) for shape in (hdu.shape, hdu.tile_shape))
        if number * abs(hdu.header["BITPIX"]) // 8 > UNPACKED_LIMIT:
            raise ValueError("more than 1 GiB in one compressed image; store it as .npy")
    return np.asarray(hdu.data)


def read_image(content: bytes | Path, extension: str | int | None = None) -> tuple[np.ndarray, dict]:
    """Pixels of the image in a FITS file, as `image_index` chooses it, with several bands `(C, H, W)` as
    `bands_of_one` finds them, or the images in the cells of a table where there are only tables; and its `pixel_scale`
    in arcsec and a `note` on the choice, where there are such."""
    with opened(content) as hdus:
        if not _planes(hdus):
            return _cells(hdus, extension), {}
        several = {} if extension is not None else bands_of_one(hdus)
        places = list(several) or [image_index(hdus, extension)]
        scale = header_scale(hdus[places[0]].header, hdus[0].header)
        about = {"pixel_scale": scale, "note": choice_note(hdus, extension)}
        planes = [pixels(hdus[place]) for place in places]
        image = np.stack([plane.squeeze() for plane in planes]) if several else planes[0]
        return image, {key: value for key, value in about.items() if value}


def _cells(hdus, extension: str | int | None) -> np.ndarray:
    """The images in one column of a table, a row each: that called `extension`, or the only one with images."""
    found: dict[str, np.ndarray] = {}
    for hdu in hdus:
        for column in getattr(hdu, "columns", ()):
            cells = [np.asarray(cell) for cell in hdu.data[column.name]]
            sides = {math.isqrt(cell.size) for cell in cells}
            square = len(sides) == 1 and all(cell.size == min(sides) ** 2 > 16 for cell in cells)
            if cells and cells[0].dtype.kind in "iuf" and (cells[0].ndim >= 2 or square):
                shape = cells[0].shape if cells[0].ndim >= 2 else (min(sides), min(sides))
                found[column.name] = np.stack([cell.reshape(shape) for cell in cells])[:, None]
    if extension is not None and extension in found:
        return found[str(extension)]
    images = {name: cells for name, cells in found.items() if role_and_key(name)[0] == "image"}
    found = images if extension is None and images else found  # a PSF in the next column is none
    if len(found) != 1:
        known = ", ".join(found) or "none"
        raise ValueError(f"a FITS file without an image; columns with images: {known}; choose one with --extension")
    return next(iter(found.values()))


def contents(content: bytes | Path) -> list[str]:
    """HDUs of a FITS file, each with its number, name and shape; none of a damaged one, which reading reports."""
    try:
        with opened(content) as hdus:
            shapes = ["x".join(map(str, hdu.shape)) or "empty" if hdu.is_image else "table" for hdu in hdus]
            return [
                f"{i} {hdu.name or '(no name)'} {shape}"
                for i, (hdu, shape) in enumerate(zip(hdus, shapes, strict=True))
            ]
    except Exception:  # whatever a damaged file makes astropy raise
        return []
