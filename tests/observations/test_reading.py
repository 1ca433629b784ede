"""What observations come with, or without: noise, PSF, mask, several HDUs; each as instruments and codes write it."""

import io

import h5py
import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import read_observation, read_observations


def noise_image(size=40, seed=0):
    return np.random.default_rng(seed).normal(0, 1.0, (size, size))


def write_fits(file, array, **header):
    fits.PrimaryHDU(array, fits.Header(header)).writeto(file)
    return file


# Noise where it is not written down


def footprint(kind: str, size=96) -> np.ndarray:
    """Where a cutout holds data: a chip's edge, a drizzled square that stands on its corner, a round stamp, a hole."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return {
        "all": np.ones((size, size), bool),
        "one side": x > -30,
        "three sides": (x > -30) & (np.abs(y) < 33),
        "one row": y > -size / 2 + 1,
        "square on its corner": np.abs(x) + np.abs(y) < 60,
        "circle": np.hypot(x, y) < 40,
        "hole": np.hypot(x - 5, y) > 8,
    }[kind]


@pytest.mark.parametrize("empty", [np.nan, np.inf, 0.0, -99.0])
@pytest.mark.parametrize("kind", ["all", "one side", "three sides", "one row", "square on its corner", "circle"])
def test_noise_is_estimated_where_there_is_an_image(tmp_path, kind, empty):
    image = 0.3 + 2.5 * noise_image(96, seed=4)
    there = footprint(kind)
    one = read_observation(write_fits(tmp_path / "lens.fits", np.where(there, image, empty), PIXSCALE=0.1))
    assert one.noise[0, 0] == pytest.approx(2.5, rel=0.06)
    np.testing.assert_array_equal(one.mask, ~there)


@pytest.mark.parametrize("counts", [1.0, 5.0, 40.0])
def test_zeros_among_counted_photons_are_values(tmp_path, counts):
    image = np.random.default_rng(1).poisson(counts, (64, 64)).astype(float)
    one = read_observation(write_fits(tmp_path / "lens.fits", image, PIXSCALE=0.1))
    assert not one.mask.any() and one.noise[0, 0] == pytest.approx(np.sqrt(counts), rel=0.3)


def test_a_hole_inside_is_no_side(tmp_path):
    """Its surroundings are bright: what lies there says nothing of the sky."""
    y, x = np.mgrid[:96, :96] - 47.5
    image = noise_image(96) + np.where(np.hypot(x, y) < 15, 500 * noise_image(96, seed=2), 0)
    image[~footprint("hole")] = np.nan
    one = read_observation(write_fits(tmp_path / "lens.fits", image, PIXSCALE=0.1))
    assert one.noise[0, 0] == pytest.approx(1, rel=0.06)


def test_zeros_with_a_noise_map_are_what_the_map_says(tmp_path):
    image = noise_image()
    image[:8] = 0
    write_fits(tmp_path / "data.fits", image, PIXSCALE=0.1)
    write_fits(tmp_path / "noise_map.fits", np.ones((40, 40)))
    assert not read_observation(tmp_path).mask.any()


@pytest.mark.parametrize(
    ("name", "power", "unit", "header", "said"),
    [
        ("ERR", 1, 1.0, {}, ""),
        ("RMS", 1, 1.0, {}, ""),
        ("STD", 1, 1.0, {}, ""),
        ("UNCERT", 1, 1.0, {"UTYPE": "StdDevUncertainty"}, ""),
        ("UNCERT", 2, 1.0, {"UTYPE": "VarianceUncertainty"}, "the square root of the variance"),
        ("UNCERT", -2, 1.0, {"UTYPE": "InverseVariance"}, "one over the square root of the inverse variance"),
        ("VARIANCE", 2, 1.0, {}, "the square root of the variance"),
        ("IVAR", -2, 1.0, {}, "one over the square root of the inverse variance"),
        ("INVVAR", -2, 1.0, {}, "one over the square root of the inverse variance"),
        ("WHT", -2, 1.0, {}, "as the noise at the border confirms"),
        ("WHT", -2, 550.0, {}, "the noise at the border says what their unit does not"),
        ("WHT", 2, 1.0, {}, "which the noise at the border shows to be variances"),
        ("wt", 2, 1.0, {}, "the square root of the variance"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_what_stands_for_the_noise_becomes_it(tmp_path, name, power, unit, header, said, beside):
    """As an extension and as a file beside the image, whose noise is 0.5 in the lower half and 1.0 in the upper one."""
    noise = np.repeat([0.5, 1.0], 32)[:, None] * np.ones((64, 64))
    values = unit * noise**power
    values[0, 0] = 0 if power < 0 else np.nan
    main = fits.PrimaryHDU(noise * noise_image(64), fits.Header({"PIXSCALE": 0.1}))
    other = fits.ImageHDU(values, fits.Header(header), name="" if beside else name)
    fits.HDUList([main] if beside else [main, other]).writeto(tmp_path / "J1.fits")
    if beside:
        fits.PrimaryHDU(values, fits.Header(header)).writeto(tmp_path / f"J1_{name.lower()}.fits")
    one = read_observation(tmp_path)
    tolerance = 1e-6 if unit == 1 else 0.06
    assert one.noise[5, 5] == pytest.approx(0.5, rel=tolerance)
    assert one.noise[40, 5] == pytest.approx(1.0, rel=tolerance)
    assert np.argwhere(one.mask).tolist() == [[0, 0]]
    notes = [note for note in one.notes if note.startswith("noise: ")]
    assert len(notes) == bool(said) and all(said in note for note in notes)


def test_a_noise_map_comes_before_weights(tmp_path):
    planes = {"SCI": noise_image(), "WHT": np.full((40, 40), 7.0), "VARIANCE": np.full((40, 40), 9.0)}
    planes |= {"ERR": np.full((40, 40), 1.5), "SNR": np.full((40, 40), 5.0), "MODEL": noise_image()}
    units = [fits.PrimaryHDU(), *(fits.ImageHDU(array, name=name) for name, array in planes.items())]
    units[1].header["PIXSCALE"] = 0.1
    fits.HDUList(units).writeto(tmp_path / "lens.fits")
    assert (read_observation(tmp_path / "lens.fits").noise == 1.5).all()


# PSFs


def gaussian(size, row, column, sigma=1.6):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))


@pytest.mark.parametrize(
    ("size", "row", "column", "said"),
    [
        ((20, 20), 9.5, 9.5, True),
        ((24, 24), 12.0, 12.0, True),
        ((24, 24), 11.0, 11.0, True),
        ((21, 21), 10.0, 10.0, False),
        ((21, 21), 9.5, 10.5, True),
        ((21, 21), 10.3, 10.0, True),
        ((25, 31), 12.0, 15.0, False),
        ((22, 25), 10.5, 12.0, True),
        ((26, 26), 12.15, 12.85, True),
        ((41, 41), 17.4, 22.0, True),
        ((1, 20, 20), 9.5, 9.5, True),
    ],
)
def test_the_middle_of_a_psf_is_its_centre_of_light(tmp_path, size, row, column, said):
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "noise_map.fits", np.ones((40, 40)))
    write_fits(tmp_path / "psf.fits", 7 * gaussian(size[-2:], row, column).reshape(size))
    one = read_observation(tmp_path)
    height, width = one.psf.shape
    assert height % 2 and width % 2 and one.psf.sum() == pytest.approx(1)
    expected = gaussian(one.psf.shape, height // 2, width // 2)
    np.testing.assert_allclose(one.psf, expected / expected.sum(), atol=0.02 * one.psf.max())
    y, x = np.indices(one.psf.shape)
    assert (one.psf * y).sum() == pytest.approx(height // 2, abs=0.05)
    assert (one.psf * x).sum() == pytest.approx(width // 2, abs=0.05)
    assert [note[:6] for note in one.notes] == ["PSF of"] * said


def test_an_asymmetric_psf_of_odd_size_stays_as_it_is(tmp_path):
    psf = gaussian((21, 21), 10, 10) + 0.05 * gaussian((21, 21), 12, 13)
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "psf.fits", psf)
    np.testing.assert_allclose(read_observation(tmp_path).psf, psf / psf.sum())


def test_a_psf_in_other_pixels_is_said(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "psf.fits", gaussian((21, 21), 10, 10), PIXELSCL=0.025)
    (note,) = [note for note in read_observation(tmp_path).notes if "PSF" in note]
    assert note == "the PSF's header says 0.025 arcsec a pixel, the image's 0.1: taken as the image's"


# Masks


def exposure(file, mask, variance=4.0, **header):
    """As HSC and LSST write one: image, planes of bits, variance."""
    units = [fits.PrimaryHDU(), fits.ImageHDU(noise_image(len(mask)), name="IMAGE")]
    units += [fits.ImageHDU(mask, fits.Header(header), name="MASK")]
    units += [fits.ImageHDU(np.full(mask.shape, variance), name="VARIANCE")]
    units[1].header["PIXSCALE"] = 0.168
    fits.HDUList(units).writeto(file)
    return file


PLANES = {"MP_BAD": 0, "MP_SAT": 1, "HIERARCH MP_NO_DATA": 8, "HIERARCH MP_DETECTED": 5, "HIERARCH MP_BRIGHT_OBJECT": 9}


@pytest.mark.parametrize("kind", [np.int32, np.int16, np.int64, np.float32])
def test_planes_of_defects_mask_and_detections_do_not(tmp_path, kind):
    mask = np.full((40, 40), 1 << 5, kind)
    mask[0, 0], mask[1, 1], mask[2, 2], mask[3, 3] = 1, 2 + 32, 256, 512
    one = read_observation(exposure(tmp_path / "lens.fits", mask, **PLANES))
    assert np.argwhere(one.mask).tolist() == [[0, 0], [1, 1], [2, 2]] and (one.noise == 2).all()
    assert "masked by the planes BAD, SAT, NO_DATA; not by DETECTED, BRIGHT_OBJECT" in one.notes


def test_the_numbers_of_the_planes_are_the_headers(tmp_path):
    mask = np.zeros((40, 40), np.int32)
    mask[4, 4], mask[5, 5] = 1, 8
    other = {"HIERARCH MP_DETECTED": 0, "MP_CR": 3}
    assert np.argwhere(read_observation(exposure(tmp_path / "lens.fits", mask, **other)).mask).tolist() == [[5, 5]]


def test_bits_without_names_are_asked_for(tmp_path):
    mask = np.zeros((40, 40), np.int32)
    mask[10:30, 10:30], mask[4, 4] = 32, 2
    file = exposure(tmp_path / "lens.fits", mask)
    with pytest.raises(DataError, match=r"mask of bits .values up to 32.*mask_bits=\[0, 1\]"):
        read_observation(file)
    assert np.argwhere(read_observation(file, mask_bits=[1]).mask).tolist() == [[4, 4]]
    assert not read_observation(file, mask_bits=[]).mask.any()
    found, refused = read_observations(tmp_path, mask_bits=[0, 1])
    assert len(found) == 1 and not refused
    for wrong in ([-1], [64], ["BAD"]):
        with pytest.raises(DataError, match="expected numbers from 0 to 62"):
            read_observation(file, mask_bits=wrong)


@pytest.mark.parametrize("value", [np.uint8(1), np.uint8(255), np.int16(1), np.float32(1)])
def test_a_mask_of_two_values_is_one(tmp_path, value):
    mask = np.zeros((40, 40), value.dtype)
    mask[3, 4] = value
    assert np.argwhere(read_observation(exposure(tmp_path / "lens.fits", mask)).mask).tolist() == [[3, 4]]


def test_bits_are_asked_of_masks_of_bits_alone(tmp_path):
    """A folder can hold a mask of 0 and 1 too, and planes with names from which others shall count."""
    plain = np.zeros((40, 40), np.float32)
    plain[3, 4] = 1
    bits = np.zeros((40, 40), np.int32)
    bits[5, 6], bits[7, 8] = 1 << 5, 1
    exposure(tmp_path / "plain.fits", plain)
    exposure(tmp_path / "planes.fits", bits, **PLANES)
    found = {one.name: np.argwhere(one.mask).tolist() for one in read_observations(tmp_path, mask_bits=[np.int8(5)])[0]}
    assert found == {"plain": [[3, 4]], "planes": [[5, 6]]}


def test_a_mask_of_other_numbers_is_refused(tmp_path):
    with pytest.raises(DataError, match="a mask with values from -.*; expected 0 and 1, or bits"):
        read_observation(exposure(tmp_path / "lens.fits", noise_image()))


# Everything in one file


def test_image_noise_psf_and_mask_in_one_file_and_what_is_of_no_known_kind_is_said(tmp_path):
    """As PyAutoLens writes them; the axis of length one is that of radio images."""
    mask = np.zeros((40, 40))
    mask[:3] = 1
    planes = {"DATA": noise_image(), "NOISE_MAP": np.full((1, 40, 40), 0.7), "PSF": gaussian((11, 11), 5, 5)}
    planes |= {"OVER_SAMPLE_SIZE_LP": np.full((40, 40), 4), "OVER_SAMPLE_SIZE_PIXELIZATION": np.full((40, 40), 2)}
    units = [fits.PrimaryHDU(mask), *(fits.ImageHDU(array, name=name) for name, array in planes.items())]
    units[0].name = "MASK"
    fits.HDUList(units).writeto(tmp_path / "dataset.fits")
    one = read_observation(tmp_path / "dataset.fits", pixel_scale=0.05)
    np.testing.assert_array_equal(np.where(one.mask, planes["DATA"], one.image), planes["DATA"])
    assert (one.noise == 0.7).all() and one.mask[:3].all() and not one.mask[3:].any() and one.psf.shape == (11, 11)
    assert one.band == "" and one.notes == (
        "extensions of an unknown kind are not used: OVER_SAMPLE_SIZE_LP, OVER_SAMPLE_SIZE_PIXELIZATION",
    )


def test_a_psf_and_a_mask_can_be_meant_for_all_bands(tmp_path):
    units = [fits.PrimaryHDU(), fits.ImageHDU(gaussian((5, 5), 2, 2), name="PSF")]
    units += [fits.ImageHDU(noise_image(), name=name) for name in ("G_SCI", "R_SCI")]
    units += [fits.ImageHDU(gaussian((7, 7), 3, 3), name="R_PSF")]
    units[0].header["PIXSCALE"] = 0.1
    fits.HDUList(units).writeto(tmp_path / "lens.fits")
    assert {one.band: one.psf.shape for one in read_observations(tmp_path)[0]} == {"G": (5, 5), "R": (7, 7)}


@pytest.mark.parametrize("shape", [(1, 40, 40), (1, 1, 40, 40), (40, 40, 1), (40, 1, 40)])
def test_axes_of_length_one_are_none(tmp_path, shape):
    image = noise_image()
    one = read_observation(write_fits(tmp_path / "lens.fits", image.reshape(shape), PIXSCALE=0.1))
    np.testing.assert_array_equal(one.image, image)


def test_images_without_names_are_asked_for(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(noise_image()) for _ in range(8))]).writeto(tmp_path / "lens.fits")
    with pytest.raises(DataError, match=r"8 extensions could be the image \(1, 2, .*name them by EXTNAME"):
        read_observation(tmp_path, pixel_scale=0.1)


def test_of_two_chips_none_is_taken_by_chance(tmp_path):
    units = [fits.PrimaryHDU()]
    units += [fits.ImageHDU(noise_image(), name=name) for name in ("SCI", "ERR", "SCI", "ERR")]
    fits.HDUList(units).writeto(tmp_path / "lens_flt.fits")
    with pytest.raises(DataError, match=r"2 extensions could be the image \(1 SCI, 3 SCI\)"):
        read_observation(tmp_path, pixel_scale=0.1)


def test_companions_of_every_kind_are_no_observations(tmp_path):
    for name in ("J1", "J2"):
        write_fits(tmp_path / f"{name}.fits", noise_image(), PIXSCALE=0.1)
    for name in ("J1_model", "J1_exp", "J1Depth", "J2_bkg", "J2_chi2", "seg"):
        write_fits(tmp_path / f"{name}.fits", noise_image(seed=9))
    write_fits(tmp_path / "J2NoiseMap.fits", np.full((40, 40), 3.0))
    found, refused = read_observations(tmp_path)
    assert {one.name: one.noise[0, 0] == 3 for one in found} == {"J1": False, "J2": True} and not refused


def test_files_called_model_are_images_where_nothing_else_is(tmp_path):
    for number in (1, 2):
        write_fits(tmp_path / f"model_{number}.fits", noise_image(), PIXSCALE=0.1)
    found, refused = read_observations(tmp_path)
    assert [one.name for one in found] == ["model_1", "model_2"] and not refused


def test_a_compressed_image_and_its_compressed_noise_map(tmp_path):
    write_fits(tmp_path / "J1.fits.gz", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "J1_rms.fits.bz2", np.full((40, 40), 2.0))
    one = read_observation(tmp_path)
    assert one.name == "J1" and (one.noise == 2).all()


@pytest.mark.parametrize("name", ["[lens]", "{a,b}", "O'Neill", "$HOME", "~", "50% [x] {y} 'z'"])
def test_a_folder_may_have_any_name(tmp_path, name, monkeypatch):
    (tmp_path / name).mkdir()
    write_fits(tmp_path / name / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / name / "noise_map.fits", np.full((40, 40), 2.0))
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name, f"{name}/data.fits"):
        assert (read_observation(path).noise == 2).all()


# Damage


def test_a_scale_that_is_none_is_named_and_a_given_one_counts(tmp_path):
    file = write_fits(tmp_path / "lens.fits", noise_image(), PIXSCALE="coarse")
    with pytest.raises(DataError, match="lens.fits: PIXSCALE = 'coarse'; .* or pass .*pixel_scale=0.05"):
        read_observation(file)
    assert read_observation(file, pixel_scale=0.05).pixel_scale == 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_an_error_with_the_name_of_the_file(tmp_path, seed):
    """Cut anywhere, or with five bytes of a header changed: read as it is, or named."""
    generator = np.random.default_rng(seed)
    units = [fits.PrimaryHDU(noise_image()), fits.ImageHDU(np.ones((40, 40)), name="ERR")]
    units[0].header["PIXSCALE"] = 0.1
    for name in ("J1.fits", "J1_psf.fits"):
        content = io.BytesIO()
        fits.HDUList(units).writeto(content)
        damaged = bytearray(content.getvalue())
        if seed % 2:
            damaged = damaged[: generator.integers(len(damaged))]
        else:
            for place in generator.integers(2880, size=5):
                damaged[place] = generator.integers(32, 127)
        (tmp_path / name).write_bytes(damaged)
    try:
        assert read_observation(tmp_path).image.shape == (40, 40)
    except DataError as error:
        assert "J1" in str(error)


@pytest.mark.parametrize("kind", ["a link", "a group", "text", "numbers elsewhere"])
@pytest.mark.parametrize("name", ["image_data", "kernel_point_source"])
def test_what_is_no_array_of_an_hdf5_file_is_named(tmp_path, kind, name):
    (tmp_path / "raw").write_bytes(bytes(8 * 40 * 40))
    write_fits(tmp_path / "psf_other.fits", noise_image())
    with h5py.File(tmp_path / "image_lens.h5", "w") as image, h5py.File(tmp_path / "psf_lens.h5", "w") as psf:
        image["transform_pix2angle"] = [[0.1, 0], [0, 0.1]]
        for file, key in ((image, "image_data"), (psf, "kernel_point_source")):
            if key != name:
                file[key] = noise_image(21)
            elif kind == "a link":
                file[key] = h5py.ExternalLink(str(tmp_path / "other.h5"), "image")
            elif kind == "a group":
                file.create_group(key)
            elif kind == "text":
                file[key] = "an image"
            else:
                file.create_dataset(key, (40, 40), "f8", external=[(str(tmp_path / "raw"), 0, 8 * 40 * 40)])
    where = "image_lens.h5" if name == "image_data" else "psf_lens.h5"
    with pytest.raises(DataError, match=f"{where}: .*(no array of the file|expected numbers|from other files)"):
        read_observation(tmp_path / "image_lens.h5")
