"""Schedules against their closed forms."""

import math

import numpy as np
import pytest
import torch

from lensstudy.study import Study
from lensstudy.training.optimisation import learning_rates, optimizer_of

SCHEDULES = ["one-cycle", "cosine", "step", "plateau", "constant"]


def rates(steps, schedule, warmup_fraction, **others):
    """As shares of the highest."""
    study = Study(schedule=schedule, warmup_fraction=warmup_fraction, learning_rate=0.02, **others)
    return np.array(learning_rates(steps, study)) / 0.02


@pytest.mark.parametrize("schedule", SCHEDULES[1:])
def test_the_rate_rises_linearly_during_the_warm_up(schedule):
    rise = rates(40, schedule, 0.25)[:11]
    np.testing.assert_allclose(rise, [*(np.arange(1, 11) / 11), 1], rtol=1e-12)


def test_cosine_falls_along_half_a_cosine_which_ends_after_the_last_step():
    expected = [0.5 * (1 + math.cos(math.pi * (step - 8) / 32)) for step in range(8, 40)]
    np.testing.assert_allclose(rates(40, "cosine", 0.2)[8:], expected, rtol=1e-9)
    np.testing.assert_allclose(rates(40, "cosine", 0.0)[20], 0.5)


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_step_lowers_the_rate_at_a_half_and_three_quarters(warmup):
    expected = np.repeat([1, 0.3, 0.09], [50 - round(100 * warmup), 25, 25])
    np.testing.assert_allclose(rates(100, "step", warmup, decay_factor=0.3)[round(100 * warmup) :], expected)


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_the_rate_stays_after_the_warm_up(schedule):
    assert (rates(10, schedule, 0.0) == 1).all()
    np.testing.assert_allclose(rates(10, schedule, 0.2), [1 / 3, 2 / 3, *[1] * 8])


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    factors = rates(1000, "one-cycle", 0.3)
    assert factors[0] == pytest.approx(1 / 25)
    assert np.argmax(factors) == 300
    assert max(factors) == pytest.approx(1, abs=1e-9)
    assert 0 < factors[-1] < 1e-4
    assert factors[150] == pytest.approx((1 + 1 / 25) / 2)
    assert (np.diff(factors[:300]) > 0).all()
    assert (np.diff(factors[300:]) < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_step_is_without_effect_however_few_there_are(schedule):
    """torch's one-cycle divides by the length of a rise of one step, and a cosine by that of a fall of none."""
    for steps in range(1, 12):
        for warmup in (0.0, 0.1, 0.2, 0.25, 0.5, 0.9, 0.999):
            factors = rates(steps, schedule, warmup, decay_factor=0.5)
            assert len(factors) == steps
            assert ((factors > 0.01) & (factors < 1 + 1e-12)).all(), (steps, warmup)


def test_the_learning_rate_is_the_network_s_own():
    study = Study(schedule="one-cycle", network="resnet18", settings={"resnet18": {"learning_rate": 0.5}})
    assert max(learning_rates(20, study)) == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "value"), [("epochs", 3), ("augmentation", "square"), ("gradient_clip", 0.0)])
def test_any_setting_can_be_one_network_s_own(name, value):
    study = Study(settings={"resnet18": {name: value}})
    assert getattr(study.training("resnet18"), name) == value
    assert getattr(study.training("plain-cnn"), name) == getattr(study, name)
    assert getattr(study.training("resnet18").training("resnet18"), name) == value


def test_the_optimiser_is_the_one_that_was_asked_for():
    weights = [torch.nn.Parameter(torch.ones(1))]
    sgd = optimizer_of(weights, Study(optimizer="sgd", learning_rate=0.1, weight_decay=0.0))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    rated = Study(network="resnet18", settings={"resnet18": {"learning_rate": 0.02}})
    assert optimizer_of(weights, rated.training()).defaults["lr"] == 0.02
    assert isinstance(optimizer_of(weights, Study()), torch.optim.AdamW)
