"""What transfers from one telescope to another, and which difference costs how much: a staircase of test sets.

From the preset that a network was trained on, one difference after the other is taken from another preset, until the
images are those of that one. What a step costs is a difference of two scores of the same lenses. Beside the networks
stands what needs no training, chi square of the smooth lens that fits an image best.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensstudy.evaluation.intervals import difference, interval
from lensstudy.evaluation.scores import auc, format_interval
from lensstudy.lensing.between import Between
from lensstudy.lensing.fitting import smooth_fit
from lensstudy.lensing.populations import CLASSES
from lensstudy.progress import progress

__all__ = ["HOME", "SMOOTH_FIT", "SUBSTRUCTURE", "Staircase", "direction", "walk"]

HOME, SMOOTH_FIT, SUBSTRUCTURE = "home", "smooth fit", "substructure"
JUDGED = {SUBSTRUCTURE: ("no_sub", False), "cdm": ("cdm", True), "axion": ("axion", True)}  # and which side counts


@dataclass(frozen=True)
class Staircase:
    """Scores on the steps from one preset to another.

    Args:
        home: the preset that the networks were trained on.
        away: where the steps lead.
        steps: one row a `walk` (`together`: this difference and all before it; `alone`: it and nothing else), `step`,
            `method` and `judged` (`substructure` against none, or a class against the others): `auc` with its 95 %
            interval `low` and `high` over test images and seeds, what the step `cost` of it (`cost_low`, `cost_high`),
            and its `direction`.
        images: test images of each class.
    """

    home: str
    away: str
    steps: pd.DataFrame
    images: int

    def scores(self, method: str, judged: str = SUBSTRUCTURE, walk: str = "together") -> pd.DataFrame:
        """The steps of one method, in their order."""
        rows = self.steps[(self.steps["method"] == method) & (self.steps["judged"] == judged)]
        return rows[rows["walk"] == walk].reset_index(drop=True)

    def breaks_at(self, method: str) -> str:
        """The first step on which a method no longer tells substructure from none; empty if it holds to the end."""
        lost = self.scores(method).query("low <= 0.5")
        return "" if lost.empty else str(lost["step"].iloc[0])

    def table(self, method: str) -> pd.DataFrame:
        """What a reader wants to see of one method: each step with its scores, and its cost in substructure against
        none, after the steps before it and alone."""
        shown = {"step": self.scores(method)["step"]}
        for judged in JUDGED:
            rows = self.scores(method, judged)
            if len(rows):
                shown[judged] = [format_interval(*one) for one in rows[["auc", "low", "high"]].to_numpy()]
        for walk, name in (("together", "cost"), ("alone", "cost alone")):
            rows = self.scores(method, walk=walk)
            if len(rows):
                costs = rows.set_index("step")["cost"].reindex(shown["step"])
                shown[name] = ["" if np.isnan(cost) else f"{cost:+.3f}" for cost in costs]
        return pd.DataFrame(shown | {"direction": self.scores(method)["direction"]})

    @property
    def answer(self) -> str:
        """Where each method stands at home and away, where it breaks and what cost most."""
        return " ".join(self._in_words(method) for method in dict.fromkeys(self.steps["method"]))

    def _in_words(self, method: str) -> str:
        rows, broken = self.scores(method), self.breaks_at(method)
        first, last, most = rows.iloc[0], rows.iloc[-1], rows.loc[rows["cost"].idxmax()]
        end = "" if last["direction"] == "right" else f", {last['direction']}"
        where = f"breaks at the step '{broken}'" if broken else "holds to the end"
        return (
            f"{method}, from {self.home} to {self.away}: {first['auc']:.3f} at home, {last['auc']:.3f} away{end}; it "
            f"{where}, and the step that costs most is '{most['step']}' ({most['cost']:+.3f})."
        )


def walk(
    between: Between,
    networks: Mapping[str, Sequence],
    images_per_class: int = 300,
    *,
    fitted: int = 0,
    alone: bool = True,
) -> Staircase:
    """Go from one preset to another, one difference at a time.

    Args:
        between: the two presets; images have the size that the networks take.
        networks: `TrainedNetwork`s by name, one a seed, which know the classes `no_sub`, `cdm` and `axion`.
        images_per_class: test images of each class. The lenses are the same on every step, where it leaves them so.
        fitted: so many of each class a smooth lens is fitted to as well; 0: none.
        alone: also take every difference from home alone.

    Returns:
        A `Staircase`.

    Example:
        >>> from lensstudy.lensing.simulation import checked_request
        >>> home = checked_request("model_3", 2, 1, 32, None, None, {})
        >>> away = checked_request("model_3", 2, 1, 32, None, None, {"equal_mass": True})
        >>> stairs = walk(Between(home, away), {}, 2, fitted=2)
        >>> stairs.scores("smooth fit")["step"].tolist()
        ['home', 'mass']
    """
    names = between.differences
    stairs = {("together", HOME): ()} | {("together", name): tuple(names[: k + 1]) for k, name in enumerate(names)}
    if alone:
        stairs |= {("alone", HOME): ()} | {("alone", name): (name,) for name in names}
    labels = np.repeat(np.arange(len(CLASSES)), images_per_class)
    found: dict[tuple[str, ...], dict[str, list]] = {}
    for taken in progress(list(dict.fromkeys(stairs.values())), f"to {between.away.preset}"):
        found[taken] = _scores(between, networks, taken, images_per_class, fitted)
    rows = []
    for (kind, step), taken in stairs.items():
        before = stairs["alone", HOME] if kind == "alone" else taken[:-1]
        for method, scored in found[taken].items():
            some = labels if method != SMOOTH_FIT else np.repeat(np.arange(len(CLASSES)), fitted)
            for judged in JUDGED if method != SMOOTH_FIT else (SUBSTRUCTURE,):
                about = {"walk": kind, "step": step, "method": method, "judged": judged}
                rows.append(about | _judged(some, scored, found[before][method], judged, step == HOME))
    return Staircase(between.home.preset, between.away.preset, pd.DataFrame(rows), images_per_class)


def direction(low: float, high: float) -> str:
    """Which way a ranking goes, by the interval of its AUC: `right`, `upside down`, or `at chance`."""
    return "right" if low > 0.5 else "upside down" if high < 0.5 else "at chance"


def _scores(
    between: Between, networks: Mapping[str, Sequence], taken: Collection[str], images_per_class: int, fitted: int
) -> dict[str, list[np.ndarray]]:
    """By method, one array a seed: probabilities `(N, 3)` in the order of `CLASSES`, or for the fits chi square with
    its sign changed in their first column."""
    made = [between.images(taken, name, images_per_class) for name in CLASSES]
    images = np.concatenate([one for one, _ in made])
    scores = {
        name: [run.predict(images)[:, [run.classes.index(one) for one in CLASSES]] for run in runs]
        for name, runs in networks.items()
    }
    if not fitted:
        return scores
    truth = pd.concat([table[:fitted] for _, table in made], ignore_index=True)
    fits = smooth_fit(
        np.concatenate([one[:fitted] for one, _ in made]),
        truth["noise_rms"].to_numpy(),
        between.of(taken, "rays").preset,
        instrument=between.camera(taken),
        exposure_time=truth["noise_time"].to_numpy(),
        noise_level=between.of(taken, "noise").noise_level,
        lens_light=bool((truth["lens_light_amplitude"] > 0).any()),
    )
    return scores | {SMOOTH_FIT: [-fits["chi_square"].to_numpy()[:, None]]}


def _judged(labels: np.ndarray, runs: Sequence, before: Sequence, judged: str, first: bool) -> dict:
    """AUC of one question with its interval, and what was lost since the step before."""
    name, of_class = JUDGED[judged]
    column = CLASSES.index(name)
    truth = ((labels == column) == of_class).astype(int)

    def two_columns(run: np.ndarray) -> np.ndarray:
        score = run[:, column] if of_class else -run[:, column]
        return np.stack([-score, score], axis=1)

    now, then = ([two_columns(run) for run in each] for each in (runs, before))
    low, high = interval(truth, now)
    about = {"auc": float(np.mean([auc(truth, one) for one in now])), "low": low, "high": high}
    cost, cost_low, cost_high, _ = (np.nan,) * 4 if first else difference(truth, then, now)
    return about | {"cost": cost, "cost_low": cost_low, "cost_high": cost_high, "direction": direction(low, high)}
