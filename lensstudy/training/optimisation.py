"""How weights move: optimisers, the learning rate over a training, averages of weights.

The rate at a step is a closed form of the step, so that a training that goes on after an interruption needs no memory
of it; only `plateau` watches, and its memory is a small state of its own. The range test shows which rates a network
bears before a training is paid for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lensstudy.study import Study

__all__ = ["Plateau", "averaged_network", "optimizer_of", "schedule_factor"]

MOMENTUM = 0.9
MILESTONES = (0.5, 0.75)  # shares of the training after which `step` lowers the rate (He et al. 2016)


def optimizer_of(weights: Iterable[torch.nn.Parameter], settings: Study) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) or SGD with Nesterov momentum, at the highest rate."""
    rate, decay = settings.highest_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)


def schedule_factor(step: int, steps: int, settings: Study) -> float:
    """Learning rate at `step` of `steps`, as a share of the highest.

    `one-cycle` rises from 1/25 along half a cosine and falls along another to 1e-5 (Smith 2018, arXiv:1803.09820);
    all others rise linearly during the warm-up. Then `cosine` falls along half a cosine to 0 (Loshchilov & Hutter
    2017, arXiv:1608.03983), `step` is multiplied by `decay_factor` at a half and three quarters of the training, and
    `constant` and `plateau` stay (`Plateau` lowers the latter).
    """
    schedule, warmup = settings.schedule, settings.warmup_fraction * steps
    if step < warmup:
        rise = (step + 1) / (warmup + 1)
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * rise)) if schedule == "one-cycle" else rise
    if schedule in ("constant", "plateau"):
        return 1.0
    if schedule == "step":
        return settings.decay_factor ** sum(step >= milestone * steps for milestone in MILESTONES)
    fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
    return 1e-5 + (1 - 1e-5) * fall if schedule == "one-cycle" else fall


@dataclass
class Plateau:
    """Lowers the rate by `decay` once the loss has not fallen for more than `patience` epochs, as torch's
    `ReduceLROnPlateau` does; that one cannot share an optimiser with a warm-up."""

    decay: float
    patience: int
    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def watch(self, loss: float) -> None:
        """Take note of the validation loss of one more epoch."""
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.patience:
            self.factor, self.waited = self.factor * self.decay, 0

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        self.__dict__.update(state)


def averaged_network(network: torch.nn.Module, settings: Study) -> AveragedModel | None:
    """A copy of `network` whose weights are the average of its weights so far: exponential over the steps (`ema`) or
    equal over the last epochs (`swa`, Izmailov et al. 2018, arXiv:1803.05407). None for `none`.

    Batch norm's statistics are no average of statistics: they are settled on images for the averaged weights.
    """
    if settings.averaging == "none":
        return None
    ema = settings.averaging == "ema"
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging_decay) if ema else None)
    return average.requires_grad_(False)
