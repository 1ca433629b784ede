"""What a result depends on besides its parameters: the modules behind it, and the state of the files it was made from.

A stage runs again, and a checkpoint counts as stale, when one of these has changed.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["code_hash", "data_state", "imported_modules", "module_files"]

PACKAGE = Path(__file__).parent


def module_files(*modules: str) -> list[Path]:
    """The files of these modules of the package and of all that they import from it, directly or not."""
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = PACKAGE / f"{name}.py"
        if name in found or not file.exists():
            continue
        found[name] = file
        waiting += _imports(file.read_text(encoding="utf-8"))
    return [found[name] for name in sorted(found)]


def imported_modules(notebook: str | Path) -> list[str]:
    """The modules of the package that a notebook imports."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    names: set[str] = set()
    for cell in cells:
        if cell["cell_type"] == "code":
            code = re.sub(r"^[%!].*", "", "".join(cell["source"]), flags=re.M)  # without magics
            with contextlib.suppress(SyntaxError):  # a cell in another language
                names.update(_imports(code))
    return sorted(names)


def _imports(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "lensstudy":
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lensstudy."):
            found.append(node.module.split(".")[1])
    return found


def code_hash(*modules: str, without: tuple[str, ...] = ()) -> str:
    """Hash of `module_files`, some modules left aside."""
    digest = hashlib.sha256()
    for file in module_files(*modules):
        if file.stem not in without:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def data_state(path: str, population: dict | None = None) -> list:
    """What tells that files have changed: how many there are below `path` and what a `population` names, their size
    together, and the newest time. Empty for an empty or missing path; variables and `~` are filled in."""
    named = [Path(os.path.expandvars(os.path.expanduser(one))) for one in (path, *_named_in(population or {})) if one]
    roots = [root for root in named if root.exists()]
    if not roots:
        return []
    below = [file for root in roots for file in ([root] if root.is_file() else root.rglob("*")) if file.is_file()]
    stats = [file.stat() for file in below]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]


def _named_in(population) -> Iterator[str]:
    """The files that a population of simulated lenses names, those of the recipes of a mixture too."""
    for key, value in population.items():
        if key in ("psf_file", "source_images"):
            yield str(value)
        elif key == "recipes" and isinstance(value, list):
            yield from (name for recipe in value if isinstance(recipe, dict) for name in _named_in(recipe))
        elif key == "population" and isinstance(value, dict):
            yield from _named_in(value)
