"""The data set, its splits and its scaling: nothing leaks, nothing is copied, and every round trip is exact."""

import numpy as np
import pandas as pd
import pytest
import torch

from lensstudy.data.dataset import (
    CLASS_ALIASES,
    DataError,
    LensDataset,
    Rows,
    batches,
    canonical_class,
    ellipticity,
    sky_and_noise,
)


def noise(images=120, size=8, classes=("no_sub", "cdm", "axion"), channels=1, **columns) -> LensDataset:
    pixels = np.random.default_rng(0).normal(10, 2, (images, channels, size, size)).astype(np.float32)
    names = [f"image-{i}" for i in range(images)]
    catalogue = pd.DataFrame({"name": names, "class": np.resize(classes, images), **columns})
    return LensDataset(pixels, catalogue, classes, {"source": "noise"})


@pytest.mark.parametrize("known, aliases", CLASS_ALIASES.items())
def test_classes_are_matched_by_name(known, aliases):
    for alias in aliases:
        assert canonical_class(f" {alias.upper().replace('_', '-')} ") == known


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(DataError, match="catalogue.csv, row 17: class 'subhlo' is unknown. Did you mean 'subhalo'"):
        canonical_class("subhlo", "catalogue.csv, row 17")


@pytest.mark.parametrize(
    "images, rows, classes, message",
    [
        (np.zeros((2, 4, 4)), 2, ("no_sub",), "four axes"),
        (np.zeros((2, 1, 4, 4)), 3, ("no_sub",), "2 images, but 3 rows"),
        (np.zeros((2, 1, 4, 4)), 2, ("cdm",), "not among"),
    ],
)
def test_parts_that_do_not_fit_are_errors(images, rows, classes, message):
    with pytest.raises(DataError, match=message):
        LensDataset(images, pd.DataFrame({"name": range(rows), "class": "no_sub"}), classes)


def test_fingerprint_sees_pixels_labels_and_order_of_classes():
    dataset = noise()
    other = [noise(), noise(), noise()]
    other[0].images[3, 0, 0, 0] += 1
    other[1].catalogue.loc[0, "class"] = "cdm"
    other[2].classes = ("cdm", "no_sub", "axion")
    assert noise().fingerprint == dataset.fingerprint
    assert len({dataset.fingerprint, *(changed.fingerprint for changed in other)}) == 4


def test_saved_and_loaded_it_is_the_same_and_stays_on_disk(tmp_path):
    dataset = noise().split(0.2, 0.2, seed=1)
    loaded = LensDataset.load(dataset.save(tmp_path / "set"))
    assert isinstance(loaded.images, np.memmap) and loaded.fingerprint == dataset.fingerprint
    assert loaded.catalogue.equals(dataset.catalogue) and loaded.description == dataset.description
    train = loaded.part("train")
    assert isinstance(train.images, Rows) and train.fingerprint == dataset.part("train").fingerprint
    assert LensDataset.load(train.save(tmp_path / "train")).fingerprint == train.fingerprint
    written = (tmp_path / "set" / "images.npy").stat().st_mtime_ns
    loaded.save(tmp_path / "set")
    assert (tmp_path / "set" / "images.npy").stat().st_mtime_ns == written
    (tmp_path / "set" / "dataset.json").unlink()
    with pytest.raises(DataError, match="no finished data set"):
        LensDataset.load(tmp_path / "set")


@pytest.mark.parametrize(
    "key", [3, slice(2, 9), [4, 1], np.array([7, 2]), (5, 0), (slice(1, 4), 0), ([2, 1], 0, slice(2, 4)), (..., 3)]
)
def test_rows_are_indexed_like_the_array_they_stand_for(key):
    array, rows = noise().images, np.array([9, 3, 77, 5, 1, 0, 12, 13, 14, 15])
    np.testing.assert_array_equal(Rows(array, rows)[key], array[rows][key])
    np.testing.assert_array_equal(Rows(Rows(array, rows), np.arange(8))[key], array[rows][:8][key])
    np.testing.assert_array_equal(np.asarray(Rows(array, rows)), array[rows])


# ---- splitting ------------------------------------------------------------------------------------------------------


def test_split_is_stratified_and_seeded():
    split = noise().split(0.1, 0.1, seed=3)
    counts = pd.crosstab(split.catalogue["class"], split.catalogue["part"])
    assert counts["test"].tolist() == [4, 4, 4] and counts["validation"].between(3, 4).all()
    assert split.catalogue.equals(noise().split(0.1, 0.1, seed=3).catalogue)
    assert not split.catalogue["part"].equals(noise().split(0.1, 0.1, seed=4).catalogue["part"])


def test_too_few_images_say_what_is_missing():
    with pytest.raises(DataError, match="Use more images of the smallest class"):
        noise(images=6).split(0.1, 0.1, seed=0)


def test_groups_never_straddle():
    pairs = [f"lens {i // 6}" for i in range(120)]  # six images of each lens, two of each class
    split = noise(galaxy=pairs).split(0.2, 0.2, seed=0, group_by=["galaxy"])
    assert (split.catalogue.groupby("galaxy")["part"].nunique() == 1).all()
    assert set(split.catalogue["part"]) == {"train", "validation", "test"}
    split.check_leaks(group_by=["galaxy"])
    with pytest.raises(DataError, match="of one group"):
        noise(galaxy=pairs).split(0.2, 0.2, seed=0).check_leaks(group_by=["galaxy"])


def test_groups_of_two_kinds_join_and_unknown_lenses_do_not():
    duplicates = [i // 2 * 2 for i in range(12)] + list(range(12, 120))  # 0 1 | 2 3 | ...
    lens = [None] * 120
    lens[1] = lens[2] = "B1938"  # joins the two pairs
    for seed in range(10):
        parts = noise(group=duplicates, lens=lens).split(0.3, 0.3, seed, group_by=["group", "lens"]).catalogue["part"]
        assert parts[:4].nunique() == 1
        assert parts[12:].nunique() == 3


def test_without_groups_the_split_is_that_of_the_rows():
    alone = noise(group=np.arange(120)[::-1]).split(0.2, 0.2, seed=5)
    assert alone.catalogue["part"].equals(noise().split(0.2, 0.2, seed=5).catalogue["part"])


def test_excluded_images_come_into_no_part():
    reasons = np.where(np.arange(120) % 10 == 0, "constant", "")
    split = noise(excluded_because=reasons).split(0.2, 0.2, seed=0)
    assert (split.catalogue["part"].eq("excluded") == (reasons != "")).all()
    assert sum(len(split.part(name)) for name in ("train", "validation", "test")) == 108


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("reflected", [False, True])
def test_a_copy_in_another_part_stops_the_training(turns, reflected):
    split = noise().split(0.2, 0.2, seed=0)
    split.check_leaks()
    train, test = (np.flatnonzero(split.catalogue["part"] == name)[0] for name in ("train", "test"))
    copy = split.images[train][:, ::-1] if reflected else split.images[train]
    split.images[test] = np.rot90(copy, turns, (1, 2))
    with pytest.raises(DataError, match=rf"2 images leak between parts; 'image-{min(train, test)}'"):
        split.check_leaks()


def test_shares_are_nested_and_keep_the_balance():
    train = noise(images=600).split(0.1, 0.1, seed=0).part("train")
    shares = [train.share(fraction, seed=7) for fraction in (0.01, 0.03, 0.1, 0.3, 1)]
    for smaller, larger in zip(shares, shares[1:], strict=False):
        assert set(smaller.catalogue["name"]) < set(larger.catalogue["name"])
    for share in shares:
        assert np.ptp(np.bincount(share.labels)) <= 1
    assert len(shares[2]) == pytest.approx(0.1 * len(train), abs=3) and len(shares[-1]) == len(train)
    with pytest.raises(DataError, match="a share of 0"):
        train.share(0, seed=0)


def test_batches_go_once_through_everything(tmp_path):
    dataset = LensDataset.load(noise(images=50).save(tmp_path))
    seen = list(batches(dataset, 16, np.random.default_rng(0)))
    assert [len(images) for images, _ in seen] == [16, 16, 16, 2] and seen[0][0].dtype == torch.float32
    together, labels = torch.cat([images for images, _ in seen]), torch.cat([labels for _, labels in seen])
    order = [int((dataset.images == image.numpy()).all((1, 2, 3)).argmax()) for image in together]
    assert sorted(order) == list(range(50)) != order
    assert labels.tolist() == dataset.labels[order].tolist()
    straight = torch.cat([images for images, _ in batches(dataset, 16)])
    np.testing.assert_array_equal(straight, dataset.images)


# ---- brightness ----------------------------------------------------------------------------------------------------


def test_noise_is_measured_beside_the_lens():
    random = np.random.default_rng(1)
    images = random.normal(50, 3, (40, 64, 64))
    y, x = np.mgrid[:64, :64] - 31.5
    images += 1000 * np.exp(-(x**2 + y**2) / 100) + 0.5 * x  # a lens, and a slope that is no noise
    sky, sigma = sky_and_noise(images)
    assert sky == pytest.approx(50, abs=0.5) and sigma == pytest.approx(3, rel=0.03)


def test_ellipticity_of_a_known_ellipse():
    y, x = np.mgrid[:65, :65] - 32.0
    angle, ratio = 0.6, 2.0
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    e1, e2 = ellipticity(np.exp(-(u**2 / ratio + v**2 * ratio) / 50)[None, None])
    size = (ratio**2 - 1) / (ratio**2 + 1)
    assert (e1[0], e2[0]) == pytest.approx((size * np.cos(2 * angle), size * np.sin(2 * angle)), abs=0.01)


def test_the_official_set_lies_along_x(evaluation_data):
    from lensstudy.data.reading import read

    images = read(evaluation_data / "deeplense-equivariant" / "lenses.tgz").images[::40]
    e1, _ = ellipticity(images)
    assert e1.mean() == pytest.approx(0.365, abs=0.03)


def test_groups_of_a_split_are_remembered_by_the_check(blobs):
    catalogue = blobs.catalogue.assign(lens=np.arange(len(blobs)) // 2).drop(columns="part")
    grouped = LensDataset(blobs.images, catalogue, blobs.classes).split(0.2, 0.2, 1, group_by=("lens",))
    grouped.check_leaks()
    parts = grouped.catalogue["part"].to_numpy().copy()
    parts[1] = "test" if parts[0] != "test" else "train"
    grouped.catalogue["part"] = parts
    with pytest.raises(DataError, match="of one group"):
        grouped.check_leaks()
