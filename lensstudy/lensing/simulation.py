"""From a preset to images with noise: draw a population, render it, add noise; arrays and rows, no data set.

The seed belongs to the image: image k of a class is the same, bit for bit, however many others are made, in however
many processes. `populations` says what each preset draws, `rendering` how a lens becomes an image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lensstudy.lensing.detectability import detectability
from lensstudy.lensing.instruments import INSTRUMENTS, Instrument, noise_variance, noisy
from lensstudy.lensing.populations import CLASSES, Preset, complete, draw_lens, heavier, preset_named
from lensstudy.lensing.presets import LensingError, population_of
from lensstudy.lensing.rendering import (
    VECTOR,
    batch_size,
    checked_size,
    render_batch,
    render_with_cells,
    renderer,
    view_of,
)

__all__ = ["Request", "checked_request", "describe", "draw_batch", "make_chunk"]

CHUNK = 256  # images of one class that are drawn, rendered and written together


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
        """The preset's instrument or the one that the population names, with its own field and PSF if it has any."""
        given = self.population
        instrument = INSTRUMENTS[given.get("instrument", preset_named(self.preset).instrument.name)]
        scale = given.get("field_of_view", 0) / instrument.image_size or instrument.pixel_scale
        fwhm = given.get("psf_fwhm") or instrument.psf_fwhm
        return replace(instrument, pixel_scale=scale, psf_fwhm=fwhm, psf_file=given.get("psf_file", ""))

    def chunks(self) -> list[tuple[str, int, int]]:
        """Class, first and last image of each piece of work, in the order of the data set."""
        starts = range(0, self.images_per_class, CHUNK)
        return [(name, start, min(start + CHUNK, self.images_per_class)) for name in self.classes for start in starts]


def make_chunk(request: Request, class_name: str, start: int, stop: int) -> tuple[np.ndarray, list[dict]]:
    """Images `(n, 1, H, W)` and truth of the images from `start` to before `stop` of one class."""
    torch.set_num_threads(1)
    pieces = [make_batch(request, class_name, numbers) for numbers in whole_batches(request, start, stop)]
    images = np.concatenate([images for images, _ in pieces])[: stop - start]
    return images[:, None], [row for _, rows in pieces for row in rows][: stop - start]


def whole_batches(request: Request, start: int, stop: int) -> list[range]:
    """The numbers of the images in each batch. The last one is drawn and rendered as far as it fills a processor's
    vectors, so that an image never depends on how many others were wanted."""
    batch = batch_size(request.image_size)
    filled = VECTOR if request.mode == "eager" else batch  # code is compiled for one number of images
    return [
        range(first, first + min(batch, -(-(stop - first) // filled) * filled)) for first in range(start, stop, batch)
    ]


def make_batch(request: Request, class_name: str, numbers: range) -> tuple[np.ndarray, list[dict]]:
    """Images `(n, H, W)` of one batch and their truth."""
    preset, instrument, level = preset_named(request.preset), request.instrument, request.noise_level
    rows, generators = draw_lenses(request, class_name, numbers)
    expected, cells = render_with_cells(
        rows, preset, instrument, request.image_size, mode=request.mode, noise_level=level
    )
    images, unit = observe(expected, rows, generators, preset, instrument, level)
    bare, refit = detectability(rows, expected, cells, preset, instrument, level)
    truth = []
    for i, (number, row) in enumerate(zip(numbers, rows, strict=True)):
        background = noise_variance(np.zeros_like(expected[i]), instrument, row["exposure_time"])[0, 0]
        rms = np.sqrt(background) if level is None else level * expected[i].max()
        about = {"name": f"{class_name}-{number:06d}", "class": class_name, "detectability": bare[i]}
        truth.append(about | {"detectability_refit": refit[i], "noise_rms": float(rms / unit[i])} | row)
    return images, truth


def draw_lenses(
    request: Request, class_name: str, numbers: range, substructure_factor: float = 1.0, photon_factor: float = 1.0
) -> tuple[list[dict], list[np.random.Generator]]:
    """Complete rows of one class, and the generators that drew them, which go on to draw the noise."""
    preset, key = preset_named(request.preset), CLASSES.index(class_name)
    streams = [np.random.SeedSequence(request.seed, spawn_key=(key, number)) for number in numbers]
    generators = [np.random.default_rng(stream) for stream in streams]
    rows = [draw_lens(preset, class_name, generator, request.population) for generator in generators]
    rows = [complete(heavier(row, substructure_factor)) for row in rows]
    return [row | {"exposure_time": row["exposure_time"] * photon_factor} for row in rows], generators


def observe(
    expected: np.ndarray,
    rows: Sequence[dict],
    generators: Sequence[np.random.Generator],
    preset: Preset,
    instrument: Instrument,
    noise_level: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Images `(n, H, W)` with noise, as the preset stores them, and how many counts are one of its units."""
    pairs = zip(expected, rows, generators, strict=True)
    images = np.stack([noisy(one, instrument, row["exposure_time"], g, noise_level) for one, row, g in pairs])
    low, unit = 0, np.ones((len(images), 1, 1), dtype=np.float32)
    if preset.scaling in ("range", "jpeg"):
        low, unit = images.min(axis=(1, 2), keepdims=True), np.ptp(images, axis=(1, 2), keepdims=True)
    if preset.scaling == "jpeg":
        unit = unit / 255
        return np.stack([as_jpeg(image) for image in (images - low) / unit]), unit[:, 0, 0]
    if preset.scaling == "peak":
        unit = expected.max(axis=(1, 2), keepdims=True)
    return ((images - low) / unit).astype(np.float32), unit[:, 0, 0]


def as_jpeg(image: np.ndarray) -> np.ndarray:
    """An image `(H, W)` of values from 0 to 255 as it comes back from an 8-bit JPEG file of pillow's usual quality."""
    file = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(file, "JPEG")
    return np.asarray(Image.open(file), dtype=np.float32)


def draw_batch(
    preset: str,
    numbers: range,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    noise_level: float | None = None,
    substructure_factor: float = 1.0,
    photon_factor: float = 1.0,
    mode: str = "eager",
    **population,
) -> tuple[Tensor, Tensor]:
    """Images of `numbers` of every class, for training on lenses that no one has seen: `(B, 1, H, W)` float32, and
    labels `(B,)`, places in `classes`. Class follows class, and B is `len(classes) * len(numbers)`.

    They are the very images that `simulate` makes of the same `seed` and arguments, without their truth, which takes
    most of its time. Two factors make them easier to learn from. `substructure_factor` multiplies the mass of every
    subhalo and vortex (`population.heavier`); `photon_factor` is how many exposures are averaged, so that the noise
    falls as its root in every preset. Units stay those of the preset.

    Raises `LensingError` as `simulate` does, for a factor that is not positive, or where heavy substructure leaves
    nothing of a halo.
    """
    for name, factor in (("substructure_factor", substructure_factor), ("photon_factor", photon_factor)):
        if not 0 < factor < np.inf:
            raise LensingError(f"{name} = {factor}; expected more than 0, and 1 for the preset itself")
    if len(numbers) == 0 or numbers.step != 1 or numbers.start < 0:
        raise LensingError(f"numbers = {numbers}; expected a range of image numbers from 0 up, such as range(0, 1000)")
    request = checked_request(preset, numbers.stop, seed, image_size, noise_level, classes, population, mode)
    chosen, instrument = preset_named(preset), request.instrument
    deep, level = instrument.exposed(photon_factor), noise_level and noise_level / np.sqrt(photon_factor)
    images = np.empty((len(request.classes), len(numbers), 1, request.image_size, request.image_size), dtype=np.float32)
    for label, class_name in enumerate(request.classes):
        for batch in whole_batches(request, numbers.start, numbers.stop):
            rows, generators = draw_lenses(request, class_name, batch, substructure_factor, photon_factor)
            expected = render_batch(rows, chosen, instrument, request.image_size, mode=mode, noise_level=noise_level)
            made, _ = observe(expected, rows, generators, chosen, deep, level)
            place = images[label, batch.start - numbers.start :][: len(batch), 0]
            place[:] = made[: len(place)] / (photon_factor if chosen.scaling == "counts" else 1)
    labels = torch.arange(len(request.classes)).repeat_interleave(len(numbers))
    return torch.from_numpy(images).flatten(0, 1), labels


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
    chosen = preset_named(preset)
    for name, value in (("images_per_class", images_per_class), ("seed", seed), ("image_size", image_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise LensingError(f"{name} = {value!r}; expected an integer")
    if images_per_class < 1:
        raise LensingError(f"images_per_class = {images_per_class}; expected 1 or more")
    if seed < 0:
        raise LensingError(f"seed = {seed}; expected 0 or more")
    if noise_level is not None and not 0 <= noise_level < np.inf:
        raise LensingError(
            f"noise_level = {noise_level}; expected 0 or more, in units of the image's peak (0.01 is 1 %)"
        )
    renderer(mode)
    names = tuple(classes) if classes else CLASSES
    unknown = [name for name in names if name not in CLASSES]
    if unknown or len(set(names)) < len(names):
        raise LensingError(f"classes {names}: a preset simulates {', '.join(CLASSES)}, each once")
    population = population_of(preset, population)
    if population.get("psf_file") and population.get("psf_fwhm"):
        raise LensingError("psf_file and psf_fwhm are two point spread functions; set one of them")
    if population.get("psf_file") and population.get("field_of_view"):
        raise LensingError("psf_file is in the instrument's own pixels; leave field_of_view as it is")
    instrument = INSTRUMENTS[population.get("instrument", chosen.instrument.name)]
    size = checked_size(instrument.image_size if image_size is None else image_size)
    level = None if noise_level is None else float(noise_level)  # plain numbers: `dataset.json` holds them
    request = Request(preset, names, int(images_per_class), int(seed), int(size), level, population, mode)
    view_of(request.instrument, request.image_size, torch.float32)  # a point spread function that is none ends here
    return request


def describe(request: Request) -> dict:
    """What `dataset.json` says of where the images come from."""
    instrument = request.instrument
    about = {"source": "simulated", "pixel_scale": instrument.field_of_view / request.image_size}
    return about | {"instrument": asdict(instrument)} | asdict(request)
