"""Judging networks by their probabilities: metrics with intervals, paired comparisons, answers under rotation.

Everything here takes labels `(N,)` and probabilities `(N, classes)`, whichever network they come from. The metrics
are scikit-learn's. Intervals are percentile bootstraps over test images (Efron & Tibshirani 1993), drawn within each
class so that no resample loses one; networks are compared on the same resamples, so that what makes an image hard for
all of them cancels. The spread over seeds is reported beside it: the two answer different questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, roc_auc_score, roc_curve

__all__ = [
    "auc",
    "bootstrap_rows",
    "confusion",
    "difference",
    "format_interval",
    "interval",
    "roc",
    "scores",
    "summarise",
    "swing",
]


def auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve: for two classes that of the second, for more the mean of each against the rest."""
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))


def scores(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro AUC, AUC of each class against the rest, and log loss (nats)."""
    each = {f"auc_{name}": roc_auc_score(labels == i, probabilities[:, i]) for i, name in enumerate(classes)}
    return {
        "accuracy": float(accuracy_score(labels, probabilities.argmax(1))),
        "auc": auc(labels, probabilities),
        **{name: float(value) for name, value in each.items()},
        "log_loss": float(log_loss(labels, probabilities, labels=range(len(classes)))),
    }


def bootstrap_rows(labels: np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """`(samples, N)` rows drawn with replacement within each class; the same rows serve every network."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([generator.choice(rows, (samples, len(rows))) for rows in members], axis=1)


def interval(
    labels: np.ndarray,
    runs: Sequence[np.ndarray],
    rows: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], float] = auc,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval, over test images, of the mean of `metric` over `runs`, one array of probabilities a seed."""
    values = [np.mean([metric(labels[row], run[row]) for run in runs]) for row in rows]
    return tuple(float(v) for v in np.quantile(values, [(1 - level) / 2, (1 + level) / 2]))


def difference(
    labels: np.ndarray,
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    rows: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray], float] = auc,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """How far the mean of `metric` over the seeds of `first` is ahead of that of `second`, with its interval over test
    images, paired: both networks are judged on the same resamples.

    The trained networks are taken as they are. What other seeds would have given is a second question, which two or
    three seeds cannot answer: report their differences one by one beside it.
    """

    def ahead(row):
        return np.mean([metric(labels[row], run[row]) for run in first]) - np.mean(
            [metric(labels[row], run[row]) for run in second]
        )

    low, high = np.quantile([ahead(row) for row in rows], [(1 - level) / 2, (1 + level) / 2])
    return float(ahead(np.arange(len(labels)))), float(low), float(high)


def swing(turned: Sequence[np.ndarray]) -> np.ndarray:
    """For each image, the largest change of any class probability between its orientations `turned`."""
    stack = np.stack(turned)
    return (stack.max(0) - stack.min(0)).max(1)


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Rows: true class, columns: predicted class, entries: share of the true class."""
    return confusion_matrix(labels, probabilities.argmax(1), labels=range(probabilities.shape[1]), normalize="true")


def roc(labels: np.ndarray, probabilities: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates of one class against the rest."""
    false_positive, true_positive, _ = roc_curve(labels == label, probabilities[:, label])
    return false_positive, true_positive


def summarise(
    labels: np.ndarray, predictions: pd.DataFrame, classes: Sequence[str], samples: int, seed: int = 0
) -> pd.DataFrame:
    """One row a network and view, best AUC of the upright view first.

    `predictions` has one row a `network`, `seed` and `view` (a way of turning the test set) and, in column
    `probabilities`, an `(N, classes)` array. Gives the mean over seeds of accuracy and AUC, the bootstrap interval over
    test images, and the standard deviation over seeds (missing when there is one seed).
    """
    rows = bootstrap_rows(labels, samples, seed)

    def accuracy(truth, probabilities):
        return accuracy_score(truth, probabilities.argmax(1))

    table = []
    for (network, view), group in predictions.groupby(["network", "view"], sort=False):
        runs = list(group["probabilities"])
        each = pd.DataFrame([scores(labels, run, classes) for run in runs])
        row = {"network": network, "view": view, "seeds": len(runs)}
        for name, metric in (("auc", auc), ("accuracy", accuracy)):
            low, high = interval(labels, runs, rows, metric)
            row |= {name: each[name].mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_std": each[name].std()}
        row |= {name: each[name].mean() for name in each if name.startswith("auc_") or name == "log_loss"}
        table.append(row)
    return pd.DataFrame(table)


def format_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """`0.971 [0.962, 0.979]`, with more digits where the interval is narrower than they show."""
    width = high - low
    while width and digits < 6 and width < 2 * 10.0**-digits:
        digits += 1
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
