"""Training on one's own images without a study: from nothing, or fine-tuned from a trained network (transfer).

A network that has learnt from many simulated lenses needs few images of another kind to adapt. `train_on` reads a
folder, splits it, and fits with the settings of the network that it fine-tunes. `target_like` reads images without
labels that it is to work on, too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lensstudy.data.dataset import SCALE_TOLERANCE, DataError, LensDataset, sky_and_noise
from lensstudy.data.filtering import filter_images, kept
from lensstudy.data.reading import read
from lensstudy.data.resampling import resample_with_noise
from lensstudy.data.residuals import BESIDE, in_sigma, residual_of
from lensstudy.deployment.card import FORMAT
from lensstudy.files import read_json, whole_file
from lensstudy.progress import in_batch, processors
from lensstudy.study import Study
from lensstudy.text import as_cell
from lensstudy.training.adaptation import without_labels
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run, read_card, read_metrics, training_of

__all__ = ["ADAPTATION", "target_like", "train_on"]

ADAPTATION = "batch-norm"  # the default

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
    "adaptation",
)


def train_on(
    data: str | Path,
    out: str | Path,
    begin: str | Path | None = None,
    pixel_scale: float | None = None,
    reading: dict | None = None,
    target: str | Path | None = None,
    target_scale: float | None = None,
    target_camera: str = "",
    **settings,
) -> tuple[Path, dict]:
    """Train on the images at `data` (any layout that `read` knows) and write the run folder `out`; beside it stands
    the data set, as a study has it, and that of the target. Returns the run folder and its metrics.

    begin: a finished run folder whose weights are trained further, or the name of a network that comes with the
        package; its network and what it sees of an image are kept, the last layer begins anew where the classes are
        others.
    pixel_scale: arcseconds of one pixel of the images, which they must name or be given where the network to fine-tune
        knows that of its own; without one, predictions cannot tell whether an image has pixels of the same size.
    reading: options of `read`, such as `classes` and `labels`.
    target: images without labels, of another kind, that the network is to work on, too; `adaptation` among the settings
        says how it learns from them. What it predicts for them stands under `target` in the metrics.
    target_scale: arcseconds of one of their pixels, where they do not say.
    target_camera: the preset whose camera took them, where the settings name a `camera` of the others.
    settings: fields of `Study`, such as `epochs` and `learning_rate`. With `camera` a smooth lens is fitted to every
        image, and the network sees what it leaves beside the image, which carries over from one telescope to another.

    Raises `DataError` for images that cannot be used and `ValueError` for a folder that cannot be begun with.
    """
    begin = training_of(begin) if begin else None
    card = _card(begin) if begin else {}
    if card.get("residual", "none") != "none":
        raise ValueError(f"{begin}: its network sees the residuals of a smooth fit, which images that are read lack")
    passed_on = Study().group("network", "training").keys() - set(NOT_KEPT)
    given = {name: card[name] for name in passed_on & card.keys()}
    given |= {"crop": card["crop"], "scaling": card["scaling"]["kind"]} if card else {}
    given |= {"adaptation": ADAPTATION, "monitor": "last"} if target else {}
    camera = settings.get("camera", "")
    if camera and begin:
        raise ValueError(f"camera = '{camera}': {begin} sees images alone; train from nothing, or leave the camera out")
    if target and bool(camera) != bool(target_camera):
        raise ValueError("camera and target_camera belong together: a fit needs to know that of either kind of images")
    given |= {"residual": BESIDE} if camera else {}
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
    dataset = in_sigma(dataset, processors(), camera) if camera else dataset
    extension = (reading or {}).get("extension")
    unlabelled = target_like(dataset, target, target_scale, extension, target_camera) if target else None
    dataset.save(out / "dataset")
    if unlabelled:
        unlabelled.save(out / "target")
    run = fit(dataset, study, folder=folder, start_from=begin, target=unlabelled)
    if unlabelled is None:
        return run, read_metrics(run)
    predicted = load_run(run).predict(unlabelled.images)
    _write_answers(out / "target.csv", unlabelled, predicted, dataset.classes)
    shares = dict(zip(dataset.classes, np.bincount(predicted.argmax(1)) / len(predicted), strict=False))
    about = {"adaptation": study.adaptation, "images": len(predicted), "shares": shares}
    about |= {"entropy": without_labels({"": predicted})["entropy"].iloc[0]}
    return run, read_metrics(run) | {"target": about}


def target_like(
    dataset: LensDataset,
    path: str | Path,
    pixel_scale: float | None = None,
    extension: str | None = None,
    camera: str = "",
) -> LensDataset:
    """Read images without labels as a network that is trained on `dataset` would see them: in its pixels, with a pixel
    in the centre where it has one. Those that no data set would keep (not finite, copies, cut lenses) are omitted.

    Args:
        dataset: the images with labels.
        path: any layout that `read` knows; what folders are called does not matter.
        pixel_scale: arcseconds of one pixel, where the files do not say.
        extension: FITS extension, HDF5 dataset or npz key of the image.
        camera: the preset whose camera took them, where `dataset` has residuals.

    Returns:
        The images, all of class `unlabelled` unless a data set that was saved says otherwise.

    Raises:
        DataError: their pixels are of unknown size, and those of `dataset` are not.
    """
    found = kept(filter_images(read(path, labelled=False, pixel_scale=pixel_scale, extension=extension)))
    if residual_of(dataset) != "none":
        found = in_sigma(found, processors(), camera)
    scale, own = (one.description.get("pixel_scale") or 0.0 for one in (found, dataset))
    if own and not scale:
        raise DataError(
            f"{path}: does not say how large its pixels are, and those of the images with labels are {own:.4g} arcsec; "
            "say how large with --target-pixel-scale"
        )
    images = np.asarray(found.images, np.float32)
    if own and abs(scale / own - 1) > SCALE_TOLERANCE:
        size, generator = int(images.shape[-1] * scale / own + SCALE_TOLERANCE), np.random.default_rng(1)
        size -= (size - dataset.image_size) % 2
        images = np.stack([_resampled(image, scale, size, own, generator) for image in images])
        if residual_of(dataset) != "none":  # in units of the noise of a pixel, which grows with its side
            images = images / np.float32(own / scale)
    odd = (images.shape[-1] - dataset.image_size) % 2
    return replace(found, images=images[..., odd:, odd:])


def _resampled(image: np.ndarray, scale: float, size: int, own: float, generator: np.random.Generator) -> np.ndarray:
    bands = [resample_with_noise(one, scale, size, own, sky_and_noise(one[None])[1], generator) for one in image]
    return np.stack(bands).astype(np.float32)


def _write_answers(file: Path, images: LensDataset, predicted: np.ndarray, classes: tuple[str, ...]) -> None:
    """A table of what the network says of every image without a label."""
    table = pd.DataFrame(predicted, columns=list(classes))
    table.insert(0, "name", images.catalogue["name"].to_numpy())
    table["class"] = [classes[best] for best in predicted.argmax(1)]
    with whole_file(file) as partial:
        table.map(as_cell).to_csv(partial, index=False)


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
