"""Figures of networks before training: a representation, a filter and its copies, features, invariance, cost."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess
from lensstudy.data.rotation import rotate
from lensstudy.figures.style import CHART, WIDTH, captioned, colour, draw_image, image_row

__all__ = [
    "central_part",
    "filter_orientations",
    "invariance_curves",
    "network_costs",
    "permutations",
    "rotated_features",
]


def permutations(matrices: Mapping[object, np.ndarray]) -> Figure:
    """Draw the matrices of a representation, one for each element of a group C_N (`k`) or D_N (`(reflected, k)`)."""
    elements = [element if isinstance(element, tuple) else (0, element) for element in matrices]
    step = 360 / (1 + max(k for _, k in elements))
    titles = [f"{'reflection, ' if reflected else 'rotation '}{step * k:.0f}°" for reflected, k in elements]
    figure = image_row([matrix[::-1] for matrix in matrices.values()], titles)
    for axes in figure.axes:
        axes.set_gid(CHART)
    return captioned(
        figure,
        "The regular representation: each element of the group permutes as many numbers as the group has elements "
        "(bright: where a number goes).",
        f"{len(elements)} permutation matrices, one for each element of the group.",
    )


def filter_orientations(filters: Tensor) -> Figure:
    """Draw one filter in every orientation of its group, `(orientations, k, k)`."""
    figure = image_row(
        list(filters.numpy()), [f"orientation {k + 1}" for k in range(len(filters))], symmetric=[True] * len(filters)
    )
    for axes in figure.axes:
        axes.set_gid(CHART)
    return captioned(
        figure,
        f"One filter before training, in its {len(filters)} orientations.",
        f"{len(filters)} copies of one small filter, rotated and reflected.",
    )


def rotated_features(lens: Tensor, maps: Mapping[float, np.ndarray]) -> Figure:
    """Draw the `lens` `(1, 1, H, H)` beside the maps `(channels, H, H)` that it causes, one row for each angle in
    degrees by which it was rotated."""
    channels = len(next(iter(maps.values())))
    size = (WIDTH, (WIDTH / (channels + 1) + 0.3) * len(maps))
    figure, axes = plt.subplots(len(maps), channels + 1, figsize=size, squeeze=False)
    for row, (degrees, field) in zip(axes, maps.items(), strict=True):
        draw_image(row[0], rotate(lens, degrees)[0, 0].numpy())
        row[0].set_title(f"lens at {degrees:.0f}°", fontsize=8)
        for channel, (axis, image) in enumerate(zip(row[1:], field, strict=True), start=1):
            draw_image(axis, image)
            axis.set_title(f"channel {channel}", fontsize=8)
    return captioned(
        figure,
        "A lens and the channels of one field that it causes, a row for each rotation of the lens.",
        f"{len(maps)} rows, each with a lens and {channels} feature maps.",
    )


def central_part(dataset: LensDataset, preprocess: Preprocess) -> Figure:
    """Draw the first image of a data set, with the part that the networks see, and that part as they see it; one image
    where they see all of it as it is."""
    image = np.asarray(dataset.images[:1], np.float32)
    size, seen = dataset.image_size, preprocess.crop
    if preprocess.size == size:
        return captioned(
            image_row([preprocess(image)[0].mean(0).numpy()], [f"{size} pixels"]),
            f"An image of {size} × {size} pixels: the networks see all of it.",
            "An image as a network sees it.",
        )
    figure = image_row(
        [image[0].mean(0), preprocess(image)[0].mean(0).numpy()], [f"image: {size} pixels", f"seen: {preprocess.size}"]
    )
    corner = (size - seen) / 2 - 0.5
    figure.axes[0].add_patch(Rectangle((corner, corner), seen, seen, fill=False, color="white", lw=1.5, clip_on=False))
    binned = f", averaged over {preprocess.binning} × {preprocess.binning} pixels" if preprocess.binning > 1 else ""
    return captioned(
        figure,
        f"An image of {size} × {size} pixels and the central {seen} × {seen} that the networks see{binned}.",
        "An image with a square about its central part, and that part as a network sees it.",
    )


def invariance_curves(curves: pd.DataFrame, label: str = "relative change of the output") -> Figure:
    """Draw the change of networks' outputs as the image is rotated: one column a network, the index in degrees; `label`
    says on the axis what changes."""
    figure, axes = plt.subplots(figsize=(WIDTH, 3.4))
    for name, values in curves.items():
        axes.plot(curves.index, values, color=colour(str(name)), label=name)
    axes.set(xlabel="rotation of the image [degrees]", ylabel=label)
    axes.set_xticks(np.arange(0, 361, 45))
    figure.legend(loc="outside upper center", fontsize=8, ncols=3)
    return captioned(
        figure,
        "How far the outputs of untrained networks move while the image is rotated once around. Interpolation alone is "
        "what rotating the image there and back does to the C8 network.",
        "Line plot of the invariance error against the angle, one line a network.",
    )


def network_costs(costs: pd.DataFrame) -> Figure:
    """Draw parameters, multiply-accumulates and speed of training of each network, side by side."""
    columns = ["parameters", "MACs [M]", "training images/s"]
    size = (WIDTH + 1.5, 0.8 + 0.32 * len(costs))
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharey=True)
    for axis, column in zip(axes, columns, strict=True):
        bars = axis.barh(costs.index, costs[column], color=[colour(name) for name in costs.index])
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set(xlabel=column, xticks=[], xlim=(0, 1.5 * costs[column].max()))
    axes[0].invert_yaxis()
    return captioned(
        figure,
        "What each network has to learn (parameters) and to multiply (multiply-accumulates of one image, in millions), "
        "and how many images a second it trains on.",
        "Three bar charts with one bar a network.",
    )
