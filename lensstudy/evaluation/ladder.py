"""From which detectability on is substructure found: by networks, by fitting a smooth lens, and by an ideal observer?

The detectability of substructure is what it changes of an image, in sigma of the noise, once the smooth lens and its
source have been fitted to it. It is the measure on which substructures of any mass, form and distance from the arcs
compare. `Ladder` gives the AUC against it, one population of a mixture at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.mixture import components
from lensstudy.evaluation.intervals import interval
from lensstudy.evaluation.scores import auc, averaged_over
from lensstudy.evaluation.shortcuts import smooth_fit_scores
from lensstudy.progress import progress

__all__ = ["IDEAL", "SMOOTH_FIT", "Ladder", "auc_along", "ideal_auc", "median_reached", "populations"]

IDEAL, SMOOTH_FIT = "ideal observer", "smooth fit"
BIN, BINS = 15, 10  # images in a bin at least, and bins at most
FOUND = 0.9  # AUC from which on substructure counts as found
LIMITATIONS = (
    "The lenses and their sources are as smooth as the simulator's; in real ones, galaxies with irregular sources and "
    "lenses with multipoles take part of what substructure does, for every observer here. The ideal observer knows the "
    "form and the place of the substructure, and what the smooth lens takes of it to first order: a bound, no method."
)


def ideal_auc(sigma: np.ndarray) -> np.ndarray:
    """AUC of an observer who knows a signal of so many sigma exactly and faces Gaussian noise alone,
    `Phi(sigma / sqrt(2))` (Barrett & Myers 2004, Foundations of Image Science, 13.2).

    Example:
        >>> float(ideal_auc(np.array(0.0)))
        0.5
    """
    return norm.cdf(np.asarray(sigma) / np.sqrt(2))


class Ladder:
    """The AUC of substructure against none, against the detectability of the substructure.

    Args:
        test: simulated test images with their catalogue, of one population or mixed.
        probabilities: by network, `(N, classes)` of these images, one array a seed.
        smooth_fit_images: images of each class and population to which a smooth lens is fitted; 0: none.

    Raises:
        DataError: the images were not simulated, have no class `no_sub`, or no noise.
    """

    def __init__(
        self, test: LensDataset, probabilities: Mapping[str, Sequence[np.ndarray]], smooth_fit_images: int = 0
    ):
        self.test, self.probabilities, self.smooth_fit_images = test, probabilities, smooth_fit_images
        self.seeds = max(len(runs) for runs in probabilities.values())
        sigma = test.catalogue.get("detectability_refit", pd.Series(np.nan, test.catalogue.index)).to_numpy(float)
        if "no_sub" not in test.classes or not components(test) or not np.isfinite(sigma).all():
            raise DataError(
                f"images of the classes {', '.join(test.classes)} whose substructure has no known detectability; "
                "expected simulated images with noise, with the class no_sub and another one"
            )
        self.no_sub = test.classes.index("no_sub")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a `population`, `observer` (network, smooth fit, ideal observer) and bin of detectability, as from
        `auc_along`."""
        tables = []
        for population, rows in progress(populations(self.test).items(), "populations"):
            images = self.test.subset(rows)
            runs = {name: [1 - one[rows, self.no_sub] for one in each] for name, each in self.probabilities.items()}
            curves = {name: self._curve(images, each) for name, each in runs.items()}
            if self.smooth_fit_images:
                fitted = _spread(images, self.smooth_fit_images)
                camera = next(one.description for one in components(fitted) if len(one))
                judged = replace(fitted, description=camera)
                curves[SMOOTH_FIT] = self._curve(fitted, [smooth_fit_scores(judged, len(judged))[1][:, 1]])
            curves[IDEAL] = self._curve(images, [])
            tables += [curve.assign(population=population, observer=observer) for observer, curve in curves.items()]
        columns = ["population", "observer", "sigma", "mass", "auc", "low", "high", "images"]
        return pd.concat(tables, ignore_index=True)[columns]

    def _curve(self, images: LensDataset, runs: Sequence[np.ndarray]) -> pd.DataFrame:
        sigma = images.catalogue["detectability_refit"].to_numpy(float)
        mass = images.catalogue["substructure_mass"].to_numpy(float)
        return auc_along(sigma, mass, images.labels == self.no_sub, runs)

    @property
    def reached(self) -> pd.DataFrame:
        """The detectability, in sigma, from which on each observer has an AUC of 0.9: a row for each `population`, a
        column for each observer. Read off between bins on a logarithmic axis: the first bin where that is there
        already, nan where none is. For the ideal observer it is the closed form."""
        crossed = {
            key: _crossing(curve["sigma"].to_numpy(), curve["auc"].to_numpy())
            for key, curve in self.table.groupby(["population", "observer"], sort=False)
        }
        found = pd.Series(crossed).unstack().loc[self.table["population"].unique(), self.table["observer"].unique()]
        return found.assign(**{IDEAL: np.sqrt(2) * norm.ppf(FOUND)})

    @property
    def answer(self) -> str:
        """Where each observer finds substructure, over the populations."""
        reached, said = self.reached, []
        for observer in reached:
            values = reached[observer].dropna()
            if not len(values):
                said.append(f"{observer}: in no population")
            else:
                among = "" if len(values) == len(reached) else f", in {len(values)} of {len(reached)} populations"
                ends = dict.fromkeys((_sigma(values.min()), _sigma(values.max())))
                said.append(f"{observer}: {' to '.join(ends)} sigma{among}")
        return f"An AUC of {FOUND} is reached from this detectability on. " + "; ".join(said) + "."

    @property
    def plain(self) -> str:
        """The answer without brackets: the median of every observer that has an AUC of 0.9 somewhere."""
        reached = self.reached
        said = []
        for name, median in median_reached(reached.drop(columns=IDEAL)).items():
            times = reached[name].notna().sum()
            if np.isfinite(median):
                said.append(f"from {_sigma(median)} sigma on by {_by(name)}")
            elif times:
                said.append(f"only in {times} of {len(reached)} populations by {_by(name)}")
        if not said:
            return f"Nothing in these images is detectable enough for an AUC of {FOUND}."
        among = f", median of {len(reached)} populations" if len(reached) > 1 else ""
        *others, last = said
        by = f"{', '.join(others)} and {last}" if others else last
        return f"Subhalos are told from none well (AUC {FOUND}{among}) {by}."

    @property
    def limitations(self) -> str:
        return f"{LIMITATIONS} Intervals are over {averaged_over(self.seeds)}."

    def save(self, folder: Path, headline) -> Path:
        """Write `summary.json` with the answer, and `ladder.csv` with every number; the figure on top of the study,
        `headline` with its `caption` and `alt`, lies beside them as `headline.png`, where `show` has kept it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / "ladder.csv", index=False)
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": headline.alt,
            "figure_caption": headline.caption,
            "table": tabulated(self.reached),
            "limitations": self.limitations,
        }
        file = folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def _by(observer: str) -> str:
    return "the fit of a smooth lens, which needs no training" if observer == SMOOTH_FIT else observer


def median_reached(reached: pd.DataFrame) -> pd.Series:
    """The median of `Ladder.reached` over the populations, by observer; one that is never found counts as infinite."""
    return reached.fillna(np.inf).median()


def tabulated(reached: pd.DataFrame) -> list[dict[str, str]]:
    """The table `Ladder.reached` in words, a row a population."""
    words = reached.map(lambda sigma: f"{_sigma(sigma)} sigma" if np.isfinite(sigma) else "never")
    return words.reset_index(names="population").to_dict("records")


def auc_along(sigma: np.ndarray, mass: np.ndarray, smooth: np.ndarray, runs: Sequence[np.ndarray]) -> pd.DataFrame:
    """The AUC of images with substructure against all smooth ones, in bins of its detectability.

    Args:
        sigma: detectability of each image `(N,)`.
        mass: of its substructure, in solar masses `(N,)`.
        smooth: whether it has none `(N,)`.
        runs: evidence for substructure, larger where it is more probable, one `(N,)` a seed; none: the ideal observer's
            AUC, the mean over the images of a bin.

    Returns:
        One row a bin of equally many images with substructure: `sigma` and `mass` (medians), `auc`, its interval from
        `low` to `high`, and `images`.

    Example:
        >>> sigma, smooth = np.array([0.0] * 20 + [3.0] * 20), np.array([True] * 20 + [False] * 20)
        >>> auc_along(sigma, sigma, smooth, [sigma])["auc"].tolist()
        [1.0]
    """
    found = np.flatnonzero(~smooth)
    bins = int(np.clip(len(found) // BIN, 1, BINS))
    rows = []
    for inside in np.array_split(found[np.argsort(sigma[found], kind="stable")], bins):
        row = {"sigma": np.median(sigma[inside]), "mass": np.median(mass[inside]), "images": len(inside)}
        if runs:
            judged = np.concatenate([inside, np.flatnonzero(smooth)])
            truth = (~smooth[judged]).astype(int)
            scores = [np.stack([-run[judged], run[judged]], axis=1) for run in runs]
            low, high = interval(truth, scores)
            row |= {"auc": float(np.mean([auc(truth, each) for each in scores])), "low": low, "high": high}
        else:
            row |= dict.fromkeys(("auc", "low", "high"), float(ideal_auc(sigma[inside]).mean()))
        rows.append(row)
    return pd.DataFrame(rows)


def populations(dataset: LensDataset) -> dict[str, np.ndarray]:
    """Whether each image `(N,)` is of a population, by its name.

    The name says in a few words what tells the components of a mixture apart: their preset and the parameters of their
    population. Components that differ only in the mass of their substructure (`substructure_boost`) are one population,
    and a population alone has the name of its preset.
    """
    about = [component.description for component in components(dataset)]
    values = [{"preset": one["preset"], "noise level": one.get("noise_level"), **one["population"]} for one in about]
    for one in values:
        one.pop("substructure_boost", None)
        if one.get("subhalo_profile") == "point":  # has neither
            one |= {"subhalo_concentration": None, "subhalo_truncation": None}
    keys = dict.fromkeys(key for one in values for key in one)
    different = [
        key
        for key in keys
        if len({str(one[key]) for one in values if one.get(key) is not None}) > 1
        and not (key.endswith("_max") and f"{key.removesuffix('_max')}_min" in keys)
    ]
    names = [", ".join(_said(key, one[key]) for key in different if one.get(key) is not None) for one in values]
    if len(about) == 1:
        own = np.zeros(len(dataset), dtype=int)
    else:
        own = dataset.catalogue["preset"].str.split(" ").str[0].astype(int).to_numpy()
    found: dict[str, np.ndarray] = {}
    for k, (name, one) in enumerate(zip(names, about, strict=True)):
        name = name or one["preset"]
        found[name] = found.get(name, np.zeros(len(dataset), dtype=bool)) | (own == k)
    return found


def _spread(dataset: LensDataset, images_per_class: int) -> LensDataset:
    """So many images of each class, evenly spaced among them."""
    groups = dataset.catalogue.reset_index(drop=True).groupby("class").indices.values()
    rows = [each[np.linspace(0, len(each) - 1, min(images_per_class, len(each))).astype(int)] for each in groups]
    return dataset.subset(np.isin(np.arange(len(dataset)), np.concatenate(rows)))


def _said(key: str, value: object) -> str:
    words = key.removesuffix("_min").replace("_", " ")
    return str(value).replace("_", " ") if isinstance(value, str) else f"{words} {value:g}"


def _sigma(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _crossing(sigma: np.ndarray, found: np.ndarray) -> float:
    """Where a curve first reaches `FOUND`, between two bins in the logarithm of sigma; nan if it never does."""
    above = np.flatnonzero(found >= FOUND)
    if not len(above):
        return float("nan")
    k = int(above[0])
    if k == 0:
        return float(sigma[0])
    share = (FOUND - found[k - 1]) / (found[k] - found[k - 1])
    return float(sigma[k - 1] * (sigma[k] / sigma[k - 1]) ** share)
