"""Mixed recipes: equal parts, no lens twice, and each image what its own recipe makes."""

import numpy as np
import pytest
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError
from lensstudy.data.simulation import simulate, smooth_counterpart
from lensstudy.lensing.instruments import LensingError
from lensstudy.lensing.simulation import draw_batch
from lensstudy.study import Study
from lensstudy.training.batches import FreshImages

TWO = {
    "recipes": [
        {"preset": "model_3", "noise_level": 0.02},
        {"preset": "realistic", "population": {"axion_fraction_max": 0.4}},
    ]
}


def test_one_recipe_is_the_data_set_of_the_simulator():
    assert (
        mixture.make("model_3", 3, seed=4, image_size=24).fingerprint
        == simulate("model_3", 3, seed=4, image_size=24).fingerprint
    )


def test_a_mixture_holds_what_its_recipes_make():
    mixed = mixture.make("mixture", 5, seed=4, image_size=24, population=TWO)
    recipes = mixture.components_of("mixture", TWO, None, 4)
    assert mixed.catalogue.groupby(["recipe", "class"]).size().unstack().to_numpy().tolist() == [[3] * 3, [2] * 3]
    assert mixed.catalogue["name"].is_unique and len({recipe.seed for recipe in recipes}) == 2
    own = simulate("realistic", 2, seed=recipes[1].seed, image_size=24, axion_fraction_max=0.4)
    assert np.array_equal(mixed.images[mixed.catalogue["recipe"] == "1 realistic"], own.images)
    assert mixed.description["pixel_scale"] == pytest.approx(5.12 / 24)  # of both
    wider = {"recipes": [{"preset": "model_1"}, {"preset": "realistic"}]}
    assert "pixel_scale" not in mixture.make("mixture", 2, seed=1, image_size=24, population=wider).description
    again = mixture.make("mixture", 5, seed=4, image_size=24, population=TWO)
    assert (
        again.fingerprint
        == mixed.fingerprint
        != mixture.make("mixture", 5, seed=5, image_size=24, population=TWO).fingerprint
    )


def test_fresh_images_come_from_every_recipe():
    classes = ("no_sub", "cdm", "axion")
    recipes = mixture.components_of("mixture", TWO, None, 4)
    images, labels = mixture.draw(recipes, range(64, 192), classes=classes, image_size=24)
    assert torch.bincount(labels).tolist() == [128] * 3
    own, _ = draw_batch(
        "realistic", range(32, 96), seed=recipes[1].seed, classes=classes, image_size=24, axion_fraction_max=0.4
    )
    assert torch.equal(images.unflatten(0, (3, 128))[:, 64:], own.unflatten(0, (3, 64)))
    with pytest.raises((DataError, LensingError), match="equal parts"):
        mixture.draw(recipes, range(0, 65), classes=classes, image_size=24)
    settings = Study(preset="mixture", population=TWO, image_size=24, fresh_images=100, noise_level=0.0)
    assert FreshImages(settings, classes).recipes[0].noise_level == 0.02


def test_no_lens_appears_twice():
    """The same recipe twice gives other lenses, and none of them is one of those drawn fresh."""
    twice = {"recipes": [{"preset": "model_3", "population": None}, {"preset": "model_3"}]}
    mixed = mixture.make("mixture", 6, seed=4, image_size=24, population=twice)
    assert len(np.unique(mixed.images.reshape(len(mixed), -1), axis=0)) == len(mixed)
    fresh = {FreshImages(Study(data_seed=4, seed=k), ("no_sub",)).recipes[0].seed for k in range(5)}
    assert not fresh & {recipe.seed for recipe in mixture.components_of("mixture", twice, None, 4)}
    with pytest.raises((DataError, LensingError), match="simulate one of its presets"):
        smooth_counterpart(mixed)


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ({}, "expected one entry, a list of components"),
        ({"recipes": []}, "expected one entry"),
        ({"recipes": TWO["recipes"], "lens_light": True}, "expected one entry"),
        ({"recipes": [{"preset": "model_9"}]}, r"recipes\[0\].*model_9"),
        ({"recipes": [{"preset": "model_3", "noise": 1}]}, "noise_level"),
        ({"recipes": [{"preset": "realistic", "population": {"shear": 1}}]}, "no parameter 'shear'"),
        ({"recipes": [{"preset": "model_3"}] * 9}, "a mixture of 9 components"),
        ({"recipes": [{"preset": "model_3", "population": [1]}]}, r"recipes\[0\].*name: value"),
        ({"recipes": [{"preset": "model_3", "noise_level": "high"}]}, r"recipes\[0\].*noise_level of 0"),
        ({"recipes": [{"preset": "model_3", "noise_level": -1}]}, r"recipes\[0\].*noise_level of 0"),
    ],
)
def test_lists_that_are_none_are_refused(population, message):
    with pytest.raises((DataError, LensingError), match=message):
        mixture.make("mixture", 5, seed=1, image_size=24, population=population)
