"""What lies beside an image and belongs to it: its noise map, its PSF, its mask, and what is written about it.

Observations come as several files (`data.fits`, `noise_map.fits`, `psf.fits`), told apart by their names. Whoever takes
every file of a folder for an image gets answers about noise maps: `companions` says which ones are none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from lensstudy.data.dataset import DataError

__all__ = ["FILLERS", "LENSTRONOMY", "ROLES", "companions", "information", "role_and_key", "stem"]

ROLES = {  # words in the name of a file or of a FITS extension that say what is in it
    "psf": ("psf", "kernel"),
    "noise": ("noise", "rms", "sigma", "err", "error", "unc", "uncert", "uncertainty", "std"),
    "mask": ("mask",),
    "weight": ("wht", "weight", "weights", "ivar", "var", "variance", "ctx", "dq"),  # nothing here reads them
    "image": ("data", "image", "flux", "bgsub", "sci", "science", "drz", "drc", "flt", "flc"),
}
FILLERS = ("map", "extra", "galaxies")  # words that tell no file from another
NUMBERS = ("pixel_scale", "redshift_lens", "redshift_source", "position_angle")  # of `info.json`
LENSTRONOMY = "image_data"  # beside which lenstronomy's HDF5 holds exposure times and coordinates


def stem(name: str) -> str:
    """The name of a file without its folder and ending, in lower case."""
    return PurePosixPath(name).name.lower().removesuffix(".gz").rsplit(".", 1)[0]


def role_and_key(name: str) -> tuple[str, tuple[str, ...]]:
    """What a file holds by its name, `image`, `noise`, `psf` or `mask`, and the words that it shares with the other
    files of the same lens."""
    words = [word for word in re.split(r"[_. -]+", name.lower()) if word and word not in FILLERS]
    named = [(role, word) for role, known in ROLES.items() for word in words if word in known]
    role_words = {word for _, word in named}
    return (named[0][0] if named else "image"), tuple(word for word in words if word not in role_words)


def companions(names: Iterable[str]) -> dict[str, str]:
    """Of the files `names` (or of the arrays in an HDF5 file) those that are no images but belong to one in the same
    folder, of the same name or named for all images there, and what they hold."""
    placed = {name: (PurePosixPath(name).parent, *role_and_key(stem(name))) for name in names}
    images = {(folder, key) for folder, role, key in placed.values() if role == "image"}
    filled = {folder for folder, _ in images}
    found = {
        name: {"noise": "noise map", "psf": "PSF", "weight": "weight map"}.get(role, role)
        for name, (folder, role, key) in placed.items()
        if role != "image" and ((folder, key) in images or (not key and folder in filled))
    }
    by_lenstronomy = {PurePosixPath(name).parent for name in placed if PurePosixPath(name).name == LENSTRONOMY}
    beside = {name: "array" for name, (folder, *_) in placed.items() if folder in by_lenstronomy}
    return {name: role for name, role in (beside | found).items() if PurePosixPath(name).name != LENSTRONOMY}


def information(file: Path) -> dict:
    """`info.json` beside an image, as PyAutoLens keeps it: pixel scale, redshifts, published parameters. Raises
    `DataError` where it is damaged."""
    beside = file.with_name("info.json")
    try:
        about = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        numbers = {key: float(about[key]) for key in NUMBERS if about.get(key) is not None}
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{beside}: {error}; expected JSON such as {{'pixel_scale': 0.05}}") from None
    scale = numbers.get("pixel_scale", 1.0)
    if not 0 < scale < math.inf:
        raise DataError(f"{beside}: pixel_scale = {scale:g}; expected arcseconds of one pixel, more than 0")
    return about | numbers
