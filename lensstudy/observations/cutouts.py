"""Real telescope cutouts: reading them, masking bad pixels, bringing them to a network's pixels.

`read_observation` opens one lens in one band, whatever of the known layouts it is in, `read_observations` everything in
a folder. A bad pixel (NaN, no noise, a noise map that flags it with an absurd value, another galaxy) is in `mask`.
`network_input` brings an image to the pixels, the field of view and the brightness of a trained network's images;
`lens_light` subtracts the lens galaxy first.

Arrays are as in FITS: row 0 is at the bottom, x runs to the right and y upwards, in arcseconds from the middle of the
image.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lensstudy.data.companions import FILLERS, ROLES, companions, information, role_and_key, stem
from lensstudy.data.dataset import DataError, sky_and_noise
from lensstudy.data.fits import SUFFIXES, opened, pixels
from lensstudy.data.formats import HDF5
from lensstudy.data.resampling import resample, shares
from lensstudy.data.scale import header_scale
from lensstudy.files import regular, tree
from lensstudy.lensing.cosmology import LENS_REDSHIFT, SOURCE_REDSHIFT
from lensstudy.lensing.instruments import INSTRUMENTS, gaussian_kernel, noise_variance, noisy
from lensstudy.lensing.populations import preset_named
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


def read_observation(path: str | Path, band: str = "", pixel_scale: float | None = None) -> Observation:
    """Read one lens in one band.

    Args:
        path: a FITS file with its noise map, PSF and mask beside it (`data.fits`, `noise_map.fits`, ...; `m87.fits`,
            `m87_rms.fits`, ...), a folder of such files, a FITS file with them in its extensions (`VIS_BGSUB`,
            `VIS_PSF`, `VIS_RMS`), or an HDF5 file of lenstronomy.
        band: which one, where there are several.
        pixel_scale: in arcseconds, for files that do not hold it.

    Returns:
        The observation. A missing noise map is estimated, which `notes` say.

    Raises:
        DataError: the image cannot be used, its pixel scale is unknown, or there are several.

    Example:
        >>> import tempfile
        >>> folder = write_simulated(tempfile.mkdtemp())
        >>> read_observation(sorted(folder.iterdir())[0]).image.ndim
        2
    """
    found: dict[str, Observation] = {}
    for _, one in _attempts(_place(path), pixel_scale):
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


def read_observations(path: str | Path, pixel_scale: float | None = None) -> tuple[list[Observation], dict[str, str]]:
    """Every observation in a folder and the folders inside it, by name and band; and of every image there that cannot
    be used, by its file (and band), the reason, noise maps and the like that belong to no image among them. Raises
    `DataError` where none can."""
    attempts = list(_attempts(_place(path), pixel_scale))
    found = sorted((one for _, one in attempts if isinstance(one, Observation)), key=str)
    refused = {where: str(error) for where, error in attempts if isinstance(error, DataError)}
    for file in _without_image(_place(path)):
        role = role_and_key(stem(file.name))[0]
        refused[str(file)] = f"{file}: called a {role}, but of no image beside it; if it is an image, rename it"
    if not found:
        raise DataError("\n".join(refused.values()))
    return found, refused


def _place(path: str | Path) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _attempts(path: Path, pixel_scale: float | None) -> Iterator[tuple[str, Observation | DataError]]:
    """Every image at `path`, by its file and band, or what is wrong with it."""
    for file in _images(path):
        try:
            bands = _read_file(file, pixel_scale)
        except DataError as error:
            yield str(file), error
            continue
        for band, parts in bands.items():
            where = f"{file} {band}".strip()
            try:
                yield where, _checked(where, _name_and_band(file)[0], band, **parts)
            except DataError as error:
                yield where, error


def _images(path: Path) -> list[Path]:
    """The files at `path` that are no noise map, PSF or mask."""
    if not path.exists():
        hint = "; the variable in it is not set" if "$" in str(path) else ""
        raise DataError(f"{path}: does not exist{hint}; give a FITS or HDF5 file, or a folder of them")
    files = _files(path)
    images = [file for file in files if len(files) == 1 or role_and_key(stem(file.name))[0] == "image"]
    if not images:
        raise DataError(f"{path}: no image in it; expected .fits or .h5 files that are no noise map, PSF or mask")
    return images


def _files(path: Path) -> list[Path]:
    files = [path / name for name in tree(path).files] if path.is_dir() else [path]
    return [file for file in files if file.name.lower().endswith((*SUFFIXES, *HDF5))]


def _without_image(path: Path) -> list[Path]:
    """Files that are called a noise map, PSF, mask or weight of an image that is not there."""
    files = _files(path)
    theirs = companions(map(str, files))
    none = (file for file in files if role_and_key(stem(file.name))[0] != "image" and str(file) not in theirs)
    return list(none) if len(files) > 1 else []


def _read_file(file: Path, pixel_scale: float | None) -> dict[str, dict]:
    """What is in a file, its companions and `info.json`, by band, as `_checked` takes it."""
    about, beside = information(file), _companions(file)
    _, band = _name_and_band(file)
    if file.name.lower().endswith(HDF5):
        bands = {band: _lenstronomy(file)}
    else:
        bands = _extensions(file)
        bands = {band: bands[""]} if list(bands) == [""] else bands
    return {
        band: {
            "scale": pixel_scale or parts.pop("scale", None) or about.get("pixel_scale"),
            "parts": beside | parts,
            "about": about,
        }
        for band, parts in bands.items()
    }


def _name_and_band(file: Path) -> tuple[str, str]:
    whole = file.name[: len(stem(file.name))]
    words = [word for word in re.split(r"[_ ]+", whole) if word.lower() not in (*ROLES["image"], *FILLERS)]
    band = next((word for word in words if re.fullmatch(BAND, word.lower())), "")
    name = "_".join(word for word in words if word != band)
    parent = file.resolve().parent
    if not name and not band and re.fullmatch(BAND, parent.name.lower()):
        return parent.parent.name, parent.name
    return name or parent.name, band.upper()


def _extensions(file: Path) -> dict[str, dict]:
    """The bands in a FITS file, and of each its image, noise, PSF, mask and pixel scale, as far as they are there."""
    bands: dict[str, dict] = {}
    try:
        with opened(file) as hdus:
            for hdu in hdus:
                if not hdu.is_image or hdu.header["NAXIS"] == 0:
                    continue
                role, key = role_and_key("" if hdu.name == "PRIMARY" else hdu.name)
                parts = bands.setdefault("_".join(key).upper(), {})
                parts.setdefault(role, np.asarray(pixels(hdu), dtype=float))
                if role == "image" and "scale" not in parts:
                    parts["scale"] = header_scale(hdu.header, hdus[0].header)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as FITS ({error})") from None
    bands = {band: parts for band, parts in bands.items() if "image" in parts}
    if not bands:
        raise DataError(f"{file}: no image in it; expected an image in the first unit or extensions such as VIS_FLUX")
    return bands


def _lenstronomy(file: Path) -> dict:
    """Image, noise and pixel scale from lenstronomy's HDF5: `variance = background_rms^2 + image/exposure_time`."""
    import h5py

    try:
        with h5py.File(regular(file)) as stored:
            if "image_data" not in stored:
                raise DataError(f"{file}: holds {', '.join(stored)}, but no 'image_data'; expected lenstronomy's names")
            image = np.asarray(stored["image_data"], dtype=float)
            parts: dict = {"image": image}
            if "background_rms" in stored:
                variance = np.full(image.shape, float(stored["background_rms"][()]) ** 2)
                if "exposure_time" in stored:
                    time = np.asarray(stored["exposure_time"], dtype=float)
                    variance += np.clip(image, 0, None) / np.where(time > 0, time, np.inf)
                parts["noise"] = np.sqrt(variance)
            if "transform_pix2angle" in stored:
                parts["scale"] = math.sqrt(abs(np.linalg.det(stored["transform_pix2angle"][()])))
            return parts
    except DataError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as HDF5 ({error})") from None


def _companions(file: Path) -> dict[str, np.ndarray]:
    """Noise map, PSF and mask in files beside the image: of the same name, or named for all images of the folder."""
    _, key = role_and_key(stem(file.name))
    parts: dict[str, np.ndarray] = {}
    for other in sorted(file.parent.iterdir(), key=lambda one: -len(role_and_key(stem(one.name))[1])):
        role, other_key = role_and_key(stem(other.name))
        if role not in ("noise", "psf", "mask") or role in parts or other_key not in (key, ()):
            continue
        if other.name.lower().endswith((*HDF5, *SUFFIXES)):
            parts[role] = _companion(other)
    return parts


def _companion(file: Path) -> np.ndarray:
    """The first array of a FITS or HDF5 file, which of lenstronomy's is the PSF of a point source."""
    try:
        if file.name.lower().endswith(HDF5):
            import h5py

            with h5py.File(regular(file)) as stored:
                return np.asarray(next(stored[n] for n in ("kernel_point_source", *stored) if n in stored), dtype=float)
        with opened(file) as hdus:
            return next(np.asarray(pixels(hdu), dtype=float) for hdu in hdus if hdu.is_image and hdu.header["NAXIS"])
    except (OSError, TypeError, ValueError, StopIteration) as error:
        raise DataError(f"{file}: no array can be read from it ({str(error) or 'it is empty'})") from None


def _checked(where: str, name: str, band: str, parts: dict, scale: float | None, about: dict) -> Observation:
    """An observation of what was read, square, finite, its useless pixels masked; `DataError` where that cannot be."""
    image, notes = parts["image"], []
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
    known = np.isfinite(image)
    noise = parts.get("noise")
    if noise is None:
        rms = sky_and_noise(np.where(known, image, np.nanmedian(image) if known.any() else 0)[None])[1]
        if not rms > 0:
            raise DataError(f"{where}: no noise map, and the border has no noise to estimate it from; add a noise map")
        noise = np.full(image.shape, rms)
        notes.append(f"no noise map: {rms:.3g} a pixel, as between neighbours at the border; without photon noise")
    for role, other in (("noise map", noise), ("mask", parts.get("mask", image))):
        if other.shape != image.shape:
            raise DataError(f"{where}: {role} of shape {other.shape} for an image of {image.shape}; expected the same")
    usable = np.isfinite(noise) & (noise > 0)
    if not (usable & known).any():
        raise DataError(f"{where}: no pixel with a finite value and a positive noise")
    typical = float(np.median(noise[usable]))
    flagged = ~known | ~usable | (noise > FLAGGED * typical)
    if flagged.any():
        notes.append(f"{flagged.sum()} pixels without a value or flagged by the noise map are masked")
    mask = flagged | (np.nan_to_num(parts.get("mask", np.zeros_like(image))) > 0.5)
    image, noise = np.where(flagged, 0.0, image), np.where(flagged, typical, noise)
    size = min(image.shape)
    height, width = image.shape
    top, left = (height - size) // 2, (width - size) // 2
    image, noise, mask = (array[top : top + size, left : left + size] for array in (image, noise, mask))
    middle = mask[size // 4 : -size // 4, size // 4 : -size // 4]
    if middle.mean() > 0.5:
        raise DataError(f"{where}: {middle.mean():.0%} of the central pixels are masked or empty; too little is left")
    psf = parts.get("psf")
    if psf is None:
        notes.append("no PSF: light is modelled as if the image were sharp")
    psf = psf if psf is None else _odd(psf, where)
    return Observation(name, band, image, noise, mask, psf, scale, about, tuple(notes))


def _odd(psf: np.ndarray, where: str) -> np.ndarray:
    """A normalised PSF with an odd number of pixels a side, its peak in the middle."""
    psf = np.nan_to_num(psf)
    if psf.ndim != 2 or psf.sum() <= 0:
        raise DataError(f"{where}: a PSF of shape {psf.shape} and sum {psf.sum():g}; expected (h, w) and positive")
    row, column = np.unravel_index(psf.argmax(), psf.shape)
    middle = psf.shape[0] // 2, psf.shape[1] // 2
    if psf.shape[0] % 2 and psf.shape[1] % 2 and psf[middle] > 0.9 * psf.max():
        row, column = middle
    reach = min(row, column, psf.shape[0] - 1 - row, psf.shape[1] - 1 - column)
    psf = psf[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return psf / psf.sum()


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
    population = preset.with_population({"instrument": telescope.name, "lens_light": True, **bright})
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
