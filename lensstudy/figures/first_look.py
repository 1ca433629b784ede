"""Figures and tables of what networks say of single lenses: rotated, and with and without their substructure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from lensstudy.figures.style import PALETTE, WIDTH, captioned, draw_image
from lensstudy.figures.tables import table

if TYPE_CHECKING:
    from lensstudy.deployment.predictor import Predictor

__all__ = ["network_scores", "own_image", "under_rotation", "with_and_without"]


def network_scores(predictors: Mapping[str, Predictor]) -> Styler:
    """How good networks that come with the package are, by their cards: on images that no choice has seen."""
    rows = []
    for name, predictor in predictors.items():
        card = predictor.card
        unseen = card.metrics["unseen"]
        scores = {
            shown: "{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]".format(**unseen[kind])
            for kind, shown in KINDS.items()
        }
        row = {"name": name, "symmetry": card.symmetry or "none"} | scores
        row["largest change at 90°"] = f"{unseen['largest_change_at_90_degrees']:.2g}"
        rows.append(row | {"at any angle": f"{unseen['rotation_consistency']:.2g}"})
    return table(
        pd.DataFrame(rows),
        f"Scores on {unseen['images']:,} lenses that were used neither for training nor for any choice, with 95 % "
        "intervals over them; guessing has an AUC of 0.5. The last columns are changes of a probability as a lens is "
        "rotated: the largest over multiples of 90 degrees, and over any angle the 95th percentile over lenses.",
    )


KINDS = {"auc": "AUC", "accuracy": "accuracy"}  # of a card, and as a table calls them


def under_rotation(image: np.ndarray, predictors: Mapping[str, Predictor], step: int = 5) -> Figure:
    """Probabilities of one image `(C, H, W)` while it is rotated once around, a panel a network."""
    degrees = np.arange(0.0, 361.0, step)
    figure, axes = plt.subplots(1, len(predictors), figsize=(WIDTH, 2.9), sharey=True, squeeze=False)
    widest = {}
    for axis, (name, predictor) in zip(axes[0], predictors.items(), strict=True):
        found = np.concatenate([predictor.probabilities(image[None], float(angle)) for angle in degrees])
        widest[name] = np.ptp(found, axis=0).max()
        for k, one in enumerate(predictor.classes):
            axis.plot(degrees, found[:, k], color=PALETTE[k], label=one)
        axis.set(xlabel="rotation of the image [degrees]", xticks=np.arange(0, 361, 90), ylim=(-0.03, 1.03))
        axis.set_title(name, fontsize=9)
    axes[0, 0].set_ylabel("probability")
    axes[0, -1].legend(fontsize=8)
    words = ", ".join(f"{name}: {change:.2g}" for name, change in widest.items())
    return captioned(figure, f"Probabilities of one lens as it is rotated. Largest change of any of them, {words}.")


def with_and_without(observed: np.ndarray, smooth: np.ndarray, classes: Sequence[str], predictor: Predictor) -> Figure:
    """Lenses `(N, C, H, W)` of the `classes` above their smooth counterparts, with the probabilities of each."""
    figure, axes = plt.subplots(2, len(observed), figsize=(WIDTH, 5.8), squeeze=False)
    # The probabilities of a row belong to the images above them.
    figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr, call-arg]  # the constrained one has it
    for row, images, title in zip(axes, (observed, smooth), ("as observed", "without substructure"), strict=True):
        seen, found = predictor.seen(images).numpy(), predictor.probabilities(images)
        for axis, image, probabilities, name in zip(row, seen, found, classes, strict=True):
            draw_image(axis, image.mean(0), predictor.card.images.pixel_scale)
            axis.set_title(f"{name}, {title}", fontsize=8)
            words = (f"{one} {value:.2f}" for one, value in zip(predictor.classes, probabilities, strict=True))
            axis.set_xlabel("  ".join(words), fontsize=8)
    return captioned(
        figure,
        "One lens of each class as the network sees it, above the same lens with the same noise and no substructure. "
        "Below each: the probabilities of the network.",
    )


def own_image(image: str, otherwise: np.ndarray, predictors: Mapping[str, Predictor]) -> Styler:
    """The table of predictions for the images at a path, or where it is empty, for the images `otherwise`."""
    rows = []
    for name, predictor in predictors.items():
        known = copy(predictor)
        known.pixel_scale = predictor.card.images.pixel_scale  # that of a simulated lens, and no other's
        found = predictor.predict_files([image]) if image else known.predict(otherwise).to_dict("records")
        rows += [{"network": name} | row for row in found]
    chosen = ["network", "image", "prediction", "state", *predictor.classes, "ood_score", "reason"]
    what = "the images at the given path" if image else "simulated lenses"
    caption = f"Predictions for {what}. An OOD score above 1 means out of distribution: no class is predicted."
    return table(pd.DataFrame(rows).reindex(columns=chosen), caption, dict.fromkeys(predictor.classes, "{:.3f}"))
