"""What a smooth lens leaves of an image, in sigma: an input that means the same on every telescope.

An arc looks different through every telescope, and so does substructure on top of it. What the best smooth lens does
not explain is noise wherever the lens is smooth; its fit knows the telescope, so a network need not.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.mixture import components
from lensstudy.data.simulation import camera_of
from lensstudy.lensing.fitting import NOISE_FREE, smooth_residuals
from lensstudy.progress import progress

__all__ = ["BESIDE", "in_sigma", "residual_of"]

BESIDE = "beside"  # what the description of a set says under `residual` that has both, the image and what a fit leaves

PIECE = 32  # images that are fitted at once


def in_sigma(dataset: LensDataset, processes: int = 1) -> LensDataset:
    """Every image of a simulated set in units of its noise, and beside it what its best smooth lens leaves of it.

    Only what an observer knows of camera and noise is used. The first channel is the image less its sky in units of the
    background's sigma, one per cent of its peak where there is no noise; the second is (image - fit) / sigma with the
    photon noise of the light that the fit expects.

    Args:
        dataset: images `(N, 1, H, W)` that `simulate` made, of one preset or of a mixture.
        processes: processes of one thread each that fit.

    Returns:
        The data set with images `(N, 2, H, W)`, float32, and `residual: beside` in its description.

    Raises:
        DataError: for images that were read: a fit needs to know their camera and noise; or for residuals.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32, noise_level=0.02)
        >>> in_sigma(lenses).images.shape
        (3, 2, 32, 32)
    """
    if residual_of(dataset) != "none":
        raise DataError("a data set of residuals: smooth lenses are fitted to images; give those")
    parts = components(dataset)
    if not parts:
        source = dataset.description.get("source", "unknown")
        raise DataError(
            f"images whose source is {source!r}; a smooth lens can be fitted to simulated ones alone, whose camera and "
            "noise are known: leave `residual` out for the others"
        )
    places = {name: row for row, name in enumerate(dataset.catalogue["name"])}
    images = np.empty((len(dataset), 2, dataset.image_size, dataset.image_size), dtype=np.float32)
    for part in parts:
        rows = [places[name] for name in part.catalogue["name"]]
        pixels = np.asarray(part.images, np.float32)[:, 0]
        sky = np.median(
            np.concatenate([pixels[:, [0, -1]], pixels.transpose(0, 2, 1)[:, [0, -1]]], axis=2), axis=(1, 2)
        )
        rms = part.catalogue["noise_rms"].to_numpy(np.float32)
        rms = np.where(rms > 0, rms, NOISE_FREE * pixels.max((1, 2)))
        images[rows, 0] = (pixels - sky[:, None, None]) / rms[:, None, None]
        pieces = [part.subset(piece) for piece in np.array_split(np.arange(len(part)), -(-len(part) // PIECE))]
        fitted = progress(_mapped(pieces, processes), "smooth fits", len(pieces))
        images[rows, 1] = np.concatenate(list(fitted))
    return replace(dataset, images=images, description=dataset.description | {"residual": BESIDE})


def residual_of(dataset: LensDataset) -> str:
    """Whether the images of a set are `none` other than images, or have residuals `beside` them or `alone`.

    Raises:
        DataError: a pooled set has some of each.
    """
    about = dataset.description
    kinds = sorted({one.get("residual", "none") for one in about.get("sets", [about])})
    if len(kinds) > 1:
        raise DataError(f"a pooled data set in which residuals are {' and '.join(kinds)}; pool sets of one kind")
    return kinds[0]


def _mapped(pieces: list[LensDataset], processes: int) -> Iterator[np.ndarray]:
    if processes == 1 or len(pieces) < 2:
        yield from map(_residuals, pieces)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(_residuals, pieces)


def _residuals(piece: LensDataset) -> np.ndarray:
    return smooth_residuals(piece.images, **camera_of(piece))
