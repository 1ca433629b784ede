"""Reading real cutouts: FITS and HDF5 files, with noise map, PSF and mask inside or beside them, as `Observation`s.

`read_observation` opens one lens in one band, whatever of the known layouts it is in, `read_observations` everything in
a folder. A bad pixel (NaN, no noise, a noise map that flags it with an absurd value, another galaxy) is in `mask`.
Whatever had to be assumed or done on the way is in `notes`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lensstudy.data.companions import (
    FILLERS,
    LENSTRONOMY,
    ROLES,
    belongs,
    companions,
    information,
    role_and_key,
    row_of,
    stem,
)
from lensstudy.data.dataset import DataError
from lensstudy.data.fits import SUFFIXES, bands, opened, pixels
from lensstudy.data.formats import HDF5, own_pixels
from lensstudy.data.scale import hdf5_scale, header_scale
from lensstudy.files import regular, tree
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.planes import Plane, centred_psf, flat, mask_of, noise_of

__all__ = ["read_observation", "read_observations"]

BAND = r"f\d{3}[a-z]+|vis|(nir|des)[ _-][a-z]|[ugrizyjhk]"
FLAGGED = 1e3  # times the median noise: pixels that a noise map marks as useless (Euclid writes 1e16)
SCALES = (0.005, 2.0)  # arcsec a pixel: what optical and near-infrared cutouts of lenses have
LEAST = 16  # pixels a side
NOISE_ROLES = ("noise", "variance", "inverse variance", "weight")  # the first that is there gives the noise


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
        >>> from lensstudy.observations.writing import write_simulated
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
        >>> from lensstudy.observations.writing import write_simulated
        >>> len(read_observations(write_simulated(tempfile.mkdtemp()))[0])
        3
    """
    attempts = list(_attempts(_place(path), pixel_scale, mask_bits))
    found = sorted((one for _, one in attempts if isinstance(one, Observation)), key=str)
    rejected = {where: str(error) for where, error in attempts if isinstance(error, DataError)}
    for file in _without_image(_place(path)):
        role = role_and_key(stem(file.name))[0].replace("other", "map")
        rejected[str(file)] = f"{file}: called a {role}, but of no image beside it; if it is an image, rename it"
    if not found:
        raise DataError("\n".join(rejected.values()))
    return found, rejected


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


def _read_file(file: Path, pixel_scale: float | None) -> dict[str, dict]:
    """What is in a file, its companions and `info.json`, by band, as `_checked` takes it."""
    about, beside = row_of(file) | information(file), _companions(file)
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


Parts = tuple[dict[str, Plane], float | None, list[str]]  # what is there by its role, the pixel scale, notes


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


def _plane(hdu) -> Plane:
    return Plane(pixels(hdu), hdu.name, hdu.header)


def _stored(file, name: str) -> Plane:
    """An array of numbers in an open HDF5 file."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"'{name}' is no array of the file itself")
    return Plane(np.asarray(own_pixels(file[name])[()]), name, dict(file[name].attrs))


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
                parts["noise"] = Plane(np.sqrt(variance), "noise")
        return {"": (parts, hdf5_scale(file, LENSTRONOMY), [])}
    except Exception as error:  # whatever a damaged file makes h5py raise
        raise DataError(f"{file}: cannot be read as HDF5 ({error})") from None


def _companions(file: Path) -> dict[str, Plane]:
    """Noise map, PSF and mask in files beside the image: of the same name, or named for all images of the folder."""
    beside = {other: role_and_key(stem(other.name)) for other in sorted(file.parent.iterdir())}
    beside = {other: about for other, about in beside.items() if other.name.lower().endswith((*HDF5, *SUFFIXES))}
    key = beside[file][1] if file in beside else role_and_key(stem(file.name))[1]
    images = {key} | {other_key for role, other_key in beside.values() if role == "image"}
    parts: dict[str, Plane] = {}
    for other, (role, other_key) in sorted(beside.items(), key=lambda one: -len(one[1][1])):
        if other != file and role not in ("image", "other", *parts) and belongs(other_key, key, images):
            parts[role] = _companion(other, role)
    return parts


def _companion(file: Path, role: str) -> Plane:
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
    notes, image = list(notes), flat(parts["image"].array)
    if image.ndim != 2:
        raise DataError(f"{where}: an image of shape {image.shape}; expected one band (H, W): a file for each colour")
    if min(image.shape) < LEAST:
        raise DataError(f"{where}: {image.shape[0]}x{image.shape[1]} pixels; expected at least {LEAST} a side")
    if scale is None:
        raise DataError(
            f"{where}: the pixel scale is nowhere: no PIXSCALE or coordinates in the header, no info.json beside it. "
            "Write PIXSCALE (arcsec) into the header, 'pixel_scale' into info.json, or give it:"
            " --pixel-scale 0.05, read_observation(..., pixel_scale=0.05)"
        )
    if not SCALES[0] <= scale <= SCALES[1]:
        raise DataError(f"{where}: pixel scale {scale:g} arcsec; expected {SCALES[0]} to {SCALES[1]}: in degrees?")
    used = next((role for role in NOISE_ROLES if role in parts), "")
    for role in {used, "mask"} & set(parts):
        if (shape := flat(parts[role].array).shape) != image.shape:
            what = role if role in ("mask", "variance", "inverse variance") else f"{role} map"
            raise DataError(f"{where}: {what} of shape {shape} for an image of {image.shape}; expected the same")
    noise, known = noise_of(where, image, used, parts, notes)
    usable = np.isfinite(noise) & (noise > 0)
    if not (usable & known).any():
        raise DataError(f"{where}: no pixel with a finite value and a positive noise")
    typical = float(np.median(noise[usable]))
    flagged = ~known | ~usable | (noise > FLAGGED * typical)
    if flagged.any():
        notes.append(f"{flagged.sum()} pixels without a value or flagged by the noise map are masked")
    mask = flagged | (mask_of(where, parts["mask"], mask_bits, notes) if "mask" in parts else False)
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
        psf = centred_psf(where, flat(parts["psf"].array), notes)
        own = _own_scale(parts["psf"])
        if own and abs(own / scale - 1) > 0.05:
            notes.append(f"the PSF's header says {own:g} arcsec a pixel, the image's {scale:g}: taken as the image's")
    else:
        notes.append("no PSF: light is modelled as if the image were sharp")
    return Observation(name, band, image, noise, mask, psf, scale, about, tuple(notes))


def _own_scale(plane: Plane) -> float | None:
    with contextlib.suppress(ValueError):
        return header_scale(plane.header) if hasattr(plane.header, "comments") else None
    return None
