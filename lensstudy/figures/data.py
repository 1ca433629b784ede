"""Figures of a data set: its images, what the dark matter adds to them, its population, and what its classes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensstudy.figures.style import PALETTE, WIDTH, draw_image

__all__ = [
    "class_means",
    "examples",
    "orientation",
    "populations",
    "radial_profiles",
    "residuals",
]


def examples(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], columns: int = 6, pixel_scale=None
) -> Figure:
    """The first `columns` images of every class, one class a row; each image on its own brightness scale."""
    figure, axes = plt.subplots(
        len(classes),
        columns,
        figsize=(WIDTH, WIDTH / columns * len(classes)),
        squeeze=False,
        gridspec_kw={"wspace": 0.05},
    )
    for row, name in enumerate(classes):
        chosen = np.flatnonzero(labels == row)[:columns]
        for axis in axes[row]:
            axis.set_axis_off()
        for axis, index in zip(axes[row], chosen, strict=False):
            axis.set_axis_on()
            draw_image(axis, np.asarray(images[index]).mean(0), pixel_scale)
        axes[row, 0].set_axis_on()
        axes[row, 0].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name)
    return figure


def residuals(observed, noise_free, smooth, mass, titles: Sequence[str], pixel_scale: float | None = None) -> Figure:
    """One row a lens: observed, without noise, minus its smooth counterpart, mass of the substructure; all `(H, W)`."""
    figure, axes = plt.subplots(len(titles), 4, figsize=(WIDTH, 1.95 * len(titles)), squeeze=False)
    columns = ["observed", "without noise", "minus smooth counterpart", "substructure"]
    for row, pictures in zip(axes, zip(observed, noise_free, noise_free - smooth, mass, strict=True), strict=True):
        draw_image(row[0], pictures[0], pixel_scale)
        draw_image(row[1], pictures[1])
        reach = np.abs(pictures[2]).max()
        draw_image(row[2], pictures[2], symmetric=True)
        row[2].set_xlabel(f"at most {reach / pictures[1].max():.1%} of the peak" if reach else "nothing", fontsize=7)
        draw_image(row[3], np.log10(np.maximum(pictures[3], 1e6)), vmin=6, vmax=10)
        row[3].images[0].set_cmap("Greys")
        for spine in row[3].spines.values():
            spine.set(visible=True, color="0.8")
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title)
    return figure


def populations(truth: pd.DataFrame, columns: Mapping[str, str], classes: Sequence[str]) -> Figure:
    """Histograms of the `columns` (name -> axis label) of a catalogue of truth, one line a class. Quantities that span
    more than two decades are shown on a logarithmic axis, and a class in which they are zero is omitted."""
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6))
    for axis, (column, label) in zip(axes.flat, columns.items(), strict=True):
        values = truth[column].replace([np.inf, -np.inf], np.nan)
        some = values[values > 0].dropna()
        axis.set(xlabel=label, ylabel="images")
        if len(some) and some.max() < 1.001 * some.min():
            note = f"the same for every lens:\n{some.iloc[0]:.3g}"
            axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", va="center")
            axis.set(xticks=[], yticks=[])
            continue
        logarithmic = len(some) and some.quantile(0.99) > 100 * some.quantile(0.01)
        bins = 20
        if len(some):
            low, high = some.min(), some.max()
            bins = np.geomspace(low, high * 1.001, 25) if logarithmic else np.linspace(low, high * 1.001 + 1e-9, 25)
        for k, name in enumerate(classes):
            mine = values[(truth["class"] == name) & (values > 0)].dropna()
            if len(mine):
                axis.hist(mine, bins=bins, histtype="step", lw=1.6, color=PALETTE[k], label=name)
        if logarithmic:
            axis.set_xscale("log")
    axes.flat[-1].legend(fontsize=8)
    return figure


def class_means(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], pixel_scale=None) -> Figure:
    """Mean image of each class above its difference from the mean of all."""
    means = [
        np.mean([np.asarray(images[i], np.float64).mean(0) for i in np.flatnonzero(labels == k)], 0)
        for k in range(len(classes))
    ]
    overall = np.mean(means, 0)
    figure, axes = plt.subplots(2, len(classes), figsize=(min(2.1 * len(classes), WIDTH), 4.2), squeeze=False)
    reach = max(np.abs(mean - overall).max() for mean in means) or 1
    for column, (name, mean) in enumerate(zip(classes, means, strict=True)):
        draw_image(axes[0, column], mean, pixel_scale)
        axes[0, column].set_title(name)
        draw_image(axes[1, column], mean - overall, symmetric=True, vmin=-reach, vmax=reach)
    axes[0, 0].set_ylabel("mean")
    axes[1, 0].set_ylabel("minus mean of all")
    return figure


def radial_profiles(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], pixel_scale=None) -> Figure:
    """Mean brightness against the distance from the centre, with the spread of single images (16 to 84 %)."""
    size = images.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    ring = np.hypot(x, y).astype(int).ravel()
    inside = ring < size // 2
    counts = np.bincount(ring[inside])
    radius = np.arange(len(counts)) + 0.5
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for k, name in enumerate(classes):
        profiles = np.array(
            [
                np.bincount(ring[inside], np.asarray(images[i], np.float64).mean(0).ravel()[inside]) / counts
                for i in np.flatnonzero(labels == k)[:400]
            ]
        )
        low, middle, high = np.percentile(profiles, [16, 50, 84], axis=0)
        axes.plot(radius * (pixel_scale or 1), middle, label=name, color=PALETTE[k])
        axes.fill_between(radius * (pixel_scale or 1), low, high, color=PALETTE[k], alpha=0.15, lw=0)
    axes.set(xlabel="radius [arcsec]" if pixel_scale else "radius [pixels]", ylabel="brightness")
    axes.legend()
    return figure


def orientation(e1: np.ndarray, e2: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Flux ellipticity of every image, with the mean of all as a cross."""
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    for k, name in enumerate(classes):
        axes.scatter(e1[labels == k], e2[labels == k], s=5, alpha=0.4, lw=0, color=PALETTE[k], label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.axvline(0, color="0.6", lw=0.8)
    axes.plot(e1.mean(), e2.mean(), "+", color="black", ms=14, mew=2)
    reach = 1.1 * np.quantile(np.abs([e1, e2]), 0.998)
    axes.set(xlabel="$e_1$ (along the axes)", ylabel="$e_2$ (along the diagonals)", aspect="equal")
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.legend(markerscale=3, fontsize=8)
    return figure
