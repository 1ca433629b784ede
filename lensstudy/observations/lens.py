"""One observed lens: its galaxy and its arcs taken apart, its smooth model, and what a network is given of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import Observation, filled
from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens_light import LensLight, fit_lens_light, ring_radius, subtract_lens_light
from lensstudy.observations.noise import calibrated
from lensstudy.observations.smooth_model import SmoothModel, fit_lens

__all__ = ["Lens"]

GALAXY = 2.0  # arcsec: further in, what the model of a bright galaxy leaves would be taken for noise
NEIGHBOURS, LARGEST_ARCS = 1.8, 2.5  # radii of the arcs, and arcsec: what lies wholly further out is another galaxy


@dataclass(frozen=True)
class Lens:
    """A lens in one band, with its galaxy and its arcs taken apart.

    Attributes:
        observation: the cutout.
        light: the fitted light of the lens galaxy.
        bare: the cutout without that light; what it cannot explain of the core is masked.
        ring_radius: radius in arcseconds at which the arcs hold most light.
        fit: the smooth model of mass and source, once there is one (`modelled`).

    Example:
        >>> import tempfile
        >>> from lensstudy.observations.reading import read_observations
        >>> from lensstudy.observations.writing import write_simulated
        >>> lens = Lens.of(read_observations(write_simulated(tempfile.mkdtemp()))[0][1])
        >>> str(lens), round(lens.ring_radius, 1)
        ('simulated-2', 0.9)
    """

    observation: Observation
    light: LensLight
    bare: Observation
    ring_radius: float
    fit: SmoothModel | None = None

    @classmethod
    def of(cls, observation: Observation) -> Lens:
        """Fit the light of the lens galaxy and find the arcs.

        Raises:
            DataError: no arcs stand out of the galaxy.
        """
        light = fit_lens_light(observation)
        return cls(observation, light, subtract_lens_light(observation, light), ring_radius(observation, light))

    @classmethod
    def calibrated(cls, observation: Observation) -> Lens:
        """As `of`, with the noise measured by what the light of the galaxy leaves, and neighbours masked.

        Raises:
            DataError: no arcs stand out of the galaxy.
        """
        light = fit_lens_light(observation)
        x, y = observation.grid()
        empty = ~light.arcs & (np.hypot(x - light.center[0], y - light.center[1]) > GALAXY)
        lens = cls.of(calibrated(observation, light.model, empty))
        bare = subtract_lens_light(lens.observation, lens.light, max(NEIGHBOURS * lens.ring_radius, LARGEST_ARCS))
        return replace(lens, bare=bare)

    def __str__(self) -> str:
        return str(self.observation)

    @property
    def name(self) -> str:
        """The name of the lens, without its band."""
        return self.observation.name

    @property
    def signal(self) -> float:
        """How much light the arcs hold, in units of the noise, added in quadrature over their pixels."""
        arcs = self.light.arcs & ~self.observation.mask
        return float(np.sqrt((((self.observation.image - self.light.model) / self.observation.noise)[arcs] ** 2).sum()))

    @property
    def galaxy(self) -> np.ndarray:
        """The model of the lens galaxy `(H, H)`, without sky."""
        return self.light.model - self.light.sky

    @property
    def model(self) -> SmoothModel:
        """The smooth model. Raises `DataError` before `modelled`."""
        if self.fit is None:
            raise DataError(f"{self}: has no smooth model yet; use lens.modelled()")
        return self.fit

    def modelled(self, sources: int = 1, seed: int = 0) -> Lens:
        """Return the lens with a smooth model of as many Sersic `sources`.

        Raises:
            DataError: no model can be fitted, see `fit_lens`.
        """
        return replace(self, fit=fit_lens(self.bare, self.ring_radius, sources=sources, seed=seed))

    def seen_by(
        self,
        network: SubstructureNetwork,
        arcs: np.ndarray | None = None,
        *,
        shift: tuple[float, float] = (0.0, 0.0),
        galaxy: bool | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Return the image `(1, C, S, S)` that a network is given, in its own pixels, field of view and noise.

        Args:
            network: whose images these are to be.
            arcs: what to show in place of the observed arcs, `(H, H)` (default: those, masked pixels filled with sky).
            shift: how far from the lens, in arcseconds, the middle of the image shall be.
            galaxy: whether the lens galaxy is shown (default: as in the training images of the network).
            seed: of the noise in masked pixels and beyond the cutout.

        Raises:
            DataError: the cutout is too small for the network's field of view.
        """
        if arcs is None:
            arcs = filled(self.bare, np.random.default_rng(seed))
        if network.lens_light if galaxy is None else galaxy:
            arcs = arcs + self.galaxy
        x, y = self.light.center
        return network.prepare(arcs, self.observation, (x + shift[0], y + shift[1]), seed)
