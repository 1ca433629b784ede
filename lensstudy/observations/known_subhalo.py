"""A known subhalo, and what a search that starts from the image alone finds of it.

Every image is searched first (`SearchedLens`). Then the arcs show how the images of one lens are rotated or
reflected to one another, and only then is the result compared with the published position and mass.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import fft

from lensstudy.data.dataset import DataError
from lensstudy.data.resampling import resample
from lensstudy.evaluation.scores import counted
from lensstudy.observations.reading import read_observations
from lensstudy.observations.searched_lens import SearchedLens
from lensstudy.observations.writing import write_simulated
from lensstudy.progress import progress

__all__ = ["FRAMES", "KnownSubhalo", "Published", "in_file", "in_first_frame", "most_alike"]

FRAMES = {  # (a, b, c, d): what lies at (x, y) in one image lies at (a x + b y, c x + d y) in the other
    "as it is": (1, 0, 0, 1),
    "rotated by 90°": (0, -1, 1, 0),
    "rotated by 180°": (-1, 0, 0, -1),
    "rotated by 270°": (0, 1, -1, 0),
    "reflected, as it is": (-1, 0, 0, 1),
    "reflected, rotated by 90°": (0, -1, -1, 0),
    "reflected, rotated by 180°": (1, 0, 0, -1),
    "reflected, rotated by 270°": (0, 1, 1, 0),
}
NEAR = 0.1  # arcsec: a place further off is another one
LIMITATIONS = (
    "The authors of the search knew the published place and had compared earlier runs with it; the rule about negative "
    "masses was written after its first scans of this lens, and made stricter since. Nothing on this page is set by "
    "the published place. A mass depends on the model of lens and source more than on the noise, and an interval is of "
    "one model. Fits with other models start where the search has ended. That the mass is dark is not tested here."
)


@dataclass(frozen=True)
class Published:
    """What is known of a subhalo: its place in arcseconds from the lens, and between which limits its mass within 1 kpc
    lies, in solar masses."""

    x: float
    y: float
    mass: tuple[float, float]
    reference: str

    @classmethod
    def of(cls, name: str, about: dict) -> Published | None:
        """By the name of a lens, or by what stands in its `info.json`; None where nothing is known.

        Raises:
            DataError: what `info.json` says is no place and mass.
        """
        for key, known in PUBLISHED.items():
            if key in name:
                return known
        if (given := about.get("subhalo")) is None:
            return None
        try:
            x, y, mass = (float(given[key]) for key in ("x", "y", "mass"))
        except (KeyError, TypeError, ValueError):
            x, y, mass = np.nan, np.nan, np.nan
        if not (np.isfinite([x, y, mass]).all() and mass > 0):
            raise DataError(
                f"{name}: subhalo = {given} in info.json; expected x and y in arcseconds from the lens and a mass in "
                'solar masses, such as {"x": -0.65, "y": 1.04, "mass": 3.5e9}'
            )
        return cls(x, y, (mass, mass), "its info.json")

    @property
    def masses(self) -> str:
        """The mass in words."""
        low, high = self.mass
        within = "solar masses within 1 kpc"
        return f"{_mass(low)} solar masses" if low == high else f"{low / 1e9:g}e9 to {high / 1e9:g}e9 {within}"


PUBLISHED = {  # by what the name of a lens contains
    "0946+1006": Published(
        -0.651,
        1.040,
        (2e9, 4e9),
        "place: Vegetti et al. 2010, arXiv:0910.0760; mass: Minor et al. 2021, arXiv:2011.10627, and 2024, "
        "arXiv:2408.11090, rounded outwards",
    ),
}


def in_file(frame: str, places: np.ndarray) -> np.ndarray:
    """Where `places` `(n, 2)` lie in an image that shows the sky as `frame` says."""
    a, b, c, d = FRAMES[frame]
    return np.atleast_2d(places) @ np.array([[a, c], [b, d]])


def in_first_frame(frame: str, places: np.ndarray) -> np.ndarray:
    """The way back from `in_file`."""
    a, b, c, d = FRAMES[frame]
    return np.atleast_2d(places) @ np.array([[a, b], [c, d]])


def shown_as(frame: str, image: np.ndarray) -> np.ndarray:
    """An image `(H, H)` as `frame` says, row 0 at the bottom."""
    middle = (len(image) - 1) / 2
    rows, columns = np.indices(image.shape)
    x, y = in_first_frame(frame, np.column_stack([columns.ravel() - middle, rows.ravel() - middle])).T
    return image[np.rint(y + middle).astype(int), np.rint(x + middle).astype(int)].reshape(image.shape)


def most_alike(one: SearchedLens, other: SearchedLens) -> dict[str, float]:
    """How alike the arcs of two images of a lens are, by the frame in which the second would show the first: their
    correlation at the best shift."""
    size = min(len(one.arcs), len(other.arcs))
    first, second = (
        resample(np.clip(image.arcs, 0, None), image.pixel_scale, size, one.pixel_scale, order=1)
        for image in (one, other)
    )
    wanted = fft.rfft2(second)

    def alike(frame: str) -> float:
        product = wanted * np.conj(fft.rfft2(shown_as(frame, first)))
        return float(fft.irfft2(product, s=first.shape).max() / np.sqrt((first**2).sum() * (second**2).sum()))

    return {frame: alike(frame) for frame in FRAMES}


@dataclass(frozen=True)
class KnownSubhalo:
    """Images of a lens with a known subhalo, and of lenses without one, all searched in the same way.

    Attributes:
        images: of the lens.
        others: of other lenses.
        known: what is published.
        simulated: whether these are simulated observations, because no path was given.
        note: what stands in place of the lenses that were asked for, if none of them has a known subhalo.
        folder: of the results.
    """

    images: list[SearchedLens]
    others: list[SearchedLens]
    known: Published
    folder: Path
    simulated: bool = False
    note: str = ""

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        folder: str | Path,
        step: float,
        splines: Sequence[int],
        pixel_scale: float | None = None,
        seed: int = 1,
    ) -> KnownSubhalo:
        """Search every image; what is in `folder` from an earlier run is taken from there.

        Args:
            paths: files or folders, as for `read_observations`; empty: simulated lenses, the first with a subhalo.
            folder: for the results.
            step: arcseconds between the places where a scan starts.
            splines: along each axis of the source; those after the first are tried as variants.
            pixel_scale: in arcseconds, for files that do not hold it.
            seed: of the simulated lenses.

        Raises:
            DataError: an image cannot be read or has no model, no lens or more than one has a known subhalo, or what
                `info.json` says of one is no place and mass.
        """
        folder = Path(folder)
        where = list(paths) or [str(write_simulated(folder / "simulated", seed) / f"simulated-{k}") for k in (2, 1)]
        observations = [one for path in where for one in read_observations(path, pixel_scale)[0]]
        published = {one.name: Published.of(one.name, one.about) for one in observations}
        known = list(dict.fromkeys(one for one in published.values() if one))
        if len(known) != 1:
            raise DataError(
                f"{', '.join(where)}: {counted(len(known), 'known subhalo')}; expected one. `info.json` beside an "
                'image can say it: "subhalo": {"x": -0.65, "y": 1.04, "mass": 3.5e9}, in arcseconds from the lens and '
                "solar masses"
            )
        searched = {True: [], False: []}
        for one in progress(observations, "searches"):
            in_full = published[one.name] is not None
            searched[in_full].append(SearchedLens.of(one, folder, step, list(splines), in_full))
        return cls(searched[True], searched[False], known[0], folder, not paths)

    @property
    def description(self) -> str:
        """Which images are searched, in Markdown."""
        origin = "**No real data here:** these are simulated observations. " if self.simulated else ""
        others = f"; for comparison, {', '.join(one.name for one in self.others)}" if self.others else ""
        names = " and ".join(one.name for one in self.images)
        return f"{origin}Images of the lens: {names}{others}."

    @property
    def smooth(self) -> pd.DataFrame:
        """The smooth models, one row an image."""
        return pd.DataFrame(
            {
                "image": one.name,
                "chi square a pixel": one.smooth["chi2"],
                "Einstein radius [arcsec]": one.smooth["einstein_radius"],
                "slope": one.smooth["slope"],
                "places tried": len(one.scanned),
            }
            for one in [*self.images, *self.others]
        )

    @property
    def fits(self) -> pd.DataFrame:
        """The best fits in each image of the lens, in the frame of its file."""
        return pd.concat([one.table.assign(image=one.name).set_index("image") for one in self.images]).reset_index()

    @property
    def rules(self) -> pd.DataFrame:
        """By how much chi square falls with the best fit, and with what is no subhalo, one row an image."""
        return pd.DataFrame(
            {
                "image": one.name,
                "best fit": one.best["chi2_falls"],
                "ln evidence": one.best["evidence_rises"],
                "a negative mass": one.control,
                "a mass in the core": one.in_core,
                "called a subhalo": "yes" if one.counts else "no",
            }
            for one in [*self.images, *self.others]
        )

    @cached_property
    def alike(self) -> pd.DataFrame:
        """How alike the arcs of the first image are to those of each other one, in each frame."""
        columns = {one.name: most_alike(self.images[0], one) for one in self.images}
        return pd.DataFrame(columns).rename_axis("shown")

    @property
    def frames(self) -> list[str]:
        """How each image shows the first."""
        return [str(self.alike[one.name].idxmax()) for one in self.images]

    @property
    def axis_off(self) -> float | None:
        """Degrees between the axis of the lens's mass in the first image and its published direction, which is counted
        from +y counter-clockwise where north is up and east left; None where none is published."""
        about = self.images[0].about
        if (angle := about.get("position_angle", about.get("position_angle_degrees"))) is None:
            return None
        return float(abs((self.images[0].smooth["axis"] - float(angle) - 90 + 90) % 180 - 90))

    @property
    def found(self) -> pd.DataFrame:
        """The best fit in each image and its variants, in the frame of the first, with the distance from the published
        place and whether the mass lies within the published limits."""
        rows = []
        for one, frame in zip(self.images, self.frames, strict=True):
            for fit in [{"variant": "the search", **one.best}, *one.variants]:
                x, y = in_first_frame(frame, np.array([fit["x"], fit["y"]]))[0].tolist()
                low, high = one.limits["mass"] if fit["variant"] == "the search" else (np.nan, np.nan)
                rows.append(
                    {
                        "image": one.name,
                        "variant": fit["variant"],
                        "x": x,
                        "y": y,
                        "off [arcsec]": float(np.hypot(x - self.known.x, y - self.known.y)),
                        "mass within 1 kpc": fit["mass"],
                        "low": low,
                        "high": high,
                        "within": bool(self.known.mass[0] <= fit["mass"] <= self.known.mass[1]),
                        "chi square falls by": fit["chi2_falls"],
                        "ln evidence": fit["evidence_rises"],
                    }
                )
        return pd.DataFrame(rows)

    @property
    def shown(self) -> pd.DataFrame:
        """`found` as a reader sees it."""
        table = self.found.rename(columns={"within": "in the published range", "low": "from", "high": "to (95 %)"})
        if self.known.mass[0] == self.known.mass[1]:
            return table.drop(columns="in the published range")
        return table.assign(
            **{"in the published range": table["in the published range"].map({True: "yes", False: "no"})}
        )

    @property
    def intervals(self) -> pd.DataFrame:
        """The 95 % interval of each parameter of the best fit, in the frame of each file."""
        rows = []
        for one in self.images:
            for (name, (low, high)), (values, _) in zip(one.limits.items(), one.profiles, strict=True):
                unit = "[solar masses]" if name == "mass" else "[arcsec]"
                rows.append({"image": one.name, "of": f"{name} {unit}", "from": low, "best": values[4], "to": high})
        return pd.DataFrame(rows)

    @property
    def verdict(self) -> str:
        """How the images lie to one another and to the sky, in Markdown."""
        said = []
        for one, frame in list(zip(self.images, self.frames, strict=True))[1:]:
            first, second = self.alike[one.name].sort_values(ascending=False).iloc[:2]
            said.append(
                f"{one.name} shows {self.images[0].name} **{frame}**: correlation {first:.2f}, the next {second:.2f}."
            )
        if self.axis_off is not None:
            said.append(
                f"With north up and east left in {self.images[0].name}, the axis of the lens's mass is "
                f"{self.axis_off:.0f}° off its published direction."
            )
        return " ".join(said) or "One image only, which lies as its `info.json` says."

    @property
    def answer(self) -> str:
        """What was found, for the top of the report."""
        table = self.found
        searches = table[table["variant"] == "the search"]
        called = [one.counts for one in self.images]
        each = "; ".join(
            f"{row['image']}: {row['off [arcsec]']:.2f} arcsec from the published position, "
            f"{_mass(row['mass within 1 kpc'])} [{_mass(row['low'])}, {_mass(row['high'])}] solar masses within 1 kpc, "
            f"ln evidence +{row['ln evidence']:.0f}"
            for row in searches.to_dict("records")
        )
        sentences = [
            f"A search that starts from the image alone identifies a subhalo in {sum(called)} of "
            f"{counted(len(called), 'image')} of the lens. {each} (published: {self.known.masses})."
        ]
        variants = table[table["variant"] != "the search"]
        if len(variants):
            near = int((variants["off [arcsec]"] <= NEAR).sum())
            sentences.append(
                f"Of {len(variants)} fits with other models, which start where the search has ended, {near} end within "
                f"{NEAR} arcsec of the published position"
            )
            if self.known.mass[0] < self.known.mass[1]:
                inside = int(variants["within"].sum())
                sentences[-1] += f", but only {inside} with a mass in the published range" * (inside < len(variants))
            sentences[-1] += "."
        if self.others:
            alarms = sum(one.counts for one in self.others)
            sentences.append(
                f"In {len(self.others)} other lens{'es' * (len(self.others) > 1)}, for which none is published, it "
                f"identifies {alarms or 'none'}."
            )
        return " ".join(sentences)

    @property
    def plain(self) -> str:
        """The answer in a sentence without brackets."""
        searches = self.found[self.found["variant"] == "the search"]
        called = np.array([one.counts for one in self.images])
        there = searches["off [arcsec]"] <= NEAR
        near, doubted = int((there & called).sum()), int((there & ~called).sum())
        doubt = (
            f" In {doubted} more its best fit lies there too, but does not count as one by the rule." if doubted else ""
        )
        return (
            f"Without being told where to look, the search finds the known dark subhalo in {near} of "
            f"{counted(len(searches), 'image')} of the lens, within a tenth of an arcsecond of its published position."
            f"{doubt}"
        )

    def save(self) -> Path:
        """Write `summary.json` with the answer and the names that the list of reports reads; the figure stands beside
        it as `headline.png`."""
        table = listed(self.found)
        if self.known.mass[0] == self.known.mass[1]:
            table = table.drop(columns="in published range")
        summary = {
            "answer": self.answer,
            "plain": self.plain,
            "figure": "headline.png",
            "figure_alt": "Places and masses of the subhalo that fits with several models find.",
            "figure_caption": "Place and mass that the search and its variants find, beside what is published.",
            "table": json.loads(table.to_json(orient="records")),
            "limitations": LIMITATIONS,
        }
        file = self.folder / "summary.json"
        file.write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
        return file


def listed(found: pd.DataFrame) -> pd.DataFrame:
    """What `KnownSubhalo.found` says of places and masses, as it stands on the first page of a report: one column for a
    mass and its interval, in 1e9 solar masses.

    Example:
        >>> fit = {"image": "lens", "variant": "the search", "off [arcsec]": 0.0612, "mass within 1 kpc": 3.083e9}
        >>> rest = {"low": 1.75e9, "high": float("inf"), "within": True, "ln evidence": 90.1}
        >>> listed(pd.DataFrame([fit | rest])).iloc[0].to_list()
        ['lens', 'the search', 0.06, '3.1 [1.8, no limit]', 'yes', 90]
    """

    def mass(row: dict) -> str:
        best, low, high = (row[name] / 1e9 for name in ("mass within 1 kpc", "low", "high"))
        return f"{best:.1f}" if np.isnan(low) else f"{best:.1f} [{_limit(low, '{:.1f}')}, {_limit(high, '{:.1f}')}]"

    return pd.DataFrame(
        {
            "image": row["image"],
            "model": row["variant"],
            "from published [arcsec]": round(row["off [arcsec]"], 2),
            "mass [1e9 solar masses]": mass(row),
            "in published range": "yes" if row["within"] else "no",
            "ln evidence": round(row["ln evidence"]),
        }
        for row in found.to_dict("records")
    )


def _mass(value: float) -> str:
    return _limit(value, "{:.1e}").replace("e+", "e").replace("e0", "e")


def _limit(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "no limit"
