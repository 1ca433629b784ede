"""Words of messages that several subpackages use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `known` that `name` was probably meant to be, empty where none is at least `cutoff` alike."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")
