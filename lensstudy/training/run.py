"""A trained network with everything that belongs to it, and the run folder it is opened from.

Opening a run folder runs nothing that is inside it: weights are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lensstudy.data.preprocess import Preprocess
from lensstudy.networks import registry as networks

__all__ = ["TrainedNetwork", "build", "load_run", "options_of"]


def build(card: dict) -> torch.nn.Module:
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
    """A network with everything that belongs to it: how its images are preprocessed, its classes by name."""

    network: torch.nn.Module  # with `features(images)` beside `forward`
    preprocess: Preprocess
    classes: tuple[str, ...]
    card: dict

    @torch.no_grad()
    def predict(self, images: np.ndarray, degrees: float | np.ndarray = 0.0, batch_size: int = 128) -> np.ndarray:
        """Class probabilities `(N, classes)` of images `(N, C, H, W)`, rotated by `degrees` (one angle or one an image)
        counter-clockwise before the central pixels are cut out."""
        self.network.eval()
        probabilities = []
        for start in range(0, len(images), batch_size):
            one = np.ndim(degrees) == 0
            angle = float(degrees) if one else torch.as_tensor(np.asarray(degrees)[start : start + batch_size])
            batch = self.preprocess(np.asarray(images[start : start + batch_size]), angle)
            probabilities.append(torch.softmax(self.network(batch).double(), dim=1).numpy())
        return np.concatenate(probabilities)


def load_run(folder: str | Path, network: torch.nn.Module | None = None) -> TrainedNetwork:
    """Open the folder of a finished training.

    Nothing inside it is run: weights are safetensors, the rest is JSON.

    Args:
        folder: what `fit` returned.
        network: a module as it was given to `fit`, where one was; its weights are replaced.

    Returns:
        A `TrainedNetwork`: `network`, `preprocess`, `classes`, `card` and `predict(images)`.

    Raises:
        FileNotFoundError: there is no finished training in the folder.
        ValueError: it is that of a module, and none is given; or the weights do not fit.

    Example:
        >>> load_run("no-such-folder")
        Traceback (most recent call last):
        FileNotFoundError: no-such-folder: no finished training here (metrics.json is missing); run 03-train first
    """
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        raise FileNotFoundError(f"{folder}: no finished training here (metrics.json is missing); run 03-train first")
    card = json.loads((folder / "card.json").read_text())
    if network is None:
        if "module" in card:
            raise ValueError(
                f"{folder}: the network is a {card['module']['class']}, which lensstudy cannot build; make one as it "
                "was for the training and open the folder with load_run(folder, network=module)"
            )
        network = build(card)
    networks.load_weights(network, folder / "weights.safetensors")
    network = networks.with_features(network).eval()
    about = {"name": card["network"], "group": "", "image_size": card["size"], "in_channels": card["in_channels"]}
    for name, value in about.items():  # what a network of lensstudy says of itself
        if not hasattr(network, name):
            setattr(network, name, value)
    return TrainedNetwork(network, Preprocess.from_dict(card), tuple(card["classes"]), card)
