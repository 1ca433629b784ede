"""Simulated lenses with their truth, rendered in batches on any number of processes.

`simulate` draws a population (`population.py`), shoots the rays of every pixel back to the source, blurs, adds noise
and returns a `LensDataset` whose catalogue holds everything that went into each image. The seed belongs to the image:
image k of a class is the same, bit for bit, however many others are made, in however many processes.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lensstudy.dataset import DataError, LensDataset, canonical_class
from lensstudy.instrument import INSTRUMENTS, Instrument, blur, blur_matrix, noise_variance, noisy
from lensstudy.lensing import line, point_mass_sum, sersic, shear, sie, truncated_nfw_sum
from lensstudy.population import (
    CLASSES,
    COLUMNS,
    LENS_LIGHT,
    LISTS,
    MACRO,
    PRESETS,
    SOURCE,
    Preset,
    check_row,
    complete,
    preset_named,
)

__all__ = ["CLASSES", "PRESETS", "render", "simulate", "smooth_twins", "substructure_map"]

CHUNK = 256  # images of one class that are drawn, rendered and written together
RAYS_PER_BATCH = 32 * 64 * 64  # what stays in a processor's cache


# From a row of the catalogue to an image


@dataclass(frozen=True)
class View:
    """Where light is caught: pixel centres x `(1, W)` and y `(H, 1)` in arcseconds, and the blur along one axis."""

    x: Tensor
    y: Tensor
    matrix: Tensor
    pixel_area: float  # arcsec^2


@functools.lru_cache(maxsize=16)
def view_of(instrument: Instrument, image_size: int, dtype: torch.dtype) -> View:
    """The instrument's field of view in `image_size` pixels a side, centred between the middle ones."""
    pixel_scale = instrument.field_of_view / image_size
    centers = ((torch.arange(image_size, dtype=torch.float64) - (image_size - 1) / 2) * pixel_scale).to(dtype)
    matrix = torch.tensor(blur_matrix(instrument, image_size), dtype=dtype)
    return View(centers[None, :], centers[:, None], matrix, pixel_scale**2)


def batch_size(image_size: int) -> int:
    """Images rendered together: 32 of 64x64, 8 of 150x150. Fixed, so that no rounding depends on how many are made."""
    return max(8, RAYS_PER_BATCH // image_size**2)


def tensors(rows: Sequence[dict], preset: Preset, dtype: torch.dtype) -> dict[str, Tensor]:
    """Complete rows as tensors: scalars `(N, 1, 1)`; for subhalos `point_*` of shape `(N, n)`, padded with zero mass."""
    p = {name: torch.tensor([row[name] for row in rows], dtype=dtype)[:, None, None] for name in COLUMNS}
    points = [point_masses(row, preset) for row in rows]
    most = max(len(point[0]) for point in points)
    most = -(-most // 8) * 8 if most > 32 else most  # few different lengths, so that compiled code is used again
    padded = np.zeros((4, len(rows), most))
    padded[3] = 1.0  # a scale radius of nothing
    for i, point in enumerate(points):
        padded[: len(point), i, : len(point[0])] = point
    p["point_x"], p["point_y"], mass, p["point_scale_radius"] = torch.tensor(padded, dtype=torch.float64).to(dtype)
    p["point_radius"] = torch.sqrt(mass.double() * preset.area_per_mass).to(dtype)
    p["vortex_radius"] = torch.sqrt(p["vortex_mass"].double() * preset.area_per_mass).to(dtype)
    return p


def point_masses(row: dict, preset: Preset) -> tuple[np.ndarray, ...]:
    """Positions, masses and scale radii of an image's subhalos, or the chain that stands for its vortex."""
    if row["vortex_mass"] == 0 or preset.vortex_points == 0:
        return tuple(np.asarray(row[name], dtype=float) for name in LISTS[: 4 if row["subhalo_truncation"] else 3])
    along = np.linspace(-1, 1, preset.vortex_points) * row["vortex_half_length"]
    x, y = along * np.cos(row["vortex_angle"]), along * np.sin(row["vortex_angle"])
    return row["vortex_x"] + x, row["vortex_y"] + y, np.full(len(x), row["vortex_mass"] / len(x))


def substructure_deflection(p: dict[str, Tensor], view: View, kind: str) -> tuple[Tensor, Tensor]:
    """Deflection `(N, H, W)` of the substructure alone; `kind` is `points`, `halos` or `line`."""
    if kind == "line":
        geometry = (p[f"vortex_{name}"] for name in ("radius", "half_length", "angle", "x", "y"))
        return line(view.x, view.y, *geometry)
    if kind == "halos":
        halos = (p["point_radius"], p["point_scale_radius"], p["subhalo_truncation"][:, 0].expand_as(p["point_radius"]))
        return truncated_nfw_sum(view.x, view.y, *halos, p["point_x"], p["point_y"])
    return point_mass_sum(view.x, view.y, p["point_radius"], p["point_x"], p["point_y"])


def kind_of(rows: Sequence[dict], preset: Preset) -> str:
    """What the substructure of these rows, all of one class, is made of; `none` where there is none."""
    if any(row["vortex_mass"] for row in rows):
        return "points" if preset.vortex_points else "line"
    if any(row["n_subhalos"] for row in rows):
        return "halos" if any(row["subhalo_truncation"] for row in rows) else "points"
    return "none"


def expected_images(p: dict[str, Tensor], view: View, kind: str, lens_light: bool = False) -> Tensor:
    """Noise-free images `(N, H, W)` in counts: the source's light where the rays of the pixels come from.

    With `kind` `none` this is the smooth twin: all mass inside the Einstein radius in the halo, and no substructure.
    """
    radius = p["einstein_radius"] if kind == "none" else p["halo_einstein_radius"]
    alpha_x, alpha_y = sie(view.x, view.y, radius, *(p[name] for name in MACRO[1:5]))
    shear_x, shear_y = shear(view.x, view.y, p["shear_1"], p["shear_2"])
    beta_x, beta_y = view.x - shear_x - alpha_x, view.y - shear_y - alpha_y
    if kind != "none":
        alpha_x, alpha_y = substructure_deflection(p, view, kind)
        beta_x, beta_y = beta_x - alpha_x, beta_y - alpha_y
    light = sersic(beta_x, beta_y, *(p[name] for name in SOURCE))
    if lens_light:
        shape = (p[name] for name in ("lens_e1", "lens_e2", "lens_x", "lens_y"))
        light = light + sersic(view.x, view.y, *(p[name] for name in LENS_LIGHT), *shape)
    return blur(light, view.matrix) * (p["exposure_time"] * view.pixel_area)


def render(
    rows: pd.DataFrame | Sequence[dict] | dict,
    preset: str = "realistic",
    *,
    instrument: str | None = None,
    image_size: int | None = None,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Noise-free images `(N, 1, H, W)` of the lenses that `rows` describe.

    `rows` is a catalogue of `simulate`, or one or several dicts with some of its columns; a missing column means that
    the lens has no such thing. `smooth` leaves the substructure out and keeps the mass inside the Einstein radius.
    Raises `DataError` for a lens that cannot exist. One 64x64 image takes a few milliseconds.
    """
    recipe = preset_named(preset)
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [rows] if isinstance(rows, dict) else rows
    rows = [complete(row) for row in rows]
    for i, row in enumerate(rows):
        check_row(row, row.get("name", f"lens {i}"))
    telescope = INSTRUMENTS[instrument] if instrument else recipe.instrument
    size = checked_size(image_size or telescope.image_size)
    images = np.empty((len(rows), 1, size, size), dtype=np.float64 if dtype == torch.float64 else np.float32)
    for i, row in enumerate(rows):
        images[i] = render_batch([row], recipe, telescope, size, smooth=smooth, dtype=dtype)
    return scaled(images, recipe.scaling) if recipe.scaling == "peak" else images


def render_batch(
    rows: Sequence[dict], preset: Preset, instrument: Instrument, image_size: int, *, smooth=False, dtype=torch.float32
) -> np.ndarray:
    """Expected counts `(N, H, W)` of complete rows of one class."""
    kind = "none" if smooth else kind_of(rows, preset)
    lens_light = any(row["lens_light_amplitude"] for row in rows)
    with torch.inference_mode():
        view = view_of(instrument, image_size, dtype)
        return expected_images(tensors(rows, preset, dtype), view, kind, lens_light).numpy()


def scaled(images: np.ndarray, scaling: str) -> np.ndarray:
    """Images `(..., H, W)` as the recipe stores them."""
    low = images.min(axis=(-2, -1), keepdims=True) if scaling == "range" else 0
    high = 1 if scaling == "counts" else images.max(axis=(-2, -1), keepdims=True)
    return (images - low) / (high - low)
