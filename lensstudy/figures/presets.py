"""Figures across presets: what a network was trained on, and what it was tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lensstudy.figures.analysis import transfer
from lensstudy.figures.style import captioned

if TYPE_CHECKING:
    from lensstudy.evaluation.presets import AcrossPresets

__all__ = ["across_presets"]


def across_presets(across: AcrossPresets, network: str) -> Figure:
    """The table of one network in colours: rows are what it was trained on, columns what it was tested on."""
    table = across.tables[network]
    words = "; ".join(f"{row.trained} on {row.tested}: {row.auc:.3f}" for row in table.itertuples())
    return captioned(transfer(table), across.caption(network), f"AUC of {network}, trained on one preset: {words}")
