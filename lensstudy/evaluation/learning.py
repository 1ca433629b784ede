"""How a score grows with the number of training images, and how many more images another network needs for it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.scores import labels_of, resampled, resampling

__all__ = ["images_to_match", "learning_curve"]


def learning_curve(
    labels: np.ndarray | LensDataset,
    trainings: pd.DataFrame,
    *,
    metric: str = "auc",
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Measure a score against the number of training images, with resamples of test images and seeds.

    Args:
        labels: classes of the test images `(N,)`, or the data set.
        trainings: one row a training, columns `network`, `images` (number of training images), `seed`, and
            `probabilities`, `(N, classes)` of the test images.
        metric: a score of `point_estimates`.
        samples: resamples of the test images within classes, and of seeds with replacement.
        seed: of the resamples.

    Returns:
        A table a network, for `images_to_match` and `plots.learning_curves`: one column a number of images; row 0
        holds the score itself, the others that of the resamples.

    Example:
        >>> labels = np.repeat([0, 1], 3)
        >>> rows = [("d4", images, 1, np.eye(2)[labels]) for images in (100, 200)]
        >>> trainings = pd.DataFrame(rows, columns=["network", "images", "seed", "probabilities"])
        >>> learning_curve(labels, trainings, samples=20)["d4"].iloc[0].tolist()
        [1.0, 1.0]
    """
    labels, generator = labels_of(labels), np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, len(labels))), resampling(labels, samples, seed)])
    curves = {}
    for (network, images), group in trainings.groupby(["network", "images"]):
        of_seed = np.stack([resampled(labels, one, weights, metric) for one in group["probabilities"]])
        drawn = generator.multinomial(len(of_seed), np.full(len(of_seed), 1 / len(of_seed)), len(weights)).T
        drawn[:, 0] = 1  # the score itself counts every seed once
        curves.setdefault(network, {})[images] = (drawn * of_seed).sum(0) / drawn.sum(0)
    return {network: pd.DataFrame(curve).sort_index(axis=1) for network, curve in curves.items()}


def images_to_match(own: pd.DataFrame, other: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """How many training images the `other` network needs for what `own` reaches, from two curves of `learning_curve`.

    The other's curve is made non-decreasing and read off linearly in the logarithm of the number of images. One row a
    number of `images` of `own`: its `score`; `needed`, `low` and `high` from the resamples, infinite where the other
    never gets there; and `in_words`, with the factor.
    """
    sizes = np.array(other.columns, float)
    rising = np.maximum.accumulate(other.to_numpy(), axis=1)
    rows = []
    for images, wanted in own.items():
        needed = np.array([_read_off(curve, sizes, value) for curve, value in zip(rising, wanted, strict=True)])
        edges = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(needed[1:], edges, method="inverted_cdf")  # no mean of a number and infinity
        row = {"images": images, "score": wanted.iloc[0], "needed": needed[0], "low": low, "high": high}
        rows.append(row | {"in_words": _in_words(needed[0] / images, low / images, high / images, sizes / images)})
    return pd.DataFrame(rows)


def _read_off(curve: np.ndarray, sizes: np.ndarray, value: float) -> float:
    """The number of images at which a non-decreasing curve reaches `value`: the smallest of all where it is above it
    from the start, infinity where it never is."""
    if curve[0] >= value:
        return sizes[0]
    if curve[-1] < value:
        return np.inf
    k = int(np.argmax(curve >= value))
    step = (value - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(np.exp(np.log(sizes[k - 1]) + step * np.log(sizes[k] / sizes[k - 1])))


def _in_words(factor: float, low: float, high: float, sizes: np.ndarray) -> str:
    """`3.1 [2.0, 5.2] times as many`; where the curve ends before or begins after it, only what is certain."""

    def figure(value: float) -> str:
        if np.isinf(value):
            return f"more than {sizes[-1]:.3g}"
        return f"at most {value:.2g}" if value <= sizes[0] * (1 + 1e-9) else f"{value:.2g}"

    low, factor, high = figure(low), figure(factor), figure(high)
    return f"{factor} times as many" if low == factor == high else f"{factor} [{low}, {high}] times as many"
