"""What a result depends on besides its parameters: the modules behind it, and the state of the files it was made from.

A stage runs again, and a checkpoint counts as stale, when one of these has changed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

__all__ = ["ProvenanceError", "code_hash", "data_state", "imported_modules", "module_files"]

PACKAGE = Path(__file__).parent


class ProvenanceError(LookupError):
    """Code behind a result that cannot be found, so that nothing could tell when it changes."""


def module_files(*modules: str) -> list[Path]:
    """The files of `modules` and of all that they import from the package, directly or not.

    Args:
        modules: names inside the package, such as `training.fitting`, or a public name, such as `data.read` or `read`.

    Raises:
        ProvenanceError: for a name that is neither a module nor what a room offers.
    """
    found: dict[str, Path] = {}
    waiting = [_module_of(name) or name for name in modules]  # a room is no module, and `_file` says so
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _file(name)
            waiting += _imports(found[name].read_text(encoding="utf-8"))
    return [found[name] for name in sorted(found)]


def imported_modules(notebook: str | Path) -> list[str]:
    """The modules of the package that a notebook imports. Raises `ProvenanceError` for one that does not exist."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    names: set[str] = set()
    for cell in cells:
        if cell["cell_type"] == "code":
            code = TransformerManager().transform_cell("".join(cell["source"]))  # magics become calls
            try:
                names.update(_imports(code))
            except SyntaxError as error:
                raise ProvenanceError(
                    f"{notebook}: a cell is no Python ({error}), so its imports are unknown"
                ) from None
    return sorted(names)


def _imports(source: str) -> list[str]:
    """The modules that a piece of code imports from the package, faces of rooms resolved."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ProvenanceError(f"from {'.' * node.level}{node.module or ''} import ...: write the whole name")
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("lensstudy."):
            inside = str(node.module).removeprefix("lensstudy").lstrip(".")
            is_module = bool(inside) and (PACKAGE / f"{inside.replace('.', '/')}.py").exists()
            names = [inside] if is_module else [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
            found += [module for name in names for module in _modules_of(name)]
        elif isinstance(node, ast.Import):
            inner = [alias.name for alias in node.names if f"{alias.name}.".startswith("lensstudy.")]
            names = [name.removeprefix("lensstudy").lstrip(".") for name in inner]
            found += [module for name in names for module in _modules_of(name)]
    return found


def _modules_of(name: str) -> list[str]:
    """The module that `name` is or comes from; all modules of a room, where the room itself is imported, and all
    there are, where the package is."""
    if not name:
        files = (file for file in PACKAGE.rglob("*.py") if file.stem != "__init__")
        return [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
    if module := _module_of(name):
        return [module]
    inside = (PACKAGE / name.replace(".", "/")).glob("*.py") if not name.startswith("__") else ()
    return [f"{name}.{file.stem}" for file in inside if file.stem != "__init__"]


def _module_of(name: str) -> str:
    """The module that `name` is or comes from; empty for a room as a whole, of which nothing is used yet."""
    path = PACKAGE / name.replace(".", "/")
    if path.with_suffix(".py").exists():
        return name
    if (path / "__init__.py").exists() or name.startswith("__"):
        return ""
    room, _, last = name.rpartition(".")
    if (offered := _face(room).get(last)) is not None:
        module = f"{room}.{offered}".lstrip(".")
        return _module_of(module) or _module_of(f"{module}.{last}")  # a name can be a module of another room
    raise ProvenanceError(
        f"lensstudy.{name}: neither a module of the package nor a name that '{room or 'lensstudy'}' offers, so a "
        "change of it would go unseen; correct the import"
    )


def _face(room: str) -> dict[str, str]:
    """What a room's `__init__` offers: name to module, from its table of lazy imports."""
    file = PACKAGE / room.replace(".", "/") / "__init__.py"
    if not file.exists():
        return {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            table = ast.literal_eval(node.value)
            return {name: module for module, names in table.items() for name in names}
    return {}


def _file(module: str) -> Path:
    file = PACKAGE / f"{module.replace('.', '/')}.py"
    if not file.exists():
        raise ProvenanceError(f"lensstudy.{module}: {file.name} is missing from the package; install it again")
    return file


def code_hash(*modules: str, without: tuple[str, ...] = ()) -> str:
    """Hash of `module_files`, the modules `without`, or whole rooms of them, left aside.

    Raises `ProvenanceError` for a module that does not exist, in `without` too.
    """
    for name in without:
        if not (PACKAGE / name.replace(".", "/")).is_dir():
            _file(name)
    digest = hashlib.sha256()
    for file in module_files(*modules):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if not any(f"{name}.".startswith(f"{one}.") for one in without):
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
    """The files that a population of simulated lenses names, those of the presets of a mixture too."""
    for key, value in population.items():
        if key in ("psf_file", "source_images"):
            yield str(value)
        elif key == "presets" and isinstance(value, list):
            yield from (name for one in value if isinstance(one, dict) for name in _named_in(one))
        elif key == "population" and isinstance(value, dict):
            yield from _named_in(value)
