"""Figures of real lenses: observations and fits, perturbed predictions, recovery.

A function takes what `lensstudy.observations` found, draws and returns a matplotlib figure that knows its caption;
`figures.style.show` displays it. Nothing is imported from there, so that pages without real lenses do not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lensstudy.figures.style import IMAGES, WIDTH, captioned, colour, image_row

__all__ = [
    "contact_sheet",
    "lens_light",
    "lens_model",
    "network_inputs",
    "ood_scores",
    "perturbed_predictions",
    "recovery_curves",
    "sensitivity_maps",
]


def lens_light(lenses: Sequence[Any]) -> Figure:
    """Draw every lens as observed, the fitted light of its galaxy, what is left, and what goes on.

    Args:
        lenses: `observations.lens.Lens` each.
    """
    rows = {
        str(lens): [
            lens.observation.image,
            lens.light.model,
            (lens.observation.image - lens.light.model) / lens.observation.noise,
            np.where(lens.bare.mask, 0, lens.bare.image),
        ]
        for lens in lenses
    }
    return captioned(
        _gallery(rows, ["observed", "lens light", "left over [sigma]", "goes on"], residual=2, limit=10),
        "Every image, the fitted light of the lens galaxy, what is left in units of the noise (red and blue: 10 "
        "sigma), and what goes on, masked pixels empty.",
        "Rows of images: observed lens, model of its light, residuals and the arcs that are left.",
    )


def lens_model(lens: Any, model: Any) -> Figure:
    """Draw one lens: as observed, its arcs, the model of them, what is left, and the source.

    Args:
        lens: an `observations.lens.Lens`.
        model: its `observations.lens_model.LensModel`.
    """
    names = ["observed", "arcs", "model", "left over [sigma]", "source"]
    figure, axes = plt.subplots(1, 5, figsize=(2 * WIDTH, 0.46 * WIDTH))
    half = lens.observation.field_of_view / 2
    top = float(np.quantile(model.image[model.used], 0.998))
    shades = {"cmap": IMAGES, "vmin": -0.1 * top, "vmax": top}
    arcs = np.where(lens.bare.mask, np.nan, lens.bare.image - model.galaxy)
    panels = [
        (np.arcsinh(lens.observation.image / (0.3 * top)), {"cmap": IMAGES, "vmax": math.asinh(8)}),
        (arcs, shades),
        (model.image, shades),
        (np.where(model.used, model.residuals, np.nan), {"cmap": "RdBu_r", "vmin": -5, "vmax": 5}),
    ]
    for axis, (image, colours) in zip(axes, panels, strict=False):
        axis.imshow(image, origin="lower", extent=[-half, half] * 2, interpolation="nearest", **colours)
        reach = min(half, 1.2 * float(np.abs(model.observation.grid()[0][0][model.used.any(0)]).max()))
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    (x, y), side = model.mesh.extent, 120
    x, y = (np.linspace(low, high, side + 2)[1:-1] for low, high in (x, y))
    source = model.mesh.design(*(axis.ravel() for axis in np.meshgrid(x, y))) @ model.solution.source
    axes[4].imshow(source.reshape(side, side), origin="lower", extent=[x[0], x[-1], y[0], y[-1]], cmap=IMAGES)
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=6)
        axis.grid(False)
    return captioned(
        figure,
        f"{lens}: Einstein radius {model.parameters['einstein_radius']:.3f} arcsec, chi square a pixel "
        f"{model.chi2:.2f}. Red and blue: 5 sigma. Axes in arcseconds.",
        "Five images: observed lens, its arcs, the model, residuals, the source.",
    )


def contact_sheet(lenses: Mapping[str, Mapping[str, np.ndarray]], columns: int = 5) -> Figure:
    """Draw every lens as observed and without the light of its galaxy, masked pixels grey.

    Args:
        lenses: by name, the images `observed`, `arcs` and `mask` `(H, H)`.
        columns: lenses side by side.
    """
    columns = max(min(columns, len(lenses)), 1)
    rows = max(-(-len(lenses) // columns), 1)
    size = (WIDTH, 0.57 * WIDTH / columns * rows)
    figure, axes = plt.subplots(rows, 2 * columns, figsize=size, dpi=80, squeeze=False, layout="none")
    for axis in axes.ravel():
        axis.axis("off")
    shades = plt.get_cmap(IMAGES).with_extremes(bad="0.6")
    for (name, planes), (whole, bare) in zip(lenses.items(), axes.reshape(-1, 2), strict=False):
        arcs = np.where(planes["mask"], np.nan, planes["arcs"])
        y, x = np.indices(arcs.shape) - (len(arcs) - 1) / 2
        top = max(float(np.nanquantile(arcs[np.hypot(x, y) > len(arcs) / 20], 0.995)), 1e-12)
        whole.imshow(np.arcsinh(planes["observed"] / (0.3 * top)), cmap=IMAGES, origin="lower", vmax=math.asinh(10))
        bare.imshow(arcs, cmap=shades, origin="lower", vmin=-0.3 * top, vmax=top, interpolation="nearest")
        whole.set_title(name, fontsize=4, pad=1)
    figure.subplots_adjust(0, 0, 1, 0.985, 0.02, 0.12)
    return captioned(
        figure,
        "Every lens as observed (asinh) and without the light of its galaxy (linear, from -0.3 to 1 of the brightest "
        "arcs); masked pixels are grey.",
        f"Pairs of images of {len(lenses)} lenses.",
    )


def network_inputs(network: Any, lenses: Sequence[Any], most: int = 6) -> Figure:
    """Draw what a network was trained on, one image of each class, and what it is given of the lenses.

    Args:
        network: an `observations.distribution.SubstructureNetwork`.
        lenses: `observations.lens.Lens` each; the first `most` are shown.
    """
    images = [image[0] for image in network.examples.values()]
    images += [lens.seen_by(network)[0, 0] for lens in lenses[:most]]
    titles = [*(f"trained on:\n{name}" for name in network.examples), *(_short(str(lens)) for lens in lenses[:most])]
    return captioned(
        image_row([np.arcsinh(image / network.noise / 3) for image in images], titles),
        f"What {network.label} was trained on, and what it is given now, on one brightness scale (asinh).",
        "A row of lenses like the training images, then the observed ones in the same pixels.",
    )


def ood_scores(check: Any) -> Figure:
    """Draw the OOD scores of held-out images as a histogram, one panel a network, and those of the lenses as marks.

    Args:
        check: an `observations.validation.DistributionCheck`.
    """
    count = len(check.held_out)
    figure, axes = plt.subplots(count, 1, figsize=(WIDTH, 1.6 * count + 0.4), squeeze=False, sharex=True)
    for axis, (network, values) in zip(axes[:, 0], check.held_out.items(), strict=True):
        scores = check.scores[network].to_numpy()
        edges = np.geomspace(max(values.min(), 1e-3) * 0.9, max(values.max(), *scores) * 1.1, 50)
        axis.hist(values, edges, color=colour(network.split(" ")[0]), alpha=0.5)
        axis.axvline(check.threshold[network], color="0.3", ls="--", lw=0.9)
        axis.plot(scores, axis.get_ylim()[1] * (0.9 - 0.8 * np.arange(len(scores)) / len(scores)), "kv", ms=5)
        axis.set(xscale="log", ylabel="images")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_title(network, fontsize=8, loc="left")
    axes[-1, 0].set_xlabel("OOD score")
    return captioned(
        figure,
        "OOD scores of held-out images like those of the training (bars) and of the lenses (triangles); beyond the "
        "dashed line the network abstains.",
        "Histograms of OOD scores, one panel a network, with those of the lenses marked.",
    )


def perturbed_predictions(network: str, lenses: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw one network's predictions for every lens (a panel each) under every kind of change (a line each).

    Args:
        network: its label.
        lenses: probabilities by lens and kind of change, the lens as observed first; see `observations.consistency`.
    """
    figure, axes = plt.subplots(1, len(lenses), figsize=(WIDTH, 2.8), sharey=True, sharex=True, squeeze=False)
    for axis, (lens, kinds) in zip(axes[0], lenses.items(), strict=True):
        for line, values in enumerate(kinds.values()):
            axis.plot(values, np.full(len(values), line), "o", ms=4, alpha=0.6, color=colour(network.split(" ")[0]))
        axis.axvline(np.mean(next(iter(kinds.values()))), color="0.4", ls="--", lw=0.8)
        axis.set(xlim=(-0.05, 1.05), xticks=[0, 1])
        axis.set_title(_short(lens, max(84 // len(lenses), 6)), fontsize=8 if len(lenses) < 5 else 6)
    kinds = list(dict.fromkeys(kind for lens in lenses.values() for kind in lens))
    axes[0, 0].set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.5, -0.5))
    axes[0, 0].set_yticklabels(kinds)
    figure.supxlabel("probability of substructure", fontsize=9)
    return captioned(
        figure,
        f"{network}: its predictions for each lens (panels) as the image changes in ways that have nothing to do with "
        "dark matter (lines). Dashed: the image as observed.",
        "Dots of probabilities from 0 to 1, one panel a lens, one line a kind of change.",
    )


def recovery_curves(recovery: Any) -> Figure:
    """Draw the share recovered against the mass put in: a panel a lens, a line a network.

    Args:
        recovery: an `observations.recovery.Recovery`.
    """
    curves = recovery.shares
    figure, axes = plt.subplots(1, len(curves), figsize=(WIDTH, 2.6), sharey=True, squeeze=False)
    for axis, (lens, lines) in zip(axes[0], curves.items(), strict=True):
        for network, shares in lines.items():
            axis.plot(recovery.masses, shares, "o-", ms=3, lw=1.2, color=colour(network.split(" ")[0]), label=network)
        axis.axhline(recovery.false_alarms, color="0.5", ls=":", lw=0.9)
        axis.axhline(0.5, color="0.5", ls="--", lw=0.9)
        axis.set(xscale="log", ylim=(-0.03, 1.03))
        axis.tick_params(axis="x", labelsize=7)
        axis.set_title(_short(lens, max(84 // len(curves), 6)), fontsize=8 if len(curves) < 5 else 6)
    axes[0, 0].set_ylabel("share recovered")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="outside upper center", ncols=2)
    figure.supxlabel("mass of the subhalo [solar masses]", fontsize=9)
    return captioned(
        figure,
        f"Share of subhalos recovered against their mass, {recovery.draws} places and draws of noise each (standard "
        f"error near one half: {recovery.error:.0%}). Dotted: what chance gives; dashed: one half.",
        "Curves of the share recovered against mass, one panel a lens and one line a network.",
    )


def sensitivity_maps(recovery: Any) -> Figure:
    """Draw from which mass on the arcs would show one subhalo, place by place: a panel a lens.

    Args:
        recovery: an `observations.recovery.Recovery`.
    """
    figure, axes = plt.subplots(1, len(recovery.shows), figsize=(WIDTH, 2.9), squeeze=False)
    logarithms = np.log10(np.concatenate([shows[:, 2] for shows in recovery.shows.values()]))
    low, high = np.quantile(logarithms, [0.01, 0.9])
    for axis, (lens, (x, y, mass)) in zip(axes[0], ((k, v.T) for k, v in recovery.shows.items()), strict=True):
        drawn = axis.scatter(x, y, c=np.log10(mass), s=4, cmap=IMAGES, vmin=low, vmax=high)
        reach = 1.1 * max(np.abs(x).max(), np.abs(y).max())
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axis.tick_params(labelsize=6)
        axis.grid(False)
        axis.set_title(_short(lens, max(84 // len(recovery.shows), 6)), fontsize=8 if len(recovery.shows) < 5 else 6)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, aspect=40, extend="max")
    bar.set_label("logarithm of the mass within 1 kpc [solar masses]", fontsize=8)
    return captioned(
        figure,
        "From which mass within 1 kpc on the arcs would show one subhalo: chi square falls by 50, to first order, with "
        "the mass and the source of the smooth model free. Arcseconds from the lens.",
        "Maps of the arcs, one a lens, coloured by the mass that would show there.",
    )


def _short(name: str, longest: int = 14) -> str:
    """The name of a lens and its band, in two lines that fit over a narrow panel."""
    lens, _, band = name.partition(" ")
    return f"{lens if len(lens) <= longest else lens[: longest - 1] + '…'}\n{band}".rstrip()


def _gallery(rows: Mapping[str, Sequence[np.ndarray]], columns: Sequence[str], residual: int, limit: float) -> Figure:
    """One row of images `(H, W)` a lens, under the names of the `columns`; the one numbered `residual` in red and blue
    from -`limit` to `limit`, the others with an asinh stretch of their own."""
    side = WIDTH / (len(columns) + 0.8)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(WIDTH, side * len(rows) + 0.3), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for number, (axis, image) in enumerate(zip(row, images, strict=True)):
            if number == residual:
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
