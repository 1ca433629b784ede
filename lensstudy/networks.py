"""Networks that differ in their symmetry and in nothing else, from one registry: `build_network(name, ...)`.

An architecture (a plain stack of convolutions, a ResNet) is written once; a set of layers then decides which symmetry
it has: plain layers give none, regular fields of C_N or D_N make every feature turn with the image. The head is
invariant for all: pooling over the group, the mean over the image, one linear layer. Total channels are the same
whatever the group, so the networks of one architecture cost the same.
"""

from __future__ import annotations

import difflib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensstudy.layers import FieldBatchNorm, GroupPool, SteerableConv, SymmetricPool
from lensstudy.symmetry import SymmetryError, e2cnn, exact_sizes, gspace

__all__ = ["Network", "build_network", "count_parameters", "describe", "load_weights", "network_names", "save_weights"]

CHANNELS_MULTIPLE = 16  # divisible by the order of every group up to D8, so all can have the same channels


class Network(nn.Module):
    """A classifier of `(B, in_channels, image_size, image_size)` float32 images; returns logits `(B, n_classes)`.

    `name` is the registry's, `group` the symmetry the logits are invariant under ('' for none).
    """

    def __init__(self, body: nn.Module, invariant: nn.Module, n_features: int, n_classes: int):
        super().__init__()
        self.body, self.invariant = body, invariant
        self.classifier = nn.Linear(n_features, n_classes)
        self.name, self.group, self.image_size, self.in_channels, self.n_classes = "", "", 0, 1, n_classes

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.in_channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"network '{self.name}' takes images of shape (B, {', '.join(map(str, expected))}), but got "
                f"{tuple(images.shape)}: crop or resample them, or build the network for their size"
            )
        features = self.body(images.contiguous(memory_format=torch.channels_last))
        return self.classifier(self.invariant(features).mean((2, 3)))


class PlainLayers:
    """Layers without symmetry. Fields are numbers of channels."""

    group = ""

    def image(self, channels: int) -> int:
        return channels

    def fields(self, channels: int) -> int:
        return channels

    def conv(self, inputs: int, outputs: int, kernel_size: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=False)

    def norm(self, fields: int) -> nn.Module:
        return nn.BatchNorm2d(fields)

    def invariant(self, fields: int) -> tuple[nn.Module, int]:
        return nn.Identity(), fields


class RegularLayers:
    """Layers of regular fields of C_N or D_N: each field is |G| channels, one for each element of the group."""

    def __init__(self, group: str):
        self.group, self.space = group, gspace(group)
        self.order = self.space.regular_repr.size

    def image(self, channels: int):
        return e2cnn.nn.FieldType(self.space, [self.space.trivial_repr] * channels)

    def fields(self, channels: int):
        return e2cnn.nn.FieldType(self.space, [self.space.regular_repr] * (channels // self.order))

    def conv(self, inputs, outputs, kernel_size: int) -> nn.Module:
        return SteerableConv(inputs, outputs, kernel_size)

    def norm(self, fields) -> nn.Module:
        return FieldBatchNorm(fields.size, self.order)

    def invariant(self, fields) -> tuple[nn.Module, int]:
        return GroupPool(self.order), fields.size // self.order


# Architectures --------------------------------------------------------------------------------------------------------


def _scaled(channels: Sequence[int], width: float) -> list[int]:
    """`channels` times `width`, rounded to what every group divides."""
    return [max(1, round(count * width / CHANNELS_MULTIPLE)) * CHANNELS_MULTIPLE for count in channels]


def _conv_network(
    layers,
    image_size: int,
    n_classes: int,
    in_channels: int,
    width: float,
    channels: Sequence[int] = (32, 64, 128, 192, 192),
    kernel_sizes: Sequence[int] = (5, 5, 3, 3, 3),
    pool_after: Sequence[int] = (1, 2, 3),
) -> Network:
    """Convolution, batch norm, ReLU; pooled after the convolutions numbered in `pool_after`."""
    parts, size, inputs = OrderedDict(), image_size, layers.image(in_channels)
    for number, (count, kernel_size) in enumerate(zip(_scaled(channels, width), kernel_sizes, strict=True), start=1):
        outputs = layers.fields(count)
        parts[f"conv{number}"] = layers.conv(inputs, outputs, kernel_size)
        parts[f"norm{number}"] = layers.norm(outputs)
        parts[f"relu{number}"] = nn.ReLU(inplace=True)
        if number in pool_after:
            parts[f"pool{number}"] = SymmetricPool(size)
            size = parts[f"pool{number}"].size
        inputs = outputs
    return Network(nn.Sequential(parts), *layers.invariant(inputs), n_classes)


class ResidualBlock(nn.Module):
    """The basic block of He et al. (2016): two 3x3 convolutions and a shortcut, strided if `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        change = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(features)))))
        return torch.relu(change + self.shortcut(features))


def _resnet(
    image_size: int, n_classes: int, in_channels: int, width: float, blocks: Sequence[int] = (2, 2, 2, 2)
) -> Network:
    """ResNet-18 or -34 (He et al. 2016), as DeepLense uses it, for images of any number of channels."""
    first, *_ = channels = _scaled((64, 128, 256, 512), width)
    parts = [
        nn.Conv2d(in_channels, first, 7, 2, 3, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    inputs = first
    for stage, (outputs, count) in enumerate(zip(channels, blocks, strict=True)):
        for block in range(count):
            parts.append(ResidualBlock(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return Network(nn.Sequential(*parts), nn.Identity(), inputs, n_classes)


# The registry: name -> (function of size, classes, channels in, width, and options; group; halvings that must be exact)
_REGISTRY = {
    "resnet18": (_resnet, "", 0),
    "plain-cnn": (lambda *args, **options: _conv_network(PlainLayers(), *args, **options), "", 3),
}
for _group in ("C4", "C8", "D4", "D8"):
    _build = partial(lambda group, *args, **options: _conv_network(RegularLayers(group), *args, **options), _group)
    _REGISTRY[f"{_group.lower()}-steerable-cnn"] = (_build, _group, 3)


def network_names() -> list[str]:
    """Every name that `build_network` knows."""
    return sorted(_REGISTRY)


def build_network(
    name: str, image_size: int, n_classes: int, *, in_channels: int = 1, width: float = 1.0, seed: int = 0, **options
) -> Network:
    """The network called `name` for square images of `image_size` pixels, with random weights drawn from `seed`.

    `width` multiplies its channels; `options` are those of its architecture (`channels`, `kernel_sizes`, ...). Raises
    `ValueError` for an unknown name and `SymmetryError` for an image size whose pooling would break the symmetry,
    naming the nearest sizes that keep it.
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1, cutoff=0.4)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"network '{name}' is unknown.{hint} Known networks: {', '.join(network_names())}.")
    build, group, levels = _REGISTRY[name]
    smaller, larger = exact_sizes(image_size, levels)
    if smaller != image_size or image_size < 2**levels:
        raise SymmetryError(
            f"network '{name}' halves its maps {levels} times, which breaks the symmetry at {image_size} pixels; "
            f"the nearest sizes that keep it are {smaller} and {larger}: crop with centre_crop(images, "
            "working_size(image_size))"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(image_size, n_classes, in_channels, width, **options)
    network.name, network.group, network.image_size, network.in_channels = name, group, image_size, in_channels
    return network.to(memory_format=torch.channels_last)


# What a network is, and its weights -----------------------------------------------------------------------------------


def count_parameters(network: nn.Module) -> int:
    """Number of learned weights."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def describe(network: Network) -> list[dict]:
    """One row a layer: `layer`, `type`, `fields`, `channels`, `size` (pixels of its output) and `parameters`."""
    rows, hooks = [], []

    def note(name, layer, _inputs, output):
        channels, *size = output.shape[1:]
        kept = rows and rows[-1]["channels"] == channels and not isinstance(layer, nn.Conv2d)  # norm, ReLU and pooling
        fields = getattr(layer, "fields", rows[-1]["fields"] if kept else f"{channels} scalars")
        row = {"layer": name, "type": type(layer).__name__, "fields": fields, "channels": channels}
        rows.append(row | {"size": size[0] if size else 1, "parameters": count_parameters(layer)})

    for name, layer in network.named_modules():
        if not list(layer.children()):
            hooks.append(layer.register_forward_hook(partial(note, name)))
    training = network.training
    network.eval()
    network(next(network.parameters()).new_zeros(1, network.in_channels, network.image_size, network.image_size))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return rows


def save_weights(network: Network, path: str | Path) -> Path:
    """Write the learned weights (and batch norm's averages) as safetensors: small, and opening it runs nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {key: getattr(network, key) for key in ("name", "group", "image_size", "in_channels", "n_classes")}
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    partial_file = path.with_name(path.name + ".partial")
    save_file(weights, partial_file, metadata={"network": json.dumps(about)})
    partial_file.replace(path)
    return path


def load_weights(network: Network, path: str | Path) -> Network:
    """Fill `network` with the weights at `path`, whatever mode it or the saved one was in. Returns `network`.

    Raises `ValueError` if the file is no safetensors file or belongs to another network.
    """
    try:
        weights = load_file(path)
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("network", "{}"))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a file of weights that save_weights wrote ({error})") from error
    own = {key: value.shape for key, value in network.state_dict().items()}
    if own != {key: value.shape for key, value in weights.items()}:
        raise ValueError(
            f"{path}: holds the weights of {about or 'another network'}, which do not fit this '{network.name}' for "
            f"{network.image_size} pixels and {network.n_classes} classes; build the network with the same options"
        )
    network.load_state_dict(weights)
    return network
