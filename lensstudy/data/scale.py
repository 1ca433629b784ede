"""The arcseconds of one pixel, as a FITS header or the attributes of an HDF5 file say them.

World coordinates are read by `astropy.wcs`, values with a unit by `astropy.units`; the names under which simulators and
observatories keep the number itself are in `KEYS`.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lensstudy.data.companions import LENSTRONOMY
from lensstudy.files import regular

__all__ = ["hdf5_scale", "header_scale"]

KEYS = {  # as a header or an attribute has them, without punctuation and capitals, and the unit of a bare number
    **dict.fromkeys(("pixscale", "pixelscale", "pixelscl", "pixscl", "pixscay", "pixscax", "gsscale"), "arcsec"),
    **dict.fromkeys(("secpix", "secpix1", "pixscal1", "pixscalx", "pixscal", "pscale", "d001scal"), "arcsec"),
    **dict.fromkeys(("arcsecperpixel", "arcsecperpix", "pixelsizearcsec", "platescale", "deltapix"), "arcsec"),
    "pixara2": "arcsec2",
    "pixarsr": "sr",
}
ENDINGS = r"(arcsec|mas|deg)$"
UNITS = ("unit", "units")  # endings of an attribute that holds the unit of another
WIDEST_PIXEL = 36.0  # arcsec; a matrix that means more in degrees, the unit of the standard, is in arcsec
MATRIX_KEYS = tuple(f"{kind}{i}_{j}" for kind in ("CD", "PC") for i in (1, 2) for j in (1, 2))


def header_scale(*headers) -> float | None:
    """Arcseconds of one pixel as FITS headers say.

    The coordinates of the image come first, which whoever resamples it keeps right, then a keyword of an observatory.

    Args:
        headers: that of the image first and that of the file after it.

    Returns:
        The side of a pixel, None where no header says.

    Raises:
        ValueError: such a keyword has no positive number, or another unit than an angle's.

    Example:
        >>> from astropy.io import fits
        >>> header_scale(fits.Header({"PIXSCALE": "50 mas"}))
        0.05
    """
    scale = _scale_of_coordinates(headers[0])
    for header in headers:
        scale = scale or _scale_of_keys(header, {key: header.comments[key] for key in header if _key(key) in KEYS})
    return scale


def hdf5_scale(content: bytes | Path, name: str = "") -> float | None:
    """Arcseconds of one pixel as an HDF5 file says, in attributes, in a scalar beside the images, or as lenstronomy's
    matrix from pixels to angles.

    Args:
        content: the file, as its path or its bytes.
        name: of the array in it that is the image; without one the whole file counts.

    Returns:
        The side of a pixel, None where nothing says.

    Raises:
        ValueError: such a value is no positive number or no angle, or several differ where no `name` chooses.
    """
    import h5py

    with h5py.File(io.BytesIO(content) if isinstance(content, bytes) else regular(content)) as file:
        if name:
            path = PurePosixPath("/" + name)
            nodes = [file[str(place)] for place in (path, *path.parents) if str(place) in file]
            return next((scale for node in nodes if (scale := _scale_of_node(node)) is not None), None)
        found = {_scale_of_node(file)}
        file.visititems(lambda _, node: found.add(_scale_of_node(node)))
    known = sorted(scale for scale in found if scale is not None)
    if known and known[-1] - known[0] > 1e-6 * known[0]:
        raise ValueError(f"pixel scales of {', '.join(f'{scale:g}' for scale in known)} arcsec in one HDF5 file")
    return known[0] if known else None


def _scale_of_node(node) -> float | None:
    """What a group or an array of an HDF5 file says itself, in its attributes and in scalars that lie in the group."""
    import h5py

    said: dict[str, Any] = dict(node.attrs)
    if isinstance(node, h5py.Group):
        links = (key for key in node if node.get(key, getlink=True).__class__ is h5py.HardLink)
        inside = {key: node[key] for key in links if _key(key) in KEYS or key == "transform_pix2angle"}
        matrix = inside.pop("transform_pix2angle", None)
        if LENSTRONOMY in node and matrix is not None and getattr(matrix, "shape", None) == (2, 2):
            return float(np.sqrt(abs(np.linalg.det(matrix[()])))) or None
        said |= {
            key: (one[()], *(one.attrs[unit] for unit in UNITS if unit in one.attrs))
            for key, one in inside.items()
            if isinstance(one, h5py.Dataset) and one.size <= 2 and not (one.external or one.is_virtual)
        }
    units = {key: f"[{said[key + '_' + unit]}]" for key in said for unit in UNITS if f"{key}_{unit}" in said}
    return _scale_of_keys(said, units)


def _key(name: str) -> str:
    """A name as `KEYS` have it: without the instrument before it (`ESO INS PIXSCALE`) and the unit behind it."""
    word = re.sub(r"[^a-z0-9]", "", name.lower().split(" ")[-1])
    bare = re.sub(ENDINGS, "", word)
    return bare if bare in KEYS else word


def _scale_of_keys(said: Mapping[str, Any], descriptions: Mapping[str, str]) -> float | None:
    """Arcseconds of one pixel by the first of `KEYS` that is there and not 0, which stands for unknown."""
    there = {_key(name): name for name in said if name}
    for key, unit in KEYS.items():
        if name := there.get(key):
            try:
                ending = re.search(ENDINGS, name.lower())
                scale = _arcsec(said[name], unit, descriptions.get(name, "") or (f"[{ending[0]}]" if ending else ""))
            except (IndexError, TypeError, ValueError) as error:
                raise ValueError(f"{name} = {said[name]!r}; expected a number of arcseconds") from error
            if scale:
                return scale
    return None


def _arcsec(value: Any, default: str, description: str) -> float:
    """The side of a pixel in arcsec of a value (`0.05`, `"50 mas"`, `["0.11", "arcsec"]`) in the unit beside it, else
    the one in its description, else the `default`."""
    from astropy import units

    if isinstance(value, bool):
        raise TypeError
    texts = [one.decode() if isinstance(one, bytes) else str(one) for one in np.ravel(np.asarray(value, dtype=object))]
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(.*)", texts[0])
    if not match or (match[2] and not _unit(match[2])):
        raise ValueError
    unit = next(filter(None, map(_unit, (match[2], *texts[1:], description))), units.Unit(default))
    area = units.Unit(default).is_equivalent(units.sr)
    if area and unit.is_equivalent(units.arcsec):
        unit = unit**2
    number = float(match[1]) * unit.to(units.arcsec**2 if area else units.arcsec)
    if not 0 <= number < math.inf:
        raise ValueError
    return math.sqrt(number) if area else number


def _unit(text: str):
    """The angle that a text names as its unit: in brackets, before "per pixel", or as the text itself; else None."""
    from astropy import units

    text = text.replace("''", '"').replace('"', " arcsec ")
    inside = re.search(r"[\[(]([^\])]*)[\])]", text) or re.search(r"(\S+)\s*(?:/|\bper\b)\s*pix", text)
    words = re.findall(r"[A-Za-z]+", inside[1] if inside else text)
    for word in words if inside or len(words) <= 3 else ():
        for spelled in (word, word.lower(), word.lower().removesuffix("s")):
            unit = units.Unit(spelled, parse_strict="silent")
            if unit.is_equivalent(units.arcsec) or unit.is_equivalent(units.sr):
                return unit
    return None


def _scale_of_coordinates(header) -> float | None:
    """Side of a pixel in arcsec by its world coordinates; None without them or where they count pixels."""
    from astropy.wcs import WCS, WcsError
    from astropy.wcs.utils import proj_plane_pixel_scales

    if not any(key in header for key in (*MATRIX_KEYS, "CDELT1")):
        return None  # WCS would take a pixel for a degree
    with warnings.catch_warnings(), contextlib.suppress(WcsError, ValueError):  # not whole, or tables elsewhere
        warnings.simplefilter("ignore")
        wcs = WCS(header)
        if wcs.has_celestial:
            return _in_arcsec(float(np.mean(proj_plane_pixel_scales(wcs.celestial))))
    steps = [_number(header, f"CDELT{i}", 1.0) for i in (1, 2)]
    kind = "CD" if any(key in header for key in MATRIX_KEYS[:4]) else "PC"
    default = np.eye(2) * (kind == "PC")
    matrix = np.array([[_number(header, f"{kind}{i}_{j}", default[i - 1, j - 1]) for j in (1, 2)] for i in (1, 2)])
    side = math.sqrt(abs(np.linalg.det(matrix if kind == "CD" else np.diag(steps) @ matrix)))
    if "CUNIT1" in header:
        unit = _unit(str(header["CUNIT1"]))
        return (side * unit.to("arcsec") or None) if unit else None
    if "GS_WCS" in header:  # of GalSim, whose plane is in arcsec
        return side or None
    if header.get("CTYPE1") in ("LINEAR", "PIXEL") or side == 1:
        return None
    return _in_arcsec(side) if kind == "CD" or side * 3600 <= WIDEST_PIXEL else None


def _number(header, key: str, default: float) -> float:
    try:
        return float(header.get(key, default))
    except (TypeError, ValueError):
        raise ValueError(f"{key} = {header[key]!r}; expected a number") from None


def _in_arcsec(side: float) -> float | None:
    """`side` in arcseconds, which stands in degrees in a header of the standard and in arcseconds in some others."""
    return (side * 3600 if side * 3600 <= WIDEST_PIXEL else side) or None
