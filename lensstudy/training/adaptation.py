"""How a network learns from unlabelled images of another kind: the target, beside the source, which has labels.

Four methods with one interface, chosen by `adaptation` in a study. `batch-norm` measures batch norm's statistics anew
on the target once the network is trained. The others add a loss on the target to the cross-entropy on the source, and
their batches hold both: `sinkhorn` and `adversarial` make the features of the two indistinguishable, `pseudo-labels`
learns from the predictions that are confident and agree over rotations. Features are what the last linear layer gets.

No label of the target is known here, nor to whoever chooses a method: `without_labels` ranks them by predictions alone,
and the epoch is the last (`monitor: last`), since the validation part is of the source and says nothing of the target.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lensstudy.data.dataset import PIECE
from lensstudy.data.preprocess import as_tensor
from lensstudy.data.rotation import rotate
from lensstudy.networks import registry as networks
from lensstudy.study import ParameterError, Study
from lensstudy.training.batches import SeededBatches

__all__ = [
    "Adversarial",
    "Outputs",
    "PseudoLabels",
    "Sinkhorn",
    "Target",
    "adapt_batch_norm",
    "loss_on_target",
    "without_labels",
]

SOURCE_COUNT = 16  # images that the statistics of the source count for (Schneider et al. 2020, figure 2)
BLUR = 0.05  # of the largest distance between two features, as in SIDDA
LARGEST_RATIO = 16.0  # of the weight of the Sinkhorn divergence to that of the cross-entropy, as in SIDDA
HIDDEN = 64  # units of the discriminator
SQUARE = [(degrees, reflect) for reflect in (False, True) for degrees in (0.0, 90.0, 180.0, 270.0)]
FAR = 2**32  # beyond the seeds of a study: the target has an order of its own, or rows of the two would go together


@dataclass
class Outputs:
    """What a network says of a batch: features `(B, F)`, logits `(B, classes)` and, of the target, the rows `(B,)`."""

    features: Tensor
    logits: Tensor
    rows: Tensor | None = None


@dataclass
class Target:
    """The images of the target, `(N, C, H, H)`, and nothing else of its data set; `hash` tells one from another."""

    images: np.ndarray

    def __post_init__(self):
        digest = hashlib.sha256(json.dumps([self.images.shape, str(self.images.dtype)]).encode())
        for start in range(0, len(self.images), PIECE):
            digest.update(np.ascontiguousarray(self.images[start : start + PIECE]).tobytes())
        self.hash = digest.hexdigest()[:16]

    def about(self) -> dict:
        """What the card of a training says of its target."""
        return {"images": len(self.images), "hash": self.hash}

    def batches(self, settings: Study, steps: int, epoch: int) -> list[np.ndarray]:
        """Rows of the batches of one epoch, by the seed and the epoch alone."""
        return list(SeededBatches(len(self.images), settings.batch_size, settings.seed + FAR, steps, epoch))

    def sample(self, count: int) -> Tensor:
        """At most `count` images, evenly spaced."""
        rows = np.linspace(0, len(self.images) - 1, min(count, len(self.images))).astype(int)
        return as_tensor(self.images[rows])

    def pieces(self, size: int = 128) -> Iterator[Tensor]:
        """All images, in order."""
        for start in range(0, len(self.images), size):
            yield as_tensor(self.images[start : start + size])


def loss_on_target(network: nn.Module, settings: Study, example: Tensor) -> nn.Module | None:
    """The loss on the target that a study asks for, with what it learns itself; None where there is none.

    Args:
        network: the network to adapt.
        settings: `adaptation` and what belongs to it; `seed` for random weights.
        example: one input of the network, `(1, C, S, S)`.

    Returns:
        A module that maps the cross-entropy, the `Outputs` on source and target, and the progress from 0 to 1, to the
        loss of a step.
    """
    if settings.adaptation == "sinkhorn":
        return Sinkhorn()
    if settings.adaptation == "pseudo-labels":
        return PseudoLabels(settings.adaptation_weight, settings.confidence)
    if settings.adaptation == "adversarial":
        training = network.training
        with torch.no_grad():
            n_features = networks.logits_and_features(network.eval(), example)[1].shape[1]
        network.train(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return Adversarial(n_features, settings.adaptation_weight)
    return None


def adapt_batch_norm(network: nn.Module, images: Tensor) -> nn.Module:
    """Measure the statistics of batch norm on images of the target: AdaBN (Li et al. 2016, arXiv:1603.04779).

    A mean over `n` images counts as n, that of the source as N = 16: with few images of the target most of it stays
    (Schneider et al. 2020, arXiv:2006.16971, equation 1).

    Args:
        network: a trained network, whose statistics are those of the source.
        images: its inputs `(n, C, S, S)`.

    Returns:
        `network`.

    Raises:
        ParameterError: it has no batch norm.
    """
    if not any(getattr(layer, "running_var", None) is not None for layer in network.modules()):
        raise ParameterError("adaptation = 'batch-norm': the network has no batch norm; use another adaptation")
    return networks.recalibrate_batch_norm(network, images, momentum=len(images) / (len(images) + SOURCE_COUNT))


class Sinkhorn(nn.Module):
    """SIDDA (Pandya et al. 2025, arXiv:2501.14048): the features of source and target are brought together.

        loss = cross-entropy / (2 a^2) + divergence / (2 b^2) + log(a b)

    with weights a and b that are learnt (Kendall et al. 2018, arXiv:1705.07115), here by the logarithms of their
    squares, so that they stay positive; a^2 / b^2 is at most 16. The Sinkhorn divergence (Feydy et al. 2019,
    arXiv:1810.08278) is that of the squared distance, blurred over 0.05 of the largest distance in the batch.
    """

    def __init__(self):
        super().__init__()
        self.log_squares = nn.Parameter(torch.zeros(2))

    def forward(self, classification: Tensor, source: Outputs, target: Outputs, progress: float) -> Tensor:
        with torch.no_grad():  # back onto the bound, where there is a gradient still: beyond it would be none
            self.log_squares[1].clamp_(min=float(self.log_squares[0]) - math.log(LARGEST_RATIO))
        of_source, of_target = self.log_squares
        weighted = classification * torch.exp(-of_source) + self.divergence(source, target) * torch.exp(-of_target)
        return (weighted + of_source + of_target) / 2

    @staticmethod
    def divergence(source: Outputs, target: Outputs) -> Tensor:
        from geomloss import SamplesLoss  # slow to import; other trainings need none of it

        blur = max(BLUR * torch.cdist(source.features.detach(), target.features.detach()).max().item(), 0.01)
        return SamplesLoss("sinkhorn", p=2, blur=blur, backend="tensorized")(source.features, target.features)


class Adversarial(nn.Module):
    """A domain-adversarial network: a discriminator learns to tell the features of the target from those of the source,
    and the network learns features of which it cannot.

    The network lowers the cross-entropy of the discriminator's answer with one half (Tzeng et al. 2015,
    arXiv:1510.02192), times 2 / (1 + exp(-10 p)) - 1 at the progress p (Ganin et al. 2016, arXiv:1505.07818). Reversing
    the gradient of the discriminator's own loss, as they do, was tried, and so was a discriminator that is conditional
    on predictions (Long et al. 2018, arXiv:1705.10667). The first stops where the discriminator is certain, as it is of
    telescopes; the second compares with one class only where all of the target is taken for that.
    """

    def __init__(self, n_features: int, weight: float = 1.0):
        super().__init__()
        self.weight = weight
        self.discriminator = nn.Sequential(nn.Linear(n_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, classification: Tensor, source: Outputs, target: Outputs, progress: float) -> Tensor:
        strength = self.weight * (2 / (1 + math.exp(-10 * progress)) - 1)
        features = torch.cat([source.features, target.features])
        is_target = torch.cat([torch.zeros(len(source.features)), torch.ones(len(target.features))]).to(features.device)
        learning = binary_cross_entropy_with_logits(self.discriminator(features.detach())[:, 0], is_target)
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        told = functional_call(self.discriminator, fixed, features)[:, 0]
        return classification + learning + strength * binary_cross_entropy_with_logits(told, torch.full_like(told, 0.5))


class PseudoLabels(nn.Module):
    """Learning from one's own predictions, where they are confident and agree (Lee 2013; FixMatch, Sohn et al. 2020,
    arXiv:2001.07685).

    Before each epoch every target image is predicted in its eight exact orientations. It has a label in this epoch if
    all eight name one class and their mean gives it more than `confidence`; the loss is the cross-entropy of a randomly
    rotated copy, zero for images without a label, times exp(-5 (1 - p)^2) at the progress p (Laine and Aila 2017,
    arXiv:1610.02242).
    """

    labels: Tensor
    accepted: Tensor

    def __init__(self, weight: float, confidence: float):
        super().__init__()
        self.weight, self.confidence = weight, confidence

    def label(self, predict: Callable[[Tensor], Tensor], target: Target) -> None:
        """Give each image of the target its label, or none: `predict` maps images to probabilities."""
        found = [pseudo_labels(predict, images, self.confidence) for images in target.pieces()]
        self.labels, self.accepted = (torch.cat(parts) for parts in zip(*found, strict=True))

    def forward(self, classification: Tensor, source: Outputs, target: Outputs, progress: float) -> Tensor:
        ramp = math.exp(-5 * (1 - progress) ** 2)
        each = cross_entropy(target.logits, self.labels[target.rows], reduction="none")
        return classification + self.weight * ramp * (each * self.accepted[target.rows]).mean()


@torch.no_grad()
def pseudo_labels(predict: Callable[[Tensor], Tensor], images: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
    """The class of each image by its mean probabilities over the eight exact orientations, and whether it counts: all
    orientations name it, and the mean is more than `confidence`. Both `(B,)`."""
    each = torch.stack([predict(rotate(images, degrees, reflect)) for degrees, reflect in SQUARE])
    highest, labels = each.mean(0).max(1)
    return labels, (each.argmax(2) == labels).all(0) & (highest > confidence)


def without_labels(predictions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Rank methods by their predictions for the target, of which no label is known.

    A network that tells the classes of the target apart is sure of each image, and not of the same class for all: the
    mutual information of image and class is high (Shi and Sha 2012, arXiv:1206.6438). In units of log(classes),

        information = entropy of the mean prediction - mean entropy of the predictions.

    It finds networks that have collapsed to one class or are never sure, and is no measure of accuracy: one that was
    not adapted is often sure and wrong. Where the classes of the target are of unequal size, the first term's best
    value is below one.

    Args:
        predictions: probabilities `(N, classes)` for the images of the target, by the name of the method.

    Returns:
        One row a method, the best first: `information`, `balance` (the first term) and `entropy` (the second).

    Example:
        >>> sure, same = np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([[0.9, 0.1], [0.9, 0.1]])
        >>> without_labels({"one class": same, "two classes": sure}).index.tolist()
        ['two classes', 'one class']
    """
    rows = {}
    for name, given in predictions.items():
        balance, entropy = float(_entropy(given.mean(0))), float(_entropy(given).mean())
        rows[name] = {"information": balance - entropy, "balance": balance, "entropy": entropy}
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("information", ascending=False, kind="stable")


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """In units of log(classes): 0 for certainty, 1 for equal probabilities."""
    logarithms = np.log(np.clip(probabilities, 1e-12, 1))
    return -(probabilities * logarithms).sum(-1) / math.log(probabilities.shape[-1])
