"""Odd images are what their names say."""

import numpy as np
import pytest

from lensstudy.evaluation.odd_images import KINDS, count_named, odd_images


@pytest.fixture
def rings() -> np.ndarray:
    """Rings with noise, `(6, 2, 48, 48)`."""
    y, x = np.indices((48, 48)) - 23.5
    ring = 100 * np.exp(-((np.hypot(x, y) - 12) ** 2) / 8)
    return (ring + np.random.default_rng(0).normal(5, 1, (6, 2, 48, 48))).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_differs_from_the_clean_images_and_comes_again_with_its_seed(rings, kind):
    made = odd_images(rings, kind, seed=3)
    assert made.shape == rings.shape and made.dtype == np.float32 and np.isfinite(made).all()
    assert (np.abs(made - rings).max((1, 2, 3)) > 5).all(), "more than the noise, in every image"
    np.testing.assert_array_equal(made, odd_images(rings, kind, seed=3))
    if kind not in ("inverted", "pixels 1.5 times as small", "pixels 1.5 times as large"):
        assert not np.array_equal(made, odd_images(rings, kind, seed=4))
    assert np.isfinite(odd_images(rings[:1, :1, :13, :13], kind)).all(), "one small image of an odd size"


def test_faults_are_where_they_should_be(rings):
    made = odd_images(rings, "saturated")
    assert ((made == made.max((2, 3), keepdims=True)).sum((2, 3)) > 30).all()
    dead = odd_images(rings, "dead row or column") == 0
    assert (dead.all(2).sum(2) + dead.all(3).sum(2) == 1).all(), "one whole line"
    hot = np.abs(odd_images(rings, "hot pixel") - rings) > 5
    assert (hot.sum((2, 3)) == 1).all()
    moved = odd_images(rings, "shifted")
    np.testing.assert_allclose(np.sort(moved.ravel()), np.sort(rings.ravel()))
    y, x = np.indices((48, 48)) - 23.5
    light = np.maximum(moved - 30, 0)
    offset = np.hypot(*((light * each).sum((2, 3)) / light.sum((2, 3)) for each in (x, y)))
    assert ((offset > 2) & (offset < 9)).all()
    for size, radius in (("small", 18), ("large", 8)):
        mean = odd_images(rings, f"pixels 1.5 times as {size}").mean((0, 1))
        profile = [mean[np.hypot(x, y).astype(int) == number].mean() for number in range(22)]
        assert np.argmax(profile) == pytest.approx(radius, abs=1), "the ring of 12 pixels"


def test_shares_are_counted(rings):
    """By a score that knows nothing but the brightest pixel."""
    found = count_named(lambda images: images.max((1, 2, 3)) / 120, rings, each=4, seed=1)
    assert found["named"]["saturated"] == 1 and found["named"]["star beside"] == 0
    assert found["overall"] == pytest.approx(np.mean(list(found["named"].values())))
    assert (found["false_alarms"], found["images"], found["each"], found["seed"]) == (0, 6, 4, 1)
    with pytest.raises(ValueError, match="kind of odd images 'UFO' is unknown; there are saturated"):
        odd_images(rings, "UFO")
