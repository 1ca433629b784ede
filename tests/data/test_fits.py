import io

import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.fits import image_index, opened, pixel_scale, read_image, read_scale

TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
MATRIX = {"CD1_1": -0.05 / 3600, "CD2_2": 0.05 / 3600}


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


def test_a_first_image_counts_unless_another_is_called_image():
    assert read_image(file_of("MASK", "UNCERT", first=np.zeros((8, 8))))[0, 0] == 0
    assert read_image(file_of("", "", first=np.zeros((8, 8))))[0, 0] == 0
    assert read_image(file_of("ERR", "G"))[0, 0] == 2, "the only one that is none of the others"


def test_several_extensions_that_could_be_the_image_are_named():
    with pytest.raises(ValueError, match=r"4 extensions could be the image \(1, 2, 3, 4\); choose one with extension="):
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


def test_a_scale_that_is_no_angle_is_named():
    with pytest.raises(ValueError, match="PIXSCALE = 'fine' in the header; expected a number of arcseconds"):
        pixel_scale(fits.Header({"PIXSCALE": "fine"}))


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
    ],
)
def test_the_pixel_scale_that_a_header_says(cards, expected):
    assert pixel_scale(fits.Header(cards)) == (expected and pytest.approx(expected))
