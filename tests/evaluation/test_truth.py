"""Predictions against what is true of an image."""

import numpy as np
import pytest
from scipy.stats import norm

from lensstudy.evaluation import truth


def test_recovery_of_an_ideal_observer_lies_on_the_bound():
    """Evidence that is Gaussian of unit width, moved by the detectability: what the bound is derived from."""
    generator = np.random.default_rng(3)
    sigma = np.r_[np.zeros(20_000), generator.uniform(0, 5, 20_000)]
    evidence = [generator.normal(sigma) for _ in range(2)]
    table = truth.detection_rate(evidence, sigma == 0, sigma, false_alarms=0.1)
    assert len(table) == 6
    assert table.share.to_numpy() == pytest.approx(table.bound.to_numpy(), abs=0.02)
    assert table.bound[0] == pytest.approx(norm.cdf(table.sigma[0] - norm.isf(0.1)), abs=0.02)
    assert (table.low < table.share).all()
    assert truth.detection_rate(evidence, sigma == 0, np.full(40_000, np.inf)).empty


def test_accuracy_in_bins_is_that_of_their_images():
    values = np.r_[np.arange(60.0), np.nan]
    table = truth.accuracy_along(values, np.r_[np.zeros(30), np.ones(30), 0], bins=2)
    assert table.share.tolist() == [0, 1]
    assert table["value"].tolist() == [14.5, 44.5]
    assert table.images.tolist() == [30, 30]
    assert len(truth.accuracy_along(np.ones(5), np.ones(5))) == 1  # one value, one bin
