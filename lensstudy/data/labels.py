"""What an image is: its class, the part it came in and the lens it shows, by its folders, its name or a table.

The names of DeepLense are known in their many spellings, and any other name is a class of its own; a name that is
nearly a known one is rejected, because it is more often a slip than a class. Only a table of labels is read here.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import pandas as pd

from lensstudy.data.dataset import CLASS_ALIASES, DataError, canonical_class
from lensstudy.files import regular
from lensstudy.text import nearest

__all__ = [
    "PARTS",
    "TRUE_AND_FALSE",
    "UNLABELLED",
    "Label",
    "class_of",
    "class_order",
    "classes_of",
    "is_class_folder",
    "lenses",
    "of_place",
    "of_table",
    "part_of",
    "true_or_false",
]

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
PARTS |= {"validation": "validation", "test": "test", "testing": "test"}
UNLABELLED = "unlabelled"
# The smooth lens first and the sought class last, whatever the order of the folders.
ORDER = ("no_sub", "cdm", "wdm", "sidm", "axion", "sub", "nonlens", "lens", UNLABELLED)
# Folders that say how files are kept, and not what is in them.
PLAIN = re.compile(
    r"(?:batch|band|part|chunk|shard|images?|imgs?|data|dataset|files?|fits|npy|png|jpe?g|tiff?|cutouts?|stamps?|raw"
    r"|all|set|samples?|sims?|simulations?|model|runs?|jobs?|tasks?|folds?|seeds?|tiles?|outputs?)?"
    r"[_ -]?(?:\d+|[ivx]+)?"
)
BAND = re.compile(
    r"band[-_]?(?:\d+|[ugrizyjhk])|[ugrizyjhk][-_]?band|[ugrizyjhk]s?|f\d{3,4}(?:[wmnlp]p?)?|vis|nir[-_]?[yjh]",
    re.IGNORECASE,
)
# The pieces of a name, where the name of a band is one: `NIR-Y`, `band_g`.
_SEPARATE = re.compile(r"((?<![^_\-. ])(?:band[-_]\w|\w[-_]band|nir[-_][yjh])(?![^_\-. ])|[_\-. ])", re.IGNORECASE)
NAME_COLUMNS = ("name", "file", "filename", "file_name", "image", "image_name", "path", "id", "image_id", "object_id")
SPLIT_COLUMNS = ("split", "part", "subset", "partition")
TRUE_AND_FALSE = {"substructure": ("no_sub", "sub"), "is_lens": ("nonlens", "lens")}  # columns and attributes
LABEL_COLUMNS = ("label", "class", "class_name", "target", "type", "kind", "y", "is_lens")


@dataclass
class Label:
    """The class of an image as it was found, the part that it came in, and the lens if several images show it."""

    text: str
    part: str | None = None
    lens: str | None = None


def class_of(text: str, where: str = "", classes: Sequence[str] | None = None) -> str:
    """The class that goes by `text`: one of `classes` if the user named them, a class that is known by this or another
    name, or one of the user's own.

    Raises `DataError` for a name that is nearly a known one, or that cannot be printed.
    """
    text = text.strip()
    if classes and (own := next((name for name in classes if _plain(name) == _plain(text)), None)):
        return own if _plain(own) == "no" and "yes" in map(_plain, classes) else _known(own) or own
    if known := _known(text):
        return known
    if not text or not text.isprintable() or len(text) > 80:
        place = f"{where}: " if where else ""
        raise DataError(f"{place}class {text[:80]!r}: expected a name of printable letters, at most 80 of them")
    if nearest(_plain(text), [alias for group in CLASS_ALIASES.values() for alias in group], cutoff=0.75):
        try:
            canonical_class(text, where)
        except DataError as error:
            raise DataError(f"{error} If it is a class of its own, name all classes (classes=, --classes).") from None
    return text


def classes_of(texts: Iterable[str], where: str = "", classes: Sequence[str] | None = None) -> dict[str, str]:
    """The class that each of the `texts` of one set stands for, as `class_of` says; but a `no` beside a `yes` answers
    a question that only the user knows, and is no smooth lens."""
    texts = set(texts)
    if classes is None and {_plain(text) for text in texts} == {"no", "yes"}:
        classes = ("no", "yes")
    return {text: class_of(text, where, classes) for text in texts}


def true_or_false(key: str, text: str) -> str:
    """The class in a column or attribute `key` that says true or false: a word where the key has one for each."""
    negative, positive = TRUE_AND_FALSE.get(key.lower(), ("False", "True"))
    words = {"false": negative, "true": positive}
    words |= {"0": negative, "1": positive} if key.lower() in TRUE_AND_FALSE else {}
    return words.get(text.strip().lower(), text.strip())


def _plain(text: str) -> str:
    return re.sub(r"[-_ ]+", "", text.strip().lower())


@lru_cache(maxsize=4096)
def _known(text: str) -> str | None:
    try:
        return canonical_class(text)
    except DataError:
        return None


def class_order(found: Iterable[str], wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The classes `found` in the order of a network's outputs: that of `wanted`, else the smooth one first and the
    names that only the user knows last, numbers by their value."""
    found = set(found)
    if wanted is None:
        last = len(ORDER)
        return tuple(sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else last, _by_number(name))))
    order = tuple(class_of(name, "classes", wanted) for name in wanted)
    if missing := found - set(order):
        raise DataError(f"classes={tuple(wanted)} lacks {sorted(missing)}, which the data has; add it.")
    return order


def _by_number(name: str) -> list:
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name) if piece]


# ---- by place -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def part_of(folder: str) -> tuple[str | None, str]:
    """The part that a folder is named for and the rest of its name: `train_lenses`, `test_set`, `Model_III_test`."""
    words = [word for word in re.split(r"[_\- ]+", folder) if word]
    if words and words[0].lower() in PARTS:
        return PARTS[words[0].lower()], "_".join(words[1:])
    if words and words[-1].lower() in PARTS:
        return PARTS[words[-1].lower()], "_".join(words[:-1])
    return None, folder


def of_place(names: Collection[str], where: str, classes: Sequence[str] | None = None) -> dict[str, Label]:
    """The label of each file by the folders it lies in, at whatever level they name classes, or by its own name.

    Raises `DataError` where nothing names a class, or where it is not clear which folders do.
    """
    above = {name: name.rpartition("/")[0] for name in names}
    of_folder = {one: [part_of(folder) for folder in PurePosixPath(one).parts] for one in set(above.values())}
    chains = {name: of_folder[one] for name, one in above.items()}
    parts = {name: next((part for part, _ in reversed(chain) if part), None) for name, chain in chains.items()}
    rests = {name: [rest for _, rest in chain] for name, chain in chains.items()}
    texts = _known_folders(rests, classes)
    if not texts:
        texts = _own_names(rests, classes) or _own_folders(rests)
    if not texts:
        wrong = next(iter(names))
        named = next((name for name in names if not _in_name(PurePosixPath(name).stem, classes)), wrong)
        raise DataError(
            f"{where}: no class folders, and the file name '{named}' names no class. Expected a folder with one folder "
            f"a class ({', '.join(CLASS_ALIASES)}, or names of your own), a table of labels (labels=, --labels), or "
            "labelled=False."
        )
    if stray := [name for name in names if name not in texts]:
        raise DataError(f"{where}: '{stray[0]}' lies beside the class folders, so its class is unknown; remove it.")
    for text, name in {text: name for name, text in texts.items()}.items():
        class_of(text, f"{where}/{PurePosixPath(name).parent}", classes)
    groups = lenses(names)
    return {name: Label(texts[name], parts[name], groups.get(name)) for name in names}


def is_class_folder(folder: str, classes: Sequence[str] | None = None) -> bool:
    """Whether a folder bears the name of a class, alone or with that of a part."""
    return _is_class(part_of(PurePosixPath(folder).name)[1], classes)


def _is_class(text: str, classes: Sequence[str] | None) -> bool:
    return bool(text) and (
        bool(_known(text)) or _plain(text) == "yes" or _plain(text) in {_plain(name) for name in classes or ()}
    )


def _known_folders(rests: dict[str, list[str]], classes) -> dict[str, str]:
    """The class folder of each file where folders bear names that are known, else nothing."""
    hits = {name: [k for k, rest in enumerate(chain) if _is_class(rest, classes)] for name, chain in rests.items()}
    if not any(hits.values()):
        return {}
    texts = {name: rests[name][found[-1]] for name, found in hits.items() if found}
    if len({class_of(text, "", classes) for text in texts.values()}) == 1:  # `cdm/lens` and `no_sub/lens`
        upper = {name: rests[name][found[0]] for name, found in hits.items() if found}
        texts = upper if len({class_of(text, "", classes) for text in upper.values()}) > 1 else texts
    levels = {found[-1] for found in hits.values() if found}
    for name, chain in rests.items():  # a folder beside them, of a class that only the user knows or of a slip
        beside = next((chain[level] for level in sorted(levels) if level < len(chain) and chain[level]), None)
        if name not in texts and beside:
            texts[name] = beside
    return texts


def _in_name(stem: str, classes) -> str:
    """The class that a file is named after: `no_sim_12`, `axion-3`, `0007_cdm`; empty where there is none."""
    head = re.split(r"[_-]?(?:sim)?[_-]?\d", stem)[0] or stem
    if _is_class(head, classes):
        return head
    words = [word for word in re.split(r"[_\-. ]+", stem) if word]
    for length in range(min(3, len(words)), 0, -1):
        runs = ["_".join(words[k : k + length]) for k in range(len(words) - length + 1)]
        found = {run for run in runs if _is_class(run, classes)}
        if len(found) == 1:
            return found.pop()
        if found:
            return ""
    return ""


def _own_names(rests: dict, classes) -> dict[str, str]:
    texts = {name: _in_name(PurePosixPath(name).stem, classes) for name in rests}
    return texts if all(texts.values()) else {}


def _own_folders(rests: dict[str, list[str]]) -> dict[str, str]:
    """The one level of folders that tells the files apart, as classes by the user's own names, numbers last."""
    for keep in (_names_something, str.isdigit, lambda folder: _names_something(folder) or folder.isdigit()):
        kept = {name: [rest for rest in chain if keep(rest)] for name, chain in rests.items()}
        chains = {name: chain for name, chain in kept.items() if chain}
        depth = min(map(len, chains.values()), default=0)
        levels = [k for k in range(depth) if len({chain[k] for chain in chains.values()}) > 1]
        if len(levels) > 1:
            some = [", ".join(sorted({chain[k] for chain in chains.values()})[:3]) for k in levels]
            raise DataError(
                f"folders of several levels tell the images apart ({'; '.join(some)}), and none bears the name of a "
                "class that is known; name the classes (classes=, --classes)."
            )
        if levels:
            texts = {name: chain[levels[0]] for name, chain in chains.items()}
            one_each = len(set(texts.values())) == len(texts) > 2  # a folder for each lens, and not for each class
            return {} if one_each else texts
    return {}


def _names_something(folder: str) -> bool:
    return bool(folder) and not PLAIN.fullmatch(folder.lower()) and not BAND.fullmatch(folder)


def lenses(names: Iterable[str]) -> dict[str, str]:
    """Which files show one lens in several bands: those whose names differ only in the names of bands."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        *folders, file = name.split("/")
        pieces = [*folders, *filter(None, _SEPARATE.split(file.rsplit(".", 1)[0]))]
        if bands := tuple(piece.lower() for piece in pieces if BAND.fullmatch(piece)):
            found["/".join("*" if BAND.fullmatch(piece) else piece for piece in pieces)][bands].append(name)
    return {
        name: key for key, of_band in found.items() if len(of_band) > 1 for some in of_band.values() for name in some
    }


# ---- by a table -----------------------------------------------------------------------------------------------------


def of_table(
    table: str | Path, names: Collection[str], columns: tuple[str, str] | None = None
) -> tuple[dict[str, Label], int]:
    """The labels that a CSV file gives to files, and how many of its rows belong to none of them.

    Args:
        table: CSV file with a column of names (a path below the folder, a file name, or that without its ending) and
            one of labels.
        names: the files.
        columns: the two columns; found by their names, if none.

    Raises:
        DataError: for a table that cannot be read, lacks such columns, or names two images at once.
    """
    try:
        rows = pd.read_csv(
            regular(table), dtype=str, keep_default_na=False, sep=None, engine="python", encoding="utf-8-sig"
        )
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: no table of labels ({error}); expected CSV with a header line") from None
    rows.columns = [str(column).strip() for column in rows.columns]
    of_name, of_label = columns or (_column(rows, table, NAME_COLUMNS, "names"), _column(rows, table, LABEL_COLUMNS))
    if missing := [column for column in (of_name, of_label) if column not in rows]:
        raise DataError(f"{table}: no column '{missing[0]}'; there are {', '.join(rows.columns)}")
    known: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        for key in {name, str(path.with_suffix("")), path.name, path.stem}:
            known[key].append(name)
    labels: dict[str, Label] = {}
    unused = 0
    texts = rows[of_label].map(
        lambda text: true_or_false(of_label, text) if of_label in TRUE_AND_FALSE else text.strip()
    )
    for key, text, part in zip(rows[of_name].str.strip(), texts, _parts_of(rows), strict=True):
        found = known.get(key.removeprefix("./"), [])
        if len(found) > 1:
            raise DataError(f"{table}: '{key}' stands for {found[0]} and {found[1]}; write out the path of each")
        unused += not found
        for name in found:
            if name in labels and labels[name].text != text:
                raise DataError(f"{table}: '{key}' is labelled '{labels[name].text}' and '{text}'")
            if name in labels and labels[name].part != part:
                raise DataError(f"{table}: '{key}' is in the parts '{labels[name].part}' and '{part}'")
            labels[name] = Label(text, part)
    if not labels:
        raise DataError(f"{table}: none of its {len(rows)} rows names an image; '{rows[of_name].iloc[0]}' is none")
    groups = lenses(names)
    for name, label in labels.items():
        of_folders = (part for part, _ in map(part_of, reversed(PurePosixPath(name).parent.parts)) if part)
        label.part = label.part or next(of_folders, None)
        label.lens = groups.get(name)
    return labels, unused


def _parts_of(rows: pd.DataFrame) -> list[str | None]:
    """The part of each row by a column such as `split`; none where there is no such column, or it says other things."""
    column = next((column for column in rows.columns if column.lower() in SPLIT_COLUMNS), None)
    if column is None:
        return [None] * len(rows)
    said = [text.strip().lower() for text in rows[column]]
    return [PARTS.get(text) for text in said] if all(text in PARTS for text in said if text) else [None] * len(rows)


def _column(rows: pd.DataFrame, table, wanted: tuple[str, ...], what: str = "labels") -> str:
    by_name = {column.lower().replace(" ", "_"): column for column in rows.columns}
    found = next((by_name[name] for name in wanted if name in by_name), None)
    if found is None or not len(rows):
        raise DataError(
            f"{table}: {len(rows)} rows with columns {', '.join(rows.columns)}; none is called one of "
            f"{', '.join(wanted)} for the {what}. Name the two (label_columns=, --label-columns name,label)."
        )
    return found
