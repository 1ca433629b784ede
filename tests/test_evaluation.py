"""Metrics on cases with known answers, and intervals that cover what they promise."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from lensstudy import evaluation


def binormal(generator, n, separation):
    """Labels and probabilities of a two-class problem whose AUC is known: Phi(separation / sqrt 2)."""
    labels = np.repeat([0, 1], n)
    score = 1 / (1 + np.exp(-(generator.normal(size=2 * n) + separation * labels)))
    return labels, np.stack([1 - score, score], 1)


def test_a_perfect_and_a_reversed_answer():
    labels = np.array([0, 0, 1, 1, 2, 2])
    right = np.eye(3)[labels]
    scores = evaluation.scores(labels, right, ["a", "b", "c"])
    assert scores["accuracy"] == scores["auc"] == scores["auc_a"] == 1
    assert evaluation.auc(labels[:4], 1 - right[:4, :2]) == 0
    assert np.array_equal(evaluation.confusion(labels, right), np.eye(3))


def test_auc_of_two_normal_distributions():
    labels, probabilities = binormal(np.random.default_rng(1), 20_000, 1.0)
    assert evaluation.auc(labels, probabilities) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """95 % nominal, 160 experiments: fewer than 90 % or more than 99 % would be 2.5 standard deviations away."""
    generator = np.random.default_rng(2)
    truth, covered = norm.cdf(1 / np.sqrt(2)), []
    for _ in range(160):
        labels, probabilities = binormal(generator, 60, 1.0)
        rows = evaluation.bootstrap_rows(labels, 150, seed=int(generator.integers(1e9)))
        low, high = evaluation.interval(labels, [probabilities], rows)
        covered.append(low <= truth <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_equal_networks_differ_by_nothing_and_a_better_one_is_ahead():
    generator = np.random.default_rng(3)
    labels, good = binormal(generator, 150, 2.0)
    _, poor = binormal(generator, 150, 0.5)
    rows = evaluation.bootstrap_rows(labels, 200)
    assert evaluation.difference(labels, [good], [good], rows) == (0, 0, 0)
    centre, low, high = evaluation.difference(labels, [good], [poor], rows)
    assert 0 < low < centre < high


def test_resamples_keep_the_number_of_images_of_each_class():
    labels = np.array([0] * 7 + [1] * 3)
    rows = evaluation.bootstrap_rows(labels, 50)
    assert rows.shape == (50, 10)
    assert (labels[rows].sum(1) == 3).all()


def test_swing_is_the_largest_change_of_any_probability():
    first, second = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.4, 0.6], [0.9, 0.1]])
    assert evaluation.swing([first, second, first]) == pytest.approx([0.1, 0.0])


def test_summary_has_the_mean_over_seeds_and_says_when_there_is_one():
    generator = np.random.default_rng(4)
    labels, one = binormal(generator, 80, 1.5)
    _, two = binormal(generator, 80, 1.0)
    answers = pd.DataFrame(
        [
            {"network": "a", "seed": 1, "view": "upright", "probabilities": one},
            {"network": "a", "seed": 2, "view": "upright", "probabilities": two},
            {"network": "b", "seed": 1, "view": "upright", "probabilities": two},
        ]
    )
    table = evaluation.summarise(labels, answers, ["no", "yes"], samples=100).set_index("network")
    expected = np.mean([evaluation.auc(labels, one), evaluation.auc(labels, two)])
    assert table.auc["a"] == pytest.approx(expected)
    assert table.auc_low["a"] < table.auc["a"] < table.auc_high["a"]
    assert table.auc_std["a"] > 0
    assert np.isnan(table.auc_std["b"])


def test_digits_follow_the_width_of_the_interval():
    assert evaluation.format_interval(0.97, 0.95, 0.98) == "0.970 [0.950, 0.980]"
    assert evaluation.format_interval(0.99995, 0.9999, 1.0) == "0.99995 [0.99990, 1.00000]"


def test_the_interval_of_a_difference_covers_zero_for_equal_networks_with_two_seeds():
    """Two networks, two seeds each, all equally good: the 95 % interval over images may miss 0 in few of 60 cases."""
    generator, missed = np.random.default_rng(6), 0
    for _ in range(60):
        labels = np.repeat([0, 1], 60)
        truth = generator.normal(size=120) + labels
        runs = []
        for _ in range(4):
            score = 1 / (1 + np.exp(-(truth + 0.5 * generator.normal(size=120))))
            runs.append(np.stack([1 - score, score], 1))
        rows = evaluation.bootstrap_rows(labels, 100, seed=int(generator.integers(1e9)))
        _, low, high = evaluation.difference(labels, runs[:2], runs[2:], rows)
        missed += not low <= 0 <= high
    assert missed <= 8
