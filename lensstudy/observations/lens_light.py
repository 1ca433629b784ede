"""The light of the galaxy in front: a sum of Gaussians that can only fall outwards, so that no arc hides in it.

`fit_lens_light` fits it and finds the arcs on the way, `subtract_lens_light` takes it away and masks what it cannot
explain, and the chi square of the core says how far to trust that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, optimize, signal

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import Observation, cropped, psf_fwhm

__all__ = ["LensLight", "elliptical_radius_squared", "fit_lens_light", "ring_radius", "subtract_lens_light"]

NEAR, AROUND = 0.5, 4.0  # arcsec: from the middle to the galaxy at most, and the side of what says where it is
BANDS = 3  # rings in which isophotes may differ from ellipses
FREELY, UNEVENLY = 0.3, 0.04  # share of a Gaussian's light, and of a ring's harmonics, that may change
INNERMOST = 0.5  # arcsec; what stands out further in is the lens galaxy's own structure rather than an arc


@dataclass(frozen=True)
class LensLight:
    """The galaxy in front: `model` `(H, H)` with the `sky` in it.

    `ellipticity` is `(e1, e2)` inside and `(e1, e2)` outside; `arcs` is True where light of the source was found and
    excluded from the fit. `chi2_core` and `chi2` are residuals squared in units of the noise, a pixel: within
    `core_radius` (arcsec) and outside, without arcs. About 1 is a fit to the noise.

    How far the model can be off is `parts` `(K, H, H)`, the images it is a sum of, each as large as that part of the
    galaxy may reasonably change, and the inverse covariance `(K, K)` of their changes, `precision`, of which `prior`
    `(K,)` is what was assumed beforehand.
    """

    model: np.ndarray
    sky: float
    center: tuple[float, float]
    ellipticity: tuple[float, float, float, float]
    arcs: np.ndarray
    core_radius: float
    chi2_core: float
    chi2: float
    parts: np.ndarray
    precision: np.ndarray
    prior: np.ndarray

    @property
    def good(self) -> bool:
        """Whether the core is fitted to within twice the noise."""
        return self.chi2_core < 4

    @property
    def uncertainty(self) -> np.ndarray:
        """Standard deviation of the model `(H, H)`."""
        factor = np.linalg.inv(np.linalg.cholesky(self.precision))
        return np.sqrt((np.tensordot(factor, self.parts, 1) ** 2).sum(0))


def fit_lens_light(observation: Observation, gaussians: int = 12, rounds: int = 3) -> LensLight:
    """Fit the lens galaxy with concentric elliptical Gaussians, seen through the PSF, and a flat sky (Emsellem, Monnet
    and Bacon 1994; Cappellari 2002), and then with what isophotes have beyond an ellipse.

    The centre and two ellipticities, of the narrow half and of the wide half of the Gaussians, are adjusted: isophotes
    of real galaxies twist. The amplitudes, none of them negative, follow from them linearly. A sum of such
    Gaussians can only fall outwards, so a ring cannot hide in it. What stands out of the fit by three sigma, smoothed,
    is taken for arcs and excluded from the next round; the first round excludes what stands out of the run of the
    brightness with radius, made to fall outwards. Last, angular harmonics of order 1 to 4 of some per cent are added
    in `BANDS` rings, as in the fits of Bolton et al. (2006).
    """
    x, y = observation.grid()
    core_radius = max(2 * psf_fwhm(observation), 0.25)
    widths = np.geomspace(0.6 * observation.pixel_scale, observation.field_of_view / 3, gaussians)
    shape = np.array([*_center(observation), 0.0, 0.0, 0.0, 0.0])
    smooth = _falling_profile(observation, shape[:2])
    arcs = _stands_out(observation, smooth, shape[:2], core_radius)
    for _ in range(rounds):
        use = ~(observation.mask | arcs)
        shape, basis, amplitudes = _fit_gaussians(observation, widths, use, shape)
        arcs = _stands_out(observation, np.tensordot(amplitudes, basis, 1), shape[:2], core_radius)
    use = ~(observation.mask | arcs)
    parts, prior = _parts(observation, widths, shape, basis, amplitudes)
    model = np.tensordot(amplitudes, basis, 1)
    seen = parts[:, use] / observation.noise[use]
    precision = seen @ seen.T / observation.correlation + np.diag(prior)
    pull = seen @ ((observation.image - model) / observation.noise)[use] / observation.correlation
    change = np.linalg.solve(precision, pull)
    model = model + np.tensordot(change, parts, 1)
    arcs = _stands_out(observation, model, shape[:2], core_radius)
    chi = (observation.image - model) / observation.noise
    core = (np.hypot(x - shape[0], y - shape[1]) < core_radius) & ~observation.mask
    rest = ~core & ~observation.mask & ~arcs
    return LensLight(
        model,
        float(amplitudes[-1] + change[-1] * parts[-1, 0, 0]),
        tuple(shape[:2].tolist()),
        tuple(shape[2:].tolist()),
        arcs,
        core_radius,
        float((chi[core] ** 2).mean()),
        float((chi[rest] ** 2).mean()),
        parts,
        precision,
        prior,
    )


def _parts(observation: Observation, widths, shape, basis, amplitudes) -> tuple[np.ndarray, np.ndarray]:
    """What the model can change by `(K, H, H)`, each as large as one standard deviation of what is assumed, and one
    over its variance `(K,)`: Gaussians by `FREELY`, harmonics in rings by `UNEVENLY`, and the sky as the data say."""
    x, y = observation.grid()
    dx, dy = x - shape[0], y - shape[1]
    angle = np.arctan2(dy, dx)
    light = basis[:-1] * amplitudes[:-1, None, None]
    shining = amplitudes[:-1] > 0
    rings = np.array_split(np.flatnonzero(shining), min(BANDS, max(shining.sum(), 1)))
    uneven = [
        wave(order * angle) * light[ring].sum(0) * np.minimum(1, np.hypot(dx, dy) / (2 * observation.pixel_scale))
        for ring in rings
        for order in (1, 2, 3, 4)
        for wave in (np.cos, np.sin)
    ]
    sky = np.full((1, *observation.image.shape), float(np.median(observation.noise)))
    parts = np.concatenate([FREELY * light[shining], UNEVENLY * np.array(uneven), sky])
    return parts, np.append(np.ones(len(parts) - 1), 1e-6)


def _center(observation: Observation) -> tuple[float, float]:
    """The brightest spot near the point about which all light is most alike when rotated by 180 degrees.

    An arc can outshine the galaxy, but there are arcs on its other side too: the image times itself rotated about a
    point, summed, is a convolution of the image with itself. Brightness is compressed, for arcs are seldom equal.
    """
    seen = cropped(observation, AROUND)
    x, y = seen.grid()
    sigma = 1.5
    image = ndimage.gaussian_filter(np.where(seen.mask, 0, seen.image), sigma)
    noise = float(np.median(seen.noise)) / (2 * math.sqrt(math.pi) * sigma)  # as in `_stands_out`
    compressed = np.arcsinh(np.clip(image - np.median(image), 0, None) / (3 * noise))
    alike = signal.fftconvolve(compressed, compressed)
    points = (np.arange(len(alike)) / 2 - (len(image) - 1) / 2) * seen.pixel_scale
    alike = np.where(np.hypot(points[None, :], points[:, None]) < NEAR, alike, -np.inf)
    row, column = np.unravel_index(alike.argmax(), alike.shape)
    near = np.hypot(x - points[column], y - points[row]) < max(NEAR / 2, seen.pixel_scale)  # a pixel at least
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
    noise = (
        observation.noise * math.sqrt(observation.correlation) / (2 * math.sqrt(math.pi) * sigma)
    )  # of a smoothed one
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
        design, data = basis[:, use] * weight[use], (observation.image * weight)[use]
        size = np.linalg.norm(design, axis=1)
        design = design / size[:, None]
        factor = np.linalg.cholesky(design @ design.T + 1e-10 * np.eye(len(design)))
        triangle, pull = factor.T, np.linalg.solve(factor, design @ data)
        signed = np.column_stack([triangle, -triangle[:, -1]])  # the sky may be below zero
        amplitudes = optimize.nnls(signed, pull)[0]
        amplitudes = np.append(amplitudes[: len(size) - 1], amplitudes[-2] - amplitudes[-1])
        return amplitudes / size, data - amplitudes @ design

    middle, reach = np.append(start[:2], [0.0] * 4), np.array([0.3, 0.3, 0.6, 0.6, 0.6, 0.6])
    found = optimize.least_squares(
        lambda shape: solve(basis_of(shape))[1],
        start,
        bounds=(middle - reach, middle + reach),
        x_scale=[0.02, 0.02, 0.05, 0.05, 0.05, 0.05],
        diff_step=1e-4,
        max_nfev=6,
        ftol=1e-3,
    )
    basis = basis_of(found.x)
    return found.x, basis, solve(basis)[0]


def elliptical_radius_squared(dx, dy, e1: float, e2: float) -> np.ndarray:
    """`q x^2 + y^2/q` along the axes of an ellipse of that ellipticity, as in `lensing.sersic`."""
    modulus, angle = math.hypot(e1, e2), 0.5 * math.atan2(e2, e1)
    q = (1 - modulus) / (1 + modulus)
    along, across = math.cos(angle) * dx + math.sin(angle) * dy, math.cos(angle) * dy - math.sin(angle) * dx
    return q * along**2 + across**2 / q


def subtract_lens_light(observation: Observation, light: LensLight, neighbours: float = math.inf) -> Observation:
    """The observation without the galaxy in front; pixels of the core that the model misses by 5 sigma are masked, and
    what stands out and lies wholly further out than `neighbours` arcseconds."""
    x, y = observation.grid()
    left = observation.image - light.model
    radius = np.hypot(x - light.center[0], y - light.center[1])
    missed = (radius < light.core_radius) & (np.abs(left) > 5 * observation.noise)
    regions, count = ndimage.label(light.arcs)
    nearest = ndimage.minimum(np.broadcast_to(radius, left.shape), regions, np.arange(count + 1))
    beside = (nearest > neighbours)[regions] & (regions > 0)
    note = (
        f"lens light subtracted; masked: {missed.sum()} pixels of the core, where the model misses by 5 sigma, and "
        f"{beside.sum()} of neighbours"
    )
    return replace(observation, image=left, mask=observation.mask | missed | beside, notes=(*observation.notes, note))


def ring_radius(observation: Observation, light: LensLight) -> float:
    """Radius in arcseconds, at least `INNERMOST`, at which the arcs hold most light, once the lens's own is taken away.

    Raises `DataError` where nothing stands out.
    """
    x, y = observation.grid()
    radius = np.hypot(x - light.center[0], y - light.center[1])
    arcs = light.arcs & ~observation.mask & (radius > INNERMOST) & (radius < observation.field_of_view / 2)
    if not arcs.any():
        raise DataError(f"{observation}: no arcs stand out of the lens galaxy by 3 sigma; use a deeper image")
    step = max(observation.pixel_scale, 0.05)
    edges = np.arange(0, observation.field_of_view / 2 + step, step)
    held = np.histogram(radius[arcs], edges, weights=np.clip(observation.image - light.model, 0, None)[arcs])[0]
    return float(edges[ndimage.gaussian_filter1d(held, 1.5).argmax()] + step / 2)
