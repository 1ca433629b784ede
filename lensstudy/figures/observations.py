"""Figures of real lenses: observations and fits, changes of predictions, recovery, where a mass would help.

A function draws and returns a matplotlib figure, in the style and colours of `figures.style`, whose `show` displays it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lensstudy.figures.style import IMAGES, WIDTH, colour

__all__ = ["answers", "ood_scores", "gallery", "place_maps", "recovery_curves", "counterparts"]


def _short(name: str, longest: int = 14) -> str:
    """The name of a lens and its band, in two lines that fit over a narrow panel."""
    lens, _, band = name.partition(" ")
    return f"{lens if len(lens) <= longest else lens[: longest - 1] + '…'}\n{band}".rstrip()


def gallery(
    rows: Mapping[str, Sequence[np.ndarray]], columns: Sequence[str], residuals: Sequence[int] = (), limit: float = 5
) -> Figure:
    """One row of images `(H, W)` a lens, under the names of the `columns`; those numbered in `residuals` in red and
    blue from -`limit` to `limit`, the others with an asinh stretch of their own."""
    shape = (len(rows), len(columns))
    side = WIDTH / (len(columns) + 0.8)
    figure, axes = plt.subplots(*shape, figsize=(WIDTH, side * len(rows) + 0.3), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for number, (axis, image) in enumerate(zip(row, images, strict=True)):
            if number in residuals:
                axis.imshow(image, cmap="RdBu_r", origin="lower", vmin=-limit, vmax=limit, interpolation="nearest")
            else:
                softening = max(np.quantile(np.abs(image), 0.5), 1e-3 * np.abs(image).max(), 1e-12)
                axis.imshow(np.arcsinh(image / softening), cmap=IMAGES, origin="lower", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
        row[0].set_ylabel(_short(name), fontsize=7)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def answers(variants: Mapping[str, Mapping[str, np.ndarray]], label: str) -> Figure:
    """Probabilities of every lens (a panel each) under every kind of change (a line each), as dots; the first line is
    the image as it is, and goes on as a dashed line through the others."""
    figure, axes = plt.subplots(1, len(variants), figsize=(WIDTH, 2.8), sharey=True, sharex=True, squeeze=False)
    for axis, (lens, kinds) in zip(axes[0], variants.items(), strict=True):
        for line, values in enumerate(kinds.values()):
            axis.plot(values, np.full(len(values), line), "o", ms=4, alpha=0.6, color="#0072B2")
        first = next(iter(kinds.values()))
        axis.axvline(np.mean(first), color="0.4", ls="--", lw=0.8)
        axis.set(xlim=(-0.05, 1.05), xticks=[0, 1])
        axis.set_title(_short(lens, max(84 // len(variants), 6)), fontsize=6)
    kinds = list(dict.fromkeys(kind for lens in variants.values() for kind in lens))
    axes[0, 0].set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.5, -0.5))
    axes[0, 0].set_yticklabels(kinds)
    figure.supxlabel(label, fontsize=9)
    return figure


def ood_scores(held_out: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, float]], threshold) -> Figure:
    """OOD scores of held-out simulations as a histogram, one panel a network, and those of the lenses as marks."""
    figure, axes = plt.subplots(
        len(held_out), 1, figsize=(WIDTH, 1.6 * len(held_out) + 0.4), squeeze=False, sharex=True
    )
    for axis, (network, values) in zip(axes[:, 0], held_out.items(), strict=True):
        reach = max(values.max(), *scores[network].values())
        edges = np.geomspace(max(values.min(), 1e-3) * 0.9, reach * 1.1, 50)
        axis.hist(values, edges, color=colour(network), alpha=0.5)
        axis.axvline(threshold[network], color="0.3", ls="--", lw=0.9)
        height = axis.get_ylim()[1]
        for number, (_, score) in enumerate(scores[network].items()):
            axis.plot(score, height * (0.9 - 0.8 * number / max(len(scores[network]), 1)), "kv", ms=5)
        axis.set(xscale="log", ylabel="simulations")
        axis.set_title(network, fontsize=8, loc="left")
    axes[-1, 0].set_xlabel("OOD score")
    return figure


def recovery_curves(masses: np.ndarray, curves: Mapping[str, Mapping[str, np.ndarray]], false_alarms: float) -> Figure:
    """Share recovered against the mass put in: a panel a lens, a line a network."""
    figure, axes = plt.subplots(1, len(curves), figsize=(WIDTH, 2.6), sharey=True, squeeze=False)
    for axis, (lens, lines) in zip(axes[0], curves.items(), strict=True):
        for network, shares in lines.items():
            axis.plot(masses, shares, "o-", ms=3, lw=1.2, color=colour(network.split(" ")[0]), label=network)
        axis.axhline(false_alarms, color="0.5", ls=":", lw=0.9)
        axis.axhline(0.5, color="0.5", ls="--", lw=0.9)
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(_short(lens, max(84 // len(curves), 6)), fontsize=6)
    axes[0, 0].set_ylabel("share recovered")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside upper center", ncols=2)
    figure.supxlabel("mass of the subhalo [solar masses]", fontsize=9)
    return figure


def counterparts(null: Mapping[str, np.ndarray], observed: Mapping[str, float], label: str) -> Figure:
    """Scores of the smooth counterparts of a lens, as a histogram a network, and that of its image as a line."""
    figure, axes = plt.subplots(1, len(null), figsize=(WIDTH, 2.4), squeeze=False)
    for axis, (network, values) in zip(axes[0], null.items(), strict=True):
        axis.hist(values, np.linspace(0, 1, 41), color=colour(network.split(" ")[0]), alpha=0.6)
        axis.axvline(observed[network], color="black", lw=1.5)
        axis.set(xlim=(0, 1), xlabel=label, ylabel="smooth counterparts")
        axis.set_title(network, fontsize=8)
    return figure


def place_maps(
    maps: Mapping[str, np.ndarray],
    reach: float,
    place: tuple[float, float] | None,
    others: np.ndarray | None = None,
    symmetric: Sequence[str] = (),
) -> Figure:
    """Maps `(H, W)` over x and y from -`reach` to `reach` arcseconds, with a cross at `place` and dots at `others`."""
    figure, axes = plt.subplots(1, len(maps), figsize=(WIDTH, WIDTH / max(len(maps), 2) + 0.2), squeeze=False)
    for axis, (title, image) in zip(axes[0], maps.items(), strict=True):
        limit = np.quantile(np.abs(image), 0.998) or 1
        shades = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if title in symmetric else {"cmap": IMAGES}
        axis.imshow(image, origin="lower", extent=(-reach, reach, -reach, reach), interpolation="nearest", **shades)
        ink = "black" if title in symmetric else "#56B4E9"
        if others is not None:
            axis.plot(others[:, 0], others[:, 1], "o", mfc="none", color=ink, ms=5, mew=0.8)
        if place is not None:
            axis.plot(*place, "x", color=ink, ms=9, mew=1.8)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="x [arcsec]")
        axis.set_title(title, fontsize=8)
        axis.grid(False)
    axes[0, 0].set_ylabel("y [arcsec]")
    return figure
