"""Learning curves are read as they were drawn."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.evaluation import learning
from lensstudy.evaluation.intervals import Measured

LABELS = np.repeat([0, 1], 50)


def curve(sizes, scores, error=1e-4):
    """A curve whose single score has an error of about `error` over 100 test images, the same for all sizes."""
    noise = error / 10 * np.random.default_rng(5).normal(size=100)
    points = {
        int(n): Measured(np.array([one]), (one / 100 + noise)[None]) for n, one in zip(sizes, scores, strict=True)
    }
    return learning.LearningCurve(LABELS, points)


def test_a_curve_that_is_the_other_one_four_times_earlier_needs_a_quarter_of_the_images():
    sizes = np.array([100, 400, 1600, 6400])
    own, other = (curve(sizes, 1 - 0.9 * (factor * sizes / 100) ** -0.2) for factor in (4, 1))
    table = learning.images_to_match(own, other)
    assert table.needed[:3].to_numpy() == pytest.approx(4 * sizes[:3], rel=0.01)
    assert np.isinf(table.needed[3])
    assert (
        table.in_words[3] == "does not reach it with up to 6,400 images in so many steps, where its curve still rises"
    )
    assert (table.low[:3] <= table.needed[:3]).all() and (table.needed[:3] <= table.high[:3]).all()
    assert table.in_words[0].startswith("needs 4 ")


def test_a_curve_that_never_gets_there_and_one_that_is_above_from_the_start_say_so():
    sizes = [30, 300]
    flat, high = curve(sizes, [0.6, 0.6]), curve(sizes, [0.9, 0.95])
    words = "does not reach it with up to 300 images in so many steps, where its curve does not surely rise"
    assert learning.images_to_match(high, flat).in_words[0] == words
    assert learning.images_to_match(flat, high).in_words[1] == "needs at most 0.1 times as many"
    falling = curve([10, 100, 1000], [0.6, 0.9, 0.7])
    assert learning.images_to_match(curve([10], [0.8]), falling).needed[0] == pytest.approx(10**1.5, rel=0.01)


def test_between_two_points_a_power_law_is_read_off_as_it_is():
    """Errors that fall as the square root of the images, measured with 200 and 1,800 of them, and what an image adds
    with 600: that of an error which is the geometric mean of the two."""
    generator = np.random.default_rng(7)
    moved = generator.normal(size=(2, 100))
    points = {n: Measured(1 - n**-0.5 * np.ones(1), step[None]) for n, step in zip((200, 1800), moved, strict=True)}
    value, shares = learning.LearningCurve(LABELS, points).at(600)
    assert value == pytest.approx(1 - 600**-0.5)
    small = 1e-6
    for image in range(3):
        errors = [n**-0.5 - small * step[image] for n, step in zip((200, 1800), moved, strict=True)]
        assert 1 - np.sqrt(np.prod(errors)) - value == pytest.approx(small * shares[0, image], rel=1e-3)


@pytest.mark.slow
def test_the_interval_of_a_ratio_of_images_covers_the_truth():
    """Two curves of binormal answers whose separations grow with the images in a known way, three seeds, shared test
    images: the interval of the ratio holds the true one in 91 of 100 experiments at least."""
    generator, sizes, covered = np.random.default_rng(6), [100, 300, 1000, 3000], 0
    labels = np.repeat([0, 1], 150)
    for _ in range(100):
        difficulty = generator.normal(size=300)
        rows = []
        for name, lead in (("good", 3.0), ("poor", 1.0)):
            for images in sizes:
                for seed in range(3):
                    separation = 0.7 * np.log10(lead * images / 30) + 0.1 * generator.normal()
                    score = difficulty + 0.5 * generator.normal(size=300) + separation * labels
                    p = 1 / (1 + np.exp(-score))
                    rows.append((name, images, seed, np.stack([1 - p, p], 1)))
        trainings = pd.DataFrame(rows, columns=["network", "images", "seed", "probabilities"])
        curves = learning.learning_curve(labels, trainings)
        own = learning.LearningCurve(labels, {300: curves["good"].points[300]})
        table = learning.images_to_match(own, curves["poor"])
        covered += table.low[0] <= 900 <= table.high[0]
    assert covered >= 91
