"""FITS files: which of their HDUs is the image, its pixels, and the arcseconds of one pixel.

Every FITS file of a data set or an observation is opened here, within limits on what it may unpack to. An HDU's name
says what it holds, in the words of `companions.ROLES`: noise maps, masks and PSFs are never taken for the image.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import warnings
from pathlib import Path

import numpy as np

from lensstudy.data.companions import ROLES, role_and_key
from lensstudy.files import regular

__all__ = ["SUFFIXES", "contents", "image_index", "opened", "pixel_scale", "pixels", "read_image", "read_scale"]

SUFFIXES = (".fits", ".fit", ".fts", ".fits.gz")
UNPACKED_LIMIT = 2**30  # bytes
HDU_LIMIT = 1000
WIDEST_PIXEL = 36.0  # arcsec; a matrix that means more in degrees, the unit of the standard, is in arcsec
SCALE_KEYS = ("PIXSCALE", "PIXELSCL", "PIXSCAY", "PIXSCAX", "GS_SCALE", "SECPIX", "SECPIX1", "PIXSCAL1")  # in arcsec
AREA_KEY = "PIXAR_A2"  # arcsec^2, of the James Webb telescope
MATRIX_KEYS = tuple(f"{kind}{i}_{j}" for kind in ("CD", "PC") for i in (1, 2) for j in (1, 2))


def opened(content: bytes | Path):
    """Open a FITS file, given as its bytes or its path, as astropy's list of HDUs (a context manager).

    astropy unpacks whatever is compressed, to any size; here only gzip is, and up to `UNPACKED_LIMIT`. Raises
    `ValueError` for anything else.
    """
    from astropy.io import fits

    with io.BytesIO(content) if isinstance(content, bytes) else open(regular(content), "rb") as file:
        start = file.read(6)
        file.seek(0)
        if start[:2] == b"\x1f\x8b":
            content = gzip.GzipFile(fileobj=file).read(UNPACKED_LIMIT + 1)
            if len(content) > UNPACKED_LIMIT:
                raise ValueError("unpacks to more than 1 GiB; unpack it if you trust it")
        elif start != b"SIMPLE":
            raise ValueError("not a FITS file: it does not begin with SIMPLE")
    hdus = fits.open(io.BytesIO(content) if isinstance(content, bytes) else content, memmap=False)
    with contextlib.suppress(IndexError):
        _ = hdus[HDU_LIMIT]
        hdus.close()
        raise ValueError(f"more than {HDU_LIMIT:,} HDUs; expected a FITS file of images")
    return hdus


def image_index(hdus, extension: str | int | None = None) -> int:
    """Place of the image among HDUs: that of `extension`, else the one whose name says image, else the first HDU, else
    the only one that is no noise map, PSF, mask or weight. Raises `ValueError` where none or several could be."""
    planes = {i: hdu.name for i, hdu in enumerate(hdus) if hdu.is_image and hdu.header["NAXIS"] >= 2}
    if extension is not None:
        try:
            return range(len(hdus))[hdus.index_of(extension)]
        except (KeyError, IndexError):
            known = ", ".join(name or str(i) for i, name in planes.items())
            raise ValueError(f"no FITS extension '{extension}'; there are {known}") from None
    if not planes:
        raise ValueError("a FITS file without an image")
    images = {i: name for i, name in planes.items() if role_and_key(name)[0] == "image"}
    if not images:
        raise ValueError(f"no image among its extensions {', '.join(planes.values())}; choose one with extension=")
    named = [i for i, name in images.items() if set(name.lower().split("_")) & set(ROLES["image"])]
    if named:
        return named[0]
    if 0 in images or len(images) == 1:
        return min(images)
    several = ", ".join(f"{i} {name}".strip() for i, name in images.items())
    raise ValueError(f"{len(images)} extensions could be the image ({several}); choose one with extension=")


def pixels(hdu) -> np.ndarray:
    """The array of an HDU; `ValueError` for a compressed one that unpacks to more than the limit."""
    from astropy.io.fits import CompImageHDU

    if isinstance(hdu, CompImageHDU) and np.prod(hdu.shape, dtype=object) * 4 > UNPACKED_LIMIT:
        raise ValueError("more than 1 GiB in one compressed image; store it as .npy")
    return np.asarray(hdu.data)


def read_image(content: bytes | Path, extension: str | int | None = None) -> np.ndarray:
    """Pixels of the image in a FITS file, as `image_index` chooses it."""
    with opened(content) as hdus:
        return pixels(hdus[image_index(hdus, extension)])


def read_scale(content: bytes | Path, extension: str | int | None = None) -> float | None:
    """Arcseconds of one pixel of the image in a FITS file, None where its headers do not say."""
    with opened(content) as hdus:
        return pixel_scale(hdus[image_index(hdus, extension)].header, hdus[0].header)


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


def pixel_scale(*headers) -> float | None:
    """Arcseconds of one pixel as FITS headers say, that of the image first and that of the file after it.

    The coordinates of the image come first, which whoever resamples it keeps right, then a keyword of an observatory.
    None where none says. Raises `ValueError` where such a keyword has no number or another unit than an angle's.
    """
    return _scale_of_coordinates(headers[0]) or next(
        (scale for header in headers if (scale := _scale_of_keyword(header)) is not None), None
    )


def _scale_of_coordinates(header) -> float | None:
    """Side of a pixel in arcsec by its world coordinates; None without them or where they count pixels."""
    from astropy import units
    from astropy.wcs import WCS, WcsError
    from astropy.wcs.utils import proj_plane_pixel_scales

    if not any(key in header for key in (*MATRIX_KEYS, "CDELT1")):
        return None  # WCS would take a pixel for a degree
    with warnings.catch_warnings(), contextlib.suppress(WcsError, ValueError):  # not whole, or tables elsewhere
        warnings.simplefilter("ignore")
        wcs = WCS(header)
        if wcs.has_celestial:
            return _in_arcsec(float(np.mean(proj_plane_pixel_scales(wcs.celestial))))
    if header.get("CTYPE1") in ("LINEAR", "PIXEL"):
        return None
    steps = [float(header.get(f"CDELT{i}", 1.0)) for i in (1, 2)]
    kind = "CD" if any(key in header for key in MATRIX_KEYS[:4]) else "PC"
    default = np.eye(2) * (kind == "PC")
    matrix = np.array([[float(header.get(f"{kind}{i}_{j}", default[i - 1, j - 1])) for j in (1, 2)] for i in (1, 2)])
    side = math.sqrt(abs(np.linalg.det(matrix if kind == "CD" else np.diag(steps) @ matrix)))
    if "CUNIT1" in header:
        with contextlib.suppress(ValueError, TypeError):  # no unit, or none of an angle
            return side * units.Unit(header["CUNIT1"]).to(units.arcsec) or None
        return None
    return _in_arcsec(side) if kind == "CD" else None


def _in_arcsec(side: float) -> float | None:
    """`side` in arcseconds, which stands in degrees in a header of the standard and in arcseconds in some others."""
    return (side * 3600 if side * 3600 <= WIDEST_PIXEL else side) or None


def _scale_of_keyword(header) -> float | None:
    from astropy import units

    for key in (*SCALE_KEYS, AREA_KEY):
        if key in header:
            try:
                unit = units.arcsec if key in SCALE_KEYS else units.arcsec**2
                value = units.Quantity(header[key])
                value = float(value.value if value.unit == units.dimensionless_unscaled else value.to_value(unit))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{key} = {header[key]!r} in the header; expected a number of arcseconds") from error
            return value if key in SCALE_KEYS else math.sqrt(value)
    return None
