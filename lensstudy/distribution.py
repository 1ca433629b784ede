"""Does an image look like anything the network was trained on? A score, its p-value, and when to say nothing.

A classifier always answers, also to noise. `Familiarity` looks at two things: what the network's last layer sees, which
is what the answer hangs on, and how its input looks (brightness, noise, size of the ring), because a network can be
blind to what is odd. Each is compared with training-like images by a Mahalanobis distance with a shrunk covariance (Lee
et al. 2018; Ledoit and Wolf 2004), and the larger of the two is ranked among held-out images: of images like the
training ones, a share p has a p-value below p.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.covariance import LedoitWolf

from lensstudy import symmetry
from lensstudy.attribution import group_averaged
from lensstudy.dataset import DataError, LensDataset, sky_and_noise
from lensstudy.observations import Observation, network_input
from lensstudy.simulate import simulate
from lensstudy.trained import TrainedNetwork, as_tensor, binned

__all__ = ["Cloud", "Familiarity", "Judge", "features", "simulations_like"]


QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)
RINGS = 6


def features(trained: TrainedNetwork, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network's last layer gets to see of images `(N, C, H, W)`, `(N, features)`, and how its input looks,
    `(N, looks)`: quantiles of its pixels, mean brightness in rings about the middle, and how neighbours differ.

    None of the looks changes as an image turns by 90 degrees.
    """
    seen: list[np.ndarray] = []
    inputs: list[np.ndarray] = []
    hooks = [
        trained.network.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].double().numpy())),
        trained.network.register_forward_pre_hook(lambda _, given: inputs.append(_looks(given[0].double().numpy()))),
    ]
    try:
        trained.predict(images)
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(seen), np.concatenate(inputs)


def _looks(images: np.ndarray) -> np.ndarray:
    """The looks `(N, looks)` of a network's inputs `(N, C, S, S)`, channels averaged."""
    images = images.mean(axis=1)
    size = images.shape[-1]
    y, x = np.indices((size, size)) - (size - 1) / 2
    ring = np.minimum(np.hypot(x, y) / (size / 2) * RINGS, RINGS).astype(int)
    rings = [images[:, ring == number].mean(axis=1) for number in range(RINGS)]
    steps = [np.abs(np.diff(images, axis=axis)).reshape(len(images), -1) for axis in (1, 2)]
    rough = np.median(np.concatenate(steps, axis=1), axis=1)
    return np.stack([*np.quantile(images, QUANTILES, axis=(1, 2)), *rings, np.log(rough + 1e-6)], axis=1)


@dataclass(frozen=True)
class Cloud:
    """Where the features of known images lie: class means `(classes, F)`, their spread within classes `(F,)` and the
    inverse covariance `(F, F)` in units of it."""

    means: np.ndarray
    spread: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, seen: np.ndarray, labels: np.ndarray) -> Cloud:
        """From features `(N, F)` and their classes `(N,)`."""
        present, index = np.unique(labels, return_inverse=True)
        means = np.stack([seen[index == i].mean(axis=0) for i in range(len(present))])
        within = seen - means[index]
        spread = within.std(axis=0)
        spread = np.maximum(spread, 0.01 * np.quantile(spread, 0.9) + 1e-12)  # a feature that hardly lives says little
        return cls(means, spread, LedoitWolf(assume_centered=True).fit(within / spread).precision_)

    def distance(self, seen: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance `(N,)` to the nearest class, a feature."""
        apart = (seen[:, None] - self.means) / self.spread
        return np.einsum("nci,ij,ncj->nc", apart, self.precision, apart).min(axis=1) / seen.shape[1]


@dataclass(frozen=True)
class Familiarity:
    """How familiar images are to one network: the clouds of its features and of its inputs' looks, the distances to
    either that one held-out image in a hundred exceeds, and the sorted scores of held-out images of the same kind."""

    trained: TrainedNetwork
    clouds: tuple[Cloud, Cloud]
    far: np.ndarray
    held_out: np.ndarray

    @classmethod
    def fit(cls, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> Familiarity:
        """From images like those of the training; `held_out` are others of the same kind, which only calibrate.

        Raises `DataError` where there are fewer than 20 images of either.
        """
        for name, part in (("known", known), ("held-out", held_out)):
            if len(part) < 20:
                raise DataError(f"{len(part)} {name} images are too few for a p-value; use 20 or more")
        seen, looks = features(trained, known.images)
        raw = cls(
            trained, (Cloud.fit(seen, known.labels), Cloud.fit(looks, np.zeros(len(looks)))), np.ones(2), np.ones(0)
        )
        distances = raw.distances(held_out.images)
        far = np.quantile(distances, 0.99, axis=0)
        return replace(raw, far=far, held_out=np.sort((distances / far).max(axis=1)))

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Distances `(N, 2)` of each image to the clouds of features and of looks; about 1 for a known one."""
        given = features(self.trained, images)
        return np.stack([cloud.distance(one) for cloud, one in zip(self.clouds, given, strict=True)], axis=1)

    def score(self, images: np.ndarray) -> np.ndarray:
        """The larger `(N,)` of the two distances, each in units of what one held-out image in a hundred exceeds: a
        network whose features are wild by themselves must not shout down what its input looks like."""
        return (self.distances(images) / self.far).max(axis=1)

    def p_value(self, images: np.ndarray) -> np.ndarray:
        """Share `(N,)` of held-out images at least as far away; never below one in their number plus one."""
        closer = np.searchsorted(self.held_out, self.score(images), side="left")
        return (len(self.held_out) - closer + 1) / (len(self.held_out) + 1)


@dataclass(frozen=True)
class Judge:
    """One trained network that is asked about real lenses: its answer is the probability of any substructure at all.

    `noise` is the deviation of the sky in its training images, to which real ones are brought.
    """

    label: str
    trained: TrainedNetwork
    familiarity: Familiarity
    noise: float

    @classmethod
    def of(cls, label: str, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> Judge:
        """From images like those of the training, see `Familiarity.fit`. Raises `DataError` where no class is smooth or
        the training images have no noise to compare with."""
        if "no_sub" not in trained.classes:
            raise DataError(
                f"{label} knows {', '.join(trained.classes)}; a network without the class no_sub cannot say"
            )
        noise = sky_and_noise(np.asarray(known.images).mean(axis=1))[1]
        if not noise > 0:
            raise DataError(f"{label} was trained on images without noise, which real ones cannot be brought to")
        return cls(label, trained, Familiarity.fit(trained, known, held_out), noise)

    @property
    def lens_light(self) -> bool:
        """Whether the training images showed the lens galaxy."""
        return bool(self.trained.card["data"].get("population", {}).get("lens_light"))

    @property
    def profile(self) -> str:
        """What the subhalos of the training images were made of: `point` or `truncated_nfw`."""
        return self.trained.card["data"].get("population", {}).get("subhalo_profile", "point")

    def view(self, image: np.ndarray, observation: Observation, center=(0.0, 0.0), seed: int = 0) -> np.ndarray:
        """`image` `(H, H)` of an observation as this network's images `(1, C, S, S)`; see `network_input`."""
        generator = np.random.default_rng(seed)
        return network_input(
            image, observation, self.trained.card, noise=self.noise, generator=generator, center=center
        )

    def substructure(self, images: np.ndarray, degrees: float | np.ndarray = 0.0) -> np.ndarray:
        """Probability `(N,)` that there is substructure: one less that of `no_sub`."""
        return 1 - self.trained.predict(images, degrees)[:, self.trained.classes.index("no_sub")]

    def attribution(self, images: np.ndarray) -> tuple[np.ndarray, float]:
        """What each pixel `(S, S)` of the first of `images` adds to the log odds of substructure, integrated from an
        empty sky and averaged over the group, and the size of such a pixel in arcseconds."""
        card, smooth = self.trained.card, self.trained.classes.index("no_sub")

        def log_odds(given: torch.Tensor) -> torch.Tensor:
            logits = self.trained.network(given)
            others = [number for number in range(logits.shape[1]) if number != smooth]
            return torch.logsumexp(logits[:, others], dim=1) - logits[:, smooth]

        def seen(given: np.ndarray) -> torch.Tensor:
            cut = symmetry.rotate(as_tensor(given), 0, size=card["crop"])
            return self.trained.scaling.apply(binned(cut, card["binning"]))

        found = group_averaged(log_odds, seen(images[:1]), seen(np.zeros_like(images[:1])))
        return found[0].sum(0).double().numpy(), card["data"]["pixel_scale"] * card["binning"]


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
