"""The noise, the mask and the PSF of an observation, from the arrays that stand beside its image.

A noise map may be a variance or weights, a mask bits that its header names, a PSF centred between pixels; where there
is no noise map the border tells the noise. What had to be assumed or done is added to `notes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from lensstudy.data.dataset import DataError

__all__ = ["Plane", "centred_psf", "flat", "mask_of", "noise_of"]

OFF_CENTRE = 0.2  # pixels from a PSF's middle to its centre of light, which an asymmetric shape moves by up to 0.16
DEFECTS = (  # planes of a mask of bits that make a pixel useless, as HSC, LSST and others call them
    "BAD|SAT|SATURATED|INTRP|INTERPOLATED|CR|COSMIC|NO_DATA|UNMASKEDNAN|CROSSTALK|SUSPECT|EDGE|STREAK|VIGNETTED|HOT"
    "|DEAD|DO_NOT_USE|SPIKE|BLEED"
)


@dataclass(frozen=True)
class Plane:
    """One array of a file, with its name and what its header or attributes say."""

    array: np.ndarray
    name: str
    header: Any = field(default_factory=dict)

    def __post_init__(self):
        if self.array.dtype.kind not in "biuf":
            raise ValueError(f"{self.name or 'an array'} of dtype {self.array.dtype}; expected numbers")


def flat(array: np.ndarray) -> np.ndarray:
    """An array as numbers, without axes of length one."""
    return np.squeeze(np.asarray(array, dtype=float))


def noise_of(where: str, image: np.ndarray, role: str, parts: dict[str, Plane], notes: list[str]):
    """Standard deviation of every pixel by what has the `role`, and which pixels have a value."""
    if not role:
        empty = _empty(image)
        rms = _border_noise(image, empty)
        if not rms:
            raise DataError(f"{where}: no noise map, and the border has no noise to estimate it from; add a noise map")
        notes.append(f"no noise map: {rms:.3g} a pixel, as between neighbours at the border; without photon noise")
        return np.full(image.shape, rms), ~empty
    plane, known = parts[role], np.isfinite(image)
    array, called = flat(plane.array), plane.name if plane.name not in ("", "PRIMARY") else role
    kind = str(plane.header.get("UTYPE", "")).lower()  # as astropy's CCDData says what its UNCERT is
    if role == "noise" and ("var" in kind or "inverse" in kind):
        role = "inverse variance" if "inv" in kind else "variance"
    with np.errstate(divide="ignore", invalid="ignore"):
        if role == "noise":
            return array, known
        if role == "variance":
            notes.append(f"noise: the square root of the variance ({called})")
            return np.sqrt(array), known
        noise = np.where(array > 0, 1 / np.sqrt(array), np.nan)
    if role == "inverse variance":
        notes.append(f"noise: one over the square root of the inverse variance ({called})")
        return noise, known
    factor = _border_noise(image / noise, ~np.isfinite(image / noise)) or 1.0
    if 0.8 < factor < 1.25:
        notes.append(f"noise: one over the square root of the weights ({called}), as the noise at the border confirms")
        return noise, known
    factor_of_variance = _border_noise(image * noise, ~np.isfinite(image * noise)) or 0.0
    if 0.8 < factor_of_variance < 1.25:
        notes.append(
            f"noise: the square root of the weights ({called}), which the noise at the border shows to be variances"
        )
        return 1 / noise, known
    notes.append(
        f"noise: one over the square root of the weights ({called}), times {factor:.3g}: the noise at the border says"
        " what their unit does not"
    )
    return noise * factor, known


def _empty(image: np.ndarray) -> np.ndarray:
    """Where an image holds nothing: pixels that are not finite, and areas from the sides inwards of one value (0)."""
    empty = ~np.isfinite(image)
    sides = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    values, counts = np.unique(sides[np.isfinite(sides)], return_counts=True)
    if not len(values) or counts.max() < 5:
        return empty
    reach = 5
    same = np.pad(image == values[counts.argmax()], reach, constant_values=True)
    areas = ndimage.binary_opening(same, np.ones((reach, reach)))
    inside = np.s_[reach:-reach, reach:-reach]
    rest = ~ndimage.binary_dilation(areas, iterations=2)[inside] & ~empty
    if rest.any() and same[inside][rest].mean() > 0.05:  # a value that pixels have here, as 0 among counted photons
        return empty
    return empty | ndimage.binary_propagation(areas, mask=same)[inside]


def _border_noise(image: np.ndarray, empty: np.ndarray) -> float | None:
    """Robust standard deviation of the sky in an image `(H, W)` of which a part can be `empty`, or None.

    From the differences of neighbours, which see the noise and not the slope of the light, in the outer sixteenth of
    what is not empty: 1.4826 times their median absolute value, over the square root of two.
    """
    footprint = np.pad(ndimage.binary_fill_holes(~empty), 1)
    width = max(min(image.shape) // 16, 2)
    outer = (ndimage.distance_transform_edt(footprint)[1:-1, 1:-1] <= width) & ~empty
    image = np.where(outer, image, np.nan)
    rows, columns = outer[1:] & outer[:-1], outer[:, 1:] & outer[:, :-1]
    steps = np.concatenate([np.diff(image, axis=0)[rows], np.diff(image, axis=1)[columns]])
    return float(1.4826 * np.median(np.abs(steps)) / np.sqrt(2)) if len(steps) >= 20 else None


def mask_of(where: str, plane: Plane, mask_bits: Sequence[int] | None, notes: list[str]) -> np.ndarray:
    """True where a mask says that a pixel is useless: where it is 1, or has one of the bits that mean it."""
    array = np.squeeze(np.nan_to_num(plane.array))
    lowest, highest = float(array.min()), float(array.max())
    names = {str(key)[3:]: bit for key, bit in plane.header.items() if str(key).startswith("MP_")}
    whole = array.dtype.kind in "iu"
    if not names and lowest >= 0 and highest <= 1 and (mask_bits is None or not whole):
        return array > 0.5
    if mask_bits is None and not names:
        if set(np.unique(array)) == {0, 255}:
            return array > 0
        if whole or (array == np.round(array)).all():
            raise DataError(
                f"{where}: a mask of bits (values up to {highest:.0f}) whose header names none (MP_BAD, MP_SAT); say "
                "which make a pixel useless: read_observation(..., mask_bits=[0, 1]), or mask_bits=[] for none"
            )
    if not whole and (lowest < 0 or (array != np.round(array)).any()):
        raise DataError(f"{where}: a mask with values from {lowest:g} to {highest:g}; expected 0 and 1, or bits")
    if mask_bits is None:
        defects = {name: bit for name, bit in names.items() if re.fullmatch(DEFECTS, name)}
        others = ", ".join(name for name in names if name not in defects)
        notes.append(f"masked by the planes {', '.join(defects) or 'none'}; not by {others or 'others'}")
        mask_bits = list(defects.values())
    if not all(isinstance(bit, int | np.integer) and 0 <= bit < 63 for bit in mask_bits):
        raise DataError(f"{where}: bits of a mask {list(mask_bits)}; expected numbers from 0 to 62")
    return (array.astype(np.int64) & sum(1 << int(bit) for bit in set(mask_bits))) != 0


def centred_psf(where: str, psf: np.ndarray, notes: list[str]) -> np.ndarray:
    """A normalised PSF with an odd number of pixels a side, its centre of light in the middle."""
    psf = np.nan_to_num(psf)
    if psf.ndim != 2 or psf.sum() <= 0:
        raise DataError(f"{where}: a PSF of shape {psf.shape} and sum {psf.sum():g}; expected (h, w) and positive")
    middle = (np.array(psf.shape) - 1) / 2
    if psf.shape[0] % 2 and psf.shape[1] % 2 and np.abs(_centre_of_light(psf) - middle).max() < OFF_CENTRE:
        return psf / psf.sum()
    center = _centre_of_light(psf)
    pixel = np.clip(np.round(center).astype(int), 0, np.array(psf.shape) - 1)
    if psf[tuple(pixel)] < psf.max() / 2:  # noise or another star pulls it
        center = np.array(np.unravel_index(psf.argmax(), psf.shape), dtype=float)
    for _ in range(20):
        step = _centre_of_light(_around(psf, center)) - _reach(psf, center)
        center = np.clip(center + np.clip(step, -1, 1), 0, np.array(psf.shape) - 1)
        if np.abs(step).max() < 1e-3:
            break
    nearest = np.round(center)
    between = np.abs(center - nearest).max() >= OFF_CENTRE / 4  # what has to be moved is moved well
    height, width = psf.shape
    psf = _around(psf, center if between else nearest)
    how = "interpolated to" if between else "moved to"
    notes.append(
        f"PSF of {height}x{width} pixels, its centre of light at row {center[0]:.2f}, column {center[1]:.2f}: {how} "
        f"the middle of {psf.shape[0]}x{psf.shape[1]}"
    )
    return psf / psf.sum()


def _centre_of_light(psf: np.ndarray) -> np.ndarray:
    """Row and column."""
    return np.array([(np.arange(psf.shape[axis]) * psf.sum(1 - axis)).sum() for axis in (0, 1)]) / psf.sum()


def _reach(psf: np.ndarray, center: np.ndarray) -> int:
    """Pixels from `center` to the nearest side."""
    return int(min(*center, *(np.array(psf.shape) - 1 - center)) + 1e-6)


def _around(psf: np.ndarray, center: np.ndarray) -> np.ndarray:
    """The square of an odd number of pixels about `center`, by cubic splines where that lies between pixels."""
    reach = _reach(psf, center)
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1] + center[:, None, None]
    return ndimage.map_coordinates(psf, grid, order=3, mode="grid-constant")
