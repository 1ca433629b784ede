"""Do probabilities say how often they are right? Temperature scaling and reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.scores import TINY, confidence, labels_of

__all__ = ["Calibration", "calibrate", "reliability", "tempered"]


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the log loss (nats) of the images that it was fitted to without and with it."""

    temperature: float
    method: str
    validation_images: int
    log_loss_before: float
    log_loss_after: float

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, of the shape `(N, classes)` of `probabilities`."""
        return tempered(probabilities, self.temperature)


def calibrate(labels: np.ndarray | LensDataset, probabilities: np.ndarray, *, balanced: bool = False) -> Calibration:
    """Fit the temperature T of `softmax(log p / T)` with the smallest log loss (Guo et al. 2017, arXiv:1706.04599).

    Fit it on validation images, never on test images. Above 1 the network was overconfident. Where no image is wrong,
    T is at least 1: such images cannot show that a network is underconfident.

    Args:
        labels: classes of the images `(N,)`, or the data set.
        probabilities: what a network gives them, `(N, classes)`.
        balanced: every class counts the same, however many images it has, as in a loss with balanced weights.

    Returns:
        The calibration, whose `apply` takes other probabilities of the same network; `temperature` is between 1/20
        and 20.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 1])
        >>> overconfident = np.array([[0.99, 0.01]] * 2 + [[0.01, 0.99]] * 3 + [[0.99, 0.01]])
        >>> calibrate(labels, overconfident).apply(overconfident)[0].round(2)
        array([0.67, 0.33])
    """
    labels = labels_of(labels)
    log_p = np.log(np.clip(probabilities, TINY, 1))
    weights = 1 / np.bincount(labels, minlength=log_p.shape[1])[labels] if balanced else np.ones(len(labels))

    def loss(temperature: float) -> float:
        losses = -log_softmax(log_p / temperature, axis=1)[np.arange(len(labels)), labels]
        return float(np.average(losses, weights=weights))

    limit = np.log(20)
    found = minimize_scalar(
        lambda log_temperature: loss(np.exp(log_temperature)),
        bounds=(-limit, limit),
        method="bounded",
        options={"xatol": 1e-4},
    )
    temperature = float(np.exp(found.x))
    if (probabilities.argmax(1) == labels).all():
        temperature = max(temperature, 1.0)
    method = "temperature scaling on the validation images (Guo et al. 2017)"
    return Calibration(temperature, method, len(labels), loss(1.0), loss(temperature))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(log p / T)`: the same order of classes, with the confidence that the temperature T gives."""
    return np.exp(log_softmax(np.log(np.clip(probabilities, TINY, 1)) / temperature, axis=1))


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> pd.DataFrame:
    """Mean `confidence` (largest probability), share `right` and number of `images` in each bin of confidence."""
    bins, sure, right = confidence(labels, probabilities)
    table = pd.DataFrame({"confidence": sure, "right": right, "images": 1}).groupby(bins)
    return table.agg({"confidence": "mean", "right": "mean", "images": "sum"}).reset_index(drop=True)
