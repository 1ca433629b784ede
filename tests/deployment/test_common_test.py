"""The Common Test beside its simulation: counts by hand, closed forms, and the original images where they are."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score

from lensstudy import plots, pretrained, simulate
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.deployment.common_test import (
    CLASSES,
    ORIGINAL,
    ORIGINAL_CONFUSION,
    BesideOriginal,
    OriginalImages,
    difference_of_shares,
    save,
)
from lensstudy.deployment.published import load_published
from lensstudy.evaluation.ladder import SMOOTH_FIT
from lensstudy.evaluation.rotation import UnderRotation
from lensstudy.figures.style import Note, shows_images

ORDER = ("axion", "no_sub", "cdm")  # another order than that of the classes


@dataclass
class Reading:
    """A network that reads its answer off the first pixels of an image: the probability of each of `classes`."""

    classes: tuple = ORDER

    def probabilities(self, images, degrees=0.0):
        seen = np.clip(np.rot90(images, round(degrees / 90), (2, 3))[:, 0, 0, :3], 1e-6, None)
        return seen / seen.sum(1, keepdims=True)


def drawn(seed: int, number: int = 40, size: int = 150) -> LensDataset:
    """Images whose first pixels and detectability are random, with labels in the order `ORDER`."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], number)
    images = generator.random((3 * number, 1, size, size), np.float32)
    images[np.arange(3 * number), 0, 0, labels] += 0.4  # right more often than not
    sigma = np.where(labels == 1, 0.0, generator.uniform(3, 60, 3 * number))
    names = {
        "class": np.array(ORDER)[labels],
        "name": [f"{k}" for k in range(3 * number)],
        "detectability_refit": sigma,
    }
    return LensDataset(images, pd.DataFrame(names), ORDER, {"source": "made up"})


@pytest.fixture(scope="module")
def draws():
    return [drawn(1), drawn(2)]


@pytest.fixture(scope="module")
def beside(draws):
    return BesideOriginal({"reading": Reading()}, draws)


def by_hand(draws):
    """True and called classes by name, and probabilities in the order of `CLASSES`."""
    true = [one for each in draws for one in each.catalogue["class"]]
    said = np.concatenate([Reading().probabilities(each.images) for each in draws])
    return np.array(true), np.array(ORDER)[said.argmax(1)], said[:, [ORDER.index(one) for one in CLASSES]]


def test_confusion_and_recalls_are_those_of_a_count_by_hand(beside, draws):
    true, called, _ = by_hand(draws)
    counts = confusion_matrix(true, called, labels=list(CLASSES))
    table = beside.confusion.set_index(["network", "class"])
    recalls = beside.recalls.set_index(["network", "class"])
    for of, row in zip(CLASSES, counts, strict=True):
        assert table.loc[("reading", of), "images"] == row.sum() == 80
        for one, count in zip(CLASSES, row, strict=True):
            assert table.loc[("reading", of), f"called {one}"].startswith(f"{100 * count / 80:.1f} [")
        right = int(row[CLASSES.index(of)])
        interval = binomtest(right, 80).proportion_ci(method="wilson")
        found = recalls.loc[("reading", of)]
        assert (found["recall"], found["low"], found["high"]) == pytest.approx((right / 80, *interval))
        each = [(np.array(called)[k : k + 120] == of)[true[k : k + 120] == of].mean() for k in (0, 120)]
        assert found["each"] == pytest.approx(each) and np.mean(each) == pytest.approx(right / 80)


def test_the_original_images_come_first_with_the_counts_that_were_published(beside):
    table = beside.confusion
    assert list(table["network"].unique()) == [ORIGINAL, "reading"]
    assert {sum(counts) for counts in ORIGINAL_CONFUSION.values()} == {2500}
    assert table.loc[2, "called axion"] == "97.8 [97.1, 98.3]" and table.loc[0, "called cdm"] == "4.0 [3.3, 4.9]"
    assert beside.recall_table.loc[0, "less the original one, points"] == ""
    apart = 100 * (beside.recalls.loc[3, "recall"] - 2320 / 2500)
    assert beside.recall_table.loc[3, "less the original one, points"].startswith(f"{apart:.1f} [")


def test_a_difference_of_shares_has_its_nominal_coverage():
    generator, held = np.random.default_rng(3), []
    for first, second in zip(generator.binomial(300, 0.97, 4000), generator.binomial(250, 0.9, 4000), strict=True):
        _, low, high = difference_of_shares(first / 300, 300, second / 250, 250)
        held.append(low <= 0.07 <= high)
    assert 0.94 < np.mean(held) < 0.97


def test_errors_are_counted_by_the_detectability_of_the_substructure(beside, draws):
    true, called, _ = by_hand(draws)
    sigma = np.concatenate([one.catalogue["detectability_refit"] for one in draws])
    inside = (true == "cdm") & (sigma >= 20) & (sigma < 40)
    right, found = (one.set_index(["class", "detectability, sigma"]) for one in (beside.right, beside.found))
    row = right.loc[("cdm", "20 to 40")]
    assert row["images"] == inside.sum()
    assert row["reading"].startswith(f"{100 * (called == 'cdm')[inside].mean():.0f} [")
    assert found.loc[("cdm", "20 to 40"), "reading"].startswith(f"{100 * (called != 'no_sub')[inside].mean():.0f} [")
    assert right["images"].sum() == 240 and list(right.loc["no_sub"].index) == ["none"]
    errors = beside.errors.iloc[0]
    assert errors["errors"] == (true != called).sum()
    assert errors["none"] == f"{100 * ((true == 'no_sub') & (called != true)).sum() / (true != called).sum():.0f}"


def test_scores_are_those_of_scikit_learn(beside, draws):
    true, _, said = by_hand(draws)
    row = beside.scores.iloc[0]
    truth = np.array([CLASSES.index(one) for one in true])
    assert row["three classes"].startswith(f"{roc_auc_score(truth, said, multi_class='ovr'):.3f} [")
    assert row["substructure or none"].startswith(f"{roc_auc_score(truth > 0, -said[:, 0]):.3f} [")
    assert list(beside.along_detectability["observer"].unique()) == ["reading", "ideal observer"]


def test_a_smooth_fit_is_judged_on_the_lenses_that_it_was_fitted_to():
    lenses = simulate("common_test", 3, seed=5, image_size=50)
    found = BesideOriginal({"flat": FLAT}, [lenses], fits=2)
    rows, chi_square = found.smooth_fit
    assert rows.tolist() == [0, 1, 3, 4, 6, 7] and np.isfinite(chi_square).all()
    last = found.scores.iloc[-1]
    assert last["network"] == SMOOTH_FIT and pd.isna(last["three classes"])
    expected = roc_auc_score(found.labels[rows] > 0, chi_square)
    assert last["substructure or none, 6 fitted"].startswith(f"{expected:.3f} [")
    assert found.scores.loc[0, "substructure or none, 6 fitted"].startswith("0.500 ")


class Flat:
    classes = CLASSES

    def probabilities(self, images, degrees=0.0):
        return np.full((len(images), 3), 1 / 3)


FLAT = Flat()


def test_networks_and_lenses_of_other_classes_are_rejected(draws):
    with pytest.raises(DataError, match="theirs: of the classes cdm, axion; expected no_sub, cdm, axion"):
        BesideOriginal({"theirs": Reading(("cdm", "axion"))}, draws)
    with pytest.raises(DataError, match="the lenses: of the classes no_sub, cdm"):
        BesideOriginal({}, [simulate("common_test", 1, seed=1, image_size=20, classes=["no_sub", "cdm"])])


@pytest.fixture
def labelled(tmp_path):
    """Four images in folders a class, which are called axion upright, and cdm rotated by 90 degrees."""
    for name, number in (("no", 1), ("sphere", 2), ("vort", 1)):
        (tmp_path / name).mkdir()
        for k in range(number):
            image = np.zeros((1, 150, 150))
            image[0, 0, 0] = 1 + k  # axion
            image[0, 2, -1] = 8  # cdm, once it is rotated by 90 degrees
            image[0, -1, -3:] = image[0, -3:, 0] = 1
            np.save(tmp_path / name / f"{k + 1}.npy", image)
    return tmp_path


def test_original_images_are_asked_of_at_four_rotations(labelled):
    original = OriginalImages({"reading": Reading()}, labelled)
    assert original.table["called"].groupby(original.table["degrees"]).agg(set)[[0, 90]].tolist() == [
        {"axion"},
        {"cdm"},
    ]
    row = original.counts.iloc[0]
    low, high = binomtest(1, 4).proportion_ci(method="wilson")
    assert row["0°"] == f"1 of 4 [{100 * low:.0f}, {100 * high:.0f}]" and row["90°"].startswith("2 of 4 ")
    assert original.probabilities.loc[0, "0°"] == "0.00 0.00 1.00 ✗ axion"
    assert (
        original.probabilities.loc[3, "image"] == "vort/1" and original.probabilities.loc[3, "0°"] == "0.00 0.00 1.00"
    )
    assert original.answer.startswith("Right of 4 original images at 0, 90, 180 and 270 degrees: reading: 1, 2, ")


def test_no_image_is_kept_or_drawn(labelled):
    """What a page could show of original images is numbers: what is kept of them has fewer values than one image."""
    original = OriginalImages({"reading": Reading()}, labelled)
    assert list(vars(original)) == ["table"] and original.table.map(np.ndim).to_numpy().max() == 0
    assert original.table.size < 150 * 150
    assert not shows_images(plots.original_at_rotations(original.table))


def test_without_original_images_the_section_says_so():
    nothing = OriginalImages({"reading": Reading()}, "")
    assert nothing.counts.empty and nothing.probabilities.empty and nothing.answer == "No original images were given."
    assert isinstance(plots.original_at_rotations(nothing.table), Note)


def test_original_images_of_another_size_or_nowhere_are_named(labelled, tmp_path):
    np.save(labelled / "no" / "1.npy", np.ones((1, 64, 64)))
    for name in ("sphere", "vort"):
        for file in (labelled / name).iterdir():
            np.save(file, np.random.default_rng(len(file.stem)).random((1, 64, 64)))
    with pytest.raises(DataError, match=r"images of shape \(1, 64, 64\); those of the test have \(1, 150, 150\)"):
        OriginalImages({}, labelled)
    with pytest.raises(DataError, match="nothing exists at this path"):
        OriginalImages({}, tmp_path / "gone")


def test_what_was_found_is_written_and_shown(beside, draws, labelled, tmp_path):
    rotation = UnderRotation(
        {"reading": Reading()}, draws[0], upright={"reading": Reading().probabilities(draws[0].images)}
    )
    answer = save(tmp_path / "out", beside, rotation, OriginalImages({"reading": Reading()}, labelled))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["answer"] == answer and rotation.answer in answer and beside.answer in answer
    recall = beside.recalls.loc[3]
    assert f"reading {100 * recall['recall']:.1f} [{100 * recall['low']:.1f}, " in beside.answer
    assert summary["plain"] == f"{rotation.plain} {beside.plain}" and "not certified" in summary["limitations"]
    (row,) = summary["table"]
    assert row["accuracy, rotated by 90°"] == rotation.summary()["rotated by 90°"].item()
    assert float(row["largest change at right angles"]) == round(rotation.consistency["reading"], 3)
    assert len(pd.read_csv(tmp_path / "out" / "original.csv")) == 16
    figure = plots.recalls_beside_original(beside.recalls)
    assert "original images: no_sub 92.8 %, cdm 88.1 %, axion 97.8 %" in figure.alt and not shows_images(figure)


def test_the_shared_images_are_known_upright_and_by_an_equivariant_network_rotated(evaluation_data):
    """Fifteen original images: in the training of the published networks, and what the preset was recovered from."""
    networks = load_published(evaluation_data / "published-networks") | {"bundled": pretrained("common-test")}
    original = OriginalImages(networks, evaluation_data / "deeplense-common-test")
    right = original.table.groupby(["network", "degrees"])["right"].sum().unstack()
    published = right.drop("bundled")
    assert len(published) == 2 and published[[0, 180]].min().min() >= 13 and published[[90, 270]].max().max() <= 11
    assert right.loc["bundled"].tolist() == [14] * 4
    told = pd.DataFrame(pretrained("common-test").predict_files([evaluation_data / "deeplense-common-test"]))
    upright = original.table[(original.table["network"] == "bundled") & (original.table["degrees"] == 0)]
    np.testing.assert_allclose(upright[list(CLASSES)], told[list(CLASSES)].astype(float), atol=1e-5)
