"""How unlike the training images an image is, judged by what the network sees in it and by how it looks.

The features before the last layer, together with the looks of the input (brightness, noise, size of the ring, to which
a network can be blind), form one cloud a class, all of one shape. An image is as strange as it is far from the nearest
cloud in units of that shape: the Mahalanobis distance of Lee et al. (2018, arXiv:1807.03888). The limit is the distance
that all but one in a hundred validation images stay below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["Distribution", "looks"]

QUANTILE = 0.99
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
RINGS = 6
METHOD = "Mahalanobis distance of features and looks of the input to the nearest class (Lee et al. 2018)"


def looks(images: np.ndarray) -> np.ndarray:
    """How inputs of a network `(N, C, S, S)` look, `(N, looks)`: quantiles of the pixels, mean brightness in rings
    about the middle, the logarithm of the difference between neighbours. They stay as they are when an image is turned
    by 90 degrees or reflected."""
    images = images.mean(axis=1, dtype=np.float64)
    size = images.shape[-1]
    y, x = np.indices((size, size)) - (size - 1) / 2
    ring = np.minimum(np.hypot(x, y) / (size / 2) * RINGS, RINGS).astype(int)
    rings = [images[:, ring == number].mean(axis=1) for number in range(RINGS)]
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (1, 2)]
    rough = np.median(np.concatenate(steps, axis=1), axis=1)
    return np.stack([*np.quantile(images, QUANTILES, axis=(1, 2)), *rings, np.log(rough + 1e-6)], axis=1)


@dataclass
class Distribution:
    """Class means `(classes, F)`, a matrix `(F, F)` that makes the spread around them round, and the `limit` that
    tells strange images: `strangeness` is the distance divided by it, so above 1 is strange."""

    means: np.ndarray
    whitening: np.ndarray
    limit: float = 1.0

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Distribution:
        """From features and looks `(N, F)` of training images. The covariance is shrunk (Ledoit and Wolf 2004), so
        that it can be inverted where images are few or features idle."""
        from sklearn.covariance import ledoit_wolf

        present, index = np.unique(labels, return_inverse=True)
        means = np.stack([features[index == i].mean(0) for i in range(len(present))])
        centred = features - means[index]
        spread = np.maximum(centred.std(0), 1e-6 * np.abs(features).max())  # an idle feature says nothing
        covariance, _ = ledoit_wolf(centred / spread, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        return cls(means, vectors / np.sqrt(values) / spread[:, None])

    def settle(self, features: np.ndarray) -> dict:
        """Set the limit from features of validation images; returns what the card says of it."""
        self.limit = 1.0
        self.limit = float(np.quantile(self.strangeness(features), QUANTILE))
        return {
            "method": METHOD,
            "threshold": self.limit,
            "quantile": QUANTILE,
            "validation_images": len(features),
        }

    def strangeness(self, features: np.ndarray) -> np.ndarray:
        """`(N,)`: the distance to the nearest class, 1 at the limit."""
        distances = [np.linalg.norm((features - mean) @ self.whitening, axis=1) for mean in self.means]
        return np.min(distances, axis=0) / self.limit

    def save(self, file: Path) -> Path:
        arrays = {
            "means": self.means,
            "whitening": np.ascontiguousarray(self.whitening),
            "limit": np.array([self.limit]),
        }
        save_file(arrays, file)
        return file

    @classmethod
    def load(cls, file: Path) -> Distribution:
        arrays = load_file(file)
        return cls(arrays["means"], arrays["whitening"], float(arrays["limit"][0]))
