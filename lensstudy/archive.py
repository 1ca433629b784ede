"""Every DeepLense layout in and out: folders, tars and zips of images, stacks, `.npz` and HDF5.

`read(path)` is told nothing but the path. It lists what is there, finds the class of each image from the folder it lies
in (or, where there are no class folders, from its file name), decodes the files (`formats`) one after another and appends
them to one array, in memory or, larger than memory, in a folder. Bad files are skipped and reported; files that try to do
something (climb out of an archive, run code on loading, unpack to a thousand times their size) stop the reading.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from lensstudy.dataset import CLASS_ALIASES, DataError, LensDataset, canonical_class
from lensstudy.formats import HDF5, READABLE, decode, read_npy, stacked

__all__ = ["decode", "read", "resolve"]

TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
PART_NAMES = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
PART_NAMES |= {"validation": "validation", "test": "test", "testing": "test"}
# The smooth lens first and the sought class last, whatever the order of the folders.
CLASS_ORDER = ("no_sub", "cdm", "axion", "sub", "nonlens", "lens")
UNLABELLED = "unlabelled"

# A set that unpacks to more than this and to more than 200 times its size is no data set. JPEGs and photon noise hardly
# compress; noise-free images in float64 reach about 3; the most that deflate can do is 1032.
EXPANSION_LIMIT = 200
EXPANSION_FREE_BYTES = 2**30


@dataclass
class Listing:
    """What lies at a path: image files and folders by name inside it, and a way to get their content in order."""

    kind: str
    names: list[str]
    folders: set[str]
    ignored: list[str]
    stream: Callable[[], Iterator[tuple[str, object]]]


# ---- what lies where ------------------------------------------------------------------------------------------------


def resolve(path: str | Path) -> Path:
    """`path` with `~` and environment variables such as `$LENSSTUDY_DATA` filled in.

    Raises `DataError` where a variable is not set or nothing exists at the path.
    """
    filled = os.path.expandvars(os.path.expanduser(str(path)))
    if unset := re.search(r"\$\{?(\w+)\}?", filled):
        raise DataError(
            f"{path}: the environment variable {unset[1]} is not set. "
            f"Set it (export {unset[1]}=/folder/with/data) or write the path out."
        )
    if not os.path.exists(filled):
        raise DataError(f"{filled}: nothing exists at this path. Check data_path in the parameters of the study.")
    return Path(filled)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _list_folder(root: Path) -> Listing:
    names, folders, ignored, seen = [], set(), [], set()
    for place, below, files in os.walk(root, followlinks=True):
        if os.path.realpath(place) in seen:  # a link that leads back up
            below.clear()
            continue
        seen.add(os.path.realpath(place))
        inside = Path(place).relative_to(root).as_posix()
        below[:] = sorted(name for name in below if not _is_hidden(name))
        folders.add(inside)
        for file in files:
            name = file if inside == "." else f"{inside}/{file}"
            if not _is_hidden(name):
                (names if file.lower().endswith(READABLE) else ignored).append(name)
    names.sort()
    return Listing("folder", names, folders - {"."}, ignored, lambda: ((name, root / name) for name in names))


def _check_member(archive: Path, name: str, total: int) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
        raise DataError(
            f"{archive.name}: member '{name}' climbs out of the archive. No data set needs this; nothing of it was "
            "read. Repack the archive from inside its folder."
        )
    if total > max(EXPANSION_FREE_BYTES, EXPANSION_LIMIT * archive.stat().st_size):
        raise DataError(
            f"{archive.name}: {archive.stat().st_size:,} bytes that unpack to more than {total:,}, over "
            f"{EXPANSION_LIMIT} times as much. This looks like a decompression bomb; unpack it if you trust it."
        )


def _list_tar(path: Path) -> Listing:
    names, folders, ignored, total = [], set(), [], 0
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                total += member.size
                _check_member(path, member.name, total)
                if not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{path.name}: member '{member.name}' is a link or a device, not a file. Links can point "
                        "anywhere; repack the archive with the files themselves (tar --dereference)."
                    )
                name = PurePosixPath(member.name).as_posix()
                if _is_hidden(name):
                    continue
                if member.isdir():
                    folders.add(name)
                else:
                    (names if name.lower().endswith(READABLE) else ignored).append(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path.name}: not a whole tar file ({error}). Fetch it again.") from error
    wanted = set(names)

    def stream():
        with tarfile.open(path) as tar:
            for member in tar:
                if (name := PurePosixPath(member.name).as_posix()) in wanted and member.isfile():
                    yield name, tar.extractfile(member).read()

    return Listing("tar", names, folders | _parents(names), ignored, stream)


def _list_zip(path: Path) -> Listing:
    names, folders, ignored, total = [], set(), [], 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                total += member.file_size
                _check_member(path, member.filename, total)
                if member.flag_bits & 1:
                    raise DataError(f"{path.name}: member '{member.filename}' is encrypted; unpack the archive first.")
                if (member.external_attr >> 16) & 0o170000 == 0o120000:
                    raise DataError(f"{path.name}: member '{member.filename}' is a link; repack with the file itself.")
                if _is_hidden(member.filename):
                    continue
                if member.is_dir():
                    folders.add(member.filename.rstrip("/"))
                else:
                    readable = member.filename.lower().endswith(READABLE)
                    (names if readable else ignored).append(member.filename)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path.name}: not a whole zip file ({error}). Fetch it again.") from error
    names.sort()

    def stream():
        with zipfile.ZipFile(path) as archive:
            for name in names:
                try:
                    yield name, archive.read(name)
                except (zipfile.BadZipFile, EOFError, OSError) as error:
                    yield name, ValueError(f"damaged in the archive ({error})")

    kind = "npz" if path.suffix.lower() == ".npz" else "zip"
    return Listing(kind, names, folders | _parents(names), ignored, stream)


def _list_hdf5(path: Path) -> Listing:
    import h5py

    names, ignored = [], []

    def note(name, node):
        if isinstance(node, h5py.Dataset):
            (names if node.ndim >= 1 and node.dtype.kind in "biufSO" else ignored).append(name)

    with h5py.File(path) as file:
        file.visititems(note)
    names.sort()

    def stream():
        with h5py.File(path) as file:
            for name in names:
                yield name, file[name]

    return Listing("hdf5", names, _parents(names), ignored, stream)


def _parents(names: Iterable[str]) -> set[str]:
    return {parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."}


def _listing(path: Path, labelled: bool) -> Listing:
    lower = path.name.lower()
    if path.is_dir():
        listing = _list_folder(path)
        archives = [name for name in listing.ignored if name.lower().endswith((*TARS, ".zip"))]
        if listing.names or not archives:
            return listing
        if len(archives) > 1:
            raise DataError(f"{path}: several archives ({', '.join(archives[:5])}); give the path of one of them.")
        return _listing(path / archives[0], labelled)
    if lower.endswith(TARS):
        return _list_tar(path)
    if lower.endswith(".zip") or (labelled and lower.endswith(".npz")):
        return _list_zip(path)
    if labelled and lower.endswith(HDF5):
        return _list_hdf5(path)
    if lower.endswith(READABLE):
        return Listing("file", [path.name], set(), [], lambda: iter([(path.name, path)]))
    raise DataError(f"{path}: unknown kind of file; known: folders, {', '.join((*TARS, '.zip', *READABLE))}.")


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


def _labels(listing: Listing, where: str) -> dict[str, tuple[str, str | None]]:
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


def _check_folders(listing: Listing, where: str) -> None:
    """A class folder without an image is a mistake, and silence would turn three classes into two."""
    filled = _parents(listing.names)
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


def _decoded(listing: Listing, extension, processes: int, progress: bool) -> Iterator[tuple]:
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


def _majority(results: Iterator[tuple], dtype) -> tuple[tuple[int, ...], np.dtype, Iterator[tuple]]:
    """Shape `(C, H, W)` and dtype of most of the first 64 files, and all results as before."""
    first = list(itertools.islice(results, 64))
    kinds = Counter((stack.shape[1:], stack.dtype.newbyteorder("=")) for _, stack, _, _ in first if stack is not None)
    if not kinds:
        reason = first[0][3] if first else "no files"
        raise DataError(f"none of the first {len(first)} files is an image; {first[0][0]}: {reason}")
    (shape, natural), _ = kinds.most_common(1)[0]
    natural = np.dtype(np.uint8) if natural.kind == "b" else natural
    return shape, np.dtype(dtype or natural), itertools.chain(first, results)


def _append(results: Iterable[tuple], shape, dtype, casting: str, file) -> tuple[list[dict], list[dict]]:
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


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Header of an .npy file; NumPy pads it, so it is as long for a million images as for none."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _collect(results, dtype, folder: Path | None) -> tuple[np.ndarray, pd.DataFrame, list[dict]]:
    """All images as one array, in memory or as a memory map in `folder`, sorted by source."""
    shape, dtype_, results = _majority(results, dtype)
    casting = "same_kind" if dtype else "safe"
    if folder is None:
        file = io.BytesIO()
        rows, skipped = _append(results, shape, dtype_, casting, file)
        images = np.frombuffer(file.getbuffer(), dtype_).reshape(-1, *shape)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "images.partial.npy"
        with open(partial, "wb") as file:
            file.write(_header((0, *shape), dtype_))
            rows, skipped = _append(results, shape, dtype_, casting, file)
            file.seek(0)
            file.write(_header((len(rows), *shape), dtype_))
        images = np.load(partial, mmap_mode="r+", allow_pickle=False)
    catalogue = pd.DataFrame(rows)
    order = np.lexsort((catalogue["index"], catalogue["source"]))
    if (order[1:] < order[:-1]).any():  # tars come in any order
        images = images[order] if folder is None else _reordered(images, order, partial)
    if folder is not None:
        os.replace(partial, folder / "images.npy")
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return images, catalogue.iloc[order].reset_index(drop=True), skipped


def _reordered(images: np.ndarray, order: np.ndarray, partial: Path) -> np.ndarray:
    ordered = partial.with_suffix(".ordered.npy")
    target = np.lib.format.open_memmap(ordered, "w+", images.dtype, images.shape)
    for start in range(0, len(order), 256):
        target[start : start + 256] = images[order[start : start + 256]]
    target.flush()
    os.replace(ordered, partial)
    return target


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
    """Read whatever lies at `path` as a `LensDataset`.

    Known are folders, tars and zips with a folder for each class, with or without `train`, `val` and `test` above it
    (also `train_lenses`), or with files named after their class; `.npz` and HDF5 files with an array for each class or
    with `images` and `labels`; single files; and what `LensDataset.save` wrote. Images are `.npy` (one, a stack,
    batches, or pickled `[image, axion mass]`), `.npz`, HDF5, FITS, PNG, JPEG or TIFF, and keep their dtype unless
    `dtype` is given.

    labelled: False reads images of unknown class, all as class `unlabelled`.
    classes: what numeric labels 0, 1, ... stand for, and the order of classes (default: smooth first).
    extension: FITS extension, HDF5 dataset or npz key that holds the image (default: the first that can).
    folder: write the images there instead of holding them in memory; nothing else is ever written.
    processes: worker processes that decode; the result is the same for any number.

    The catalogue has `name`, `class`, `source` (path inside), `hash`, and where known `source_part` and `axion_mass` in
    eV. `description` lists `skipped` files with reasons. Raises `DataError` for what cannot be used or trusted.
    """
    path = resolve(path)
    if path.is_dir() and (path / "dataset.json").exists():
        return LensDataset.load(path)
    listing, where = _listing(path, labelled), path.name
    if not listing.names:
        raise DataError(f"{where}: no images ({len(listing.ignored)} other files). Known: {', '.join(READABLE)}.")
    paired = _pair(listing, classes, extension, where) if labelled and listing.kind in ("npz", "hdf5") else None
    if labelled and not paired:
        labels = _labels(listing, where)
        _check_folders(listing, where)
    elif not labelled:
        labels = {name: (UNLABELLED, None) for name in listing.names}
    results = paired or _decoded(listing, extension, processes, progress)
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
        _ordered(set(names.values()), classes),
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


def _ordered(found: set[str], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
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


def _pair(listing: Listing, classes, extension, where: str) -> Iterator[tuple] | None:
    """Images with a `labels` array beside them, in one npz or HDF5 file: the results of decoding it, or None."""
    stems = {PurePosixPath(name).stem.lower(): name for name in listing.names}
    key = next((stems[stem] for stem in ("labels", "label", "classes", "class", "y") if stem in stems), None)
    if key is None:
        return None
    pixels = [stems[stem] for stem in (extension, "images", "image", "x", "data") if stem in stems]
    if not pixels:
        raise DataError(f"{where}: '{key}' but no 'images' among {', '.join(listing.names)}; name them with extension=")
    labels = next(_values(content, name) for name, content in listing.stream() if name == key)
    names = [text.decode() if isinstance(text, bytes) else str(text) for text in np.ravel(labels)]
    if np.asarray(labels).dtype.kind in "iuf":
        if classes is None:
            raise DataError(f"{where}: the labels are numbers; say what 0, 1, ... mean with classes=('no_sub', ...).")
        names = [classes[int(number)] if 0 <= number < len(classes) else str(number) for number in np.ravel(labels)]

    def images():
        for name, content in listing.stream():
            if name == pixels[0]:
                stack = _values(content, name) if isinstance(content, bytes) else content
                if len(stack) != len(names):
                    raise DataError(f"{where}: {len(stack)} images, but {len(names)} labels")
                for i, text in enumerate(names):
                    image = np.asarray(stack[i])
                    yield name, stacked(image), {"label": text, "index": i}, ""

    return images()


def _values(content, name: str) -> np.ndarray:
    return read_npy(content, name)[0] if isinstance(content, bytes) else np.asarray(content)
