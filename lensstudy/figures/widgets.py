"""Interactive parts of the notebooks: controls beside a picture of fixed size, alive in JupyterLab and in Voila.

A function takes what is to be explored and returns one widget, drawn once already, so that a page without a kernel
shows its first state. Pictures are drawn as PNG by `style.strip` or `style.png` and fit a laptop's window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ipywidgets as widgets

__all__ = ["explorer"]

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
