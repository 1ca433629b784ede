"""A smooth model of a real lens, and its image with or without subhalos of known mass.

`fit_lens` fits an isothermal ellipsoid with shear and Sersic sources to a cutout whose lens light is subtracted, at its
own pixels, noise and PSF. `expected` renders the model, with subhalos in it if asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from lensstudy.data.dataset import DataError
from lensstudy.data.resampling import resample
from lensstudy.lensing.cosmology import area_per_mass, critical_density, critical_surface_density
from lensstudy.lensing.populations import MACRO
from lensstudy.lensing.profiles import nfw_scales, point_mass_sum, sersic, shear, sie, truncated_nfw_sum
from lensstudy.observations.cutouts import Observation

__all__ = ["SmoothModel", "Subhalo", "expected", "fit_lens", "subhalo_deflection"]

GALAXY = ("log_amplitude", "log_radius", "index", "e1", "e2", "x", "y")  # of each Sersic source
LOWEST = {"einstein_radius": 0.2, "lens_": -0.5, "shear_": -0.3, "log_radius": -4.0, "index": 0.4, "e": -0.6}
HIGHEST = {"einstein_radius": 4.0, "lens_": 0.5, "shear_": 0.3, "log_radius": 0.7, "index": 5.0, "e": 0.6}
REDSHIFTS = (0.5, 1.0)  # of lens and source by default, as in the simulations
CONCENTRATION, TRUNCATION = 13.0, 5.0  # of a halo of dark matter, as in the simulations


@dataclass(frozen=True)
class Subhalo:
    """A subhalo: its place in arcseconds and its mass in solar masses."""

    x: float
    y: float
    mass: float


@dataclass(frozen=True)
class SmoothModel:
    """A lens without substructure, fitted to an observation.

    `values` are those of `names`: the lens's (`MACRO`) and of each source its Sersic profile. `chi2` is a pixel's mean
    squared residual in units of the noise, over the `used` pixels `(H, H)`. `redshifts` are those of lens and source.
    """

    names: tuple[str, ...]
    values: np.ndarray
    observation: Observation
    used: np.ndarray
    chi2: float
    redshifts: tuple[float, float]
    redshifts_known: bool

    @property
    def parameters(self) -> dict[str, float]:
        """The values by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    @property
    def image(self) -> np.ndarray:
        """The noise-free image `(H, H)` of the model, without subhalos."""
        return expected(self)


# Rendering


def render(values: Tensor, x: Tensor, y: Tensor, psf: Tensor | None, subhalo=(0.0, 0.0)) -> Tensor:
    """Flux a pixel `(H, W)` of the model with these `values`; `subhalo` is an additional deflection `(H, W)` each."""
    lens, sources = values[: len(MACRO)], values[len(MACRO) :].reshape(-1, len(GALAXY))
    alpha_x, alpha_y = sie(x, y, *lens[:5])
    shear_x, shear_y = shear(x, y, *lens[5:])
    beta_x, beta_y = x - alpha_x - shear_x - subhalo[0], y - alpha_y - shear_y - subhalo[1]
    light = torch.zeros_like(beta_x)
    for log_amplitude, log_radius, index, e1, e2, center_x, center_y in sources:
        light = light + sersic(
            beta_x, beta_y, torch.exp(log_amplitude), torch.exp(log_radius), index, e1, e2, center_x, center_y
        )
    return light if psf is None else blurred(light, psf)


def blurred(light: Tensor, psf: Tensor) -> Tensor:
    """`light` `(H, W)` through a PSF of odd size, dark beyond the edge. Measured PSFs are wide, which is what Fourier
    transforms are for."""
    size = [light.shape[axis] + psf.shape[axis] - 1 for axis in (0, 1)]
    wide = torch.fft.irfft2(torch.fft.rfft2(light, s=size) * torch.fft.rfft2(psf, s=size), s=size)
    top, left = psf.shape[0] // 2, psf.shape[1] // 2
    return wide[top : top + light.shape[0], left : left + light.shape[1]]


def tensors(observation: Observation) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pixel centres and PSF of an observation, float64."""
    x, y = (torch.tensor(axis) for axis in observation.grid())
    return x, y, None if observation.psf is None else torch.tensor(np.ascontiguousarray(observation.psf))


def expected(model: SmoothModel, subhalos: Sequence[Subhalo] = (), profile: str = "truncated_nfw") -> np.ndarray:
    """Noise-free image `(H, H)` of the model at the observation's pixels and PSF, with `subhalos` added to its mass."""
    x, y, psf = tensors(model.observation)
    subhalo = subhalo_deflection(subhalos, x, y, model.redshifts, profile) if subhalos else (0.0, 0.0)
    with torch.inference_mode():
        return render(torch.tensor(model.values), x, y, psf, subhalo).numpy()


def subhalo_deflection(
    subhalos: Sequence[Subhalo], x: Tensor, y: Tensor, redshifts: tuple[float, float], profile: str = "truncated_nfw"
) -> tuple[Tensor, Tensor]:
    """Deflection `(H, W)` of the subhalos together, in arcseconds; `profile` is `point` or `truncated_nfw`."""
    mass = np.array([one.mass for one in subhalos], dtype=float)
    radius = torch.tensor(np.sqrt(mass * area_per_mass(*redshifts)))[None]
    center_x, center_y = (torch.tensor([[getattr(one, axis) for one in subhalos]], dtype=x.dtype) for axis in "xy")
    if profile == "point":
        alpha_x, alpha_y = point_mass_sum(x, y, radius, center_x, center_y)
    elif profile == "truncated_nfw":
        densities = critical_surface_density(*redshifts), critical_density(redshifts[0])
        scale, _ = nfw_scales(mass, CONCENTRATION, *densities)
        scale, truncation = torch.tensor(scale)[None], torch.full_like(radius, TRUNCATION)
        alpha_x, alpha_y = truncated_nfw_sum(x, y, radius, scale, truncation, center_x, center_y)
    else:
        raise DataError(f"profile '{profile}' is unknown; choose point or truncated_nfw")
    return alpha_x[0], alpha_y[0]


# Fitting


def fit_lens(
    observation: Observation, einstein_radius: float, *, sources: int = 1, tries: int = 400, seed: int = 0
) -> SmoothModel:
    """Fit an isothermal ellipsoid with shear and Sersic sources to a cutout without lens light.

    Many random lenses are compared with the image at coarse pixels, the three likeliest fitted by least squares, and
    further sources added to the best of them.

    Args:
        observation: a cutout whose lens light is subtracted (`subtract_lens_light`).
        einstein_radius: guess to start from, in arcseconds, such as `ring_radius`; pixels within 1.8 times that count.
        sources: number of Sersic profiles of the source.
        tries: number of random lenses.
        seed: of the random lenses.

    Returns:
        The model, with its values by name in `parameters` and the reduced chi square in `chi2`.

    Raises:
        DataError: fewer than 100 pixels are left to fit, no lens resembles the image, or redshifts are impossible.

    Example:
        >>> y, x = np.mgrid[-1.5:1.5:31j, -1.5:1.5:31j]
        >>> ring = np.exp(-(((np.hypot(x, y) - 1) / 0.2) ** 2) / 2)
        >>> noise, mask = np.full_like(ring, 0.1), np.zeros(ring.shape, bool)
        >>> model = fit_lens(Observation("ring", "", ring, noise, mask, None, 0.1), 0.9, tries=20)
        >>> round(model.parameters["einstein_radius"], 1)
        1.0
    """
    redshifts, known = redshifts_of(observation)
    x, y = observation.grid()
    used = ~observation.mask & (np.hypot(x, y) < 1.8 * einstein_radius)
    if used.sum() < 100:
        raise DataError(
            f"{observation}: {used.sum()} pixels to fit within {1.8 * einstein_radius:.2f} arcsec; need 100"
        )
    starts = likely_starts(observation, used, einstein_radius, tries, np.random.default_rng(seed))
    best = min((adjust(observation, used, start, 8) for start in starts), key=lambda found: found[1])
    values, chi2 = adjust(observation, used, best[0], 30)
    for _ in range(sources - 1):
        more = values[-len(GALAXY) :].copy()
        more[0], more[1] = more[0] - 1, more[1] + 0.5  # fainter and wider, where the last one is
        values, chi2 = adjust(observation, used, np.concatenate([values, more]), 40)
    return SmoothModel(names_of(values), values, observation, used, chi2, redshifts, known)


def redshifts_of(observation: Observation) -> tuple[tuple[float, float], bool]:
    """Redshifts of lens and source, and whether they are known: `REDSHIFTS` where one of them is not said.

    Raises `DataError` where one is not positive or the source does not lie behind the lens: no light would be bent.
    """
    about = observation.about
    named = {which: about.get(f"redshift_{which}") for which in ("lens", "source")}
    named = {which: value for which, value in named.items() if value is not None}
    try:
        given = {which: float(value) for which, value in named.items()}
    except (TypeError, ValueError):
        raise DataError(f"{observation}: redshifts {named}; expected numbers, or none at all") from None
    if wrong := [f"redshift_{which} = {value:g}" for which, value in given.items() if not 0 < value < math.inf]:
        raise DataError(f"{observation}: {wrong[0]}; expected more than 0. Mend info.json, or take it out of it")
    if len(given) < 2:
        return REDSHIFTS, False
    if not given["lens"] < given["source"]:
        raise DataError(
            f"{observation}: redshift_source = {given['source']:g} is not behind redshift_lens = {given['lens']:g}; "
            "are the two exchanged in info.json?"
        )
    return (given["lens"], given["source"]), True


def names_of(values: np.ndarray) -> tuple[str, ...]:
    """Names of the model's values: the lens's, then `source_*`, `source_2_*` and so on."""
    count = (len(values) - len(MACRO)) // len(GALAXY)
    prefixes = ["source" if i == 0 else f"source_{i + 1}" for i in range(count)]
    return MACRO + tuple(f"{prefix}_{name}" for prefix in prefixes for name in GALAXY)


def limits(observation: Observation, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value of each parameter that a galaxy-scale lens can have."""
    reach = observation.field_of_view / 2
    bounds = {"log_amplitude": (-30.0, 30.0), "x": (-reach, reach), "y": (-reach, reach)}
    lowest, highest = [], []
    for name in names:
        if name in MACRO:
            key = next(start for start in ("einstein_radius", "lens_", "shear_") if name.startswith(start))
            low, high = LOWEST[key], HIGHEST[key]
        else:
            short = next(part for part in GALAXY if name.endswith(f"_{part}"))
            key = "e" if short in ("e1", "e2") else short
            low, high = bounds.get(short) or (LOWEST[key], HIGHEST[key])
        lowest.append(low)
        highest.append(high)
    return np.array(lowest), np.array(highest)


def likely_starts(observation: Observation, used, einstein_radius: float, tries: int, generator) -> list[np.ndarray]:
    """Of `tries` random lenses, the three closest to the image at coarse pixels, each as bright as it."""
    size = 40
    scale = observation.field_of_view / size
    weight = np.where(used, 1 / observation.noise**2, 0)
    coarse = resample(np.where(used, observation.image, 0) * weight, observation.pixel_scale, size, scale, order=1)
    weight = resample(weight, observation.pixel_scale, size, scale, order=1)
    centers = torch.tensor((np.arange(size) - (size - 1) / 2) * scale)
    scored = []
    for _ in range(tries):
        spin = [generator.uniform(0, most) * np.exp(1j * generator.uniform(0, 2 * np.pi)) for most in (0.25, 0.12, 0.3)]
        place = 0.35 * math.sqrt(generator.uniform()) * np.exp(1j * generator.uniform(0, 2 * np.pi))
        radius = math.log(generator.uniform(0.08, 0.4))
        lens = [
            einstein_radius * generator.uniform(0.85, 1.1),
            spin[0].real,
            spin[0].imag,
            0,
            0,
            spin[1].real,
            spin[1].imag,
        ]
        values = np.array([*lens, 0.0, radius, 1.0, spin[2].real, spin[2].imag, place.real, place.imag])
        light = render(torch.tensor(values), centers[None, :], centers[:, None], None).numpy()
        amplitude = (light * coarse).sum() / (light**2 * weight).sum()  # coarse is already weighted
        if amplitude > 0:
            values[len(MACRO)] = math.log(amplitude)
            scored.append((-amplitude * (light * coarse).sum(), values))
    if not scored:
        raise DataError(f"{observation}: no lens of that Einstein radius resembles the image; is there an arc in it?")
    return [values for _, values in sorted(scored, key=lambda pair: pair[0])[:3]]


def adjust(observation: Observation, used: np.ndarray, start: np.ndarray, evaluations: int) -> tuple[np.ndarray, float]:
    """The best values near `start` by least squares with exact derivatives, and chi square a pixel."""
    x, y, psf = tensors(observation)
    weight, data = torch.tensor(1 / observation.noise[used]), torch.tensor(observation.image[used])
    inside = torch.tensor(used)

    def residuals(values: Tensor) -> Tensor:
        return (render(values, x, y, psf)[inside] - data) * weight

    low, high = limits(observation, names_of(start))
    with torch.no_grad():
        found = optimize.least_squares(
            lambda values: residuals(torch.tensor(values)).numpy(),
            np.clip(start, low + 1e-6, high - 1e-6),
            jac=lambda values: torch.func.jacfwd(residuals)(torch.tensor(values)).numpy(),
            bounds=(low, high),
            x_scale="jac",
            max_nfev=evaluations,
            ftol=1e-4,
        )
    return found.x, float(2 * found.cost / used.sum())
