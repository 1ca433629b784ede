"""Tables as a reader sees them: a caption above, numbers rounded to what they mean, no row numbers."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

__all__ = ["table"]


def table(frame: pd.DataFrame, caption: str, formats: Mapping[str, Any] | None = None, missing: str = "") -> Styler:
    """A table with its caption, as the last line of a cell shows it.

    Args:
        frame: one row a line; an index that has a name becomes the first column, any other is dropped.
        caption: what the rows are, and what brackets mean; everything in `frame` and `caption` is escaped.
        formats: format of a column's numbers, such as `{"accuracy": "{:.1%}"}` (default: three significant digits for
            numbers that are no integers, and a comma for thousands).
        missing: what stands where there is no number.
    """
    frame = frame.reset_index() if any(frame.index.names) else frame
    frame = frame.rename_axis(columns=None)
    numbers = {c: "{:,}" for c in frame.select_dtypes("integer")} | {
        c: "{:.3g}" for c in frame.select_dtypes("floating")
    }
    chosen = numbers | dict(formats or {})
    return (
        frame.style.hide(axis="index").set_caption(html.escape(caption)).format(chosen, na_rep=missing, escape="html")
    )
