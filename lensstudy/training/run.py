"""A trained network with everything that belongs to it, and the run folder it is opened from.

What a network sees of an image is decided here, once: the central pixels, binned and stretched as its card says.
Opening a run folder runs nothing that is inside it: weights are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from lensstudy.data.dataset import Scaling
from lensstudy.networks import groups as symmetry
from lensstudy.networks import registry as networks
from lensstudy.study import Study

__all__ = ["TrainedNetwork", "as_tensor", "binned", "build", "load_trained", "options_of", "working_size"]


def working_size(image_size: int, settings: Study) -> int:
    """Pixels along one side of what a network sees: the central part after binning, such that symmetry is exact."""
    binning, wanted = settings.binning, settings.crop or image_size
    for size in range(min(wanted, image_size) // binning, 7, -1):
        centred = (image_size - size * binning) % 2 == 0
        if centred and symmetry.working_size(size) == size:
            return size
    raise symmetry.SymmetryError(
        f"no central part of at most {wanted} of {image_size} pixels, averaged over {binning} x {binning}, keeps exact "
        "symmetry; choose another binning or a larger crop"
    )


def binned(images: torch.Tensor, binning: int) -> torch.Tensor:
    """Means of `binning` x `binning` pixels: a quarter of the cost where the PSF spreads over several pixels."""
    return avg_pool2d(images, binning) if binning > 1 else images


def as_tensor(images: np.ndarray) -> torch.Tensor:
    """Images of any real dtype, as a float32 tensor of its own."""
    return torch.from_numpy(np.array(images, dtype=np.float32, order="C"))


def build(card: dict) -> networks.Network:
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
    """A network with everything that belongs to it: how images are cropped, binned and scaled, its classes by name."""

    network: networks.Network
    scaling: Scaling
    classes: tuple[str, ...]
    card: dict

    @torch.no_grad()
    def predict(self, images: np.ndarray, degrees: float | np.ndarray = 0.0, batch_size: int = 128) -> np.ndarray:
        """Class probabilities `(N, classes)` of images `(N, C, H, W)`, turned by `degrees` (one angle or one an image)
        counter-clockwise before the central pixels are cut out."""
        self.network.eval()
        probabilities = []
        for start in range(0, len(images), batch_size):
            batch = as_tensor(images[start : start + batch_size])
            one = np.ndim(degrees) == 0
            angle = float(degrees) if one else torch.as_tensor(np.asarray(degrees)[start : start + batch_size])
            batch = self.scaling.apply(
                binned(symmetry.rotate(batch, angle, size=self.card["crop"]), self.card["binning"])
            )
            probabilities.append(torch.softmax(self.network(batch).double(), dim=1).numpy())
        return np.concatenate(probabilities)


def load_trained(folder: str | Path) -> TrainedNetwork:
    """Open a finished run folder. Nothing inside it is run: weights are safetensors, the rest is JSON."""
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        raise FileNotFoundError(f"{folder}: no finished training here (metrics.json is missing); run 03-train first")
    card = json.loads((folder / "card.json").read_text())
    network = build(card)
    networks.load_weights(network, folder / "weights.safetensors")
    return TrainedNetwork(network.eval(), Scaling.from_dict(card["scaling"]), tuple(card["classes"]), card)
