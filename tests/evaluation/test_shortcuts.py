"""Shortcuts are found where they were put in, and only there, with intervals that hold the truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from lensstudy.data.baselines import halves
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.simulation import simulate
from lensstudy.evaluation.shortcuts import shortcuts, smooth_fit_scores


def noise(brighter: float, seed: int, each: int = 60, classes=("no_sub", "cdm", "axion")) -> LensDataset:
    """Pure noise, whose total flux is `brighter` standard deviations higher from class to class."""
    generator, size = np.random.default_rng(seed), 16
    images = generator.normal(0, 1, (len(classes) * each, 1, size, size))
    labels = np.repeat(np.arange(len(classes)), each)
    images += labels[:, None, None, None] * brighter / size
    table = pd.DataFrame({"name": map(str, range(len(labels))), "class": np.array(classes)[labels]})
    return LensDataset(images.astype(np.float32), table, classes).split(0.1, 0.1, seed=0)


def test_a_difference_in_flux_is_found_and_only_there():
    found = shortcuts(noise(1.0, 3, each=400, classes=("no_sub", "cdm")))
    expected = norm.cdf(1 / np.sqrt(2))  # of two normal distributions one standard deviation apart
    assert found.table.loc["total flux", "auc"] == pytest.approx(expected, abs=0.06)
    assert found.table.loc["total flux", "low"] > 0.5 and "There is a shortcut**: total flux" in found.answer
    assert found.images == 360


def test_intervals_of_no_difference_hold_guessing():
    tables = [shortcuts(noise(0.0, seed), features=["total_flux"]) for seed in range(80)]
    held = [one.table["low"].iloc[0] <= 0.5 <= one.table["high"].iloc[0] for one in tables]
    assert np.mean(held) >= 0.88
    assert "No shortcut shows** in 81 images" in tables[held.index(True)].answer


def test_one_class_against_the_rest():
    """`axion` alone is brighter: it is told from the others, and `no_sub` from `cdm` is not."""
    dataset = noise(0.0, 5, each=200)
    dataset.images[dataset.labels == 2] += 0.25
    table = shortcuts(dataset, "axion", ["total_flux"]).table
    assert table["low"].iloc[0] > 0.95 and list(table.index) == ["total flux"]


def test_the_test_part_is_not_looked_at():
    dataset = noise(1.0, 7)
    before = shortcuts(dataset).table
    dataset.images[(dataset.catalogue["part"] == "test").to_numpy()] = 1e6
    pd.testing.assert_frame_equal(shortcuts(dataset).table, before)


def test_copies_of_one_lens_lie_in_one_half():
    dataset = noise(0.0, 9, each=25)
    rows = np.repeat(np.arange(len(dataset)), 4)
    catalogue = dataset.catalogue.iloc[rows].reset_index(drop=True).assign(group=rows)
    first, second = halves(LensDataset(dataset.images[rows], catalogue, dataset.classes))
    assert not set(first.catalogue["group"]) & set(second.catalogue["group"])
    assert abs(np.bincount(first.labels) - np.bincount(second.labels)).max() <= 4


def test_unknown_features_are_refused():
    with pytest.raises(DataError, match="ring_moments, total_flux"):
        shortcuts(noise(0.0, 1), features=["horoscope"])


def test_a_smooth_lens_is_fitted_to_so_many_images_of_each_class_that_was_simulated():
    lenses = simulate("model_3", 3, seed=1, image_size=32)
    truth, found = smooth_fit_scores(lenses, 2)
    assert truth.tolist() == [0, 0, 1, 1, 1, 1] and found.shape == (6, 2)
    assert found[:2, 1].max() < found[2:, 1].min() and (found[:, 0] == -found[:, 1]).all()
    smooth = lenses.subset(np.arange(3))
    for dataset, images in ((lenses, 0), (smooth, 2), (noise(1.0, 3, each=10), 2)):  # none, one kind, no camera known
        truth, found = smooth_fit_scores(dataset, images)
        assert truth.shape == (0,) and found.shape == (0, 2)
