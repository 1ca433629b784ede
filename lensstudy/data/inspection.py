"""What lies at a path, said before anything is kept: layout, classes, counts, ranges and problems."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data.containers import resolve
from lensstudy.data.dataset import DataError
from lensstudy.data.fits import SUFFIXES, contents
from lensstudy.data.labels import UNLABELLED, class_order, classes_of
from lensstudy.data.reading import STOPPING_SHARE, common_scale
from lensstudy.data.scanning import Scan, scan

__all__ = ["inspect", "inspect_text"]


def inspect(
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
    label_columns: tuple[str, str] | None = None,
    extension: str | int | None = None,
    processes: int = 1,
    progress: bool = False,
) -> dict:
    """Say what lies at a path: layout, classes, counts, shapes, dtypes, ranges and problems.

    Args:
        path: folder, archive or file of images.
        classes: names of the classes, as `read` takes them; so are the next three.
        labels: a CSV file with the class of each image, or the name of an HDF5 attribute.
        label_columns: the columns of that file with names and classes.
        extension: FITS extension, HDF5 dataset or npz key of the image.
        processes: processes that decode.
        progress: show a progress bar.

    Returns:
        A report. `errors` would stop a study, `warnings` would not; `files` are those found, read, rejected and
        skipped; `samples` are up to six rows of each class, evenly spaced, in the order in which `read` gives the
        images.

    Example:
        >>> import tempfile
        >>> from lensstudy import simulate
        >>> folder = simulate("model_3", 2, seed=1, image_size=32).save(tempfile.mkdtemp())
        >>> inspect(folder)["images"]
        6
    """
    where = Path(path).resolve().name
    report: dict = {"path": where, "errors": [], "warnings": [], "classes": {}, "samples": {}, "images": 0}
    options: dict[str, Any] = {"extension": extension, "processes": processes, "progress": progress}
    try:
        path = resolve(path)
        try:
            listed = scan(path, classes=classes, labels=labels, label_columns=label_columns, **options)
        except DataError as error:  # without labels, so that the rest can be said
            report["errors"].append(str(error))
            listed = scan(path, labelled=False, **options)
        rows = _survey(listed, path, report, classes)
    except DataError as error:
        return report | {"errors": list(dict.fromkeys([*report["errors"], str(error)]))}
    table = pd.DataFrame(rows).sort_values(["source", "index"], ignore_index=True)
    shape = table["shape"].iloc[: len(table)].value_counts().index[0]
    report |= {"images": len(table), "shapes": _counts(table["shape"]), "dtypes": _counts(table["dtype"])}
    others = table["shape"].map(lambda other: other != shape)
    rejected = report["files"]["rejected"] + table["source"][others].nunique()
    report["files"] |= {"rejected": rejected, "read": report["files"]["found"] - report["files"]["skipped"] - rejected}
    if others.any():
        text = f"{int(others.sum())} images have another shape than the others, {_text(shape)}, and are rejected"
        report["errors" if rejected > max(STOPPING_SHARE * len(listed.images), 2) else "warnings"].append(text)
    elif rejected > max(STOPPING_SHARE * len(listed.images), 2):
        report["errors"].append(f"{rejected} of {len(listed.images)} files cannot be used")
    table = table[~others].reset_index(drop=True)
    for name in class_order(set(table["class"]), classes):
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
    if numbers := [name for name in report["classes"] if name.isdigit()]:
        report["warnings"].append(f"classes {', '.join(numbers)} are numbers; say what they are (classes=, --classes)")
    height, width = shape[1:]
    if height != width:
        report["errors"].append(f"images are {height}x{width}; rotations by 90 degrees need square ones: crop them")
    if shape[0] > 4:
        report["warnings"].append(
            f"arrays of {_text(shape)} are taken for one image of {shape[0]} bands each; a stack of {shape[0]} images "
            f"is saved as {shape[0]}x1x{height}x{width}"
        )
    for bad, text in (
        (~np.isfinite(table["mean"]), "images hold NaN or infinite pixels"),
        (table["minimum"] == table["maximum"], "images are constant"),
        (table["hash"].duplicated(), "images are exact copies of others"),
    ):
        if bad.any():
            stops = bad.sum() > max(STOPPING_SHARE * len(table), 2)
            report["errors" if stops else "warnings"].append(f"{int(bad.sum())} {text}")
    try:
        report["pixel_scale"] = common_scale(zip(table["source"], table["pixel_scale"], strict=True), None, where)
    except DataError as error:
        report["errors"].append(str(error))
    return report


def _survey(listed: Scan, path: Path, report: dict, classes: Sequence[str] | None) -> list[dict]:
    """Figures of every image; layout, counts, errors and warnings go into `report`."""
    rows, notes = [], []
    report |= {"layout": listed.kind, "files": {"found": len(listed), "rejected": 0, "skipped": len(listed.skipped)}}
    report["skipped"] = dict(Counter(listed.skipped.values()).most_common())
    if listed.kind != "study" and (path.is_dir() or path.name.lower().endswith(SUFFIXES)):
        first = next((name for name in listed.images if name.lower().endswith(SUFFIXES)), None)
        if first:
            report["contents"] = contents(path / first if path.is_dir() else path)
    for found in listed:
        if found.hostile:
            report["errors"].append(found.reason if found.name in found.reason else f"{found.name}: {found.reason}")
        if found.state == "skipped":
            report["skipped"][found.reason] = report["skipped"].get(found.reason, 0) + 1
            report["files"]["skipped"] += 1
        elif found.images is None:
            report["files"]["rejected"] += 1
            report["warnings"].append(f"rejected {found.name}: {found.reason}")
        if found.images is None:
            continue
        notes += [found.about["note"]] if "note" in found.about else []
        for i, (image, label) in enumerate(zip(found.images, found.labels, strict=True)):
            about = {"class": label, "part": found.part, "index": found.first + i, "source": found.name}
            rows.append(about | {"pixel_scale": found.about.get("pixel_scale")} | _figures(image))
    texts = listed.texts() | {row["class"] for row in rows} - {UNLABELLED}
    names = classes_of(texts, listed.where, classes)
    for row in rows:
        row["class"] = names.get(row["class"], UNLABELLED)
    report["warnings"] += [f"{count} files: {note}" for note, count in Counter(notes).items()]
    report["warnings"] += [f"{listed.unused_labels} rows of the labels name no image"] * bool(listed.unused_labels)
    if not rows:
        first_bad = report["warnings"][0] if report["warnings"] else "every file belongs to an image that is missing"
        raise DataError(f"{listed.where}: no image could be read; {first_bad}")
    return rows


def _figures(image: np.ndarray) -> dict:
    about: dict = {"shape": image.shape, "dtype": str(image.dtype.newbyteorder("="))}
    about["hash"] = hashlib.blake2b(image.tobytes()).hexdigest()
    return about | {"minimum": image.min(), "mean": image.mean(dtype=float), "maximum": image.max()}


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _counts(values: pd.Series) -> dict[str, int]:
    texts = values.map(lambda value: _text(value) if isinstance(value, tuple) else value)
    return {text: int(count) for text, count in texts.value_counts().items()}


def inspect_text(report: dict) -> str:
    """The report of `inspect` in plain text."""
    files = report.get("files", {})
    counted = ", ".join(f"{files.get(state, 0)} {state}" for state in ("read", "rejected", "skipped"))
    lines = [f"{report['path']}: {report.get('layout', 'not readable')}, {files.get('found', 0)} files ({counted})"]
    lines += [f"  skipped {count}: {reason}" for reason, count in report.get("skipped", {}).items()]
    if report["classes"]:
        shapes = ", ".join(f"{shape} ({count})" for shape, count in report["shapes"].items())
        lines += [f"{report['images']} images, shape {shapes}, dtype {', '.join(report['dtypes'])}"]
        scale = report.get("pixel_scale")
        lines += [f"pixels of {scale:.4g} arcsec" if scale else "the files do not say how large their pixels are", ""]
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
