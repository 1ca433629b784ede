"""Schedules against closed forms and torch's own."""

import math

import numpy as np
import pytest
import torch

from lensstudy.study import Study
from lensstudy.training.optimisation import Plateau, optimizer_of, schedule_factor


def factor(step, steps, schedule, warmup_fraction, **others):
    return schedule_factor(step, steps, Study(schedule=schedule, warmup_fraction=warmup_fraction, **others))


def test_schedules_against_their_closed_forms():
    assert [factor(step, 10, "constant", 0.2) for step in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert factor(0, 10, "constant", 0.0) == 1
    for step in (2, 5, 9):
        assert factor(step, 10, "cosine", 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 2) / 8)))


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    factors = [factor(step, 1000, "one-cycle", 0.3) for step in range(1000)]
    assert factors[0] == pytest.approx(0.04, abs=1e-3)
    assert np.argmax(factors) in (299, 300)
    assert max(factors) == pytest.approx(1, abs=1e-5)
    assert factors[-1] < 1e-4
    assert (np.diff(factors[:300]) > 0).all()
    assert (np.diff(factors[300:]) < 0).all()


def test_step_is_torchs_multi_step_after_the_warm_up():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[50, 75], gamma=0.3)
    for step in range(100):
        assert factor(step, 100, "step", 0.0, decay_factor=0.3) == pytest.approx(theirs.get_last_lr()[0]), step
        optimizer.step()
        theirs.step()


def test_plateau_lowers_the_rate_when_torchs_does():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=0.0)
    ours = Plateau(decay=0.5, patience=2)
    for loss in np.random.default_rng(1).random(60):
        theirs.step(loss)
        ours.watch(loss)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.factor < 0.5
    other = Plateau(decay=0.5, patience=2)
    other.load_state_dict(ours.state_dict())
    assert other == ours


def test_the_optimiser_is_the_one_that_was_asked_for():
    weights = [torch.nn.Parameter(torch.ones(1))]
    sgd = optimizer_of(weights, Study(optimizer="sgd", learning_rate=0.1, weight_decay=0.0))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    rated = Study(network="resnet18", learning_rates={"resnet18": 0.02})
    assert optimizer_of(weights, rated).defaults["lr"] == 0.02
    assert isinstance(optimizer_of(weights, Study()), torch.optim.AdamW)
