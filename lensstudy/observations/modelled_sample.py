"""Smooth models of every lens in a folder, beside what is published of them.

What is published stands in a CSV table beside the lenses, in columns named as in `PUBLISHED`; the angle of an ellipse
is counted from the north through the east, which is from +y counter-clockwise where north is up and east left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import LensModel
from lensstudy.observations.model_fits import fit_folder
from lensstudy.observations.reading import read_observations
from lensstudy.observations.writing import write_simulated
from lensstudy.progress import in_batch, processors

__all__ = ["PUBLISHED", "ModelledSample", "median_interval", "model_in_detail"]

PUBLISHED = ("einstein_radius_arcsec", "axis_ratio", "position_angle_degrees", "automated_fit_median")
FAR = 0.10  # of the published Einstein radius: a model further off is of another lens
ROUND = 0.9  # axis ratio from which on the direction of an ellipse says little
RESAMPLES = 2000
LIMITATIONS = (
    "A published radius is itself a fit, of an isothermal ellipsoid without shear. The error of a radius here is "
    "that of one solution; where another explains the arcs as well, it is larger. The rules of the fit were chosen on "
    "fourteen lenses of the SLACS survey with their published radii in sight. No subhalo is fitted on this page."
)


@dataclass(frozen=True)
class ModelledSample:
    """Lenses with a smooth model each.

    Attributes:
        path: where the images lie.
        folder: of the results, `lenses.csv` and two files a lens, as `fit_folder` writes them.
        table: the content of `lenses.csv`.
        simulated: whether these are simulated observations, because no path was given.
    """

    path: str
    folder: Path
    table: pd.DataFrame
    simulated: bool = False

    @classmethod
    def of(cls, path: str, folder: str | Path, pixel_scale: float | None = None, seed: int = 1) -> ModelledSample:
        """Fit a smooth model to every lens at a path; what is there for the same pixels is kept.

        Args:
            path: a folder or file, as for `read_observations`; empty: simulated lenses, written as FITS and read back.
            folder: for the results.
            pixel_scale: in arcseconds, for files that do not hold it.
            seed: of the simulated lenses.

        Raises:
            DataError: nothing at the path can be read.
        """
        folder = Path(folder)
        where = path or str(write_simulated(folder / "simulated", seed))
        with tqdm(total=sum(map(len, read_observations(where, pixel_scale))), desc="lenses", disable=in_batch()) as bar:
            table = fit_folder(where, folder, pixel_scale, lambda row: bar.update(), processes=processors())
        return cls(where, folder, table, not path)

    @property
    def fitted(self) -> pd.DataFrame:
        """The rows of the lenses that have a model."""
        return self.table[self.table["state"] != "failed"]

    @property
    def images(self) -> dict[str, dict[str, np.ndarray]]:
        """By lens, what was made of it, see `Lens.planes`."""
        rows = self.fitted.to_dict("records")
        return {name_of(row): dict(np.load(self.folder / row["planes"])) for row in rows}

    @property
    def models(self) -> pd.DataFrame:
        """The models in short, one row a lens, failures included."""
        keep = {
            "einstein_radius": "Einstein radius [arcsec]",
            "slope": "slope",
            "axis_ratio": "axis ratio",
            "shear": "shear",
            "chi2": "chi square a pixel",
            "state": "state",
            "reason": "why",
        }
        table = self.table.reindex(columns=[*self.table, *({*keep, "shear_1", "shear_2"} - {*self.table})])
        names = [name_of(row) for row in table.to_dict("records")]
        table = table.assign(lens=names, shear=np.hypot(table["shear_1"], table["shear_2"]))
        return table[["lens", *keep]].rename(columns=keep)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """The lenses with a model and a published Einstein radius: both, their difference as a share of the published
        one, and axis ratios and directions in degrees counter-clockwise from +x, of isothermal ellipsoids that take the
        part of the shear, since published ones have none."""
        published = self.fitted.reindex(columns=[f"published_{one}" for one in PUBLISHED])
        radius, ratio, angle, automated = (pd.to_numeric(published[one], errors="coerce") for one in published)
        rows = self.fitted[["lens", "state", "einstein_radius", "chi2"]].assign(
            axis_ratio=self.fitted["sie_axis_ratio"],
            axis=self.fitted["sie_axis"],
            published=radius,
            difference=self.fitted["einstein_radius"] / radius - 1,
            automated=automated / radius - 1,
            published_ratio=ratio,
            published_axis=(angle + 90) % 180,
        )
        return rows[radius.notna()].reset_index(drop=True)

    @property
    def far(self) -> pd.DataFrame:
        """The lenses whose Einstein radius is not the published one, the worst first."""
        off = self.compared[self.compared["difference"].abs() > FAR]
        worst = off.sort_values("difference", key=np.abs, ascending=False)
        shown = worst[["lens", "published", "einstein_radius", "difference", "chi2", "state"]]
        return shown.rename(columns={"einstein_radius": "fitted", "chi2": "chi square a pixel"})

    @property
    def medians(self) -> pd.DataFrame:
        """The median difference from the published Einstein radius, with its 95 % interval over lenses."""
        each = {
            "all": self.compared["difference"],
            "those marked ok": self.compared.loc[self.compared["state"] == "ok", "difference"],
            "a published automated fit": self.compared["automated"].dropna(),
        }
        return pd.DataFrame(
            {
                "models": name,
                "lenses": len(values),
                "median difference": _share(values.abs()),
                "with sign": f"{values.median():+.1%}",
                "differ by > 10 %": int((values.abs() > FAR).sum()),
            }
            for name, values in each.items()
            if len(values)
        )

    @property
    def answer(self) -> str:
        """What was found, for the top of the report."""
        counts = self.table["state"].value_counts()
        said = ", ".join(f"{counts[state]} {state}" for state in ("ok", "doubtful", "failed") if state in counts)
        sentences = [f"{len(self.table)} lenses, fitted automatically: {said}."]
        if len(self.compared):
            sentences.append(
                f"The Einstein radius differs from the published one by {_share(self.compared['difference'].abs())} in "
                f"the median of {len(self.compared)}."
            )
            automated = self.compared["automated"].dropna().abs()
            if len(automated):
                sentences.append(f"That of a published automated fit differs by {_share(automated)}.")
            doubtful = int((self.far["state"] == "doubtful").sum())
            sentences.append(
                f"More than {FAR:.0%} off: {len(self.far)}, of which {doubtful} are marked doubtful."
                if len(self.far)
                else f"None is more than {FAR:.0%} off."
            )
        return " ".join(sentences)

    @property
    def plain(self) -> str:
        """The answer without brackets."""
        if not len(self.compared):
            return f"{len(self.fitted)} of {len(self.table)} lenses have a smooth model."
        share, near = self.compared["difference"].abs().median(), len(self.compared) - len(self.far)
        return (
            f"An automated fit agrees with the published Einstein radius to within {max(share, 0.01):.0%} for half of "
            f"{len(self.compared)} {'simulated' if self.simulated else 'real'} lenses, and to within {FAR:.0%} for "
            f"{near} of them."
        )

    def save(self) -> Path:
        """Write `summary.json` with the answer and the names that the list of reports reads; the figure stands beside
        it as `headline.png`."""
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": "Fitted against published Einstein radii, axis ratios and directions.",
            "figure_caption": "Einstein radius, axis ratio and direction of the mass, fitted against published.",
            "table": json.loads(self.medians.to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = self.folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def model_in_detail(path: str, name: str = "", pixel_scale: float | None = None) -> tuple[Lens, LensModel]:
    """One lens with everything that its fit leaves behind.

    Args:
        path: a folder or file, as for `read_observations`.
        name: of the lens; empty: the first.
        pixel_scale: in arcseconds, for files that do not hold it.
    """
    observations, _ = read_observations(path, pixel_scale)
    observation = next((one for one in observations if one.name == name), observations[0])
    lens = Lens.of(observation).modelled()
    return lens, lens.model


def name_of(row: dict) -> str:
    """A lens and its band."""
    return f"{row['lens']} {row['band'] or ''}".strip()


def _share(values: pd.Series) -> str:
    """The median of some shares, with its 95 % interval over lenses."""
    low, high = median_interval(values)
    return f"{values.median():.1%} [{low:.1%}, {high:.1%}]"


def median_interval(values: pd.Series, level: float = 0.95) -> tuple[float, float]:
    """Interval of the median of some values, from resamples of them with replacement.

    Example:
        >>> median_interval(pd.Series([1.0, 1.0, 1.0]))
        (1.0, 1.0)
    """
    drawn = np.random.default_rng(0).choice(values.to_numpy(), (RESAMPLES, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
