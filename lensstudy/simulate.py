"""Simulated data sets: draw a population, render it, add noise, on any number of processes.

`simulate` returns a `LensDataset` whose catalogue holds everything that went into each image. The seed belongs to the
image: image k of a class is the same, bit for bit, however many others are made, in however many processes.
`population.py` says what each preset draws, `raytracing.py` how a lens becomes an image.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lensstudy.dataset import DataError, LensDataset, canonical_class
from lensstudy.instrument import INSTRUMENTS, Instrument, noise_variance, noisy
from lensstudy.population import CLASSES, PRESETS, Preset, complete, heavier, preset_named
from lensstudy.raytracing import (
    batch_size,
    checked_size,
    detectability,
    render,
    render_batch,
    renderer,
    smooth_twins,
    substructure_map,
    view_of,
)

__all__ = ["CLASSES", "PRESETS", "draw_batch", "render", "simulate", "smooth_twins", "substructure_map"]

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
        """The preset's instrument or the one that the population names, with the population's own PSF if it has one."""
        given = self.population
        instrument = INSTRUMENTS[given.get("instrument", preset_named(self.preset).instrument.name)]
        fwhm = given.get("psf_fwhm") or instrument.psf_fwhm
        return replace(instrument, psf_fwhm=fwhm, psf_file=given.get("psf_file", ""))

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
    """The numbers of the images in each batch. The last batch is always drawn and rendered whole, so that an image
    never depends on how many others were wanted."""
    batch = batch_size(request.image_size)
    return [range(first, first + batch) for first in range(start, stop, batch)]


def make_batch(request: Request, class_name: str, numbers: range) -> tuple[np.ndarray, list[dict]]:
    """Images `(n, H, W)` of one batch and their truth."""
    preset, instrument, level = preset_named(request.preset), request.instrument, request.noise_level
    rows, generators = draw_lenses(request, class_name, numbers)
    expected = render_batch(rows, preset, instrument, request.image_size, mode=request.mode)
    images, unit = observe(expected, rows, generators, preset, instrument, level)
    bare, refit = detectability(rows, expected, preset, instrument, level)
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
    rows = [preset.draw(class_name, generator, request.population) for generator in generators]
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
    """Images `(n, H, W)` with noise, as the recipe stores them, and how many counts are one of its units."""
    pairs = zip(expected, rows, generators, strict=True)
    images = np.stack([noisy(one, instrument, row["exposure_time"], g, noise_level) for one, row, g in pairs])
    low, unit = 0, np.ones((len(images), 1, 1), dtype=np.float32)
    if preset.scaling == "range":
        low, unit = images.min(axis=(1, 2), keepdims=True), np.ptp(images, axis=(1, 2), keepdims=True)
    if preset.scaling == "peak":
        unit = expected.max(axis=(1, 2), keepdims=True)
    return ((images - low) / unit).astype(np.float32), unit[:, 0, 0]


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
    falls as its root in every recipe. Units stay those of the recipe.

    Raises `DataError` as `simulate` does, for a factor that is not positive, or where heavy substructure leaves nothing
    of a halo.
    """
    for name, factor in (("substructure_factor", substructure_factor), ("photon_factor", photon_factor)):
        if not 0 < factor < np.inf:
            raise DataError(f"{name} = {factor}; expected more than 0, and 1 for the recipe itself")
    if len(numbers) == 0 or numbers.step != 1 or numbers.start < 0:
        raise DataError(f"numbers = {numbers}; expected a range of image numbers from 0 up, such as range(0, 1000)")
    request = checked_request(preset, numbers.stop, seed, image_size, noise_level, classes, population, mode)
    recipe, instrument = preset_named(preset), request.instrument
    deep, level = instrument.exposed(photon_factor), noise_level and noise_level / np.sqrt(photon_factor)
    images = np.empty((len(request.classes), len(numbers), 1, request.image_size, request.image_size), dtype=np.float32)
    for label, class_name in enumerate(request.classes):
        for batch in whole_batches(request, numbers.start, numbers.stop):
            rows, generators = draw_lenses(request, class_name, batch, substructure_factor, photon_factor)
            expected = render_batch(rows, recipe, instrument, request.image_size, mode=mode)
            made, _ = observe(expected, rows, generators, recipe, deep, level)
            place = images[label, batch.start - numbers.start :][: len(batch), 0]
            place[:] = made[: len(place)] / (photon_factor if recipe.scaling == "counts" else 1)
    labels = torch.arange(len(request.classes)).repeat_interleave(len(numbers))
    return torch.from_numpy(images).flatten(0, 1), labels


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
    if processes < 1:
        raise DataError(f"processes = {processes}; expected 1 or more, at best as many as processors")
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
    for name, value in (("images_per_class", images_per_class), ("seed", seed), ("image_size", image_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
            raise DataError(f"{name} = {value!r}; expected a whole number")
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
    if population.get("psf_file") and population.get("psf_fwhm"):
        raise DataError("psf_file and psf_fwhm are two point spread functions; set one of them")
    instrument = INSTRUMENTS[population.get("instrument", recipe.instrument.name)]
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


def pieces_of(
    request: Request, chunks: Sequence[tuple[str, int, int]], processes: int, progress: bool
) -> Generator[tuple[np.ndarray, list[dict]]]:
    """`make_chunk` of every chunk, in order, in one or several processes."""
    total = sum(stop - start for _, start, stop in chunks)
    with tqdm(total=total, unit="image", disable=not progress, desc=f"simulate {request.preset}") as bar:
        if processes == 1 or len(chunks) < 2:
            results = (make_chunk(request, *chunk) for chunk in chunks)
            yield from count_images(results, bar)
            return
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lensstudy.simulate"])  # its imports take seconds: once, not once a process
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            results = pool.map(make_chunk, itertools.repeat(request), *zip(*chunks, strict=True))
            try:
                yield from count_images(results, bar)
            except BrokenProcessPool as error:
                raise DataError(
                    "a simulating process was killed, most often for want of memory: run the same again, with fewer "
                    f"than {processes} processes if that recurs; a folder keeps what is finished. A script that asks "
                    "for several processes does so under `if __name__ == '__main__':`"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)  # who stops listening wants no more: nothing is made for nobody


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
    try:
        with (
            contextlib.closing(pieces_of(request, waiting, processes, progress)) as results,
            open(folder / "images.npy", "r+b") as file,
        ):
            header = Path(file.name).stat().st_size - int(np.prod(shape)) * 4
            for (name, start, _), (images, rows) in zip(waiting, results, strict=True):
                done = request.classes.index(name) * request.images_per_class + start
                file.seek(header + done * row_bytes)
                file.write(np.ascontiguousarray(images, dtype="<f4").tobytes())
                file.flush()
                pd.DataFrame(rows).to_parquet(unfinished / "partial")
                (unfinished / "partial").replace(unfinished / f"{name}-{start:06d}.parquet")
        parts = [pd.read_parquet(unfinished / f"{name}-{start:06d}.parquet") for name, start, _ in chunks]
        images = np.load(folder / "images.npy", mmap_mode="r")
        LensDataset(images, pd.concat(parts, ignore_index=True), request.classes, description).save(folder)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{folder}: could not be written ({error}); the disk has {free / 1e9:.3f} GB left. Free some, if that is "
            "why, and run the same again: it goes on where it stopped"
        ) from error
    shutil.rmtree(unfinished)
    return LensDataset.load(folder)


def begin(folder: Path, unfinished: Path, description: dict, shape: tuple[int, ...]) -> None:
    """Make room for the images, or check that the folder holds the beginning of the very same set."""
    asked = unfinished / "request.json"
    if asked.exists():
        if json.loads(asked.read_text()) != description:
            raise DataError(f"{folder}: holds an unfinished data set of other parameters; finish or remove it first")
        return
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; a data set needs a folder of its own, name another")
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 4 * int(np.prod(shape)), shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise DataError(f"{folder}: needs {needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB left; free some")
    unfinished.mkdir(exist_ok=True)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.float32, shape=shape)
    asked.with_suffix(".partial").write_text(json.dumps(description))
    asked.with_suffix(".partial").replace(asked)
