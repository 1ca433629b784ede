"""What a network is trained on and predicts on: one rule, asked wherever a device is chosen.

A GPU is one that torch reaches as CUDA, NVIDIA's or, through ROCm, AMD's. Apple's is not taken: it has no double
precision, in which probabilities are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lensstudy.study import ParameterError, Study

__all__ = ["check_devices", "device_here", "device_of", "on_device"]


def device_of(accelerator: str) -> torch.device:
    """Choose a device: `cpu` is the processor, `gpu` a GPU, `auto` a GPU where torch finds one, else the processor.

    Raises `ParameterError` for `gpu` where there is none.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator == "gpu":
        raise ParameterError("accelerator = gpu: torch finds no GPU here; use auto or cpu")
    return torch.device("cpu")


def device_here(trained_on: str) -> torch.device:
    """The device for a network that was trained with this `accelerator`, on this machine or another: the processor
    where it was told so, else what `auto` chooses."""
    return device_of("cpu" if trained_on == "cpu" else "auto")


def check_devices(settings: Study) -> None:
    """Raise `ParameterError` where this machine lacks what the settings of a training ask for."""
    device = device_of(settings.accelerator)
    if settings.precision == "16-mixed" and device.type == "cpu":
        raise ParameterError(
            "precision = 16-mixed: needs a GPU, and none is used here; use bf16-mixed, which processors know too, "
            "or 32-true"
        )
    if device.type == "cuda" and settings.devices > torch.cuda.device_count():
        raise ParameterError(
            f"devices = {settings.devices}: torch finds {torch.cuda.device_count()} GPU here; use as many, or cpu as "
            "accelerator"
        )


@contextmanager
def on_device(network: nn.Module, trained_on: str) -> Iterator[torch.device]:
    """Lend `network` to `device_here`, and bring it back to the processor."""
    device = device_here(trained_on)
    network.to(device)
    try:
        yield device
    finally:
        network.to("cpu")
