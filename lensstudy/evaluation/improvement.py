"""Is what a search has found really better? New seeds, the test part, and an interval on the honest gain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.comparison import Difference, compare
from lensstudy.evaluation.scores import auc, averaged_over, counted, format_interval
from lensstudy.files import whole_file
from lensstudy.progress import progress
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run
from lensstudy.training.tuning import all_trials, alone_with, best_settings

__all__ = ["Improvement", "confirm"]

OWN, BEST = "as in the study", "best trial"
FIGURE = "Validation AUC of each alternative, less that of the best combination"


@dataclass(frozen=True)
class Improvement:
    """What is left of a search when new seeds ask again.

    `network` has the best trial, `promised` is its validation AUC and `best` the study with its settings; `table` has
    one row a training in full, and `gain` is how far the best trial is ahead on the test part.
    """

    study: Study
    network: str
    best: Study
    promised: float
    changed: dict[str, Any]
    table: pd.DataFrame
    gain: Difference

    @property
    def verdict(self) -> str:
        if all(getattr(self.best, name) == getattr(self.study, name) for name in self.study.search_space):
            return "the same settings, since the search found none better"
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else "not told apart by these test images"

    @property
    def answer(self) -> str:
        """The settings that were found, what the search promised, and the honest gain with its interval."""
        values = {n: f"{v:.3g}" if isinstance(v, float) else f"{v}" for n, v in self.changed.items()}
        changed = ", ".join(f"{name} = {value}" for name, value in values.items())
        kept = self.table.loc[self.table["settings"] == BEST, "validation AUC"].mean()
        epochs, seeds = counted(self.study.search_epochs, "epoch"), counted(len(self.study.new_seeds), "new seed")
        return (
            f"With {changed}, the search promised {self.network} a validation AUC of {self.promised:.4f} in {epochs}; "
            f"trained in full with {seeds} it reaches {kept:.4f}. On the test part "
            f"its AUC differs from that of the study's own settings by {format_interval(*self.gain[:3])} (95 % over "
            f"{averaged_over(len(self.study.new_seeds))}, p = {self.gain.p:.2g}): {self.verdict}."
        )

    @property
    def plain(self) -> str:
        """The answer in one plain sentence."""
        if self.verdict in ("better", "worse"):
            change = "raise" if self.gain.value > 0 else "lower"
            low, high = sorted((abs(self.gain.low), abs(self.gain.high)))
            gain = f"{abs(self.gain.value):.3f} ({low:.3f} to {high:.3f})"
            return f"The settings that a search found {change} the test AUC of {self.network} by {gain}."
        return f"No gain is shown for {self.network}: {self.verdict}."

    def save(self) -> Path:
        """Write `summary.json` for the index of the study. Returns the file."""
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": f"{FIGURE}.",
            "figure_caption": f"{FIGURE}; one seed each.",
            "limitations": "The search compares settings with one seed each, and on one validation part.",
        }
        file = self.study.folder / "improvement" / "summary.json"
        with whole_file(file) as partial:
            partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def confirm(study: Study, dataset: LensDataset, searches: Mapping[str, optuna.Study]) -> Improvement:
    """Train the best trial of all searches, and the study's own settings, with seeds that no trial had.

    Args:
        study: its `new_seeds` and `epochs` are those of the trainings.
        dataset: the test part is opened here, and only here.
        searches: what `all_searches` returns.

    Returns:
        An `Improvement`; its `answer` states the gain with an interval over test images and new seeds.

    Raises:
        ParameterError: no trial reached its end.
    """
    trials = all_trials(searches)
    ended = trials[trials["state"] == "complete"].sort_values("auc")
    winner = ended["network"].iloc[-1] if len(ended) else study.networks[0]
    best, test = best_settings(study, searches[winner], winner), dataset.part("test")
    rows: list[dict] = []
    seen: dict[str, list[np.ndarray]] = {OWN: [], BEST: []}
    runs = [(label, settings, seed) for label, settings in ((OWN, study), (BEST, best)) for seed in study.new_seeds]
    for label, settings, seed in progress(runs, "new seeds"):
        folder = study.folder / "improvement" / f"{label.replace(' ', '-')}-s{seed}"
        with alone_with(study, folder):
            run = load_run(fit(dataset, settings.training(winner, seed), folder=folder))
        seen[label].append(run.predict(test.images))
        figures = {"validation AUC": run.metrics["validation_auc"], "test AUC": auc(test.labels, seen[label][-1])}
        rows.append({"settings": label, "seed": seed} | figures)
    gain = compare(test.labels, seen[BEST], seen[OWN])
    found = searches[winner]
    return Improvement(study, winner, best, found.best_value, found.best_params, pd.DataFrame(rows), gain)
