"""What a data set holds, in the tables and sentences of its first page: counts, noise, substructure, direction.

Whoever asks need not know where the images came from: what is not known of them is an empty table, or no lens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lensstudy.data import filtering, mixture
from lensstudy.data.dataset import PARTS, LensDataset, ellipticity, sky_and_noise
from lensstudy.data.simulation import smooth_counterpart
from lensstudy.lensing.presets import population_of
from lensstudy.lensing.rendering import substructure_map

__all__ = [
    "Counterparts",
    "Direction",
    "brightness",
    "counterparts",
    "counts",
    "detectability",
    "direction",
    "exclusions",
    "in_words",
    "used",
]

AT_MOST = 500  # images of a class that are measured for a table
TOLD = 6  # changes to a population that a sentence names
SIGNIFICANT = 5  # standard errors of a mean ellipticity from which on the images have a preferred direction
DETECTABILITY = {
    "substructure_mass": "substructure [solar masses]",
    "detectability": "detectability [sigma]",
    "detectability_refit": "after re-fitting the macromodel [sigma]",
}


def used(dataset: LensDataset) -> LensDataset:
    """The images that are in one of the parts, and not excluded."""
    return dataset.subset(dataset.catalogue["part"].isin(PARTS).to_numpy())


def counts(dataset: LensDataset) -> pd.DataFrame:
    """Images of each class in each part and in `all` parts, one row a class; excluded ones are not among them."""
    table = pd.crosstab(dataset.catalogue["class"], dataset.catalogue["part"])
    table = table.reindex(index=list(dataset.classes), columns=list(PARTS), fill_value=0)
    return table.assign(all=table.sum(axis=1)).rename_axis(index="class", columns=None)


def in_words(dataset: LensDataset) -> str:
    """Where the images come from and what they are like, in Markdown."""
    about, catalogue = dataset.description, dataset.catalogue
    size, channels = dataset.image_size, dataset.images.shape[1]
    bands = "1 channel" if channels == 1 else f"{channels} channels"
    made = " and ".join(_preset_in_words(part.description) for part in mixture.components(dataset)) or "read from files"
    scale = f', {about["pixel_scale"]:.3f}" a pixel' if about.get("pixel_scale") else ""
    said = [f"{len(dataset):,} images of {size} × {size} pixels in {bands}, {made}{scale}."]
    if "source_part" in catalogue and catalogue["source_part"].notna().any():
        said += ["They came in parts (train, test), which the study keeps or draws anew as `split` says."]
    if own := about.get("test_images_per_class"):
        said += [f"{own:,} images of each class were simulated for the test alone, from a seed of their own."]
    if rejected := about.get("rejected"):
        names = ", ".join(f"`{file['name']}`" for file in rejected[:5])
        said += [f"{len(rejected):,} files could not be used, such as {names}."]
    said += [f"Fingerprint (a hash of the images; equal for equal data sets): `{dataset.fingerprint}`."]
    return " ".join(said)


def _preset_in_words(about: dict) -> str:
    preset, population = about["preset"], about["population"]
    own = population_of(preset, {})
    changed = [f"{name} = {value}" for name, value in population.items() if value != own[name]]
    told = ", ".join(changed) if len(changed) <= TOLD else f"{len(changed)} changes to its population"
    return f"simulated with the preset `{preset}`" + (f" ({told})" if changed else "")


def brightness(dataset: LensDataset) -> pd.DataFrame:
    """Mean brightness and its spread from image to image, noise beside the lens, and median signal to noise of the
    brightest pixels, one row a class, of at most 500 images each. In the images' own unit."""
    rows = {}
    for label, name in enumerate(dataset.classes):
        of_class = np.flatnonzero(dataset.labels == label)
        some = dataset.subset(of_class[:: max(len(of_class) // AT_MOST, 1)]).images[:]
        measured = filtering.measure(some)
        noise = sky_and_noise(some.mean(1))[1]
        rows[name] = (*measured["mean"].agg(["mean", "std"]), noise, measured["signal_to_noise"].median())
    columns = ["mean brightness", "spread of the mean", "noise", "median signal to noise"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("class")


def exclusions(dataset: LensDataset) -> tuple[pd.DataFrame, str]:
    """What was excluded, as `filtering.summary` gives it, and the rules in words. Simulated images are not filtered:
    their table is empty."""
    if "excluded_because" not in dataset.catalogue:
        return pd.DataFrame({"images": [], "share": [], "examples": []}), "Simulated images are not filtered."
    found = filtering.summary(dataset)
    rules = ", ".join(f"{name} {value}" for name, value in dataset.description["filtering"]["rules"].items())
    return found, f"{'Images that were excluded' if len(found) else 'No image was excluded'} by the rules {rules}."


def detectability(dataset: LensDataset) -> pd.DataFrame:
    """Median mass and detectability of the substructure, one row a class; no rows where the truth is not known."""
    if not set(DETECTABILITY) <= set(dataset.catalogue):
        return pd.DataFrame(columns=list(DETECTABILITY.values()), index=pd.Index([], name="class"))
    medians = dataset.catalogue.groupby("class")[list(DETECTABILITY)].median()
    return medians.reindex(list(dataset.classes)).rename(columns=DETECTABILITY)


@dataclass(frozen=True)
class Counterparts:
    """Lenses beside their smooth counterparts: a title each, and arrays `(n, H, W)` of the image as observed, without
    noise, without noise and substructure, and of the mass of the substructure in solar masses a pixel."""

    titles: list[str]
    observed: np.ndarray
    noise_free: np.ndarray
    smooth: np.ndarray
    mass: np.ndarray
    pixel_scale: float | None = None


def counterparts(dataset: LensDataset) -> Counterparts:
    """The first lens of every class beside its smooth counterpart; of a mixture, the first with substructure of each
    preset. Of images that were not simulated there is none."""
    size, single = dataset.image_size, "preset" not in dataset.catalogue
    titles: list[str] = []
    stacks: list[list[np.ndarray]] = [[], [], [], []]
    for part in mixture.components(dataset):
        preset, instrument = part.description["preset"], part.description["instrument"]["name"]
        for name in dataset.classes if single else dataset.classes[-1:]:
            lens = part.subset(np.flatnonzero(part.catalogue["class"] == name)[:1])
            row = lens.catalogue.iloc[0]
            mass, _ = substructure_map(row, preset, instrument=instrument, image_size=size)
            titles.append(name if single else str(row["preset"]))
            for stack, image in zip(stacks, (lens.images[0], *(a[0] for a in smooth_counterpart(lens))), strict=False):
                stack.append(image[0])
            stacks[3].append(mass)
    observed, noise_free, smooth, masses = (np.array(stack).reshape(-1, size, size) for stack in stacks)
    return Counterparts(titles, observed, noise_free, smooth, masses, dataset.description.get("pixel_scale"))


@dataclass(frozen=True)
class Direction:
    """Ellipticity of the flux of each image, `e1` along the axes and `e2` along the diagonals, and what it averages to:
    a set without a preferred direction has a mean of zero."""

    e1: np.ndarray
    e2: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Means of both components, `(2,)`."""
        return np.array([self.e1.mean(), self.e2.mean()])

    @property
    def error(self) -> np.ndarray:
        """Standard errors of these means over the images, `(2,)`."""
        return np.array([self.e1.std(ddof=1), self.e2.std(ddof=1)]) / np.sqrt(len(self.e1))

    @property
    def answer(self) -> str:
        """Whether the images have a preferred direction, with the means and their standard errors."""
        (e1, e2), (d1, d2) = self.mean, self.error
        measured = f"mean e1 = {e1:+.3f} ± {d1:.3f}, mean e2 = {e2:+.3f} ± {d2:.3f}"
        away = (np.abs(self.mean) / np.maximum(self.error, 1e-12)).max()
        if away > SIGNIFICANT:
            return f"**The images have a preferred direction** ({measured}; {away:.0f} standard errors from none)."
        limit = (np.abs(self.mean) + 1.96 * self.error).max()
        return f"**No preferred direction shows** ({measured}); a mean above {limit:.3f} is excluded at 95 %."


def direction(dataset: LensDataset) -> Direction:
    """Which way the light of the images points."""
    return Direction(*ellipticity(dataset.images))
