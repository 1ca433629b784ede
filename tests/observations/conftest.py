"""Simulated observations, read once, and networks whose predictions are known beforehand."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from lensstudy.observations.cutouts import network_input
from lensstudy.observations.lens_model import SOURCES
from lensstudy.observations.sample import LensSample


@dataclass
class KnownNetwork:
    """Stands for a `SubstructureNetwork`: its predictions are a function of images `(N, 1, S, S)` and degrees."""

    predict: object
    label: str = "known"
    size: int = 30
    scale: float = 0.1
    noise: float = 1.0
    lens_light: bool = False
    profile: str = "point"
    p: float = 0.5
    examples: dict = field(default_factory=dict)

    def __post_init__(self):
        card = {"network": self.label, "image_size": self.size, "in_channels": 1, "data": {"pixel_scale": self.scale}}
        self.trained = SimpleNamespace(card=card)
        one = SimpleNamespace(held_out=np.linspace(0, 1, 199))
        one.score = lambda images: np.full(len(images), 1 - self.p)
        one.p_value = lambda images: np.full(len(images), self.p)
        self.reference = one

    @property
    def field_of_view(self):
        return self.size * self.scale

    def prepare(self, image, observation, center=(0.0, 0.0), seed=0):
        generator = np.random.default_rng(seed)
        return network_input(
            image, observation, self.trained.card, noise=self.noise, generator=generator, center=center
        )

    def substructure(self, images, degrees=0.0):
        return self.predict(images, np.broadcast_to(degrees, len(images)))


@pytest.fixture(scope="session")
def known_network():
    return KnownNetwork


@pytest.fixture(scope="session")
def sample() -> LensSample:
    """Three simulated lenses, the second with a subhalo."""
    return LensSample.read("", seed=1)


@pytest.fixture(scope="session")
def modelled(sample) -> LensSample:
    """The second of them, with a smooth model on a coarse mesh."""
    coarse = replace(SOURCES, cells=14, sizes=(0.5,))
    return replace(sample, lenses=[sample.lenses[1].modelled(coarse)])
