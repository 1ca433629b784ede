"""Simulated lenses with their truth, rendered in batches on any number of processes.

`simulate` draws a population (`population.py`), shoots the rays of every pixel back to the source, blurs, adds noise
and returns a `LensDataset` whose catalogue holds everything that went into each image. The seed belongs to the image:
image k of a class is the same, bit for bit, however many others are made, in however many processes.
"""

from __future__ import annotations

import functools
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lensstudy.dataset import DataError, LensDataset, canonical_class
from lensstudy.instrument import INSTRUMENTS, Instrument, blur, noise_variance, noisy, psf_profile
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

MODES = ("eager", "compiled")
CHUNK = 256  # images of one class that are drawn, rendered and written together
RAYS_PER_BATCH = 32 * 64 * 64  # what stays in a processor's cache

STEP = 1e-3  # of a derivative, in the parameter's own unit or as a share of it, whichever is more

# From a row of the catalogue to an image


@dataclass(frozen=True)
class View:
    """Where light is caught: pixel centres x `(1, W)` and y `(H, 1)` in arcseconds, and the blur along either axis."""

    x: Tensor
    y: Tensor
    psf: tuple[float, ...]
    pixel_area: float  # arcsec^2


@functools.lru_cache(maxsize=16)
def view_of(instrument: Instrument, image_size: int, dtype: torch.dtype) -> View:
    """The instrument's field of view in `image_size` pixels a side, centred between the middle ones."""
    pixel_scale = instrument.field_of_view / image_size
    centers = ((torch.arange(image_size, dtype=torch.float64) - (image_size - 1) / 2) * pixel_scale).to(dtype)
    return View(centers[None, :], centers[:, None], psf_profile(instrument, image_size), pixel_scale**2)


def batch_size(image_size: int) -> int:
    """Images rendered together: 32 of 64x64, 8 of 150x150. Fixed, so that no rounding depends on how many are made."""
    return max(8, RAYS_PER_BATCH // image_size**2)


def tensors(rows: Sequence[dict], preset: Preset, dtype: torch.dtype) -> dict[str, Tensor]:
    """Complete rows as tensors: scalars `(N, 1, 1)`; of subhalos `point_*` `(N, n)`, padded with zero mass."""
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


def source_positions(p: dict[str, Tensor], view: View, kind: str) -> tuple[Tensor, Tensor]:
    """Where the rays of the pixels come from in the source plane, `(N, H, W)` each.

    With `kind` `none` this is the smooth twin: all mass inside the Einstein radius in the halo, and no substructure.
    """
    radius = p["einstein_radius"] if kind == "none" else p["halo_einstein_radius"]
    alpha_x, alpha_y = sie(view.x, view.y, radius, *(p[name] for name in MACRO[1:5]))
    shear_x, shear_y = shear(view.x, view.y, p["shear_1"], p["shear_2"])
    beta_x, beta_y = view.x - shear_x - alpha_x, view.y - shear_y - alpha_y
    if kind == "none":
        return beta_x, beta_y
    alpha_x, alpha_y = substructure_deflection(p, view, kind)
    return beta_x - alpha_x, beta_y - alpha_y


def brightness(p: dict[str, Tensor], view: View, rays: tuple[Tensor, Tensor], lens_light: bool) -> Tensor:
    """Noise-free images `(N, H, W)` in counts: the source's light where the rays come from, and the lens's own."""
    light = sersic(*rays, *(p[name] for name in SOURCE))
    if lens_light:
        shape = (p[name] for name in ("lens_e1", "lens_e2", "lens_x", "lens_y"))
        light = light + sersic(view.x, view.y, *(p[name] for name in LENS_LIGHT), *shape)
    return blur(light, view.psf) * (p["exposure_time"] * view.pixel_area)


def expected_images(p: dict[str, Tensor], view: View, kind: str, lens_light: bool = False) -> Tensor:
    """Noise-free images `(N, H, W)` in counts."""
    return brightness(p, view, source_positions(p, view, kind), lens_light)


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
    alike: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        check_row(row, row.get("name", f"lens {i}"))
        alike.setdefault((kind_of([row], recipe), row["lens_light_amplitude"] > 0), []).append(i)
    telescope = INSTRUMENTS[instrument] if instrument else recipe.instrument
    size = checked_size(image_size or telescope.image_size)
    images = np.empty((len(rows), 1, size, size), dtype=np.float64 if dtype == torch.float64 else np.float32)
    for numbers in alike.values():
        for start in range(0, len(numbers), batch_size(size)):
            batch = numbers[start : start + batch_size(size)]
            images[batch, 0] = render_batch([rows[i] for i in batch], recipe, telescope, size, smooth, dtype)
    return scaled(images, recipe.scaling) if recipe.scaling == "peak" else images


def render_batch(
    rows: Sequence[dict],
    preset: Preset,
    instrument: Instrument,
    image_size: int,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
    mode: str = "eager",
) -> np.ndarray:
    """Expected counts `(N, H, W)` of complete rows of one class."""
    kind = "none" if smooth else kind_of(rows, preset)
    # Truncated halos come in any number, and each would be compiled anew for longer than it takes to render them.
    draw = renderer("eager" if kind == "halos" else mode)
    lens_light = any(row["lens_light_amplitude"] for row in rows)
    with torch.inference_mode():
        view = view_of(instrument, image_size, dtype)
        return draw(tensors(rows, preset, dtype), view, kind, lens_light).numpy()


@functools.cache
def renderer(mode: str):
    """`expected_images`, as it is (`eager`) or through torch.compile (`compiled`), which needs a C++ compiler."""
    if mode not in MODES:
        raise DataError(f"mode '{mode}' is unknown; known modes: {', '.join(MODES)}")
    return expected_images if mode == "eager" else torch.compile(expected_images, dynamic=False)


def scaled(images: np.ndarray, scaling: str) -> np.ndarray:
    """Images `(..., H, W)` as the recipe stores them."""
    low = images.min(axis=(-2, -1), keepdims=True) if scaling == "range" else 0
    high = 1 if scaling == "counts" else images.max(axis=(-2, -1), keepdims=True)
    return (images - low) / (high - low)


def smooth_twins(dataset: LensDataset) -> tuple[np.ndarray, np.ndarray]:
    """Noise-free images `(N, 1, H, W)` of a simulated set, with and without substructure, in the units of its recipe.

    Their difference is the residual that a perfect smooth model would leave. Take a `subset` of a large set first.
    """
    about = dataset.description
    if about.get("source") != "simulated":
        raise DataError("only a simulated data set has twins: nobody knows what a measured lens is made of")
    view = {"preset": about["preset"], "instrument": about["instrument"]["name"], "image_size": dataset.image_size}
    return render(dataset.catalogue, **view), render(dataset.catalogue, **view, smooth=True)


def substructure_map(
    row: pd.Series | dict, preset: str = "realistic", *, instrument: str | None = None, image_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the substructure of one lens is and what it does, as two maps `(H, W)` over the field of view.

    The first is its mass in solar masses a pixel (halos as points), the second the modulus of its deflection in arcsec.
    """
    recipe, row = preset_named(preset), complete(dict(row))
    telescope = INSTRUMENTS[instrument] if instrument else recipe.instrument
    view = view_of(telescope, checked_size(image_size or telescope.image_size), torch.float64)
    size, half = len(view.y), telescope.field_of_view / 2
    if (kind := kind_of([row], recipe)) == "none":
        return np.zeros((size, size)), np.zeros((size, size))
    x, y, mass = point_masses(row, replace(recipe, vortex_points=recipe.vortex_points or 1000))[:3]
    masses, _, _ = np.histogram2d(y, x, bins=size, range=[[-half, half]] * 2, weights=mass)
    with torch.inference_mode():
        alpha_x, alpha_y = substructure_deflection(tensors([row], recipe, torch.float64), view, kind)
    return masses, torch.hypot(alpha_x, alpha_y)[0].numpy()


# How much of the substructure the noise leaves


def detectability(
    rows: Sequence[dict], expected: np.ndarray, preset: Preset, instrument: Instrument, noise_level: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """How many sigma the substructure makes in each image `(N, H, W)` of expected counts, bare and after a refit.

    Bare: chi of the image against its smooth twin at its own noise. Refit: what is left of it when the smooth lens, the
    source and the lens light have been adjusted to first order, `min_t |(delta - J t)/sigma|` with J the derivatives of
    the smooth image by every macro and source parameter. Both are infinite where a recipe has no noise.
    """
    if kind_of(rows, preset) == "none":
        return np.zeros(len(rows)), np.zeros(len(rows))
    times = np.array([row["exposure_time"] for row in rows])[:, None, None]
    sigma = np.sqrt(noise_variance(expected, instrument, times, noise_level).astype(np.float64))
    if not sigma.any():
        return np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    twin, jacobian = smooth_derivatives(rows, preset, instrument, expected.shape[-1])
    delta = ((expected - twin) / sigma).reshape(len(rows), -1)
    jacobian = (jacobian / sigma[:, None]).reshape(len(rows), jacobian.shape[1], -1)
    bare = np.linalg.norm(delta, axis=1)
    size = np.linalg.norm(jacobian, axis=2, keepdims=True)
    jacobian /= np.where(size > 0, size, 1)  # parameters of any unit weigh alike
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    slope = (jacobian @ delta[..., None])[..., 0]
    explained = np.einsum("ni,nij,nj->n", slope, np.linalg.pinv(normal, rcond=1e-10, hermitian=True), slope)
    return bare, np.sqrt(np.clip(bare**2 - explained, 0, None))


def smooth_derivatives(
    rows: Sequence[dict], preset: Preset, instrument: Instrument, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The smooth twins `(N, H, W)` and their derivatives `(N, parameters, H, W)` by macro and source parameters.

    Central differences: forward differentiation gives the same and takes three times as long.
    """
    view, lens_light = view_of(instrument, image_size, torch.float32), any(row["lens_light_amplitude"] for row in rows)
    p = tensors([row | dict.fromkeys(LISTS, ()) | {"vortex_mass": 0.0} for row in rows], preset, torch.float32)
    with torch.inference_mode():
        rays = source_positions(p, view, "none")
        derivatives = []
        for name in (*MACRO, *SOURCE, *(LENS_LIGHT if lens_light else ())):
            step = torch.clamp(STEP * p[name].abs(), min=STEP)
            images = []
            for value in (p[name] - step, p[name] + step):
                q = p | {name: value}
                images.append(
                    brightness(q, view, source_positions(q, view, "none") if name in MACRO else rays, lens_light)
                )
            derivatives.append((images[1] - images[0]) / (2 * step))
        return brightness(p, view, rays, lens_light).numpy(), torch.stack(derivatives, dim=1).double().numpy()


# Whole data sets


@dataclass(frozen=True)
class Request:
    """What `simulate` was asked for, in a form that JSON holds and another process can repeat."""

    preset: str
    classes: tuple[str, ...]
    images_per_class: int
    seed: int
    image_size: int
    noise_level: float | None
    population: dict
    mode: str

    @property
    def instrument(self) -> Instrument:
        """The preset's instrument, or the one that the population names."""
        return INSTRUMENTS[self.population.get("instrument", preset_named(self.preset).instrument.name)]

    def chunks(self) -> list[tuple[str, int, int]]:
        """Class, first and last image of each piece of work, in the order of the data set."""
        starts = range(0, self.images_per_class, CHUNK)
        return [(name, start, min(start + CHUNK, self.images_per_class)) for name in self.classes for start in starts]


def make_chunk(request: Request, class_name: str, start: int, stop: int) -> tuple[np.ndarray, list[dict]]:
    """Images `(n, 1, H, W)` and truth of the images from `start` to before `stop` of one class.

    The last batch is always drawn and rendered whole, so that an image never depends on how many others were wanted.
    """
    torch.set_num_threads(1)
    batch = batch_size(request.image_size)
    pieces = [make_batch(request, class_name, range(first, first + batch)) for first in range(start, stop, batch)]
    images = np.concatenate([images for images, _ in pieces])[: stop - start]
    return images[:, None], [row for _, rows in pieces for row in rows][: stop - start]


def make_batch(request: Request, class_name: str, numbers: range) -> tuple[np.ndarray, list[dict]]:
    """Draw, render and spoil with noise one batch of images."""
    preset, instrument, level = preset_named(request.preset), request.instrument, request.noise_level
    streams = [
        np.random.SeedSequence(request.seed, spawn_key=(CLASSES.index(class_name), number)) for number in numbers
    ]
    generators = [np.random.default_rng(stream) for stream in streams]
    rows = [complete(preset.draw(class_name, generator, request.population)) for generator in generators]
    expected = render_batch(rows, preset, instrument, request.image_size, mode=request.mode)
    bare, refit = detectability(rows, expected, preset, instrument, level)
    images, truth = [], []
    for i, (number, generator, row) in enumerate(zip(numbers, generators, rows, strict=True)):
        time = row["exposure_time"]
        image = noisy(expected[i], instrument, time, generator, level)
        background = noise_variance(np.zeros_like(expected[i]), instrument, time)[0, 0]
        rms = np.sqrt(background) if level is None else level * expected[i].max()
        unit = np.ptp(image) if preset.scaling == "range" else expected[i].max() if preset.scaling == "peak" else 1
        low = image.min() if preset.scaling == "range" else 0
        images.append((image - low) / unit)
        about = {"name": f"{class_name}-{number:06d}", "class": class_name, "detectability": bare[i]}
        truth.append(about | {"detectability_refit": refit[i], "noise_rms": float(rms / unit)} | row)
    return np.stack(images).astype(np.float32), truth


def simulate(
    preset: str,
    images_per_class: int,
    *,
    seed: int,
    image_size: int | None = None,
    noise_level: float | None = None,
    classes: Sequence[str] | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
    mode: str = "eager",
    **population,
) -> LensDataset:
    """Draw and render `images_per_class` lenses of every class of `preset`.

    With `image_size` the field of view stays and the pixels change. `noise_level` puts Gaussian noise of so many times
    each image's own peak in place of the recipe's noise (models 2 and 3 are noise-free as published). `population`
    takes the parameters of `realistic`. With `folder` the set is written there piece by piece and comes back as a
    memory map; a run that was killed goes on where it stopped. The images are the same for any number of `processes`,
    each of one thread; `mode="compiled"` renders two to three times as fast once it is compiled, with other rounding.
    The catalogue holds the truth of every image (`population.py`), `noise_rms` of the background in
    the image's own units, and `detectability` and `detectability_refit` in sigma.

    Raises `DataError` for an unknown preset, class or parameter, a value out of range, or a folder that is taken.
    """
    request = checked_request(preset, images_per_class, seed, image_size, noise_level, classes, population, mode)
    if folder is not None:
        return simulate_to_folder(request, Path(folder), processes, progress)
    size = request.image_size
    images = np.empty((len(request.classes) * images_per_class, 1, size, size), dtype=np.float32)
    rows = []
    for piece, truth in pieces_of(request, request.chunks(), processes, progress):
        images[len(rows) : len(rows) + len(piece)] = piece
        rows += truth
    return LensDataset(images, pd.DataFrame(rows), request.classes, describe(request))


def checked_request(
    preset: str,
    images_per_class: int,
    seed: int,
    image_size: int | None,
    noise_level: float | None,
    classes: Sequence[str] | None,
    population: dict,
    mode: str = "eager",
) -> Request:
    """The request, once everything in it is possible."""
    recipe = preset_named(preset)
    if images_per_class < 1:
        raise DataError(f"images_per_class = {images_per_class}; expected 1 or more")
    if seed < 0:
        raise DataError(f"seed = {seed}; expected 0 or more")
    if noise_level is not None and not 0 <= noise_level < np.inf:
        raise DataError(f"noise_level = {noise_level}; expected 0 or more, in units of the image's peak (0.01 is 1 %)")
    renderer(mode)
    names = tuple(canonical_class(name) for name in classes) if classes else CLASSES
    unknown = [name for name in names if name not in CLASSES]
    if unknown or len(set(names)) < len(names):
        raise DataError(f"classes {names}: a preset simulates {', '.join(CLASSES)}, each once")
    population = recipe.with_population(population)
    instrument = INSTRUMENTS[population.get("instrument", recipe.instrument.name)]
    size = checked_size(instrument.image_size if image_size is None else image_size)
    return Request(preset, names, images_per_class, seed, size, noise_level, population, mode)


def checked_size(image_size: int) -> int:
    """The number of pixels a side; `DataError` where no image can have it."""
    if not 2 <= image_size <= 4096:
        raise DataError(f"image_size = {image_size} pixels a side; expected 2 to 4096")
    return image_size


def describe(request: Request) -> dict:
    """What `dataset.json` says of where the images come from."""
    instrument = request.instrument
    about = {"source": "simulated", "pixel_scale": instrument.field_of_view / request.image_size}
    return about | {"instrument": asdict(instrument)} | asdict(request)


def pieces_of(
    request: Request, chunks: Sequence[tuple[str, int, int]], processes: int, progress: bool
) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """`make_chunk` of every chunk, in order, in one or several processes."""
    total = sum(stop - start for _, start, stop in chunks)
    with tqdm(total=total, unit="image", disable=not progress, desc=f"simulate {request.preset}") as bar:
        if processes == 1 or len(chunks) < 2:
            results = (make_chunk(request, *chunk) for chunk in chunks)
            yield from count_images(results, bar)
            return
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from count_images(pool.map(make_chunk, itertools.repeat(request), *zip(*chunks, strict=True)), bar)


def count_images(results: Iterator, bar: tqdm) -> Iterator:
    """The same results, counted on the progress bar."""
    for result in results:
        bar.update(len(result[0]))
        yield result


def simulate_to_folder(request: Request, folder: Path, processes: int, progress: bool) -> LensDataset:
    """Write the set to `folder` chunk by chunk. Until `dataset.json` is there, `unfinished/` holds the chunks' truth
    and what was asked for, so that a killed run goes on with the chunks that are missing."""
    description = json.loads(json.dumps(describe(request)))
    if (folder / "dataset.json").exists():
        dataset = LensDataset.load(folder)
        if dataset.description == description:
            return dataset
        raise DataError(f"{folder}: holds another data set already; choose another folder or remove this one")
    unfinished, size = folder / "unfinished", request.image_size
    chunks = request.chunks()
    shape = (len(request.classes) * request.images_per_class, 1, size, size)
    begin(folder, unfinished, description, shape)
    row_bytes = 4 * size * size
    waiting = [chunk for chunk in chunks if not (unfinished / f"{chunk[0]}-{chunk[1]:06d}.parquet").exists()]
    results = pieces_of(request, waiting, processes, progress)
    with open(folder / "images.npy", "r+b", buffering=0) as file:
        header = Path(file.name).stat().st_size - int(np.prod(shape)) * 4
        for (name, start, _), (images, rows) in zip(waiting, results, strict=True):
            done = request.classes.index(name) * request.images_per_class + start
            file.seek(header + done * row_bytes)
            file.write(np.ascontiguousarray(images, dtype="<f4").tobytes())
            pd.DataFrame(rows).to_parquet(unfinished / "partial")
            (unfinished / "partial").replace(unfinished / f"{name}-{start:06d}.parquet")
    parts = [pd.read_parquet(unfinished / f"{name}-{start:06d}.parquet") for name, start, _ in chunks]
    images = np.load(folder / "images.npy", mmap_mode="r")
    LensDataset(images, pd.concat(parts, ignore_index=True), request.classes, description).save(folder)
    shutil.rmtree(unfinished)
    return LensDataset.load(folder)


def begin(folder: Path, unfinished: Path, description: dict, shape: tuple[int, ...]) -> None:
    """Make room for the images, or check that the folder holds the beginning of the very same set."""
    asked = unfinished / "request.json"
    if asked.exists():
        if json.loads(asked.read_text()) != description:
            raise DataError(f"{folder}: holds an unfinished data set of other parameters; finish or remove it first")
        return
    unfinished.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise DataError(f"{folder}: needs {needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB left; free some")
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.float32, shape=shape)
    asked.with_suffix(".partial").write_text(json.dumps(description))
    asked.with_suffix(".partial").replace(asked)
