"""Tables as a reader sees them: a caption above, numbers rounded to what they mean, no row numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

__all__ = ["table"]

NAME = 20  # letters of a name that is kept on one line


def table(frame: pd.DataFrame, caption: str, formats: Mapping[str, Any] | None = None, missing: str = "") -> Styler:
    """A table with its caption, as the last line of a cell shows it.

    Args:
        frame: one row a line; an index that has a name becomes the first column, any other is dropped.
        caption: what the rows are, and what brackets mean; everything in `frame` and `caption` is escaped. Where there
            are no rows it stands alone.
        formats: format of a column's numbers, such as `{"accuracy": "{:.1%}"}` (default: three decimals for shares,
            three digits for other numbers, a comma for thousands).
        missing: what stands where there is no number.
    """
    frame = frame.reset_index() if any(frame.index.names) else frame
    frame = frame.rename_axis(columns=None)
    chosen = {name: "{:,}" for name in frame.select_dtypes("integer")}
    chosen |= {name: _rounded(frame[name]) for name in frame.select_dtypes("floating")} | dict(formats or {})
    styled = frame.style.hide().set_caption(html.escape(caption)).format(chosen, na_rep=missing, escape="html")
    if frame.empty:
        return styled.hide(axis="columns").set_table_attributes('style="width: 100%"')  # as wide as its caption
    return styled.map(_whole)


def _whole(value: object) -> str:
    """Names such as `plain-cnn` are not broken over two lines."""
    return "white-space: nowrap" if isinstance(value, str) and len(value) <= NAME and value[:1].isalpha() else ""


def _rounded(numbers: pd.Series) -> str:
    """Shares with three decimals; what is larger than 1, or partly too small to be seen so, with three digits."""
    sizes = numbers.abs()[numbers != 0]
    return "{:.3f}" if sizes.between(5e-4, 1).all() else "{:.3g}"
