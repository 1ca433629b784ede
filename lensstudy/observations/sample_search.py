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

from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation.intervals import difference, interval, wilson
from lensstudy.evaluation.scores import format_interval
from lensstudy.files import whole_file, write_json
from lensstudy.networks.names import searching
from lensstudy.observations.counterparts import PROFILES
from lensstudy.observations.known_subhalo import Published
from lensstudy.observations.recovery import least_mass
from lensstudy.observations.sample_images import BINS, CLASSES, KINDS, MULTIPOLES, REAL, SampleImages
from lensstudy.progress import in_processes, processors, progress
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import TrainedNetwork, load_run

__all__ = ["FALSE_POSITIVES", "IDEAL", "SampleSearch", "search_lenses", "training_study"]

FALSE_POSITIVES = 0.1  # share of smooth lenses that may be taken for lenses with a subhalo (the field's protocol)
IDEAL, SCAN, CHI2 = "knows where and what", "scan for a mass", "chi square"
AVERAGED = 1.25
WAVES = tuple(MULTIPOLES)  # kinds of counterparts with one
BIN_NAMES = [f"10^{low} to {high}" for low, high in pairwise(f"{math.log10(mass):g}" for mass in BINS)]
PUBLISHED = {  # of a public test with the same bins and the same threshold, on simulated lenses of its own (2026)
    "U-Net, 30,000 images": (".666", ["10", "10", "21", "51", "70", "79"], dict.fromkeys(WAVES, "10")),
    "parametric scan": ("", [], dict(zip(WAVES, ["33", "76"], strict=True))),
}
NULLS = ("smooth", "real residuals")  # kinds of counterparts without a subhalo that a real lens is ranked among
LIMITATIONS = (
    "Networks and thresholds know simulated counterparts alone, whose masses are power laws with shear and multipoles. "
    "What else a galaxy does to its arcs, and what is left of its light, they may take for a subhalo: a low rate of "
    "false alarms is no detection. The recipe of the counterparts was written with the chi squares and scans of the "
    "real lenses in sight, and with J0946+1006 known."
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
    def best(self) -> str:
        """The network that the study names first."""
        return next(iter(self.runs))

    def _of(self, *kinds: str) -> np.ndarray:
        return self.rows["kind"].isin(kinds).to_numpy()

    def threshold(self, name: str) -> float:
        """The score that `FALSE_POSITIVES` of the smooth counterparts exceed."""
        return float(np.quantile(self.scores[name][self._of("smooth")], 1 - FALSE_POSITIVES))

    def share(self, name: str, chosen: np.ndarray) -> tuple[float, float, float]:
        """Share of the chosen images above the threshold, with its 95 % interval over images."""
        above = self.scores[name][chosen] > self.threshold(name)
        return float(above.mean()), *wilson(float(above.mean()), len(above))

    # What the field measures

    @property
    def aucs(self) -> pd.DataFrame:
        """AUC of counterparts with a subhalo against smooth ones, with 95 % intervals over images and seeds, the seeds'
        own, and how far the first network is ahead of each."""
        test = self._of("smooth", "subhalo")
        labels = (self.rows["mass"] > 0).to_numpy(int)[test]
        runs = {name: list(map(_two, run[:, test])) for name, run in self.runs.items()}
        runs |= {name: [_two(self.scores[name][test])] for name in (SCAN, CHI2, IDEAL)}
        rows = []
        for name, given in runs.items():
            value = np.mean([_auc(labels, one) for one in given])
            row = {"by": name, "AUC": format_interval(value, *interval(labels, given))}
            each = [f"{_auc(labels, one):.3f}" for one in given] if len(given) > 1 else []
            row |= {"seeds": ", ".join(each)}
            if name != self.best and name in self.runs:
                row |= {"the first is ahead by": format_interval(*difference(labels, runs[self.best], given)[:3])}
            rows.append(row)
        return pd.DataFrame(rows)

    def found(self, kind: str = "subhalo") -> pd.DataFrame:
        """Share of subhalos found `share`, with its interval `low` to `high`, by `by` (a scorer), `profile` and `bin`
        of mass, of counterparts (`subhalo`) or of changes added to real images (`injected`)."""
        rows = []
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
                        about | {"by": name} | dict(zip(("share", "low", "high"), self.share(name, cell), strict=True))
                        for name in self.scores
                    ]
        return pd.DataFrame(rows)

    def found_table(self, kind: str = "subhalo") -> pd.DataFrame:
        """`found` in per cent, a row a profile and scorer, a column a bin."""
        found = self.found(kind)
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
        which it is set; such with multipoles, or with real residuals for noise; and the real lenses."""
        kinds = ("smooth", "multipole 1 %", "multipole 3 %", "real residuals", REAL)
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
        AUC, the share found in each bin, and false positives under multipoles of order 4, in per cent."""
        rows = [
            {"by": f"{name} (published)", "AUC": auc} | dict(zip(BIN_NAMES, found, strict=False)) | waves
            for name, (auc, found, waves) in PUBLISHED.items()
        ]
        waves, aucs = self.false_positives.set_index("by"), self.aucs.set_index("by")["AUC"]
        table = self.found_table().set_index(["profile", "by"]).loc["NFW, concentration 60"]
        for name in (*self.runs, SCAN, IDEAL):
            row = {"by": name, "AUC": aucs[name]} | table.loc[name].dropna().to_dict()
            rows.append(row | (waves.loc[name, list(WAVES)].to_dict() if name in waves.index else {}))
        return pd.DataFrame(rows).fillna("")

    # The sample

    @cached_property
    def half_found(self) -> float:
        """Significance in sigma from which on the first network finds at least half of the subhalos, infinite if it
        never does; the share found is averaged over a factor of `AVERAGED` or so in significance."""
        chosen = self._of("subhalo")
        seen = np.log(np.maximum(self.rows["seen"].to_numpy(float)[chosen], 1e-3))
        above = self.scores[self.best][chosen] > self.threshold(self.best)
        places = np.linspace(*np.quantile(seen, [0.01, 0.99]), 400)
        weight = np.exp(-(((places[:, None] - seen) / math.log(AVERAGED)) ** 2) / 2)
        return least_mass(np.exp(places), weight @ above / weight.sum(1))

    @cached_property
    def lenses(self) -> pd.DataFrame:
        """One row a real lens: probability of a subhalo by the first network, the rate of false alarms `p` among its
        own counterparts without one, the rank by every seed, whether its chi square is one that they have, and the
        mass, of an NFW halo of concentration 60, of which half are found."""
        names, rows = self.rows["lens"].to_numpy(), []
        score, seeds = self.scores[self.best], self.runs[self.best]
        real, null = self._of(REAL), self._of(*NULLS)
        ranks = np.array([stats.rankdata(-seed[real]) for seed in seeds])
        for place, i in enumerate(np.flatnonzero(real)):
            own = null & (names == names[i])
            chi2 = (1 + (self.rows["chi2"].to_numpy()[own] >= self.rows["chi2"].to_numpy()[i]).sum()) / (1 + own.sum())
            rows.append(
                {
                    "lens": names[i],
                    "probability": 1 / (1 + math.exp(-score[i])),
                    "p": (1 + (score[own] >= score[i]).sum()) / (1 + own.sum()),
                    "score": score[i],
                    "ranks": f"{ranks[:, place].min():.0f} to {ranks[:, place].max():.0f}",
                    "chi2": self.rows["chi2"].to_numpy()[i],
                    "p_chi2": chi2,
                    "in_distribution": chi2 > 0.05,
                    "half_mass": self._half_mass(names[i]),
                }
            )
        table = pd.DataFrame(rows).sort_values(["p", "score"], ascending=[True, False], ignore_index=True)
        table.insert(0, "rank", table.index + 1)
        return table

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
            "probability": "probability",
            "p": "rate of false alarms",
            "ranks": "ranks by single seeds",
            "chi2": "chi square a pixel",
            "p_chi2": "share of counterparts with as much",
            "half_mass": "mass half found",
        }
        table = self.lenses[list(names)].rename(columns=names)
        return table.assign(**{"mass half found": table["mass half found"].where(table["mass half found"] <= BINS[-1])})

    def _half_mass(self, lens: str) -> float:
        """Mass at which the significance of a subhalo in a lens is `half_found` in the median of places: significance
        rises as a power of mass, which the lenses have in common."""
        rows = self.rows[self._of("subhalo", "injected") & (self.rows["profile"] == "NFW, concentration 60").to_numpy()]
        rows = rows[rows["seen"] > 0.3]
        if (rows["lens"] == lens).sum() < 2:
            return math.nan
        x, y = np.log10(rows["mass"].to_numpy(float)), np.log10(rows["seen"].to_numpy(float))
        centred = [values - pd.Series(values).groupby(rows["lens"].to_numpy()).transform("mean") for values in (x, y)]
        slope = float((centred[0] * centred[1]).sum() / (centred[0] ** 2).sum())
        own = (rows["lens"] == lens).to_numpy()
        level = float(np.median(y[own] - slope * x[own]))
        return float(10 ** ((math.log10(self.half_found) - level) / slope))

    @property
    def uniform(self) -> float:
        """p-value of Kolmogorov and Smirnov's test that the rates of false alarms of the lenses are uniform, as they
        are where all are smooth and their counterparts are like them."""
        return float(stats.kstest(self.lenses["p"], "uniform").pvalue)

    @property
    def answer(self) -> str:
        """What was found, for the top of the report."""
        table, aucs = self.lenses, self.aucs.set_index("by")["AUC"]
        found = self.found().query("by == @self.best and bin == 5").set_index("profile")["share"]
        share, low, high = self.share(self.best, self._of(REAL))
        first, known = table.iloc[0], [row for row in table.to_dict("records") if Published.of(row["lens"], {})]
        sentences = [
            f"AUC of {self.best} between counterparts with a subhalo and smooth ones: {aucs[self.best]}; of the scan "
            f"for a mass, without training: {aucs[SCAN]}.",
            "At one false positive in ten, it finds "
            + ", ".join(f"{share:.0%} ({profile})" for profile, share in found.items())
            + " of the subhalos of 10^10.5 to 10^11 solar masses.",
            f"Of {len(table)} real lenses, {share:.0%} [{low:.0%}, {high:.0%}] are above that threshold"
            + (
                f", and the rates of false alarms are not uniform (p = {self.uniform:.1g}): real lenses differ from "
                "their counterparts, so none of them is evidence of a subhalo by itself."
                if self.uniform < 0.05
                else ", as many as chance gives."
            ),
            f"First in the sample is {first['lens']} (rate of false alarms {first['p']:.2g}).",
            *(
                f"{row['lens']}, whose subhalo is published, is number {row['rank']} ({row['p']:.2g}; by single seeds "
                f"{row['ranks']})."
                for row in known
            ),
        ]
        return " ".join(sentences)

    @property
    def plain(self) -> str:
        """The answer in one sentence, without brackets."""
        found = self.found().query("by == @self.best and bin == 5").set_index("profile")["share"]
        share = self.share(self.best, self._of(REAL))[0]
        return (
            f"Of simulated subhalos of 10^10.5 solar masses and more, the network finds {100 * found.min():.0f} to "
            f"{100 * found.max():.0f} in 100 where it takes 10 smooth lenses in 100 for one with a subhalo; it takes "
            f"{100 * share:.0f} in 100 of the real lenses for one."
        )

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
        return table.assign(**{"real lenses above the threshold": [real.get(name, "") for name in table["by"]]})

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
    network: str, path: str | Path, folder: str | Path, pixel_scale: float | None = None, counterparts: int = 24
) -> pd.DataFrame:
    """Search lenses of one's own with a network that comes with the package.

    A smooth lens is fitted to every image, then to smooth counterparts of it, and the network scores both.

    Args:
        network: one of `networks.names.SEARCHING`.
        path: a folder or file of cutouts with noise maps, as for `read_observations`.
        folder: for models and counterparts; what is there already is kept.
        pixel_scale: in arcseconds, for files that do not hold it.
        counterparts: smooth ones of each lens, among which it is ranked.

    Returns:
        One row a lens, the most suspicious first: `lens`, `state` (`ok`, `out of distribution`, or `failed`),
        `probability` of a subhalo where half of the lenses had one, `false_alarms`, the share of its counterparts that
        score as high, `chi2` and `counterparts_chi2`, the share of them with as high a chi square, and `reason`.

    Raises:
        DataError: nothing can be read, or no lens has a smooth model.
        ValueError: no such network comes with the package.
    """
    runs = [load_run(run) for run in sorted(searching(network).glob("s*"))]
    training = counterparts / KINDS["smooth"]
    images = SampleImages.of(path, folder, pixel_scale, math.ceil(training), kinds=("smooth",))
    search = SampleSearch(images, {network: scored(images.images, runs)}, Path(folder))
    names = {"p": "false_alarms", "p_chi2": "counterparts_chi2"}
    table = search.lenses.rename(columns=names)[["lens", "probability", "false_alarms", "chi2", "counterparts_chi2"]]
    known = search.lenses["in_distribution"]
    table.insert(1, "state", np.where(known, "ok", "out of distribution"))
    table["reason"] = np.where(known, "", "a smooth lens leaves more of it than of its counterparts")
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


def _auc(labels: np.ndarray, given: np.ndarray) -> float:
    return float(
        stats.mannwhitneyu(given[labels == 1, 1], given[labels == 0, 1]).statistic / (labels.sum() * (1 - labels).sum())
    )
