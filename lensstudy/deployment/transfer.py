"""Training on one's own images without a study: from nothing, or fine-tuned from a trained network (transfer).

A network that has learnt from many simulated lenses needs few images of another kind to adapt. `train_on` reads a
folder, splits it, and fits with the settings of the network that it fine-tunes.
"""

from __future__ import annotations

from pathlib import Path

from lensstudy.data.dataset import DataError
from lensstudy.data.filtering import filter_images
from lensstudy.data.reading import read
from lensstudy.deployment.card import FORMAT
from lensstudy.files import read_json
from lensstudy.progress import in_batch
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import read_card, read_metrics, training_of

__all__ = ["train_on"]

# What a training says of its own images and machine: the next one has others.
NOT_KEPT = (
    "learning_rate",
    "share",
    "fresh_images",
    "curriculum",
    "precision",
    "threads",
    "accelerator",
    "devices",
    "nodes",
)


def train_on(
    data: str | Path,
    out: str | Path,
    begin: str | Path | None = None,
    pixel_scale: float | None = None,
    reading: dict | None = None,
    **settings,
) -> tuple[Path, dict]:
    """Train on the images at `data` (any layout that `read` knows) and write the run folder `out`; beside it stands
    the data set, as a study has it. Returns the run folder and its metrics.

    begin: a finished run folder whose weights are trained further, or the name of a network that comes with the
        package; its network and what it sees of an image are kept, the last layer begins anew where the classes are
        others.
    pixel_scale: arcseconds of one pixel of the images, which they must name or be given where the network to fine-tune
        knows that of its own; without one, predictions cannot tell whether an image has pixels of the same size.
    reading: options of `read`, such as `classes` and `labels`.
    settings: fields of `Study`, such as `epochs` and `learning_rate`.

    Raises `DataError` for images that cannot be used and `ValueError` for a folder that cannot be begun with.
    """
    begin = training_of(begin) if begin else None
    card = _card(begin) if begin else {}
    kept = Study().group("network", "training").keys() - set(NOT_KEPT)
    given = {name: card[name] for name in kept & card.keys()}
    given |= {"crop": card["crop"], "scaling": card["scaling"]["kind"]} if card else {}
    study = Study.of(given | settings, "settings")
    out = Path(out)
    folder = out / "training" / f"{study.network}-s{study.seed}"
    if begin and folder.resolve() == begin.resolve():
        raise ValueError(f"{folder}: is the network to fine-tune, which would be lost; choose another folder or seed")
    dataset = read(data, pixel_scale=pixel_scale, progress=not in_batch(), **(reading or {}))
    dataset.check_classes()
    if card and dataset.images.shape[1] != card["in_channels"]:
        raise DataError(f"{data}: {dataset.images.shape[1]} bands, and the network takes {card['in_channels']}")
    if card and dataset.image_size < card["crop"]:
        raise DataError(
            f"{data}: images of {dataset.image_size} pixels, and the network sees the central {card['crop']}; use "
            "larger cutouts, or train from nothing"
        )
    known = card.get("data", {}).get("pixel_scale")
    if known and "pixel_scale" not in dataset.description:
        raise DataError(
            f"{data}: does not say how large its pixels are, and the network to fine-tune was trained on {known:.4g} "
            "arcsec; say how large yours are with --pixel-scale"
        )
    dataset = filter_images(dataset)
    if study.split == "given":
        dataset = dataset.split_as_given(study.validation_fraction, study.seed)
    else:
        dataset = dataset.split(study.test_fraction, study.validation_fraction, study.seed)
    dataset.check_leaks()
    dataset.save(out / "dataset")
    run = fit(dataset, study, folder=folder, start_from=begin)
    return run, read_metrics(run)


def _card(run: Path) -> dict:
    """The card of a finished training."""
    if not (run / "card.json").exists():
        raise ValueError(f"{run}: no training here (card.json is missing); give a run folder of a study")
    card = read_json(run / "card.json")
    if card.get("format") == FORMAT:
        raise ValueError(
            f"{run}: is an exported network, whose filters are fixed; give the run folder that it was exported from"
        )
    if not (run / "metrics.json").exists():
        raise ValueError(f"{run}: this training is not finished (metrics.json is missing)")
    return read_card(run)
