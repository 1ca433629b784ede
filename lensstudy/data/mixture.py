"""Several recipes in one data set: what a network must learn from if it is not to learn the habits of one simulator.

The preset `mixture` has a population with one entry, `recipes`, a list of recipes as a parameter file would name them:
`preset`, and if need be `population` and `noise_level` (the study's, where a recipe names none; 0: the preset's own).
Each gives an equal part of the images of every class, with a seed of its own, so that no lens appears twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.simulation import simulate
from lensstudy.lensing.populations import PRESETS
from lensstudy.lensing.simulation import draw_batch

__all__ = ["MIXTURE", "Recipe", "draw", "make", "recipes_of"]

MIXTURE = "mixture"
TAG = 0x6D6978  # so that no recipe of a mixture has the seed of fresh images


@dataclass(frozen=True)
class Recipe:
    """A preset with its population, its noise (in units of the peak; None: its own) and its seed."""

    preset: str
    seed: int
    noise_level: float | None = None
    population: dict = field(default_factory=dict)


def recipes_of(preset: str, population: dict, noise_level: float | None, seed: int) -> list[Recipe]:
    """The recipes behind a preset: one, or those of a mixture. Raises `DataError` for a list that is none."""
    noise_level = noise_level or None  # 0 in a parameter file: the recipe has its own
    if preset != MIXTURE:
        return [Recipe(preset, seed, noise_level, population)]
    given = population.get("recipes")
    if set(population) != {"recipes"} or not isinstance(given, list) or not given:
        raise DataError(
            f"population = {population!r} of the preset 'mixture'; expected one entry, a list of recipes, such as "
            "recipes: [{preset: model_2, noise_level: 0.01}, {preset: realistic}]"
        )
    return [_recipe(f"recipes[{k}]", one, noise_level, (seed, k, TAG)) for k, one in enumerate(given)]


def _recipe(where: str, given: object, noise_level: float | None, seed: tuple[int, ...]) -> Recipe:
    expected = f"{where} = {given!r}; expected a preset ({', '.join(PRESETS)}) and, if need be,"
    if not isinstance(given, dict) or given.get("preset") not in PRESETS:
        raise DataError(f"{expected} population and noise_level")
    population, level = given.get("population") or {}, given.get("noise_level", noise_level) or 0
    if set(given) - {"preset", "population", "noise_level"} or not isinstance(population, dict):
        raise DataError(f"{expected} population (changes to the preset's, name: value) and noise_level")
    if isinstance(level, bool) or not isinstance(level, int | float) or level < 0:
        raise DataError(f"{expected} a noise_level of 0 (the preset's own) or more, in units of the image's peak")
    own_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return Recipe(given["preset"], own_seed, float(level) or None, population)


def make(
    preset: str,
    images_per_class: int,
    *,
    seed: int,
    image_size: int | None = None,
    noise_level: float | None = None,
    progress: bool = False,
    population: dict | None = None,
) -> LensDataset:
    """A simulated data set, of one recipe or mixed; then `recipe` in the catalogue says which made an image.

    Raises `DataError` as `simulate` does, and where a mixture has no size or fewer images a class than recipes.
    """
    recipes = recipes_of(preset, population or {}, noise_level, seed)
    if len(recipes) > images_per_class or (preset == MIXTURE and image_size is None):
        raise DataError(
            f"a mixture of {len(recipes)} recipes with images_per_class = {images_per_class} and image_size = "
            f"{image_size}; expected one image or more of each recipe, and one size for all"
        )
    parts = []
    for k, recipe in enumerate(recipes):
        share = images_per_class // len(recipes) + (k < images_per_class % len(recipes))
        parts.append(
            simulate(
                recipe.preset,
                share,
                seed=recipe.seed,
                image_size=image_size,
                noise_level=recipe.noise_level,
                progress=progress,
                **recipe.population,
            )
        )
    return parts[0] if preset != MIXTURE else join(parts, population or {}, noise_level)


def join(parts: Sequence[LensDataset], population: dict, noise_level: float | None) -> LensDataset:
    """The sets as one. It has a pixel scale only if all of them have the same."""
    catalogues = []
    for k, part in enumerate(parts):
        names = f"{k}-" + part.catalogue["name"].astype(str)
        catalogues.append(part.catalogue.assign(name=names, recipe=f"{k} {part.description['preset']}"))
    about: dict = {"source": "mixed", "preset": MIXTURE, "population": population, "noise_level": noise_level}
    about |= {"image_size": parts[0].image_size, "recipes": [part.description for part in parts]}
    scales = [part.description["pixel_scale"] for part in parts]
    about |= {"pixel_scale": scales[0]} if np.allclose(scales, scales[0], rtol=1e-6) else {}
    images = np.concatenate([part.images for part in parts])
    return LensDataset(images, pd.concat(catalogues, ignore_index=True), parts[0].classes, about)


def draw(recipes: Sequence[Recipe], numbers: range, *, classes: Sequence[str], **options) -> tuple[Tensor, Tensor]:
    """Fresh images as `simulate.draw_batch` gives them, an equal part of `numbers` from every recipe.

    Raises `DataError` where the parts are not equal.
    """
    share, left = divmod(len(numbers), len(recipes))
    if left:
        raise DataError(f"{len(numbers)} images cannot be drawn in equal parts from {len(recipes)} recipes")
    first = numbers.start // len(recipes)
    drawn = []
    for recipe in recipes:
        images, _ = draw_batch(
            recipe.preset,
            range(first, first + share),
            seed=recipe.seed,
            noise_level=recipe.noise_level,
            classes=classes,
            **options,
            **recipe.population,
        )
        drawn.append(images.unflatten(0, (len(classes), share)))
    return torch.cat(drawn, dim=1).flatten(0, 1), torch.arange(len(classes)).repeat_interleave(len(numbers))
