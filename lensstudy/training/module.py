"""The steps of a training as Lightning takes them: what a network sees, its loss, its optimiser and its validation.

Lightning takes seconds to import, so what only looks at finished trainings does without this module.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ExponentialLR
from torchmetrics.functional.classification import multiclass_auroc
from tqdm.auto import tqdm

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess, as_tensor
from lensstudy.networks import groups as symmetry
from lensstudy.networks import registry as networks
from lensstudy.progress import in_batch
from lensstudy.study import Study
from lensstudy.training.adaptation import FAR, Outputs, PseudoLabels, Target, adapt_batch_norm, loss_on_target
from lensstudy.training.batches import steps_per_epoch, training_loader
from lensstudy.training.devices import device_of
from lensstudy.training.distributed import place, synchronise
from lensstudy.training.optimisation import (
    TrainingDiverged,
    averaged_network,
    optimizer_of,
    plateau_of,
    schedule_of,
)
from lensstudy.training.recording import WholeCheckpoints
from lensstudy.training.run import build, read_card

__all__ = ["Fit", "Patience", "RangeTest", "quiet", "trainer_of"]

EXPLODED = 100.0  # times the loss of guessing: no training comes back from there
RECALIBRATION_IMAGES = 256  # enough for batch norm's statistics to be known within a few percent


class Fit(lightning.LightningModule):
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
            _fine_tune_from(self.network, Path(start_from), card["classes"], settings.residual)
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
        assert self.target is not None
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
        assert self.target is not None
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


class RangeTest(Fit):
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


class Patience(EarlyStopping):
    """Early stopping that a training which was interrupted after its last epoch remembers: Lightning saves how long it
    waited, but not that it was enough."""

    def on_train_start(self, trainer, module):
        trainer.should_stop = self.wait_count >= self.patience


def trainer_of(settings: Study, callbacks: list[Callback], **options) -> lightning.Trainer:
    strategy: str = settings.strategy
    plugins: list[Any] = [WholeCheckpoints()]
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


def _fine_tune_from(network: torch.nn.Module, run: Path, classes: Sequence[str], residual: str) -> None:
    """Give `network` the weights of a finished training; the last layer begins anew where it tells other classes
    apart, or the same in another order."""
    if (before := read_card(run).get("residual", "none")) != residual:
        raise ValueError(
            f"{run}: its network sees residual: {before} and this one residual: {residual}; start from one that sees "
            "the same"
        )
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


@contextmanager
def quiet():
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
