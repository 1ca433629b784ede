"""From pixels of one size to pixels of another: what an image would be, had a detector with other pixels taken it.

Along each axis the flux up to every pixel edge is interpolated, and the flux of a new pixel is the difference between
its edges. So flux and place stay; larger pixels are the integrals that a detector takes, which averages finer detail
away before it can alias, and smaller ones are smooth. The point spread function stays what it is, in arcseconds.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from lensstudy.data.dataset import LensDataset, sky_and_noise

__all__ = ["resample", "resample_with_noise", "resampled", "shares"]


def resample(
    image: np.ndarray,
    pixel_scale: float,
    size: int,
    new_scale: float,
    center: tuple[float, float] = (0.0, 0.0),
    order: int = 3,
) -> np.ndarray:
    """Bring an image to other pixels; what lies beyond it is empty.

    Args:
        image: `(..., H, W)`, flux a pixel.
        pixel_scale: arcseconds of one of its pixels.
        size: new pixels along one side.
        new_scale: arcseconds of a new pixel.
        center: where the new image's centre lies in the old one, x and y in arcseconds from its middle.
        order: of the spline through the flux up to each edge. 3 is smooth; 1 shares each pixel out by area, and so
            never overshoots, as weights and masks must not.

    Returns:
        `(..., size, size)`, flux a new pixel.

    Example:
        >>> resample(np.ones((4, 4)), 0.1, 2, 0.2).round(6).tolist()
        [[4.0, 4.0], [4.0, 4.0]]
    """
    rows = shares(image.shape[-2], pixel_scale, size, new_scale, center[1], order)
    columns = shares(image.shape[-1], pixel_scale, size, new_scale, center[0], order)
    return rows @ image @ columns.T


def resample_with_noise(
    image: np.ndarray, pixel_scale: float, size: int, new_scale: float, noise: float, generator: np.random.Generator
) -> np.ndarray:
    """Bring an image to other pixels with the sky noise that those would have.

    Sky noise is independent from pixel to pixel, and its variance grows with a pixel's area. Interpolation smooths it:
    in smaller pixels it would lack the finest detail, and the image would look as no detector's does. That detail is
    drawn anew: fresh noise in the new pixels, less what of it the old pixels could have seen, for which the image has
    its own. In pixels twice as large or more hardly any is added.

    Args:
        image: `(..., H, W)`, flux a pixel.
        pixel_scale: arcseconds of one of its pixels.
        size: new pixels along one side.
        new_scale: arcseconds of a new pixel.
        noise: standard deviation of the sky in one old pixel.
        generator: of the noise.

    Returns:
        `(..., size, size)`, flux a new pixel.

    Example:
        >>> draw = np.random.default_rng(0).normal
        >>> fine = resample_with_noise(draw(size=(100, 100)), 0.1, 200, 0.05, 1.0, np.random.default_rng(1))
        >>> round(float(fine.std()), 1)
        0.5
    """
    fresh = generator.normal(0, noise * new_scale / pixel_scale, (*image.shape[:-2], size, size))
    known = resample(fresh, new_scale, image.shape[-1], pixel_scale)
    return resample(image - known, pixel_scale, size, new_scale) + fresh


def resampled(dataset: LensDataset, size: int, pixel_scale: float | None = None, seed: int = 0) -> LensDataset:
    """Bring every image of a data set to other pixels, each with its own sky and noise.

    Args:
        dataset: square images whose description may say how large their pixels are.
        size: new pixels along one side.
        pixel_scale: arcseconds of a new pixel; None, or where the old ones are not known: the field of view stays.
        seed: of the noise that the old pixels could not hold.

    Returns:
        The data set with images `(N, C, size, size)`, float32, and their `pixel_scale`.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32)
        >>> resampled(lenses, 16).images.shape
        (3, 1, 16, 16)
    """
    known = dataset.description.get("pixel_scale")
    old = known or 1.0
    new = pixel_scale if known and pixel_scale else old * dataset.image_size / size
    about = dataset.description | {"image_size": size} | ({"pixel_scale": new} if known else {})
    if size == dataset.image_size and abs(new / old - 1) < 1e-6:
        return dataset
    generator = np.random.default_rng(seed)
    images = np.empty((len(dataset), dataset.images.shape[1], size, size), dtype=np.float32)
    for place, image in zip(images, dataset.images, strict=True):
        for made, channel in zip(place, np.asarray(image, np.float64), strict=True):
            sky, noise = sky_and_noise(channel[None])
            made[:] = resample_with_noise(channel - sky, old, size, new, noise, generator) + sky * (new / old) ** 2
    return replace(dataset, images=images, description=about)


@functools.lru_cache(maxsize=64)
def shares(
    count: int, pixel_scale: float, size: int, new_scale: float, center: float = 0.0, order: int = 3
) -> np.ndarray:
    """How much of the flux of each of `count` pixels goes to each of `size` new ones, along one axis: `(size, count)`;
    the arguments are those of `resample`."""
    from scipy.interpolate import make_interp_spline  # slow to import; not for images that have the right pixels

    old = (np.arange(count + 1) - count / 2) * pixel_scale - center
    new = (np.arange(size + 1) - size / 2) * new_scale
    up_to = np.tri(count + 1, count, -1)  # flux of each pixel below each edge
    natural = "natural" if order == 3 else None  # no slope of the brightness at the border
    matrix = np.diff(make_interp_spline(old, up_to, order, bc_type=natural)(new.clip(old[0], old[-1])), axis=0)
    matrix.flags.writeable = False  # shared by all who ask
    return matrix
