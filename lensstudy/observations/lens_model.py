"""A smooth model of a real lens whose source is whatever surface explains the image best.

`fit_lens_model` fits an elliptical power law with shear and multipoles to a cutout whose lens light is subtracted, at
its own pixels, noise and PSF, and the source (`observations.source`) with it. `expected_arcs` renders the model, with
subhalos in it if asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, signal
from torch import Tensor

from lensstudy.data.dataset import DataError
from lensstudy.lensing.profiles import multipole, power_law, shear
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens_light import LensLight
from lensstudy.observations.rays import Rays, binned, rays_through
from lensstudy.observations.smooth_model import Subhalo, redshifts_of, subhalo_deflection
from lensstudy.observations.source import Mesh, Solution, solve

__all__ = ["MASS", "LensModel", "deflection", "expected_arcs", "fit_lens_model"]

MASS = {  # parameters of the lens: the mean and the width of what is assumed of them, the limits, the longest step
    "einstein_radius": (1.0, math.inf, 0.3, 4.0, 0.15),
    "slope": (2.08, 0.15, 1.4, 2.8, 0.2),  # Auger et al. (2010)
    "lens_e1": (0.0, 0.12, -0.5, 0.5, 0.1),  # about the ellipticity of the light
    "lens_e2": (0.0, 0.12, -0.5, 0.5, 0.1),
    "lens_x": (0.0, 0.04, -1.0, 1.0, 0.05),  # about the middle of the light
    "lens_y": (0.0, 0.04, -1.0, 1.0, 0.05),
    "shear_1": (0.0, 0.06, -0.3, 0.3, 0.05),
    "shear_2": (0.0, 0.06, -0.3, 0.3, 0.05),
    "multipole_3_cos": (0.0, 0.01, -0.08, 0.08, 0.01),  # in Einstein radii
    "multipole_3_sin": (0.0, 0.01, -0.08, 0.08, 0.01),
    "multipole_4_cos": (0.0, 0.01, -0.08, 0.08, 0.01),
    "multipole_4_sin": (0.0, 0.01, -0.08, 0.08, 0.01),
}
MEAN, WIDTH, LOWEST, HIGHEST, LONGEST = np.array(list(MASS.values())).T
COARSELY = np.array([0, 2, 3, 4, 5, 6, 7])  # what is adjusted at coarse pixels, where the lens is isothermal
STARTS = 8  # Einstein radii, from `SMALLEST` radii of the arcs on: what lies further out can be taken for arcs
SMALLEST, LARGEST = 0.45, 1.05
COARSE = 0.1  # arcsec: pixels at which the starts are followed
CELLS, COARSE_CELLS = 24, 10  # of the source's mesh, along each axis
REACH, COARSE_REACH = 0.8, 0.4  # arcsec from its middle at most: else a lens without mass explains any image
MOST = 2.5  # widths from what is assumed of a parameter
FOLLOWED = 3  # starts, after a few steps from each
NUDGE = 1e-5  # of a parameter, to see how rays move with it
SMOOTHING = 0.1  # arcsec, over which pixels are averaged to tell where arcs are
FAINTEST = 0.1  # of the brightest arcs: what is fainter says nothing of how far the source reaches
ENOUGH = 0.3  # of chi square: a step that gains less is the last
LEAST_PIXELS = 100
TERMS = 12  # of the power law's series: right to 1e-6 where axis ratios are above a half


@dataclass(frozen=True)
class LensModel:
    """A lens without substructure, fitted to an observation.

    Attributes:
        values: those of `names`, and `errors`, their standard deviations with the source left free.
        observation: the cutout, without the light of its lens galaxy.
        used: the pixels that were fitted, `(H, H)`.
        mesh: of the source, and `solution`, its brightness.
        rays: from the source to those pixels.
        galaxy: what the fit adds to the light of the lens galaxy, `(H, H)`.
        chi2: a pixel's mean squared residual in units of the noise, over the used pixels.
        redshifts: of lens and source, and whether they are known.
    """

    values: np.ndarray
    errors: np.ndarray
    observation: Observation
    used: np.ndarray
    mesh: Mesh
    solution: Solution
    rays: Rays
    galaxy: np.ndarray
    redshifts: tuple[float, float]
    redshifts_known: bool

    names = tuple(MASS)

    @property
    def parameters(self) -> dict[str, float]:
        """The values by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    @property
    def axis_ratio(self) -> float:
        """Minor over major axis of the lens's mass."""
        modulus = math.hypot(*self.values[2:4])
        return (1 - modulus) / (1 + modulus)

    @property
    def axis(self) -> float:
        """Direction of the major axis of the lens's mass in degrees, 0 to 180 counter-clockwise from +x."""
        return math.degrees(0.5 * math.atan2(self.values[3], self.values[2])) % 180

    @property
    def image(self) -> np.ndarray:
        """The noise-free image `(H, H)` of the arcs, without subhalos."""
        return expected_arcs(self)

    @property
    def residuals(self) -> np.ndarray:
        """What the model leaves of the image in units of the noise `(H, H)`, zero where it was not fitted."""
        left = (self.observation.image - self.galaxy - self.image) / self.observation.noise
        return np.where(self.used, left, 0.0)

    @property
    def chi2(self) -> float:
        """Mean squared residual of the fitted pixels."""
        return float((self.residuals[self.used] ** 2).mean())


# Rendering


def deflection(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection in arcseconds of the lens with these `values`, in the order of `MASS`."""
    radius, slope, e1, e2, center_x, center_y, shear_1, shear_2, *waves = values
    parts = [
        power_law(x, y, radius, slope, e1, e2, center_x, center_y, terms=TERMS),
        shear(x - center_x, y - center_y, shear_1, shear_2),
        multipole(x, y, 3, radius * waves[0], radius * waves[1], center_x, center_y),
        multipole(x, y, 4, radius * waves[2], radius * waves[3], center_x, center_y),
    ]
    return sum(x for x, _ in parts), sum(y for _, y in parts)


def traced(values: np.ndarray, x: Tensor, y: Tensor, subhalo=(0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Where rays at `x`, `y` end; `subhalo` is an additional deflection."""
    alpha_x, alpha_y = deflection(torch.tensor(values), x, y)
    return (x - alpha_x - subhalo[0]).numpy(), (y - alpha_y - subhalo[1]).numpy()


def expected_arcs(model: LensModel, subhalos: Sequence[Subhalo] = (), profile: str = "truncated_nfw") -> np.ndarray:
    """Noise-free image `(H, H)` of the model at the observation's pixels and PSF, with `subhalos` added to its mass."""
    observation = model.observation
    x, y = rays_through(observation, np.ones_like(model.used))
    subhalo = (0.0, 0.0)
    if subhalos:
        subhalo = tuple(one[0] for one in subhalo_deflection(subhalos, x[None], y[None], model.redshifts, profile))
    light = model.mesh.design(*traced(model.values, x, y, subhalo)) @ model.solution.source
    light = light.reshape(*model.used.shape, -1).mean(-1)
    return light if observation.psf is None else signal.fftconvolve(light, observation.psf, mode="same")


# Fitting


def fit_lens_model(observation: Observation, arcs_radius: float, light: LensLight | None = None) -> LensModel:
    """Fit an elliptical power law with shear and multipoles of order 3 and 4 to a cutout without lens light.

    Lenses of several Einstein radii are adjusted at coarse pixels, and the one of most evidence at the image's own. The
    parameters are adjusted by Levenberg and Marquardt's method; in each step the source, and within its uncertainty
    the light of the lens galaxy, follow from them linearly (variable projection, Golub and Pereyra 1973).

    Args:
        observation: a cutout whose lens light is subtracted (`subtract_lens_light`).
        arcs_radius: of the arcs, in arcseconds, such as `ring_radius`.
        light: that light, whose shape the mass is assumed to follow loosely, and which is adjusted with the source.

    Returns:
        The model, with its values by name in `parameters` and the reduced chi square in `chi2`.

    Raises:
        DataError: fewer than 100 pixels are left to fit, nothing stands out of the noise, or redshifts are impossible.

    Example:
        >>> y, x = np.mgrid[-1.5:1.5:31j, -1.5:1.5:31j]
        >>> ring = np.exp(-(((np.hypot(x, y) - 1) / 0.2) ** 2) / 2)
        >>> noise, mask = np.full_like(ring, 0.1), np.zeros(ring.shape, bool)
        >>> model = fit_lens_model(Observation("ring", "", ring, noise, mask, None, 0.1), 0.9)
        >>> round(model.parameters["einstein_radius"], 1)
        1.0
    """
    redshifts, known = redshifts_of(observation)
    mean = MEAN.copy()
    if light is not None:
        mean[2:4], mean[4:6] = np.clip(light.ellipticity[2:], -0.3, 0.3), light.center
    parts = np.zeros((0, *observation.image.shape)) if light is None else light.parts
    prior = np.zeros(0) if light is None else light.prior
    factor = max(1, round(COARSE / observation.pixel_scale))
    coarse, (coarse_parts,) = binned(observation, factor, parts)
    task = Task.of(coarse, arcs_radius, mean, coarse_parts, prior, COARSE_CELLS, COARSE_REACH, 1)
    mean = np.where(np.arange(len(mean)) == 1, 2.0, mean)
    tried = []
    for share in np.geomspace(SMALLEST, LARGEST, STARTS):
        mean[0] = share * arcs_radius
        tried.append(task.adjusted(mean, COARSELY, rounds=1, steps=5))
    likely = sorted(tried, key=lambda one: one.evidence)[:FOLLOWED]
    followed = [task.adjusted(one.values, COARSELY, rounds=3, steps=4) for one in likely]
    best = min(followed, key=lambda one: one.evidence)
    task = Task.of(observation, arcs_radius, task.mean, parts, prior, CELLS, REACH, 2)
    best = task.adjusted(best.values, np.arange(len(MASS)), rounds=2, steps=6)
    galaxy = np.tensordot(best.solution.galaxy, parts, 1)
    errors = np.sqrt(np.diagonal(np.linalg.inv(task.normal(best, np.arange(len(MASS)))[0])))
    return LensModel(
        best.values,
        errors,
        observation,
        task.rays.used,
        best.mesh,
        best.solution,
        task.rays,
        galaxy,
        redshifts,
        known,
    )


@dataclass(frozen=True)
class State:
    """A lens with its best source; `cost` and `evidence` as in `Solution`, with what is `assumed` of the lens added."""

    values: np.ndarray
    mesh: Mesh
    solution: Solution
    ends: tuple[np.ndarray, np.ndarray]
    assumed: float

    @property
    def cost(self) -> float:
        return self.solution.cost + self.assumed

    @property
    def evidence(self) -> float:
        return self.solution.evidence + self.assumed


@dataclass(frozen=True)
class Task:
    """What is fitted: `rays` to pixels with `data` in units of their noise, `bright` where rays come from arcs.

    The lens galaxy adds `galaxy` `(n, k)`, of which the rest of the image says `precision` and `pull`, see `solve`;
    `mean` is what is assumed of the parameters, and the source has `cells` along each axis, within `reach` arcseconds.
    """

    rays: Rays
    data: np.ndarray
    bright: np.ndarray
    galaxy: np.ndarray
    precision: np.ndarray
    pull: np.ndarray
    mean: np.ndarray
    cells: int
    reach: float

    @classmethod
    def of(
        cls, observation: Observation, arcs_radius: float, mean, parts, prior, cells: int, reach: float, per_side: int
    ) -> Task:
        x, y = observation.grid()
        radius = np.hypot(x - mean[4], y - mean[5])
        outermost, innermost = min(1.3 * arcs_radius + 0.3, 3.2), max(0.25 * arcs_radius, 0.2)
        inside = (radius > innermost) & (radius < outermost)
        used = inside & ~observation.mask
        if used.sum() < LEAST_PIXELS:
            where = f"between {innermost:.2f} and {outermost:.2f} arcsec"
            raise DataError(f"{observation}: {used.sum()} pixels to fit {where}; need {LEAST_PIXELS}")
        rays = Rays(observation, used, per_side)
        chi = np.where(used, observation.image / observation.noise, 0) / math.sqrt(observation.correlation)
        sigma = SMOOTHING / observation.pixel_scale
        smooth = ndimage.gaussian_filter(chi, sigma) * 2 * math.sqrt(math.pi) * sigma  # in units of its noise
        floor = max(3.0, FAINTEST * float(np.quantile(smooth[used], 0.99)))
        bright = np.where((smooth > floor) & used, smooth, 0.0)[rays.lit]
        if not bright.any():
            raise DataError(f"{observation}: nothing stands out of the noise by 3 sigma; is there an arc in it?")
        elsewhere = (radius >= outermost) & ~observation.mask & (smooth < 3)
        noise = observation.noise * math.sqrt(observation.correlation)
        outer = parts[:, elsewhere] / noise[elsewhere]
        return cls(
            rays,
            (observation.image[used] * rays.weight).astype(np.float32),
            np.repeat(bright, rays.per_pixel),
            (parts[:, used] * rays.weight).T.astype(np.float32),
            outer @ outer.T + np.diag(prior),
            outer @ (observation.image / noise)[elsewhere],
            mean,
            cells,
            reach,
        )

    def at(self, values: np.ndarray, mesh: Mesh | None = None, strength: float | None = None) -> State:
        """The best source of the lens with these values, on a mesh for it and as regular as the evidence asks for."""
        ends = traced(values, self.rays.x, self.rays.y)
        mesh = mesh or Mesh.around(*ends, self.bright, self.cells, self.reach)
        galaxy = self.galaxy, self.precision, self.pull
        solution = solve(self.rays.design(mesh, *ends), self.data, *galaxy, self.cells, strength)
        return State(values, mesh, solution, ends, float((((values - self.mean) / WIDTH) ** 2).sum()))

    def limited(self, values: np.ndarray) -> np.ndarray:
        """The values within their limits, and within `MOST` widths of what is assumed of them."""
        around = self.mean - MOST * WIDTH, self.mean + MOST * WIDTH
        return np.clip(values, np.maximum(LOWEST, around[0]), np.minimum(HIGHEST, around[1]))

    def normal(self, state: State, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half the second derivatives of the cost for the `free` parameters, and half its negative slope."""
        there = np.array(traced(state.values, *self.rays.centers))
        slightly = NUDGE * np.eye(len(state.values))[free]
        moved = [(np.array(traced(state.values + nudge, *self.rays.centers)) - there) / NUDGE for nudge in slightly]
        moved = np.stack(moved, axis=-1)
        ends = (axis.reshape(-1, self.rays.per_pixel).mean(1) for axis in state.ends)
        slope_x, slope_y = (slope[:, None] for slope in state.mesh.slopes(state.solution.source, *ends))
        changes = self.rays.image(slope_x * moved[0] + slope_y * moved[1])
        assumed = 1 / WIDTH[free] ** 2
        slope = changes.T @ (self.data - state.solution.image) - (state.values - self.mean)[free] * assumed
        return state.solution.beyond(changes) + np.diag(assumed), slope

    def adjusted(self, values: np.ndarray, free: np.ndarray, rounds: int, steps: int) -> State:
        """The best lens near these values; mesh and regularisation follow it after each of the `rounds`."""
        state = self.at(self.limited(values))
        for _ in range(rounds):
            state = self._descended(state, free, steps)
            state = self.at(state.values)
        return state

    def _descended(self, state: State, free: np.ndarray, steps: int) -> State:
        damping = 1e-2
        for _ in range(steps):
            normal, slope = self.normal(state, free)
            for _ in range(6):
                step = np.linalg.solve(normal + damping * np.diag(np.diagonal(normal)), slope)
                values = state.values.copy()
                values[free] += step / max(1.0, float(np.max(np.abs(step) / LONGEST[free])))
                trial = self.at(self.limited(values), state.mesh, state.solution.strength)
                if trial.cost < state.cost:
                    break
                damping = max(8 * damping, 1e-3)
            else:
                return state
            gain, state, damping = state.cost - trial.cost, trial, max(damping / 5, 1e-6)
            if gain < ENOUGH:
                break
        return state
