"""Simulated data sets, made by `lensstudy.lensing` on any number of processes and written piece by piece.

`simulate` returns a `LensDataset` whose catalogue holds everything that went into each image; `smooth_counterpart`
renders the lenses of such a set without their substructure.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lensstudy.data.dataset import DataError, LensDataset, canonical_class
from lensstudy.files import whole_file
from lensstudy.lensing.instruments import Instrument
from lensstudy.lensing.rendering import render
from lensstudy.lensing.simulation import Request, checked_request, describe, make_chunk

__all__ = ["camera_of", "simulate", "smooth_counterpart"]


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
    """Simulate `images_per_class` lenses of every class of a preset.

    The images are the same for any number of processes. The catalogue holds the truth of every image, `noise_rms` of
    the background in the image's own units, and `detectability` and `detectability_refit` of the substructure in sigma.

    Args:
        preset: `model_1`, `model_2`, `model_3`, `common_test`, `equivariant_test` or `realistic`.
        images_per_class: images of each class.
        seed: seed of the images; image k of a class is the same however many others are made.
        image_size: pixels a side; the field of view stays.
        noise_level: Gaussian noise in units of each image's own peak, in place of the preset's noise (models 2 and 3
            are noise-free as published).
        classes: some of `no_sub`, `cdm`, `axion`, in the order of the labels.
        folder: write the set there piece by piece and return a memory map; a run that was killed goes on.
        processes: processes of one thread each.
        progress: show a progress bar.
        mode: `eager`, or `compiled` (two to three times as fast once it is compiled, with other rounding).
        **population: parameters of the preset's population.

    Returns:
        A `LensDataset` with images `(N, 1, H, W)`, float32.

    Raises:
        LensingError: for an unknown preset, class or parameter, or a value out of range.
        DataError: for a folder that holds something else.

    Example:
        >>> lenses = simulate("model_3", 2, seed=1, image_size=32)
        >>> lenses.images.shape, lenses.classes
        ((6, 1, 32, 32), ('no_sub', 'cdm', 'axion'))
    """
    if processes < 1:
        raise DataError(f"processes = {processes}; expected 1 or more, at best as many as processors")
    names = tuple(canonical_class(name) for name in classes) if classes else None
    request = checked_request(preset, images_per_class, seed, image_size, noise_level, names, population, mode)
    size = request.image_size
    _check_room(len(request.classes) * images_per_class * size**2 * 4, Path(folder) if folder else None)
    if folder is not None:
        return simulate_to_folder(request, Path(folder), processes, progress)
    images = np.empty((len(request.classes) * images_per_class, 1, size, size), dtype=np.float32)
    rows = []
    for piece, truth in pieces_of(request, request.chunks(), processes, progress):
        images[len(rows) : len(rows) + len(piece)] = piece
        rows += truth
    return LensDataset(images, pd.DataFrame(rows), request.classes, describe(request))


def _check_room(needed: int, folder: Path | None) -> None:
    """Raise `DataError` where `needed` bytes of images do not fit the disk of `folder`, or without one, the memory."""
    if folder is None:
        room, where = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "in memory"
    else:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        begun = folder / "images.npy"  # what a run that was interrupted has written is not needed again
        room, where = shutil.disk_usage(there).free, f"on the disk of {folder}"
        room += begun.stat().st_blocks * 512 if begun.exists() else 0
    if needed > room:
        raise DataError(
            f"the images need {needed / 1e9:,.2f} GB {where}, which has {room / 1e9:,.2f} GB left; simulate fewer"
        )


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
        context.set_forkserver_preload(
            ["lensstudy.data.simulation"]
        )  # its imports take seconds: once, not once a process
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            results = pool.map(make_chunk, itertools.repeat(request), *zip(*chunks, strict=True))
            try:
                yield from count_images(results, bar)
            except BrokenProcessPool as error:
                raise DataError(
                    "a simulating process was killed, most often out of memory: run the same again, with fewer "
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
                with whole_file(unfinished / f"{name}-{start:06d}.parquet") as partial:
                    pd.DataFrame(rows).to_parquet(partial)
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
    unfinished.mkdir(exist_ok=True)
    np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.float32, shape=shape)
    with whole_file(asked) as partial:
        partial.write_text(json.dumps(description))


def camera_of(dataset: LensDataset) -> dict:
    """What an observer knows of a set that `simulate` made: `noise_rms`, `preset`, `instrument`, `exposure_time`,
    `noise_level` and `lens_light`, the arguments of `lensing.fitting.smooth_fit` beside the images."""
    about, table = dataset.description, dataset.catalogue
    return {
        "noise_rms": table["noise_rms"].to_numpy(),
        "preset": about["preset"],
        "instrument": Instrument(**about["instrument"]),
        "exposure_time": table["exposure_time"].to_numpy(),
        "noise_level": about["noise_level"],
        "lens_light": bool(about["population"].get("lens_light")) or about["preset"] == "equivariant_test",
    }


def smooth_counterpart(dataset: LensDataset) -> tuple[np.ndarray, np.ndarray]:
    """Render the lenses of a simulated set again, with and without their substructure.

    Their difference is the residual that a perfect smooth model would leave. Take a `subset` of a large set first.

    Args:
        dataset: a set that `simulate` made.

    Returns:
        Noise-free images `(N, 1, H, W)` with substructure, and the same without, in the units of the preset.

    Raises:
        DataError: for a set that was read, or a mixture of presets.

    Example:
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32, classes=["cdm"])
        >>> perturbed, smooth = smooth_counterpart(lenses)
        >>> bool(abs(perturbed - smooth).max() > 0)
        True
    """
    about = dataset.description
    if about.get("source") == "mixed":
        raise DataError("a mixture has no smooth counterpart of its own: simulate one of its presets and take that")
    if about.get("source") != "simulated":
        raise DataError(
            "only a simulated data set has a smooth counterpart: nobody knows what a measured lens is made of"
        )
    view: dict = {"preset": about["preset"], "image_size": dataset.image_size}
    view |= {"instrument": Instrument(**about["instrument"]), "noise_level": about["noise_level"]}
    return render(dataset.catalogue, **view), render(dataset.catalogue, **view, smooth=True)
