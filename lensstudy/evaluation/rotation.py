"""What rotation does to the scores of networks, whoever trained them: the same lenses, upright and rotated.

Rotations by multiples of 90 degrees move pixels and change nothing else: what a network loses there, it loses to the
orientation alone. At other angles pixels are interpolated as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.evaluation.comparison import Difference, compare
from lensstudy.evaluation.robustness import UNPERTURBED, predict_perturbed, rotated
from lensstudy.evaluation.scores import format_interval, largest_change, summarise
from lensstudy.progress import progress

__all__ = ["ROTATIONS", "RightAngles", "UnderRotation"]

QUARTER = "rotated by 90°"
ROTATIONS = {
    UNPERTURBED: lambda images, _: images,
    QUARTER: lambda images, _: rotated(images, 90.0),
    "rotated by 180°": lambda images, _: rotated(images, 180.0),
    "rotated by 270°": lambda images, _: rotated(images, 270.0),
    "random rotations": lambda images, generator: rotated(images, generator.uniform(0, 360, len(images))),
}


class RightAngles:
    """One lens, rotated by multiples of 90 degrees: by how much its probabilities change.

    Args:
        image: the lens, of shape `(C, H, W)`.
        networks: by name, each with `probabilities(images, angle)`, such as a `Predictor`.

    Attributes:
        changes: of each network, the largest change of any probability.
    """

    def __init__(self, image: np.ndarray, networks: Mapping[str, Any]):
        self.changes = {
            name: float(np.ptp([one.probabilities(image[None], angle) for angle in (0, 90, 180, 270)], axis=0).max())
            for name, one in networks.items()
        }

    @property
    def answer(self) -> str:
        """What a rotation by a multiple of 90 degrees does to this lens, one clause a network."""
        said = [f"by {change:.2f} with {name}" for name, change in self.changes.items()]
        return f"Rotated by 90, 180 and 270 degrees, a probability of this lens changes {' and '.join(said)}."


class UnderRotation:
    """Scores of several networks on the same lenses, upright, rotated by 90, 180 and 270 degrees and by random angles.

    Args:
        networks: by name, each with `classes` and `probabilities(images)`, such as a `Predictor`.
        lenses: the images and their classes.
        seed: of the random angles, the same for every network.
        upright: probabilities of the upright lenses that are known already, by network, in the order of their classes.

    Raises:
        DataError: a network tells other classes apart than those of the lenses.

    Attributes:
        table: one row a `network` and `perturbation` with accuracy, AUC and their intervals, from `scores.summarise`.
        consistency: of each network, the 95th percentile of the largest change of a probability over the four exact
            rotations.
        losses: of each network, by how much its accuracy falls from upright to rotated by 90 degrees.
    """

    def __init__(
        self,
        networks: Mapping[str, Any],
        lenses: LensDataset,
        seed: int = 0,
        upright: Mapping[str, np.ndarray] | None = None,
    ):
        self.images = len(lenses)
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, network in networks.items():
            if sorted(network.classes) != sorted(lenses.classes):
                told = ", ".join(network.classes)
                raise DataError(f"{name}: tells {told} apart, and the lenses are of {', '.join(lenses.classes)}")
            order = [list(network.classes).index(one) for one in lenses.classes]
            known = {UNPERTURBED: upright[name]} if upright else {}
            asked = {rotation: change for rotation, change in ROTATIONS.items() if rotation not in known}
            found[name] = known | {
                rotation: predict_perturbed(network.probabilities, lenses.images, change, seed)[:, order]
                for rotation, change in progress(asked.items(), name, len(asked))
            }
        rows = [
            {"network": name, "seed": 0, "perturbation": rotation, "probabilities": probabilities}
            for name, each in found.items()
            for rotation, probabilities in each.items()
        ]
        self.table = summarise(lenses.labels, pd.DataFrame(rows), lenses.classes)
        exact = list(ROTATIONS)[:4]
        self.consistency = {
            name: float(np.quantile(largest_change([each[rotation] for rotation in exact]), 0.95))
            for name, each in found.items()
        }
        self.losses: dict[str, Difference] = {
            name: compare(lenses.labels, each[UNPERTURBED], each[QUARTER], "accuracy") for name, each in found.items()
        }

    def summary(self, score: str = "accuracy") -> pd.DataFrame:
        """One row a network: its `score` (`accuracy` or `auc`) under each rotation with the 95 % interval over images,
        and its rotation consistency."""
        rows = []
        for name, each in self.table.groupby("network", sort=False):
            shown = {
                row["perturbation"]: format_interval(row[score], row[f"{score}_low"], row[f"{score}_high"])
                for _, row in each.iterrows()
            }
            rows.append({"network": name, **shown, "rotation consistency": self.consistency[str(name)]})
        return pd.DataFrame(rows)

    @property
    def answer(self) -> str:
        """What the numbers say, for the top of the report."""
        sentences = []
        for name, loss in self.losses.items():
            of = self.table[self.table["network"] == name].set_index("perturbation")["accuracy"]
            lost = format_interval(loss.value, loss.low, loss.high)
            sentences.append(
                f"{name}: {of[UNPERTURBED]:.3f} right upright and {of[QUARTER]:.3f} after a rotation by 90 degrees, a "
                f"loss of {lost}."
            )
        return f"On {self.images:,} simulated lenses: {' '.join(sentences)}"

    @property
    def plain(self) -> str:
        """The answer without brackets."""
        said = []
        for name in self.losses:
            of = self.table[self.table["network"] == name].set_index("perturbation")["accuracy"]
            upright, rotated = (f"{100 * (1 - of[one]):.0f}" for one in (UNPERTURBED, QUARTER))
            times = "" if said else " times in 100"
            beside = ", rotated or not" if upright == rotated else f" instead of {upright}"
            said.append(f"{name} {'' if said else 'is wrong '}{rotated}{times}{beside}")
        return f"When a lens is rotated by 90°, {'; '.join(said)}."
