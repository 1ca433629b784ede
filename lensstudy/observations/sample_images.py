"""The images that a search of a whole sample needs: every lens and its counterparts, refitted, as networks see them.

Each lens leaves files of its own, so that what was stopped goes on; the images are the same on any number of processes.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.files import whole_file
from lensstudy.lensing.sources import cutout_files
from lensstudy.observations.counterparts import PROFILES, Refit, Template, draw, refit
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import MASS
from lensstudy.observations.model_fits import fit_folder
from lensstudy.observations.reading import read_observations
from lensstudy.observations.subhalos import Subhalo
from lensstudy.observations.writing import write_simulated
from lensstudy.progress import in_processes, processors, progress
from lensstudy.study import Study

__all__ = ["BINS", "KINDS", "SampleImages"]

BINS = np.geomspace(1e8, 1e11, 7)  # solar masses: six bins of half a dex
CLASSES, REAL = ["no_sub", "sub"], "real"
BLIND, BLIND_SUBHALO = "fitted blindly", "subhalo, fitted blindly"
LEARNT = ("train", "validation")  # kinds that networks learn from
FAINT = (23.0, 23.5)  # magnitudes of the sources of simulated lenses
MULTIPOLES = {"multipole 1 %": 0.01, "multipole 3 %": 0.03}
KINDS = {  # of counterparts, and how many there are for each of those of the training
    "train": 1.0,  # half with a subhalo; half with what another lens's model leaves for noise
    "validation": 0.2,
    "smooth": 0.2,
    "real residuals": 0.1,  # smooth, with what another lens's model leaves for noise
    BLIND: 0.1,  # smooth, its lens looked for as that of a real image; half with what another lens's model leaves
    "multipole 1 %": 0.05,  # smooth, with one of order 4 and none of order 3
    "multipole 3 %": 0.05,
    "subhalo": 0.225,  # one each, of every profile in every bin of mass
    BLIND_SUBHALO: 0.03,  # one of the heaviest, of every profile in turn, otherwise as those without one
    "injected": 0.225,  # what a subhalo would change, added to the real image
}
ATTEMPTS = 20  # at a counterpart of which something stands out of the noise
NEED_MANY = ("real residuals", BLIND, BLIND_SUBHALO)
MANY = 8  # lenses from which on what their models leave is noise for others, and blind fits are worth their time
RECIPE = 2  # of the images: goes up with every change of what is drawn, fitted or shown
BLEND = 0.8  # largest share of another image's residuals
FOR_TRAINING = 0.7  # share of the galaxies that are sources of training images; the others are those of the test


@dataclass(frozen=True)
class SampleImages:
    """Real lenses and their counterparts, as networks see them.

    Attributes:
        catalogue: one row an image: `lens`, `kind` (one of `KINDS`, or `real`), the truth of a counterpart (`mass`,
            `profile` and place `x`, `y` of its subhalo, the `galaxy` that is its source, and the `lender` of its
            noise), and what was measured without a network: `chi2` of the smooth lens at `pixels` of so many
            arcseconds, `scan`, and for a subhalo `seen`; `model` is the state of the smooth model of the real lens,
            `ok` or `doubtful`.
        images: `(N, 3, SIDE, SIDE)`, see `Refit.channels`.
        skipped: lenses without a model, and why.
    """

    catalogue: pd.DataFrame
    images: np.ndarray
    skipped: dict[str, str]

    @classmethod
    def of(
        cls,
        path: str | Path,
        folder: str | Path,
        pixel_scale: float | None = None,
        counterparts: int = 80,
        seed: int = 1,
        sources: str = "",
        fits: str | Path | None = None,
        processes: int = 0,
        kinds: Sequence[str] = (),
    ) -> SampleImages:
        """Fit every lens at a path, and make and refit its counterparts; what is there already is kept.

        Args:
            path: a folder or file of cutouts, as for `read_observations`.
            folder: for the results.
            pixel_scale: in arcseconds, for files that do not hold it.
            counterparts: of each lens for the training; those for other purposes go with it, see `KINDS`.
            seed: of the counterparts.
            sources: a folder of galaxies, see `lensing.sources`; empty: Sersic profiles with knots.
            fits: folder of the smooth models, as `fit_folder` writes them (default: `fits` in `folder`).
            processes: of one thread each (default: as many as processors).
            kinds: of counterparts that are made (default: all; of less than `MANY` lenses those alone that need no
                other lens and are made in a moment).

        Raises:
            DataError: nothing can be read, or no lens has a smooth model.
        """
        folder, processes = Path(folder), processes or processors()
        fits = Path(fits or folder / "fits")
        table = fit_folder(path, fits, pixel_scale, processes=processes)
        files, skipped = _templates(path, folder / "templates", fits, table, pixel_scale, processes)
        skipped |= {row["lens"]: row["reason"] for row in table[table["state"] == "failed"].to_dict("records")}
        states = {f"{row['lens']} {row['band']}".strip(): row["state"] for row in table.to_dict("records")}
        if not files:
            raise DataError("\n".join([f"{path}: no lens has a smooth model:", *skipped.values()]))
        request = Request(files, counterparts, seed, cutout_files(sources) if sources else ())
        (folder / "images").mkdir(exist_ok=True)
        key = request.key()
        kinds = kinds or [kind for kind in KINDS if kind not in NEED_MANY or len(files) >= MANY]
        jobs = [
            Job(request, number, kind, key, folder / "images")
            for kind in (REAL, *kinds)
            for number in range(len(files))
        ]
        missing = [(job,) for job in jobs if job.kept() is None]
        list(progress(in_processes(Job.make, missing, processes), "counterparts", len(missing)))
        held = [cast(tuple[pd.DataFrame, np.ndarray], job.kept()) for job in jobs]
        images = np.concatenate([images for _, images in held])
        catalogue = pd.concat([rows for rows, _ in held], ignore_index=True)
        return cls(catalogue.assign(model=catalogue["lens"].map(states)), images, skipped)

    @classmethod
    def of_study(cls, study: Study) -> SampleImages:
        """Those of the lenses at the `observations_path` of a study; where there is none, of simulated ones as faint as
        lensed galaxies are. Smooth models that the study has fitted before are kept."""
        folder = study.folder / "sample"
        path, scale = study.observations_path, study.observations_pixel_scale or None
        fits = study.folder / "lenses" if path else folder / "fits"
        path = path or write_simulated(folder / "simulated", study.data_seed, magnitudes=FAINT)
        return cls.of(path, folder, scale, study.counterparts, study.data_seed, study.source_galaxies, fits)

    def examples(self, count: int) -> pd.DataFrame:
        """The rows of some images of the first lens, with a `title` each: half of them smooth, the others with the
        heaviest subhalos."""
        rows = self.catalogue[self.catalogue["lens"] == self.catalogue["lens"][0]]
        smooth = rows[(rows["mass"] == 0) & (rows["kind"] != REAL)].head(count - count // 2)
        heavy = rows[rows["kind"].isin(LEARNT)].sort_values("mass", ascending=False).head(count // 2)
        chosen = pd.concat([smooth, heavy])
        titles = [
            f"{mass:.1e}, {profile}" if mass else "smooth"
            for mass, profile in zip(chosen["mass"], chosen["profile"], strict=True)
        ]
        return chosen.assign(title=titles)

    def unexplained(self, mass: float = 1e10) -> tuple[float, float]:
        """Mean chi square a pixel of counterparts in drawn noise without a subhalo, and of those with one of at least a
        `mass`."""
        drawn = self.catalogue["kind"].isin([*LEARNT, "smooth", "subhalo"]) & (self.catalogue["lender"] == "")
        rows = self.catalogue[drawn]
        return float(rows["chi2"][rows["mass"] == 0].mean()), float(rows["chi2"][rows["mass"] >= mass].mean())

    def training(self, blends: int = 3, seed: int = 1) -> LensDataset:
        """The counterparts that networks learn from, split; those of a kind `smooth` and `subhalo` are the test.

        Each training image stands there again with `blends` other draws of noise, see `_blended`: a fit takes longer
        than a network needs to learn from it.
        """
        parts = {"train": "train", "validation": "validation", "smooth": "test", "subhalo": "test"}
        chosen = self.catalogue["kind"].isin(parts).to_numpy()
        rows = self.catalogue[chosen].reset_index(drop=True)
        names = rows["lens"] + " " + rows["kind"] + " " + rows["number"].astype(str)
        classes = np.where(rows["mass"] > 0, *CLASSES[::-1])
        # Counterparts of one template are different lenses, so they may come into different parts.
        table = rows.rename(columns={"lens": "template"}).assign(
            **{"name": names, "class": classes, "part": rows["kind"].map(parts)}
        )
        about = {"source": "counterparts of real lenses", "pixel_scale": 0.1}
        images, generator = self.images[chosen], np.random.default_rng(seed)
        learnt = np.flatnonzero(table["part"] == "train")
        more = [_blended(images[learnt], table.loc[learnt], generator) for _ in range(blends)]
        again = [
            table.loc[learnt].assign(name=table["name"] + f" blend {n + 1}", group=table["name"]) for n in range(blends)
        ]
        table = pd.concat([table.assign(group=table["name"]), *again], ignore_index=True)
        return LensDataset(np.concatenate([images, *more]), table, tuple(CLASSES), about)


def _blended(images: np.ndarray, table: pd.DataFrame, generator: np.random.Generator) -> np.ndarray:
    """The images `(N, 3, SIDE, SIDE)`, with other noise: to the residuals of each is added a share of those of a smooth
    counterpart of the same template, and the sum is brought back to the size of the noise.

    What a smooth lens leaves of noise is linear in it, so of smooth ones this is noise like theirs, and of one with a
    subhalo what a somewhat lighter one would leave.
    """
    found, places = images.copy(), np.arange(len(table))
    templates, smooth = table["template"].to_numpy(), (table["mass"] == 0).to_numpy()
    others = (places[smooth & (templates == one) & (places != own)] for own, one in enumerate(templates))
    partner = np.array([generator.choice(some) if len(some) else own for own, some in enumerate(others)])
    share = generator.uniform(0.2, BLEND, len(table)) * (partner != places)
    share = share[:, None, None]
    arcs, before = np.sinh(images[:, 0].astype(float)), np.sinh(images[:, 1].astype(float))
    residual = (before + share * np.sinh(images[partner, 1].astype(float))) / np.sqrt(1 + share**2)
    counts = images[:, 2] > 0  # a partner's pixels may reach further
    found[:, 0] = np.where(counts, np.arcsinh(arcs - before + residual), 0)
    found[:, 1] = np.where(counts, np.arcsinh(residual), 0)
    return found


@dataclass(frozen=True)
class Request:
    """What counterparts are made from, and how many."""

    files: tuple[Path, ...]  # of the templates
    counterparts: int
    seed: int
    galaxies: tuple[str, ...]

    def number(self, kind: str) -> int:
        """Of counterparts of one kind of each lens."""
        return 1 if kind == REAL else max(1 + (kind in LEARNT), round(KINDS[kind] * self.counterparts))

    def key(self) -> str:
        """What the images depend on."""
        digest = zlib.crc32(b"".join(file.read_bytes() for file in self.files))
        return json.dumps([RECIPE, digest, self.counterparts, self.seed, *map(_marked, self.galaxies)])


@lru_cache(maxsize=256)
def _marked(galaxy: str) -> str:
    """The name of a galaxy's file, and what tells it from another of that name."""
    file = Path(galaxy if Path(galaxy).exists() else galaxy.rpartition("[")[0])
    return f"{Path(galaxy).name} {zlib.crc32(file.read_bytes())}"


@lru_cache(maxsize=1)
def _opened(files: tuple[Path, ...]) -> list[Template]:
    return [Template.load(file) for file in files]


@dataclass(frozen=True)
class Job:
    """The counterparts of one kind of one lens, by its number; for the kind `real`, the lens itself."""

    request: Request
    number: int
    kind: str
    key: str
    folder: Path

    @property
    def file(self) -> Path:
        return (
            self.folder
            / f"{self.request.files[self.number].stem}-{re.sub('[^a-z0-9]+', '-', self.kind).strip('-')}.npz"
        )

    def kept(self) -> tuple[pd.DataFrame, np.ndarray] | None:
        """The rows and images, if they are there."""
        if not self.file.exists():
            return None
        with np.load(self.file, allow_pickle=False) as held:
            if str(held["key"]) != self.key:
                return None
            return pd.DataFrame(json.loads(str(held["rows"]))), held["images"]

    def make(self) -> None:
        """Make them and write them."""
        found = [self._made_at_last(number) for number in range(self.request.number(self.kind))]
        images = np.stack([fitted.channels for _, fitted in found]).astype(np.float16)
        rows = np.array(json.dumps([row for row, _ in found]))
        with whole_file(self.file) as file:
            np.savez_compressed(file, images=images, rows=rows, key=np.array(self.key))

    def _made_at_last(self, number: int) -> tuple[dict, Refit]:
        """One of them; where nothing of a counterpart stands out of the noise, another is drawn in its place."""
        for attempt in range(ATTEMPTS):
            try:
                return self._made(number, attempt)
            except (DataError, np.linalg.LinAlgError):
                if attempt == ATTEMPTS - 1 or self.kind == REAL:
                    raise
        raise AssertionError

    def _made(self, number: int, attempt: int) -> tuple[dict, Refit]:
        sample = _opened(self.request.files)
        template, learnt = sample[self.number], self.kind in LEARNT
        words = [zlib.crc32(word.encode()) for word in (template.name, self.kind)]
        generator = np.random.default_rng((self.request.seed, *words, number, *[attempt] * (attempt > 0)))
        row: dict = {"lens": template.name, "kind": self.kind, "number": number, "mass": 0.0, "profile": ""}
        if self.kind == REAL:
            fitted, change = template.real, None
        else:
            row["mass"], row["profile"] = self._subhalo(number, generator)
            if self.kind == "injected":
                subhalo = Subhalo(*template.place(generator), row["mass"])
                change = template.change(subhalo, row["profile"])
                fitted = refit(template, template.observation.image + change, template.values)
            else:
                pool = self._lenders(learnt, number)
                lender = pool[generator.integers(len(pool))] if pool else None
                one = draw(
                    template,
                    np.array([one.values for one in sample]),
                    generator,
                    row["mass"],
                    row["profile"],
                    MULTIPOLES.get(self.kind),
                    self._galaxies(learnt),
                    lender.left if lender else None,
                )
                fitted = refit(template, one.image, None if self.kind in (BLIND, BLIND_SUBHALO) else one.values)
                change, subhalo = one.change, one.subhalo
                row |= {"galaxy": one.galaxy, "lender": lender.name if lender else ""}
            if subhalo:
                row |= {"x": subhalo.x - template.center[0], "y": subhalo.y - template.center[1]}
        row |= {"chi2": fitted.chi2, "pixels": fitted.coarse.pixel_scale}
        if not learnt:
            row["scan"] = fitted.scan
            row["seen"] = fitted.seen(change) if change is not None else 0.0
        return row, fitted

    def _subhalo(self, number: int, generator: np.random.Generator) -> tuple[float, str]:
        """Mass and profile of the subhalo; 0 and nothing where there is none."""
        profiles = list(PROFILES)
        if self.kind in ("subhalo", "injected"):
            place = (number + 2 * self.number) % (len(BINS) - 1)
            low, high = np.log(BINS[place : place + 2])
            return float(np.exp(generator.uniform(low, high))), profiles[(number // 6 + self.number) % len(profiles)]
        if self.kind == BLIND_SUBHALO:
            low, high = np.log(BINS[-2:])
            return float(np.exp(generator.uniform(low, high))), profiles[(number + self.number) % len(profiles)]
        if self.kind in LEARNT and number % 2:
            low, high = np.log(BINS[[0, -1]])
            return float(np.exp(generator.uniform(low, high))), profiles[generator.integers(len(profiles))]
        return 0.0, ""

    def _galaxies(self, learnt: bool) -> tuple[str, ...]:
        galaxies = self.request.galaxies
        if len(galaxies) < 2:
            return galaxies
        split = min(math.ceil(FOR_TRAINING * len(galaxies)), len(galaxies) - 1)
        return galaxies[:split] if learnt else galaxies[split:]

    def _lenders(self, learnt: bool, number: int) -> list[Template]:
        """Other lenses of which what their models leave is noise: of the half of the sample that is explained best,
        every second for the training and the others for the test. None where noise is to be drawn."""
        every_second = self.kind in (BLIND, BLIND_SUBHALO) and number % 2
        lent = self.kind == "real residuals" or every_second or (learnt and number % 4 >= 2)
        sample = _opened(self.request.files)
        if not lent or len(sample) < MANY:
            return []
        own, best = sample[self.number], sorted(sample, key=lambda one: one.chi2)[: len(sample) // 2]
        pool = sorted(best, key=lambda one: one.name)[0 if learnt else 1 :: 2]
        return [one for one in pool if one is not own and one.same_pixels(own)]


def _key(row: dict) -> str:
    """What the template of a lens with this row of a model depends on."""
    return f"{row['fingerprint']} {RECIPE}"


def _kept(file: Path, key: str) -> bool:
    """Whether a template is there and of this key; one that cannot be read is made again."""
    try:
        return Template.load(file).key == key
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _template(observation: Observation, fits: Path, row: dict, file: Path) -> str:
    """Write the template of a lens whose model is kept in `fits`; why it cannot be searched, where it cannot."""
    with np.load(fits / row["planes"], allow_pickle=False) as planes:
        used = planes["used"]
        left = np.where(used, planes["residuals"], planes["arcs"] / planes["noise"])
    try:
        one = Template.of(Lens.of(observation), [row[name] for name in MASS], left, used, _key(row))
        _ = one.real
    except (DataError, np.linalg.LinAlgError) as error:
        return str(error)
    one.save(file)
    return ""


def _templates(
    path: str | Path, folder: Path, fits: Path, table: pd.DataFrame, pixel_scale: float | None, processes: int
) -> tuple[tuple[Path, ...], dict[str, str]]:
    """The files of the templates of the lenses that have a model, made where they are missing, and why others have
    none. Raises `DataError` where two lenses have one name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {f"{row['lens']} {row['band']}".strip(): row for row in table[table["state"] != "failed"].to_dict("records")}
    missing, files = [], {}
    for observation in read_observations(path, pixel_scale)[0]:
        if (row := rows.get(str(observation))) is None:
            continue
        file = folder / f"{Path(row['planes']).stem}.npz"
        if file in files:
            raise DataError(f"{path}: two lenses are called {observation}; rename one of their folders or files")
        files[file] = str(observation)
        if not _kept(file, _key(row)):
            missing.append((observation, fits, row, file))
    whys = progress(in_processes(_template, missing, processes), "templates", len(missing))
    skipped = {item[3]: why for item, why in zip(missing, list(whys), strict=True) if why}
    return tuple(file for file in files if file not in skipped), {files[file]: why for file, why in skipped.items()}
