"""What a data set says of itself, compared with its catalogue and with pixels made for the purpose."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data import mixture, overview
from lensstudy.data.dataset import LensDataset
from lensstudy.data.filtering import Rules, filter_images
from lensstudy.data.reading import read, write_deeplense
from lensstudy.data.simulation import simulate

TWO = {
    "presets": [{"preset": "model_3", "noise_level": 0.02}, {"preset": "realistic", "population": {"shear_max": 0.2}}]
}


@pytest.fixture(scope="module")
def lenses():
    return simulate("realistic", 30, seed=3, image_size=32).split(0.2, 0.2, seed=1)


@pytest.fixture
def from_files(blobs, tmp_path):
    """The blobs as files: their classes are known and nothing else; one of them is constant."""
    blobs.images[3] = 1.0
    write_deeplense(blobs, tmp_path / "files")
    return filter_images(read(tmp_path / "files"), Rules(near_duplicate=None)).split(0.2, 0.2, seed=1)


def test_counts_are_those_of_the_parts(lenses):
    counts = overview.counts(lenses)
    assert counts["all"].tolist() == [30, 30, 30] and list(counts.index) == list(lenses.classes)
    for part in ("train", "validation", "test"):
        assert counts[part].tolist() == np.bincount(lenses.part(part).labels, minlength=3).tolist()


def test_a_preset_is_told_with_what_was_changed_in_its_population():
    said = overview.in_words(simulate("realistic", 1, seed=1, image_size=32, shear_max=0.25))
    assert "3 images of 32 × 32 pixels in 1 channel, simulated with the preset `realistic` (shear_max = 0.25)" in said
    mixed = mixture.make("mixture", 2, seed=1, image_size=24, population=TWO)
    assert "`model_3` and simulated with the preset `realistic` (shear_max = 0.2)" in overview.in_words(mixed)


def test_noise_and_brightness_are_those_that_were_put_in():
    generator = np.random.default_rng(1)
    images = generator.normal(5, 1, (40, 1, 48, 48)).astype(np.float32)
    images[20:] = (images[20:] - 5) * 3 + 7
    table = pd.DataFrame({"name": map(str, range(40)), "class": ["no_sub"] * 20 + ["cdm"] * 20})
    found = overview.brightness(LensDataset(images, table, ("no_sub", "cdm")))
    assert found["mean brightness"].to_numpy() == pytest.approx([5, 7], abs=0.05)
    assert found["noise"].to_numpy() == pytest.approx([1, 3], rel=0.05)
    assert found["spread of the mean"].to_numpy() == pytest.approx([1 / 48, 3 / 48], rel=0.5)


def test_what_is_known_of_simulated_lenses(lenses):
    found = overview.counterparts(lenses)
    assert found.titles == list(lenses.classes) and found.mass.shape == found.smooth.shape == (3, 32, 32)
    assert np.array_equal(found.noise_free[0], found.smooth[0]) and found.mass[0].sum() == 0
    assert np.abs(found.noise_free[1:] - found.smooth[1:]).max((1, 2)).min() > 0
    np.testing.assert_array_equal(found.observed[1], lenses.images[lenses.labels == 1][0, 0])
    truth = lenses.catalogue[lenses.labels == 2].iloc[0]
    assert found.mass[2].sum() == pytest.approx(truth["vortex_mass"], rel=0.3)  # its ends may lie outside the field
    masses = [lenses.catalogue.loc[lenses.labels == k, "substructure_mass"].median() for k in range(3)]
    assert overview.detectability(lenses).iloc[:, 0].tolist() == masses


def test_a_mixture_shows_a_lens_of_every_preset():
    mixed = mixture.make("mixture", 4, seed=4, image_size=24, population=TWO)
    parts = mixture.components(mixed)
    assert [part.description["preset"] for part in parts] == ["model_3", "realistic"]
    assert np.array_equal(np.concatenate([part.images for part in parts]), mixed.images)
    found = overview.counterparts(mixed)
    assert found.titles == ["0 model_3", "1 realistic"]
    assert np.abs(found.noise_free - found.smooth).max((1, 2)).min() > 0


def test_of_images_from_files_only_their_pixels_are_known(from_files):
    assert overview.counterparts(from_files).titles == [] and overview.detectability(from_files).empty
    assert "read from files" in overview.in_words(from_files)
    reasons, rules = overview.exclusions(from_files)
    assert reasons["images"].to_dict() == {"constant": 1} and "clipped 0.5" in rules
    assert len(overview.used(from_files)) == len(from_files) - 1
    assert overview.counts(from_files)["all"].sum() == len(from_files) - 1


def test_simulated_images_are_not_filtered(lenses):
    reasons, rules = overview.exclusions(lenses)
    assert reasons.empty and rules == "Simulated images are not filtered."
    assert len(overview.used(lenses)) == len(lenses)


def ellipses(angles: np.ndarray) -> LensDataset:
    y, x = np.mgrid[:32, :32] - 15.5
    u = x * np.cos(angles)[:, None, None] + y * np.sin(angles)[:, None, None]
    v = y * np.cos(angles)[:, None, None] - x * np.sin(angles)[:, None, None]
    images = np.exp(-(u**2 / 2 + v**2) / 16).astype(np.float32)[:, None]
    table = pd.DataFrame({"name": map(str, range(len(angles))), "class": "no_sub"})
    return LensDataset(images, table, ("no_sub",))


def test_a_preferred_direction_is_told_from_none():
    generator = np.random.default_rng(2)
    every = overview.direction(ellipses(generator.uniform(0, np.pi, 300)))
    assert np.abs(every.mean).max() < 4 * every.error.max() and "No preferred direction shows" in every.answer
    spread = overview.direction(ellipses(np.pi / 4 + generator.normal(0, 0.2, 300)))
    assert spread.mean[1] > 0.1 and abs(spread.mean[0]) < 0.1
    assert "**The images have a preferred direction**" in spread.answer and f"{spread.mean[1]:+.3f}" in spread.answer
