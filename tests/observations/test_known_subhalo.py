"""Images of a lens are brought into one frame by their arcs, and what was found is put beside what is published."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations import searched_lens
from lensstudy.observations.known_subhalo import (
    FRAMES,
    KnownSubhalo,
    Published,
    in_file,
    in_first_frame,
    most_alike,
    shown_as,
)
from lensstudy.observations.searched_lens import SearchedLens
from lensstudy.observations.writing import write_simulated

PLACE = np.array([-0.60, 1.05])  # 0.05 arcsec from the published one


def fit(x, y, mass, falls, counts):
    return {
        "x": x, "y": y, "mass": mass, "mass_error": 2e8, "size": 0.4,
        "chi2_falls": falls, "evidence_rises": falls / 2, "counts": counts,
    }  # fmt: skip


def searched(name: str, frame: str = "as it is", counts: bool = True, in_full: bool = True) -> SearchedLens:
    """What a search might have found in an image that shows the sky in some frame: a subhalo beside a bright arc."""
    (x, y) = in_file(frame, PLACE)[0].tolist()
    rows, columns = np.indices((41, 41))
    arcs = np.exp(-((np.hypot(columns - 20, rows - 20) - 12) ** 2) / 8) * (1 + (columns > 25) + 3 * (rows > 30))
    best = fit(x, y, 3e9, 170.0, counts)
    variants = [{"variant": name} | fit(x, y, mass, 100.0, True) for name, mass in (("a", 1.8e9), ("b", 4e9))]
    values = np.linspace(-4, 4, 9)
    profile = np.stack([values, values**2])
    mass = np.stack([3e9 + 1e8 * values, values**2])
    return SearchedLens(
        name,
        {"position_angle_degrees": 159.2},
        {"chi2": 1.4, "einstein_radius": 1.4, "slope": 2.2, "axis": 75.0},
        [best, fit(1.0, -1.0, -1e9, 60.0, False)],
        84.0,
        variants if in_full else [],
        0.05,
        np.array([0.01, 0.02]),
        shown_as(frame, arcs),
        np.array([[x, y, 3e9, 170.0], [0.2, 0.1, 2e9, 19.0], [1.0, -1.0, -1e9, 84.0]]),
        np.array([[1.0, 0.5, 1e9], [0.5, 1.0, 3e9]]) if in_full else np.zeros((0, 3)),
        np.array([profile, profile, mass, np.stack([np.exp(values / 4), values**2])])
        if in_full
        else np.zeros((0, 2, 9)),
    )


@pytest.fixture
def known(tmp_path) -> KnownSubhalo:
    """Two images of J0946+1006, the second rotated, and another lens."""
    images = [searched("J0946+1006"), searched("slacs0946+1006", "rotated by 90°")]
    published = Published.of("J0946+1006", {})
    return KnownSubhalo(images, [searched("J0728+3835", counts=False, in_full=False)], published, tmp_path)


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_move_a_place_as_numpy_moves_a_pixel(frame):
    image = np.zeros((21, 21))
    image[10 + 7, 10 + 3] = 1
    quarters = next((k for k in (1, 2, 3) if f"{90 * k}°" in frame), 0)
    wanted = np.rot90(image[::-1, ::-1] if frame.startswith("reflected") else image[::-1], quarters)[::-1]
    np.testing.assert_array_equal(shown_as(frame, image), wanted)
    row, column = np.argwhere(wanted)[0]
    np.testing.assert_array_equal(in_file(frame, np.array([3, 7])), [[column - 10, row - 10]])
    np.testing.assert_array_equal(in_first_frame(frame, np.array([column - 10, row - 10])), [[3, 7]])


def test_the_eight_frames_are_a_group():
    matrices = {frame: np.array(values).reshape(2, 2) for frame, values in FRAMES.items()}
    assert len({values.tobytes() for values in matrices.values()}) == 8
    for one, other in product(matrices.values(), repeat=2):
        assert any((one @ other == found).all() for found in matrices.values())


@pytest.mark.parametrize("frame", FRAMES)
def test_the_arcs_tell_how_one_image_shows_the_other(frame):
    """Whatever noise and pixels the second has."""
    first, second = searched("one"), searched("other", frame)
    noisy = replace(second, arcs=second.arcs + np.random.default_rng(0).normal(0, 0.3, second.arcs.shape))
    alike = most_alike(first, noisy)
    best, runner_up = sorted(alike.values(), reverse=True)[:2]
    assert max(alike, key=alike.get) == frame and best > runner_up + 0.02


def test_what_is_found_is_brought_into_the_frame_of_the_first_image(known):
    table = known.found
    assert known.frames == ["as it is", "rotated by 90°"]
    np.testing.assert_allclose(table[["x", "y"]], np.tile(PLACE, (6, 1)), atol=1e-12)
    np.testing.assert_allclose(table["off [arcsec]"], np.hypot(0.051, 0.01))
    assert table["within"].tolist() == [True, False, True] * 2
    assert known.axis_off == pytest.approx(75 - 69.2)
    assert "**rotated by 90°**" in known.verdict and "6° off" in known.verdict


def test_the_answer_says_what_lies_outside_the_published_range(known):
    assert "identifies a subhalo in 2 of 2 images" in known.answer
    assert "J0946+1006: 0.05 arcsec from the published position, 3.0e9 [2.8e9, 3.2e9] solar masses" in known.answer
    assert (
        "Of 4 fits with other models, which start where the search has ended, 4 end within 0.1 arcsec of the"
        in known.answer
    )
    assert "but only 2 with a mass in the published range" in known.answer
    assert known.answer.endswith("In 1 other lens, for which none is published, it identifies none.")
    assert "in 2 of 2 images of the lens, within a tenth" in known.plain and "rule" not in known.plain
    doubted = replace(
        known, images=[known.images[0], replace(known.images[1], fits=[{**known.images[1].best, "counts": False}])]
    )
    assert doubted.plain.endswith("In 1 more its best fit lies there too, but does not count as one by the rule.")
    assert known.rules["called a subhalo"].tolist() == ["yes", "yes", "no"]
    assert known.rules["a mass in the core"].tolist() == [19.0] * 3
    summary = json.loads(known.save().read_text())
    assert summary["answer"] == known.answer and len(summary["table"]) == 6


def test_a_known_subhalo_is_published_or_in_the_information_beside_the_image():
    assert Published.of("slacs0946+1006", {}).mass == (2e9, 4e9)
    assert Published.of("mine", {}) is None
    mine = Published.of("mine", {"subhalo": {"x": 1, "y": 2.5, "mass": 1e10}})
    assert (mine.x, mine.y, mine.mass, mine.masses) == (1, 2.5, (1e10, 1e10), "1.0e10 solar masses")


@pytest.mark.parametrize(
    "about", [{"x": 1.0, "y": 2.0}, {"x": 1, "y": 2, "mass": "much"}, [1, 2], {"x": 0, "y": 0, "mass": -1e9}]
)
def test_a_subhalo_that_is_none_is_named(about):
    with pytest.raises(DataError, match="mine: subhalo = .*expected x and y in arcseconds"):
        Published.of("mine", {"subhalo": about})


def test_images_are_searched_once_and_those_of_no_known_subhalo_in_short(tmp_path, monkeypatch):
    asked = []

    def search(observation, step, splines, in_full):
        asked.append((observation.name, step, splines, in_full))
        return replace(searched(observation.name, in_full=in_full), smooth={"chi2": float(len(asked))})

    monkeypatch.setattr(searched_lens, "_searched", search)
    first = KnownSubhalo.of([], tmp_path, 0.5, [12])
    assert asked == [("simulated-2", 0.5, [12], True), ("simulated-1", 0.5, [12], False)] and first.simulated
    again = KnownSubhalo.of([], tmp_path, 0.5, [12])
    assert len(asked) == 2 and again.images[0].smooth == {"chi2": 1.0}
    np.testing.assert_array_equal(again.images[0].profiles, first.images[0].profiles)
    assert again.others[0].fits == first.others[0].fits
    KnownSubhalo.of([], tmp_path, 0.4, [12])
    assert len(asked) == 4


def test_without_a_known_subhalo_there_is_nothing_to_compare_with(tmp_path):
    one = write_simulated(tmp_path) / "simulated-1"
    with pytest.raises(
        DataError, match='0 known subhalos; expected one. `info.json` beside an image can say it: "subh'
    ):
        KnownSubhalo.of([str(one)], tmp_path / "out", 0.5, [12])
