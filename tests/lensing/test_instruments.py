"""Point spread functions against scipy and closed forms, noise against its own expectation."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lensstudy.lensing.instruments import (
    INSTRUMENTS,
    SIGMA_PER_FWHM,
    blur,
    blur_with_kernel,
    gaussian_kernel,
    noise_variance,
    noisy,
    psf_profile,
)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_blur_is_scipys_gaussian_filter(name):
    instrument = INSTRUMENTS[name]
    image = np.random.default_rng(0).random((1, 40, 40))
    sigma = instrument.psf_fwhm * SIGMA_PER_FWHM / (instrument.field_of_view / 40)
    expected = ndimage.gaussian_filter(image[0], sigma, mode="nearest", truncate=instrument.psf_truncation)
    assert np.abs(blur(torch.tensor(image), psf_profile(instrument, 40))[0].numpy() - expected).max() < 1e-12


def test_tabulated_and_separable_point_spread_functions_agree_and_keep_the_flux():
    profile = gaussian_kernel(1.3, 3.0)
    image = torch.zeros(1, 31, 31, dtype=torch.float64)
    image[0, 15, 14] = 2.0
    table = torch.tensor(np.outer(profile, profile))
    assert torch.allclose(blur(image, profile.tolist()), blur_with_kernel(image, table), atol=1e-12)
    assert blur(image, profile.tolist()).sum().item() == pytest.approx(2.0)
    lopsided = torch.zeros(3, 3, dtype=torch.float64)
    lopsided[0, 2] = 1.0  # light moves one pixel up and one to the right
    assert blur_with_kernel(image, lopsided)[0, 14, 15] == 2.0


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd by odd"):
        blur_with_kernel(torch.zeros(1, 8, 8), torch.ones(4, 4))


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("noise_level", [None, 0.03])
def test_noise_has_the_variance_and_mean_that_it_says(name, noise_level):
    instrument = INSTRUMENTS[name]
    expected = np.full((200, 200), 400.0, dtype=np.float32)
    noise = noisy(expected, instrument, 1000.0, np.random.default_rng(1), noise_level) - expected
    variance = noise_variance(expected, instrument, 1000.0, noise_level)
    assert variance.shape == expected.shape
    if variance[0, 0] == 0:
        assert not noise.any()
        return
    assert noise.var() == pytest.approx(variance[0, 0], rel=0.05)
    assert abs(noise.mean()) < 5 * np.sqrt(variance[0, 0]) / 200


def test_sky_grows_with_the_pixel():
    instrument = INSTRUMENTS["euclid-vis"]
    per_arcsec2 = 10 ** (-0.4 * (instrument.sky_magnitude - instrument.zero_point))
    assert instrument.sky_counts(52, 100.0) == pytest.approx(per_arcsec2 * 0.1**2 * 100)
    assert instrument.sky_counts(26, 100.0) == pytest.approx(4 * instrument.sky_counts(52, 100.0))


def test_every_instrument_names_its_source():
    assert all(instrument.source and instrument.name == name for name, instrument in INSTRUMENTS.items())
