"""How other DeepLense code expects networks and data, and how to convert between its conventions and this study's.

Three conventions exist: a raw `state_dict` whose network takes `(B, 1, H, W)` and returns three logits in one of two
orders of classes; a folder `Model_X/{train,test}/<class>`; and an encoder and a classifier apart, as in the package
deeplense-domain-adaptation. The order of classes is matched by name in each, never by position.
"""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lensstudy.data.dataset import DataError, LensDataset, canonical_class
from lensstudy.data.preprocess import Preprocess

if TYPE_CHECKING:
    from lensstudy.networks.architectures import Network

__all__ = [
    "CROPS",
    "ORDERS",
    "DeepLenseNetwork",
    "load_resnet",
    "order_of",
    "split_for_adaptation",
    "write_model_folder",
]

ORDERS = {  # the classes as other code counts them: alphabetically, in its own names
    "models": ("axion", "cdm", "no_sub"),
    "common-test": ("no", "sphere", "vort"),
    "official": ("no_sub", "sub"),
}
CROPS = {"model_1": 100, "model_2": 50, "model_3": 50}  # central pixels that the published pipelines cut out


def order_of(classes: Sequence[str], wanted: str | Sequence[str]) -> list[int]:
    """For each class in the order `wanted` (a name of `ORDERS`, or class names in anybody's spelling) its place in
    `classes`. Raises `DataError` unless both name the same classes."""
    have, want = [canonical_class(name) for name in classes], list(_classes(wanted))
    if sorted(have) != sorted(want):
        names = ORDERS[wanted] if isinstance(wanted, str) else wanted
        raise DataError(f"the network tells {', '.join(classes)} apart, which are not the classes {', '.join(names)}")
    return [have.index(name) for name in want]


class DeepLenseNetwork(nn.Module):
    """A trained network as DeepLense's pipelines use one: float32 images `(B, 1, H, W)` that they have cropped and
    scaled from 0 to 1, in; logits in their order of classes, out. `state_dict()` holds everything.

    That each image was scaled from 0 to 1 only does no harm to a network that scales each image so itself. Raises
    `DataError` for any other: its brightness has a meaning that such images have lost.
    """

    def __init__(self, trained, order: str | Sequence[str] = "models"):
        from lensstudy.networks.folding import folded

        super().__init__()
        if trained.preprocess.scaling != "min-max":
            raise DataError(
                f"the network was trained on images scaled by '{trained.preprocess.scaling}', and DeepLense's "
                "pipelines scale each image from 0 to 1; train with `scaling: min-max`, or use lensstudy.Predictor"
            )
        self.network, self.preprocess = folded(trained.network), trained.preprocess
        self.register_buffer("order", torch.tensor(order_of(trained.classes, order)))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images))[:, self.order]


# The checkpoint of a ResNet -------------------------------------------------------------------------------------------

_STEM = {"body.conv": "conv1", "body.norm": "bn1", "classifier": "fc"}
# How each network is built, and which it is by its numbers of basic blocks or of bottlenecks.
_NETWORKS: dict[str, dict] = {"resnet18": {}, "resnet34": {}, "resnet50": {"name": "resnet34", "bottleneck": True}}
_DEPTHS: dict[tuple[int, ...], tuple[str, str]] = {
    (2, 2, 2, 2): ("resnet18", ""),
    (3, 4, 6, 3): ("resnet34", "resnet50"),
}
# Weights as torchvision names them, or as places in `nn.Sequential(*resnet.children())`, behind any prefix.
_LAYER = re.compile(
    r"(?P<prefix>(?:.+?\.)??)(?:(?P<stem>conv1|bn1|0|1)|(?:layer(?P<stage>[1-4])|(?P<place>[4-7]))\.(?P<block>\d+)\."
    r"(?P<part>(?:conv|bn)[1-3]|downsample\.[01]))\.(?P<weight>weight|bias|running_mean|running_var)"
)
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What training keeps beside a network: losses with their weights, states of metrics, counters of averages.
_OF_TRAINING = re.compile(
    r"criterion|loss|metric|accuracy|auroc|precision|recall|specificity|confmat|confusion|num_batches_tracked"
    r"|(^|[._])(acc|auc|roc|f1|ap|kappa|tp|fp|tn|fn|n_averaged|pos_weight|class_weights?)([._\d]|$)",
    re.IGNORECASE,
)
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
_ELSE = "a network of another design comes to lensstudy with its code, by `register`"
_WAY_OUT = "ask its author for the weights alone, torch.save(model.state_dict(), ...)"


def load_resnet(file: str | Path, image_size: int, order: str | Sequence[str] = "models"):
    """Load the ResNet of a checkpoint that other code wrote.

    The file is opened so that nothing in it can run. It holds the weights of a ResNet-18, -34 or -50 under the names of
    torchvision, bare or under a key such as `state_dict` or `model`, behind any prefix that a wrapper adds (`module.`,
    `_orig_mod.`, `model.backbone.`); its last layer may stand in a head with dropout. Its shapes say which of the three
    it is and how many bands it takes. What training keeps beside a network (weights of a loss, states of metrics) is
    ignored, and a warning names it.

    Args:
        file: a `.pth`, `.pt` or `.ckpt` of `torch.save`, or a `.safetensors`.
        image_size: pixels a side of the images it is to take.
        order: what its logits stand for: a name of `ORDERS`, or the names of the classes. One logit is the log odds of
            the second of two classes.

    Returns:
        The network in evaluation mode, and its classes in the order of its logits, in this study's names.

    Raises:
        DataError: for a file that holds anything else, another network, or another number of classes.

    Example:
        >>> load_resnet("nowhere.pth", 64)
        Traceback (most recent call last):
        lensstudy.data.dataset.DataError: nowhere.pth: nothing exists at this path
    """
    from lensstudy.networks.registry import build_network

    path, classes = Path(file), _classes(order)
    content, notes = _state_dict(path, _open(path))
    weights, names = _resnet_weights(path, content, notes)
    head = names["fc.weight"]
    if len(weights["fc.weight"]) == 1 and len(classes) == 2:  # softmax(0, x) is the sigmoid of x
        weights |= {name: torch.cat([0 * value, value]) for name, value in weights.items() if name.startswith("fc.")}
        notes.append(f"its one logit ('{head}') is taken for the log odds of {classes[1]} against {classes[0]}")
    if len(weights["fc.weight"]) != len(classes):
        count = len(weights["fc.weight"])
        last = ", the one that a positive logit speaks for last" if count == 1 else ""
        raise DataError(
            f"{path}: has {count} logit{'s' * (count > 1)} ('{head}'), and order={order!r} names {len(classes)} "
            f"classes ({', '.join(classes)}); give order= the names of its {max(count, 2)} classes in the order of its "
            f"logits{last}"
        )
    kind = _kind(path, weights)
    options: dict[str, Any] = {"name": kind, "n_classes": len(classes), "in_channels": weights["conv1.weight"].shape[1]}
    made = build_network(image_size=image_size, **options | _NETWORKS[kind])
    made.name = kind
    expected = {_torchvision(name): name for name in made.state_dict() if "num_batches" not in name}
    for name, ours in expected.items():
        shape = tuple(made.state_dict()[ours].shape)
        found = tuple(weights[name].shape) if name in weights else "nothing"
        if found != shape:
            raise DataError(
                f"{path}: is not quite a {kind}: expected '{names.get(name, name)}' of shape {shape}, found {found}; "
                f"{_ELSE}"
            )
    if extra := sorted(set(weights) - set(expected)):
        raise _foreign(path, names[extra[0]])
    if broken := [name for name in expected if not weights[name].isfinite().all()]:
        raise DataError(f"{path}: '{names[broken[0]]}' has values that are NaN or infinite; use an earlier checkpoint")
    made.load_state_dict({ours: weights[name].float() for name, ours in expected.items()}, strict=False)
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}", stacklevel=2)
    return made.eval(), classes


def _classes(order: str | Sequence[str]) -> tuple[str, ...]:
    """The classes that `order` names, in this study's names."""
    if isinstance(order, str) and order not in ORDERS:
        raise DataError(f"order '{order}' is unknown; there are {', '.join(ORDERS)}, or give the names of the classes")
    classes = tuple(canonical_class(name) for name in (ORDERS[order] if isinstance(order, str) else order))
    if len(set(classes)) < len(classes):
        raise DataError(f"order {', '.join(order)} names one class twice; give each logit a class of its own")
    return classes


def _open(path: Path):
    """What a checkpoint holds, opened so that nothing in it can run. Numbers of numpy are let in: many pipelines keep
    their best score as one."""
    if not path.exists():
        raise DataError(f"{path}: nothing exists at this path")
    if not path.is_file():
        raise DataError(f"{path}: is no file; expected a checkpoint such as model.pth")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: cannot be read as safetensors ({error}); copy it again") from None
    numbers = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [
        np.dtype,
        *numbers,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
    ]  # the older numpy's name
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its rights, or copy it again") from None
    except Exception as error:  # torch raises whatever a damaged or hostile pickle makes it raise
        unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"'{unknown[1]}'" if unknown else type(error).__name__
        raise DataError(
            f"{path}: holds something else than weights, so it was not opened (found {found}): opening a whole "
            f"module, or an object of another kind, runs its code. Expected a state_dict; {_WAY_OUT}"
        ) from error


def _is_weights(value) -> bool:
    return isinstance(value, dict) and any(isinstance(one, Tensor) for one in value.values())


def _state_dict(path: Path, content) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by name among what a checkpoint holds, and what is to be said about it."""
    notes: list[str] = []
    for _ in range(3):
        inner = {key: one for key, one in content.items() if isinstance(one, dict)} if isinstance(content, dict) else {}
        if _is_weights(content) or not inner:
            break
        known = [key for key in [*_KEYS, *inner] if _is_weights(inner.get(key))] or [
            key for key in _KEYS if key in inner
        ]
        if not known:
            break
        others = [str(key) for key, one in inner.items() if key != known[0] and _is_weights(one)]
        notes += [f"the weights under '{known[0]}' are used, not those under {', '.join(others)}"] if others else []
        content = inner[known[0]]
    if not _is_weights(content):
        found = f"a dict with {', '.join(map(repr, list(content)[:5]))}" if isinstance(content, dict) else type(content)
        raise DataError(
            f"{path}: holds no state_dict, which gives each weight a name; found {getattr(found, '__name__', found)}, "
            f"expected weights, bare or under one of {', '.join(_KEYS)}; {_WAY_OUT}"
        )
    return {str(name): value for name, value in content.items()}, notes


def _resnet_weights(path: Path, content: dict, notes: list[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights by torchvision's names, and for each its name in the file. What else there is goes to `notes` where
    it belongs to training, and is an error where it might belong to the network."""
    parts: dict[str, dict[str, str]] = {}  # by prefix: torchvision's name of a weight to the file's
    for name in content:
        if match := _LAYER.fullmatch(_WRAPPERS.sub("", name)):
            stage = match["stage"] or (match["place"] and int(match["place"]) - 3)
            layer = f"layer{stage}.{int(match['block'])}.{match['part']}" if stage else match["stem"]
            plain = f"{({'0': 'conv1', '1': 'bn1'}).get(layer, layer)}.{match['weight']}"
            if plain in parts.setdefault(match["prefix"], {}):
                raise _several(path, [parts[match["prefix"]][plain], name])
            parts[match["prefix"]][plain] = name
    whole = [prefix for prefix, one in parts.items() if {"conv1.weight", "layer1.0.conv1.weight"} <= set(one)]
    whole = [prefix for prefix in whole if not _OF_TRAINING.search(prefix)] or whole
    if len(whole) > 1:
        raise _several(path, [parts[prefix]["conv1.weight"] for prefix in whole])
    names = dict(parts[whole[0]]) if whole else {}
    if not names:
        raise _foreign(path, next(name for name, value in content.items() if isinstance(value, Tensor)))
    rest = [name for name in content if name not in set(names.values())]
    of_training = [name for name in rest if _OF_TRAINING.search(name) or not isinstance(content[name], Tensor)]
    linear = [name for name in rest if name not in of_training and name.endswith("weight") and content[name].ndim == 2]
    if len(linear) != 1:
        raise DataError(
            f"{path}: is a ResNet with {', '.join(linear)} behind it; expected one linear layer; {_ELSE}"
            if linear
            else f"{path}: is a ResNet without its last layer ('fc'); write encoder and classifier to one file"
        )
    names["fc.weight"], bias = linear[0], linear[0].removesuffix("weight") + "bias"
    weights = {plain: content[name] for plain, name in names.items()}
    weights["fc.bias"] = content.get(bias, torch.zeros(len(content[linear[0]])))
    names["fc.bias"] = bias
    if foreign := [name for name in rest if name not in (linear[0], bias) and name not in of_training]:
        raise _foreign(path, foreign[0])
    for plain, value in weights.items():
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.layout == torch.strided):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"{path}: '{names[plain]}' is {kind}; expected floating-point numbers; {_WAY_OUT}")
    if shown := [name for name in of_training if "num_batches_tracked" not in name]:
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        notes.append(f"ignored, as not part of the network: {', '.join(shown[:5])}{more}")
    return weights, names


def _kind(path: Path, weights: dict[str, Tensor]) -> str:
    """Which ResNet it is, by its blocks."""
    blocks = [len({n.split(".")[1] for n in weights if n.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    deep = "layer1.0.conv3.weight" in weights
    kind = _DEPTHS.get(tuple(blocks), ("", ""))[deep]
    if not kind:
        raise DataError(
            f"{path}: is a ResNet of {' + '.join(map(str, blocks))} {'bottleneck' if deep else 'basic'} blocks; "
            f"expected those of ResNet-18, -34 (2 + 2 + 2 + 2, 3 + 4 + 6 + 3 basic ones) or -50; {_ELSE}"
        )
    return kind


def _torchvision(name: str) -> str:
    """Torchvision's name of a weight of this study's ResNets."""
    layer, _, weight = name.rpartition(".")
    if layer in _STEM:
        return f"{_STEM[layer]}.{weight}"
    stage, block, part = layer.removeprefix("body.block").replace("-", ".").split(".", 2)
    return f"layer{stage}.{int(block) - 1}.{part.replace('norm', 'bn').replace('shortcut', 'downsample')}.{weight}"


def _foreign(path: Path, name: str) -> DataError:
    return DataError(
        f"{path}: '{name}' is no weight of a ResNet-18, -34 or -50 as torchvision names them. If it plays no part in "
        f"predictions, write the file without it; {_ELSE}"
    )


def _several(path: Path, names: list[str]) -> DataError:
    return DataError(
        f"{path}: holds several networks ({', '.join(names)}), and nothing tells which to use; write the weights of "
        "one of them to a file of its own"
    )


# Data -----------------------------------------------------------------------------------------------------------------


def write_model_folder(dataset: LensDataset, folder: str | Path, order: str | Sequence[str] = "models") -> Path:
    """Write a split `dataset` as `folder/{train,test}/<class>/*.npy`, its classes in DeepLense's names; what the study
    keeps for validation goes to `train`, from which their pipelines take their own. Returns the folder."""
    from lensstudy.data.reading import write_deeplense

    if "part" not in dataset.catalogue:
        raise DataError("this data set is not split yet: call split() first")
    names = ORDERS[order] if isinstance(order, str) else tuple(order)
    theirs = dict(zip([dataset.classes[i] for i in order_of(dataset.classes, order)], names, strict=True))
    catalogue = dataset.catalogue.copy()
    catalogue["part"] = catalogue["part"].replace("validation", "train")
    catalogue["class"] = catalogue["class"].map(theirs)
    return write_deeplense(replace(dataset, catalogue=catalogue, classes=names), folder)


# Encoder and classifier -----------------------------------------------------------------------------------------------


class _Encoder(nn.Module):
    """Images `(B, C, H, W)` to the features before the last layer, `(B, features)`; trainable."""

    def __init__(self, network: Network, preprocess: Preprocess):
        super().__init__()
        self.body, self.invariant = network.body, network.invariant
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Tensor:
        seen = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        return self.invariant(self.body(seen)).mean((2, 3))


def split_for_adaptation(trained, order: str | Sequence[str] = "common-test") -> tuple[nn.Module, nn.Module]:
    """A trained network as the two that deeplense-domain-adaptation 1.0.0 works with: an encoder, images `(B, C, H, W)`
    to features, and a classifier, features to logits in the order of classes `order`. Both can be trained further, and
    what they are given are the images as the study has them, neither cropped nor scaled."""
    network, chosen = trained.network, order_of(trained.classes, order)
    last = nn.Linear(network.classifier.in_features, len(chosen))
    with torch.no_grad():
        last.weight.copy_(network.classifier.weight[chosen])
        last.bias.copy_(network.classifier.bias[chosen])
    encoder = _Encoder(network, trained.preprocess)
    return encoder, nn.Sequential(OrderedDict(fc=last))
