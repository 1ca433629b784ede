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
from lensstudy.figures.tables import table

__all__ = ["calibration", "changes_at_90", "differences", "matches", "pairs", "quality", "scores"]


def scores(analysis: Analysis) -> Styler:
    """AUC and accuracy of every network, and of the shortcuts."""
    return table(
        analysis.scores,
        f"Mean over seeds [95 % interval over {averaged_over(len(analysis.study.seeds))}], and the standard deviation "
        "of the AUC over seeds. The last rows are shortcuts, no networks at all: a quadratic ridge regression on 18 "
        "moments of the light in rings, and on the total flux.",
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
            "p (accuracy)": found["p_accuracy"].map(format_p),
        }
    )
    return table(
        compared,
        "Every pair of networks on the unperturbed test images: the paired test for the AUC [95 % interval over "
        f"{averaged_over(len(analysis.study.seeds))}], "
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


def differences(found: pd.DataFrame) -> Styler:
    """What differs between trainings, from `training.fitting.differences`."""
    return table(
        found.rename_axis("setting"),
        "What differs between the trainings, besides network and seed. No row: nothing does; all had the same images, "
        "augmentation, schedule, number of steps and rule of selection.",
    )


def matches(analysis: Analysis) -> Styler:
    """How many images the second network needs for what the first one reaches."""
    first, second = (*analysis.pair, "no other")[:2]
    found, most = analysis.matches, max(analysis.curves[first].columns)
    needed = found["needed"].map(lambda n: f"more than {most:,}" if np.isinf(n) else f"{n:,.0f}")
    rows = {
        f"images of {first}": found["images"].map("{:,}".format),
        "its AUC": found["score"].map("{:.4f}".format),
        f"{second} needs": needed,
        "times as many": found["in_words"].map(lambda words: words.removesuffix(" times as many")),
    }
    return table(
        pd.DataFrame(rows),
        "Read off the curves above, linearly in the logarithm of the number of images [95 % interval over test images "
        "and seeds]. No row: there is one network only, or one number of training images, so nothing can be read off.",
    )
