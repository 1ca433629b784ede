"""What a result depends on besides its parameters: the modules behind it, and the state of the files it was made from.

A stage runs again, and a checkpoint counts as stale, when one of these has changed.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lensstudy import __version__
from lensstudy.files import FileError, printable, read_json, regular, tree, whole_file
from lensstudy.study import Study

__all__ = [
    "DataState",
    "ProvenanceError",
    "code_hash",
    "code_version",
    "data_state",
    "imported_modules",
    "module_files",
    "plugin_files",
]

PACKAGE = Path(__file__).parent
PATHS = (  # parameters that name files
    "data_path",
    "labels",
    "observations_path",
    "source_galaxies",
    "run_folders",
    "searched_lenses",
    "apply_to",
    "published_networks",
    "labelled_images",
)
SETTLED_NS = 2_000_000_000  # two changes within this time may bear the same time stamp
RECORD_LIMIT = 2**30  # bytes of a table with a line for each file of a data set


class ProvenanceError(LookupError):
    """Code behind a result that cannot be found, so that nothing could tell when it changes."""


def module_files(*modules: str) -> list[Path]:
    """The files of `modules` and of all that they import from the package, directly or not.

    Args:
        modules: names inside the package, such as `training.fitting`, or a public name, such as `data.read` or `read`.

    Raises:
        ProvenanceError: for a name that is neither a module nor what a subpackage offers.
    """
    found: dict[str, Path] = {}
    waiting = [_module_of(name) or name for name in modules]  # a subpackage is no module, and `_file` says so
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _file(name)
            waiting += _imports(found[name].read_text(encoding="utf-8"))
    return [found[name] for name in sorted(found)]


def imported_modules(notebook: str | Path) -> list[str]:
    """The modules of the package that a notebook imports. Raises `ProvenanceError` for one that does not exist."""
    from IPython.core.inputtransformer2 import TransformerManager  # most that is asked here needs no IPython

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
    """The modules that a piece of code imports from the package, faces of subpackages resolved."""
    found = []
    for node in _import_lines(source):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise ProvenanceError(f"from {'.' * node.level}{node.module or ''} import ...: write the whole name")
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("lensstudy."):
            inside = str(node.module).removeprefix("lensstudy").lstrip(".")
            is_module = bool(inside) and (PACKAGE / f"{inside.replace('.', '/')}.py").exists()
            names = [inside] if is_module else [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
            found += [module for name in names for module in _modules_of(name)]
        else:
            inner = [alias.name for alias in node.names if f"{alias.name}.".startswith("lensstudy.")]
            names = [name.removeprefix("lensstudy").lstrip(".") for name in inner]
            found += [module for name in names for module in _modules_of(name)]
    return found


@cache  # a study asks for the same modules dozens of times, and to parse them all takes a second
def _import_lines(source: str) -> tuple[ast.Import | ast.ImportFrom, ...]:
    found: list[ast.Import | ast.ImportFrom] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found.append(node)
            elif not isinstance(node, ast.expr):  # no expression holds an import, and they are nine nodes in ten
                waiting.append(node)
    return tuple(found)


def _modules_of(name: str) -> list[str]:
    """The module that `name` is or comes from; all modules of a subpackage, where that itself is imported, and
    all there are, where the package is."""
    if not name:
        files = (file for file in PACKAGE.rglob("*.py") if file.stem != "__init__")
        return [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in files]
    if module := _module_of(name):
        return [module]
    inside = (PACKAGE / name.replace(".", "/")).glob("*.py") if not name.startswith("__") else ()
    return [f"{name}.{file.stem}" for file in inside if file.stem != "__init__"]


def _module_of(name: str) -> str:
    """The module that `name` is or comes from; empty for a subpackage as a whole, of which nothing is used yet."""
    path = PACKAGE / name.replace(".", "/")
    if path.with_suffix(".py").exists():
        return name
    if (path / "__init__.py").exists() or name.startswith("__"):
        return ""
    subpackage, _, last = name.rpartition(".")
    if (offered := _face(subpackage).get(last)) is not None:
        module = f"{subpackage}.{offered}".lstrip(".")
        return _module_of(module) or _module_of(f"{module}.{last}")  # a name can be a module of another subpackage
    raise ProvenanceError(
        f"lensstudy.{name}: neither a module of the package nor a name that '{subpackage or 'lensstudy'}' offers, so a "
        "change of it would go unseen; correct the import"
    )


def _face(subpackage: str) -> dict[str, str]:
    """What a subpackage's `__init__` offers: name to module, from its table of lazy imports."""
    file = PACKAGE / subpackage.replace(".", "/") / "__init__.py"
    return _lazy_names(file.read_text(encoding="utf-8")) if file.exists() else {}


@cache
def _lazy_names(source: str) -> dict[str, str]:
    for node in ast.walk(ast.parse(source)):
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
    """Hash of `module_files`, the modules `without`, or whole subpackages of them, left aside.

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


def code_version() -> dict[str, Any]:
    """Version of the package, and where it is a git checkout the commit and whether what runs differs from it."""
    root = PACKAGE.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    version: dict[str, Any] = {"version": __version__, "commit": "", "modified": False}
    if (root / ".git").exists():
        version["commit"] = git("rev-parse", "--short", "HEAD")
        # Neither parameter files nor bundled networks are asked for: they are no code, and what they say is kept.
        code = ("lensstudy", "notebooks", "workflow/Snakefile", ":!lensstudy/networks/pretrained")
        version["modified"] = bool(git("status", "--porcelain", *code))
    return version


def plugin_files(module: str) -> list[Path]:
    """The files of a module of one's own that registers networks, and of what it imports from beside it: from its
    package, or where it is not installed, from its folder. Nothing is imported for it; empty if it cannot be found."""
    top = module.partition(".")[0]
    folder = _folder_of(top)
    if folder is None:
        return []
    installed = folder in {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        own = name.partition(".")[0]
        file = _file_below(folder, name)
        if file is None or file in found or own == "lensstudy" or (installed and own != top):
            continue
        found.add(file)
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        waiting += [package] if package else []
        waiting += _imports_of(file, package)
    return sorted(found)


def _folder_of(top: str) -> Path | None:
    """The folder in which a module or package lies: that from which it was imported, or would be."""
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if spec is None:
        for file in (Path(f"{top}.py"), Path(top)):
            if file.exists():
                return Path.cwd()
        spec = importlib.util.find_spec(top) if top not in sys.modules else None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    return Path(places[0]).absolute().parent


def _file_below(folder: Path, module: str) -> Path | None:
    path = folder / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports_of(file: Path, package: str) -> Iterator[str]:
    """The names that a file imports, modules or what they hold, relative ones written out."""
    try:
        lines = list(ast.walk(ast.parse(file.read_bytes())))
    except SyntaxError:  # which the import will say
        return
    for line in lines:
        if isinstance(line, ast.Import):
            yield from (alias.name for alias in line.names)
        elif isinstance(line, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - line.level + 1] if line.level else []
            module = ".".join([*above, *([line.module] if line.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in line.names))


@dataclass(frozen=True)
class DataState:
    """Content and place of every file that the parameters of one group of a study name.

    Args:
        files: for each file, by its name in the study's words, the hash of its content.
        record: where `keep` writes down what a stage was made from.
    """

    files: dict[str, str]
    record: Path

    @property
    def digest(self) -> str:
        """One hash of all names and contents; empty where no file is named."""
        content = json.dumps(sorted(self.files.items())).encode()
        return hashlib.sha256(content).hexdigest()[:16] if self.files else ""

    def keep(self) -> None:
        """Write down that a stage has been made from these files."""
        self.record.parent.mkdir(parents=True, exist_ok=True)
        _write(self.record, self.files)

    def changes(self) -> str:
        """What has changed since `keep`, such as `2 files moved from cdm to no_sub (a.npy, b.npy)`; empty for nothing,
        or where nothing was kept."""
        try:
            before = read_json(self.record, dict[str, str], RECORD_LIMIT)
        except (FileError, FileNotFoundError):
            return ""
        return _difference(before, self.files)


def data_state(study: Study, group: str) -> DataState:
    """The state of the files that a group of parameters names: data sets, labels, PSFs, sources, run folders.

    Every file below a folder counts, hidden ones and those behind links too, with its place and its content. What has
    kept its size, inode and times since it was hashed is not read again; a file so young that it could change without
    changing its times is.

    Args:
        study: its parameters; `runs/<study>/files` holds the hashes of earlier calls.
        group: `data`, `observations`, `application` or `published`.
    """
    values = study.group(group)
    named = [values[name] for name in PATHS if name in values] + list(_named_in(values.get("population", {})))
    paths = [path for one in named for path in ([one] if isinstance(one, str) else one) if path]
    folder = study.folder / "files"
    known = _known_hashes(folder / "hashes.json")
    hashes, files = dict(known), {}
    for path in paths:
        for name, file in _files_of(path):
            key = os.path.abspath(file)
            files[name], stamp = _content(file, known.get(key))
            if stamp:
                hashes[key] = (*stamp, files[name])
            else:
                hashes.pop(key, None)
    if hashes != known:
        with contextlib.suppress(OSError):  # no more than a cache
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / "hashes.json", hashes)
    return DataState(files, folder / f"{group}.json")


def _files_of(path: str) -> Iterator[tuple[str, Path]]:
    """The files that a path or pattern of a study names, with their names in its words; a file brings along what lies
    beside it and is no image of its own."""
    from lensstudy.data.companions import role_and_key, stem  # takes pandas along, which few studies need here

    given = os.path.expandvars(os.path.expanduser(path))
    if os.path.isdir(given):
        yield from ((f"{path}/{name}", Path(given, name)) for name in tree(given, hidden=True).files)
    elif os.path.exists(given) or os.path.islink(given):
        yield path, Path(given)
        for beside in sorted(Path(given).parent.iterdir()):
            described = beside.name == "info.json" or role_and_key(stem(beside.name))[0] != "image"
            if described and not beside.is_dir() and beside != Path(given):
                yield str(Path(path).parent / beside.name), beside
    elif glob.has_magic(given):
        for found in sorted(glob.glob(given, recursive=True)):
            yield from _files_of(found)


def _content(file: Path, known: tuple | None) -> tuple[str, tuple | None]:
    """What `file` holds, as a hash or as the reason why nothing can be read, and its size, inode and times where these
    will tell whether it changes."""
    try:
        about = file.stat()
        stamp = (about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
        if known and tuple(known[:4]) == stamp:
            return known[4], stamp
        with open(regular(file), "rb") as opened:
            found = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileError as error:
        return str(error).rpartition(": ")[2], None
    except OSError as error:
        return error.strerror or str(error), None
    settled = time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > SETTLED_NS
    return found, stamp if settled else None


def _known_hashes(file: Path) -> dict[str, tuple]:
    try:
        return read_json(file, dict[str, tuple[int, int, int, int, str]], RECORD_LIMIT)
    except (FileError, FileNotFoundError):  # a damaged cache is made anew
        return {}


def _write(file: Path, content: dict) -> None:
    """Write a whole file or none, also where several jobs of one study do so at once."""
    with whole_file(file, apart=True) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    """What has happened to files, in words: moved and renamed ones are found by their content."""
    gone = sorted(name for name in before if before[name] != after.get(name))
    come = sorted(name for name in after if after[name] != before.get(name))
    if not gone and not come:
        return ""
    places = {os.path.dirname(name) for name in (*gone, *come)}
    shared = ""
    with contextlib.suppress(ValueError):  # some from here, some from the root
        shared = os.path.dirname(places.pop()) if len(places) == 1 else os.path.commonpath(places)

    def short(name: str) -> str:
        return os.path.relpath(name, shared) if shared else name

    waiting = defaultdict(list)
    for name in reversed(gone):
        waiting[before[name]].append(name)
    happened = defaultdict(list)
    moved_from, moved_to = set(), set()
    for name in come:
        if waiting[after[name]]:
            old = waiting[after[name]].pop()
            moved_from.add(old)
            moved_to.add(name)
            first, second = (os.path.dirname(short(one)) or "." for one in (old, name))
            kind = f"renamed in {first}" if first == second else f"moved from {first} to {second}"
            happened[kind].append(short(old))
    for name in sorted({*gone, *come}):
        if name in before and name in after:
            if name not in moved_to:
                happened["replaced"].append(short(name))
        elif name in before and name not in moved_from:
            happened["removed"].append(short(name))
        elif name in after and name not in moved_to:
            happened["added"].append(short(name))
    told = []
    for kind, names in happened.items():
        some = ", ".join(map(printable, names[:3])) + (", ..." if len(names) > 3 else "")
        told.append(f"{len(names):,} {'file' if len(names) == 1 else 'files'} {printable(kind)} ({some})")
    return "; ".join(told)


def _named_in(population) -> Iterator[str]:
    """The files that a population of simulated lenses names, those of the presets of a mixture too."""
    for key, value in population.items():
        if key in ("psf_file", "source_images"):
            yield str(value or "")
        elif key == "presets" and isinstance(value, list):
            yield from (name for one in value if isinstance(one, dict) for name in _named_in(one))
        elif key == "population" and isinstance(value, dict):
            yield from _named_in(value)
