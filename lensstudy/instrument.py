"""What a telescope does to an image: pixels, point spread function and noise, every constant with its source.

An `Instrument` turns the light that falls on its pixels into counts: `blur_matrix` and `blur` apply its point spread
function, `noisy` draws its noise and `noise_variance` says how strong that noise is expected to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["INSTRUMENTS", "Instrument", "blur", "blur_matrix", "gaussian_kernel", "noise_variance", "noisy"]

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


@dataclass(frozen=True)
class Instrument:
    """Constants of one instrument. Brightness in magnitudes of its own zero point (1 count a second), times in seconds.

    `photon_noise` is how many times the photon noise of the image enters (0 for a noise-free recipe, 1 for a detector),
    `sky_counts` and `read_noise` are counts a pixel over the whole exposure.
    """

    name: str
    image_size: int
    pixel_scale: float  # arcsec
    psf_fwhm: float  # arcsec, Gaussian
    psf_truncation: float = 5.0  # in sigma
    zero_point: float = 0.0
    exposure_time: float = 1.0
    photon_noise: int = 0
    sky_counts: float = 0.0
    read_noise: float = 0.0
    source: str = ""

    @property
    def field_of_view(self) -> float:
        """Side of the image in arcseconds."""
        return self.image_size * self.pixel_scale


INSTRUMENTS = {
    instrument.name: instrument
    for instrument in (
        Instrument(
            name="deeplense-model-2",
            image_size=64,
            pixel_scale=0.101,
            psf_fwhm=0.16,
            zero_point=24.0,
            source="Euclid VIS of lenstronomy 1.9.2, as DeepLenseSim sets it; no noise is added",
        ),
        Instrument(
            name="deeplense-model-3",
            image_size=64,
            pixel_scale=0.08,
            psf_fwhm=0.08,
            zero_point=25.96,
            source="HST WFC3 F160W of lenstronomy 1.9.2, as DeepLenseSim sets it; no noise is added",
        ),
    )
}


def gaussian_kernel(sigma_pixels: float, truncation: float = 5.0) -> np.ndarray:
    """Sampled, normalised Gaussian out to `truncation` sigma, as `scipy.ndimage.gaussian_filter` has it."""
    reach = int(truncation * sigma_pixels + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma_pixels) ** 2)
    return kernel / kernel.sum()


def blur_matrix(instrument: Instrument, image_size: int) -> np.ndarray:
    """The Gaussian point spread function along one axis as a banded matrix `(image_size, image_size)`, float64.

    `matrix @ image @ matrix.T` blurs an image; beyond its edge the image goes on with the edge pixel's value. The field
    of view is the instrument's, whatever the number of pixels.
    """
    pixel_scale = instrument.field_of_view / image_size
    kernel = gaussian_kernel(instrument.psf_fwhm * SIGMA_PER_FWHM / pixel_scale, instrument.psf_truncation)
    rows, offsets = np.ogrid[:image_size, : len(kernel)]
    columns = np.clip(rows + offsets - len(kernel) // 2, 0, image_size - 1)
    matrix = np.zeros((image_size, image_size))
    np.add.at(matrix, (np.broadcast_to(rows, columns.shape), columns), np.broadcast_to(kernel, columns.shape))
    return matrix


def blur(images: Tensor, matrix: Tensor) -> Tensor:
    """Images `(N, H, H)` seen through the point spread function of `blur_matrix`."""
    return matrix @ (images @ matrix.T)


def noise_variance(expected: np.ndarray, instrument: Instrument, noise_level: float | None = None) -> np.ndarray:
    """Variance of each pixel's noise for expected counts `(N, H, W)`.

    With `noise_level`, Gaussian noise of that many times each image's own peak takes the place of the instrument's.
    """
    if noise_level is not None:
        peak = expected.max(axis=(-2, -1), keepdims=True)
        return np.broadcast_to((noise_level * peak) ** 2, expected.shape)
    return instrument.photon_noise * expected + instrument.sky_counts + instrument.read_noise**2


def noisy(
    expected: np.ndarray, instrument: Instrument, generator: np.random.Generator, noise_level: float | None = None
) -> np.ndarray:
    """One image `(H, W)` of expected counts with its noise, drawn from `generator`."""
    if noise_level is not None:
        noise = generator.standard_normal(expected.shape, dtype=np.float32)
        return expected + np.float32(noise_level) * expected.max() * noise
    return expected
