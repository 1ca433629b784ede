"""A smooth model of a real lens whose source is whatever surface explains the image best.

`fit_lens_model` fits an elliptical power law with shear and multipoles to a cutout whose lens light is subtracted, at
its own pixels, noise and PSF, and the source (`observations.source`) with it. `expected_arcs` renders the model, with
subhalos in it if asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import ndimage, optimize, signal
from torch import Tensor

from lensstudy.data.dataset import DataError
from lensstudy.lensing.cosmology import critical_surface_density, kpc_per_arcsec
from lensstudy.lensing.profiles import multipole, power_law, shear
from lensstudy.observations.cutouts import Observation, redshifts_of
from lensstudy.observations.lens_light import LensLight
from lensstudy.observations.rays import Rays, binned, rays_through
from lensstudy.observations.source import Mesh, Solution, solve
from lensstudy.observations.subhalos import Subhalo, subhalo_deflection

__all__ = [
    "MASS",
    "Assumed",
    "LensModel",
    "State",
    "Task",
    "deflection",
    "expected_arcs",
    "fit_lens_model",
    "isothermal",
]

MASS = {  # parameters of the lens: the mean and the width of what is assumed of them, the limits, the longest step
    "einstein_radius": (1.0, math.inf, 0.3, 4.0, 0.15),
    "slope": (2.08, 0.16, 1.4, 2.8, 0.2),  # Auger et al. (2010)
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
FREE = np.arange(len(MASS))
COARSELY = np.array([0, 2, 3, 4, 5, 6, 7])  # what is adjusted at coarse pixels, where the lens is isothermal
DISPERSION, SCATTER = 250.0, 40.0  # km/s: velocities of stars in lens galaxies (Bolton et al. 2008)
GRAVITY = 4.30091e-6  # kpc (km/s)^2 per solar mass
STARTS, SMALLEST, LARGEST = 18, 0.4, 2.2  # Einstein radii in arcseconds, of the lenses that are tried
OUTERMOST, INNERMOST = 3.0, 0.2  # arcsec: the ring that is fitted
CORE, CORE_ERROR = 0.5, 0.05  # arcsec from the middle within which the galaxy's light is known to that share of it
COARSE = 0.1  # arcsec: pixels at which the starts are followed
MOST = 2.5  # widths from what is assumed of a parameter
FOLLOWED = 3  # starts that are followed at coarse pixels
CLOSE = 300.0  # of chi square: what coarse pixels do not decide by more is decided at the image's own
IMAGES = 2.0  # Einstein radii, within which all images of a source lie
APART = 0.1  # of the Einstein radius, from which on two lenses are different explanations
NUDGE = 1e-5  # of a parameter, to see how rays move with it
SMOOTHING = 0.1  # arcsec, over which pixels are averaged to tell where arcs are
FAINTEST = 0.1  # of the brightest arcs: what is fainter says nothing of how far the source reaches
ENOUGH = 0.3  # of chi square: a step that gains less is the last
LEAST_PIXELS = 100
TERMS = 12  # of the power law's series: right to 1e-6 where axis ratios are above a half


@dataclass(frozen=True)
class Sources:
    """The meshes of sources that are tried: `cells` along each axis, `reach` at most from the middle, and the `sizes`
    within which most light is expected. With `scaled`, lengths are in units of how far the rays of the arcs lie apart
    in the source plane, else in arcseconds; `rays` along each side of a pixel."""

    cells: int
    reach: float
    sizes: tuple[float, ...]
    scaled: bool
    rays: int


# A lens with too little mass needs a source as large as the image, so the start has to hold on to small sources. Once
# it is found, a limit in arcseconds would prefer lenses that magnify more, which are those of shallow slope.
SMALL_SOURCES = Sources(10, 0.4, (0.25,), False, 1)
SOURCES = Sources(24, 6.0, (0.25, 0.5, 1.0, 4.0), True, 2)


@dataclass(frozen=True)
class Assumed:
    """What is assumed of the parameters of a lens `(p,)`: mean and width of Gaussians, limits, and the longest step."""

    mean: np.ndarray
    width: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    longest: np.ndarray

    @classmethod
    def of(cls, light: LensLight | None, redshifts: tuple[float, float] | None) -> Assumed:
        """Of a lens galaxy with this `light`, and these redshifts of lens and source, where they are known."""
        mean, width, lowest, highest, longest = np.array(list(MASS.values())).T
        if light is not None:
            mean[2:4], mean[4:6] = np.clip(light.ellipticity[2:], -0.3, 0.3), light.center
        if redshifts is not None:
            mean[0] = isothermal_radius(DISPERSION, redshifts)
            width[0] = 2 * SCATTER / DISPERSION * mean[0]
        reach = MOST * np.where(np.arange(len(mean)) == 0, math.inf, width)
        return cls(mean, width, np.maximum(lowest, mean - reach), np.minimum(highest, mean + reach), longest)

    def and_of(self, rows: Sequence[tuple[float, float, float, float, float]]) -> Assumed:
        """With further parameters, one of `rows` each, as in `MASS`."""
        columns = np.array(rows).T
        return Assumed(
            *(np.append(getattr(self, name), more) for name, more in zip(self.__match_args__, columns, strict=True))
        )

    def penalty(self, values: np.ndarray) -> float:
        """Minus twice the logarithm of how likely the values are."""
        return float((((values - self.mean) / self.width) ** 2).sum())


@dataclass(frozen=True)
class LensModel:
    """A lens without substructure, fitted to an observation.

    Attributes:
        values: those of `names`, and `errors`, their standard deviations with the source left free.
        observation: the cutout, without the light of its lens galaxy, with the errors of that light in its noise.
        used: the pixels that were fitted, `(H, H)`.
        mesh: of the source, and `solution`, its brightness.
        galaxy: what the fit adds to the light of the lens galaxy, `(H, H)`.
        started: Einstein radius of the isothermal lens at coarse pixels from which the fit went on.
        second: that of the best isothermal lens of quite another one, and how much less its evidence is: twice the
            difference of logarithms, over chi square a pixel; not a number and infinity where there is none.
        redshifts: of lens and source, and whether they are known.
        task, state: what was fitted, and how.
    """

    values: np.ndarray
    errors: np.ndarray
    observation: Observation
    used: np.ndarray
    mesh: Mesh
    solution: Solution
    galaxy: np.ndarray
    started: float
    second: tuple[float, float]
    redshifts: tuple[float, float]
    redshifts_known: bool
    task: Task
    state: State

    names = tuple(MASS)

    @property
    def parameters(self) -> dict[str, float]:
        """The values by name."""
        return dict(zip(self.names, self.values.tolist(), strict=False))

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
    def at_limits(self) -> list[str]:
        """Names of the parameters that end at their limits."""
        assumed, slack = self.task.assumed, 1e-6
        at = (self.values < assumed.lowest + slack) | (self.values > assumed.highest - slack)
        return [name for name, one in zip(self.names, at, strict=False) if one]

    @cached_property
    def image(self) -> np.ndarray:
        """The noise-free image `(H, H)` of the arcs, without subhalos."""
        ends = traced(self.values, *rays_through(self.observation, np.ones_like(self.used)))
        light = self.mesh.brightness(self.solution.source, *ends)
        return self.blurred(light.reshape(*self.used.shape, -1).mean(-1))

    @cached_property
    def middles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where rays through the middles of all pixels end without subhalos, x and y in arcseconds, and how bright the
        source is there, `(H, H)` each."""
        ends = traced(self.values, *(torch.tensor(axis) for axis in self.observation.grid()))
        return *ends, self.mesh.brightness(self.solution.source, *ends)

    def blurred(self, light: np.ndarray) -> np.ndarray:
        """`light` `(H, H)` through the PSF."""
        psf = self.observation.psf
        return light if psf is None else signal.fftconvolve(light, psf, mode="same")

    @cached_property
    def residuals(self) -> np.ndarray:
        """What the model leaves of the image in units of the noise `(H, H)`, zero where it was not fitted."""
        left = (self.observation.image - self.galaxy - self.image) / self.observation.noise
        return np.where(self.used, left, 0.0)

    @property
    def chi2(self) -> float:
        """Mean squared residual of the fitted pixels."""
        return float((self.residuals[self.used] ** 2).mean())


# Rendering


def _power_law(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    radius, slope, e1, e2, center_x, center_y = values[:6]
    return power_law(x, y, radius, slope, e1, e2, center_x, center_y, TERMS)


def _shear(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return shear(x - values[4], y - values[5], values[6], values[7])


def _waves(order: int, first: int) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    def deflection(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        radius, center = values[0], values[4:6]
        return multipole(x, y, order, radius * values[first], radius * values[first + 1], *center)

    return deflection


PARTS = (  # of the deflection, and the numbers of the parameters that each depends on
    (_power_law, (0, 1, 2, 3, 4, 5)),
    (_shear, (4, 5, 6, 7)),
    (_waves(3, 8), (0, 4, 5, 8, 9)),
    (_waves(4, 10), (0, 4, 5, 10, 11)),
)


def deflection(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection in arcseconds of the lens with these `values`, in the order of `MASS`."""
    return _together([part(values, x, y) for part, _ in PARTS])


def _together(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return sum(x for x, _ in parts), sum(y for _, y in parts)  # type: ignore[return-value]  # there is one at least


def isothermal(values: np.ndarray) -> tuple[float, float, float]:
    """Einstein radius, axis ratio and axis (degrees) of the isothermal ellipsoid that bends light as a whole lens does.

    Published models often have no shear, so the ellipsoid takes its part. It is the one whose deflection, around the
    Einstein ring, is closest to that of the lens with these `values`, up to a shift of the source.
    """
    angle = torch.linspace(0, 2 * math.pi, 73, dtype=torch.float64)[:-1]
    x, y = (float(values[0]) * wave(angle) for wave in (torch.cos, torch.sin))
    wanted = torch.stack(deflection(torch.tensor([*values[:4], 0.0, 0.0, *values[6 : len(MASS)]]), x, y))

    def missed(ellipse: np.ndarray) -> np.ndarray:
        found = torch.stack(
            power_law(x, y, *torch.tensor([ellipse[0], 2.0, ellipse[1], ellipse[2]], dtype=torch.float64))
        )
        left = found - wanted
        return (left - left.mean(1, keepdim=True)).numpy().ravel()

    radius, e1, e2 = optimize.least_squares(missed, [values[0], 0.01, 0.01]).x
    modulus = math.hypot(e1, e2)
    return float(radius), (1 - modulus) / (1 + modulus), math.degrees(0.5 * math.atan2(e2, e1)) % 180


def traced(values: np.ndarray, x: Tensor, y: Tensor, subhalo=(0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """Where rays at `x`, `y` end; `subhalo` is an additional deflection."""
    alpha_x, alpha_y = deflection(torch.tensor(values), x, y)
    return (x - alpha_x - subhalo[0]).numpy(), (y - alpha_y - subhalo[1]).numpy()


def in_frame(ends: tuple[np.ndarray, np.ndarray], frame: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Points from the middle of a frame `(x, y, scale)`, in units of its scale."""
    return (ends[0] - frame[0]) / frame[2], (ends[1] - frame[1]) / frame[2]


def expected_arcs(model: LensModel, subhalos: Sequence[Subhalo] = (), profile: str = "truncated_nfw") -> np.ndarray:
    """Noise-free image `(H, H)` of the model at the observation's pixels and PSF, with `subhalos` added to its mass.

    What they change is told by one ray in each pixel. Raises `DataError` where `profile` is unknown, see
    `subhalo_deflection`.
    """
    if not subhalos:
        return model.image
    x, y, before = model.middles
    across, up = (torch.tensor(axis) for axis in model.observation.grid())
    bent = subhalo_deflection(subhalos, across, up, model.redshifts, profile)
    light = model.mesh.brightness(model.solution.source, x - bent[0].numpy(), y - bent[1].numpy())
    return model.image + model.blurred(light - before)


# Fitting


def fit_lens_model(
    observation: Observation, arcs_radius: float, light: LensLight | None = None, sources: Sources = SOURCES
) -> LensModel:
    """Fit an elliptical power law with shear and multipoles of order 3 and 4 to a cutout without lens light.

    Isothermal lenses of many Einstein radii are adjusted at coarse pixels, with small sources. The likeliest, and those
    whose evidence is close to its, are adjusted at the image's own pixels with all their parameters; that of most
    evidence is the model. The next best of another Einstein radius is told in `second`. Parameters are adjusted by
    Levenberg and Marquardt's method; in each step the source, and within its uncertainty the light of the lens galaxy,
    follow from them linearly (variable projection, Golub and Pereyra 1973).

    Args:
        observation: a cutout whose lens light is subtracted (`subtract_lens_light`).
        arcs_radius: of the arcs, in arcseconds, such as `ring_radius`: nothing within a third of it is fitted.
        light: that light, whose shape the mass is assumed to follow loosely, and which is adjusted with the source.
        sources: the meshes of sources that are tried at last.

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
    assumed = Assumed.of(light, redshifts if known else None)
    if light is not None:
        observation = forgiving(observation, light)
    parts = np.zeros((0, *observation.image.shape)) if light is None else light.parts
    prior = np.zeros(0) if light is None else light.prior
    factor = max(1, round(COARSE / observation.pixel_scale))
    coarse, (coarse_parts,) = binned(observation, factor, parts)
    likely, lead = isothermal_lenses(coarse, min(INNERMOST, arcs_radius / 3), assumed, coarse_parts, prior)
    close = [one for one, behind in zip(likely, lead, strict=True) if behind < CLOSE]
    outermost = min(OUTERMOST, 0.48 * observation.field_of_view)
    outermost = float(np.clip(IMAGES * max(one.values[0] for one in close), min(1.5, outermost), outermost))
    task = Task.of(observation, (min(INNERMOST, arcs_radius / 3), outermost), assumed, parts, prior, sources)
    found = [task.adjusted(one.values, FREE, rounds=2, steps=6) for one in close]
    best = min(range(len(found)), key=lambda i: found[i].evidence)
    started = float(close[best].values[0])
    others = [(behind - lead[best], float(one.values[0])) for one, behind in zip(likely, lead, strict=True)]
    del others[best]
    second = min(others)[::-1] if others else (math.nan, math.inf)
    return model_of(task, found[best], observation, parts, started, second, redshifts, known)


def isothermal_lenses(
    coarse: Observation, innermost: float, assumed: Assumed, parts: np.ndarray, prior: np.ndarray
) -> tuple[list[State], list[float]]:
    """The isothermal lenses that explain an image of coarse pixels best, with small sources, beyond `innermost`
    arcseconds, that of most evidence first; and how much less the evidence of each is, see `LensModel.second`. Other
    arguments as for `Task.of`."""
    ring = innermost, min(OUTERMOST, 0.48 * coarse.field_of_view)
    task = Task.of(coarse, ring, assumed, parts, prior, SMALL_SOURCES)
    likely = task.likely_lenses()
    misfit = max(1.0, likely[0].cost / len(task.data))  # where no model fits, differences of evidence say less
    return likely, [(one.evidence - likely[0].evidence) / misfit for one in likely]


def model_of(task: Task, state: State, observation, parts, started, second, redshifts, known: bool) -> LensModel:
    """The model that a state of a task is."""
    free = np.arange(len(state.values))
    errors = np.sqrt(np.diagonal(np.linalg.inv(task.normal(state, free)[0])))
    galaxy = np.tensordot(state.solution.galaxy, parts, 1)
    mesh = state.mesh.placed(*state.frame)
    about = (started, second, redshifts, known, task, state)
    return LensModel(state.values, errors, observation, task.rays.used, mesh, state.solution, galaxy, *about)


def isothermal_radius(dispersion: float, redshifts: tuple[float, float]) -> float:
    """Einstein radius in arcseconds of an isothermal sphere with a velocity dispersion in km/s: where the mass
    `pi sigma^2 R / G` within a radius R has the critical surface density."""
    return dispersion**2 * kpc_per_arcsec(redshifts[0]) / (GRAVITY * critical_surface_density(*redshifts))


def forgiving(observation: Observation, light: LensLight) -> Observation:
    """The observation with the errors of the lens galaxy's light near its middle, where it has dust, bars and discs
    that no model has, in the noise."""
    x, y = observation.grid()
    core = np.hypot(x - light.center[0], y - light.center[1]) < CORE
    error = np.where(core, CORE_ERROR * np.abs(light.model - light.sky), 0.0)
    return replace(observation, noise=np.hypot(observation.noise, error))


@dataclass(frozen=True)
class State:
    """A lens with its best source; `cost` and `evidence` as in `Solution`, with what is `assumed` of the lens added.

    `size` is that of the source, and `frame` where the mesh lies (x, y, scale): it is in units of that scale.
    """

    values: np.ndarray
    mesh: Mesh
    size: float
    solution: Solution
    ends: tuple[np.ndarray, np.ndarray]
    frame: tuple[float, float, float]
    assumed: float

    @property
    def cost(self) -> float:
        return self.solution.cost + self.assumed

    @property
    def evidence(self) -> float:
        return self.solution.evidence + self.assumed


def differ(one: State, other: State) -> bool:
    """Whether two lenses explain the arcs by quite different Einstein radii."""
    return abs(one.values[0] / other.values[0] - 1) > APART


@dataclass(frozen=True)
class Task:
    """What is fitted: `rays` to pixels with `data` in units of their noise, `bright` where rays come from arcs.

    The lens galaxy adds `galaxy` `(n, k)`, of which the rest of the image says `precision` and `pull`, see `solve`;
    `assumed` is what is assumed of the parameters, and `sources` are the meshes that are tried. `halo` is the
    deflection by what has the values beyond those of the lens, if there are any.
    """

    rays: Rays
    data: np.ndarray
    bright: np.ndarray
    galaxy: np.ndarray
    precision: np.ndarray
    pull: np.ndarray
    assumed: Assumed
    sources: Sources
    halo: Callable[[np.ndarray, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, observation: Observation, ring: tuple[float, float], assumed: Assumed, parts, prior, sources) -> Task:
        x, y = observation.grid()
        radius = np.hypot(x - assumed.mean[4], y - assumed.mean[5])
        innermost, outermost = ring
        inside = (radius > innermost) & (radius < outermost)
        used = inside & ~observation.mask
        if used.sum() < LEAST_PIXELS:
            where = f"between {innermost:.2f} and {outermost:.2f} arcsec"
            raise DataError(f"{observation}: {used.sum()} pixels to fit {where}; need {LEAST_PIXELS}")
        rays = Rays(observation, used, sources.rays)
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
            bright / bright.sum(),
            (parts[:, used] * rays.weight).T.astype(np.float32),
            outer @ outer.T + np.diag(prior),
            outer @ (observation.image / noise)[elsewhere],
            assumed,
            sources,
        )

    def likely_lenses(self) -> list[State]:
        """The best isothermal lenses of those of `STARTS` Einstein radii, that of most evidence first, which differ."""
        outermost = float(np.abs(self.rays.x).max())
        start = np.where(np.arange(len(self.assumed.mean)) == 1, 2.0, self.assumed.mean)
        tried = []
        for radius in np.geomspace(SMALLEST, min(LARGEST, 0.8 * outermost), STARTS):
            start[0] = radius
            tried.append(self.adjusted(start, COARSELY[1:], rounds=1, steps=4))
        evidence = np.array([one.evidence for one in tried])
        lowest = [one for i, one in enumerate(tried) if one.evidence == evidence[max(0, i - 1) : i + 2].min()]
        lowest = sorted(lowest, key=lambda one: one.evidence)[:FOLLOWED]
        followed = [self.adjusted(one.values, COARSELY, rounds=3, steps=4) for one in lowest]
        chosen: list[State] = []
        for one in sorted(followed, key=lambda one: one.evidence):
            if all(differ(one, other) for other in chosen):
                chosen.append(one)
        return chosen

    def at(self, values: np.ndarray, like: State | None = None) -> State:
        """The best source of the lens with these values: on a mesh for it, as regular and as small as has most
        evidence; or on the mesh of a state that it shall be `like`."""
        frame = self.frame(*self.ends(values, *self.rays.centers))
        ends = in_frame(self.ends(values, self.rays.x, self.rays.y), frame)
        if like is None:
            weight = np.repeat(self.bright, self.rays.per_pixel)
            mesh = Mesh.around(*ends, weight, self.sources.cells, self.sources.reach)
        else:
            mesh = like.mesh
        design, assumed = self.rays.design(mesh, *ends), self.assumed.penalty(values)

        def solved(size: float) -> State:
            falling = mesh.falling(size)
            strength = like.solution.strength if like else None
            about = self.data, self.galaxy, self.precision, self.pull, self.sources.cells, strength
            solution = solve(design * falling.astype(np.float32), *about)
            solution = replace(solution, source=solution.source * falling)
            return State(values, mesh, size, solution, ends, frame, assumed)

        return min(map(solved, [like.size] if like else self.sources.sizes), key=lambda state: state.evidence)

    def ends(self, values: np.ndarray, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Where rays at `x`, `y` end, in arcseconds."""
        return traced(values[: len(MASS)], x, y, self._halo(values, x, y))

    def _halo(self, values: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor | float, Tensor | float]:
        return self.halo(values[len(MASS) :], x, y) if self.halo else (0.0, 0.0)

    def frame(self, x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
        """Where the rays of the arcs, which end at these points, do so in the mean, and how far apart, in arcseconds;
        `(0, 0, 1)` where sources are not scaled."""
        if not self.sources.scaled:
            return 0.0, 0.0, 1.0
        middle = float(self.bright @ x), float(self.bright @ y)
        return *middle, float(np.sqrt(self.bright @ ((x - middle[0]) ** 2 + (y - middle[1]) ** 2)))

    def limited(self, values: np.ndarray) -> np.ndarray:
        """The values within their limits."""
        return np.clip(values, self.assumed.lowest, self.assumed.highest)

    def changes(self, state: State, free: np.ndarray) -> np.ndarray:
        """Derivatives of the image `(n, f)`, in units of the noise, by the `free` parameters. What a parameter does
        not touch of the deflection is not computed again: the power law takes longest, and half of them leave it."""
        x, y = self.rays.centers
        values = torch.tensor(state.values)
        parts = [part(values[: len(MASS)], x, y) for part, _ in PARTS]
        halo = self._halo(state.values, x, y)

        def placed(parts: list[tuple[Tensor, Tensor]], halo) -> np.ndarray:
            alpha_x, alpha_y = _together(parts)
            found = (x - alpha_x - halo[0]).numpy(), (y - alpha_y - halo[1]).numpy()
            return np.array(in_frame(found, self.frame(*found)))

        def nudged(number: int) -> np.ndarray:
            moved = state.values + NUDGE * np.eye(len(state.values))[number]
            if number >= len(MASS):
                return placed(parts, self._halo(moved, x, y))
            own = torch.tensor(moved[: len(MASS)])
            changed = (
                part(own, x, y) if number in uses else before for before, (part, uses) in zip(parts, PARTS, strict=True)
            )
            return placed(list(changed), halo)

        there = placed(parts, halo)
        moved = np.stack([(nudged(number) - there) / NUDGE for number in np.arange(len(values))[free]], axis=-1)
        slope_x, slope_y = (slope[:, None] for slope in state.mesh.slopes(state.solution.source, *there))
        return self.rays.image(slope_x * moved[0] + slope_y * moved[1])

    def normal(self, state: State, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half the second derivatives of the cost for the `free` parameters, and half its negative slope."""
        changes, assumed = self.changes(state, free), 1 / self.assumed.width[free] ** 2
        slope = changes.T @ (self.data - state.solution.image) - (state.values - self.assumed.mean)[free] * assumed
        return state.solution.beyond(changes) + np.diag(assumed), slope

    def adjusted(self, values: np.ndarray, free: np.ndarray, rounds: int, steps: int) -> State:
        """The best lens near these values; mesh and regularisation follow it after each of the `rounds`."""
        state = self.at(self.limited(values))
        for _ in range(rounds):
            state = self.descended(state, free, steps)
            state = self.at(state.values)
        return state

    def descended(self, state: State, free: np.ndarray, steps: int) -> State:
        """The state after some steps downhill, on the same mesh."""
        damping = 1e-2
        for _ in range(steps):
            normal, slope = self.normal(state, free)
            scale = np.maximum(np.diagonal(normal), 1e-9)  # the place of a subhalo without mass is of no consequence
            for _ in range(6):
                step = np.linalg.solve(normal + damping * np.diag(scale), slope)
                values = state.values.copy()
                values[free] += step / max(1.0, float(np.max(np.abs(step) / self.assumed.longest[free])))
                trial = self.at(self.limited(values), state)
                if trial.cost < state.cost:
                    break
                damping = max(8 * damping, 1e-3)
            else:
                return state
            gain, state, damping = state.cost - trial.cost, trial, max(damping / 5, 1e-6)
            if gain < ENOUGH:
                break
        return state
