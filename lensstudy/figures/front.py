"""The picture of a study for somebody who has never heard of it: one lens as it is rotated, and what more images buy.

It is drawn from what a study has kept: its test images, the first training of each of the two networks that its answer
compares, and the learning curves of its summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.robustness import rotated
from lensstudy.figures.analysis import MARKERS
from lensstudy.figures.failures import stretched
from lensstudy.figures.style import captioned, colour, draw_image
from lensstudy.study import Study
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = ["front", "of_study", "typical"]

SHOWN = np.arange(0, 360, 45)  # degrees by which the lens is rotated above the curves
ANGLES = np.arange(0.0, 361.0, 5.0)  # degrees, the points of a curve
ASKED = 60  # test images among which a typical one is looked for


def of_study(study: Study, summary: Mapping[str, Any]) -> Figure | None:
    """The picture of a study that has run, or None where its summary compares no networks or its files are gone."""
    if study.residual != "none" or not (summary.get("pairs") and summary.get("curves")):
        return None
    names = [summary["pairs"][0][which] for which in ("first", "second")]
    folders = [study.training_folder(name, study.seeds[0], max(study.shares)) for name in names]
    if not all(folder.is_dir() for folder in (study.folder / "dataset", *folders)):
        return None
    dataset = LensDataset.load(study.folder / "dataset")
    runs = {name: load_run(folder) for name, folder in zip(names, folders, strict=True)}
    curves = [row for row in summary["curves"] if row["network"] in names]
    return front(dataset.part("test"), runs, curves, study.seeds[0])


def front(
    test: LensDataset, runs: Mapping[str, TrainedNetwork], curves: Sequence[Mapping[str, Any]], seed: int
) -> Figure:
    """Left, what two networks say of a typical test image as it is rotated; right, their error against the number of
    training images.

    Args:
        test: test images, of which `ASKED`, spread evenly over the set, are rotated; see `typical` for the one shown.
        runs: two trained networks by name, the one that knows the symmetry first.
        curves: rows with `network`, `images`, and its AUC as `score` with the interval `low` to `high`.
        seed: of both trainings, for the caption.
    """
    rows = np.unique(np.linspace(0, len(test) - 1, ASKED).astype(int))
    said = {name: _of_true_class(run, test, rows) for name, run in runs.items()}
    moves = np.stack([np.ptp(each, axis=1) for each in said.values()])
    shown = typical(moves)
    lens, truth = test.images[rows[shown]], test.classes[test.labels[rows[shown]]]
    figure = plt.figure(figsize=(10, 3.9))
    left, right = cast(Any, figure.subfigures(1, 2, width_ratios=[1.45, 1]))
    _draw_rotations(left, lens, {name: each[shown] for name, each in said.items()}, truth)
    _draw_curves(right.subplots(), curves)
    words = " and ".join(
        f"by {mine[shown]:.2f} for {name} (median {np.median(mine):.2f})"
        for name, mine in zip(runs, moves, strict=True)
    )
    each = [f"{one['network']} {one['score']:.3f} with {one['images']:,} images" for one in curves]
    caption = (
        f"Left: the probability that two networks, trained with seed {seed}, give the true class of a test image, "
        f"{truth}, as it is rotated; it changes {words}. Of {len(rows)} test images spread evenly over the set, it is "
        "the one whose two changes are closest to these medians. Right: distance of the test AUC from 1, with 95 % "
        "intervals, against the number of training images; lower is better."
    )
    return captioned(figure, caption, f"{caption} AUC: {'; '.join(each)}.")


def typical(moves: np.ndarray) -> int:
    """The image that is nearest to the median for all networks together, by `moves` `(networks, N)`, how far its curves
    move: among `N` images ranked by each network, the one whose ranks are closest to the middle."""
    ranks = moves.argsort(axis=1).argsort(axis=1)
    return int(((ranks - (moves.shape[1] - 1) / 2) ** 2).sum(axis=0).argmin())


def _of_true_class(run: TrainedNetwork, test: LensDataset, rows: np.ndarray) -> np.ndarray:
    """The probability of the true class of each of these images at each of `ANGLES`, `(images, angles)`."""
    labels = test.labels[rows]
    return np.stack([run.predict(test.images[rows], angle)[np.arange(len(rows)), labels] for angle in ANGLES], axis=1)


def _draw_rotations(figure, lens: np.ndarray, said: Mapping[str, np.ndarray], truth: str) -> None:
    axes = figure.subplot_mosaic([list("abcdefgh"), ["curve"] * 8], height_ratios=[1, 3.4])
    size = lens.shape[-1]
    for name, angle in zip("abcdefgh", SHOWN, strict=True):
        image = stretched(rotated(lens[None], float(angle))[0].mean(0))
        draw_image(axes[name], image)
        whole = Circle(((size - 1) / 2, (size - 1) / 2), size / 2, transform=axes[name].transData)
        axes[name].images[0].set_clip_path(whole)
        axes[name].set_title(f"{angle}°", fontsize=10)
    for name, each, which in zip(said, said.values(), ("symmetry built in", "without symmetry"), strict=True):
        axes["curve"].plot(ANGLES, each, color=colour(name), lw=2.5, label=f"{which} ({name})")
    axes["curve"].set(xlabel="rotation of the image [degrees]", xticks=np.arange(0, 361, 45), ylim=(-0.03, 1.03))
    axes["curve"].set_ylabel(f"probability of the true class ({truth})")
    axes["curve"].legend(fontsize=10)


def _draw_curves(axes, curves: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(one["network"] for one in curves))
    sizes = sorted({one["images"] for one in curves})
    for k, name in enumerate(names):
        rows = sorted((one for one in curves if one["network"] == name), key=lambda one: one["images"])
        apart = 1.06 ** (2 * k - 1) if len(sizes) == 1 else 1  # single points stand side by side
        images = np.array([one["images"] for one in rows]) * apart
        error, low, high = (np.maximum([1 - one[column] for one in rows], 1e-12) for column in ("score", "high", "low"))
        ink, reach = colour(name), [error - low, high - error]
        axes.errorbar(images, error, yerr=reach, color=ink, marker=MARKERS[k], ms=8, lw=2.5, label=name)
    axes.set(xscale="log", yscale="log", xlabel="training images", ylabel="1 − test AUC (lower is better)")
    axes.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    bottom, top = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 300 * bottom else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
