"""What each notebook starts from: the data set and the trained networks of a study, from its folder.

Stages talk through files. In a batch every file is there before a notebook needs it; by hand, a notebook opened first
finds nothing, and these functions then make what is missing from the same parameters, so that every notebook runs from
a fresh kernel.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.filtering import Rules, filter_images
from lensstudy.data.overview import direction
from lensstudy.data.reading import read
from lensstudy.data.resampling import resampled
from lensstudy.data.residuals import BESIDE, in_sigma
from lensstudy.data.simulation import simulate
from lensstudy.deployment.application import Application
from lensstudy.deployment.exporting import export
from lensstudy.deployment.predictor import Predictor
from lensstudy.evaluation.ladder import Ladder
from lensstudy.evaluation.scores import format_interval
from lensstudy.evaluation.shortcuts import shortcuts
from lensstudy.evaluation.staircase import Staircase, walk
from lensstudy.evaluation.transfer import HOME, TOGETHER, Transfer
from lensstudy.files import write_json
from lensstudy.lensing.between import Between
from lensstudy.lensing.populations import preset_named
from lensstudy.lensing.presets import PRESETS
from lensstudy.lensing.simulation import checked_request
from lensstudy.networks.registry import check_name, load_plugins
from lensstudy.progress import in_batch, processors, progress
from lensstudy.provenance import code_hash, data_state
from lensstudy.study import Study, check_sees_images
from lensstudy.training.fitting import fit
from lensstudy.training.run import TrainedNetwork, load_run, read_metrics
from lensstudy.training.untrained import Invariance

__all__ = [
    "application",
    "best_on_validation",
    "dataset",
    "keep_networks",
    "ladder",
    "presets",
    "seen",
    "staircases",
    "targets",
    "trained",
    "trainings",
    "transfer",
]


AS_IT_IS, BREADTH = "as it is", "breadth"  # ways of training in a transfer
WORTH_A_POOL = 9  # trainings from which on they are shared out
WORTH_PROCESSES = 500  # images of a class from which on several processes are worth the seconds that they take to start
LADDER_IMAGES = 30  # test images of each class and mass
TEST = 0x74657374  # so that no image of the test is one of a mixture's or a fresh one


def dataset(study: Study) -> LensDataset:
    """The data set of a study, filtered and split: read from `runs/<study>/dataset`, or made if it is not there, is
    damaged, or was made with other parameters or from other files. Where files have changed and no parameter has, a
    warning says so. What `seen` adds to it is kept beside it: fits take minutes, and several trainings need them."""
    made = _dataset(study)
    if study.residual != "none":
        _in_sigma(study, made)
    return made


def _dataset(study: Study) -> LensDataset:
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


def seen(study: Study) -> LensDataset:
    """The data set of a study with the channels that its networks see: the images, unless `residual` says otherwise."""
    return _seen(study, study)


def trained(study: Study, network: str, seed: int, share: float = 100.0) -> TrainedNetwork:
    """One trained network of a study, trained now on `share` percent of the images if that has not been done.

    Raises:
        ParameterError: the networks of this study see residuals; callers of this function predict on images.
    """
    check_sees_images(study)
    return _trained(study, network, seed, share)


def trainings(study: Study, share: float = 100.0) -> list[TrainedNetwork]:
    """Every network and seed of a study, in the order of its parameters, trained on `share` percent of the images.
    Raises what `trained` raises."""
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
        shown = _channels(in_sigma(test, processors()), study.residual) if study.residual != "none" else test
    else:
        shown = seen(study).part("test")
    found = {
        name: [_trained(study, name, seed).predict(shown.images) for seed in study.seeds] for name in study.networks
    }
    return Ladder(test, found, study.smooth_fit_images)


def keep_networks(study: Study, size: int, invariance: Invariance, costs: pd.DataFrame) -> None:
    """Write what was measured of the untrained networks of a study, for images of `size` pixels, to its folder:
    `networks.json`, with one entry a network of the table of invariance."""
    table = invariance.table.join(costs.drop(columns="parameters")).reset_index()
    content = {"size": size, "networks": json.loads(table.to_json(orient="records"))}
    study.folder.mkdir(parents=True, exist_ok=True)
    write_json(study.folder / "networks.json", content)


def staircases(study: Study) -> list[Staircase]:
    """The way from the preset of a study to that of each of its targets, one difference at a time, for the networks of
    the study and for a smooth fit. Raises `ParameterError` as `trained` does."""
    check_sees_images(study)
    dataset(study)  # before several processes ask for it
    jobs = [_Job(study, AS_IT_IS, network=name, seed=seed) for name in study.networks for seed in study.seeds]
    _train(jobs)
    networks = {name: [load_run(job.folder) for job in jobs if job.network == name] for name in study.networks}
    options = (study.image_size, study.noise_level or None, study.classes or None)
    home = checked_request(study.preset, 1, study.data_seed + 1, *options, study.population)
    found = []
    for target in targets(study).values():
        if target.data_path:
            continue
        options = (study.image_size, target.noise_level or None, study.classes or None)
        away = checked_request(target.preset, 1, study.data_seed + 2, *options, target.population)
        found.append(walk(Between(home, away), networks, study.staircase_images, fitted=study.staircase_fits))
    return found


def targets(study: Study) -> dict[str, Study]:
    """A study of the images of each target, by its name; those of a preset have its own number of pixels."""
    found = {}
    for target in study.targets:
        changed = {"population": {}, "noise_level": 0.0, "data_path": "", "classes": []} | target
        if changed["data_path"]:
            changed["test_images"] = 0
        elif "image_size" not in target:
            changed["image_size"] = preset_named(target["preset"]).instrument.image_size
        found[target["study"]] = study.model_copy(update=changed | {"study": f"{study.study}-{target['study']}"})
    return found


def transfer(study: Study) -> Transfer:
    """The networks of a study on each of its targets: as they are; with each of the `inputs`, alone and all together;
    and, with all of them, having learnt from other targets with labels (breadth) or from this one without
    (`adaptations`). What is missing is trained, on as many processes as there are processors."""
    ways = _ways(study)
    names, best = list(targets(study)), list(ways)[-1]
    jobs = [_Job(study, way) for way in ways]
    jobs += [_Job(study, best, BREADTH, name) for name in names if len(names) > 1]
    jobs += [_Job(study, best, adaptation, name) for adaptation in study.adaptations for name in names]
    every = [replace(job, network=name, seed=seed) for job in jobs for name in study.networks for seed in study.seeds]
    for way in ways:  # before anybody else asks for them
        for name in (HOME, *names):
            _shown(study, way, name)
    _train(every)
    runs: dict[str, dict[str, dict[str, list]]] = {}
    for job in every:
        run = load_run(job.folder)
        for tested in job.tested:
            runs.setdefault(job.name, {}).setdefault(tested, {}).setdefault(job.network, []).append(run)
    shown = {way: {name: _shown(study, way, name) for name in names} for way in ways}
    shown |= {job.name: shown[job.way] for job in jobs}
    tests = {way: {name: images.part("test") for name, images in given.items()} for way, given in shown.items()}
    homes = {way: _seen(study, shown).part("test") for way, shown in ways.items()}
    homes |= {job.name: homes[job.way] for job in jobs}
    tests = {way: given | {HOME: homes[way]} for way, given in tests.items()}
    unlabelled = {
        way: {name: images.part("train").images for name, images in given.items()} for way, given in shown.items()
    }
    return Transfer(runs, tests, unlabelled)


@dataclass(frozen=True)
class _Job:
    """One training of a transfer: the way in which its images are shown, what it does about which target, and with
    which network and seed. Processes are told of it, and find the images themselves."""

    study: Study
    way: str
    method: str = ""
    target: str = ""
    network: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        return self.method or self.way

    @property
    def tested(self) -> list[str]:
        """Adapted networks are tested on their target and, all together, at home."""
        return [self.target, HOME] if self.target else [HOME, *targets(self.study)]

    @property
    def settings(self) -> Study:
        own = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()) for part in (self.name, self.target) if part)
        changed: dict[str, Any] = {"study": f"{self.study.study}-{own}"}
        shown = _ways(self.study)[self.way]
        if self.method not in ("", BREADTH):
            changed |= {"adaptation": self.method, "monitor": "last"}
        elif not self.method and shown.model_copy(update={"match_pixels": self.study.match_pixels}) == self.study:
            changed["study"] = self.study.study  # its own trainings: at most targets are shown in another way
        return shown.model_copy(update=changed).training(self.network, self.seed)

    @property
    def folder(self) -> Path:
        return self.settings.training_folder()

    def fit(self) -> None:
        home = _shown(self.study, self.way, HOME)
        if self.method == BREADTH:
            others = [_shown(self.study, self.way, name) for name in targets(self.study) if name != self.target]
            home = mixture.pooled([home, *(one for one in others if one.classes == home.classes)])
        target = _shown(self.study, self.way, self.target).part("train") if self.method not in ("", BREADTH) else None
        fit(home, self.settings, folder=self.folder, target=target)


def _trained(study: Study, network: str, seed: int, share: float = 100.0) -> TrainedNetwork:
    settings = study.training(network, seed, share)
    return load_run(fit(seen(study), settings, folder=settings.training_folder()))


def _train(jobs: Sequence[_Job]) -> None:
    """Train what is missing, the same training once."""
    once = list({job.folder: job for job in reversed(jobs)}.values())[::-1]
    for _ in progress(_fitted(once), "trainings", len(once)):
        pass


def _fitted(jobs: Sequence[_Job]) -> Iterator[None]:
    """Train, each in a process of its own where there are several processors and enough to do."""
    if processors() == 1 or len(jobs) < WORTH_A_POOL:
        yield from map(_Job.fit, jobs)
        return
    with ProcessPoolExecutor(processors(), mp_context=multiprocessing.get_context("forkserver")) as pool:
        yield from pool.map(_Job.fit, jobs)


def _ways(study: Study) -> dict[str, Study]:
    """The study as it is, with each of its `inputs`, and with all of them."""
    ways = {AS_IT_IS: study}
    ways |= {name: _changed(study, changes, name) for name, changes in study.inputs.items()}
    if len(study.inputs) > 1:
        every = {parameter: value for changes in study.inputs.values() for parameter, value in changes.items()}
        others = [name for name, changes in study.inputs.items() if changes.keys() & study.group("data").keys()]
        ways[TOGETHER] = _changed(study, every, others[0] if len(others) == 1 else TOGETHER)  # the same images once
    return ways


def _changed(study: Study, changes: dict[str, Any], name: str) -> Study:
    """The study with some changes, and with a folder for its images if those are others."""
    own = re.sub(r"[^a-z0-9]+", "-", name.lower())
    data = {"study": f"{study.study}-{own}"} if changes.keys() & study.group("data").keys() else {}
    return Study.of(study.model_dump() | data | changes, f"inputs: {name}")


def _shown(study: Study, way: str, name: str) -> LensDataset:
    """The images of home or of a target as networks see them."""
    shown = _ways(study)[way]
    if name == HOME:
        return _seen(shown, shown)
    images = _seen(targets(study)[name], shown)
    scale = dataset(study).description.get("pixel_scale") if shown.match_pixels else None
    made = resampled(images, shown.image_size, scale, study.data_seed)
    if shown.residual != "none":  # the noise of a pixel grows with its side
        larger = made.description["pixel_scale"] / images.description["pixel_scale"]
        made = replace(made, images=np.asarray(made.images) / np.float32(larger))
    return made


def _seen(study: Study, shown: Study) -> LensDataset:
    """The images of a study with the channels of another."""
    images = _dataset(study)
    return images if shown.residual == "none" else _channels(_in_sigma(study, images), shown.residual)


def _channels(images: LensDataset, residual: str) -> LensDataset:
    """Of the two channels of `in_sigma`, those that networks see."""
    if residual == BESIDE:
        return images
    return replace(images, images=images.images[:, 1:], description=images.description | {"residual": residual})


def _in_sigma(study: Study, images: LensDataset) -> LensDataset:
    """`in_sigma` of the images of a study, kept beside them: fits take minutes."""
    folder = study.folder / "residuals"
    about = {"images": images.fingerprint, "code": code_hash("data.residuals", "lensing.fitting")}
    about |= {"camera": study.camera} if study.camera else {}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # of several trainings that ask at once, one fits
        made = _kept(folder, about)
        if made is None:
            made = in_sigma(images, processors(), study.camera)
            made.description |= {"made_from": about}
            made.save(folder)
    # Catalogue and parts are those of `images`: the same pixels may have been split anew.
    return replace(images, images=made.images, description=images.description | {"residual": BESIDE})


def _kept(folder: Path, about: dict[str, str]) -> LensDataset | None:
    """What was made from the same images by the same code, or None."""
    if not (folder / "dataset.json").exists():
        return None
    try:
        made = LensDataset.load(folder)
        if made.description.get("made_from") != about:
            return None
        made.check_fingerprint(folder)
        return made
    except DataError as error:
        warnings.warn(f"{error}; the smooth fits are made again", stacklevel=2)
        return None


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
