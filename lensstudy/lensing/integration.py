"""The light that falls on a pixel, by as many rays as its noise asks for.

One ray from a pixel's centre stands for all of the pixel where the light hardly bends across it. Where it does, as on a
bright arc, in the cusp of a steep source or beside a mass, the pixel is divided into four cells, and those again, until
what a further division would change is small against the pixel's noise. Each cell has four rays, at the nodes of Gauss
and Legendre, which are exact for polynomials of third degree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cells", "integrated"]

LEVELS = 7  # a pixel is divided up to six times: cells of 1/64 of its side
PATIENCE = 12.0  # a cell errs far less than its division changes it: for smooth light, by 1/15 of that
NODE = 0.5 / math.sqrt(3)  # of Gauss and Legendre, in sides of a cell


@dataclass(frozen=True)
class Cells:
    """Squares that four rays each stand for, in the pixels `(N, H, W)` that are `divided`.

    Of each `(M,)` the numbers of its image and pixel, its centre and side in arcseconds, and its share of the pixel.
    """

    divided: Tensor
    image: Tensor
    pixel: Tensor
    x: Tensor
    y: Tensor
    side: Tensor
    share: Tensor

    @classmethod
    def whole(cls, divided: Tensor, x: Tensor, y: Tensor) -> Cells:
        """One cell in every pixel that is `divided` `(N, H, W)`; `x` `(W,)` and `y` `(H,)` are the pixels' centres."""
        image, row, column = torch.nonzero(divided, as_tuple=True)
        pixel = torch.nonzero(divided.flatten())[:, 0]
        side = torch.full_like(x[column], float(x[1] - x[0]))
        return cls(divided, image, pixel, x[column], y[row], side, torch.ones_like(side))

    @property
    def rays(self) -> tuple[Tensor, Tensor]:
        """Where the rays are shot, x and y `(4, M)`."""
        node_x, node_y = corners(NODE, self.x)
        return self.x + node_x * self.side, self.y + node_y * self.side

    def quartered(self, chosen: Tensor) -> Cells:
        """The quarters of the `chosen` cells: all first quarters, then all second ones and so on."""
        shift_x, shift_y = corners(0.25, self.x)
        x, y = ((at + shift * self.side)[:, chosen].flatten() for at, shift in ((self.x, shift_x), (self.y, shift_y)))
        image, pixel = self.image[chosen].repeat(4), self.pixel[chosen].repeat(4)
        return Cells(
            self.divided, image, pixel, x, y, self.side[chosen].repeat(4) / 2, self.share[chosen].repeat(4) / 4
        )

    def chosen(self, which: Tensor) -> Cells:
        """Some of the cells."""
        one = (value[which] for value in (self.image, self.pixel, self.x, self.y, self.side, self.share))
        return Cells(self.divided, *one)

    def joined(self, *others: Cells) -> Cells:
        """These cells and others of the same images."""
        divided = torch.stack([one.divided for one in (self, *others)]).any(0)
        names = ("image", "pixel", "x", "y", "side", "share")
        return Cells(divided, *(torch.cat([getattr(one, name) for one in (self, *others)]) for name in names))

    def mean(self, centers: Tensor, found: Tensor) -> Tensor:
        """Means of the pixels `(N, H, W)`: those of the rays `found` `(4, M)` where they are divided, `centers`
        elsewhere."""
        pixels = centers.masked_fill(self.divided, 0.0).flatten()
        return pixels.index_add_(0, self.pixel, mean_of_four(found) * self.share).view_as(centers)


def integrated(
    centers: Tensor,
    light: Callable[[Cells], Tensor],
    x: Tensor,
    y: Tensor,
    tolerance: Tensor,
    suspects: Tensor | None = None,
) -> tuple[Tensor, Cells]:
    """Mean surface brightness of every pixel, from that at the pixels' centres and further rays.

    Args:
        centers: surface brightness `(N, H, W)` at the centres of the pixels.
        light: surface brightness `(4, M)` where the rays of some cells end.
        x: centres of the columns of pixels `(W,)`, in arcseconds.
        y: centres of the rows of pixels `(H,)`, in arcseconds.
        tolerance: error `(N, H, W)` that a pixel may have.
        suspects: pixels `(N, H, W)` that are divided whatever their neighbours are like.

    Returns:
        Mean surface brightness `(N, H, W)`, and the cells that gave it. No image depends on the others.
    """
    second = second_differences(centers)
    divided = (second[0].abs() + second[1].abs()) / 24 > tolerance  # error of a midpoint, to leading order
    cells = Cells.whole(divided if suspects is None else divided | suspects, x, y)
    before = (centers + (second[0] + second[1]) / 24).flatten()[cells.pixel]
    allowed, done, rays = PATIENCE * tolerance.flatten()[cells.pixel], [], []
    for level in range(LEVELS):
        if not len(cells.pixel):
            break
        found = light(cells)
        value = mean_of_four(found)
        if level == 0:
            coarse = (value - before).abs() > allowed
        else:  # four quarters together against the cell that they are made of
            change = (mean_of_four(value.view(4, -1)) - before).abs() * 4 * cells.share[: len(before)]
            coarse = (change > allowed).repeat(4)
            allowed = (allowed / 2).repeat(4)  # errors of four cells add up like noise
        if level == LEVELS - 1:
            coarse = torch.zeros_like(coarse)
        done.append(cells.chosen(~coarse))
        rays.append(found[:, ~coarse])
        cells, before, allowed = cells.quartered(coarse), value[coarse], allowed[coarse]
    if not done:
        return centers, cells
    cells = done[0].joined(*done[1:])
    return cells.mean(centers, torch.cat(rays, dim=1)), cells


def second_differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Second differences `(N, H, W)` along x and along y; beyond the edge the edge pixel's value goes on."""
    padded = torch.nn.functional.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    along_x = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 2 * images
    return along_x, padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] - 2 * images


def mean_of_four(values: Tensor) -> Tensor:
    """Mean `(M,)` of `(4, M)`, added in one order wherever a column stands, as `mean` does not promise."""
    return (values[0] + values[1] + values[2] + values[3]) / 4


def corners(distance: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets `(4, 1)` in x and y of four points that far from the middle along either axis."""
    x, y = [-distance, distance, -distance, distance], [-distance, -distance, distance, distance]
    return torch.tensor(x, dtype=like.dtype)[:, None], torch.tensor(y, dtype=like.dtype)[:, None]
