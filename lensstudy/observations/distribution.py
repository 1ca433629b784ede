"""Is a real image in the distribution of a network's training images? A p-value, and the probability of substructure.

A classifier gives probabilities to any image, also to noise. `TrainingDistribution` ranks the OOD score of an image
among those of held-out simulations: of images like the training ones, a share p has a p-value below p.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError, LensDataset, sky_and_noise
from lensstudy.deployment.card import FORMAT, CardError
from lensstudy.evaluation.ood import OODDetector, image_statistics, thumbnails
from lensstudy.files import read_json
from lensstudy.observations.cutouts import Observation, network_input
from lensstudy.progress import progress
from lensstudy.study import Study
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = [
    "TrainingDistribution",
    "SubstructureNetwork",
    "features",
    "open_network",
    "compare_networks",
    "network_table",
    "out_of_distribution_shares",
    "prepare_networks",
    "simulations_like",
]


def open_network(folder: str | Path) -> TrainedNetwork:
    """The network of a finished run folder.

    Raises `OSError` where there is none, and `CardError` for an exported network, which has no gradients, or for one
    that sees residuals, which real images come without.
    """
    folder = Path(os.path.expandvars(os.path.expanduser(folder)))
    try:
        exported = read_json(folder / "card.json").get("format") == FORMAT
    except (OSError, ValueError):
        exported = False
    if not exported:
        run = load_run(folder)
        if run.card.get("residual", "none") != "none":
            raise CardError(f"{folder}: its network sees the residuals of a smooth fit, and would be shown images")
        return run
    raise CardError(
        f"{folder}: is an exported network, which answers but has no gradients; give the run folder that it was "
        "exported from, such as runs/quick/training/d4-steerable-cnn-s1"
    )


@torch.no_grad()
def features(trained: TrainedNetwork, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features `(N, F)` before the last layer, of images `(N, C, H, W)`, and the `image_statistics` `(N, L)` and
    `thumbnails` `(N, T * T)` of the network's inputs.
    """
    found = []
    trained.network.eval()
    for start in range(0, len(images), 128):
        given = trained.preprocess(np.asarray(images[start : start + 128]))
        inputs = given.numpy()
        found.append((trained.network.features(given).double().numpy(), image_statistics(inputs), thumbnails(inputs)))
    seen, statistics, small = (np.concatenate(part) for part in zip(*found, strict=True))
    return seen, statistics, small


@dataclass(frozen=True)
class TrainingDistribution:
    """Of one network: the OOD detector fitted to images like its training images, and the sorted OOD scores
    `held_out` of others of the same kind."""

    trained: TrainedNetwork
    detector: OODDetector
    held_out: np.ndarray

    @classmethod
    def fit(cls, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> TrainingDistribution:
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
        """OOD score `(N,)` of each image: above 1 is what three held-out images in a hundred exceed."""
        return self.detector.score(*features(self.trained, images))

    def p_value(self, images: np.ndarray) -> np.ndarray:
        """p-value `(N,)` of being in distribution: the share of held-out images with at least this OOD score, never
        below one in their number plus one."""
        closer = np.searchsorted(self.held_out, self.score(images), side="left")
        return (len(self.held_out) - closer + 1) / (len(self.held_out) + 1)


@dataclass(frozen=True)
class SubstructureNetwork:
    """A trained network prepared for real lenses: it gives the probability of any substructure at all.

    `noise` is the deviation of the sky in its training images, to which real ones are brought; `examples` are images
    `(C, S, S)` like these, one of each class.
    """

    label: str
    trained: TrainedNetwork
    reference: TrainingDistribution
    noise: float
    examples: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, label: str, trained: TrainedNetwork, known: LensDataset, held_out: LensDataset) -> SubstructureNetwork:
        """From images like those of the training, see `TrainingDistribution.fit`. Raises `DataError` where no class
        is smooth or the training images have no noise to compare with."""
        if "no_sub" not in trained.classes:
            raise DataError(f"{label} knows {', '.join(trained.classes)}; expected no_sub among the classes")
        if not trained.card["data"].get("pixel_scale"):
            raise DataError(
                f"{label} was trained on images whose pixels are of unknown size, or of several sizes: no real image "
                "can be brought to it"
            )
        if len(_lens_light(trained.card)) > 1:
            raise DataError(f"{label} was trained with and without lens light; which one it expects is unknown")
        noise = sky_and_noise(np.asarray(known.images).mean(axis=1))[1]
        if not noise > 0:
            raise DataError(f"{label} was trained on images without noise, which real ones cannot be brought to")
        examples = {
            name: np.asarray(known.images[np.flatnonzero(known.labels == number)[0]])
            for number, name in enumerate(known.classes)
            if (known.labels == number).any()
        }
        return cls(label, trained, TrainingDistribution.fit(trained, known, held_out), noise, examples)

    @property
    def field_of_view(self) -> float:
        """Side of its training images in arcseconds."""
        return self.trained.card["image_size"] * self.trained.card["data"]["pixel_scale"]

    @property
    def lens_light(self) -> bool:
        """Whether the training images showed the lens galaxy."""
        return _lens_light(self.trained.card).pop()

    @property
    def profile(self) -> str:
        """What the subhalos of the training images were made of: `point` or, wherever that occurs, `truncated_nfw`."""
        profiles = {one.get("subhalo_profile", "point") for one in _populations(self.trained.card)}
        return "truncated_nfw" if "truncated_nfw" in profiles else "point"

    def prepare(self, image: np.ndarray, observation: Observation, center=(0.0, 0.0), seed: int = 0) -> np.ndarray:
        """`image` `(H, H)` of an observation as this network's images `(1, C, S, S)`; see `network_input`."""
        generator = np.random.default_rng(seed)
        return network_input(
            image, observation, self.trained.card, noise=self.noise, generator=generator, center=center
        )

    def substructure(self, images: np.ndarray, degrees: float | np.ndarray = 0.0) -> np.ndarray:
        """Probability `(N,)` that there is substructure: one less that of `no_sub`."""
        return 1 - self.trained.predict(images, degrees)[:, self.trained.classes.index("no_sub")]


def prepare_networks(
    trained: Sequence[TrainedNetwork], study: Study
) -> tuple[list[SubstructureNetwork], dict[str, str]]:
    """Prepare the networks of a study, and those in its `run_folders`, for real lenses.

    Args:
        trained: the trained networks of the study.
        study: whose `run_folders`, `reference_images` and `data_seed` count.

    Returns:
        The networks that can be asked, and of the others, by their name or folder, why not.

    Raises:
        DataError: none can be asked.
    """
    skipped: dict[str, str] = {}
    candidates = {label: (one, True) for label, one in _labelled(trained, ()).items()}
    for path in study.run_folders:
        try:
            candidates |= {label: (one, False) for label, one in _labelled([open_network(path)], candidates).items()}
        except (OSError, ValueError) as error:
            skipped[path] = str(error)
    networks, made = [], {}  # networks of one data set share their reference images
    for label, (one, own) in progress(candidates.items(), "reference images"):
        try:
            key = json.dumps(one.card["data"], sort_keys=True), own
            made[key] = made.get(key) or _reference_images(one, study, own)
            networks.append(SubstructureNetwork.of(label, one, *made[key]))
        except DataError as error:
            skipped[label] = str(error)
    if not networks:
        raise DataError("\n".join(["none of the networks can be applied to real images:", *skipped.values()]))
    return networks, skipped


def _labelled(trained: Sequence[TrainedNetwork], taken: Collection[str]) -> dict[str, TrainedNetwork]:
    """Networks by what tells them apart, such as `resnet18 model_3 s1`, with a number where that is `taken`."""
    found: dict[str, TrainedNetwork] = {}
    for one in trained:
        preset = one.card["data"].get("preset", "read")
        label = f"{one.card['network']} {preset} s{one.card['seed']}"
        before = sum(f"{known} ".startswith(f"{label} ") for known in (*taken, *found))
        found[f"{label} ({before + 1})" if before else label] = one
    return found


def _reference_images(trained: TrainedNetwork, study: Study, own: bool) -> tuple[LensDataset, LensDataset]:
    """Two sets of images like those of the training: simulated anew, or, of a network of the study itself that was
    trained on images that were read, the validation part and the test part."""
    if own and study.data_path:
        dataset = LensDataset.load(study.folder / "dataset")
        return dataset.part("validation"), dataset.part("test")
    seeds = (study.data_seed + 1000, study.data_seed + 1001)
    known, held_out = (simulations_like(trained, study.reference_images, seed) for seed in seeds)
    return known, held_out


def network_table(networks: Sequence[SubstructureNetwork], skipped: Mapping[str, str]) -> pd.DataFrame:
    """The networks that are asked, what they are given, and why others are not asked, see `prepare_networks`."""
    asked = [
        {
            "network": one.label,
            "classes": ", ".join(one.trained.classes),
            "field of view [arcsec]": one.field_of_view,
            "lens light": "shown" if one.lens_light else "subtracted",
            "subhalo profile": one.profile.replace("_", " "),
            "used": "yes",
        }
        for one in networks
    ]
    return pd.DataFrame([*asked, *({"network": name, "used": f"no: {why}"} for name, why in skipped.items())])


def out_of_distribution_shares(networks: Sequence[SubstructureNetwork], seed: int, p: float = 0.05) -> pd.DataFrame:
    """Share of more images like those of the training, and of images of pure noise, whose p-value is below `p`.

    The first should be about `p`, the second 1; the first is missing for a network whose training images were read.
    """
    rows = {}
    for one in networks:
        try:
            again = one.reference.p_value(simulations_like(one.trained, 20, seed).images)
        except DataError:
            again = np.full(1, np.nan)
        card = one.trained.card
        shape = (60, card["in_channels"], card["image_size"], card["image_size"])
        noise = np.random.default_rng(0).normal(0, one.noise, shape).astype(np.float32)
        rows[one.label] = {
            "more images like the training images": np.nanmean(again < p) if np.isfinite(again).all() else np.nan,
            "pure noise": np.mean(one.reference.p_value(noise) < p),
        }
    return pd.DataFrame(rows).T.rename_axis("network")


def compare_networks(
    networks: Sequence[SubstructureNetwork],
    images: Mapping[str, Mapping[str, np.ndarray]],
    changes: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """Predictions of every network for every lens, one row a lens and network.

    `images` holds the image `(1, C, S, S)` of each lens in each network's own pixels, `changes` the largest change of
    its probability under perturbations, both by network and lens. A class that a network does not have is empty;
    `prediction`, `substructure` or `no_sub`, whichever is more probable, compares networks of different classes.
    """
    classes = dict.fromkeys(name for one in networks for name in one.trained.classes)
    rows = []
    for lens in images[networks[0].label] if networks else ():
        for network in networks:
            image = images[network.label][lens]
            given = dict(zip(network.trained.classes, network.trained.predict(image)[0], strict=True))
            rows.append(
                {"image": lens, "network": network.label}
                | {name: given.get(name, np.nan) for name in classes}
                | {"prediction": "substructure" if given["no_sub"] < 0.5 else "no_sub"}
                | {"largest change": changes[network.label][lens], "p-value": network.reference.p_value(image)[0]}
            )
    return pd.DataFrame(rows)


def _populations(card: dict) -> list[dict]:
    """The population of the training images, or those of a mixture."""
    return [one.get("population", {}) for one in card["data"].get("presets", [card["data"]])]


def _lens_light(card: dict) -> set[bool]:
    """Whether the training images showed the lens galaxy; both, if only some components of a mixture did."""
    return {bool(population.get("lens_light")) for population in _populations(card)}


def simulations_like(trained: TrainedNetwork, images_per_class: int, seed: int) -> LensDataset:
    """Fresh images simulated like the network's training set, as its card describes it.

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
