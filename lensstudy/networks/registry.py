"""Networks that differ in their symmetry and in nothing else, from one registry: `build_network(name, ...)`.

An architecture (a stack of convolutions, a ResNet) is written once; a set of layers then decides which symmetry it
has. Plain layers give none; regular fields of C_N or D_N, and irreducible fields of SO(2) or O(2), let every feature
rotate with the image. Total channels are the same whatever the group, so the networks of one architecture cost the
same, and `plain_baseline` names the plain network to compare each one with, at equal channels or at equal parameters.
`register` adds networks of one's own.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lensstudy.files import regular, whole_file
from lensstudy.networks import names
from lensstudy.networks.architectures import Classifier, Network, conv_network, resnet, strided_resnet
from lensstudy.networks.description import count_parameters
from lensstudy.networks.groups import SymmetryError
from lensstudy.networks.layers import (
    POOLINGS,
    ClassicLayers,
    IrrepLayers,
    MeanLayers,
    PlainLayers,
    RegularLayers,
    RestrictedLayers,
)
from lensstudy.provenance import plugin_files

__all__ = [
    "as_network",
    "build_network",
    "check_name",
    "load_plugins",
    "load_weights",
    "logits_and_features",
    "network_names",
    "plain_baseline",
    "recalibrate_batch_norm",
    "register",
    "read_weights",
    "save_weights",
    "source_hash",
]

CHANNELS_MULTIPLE = 16  # divisible by the order of every group up to D8, so all can have the same channels


def as_network(network: nn.Module, name: str, image_size: int, in_channels: int) -> Classifier:
    """Give a network from elsewhere what one of lensstudy has beside `forward`: a method `features`, its name, its
    group ('' unless it says one) and the images it takes. One whose layers are called `features` is wrapped."""
    own = getattr(network, "features", None)
    completed = _Wrapped(network) if isinstance(own, nn.Module) else cast(Classifier, network)
    if not callable(own):
        completed.features = partial(_last_inputs, network)
    completed.group = getattr(completed, "group", "")
    completed.name, completed.image_size, completed.in_channels = name, image_size, in_channels
    return completed


class _Wrapped(Classifier):
    """A network with a part called `features`, as torchvision has them, behind the methods of one of lensstudy."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        return _last_inputs(self.network, images)


def _last_inputs(network: nn.Module, images: Tensor) -> Tensor:
    return logits_and_features(network, images)[1]


def logits_and_features(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of any network, and what its last linear layer gets `(B, F)`, in one pass; the logits twice where no
    layer is linear."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        logits = network(images)
        return logits, logits
    caught: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        logits = network(images)
    finally:
        hook.remove()
    return logits, caught[-1]


# The registry ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """How a network is made: an architecture, the layers that give it its symmetry, the name of its plain baseline
    ('' for a plain network), and options that differ from the architecture's own."""

    architecture: Callable[..., Network]
    channels: tuple[int, ...]
    layers: Callable = PlainLayers
    plain: str = ""
    options: dict = field(default_factory=dict)


_STACK = (32, 64, 128, 192, 192)
_CLASSIC = {"kernel_sizes": (3,) * 6, "pool_after": (2, 4, 6)}
_PLAIN = {
    "resnet18": Configuration(strided_resnet, (64, 128, 256, 512)),
    "resnet18-small-images": Configuration(strided_resnet, (64, 128, 256, 512), options={"small_images": True}),
    "resnet34": Configuration(strided_resnet, (64, 128, 256, 512), options={"blocks": (3, 4, 6, 3)}),
    "plain-cnn": Configuration(conv_network, _STACK),
    "plain-antialiased-cnn": Configuration(conv_network, _STACK, options={"pooling": "antialiased"}),
    "plain-resnet": Configuration(resnet, (32, 64, 128)),
    "plain-wide-resnet": Configuration(resnet, (64, 128, 256)),
    "plain-classic-cnn": Configuration(conv_network, (32, 32, 64, 64, 128, 128), options=_CLASSIC),
}
_IRREDUCIBLE = {
    "so2-harmonic": Configuration(conv_network, _STACK, partial(IrrepLayers, "SO2", gated=False), "plain-cnn"),
    "o2-gated": Configuration(conv_network, _STACK, partial(IrrepLayers, "O2", gated=True), "plain-cnn"),
}
_REGISTERED: dict[str, Callable[..., nn.Module]] = {}  # by name, what `register` was given
NAME = r"[a-z0-9][a-z0-9-]*"  # of a network: it becomes the name of folders and pages


def register(name: str) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Make a network of one's own known by a name, as a decorator of the function that builds it.

    The function takes `(image_size, n_classes, in_channels=1, width=1.0, **options)` and returns a module that maps
    images `(B, in_channels, image_size, image_size)` to logits `(B, n_classes)`. A study names the
    module that holds it: `plugins: [my_networks]`.

    Args:
        name: what `build_network` and a study's `networks` call it. Registering it again replaces it.

    Returns:
        The decorator, which leaves the function as it is.

    Raises:
        ValueError: the name is that of a network of lensstudy.

    Example:
        >>> @register("linear")
        ... def linear(image_size, n_classes, in_channels=1, width=1.0):
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, n_classes))
        >>> build_network("linear", 8, 3)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    if not re.fullmatch(NAME, name):
        raise ValueError(f"network '{name}': expected small letters, digits and '-', such as my-network")
    if _is_ours(name):
        raise ValueError(f"network '{name}' is one of lensstudy's own, or ends as their baselines do; use another name")

    def remember(builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        _REGISTERED[name] = builder
        return builder

    return remember


def _is_ours(name: str) -> bool:
    try:
        names.check_name(name)
    except ValueError:
        return any(name.endswith(ending) for ending in names.BASELINES)
    return True


def load_plugins(modules: Sequence[str]) -> None:
    """Import the `modules` of a study that register networks, or packages of them, from the working folder or from
    what is installed.

    Raises `ValueError` for a module that cannot be imported, or that registers nothing.
    """
    for module in modules:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever is wrong in a module of somebody's own
            file = f"{module.replace('.', '/')}.py"
            raise ValueError(
                f"plugins: the module '{module}' cannot be imported ({type(error).__name__}: {error}); expected {file} "
                f"in {os.getcwd()}, or an installed module"
            ) from error
        finally:
            sys.path.remove(os.getcwd())
        if not any(_brings(module, builder) for builder in _REGISTERED.values()):
            raise ValueError(
                f"plugins: the module '{module}' registers no network; put @register(\"my-network\") of lensstudy "
                "before the function that builds it"
            )


def _brings(module: str, builder: Callable) -> bool:
    """Whether importing `module` registers `builder`, which stands there, in its package, or is imported there."""
    inside = f"{builder.__module__}.".startswith(f"{module}.")
    return inside or any(one is builder for one in vars(sys.modules[module]).values())


def source_hash(name: str) -> str:
    """SHA-256 of the code behind a registered network: of its module and what that imports from beside it, or of its
    function in a notebook; '' for lensstudy's own."""
    if name not in _REGISTERED:
        return ""
    builder = _REGISTERED[name]
    file = Path(inspect.getsourcefile(builder) or "")
    if files := plugin_files(builder.__module__) or [file] * file.is_file():
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    try:
        source = inspect.getsource(builder)
    except OSError:
        raise ValueError(
            f"network '{name}': the source of the function that builds it cannot be found, so a training could not say "
            "what it trained; write it into a module and name that in `plugins`"
        ) from None
    return hashlib.sha256(source.encode()).hexdigest()


def network_names() -> list[str]:
    """List the names that `build_network` knows.

    Further ones follow the same pattern: any group C_N or D_N in front (`c16-resnet`).

    Returns:
        The names, sorted.

    Example:
        >>> "d4-steerable-cnn" in network_names()
        True
    """
    return sorted([*names.NETWORKS, *_REGISTERED])


def _configuration(name: str) -> Configuration:
    check_name(name)
    if name in _REGISTERED or name.endswith(tuple(names.BASELINES)):
        raise ValueError(f"network '{name}' has no plain baseline of its own")
    if name in _PLAIN | _IRREDUCIBLE:
        return (_PLAIN | _IRREDUCIBLE)[name]
    if name in ("p4-cnn", "p4m-cnn"):
        layers, plain = partial(ClassicLayers, "C4" if name == "p4-cnn" else "D4"), "plain-classic-cnn"
    else:
        group, _, kind = name.partition("-")
        regular = {"restricted": RestrictedLayers, "mean-cnn": MeanLayers}.get(kind, RegularLayers)
        layers, plain = partial(regular, group.upper()), names.REGULAR.get(kind, "plain-cnn")
    return replace(_PLAIN[plain], layers=layers, plain=plain)


def check_name(name: str) -> None:
    """Raise `ValueError`, with the nearest and all known names, if no network is called `name`."""
    names.check_name(name, _REGISTERED)


def build_network(
    name: str, image_size: int, n_classes: int, *, in_channels: int = 1, width: float = 1.0, seed: int = 0, **options
) -> Classifier:
    """Build a network for square images, with random weights drawn from `seed`.

    Args:
        name: one of `network_names()`, such as `d4-steerable-cnn`, or its matched plain baseline.
        image_size: pixels a side of the images.
        n_classes: number of logits.
        in_channels: bands of an image.
        width: multiplies the channels, rounded to multiples of 16, which every group up to D8 divides.
        seed: seed of the weights.
        **options: those of the architecture: `channels`, taken as they are; `depth`, which repeats each convolution or
            block; `kernel_sizes`, `pool_after`, `blocks`, `pooling` (`average` or `antialiased`),
            `bottleneck` (`resnet34` with it is ResNet-50).

    Returns:
        A module that maps images `(B, in_channels, image_size, image_size)` to logits `(B, n_classes)`.

    Raises:
        ValueError: for an unknown name or option.
        SymmetryError: for a grid that would break the symmetry; the message names the nearest that keeps it.

    Example:
        >>> import torch
        >>> network = build_network("d4-steerable-cnn", 33, 3, width=0.25)
        >>> network(torch.zeros(2, 1, 33, 33)).shape
        torch.Size([2, 3])
    """
    if name in _REGISTERED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _REGISTERED[name](image_size, n_classes, in_channels=in_channels, width=width, **options)
        return as_network(network, name, image_size, in_channels)
    for ending, match in names.BASELINES.items():
        if name.endswith(ending):
            baseline = plain_baseline(
                name.removesuffix(ending), match, n_classes, in_channels=in_channels, width=width, **options
            )
            network = build_network(image_size=image_size, n_classes=n_classes, seed=seed, **baseline)
            network.name = name
            return network
    check_name(name)  # names the registered ones too
    configuration = _configuration(name)
    options = configuration.options | options
    channels = [max(1, round(c * width / CHANNELS_MULTIPLE)) * CHANNELS_MULTIPLE for c in configuration.channels]
    options.setdefault("channels", configuration.channels if width == 1 else channels)
    _check_options(name, configuration, options)
    _check_grid(name, image_size, options)
    layers = configuration.layers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = configuration.architecture(layers, image_size, n_classes, in_channels, **options)
    network.name, network.image_size, network.in_channels = name, image_size, in_channels
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types


def _check_options(name: str, configuration: Configuration, options: dict):
    own = dict(list(inspect.signature(configuration.architecture).parameters.items())[4:])
    if unknown := sorted(set(options) - set(own)):
        raise ValueError(f"network '{name}' has no option '{unknown[0]}'; its options are {', '.join(own)}")
    if (pooling := options.get("pooling", "average")) not in POOLINGS:
        raise ValueError(f"network '{name}': pooling is '{pooling}'; expected {' or '.join(POOLINGS)}")
    for key in {"kernel_sizes", "blocks"} & set(own):
        given, wanted = options.get(key, own[key].default), len(options["channels"])
        if len(given) != wanted:
            raise ValueError(f"network '{name}': {key} has {len(given)} entries, but {wanted} channels are given")


def _check_grid(name: str, image_size: int, options: dict):
    """Poolings fit themselves to even and odd maps, so two things can break the symmetry: too few pixels, and a kernel
    without a centre pixel."""
    halvings = 3 if "pool_after" not in options else len(options["pool_after"])
    if image_size < 2**halvings:
        raise SymmetryError(
            f"network '{name}' halves its maps {halvings} times, for which {image_size} pixels are too few; the "
            f"nearest size that works is {2**halvings}"
        )
    for kernel_size in [*options.get("kernel_sizes", ()), options.get("kernel_size", 5)]:
        if kernel_size % 2 == 0:
            raise SymmetryError(
                f"network '{name}': a kernel of {kernel_size} pixels has no centre, so the convolution would move the "
                f"image by half a pixel and break the symmetry; use {kernel_size - 1} or {kernel_size + 1}"
            )


def plain_baseline(name: str, match: str = "channels", n_classes: int = 3, **options) -> dict:
    """Give the arguments for `build_network` that make the matched plain baseline of the network `name`: the same
    architecture without symmetry, at equal `channels` (so at equal cost) or at an equal number of `parameters` (so at a
    fraction of the cost). `options` are those of `build_network`.
    """
    check_name(f"{name}-matched")
    if match not in ("channels", "parameters"):
        raise ValueError(f"match is '{match}'; expected 'channels' or 'parameters'")
    configuration, build = _configuration(name), partial(build_network, image_size=32, n_classes=n_classes)
    if match == "channels":
        return {"name": configuration.plain} | options
    target = count_parameters(build(name, **options))
    options = {key: value for key, value in options.items() if key not in ("width", "channels")}

    def with_scale(scale: float) -> dict:
        channels = [max(1, round(count * scale)) for count in configuration.channels]
        return {"name": configuration.plain, "channels": channels} | options

    low, high = 0.0, 4.0
    for _ in range(12):  # the number of parameters grows with the scale; halving the interval finds it to 0.1 %
        middle = (low + high) / 2
        low, high = (middle, high) if count_parameters(build(**with_scale(middle))) < target else (low, middle)
    return min((with_scale(low), with_scale(high)), key=lambda choice: abs(count_parameters(build(**choice)) - target))


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, images: Tensor, momentum: float = 1.0) -> nn.Module:
    """Give batch norm the averages over `images`, which training would: an untrained network whose maps are not
    normalised fades out layer by layer, and its logits say nothing. With a `momentum` below one the averages that it
    had keep the rest. Returns `network`."""
    training = network.training
    momenta: dict[Any, Any] = {layer: layer.momentum for layer in network.modules() if hasattr(layer, "momentum")}
    for layer in momenta:
        layer.momentum = momentum
    network.train()(images)
    for layer, own in momenta.items():
        layer.momentum = own
    return network.train(training)


# Weights --------------------------------------------------------------------------------------------------------------


def save_weights(network: nn.Module, path: str | Path) -> Path:
    """Write the learned weights (and batch norm's averages) as safetensors: small, and opening it runs nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {key: getattr(network, key, "") for key in ("name", "group", "image_size", "in_channels", "n_classes")}
    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    said = json.dumps(about | {"hash": _hash_of(weights)})  # one entry: safetensors writes several in any order
    with whole_file(path) as partial_file:
        save_file(weights, partial_file, metadata={"network": said})
    return path


def _hash_of(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights by name that `save_weights` wrote, and what it said of their network. Raises `ValueError` for a file
    that is damaged or none of its."""
    try:
        weights = load_file(regular(path))
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
        about = json.loads(said.get("network", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a file of weights that save_weights wrote ({error})") from error
    if about.get("hash", _hash_of(weights)) != _hash_of(weights):
        raise ValueError(f"{path}: is damaged, these are not the weights that were written; train the network again")
    return weights, about


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill `network` with the weights at `path`, whatever mode it or the saved one was in. Returns `network`.

    Raises `ValueError` if the file is damaged, is no safetensors file or belongs to another network.
    """
    weights, about = read_weights(path)
    own = {key: value.shape for key, value in network.state_dict().items()}
    if own != {key: value.shape for key, value in weights.items()}:
        raise ValueError(
            f"{path}: holds the weights of {about or 'another network'}, which do not fit this "
            f"'{getattr(network, 'name', type(network).__name__)}'; build the network with the same options, number of "
            "pixels and classes"
        )
    network.load_state_dict(weights)
    return network
