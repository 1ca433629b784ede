"""Figures of networks before training: how far their outputs move as an image is rotated."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lensstudy.figures.style import colour

__all__ = [
    "invariance_curves",
]


def invariance_curves(degrees: np.ndarray, curves: Mapping[str, np.ndarray], label: str) -> Figure:
    """Change of a network's prediction as the image is rotated; one line a network."""
    figure, axes = plt.subplots(figsize=(7.5, 3.4))
    for name, values in curves.items():
        axes.plot(degrees, values, color=colour(name), label=name)
    axes.set(xlabel="rotation of the image [degrees]", ylabel=label, xticks=np.arange(0, 361, 45))
    axes.legend(fontsize=8, ncols=2)
    return figure
