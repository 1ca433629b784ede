"""The images of a sample: kept, the same on any number of processes, and split by what they are."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations.rays import binned
from lensstudy.observations.reading import read_observations
from lensstudy.observations.sample_images import BINS, BLIND, KINDS, REAL, SampleImages, _blended
from lensstudy.observations.writing import write, write_simulated


@pytest.fixture(scope="module")
def lenses(tmp_path_factory):
    """Two simulated lenses of large pixels, to which a smooth model is fitted in seconds."""
    folder = tmp_path_factory.mktemp("lenses")
    for one in read_observations(write_simulated(folder / "all", 1, magnitudes=(23.0, 23.5)))[0][:2]:
        write(binned(one, 2)[0], folder / "few" / one.name)
    return folder / "few"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def images(lenses, folder):
    return SampleImages.of(lenses, folder, counterparts=2, processes=1)


def test_every_lens_has_counterparts_of_every_kind(images):
    counts = images.catalogue.groupby(["kind", "lens"]).size().unstack("lens")
    assert set(counts.index) == {REAL, *set(KINDS) - {"real residuals", BLIND}}  # two lenses are too few for those
    assert (counts.nunique(axis=1) == 1).all() and counts.loc["train"].tolist() == [2, 2]
    assert len(images.images) == len(images.catalogue)


def test_half_of_what_networks_learn_from_has_a_subhalo(images):
    data = images.training(blends=2)
    assert data.part("train").catalogue["class"].value_counts().to_dict() == {"no_sub": 6, "sub": 6}
    rows = images.catalogue
    assert rows["mass"][rows["mass"] > 0].between(BINS[0], BINS[-1]).all()
    assert not (rows["mass"][rows["kind"].str.contains("multipole|smooth|real")] > 0).any()
    data.check_classes()


def test_what_is_there_is_kept_and_what_is_missing_is_made_alike_by_several_processes(images, lenses, folder):
    files = sorted((folder / "images").glob("*.npz"))
    before = {file: file.stat().st_mtime_ns for file in files}
    for file in files[:2]:
        file.unlink()
    again = SampleImages.of(lenses, folder, counterparts=2, processes=2)
    np.testing.assert_array_equal(again.images, images.images)
    assert again.catalogue.equals(images.catalogue)
    assert all(file.stat().st_mtime_ns == before[file] for file in files[2:])


def test_a_path_without_lenses_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        SampleImages.of(tmp_path / "empty", tmp_path / "out")


def test_blends_are_noise_like_that_of_smooth_lenses():
    """Of unit noise they have unit noise, and none is blended with itself."""
    generator = np.random.default_rng(0)
    images = np.zeros((40, 3, 64, 64))
    images[:, 1] = np.arcsinh(generator.normal(size=(40, 64, 64)))
    table = pd.DataFrame({"template": ["A"] * 20 + ["B"] * 20, "mass": [0.0, 1e9] * 20})
    blended = np.sinh(_blended(images, table, generator)[:, 1])
    np.testing.assert_allclose(blended.std((1, 2)), 1, atol=0.06)
    assert (np.abs(blended - np.sinh(images[:, 1])).max((1, 2)) > 0.5).all()
    alone = pd.DataFrame({"template": ["A", "B"], "mass": [0.0, 0.0]})
    np.testing.assert_allclose(_blended(images[:2], alone, generator), images[:2])
