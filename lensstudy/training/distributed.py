"""One training on several processes or GPUs, with the result of one: every process takes its share of each batch.

Lightning's DDP averages the gradients; which images of a batch a process takes, and batch norm over the whole batch,
is here. Lightning's `sync_batchnorm`, which is torch's `SyncBatchNorm`, was tried in place of the latter: it leaves
batch norm over fields as it is without a word, takes half of that over vectors, and runs on GPUs only, where a test on
processors could not tell.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_reduce

from lensstudy.networks.batchnorm import FieldBatchNorm

__all__ = ["SynchronisedNorm", "place", "synchronise"]


def place() -> tuple[int, int]:
    """Number of this process and how many there are; (0, 1) for one alone."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def synchronise(network: nn.Module) -> nn.Module:
    """Let every batch norm of `network` see the batches of all processes. Returns `network`; weights keep their names.

    Raises `ValueError` for a norm that has no such form, such as that over vectors of SO(2) and O(2).
    """
    for name, layer in list(network.named_children()):
        if isinstance(layer, FieldBatchNorm | nn.BatchNorm2d) and _is_complete(layer):
            setattr(network, name, SynchronisedNorm(layer))
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm) or getattr(layer, "running_var", None) is not None:
            raise ValueError(
                f"{name}, a {type(layer).__name__}: cannot be trained on several devices, where batch norm of C_N and "
                "D_N and BatchNorm2d with weights, running statistics and a momentum can; use devices: 1"
            )
        else:
            synchronise(layer)
    return network


def _is_complete(layer: FieldBatchNorm | nn.BatchNorm2d) -> bool:
    return layer.weight is not None and layer.running_var is not None and layer.momentum is not None


class SynchronisedNorm(nn.Module):
    """The batch norm `layer` with mean and variance over the batches of all processes, which have the same size."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: FieldBatchNorm | nn.BatchNorm2d):
        super().__init__()
        assert layer.momentum is not None  # as `synchronise` has checked
        self.field_size = getattr(layer, "field_size", 1)
        self.momentum, self.eps = layer.momentum, layer.eps
        self.weight, self.bias = layer.weight, layer.bias
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            values = (self.running_mean, self.running_var, self.weight, self.bias)
            mean, variance, weight, bias = (value.repeat_interleave(self.field_size) for value in values)
            return F.batch_norm(features, mean, variance, weight, bias, eps=self.eps)
        fields = features.to(self.weight.dtype).reshape(len(features), -1, self.field_size, *features.shape[2:])
        mean = _over_all(fields.mean((0, 2, 3, 4)))
        centred = fields - mean[:, None, None, None]
        variance = _over_all(centred.square().mean((0, 2, 3, 4)))
        with torch.no_grad():
            count = place()[1] * fields[:, 0].numel()
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output = centred * scale[:, None, None, None] + self.bias[:, None, None, None]
        return output.view_as(features).to(features.dtype)


def _over_all(values: Tensor) -> Tensor:
    """The mean of `values` over the processes, gradient included."""
    processes = dist.group.WORLD
    assert processes is not None  # a norm is synchronised where there are several
    return all_reduce(values, "sum", processes) / processes.size()
