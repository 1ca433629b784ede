"""Real telescope cutouts: reading them, masking bad pixels, bringing them to a network's pixels.

`read_observation` opens one lens in one band, whatever of the known layouts it is in, `read_observations` everything in
a folder. A bad pixel (NaN, no noise, a noise map that flags it with an absurd value, another galaxy) is in `mask`.
Whatever had to be assumed or done on the way is in `notes`.
`network_input` brings an image to the pixels, the field of view and the brightness of a trained network's images;
`lens_light` subtracts the lens galaxy first.

Arrays are as in FITS: row 0 is at the bottom, x runs to the right and y upwards, in arcseconds from the middle of the
image.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lensstudy.data.companions import FILLERS, LENSTRONOMY, ROLES, belongs, companions, information, role_and_key, stem
from lensstudy.data.dataset import DataError
from lensstudy.data.fits import SUFFIXES, bands, opened, pixels
from lensstudy.data.formats import HDF5, own_pixels
from lensstudy.data.resampling import resample, shares
from lensstudy.data.scale import hdf5_scale, header_scale
from lensstudy.files import regular, tree
from lensstudy.lensing.cosmology import LENS_REDSHIFT, SOURCE_REDSHIFT
from lensstudy.lensing.instruments import INSTRUMENTS, gaussian_kernel, noise_variance, noisy
from lensstudy.lensing.populations import preset_named
from lensstudy.lensing.presets import population_of
from lensstudy.lensing.rendering import render
from lensstudy.networks.groups import centre_crop

__all__ = [
    "Observation",
    "cropped",
    "filled",
    "network_input",
    "psf_fwhm",
    "read_observation",
    "read_observations",
    "write",
    "write_simulated",
]

BAND = r"f\d{3}[a-z]+|vis|(nir|des)[ _-][a-z]|[ugrizyjhk]"
FLAGGED = 1e3  # times the median noise: pixels that a noise map marks as useless (Euclid writes 1e16)
SCALES = (0.005, 2.0)  # arcsec a pixel: what optical and near-infrared cutouts of lenses have
LEAST = 16  # pixels a side
NOISE_ROLES = ("noise", "variance", "inverse variance", "weight")  # the first that is there gives the noise
OFF_CENTRE = 0.2  # pixels from a PSF's middle to its centre of light, which an asymmetric shape moves by up to 0.16
DEFECTS = (  # planes of a mask of bits that make a pixel useless, as HSC, LSST and others call them
    "BAD|SAT|SATURATED|INTRP|INTERPOLATED|CR|COSMIC|NO_DATA|UNMASKEDNAN|CROSSTALK|SUSPECT|EDGE|STREAK|VIGNETTED|HOT"
    "|DEAD|DO_NOT_USE|SPIKE|BLEED"
)


@dataclass(frozen=True)
class Observation:
    """One lens in one band.

    `image` and its standard deviation `noise` are `(H, H)`, `mask` is True where a pixel is not to be used, `psf` is
    normalised, with an odd number of pixels a side, or None where unknown. `about` holds what stood beside the
    data (redshifts, published models), `notes` what had to be assumed.
    """

    name: str
    band: str
    image: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    psf: np.ndarray | None
    pixel_scale: float  # arcsec
    about: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def field_of_view(self) -> float:
        """Side of the image in arcseconds."""
        return len(self.image) * self.pixel_scale

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres x `(1, W)` and y `(H, 1)` in arcseconds."""
        centers = (np.arange(len(self.image)) - (len(self.image) - 1) / 2) * self.pixel_scale
        return centers[None, :], centers[:, None]

    def __str__(self) -> str:
        return f"{self.name} {self.band}".strip()


# Reading


def read_observation(
    path: str | Path, band: str = "", pixel_scale: float | None = None, mask_bits: Sequence[int] | None = None
) -> Observation:
    """Read one lens in one band.

    Args:
        path: a FITS file with its noise map, PSF and mask beside it (`data.fits`, `noise_map.fits`, ...; `m87.fits`,
            `m87_rms.fits`, ...), a folder of such files, a FITS file with them in its extensions (`VIS_BGSUB`,
            `VIS_PSF`, `VIS_RMS`), or an HDF5 file of lenstronomy.
        band: which one, where there are several.
        pixel_scale: in arcseconds, for files that do not hold it.
        mask_bits: numbers, from 0, of the bits that make a pixel useless, where the mask's header does not name them
            (`MP_SAT`) or others shall count; `[]` for none.

    Returns:
        The observation. `notes` say what was assumed: a missing noise map is estimated, a variance or weights become
        one, a PSF that is centred between pixels is shifted to the middle of its array.

    Raises:
        DataError: the image cannot be used, its pixel scale is unknown, or there are several.

    Example:
        >>> import tempfile
        >>> folder = write_simulated(tempfile.mkdtemp())
        >>> read_observation(sorted(folder.iterdir())[0]).image.ndim
        2
    """
    found: dict[str, Observation] = {}
    for _, one in _attempts(_place(path), pixel_scale, mask_bits):
        if isinstance(one, DataError):
            raise one
        if found.setdefault(one.band, one) is not one:
            raise DataError(
                f"{path}: several lenses, {found[one.band]} and {one}; give the path of one, or use read_observations"
            )
    if band and band not in found:
        raise DataError(f"{path}: band '{band}' is not there; there are {', '.join(map(repr, found))}")
    if len(found) > 1 and not band:
        raise DataError(
            f"{path}: {len(found)} images, of the bands {', '.join(found)}; pass band='{next(iter(found))}'"
        )
    return found[band] if band else next(iter(found.values()))


def read_observations(
    path: str | Path, pixel_scale: float | None = None, mask_bits: Sequence[int] | None = None
) -> tuple[list[Observation], dict[str, str]]:
    """Read every observation in a folder and the folders inside it.

    Args:
        path: a folder or a file, as for `read_observation`.
        pixel_scale: in arcseconds, for files that do not hold it.
        mask_bits: as for `read_observation`.

    Returns:
        The observations by name and band; and of every image there that cannot be used, by its file (and band), the
        reason, noise maps and the like that belong to no image among them.

    Raises:
        DataError: none can be used.

    Example:
        >>> import tempfile
        >>> len(read_observations(write_simulated(tempfile.mkdtemp()))[0])
        3
    """
    attempts = list(_attempts(_place(path), pixel_scale, mask_bits))
    found = sorted((one for _, one in attempts if isinstance(one, Observation)), key=str)
    refused = {where: str(error) for where, error in attempts if isinstance(error, DataError)}
    for file in _without_image(_place(path)):
        role = role_and_key(stem(file.name))[0].replace("other", "map")
        refused[str(file)] = f"{file}: called a {role}, but of no image beside it; if it is an image, rename it"
    if not found:
        raise DataError("\n".join(refused.values()))
    return found, refused


def _place(path: str | Path) -> Path:
    """A path, with `~` and variables in it filled in where it does not exist as it stands."""
    return Path(path) if os.path.exists(path) else Path(os.path.expandvars(path)).expanduser()


def _attempts(path: Path, pixel_scale, mask_bits) -> Iterator[tuple[str, Observation | DataError]]:
    """Every image at `path`, by its file and band, or what is wrong with it."""
    for file in _images(path):
        try:
            found = _read_file(file, pixel_scale)
        except DataError as error:
            yield str(file), error
            continue
        for band, parts in found.items():
            where = f"{file} {band}".strip()
            try:
                yield where, _checked(where, _name_and_band(file)[0], band, mask_bits=mask_bits, **parts)
            except DataError as error:
                yield where, error


def _images(path: Path) -> list[Path]:
    """The files at `path` that are no noise map, PSF or mask; where no other is an image, those called model or sky."""
    if not path.exists():
        hint = "; the variable in it is not set" if "$" in str(path) else ""
        raise DataError(f"{path}: does not exist{hint}; give a FITS or HDF5 file, or a folder of them")
    files = _files(path)
    if len(files) == 1:
        return files
    roles = {file: role_and_key(stem(file.name))[0] for file in files}
    images = next(filter(None, ([file for file in files if roles[file] == role] for role in ("image", "other"))), [])
    if not images:
        raise DataError(f"{path}: no image in it; expected .fits or .h5 files that are no noise map, PSF or mask")
    return images


def _files(path: Path) -> list[Path]:
    files = [path / name for name in tree(path).files] if path.is_dir() else [path]
    return [file for file in files if file.name.lower().endswith((*SUFFIXES, *HDF5))]


def _without_image(path: Path) -> list[Path]:
    """Files that are called a noise map, PSF, mask or weight of an image that is not there."""
    files, images = _files(path), _images(path)
    theirs = companions(map(str, files))
    return [file for file in files if file not in images and str(file) not in theirs]


@dataclass(frozen=True)
class _Plane:
    """One array of a file, with its name and what its header or attributes say."""

    array: np.ndarray
    name: str
    header: Any = field(default_factory=dict)

    def __post_init__(self):
        if self.array.dtype.kind not in "biuf":
            raise ValueError(f"{self.name or 'an array'} of dtype {self.array.dtype}; expected numbers")


def _read_file(file: Path, pixel_scale: float | None) -> dict[str, dict]:
    """What is in a file, its companions and `info.json`, by band, as `_checked` takes it."""
    about, beside = information(file), _companions(file)
    _, band = _name_and_band(file)
    found = _lenstronomy(file) if file.name.lower().endswith(HDF5) else _extensions(file, pixel_scale)
    found = {band: found[""]} if list(found) == [""] else found
    return {
        band: {
            "scale": pixel_scale or scale or about.get("pixel_scale"),
            "notes": notes,
            "parts": beside | parts,
            "about": about,
        }
        for band, (parts, scale, notes) in found.items()
    }


def _name_and_band(file: Path) -> tuple[str, str]:
    words = [word for word in re.split(r"[_ ]+", stem(file.name)) if word.lower() not in (*ROLES["image"], *FILLERS)]
    band = next((word for word in words if re.fullmatch(BAND, word.lower())), "")
    name = "_".join(word for word in words if word != band)
    parent = file.resolve().parent
    if not name and not band and re.fullmatch(BAND, parent.name.lower()):
        return parent.parent.name, parent.name
    return name or parent.name, band.upper()


Parts = tuple[dict[str, _Plane], float | None, list[str]]  # what is there by its role, the pixel scale, notes


def _extensions(file: Path, pixel_scale: float | None) -> dict[str, Parts]:
    """The bands in a FITS file, and of each its image, noise, PSF, mask and pixel scale, as far as they are there."""
    found: dict[str, Parts] = {}
    try:
        with opened(file) as hdus:
            try:
                places, unknown = bands(hdus)
            except ValueError as error:
                raise DataError(f"{file}: {error}") from None
            notes = [f"extensions of an unknown kind are not used: {', '.join(unknown)}"] if unknown else []
            for band, parts in places.items():
                scale = pixel_scale or _said_scale(file, hdus[parts["image"]].header, hdus[0].header)
                found[band] = {role: _plane(hdus[i]) for role, i in parts.items()}, scale, notes
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes astropy raise
        raise DataError(f"{file}: cannot be read as FITS ({error})") from None
    return found


def _said_scale(file: Path, *headers) -> float | None:
    try:
        return header_scale(*headers)
    except ValueError as error:
        raise DataError(f"{file}: {error}; correct it, or pass read_observation(..., pixel_scale=0.05)") from None


def _plane(hdu) -> _Plane:
    return _Plane(pixels(hdu), hdu.name, hdu.header)


def _stored(file, name: str) -> _Plane:
    """An array of numbers in an open HDF5 file."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"'{name}' is no array of the file itself")
    return _Plane(np.asarray(own_pixels(file[name])[()]), name, dict(file[name].attrs))


def _lenstronomy(file: Path) -> dict[str, Parts]:
    """Image, noise and pixel scale from lenstronomy's HDF5: `variance = background_rms^2 + image/exposure_time`."""
    import h5py

    try:
        with h5py.File(regular(file)) as stored:
            if LENSTRONOMY not in stored:
                raise ValueError(f"it holds {', '.join(stored)}, but no 'image_data'; expected lenstronomy's names")
            parts = {"image": _stored(stored, LENSTRONOMY)}
            image = np.asarray(parts["image"].array, dtype=float)
            if "background_rms" in stored:
                variance = np.full(image.shape, float(_stored(stored, "background_rms").array) ** 2)
                if "exposure_time" in stored:
                    time = np.asarray(_stored(stored, "exposure_time").array, dtype=float)
                    variance += np.clip(image, 0, None) / np.where(time > 0, time, np.inf)
                parts["noise"] = _Plane(np.sqrt(variance), "noise")
        return {"": (parts, hdf5_scale(file, LENSTRONOMY), [])}
    except Exception as error:  # whatever a damaged file makes h5py raise
        raise DataError(f"{file}: cannot be read as HDF5 ({error})") from None


def _companions(file: Path) -> dict[str, _Plane]:
    """Noise map, PSF and mask in files beside the image: of the same name, or named for all images of the folder."""
    beside = {other: role_and_key(stem(other.name)) for other in sorted(file.parent.iterdir())}
    beside = {other: about for other, about in beside.items() if other.name.lower().endswith((*HDF5, *SUFFIXES))}
    key = beside[file][1] if file in beside else role_and_key(stem(file.name))[1]
    images = {key} | {other_key for role, other_key in beside.values() if role == "image"}
    parts: dict[str, _Plane] = {}
    for other, (role, other_key) in sorted(beside.items(), key=lambda one: -len(one[1][1])):
        if other != file and role not in ("image", "other", *parts) and belongs(other_key, key, images):
            parts[role] = _companion(other, role)
    return parts


def _companion(file: Path, role: str) -> _Plane:
    """The array of a FITS or HDF5 file, which of lenstronomy's is the PSF of a point source; of several the one whose
    name says what the file is called."""
    try:
        if file.name.lower().endswith(HDF5):
            import h5py

            with h5py.File(regular(file)) as stored:
                return _stored(stored, next(name for name in ("kernel_point_source", *stored) if name in stored))
        with opened(file) as hdus:
            planes = [hdu for hdu in hdus if hdu.is_image and hdu.header["NAXIS"]]
            named = [hdu for hdu in planes if role_and_key(hdu.name)[0] == role]
            return _plane(next(iter(named or planes)))
    except Exception as error:  # whatever a damaged file makes astropy and h5py raise
        raise DataError(f"{file}: no array can be read from it ({str(error) or 'it is empty'})") from None


def _checked(
    where: str, name: str, band: str, parts: dict, scale: float | None, about: dict, notes: list[str], mask_bits=None
) -> Observation:
    """An observation of what was read, square, finite, its useless pixels masked; `DataError` where that cannot be."""
    notes, image = list(notes), _flat(parts["image"].array)
    if image.ndim != 2:
        raise DataError(f"{where}: an image of shape {image.shape}; expected one band (H, W): a file for each colour")
    if min(image.shape) < LEAST:
        raise DataError(f"{where}: {image.shape[0]}x{image.shape[1]} pixels; expected at least {LEAST} a side")
    if scale is None:
        raise DataError(
            f"{where}: the pixel scale is nowhere: no PIXSCALE or coordinates in the header, no info.json beside it. "
            "Write PIXSCALE (arcsec) into the header, 'pixel_scale' into info.json, or pass it:"
            " read_observation(..., pixel_scale=0.05)"
        )
    if not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(f"{where}: pixel scale {scale:g} arcsec; expected {SCALES[0]} to {SCALES[1]}: in degrees?")
    used = next((role for role in NOISE_ROLES if role in parts), "")
    for role in {used, "mask"} & set(parts):
        if (shape := _flat(parts[role].array).shape) != image.shape:
            what = role if role in ("mask", "variance", "inverse variance") else f"{role} map"
            raise DataError(f"{where}: {what} of shape {shape} for an image of {image.shape}; expected the same")
    noise, known = _noise(where, image, used, parts, notes)
    usable = np.isfinite(noise) & (noise > 0)
    if not (usable & known).any():
        raise DataError(f"{where}: no pixel with a finite value and a positive noise")
    typical = float(np.median(noise[usable]))
    flagged = ~known | ~usable | (noise > FLAGGED * typical)
    if flagged.any():
        notes.append(f"{flagged.sum()} pixels without a value or flagged by the noise map are masked")
    mask = flagged | (_mask(where, parts["mask"], mask_bits, notes) if "mask" in parts else False)
    image, noise = np.where(flagged, 0.0, image), np.where(flagged, typical, noise)
    size = min(image.shape)
    height, width = image.shape
    top, left = (height - size) // 2, (width - size) // 2
    image, noise, mask = (array[top : top + size, left : left + size] for array in (image, noise, mask))
    middle = mask[size // 4 : -size // 4, size // 4 : -size // 4]
    if middle.mean() > 0.5:
        hint = "; in its mask 1 means not to be used" if "mask" in parts else ""
        raise DataError(
            f"{where}: {middle.mean():.0%} of the central pixels are masked or empty; too little is left{hint}"
        )
    psf = None
    if "psf" in parts:
        psf = _centred(where, _flat(parts["psf"].array), notes)
        own = _own_scale(parts["psf"])
        if own and abs(own / scale - 1) > 0.05:
            notes.append(f"the PSF's header says {own:g} arcsec a pixel, the image's {scale:g}: taken as the image's")
    else:
        notes.append("no PSF: light is modelled as if the image were sharp")
    return Observation(name, band, image, noise, mask, psf, scale, about, tuple(notes))


def _own_scale(plane: _Plane) -> float | None:
    with contextlib.suppress(ValueError):
        return header_scale(plane.header) if hasattr(plane.header, "comments") else None
    return None


def _flat(array: np.ndarray) -> np.ndarray:
    """An array as numbers, without axes of length one."""
    return np.squeeze(np.asarray(array, dtype=float))


# Noise


def _noise(where: str, image: np.ndarray, role: str, parts: dict[str, _Plane], notes: list[str]):
    """Standard deviation of every pixel by what has the `role`, and which pixels have a value."""
    if not role:
        empty = _empty(image)
        rms = _border_noise(image, empty)
        if not rms:
            raise DataError(f"{where}: no noise map, and the border has no noise to estimate it from; add a noise map")
        notes.append(f"no noise map: {rms:.3g} a pixel, as between neighbours at the border; without photon noise")
        return np.full(image.shape, rms), ~empty
    plane, known = parts[role], np.isfinite(image)
    array, called = _flat(plane.array), plane.name if plane.name not in ("", "PRIMARY") else role
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


# Masks and PSFs


def _mask(where: str, plane: _Plane, mask_bits: Sequence[int] | None, notes: list[str]) -> np.ndarray:
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


def _centred(where: str, psf: np.ndarray, notes: list[str]) -> np.ndarray:
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


def write(observation: Observation, folder: str | Path) -> Path:
    """Write the observation as `data.fits`, `noise_map.fits`, `psf.fits`, `mask.fits` and `info.json`, which `read`
    opens; returns the folder."""
    from astropy.io import fits

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"data": observation.image, "noise_map": observation.noise, "mask": observation.mask.astype(float)}
    for name, array in (parts | ({} if observation.psf is None else {"psf": observation.psf})).items():
        unit = fits.PrimaryHDU(array)
        unit.header["PIXSCALE"] = observation.pixel_scale
        unit.writeto(folder / f"{name}.fits", overwrite=True)
    about = observation.about | {"pixel_scale": observation.pixel_scale}
    (folder / "info.json").write_text(json.dumps(about, indent=1))
    return folder


def write_simulated(folder: str | Path, seed: int = 1, subhalo_mass: float = 1e10) -> Path:
    """Three simulated lenses as HST's ACS would see them, lens light included, as FITS files in folders of `folder`.

    The middle one has a subhalo of `subhalo_mass` solar masses on its ring, whose place and mass stand in
    its `info.json` as a published one's would; the others are smooth.
    """
    generator, preset, telescope = np.random.default_rng(seed), preset_named("realistic"), INSTRUMENTS["hst-acs"]
    bright = {"source_magnitude_min": 21.0, "source_magnitude_max": 21.5, "source_index_max": 2.0}
    population = population_of("realistic", {"instrument": telescope.name, "lens_light": True, **bright})
    sigma = telescope.psf_fwhm / telescope.pixel_scale / 2.355
    profile = gaussian_kernel(sigma)
    for number in range(3):
        row = preset.draw("no_sub", generator, population)
        about: dict = {"redshift_lens": LENS_REDSHIFT, "redshift_source": SOURCE_REDSHIFT}
        if number == 1:
            angle = generator.uniform(0, 2 * math.pi)
            x, y = row["einstein_radius"] * math.cos(angle), row["einstein_radius"] * math.sin(angle)
            row |= {"subhalo_x": np.array([x]), "subhalo_y": np.array([y]), "subhalo_mass": np.array([subhalo_mass])}
            about["subhalo"] = {"x": x, "y": y, "mass": subhalo_mass}
        clean = render(row, "realistic", instrument=telescope.name)[0, 0].astype(float)
        image = noisy(clean, telescope, row["exposure_time"], generator)
        noise = np.sqrt(noise_variance(clean, telescope, row["exposure_time"]))
        empty = np.zeros(image.shape, bool)
        lens = Observation("", "", image, noise, empty, np.outer(profile, profile), telescope.pixel_scale, about)
        write(lens, Path(folder) / f"simulated-{number + 1}")
    return Path(folder)


def psf_fwhm(observation: Observation) -> float:
    """Full width at half maximum of the PSF in arcseconds, that of a Gaussian with as many pixels above half its peak;
    a pixel where the PSF is unknown."""
    if observation.psf is None:
        return observation.pixel_scale
    above = (observation.psf > observation.psf.max() / 2).sum()
    return 2 * math.sqrt(above / math.pi) * observation.pixel_scale


def cropped(observation: Observation, side: float) -> Observation:
    """The central `side` arcseconds, or all where the image is smaller."""
    size = len(observation.image)
    wanted = min(size, math.ceil(side / observation.pixel_scale))
    wanted += (size - wanted) % 2
    parts = {name: centre_crop(getattr(observation, name), wanted) for name in ("image", "noise", "mask")}
    return replace(observation, **parts)


# To a network's pixels


def filled(observation: Observation, generator: np.random.Generator, behind: np.ndarray | float = 0.0) -> np.ndarray:
    """The image `(H, H)` with its masked pixels replaced by `behind` (a model, or empty sky) and a draw of noise."""
    noise = generator.normal(0, observation.noise)
    return np.where(observation.mask, behind + noise, observation.image)


def network_input(
    image: np.ndarray,
    observation: Observation,
    card: dict,
    *,
    noise: float,
    generator: np.random.Generator,
    center: tuple[float, float] = (0.0, 0.0),
    pixel_scale: float | None = None,
) -> np.ndarray:
    """`image` `(H, H)` of an observation as the images `(1, C, S, S)` that the network of this `card` was trained on.

    The field of view and the pixels are those of the card's data; cropping, binning and scaling happen in
    `TrainedNetwork.predict`. Brightness is scaled so that the sky's noise is `noise`, that of the training images: then
    what the network finds faint is faint. Where the cutout ends before the field of view does, there is empty sky with
    its noise. `pixel_scale` is for a network whose card does not say it. Raises `DataError` where the pixel scale is
    unknown or the cutout covers less than three quarters of the field of view.
    """
    size, scale = card["image_size"], pixel_scale or card["data"].get("pixel_scale")
    if not scale:
        raise DataError(
            f"the card of {card['network']} does not say the pixel scale of its training images (files did not "
            "say it, or presets differ in it), so no real image can be brought to it; say network_input(..., "
            "pixel_scale=0.05)"
        )
    if observation.field_of_view < 0.75 * size * scale:
        raise DataError(
            f"{observation}: {observation.field_of_view:.2f} arcsec wide, but {card['network']} needs "
            f"{size * scale:.2f}; use a larger cutout"
        )
    image = resample(image, observation.pixel_scale, size, scale, center)
    rows = shares(len(observation.noise), observation.pixel_scale, size, scale, center[1]) ** 2
    columns = shares(len(observation.noise), observation.pixel_scale, size, scale, center[0]) ** 2
    sky = float(np.quantile(observation.noise, 0.1))
    variance = rows @ np.full_like(observation.noise, sky**2) @ columns.T
    typical = math.sqrt(np.median(variance))
    beyond = np.sqrt(np.clip(typical**2 - variance, 0, None)) * (variance < 0.5 * typical**2)
    image = (image + generator.normal(0, 1, image.shape) * beyond) * (noise / typical)
    return np.repeat(image[None, None], card["in_channels"], axis=1).astype(np.float32)
