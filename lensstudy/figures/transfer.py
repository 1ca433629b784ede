"""Figures of what transfers from one telescope to another: the staircase between them, and scores away from home."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lensstudy.evaluation.scores import averaged_over, counted
from lensstudy.evaluation.staircase import SMOOTH_FIT, SUBSTRUCTURE, Staircase
from lensstudy.evaluation.transfer import HOME, TOGETHER
from lensstudy.figures.style import WIDTH, captioned, colour

__all__ = ["chosen_beside_as_it_is", "staircase"]

LOOKS = {SUBSTRUCTURE: ("o", "-", 1.8), "cdm": ("^", ":", 1.0), "axion": ("s", "--", 1.0)}
# The mark of a way, its size, whether it is filled, and which lies on top where two networks agree.
MARKS = {"as it is": ("o", 11, False, 2), "all inputs": ("D", 6, False, 4), "chosen without labels": ("o", 11, True, 3)}
NAMES = {SUBSTRUCTURE: "substructure against none"}


def staircase(stairs: Sequence[Staircase], method: str, seeds: int = 1) -> Figure:
    """AUC of one method, and of the smooth fit, on the steps from home to each of several presets."""
    rows = -(-len(stairs) // 2)
    across = min(len(stairs), 2)
    figure, axes = plt.subplots(
        rows, across, figsize=(WIDTH, 0.6 + 2.9 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for one, panel in zip(stairs, axes.flat, strict=False):
        panel.axhspan(0, 0.5, color="0.93", zorder=0)
        panel.axhline(0.5, color="0.5", lw=0.8)
        steps = one.scores(method)["step"].tolist()
        for judged, (marker, line, width) in LOOKS.items():
            shade = colour(method) if judged == SUBSTRUCTURE else "0.35"
            _steps(
                panel,
                one.scores(method, judged),
                shade,
                marker,
                line,
                width,
                NAMES.get(judged, f"{judged} against the others"),
            )
        if len(fits := one.scores(SMOOTH_FIT)):
            _steps(panel, fits, "#D55E00", "D", "-", 1.2, "smooth fit: substructure against none")
        panel.set_title(f"{one.home} to {one.away}")
        panel.set_xticks(range(len(steps)), steps, rotation=55, ha="right", fontsize=8)
        panel.set(ylim=(0, 1.02), xlim=(-0.5, len(steps) - 0.5))
    for panel in axes.flat[len(stairs) :]:
        panel.set_axis_off()
    for panel in axes[:, 0]:
        panel.set_ylabel("AUC")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, ncols=2, loc="outside upper center")
    caption = (
        f"AUC of {method} as one difference after the other is taken from another preset, each beside all before it; "
        f"{counted(stairs[0].images, 'image')} of each class. Bars: 95 % interval over {averaged_over(seeds)}. In the "
        "grey half a ranking is upside down."
    )
    return captioned(figure, caption, " ".join(one.answer for one in stairs))


def _steps(panel, rows, shade: str, marker: str, line: str, width: float, label: str) -> None:
    """A line that is level on each step, with the interval of its score."""
    places, values = np.arange(len(rows)), rows["auc"].to_numpy()
    panel.step(places, values, where="mid", color=shade, ls=line, lw=width, alpha=0.8)
    reach = np.maximum([values - rows["low"], rows["high"] - values], 0)
    panel.errorbar(places, values, reach, color=shade, marker=marker, ms=4, ls="", elinewidth=1, label=label)


def chosen_beside_as_it_is(table: pd.DataFrame) -> Figure:
    """What each network scores on every target as it is, with all changes of what it sees, and in the way that was
    chosen without labels, from `Transfer.table`. Few enough marks to be read as a thumbnail in the list of reports."""
    away = table[table["tested"] != HOME]
    targets, networks = list(away["tested"].unique()), list(away["network"].unique())
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    said = []
    for k, name in enumerate(networks):
        mine = away[away["network"] == name]
        ways = {
            "as it is": mine[mine["trained"] == mine["trained"].iloc[0]],
            "all inputs": mine[mine["trained"] == TOGETHER],
            "chosen without labels": mine[mine["chosen"]],
        }
        ways = {way: rows for way, rows in ways.items() if len(rows)}
        scores = {way: dict(zip(rows["tested"], rows["auc"], strict=True)) for way, rows in ways.items()}
        for way, each in scores.items():
            at = [targets.index(target) + 0.24 * (k - (len(networks) - 1) / 2) for target in each]
            marker, size, filled, order = MARKS[way]
            look: dict[str, Any] = {
                "mec": colour(name),
                "mfc": colour(name) if filled else "white",
                "mew": 2,
                "zorder": order,
            }
            label = f"{name}, {way}"
            axes.plot(list(each.values()), at, marker, ms=size, label=label, **look)
            said += [f"{label}: " + ", ".join(f"{target} {score:.2f}" for target, score in each.items())]
    axes.axvline(0.5, color="0.6", ls=":")
    axes.set(xlabel="AUC, substructure or none (dotted: a guess)", ylim=(len(targets) - 0.4, -0.6))
    axes.xaxis.label.set_fontsize(13)
    axes.set_yticks(range(len(targets)), targets, fontsize=13)
    figure.legend(loc="outside upper center", ncols=len(networks), fontsize=8)
    both = ", with all changes of what it sees" * (TOGETHER in away["trained"].to_numpy())
    caption = (
        f"AUC of each network on telescopes that it was not trained on: as it is{both}, and adapted without labels."
    )
    return captioned(figure, caption, f"{caption} {'; '.join(said)}.")
