"""Faults of a catalogue sent at random through the commands: none ends in a traceback or a hang, none changes a result
without a word, and what was read, rejected and skipped adds up to what was found, in every command alike."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import nbformat
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from lensstudy import cli, provenance
from lensstudy.deployment import transfer
from lensstudy.files import printable
from lensstudy.report.execution import Stamp
from lensstudy.training import fitting
from tests.conftest import make_blobs
from tests.data.test_scanning import npy, picture, tensor, write

EACH = 12
LONGEST = 90  # seconds of a command where many others share the processor; alone none takes 10
METRICS = {"validation_auc": 0.9, "validation_accuracy": 0.9, "best_epoch": 1}


@contextmanager
def in_time():
    def stop(*_):
        raise TimeoutError(f"a command hangs: it took longer than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments):
    """What a command answers, which is an exit status and text, whatever it is given."""
    with in_time():
        done = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.output, done.exception)
    assert done.exit_code in (0, 1, 2) and "Traceback" not in done.output, (arguments, done.output)
    assert done.exit_code == 0 or done.output.strip(), "what does not work says why"
    return done


# ---- sets of images -------------------------------------------------------------------------------------------------

BLOBS = make_blobs()
IMAGES = {
    f"{name}/{i}": BLOBS.images[np.flatnonzero(BLOBS.labels == k)[i], 0]
    for k, name in enumerate(BLOBS.classes)
    for i in range(EACH)
}


def fits_of(image, **cards) -> bytes:
    """A FITS file, with cards of its header replaced whatever they say."""
    file = io.BytesIO()
    fits.PrimaryHDU(image).writeto(file)
    data = file.getvalue()
    for name, value in cards.items():
        card = f"{name:8}= {value:>20}".ljust(80).encode()
        place = data.find(f"{name:8}=".encode())
        place = place if place >= 0 else data.find(b"END     ")
        rest = data[place + 80 :] if data[place : place + 3] != b"END" else b"END".ljust(80) + data[place + 160 :]
        data = data[:place] + card + rest
    return data


def zipped(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def hdf5(**arrays) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        opened.update(arrays)
    return file.getvalue()


def promising(shape) -> bytes:
    """An `.npy` whose header promises an array of another shape than it holds."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(1024)


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-run",)


def objects(*items) -> bytes:
    array = np.empty(len(items), object)
    array[:] = items
    return npy(array)


KINDS = {
    ".npy": npy,
    ".fits": fits_of,
    ".fits.gz": lambda image: gzip.compress(fits_of(image)),
    ".npz": lambda image: zipped(image=image),
    ".h5": lambda image: hdf5(image=image),
    ".pt": lambda image: tensor(np.array(image)),
    ".png": lambda image: picture(np.clip(image * 100 + 50, 0, 255), "PNG"),
}
BYTES = {  # of a file of any kind: what becomes of its content at a place from 0 to 1
    "empty": lambda data, at: b"",
    "cut": lambda data, at: data[: int(at * len(data))],
    "one byte": lambda data, at: data[: (i := int(at * (len(data) - 1)))] + bytes([data[i] ^ 0x5A]) + data[i + 1 :],
    "hole": lambda data, at: data[: (i := int(at * len(data)))] + bytes(64) + data[i + 64 :],
    "twice": lambda data, at: data + data,
    "junk": lambda data, at: np.random.default_rng(int(at * 1e6)).bytes(3000),
    "text": lambda data, at: "für was?\r\n".encode("latin-1") * 99,
}
IMAGE = {  # what an image of any kind may be instead
    "NaN": lambda image: image * np.nan,
    "some NaN": lambda image: np.where(image > image.mean(), np.nan, image),
    "one NaN": lambda image: np.where(image == image.max(), np.nan, image),
    "infinite": lambda image: np.where(image == image.max(), np.inf, image),
    "constant": lambda image: image * 0 + 1,
    "smaller": lambda image: image[2:-2, 2:-2],
    "oblong": lambda image: image[2:-2],
    "three bands": lambda image: np.stack([image] * 3),
    "one band": lambda image: image[None],
    "a stack": lambda image: np.stack([image] * 30),
    "float64": lambda image: image.astype(float),
    "complex": lambda image: image.astype(complex),
    "truths": lambda image: image > image.mean(),
    "huge": lambda image: image * 1e30,
    "one pixel": lambda image: image[:1, :1],
    "a row": lambda image: image[0],
    "a number": lambda image: image[0, 0],
    "nothing": lambda image: image[:0],
}
FILES = {  # by the kind of file, what only it can be
    ".npy": {
        "promises a terabyte": lambda: promising((10**6, 10**6)),
        "promises too much": lambda: promising((17, 17)),
        "promises a negative side": lambda: promising((-1, 16)),
        "promises another order": lambda: promising((10**30, 0)),
        "a header without end": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2000),
        "a header of code": lambda: promising("__import__('os').system('touch was-run')"),
        "runs code": lambda: objects(Evil()),
        "an object": lambda: objects(None),
        "words": lambda: npy(np.array([["a", "b"]] * 16)),
        "dates": lambda: npy(np.zeros((16, 16), "M8[s]")),
        "records": lambda: npy(np.zeros((16, 16), [("flux", "f4"), ("mask", "?")])),
        "a pair": lambda: objects(IMAGES["sub/0"], 7),
        "two images": lambda: objects(IMAGES["sub/0"], IMAGES["sub/1"]),
    },
    ".fits": {
        f"{name} = {value}": lambda name=name, value=value: fits_of(IMAGES["sub/0"], **{name: value})
        for name, value in (
            ("NAXIS", "-1"),
            ("NAXIS", "999"),
            ("NAXIS1", "1000000000"),
            ("NAXIS2", "-16"),
            ("NAXIS1", "'sixteen'"),
            ("BITPIX", "7"),
            ("BITPIX", "'x'"),
            ("BSCALE", "'x'"),
            ("BZERO", "1e400"),
            ("BLANK", "3"),
            ("CDELT1", "'abc'"),
            ("CDELT1", "0"),
            ("CDELT1", "NaN"),
            ("PIXSCALE", "-1"),
            ("PIXSCALE", "'small'"),
            ("PIXSCALE", "1e400"),
            ("CD1_1", "'x'"),
            ("CUNIT1", "'furlong'"),
            ("CTYPE1", "7"),
            ("EXTEND", "7"),
            ("SIMPLE", "F"),
        )
    },
}
PLACES = ("pipe", "folder", "link to nothing", "link to itself", "missing")
BESIDE = {  # files that come in addition
    "sub/0_noise_map.npy": lambda: npy(IMAGES["sub/0"]),
    "sub/notes.txt": lambda: b"\xff\xfe",
    "sub/more.zip": lambda: b"PK\x03\x04",
    "info.json": lambda: b"[" * 100_000,
    "sub/info.json": lambda: b'{"pixel_scale": "large"}',
    "no_sub/info.json": lambda: b'{"pixel_scale": 1e999}',
    ".hidden.npy": lambda: b"",
    "sub/ODD.NPY": lambda: b"",
    "sub/a name\n\x1b[2J.npy": lambda: b"\x93NUMPY",
    "README": lambda: b"",
    "dataset.json.bak": lambda: b"{",
    "data.csv": lambda: b"",
}


def spoil(root: Path, kind: str, name: str, fault: str, at: float) -> None:
    """Bring one fault of the catalogue into a folder of images."""
    file = root / f"{name}{kind}"
    if fault in BYTES:
        file.write_bytes(BYTES[fault](file.read_bytes(), at))
    elif fault in IMAGE:
        try:
            file.write_bytes(KINDS[kind](np.array(IMAGE[fault](IMAGES[name]))))
        except (TypeError, ValueError, KeyError, IndexError, OSError):  # what this kind of file cannot hold
            file.write_bytes(b"")
    elif fault in FILES.get(kind, ()):
        file.write_bytes(FILES[kind][fault]())
    elif fault in BESIDE:
        write(root, {fault: BESIDE[fault]()})
    else:
        file.unlink()
        if fault == "pipe":
            os.mkfifo(file)
        elif fault == "folder":
            file.mkdir()
        elif fault.startswith("link"):
            file.symlink_to(root / "nowhere" if fault == "link to nothing" else file)


def packed(root: Path, container: str) -> Path:
    """The folder as it is, or in an archive; pipes and links, which archives do not keep, stay out of a zip."""
    if container == "folder":
        return root
    target = root.with_suffix(f".{container}")
    if container == "tar":
        with tarfile.open(target, "w") as tar:
            tar.add(root, root.name)
    else:
        with zipfile.ZipFile(target, "w") as archive:
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(root))
    return target


def counted(done) -> dict[str, int]:
    """The counts in the first line of `inspect`."""
    found = re.search(r"(\d+) files \((\d+) read, (\d+) rejected, (\d+) skipped\)", done.output)
    assert found, done.output
    return dict(zip(("found", "read", "rejected", "skipped"), map(int, found.groups()), strict=True))


def rows_of(table: Path) -> list[dict]:
    return list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8")))) if table.exists() else []


def short(file: str) -> str:
    """The name of an image within its set, whatever the set is packed in."""
    return "/".join(re.split(r"[/:]", file)[-2:])


def trained_on(data: Path, out: Path, monkeypatch) -> tuple:
    """What `train` answers and the data set that it would fit a network to, which is not done here."""
    kept = []
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "fit", lambda dataset, study, folder, **_: kept.append(dataset) or folder)
        patch.setattr(transfer, "read_metrics", lambda folder: METRICS)
        done = command("train", "--data", data, "--out", out)
    assert bool(kept) == (done.exit_code == 0)
    return done, kept[0] if kept else None


@pytest.fixture(scope="module")
def sound(exported, tmp_path_factory):
    """The probabilities of every image where no file is damaged, by the kind of file."""
    found = {}
    for kind, make in KINDS.items():
        root = write(tmp_path_factory.mktemp("sound"), {f"{n}{kind}": make(image) for n, image in IMAGES.items()})
        command("predict", root, "--network", exported, "--pixel-scale", 0.1, "--out", root / "table.csv")
        found[kind] = {short(row["file"]): row for row in rows_of(root / "table.csv")}
        assert len(found[kind]) == len(IMAGES) and not any(row["state"] == "rejected" for row in found[kind].values())
    return found


ALL = [*BYTES, *IMAGE, *PLACES, *BESIDE]
CASES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.one_of(st.sampled_from(ALL), st.sampled_from(list(FILES.get(kind, ALL)))))
)


@given(
    case=CASES,
    name=st.sampled_from(sorted(IMAGES)),
    at=st.floats(0, 1),
    container=st.sampled_from(["folder", "folder", "tar", "zip"]),
)
def test_a_fault_of_one_file_goes_through_every_command(case, name, at, container, sound, exported, tmp_path_factory):
    (kind, fault), home = case, tmp_path_factory.mktemp("faults")
    root = write(home / "set", {f"{one}{kind}": KINDS[kind](image) for one, image in IMAGES.items()})
    spoil(root, kind, name, fault, at)
    data, table = packed(root, container), home / "table.csv"
    inspected = command("inspect", data)
    predicted = command("predict", data, "--network", exported, "--pixel-scale", 0.1, "--out", table)
    with pytest.MonkeyPatch.context() as patch:
        trained, dataset = trained_on(data, home / "out", patch)
    assert not Path("was-run").exists()
    spoilt = {f"{name}{kind}", fault} | {"sub/0_noise_map.npy"}
    for row in rows_of(table):
        before = sound[kind].get(short(row["file"]))
        if before and short(row["file"]) not in spoilt and "pixel_scale" not in row["reason"]:
            assert row["state"] == before["state"]
            for one in BLOBS.classes:
                assert float(row[one]) == pytest.approx(float(before[one]), abs=2e-4)
    if not rows_of(table) or "files (0 read, 0 rejected, 0 skipped)" in inspected.output:
        assert inspected.exit_code and predicted.exit_code and trained.exit_code, (
            "no command takes what another refuses"
        )
        return
    counts = counted(inspected)
    assert counts["found"] == counts["read"] + counts["rejected"] + counts["skipped"]
    states = {row["file"]: row["state"] for row in rows_of(table)}
    assert len(states) == counts["found"]
    assert sum(state == "skipped" for state in states.values()) == counts["skipped"]
    if dataset is not None:
        assert dataset.description["files"] == counts
        for source, image in zip(dataset.catalogue["source"], dataset.images, strict=True):
            if short(source) not in spoilt and kind != ".png":
                np.testing.assert_array_equal(image[0], IMAGES[short(source).removesuffix(kind)])
    assert (trained.exit_code == 0) == (inspected.exit_code == 0), (inspected.output, trained.output)


# ---- what the package wrote itself ----------------------------------------------------------------------------------

OTHERS = (
    None,
    True,
    -1,
    0,
    7.5,
    1e308,
    float("nan"),
    float("inf"),
    10**30,
    "",
    "x",
    "0.1",
    [],
    ["x"],
    [[1]],
    {},
    {"x": 1},
)
STUDY = "study: tiny\ndata_path: images\npixel_scale: 0.1\nnetworks: [d4-steerable-cnn]\nwidth: 0.5\nepochs: 6\n"
NETWORK = "runs/tiny/training/d4-steerable-cnn-s1"
WRITTEN = {  # every file of a study that a command reads back, and the commands that do
    "runs/tiny/dataset/dataset.json": ("inspect", "predict set", "train", "fit", "export"),
    "runs/tiny/dataset/catalogue.parquet": ("inspect", "predict set", "train", "fit"),
    "runs/tiny/dataset/images.npy": ("inspect", "predict set", "train", "fit"),
    f"{NETWORK}/card.json": ("predict run", "train from", "export"),
    f"{NETWORK}/metrics.json": ("predict run", "train from", "export"),
    f"{NETWORK}/weights.safetensors": ("predict run", "export"),
    f"{NETWORK}/predictions.parquet": ("predict run", "export"),
    "exported/card.json": ("predict", "inspect for"),
    "exported/network.onnx": ("predict", "inspect for"),
    "exported/distribution.safetensors": ("predict", "inspect for"),
    "runs/tiny/analysis/summary.json": ("report", "compare"),
    "runs/tiny/analysis/table.json": ("export", "report"),
    "runs/tiny/notebooks/01-explore-data.ipynb": ("report", "compare", "run"),
    "runs/tiny/files/data.json": ("run", "fit"),
    "runs/tiny/files/hashes.json": ("run", "fit"),
    "runs/tiny/logs/01-explore-data.log": ("report",),
    "runs/tiny/jobs.dot": ("report",),
    "tiny.yml": ("run", "fit"),
    "labels.csv": ("train labels", "inspect labels"),
    "images/sub/info.json": ("predict images", "train images", "inspect images"),
}

MEANT_OTHERWISE = ("tiny.yml", "labels.csv")  # in which another byte may be another word


@pytest.fixture(scope="module")
def whole(run_folder, exported, tmp_path_factory):
    """A working folder with a study that has run, as small as it can be."""
    home = tmp_path_factory.mktemp("whole")
    write(home / "images", {f"{name}.npy": npy(image) for name, image in IMAGES.items()})
    write(home, {"tiny.yml": STUDY.encode()})
    write(home, {f"images/{name}/info.json": b'{"pixel_scale": 0.1}' for name in BLOBS.classes})
    rows = [f"{name}.npy,{name.partition('/')[0]}" for name in IMAGES]
    write(home, {"labels.csv": "\n".join(["name,class", *rows]).encode()})
    run = home / "runs/tiny"
    shutil.copytree(run_folder, home / NETWORK)
    shutil.copytree(exported, home / "exported")
    make_blobs().save(run / "dataset")
    stamp = Stamp(notebook="01-explore-data", source="0" * 16, study="tiny", started="2026-01-02T03:04:05")
    for one in ("tiny", "other"):
        folder = home / "runs" / one
        notebook = new_notebook(
            cells=[new_code_cell("1", execution_count=1)], metadata={"lensstudy": stamp.model_dump()}
        )
        write(folder, {"notebooks/01-explore-data.ipynb": nbformat.writes(notebook).encode()})
        scores = {"network": "d4-steerable-cnn", "perturbation": "none", "auc": 0.9, "auc_low": 0.8, "auc_high": 1.0}
        scores |= {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 1.0}
        summary = {"answer": "It is.", "figure": "", "table": [{"network": "d4", "AUC": "0.90"}], "limitations": "-"}
        write(folder, {"analysis/summary.json": json.dumps(summary).encode()})
        write(folder, {"analysis/table.json": json.dumps([scores]).encode(), "jobs.dot": b'0[label = "all"]'})
        write(folder, {"logs/01-explore-data.log": b"begin\n"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_HOME", str(home))
        patch.chdir(home)
        patch.setattr(provenance, "SETTLED_NS", -(10**12))  # hashes of files made a moment ago are kept too
        called(home, "fit", patch)
        called(home, "predict run", patch)
    assert all((home / name).is_file() for name in WRITTEN)
    return home


def altered(content: bytes, at: float, other: int) -> bytes:
    """JSON with one of its values replaced by one of another type."""
    content = json.loads(content)
    places: list[tuple] = [(None, None)]
    waiting = [content]
    while waiting:
        one = waiting.pop()
        for key in one if isinstance(one, dict) else range(len(one)):
            places.append((one, key))
            waiting += [one[key]] if isinstance(one[key], dict | list) else []
    where, key = places[int(at * (len(places) - 1))]
    before = content if where is None else where[key]
    number = isinstance(before, int | float) and not isinstance(before, bool)
    kinds = [one for one in OTHERS if type(one) is not type(before) and not (number and type(one) in (int, float))]
    if where is None:
        content = kinds[other % len(kinds)]
    else:
        where[key] = kinds[other % len(kinds)]
    return json.dumps(content).encode()


def called(home: Path, what: str, patch) -> tuple:
    """What a command answers, and its result in a form that can be compared."""
    table, out = home / "out.csv", home / "out"
    shutil.rmtree(out, ignore_errors=True)
    table.unlink(missing_ok=True)
    kept: list = []
    patch.setattr(transfer, "fit", lambda dataset, study, **_: kept.append((dataset, study)) or out)
    patch.setattr(transfer, "read_metrics", lambda folder: METRICS)
    patch.setattr(fitting, "fit", lambda dataset, study, **_: kept.append((dataset, study)) or home / NETWORK)
    patch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    one = ["images/sub/0.npy", "images/no_sub/3.npy", "--out", table]
    done = command(
        *{
            "inspect": ["inspect", "runs/tiny/dataset"],
            "inspect for": ["inspect", "images/sub", "--for", "exported"],
            "inspect images": ["inspect", "images"],
            "inspect labels": ["inspect", "images", "--labels", "labels.csv"],
            "predict": ["predict", *one, "--network", "exported"],
            "predict set": ["predict", *one[2:], "--network", "exported", "runs/tiny/dataset", "--pixel-scale", 0.1],
            "predict run": ["predict", *one, "--network", NETWORK],
            "predict images": ["predict", "images", "--network", "exported", "--out", table],
            "train": ["train", "--data", "runs/tiny/dataset", "--out", out],
            "train from": ["train", "--data", "images", "--from", NETWORK, "--out", out],
            "train images": ["train", "--data", "images", "--out", out],
            "train labels": ["train", "--data", "images", "--labels", "labels.csv", "--out", out],
            "export": ["export", NETWORK, "--out", out],
            "fit": ["fit", "tiny.yml"],
            "run": ["run", "tiny.yml", "--dry-run"],
            "report": ["report"],
            "compare": ["compare", "tiny", "other"],
        }[what]
    )
    result: list = []
    for row in rows_of(table):
        result.append(
            (row["state"], row["prediction"], *(pytest.approx(float(row[c] or -1), abs=2e-4) for c in BLOBS.classes))
        )
    for dataset, study in kept:
        scale = dataset.description.get("pixel_scale")
        result += [dataset.fingerprint, list(dataset.classes), scale, study.model_dump()]
    if what == "export" and (out / "card.json").exists():
        card = json.loads((out / "card.json").read_text())
        result += [card[name] for name in ("classes", "images", "calibration", "metrics")]
    return done, result


@pytest.fixture(scope="module")
def results(whole):
    found = {}
    for what in {one for commands in WRITTEN.values() for one in commands}:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LENSSTUDY_HOME", str(whole))
            patch.chdir(whole)
            done, found[what] = called(whole, what, patch)
            assert done.exit_code == 0, (what, done.output)
    return found


@given(
    name=st.sampled_from(sorted(WRITTEN)),
    fault=st.sampled_from([*BYTES, *PLACES, *["another type"] * 8]),
    at=st.floats(0, 1),
    other=st.integers(0, 100),
    pick=st.integers(0, 10),
)
def test_a_fault_of_a_file_of_ours_goes_through_every_command(
    name, fault, at, other, pick, whole, results, tmp_path_factory
):
    home = tmp_path_factory.mktemp("written") / "home"
    shutil.copytree(whole, home)
    file = home / name
    if fault == "another type" and file.suffix in (".json", ".ipynb"):
        file.write_bytes(altered(file.read_bytes(), at, other))
    elif fault in BYTES or fault == "another type":
        file.write_bytes(BYTES[fault if fault in BYTES else "one byte"](file.read_bytes(), at))
    else:
        spoil(home, file.suffix, name.removesuffix(file.suffix), fault, at)
    what = WRITTEN[name][pick % len(WRITTEN[name])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_HOME", str(home))
        patch.chdir(home)
        done, result = called(home, what, patch)
    text, optional = printable(done.output), name.endswith("table.json") and not file.exists()
    if done.exit_code == 0 and not optional and name not in MEANT_OTHERWISE:
        assert result == results[what] or name in text or file.name in text, (name, fault, what, text)
