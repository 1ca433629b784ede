"""How well networks tell substructure from none away from home, after each way of training them.

A way is what networks see (units of noise, one pixel scale, many telescopes in training), whose images they learn from,
or how they adapt to images of the target without labels. Every way is scored on the test part of every target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.evaluation.intervals import interval
from lensstudy.evaluation.scores import auc, averaged_over, counted, format_interval, point_estimates
from lensstudy.evaluation.staircase import direction

__all__ = ["HOME", "TOGETHER", "Transfer", "scored"]

HOME, TOGETHER = "home", "together"  # what is tested; and the way with all changes of what networks see
LIMITATIONS = (
    "The targets are presets of one simulator, more like each other than like real observations. Where classes differ "
    "in more than substructure, as in the published presets, a network that has learnt from them may have found that. "
    "A residual comes from a fit that knows camera, noise and family of the lenses, and tells much without a network; "
    "`lensstudy train --target` may fit one. Telescopes of a mixture were chosen by somebody who knew the targets. The "
    "targets have as many images of each class, which helps to choose without labels and to adapt batch norm."
)


class Transfer:
    """Scores of networks on each target after each way of training.

    Args:
        runs: trained networks, one a seed, by the way, by what they are tested on, and by the name of the network.
        tests: the images that a way is tested on, by the way and by their name, labels and all.
        unlabelled: training images of each target, whose labels are not used, by the way and by their name: the way
            whose predictions for them are sure and balanced is `chosen`. Empty: none is chosen.
    """

    def __init__(
        self,
        runs: Mapping[str, Mapping[str, Mapping[str, Sequence]]],
        tests: Mapping[str, Mapping[str, LensDataset]],
        unlabelled: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ):
        rows = []
        for way, of_tested in runs.items():
            for tested, networks in of_tested.items():
                for network, trained in networks.items():
                    about = {"network": network, "trained": way, "tested": tested, "seeds": len(trained)}
                    given = (unlabelled or {}).get(way, {}).get(tested)
                    sure = np.nan if given is None else _information(trained, given)
                    rows.append(about | scored(trained, tests[way][tested]) | {"information": sure})
        self.table = pd.DataFrame(rows)
        best = self.table.groupby(["network", "tested"])["information"].transform("max")
        self.table["chosen"] = self.table["information"] == best
        self.networks, self.ways = list(dict.fromkeys(self.table["network"])), list(runs)
        self.targets = [name for name in dict.fromkeys(self.table["tested"]) if name != HOME]
        self.seeds = int(self.table["seeds"].min())

    def of(self, network: str) -> pd.DataFrame:
        """The scores of one network, a row for each way and target; `plots.transfer` draws them."""
        return self.table[self.table["network"] == network].drop(columns="network").reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Each network and way: AUC of substructure against none on every target, and what home lost."""
        rows = []
        for (network, way), some in self.table.groupby(["network", "trained"], sort=False):
            scores = {one.tested: format_interval(one.auc, one.low, one.high) for one in some.itertuples()}
            away = some[some["tested"] != HOME]
            chosen = ", ".join(away.loc[away["chosen"], "tested"])
            rows.append(
                {"network": network, "way": way, **scores, "lowest away": away["auc"].min(), "chosen for": chosen}
            )
        return pd.DataFrame(rows)

    def accuracy(self) -> pd.DataFrame:
        """The same ways by accuracy over all classes with its interval, and by calibration error, on the targets and at
        home."""
        columns = ["network", "trained", "tested", "accuracy", "class_auc", "calibration_error"]
        rows = zip(self.table["accuracy"], self.table["accuracy_low"], self.table["accuracy_high"], strict=True)
        shown = self.table[columns].assign(accuracy=[format_interval(*row) for row in rows])
        return shown.rename(columns={"trained": "way"})

    def caption(self, network: str) -> str:
        """What stands below the figure of a network."""
        return (
            f"AUC of substructure against none, {network}, mean over {counted(self.seeds, 'seed')} with its 95 % "
            f"interval over {averaged_over(self.seeds)}. Below 0.5 a ranking is upside down."
        )

    @property
    def answer(self) -> str:
        """What the numbers say, for the top of the report."""
        sentences = []
        for network in self.networks:
            away = self.of(network).query("tested != @HOME").groupby("trained", sort=False)["auc"].agg(["mean", "min"])
            first, best = away.iloc[0], away.loc[away["mean"].idxmax()]
            together = f"with all inputs together: {away['mean'][TOGETHER]:.3f}; " if TOGETHER in away.index else ""
            sentences.append(
                f"{network} as it is: {first['mean']:.3f} away from home; {together}{self._unlabelled(network)}"
                f"highest, which only the labels of the targets tell, with '{best.name}': {best['mean']:.3f}, and "
                f"{best['min']:.3f} on the hardest target."
            )
        return (
            f"AUC of substructure against none, mean over {counted(len(self.targets), 'target')}. {' '.join(sentences)}"
        )

    @property
    def plain(self) -> str:
        """The same in one sentence without a bracket, for lists of reports."""
        scores = self.of(self.networks[0])
        at_home = scores["tested"] == HOME
        away, home = scores[~at_home].groupby("trained", sort=False)["auc"].mean(), scores[at_home].iloc[0]
        chosen = self._chosen(self.networks[0])
        best = f"the best of {len(away)} ways of training brings that to {away.max():.2f}"
        if TOGETHER in away.index:
            best = f"all changes of what it sees bring that to {away[TOGETHER]:.2f} without a look at these"
        if len(chosen):
            best += f", and the way of learning from them that is chosen without labels to {chosen['auc'].mean():.2f}"
        reach = f"{home['low']:.2f} to {home['high']:.2f}{', so it may have learnt nothing' * bool(home['low'] < 0.5)}"
        return (
            f"{self.networks[0]} tells substructure from none with an AUC of {home['auc']:.2f} ({reach}) in lenses "
            f"like those it was trained on, and with {away.iloc[0]:.2f}, where a guess has 0.50, in those of "
            f"{counted(len(self.targets), 'other preset')}; {best}."
        )

    def _chosen(self, network: str) -> pd.DataFrame:
        """For each target the way that its images choose without a label, and its scores there."""
        return self.of(network).query("tested != @HOME and chosen")

    def _unlabelled(self, network: str) -> str:
        chosen = self._chosen(network)
        names = ", ".join(f"'{name}'" for name in dict.fromkeys(chosen["trained"]))
        return f"chosen without their labels, {names}: {chosen['auc'].mean():.3f}; " if len(chosen) else ""

    def save(self, folder: str | Path, headline) -> Path:
        """Write `transfer.csv`, and `summary.json` with the answer and the names that the list of reports reads; the
        figure on top of the study, `headline` with its `caption` and `alt`, lies beside them as `headline.png`, where
        `show` has kept it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / "transfer.csv", index=False)
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": headline.alt,
            "figure_caption": headline.caption,
            "table": json.loads(self.summary().round(4).to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def scored(runs: Sequence, images: LensDataset) -> dict:
    """Scores of the networks of several seeds: `auc` of substructure against none with its interval and `direction`,
    and over the classes that both know `class_auc`, `accuracy` with its interval, and `calibration_error`.

    Raises `DataError` where the images show lenses of one kind alone.
    """
    known = [name for name in runs[0].classes if (images.catalogue["class"] == name).any()]
    some = images.subset(images.catalogue["class"].isin(known).to_numpy())
    labels = some.catalogue["class"].map(known.index).to_numpy(int)
    if "no_sub" not in known or len(known) < 2:
        raise DataError(f"classes {', '.join(images.classes)}: lenses with substructure and without are needed")
    truth, smooth = (labels != known.index("no_sub")).astype(int), runs[0].classes.index("no_sub")
    probabilities = [run.predict(some.images) for run in runs]
    found = [np.stack([one[:, smooth], 1 - one[:, smooth]], axis=1) for one in probabilities]
    low, high = interval(truth, found)
    columns = [runs[0].classes.index(name) for name in known]
    shares = [one[:, columns] / np.maximum(one[:, columns].sum(1, keepdims=True), 1e-300) for one in probabilities]
    accuracy_low, accuracy_high = interval(labels, shares, "accuracy")
    each = pd.DataFrame([point_estimates(labels, one, known) for one in shares]).mean()
    return {
        "auc": float(np.mean([auc(truth, one) for one in found])),
        "low": low,
        "high": high,
        "direction": direction(low, high),
        "class_auc": each["auc"],
        "accuracy": each["accuracy"],
        "accuracy_low": accuracy_low,
        "accuracy_high": accuracy_high,
        "calibration_error": each["calibration_error"],
        "images": len(some),
    }


def _information(runs: Sequence, images: np.ndarray) -> float:
    """How sure and how balanced the predictions for images without labels are, mean over seeds."""
    from lensstudy.training.adaptation import without_labels

    return float(np.mean([without_labels({"": run.predict(images)})["information"].iloc[0] for run in runs]))
