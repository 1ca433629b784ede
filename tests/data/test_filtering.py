"""Filtering: every planted fault is found under its own name, and clean images stay."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import rotate

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.filtering import (
    Rules,
    _near,
    check_leaks,
    filter_images,
    find_duplicates,
    kept,
    measure,
    summary,
)
from lensstudy.data.reading import read
from tests.benchmarks.data import arcs

SIZE = 48


def rotated(image, degrees, reflected=False):
    return rotate(image[:, :, ::-1] if reflected else image, degrees, (1, 2), reshape=False, order=3, mode="nearest")


def lenses(count=400, seed=0) -> LensDataset:
    """Rings with two arcs; those of class `sub` have a third, narrow one."""
    images = arcs(count, seed, SIZE)
    random = np.random.default_rng(seed + 1)
    y, x = (np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2).astype(np.float32)
    classes = np.resize(["no_sub", "sub"], count)
    for i in np.flatnonzero(classes == "sub"):
        angle = random.uniform(0, 2 * np.pi)
        images[i, 0] += 1.5 * np.exp(-((x - 8 * np.cos(angle)) ** 2 + (y - 8 * np.sin(angle)) ** 2) / 4)
    names = [f"lens-{i}" for i in range(count)]
    return LensDataset(images, pd.DataFrame({"name": names, "class": classes}), ("no_sub", "sub"))


def reasons(dataset: LensDataset) -> pd.Series:
    return filter_images(dataset).catalogue["excluded_because"]


def test_clean_images_all_stay():
    filtered = filter_images(lenses())
    assert (filtered.catalogue["excluded_because"] == "").all()
    assert len(kept(filtered)) == 400 and summary(filtered).empty


def not_finite(image):
    image[0, 5, 5] = np.nan


def constant(image):
    image[:] = 3


def saturated(image):
    np.minimum(image, 0.25 * image.max(), out=image)


def faint(image):
    image[:] = np.random.default_rng(3).normal(0, 1, image.shape)


def off_centre(image):
    y, x = np.mgrid[:SIZE, :SIZE]
    image[0] = np.random.default_rng(3).normal(0, 0.02, (SIZE, SIZE)) + np.exp(-((x - 40) ** 2 + (y - 38) ** 2) / 8)


def clipped(image):
    image[:] = np.roll(image, (SIZE // 3, SIZE // 4), (1, 2))


@pytest.mark.parametrize(
    "fault, reason",
    [
        (not_finite, "not finite"),
        (constant, "constant"),
        (saturated, "saturated"),
        (faint, "low signal to noise"),
        (off_centre, "off centre"),
        (clipped, "clipped at an edge"),
    ],
)
def test_each_fault_has_its_name(fault, reason):
    dataset = lenses()
    fault(dataset.images[6])
    found = reasons(dataset)
    assert found[6] == reason and (found.drop(6) == "").all()


def test_rules_can_be_left_out_and_nothing_is_deleted():
    dataset = lenses()
    clipped(dataset.images[6])
    filtered = filter_images(dataset)
    assert len(filtered) == len(dataset) and filtered.fingerprint == dataset.fingerprint
    again = filter_images(filtered, Rules(clipped=None, off_centre=None, saturated=None))
    assert (again.catalogue["excluded_because"] == "").all()


def test_copies_are_found_at_any_angle_reflected_and_rescaled():
    dataset = lenses()
    images = dataset.images
    plan = {100: (0, 0, False), 102: (2, 90, False), 104: (4, 33, False), 106: (6, 211, True), 109: (9, 0, True)}
    for copy, (original, degrees, reflected) in plan.items():
        images[copy] = rotated(images[original], degrees, reflected)
    images[111] = 5 * images[11] + 3
    images[112] = images[13]  # of the other class
    filtered = filter_images(dataset)
    found = filtered.catalogue["excluded_because"]
    assert found[100] == "exact duplicate: of lens-0"
    for copy in (102, 104, 106, 109, 111):
        assert found[copy] == f"near duplicate: of lens-{plan[copy][0] if copy in plan else 11}"
    assert found[112] == found[13] == "exact duplicate: copies have different classes"
    assert (found != "").sum() == 8
    groups = filtered.catalogue["group"]
    assert groups[104] == groups[4] and groups[112] == groups[13] and groups.nunique() == 400 - 7
    assert summary(filtered)["images"].to_dict() == {"exact duplicate": 3, "near duplicate": 5}
    pairs = find_duplicates(images).set_index("second")
    assert pairs.loc[104, "degrees"] in (pytest.approx(33, abs=0.5), pytest.approx(327, abs=0.5))
    assert pairs.loc[106, "reflected"] and not pairs.loc[104, "reflected"]


@pytest.mark.parametrize("unit", [1e-28, 1e-18, 1e20])
def test_the_unit_of_the_images_does_not_matter(unit):
    images = lenses(60).images.astype(np.float64)
    images = np.concatenate([images, np.stack([rotated(image, 33) for image in images[:5]])]) * unit
    pairs = find_duplicates(images)
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == {(i, 60 + i) for i in range(5)}
    assert np.isfinite(measure(images)["deviation"]).all() and (measure(images)["deviation"] > 0).all()


def test_another_noise_on_the_same_lens_is_no_copy():
    clean = arcs(1, 0, SIZE) * 0
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    clean = clean + np.exp(-((np.hypot(x, y) - 12) ** 2) / 8) * (1 + x / SIZE)
    images = clean + random.normal(0, 0.1, (300, 1, SIZE, SIZE))
    assert find_duplicates(images).empty


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.001, 0.05, 0.3, 1.0])
def test_the_fast_search_misses_no_pair(limit):
    """Few pairs are near at a small limit, and nearly all at a large one, where the search goes another way."""
    random = np.random.default_rng(3)
    vectors = random.normal(1, 0.3 * 0.8 ** np.arange(30), (1200, 30)).astype(np.float32)
    vectors[600:650] = vectors[:50] * random.uniform(0.5, 2, (50, 1)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    squared = 2 - 2 * vectors.astype(float) @ vectors.T.astype(float)
    rounding = 5e-7  # of a squared distance in float32
    surely, possibly = (
        set(zip(*np.nonzero(np.triu(squared <= limit**2 + margin, 1)), strict=True)) for margin in (-rounding, rounding)
    )
    found = [tuple(pair) for piece in _near(vectors, limit) for pair in piece]
    assert len(found) == len(set(found)) >= 50
    assert surely <= set(found) <= possibly


def test_copies_planted_across_a_split_stop_it_and_groups_prevent_it():
    dataset = lenses()
    for i in range(0, 40, 2):
        dataset.images[200 + i] = rotated(dataset.images[i], 9 * i, reflected=i % 4 == 0)
    with pytest.raises(DataError, match="straddle the split|leak between parts"):
        check_leaks(dataset.split(0.3, 0.3, seed=0))
    split = filter_images(dataset).split(0.3, 0.3, seed=0)
    check_leaks(split)
    assert split.catalogue["part"].eq("excluded").sum() == 20
    together = split.catalogue.assign(excluded_because="")
    check_leaks(LensDataset(split.images, together, split.classes).split(0.3, 0.3, seed=0))


def test_an_interpolated_copy_across_the_split_is_named_with_its_angle():
    dataset = lenses()
    split = dataset.split(0.3, 0.3, seed=0)
    train, test = (np.flatnonzero(split.catalogue["part"] == name)[0] for name in ("train", "test"))
    split.images[test] = rotated(split.images[train], 20)
    split.check_leaks()  # which looks for multiples of 90 degrees only
    with pytest.raises(DataError, match=r"rotated by (20|340) degrees"):
        check_leaks(split)


def test_a_rule_that_takes_too_much_stops_and_says_what_to_do():
    dataset = lenses()
    for image in dataset.images[:100]:
        image[:, :, :] = 1
    with pytest.raises(DataError, match=r"'constant' would exclude 100 of 400 images \(25%\).*Mend the data"):
        filter_images(dataset)
    with pytest.raises(DataError, match=r"Move its threshold \(signal_to_noise = 1000.0\)"):
        filter_images(lenses(), Rules(signal_to_noise=1000.0))
    assert len(kept(filter_images(dataset, Rules(largest_share=0.5)))) <= 301


def test_quality_figures_of_a_known_image():
    y, x = np.mgrid[:65, :65] - 32.0
    random = np.random.default_rng(0)
    spot = 40 * np.exp(-((x - 16) ** 2 + y**2) / 18) + random.normal(5, 1, (200, 1, 65, 65))
    figures = measure(spot).mean()
    assert figures["off_centre"] == pytest.approx(0.5, abs=0.05)
    smoothed_peak = 40 * np.mean([np.exp(-(i**2 + j**2) / 18) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    assert figures["signal_to_noise"] == pytest.approx(3 * smoothed_peak, rel=0.05)
    assert figures["clipped"] < 0.1 and figures["mean"] == pytest.approx(spot.mean(), rel=1e-3)


def test_unreadable_files_stand_in_the_summary(tmp_path):
    for i, image in enumerate(lenses(60).images):
        file = tmp_path / ("no_sub", "sub")[i % 2] / f"{i}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, image)
    (tmp_path / "sub" / "99.npy").write_bytes(b"")
    np.save(tmp_path / "sub" / "98.npy", image[:, :9])
    with pytest.warns(UserWarning, match="sub/99.npy"):
        table = summary(filter_images(read(tmp_path)))
    assert table["images"].to_dict() == {"unreadable": 1, "wrong shape": 1}
    assert table["share"].iloc[0] == pytest.approx(1 / 62)


def test_filter_first():
    with pytest.raises(DataError, match="not filtered yet"):
        kept(lenses(20))


@pytest.mark.slow
def test_the_official_set_has_no_copies(evaluation_data):
    images = read(evaluation_data / "deeplense-equivariant" / "lenses.tgz").images
    assert find_duplicates(images).empty
    images[4000] = np.rot90(images[17], 1, (1, 2))
    images[4001] = rotated(images[18], 50)
    pairs = find_duplicates(images)
    assert pairs[["first", "second"]].to_numpy().tolist() == [[17, 4000], [18, 4001]]
