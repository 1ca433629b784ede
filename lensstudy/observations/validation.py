"""Which predictions for observed lenses count: in distribution, smooth counterparts called smooth, a subhalo seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lensstudy.evaluation.scores import counted
from lensstudy.files import write_json
from lensstudy.observations.consistency import Consistency
from lensstudy.observations.distribution import SubstructureNetwork, compare_networks
from lensstudy.observations.lens import Lens
from lensstudy.observations.recovery import Recovery

__all__ = ["DistributionCheck", "Validation", "counting"]


@dataclass(frozen=True)
class DistributionCheck:
    """Which lenses are in the distribution of which network's training images.

    Attributes:
        scores: OOD score, a row an image and a column a network.
        p_values: share of held-out images with at least this score, likewise.
        held_out: sorted OOD scores of held-out images like those of the training, by network.
        abstain_below: p-value below which an image is out of distribution.
    """

    scores: pd.DataFrame
    p_values: pd.DataFrame
    held_out: dict[str, np.ndarray]
    abstain_below: float

    @classmethod
    def of(
        cls, networks: Sequence[SubstructureNetwork], lenses: Sequence[Lens], abstain_below: float
    ) -> DistributionCheck:
        """Compare every lens with the training images of every network."""
        scores, p_values = (
            pd.DataFrame(
                {
                    one.label: {str(lens): float(getattr(one.reference, name)(lens.seen_by(one))[0]) for lens in lenses}
                    for one in networks
                }
            ).rename_axis("image")
            for name in ("score", "p_value")
        )
        return cls(scores, p_values, {one.label: one.reference.held_out for one in networks}, abstain_below)

    @property
    def threshold(self) -> dict[str, float]:
        """The OOD score beyond which a network abstains."""
        at = 1 - self.abstain_below
        return {label: float(np.quantile(held_out, at)) for label, held_out in self.held_out.items()}

    @property
    def inside(self) -> dict[str, list[str]]:
        """The images in distribution, by network: not below `abstain_below`, nor further out than every held-out image,
        which is all that few held-out images can say."""
        return {
            label: list(p.index[(p >= self.abstain_below) & (p > self.least[label] * (1 + 1e-9))])
            for label, p in self.p_values.items()
        }

    @property
    def least(self) -> dict[str, float]:
        """The least p-value that the held-out images can give, by network."""
        return {label: 1 / (len(held_out) + 1) for label, held_out in self.held_out.items()}

    @property
    def table(self) -> pd.DataFrame:
        """How many images are in distribution for each network, and the least p-value that it can give."""
        return pd.DataFrame(
            {
                "network": label,
                "in distribution": f"{len(names)} of {len(self.p_values)}",
                "images": ", ".join(names) or "none",
                "held-out images": len(self.held_out[label]),
                "least p-value possible": self.least[label],
            }
            for label, names in self.inside.items()
        )


@dataclass(frozen=True)
class Validation:
    """What networks say of observed lenses, and which of their predictions count.

    Attributes:
        networks: who was asked.
        lenses: about which lenses.
        distribution, consistency, recovery: what was found out about them.
        simulated: whether the observations were simulated.
    """

    networks: Sequence[SubstructureNetwork]
    lenses: Sequence[Lens]
    distribution: DistributionCheck
    consistency: Consistency
    recovery: Recovery
    simulated: bool

    @property
    def by_lens(self) -> pd.DataFrame:
        """Every network about every lens, see `compare_networks`."""
        images = {one.label: {str(lens): lens.seen_by(one) for lens in self.lenses} for one in self.networks}
        return compare_networks(self.networks, images, self.consistency.largest)

    @property
    def agreement(self) -> str:
        """On how many images all networks agree."""
        groups = self.by_lens.groupby("image", sort=False)
        same = groups["prediction"].nunique() == 1
        found = [set(names) for names in self.distribution.inside.values()]
        inside = same.index.isin(set.intersection(*found))
        all_images = f"All networks ({len(self.networks)}) agree on {same.sum()} of {counted(len(same), 'image')}"
        if not inside.any():
            return f"{all_images}; none of them is in distribution for every network."
        return f"{all_images}; of the {inside.sum()} in distribution for every network, on {(same & inside).sum()}."

    @property
    def by_network(self) -> pd.DataFrame:
        """Every network in one line."""
        least, observed = self.recovery.least_masses, self.consistency.observed
        return pd.DataFrame(
            {
                "network": label,
                "images in distribution": f"{len(names)} of {len(self.lenses)}",
                "median prediction": float(np.median(list(observed[label].values()))),
                "median of smooth counterparts": float(np.median([of[label] for of in self.recovery.smooth.values()])),
                "largest change, rotated by 30°": float(self.consistency.table["rotated by 30°"][label]),
                "lenses where some mass is recovered": int(np.isfinite(least[label]).sum()),
                "least mass recovered": float(least[label].replace(np.inf, np.nan).min()),
            }
            for label, names in self.distribution.inside.items()
        )

    @property
    def counting(self) -> dict[str, list[str]]:
        """The images, by network, whose prediction counts: the image is in distribution, smooth counterparts are called
        smooth, and a subhalo of some mass would have been recovered."""
        return counting(self.distribution, self.recovery)

    @property
    def answer(self) -> str:
        """The result in one or two sentences."""
        given = [
            f"{label} gives {name} {self.consistency.observed[label][name]:.2f}"
            for label, names in self.counting.items()
            for name in names
        ]
        if given:
            return (
                "These answers count, because the image is in distribution, the network calls its smooth counterparts "
                f"smooth, and it would have recovered a subhalo there: {'; '.join(given)}."
            )
        why = (
            "where a lens is in distribution, no network both calls its smooth counterparts smooth and recovers a "
            f"subhalo of up to {self.recovery.masses[-1]:.0e} solar masses"
            if any(self.distribution.inside.values())
            else "no lens is in distribution for any network"
        )
        which = "an observed" if self.simulated else "a real"
        return (
            f"No answer about {which} lens counts here: {why}. That is the result; probabilities given all the same "
            "are not evidence."
        )

    def save(self, file: str | Path) -> Path:
        """Write the answer, p-values, probabilities and least masses as JSON; returns the file."""
        least = self.recovery.least_masses
        summary = {
            "real": not self.simulated,
            "answer": self.answer,
            "p_values": self.distribution.p_values.to_dict(),
            "probability_of_substructure": self.consistency.observed,
            "side_by_side": json.loads(self.by_lens.to_json(orient="records")),
            "least_mass_recovered": {
                label: {name: mass if np.isfinite(mass) else None for name, mass in of.items()}
                for label, of in least.to_dict().items()
            },
        }
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, summary)
        return file


def counting(distribution: DistributionCheck, recovery: Recovery) -> dict[str, list[str]]:
    """See `Validation.counting`; networks without any such image are omitted."""
    least = recovery.least_masses
    found = {
        label: [
            name
            for name in names
            if name in recovery.smooth
            and np.isfinite(least[label][name])
            and np.median(recovery.smooth[name][label]) < 0.5
        ]
        for label, names in distribution.inside.items()
    }
    return {label: names for label, names in found.items() if names}
