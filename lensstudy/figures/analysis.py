"""The figures of the analysis: scores under perturbations, calibration, cost and learning curves.

In the style and the colours of `figures.style`, and shown with its `show`. A function takes a table of
`evaluation.analysis.Analysis`, or one like it. Every interval is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, NullLocator

from lensstudy.evaluation.learning import LearningCurve
from lensstudy.evaluation.scores import averaged_over
from lensstudy.figures.style import CHART, WIDTH, captioned, colour, wrapped

__all__ = [
    "comparison",
    "confusion_matrices",
    "costs",
    "learning_curves",
    "legend_on_top",
    "reliability",
    "robustness",
    "roc_curves",
    "rotation_changes",
    "transfer",
    "with_interval",
]

MARKERS = "osD^vP*X"
COSTS = {
    "parameters": "parameters",
    "operations": "multiplications an image [millions]",
    "seconds": "training time [s]",
}


def comparison(table: pd.DataFrame, shortcuts: pd.DataFrame) -> Figure:
    """The headline: AUC of every network under a few perturbations of the test images, with intervals, from
    `evaluation.summarise`; the caption names what the first of the `shortcuts`, no network, reaches."""
    networks = list(dict.fromkeys(table["network"]))
    perturbations = list(dict.fromkeys(table["perturbation"]))
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.6 * len(networks)))
    markers = ["o", "s", "D", "^"]
    for y, network in enumerate(networks):
        for k, name in enumerate(perturbations):
            row = table[(table["network"] == network) & (table["perturbation"] == name)].iloc[0]
            height = y + 0.2 * (k - (len(perturbations) - 1) / 2)
            axes.plot([row["auc_low"], row["auc_high"]], [height] * 2, color=colour(network), lw=2)
            axes.plot(row["auc"], height, markers[k % 4], color=colour(network), ms=6, mfc="white" if k else None)
    handles = [
        plt.Line2D([], [], ls="", marker=markers[k % 4], color="0.3", mfc="white" if k else None, label=name)
        for k, name in enumerate(perturbations)
    ]
    axes.legend(
        handles=handles, title="test images", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    axes.set(yticks=range(len(networks)), xlabel="test AUC", ylim=(len(networks) - 0.5, -0.5))
    axes.set_yticklabels(networks)
    shortcut, seeds = shortcuts.iloc[0], int(table["seeds"].iloc[0])
    caption = (
        "Test AUC of every network, on the test images unperturbed, rotated by 90 degrees and rotated by random "
        f"angles. Mean over {_counted(seeds, 'seed')}; bars: 95 % interval over "
        f"{averaged_over(seeds)}. "
        f"{shortcut['network'].strip('()').capitalize()} alone, no network, reach {shortcut['auc']:.3f}."
    )
    return captioned(figure, caption, _each_auc(table))


def roc_curves(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """ROC curves, one panel a class; `curves[class][network] = (false positive rate, true positive rate)`."""
    figure, axes = plt.subplots(1, len(curves), figsize=(min(3.6 * len(curves), WIDTH), 3), squeeze=False, sharey=True)
    for axis, (title, networks) in zip(axes[0], curves.items(), strict=True):
        for network, (false_positive, true_positive) in networks.items():
            axis.plot(false_positive, true_positive, color=colour(network), label=network)
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
        axis.set(title=f"{title} against the rest", xlabel="false positive rate", aspect="equal")
    axes[0, 0].set_ylabel("true positive rate")
    legend_on_top(figure, axes[0, 0])
    return captioned(
        figure,
        "ROC curves on the unperturbed test images, all seeds together: of the images of a class, the share that is "
        "called so, against the share of all others that is. Dashed: a guess.",
        "ROC curves, one panel a class and one line a network.",
    )


def confusion_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Share of each true class (rows) that a network called each class (columns)."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(min(2.8 * len(matrices), WIDTH), 2.7), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        sns.heatmap(
            matrix, annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True, ax=axis,
            xticklabels=classes, yticklabels=classes,
        )  # fmt: skip
        axis.set_gid(CHART)
        axis.set(title=wrapped(name), xlabel="predicted")
        axis.set_ylabel("true" if axis is axes[0, 0] else "")
    right = {
        name: ", ".join(f"{label} {matrix[k, k]:.2f} right" for k, label in enumerate(classes))
        for name, matrix in matrices.items()
    }
    return captioned(
        figure,
        "Share of each true class (rows) that was called each class (columns); mean over seeds, unperturbed images.",
        "; ".join(f"{name}: {each}" for name, each in right.items()),
    )


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
    images = len(next(iter(changes.values())))
    return captioned(
        figure,
        f"Share of the test images of which a probability changes by more than the amount below, over {orientations} "
        "rotations. Further left is better: a network whose predictions do not depend on the orientation changes none. "
        f"Where a curve falls to 0.05 lies its rotation consistency. {images:,} test images, mean over seeds.",
        "; ".join(
            f"{name}: median {np.median(each):.4f}, 95th percentile {np.quantile(each, 0.95):.3f}"
            for name, each in changes.items()
        ),
    )


def robustness(table: pd.DataFrame) -> Figure:
    """AUC of every network (marker) under every perturbation of the test images (row), with its interval; from
    `evaluation.summarise`."""
    networks, names = (list(dict.fromkeys(table[column])) for column in ("network", "perturbation"))
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.42 * len(names)))
    for k, network in enumerate(networks):
        mine = table[table["network"] == network]
        height = np.array([names.index(name) for name in mine["perturbation"]]) + 0.7 / max(len(networks), 3) * (
            k - (len(networks) - 1) / 2
        )
        with_interval(axes, mine["auc"], height, mine["auc_low"], mine["auc_high"], network, k, along="x")
    for row in range(0, len(names), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0, lw=0)
    axes.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5), xlabel="test AUC")
    axes.set_yticklabels(names)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    counted = ""  # where all are judged on the same images, there is nothing to tell apart
    if "images" in table:
        most, fewest = table["images"].max(), table["images"].min()
        counted = f"Rotated by 90° and by random angles: {most:,} images; the others: {fewest:,}."
    return captioned(
        figure,
        "Test AUC under every perturbation of the test images, with 95 % intervals; mean over seeds. " + counted,
        _each_auc(table),
    )


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
    return captioned(
        figure,
        "Accuracy against confidence, in bins that hold at least 1 % of the images; size: their share. On the dashed "
        "line the probabilities are calibrated.",
        "Two panels of calibration curves, before and after temperature scaling, one line a network.",
    )


def costs(table: pd.DataFrame) -> Figure:
    """AUC with its interval against each cost, on logarithmic axes; one marker a row of `Analysis.costs`."""
    figure, panels = plt.subplots(1, len(COSTS), figsize=(WIDTH, 3), sharey=True, squeeze=False)
    for axes, (column, label) in zip(panels[0], COSTS.items(), strict=True):
        for k, row in enumerate(table.itertuples()):
            x = getattr(row, column)
            with_interval(axes, [x], [row.auc], [row.auc_low], [row.auc_high], row.network, k, along="y")
        low, high = table[column].min(), table[column].max()
        axes.set(xscale="log", xlabel=label, xlim=(low / 2, high * 2))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0, 0].set_ylabel("test AUC")
    legend_on_top(figure, panels[0, 0])
    least, most = table["epochs"].min(), table["epochs"].max()
    epochs = _counted(most, "epoch") if least == most else f"{least} to {_counted(most, 'epoch')}"
    threads = _counted(int(table["threads"].iloc[0]), "thread")
    return captioned(
        figure,
        "Test AUC against the size of a network, the work for one image, and the time of one training "
        f"({epochs}, {threads}).",
        "; ".join(
            f"{row.network}: {row.parameters:,} parameters, {row.operations:.0f} million multiplications, "
            f"{row.seconds:.0f} s"
            for row in table.itertuples()
        ),
    )


def learning_curves(curves: Mapping[str, LearningCurve]) -> Figure:
    """AUC against the number of training images, with its interval over test images and seeds; from
    `evaluation.learning_curve`. The right panel shows the distance from 1, where curves that end there come apart."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.2))
    tables = {network: curve.table for network, curve in curves.items()}
    every = pd.concat(tables.values())
    sizes, floor = sorted(set(every["images"])), error_floor(every["score"])
    for k, (network, table) in enumerate(tables.items()):
        for axes, change in ((left, lambda x: x), (right, lambda x: np.maximum(1 - x, floor))):
            lower, upper = np.sort([change(table["low"]), change(table["high"])], axis=0)
            with_interval(axes, table["images"], change(table["score"]), lower, upper, network, k, "y", line=True)
    for axes, label in ((left, "test AUC"), (right, "1 − test AUC")):
        axes.set(xscale="log", xlabel="training images", ylabel=label, xlim=(sizes[0] / 1.3, sizes[-1] * 1.3))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
    right.set(yscale="log", ylim=(floor, None))
    legend_on_top(figure, left)
    few = "" if len(sizes) > 1 else " Each network was trained on one number of images, so there is one point each."
    return captioned(
        figure,
        "Test AUC against the number of training images, as many steps for each; bars: 95 % interval over "
        f"{averaged_over(int(every['seeds'].min()))}.{few}",
        "; ".join(
            f"{network}: " + ", ".join(f"{row.images:,} images {row.score:.3f}" for row in table.itertuples())
            for network, table in tables.items()
        ),
    )


def error_floor(scores: pd.Series | np.ndarray) -> float:
    """The least 1 - AUC of a logarithmic axis: one that is exactly 0 has no logarithm."""
    missing = float((1 - scores).min())
    return 0.2 * missing if missing > 0 else 1e-5


def transfer(table: pd.DataFrame, caption: str) -> Figure:
    """AUC of one network trained on one preset (rows) and tested on another (columns), with its interval; a table of
    `evaluation.presets.AcrossPresets`, or of `evaluation.robustness.transfer_matrix`."""
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
    words = "; ".join(f"trained on {row.trained}, tested on {row.tested}: {row.auc:.3f}" for row in table.itertuples())
    return captioned(figure, caption, f"AUC, {words}")


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _each_auc(table: pd.DataFrame) -> str:
    return "; ".join(f"{row.network}, {row.perturbation}: AUC {row.auc:.4f}" for row in table.itertuples())


def legend_on_top(figure: Figure, axes) -> None:
    """Put the legend of `axes` above all panels."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=min(len(names), 4), loc="outside upper center")


def with_interval(axes, x, y, low, high, network: str, k: int, along: str, line: bool = False) -> None:
    """Draw markers of one network, the `k`-th, with their intervals along `x` or `y`."""
    values, low, high = (np.asarray(one, float) for one in (x if along == "x" else y, low, high))
    reach = np.maximum([values - low, high - values], 0)
    axes.errorbar(
        x, y, **{f"{along}err": reach}, color=colour(network), marker=MARKERS[k % 8], ms=5, lw=1.2,
        ls="-" if line else "", elinewidth=1.5, label=network,
    )  # fmt: skip
