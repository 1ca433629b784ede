"""What lies at a path, and a safe way to it: folders, tars, zips, `.npz` and HDF5 files, each as a `Listing`.

A listing is made before anything is read: members that climb out of their archive, links, and archives that unpack to
a multiple of their size which no data set reaches are rejected here. Nothing is ever written to disk.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lensstudy.data.dataset import DataError
from lensstudy.data.formats import HDF5, READABLE, own_pixels
from lensstudy.files import FileError, is_hidden, printable, regular, tree

__all__ = ["ARCHIVES", "H5_ERRORS", "Listing", "list_path", "parents", "resolve"]

TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # what h5py raises of a damaged file
ARCHIVES = (*TARS, ".zip", ".7z", ".rar")

# A set that unpacks to more than this and to more than 200 times its size is no data set. JPEGs and photon noise hardly
# compress; noise-free images in float64 reach about 3; the most that deflate can do is 1032.
EXPANSION_LIMIT = 200
EXPANSION_FREE_BYTES = 2**30
HEADER_LIMIT = 2**20  # bytes of a tar member's extended header, which holds a long name and little else
HEADERS_LIMIT = 2**24  # bytes of all of them together, where the archive itself is smaller
# An image takes more than 64 bytes of an archive however it is compressed; a million empty members take two each.
MEMBER_BYTES, MEMBERS_FREE = 64, 10_000


@dataclass
class Listing:
    """What lies at a path: image files and folders by name inside it, and a way to get their content in order."""

    kind: str
    names: list[str]
    folders: set[str]
    ignored: list[str]
    stream: Callable[[Collection[str]], Iterator[tuple[str, Any]]]  # content of those of the names that are asked for

    def __post_init__(self):
        for name in self.names:
            if not name.isascii() and re.search("[\ud800-\udfff]", name):  # Python's bytes that are no UTF-8
                raise DataError(
                    f"{ascii(name)}: the name of this file is not UTF-8, so no table can hold it; rename it."
                )


def resolve(path: str | Path) -> Path:
    """`path` with `~` and environment variables such as `$LENSSTUDY_DATA` filled in.

    Raises `DataError` where a variable is not set or nothing exists at the path.
    """
    filled = os.path.expandvars(os.path.expanduser(str(path)))
    if unset := re.search(r"\$\{?(\w+)\}?", filled):
        raise DataError(
            f"{path}: the environment variable {unset[1]} is not set. "
            f"Set it (export {unset[1]}=/folder/with/data) or write the path out."
        )
    if not os.path.exists(filled):
        raise DataError(f"{filled}: nothing exists at this path. Check data_path in the parameters of the study.")
    return Path(filled)


def _is_hidden(name: str) -> bool:
    return any(is_hidden(part) for part in name.split("/") if part != ".")


def _list_folder(root: Path) -> Listing:
    try:
        below = tree(root)
    except FileError as error:
        raise DataError(str(error)) from None
    names = [name for name in below.files if name.lower().endswith(READABLE)]
    ignored = [name for name in below.files if not name.lower().endswith(READABLE)] + below.repeated
    folders = {*below.folders, *below.repeated}  # a class folder that only repeats another is an empty one
    return Listing("folder", names, folders, ignored, lambda some: ((name, root / name) for name in some))


def _check_member(archive: Path, name: str, total: int) -> None:
    parts = name.replace("\\", "/").split("/")
    if not parts[0] and name or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise DataError(
            f"{archive.name}: member '{printable(name)}' climbs out of the archive. No data set needs this; "
            "nothing of it was read. Repack the archive from inside its folder."
        )
    if total > EXPANSION_FREE_BYTES and total > EXPANSION_LIMIT * archive.stat().st_size:
        raise DataError(
            f"{archive.name}: {archive.stat().st_size:,} bytes that unpack to more than {total:,}, over "
            f"{EXPANSION_LIMIT} times as much. This looks like a decompression bomb; unpack it if you trust it."
        )


def _open_tar(path: Path) -> tarfile.TarFile:
    """A tar whose headers have limits: tarfile reads extended ones into memory whole, before anybody sees their size,
    and those of a sparse member until they end."""
    size = path.stat().st_size
    headers = members = 0

    class Member(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf, encoding, errors):
            nonlocal headers, members
            member = super().frombuf(buf, encoding, errors)
            extended = member.type in (b"g", b"x", b"X", b"L", b"K")
            headers, members = headers + member.size * extended, members + 1
            if extended and (member.size > HEADER_LIMIT or headers > max(HEADERS_LIMIT, size)):
                found = f"headers of {headers:,} bytes"
            elif members > MEMBERS_FREE and members * MEMBER_BYTES > size:
                found = f"{members:,} members in {size:,} bytes"
            elif member.type == tarfile.GNUTYPE_SPARSE:
                found = f"member '{printable(member.name)}' is sparse"
            else:
                return member
            raise DataError(f"{path.name}: {found}. This looks like a decompression bomb; unpack it if you trust it.")

    return tarfile.open(path, tarinfo=Member)


def _list_tar(path: Path) -> Listing:
    members, folders, ignored, total = {}, set(), [], 0
    try:
        with _open_tar(path) as tar:
            for member in tar:
                total += member.size
                _check_member(path, member.name, total)
                if not (member.isfile() or member.isdir()):
                    raise DataError(
                        f"{path.name}: member '{printable(member.name)}' is a link or a device, not a file. "
                        "Links can point anywhere; repack the archive with the files themselves (tar --dereference)."
                    )
                name = posixpath.normpath(member.name)
                if _is_hidden(name):
                    continue
                if member.isdir():
                    folders.add(name)
                elif name.lower().endswith(READABLE):
                    members.pop(name, None)  # of two members of one name the later counts, as in unpacking
                    members[name] = member
                else:
                    ignored.append(name)
    except (tarfile.TarError, EOFError, OSError, RecursionError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path.name}: not a whole tar file ({error}). Fetch it again.") from error

    def stream(some):
        with _open_tar(path) as tar:
            for name, member in members.items():  # in the order of the archive, so that it is unpacked once
                if name in some:
                    yield name, tar.extractfile(member).read()

    return Listing("tar", list(members), folders | parents(members), ignored, stream)


def _list_zip(path: Path) -> Listing:
    members, folders, ignored, total = {}, set(), [], 0
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                total += member.file_size
                _check_member(path, member.filename, total)
                shown = printable(member.filename)
                if member.flag_bits & 1:
                    raise DataError(f"{path.name}: member '{shown}' is encrypted; unpack the archive first.")
                if (member.external_attr >> 16) & 0o170000 == 0o120000:
                    raise DataError(f"{path.name}: member '{shown}' is a link; repack with the file itself.")
                name = member.filename.replace("\\", "/")  # as some programs on Windows write it
                if _is_hidden(name):
                    continue
                if name.endswith("/"):
                    folders.add(name.rstrip("/"))
                elif name.lower().endswith(READABLE):
                    members[name] = member  # of two members of one name the later counts, as in unpacking
                else:
                    ignored.append(name)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path.name}: not a whole zip file ({error}). Fetch it again.") from error

    def stream(some):
        with zipfile.ZipFile(path) as archive:
            for name in some:
                try:
                    yield name, archive.read(members[name])
                except (zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                    yield name, ValueError(f"damaged in the archive ({error})")

    kind = "npz" if path.suffix.lower() == ".npz" else "zip"
    return Listing(kind, sorted(members), folders | parents(members), ignored, stream)


def _list_hdf5(path: Path) -> Listing:
    import h5py

    names, ignored = [], []

    def note(name, node):
        if isinstance(node, h5py.Dataset):
            (names if node.ndim >= 1 and node.dtype.kind in "biufSO" else ignored).append(name)

    try:
        with h5py.File(path) as file:
            link = file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
            file.visititems(note)
    except H5_ERRORS as error:
        raise DataError(f"{path.name}: not a whole HDF5 file ({error}). Fetch it again.") from error
    if link:
        raise DataError(
            f"{path.name}: '{link}' is a link. Links can point anywhere; copy what it means into the file itself."
        )
    names.sort()

    def stream(some):
        with h5py.File(path) as file:
            for name in some:
                yield name, own_pixels(file[name])

    return Listing("hdf5", names, parents(names), ignored, stream)


def parents(names: Iterable[str]) -> set[str]:
    """All folders above the files `names`."""
    folders = {name.rpartition("/")[0] for name in names} - {""}
    return {place.as_posix() for one in folders for place in PurePosixPath(one, "*").parents} - {"."}


def list_path(path: Path, labelled: bool = True) -> Listing:
    """Image files at `path`. The arrays inside one `.npz` or HDF5 file count as files where they are `labelled`; a
    folder that holds nothing but one archive stands for the archive."""
    lower = path.name.lower()
    if path.is_dir():
        listing = _list_folder(path)
        archives = [name for name in listing.ignored if name.lower().endswith(ARCHIVES)]
        if listing.names or not archives:
            return listing
        if len(archives) > 1:
            raise DataError(f"{path}: several archives ({', '.join(archives[:5])}); give the path of one of them.")
        return list_path(path / archives[0], labelled)
    try:
        regular(path)
    except FileError as error:
        raise DataError(str(error)) from None
    if lower.endswith(TARS):
        return _list_tar(path)
    if lower.endswith(".zip") or (labelled and lower.endswith(".npz")):
        return _list_zip(path)
    if labelled and lower.endswith(HDF5):
        return _list_hdf5(path)
    if lower.endswith(READABLE):
        return Listing("file", [path.name], set(), [], lambda some: iter([(path.name, path)]))
    raise DataError(f"{path}: unknown kind of file; known: folders, {', '.join((*TARS, '.zip', *READABLE))}.")
