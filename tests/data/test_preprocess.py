"""Images become a network's input by one rule, which survives the card and can be traced."""

import json

import numpy as np
import pytest
import torch

from lensstudy.data.dataset import DataError, sky_and_noise
from lensstudy.data.preprocess import SCALINGS, Preprocess
from lensstudy.data.rotation import SymmetryError, rotate, working_size

ASINH = {"sky": [2.0], "softening": [0.5], "mean": [0.0], "deviation": [1.0]}


def noise(count=90, channels=1, size=16) -> np.ndarray:
    images = np.random.default_rng(0).normal(5, 1, (count, channels, size, size)).astype(np.float32)
    return images * np.arange(1, channels + 1, dtype=np.float32)[:, None, None]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_scalings_survive_the_card_and_do_what_they_say(scaling, channels):
    images = noise(channels=channels)
    preprocess = Preprocess.fit(images, scaling)
    again = Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict())))
    scaled = preprocess(torch.from_numpy(images))
    assert torch.equal(again(images), scaled) and again.to_dict() == preprocess.to_dict()
    assert scaled.dtype == torch.float32 and scaled.shape == images.shape and scaled.isfinite().all()
    if scaling == "none":
        np.testing.assert_array_equal(scaled, images)
    elif scaling == "min-max":
        assert (scaled.amin((1, 2, 3)) == 0).all() and scaled.amax((1, 2, 3)) == pytest.approx(1)
    elif scaling == "maximum":
        assert scaled.amax((1, 2, 3)) == pytest.approx(1)
        np.testing.assert_allclose(scaled[0], images[0] / images[0].max(), rtol=1e-6)
    else:
        assert scaled.mean((0, 2, 3)) == pytest.approx(0, abs=1e-5)
        assert scaled.std((0, 2, 3)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_traced_by_torch_export(scaling, channels):
    images = torch.from_numpy(noise(4, channels, 24))
    preprocess = Preprocess.fit(images.numpy(), scaling, crop=16, binning=2)
    traced = torch.export.export(preprocess, (images,)).module()
    assert torch.equal(traced(images), preprocess(images)) and preprocess(images).shape == (4, channels, 8, 8)


def test_crop_bin_and_rotate_are_those_of_numpy():
    images = noise(3, size=26)
    middle = np.rot90(images, 1, (2, 3))[..., 5:21, 5:21]
    binned = middle.reshape(3, 1, 8, 2, 8, 2).mean((3, 5))
    np.testing.assert_allclose(Preprocess(16, 2)(images, degrees=90), binned, rtol=1e-6)


def test_any_angle_is_rotated_before_the_crop():
    images = torch.from_numpy(noise(3, size=26))
    angles = torch.tensor([10.0, 200.0, 33.0])
    assert torch.equal(Preprocess(16)(images, angles), rotate(images, angles, size=16))


@pytest.mark.parametrize(
    ("image_size", "crop", "binning", "expected"),
    [(150, 96, 2, 48), (150, 0, 1, 150), (64, 0, 1, 64), (101, 0, 1, 101), (64, 0, 3, 20), (65, 0, 3, 21)],
)
def test_what_a_network_sees_is_central_and_symmetric(image_size, crop, binning, expected):
    preprocess = Preprocess.fit(np.zeros((1, 1, image_size, image_size)), "none", crop, binning)
    assert (preprocess.size, preprocess.crop) == (expected, expected * binning)
    assert (image_size - preprocess.crop) % 2 == 0 and working_size(expected) == expected


def test_a_crop_that_cannot_be_centred_says_so():
    with pytest.raises(SymmetryError, match="keeps exact symmetry; choose another binning or a larger crop"):
        Preprocess.fit(np.zeros((1, 1, 65, 65)), "none", 0, 2)
    with pytest.raises(SymmetryError, match="the images are smaller than that"):
        Preprocess(16)(noise(2, size=8))


def test_asinh_is_asinh_to_the_last_digits():
    x = torch.linspace(-1e4, 1e4, 64 * 64).view(1, 1, 64, 64)
    preprocess = Preprocess(64, scaling="asinh", statistics=ASINH)
    assert (preprocess(x) - torch.asinh((x.double() - 2) / 0.5)).abs().max() < 2e-6
    near = 2 + torch.linspace(-1e-3, 1e-3, 64 * 64).view(1, 1, 64, 64)
    assert (preprocess(near) - torch.asinh((near - 2).double() / 0.5)).abs().max() < 1e-9


def test_scaling_is_that_of_the_images_it_was_fitted_on():
    images = noise()
    train, other = images[:60], images[60:] * 100
    before = Preprocess.fit(train, "z-score")
    assert before.statistics["mean"] == pytest.approx([train.mean()], rel=1e-6)
    assert before.statistics != Preprocess.fit(np.concatenate([train, other]), "z-score").statistics


def test_scaling_sees_what_the_network_sees():
    images = np.zeros((4, 1, 16, 16))
    images[:, :, 4:12, 4:12] = np.random.default_rng(0).normal(5, 1, (4, 1, 8, 8))
    fitted = Preprocess.fit(images, "z-score", crop=8).statistics
    assert fitted["mean"] == pytest.approx([images[:, :, 4:12, 4:12].mean()])


def test_scaling_works_on_integers_and_on_flat_images():
    flat = torch.full((2, 1, 8, 8), 7, dtype=torch.uint8)
    for scaling in ("none", "min-max", "maximum"):
        assert Preprocess(8, scaling=scaling)(flat).isfinite().all()
    assert (Preprocess(8, scaling="maximum")(torch.zeros(1, 1, 8, 8)) == 0).all()


@pytest.mark.parametrize(
    "scaling, images, message",
    [
        ("sqrt", np.ones((2, 1, 8, 8)), "scaling 'sqrt' is unknown; there are none"),
        ("asinh", np.full((2, 1, 8, 8), np.nan), "filter them first"),
        ("z-score", np.ones((2, 1, 8, 8)), "nothing to scale"),
        ("asinh", np.ones((2, 1, 8, 8)), "nothing to scale"),
    ],
)
def test_what_cannot_be_scaled_is_an_error(scaling, images, message):
    with pytest.raises(DataError, match=message):
        Preprocess.fit(images, scaling)


def test_noise_is_that_of_each_image_whatever_its_unit_and_exposure(blobs):
    images = blobs.images[:6]
    preprocess = Preprocess.fit(images, "noise")
    units = np.geomspace(1e-6, 1e6, 6, dtype=np.float32)[:, None, None, None]
    torch.testing.assert_close(preprocess(images * units + 3 * units), preprocess(images), rtol=1e-3, atol=1e-3)
    sky, noise = sky_and_noise(images[0])
    raw = np.sinh(preprocess(images[:1]) * preprocess.statistics["deviation"][0] + preprocess.statistics["mean"][0])
    np.testing.assert_allclose(raw[0], (images[0] - sky) / noise, rtol=1e-3, atol=1e-3)


def test_noise_is_measured_before_a_rotation_smooths_it():
    images = torch.from_numpy(noise(8, size=32))
    preprocess = Preprocess(16, scaling="noise", statistics={"mean": [0.0], "deviation": [1.0]})
    upright, rotated = (preprocess(images, degrees) for degrees in (0.0, 45.0))
    assert preprocess(images, 90.0).equal(upright.rot90(1, (-2, -1)))
    assert rotated.std() < 0.95 * upright.std()


def test_noise_of_a_clean_image_is_a_thousandth_of_its_peak():
    image = np.zeros((1, 1, 16, 16), dtype=np.float32)
    image[..., 6:10, 6:10] = np.linspace(1, 5, 16).reshape(4, 4)
    preprocess = Preprocess(16, scaling="noise", statistics={"mean": [0.0], "deviation": [1.0]})
    assert preprocess(image).max() == pytest.approx(np.arcsinh(1000))


@pytest.mark.parametrize("scaling", ["min-max", "maximum", "asinh", "z-score", "noise"])
def test_scalings_do_not_mind_the_unit_of_brightness(blobs, scaling):
    one = Preprocess.fit(blobs.images, scaling)(blobs.images[:4])
    small = blobs.images * np.float32(1e-18)
    torch.testing.assert_close(Preprocess.fit(small, scaling)(small[:4]), one, rtol=1e-3, atol=1e-3)
