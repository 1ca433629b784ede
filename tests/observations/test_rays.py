"""Rays, pixels and PSF as linear operators, against convolutions of whole images."""

import numpy as np
import pytest
from scipy import signal

from lensstudy.lensing.instruments import gaussian_kernel
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.rays import Rays, binned

PSF = np.outer(gaussian_kernel(1.1), gaussian_kernel(0.8))


def seen(image, mask=None, correlation=1.0) -> Observation:
    mask = np.zeros(image.shape, bool) if mask is None else mask
    return Observation("x", "", image, np.full(image.shape, 0.5), mask, PSF, 0.05, correlation=correlation)


def test_pixels_are_the_blurred_light_of_all_that_reach_them():
    light = np.random.default_rng(1).random((30, 30))
    used = np.hypot(*(np.indices(light.shape) - 14.5)) < 8
    rays = Rays(seen(light, correlation=4.0), used)
    blurred = signal.fftconvolve(light, PSF, mode="same")[used] / (0.5 * 2)
    assert rays.image(light[rays.lit]) == pytest.approx(blurred, rel=1e-5)
    x, y = rays.centers
    assert np.hypot(x, y).max() < 0.05 * (8 + max(PSF.shape))
    assert len(rays.x) == rays.per_pixel * rays.lit.sum()


def test_binned_pixels_see_a_binned_source_as_fine_ones_do():
    coarse = np.random.default_rng(2).random((20, 20))
    fine = np.kron(coarse, np.ones((2, 2)))
    one, (again,) = binned(seen(signal.fftconvolve(fine, PSF, mode="same"), correlation=2.0), 2, fine[None])
    assert again[0] == pytest.approx(coarse)
    wanted = signal.fftconvolve(coarse, one.psf, mode="same")
    reach = max(PSF.shape) // 2
    assert one.image[reach:-reach, reach:-reach] == pytest.approx(wanted[reach:-reach, reach:-reach], abs=1e-12)
    assert one.noise == pytest.approx(0.5 * np.sqrt(2) / 2) and one.correlation == 1 and one.pixel_scale == 0.1


def test_a_binned_pixel_is_masked_where_half_of_it_is():
    mask = np.zeros((8, 8), bool)
    mask[2, 2:4] = mask[6, 6] = True
    one, _ = binned(seen(np.where(mask, 1e9, 1.0), mask), 2)
    assert one.mask.sum() == 1 and one.mask[1, 1] and one.image[3, 3] == pytest.approx(1.0)
