"""Images that no training set holds, made from clean ones: faults of a detector, bad cutouts, another sky.

They measure how many odd images a network would still give a class (`OODDetector`). Each kind is a function of clean
images and a generator; brightness is in units of each image's own sky, noise and peak, lengths in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lensstudy.progress import progress

__all__ = ["KINDS", "count_named", "odd_images"]

CLEAN = 500  # clean images that false alarms are counted among, at most


class _Images(NamedTuple):
    """Clean images `(N, C, H, W)`, float64, and of each its sky, noise and peak above the sky `(N, C, 1, 1)`."""

    pixels: np.ndarray
    sky: np.ndarray
    noise: np.ndarray
    peak: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray) -> _Images:
        pixels = np.asarray(images, np.float64)
        width = max(1, pixels.shape[-1] // 12)
        frame = np.ones(pixels.shape[-2:], bool)
        frame[width:-width, width:-width] = False
        border = pixels[..., frame]
        sky = np.median(border, axis=-1)[..., None, None]
        noise = 1.4826 * np.median(np.abs(border - sky[..., 0]), axis=-1)[..., None, None]
        return cls(pixels, sky, noise, pixels.max((2, 3), keepdims=True) - sky)

    def shares(self, low: float, high: float, generator: np.random.Generator) -> np.ndarray:
        """A random share of the peak for each image `(N, 1, 1, 1)`."""
        return generator.uniform(low, high, (len(self.pixels), 1, 1, 1)) * self.peak

    def places(self, near: float, far: float, generator: np.random.Generator) -> np.ndarray:
        """A random place for each image `(N, 2)`: row and column, at a distance from the centre in half sizes."""
        size = self.pixels.shape[-1]
        radius, angle = (
            generator.uniform(near, far, len(self.pixels)),
            generator.uniform(0, 2 * np.pi, len(self.pixels)),
        )
        return (size - 1) / 2 + size / 2 * (radius * np.stack([np.sin(angle), np.cos(angle)])).T

    def distances(self, places: np.ndarray) -> np.ndarray:
        """Rows and columns `(2, N, 1, H, W)` from each image's place."""
        grid = np.indices(self.pixels.shape[-2:])[:, None, None]
        return grid - places.T[:, :, None, None, None]

    def sky_noise(self, generator: np.random.Generator) -> np.ndarray:
        return self.sky + self.noise * generator.normal(size=self.pixels.shape)


Kind = Callable[[_Images, np.random.Generator], np.ndarray]


# Faults of a detector -------------------------------------------------------------------------------------------------


def _saturated(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return np.minimum(images.pixels, images.sky + images.shares(0.3, 0.6, generator))


def _dead_line(images: _Images, generator: np.random.Generator, width: int = 1) -> np.ndarray:
    """Columns of half the images, rows of the others, are 0."""
    pixels, size = images.pixels.copy(), images.pixels.shape[-1]
    for number, start in enumerate(generator.integers(size // 4, 3 * size // 4, len(pixels))):
        view = pixels[number] if number % 2 else pixels[number].swapaxes(1, 2)
        view[..., start : start + width] = 0
    return pixels


def _dead_quarter(images: _Images, generator: np.random.Generator) -> np.ndarray:
    pixels, half = images.pixels.copy(), images.pixels.shape[-1] // 2
    for number, (down, right) in enumerate(generator.integers(0, 2, (len(pixels), 2))):
        pixels[number, :, down * half : (down + 1) * half, right * half : (right + 1) * half] = 0
    return pixels


def _hot_pixel(images: _Images, generator: np.random.Generator) -> np.ndarray:
    down, right = np.abs(images.distances(np.rint(images.places(0, 0.5, generator))))
    return images.pixels + images.shares(1, 3, generator) * ((down == 0) & (right == 0))


def _cosmic_ray(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return images.pixels + images.shares(0.5, 2, generator) * _line(images, 0.15, 0.5, generator)


def _satellite_trail(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return images.pixels + images.shares(0.5, 1.5, generator) * _line(images, 9, 1.2, generator)


def _line(images: _Images, half_length: float, width: float, generator: np.random.Generator) -> np.ndarray:
    """A line of brightness 1 near the centre, in half sizes long and pixels wide."""
    down, right = images.distances(images.places(0, 0.5, generator))
    angle = generator.uniform(0, np.pi, (len(images.pixels), 1, 1, 1))
    along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    inside = np.abs(along) <= half_length * images.pixels.shape[-1] / 2
    return inside * np.exp(-((across / width) ** 2) / 2)


def _stripes(images: _Images, generator: np.random.Generator) -> np.ndarray:
    phase = 2 * np.pi * np.arange(images.pixels.shape[-1]) / generator.uniform(3, 8, (len(images.pixels), 1, 1, 1))
    return images.pixels + images.shares(0.1, 0.4, generator) * np.sin(phase)


def _noisier(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return images.pixels + images.shares(0.1, 0.3, generator) * generator.normal(size=images.pixels.shape)


def _few_levels(images: _Images, generator: np.random.Generator) -> np.ndarray:
    step = images.peak / generator.integers(4, 9, (len(images.pixels), 1, 1, 1))
    return images.sky + np.rint((images.pixels - images.sky) / step) * step


# Bad cutouts ----------------------------------------------------------------------------------------------------------


def _shifted(images: _Images, generator: np.random.Generator) -> np.ndarray:
    """By 4 to 8 pixels of an image of 48, what leaves on one side entering on the other."""
    size = images.pixels.shape[-1]
    distance = generator.uniform(4, 8, len(images.pixels)) * size / 48
    angle = generator.uniform(0, 2 * np.pi, len(images.pixels))
    steps = np.rint(distance * np.stack([np.sin(angle), np.cos(angle)])).astype(int)
    return np.stack([np.roll(one, step, (1, 2)) for one, step in zip(images.pixels, steps.T, strict=True)])


def _zoomed(images: _Images, factor: float) -> np.ndarray:
    """With pixels of another scale about the same centre; beyond the edge the image is reflected."""
    matrix, centre = np.eye(3) / (1, factor, factor), (images.pixels.shape[-1] - 1) / 2 * (1 - 1 / factor)
    moved = [ndimage.affine_transform(one, matrix, (0, centre, centre), mode="reflect") for one in images.pixels]
    return np.stack(moved)


def _blurred(images: _Images, generator: np.random.Generator) -> np.ndarray:
    widths = generator.uniform(1.5, 2.5, len(images.pixels))
    return np.stack([ndimage.gaussian_filter(one, (0, s, s)) for one, s in zip(images.pixels, widths, strict=True)])


def _gradient(images: _Images, generator: np.random.Generator) -> np.ndarray:
    down, right = images.distances(images.places(0, 0, generator)) / images.pixels.shape[-1]
    angle = generator.uniform(0, 2 * np.pi, (len(images.pixels), 1, 1, 1))
    return images.pixels + images.shares(0.3, 1, generator) * (down * np.sin(angle) + right * np.cos(angle))


def _inverted(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return images.pixels.max((2, 3), keepdims=True) + images.pixels.min((2, 3), keepdims=True) - images.pixels


def _scrambled(images: _Images, generator: np.random.Generator) -> np.ndarray:
    """Squares of an eighth of the side, each in the place of another."""
    tile = images.pixels.shape[-1] // 8
    pixels = images.pixels.copy()
    for number, one in enumerate(images.pixels):
        for place, source in enumerate(generator.permutation(64)):
            (i, j), (k, m) = (np.array(divmod(int(each), 8)) * tile for each in (place, source))
            pixels[number, :, i : i + tile, j : j + tile] = one[:, k : k + tile, m : m + tile]
    return pixels


def _masked_centre(images: _Images, generator: np.random.Generator) -> np.ndarray:
    distance = np.hypot(*images.distances(images.places(0, 0, generator)))
    limit = generator.uniform(0.25, 0.4, (len(images.pixels), 1, 1, 1)) * images.pixels.shape[-1] / 2
    return np.where(distance < limit, 0, images.pixels)


# Another sky ----------------------------------------------------------------------------------------------------------


def _two_lenses(images: _Images, generator: np.random.Generator) -> np.ndarray:
    """A second lens, from a quarter to half the side away."""
    size = images.pixels.shape[-1]
    steps = np.rint(images.places(0.25, 0.5, generator) - (size - 1) / 2).astype(int)
    others = np.roll((images.pixels - images.sky)[..., ::-1], 1, axis=0)
    return images.pixels + np.stack([np.roll(one, step, (1, 2)) for one, step in zip(others, steps, strict=True)])


def _star_beside(images: _Images, generator: np.random.Generator) -> np.ndarray:
    distance = np.hypot(*images.distances(images.places(0.5, 0.9, generator)))
    return images.pixels + images.shares(1, 5, generator) * np.exp(-((distance / 1.3) ** 2) / 2)


def _no_lens(images: _Images, generator: np.random.Generator) -> np.ndarray:
    return images.sky_noise(generator)


def _white_noise(images: _Images, generator: np.random.Generator) -> np.ndarray:
    mean, deviation = (f(images.pixels, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
    return mean + deviation * generator.normal(size=images.pixels.shape)


def _galaxy_alone(images: _Images, generator: np.random.Generator) -> np.ndarray:
    """An elliptical galaxy with an exponential profile, in the middle."""
    down, right = images.distances(images.places(0, 0.05, generator))
    each = (len(images.pixels), 1, 1, 1)
    angle, axis_ratio = generator.uniform(0, np.pi, each), generator.uniform(0.5, 1, each)
    along, across = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    scale = generator.uniform(0.06, 0.15, each) * images.pixels.shape[-1]
    profile = np.exp(-np.hypot(along * axis_ratio**0.5, across / axis_ratio**0.5) / scale)
    return images.sky_noise(generator) + images.peak * profile


KINDS: dict[str, Kind] = {
    "saturated": _saturated,
    "dead row or column": _dead_line,
    "three dead rows or columns": lambda images, generator: _dead_line(images, generator, 3),
    "dead quarter": _dead_quarter,
    "hot pixel": _hot_pixel,
    "cosmic ray": _cosmic_ray,
    "satellite trail": _satellite_trail,
    "stripes": _stripes,
    "noisier": _noisier,
    "few levels": _few_levels,
    "shifted": _shifted,
    "pixels 1.5 times as small": lambda images, generator: _zoomed(images, 1.5),
    "pixels 1.5 times as large": lambda images, generator: _zoomed(images, 1 / 1.5),
    "wider PSF": _blurred,
    "gradient": _gradient,
    "inverted": _inverted,
    "scrambled": _scrambled,
    "masked centre": _masked_centre,
    "two lenses": _two_lenses,
    "star beside": _star_beside,
    "no lens": _no_lens,
    "white noise": _white_noise,
    "galaxy alone": _galaxy_alone,
}


def odd_images(images: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """Make odd images from clean ones.

    Args:
        images: clean images `(N, C, H, W)`, square, the lens in the middle.
        kind: one of `KINDS`.
        seed: of what is drawn at random: places, strengths, noise.

    Returns:
        As many images of the same shape, float32.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> clean = np.random.default_rng(0).normal(size=(3, 1, 32, 32))
        >>> [odd_images(clean, kind).shape for kind in ("saturated", "two lenses")]
        [(3, 1, 32, 32), (3, 1, 32, 32)]
    """
    if kind not in KINDS:
        raise ValueError(f"kind of odd images '{kind}' is unknown; there are {', '.join(KINDS)}")
    generator = np.random.default_rng([seed, list(KINDS).index(kind)])
    return KINDS[kind](_Images.of(images), generator).astype(np.float32)


def count_named(score: Callable[[np.ndarray], np.ndarray], images: np.ndarray, each: int = 40, seed: int = 0) -> dict:
    """Measure which share of odd images a detector takes for images in distribution.

    Args:
        score: gives OOD scores `(N,)` of images `(N, C, H, W)`; above 1 is out of distribution.
        images: clean images `(N, C, H, W)` that the detector has not seen.
        each: odd images of each kind, made from as many of `images`, at most.
        seed: of what is drawn at random.

    Returns:
        `named`, the share in distribution by kind; `overall`, its mean; `false_alarms`, the share of clean images out
        of distribution; `images`, how many these were; `each` and `seed`.

    Example:
        >>> clean = np.random.default_rng(0).normal(size=(9, 1, 32, 32))
        >>> found = count_named(lambda images: np.abs(images).max((1, 2, 3)) / 5, clean)
        >>> found["named"]["no lens"], found["named"]["hot pixel"] < 0.5, found["false_alarms"]
        (1.0, True, 0.0)
    """
    rows, more = (np.linspace(0, len(images) - 1, min(n, len(images))).astype(int) for n in (each, CLEAN))
    clean = np.asarray(images[rows])
    named = {kind: float((score(odd_images(clean, kind, seed)) <= 1).mean()) for kind in progress(KINDS, "odd images")}
    return {
        "named": named,
        "overall": float(np.mean(list(named.values()))),
        "false_alarms": float((score(np.asarray(images[more])) > 1).mean()),
        "images": len(more),
        "each": len(rows),
        "seed": seed,
    }
