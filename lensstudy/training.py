"""Fitting a network with Lightning, by the same rules for every network of a comparison.

`fit` trains one network with one seed and leaves a run folder: `weights.safetensors` of the best epoch on the
validation part, `card.json` (what the network is and how it was made), `metrics.json`, `history.csv` and
`predictions.parquet` of the validation part. The test part is never opened here. The order of images and every random
turn are drawn from the seed and the step alone, so a training that was interrupted goes on from its last epoch and ends
where it would have ended anyway.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch.nn.functional import avg_pool2d, cross_entropy
from torchmetrics.functional.classification import multiclass_auroc

from lensstudy import networks, symmetry
from lensstudy.dataset import LensDataset, Scaling
from lensstudy.parameters import Study
from lensstudy.provenance import code_hash

__all__ = [
    "TrainedNetwork",
    "TrainingDiverged",
    "binned",
    "fit",
    "in_batch",
    "load_trained",
    "schedule_factor",
    "working_size",
]

# What a checkpoint must agree on before a training is resumed, or a finished one left alone.
RELEVANT = (
    "network",
    "width",
    "seed",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "gradient_clip",
    "schedule",
    "warmup_fraction",
    "augmentation",
    "patience",
    "monitor",
    "binning",
    "threads",
)


class TrainingDiverged(RuntimeError):
    """The loss is no longer finite. The message names the step and the learning rate."""


def in_batch() -> bool:
    """True where nobody watches (`LENSSTUDY_BATCH` is set), so that progress bars keep silent."""
    return bool(os.environ.get("LENSSTUDY_BATCH"))


def schedule_factor(step: int, steps: int, schedule: str, warmup_fraction: float) -> float:
    """Learning rate at `step` of `steps`, as a share of the highest.

    `one-cycle` rises from 1/25 along half a cosine and falls along another to 1e-5 (Smith 2018, arXiv:1803.09820);
    `cosine` rises linearly and falls along half a cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983); `constant`
    rises linearly and stays.
    """
    warmup = warmup_fraction * steps
    if step < warmup:
        rise = (step + 1) / (warmup + 1)
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * rise)) if schedule == "one-cycle" else rise
    if schedule == "constant":
        return 1.0
    fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
    return 1e-5 + (1 - 1e-5) * fall if schedule == "one-cycle" else fall


def working_size(image_size: int, settings: Study) -> int:
    """Pixels along one side of what a network sees: the central part after binning, such that symmetry is exact."""
    binning, wanted = settings.binning, settings.crop or image_size
    for size in range(min(wanted, image_size) // binning, 7, -1):
        centred = (image_size - size * binning) % 2 == 0
        if centred and symmetry.working_size(size) == size:
            return size
    raise symmetry.SymmetryError(
        f"no central part of at most {wanted} of {image_size} pixels, averaged over {binning} x {binning}, keeps exact "
        "symmetry; choose another binning or a larger crop"
    )


def binned(images: torch.Tensor, binning: int) -> torch.Tensor:
    """Means of `binning` x `binning` pixels: a quarter of the cost where the PSF spreads over several pixels."""
    return avg_pool2d(images, binning) if binning > 1 else images


@dataclass
class TrainedNetwork:
    """A network with everything that belongs to it: how images are cropped, binned and scaled, its classes by name."""

    network: torch.nn.Module
    scaling: Scaling
    classes: tuple[str, ...]
    card: dict

    @torch.no_grad()
    def predict(self, images: np.ndarray, degrees: float | np.ndarray = 0.0, batch_size: int = 128) -> np.ndarray:
        """Class probabilities `(N, classes)` of images `(N, C, H, W)`, turned by `degrees` (one angle or one an image)
        counter-clockwise before the central pixels are cut out."""
        self.network.eval()
        probabilities = []
        for start in range(0, len(images), batch_size):
            batch = _as_tensor(images[start : start + batch_size])
            angle = degrees if np.ndim(degrees) == 0 else torch.as_tensor(degrees[start : start + batch_size])
            batch = self.scaling.apply(
                binned(symmetry.rotate(batch, angle, size=self.card["crop"]), self.card["binning"])
            )
            probabilities.append(torch.softmax(self.network(batch).double(), dim=1).numpy())
        return np.concatenate(probabilities)


def load_trained(folder: str | Path) -> TrainedNetwork:
    """Open a finished run folder. Nothing inside it is run: weights are safetensors, the rest is JSON."""
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        raise FileNotFoundError(f"{folder}: no finished training here (metrics.json is missing); run 03-train first")
    card = json.loads((folder / "card.json").read_text())
    network = _build(card)
    networks.load_weights(network, folder / "weights.safetensors")
    return TrainedNetwork(network.eval(), Scaling.from_dict(card["scaling"]), tuple(card["classes"]), card)


def fit(dataset: LensDataset, settings: Study, folder: str | Path) -> Path:
    """Train `settings.network` with `settings.seed` on the train part of `dataset`, choosing the epoch on its
    validation part; returns the run folder.

    A folder that already holds this very training, finished, is left as it is; one that holds its beginning goes on.
    Raises `TrainingDiverged` when the loss stops being finite; the best weights so far stay in the folder.
    """
    folder = Path(folder)
    card = _card(dataset, settings)
    if (folder / "metrics.json").exists() and json.loads((folder / "card.json").read_text()) == card:
        return folder
    _clear_unless_same(folder, card)

    lightning.seed_everything(settings.seed, verbose=False)
    torch.set_num_threads(settings.threads)
    train, validation = dataset.part("train"), dataset.part("validation")
    module = _Fit(card, settings, steps=settings.epochs * _SeededBatches(len(train), settings.batch_size, 0).batches)
    recorder = _Recorder(folder, settings)
    callbacks: list[Callback] = [
        recorder,
        ModelCheckpoint(
            folder, filename="last", save_top_k=1, enable_version_counter=False, save_on_train_epoch_end=True
        ),
    ]
    if settings.patience:
        mode = "max" if settings.monitor.endswith("auc") else "min"
        callbacks.append(EarlyStopping(settings.monitor, patience=settings.patience, mode=mode))
    if not in_batch():
        callbacks.append(TQDMProgressBar(leave=False))
    with warnings.catch_warnings(), _quiet("lightning.pytorch"):
        warnings.filterwarnings("ignore", module="lightning")  # its advice on workers and on tiny epochs
        trainer = lightning.Trainer(
            max_epochs=settings.epochs,
            accelerator="auto",
            devices=1,
            gradient_clip_val=settings.gradient_clip or None,
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            enable_progress_bar=not in_batch(),
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        last = folder / "last.ckpt"
        trainer.fit(
            module,
            _loader(train, _SeededBatches(len(train), settings.batch_size, settings.seed)),
            _loader(validation, _InOrder(len(validation), 128)),
            ckpt_path=last if last.exists() else None,
            weights_only=True,
        )
    recorder.finish(dataset, card)
    last.unlink(missing_ok=True)
    return folder


class _Fit(lightning.LightningModule):
    """One network in training: what it sees, its loss and its optimiser."""

    def __init__(self, card: dict, settings: Study, steps: int):
        super().__init__()
        self.network = _build(card)
        self.crop, self.binning, self.settings, self.steps = card["crop"], card["binning"], settings, steps
        self.scaling = Scaling.from_dict(card["scaling"])

    def training_step(self, batch, _):
        images, labels = batch
        if self.settings.augmentation:
            generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.global_step)
            images = symmetry.random_turn(images, generator, size=self.crop)
        else:
            images = symmetry.centre_crop(images, self.crop)
        loss = cross_entropy(self.network(self.scaling.apply(binned(images, self.binning))), labels)
        if not torch.isfinite(loss):
            rate = self.optimizers().param_groups[0]["lr"]
            raise TrainingDiverged(
                f"{self.settings.network}: the loss is {loss.item()} in step {self.global_step} at a learning rate of "
                f"{rate:.2g}. Lower learning_rate or gradient_clip, or raise warmup_fraction."
            )
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def on_validation_epoch_start(self):
        self.logits, self.truth = [], []

    def validation_step(self, batch, _):
        images, labels = batch
        images = binned(symmetry.centre_crop(images, self.crop), self.binning)
        self.logits.append(self.network(self.scaling.apply(images)))
        self.truth.append(labels)

    def on_validation_epoch_end(self):
        logits, labels = torch.cat(self.logits), torch.cat(self.truth)
        auc = multiclass_auroc(logits.softmax(1), labels, num_classes=logits.shape[1])
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log("validation_loss", cross_entropy(logits, labels), prog_bar=True)
        self.log("validation_auc", auc, prog_bar=True)
        self.log("validation_accuracy", accuracy)

    def configure_optimizers(self):
        settings = self.settings
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: schedule_factor(step, self.steps, settings.schedule, settings.warmup_fraction)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _Recorder(Callback):
    """Keeps the history, the weights of the best epoch and the validation predictions that belong to them."""

    def __init__(self, folder: Path, settings: Study):
        self.folder, self.settings = folder, settings
        self.history: list[dict] = []
        self.norms: list[float] = []

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.history = state["history"]

    def on_train_epoch_start(self, trainer, module):
        self.norms, self.start = [], time.perf_counter()

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.norms.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.train_seconds = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer, module):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        norms = torch.stack(self.norms)
        clip = self.settings.gradient_clip
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": metrics["loss"],
            **{name: metrics[name] for name in ("validation_loss", "validation_auc", "validation_accuracy")},
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": norms.mean().item(),
            "clipped_share": (norms > clip).float().mean().item() if clip else 0.0,
            "seconds": self.train_seconds,
            "images_per_second": len(norms) * self.settings.batch_size / self.train_seconds,
        }
        self.history.append(row)
        if self._best()["epoch"] == row["epoch"]:
            networks.save_weights(module.network, self.folder / "weights.safetensors")
            probabilities = torch.cat(module.logits).double().softmax(1).cpu().numpy()
            np.save(self.folder / "validation.npy", probabilities)
        pd.DataFrame(self.history).to_csv(self.folder / "history.csv", index=False)

    def _best(self) -> dict:
        monitor = self.settings.monitor
        sign = -1 if monitor.endswith("auc") else 1
        return min(self.history, key=lambda row: sign * row[monitor])  # the first of equals

    def finish(self, dataset: LensDataset, card: dict) -> None:
        part = dataset.part("validation")
        predictions = part.catalogue[["name", "class"]].copy()
        predictions[list(dataset.classes)] = np.load(self.folder / "validation.npy")
        predictions.to_parquet(self.folder / "predictions.parquet")
        best = self._best()
        metrics = {
            "best_epoch": best["epoch"],
            "epochs": len(self.history),
            **{name: best[name] for name in ("validation_loss", "validation_auc", "validation_accuracy")},
            "overfitting_gap": best["validation_loss"] - best["train_loss"],
            "clipped_share": float(np.mean([row["clipped_share"] for row in self.history])),
            "seconds": sum(row["seconds"] for row in self.history),
            "images_per_second": float(np.median([row["images_per_second"] for row in self.history])),
        }
        _write_json(self.folder / "metrics.json", metrics)  # written last: a folder that has it is finished
        (self.folder / "validation.npy").unlink()


@dataclass
class _SeededBatches:
    """Shuffled rows in batches; the order belongs to the seed and the epoch alone. The last, smaller batch is left
    out, since batch normalisation over a handful of images is noise."""

    images: int
    batch_size: int
    seed: int
    epoch: int = 0

    @property
    def batches(self) -> int:
        return max(self.images // self.batch_size, 1)

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.images)
        for batch in range(self.batches):
            yield np.sort(order[batch * self.batch_size : (batch + 1) * self.batch_size])


@dataclass
class _InOrder:
    images: int
    batch_size: int

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.images, self.batch_size):
            yield np.arange(start, min(start + self.batch_size, self.images))


class _Rows(torch.utils.data.Dataset):
    """Batches of a data set by their rows: one read, no copy of the whole."""

    def __init__(self, part: LensDataset):
        self.images, self.labels = part.images, torch.as_tensor(part.labels)

    def __getitem__(self, rows: np.ndarray):
        return _as_tensor(self.images[rows]), self.labels[rows]


def _loader(part: LensDataset, batches) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(_Rows(part), sampler=batches, batch_size=None)


def _as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(images, dtype=np.float32, order="C"))


def _build(card: dict) -> torch.nn.Module:
    return networks.build_network(
        card["network"],
        card["size"],
        len(card["classes"]),
        in_channels=card["in_channels"],
        width=card["width"],
        seed=card["seed"],
    )


def _card(dataset: LensDataset, settings: Study) -> dict:
    """What the network is, what it was shown and by which code: enough to build it again and to trust it."""
    size = working_size(dataset.image_size, settings)
    train = dataset.part("train")
    sample = binned(_as_tensor(train.images[:: max(len(train) // 1024, 1)]), settings.binning)
    scaling = Scaling.fit(settings.scaling, sample.numpy(), size=size)
    card = {name: getattr(settings, name) for name in RELEVANT} | {
        "classes": list(dataset.classes),
        "in_channels": dataset.images.shape[1],
        "image_size": dataset.image_size,
        "crop": size * settings.binning,
        "size": size,
        "scaling": scaling.to_dict(),
        "training_images": len(train),
        "data_fingerprint": dataset.fingerprint,
        "data": dataset.description,
        "code": code_hash("training", without=("parameters", "provenance")),
        "versions": {name: version(name) for name in ("torch", "e2cnn", "lightning", "numpy")},
    }
    return json.loads(json.dumps(card, default=str))  # as it will be read back


def _clear_unless_same(folder: Path, card: dict) -> None:
    """Keep the beginning of this very training; remove what another one left in its folder."""
    beginning = folder / "card.json"
    if not beginning.exists() or json.loads(beginning.read_text()) != card:
        for name in ("metrics.json", "last.ckpt", "weights.safetensors", "history.csv", "predictions.parquet"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(beginning, card)


def _write_json(file: Path, content: dict) -> None:
    partial = file.with_suffix(".json.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(file)


class _quiet:
    """Lightning greets with lines about accelerators on every fit; a study has dozens."""

    def __init__(self, name: str):
        self.logger = logging.getLogger(name)

    def __enter__(self):
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_):
        self.logger.setLevel(self.level)
