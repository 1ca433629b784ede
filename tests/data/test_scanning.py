"""The one reader: every file is read, rejected or skipped by name, and what was read is what was written."""

import io
import json
import warnings

import h5py
import numpy as np
import pytest
import torch
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lensstudy.data.dataset import DataError
from lensstudy.data.filtering import Rules, filter_images
from lensstudy.data.inspection import inspect
from lensstudy.data.reading import read
from lensstudy.deployment.predictor import find

SIZE = 16


def image(seed: int, dtype="float32", shape=(SIZE, SIZE)) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) * 200).astype(dtype)


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def tensor(array) -> bytes:
    file = io.BytesIO()
    torch.save(torch.from_numpy(array), file)
    return file.getvalue()


def picture(array, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def fits_file(array, names=("SCI",), scale=None) -> bytes:
    header = fits.Header({"PIXSCALE": scale} if scale else {})
    hdus = [fits.ImageHDU(array if name == "SCI" else array * 0 + 1, header, name=name) for name in names]
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(file)
    return file.getvalue()


def write(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def folders(make, suffix=".npy", classes=("cdm", "no_sub"), each=5) -> dict[str, bytes]:
    return {f"{name}/{i}{suffix}": make(i + 10 * k) for k, name in enumerate(classes) for i in range(each)}


def quiet(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(path, **options)


# ---- what is in a file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, make",
    [
        (".gif", lambda i: picture(image(i), "GIF")),
        (".bmp", lambda i: picture(image(i), "BMP")),
        (".webp", lambda i: picture(np.stack([image(i)] * 3, -1), "WEBP")),
        (".pt", lambda i: tensor(image(i, "uint8"))),
        (".pth", lambda i: tensor(image(i, "uint8")[None])),
        (".npy", lambda i: npy(np.array(list(image(i, "uint8")) + [None], dtype=object)[:-1])),
        (".npy", lambda i: npy(np.array([image(i, "uint8").ravel(), "cdm", None], dtype=object)[:-1])),
        (".npy", lambda i: npy(np.array({"image": image(i, "uint8"), "label": 1}, dtype=object))),
        (".npy", lambda i: npy(image(i, "uint8")[None, :, None, :])),
    ],
    ids=["gif", "bmp", "webp", "tensor", "tensor with a channel", "rows", "flat with label", "dict", "axes of one"],
)
def test_files_of_many_kinds_hold_the_same_pixels(suffix, make, tmp_path):
    images = read(write(tmp_path, folders(make, suffix))).images
    expected = [image(i + 10 * k, "uint8") for k in range(2) for i in range(5)]
    for channel in range(images.shape[1]):  # webp knows colours only
        np.testing.assert_array_equal(images[:, channel], expected)


def test_cells_of_a_table_are_images(tmp_path):
    cells = np.stack([image(i) for i in range(3)])
    for name, column in (
        ("square", fits.Column("image", f"{SIZE**2}E", dim=f"({SIZE},{SIZE})", array=cells)),
        ("flat", fits.Column("image", f"{SIZE**2}E", array=cells.reshape(3, -1))),
    ):
        identity = fits.Column("id", "J", array=[1, 2, 3])
        fits.BinTableHDU.from_columns([identity, column]).writeto(tmp_path / f"{name}.fits")
        np.testing.assert_array_equal(read(tmp_path / f"{name}.fits", labelled=False).images[:, 0], cells)


@pytest.mark.parametrize(
    "beside, mass, label",
    [
        (1e-23, 1e-23, None),
        (np.float64(2e-24), 2e-24, None),
        (np.array(1e-23), 1e-23, None),
        (2, None, "2"),
        ("vort", None, "vort"),
    ],
    ids=["mass", "numpy's mass", "mass of rank 0", "class number", "class name"],
)
def test_a_number_beside_an_image_is_a_mass_or_a_class(beside, mass, label, tmp_path):
    pair = np.empty(2, dtype=object)
    pair[0], pair[1] = image(0), beside
    dataset = read(write(tmp_path / "a", folders(lambda i: npy(pair))))
    masses = dataset.catalogue.get("axion_mass")
    assert masses is None if mass is None else set(masses) == {mass}
    if label:  # where no folder says the class, the file does
        alone = {f"x{i}.npy": npy(pair) for i in range(3)}
        assert read(write(tmp_path / "b", alone)).description["class_names"].keys() == {label}


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("kind", [list, np.array, lambda row: np.array(row, np.float32)])
def test_a_class_set_to_one_beside_an_image(place, kind, tmp_path):
    for i, number in enumerate((place, 1)):
        pair = np.empty(2, dtype=object)
        pair[:] = [image(i), kind([int(k == number) for k in range(4)])]
        np.save(tmp_path / f"{i}.npy", pair, allow_pickle=True)
    dataset = read(tmp_path)
    assert dataset.catalogue["class"].tolist() == [str(place), "1"]
    np.testing.assert_array_equal(dataset.images[:, 0], [image(0), image(1)])


def test_what_is_no_class_beside_an_image_is_refused(tmp_path):
    for i, row in enumerate(([0.2, 0.8], [1, 1], [0, 0])):
        pair = np.empty(2, dtype=object)
        pair[:] = [image(i), np.array(row)]
        np.save(tmp_path / f"{i}.npy", pair, allow_pickle=True)
    with pytest.raises(DataError, match="none of the first 3 files is an image; 0.npy: an object array of 2 items"):
        read(tmp_path)


def test_rows_of_pairs_are_a_set(tmp_path):
    rows = np.empty((6, 2), dtype=object)
    for i in range(6):
        rows[i, 0], rows[i, 1] = image(i), ("no_sub", "cdm")[i % 2]
    np.save(tmp_path / "set.npy", rows, allow_pickle=True)
    dataset = read(tmp_path / "set.npy")
    assert dataset.classes == ("no_sub", "cdm") and dataset.labels.tolist() == [0, 1] * 3
    np.testing.assert_array_equal(dataset.images[:, 0], [image(i) for i in range(6)])


def test_many_images_with_their_masses_in_one_file(tmp_path):
    rows = np.empty((300, 2), dtype=object)
    for i in range(300):
        rows[i, 0], rows[i, 1] = image(i), (i + 1) * 1e-24
    (tmp_path / "axion").mkdir()
    np.save(tmp_path / "axion" / "all.npy", rows, allow_pickle=True)
    table = read(tmp_path).catalogue
    np.testing.assert_allclose(table["axion_mass"], np.arange(1, 301) * 1e-24)


def test_a_tensor_that_is_more_than_a_tensor_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(DataError, match="more than a tensor"):
        read(tmp_path / "module.pt", labelled=False)


@pytest.mark.parametrize("shape", [(5, SIZE, SIZE), (SIZE, SIZE, 6), (12, SIZE, SIZE)])
@pytest.mark.parametrize("encode, suffix", [(npy, ".npy"), (fits_file, ".fits")])
def test_bands_of_one_image_are_never_images(shape, encode, suffix, tmp_path):
    write(tmp_path, folders(lambda i: encode(image(i, shape=shape)), suffix))
    dataset = read(tmp_path)
    assert len(dataset) == 10 and dataset.images.shape[1] == min(shape)
    rows = list(find([tmp_path]))
    assert [one.pixels.shape[0] for one in rows] == [min(shape)] * 10
    assert any(f"one image of {min(shape)} bands" in text for text in inspect(tmp_path)["warnings"])


def test_dtypes_that_differ_meet_in_the_smallest_that_holds_both(tmp_path):
    write(tmp_path, folders(lambda i: npy(image(i, "uint16" if i % 2 else "float32")), each=150))
    for folder in (None, tmp_path / "out"):  # in memory, and rewritten in a file
        dataset = read(tmp_path, folder=folder) if folder is None else read(tmp_path, folder=tmp_path.parent / "out")
        assert dataset.images.dtype == np.float32 and len(dataset) == 300
        by_source = dict(zip(dataset.catalogue["source"], dataset.images[:, 0], strict=True))
        for i in (0, 1, 148, 149):
            np.testing.assert_array_equal(by_source[f"cdm/{i}.npy"], image(i, "uint16" if i % 2 else "float32"))


# ---- which file belongs to what -------------------------------------------------------------------------------------


def test_the_pixel_scale_of_files_is_that_of_the_set(tmp_path):
    write(tmp_path / "same", folders(lambda i: fits_file(image(i), scale=0.1), ".fits"))
    assert read(tmp_path / "same").description["pixel_scale"] == inspect(tmp_path / "same")["pixel_scale"] == 0.1
    with pytest.raises(DataError, match="pixels of 0.1 arcsec, as it says itself .*, and not of 0.05"):
        read(tmp_path / "same", pixel_scale=0.05)
    write(tmp_path / "two", folders(lambda i: fits_file(image(i), scale=0.1 if i % 2 else 0.2), ".fits"))
    with pytest.raises(DataError, match=r"pixels of 0.1 arcsec \(.*\) and of 0.2 arcsec"):
        read(tmp_path / "two")
    assert any("in one set" in error for error in inspect(tmp_path / "two")["errors"])
    write(tmp_path / "none", folders(lambda i: npy(image(i))))
    assert "pixel_scale" not in read(tmp_path / "none").description
    (tmp_path / "none" / "cdm" / "info.json").write_text(json.dumps({"pixel_scale": 0.2}))
    assert read(tmp_path / "none").description["pixel_scale"] == 0.2


def test_maps_beside_images_are_no_training_images(tmp_path):
    maps = {f"cdm/{i}_{word}.fits": fits_file(image(99)) for i in range(5) for word in ("rms", "invvar", "psf")}
    dataset = read(write(tmp_path, folders(lambda i: fits_file(image(i)), ".fits") | maps))
    assert len(dataset) == 10 and dataset.description["files"] == {
        "found": 25,
        "read": 10,
        "rejected": 0,
        "skipped": 15,
    }
    assert inspect(tmp_path)["files"] == dataset.description["files"]


def test_bands_in_files_of_their_own_stay_together(tmp_path):
    files = {f"lens/L{i}_{band}.npy": npy(image(100 * i + ord(band))) for i in range(20) for band in "gri"}
    files |= {f"nonlens/N{i}_{band}.npy": npy(image(9000 + 100 * i + ord(band))) for i in range(20) for band in "gri"}
    split = filter_images(read(write(tmp_path, files)), Rules(0.5, None, None, None, None)).split(0.2, 0.2, seed=1)
    assert (split.catalogue.groupby("lens")["part"].nunique() == 1).all() and split.catalogue["lens"].nunique() == 40
    split.check_leaks()


def test_parts_that_came_are_kept_on_request(tmp_path):
    parts = {
        f"{part}/{name}": content
        for part in ("train", "test")
        for name, content in folders(lambda i: npy(image(i))).items()
    }
    files = {name: npy(image(k)) for k, name in enumerate(parts)}
    dataset = read(write(tmp_path, files))
    kept = dataset.split_as_given(0.2, seed=1).catalogue
    assert (kept["part"] == "test").equals(kept["source_part"] == "test")
    assert kept["part"].value_counts().to_dict() == {"test": 10, "train": 8, "validation": 2}
    with pytest.raises(DataError, match="parts that came with the images are {'none': 10}"):
        read(tmp_path / "train" / "cdm", labelled=False) if False else read_without_parts(tmp_path).split_as_given(
            0.2, 1
        )


def read_without_parts(root):
    return read(write(root / "plain", folders(lambda i: npy(image(i)))))


# ---- arrays of one file ---------------------------------------------------------------------------------------------


def hdf5(path, arrays: dict, attributes: dict | None = None):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        for name, about in (attributes or {}).items():
            file[name].attrs.update(about)
    return path


STACK = np.stack([image(i) for i in range(6)])
NAMES = np.array(["no_sub", "cdm"] * 3, dtype="S6")


@pytest.mark.parametrize(
    "arrays, parts",
    [
        ({"labelled/images": STACK, "labelled/labels": NAMES, "unlabelled/images": STACK * 0 + 9}, None),
        (
            {
                f"{part}/{what}": array[k]
                for part, k in (("train", slice(0, 4)), ("test", slice(4, 6)))
                for what, array in (("images", STACK), ("labels", NAMES))
            },
            {"train": 4, "test": 2},
        ),
        (
            {"x_train": STACK[:4], "y_train": NAMES[:4], "x_test": STACK[4:], "y_test": NAMES[4:]},
            {"train": 4, "test": 2},
        ),
        ({"images": STACK, "labels": NAMES[:, None]}, None),
        ({"data/x": STACK, "truth": np.ones((6, 3)), "y": NAMES}, None),
        ({"images": STACK.reshape(6, -1), "ans": NAMES}, None),
        ({"images": STACK[..., None], "target": NAMES, "redshift": np.linspace(0, 1, 6)}, None),
    ],
    ids=["labelled and not", "parts as groups", "parts in names", "column", "one of each", "flat", "channel last"],
)
@pytest.mark.parametrize("kind", ["h5", "npz"])
def test_labels_stay_with_their_images(arrays, parts, kind, tmp_path):
    if kind == "npz":
        np.savez(tmp_path / "set.npz", **arrays)
    else:
        hdf5(tmp_path / "set.h5", arrays)
    dataset = read(tmp_path / f"set.{kind}")
    where = {hash(pixels.tobytes()): label for pixels, label in zip(STACK, NAMES, strict=True)}
    assert len(dataset) == 6
    for pixels, label in zip(dataset.images[:, 0], dataset.catalogue["class"], strict=True):
        assert where[hash(np.ascontiguousarray(pixels).tobytes())] == label.encode()
    if parts:
        assert dataset.catalogue["source_part"].value_counts().to_dict() == parts
    files = dataset.description["files"]
    assert files["found"] == len(arrays) == files["read"] + files["rejected"] + files["skipped"]
    assert inspect(tmp_path / f"set.{kind}")["files"] == files


def test_numbers_as_labels(tmp_path):
    for numbers in (np.array([0, 1] * 3), np.array([0.0, 1.0] * 3), np.eye(2)[[0, 1] * 3]):
        path = hdf5(tmp_path / "set.h5", {"images": STACK, "labels": numbers})
        assert read(path).classes == ("0", "1")
        assert any("classes 0, 1 are numbers" in text for text in inspect(path)["warnings"])
        named = read(path, classes=("no_sub", "cdm"))
        assert named.classes == ("no_sub", "cdm") and named.labels.tolist() == [0, 1] * 3


def test_arrays_without_names_are_told_by_their_shapes(tmp_path):
    numbers, file = np.array([0, 1] * 3), tmp_path / "set.npz"
    for arrays in (
        (STACK, numbers),
        (numbers, STACK),
        (STACK, np.eye(2)[numbers]),
        (STACK, numbers, STACK[:3], numbers[:3]),
    ):
        np.savez(file, *arrays)
        dataset = read(file)
        assert dataset.catalogue["class"].tolist() == ["0", "1"] * 3 + ["0", "1", "0"] * (len(arrays) == 4)
        np.testing.assert_array_equal(dataset.images[:6, 0], STACK)
        assert sum(one.pixels is not None for one in find([file])) == inspect(file)["images"] == len(dataset)
    np.savez(file, STACK, numbers, STACK + 1, numbers)
    with pytest.raises(DataError, match="'arr_1.*' could be the labels of arr_0.*, arr_2.*; name the arrays"):
        read(file)
    np.savez(file, STACK[:3], np.array([480, 620, 770]))  # wavelengths of three bands, and no classes
    assert [one.pixels.shape for one in find([file]) if one.pixels is not None] == [(3, SIZE, SIZE)]


@pytest.mark.parametrize("dtype", [bool, int, float])
def test_an_array_that_says_whether_it_is_a_lens(dtype, tmp_path):
    np.savez(tmp_path / "set.npz", images=STACK, is_lens=np.array([1, 0, 0] * 2, dtype))
    dataset = read(tmp_path / "set.npz")
    assert dataset.catalogue["class"].tolist() == ["lens", "nonlens", "nonlens"] * 2
    assert dataset.classes == ("nonlens", "lens")
    attributes = {f"{i}": {"is_lens": i % 2} for i in range(4)}
    assert read(hdf5(tmp_path / "set.h5", {f"{i}": image(i) for i in range(4)}, attributes)).classes == dataset.classes


def test_folders_of_yes_and_no(tmp_path):
    write(tmp_path, folders(lambda i: npy(image(i)), classes=("yes", "no"), each=10))
    assert read(tmp_path).classes == tuple(inspect(tmp_path)["classes"]) == ("no", "yes")


def test_labels_in_attributes_and_bands_in_groups(tmp_path):
    """The layout of the Roman challenge: a group a lens, an array a band, `[value, description]` as attributes."""
    arrays = {
        f"images/lens_{i}/exposure_{band}": image(10 * i + k)
        for i in range(6)
        for k, band in enumerate(("F106", "F158"))
    }
    text = h5py.string_dtype()
    attributes = {f"images/lens_{i}": {"substructure": np.array([str(i % 2 == 1), "?"], dtype=text)} for i in range(6)}
    attributes |= {name: {"pixel_scale": np.array(["0.11", "arcsec"], dtype=text)} for name in arrays}
    dataset = read(hdf5(tmp_path / "set.h5", arrays, attributes))
    assert dataset.classes == ("no_sub", "sub") and dataset.labels.tolist() == [0, 1] * 3
    assert dataset.description["pixel_scale"] == 0.11
    np.testing.assert_array_equal(dataset.images[3], [image(30), image(31)])
    plain = hdf5(
        tmp_path / "other.h5",
        {f"{i}": image(i) for i in range(4)},
        {f"{i}": {"mine": f"kind {i % 2}"} for i in range(4)},
    )
    assert read(plain, labels="mine").classes == ("kind 0", "kind 1")
    with pytest.raises(DataError, match="not every image has an attribute 'yours'"):
        read(plain, labels="yours")


def test_a_psf_beside_the_bands_of_a_group_is_no_band(tmp_path):
    names = [f"images/lens_{i}/{name}" for i in range(4) for name in ("exposure_F106", "exposure_F158", "psf_F106")]
    attributes = {f"images/lens_{i}": {"is_lens": i % 2 == 1} for i in range(4)}
    path = hdf5(tmp_path / "set.h5", {name: image(i) for i, name in enumerate(names)}, attributes)
    dataset = read(path)
    assert dataset.images.shape == (4, 2, SIZE, SIZE) and dataset.classes == ("nonlens", "lens")
    np.testing.assert_array_equal(dataset.images[1], [image(3), image(4)])
    images = [found for found in find([path]) if found.pixels is not None]
    assert inspect(path)["images"] == len(images) == 4 and inspect(path)["files"]["skipped"] == 4


def test_labels_of_object_dtype_and_numbers_beside_images(tmp_path):
    labels = np.array(["cdm", "axion"] * 3, dtype=object)
    np.savez(tmp_path / "set.npz", images=STACK, labels=labels, pixel_scale=0.05)
    assert read(tmp_path / "set.npz").catalogue["class"].tolist() == labels.tolist()
    found = list(find([tmp_path / "set.npz"]))
    assert sum(one.pixels is not None for one in found) == 6 and sum(one.skipped for one in found) == 2
    assert inspect(tmp_path / "set.npz")["files"] == {"found": 3, "rejected": 0, "skipped": 2, "read": 1}


def test_a_psf_in_the_next_column_of_a_table_is_no_image(tmp_path):
    columns = [fits.Column("psf", "49E", dim="(7,7)", array=np.ones((5, 7, 7)))]
    columns += [fits.Column("image", f"{SIZE**2}E", dim=f"({SIZE},{SIZE})", array=STACK[:5])]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(tmp_path / "lens.fits")
    found = list(find([tmp_path / "lens.fits"]))
    np.testing.assert_array_equal(np.stack([one.pixels[0] for one in found]), STACK[:5].astype("f4"))


def test_stacks_with_labels_in_a_folder(tmp_path):
    write(tmp_path, {"X_train.npy": npy(STACK), "y_train.npy": npy(np.array([0, 1] * 3))})
    dataset = read(tmp_path, classes=("no_sub", "cdm"))
    assert dataset.labels.tolist() == [0, 1] * 3 and set(dataset.catalogue["source_part"]) == {"train"}
    np.testing.assert_array_equal(dataset.images[:, 0], STACK)


def test_a_table_of_labels_labels_and_what_it_lacks_is_rejected(tmp_path):
    write(tmp_path / "set", {f"{i}.npy": npy(image(i)) for i in range(20)})
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{i}.npy,{('cdm', 'mine')[i % 2]}\n" for i in range(19))
    )
    with pytest.warns(UserWarning, match="19.npy: labels.csv has no label for it"):
        dataset = read(tmp_path / "set", labels=tmp_path / "labels.csv")
    assert dataset.classes == ("cdm", "mine") and len(dataset) == 19


# ---- whatever lies there --------------------------------------------------------------------------------------------

CLASSES = st.lists(
    st.sampled_from(["cdm", "NoSub", "vort", "wdm", "nolens", "my own", "0", "1"]),
    min_size=2,
    max_size=3,
    unique_by=str.lower,
)
PLACES = st.sampled_from(["{c}/{i}", "train/{c}/{i}", "{c}/batch_1/{i}", "data/{c}/images/{i}", "{c}/train/x_{i}"])
KINDS = st.sampled_from(["npy", "cube", "fits", "err first", "mask first", "png", "gif", "tensor"])
DTYPES = st.sampled_from(["uint8", "int16", "uint16", "float32", "float64"])
EXTRAS = st.lists(
    st.sampled_from(["noise_map.npy", "psf.fits", "README.md", "more.zip", "x.xyz", "bad.npy", "small.npy"]),
    unique=True,
    max_size=4,
)


def content(kind: str, seed: int, dtype: str) -> tuple[str, bytes]:
    if kind in ("npy", "cube"):
        return ".npy", npy(image(seed, dtype)[(None,) * (kind == "cube")])
    if kind == "png" or kind == "gif":
        return f".{kind}", picture(image(seed, "uint8"), kind.upper())
    if kind == "tensor":
        return ".pt", tensor(image(seed, dtype if dtype != "uint16" else "int16"))
    names = {"fits": ("SCI",), "err first": ("ERR", "SCI"), "mask first": ("MASK", "SCI", "PSF")}[kind]
    return ".fits", fits_file(image(seed, dtype), names)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    classes=CLASSES,
    place=PLACES,
    kinds=st.lists(KINDS, min_size=1, max_size=3),
    dtypes=st.lists(DTYPES, min_size=1, max_size=2),
    extras=EXTRAS,
)
def test_right_or_refused_by_name(classes, place, kinds, dtypes, extras, tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    expected = {}
    for k, name in enumerate(classes):
        for i in range(12):
            seed, kind, dtype = 100 * k + i, kinds[i % len(kinds)], dtypes[i % len(dtypes)]
            suffix, data = content(kind, seed, dtype)
            file = place.format(c=name, i=i) + suffix
            write(root, {file: data})
            pixels = image(
                seed, "uint8" if kind in ("png", "gif") else "int16" if (kind, dtype) == ("tensor", "uint16") else dtype
            )
            expected[file] = pixels
    folder = place.format(c=classes[0], i=0).rpartition("/")[0]
    made = {"bad.npy": npy(image(0))[:-9], "small.npy": npy(image(0)[:9, :9]), "psf.fits": fits_file(image(0))}
    extra = {f"{folder}/{name}": made.get(name, npy(image(0)) if name.endswith(".npy") else b"text") for name in extras}
    write(root, extra)
    dataset, report, rows = quiet(root), inspect(root), list(find([root]))
    # what was read is what was written, under the class whose folder it lay in
    read_files = dict(zip(dataset.catalogue["source"], dataset.images[:, 0], strict=True))
    assert read_files.keys() == expected.keys()
    for file, pixels in expected.items():
        np.testing.assert_array_equal(read_files[file], pixels)
    assert (
        dataset.catalogue.groupby(
            dataset.catalogue["source"].map(lambda f: next(c for c in classes if c in f.split("/")))
        )["class"]
        .nunique()
        .eq(1)
        .all()
    )
    assert len(dataset.classes) == len(classes)
    # every file is counted once, by all commands alike
    files = dataset.description["files"]
    assert files["found"] == len(expected) + len(extra) == files["read"] + files["rejected"] + files["skipped"]
    assert report["files"] == files
    usable = [row for row in rows if row.pixels is not None and row.pixels.shape == (1, SIZE, SIZE)]
    assert len(usable) == files["read"] and sum(row.skipped for row in rows) == files["skipped"]
    assert len(rows) == files["found"]
    named = {entry["name"] for entry in dataset.description["rejected"]}
    assert named == {f"{folder}/{name}" for name in extras if name in ("bad.npy", "small.npy")}


def test_the_nearest_info_json_says_the_pixel_scale(tmp_path):
    """Above the folders of classes for all of them, and in one of them for its own images."""
    write(tmp_path, folders(lambda i: npy(image(i))))
    (tmp_path / "info.json").write_text('{"pixel_scale": 0.1}')
    assert read(tmp_path).description["pixel_scale"] == 0.1
    assert {one.pixel_scale for one in find([tmp_path]) if one.pixels is not None} == {0.1}
    (tmp_path / "cdm" / "info.json").write_text('{"pixel_scale": 0.05}')
    with pytest.raises(DataError, match=r"pixels of 0\.05 arcsec \(cdm/.*and of 0\.1 arcsec \(no_sub/"):
        read(tmp_path)
