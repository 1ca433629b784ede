"""What each notebook starts from: the data set and the trained networks of a study, from its folder.

Stages talk through files. In a batch every file is there before a notebook needs it; by hand, a notebook opened first
finds nothing, and these functions then make what is missing from the same parameters, so that every notebook runs from
a fresh kernel.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.filtering import Rules, filter_images
from lensstudy.data.overview import direction
from lensstudy.data.reading import read
from lensstudy.data.simulation import simulate
from lensstudy.deployment.application import Application
from lensstudy.deployment.exporting import export
from lensstudy.deployment.predictor import Predictor
from lensstudy.evaluation.ladder import Ladder
from lensstudy.evaluation.presets import AcrossPresets
from lensstudy.evaluation.scores import format_interval
from lensstudy.evaluation.shortcuts import shortcuts
from lensstudy.lensing.presets import PRESETS
from lensstudy.networks.registry import check_name, load_plugins
from lensstudy.progress import in_batch, processors, progress
from lensstudy.provenance import code_hash, data_state
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.recording import write_json
from lensstudy.training.run import TrainedNetwork, load_run, read_metrics
from lensstudy.training.untrained import Invariance

__all__ = [
    "across_presets",
    "application",
    "best_on_validation",
    "dataset",
    "keep_networks",
    "ladder",
    "presets",
    "studies_across_presets",
    "trained",
    "trainings",
]


WORTH_PROCESSES = 500  # images of a class from which on several processes are worth the seconds that they take to start
LADDER_IMAGES = 60  # test images of each class and mass
TEST = 0x74657374  # so that no image of the test is one of a mixture's or a fresh one


def dataset(study: Study) -> LensDataset:
    """The data set of a study, filtered and split: read from `runs/<study>/dataset`, or made if it is not there, is
    damaged, or was made with other parameters or from other files. Where files have changed and no parameter has, a
    warning says so."""
    load_plugins(study.plugins)
    for network in study.settings:
        check_name(network)  # a slip would leave its network with the settings of the others
    folder = study.folder / "dataset"
    wanted = study.group("data")
    state = data_state(study, "data")
    wanted |= {"data_state": state.digest, "code": code_hash("data.reading", "data.filtering", "data.mixture")}
    if (folder / "dataset.json").exists():
        try:
            made = LensDataset.load(folder)
            before = made.description.get("parameters", {})
            if before == wanted:
                made.check_fingerprint(folder)
                return made
            same_parameters = before | {name: wanted[name] for name in ("data_state", "code")} == wanted
            if same_parameters and (changes := state.changes()):
                said = f"the files of the data have changed: {changes}; the data set is made again"
                warnings.warn(said, stacklevel=2)
        except DataError as error:
            warnings.warn(f"{error}; it is made again", stacklevel=2)
    reading = folder / "reading"  # images on their way, so that a set larger than memory can be read
    made = _read(study, reading) if study.data_path else _simulated(study)
    made.check_classes()
    if study.split == "given" or study.test_images:
        made = made.split_as_given(study.validation_fraction, study.data_seed)
    else:
        made = made.split(study.test_fraction, study.validation_fraction, study.data_seed)
    if study.test_images:  # no files came in parts
        made.catalogue = made.catalogue.drop(columns="source_part")
    made.check_leaks()
    made.description |= {"parameters": wanted, "leak_free": made.fingerprint}
    made.save(folder)
    state.keep()
    shutil.rmtree(reading, ignore_errors=True)
    return LensDataset.load(folder)


def trained(study: Study, network: str, seed: int, share: float = 100.0) -> TrainedNetwork:
    """One trained network of a study, trained now on `share` percent of the images if that has not been done."""
    settings = study.training(network, seed, share)
    return load_run(fit(dataset(study), settings, folder=settings.training_folder()))


def trainings(study: Study, share: float = 100.0) -> list[TrainedNetwork]:
    """Every network and seed of a study, in the order of its parameters, trained on `share` percent of the images."""
    return [trained(study, network, seed, share) for network in study.networks for seed in study.seeds]


def best_on_validation(study: Study) -> TrainedNetwork:
    """The trained network of a study with the highest validation AUC, of equal ones that with the lowest loss."""

    def rank(run: TrainedNetwork) -> tuple[float, float]:
        metrics = read_metrics(study.training_folder(run.card["network"], run.card["seed"]))
        return metrics["validation_auc"], -metrics["validation_loss"]

    return max(trainings(study), key=rank)


def application(study: Study) -> Application:
    """The best network of a study by its validation part, exported to `runs/<study>/application/network`, and what it
    predicts for the images at `apply_to`, or for the test part where there are none."""
    images, best, folder = dataset(study), best_on_validation(study), study.folder / "application"
    training = study.training_folder(best.card["network"], best.card["seed"])
    exported = export(training, folder / "network", "onnx", images)
    predictor = Predictor(exported, study.apply_rotations, study.apply_pixel_scale or None)
    return Application(predictor, best.network, study.apply_to or images.part("test"), folder, progress=not in_batch())


def presets(images_per_class: int, seed: int) -> pd.DataFrame:
    """Every preset of the simulator side by side, at 64 pixels: what the ring moments see of `no_sub` against the rest,
    with its 95 % interval, the mean ellipticity of the flux (e1 along the axes, e2 along the diagonals) with its
    standard error, and the median detectability after re-fitting the macromodel."""
    rows = []
    for preset in progress(PRESETS, "presets"):
        noise = 0.01 if preset in ("model_2", "model_3") else None  # these two have none of their own
        images = simulate(preset, images_per_class, seed=seed, image_size=64, noise_level=noise)
        ring = shortcuts(images.split(0.1, 0.1, seed), "no_sub", ["ring_moments"]).table.iloc[0]
        flux = direction(images)
        seen = images.catalogue.groupby("class")["detectability_refit"].median()
        rows.append(
            {
                "preset": preset,
                "ring AUC": format_interval(ring["auc"], ring["low"], ring["high"], digits=2),
                "mean e1": f"{flux.mean[0]:+.3f} ± {flux.error[0]:.3f}",
                "mean e2": f"{flux.mean[1]:+.3f} ± {flux.error[1]:.3f}",
                "cdm [sigma]": seen["cdm"],
                "axion [sigma]": seen["axion"],
            }
        )
    return pd.DataFrame(rows)


def ladder(study: Study) -> Ladder:
    """Trained networks, a smooth fit and an ideal observer on the test images of a study. Of the preset `realistic` the
    substructure of new test images has the masses of `substructure_shares`; the smooth lenses are new too."""
    test = dataset(study).part("test")
    if study.preset == "realistic" and not study.data_path:
        own, boost = study.population, study.population.get("substructure_boost", 1.0)
        masses = [own | {"substructure_boost": boost * share} for share in study.substructure_shares]
        test = mixture.make(
            mixture.MIXTURE,
            max(study.test_images, LADDER_IMAGES * len(masses)),
            seed=int(np.random.SeedSequence((study.data_seed, 1, TEST)).generate_state(1)[0]),
            image_size=study.image_size,
            noise_level=study.noise_level,
            processes=1,
            progress=not in_batch(),
            population={"presets": [{"preset": study.preset, "population": one} for one in masses]},
            classes=study.classes or None,
        )
    found: dict[str, list[np.ndarray]] = {name: [] for name in study.networks}
    for run in trainings(study):
        found[run.card["network"]].append(run.predict(test.images))
    return Ladder(test, found, study.smooth_fit_images)


def keep_networks(study: Study, size: int, invariance: Invariance, costs: pd.DataFrame) -> None:
    """Write what was measured of the untrained networks of a study, for images of `size` pixels, to its folder:
    `networks.json`, with one entry a network of the table of invariance."""
    table = invariance.table.join(costs.drop(columns="parameters")).reset_index()
    content = {"size": size, "networks": json.loads(table.to_json(orient="records"))}
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(study.folder / "networks.json", content)


def across_presets(study: Study) -> AcrossPresets:
    """The networks of a study trained on each of its presets, on all others and on all together, and tested on each,
    all with the same settings and as many images. What is missing is trained, with a progress bar over the presets."""
    apart, others, together = studies_across_presets(study)
    tests = {name: dataset(one).part("test") for name, one in apart.items()}
    every = [*apart.values(), *others.values(), together]
    by_study: dict[str, dict[str, list[TrainedNetwork]]] = {}
    for one in progress(every, "presets"):
        networks = {name: [trained(one, name, seed) for seed in study.seeds] for name in study.networks}
        by_study[one.study] = networks
    return AcrossPresets(
        {name: by_study[one.study] for name, one in apart.items()},
        {name: by_study[one.study] for name, one in others.items()},
        by_study[together.study],
        tests,
        images=len(dataset(together).part("train")),
    )


def studies_across_presets(study: Study) -> tuple[dict[str, Study], dict[str, Study], Study]:
    """What a comparison across presets needs, all with as many images a class: a study of each preset alone, for each
    preset a study of all the others, and one of all together.

    The presets are those of the preset `mixture`; any other preset is put beside `realistic` with its own noise
    (and that one beside `model_3` with 2 %). Of two presets the other one alone takes the place of all the others.
    """
    if study.data_path:
        raise DataError(f"data_path = {study.data_path!r}: presets are compared with simulated images; leave it empty")
    given = study.population.get("presets") if study.preset == mixture.MIXTURE else None
    if given is None:
        own = {"preset": study.preset, "population": study.population, "noise_level": study.noise_level}
        other = {"preset": "realistic", "noise_level": 0.0}
        given = [own, {"preset": "model_3", "noise_level": 0.02} if study.preset == "realistic" else other]
    if len(given) < 2:
        raise DataError(f"presets = {given}: only one; a comparison needs two or more")
    mixture.components_of(mixture.MIXTURE, {"presets": given}, study.noise_level, study.data_seed)  # checks the list
    used = [str(one["preset"]) for one in given]
    names = [f"{one} {k}" if used.count(one) > 1 else one for k, one in enumerate(used, start=1)]

    def of(name: str, chosen: list[dict]) -> Study:
        alone = {"noise_level": study.noise_level, "population": {}} | chosen[0]
        mixed = {"preset": mixture.MIXTURE, "population": {"presets": chosen}}
        changed = {"study": f"{study.study}-{name.replace(' ', '-')}"} | (alone if len(chosen) == 1 else mixed)
        return study.model_copy(update=changed)

    apart = {name: of(name, [one]) for name, one in zip(names, given, strict=True)}
    others = {
        name: of(f"without {name}", given[:k] + given[k + 1 :]) if len(given) > 2 else apart[names[1 - k]]
        for k, name in enumerate(names)
    }
    return apart, others, of("all", given)


def _simulated(study: Study) -> LensDataset:
    """The images of a study; those simulated for the test alone come with the `source_part` test."""

    def make(images_per_class: int, seed: int) -> LensDataset:
        return mixture.make(
            study.preset,
            images_per_class,
            seed=seed,
            image_size=study.image_size,
            noise_level=study.noise_level,
            processes=1 if images_per_class < WORTH_PROCESSES else processors(),
            progress=not in_batch(),
            population=study.population,
            classes=study.classes or None,
        )

    made = make(study.images_per_class, study.data_seed)
    if not study.test_images:
        return made
    seed = int(np.random.SeedSequence((study.data_seed, 0, TEST)).generate_state(1)[0])
    test = make(study.test_images, seed)
    rows = [
        made.catalogue.assign(source_part="train"),
        test.catalogue.assign(name="test-" + test.catalogue["name"].astype(str), source_part="test"),
    ]
    about = made.description | {"test_images_per_class": study.test_images, "test_seed": seed}
    return LensDataset(
        np.concatenate([made.images, test.images]), pd.concat(rows, ignore_index=True), made.classes, about
    )


def _read(study: Study, folder: Path) -> LensDataset:
    try:
        rules = Rules(**study.filtering)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(Rules))
        raise DataError(f"filtering = {study.filtering}: {error}; known rules: {known}") from None
    options: dict[str, Any] = {"folder": folder, "progress": not in_batch(), "pixel_scale": study.pixel_scale or None}
    options |= {"classes": study.classes or None, "labels": study.labels or None, "extension": study.extension or None}
    dataset = read(study.data_path, label_columns=_columns(study.label_columns), **options)
    dataset.check_classes()
    return filter_images(dataset, rules)


def _columns(names: list[str]) -> tuple[str, str] | None:
    if len(names) not in (0, 2):
        raise DataError(f"label_columns = {names}: expected two, that of the names and that of the classes")
    return (names[0], names[1]) if names else None
