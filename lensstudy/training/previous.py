"""The training before this one, for whoever changes a parameter by hand and wants to see what it did.

`latest.json` beside the run folders keeps the history of the two trainings that were shown last. Nothing is kept or
shown in a batch, whose pages must not depend on what somebody tried before.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from pydantic import BaseModel

from lensstudy.files import FileError, read_json, write_json
from lensstudy.progress import in_batch
from lensstudy.training.run import TrainedNetwork

__all__ = ["Previous", "previous"]


class _Shown(BaseModel):
    card: dict
    history: list[dict]


class _Latest(BaseModel):
    shown: list[_Shown]  # the last first


@dataclass(frozen=True)
class Previous:
    """The training shown before: its `history`, and in `changes` one row a parameter that has changed since."""

    history: pd.DataFrame
    changes: pd.DataFrame

    @property
    def label(self) -> str:
        """What was different, such as `before: epochs = 3, learning_rate = 0.01`."""
        told = [f"{name} = {value}" for name, value in self.changes["before"].items()]
        return "before" + (f": {', '.join(told[:3])}{', ...' if len(told) > 3 else ''}" if told else "")


# What follows from other parameters, or is none.
UNTOLD = (
    "code",
    "versions",
    "data",
    "data_state",
    "data_fingerprint",
    "class_shares",
    "training_images",
    "size",
    "module",
)


def previous(run: TrainedNetwork) -> Previous | None:
    """The training that was shown before `run`, which is kept for the next; None in a batch, or if there was none.

    Asked again about the same training, the same one is returned.
    """
    if in_batch() or run.folder is None:
        return None
    file = run.folder.parent / "latest.json"
    try:
        shown = read_json(file, _Latest).shown
    except (FileError, FileNotFoundError):  # a convenience: without it, the figure shows one training
        shown = []
    now = _Shown(card=run.card, history=run.history.to_dict("records"))
    same = bool(shown) and shown[0].card == now.card
    shown = [now, *(shown[1:] if same else shown[:1])]
    write_json(file, _Latest(shown=shown).model_dump())
    if len(shown) < 2:
        return None
    return Previous(pd.DataFrame(shown[1].history), _changes(run.card, shown[1].card))


def _changes(now: dict, before: dict) -> pd.DataFrame:
    """One row a parameter that differs, network, seed and those of the data included."""
    now, before = (
        {**card.get("data", {}).get("parameters", {}), **card, "scaling": card["scaling"]["kind"]}
        for card in (now, before)
    )
    names = [name for name in now if now.get(name) != before.get(name) and name not in UNTOLD]
    return pd.DataFrame(
        {"now": [now[n] for n in names], "before": [before.get(n) for n in names]}, index=names, dtype=object
    )
