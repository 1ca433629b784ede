"""The command: a whole tiny study, what runs again and what does not, and what is left when something fails."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

from lensstudy import cli, running
from lensstudy.lensing.presets import PRESETS
from lensstudy.networks.names import SEARCHING, pretrained_names
from lensstudy.networks.registry import network_names
from lensstudy.study import Study
from lensstudy.text import as_cell

LENSSTUDY = str(Path(sys.executable).with_name("lensstudy"))
HEAVY = {"torch", "pandas", "e2cnn", "lightning", "nbformat"}
ROOT = Path(__file__).resolve().parents[1]
HELP = """from lensstudy.cli import app
try: app(["--help"])
except SystemExit: pass"""
TINY = """\
pages: [01-explore-data, 03-train, 04-analyse]
images_per_class: 20
networks: [d4-steerable-cnn, plain-cnn]
width: 0.25
epochs: 1
batch_size: 16
preset_images: 10
bootstrap_samples: 50
range_test_steps: 10
orientations: 2
smooth_fit_images: 4
accelerator: cpu
"""


def lensstudy(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"LENSSTUDY_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("LENSSTUDY_DATA", None)
    return subprocess.run([LENSSTUDY, *arguments], env=environment, cwd=home, capture_output=True, text=True)


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The command in this process and in an empty folder, where all that it imports is there already."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.delenv("LENSSTUDY_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(cli.app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The home of a finished tiny study."""
    home = tmp_path_factory.mktemp("home")
    (home / "tiny.yml").write_text(TINY)
    result = lensstudy(home, "run", "tiny.yml")
    assert result.returncode == 0, result.stderr
    return home


def executed_at(home: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (home / "runs/tiny/notebooks").glob("*.ipynb")}


def test_a_run_leaves_every_stage_and_a_page_of_each(finished):
    runs, reports = finished / "runs/tiny", finished / "reports/tiny"
    summary = json.loads((runs / "analysis/summary.json").read_text())
    assert "d4-steerable-cnn" in summary["answer"]
    assert summary["largest_change_at_90_degrees"]["d4-steerable-cnn"] < 1e-5
    assert (runs / "dataset/dataset.json").exists()
    pages = {"01-explore-data", "04-analyse", "index"}
    pages |= {f"03-train-{network}-s1" for network in ("d4-steerable-cnn", "plain-cnn")}
    assert {page.stem for page in reports.glob("*.html")} == pages
    index = (reports / "index.html").read_text()
    for page in pages - {"index"}:
        assert f'href="{page}.html"' in index


def test_smaller_shares_and_other_seeds_are_trained_without_a_page(finished, inside, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    (home / "tiny.yml").write_text(TINY + "shares: [50.0, 100.0]\nseeds: [1, 2]\n")
    planned = lensstudy(home, "run", "tiny.yml", "--dry-run")
    text = planned.stdout + planned.stderr
    assert re.search(r"^fit +6$", text, re.M) and not re.search(r"^train ", text, re.M), text
    monkeypatch.setenv("LENSSTUDY_HOME", str(home))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    result = inside("fit", home / "tiny.yml", "--network", "plain-cnn", "--seed", "1", "--share", "50")
    assert result.exit_code == 0, result.output
    assert "validation AUC" in result.stdout
    card = json.loads((home / "runs/tiny/training/plain-cnn-s1-50pct/card.json").read_text())
    whole = json.loads((home / "runs/tiny/training/plain-cnn-s1/card.json").read_text())
    assert card["training_images"] == whole["training_images"] // 2
    assert inside("fit", home / "tiny.yml", "--network", "no-such-cnn").exit_code == 1


def test_a_snakemake_user_plans_the_jobs_of_lensstudy_run(inside, tmp_path):
    """With Snakemake's own words, in a folder made by `lensstudy start`; the profile asks for time and memory, and for
    the GPUs of a study that wants some."""
    assert inside("start", "mine").exit_code == 0
    home = tmp_path / "mine"
    (home / "params/tiny.yml").write_text(TINY.replace("cpu", "gpu") + "devices: 2\n")
    text = snakemake(home, "--configfile", "params/tiny.yml", "--profile", "workflow/slurm", "--dry-run")
    jobs = [text[start:].split("\n\n")[0] for start in range(len(text)) if text.startswith("rule train:", start)]
    assert len(jobs) == 2
    for job in jobs:
        resources = job.split("resources:")[1].splitlines()[0]
        assert re.search(r"\bmem_mb=4000\b.*\bruntime=240\b.*\bgpu=2\b", resources), resources
    result = lensstudy(home, "run", "tiny", "--profile", "workflow/slurm", "--cores", "3", "--dry-run")
    counts = [sorted(set(re.findall(r"^(\w+) +(\d+)$", one, re.M))) for one in (text, result.stdout)]
    assert counts[0] == counts[1] and ("train", "2") in counts[0]
    assert re.search(r"tiny: 4 jobs, 2 of them trainings; about \d+ minutes? on 3 processes", result.stdout)


def test_a_notebook_that_no_rule_names_waits_for_the_trainings(tmp_path):
    """It may ask for them itself, and two processes would train in one folder."""
    (tmp_path / "own.yml").write_text("study: own\npages: [03-train, 09-from-one-telescope-to-another]\n")
    rules = "--snakefile", str(ROOT / "workflow/Snakefile")
    text = snakemake(tmp_path, *rules, "--dry-run", "--configfile", "own.yml")
    job = text[text.index("rule own:") :].split("\n\n")[0]
    for network in Study().networks:
        assert f"03-train-{network}-s1.ipynb" in job


def test_a_run_by_snakemakes_own_command_has_the_lock_the_status_and_the_failures_of_a_study(
    inside, tmp_path, monkeypatch
):
    """As `lensstudy run` has: two at a time would write the same files, and somebody wants to know how far it is."""
    assert inside("start", "mine").exit_code == 0
    home = tmp_path / "mine"
    (home / "notebooks/01-explore-data.ipynb").write_text("none\n")  # fails at once
    (home / "params/tiny.yml").write_text("study: tiny\npages: [01-explore-data]\n")
    command = ("--configfile", "params/tiny.yml", "--cores", "1")
    runs = home / "runs/tiny"
    monkeypatch.setenv("LENSSTUDY_HOME", str(home))
    with running.only_one(Study(study="tiny")):
        said = snakemake(home, *command, status=1)
    assert f"tiny: is being run already by process {os.getpid()} on " in said and "rule explore" not in said
    said = snakemake(home, *command, status=1)
    assert (runs / "logs/run.log").readlink().name.endswith(".snakemake.log")
    assert list(json.loads((runs / "failed.json").read_text())) == ["01-explore-data"], said
    told = inside("status", home / "params/tiny.yml").stdout
    assert "tiny: not being run; 0 of 1 jobs of its last run are done" in told
    assert "01-explore-data: failed, it ended with an error" in told


def snakemake(folder: Path, *arguments: str, status: int = 0) -> str:
    """What Snakemake says of `arguments` in a folder, as somebody types them who has not heard of `lensstudy run`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LENSSTUDY")}
    command = [sys.executable, "-m", "snakemake", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result.stdout + result.stderr


def test_a_second_run_does_nothing(finished):
    before = executed_at(finished)
    assert lensstudy(finished, "run", "tiny.yml").returncode == 0
    assert executed_at(finished) == before


def test_a_damaged_notebook_is_named_and_planned_again(finished, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    shutil.copytree(finished, home)
    monkeypatch.setenv("LENSSTUDY_HOME", str(home))
    notebook = home / "runs/tiny/notebooks/04-analyse.ipynb"
    for content in (b'{"cells": [{"cell_type": "mark', b"\xff\xfe", b"[]", b""):
        notebook.write_bytes(content)
        assert cli._damaged(Study.read(home / "tiny.yml")) == [notebook]
        assert re.search(r"04-analyse\.ipynb.*it is run again", capsys.readouterr().out)
    assert planned(home) == {"analyse"}


def planned(home: Path) -> set[str]:
    """The rules that a run would go through."""
    result = lensstudy(home, "run", "tiny.yml", "--dry-run")
    assert result.returncode == 0, result.stderr
    return set(re.findall(r"^(\w+) +\d+$", result.stdout + result.stderr, re.M)) - {"all", "total"}


@pytest.mark.parametrize(
    ("parameter", "rules"),
    [("bootstrap_samples: 50", {"analyse"}), ("preset_images: 10", {"explore", "train", "analyse"})],
)
def test_a_parameter_plans_the_notebooks_that_follow_from_it(finished, tmp_path, parameter, rules):
    home = tmp_path / "home"
    shutil.copytree(finished, home)  # copies keep their times
    (home / "tiny.yml").write_text(TINY.replace(parameter, parameter.replace("0", "2")))
    assert planned(home) == rules


@pytest.mark.slow
def test_a_finished_training_survives_and_a_network_that_left_the_study_leaves_its_report(finished, tmp_path):
    """What has changed runs again and no more, and a damaged notebook is in nobody's way."""
    home = tmp_path / "with a space, {braces} and [brackets]" / "it's"
    shutil.copytree(finished, home)
    weights = home / "runs/tiny/training/d4-steerable-cnn-s1/weights.safetensors"
    before, executed = weights.stat().st_mtime_ns, executed_at(home)
    (home / "tiny.yml").write_text(TINY.replace(", plain-cnn]", "]"))
    (home / "runs/tiny/notebooks/04-analyse.ipynb").write_bytes(b"")
    result = lensstudy(home, "run", "tiny.yml")
    assert result.returncode == 0 and result.stdout.count("04-analyse.ipynb") == 1, result.stdout + result.stderr
    again = {name for name, time in executed_at(home).items() if time != executed.get(name)}
    assert again == {"04-analyse.ipynb"}
    assert nbformat.read(home / "runs/tiny/notebooks/04-analyse.ipynb", 4).cells
    assert weights.stat().st_mtime_ns == before
    assert (
        "the only network of this study" in json.loads((home / "runs/tiny/analysis/summary.json").read_text())["answer"]
    )
    assert "plain-cnn" not in (home / "reports/tiny/index.html").read_text()


def test_a_failed_notebook_leaves_its_log_and_no_page_and_names_an_unset_variable(tmp_path):
    (tmp_path / "lost.yml").write_text("data_path: $LENSSTUDY_DATA/lenses.tgz\npages: [01-explore-data]\n")
    result = lensstudy(tmp_path, "run", "lost.yml")
    assert result.returncode == 1
    assert "01-explore-data.ipynb failed in cell" in result.stderr
    assert "variable LENSSTUDY_DATA is not set" in result.stderr
    assert (tmp_path / "runs/lost/notebooks/01-explore-data.failed.ipynb").exists()
    assert "variable LENSSTUDY_DATA is not set" in (tmp_path / "runs/lost/logs/01-explore-data.log").read_text()
    assert [page.name for page in (tmp_path / "reports/lost").glob("*.html")] == ["index.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "absent.yml"], "absent.yml: cannot be read"),
        (["inspect", "absent"], "absent"),
        (["run", "slip.yml"], "Did you mean 'resnet18'?"),
        (["run", "preset.yml"], "preset.yml: preset 'realistc' is unknown; did you mean 'realistic'?"),
        (["run", "population.yml"], "subhalo_mas_min"),
        (["run", "pages.yml"], "page '04-analyze' is no notebook"),
        (["run", "residual.yml"], "residual.yml: residual = 'alone': 04-analyse would show such networks images"),
        (["report"], "no study has run yet"),
        (["simulate", "--preset", "modle_3", "--per-class", "2", "--seed", "1", "--out", "x"], "model_3"),
        (["simulate", "--preset", "model_3", "--per-class", "0", "--seed", "1", "--out", "x"], "images_per_class"),
    ],
)
def test_a_slip_on_the_command_line_is_one_clear_line(inside, tmp_path, arguments, message):
    (tmp_path / "slip.yml").write_text("networks: [resnet81]\n")
    (tmp_path / "preset.yml").write_text("preset: realistc\n")
    (tmp_path / "population.yml").write_text("preset: realistic\npopulation: {subhalo_mas_min: 1.0e+9}\n")
    (tmp_path / "pages.yml").write_text("pages: [01-explore-data, 04-analyze]\n")
    (tmp_path / "residual.yml").write_text("residual: alone\n")
    result = inside(*arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "x").exists()


def test_simulate_writes_both_layouts(inside, tmp_path):
    options = ["--preset", "model_3", "--per-class", "3", "--seed", "1", "--processes", "1"]
    assert inside("simulate", *options, "--pixels", "32", "--out", "ours").exit_code == 0
    assert (tmp_path / "ours/dataset.json").exists()
    result = inside("simulate", *options, "--pixels", "32", "--out", "theirs", "--layout", "deeplense")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "theirs").rglob("*.npy"))) >= 9
    about = json.loads((tmp_path / "ours/dataset.json").read_text())["description"]
    assert json.loads((tmp_path / "theirs-info.json").read_text()) == {"pixel_scale": about["pixel_scale"]}
    told = inside("inspect", "theirs", "--for", "model-3")
    assert "pixel scale" not in told.output and told.output.count(": ok") == 9, told.output


def test_inspect_draws_a_contact_sheet(inside, tmp_path):
    options = ["--preset", "model_3", "--per-class", "10", "--seed", "1", "--processes", "1", "--pixels", "32"]
    assert inside("simulate", *options, "--out", "set").exit_code == 0
    result = inside("inspect", "set", "--sheet", "looks/sheet.png")
    assert result.exit_code == 0, result.output
    sheet = plt.imread(tmp_path / "looks/sheet.png")
    assert sheet.shape[0] > 300
    assert len(np.unique(sheet.reshape(-1, sheet.shape[2]), axis=0)) > 100
    (tmp_path / "empty").mkdir()
    nothing = inside("inspect", "empty", "--sheet", "none.png")
    assert nothing.exit_code == 1
    assert "no contact sheet" in nothing.stderr
    assert not (tmp_path / "none.png").exists()


@pytest.mark.slow  # tests/test_study.py has the beginning of it
def test_a_notebook_runs_by_hand_with_papermill(root, tmp_path):
    """As the README says; the notebook finds the checkout's parameters and writes where LENSSTUDY_HOME says."""
    papermill = str(Path(sys.executable).with_name("papermill"))
    arguments = [
        "-f",
        "params/smoke.yml",
        "-p",
        "network",
        "c4-steerable-cnn",
        "-p",
        "epochs",
        "1",
        "-p",
        "images_per_class",
        "30",
        "--no-progress-bar",
    ]
    result = subprocess.run(
        [papermill, "notebooks/03-train.ipynb", str(tmp_path / "out.ipynb"), *arguments],
        env=os.environ | {"LENSSTUDY_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs/smoke/training/c4-steerable-cnn-s1/metrics.json").exists()


@pytest.mark.parametrize("option", [["--network", "resnet18"], ["--seed", "3"]])
def test_an_option_that_a_page_does_not_have_is_an_error(inside, tmp_path, option):
    result = inside("notebook", "04-analyse", "smoke", *option)
    assert result.exit_code == 1 and not (tmp_path / "runs").exists()
    name = option[0][2:]
    assert f"04-analyse has no parameter '{name}'; its parameters are study, " in result.stderr


def test_help_and_version_do_not_wait_for_torch():
    """Heavy packages are imported by the command that needs them: neither the face nor `--help` loads one."""
    heavy = "torch", "lightning", "e2cnn", "matplotlib", "pandas", "scipy", "astropy", "nbconvert"
    for start in ("import lensstudy", HELP):
        script = f"import sys\n{start}\nprint([one for one in {heavy} if one in sys.modules])"
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1:] == ["[]"], result.stdout + result.stderr
    assert "predict" in result.stdout
    script = "import sys, lensstudy.stages, lensstudy.figures.plots; print('lightning' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "False\n", "only who trains waits for Lightning" + result.stderr
    assert subprocess.run([LENSSTUDY, "--version"], capture_output=True, text=True).stdout == (
        f"lensstudy {version('lensstudy')}\n"
    )


TYPOS = [
    (["runn", "quick"], "No such command 'runn'. Did you mean 'run'?"),
    (["predict", "--rotatons", "3", "here", "x"], "No such option: --rotatons"),
    (["predict", "x.fits", "--network", "nowhere"], "nowhere: there is no such folder"),
    (["predict", "x.fits", "--network", "network"], "x.fits: nothing exists at this path"),
    (["predict", "network", "x.fits"], "network: is a network; name it behind --network: lensstudy predict IMAGES"),
    (
        ["export", "networ"],
        "networ: there is no such folder, and no network of this name comes with lensstudy; did you mean 'network'?",
    ),
    (["export", "network", "--format", "onx"], "format 'onx' is unknown; there are onnx, int8"),
    (["train", "--data", "nowhere", "--out", "x"], "--data nowhere: nothing exists at this path"),
    (["train", "--data", ".", "--out", "x", "--network", "resnet81"], "Did you mean 'resnet18'?"),
    (["train", "--data", ".", "--out", "x", "--from", "nowhere"], "nowhere: there is no such folder"),
    (["run", "field.yml"], "parameter 'epochz' is unknown; did you mean 'epochs'?"),
    (["run", "slip.yml"], "slip.yml: network 'resnet81' is unknown"),
    (["run", "preset.yml"], "preset.yml: preset 'realistc' is unknown; did you mean 'realistic'?"),
    (["run", "population.yml"], "Did you mean 'subhalo_mass_min'?"),
    (["run", "mixture.yml"], "preset 'realistc' is unknown; did you mean 'realistic'?"),
    (["fit", "smoke", "--network", "resnet81"], "Did you mean 'resnet18'?"),
    (
        ["simulate", "--preset", "modle_3", "--per-class", "2", "--seed", "1", "--out", "x"],
        "did you mean 'model_3'?",
    ),
    (["inspect", "nowhere"], "nowhere: nothing exists at this path"),
    (["report", "smok"], "study 'smok' has not run; did you mean 'smoke'?"),
    (["compare", "smok", "other"], "study 'smok' has not run"),
    (["notebook", "03-trian", "smoke"], "did you mean '03-train'?"),
]
TELL = f"""import os, sys
from lensstudy.cli import app
for number, arguments in enumerate({[arguments for arguments, _ in TYPOS]}):
    if os.fork():
        os.wait()
        continue
    for stream in (1, 2):
        os.dup2(os.open(f"{{number}}.{{stream}}", os.O_CREAT | os.O_WRONLY), stream)
    try: app(arguments)
    except SystemExit as end: print(end.code, sorted({HEAVY} & sys.modules.keys()), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> Path:
    """What the command says of each typo, in a process of its own that has imported the command and no more."""
    home = tmp_path_factory.mktemp("typos")
    (home / "network").mkdir()
    (home / "network/card.json").write_text("{}")
    (home / "network/network.onnx").touch()
    (home / "runs/smoke").mkdir(parents=True)
    (home / "field.yml").write_text("epochz: 3\n")
    (home / "slip.yml").write_text("networks: [resnet81]\n")
    (home / "preset.yml").write_text("preset: realistc\n")
    (home / "population.yml").write_text("preset: realistic\npopulation: {subhalo_mas_min: 1.0e+9}\n")
    (home / "mixture.yml").write_text("preset: mixture\npopulation: {presets: [{preset: realistc}]}\n")
    environment = os.environ | {"LENSSTUDY_HOME": str(home), "COLUMNS": "300"}
    subprocess.run([sys.executable, "-c", TELL], cwd=home, env=environment, check=True)
    return home


@pytest.mark.parametrize("number", range(len(TYPOS)), ids=[" ".join(arguments) for arguments, _ in TYPOS])
def test_a_typo_does_not_wait_for_what_is_heavy(told, number):
    """It is told before torch or pandas is loaded, which takes seconds on a busy machine, and names each path once."""
    output, errors = ((told / f"{number}.{stream}").read_text() for stream in (1, 2))
    assert output.splitlines()[-1] in ("1 []", "2 []"), output + errors
    assert TYPOS[number][1] in errors and "Traceback" not in errors
    for path in ("nowhere", "slip.yml", "preset.yml"):
        assert errors.count(path) <= 1


def test_what_there_is_is_listed(inside):
    names, presets = inside("networks"), inside("presets")
    listed = [line.split()[0] for line in names.stdout.split("\n\n")[0].splitlines()]
    assert sorted(listed) == network_names()
    assert all(len(line.split()) > 3 for line in names.stdout.split("\n\n")[0].splitlines()), "what each is for"
    trained, searching = names.stdout.split("fine-tuning\n")[1].split("\n\nOnly with --network NAME")
    trained = [line for line in trained.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in trained] == pretrained_names()
    assert [line.split()[0] for line in searching.splitlines()[1:] if line] == list(SEARCHING)
    assert all(re.search(r"  [01]\.\d{3} \[[01]\.\d{3}, [01]\.\d{3}\]  ", line) for line in trained), "AUC, interval"
    assert [line.split()[0] for line in presets.stdout.split("\n\n")[0].splitlines()] == list(PRESETS)


def test_text_that_looks_like_a_formula_is_text_in_a_table():
    cells = ["=cmd()", "+1", "-2", "@SUM(A1)", "\t=1", "lens.png", -0.5, ""]
    expected = ["'=cmd()", "'+1", "'-2", "'@SUM(A1)", "'\t=1", "lens.png", "-0.5000", ""]
    assert [as_cell(one) for one in cells] == expected


def test_names_of_files_reach_no_shell(tmp_path):
    """The name of a parameter file is one word of the command of each job, whatever it holds."""
    file = tmp_path / "a'; touch broken; echo '{x}.yml"
    file.write_text(TINY + "study: tiny\n")
    result = lensstudy(tmp_path, "run", file.name, "--dry-run")
    assert result.returncode == 0, result.stderr
    rules = "--snakefile", str(ROOT / "workflow/Snakefile")
    command = snakemake(tmp_path, *rules, "--dry-run", "--printshellcmds", "--configfile", file.name)
    assert "gpu" not in command, "nothing in this study asks for one"
    shell = next(line for line in command.splitlines() if "notebook 01-explore-data" in line)
    assert str(file) in shlex.split(shell.partition("lensstudy ")[2])


def test_a_study_of_the_package_is_found_from_anywhere(tmp_path):
    planned = lensstudy(tmp_path, "run", "params/smoke.yml", "--profile", "workflow/slurm", "--dry-run")
    assert planned.returncode == 0 and "analyse" in planned.stdout + planned.stderr, planned.stderr
    assert lensstudy(tmp_path, "run", "params/none.yml", "--dry-run").returncode == 1


def test_a_working_folder_begins_with_notebooks_that_one_may_change(root, inside, tmp_path):
    begun = inside("start", "mine")
    assert begun.exit_code == 0 and "cd" in begun.stdout, begun.output
    for pattern in ("notebooks/*.ipynb", "notebooks/README.md", "params/*.yml", "workflow/slurm/*.yaml"):
        assert list(root.glob(pattern))
        assert all((tmp_path / "mine" / file.relative_to(root)).exists() for file in root.glob(pattern))
    cells = [new_code_cell('study: str = "smoke"', metadata={"tags": ["parameters"]}), new_code_cell("print('my own')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "mine/notebooks/08-mine.ipynb")
    own = lensstudy(tmp_path / "mine", "notebook", "08-mine", "smoke")
    assert own.returncode == 0, own.stderr
    assert "my own" in (tmp_path / "mine/reports/smoke/08-mine.html").read_text(encoding="utf-8")
    again = inside("start", "mine")
    assert again.exit_code == 1 and "already holds notebooks, params, workflow" in again.stderr
