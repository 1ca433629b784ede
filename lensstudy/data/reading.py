"""Every DeepLense layout in and out: folders, tars and zips of images, stacks, `.npz` and HDF5.

`read(path)` is told nothing but the path. `scanning` finds the files and labels them; here their pixels are appended to
one array, in memory or, larger than memory, in a folder. Damaged files are rejected and reported, and stop the reading
where they are many; hostile ones always stop it. `write_deeplense` writes DeepLense's own layout.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data.companions import about_folder
from lensstudy.data.containers import resolve
from lensstudy.data.dataset import PIECE, SCALE_TOLERANCE, DataError, LensDataset, npy_header
from lensstudy.data.labels import UNLABELLED, class_order, classes_of
from lensstudy.data.scanning import Found, Scan, load_saved, scan
from lensstudy.files import whole_file

__all__ = ["STOPPING_SHARE", "common_scale", "read", "write_deeplense"]

STOPPING_SHARE = 0.1  # of the images: a set of which more are bad is not read (`filtering.Rules.largest_share`)
TEXTS = ("", ".txt", ".md", ".csv", ".json", ".yml", ".yaml", ".py", ".ipynb", ".log", ".html", ".pdf", ".rst")


def read(
    path: str | Path,
    *,
    labelled: bool = True,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
    label_columns: tuple[str, str] | None = None,
    extension: str | int | None = None,
    dtype: str | np.dtype | None = None,
    pixel_scale: float | None = None,
    folder: str | Path | None = None,
    processes: int = 1,
    progress: bool = False,
) -> LensDataset:
    """Read whatever lies at a path as a data set.

    Known are folders, tars and zips in which folders of some level bear the names of classes, with or without `train`,
    `val` and `test` (also `train_lenses`), or files named after their class; `.npz` and HDF5 files with an array or a
    group for each class, with labels beside the images, or in attributes; single files; and what `LensDataset.save`
    wrote. Images are `.npy` (one, a stack, batches, or pickled `[image, axion mass]`), `.npz`, HDF5, FITS, tensors or
    pictures. Of three axes the shortest holds the bands of one image where it is at most 12 long.

    Args:
        path: folder, archive or file.
        labelled: False reads images of unknown class, all as class `unlabelled`.
        classes: names of the classes in the order of a network's outputs, for labels that are numbers (0 is the first)
            and for names that are not known (default: the order of DeepLense, smooth first, other names after it).
        labels: a CSV file with the class of each image, or the name of an HDF5 attribute.
        label_columns: the columns of that file with names and classes, where they are not called so.
        extension: FITS extension, HDF5 dataset or npz key that holds the image (default: the one whose name says so).
        dtype: dtype of the images; the smallest that holds all of them, if none.
        pixel_scale: arcseconds of one pixel, for files that do not say.
        folder: write the images there instead of holding them in memory; nothing else is ever written.
        processes: processes that decode; the result is the same for any number.
        progress: show a progress bar.

    Returns:
        A `LensDataset`. Its catalogue has `name`, `class`, `source` (path inside), `hash`, and where known
        `source_part`, `lens` (the same for several bands of one lens) and `axion_mass` in eV; its description counts
        the `files`, lists those `rejected` with reasons, and says the `pixel_scale` where the files do.

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
        saved = load_saved(path)
        scale = common_scale([(path.name, saved.description.get("pixel_scale"))], pixel_scale, path.name)
        saved.description |= {"pixel_scale": scale} if scale else {}
        return saved
    options: dict[str, Any] = {"labelled": labelled, "classes": classes, "labels": labels}
    options |= {"label_columns": label_columns, "extension": extension}
    listed = scan(path, **options, processes=processes, progress=progress)
    where = listed.where
    folder = Path(folder) if folder else None
    try:
        images, catalogue, rejected = _collect(listed, dtype, folder)
    except DataError as error:
        raise DataError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from error
    found = catalogue.pop("label")
    known = classes_of(listed.texts() | set(found), where, classes) if labelled else {}
    names = {text: known.get(text, UNLABELLED) for text in found.unique()}
    catalogue.insert(0, "class", found.map(names))
    for column in ("source_part", "lens"):
        if catalogue[column].isna().all():
            del catalogue[column]
    catalogue.insert(0, "name", _unique_names(catalogue))
    scale = common_scale(zip(catalogue["source"], catalogue.pop("pixel_scale"), strict=True), pixel_scale, where)
    counts = {"found": len(listed), "rejected": len(rejected), "skipped": len(listed.skipped)}
    counts |= {"read": len(listed) - len(rejected) - len(listed.skipped)}
    description = {
        "source": where,
        "layout": listed.kind,
        "class_names": names,
        "files": counts,
        "rejected": rejected,
        "skipped": dict(Counter(listed.skipped.values()).most_common()),
    }
    order = class_order(names.values(), classes)
    _report(listed, rejected, {known[text] for text in listed.texts() & known.keys()} - set(names.values()))
    dataset = LensDataset(
        images, catalogue.drop(columns="index"), order, description | ({"pixel_scale": scale} if scale else {})
    )
    return dataset.load(dataset.save(folder)) if folder else dataset


def common_scale(scales: Iterable[tuple[str, float | None]], given: float | None, where: str) -> float | None:
    """The pixel scale of a whole set in arcsec: what its files say, else what is `given`; None where neither is there.

    Raises `DataError` where files contradict each other or what is given.
    """
    said = {float(scale): name for name, scale in scales if scale is not None and scale == scale}
    if given is not None and not given > 0:
        raise DataError(f"pixel_scale = {given}; expected arcseconds of one pixel, more than 0")
    if not said:
        return given
    low, high = min(said), max(said)
    if high / low - 1 > SCALE_TOLERANCE:
        raise DataError(
            f"{where}: pixels of {low:.4g} arcsec ({said[low]}) and of {high:.4g} arcsec ({said[high]}) in one set; "
            "resample them to one scale, or read each by itself"
        )
    scale = float(np.median(list(said)))
    if given and abs(given / scale - 1) > SCALE_TOLERANCE:
        raise DataError(
            f"{where}: pixels of {scale:.4g} arcsec, as it says itself ({said[low]}), and not of {given:.4g}"
        )
    return scale


class _Pixels:
    """Pixels of one image after another, appended to a file in the smallest dtype that holds all of them."""

    def __init__(self, file, dtype):
        self.file, self.wanted = file, np.dtype(dtype) if dtype else None
        self.shape, self.dtype, self.count = None, None, 0
        self.start = 0

    def begin(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, self.wanted or dtype
        self.file.write(npy_header((0, *shape), self.dtype))
        self.start = self.file.tell()

    def holds(self, dtype: np.dtype) -> bool:
        return self.wanted is None or np.can_cast(dtype, self.wanted, "same_kind")

    def append(self, images: np.ndarray) -> None:
        if self.wanted is None and not np.can_cast(images.dtype, self.dtype, "safe"):
            self._widen(np.promote_types(self.dtype, images.dtype))
        self.file.write(np.ascontiguousarray(images, self.dtype).data)
        self.count += len(images)

    def _widen(self, dtype: np.dtype) -> None:
        """Rewrite what is there in another dtype, from the end, so that nothing is overwritten before it is read."""
        size = int(np.prod(self.shape))
        for first in range((self.count - 1) // PIECE * PIECE, -1, -PIECE):
            many = min(PIECE, self.count - first)
            self.file.seek(self.start + first * size * self.dtype.itemsize)
            pixels = np.frombuffer(self.file.read(many * size * self.dtype.itemsize), self.dtype).astype(dtype)
            self.file.seek(self.start + first * size * dtype.itemsize)
            self.file.write(pixels.tobytes())
        self.file.seek(self.start + self.count * size * dtype.itemsize)
        self.dtype = dtype

    def finish(self) -> None:
        self.file.seek(0)
        self.file.write(npy_header((self.count, *self.shape), self.dtype))


def _natural(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def _shape_of_most(files: Iterator[Found]) -> tuple[tuple[int, ...], np.dtype, Iterator[Found]]:
    """Shape `(C, H, W)` of most of the first 64 files and their dtype, and all files as before."""
    first = list(itertools.islice(files, 64))
    if hostile := next((found for found in first if found.hostile), None):
        raise DataError(hostile.reason if hostile.name in hostile.reason else f"{hostile.name}: {hostile.reason}")
    kinds = Counter(found.images.shape[1:] for found in first if found.images is not None)
    if not kinds:
        reason = f"{first[0].name}: {first[0].reason}" if first else "every file belongs to an image that is missing"
        raise DataError(f"none of the first {len(first)} files is an image; {reason}")
    (shape, _), *_ = kinds.most_common(1)
    dtype = next(found.images.dtype for found in first if found.images is not None and found.images.shape[1:] == shape)
    return shape, _natural(dtype), itertools.chain(first, files)


def _append(files: Iterable[Found], pixels: _Pixels, skipped: dict[str, str]) -> tuple[list[dict], list[dict]]:
    """Append every good image; one row for each, and the rejected files with their reasons."""
    rows: list[dict] = []
    rejected: list[dict] = []
    notes: list[str] = []
    for found in files:
        if found.hostile:
            raise DataError(found.reason if found.name in found.reason else f"{found.name}: {found.reason}")
        if found.state == "skipped":
            skipped[found.name] = found.reason
            continue
        reason = found.reason
        if found.images is not None and found.images.shape[1:] != pixels.shape:
            reason = f"shape {found.images.shape[1:]}, where the others have {pixels.shape}"
        elif found.images is not None and not pixels.holds(found.images.dtype):
            reason = f"dtype {found.images.dtype}, which {pixels.wanted} cannot hold"
        if reason:
            rejected.append({"name": found.name, "reason": reason})
            continue
        images = np.asarray(found.images)
        images = images.astype(_natural(images.dtype), copy=False)
        pixels.append(images)
        about = {"source_part": found.part, "lens": found.lens, "pixel_scale": None}
        about |= {key: value for key, value in found.about.items() if key != "note"}
        notes += [found.about["note"]] if "note" in found.about else []
        for i, label in enumerate(found.labels):
            own = {key: value[i] if isinstance(value, list) else value for key, value in about.items()}
            rows.append({"source": found.name, "index": found.first + i, "label": label} | own)
    for note, count in Counter(notes).items():
        warnings.warn(f"{count} files: {note}", stacklevel=4)
    return rows, rejected


def _collect(listed: Scan, dtype, folder: Path | None) -> tuple[np.ndarray, pd.DataFrame, list[dict]]:
    """All images as one array, in memory or as a memory map in `folder`, sorted by source."""
    shape, natural, files = _shape_of_most(iter(listed))
    if folder is None:
        pixels = _Pixels(io.BytesIO(), dtype)
        pixels.begin(shape, natural)
        rows, rejected = _append(files, pixels, listed.skipped)
        buffer = pixels.file.getbuffer()[pixels.start :]
        images = np.frombuffer(buffer, pixels.dtype).reshape(-1, *shape)
        catalogue, order, in_order = _sorted(rows)
        images = images if in_order else images[order]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "images.npy") as partial:
            with open(partial, "w+b") as file:
                pixels = _Pixels(file, dtype)
                pixels.begin(shape, natural)
                rows, rejected = _append(files, pixels, listed.skipped)
                pixels.finish()
            catalogue, order, in_order = _sorted(rows)
            if not in_order:
                _reorder(partial, order)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    hashes = (hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest() for image in images)
    catalogue.insert(2, "hash", list(hashes))
    return images, catalogue, rejected


def _sorted(rows: list[dict]) -> tuple[pd.DataFrame, np.ndarray, bool]:
    """The catalogue by source, the places of its rows before, and whether they stay: tars come in any order."""
    catalogue = pd.DataFrame(rows)
    order = np.lexsort((catalogue["index"], catalogue["source"]))
    return catalogue.iloc[order].reset_index(drop=True), order, bool((order[1:] > order[:-1]).all())


def _reorder(file: Path, order: np.ndarray) -> None:
    images = np.load(file, mmap_mode="r", allow_pickle=False)
    with whole_file(file) as partial, open(partial, "wb") as target:
        target.write(npy_header(images.shape, images.dtype))
        for start in range(0, len(order), PIECE):
            target.write(images[order[start : start + PIECE]].tobytes())


def _unique_names(catalogue: pd.DataFrame) -> pd.Series:
    paths = catalogue["source"].map(lambda source: posixpath.splitext(source)[0])
    in_stacks = catalogue["index"].groupby(catalogue["source"]).transform("max") > 0
    numbers = np.where(in_stacks, "-" + catalogue["index"].astype(str).str.zfill(5), "")
    for names in (paths.map(posixpath.basename), paths, catalogue["source"]):
        if (names + numbers).is_unique:
            break
    return names + numbers


def _report(listed: Scan, rejected: list[dict], lost: set[str]) -> None:
    """Warn of what was rejected and skipped; more bad files than a study allows, or a class lost, is an error."""
    some = "; ".join(f"{entry['name']}: {entry['reason']}" for entry in rejected[:3])
    if lost:
        raise DataError(f"{listed.where}: nothing of class {sorted(lost)} could be read; {some}")
    if len(rejected) > max(STOPPING_SHARE * len(listed.images), 2):
        raise DataError(
            f"{listed.where}: {len(rejected)} of {len(listed.images)} files cannot be used ({some}); mend or remove "
            f"them: a set of which more than {STOPPING_SHARE:.0%} are bad is more likely misunderstood than damaged"
        )
    if rejected:
        more = f"; and {len(rejected) - 3} more, all in description['rejected']" if len(rejected) > 3 else ""
        warnings.warn(f"{listed.where}: {len(rejected)} files rejected ({some}{more})", stacklevel=3)
    for reason, count in Counter(listed.skipped.values()).items():
        names = [name for name, why in listed.skipped.items() if why == reason]
        if "archive" in reason or "format" in reason and _may_be_image(names):
            warnings.warn(f"{listed.where}: {count} files skipped ({', '.join(names[:3])}): {reason}", stacklevel=3)
    if listed.unused_labels:
        warnings.warn(f"{listed.where}: {listed.unused_labels} rows of the labels name no image", stacklevel=3)


def _may_be_image(names: list[str]) -> bool:
    """Whether files of an unknown format might have been meant as images: not tables, texts and programs."""
    return any(PurePosixPath(name).suffix.lower() not in TEXTS for name in names)


# ---- writing --------------------------------------------------------------------------------------------------------


def write_deeplense(dataset: LensDataset, folder: str | Path) -> Path:
    """Write `dataset` as DeepLense does: one `.npy` an image under `<class>/`, or `{train,val,test}/<class>/` once it
    is split, as `(H, W)` for one channel. Axion images of known mass become pickled `[image, axion mass]` arrays. The
    arcseconds of one pixel, where they are known, stand in `info.json` beside these parts, or in `<folder>-info.json`
    beside `folder` where it holds class folders alone; `read` and `predict` look in both places.

    Excluded images are omitted. Raises `DataError` if `folder` has something in it or two names fall together.
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
    if scale := dataset.description.get("pixel_scale"):
        about = folder / "info.json" if "part" in dataset.catalogue else about_folder(folder)
        about.write_text(json.dumps({"pixel_scale": scale}))
    return folder
