"""The picture of a study for the list of reports, drawn from the table of its summary: a few points that can be read
at the size of a stamp, where the figure of its page has a panel for everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lensstudy.figures.style import captioned, colour

__all__ = ["of_ladder", "of_transfer"]

SIZE = (6.4, 3.4)
AWAY_FROM = ("network", "way", "home", "worst", "chosen for")  # columns of a transfer that are no target
GREY = "0.45"


def of_ladder(table: Sequence[Mapping[str, str]]) -> Figure:
    """From which detectability on each observer finds substructure: a point a population, and their median.

    Args:
        table: of the summary of a ladder, a row a `population` with the sigma of each observer, or `never`.
    """
    observers = [name for name in table[0] if name != "population"]
    figure, axes = plt.subplots(figsize=SIZE)
    said = []
    for k, name in enumerate(observers):
        found = np.array([float(row[name].split()[0]) for row in table if row[name] != "never"])
        ink = GREY if "-" not in name else colour(name)
        axes.plot(found, np.full(len(found), k), "o", color=ink, alpha=0.45, ms=9, mew=0)
        if len(found):
            axes.plot([np.median(found)] * 2, [k - 0.3, k + 0.3], color=ink, lw=4)
            said.append(f"{name} {np.median(found):.2g}")
    axes.set(xscale="log", xlabel="detectability [sigma] for an AUC of 0.9", ylim=(len(observers) - 0.4, -0.6))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.label.set_size(13)
    axes.set_yticks(range(len(observers)), observers, fontsize=13)
    caption = (
        f"The detectability from which on each observer has an AUC of 0.9: a point for each of {len(table)} "
        "populations in which it is reached, a line at their median."
    )
    return captioned(figure, caption, f"{caption} Medians in sigma: {', '.join(said)}.")


def of_transfer(table: Sequence[Mapping[str, Any]]) -> Figure:
    """What each network scores on every target as it is, and in the way that was chosen without labels.

    Args:
        table: of the summary of a transfer, a row a `network` and `way` with the AUC of each target.
    """
    targets = [name for name in table[0] if name not in AWAY_FROM]
    networks = list(dict.fromkeys(row["network"] for row in table))
    figure, axes = plt.subplots(figsize=SIZE)
    said = []
    for k, name in enumerate(networks):
        rows = [row for row in table if row["network"] == name]
        scores = {"as it is": {target: _value(rows[0][target]) for target in targets}}
        scores["chosen without labels"] = {
            target: _value(row[target]) for row in rows for target in targets if target in row["chosen for"].split(", ")
        }
        for (way, each), face in zip(scores.items(), ("white", colour(name)), strict=True):
            at = [targets.index(target) + 0.24 * (k - (len(networks) - 1) / 2) for target in each]
            label = f"{name}, {way}"
            axes.plot(list(each.values()), at, "o", ms=11, mew=2, mec=colour(name), mfc=face, label=label)
            said += [f"{label}: " + ", ".join(f"{target} {score:.2f}" for target, score in each.items())]
    axes.axvline(0.5, color="0.6", ls=":")
    axes.set(xlabel="AUC, substructure or none (dotted: a guess)", ylim=(len(targets) - 0.4, -0.6))
    axes.xaxis.label.set_size(13)
    axes.set_yticks(range(len(targets)), targets, fontsize=13)
    figure.legend(loc="outside upper center", ncols=len(networks), fontsize=8)
    caption = "AUC of each network on telescopes that it was not trained on, as it is and adapted without labels."
    return captioned(figure, caption, f"{caption} {'; '.join(said)}.")


def _value(cell: Any) -> float:
    return float(str(cell).split()[0])
