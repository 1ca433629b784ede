"""One observed lens: its galaxy and its arcs taken apart, its smooth model, and what a network is given of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import Observation, cropped, filled
from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens_light import LensLight, fit_lens_light, ring_radius, subtract_lens_light
from lensstudy.observations.lens_model import SOURCES, LensModel, Sources, fit_lens_model
from lensstudy.observations.noise import calibrated

__all__ = ["Lens"]

FIELD = 8.0  # arcsec that are kept around a lens
GALAXY = 2.0  # arcsec: further in, what the model of a bright galaxy leaves would be taken for noise
NEIGHBOURS, LARGEST_ARCS = 1.8, 2.5  # radii of the arcs, and arcsec: what lies wholly further out is another galaxy


@dataclass(frozen=True)
class Lens:
    """A lens in one band, with its galaxy and its arcs taken apart.

    Attributes:
        observation: the part of the cutout around the lens, with its noise measured.
        light: the fitted light of the lens galaxy.
        bare: the same without that light; neighbours are masked, and what it cannot explain of the core.
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
    fit: LensModel | None = None

    @classmethod
    def of(cls, observation: Observation) -> Lens:
        """Fit the light of the lens galaxy, measure the noise by what it leaves, and find the arcs.

        Raises:
            DataError: no arcs stand out of the galaxy.
        """
        observation = cropped(observation, FIELD)
        light = fit_lens_light(observation)
        x, y = observation.grid()
        empty = ~light.arcs & (np.hypot(x - light.center[0], y - light.center[1]) > GALAXY)
        observation = calibrated(observation, light.model, empty)
        light = fit_lens_light(observation)
        radius = ring_radius(observation, light)
        bare = subtract_lens_light(observation, light, max(NEIGHBOURS * radius, LARGEST_ARCS))
        return cls(observation, light, bare, radius)

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
    def planes(self) -> dict[str, np.ndarray]:
        """Images `(H, H)` of what was made of the cutout.

        `observed`, `arcs` (without the lens galaxy), `mask`, `noise`, `galaxy` and `galaxy_uncertainty`; once there is
        a model, also that of the arcs, `model`, what it leaves in units of the noise, `residuals`, and which pixels it
        was fitted to, `used`.
        """
        planes = {
            "observed": self.observation.image,
            "arcs": self.bare.image,
            "mask": self.bare.mask,
            "noise": self.bare.noise,
            "galaxy": self.light.model,
            "galaxy_uncertainty": self.light.uncertainty,
        }
        if self.fit is None:
            return planes
        return planes | {
            "galaxy": self.light.model + self.fit.galaxy,
            "model": self.fit.image,
            "residuals": self.fit.residuals,
            "used": self.fit.used,
        }

    @property
    def model(self) -> LensModel:
        """The smooth model. Raises `DataError` before `modelled`."""
        if self.fit is None:
            raise DataError(f"{self}: has no smooth model yet; use lens.modelled()")
        return self.fit

    def modelled(self, sources: Sources = SOURCES) -> Lens:
        """Return the lens with a smooth model, its source on one of these meshes.

        Raises:
            DataError: no model can be fitted, see `fit_lens_model`.
        """
        return replace(self, fit=fit_lens_model(self.bare, self.ring_radius, self.light, sources))

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
