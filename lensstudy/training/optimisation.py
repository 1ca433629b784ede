"""How weights move: optimisers, the learning rate over a training, averages of weights.

Schedules are torch's own, and their state is part of the checkpoint. `learning_rates` says what a schedule does without
a training. Averages are torch's `AveragedModel`, which the training updates. Lightning's `WeightAveraging` was tried in
its place: with `swa` over the last two of four epochs it validates the first weights in three of them, and the average
of two in none; its statistics of batch norm are not those of the averaged weights; and it copies the training images,
which are part of the module that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lensstudy.study import Study

__all__ = ["TrainingDiverged", "averaged_network", "learning_rates", "optimizer_of", "plateau_of", "schedule_of"]

MOMENTUM = 0.9
MILESTONES = (0.5, 0.75)  # shares of the training after which `step` lowers the rate (He et al. 2016)


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite, or has exploded. The message names the step and the learning rate."""


def optimizer_of(weights: Iterable[torch.nn.Parameter], settings: Study) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or SGD with Nesterov momentum, at `learning_rate`."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)


def schedule_of(optimizer: torch.optim.Optimizer, steps: int, settings: Study) -> LRScheduler:
    """The schedule of `optimizer` over a training of `steps` steps, to be stepped after each.

    `one-cycle` rises and falls along half a cosine each (Smith 2018, arXiv:1803.09820); all others rise linearly during
    the warm-up. Then `cosine` falls along half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983), `step` is
    multiplied by `decay_factor` at a half and three quarters of the training, and `constant` and `plateau` stay
    (`plateau_of` lowers the latter). Those that end do so after the last step, so that no step is without effect.
    """
    warmup = min(round(settings.warmup_fraction * steps), steps - 1)
    if settings.schedule == "one-cycle":
        rise = (warmup + 1) / (steps + 1) if warmup else 0.0
        return OneCycleLR(optimizer, settings.learning_rate, steps + 1, pct_start=rise, cycle_momentum=False)
    rising = LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
    if settings.schedule in ("constant", "plateau"):
        return rising
    if settings.schedule == "cosine":
        falling: LRScheduler = CosineAnnealingLR(optimizer, steps - warmup)
    else:
        milestones = [math.ceil(share * steps) - warmup for share in MILESTONES]
        falling = MultiStepLR(optimizer, milestones, settings.decay_factor)
    return SequentialLR(optimizer, [rising, falling], [warmup]) if warmup else falling


def plateau_of(optimizer: torch.optim.Optimizer, settings: Study) -> ReduceLROnPlateau:
    """What lowers the rate once the validation loss has not fallen for more than `decay_patience` epochs."""
    return ReduceLROnPlateau(optimizer, factor=settings.decay_factor, patience=settings.decay_patience, threshold=0.0)


def learning_rates(steps: int, settings: Study) -> list[float]:
    """The learning rate in each of `steps` steps.

    Args:
        steps: of the whole training.
        settings: `schedule`, `learning_rate` and what belongs to them.

    Returns:
        One rate a step; for `plateau` those of a loss that keeps falling.

    Example:
        >>> study = Study(schedule="constant", warmup_fraction=0.5, learning_rate=0.3)
        >>> [round(rate, 3) for rate in learning_rates(4, study)]
        [0.1, 0.2, 0.3, 0.3]
    """
    settings = settings.training()  # with those of its network
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule, rates = schedule_of(optimizer, steps, settings), []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return rates


def averaged_network(network: torch.nn.Module, settings: Study) -> AveragedModel | None:
    """A copy of `network` whose weights are the average of its weights so far: exponential over the steps (`ema`) or
    equal over the last epochs (`swa`, Izmailov et al. 2018, arXiv:1803.05407). None for `none`.

    Batch norm's statistics are no average of statistics: they are recalibrated on images for the averaged weights.
    """
    if settings.averaging == "none":
        return None
    ema = settings.averaging == "ema"
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging_decay) if ema else None)
    return average.requires_grad_(False)
