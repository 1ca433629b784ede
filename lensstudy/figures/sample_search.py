"""Figures of a search of a whole sample: what networks see, which subhalos are found, and where each lens stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lensstudy.figures.analysis import legend_on_top
from lensstudy.figures.style import IMAGES, WIDTH, Note, captioned, colour

__all__ = ["found_subhalos_by_mass", "rates_of_false_alarms", "residual_channels"]

RESIDUALS: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -2.3, "vmax": 2.3}  # asinh of 5 sigma


def residual_channels(images: np.ndarray, names: Sequence[str], columns: int = 3) -> Figure:
    """Draw arcs and residuals of some images `(N, 3, S, S)` as networks see them, with a name each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(
        rows, 2 * columns, figsize=(WIDTH, WIDTH / columns / 2 * rows * 1.12), squeeze=False, layout="none"
    )
    for axis in grid.ravel():
        axis.axis("off")
    for pair, image, name in zip(grid.reshape(-1, 2), images.astype(float), names, strict=False):
        arcs, residual = (np.where(image[2] > 0, plane, np.nan) for plane in image[:2])
        light = {"cmap": plt.get_cmap(IMAGES).with_extremes(bad="0.6"), "vmin": -1, "vmax": np.nanmax(arcs)}
        dents = RESIDUALS | {"cmap": plt.get_cmap(RESIDUALS["cmap"]).with_extremes(bad="0.92")}
        for axis, plane, how in zip(pair, (arcs, residual), (light, dents), strict=True):
            axis.imshow(plane, origin="lower", interpolation="nearest", **how)
        pair[0].set_title(name, fontsize=6, loc="left", pad=2)
    figure.subplots_adjust(0, 0, 1, 0.96, 0.03, 0.14)
    return captioned(
        figure,
        "What a network sees of each image: the arcs, and what the best smooth lens leaves of them, both in units of "
        "the noise and through asinh (red and blue: 5 sigma). Grey does not count: not fitted, or the core.",
        f"Arcs and residuals of {len(images)} images: {', '.join(names)}.",
    )


def found_subhalos_by_mass(
    found: pd.DataFrame, names: Sequence[str], ideal: str = "", real: bool = False
) -> Figure | Note:
    """Draw the share of subhalos found against their mass, a panel a profile, from `SampleSearch.found`.

    Args:
        found: the shares.
        names: the scorers to draw.
        ideal: one that knows everything, which is dashed.
        real: whether the subhalos were added to real images.
    """
    if not len(found):
        return Note("There are no subhalos of these masses in so few images.")
    profiles = found["profile"].unique()
    figure, grid = plt.subplots(1, len(profiles), figsize=(WIDTH, 3.1), sharey=True, squeeze=False)
    for axes, profile in zip(grid[0], profiles, strict=True):
        for k, name in enumerate(names):
            curve = found[(found["profile"] == profile) & (found["by"] == name)]
            reach = np.abs(curve[["low", "high"]].to_numpy().T - curve["share"].to_numpy())
            mass = curve["mass"] * 1.04 ** (k - len(names) / 2)
            ink = colour(name) if "cnn" in name or "resnet" in name else "0.5"
            axes.errorbar(mass, curve["share"], reach, color=ink, marker="os^D"[k % 4], ms=4, lw=1.2, label=name)
        if ideal:
            curve = found[(found["profile"] == profile) & (found["by"] == ideal)]
            axes.plot(curve["mass"], curve["share"], color="0.2", ls="--", lw=1.2, label=ideal)
        axes.axhline(0.1, color="0.7", lw=0.8, ls=":")
        axes.set(xscale="log", ylim=(-0.02, 1.04), xlabel="mass [solar masses]")
        axes.set_title(profile, fontsize=8)
        axes.xaxis.set_major_locator(LogLocator(10))
        axes.xaxis.set_minor_formatter(NullFormatter())
    grid[0, 0].set_ylabel("share found")
    grid[0, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    legend_on_top(figure, grid[0, 0])
    where = "added to the real images" if real else "in simulated counterparts"
    said = [
        f"{profile}, {name}: " + ", ".join(f"{row.share:.2f} at {row.mass:.1e}" for row in curve.itertuples())
        for (profile, name), curve in found[found["by"].isin(names)].groupby(["profile", "by"], sort=False)
    ]
    return captioned(
        figure,
        f"Share of single subhalos {where} that are found, where one smooth counterpart in ten is taken for one with a "
        "subhalo (dotted); bars: 95 % intervals over lenses.",
        "; ".join(said),
    )


def rates_of_false_alarms(lenses: pd.DataFrame, blind: Sequence[float] = ()) -> Figure:
    """Draw the rates of false alarms of the lenses of a sample in their order, from `SampleSearch.lenses`, beside what
    they were if all were smooth, and those of smooth counterparts that are fitted blindly, `blind`."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    share = (np.arange(len(lenses)) + 0.5) / len(lenses)
    axes.plot([0, 1], [0, 1], color="0.6", lw=1)
    if len(blind):
        share_of_blind = (np.arange(len(blind)) + 0.5) / len(blind)
        axes.plot(
            share_of_blind, np.sort(blind), color="0.3", lw=1, ls="--", label="smooth counterparts, fitted blindly"
        )
    for known, marker, label in ((True, "o", "chi square as in counterparts"), (False, "^", "chi square higher")):
        some = (lenses["in_distribution"] == known).to_numpy()
        axes.plot(
            share[some], lenses["p"][some], marker, ms=5, color=colour("d4" if known else "resnet18"), label=label
        )
    axes.set(xlabel="share of the sample", ylabel="rate of false alarms", xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    return captioned(
        figure,
        f"Rates of false alarms of {len(lenses)} lenses, each among its own smooth counterparts, in their order. On "
        "the line lie lenses that are smooth and otherwise like their counterparts"
        + ("; the dashed line is where smooth ones lie whose lens had to be looked for." if len(blind) else "."),
        "Lenses from the lowest rate: " + ", ".join(f"{row.lens} {row.p:.2f}" for row in lenses.head(10).itertuples()),
    )
