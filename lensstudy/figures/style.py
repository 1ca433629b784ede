"""The style of every figure, and `show`, which puts one into a notebook and a report.

Units stand on the axes, a caption and an alternative text beside them, and every reader can tell the colours apart. A
function draws a matplotlib figure and says with `captioned` what it shows; a network keeps its colour through the whole
study (Okabe & Ito 2008).
"""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import seaborn as sns
from IPython.display import HTML, display
from matplotlib.collections import PolyCollection, QuadMesh, TriMesh
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import _ImageBase

__all__ = [
    "CHART",
    "IMAGES",
    "Note",
    "PALETTE",
    "WIDTH",
    "captioned",
    "colour",
    "draw_image",
    "image_row",
    "png",
    "show",
    "shows_images",
    "strip",
    "wrapped",
]

WIDTH = 7.5  # inches of a figure that fills the column of a report
CHART = "chart"  # the id of axes whose `imshow` draws numbers of an analysis and no image of the data
IMAGES = "magma"  # perceptually uniform, dark where there is no light
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
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
    palette=PALETTE,
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
    """The colour of a network: its family's, lighter for further architectures of the same group; a matched baseline is
    plain, whatever it is matched to, and lighter at equal parameters."""
    name, matched, to = network.partition("-matched")
    network = f"plain{'-restricted' * bool(to)}" if matched else name
    for start, value in _FAMILIES.items():
        if network.startswith(start):
            share = _SHADES.get(network.removeprefix(f"{start}-"), 0.0)
            red, green, blue = (c + share * (1 - c) for c in matplotlib.colors.to_rgb(value))
            return matplotlib.colors.to_hex((red, green, blue))
    return PALETTE[sum(map(ord, network)) % len(PALETTE)]


def png(figure: Figure, width: float = 1.5) -> bytes:
    """The figure as a PNG, crisp at `width` times its nominal size, which says in its own metadata what it shows."""
    buffer = io.BytesIO()
    mark = {"ShowsImages": "yes" if shows_images(figure) else "no", "Description": getattr(figure, "alt", "")}
    figure.savefig(buffer, format="png", dpi=figure.dpi * width, facecolor="white", metadata=mark)
    return buffer.getvalue()


def captioned(figure: Figure, caption: str, alt: str = "") -> Figure:
    """The figure, which knows from now on what `show` writes below it and says to those who cannot see it.

    Args:
        figure: a matplotlib figure.
        caption: what is seen, with `$...$` for mathematics.
        alt: the figure in words (default: the caption).
    """
    figure.caption, figure.alt = caption, alt or caption  # type: ignore[attr-defined]
    return figure


class Note(str):
    """A sentence in the place of a figure for which nothing is known: `show` writes it."""


def show(figure: Figure | Note, caption: str = "", alt: str = "", save_as: str | Path | None = None) -> None:
    """Show a figure in a notebook, with its caption and alternative text.

    The output carries a mark that says whether the figure shows pixels of images. A page that may not show the images
    of its data leaves out every picture whose mark does not say that it shows none.

    Args:
        figure: a matplotlib figure, which is closed, or a `Note`.
        caption: what is seen, with `$...$` for mathematics (default: what `plots` wrote for its figure).
        alt: the figure in words, for who cannot see it (default: what `plots` wrote, else the caption).
        save_as: also keep the PNG in this file.

    Raises:
        ValueError: for a figure without a caption.

    Example:
        >>> import matplotlib.pyplot as plt
        >>> figure, axes = plt.subplots()
        >>> show(figure, "Nothing yet.", "empty axes")  # doctest: +ELLIPSIS
        <IPython.core.display.HTML object>
    """
    if isinstance(figure, Note):
        display(HTML(f"<p><em>{html.escape(figure)}</em></p>"), metadata={"lensstudy": {"shows_images": False}})
        return
    alt = alt or caption or getattr(figure, "alt", "")  # words for another caption would not fit this one
    caption = caption or getattr(figure, "caption", "")
    if not caption:
        raise ValueError("a figure without a caption; expected show(figure, caption), what is seen in one sentence")
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


def wrapped(name: str, width: int = 18) -> str:
    """A name broken at its hyphens, so that as a title it keeps to its panel.

    Example:
        >>> wrapped("d4-mean-cnn-matched-parameters")
        'd4-mean-cnn-\nmatched-parameters'
    """
    return "\n".join(textwrap.wrap(name, width))


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
