"""The pixel scale, however a header or an attribute says it; 0.05 arcsec in every case that says one."""

import h5py
import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.scale import hdf5_scale, header_scale

TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
MATRIX = {"CD1_1": -0.05 / 3600, "CD2_2": 0.05 / 3600}


@pytest.mark.parametrize("value", ["-0.05", "inf", "0.05 pc", -0.05, True])
def test_a_scale_that_is_no_positive_angle_is_named(value):
    with pytest.raises(ValueError, match="PIXSCALE = .*; expected a number of arcseconds"):
        header_scale(fits.Header({"PIXSCALE": value}))


def test_a_scale_that_is_no_angle_is_named():
    with pytest.raises(ValueError, match="PIXSCALE = 'fine'; expected a number of arcseconds"):
        header_scale(fits.Header({"PIXSCALE": "fine"}))


@pytest.mark.parametrize("key", ["CD1_1", "PC2_2", "CDELT1"])
def test_a_coordinate_that_is_no_number_is_named(key):
    with pytest.raises(ValueError, match=f"{key} = 'wide'; expected a number"):
        header_scale(fits.Header({"CDELT1": 1e-5, "CDELT2": 1e-5, key: "wide"}))


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        (MATRIX, 0.05),
        (TAN | MATRIX, 0.05),
        (TAN | MATRIX | {"CPDIS1": "LOOKUP"}, 0.05),
        (TAN | MATRIX | {"A_ORDER": 2}, 0.05),
        (TAN | {"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CDELT1": -0.05, "CDELT2": 0.05}, 0.05),
        (TAN | {"PIXSCALE": 0.1}, 0.1),
        (TAN, None),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CD1_1": 1.0, "CD2_2": 1.0, "PIXSCALE": 0.1}, 0.1),
        ({}, None),
        ({"CD1_2": 0.05 / 3600, "CD2_1": 0.05 / 3600}, 0.05),
        (TAN | {"CD1_2": 0.05 / 3600, "CD2_1": 0.05 / 3600}, 0.05),
        (TAN | {"PC1_1": -0.05 / 3600, "PC2_2": 0.05 / 3600}, 0.05),
        ({"CD1_1": -0.05, "CD2_2": 0.05}, 0.05),
        ({"CDELT1": 0.05, "CDELT2": 0.05, "CUNIT1": "arcsec", "CUNIT2": "arcsec"}, 0.05),
        ({"PIXSCAY": 0.05}, 0.05),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CD1_1": 0.05, "CD2_2": 0.05, "GS_SCALE": 0.05}, 0.05),
        ({"SECPIX1": 0.05}, 0.05),
        ({"PIXSCAL1": 0.05}, 0.05),
        ({"PIXAR_A2": 0.0025}, 0.05),
        ({"PIXSCALE": "0.05 arcsec"}, 0.05),
        ({"PIXSCALE": "50 mas"}, 0.05),
        ({"PIXELSCL": "0.05 arcsec/pixel"}, 0.05),
        ({"PIXSCALE": "0.05''"}, 0.05),
        ({"PIXSCALE": '0.05"/pix'}, 0.05),
        ({"PIXSCALE": (0.05 / 3600, "[deg] side")}, 0.05),
        ({"PIXSCALE": (50, "mas per pixel")}, 0.05),
        ({"PIXSCALE": (0.05, "at 5 deg from the pole")}, 0.05),
        ({"PIXAR_SR": (0.05 / 3600 * np.pi / 180) ** 2}, 0.05),
        ({"PIXAR_A2": (2500, "[mas^2]")}, 0.05),
        ({"HIERARCH pixel_scale": 0.05}, 0.05),
        ({"HIERARCH ESO INS PIXSCALE": 0.05}, 0.05),
        ({"PIXSCALE": 0, "SECPIX": 0.05}, 0.05),
        ({"CUNIT1": "mas", "CUNIT2": "mas", "CD1_1": -50.0, "CD2_2": 50.0}, 0.05),
        ({"CTYPE1": "LINEAR", "CUNIT1": "arcsec", "CDELT1": 0.05, "CDELT2": 0.05}, 0.05),
        ({"GS_WCS": "Jacobian", "CTYPE1": "LINEAR", "CD1_1": 0.03, "CD1_2": -0.04, "CD2_1": 0.04, "CD2_2": 0.03}, 0.05),
        ({"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600}, 0.05),
        ({"CD1_1": 1.0, "CD2_2": 1.0}, None),
        ({"CDELT1": 1.0, "CDELT2": 1.0}, None),
        ({"CUNIT1": "mm", "CDELT1": 0.05, "CDELT2": 0.05}, None),
        (TAN | {"CD1_1": -0.03 / 3600, "CD1_2": 0.04 / 3600, "CD2_1": 0.04 / 3600, "CD2_2": 0.03 / 3600}, 0.05),
        (TAN | MATRIX | {"NAXIS": 4, "CTYPE3": "FREQ", "CTYPE4": "STOKES", "CD3_3": 1.0, "CD4_4": 1.0}, 0.05),
    ],
    ids=[
        "matrix",
        "coordinates",
        "Hubble's tables",
        "half a SIP",
        "arcseconds",
        "no steps",
        "nothing",
        "pixels",
        "empty",
        "a matrix rotated by 90 degrees",
        "coordinates rotated by 90 degrees",
        "PC without steps",
        "a matrix in arcseconds",
        "units without coordinates",
        "PyAutoLens",
        "GalSim",
        "SECPIX1",
        "DECam",
        "James Webb",
        "a unit",
        "another unit",
        "a unit for each pixel",
        "two apostrophes",
        "quotation marks",
        "a unit in the comment",
        "a unit for each pixel in the comment",
        "no unit in the comment",
        "steradians",
        "an area with a unit",
        "a long keyword",
        "an instrument's keyword",
        "zero for unknown",
        "a matrix in milliarcseconds",
        "linear with units",
        "GalSim's Jacobian",
        "steps in degrees",
        "a matrix of pixels",
        "steps of pixels",
        "millimetres",
        "coordinates rotated by 53 degrees",
        "a spectral and a polarisation axis",
    ],
)
def test_the_pixel_scale_that_a_header_says(cards, expected):
    header = fits.Header()
    for key, card in cards.items():
        header[key] = card
    assert header_scale(header) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(
    ("name", "value", "more"),
    [
        ("pixel_scale", 0.05, {}),
        ("pixelscale", "0.05", {}),
        ("PIXSCALE", b"50 mas", {}),
        ("pixel_scale", ["0.05", "arcsec"], {}),
        ("pixel_scale", ["0.05", "side of a pixel of the detector [arcsec / pix]"], {}),
        ("pixel_scale", ["50", "mas"], {}),
        ("pixel_scale", [0.05, 0.05], {}),
        ("pixel_scale", 50.0, {"pixel_scale_unit": "mas"}),
        ("pixelScale", np.float32(0.05), {}),
        ("deltaPix", 0.05, {}),
        ("pixel_scale_mas", 50, {}),
        ("pixscale_arcsec", 0.05, {}),
        ("pixel_scale_deg", 0.05 / 3600, {}),
        ("pixel_scale_arcsec", np.array([0.05]), {}),
    ],
)
@pytest.mark.parametrize("place", ["/", "images", "images/lens_1"])
def test_the_pixel_scale_that_attributes_say(tmp_path, name, value, more, place):
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        file["images/lens_1"], file["images/lens_2"] = np.zeros((2, 8, 8))
        text = isinstance(value, list) and isinstance(value[0], str)
        file[place].attrs.update({name: np.array(value, dtype=h5py.string_dtype()) if text else value} | more)
    assert hdf5_scale(tmp_path / "lens.h5") == pytest.approx(0.05)
    assert hdf5_scale((tmp_path / "lens.h5").read_bytes(), "images/lens_1") == pytest.approx(0.05)
    other = hdf5_scale(tmp_path / "lens.h5", "images/lens_2")
    assert other is None if place.endswith("1") else other == pytest.approx(0.05)


def test_a_scalar_beside_the_images_says_it_too(tmp_path):
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        file["images"], file["pixel_scale"] = np.zeros((3, 8, 8)), 50.0
        file["pixel_scale"].attrs["units"] = "mas"
    assert hdf5_scale(tmp_path / "lens.h5", "images") == pytest.approx(0.05)


def test_lenstronomys_matrix_counts_beside_its_image_only(tmp_path):
    for image, expected in (("image_data", 0.05), ("something", None)):
        with h5py.File(tmp_path / f"{image}.h5", "w") as file:
            file[image], file["transform_pix2angle"] = np.zeros((8, 8)), [[-0.03, 0.04], [0.04, 0.03]]
        assert hdf5_scale(tmp_path / f"{image}.h5") == (expected and pytest.approx(expected))


def test_scales_that_differ_need_the_name_of_the_image(tmp_path):
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        for name, scale in (("F106", 0.11), ("F444W", 0.063)):
            file[name] = np.zeros((8, 8))
            file[name].attrs["pixel_scale"] = scale
    with pytest.raises(ValueError, match="pixel scales of 0.063, 0.11 arcsec"):
        hdf5_scale(tmp_path / "lens.h5")
    assert hdf5_scale(tmp_path / "lens.h5", "F106") == 0.11


def test_an_attribute_that_is_no_angle_is_named(tmp_path):
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        file["image"] = np.zeros((8, 8))
        file["image"].attrs["pixel_scale"] = "coarse"
    with pytest.raises(ValueError, match="pixel_scale = 'coarse'; expected a number of arcseconds"):
        hdf5_scale(tmp_path / "lens.h5")


def test_numbers_that_lie_in_other_files_are_not_read(tmp_path):
    (tmp_path / "raw").write_bytes(np.float64(0.05).tobytes())
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        file["image"] = np.zeros((8, 8))
        file.create_dataset("pixel_scale", (1,), "f8", external=[(str(tmp_path / "raw"), 0, 8)])
    assert hdf5_scale(tmp_path / "lens.h5") is None
