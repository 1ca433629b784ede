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


def data_state(path: str) -> list:
    """What tells that files have changed: how many there are below `path`, their size together, and the newest time.
    Empty for an empty or missing path; variables and `~` are filled in."""
    root = Path(os.path.expandvars(os.path.expanduser(path))) if path else None
    if root is None or not root.exists():
        return []
    files = [root] if root.is_file() else [file for file in root.rglob("*") if file.is_file()]
    stats = [file.stat() for file in files]
    return [len(stats), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
