"""What a user gets wrong, or a disk refuses, is one line that names it: no traceback, nothing half-written, and nothing
that reaches the terminal as anything but text."""

import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.files import FileError, printable, read_json, tree, whole_file
from lensstudy.study import ParameterError, Study, notebook_parameters

LAUGHS = "a0: &a0 [1, 2]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
FILES = {
    "empty": (b"", "holds no"),
    "a list": (b"- 1\n- 2\n", "holds no"),
    "a number": (b"7", "holds no"),
    "UTF-16": ("epochs: 3\n".encode("utf-16"), "UTF-8"),
    "Latin-1": ("question: für was?\n".encode("latin-1"), "UTF-8"),
    "NUL": (b"epochs: \0\n", "YAML"),
    "a key of a number": (b"1: 2\n", "1 is no name"),
    "a key of a truth": (b"on: 2\n", "True is no name"),
    "a key of nothing": (b"~: 2\n", "None is no name"),
    "a key of a date": (b"2024-01-02: 2\n", "no name"),
    "a key of a list": (b"? [1, 2]\n: 2\n", "no name"),
    "a key within": (b"population: {1: 2}\n", "1 is no name"),
    "a key twice": (b"epochs: 2\nepochs: 3\n", "'epochs' stands there twice"),
    "a key twice within": (b"population: {shear_max: 0.1, shear_max: 0.2}\n", "twice"),
    "a date": (b"epochs: 2024-01-02\n", "epochs"),
    "no date": (b"epochs: 2024-99-99\n", "YAML"),
    "a date as name": (b"study: 2024-01-02\n", "study"),
    "infinite": (b"learning_rate: .inf\n", "learning_rate"),
    "not a number": (b"width: .nan\n", "width"),
    "infinite within": (b"population: {shear_max: .inf}\n", "shear_max"),
    "infinite rates": (b"settings: {resnet18: {learning_rate: .nan}}\n", "learning_rate"),
    "a seed too large": (b"seeds: [4294967296]\n", "4294967296 is no seed"),
    "a seed of the data too large": (b"data_seed: 4294967296\n", "data_seed"),
    "a trillion images": (b"images_per_class: 1000000000000\n", "images_per_class"),
    "a trillion epochs": (b"epochs: 1000000000000\n", "epochs"),
    "references to references": (LAUGHS.encode(), "write out what it stands for"),
    "a reference to itself": (b"population: &a {x: *a}\n", "write out what it stands for"),
    "many references": (b"a: &a 1\nseeds: [" + b"*a, " * 1000 + b"]\n", "more than 100 references"),
    "deep": (b"seeds: " + b"[" * 100_000, "YAML"),
    "large": (b"# " + b"x" * 2**21, "bytes"),
    "code": (b"question: !!python/object/apply:os.system ['touch hacked']\n", "YAML"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_the_file_of_a_study_is_refused_in_one_line(tmp_path, content, message):
    file = tmp_path / "own.yml"
    file.write_bytes(content)
    with pytest.raises(ParameterError) as rejected:
        Study.read(file)
    assert str(file) in str(rejected.value) and message in str(rejected.value)
    done = CliRunner().invoke(app, ["run", str(file)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit) and str(file) in done.output


def test_a_pipe_is_no_study(tmp_path):
    os.mkfifo(tmp_path / "own.yml")
    with pytest.raises(ParameterError, match="a pipe, not a file"):
        Study.read(tmp_path / "own.yml")


def test_references_that_are_few_stay(tmp_path):
    (tmp_path / "own.yml").write_text(
        "settings: &a {resnet18: {learning_rate: 0.1}}\nsearch_space: {width: [0.5, 1.0]}\n"
    )
    assert Study.read(tmp_path / "own.yml").settings == {"resnet18": {"learning_rate": 0.1}}
    assert Study.read("real-lenses").population  # which refers to what all its presets share


@pytest.mark.parametrize("content", [b"", b"[]", b'{"cells": 3}', b"\xff", b"[" * 10**6, b'{"cells": [{"source": 3}]}'])
def test_a_damaged_notebook_has_no_parameters(tmp_path, content):
    (tmp_path / "01-own.ipynb").write_bytes(content)
    with pytest.raises(ParameterError, match=r"01-own\.ipynb"):
        notebook_parameters(tmp_path / "01-own.ipynb")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b'{"a": 1', "no JSON"),
        (b"\xff\xfe{", "UTF-8"),
        (b"[" * 1_000_000, "brackets"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "100 deep"),
        (b"[]", "a list"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "no JSON"),
    ],
)
def test_json_is_read_within_limits(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FileError, match=rf"x\.json: .*{message}"):
        read_json(tmp_path / "x.json")


def test_control_characters_are_written_out():
    assert printable("\x1b[31mred\x07\u202e.npy") == r"\x1b[31mred\x07\u202e.npy"
    assert printable("a\nb\tc\r") == r"a\nb\tc\r" and printable("a\nb\tc\r", lines=True) == "a\nb\tc\\r"
    assert printable("Sérsic ² … σ\u2009½") == "Sérsic ² … σ\u2009½"


@pytest.mark.parametrize("place", ["folder", "image", "archive"])
def test_names_of_files_reach_the_terminal_as_text(tmp_path, place):
    evil = "\x1b[2J\x1b]0;owned\x07"
    for name in ("cdm", "no_sub"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            np.save(tmp_path / "set" / name / f"{i}.npy", np.random.default_rng(i).random((16, 16)))
    if place == "folder":
        (tmp_path / "set").rename(tmp_path / f"set{evil}")
    (tmp_path / (f"set{evil}" if place == "folder" else "set") / "cdm" / f"x{evil}.npy").write_bytes(b"")
    path = tmp_path / (f"set{evil}" if place == "folder" else "set")
    if place == "archive":
        path = tmp_path / f"set{evil}.tar"
        subprocess.run(["tar", "cf", path, "-C", tmp_path, "set"], check=True)
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert "\x1b" not in done.output and "\x07" not in done.output
    assert "\\x1b[2J" in done.output


@pytest.fixture
def images(tmp_path):
    for name in ("cdm", "no_sub"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(12):
            np.save(tmp_path / "set" / name / f"{i}.npy", np.random.default_rng(i).random((16, 16)))
    return tmp_path / "set"


def test_a_sheet_onto_a_folder_is_one_line(images, tmp_path):
    (tmp_path / "sheet.png").mkdir()
    done = CliRunner().invoke(app, ["inspect", str(images), "--sheet", str(tmp_path / "sheet.png")])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "sheet.png" in done.output.splitlines()[-1] and list((tmp_path / "sheet.png").iterdir()) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["set", "sheet.png"]


def test_a_sheet_replaces_no_file_unless_it_is_told_to(images, tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    command = ["inspect", str(images), "--sheet", str(tmp_path / "mine.png")]
    kept = CliRunner().invoke(app, command)
    assert kept.exit_code == 2 and "--force" in kept.output and (tmp_path / "mine.png").read_bytes() == b"mine"
    assert "contact sheet: " in CliRunner().invoke(app, [*command, "--force"]).output
    assert (tmp_path / "mine.png").read_bytes() != b"mine"


@pytest.mark.parametrize("place", ["a file", "a folder without rights", "nothing"])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, place):
    if place == "a folder without rights" and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "taken").touch() if place == "a file" else (tmp_path / "taken").mkdir(mode=0o500)
    out = "/proc/none/x" if place == "nothing" else tmp_path / "taken" / "x"
    command = ["simulate", "--preset", "model_1", "--per-class", "3", "--seed", "1", "--pixels", "16"]
    done = CliRunner().invoke(app, [*command, "--processes", "1", "--out", str(out)])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert done.output.splitlines()[-1].startswith("lensstudy: ")


def limited():
    """As on a disk with 100 kB left; and a process that is killed by it does not count as a line."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    command = ["simulate", "--preset", "model_1", "--per-class", "60", "--seed", "1", "--pixels", "32"]
    done = subprocess.run(
        [sys.executable, "-c", "from lensstudy.cli import app; app()", *command, "--out", tmp_path / "set"],
        capture_output=True,
        text=True,
        preexec_fn=limited,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "set" / "dataset.json").exists()


def test_a_data_set_is_written_whole_or_not_at_all(tmp_path):
    code = """
import numpy as np, pandas as pd, sys
from lensstudy.data.dataset import LensDataset
table = pd.DataFrame({"name": map(str, range(200)), "class": ["cdm", "axion"] * 100})
images = LensDataset(np.zeros((200, 1, 64, 64), np.float32), table, ("cdm", "axion"))
try:
    images.save(sys.argv[1])
except OSError as error:
    print("rejected", error)
"""
    command = [sys.executable, "-c", code, tmp_path / "set"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, timeout=120)
    assert done.stdout.startswith("rejected"), done
    assert list((tmp_path / "set").iterdir()) == []


def test_a_trillion_images_are_one_line(tmp_path):
    command = ["simulate", "--preset", "model_1", "--per-class", "1000000000000", "--seed", "1"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "set")])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit), done.exception
    assert done.output.splitlines()[-1].startswith("lensstudy: ")


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FileError, match="cannot be listed"):
        tree(tmp_path)


def test_two_processes_may_write_one_file(tmp_path):
    with whole_file(tmp_path / "x.json", apart=True) as one:
        assert str(os.getpid()) in one.name and one.suffix == ".json"
        one.write_text("1")
    assert (tmp_path / "x.json").read_text() == "1"
