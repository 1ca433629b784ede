"""What is reached without any network, with intervals over images: by shortcuts to the classes, and by fitting a smooth
lens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensstudy.data.baselines import FEATURES, fitted_scores, halves
from lensstudy.data.dataset import LensDataset
from lensstudy.data.simulation import camera_of
from lensstudy.evaluation.scores import auc, interval
from lensstudy.lensing.fitting import smooth_fit

__all__ = ["Shortcuts", "shortcuts", "smooth_fit_scores"]


@dataclass(frozen=True)
class Shortcuts:
    """What shortcuts reach on `images` images: `table` has one row a shortcut with its `auc` and the edges `low` and
    `high` of the 95 % interval over images."""

    table: pd.DataFrame
    images: int

    @property
    def answer(self) -> str:
        """Whether a shortcut tells the classes apart better than guessing, with the interval that says so."""
        best = self.table.sort_values("low").iloc[-1]
        if best["low"] > 0.5:
            return (
                f"**There is a shortcut**: {best.name}, with an AUC of {best['auc']:.2f} (95 % interval "
                f"{best['low']:.2f} to {best['high']:.2f}; guessing: 0.5). A network has to beat that before it says "
                "anything about dark matter."
            )
        return (
            f"**No shortcut shows** in {self.images:,} images: no interval lies above 0.5, which is guessing, and an "
            f"AUC above {self.table['high'].max():.2f} is excluded at 95 %."
        )


def shortcuts(dataset: LensDataset, against: str = "", features: Sequence[str] = tuple(FEATURES)) -> Shortcuts:
    """Judge baselines that know the size, shape and brightness of the light and nothing of dark matter.

    Args:
        dataset: a split data set. A ridge is fitted on one half of its training and validation parts and judged on the
            other (of scores that were cross-validated, intervals hold less than they promise); the test part is not
            looked at.
        against: one class to be told from all others (default: the mean over the classes, each against the rest).
        features: names of `baselines.FEATURES`.

    Returns:
        A `Shortcuts`.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_1", 60, seed=1, image_size=32).split(0.2, 0.2, seed=1)
        >>> bool(shortcuts(lenses, against="no_sub").table.loc["ring moments", "low"] > 0.5)
        True
    """
    seen = dataset.subset(dataset.catalogue["part"].isin(["train", "validation"]).to_numpy())
    fitted, judged = halves(seen)
    labels, rows = judged.labels, {}
    for name in features:
        scores = fitted_scores(fitted, judged, name)
        if against:
            wanted = dataset.classes.index(against)
            truth, scores = (labels == wanted).astype(int), scores[:, [wanted, wanted]]
        else:
            truth = labels
        rows[name.replace("_", " ")] = (auc(truth, scores), *interval(truth, [scores]))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["auc", "low", "high"]).rename_axis("shortcut")
    return Shortcuts(table, len(judged))


def smooth_fit_scores(dataset: LensDataset, images_per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Chi square of the best smooth lens as a score for substructure, of the first so many images of each class.

    Args:
        dataset: the images to judge, of a set that `simulate` made with the class `no_sub` and others.
        images_per_class: so many images of each class are fitted, or all where there are fewer.

    Returns:
        Whether an image has substructure `(n,)`, as 0 and 1, and scores of no and yes `(n, 2)`. Both are empty for
        images that were read or mixed, whose camera and noise are not known, and without lenses of both kinds.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 2, seed=1, image_size=32, classes=["no_sub", "cdm"])
        >>> truth, found = smooth_fit_scores(lenses, 2)
        >>> float(auc(truth, found))
        1.0
    """
    about, table = dataset.description, dataset.catalogue
    smooth = (table["class"] == "no_sub").to_numpy()
    if about.get("source") != "simulated" or smooth.all() or not smooth.any() or not images_per_class:
        return np.zeros(0, dtype=int), np.zeros((0, 2))
    rows = np.flatnonzero(table.groupby("class").cumcount() < images_per_class)
    some = dataset.subset(rows)
    fits = smooth_fit(some.images, **camera_of(some))
    chi_square = fits["chi_square"].to_numpy()
    return (~smooth[rows]).astype(int), np.stack([-chi_square, chi_square], axis=1)
