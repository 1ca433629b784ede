"""Sets in one file, npz or HDF5: which of its arrays are images, which are their labels, and which are neither.

Labels belong to the images whose name differs from theirs in that one word: `train/images` and `train/labels`, `x_test`
and `y_test`. Of HDF5 the attributes are read too, for labels and for the bands of one lens that lie in one group.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lensstudy.data.companions import role_and_key
from lensstudy.data.containers import H5_ERRORS, Listing
from lensstudy.data.dataset import DataError
from lensstudy.data.formats import own_pixels, read_npy
from lensstudy.data.labels import BAND, LABEL_COLUMNS, PARTS, TRUE_AND_FALSE, true_or_false

__all__ = [
    "Pair",
    "attribute_labels",
    "bands_of_groups",
    "checked",
    "has_labels",
    "is_labels",
    "names_of",
    "pairs",
    "whole",
]

IMAGES = ("images", "image", "x", "data", "imgs", "img", "pixels", "inputs")
LABELS = ("labels", "label", "classes", "class", "y", "ans", "targets", "target", "islens")
ATTRIBUTES = (*LABEL_COLUMNS, "substructure")  # attributes of HDF5 that say the class
UNNAMED = re.compile(r"arr_\d+(?:\.npy)?")  # arrays that `numpy.savez` was given no names for


@dataclass
class Pair:
    """An array of images, the array of their labels, and the part that both are named for."""

    images: str
    labels: str
    part: str | None


def whole(content: Any, name: str) -> np.ndarray:
    """All of an array in an npz or HDF5 file, whose whole set hangs on it: damage is an error here, not a skip."""
    try:
        if isinstance(content, Exception):
            raise content
        return read_npy(content, name)[0] if isinstance(content, bytes | Path) else np.asarray(content)
    except DataError:
        raise
    except H5_ERRORS as error:
        raise DataError(f"'{name}' cannot be read: {error}") from error


def _words(name: str) -> list[str]:
    name = name.lower().removesuffix(".npy").replace("is_lens", "islens")
    return [word for word in re.split(r"[/_.\- ]+", name) if word]


def _key(name: str, known: Collection[str]) -> tuple[str, ...] | None:
    """The words of a name without the one of `known` that it must have."""
    words = _words(name)
    if not set(words) & set(known):
        return None
    return tuple(sorted(word for word in words if word not in known))


def is_labels(name: str, content: Any) -> bool:
    """Whether a file is called like labels and holds one value for each of many images: a Y band is called y too."""
    if _key(PurePosixPath(name).name, LABELS) is None or not name.lower().endswith(".npy"):
        return False
    try:
        return _are_labels(whole(content, name))
    except DataError:
        return False


def has_labels(listing: Listing) -> bool:
    """Whether one of the arrays holds labels."""
    candidates = [name for name in listing.names if _key(name, LABELS) is not None]
    return any(is_labels(name, content) for name, content in listing.stream(candidates))


def pairs(listing: Listing, extension: str | int | None, where: str) -> list[Pair]:
    """The images with labels in a listing of arrays; empty where no array holds labels.

    Raises `DataError` where it is not clear to which images labels belong.
    """
    if extension is None and len(listing.names) > 1 and all(UNNAMED.fullmatch(name) for name in listing.names):
        return _unnamed_pairs(listing, where)
    candidates = [name for name in listing.names if _key(name, LABELS) is not None]
    labels = [name for name, content in listing.stream(candidates) if _are_labels(whole(content, name))]
    if not labels:
        return []
    by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
    others = [name for name in listing.names if name not in labels]
    for name in others:
        named = extension is not None and _words(name)[-len(_words(str(extension))) :] == _words(str(extension))
        key = _key(name, {*IMAGES, *_words(str(extension))} if named else IMAGES)
        if key is not None and (named or extension is None):
            by_key[key].append(name)
    found = []
    for name in labels:
        images = by_key.get(_key(name, LABELS) or (), [])
        if not images and len(labels) == 1:
            images = [one for some in by_key.values() for one in some] or (others if len(others) == 1 else [])
        if len(images) != 1:
            several = f"to {', '.join(images)}" if images else f"to none of {', '.join(others[:8]) or 'no other array'}"
            raise DataError(f"{where}: '{name}' could be the labels {several}; name the images with --extension")
        part = next((PARTS[word] for word in _words(name) if word in PARTS), None)
        found.append(Pair(images[0], name, part))
    return found


def _unnamed_pairs(listing: Listing, where: str) -> list[Pair]:
    """The images with labels among arrays without names, by their shapes: labels belong to the one stack as long."""
    stacks: dict[str, int] = {}
    labels: dict[str, int] = {}
    for name, content in listing.stream(listing.names):
        array = whole(content, name)
        if array.ndim >= 3:
            stacks[name] = len(array)
        elif array.ndim and _are_labels(array) and len(set(names_of(array, None))) < len(array):  # no numbers of rows
            labels[name] = len(array)
    found = []
    for name, count in labels.items():
        images = [other for other, length in stacks.items() if length == count]
        if len(images) != 1 or list(labels.values()).count(count) > 1:
            raise DataError(
                f"{where}: '{name}' could be the labels of {', '.join(images) or 'no other array'}; name the arrays "
                "(images, labels)"
            )
        found.append(Pair(images[0], name, None))
    return found


def _are_labels(array: np.ndarray) -> bool:
    """Whether an array says a class for each image: one value each, or one of several columns set to one."""
    if array.dtype.kind not in "biufSUO":
        return False
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        return array.dtype.kind != "f" or bool((np.mod(array, 1) == 0).all())
    return array.ndim == 2 and array.dtype.kind in "biuf" and _one_hot(array)


def _one_hot(array: np.ndarray) -> bool:
    return bool(np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all())


def names_of(labels: np.ndarray, classes: Sequence[str] | None, name: str = "") -> list[str]:
    """The name that each label stands for: of numbers that of `classes` at its place, else the number itself. An array
    called `is_lens` says the classes itself."""
    if "islens" in _words(name):
        classes = classes or TRUE_AND_FALSE["is_lens"]
    labels = labels.argmax(axis=1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.ravel()
    if labels.dtype.kind in "biuf":
        numbers = [int(number) for number in labels]
        return [classes[n] if classes and 0 <= n < len(classes) else str(n) for n in numbers]
    return [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in labels]


# ---- HDF5 -----------------------------------------------------------------------------------------------------------


def bands_of_groups(names: Collection[str]) -> dict[str, list[str]]:
    """Groups of HDF5 that hold one lens in several bands, and the names of these in the order of the bands."""
    below: dict[str, list[str]] = defaultdict(list)
    for name in names:
        group, _, own = name.rpartition("/")
        if role_and_key(own)[0] in ("image", "other"):  # the Roman challenge calls its images exposures
            below[group].append(own)
    found = {}
    for group, own in below.items():
        bands = [
            next((word for word in reversed(re.split(r"[_\-. ]", name)) if BAND.fullmatch(word)), "") for name in own
        ]
        rests = {name.replace(band, "") for name, band in zip(own, bands, strict=True)}
        if group and len(own) > 1 and all(bands) and len(set(bands)) == len(own) and len(rests) == 1:
            found[group] = [f"{group}/{name}" for name in sorted(own)]
    return found


def attribute_labels(path: Path, names: Collection[str], wanted: str | None = None) -> dict[str, str]:
    """The class that attributes of HDF5 say of each of the arrays or groups `names`, their own or those of a group
    above; empty where not all of them have one. `wanted` names the attribute."""
    import h5py

    try:
        with h5py.File(path) as file:
            return _attributes(file, names, wanted)
    except H5_ERRORS as error:
        raise DataError(f"{path.name}: its attributes cannot be read ({error}). Fetch it again.") from error


def _attributes(file: Any, names: Collection[str], wanted: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        node = file[name]
        while name not in found:
            key = next((key for key in node.attrs if key == wanted or (not wanted and key.lower() in ATTRIBUTES)), None)
            if key:
                found[name] = _label(key, node.attrs[key])
            elif node.name == "/":
                return {}
            node = node.parent
    return found


def _label(key: str, value: Any) -> str:
    """One label: the first of `[value, description]`, and a word for true and false where the attribute has one."""
    first = np.ravel(value)[0] if np.size(value) else ""
    text = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
    return true_or_false(key, text)


def checked(content: Any, name: str) -> Any:
    """An HDF5 dataset, from which pieces can be read, or a whole array; `DataError` for a hostile one."""
    return own_pixels(content) if hasattr(content, "external") else whole(content, name)
