"""Figures of a sample of lenses with a smooth model each: every model at a glance, and all against published ones.

A function takes what `observations.modelled_sample` found, draws and returns a figure that knows its caption.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensstudy.figures.style import IMAGES, PALETTE, WIDTH, Note, captioned

__all__ = ["against_published", "all_models"]

TENTH = 0.1
STATES = {"ok": ("o", PALETTE[0]), "doubtful": ("^", PALETTE[1])}


def all_models(lenses: Mapping[str, Mapping[str, np.ndarray]], columns: int = 3) -> Figure:
    """Draw the arcs of every lens, their model and what it leaves.

    Args:
        lenses: by name, the images `observed`, `galaxy`, `mask`, `model`, `residuals` and `used` `(H, H)`.
        columns: lenses side by side.
    """
    columns = max(min(columns, len(lenses)), 1)
    rows = max(-(-len(lenses) // columns), 1)
    size = (WIDTH, 0.37 * WIDTH / columns * rows)
    figure, axes = plt.subplots(rows, 3 * columns, figsize=size, dpi=80, squeeze=False, layout="none")
    for axis in axes.ravel():
        axis.axis("off")
    shades = plt.get_cmap(IMAGES).with_extremes(bad="0.6")
    for (name, planes), three in zip(lenses.items(), axes.reshape(-1, 3), strict=False):
        used = planes["used"].astype(bool)
        top = max(float(np.quantile(planes["model"][used], 0.998)), 1e-12)
        light = {"cmap": shades, "vmin": -0.1 * top, "vmax": top}
        residuals = np.where(used, planes["residuals"], np.nan)
        panels = [
            (np.where(planes["mask"], np.nan, planes["observed"] - planes["galaxy"]), light),
            (planes["model"], light),
            (residuals, {"cmap": plt.get_cmap("RdBu_r").with_extremes(bad="0.92"), "vmin": -5, "vmax": 5}),
        ]
        half, reach = len(used) / 2, 1.15 * np.abs(np.argwhere(used) - (len(used) - 1) / 2).max()
        for axis, (image, colours) in zip(three, panels, strict=True):
            axis.imshow(image, origin="lower", interpolation="nearest", **colours)
            axis.set(xlim=(half - reach, half + reach), ylim=(half - reach, half + reach))
        three[1].set_title(f"{name}  {(residuals[used] ** 2).mean():.2f}", fontsize=4.5, pad=1)
    figure.subplots_adjust(0, 0, 1, 0.98, 0.02, 0.15)
    return captioned(
        figure,
        "The arcs of every lens, their model and what it leaves (red and blue: 5 sigma), with chi square a pixel; "
        "masked pixels are grey.",
        f"Three images of each of {len(lenses)} lenses: arcs, model, residuals.",
    )


def against_published(compared: pd.DataFrame) -> Figure | Note:
    """Draw Einstein radii, axis ratios and directions of the mass against published ones.

    Args:
        compared: `ModelledSample.compared`.
    """
    if not len(compared):
        return Note("No Einstein radius is published of any of these lenses, so there is nothing to compare with.")
    figure, axes = plt.subplots(1, 3, figsize=(1.25 * WIDTH, 0.5 * WIDTH))
    elongated = compared[(compared["published_ratio"] < 0.9) & (compared["axis_ratio"] < 0.9)]
    offset = (elongated["axis"] - elongated["published_axis"] + 90) % 180 - 90
    ends = np.array([0.85 * compared["published"].min(), 1.1 * compared["published"].max()])
    axes[0].fill_between(ends, (1 - TENTH) * ends, (1 + TENTH) * ends, color="0.9", lw=0, label="a tenth")
    for axis, line in zip(axes, (ends, [0.4, 1], [0, 180]), strict=True):
        axis.plot(line, line, color="0.6", lw=1, zorder=1)
    for state, (marker, ink) in STATES.items():
        some = compared[compared["state"] == state]
        label = f"{state} ({len(some)})"
        style = {"color": ink, "fmt": marker, "ms": 4, "lw": 0.8, "alpha": 0.85}
        axes[0].errorbar(some["published"], some["einstein_radius"], label=label, **style)
        axes[1].errorbar(some["published_ratio"], some["axis_ratio"], **style)
        some = elongated[elongated["state"] == state]
        axes[2].errorbar(some["published_axis"], some["published_axis"] + offset[some.index], **style)
    titles = ("Einstein radius [arcsec]", "axis ratio of the mass", "direction of its axis [degrees]")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel=f"published {title.partition(' [')[0].partition(' of')[0]}", ylabel="fitted", title=title)
    axes[0].legend(fontsize=7)
    ratio, off = compared["axis_ratio"] - compared["published_ratio"], compared["difference"].abs()
    return captioned(
        figure,
        f"Fitted against published values of {len(compared)} lenses. Medians of the absolute differences: "
        f"{off.median():.1%} of the Einstein radius, {ratio.abs().median():.2f} of the axis ratio, "
        f"{offset.abs().median():.0f} degrees between directions ({len(elongated)} lenses whose axis ratios are both "
        "below 0.9). Published models have no shear, so its part is added to the ellipticity here.",
        "Three scatter plots about a diagonal: Einstein radius, axis ratio, direction.",
    )
