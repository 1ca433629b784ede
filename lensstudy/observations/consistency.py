"""Are predictions the same where nothing of substance changes? A lens rotated, shifted, noisier, in another band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from lensstudy.observations.cutouts import filled
from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens import Lens
from lensstudy.progress import progress

__all__ = ["Consistency", "perturbed"]

OBSERVED = "as observed"
SHIFTS = ((0.5, 0.0), (0.0, 0.5), (-0.5, -0.5), (1.0, 0.0), (0.0, -1.0))  # pixels of the network's images


def perturbed(
    network: SubstructureNetwork, lens: Lens, others: Sequence[Lens] = (), *, seed: int = 0, draws: int = 6
) -> dict[str, np.ndarray]:
    """Probabilities of substructure of one lens under changes that have nothing to do with dark matter.

    Args:
        network: who is asked.
        lens: the lens.
        others: the same lens in other bands.
        seed: of the added noise.
        draws: number of images with added noise, and with other noise in masked pixels.

    Returns:
        Probabilities `(n,)` by kind of change, the lens as it was observed first. A kind without images is empty.
    """
    generator, scale = np.random.default_rng(seed), network.trained.card["data"]["pixel_scale"]
    arcs = filled(lens.bare, np.random.default_rng(0))
    observed = lens.seen_by(network)
    rotated = network.substructure(np.repeat(observed, 12, axis=0), np.arange(12) * 30.0)
    changed = {
        "shifted by a pixel": [lens.seen_by(network, shift=(x * scale, y * scale)) for x, y in SHIFTS],
        "twice the noise power": [
            lens.seen_by(network, arcs + generator.normal(0, lens.observation.noise)) for _ in range(draws)
        ],
        "masked pixels redrawn": [lens.seen_by(network, seed=number) for number in range(1, draws)],
        "other band": [other.seen_by(network) for other in others],
        "with or without lens light": [lens.seen_by(network, galaxy=not network.lens_light)],
    }
    return {
        OBSERVED: network.substructure(observed),
        "rotated by 90°": rotated[::3],
        "rotated by 30°": rotated,
    } | {
        kind: network.substructure(np.concatenate(images)) if images else np.zeros(0)
        for kind, images in changed.items()
    }


@dataclass(frozen=True)
class Consistency:
    """How predictions change under perturbations.

    Attributes:
        probabilities: of substructure, by network, lens and kind of change, see `perturbed`.
    """

    probabilities: dict[str, dict[str, dict[str, np.ndarray]]]

    @classmethod
    def of(cls, networks: Sequence[SubstructureNetwork], lenses: Sequence[Lens], seed: int = 0) -> Consistency:
        """Ask every network about every lens, perturbed in every way."""
        found: dict[str, dict[str, dict[str, np.ndarray]]] = {network.label: {} for network in networks}
        for network, lens in progress(list(product(networks, lenses)), "perturbations"):
            others = [other for other in lenses if other.name == lens.name and other is not lens]
            found[network.label][str(lens)] = perturbed(network, lens, others, seed=seed)
        return cls(found)

    @property
    def observed(self) -> dict[str, dict[str, float]]:
        """Probability of substructure of each image as it was observed, by network and lens."""
        return {
            label: {lens: float(kinds[OBSERVED][0]) for lens, kinds in of.items()}
            for label, of in self.probabilities.items()
        }

    @property
    def table(self) -> pd.DataFrame:
        """The largest change over all lenses, a row a network and a column a kind of change."""
        rows = {
            label: pd.DataFrame([_changes(kinds) for kinds in of.values()]).max()
            for label, of in self.probabilities.items()
        }
        return pd.DataFrame(rows).T.drop(columns=OBSERVED).rename_axis("network")

    @property
    def largest(self) -> dict[str, dict[str, float]]:
        """The largest change under any perturbation, by network and lens."""
        return {
            label: {lens: float(np.nanmax(list(_changes(kinds).values()))) for lens, kinds in of.items()}
            for label, of in self.probabilities.items()
        }


def _changes(kinds: dict[str, np.ndarray]) -> dict[str, float]:
    """By how much the probability moves under each kind of change, the image as it was observed among them."""
    return {
        kind: float(np.ptp(np.append(values, kinds[OBSERVED]))) if len(values) else np.nan
        for kind, values in kinds.items()
    }
