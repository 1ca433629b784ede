"""Rotating and reflecting images, and the image sizes on which a network with pooling keeps the symmetry exactly.

A lens rotated by 90 degrees is the same lens. Here are `rotate`, `random_rotation`, `centre_crop` and `working_size`,
in pure torch: a network that has left the study needs them, and needs nothing of e2cnn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["SymmetryError", "centre_crop", "random_rotation", "rotate", "working_size"]


class SymmetryError(ValueError):
    """A group, grid or angle that the study cannot use. The message names the way out."""


# Rotating images ------------------------------------------------------------------------------------------------------


def rotate(
    images: Tensor,
    degrees: float | Tensor,
    reflect: bool | Tensor = False,
    size: int | None = None,
    padding: str = "reflection",
) -> Tensor:
    """Rotate square images counter-clockwise about their centre, row 0 drawn at the top.

    One angle that is a multiple of 90 moves pixels exactly. Any other is interpolated by cubic convolution (Keys 1981,
    with a = -0.75), which keeps 0.8 of the power of white noise at 2.7 pixels a wave, where bilinear keeps 0.4: that is
    the scale of the subhalos.

    Args:
        images: `(B, C, H, H)` tensor.
        degrees: one angle for all images, or a tensor `(B,)`.
        reflect: exchange left and right before the rotation; one value or a tensor `(B,)`.
        size: keep the central `size` x `size` pixels, sampled directly, so that their corners show what lay outside.
        padding: what stands where no pixel exists: `reflection` (noise and sky of the image itself, so that a network
            cannot see that it was rotated), `border` or `zeros`.

    Returns:
        Images `(B, C, size, size)`.

    Raises:
        SymmetryError: for images that are not square, or a crop that would move the centre by half a pixel.

    Example:
        >>> import torch
        >>> image = torch.arange(4.0).view(1, 1, 2, 2)
        >>> rotate(image, 90).flatten().tolist()
        [1.0, 3.0, 0.0, 2.0]
    """
    height, width = images.shape[-2:]
    if height != width:
        raise SymmetryError(f"images of {height}x{width} pixels cannot be rotated: crop them to a square first")
    scalars = not isinstance(degrees, Tensor) and not isinstance(reflect, Tensor)
    if scalars and degrees % 90 == 0:
        images = images if size is None else centre_crop(images, size)
        images = images.flip(-1) if reflect else images
        return torch.rot90(images, int(degrees // 90) % 4, dims=(-2, -1))
    sources = _rotated_grid(images, degrees, reflect, width if size is None else _checked_crop(width, size))
    return nn.functional.grid_sample(images, sources, mode="bicubic", padding_mode=padding, align_corners=False)


def _rotated_grid(images: Tensor, degrees: float | Tensor, reflect: bool | Tensor, size: int) -> Tensor:
    """Where each pixel of the rotated image is read from: `(B, size, size, 2)`, in grid_sample's units."""
    count, width = len(images), images.shape[-1]
    like: dict[str, Any] = {"dtype": images.dtype, "device": images.device}
    angle = torch.deg2rad(torch.as_tensor(degrees, **like)).expand(count)
    sign = 1 - 2 * torch.as_tensor(reflect, **like).expand(count)
    offset = (torch.arange(size, **like) - (size - 1) / 2) * (2 / width)
    x, y = offset.view(1, 1, -1), offset.view(1, -1, 1)  # y grows downwards, as rows do
    cos, sin = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    return torch.stack([(cos * x - sin * y) * sign.view(-1, 1, 1), sin * x + cos * y], dim=-1)


def random_rotation(
    images: Tensor,
    generator: torch.Generator | None = None,
    size: int | None = None,
    part: tuple[int, int] = (0, 1),
    angles: str = "any",
) -> Tensor:
    """Each image `(B, C, H, H)` rotated by its own random angle and reflected with probability one half: the
    augmentation of training. `size` as in `rotate`; `generator` lives on the CPU and makes it repeatable. `part`
    (first, step) says that `images` are every step-th of a larger batch, whose draws are made for all of it. `angles`
    are `any`, those of the `square`, which move pixels and blur nothing, or `mixed`: of the square in half the images,
    any in the others."""
    first, step = part
    draws = torch.rand(3, len(images) * step, generator=generator)[:, first::step].to(images.device)
    on_grid = draws[2] < {"any": 0.0, "mixed": 0.5, "square": 1.0}[angles]
    degrees = torch.where(on_grid, 90 * torch.floor(4 * draws[0]), 360 * draws[0])
    return rotate(images, degrees, draws[1] < 0.5, size)


# The grid ------------------------------------------------------------------------------------------------------------


def working_size(image_size: int, levels: int = 3, at_most: int | None = None) -> int:
    """The largest size up to `image_size` and `at_most` on which `levels` halvings keep the symmetry of the square.

    It has the parity of `image_size`, so that a symmetric centre crop leads there. Any size of at least 2^levels will
    do, because `lensstudy.networks.layers.SymmetricPool` fits its windows to even and to odd maps.
    """
    size = image_size if at_most is None else min(image_size, at_most)
    size -= (image_size - size) % 2
    if size < 2**levels:
        raise SymmetryError(
            f"{levels} halvings need at least {2**levels} pixels, but {size} are left of an image of {image_size} "
            f"pixels (at_most={at_most}): use larger images, a larger crop or fewer levels"
        )
    return size


def centre_crop(images, size: int):
    """The central `size` x `size` pixels of `images` `(..., H, W)`, an array or a tensor, as a view.

    Only a size of the images' own parity has a centre in common with them; any other raises `SymmetryError`.
    """
    top, left = ((extent - _checked_crop(extent, size)) // 2 for extent in images.shape[-2:])
    return images[..., top : top + size, left : left + size]


def _checked_crop(extent: int, size: int) -> int:
    if size > extent:
        raise SymmetryError(f"cannot crop {extent} pixels to {size}: the images are smaller than that")
    if (extent - size) % 2:
        raise SymmetryError(
            f"cropping {extent} pixels to {size} moves the centre by half a pixel, which breaks the symmetry; "
            f"use {size - 1} or {size + 1}"
        )
    return size
