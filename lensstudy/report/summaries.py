"""What a study says of itself on its first page: `summary.json`, and the same in plain words.

A plain sentence counts mistakes ("wrong 13 instead of 20 times in 100") and has no bracket. It is read off the table
of the study, so that no number in a list or in the README is typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from lensstudy.files import FileError, read_json
from lensstudy.networks.baselines import same_filters
from lensstudy.networks.names import BASELINES

__all__ = ["Summary", "below_chance", "in_plain_words", "read_summary", "short_table", "summary_folder"]

UPRIGHT = ("unperturbed", "upright")
SHORT = ("network", "AUC", "accuracy")  # what the first table of a page has of the whole
WELL_KNOWN = {"resnet18": "ResNet-18"}  # what readers know from elsewhere, and want to see beside the pair
TOGETHER = "together"  # the way of a transfer with all changes of what networks see, and no image of a target
WORST = "lowest away"  # column of a transfer: the lowest AUC away from home
TRANSFERRED = ("network", "way", "home", WORST)  # what the first table of a transfer has of the whole
FEW = 8  # rows of a table that stands on a first page as a whole


class Summary(BaseModel):
    """What `summary.json` says of a study."""

    task: str = Field("", description="what is asked, of which images")
    answer: str = ""
    plain: str = Field("", description="the answer in plain words, where its numbers stand in no table")
    figure: str = ""
    figure_alt: str = ""
    figure_caption: str = ""
    table: list[dict[str, Any]] = []
    limitations: str = ""
    pairs: list[dict[str, Any]] = []
    images_to_match: list[dict[str, Any]] = Field([], description="images that others need for what the first reaches")
    ahead: list[dict[str, Any]] = Field([], description="lead of the first network with each number of training images")


def summary_folder(run: Path) -> Path:
    """Where the answer of a study lies: `analysis`, or what another notebook has left where a study has no analysis."""
    names = ("analysis", "transfer", "improvement", "published", "sample", "lenses", "subhalo", "ladder")
    folders = [run / name for name in names]
    return next((folder for folder in folders if (folder / "summary.json").exists()), folders[0])


def read_summary(run: Path) -> dict[str, Any]:
    """What the analysis has written for the index; entries that are not there, or not yet, are empty."""
    try:
        return read_json(summary_folder(run) / "summary.json", Summary).model_dump()
    except FileNotFoundError:
        return Summary().model_dump()
    except FileError as error:
        return Summary(limitations=f"{error}: run the notebook that writes it again.").model_dump()


def in_plain_words(summary: Mapping[str, Any]) -> str:
    """The answer of a study as a count of mistakes; its first sentence where the table holds none.

    Example:
        >>> table = [{"network": "d4", "test images": "upright", "accuracy": "0.871 [0.753, 0.937]"}]
        >>> in_plain_words({"answer": "Far better.", "table": table})
        'The network d4 is wrong 13 times in 100.'
    """
    if summary.get("plain"):
        return summary["plain"]
    rows = {str(row["network"]): row for row in _unperturbed(summary["table"])}
    wrong = {name: 1 - value for name, row in rows.items() if (value := _number(row.get("accuracy"))) is not None}
    names = [one for one in _compared(summary, list(rows)) if one in wrong]
    if names:
        known = [name for name in WELL_KNOWN if name in wrong and name not in names]
        counts, out_of = _counted([wrong[name] for name in [*names, *known]])
        if len(names) == 1:
            return f"The network {names[0]} is wrong {counts[0]} {_times(counts[0])} in {out_of}."
        first, other = _introduced(*names[:2])
        doubt = "; in AUC, with so few trainings and images, the difference may be chance" * _may_be_chance(summary)
        same = f", and one with the same filters but no symmetry ({names[2]}) {counts[2]}" if len(names) > 2 else ""
        same += ", though in AUC this difference may be chance" * (
            not doubt and bool(same) and _chance(summary, names[0], names[2])
        )
        with_many, with_few = _by_size(summary.get("ahead") or [], names[1])
        count = f"{first} is wrong {counts[0]} {_times(counts[0])} in {out_of}, {other} {counts[1]}{same}{doubt}."
        beside = "".join(
            f" {WELL_KNOWN[name]} is wrong {count} {_times(count)}"
            f"{', and in AUC this may be chance too' * _chance(summary, names[0], name)}."
            for name, count in zip(known, counts[len(names) :], strict=True)
        )
        count = count[0].lower() + count[1:] if with_many else count
        return f"{with_many}{count}{beside}{with_few}{_to_match(summary, *names[1:3])}"
    return _first_sentence(summary["answer"])


def short_table(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows and columns that the answer needs: every network on the test images as they are, and every baseline,
    with what they were asked where that differs; of a transfer, every network as it is, with all changes of
    what it sees, and with what was chosen without labels; of other long tables, the first rows. Empty where that is the
    whole table.

    Example:
        >>> rows = [("d4", "upright"), ("d4", "rotated by 90°"), ("(smooth fit)", "90 images: no_sub or not")]
        >>> short_table([{"network": name, "test images": images} for name, images in rows])
        [{'network': 'd4'}, {'network': '(smooth fit) 90 images: no_sub or not'}]
    """
    if not table or "test images" not in table[0]:
        if len(table) <= FEW:
            return []
        if WORST not in table[0]:
            return [dict(row) for row in table[: FEW // 2]]
        shown = [row for row in table if row["way"] in (table[0]["way"], TOGETHER) or row["chosen for"]]
        return [{name: row[name] for name in TRANSFERRED} for row in shown]
    rows = [
        dict(row)
        for row in table
        if row.get("test images") in UPRIGHT or str(row["network"]).startswith("(") or ": " in row["test images"]
    ]
    for row in rows:
        if row.get("test images") not in UPRIGHT:
            row["network"] = f"{row['network']} {row['test images']}"
    return [{name: row[name] for name in SHORT if name in row} for row in rows] if len(rows) < len(table) else []


def below_chance(table: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a table holds an AUC below 0.5, which asks for an explanation."""
    found = (_number(value) for row in table for name, value in row.items() if name in ("AUC", WORST))
    return any(value is not None and value < 0.5 for value in found)


def _unperturbed(table: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    rows = [row for row in table if "accuracy" in row and not str(row.get("network", "(")).startswith("(")]
    return [row for row in rows if row.get("test images", UPRIGHT[0]) in UPRIGHT]


def _compared(summary: Mapping[str, Any], networks: list[str]) -> list[str]:
    """The pair of the answer, the first that was compared, which is what the analysis puts there, and the same filters
    without symmetry."""
    pairs = summary.get("pairs") or [{}]
    first, other = pairs[0].get("first", ""), pairs[0].get("second", "")
    if not (first in networks and other in networks):
        return networks[:2]
    same = same_filters(first)
    return [first, other, *([same] if same in networks and same not in (first, other) else [])]


def _to_match(summary: Mapping[str, Any], other: str, same: str = "") -> str:
    """How many times as many images another network needs for what the first reaches with the fewest for which its
    curve tells that with both limits, and with so many the one of the `same` filters."""
    rows = summary.get("images_to_match") or []
    told = [row for row in rows if None not in (row["needed"], row["low"], row["high"])]
    for row in told:
        if row["network"] != other:
            continue
        beside = next((one for one in told if one["network"] == same and one["images"] == row["images"]), None)
        needed = _factor(row, " as many", "95\u00a0% interval ") + (f", {same} {_factor(beside)}" if beside else "")
        return f" To be as good as the first is with {row['images']:,} images, {other} needs {needed}."
    return ""


def _factor(row: Mapping[str, Any], as_many: str = "", interval: str = "") -> str:
    needed, low, high = (row[name] / row["images"] for name in ("needed", "low", "high"))
    reach = f"{low:.2g} to {high:.2g}" if low > 1 else f"up to {high:.2g}"
    return f"{needed:.2g} times{as_many} ({interval}{reach})"


def _by_size(ahead: Sequence[Mapping[str, Any]], other: str) -> tuple[str, str]:
    """What goes before and after the count where a study has several numbers of training images: the number that the
    count is of, and those with which the first network is surely behind."""
    rows = [row for row in ahead if row["network"] == other]
    if len(rows) < 2:
        return "", ""
    behind = [f"{row['images']:,}" for row in rows if row["high"] < 0]
    reverse = f" With {' and '.join(behind)} it is the other way round." if behind else ""
    return f"With {max(row['images'] for row in rows):,} training images, ", reverse


def _introduced(first: str, other: str) -> tuple[str, str]:
    """Two networks by what tells them apart, where that is symmetry."""
    if re.match(r"[cd]([2-9]|\d\d)-|p4|so2|o2", first) and not _is_plain(first) and _is_plain(other):
        return f"The network that knows the symmetry ({first})", f"one that does not ({other})"
    return first, other


def _is_plain(name: str) -> bool:
    return name.endswith(tuple(BASELINES)) or name.startswith(("plain-", "resnet", "c1-"))


def _may_be_chance(summary: Mapping[str, Any]) -> bool:
    return "do not tell which" in summary["answer"]


def _chance(summary: Mapping[str, Any], first: str, other: str) -> bool:
    """Whether chance alone would make the distance of two networks in one case of twenty, over all comparisons."""
    pair = next((one for one in summary["pairs"] if (one["first"], one["second"]) == (first, other)), {})
    return pair.get("p", 0) > 0.05


def _counted(shares: Sequence[float]) -> tuple[list[str], str]:
    """Shares out of 100, rounded; out of 1,000 where that would make one of them 0."""
    out_of = 100 if min(shares) >= 0.0095 else 1000
    return [f"{round(out_of * share)}" for share in shares], f"{out_of:,}"


def _times(count: str) -> str:
    return "time" if count == "1" else "times"


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.?!:]) (?=[A-Z])", text, maxsplit=1)[0]


def _number(value: Any) -> float | None:
    found = re.match(r"\d*\.?\d+", str(value))
    return float(found[0]) if found else None
