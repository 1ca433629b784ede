"""Real telescope cutouts: reading them, taking the lens galaxy's light away, bringing them to a network's pixels.

`read` opens one lens in one band, whatever of the known layouts it is in, `read_all` everything in a folder. A pixel
that says nothing (NaN, no noise, a noise map that flags it with an absurd value, another galaxy) is in `mask`.
`fit_lens_light` models the galaxy in front as a sum of Gaussians and says how well that works, `network_input` brings
what is left to the pixels, the field of view and the brightness that a trained network knows.

Arrays are as in FITS: row 0 is at the bottom, x runs to the right and y upwards, in arcseconds from the middle of the
image.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import ndimage, optimize, signal

from lensstudy.dataset import DataError, sky_and_noise
from lensstudy.formats import FITS, HDF5
from lensstudy.symmetry import centre_crop

__all__ = [
    "LensLight",
    "Observation",
    "cropped",
    "filled",
    "fit_lens_light",
    "network_input",
    "psf_fwhm",
    "read",
    "read_all",
    "resample",
    "ring_radius",
    "subtract_lens_light",
    "write",
]

ROLES = {  # words in the name of a file or of a FITS extension that say what is in it
    "psf": ("psf", "kernel"),
    "noise": ("noise", "rms", "sigma", "err", "error"),
    "mask": ("mask",),
    "image": ("data", "image", "flux", "bgsub", "sci"),
}
FILLERS = ("map", "extra", "galaxies")  # words that tell no file from another
BAND = r"f\d{3}[a-z]+|vis|(nir|des)[ _-][a-z]|[ugrizyjhk]"
FLAGGED = 1e3  # times the median noise: pixels that a noise map marks as useless (Euclid writes 1e16)
SCALES = (0.005, 2.0)  # arcsec a pixel: what optical and near-infrared cutouts of lenses have
LEAST = 16  # pixels a side


@dataclass(frozen=True)
class Observation:
    """One lens in one band.

    `image` and its standard deviation `noise` are `(H, H)`, `mask` is True where a pixel is to be left out, `psf` is
    normalised, with an odd number of pixels a side, or None where nobody knows it. `about` holds what stood beside the
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


def read(path: str | Path, band: str = "", pixel_scale: float | None = None) -> Observation:
    """The observation at `path`: a FITS file with its noise map, PSF and mask beside it (`data.fits`, `noise_map.fits`,
    ...; `m87.fits`, `m87_rms.fits`, ...), a folder of such files, a FITS file with them in its extensions
    (`VIS_BGSUB`, `VIS_PSF`, `VIS_RMS`), or an HDF5 file of lenstronomy.

    `band` chooses where there are several, `pixel_scale` (arcsec) is for files that do not say it. Raises `DataError`
    where an image cannot be used or its pixel scale is unknown; a missing noise map is estimated, and noted.
    """
    found = {observation.band: observation for observation in _observations(Path(path).expanduser(), pixel_scale)}
    if band and band not in found:
        raise DataError(f"{path}: band '{band}' is not there; there are {', '.join(map(repr, found))}")
    if len(found) > 1 and not band:
        raise DataError(f"{path}: {len(found)} images, of the bands {', '.join(found)}; say band='{next(iter(found))}'")
    return found[band] if band else next(iter(found.values()))


def read_all(path: str | Path, pixel_scale: float | None = None) -> list[Observation]:
    """Every observation in a folder and the folders inside it, by name and band."""
    return sorted(_observations(Path(path).expanduser(), pixel_scale), key=str)


def _observations(path: Path, pixel_scale: float | None) -> Iterator[Observation]:
    if not path.exists():
        raise DataError(f"{path}: does not exist; give a FITS or HDF5 file, or a folder of them")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    files = [file for file in files if file.name.lower().endswith((*FITS, *HDF5))]
    images = [file for file in files if len(files) == 1 or _role_and_key(_stem(file))[0] == "image"]
    if not images:
        raise DataError(f"{path}: no image in it; expected .fits or .h5 files that are no noise map, PSF or mask")
    for file in images:
        yield from _read_file(file, pixel_scale)


def _stem(file: Path) -> str:
    return file.name.lower().removesuffix(".gz").rsplit(".", 1)[0]


def _role_and_key(name: str) -> tuple[str, tuple[str, ...]]:
    """What a file holds by its name, and the words that it shares with the other files of the same lens."""
    words = [word for word in re.split(r"[_. -]+", name.lower()) if word and word not in FILLERS]
    named = [(role, word) for role, known in ROLES.items() for word in words if word in known]
    role_words = {word for _, word in named}
    return (named[0][0] if named else "image"), tuple(word for word in words if word not in role_words)


def _read_file(file: Path, pixel_scale: float | None) -> Iterator[Observation]:
    about = _information(file)
    name, band = _name_and_band(file)
    if file.name.lower().endswith(HDF5):
        bands = {band: _lenstronomy(file)}
    else:
        bands = _extensions(file)
        bands = {band: bands[""]} if list(bands) == [""] else bands
    for band, parts in bands.items():
        parts = _companions(file) | parts
        scale = pixel_scale or parts.pop("scale", None) or about.get("pixel_scale")
        yield _checked(f"{file.name} {band}".strip(), name, band, parts, scale, about)


def _information(file: Path) -> dict:
    """`info.json` beside the image, as PyAutoLens keeps it: pixel scale, redshifts, published parameters."""
    beside = file.with_name("info.json")
    return json.loads(beside.read_text()) if beside.exists() else {}


def _name_and_band(file: Path) -> tuple[str, str]:
    stem = file.name[: len(_stem(file))]
    words = [word for word in re.split(r"[_ ]+", stem) if word.lower() not in (*ROLES["image"], *FILLERS)]
    band = next((word for word in words if re.fullmatch(BAND, word.lower())), "")
    name = "_".join(word for word in words if word != band)
    parent = file.resolve().parent
    if not name and not band and re.fullmatch(BAND, parent.name.lower()):
        return parent.parent.name, parent.name
    return name or parent.name, band.upper()


def _extensions(file: Path) -> dict[str, dict]:
    """The bands in a FITS file, and of each its image, noise, PSF, mask and pixel scale, as far as they are there."""
    from astropy.io import fits

    bands: dict[str, dict] = {}
    try:
        with fits.open(file, memmap=False) as units:
            for unit in units:
                if unit.data is None or not np.issubdtype(unit.data.dtype, np.number):
                    continue
                words = re.split(r"_+", unit.name if unit.name != "PRIMARY" else "")
                role, key = _role_and_key("_".join(words))
                parts = bands.setdefault("_".join(key).upper(), {})
                parts.setdefault(role, np.asarray(unit.data, dtype=float))
                if role == "image":
                    parts.setdefault("scale", _scale_of(unit.header))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as FITS ({error})") from None
    bands = {band: parts for band, parts in bands.items() if "image" in parts}
    if not bands:
        raise DataError(f"{file}: no image in it; expected an image in the first unit or extensions such as VIS_FLUX")
    return bands


def _scale_of(header) -> float | None:
    """Arcseconds a pixel, from PIXSCALE or from the header's coordinates."""
    if "PIXSCALE" in header:
        return float(header["PIXSCALE"])
    if "CD1_1" in header:
        matrix = [[header.get(f"CD{i}_{j}", 0.0) for j in (1, 2)] for i in (1, 2)]
    elif "CTYPE1" in header and "CDELT1" in header:
        matrix = [[header.get(f"PC{i}_{j}", float(i == j)) * header[f"CDELT{i}"] for j in (1, 2)] for i in (1, 2)]
    else:
        return None
    return 3600 * math.sqrt(abs(np.linalg.det(matrix))) or None


def _lenstronomy(file: Path) -> dict:
    """Image, noise and pixel scale from lenstronomy's HDF5: `variance = background_rms^2 + image/exposure_time`."""
    import h5py

    try:
        with h5py.File(file) as stored:
            if "image_data" not in stored:
                raise DataError(f"{file}: holds {', '.join(stored)}, but no 'image_data'; expected lenstronomy's names")
            image = np.asarray(stored["image_data"], dtype=float)
            parts = {"image": image}
            if "background_rms" in stored:
                variance = np.full(image.shape, float(stored["background_rms"][()]) ** 2)
                if "exposure_time" in stored:
                    time = np.asarray(stored["exposure_time"], dtype=float)
                    variance += np.clip(image, 0, None) / np.where(time > 0, time, np.inf)
                parts["noise"] = np.sqrt(variance)
            if "transform_pix2angle" in stored:
                parts["scale"] = math.sqrt(abs(np.linalg.det(stored["transform_pix2angle"][()])))
            return parts
    except OSError as error:
        raise DataError(f"{file}: cannot be read as HDF5 ({error})") from None


def _companions(file: Path) -> dict[str, np.ndarray]:
    """Noise map, PSF and mask in files beside the image: of the same name, or named for all images of the folder."""
    _, key = _role_and_key(_stem(file))
    parts: dict[str, np.ndarray] = {}
    for other in sorted(file.parent.iterdir(), key=lambda one: -len(_role_and_key(_stem(one))[1])):
        role, other_key = _role_and_key(_stem(other))
        if role == "image" or role in parts or other_key not in (key, ()):
            continue
        if other.name.lower().endswith(HDF5):
            import h5py

            with h5py.File(other) as stored:
                parts[role] = np.asarray(next(stored[name] for name in ("kernel_point_source", *stored)), dtype=float)
        elif other.name.lower().endswith(FITS):
            from astropy.io import fits

            with fits.open(other, memmap=False) as units:
                parts[role] = next(np.asarray(unit.data, dtype=float) for unit in units if unit.data is not None)
    return parts


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
            "Write PIXSCALE (arcsec) into the header, 'pixel_scale' into info.json, or say read(..., pixel_scale=0.05)"
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
        notes.append(f"no noise map: {rms:.3g} a pixel, as between neighbours at the border; photon noise is left out")
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


# The light of the lens galaxy


@dataclass(frozen=True)
class LensLight:
    """The galaxy in front as a sum of Gaussians: `model` `(H, H)` with the `sky` in it.

    `ellipticity` is `(e1, e2)` inside and `(e1, e2)` outside; `arcs` is True where light of the source was found and left
    out of the fit. `chi2_core` and `chi2` are residuals squared in units of the noise, a pixel: within `core_radius`
    (arcsec) and outside, arcs left out. About 1 is a fit to the noise.
    """

    model: np.ndarray
    sky: float
    center: tuple[float, float]
    ellipticity: tuple[float, float, float, float]
    arcs: np.ndarray
    core_radius: float
    chi2_core: float
    chi2: float

    @property
    def good(self) -> bool:
        """Whether the core is fitted to within twice the noise."""
        return self.chi2_core < 4


def fit_lens_light(observation: Observation, gaussians: int = 12, rounds: int = 4) -> LensLight:
    """Fit the lens galaxy with concentric elliptical Gaussians, seen through the PSF, and a flat sky (Emsellem, Monnet
    and Bacon 1994; Cappellari 2002).

    The centre and two ellipticities, of the narrow half and of the wide half of the Gaussians, are adjusted: isophotes
    of real galaxies twist. The amplitudes, none of them negative, follow from them linearly. A sum of such
    Gaussians can only fall outwards, so a ring cannot hide in it. What stands out of the fit by three sigma, smoothed,
    is taken for arcs and left out of the next round; the first round leaves out what stands out of the run of the
    brightness with radius, made to fall outwards.
    """
    x, y = observation.grid()
    core_radius = max(2 * psf_fwhm(observation), 0.25)
    widths = np.geomspace(0.6 * observation.pixel_scale, observation.field_of_view / 3, gaussians)
    shape = np.array([*_brightest(observation), 0.0, 0.0, 0.0, 0.0])
    smooth = _falling_profile(observation, shape[:2])
    arcs = _stands_out(observation, smooth, shape[:2], core_radius)
    for _ in range(rounds):
        use = ~(observation.mask | arcs)
        shape, basis, amplitudes = _fit_gaussians(observation, widths, use, shape)
        model = np.tensordot(amplitudes, basis, 1)
        arcs = _stands_out(observation, model, shape[:2], core_radius)
    chi = (observation.image - model) / observation.noise
    core = (np.hypot(x - shape[0], y - shape[1]) < core_radius) & ~observation.mask
    rest = ~core & use
    return LensLight(
        model,
        float(amplitudes[-1]),
        tuple(shape[:2].tolist()),
        tuple(shape[2:].tolist()),
        arcs,
        core_radius,
        float((chi[core] ** 2).mean()),
        float((chi[rest] ** 2).mean()),
    )


def _brightest(observation: Observation) -> tuple[float, float]:
    """Centre of light of the brightest spot within half an arcsecond of the middle."""
    x, y = observation.grid()
    image = ndimage.gaussian_filter(np.where(observation.mask, 0, observation.image), 1.5)
    near = np.hypot(x, y) < 0.5
    row, column = np.unravel_index(np.where(near, image, -np.inf).argmax(), image.shape)
    return float(x[0, column]), float(y[row, 0])


def _falling_profile(observation: Observation, center: np.ndarray) -> np.ndarray:
    """The lower quartile of brightness at each radius, made to fall outwards, as an image."""
    x, y = observation.grid()
    radius = np.hypot(x - center[0], y - center[1]) / observation.pixel_scale
    ring = radius.astype(int)
    image = np.where(observation.mask, np.nan, observation.image)
    quartile = np.array([np.nanpercentile(image[ring == r], 25) for r in range(ring.max() + 1)])
    quartile = np.minimum.accumulate(np.where(np.isfinite(quartile), quartile, np.inf))
    return np.interp(radius, np.arange(len(quartile)) + 0.5, quartile)


def _stands_out(observation: Observation, model: np.ndarray, center: np.ndarray, core_radius: float) -> np.ndarray:
    """Pixels outside the core whose light, smoothed, is three sigma and a twentieth above `model`, and those beside."""
    x, y = observation.grid()
    sigma = max(psf_fwhm(observation) / observation.pixel_scale / 2.355, 0.7)
    excess = ndimage.gaussian_filter(np.where(observation.mask, 0, observation.image - model), sigma)
    noise = observation.noise / (2 * math.sqrt(math.pi) * sigma)  # of the smoothed image, pixels being independent
    outside = np.hypot(x - center[0], y - center[1]) > core_radius
    above = (excess > 3 * noise) & (excess > 0.05 * np.abs(model)) & outside
    return ndimage.binary_dilation(ndimage.binary_opening(above), iterations=2)


def _fit_gaussians(observation: Observation, widths, use, start) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape `(x, y, e1, e2, e1, e2)`, blurred Gaussians and sky `(K + 1, H, W)`, and their amplitudes."""
    x, y = observation.grid()
    weight = np.where(use, 1 / observation.noise, 0)

    def basis_of(shape: np.ndarray) -> np.ndarray:
        dx, dy, half = x - shape[0], y - shape[1], len(widths) // 2
        inner, outer = (elliptical_radius_squared(dx, dy, *shape[i : i + 2]) for i in (2, 4))
        radius_squared = np.stack([inner] * half + [outer] * (len(widths) - half))
        light = np.exp(-radius_squared / (2 * widths[:, None, None] ** 2))
        if observation.psf is not None:
            light = signal.fftconvolve(light, observation.psf[None], mode="same", axes=(1, 2))
        return np.concatenate([light, np.ones((1, *light.shape[1:]))])

    def solve(basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        design = (basis * weight).reshape(len(basis), -1)[:, use.ravel()].T
        data = (observation.image * weight)[use]
        size = np.linalg.norm(design, axis=0)
        triangle = np.linalg.qr(np.column_stack([design / size, data]), mode="r")
        signed = np.column_stack([triangle[:, :-1], -triangle[:, -2]])  # the sky may be below zero
        amplitudes = optimize.nnls(signed, triangle[:, -1])[0]
        amplitudes = np.append(amplitudes[: len(size) - 1], amplitudes[-2] - amplitudes[-1]) / size
        return amplitudes, data - design @ amplitudes

    middle, reach = np.append(start[:2], [0.0] * 4), np.array([0.3, 0.3, 0.6, 0.6, 0.6, 0.6])
    found = optimize.least_squares(
        lambda shape: solve(basis_of(shape))[1],
        start,
        bounds=(middle - reach, middle + reach),
        x_scale=[0.02, 0.02, 0.05, 0.05, 0.05, 0.05],
        diff_step=1e-4,
        max_nfev=12,
        ftol=1e-4,
    )
    basis = basis_of(found.x)
    return found.x, basis, solve(basis)[0]


def elliptical_radius_squared(dx, dy, e1: float, e2: float) -> np.ndarray:
    """`q x^2 + y^2/q` along the axes of an ellipse of that ellipticity, as in `lensing.sersic`."""
    modulus, angle = math.hypot(e1, e2), 0.5 * math.atan2(e2, e1)
    q = (1 - modulus) / (1 + modulus)
    along, across = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx
    return q * along**2 + across**2 / q


def subtract_lens_light(observation: Observation, light: LensLight) -> Observation:
    """The observation without the galaxy in front; pixels of the core that the model misses by 5 sigma are masked."""
    x, y = observation.grid()
    left = observation.image - light.model
    core = np.hypot(x - light.center[0], y - light.center[1]) < light.core_radius
    missed = core & (np.abs(left) > 5 * observation.noise)
    note = f"lens light subtracted; {missed.sum()} pixels of the core are masked, where the model misses by 5 sigma"
    return replace(observation, image=left, mask=observation.mask | missed, notes=(*observation.notes, note))


def ring_radius(observation: Observation, light: LensLight) -> float:
    """Radius in arcseconds at which the arcs hold most light, once the lens's own is taken away."""
    x, y = observation.grid()
    radius = np.hypot(x - light.center[0], y - light.center[1])
    arcs = light.arcs & ~observation.mask & (radius < observation.field_of_view / 2)
    if not arcs.any():
        raise DataError(f"{observation}: no arcs stand out of the lens galaxy by 3 sigma; use a deeper image")
    step = max(observation.pixel_scale, 0.05)
    edges = np.arange(0, observation.field_of_view / 2 + step, step)
    held = np.histogram(radius[arcs], edges, weights=np.clip(observation.image - light.model, 0, None)[arcs])[0]
    return float(edges[ndimage.gaussian_filter1d(held, 1.5).argmax()] + step / 2)


# To a network's pixels


def resample(image: np.ndarray, pixel_scale: float, size: int, new_scale: float, center=(0.0, 0.0)) -> np.ndarray:
    """`image` `(..., H, W)`, flux a pixel, on `size` x `size` pixels of `new_scale` arcsec about `center` (arcsec).

    Each pixel's flux is shared out by the area that falls into each new one, so all flux within the new field stays.
    The PSF stays what it is, blurred by a pixel's width.
    """
    rows = _shares(image.shape[-2], pixel_scale, size, new_scale, center[1])
    columns = _shares(image.shape[-1], pixel_scale, size, new_scale, center[0])
    return rows @ image @ columns.T


def _shares(count: int, pixel_scale: float, size: int, new_scale: float, center: float) -> np.ndarray:
    """Share of each of `count` pixels that falls into each of `size` new ones, along one axis: `(size, count)`."""
    old = (np.arange(count + 1) - count / 2) * pixel_scale - center
    new = (np.arange(size + 1) - size / 2) * new_scale
    overlap = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    return np.clip(overlap, 0, None) / pixel_scale


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
            f"the card of {card['network']} does not say the pixel scale of its training images (they were read from "
            "files without one), so no real image can be brought to it; say network_input(..., pixel_scale=0.05)"
        )
    if observation.field_of_view < 0.75 * size * scale:
        raise DataError(
            f"{observation}: {observation.field_of_view:.2f} arcsec wide, but {card['network']} looks at "
            f"{size * scale:.2f}; use a larger cutout"
        )
    image = resample(image, observation.pixel_scale, size, scale, center)
    rows = _shares(len(observation.noise), observation.pixel_scale, size, scale, center[1]) ** 2
    columns = _shares(len(observation.noise), observation.pixel_scale, size, scale, center[0]) ** 2
    sky = float(np.quantile(observation.noise, 0.1))
    variance = rows @ np.full_like(observation.noise, sky**2) @ columns.T
    typical = math.sqrt(np.median(variance))
    beyond = np.sqrt(np.clip(typical**2 - variance, 0, None)) * (variance < 0.5 * typical**2)
    image = (image + generator.normal(0, 1, image.shape) * beyond) * (noise / typical)
    return np.repeat(image[None, None], card["in_channels"], axis=1).astype(np.float32)
