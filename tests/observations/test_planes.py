"""Noise, PSF and mask beside an image, or the lack of them, each as instruments and codes write it."""

import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.dataset import DataError
from lensstudy.observations.reading import read_observation, read_observations
from tests.observations.images import gaussian, noise_image, write_fits

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
    found, rejected = read_observations(tmp_path, mask_bits=[0, 1])
    assert len(found) == 1 and not rejected
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
