"""Learning curves are read as they were drawn."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.evaluation import learning


def curve(sizes, score, draws=0, spread=0.0):
    noise = np.random.default_rng(5).normal(0, spread, (draws + 1, 1)) if draws else 0
    return pd.DataFrame(np.array([score]) + noise, columns=sizes)


def test_a_curve_that_is_the_other_one_four_times_earlier_needs_a_quarter_of_the_images():
    sizes = np.array([100, 400, 1600, 6400])
    own, other = (0.5 + 0.1 * np.log10(factor * sizes / 100) for factor in (4, 1))
    table = learning.images_to_match(curve(sizes, own, 200, 0.001), curve(sizes, other, 200, 0.001))
    assert table.needed[:3].to_numpy() == pytest.approx(4 * sizes[:3], rel=0.02)
    assert np.isinf(table.needed[3])
    assert table.in_words[3] == "more than 1 times as many"
    assert (table.low[:3] <= table.needed[:3]).all()


def test_a_curve_that_never_gets_there_and_one_that_is_above_from_the_start_say_so():
    sizes = [30, 300]
    low, high = curve(sizes, [0.5, 0.6], 50, 0.001), curve(sizes, [0.9, 0.95], 50, 0.001)
    assert learning.images_to_match(high, low).in_words[0] == "more than 10 times as many"
    assert learning.images_to_match(low, high).in_words[1] == "at most 0.1 times as many"
    falling = curve([10, 100, 1000], [0.6, 0.8, 0.7], 50, 0.0)
    assert learning.images_to_match(curve([10], [0.7], 50), falling).needed[0] == pytest.approx(10**1.5)


def test_the_interval_of_a_ratio_of_images_covers_the_truth():
    """Two curves of binormal answers whose separations grow with the images in a known way, three seeds, shared test
    images: the interval of the ratio holds the true one in 85 to 99 of 100 experiments."""
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
        curves = learning.learning_curve(labels, trainings, samples=200)
        table = learning.images_to_match(curves["good"], curves["poor"])
        covered += table.low[1] <= 900 <= table.high[1]
    assert 85 <= covered <= 99
