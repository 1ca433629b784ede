"""Figures of predictions for somebody's images: what was said, by which pixels, and whether it holds under rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensstudy.figures.networks import invariance_curves
from lensstudy.figures.style import captioned, image_row
from lensstudy.progress import progress

if TYPE_CHECKING:
    from lensstudy.deployment.application import Application

__all__ = ["explanations", "predictions", "rotations"]

SMALL = 0.05  # a change of a probability that need not fill the height of a figure


def predictions(application: Application) -> Figure:
    """A few of the images, with the most probable class of each, its probability and its OOD score."""
    titles = []
    for name in application.few:
        row = application.row(name)
        highest = max(row.get(one, np.nan) for one in application.card.classes)
        score = row.get("ood_score", np.nan)
        titles.append(f"{row['prediction'] or 'no class'} {highest:.2f}\n{row['state']}\nOOD score {score:.2f}")
    images = [application.images[name].mean(0) for name in application.few]
    return captioned(
        image_row(images, titles, application.card.images.pixel_scale),
        "Some of the images, the most probable class of each with its calibrated probability where a class can be "
        "named, and its OOD score.",
        "Lens images side by side; " + "; ".join(title.replace("\n", ", ") for title in titles),
    )


def explanations(application: Application) -> Figure:
    """What the network sees of the first and the last of the few images, and the share of each pixel in its
    prediction."""
    chosen = list(dict.fromkeys([application.few[0], application.few[-1]]))
    pairs = [application.explain(application.images[name]) for name in progress(chosen, "attribution")]
    return captioned(
        image_row(
            [picture for pair in pairs for picture in pair],
            ["what the network sees", "share in its prediction"] * len(pairs),
            symmetric=[False, True] * len(pairs),
        ),
        "What the network sees of some images, and the share of each pixel in the logit of the most probable class: "
        "red speaks for it, blue against it.",
        "Pairs of a lens image and a map of red and blue pixels along its arcs.",
    )


def rotations(application: Application) -> Figure:
    """How far the probabilities of the few images move while these are rotated once around."""
    degrees = np.arange(0, 361, 15)
    moves = application.rotation_changes(degrees)
    figure = invariance_curves(pd.DataFrame({application.card.network: moves}, index=degrees), "change of probability")
    figure.axes[0].set_ylim(0, max(SMALL, 1.1 * moves.max()))
    return captioned(
        figure,
        "How far the probabilities of these images move as they are rotated, mean of the largest change.",
        f"One line; at 90 degrees the change is {moves[degrees == 90][0]:.1e}, at most {moves.max():.2g} in between.",
    )
