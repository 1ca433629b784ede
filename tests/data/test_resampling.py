"""Resampled images: no flux is lost, nothing moves, and what comes out is what the simulator makes of those pixels."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import LensDataset, sky_and_noise
from lensstudy.data.resampling import resample, resample_with_noise, resampled, shares
from lensstudy.data.simulation import simulate
from lensstudy.lensing.rendering import render


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("size", "scale"), [(40, 0.1), (27, 0.16), (13, 0.37), (90, 0.05), (200, 0.02)])
def test_resampling_keeps_flux_and_place(size, scale, order):
    x = (np.arange(80) - 39.5) * 0.05
    image = np.exp(-((x[None] - 0.3) ** 2 + (x[:, None] + 0.2) ** 2) / 0.05)
    new_image = resample(image, 0.05, size, scale, order=order)
    assert new_image.sum() == pytest.approx(image.sum(), rel=1e-6)
    new = (np.arange(size) - (size - 1) / 2) * scale
    assert (new_image.sum(0) @ new) / new_image.sum() == pytest.approx(0.3, abs=0.02 * scale)
    assert (new_image.sum(1) @ new) / new_image.sum() == pytest.approx(-0.2, abs=0.02 * scale)


def test_a_centre_off_the_middle_comes_to_the_middle():
    image = np.zeros((81, 81))
    image[44, 36] = 1.0
    assert resample(image, 0.1, 9, 0.1, center=(-0.4, 0.4))[4, 4] == pytest.approx(1.0)


def test_weights_shared_out_by_area_stay_between_their_bounds():
    weights = (np.arange(31) > 14).astype(float)
    shared = shares(31, 0.05, 22, 0.07, order=1) @ weights / (0.07 / 0.05)
    assert shared.min() == 0 and shared.max() == pytest.approx(1.0)


def test_no_detail_finer_than_the_new_pixels_comes_back_as_a_pattern():
    """A grating of 1.5 new pixels would alias to a grating of 3 if every other pixel were taken."""
    grating = np.cos(2 * np.pi * np.arange(300) / 4.5)[None] * np.ones((300, 1))
    coarse = resample(grating, 0.1, 100, 0.3)[10:-10, 10:-10] / 9
    assert coarse.std() < 0.45 * grating[::3, ::3].std()


@pytest.mark.parametrize(("old", "new"), [(0.05, 0.1), (0.05, 0.0533), (0.05, 0.14), (0.1, 0.05), (0.1, 0.0937)])
def test_sky_noise_is_that_of_the_new_pixels(old, new):
    """Its deviation grows with a pixel's side, and neighbours stay independent, which interpolation alone undoes."""
    count = int(20 / old)
    noise = np.random.default_rng(0).normal(0, 2.0, (count, count))
    size = int(20 / new + 1e-9)
    image = resample_with_noise(noise, old, size, new, 2.0, np.random.default_rng(1))[5:-5, 5:-5]
    assert image.std() == pytest.approx(2.0 * new / old, rel=0.06)
    assert sky_and_noise(image[None])[1] == pytest.approx(2.0 * new / old, rel=0.12)
    power = np.abs(np.fft.fft2(image)) ** 2
    low, high = power[1:10, 1:10].mean(), power[len(power) // 2 - 10 :, len(power) // 2 - 10 :].mean()
    assert high / power.mean() == pytest.approx(1, abs=0.25) and low / power.mean() == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("new_size", [52, 65, 208])
def test_a_lens_resampled_is_the_lens_simulated_in_those_pixels(new_size):
    """Mean profile over lenses of the noise-free simulator, whose counts are a pixel's, of one field of view."""
    rows = simulate("realistic", 6, seed=1, image_size=104).catalogue
    images, expected = (render(rows, "realistic", image_size=size)[:, 0].astype(float) for size in (104, new_size))
    found = resample(images, 0.05, new_size, 0.05 * 104 / new_size)
    profiles = [profile(stack.mean(0)) for stack in (found, expected)]
    np.testing.assert_allclose(profiles[0], profiles[1], rtol=0.02, atol=0.005 * profiles[1].max())


def profile(image: np.ndarray) -> np.ndarray:
    """Mean brightness in eight rings."""
    y, x = np.indices(image.shape) - (len(image) - 1) / 2
    ring = (np.hypot(x, y) / (len(image) / 2) * 8).astype(int)
    return np.array([image[ring == k].mean() for k in range(8)])


def test_a_data_set_in_other_pixels_keeps_flux_and_noise():
    images = np.random.default_rng(0).normal(100, 3, (2, 2, 40, 40)).astype(np.float32)
    table = pd.DataFrame({"name": ["a", "b"], "class": ["no_sub", "cdm"]})
    lenses = LensDataset(images, table, ("no_sub", "cdm"), {"pixel_scale": 0.05})
    half = resampled(lenses, 20)
    assert half.description["pixel_scale"] == pytest.approx(0.1) and half.images.shape == (2, 2, 20, 20)
    assert half.images.mean() == pytest.approx(400, rel=0.01) and half.images.std() == pytest.approx(6, rel=0.15)
    cut = resampled(lenses, 20, 0.05)
    np.testing.assert_allclose(cut.images, images[..., 10:30, 10:30], atol=1.5)
    assert resampled(lenses, 40, 0.05) is lenses
