"""Figures of what can be found: AUC against the detectability of substructure, and where it is high enough."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lensstudy.evaluation.ladder import IDEAL, SMOOTH_FIT, median_reached
from lensstudy.figures.analysis import legend_on_top, with_interval
from lensstudy.figures.style import WIDTH, captioned, colour, wrapped

__all__ = ["detection_ladder", "thresholds"]


def detection_ladder(table: pd.DataFrame, columns: int = 3) -> Figure:
    """Draw the AUC of every observer against the detectability of the substructure, from `Ladder.table`; so many
    populations stand side by side."""
    populations, observers = table["population"].unique(), table["observer"].unique()
    columns = min(columns, len(populations))
    rows = -(-len(populations) // columns)
    height = 1.9 if columns > 1 else 2.9
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, height * rows + 0.6),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes in grid.flat[len(populations) :]:
        axes.set_axis_off()
    for axes, population in zip(grid.flat, populations, strict=False):
        for k, observer in enumerate(observers):
            curve = table[(table["population"] == population) & (table["observer"] == observer)]
            if observer == IDEAL:
                axes.plot(curve["sigma"], curve["auc"], color="0.2", ls="--", lw=1.2, label=IDEAL)
            elif observer == SMOOTH_FIT:
                reach = np.abs(curve[["low", "high"]].to_numpy().T - curve["auc"].to_numpy())
                grey = {"color": "0.5", "marker": "s", "ms": 4, "lw": 1, "label": SMOOTH_FIT}
                axes.errorbar(curve["sigma"], curve["auc"], reach, **grey)
            else:
                with_interval(
                    axes, curve["sigma"], curve["auc"], curve["low"], curve["high"], observer, k, along="y", line=True
                )
        axes.axhline(0.5, color="0.7", lw=0.8, ls=":")
        axes.set(xscale="log", ylim=(0.3, 1.02))
        axes.xaxis.set_major_locator(LogLocator(10))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(wrapped(population, 34), fontsize=7)
    for axes in grid[:, 0]:
        axes.set_ylabel("AUC")
    for axes in grid[-1]:
        axes.set_xlabel("detectability [sigma]")
    legend_on_top(figure, grid[0, 0])
    return captioned(
        figure,
        "AUC of lenses with substructure against smooth ones, against the detectability of the substructure after "
        "re-fitting the smooth lens; bars: 95 % intervals, dashed: an ideal observer, dotted: a guess.",
        "; ".join(
            f"{population}, {observer}: " + ", ".join(f"{row.auc:.2f} at {row.sigma:.2g}" for row in curve.itertuples())
            for (population, observer), curve in table.groupby(["population", "observer"], sort=False)
        ),
    )


def thresholds(reached: pd.DataFrame) -> Figure:
    """From which detectability on each observer finds substructure, from `Ladder.reached`: a point a population, and
    their median. Few enough marks to be read as a thumbnail in the list of reports."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    medians, said = median_reached(reached), []
    for k, name in enumerate(reached):
        found = reached[name].dropna()
        ink = "0.45" if name in (IDEAL, SMOOTH_FIT) else colour(name)
        axes.plot(found, np.full(len(found), k), "o", color=ink, alpha=0.45, ms=9, mew=0)
        if np.isfinite(median := medians[name]):
            axes.plot([median] * 2, [k - 0.3, k + 0.3], color=ink, lw=4)
            said.append(f"{name} {median:.2g}")
    axes.set(xscale="log", xlabel="detectability [sigma] for an AUC of 0.9", ylim=(len(reached.columns) - 0.4, -0.6))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.label.set_fontsize(13)
    axes.set_yticks(range(len(reached.columns)), reached.columns, fontsize=13)
    caption = (
        f"The detectability from which on each observer has an AUC of 0.9: a point for each of {len(reached)} "
        "populations in which it is reached, a line at the median of all; where it never is, it counts as infinite."
    )
    return captioned(figure, caption, f"{caption} Medians in sigma: {', '.join(said)}.")
