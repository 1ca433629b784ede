"""Subhalos put into a smooth model: do networks recover them, and from which mass on would the arcs show them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import LensModel, expected_arcs
from lensstudy.observations.one_subhalo import SubhaloSearch
from lensstudy.observations.subhalos import Subhalo
from lensstudy.progress import progress

__all__ = [
    "FALSE_ALARMS",
    "Recovery",
    "least_mass",
    "noisy_images",
    "on_the_arc",
    "recovered_share",
]

FALSE_ALARMS = 0.05  # share of smooth counterparts that may be taken for lenses with a subhalo
MASSES = np.geomspace(1e8, 1e11, 7)  # solar masses


@dataclass(frozen=True)
class Recovery:
    """Subhalos put into smooth models of lenses, and how often networks recover them.

    Attributes:
        masses: of the subhalos, in solar masses.
        draws: places and draws of noise for each mass.
        smooth: probabilities of substructure `(8 draws,)` of the smooth counterparts, by lens and network.
        shares: share recovered `(masses,)`, by lens and network.
        shows: by lens, from which mass on its arcs would show one subhalo, see `SubhaloSearch.shows`.
        false_alarms: share of the smooth counterparts that is taken for lenses with a subhalo.
    """

    masses: np.ndarray
    draws: int
    smooth: dict[str, dict[str, np.ndarray]]
    shares: dict[str, dict[str, np.ndarray]]
    shows: dict[str, np.ndarray]
    false_alarms: float = FALSE_ALARMS

    @classmethod
    def of(cls, networks: Sequence[SubstructureNetwork], lenses: Sequence[Lens], draws: int, seed: int) -> Recovery:
        """Put single subhalos on the arcs of smooth models, at random places, with fresh noise every time.

        A subhalo is what those of a network's training images are, a point or a truncated halo. It counts as recovered
        where the probability rises above what all but `FALSE_ALARMS` of the lens's smooth counterparts are given. What
        the arcs themselves would show is told beside it, with mass and source of the smooth model free.

        Args:
            networks: who is asked.
            lenses: with smooth models, see `Lens.modelled`.
            draws: places and draws of noise for each mass; there are eight times as many smooth counterparts.
            seed: of places and noise.
        """
        generator = np.random.default_rng(seed)
        smooth: dict[str, dict[str, np.ndarray]] = {}
        shares: dict[str, dict[str, np.ndarray]] = {}
        shows: dict[str, np.ndarray] = {}
        for lens in progress(lenses, "injections"):
            counterparts = noisy_images(lens, generator, count=8 * draws)
            places = on_the_arc(lens.model, draws, generator)
            injected = {
                profile: [
                    [noisy_images(lens, generator, [Subhalo(x, y, mass)], profile)[0] for x, y in places]
                    for mass in MASSES
                ]
                for profile in dict.fromkeys(network.profile for network in networks)
            }
            smooth[str(lens)] = {one.label: _probabilities(one, lens, counterparts) for one in networks}
            shares[str(lens)] = {
                one.label: recovered_share(
                    smooth[str(lens)][one.label],
                    np.stack([_probabilities(one, lens, images) for images in injected[one.profile]]),
                )
                for one in networks
            }
            shows[str(lens)] = SubhaloSearch.of(lens.model, as_it_is=True).shows()
        return cls(MASSES, draws, smooth, shares, shows)

    @property
    def least_masses(self) -> pd.DataFrame:
        """The mass from which on at least half are recovered, a row a lens and a column a network; see `least_mass`."""
        rows = {
            lens: {label: least_mass(self.masses, share) for label, share in of.items()}
            for lens, of in self.shares.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("image")

    @property
    def table(self) -> pd.DataFrame:
        """`least_masses` in words."""
        least = self.least_masses
        return least.map(lambda m: f"{m:.1e}" if math.isfinite(m) else f"more than {self.masses[-1]:.0e}")

    @property
    def shows_table(self) -> pd.DataFrame:
        """From which mass within 1 kpc on the arcs of each lens would show a subhalo, in solar masses."""
        return pd.DataFrame(
            {"image": lens, "least mass anywhere": mass.min(), "at half of the places": np.median(mass)}
            for lens, (_, _, mass) in ((lens, shows.T) for lens, shows in self.shows.items())
        )

    @property
    def error(self) -> float:
        """Standard error of a share near one half."""
        return math.sqrt(0.25 / self.draws)


def noisy_images(
    lens: Lens,
    generator: np.random.Generator,
    subhalos: Sequence[Subhalo] = (),
    profile: str = "truncated_nfw",
    count: int = 1,
) -> list[np.ndarray]:
    """`count` images `(H, H)` of the smooth model of a lens with `subhalos` in it, each with its own draw of noise."""
    image = expected_arcs(lens.model, subhalos, profile)
    return [image + generator.normal(0, lens.observation.noise) for _ in range(count)]


def _probabilities(network: SubstructureNetwork, lens: Lens, images: Sequence[np.ndarray]) -> np.ndarray:
    return network.substructure(np.concatenate([lens.seen_by(network, image) for image in images]))


def on_the_arc(model: LensModel, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` positions `(count, 2)` in arcseconds, drawn on the arcs that were fitted in proportion to their
    brightness."""
    image = np.where(model.used, np.clip(model.image, 0, None), 0)
    image = np.where(image > 0.1 * image.max(), image, 0)
    chosen = generator.choice(image.size, count, p=(image / image.sum()).ravel())
    rows, columns = np.unravel_index(chosen, image.shape)
    x, y = model.observation.grid()
    return np.stack([x[0, columns], y[rows, 0]], axis=1)


def recovered_share(smooth: np.ndarray, injected: np.ndarray, false_alarms: float = FALSE_ALARMS) -> np.ndarray:
    """Share recovered `(masses,)` of lenses with a subhalo: of the scores `injected` `(masses, n)` those above what
    only `false_alarms` of the scores `smooth` `(n,)` of the smooth counterpart exceed."""
    return (injected > np.quantile(smooth, 1 - false_alarms)).mean(axis=1)


def least_mass(masses: np.ndarray, recovered: np.ndarray, share: float = 0.5) -> float:
    """The least mass from which on at least `share` is recovered at every larger one, interpolated in its logarithm;
    infinite where that is not reached."""
    above = recovered >= share
    if not above[-1]:
        return math.inf
    first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    if first == 0:
        return float(masses[0])
    low, high = recovered[first - 1], recovered[first]
    step = (share - low) / (high - low)
    return float(np.exp(np.log(masses[first - 1]) + step * np.log(masses[first] / masses[first - 1])))
