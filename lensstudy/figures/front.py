"""The picture of a study for somebody who has never heard of it: one lens as it is rotated, and what more images buy.

It is drawn from what a study has kept: its test images, the first training of each of the two networks that its answer
compares, and the learning curves of its summary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.robustness import rotated
from lensstudy.evaluation.scores import largest_change
from lensstudy.figures.analysis import MARKERS
from lensstudy.figures.failures import stretched
from lensstudy.figures.style import captioned, colour, draw_image
from lensstudy.study import Study
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = ["front", "of_study", "typical_lens"]

SHOWN = np.arange(0, 360, 60)  # degrees by which the lens is rotated above the curves
STEP = 5  # degrees between the points of a curve
ASKED = 60  # test images among which a typical one is looked for


def of_study(study: Study, summary: Mapping[str, Any]) -> Figure | None:
    """The picture of a study that has run, or None where its summary compares no networks or its files are gone."""
    if not (summary.get("pairs") and summary.get("curves")):
        return None
    names = [summary["pairs"][0][which] for which in ("first", "second")]
    folders = [study.training_folder(name, study.seeds[0], max(study.shares)) for name in names]
    if not all(folder.is_dir() for folder in (study.folder / "dataset", *folders)):
        return None
    dataset = LensDataset.load(study.folder / "dataset")
    runs = {name: load_run(folder) for name, folder in zip(names, folders, strict=True)}
    return front(dataset.part("test"), runs, [row for row in summary["curves"] if row["network"] in names])


def front(test: LensDataset, runs: Mapping[str, TrainedNetwork], curves: Sequence[Mapping[str, Any]]) -> Figure:
    """Left, what two networks say of a typical test image as it is rotated; right, their error against the number of
    training images.

    Args:
        test: test images; the one that is shown is chosen by `typical_lens`.
        runs: two trained networks by name, the one that knows the symmetry first.
        curves: rows with `network`, `images`, and its AUC as `score` with the interval `low` to `high`.
    """
    row = typical_lens(test, list(runs.values())[-1])
    lens, label = test.images[row], test.labels[row]
    degrees = np.arange(0.0, 361.0, STEP)
    said = {name: np.concatenate([run.predict(lens[None], angle) for angle in degrees]) for name, run in runs.items()}
    figure = plt.figure(figsize=(10, 3.9))
    left, right = figure.subfigures(1, 2, width_ratios=[1.45, 1])
    _draw_rotations(left, lens, degrees, {name: each[:, label] for name, each in said.items()}, test.classes[label])
    _draw_curves(right.subplots(), curves)
    moves = {name: float(np.ptp(each[:, label])) for name, each in said.items()}
    words = " and ".join(f"by {move:.2f} for {name}" for name, move in moves.items())
    each = [f"{one['network']} {one['score']:.3f} with {one['images']:,} images" for one in curves]
    caption = (
        f"Left: the probability that two networks give the true class of a test image, {test.classes[label]}, as it is "
        f"rotated; it changes {words}. The image is the median of {min(ASKED, len(test))} test images in the change of "
        f"{list(runs)[-1]}. Right: distance of the test AUC from 1, with 95 % intervals, against the number of "
        "training images; lower is better."
    )
    return captioned(figure, caption, f"{caption} AUC: {'; '.join(each)}.")


def typical_lens(test: LensDataset, run: TrainedNetwork) -> int:
    """The row of the test image that is in the middle by how far a probability of it moves as it is rotated, among
    `ASKED` images spread evenly over the set."""
    rows = np.unique(np.linspace(0, len(test) - 1, ASKED).astype(int))
    changes = largest_change([run.predict(test.images[rows], angle) for angle in np.arange(0, 360, 30)])
    return int(rows[np.argsort(changes)[len(rows) // 2]])


def _draw_rotations(figure, lens: np.ndarray, degrees: np.ndarray, said: Mapping[str, np.ndarray], truth: str) -> None:
    axes = figure.subplot_mosaic([list("abcdef"), ["curve"] * 6], height_ratios=[1, 2.6])
    size = lens.shape[-1]
    for name, angle in zip("abcdef", SHOWN, strict=True):
        image = stretched(rotated(lens[None], float(angle))[0].mean(0))
        draw_image(axes[name], image)
        whole = Circle(((size - 1) / 2, (size - 1) / 2), size / 2, transform=axes[name].transData)
        axes[name].images[0].set_clip_path(whole)
        axes[name].set_title(f"{angle}°", fontsize=10)
    for name, each, which in zip(said, said.values(), ("symmetry built in", "without symmetry"), strict=True):
        axes["curve"].plot(degrees, each, color=colour(name), lw=2.5, label=f"{which} ({name})")
    axes["curve"].set(xlabel="rotation of the image [degrees]", xticks=np.arange(0, 361, 60), ylim=(-0.03, 1.03))
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
