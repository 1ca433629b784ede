"""The picture on top of a study: what symmetry buys with more training images, and what is left on rotated ones."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from scipy.stats import binom

from lensstudy.evaluation.analysis import Analysis
from lensstudy.evaluation.scores import averaged_over, counted
from lensstudy.figures.analysis import MARKERS, error_floor
from lensstudy.figures.style import WIDTH, captioned, colour

__all__ = ["answer", "quantile_interval"]

SHOWN = 5  # networks that the eye can follow
LARGE = {name: 12 for name in ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize")}


def answer(analysis: Analysis) -> Figure:
    """Error (1 - AUC) against the number of training images, with intervals, and on rotated test images against how far
    predictions move with the rotation: of the pair that the answer compares and the next networks, five at most. The
    letters can be read on a telephone."""
    names = [*analysis.pair, *analysis.others][:SHOWN]
    with plt.rc_context(LARGE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.6), sharey=True)
        _with_more_images(left, analysis, names)
        _rotated(right, analysis, names)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=12, ncols=2 if len(names) > 1 else 1, loc="outside upper center")
    tables = {name: analysis.curves[name].table for name in names}
    rotated = [_of_rotated(analysis, name)["auc"] for name in names]
    floor = error_floor(np.concatenate([rotated, *(table["score"] for table in tables.values())]))
    left.set(yscale="log", ylabel="1 − test AUC (lower is better)")
    left.set_ylim(bottom=max(left.get_ylim()[0], floor))
    bottom, top = left.get_ylim()
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if top < 300 * bottom else (1,)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    seeds = len(analysis.study.seeds)
    angles = analysis.study.orientations
    return captioned(
        figure,
        f"Left: distance of the test AUC from 1 against the number of training images. Right: the same on test images "
        f"rotated by random angles, against how far predictions move: the 95th percentile, over images, of the largest "
        f"change of a probability over {angles} rotations. Lower and further left is better. "
        f"{len(analysis.test):,} test images, {counted(seeds, 'seed')}; bands and bars: 95 % intervals over "
        f"{averaged_over(seeds)} (horizontal ones over images).",
        "; ".join(
            f"{name}: "
            + ", ".join(f"{row.images:,} training images AUC {row.score:.4f}" for row in tables[name].itertuples())
            + f"; rotated {_of_rotated(analysis, name)['auc']:.4f}, predictions move by "
            f"{analysis.rotation_consistency[name]:.2g}"
            for name in names
        ),
    )


def quantile_interval(values: np.ndarray, share: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of a quantile from the order of the values alone: how many lie below it is binomial."""
    ordered, tails = np.sort(values), [(1 - level) / 2, (1 + level) / 2]
    low, high = (int(rank) for rank in binom.ppf(tails, len(values), share))
    return float(ordered[max(low - 1, 0)]), float(ordered[min(high, len(values) - 1)])


def _with_more_images(axes, analysis: Analysis, names: Sequence[str]) -> None:
    sizes: set[int] = set()
    for k, name in enumerate(names):
        table = analysis.curves[name].table
        error, low, high = (np.maximum(1 - table[column], 1e-12) for column in ("score", "high", "low"))
        apart = 1.06 ** (k - (len(names) - 1) / 2) if len(table) == 1 else 1  # single points stand side by side
        axes.plot(apart * table["images"], error, color=colour(name), marker=MARKERS[k % 8], ms=7, lw=2, label=name)
        axes.fill_between(table["images"], low, high, color=colour(name), alpha=0.2, lw=0)
        if len(table) == 1:
            axes.vlines(apart * table["images"], low, high, color=colour(name), lw=2)
        sizes |= set(table["images"])
    axes.set(xscale="log", xlabel="training images", title="On upright test images")
    axes.set_xlim(min(sizes) / 1.4, max(sizes) * 1.4)
    axes.set_xticks(sorted(sizes), [f"{size:,}" for size in sorted(sizes)])
    axes.xaxis.set_minor_locator(NullLocator())


def _rotated(axes, analysis: Analysis, names: Sequence[str]) -> None:
    for k, name in enumerate(names):
        row, changes = _of_rotated(analysis, name), analysis.rotation_changes[name]
        x, (low, high) = analysis.rotation_consistency[name], quantile_interval(changes, 0.95)
        y, least, most = (max(1 - row[column], 1e-12) for column in ("auc", "auc_high", "auc_low"))
        axes.errorbar(
            x, y, xerr=[[max(x - low, 0)], [max(high - x, 0)]], yerr=[[max(y - least, 0)], [max(most - y, 0)]],
            color=colour(name), marker=MARKERS[k % 8], ms=9, lw=2,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="change of a prediction\nas an image is rotated", title="On rotated test images")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5 * high / 10), high)  # a decade at least, so that ticks have numbers
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _of_rotated(analysis: Analysis, name: str):
    table = analysis.by_perturbation
    return table[(table["network"] == name) & (table["perturbation"] == "random rotations")].iloc[0]
