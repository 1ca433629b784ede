"""Is one network better than another? Paired tests on the same test images, and their adjustment for many pairs.

What makes an image hard for all networks cancels in a paired test, and so does what a seed does to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import difference
from lensstudy.evaluation.scores import format_interval, labels_of, runs_of

__all__ = ["Difference", "compare", "holm", "in_words", "mcnemar", "pairwise"]


class Difference(NamedTuple):
    """How far the first of two networks is ahead, with its interval and the p-value of 'no difference'."""

    value: float
    low: float
    high: float
    p: float


def compare(
    labels: np.ndarray | LensDataset,
    first: np.ndarray | Sequence[np.ndarray],
    second: np.ndarray | Sequence[np.ndarray],
    metric: str = "auc",
    level: float = 0.95,
) -> Difference:
    """Test whether the first of two networks is better than the second on the same test images.

    With several seeds the statement is about all seeds and images of the kind, with one about all images
    (`intervals.difference`). Where no image tells two networks apart, as when both are always right, the difference
    may be as large as the rule of three allows; only a network and itself differ by nothing for certain.

    Args:
        labels: classes of the images `(N,)`, or the data set.
        first: probabilities `(N, classes)` of one network, or a list of such arrays, one a seed.
        second: those of the other network, of the same seeds in the same order.
        metric: `"auc"` or `"accuracy"`.
        level: nominal coverage of the interval.

    Returns:
        How far the first is ahead (`value`), the interval (`low`, `high`), and `p`, the p-value of no difference.

    Raises:
        ValueError: the networks have different numbers of seeds.

    Example:
        >>> labels, draw = np.repeat([0, 1], 50), np.random.default_rng(0).normal
        >>> good, poor = (1 / (1 + np.exp(-draw(size=100) - d * (2 * labels - 1))) for d in (2, 0.2))
        >>> compare(labels, np.stack([1 - good, good], 1), np.stack([1 - poor, poor], 1)).p < 0.05
        True
    """
    return Difference(*difference(labels_of(labels), runs_of(first), runs_of(second), metric, level))


def mcnemar(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Exact p-value of McNemar's test (1947) that two networks are right equally often: among the images that only one
    of them gets right, either should be as likely."""
    right, other = (run.argmax(1) == labels for run in (first, second))
    only_first, only_second = int((right & ~other).sum()), int((other & ~right).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979): below 0.05, at most one family in twenty holds a false alarm."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def pairwise(labels: np.ndarray, networks: Mapping[str, Sequence[np.ndarray]]) -> pd.DataFrame:
    """Every pair of networks (name -> runs): difference in AUC with interval and Holm's p, and McNemar's, likewise
    adjusted, for the accuracy of the answers averaged over seeds."""
    rows = []
    for first, second in combinations(networks, 2):
        ahead = compare(labels, networks[first], networks[second])
        together = (np.mean(networks[name], axis=0) for name in (first, second))
        rows.append({"first": first, "second": second, **ahead._asdict(), "p_accuracy": mcnemar(labels, *together)})
    table = pd.DataFrame(rows, columns=["first", "second", *Difference._fields, "p_accuracy"])
    return table.assign(p=holm(table["p"]), p_accuracy=holm(table["p_accuracy"]))


def in_words(ahead: Difference, second: str) -> str:
    """`ahead of resnet18 by 0.021 [0.012, 0.031]`, or `behind resnet18 by` as much: the word has the sign."""
    if ahead.value < 0:
        return f"behind {second} by {format_interval(-ahead.value, -ahead.high, -ahead.low)}"
    return f"ahead of {second} by {format_interval(ahead.value, ahead.low, ahead.high)}"
