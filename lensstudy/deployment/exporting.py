"""A network leaves the study: `export` writes the folder of a training as one that predicts on its own, or those of
several seeds as one that predicts their mean.

The exported folder holds the network (`network.onnx` or, in int8, `network.int8.onnx`), the detector of images that are
out of the distribution of the training images (`distribution.safetensors`), `card.json`, which describes and seals the
rest, and `README.md`, which is made from it. It needs neither e2cnn nor anything of the study, and nothing in it can be
run. `Predictor` uses it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel

from lensstudy import __version__
from lensstudy.data.dataset import SCALE_TOLERANCE, About, DataError, LensDataset
from lensstudy.data.preprocess import Preprocess
from lensstudy.deployment import model_card
from lensstudy.deployment.card import FORMAT, FORMATS, Card, CardError, Images, file_hash
from lensstudy.deployment.onnx_network import INT8_FILE, ONNX_FILE, OnnxNetwork, write_int8, write_onnx
from lensstudy.evaluation.calibration import calibrate
from lensstudy.evaluation.odd_images import count_named
from lensstudy.evaluation.ood import METHOD, QUANTILE, OODDetector, image_statistics, thumbnails
from lensstudy.files import FileError, read_json, regular
from lensstudy.training.run import read_card

if TYPE_CHECKING:
    from lensstudy.networks.architectures import Classifier
    from lensstudy.training.fitting import TrainedNetwork

__all__ = ["FORMATS", "Card", "CardError", "export", "exported", "outputs"]

CACHE = "exported"  # inside the folder of a training

TOLERANCE = 1e-5  # of logits, relative to the largest of them
LICENCE = "MIT"
# How far int8 may be from the trained network on the validation images.
AGREEMENT, AUC_LOSS = 0.95, 0.002  # least share of images in the same class, most that the AUC may fall
SAMPLE = 2000  # training images to which the OOD detector is fitted
PIECE = 256  # images in memory at a time
RANGED = 256  # training images that set the ranges of int8
# What a training's card holds that has a place of its own in the card of the export.
ELSEWHERE = ("network", "classes", "in_channels", "image_size", "crop", "binning", "size", "scaling", "versions")
LIMITS = (
    "It tells the classes of its training images apart and knows no others: a lens of another kind gets one of them.",
    "It was trained on simulated or selected images; on telescope images its scores are not known.",
)


def export(
    run: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    format: str = "onnx",
    dataset: LensDataset | str | Path | None = None,
    pixel_scale: float | None = None,
    network: torch.nn.Module | None = None,
) -> Path:
    """Export the network of a finished training, as ONNX with a card.

    Args:
        run: folder of the training, as `fit` leaves it; or the folders of several that differ by their seeds, whose
            logits are averaged.
        out: folder of the export (default: inside the first `run`, `exported` or `exported-int8`).
        format: `onnx`, or `int8`, which is faster, and near the trained network instead of equal to it; the card
            says how near.
        dataset: the set it was trained on, or its folder (default: the one of its study). Without it the card has
            neither a range of brightness nor an OOD detector, and predictions say so.
        pixel_scale: arcseconds of one pixel, where the data set does not say.
        network: a module as it was given to `fit`, where one was.

    Returns:
        The folder of the export.

    Raises:
        CardError: if the exported network does not predict as the trained one does, if trainings differ by more than
            their seeds, or if it sees residuals.
        DataError: if `dataset` is not the one of the training, is missing where int8 needs it, or has another
            `pixel_scale`.

    Example:
        >>> import tempfile
        >>> from lensstudy import Study, fit, simulate
        >>> lenses = simulate("model_3", 12, seed=1, image_size=33).split(0.2, 0.2, seed=1)
        >>> run = fit(lenses, Study(network="d4-steerable-cnn", width=0.25, epochs=1), folder=tempfile.mkdtemp())
        >>> (export(run, dataset=lenses) / "card.json").exists()
        True
    """
    if format not in FORMATS:
        raise ValueError(f"format '{format}' is unknown; there are {', '.join(FORMATS)}")
    runs = [Path(one) for one in ([run] if isinstance(run, str | Path) else run)]
    run, trained = runs[0], _trained(runs, network)
    if trained.card.get("residual", "none") != "none":
        raise CardError(
            f"{run}: this network sees the residuals of a smooth fit (residual: {trained.card['residual']}), and "
            "images of one's own come without; export a training with residual: none"
        )
    known = trained.card["data"].get("pixel_scale")
    if pixel_scale and known and abs(pixel_scale / known - 1) > SCALE_TOLERANCE:
        raise DataError(
            f"pixel scale {pixel_scale:.4g}: the images of this training have {known:.4g} arcsec; leave it out"
        )
    data = _training_set(run, trained, dataset)
    if format == "int8" and data is None:
        raise DataError(f"{run}: int8 takes its ranges from training images; give the data set of its study")
    out = (Path(out) if out else run / (CACHE if format == "onnx" else f"{CACHE}-{format}")).resolve()
    _check_free(out)
    before, partial = _made(out), out.with_name(f".{out.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        card = _write(partial, runs, trained, data, format, pixel_scale)
        model_card.write(card, partial)
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors writes files that only their owner can read
        _place(partial, out, before, card)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _place(partial: Path, out: Path, before: tuple | None, card: Card) -> None:
    """Let the folder `partial` become `out`, at once, in place of an export that was there `before`. The same export,
    put there by another call meanwhile, stays, as that call may have begun to use it."""
    for attempt in (1, 2, 3):
        if _made(out) != before and _is_export(out, card):
            return
        old = partial.with_suffix(".old")
        try:
            with suppress(FileNotFoundError):
                out.rename(old)
            partial.rename(out)
            return
        except OSError:  # another call was faster by a moment
            if attempt == 3:
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _is_export(out: Path, card: Card) -> bool:
    """Whether `out` holds an export of the same training, in the same format, that knows as much as `card` says."""
    try:
        there = Card.read(out)
    except CardError:
        return False
    same = (there.weights, there.training, there.images) == (card.weights, card.training, card.images)
    return same and there.files.keys() == card.files.keys()


def _made(out: Path) -> tuple[int, int] | None:
    """What tells one folder of an export from the next one of the same name."""
    try:
        about = out.stat()
    except FileNotFoundError:
        return None
    return about.st_ino, about.st_mtime_ns


def exported(run: str | Path) -> Path:
    """The export of the finished training in the folder `run`, in `exported` inside it.

    It is the one that is there if it is of this training, not rounded, and knows the data set if that is at hand; else
    a new one. Raises what `export` raises.
    """
    run = Path(run)
    try:
        card = Card.read(run / CACHE)
    except CardError:  # none there, or one that must not be used
        return export(run)
    training = read_card(run)
    current = card.weights == file_hash(run / "weights.safetensors") and ONNX_FILE in card.files
    current = current and card.training == _settings(training)
    return run / CACHE if current and (card.in_distribution or not _has_its_data(run, training)) else export(run)


def _settings(training: dict) -> dict:
    """What the card of a training holds that has no place of its own in the card of the export."""
    return {name: value for name, value in training.items() if name not in ELSEWHERE}


def _has_its_data(run: Path, training: dict) -> bool:
    """Whether the data set of a training lies where its study left it."""
    about = _data_folder(run) / "dataset.json"
    try:
        return read_json(about, About).fingerprint == training["data_fingerprint"]
    except (OSError, FileError):  # none, or none that could be used
        return False


def _data_folder(run: Path) -> Path:
    return run.resolve().parent.parent / "dataset"


def _check_free(out: Path) -> None:
    """Raises `CardError` unless `out` is empty, missing, or an earlier export, which is replaced."""
    try:
        card = read_json(out / "card.json")
        own = {*card["files"], "card.json", model_card.README} if card["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):  # no card, or one of something else, such as a training
        own = set()
    if out.exists() and not out.is_dir():
        raise CardError(f"{out}: is a file; choose another folder")
    there = (file.relative_to(out).as_posix() for file in out.rglob("*") if not file.is_dir())
    if other := next((name for name in there if name not in own), ""):
        raise CardError(f"{out}: holds '{other}', which is of no exported network; choose another folder")


def _trained(runs: list[Path], network: torch.nn.Module | None) -> TrainedNetwork:
    """The network of a training, or the mean of those of several, whose card then lists their seeds."""
    from lensstudy.networks.averaging import Mean
    from lensstudy.training.run import load_run

    first, *others = (load_run(run, network) for run in runs)
    if not others:
        return first
    for run, other in zip(runs[1:], others, strict=True):
        names = first.card.keys() | other.card.keys()
        if differ := sorted(name for name in names - {"seed"} if first.card.get(name) != other.card.get(name)):
            raise CardError(f"{run}: differs from {runs[0]} in {', '.join(differ)}; name trainings that differ by seed")
    trained = (first, *others)
    card = first.card | {"seeds": [one.card["seed"] for one in trained]}
    return replace(first, network=Mean([one.network for one in trained]).eval(), card=card)


def _write(folder: Path, runs: list[Path], trained: TrainedNetwork, data, format: str, pixel_scale) -> Card:
    run = runs[0]
    network = OnnxNetwork(write_onnx(trained.network, folder / ONNX_FILE))
    equality = _check_equality(network, trained.network)
    labels, probabilities = _validation(runs, trained.classes)
    description = trained.card
    scale = description["data"].get("pixel_scale") or pixel_scale
    images = Images(
        channels=description["in_channels"],
        pixel_scale=scale,
        brightness=_brightness(data) if data else {},
        image_size=description["image_size"],
        **trained.preprocess.to_dict(),
    )
    card = Card(
        network=description["network"],
        symmetry=trained.network.group,
        classes=list(trained.classes),
        images=images,
        calibration=asdict(calibrate(labels, probabilities, balanced=description.get("class_weights") == "balanced")),
        in_distribution=None,
        metrics=_metrics(run, trained, labels, probabilities),
        training=_settings(description),
        limits=_limits(trained, scale, data),
        equality=equality,
        licence=LICENCE,
        weights=_weights(runs),
        versions=description["versions"] | {"lensstudy": __version__, "torch_export": torch.__version__},
        files={},
    )
    if data is not None:
        if format == "int8":
            network = _rounded(folder, card, network, trained.network, data)
            (folder / ONNX_FILE).unlink()
        train, validation = (data.part(name) for name in ("train", "validation"))
        rows = np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).astype(int)
        known, held_out = (outputs(card, network, part)[1:] for part in (train.images[rows], validation.images))
        labels = train.labels[rows]
        if (target := _target(run, description)) is not None:  # what it was adapted to is in distribution, too
            probabilities, *others = outputs(card, network, target)
            labels = np.concatenate([labels, probabilities.argmax(1)[::2]])
            known = [np.concatenate([one, other[::2]]) for one, other in zip(known, others, strict=True)]
            held_out = [np.concatenate([one, other[1::2]]) for one, other in zip(held_out, others, strict=True)]
        features, statistics, thumbnails = known
        detector = OODDetector.fit(features, statistics, thumbnails, labels, held_out)
        detector.save(folder / "distribution.safetensors")
        card.in_distribution = {"method": METHOD, "quantile": QUANTILE, "validation_images": len(validation)}
        card.in_distribution["odd_images"] = _odd_images(card, network, detector, data)
        card.limits.append(_named(card.in_distribution["odd_images"]))
    if card.warning:
        card.limits.insert(0, card.warning)
    card.files = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
    return card


# The network ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _check_equality(exported: OnnxNetwork, network: Classifier) -> dict[str, float]:
    """Largest difference of the exported logits to the trained network's, relative to the largest logit. Judged on
    noise, which reaches everything, by the written file. Raises `CardError` where it is not small."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, network.in_channels, network.image_size, network.image_size, generator=generator)
    expected = network.eval()(images)
    logits = exported.features(images)[0]
    difference = float((logits - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not difference <= TOLERANCE:
        raise CardError(f"exported as onnx, the logits differ by {difference:.1e}, more than {TOLERANCE:g}")
    return {"onnx": difference}


@torch.no_grad()
def outputs(card: Card, network: OnnxNetwork, images) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated probabilities of images `(N, C, H, W)`, and what an `OODDetector` judges them by: features before the
    last layer, image statistics and thumbnails."""
    preprocess, found = Preprocess.from_dict(card.images.model_dump()), []
    for start in range(0, len(images), PIECE):
        seen = preprocess(np.asarray(images[start : start + PIECE]))
        logits, features = network.features(seen)
        probabilities = torch.softmax(logits.double() / card.calibration["temperature"], dim=1).numpy()
        inputs = seen.numpy()
        found.append((probabilities, features.numpy().astype(np.float64), image_statistics(inputs), thumbnails(inputs)))
    probabilities, features, statistics, small = (np.concatenate(part) for part in zip(*found, strict=True))
    return probabilities, features, statistics, small


def _rounded(folder: Path, card: Card, network: OnnxNetwork, trained: Classifier, data: LensDataset) -> OnnxNetwork:
    """The network in int8, written into `folder`; the card then says how near it is to the trained one on the
    validation images. Raises `CardError` where it is not near."""
    from lensstudy.evaluation import scores as evaluation

    train, images = data.part("train"), data.part("validation").images
    preprocess = Preprocess.from_dict(card.images.model_dump())
    rows = np.linspace(0, len(train) - 1, min(RANGED, len(train))).astype(int)
    rounded = OnnxNetwork(write_int8(trained, preprocess(np.asarray(train.images[rows])), folder / INT8_FILE))
    expected, found = (outputs(card, one, images)[0] for one in (network, rounded))
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    labels = data.part("validation").labels
    loss = evaluation.auc(labels, expected) - evaluation.auc(labels, found)
    if agreement < AGREEMENT or loss > AUC_LOSS:
        raise CardError(
            f"in int8 the network names another class for {1 - agreement:.1%} of the validation images and "
            f"its AUC falls by {loss:.4f}; allowed are {1 - AGREEMENT:.0%} and {AUC_LOSS:g}. Export it as onnx"
        )
    change = np.abs(found - expected)
    card.limits.append("It is rounded to int8; scores and calibration are those of the network before that.")
    card.metrics["int8"] = {
        "of": "int8 against the trained network, on the validation images",
        "same_class": agreement,
        "auc_loss": loss,
        "mean_change": float(change.mean()),
        "largest_change": float(change.max()),
    }
    return rounded


# Odd images -----------------------------------------------------------------------------------------------------------


def _odd_images(card: Card, network: OnnxNetwork, detector: OODDetector, data: LensDataset) -> dict:
    """Which share of odd images still gets a class, by kind, and which share of clean ones gets none. They are of the
    test images, which nothing was fitted to, or of the validation images where there are none."""
    of = "test" if len(data.part("test")) else "validation"
    found = count_named(lambda images: detector.score(*outputs(card, network, images)[1:]), data.part(of).images)
    return {"of": f"{of} images"} | found


def _named(odd: dict) -> str:
    """A sentence about odd images for the limits of a card."""
    worst = sorted(odd["named"].items(), key=lambda item: -item[1])[:6]
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in worst if share)
    most = f", most often: {kinds}" if kinds else ""
    return (
        f"It still gives a class to {odd['overall']:.1%} of odd images ({len(odd['named'])} kinds of {odd['each']}, "
        f"seed {odd['seed']}){most}; {odd['false_alarms']:.1%} of {odd['images']} clean {odd['of']} get none."
    )


# What the card says ---------------------------------------------------------------------------------------------------


def _weights(runs: list[Path]) -> str:
    """SHA-256 of the weights of a training; of several, that of theirs."""
    hashes = [file_hash(run / "weights.safetensors") for run in runs]
    return hashes[0] if len(runs) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def _validation(runs: list[Path], classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the validation images, and the probabilities that the training kept; of several, those of the mean of
    their logits."""
    tables = [_kept_predictions(run, classes) for run in runs]
    labels = tables[0][0]
    if len(runs) == 1:
        return tables[0]
    together = np.exp(np.mean([np.log(np.maximum(each, np.finfo(float).tiny)) for _, each in tables], axis=0))
    return labels, together / together.sum(axis=1, keepdims=True)


def _kept_predictions(run: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    file = run / "predictions.parquet"
    try:
        table = pd.read_parquet(regular(file))
        return table["class"].map(classes.index).to_numpy(int), table[list(classes)].to_numpy(float)
    except Exception as error:  # whatever a damaged file makes pandas raise
        raise CardError(f"{file}: is damaged ({error}); `fit` with the study of this training makes it again") from None


def _training_set(run: Path, trained: TrainedNetwork, dataset: LensDataset | str | Path | None) -> LensDataset | None:
    """The data set of the training: the given one, or that of the study that the run folder belongs to."""
    folder = _data_folder(run)
    given = dataset is not None
    if not given and not (folder / "dataset.json").exists():
        return None
    if not isinstance(dataset, LensDataset):
        dataset = LensDataset.load(dataset or folder)
    if dataset.fingerprint == trained.card["data_fingerprint"]:
        return dataset
    if not given:
        return None
    raise DataError(
        f"{run}: was trained on other images (fingerprint {trained.card['data_fingerprint']}) than those of this data "
        f"set ({dataset.fingerprint}); give the data set of its study"
    )


class TestScores(BaseModel):
    """A row of the table that the analysis of a study leaves."""

    network: str
    perturbation: str | None = None
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None


def _target(run: Path, training: dict) -> np.ndarray | None:
    """The images without labels that a training was adapted to, where `lensstudy train` left them."""
    from lensstudy.training.adaptation import Target

    folder = _data_folder(run).with_name("target")
    if "target" not in training or not (folder / "dataset.json").exists():
        return None
    images = LensDataset.load(folder).images
    return images if Target(images).about() == training["target"] else None


def _brightness(dataset: LensDataset) -> dict[str, float]:
    """What values the training images hold, for whoever wonders whether theirs are alike."""
    train = dataset.part("train")
    rows = np.linspace(0, len(train) - 1, min(256, len(train))).astype(int)
    images = np.asarray(train.images[rows], np.float64)
    measures = {"minimum": images.min((1, 2, 3)), "mean": images.mean((1, 2, 3)), "maximum": images.max((1, 2, 3))}
    return {name: float(np.median(values)) for name, values in measures.items()}


def _metrics(run: Path, trained: TrainedNetwork, labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Scores with 95 % intervals over images: on the validation images, and on the test images where the study has
    analysed them."""
    from lensstudy.evaluation import scores as evaluation

    value = {
        "auc": evaluation.auc(labels, probabilities),
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
    }
    validation: dict = {"images": len(labels)}
    for name in value:
        interval = evaluation.interval(labels, [probabilities], name)
        validation[name] = {"value": value[name], "interval": list(interval)}
    found: dict = {"validation": validation}
    table = run.resolve().parent.parent / "analysis" / "table.json"
    if table.exists() and trained.card.get("share", 100) == 100:  # what the study analyses saw all images
        rows = read_json(table, list[TestScores])
        of_network = [row.model_dump() for row in rows if row.network == trained.card["network"]]
        found["test"] = {"of": "mean over the seeds of the study"} | {
            row["perturbation"]: {
                name: {"value": row[name], "interval": [row[f"{name}_low"], row[f"{name}_high"]]}
                for name in ("auc", "accuracy")
            }
            for row in of_network
        }
    return found


def _limits(trained: TrainedNetwork, pixel_scale: float | None, dataset: LensDataset | None) -> list[str]:
    balanced = trained.card.get("class_weights") == "balanced"
    frequent = "equally frequent" if balanced else "as frequent as they were in the training images"
    limits = [
        *LIMITS,
        f"Probabilities assume that the classes are {frequent}; give yours as prior if they are not.",
    ]
    if pixel_scale is None:
        limits.append(
            "Its training data does not say how large a pixel is: images of another size are rejected, and of others "
            "it cannot tell whether their pixels are as large."
        )
    if dataset is None:
        limits.append("Its training images were not at hand: it cannot tell which images are out of distribution.")
    if trained.card.get("augmentation") == "none":
        limits.append("It was trained without rotated images.")
    if target := trained.card.get("target"):
        limits.append(
            f"It was adapted ({trained.card['adaptation']}) to {target['images']:,} images without labels: its scores "
            "are those on images with labels, and do not say how often it is right on the others."
        )
    return limits
