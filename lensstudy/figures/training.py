"""Figures of a training: the learning rate, the curves, recalls epoch by epoch, and a search for better settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.scores import confusion
from lensstudy.figures.style import CHART, PALETTE, WIDTH, Note, captioned, colour, image_row
from lensstudy.study import Study
from lensstudy.training.optimisation import learning_rates
from lensstudy.training.previous import Previous
from lensstudy.training.run import TrainedNetwork

__all__ = [
    "alternatives",
    "curves",
    "importances",
    "range_test",
    "recalls",
    "schedule",
    "slices",
    "training_curves",
    "validation_confusion",
    "worst_images",
]


def training_curves(run: TrainedNetwork, before: Previous | None = None) -> Figure:
    """Loss and validation AUC of a finished training against the epoch; faint, those of the training before it."""
    figure = curves(run.history, colour(run.card["network"]), run.metrics["best_epoch"])
    caption = "Loss and validation AUC after each epoch; the ring marks the best checkpoint."
    if before is not None:
        left, right = figure.axes
        old: dict[str, Any] = {"color": "0.6", "marker": ".", "zorder": 0}
        left.plot(before.history["epoch"], before.history["train_loss"], ls=":", **old)
        left.plot(before.history["epoch"], before.history["validation_loss"], label="before", **old)
        right.plot(before.history["epoch"], before.history["validation_auc"], **old)
        left.legend(fontsize=8)
        caption += f" Grey: your run before ({before.label.removeprefix('before: ')})."
    alt = "Two line plots against the epoch: training and validation loss on the left, validation AUC on the right."
    return captioned(figure, caption, alt)


def curves(history: pd.DataFrame, ink: str = PALETTE[0], kept: int | None = None, epochs: int | None = None) -> Figure:
    """Loss and validation AUC of the epochs so far; `kept` is marked, and the axis ends at `epochs`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3))
    left.plot(history["epoch"], history["train_loss"], color=ink, ls=":", marker=".", label="training")
    left.plot(history["epoch"], history["validation_loss"], color=ink, marker=".", label="validation")
    right.plot(history["epoch"], history["validation_auc"], color=ink, marker=".")
    left.set(xlabel="epoch", ylabel="cross-entropy [nats]")
    right.set(xlabel="epoch", ylabel="validation AUC")
    best = history[history["epoch"] == kept]
    for axes, name in ((left, "validation_loss"), (right, "validation_auc")):
        axes.plot(best["epoch"], best[name], "o", ms=11, mfc="none", color=ink)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        if epochs:
            axes.set_xlim(0.5, epochs + 0.5)
    left.legend(fontsize=8)
    return figure


def range_test(found: pd.DataFrame, study: Study) -> Figure:
    """Training loss against a growing learning rate, and the highest learning rate of the study's schedule."""
    chosen = study.training().learning_rate
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    axes.plot(found["learning_rate"], found["loss"], ".", color=PALETTE[0], alpha=0.4, label="each step")
    axes.plot(found["learning_rate"], found["smoothed"], color=PALETTE[0], label="smoothed")
    axes.axvline(chosen, color=PALETTE[1], ls="--", label=f"highest rate of the schedule, {chosen:g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss [nats]")
    axes.legend(fontsize=8)
    caption = f"Range test over {len(found)} steps, on training images only; it ends where the loss explodes."
    alt = "The training loss against the learning rate on a logarithmic axis, with a mark at the rate of the schedule."
    return captioned(figure, caption, alt)


def schedule(study: Study, batches: int) -> Figure:
    """Learning rate of the study's training against the epoch, with `batches` batches in each."""
    study = study.training()
    per_epoch = -(-batches // study.accumulate)
    rates = learning_rates(study.epochs * per_epoch, study)
    figure, axes = plt.subplots(figsize=(5.5, 2.4))
    axes.plot((np.arange(len(rates)) + 1) / per_epoch, rates, color=PALETTE[0])
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    caption = f"Learning rate of the {study.schedule} schedule over {study.epochs} epochs of {batches} batches."
    return captioned(figure, caption, "Line plot of the learning rate against the epoch.")


def recalls(run: TrainedNetwork) -> Figure:
    """Share of each class that is recognised, epoch by epoch."""
    figure, axes = plt.subplots(figsize=(5.5, 2.8))
    for k, name in enumerate(run.classes):
        axes.plot(run.history["epoch"], run.history[f"recall_{name}"], color=PALETTE[k], marker=".", label=name)
    guessing = 1 / len(run.classes)
    axes.axhline(guessing, color="0.5", lw=1, ls="--", label="guessing")
    axes.set(xlabel="epoch", ylabel="share recognised", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    caption = f"Share of each class of the validation part that is recognised; guessing: {guessing:.0%} on average."
    return captioned(figure, caption, "Line plot with one line a class: share recognised against the epoch.")


def validation_confusion(run: TrainedNetwork) -> Figure:
    """Share of each true class (rows) of the validation part that the best checkpoint called each class (columns)."""
    labels = run.validation["class"].map(run.classes.index).to_numpy()
    matrix = confusion(labels, run.validation[list(run.classes)].to_numpy())
    figure, axes = plt.subplots(figsize=(2.9, 2.7))
    sns.heatmap(
        matrix, annot=True, fmt=".2f", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True, ax=axes,
        xticklabels=run.classes, yticklabels=run.classes,
    )  # fmt: skip
    axes.set_gid(CHART)
    axes.set(title=run.card["network"], xlabel="predicted", ylabel="true")
    caption = (
        f"Share of each true class (rows) that was called each class (columns), {len(labels):,} validation images."
    )
    return captioned(figure, caption, "Confusion matrix of the validation part.")


def worst_images(run: TrainedNetwork, dataset: LensDataset, count: int = 6) -> Figure:
    """The validation images whose true class was given the lowest probability."""
    worst = run.validation.reset_index(drop=True).nsmallest(count, "given")
    images = dataset.part("validation").images[worst.index]
    titles = [f"{name}: {given:.2f}" for name, given in zip(worst["class"], worst["given"], strict=True)]
    caption = "Validation images whose true class was given the lowest probability: that class, and what it was given."
    alt = "A row of images with their true classes and the probabilities that the network gave these."
    return captioned(image_row(list(images.mean(1)), titles, dataset.description.get("pixel_scale")), caption, alt)


def alternatives(table: pd.DataFrame) -> Figure:
    """What each change of one setting does to the validation AUC; columns `network`, `settings` and `difference`."""
    changed = table[table["settings"] != table["settings"].iloc[0]]
    labels, networks = list(dict.fromkeys(changed["settings"])), list(dict.fromkeys(table["network"]))
    figure, axes = plt.subplots(figsize=(WIDTH, 1.3 + 0.3 * max(len(labels), 1)))
    for k, name in enumerate(networks):
        own = changed[changed["network"] == name]
        rows = [labels.index(settings) + 0.15 * (k - (len(networks) - 1) / 2) for settings in own["settings"]]
        axes.plot(own["difference"], rows, "o", color=colour(name), label=name)
    axes.axvline(0, color="0.5", lw=1)
    axes.set(yticks=range(len(labels)), yticklabels=labels, xlabel="validation AUC, less that of the best combination")
    axes.set_ylim(max(len(labels), 1) - 0.5, -0.5)  # the first on top
    figure.legend(loc="outside upper center", fontsize=8, ncols=2)
    caption = (
        "Validation AUC of each alternative, less that of the best combination; one seed each, so that differences "
        "as small as those between two seeds mean nothing."
    )
    alt = "Points for each network along rows of settings; to the right of zero is better than the best combination."
    return captioned(figure, caption, alt)


def slices(trials: pd.DataFrame, space: Iterable[str]) -> Figure:
    """Validation AUC of each trial against each of the settings that the search varies."""
    names = list(space)
    figure, grid = plt.subplots(
        -(-len(names) // 2), min(len(names), 2), figsize=(WIDTH, 2.7 * -(-len(names) // 2)), squeeze=False, sharey=True
    )
    for axes, name in zip(grid.flat, names, strict=False):
        number = pd.api.types.is_float_dtype(trials[name])
        for network, group in trials.groupby("network", sort=False):
            across = group[name] if number else group[name].astype(str)
            for state, fill in (("complete", colour(network)), ("pruned", "none")):
                chosen = group["state"] == state
                label = network if state == "complete" else None
                axes.scatter(across[chosen], group["auc"][chosen], ec=colour(network), fc=fill, label=label)
        if number and trials[name].min() > 0 and trials[name].max() > 5 * trials[name].min():
            axes.set(xscale="log")
        axes.set(xlabel=name)
    for axes in grid[:, 0]:
        axes.set_ylabel("validation AUC")
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", fontsize=8, ncols=2)
    caption = "Validation AUC of each trial against each setting that varies; open marks are trials that were given up."
    return captioned(figure, caption, "Scatter plots of the validation AUC, one a setting and one colour a network.")


def importances(table: pd.DataFrame) -> Figure | Note:
    """Share of the variance of the validation AUC that each setting explains, one row a network; a note if there are
    none."""
    if table.empty:
        return Note("Too few complete trials to say which setting matters: at least four a network are needed.")
    figure, axes = plt.subplots(figsize=(5.5, 0.8 + 0.3 * table.size))
    sns.barplot(
        table.rename_axis("network").reset_index().melt("network", var_name="setting", value_name="share"),
        x="share", y="setting", hue="network", palette={name: colour(name) for name in table.index}, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="share of the variance of the validation AUC", ylabel="", xlim=(0, 1))
    caption = "Share of the variance of the validation AUC that each setting explains (fANOVA), over the trials."
    return captioned(figure, caption, "One bar a setting and network: longer bars matter more in this search.")
