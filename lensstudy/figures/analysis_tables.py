"""The tables of the analysis: scores, every pair of networks, calibration, images to match.

Each takes an `Analysis` and says in its caption what the rows are, what brackets mean, and what it means if there are
none.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from lensstudy.evaluation.analysis import Analysis
from lensstudy.evaluation.scores import averaged_over, format_interval, format_p
from lensstudy.figures.style import Note
from lensstudy.figures.tables import table

__all__ = [
    "ahead",
    "calibration",
    "changes_at_90",
    "differences",
    "explanation",
    "matches",
    "pairs",
    "quality",
    "scores",
    "training_and_test",
]


def scores(analysis: Analysis) -> Styler:
    """AUC and accuracy of every network, and of the shortcuts."""
    return table(
        analysis.scores,
        f"Mean over seeds [95 % interval over {_over(analysis)}], and the standard deviation "
        "of the AUC over seeds. The last rows are shortcuts, no networks at all: a quadratic ridge regression on 18 "
        "moments of the light in rings, and on the total flux; and, of simulated images, chi square of the smooth lens "
        "that fits best, which asks for substructure of any kind and knows the camera and its noise; below it, what "
        "networks make of that question.",
    )


def pairs(analysis: Analysis) -> Styler:
    """Every pair of networks, with p-values."""
    found = analysis.pairs
    compared = pd.DataFrame(
        {
            "first": found["first"],
            "second": found["second"],
            "first ahead in AUC": [format_interval(row.value, row.low, row.high) for row in found.itertuples()],
            "p (AUC)": found["p"].map(format_p),
            "p (accuracy, over images)": found["p_accuracy"].map(format_p),
        }
    )
    return table(
        compared,
        "Every pair of networks on the unperturbed test images: the paired test for the AUC [95 % interval over "
        f"{_over(analysis)}], "
        "McNemar's exact test for the accuracy of the answers averaged over seeds; p-values corrected for their number "
        "after Holm. No row: there is one network only, and nothing to compare.",
    )


def quality(analysis: Analysis) -> Styler:
    """Scores of the probabilities themselves."""
    names = {"average_precision": "average precision", "log_loss": "log loss [nats]", "brier": "Brier score"}
    return table(
        analysis.quality[["network", *names]].rename(columns=names),
        "Scores that judge the probabilities and not only their order, on the unperturbed test images: mean over seeds "
        "[95 % interval over test images].",
    )


def calibration(analysis: Analysis) -> Styler:
    """The calibration error of each network before and after temperature scaling."""
    names = {"calibration_error": "calibration error", "calibration_error_after": "calibration error after"}
    shown = analysis.quality[["network", "calibration_error", "temperature", "calibration_error_after"]]
    return table(
        shown.rename(columns=names),
        "Expected calibration error on the test images [95 % interval], the temperature of each seed, and the error "
        "with it. Above 1 a temperature makes a network less sure of itself.",
        {"calibration error after": "{:.3f}"},
    )


def changes_at_90(analysis: Analysis) -> Styler:
    """The largest change of a probability under a rotation by 90 degrees."""
    return table(
        pd.DataFrame({"network": analysis.networks, "largest change": list(analysis.changes_at_90.values())}),
        "Largest change of a probability under a rotation by 90 degrees, over all test images and seeds.",
        {"largest change": "{:.1e}"},
    )


def ahead(analysis: Analysis) -> Styler:
    """How far the first network of the pair is ahead of the others, with each number of training images."""
    found = analysis.ahead
    compared = found.assign(words=[format_interval(row.value, row.low, row.high) for row in found.itertuples()])
    rows = compared.pivot(index="network", columns="images", values="words").reindex(found["network"].unique())
    rows.columns = [f"{images:,} images" for images in rows.columns]
    return table(
        rows.rename_axis("another network").reset_index(),
        f"How far {analysis.pair[0]} is ahead in test AUC of each other network, both trained on so many images [95 % "
        f"interval over {_over(analysis)}]; below zero the other one is ahead. Intervals are not corrected for their "
        "number. No row: there is one network only.",
    )


def training_and_test(analysis: Analysis) -> Styler:
    """AUC on the training and on the test images, upright and rotated."""
    return table(
        analysis.training_and_test,
        "AUC on up to 3,000 of the images that a network was trained on, without augmentation [95 % interval over "
        f"seeds], and on the test images [over {_over(analysis)}]. Low on the training images: it has "
        "not learnt them (optimisation); much lower on the test images: it does not generalise.",
        {"images": "{:,}"},
    )


def explanation(analysis: Analysis) -> Styler:
    """What explains how far the first network of the pair is ahead."""
    found = analysis.explanation
    compared = pd.DataFrame(
        {
            "images": found["images"].map("{:,}".format),
            "what differs": found["what"],
            "first": found["first"],
            "second": found["second"],
            "first ahead in AUC": [format_interval(row.value, row.low, row.high) for row in found.itertuples()],
        }
    )
    return table(
        compared,
        f"Networks that differ in one respect, with each number of training images, on {len(analysis.perturbed):,} "
        f"test images [95 % interval over {_over(analysis)}]. Each network has the settings that were chosen for it; "
        "where these differ the table of settings says so. A network with symmetry also has fewer weights than one of "
        "equal channels, and its last layer fewer features. Averaged: the mean of a plain network's predictions over "
        "the eight rotations and reflections of the square, which makes it exactly invariant, and is an average of "
        "eight. Comparisons for which the study has no networks are omitted, and that of training images needs two "
        "seeds.",
    )


def differences(found: pd.DataFrame) -> Styler | Note:
    """What differs between trainings, from `training.fitting.differences`."""
    if found.columns.empty:
        return Note("All had the same augmentation, schedule, number of steps and rule of selection.")
    return table(
        found.rename(columns=lambda name: name.replace("_", " ")).reset_index(names=["network", "training images"]),
        "What differs between the trainings, besides network, seed and training images; all else was the same.",
    )


def matches(analysis: Analysis) -> Styler:
    """How many images each other network needs for what the first of the pair reaches."""
    found, first = analysis.matches, analysis.pair[0]
    most = max(analysis.curves[first].sizes)
    needed = found["needed"].map(lambda n: f"more than {most:,}" if np.isinf(n) else f"{n:,.0f}")
    rows = {
        f"images of {first}": found["images"].map("{:,}".format),
        "its AUC": found["score"].map("{:.4f}".format),
        "another network": found["network"],
        "images it needs": needed,
        "in words": found["in_words"],
    }
    return table(
        pd.DataFrame(rows),
        "Read off the curves above, 1 - AUC as a power of the number of images between two points [95 % interval: the "
        f"numbers with which the two cannot be told apart, over {_over(analysis)}]. No row: there is one network only, "
        "or one number of training images, so nothing can be read off.",
    )


def _over(analysis: Analysis) -> str:
    return averaged_over(len(analysis.study.seeds))
