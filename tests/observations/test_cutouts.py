"""From an observation to a network's input: no flux is lost, and beyond the image there is sky."""

import math

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import Observation, cropped, network_input, redshifts_of
from tests.observations.images import noise_image

CARD = {"network": "a network", "image_size": 32, "in_channels": 1, "data": {"pixel_scale": 0.16}}


def test_a_network_gets_its_own_pixels_and_noise():
    one = Observation("x", "", 5 * noise_image(120), np.full((120, 120), 5.0), np.zeros((120, 120), bool), None, 0.05)
    seen = network_input(one.image, one, CARD, noise=0.02, generator=np.random.default_rng(0))
    assert seen.shape == (1, 1, 32, 32) and seen.dtype == np.float32
    assert seen.std() == pytest.approx(0.02, rel=0.1)


def test_beyond_a_small_cutout_there_is_sky_with_its_noise():
    one = Observation("x", "", noise_image(90), np.ones((90, 90)), np.zeros((90, 90), bool), None, 0.05)  # 4.5 arcsec
    seen = network_input(one.image, one, CARD, noise=1.0, generator=np.random.default_rng(0))[0, 0]
    assert seen[0].std() == pytest.approx(1.0, abs=0.4)
    small = cropped(one, 2.0)
    with pytest.raises(DataError, match="2.00 arcsec wide, but a network needs 5.12; use a larger cutout"):
        network_input(small.image, small, CARD, noise=1.0, generator=np.random.default_rng(0))


def test_a_network_without_a_pixel_scale_is_refused():
    one = Observation("x", "", noise_image(), np.ones((40, 40)), np.zeros((40, 40), bool), None, 0.2)
    card = CARD | {"data": {"source": "files"}}
    with pytest.raises(DataError, match="does not say the pixel scale"):
        network_input(one.image, one, card, noise=1.0, generator=np.random.default_rng(0))


def lens_with(about: dict) -> Observation:
    empty = np.zeros((4, 4))
    return Observation("the-lens", "", empty, empty + 1, empty > 0, None, 0.05, about)


@pytest.mark.parametrize(
    "about, message",
    [
        ({"redshift_lens": 0.6, "redshift_source": 0.2}, "redshift_source = 0.2 is not behind redshift_lens = 0.6"),
        ({"redshift_lens": 0.5, "redshift_source": 0.5}, "is not behind"),
        ({"redshift_lens": 0.0, "redshift_source": 1.0}, "redshift_lens = 0; expected more than 0"),
        ({"redshift_lens": 0.5, "redshift_source": math.nan}, "redshift_source = nan; expected more than 0"),
        ({"redshift_source": -1.0}, "redshift_source = -1; expected"),
        ({"redshift_lens": "near", "redshift_source": 1.0}, "expected numbers, or none at all"),
    ],
)
def test_redshifts_that_cannot_be_are_told(about, message):
    with pytest.raises(DataError, match=message):
        redshifts_of(lens_with(about))


def test_redshifts_that_are_not_said_are_those_of_the_simulations():
    assert redshifts_of(lens_with({"redshift_lens": 0.2})) == ((0.5, 1.0), False)
    assert redshifts_of(lens_with({"redshift_lens": 0.2, "redshift_source": 0.6})) == ((0.2, 0.6), True)
