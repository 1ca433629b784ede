"""Interactive parts of the notebooks: controls beside a picture of fixed size, alive in JupyterLab and in Voila.

A function takes what is to be explored and returns one widget, drawn once already, so that a page without a kernel
shows its first state. Pictures are drawn as PNG by `style.strip` or `style.png` and fit a laptop's window.
"""

from __future__ import annotations

import asyncio
import html
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from torch import Tensor

from lensstudy.data.dataset import LensDataset
from lensstudy.data.rotation import rotate
from lensstudy.figures.failures import stretched
from lensstudy.figures.style import PALETTE, png, strip
from lensstudy.figures.training import curves
from lensstudy.lensing.rendering import render
from lensstudy.networks.architectures import Network
from lensstudy.networks.description import feature_maps
from lensstudy.observations.lens_model import expected_arcs
from lensstudy.observations.subhalos import Subhalo
from lensstudy.progress import in_batch
from lensstudy.study import Study

if TYPE_CHECKING:
    from lensstudy.deployment.application import Application
    from lensstudy.deployment.predictor import Predictor
    from lensstudy.observations.distribution import SubstructureNetwork
    from lensstudy.observations.lens import Lens

__all__ = [
    "browse_images",
    "build_lens",
    "explore_predictions",
    "explorer",
    "mistakes",
    "rotate_features",
    "rotate_lens",
    "subhalo_on_the_ring",
    "train",
    "switch_substructure",
]

KNOWN = {
    "einstein_radius": "Einstein radius [arcsec]",
    "substructure_mass": "substructure [solar masses]",
    "detectability_refit": "detectability after re-fitting the macromodel [sigma]",
}
HEIGHT = 260  # pixels of a picture: controls, picture and the cell above fit a window of 700
ROW = 180  # of a picture of five images side by side, which fit its width


def explorer(
    controls: Sequence[widgets.Widget], draw: Callable[..., bytes | tuple[bytes, str]], height: int = HEIGHT
) -> widgets.Widget:
    """Controls above a picture that is drawn again whenever one of them changes.

    Args:
        controls: widgets with a `value` and a `description`.
        draw: takes the values of the controls, in their order, and returns the picture as PNG, or that and a text in
            HTML to stand beside it. What comes from outside must be escaped in it.
        height: pixels of the picture.
    """
    canvas = _canvas(height)
    words = widgets.HTML(layout=widgets.Layout(flex="1 1 200px"))  # beside the picture, or below it in a narrow window

    def again(_=None) -> None:
        drawn = draw(*(control.value for control in controls))
        canvas.value, words.value = drawn if isinstance(drawn, tuple) else (drawn, "")

    for control in controls:
        control.observe(again, "value")
        control.layout.width = "280px"  # two beside each other in half a laptop's window
    again()
    return widgets.VBox(
        [widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap")) for row in (list(controls), [canvas, words])]
    )


def _canvas(height: int) -> widgets.Image:
    """A place for a picture of that many pixels in height; one that is wider than the window is shown smaller."""
    layout = {"height": f"{height}px", "max_width": "100%", "object_fit": "contain", "object_position": "0 0"}
    return widgets.Image(format="png", layout=layout)


def explore_predictions(application: Application) -> widgets.Widget:
    """Choose an image, rotate it, add noise: what the network sees, the share of each pixel and what it predicts."""
    names = list(application.images)
    controls = [
        widgets.Dropdown(options=[(name.split("/")[-1], i) for i, name in enumerate(names)], description="image"),
        widgets.FloatSlider(min=0, max=360, step=5, description="rotation [°]"),
        widgets.FloatSlider(min=0, max=0.5, step=0.01, description="noise/peak"),
    ]

    def draw(index: int, degrees: float, noise: float) -> tuple[bytes, str]:
        image, probabilities, ood_score = application.predict(names[index], degrees, noise)
        bars = "".join(
            f"{html.escape(name)} <meter value='{p:.3f}' aria-label='{html.escape(name)}'></meter> {p:.3f}<br>"
            for name, p in zip(application.card.classes, probabilities, strict=True)
        )
        reason = "out of distribution: no class is named" if ood_score > 1 else application.row(names[index])["reason"]
        said = f"{bars}OOD score {ood_score:.2f}<br>{html.escape(reason)}"
        return strip(application.explain(image, steps=2), [False, True], HEIGHT), said

    return explorer(controls, draw)


def browse_images(dataset: LensDataset) -> widgets.Widget:
    """Leaf through a data set: choose a class and an image, and see it with what the catalogue says of it."""
    rows = {name: np.flatnonzero(dataset.catalogue["class"] == name) for name in dataset.classes}
    most = max(len(of_class) for of_class in rows.values())
    controls = [
        widgets.Dropdown(options=dataset.classes, description="class"),
        widgets.IntSlider(max=most - 1, description="image"),
    ]

    def draw(name: str, number: int) -> tuple[bytes, str]:
        row = rows[name][min(number, len(rows[name]) - 1)]
        about = dataset.catalogue.iloc[row].dropna()
        said = [html.escape(str(about[key])) for key in ("name", "part", "excluded_because") if about.get(key)]
        said += [f"{words}: {about[key]:.3g}" for key, words in KNOWN.items() if key in about]
        return strip([np.nan_to_num(dataset.images[row].mean(0))], height=HEIGHT), "<br>".join(said)

    return explorer(controls, draw)


def build_lens() -> widgets.Widget:
    """Build a lens with a vortex by hand: its image, and beside it what the substructure adds to it."""
    sliders = {
        "einstein_radius": widgets.FloatSlider(1.2, min=0.3, max=2, step=0.05, description="θ_E [arcsec]"),
        "lens_e1": widgets.FloatSlider(0.1, min=-0.4, max=0.4, step=0.02, description="ellipticity"),
        "shear_1": widgets.FloatSlider(0.05, min=-0.3, max=0.3, step=0.01, description="shear"),
        "source_x": widgets.FloatSlider(0.05, min=-1, max=1, step=0.01, description="source x"),
        "source_y": widgets.FloatSlider(0.1, min=-1, max=1, step=0.01, description="source y"),
        "source_radius": widgets.FloatSlider(0.25, min=0.05, max=0.8, step=0.01, description="source R"),
        "vortex_mass": widgets.FloatLogSlider(1e10, min=8, max=11.5, step=0.1, description="vortex [M☉]"),
        "vortex_half_length": widgets.FloatSlider(0.8, min=0.03, max=3, step=0.01, description="half-length"),
        "vortex_angle": widgets.FloatSlider(0.5, min=0, max=3.14, step=0.02, description="direction"),
    }

    def draw(*values: float) -> tuple[bytes, str]:
        lens = dict(zip(sliders, values, strict=True)) | {"source_amplitude": 1.0, "source_index": 1.0}
        image, smooth = (render(lens, image_size=64, smooth=smooth)[0, 0] for smooth in (False, True))
        share = np.abs(image - smooth).max() / image.max()
        words = f"left: the lens<br>right: what the vortex adds,<br>at most {share:.1%} of the peak"
        return strip([image, image - smooth], [False, True], HEIGHT), words

    return explorer(list(sliders.values()), draw)


def rotate_features(network: Network, lens: Tensor, channels: int = 4) -> widgets.Widget:
    """Rotate a lens `(1, C, S, S)` and watch the first `channels` feature maps of a network's first layer follow."""

    def draw(degrees: float) -> bytes:
        rotated = rotate(lens, degrees)
        maps = feature_maps(network, rotated)["relu1"][0, :channels].numpy()
        return strip([rotated[0].mean(0).numpy(), *maps], height=ROW)

    angle = widgets.FloatSlider(min=0, max=360, step=5, description="rotation [°]")
    return explorer([angle], draw, ROW)


def subhalo_on_the_ring(lens: Lens, networks: Sequence[SubstructureNetwork]) -> widgets.Widget:
    """Put a subhalo onto the ring of a lens's smooth model, and see what it changes and what networks make of it.

    Args:
        lens: with a smooth model, see `Lens.modelled`.
        networks: whose probabilities of substructure stand beside the picture, with and without the subhalo.
    """
    noise, radius = lens.observation.noise, lens.model.parameters["einstein_radius"]
    draw_of_noise = np.random.default_rng(0).normal(0, noise)
    without = {one.label: one.substructure(lens.seen_by(one, lens.model.image + draw_of_noise))[0] for one in networks}

    def draw(mass: float, degrees: int) -> tuple[bytes, str]:
        x = lens.light.center[0] + radius * math.cos(math.radians(degrees))
        y = lens.light.center[1] + radius * math.sin(math.radians(degrees))
        rows = ""
        for one in networks:
            image = expected_arcs(lens.model, [Subhalo(x, y, mass)], one.profile)
            given = one.substructure(lens.seen_by(one, image + draw_of_noise))[0]
            rows += f"<tr><td>{html.escape(one.label)}</td><td>{without[one.label]:.3f}</td><td>{given:.3f}</td></tr>"
        change = (expected_arcs(lens.model, [Subhalo(x, y, mass)]) - lens.model.image) / noise
        text = (
            f"<p>{mass:.1e} solar masses: up to {np.abs(change).max():.1f} sigma a pixel</p><table><tr><th>network</th>"
            f"<th>without</th><th>with subhalo</th></tr>{rows}</table>"
        )
        picture = np.arcsinh((lens.model.image + change * noise + draw_of_noise) / np.median(noise) / 3)
        return strip([picture, change], [False, True], HEIGHT), text

    return explorer(
        [
            widgets.FloatLogSlider(value=1e10, min=8, max=11, step=0.25, description="mass", readout_format=".1e"),
            widgets.IntSlider(value=0, min=0, max=350, step=10, description="direction"),
        ],
        draw,
    )


async def train(dataset: LensDataset, study: Study, folder: str | Path | None = None) -> Path:
    """Train as `fit` does, beside curves that grow with each epoch and a button that stops the training.

    The training runs in a thread of its own, so that the kernel hears the button meanwhile: write `await train(...)` in
    a cell. The training stops after the epoch that is under way and keeps the best checkpoint so far; asked again, it
    goes on. Whoever interrupts the kernel stops it likewise. In a batch nothing is drawn.

    Returns:
        The run folder.
    """
    from lensstudy.training.fitting import fit  # Lightning takes seconds, and the other widgets need none of it

    study = study.training()
    if in_batch():
        return fit(dataset, study, folder=folder)
    stop = threading.Event()
    button = widgets.Button(description="Stop, keep the best", icon="stop", layout=widgets.Layout(width="auto"))
    canvas = _canvas(HEIGHT)
    words = widgets.Label()

    def click(_) -> None:
        stop.set()
        button.disabled, words.value = True, "the training stops after this epoch"

    def watch(history: pd.DataFrame) -> bool:
        figure = curves(history, epochs=study.epochs)
        canvas.value = png(figure)
        plt.close(figure)
        if not shown:  # only now: a training that is there already has no curves that grow
            shown.append(display(widgets.VBox([widgets.HBox([button, words]), canvas])))
        button.disabled = stop.is_set() or len(history) == study.epochs
        return stop.is_set()

    shown: list = []
    button.on_click(click)
    try:
        return await asyncio.to_thread(fit, dataset, study, folder=folder, watch=watch)
    finally:
        stop.set()  # a thread does not end with the cell that waits for it
        button.disabled, words.value = True, ""


def rotate_lens(image: np.ndarray, predictors: Mapping[str, Predictor], degrees: int = 0) -> widgets.Widget:
    """A lens `(C, H, W)` under a slider that rotates it, beside what each network says of it."""
    first = next(iter(predictors.values()))

    def draw(angle: int) -> tuple[bytes, str]:
        bars = [_bars(name, one, one.probabilities(image[None], angle)[0]) for name, one in predictors.items()]
        return strip([first.seen(image[None], angle)[0].numpy().mean(0)]), "".join(bars)

    slider = widgets.IntSlider(value=degrees, min=0, max=360, step=5, description="rotation [°]")
    return explorer([slider], draw)


def switch_substructure(
    observed: np.ndarray, smooth: np.ndarray, classes: Sequence[str], predictor: Predictor
) -> widgets.Widget:
    """A lens of each of the `classes` `(N, C, H, W)` whose substructure is switched on and off, beside what the network
    says of it; `smooth` are the same lenses without."""

    def draw(number: int, present: bool) -> tuple[bytes, str]:
        image = (observed if present else smooth)[number][None]
        words = f"{classes[number]}, {'as observed' if present else 'without substructure'}"
        return strip([predictor.seen(image)[0].numpy().mean(0)]), _bars(
            words, predictor, predictor.probabilities(image)[0]
        )

    chosen = widgets.Dropdown(options=[(name, k) for k, name in enumerate(classes)], description="lens", value=1)
    return explorer([chosen, widgets.Checkbox(value=True, description="substructure")], draw)


def _bars(title: str, predictor: Predictor, probabilities: np.ndarray) -> str:
    """Probabilities of the classes as bars in HTML, under a title."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><div style='width:160px;background:#eee'><div style='height:14px;"
        f"width:{value:.1%};background:{colour}'></div></div></td><td>{value:.3f}</td></tr>"
        for name, value, colour in zip(predictor.classes, probabilities.tolist(), PALETTE, strict=False)
    )
    return f"<b>{html.escape(title)}</b><table>{rows}</table>"


def mistakes(tables: Mapping[str, pd.DataFrame], images: np.ndarray) -> widgets.Widget:
    """Go through the mistakes of each network, the surest first: the image, what is true of it, all probabilities.

    Args:
        tables: by network, as from `Failures.mistakes`.
        images: the test images `(N, C, H, W)`.
    """
    most = max(len(table) for table in tables.values())
    choice = widgets.Dropdown(options=list(tables), description="network")
    number = widgets.IntSlider(min=1, max=max(most, 1), description="mistake", continuous_update=False)

    def draw(name: str, wanted: int) -> tuple[bytes, str]:
        table = tables[name]
        if table.empty:
            return strip([np.zeros(images.shape[-2:])], height=HEIGHT), f"{html.escape(name)} makes no mistake"
        row = table.iloc[min(wanted, len(table)) - 1]
        known = f", {row['sigma']:.1f} sigma" if 0 < row["sigma"] < np.inf else ""
        lines = [f"mistake {min(wanted, len(table))} of {len(table)}", f"true: {html.escape(row['true'])}{known}"]
        for column in (column for column in table if column.startswith("probability of ")):
            label, value = html.escape(column.removeprefix("probability of ")), row[column]
            lines.append(f"{label} <meter value='{value:.3f}' aria-label='{label}'></meter> {value:.3f}")
        return strip([stretched(np.asarray(images[row["image"]], float).mean(0))], height=HEIGHT), "<br>".join(lines)

    return explorer([choice, number], draw)
