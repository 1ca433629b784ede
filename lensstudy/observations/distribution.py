"""Does an image look like anything the network was trained on? A score, its p-value, and when to say nothing.

A classifier always answers, also to noise. `Familiarity` measures by `strangeness` how far what the network's last
layer sees, and how its input looks, are from training-like images, and ranks that among held-out ones: of images like
the training ones, a share p has a p-value below p.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError, LensDataset, sky_and_noise
from lensstudy.data.preprocess import Preprocess
from lensstudy.deployment.card import FORMAT, Card
from lensstudy.deployment.plain import PlainNetwork, load_plain
from lensstudy.evaluation.attribution import group_averaged
from lensstudy.evaluation.ood import OODDetector, image_statistics
from lensstudy.observations.cutouts import Observation, network_input
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = ["Familiarity", "Judge", "features", "opened", "side_by_side", "simulations_like"]


def opened(folder: str | Path) -> TrainedNetwork:
    """The network of a finished run folder, or of a folder that `lensstudy export` wrote.

    Raises `OSError` where there is neither, and `CardError` for an exported network that must not be used.
    """
    folder = Path(os.path.expandvars(os.path.expanduser(folder)))
    try:
        exported = json.loads((folder / "card.json").read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError):
        exported = False
    if not exported:
        return load_run(folder)
    card = Card.read(folder)
    images = card.images
    about = {name: getattr(images, name) for name in ("image_size", "crop", "binning", "size", "scaling")}
    about |= {"network": card.network, "classes": card.classes, "in_channels": images.channels}
    about |= card.training | {"data": card.training["data"] | {"pixel_scale": images.pixel_scale}}
    return TrainedNetwork(load_plain(folder), Preprocess.from_dict(about), tuple(card.classes), about)  # type: ignore[arg-type]


def features(trained: TrainedNetwork, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the network's last layer gets to see of images `(N, C, H, W)`, `(N, features)`, and how its input looks,
    `(N, looks)`: quantiles of its pixels, mean brightness in rings about the middle, and how neighbours differ.

    None of the looks changes as an image turns by 90 degrees.
    """
    seen: list[np.ndarray] = []
    inputs: list[np.ndarray] = []

    def note(network, given):
        inputs.append(image_statistics(given[0].numpy()))
        if isinstance(network, PlainNetwork):
            seen.append(network.features(given[0])[1].double().numpy())

    hooks = [trained.network.register_forward_pre_hook(note)]
    if not isinstance(trained.network, PlainNetwork):
        last = trained.network.classifier
        hooks += [last.register_forward_pre_hook(lambda _, given: seen.append(given[0].double().numpy()))]
    try:
        trained.predict(images)
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(seen), np.concatenate(inputs)


@dataclass(frozen=True)
class Familiarity:
    """How familiar images are to one network: where those like its training images lie, and the sorted scores of
    held-out images of the same kind."""

    trained: TrainedNetwork
    detector: OODDetector
    held_out: np.ndarray

    @classmethod
    def fit(cls, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> Familiarity:
        """From images like those of the training; `held_out` are others of the same kind, which only calibrate.

        Raises `DataError` where there are fewer than 20 images of either.
        """
        for name, part in (("known", known), ("held-out", held_out)):
            if len(part) < 20:
                raise DataError(f"{len(part)} {name} images are too few for a p-value; use 20 or more")
        others = features(trained, held_out.images)
        detector = OODDetector.fit(*features(trained, known.images), known.labels, others)
        return cls(trained, detector, np.sort(detector.score(*others)))

    def score(self, images: np.ndarray) -> np.ndarray:
        """Strangeness `(N,)` of each image: above 1 is what one held-out image in a hundred exceeds."""
        return self.detector.score(*features(self.trained, images))

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
        if not trained.card["data"].get("pixel_scale"):
            raise DataError(
                f"{label} was trained on images whose pixels are of unknown size, or of several sizes: no real image "
                "can be brought to it"
            )
        if len(_lens_light(trained.card)) > 1:
            raise DataError(f"{label} was trained with and without lens light; nobody knows which it expects")
        noise = sky_and_noise(np.asarray(known.images).mean(axis=1))[1]
        if not noise > 0:
            raise DataError(f"{label} was trained on images without noise, which real ones cannot be brought to")
        return cls(label, trained, Familiarity.fit(trained, known, held_out), noise)

    @property
    def lens_light(self) -> bool:
        """Whether the training images showed the lens galaxy."""
        return _lens_light(self.trained.card).pop()

    @property
    def profile(self) -> str:
        """What the subhalos of the training images were made of: `point` or, wherever that occurs, `truncated_nfw`."""
        profiles = {one.get("subhalo_profile", "point") for one in _populations(self.trained.card)}
        return "truncated_nfw" if "truncated_nfw" in profiles else "point"

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
        card, seen, smooth = self.trained.card, self.trained.preprocess, self.trained.classes.index("no_sub")

        def log_odds(given: torch.Tensor) -> torch.Tensor:
            logits = self.trained.network(given)
            others = [number for number in range(logits.shape[1]) if number != smooth]
            return torch.logsumexp(logits[:, others], dim=1) - logits[:, smooth]

        found = group_averaged(log_odds, seen(images[:1]), seen(np.zeros_like(images[:1])))
        return found[0].sum(0).double().numpy(), card["data"]["pixel_scale"] * card["binning"]


def side_by_side(
    judges: Sequence[Judge], views: Mapping[str, Mapping[str, np.ndarray]], moves: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """What every network says of every lens, one row a lens and network, the networks of a lens below each other.

    `views` holds the images `(1, C, S, S)` of each lens in each network's own pixels, `moves` the largest change of its
    answer where nothing of substance changes, both by network and lens. A class that a network does not know is empty;
    `says`, `substructure` or `no_sub`, whichever is likelier, compares networks of different classes.
    """
    classes = dict.fromkeys(name for judge in judges for name in judge.trained.classes)
    rows = []
    for lens in views[judges[0].label] if judges else ():
        for judge in judges:
            image = views[judge.label][lens]
            given = dict(zip(judge.trained.classes, judge.trained.predict(image)[0], strict=True))
            rows.append(
                {"image": lens, "network": judge.label}
                | {name: given.get(name, np.nan) for name in classes}
                | {"says": "substructure" if given["no_sub"] < 0.5 else "no_sub"}
                | {"moves by": moves[judge.label][lens], "p-value": judge.familiarity.p_value(image)[0]}
            )
    return pd.DataFrame(rows)


def _populations(card: dict) -> list[dict]:
    """The population of the training images, or those of a mixture."""
    return [one.get("population", {}) for one in card["data"].get("recipes", [card["data"]])]


def _lens_light(card: dict) -> set[bool]:
    """Whether the training images showed the lens galaxy; both, if only some recipes of a mixture did."""
    return {bool(population.get("lens_light")) for population in _populations(card)}


def simulations_like(trained: TrainedNetwork, images_per_class: int, seed: int) -> LensDataset:
    """Fresh images by the recipe of the network's training set, as its card describes it.

    Raises `DataError` where the training images were not simulated: a part of the data set that was not trained on then
    takes their place.
    """
    about = trained.card["data"]
    if about.get("source") not in ("simulated", "mixed"):
        raise DataError(
            f"{trained.card['network']} was trained on images that were read, not simulated, so no more of them can be "
            "made; pass the validation part of its data set instead"
        )
    return mixture.make(
        about["preset"],
        images_per_class,
        seed=seed,
        image_size=about["image_size"],
        noise_level=about["noise_level"],
        population=about["population"],
    )
