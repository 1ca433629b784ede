"""How unlike the training images an image is, judged by what the network itself sees in it.

The features before the last layer of the training images form one cloud a class, all of one shape. An image is as
strange as its features are far from the nearest cloud, in units of that shape: the Mahalanobis distance of Lee et al.
(2018, arXiv:1807.03888). The limit is the distance that all but one in a hundred validation images stay below.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["Distribution"]

QUANTILE = 0.99
METHOD = "Mahalanobis distance of the features before the last layer to the nearest class (Lee et al. 2018)"


@dataclass
class Distribution:
    """Class means `(classes, F)`, a matrix `(F, F)` that makes the spread around them round, and the `limit` that
    tells strange images: `strangeness` is the distance divided by it, so above 1 is strange."""

    means: np.ndarray
    whitening: np.ndarray
    limit: float = 1.0

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray) -> Distribution:
        """From features `(N, F)` of training images. The covariance is shrunk (Ledoit and Wolf 2004), so that it can
        be inverted where images are few or features idle."""
        from sklearn.covariance import ledoit_wolf

        means = np.stack([features[labels == label].mean(0) for label in np.unique(labels)]).astype(np.float64)
        centred = features - means[np.searchsorted(np.unique(labels), labels)]
        covariance, _ = ledoit_wolf(centred, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-9 * values.max()))
        return cls(means, whitening)

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
