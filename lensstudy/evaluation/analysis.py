"""The trained networks of a study, judged on the test images that none of them has seen.

`Analysis` answers what 04-analyse asks: which network is better and by how much more than chance, whether predictions
depend on the orientation, whether probabilities are what they say, what a network costs, and where it fails. How each
of these is measured stands in the modules of this subpackage; here they meet the networks of one study.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data import baselines
from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation import conclusions, scores
from lensstudy.evaluation.calibration import Calibration, calibrate, reliability
from lensstudy.evaluation.comparison import compare, pairwise
from lensstudy.evaluation.explanation import SHOWN, averaged_over_motions, explain, seed_interval, training_scores
from lensstudy.evaluation.failures import Failures
from lensstudy.evaluation.intervals import influence, interval
from lensstudy.evaluation.kept import code_behind, kept
from lensstudy.evaluation.learning import LearningCurve, images_to_match, learning_curve
from lensstudy.evaluation.robustness import UNPERTURBED, perturbations, predict_perturbed, rotation_change
from lensstudy.evaluation.scores import format_interval
from lensstudy.evaluation.shortcuts import smooth_fit_scores
from lensstudy.files import read_json, whole_file
from lensstudy.networks.baselines import same_filters
from lensstudy.networks.description import count_parameters, multiply_accumulates
from lensstudy.networks.names import BASELINES
from lensstudy.progress import side_by_side
from lensstudy.study import Study

__all__ = ["Analysis"]

QUARTER = "rotated by 90°"
MAIN = (UNPERTURBED, QUARTER, "random rotations")  # what the headline shows
ROTATED = 250  # test images that are enough for a share of them
PERTURBED = 3000  # test images that are enough to see what a shift, noise or blur does
TRAINING = ("training images", "training images, random rotations")


class Analysis:
    """Judge every trained network of a study on its test images.

    Everything is computed when it is first asked for, from the parameters of the study alone, and kept. Where there is
    nothing to show (one network, one seed, one number of training images, no truth), a table is empty.

    Args:
        study: the parameters of the study; its folder holds what the trainings wrote.
        dataset: its images, split into parts.
        trained: `TrainedNetwork`s by the share of the training images that they saw, in percent; the largest is judged,
            the others make the learning curves.
    """

    def __init__(self, study: Study, dataset: LensDataset, trained: Mapping[float, Sequence]):
        self.study, self.dataset, self.by_share = study, dataset, trained
        self.share = max(trained)
        self.trained = list(trained[self.share])
        self.test = dataset.part("test")
        self.labels, self.classes = self.test.labels, dataset.classes
        self.networks = list(dict.fromkeys(run.card["network"] for run in self.trained))
        self.folder = study.folder / "analysis"

    def __repr__(self) -> str:
        networks = scores.counted(len(self.networks), "network")
        seeds = scores.counted(len(self.study.seeds), "seed")
        counts = self.test.catalogue["class"].value_counts()
        images = ", ".join(f"{counts.get(name, 0):,} {name}" for name in self.classes)
        return f"{networks}, {seeds} each; {len(self.test):,} test images: {images}"

    # Predictions ------------------------------------------------------------------------------------------------------

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Probabilities `(N, classes)` of the test images as they are and perturbed, one row a network, seed,
        perturbation and draw of it: of all of them as they are, rotated by 90 degrees and by random angles, else of up
        to 3,000 (`perturbed`)."""
        sizes: dict[str, Any] = {
            "shift": self.study.perturbation_shift,
            "noise": self.study.perturbation_noise,
            "fwhm": self.study.perturbation_blur,
            "zoom": self.study.perturbation_zoom,
            "draws": self.study.random_rotations,
        }
        some = self.test.subset(self.perturbed).images
        changes = {
            (name, draw): (self.test.images if name in MAIN else some, change)
            for name, draws in perturbations(self.test.images, **sizes).items()
            for draw, change in enumerate(draws)
        }

        def predicted(run) -> list[dict]:
            seed = self.study.data_seed
            found = self._kept(
                run,
                "perturbed",
                lambda: {
                    f"{name} {draw}": predict_perturbed(run.predict, images, change, seed + draw)
                    for (name, draw), (images, change) in changes.items()
                },
                perturbed=self.perturbed.tolist(),
                main=MAIN,
                **sizes,
            )
            row = {"network": run.card["network"], "seed": run.card["seed"]}
            return [row | {"perturbation": name, "probabilities": found[f"{name} {draw}"]} for name, draw in changes]

        return pd.DataFrame(sum(side_by_side(predicted, self.trained, "perturbed images"), []))

    def _kept(self, run, name: str, make: Callable[[], dict[str, np.ndarray]], **about) -> dict[str, np.ndarray]:
        """What `make` finds of one training on the test images, or found before. Of a network of one's own the code may
        change while weights and card stay, so nothing is kept of it."""
        own = "network_source" in run.card or "module" in run.card
        return kept(None if own else run.folder, name, self._behind | about, make)

    @cached_property
    def _behind(self) -> dict:
        """What all predictions of the test images depend on, besides weights."""
        return {"images": self.test.fingerprint, "seed": self.study.data_seed, "code": code_behind()}

    @cached_property
    def perturbed(self) -> np.ndarray:
        """Rows of the test images that are shifted, noisier, blurred and enlarged: all, or 3,000 drawn at random."""
        drawn = np.random.default_rng(self.study.data_seed).permutation(len(self.test))[:PERTURBED]
        return np.sort(drawn)

    @cached_property
    def by_perturbation(self) -> pd.DataFrame:
        """Scores of every network under every perturbation, with intervals, from `scores.summarise`, and the number of
        test `images`."""
        main = self.predictions["perturbation"].isin(MAIN)
        parts = ((self.labels, self.predictions[main]), (self.labels[self.perturbed], self.predictions[~main]))
        tables = [scores.summarise(labels, part, self.classes).assign(images=len(labels)) for labels, part in parts]
        return pd.concat(tables, ignore_index=True)

    @property
    def unperturbed(self) -> pd.DataFrame:
        """Scores of every network on the test images as they are; the index is its name."""
        return self.by_perturbation[self.by_perturbation["perturbation"] == UNPERTURBED].set_index("network")

    @cached_property
    def probabilities(self) -> dict[str, list[np.ndarray]]:
        """By network, `(N, classes)` of the test images as they are, one array a seed."""
        return {name: self._of(name, UNPERTURBED) for name in self.networks}

    @cached_property
    def rotation_changes(self) -> dict[str, np.ndarray]:
        """By network, the largest change of a probability of each image over rotations, mean over seeds, of up to 250
        test images."""
        chosen = np.random.default_rng(self.study.data_seed).permutation(len(self.test))[:ROTATED]
        images, orientations = self.test.subset(chosen).images, self.study.orientations

        def change(run) -> np.ndarray:
            found = self._kept(
                run,
                "rotations",
                lambda: {"change": rotation_change(run.predict, images, orientations)},
                chosen=chosen.tolist(),
                orientations=orientations,
            )
            return found["change"]

        each = list(side_by_side(change, self.trained, "rotations"))
        of = [run.card["network"] for run in self.trained]
        return {
            name: np.mean([one for one, whose in zip(each, of, strict=True) if whose == name], axis=0)
            for name in self.networks
        }

    @property
    def rotation_consistency(self) -> dict[str, float]:
        """By network, the 95th percentile over images of the largest change of a probability over rotations."""
        return {name: float(np.quantile(each, 0.95)) for name, each in self.rotation_changes.items()}

    @property
    def changes_at_90(self) -> dict[str, float]:
        """By network, the largest change of a probability under a rotation by 90 degrees, of all images and seeds."""
        pairs = {name: (self._of(name, UNPERTURBED), self._of(name, QUARTER)) for name in self.networks}
        return {name: float(np.abs(np.subtract(before, after)).max()) for name, (before, after) in pairs.items()}

    def _of(self, network: str, perturbation: str) -> list[np.ndarray]:
        table = self.predictions
        return list(table.loc[(table["network"] == network) & (table["perturbation"] == perturbation), "probabilities"])

    # Which network is better ------------------------------------------------------------------------------------------

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """What `metrics.json` says of each training, one row a training, with its `network`."""
        folders = [(run.card["network"], self._folder(run)) for run in self.trained]
        return pd.DataFrame([read_json(folder / "metrics.json") | {"network": name} for name, folder in folders])

    def _folder(self, run):
        return self.study.training_folder(run.card["network"], run.card["seed"], self.share)

    @cached_property
    def pair(self) -> list[str]:
        """The two networks that the answer compares: the best with symmetry, on the validation part, so that the test
        images choose nothing, and its matched plain baseline, or the best without symmetry where it has none; the two
        best where all are of one kind, and one where it is alone."""
        group = {run.card["network"]: run.network.group for run in self.trained}
        equivariant, plain = ([name for name in self.ranking if bool(group[name]) is kind] for kind in (True, False))
        if not (equivariant and plain):
            return self.ranking[:2]
        matched = [name for ending in BASELINES for name in plain if name == equivariant[0] + ending]
        return [equivariant[0], *(sorted(matched, key=len) or plain)[:1]]

    @property
    def same_filters(self) -> list[str]:
        """The network with the steerable filters of the first of the pair and no symmetry, where the study has it."""
        return [name for name in self.others if name == same_filters(self.pair[0])]

    @property
    def others(self) -> list[str]:
        """The networks beside the pair, the best on the validation part first."""
        return [name for name in self.ranking if name not in self.pair]

    @property
    def ranking(self) -> list[str]:
        """The networks, the best on the validation part first."""
        mean = self.metrics.groupby("network")[["validation_auc", "validation_loss"]].mean()
        return list(mean.sort_values(["validation_auc", "validation_loss"], ascending=[False, True]).index)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair of networks compared, from `comparison.pairwise`."""
        order = [*self.pair, *self.others]
        return pairwise(self.labels, {name: self.probabilities[name] for name in order})

    @property
    def headline(self) -> pd.DataFrame:
        """The rows of `by_perturbation` that the headline shows."""
        return self.by_perturbation[self.by_perturbation["perturbation"].isin(MAIN)]

    @cached_property
    def shortcuts(self) -> pd.DataFrame:
        """AUC and accuracy, with intervals, of a few numbers that know nothing of dark matter: no networks at all. Of
        simulated images also the AUC of chi square of a smooth lens, for no_sub against the rest."""
        rows = []
        for name in baselines.FEATURES:
            found = baselines.baseline_scores(self.dataset, name)
            row = {"network": f"({name.replace('_', ' ')})", "perturbation": UNPERTURBED, "seeds": 0, "auc_std": np.nan}
            for metric in ("auc", "accuracy"):
                low, high = interval(self.labels, [found], metric)
                value = influence(self.labels, found, metric)[0]
                row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
            rows.append(row)
        truth, found = smooth_fit_scores(self.test, self.study.smooth_fit_images)
        if len(truth):
            low, high = interval(truth, [found])
            judged = f"{len(truth)} images: no_sub or not"
            row = {"network": "(smooth fit)", "perturbation": judged, "seeds": 0, "auc_std": np.nan}
            rows.append(row | {"auc": scores.auc(truth, found), "auc_low": low, "auc_high": high})
        return pd.DataFrame(rows)

    @cached_property
    def substructure(self) -> pd.DataFrame:
        """AUC of every network for `no_sub` against the rest, which is all that a smooth fit can tell; no row where the
        `shortcuts` have no such fit."""
        if "(smooth fit)" not in set(self.shortcuts["network"]):
            return pd.DataFrame()
        smooth = self.classes.index("no_sub")
        truth, rows = (self.labels != smooth).astype(int), []
        for name, runs in self.probabilities.items():
            found = [np.stack([run[:, smooth], 1 - run[:, smooth]], axis=1) for run in runs]
            each, (low, high) = [scores.auc(truth, one) for one in found], interval(truth, found)
            row = {"network": name, "perturbation": f"{len(truth):,} images: no_sub or not", "seeds": len(found)}
            spread = np.std(each, ddof=1) if len(each) > 1 else np.nan
            rows.append(row | {"auc": np.mean(each), "auc_low": low, "auc_high": high, "auc_std": spread})
        return pd.DataFrame(rows).assign(accuracy=np.nan)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The table of the study: every network on unperturbed and rotated test images, and the shortcuts, in words;
        beside a smooth fit, what networks make of its question."""
        rows = [*self.headline.itertuples(), *self.shortcuts.itertuples(), *self.substructure.itertuples()]
        spread = {0: "", 1: "one seed"}
        return pd.DataFrame(
            {
                "network": [row.network for row in rows],
                "test images": [row.perturbation for row in rows],
                "AUC": [format_interval(row.auc, row.auc_low, row.auc_high) for row in rows],
                "accuracy": [
                    "" if np.isnan(row.accuracy) else format_interval(row.accuracy, row.accuracy_low, row.accuracy_high)
                    for row in rows
                ],
                "± over seeds": [spread.get(row.seeds, f"{row.auc_std:.4f}") for row in rows],
            }
        )

    def confusion(self) -> dict[str, np.ndarray]:
        """By network, the share of each true class (rows) that was called each class (columns), mean over seeds."""
        return {
            name: np.mean([scores.confusion(self.labels, one) for one in runs], axis=0)
            for name, runs in self.probabilities.items()
        }

    def roc_curves(self) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """By class and network, false and true positive rates, all seeds together; of two classes the second."""
        shown = range(len(self.classes)) if len(self.classes) > 2 else [1]
        return {
            self.classes[k]: {
                name: scores.roc(np.tile(self.labels, len(runs)), np.concatenate(runs), k)
                for name, runs in self.probabilities.items()
            }
            for k in shown
        }

    # Are probabilities what they say? ---------------------------------------------------------------------------------

    @cached_property
    def calibrations(self) -> dict[str, list[Calibration]]:
        """By network, the temperature of each seed, fitted on the validation part."""
        found: dict[str, list[Calibration]] = {}
        for run in self.trained:
            table = pd.read_parquet(self._folder(run) / "predictions.parquet")
            known = table["class"].map(self.classes.index).to_numpy(int)
            found.setdefault(run.card["network"], []).append(calibrate(known, table[list(self.classes)].to_numpy()))
        return found

    @property
    def calibrated(self) -> dict[str, list[np.ndarray]]:
        """The `probabilities` with the temperatures of `calibrations`."""
        return {
            name: [one.apply(run) for one, run in zip(self.calibrations[name], runs, strict=True)]
            for name, runs in self.probabilities.items()
        }

    @cached_property
    def quality(self) -> pd.DataFrame:
        """Scores of the probabilities themselves, with intervals in words, and what a temperature makes of them."""
        weights = scores.resampling(self.labels, self.study.bootstrap_samples, self.study.data_seed)
        rows = []
        for name, runs in self.probabilities.items():
            row = {"network": name}
            for metric in ("average_precision", "log_loss", "brier", "calibration_error"):
                edges = scores.bootstrap_interval(self.labels, runs, weights, metric)
                row[metric] = format_interval(self.unperturbed[metric][name], *edges)
            row["temperature"] = ", ".join(f"{one.temperature:.2f}" for one in self.calibrations[name])
            each = [scores.point_estimates(self.labels, run, self.classes) for run in self.calibrated[name]]
            rows.append(row | {"calibration_error_after": np.mean([one["calibration_error"] for one in each])})
        return pd.DataFrame(rows)

    def reliability(self) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
        """By network, confidence against accuracy as trained and with its temperature, all seeds together."""
        before, after = (
            {name: reliability(np.tile(self.labels, len(runs)), np.concatenate(runs)) for name, runs in one.items()}
            for one in (self.probabilities, self.calibrated)
        )
        return before, after

    # What it costs ----------------------------------------------------------------------------------------------------

    @cached_property
    def costs(self) -> pd.DataFrame:
        """AUC with its interval beside `parameters`, `operations` (millions of multiplications an image) and `seconds`
        of a training of so many `epochs` on so many `threads`, one row a network."""
        network = {run.card["network"]: run.network for run in self.trained}
        table = self.unperturbed.loc[self.networks, ["auc", "auc_low", "auc_high"]].reset_index()
        return table.assign(
            parameters=[count_parameters(network[name]) for name in self.networks],
            operations=[multiply_accumulates(network[name]) / 1e6 for name in self.networks],
            seconds=table["network"].map(self.metrics.groupby("network")["seconds"].mean()),
            epochs=[self.study.training(name).epochs for name in self.networks],
            threads=self.study.threads,
        )

    @cached_property
    def upright(self) -> dict[int, dict[str, list[np.ndarray]]]:
        """By number of training images and by network, `(N, classes)` of the test images as they are, one array a
        seed; the smallest number first."""
        runs = [run for share, each in self.by_share.items() if share != self.share for run in each]
        found: dict[int, dict[str, list[np.ndarray]]] = {}

        def predicted(run) -> np.ndarray:
            return self._kept(run, "upright", lambda: {"probabilities": run.predict(self.test.images)})["probabilities"]

        given = side_by_side(predicted, runs, "shares of the images")
        for run, probabilities in zip(runs, given, strict=True):
            of_size = found.setdefault(run.card["training_images"], {})
            of_size.setdefault(run.card["network"], []).append(probabilities)
        found[self.trained[0].card["training_images"]] = self.probabilities
        return dict(sorted(found.items()))

    @cached_property
    def curves(self) -> dict[str, LearningCurve]:
        """By network, the AUC against the number of training images, from `learning.learning_curve`."""
        rows = [
            (name, images, seed, one)
            for images, networks in self.upright.items()
            for name in self.networks
            for seed, one in enumerate(networks.get(name, []))
        ]
        table = pd.DataFrame(rows, columns=["network", "images", "seed", "probabilities"])
        return learning_curve(self.labels, table)

    @cached_property
    def ahead(self) -> pd.DataFrame:
        """How far the first of the pair is ahead of each other network with each number of training `images`, in AUC:
        `value` with the interval `low` to `high` over test images and seeds."""
        first, *others = [*self.pair, *self.others]
        rows = [
            (images, name, *compare(self.labels, networks[first], networks[name])[:3])
            for images, networks in self.upright.items()
            for name in others
        ]
        return pd.DataFrame(rows, columns=["images", "network", "value", "low", "high"])

    @cached_property
    def matches(self) -> pd.DataFrame:
        """How many images each other network needs for what the first of the pair reaches with each number of them,
        from `learning.images_to_match`; no row for one network or one number of training images."""
        columns = ["network", "images", "score", "needed", "low", "high", "in_words"]
        first, *second = self.pair
        if not second or len(self.by_share) < 2:
            return pd.DataFrame(columns=columns)
        own = self.curves[first]
        tables = [images_to_match(own, self.curves[name]).assign(network=name) for name in (*second, *self.others)]
        return pd.concat(tables, ignore_index=True)[columns]

    # What explains it -------------------------------------------------------------------------------------------------

    @cached_property
    def training_scores(self) -> pd.DataFrame:
        """AUC of every training on its own training images, from `explanation.training_scores`."""
        every = [run for share in sorted(self.by_share) for run in self.by_share[share]]
        return training_scores(every, self.dataset, self.study.data_seed)

    @cached_property
    def training_and_test(self) -> pd.DataFrame:
        """AUC in words of every network with every number of `images`, on these and on the test images; both also
        rotated by random angles, the test images where the number is the largest. Intervals of scores on training
        images are over seeds, for the images are all there are."""
        rows = []
        rotated = self.by_perturbation[self.by_perturbation["perturbation"] == MAIN[2]].set_index("network")
        for name in self.networks:
            for point in self.curves[name].table.itertuples():
                mine = self.training_scores.query("network == @name and images == @point.images")
                row = {"network": name, "images": point.images}
                for column, label in zip(("upright", "rotated"), TRAINING, strict=True):
                    value, edges = mine[column].mean(), seed_interval(mine[column], min(point.images, SHOWN))
                    row[label] = (
                        "" if mine.empty else f"{value:.3f}" if len(mine) == 1 else format_interval(value, *edges)
                    )
                row["test images"] = format_interval(point.score, point.low, point.high)
                largest = point.images == max(self.upright)
                row["test images, random rotations"] = conclusions.with_interval(rotated.loc[name]) if largest else ""
                rows.append(row)
        return pd.DataFrame(rows)

    @cached_property
    def explanation(self) -> pd.DataFrame:
        """What explains how far the first of the pair is ahead with each number of training `images`, from
        `explanation.explain`, on up to 3,000 test images (`perturbed`)."""
        best, part, tables = self.pair[0], self.test.subset(self.perturbed), []
        plain = [*self.pair[1:], *self.same_filters]
        runs = [run for each in self.by_share.values() for run in each if run.card["network"] in plain]
        averaged: dict[int, dict[str, list[np.ndarray]]] = {}

        def average(run) -> np.ndarray:
            found = self._kept(
                run,
                "averaged",
                lambda: {"average": averaged_over_motions(run, part.images)},
                perturbed=self.perturbed.tolist(),
            )
            return found["average"]

        given = side_by_side(average, runs, "rotations and reflections")
        for run, probabilities in zip(runs, given, strict=True):
            of_size = averaged.setdefault(run.card["training_images"], {})
            of_size.setdefault(run.card["network"], []).append(probabilities)
        for images, networks in self.upright.items():
            here = {name: [one[self.perturbed] for one in runs] for name, runs in networks.items()}
            own = self.training_scores[self.training_scores["images"] == images]
            tables.append(explain(part.labels, here, best, averaged.get(images, {}), own).assign(images=images))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def failures(self) -> Failures:
        """Where the networks fail and where they look, each by its first seed."""
        first = {run.card["network"]: run for run in reversed(self.trained)}
        return Failures(self.test, self.probabilities, {name: first[name] for name in self.networks})

    # What is said of it -----------------------------------------------------------------------------------------------

    @cached_property
    def task(self) -> str:
        """What is asked, of which images, and how well the substructure in them could be seen."""
        return conclusions.on_task(self.test, self.classes)

    @cached_property
    def answer(self) -> str:
        """What was found, in one plain sentence, then in numbers."""
        first, *others = self.pair
        images = self.trained[0].card["training_images"]
        consistency = {name: self.rotation_consistency[name] for name in self.pair}
        rotations = conclusions.on_rotations(consistency, self.study.orientations)
        if not others:
            return f"{conclusions.alone(self.unperturbed.loc[first], images)} {rotations}"
        (other,) = others
        beside = {
            name: compare(self.labels, self.probabilities[first], self.probabilities[name]) for name in self.others
        }
        rows = (self.unperturbed.loc[first], self.unperturbed.loc[other])
        ahead = compare(self.labels, self.probabilities[first], self.probabilities[other])
        parts = [conclusions.verdict(*rows, ahead, images, len(self.test)), rotations]
        fewer = conclusions.with_fewer(self.ahead, first, [other, *self.same_filters])
        return " ".join([*parts, *conclusions.on_others(first, beside), *fewer])

    @property
    def seed_by_seed(self) -> str:
        """How far the first network of the pair is ahead with each seed, in words."""
        each = [[scores.auc(self.labels, run) for run in self.probabilities[name]] for name in self.pair]
        return conclusions.seed_by_seed(self.pair, each)

    def _on_steps(self) -> list[str]:
        """Whether the lead of the first of the pair stands on the training images already, in words."""
        images = self.trained[0].card["training_images"]
        learnt = self.training_scores.query("images == @images").groupby("network")["upright"].mean()
        if len(self.pair) < 2 or not set(self.pair) <= set(learnt.index):
            return []
        first, other = self.pair
        ahead = float(self.unperturbed["auc"][first] - self.unperturbed["auc"][other])
        return conclusions.on_steps(first, other, (learnt[first], learnt[other]), ahead, images)

    @cached_property
    def limitations(self) -> list[str]:
        """What these results do not say, one sentence or two each."""
        rates = {run.card["network"]: run.card["learning_rate"] for run in self.trained}
        epochs = {name: self.study.training(name).epochs for name in self.networks}
        guessing = self.unperturbed[self.unperturbed["auc_low"] <= 0.5]
        return [
            conclusions.few_images(self.unperturbed["accuracy"][self.pair[0]], len(self.test)),
            conclusions.few_seeds(len(self.study.seeds)),
            *conclusions.near_chance(guessing, rates, epochs),
            *self._on_steps(),
            *conclusions.on_shortcut(self.shortcuts.set_index("network").loc["(ring moments)"]),
            *conclusions.on_source(simulated=not self.study.data_path),
        ]

    def save(self, headline) -> None:
        """Write `summary.json` and `table.json` into the folder of the analysis, for the pages of the study.

        Args:
            headline: the figure on top of the study, with its `caption` and `alt`; `show` has kept it as headline.png.
        """
        summary = {
            "task": self.task,
            "answer": self.answer,
            "figure": "headline.png",
            "figure_alt": headline.alt,
            "figure_caption": headline.caption,
            "table": _records(self.scores),
            "limitations": " ".join(self.limitations),
            "ring_moments_auc": float(self.shortcuts.set_index("network").loc["(ring moments)", "auc"]),
            "largest_change_at_90_degrees": self.changes_at_90,
            "rotation_consistency": self.rotation_consistency,
            "pairs": _records(self.pairs),
            "curves": _records(pd.concat([one.table.assign(network=name) for name, one in self.curves.items()])),
            "ahead": _records(self.ahead),
            "images_to_match": _records(self.matches),
            "training_and_test": _records(self.training_and_test),
            "explanation": _records(self.explanation),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("table.json", _records(self.by_perturbation)), ("summary.json", summary)):
            with whole_file(self.folder / name) as partial:
                partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _records(table: pd.DataFrame) -> list[dict]:
    """A table as JSON has it: infinite and missing numbers are null."""
    return json.loads(table.to_json(orient="records"))
