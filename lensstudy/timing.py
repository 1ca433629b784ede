"""How long a study takes, before it runs and while it does: from the speed of earlier trainings on the same disk.

A training shows `epochs` times the training part of the images to its network. How many a second a network of this name
sees stands in the runs of earlier trainings; it is taken to fall with the number of pixels and of channels. Where none
has been trained, `IMAGES_PER_SECOND` of a common processor core stands in, or `SLOWER`. A notebook takes `NOTEBOOK_S`.
"""

from __future__ import annotations

import csv
import time
from contextlib import suppress
from itertools import accumulate
from math import prod
from pathlib import Path
from statistics import median

from lensstudy.files import FileError, read_json
from lensstudy.running import Jobs, under_way
from lensstudy.study import Study, home

__all__ = ["announced", "left", "seconds_of_jobs", "seconds_of_training"]

IMAGES_PER_SECOND = 120.0  # of 64 x 64 pixels in the training of d4-steerable-cnn, one core
SLOWER = {"resnet18": 33.0}  # likewise, of networks that take several times as long
CLASSES = 3  # of the simulator
NOTEBOOK_S = 60.0


def announced(study: Study, jobs: Jobs, processes: int) -> str:
    """What a run would do, in a sentence: trainings, and about how long on `processes` (0: on a cluster)."""
    if not jobs.total:
        return f"{study.study}: nothing to do"
    number = jobs.planned.get("train", 0) + jobs.planned.get("fit", 0)
    each, measured = seconds_of_jobs(study, jobs)
    total = sum(each[rule] * count for rule, count in jobs.planned.items())
    longest = max(each.values())
    found = f"{study.study}: {jobs.total} jobs, {number} of them trainings"
    if not images(study):
        return f"{found}; how long they take shows once its images have been read"
    took = f"about {in_words(total)} of work on one process each"
    if processes:
        took = f"about {in_words(max(total / processes, longest))} on {processes} processes"
    return f"{found}; {took} ({'speed of earlier trainings' if measured else 'nothing measured yet: a rough guess'})"


def left(study: Study, jobs: Jobs, since: float) -> str:
    """The time that is left of a run that began at `since`, in words; empty while too little is done to tell, and where
    no network is trained but within notebooks, one of which may take a minute and the next an hour."""
    if not {"train", "fit"} & jobs.planned.keys() or not images(study):
        return ""
    each, _ = seconds_of_jobs(study, jobs)
    total = sum(each[rule] * count for rule, count in jobs.planned.items())
    done = sum(each[rule] * count for rule, count in jobs.finished.items())
    done += each.get("train", 0) * max(_trained(study, since) - jobs.finished.get("train", 0), 0)  # page to come
    earlier = 0.0  # what a run before this one has done of trainings that go on
    for name, (n, of, _) in under_way(study, since).items():
        done += each.get("train", 0) * n / of
        earlier += each.get("train", 0) * _earlier_epochs(study.folder / "training" / name) / of
    if done - earlier < (total - earlier) / 20 or jobs.done == jobs.total:
        return ""
    return f"about {in_words((total - done) * (time.time() - since) / (done - earlier))} left"


def _earlier_epochs(folder: Path) -> int:
    """The epochs of a training that have not been trained since its card was written, when it began or went on."""
    try:
        since = (folder / "card.json").stat().st_mtime
        history = folder / "history.csv"
        span = history.stat().st_mtime - since
        with history.open() as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError):  # before its first epoch, or just removed
        return 0
    return sum(backwards > span for backwards in accumulate(reversed(seconds)))


def _trained(study: Study, since: float) -> int:
    """Trainings that have a page, those of the first seed on all images, that have been finished since then."""
    folders = (study.training_folder(network, study.seeds[0], 100) for network in study.networks)
    ended = [folder / "metrics.json" for folder in folders]
    return sum(file.exists() and file.stat().st_mtime >= since for file in ended)


def seconds_of_jobs(study: Study, jobs: Jobs) -> tuple[dict[str, float], bool]:
    """Seconds of one job of each rule on one process, and whether all trainings were measured before."""
    trainings = [seconds_of_training(study, network) for network in study.networks]
    measured = all(known for _, known in trainings)
    of_training = sum(seconds for seconds, _ in trainings) / len(trainings)
    of_search = of_training * study.search_epochs / study.epochs
    trials = len(study.alternatives) + prod(map(len, study.grid.values()))
    each = dict.fromkeys(jobs.planned, NOTEBOOK_S)
    each |= {"train": of_training + NOTEBOOK_S, "fit": of_training, "choose": of_search * trials}
    each["improve"] = NOTEBOOK_S + of_search * study.trials * len(trainings) + of_training * len(study.new_seeds) * 2
    return {rule: each[rule] for rule in jobs.planned}, measured


def seconds_of_training(study: Study, network: str) -> tuple[float, bool]:
    """Seconds of one training of a network on all images, and whether its speed was measured in an earlier one."""
    speed, measured = rate(study, network)
    return images(study) * study.training(network).epochs / speed, measured


def rate(study: Study, network: str) -> tuple[float, bool]:
    """Images a second in the training of a network, and whether that was measured in an earlier training."""
    settings = study.training(network)
    found = []
    for metrics in sorted((home() / "runs").glob(f"*/training/{network}-s*/metrics.json")):
        with suppress(FileError, FileNotFoundError, KeyError, TypeError):
            speed, trained = float(read_json(metrics)["images_per_second"]), read_json(metrics.with_name("card.json"))
            found.append(speed * _cost(trained) / _cost(settings.model_dump()))
    default = SLOWER.get(network, IMAGES_PER_SECOND) * (64 * 64) / _cost(settings.model_dump())
    return (median(found[-5:]), True) if found else (default, False)


def _cost(settings: dict) -> float:
    """What an image costs relative to others: its pixels as a network sees them, times the width."""
    side = settings["crop"] or settings["image_size"]
    return (side / settings["binning"]) ** 2 * max(settings["width"], 0.25)


def images(study: Study) -> int:
    """The images that one epoch shows; 0 where they have to be read first."""
    part = (1 - study.test_fraction) * (1 - study.validation_fraction)
    if study.fresh_images:
        return study.fresh_images
    if not study.data_path:
        return int(len(study.classes or range(CLASSES)) * study.images_per_class * part)
    import numpy as np  # `lensstudy --help` does without

    with suppress(OSError, ValueError):
        return int(len(np.load(study.folder / "dataset" / "images.npy", mmap_mode="r")) * part)
    return 0


def in_words(seconds: float) -> str:
    """A duration as one says it.

    Example:
        >>> in_words(40), in_words(600), in_words(9000), in_words(300000)
        ('1 minute', '10 minutes', '2.5 hours', '3.5 days')
    """
    for unit, size, most in (("minute", 60, 100), ("hour", 3600, 48)):
        if seconds < most * size:
            number = max(round(seconds / size, 1 if unit == "hour" else None), 1)
            return f"{number:g} {unit}" + ("" if number == 1 else "s")
    return f"{seconds / 86400:.1f} days"
