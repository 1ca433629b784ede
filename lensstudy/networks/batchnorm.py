"""Batch norm over fields, as fast as memory allows.

The channels of a regular field are permuted when the image is rotated, so they must share one mean and one variance.
torch has no such batch norm, and those made of its parts take several passes over the feature map. Here normalising is
an affine map a channel, written on rows of W*C values that lie side by side in the channels-last layout, and the ReLU
and the pooling that follow are fused with it: what lies between is not kept, but computed again in the backward pass.
Maps may have less precision than the weights (autocast): statistics and the affine map stay in that of the weights, and
each value is rounded once.
"""

from __future__ import annotations

import threading

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FieldBatchNorm", "release_scratch"]


class FieldBatchNorm(nn.Module):
    """Batch norm with one mean and variance for all `field_size` channels of a field, which the group permutes.

    Equal to `e2cnn.nn.InnerBatchNorm`. `relu` and `pool` (a `SymmetricPool`) say what follows, so that in training on a
    processor all is done in one go, faster than plain batch norm, ReLU and pooling one by one.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, field_size: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.channels, self.field_size, self.momentum, self.eps = channels, field_size, momentum, eps
        count = channels // field_size
        self.weight, self.bias = nn.Parameter(torch.ones(count)), nn.Parameter(torch.zeros(count))
        self.register_buffer("running_mean", torch.zeros(count))
        self.register_buffer("running_var", torch.ones(count))

    def forward(self, features: Tensor, relu: bool = False, pool: nn.Module | None = None) -> Tensor:
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        if self.training and features.device.type == "cpu" and channels_last:
            window = (pool.kernel_size, 2, pool.padding) if pool else None
            output, mean, variance = _NormReLUPool.apply(features, self.weight, self.bias, self.eps, relu, window)
            with torch.no_grad():
                count = features.numel() / len(mean)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            return output
        output = self._one_by_one(features)
        output = torch.relu_(output) if relu else output
        return pool(output) if pool else output

    def _one_by_one(self, features: Tensor) -> Tensor:
        values = (self.running_mean, self.running_var, self.weight, self.bias)
        if not self.training:
            mean, variance, weight, bias = (value.repeat_interleave(self.field_size) for value in values)
            return F.batch_norm(features, mean, variance, weight, bias, False, 0.0, self.eps)
        stacked = features.reshape(len(features), -1, self.field_size * features.shape[2], features.shape[3])
        return F.batch_norm(stacked, *values, True, self.momentum, self.eps).view(features.shape)

    def extra_repr(self) -> str:
        return f"{self.channels // self.field_size} fields of {self.field_size} channels"


class _NormReLUPool(torch.autograd.Function):
    """Training-mode batch norm over fields of a channels-last tensor, with the ReLU and average pooling after it.

    Only the input is kept for the way back. Maps that do not leave a function live in `_scratch` memory: getting
    fresh pages from the system costs several times what a pass over them does.
    """

    @staticmethod
    def forward(ctx, features, weight, bias, eps, relu, window):
        field_size = features.shape[1] // len(weight)
        unused = weight.new_zeros(features.shape[1])
        means, variances = torch.batch_norm_update_stats(features, unused, unused.clone(), 0.0)
        means, variances = means.view(-1, field_size), variances.view(-1, field_size)
        mean = means.mean(1)
        variance = (variances + (means - mean[:, None]).square()).mean(1)
        inverse = torch.rsqrt(variance + eps)
        scale = weight * inverse
        shift = bias - scale * mean
        output = _affine(features, scale, shift, _scratch(features, 0) if window else torch.empty_like(features))
        output = output.relu_() if relu else output
        output = F.avg_pool2d(output, *window) if window else output
        ctx.save_for_backward(features, mean, inverse, scale, shift)
        ctx.relu, ctx.window = relu, window
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx, gradient, _mean, _variance):
        features, mean, inverse, scale, shift = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.window:
            gradient = _unpool(gradient, ctx.window, _scratch(features, 0))
        if ctx.relu:
            output = _affine(features, scale, shift, _scratch(features, 1))
            gradient = torch.ops.aten.threshold_backward.grad_input(gradient, output, 0, grad_input=output)
        field_size = features.shape[1] // len(mean)
        means, inverses = mean.repeat_interleave(field_size), inverse.repeat_interleave(field_size)
        _, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
            gradient, features, None, None, None, means, inverses, True, 0.0, [False, True, True]
        )
        by_scale, by_shift = by_scale.view(-1, field_size).sum(1), by_shift.view(-1, field_size).sum(1)
        # d loss/d x = w/s (g - mean(g) - xhat mean(g xhat)), gathered as  scale g + b x + c  with one value a field
        count = features.numel() / len(mean)
        b = -scale * inverse * by_scale / count
        c = -scale * by_shift / count - b * mean
        by_features = _affine(features, b, c, torch.empty_like(features))
        _rows(by_features).addcmul_(_rows(gradient), _row(scale.to(features.dtype), features))
        return by_features, by_scale, by_shift, None, None, None


def _affine(features: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """`scale * features + shift`, one value a field, written to `out`, or to memory of its own at mixed precision."""
    if features.dtype != scale.dtype:  # of torch's own, batch norm alone takes values of more precision than the map
        scale, shift = (values.repeat_interleave(features.shape[1] // len(values)) for values in (scale, shift))
        return F.batch_norm(features, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=0.0)
    torch.addcmul(_row(shift, features), _rows(features), _row(scale, features), out=_rows(out))
    return out


def _unpool(gradient: Tensor, window: tuple[int, int, int], out: Tensor) -> Tensor:
    """The gradient of average pooling, written to `out`."""
    if window != (2, 2, 0) or out.shape[2] % 2 or out.shape[3] % 2:
        return torch.ops.aten.avg_pool2d_backward(gradient, out, *((size, size) for size in window), False, True, None)
    batch, channels, height, width = gradient.shape
    quarter = (gradient / 4).permute(0, 2, 3, 1).view(batch, height, 1, width, 1, channels)
    out.permute(0, 2, 3, 1).view(batch, height, 2, width, 2, channels).copy_(quarter)
    return out


def _rows(features: Tensor) -> Tensor:
    """A channels-last tensor seen as `(B*H, W*C)`, without a copy."""
    batch, channels, height, width = features.shape
    return features.permute(0, 2, 3, 1).view(batch * height, width * channels)


def _row(values: Tensor, features: Tensor) -> Tensor:
    """One value a field, laid out as one row of `_rows(features)`."""
    return values.repeat_interleave(features.shape[1] // len(values)).repeat(features.shape[3])


_memory = threading.local()


def _scratch(features: Tensor, number: int) -> Tensor:
    """Memory of the shape of `features`, whose contents last until the next call with this `number` in this thread."""
    buffers = _memory.__dict__.setdefault("buffers", {})
    key, size = (number, features.dtype), features.numel()
    if key not in buffers or buffers[key].numel() < size:
        buffers[key] = features.new_empty(size)
    return buffers[key][:size].as_strided(features.shape, features.stride())


def release_scratch():
    """Give back the memory that batch norm in this thread keeps for its next call."""
    _memory.__dict__.clear()
