"""Real galaxies as sources: a user's FITS cutouts, read, cleaned and sampled wherever a ray ends.

A cutout is one galaxy on empty sky, alone in its file or one of several. Its light is brought to a total of 1 and its
half-light radius to 1, so that the preset's own sizes and magnitudes hold for real galaxies as for Sersic profiles.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lensstudy.lensing.instruments import fits_plane
from lensstudy.lensing.presets import LensingError

__all__ = ["Cutout", "cutout_files", "read_cutout", "sample"]


@dataclass(frozen=True)
class Cutout:
    """Light `(H, W)` per squared half-light radius, 1 when integrated; `center` `(x, y)` and `radius` in pixels."""

    light: np.ndarray
    center: tuple[float, float]
    radius: float


@functools.cache
def cutout_files(folder: str) -> tuple[str, ...]:
    """The galaxy cutouts in the FITS files of a folder, by name: `galaxy.fits`, or `galaxies.fits[3]` for the image of
    that number in a file with several, such as those of GalSim. Tables beside them are passed over. Raises
    `LensingError` where there is no file.
    """
    files = sorted(str(path) for path in Path(os.path.expandvars(folder)).expanduser().glob("*.fit*"))
    if not (names := tuple(name for file in files for name in _cutouts(file))):
        raise LensingError(
            f"source_images = {folder!r}: no FITS files there; give a folder with one galaxy cutout a file, or several"
        )
    return names


def _cutouts(file: str) -> list[str]:
    from astropy.io import fits

    try:
        with fits.open(file) as hdus:
            images = [number for number, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape) == 2]
            tables = any(not hdu.is_image for hdu in hdus)
    except OSError:
        return [file]  # reading it says what is wrong
    return [f"{file}[{number}]" for number in images] if len(images) > 1 else [] if tables and not images else [file]


@functools.lru_cache(maxsize=256)
def read_cutout(file: str) -> Cutout:
    """The galaxy in one of `cutout_files`; `LensingError` where there is none to be seen."""
    light = fits_plane(file, f"{file}: no two-dimensional image in it; expected a FITS cutout of one galaxy")
    light = np.nan_to_num(light)
    border = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    light = light - np.median(border)
    light[light < 2 * np.std(border)] = 0  # sky noise would be lensed like a source
    if light.sum() <= 0:
        raise LensingError(f"{file}: nothing stands out from the sky; expected a cutout with a galaxy in it")
    y, x = np.indices(light.shape)
    center = float((x * light).sum() / light.sum()), float((y * light).sum() / light.sum())
    distance = np.hypot(x - center[0], y - center[1]).ravel()
    order = np.argsort(distance)
    grown = np.cumsum(light.ravel()[order])
    radius = max(float(distance[order][np.searchsorted(grown, grown[-1] / 2)]), 0.5)
    return Cutout(light / light.sum() * radius**2, center, radius)


def sample(files: list[str], x: Tensor, y: Tensor) -> Tensor:
    """Light `(N, H, W)` of one cutout an image at positions in half-light radii, bilinear, zero beyond the cutout."""
    made = []
    for i, cutout in enumerate(map(read_cutout, files)):
        height, width = cutout.light.shape
        grid_x = (x[i] * cutout.radius + cutout.center[0]) * 2 / (width - 1) - 1
        grid_y = (y[i] * cutout.radius + cutout.center[1]) * 2 / (height - 1) - 1
        light = torch.tensor(cutout.light, dtype=x.dtype)[None, None]
        grid = torch.stack([grid_x, grid_y], dim=-1)[None]
        made.append(torch.nn.functional.grid_sample(light, grid, padding_mode="zeros", align_corners=True)[0, 0])
    return torch.stack(made)
