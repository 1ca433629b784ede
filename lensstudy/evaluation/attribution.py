"""Attribution of a prediction to pixels: integrated gradients, averaged over rotations and reflections of the square.

The attribution of a pixel is its share in the difference between a network's score of an image and its score of a
baseline without a lens. A lens has no preferred direction, so neither should its explanation: the average over the
eight rotations and reflections of the image, each undone afterwards, removes what the pixel grid of one pass leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Attributions", "attribute", "group_averaged", "integrated_gradients", "share_on_light"]

BATCH = 64  # images in one pass

Score = Callable[[Tensor], Tensor]


class Attributions(NamedTuple):
    """Attributions of several networks on the same images."""

    light: np.ndarray  # what the networks see of the images, not scaled, (N, H, W)
    classes: list[str]  # of each image
    maps: dict[str, np.ndarray]  # by network, the attribution of the true class, (N, H, W)
    on_light: dict[str, float]  # by network, the share of the attribution on pixels brighter than a tenth of the peak
    bright: float  # the share of these pixels


def attribute(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    baseline: Tensor | None = None,
    steps: int = 32,
) -> Tensor:
    """Attribute a network's predictions to the pixels of its inputs.

    Args:
        network: any module from images to logits `(B, classes)`, in evaluation mode.
        images: its inputs `(B, C, S, S)`, after `Preprocess`.
        labels: the class to explain of each image `(B,)`; by default the most probable one.
        baseline: inputs without a lens, like `images`; by default the median of each image and channel, which is sky.
        steps: of the path from the baseline to the image.

    Returns:
        `(B, C, S, S)`: what each pixel adds to the log odds of the class, averaged over the eight rotations and
        reflections. They add up to the difference of the log odds of image and baseline.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        >>> images = torch.randn(3, 1, 8, 8)
        >>> attribute(network, images, torch.zeros(3, dtype=torch.long)).shape
        torch.Size([3, 1, 8, 8])
    """
    if labels is None:
        with torch.no_grad():
            labels = network(images).argmax(1)
    if baseline is None:
        baseline = images.flatten(2).median(dim=2).values[..., None, None].expand_as(images)
    labels = labels.to(images.device)

    def log_odds(inputs: Tensor) -> Tensor:
        log_p = network(inputs).log_softmax(1)
        chosen = nn.functional.one_hot(labels.repeat(len(inputs) // len(labels)), log_p.shape[1]).bool()
        return log_p[chosen] - log_p.masked_fill(chosen, -torch.inf).logsumexp(1)

    return group_averaged(log_odds, images, baseline, steps)


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
    """`integrated_gradients` averaged over the eight rotations by 90 degrees and reflections of square images, each
    undone afterwards: the attribution of a rotated image is the rotated attribution of the image.

    Complete like one of them: the attributions add up to the mean over the eight of `score(g x) - score(g b)`.
    """
    total = torch.zeros_like(images)
    for quarter in range(4):
        for reflect in (False, True):
            moved = (_moved(images, quarter, reflect), _moved(baseline, quarter, reflect))
            total += _moved_back(integrated_gradients(score, *moved, steps), quarter, reflect)
    return total / 8


def share_on_light(attributions: np.ndarray, images: np.ndarray, share_of_peak: float = 0.1) -> tuple[float, float]:
    """Share of the absolute attribution `(N, H, W)` that lies on pixels brighter than `share_of_peak` of each image's
    range, and the share of those pixels in the image: equal where attribution does not depend on the light."""
    low, high = (extreme(images, axis=(1, 2), keepdims=True) for extreme in (np.median, np.max))
    bright = images > low + share_of_peak * (high - low)
    weight = np.abs(attributions)
    return float((weight * bright).sum() / weight.sum()), float(bright.mean())


def _moved(images: Tensor, quarter: int, reflect: bool) -> Tensor:
    return torch.rot90(images.flip(-1) if reflect else images, quarter, dims=(-2, -1))


def _moved_back(images: Tensor, quarter: int, reflect: bool) -> Tensor:
    images = torch.rot90(images, -quarter, dims=(-2, -1))
    return images.flip(-1) if reflect else images
