"""A trained network with everything that belongs to it, and the run folder it is opened from.

Opening a run folder runs nothing that is inside it: weights are safetensors, the rest is JSON.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, Field

from lensstudy.data.preprocess import Preprocess
from lensstudy.files import FileError, read_json, regular, validated
from lensstudy.networks import registry as networks
from lensstudy.networks.architectures import Classifier
from lensstudy.networks.names import folder_of
from lensstudy.provenance import plugin_files
from lensstudy.training.devices import on_device

__all__ = ["Metrics", "TrainedNetwork", "build", "load_run", "options_of", "read_card", "read_metrics", "training_of"]


class RunCard(BaseModel):
    """What the `card.json` of a training must say for its network to be built again; it says more."""

    network: str
    classes: list[str] = Field(min_length=2)
    in_channels: int = Field(ge=1)
    image_size: int = Field(ge=1, le=4096)
    size: int = Field(ge=1, le=4096)
    crop: int = Field(ge=1)
    binning: int = Field(ge=1)
    scaling: dict[str, Any]
    width: float = Field(gt=0, le=16)
    depth: int = Field(1, ge=1, le=8)
    seed: int
    data: dict[str, Any]
    data_fingerprint: str
    module: dict[str, Any] = {}
    kernel_sizes: list[int] | None = None
    versions: dict[str, str] = {}
    share: float = Field(100, gt=0, le=100)


class Metrics(BaseModel):
    """What `metrics.json` says of a finished training."""

    best_epoch: int = Field(ge=1)
    epochs: int = Field(ge=1)
    validation_loss: float
    validation_auc: float
    validation_accuracy: float
    overfitting_gap: float
    clipped_share: float
    seconds: float
    images_per_second: float


def read_card(folder: str | Path) -> dict[str, Any]:
    """The card of a training. Raises `FileError` where it is damaged, and `FileNotFoundError`."""
    card = read_json(Path(folder) / "card.json")
    validated(card, RunCard, Path(folder) / "card.json")
    return card


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """What `metrics.json` says of a finished training. Raises `FileError` or `FileNotFoundError`."""
    return read_json(Path(folder) / "metrics.json", Metrics).model_dump()


def training_of(network: str | Path) -> Path:
    """The run folder to fine-tune from: `network`, or the training of the one of this name that comes with the package.
    Raises `ValueError` where there is none."""
    folder = folder_of(network)
    if folder == Path(network).expanduser():
        return folder
    if not (folder / "training" / "metrics.json").exists():
        raise ValueError(
            f"{network}: comes with lensstudy to predict with, and without the training that another one starts from; "
            "`lensstudy networks` lists those that can be fine-tuned"
        )
    return folder / "training"


def build(card: dict) -> Classifier:
    """The network that a card describes, with the weights it began with."""
    return networks.build_network(
        card["network"],
        card["size"],
        len(card["classes"]),
        in_channels=card["in_channels"],
        width=card["width"],
        seed=card["seed"],
        **options_of(card),
    )


def options_of(card: dict) -> dict:
    """What a card says of a network's architecture, where that differs from the network's own."""
    options = {"depth": card["depth"]} if card.get("depth", 1) != 1 else {}
    return options | ({"kernel_sizes": tuple(card["kernel_sizes"])} if card.get("kernel_sizes") else {})


@dataclass
class TrainedNetwork:
    """A network with everything that belongs to it: how its images are preprocessed, its classes by name, and, where it
    was opened from a run folder, how its training went."""

    network: Classifier
    preprocess: Preprocess
    classes: tuple[str, ...]
    card: dict
    folder: Path | None = None

    @cached_property
    def history(self) -> pd.DataFrame:
        """The training epoch by epoch: losses, validation AUC and accuracy, recalls, learning rate, speed."""
        return pd.read_csv(regular(self._opened() / "history.csv"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What `metrics.json` says: the best checkpoint, its figures on the validation part, seconds."""
        return read_metrics(self._opened())

    @cached_property
    def validation(self) -> pd.DataFrame:
        """Predictions of the best checkpoint for the validation part: `name`, `class`, one column of probabilities a
        class, and `given`, the probability of the true one."""
        predictions = pd.read_parquet(regular(self._opened() / "predictions.parquet"))
        labels = [self.classes.index(name) for name in predictions["class"]]
        probabilities = predictions[list(self.classes)].to_numpy()
        return predictions.assign(given=probabilities[np.arange(len(labels)), labels])

    def _opened(self) -> Path:
        if self.folder is None:
            raise ValueError("this network was not opened from a run folder, so nothing of its training is known")
        return self.folder

    @torch.no_grad()
    def predict(self, images: np.ndarray, degrees: float | np.ndarray = 0.0, batch_size: int = 64) -> np.ndarray:
        """Class probabilities `(N, classes)` of images `(N, C, H, W)`, rotated by `degrees` (one angle or one an image)
        counter-clockwise before the central pixels are cut out. Computed on a GPU where there is one, unless the
        training was told not to use it (`accelerator: cpu`)."""
        self.network.eval()
        probabilities = []
        with on_device(self.network, self.card.get("accelerator", "auto")) as device:
            for start in range(0, len(images), batch_size):
                one = np.ndim(degrees) == 0
                angle = float(degrees) if one else torch.as_tensor(np.asarray(degrees)[start : start + batch_size])
                batch = self.preprocess(np.asarray(images[start : start + batch_size]), angle)
                logits = self.network(batch.to(device)).cpu()
                probabilities.append(torch.softmax(logits.double(), dim=1).numpy())
        return np.concatenate(probabilities)


def load_run(folder: str | Path, network: torch.nn.Module | None = None) -> TrainedNetwork:
    """Open the folder of a finished training.

    Nothing inside it is run: weights are safetensors, the rest is JSON. A network of a study's `plugins` is registered
    again by importing them, from the working folder or from what is installed, and never from beside the run folder.

    Args:
        folder: what `fit` returned.
        network: a module as it was given to `fit`, where one was; its weights are replaced.

    Returns:
        A `TrainedNetwork`: `network`, `preprocess`, `classes`, `card` and `predict(images)`; `history`, `metrics` and
        `validation` tell of its training.

    Raises:
        FileNotFoundError: there is no finished training in the folder.
        ValueError: it is that of a module, and none is given; the plugins of its study cannot be found, or have
            changed; a file is damaged; or the weights do not fit.

    Example:
        >>> load_run("no-such-folder")
        Traceback (most recent call last):
        FileNotFoundError: no-such-folder: no finished training here (metrics.json is missing); run 03-train first
    """
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        raise FileNotFoundError(f"{folder}: no finished training here (metrics.json is missing); run 03-train first")
    read_metrics(folder)
    card = read_card(folder)
    if network is None:
        if "module" in card:
            raise ValueError(
                f"{folder}: the network is a {card['module']['class']}, which lensstudy cannot build; make one as it "
                "was for the training and open the folder with load_run(folder, network=module)"
            )
        if "network_source" in card and card["network"] not in networks.network_names():
            _register_again(card, folder)
        network = build(card)
    networks.load_weights(network, folder / "weights.safetensors")
    network = networks.as_network(network, card["network"], card["size"], card["in_channels"]).eval()
    try:
        preprocess = Preprocess.from_dict(card)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{folder / 'card.json'}: is incomplete or altered (scaling: {error})") from None
    return TrainedNetwork(network, preprocess, tuple(card["classes"]), card, folder)


def _register_again(card: dict, folder: Path) -> None:
    """Import what registers the network of a card, if it is the code of the training. Raises `ValueError` if not.

    The names of modules come with the run folder, so none is imported from there, nor, below the working folder, from
    the folder in which the run lies.
    """
    name, given = card["network"], card.get("plugins")
    plugins = [str(one) for one in given] if isinstance(given, list) else []
    what = f"{folder}: its network '{name}' is registered by {', '.join(map(repr, plugins)) or 'a notebook or script'}"
    if not plugins:
        raise ValueError(f"{what}; open it there, after the network is registered, or name a module in `plugins`")
    here, run = Path.cwd(), (Path(os.path.abspath(folder)), folder.resolve())
    theirs = {here / one.relative_to(here).parts[0] for one in run if here in one.parents} | {run[1]}
    for plugin in plugins:
        files = plugin_files(plugin) if plugin.replace(".", "").isidentifier() else []
        if not files:
            raise ValueError(f"{what}, and '{plugin}' is neither in {here} nor installed; call this where it lies")
        if any(one.is_relative_to(place) for file in files for one in (file, file.resolve()) for place in theirs):
            raise ValueError(f"{what}, and '{plugin}' lies beside the run folder, from which nothing is run; move it")
    try:
        networks.load_plugins(plugins)
    except ValueError as error:
        raise ValueError(f"{what}, and {str(error).removeprefix('plugins: ')}") from error
    if name in networks.network_names() and networks.source_hash(name) != card["network_source"]:
        raise ValueError(f"{what}, whose code has changed since this training; train again, or bring the old code back")
