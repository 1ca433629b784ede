"""The images of a sample: kept, the same on any number of processes, and split by what they are."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations import sample_images
from lensstudy.observations.counterparts import PROFILES
from lensstudy.observations.rays import binned
from lensstudy.observations.reading import read_observations
from lensstudy.observations.sample_images import (
    BINS,
    BLIND,
    BLIND_SUBHALO,
    KINDS,
    NEED_MANY,
    REAL,
    Job,
    Request,
    SampleImages,
    _blended,
    _kept,
)
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
    assert set(counts.index) == {REAL, *set(KINDS) - set(NEED_MANY)}  # two lenses are too few for those
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
    images[:, :2] = np.arcsinh(generator.normal(size=(40, 1, 64, 64)))  # an image without arcs is its noise
    images[:, 2] = 1
    table = pd.DataFrame({"template": ["A"] * 20 + ["B"] * 20, "mass": [0.0, 1e9] * 20})
    seen = _blended(images, table, generator)
    np.testing.assert_allclose(seen[:, 0], seen[:, 1], atol=1e-9)
    blended = np.sinh(seen[:, 1])
    np.testing.assert_allclose(blended.std((1, 2)), 1, atol=0.06)
    assert (np.abs(blended - np.sinh(images[:, 1])).max((1, 2)) > 0.5).all()
    alone = pd.DataFrame({"template": ["A", "B"], "mass": [0.0, 0.0]})
    np.testing.assert_allclose(_blended(images[:2], alone, generator), images[:2])


def test_residuals_are_lent_by_the_best_explained_lenses_to_others_and_never_for_training_and_test(monkeypatch):
    sample = [
        SimpleNamespace(name=f"L{number}", chi2=number, same_pixels=lambda other: other.name != "L0")
        for number in range(12)
    ]
    monkeypatch.setattr(sample_images, "_opened", lambda files: sample[: len(files)])

    def lenders(kind, number, count=12, own=1):
        request = Request(tuple(map(Path, map(str, range(count)))), 8, 1, ())
        one = Job(request, own, kind, "", Path())
        return [lender.name for lender in one._lenders(kind in ("train", "validation"), number)]

    assert lenders("train", 2) == lenders("validation", 3) == ["L0", "L2", "L4"]
    assert (
        lenders("real residuals", 0) == lenders(BLIND, 1) == lenders(BLIND_SUBHALO, 1) == ["L3", "L5"]
    )  # L1 lends to others, not to itself
    assert lenders(BLIND, 0) == lenders(BLIND_SUBHALO, 0) == lenders("train", 1) == lenders("smooth", 2) == []
    assert lenders("real residuals", 0, own=0) == []  # none has its pixels
    assert lenders("train", 2, count=7) == lenders("real residuals", 0, count=7) == []


def test_a_lens_with_one_of_the_heaviest_subhalos_is_looked_for_as_a_smooth_one_is(monkeypatch):
    """All profiles have their turn, over the lenses and within each."""
    template = SimpleNamespace(name="L0", center=np.zeros(2), values=np.ones(3))
    monkeypatch.setattr(sample_images, "_opened", lambda files: [template] * len(files))
    drawn = SimpleNamespace(image=None, values=np.ones(3), change=None, subhalo=None, galaxy="")
    monkeypatch.setattr(sample_images, "draw", lambda *asked: drawn)
    begun = []
    monkeypatch.setattr(
        sample_images,
        "refit",
        lambda template, image, start: (
            begun.append(start) or SimpleNamespace(chi2=1.0, coarse=SimpleNamespace(pixel_scale=0.1), scan=0.0)
        ),
    )
    request = Request(tuple(map(Path, "012")), 64, 1, ())
    assert request.number(BLIND_SUBHALO) == 2
    rows = [Job(request, own, BLIND_SUBHALO, "", Path())._made(number, 0)[0] for own in range(3) for number in range(2)]
    assert all(BINS[-2] <= row["mass"] < BINS[-1] for row in rows)
    assert sorted(row["profile"] for row in rows) == sorted([*PROFILES, *PROFILES])
    assert begun == [None] * 6
    assert Job(request, 0, "smooth", "", Path())._made(0, 0)[0]["mass"] == 0 and begun[-1] is not None


def test_a_template_of_another_recipe_or_that_cannot_be_read_is_made_again(tmp_path):
    file = tmp_path / "one.npz"
    assert not _kept(file, "key")
    np.savez(file, numbers=np.zeros(3), texts=np.array(["a", "b", "key"]))
    assert not _kept(file, "key")
    file.write_bytes(b"no archive")
    assert not _kept(file, "key")
