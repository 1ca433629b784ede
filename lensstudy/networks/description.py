"""What a network is made of and what it costs: layers, parameters, multiplications, memory; its maps and filters."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lensstudy.networks.architectures import Classifier, Network
from lensstudy.networks.batchnorm import release_scratch
from lensstudy.networks.folding import folded
from lensstudy.networks.layers import SteerableConv

__all__ = ["count_parameters", "describe", "feature_maps", "multiply_accumulates", "peak_memory", "rotated_filters"]


def count_parameters(network: nn.Module) -> int:
    """Number of learned weights."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_accumulates(network: Classifier) -> int:
    """Multiplications of one image's pass through convolutions and the classifier."""
    return sum(row["multiply_accumulates"] for row in describe(network))


def peak_memory(step: Callable[[], object]) -> int:
    """The most bytes that tensors on the processor take at one time during `step()`, beyond those there before."""
    release_scratch()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler announces itself otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate((event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())), initial=0))


def describe(network: Classifier) -> list[dict]:
    """List the layers of a network in order of use.

    Args:
        network: a network of `build_network`.

    Returns:
        One row a layer: `layer`, `type`, `fields` (how its channels move when the image is rotated), `channels`, `size`
        (pixels a side of its output), `parameters`, `multiply_accumulates` (for one image).

    Example:
        >>> from lensstudy import build_network
        >>> rows = describe(build_network("d4-steerable-cnn", 33, 3, width=0.25))
        >>> rows[0]["layer"], rows[0]["channels"]
        ('body.conv1', 16)
    """
    rows, known, multiplications = [], {}, _multiplications(network)

    def note(name, layer, inputs, output):
        channels, *size = output.shape[1:]
        kept = known.get(inputs[0].shape[1], "") if inputs[0].shape[1] == channels else ""  # norm, ReLU and pooling
        fields = getattr(layer, "fields", "" if isinstance(layer, nn.Conv2d) else kept) or f"{channels} scalars"
        known[channels] = fields
        rows.append(
            {
                "layer": name,
                "type": type(layer).__name__,
                "fields": fields,
                "channels": channels,
                "size": size[0] if size else 1,
                "parameters": count_parameters(layer),
                "multiply_accumulates": multiplications.get(name, 0),
            }
        )

    _watch(network, note, _blank(network))
    return rows


def _blank(network: Classifier) -> Tensor:
    return next(network.parameters()).new_zeros(1, network.in_channels, network.image_size, network.image_size)


@torch.no_grad()
def _multiplications(network: Classifier) -> dict[str, int]:
    """Multiply-accumulates of one image by layer, as torch counts them in the folded network: what expands a steerable
    filter belongs to training and not to an image."""
    with FlopCounterMode(display=False) as counter:
        folded(network)(_blank(network))
    counts = {name.partition(".")[2]: sum(found.values()) // 2 for name, found in counter.get_flop_counts().items()}
    return {name: count for name, count in counts.items() if name}


def feature_maps(network: Network, images: Tensor) -> dict[str, Tensor]:
    """The output `(B, C, H, W)` of each step of the network's body, by name, in evaluation mode."""
    maps = {}
    steps = {id(layer): name for name, layer in network.body.named_children()}

    def note(_name, layer, _inputs, output):
        if id(layer) in steps:
            maps[steps[id(layer)]] = output.clone()  # the next ReLU may work in place

    _watch(network, note, images, every=True)
    return maps


@torch.no_grad()
def _watch(network: Classifier, note: Callable, images: Tensor, every: bool = False):
    """One pass in evaluation mode; calls `note(name, layer, inputs, output)` for each innermost (or every) layer."""
    hooks = [
        layer.register_forward_hook(partial(note, name))
        for name, layer in network.named_modules()
        if every or not list(layer.children())
    ]
    training = network.training
    network.eval()
    try:
        network(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def rotated_filters(conv: SteerableConv, field: int = 0, channel: int = 0) -> Tensor:
    """One learned filter and its copies under the group, `(|G|, k, k)`: those of output field `field` of a steerable
    convolution to regular fields, acting on input channel `channel`."""
    order = conv.out_channels // int(conv.fields.split()[0])
    return conv.filter()[field * order : (field + 1) * order, channel]
