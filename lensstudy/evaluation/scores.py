"""Scores of a network's probabilities, with their intervals.

Everything here takes labels `(N,)` and probabilities `(N, classes)`, whichever network they come from; `runs` are such
arrays of one network, one a seed. Scores are scikit-learn's and torchmetrics'. What they do not have:

- AUC and accuracy have intervals over test images and seeds, from `evaluation.intervals`.
- All other scores have a bootstrap over test images, drawn within each class so that no resample loses one, with
  Efron's correction for bias (1987, JASA 82, 171). It takes the trained networks as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    roc_auc_score,
    roc_curve,
)

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import interval, judged

__all__ = [
    "auc",
    "averaged_over",
    "bootstrap_interval",
    "confusion",
    "counted",
    "format_interval",
    "format_p",
    "largest_change",
    "point_estimates",
    "resampled",
    "resampling",
    "roc",
    "score",
    "summarise",
]

BLOCK = 3_000_000  # weights of images that are resampled at a time
BINS = 15  # of confidence, for the calibration error
TINY = 1e-15
SCORES = ("accuracy", "auc", "average_precision", "log_loss", "brier", "calibration_error")


# Scores ---------------------------------------------------------------------------------------------------------------


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve: for two classes that of the second, for more the mean of each against the rest."""
    return float(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in judged(probabilities)]))


def score(
    labels: np.ndarray | LensDataset,
    probabilities: np.ndarray | Sequence[np.ndarray],
    *,
    level: float = 0.95,
    samples: int = 500,
) -> pd.DataFrame:
    """Score a network on test images, with intervals.

    Args:
        labels: classes of the images `(N,)`, or the data set.
        probabilities: what the network gives them, `(N, classes)`, or a list of such arrays, one a seed.
        level: nominal coverage of the intervals: over test images and seeds for accuracy and AUC, where there are
            several seeds, and over test images for the other scores.
        samples: resamples of the test images for the scores that have no interval in closed form.

    Returns:
        One row a score: `accuracy`, `auc` (macro average), `average_precision` (macro average), `log_loss` (nats),
        `brier` and `calibration_error` (expected, 15 bins of confidence); columns `value` (mean over seeds), `low` and
        `high`.

    Raises:
        ValueError: labels and probabilities are not of the same images, or a class has no image.

    Example:
        >>> probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
        >>> score(np.array([0, 0, 1, 1]), probabilities).value["accuracy"].item()
        0.75
    """
    labels, runs = labels_of(labels), runs_of(probabilities)
    classes = runs[0].shape[1]
    if wrong := [run.shape for run in runs if run.shape != (len(labels), classes)]:
        raise ValueError(f"probabilities {wrong[0]}; expected {(len(labels), classes)}, one row for each label")
    if missing := sorted(set(range(classes)) - set(labels.tolist())):
        raise ValueError(f"no image of class {missing[0]}; expected images of each of the {classes} classes")
    weights, names = resampling(labels, samples), [str(k) for k in range(classes)]
    each = pd.DataFrame([point_estimates(labels, run, names) for run in runs]).mean()
    rows = {}
    for name in SCORES:
        if name in ("accuracy", "auc"):
            edges = interval(labels, runs, name, level)
        else:
            edges = bootstrap_interval(labels, runs, weights, name, level)
        rows[name] = (each[name], *edges)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def point_estimates(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro AUC, AUC of each class against the rest, average precision (macro), log loss (nats), Brier score
    (for more than two classes the sum over them) and expected calibration error (15 bins of confidence)."""
    from torchmetrics.functional.classification import multiclass_calibration_error  # its import takes a second

    each = {f"auc_{name}": roc_auc_score(labels == i, probabilities[:, i]) for i, name in enumerate(classes)}
    averaged = judged(probabilities)
    precision = [average_precision_score(labels == k, probabilities[:, k]) for k in averaged]
    truth = labels == 1 if len(averaged) == 1 else np.eye(len(classes))[labels]
    return {
        "accuracy": float(accuracy_score(labels, probabilities.argmax(1))),
        "auc": auc(labels, probabilities),
        **{name: float(value) for name, value in each.items()},
        "average_precision": float(np.mean(precision)),
        "log_loss": float(log_loss(labels, probabilities, labels=range(len(classes)))),
        "brier": float(brier_score_loss(truth, probabilities[:, 1] if len(averaged) == 1 else probabilities)),
        "calibration_error": multiclass_calibration_error(
            torch.as_tensor(np.asarray(probabilities)), torch.as_tensor(labels), len(classes), n_bins=BINS
        ).item(),
    }


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Rows: true class, columns: predicted class, entries: share of the true class."""
    return confusion_matrix(labels, probabilities.argmax(1), labels=range(probabilities.shape[1]), normalize="true")


def roc(labels: np.ndarray, probabilities: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of one class against the rest."""
    false_positive, true_positive, _ = roc_curve(labels == label, probabilities[:, label])
    return false_positive, true_positive


def largest_change(rotated: Sequence[np.ndarray]) -> np.ndarray:
    """Largest change `(N,)` of any class probability of each image over rotations, from one array of probabilities
    `(N, classes)` a rotation. Its 95th percentile is a network's rotation consistency."""
    return np.ptp(np.stack(rotated), axis=0).max(axis=1)


def labels_of(labels: np.ndarray | LensDataset) -> np.ndarray:
    """Labels `(N,)`, given as such or with their data set."""
    return labels.labels if isinstance(labels, LensDataset) else np.asarray(labels)


def runs_of(probabilities: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities `(N, classes)` of each seed, given as a list of them or, of one seed, as such."""
    return [np.asarray(probabilities)] if np.ndim(probabilities) == 2 else list(probabilities)


def confidence(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin of confidence (as in torchmetrics), confidence, and whether the prediction is right, of each image."""
    sure = probabilities.max(1)
    return np.digitize(sure, np.linspace(0, 1, BINS + 1)) - 1, sure, (probabilities.argmax(1) == labels).astype(float)


# Intervals from resampled images --------------------------------------------------------------------------------------


def resampling(labels: np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each resample, `(samples, N)`, with replacement within each class."""
    generator = np.random.default_rng(seed)
    weights = np.empty((samples, len(labels)), dtype=np.uint8)  # an image is drawn 256 times in no resample
    for label in np.unique(labels):
        member = labels == label
        weights[:, member] = generator.multinomial(member.sum(), np.full(member.sum(), 1 / member.sum()), samples)
    return weights


def resampled(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, metric: str = "auc") -> np.ndarray:
    """One of `point_estimates` in every resample, `(samples,)`: many at once, a hundred times faster than one by one,
    and no more than fit into some 100 MB."""
    blocks = np.array_split(weights, max(1, min(len(weights), weights.size // BLOCK)))
    return np.concatenate([_resampled(labels, probabilities, block.astype(float), metric) for block in blocks])


def _resampled(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, metric: str) -> np.ndarray:
    if metric in ("auc", "average_precision"):
        rank = _weighted_auc if metric == "auc" else _weighted_precision
        return np.mean([rank(labels == k, probabilities[:, k], weights) for k in judged(probabilities)], axis=0)
    if metric == "calibration_error":
        bins, sure, right = confidence(labels, probabilities)
        return np.abs((weights * (right - sure)) @ np.eye(BINS + 1)[bins]).sum(1) / weights.sum(1)
    of_truth, halves = probabilities[np.arange(len(labels)), labels], 2 if probabilities.shape[1] == 2 else 1
    each = {
        "accuracy": probabilities.argmax(1) == labels,
        "log_loss": -np.log(np.clip(of_truth, np.finfo(probabilities.dtype).eps, 1)),
        "brier": ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(1) / halves,
    }[metric]
    return weights @ each / weights.sum(1)


def bootstrap_interval(
    labels: np.ndarray, runs: Sequence[np.ndarray], weights: np.ndarray, metric: str, level: float = 0.95
) -> tuple[float, float]:
    """Interval, over test images, of the mean of any of `point_estimates` over `runs`: the bias-corrected percentile
    interval, and for the calibration error, which every resampling raises, one of its own."""
    drawn = np.mean([resampled(labels, run, weights, metric) for run in runs], axis=0)
    value = np.mean([resampled(labels, run, np.ones((1, len(labels))), metric) for run in runs])
    if metric == "calibration_error":
        return _calibration_interval(labels, runs, drawn, float(value), level)
    below = np.clip(np.mean(drawn < value) + np.mean(drawn == value) / 2, 0.5 / len(drawn), 1 - 0.5 / len(drawn))
    edges = norm.cdf(2 * norm.ppf(below) + norm.ppf([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(drawn, edges)
    return float(low), float(high)


def _calibration_interval(
    labels: np.ndarray, runs: Sequence[np.ndarray], drawn: np.ndarray, value: float, level: float
) -> tuple[float, float]:
    """The basic bootstrap interval, which takes off what resampling adds. It begins at 0 where calibrated probabilities
    would often enough show as large an error: their answers are right as often as they are sure."""
    tail = (1 - level) / 2
    low, high = 2 * value - np.quantile(drawn, [1 - tail, tail])
    generator, by_chance, said = np.random.default_rng(0), [], [confidence(labels, run) for run in runs]
    for _ in range(len(drawn)):
        chance = generator.random(len(labels))
        errors = [np.abs(np.bincount(bins, (chance < sure) - sure)).sum() / len(labels) for bins, sure, _ in said]
        by_chance.append(np.mean(errors))
    calibrated = value <= np.quantile(by_chance, 1 - tail)
    return 0.0 if calibrated else max(float(low), 0.0), max(float(high), value)


def _weighted_auc(member: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    inside, outside = _by_score(member, score, weights)
    below = np.cumsum(outside, axis=1) - outside / 2  # a tie is half a victory
    return (inside * below).sum(1) / (inside.sum(1) * outside.sum(1))


def _weighted_precision(member: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    inside, outside = _by_score(member, -score, weights)
    found = np.cumsum(inside, axis=1)
    precision = found / np.maximum(found + np.cumsum(outside, axis=1), 1)
    return (inside * precision).sum(1) / inside.sum(1)


def _by_score(member, score, weights) -> tuple[np.ndarray, np.ndarray]:
    """Weight of members and of others at each distinct value of `score`, in rising order, `(samples, values)`."""
    order = np.argsort(score)
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    inside = np.add.reduceat(weights[:, order] * member[order], starts, axis=1)
    return inside, np.add.reduceat(weights[:, order], starts, axis=1) - inside


# Tables ---------------------------------------------------------------------------------------------------------------


def summarise(labels: np.ndarray, predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """One row a network and perturbation, in the order in which they come.

    `predictions` has one row a `network`, `seed` and `perturbation` of the test images (several draws of it count
    together) and, in column `probabilities`, an `(N, classes)` array. Gives the mean of accuracy and AUC, the interval
    over test images and seeds, the standard deviation over seeds (missing when there is one), and the means of all
    other scores.
    """
    table = []
    for (network, perturbation), group in predictions.groupby(["network", "perturbation"], sort=False):
        runs = list(group["probabilities"])
        each = pd.DataFrame([point_estimates(labels, run, classes) for run in runs])
        of_seed = each.groupby(group["seed"].to_numpy()).mean()
        draws = [list(one) for _, one in group.groupby("seed")["probabilities"]]
        row = {"network": network, "perturbation": perturbation, "seeds": len(of_seed)}
        for name in ("auc", "accuracy"):
            low, high = interval(labels, draws, name)
            row |= {name: each[name].mean(), f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_std"] = of_seed[name].std()
        table.append(row | {name: each[name].mean() for name in each if name not in row})
    return pd.DataFrame(table)


def format_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """`0.971 [0.962, 0.979]`, with more digits where the interval is narrower than they show."""
    width = high - low
    while width > 1e-9 and digits < 6 and width < 2 * 10.0**-digits:
        digits += 1
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def averaged_over(seeds: int) -> str:
    """What an interval is over: `test images`, or `test images and seeds`."""
    return "test images and seeds" if seeds > 1 else "test images; another seed is not in it"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `1,200 images`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_p(p: float) -> str:
    """`0.031`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
