"""What lies at a path, said before anything is kept: layout, classes, counts, ranges and problems."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from lensstudy.data.containers import list_path, resolve
from lensstudy.data.dataset import DataError, canonical_class
from lensstudy.data.fits import SUFFIXES, contents
from lensstudy.data.formats import READABLE
from lensstudy.data.reading import (
    UNLABELLED,
    check_folders,
    class_order,
    decoded,
    labels_of,
    load_saved,
    majority,
    paired_images,
)

__all__ = ["inspect", "inspect_text", "survey"]

STOPPING_SHARE = 0.1  # of bad images, beyond which filtering stops a study (`filtering.Rules.largest_share`)


def inspect(path: str | Path, *, processes: int = 1, progress: bool = False) -> dict:
    """Say what lies at a path: layout, classes, counts, shapes, dtypes, ranges and problems.

    Args:
        path: folder, archive or file of images.
        processes: processes that decode.
        progress: show a progress bar.

    Returns:
        A report. `errors` would stop a study, `warnings` would not; `samples` are up to six rows of each class, evenly
        spaced, in the order in which `read` gives the images.

    Example:
        >>> import tempfile
        >>> from lensstudy import simulate
        >>> folder = simulate("model_3", 2, seed=1, image_size=32).save(tempfile.mkdtemp())
        >>> inspect(folder)["images"]
        6
    """
    report: dict = {"path": Path(path).resolve().name, "errors": [], "warnings": [], "classes": {}, "samples": {}}
    try:
        path = resolve(path)
        rows, skipped = survey(path, report, processes, progress)
    except DataError as error:
        return report | {"errors": [*report["errors"], str(error)]}
    table = pd.DataFrame(rows).sort_values(["source", "index"], ignore_index=True)
    report |= {"images": len(table), "shapes": _counts(table["shape"]), "dtypes": _counts(table["dtype"])}
    table = table[table["like_others"]].reset_index(drop=True)
    for name in class_order(set(table["class"]), None):
        of_class = table[table["class"] == name]
        report["classes"][name] = {
            "images": len(of_class),
            "parts": _counts(of_class["part"].dropna()),
            "minimum": float(of_class["minimum"].min()),
            "mean": float(of_class["mean"].mean()),
            "maximum": float(of_class["maximum"].max()),
        }
        evenly = np.unique(np.linspace(0, len(of_class) - 1, 6).astype(int))
        report["samples"][name] = of_class.index[evenly].tolist()
    if len(report["classes"]) < 2 and not report["errors"]:
        report["errors"].append(f"only one class ({', '.join(report['classes'])}); a study needs two or more")
    for name, about in report["classes"].items():
        if about["images"] < 10 and name != UNLABELLED:
            report["errors"].append(f"class {name} has {about['images']} images; training, validation and test need 10")
    height, width = table["shape"][0][1:]
    if height != width:
        report["errors"].append(f"images are {height}x{width}; rotations by 90 degrees need square ones: crop them")
    if others := report["images"] - len(table):
        report["warnings"].append(f"{others} images have another shape or dtype than the first, and are skipped")
    for bad, text in (
        (~np.isfinite(table["mean"]), "images hold NaN or infinite pixels"),
        (table["minimum"] == table["maximum"], "images are constant"),
        (table["hash"].duplicated(), "images are exact copies of others"),
    ):
        if bad.any():
            stops = bad.sum() > max(STOPPING_SHARE * len(table), 2)
            report["errors" if stops else "warnings"].append(f"{int(bad.sum())} {text}")
    report["warnings"] += [f"skipped {entry['name']}: {entry['reason']}" for entry in skipped]
    return report


def survey(path: Path, report: dict, processes: int, progress: bool) -> tuple[list[dict], list[dict]]:
    """Figures of every image at `path` and the skipped files; layout, errors and contents go into `report`."""
    rows, skipped = [], []
    if path.is_dir() and (path / "dataset.json").exists():
        dataset = load_saved(path)
        try:
            dataset.check_fingerprint(path)
        except DataError as error:
            report["errors"].append(str(error))
        report |= {"layout": "study", "files": 3}
        columns = zip(dataset.catalogue["name"], dataset.catalogue["class"], dataset.images, strict=True)
        return [_figures(name, name_class, None, 0, image) for name, name_class, image in columns], skipped
    listing = list_path(path)
    report |= {"layout": listing.kind, "files": len(listing.names), "ignored": len(listing.ignored)}
    if not listing.names:
        raise DataError(f"{path.name}: no images ({len(listing.ignored)} other files). Known: {', '.join(READABLE)}.")
    paired = paired_images(listing, None, None, path.name) if listing.kind in ("npz", "hdf5") else None
    try:
        labels = {} if paired else labels_of(listing, path.resolve().name)
        check_folders(listing, path.resolve().name)
    except DataError as error:
        report["errors"].append(str(error))
        labels = {name: (UNLABELLED, None) for name in listing.names}
    first, content = next(listing.stream())
    if first.lower().endswith(SUFFIXES):
        report["contents"] = contents(content)
    shape, dtype, results = majority(paired or decoded(listing, None, processes, progress), None)
    for name, stack, truth, reason in results:
        if stack is None:
            skipped.append({"name": name, "reason": reason})
            continue
        found, part = (truth["label"], None) if paired else labels[name]
        known = found if found == UNLABELLED else canonical_class(found, path.name)
        like_others = stack.shape[1:] == shape and np.can_cast(stack.dtype, dtype, "safe")  # as `read` decides
        rows += [
            _figures(name, known, part, truth.get("index", i), image) | {"like_others": like_others}
            for i, image in enumerate(stack)
        ]
    return rows, skipped


def _figures(source: str, name: str, part: str | None, index: int, image: np.ndarray) -> dict:
    about: dict = {"source": source, "class": name, "part": part, "index": index, "like_others": True}
    about |= {
        "shape": image.shape,
        "dtype": str(image.dtype.newbyteorder("=")),
        "hash": hashlib.blake2b(image.tobytes()).hexdigest(),
    }
    return about | {"minimum": image.min(), "mean": image.mean(dtype=float), "maximum": image.max()}


def _counts(values: pd.Series) -> dict[str, int]:
    texts = values.map(lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else value)
    return {text: int(count) for text, count in texts.value_counts().items()}


def inspect_text(report: dict) -> str:
    """The report of `inspect` in plain text."""
    lines = [f"{report['path']}: {report.get('layout', 'not readable')}, {report.get('files', 0)} files"]
    if report["classes"]:
        shapes = ", ".join(f"{shape} ({count})" for shape, count in report["shapes"].items())
        lines += [f"{report['images']} images, shape {shapes}, dtype {', '.join(report['dtypes'])}", ""]
        lines += [f"{'class':12} {'images':>7} {'minimum':>11} {'mean':>11} {'maximum':>11}  parts"]
    for name, about in report["classes"].items():
        parts = ", ".join(f"{part} {count}" for part, count in about["parts"].items()) or "-"
        figures = " ".join(f"{about[key]:11.4g}" for key in ("minimum", "mean", "maximum"))
        lines.append(f"{name:12} {about['images']:7} {figures}  {parts}")
    if "contents" in report:
        lines += ["", "extensions of the first file: " + ", ".join(report["contents"])]
    for kind in ("errors", "warnings"):
        some = report[kind][:10]
        more = [f"... and {len(report[kind]) - 10} more"] if len(report[kind]) > 10 else []
        lines += ["", f"{kind}:", *(f"  {text}" for text in some + more)] if some else []
    return "\n".join([*lines, "", "fit for a study" if not report["errors"] else "NOT fit for a study"])
