"""Predictions as one page: every image as the network saw it, its probabilities and what became of it.

The page is a single file that asks the network for nothing; a click on a column's name sorts by it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lensstudy.deployment.card import Card
from lensstudy.report.pages import write_page

__all__ = ["MOST_ROWS", "thumbnail", "write_predictions"]

MOST_ROWS = 5000  # images on one page, of some 10 MB
SIDE = 96  # pixels of a thumbnail at most
CUT = 0.5  # percent of the pixels that are white, and as many that are black


def thumbnail(seen: np.ndarray) -> str:
    """A small PNG, as the address of a picture in a page, of what a network saw of an image.

    Args:
        seen: the network's input `(C, S, S)`, row 0 on top; of several bands the mean is shown.
    """
    grey = np.nan_to_num(np.asarray(seen, np.float64).mean(axis=0))
    low, high = np.percentile(grey, [CUT, 100 - CUT])
    pixels = ((grey - low) / max(high - low, 1e-12)).clip(0, 1) * 255
    image = Image.fromarray(pixels.round().astype(np.uint8))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_predictions(
    html: str | Path, rows: Sequence[dict], card: Card, counts: Mapping[str, int], table: str, why: str = ""
) -> None:
    """Write the page.

    Args:
        html: the file to write.
        rows: rows as `Predictor.predict_files` gives them, with a `thumbnail` or none; `MOST_ROWS` at most are shown.
        card: that of the network.
        counts: how many images came to each state, those that are not shown included.
        table: name of the file with every row.
        why: why this network was chosen, where it was.
    """
    write_page(
        Path(html),
        "predictions.html.j2",
        rows=[{"thumbnail": "", **row} for row in rows[:MOST_ROWS]],
        classes=card.classes,
        card=card,
        counts={state: count for state, count in counts.items() if count},
        total=sum(counts.values()),
        table=table,
        why=why,
    )
