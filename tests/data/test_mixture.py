"""Mixed presets: equal parts, no lens twice, and each image what its own preset makes."""

import numpy as np
import pytest
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError
from lensstudy.data.simulation import simulate, smooth_counterpart
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.simulation import draw_batch
from lensstudy.study import Study
from lensstudy.training.batches import FreshImages

TWO = {
    "presets": [
        {"preset": "model_3", "noise_level": 0.02},
        {"preset": "realistic", "population": {"axion_fraction_max": 0.4}},
    ]
}


def test_one_preset_is_the_data_set_of_the_simulator():
    assert (
        mixture.make("model_3", 3, seed=4, image_size=24).fingerprint
        == simulate("model_3", 3, seed=4, image_size=24).fingerprint
    )


def test_a_mixture_holds_what_its_presets_make():
    mixed = mixture.make("mixture", 5, seed=4, image_size=24, population=TWO)
    components = mixture.components_of("mixture", TWO, None, 4)
    assert mixed.catalogue.groupby(["preset", "class"]).size().unstack().to_numpy().tolist() == [[3] * 3, [2] * 3]
    assert mixed.catalogue["name"].is_unique and len({one.seed for one in components}) == 2
    own = simulate("realistic", 2, seed=components[1].seed, image_size=24, axion_fraction_max=0.4)
    assert np.array_equal(mixed.images[mixed.catalogue["preset"] == "1 realistic"], own.images)
    assert mixed.description["pixel_scale"] == pytest.approx(5.12 / 24)  # of both
    wider = {"presets": [{"preset": "model_1"}, {"preset": "realistic"}]}
    assert "pixel_scale" not in mixture.make("mixture", 2, seed=1, image_size=24, population=wider).description
    again = mixture.make("mixture", 5, seed=4, image_size=24, population=TWO)
    assert (
        again.fingerprint
        == mixed.fingerprint
        != mixture.make("mixture", 5, seed=5, image_size=24, population=TWO).fingerprint
    )


def test_fresh_images_come_from_every_preset():
    classes = ("no_sub", "cdm", "axion")
    components = mixture.components_of("mixture", TWO, None, 4)
    images, labels = mixture.draw(components, range(64, 192), classes=classes, image_size=24)
    assert torch.bincount(labels).tolist() == [128] * 3
    own, _ = draw_batch(
        "realistic", range(32, 96), seed=components[1].seed, classes=classes, image_size=24, axion_fraction_max=0.4
    )
    assert torch.equal(images.unflatten(0, (3, 128))[:, 64:], own.unflatten(0, (3, 64)))
    with pytest.raises((DataError, LensingError), match="equal parts"):
        mixture.draw(components, range(0, 65), classes=classes, image_size=24)
    settings = Study(preset="mixture", population=TWO, image_size=24, fresh_images=100, noise_level=0.0)
    assert FreshImages(settings, classes).components[0].noise_level == 0.02


def test_no_lens_appears_twice():
    """The same preset twice gives other lenses, and none of them is one of those drawn fresh."""
    twice = {"presets": [{"preset": "model_3", "population": None}, {"preset": "model_3"}]}
    mixed = mixture.make("mixture", 6, seed=4, image_size=24, population=twice)
    assert len(np.unique(mixed.images.reshape(len(mixed), -1), axis=0)) == len(mixed)
    fresh = {FreshImages(Study(data_seed=4, seed=k), ("no_sub",)).components[0].seed for k in range(5)}
    assert not fresh & {one.seed for one in mixture.components_of("mixture", twice, None, 4)}
    with pytest.raises((DataError, LensingError), match="simulate one of its presets"):
        smooth_counterpart(mixed)


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ({}, "expected one entry, a list of components"),
        ({"presets": []}, "expected one entry"),
        ({"presets": TWO["presets"], "lens_light": True}, "expected one entry"),
        ({"presets": [{"preset": "model_9"}]}, r"presets\[0\].*model_9"),
        ({"presets": [{"preset": "model_3", "noise": 1}]}, "noise_level"),
        ({"presets": [{"preset": "realistic", "population": {"shear": 1}}]}, "no parameter 'shear'"),
        ({"presets": [{"preset": "model_3"}] * 9}, "a mixture of 9 components"),
        ({"presets": [{"preset": "model_3", "population": [1]}]}, r"presets\[0\].*name: value"),
        ({"presets": [{"preset": "model_3", "noise_level": "high"}]}, r"presets\[0\].*noise_level of 0"),
        ({"presets": [{"preset": "model_3", "noise_level": -1}]}, r"presets\[0\].*noise_level of 0"),
    ],
)
def test_lists_that_are_none_are_refused(population, message):
    with pytest.raises((DataError, LensingError), match=message):
        mixture.make("mixture", 5, seed=1, image_size=24, population=population)
