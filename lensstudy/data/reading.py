"""Every DeepLense layout in and out: folders, tars and zips of images, stacks, `.npz` and HDF5.

`read(path)` is told nothing but the path. It lists what is there (`containers`), finds the class of each image from the
folder it lies in or, where there are no class folders, from its file name, decodes one file after another (`formats`)
and appends the pixels to one array, in memory or, larger than memory, in a folder. Damaged files are skipped and
reported; hostile ones stop the reading. `write_deeplense` writes DeepLense's own layout.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lensstudy.data.containers import Listing, list_path, parents, resolve
from lensstudy.data.dataset import CLASS_ALIASES, PIECE, DataError, LensDataset, canonical_class
from lensstudy.data.formats import READABLE, decode, npy_header, stacked, whole
from lensstudy.files import whole_file

__all__ = ["read", "write_deeplense"]

PART_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
PART_NAMES |= {"validation": "validation", "test": "test", "testing": "test"}
# The smooth lens first and the sought class last, whatever the order of the folders.
CLASS_ORDER = ("no_sub", "cdm", "axion", "sub", "nonlens", "lens")
UNLABELLED = "unlabelled"


# ---- what an image is called ----------------------------------------------------------------------------------------


def _part_and_class(folder: str) -> tuple[str | None, str]:
    """`train_lenses` is a part and a class in one name, as in the lens-finding sets."""
    head, _, tail = folder.partition("_")
    return (PART_NAMES[head.lower()], tail) if head.lower() in PART_NAMES and tail else (None, folder)


def _is_class(name: str) -> bool:
    try:
        return bool(canonical_class(name))
    except DataError:
        return False


def labels_of(listing: Listing, where: str) -> dict[str, tuple[str, str | None]]:
    """Class name as found and part of each file, by name."""
    folders = {name: PurePosixPath(name).parent.parts for name in listing.names}
    above = {parts[-1] if parts else "" for parts in folders.values()}
    in_parts = all(name.lower() in PART_NAMES for name in above)
    if in_parts or (len(above) == 1 and not _is_class(_part_and_class(*above)[1])):
        found = {name: re.split(r"[_-]?(?:sim)?[_-]?\d", PurePosixPath(name).stem)[0] for name in listing.names}
        found = {name: text or PurePosixPath(name).name.split(".")[0] for name, text in found.items()}
        wrong = next((name for name, text in found.items() if not _is_class(text)), None)
        if wrong:
            raise DataError(
                f"{where}: no class folders, and the file name '{wrong}' names no class. Expected a folder with one "
                f"folder a class ({', '.join(CLASS_ALIASES)}, or another name of them), or labelled=False."
            )
    else:
        found = {name: _part_and_class(parts[-1] if parts else "")[1] for name, parts in folders.items()}
        stray = [name for name, parts in folders.items() if not parts]
        if stray:
            raise DataError(f"{where}: '{stray[0]}' lies beside the class folders, so its class is unknown; remove it.")
    for text, name in {text: name for name, text in found.items()}.items():
        canonical_class(text, f"{where}/{PurePosixPath(name).parent}")
    labels = {}
    for name, parts in folders.items():
        own = [_part_and_class(parts[-1])[0]] if parts else []
        labels[name] = found[name], next(filter(None, own + [PART_NAMES.get(p.lower()) for p in reversed(parts)]), None)
    return labels


def check_folders(listing: Listing, where: str) -> None:
    """A class folder without an image is a mistake, and silence would turn three classes into two."""
    filled = parents(listing.names)
    for folder in sorted(listing.folders - filled):
        if _is_class(_part_and_class(PurePosixPath(folder).name)[1]):
            raise DataError(f"{where}: the class folder '{folder}' is empty. Fill it, or remove it to do without it.")


# ---- reading --------------------------------------------------------------------------------------------------------


def _attempt(job: tuple) -> tuple[str, np.ndarray | None, dict, str]:
    """Decode one file; a damaged one comes back as a reason instead of pixels."""
    name, content, extension = job
    try:
        if isinstance(content, Exception):
            raise content
        if isinstance(content, (bytes, Path)):
            return name, *decode(name, content, extension), ""
        return name, stacked(content[...]), {}, ""  # an HDF5 dataset
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes a decoder raise
        return name, None, {}, f"{error}" or type(error).__name__


def decoded(listing: Listing, extension, processes: int, progress: bool) -> Iterator[tuple]:
    """Name, images, truth and reason for skipping, file by file and in the same order whatever `processes` is."""
    jobs = ((name, content, extension) for name, content in listing.stream())
    bar = tqdm(total=len(listing.names), desc="reading", unit="file", disable=None if progress else True, delay=2)
    alone = processes == 1 or listing.kind == "hdf5"  # an open HDF5 file does not travel between processes
    done = map(_attempt, jobs) if alone else _in_processes(jobs, processes)
    with bar:
        for result in done:
            bar.update()
            yield result


def _in_processes(jobs: Iterator, processes: int) -> Iterator[tuple]:
    with ProcessPoolExecutor(processes) as pool:
        while window := list(itertools.islice(jobs, 1024)):  # a bounded look-ahead, so that memory stays bounded
            yield from pool.map(_attempt, window, chunksize=64)


def majority(results: Iterator[tuple], dtype) -> tuple[tuple[int, ...], np.dtype, Iterator[tuple]]:
    """Shape `(C, H, W)` and dtype of most of the first 64 files, and all results as before."""
    first = list(itertools.islice(results, 64))
    kinds = Counter((stack.shape[1:], stack.dtype.newbyteorder("=")) for _, stack, _, _ in first if stack is not None)
    if not kinds:
        reason = first[0][3] if first else "no files"
        raise DataError(f"none of the first {len(first)} files is an image; {first[0][0]}: {reason}")
    (shape, natural), _ = kinds.most_common(1)[0]
    natural = np.dtype(np.uint8) if natural.kind == "b" else natural
    return shape, np.dtype(dtype or natural), itertools.chain(first, results)


def _append(results: Iterable[tuple], shape, dtype, casting, file) -> tuple[list[dict], list[dict]]:
    """Append the pixels of every good image to `file`; one row for each, and the skipped with their reasons."""
    rows, skipped = [], []
    for name, stack, truth, reason in results:
        if stack is not None and stack.shape[1:] != shape:
            reason = f"shape {stack.shape[1:]}, where the others have {shape}"
        elif stack is not None and not np.can_cast(stack.dtype, dtype, casting):
            reason = f"dtype {stack.dtype}, where the others have {dtype}; choose one with dtype="
        if reason:
            skipped.append({"name": name, "reason": reason})
            continue
        for i, image in enumerate(stack):
            pixels = image.astype(dtype).tobytes()
            file.write(pixels)
            row = {"source": name, "index": i, "hash": hashlib.blake2b(pixels, digest_size=8).hexdigest()}
            rows.append(row | truth)
    return rows, skipped


def _collect(results, dtype, folder: Path | None) -> tuple[np.ndarray, pd.DataFrame, list[dict]]:
    """All images as one array, in memory or as a memory map in `folder`, sorted by source."""
    shape, dtype_, results = majority(results, dtype)
    casting = "same_kind" if dtype else "safe"
    if folder is None:
        file = io.BytesIO()
        rows, skipped = _append(results, shape, dtype_, casting, file)
        images = np.frombuffer(file.getbuffer(), dtype_).reshape(-1, *shape)
        catalogue, order, in_order = _sorted(rows)
        return images if in_order else images[order], catalogue, skipped
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "images.npy") as partial:
        with open(partial, "wb") as file:
            file.write(npy_header((0, *shape), dtype_))
            rows, skipped = _append(results, shape, dtype_, casting, file)
            file.seek(0)
            file.write(npy_header((len(rows), *shape), dtype_))
        catalogue, order, in_order = _sorted(rows)
        if not in_order:
            _reorder(partial, order)
    return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False), catalogue, skipped


def _sorted(rows: list[dict]) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """The catalogue by source, the places of its rows before, and whether they stay: tars come in any order."""
    catalogue = pd.DataFrame(rows)
    order = np.lexsort((catalogue["index"], catalogue["source"]))
    return catalogue.iloc[order].reset_index(drop=True), order, bool((order[1:] > order[:-1]).all())


def _reorder(file: Path, order: np.ndarray) -> None:
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    with whole_file(file) as partial:
        target = np.lib.format.open_memmap(partial, "w+", images.dtype, images.shape)
        for start in range(0, len(order), PIECE):
            target[start : start + PIECE] = images[order[start : start + PIECE]]
        target.flush()


def read(
    path: str | Path,
    *,
    labelled: bool = True,
    classes: tuple[str, ...] | None = None,
    extension: str | int | None = None,
    dtype: str | np.dtype | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> LensDataset:
    """Read whatever lies at a path as a data set.

    Known are folders, tars and zips with a folder for each class, with or without `train`, `val` and `test` above it
    (also `train_lenses`), or with files named after their class; `.npz` and HDF5 files with an array for each class or
    with `images` and `labels`; single files; and what `LensDataset.save` wrote. Images are `.npy` (one, a stack,
    batches, or pickled `[image, axion mass]`), `.npz`, HDF5, FITS, PNG, JPEG or TIFF.

    Args:
        path: folder, archive or file.
        labelled: False reads images of unknown class, all as class `unlabelled`.
        classes: what numeric labels 0, 1, ... stand for, and the order of classes (default: smooth first).
        extension: FITS extension, HDF5 dataset or npz key that holds the image (default: the first that can).
        dtype: dtype of the images; their own, if none.
        folder: write the images there instead of holding them in memory; nothing else is ever written.
        processes: processes that decode; the result is the same for any number.
        progress: show a progress bar.

    Returns:
        A `LensDataset`. Its catalogue has `name`, `class`, `source` (path inside), `hash`, and where known
        `source_part` and `axion_mass` in eV; its description lists `skipped` files with reasons.

    Raises:
        DataError: for what cannot be used or trusted.

    Example:
        >>> import tempfile
        >>> from lensstudy import simulate
        >>> folder = simulate("model_3", 2, seed=1, image_size=32).save(tempfile.mkdtemp())
        >>> len(read(folder))
        6
    """
    path = resolve(path)
    if path.is_dir() and (path / "dataset.json").exists():
        return load_saved(path)
    listing, where = list_path(path, labelled), path.resolve().name
    if not listing.names:
        raise DataError(f"{where}: no images ({len(listing.ignored)} other files). Known: {', '.join(READABLE)}.")
    paired = paired_images(listing, classes, extension, where) if labelled and listing.kind in ("npz", "hdf5") else None
    if labelled and not paired:
        labels = labels_of(listing, where)
        check_folders(listing, where)
    elif not labelled:
        labels = {name: (UNLABELLED, None) for name in listing.names}
    results = paired or decoded(listing, extension, processes, progress)
    folder = Path(folder) if folder else None
    try:
        images, catalogue, skipped = _collect(results, dtype, folder)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    found = catalogue.pop("label") if paired else catalogue["source"].map(lambda source: labels[source][0])
    names = {text: canonical_class(text, where) if labelled else UNLABELLED for text in found.unique()}
    catalogue.insert(0, "class", found.map(names))
    if not paired and any(part for _, part in labels.values()):
        catalogue["source_part"] = catalogue["source"].map(lambda source: labels[source][1])
    catalogue.insert(0, "name", _unique_names(catalogue))
    dataset = LensDataset(
        images,
        catalogue.drop(columns="index"),
        class_order(set(names.values()), classes),
        {
            "source": where,
            "layout": listing.kind,
            "class_names": names,
            "skipped": skipped,
            "ignored": len(listing.ignored),
        },
    )
    _report(dataset, labels if labelled and not paired else {}, where)
    return dataset.load(dataset.save(folder)) if folder else dataset


def load_saved(folder: Path) -> LensDataset:
    """What `LensDataset.save` wrote, whatever has happened to it since."""
    try:
        return LensDataset.load(folder)
    except Exception as error:  # whatever a damaged JSON, npy or parquet file raises
        raise DataError(f"{folder}: its dataset.json says data set, but it cannot be opened ({error}).") from error


def class_order(found: set[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    if wanted is None:
        return tuple(sorted(found, key=(*CLASS_ORDER, UNLABELLED).index))
    wanted = tuple(canonical_class(name, "classes") for name in wanted)
    if missing := found - set(wanted):
        raise DataError(f"classes={wanted} lacks {sorted(missing)}, which the data has; add it.")
    return wanted


def _unique_names(catalogue: pd.DataFrame) -> pd.Series:
    stems = catalogue["source"].map(lambda source: PurePosixPath(source).stem)
    in_stacks = catalogue["index"].groupby(catalogue["source"]).transform("max") > 0
    numbers = np.where(in_stacks, "-" + catalogue["index"].astype(str).str.zfill(5), "")
    for names in (stems + numbers, catalogue["source"].map(lambda s: str(PurePosixPath(s).with_suffix(""))) + numbers):
        if names.is_unique:
            return names
    return catalogue["source"] + numbers


def _report(dataset: LensDataset, labels: dict, where: str) -> None:
    """Warn of what was skipped; a class of which nothing is left is an error."""
    skipped = dataset.description["skipped"]
    wanted = {canonical_class(found) for found, _ in labels.values()}
    if lost := wanted - set(dataset.catalogue["class"]):
        raise DataError(
            f"{where}: nothing of class {sorted(lost)} could be read; {skipped[0]['name']}: {skipped[0]['reason']}"
        )
    if skipped:
        some = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in skipped[:3])
        more = f"; and {len(skipped) - 3} more, all in description['skipped']" if len(skipped) > 3 else ""
        warnings.warn(f"{where}: {len(skipped)} files skipped ({some}{more})", stacklevel=3)


def paired_images(listing: Listing, classes, extension, where: str) -> Iterator[tuple] | None:
    """Images with a `labels` array beside them, in one npz or HDF5 file: the results of decoding it, or None."""
    stems = {PurePosixPath(name).stem.lower(): name for name in listing.names}
    key = next((stems[stem] for stem in ("labels", "label", "classes", "class", "y") if stem in stems), None)
    if key is None:
        return None
    pixels = [stems[stem] for stem in (extension, "images", "image", "x", "data") if stem in stems]
    if not pixels:
        raise DataError(f"{where}: '{key}' but no 'images' among {', '.join(listing.names)}; name them with extension=")
    labels = next(whole(content, name) for name, content in listing.stream() if name == key)
    names = [text.decode() if isinstance(text, bytes) else str(text) for text in np.ravel(labels)]
    if np.asarray(labels).dtype.kind in "iuf":
        if classes is None:
            raise DataError(f"{where}: the labels are numbers; say what 0, 1, ... mean with classes=('no_sub', ...).")
        names = [classes[int(number)] if 0 <= number < len(classes) else str(number) for number in np.ravel(labels)]

    def images():
        for name, content in listing.stream():
            if name == pixels[0]:
                stack = whole(content, name) if isinstance(content, (bytes, Exception)) else content
                if np.ndim(stack) not in (3, 4) or stack.dtype.kind not in "biuf":
                    raise DataError(
                        f"'{name}' has shape {stack.shape}, dtype {stack.dtype}; expected a stack of images"
                    )
                if len(stack) != len(names):
                    raise DataError(f"{len(stack)} images, but {len(names)} labels")
                for i, text in enumerate(names):
                    image = np.asarray(stack[i])
                    yield name, stacked(image), {"label": text, "index": i}, ""

    return images()


# ---- writing --------------------------------------------------------------------------------------------------------


def write_deeplense(dataset: LensDataset, folder: str | Path) -> Path:
    """Write `dataset` as DeepLense does: one `.npy` an image under `<class>/`, or `{train,val,test}/<class>/` once it
    is split, as `(H, W)` for one channel. Axion images of known mass become pickled `[image, axion mass]` arrays.

    Excluded images are left out. Raises `DataError` if `folder` has something in it or two names fall together.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; write to a new folder, so that old and new images do not mix.")
    for row, about in enumerate(dataset.catalogue.to_dict("records")):
        if about.get("excluded_because") or about.get("part") == "excluded":
            continue
        part = {"validation": "val"}.get(about.get("part"), about.get("part", ""))
        name = re.sub(r"[^\w.-]", "_", str(about["name"]))
        file = folder / part / about["class"] / f"{name}.npy"
        if file.exists():
            raise DataError(f"{file}: two images of this name ('{about['name']}'); give the catalogue unique names.")
        file.parent.mkdir(parents=True, exist_ok=True)
        image = dataset.images[row]
        image = image[0] if len(image) == 1 else image
        if about["class"] == "axion" and np.isfinite(about.get("axion_mass", np.nan)):
            pair = np.empty(2, dtype=object)
            pair[0], pair[1] = np.array(image), float(about["axion_mass"])
            np.save(file, pair, allow_pickle=True)
        else:
            np.save(file, image)
    return folder
