"""Words of messages, and text as Markdown, that several subpackages use."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from lensstudy.files import printable

__all__ = ["as_cell", "in_markdown", "nearest"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet takes for a formula


def as_cell(value: object) -> object:
    """Return a value as a cell of a CSV table: numbers with four digits after the point, and an apostrophe before text
    that a spreadsheet would run as a formula.

    Example:
        >>> as_cell(0.25), as_cell("=1+1")
        ('0.2500', "'=1+1")
    """
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def in_markdown(text: Any) -> str:
    """Text on one line that Markdown shows as it is, and never as markup.

    Example:
        >>> print(in_markdown("2 * <b>"))
        2 \\* \\<b\\>
    """
    line = printable(re.sub(r"[^\S\u00a0]+", " ", str(text)).strip())
    return re.sub(r"[\\`*\[\]<>|#$~&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The one of `known` that `name` was probably meant to be, empty where none is at least `cutoff` alike."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), "")
