"""A trained network as plain convolutions, for inference: the same outputs, without e2cnn and faster.

In evaluation mode a steerable filter is a constant, and so is batch norm: `folded` writes both into one ordinary
convolution. What is left can be pickled, traced and written as ONNX.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.layers import IrrepBatchNorm, SteerableConv

__all__ = ["folded"]

PIXELS_AT_ONCE = 2**17  # 32 images of 64 pixels: their largest feature maps stay within a processor's cache


@torch.no_grad()
def folded(network: Any) -> Any:
    """The same function in plain convolutions: a copy of `network` for inference, in evaluation mode.

    Each steerable convolution becomes an `nn.Conv2d` with its filter as it is now, the batch norm that follows it is
    folded in, and all is laid out channels-last; on a processor a large batch goes through in pieces. Outputs agree to
    1e-5. Nothing of e2cnn is left: the result can be pickled, traced by `torch.export` and written as ONNX. Plain
    networks are exported alike.
    """
    exported = copy.deepcopy(network).eval()
    for module in list(exported.modules()):
        for (name, child), (next_name, following) in pairwise([*module.named_children(), ("", None)]):
            if isinstance(child, SteerableConv | nn.Conv2d):
                norm = isinstance(following, nn.BatchNorm2d | FieldBatchNorm | IrrepBatchNorm)
                setattr(module, name, _plain_convolution(child, following if norm else None))
                if norm:
                    setattr(module, next_name, nn.Identity())
    exported.at_once = max(1, PIXELS_AT_ONCE // network.image_size**2)
    return exported.requires_grad_(False).to(memory_format=torch.channels_last)


def _plain_convolution(conv, norm):
    """`conv` (`SteerableConv` or `Conv2d`), and the batch norm after it in evaluation mode, as one convolution."""
    steerable = isinstance(conv, SteerableConv)
    weight = conv.filter() if steerable else conv.weight
    stride, padding = (1, conv.kernel_size // 2) if steerable else (conv.stride, conv.padding)
    plain = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, stride, padding, bias=norm is not None)
    scale, shift = (weight.new_ones(len(weight)), None) if norm is None else _affine(norm)
    plain.weight.copy_(weight * scale.view(-1, 1, 1, 1))
    if norm is not None:
        plain.bias.copy_(shift)
    return plain


def _affine(norm) -> tuple[Tensor, Tensor]:
    """Batch norm in evaluation mode as `scale x + shift`, one value a channel."""
    if isinstance(norm, IrrepBatchNorm):
        scale, shift = _affine(norm.scalars)
        by_vector = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).repeat_interleave(2)
        return torch.cat([scale, by_vector]), F.pad(shift, (0, len(by_vector)))
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - scale * norm.running_mean
    repeats = norm.field_size if isinstance(norm, FieldBatchNorm) else 1
    return scale.repeat_interleave(repeats), shift.repeat_interleave(repeats)
