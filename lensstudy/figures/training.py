"""Figures of a training: the learning rate, the curves, recalls epoch by epoch, and a search for better settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure

from lensstudy.figures.style import PALETTE, WIDTH, colour

__all__ = [
    "alternatives",
    "live_curves",
    "range_test",
    "recalls",
    "schedule",
    "slices",
    "training_curves",
]


def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss and validation AUC against the epoch; one line a training, the colour of its network."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
    for name, history in histories.items():
        ink, whose = colour(name), f"{name}, " if name else ""
        left.plot(history["epoch"], history["train_loss"], color=ink, ls=":", marker=".", label=f"{whose}training")
        left.plot(history["epoch"], history["validation_loss"], color=ink, marker=".", label=f"{whose}validation")
        right.plot(history["epoch"], history["validation_auc"], color=ink, marker=".", label=name)
    left.set(xlabel="epoch", ylabel="cross-entropy [nats]")
    right.set(xlabel="epoch", ylabel="validation AUC")
    for axes in (left, right):
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    left.legend(fontsize=8)
    return figure


def live_curves() -> Callable[[pd.DataFrame], None]:
    """A figure that is drawn again in its place each time it is called with the history so far."""
    place = display(HTML(""), display_id=True)

    def draw(history: pd.DataFrame) -> None:
        figure = training_curves({"": history})
        plt.close(figure)
        place.update(figure)

    return draw


def range_test(found: pd.DataFrame, chosen: float) -> Figure:
    """Training loss against a growing learning rate, and the highest learning rate of the schedule."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    axes.plot(found["learning_rate"], found["loss"], color=PALETTE[0])
    axes.axvline(chosen, color=PALETTE[1], ls="--", label=f"learning rate of the schedule, {chosen:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed [nats]")
    axes.legend(fontsize=8)
    return figure


def schedule(rate: Sequence[float], steps_per_epoch: float) -> Figure:
    """Learning rate against the epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 2.4))
    axes.plot((np.arange(len(rate)) + 1) / steps_per_epoch, rate, color=PALETTE[0])
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    return figure


def recalls(history: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Share of each class that is recognised, epoch by epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    for k, name in enumerate(classes):
        axes.plot(history["epoch"], history[f"recall_{name}"], color=PALETTE[k], marker=".", label=name)
    axes.set(xlabel="epoch", ylabel="share recognised", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def alternatives(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What each change of one setting does to the validation AUC; columns `settings` and `difference` a network."""
    labels = next(iter(tables.values()))["settings"].tolist()[1:]
    figure, axes = plt.subplots(figsize=(WIDTH, 1.2 + 0.3 * len(labels)))
    for k, (name, table) in enumerate(tables.items()):
        offset = 0.15 * (k - (len(tables) - 1) / 2)
        axes.plot(table["difference"][1:], np.arange(len(labels)) + offset, "o", color=colour(name), label=name)
    axes.axvline(0, color="0.5", lw=1)
    axes.set(
        yticks=range(len(labels)), yticklabels=labels, xlabel="validation AUC, less that of the study's own settings"
    )
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return figure


def slices(trials: pd.DataFrame, name: str) -> Figure:
    """Validation AUC of each trial against one of its settings."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    number = pd.api.types.is_float_dtype(trials[name])
    for network, group in trials.groupby("network", sort=False):
        across = group[name] if number else group[name].astype(str)
        for state, fill in (("complete", colour(network)), ("pruned", "none")):
            chosen = group["state"] == state
            label = network if state == "complete" else None
            axes.scatter(across[chosen], group["auc"][chosen], ec=colour(network), fc=fill, label=label)
    if number and trials[name].min() > 0 and trials[name].max() > 5 * trials[name].min():
        axes.set(xscale="log")
    axes.set(xlabel=name, ylabel="validation AUC")
    axes.legend(fontsize=8)
    return figure
