"""The one reader: every file at a path, in order, as images with their labels or with the reason why there are none.

`read`, `inspect`, `train` and `predict` see the same files in the same way because all of them go through `scan`. What
goes in is counted: every file that is not hidden is read, rejected (an image that cannot be used) or skipped (no image:
a noise map, labels, an archive, a text), and the three add up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from lensstudy.data import arrays
from lensstudy.data.companions import about_folder, companions, information, read_information
from lensstudy.data.containers import ARCHIVES, Listing, list_path, parents
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.formats import READABLE, TENSORS, Stored, decode, stacked
from lensstudy.data.labels import UNLABELLED, Label, is_class_folder, lenses, of_place, of_table
from lensstudy.data.scale import hdf5_scale

__all__ = ["Found", "Scan", "beside_images", "load_saved", "scan"]

PIECE = 256  # images taken from a stack at a time


@dataclass
class Found:
    """One file or array: its images `(N, C, H, W)`, or why there are none. `labels` has one for each image."""

    name: str
    state: str = "read"
    images: np.ndarray | Stored | None = None
    first: int = 0
    labels: Sequence[str] = ()
    part: str | None = None
    lens: str | None = None
    reason: str = ""
    hostile: bool = False  # a file that tries to do something; no set with such a file is read
    about: dict = field(default_factory=dict)


@dataclass
class Scan:
    """What lies at a path, before its pixels are read: the files, what is known of each, and a way through them.

    `skipped` are the files that are no images, with the reason; iterating gives the others, decoded.
    """

    where: str
    kind: str
    images: list[str]
    skipped: dict[str, str]
    find: Callable[[], Iterator[Found]]
    labels: dict[str, Label] = field(default_factory=dict)
    unused_labels: int = 0

    def __len__(self) -> int:
        return len(self.skipped.keys() | set(self.images))

    def __iter__(self) -> Iterator[Found]:
        return self.find()

    def texts(self) -> set[str]:
        """The labels that the files are known to have before they are read."""
        return {label.text for label in self.labels.values() if label.text != UNLABELLED}


def scan(
    path: Path,
    *,
    labelled: bool = True,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
    label_columns: tuple[str, str] | None = None,
    extension: str | int | None = None,
    processes: int = 1,
    progress: bool = False,
) -> Scan:
    """List what lies at `path` and label it; the pixels are read when the result is iterated over.

    Args:
        path: file, folder, archive or data set that `LensDataset.save` wrote.
        labelled: False for images of unknown class, whatever they are called.
        classes: names of the classes, for labels that are numbers and for names that are not known.
        labels: a CSV file with labels, or the name of an HDF5 attribute.
        label_columns: the columns of that file with names and labels.
        extension: FITS extension, HDF5 dataset or npz key of the image.
        processes: processes that decode.
        progress: show a progress bar.

    Raises:
        DataError: for a path without images, and where the class of an image is not clear.
    """
    where = path.resolve().name
    if path.is_dir() and (path / "dataset.json").exists():
        return _of_saved(path, where)
    listing = list_path(path)
    if not listing.names:
        raise DataError(f"{where}: no images ({len(listing.ignored)} other files). Known: {', '.join(READABLE)}.")
    if listing.kind in ("npz", "hdf5") or _has_labels_beside(listing, labels):
        return _of_arrays(path, listing, where, labelled, classes, labels, extension, progress)
    skipped = {name: _reason(name) for name in listing.ignored} | beside_images(listing.names)
    names = [name for name in listing.names if name not in skipped]
    known: dict[str, Label] = {}
    unclear: DataError | None = None
    unused = 0
    if labels is not None:
        known, unused = of_table(labels, names, label_columns)
    elif labelled and names:
        try:
            known = of_place(names, where, classes)
        except DataError as error:  # unless every file says its class itself
            if not all(name.lower().endswith((".npy", *TENSORS)) for name in names):
                raise
            unclear = error
        check_folders(listing, where, classes)
    scales = _scales(path, listing)
    groups = {name: label.lens for name, label in known.items()} if known else lenses(names)

    def find() -> Iterator[Found]:
        for found in _decoded(listing, names, extension, processes, progress):
            if found.images is not None:
                found.lens = groups.get(found.name)
                scale = found.about.get("pixel_scale") or _nearest(scales, _folder(found.name))
                if isinstance(scale, DataError):
                    yield Found(found.name, "rejected", reason=str(scale))
                    continue
                found.about["pixel_scale"] = scale
                own, count = found.about.pop("label", None), len(found.images)
                if not labelled:
                    found.labels = [UNLABELLED] * count
                elif found.name in known:
                    found.labels = [known[found.name].text] * count
                    found.part = known[found.name].part
                elif unclear is None:
                    found = Found(found.name, "rejected", reason=f"{Path(str(labels)).name} has no label for it")
                elif own is not None:
                    found.labels = own if isinstance(own, list) else [own] * count
                else:
                    raise unclear
            yield found

    return Scan(where, listing.kind, names, skipped, find, known, unused)


def check_folders(listing: Listing, where: str, classes: Sequence[str] | None = None) -> None:
    """A class folder without an image is a mistake, and silence would turn three classes into two."""
    filled = parents(listing.names)
    for folder in sorted(listing.folders - filled):
        if is_class_folder(folder, classes):
            raise DataError(f"{where}: the class folder '{folder}' is empty. Fill it, or remove it to do without it.")


# ---- what is no image -----------------------------------------------------------------------------------------------


def _reason(name: str) -> str:
    if name.lower().endswith(ARCHIVES):
        return "an archive among other files is not opened; unpack it or give its path"
    suffix = PurePosixPath(name).suffix
    return f"'{suffix}' is no format of images that is known" if suffix else "no image by its name"


def beside_images(names: Collection[str]) -> dict[str, str]:
    """The files that belong to an image beside them and are none themselves, with the reason."""
    return {name: f"the {role} of an image beside it, and no image itself" for name, role in companions(names).items()}


def _scales(path: Path, listing: Listing) -> dict[str, float | DataError | None]:
    """Arcseconds of one pixel by folder, where `info.json` stands beside the images or `NAME-info.json` beside their
    folder, or why that cannot be read."""
    if listing.kind not in ("folder", "file"):
        return {}
    if listing.kind == "file":
        files = {"": path.with_name("info.json")}
    else:
        files = {"": about_folder(path)}
        for name in listing.ignored:
            if PurePosixPath(name).name == "info.json":
                files[_folder(name)] = path / name
    found: dict[str, float | DataError | None] = {}
    for folder, file in files.items():
        try:
            found[folder] = read_information(file).get("pixel_scale")
        except DataError as error:
            found[folder] = error
    return found


def _nearest(scales: Mapping[str, float | DataError | None], folder: str) -> float | DataError | None:
    """What `info.json` says in this folder, or in the nearest one above it that says something."""
    while scales.get(folder) is None and folder:
        folder = _folder(folder)
    return scales.get(folder)


# ---- decoding -------------------------------------------------------------------------------------------------------


def _has_labels_beside(listing: Listing, labels) -> bool:
    """Whether a folder of few `.npy` files holds stacks with their labels, such as `x_train.npy` and `y_train.npy`."""
    npy = listing.kind == "folder" and labels is None and len(listing.names) <= 64
    return npy and all(name.lower().endswith(".npy") for name in listing.names) and arrays.has_labels(listing)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _attempt(job: tuple) -> Found:
    """Decode one file; a damaged one comes back as a reason instead of pixels."""
    name, content, extension = job
    try:
        if isinstance(content, Exception):
            raise content
        images, about = decode(name, content, extension)
        return Found(name, images=images, about=about)
    except Exception as error:  # whatever a damaged file makes a decoder raise
        if arrays.is_labels(name, content):
            return Found(name, "skipped", reason="labels, and no image")
        reason = f"{error}" or type(error).__name__
        return Found(name, "rejected", reason=reason, hostile=isinstance(error, DataError))


def _decoded(listing: Listing, names: list[str], extension, processes: int, progress: bool) -> Iterator[Found]:
    """The files `names`, decoded one after another, in the same order whatever `processes` is."""
    jobs = ((name, content, extension) for name, content in _to_the_end(listing, names))
    done = map(_attempt, jobs) if processes == 1 else _in_processes(jobs, processes)
    with tqdm(total=len(names), desc="reading", unit="file", disable=None if progress else True, delay=1) as bar:
        for found in done:
            bar.update()
            yield from _in_pieces(found)


def _in_pieces(found: Found) -> Iterator[Found]:
    """A large stack a piece at a time, up to the first that cannot be read because the file was cut meanwhile."""
    if found.images is None or (isinstance(found.images, np.ndarray) and len(found.images) <= PIECE):
        yield found
        return
    for start in range(0, len(found.images), PIECE):
        try:
            piece = np.asarray(found.images[start : start + PIECE])
        except DataError as error:
            yield Found(found.name, "rejected", first=start, reason=str(error))
            return
        of_each = {key: value[start : start + PIECE] for key, value in found.about.items() if isinstance(value, list)}
        about = found.about | of_each
        yield Found(found.name, images=piece, first=start, about=about)


def _in_processes(jobs: Iterator, processes: int) -> Iterator[Found]:
    with ProcessPoolExecutor(processes) as pool:
        while window := list(itertools.islice(jobs, 1024)):  # a bounded look-ahead, so that memory stays bounded
            yield from pool.map(_attempt, window, chunksize=64)


def _to_the_end(listing: Listing, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Names and contents; where an archive cannot be read on, the reason in place of each that is left."""
    left = dict.fromkeys(names)
    try:
        for name, content in listing.stream(left.copy()):
            left.pop(name, None)
            yield name, content
    except Exception as error:  # whatever a damaged archive raises
        yield from ((name, ValueError(f"the archive cannot be read on from here: {error}")) for name in left)


# ---- sets in one file, and sets of this package ---------------------------------------------------------------------


def _of_arrays(path, listing: Listing, where: str, labelled: bool, classes, labels, extension, progress: bool) -> Scan:
    """An npz or HDF5 file: images with labels beside them, an array or a group for each class, or images alone."""
    skipped = {name: _array_reason(name) for name in listing.ignored} | beside_images(listing.names)
    names = [name for name in listing.names if name not in skipped]
    paired = arrays.pairs(listing, extension, where) if labels is None or not labelled else []
    if paired:
        skipped |= {pair.labels: "labels, and no image" for pair in paired}
        if labelled:
            used = {pair.images for pair in paired}
            reason = "an array without labels, beside others that have some"
            skipped |= {name: reason for name in names if name not in used | skipped.keys()}
        names = [name for name in names if name not in skipped]
    bands = arrays.bands_of_groups(names) if listing.kind == "hdf5" and extension is None and not paired else {}
    members = {name for some in bands.values() for name in some}
    beside = [name for name in names if name.rpartition("/")[0] in bands and name not in members]
    skipped |= {name: "a map beside the bands of a lens, and no image itself" for name in beside}
    names = [name for name in names if name not in skipped]
    units = [*bands, *(name for name in names if name not in members)]
    if extension is not None and not paired:
        chosen = [name for name in units if extension in (name, PurePosixPath(name).stem)]
        if not chosen:
            raise DataError(f"{where}: no array '{extension}'; there are {', '.join(units[:20])}")
        skipped |= {name: "not the array that was chosen" for name in units if name not in chosen}
        units = chosen
    known = {name: Label(UNLABELLED) for name in units}
    unused = 0
    if labelled and not paired:
        known, unused = _array_labels(path, listing, units, where, classes, labels)
    of_images = {pair.images: pair for pair in paired}

    def find() -> Iterator[Found]:
        with tqdm(total=len(units), desc="reading", unit="array", disable=None if progress else True, delay=1) as bar:
            for name in sorted(units):
                pair = of_images.get(name)
                texts = None
                if pair and labelled:
                    labels_of_pair = next(
                        arrays.whole(content, pair.labels) for _, content in listing.stream([pair.labels])
                    )
                    texts = arrays.names_of(labels_of_pair, classes, pair.labels)
                for found in _pieces(path, listing, name, bands.get(name, [name]), texts, bool(pair)):
                    if found.images is not None and texts is not None:
                        found.labels = texts[found.first : found.first + len(found.images)]
                        found.part = pair.part if pair else None
                    elif found.images is not None and name in known:
                        found.labels = [known[name].text] * len(found.images)
                        found.part = known[name].part
                    elif found.images is not None:
                        found = Found(name, "rejected", reason=f"{Path(str(labels)).name} has no label for it")
                    yield found
                bar.update()

    return Scan(where, listing.kind, sorted(units), skipped, find, {} if paired else known, unused)


def _array_reason(name: str) -> str:
    return "an array without numbers, and no image"


def _array_labels(path, listing, units, where, classes, labels) -> tuple[dict[str, Label], int]:
    if labels is not None and Path(labels).suffix.lower() in (".csv", ".tsv", ".txt"):
        return of_table(labels, units)
    if listing.kind == "hdf5" and (
        found := arrays.attribute_labels(path, units, None if labels is None else str(labels))
    ):
        return {name: Label(text) for name, text in found.items()}, 0
    if labels is not None:
        raise DataError(f"{where}: not every image has an attribute '{labels}'; give an attribute or a CSV file")
    check_folders(listing, where, classes)
    return of_place(units, where, classes), 0


def _pieces(path, listing, name: str, members: list[str], texts, many: bool) -> Iterator[Found]:
    """The images of one array, a piece at a time, or the bands of one group as one image. `many`: its first axis is
    that of the images, as labels say."""
    try:
        scale = hdf5_scale(path, members[0]) if listing.kind == "hdf5" else None
        if path.is_file():
            scale = scale or information(path).get("pixel_scale")
        about = {"pixel_scale": scale}
        with closing(listing.stream(members)) as stream:
            # No more than the members are asked for: at its end the stream closes their file.
            stacks = [arrays.checked(content, name) for _, content in itertools.islice(stream, len(members))]
            if not many and len(members) == 1 and stacks[0].ndim < 2:
                yield Found(name, "skipped", reason="an array of numbers in a row, and no image")
                return
            if len(members) > 1:
                planes = [stacked(np.asarray(plane[...])) for plane in stacks]
                yield Found(name, images=np.concatenate(planes, axis=1), about=about)
            elif texts is not None and len(stacks[0]) != len(texts):
                raise DataError(f"'{name}' holds {len(stacks[0])} images, but there are {len(texts)} labels")
            elif not many and stacks[0].ndim < 4:
                yield Found(name, images=stacked(np.asarray(stacks[0][...])), about=about)
            else:
                for start in range(0, len(stacks[0]), PIECE):
                    piece = _images(np.asarray(stacks[0][start : start + PIECE]))
                    yield Found(name, images=piece, first=start, about=dict(about))
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes h5py raise
        yield Found(name, "rejected", reason=f"{error}" or type(error).__name__)


def _images(stack: np.ndarray) -> np.ndarray:
    """A stack of images, `(N, H, W)`, `(N, C, H, W)`, `(N, H, W, C)` or flat, as `(N, C, H, W)`."""
    if stack.ndim == 2 and (side := math.isqrt(stack.shape[1])) ** 2 == stack.shape[1]:
        stack = stack.reshape(-1, side, side)
    if stack.ndim == 3:
        stack = stack[:, None]
    if stack.ndim != 4 or stack.dtype.kind not in "biuf":
        raise DataError(f"shape {stack.shape}, dtype {stack.dtype}; expected a stack of images")
    return stack if len(stack) == 1 and 1 in stack.shape[1:2] else stacked(stack)


def _of_saved(path: Path, where: str) -> Scan:
    """A data set that this package wrote."""
    dataset = load_saved(path)
    images = Stored(dataset.images, dataset.images) if isinstance(dataset.images, np.memmap) else dataset.images
    names = [str(name) for name in dataset.catalogue["name"]]
    scale = dataset.description.get("pixel_scale")

    def find() -> Iterator[Found]:
        for i, (name, label) in enumerate(zip(names, dataset.catalogue["class"], strict=True)):
            image = np.asarray(images[i : i + 1])
            yield Found(name, images=image, labels=[label], about={"pixel_scale": scale})

    return Scan(where, "study", names, {}, find)


def load_saved(folder: Path) -> LensDataset:
    """What `LensDataset.save` wrote. Raises `DataError` where it cannot be opened, or is not what was written."""
    try:
        saved = LensDataset.load(folder)
        saved.check_fingerprint(folder)
        return saved
    except Exception as error:  # whatever a damaged JSON, npy or parquet file raises
        raise DataError(f"{folder}: its dataset.json says data set, but it cannot be opened ({error}).") from error
