"""The style of every figure, and the figures of data, networks and trainings.

Units stand on the axes, a caption and an alternative text beside them, and every reader can tell the colours apart.

A function draws and returns a matplotlib figure; `show(figure, caption, alt)` puts it into a notebook as an HTML figure
that reports number. A network keeps its colour through the whole study (Okabe & Ito 2008).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns
from IPython.display import HTML, display
from matplotlib.collections import PolyCollection, QuadMesh, TriMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import _ImageBase

__all__ = [
    "alternatives",
    "class_means",
    "colour",
    "comparison",
    "confusion_matrices",
    "draw_image",
    "examples",
    "image_row",
    "invariance_curves",
    "live_curves",
    "orientation",
    "png",
    "populations",
    "radial_profiles",
    "range_test",
    "recalls",
    "residuals",
    "roc_curves",
    "schedule",
    "show",
    "slices",
    "strip",
    "rotation_changes",
    "training_curves",
]

WIDTH = 7.5  # inches of a figure that fills the column of a report
CHART = "chart"  # the id of axes whose `imshow` draws numbers of an analysis and no image of the data
IMAGES = "magma"  # perceptually uniform, dark where there is no light
_OKABE_ITO = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
# Equivariant networks in cool colours, plain ones in warm: the contrast that the study is about. Other architectures of
# the same group get a lighter shade.
_FAMILIES = {
    "d4": "#0072B2",
    "c4": "#56B4E9",
    "c8": "#009E73",
    "d8": "#004D40",
    "resnet18": "#D55E00",
    "plain": "#E69F00",
    "resnet34": "#8C2D04",
    "p4m": "#7A5195",
    "p4": "#CC79A7",
    "so2": "#A6761D",
    "o2": "#3B1F5B",
    "interpolation": "#7F7F7F",
}
_SHADES = {"steerable-cnn": 0.0, "resnet": 0.3, "wide-resnet": 0.5, "restricted": 0.3}

sns.set_theme(
    context="notebook",
    font_scale=0.82,
    style="ticks",
    palette=_OKABE_ITO,
    rc={
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titleweight": "normal",
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "font.family": "DejaVu Sans",
    },
)


def colour(network: str) -> str:
    """The colour of a network: its family's, lighter for further architectures of the same group."""
    for start, value in _FAMILIES.items():
        if network.startswith(start):
            share = _SHADES.get(network.removeprefix(f"{start}-"), 0.0)
            red, green, blue = (c + share * (1 - c) for c in matplotlib.colors.to_rgb(value))
            return matplotlib.colors.to_hex((red, green, blue))
    return _OKABE_ITO[sum(map(ord, network)) % len(_OKABE_ITO)]


def png(figure: Figure, width: float = 1.5) -> bytes:
    """The figure as a PNG, crisp at `width` times its nominal size, which says in its own metadata what it shows."""
    buffer = io.BytesIO()
    mark = {"ShowsImages": "yes" if shows_images(figure) else "no"}
    figure.savefig(buffer, format="png", dpi=figure.dpi * width, facecolor="white", metadata=mark)
    return buffer.getvalue()


def show(figure: Figure, caption: str, alt: str, save_as: str | Path | None = None) -> None:
    """Show a figure in a notebook, with its caption and alternative text.

    The output carries a mark that says whether the figure shows pixels of images. A page that may not show the images
    of its data leaves out every picture whose mark does not say that it shows none.

    Args:
        figure: a matplotlib figure; it is closed.
        caption: what is seen, with `$...$` for mathematics.
        alt: the figure in words, for who cannot see it.
        save_as: also keep the PNG in this file.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> figure, axes = plt.subplots()
        >>> show(figure, "Nothing yet.", "empty axes")  # doctest: +ELLIPSIS
        <IPython.core.display.HTML object>
    """
    mark = {"lensstudy": {"shows_images": shows_images(figure)}}
    picture = png(figure)
    plt.close(figure)
    if save_as:
        Path(save_as).parent.mkdir(parents=True, exist_ok=True)
        Path(save_as).write_bytes(picture)
    source = "data:image/png;base64," + base64.b64encode(picture).decode()
    width = round(93 * figure.get_figwidth())  # so that letters have one size in all figures
    image = f'<img alt="{html.escape(alt)}" width="{width}" style="max-width:100%;height:auto" src="{source}">'
    display(
        HTML(f'<figure class="lensstudy-figure">{image}<figcaption>{html.escape(caption)}</figcaption></figure>'),
        metadata=mark,
    )


def shows_images(figure: Figure) -> bool:
    """Whether pixels of images are drawn in `figure`, insets and annotations included: anything drawn as an image or
    a mesh of colours, unless its axes say that they are a chart (`axes.set_gid(CHART)`), such as a coloured table."""

    def pixels(artist) -> bool:
        mesh = isinstance(artist, QuadMesh | TriMesh | ContourSet)
        coloured = isinstance(artist, PolyCollection) and artist.get_array() is not None
        return mesh or coloured or isinstance(artist, _ImageBase)

    return any(artist.axes is None or artist.axes.get_gid() != CHART for artist in figure.findobj(pixels))


def draw_image(axes, image: np.ndarray, pixel_scale: float | None = None, symmetric: bool = False, **limits) -> None:
    """One image on its axes, north of the array up; with a bar of one arcsecond where the scale is known."""
    if symmetric:
        reach = np.abs(image).max() or 1
        limits = {"vmin": -reach, "vmax": reach, **limits}
    axes.imshow(image, cmap="RdBu_r" if symmetric else IMAGES, interpolation="nearest", origin="lower", **limits)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if pixel_scale:
        size = image.shape[-1]
        length = 1 / pixel_scale
        if length < 0.8 * size:
            ink = "black" if symmetric else "white"
            axes.plot([0.06 * size, 0.06 * size + length], [0.07 * size] * 2, color=ink, lw=1.5, solid_capstyle="butt")
            axes.text(0.06 * size, 0.1 * size, '1"', color=ink, fontsize=7, va="bottom")


def image_row(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    pixel_scale: float | None = None,
    symmetric: Sequence[bool] | None = None,
) -> Figure:
    """Images `(H, W)` side by side under their titles; those that are `symmetric` about zero in red and blue."""
    symmetric = symmetric or [False] * len(images)
    figure, axes = plt.subplots(
        1, len(images), figsize=(min(1.6 * len(images), WIDTH), min(1.6, WIDTH / len(images)) + 0.35), squeeze=False
    )
    for axis, image, title, signed in zip(axes[0], images, titles, symmetric, strict=True):
        draw_image(axis, image, pixel_scale, signed)
        axis.set_title(title, fontsize=8)
    return figure


def strip(images: Sequence[np.ndarray], symmetric: Sequence[bool] | None = None, height: int = 220) -> bytes:
    """Images `(H, W)` side by side as a PNG, without axes or titles: ten times faster than a figure, for widgets."""
    pictures = []
    for image, signed in zip(images, symmetric or [False] * len(images), strict=True):
        reach = np.abs(image).max() or 1
        low, high = (-reach, reach) if signed else (image.min(), image.max())
        shades = plt.get_cmap("RdBu_r" if signed else IMAGES)((image[::-1] - low) / ((high - low) or 1), bytes=True)
        pictures.append(np.pad(shades[..., :3], ((0, 0), (0, 2), (0, 0)), constant_values=255))
    row = PIL.Image.fromarray(np.concatenate(pictures, axis=1))
    buffer = io.BytesIO()
    row.resize((round(row.width * height / row.height), height), PIL.Image.Resampling.NEAREST).save(buffer, "png")
    return buffer.getvalue()


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
                axis.hist(mine, bins=bins, histtype="step", lw=1.6, color=_OKABE_ITO[k], label=name)
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
        axes.plot(radius * (pixel_scale or 1), middle, label=name, color=_OKABE_ITO[k])
        axes.fill_between(radius * (pixel_scale or 1), low, high, color=_OKABE_ITO[k], alpha=0.15, lw=0)
    axes.set(xlabel="radius [arcsec]" if pixel_scale else "radius [pixels]", ylabel="brightness")
    axes.legend()
    return figure


def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and validation AUC against the epoch; one line a training, the colour of its network."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
    for name, history in histories.items():
        ink, whose = colour(name), f"{name}, " if name else ""
        left.plot(history["epoch"], history["train_loss"], color=ink, ls=":", marker=".", label=f"{whose}training")
        left.plot(history["epoch"], history["validation_loss"], color=ink, marker=".", label=f"{whose}validation")
        right.plot(history["epoch"], history["validation_auc"], color=ink, marker=".", label=name)
    left.set(xlabel="epoch", ylabel="cross-entropy [nats]")
    right.set(xlabel="epoch", ylabel="validation AUC")
    for axes in (left, right):
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    left.legend(fontsize=8)
    return figure


def live_curves() -> Callable[[pd.DataFrame], None]:
    """A figure that is drawn again in its place each time it is called with the history so far."""
    place = display(HTML(""), display_id=True)

    def draw(history: pd.DataFrame) -> None:
        figure = training_curves({"": history})
        plt.close(figure)
        place.update(figure)

    return draw


def range_test(found: pd.DataFrame, chosen: float) -> Figure:
    """Training loss against a growing learning rate, and the highest learning rate of the schedule."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    axes.plot(found["learning_rate"], found["loss"], color=_OKABE_ITO[0])
    axes.axvline(chosen, color=_OKABE_ITO[1], ls="--", label=f"learning rate of the schedule, {chosen:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed [nats]")
    axes.legend(fontsize=8)
    return figure


def recalls(history: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Share of each class that is recognised, epoch by epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    for k, name in enumerate(classes):
        axes.plot(history["epoch"], history[f"recall_{name}"], color=_OKABE_ITO[k], marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="share recognised", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def alternatives(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What each change of one setting does to the validation AUC; columns `settings` and `difference` a network."""
    labels = next(iter(tables.values()))["settings"].tolist()[1:]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.3 * len(labels)))
    for k, (name, table) in enumerate(tables.items()):
        offset = 0.15 * (k - (len(tables) - 1) / 2)
        axes.plot(table["difference"][1:], np.arange(len(labels)) + offset, "o", color=colour(name), label=name)
    axes.axvline(0, color="0.5", lw=1)
    axes.set(
        yticks=range(len(labels)), yticklabels=labels, xlabel="validation AUC, less that of the study's own settings"
    )
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return figure


def slices(trials: pd.DataFrame, name: str) -> Figure:
    """Validation AUC of each trial against one of its settings."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    number = pd.api.types.is_float_dtype(trials[name])
    for network, group in trials.groupby("network", sort=False):
        across = group[name] if number else group[name].astype(str)
        for state, fill in (("complete", colour(network)), ("pruned", "none")):
            chosen = group["state"] == state
            label = network if state == "complete" else None
            axes.scatter(across[chosen], group["auc"][chosen], ec=colour(network), fc=fill, label=label)
    if number and trials[name].min() > 0 and trials[name].max() > 5 * trials[name].min():
        axes.set(xscale="log")
    axes.set(xlabel=name, ylabel="validation AUC")
    axes.legend(fontsize=8)
    return figure


def roc_curves(curves: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Figure:
    """ROC curves, one panel a class; `curves[class][network] = (false positive rate, true positive rate)`."""
    figure, axes = plt.subplots(1, len(curves), figsize=(min(3.6 * len(curves), WIDTH), 3), squeeze=False, sharey=True)
    for axis, (title, networks) in zip(axes[0], curves.items(), strict=True):
        for network, (false_positive, true_positive) in networks.items():
            axis.plot(false_positive, true_positive, color=colour(network), label=network)
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--")
        axis.set(title=f"{title} against the rest", xlabel="false positive rate", aspect="equal")
    axes[0, 0].set_ylabel("true positive rate")
    axes[0, -1].legend(fontsize=8, loc="lower right")
    return figure


def confusion_matrices(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Share of each true class (rows) that a network called each class (columns)."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(min(2.8 * len(matrices), WIDTH), 2.7), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        sns.heatmap(
            matrix, annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True, ax=axis,
            xticklabels=classes, yticklabels=classes,
        )  # fmt: skip
        axis.set_gid(CHART)
        axis.set(title=name, xlabel="predicted")
        axis.set_ylabel("true" if axis is axes[0, 0] else "")
    return figure


def comparison(table: pd.DataFrame, metric: str = "auc", label: str = "test AUC") -> Figure:
    """The headline: `metric` of every network under every perturbation of the test images, with intervals,
    from `evaluation.summarise`."""
    networks = list(dict.fromkeys(table["network"]))
    perturbations = list(dict.fromkeys(table["perturbation"]))
    figure, axes = plt.subplots(figsize=(WIDTH, 1 + 0.6 * len(networks)))
    markers = ["o", "s", "D", "^"]
    for y, network in enumerate(networks):
        for k, name in enumerate(perturbations):
            row = table[(table["network"] == network) & (table["perturbation"] == name)].iloc[0]
            height = y + 0.2 * (k - (len(perturbations) - 1) / 2)
            axes.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [height] * 2, color=colour(network), lw=2)
            axes.plot(row[metric], height, markers[k % 4], color=colour(network), ms=6, mfc="white" if k else None)
    handles = [
        plt.Line2D([], [], ls="", marker=markers[k % 4], color="0.3", mfc="white" if k else None, label=name)
        for k, name in enumerate(perturbations)
    ]
    axes.legend(
        handles=handles, title="test images", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    axes.set(yticks=range(len(networks)), xlabel=label, ylim=(len(networks) - 0.5, -0.5))
    axes.set_yticklabels(networks)
    return figure


def orientation(e1: np.ndarray, e2: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> Figure:
    """Flux ellipticity of every image, with the mean of all as a cross."""
    figure, axes = plt.subplots(figsize=(4.6, 4.2))
    for k, name in enumerate(classes):
        axes.scatter(e1[labels == k], e2[labels == k], s=5, alpha=0.4, lw=0, color=_OKABE_ITO[k], label=name)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.axvline(0, color="0.6", lw=0.8)
    axes.plot(e1.mean(), e2.mean(), "+", color="black", ms=14, mew=2)
    reach = 1.1 * np.quantile(np.abs([e1, e2]), 0.998)
    axes.set(xlabel="$e_1$ (along the axes)", ylabel="$e_2$ (along the diagonals)", aspect="equal")
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.legend(markerscale=3, fontsize=8)
    return figure


def schedule(rate: Sequence[float], steps_per_epoch: float) -> Figure:
    """Learning rate against the epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 2.4))
    axes.plot((np.arange(len(rate)) + 1) / steps_per_epoch, rate, color=_OKABE_ITO[0])
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    return figure


def rotation_changes(changes: Mapping[str, np.ndarray], orientations: int) -> Figure:
    """Share of images of which a probability changes by more than a given amount over rotations; the 95th percentile of
    these changes is a network's rotation consistency."""
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for name, values in changes.items():
        values = np.sort(values)
        axes.step(np.maximum(values, 1e-4), 1 - np.arange(len(values)) / len(values), color=colour(name), label=name)
    axes.set(
        xscale="log",
        xlim=(1e-4, 1),
        ylim=(0, 1.02),
        xlabel=f"largest change of a probability over {orientations} orientations",
        ylabel="share of images that change more",
    )
    axes.legend(fontsize=8)
    return figure


def invariance_curves(degrees: np.ndarray, curves: Mapping[str, np.ndarray], label: str) -> Figure:
    """Change of a network's prediction as the image is rotated; one line a network."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    for name, values in curves.items():
        axes.plot(degrees, values, color=colour(name), label=name)
    axes.set(xlabel="rotation of the image [degrees]", ylabel=label, xticks=np.arange(0, 361, 45))
    axes.legend(fontsize=8, ncols=2)
    return figure
