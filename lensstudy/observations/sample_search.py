"""Which lenses of a sample hold a subhalo: networks in the space of residuals, beside what needs no training.

Networks see what a smooth lens leaves of an image (`counterparts.Refit.channels`). They are trained on counterparts of
the sample, and judged by the measures of the field: how many subhalos are found where one smooth lens in ten is taken
for one with a subhalo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import difference_of, effective, interval_of, measured, of_groups, wilson
from lensstudy.evaluation.scores import format_interval, format_p
from lensstudy.files import whole_file, write_json
from lensstudy.networks.names import searching
from lensstudy.observations.counterparts import PROFILES
from lensstudy.observations.known_subhalo import Published
from lensstudy.observations.lens_model import COARSE
from lensstudy.observations.recovery import least_mass
from lensstudy.observations.sample_images import (
    BINS,
    BLIND,
    BLIND_SUBHALO,
    CLASSES,
    KINDS,
    LEARNT,
    MULTIPOLES,
    REAL,
    SampleImages,
)
from lensstudy.progress import in_processes, processors, progress
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = ["FALSE_POSITIVES", "IDEAL", "SampleSearch", "search_lenses", "training_study"]

FALSE_POSITIVES = 0.1  # share of smooth lenses that may be taken for lenses with a subhalo (the field's protocol)
COMPACT = "NFW, concentration 60"
IDEAL, SCAN, CHI2 = "knows where and what", "scan for a mass", "chi square"
AVERAGED = 1.25
OTHER_PIXELS = 0.15  # by which those of a refit may differ from what the networks of the package learnt from
WAVES = tuple(MULTIPOLES)  # kinds of counterparts with one
BIN_NAMES = [f"10^{low} to {high}" for low, high in pairwise(f"{math.log10(mass):g}" for mass in BINS)]
PUBLISHED = {  # of a public test with the same bins and the same threshold, on simulated lenses of its own (2026)
    "U-Net, 30,000 images": (".666", ["10", "10", "21", "51", "70", "79"], dict.fromkeys(WAVES, "10")),
    "parametric scan": ("", [], dict(zip(WAVES, ["33", "76"], strict=True))),
}
NULLS = ("smooth", "real residuals", BLIND)  # kinds of counterparts without a subhalo that a real lens is ranked among
DRAWN = ("train", "validation", "subhalo", *NULLS)  # kinds that a lens with or without a subhalo may be like
LIMITATIONS = (
    "Networks and thresholds know simulated counterparts alone, whose masses are power laws with shear and multipoles: "
    "what else a galaxy does to its arcs, and what is left of its light, they may take for a subhalo. Counterparts are "
    "fitted from their true lens, real ones from that of an automatic fit, so a wrong fit is suspicious by itself; "
    "those that are fitted blindly show by how much. Half of the lenses that are explained best lent what their models "
    "leave as noise for training. The recipe was written with the chi squares and scans of the real lenses in sight, "
    "and with J0946+1006 known."
)


def training_study(study: Study) -> Study:
    """The study of the trainings: inputs come in units of the noise, and only the eight orientations of the square
    leave them as they are."""
    return study.model_copy(update={"scaling": "z-score", "crop": 0, "binning": 1, "augmentation": "square"})


@dataclass(frozen=True)
class SampleSearch:
    """Every image of a sample and its counterparts with the scores of networks, higher where a subhalo is likelier.

    Attributes:
        images: what was scored.
        runs: log-odds of a subhalo `(seeds, N)` by network.
        folder: of the results.
    """

    images: SampleImages
    runs: dict[str, np.ndarray]
    folder: Path

    @classmethod
    def of(cls, images: SampleImages, study: Study, folder: str | Path) -> SampleSearch:
        """Train the networks of a study on the counterparts, one for each seed, and score all images; a training that
        is there is kept."""
        folder = Path(folder)
        images.training(seed=study.data_seed).save(folder / "dataset")
        jobs = [(folder, study.training(name, seed)) for name in study.networks for seed in study.seeds]
        made = list(progress(in_processes(_trained, jobs, processors()), "trainings", len(jobs)))
        runs = {
            name: scored(images.images, [load_run(run) for run in made if run.name.rsplit("-s", 1)[0] == name])
            for name in study.networks
        }
        return cls(images, runs, folder)

    @property
    def rows(self) -> pd.DataFrame:
        """The catalogue of the images."""
        return self.images.catalogue

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """The score `(N,)` of each image by network, averaged over seeds, and by what needs no training; that of an
        observer who knows place and kind of every subhalo is its significance plus the noise's share of it."""
        noise = np.random.default_rng(0).normal(size=len(self.rows))
        return {name: run.mean(0) for name, run in self.runs.items()} | {
            SCAN: self.rows["scan"].to_numpy(float),
            CHI2: self.rows["chi2"].to_numpy(float),
            IDEAL: self.rows["seen"].fillna(0).to_numpy(float) + noise,
        }

    @property
    def network(self) -> str:
        """The network that the study names first."""
        return next(iter(self.runs))

    def _of(self, *kinds: str) -> np.ndarray:
        return self.rows["kind"].isin(kinds).to_numpy()

    def threshold(self, name: str, among: str = "smooth") -> float:
        """The score that `FALSE_POSITIVES` of the counterparts of the kind `among` exceed."""
        return float(np.quantile(self.scores[name][self._of(among)], 1 - FALSE_POSITIVES))

    def share(self, name: str, chosen: np.ndarray, among: str = "smooth") -> tuple[float, float, float]:
        """Share of the chosen images above the threshold, with its 95 % interval over lenses; threshold and seeds are
        taken as they are."""
        above = self.scores[name][chosen] > self.threshold(name, among)
        return float(above.mean()), *wilson(float(above.mean()), effective(above, self.rows["lens"][chosen].to_numpy()))

    # What the field measures

    @property
    def aucs(self) -> pd.DataFrame:
        """AUC of counterparts with a subhalo against smooth ones, with 95 % intervals over lenses and seeds, the seeds'
        own, and how far the first network is ahead of each."""
        test = self._of("smooth", "subhalo")
        labels, lenses = (self.rows["mass"] > 0).to_numpy(int)[test], self.rows["lens"].to_numpy()[test]
        runs = {name: [_two(seed[test]) for seed in run] for name, run in self.runs.items()}
        runs |= {name: [_two(self.scores[name][test])] for name in (SCAN, CHI2, IDEAL)}
        each = {name: of_groups(labels, measured(labels, given), lenses) for name, given in runs.items()}
        alike = np.zeros(len(np.unique(lenses)), int)
        rows = []
        for name, one in each.items():
            row = {"by": name, "AUC": format_interval(one.values.mean(), *interval_of(alike, one, "accuracy"))}
            row |= {"seeds": ", ".join(f"{value:.3f}" for value in one.values) if len(one.values) > 1 else ""}
            if name not in (self.network, IDEAL):
                ahead = difference_of(alike, each[self.network], one, "accuracy")[:3]
                row |= {"the first is ahead by": format_interval(*ahead)}
            rows.append(row)
        return pd.DataFrame(rows)

    def found(self, kind: str = "subhalo", among: str = "smooth") -> pd.DataFrame:
        """Share of subhalos found `share`, with its interval `low` to `high`, by `by` (a scorer), `profile` and `bin`
        of mass, of counterparts (`subhalo`, or such that are fitted blindly) or of changes added to real images
        (`injected`). The threshold is that of counterparts of the kind `among`; no row where there are none."""
        rows = []
        if not self._of(among).any():
            return pd.DataFrame(rows)
        chosen, masses = self._of(kind), self.rows["mass"].to_numpy(float)
        for profile in PROFILES:
            for number, (low, high) in enumerate(pairwise(BINS)):
                cell = chosen & (self.rows["profile"] == profile).to_numpy() & (masses >= low) & (masses < high)
                if cell.any():
                    about = {
                        "profile": profile,
                        "bin": number,
                        "mass": math.sqrt(low * high),
                        "images": int(cell.sum()),
                    }
                    rows += [
                        about
                        | {"by": name}
                        | dict(zip(("share", "low", "high"), self.share(name, cell, among), strict=True))
                        for name in self.scores
                    ]
        return pd.DataFrame(rows)

    def found_table(self, kind: str = "subhalo", among: str = "smooth") -> pd.DataFrame:
        """`found` in per cent, a row a profile and scorer, a column a bin."""
        found = self.found(kind, among)
        if found.empty:
            return found
        found["cell"] = [
            f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
            for share, low, high in found[["share", "low", "high"]].to_numpy()
        ]
        table = found.pivot(index=["profile", "by"], columns="bin", values="cell")
        table = table.rename(columns=dict(enumerate(BIN_NAMES)))
        order = [(profile, name) for profile in PROFILES for name in self.scores if (profile, name) in table.index]
        return table.loc[order].rename_axis(columns=None).reset_index()

    @property
    def false_positives(self) -> pd.DataFrame:
        """Share of lenses without a subhalo above the threshold, in per cent, a row a scorer: smooth counterparts, by
        which it is set; such with multipoles, with real residuals for noise, or fitted without knowing their lens; and
        the real lenses."""
        kinds = ("smooth", *WAVES, "real residuals", BLIND, REAL)
        rows = []
        for name in self.scores:
            if name != IDEAL:
                row = {"by": name}
                for kind in kinds:
                    if (chosen := self._of(kind)).any():
                        share, low, high = (100 * one for one in self.share(name, chosen))
                        row["real lenses" if kind == REAL else kind] = f"{share:.0f} [{low:.0f}, {high:.0f}]"
                rows.append(row)
        return pd.DataFrame(rows)

    @property
    def beside_published(self) -> pd.DataFrame:
        """The measures of a public test of 2026 (compact halos, and lenses with multipoles), as published and here:
        AUC, the share found in each bin, and false positives under multipoles of order 4, in per cent; of the networks
        of all seeds together, and of halos of concentration 60 alone."""
        rows = [
            {"by": f"{name} (published)", "AUC": auc} | dict(zip(BIN_NAMES, found, strict=False)) | waves
            for name, (auc, found, waves) in PUBLISHED.items()
        ]
        waves, compact = self.false_positives.set_index("by"), (self.rows["profile"] == COMPACT).to_numpy()
        test = self._of("smooth") | (self._of("subhalo") & compact)
        table = self.found_table().query("profile == @COMPACT").set_index("by").drop(columns="profile")
        for name in (*self.runs, SCAN, IDEAL):
            auc = roc_auc_score(compact[test], self.scores[name][test]) if compact[test].any() else math.nan
            row = {"by": name, "AUC": "" if math.isnan(auc) else f"{auc:.3f}".lstrip("0")} | (
                table.loc[name].dropna().to_dict() if name in table.index else {}
            )
            rows.append(
                row | (waves.reindex(columns=WAVES).loc[name].dropna().to_dict() if name in waves.index else {})
            )
        return pd.DataFrame(rows).fillna("")

    def _lenders(self, *kinds: str) -> np.ndarray:
        """Lenses of which what their models leave is noise of images of these kinds."""
        return self.rows["lender"][self._of(*kinds)].unique() if "lender" in self.rows else np.array([])

    # The sample

    @cached_property
    def half_found(self) -> float:
        """Significance in sigma from which on the first network finds at least half of the subhalos, infinite if it
        never does; the share found is averaged over a factor of `AVERAGED` or so in significance."""
        chosen = self._of("subhalo")
        seen = np.log(np.maximum(self.rows["seen"].to_numpy(float)[chosen], 1e-3))
        above = self.scores[self.network][chosen] > self.threshold(self.network)
        low, high = np.quantile(seen, [0.01, 0.99])
        places = np.linspace(low, high, 400)
        weight = np.exp(-(((places[:, None] - seen) / math.log(AVERAGED)) ** 2) / 2)
        return least_mass(np.exp(places), weight @ above / weight.sum(1))

    @cached_property
    def lenses(self) -> pd.DataFrame:
        """One row a real lens, the most suspicious first: probability of a subhalo by the first network, for a lens
        like its counterparts `if_half_had_one`; the rate of false alarms `p` among its own counterparts without one;
        the rank, by that and by the score, and the `ranks` by single seeds; the share `p_chi2` of its own counterparts,
        with or without a subhalo, whose chi square is as high, by which it is `in_distribution`, and the state of its
        smooth `model`; and the mass, of an NFW halo of concentration 60, of which half are found, which is not known
        where too few were drawn."""
        real, chi2 = np.flatnonzero(self._of(REAL)), self.rows["chi2"].to_numpy(float)
        names = self.rows["lens"].to_numpy()

        def ranks(score: np.ndarray) -> np.ndarray:
            order = np.lexsort((-score[real], self._rates(score, real, NULLS)))
            return np.argsort(order) + 1

        score = self.scores[self.network]
        by_seeds = np.array([ranks(seed) for seed in self.runs[self.network]])
        p_chi2 = self._rates(chi2, real, DRAWN)
        table = pd.DataFrame(
            {
                "rank": ranks(score),
                "lens": names[real],
                "if_half_had_one": self.probability(score[real]),
                "p": self._rates(score, real, NULLS),
                "score": score[real],
                "ranks": [f"{one.min()} to {one.max()}" for one in by_seeds.T],
                "chi2": chi2[real],
                "p_chi2": p_chi2,
                "in_distribution": p_chi2 > 0.05,
                "model": self.rows["model"].to_numpy()[real],
                "half_mass": [self._half_mass(name) for name in names[real]],
            }
        )
        return table.sort_values("rank", ignore_index=True)

    def _rates(self, score: np.ndarray, images: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
        """Rate of false alarms of each of some images, by their numbers: the share of the other images of its lens, of
        these kinds, whose score is as high, if it is counted among them."""
        names, chosen = self.rows["lens"].to_numpy(), np.flatnonzero(self._of(*kinds))
        own = [chosen[(names[chosen] == names[i]) & (chosen != i)] for i in images]
        return np.array(
            [(1 + (score[some] >= score[i]).sum()) / (1 + len(some)) for i, some in zip(images, own, strict=True)]
        )

    @cached_property
    def blind_rates(self) -> np.ndarray:
        """Rates of false alarms `(n,)` of counterparts without a subhalo that are fitted as blindly as real lenses:
        what the rates of real ones would be, if those were smooth."""
        return self._rates(self.scores[self.network], np.flatnonzero(self._of(BLIND)), NULLS)

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Probability of a subhalo `(n,)` by the first network, from its score: calibrated (Platt 1999) on the
        counterparts of the validation, where there are some."""
        chosen = self._of("validation")
        labels = (self.rows["mass"] > 0).to_numpy()[chosen]
        if len(np.unique(labels)) < 2:
            return 1 / (1 + np.exp(-score))
        known = LogisticRegression(C=100).fit(self.scores[self.network][chosen, None], labels)
        return known.predict_proba(score[:, None])[:, 1]

    def first(self, count: int) -> pd.DataFrame:
        """The rows of the real images of the lenses that come first in `lenses`."""
        real = self.rows[self._of(REAL)].reset_index().set_index("lens")
        return real.loc[self.lenses["lens"].head(count)].reset_index().set_index("index")

    @property
    def lenses_table(self) -> pd.DataFrame:
        """`lenses` for a reader."""
        names = {
            "rank": "rank",
            "lens": "lens",
            "if_half_had_one": "probability, if half had one",
            "p": "rate of false alarms",
            "ranks": "ranks by single seeds",
            "chi2": "chi square a pixel",
            "p_chi2": "share of counterparts with as much",
            "model": "smooth model",
            "half_mass": "mass half found",
        }
        table = self.lenses[list(names)].rename(columns=names)
        masses = [
            "not known" if math.isnan(mass) else f"{mass:.1e}" if mass <= BINS[-1] else f"more than {BINS[-1]:.0e}"
            for mass in table["mass half found"]
        ]
        return table.assign(**{"mass half found": masses})

    def _half_mass(self, lens: str) -> float:
        """Mass at which the significance of a subhalo in a lens is `half_found` in the median of places: significance
        rises as a power of mass, which the lenses have in common."""
        rows = self.rows[self._of("subhalo", "injected") & (self.rows["profile"] == "NFW, concentration 60").to_numpy()]
        rows = rows[rows["seen"] > 0]
        if (rows["lens"] == lens).sum() < 2 or not math.isfinite(self.half_found):
            return math.nan
        x, y = np.log10(rows["mass"].to_numpy(float)), np.log10(rows["seen"].to_numpy(float))
        centred = [values - pd.Series(values).groupby(rows["lens"].to_numpy()).transform("mean") for values in (x, y)]
        slope = float((centred[0] * centred[1]).sum() / (centred[0] ** 2).sum())
        own = (rows["lens"] == lens).to_numpy()
        level = float(np.median(y[own] - slope * x[own]))
        return float(10 ** ((math.log10(self.half_found) - level) / slope))

    @property
    def sample_table(self) -> pd.DataFrame:
        """Share of the real lenses above the threshold of the first network, and the p-values of Kolmogorov and
        Smirnov's tests that their rates of false alarms are uniform, and that they are like those of counterparts that
        are fitted blindly: of all, of those that give no cause for doubt, and of those whose residuals were noise of
        other images. Of these, networks know the first ones, which are explained as well as the second."""
        known, lenses = self.rows["lens"].to_numpy(), self.lenses
        groups = {
            "all": lenses,
            "smooth model ok": lenses[lenses["model"] == "ok"],
            "and chi square as in counterparts": lenses[(lenses["model"] == "ok") & lenses["in_distribution"]],
            "lent noise to the training": lenses[lenses["lens"].isin(self._lenders(*LEARNT))],
            "lent noise to the test": lenses[lenses["lens"].isin(self._lenders("real residuals"))],
        }
        rows = []
        for name, some in groups.items():
            if len(some):
                chosen = self._of(REAL) & np.isin(known, some["lens"])
                share, low, high = (100 * one for one in self.share(self.network, chosen))
                uniform = float(stats.kstest(some["p"], "uniform").pvalue)
                row = {
                    "lenses": name,
                    "number": len(some),
                    "above the threshold": f"{share:.0f} % [{low:.0f}, {high:.0f}]",
                    "p-value of uniform rates": format_p(uniform),
                }
                if len(self.blind_rates):
                    alike = float(stats.ks_2samp(some["p"], self.blind_rates).pvalue)
                    row["p-value of rates as of blind fits"] = format_p(alike)
                rows.append(row)
        return pd.DataFrame(rows)

    @property
    def answer(self) -> str:
        """What was found, for the top of the report."""
        table, aucs = self.lenses, self.aucs.set_index("by")
        share, low, high = self.share(self.network, self._of(REAL))
        expected, blind = FALSE_POSITIVES, self._of(BLIND)
        if blind.any():
            expected, least, most = self.share(self.network, blind)
        known = [row for row in table.to_dict("records") if Published.of(row["lens"], {})]
        twins = [name for name in self.runs if name != self.network]
        alone = int((table["p"] == table["p"].min()).sum())
        sentences = [
            f"AUC of {self.network} between counterparts with a subhalo and smooth ones: {aucs['AUC'][self.network]}; "
            f"of a scan for a mass, without training: {aucs['AUC'][SCAN]}; lead of the network: "
            f"{aucs['the first is ahead by'][SCAN]}.",
            *(f"Its lead over {name}: {aucs['the first is ahead by'][name]}." for name in twins),
            self._heaviest(),
            f"Of smooth counterparts that are fitted as blindly as real lenses, {expected:.0%} [{least:.0%}, "
            f"{most:.0%}] are above that threshold."
            if blind.any()
            else "",
            f"Of {len(table)} real lenses, {share:.0%} [{low:.0%}, {high:.0%}] are above it, "
            + (
                "more than chance gives: real lenses differ from their counterparts, so none of them is evidence of a "
                "subhalo by itself."
                if low > expected
                else "no more than chance may give."
            ),
            f"First is {table['lens'][0]}, with a rate of false alarms of {table['p'][0]:.2g}"
            + (f", the least that there is, as {alone - 1} others have." if alone > 1 else "."),
            *(
                f"{row['lens']}, whose subhalo is published, is number {row['rank']} (rate {row['p']:.2g}; by single "
                f"seeds number {row['ranks']})."
                for row in known
            ),
        ]
        return " ".join(sentence for sentence in sentences if sentence)

    def _heaviest(self) -> str:
        """Which share is found of the heaviest subhalos, in a sentence; empty where none was drawn."""

        def shares(kind: str, among: str) -> str:
            found = self.found(kind, among)
            rows = found.query("by == @self.network and bin == 5").itertuples() if len(found) else ()
            return ", ".join(f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}] ({row.profile})" for row in rows)

        smooth, blind = shares("subhalo", "smooth"), shares(BLIND_SUBHALO, BLIND)
        if not smooth:
            return ""
        said = f"At one false positive in ten, it finds {smooth} of those of 10^10.5 to 10^11 solar masses"
        return f"{said}; where both are {BLIND}, {blind}." if blind else f"{said}."

    @property
    def plain(self) -> str:
        """The answer in one sentence, without brackets."""
        found, of_blind = self._range("subhalo", "smooth"), self._range(BLIND_SUBHALO, BLIND)
        share, blind = self.share(self.network, self._of(REAL))[0], self._of(BLIND)
        if not found:
            return f"The network takes {100 * share:.0f} in 100 of the real lenses for one with a subhalo."
        smooth = f"{100 * self.share(self.network, blind)[0]:.0f} in 100 smooth ones and " if blind.any() else ""
        fewer = f"; where only 10 in 100 of those smooth ones exceed it, it finds {of_blind} in 100" if of_blind else ""
        return (
            f"At a threshold that 10 in 100 smooth lenses exceed, the network finds {found} in 100 of the "
            "subhalos of 10^10.5 solar masses and more, depending on profile; where the lens has to be looked for, "
            f"{smooth}{100 * share:.0f} in 100 real ones exceed it{fewer}."
        )

    def _range(self, kind: str, among: str) -> str:
        """The least and the largest share that is found of the heaviest subhalos of a profile, in per cent."""
        if (found := self.found(kind, among)).empty:
            return ""
        share = 100 * found.query("by == @self.network and bin == 5")["share"]
        return f"{share.min():.0f} to {share.max():.0f}" if len(share) else ""

    @property
    def summary_table(self) -> pd.DataFrame:
        """The AUCs, the share found of the heaviest subhalos, and that of real lenses above the threshold."""
        found = self.found().query("bin == 5").pivot(index="by", columns="profile", values="share")
        table = self.aucs[["by", "AUC"]].copy()
        for profile in found:
            table[f"found, 10^10.5 to 10^11, {profile}"] = [
                f"{100 * found[profile][name]:.0f} %" for name in table["by"]
            ]
        real = self.false_positives.set_index("by")["real lenses"]
        return table.assign(
            **{"real lenses above the threshold, in per cent": [real.get(name, "") for name in table["by"]]}
        )

    def save(self) -> Path:
        """Write `lenses.csv`, `scores.csv` and `summary.json` with the answer and the names that the list of reports
        reads; the figure stands beside it as `headline.png`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        table = self.rows.assign(**self.scores)
        for name, frame in {"lenses": self.lenses, "scores": table}.items():
            with whole_file(self.folder / f"{name}.csv") as file:
                frame.to_csv(file, index=False)
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": "Share of subhalos found against their mass, for three profiles.",
            "figure_caption": "Share of single subhalos found against their mass, at one false positive in ten.",
            "table": json.loads(self.summary_table.to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = self.folder / "summary.json"
        write_json(file, summary)
        return file


def search_lenses(
    network: str, path: str | Path, folder: str | Path, pixel_scale: float | None = None, counterparts: int = 16
) -> pd.DataFrame:
    """Search lenses of one's own with a network that comes with the package.

    A smooth lens is fitted to every image, then to smooth counterparts of it, to some of them as blindly as to the real
    one, and the network scores both.

    Args:
        network: one of `networks.names.SEARCHING`.
        path: a folder or file of cutouts with noise maps, as for `read_observations`.
        folder: for models and counterparts; what is there already is kept.
        pixel_scale: in arcseconds, for files that do not hold it.
        counterparts: smooth ones of each lens, among which it is ranked, beside half as many that are fitted blindly;
            as many again, half with a subhalo, tell how large chi square may be.

    Returns:
        One row a lens, the most suspicious first: `lens`, `state` (`ok`, `out of distribution`, or `failed`),
        `score`, the log-odds of a subhalo, `false_alarms`, the share of its smooth counterparts that score as high,
        `chi2` and `counterparts_chi2`, the share of its counterparts, of which some have a subhalo, with as high a chi
        square, `model`, whether its smooth model is `ok` or
        `doubtful`, and `reason`. The sources of these counterparts are Sersic profiles with knots, and their noise is
        drawn: simpler than what the networks learnt from, so that `false_alarms` is rather too low.

    Raises:
        DataError: nothing can be read, or no lens has a smooth model.
        ValueError: no such network comes with the package.
    """
    runs = [load_run(run) for run in sorted(searching(network).glob("s*"))]
    if not runs:
        raise ValueError(f"{searching(network)}: holds no network; install lensstudy again")
    training = counterparts / KINDS["smooth"]
    kinds = "smooth", BLIND, "validation"
    images = SampleImages.of(path, folder, pixel_scale, math.ceil(training), kinds=kinds)
    search = SampleSearch(images, {network: scored(images.images, runs)}, Path(folder))
    names = {"p": "false_alarms", "p_chi2": "counterparts_chi2"}
    table = search.lenses.rename(columns=names)[["lens", "score", "false_alarms", "chi2", "counterparts_chi2", "model"]]
    known = search.lenses["in_distribution"]
    table["reason"] = np.where(known, "", "the smooth fit is worse than those of counterparts, even with a subhalo")
    real = images.catalogue[images.catalogue["kind"] == REAL].set_index("lens")["pixels"]
    pixels = table["lens"].map(real)
    other = (pixels / COARSE - 1).abs() > OTHER_PIXELS
    table.loc[other, "reason"] = [
        f"pixels of {one:.3g} arcsec; the networks learnt from {COARSE:g}" for one in pixels[other]
    ]
    table.insert(1, "state", np.where(table["reason"] == "", "ok", "out of distribution"))
    failed = [{"lens": name, "state": "failed", "reason": why} for name, why in images.skipped.items()]
    return pd.concat([table, pd.DataFrame(failed)], ignore_index=True)


def _trained(folder: Path, study: Study) -> Path:
    """The run folder of one training, done where it is not yet."""
    run = folder / "training" / f"{study.network}-s{study.seed}"
    return fit(LensDataset.load(folder / "dataset"), training_study(study), folder=run)


def scored(images: np.ndarray, runs: Sequence[TrainedNetwork]) -> np.ndarray:
    """Log-odds of a subhalo `(seeds, N)`."""
    found = []
    for run in runs:
        p = np.clip(run.predict(images.astype(np.float32))[:, CLASSES.index("sub")].astype(float), 1e-7, 1 - 1e-7)
        found.append(np.log(p / (1 - p)))
    return np.array(found)


def _two(score: np.ndarray) -> np.ndarray:
    """A score as if it were probabilities of two classes, of which the second is ranked by it."""
    return np.stack([-score, score], axis=1)
