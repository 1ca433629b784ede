"""The picture on top of a study: what symmetry buys, with more training images or network by network, and what is left
on rotated images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
LARGE: dict[Any, int] = {
    name: 12 for name in ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize")
}


def answer(analysis: Analysis) -> Figure:
    """Error (1 - AUC) on upright and on rotated test images, with intervals, and how far predictions move with the
    rotation. With several numbers of training images, curves along these, of the pair that the answer compares and the
    next networks, five at most; with one number a row for each network. The letters can be read on a telephone."""
    with plt.rc_context(LARGE):
        return _along_images(analysis) if len(analysis.upright) > 1 else _row_by_row(analysis)


def _along_images(analysis: Analysis) -> Figure:
    names = [*analysis.pair, *analysis.others][:SHOWN]
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
    _number(left.yaxis, left.get_ylim())
    return captioned(
        figure,
        "Left: distance of the test AUC from 1 against the number of training images. Right: the same on test images "
        f"rotated by random angles, against {_how_far(analysis)}. Lower and further left is better. "
        f"{_of_what(analysis)}; bands and bars: {_intervals(analysis)}.",
        "; ".join(
            f"{name}: "
            + ", ".join(f"{row.images:,} training images AUC {row.score:.4f}" for row in tables[name].itertuples())
            + _in_words(analysis, name)
            for name in names
        ),
    )


def _row_by_row(analysis: Analysis) -> Figure:
    """Networks below each other, the best on the test images first."""
    names = list(analysis.unperturbed["auc"].sort_values(ascending=False).index)
    size = (WIDTH, 1.9 + 0.45 * len(names))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(3, 2))
    kinds = {"upright": (analysis.unperturbed.loc, 0.12), "rotated": (_rows_of_rotated(analysis).loc, -0.12)}
    for kind, (rows, above) in kinds.items():
        for k, name in enumerate(names):
            row = rows[name]
            x, low, high = (max(1 - row[column], 1e-12) for column in ("auc", "auc_high", "auc_low"))
            left.errorbar(
                x, above - k, xerr=[[max(x - low, 0)], [max(high - x, 0)]], color=colour(name), lw=2, marker="o", ms=8,
                mfc=colour(name) if kind == "upright" else "white", label=None if k else kind,
            )  # fmt: skip
    for k, name in enumerate(names):
        x, (low, high) = analysis.rotation_consistency[name], quantile_interval(analysis.rotation_changes[name], 0.95)
        reach = [[max(x - low, 0)], [max(high - x, 0)]]
        right.errorbar(x, -k, xerr=reach, color=colour(name), lw=2, marker="D", ms=8)
    left.set_yticks(-np.arange(len(names)), names)
    left.set_ylim(0.6 - len(names), 0.6)
    floor = error_floor(np.concatenate([rows[names]["auc"] for rows, _ in kinds.values()]))
    left.set(xscale="log", xlabel="1 − test AUC", title="Error")
    left.set_xlim(left=max(left.get_xlim()[0], floor))
    _number(left.xaxis, left.get_xlim())
    _along_change(right)
    figure.legend(*left.get_legend_handles_labels(), fontsize=12, ncols=2, loc="outside upper center")
    return captioned(
        figure,
        "Left: distance of the test AUC from 1, on test images as they are (filled) and rotated by random angles "
        f"(open). Right: {_how_far(analysis)}. Further left is better. {_of_what(analysis)}; bars: "
        f"{_intervals(analysis)}.",
        "; ".join(f"{name}: AUC {analysis.unperturbed['auc'][name]:.4f}{_in_words(analysis, name)}" for name in names),
    )


def _how_far(analysis: Analysis) -> str:
    return (
        "how far predictions move: the 95th percentile, over images, of the largest change of a probability over "
        f"{analysis.study.orientations} rotations"
    )


def _of_what(analysis: Analysis) -> str:
    return f"{len(analysis.test):,} test images, {counted(len(analysis.study.seeds), 'seed')}"


def _intervals(analysis: Analysis) -> str:
    over = averaged_over(len(analysis.study.seeds))
    return f"95 % intervals over {over} (those of the change of a prediction over images)"


def _in_words(analysis: Analysis, name: str) -> str:
    moves = analysis.rotation_consistency[name]
    return f"; rotated {_of_rotated(analysis, name)['auc']:.4f}, predictions move by {moves:.2g}"


def _number(axis, limits: tuple[float, float]) -> None:
    """Ticks of a logarithmic axis whose numbers stand as one would write them."""
    low, high = limits
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


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
        axes.plot(table["images"], error, color=colour(name), marker=MARKERS[k % 8], ms=7, lw=2, label=name)
        axes.fill_between(table["images"], low, high, color=colour(name), alpha=0.2, lw=0)
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
    axes.set_title("On rotated test images")
    _along_change(axes)


def _along_change(axes) -> None:
    axes.set(xscale="log", xlabel="change of a prediction\nas an image is rotated")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5 * high / 10), 1.2 * high)  # a decade at least, so that ticks have numbers
    _number(axes.xaxis, axes.get_xlim())


def _rows_of_rotated(analysis: Analysis):
    table = analysis.by_perturbation
    return table[table["perturbation"] == "random rotations"].set_index("network")


def _of_rotated(analysis: Analysis, name: str):
    return _rows_of_rotated(analysis).loc[name]
