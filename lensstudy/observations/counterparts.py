"""Simulated counterparts of real lenses: the same camera, noise and masked pixels, another mass and another source.

A `Template` is what a simulation takes over from a lens. `draw` makes a counterpart, smooth or with one subhalo, and
`refit` does to its image what it does to the real one: a smooth lens is fitted, and `Refit.channels` shows a network
what that leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage, optimize, signal
from torch import Tensor

from lensstudy.data.dataset import DataError
from lensstudy.files import whole_file
from lensstudy.lensing.profiles import sersic
from lensstudy.lensing.sources import sample
from lensstudy.observations.cutouts import Observation, redshifts_of
from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import (
    CLOSE,
    COARSE,
    CORE,
    FREE,
    IMAGES,
    INNERMOST,
    OUTERMOST,
    Assumed,
    Sources,
    State,
    Task,
    deflection,
    forgiving,
    in_frame,
    isothermal_lenses,
    model_of,
    traced,
)
from lensstudy.observations.one_subhalo import SubhaloSearch
from lensstudy.observations.rays import binned, rays_through
from lensstudy.observations.subhalos import Subhalo, subhalo_deflection

__all__ = ["PROFILES", "SIDE", "Counterpart", "Refit", "Template", "draw", "refit"]

SIDE = 48  # pixels of `COARSE` arcseconds along each side of what a network sees
MESH = Sources(16, 6.0, (0.5, 1.0), True, 2)  # of the source of a refit
ROUNDS, STEPS = 2, 6  # of a refit: the mesh follows the lens after each round of at most so many steps
PLACES = 0.2  # arcsec between the places on the arcs where a refit asks for a mass
SHAPE = 0.05  # scatter of each component of the ellipticity about that of the real lens
BRIGHT = 0.15  # scatter of how bright the arcs are, as the logarithm of their signal
PROFILES = {  # of subhalos, by name: the profile, and the concentration of a halo
    "NFW, concentration 15": ("truncated_nfw", 15.0),
    "NFW, concentration 60": ("truncated_nfw", 60.0),
    "point": ("point", 0.0),
}


@dataclass(frozen=True)
class Template:
    """What simulations take over from a real lens.

    Attributes:
        observation: the cutout without the light of its lens galaxy, with the errors of that light in its noise.
        sky: noise of photons and detector alone, `(H, H)`.
        parts, prior: how the light of the galaxy in front may change, at the pixels of a refit; see `LensLight`.
        assumed: of the mass of a lens.
        center: of the galaxy's light, in arcseconds.
        values: of the smooth model of the mass, in the order of `lens_model.MASS`.
        left: what the smooth model leaves of the image in units of the noise, `(H, H)`, zero in masked pixels.
        chi2: mean square of that over the fitted pixels outside the core.
        key: tells whether it is of the same pixels, see `model_fits.fingerprint`.
    """

    observation: Observation
    sky: np.ndarray
    parts: np.ndarray
    prior: np.ndarray
    assumed: Assumed
    center: tuple[float, float]
    values: np.ndarray
    left: np.ndarray
    chi2: float
    key: str = ""

    @classmethod
    def of(cls, lens: Lens, values: Sequence[float], left: np.ndarray, used: np.ndarray, key: str = "") -> Template:
        """From a lens, the values of its smooth model, as in `LensModel.values`, what that leaves, and the pixels that
        were fitted, both `(H, H)`."""
        redshifts, known = redshifts_of(lens.observation)
        assumed = Assumed.of(lens.light, redshifts if known else None)
        fitted = forgiving(lens.bare, lens.light)
        _, (parts,) = binned(fitted, _factor(fitted), lens.light.parts)
        about = lens.bare.noise, parts, lens.light.prior, assumed, lens.light.center, np.array(values)
        x, y = fitted.grid()
        core = np.hypot(x - lens.light.center[0], y - lens.light.center[1]) < CORE
        chi2 = float((left[used & ~core & ~fitted.mask] ** 2).mean())
        return cls(fitted, *about, np.where(fitted.mask, 0.0, left), chi2, key)

    @property
    def name(self) -> str:
        return str(self.observation)

    @property
    def redshifts(self) -> tuple[float, float]:
        """Of lens and source."""
        return redshifts_of(self.observation)[0]

    @property
    def outermost(self) -> float:
        """Radius in arcseconds up to which pixels are fitted."""
        reach = min(OUTERMOST, 0.48 * self.observation.field_of_view)
        return float(np.clip(IMAGES * self.values[0], min(1.5, reach), reach))

    @cached_property
    def real(self) -> Refit:
        """The refit of the real image."""
        return refit(self, self.observation.image, self.values)

    @cached_property
    def signal(self) -> float:
        """How much light the arcs hold, in units of the noise, added in quadrature over their pixels."""
        return float(np.linalg.norm(self.real.arcs))

    def same_pixels(self, other: Template) -> bool:
        """Whether the image of another template has as many pixels of the same size."""
        mine, theirs = self.observation, other.observation
        return mine.image.shape == theirs.image.shape and math.isclose(
            mine.pixel_scale, theirs.pixel_scale, rel_tol=0.02
        )

    def change(self, subhalo: Subhalo, profile: str) -> np.ndarray:
        """What a subhalo of one of the `PROFILES` would do to the noise-free image `(H, H)` of the real lens, by the
        model of its refit."""
        state, observation = self.real.state, self.observation
        rays = rays_through(observation, np.ones_like(observation.mask))
        ends = traced(self.real.state.values, *rays)
        kind, concentration = PROFILES[profile]
        extra = subhalo_deflection([subhalo], rays[0][None], rays[1][None], self.redshifts, kind, concentration)
        bent = ends[0] - extra[0][0].numpy(), ends[1] - extra[1][0].numpy()
        lit, moved = (state.mesh.brightness(state.solution.source, *in_frame(one, state.frame)) for one in (ends, bent))
        light = (moved - lit).reshape(*observation.mask.shape, -1).mean(-1)
        return light if observation.psf is None else signal.fftconvolve(light, observation.psf, mode="same")

    def place(self, generator: np.random.Generator) -> tuple[float, float]:
        """A place on the arcs of the real image, in arcseconds, drawn as in `draw`."""
        coarse, used = self.real.coarse, self.real.task.rays.used
        arcs = np.zeros(used.shape)
        arcs[used] = self.real.arcs * coarse.noise[used]
        return _on_the_arcs(arcs, used, coarse, self.center, generator)

    @cached_property
    def _kernel(self) -> np.ndarray:
        """What makes independent pixels share their noise as those of the image do, which keeps its size."""
        wanted = min(math.sqrt(self.observation.correlation), 2.9)
        share = optimize.brentq(lambda a: (1 + 2 * a) ** 2 / (1 + 2 * a * a) - wanted, 0, 0.9)
        line = np.array([share, 1, share]) / math.sqrt(1 + 2 * share * share)
        return np.outer(line, line)

    def noise(self, generator: np.random.Generator, left: np.ndarray | None = None) -> np.ndarray:
        """A draw of the noise `(H, H)`, shared among pixels as that of the image; or what the smooth model of another
        lens has `left`, in one of the eight orientations of the square, which is not noise alone."""
        drawn = ndimage.convolve(generator.normal(0, 1, self.sky.shape), self._kernel, mode="wrap")
        if left is not None:
            turned = np.rot90(left, int(generator.integers(4)))
            turned = turned if generator.integers(2) else turned[::-1]
            drawn = np.where(turned != 0, turned, drawn)
        return self.sky * drawn

    def save(self, file: Path) -> None:
        """Write it as `.npz`."""
        one = self.observation
        arrays = {field.name: getattr(self.assumed, field.name) for field in fields(Assumed)}
        texts = np.array([one.name, one.band, self.key])
        known = redshifts_of(one)
        numbers = np.array([one.pixel_scale, one.correlation, *self.center, *known[0], known[1], self.chi2], float)
        more: dict[str, Any] = {f"assumed_{name}": array for name, array in arrays.items()}
        more |= {} if one.psf is None else {"psf": one.psf}
        with whole_file(file) as open_file:
            np.savez_compressed(
                open_file,
                image=one.image,
                noise=one.noise,
                mask=one.mask,
                sky=self.sky,
                parts=self.parts.astype(np.float32),
                prior=self.prior,
                values=self.values,
                texts=texts,
                left=self.left.astype(np.float32),
                numbers=numbers,
                **more,
            )

    @classmethod
    def load(cls, file: Path) -> Template:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as held:
            kept = dict(held)
        name, band, key = kept["texts"].tolist()
        scale, correlation, x, y, lens, source, known, chi2 = kept["numbers"].tolist()
        about = {"redshift_lens": lens, "redshift_source": source} if known else {}
        observation = Observation(
            name,
            band,
            kept["image"],
            kept["noise"],
            kept["mask"],
            kept.get("psf"),
            scale,
            about,
            correlation=correlation,
        )
        assumed = Assumed(*(kept[f"assumed_{field.name}"] for field in fields(Assumed)))
        about = kept["sky"], kept["parts"], kept["prior"], assumed, (x, y), kept["values"], kept["left"], chi2, key
        return cls(observation, *about)


def _factor(observation: Observation) -> int:
    return max(1, round(COARSE / observation.pixel_scale))


# A smooth lens, fitted again


@dataclass(frozen=True)
class Refit:
    """A smooth lens that was fitted to an image of a template at pixels of 0.1 arcsec."""

    template: Template
    coarse: Observation
    task: Task
    state: State

    @cached_property
    def counts(self) -> np.ndarray:
        """Which pixels count `(h, h)`: those that were fitted, outside the core, where the galaxy's light is in doubt
        and its errors widen the noise."""
        x, y = self.coarse.grid()
        return self.task.rays.used & (np.hypot(x - self.template.center[0], y - self.template.center[1]) > CORE)

    @property
    def arcs(self) -> np.ndarray:
        """The arcs of the model `(n,)`, in units of the noise, without what the fit adds to the galaxy's light."""
        return self.state.solution.image - self.task.galaxy @ self.state.solution.galaxy

    @property
    def chi2(self) -> float:
        """Mean squared residual of the pixels that count."""
        residual = self.task.data - self.state.solution.image
        return float((residual[self.counts[self.task.rays.used]] ** 2).mean())

    @cached_property
    def channels(self) -> np.ndarray:
        """What a network sees `(3, SIDE, SIDE)`: the arcs and the residuals in units of the noise, each through asinh,
        and which pixels count."""
        x, y = self.coarse.grid()
        used, residual = self.task.rays.used, self.task.data - self.state.solution.image
        planes = np.zeros((3, *used.shape))
        planes[0, used], planes[1, used] = np.arcsinh(self.arcs + residual), np.arcsinh(residual)
        planes = np.where(self.counts, planes, 0.0)
        planes[2] = self.counts
        (middle_x, middle_y), away = self.template.center, SIDE - SIDE // 2
        row, column = np.abs(y[:, 0] - middle_y).argmin() + away, np.abs(x[0] - middle_x).argmin() + away
        padded = np.pad(planes, [(0, 0), (SIDE, SIDE), (SIDE, SIDE)])
        return padded[:, row : row + SIDE, column : column + SIDE].astype(np.float32)

    @cached_property
    def search(self) -> SubhaloSearch:
        """Which asks for one subhalo, at the pixels of the refit."""
        about = (self.state.values[0], (math.nan, math.inf), self.template.redshifts, True)
        parts = self.template.parts
        return SubhaloSearch.of(model_of(self.task, self.state, self.coarse, parts, *about), as_it_is=True)

    @property
    def scan(self) -> float:
        """How significant the mass is that the arcs ask for most, in sigma, to first order, at any place outside the
        core: what a search without a network would go by."""
        places = self.search.places(PLACES)
        places = places[np.hypot(*(places - self.template.center).T) > CORE]
        if not len(places):
            return 0.0
        strength, error = self.search.responses(places)
        return float((strength / error).max())

    def seen(self, change: np.ndarray) -> float:
        """How significant a change `(H, H)` of the noise-free image is, in sigma, once source, lens and the galaxy's
        light have taken their part of it: what an observer could reach who knows what to look for, and where."""
        changed, _ = binned(replace(self.template.observation, image=change), _factor(self.template.observation))
        change = changed.image[self.task.rays.used] * self.task.rays.weight
        both = np.column_stack([self.task.changes(self.state, FREE), change])
        products = self.state.solution.beyond(both)
        products[:-1, :-1] += np.diag(1 / self.task.assumed.width**2)
        share = np.linalg.solve(products[:-1, :-1], products[:-1, -1])
        return math.sqrt(max(products[-1, -1] - products[-1, :-1] @ share, 0.0))


def refit(template: Template, image: np.ndarray, values: np.ndarray | None = None) -> Refit:
    """Fit a smooth lens to an image `(H, H)` of a template, at pixels of 0.1 arcsec.

    Args:
        template: whose noise, masked pixels and galaxy the image has.
        image: without the light of the lens galaxy.
        values: of the lens with which the fit begins; None: isothermal lenses that explain the image, which are looked
            for as for `fit_lens_model`, and followed for as many steps, so that it takes ten times as long.

    Raises:
        DataError: nothing stands out of the noise.
    """
    observation = replace(template.observation, image=image)
    coarse, _ = binned(observation, _factor(observation))
    ring = min(INNERMOST, template.values[0] / 3), template.outermost
    about = template.assumed, template.parts, template.prior
    task = Task.of(coarse, ring, *about, MESH)
    if values is None:
        likely, lead = isothermal_lenses(coarse, ring[0], *about)
        close = [one.values for one, behind in zip(likely, lead, strict=True) if behind < CLOSE]
        found = [task.adjusted(one, FREE, rounds=ROUNDS, steps=STEPS) for one in close]
        values = min(found, key=lambda state: state.evidence).values
    return Refit(template, coarse, task, task.adjusted(values, FREE, rounds=ROUNDS, steps=STEPS))


# Counterparts


@dataclass(frozen=True)
class Counterpart:
    """A simulated image `(H, H)` of a template, and its truth.

    `values` are those of the lens; `change` is what the subhalo does to the noise-free image, `(H, H)`, or None.
    """

    image: np.ndarray
    values: np.ndarray
    subhalo: Subhalo | None
    profile: str
    change: np.ndarray | None
    galaxy: str


def draw(
    template: Template,
    others: np.ndarray,
    generator: np.random.Generator,
    mass: float = 0.0,
    profile: str = "point",
    multipoles: float | None = None,
    galaxies: Sequence[str] = (),
    left: np.ndarray | None = None,
) -> Counterpart:
    """Draw a counterpart of a template.

    Args:
        template: whose camera, noise, masked pixels and brightness it has, and nearly its Einstein radius.
        others: `(n, p)`, values of the lenses of the sample, of which the shear is that of one, in any direction.
        generator: of everything that is drawn.
        mass: of one subhalo on the arcs, in solar masses; 0: none.
        profile: of the subhalo, one of `PROFILES`.
        multipoles: amplitude of that of order 4, and none of order 3; None: both, up to 3 %.
        galaxies: cutouts of galaxies, see `lensing.sources`, of which one is the source; empty: a Sersic profile with
            up to four knots.
        left: what the smooth model of another lens leaves `(H, H)`, for its noise; None: noise is drawn.
    """
    values = _values(template, others, generator, multipoles)
    observation = template.observation
    x, y = observation.grid()
    near = np.hypot(x - template.center[0], y - template.center[1]) < template.outermost + 5 * COARSE
    rays = rays_through(observation, near)
    bent = deflection(torch.tensor(values), *rays)
    light, galaxy = _source(values[0], generator, galaxies)
    ends = rays[0] - bent[0] - values[4], rays[1] - bent[1] - values[5]

    def seen(extra: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)) -> np.ndarray:
        image = np.zeros(near.shape)
        image[near] = light(ends[0] - extra[0], ends[1] - extra[1]).reshape(near.sum(), -1).mean(1)
        return image if observation.psf is None else signal.fftconvolve(image, observation.psf, mode="same")

    smooth = seen()
    used = near & ~observation.mask
    strength = np.linalg.norm((smooth / observation.noise)[used]) / math.sqrt(observation.correlation)
    if not strength > 0:
        raise DataError(f"{template.name}: a source was drawn that is not seen")
    bright = template.signal * math.exp(generator.normal(0, BRIGHT)) / strength
    subhalo, change = None, None
    if mass:
        subhalo = Subhalo(*_on_the_arcs(smooth, used, observation, template.center, generator), mass)
        kind, concentration = PROFILES[profile]
        extra = subhalo_deflection([subhalo], rays[0][None], rays[1][None], template.redshifts, kind, concentration)
        change = bright * (seen((extra[0][0], extra[1][0])) - smooth)
    image = bright * smooth + (0 if change is None else change) + template.noise(generator, left)
    return Counterpart(image, values, subhalo, profile if mass else "", change, galaxy)


def _values(template: Template, others: np.ndarray, generator, multipoles: float | None) -> np.ndarray:
    """Values of a lens like those of the sample."""
    values = template.values.copy()
    values[0] *= math.exp(generator.normal(0, 0.05))
    values[1] = np.clip(generator.normal(2.08, 0.16), 1.8, 2.4)
    values[2:4] += generator.normal(0, SHAPE, 2)  # not in any direction: mass lies along the light
    modulus, angle = np.hypot(*generator.choice(others)[6:8]), generator.uniform(0, 2 * math.pi)
    values[6:8] = modulus * math.cos(angle), modulus * math.sin(angle)
    assumed = template.assumed  # a truth that no fit may reach would look like a subhalo
    values[:8] = np.clip(values[:8], assumed.lowest[:8], assumed.highest[:8])
    for first in (8, 10):  # multipoles of order 3 and 4
        amplitude = 0.03 * generator.uniform() if multipoles is None else multipoles * (first == 10)
        angle = generator.uniform(0, 2 * math.pi)
        values[first : first + 2] = amplitude * math.cos(angle), amplitude * math.sin(angle)
    return values


def _source(radius: float, generator: np.random.Generator, galaxies: Sequence[str]):
    """The light of a source as a function of places, in arcseconds from the middle of a lens, and its name."""
    offset, angle = 0.25 * radius * math.sqrt(generator.uniform()), generator.uniform(0, 2 * math.pi)
    x0, y0 = offset * math.cos(angle), offset * math.sin(angle)
    size = math.exp(generator.uniform(math.log(0.08), math.log(0.35)))
    turned = generator.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turned), math.sin(turned)

    def placed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (x - x0) / size, (y - y0) / size
        return cos * x + sin * y, cos * y - sin * x

    if galaxies:
        file = str(generator.choice(np.array(galaxies)))

        def galaxy(x: Tensor, y: Tensor) -> np.ndarray:
            x, y = placed(x, y)
            return sample([file], x[None, None], y[None, None])[0, 0].numpy()

        return galaxy, Path(file).name
    index, ratio = generator.uniform(0.8, 2.5), generator.uniform(0.4, 1.0)
    knots = generator.integers(0, 5)
    where, width = generator.normal(0, 0.8, (knots, 2)), generator.uniform(0.1, 0.35, knots)
    peak = generator.uniform(0.3, 3.0, knots)

    def knotted(x: Tensor, y: Tensor) -> np.ndarray:
        x, y = placed(x, y)
        found = sersic(x, y, 1.0, 1.0, index, (1 - ratio) / (1 + ratio), 0.0)
        for (knot_x, knot_y), sigma, height in zip(where, width, peak, strict=True):
            found = found + height * torch.exp(-((x - knot_x) ** 2 + (y - knot_y) ** 2) / (2 * sigma**2))
        return found.numpy()

    return knotted, "Sersic"


def _on_the_arcs(
    light: np.ndarray, used: np.ndarray, observation: Observation, center, generator
) -> tuple[float, float]:
    """A place in arcseconds, drawn where the arcs are brighter than a tenth of their peak, outside the core."""
    x, y = observation.grid()
    use = used & (np.hypot(x - center[0], y - center[1]) > CORE)
    rows, columns = np.nonzero(use & (light > 0.1 * light[use].max()))
    number = generator.integers(len(rows))
    jitter = generator.uniform(-0.5, 0.5, 2) * observation.pixel_scale
    return float(x[0, columns[number]] + jitter[0]), float(y[rows[number], 0] + jitter[1])
