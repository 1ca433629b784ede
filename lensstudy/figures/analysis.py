"""The figures of the analysis: scores under perturbations, calibration, cost, learning curves, truth, attribution.

In the style and the colours of `figures.style`, and shown with its `show`. Every interval is drawn, and where a bound
of physics or a shortcut exists it is drawn beside the networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lensstudy.figures.style import CHART, WIDTH, colour, draw_image

__all__ = [
    "along_truth",
    "attributions",
    "comparison",
    "confusion_matrices",
    "costs",
    "learning_curves",
    "mistakes",
    "reliability",
    "robustness",
    "roc_curves",
    "rotation_changes",
    "transfer",
]

MARKERS = "osD^vP*X"


def comparison(table: pd.DataFrame, metric: str = "auc", label: str = "test AUC") -> Figure:
    """The headline: `metric` of every network under every perturbation of the test images, with intervals,
    from `evaluation.summarise`."""
    networks = list(dict.fromkeys(table["network"]))
    perturbations = list(dict.fromkeys(table["perturbation"]))
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.6 * len(networks)))
    markers = ["o", "s", "D", "^"]
    for y, network in enumerate(networks):
        for k, name in enumerate(perturbations):
            row = table[(table["network"] == network) & (table["perturbation"] == name)].iloc[0]
            height = y + 0.2 * (k - (len(perturbations) - 1) / 2)
            axes.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [height] * 2, color=colour(network), lw=2)
            axes.plot(row[metric], height, markers[k % 4], color=colour(network), ms=6, mfc="white" if k else None)
    handles = [
        plt.Line2D([], [], ls="", marker=markers[k % 4], color="0.3", mfc="white" if k else None, label=name)
        for k, name in enumerate(perturbations)
    ]
    axes.legend(
        handles=handles, title="test images", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    axes.set(yticks=range(len(networks)), xlabel=label, ylim=(len(networks) - 0.5, -0.5))
    axes.set_yticklabels(networks)
    return figure


def roc_curves(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """ROC curves, one panel a class; `curves[class][network] = (false positive rate, true positive rate)`."""
    figure, axes = plt.subplots(1, len(curves), figsize=(min(3.6 * len(curves), WIDTH), 3), squeeze=False, sharey=True)
    for axis, (title, networks) in zip(axes[0], curves.items(), strict=True):
        for network, (false_positive, true_positive) in networks.items():
            axis.plot(false_positive, true_positive, color=colour(network), label=network)
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
        axis.set(title=f"{title} against the rest", xlabel="false positive rate", aspect="equal")
    axes[0, 0].set_ylabel("true positive rate")
    axes[0, -1].legend(fontsize=8, loc="lower right")
    return figure


def confusion_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Share of each true class (rows) that a network called each class (columns)."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(min(2.8 * len(matrices), WIDTH), 2.7), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        sns.heatmap(
            matrix, annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True, ax=axis,
            xticklabels=classes, yticklabels=classes,
        )  # fmt: skip
        axis.set_gid(CHART)
        axis.set(title=name, xlabel="predicted")
        axis.set_ylabel("true" if axis is axes[0, 0] else "")
    return figure


def rotation_changes(changes: Mapping[str, np.ndarray], orientations: int) -> Figure:
    """Share of images of which a probability changes by more than a given amount over rotations; the 95th percentile of
    these changes is a network's rotation consistency."""
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for name, values in changes.items():
        values = np.sort(values)
        axes.step(np.maximum(values, 1e-4), 1 - np.arange(len(values)) / len(values), color=colour(name), label=name)
    axes.set(
        xscale="log",
        xlim=(1e-4, 1),
        ylim=(0, 1.02),
        xlabel=f"largest change of a probability over {orientations} orientations",
        ylabel="share of images that change more",
    )
    axes.legend(fontsize=8)
    return figure


def robustness(table: pd.DataFrame, label: str = "test AUC") -> Figure:
    """AUC of every network (marker) under every perturbation of the test images (row), with its interval; from
    `evaluation.summarise`."""
    networks, names = (list(dict.fromkeys(table[column])) for column in ("network", "perturbation"))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(names)))
    for k, network in enumerate(networks):
        mine = table[table["network"] == network]
        height = np.array([names.index(name) for name in mine["perturbation"]]) + 0.7 / max(len(networks), 3) * (
            k - (len(networks) - 1) / 2
        )
        _with_interval(axes, mine["auc"], height, mine["auc_low"], mine["auc_high"], network, k, along="x")
    for row in range(0, len(names), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0, lw=0)
    axes.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axes.set_yticklabels(names)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def reliability(before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of right answers against confidence, as the networks say it and with their temperature; from
    `evaluation.reliability`, without bins that hold less than 1 % of the images."""
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.4), sharey=True, sharex=True)
    before, after = (
        {name: table[table["images"] >= 0.01 * table["images"].sum()] for name, table in curves.items()}
        for curves in (before, after)
    )
    for axes, curves, title in zip(
        panels, (before, after), ("as trained", "with the temperature of the validation part"), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
        for k, (network, table) in enumerate(curves.items()):
            axes.plot(table["confidence"], table["right"], color=colour(network), lw=1.2, label=network, zorder=2)
            axes.scatter(
                table["confidence"], table["right"], s=5 + 120 * table["images"] / table["images"].sum(),
                marker=MARKERS[k % 8], color=colour(network), zorder=3, lw=0,
            )  # fmt: skip
        lowest, right = (min(table[one].min() for table in curves.values()) for one in ("confidence", "right"))
        reach = (max(lowest - 0.05, 0), 1.02)
        axes.set(xlabel="confidence", title=title, xlim=reach, ylim=(min(reach[0], right), 1.02))
    panels[0].set_ylabel("share of right answers")
    panels[0].legend(fontsize=8)
    return figure


def costs(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """AUC with its interval against each cost in `columns` (name -> axis label), on logarithmic axes; one marker a row
    of `table` (`network`, `auc`, `auc_low`, `auc_high` and the costs)."""
    figure, panels = plt.subplots(1, len(columns), figsize=(WIDTH, 3), sharey=True, squeeze=False)
    for axes, (column, label) in zip(panels[0], columns.items(), strict=True):
        for k, row in enumerate(table.itertuples()):
            x = getattr(row, column)
            _with_interval(axes, [x], [row.auc], [row.auc_low], [row.auc_high], row.network, k, along="y")
        low, high = table[column].min(), table[column].max()
        axes.set(xscale="log", xlabel=label, xlim=(low / 2, high * 2))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("test AUC")
    _legend_on_top(figure, panels[0, 0])
    return figure


def learning_curves(curves: Mapping[str, pd.DataFrame], level: float = 0.95) -> Figure:
    """AUC against the number of training images, with its interval over test images and seeds; from
    `evaluation.learning_curve`. The right panel shows the distance from 1, where curves that end there come apart."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    sizes = sorted({size for table in curves.values() for size in table})
    missing = min((1 - table.iloc[0]).min() for table in curves.values())
    floor = 0.2 * missing if missing > 0 else 1e-5  # a resample that reaches 1 has no logarithm
    for k, (network, table) in enumerate(curves.items()):
        low, high = table.iloc[1:].quantile([(1 - level) / 2, (1 + level) / 2]).to_numpy()
        for axes, change in ((left, lambda x: x), (right, lambda x: np.maximum(1 - x, floor))):
            axes.plot(table.columns, change(table.iloc[0]), color=colour(network), marker=MARKERS[k % 8], label=network)
            axes.fill_between(table.columns, change(low), change(high), color=colour(network), alpha=0.15, lw=0)
    for axes, label in ((left, "test AUC"), (right, "1 − test AUC")):
        axes.set(xscale="log", xlabel="training images", ylabel=label)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    right.set(yscale="log", ylim=(floor, None))
    left.legend(fontsize=8)
    return figure


def transfer(table: pd.DataFrame) -> Figure:
    """AUC of networks trained on one preset (rows) and tested on another (columns), with its interval; from
    `evaluation.transfer_matrix`."""
    trained, tested = (list(dict.fromkeys(table[name])) for name in ("trained", "tested"))
    figure, axes = plt.subplots(figsize=(min(1.6 + 1.5 * len(tested), WIDTH), 1 + 0.75 * len(trained)))
    cells = table.set_index(["trained", "tested"])
    values = np.array([[cells.loc[(row, column), "auc"] for column in tested] for row in trained])
    axes.set_gid(CHART)
    axes.imshow(values, cmap="Blues", vmin=0.5, vmax=1, aspect="auto")
    for y, row in enumerate(trained):
        for x, column in enumerate(tested):
            cell = cells.loc[(row, column)]
            words = f"{cell['auc']:.3f}\n[{cell['low']:.3f}, {cell['high']:.3f}]"
            axes.text(x, y, words, ha="center", va="center", fontsize=8, color="w" if cell["auc"] > 0.8 else "k")
    axes.set_xticks(range(len(tested)), tested)
    axes.set_yticks(range(len(trained)), trained)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.grid(False)
    return figure


def along_truth(panels: Mapping[str, Mapping[str, pd.DataFrame]], label: str = "accuracy", chance: float = 0) -> Figure:
    """Share of right answers against what is true of an image: `panels[axis label][network]` as from
    `evaluation.accuracy_along` or `evaluation.detection_rate`, whose bound is drawn as a dashed line."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 2.5 * rows + 0.2), sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    lowest = min(
        [table["low"].min() for networks in panels.values() for table in networks.values() if len(table)] + [1]
    )
    for axes, (title, networks) in zip(grid.flat, panels.items(), strict=False):
        for k, (network, table) in enumerate(networks.items()):
            x = table["sigma"] if "sigma" in table else table["value"]
            _with_interval(axes, x, table["share"], table["low"], table["high"], network, k, along="y", line=True)
            if "bound" in table and not k:
                axes.plot(x, table["bound"], color="0.2", ls="--", lw=1.2, label="ideal observer")
        if (x > 0).all() and x.max() > 12 * x.min() and "degrees" not in title:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel=title, ylim=(-0.03 if lowest < 0.6 else lowest - 0.02, 1.02))
        if chance and lowest < 0.6:
            axes.axhline(chance, color="0.6", lw=0.8, ls=":")
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    _legend_on_top(figure, grid[0, 0])
    return figure


def mistakes(rows: Mapping[str, Sequence[tuple[np.ndarray, str]]], pixel_scale: float | None = None) -> Figure:
    """Images `(H, W)` with what stands above them, one row a network; an empty row says that it made no mistake."""
    columns = max([len(row) for row in rows.values()] + [1])
    side = WIDTH / max(columns, 4)
    figure, grid = plt.subplots(len(rows), columns, figsize=(WIDTH, (side + 0.55) * len(rows)), squeeze=False)
    for axes, (network, row) in zip(grid, rows.items(), strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, (image, title) in zip(axes, row, strict=False):
            axis.set_axis_on()
            draw_image(axis, _stretched(image), pixel_scale)
            axis.set_title(title, fontsize=7)
        axes[0].set_axis_on()
        axes[0].set(xticks=[], yticks=[])
        axes[0].set_ylabel(network, fontsize=8)
        if not row:
            axes[0].grid(False)
            axes[0].text(0.5, 0.5, "no mistakes", ha="center", va="center", transform=axes[0].transAxes)
    return figure


def attributions(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    maps: Mapping[str, Sequence[np.ndarray]],
    pixel_scale: float | None = None,
) -> Figure:
    """Images `(H, W)` above the attribution of each network: red speaks for the class in the title, blue against it.
    Each map has its own scale, up to its 99.5th percentile."""
    side = min(WIDTH / len(images), 1.9)
    figure, grid = plt.subplots(
        1 + len(maps), len(images), figsize=(side * len(images), side * (1 + len(maps)) + 0.3), squeeze=False
    )
    for axis, image, title in zip(grid[0], images, titles, strict=True):
        draw_image(axis, _stretched(image), pixel_scale)
        axis.set_title(title, fontsize=8)
    for axes, (network, row) in zip(grid[1:], maps.items(), strict=True):
        for axis, found in zip(axes, row, strict=True):
            reach = np.quantile(np.abs(found), 0.995) or 1
            draw_image(axis, found, symmetric=True, vmin=-reach, vmax=reach)
        axes[0].set_ylabel(network, fontsize=8)
    return figure


def _stretched(image: np.ndarray) -> np.ndarray:
    """The square root of the light above the sky, in which faint arcs show beside a bright lens."""
    return np.sqrt(np.clip(image - np.median(image), 0, None))


def _legend_on_top(figure: Figure, axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=min(len(names), 4), loc="outside upper center")


def _with_interval(axes, x, y, low, high, network: str, k: int, along: str, line: bool = False) -> None:
    """Markers of one network with their intervals along `x` or `y`."""
    values, low, high = (np.asarray(one, float) for one in (x if along == "x" else y, low, high))
    reach = np.maximum([values - low, high - values], 0)
    axes.errorbar(
        x, y, **{f"{along}err": reach}, color=colour(network), marker=MARKERS[k % 8], ms=5, lw=1.2,
        ls="-" if line else "", elinewidth=1.5, label=network,
    )  # fmt: skip
