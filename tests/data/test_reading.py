"""Reading: every layout gives the same images and classes, and no file gets to do anything but be read."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.filtering import Rules, filter_images
from lensstudy.data.inspection import STOPPING_SHARE, inspect, inspect_text
from lensstudy.data.reading import read, write_deeplense

QUALITY = Rules(0.5, None, None, None, None)  # noise as it is here is no lens
SIZE, EACH = 16, 13  # more than the twelve that could be bands


def image(class_number: int, i: int, dtype="float64") -> np.ndarray:
    """An image `(SIZE, SIZE)` that no other class and number has, with a corner that shows a flip."""
    pixels = np.random.default_rng((class_number, i)).random((SIZE, SIZE))
    pixels[0, 0] = 2
    return (pixels * 100).astype(dtype)


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def picture(array, kind="PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def deep_colour_png(kind=2, channels=3) -> bytes:
    """16 bits in each of several channels, which Pillow can only read as 8."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(9 * (b"\0" + bytes(9 * 2 * channels))))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def pages() -> bytes:
    content = io.BytesIO()
    first, *others = (Image.fromarray(image(0, i, "float32")) for i in range(3))
    first.save(content, "TIFF", save_all=True, append_images=others)
    return content.getvalue()


def axion_file(pixels, mass=1.5e-23) -> bytes:
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = pixels, mass
    return npy(pair, allow_pickle=True)


def fits_file(pixels) -> bytes:
    file = io.BytesIO()
    science, noise = fits.ImageHDU(pixels, name="SCI"), fits.ImageHDU(pixels * 0 + 1, name="RMS")
    fits.HDUList([fits.PrimaryHDU(), science, noise]).writeto(file)
    return file.getvalue()


def hdf5_file(arrays: dict) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as target:
        for name, array in arrays.items():
            target[name] = array
    return file.getvalue()


def npz_file(arrays: dict) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def write(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(path, files: dict[str, bytes], mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_zip(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def class_folders(classes, encode=npy, suffix=".npy") -> dict[str, bytes]:
    return {
        f"{name}/{i:02}{suffix}": encode(image(number, i)) for number, name in enumerate(classes) for i in range(EACH)
    }


NAMES = ("no", "sphere", "vort")
STACKS = {name: np.stack([image(number, i) for i in range(EACH)]) for number, name in enumerate(NAMES)}
ALL = np.concatenate(list(STACKS.values()))
BATCHES = {name: stack[None, :, None] for name, stack in STACKS.items()}
LABELS = np.repeat(NAMES, EACH).astype("S")

# Every layout holds the same nine images, and each must come out the same.
FOLDERS = {
    "class folders": class_folders(NAMES),
    "other names, other order": class_folders(("no_substructure", "cdm", "axion")),
    "yet other names": class_folders(("NoSub", "subhalo", "Vortex")),
    "below another folder": {f"data/{name}": content for name, content in class_folders(NAMES).items()},
    "with a channel axis": class_folders(NAMES, lambda pixels: npy(pixels[None])),
    "channel axis last": class_folders(NAMES, lambda pixels: npy(pixels[:, :, None])),
    "big-endian": class_folders(NAMES, lambda pixels: npy(pixels.astype(">f8"))),
    "fortran order": class_folders(NAMES, lambda pixels: npy(np.asfortranarray(pixels))),
    "pickled with their mass": class_folders(NAMES, axion_file),
    "FITS": class_folders(NAMES, fits_file, ".fits"),
    "HDF5 files": class_folders(NAMES, lambda pixels: hdf5_file({"image": pixels, "psf": np.ones((3, 3))}), ".h5"),
    "npz files": class_folders(NAMES, lambda pixels: npz_file({"arr_0": pixels}), ".npz"),
    "named after their class": {
        f"{n}_sim_{i:02}.npy": npy(image(c, i)) for c, n in enumerate(NAMES) for i in range(EACH)
    },
    "a stack for each class": {f"{name}.npy": npy(stack) for name, stack in STACKS.items()},
    "a stack in each class folder": {f"{name}/all.npy": npy(stack) for name, stack in STACKS.items()},
    "batches": {f"{name}.npy": npy(stack) for name, stack in BATCHES.items()},
    "rubbish beside them": class_folders(NAMES) | {"no/._0.npy": b"", ".DS_Store": b"", "__MACOSX/no/00.npy": b"x"},
    "other alphabets": {
        f"{n}/линза-{i:02}-透镜.npy": npy(image(c, i)) for c, n in enumerate(NAMES) for i in range(EACH)
    },
}
FILES = {
    "set.npz": npz_file(STACKS),
    "labelled.npz": npz_file({"images": ALL, "labels": LABELS}),
    "set.h5": hdf5_file(STACKS),
    "groups.hdf5": hdf5_file({f"{n}/{i:02}": image(c, i) for c, n in enumerate(NAMES) for i in range(EACH)}),
    "labelled.h5": hdf5_file({"images": ALL[:, None], "labels": LABELS}),
}


def check(dataset: LensDataset):
    assert dataset.classes == ("no_sub", "cdm", "axion")
    assert dataset.images.dtype == np.float64 and dataset.images.dtype.isnative
    assert dataset.catalogue["name"].is_unique
    for number, name in enumerate(dataset.classes):
        np.testing.assert_array_equal(dataset.images[dataset.catalogue["class"] == name, 0], STACKS[NAMES[number]])
    assert not dataset.catalogue["source"].str.startswith("/").any()


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("container", ["folder", "tgz", "tar", "zip"])
def test_every_layout_gives_the_same_images(layout, container, tmp_path):
    files = FOLDERS[layout]
    if container == "folder":
        path = write(tmp_path / "set", files)
    elif container == "zip":
        path = write_zip(tmp_path / "set.zip", files)
    else:
        path = write_tar(tmp_path / f"set.{container}", files, "w:gz" if container == "tgz" else "w")
    dataset = read(path)
    check(dataset)
    assert dataset.fingerprint == read(write(tmp_path / "plain", files)).fingerprint
    if layout.startswith("pickled"):
        assert set(dataset.catalogue["axion_mass"]) == {1.5e-23}


@pytest.mark.parametrize("name", FILES)
def test_one_file_for_a_whole_set(name, tmp_path):
    check(read(write(tmp_path, {name: FILES[name]}) / name))


def test_official_layout_in_8_bit_grey(tmp_path):
    grey = {
        f"lenses/{name}/{i}.jpg": picture(np.full((9, 9), 40 + i, np.uint8), "JPEG")
        for name in ("sub", "no_sub")
        for i in range(2)
    }
    dataset = read(write_tar(tmp_path / "lenses.tgz", grey))
    assert dataset.classes == ("no_sub", "sub") and dataset.images.dtype == np.uint8
    assert dataset.images.shape == (4, 1, 9, 9)
    assert dataset.description["class_names"] == {"no_sub": "no_sub", "sub": "sub"}
    assert dataset.images[:, 0, 4, 4].tolist() == [40, 41, 40, 41]


@pytest.mark.parametrize(
    "array, shape, dtype",
    [
        (np.arange(81, dtype=np.uint16).reshape(9, 9) * 700, (1, 9, 9), np.uint16),
        (np.arange(243, dtype=np.uint8).reshape(9, 9, 3), (3, 9, 9), np.uint8),
        (np.arange(324, dtype=np.uint8).reshape(9, 9, 4), (3, 9, 9), np.uint8),
        (np.eye(9, dtype=bool), (1, 9, 9), np.uint8),
    ],
    ids=["16-bit", "colour", "transparent", "1-bit"],
)
def test_pictures_keep_their_depth(array, shape, dtype, tmp_path):
    files = {f"{name}/0.png": picture(array) for name in ("no", "sub")}
    images = read(write(tmp_path, files)).images
    assert images.shape[1:] == shape and images.dtype == dtype
    pixels = array[..., :3] if array.ndim == 3 else array * np.array(255 if array.dtype == bool else 1, dtype)
    np.testing.assert_array_equal(images[0], np.moveaxis(pixels.reshape(9, 9, -1), 2, 0))


def test_parts_of_the_source_are_remembered(tmp_path):
    parts = {
        f"{part}/{name}": content for part in ("train", "val", "test") for name, content in class_folders(NAMES).items()
    }
    table = read(write(tmp_path / "a", parts)).catalogue
    assert table["source_part"].value_counts().to_dict() == dict.fromkeys(("train", "validation", "test"), 3 * EACH)
    lens_finding = {
        f"{part}_{kind}/{i}.npy": npy(np.full((3, 8, 8), i, np.float32))
        for part in ("train", "test")
        for kind in ("lenses", "nonlenses")
        for i in range(2)
    }
    dataset = read(write(tmp_path / "b", lens_finding))
    assert dataset.classes == ("nonlens", "lens") and dataset.images.shape == (8, 3, 8, 8)
    assert set(dataset.catalogue["source_part"]) == {"train", "test"}


def test_fits_extension_by_name(tmp_path):
    path = write(tmp_path, class_folders(NAMES, fits_file, ".fits"))
    assert (read(path, extension="RMS").images == 1).all()
    with pytest.raises(DataError, match="no FITS extension 'VIS'; there are SCI, RMS"):
        read(path, extension="VIS")


def test_images_without_labels(tmp_path):
    path = write(tmp_path, {"a.fits": fits_file(image(0, 0)), "b.fits": fits_file(image(0, 1))})
    with pytest.raises(DataError, match="'a.fits' names no class"):
        read(path)
    dataset = read(path, labelled=False)
    assert dataset.classes == ("unlabelled",) and dataset.catalogue["name"].tolist() == ["a", "b"]


def test_numeric_labels_are_classes_of_their_own_unless_they_are_named(tmp_path):
    path = write(tmp_path, {"set.npz": npz_file({"images": ALL, "labels": np.repeat([0, 1, 2], EACH)})}) / "set.npz"
    assert read(path).classes == ("0", "1", "2")
    check(read(path, classes=("no", "sphere", "vort")))


def test_study_and_deeplense_layouts_round_trip(tmp_path):
    dataset = read(write(tmp_path / "in", class_folders(NAMES, axion_file)))
    again = read(dataset.save(tmp_path / "study"))
    assert again.fingerprint == dataset.fingerprint and again.catalogue.equals(dataset.catalogue)
    back = read(write_deeplense(dataset, tmp_path / "deeplense"))
    by_hash = [table.set_index("hash").sort_index() for table in (dataset.catalogue, back.catalogue)]
    assert by_hash[0].index.equals(by_hash[1].index) and by_hash[0]["class"].equals(by_hash[1]["class"])
    assert (back.catalogue.query("`class` == 'axion'")["axion_mass"] == 1.5e-23).all()
    assert np.load(tmp_path / "deeplense/no_sub/no_00.npy").shape == (SIZE, SIZE)
    split = dataset.split(1 / 3, 1 / 2, seed=0)
    write_deeplense(split, tmp_path / "split")
    parts = read(tmp_path / "split").catalogue.set_index("hash")["source_part"]
    assert parts.to_dict() == split.catalogue.set_index("hash")["part"].to_dict()
    with pytest.raises(DataError, match="not empty"):
        write_deeplense(dataset, tmp_path / "split")


def test_deeplense_folders_say_how_large_their_pixels_are(tmp_path):
    dataset = read(write(tmp_path / "in", class_folders(NAMES, axion_file)), pixel_scale=0.08)
    written = write_deeplense(dataset.split(1 / 3, 1 / 2, seed=0), tmp_path / "out")
    assert read(written).description["pixel_scale"] == 0.08
    plain = write_deeplense(dataset, tmp_path / "plain")
    assert read(plain).description["pixel_scale"] == 0.08
    assert sorted(os.listdir(plain)) == sorted(dataset.classes)  # as other programs look for classes
    assert not (write_deeplense(read(tmp_path / "in"), tmp_path / "unknown") / "info.json").exists()


def test_a_folder_takes_what_memory_cannot(tmp_path):
    files = {f"{name}/{i}.npy": npy(np.random.default_rng(i).random((64, 64))) for name in NAMES for i in range(300)}
    path = write_tar(tmp_path / "set.tar", dict(reversed(files.items())), "w")  # in no order that read() would choose
    whole = 900 * 64 * 64 * 8
    tracemalloc.start()
    dataset = read(path, folder=tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(dataset.images, np.memmap) and peak < whole / 2
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "catalogue.parquet",
        "dataset.json",
        "images.npy",
    ]
    assert dataset.fingerprint == read(path).fingerprint == read(write(tmp_path / "set", files)).fingerprint


def test_as_many_processes_as_you_like(tmp_path):
    path = write_tar(tmp_path / "set.tgz", class_folders(NAMES) | {"no/99.npy": b""})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        alone, two, four = (read(path, processes=n) for n in (1, 2, 4))
    assert alone.fingerprint == two.fingerprint == four.fingerprint
    assert (
        alone.description["rejected"] == four.description["rejected"] == [{"name": "no/99.npy", "reason": "empty file"}]
    )


# ---- what is wrong with a set ---------------------------------------------------------------------------------------

GOOD = class_folders(NAMES)
WHOLE_JPEG = picture(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8), "JPEG")


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("no/bad.npy", b"", "empty file"),
        ("no/bad.npy", npy(image(0, 0))[:-40], "truncated"),
        ("no/bad.npy", b"not an array at all", "magic"),
        ("no/bad.npy", npy(image(0, 0)[:5]), r"shape \(1, 5, 16\), where the others have \(1, 16, 16\)"),
        ("no/bad.npy", npy(np.array(["text"])), "no pixel"),
        ("no/bad.npy", npy(image(0, 0) * 1j), "no pixel"),
        ("no/bad.npy", npy(np.empty((0, 3))), "neither an image nor a stack"),
        ("no/bad.npy", npy(np.array([image(0, 0), image(0, 1), 3.0], dtype=object), allow_pickle=True), "expected"),
        ("no/bad.jpg", WHOLE_JPEG[: len(WHOLE_JPEG) // 2], "truncated"),
        ("no/bad.jpg", b"\xff\xd8\xff", "cannot identify"),
        ("no/bad.png", deep_colour_png(), "would silently become 8-bit"),
        ("no/bad.png", deep_colour_png(4, 2), "would silently become 8-bit"),  # grey with transparency
        ("no/bad.png", deep_colour_png(6, 4), "would silently become 8-bit"),
        ("no/bad.tif", pages(), "3 pictures in one file"),
        ("no/bad.fits", b"SIMPLE", "."),
        ("no/bad.h5", b"\x89HDF", "."),
        ("no/bad.npz", b"PK", "."),
    ],
)
def test_a_bad_file_is_a_reported_skip(name, content, reason, tmp_path):
    with pytest.warns(UserWarning, match="1 files rejected"):
        dataset = read(write(tmp_path, GOOD | {name: content}))
    check(dataset)
    (skipped,) = dataset.description["rejected"]
    assert skipped["name"] == name
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(skipped["reason"])


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "no images"),
        ({"no/readme.txt": b"hello"}, r"no images \(1 other files\)"),
        (GOOD | {"subhlo/0.npy": npy(image(0, 0))}, "class 'subhlo' is unknown. Did you mean 'subhalo'"),
        (GOOD | {"no_sub_extra.npy": npy(image(0, 0))}, "lies beside the class folders"),
        (GOOD | {"axion/readme.txt": b""}, "class folder 'axion' is empty"),
        (GOOD | {"sub/0.npy": b""}, r"nothing of class \['sub'\] could be read; sub/0.npy: empty file"),
        ({name: b"" for name in GOOD}, "none of the first 39 files is an image; no/00.npy: empty file"),
    ],
)
def test_what_makes_a_set_useless_is_an_error(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, files))
    report = inspect(tmp_path)
    assert report["errors"] or report["warnings"]


def test_missing_paths_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("LENSSTUDY_NOWHERE", raising=False)
    with pytest.raises(DataError, match="variable LENSSTUDY_NOWHERE is not set"):
        read("$LENSSTUDY_NOWHERE/lenses.tgz")
    with pytest.raises(DataError, match="nothing exists"):
        read(tmp_path / "lenses.tgz")
    with pytest.raises(DataError, match="unknown kind of file"):
        read(write(tmp_path, {"lenses.rar": b""}) / "lenses.rar")
    monkeypatch.setenv("LENSSTUDY_NOWHERE", str(write(tmp_path / "set", GOOD)))
    check(read("${LENSSTUDY_NOWHERE}"))


@pytest.mark.parametrize("mode", ["tar", "zip"])
def test_the_later_of_two_members_of_one_name_counts(mode, tmp_path):
    files = [(f"{n}/{i:02}.npy", npy(image(c, i))) for c, n in enumerate(NAMES) for i in range(EACH)]
    files.insert(0, ("no/00.npy", npy(image(0, 9))))  # as `tar -r` leaves behind
    path = tmp_path / f"set.{mode}"
    if mode == "tar":
        with tarfile.open(path, "w") as tar:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for name, content in files:
                archive.writestr(name, content)
    check(read(path))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": ALL, "labels": LABELS.astype(object)}, "'labels.npy' cannot be read"),
        ({"images": ALL[:, 0, 0], "labels": LABELS}, "expected a stack of images"),
        ({"images": LABELS, "labels": LABELS}, "expected a stack of images"),
        ({"images": ALL, "labels": LABELS[:3]}, "holds 39 images, but there are 3 labels"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_errors(arrays, message, tmp_path):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "set.npz")
    assert message in inspect(tmp_path / "set.npz")["errors"][0]


def test_a_damaged_array_with_labels_is_an_error(tmp_path):
    content = bytearray(npz_file({"images": ALL, "labels": LABELS}))
    content[content.index(b"images.npy") + 2000] ^= 255
    with pytest.raises(DataError, match="damaged in the archive"):
        read(write(tmp_path, {"set.npz": bytes(content)}) / "set.npz")


@pytest.mark.parametrize("name", ["dataset.json", "images.npy", "catalogue.parquet"])
def test_a_damaged_data_set_of_our_own_is_an_error(name, tmp_path):
    read(write(tmp_path / "files", class_folders(NAMES)), folder=tmp_path / "set")
    file = tmp_path / "set" / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be opened"):
        read(tmp_path / "set")
    assert "cannot be opened" in inspect(tmp_path / "set")["errors"][0]


def test_inspect_sees_pixels_that_changed_after_saving(tmp_path):
    read(write(tmp_path / "files", class_folders(NAMES)), folder=tmp_path / "set")
    np.save(tmp_path / "set" / "images.npy", ALL[::-1, None])
    assert any("fingerprint differs" in error for error in inspect(tmp_path / "set")["errors"])


def test_a_file_name_that_is_not_utf8_is_an_error(tmp_path):
    write(tmp_path, class_folders(NAMES))
    try:
        os.rename(tmp_path / "no" / "00.npy", os.fsencode(tmp_path / "no") + b"/\xff.npy")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(DataError, match="not UTF-8"):
        read(tmp_path)


def test_two_links_to_one_folder_are_two_folders(tmp_path):
    write(tmp_path / "set", class_folders(NAMES))
    (tmp_path / "set" / "vort").rename(tmp_path / "elsewhere")
    for name in ("vort", "sub"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "no" / "up").symlink_to(tmp_path / "set")
    assert read(tmp_path / "set").classes == ("no_sub", "cdm", "axion", "sub")


@pytest.mark.parametrize("suffix, whole", [(".tgz", write_tar), (".zip", write_zip)])
def test_half_an_archive_is_an_error(suffix, whole, tmp_path):
    path = whole(tmp_path / f"set{suffix}", GOOD)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a whole"):
        read(path)


# ---- files that try to do something ---------------------------------------------------------------------------------


class Touch:
    """A pickle of this creates a file when it is opened the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluate:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('ran').touch()",)


def test_a_pickle_that_would_run_is_refused_by_name(tmp_path):
    def hostile(thing):
        pair = np.empty(2, dtype=object)
        pair[0], pair[1] = image(2, 0), thing
        return npy(pair, allow_pickle=True)

    trap = tmp_path / "ran"
    with np.testing.assert_no_warnings():
        np.load(io.BytesIO(hostile(Touch(trap))), allow_pickle=True)
    assert trap.exists()  # the trap works on those who load blindly
    trap.unlink()
    for number, (content, named) in enumerate(
        [
            (hostile(Touch(trap)), "posix.system"),
            (hostile(Evaluate()), "builtins.eval"),
            (hostile(np.float64), "numpy.float64"),
            (
                npy(np.zeros(1))[:6] + b"\x01\x00\x46\x00" + header_of_objects() + pickle.dumps(Touch(trap)),
                "posix.system",
            ),
        ]
    ):
        path = write(tmp_path / str(number), GOOD | {"vort/bad.npy": content})
        with pytest.raises(DataError, match=rf"vort/bad.npy.*'{named}'"):
            read(path)
        assert any("vort/bad.npy" in text for text in inspect(path)["errors"])
    assert not trap.exists() and not os.path.exists("ran")


def test_an_array_that_lies_about_its_memory_is_no_array(tmp_path):
    """NumPy would take these bytes for the addresses of objects if it believed the flags of the dtype."""
    addresses = b"A" * 8
    forged = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85"
        b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + addresses + b"tb."
    )
    content = npy(np.zeros(1))[:6] + b"\x01\x00\x46\x00" + header_of_objects() + forged
    with pytest.warns(UserWarning, match="no/bad.npy: cannot reshape array of size 8"):
        check(read(write(tmp_path, GOOD | {"no/bad.npy": content})))


def header_of_objects() -> bytes:
    return b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69) + b"\n"


def test_pickles_of_any_numpy_and_protocol(tmp_path):
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = image(2, 0), np.float64(2e-24)
    header = npy(np.zeros(1))[:6] + b"\x01\x00\x46\x00" + header_of_objects()
    for protocol in range(2, 6):
        body = pickle.dumps(pair, protocol)
        for text in (body, body.replace(b"numpy._core", b"numpy.core")) if protocol < 4 else (body,):
            path = write(
                tmp_path / f"{protocol}{len(text)}", {"vort/0.npy": header + text, "no/00.npy": npy(image(0, 0))}
            )
            dataset = read(path)
            np.testing.assert_array_equal(dataset.images[1, 0], image(2, 0))
            assert dataset.catalogue["axion_mass"][1] == 2e-24


@pytest.mark.parametrize("name", ["../escaped.npy", "no/../../escaped.npy", "/escaped.npy", "C:\\escaped.npy"])
@pytest.mark.parametrize("suffix, archive", [(".tgz", write_tar), (".zip", write_zip)])
def test_an_archive_that_climbs_out_is_refused(name, suffix, archive, tmp_path):
    (tmp_path / "inside").mkdir()
    path = archive(tmp_path / "inside" / f"set{suffix}", GOOD | {name: npy(image(0, 0))})
    with pytest.raises(DataError, match="climbs out"):
        read(path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [path.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    path = write_tar(tmp_path / "set.tar", GOOD, "w")
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("no/link.npy")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(DataError, match="'no/link.npy' is a link or a device"):
        read(path)


def test_bombs_are_refused_before_they_unpack(tmp_path, monkeypatch):
    monkeypatch.setattr("lensstudy.data.containers.EXPANSION_FREE_BYTES", 2**20)
    bomb = {"no/00.npy": npy(np.zeros((3000, 3000)))}
    for path in (write_zip(tmp_path / "set.zip", bomb), write_tar(tmp_path / "set.tgz", bomb)):
        tracemalloc.start()
        with pytest.raises(DataError, match="decompression bomb"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
        tracemalloc.stop()


def test_an_extended_header_of_a_tar_is_no_place_for_a_bomb(tmp_path):
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 2**24
    with gzip.open(tmp_path / "set.tgz", "wb") as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(2**24 + 1024))
    tracemalloc.start()
    with pytest.raises(DataError, match="decompression bomb"):
        read(tmp_path / "set.tgz")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_compressed_fits_file_unpacks_to_a_limit(tmp_path, monkeypatch):
    good = {"no/good.fits.gz": gzip.compress(fits_file(image(0, 0)))}
    monkeypatch.setattr("lensstudy.data.fits.UNPACKED_LIMIT", 2**20)
    write(tmp_path, class_folders(NAMES, fits_file, ".fits") | good)
    write(tmp_path, {"no/bad.fits.gz": gzip.compress(fits_file(np.zeros((1000, 1000))))})
    with pytest.warns(UserWarning, match="no/bad.fits.gz: unpacks to more than"):
        assert len(read(tmp_path)) == 3 * EACH + 1


def test_an_hdf5_file_has_its_pixels_inside_and_all_of_them(tmp_path):
    def attempt(name, add) -> str:
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["no"], file["sphere"] = STACKS["no"], STACKS["sphere"]
            add(file)
        with pytest.raises(DataError) as rejected:
            read(tmp_path / f"{name}.h5")
        assert inspect(tmp_path / f"{name}.h5")["errors"]
        return str(rejected.value)

    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(5 * SIZE * SIZE))
    layout = h5py.VirtualLayout((5, SIZE, SIZE), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "no", (5, SIZE, SIZE))
    outside = {"external": [(str(secret), 0, 5 * SIZE * SIZE)]}
    for rejected in (
        attempt("external", lambda file: file.create_dataset("vort", (5, SIZE, SIZE), "u1", **outside)),
        attempt("virtual", lambda file: file.create_virtual_dataset("vort", layout)),
    ):
        assert "takes its numbers from other files" in rejected
    for link in (h5py.ExternalLink("/etc/hosts", "x"), h5py.SoftLink("/no")):  # silence would lose a class
        assert "'vort' is a link" in attempt("link", lambda file, link=link: file.update({"vort": link}))
    huge = {"shape": (10**6, 100, 100), "dtype": "f4", "chunks": (1, 100, 100)}
    assert "decompression bomb" in attempt("huge", lambda file: file.create_dataset("vort", **huge))


def test_a_header_that_promises_terabytes_is_a_skip(tmp_path):
    content = npy(np.zeros(1))[:6] + b"\x01\x00\x46\x00"
    content += b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(69)[:69] + b"\n"
    with pytest.warns(UserWarning, match="no/bad.npy"):
        check(read(write(tmp_path, GOOD | {"no/bad.npy": content})))


def test_reading_writes_nothing(tmp_path):
    write(tmp_path / "set", GOOD)
    before = sorted(tmp_path.rglob("*"))
    read(tmp_path / "set")
    inspect(tmp_path / "set")
    assert sorted(tmp_path.rglob("*")) == before


# ---- inspecting -----------------------------------------------------------------------------------------------------


def test_inspect_counts_and_points_to_examples(tmp_path):
    files = {f"{name}/{i:02}.npy": npy(image(c, i)) for c, name in enumerate(NAMES) for i in range(12)}
    files |= {
        "no/90.npy": npy(image(0, 0)),
        "no/91.npy": npy(image(0, 1) * np.nan),
        "no/92.npy": npy(np.ones((SIZE, SIZE))),
    }
    files |= {"no/93.npy": b""}
    report = inspect(write(tmp_path, files))
    assert report["errors"] == [] and report["layout"] == "folder" and report["shapes"] == {"1x16x16": 39}
    assert {name: about["images"] for name, about in report["classes"].items()} == {
        "no_sub": 15,
        "cdm": 12,
        "axion": 12,
    }
    assert report["classes"]["cdm"]["maximum"] == max(image(1, i).max() for i in range(12))
    for text in ("1 images hold NaN", "1 images are constant", "1 images are exact copies", "no/93.npy: empty file"):
        assert any(text in warning for warning in report["warnings"]), text
    with pytest.warns(UserWarning):
        dataset = read(tmp_path)
    for name, rows in report["samples"].items():
        assert len(rows) == 6 and (dataset.catalogue["class"][rows] == name).all()
    text = inspect_text(report)
    assert "fit for a study" in text and "NOT" not in text and "no_sub" in text


@pytest.mark.parametrize("name", FILES)
def test_inspect_knows_one_file_for_a_whole_set(name, tmp_path):
    report = inspect(write(tmp_path, {name: FILES[name]}) / name)
    assert {name: about["images"] for name, about in report["classes"].items()} == dict.fromkeys(
        ("no_sub", "cdm", "axion"), EACH
    )
    assert report["samples"]["cdm"][0] == EACH or name in ("set.npz", "set.h5", "groups.hdf5")
    assert report["errors"] == []


def test_inspect_says_what_would_stop_a_study(tmp_path):
    text = inspect_text(
        inspect(write(tmp_path / "a", {"lens_7/0.npy": npy(image(0, 0)), "lens_8/0.npy": npy(image(0, 1))}))
    )
    assert "class 'lens_7' is unknown" in text and "NOT fit for a study" in text
    assert "nothing exists" in inspect_text(inspect(tmp_path / "nowhere"))
    assert any(
        "only one class" in error for error in inspect(write(tmp_path / "b", {"no/00.npy": npy(image(0, 0))}))["errors"]
    )


@pytest.mark.parametrize(
    "others, message",
    [
        (lambda i: np.ones((1, 9, 9), "f4") * i, "another shape"),  # a set of which half cannot be used is none
        (lambda i: np.ones((1, 9, 9), "f4") * i if i < 20 else image(1, i), "another shape"),
        (lambda i: image(1, i), None),  # a dtype is no reason
        (lambda i: image(1, i, "float32") if i < 20 else image(1, i, "uint16"), None),
        (lambda i: image(1, i, "float32") * (np.nan if i % 4 == 0 else 1), "20 images hold NaN"),
        (lambda i: image(1, i % 40, "float32"), "40 images are exact copies"),
    ],
)
def test_inspect_foresees_what_reading_and_filtering_do(others, message, tmp_path):
    files = {f"cdm/{i:02}.npy": npy(image(0, i, "float32")) for i in range(80)}
    report = inspect(write(tmp_path, files | {f"no_sub/{i:02}.npy": npy(others(i)) for i in range(80)}))
    if message:
        assert any(message in error for error in report["errors"])
        with pytest.raises(DataError), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            filter_images(read(tmp_path), QUALITY)
    else:
        assert report["errors"] == [] and report["classes"]["no_sub"]["images"] == 80
        dataset = read(tmp_path)
        np.testing.assert_array_equal(dataset.images[80:, 0], [others(i) for i in range(80)])


def test_images_that_are_not_square_stop_a_study(tmp_path):
    files = {f"{name}/{i:02}.npy": npy(image(0, i)[:9]) for name in NAMES for i in range(12)}
    assert any("9x16" in error for error in inspect(write(tmp_path, files))["errors"])


def test_inspect_goes_past_tables_and_damaged_fits_files(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image(0, 0), name="SCI")]
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("flux", "E", array=[1.0, 2.0])], name="CAT"))
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    write(tmp_path, {f"{name}/{i}.fits": content.getvalue() for name in NAMES for i in range(3)})
    assert inspect(tmp_path)["contents"] == ["0 PRIMARY empty", "1 SCI 16x16", "2 CAT table"]
    write(tmp_path, {"no/0.fits": b"rubbish"})
    assert any("no/0.fits: not a FITS file" in warning for warning in inspect(tmp_path)["warnings"])


def test_the_share_at_which_filtering_stops_is_that_of_the_rules():
    assert Rules().largest_share == STOPPING_SHARE


# ---- real files -----------------------------------------------------------------------------------------------------


def test_the_official_set_and_the_released_images(evaluation_data):
    official = read(evaluation_data / "deeplense-equivariant" / "lenses.tgz")
    assert official.images.shape == (8000, 1, 150, 150) and official.images.dtype == np.uint8
    assert official.classes == ("no_sub", "sub") and np.bincount(official.labels).tolist() == [4000, 4000]
    common = read(evaluation_data / "deeplense-common-test")
    assert common.classes == ("no_sub", "cdm", "axion") and common.images.shape == (15, 1, 150, 150)
    released = read(evaluation_data / "deeplense-model-3")
    assert released.catalogue.set_index("source")["class"].to_dict() == {
        "axion.npy": "axion",
        "cdm.npy": "cdm",
        "nosub.npy": "no_sub",
    }


def test_telescope_images_are_read_by_extension(evaluation_data):
    folder = evaluation_data / "lenses"
    euclid = folder / "euclid_q1" / "102018665_NEG570040238507752998.fits"
    assert read(euclid, labelled=False, extension="VIS_BGSUB").images.shape == (1, 1, 100, 100)
    dolphin = folder / "hst_dolphin" / "lens_system1" / "image_lens_system1_F390W.h5"
    assert read(dolphin, labelled=False).images.shape == (1, 1, 120, 120)
    assert "VIS_PSF" in inspect_text(inspect(folder / "euclid_q1"))
