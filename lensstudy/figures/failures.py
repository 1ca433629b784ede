"""Figures of where networks fail and which pixels they use: accuracy along the truth, mistakes, attributions.

They take what `evaluation.failures.Failures` measured. Where a bound of physics exists it is drawn beside the networks.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lensstudy.figures.analysis import legend_on_top, with_interval
from lensstudy.figures.style import WIDTH, Note, captioned, draw_image, wrapped

__all__ = ["accuracy_along", "attributions", "detection", "mistakes", "stretched"]


def accuracy_along(panels: Mapping[str, Mapping[str, pd.DataFrame]], classes: int) -> Figure:
    """Share of right answers against what is true of an image, `panels[axis label][network]` as from
    `Failures.accuracy_along`; a dotted line is a guess among so many equal `classes`."""
    return captioned(
        _along_truth(panels, "accuracy", 1 / classes),
        "Share of right answers against properties of the image, mean over seeds; bars: 95 % interval over test "
        "images, dotted: a guess among equal classes.",
        f"{len(panels)} panels, one a property, with one line a network.",
    )


def detection(found: Mapping[str, pd.DataFrame], false_alarms: float = 0.05) -> Figure | Note:
    """Share of the lenses with substructure that are found, against their detectability, beside what an ideal observer
    reaches; `found[network]` as from `Failures.detection`, and a note where no detectability is known."""
    if not found:
        return Note(
            "How detectable the substructure of each image is, is not known for these images, so no bound can be drawn."
        )
    figure = _along_truth({"detectability after re-fitting the macromodel [sigma]": found}, "share found")
    return captioned(
        figure,
        f"Share of the lenses with substructure that are found when {false_alarms:.0%} of the smooth ones are called "
        "so too, against the detectability; dashed: an ideal observer.",
        "; ".join(
            f"{name}: {', '.join(f'{row.share:.2f} at {row.sigma:.3g} sigma' for row in table.itertuples())}"
            for name, table in found.items()
        ),
    )


def _along_truth(panels: Mapping[str, Mapping[str, pd.DataFrame]], label: str, chance: float = 0) -> Figure:
    """One panel a quantity, one line a network; a column `bound` is drawn as a dashed line."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, 2.5 * rows + 0.2), sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    drawn = [table for networks in panels.values() for table in networks.values() if len(table)]
    lowest = min([table["low"].min() for table in drawn] + [1])
    for axes, (title, networks) in zip(grid.flat, panels.items(), strict=False):
        for k, (network, table) in enumerate(networks.items()):
            x = table["sigma"] if "sigma" in table else table["value"]
            with_interval(axes, x, table["share"], table["low"], table["high"], network, k, along="y", line=True)
            if "bound" in table and not k:
                axes.plot(x, table["bound"], color="0.2", ls="--", lw=1.2, label="ideal observer")
        _scaled(axes, x, title)
        axes.set(xlabel=title, ylim=(-0.03 if lowest < 0.6 else lowest - 0.02, 1.02))
        if chance and lowest < 0.6:
            axes.axhline(chance, color="0.6", lw=0.8, ls=":")
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    legend_on_top(figure, grid[0, 0])
    return figure


def mistakes(
    tables: Mapping[str, pd.DataFrame], images: np.ndarray, pixel_scale: float | None = None, number: int = 5
) -> Figure:
    """The surest mistakes of each network, one row a network, from `Failures.mistakes` and the test images `(N, C, H,
    W)`; an empty row says that it made none."""
    rows = {name: table.head(number) for name, table in tables.items()}
    columns = max([len(row) for row in rows.values()] + [1])
    side = WIDTH / max(columns, 4)
    figure, grid = plt.subplots(len(rows), columns, figsize=(WIDTH, (side + 0.55) * len(rows)), squeeze=False)
    for axes, (network, row) in zip(grid, rows.items(), strict=True):
        for axis in axes:
            axis.set_axis_off()
        for axis, one in zip(axes, row.itertuples(), strict=False):
            axis.set_axis_on()
            draw_image(axis, stretched(np.asarray(images[one.image], float).mean(0)), pixel_scale)
            axis.set_title(f"{one.true}{_visible(one.sigma)}\ncalled {one.called} ({one.probability:.2f})", fontsize=7)
        axes[0].set_axis_on()
        axes[0].set(xticks=[], yticks=[])
        axes[0].set_ylabel(wrapped(network), fontsize=8)
        if row.empty:
            axes[0].grid(False)
            axes[0].text(0.5, 0.5, "no mistakes", ha="center", va="center", transform=axes[0].transAxes)
    words = {
        name: [
            f"{one.true}{_visible(one.sigma)} called {one.called} ({one.probability:.2f})" for one in row.itertuples()
        ]
        for name, row in rows.items()
    }
    return captioned(
        figure,
        "The surest mistakes of each network: what is true, how detectable it is where that is known, what it was "
        "called and with which probability. Square root of the light.",
        "; ".join(f"{name}: {', '.join(each) or 'no mistakes'}" for name, each in words.items()),
    )


def attributions(found, pixel_scale: float | None = None) -> Figure:
    """Images above the attribution of each network, from `Failures.attributions`: red speaks for the class in the
    title, blue against it. Each map has its own scale, up to its 99.5th percentile."""
    side = min(WIDTH / len(found.light), 1.9)
    figure, grid = plt.subplots(
        1 + len(found.maps),
        len(found.light),
        figsize=(side * len(found.light), side * (1 + len(found.maps)) + 0.3),
        squeeze=False,
    )
    for axis, image, title in zip(grid[0], found.light, found.classes, strict=True):
        draw_image(axis, stretched(image), pixel_scale)
        axis.set_title(title, fontsize=8)
    for axes, (network, row) in zip(grid[1:], found.maps.items(), strict=True):
        for axis, one in zip(axes, row, strict=True):
            reach = np.quantile(np.abs(one), 0.995) or 1
            draw_image(axis, one, symmetric=True, vmin=-reach, vmax=reach)
        axes[0].set_ylabel(wrapped(network), fontsize=8)
    shares = ", ".join(f"{network} {share:.0%}" for network, share in found.on_light.items())
    return captioned(
        figure,
        "Red speaks for the true class, blue against it. Share of the attribution on pixels brighter than a tenth of "
        f"the peak, {shares}; these are {found.bright:.0%} of the pixels.",
        "Images above their attribution maps, one row a network.",
    )


def stretched(image: np.ndarray) -> np.ndarray:
    """The square root of the light above the sky, in which faint arcs show beside a bright lens."""
    return np.sqrt(np.clip(image - np.median(image), 0, None))


def _visible(sigma: float) -> str:
    """How detectable the substructure is, where it is known and there is some."""
    return f", {sigma:.0f} sigma" if 0 < sigma < np.inf else ""


def _scaled(axes, x: pd.Series, title: str) -> None:
    """A logarithmic axis where positive values reach over more than a decade, else few ticks."""
    if (x > 0).all() and x.max() > 12 * x.min() and "degrees" not in title:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
