"""Where a network looks: integrated gradients, averaged over the turns and reflections of the square.

The attribution of a pixel is its share in the difference between a network's answer to an image and its answer to a
baseline without a lens. A lens has no preferred direction, so neither should its explanation: the average over the
eight turns and reflections of the image, each turned back, takes out what the pixel grid of a single pass leaves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["group_averaged", "integrated_gradients", "share_on_light"]

BATCH = 64  # images in one pass

Score = Callable[[Tensor], Tensor]


def integrated_gradients(score: Score, images: Tensor, baseline: Tensor, steps: int = 32) -> Tensor:
    """`(x - b) * mean over t of d score(b + t (x - b)) / dx`, with t in the middle of `steps` equal intervals
    (Sundararajan, Taly & Yan 2017, arXiv:1703.01365), `(B, C, H, W)` like `images` and `baseline`.

    `score` gives one number an image and takes any number of repeats of the batch. Complete: the attributions of an
    image add up to `score(x) - score(b)`, but for the error of the midpoint rule.
    """
    change, total = images - baseline, torch.zeros_like(images)
    for t in ((torch.arange(steps) + 0.5) / steps).split(max(BATCH // len(images), 1)):
        points = (baseline + t.view(-1, 1, 1, 1, 1) * change).flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            slopes = torch.autograd.grad(score(points).sum(), points)[0]
        total += slopes.view(len(t), *images.shape).sum(0)
    return change * total / steps


def group_averaged(score: Score, images: Tensor, baseline: Tensor, steps: int = 32) -> Tensor:
    """`integrated_gradients` averaged over the eight turns by 90 degrees and reflections of square images, each turned
    back: what it says of a turned image is what it says of the image, turned.

    Complete like one of them: the attributions add up to the mean over the eight of `score(g x) - score(g b)`.
    """
    total = torch.zeros_like(images)
    for quarter in range(4):
        for mirror in (False, True):
            turned = (_moved(images, quarter, mirror), _moved(baseline, quarter, mirror))
            total += _moved_back(integrated_gradients(score, *turned, steps), quarter, mirror)
    return total / 8


def share_on_light(attributions: np.ndarray, images: np.ndarray, share_of_peak: float = 0.1) -> tuple[float, float]:
    """Share of the absolute attribution `(N, H, W)` that lies on pixels brighter than `share_of_peak` of each image's
    range, and the share of those pixels in the image: equal where a network looks anywhere."""
    low, high = (extreme(images, axis=(1, 2), keepdims=True) for extreme in (np.median, np.max))
    bright = images > low + share_of_peak * (high - low)
    weight = np.abs(attributions)
    return float((weight * bright).sum() / weight.sum()), float(bright.mean())


def _moved(images: Tensor, quarter: int, mirror: bool) -> Tensor:
    return torch.rot90(images.flip(-1) if mirror else images, quarter, dims=(-2, -1))


def _moved_back(images: Tensor, quarter: int, mirror: bool) -> Tensor:
    images = torch.rot90(images, -quarter, dims=(-2, -1))
    return images.flip(-1) if mirror else images
