"""Figures of DeepLense's Common Test: recalls of simulated beside original images, and the latter at four rotations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lensstudy.figures.analysis import MARKERS, legend_on_top, with_interval
from lensstudy.figures.style import CHART, WIDTH, Note, captioned, wrapped

__all__ = ["original_at_rotations", "recalls_beside_original"]

WITHIN = 2.0  # points: how near the recalls of a preset were to come to the original ones


def recalls_beside_original(table: pd.DataFrame) -> Figure:
    """The recall of every class, of each network on simulated lenses and of one on the original images (black), from
    `BesideOriginal.recalls`; small dots are single draws."""
    networks, classes = (list(dict.fromkeys(table[one])) for one in ("network", "class"))
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.75 * len(classes)))
    for k, network in enumerate(networks):
        mine = table[table["network"] == network].set_index("class").loc[classes]
        height = np.arange(len(classes)) + 0.7 / max(len(networks), 3) * (k - (len(networks) - 1) / 2)
        recall, low, high = (100 * mine[one].to_numpy() for one in ("recall", "low", "high"))
        if not k:
            axes.errorbar(
                recall, height, xerr=[recall - low, high - recall], color="black", marker=MARKERS[0], ms=5, ls="",
                elinewidth=1.5, label=network,
            )  # fmt: skip
            for value, row in zip(recall, range(len(classes)), strict=True):
                axes.fill_betweenx([row - 0.45, row + 0.45], value - WITHIN, value + WITHIN, color="0.9", lw=0)
        else:
            with_interval(axes, recall, height, low, high, network, k, along="x")
            for row, each in zip(height, mine["each"], strict=True):
                axes.plot(100 * np.array(each), [row] * len(each), ".", color="0.4", ms=3, zorder=4)
    axes.set(yticks=range(len(classes)), ylim=(len(classes) - 0.5, -0.5), xlabel="recall [%]")
    axes.set_yticklabels(classes)
    axes.grid(axis="y", visible=False)
    legend_on_top(figure, axes)
    return captioned(
        figure,
        "Recall of each class: of original images by a network that learnt from such (black; grey: within 2 points of "
        "it), and of simulated lenses by each network. Bars: 95 % intervals over images; dots: single draws.",
        "; ".join(
            f"{network}: " + ", ".join(f"{row[2]} {100 * row.recall:.1f} %" for row in each.itertuples())
            for network, each in table.groupby("network", sort=False)
        ),
    )


def original_at_rotations(table: pd.DataFrame) -> Figure | Note:
    """The probability of the true class of each original image (row) at each rotation (column), a panel a network, from
    `OriginalImages.table`; a note where there are none. No image is drawn."""
    if table.empty:
        return Note("No original images were given, so there is nothing to draw.")
    networks, images = (list(dict.fromkeys(table[one])) for one in ("network", "image"))
    figure, grid = plt.subplots(1, len(networks), figsize=(WIDTH, 1.1 + 0.23 * len(images)), squeeze=False, sharey=True)
    own = table.assign(true=[row[row["class"]] for row in table.to_dict("records")])
    for axes, network in zip(grid[0], networks, strict=True):
        mine = own[own["network"] == network].pivot(index="image", columns="degrees", values="true").loc[images]
        sns.heatmap(
            mine.to_numpy(float), annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, ax=axes,
            xticklabels=[f"{one}°" for one in mine.columns], yticklabels=images, annot_kws={"size": 7},
        )  # fmt: skip
        axes.set_gid(CHART)
        axes.set_title(wrapped(network, 22), fontsize=8)
        axes.tick_params(labelrotation=0)
    right = table.groupby(["network", "degrees"], sort=False)["right"].sum().unstack()
    return captioned(
        figure,
        "Probability of the true class of each original image (rows) at four rotations (columns).",
        "; ".join(
            f"{network}: right {', '.join(f'{int(count)} at {degrees}°' for degrees, count in row.items())}"
            for network, row in right.iterrows()
        )
        + f", of {len(images)} images each.",
    )
