"""Does an image look like anything the network was trained on? A score, its p-value, and when to say nothing.

A classifier always answers, also to noise. What it sees in an image are the features in front of its last layer; in the
training images these fill a small part of their space. `Familiarity` measures how far from that part an image lies
(Mahalanobis distance to the nearest class with a shrunk common covariance, after Lee et al. 2018 and Ledoit and Wolf
2004) and turns it into a p-value by ranking it among held-out images: of images like the training ones, a share p has a
p-value below p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf

from lensstudy.dataset import DataError, LensDataset
from lensstudy.simulate import simulate
from lensstudy.training import TrainedNetwork

__all__ = ["Familiarity", "features", "simulations_like"]


def features(trained: TrainedNetwork, images: np.ndarray) -> np.ndarray:
    """What the network's last layer gets to see of images `(N, C, H, W)`: `(N, features)`, float64."""
    seen: list[np.ndarray] = []

    def keep(_layer, inputs):
        seen.append(inputs[0].double().numpy())

    hook = trained.network.classifier.register_forward_pre_hook(keep)
    try:
        trained.predict(images)
    finally:
        hook.remove()
    return np.concatenate(seen)


@dataclass(frozen=True)
class Familiarity:
    """How familiar images are to one network: class means `(classes, F)` and inverse covariance `(F, F)` of its
    features, and the sorted scores of held-out images of the same kind."""

    means: np.ndarray
    precision: np.ndarray
    held_out: np.ndarray

    @classmethod
    def fit(cls, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> Familiarity:
        """From images like those of the training; `held_out` are others of the same kind, which only calibrate.

        Raises `DataError` where there are fewer than 20 images of either.
        """
        for name, part in (("known", known), ("held-out", held_out)):
            if len(part) < 20:
                raise DataError(f"{len(part)} {name} images are too few for a p-value; use 20 or more")
        seen, labels = features(trained, known.images), known.labels
        present = np.unique(labels)
        means = np.stack([seen[labels == label].mean(axis=0) for label in present])
        within = seen - means[np.searchsorted(present, labels)]
        fitted = cls(means, LedoitWolf(assume_centered=True).fit(within).precision_, np.zeros(0))
        return cls(fitted.means, fitted.precision, np.sort(fitted.score(trained, held_out.images)))

    def score(self, trained: TrainedNetwork, images: np.ndarray) -> np.ndarray:
        """Squared distance `(N,)` of each image to the nearest class, in units of the spread within classes."""
        apart = features(trained, images)[:, None] - self.means
        return np.einsum("nci,ij,ncj->nc", apart, self.precision, apart).min(axis=1)

    def p_value(self, trained: TrainedNetwork, images: np.ndarray) -> np.ndarray:
        """Share `(N,)` of held-out images at least as far away, never below one over their number (plus one)."""
        closer = np.searchsorted(self.held_out, self.score(trained, images), side="left")
        return (len(self.held_out) - closer + 1) / (len(self.held_out) + 1)


def simulations_like(trained: TrainedNetwork, images_per_class: int, seed: int) -> LensDataset:
    """Fresh images by the recipe of the network's training set, as its card describes it.

    Raises `DataError` where the training images were not simulated: a part of the data set that was not trained on then
    takes their place.
    """
    about = trained.card["data"]
    if about.get("source") != "simulated":
        raise DataError(
            f"{trained.card['network']} was trained on images that were read, not simulated, so no more of them can be "
            "made; pass the validation part of its data set instead"
        )
    return simulate(
        about["preset"],
        images_per_class,
        seed=seed,
        image_size=about["image_size"],
        noise_level=about["noise_level"],
        **about["population"],
    )
