"""Bundled networks: trained once, shipped with the package, open in a second and without training anything.

Each is made by a file of `params/pretrained/` and the command `lensstudy pretrain NAME`, and lies in
`lensstudy/networks/pretrained/NAME`, with a card that says what it learnt from, at which commit, what it is for, and
how well it does on images that no choice has seen. `pretrained(NAME)` opens one. In `training` beside it are its
learned weights, from which another can be fine-tuned.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lensstudy.deployment import model_card
from lensstudy.deployment.card import Card, CardError, file_hash
from lensstudy.networks import names
from lensstudy.provenance import code_version
from lensstudy.study import BUNDLE, Study
from lensstudy.text import nearest

if TYPE_CHECKING:
    from lensstudy.data.dataset import LensDataset
    from lensstudy.deployment.predictor import Predictor
    from lensstudy.networks.architectures import Classifier

__all__ = ["cards", "parameter_file", "pretrained", "put_in", "unseen"]

PARAMETERS = BUNDLE / "params" / "pretrained"
UNSEEN_SEED, UNSEEN_IMAGES = 104_729, 500  # added to the seed of the data; images of each class
ORIENTATIONS = 24
TRAINING = "training"  # folder of the learned weights
HALVED = 1000  # numbers in one array of weights from which on they are kept in float16
SIMULATED = "simulated by lensstudy itself, under its own licence (MIT)"


def pretrained(name: str, **options) -> Predictor:
    """Open a network that comes with the package.

    Args:
        name: one of `pretrained_names()`; `lensstudy networks` says what each is for.
        **options: those of `Predictor`, such as `rotations` and `pixel_scale`.

    Returns:
        A `Predictor`; its `card` says what the network takes, and how far to trust it.

    Raises:
        CardError: no network of this name comes with the package, or its files are damaged.

    Example:
        >>> predictor = pretrained("realistic-d4")
        >>> predictor.classes
        ('no_sub', 'cdm', 'axion')
    """
    from lensstudy.deployment.predictor import Predictor

    known = names.pretrained_names()
    if name not in known:
        near = nearest(str(name), known)
        hint = f"did you mean '{near}'? " if near else ""
        raise CardError(f"no network '{name}' comes with lensstudy; {hint}there are {', '.join(known)}")
    return Predictor(names.PRETRAINED / name, **options)


def cards() -> dict[str, Card]:
    """The card of every network that comes with the package, by name, after all their files were checked."""
    return {name: Card.read(names.PRETRAINED / name) for name in names.pretrained_names()}


# How they are made ----------------------------------------------------------------------------------------------------


def parameter_file(name: str) -> Path:
    """The file of `params/pretrained/` that makes the network `name`. Raises `CardError` where there is none."""
    known = sorted(file.stem for file in PARAMETERS.glob("*.yml"))
    if name in known:
        return PARAMETERS / f"{name}.yml"
    near = nearest(name, known)
    hint = f"did you mean '{near}'? " if near else ""
    raise CardError(f"no file '{name}.yml' in params/pretrained; {hint}there are {', '.join(known)}")


def unseen(study: Study, dataset: LensDataset | None, images: int, seed: int = UNSEEN_SEED) -> tuple[LensDataset, str]:
    """Images that no choice of `study` has seen, and what they are: `images` new ones of each class of the same
    population, by a seed of their own, or where its images were read, the test part of its `dataset`."""
    if study.data_path:
        if dataset is None:
            raise CardError(f"{study.study}: its images were read, and none are here; give its data set")
        return dataset.part("test"), "the test part"
    from lensstudy.data import mixture

    seed = study.data_seed + seed
    options: dict[str, Any] = study.model_dump(include={"image_size", "noise_level", "population", "classes"})
    return mixture.make(study.preset, images, seed=seed, **options), f"images simulated anew (seed {seed})"


def put_in(
    run: str | Path | Sequence[str | Path],
    study: Study,
    dataset: LensDataset,
    licence: str = "",
    out: str | Path | None = None,
) -> Path:
    """Put a finished training into the box: export it, score it on `unseen` images, and say so in its card.

    A network without symmetry is rounded to int8 where that changes little; an equivariant one is small as it is. The
    weights to fine-tune from are kept in float16, where there are many.

    Args:
        run: folder of the training, or those of several seeds, whose mean it becomes; to fine-tune from is the first.
        study: the parameters that made it; its `question` says what the network is for.
        dataset: its data set.
        licence: that of images that were read; none is needed for simulated ones.
        out: the folder to write (default: the study's name in `networks/pretrained`).

    Returns:
        The folder.

    Raises:
        CardError: the licence of images that were read is not said.
    """
    from lensstudy.deployment.exporting import export
    from lensstudy.training.run import load_run

    if study.data_path and not licence:
        raise CardError(f"{study.study}: learns from images of others; say their licence with --data-licence")
    version = code_version()  # before anything is written here
    first = Path(run if isinstance(run, str | Path) else run[0])
    folder, network = Path(out or names.PRETRAINED / study.study), load_run(first).network
    try:
        export(run, folder, format="onnx" if network.group else "int8", dataset=dataset)
    except CardError:
        if network.group:
            raise
        export(run, folder, dataset=dataset)  # rounded, it would not predict as the trained one does
    card = Card.read(folder)
    card.files |= _training(first, network, folder)
    images, what = unseen(study, dataset, UNSEEN_IMAGES)
    card.metrics["unseen"] = {"of": what} | _scores(folder, images)
    made = {"parameters": f"params/pretrained/{study.study}.yml", "command": f"lensstudy pretrain {study.study}"}
    card.training |= {"purpose": study.question, "made_by": made | version, "data_licence": licence or SIMULATED}
    if study.population and not study.data_path:
        card.limits.append(_population(study))
    model_card.write(card, folder)
    return folder


def _population(study: Study) -> str:
    """A sentence about the lenses of a study for the limits of a card."""
    if "presets" in study.population:
        which = f"the mixture of presets in params/pretrained/{study.study}.yml"
    else:
        changed = ", ".join(f"{name} = {value}" for name, value in study.population.items())
        which = f"the preset {study.preset} with {changed}"
    return f"Its lenses are of {which}: scores are for such alone."


def _training(run: Path, network: Classifier, folder: Path) -> dict[str, str]:
    """Write what another training can be started from, and return the SHA-256 of each file by name."""
    from lensstudy.networks.registry import save_weights

    for parameter in network.parameters():
        if parameter.numel() >= HALVED:
            parameter.data = parameter.data.half()
    weights = save_weights(network, folder / TRAINING / "weights.safetensors")
    copied = [shutil.copyfile(run / name, weights.with_name(name)) for name in ("card.json", "metrics.json")]
    weights.chmod(0o644)  # safetensors writes files that only their owner can read
    return {f"{TRAINING}/{file.name}": file_hash(file) for file in (weights, *copied)}


def _scores(folder: Path, dataset: LensDataset) -> dict:
    """AUC and accuracy with 95 % intervals over images, and how far probabilities move as images are rotated: over
    multiples of 90 degrees the largest change of all, over any angle the 95th percentile of each image's largest."""
    from lensstudy.deployment.predictor import Predictor
    from lensstudy.evaluation import scores

    predictor = Predictor(folder)
    rotated = [predictor.probabilities(dataset.images, 360 * k / ORIENTATIONS) for k in range(ORIENTATIONS)]
    labels, upright = dataset.labels, rotated[0]
    value = {"auc": scores.auc(labels, upright), "accuracy": float((upright.argmax(1) == labels).mean())}
    found: dict = {"images": len(labels)}
    for name in value:
        found[name] = {"value": value[name], "interval": list(scores.interval(labels, [upright], name))}
    changes = scores.largest_change(rotated)
    found["largest_change_at_90_degrees"] = float(scores.largest_change(rotated[:: ORIENTATIONS // 4]).max())
    found["rotation_consistency"] = float(np.quantile(changes, 0.95))
    return found
