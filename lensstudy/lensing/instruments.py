"""What a telescope does to an image: pixels, point spread function and noise, every constant with its source.

An `Instrument` turns the light that falls on its pixels into counts: `blur` applies its point spread function, `noisy`
draws its noise and `noise_variance` says how strong that noise is expected to be. Counts are photo-electrons. The point
spread function is a Gaussian or, with `psf_file`, a table of one's own.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensstudy.lensing.presets import LensingError

__all__ = [
    "INSTRUMENTS",
    "Instrument",
    "blur",
    "blur_with_kernel",
    "fits_plane",
    "gaussian_kernel",
    "noise_variance",
    "noisy",
    "psf_profile",
    "psf_table",
]

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))


@dataclass(frozen=True)
class Instrument:
    """Constants of one instrument.

    `zero_point` is the magnitude of one count a second; `sky_magnitude` is per square arcsecond. `photon_noise` is how
    often the photon noise of the image enters: 0 in a noise-free preset, 1 in a detector, 2 in DeepLense's model 1.
    `psf_file` names a FITS file with a point spread function in pixels of `pixel_scale`, in place of the Gaussian.
    """

    name: str
    image_size: int
    pixel_scale: float  # arcsec
    psf_fwhm: float  # arcsec, Gaussian
    psf_truncation: float = 5.0  # sigma
    zero_point: float = 0.0
    sky_magnitude: float = math.inf
    exposure_time: float = 1.0  # seconds, all exposures together
    exposures: float = 1
    read_noise: float = 0.0  # counts rms a pixel and exposure
    background_rms: float = 0.0  # counts a second and pixel, Gaussian
    photon_noise: int = 1
    source: str = ""
    psf_file: str = ""

    @property
    def field_of_view(self) -> float:
        """Side of the image in arcseconds. It stays when the number of pixels changes."""
        return self.image_size * self.pixel_scale

    def count_rate(self, magnitude: float) -> float:
        """Counts a second from a source of that magnitude, or a second and arcsec^2 from that surface brightness."""
        return 10 ** (-0.4 * (magnitude - self.zero_point))

    def exposed(self, factor: float) -> Instrument:
        """The instrument of an image that adds up `factor` exposures like its own: noise grows as the root of that."""
        background_rms = self.background_rms / math.sqrt(factor)  # a second and pixel: `noisy` multiplies by the time
        return replace(self, exposures=self.exposures * factor, background_rms=background_rms)

    def sky_counts(self, image_size: int, exposure_time):
        """Expected counts of the sky in one pixel."""
        return self.count_rate(self.sky_magnitude) * (self.field_of_view / image_size) ** 2 * exposure_time


INSTRUMENTS = {
    instrument.name: instrument
    for instrument in (
        Instrument(
            name="deeplense-model-1",
            image_size=150,
            pixel_scale=0.05,
            psf_fwhm=0.087,
            psf_truncation=3.0,
            background_rms=0.01,
            photon_noise=2,
            source="DeepLenseSim, Model_I; exposure times 10^U(3, 3.5) s belong to the image",
        ),
        Instrument(
            name="deeplense-model-2",
            image_size=64,
            pixel_scale=0.101,
            psf_fwhm=0.16,
            zero_point=24.0,
            photon_noise=0,
            source="Euclid VIS of lenstronomy 1.9.2, as DeepLenseSim uses it; no noise is added",
        ),
        Instrument(
            name="deeplense-model-3",
            image_size=64,
            pixel_scale=0.08,
            psf_fwhm=0.08,
            zero_point=25.96,
            photon_noise=0,
            source="HST WFC3 F160W of lenstronomy 1.9.2, as DeepLenseSim uses it; no noise is added",
        ),
        Instrument(
            name="deeplense-common-test",
            image_size=150,
            pixel_scale=0.05,
            psf_fwhm=0.0875 / SIGMA_PER_FWHM,
            sky_magnitude=-2.5 * math.log10(10 / 0.05**2),
            source="recovered by fitting Common Test 1: PSF sigma 0.0875 arcsec, 10 counts of sky a pixel",
        ),
        Instrument(
            name="deeplense-equivariant-test",
            image_size=150,
            pixel_scale=0.05,
            psf_fwhm=0.0705 / SIGMA_PER_FWHM,
            sky_magnitude=-2.5 * math.log10(0.15 / 0.05**2),
            exposure_time=800.0,
            source="recovered by fitting DeepLense's test of equivariant networks: PSF sigma 1.41 pixels, photon noise",
        ),
        Instrument(
            name="hst-acs",
            image_size=104,
            pixel_scale=0.05,
            psf_fwhm=0.10,
            zero_point=25.94,
            sky_magnitude=22.0,
            exposure_time=2200.0,
            exposures=4,
            read_noise=4.0,
            source="F814W, one orbit: ACS Instrument Handbook (scale, read noise, average sky), AB zero point",
        ),
        Instrument(
            name="hst-wfc3-f160w",
            image_size=64,
            pixel_scale=0.08,
            psf_fwhm=0.15,
            zero_point=25.96,
            sky_magnitude=22.3,
            exposure_time=5400.0,
            read_noise=4.0,
            source="two orbits, drizzled: lenstronomy 1.14.2 HST configuration; FWHM of Windhorst et al. (2011)",
        ),
        Instrument(
            name="euclid-vis",
            image_size=52,
            pixel_scale=0.1,
            psf_fwhm=0.16,
            zero_point=25.72,
            sky_magnitude=22.3,
            exposure_time=4 * 566.0,
            exposures=4,
            read_noise=4.2,
            source="wide survey: lenstronomy 1.14.2 Euclid configuration; Euclid Collaboration (2025), Euclid II, VIS",
        ),
    )
}


def gaussian_kernel(sigma_pixels: float, truncation: float = 5.0) -> np.ndarray:
    """Sampled, normalised Gaussian out to `truncation` sigma, as `scipy.ndimage.gaussian_filter` has it."""
    reach = int(truncation * sigma_pixels + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_pixels) ** 2)
    return kernel / kernel.sum()


def psf_profile(instrument: Instrument, image_size: int) -> tuple[float, ...]:
    """The instrument's Gaussian along one axis, in pixels of a field of view of `image_size` of them."""
    sigma_pixels = instrument.psf_fwhm * SIGMA_PER_FWHM / (instrument.field_of_view / image_size)
    return tuple(gaussian_kernel(sigma_pixels, instrument.psf_truncation).tolist())


def fits_plane(file: str, otherwise: str) -> np.ndarray:
    """First two-dimensional image `(h, w)` of a FITS file, float64, or the one whose number stands behind its name, as
    in `galaxies.fits[3]`; raises `LensingError(otherwise)` without one."""
    from astropy.io import fits

    path, number = Path(file).expanduser(), None
    if not path.is_file() and (numbered := re.fullmatch(r"(.+)\[(\d+)\]", file)):
        path, number = Path(numbered[1]).expanduser(), int(numbered[2])
    if not path.is_file():  # opening a pipe waits forever
        raise LensingError(otherwise)
    try:
        with fits.open(path, memmap=False) as hdus:
            chosen = hdus if number is None else [hdus[number]]
            return next(np.array(hdu.data, dtype=float) for hdu in chosen if hdu.is_image and np.ndim(hdu.data) == 2)
    except (OSError, StopIteration, IndexError) as error:
        raise LensingError(otherwise) from error


@functools.lru_cache(maxsize=16)
def psf_table(file: str) -> Tensor:
    """The normalised point spread function `(h, w)`, float64, of a FITS file; `LensingError` where there is none."""
    if not Path(file).expanduser().is_file():
        raise LensingError(f"psf_file = {file!r}: there is no such file seen from {Path.cwd()}")
    table = fits_plane(
        file, f"psf_file = {file!r}: no two-dimensional image in it; expected a point spread function as FITS"
    )
    if not np.isfinite(table).all() or table.sum() <= 0 or 0 in (table.shape[0] % 2, table.shape[1] % 2):
        raise LensingError(
            f"psf_file = {file!r}: {table.shape[0]} by {table.shape[1]} values with a sum of {table.sum():g}; expected "
            "odd by odd finite values, the star in the middle one, with a sum above 0: crop it"
        )
    return torch.tensor(table / table.sum())


def blur(images: Tensor, profile: Sequence[float]) -> Tensor:
    """Images `(N, H, W)` seen through a separable point spread function, `profile` along either axis.

    Beyond its edge an image goes on with the edge pixel's value. Few shifted copies are quicker than a convolution.
    """
    for axis in (1, 2):
        size, reach = images.shape[axis], len(profile) // 2
        first, last = images.narrow(axis, 0, 1), images.narrow(axis, size - 1, 1)
        padded = torch.cat([first] * reach + [images] + [last] * reach, dim=axis)
        images = profile[0] * padded.narrow(axis, 0, size)
        for i, weight in enumerate(profile[1:], start=1):
            images = torch.add(images, padded.narrow(axis, i, size), alpha=weight)
    return images


def blur_with_kernel(images: Tensor, kernel: Tensor) -> Tensor:
    """Images `(N, H, W)` seen through a tabulated point spread function with an odd number of pixels a side.

    The kernel is normalised here; its centre is the middle pixel, and beyond the edge the edge pixel's value goes on.
    """
    if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        raise ValueError(
            f"point spread function has shape {tuple(kernel.shape)}; expected odd by odd, centred: crop it"
        )
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = torch.nn.functional.pad(images[:, None], (columns, columns, rows, rows), mode="replicate")
    return torch.nn.functional.conv2d(padded, (kernel / kernel.sum()).flip(0, 1)[None, None])[:, 0]


def noise_variance(expected: Any, instrument: Instrument, exposure_time: Any, noise_level: float | None = None) -> Any:
    """Variance of each pixel's noise for images `(..., H, W)` of expected counts, an array or a tensor as they are.

    With `noise_level`, Gaussian noise of that many times each image's own peak takes the place of the instrument's.
    """
    if noise_level is not None:
        peak = expected.max(axis=(-2, -1), keepdims=True)
        return np.broadcast_to((noise_level * peak) ** 2, expected.shape)
    background = instrument.exposures * instrument.read_noise**2 + (instrument.background_rms * exposure_time) ** 2
    if instrument.photon_noise:
        background = background + instrument.sky_counts(expected.shape[-1], exposure_time)
    return instrument.photon_noise * expected + background


def noisy(
    expected: np.ndarray,
    instrument: Instrument,
    exposure_time: float,
    generator: np.random.Generator,
    noise_level: float | None = None,
) -> np.ndarray:
    """One image `(H, W)` of expected counts with its noise, the sky subtracted, drawn from `generator`.

    A detector counts photons of image and sky together (Poisson) and adds read noise (Gaussian). Model 1 of DeepLense
    adds Gaussian photon noise and background first, clips at zero and takes that for the expectation of its Poisson
    draw, so photon noise enters twice.
    """
    if noise_level is not None:
        stream = torch.Generator().manual_seed(int(generator.integers(2**62)))  # torch draws normals twice as fast
        noise = torch.randn(expected.shape, generator=stream).numpy()
        return expected + np.float32(noise_level * expected.max()) * noise
    if instrument.photon_noise == 0:
        return expected
    if instrument.photon_noise == 2:
        variance = expected + (instrument.background_rms * exposure_time) ** 2
        return generator.poisson(np.clip(generator.normal(expected, np.sqrt(variance)), 0, None))
    sky = instrument.sky_counts(expected.shape[-1], exposure_time)
    counts = generator.poisson(expected.astype(np.float64) + sky) - sky
    if instrument.read_noise:
        counts += generator.normal(0, instrument.read_noise * math.sqrt(instrument.exposures), expected.shape)
    return counts
