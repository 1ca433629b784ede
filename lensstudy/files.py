"""Files as they may lie on a disk: opened only where they are files, read within limits, written whole or not at all.

Somebody's folder may hold a pipe with the name of an image, links that lead in circles, or JSON a million brackets
deep. What opens files in the package asks `regular` first, lists folders with `tree` and reads JSON with `read_json`.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "FileError",
    "Tree",
    "is_hidden",
    "printable",
    "read_json",
    "read_text",
    "regular",
    "tree",
    "validated",
    "whole_file",
    "write_json",
]

TEXT_LIMIT = 2**26  # bytes of a text file that is read at once; the largest, an executed notebook, has a tenth
DEPTH_LIMIT = 64  # brackets within brackets in JSON; a notebook has 8
ENTRY_LIMIT = 2_000_000  # files and folders below a folder
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

Model = TypeVar("Model")


class FileError(ValueError):
    """A file that cannot be used. The message names it and says what was found."""


def regular(path: str | Path) -> Path:
    """`path`, where it is a file: opening a pipe waits forever, and a device never ends.

    Raises `FileError` for anything else, and `FileNotFoundError` where there is nothing.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise FileError(f"{printable(path)}: {KINDS.get(stat.S_IFMT(mode), 'no file')}, not a file; remove it")
    return Path(path)


def read_text(path: str | Path, limit: int = TEXT_LIMIT) -> str:
    """The text of a file in UTF-8 of at most `limit` bytes. Raises `FileError`, or `FileNotFoundError`."""
    try:
        with open(regular(path), "rb") as file:
            content = file.read(min(limit, os.fstat(file.fileno()).st_size) + 1)  # which sets memory aside for as many
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{printable(path)}: cannot be read ({error.strerror or error})") from None
    if len(content) > limit:
        raise FileError(f"{printable(path)}: more than {limit:,} bytes, too large for a file of this kind")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{printable(path)}: is no text in UTF-8 ({error.reason} at byte {error.start})") from None


def read_json(path: str | Path, model: type[Model] | None = None, limit: int = TEXT_LIMIT) -> Any:
    """The JSON object in a file, as an instance of the pydantic `model` where one is given, else as a dict.

    Raises `FileError` for a file that is damaged, too deep, or not what `model` describes, and `FileNotFoundError`.
    """
    text = read_text(path, limit)
    try:
        content = json.loads(text)
        deepest = _depth(content)
    except (ValueError, RecursionError) as error:
        reason = "brackets within brackets" if isinstance(error, RecursionError) else error
        raise FileError(f"{printable(path)}: is damaged, no JSON ({reason})") from None
    if deepest > DEPTH_LIMIT:
        raise FileError(f"{printable(path)}: brackets {deepest} deep, where no file of ours has {DEPTH_LIMIT}")
    if model is not None:
        return validated(content, model, path)
    if not isinstance(content, dict):
        raise FileError(f"{printable(path)}: is damaged, a {type(content).__name__} where an object was expected")
    return content


def validated(content: Any, model: type[Model], where: str | Path) -> Model:
    """`content` as an instance of the pydantic `model`; `FileError` names `where` it came from and what is wrong."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(model).validate_python(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'content'}: {one['msg']}" for one in error.errors()[:3]]
        raise FileError(f"{printable(where)}: is incomplete or altered ({'; '.join(wrong)})") from None


def _depth(content: Any) -> int:
    """How deep the lists and dicts of `content` lie in each other, counted without recursion."""
    deepest, level = 0, [content]
    while level := [one for one in level if isinstance(one, dict | list)]:
        deepest += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return deepest


def printable(text: object, lines: bool = False) -> str:
    """Text as a terminal and a table can take it: control characters, which a name of a file may hold, and what is no
    UTF-8 are written out. `lines` keeps line ends and tabs, of a message that has some."""
    shown = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(
        ascii(letter)[1:-1]
        if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") and not (lines and letter in "\n\t")
        else letter
        for letter in shown
    )


@dataclass
class Tree:
    """What lies below a folder, as names seen from it: files of every kind, folders, and links to folders that were
    not followed, because they lead back up or, behind another link, to what has been listed already."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)


def tree(root: str | Path, hidden: bool = False) -> Tree:
    """List all that lies below `root`. A link to a folder is a folder; links that lie behind links are followed once,
    for folders that link to each other would be without end, or without number.

    Args:
        root: a folder.
        hidden: list files and folders whose names begin with a dot, and macOS's companions of files, too.

    Raises:
        FileError: for a folder without the right to list it, or more than `ENTRY_LIMIT` files and folders.
    """
    root, found = Path(root), Tree()
    seen: set[str] = set()
    waiting = deque([("", True)])  # folders to list, and whether they or the links to them lie in `root` itself
    while waiting:
        start, own = waiting.popleft()
        if start and _leads_up(root / start, root):
            found.repeated.append(start)
            continue
        for place, below, files in os.walk(root / start, onerror=_not_listed):
            inside = "" if Path(place) == root else Path(place).relative_to(root).as_posix()
            if not own and os.path.realpath(place) in seen:
                found.repeated.append(inside)
                below.clear()
                continue
            seen.add(os.path.realpath(place))
            found.folders += [inside] if inside else []
            inside = f"{inside}/" if inside else ""
            below[:] = sorted(name for name in below if hidden or not is_hidden(name))
            links = [name for name in below if os.path.islink(os.path.join(place, name))]
            waiting += [(inside + name, not start) for name in links]
            below[:] = [name for name in below if name not in links]
            found.files += [inside + name for name in files if hidden or not is_hidden(name)]
            if len(found.files) + len(found.folders) + len(waiting) > ENTRY_LIMIT:
                raise FileError(f"{printable(root)}: more than {ENTRY_LIMIT:,} files; name the folder of the images")
    found.files.sort()
    return found


def _leads_up(link: Path, root: Path) -> bool:
    """Whether a link to a folder leads to one that holds the link itself or `root`."""
    target = Path(os.path.realpath(link))
    return any(Path(os.path.realpath(place)).is_relative_to(target) for place in (link.parent, root))


def _not_listed(error: OSError) -> None:
    raise FileError(f"{printable(error.filename)}: cannot be listed ({error.strerror})") from None


def is_hidden(name: str) -> bool:
    """Whether a single name is that of a hidden file or folder, or of what macOS adds to an archive."""
    return name.startswith(".") or name == "__MACOSX"


@contextmanager
def whole_file(path: str | Path, apart: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write to; it becomes `path` at the end of the block, or is removed after an error.

    It is hidden, so that what lists the folder meanwhile does not count it, and ends as `path` does, because many
    writers tell the format by the ending. `apart` keeps processes that write the same file at once from writing into
    each other's.
    """
    path = Path(path)
    own = f"{os.getpid()}." if apart else ""
    partial = path.with_name(f".{path.stem}.{own}partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(file: Path, content: dict) -> None:
    """Write a whole file or none."""
    with whole_file(file) as partial:
        partial.write_text(json.dumps(content, indent=1))
