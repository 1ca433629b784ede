"""Has a network learnt, and does it over-fit? Its losses beside that of guessing, with intervals over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensstudy.evaluation.scores import format_interval
from lensstudy.training.run import TrainedNetwork

__all__ = ["Overfitting", "overfitting"]


@dataclass(frozen=True)
class Overfitting:
    """Validation losses of the best checkpoint in nats: `table` has one row a comparison, with its `value` and the
    edges `low` and `high` of the 95 % interval over `images` validation images.

    The rows are `validation loss`, `below guessing` and, where the training loss means the same, `above training loss`.
    """

    table: pd.DataFrame
    images: int
    epoch: int
    epochs: int

    @property
    def answer(self) -> str:
        """Whether the network has learnt, and whether it knows the training images better than others, with the
        intervals that say so."""
        loss, better = self._told("validation loss"), self._told("below guessing")
        said = f"**The best checkpoint is epoch {self.epoch} of {self.epochs}**, with a validation loss of {loss} nats"
        said += f" (95 % interval over {self.images:,} images), {better} below that of guessing: "
        said += "it has learnt." if self.table.loc["below guessing", "low"] > 0 else "not told apart from guessing yet."
        if "above training loss" not in self.table.index:
            return said
        gap, row = self._told("above training loss"), self.table.loc["above training loss"]
        said += f" The validation loss minus the training loss of that epoch is {gap}: "
        if row["low"] > 0:
            return said + "it does better on the training images than on others, which is over-fitting."
        said += "no over-fitting shows"
        return said + (f", and more than {row['high']:.2f} nats are excluded at 95 %." if row["high"] > 0 else ".")

    def _told(self, name: str) -> str:
        row = self.table.loc[name]
        return format_interval(row["value"], row["low"], row["high"], digits=2)


def overfitting(run: TrainedNetwork) -> Overfitting:
    """Compare the validation loss of a finished training with its training loss, and with guessing.

    Guessing gives every class its share in the training images. The training loss is the mean over the epoch, in which
    the network still changed and saw rotated images; its own error is not counted, since it is of many more images. It
    is omitted where it means something else: with label smoothing, weights of classes, a curriculum or averaged
    weights.

    Args:
        run: what `load_run` returns.

    Returns:
        An `Overfitting`; its `answer` says in one sentence or two what was found.

    Raises:
        ValueError: the network was not opened from a run folder.
    """
    card, epoch = run.card, run.metrics["best_epoch"]
    losses = -np.log(run.validation["given"].to_numpy().clip(1e-12))
    shares = dict(zip(run.classes, card["class_shares"], strict=True))
    guessing = -np.log(run.validation["class"].map(shares).to_numpy(float).clip(1e-12))
    rows = {"validation loss": losses, "below guessing": guessing - losses}
    plain = card["class_weights"] == "none" and not card["label_smoothing"] and not card["curriculum"]
    if plain and card["averaging"] == "none":
        history = run.history.set_index("epoch")
        rows["above training loss"] = losses - history.loc[epoch, "train_loss"]
    table = pd.DataFrame.from_dict({name: _mean(values) for name, values in rows.items()}, orient="index")
    table.columns = ["value", "low", "high"]
    return Overfitting(table, len(losses), epoch, len(run.history))


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """The mean and its 95 % interval, from the spread over images."""
    reach = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return values.mean(), values.mean() - reach, values.mean() + reach
