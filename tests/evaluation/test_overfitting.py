"""Whether a network has learnt and over-fits, against losses that are computed by hand."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.evaluation.overfitting import overfitting
from lensstudy.training.run import TrainedNetwork, load_run

CARD = {
    "class_shares": [0.5, 0.5],
    "class_weights": "none",
    "label_smoothing": 0.0,
    "curriculum": [],
    "averaging": "none",
}


def run_with(given, train_loss, **card):
    """A finished training whose best checkpoint gives these probabilities to the true classes."""
    run = TrainedNetwork(None, None, ("a", "b"), CARD | card)
    run.validation = pd.DataFrame({"class": ["a", "b"] * (len(given) // 2), "given": given})
    run.metrics = {"best_epoch": 2}
    run.history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [9.0, train_loss, 9.0]})
    return run


def test_the_intervals_are_those_of_means_over_images():
    given = np.random.default_rng(0).uniform(0.5, 1.0, 200)
    losses = -np.log(given)
    found = overfitting(run_with(given, 0.1)).table
    assert found["value"].tolist() == pytest.approx([losses.mean(), np.log(2) - losses.mean(), losses.mean() - 0.1])
    draws = np.random.default_rng(1).choice(losses, (4000, 200)).mean(axis=1)  # a bootstrap says the same
    assert found.loc["validation loss", ["low", "high"]].tolist() == pytest.approx(
        np.quantile(draws, [0.025, 0.975]).tolist(), abs=0.01
    )


def test_the_verdict_follows_the_interval():
    good, poor = np.full(100, 0.9), np.full(100, 0.5)
    good[::10], poor[::2], poor[1::2] = 0.7, 0.55, 0.45
    assert "it has learnt" in overfitting(run_with(good, 0.13)).answer
    assert "no over-fitting shows" in overfitting(run_with(good, 0.13)).answer
    assert "which is over-fitting" in overfitting(run_with(good, 0.01)).answer
    assert "not told apart from guessing" in overfitting(run_with(poor, 0.69)).answer


@pytest.mark.parametrize("card", [{"label_smoothing": 0.1}, {"averaging": "ema"}, {"curriculum": [[1, 2.0, 1.0]]}])
def test_no_gap_is_told_where_the_training_loss_means_something_else(card):
    judged = overfitting(run_with(np.full(100, 0.9), 0.01, **card))
    assert "above training loss" not in judged.table.index and "training loss" not in judged.answer


def test_the_loss_is_that_of_a_real_training(run_folder):
    run = load_run(run_folder)
    assert overfitting(run).table.loc["validation loss", "value"] == pytest.approx(
        run.metrics["validation_loss"], abs=1e-4
    )
    assert overfitting(run).table.loc["above training loss", "value"] == pytest.approx(
        run.metrics["overfitting_gap"], abs=1e-4
    )
