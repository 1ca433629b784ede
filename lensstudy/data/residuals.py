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

from lensstudy.data.dataset import DataError, LensDataset, sky_and_noise
from lensstudy.data.mixture import components
from lensstudy.data.simulation import camera_of
from lensstudy.lensing.fitting import NOISE_FREE, smooth_residuals
from lensstudy.lensing.populations import preset_named
from lensstudy.lensing.presets import LensingError
from lensstudy.progress import progress

__all__ = ["BESIDE", "in_sigma", "residual_of"]

BESIDE = "beside"  # what the description of a set says under `residual` that has both, the image and what a fit leaves

PIECE = 32  # images that are fitted at once
EXPOSED = {"model_1": 10**3.25}  # seconds, of images that were read: the middle of what the preset draws


def in_sigma(dataset: LensDataset, processes: int = 1, camera: str = "") -> LensDataset:
    """Every image of a set in units of its noise, and beside it what its best smooth lens leaves of it.

    Only what an observer knows of camera and noise is used; of images that were read, noise is measured at their edges,
    and exposure times are the camera's. The first channel is the image less its sky in units of the
    background's sigma, one per cent of its peak where there is no noise; the second is (image - fit) / sigma with the
    photon noise of the light that the fit expects.

    Args:
        dataset: images `(N, 1, H, W)` that `simulate` made, of one preset or of a mixture, or that were read.
        processes: processes of one thread each that fit.
        camera: the preset through whose camera images that were read were taken.

    Returns:
        The data set with images `(N, 2, H, W)`, float32, and `residual: beside` in its description.

    Raises:
        DataError: for images that were read, whose camera, bands or pixel scale a fit cannot do with; or for residuals.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32, noise_level=0.02)
        >>> in_sigma(lenses).images.shape
        (3, 2, 32, 32)
    """
    if residual_of(dataset) != "none":
        raise DataError("a data set of residuals: smooth lenses are fitted to images; give those")
    parts = [(part, camera_of(part)) for part in components(dataset)]
    parts = parts or [(dataset, _camera_of_read(dataset, camera))]
    places = {name: row for row, name in enumerate(dataset.catalogue["name"])}
    images = np.empty((len(dataset), 2, dataset.image_size, dataset.image_size), dtype=np.float32)
    for part, taken in parts:
        rows = [places[name] for name in part.catalogue["name"]]
        pixels = np.asarray(part.images, np.float32)[:, 0]
        sky = np.median(
            np.concatenate([pixels[:, [0, -1]], pixels.transpose(0, 2, 1)[:, [0, -1]]], axis=2), axis=(1, 2)
        )
        rms = taken["noise_rms"].astype(np.float32)
        rms = np.where(rms > 0, rms, NOISE_FREE * pixels.max((1, 2)))
        images[rows, 0] = (pixels - sky[:, None, None]) / rms[:, None, None]
        pieces = [
            (part.images[piece], {name: value[piece] if np.ndim(value) else value for name, value in taken.items()})
            for piece in np.array_split(np.arange(len(part)), -(-len(part) // PIECE))
        ]
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


def _camera_of_read(dataset: LensDataset, camera: str) -> dict:
    """What `camera_of` says of simulated images, of such that were read and taken through the camera of a preset."""
    source, bands = dataset.description.get("source", "unknown"), dataset.images.shape[1]
    if not camera:
        raise DataError(
            f"images whose source is {source!r}: to fit a smooth lens to them, their camera has to be known; name the "
            "preset whose camera they were taken with (`camera`), or leave `residual` out"
        )
    try:
        instrument = preset_named(camera).instrument
    except LensingError as error:
        raise DataError(f"camera: {error}") from None
    if bands != 1:
        raise DataError(f"camera = '{camera}': images of {bands} bands; a smooth lens is fitted to images of one")
    own = instrument.pixel_scale if dataset.image_size == instrument.image_size else None
    if not (scale := dataset.description.get("pixel_scale") or own):
        raise DataError(
            f"camera = '{camera}': its images have {instrument.image_size} pixels of {instrument.pixel_scale:g} "
            f"arcsec, and these have {dataset.image_size}, of unknown size; say it with `pixel_scale`"
        )
    noise = np.array([sky_and_noise(np.asarray(image, np.float32))[1] for image in dataset.images])
    return {
        "noise_rms": noise,
        "preset": camera,
        "instrument": replace(instrument, image_size=dataset.image_size, pixel_scale=scale),
        "exposure_time": EXPOSED.get(camera),
        "lens_light": camera == "equivariant_test",
    }


def _mapped(pieces: list[tuple[np.ndarray, dict]], processes: int) -> Iterator[np.ndarray]:
    if processes == 1 or len(pieces) < 2:
        yield from map(_residuals, pieces)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(_residuals, pieces)


def _residuals(piece: tuple[np.ndarray, dict]) -> np.ndarray:
    images, taken = piece
    return smooth_residuals(images, **taken)
