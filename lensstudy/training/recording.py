"""What is written down while a network trains, and what a person sees of it.

`Recorder` keeps the history, one row an epoch, and the weights and validation predictions of the best checkpoint;
`Progress` draws one bar for the whole training. Lightning's own were tried in their place. `CSVLogger` has no state in
the checkpoint: a training of four epochs, interrupted after two, ends with a file of the last two, in two rows an
epoch. `ModelCheckpoint` (which writes `last.ckpt`) knows the best checkpoint by its absolute path: a folder that is
moved between interruption and resumption keeps a later epoch than the best. Its progress bars begin anew with each
epoch, so that none tells when the training ends. Its checkpoints are temporary files of the system first and are
copied from there, so that one that is killed meanwhile leaves half a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from tqdm.auto import tqdm

from lensstudy.data.dataset import LensDataset
from lensstudy.files import whole_file, write_json
from lensstudy.networks import registry as networks
from lensstudy.progress import in_batch
from lensstudy.study import Study

__all__ = ["Progress", "Recorder", "WholeCheckpoints"]


class Recorder(Callback):
    """Keep the history, the weights of the best checkpoint and the validation predictions that belong to them.

    One process writes, the first, and hands the history to `watch` after each epoch, which stops the training where it
    returns True; `finish` is called in it when the training has reached its end, or is stopped.
    """

    def __init__(
        self,
        folder: Path,
        settings: Study,
        dataset: LensDataset,
        watch: Callable[[pd.DataFrame], bool | None] | None = None,
    ):
        self.folder, self.settings, self.dataset, self.watch = folder, settings, dataset, watch
        self.stopped = False  # by `watch`, before the last epoch
        self.history: list[dict] = []

    def state_dict(self) -> dict:
        return {"history": self.history}

    def load_state_dict(self, state: dict) -> None:
        self.history = state["history"]

    def on_train_epoch_start(self, trainer, module):
        self.images, self.start = 0, time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.images += len(batch[1]) * trainer.world_size
        self.train_seconds = time.perf_counter() - self.start

    def on_train_epoch_end(self, trainer, module):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": metrics["loss"],
            **{name: metrics[name] for name in ("validation_loss", "validation_auc", "validation_accuracy")},
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **{name: metrics[name] for name in ("gradient_norm", "clipped_share")},
            "seconds": self.train_seconds,
            "images_per_second": self.images / self.train_seconds,
            **{name: value for name, value in metrics.items() if name.startswith("recall_")},
        }
        self.history.append(row)
        stop = False
        if trainer.is_global_zero:
            if self.best()["epoch"] == row["epoch"]:
                networks.save_weights(module.judged, self.folder / "weights.safetensors")
                probabilities = torch.cat(module.logits).double().softmax(1).cpu().numpy()
                with whole_file(self.folder / "validation.npy") as partial:
                    np.save(partial, probabilities)
            history = pd.DataFrame(self.history)
            with whole_file(self.folder / "history.csv") as partial:
                history.to_csv(partial, index=False)
            stop = bool(self.watch and self.watch(history)) and row["epoch"] < self.settings.epochs
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            self.stopped = trainer.should_stop = True

    def on_fit_end(self, trainer, module):
        if trainer.is_global_zero and not trainer.interrupted:
            self.finish()

    def best(self) -> dict:
        """The row of the best checkpoint: by the monitor, the first of equals, or the last."""
        monitor = self.settings.monitor
        if monitor == "last":
            return self.history[-1]
        sign = -1 if monitor.endswith("auc") else 1
        return min(self.history, key=lambda row: sign * row[monitor])

    def finish(self) -> None:
        """Write the validation predictions and, last, `metrics.json`: a folder that has it is finished."""
        part = self.dataset.part("validation")
        predictions = part.catalogue[["name", "class"]].copy()
        predictions[list(self.dataset.classes)] = np.load(self.folder / "validation.npy")
        with whole_file(self.folder / "predictions.parquet") as partial:
            predictions.to_parquet(partial)
        best = self.best()
        metrics = {
            "best_epoch": best["epoch"],
            "epochs": len(self.history),
            **{name: best[name] for name in ("validation_loss", "validation_auc", "validation_accuracy")},
            "overfitting_gap": best["validation_loss"] - best["train_loss"],
            "clipped_share": float(np.mean([row["clipped_share"] for row in self.history])),
            "seconds": sum(row["seconds"] for row in self.history),
            "images_per_second": float(np.median([row["images_per_second"] for row in self.history])),
        }
        write_json(self.folder / "metrics.json", metrics)
        if not self.stopped:  # whoever goes on needs them
            (self.folder / "validation.npy").unlink()


class Progress(Callback):
    """One bar for the whole training: loss, validation AUC, images/s and the time that is left."""

    def on_train_start(self, trainer, module):
        total = trainer.max_epochs * trainer.num_training_batches
        begun = trainer.current_epoch * trainer.num_training_batches
        hidden = in_batch() or not trainer.is_global_zero
        name = module.settings.network.replace("-", "\N{NON-BREAKING HYPHEN}")  # stays whole in a narrow window
        self.bar = tqdm(total=total, initial=begun, desc=name, unit="step", disable=hidden)
        self.start, self.images, self.seen = time.perf_counter(), 0, {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.images += len(batch[1]) * trainer.world_size
        self.seen["loss"] = f"{outputs['loss'].item() * trainer.accumulate_grad_batches:.3f}"
        self.seen["images/s"] = f"{self.images / (time.perf_counter() - self.start):.0f}"
        self.bar.set_postfix(self.seen, refresh=False)
        self.bar.update()

    def on_validation_end(self, trainer, module):
        if hasattr(self, "bar"):
            self.seen["validation AUC"] = f"{float(trainer.callback_metrics['validation_auc']):.3f}"

    def teardown(self, trainer, module, stage):
        if hasattr(self, "bar"):
            self.bar.close()


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there as a whole or not at all, wherever the system keeps its temporary files."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        with whole_file(path) as partial:
            torch.save(checkpoint, partial)
