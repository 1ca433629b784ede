"""Figures of a data set: its images, what the dark matter adds to them, its population, and what its classes share."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lensstudy.data.dataset import LensDataset
from lensstudy.data.overview import Counterparts, Direction
from lensstudy.evaluation.shortcuts import Shortcuts
from lensstudy.figures.style import PALETTE, WIDTH, Note, captioned, draw_image, image_row

__all__ = [
    "class_means",
    "ellipticities",
    "examples",
    "excluded",
    "populations",
    "radial_profiles",
    "residuals",
    "shortcuts",
]

EXCLUDED = 6  # images shown, two of each reason
PROFILES = 400  # images of a class whose profiles make a band
POPULATION = {
    "einstein_radius": "Einstein radius [arcsec]",
    "source_radius": "source radius [arcsec]",
    "substructure_mass": "substructure [solar masses]",
    "detectability_refit": "detectability after re-fitting\nthe macromodel [sigma]",
}


def examples(dataset: LensDataset, columns: int = 6) -> Figure:
    """Draw the first `columns` images of every class, one class a row."""
    classes, scale = dataset.classes, dataset.description.get("pixel_scale")
    size = (WIDTH, WIDTH / columns * len(classes))
    figure, axes = plt.subplots(len(classes), columns, figsize=size, squeeze=False, gridspec_kw={"wspace": 0.05})
    for row, name in enumerate(classes):
        chosen = np.flatnonzero(dataset.labels == row)[:columns]
        for axis in axes[row]:
            axis.set_axis_off()
        for axis, index in zip(axes[row], chosen, strict=False):
            axis.set_axis_on()
            draw_image(axis, np.asarray(dataset.images[index]).mean(0), scale)
        axes[row, 0].set_axis_on()
        axes[row, 0].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name)
    return captioned(
        figure,
        "The first images of every class, each on its own brightness scale.",
        f"Rows of example images, one row for each of the classes {', '.join(classes)}.",
    )


def excluded(dataset: LensDataset, reasons: pd.DataFrame) -> Figure | Note:
    """Draw examples of excluded images, two for each of the `reasons` that `overview.exclusions` gives."""
    picked = [(row, reason) for reason, rows in reasons["examples"].items() for row in rows[:2]][:EXCLUDED]
    if not picked:
        return Note("There are no excluded images to show.")
    images = [np.nan_to_num(dataset.images[row].mean(0)) for row, _ in picked]
    figure = image_row(images, [str(reason) for _, reason in picked])
    return captioned(
        figure,
        "Examples of images that were excluded, with the reason.",
        "A row of excluded images under their reasons.",
    )


def residuals(lenses: Counterparts) -> Figure | Note:
    """Draw one row a lens: observed, without noise, minus its smooth counterpart, mass of the substructure."""
    if not lenses.titles:
        return Note("These images were not simulated: what their dark matter does is not known.")
    figure, axes = plt.subplots(len(lenses.titles), 4, figsize=(WIDTH, 1.95 * len(lenses.titles)), squeeze=False)
    arrays = (lenses.observed, lenses.noise_free, lenses.noise_free - lenses.smooth, lenses.mass)
    for row, title, observed, clean, difference, mass in zip(axes, lenses.titles, *arrays, strict=True):
        _draw_counterpart(row, observed, clean, difference, mass, lenses.pixel_scale)
        row[0].set_ylabel(title)
    for axis, title in zip(
        axes[0], ["observed", "without noise", "minus smooth counterpart", "substructure"], strict=True
    ):
        axis.set_title(title)
    return captioned(
        figure,
        "Lenses as observed, without noise, minus their smooth counterparts, and the mass of their substructure "
        "(darker: more, on a logarithmic scale).",
        f"One row for each of {', '.join(lenses.titles)} with four pictures: observed image, noise-free image, "
        "residual against the smooth counterpart, substructure mass.",
    )


def _draw_counterpart(row, observed, noise_free, residual, mass, pixel_scale: float | None) -> None:
    draw_image(row[0], observed, pixel_scale)
    draw_image(row[1], noise_free)
    draw_image(row[2], residual, symmetric=True)
    reach = np.abs(residual).max()
    row[2].set_xlabel(f"at most {reach / noise_free.max():.1%} of the peak" if reach else "nothing", fontsize=7)
    draw_image(row[3], np.log10(np.maximum(mass, 1e6)), vmin=6, vmax=10)
    row[3].images[0].set_cmap("Greys")
    for spine in row[3].spines.values():
        spine.set(visible=True, color="0.8")


def populations(dataset: LensDataset) -> Figure | Note:
    """Draw histograms of what was drawn for each lens, one line a class. Quantities that span more than two decades are
    shown on a logarithmic axis, and a class in which they are zero is omitted."""
    truth = dataset.catalogue
    if not set(POPULATION) <= set(truth):
        return Note("These images came without their truth: the population of their lenses is not known.")
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.6))
    for axis, (column, label) in zip(axes.flat, POPULATION.items(), strict=True):
        values = truth[column].replace([np.inf, -np.inf], np.nan)
        axis.set(xlabel=label, ylabel="images")
        _draw_histograms(axis, [values[(truth["class"] == name) & (values > 0)].dropna() for name in dataset.classes])
    handles = [plt.Line2D([], [], color=PALETTE[k], label=name) for k, name in enumerate(dataset.classes)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)
    return captioned(
        figure,
        "Distribution of the Einstein radius, the source radius, the substructure's mass and its detectability, by "
        "class.",
        "Four histograms with one line a class.",
    )


def _draw_histograms(axis: Axes, values: list[pd.Series]) -> None:
    some = pd.concat(values)
    if some.empty or some.max() < 1.001 * some.min():
        note = "none" if some.empty else f"the same for every lens:\n{some.iloc[0]:.3g}"
        axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", va="center")
        axis.set(xticks=[], yticks=[])
        return
    logarithmic = some.quantile(0.99) > 100 * some.quantile(0.01)
    low, high = some.min(), some.max()
    bins = np.geomspace(low, high * 1.001, 25) if logarithmic else np.linspace(low, high * 1.001 + 1e-9, 25)
    for k, mine in enumerate(values):
        if len(mine):
            axis.hist(mine, bins=bins.tolist(), histtype="step", lw=1.6, color=PALETTE[k])
    if logarithmic:
        axis.set_xscale("log")


def class_means(dataset: LensDataset) -> Figure:
    """Draw the mean image of each class above its difference from the mean of all."""
    classes, labels = dataset.classes, dataset.labels
    means = [
        np.mean([np.asarray(dataset.images[i], np.float64).mean(0) for i in np.flatnonzero(labels == k)], 0)
        for k in range(len(classes))
    ]
    overall = np.mean(means, 0)
    figure, axes = plt.subplots(2, len(classes), figsize=(min(2.1 * len(classes), WIDTH), 4.2), squeeze=False)
    reach = max(np.abs(mean - overall).max() for mean in means) or 1
    for column, (name, mean) in enumerate(zip(classes, means, strict=True)):
        draw_image(axes[0, column], mean, dataset.description.get("pixel_scale"))
        axes[0, column].set_title(name)
        draw_image(axes[1, column], mean - overall, symmetric=True, vmin=-reach, vmax=reach)
    axes[0, 0].set_ylabel("mean")
    axes[1, 0].set_ylabel("minus mean of all")
    return captioned(
        figure,
        "Mean image of each class, and its difference from the mean of all classes (one colour scale for all "
        f"differences, which reach {reach / overall.max():.1%} of the peak of the mean).",
        "Top: mean images of the classes. Bottom: difference of each from the overall mean.",
    )


def radial_profiles(dataset: LensDataset) -> Figure:
    """Draw the median brightness against the distance from the centre, with the spread of single images."""
    size, scale = dataset.images.shape[-1], dataset.description.get("pixel_scale")
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    ring = np.hypot(x, y).astype(int).ravel()
    inside = ring < size // 2
    counts = np.bincount(ring[inside])
    radius = (np.arange(len(counts)) + 0.5) * (scale or 1)
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for k, name in enumerate(dataset.classes):
        profiles = [
            np.bincount(ring[inside], np.asarray(dataset.images[i], np.float64).mean(0).ravel()[inside]) / counts
            for i in np.flatnonzero(dataset.labels == k)[:PROFILES]
        ]
        low, middle, high = np.percentile(profiles, [16, 50, 84], axis=0)
        axes.plot(radius, middle, label=name, color=PALETTE[k])
        axes.fill_between(radius, low, high, color=PALETTE[k], alpha=0.15, lw=0)
    axes.set(xlabel="radius [arcsec]" if scale else "radius [pixels]", ylabel="brightness")
    axes.legend()
    return captioned(
        figure,
        "Median brightness against radius; the bands hold the middle 68 % of single images.",
        "Line plot of brightness against radius, one line a class with a band.",
    )


def shortcuts(found: Shortcuts) -> Figure:
    """Draw the AUC of every shortcut with its interval, beside guessing."""
    figure, axes = plt.subplots(figsize=(6.5, 0.9 + 0.4 * len(found.table)))
    for row, (_, one) in enumerate(found.table.iterrows()):
        axes.plot([one["low"], one["high"]], [row, row], color=PALETTE[0], lw=2)
        axes.plot(one["auc"], row, "o", color=PALETTE[0])
    axes.axvline(0.5, color="0.4", lw=1, ls="--")
    axes.text(0.5, -0.65, " guessing", color="0.4", fontsize=8, va="center")
    axes.set(xlabel="AUC", xlim=(min(0.4, found.table["low"].min()), 1), ylim=(len(found.table) - 0.5, -0.9))
    axes.set_yticks(range(len(found.table)), found.table.index)
    return captioned(
        figure,
        f"AUC of each shortcut with its 95 % interval over {found.images:,} images: half of the training and "
        "validation parts, judged by a fit to the other half.",
        "; ".join(f"{name}: AUC {one['auc']:.2f}" for name, one in found.table.iterrows()) + ".",
    )


def ellipticities(dataset: LensDataset, direction: Direction) -> Figure:
    """Draw the ellipticity of the flux of every image, with the mean of all as a cross."""
    e1, e2 = direction.e1, direction.e2
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    for k, name in enumerate(dataset.classes):
        mine = dataset.labels == k
        axes.scatter(e1[mine], e2[mine], s=5, alpha=0.4, lw=0, color=PALETTE[k], label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.axvline(0, color="0.6", lw=0.8)
    axes.plot(e1.mean(), e2.mean(), "+", color="black", ms=14, mew=2)
    reach = 1.1 * np.quantile(np.abs([e1, e2]), 0.998)
    axes.set(xlabel="$e_1$ (along the axes)", ylabel="$e_2$ (along the diagonals)", aspect="equal")
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.legend(markerscale=3, fontsize=8)
    return captioned(
        figure,
        "Ellipticity of the flux of every image; the cross marks the mean.",
        "Scatter plot of the two ellipticity components, one colour a class, with the mean marked.",
    )
