"""Where a network's predictions hold and where they fail: perturbed images, and images of another preset.

Perturbations are functions of an array of images `(N, C, H, W)` and a random generator: rotated, reflected, shifted,
noisier, through a wider point spread function, with larger or smaller pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from lensstudy.data.dataset import DataError, LensDataset, sky_and_noise
from lensstudy.evaluation.intervals import interval
from lensstudy.evaluation.scores import auc, largest_change
from lensstudy.lensing.instruments import SIGMA_PER_FWHM, blur, gaussian_kernel
from lensstudy.networks.groups import rotate

__all__ = [
    "blurred",
    "noisier",
    "perturbations",
    "predict_perturbed",
    "reflected",
    "rotated",
    "rotation_change",
    "shifted",
    "transfer_matrix",
    "zoomed",
]

CLEAN = 1e-4  # noise in units of the peak below which images count as free of it
UNPERTURBED = "unperturbed"
PIECE = 256  # images in memory at a time, so that a memory map is never read whole

Perturbation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def rotated(images: np.ndarray, degrees: float | np.ndarray) -> np.ndarray:
    """Images rotated counter-clockwise by `degrees`, one angle or one an image; exact for multiples of 90."""
    angle = float(degrees) if np.ndim(degrees) == 0 else torch.as_tensor(degrees)
    return rotate(_tensor(images), angle).numpy()


def reflected(images: np.ndarray) -> np.ndarray:
    """Images with left and right exchanged."""
    return images[..., ::-1]


def shifted(images: np.ndarray, pixels: float, generator: np.random.Generator) -> np.ndarray:
    """Each image moved by `pixels` in its own random direction, to the nearest whole pixel so that noise stays as it
    is. Beyond its edge an image goes on with the edge pixel's value."""
    angle = generator.uniform(0, 2 * np.pi, len(images))
    moves = np.rint(pixels * np.stack([np.sin(angle), np.cos(angle)], 1)).astype(int)
    height, width = images.shape[-2:]
    result = np.empty_like(images)
    for image, (down, right), moved in zip(images, moves, result, strict=True):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        moved[:] = image[:, rows][..., np.clip(np.arange(width) - right, 0, width - 1)]
    return result


def noisier(images: np.ndarray, factor: float, generator: np.random.Generator) -> np.ndarray:
    """Images with `factor` times the noise that each of them has at its border; 1 % of the peak is added to an image
    that has less than a ten-thousandth of its peak."""
    rms, peak = _noise_and_peak(images)
    added = np.where(rms < CLEAN * peak, 0.01 * peak, rms * np.sqrt(max(factor**2 - 1, 0)))
    noise = generator.normal(0, 1, images.shape) * added[:, None, None, None]
    return images + noise.astype(images.dtype)


def _noise_and_peak(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image `(C, H, W)`, its noise in the first channel and its largest value, `(N,)` both."""
    return np.array([sky_and_noise(image[:1])[1] for image in images]), images.max((1, 2, 3))


def blurred(images: np.ndarray, fwhm_pixels: float) -> np.ndarray:
    """Images seen through one more Gaussian point spread function, of that full width at half maximum in pixels. It
    smooths their noise as well."""
    profile = gaussian_kernel(fwhm_pixels * SIGMA_PER_FWHM)
    flat = _tensor(images).flatten(0, 1)
    return blur(flat, profile.tolist()).view(images.shape).numpy()


def zoomed(images: np.ndarray, factor: float) -> np.ndarray:
    """Images whose lens is `factor` times as large about the centre: pixels that are so much smaller on the sky, at the
    same brightness a pixel (bilinear). Beyond its edge an image goes on with the edge pixel's value."""
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(images), 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        _tensor(images), grid, mode="bilinear", padding_mode="border", align_corners=False
    ).numpy()


def perturbations(
    images: np.ndarray, *, shift: float = 2.0, noise: float = 2.0, fwhm: float = 2.0, zoom: float = 1.1, draws: int = 1
) -> dict[str, list[Perturbation]]:
    """Choose perturbations under which the predictions of a network should change little.

    Args:
        images: the test images `(N, C, H, W)`; the first ones show whether there is noise in them.
        shift: distance in pixels of a shift in a random direction.
        noise: factor of the noise that each image has; without noise, 1 % of the peak is added.
        fwhm: full width at half maximum in pixels of an additional point spread function.
        zoom: factor of the size of the lens, as in smaller pixels.
        draws: how many random rotations of the test images.

    Returns:
        By name, each with one or (random rotations) several functions of images and a `numpy.random.Generator`; give
        them to `predict_perturbed`. The first changes nothing.

    Example:
        >>> images = np.random.default_rng(0).normal(size=(2, 1, 16, 16))
        >>> [rotate_by_90] = perturbations(images)["rotated by 90°"]
        >>> np.allclose(rotate_by_90(images, None), np.rot90(images, axes=(2, 3)))
        True
    """
    rms, peak = _noise_and_peak(_float(images[:PIECE]))
    clean = np.mean(rms < CLEAN * peak) > 0.5
    return {
        UNPERTURBED: [lambda x, _: x],
        "rotated by 90°": [lambda x, _: rotated(x, 90.0)],
        "random rotations": [lambda x, g: rotated(x, g.uniform(0, 360, len(x)))] * draws,
        "reflected": [lambda x, _: reflected(x)],
        f"shifted by {shift:g} pixels": [lambda x, g: shifted(x, shift, g)],
        "with noise of 1 % of the peak" if clean else f"noise × {noise:g}": [lambda x, g: noisier(x, noise, g)],
        f"additional PSF of {fwhm:g} pixels": [lambda x, _: blurred(x, fwhm)],
        f"lens {zoom:g} times as large": [lambda x, _: zoomed(x, zoom)],
    }


def predict_perturbed(predict: Callable, images: np.ndarray, perturbation: Perturbation, seed: int = 0) -> np.ndarray:
    """Probabilities `(N, classes)` that `predict` gives perturbed `images` `(N, C, H, W)`. What is random in the
    perturbation is drawn from `seed` alone, the same for every network; give each of several draws its own seed."""
    found = []
    for start in range(0, len(images), PIECE):
        piece = perturbation(_float(images[start : start + PIECE]), np.random.default_rng((seed, start)))
        found.append(predict(np.ascontiguousarray(piece)))
    return np.concatenate(found)


def rotation_change(predict: Callable, images: np.ndarray, orientations: int) -> np.ndarray:
    """The largest change `(N,)` of a probability of each image over evenly spaced rotations. `predict` takes images and
    an angle in degrees, as `TrainedNetwork.predict` does, which rotates before it cuts out the central pixels."""
    return largest_change([predict(images, degrees) for degrees in np.arange(orientations) * 360 / orientations])


def _float(images) -> np.ndarray:
    return np.array(images, dtype=np.float32, order="C")


def _tensor(images) -> torch.Tensor:
    return torch.from_numpy(_float(images))


def transfer_matrix(trained_by_preset: dict[str, list], sets_by_preset: dict[str, LensDataset]) -> pd.DataFrame:
    """AUC of networks trained on one preset and tested on another: one row a pair (`trained`, `tested`), with `auc`
    (mean over the networks of a preset, one a seed), `low` and `high` over test images and seeds, `seeds` and `images`.

    A preset has its `TrainedNetwork`s, and the images they are tested on: give the test part alone. Classes are matched
    by name, and only common ones count: images of a class that the network was not trained on are skipped, and
    probabilities of classes that the set has not are removed, the rest in proportion. Raises `DataError` where fewer
    than two classes are common.
    """
    rows = []
    for trained, runs in trained_by_preset.items():
        for tested, images in sets_by_preset.items():
            common = [name for name in images.classes if all(name in run.classes for run in runs)]
            common = [name for name in common if (images.catalogue["class"] == name).any()]
            if len(common) < 2:
                raise DataError(
                    f"trained on {trained} ({', '.join(runs[0].classes)}), tested on {tested} "
                    f"({', '.join(images.classes)}): fewer than two classes are common"
                )
            compared = images.subset(images.catalogue["class"].isin(common).to_numpy())
            labels = compared.catalogue["class"].map(common.index).to_numpy(int)
            found = []
            for run in runs:
                shown = [run.predict(compared.images[i : i + PIECE]) for i in range(0, len(compared), PIECE)]
                chosen = np.concatenate(shown)[:, [run.classes.index(name) for name in common]]
                found.append(chosen / np.maximum(chosen.sum(1, keepdims=True), 1e-300))
            low, high = interval(labels, found)
            row = {"trained": trained, "tested": tested, "auc": float(np.mean([auc(labels, one) for one in found]))}
            rows.append(row | {"low": low, "high": high, "seeds": len(runs), "images": len(compared)})
    return pd.DataFrame(rows)
