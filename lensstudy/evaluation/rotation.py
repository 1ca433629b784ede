"""What rotation does to the scores of networks, whoever trained them: the same lenses, upright and rotated.

Rotations by multiples of 90 degrees move pixels and change nothing else: what a network loses there, it loses to the
orientation alone. At other angles pixels are interpolated as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.evaluation.comparison import Difference, compare
from lensstudy.evaluation.robustness import UNPERTURBED, predict_perturbed, rotated
from lensstudy.evaluation.scores import format_interval, largest_change, summarise
from lensstudy.progress import progress

__all__ = ["ROTATIONS", "UnderRotation"]

QUARTER = "rotated by 90°"
ROTATIONS = {
    UNPERTURBED: lambda images, _: images,
    QUARTER: lambda images, _: rotated(images, 90.0),
    "rotated by 180°": lambda images, _: rotated(images, 180.0),
    "rotated by 270°": lambda images, _: rotated(images, 270.0),
    "random rotations": lambda images, generator: rotated(images, generator.uniform(0, 360, len(images))),
}
LIMITATIONS = (
    "The lenses are simulated by this package's preset of the Common Test, not those on which the published networks "
    "were trained. The accuracy on upright lenses depends on both; the loss under rotation, on the network alone."
)


class UnderRotation:
    """Scores of several networks on the same lenses, upright, rotated by 90, 180 and 270 degrees and by random angles.

    Args:
        networks: by name, each with `classes` and `probabilities(images)`, such as a `Predictor`.
        lenses: the images and their classes.
        seed: of the random angles, the same for every network.

    Raises:
        DataError: a network tells other classes apart than those of the lenses.

    Attributes:
        table: one row a `network` and `perturbation` with accuracy, AUC and their intervals, from `scores.summarise`.
        consistency: of each network, the 95th percentile of the largest change of a probability over the four exact
            rotations.
        losses: of each network, by how much its accuracy falls from upright to rotated by 90 degrees.
    """

    def __init__(self, networks: Mapping[str, Any], lenses: LensDataset, seed: int = 0):
        self.images = len(lenses)
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, network in networks.items():
            if sorted(network.classes) != sorted(lenses.classes):
                told = ", ".join(network.classes)
                raise DataError(f"{name}: tells {told} apart, and the lenses are of {', '.join(lenses.classes)}")
            order = [list(network.classes).index(one) for one in lenses.classes]
            found[name] = {
                rotation: predict_perturbed(network.probabilities, lenses.images, change, seed)[:, order]
                for rotation, change in progress(ROTATIONS.items(), name, len(ROTATIONS))
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

    def save(self, folder: str | Path) -> Path:
        """Write `rotations.csv`, and `summary.json` with the answer and the names that the list of reports reads; the
        figure stands beside them as `headline.png`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / "rotations.csv", index=False)
        summary = {
            "answer": self.answer,
            "figure": "headline.png",
            "figure_alt": "AUC of each network on lenses upright and rotated, with intervals.",
            "figure_caption": "AUC on the same lenses upright and rotated, with 95 % intervals over lenses.",
            "table": json.loads(self.summary().to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file
