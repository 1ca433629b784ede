"""Interactive parts of the notebooks: controls beside a picture of fixed size, alive in JupyterLab and in Voila.

A function takes what is to be explored and returns one widget, drawn once already, so that a page without a kernel
shows its first state. Pictures are drawn as PNG by `style.strip` or `style.png` and fit a laptop's window.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets

from lensstudy.figures.style import strip

if TYPE_CHECKING:
    from lensstudy.deployment.application import Application

__all__ = ["explore_predictions", "explorer"]

HEIGHT = 260  # pixels of a picture: controls, picture and the cell above fit a window of 700


def explorer(controls: Sequence[widgets.Widget], draw: Callable[..., bytes | tuple[bytes, str]]) -> widgets.Widget:
    """Controls above a picture that is drawn again whenever one of them changes.

    Args:
        controls: widgets with a `value` and a `description`.
        draw: takes the values of the controls, in their order, and returns the picture as PNG, or that and a text in
            HTML to stand beside it. What comes from outside must be escaped in it.
    """
    canvas = widgets.Image(format="png", layout=widgets.Layout(height=f"{HEIGHT}px", width="auto"))
    words = widgets.HTML()

    def again(_=None) -> None:
        drawn = draw(*(control.value for control in controls))
        canvas.value, words.value = drawn if isinstance(drawn, tuple) else (drawn, "")

    for control in controls:
        control.observe(again, "value")
    again()
    return widgets.VBox(
        [widgets.HBox(list(controls), layout=widgets.Layout(flex_flow="row wrap")), widgets.HBox([canvas, words])]
    )


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
