"""Figures of a search for one subhalo: where it searches, what it finds, how sure it is, and what is published.

A function takes what `observations.known_subhalo` found, draws and returns a figure that knows its caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lensstudy.figures.style import IMAGES, PALETTE, WIDTH, captioned

__all__ = ["found_subhalos", "subhalo_profiles", "subhalo_scans"]

SKY_BLUE = "#56B4E9"
CONFIDENT = 3.84  # of chi square: a 95 % interval
HIGHEST = 12.0  # of chi square: the top of a profile likelihood
MARKS = "os^Dvp"


def subhalo_scans(images: Sequence[Any]) -> Figure:
    """Draw where the arcs ask for one subhalo, and which mass they would show; a row an image.

    Args:
        images: `observations.searched_lens.SearchedLens` each.
    """
    size = (WIDTH, (WIDTH / 3 + 0.45) * len(images))
    figure, axes = plt.subplots(len(images), 3, figsize=size, squeeze=False)
    for image, row in zip(images, axes, strict=True):
        reach, half = 1.6 * image.smooth["einstein_radius"], len(image.arcs) * image.pixel_scale / 2
        x, y = image.middle
        frame = [-half - x, half - x, -half - y, half - y]
        row[0].imshow(np.arcsinh(np.clip(image.arcs, 0, None) / 3), cmap=IMAGES, origin="lower", extent=frame)
        scanned = image.scanned[::-1]  # the best on top
        signs = np.sign(scanned[:, 2]) * scanned[:, 3]
        limit = float(np.abs(signs).max())
        falls = row[1].scatter(*scanned[:, :2].T, c=signs, s=12, cmap="RdBu_r", vmin=-limit, vmax=limit)
        figure.colorbar(falls, ax=row[1], location="bottom", shrink=0.9, aspect=25).ax.tick_params(labelsize=6)
        if len(image.shows):
            masses = row[2].scatter(*image.shows[:, :2].T, c=np.log10(image.shows[:, 2]), s=4, cmap=IMAGES, vmax=11)
            figure.colorbar(masses, ax=row[2], location="bottom", shrink=0.9, aspect=25).ax.tick_params(labelsize=6)
        else:
            row[2].axis("off")
        for axis, title in zip(row, (f"{image.name}: arcs", "fall of chi square", "log mass that shows"), strict=True):
            if axis.axison:
                for fit in image.fits:
                    mark = "x" if fit is image.best else "+"
                    axis.plot(fit["x"], fit["y"], mark, color=SKY_BLUE, ms=8, mew=1.5)
                axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
                axis.set_title(title, fontsize=8)
                axis.tick_params(labelsize=6)
                axis.grid(False)
    return captioned(
        figure,
        "The arcs; by how much chi square falls with one subhalo, lens and source free, at the places where the fits "
        "of the scan end (blue: with a negative mass, which nothing has); and the mass within 1 kpc, in solar masses, "
        "for which it would fall by 50. Cross: the best fit; plus: the next. Arcseconds from the lens, in the frame of "
        "each file.",
        "For each image the arcs, a map of the improvement of the fit and a map of the sensitivity.",
    )


def subhalo_profiles(images: Sequence[Any]) -> Figure:
    """Draw how much worse the fit gets as one parameter of the subhalo moves and all else is adjusted.

    Args:
        images: `observations.searched_lens.SearchedLens` each, searched in full.
    """
    figure, axes = plt.subplots(1, 4, figsize=(1.25 * WIDTH, 0.36 * WIDTH), sharey=True)
    names = ("x [arcsec]", "y [arcsec]", "mass [1e9 solar masses]", "truncated at [arcsec]")
    for number, image in enumerate(images):
        for axis, name, (values, rises) in zip(axes, names, image.profiles, strict=True):
            shown = values / 1e9 if "mass" in name else values
            axis.plot(shown, rises, "o-", ms=3, lw=1.2, color=PALETTE[number], label=image.name)
            axis.set_xlabel(name, fontsize=8)
    for axis in axes:
        axis.axhline(CONFIDENT, color="0.5", ls="--", lw=0.9)
        axis.set_ylim(-1, HIGHEST)
        axis.tick_params(labelsize=7)
    axes[3].set_xscale("log")
    axes[3].xaxis.set_major_formatter("{x:g}")
    axes[3].xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("chi square rises by", fontsize=8)
    axes[0].legend(fontsize=6)
    return captioned(
        figure,
        "Profile likelihoods of place, mass within 1 kpc and truncation: by how much chi square rises, in units of "
        "noise that pixels share, where one is held and lens, source and the others are adjusted. Dashed: the 95 % "
        "interval. Below zero the fit that was held has found a better lens than the best fit.",
        "Four curves with a minimum each: x, y, mass and truncation radius.",
    )


def found_subhalos(known: Any) -> Figure:
    """Draw the places and masses that the search and its variants find, beside what is published.

    Args:
        known: an `observations.known_subhalo.KnownSubhalo`.
    """
    table = known.found
    figure, (places, masses) = plt.subplots(1, 2, figsize=(WIDTH, 0.5 * WIDTH), width_ratios=[1, 1.15])
    angle = np.linspace(0, 2 * np.pi, 100)
    x, y = known.known.x, known.known.y
    places.plot(x + 0.1 * np.cos(angle), y + 0.1 * np.sin(angle), color="0.7", lw=1)
    places.plot(x, y, "x", color="black", ms=9, mew=1.5)
    masses.axhspan(*(mass / 1e9 for mass in known.known.mass), color="0.88", lw=0)
    masses.axhline(known.known.mass[0] / 1e9, color="0.7", lw=1)
    variants = list(dict.fromkeys(table["variant"]))
    inks = dict(zip(dict.fromkeys(table["image"]), PALETTE, strict=False))
    for row in table.to_dict("records"):
        column = variants.index(row["variant"])
        style = {"color": inks[row["image"]], "marker": MARKS[column % len(MARKS)], "ms": 5, "ls": "none"}
        places.plot(row["x"], row["y"], **style)
        shift = 0.12 * (list(inks).index(row["image"]) - (len(inks) - 1) / 2)
        masses.plot(column + shift, row["mass within 1 kpc"] / 1e9, **style)
        if np.isfinite(row["low"]) and np.isfinite(row["high"]):
            masses.plot([column + shift] * 2, [row["low"] / 1e9, row["high"] / 1e9], color=inks[row["image"]], lw=1)
    for name, ink in inks.items():
        masses.plot([], [], "o", color=ink, ms=5, label=name)
    masses.set_xticks(range(len(variants)), variants, rotation=25, ha="right", fontsize=7)
    masses.set_ylim(0, 1.15 * masses.get_ylim()[1])
    masses.set_title("mass within 1 kpc [1e9 solar masses]", fontsize=8)
    masses.legend(fontsize=7)
    places.set(xlabel="x [arcsec]", ylabel="y [arcsec]", aspect="equal")
    places.set_title("place", fontsize=8)
    return captioned(
        figure,
        "Left: where the search and its variants end, in the frame of the first image; cross: the published place, "
        "with a circle of 0.1 arcsec. Right: the mass within 1 kpc, with the 95 % interval of the search; grey: the "
        "range that is published.",
        "Scatter plot of places about the published one, and masses by variant.",
    )
