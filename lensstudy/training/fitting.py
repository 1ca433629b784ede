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
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.multiprocessing import ProcessRaisedException
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ExponentialLR
from torchmetrics.functional.classification import multiclass_auroc
from tqdm.auto import tqdm

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess, as_tensor
from lensstudy.files import FileError, read_json, regular
from lensstudy.networks import groups as symmetry
from lensstudy.networks import registry as networks
from lensstudy.provenance import code_hash
from lensstudy.study import ParameterError, Study, home
from lensstudy.training.adaptation import FAR, Outputs, PseudoLabels, Target, adapt_batch_norm, loss_on_target
from lensstudy.training.batches import InOrder, Rows, loader, training_loader
from lensstudy.training.devices import check_devices, device_of
from lensstudy.training.distributed import place, synchronise
from lensstudy.training.optimisation import averaged_network, optimizer_of, plateau_of, schedule_of
from lensstudy.training.recording import Progress, Recorder, WholeCheckpoints, in_batch, write_json
from lensstudy.training.run import TrainedNetwork, build, load_run, read_card, read_metrics, training_of

__all__ = [
    "SIMULATOR",
    "TrainedNetwork",
    "TrainingDiverged",
    "card_of",
    "differences",
    "fit",
    "in_batch",
    "load_run",
    "range_test",
    "steps_per_epoch",
]

# Modules whose changes change no training, and those that only fresh images come from.
NO_PART = ("study", "provenance")
SIMULATOR = ("data.mixture", "data.simulation", "lensing")
EXPLODED = 100.0  # times the loss of guessing: no training comes back from there
RECALIBRATION_IMAGES = 256  # enough for batch norm's statistics to be known within a few percent


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite, or has exploded. The message names the step and the learning rate."""


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
    _check_residual(settings, dataset)
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
    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(settings.threads)
    module = _Fit(card, settings, dataset, start_from, network, unlabelled)
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
        callbacks.append(_Patience(monitor, patience=settings.patience, mode=mode))
    logger = TensorBoardLogger(folder, name=None, version="tensorboard") if settings.tensorboard else False
    with _quiet():
        try:
            _trainer(settings, callbacks, max_epochs=settings.epochs, logger=logger).fit(
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
    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(settings.threads)
    module = _RangeTest(card_of(dataset, settings), settings, dataset, lowest, highest)
    with _quiet():
        _trainer(settings, [], max_steps=settings.range_test_steps, max_epochs=-1, logger=False).fit(
            module, module.training_batches()
        )
    rates = np.geomspace(lowest, highest, settings.range_test_steps)[: len(module.losses)]
    found = pd.DataFrame({"learning_rate": rates, "loss": module.losses})
    return found.assign(smoothed=found["loss"].ewm(span=max(settings.range_test_steps / 10, 2)).mean())


def steps_per_epoch(dataset: LensDataset, settings: Study) -> int:
    """Batches of one epoch: once through the whole train part, whatever share of it is shown, or the fresh images."""
    settings = settings.training()
    images = settings.fresh_images or len(dataset.part("train"))
    return max(images // settings.batch_size, 1)


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


class _Fit(lightning.LightningModule):
    """One network in training: what it sees, its loss and its optimiser."""

    def __init__(
        self,
        card: dict,
        settings: Study,
        dataset: LensDataset,
        start_from: str | Path | None = None,
        network: torch.nn.Module | None = None,
        target: Target | None = None,
        stop_where_it_diverges: bool = True,
    ):
        super().__init__()
        self.network = build(card) if network is None else copy.deepcopy(network)
        if start_from:
            _fine_tune_from(self.network, Path(start_from), card["classes"])
        self.averaged = averaged_network(self.network, settings)
        if settings.devices * settings.nodes > 1:
            synchronise(self.network)
        self.settings, self.classes, self.preprocess = settings, card["classes"], Preprocess.from_dict(card)
        self.stop_where_it_diverges = stop_where_it_diverges
        self.train_part, self.batches = dataset.part("train"), steps_per_epoch(dataset, settings)
        if settings.share < 100:
            self.train_part = self.train_part.share(settings.share / 100, settings.seed)
        shares = torch.tensor(card["class_shares"])
        weights = torch.where(shares > 0, 1 / (len(self.classes) * shares), 0.0)
        self.register_buffer("class_weights", weights if settings.class_weights == "balanced" else None, False)
        self.steps = settings.epochs * math.ceil(self.batches / settings.accumulate)
        self.target, self.adaptation = target, None
        if target:
            example = self.preprocess(target.sample(1))
            self.adaptation = loss_on_target(self.network, settings, example)

    def training_batches(self):
        return training_loader(self.train_part, self.batches, self.settings)

    @property
    def judged(self) -> torch.nn.Module:
        """The network that is validated and kept: the average, once there is one."""
        return self.averaged.module if self.averaged is not None and self.averaged.n_averaged > 0 else self.network

    def seen(self, images: torch.Tensor, draw: int | None = None, part: tuple[int, int] = (0, 1)) -> torch.Tensor:
        """What the network sees of `images`, rotated at random by the draw with this number, or upright; `part` is this
        process's of a batch that several share. Outside of autocast: the pixels' positions need single precision."""
        angles = self.settings.augmentation
        if draw is not None and angles != "none":
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + draw)
            images = symmetry.random_rotation(images, generator, self.preprocess.crop, part, angles)
        return self.preprocess(images)

    def training_step(self, batch, number):
        images, labels = batch
        draw = self.current_epoch * self.batches + number
        with self._single_precision():
            images = self.seen(images, draw, part=place())
        adapting = self.adaptation is not None and self.progress(draw) > 0
        if adapting:
            source, target = self._both(images, draw, self.target_rows[number])
            logits = source.logits
        else:
            logits = self.network(images).float()
        loss = cross_entropy(logits, labels, self.class_weights, label_smoothing=self.settings.label_smoothing)
        self._stop_unless(loss < EXPLODED * math.log(len(self.classes)), f"the loss is {loss.item():.3g}")
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        if adapting:
            with self._single_precision():
                loss = self.adaptation(loss, source, target, self.progress(draw))
            self._stop_unless(loss.isfinite(), f"the loss on target images is {loss.item():.3g}")
        return loss

    def progress(self, draw: int) -> float:
        """How far adaptation is in the step with this number: from 0, where it begins, to 1 at the end."""
        start = self.settings.adaptation_start
        return max(0.0, (draw / (self.settings.epochs * self.batches) - start) / (1 - start))

    def _both(self, source: torch.Tensor, draw: int, rows: np.ndarray) -> tuple[Outputs, Outputs]:
        """What the network says of a batch of the source and of the target images `rows`, in one batch."""
        with self._single_precision():
            target = self.seen(as_tensor(self.target.images[rows]).to(self.device), draw + FAR)
        logits, features = networks.logits_and_features(self.network, torch.cat([source, target]))
        (of_source, of_target), parts = logits.float().split(len(source)), features.float().split(len(source))
        where = torch.as_tensor(rows, device=self.device)
        return Outputs(parts[0], of_source), Outputs(parts[1], of_target, where)

    def _single_precision(self):
        return torch.autocast(self.device.type, enabled=False)

    def _stop_unless(self, fine: bool | torch.Tensor, what: str) -> None:
        if self.stop_where_it_diverges and not fine:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise TrainingDiverged(
                f"{self.settings.network}: {what} in step {self.global_step} at a learning rate of {rate:.2g}. Lower "
                "learning_rate or gradient_clip, or raise warmup_fraction."
            )

    def on_train_epoch_start(self):
        self.norms = []
        if self.adaptation is not None:
            self.target_rows = self.target.batches(self.settings, self.batches, self.current_epoch)
            # A step in which adaptation begins within this epoch needs labels, too.
            if isinstance(self.adaptation, PseudoLabels) and self.progress((self.current_epoch + 1) * self.batches) > 0:
                self.network.eval()
                self.adaptation.label(self._probabilities, self.target)
                self.network.train()

    def _probabilities(self, images: torch.Tensor) -> torch.Tensor:
        with self._single_precision():
            return self.network(self.seen(images.to(self.device))).softmax(1)

    def on_before_optimizer_step(self, optimizer):
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if self.settings.precision != "16-mixed":  # there the scaler leaves out such steps itself
            self._stop_unless(norm.isfinite(), f"the norm of the gradient is {norm.item():.3g}")
        self.norms.append(norm)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        """The network by itself: what only adapts it, such as a discriminator, takes nothing of its norm."""
        for group in optimizer.param_groups if gradient_clip_val else []:
            torch.nn.utils.clip_grad_norm_(group["params"], gradient_clip_val)

    def on_train_batch_end(self, outputs, batch, number):
        stepped = (number + 1) % self.settings.accumulate == 0 or number + 1 == self.batches
        if self.settings.averaging == "ema" and stepped:
            self.averaged.update_parameters(self.network)

    def on_validation_epoch_start(self):
        self.logits, self.truth = [], []
        settings = self.settings
        # Lightning validates before it counts the epoch: this one, numbered from 0, is complete.
        if settings.averaging == "swa" and self.current_epoch + 1 > settings.averaging_start * settings.epochs:
            self.averaged.update_parameters(self.network)
        to_target = settings.adaptation == "batch-norm"
        if self.judged is not self.network or settings.curriculum or to_target:
            # The statistics of batch norm belong to other weights, or to other images: take those of the preset itself.
            rows = np.linspace(0, len(self.train_part) - 1, min(RECALIBRATION_IMAGES, len(self.train_part))).astype(int)
            images = self.seen(as_tensor(self.train_part.images[rows]).to(self.device), draw=-1)
            if self.adaptation is not None:  # it has learnt from batches of both
                images = torch.cat([images, self._of_target()])
            networks.recalibrate_batch_norm(self.judged, images)
        if to_target:
            adapt_batch_norm(self.judged, self._of_target())
        self.judged.eval()

    def _of_target(self) -> torch.Tensor:
        return self.seen(self.target.sample(RECALIBRATION_IMAGES).to(self.device), draw=FAR - 1)

    def validation_step(self, batch, _):
        images, labels = batch
        with self._single_precision():  # as the network predicts once it is trained, with its exact symmetry
            self.logits.append(self.judged(self.seen(images)))
        self.truth.append(labels)

    def on_validation_epoch_end(self):
        logits, labels = torch.cat(self.logits), torch.cat(self.truth)
        loss, called = cross_entropy(logits, labels, self.class_weights), logits.argmax(1)
        self._stop_unless(loss.isfinite(), f"the validation loss is {loss.item():.3g}")
        auc = multiclass_auroc(logits.softmax(1), labels, num_classes=logits.shape[1])
        norms, clip = torch.stack(self.norms), self.settings.gradient_clip
        figures = {
            "validation_loss": loss,
            "validation_auc": auc,
            "validation_accuracy": (called == labels).float().mean(),
            "gradient_norm": norms.mean(),
            "clipped_share": (norms > clip).float().mean() if clip else 0.0,
        }
        recalls = [(called[labels == label] == label).float().mean() for label in range(len(self.classes))]
        self.log_dict(figures | {f"recall_{name}": recall for name, recall in zip(self.classes, recalls, strict=True)})

    def configure_optimizers(self):
        groups = [{"params": list(self.network.parameters())}]
        if own := list(self.adaptation.parameters()) if self.adaptation is not None else []:
            groups.append({"params": own, "weight_decay": 0.0})
        optimizer = optimizer_of(groups, self.settings)
        schedules = [{"scheduler": schedule_of(optimizer, self.steps, self.settings), "interval": "step"}]
        if self.settings.schedule == "plateau":
            # At the last step of an epoch: Lightning's interval "epoch" would come after the checkpoint is written.
            plateau = plateau_of(optimizer, self.settings)
            once = {"interval": "step", "frequency": self.batches, "monitor": "validation_loss"}
            schedules.append({"scheduler": plateau} | once)
        return [optimizer], schedules


class _RangeTest(_Fit):
    """A training whose learning rate grows from step to step until the loss is four times the lowest."""

    def __init__(self, card: dict, settings: Study, dataset: LensDataset, lowest: float, highest: float):
        super().__init__(card, settings, dataset, stop_where_it_diverges=False)
        self.lowest, self.growth = lowest, (highest / lowest) ** (1 / (settings.range_test_steps - 1))
        self.losses: list[float] = []
        self.bar = tqdm(total=settings.range_test_steps, desc="range test", unit="step", disable=in_batch())

    def configure_optimizers(self):
        optimizer = optimizer_of(self.network.parameters(), self.settings)
        for group in optimizer.param_groups:
            group["lr"] = self.lowest
        return [optimizer], [{"scheduler": ExponentialLR(optimizer, self.growth), "interval": "step"}]

    def on_train_batch_end(self, outputs, batch, number):
        loss = outputs["loss"].item()
        if math.isfinite(loss):
            self.losses.append(loss)
        self.trainer.should_stop = not loss < 4 * min(self.losses, default=math.inf)
        self.bar.update()

    def on_train_end(self):
        self.bar.close()


class _Patience(EarlyStopping):
    """Early stopping that a training which was interrupted after its last epoch remembers: Lightning saves how long it
    waited, but not that it was enough."""

    def on_train_start(self, trainer, module):
        trainer.should_stop = self.wait_count >= self.patience


def _trainer(settings: Study, callbacks: list[Callback], **options) -> lightning.Trainer:
    strategy, plugins = settings.strategy, [WholeCheckpoints()]
    if settings.nodes == 1:
        # Inside a job of SLURM, Lightning would leave it to srun to start one process for each device.
        plugins.append(LightningEnvironment())
        # A notebook's kernel cannot be started again with other arguments, which is what plain DDP does: it forks.
        if settings.devices > 1 and strategy == "auto":
            strategy = "ddp_notebook"
    return lightning.Trainer(
        accelerator=device_of(settings.accelerator).type,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy=strategy,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        plugins=plugins,
        **options,
    )


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
    shown = dataset.description.get("residual", "none")
    if dataset.description.get("source") == "pooled":
        shown = dataset.description["sets"][0].get("residual", "none")
    if shown != settings.residual:
        raise ParameterError(
            f"residual = '{settings.residual}': this data set has '{shown}'; fit residuals with "
            "lensstudy.data.residuals.in_sigma, or run lensstudy train, which does"
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


def _fine_tune_from(network: torch.nn.Module, run: Path, classes: Sequence[str]) -> None:
    """Give `network` the weights of a finished training; the last layer begins anew where it tells other classes
    apart, or the same in another order."""
    (given, _), own = networks.read_weights(run / "weights.safetensors"), network.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if read_card(run)["classes"] != list(classes):
        fitting = {name: value for name, value in fitting.items() if not name.startswith("classifier")}
    if left := [name for name in own if name not in fitting and not name.startswith("classifier")]:
        raise ValueError(
            f"{run}: its weights do not fit this '{getattr(network, 'name', type(network).__name__)}' ({left[0]} "
            "differs); start from a training of the same network, pixels, width and channels"
        )
    network.load_state_dict(own | fitting)


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


@contextmanager
def _quiet():
    """Lightning greets with lines about accelerators on every fit, and advises on workers; a study has dozens."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(level)
