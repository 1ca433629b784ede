"""The noise of an image is what its empty parts show, however many pixels share it."""

import numpy as np
import pytest
from scipy import ndimage

from lensstudy.observations.cutouts import Observation
from lensstudy.observations.noise import calibrated


def seen(image, noise) -> Observation:
    return Observation("x", "", image, np.full(image.shape, noise), np.zeros(image.shape, bool), None, 0.05)


def test_noise_that_is_given_too_large_is_scaled_beside_a_model_that_is_a_little_wrong():
    generator = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:120j, -1:1:120j]
    slope = 0.3 * x + 0.2 * y**2
    one = calibrated(seen(generator.normal(0, 0.5, x.shape) + 7 + slope, 0.8), np.full(x.shape, 7.0), x**2 + y**2 > 0.1)
    assert one.noise[0, 0] == pytest.approx(0.5, rel=0.03)
    assert one.correlation == pytest.approx(1.0, abs=0.2)


def test_pixels_that_share_their_noise_are_counted():
    """Noise averaged over squares of 2 x 2 pixels: its autocorrelation adds up to 4."""
    image = ndimage.uniform_filter(np.random.default_rng(2).normal(0, 1, (160, 160)), 2)
    one = calibrated(seen(image, 1.0), np.zeros(image.shape), np.ones(image.shape, bool))
    assert one.correlation == pytest.approx(4.0, rel=0.15)
    assert one.noise[0, 0] == pytest.approx(0.5, rel=0.05)


def test_where_nothing_is_empty_the_noise_stays():
    one = seen(np.zeros((40, 40)), 0.3)
    assert (calibrated(one, one.image, one.mask).noise == one.noise).all()
