"""A series of studies in one file: one study for each combination of values, so that nobody has to copy files."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from lensstudy.files import whole_file
from lensstudy.study import SERIES, ParameterError, Study, study_file, values_in

__all__ = ["members", "studies"]


def members(study: str | Path) -> list[Path]:
    """The files of the studies in a file: the file itself, or where it is a series, one for each combination of values.

    `series: {noise_level: [0.01, 0.03], width: [1.0, 2.0]}` in a study `mine` stands for the four studies from
    `mine-0.01-1.0` to `mine-0.03-2.0`, each of which is written, whole, to `runs/<its name>/study.yml`.

    Raises:
        ParameterError: what `Study.read` raises for one of them.
    """
    file = study_file(study)
    if not values_in(file).get(SERIES):
        return [file]
    files = []
    for one in studies(file):
        files.append(one.folder / "study.yml")
        one.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(files[-1]) as partial:
            partial.write_text(yaml.safe_dump(one.model_dump(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return files


def studies(study: str | Path) -> list[Study]:
    """The studies in a file, one or those of a series; nothing is written. Raises what `members` raises."""
    file = study_file(study)
    values = values_in(file)
    several: dict[str, list] = values.get(SERIES, {})
    if not several:
        return [Study.read(file)]
    found: dict[str, Study] = {}
    for combination in itertools.product(*map(enumerate, several.values())):
        name = "-".join([str(values.get("study", file.stem)), *(_short(n, value) for n, value in combination)])
        changed = dict(zip(several, (value for _, value in combination), strict=True))
        if name in found:
            raise ParameterError(f"{file}: two studies of the series would be called {name}; each value once")
        found[name] = Study.read(file, study=name, **changed)
    return list(found.values())


def _short(number: int, value: Any) -> str:
    """A value as part of the name of a study; a list or a table goes by its number in the series."""
    if isinstance(value, list | dict):
        return str(number + 1)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", str(value)).strip("-") or str(number + 1)
