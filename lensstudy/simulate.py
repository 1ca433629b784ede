"""Simulated lenses with their truth: DeepLense's published recipes and a physical preset without shortcuts.

`simulate` draws a population, renders it in batches and returns a `LensDataset` whose catalogue holds everything that
went into each image. The seed belongs to the image: image k of a class looks the same, bit for bit, however many others
are made, in however many processes.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from torch import Tensor
from tqdm.auto import tqdm

from lensstudy.dataset import DataError, LensDataset, canonical_class
from lensstudy.instrument import INSTRUMENTS, Instrument, blur, blur_matrix, noisy
from lensstudy.lensing import sersic, sersic_total, shear, sie, sum_of_point_masses

__all__ = ["CLASSES", "PRESETS", "Preset", "render", "simulate"]

CLASSES = ("no_sub", "cdm", "axion")
PRESETS = ("model_2", "model_3")
CHUNK = 256  # images of one class that are drawn, rendered and written together
RAYS_PER_BATCH = 32 * 64 * 64  # what stays in a processor's cache
MACRO = ("einstein_radius", "lens_e1", "lens_e2", "lens_x", "lens_y", "shear_1", "shear_2")
SOURCE = ("amplitude", "radius", "index", "e1", "e2", "x", "y")
SUBHALOS = ("subhalo_x", "subhalo_y", "subhalo_mass")


@dataclass(frozen=True)
class Preset:
    """A recipe: `draw(class_name, generator, population)` returns the truth of one image as a row of the catalogue."""

    name: str
    instrument: Instrument
    draw: Callable[[str, np.random.Generator, dict], dict]
    area_per_mass: float  # square of the Einstein radius of one solar mass, arcsec^2
    vortex_points: int = 0  # a vortex is a chain of so many equal point masses; 0: a continuous line
    scaling: str = "counts"  # or "peak": divided by the maximum, or "range": minimum to 0 and maximum to 1
    population: dict = field(default_factory=dict)


def deeplense_area() -> float:
    """Squared Einstein radius of one solar mass in the published recipes, arcsec^2.

    Two quirks: the distances are luminosity distances with `D_LS = D_S - D_L` (angular-diameter distances would make
    1e12 solar masses 1.6645" instead of 1.2815"), and a radian counts 206265".
    """
    cosmology = FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.05)
    lens, source = cosmology.luminosity_distance(0.5), cosmology.luminosity_distance(1.0)
    area = 4 * constants.G * constants.M_sun / constants.c**2 * (source - lens) / (lens * source)
    return area.to_value(units.dimensionless_unscaled) * 206265.0**2


def source_factor() -> float:
    """By how much deflections shrink in models 2 and 3, quoted for a source at redshift 2.5: 0.6343."""
    cosmology = FlatLambdaCDM(H0=69.7, Om0=0.2814, Ob0=0.0464)

    def efficiency(source: float) -> float:
        lens_to_source = cosmology.angular_diameter_distance(0.5, source)
        return float(lens_to_source / cosmology.angular_diameter_distance(source))

    return efficiency(1.0) / efficiency(2.5)


def draw_deeplense(
    class_name: str,
    generator: np.random.Generator,
    population: dict,
    *,
    area_per_mass: float,
    factor: float,
    amplitude: float,
) -> dict:
    """Models 1 to 3: the same lens every time (a halo of 1e12 solar masses) and the same source at another place.

    `factor` is what multi-plane deflections shrink by. The mass function of the 25 subhalos runs with dN/dm
    proportional to m^-0.9, although the published text says -1.9, and there are always 25; the vortex has 100 pieces.
    """
    source_x, source_y = generator.uniform(-0.35, 0.35, 2)
    row = {
        "einstein_radius": np.sqrt(1e12 * area_per_mass) * factor,
        "lens_e1": 0.1,
        "shear_1": 0.05 * factor,
        "source_amplitude": amplitude,
        "source_radius": 0.25,
        "source_index": 1.0,
        "source_e1": -0.1,
        "source_e2": 0.1,
        "source_x": source_x,
        "source_y": source_y,
    }
    if class_name == "cdm":
        radius, angle = generator.uniform(0.25, 2.0, 25), generator.uniform(0, 2 * np.pi, 25)
        mass = power_law(generator, 25, 1e6, 1e10, -0.9)
        row |= {"subhalo_x": radius * np.sin(angle), "subhalo_y": radius * np.cos(angle), "subhalo_mass": mass}
    if class_name == "axion":
        axion_mass = 10 ** generator.uniform(-24, -22)
        row |= {"axion_mass": axion_mass, "vortex_mass": 3e10, "vortex_half_length": 0.06 / (2 * axion_mass) * 1e-22}
        row |= {"vortex_angle": generator.uniform(0, 2 * np.pi)}
    return row


def power_law(generator: np.random.Generator, count: int, lowest: float, highest: float, slope: float) -> np.ndarray:
    """`count` masses between `lowest` and `highest` with dN/dm proportional to m^slope."""
    low, high = lowest ** (slope + 1), highest ** (slope + 1)
    return (low + (high - low) * generator.uniform(size=count)) ** (1 / (slope + 1))


@functools.cache
def preset_named(name: str) -> Preset:
    """The preset of that name; `DataError` with the known names otherwise."""
    if name in ("model_2", "model_3"):
        instrument, factor, area = INSTRUMENTS[f"deeplense-{name.replace('_', '-')}"], source_factor(), deeplense_area()
        # The recipe stores model + model where model + noise was meant: half a magnitude 20 source is half too bright.
        amplitude = 2 * 10 ** (-0.4 * (20 - instrument.zero_point)) / sersic_total(0.25, 1.0)
        draw = functools.partial(draw_deeplense, area_per_mass=area, factor=factor, amplitude=amplitude)
        return Preset(name, instrument, draw, area * factor, 100, "peak" if name == "model_3" else "counts")
    raise DataError(f"preset '{name}' is unknown; known presets: {', '.join(PRESETS)}")


def complete(row: dict) -> dict:
    """A row with every column of the catalogue: what the recipe did not set is absent (zero, or an empty list)."""
    full = dict.fromkeys((*MACRO, *(f"source_{name}" for name in SOURCE)), 0.0)
    full |= {"exposure_time": 1.0, "axion_mass": 0.0}
    full |= dict.fromkeys((f"vortex_{name}" for name in ("mass", "x", "y", "angle", "half_length")), 0.0)
    full |= {name: np.zeros(0) for name in SUBHALOS} | row
    full.setdefault("halo_einstein_radius", full["einstein_radius"])
    full["n_subhalos"] = len(full["subhalo_mass"])
    full["substructure_mass"] = float(np.sum(full["subhalo_mass"])) + full["vortex_mass"]
    return full


def batch_size(image_size: int) -> int:
    """Images rendered together: 32 of 64x64, 8 of 150x150. Fixed, so that no rounding depends on how many are made."""
    return max(8, RAYS_PER_BATCH // image_size**2)


def tensors(rows: Sequence[dict], preset: Preset, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The rows of a catalogue as tensors: scalars of shape `(N, 1, 1)`, point masses `(N, n)` padded with zero mass."""
    scalars = [name for name, value in complete({}).items() if np.ndim(value) == 0]
    values = {name: torch.tensor([row[name] for row in rows], dtype=dtype)[:, None, None] for name in scalars}
    points = [point_masses(row, preset) for row in rows]
    most = max(len(x) for x, _, _ in points)
    padded = np.zeros((3, len(rows), most))
    for i, point in enumerate(points):
        padded[:, i, : len(point[0])] = point
    values["point_x"], values["point_y"] = torch.tensor(padded[:2], dtype=dtype)
    values["point_radius"] = torch.tensor(np.sqrt(padded[2] * preset.area_per_mass), dtype=dtype)
    return values


def point_masses(row: dict, preset: Preset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and masses of an image's subhalos, or of the chain that stands for its vortex."""
    if row["vortex_mass"] == 0 or preset.vortex_points == 0:
        return tuple(np.asarray(row[name], dtype=float) for name in SUBHALOS)
    along = np.linspace(-1, 1, preset.vortex_points) * row["vortex_half_length"]
    x, y = along * np.cos(row["vortex_angle"]), along * np.sin(row["vortex_angle"])
    mass = np.full(preset.vortex_points, row["vortex_mass"] / preset.vortex_points)
    return row["vortex_x"] + x, row["vortex_y"] + y, mass


def expected_images(p: dict[str, Tensor], x: Tensor, y: Tensor, matrix: Tensor, substructure: bool) -> Tensor:
    """Noise-free images `(N, H, W)` in counts: rays shot back from the pixel centres `x` `(1, W)` and `y` `(H, 1)`.

    Without `substructure`, the smooth twin: a lens of the same mass inside the Einstein radius, and nothing else.
    """
    radius = p["halo_einstein_radius"] if substructure else p["einstein_radius"]
    alpha_x, alpha_y = sie(x, y, radius, p["lens_e1"], p["lens_e2"], p["lens_x"], p["lens_y"])
    shear_x, shear_y = shear(x, y, p["shear_1"], p["shear_2"])
    beta_x, beta_y = x - alpha_x - shear_x, y - alpha_y - shear_y
    if substructure and p["point_x"].shape[1]:
        alpha_x, alpha_y = sum_of_point_masses(x, y, p["point_radius"], p["point_x"], p["point_y"])
        beta_x, beta_y = beta_x - alpha_x, beta_y - alpha_y
    light = sersic(beta_x, beta_y, *(p[f"source_{name}"] for name in SOURCE))
    pixel_area = (x[0, 1] - x[0, 0]) ** 2
    return blur(light, matrix) * (p["exposure_time"] * pixel_area)


def pixel_grid(image_size: int, pixel_scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pixel centres in arcseconds about the image's centre: x `(1, W)` along columns, y `(H, 1)` along rows."""
    centers = (torch.arange(image_size, dtype=torch.float64) - (image_size - 1) / 2) * pixel_scale
    return centers[None, :].to(dtype), centers[:, None].to(dtype)


def render(
    rows: pd.DataFrame | Sequence[dict] | dict,
    preset: str,
    *,
    image_size: int | None = None,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Noise-free images `(N, 1, H, W)` of the lenses that `rows` describe.

    `rows` is a catalogue of `simulate`, or one or several dicts with some of its columns; a missing column means that
    the lens has no such thing. `smooth` leaves the substructure out and keeps the mass inside the Einstein radius.
    """
    recipe = preset_named(preset)
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [rows] if isinstance(rows, dict) else rows
    rows = [complete(row) for row in rows]
    size = image_size or recipe.instrument.image_size
    x, y = pixel_grid(size, recipe.instrument.field_of_view / size, dtype)
    matrix = torch.tensor(blur_matrix(recipe.instrument, size), dtype=dtype)
    images = []
    for start in range(0, len(rows), batch_size(size)):
        batch = tensors(rows[start : start + batch_size(size)], recipe, dtype)
        images.append(expected_images(batch, x, y, matrix, not smooth).numpy())
    images = np.concatenate(images)
    if recipe.scaling == "peak":
        images /= images.max(axis=(-2, -1), keepdims=True)
    return images[:, None]


@dataclass(frozen=True)
class Request:
    """What `simulate` was asked for, in a form that JSON can hold and another process can repeat."""

    preset: str
    classes: tuple[str, ...]
    images_per_class: int
    seed: int
    image_size: int
    noise_level: float | None
    population: dict

    def chunks(self) -> list[tuple[str, int, int]]:
        """Class, first and last image of each piece of work, in the order of the data set."""
        starts = range(0, self.images_per_class, CHUNK)
        return [(name, start, min(start + CHUNK, self.images_per_class)) for name in self.classes for start in starts]


def make_chunk(request: Request, class_name: str, start: int, stop: int) -> tuple[np.ndarray, list[dict]]:
    """Images `(n, 1, H, W)` and truth of the images `start` to `stop` of one class.

    The last batch is always drawn and rendered whole, so that an image never depends on how many others were wanted.
    """
    torch.set_num_threads(1)
    preset, batch = preset_named(request.preset), batch_size(request.image_size)
    images, rows = [], []
    for first in range(start, stop, batch):
        numbers = range(first, first + batch)
        generators = [image_generator(request.seed, class_name, number) for number in numbers]
        drawn = [complete(preset.draw(class_name, generator, request.population)) for generator in generators]
        expected = render(drawn, request.preset, image_size=request.image_size)[:, 0]
        for number, generator, row, image in zip(numbers, generators, drawn, expected, strict=True):
            if number < stop:
                image = noisy(image, preset.instrument, generator, request.noise_level)
                level = 0.0 if request.noise_level is None else request.noise_level
                images.append(image[None])
                rows.append({"name": f"{class_name}-{number:06d}", "class": class_name} | row)
                rows[-1]["noise_rms"] = level * float(image.max())
    return np.stack(images).astype(np.float32), rows


def image_generator(seed: int, class_name: str, number: int) -> np.random.Generator:
    """The random numbers of one image: they belong to its class and number and to nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(CLASSES.index(class_name), number)))


def simulate(
    preset: str,
    images_per_class: int,
    *,
    seed: int,
    image_size: int | None = None,
    noise_level: float | None = None,
    classes: Sequence[str] | None = None,
    folder: Path | None = None,
    processes: int = 1,
    progress: bool = False,
    **population,
) -> LensDataset:
    """Draw and render `images_per_class` lenses of every class of `preset`.

    With `image_size` the field of view stays and the pixels change. `noise_level` puts Gaussian noise of so many times
    each image's own peak in place of the recipe's noise (models 2 and 3 are noise-free as published). `population`
    takes the preset's own parameters. With `folder` the set is written there piece by piece and returned as a memory
    map; a run that was killed goes on where it stopped. The result is the same for any number of `processes`.
    """
    recipe = preset_named(preset)
    names = tuple(canonical_class(name) for name in classes) if classes else CLASSES
    size = image_size or recipe.instrument.image_size
    request = Request(preset, names, images_per_class, seed, size, noise_level, recipe.population | population)
    instrument = recipe.instrument
    description = {"source": "simulated", "pixel_scale": instrument.field_of_view / size, "instrument": instrument.name}
    description |= vars(request)
    work = [(request, *chunk) for chunk in request.chunks()]
    images = np.zeros((len(names) * images_per_class, 1, size, size), dtype=np.float32)
    rows, done = [], 0
    with tqdm(total=len(images), unit="image", disable=not progress, desc=f"simulate {preset}") as bar:
        for piece, truth in results(work, processes):
            images[done : done + len(piece)] = piece
            rows += truth
            done += len(piece)
            bar.update(len(piece))
    dataset = LensDataset(images, pd.DataFrame(rows), names, description)
    if folder:
        dataset.save(folder)
    return dataset


def results(work: list[tuple], processes: int):
    """`make_chunk` of every piece of work, in order, in one or several processes of one thread each."""
    if processes == 1 or len(work) == 1:
        yield from (make_chunk(*piece) for piece in work)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make_chunk, *zip(*work, strict=True))
