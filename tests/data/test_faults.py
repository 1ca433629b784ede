"""Whatever happens to a file: the others are read as they were, it is read or named; nothing ends in a traceback."""

import os
import tarfile
import warnings
import zipfile

import h5py
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensstudy.data.dataset import DataError
from lensstudy.data.inspection import inspect
from lensstudy.data.reading import read
from lensstudy.deployment.predictor import find
from tests.data.test_scanning import fits_file, image, npy, picture, tensor, write


def changed(data: bytes, place: int, byte: int) -> bytes:
    return data[:place] + bytes([byte]) + data[place + 1 :]


FAULTS = {
    "empty": lambda data, at, byte: b"",
    "cut": lambda data, at, byte: data[: int(at * len(data))],
    "longer": lambda data, at, byte: data + bytes([byte]) * 100,
    "a byte": lambda data, at, byte: changed(data, int(at * (len(data) - 1)), byte),
    "a hole": lambda data, at, byte: data[: int(at * len(data))] + bytes(64) + data[int(at * len(data)) + 64 :],
    "text": lambda data, at, byte: b"not an image at all\n" * (1 + byte),
    "of another kind": lambda data, at, byte: b"\x89PNG\r\n\x1a\n" + data,
    "numbers that are none": lambda data, at, byte: npy(np.full((16, 16), np.nan)),
}
KINDS = {
    ".npy": lambda i: npy(image(i)),
    ".fits": lambda i: fits_file(image(i), ("ERR", "SCI")),
    ".png": lambda i: picture(image(i), "PNG"),
    ".pt": lambda i: tensor(image(i)),
}


def attempt(what, *arguments, **options):
    """The result, or None where a clear error says why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return what(*arguments, **options)
        except DataError as error:
            assert str(error).strip()
            return None


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(KINDS)),
    fault=st.sampled_from(sorted(FAULTS)),
    at=st.floats(0, 1),
    byte=st.integers(0, 255),
    container=st.sampled_from(["folder", "tar", "zip"]),
)
def test_one_damaged_file_leaves_the_others_as_they_are(kind, fault, at, byte, container, tmp_path_factory):
    root = tmp_path_factory.mktemp("faults")
    files = {f"{name}/{i}{kind}": KINDS[kind](10 * k + i) for k, name in enumerate(("cdm", "no_sub")) for i in range(5)}
    whole = read(write(root / "whole", files))
    files[f"cdm/2{kind}"] = FAULTS[fault](files[f"cdm/2{kind}"], at, byte)
    path = write(root / "set", files)
    if container == "tar":
        with tarfile.open(root / "set.tar", "w") as tar:
            tar.add(path, "set")
        path = root / "set.tar"
    elif container == "zip":
        with zipfile.ZipFile(root / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        path = root / "set.zip"
    dataset, report, rows = attempt(read, path), inspect(path), list(find([path]))
    counts = report["files"]
    assert counts["found"] == 10 == counts["read"] + counts["rejected"] + counts["skipped"]
    assert len({row.file for row in rows}) == 10
    if dataset is None:
        assert report["errors"], "what stops a study is foreseen"
        return
    assert dataset.description["files"] == counts
    before = {
        name.removeprefix("set/"): pixels for name, pixels in zip(whole.catalogue["source"], whole.images, strict=True)
    }
    for name, pixels in zip(dataset.catalogue["source"], dataset.images, strict=True):
        if (short := name.removeprefix("set/")) != f"cdm/2{kind}":
            np.testing.assert_array_equal(pixels, before[short])
    assert dataset.catalogue["source"].nunique() + counts["rejected"] == 10


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["set.tar", "set.tgz", "set.zip", "set.npz", "set.h5"]),
    fault=st.sampled_from(sorted(FAULTS)),
    at=st.floats(0, 1),
    byte=st.integers(0, 255),
)
def test_a_damaged_archive_is_read_or_refused(kind, fault, at, byte, tmp_path_factory):
    root = tmp_path_factory.mktemp("archives")
    files = {f"{name}/{i}.npy": npy(image(10 * k + i)) for k, name in enumerate(("cdm", "no_sub")) for i in range(5)}
    path = root / kind
    stacks = {"images": np.stack([image(i) for i in range(6)]), "labels": np.array([b"cdm", b"no_sub"] * 3)}
    if kind == "set.npz":
        np.savez(path, **stacks)
    elif kind == "set.h5":
        with h5py.File(path, "w") as file:
            file.update(stacks)
    elif kind == "set.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "set.tgz" else "w") as tar:
            tar.add(write(root / "set", files), ".")
    path.write_bytes(FAULTS[fault](path.read_bytes(), at, byte))
    dataset = attempt(read, path)
    report = inspect(path)
    assert dataset is not None or report["errors"]
    for row in find([path]):
        assert row.pixels is not None or row.reason


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["cdm/9.npy", "cdm/9.fits", "info.json", "cdm/info.json", "readme.txt", "more.zip"]),
    pipe=st.booleans(),
)
def test_a_pipe_or_a_folder_with_the_name_of_a_file_stops_nothing(name, pipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("pipes")
    write(root, {f"{c}/{i}.npy": npy(image(10 * k + i)) for k, c in enumerate(("cdm", "no_sub")) for i in range(5)})
    os.mkfifo(root / name) if pipe else (root / name).mkdir()
    dataset = attempt(read, root)
    if dataset is None:
        assert inspect(root)["errors"]
    else:
        assert len(dataset) == 10
    assert sum(row.pixels is not None for row in find([root])) in (5, 10) or dataset is None
