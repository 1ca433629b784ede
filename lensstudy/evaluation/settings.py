"""Which settings each network gets, chosen on the validation part, and whether its training was long enough.

Every network has the same number of trainings to choose from. Intervals are those over validation images; the best of
many is better by luck too, so what was chosen is judged on other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from lensstudy.evaluation.scores import auc, format_interval, interval
from lensstudy.study import Study
from lensstudy.training.tuning import BEST

__all__ = ["Convergence", "best_of_each", "chosen", "convergence", "convergences", "in_yaml"]


class Convergence(NamedTuple):
    """AUC of a training with its interval over images, and the AUC of one with twice the steps."""

    auc: float
    low: float
    high: float
    longer: float

    @property
    def converged(self) -> bool:
        """Whether twice the steps gain less than these images can tell: no more than the interval reaches."""
        return self.longer <= self.high


def convergence(labels: np.ndarray, probabilities: np.ndarray, longer: np.ndarray) -> Convergence:
    """Compare a training with one of twice the steps, on the same images.

    Args:
        labels: classes of the images `(N,)`.
        probabilities: what the network gives them `(N, classes)`.
        longer: what it gives them after twice the steps, with a schedule made for these.

    Returns:
        A `Convergence`; it has converged unless the longer training lies above the interval of the AUC.

    Example:
        >>> labels, odds = np.repeat([0, 1], 50), np.tile([0.2, 0.6, 0.9, 0.4, 0.7], 20)
        >>> probabilities = np.stack([1 - odds, odds], 1)
        >>> convergence(labels, probabilities, probabilities).converged
        True
    """
    return Convergence(auc(labels, probabilities), *interval(labels, [probabilities]), auc(labels, longer))


def best_of_each(combinations: pd.DataFrame, setting: str, settings: Sequence[str]) -> pd.DataFrame:
    """The best validation AUC, with its 95 % interval over validation images, of each network with each value of
    `setting`, whatever the other `settings` are: one row each, and the others that it has."""
    rows = []
    for (network, value), group in combinations.groupby(["network", setting], sort=False):
        row: dict[str, Any] = {"network": network, setting: value}
        if group["auc"].isna().all():
            rows.append(row | {"validation AUC": "diverged"})
            continue
        best = group.loc[group["auc"].astype(float).idxmax()]
        labels, probabilities = _validation(best["folder"])
        score = format_interval(auc(labels, probabilities), *interval(labels, [probabilities]))
        rows.append(row | {name: best[name] for name in settings if name != setting} | {"validation AUC": score})
    return pd.DataFrame(rows)


def chosen(combinations: pd.DataFrame, settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The `settings` of the best combination of each network, as a study has them."""
    ended = combinations.dropna(subset="auc")
    best = ended.loc[ended.groupby("network", sort=False)["auc"].idxmax()].astype({name: object for name in settings})
    return {row["network"]: {name: row[name] for name in settings} for _, row in best.iterrows()}


def in_yaml(settings: dict[str, dict[str, Any]]) -> str:
    """The settings of single networks as a parameter file has them."""
    return yaml.safe_dump({"settings": settings}, sort_keys=False, default_flow_style=None)


def convergences(study: Study, alternatives: pd.DataFrame) -> pd.DataFrame:
    """One row for each training of which the `alternatives` have one with twice the epochs (the best combination has
    `search_epochs`): AUC with its interval over validation images, that of the longer one, and whether it has
    `converged`."""
    rows = []
    for network, group in alternatives.dropna(subset="auc").groupby("network", sort=False):
        folders = {_epochs(row.settings, study.search_epochs): row.folder for row in group.itertuples()}
        for epochs in sorted(folders.keys() - {0}):
            if 2 * epochs in folders:
                (labels, own), (_, longer) = _validation(folders[epochs]), _validation(folders[2 * epochs])
                found = convergence(labels, own, longer)
                row = {"network": network, "epochs": epochs, "validation AUC": format_interval(*found[:3])}
                rows.append(row | {"twice the epochs": found.longer, "converged": "yes" if found.converged else "no"})
    return pd.DataFrame(rows)


def _epochs(settings: str, search_epochs: int) -> int:
    """Epochs of an alternative that changes nothing else; 0 for one that changes something else."""
    if settings == BEST:
        return search_epochs
    name, _, value = settings.partition(" = ")
    return int(value) if name == "epochs" and value.isdigit() else 0


def _validation(folder: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the validation part, from the predictions of a training."""
    table = pd.read_parquet(Path(folder) / "predictions.parquet")
    classes = list(table.columns[2:])
    return table["class"].map(classes.index).to_numpy(), table[classes].to_numpy()
