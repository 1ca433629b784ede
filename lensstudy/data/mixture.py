"""Several presets in one data set: what a network must learn from if it is not to learn the habits of one simulator.

The preset `mixture` has a population with one entry, `presets`, a list of components as a parameter file would name
them: `preset`, and if need be `population` and `noise_level` (the study's, where a component names none; 0: the
preset's own). Each gives an equal part of the images of every class, with a seed of its own, so that no lens appears
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.simulation import simulate
from lensstudy.lensing.presets import PRESETS
from lensstudy.lensing.simulation import draw_batch

__all__ = ["MIXTURE", "Component", "components", "components_of", "draw", "make", "pooled"]

MIXTURE = "mixture"
TAG = 0x6D6978  # so that no component of a mixture has the seed of fresh images


@dataclass(frozen=True)
class Component:
    """A preset with its population, its noise (in units of the peak; None: its own) and its seed."""

    preset: str
    seed: int
    noise_level: float | None = None
    population: dict = field(default_factory=dict)


def components_of(preset: str, population: dict, noise_level: float | None, seed: int) -> list[Component]:
    """The components behind a preset: one, or those of a mixture. Raises `DataError` for a list that is none."""
    noise_level = noise_level or None  # 0 in a parameter file: the preset has its own
    if preset != MIXTURE:
        return [Component(preset, seed, noise_level, population)]
    given = population.get("presets")
    if set(population) != {"presets"} or not isinstance(given, list) or not given:
        raise DataError(
            f"population = {population!r} of the preset 'mixture'; expected one entry, a list of components, such as "
            "presets: [{preset: model_2, noise_level: 0.01}, {preset: realistic}]"
        )
    return [_component(f"presets[{k}]", one, noise_level, (seed, k, TAG)) for k, one in enumerate(given)]


def _component(where: str, given: object, noise_level: float | None, seed: tuple[int, ...]) -> Component:
    expected = f"{where} = {given!r}; expected a preset ({', '.join(PRESETS)}) and, if need be,"
    if not isinstance(given, dict) or given.get("preset") not in PRESETS:
        raise DataError(f"{expected} population and noise_level")
    population, level = given.get("population") or {}, given.get("noise_level", noise_level) or 0
    if set(given) - {"preset", "population", "noise_level"} or not isinstance(population, dict):
        raise DataError(f"{expected} population (changes to the preset's, name: value) and noise_level")
    if isinstance(level, bool) or not isinstance(level, int | float) or level < 0:
        raise DataError(f"{expected} a noise_level of 0 (the preset's own) or more, in units of the image's peak")
    own_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return Component(given["preset"], own_seed, float(level) or None, population)


def make(
    preset: str,
    images_per_class: int,
    *,
    seed: int,
    image_size: int | None = None,
    noise_level: float | None = None,
    processes: int = 1,
    progress: bool = False,
    population: dict | None = None,
    classes: Sequence[str] | None = None,
) -> LensDataset:
    """A simulated data set, of one preset or mixed; then `preset` in the catalogue says which made an image.

    Raises `DataError` as `simulate` does, and where a mixture has no size or fewer images a class than components.
    """
    components = components_of(preset, population or {}, noise_level, seed)
    if len(components) > images_per_class or (preset == MIXTURE and image_size is None):
        raise DataError(
            f"a mixture of {len(components)} components with images_per_class = {images_per_class} and image_size = "
            f"{image_size}; expected one image or more of each component, and one size for all"
        )
    parts = []
    for k, component in enumerate(components):
        share = images_per_class // len(components) + (k < images_per_class % len(components))
        parts.append(
            simulate(
                component.preset,
                share,
                seed=component.seed,
                image_size=image_size,
                noise_level=component.noise_level,
                processes=processes,
                progress=progress,
                classes=classes,
                **component.population,
            )
        )
    return parts[0] if preset != MIXTURE else join(parts, population or {}, noise_level)


def join(parts: Sequence[LensDataset], population: dict, noise_level: float | None) -> LensDataset:
    """The sets as one. It has a pixel scale only if all of them have the same."""
    catalogues = []
    for k, part in enumerate(parts):
        names = f"{k}-" + part.catalogue["name"].astype(str)
        catalogues.append(part.catalogue.assign(name=names, preset=f"{k} {part.description['preset']}"))
    about: dict = {"source": "mixed", "preset": MIXTURE, "population": population, "noise_level": noise_level}
    about |= {"image_size": parts[0].image_size, "presets": [part.description for part in parts]}
    scales = [part.description["pixel_scale"] for part in parts]
    about |= {"pixel_scale": scales[0]} if np.allclose(scales, scales[0], rtol=1e-6) else {}
    images = np.concatenate([part.images for part in parts])
    return LensDataset(images, pd.concat(catalogues, ignore_index=True), parts[0].classes, about)


def pooled(sets: Sequence[LensDataset]) -> LensDataset:
    """Split sets of one image size and the same classes as one, each image in its part, under a name of its own."""
    first = sets[0]
    tables = [
        one.catalogue[["class", "part"]].assign(name=f"{k}-" + one.catalogue["name"].astype(str))
        for k, one in enumerate(sets)
    ]
    about = {"source": "pooled", "image_size": first.image_size, "sets": [one.description for one in sets]}
    about |= {"redistributable": all(one.redistributable for one in sets)}
    images = np.concatenate([np.asarray(one.images) for one in sets])
    return LensDataset(images, pd.concat(tables, ignore_index=True), first.classes, about)


def components(dataset: LensDataset) -> list[LensDataset]:
    """The simulated sets of one preset each that a data set was joined from: itself if it has one preset, and none if
    its images were not simulated."""
    about = dataset.description
    if about.get("source") == "mixed":
        own = dataset.catalogue["preset"].str.split(" ").str[0].astype(int)
        return [
            replace(dataset.subset((own == k).to_numpy()), description=one) for k, one in enumerate(about["presets"])
        ]
    return [dataset] if about.get("source") == "simulated" else []


def draw(
    components: Sequence[Component], numbers: range, *, classes: Sequence[str], **options
) -> tuple[Tensor, Tensor]:
    """Fresh images as `simulate.draw_batch` gives them, an equal part of `numbers` from every component.

    Raises `DataError` where the parts are not equal.
    """
    share, left = divmod(len(numbers), len(components))
    if left:
        raise DataError(f"{len(numbers)} images cannot be drawn in equal parts from {len(components)} components")
    first = numbers.start // len(components)
    drawn = []
    for component in components:
        images, _ = draw_batch(
            component.preset,
            range(first, first + share),
            seed=component.seed,
            noise_level=component.noise_level,
            classes=classes,
            **options,
            **component.population,
        )
        drawn.append(images.unflatten(0, (len(classes), share)))
    return torch.cat(drawn, dim=1).flatten(0, 1), torch.arange(len(classes)).repeat_interleave(len(numbers))
