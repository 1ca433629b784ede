"""Perturbations change what they say and nothing else; learning curves are read as they were drawn."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.evaluation import robustness
from lensstudy.figures import analysis as analysis_figures
from lensstudy.lensing.instruments import SIGMA_PER_FWHM


@pytest.fixture
def spot():
    """One Gaussian spot of sigma 2 pixels, off the centre, in three images of two channels."""
    y, x = np.mgrid[:32, :32] - 15.5
    image = np.exp(-((x - 3) ** 2 + (y + 2) ** 2) / 8).astype(np.float32)
    return np.tile(image, (3, 2, 1, 1))


def centre_and_size(image):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] - (np.array(image.shape) - 1)[:, None, None] / 2
    light = image / image.sum()
    at = np.array([(light * x).sum(), (light * y).sum()])
    return at, np.sqrt((light * ((x - at[0]) ** 2 + (y - at[1]) ** 2)).sum() / 2)


def test_rotations_and_reflections_are_what_they_say(spot):
    assert np.array_equal(robustness.rotated(spot, 90.0), np.rot90(spot, axes=(-2, -1)))
    assert np.array_equal(robustness.reflected(spot), spot[..., ::-1])
    at, size = centre_and_size(robustness.rotated(spot, np.array([0.0, 30.0, 200.0]))[1, 0])
    assert np.hypot(*at) == pytest.approx(np.hypot(3, 2), abs=0.05)
    assert size == pytest.approx(2, rel=0.05)


def test_a_shift_moves_by_the_pixels_asked_for_in_random_directions(spot):
    moved = robustness.shifted(spot, 3, np.random.default_rng(1))
    steps = [centre_and_size(image[0])[0] - [3, -2] for image in moved]
    assert [np.hypot(*step) for step in steps] == pytest.approx([3, 3, 3], abs=0.75)
    assert not np.allclose(steps[0], steps[1])
    assert np.array_equal(robustness.shifted(spot, 3, np.random.default_rng(1)), moved)


def test_a_wider_point_spread_function_adds_its_width_in_squares(spot):
    at, size = centre_and_size(robustness.blurred(spot, 3.0)[0, 1])
    assert at == pytest.approx([3, -2], abs=0.01)
    assert size == pytest.approx(np.hypot(2, 3.0 * SIGMA_PER_FWHM), rel=0.01)


def test_a_zoom_enlarges_about_the_centre(spot):
    at, size = centre_and_size(robustness.zoomed(spot, 1.25)[0, 0])
    assert at == pytest.approx(1.25 * np.array([3, -2]), abs=0.05)
    assert size == pytest.approx(2.5, rel=0.03)
    assert np.allclose(robustness.zoomed(spot, 1.0), spot, atol=1e-6)


def test_noise_is_a_multiple_of_what_is_there_and_of_the_peak_where_there_is_none(spot):
    generator = np.random.default_rng(2)
    noisy = np.repeat(spot[:, :1], 30, 0) + generator.normal(0, 0.02, (90, 1, 32, 32)).astype(np.float32)
    (more,) = robustness.perturbations(noisy, noise=3)["noise × 3"]
    added = more(noisy, generator) - noisy
    assert added.std() == pytest.approx(0.02 * np.sqrt(8), rel=0.05)
    noisy[:45] *= 10  # as in a mixture of presets: each image has its own noise, in its own units
    added = more(noisy, generator) - noisy
    assert added[:45].std() == pytest.approx(10 * added[45:].std(), rel=0.05)
    (some,) = robustness.perturbations(spot)["with noise of 1 % of the peak"]
    assert (some(spot, generator) - spot).std() == pytest.approx(0.01 * spot.max(), rel=0.1)


def test_every_network_gets_the_same_perturbed_images_and_none_changes_its_input(spot):
    images = np.repeat(spot, 100, 0)
    images.flags.writeable = False
    for draws in robustness.perturbations(images, draws=2).values():
        for perturbation in draws:
            first, second = (
                robustness.predict_perturbed(lambda x: x.copy(), images, perturbation, seed=4) for _ in range(2)
            )
            assert first.shape == images.shape
            assert np.array_equal(first, second)


class Brightness:
    """In the place of a trained network: probabilities from the brightness of an image, its classes in any order."""

    def __init__(self, classes, dimmer=False):
        self.classes, self.sign = classes, -1.0 if dimmer else 1.0

    def predict(self, images):
        logits = self.sign * np.asarray(images).mean((1, 2, 3))[:, None] * [CALLED.index(name) for name in self.classes]
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


CALLED = ("no_sub", "cdm", "axion")


def bright(classes):
    """Sixty images a class, the brighter the later it stands in `CALLED`."""
    generator, names = np.random.default_rng(7), np.repeat(classes, 60)
    level = np.array([2.0 * CALLED.index(name) - 1 for name in names]) + 0.8 * generator.normal(size=len(names))
    images = np.tile(level.astype(np.float32)[:, None, None, None], (1, 1, 8, 8))
    table = pd.DataFrame({"name": [f"{k}" for k in range(len(names))], "class": names})
    return LensDataset(images, table, classes, {})


def test_transfer_matches_classes_by_name_and_skips_what_one_side_does_not_know():
    runs = {"a": [Brightness(("axion", "cdm", "no_sub"))] * 2, "b": [Brightness(("cdm", "no_sub"), dimmer=True)]}
    sets = {"two": bright(("cdm", "no_sub")), "three": bright(CALLED)}
    table = robustness.transfer_matrix(runs, sets).set_index(["trained", "tested"])
    assert table.images.tolist() == [120, 180, 120, 120]
    assert table.seeds.tolist() == [2, 2, 1, 1]
    assert (table.auc.loc["a"] > 0.8).all()
    assert (table.auc.loc["b"] < 0.1).all()  # what is learnt the wrong way round stays so: no label was swapped
    assert (table.low < table.auc).all() and (table.auc < table.high).all()
    figure = analysis_figures.transfer(table.reset_index(), "From there to here.")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["two", "three"]
    assert len(figure.axes[0].texts) == 4
    with pytest.raises(DataError, match="fewer than two classes are common"):
        robustness.transfer_matrix({"b": runs["b"]}, {"one": bright(("no_sub", "axion"))})
