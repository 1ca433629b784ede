"""Architectures: stacks of convolutions and ResNets, each written once, whatever symmetry its layers give it.

An architecture is a function of `layers` (`lensstudy.networks.layers`), which makes convolutions, norms and
nonlinearities of one symmetry, and of the numbers of channels. The head is invariant for all: pooling over the group,
the mean over the image, one linear layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.layers import POOLINGS, PlainLayers, Steps

__all__ = ["BottleneckBlock", "Classifier", "Network", "ResidualBlock", "conv_network", "resnet", "strided_resnet"]


class Classifier(nn.Module):
    """What every network of a study has, lensstudy's own or one that `registry.as_network` completes: `forward` returns
    logits `(B, n_classes)` of images `(B, in_channels, image_size, image_size)`, `features` what its last layer gets.

    `name` is the registry's, `group` the symmetry under which the logits do not change ('' for none).
    """

    name: str
    group: str
    image_size: int
    in_channels: int
    features: Callable[[Tensor], Tensor]


class Network(Classifier):
    """A classifier of `(B, in_channels, image_size, image_size)` float32 images; returns logits `(B, n_classes)`."""

    def __init__(self, body: nn.Module, layers: PlainLayers, fields, n_classes: int):
        super().__init__()
        self.body = body
        self.invariant, n_features = layers.invariant(fields)
        self.classifier = nn.Linear(n_features, n_classes)
        self.name, self.group, self.n_classes = "", layers.group, n_classes
        self.image_size, self.in_channels = 0, 1
        self.at_once = 0  # images that an exported network takes at once on a processor; 0: all

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.in_channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"network '{self.name}' takes images of shape (B, {', '.join(map(str, expected))}), but got "
                f"{tuple(images.shape)}: crop or resample them, or build the network for their size"
            )
        if self.at_once and images.device.type == "cpu" and not torch.compiler.is_compiling():
            return torch.cat([self._logits(piece) for piece in images.split(self.at_once)])
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return what the last layer gets: invariant features `(B, F)`, means over the image."""
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        return self.invariant(maps).mean((2, 3))


def conv_network(
    layers,
    image_size: int,
    n_classes: int,
    in_channels: int,
    channels: Sequence[int],
    depth: int = 1,
    kernel_sizes: Sequence[int] = (5, 5, 3, 3, 3),
    pool_after: Sequence[int] = (1, 2, 3),
    pooling: str = "average",
) -> Network:
    """Convolution, batch norm, nonlinearity, `depth` times for each of `channels`; pooled after the entries numbered in
    `pool_after`."""
    parts, size, inputs, number = OrderedDict(), image_size, layers.image(in_channels), 0
    for step, (count, kernel_size) in enumerate(zip(channels, kernel_sizes, strict=True), start=1):
        for _ in range(depth):
            number += 1
            outputs = layers.fields(count)
            parts[f"conv{number}"] = layers.conv(inputs, outputs, kernel_size)
            parts[f"norm{number}"] = layers.norm(outputs)
            parts[f"relu{number}"], inputs = layers.activation(outputs)
        if step in pool_after:
            parts[f"pool{number}"] = POOLINGS[pooling](size)
            size = parts[f"pool{number}"].size
            layers, inputs = layers.after_pooling(inputs, list(pool_after).index(step) + 1)
    return Network(Steps(parts), layers, inputs, n_classes)


class ResidualBlock(nn.Module):
    """The basic block of He et al. (2016): two 3x3 convolutions and a shortcut."""

    def __init__(self, layers, inputs, outputs, **stride):
        super().__init__()
        self.conv1, self.norm1 = layers.conv(inputs, outputs, 3, **stride), layers.norm(outputs)
        self.conv2, self.norm2 = layers.conv(outputs, outputs, 3), layers.norm(outputs)
        self.shortcut = nn.Identity()
        if stride or inputs != outputs:
            self.shortcut = nn.Sequential(layers.conv(inputs, outputs, 1, **stride), layers.norm(outputs))

    def forward(self, features: Tensor) -> Tensor:
        change = self.conv1(features)
        if isinstance(self.norm1, FieldBatchNorm):
            change = self.norm1(change, relu=True)
        else:
            change = torch.relu_(self.norm1(change))
        change = self.norm2(self.conv2(change))
        return torch.relu_(change + self.shortcut(features))


class BottleneckBlock(nn.Module):
    """The block of the deeper ResNets of He et al. (2016): 1x1, 3x3 and 1x1, with a quarter of the channels between.
    The stride is in the 3x3 convolution, as in torchvision."""

    def __init__(self, layers, inputs, outputs, **stride):
        super().__init__()
        self.conv1, self.norm1 = layers.conv(inputs, outputs // 4, 1), layers.norm(outputs // 4)
        self.conv2, self.norm2 = layers.conv(outputs // 4, outputs // 4, 3, **stride), layers.norm(outputs // 4)
        self.conv3, self.norm3 = layers.conv(outputs // 4, outputs, 1), layers.norm(outputs)
        self.shortcut = nn.Identity()
        if stride or inputs != outputs:
            self.shortcut = nn.Sequential(layers.conv(inputs, outputs, 1, **stride), layers.norm(outputs))

    def forward(self, features: Tensor) -> Tensor:
        change = torch.relu_(self.norm1(self.conv1(features)))
        change = torch.relu_(self.norm2(self.conv2(change)))
        return torch.relu_(self.norm3(self.conv3(change)) + self.shortcut(features))


def resnet(
    layers,
    image_size: int,
    n_classes: int,
    in_channels: int,
    channels: Sequence[int],
    depth: int = 1,
    blocks: Sequence[int] = (2, 2, 2),
    kernel_size: int = 5,
    pooling: str = "average",
) -> Network:
    """A ResNet that pools symmetrically where others take strides: a stem, then `blocks[i] * depth` residual blocks of
    `channels[i]` channels, each stage on half the pixels of the one before."""
    stem = layers.fields(channels[0])
    parts = OrderedDict(conv=layers.conv(layers.image(in_channels), stem, kernel_size), norm=layers.norm(stem))
    parts["relu"], inputs = layers.activation(stem)
    size = image_size
    for stage, (count, number) in enumerate(zip(channels, blocks, strict=True), start=1):
        parts[f"pool{stage}"] = POOLINGS[pooling](size)
        size = parts[f"pool{stage}"].size
        for block in range(1, number * depth + 1):
            outputs = layers.fields(count)
            parts[f"block{stage}-{block}"] = ResidualBlock(layers, inputs, outputs)
            inputs = outputs
    return Network(Steps(parts), layers, inputs, n_classes)


def strided_resnet(
    layers,
    image_size: int,
    n_classes: int,
    in_channels: int,
    channels: Sequence[int],
    depth: int = 1,
    blocks: Sequence[int] = (2, 2, 2, 2),
    bottleneck: bool = False,
    small_images: bool = False,
) -> Network:
    """ResNet-18, -34 or, of bottlenecks, -50, as torchvision has them and DeepLense uses them, for any number of image
    channels. Its stem leaves a quarter of the pixels a side; that for `small_images` leaves all, as He et al. (2016,
    section 4.2) have it for the 32 pixels of CIFAR-10."""
    stem = layers.conv(in_channels, channels[0], *((3,) if small_images else (7, 2)))
    parts = OrderedDict(conv=stem, norm=layers.norm(channels[0]), relu=nn.ReLU(inplace=True))
    parts |= {} if small_images else {"pool": nn.MaxPool2d(3, 2, 1)}
    inputs = channels[0]
    for stage, (count, number) in enumerate(zip(channels, blocks, strict=True), start=1):
        for block in range(1, number * depth + 1):
            stride = {"stride": 2} if stage > 1 and block == 1 else {}
            made, outputs = (BottleneckBlock, 4 * count) if bottleneck else (ResidualBlock, count)
            parts[f"block{stage}-{block}"] = made(layers, inputs, outputs, **stride)
            inputs = outputs
    return Network(Steps(parts), layers, inputs, n_classes)
