"""The pixels of an image that are fitted, and the rays that reach them through the PSF, as linear operators."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lensstudy.observations.cutouts import Observation
from lensstudy.observations.source import Mesh

__all__ = ["Rays", "binned", "rays_through"]


def rays_through(observation: Observation, pixels: np.ndarray, per_side: int = 2) -> tuple[Tensor, Tensor]:
    """Where `per_side`^2 rays through each of these `pixels` `(H, H)` pass: x and y `(m,)`, in arcseconds."""
    centers = observation.grid()[0][0]
    offsets = ((np.arange(per_side) + 0.5) / per_side - 0.5) * observation.pixel_scale
    rows, columns = np.nonzero(pixels)
    x = (centers[columns][:, None] + np.tile(offsets, per_side)).ravel()
    y = (centers[rows][:, None] + np.repeat(offsets, per_side)).ravel()
    return torch.tensor(x), torch.tensor(y)


class Rays:
    """Rays through an image, from the brightness where they end to the pixels in units of their noise.

    Attributes:
        used: pixels that are fitted, `(H, H)`; images of them are `(n,)` below.
        lit: pixels whose light reaches those through the PSF, `(H, H)`.
        x, y: where the rays pass the lens, `(m,)` in arcseconds, `per_pixel` of them in each lit pixel.
        weight: one over the noise of pixels `(n,)`, as if they were independent.
    """

    def __init__(self, observation: Observation, used: np.ndarray, per_side: int = 2):
        psf = np.ones((1, 1)) if observation.psf is None else _square(observation.psf)
        half = len(psf) // 2
        self.used, self.per_pixel = used, per_side**2
        rows, columns = np.nonzero(used)
        reached = np.zeros(used.shape, bool)
        for step in range(-half, half + 1):
            reached[np.clip(rows + step, 0, len(used) - 1), columns] = True
        self.lit = reached.copy()
        for step in range(-half, half + 1):
            self.lit |= np.roll(reached, step, axis=1)
        self.x, self.y = rays_through(observation, self.lit, per_side)
        self.weight = 1 / (observation.noise[used] * np.sqrt(observation.correlation))
        self._blur = self._blurring(psf, rows, columns)

    def _blurring(self, psf: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_array:
        half = len(psf) // 2
        number = np.full(self.lit.shape, -1)
        number[self.lit] = np.arange(self.lit.sum())
        number = np.pad(number, half, constant_values=-1)
        shifts = np.arange(-half, half + 1)
        from_ = number[(rows[:, None] - shifts + half)[:, :, None], (columns[:, None] - shifts + half)[:, None, :]]
        share = psf * self.weight[:, None, None]
        there = from_ >= 0
        to = np.broadcast_to(np.arange(len(rows))[:, None, None], from_.shape)
        parts = share[there].astype(np.float32), (to[there], from_[there])
        return sparse.csr_array(parts, shape=(len(rows), int(self.lit.sum())))

    @cached_property
    def centers(self) -> tuple[Tensor, Tensor]:
        """Where the mean ray of each lit pixel passes."""
        x, y = (axis.reshape(-1, self.per_pixel).mean(1) for axis in (self.x, self.y))
        return x, y

    def image(self, light: np.ndarray) -> np.ndarray:
        """The pixels `(n, ...)`, in units of their noise, that `light` `(lit pixels, ...)` makes."""
        return self._blur @ light

    def design(self, mesh: Mesh, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """What each spline of a mesh adds to the pixels, `(n, splines)`, with rays that end at `x`, `y` `(m,)`."""
        starts = np.arange(0, len(x) + 1, self.per_pixel)
        shares = np.full(len(x), 1 / self.per_pixel)
        mean = sparse.csr_array((shares, np.arange(len(x)), starts), shape=(len(starts) - 1, len(x)))
        sparse_image: Any = self.image((mean @ mesh.design(x, y)).astype(np.float32))
        return sparse_image.toarray()


def binned(observation: Observation, factor: int, *images: np.ndarray) -> tuple[Observation, list[np.ndarray]]:
    """The observation with `factor` x `factor` pixels averaged into one, and `images` `(..., H, H)` likewise.

    A pixel is masked where less than three quarters of it are seen. Noise that pixels share is taken in.
    """
    size = len(observation.image) // factor * factor
    first = (len(observation.image) - size) // 2

    def blocks(image: np.ndarray) -> np.ndarray:
        image = image[..., first : first + size, first : first + size]
        return image.reshape(*image.shape[:-2], size // factor, factor, size // factor, factor).mean((-3, -1))

    seen = blocks((~observation.mask).astype(float))
    image = blocks(np.where(observation.mask, 0, observation.image)) / np.maximum(seen, 1e-6)
    noise = np.sqrt(blocks(observation.noise**2) * observation.correlation) / factor
    psf = None if observation.psf is None else _binned_psf(observation.psf, factor)
    about = (observation.name, observation.band, image, noise, seen < 0.75, psf)
    coarse = Observation(*about, observation.pixel_scale * factor, observation.about, observation.notes)
    return coarse, [blocks(one) for one in images]


def _binned_psf(psf: np.ndarray, factor: int) -> np.ndarray:
    """The PSF among pixels `factor` times as large: that of a source as large as such a pixel, averaged over pixels."""
    psf = _square(psf)
    half = -(-(len(psf) // 2 + factor) // factor)
    side = np.zeros((2 * half + 1, len(psf)))
    ends = np.arange(len(psf)) - len(psf) // 2
    for j in range(2 * half + 1):
        side[j] = np.clip(factor - np.abs(ends - (j - half) * factor), 0, None) / factor
    found = side @ psf @ side.T
    return found / found.sum()


def _square(psf: np.ndarray) -> np.ndarray:
    """The PSF with as many rows as columns, dark where it was not given."""
    missing = [(max(psf.shape) - side) // 2 for side in psf.shape]
    return np.pad(psf, [(one, one) for one in missing])
