"""Is an image in the distribution of the training images? Judged by the features of a network and by image statistics.

The prediction depends on the features before the last layer; statistics of the input itself (brightness, noise, size of
the ring) stand beside them because a network can be blind to what is wrong with an image. Either is compared with the
training images by a Mahalanobis distance to the nearest class (Lee et al. 2018, arXiv:1807.03888) with a shrunk
covariance (Ledoit and Wolf 2004), in units of what one held-out image in a hundred exceeds. The OOD score is the larger
of the two distances, so that heavy tails of the features do not hide unusual statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["Gaussians", "OODDetector", "image_statistics"]

QUANTILE = 0.99
PIXEL_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
RINGS = 6
METHOD = "larger Mahalanobis distance, of features to the nearest class or of image statistics (Lee et al. 2018)"


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Measure statistics of network inputs that do not change under rotations by 90 degrees and reflections.

    They are nine quantiles of the pixels, the mean brightness in six rings about the centre, and the logarithm of the
    median difference between neighbouring pixels, of the mean over channels.

    Args:
        images: inputs of a network, after `Preprocess`, `(N, C, S, S)`.

    Returns:
        `(N, 16)`, float64.

    Example:
        >>> images = np.random.default_rng(0).normal(size=(5, 1, 32, 32)).astype(np.float32)
        >>> statistics = image_statistics(images)
        >>> statistics.shape, np.allclose(statistics, image_statistics(np.rot90(images, axes=(2, 3))))
        ((5, 16), True)
    """
    images = images.mean(axis=1, dtype=np.float64).astype(np.float32)
    size = images.shape[-1]
    y, x = np.indices((size, size)) - (size - 1) / 2
    ring = np.minimum(np.hypot(x, y) / (size / 2) * RINGS, RINGS).astype(int)
    rings = [images[:, ring == number].mean(axis=1, dtype=np.float64) for number in range(RINGS)]
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (1, 2)]
    step = _quantiles(np.concatenate(steps, axis=1), (0.5,))[0]
    return np.stack(
        [*_quantiles(images.reshape(len(images), -1), PIXEL_QUANTILES), *rings, np.log(step + 1e-6)], axis=1
    )


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
    """Those of each row of `values` `(N, M)`, as `numpy.quantile` defines them, from one sort."""
    ordered, last = np.sort(values, axis=1).astype(np.float64), values.shape[1] - 1
    below = [min(int(share * last), last - 1) for share in shares]
    return [
        ordered[:, i] + (share * last - i) * (ordered[:, i + 1] - ordered[:, i])
        for i, share in zip(below, shares, strict=True)
    ]


@dataclass(frozen=True)
class Gaussians:
    """One normal distribution a class with a common covariance: `means` `(classes, F)`, the standard deviations within
    classes `deviations` `(F,)`, and the inverse covariance `precision` `(F, F)` in units of them."""

    means: np.ndarray
    deviations: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, labels: np.ndarray) -> Gaussians:
        """From `values` `(N, F)` and their classes `(N,)`."""
        from sklearn.covariance import LedoitWolf

        present, index = np.unique(labels, return_inverse=True)
        means = np.stack([values[index == i].mean(axis=0) for i in range(len(present))])
        within = values - means[index]
        deviations = within.std(axis=0)
        deviations = np.maximum(deviations, 0.01 * np.quantile(deviations, 0.9) + 1e-12)  # a constant one counts little
        return cls(means, deviations, LedoitWolf(assume_centered=True).fit(within / deviations).precision_)

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance `(N,)` to the nearest class, divided by the number of values."""
        apart = (values[:, None] - self.means) / self.deviations
        return np.einsum("nci,nci->nc", apart @ self.precision, apart).min(axis=1) / values.shape[1]


@dataclass(frozen=True)
class OODDetector:
    """A detector of images that are out of the distribution of the training images.

    Attributes:
        features: where the features of the training images lie, by class.
        statistics: where their image statistics lie, over all classes.
        limits: squared distances `(2,)`, of features and of statistics, at which the OOD score is 1.

    Example:
        >>> draw = np.random.default_rng(0).normal
        >>> held_out = draw(size=(200, 4)), draw(size=(200, 3))
        >>> detector = OODDetector.fit(draw(size=(200, 4)), draw(size=(200, 3)), np.arange(200) % 2, held_out)
        >>> detector.score(np.full((1, 4), 9.0), np.zeros((1, 3))) > 1
        array([ True])
    """

    features: Gaussians
    statistics: Gaussians
    limits: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        statistics: np.ndarray,
        labels: np.ndarray,
        held_out: tuple[np.ndarray, np.ndarray],
    ) -> OODDetector:
        """Fit to training images, with limits such that one held-out image in a hundred has a score above 1.

        Args:
            features: `network.features` of training images, `(N, F)`.
            statistics: `image_statistics` of the same images, `(N, L)`.
            labels: their classes `(N,)`.
            held_out: features `(M, F)` and statistics `(M, L)` of other images of the same kind.
        """
        by_class, of_all = Gaussians.fit(features, labels), Gaussians.fit(statistics, np.zeros(len(statistics)))
        distances = cls(by_class, of_all, np.ones(2))._distances(*held_out)
        limits = np.quantile(distances, QUANTILE, axis=0)
        return cls(by_class, of_all, limits * np.quantile((distances / limits).max(axis=1), QUANTILE))

    def score(self, features: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        """Score images by how far they are from the training images.

        Args:
            features: `network.features` of images `(N, F)`.
            statistics: `image_statistics` of the same images `(N, L)`.

        Returns:
            OOD scores `(N,)`: above 1 is out of distribution; infinite where a value is not finite.
        """
        distances = self._distances(features, statistics)
        return np.sqrt(np.where(np.isfinite(distances), distances / self.limits, np.inf).max(axis=1))

    def _distances(self, features: np.ndarray, statistics: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # inputs may be infinite
            return np.stack([self.features.distance(features), self.statistics.distance(statistics)], axis=1)

    def save(self, file: Path) -> Path:
        """Write to a `.safetensors` file."""
        arrays = {
            f"{name}.{part}": np.ascontiguousarray(array)
            for name, fitted in (("features", self.features), ("statistics", self.statistics))
            for part, array in vars(fitted).items()
        }
        save_file(arrays | {"limits": self.limits}, file)
        return file

    @classmethod
    def load(cls, file: Path) -> OODDetector:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        arrays = load_file(file)
        parts = ("means", "deviations", "precision")
        try:
            fitted = [Gaussians(*(arrays[f"{name}.{part}"] for part in parts)) for name in ("features", "statistics")]
            return cls(*fitted, arrays["limits"])
        except KeyError as error:
            raise ValueError(f"{file}: has no {error}; export the network again") from error
