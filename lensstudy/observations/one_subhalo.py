"""One subhalo in a lens whose source is free: where the arcs ask for one, what it is like, and where one would be seen.

`SubhaloSearch` asks, at every place on the arcs and to first order, for a mass; fits the likeliest ones with all
parameters of the lens free; and tells how far each parameter may go before the fit gets worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lensstudy.lensing.cosmology import critical_surface_density, kpc_per_arcsec
from lensstudy.lensing.profiles import truncated_nfw
from lensstudy.observations.lens_model import CORE, MASS, NUDGE, LensModel, State, Task, in_frame

__all__ = ["Halo", "SubhaloFit", "SubhaloSearch", "cut_nfw", "ends_of", "pseudo_jaffe"]

SUBHALO = {  # as `MASS`: place in arcsec, strength in arcsec^2 (see `Halo`), logarithm of the size in arcsec
    "x": (0.0, math.inf, -3.0, 3.0, 0.1),
    "y": (0.0, math.inf, -3.0, 3.0, 0.1),
    "strength": (0.0, math.inf, -0.3, 0.5, 0.02),
    "log_size": (math.log(0.3), 1.2, math.log(0.03), math.log(3.0), 0.5),
}
APERTURE = 1.0  # kpc: the radius within which a subhalo's mass hardly depends on its profile (Minor et al. 2017)
TRIAL_SIZE, TRIAL_STRENGTH = 0.2, 0.003  # arcsec, and arcsec^2, of the subhalos that are tried
STEP = 0.1  # arcsec between places of the map
ON_THE_ARCS = 0.02  # of the brightest arcs: where they are fainter, no place is asked for
APART = 0.3  # arcsec between candidates
SHOWS = 50.0  # of chi square: a subhalo for which it falls by that much is called one that shows
STRONG = 10.0  # of the logarithm of the evidence (Nightingale et al. 2024)
MANY = len(MASS)
AROUND = np.array([-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0])  # standard deviations at which a parameter is held
SETTLED, BETTER = 30, 1.0  # steps until a fit has settled, and by how much of chi square another is better


def pseudo_jaffe(x, y, size) -> tuple[Tensor, Tensor]:
    """Deflection of an isothermal halo cut off at `size`, as in Vegetti et al. (2010), of unit strength.

    Its convergence is `1/2 (1/r - 1/sqrt(r^2 + a^2))`, so `alpha = (r + a - sqrt(r^2 + a^2))/r`.
    """
    radius = torch.sqrt(x * x + y * y + 1e-12)
    alpha = (radius + size - torch.sqrt(radius * radius + size * size)) / radius
    return alpha * x / radius, alpha * y / radius


def cut_nfw(x, y, size) -> tuple[Tensor, Tensor]:
    """Deflection of an NFW halo of scale radius `size` that is cut off at five of them, of some strength."""
    size = torch.as_tensor(size, dtype=x.dtype)
    return truncated_nfw(x, y, torch.ones((), dtype=x.dtype), size, 5 * size)


@dataclass(frozen=True)
class Halo:
    """A profile of subhalos whose strength is its mass within an aperture.

    `strength` is the square of the Einstein radius, in arcsec^2, of a point as heavy as what lies within `aperture`
    arcseconds of its middle, seen along the line of sight: that much the arcs know best.
    """

    profile: Callable
    aperture: float

    def deflection(self, values: np.ndarray, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Deflection of halos, four `values` (see `SUBHALO`) each."""
        alpha_x, alpha_y = torch.zeros_like(x), torch.zeros_like(y)
        for at_x, at_y, strength, log_size in np.reshape(values, (-1, len(SUBHALO))).tolist():
            size = math.exp(log_size)
            edge = torch.tensor([self.aperture], dtype=x.dtype)
            unit = strength / self.aperture / float(self.profile(edge, torch.zeros_like(edge), size)[0])
            part_x, part_y = self.profile(x - at_x, y - at_y, size)
            alpha_x, alpha_y = alpha_x + unit * part_x, alpha_y + unit * part_y
        return alpha_x, alpha_y


@dataclass(frozen=True)
class SubhaloFit:
    """A lens with a subhalo in it, fitted.

    Attributes:
        x, y: its place in arcseconds from the middle of the lens's light.
        mass: within 1 kpc along the line of sight, in solar masses, and its standard deviation `mass_error`.
        size: in arcseconds, where it is cut off.
        chi2_falls: by how much the cost (chi square and penalties) of the smooth lens is higher.
        evidence_rises: by how much the logarithm of the evidence is higher.
        state: what was fitted.
    """

    x: float
    y: float
    mass: float
    mass_error: float
    size: float
    chi2_falls: float
    evidence_rises: float
    state: State


@dataclass(frozen=True)
class SubhaloSearch:
    """A smooth model that is asked for one subhalo.

    Attributes:
        model: the smooth model.
        task: of lenses with one subhalo more.
        smooth: the lens without one, adjusted as long as those with one.
        halo: the profile.
        free: the parameters of the lens that are adjusted with it.
    """

    model: LensModel
    task: Task
    smooth: State
    halo: Halo
    free: np.ndarray

    @classmethod
    def of(
        cls,
        model: LensModel,
        profile: Callable = pseudo_jaffe,
        free: Sequence[int] = range(MANY),
        as_it_is: bool = False,
    ) -> SubhaloSearch:
        """Prepare the search.

        Args:
            model: the smooth model.
            profile: of subhalos, `pseudo_jaffe` or `cut_nfw`.
            free: the parameters of the lens that are adjusted with a subhalo, by their numbers.
            as_it_is: whether the model is taken as it is, which is enough to tell what the arcs would show; to compare
                it with fits of subhalos, it has to be adjusted as long as they are.
        """
        halo = Halo(profile, APERTURE / kpc_per_arcsec(model.redshifts[0]))
        free = np.array(free)
        smooth = model.state if as_it_is else model.task.adjusted(model.values, free, rounds=4, steps=8)
        task = replace(model.task, assumed=model.task.assumed.and_of(list(SUBHALO.values())), halo=halo.deflection)
        return cls(model, task, smooth, halo, free)

    @property
    def solar_masses(self) -> float:
        """Mass of a subhalo of unit strength."""
        return math.pi * critical_surface_density(*self.model.redshifts)

    @property
    def middle(self) -> np.ndarray:
        """Of the lens's light, in arcseconds from the middle of the image."""
        return self.model.task.assumed.mean[4:6]

    def places(self, step: float = STEP) -> np.ndarray:
        """Places on the arcs `(n, 2)` in arcseconds from the middle of the image, `step` apart."""
        x, y = self.model.observation.grid()
        image = np.where(self.model.used, self.model.image, 0.0)
        lit = image > ON_THE_ARCS * np.quantile(image[self.model.used], 0.998)
        every = max(1, round(step / self.model.observation.pixel_scale))
        rows, columns = np.nonzero(lit)
        kept = (rows % every == 0) & (columns % every == 0)
        return np.stack([x[0, columns[kept]], y[rows[kept], 0]], axis=1)

    def responses(self, places: np.ndarray, size: float = TRIAL_SIZE) -> tuple[np.ndarray, np.ndarray]:
        """Strength `(n,)` that the arcs ask for at each of `places`, to first order, and its standard deviation, with
        source, lens and the galaxy's light free."""
        smooth, task, rays = self.smooth, self.task, self.task.rays
        x, y = rays.centers
        ends = task.ends(smooth.values, x, y)
        there = in_frame(ends, task.frame(*ends))
        slope_x, slope_y = smooth.mesh.slopes(smooth.solution.source, *there)
        light = []
        for place in places:
            alpha = self.halo.deflection(np.array([*place, NUDGE, math.log(size)]), x, y)
            moved = ends[0] - alpha[0].numpy(), ends[1] - alpha[1].numpy()
            moved = in_frame(moved, task.frame(*moved))
            light.append((slope_x * (moved[0] - there[0]) + slope_y * (moved[1] - there[1])) / NUDGE)
        changes = np.concatenate([task.changes(smooth, self.free), rays.image(np.stack(light, axis=1))], axis=1)
        products, own = smooth.solution.beyond(changes), len(self.free)
        products[:own, :own] += np.diag(1 / self.task.assumed.width[self.free] ** 2)
        pull = changes.T.astype(float) @ (self.task.data - smooth.solution.image)
        pull[:own] -= ((smooth.values - self.task.assumed.mean[:MANY]) / self.task.assumed.width[:MANY] ** 2)[self.free]
        share = np.linalg.solve(products[:own, :own], products[:own, own:])
        curvature = np.diagonal(products)[own:] - (products[:own, own:] * share).sum(0)
        return (pull[own:] - share.T @ pull[:own]) / curvature, 1 / np.sqrt(curvature)

    def scan(self, places: np.ndarray | None = None, steps: int = 5) -> list[State]:
        """Lenses with a subhalo of `TRIAL_SIZE` that starts at each of some places `(n, 2)`, the best first; by default
        everywhere on the arcs, 0.25 arcsec apart.

        To first order a heavy subhalo is invisible: the smooth lens has taken its part. So the lens has to move along.
        """
        places = self.places(0.25) if places is None else places
        size, free = math.log(TRIAL_SIZE), np.append(self.free, MANY + np.arange(3))
        tried = []
        for place in places:
            start = np.concatenate([self.smooth.values, place, [TRIAL_STRENGTH, size]])
            tried.append(self.task.descended(self.task.at(start, self.smooth), free, steps))
        return sorted(tried, key=lambda state: state.cost)

    def fits(self, scanned: Sequence[State], count: int = 3) -> list[SubhaloFit]:
        """The `count` best of lenses as `scan` finds them, of which none has its subhalo near another's, with its size
        adjusted as well; that of most evidence first. Where none of them has a negative mass, the best that has one is
        adjusted with them, see `control`."""
        apart: list[State] = []
        for one in scanned:
            place = one.values[MANY : MANY + 2]
            if all(np.hypot(*(place - other.values[MANY : MANY + 2])) > APART for other in apart):
                apart.append(one)
        chosen = apart[:count]
        if not any(one.values[MANY + 2] < 0 for one in chosen):
            chosen += [one for one in apart[count:] if one.values[MANY + 2] < 0][:1]
        fitted = [self.found(self.task.adjusted(one.values, self.all_free, rounds=4, steps=8)) for one in chosen]
        return sorted(fitted, key=lambda fit: -fit.evidence_rises)

    def control(self, scanned: Sequence[State], fits: Sequence[SubhaloFit]) -> float:
        """How much the cost falls at most with a negative mass, among lenses as `scan` finds them and `fits`, which may
        end higher, on a mesh of their own: nothing has such a mass, so what the model lacks makes as much of a
        difference."""
        in_scan = [self.smooth.cost - one.cost for one in scanned if one.values[MANY + 2] < 0]
        return float(max([0.0, *in_scan, *(fit.chi2_falls for fit in fits if fit.mass < 0)]))

    def is_subhalo(self, fit: SubhaloFit, scanned: Sequence[State], fits: Sequence[SubhaloFit]) -> bool:
        """Whether a fit is of a subhalo rather than of what the model lacks: a positive mass outside the core, where
        the galaxy's light is in doubt, that makes more of a difference than any negative mass (`control`), and whose
        evidence is higher by `STRONG`."""
        outside, more = math.hypot(fit.x, fit.y) > CORE, fit.chi2_falls > self.control(scanned, fits)
        return bool(fit.mass > 0 and outside and more and fit.evidence_rises > STRONG)

    @property
    def all_free(self) -> np.ndarray:
        """The parameters that are adjusted, those of the subhalo among them."""
        return np.append(self.free, MANY + np.arange(len(SUBHALO)))

    def found(self, state: State) -> SubhaloFit:
        """What a state of the task says of the subhalo."""
        covariance = np.linalg.inv(self.task.normal(state, self.all_free)[0])
        x, y, strength, log_size = state.values[MANY:].tolist()
        falls, rises = self.smooth.cost - state.cost, (self.smooth.evidence - state.evidence) / 2
        error = math.sqrt(covariance[-2, -2]) * self.solar_masses
        place = np.array([x, y]) - self.middle
        mass = strength * self.solar_masses
        return SubhaloFit(float(place[0]), float(place[1]), mass, error, math.exp(log_size), falls, rises, state)

    def held(self, state: State, name: str, values: Sequence[float]) -> list[State]:
        """The best lenses, on the mesh of a state, with a parameter of the subhalo, one of `SUBHALO`, held at each of
        `values`: the others, lens and source are adjusted."""
        number = MANY + list(SUBHALO).index(name)
        held = self.all_free == number
        covariance = np.linalg.inv(self.task.normal(state, self.all_free)[0])
        along = covariance[:, held][:, 0] / covariance[held, held]  # where the others go, to first order
        found = []
        for value in values:
            alone, together = state.values.copy(), state.values.copy()
            alone[number] = value
            together[self.all_free] += along * (value - state.values[number])
            starts = [self.task.at(self.task.limited(start), state) for start in (alone, together)]
            start = min(starts, key=lambda one: one.cost)
            found.append(self.task.descended(start, self.all_free[~held], 8))
        return found

    def profiles(self, best: SubhaloFit, rounds: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The profile likelihood of each parameter of the subhalo: values `(9,)` up to eight standard deviations from
        the best, the fifth of them, and how much chi square rises there, in units of noise that pixels share.

        A fit ends with a new mesh, on which it first settles. Where a lens with a parameter held turns out better, the
        fit goes on from there, `rounds` times at most: otherwise no rise would be one above the lowest chi square.
        """
        state = self.task.descended(best.state, self.all_free, SETTLED)
        for more in reversed(range(rounds)):
            covariance = np.linalg.inv(self.task.normal(state, self.all_free)[0])
            errors = dict(zip(SUBHALO, np.sqrt(np.diagonal(covariance)[-len(SUBHALO) :]), strict=True))
            values = {name: state.values[MANY + k] + errors[name] * AROUND for k, name in enumerate(SUBHALO)}
            away = {name: self.held(state, name, some[AROUND != 0]) for name, some in values.items()}
            lowest = min((one for some in away.values() for one in some), key=lambda one: one.cost)
            costs = {name: np.insert([one.cost for one in some], 4, state.cost) for name, some in away.items()}
            if not more or lowest.cost > state.cost - BETTER:
                break
            state = self.task.descended(lowest, self.all_free, SETTLED)
        return {name: (values[name], (costs[name] - costs[name][4]) / self.misfit) for name in SUBHALO}

    def at_place(self, place: Sequence[float]) -> SubhaloFit:
        """The fit that starts from a light subhalo at a place, in arcseconds from the middle of the lens's light."""
        start = [*self.smooth.values, *(self.middle + place), TRIAL_STRENGTH, math.log(TRIAL_SIZE)]
        return self.found(self.task.adjusted(np.array(start), self.all_free, rounds=4, steps=8))

    @property
    def misfit(self) -> float:
        """Chi square a pixel of the smooth lens, 1 at least: where models do not fit, differences mean less."""
        return max(1.0, self.model.chi2)

    def sensitivity(self, places: np.ndarray, mass: float, size: float = TRIAL_SIZE) -> np.ndarray:
        """By how much chi square would fall `(n,)` with a subhalo of `mass` (within 1 kpc, solar masses) at each place.

        To first order, with source, lens and the galaxy's light free, and in units of noise that pixels share.
        """
        return (mass / (self.responses(places, size)[1] * self.solar_masses)) ** 2 / self.misfit

    def shows(self) -> np.ndarray:
        """Places on the arcs and the mass that shows there `(n, 3)`: x and y in arcseconds from the middle of the
        lens's light, and the mass within 1 kpc, in solar masses, for which chi square would fall by `SHOWS`."""
        places = self.places()
        return np.column_stack([places - self.middle, np.sqrt(SHOWS / self.sensitivity(places, 1.0))])


def ends_of(values: np.ndarray, rises: np.ndarray, rise: float = 3.84) -> tuple[float, float]:
    """Between which values chi square rises by less than `rise`: a 95 % interval by default,
    infinite where it has no end there; both from `SubhaloSearch.profiles`.

    Example:
        >>> values = np.arange(-4.0, 5.0)
        >>> [round(end, 2) for end in ends_of(values, values**2)]
        [-1.96, 1.96]
    """
    best, roots = len(values) // 2, np.sqrt(np.clip(rises, 0, None))
    ends = []
    for side in (slice(best, None, -1), slice(best, None)):
        climbing = np.maximum.accumulate(roots[side])
        last = values[side][-1]
        beyond = math.copysign(math.inf, last - values[best])
        ends.append(np.interp(math.sqrt(rise), climbing, values[side]) if climbing[-1] >= math.sqrt(rise) else beyond)
    return float(ends[0]), float(ends[1])
