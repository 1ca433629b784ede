"""A known subhalo is found in a file however it is rotated or reflected, and chance is counted."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations.known_subhalo import (
    FRAMES,
    Attributions,
    KnownSubhalo,
    Orientation,
    Responses,
    _compared,
    axis_in_file,
    in_file,
    save,
)
from lensstudy.observations.lens import Lens


def shown_as(frame: str, array: np.ndarray) -> np.ndarray:
    """An image, row 0 at the bottom, rotated counter-clockwise and reflected by numpy."""
    if frame.startswith("reflected"):
        array = array[:, ::-1]
    quarters = next((k for k in (1, 2, 3) if f"{90 * k}°" in frame), 0)
    return np.rot90(array[::-1], quarters)[::-1]


@pytest.mark.parametrize("frame", FRAMES)
def test_frames_move_a_place_as_numpy_moves_a_pixel(frame):
    image = np.zeros((21, 21))
    image[10 + 7, 10 + 3] = 1
    row, column = np.argwhere(shown_as(frame, image))[0]
    np.testing.assert_array_equal(in_file(frame, np.array([3, 7])), [[column - 10, row - 10]])


def test_the_eight_frames_are_a_group():
    matrices = {frame: np.array(values).reshape(2, 2) for frame, values in FRAMES.items()}
    assert len({values.tobytes() for values in matrices.values()}) == 8
    for one, other in product(matrices.values(), repeat=2):
        assert any((one @ other == found).all() for found in matrices.values())


@pytest.mark.parametrize(
    ("frame", "degrees"),
    [("as it is", 20), ("rotated by 90°", 110), ("rotated by 180°", 20), ("reflected, as it is", 160)],
)
def test_an_axis_rotates_along(frame, degrees):
    assert axis_in_file(frame, 20) == pytest.approx(degrees)
    assert axis_in_file(frame, 200) == pytest.approx(degrees)


@pytest.mark.parametrize("frame", ["as it is", "reflected, rotated by 90°", "rotated by 270°"])
def test_the_arcs_tell_how_the_file_lies(sample, frame):
    """The simulated observation, rotated or reflected as a file may be, with the published place as it was."""
    one = sample.lenses[1].observation
    parts = {name: shown_as(frame, getattr(one, name)).copy() for name in ("image", "noise", "mask", "psf")}
    lens = Lens.of(replace(one, **parts))
    known = KnownSubhalo.of(replace(sample, lenses=[lens]), seed=1)
    orientation = Orientation.of(known, seed=1)
    assert orientation.frame == frame and orientation.settled
    assert f"**{frame}**" in orientation.verdict and "settles the orientation" in orientation.verdict
    assert orientation.p_value == pytest.approx(1 - (1 - orientation.beaten) ** 8)
    assert orientation.table["chi square falls by"].max() == orientation.gains.max() > 2 * orientation.runner_up
    assert np.isnan(orientation.axis_off).all()


@pytest.fixture(scope="module")
def orientation(modelled):
    return Orientation.of(KnownSubhalo.of(modelled, seed=1), seed=1)


def test_a_published_direction_is_compared_in_every_frame(orientation):
    """From north, which is +y, to east, which is left. Opposite frames agree, perpendicular ones add up to 90."""
    one = orientation.lens.observation
    lens = replace(orientation.lens, observation=replace(one, about=one.about | {"position_angle": 30.0}))
    off = dict(zip(FRAMES, replace(orientation, lens=lens).axis_off, strict=True))
    assert off["as it is"] == pytest.approx(off["rotated by 180°"])
    assert off["as it is"] + off["rotated by 90°"] == pytest.approx(90)
    assert "differs by" in replace(orientation, lens=lens).verdict


def test_chance_as_good_settles_nothing(orientation):
    lucky = replace(orientation, chance=np.full(200, orientation.gains.max() + 1))
    assert lucky.beaten == 1 and not lucky.settled
    assert "does not settle the orientation" in lucky.verdict


def test_the_map_peaks_at_the_subhalo(orientation):
    row, column = np.unravel_index(orientation.map.argmax(), orientation.map.shape)
    axis = np.linspace(-orientation.reach, orientation.reach, len(orientation.map))
    assert np.hypot(axis[column] - orientation.place[0], axis[row] - orientation.place[1]) < 0.25


def test_without_a_known_subhalo_a_simulated_lens_stands_there_and_says_so(sample):
    smooth = replace(sample, path="my/lenses", lenses=sample.lenses[:1])
    known = KnownSubhalo.of(smooth, seed=1)
    assert str(known.lens) == "simulated-2" and known.sources == 1
    assert known.description.startswith("None of the lenses at my/lenses has a known subhalo")


@pytest.mark.parametrize(
    "about", [{"x": 1.0, "y": 2.0}, {"x": 1, "y": 2, "mass": "much"}, [1, 2], {"x": 0, "y": 0, "mass": -1e9}]
)
def test_a_subhalo_that_is_none_is_named(sample, about):
    lens = sample.lenses[0]
    lens = replace(lens, observation=replace(lens.observation, about={"subhalo": about}))
    with pytest.raises(DataError, match="simulated-1: subhalo = .*expected x and y in arcseconds"):
        KnownSubhalo.of(replace(sample, lenses=[lens]))


def test_the_published_lens_is_known_by_its_name(sample):
    lens = replace(sample.lenses[0], observation=replace(sample.lenses[0].observation, name="slacs0946+1006"))
    known = KnownSubhalo.of(replace(sample, path="lenses", lenses=[lens]), seed=1)
    assert (known.subhalo.x, known.subhalo.y, known.subhalo.mass) == (-0.651, 1.040, 3.51e9)
    assert known.sources == 3 and "Vegetti" in known.description


def test_attribution_is_compared_with_random_places():
    """A single strong pixel at the place: nowhere on the arc is more, and the peak is at it."""
    attribution = np.zeros((41, 41))
    attribution[20 + 5, 20 - 8] = -3.0
    place, random = np.array([-0.8, 0.5]), np.random.default_rng(0).uniform(-1.5, 0.2, (99, 2))
    found = _compared(attribution, 0.1, place, random)
    assert found["places on the arc with more"] == pytest.approx(0.01, abs=0.02)
    assert found["peak is off by [arcsec]"] == pytest.approx(0, abs=1e-9)
    assert found["random places that near"] == 0
    away = _compared(attribution, 0.1, -place, random)
    assert away["peak is off by [arcsec]"] == pytest.approx(2 * np.hypot(0.8, 0.5))
    assert away["random places that near"] > 0.5


def test_responses_and_attributions_are_kept(tmp_path, orientation, known_network):
    """A network that is brighter for the observed image than for any counterpart."""
    lens = orientation.lens
    observed = lens.seen_by(known_network(None, size=50))

    def is_it(images, degrees):
        return np.where((images == observed).all(axis=(1, 2, 3)), 0.9, 0.1)

    network = known_network(is_it, size=50)
    network.attribution = lambda images: (np.ones((50, 50)), 0.1)
    responses = Responses.of([network], lens, 4, 0.05, 1)
    assert responses.above == {"known": pytest.approx(1 / 33)}
    assert responses.table["probability of substructure"]["known"] == 0.9
    assert "1 of 1 network give its image more" in responses.answer
    file = save(tmp_path / "real" / "known.json", orientation, responses, Attributions.of([network], orientation))
    assert '"published_frame": "as it is"' in file.read_text()
