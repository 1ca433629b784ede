"""How other DeepLense code expects networks and data, and the way between its habits and this study's.

Three conventions exist: a raw `state_dict` whose network takes `(B, 1, H, W)` and returns three logits in one of two
orders of classes; a folder `Model_X/{train,test}/<class>`; and an encoder and a classifier apart, as in the package
deeplense-domain-adaptation. The order of classes is matched by name in each, never by position.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lensstudy.data.dataset import DataError, LensDataset, canonical_class
from lensstudy.data.preprocess import Preprocess

if TYPE_CHECKING:
    from lensstudy.networks.registry import Network

__all__ = [
    "CROPS",
    "ORDERS",
    "DeepLenseNetwork",
    "load_resnet",
    "named_as",
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
    if isinstance(wanted, str) and wanted not in ORDERS:
        raise DataError(f"order '{wanted}' is unknown; there are {', '.join(ORDERS)}, or give the names of the classes")
    names = ORDERS[wanted] if isinstance(wanted, str) else tuple(wanted)
    have, want = [[canonical_class(name) for name in group] for group in (classes, names)]
    if sorted(have) != sorted(want):
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


# A state_dict of torchvision's ResNet ---------------------------------------------------------------------------------

_STEM = {"conv1": "body.conv", "bn1": "body.norm", "fc": "classifier"}
_BLOCK = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2"}
_BLOCK |= {"downsample.0": "shortcut.0", "downsample.1": "shortcut.1"}


def named_as(names: Sequence[str]) -> dict[str, str]:
    """Torchvision's names of a ResNet's weights to this study's. Prefixes that wrappers add (`module.`, `model.`,
    `resnet.`, `backbone.`) do not count. Raises `DataError` for a name that no ResNet-18 or -34 has."""
    found = {}
    for name in names:
        plain = name
        while plain.split(".")[0] in ("module", "model", "net", "resnet", "backbone") and "." in plain:
            plain = plain.split(".", 1)[1]
        stem, _, weight = plain.rpartition(".")
        if stem in _STEM:
            found[name] = f"{_STEM[stem]}.{weight}"
            continue
        stage, _, rest = stem.partition(".")
        block, _, layer = rest.partition(".")
        if not (stage.startswith("layer") and block.isdigit() and layer in _BLOCK):
            raise DataError(f"'{name}' is no weight of a ResNet-18 or -34 as torchvision names them")
        found[name] = f"body.block{stage.removeprefix('layer')}-{int(block) + 1}.{_BLOCK[layer]}.{weight}"
    return found


def load_resnet(file: str | Path, image_size: int, order: str | Sequence[str] = "models", network: str = "resnet18"):
    """The ResNet of a DeepLense checkpoint `.pth`, as a network of this study for square images of `image_size` pixels.

    Returns it with its classes in the order of its logits, in this study's names. The file is opened so that nothing in
    it can run; it holds a `state_dict` of torchvision's ResNet-18 (or -34, as `network` says), bare or under a key
    `state_dict`, `model_state_dict` or `model`. Raises `DataError` for anything else.
    """
    from lensstudy.networks.registry import build_network

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{file}: nothing exists at this path") from None
    except Exception as error:  # torch raises whatever a damaged or hostile pickle makes it raise
        raise DataError(
            f"{file}: holds something else than weights, so it was not opened. Ask its author for the state_dict "
            f"alone, torch.save(model.state_dict(), ...) ({type(error).__name__})"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        content = content[key] if isinstance(content, dict) and isinstance(content.get(key), dict) else content
    if not (isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())):
        raise DataError(f"{file}: holds no state_dict, which gives each weight a name; ask its author for that")
    names = named_as(list(content))
    weights = {names[name]: value.float() for name, value in content.items() if names[name].count("num_batches") == 0}
    classes = tuple(canonical_class(name) for name in (ORDERS[order] if isinstance(order, str) else order))
    first = weights.get("body.conv.weight")
    if first is None or weights["classifier.bias"].shape != (len(classes),):
        raise DataError(f"{file}: is no whole ResNet with {len(classes)} logits ({', '.join(classes)})")
    made = build_network(network, image_size, len(classes), in_channels=first.shape[1])
    expected = {name: value.shape for name, value in made.state_dict().items() if "num_batches" not in name}
    if expected != {name: value.shape for name, value in weights.items()}:
        wrong = sorted(set(expected) ^ set(weights)) or [n for n in expected if expected[n] != weights[n].shape]
        raise DataError(f"{file}: does not fit a {network} ({wrong[0]} differs); say network='resnet34' if it is one")
    made.load_state_dict(weights, strict=False)
    return made.eval(), classes


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
