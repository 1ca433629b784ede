"""How a score grows with the number of training images, and how many more images another network needs for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import Measured, difference_of, interval_of, measured
from lensstudy.evaluation.scores import labels_of

__all__ = ["LearningCurve", "images_to_match", "learning_curve"]

NO_ERROR = 1e-9  # of a score of 1, whose logarithm does not exist


@dataclass(frozen=True)
class LearningCurve:
    """A score of one network by the number of training images: `points` has the scores of the seeds at each number, and
    what every test image adds to them."""

    labels: np.ndarray
    points: Mapping[int, Measured]
    metric: str = "auc"

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a number of training `images`: the mean `score` over `seeds`, and `low` and `high`, its 95 % interval
        over test images and seeds."""
        rows = []
        for images, point in self.points.items():
            low, high = interval_of(self.labels, point, self.metric)
            row = {"images": images, "score": float(point.values.mean()), "low": low, "high": high}
            rows.append(row | {"seeds": len(point.values)})
        return pd.DataFrame(rows)

    @property
    def sizes(self) -> list[int]:
        return list(self.points)

    def at(self, images: float) -> Measured:
        """The curve at any number of images between two points, seed by seed. There the error, 1 - score, is a power of
        the number of images, as learning curves are (Hestness et al. 2017, arXiv:1712.00409): read off linearly, a
        curve that bends would seem to need more images than it does."""
        sizes = self.sizes
        k = int(np.clip(np.searchsorted(sizes, images), 1, max(len(sizes) - 1, 1)))
        if images in self.points or len(sizes) == 1:
            return self.points[int(images)]
        before, after = (self.points[size] for size in sizes[k - 1 : k + 1])
        share = np.log(images / sizes[k - 1]) / np.log(sizes[k] / sizes[k - 1])
        errors = [np.maximum(1 - one.values, NO_ERROR) for one in (before, after)]
        error = errors[0] ** (1 - share) * errors[1] ** share
        slopes = (1 - share) * error / errors[0], share * error / errors[1]
        shares = sum(slope[:, None] * one.shares for slope, one in zip(slopes, (before, after), strict=True))
        return Measured(1 - error, shares)

    def still_rises(self) -> bool:
        """Whether the last step of the curve is more than chance."""
        last = self.sizes[-2:]
        return len(last) == 2 and self.ahead(last[1], self, last[0])[1] > 0

    def ahead(
        self, images: int, other: LearningCurve, others: float, level: float = 0.95
    ) -> tuple[float, float, float]:
        """How far this network with `images` is ahead of the `other` with `others` images, and its interval."""
        return difference_of(self.labels, self.points[images], other.at(others), self.metric, level)[:3]


def learning_curve(
    labels: np.ndarray | LensDataset, trainings: pd.DataFrame, *, metric: str = "auc"
) -> dict[str, LearningCurve]:
    """Measure a score against the number of training images.

    Args:
        labels: classes of the test images `(N,)`, or the data set.
        trainings: one row a training, columns `network`, `images` (number of training images), `seed`, and
            `probabilities`, `(N, classes)` of the test images.
        metric: `"auc"` or `"accuracy"`.

    Returns:
        A curve a network, for `images_to_match` and `plots.learning_curves`; its `table` has one row a number of
        images, with intervals over test images and seeds.

    Example:
        >>> labels = np.repeat([0, 1], 3)
        >>> rows = [("d4", images, 1, np.eye(2)[labels]) for images in (100, 200)]
        >>> trainings = pd.DataFrame(rows, columns=["network", "images", "seed", "probabilities"])
        >>> learning_curve(labels, trainings)["d4"].table.score.tolist()
        [1.0, 1.0]
    """
    labels = labels_of(labels)
    points: dict[str, dict[int, Measured]] = {}
    ordered = trainings.sort_values(["images", "seed"], kind="stable")
    for (network, images), group in ordered.groupby(["network", "images"], sort=False):
        points.setdefault(network, {})[images] = measured(labels, list(group["probabilities"]), metric)
    return {network: LearningCurve(labels, curve, metric) for network, curve in points.items()}


def images_to_match(own: LearningCurve, other: LearningCurve, level: float = 0.95) -> pd.DataFrame:
    """How many training images the `other` network needs for what `own` reaches.

    The other's curve is read off where its mean first reaches the score, its error a power of the number of images
    between two points. The interval holds the numbers of images with which the two cannot be told apart: it begins
    where the other is no longer surely behind and ends where it is surely ahead, over test images and seeds.

    Args:
        own: curve of one network.
        other: curve of the other, with the same test images and seeds.
        level: nominal coverage.

    Returns:
        One row a number of `images` of `own`: its `score`; `needed`, `low` and `high`, infinite where the other's curve
        ends before; and `in_words`, with the factor.
    """
    rows = []
    for images, point in own.points.items():

        def edge(k: int, images: int = images) -> float:
            return _first(lambda others: own.ahead(images, other, others, level)[k], other.sizes)

        needed, low, high = edge(0), edge(1), edge(2)
        words = _in_words(images, (needed, low, high), other)
        row = {"images": images, "score": float(point.values.mean()), "needed": needed, "low": low, "high": high}
        rows.append(row | {"in_words": words})
    return pd.DataFrame(rows)


def _first(behind: Callable[[float], float], sizes: Sequence[int]) -> float:
    """The number of images at which `behind`, which falls as a curve rises, is zero for the first time: the smallest of
    all where it is not above zero from the start, infinity where it never gets there."""
    at = [behind(size) for size in sizes]
    reached = [k for k, value in enumerate(at) if value <= 0]
    if not reached:
        return np.inf
    k = reached[0]
    if k == 0 or at[k] == 0:
        return float(sizes[k])
    logarithm = brentq(lambda x: behind(np.exp(x)), *np.log(sizes[k - 1 : k + 1]), xtol=1e-3)
    return float(np.exp(logarithm))


def _in_words(images: int, found: tuple[float, float, float], other: LearningCurve) -> str:
    """`needs 3.1 [2.0, 5.2] times as many`; where the curve ends before or begins after it, only what is certain."""
    sizes = other.sizes

    def figure(value: float) -> str:
        if np.isinf(value):
            return f"more than {sizes[-1] / images:.3g}"
        return f"at most {value / images:.2g}" if value <= sizes[0] * (1 + 1e-9) else f"{value / images:.2g}"

    needed, low, high = (figure(value) for value in found)
    if np.isinf(found[0]):
        rising = "where its curve still rises" if other.still_rises() else "where its curve does not surely rise"
        least = "" if np.isinf(found[1]) else f" (95 %: at least {low} times as many)"
        return f"does not reach it with up to {sizes[-1]:,} images in so many steps, {rising}{least}"
    return f"needs {needed} times as many" if low == needed == high else f"needs {needed} [{low}, {high}] times as many"
