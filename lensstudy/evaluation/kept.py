"""What trained networks predict, kept beside their weights.

A study with many networks and test images predicts for half an hour. Whoever changes a figure or a number of
resamplings and runs the notebook again should not wait for that: predictions are made anew only where something behind
them has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lensstudy.files import regular, whole_file
from lensstudy.provenance import code_hash

__all__ = ["code_behind", "kept"]

FOLDER = "kept"  # in the folder of a training


def kept(
    training: Path | None, name: str, about: Mapping, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `make` returns, or what it returned before for the same weights and the same `about`.

    Args:
        training: folder of the training, with its `weights.safetensors`; None for a network without one, of which
            nothing is kept.
        name: of the file, `kept/<name>.npz`. One that is damaged is made again.
        about: all that the arrays depend on besides weights and card of the training, the fingerprint of the images and
            the code among them; JSON can hold it.
        make: computes the arrays, by name.

    Example:
        >>> kept(None, "ones", {}, lambda: {"ones": np.ones(2)})
        {'ones': array([1., 1.])}
    """
    if training is None:
        return make()
    parts = [
        hashlib.sha256((training / part).read_bytes()).hexdigest() for part in ("weights.safetensors", "card.json")
    ]
    mark = json.dumps({"training": parts, **about}, sort_keys=True)
    file = training / FOLDER / f"{name}.npz"
    found = _read(file)
    if str(found.pop("about", "")) == mark:
        return found
    made: dict[str, Any] = dict(make())
    with contextlib.suppress(OSError):  # a folder that nobody may write to, or a full disk: then nothing is kept
        file.parent.mkdir(exist_ok=True)
        with whole_file(file, apart=True) as partial:
            np.savez(partial, about=mark, **made)
    return made


def _read(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; none if it is not there or damaged."""
    try:
        with np.load(regular(file), allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, BadZipFile):
        return {}


def code_behind() -> str:
    """Hash of the code that predicts: how images are perturbed and rotated, and what a network makes of them."""
    return code_hash("evaluation.explanation", "training.run", without=("study", "provenance"))
