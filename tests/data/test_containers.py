"""What lies at a path may be no file, lead in circles, or be far more than it looks."""

import io
import os
import socket
import tarfile
import time

import numpy as np
import pytest
from astropy.io import fits

from lensstudy import inspect, read
from lensstudy.data.containers import list_path
from lensstudy.data.dataset import DataError
from lensstudy.data.formats import Stored, decode


@pytest.fixture
def classes(tmp_path):
    """Two classes of three images each."""
    for k, name in enumerate(("cdm", "no_sub")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            np.save(tmp_path / "set" / name / f"{i}.npy", np.full((16, 16), k * 3 + i, np.float32))
    return tmp_path / "set"


def pipe(path):
    os.mkfifo(path)


def plug(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))  # names of sockets are short


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, plug, device])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.fits", "x.fits.gz", "x.png", "x.h5"])
def test_what_is_no_file_is_rejected_by_name(classes, make, name):
    make(classes / "cdm" / name)
    with pytest.warns(UserWarning, match="rejected"):
        found = read(classes)
    assert len(found) == 6
    (rejected,) = found.description["rejected"]
    assert rejected["name"] == f"cdm/{name}" and "not a file" in rejected["reason"]
    assert name in str(inspect(classes)) and "not a file" in str(inspect(classes))


@pytest.mark.parametrize("make", [pipe, plug, device])
@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip", "x.npz", "x.h5", "x.npy", "x.fits"])
def test_a_path_that_is_no_file_is_refused(tmp_path, make, name):
    make(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: a \w+, not a file"):
        read(tmp_path / name)


def test_links_are_followed_once(classes):
    """Ten folders that each link to the ten others are ten folders, however many ways lead to them."""
    away = classes.parent / "axion"
    away.mkdir()
    np.save(away / "0.npy", np.zeros((16, 16), np.float32))
    (classes / "axion").symlink_to(away)
    (classes / "up").symlink_to(classes)
    for folder in [classes / "cdm", *(away / f"{k}" for k in range(10))]:
        folder.mkdir(exist_ok=True)
        for k in range(10):
            (folder / f"to-{k}").symlink_to(away / f"{k}")
    start = time.monotonic()
    listing = list_path(classes)
    assert time.monotonic() - start < 2
    assert listing.names == [
        f"{name}/{i}.npy" for name, n in (("axion", 1), ("cdm", 3), ("no_sub", 3)) for i in range(n)
    ]
    assert "up" in listing.ignored


def tar_of(path, members, mode="w:gz", **options):
    with tarfile.open(path, mode, **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_tar_of_empty_members_is_refused_at_once(tmp_path):
    path = tar_of(tmp_path / "many.tar.gz", ((f"cdm/{i}.npy", b"") for i in range(50_000)))
    assert path.stat().st_size < 2**20
    start = time.monotonic()
    with pytest.raises(DataError, match=r"many\.tar\.gz: 1\d,\d{3} members in"):
        list_path(path)
    assert time.monotonic() - start < 5


def header(kind, size, name=b"x"):
    member = tarfile.TarInfo(name.decode())
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_a_tar_of_endless_headers_is_refused(tmp_path, kind):
    """A header that describes a header that describes a header ..."""
    path = tmp_path / "headers.tar"
    body = b"11 path=abc\n".ljust(512, b"\0") if kind != b"L" else b"abc\0".ljust(512, b"\0")
    path.write_bytes((header(kind, 12) + body) * 20_000 + b"\0" * 1024)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"headers\.tar"):
        list_path(path)
    assert time.monotonic() - start < 5


def test_many_large_headers_are_too_many(tmp_path):
    path = tmp_path / "headers.tar.gz"
    names = "x" * 500_000
    tar_of(path, ((f"{names}{i}.npy", b"1") for i in range(50)), format=tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match=r"headers\.tar\.gz: headers of"):
        list_path(path)


def test_a_tar_of_ordinary_images_is_none_of_these(tmp_path):
    pixels = io.BytesIO()
    np.save(pixels, np.zeros((8, 8), np.float32))
    members = [(f"cdm/{'long' * 40}{i}.npy", pixels.getvalue()) for i in range(30)]
    assert len(list_path(tar_of(tmp_path / "set.tar.gz", members, format=tarfile.PAX_FORMAT)).names) == 30


def test_a_fits_file_of_thousands_of_hdus_is_refused(tmp_path):
    one = io.BytesIO()
    fits.ImageHDU(np.zeros((1, 1))).writeto(one)
    empty = fits.PrimaryHDU().header.tostring().encode()
    extension = fits.ImageHDU().header.tostring().encode()
    (tmp_path / "x.fits").write_bytes(empty + extension * 1500)
    with pytest.raises(ValueError, match="more than 1,000 HDUs"):
        decode("x.fits", tmp_path / "x.fits")


@pytest.mark.parametrize("shape", [(40, 300, 400), (40, 3, 300, 400), (40, 350, 350, 3)])
def test_a_large_stack_is_read_and_not_mapped(tmp_path, shape):
    """The same images as numpy's, and an error instead of a killed process where the file is cut meanwhile."""
    array = np.random.default_rng(1).random(shape).astype(np.float32)
    np.save(tmp_path / "stack.npy", array)
    images, _ = decode("stack.npy", tmp_path / "stack.npy")
    assert isinstance(images, Stored) and len(images) == 40
    expected = array[:, None] if array.ndim == 3 else array if shape[1] == 3 else np.moveaxis(array, 3, 1)
    assert images.shape == expected.shape and images.dtype == expected.dtype
    for i, image in enumerate(images):
        np.testing.assert_array_equal(image, expected[i])
    np.testing.assert_array_equal(images[3:5], expected[3:5])
    np.testing.assert_array_equal(np.asarray(images), expected)
    os.truncate(tmp_path / "stack.npy", array.nbytes // 2)
    np.testing.assert_array_equal(images[3], expected[3])
    with pytest.raises(DataError, match=r"stack\.npy: was cut"):
        _ = images[30]
