"""How unlike the training images an image is, judged by what the network sees in it and by how it looks.

The features before the last layer are what the answer hangs on; the looks of the input (brightness, noise, size of the
ring) are there because a network can be blind to what is odd. Either is compared with training-like images by a
Mahalanobis distance to the nearest class (Lee et al. 2018, arXiv:1807.03888) with a shrunk covariance (Ledoit and Wolf
2004), in units of what one held-out image in a hundred exceeds, and the larger of the two counts: features that are
wild by themselves must not shout down what an image looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["Cloud", "Distribution", "looks"]

QUANTILE = 0.99
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
RINGS = 6
METHOD = "larger Mahalanobis distance, of features to the nearest class or of looks of the input (Lee et al. 2018)"


def looks(images: np.ndarray) -> np.ndarray:
    """How inputs of a network `(N, C, S, S)` look, `(N, looks)`: quantiles of the pixels, mean brightness in rings
    about the middle, the logarithm of the difference between neighbours; channels averaged. They stay as they are when
    an image is turned by 90 degrees or reflected."""
    images = images.mean(axis=1, dtype=np.float64).astype(np.float32)
    size = images.shape[-1]
    y, x = np.indices((size, size)) - (size - 1) / 2
    ring = np.minimum(np.hypot(x, y) / (size / 2) * RINGS, RINGS).astype(int)
    rings = [images[:, ring == number].mean(axis=1, dtype=np.float64) for number in range(RINGS)]
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (1, 2)]
    rough = _quantiles(np.concatenate(steps, axis=1), (0.5,))[0]
    return np.stack([*_quantiles(images.reshape(len(images), -1), QUANTILES), *rings, np.log(rough + 1e-6)], axis=1)


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
    """Those of each row of `values` `(N, M)`, as numpy has them."""
    ordered, last = np.sort(values, axis=1).astype(np.float64), values.shape[1] - 1
    below = [min(int(share * last), last - 1) for share in shares]
    return [
        ordered[:, i] + (share * last - i) * (ordered[:, i + 1] - ordered[:, i])
        for i, share in zip(below, shares, strict=True)
    ]


@dataclass(frozen=True)
class Cloud:
    """Where the features of known images lie: class means `(classes, F)`, their spread within classes `(F,)` and the
    inverse covariance `(F, F)` in units of it."""

    means: np.ndarray
    spread: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, seen: np.ndarray, labels: np.ndarray) -> Cloud:
        """From features `(N, F)` and their classes `(N,)`."""
        from sklearn.covariance import LedoitWolf

        present, index = np.unique(labels, return_inverse=True)
        means = np.stack([seen[index == i].mean(axis=0) for i in range(len(present))])
        within = seen - means[index]
        spread = within.std(axis=0)
        spread = np.maximum(spread, 0.01 * np.quantile(spread, 0.9) + 1e-12)  # a feature that hardly lives says little
        return cls(means, spread, LedoitWolf(assume_centered=True).fit(within / spread).precision_)

    def distance(self, seen: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance `(N,)` to the nearest class, a feature."""
        apart = (seen[:, None] - self.means) / self.spread
        return np.einsum("nci,nci->nc", apart @ self.precision, apart).min(axis=1) / seen.shape[1]


@dataclass(frozen=True)
class Distribution:
    """The clouds of features and of looks, and the squared distances `far` `(2,)` to either at which an image begins to
    be strange."""

    features: Cloud
    looks: Cloud
    far: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, looks: np.ndarray, labels: np.ndarray) -> Distribution:
        """From features `(N, F)`, looks `(N, L)` and classes `(N,)` of images like those of the training; `settled`
        sets the limits."""
        return cls(Cloud.fit(features, labels), Cloud.fit(looks, np.zeros(len(looks))), np.ones(2))

    def settled(self, features: np.ndarray, looks: np.ndarray) -> Distribution:
        """With limits such that one in a hundred of these held-out images is beyond one or the other."""
        distances = self._distances(features, looks)
        far = np.quantile(distances, QUANTILE, axis=0)
        return replace(self, far=far * np.quantile((distances / far).max(axis=1), QUANTILE))

    def strangeness(self, features: np.ndarray, looks: np.ndarray) -> np.ndarray:
        """`(N,)`: the larger of the two distances, 1 at the limit; infinite for what is no number."""
        distances = self._distances(features, looks)
        return np.sqrt(np.where(np.isfinite(distances), distances / self.far, np.inf).max(axis=1))

    def _distances(self, features: np.ndarray, looks: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # pixels beyond all bounds
            return np.stack([self.features.distance(features), self.looks.distance(looks)], axis=1)

    def save(self, file: Path) -> Path:
        arrays = {
            f"{name}.{part}": np.ascontiguousarray(array)
            for name, cloud in (("features", self.features), ("looks", self.looks))
            for part, array in vars(cloud).items()
        }
        save_file(arrays | {"far": self.far}, file)
        return file

    @classmethod
    def load(cls, file: Path) -> Distribution:
        """What `save` wrote. Raises `ValueError` for a file that holds something else."""
        arrays = load_file(file)
        parts = ("means", "spread", "precision")
        try:
            features, looks = (Cloud(*(arrays[f"{name}.{part}"] for part in parts)) for name in ("features", "looks"))
            return cls(features, looks, arrays["far"])
        except KeyError as error:
            raise ValueError(f"{file}: has no {error}; export the network again") from error
