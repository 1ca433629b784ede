"""Fitting a network with Lightning, by the same rules for every network of a comparison.

`fit` trains one network with one seed and leaves a run folder: `weights.safetensors` of the best checkpoint,
`card.json` (what the network is and how it was made), `metrics.json`, `history.csv` and `predictions.parquet` of the
validation part. The test part is never opened here. The order of images and every random rotation are drawn from the
seed and the step alone, so a training that was interrupted goes on from its last epoch and ends where it would have
ended anyway.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.multiprocessing import ProcessRaisedException

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess
from lensstudy.data.residuals import residual_of
from lensstudy.files import FileError, read_json, regular, write_json
from lensstudy.networks import registry as networks
from lensstudy.provenance import code_hash
from lensstudy.study import ParameterError, Study, home
from lensstudy.training.adaptation import Target
from lensstudy.training.batches import InOrder, Rows, loader, steps_per_epoch
from lensstudy.training.devices import check_devices
from lensstudy.training.optimisation import TrainingDiverged
from lensstudy.training.run import TrainedNetwork, build, load_run, read_metrics, training_of

__all__ = [
    "SIMULATOR",
    "TrainedNetwork",
    "TrainingDiverged",
    "card_of",
    "differences",
    "fit",
    "load_run",
    "range_test",
    "steps_per_epoch",
]

# Modules whose changes change no training, and those that only fresh images come from.
NO_PART = ("study", "provenance")
SIMULATOR = ("data.mixture", "data.simulation", "lensing")


def fit(
    dataset: LensDataset,
    study: Study,
    network: torch.nn.Module | None = None,
    folder: str | Path | None = None,
    watch: Callable[[pd.DataFrame], bool | None] | None = None,
    start_from: str | Path | None = None,
    target: LensDataset | None = None,
) -> Path:
    """Train a network on the train part of a data set; the validation part chooses the best checkpoint.

    A folder that already holds this very training, finished, is left as it is; one that holds its beginning goes on.
    What is damaged there is made again from what is not, with a warning.

    Args:
        dataset: images and classes, split into parts.
        study: its `seed`, `share` and the parameters of training; its `network` where no module is given.
        network: any module that maps images `(B, C, S, S)` to logits `(B, classes)`. A copy of it is trained.
        folder: the run folder; `study.training_folder()` if none is given.
        watch: called with the history, a table with one row an epoch, after each epoch. Where it returns True the
            training stops there; its folder opens like any other, and the next `fit` goes on from it.
        start_from: run folder of a training to fine-tune from, or the name of a network that comes with the package;
            what `study` says of its network, if none is given. The last layer begins anew where the classes differ.
        target: images of another kind, all of which the study's `adaptation` learns from. Their labels are not looked
            at; of a set that is split, give `part("train")`.

    Returns:
        The run folder, which `load_run` opens.

    Raises:
        TrainingDiverged: the loss is no longer finite; the best weights so far stay in the folder.
        ParameterError: parameters that do not go together, or not with this machine.
        ValueError: the network is unknown, or `start_from` is, or its weights do not fit.

    Example:
        >>> import tempfile
        >>> from lensstudy.data.simulation import simulate
        >>> images = simulate("model_1", 16, seed=1, image_size=16).split(0.2, 0.4, seed=1)
        >>> linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))
        >>> run = fit(images, Study(epochs=1, batch_size=8), network=linear, folder=tempfile.mkdtemp())
        >>> sorted(file.name for file in run.glob("*.json"))
        ['card.json', 'metrics.json']
    """
    settings, folder = study.training(), Path(folder or study.training_folder())
    unlabelled = None if target is None else Target(target.images)  # nothing else of it goes any further
    _check(settings)
    for images in (dataset, target):
        if images is not None:
            _check_residual(settings, images)
    _check_adaptation(settings, unlabelled)
    dataset.check_classes()
    networks.load_plugins(settings.plugins)
    start_from = start_from or _start_of(settings)
    start_from = training_of(start_from) if start_from else None
    card = card_of(dataset, settings, start_from, network)
    if unlabelled:
        _check_target(unlabelled, card)
        card["target"] = unlabelled.about()
    begun = _is_of(folder, card)
    last = folder / "last.ckpt"  # there as long as the training has not reached its end
    if (
        begun
        and (folder / "metrics.json").exists()
        and not last.exists()
        and _whole(folder, card, settings, dataset, network)
    ):
        return folder
    _check_split(dataset)
    import lightning  # takes seconds, and who looks at what is finished needs none of it
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    from lensstudy.training.module import Fit, Patience, quiet, trainer_of
    from lensstudy.training.recording import Progress, Recorder

    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(settings.threads)
    module = Fit(card, settings, dataset, start_from, network, unlabelled)
    batches = module.training_batches()
    _clear(folder, card, begun)  # only now that nothing is wrong with the parameters
    recorder = Recorder(folder, settings, dataset, watch)
    callbacks: list[Callback] = [
        recorder,
        ModelCheckpoint(
            folder, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
        ),
        Progress(),
    ]
    if settings.patience:
        monitor = "validation_loss" if settings.monitor == "last" else settings.monitor
        mode = "max" if monitor.endswith("auc") else "min"
        callbacks.append(Patience(monitor, patience=settings.patience, mode=mode))
    logger = TensorBoardLogger(folder, name=None, version="tensorboard") if settings.tensorboard else False
    with quiet():
        try:
            trainer_of(settings, callbacks, max_epochs=settings.epochs, logger=logger).fit(
                module,
                batches,
                loader(Rows(dataset.part("validation")), InOrder(len(dataset.part("validation")), 128)),
                ckpt_path=last if last.exists() else None,
                weights_only=True,
            )
        except ProcessRaisedException as error:  # what another process of this training met
            name, _, message = str(error).strip().splitlines()[-1].partition(": ")
            raise (TrainingDiverged(message) if name.endswith("TrainingDiverged") else error) from None
        except torch.OutOfMemoryError as error:
            raise ParameterError(
                f"batch_size = {settings.batch_size}: the GPU is out of memory ({str(error).partition('.')[0]}); run "
                "fewer trainings on it at a time (--cores), or use a smaller batch_size with accumulate"
            ) from None
    if not recorder.stopped:
        last.unlink(missing_ok=True)
    return folder


def range_test(dataset: LensDataset, study: Study, lowest: float = 1e-5, highest: float = 1.0) -> pd.DataFrame:
    """Measure the training loss while the learning rate grows exponentially (Smith 2017, arXiv:1506.01186).

    It stops where the loss explodes. Only training images are used, and nothing is kept of the network. Lightning's
    `lr_find` was tried in its place: it corrects the bias of its average as if one step more had been made, so that its
    first loss is half of what it is and everything after it looks like a rise.

    Args:
        dataset: a data set that is split.
        study: the settings; `range_test_steps` steps are made.
        lowest: learning rate of the first step.
        highest: learning rate of the last.

    Returns:
        A table with the columns `learning_rate`, `loss` (of the batch before that step) and `smoothed`, the average of
        the losses so far, in which the last tenth of the test counts most.

    Raises:
        ParameterError: the settings do not go together, or with this machine.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 12, seed=1, image_size=33).split(0.2, 0.2, seed=1)
        >>> list(range_test(lenses, Study(width=0.25, range_test_steps=10)).columns)
        ['learning_rate', 'loss', 'smoothed']
    """
    _check(study)
    networks.load_plugins(study.plugins)
    settings = study.training().model_copy(
        update={"devices": 1, "nodes": 1, "strategy": "auto", "accumulate": 1, "adaptation": "none"}
    )  # a short run pays for none
    import lightning

    from lensstudy.training.module import RangeTest, quiet, trainer_of

    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(settings.threads)
    module = RangeTest(card_of(dataset, settings), settings, dataset, lowest, highest)
    with quiet():
        trainer_of(settings, [], max_steps=settings.range_test_steps, max_epochs=-1, logger=False).fit(
            module, module.training_batches()
        )
    rates = np.geomspace(lowest, highest, settings.range_test_steps)[: len(module.losses)]
    found = pd.DataFrame({"learning_rate": rates, "loss": module.losses})
    return found.assign(smoothed=found["loss"].ewm(span=max(settings.range_test_steps / 10, 2)).mean())


def differences(cards: Sequence[dict]) -> pd.DataFrame:
    """What differs between trainings, beside network, seed and training images: one row for each network and number of
    training images, one column a setting. Seeds share a row where they were trained alike; an empty table says that
    all were."""
    cards = [card | {"scaling": card["scaling"]["kind"]} for card in cards]  # its numbers belong to the images shown
    fields = sorted(set().union(*cards) - {"network", "seed", "share", "training_images", "class_shares"})
    different = [name for name in fields if len({json.dumps(card.get(name), sort_keys=True) for card in cards}) > 1]
    rows = {}
    for card in cards:
        found = {"network": card["network"], "training_images": card["training_images"]}
        found |= {name: card.get(name) for name in different}
        rows[json.dumps(found, sort_keys=True)] = found
    return pd.DataFrame(rows.values()).set_index(["network", "training_images"])


def _start_of(settings: Study) -> str | Path:
    """What a study's network is fine-tuned from: a run folder, from the working folder, a name, or '' for nothing."""
    named = settings.start_from.get(settings.network, "")
    return home() / named if named and (home() / named).exists() else named


def _check(settings: Study) -> None:
    """What a schema cannot know: how the parameters go together, and with this machine."""
    together = settings.devices * settings.nodes
    if settings.batch_size % together:
        raise ParameterError(
            f"batch_size = {settings.batch_size}: {together} devices cannot share a batch equally; use a multiple"
        )
    check_devices(settings)
    if settings.tensorboard and not find_spec("tensorboard"):
        raise ParameterError("tensorboard = true: not installed here; run pip install tensorboard, or use false")
    if settings.curriculum and not settings.fresh_images:
        raise ParameterError("curriculum: it draws its images anew; say how many an epoch in fresh_images")
    if settings.fresh_images and settings.share < 100:
        raise ParameterError(f"share = {settings.share:g}: fresh images have no shares; use 100, or fresh_images: 0")


def _check_residual(settings: Study, dataset: LensDataset) -> None:
    """A network must not learn from images what it is said to learn from residuals, nor the other way round."""
    shown = residual_of(dataset)
    if shown != settings.residual:
        raise ParameterError(
            f"residual = '{settings.residual}': this data set has residual: {shown}; give what the network is to see, "
            "as lensstudy.stages.seen makes it of a study"
        )
    if settings.residual != "none" and settings.fresh_images:
        raise ParameterError(
            f"residual = '{settings.residual}': smooth lenses are not fitted to fresh images; use fresh_images: 0"
        )


def _check_adaptation(settings: Study, target: Target | None) -> None:
    """What adaptation needs: images of the target, one device, and no choice of an epoch."""
    method = settings.adaptation
    if method == "none":
        if target:
            raise ParameterError("target: nothing is learnt from it, since adaptation = 'none'; choose a method there")
        return
    if not target:
        raise ParameterError(f"adaptation = '{method}': no target images are given; give fit a target, or use none")
    if settings.devices * settings.nodes > 1:
        raise ParameterError(f"adaptation = '{method}': runs on one device; use devices: 1 and nodes: 1")
    if settings.monitor != "last":
        raise ParameterError(
            f"monitor = '{settings.monitor}': the validation part is of the source and cannot choose an epoch for the "
            f"target; with adaptation = '{method}' use last"
        )


def _check_target(target: Target, card: dict) -> None:
    """Images of the target may be larger than those of the source; the network sees the central pixels of both."""
    (count, bands, height, width), crop = target.images.shape, card["crop"]
    if not count or bands != card["in_channels"] or height != width or height < crop or (height - crop) % 2:
        raise ParameterError(
            f"target: {count} images of {height} x {width} pixels and {bands} bands, and the network sees the central "
            f"{crop} in {card['in_channels']} bands; cut them to a square of {crop} pixels, or of an even number more"
        )


def _check_split(dataset: LensDataset) -> None:
    """Raise `DataError` for a split with leaks, once for each data set; one that a stage has checked says so."""
    if dataset.fingerprint not in {*_leak_free, dataset.description.get("leak_free")}:
        dataset.check_leaks()
        _leak_free.add(dataset.fingerprint)


_leak_free: set[str] = set()  # fingerprints of data sets that this process has checked


def card_of(
    dataset: LensDataset,
    settings: Study,
    start_from: str | Path | None = None,
    network: torch.nn.Module | None = None,
) -> dict:
    """What the network is, what it was shown and by which code: enough to build it again and to trust it."""
    shown = dataset.part("train")
    if settings.share < 100:
        shown = shown.share(settings.share / 100, settings.seed)
    preprocess = Preprocess.fit(shown.images, settings.scaling, settings.crop, settings.binning)
    began = Path(start_from) / "weights.safetensors" if start_from else None
    card = settings.group("network", "training") | {
        "start_from": hashlib.sha256(began.read_bytes()).hexdigest() if began else "",
        "classes": list(dataset.classes),
        "in_channels": dataset.images.shape[1],
        "image_size": dataset.image_size,
        **preprocess.to_dict(),
        "class_shares": _class_shares(shown, settings),
        "training_images": settings.fresh_images * settings.epochs or len(shown),
        "data_fingerprint": dataset.fingerprint,
        # The fingerprint says whether the data are the same, whichever code has made them.
        "data": dataset.description | {"parameters": _without_code(dataset.description.get("parameters", {}))},
        "code": code_hash("training.fitting", without=NO_PART if settings.fresh_images else (*NO_PART, *SIMULATOR)),
        "versions": {name: version(name) for name in ("torch", "e2cnn", "lightning", "numpy")},
    }
    if network is not None:
        kind = type(network)
        card |= {"network": kind.__name__, "module": {"class": f"{kind.__module__}.{kind.__qualname__}"}}
        card["module"] |= {"layers": str(network), "first_weights": _weights_hash(network)}
        card["module"] |= {"source": _source_hash(network)}
    elif source := networks.source_hash(settings.network):
        card |= {"network_source": source, "plugins": settings.plugins}
    return json.loads(json.dumps(card, default=str))  # as it will be read back


def _class_shares(shown: LensDataset, settings: Study) -> list[float]:
    """Share of each class in the images that a network is shown; fresh ones are drawn in equal parts."""
    count = len(shown.classes)
    counts = np.ones(count) if settings.fresh_images else np.bincount(shown.labels, minlength=count)
    return (counts / counts.sum()).tolist()


def _weights_hash(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _source_hash(network: torch.nn.Module) -> str:
    """Hash of the code of every class in `network` that neither torch nor lensstudy has."""
    kinds = {type(module) for module in network.modules()}
    digest = hashlib.sha256()
    for kind in sorted(kinds, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        if kind.__module__.partition(".")[0] not in ("torch", "lensstudy"):
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):
                raise ParameterError(
                    f"network: the code of {kind.__qualname__} cannot be found, so a training could not say what it "
                    "trained; write the class into a module or a notebook cell"
                ) from None
    return digest.hexdigest()


def _without_code(parameters: dict) -> dict:
    return {name: value for name, value in parameters.items() if name not in ("code", "data_state")}


PARTS = ("metrics.json", "weights.safetensors", "history.csv", "predictions.parquet")  # of a finished training


def _is_of(folder: Path, card: dict) -> bool:
    """Whether a folder holds this very training, or its beginning."""
    try:
        return read_json(folder / "card.json") == card
    except FileNotFoundError:
        return False
    except FileError as error:
        warnings.warn(f"{error}; the training begins anew", stacklevel=3)
        return False


def _whole(folder: Path, card: dict, settings: Study, dataset: LensDataset, network: torch.nn.Module | None) -> bool:
    """Whether the files of a finished training can be read. Metrics and predictions are made again from the weights and
    the history; where these are damaged, nothing of the training is left."""
    try:
        history = pd.read_csv(regular(folder / "history.csv"))
        if not len(history) or history[["epoch", "validation_loss", "images_per_second"]].isna().any(axis=None):
            raise ValueError("history.csv is cut")
        with suppress(FileError):
            if read_metrics(folder)["epochs"] != len(history):
                raise ValueError("history.csv and metrics.json differ in the number of epochs")
        kept = build(card) if network is None else copy.deepcopy(network)
        networks.load_weights(kept, folder / "weights.safetensors")
    except Exception as error:  # whatever a damaged file makes its reader raise
        warnings.warn(f"{folder}: the training is damaged and begins anew ({error})", stacklevel=3)
        (folder / "metrics.json").unlink()
        return False
    try:
        read_metrics(folder)
        predictions = pd.read_parquet(regular(folder / "predictions.parquet"))
        if len(predictions[["name", "class", *dataset.classes]]) != len(dataset.part("validation")):
            raise ValueError("predictions.parquet is of other images")
    except Exception as error:  # whatever a damaged file makes its reader raise
        warnings.warn(f"{folder}: metrics and predictions are made again from the weights ({error})", stacklevel=3)
        network = networks.as_network(kept, card["network"], card["size"], card["in_channels"])
        trained = TrainedNetwork(network, Preprocess.from_dict(card), dataset.classes, card)
        np.save(folder / "validation.npy", trained.predict(dataset.part("validation").images))
        from lensstudy.training.recording import Recorder

        recorder = Recorder(folder, settings, dataset)
        recorder.history = history.to_dict("records")
        recorder.finish()
    return True


def _clear(folder: Path, card: dict, begun: bool) -> None:
    """Keep the beginning of this very training, if its checkpoint can be read; remove what another one, or a damaged
    one, left in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    if begun and last.exists():
        try:
            torch.load(regular(last), weights_only=True, map_location="cpu")["callbacks"]
            networks.read_weights(folder / "weights.safetensors")
            np.load(regular(folder / "validation.npy"), allow_pickle=False)
        except Exception as error:  # whatever a damaged checkpoint makes its reader raise
            warnings.warn(f"{last}: cannot be gone on from, so the training begins anew ({error})", stacklevel=3)
            begun = False
    if not (begun and last.exists()):
        for name in (*PARTS, "last.ckpt", "validation.npy"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    (folder / "metrics.json").unlink(missing_ok=True)  # of a training that was stopped and goes on now
    write_json(folder / "card.json", card)
