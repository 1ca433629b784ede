"""Is an image in the distribution of the training images? Judged by the features of a network and by the image itself.

The prediction depends on the features before the last layer; what is measured on the input stands beside them, because
a network can be blind to what is wrong with an image. Five distances are taken: of the features to the nearest class
and of image statistics to those of the training images, both Mahalanobis distances (Lee et al. 2018, arXiv:1807.03888)
with a shrunk covariance (Ledoit and Wolf 2004); of the single statistic that is furthest out; and, of a thumbnail of
the image, among the principal components of training images and off them. Each is in units of what few held-out images
exceed, and the OOD score is the largest, so that what one distance misses is left to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.fft
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lensstudy.files import regular

__all__ = ["Gaussians", "OODDetector", "PrincipalComponents", "Ranges", "image_statistics", "thumbnails"]

QUANTILE = 0.97  # of held-out images that are in distribution: among a few hundred, surely below 5 % false alarms
PIXEL_QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
TAIL = 0.003  # of training images beyond the range of a statistic, on either side
RINGS = 6
FREQUENCIES = 10
THUMBNAIL = 24  # pixels a side: a second lens or a star stays visible, and noise averages out
COMPONENTS = 64
METHOD = (
    "largest of five distances: Mahalanobis distances of features to the nearest class (Lee et al. 2018) and of image "
    "statistics, the image statistic that is furthest out, and those of a thumbnail among and off principal components"
)


def image_statistics(images: np.ndarray) -> np.ndarray:
    """Measure statistics of network inputs that do not change under rotations by 90 degrees and reflections.

    Of the mean over channels they are: nine quantiles of the pixels; the mean brightness in six rings about the centre,
    and the logarithms of its scatter and of its difference to the image rotated by 180 degrees in each ring; the
    logarithm of the median difference of a pixel to its neighbours; the power in ten bands of spatial frequency; the
    brightness of the four sides and of the four quarters, in order; a circle fitted to the light (offset, radius,
    thickness), how far outside of it the brightest pixels are, and the offset of the centroid of the light; the row or
    column and the pixel that stand out most from their neighbours, up and down; and how many pixels are exactly and
    nearly as bright as the brightest, exactly and nearly as faint as the faintest, and nearly what their neighbours
    are on the mean; and how many pairs of neighbours are equal.

    Args:
        images: inputs of a network, after `Preprocess`, `(N, C, S, S)`.

    Returns:
        `(N, 61)`, float64.

    Example:
        >>> images = np.random.default_rng(0).normal(size=(5, 1, 32, 32)).astype(np.float32)
        >>> statistics = image_statistics(images)
        >>> statistics.shape, np.allclose(statistics, image_statistics(np.rot90(images, axes=(2, 3))), atol=1e-4)
        ((5, 61), True)
    """
    images = images.mean(axis=1, dtype=np.float64).astype(np.float32) if images.shape[1] > 1 else images[:, 0]
    images = np.ascontiguousarray(images, np.float32)
    pixels, plan = images.reshape(len(images), -1), _Plan.of(images.shape[-1])
    with np.errstate(all="ignore"):  # inputs may be infinite
        ordered = np.sort(pixels, axis=1)
        quantiles = _quantiles(ordered, PIXEL_QUANTILES)
        outstanding, steps = _outstanding(images)
        middle = steps.shape[1] // 2
        steps.partition(middle, axis=1)
        step = steps[:, middle, None] + np.float32(1e-6)
        means = pixels @ plan.means
        rings, sides, quarters = means[:, :RINGS], means[:, RINGS : RINGS + 4], means[:, RINGS + 4 :]
        centred = pixels - quantiles[:, 3:4].astype(np.float32)
        scatter = centred**2 @ plan.means[:, :RINGS] - (centred @ plan.means[:, :RINGS]) ** 2
        asymmetry = np.abs(pixels - pixels[:, ::-1]) @ plan.means[:, :RINGS]
        spectrum = scipy.fft.rfft2(images)
        power = (spectrum.real**2 + spectrum.imag**2).reshape(len(images), -1) @ plan.frequencies
        alike = np.float32(0.02) * step
        low, high = ordered[:, :1], ordered[:, -1:]
        counts = [ordered == high, ordered == low, ordered > high - alike, ordered < low + alike]
        counts += [steps[:, :middle] < alike, images[:, 1:] == images[:, :-1], images[..., 1:] == images[..., :-1]]
        bright, faint, brighter, fainter, smooth, down, across = (
            np.count_nonzero(count.reshape(len(images), -1), axis=1) for count in counts
        )
        numbers = np.stack([bright, faint, brighter, fainter, smooth, down + across], axis=1)
        light = np.maximum(centred - 3 * step, 0)
        found = [
            quantiles,
            rings,
            np.log(np.maximum(scatter, 0) + 1e-6),
            np.log(asymmetry + 1e-6),
            np.log(step),
            np.log(power + 1e-6),
            np.sort(sides, axis=1),
            np.sort(quarters, axis=1),
            _circle(light, (pixels > high - alike).astype(np.float32), plan),
            np.log(np.maximum(outstanding, 0) + 1e-6),
            np.log(numbers + 1.0),
        ]
    return np.concatenate(found, axis=1, dtype=np.float64)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Average network inputs `(N, C, S, S)` over channels and into at most 24 x 24 pixels: `(N, T * T)`, float32."""
    bins = _Plan.of(images.shape[-1]).bins
    return (bins.T @ images.mean(axis=1, dtype=np.float32) @ bins).reshape(len(images), -1)


@dataclass(frozen=True)
class _Plan:
    """What the statistics of images of one size share: `means` `(S * S, 14)` takes the mean in each ring, on each side
    and in each quarter, `frequencies` that of a power spectrum in each band, `moments` `(S * S, 9)` the sums that a
    circle is fitted by, and `bins` `(S, T)` the means over the pixels of a thumbnail."""

    means: np.ndarray
    frequencies: np.ndarray
    moments: np.ndarray
    bins: np.ndarray

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, size: int) -> _Plan:
        y, x = (np.indices((size, size)) - (size - 1) / 2) / (size / 2)
        ring = (np.hypot(x, y) * RINGS).astype(int)
        width = max(1, size // 16)
        edge = 1 - 2 * width / size
        regions = [ring == number for number in range(RINGS)]
        regions += [x > edge, x < -edge, y > edge, y < -edge]
        regions += [(a * x > 0) & (b * y > 0) for a in (1, -1) for b in (1, -1)]
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
        twice = np.where((np.fft.rfftfreq(size) > 0) & (np.fft.rfftfreq(size) < 0.5), 2, 1)  # it stands for -f too
        bands = [(frequency > 0) & ((frequency * 2 * FREQUENCIES).astype(int) == n) for n in range(FREQUENCIES)]
        r2 = x**2 + y**2
        moments = [np.ones_like(x), x, y, x * x, x * y, y * y, x * r2, y * r2, r2 * r2]
        number = min(size, THUMBNAIL)
        edges = np.arange(number + 1) * size / number
        pixel = np.arange(size)[:, None]
        overlap = np.minimum(pixel + 1, edges[1:]) - np.maximum(pixel, edges[:-1])
        return cls(
            np.stack([one.ravel() / max(1, one.sum()) for one in regions], axis=1).astype(np.float32),
            np.stack([(one * twice).ravel() / max(1, (one * twice).sum()) for one in bands], axis=1).astype(np.float32),
            np.stack([one.ravel() for one in moments], axis=1).astype(np.float32),
            (np.maximum(overlap, 0) * number / size).astype(np.float32),
        )


def _circle(light: np.ndarray, brightest: np.ndarray, plan: _Plan) -> np.ndarray:
    """Of a circle fitted to the light `(N, S * S)` (Kasa 1976) the offset from the centre, the radius and the logarithm
    of the thickness; how far outside of it the brightest pixels are; and the offset of the centroid `(N, 5)`. All are
    in half sizes."""
    sums = np.nan_to_num((light @ plan.moments).astype(np.float64), posinf=0, neginf=0)
    one, x, y, xx, xy, yy, xr, yr, rr = (sums / (sums[:, :1] + 1e-6)).T
    matrix = np.stack([xx, xy, x, xy, yy, y, x, y, one], axis=1).reshape(-1, 3, 3) + 1e-3 * np.eye(3)
    right = np.stack([xr, yr, xx + yy], axis=1)
    found = np.linalg.solve(matrix, right[..., None])[..., 0]
    offset = np.hypot(found[:, 0], found[:, 1]) / 2
    radius = np.sqrt(np.maximum(found[:, 2] + offset**2, 1e-6))
    thickness = np.maximum(rr - (found * right).sum(axis=1), 0) / (4 * radius**2)
    there = brightest @ plan.moments[:, [0, 1, 2, 3, 5]]
    there = there[:, 1:].astype(np.float64) / np.maximum(there[:, :1], 1)
    outside = there[:, 2] + there[:, 3] - (found[:, :2] * there[:, :2]).sum(axis=1) - found[:, 2]
    return np.stack([offset, radius, np.log(thickness + 1e-4), outside / (2 * radius), np.hypot(x, y)], axis=1)


def _outstanding(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the row or column, and the pixel, that stand out most are above and below the mean of their neighbours
    `(N, 4)`, and how far every pixel is from that `(N, M)`."""
    lines = np.concatenate([images.mean(axis=1), images.mean(axis=2)]).reshape(2, len(images), -1)
    lines = (lines[..., 1:-1] - (lines[..., 2:] + lines[..., :-2]) / 2).transpose(1, 0, 2).reshape(len(images), -1)
    around = images[:, :-2, 1:-1] + images[:, 2:, 1:-1] + images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
    single = (images[:, 1:-1, 1:-1] - around / 4).reshape(len(images), -1)
    extremes = [lines.max(axis=1), -lines.min(axis=1), single.max(axis=1), -single.min(axis=1)]
    return np.stack(extremes, axis=1), np.abs(single, out=single)


def _quantiles(ordered: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Those of each row of sorted values `(N, M)`, as `numpy.quantile` defines them."""
    last = ordered.shape[1] - 1
    below = np.array([min(int(share * last), last - 1) for share in shares])
    low, high = (ordered[:, at].astype(np.float64) for at in (below, below + 1))
    return low + (np.array(shares) * last - below) * (high - low)


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
class Ranges:
    """The usual range of each statistic: `middle`, its median, and how far it reaches `below` and `above`, `(L,)`."""

    middle: np.ndarray
    below: np.ndarray
    above: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> Ranges:
        """From `values` `(N, L)`."""
        low, middle, high = np.quantile(values, (TAIL, 0.5, 1 - TAIL), axis=0)
        least = 0.01 * np.median(high - low) + 1e-12  # of a constant one
        return cls(middle, np.maximum(middle - low, least), np.maximum(high - middle, least))

    def distance(self, values: np.ndarray) -> np.ndarray:
        """How far the statistic that is furthest out lies from the middle, in units of its range, squared `(N,)`."""
        apart = values - self.middle
        return np.square(np.maximum(apart / self.above, -apart / self.below).max(axis=1))


@dataclass(frozen=True)
class PrincipalComponents:
    """What thumbnails have in common, in every orientation: their `mean` `(P,)`, the directions in which they differ
    most `basis` `(P, K)`, and the `variances` along these `(K,)`."""

    mean: np.ndarray
    basis: np.ndarray
    variances: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray) -> PrincipalComponents:
        """From thumbnails `values` `(N, T * T)`, rotated by 90 degrees and reflected in all ways."""
        side = int(values.shape[1] ** 0.5)
        places = np.arange(side**2).reshape(side, side)
        orders = [np.rot90(each, quarters).ravel() for each in (places, places.T) for quarters in range(4)]
        mean = values.mean(axis=0, dtype=np.float64)
        mean = np.mean([mean[order] for order in orders], axis=0)
        apart = values - mean
        covariance = apart.T @ apart / len(values)
        covariance = np.mean([covariance[np.ix_(order, order)] for order in orders], axis=0)
        variances, basis = _components(covariance, side)
        number = max(1, min(COMPONENTS, len(values) // 4, side**2 // 2))
        while number > 1 and variances[number] > (1 - 1e-6) * variances[number - 1]:
            number -= 1  # two components that rotations mix stay together
        kept = basis[:, :number].astype(np.float32).astype(np.float64)  # as it is written, so that limits hold for it
        return cls(mean, kept, np.maximum(variances[:number], 1e-12))

    def distances(self, values: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance among the components, divided by their number, and mean square of what they
        leave `(N, 2)`."""
        apart = values - self.mean
        along = apart @ self.basis
        left = apart - along @ self.basis.T  # not the difference of squares, in which the rounding of a basis shows
        return np.stack([(along**2 / self.variances).mean(axis=1), (left**2).mean(axis=1)], axis=1)


def _components(covariance: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances and directions of the principal components of images of `side` pixels whose `covariance` is that of all
    their orientations, the largest first: each direction is even or odd from top to bottom and from left to right, and
    one that is not the same along both has its transpose beside it."""
    whole, reflected = np.eye(side), np.eye(side)[::-1]
    halves = {sign: (whole + sign * reflected)[: (side + (sign > 0)) // 2] for sign in (1, -1)}
    halves = {sign: half / np.linalg.norm(half, axis=1, keepdims=True) for sign, half in halves.items()}
    found = []
    for down, across in ((1, 1), (-1, -1), (1, -1)):
        quarter = np.kron(halves[down], halves[across])
        variances, directions = np.linalg.eigh(quarter @ covariance @ quarter.T)
        directions = (quarter.T @ directions).reshape(side, side, -1)
        found.append((variances, directions))
        if down != across:
            found.append((variances, directions.swapaxes(0, 1)))
    variances, directions = (np.concatenate(part, axis=-1) for part in zip(*found, strict=True))
    order = np.argsort(-variances, kind="stable")
    return variances[order], directions.reshape(side**2, -1)[:, order]


def _quarters(basis: np.ndarray) -> dict[str, np.ndarray]:
    """The upper left quarters `(K, h, h)` of principal components `(P, K)`, and whether the others are these or minus
    these, down and across `(K, 2)`."""
    side = int(len(basis) ** 0.5)
    images, half = basis.T.reshape(-1, side, side), (side + 1) // 2
    signs = [np.sign((images * np.flip(images, axis)).sum(axis=(1, 2))) for axis in (1, 2)]
    return {"quarters": images[:, :half, :half], "signs": np.stack(signs, axis=1)}


def _whole(quarters: np.ndarray, signs: np.ndarray, side: int) -> np.ndarray:
    """The principal components `(P, K)` of which `_quarters` has taken quarters."""
    for axis in (1, 2):
        others = np.flip(quarters, axis).take(range(side % 2, quarters.shape[axis]), axis)
        quarters = np.concatenate([quarters, others * signs[:, axis - 1, None, None]], axis)
    return quarters.reshape(len(quarters), -1).T


@dataclass(frozen=True)
class OODDetector:
    """A detector of images that are out of the distribution of the training images.

    Attributes:
        features: where the features of the training images lie, by class.
        statistics: where their image statistics lie, over all classes.
        ranges: the range of each of these statistics.
        components: the principal components of their thumbnails.
        limits: squared distances `(5,)` at which the OOD score is 1: of features, of statistics, from the ranges, among
            the components and off them.

    Example:
        >>> draw = np.random.default_rng(0).normal
        >>> known, held_out = ([draw(size=(200, number)) for number in (4, 3, 16)] for _ in range(2))
        >>> detector = OODDetector.fit(*known, np.arange(200) % 2, held_out)
        >>> detector.score(np.full((1, 4), 9.0), np.zeros((1, 3)), np.zeros((1, 16))) > 1
        array([ True])
    """

    features: Gaussians
    statistics: Gaussians
    ranges: Ranges
    components: PrincipalComponents
    limits: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        statistics: np.ndarray,
        thumbnails: np.ndarray,
        labels: np.ndarray,
        held_out: Sequence[np.ndarray],
    ) -> OODDetector:
        """Fit to training images, with limits such that three held-out images in a hundred have a score above 1.

        Args:
            features: `network.features` of training images, `(N, F)`.
            statistics: `image_statistics` of the same images, `(N, L)`.
            thumbnails: `thumbnails` of the same images, `(N, T * T)`.
            labels: their classes `(N,)`.
            held_out: features `(M, F)`, statistics `(M, L)` and thumbnails `(M, T * T)` of other images of the same
                kind.
        """
        fitted = (
            Gaussians.fit(features, labels),
            Gaussians.fit(statistics, np.zeros(len(statistics))),
            Ranges.fit(statistics),
            PrincipalComponents.fit(thumbnails),
        )
        distances = cls(*fitted, np.ones(5))._distances(*held_out)
        limits = np.quantile(distances, QUANTILE, axis=0)
        share = min(1, QUANTILE * (1 + 1 / len(distances)))  # of few images the quantile itself is exceeded too often
        return cls(*fitted, limits * np.quantile((distances / limits).max(axis=1), share, method="higher"))

    def score(self, features: np.ndarray, statistics: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
        """Score images by how far they are from the training images.

        Args:
            features: `network.features` of images `(N, F)`.
            statistics: `image_statistics` of the same images `(N, L)`.
            thumbnails: `thumbnails` of the same images `(N, T * T)`.

        Returns:
            OOD scores `(N,)`: above 1 is out of distribution; infinite where a value is not finite.
        """
        distances = self._distances(features, statistics, thumbnails)
        return np.sqrt(np.where(np.isfinite(distances), distances / self.limits, np.inf).max(axis=1))

    def _distances(self, features: np.ndarray, statistics: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # inputs may be infinite
            own = self.features.distance(features), self.statistics.distance(statistics)
            others = self.ranges.distance(statistics), self.components.distances(thumbnails)
            return np.column_stack([*own, *others])

    def save(self, file: Path) -> Path:
        """Write to a `.safetensors` file, in float32: scores stay the same to 1e-5. Of the principal components, which
        are most of it, a quarter is written, and the rest follows by symmetry."""
        arrays = {
            f"{name}.{part}": array
            for name in ("features", "statistics", "ranges", "components")
            for part, array in vars(getattr(self, name)).items()
        }
        arrays |= {f"components.{part}": array for part, array in _quarters(arrays.pop("components.basis")).items()}
        written = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        save_file(written | {"limits": self.limits}, file)
        return file

    @classmethod
    def load(cls, file: Path) -> OODDetector:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else, such as the detector of an earlier version.
        """
        try:
            arrays = {name: array.astype(np.float64) for name, array in load_file(regular(file)).items()}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file}: is damaged ({error}); export the network again") from None
        try:  # whether the parts are there and fit each other
            side = int(arrays["components.mean"].size ** 0.5)
            arrays["components.basis"] = _whole(arrays["components.quarters"], arrays["components.signs"], side)
            parts = (
                _part(Gaussians, arrays, "features"),
                _part(Gaussians, arrays, "statistics"),
                _part(Ranges, arrays, "ranges"),
                _part(PrincipalComponents, arrays, "components"),
            )
            detector = cls(*parts, arrays["limits"])
            measured = detector.features.deviations, detector.statistics.deviations, detector.components.mean
            distances = detector._distances(*(np.zeros((1, values.size)) for values in measured))
            if detector.limits.shape != distances.shape[1:]:
                raise ValueError(f"{detector.limits.size} limits of {distances.shape[1]} distances")
        except KeyError as error:
            raise ValueError(f"{file}: has no {error}; export the network again") from error
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: has parts that do not fit each other ({error}); export again") from None
        return detector


Part = TypeVar("Part", Gaussians, Ranges, PrincipalComponents)


def _part(kind: type[Part], arrays: dict[str, np.ndarray], name: str) -> Part:
    """The part of a detector that is called `name`. Raises `KeyError` where an array of it is missing."""
    return kind(*(arrays[f"{name}.{one.name}"] for one in fields(kind)))
