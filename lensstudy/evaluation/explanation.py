"""What explains a difference between networks: symmetry, filters, invariance or optimisation, one comparison each.

An equivariant network differs from a plain one in several things at once: its filters are steerable, its weights are
shared between directions, its predictions are exactly invariant. Here they are taken apart, as far as a study has the
networks for it. Exact invariance is that of a plain network whose predictions are averaged over the eight rotations and
reflections of the square (an average of eight answers besides); what a network reaches on its own training images tells
optimisation from generalisation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import Measured, difference_of, interval_of, measured
from lensstudy.evaluation.kept import code_behind, kept
from lensstudy.evaluation.robustness import PIECE, reflected, rotated
from lensstudy.evaluation.scores import auc
from lensstudy.networks.baselines import same_filters
from lensstudy.progress import side_by_side

__all__ = ["averaged_over_motions", "explain", "training_scores"]

SHOWN = 3000  # training images on which a training is judged
COLUMNS = {"network": "network", "images": "training_images", "seed": "seed"}


def averaged_over_motions(run, images: np.ndarray) -> np.ndarray:
    """What a `TrainedNetwork` predicts for `images` `(N, C, H, W)`, averaged over the eight rotations and
    reflections of the square: probabilities `(N, classes)` that are exactly invariant under these."""
    found = []
    for start in range(0, len(images), PIECE):
        piece = np.array(images[start : start + PIECE], dtype=np.float32)
        both = (piece, np.ascontiguousarray(reflected(piece)))
        moved = [run.predict(rotated(one, 90.0 * quarter)) for one in both for quarter in range(4)]
        found.append(np.mean(moved, axis=0))
    return np.concatenate(found)


def training_scores(trained: Sequence, dataset: LensDataset, seed: int = 0) -> pd.DataFrame:
    """AUC of every training on up to 3,000 of the images that it was trained on, without augmentation.

    Args:
        trained: `TrainedNetwork`s; the card says which share of the training part each saw.
        dataset: the split data set.
        seed: of the random angles and of the choice of images.

    Returns:
        One row a training: `network`, `images`, `seed`, `upright` and `rotated` (by random angles). No row where images
        were simulated anew for each epoch, since none of the training part was learnt.
    """

    def scored(run) -> dict:
        part = dataset.part("train")
        if (share := run.card.get("share", 100)) < 100:
            part = part.share(share / 100, run.card["seed"])
        part = part.subset(np.sort(np.random.default_rng(seed).permutation(len(part))[:SHOWN]))
        angles = np.random.default_rng(seed).uniform(0, 360, len(part))
        row = {name: run.card[key] for name, key in COLUMNS.items()}
        found = kept(
            None if "network_source" in run.card or "module" in run.card else run.folder,  # as of `Analysis`
            "training",
            {"images": part.fingerprint, "seed": seed, "code": code},
            lambda: {"auc": np.array([auc(part.labels, run.predict(part.images, one)) for one in (0.0, angles)])},
        )
        return row | dict(zip(("upright", "rotated"), found["auc"].tolist(), strict=True))

    code = code_behind()
    learnt = [run for run in trained if not run.card.get("fresh_images")]
    rows = list(side_by_side(scored, learnt, "training images"))
    return pd.DataFrame(rows, columns=[*COLUMNS, "upright", "rotated"])


def over_seeds(scores: Sequence[float], images: int) -> tuple[np.ndarray, Measured]:
    """Scores of `images` images that are all there are, such as those of a training: only seeds make them vary. With
    labels for them, of which no more than their number matters, and that only where every score is perfect."""
    return np.arange(images) % 2, Measured(np.asarray(scores, float), np.zeros((len(scores), images)))


def seed_interval(scores: Sequence[float], images: int) -> tuple[float, float]:
    """Interval over seeds of the mean of such scores; of one seed nothing is known."""
    return interval_of(*over_seeds(scores, images)) if len(scores) > 1 else (np.nan, np.nan)


def explain(
    labels: np.ndarray,
    networks: Mapping[str, Sequence[np.ndarray]],
    best: str,
    averaged: Mapping[str, Sequence[np.ndarray]],
    training: pd.DataFrame,
) -> pd.DataFrame:
    """How far one network is ahead of another where they differ in one thing.

    Args:
        labels: classes of the test images `(N,)`.
        networks: by name, probabilities `(N, classes)` of the test images, one array a seed.
        best: the equivariant network that is explained.
        averaged: by name, those of `averaged_over_motions` of plain networks.
        training: from `training_scores`.

    Returns:
        One row a comparison that the study has the networks for: `what` it isolates, the `first` and the `second`
        network, how far the first is ahead in test AUC (`value`), with `low`, `high` over test images and seeds and
        `p`. The last row compares AUCs of training images, over seeds alone.
    """
    alone, matched, parameters = same_filters(best), f"{best}-matched", f"{best}-matched-parameters"
    every = dict(networks) | {f"{name}, averaged": runs for name, runs in averaged.items()}
    wanted = [
        ("symmetry and filters, at equal channels", best, matched),
        ("symmetry and filters, at equal parameters", best, parameters),
        ("symmetry: the same filters without it", best, alone),
        ("filters: steerable and plain, both without symmetry", alone, matched),
        (
            "exact invariance: averaged over the 8 rotations and reflections of the square",
            f"{matched}, averaged",
            matched,
        ),
        ("exact invariance, with the same filters", f"{alone}, averaged", alone),
        ("what that average leaves: shared weights, or more learnt in as many steps", best, f"{matched}, averaged"),
        ("the same, with the same filters", best, f"{alone}, averaged"),
    ]
    rows = []
    for what, first, second in wanted:
        if first in every and second in every:
            found = difference_of(labels, measured(labels, every[first]), measured(labels, every[second]))
            rows.append((what, first, second, *found))
    trained = {name: table["upright"].to_list() for name, table in training.groupby("network")}
    if best in trained and matched in trained and len(trained[best]) == len(trained[matched]) > 1:
        shown = min(SHOWN, int(training["images"].min()))
        (marks, first), (_, second) = (over_seeds(trained[name], shown) for name in (best, matched))
        found = difference_of(marks, first, second)
        rows.append(("optimisation: the same two on their training images", best, matched, *found))
    return pd.DataFrame(rows, columns=["what", "first", "second", "value", "low", "high", "p"])
