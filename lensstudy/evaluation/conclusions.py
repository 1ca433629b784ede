"""What is said of an analysis, in sentences: a plain one first, then the numbers, each with its interval.

A verdict is given where an interval bears it, and not from a value alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.comparison import Difference, in_words
from lensstudy.evaluation.scores import counted, format_interval

__all__ = [
    "alone",
    "few_images",
    "few_seeds",
    "near_chance",
    "on_others",
    "on_rotations",
    "on_shortcut",
    "on_source",
    "on_task",
    "seed_by_seed",
    "verdict",
    "with_fewer",
]


def with_interval(row, metric: str = "auc") -> str:
    """`0.971 [0.962, 0.979]` of a row of `scores.summarise`."""
    return format_interval(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])


def on_task(test: LensDataset, classes: Sequence[str]) -> str:
    """What is asked of the networks, and how far the substructure is above the noise: the median of its detectability
    (significance after the macromodel is re-fitted), where the catalogue has it."""
    about, truth = test.description, test.catalogue
    listed = f"{', '.join(classes[:-1])} or {classes[-1]}"
    made = f"simulated with the preset {about['preset']}" if about.get("source") == "simulated" else "read from files"
    task = f"The task: is a lens {listed}? {len(test):,} test images, {made}."
    sigma = truth.get("detectability_refit", pd.Series(np.nan, truth.index))
    median = sigma[sigma > 0].groupby(truth["class"]).median()
    if median.empty:
        return f"{task} How far the substructure is above the noise is not known."
    if np.isinf(median).all():
        return f"{task} They have no noise: a fit that knew the exact form of the substructure would detect any."
    each = " and ".join(f"{float(f'{value:.2g}'):,g} sigma for {name}" for name, value in median.items())
    return (
        f"{task} A fit that knew the exact form of the substructure would detect it at {each} in the median lens; "
        "noise alone gives about 1."
    )


def alone(row: pd.Series, images: int) -> str:
    """The answer where nothing is compared; `row` is one of `scores.summarise`, its name that of the network."""
    learnt = "tells the classes apart better than a guess" if row["auc_low"] > 0.5 else "cannot be told from a guess"
    return (
        f"With {images:,} training images, {row.name}, the only network of this study, {learnt}. "
        f"Its test AUC is {with_interval(row)}."
    )


def verdict(first: pd.Series, second: pd.Series, ahead: Difference, images: int, test_images: int) -> str:
    """Which of two networks is better, if the test images can tell; rows as in `alone`."""
    scores = f"({with_interval(first)} against {with_interval(second)})"
    if ahead.low <= 0 <= ahead.high:
        return (
            f"With {images:,} training images, these trainings and {test_images:,} test images do not tell which of "
            f"{first.name} and {second.name} is better. {first.name} is {in_words(ahead, second.name)} in test AUC "
            f"{scores}."
        )
    better, worse = (first.name, second.name) if ahead.value > 0 else (second.name, first.name)
    return (
        f"With {images:,} training images, {better} tells the classes apart better than {worse}. "
        f"{first.name} is {in_words(ahead, second.name)} in test AUC {scores}."
    )


def on_rotations(consistency: Mapping[str, float], orientations: int) -> str:
    """How far probabilities move as an image is rotated."""
    each = " and ".join(f"{value:.2g} for {name}" for name, value in consistency.items())
    return (
        f"Over {orientations} rotations the largest change of a probability, at its 95th percentile over images, "
        f"is {each}."
    )


def on_others(first: str, ahead: Mapping[str, Difference]) -> list[str]:
    """How far the first network is ahead of those beside the pair."""
    each = [in_words(one, name) for name, one in ahead.items()]
    return [f"Of the others, {first} is {', '.join(each)}."] if each else []


def with_fewer(ahead: pd.DataFrame, first: str, names: Sequence[str]) -> list[str]:
    """How far the first network is ahead of those named with fewer training images; rows as in `Analysis.ahead`."""
    said = []
    for images, rows in ahead[ahead["images"] < ahead["images"].max()].groupby("images"):
        each = rows.set_index("network").loc[list(names)]
        words = [in_words(Difference(row.value, row.low, row.high, 0.0), row.Index) for row in each.itertuples()]
        said.append(f"With {images:,} training images it is {' and '.join(words)}.")
    return said


def seed_by_seed(pair: Sequence[str], auc: Sequence[Sequence[float]]) -> str:
    """By how much the first network is ahead with each seed; nothing where there is only one network."""
    if len(pair) < 2:
        return ""
    if len(auc[0]) < 2:
        return "One seed each: how much another seed would change this is not known."
    ahead = ", ".join(f"{one - other:+.4f}" for one, other in zip(*auc, strict=True))
    return f"Seed by seed, the AUC of {pair[0]} less that of {pair[1]} is {ahead}."


def few_images(accuracy: float, images: int) -> str:
    """What the number of test images leaves open."""
    error = np.sqrt(max(accuracy * (1 - accuracy), 1 / images) / images)
    return (
        f"{images:,} test images: the standard error of an accuracy of {accuracy:.1%} is {error:.2%}; where a score is "
        f"exactly 1, the true error rate may still be up to {3 / images:.2%} (rule of three)."
    )


def few_seeds(seeds: int) -> str:
    """What the number of seeds leaves open."""
    if seeds == 1:
        return "One seed each: how much another seed would change the result is not known."
    return f"{seeds} seeds each: intervals of AUC and accuracy are over test images and seeds" + (
        ", and are wide because there are few seeds." if seeds < 4 else "."
    )


def near_chance(guessing: pd.DataFrame, rates: Mapping[str, float], epochs: Mapping[str, int]) -> list[str]:
    """Networks whose interval holds the AUC of a guess, with their learning rates and epochs; rows as in `alone`."""
    if guessing.empty:
        return []
    each = [
        f"{row.name} (AUC {with_interval(row)}, {counted(epochs[row.name], 'epoch')}, learning rate "
        f"{rates[row.name]:g})"
        for _, row in guessing.iterrows()
    ]
    return [
        f"Not distinguishable from a guess on these test images: {', '.join(each)}. Whether more "
        "images, more epochs or another rate would help is not known from this study. A prediction that is "
        "nearly the same for all images hardly changes as they are rotated."
    ]


def on_shortcut(ring: pd.Series) -> list[str]:
    """What the size and brightness of the ring alone tell of the class, where that is more than a guess."""
    if ring["auc_low"] <= 0.5:
        return []
    return [
        f"Ring moments alone reach an AUC of {with_interval(ring)}: so much of what is learnt here may be the size and "
        "brightness of the ring."
    ]


def on_steps(first: str, other: str, learnt: tuple[float, float], ahead: float, images: int) -> list[str]:
    """That a lead may be one in steps: where at least half of it stands on the training images already, on which
    `first` and `other` have the AUCs `learnt`."""
    if ahead <= 0 or learnt[0] - learnt[1] < ahead / 2:
        return []
    return [
        f"On the {images:,} images that it was trained on, {other} has an AUC of {learnt[1]:.3f}, {first} of "
        f"{learnt[0]:.3f}: it has learnt them less in this number of steps, and more steps may close part of the "
        "difference."
    ]


def on_source(simulated: bool) -> list[str]:
    """What simulated images leave open."""
    return ["The images are simulated; the networks were not tested on real ones."] * simulated
