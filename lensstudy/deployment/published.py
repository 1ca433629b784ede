"""Networks for DeepLense's Common Test that others published: small residual networks without symmetry.

Their weights are no part of this package; they are read from files of safetensors, in which nothing can run. All have
one architecture: a convolution of 7x7, then three residual blocks of two convolutions, each block behind a convolution
that halves the image; batch norm everywhere; the mean over the image, and one linear layer. They take images of 150
pixels, each scaled from 0 to 1 by its own minimum and maximum.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import relu

from lensstudy.data.dataset import DataError
from lensstudy.data.rotation import rotate

__all__ = ["IMAGE_SIZE", "PublishedNetwork", "load_published"]

IMAGE_SIZE = 150  # pixels a side of the images of the Common Test
ORDER = ("axion", "cdm", "no_sub")  # what the logits stand for: vort, sphere and no, alphabetically from behind
AT_ONCE = 64  # images in one pass


class PublishedNetwork(nn.Module):
    """One of these networks, its parts under the names of its weights.

    Args:
        weights: the weights by name, as `safetensors` reads them.

    Raises:
        ValueError: for weights of another network, or such as are not finite.

    Example:
        >>> PublishedNetwork({})
        Traceback (most recent call last):
        ValueError: 'conv1.weight' is missing
    """

    classes = ("no_sub", "cdm", "axion")  # of `probabilities`

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 7, stride=2, padding=3, bias=False)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(16), nn.BatchNorm2d(32), nn.BatchNorm2d(64)
        self.layer1, self.layer2, self.layer3 = _Block(16, 5), _Block(32, 3), _Block(64, 3)
        self.fc = nn.Linear(64, 3)
        expected = {name: value for name, value in self.state_dict().items() if not name.endswith("batches_tracked")}
        for name, value in expected.items():
            if name not in weights:
                raise ValueError(f"'{name}' is missing")
            if weights[name].shape != value.shape:
                found = tuple(weights[name].shape)
                raise ValueError(f"'{name}' has the shape {found}; expected {tuple(value.shape)}")
            if not weights[name].isfinite().all():
                raise ValueError(f"'{name}' has values that are NaN or infinite")
        if extra := sorted(weights.keys() - self.state_dict().keys()):
            raise ValueError(f"'{extra[0]}' is no weight of this network")
        self.load_state_dict({name: weights[name].float() for name in expected}, strict=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, 1, 150, 150)`, scaled from 0 to 1, to logits `(N, 3)` in the order `ORDER`."""
        for stage in "123":
            conv, norm, block = (getattr(self, f"{part}{stage}") for part in ("conv", "bn", "layer"))
            images = block(relu(norm(conv(images))))
        return self.fc(images.mean((2, 3)))

    @torch.no_grad()
    def probabilities(self, images: np.ndarray, degrees: float = 0.0) -> np.ndarray:
        """Probabilities `(N, 3)` of `classes`, of images `(N, 1, 150, 150)` of any brightness rotated by `degrees`."""
        if images.shape[1:] != (1, IMAGE_SIZE, IMAGE_SIZE):
            raise DataError(f"images of shape {images.shape[1:]}; these networks take {(1, IMAGE_SIZE, IMAGE_SIZE)}")
        found = []
        for part in torch.from_numpy(np.ascontiguousarray(images, np.float32)).split(AT_ONCE):
            seen = rotate(part, degrees)
            low, high = seen.amin((2, 3), keepdim=True), seen.amax((2, 3), keepdim=True)
            found.append(torch.softmax(self((seen - low) / (high - low).clamp(min=torch.finfo().tiny)), 1))
        return torch.cat(found)[:, [ORDER.index(name) for name in self.classes]].numpy()


class _Block(nn.Module):
    """Two convolutions beside a connection that passes their input on."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, images: Tensor) -> Tensor:
        return relu(images + self.bn2(self.conv2(relu(self.bn1(self.conv1(images))))))


def load_published(folder: str | Path) -> dict[str, PublishedNetwork]:
    """Load every network of a folder of `.safetensors` files, by the names of the files.

    Args:
        folder: where the files lie, with variables such as `$LENSSTUDY_DATA` or without; empty: nowhere.

    Returns:
        The networks in evaluation mode; none for an empty `folder`.

    Raises:
        DataError: for a folder that does not exist or holds no such file, and for a file of another network.

    Example:
        >>> load_published("nowhere")
        Traceback (most recent call last):
        lensstudy.data.dataset.DataError: published_networks = nowhere: there is no such folder; ...
    """
    if not str(folder):
        return {}
    path, given = Path(os.path.expandvars(os.path.expanduser(folder))), f"published_networks = {folder}"
    way_out = (
        "put the published weights there as .safetensors files, name another folder, or leave it empty for the "
        "network of this package alone"
    )
    if not path.is_dir():
        unset = "a variable in it is not set" if "$" in str(path) else "there is no such folder"
        raise DataError(f"{given}: {unset}; {way_out}")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise DataError(f"{given}: holds no .safetensors file; {way_out}")
    return {file.stem: _read(file) for file in files}


def _read(file: Path) -> PublishedNetwork:
    try:
        return PublishedNetwork(load_file(file))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read as safetensors ({error}); copy it again") from None
    except ValueError as error:
        raise DataError(
            f"{file}: {error}; expected the weights of a residual network for the Common Test as "
            "lensstudy/deployment/published.py describes it"
        ) from None
