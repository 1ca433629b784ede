"""A study on a real SLURM, from start to report, and what becomes of it when a job or its own command is ended.

`make test-slurm` runs this where `slurmd` is installed; `make test` does not. Where no cluster answers, root gets one
of this machine alone (`workflow/slurm/one-node.sh`), with accounting where that is installed. Snakemake asks `sacct` on
a cluster with accounting, and else `squeue`.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LENSSTUDY = str(Path(sys.executable).with_name("lensstudy"))
WAIT_S = 900  # for what takes seconds on a machine that has nothing else to do
TINY = """\
study: tiny
images_per_class: 20
networks: [plain-cnn]
width: 0.25
batch_size: 16
preset_images: 10
bootstrap_samples: 50
"""
SHORT = TINY + "pages: [01-explore-data, 03-train]\n"
BEGUN: list[subprocess.Popen] = []  # runs of the present test

pytestmark = pytest.mark.skipif(not shutil.which("slurmd"), reason="no SLURM here: Debian's packages slurm-wlm, munge")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """The cluster that answers here, or one of this machine alone, which is stopped at the end."""
    script = ["bash", str(ROOT / "workflow/slurm/one-node.sh")]
    if subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield
        return
    assert os.getuid() == 0, "no cluster answers, and only root can start one"
    account = ["accounting"] if shutil.which("slurmdbd") and shutil.which("mariadbd") else []
    subprocess.run([*script, "start", *account], check=True)
    yield
    subprocess.run([*script, "stop"], check=True)


def accounting() -> bool:
    return "accounting_storage/slurmdbd" in subprocess.check_output(["scontrol", "show", "config"], text=True)


def profile(home: Path, retries: int, ask: str, rules: dict) -> Path:
    """The profile that people get, by default without a second attempt, and with other resources for some rules."""
    settings = yaml.safe_load((ROOT / "workflow/slurm/config.yaml").read_text())
    settings["slurm-status-command"] = ask or ("sacct" if accounting() else "squeue")
    settings |= {"retries": retries, "slurm-init-seconds-before-status-checks": 3, "latency-wait": 5}
    settings["default-resources"]["mem_mb"] = 2000
    del settings["set-resources"]
    settings |= {"set-resources": rules} if rules else {}
    (home / "slurm").mkdir(exist_ok=True)
    (home / "slurm/config.yaml").write_text(yaml.safe_dump(settings))
    return home / "slurm"


def begin(home: Path, text: str, retries: int = 0, ask: str = "", **rules: dict) -> subprocess.Popen:
    (home / "tiny.yml").write_text(text)
    environment = os.environ | {"LENSSTUDY_HOME": str(home)}
    command = [LENSSTUDY, "run", "tiny.yml", "--profile", str(profile(home, retries, ask, rules))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    BEGUN.append(subprocess.Popen(command, cwd=home, env=environment, **pipes))
    return BEGUN[-1]


@pytest.fixture(autouse=True)
def no_run_outlives_its_test():
    """A test that fails leaves no jobs in the queue for the next one."""
    yield
    while BEGUN:
        if (run := BEGUN.pop()).poll() is None:
            run.terminate()
            run.communicate()


def until(what, told: str):
    """Wait for `what` to be true, and return it."""
    end = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < end, f"{told}: not within {WAIT_S} s"
        time.sleep(0.3)
    return found


def job_of(rule: str) -> str:
    """The number of the running job of a rule, empty where there is none."""
    jobs = subprocess.run(["squeue", "--me", "-h", "-o", "%i %T %k"], capture_output=True, text=True).stdout
    return next(iter(re.findall(rf"^(\d+) RUNNING rule_{rule}(?:_wildcards|$)", jobs, re.M)), "")


def report(home: Path) -> str:
    return re.sub(r"\s+", " ", (home / "reports/tiny/index.html").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    home = tmp_path_factory.mktemp("cluster")
    run = begin(home, TINY + "epochs: 1\n")
    said = run.communicate(timeout=4 * WAIT_S)[0]
    assert run.returncode == 0, said
    return home, said


def test_a_study_goes_from_start_to_report(finished):
    home, said = finished
    assert "tiny: done. The report is reports/tiny/index.html" in said
    assert re.search(r"tiny: 3/4 jobs \[\d+:\d+\]", said), "progress"
    assert "No answer yet" not in report(home) and " failed</h2>" not in report(home)
    log = (home / "runs/tiny/logs/run.log").read_text()
    assert len(re.findall(r"has been submitted with SLURM jobid", log)) == 4
    assert "gpu" not in log, "nobody asked for one"


@pytest.fixture
def home(finished, tmp_path) -> Path:
    """The folder of the study, which has its images already."""
    shutil.copytree(finished[0], tmp_path / "home")
    return tmp_path / "home"


LONG = SHORT + "epochs: 400\nseeds: [7]\n"
TRAINING = "runs/tiny/training/plain-cnn-s7"


def epochs(home: Path) -> int:
    history = home / TRAINING / "history.csv"
    return len(history.read_text().splitlines()) - 1 if history.exists() else 0


def test_a_cancelled_training_is_told_and_goes_on(home):
    run = begin(home, LONG)
    until(lambda: epochs(home) > 3, "a training that has begun")
    subprocess.run(["scancel", job_of("train")], check=True)
    said = run.communicate(timeout=WAIT_S)[0]
    before = epochs(home)
    assert run.returncode == 1 and before < 400
    assert re.search(r"03-train-plain-cnn-s7: SLURM ended its job \d+: cancelled; the same command goes on", said)
    assert re.search(r"<b>03-train-plain-cnn-s7</b> : SLURM ended its job \d+: cancelled", report(home))
    again = begin(home, LONG)
    said = again.communicate(timeout=4 * WAIT_S)[0]  # it trains to the end
    assert again.returncode == 0, said
    assert epochs(home) == 400 and " failed</h2>" not in report(home)


@pytest.mark.parametrize("ask", ["squeue", "sacct"])
def test_a_cancelled_training_is_tried_again_by_itself(home, ask):
    """As the profile says that people get; then nothing has failed."""
    if ask == "sacct" and not accounting():
        pytest.skip("no accounting here; `bash workflow/slurm/one-node.sh start accounting` starts a cluster with it")
    run = begin(home, LONG, retries=1, ask=ask)
    until(lambda: epochs(home) > 3, "a training that has begun")
    subprocess.run(["scancel", job_of("train")], check=True)
    said = run.communicate(timeout=4 * WAIT_S)[0]  # it trains to the end
    assert run.returncode == 0, said
    assert epochs(home) == 400 and " failed</h2>" not in report(home)
    assert "Trying to restart job" in (home / "runs/tiny/logs/run.log").read_text()


def test_an_interrupted_run_takes_its_jobs_out_of_the_queue(home):
    run = begin(home, LONG)
    until(lambda: epochs(home) > 3, "a training that has begun")
    assert job_of("train")
    run.terminate()
    said = run.communicate(timeout=WAIT_S)[0]
    assert run.returncode == 1 and "tiny: interrupted; the same command goes on from here" in said
    until(lambda: not job_of("train"), "the end of the training")
    assert epochs(home) < 400


def test_jobs_of_a_run_that_was_killed_go_on_and_the_next_run_waits_for_them(home):
    run = begin(home, LONG)
    until(lambda: epochs(home) > 3, "a training that has begun")
    job = job_of("train")
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert job_of("train") == job
    until(lambda: "not being run" in status(home), "the lock of the dead")
    again = begin(home, LONG)
    said = again.communicate(timeout=4 * WAIT_S)[0]  # it trains to the end
    assert again.returncode == 0, said
    assert f"1 jobs of an earlier run are still with SLURM ({job}); waiting for them to end" in said
    assert epochs(home) == 400
    metrics = json.loads((home / TRAINING / "metrics.json").read_text())
    assert metrics["epochs"] == 400


def status(home: Path) -> str:
    environment = os.environ | {"LENSSTUDY_HOME": str(home)}
    command = [LENSSTUDY, "status", "tiny.yml"]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True).stdout


def test_a_job_out_of_time_and_one_out_of_memory_have_a_row_in_the_report(home):
    pages = "pages: [01-explore-data, 03-train, 04-analyse]\n"  # without an analysis no share is trained
    endless = TINY + pages + "epochs: 1000000\nseeds: [8]\nshares: [50.0, 100.0]\n"
    run = begin(home, endless, train={"runtime": 1}, fit={"mem_mb": 120})
    said = run.communicate(timeout=WAIT_S)[0]
    assert run.returncode == 1
    page = report(home)
    assert re.search(r"<b>03-train-plain-cnn-s8</b> : SLURM ended its job \d+: out of time; raise runtime", page), said
    assert re.search(r"<b>plain-cnn-s8-50pct</b> : SLURM ended its job \d+: out of memory; raise mem_mb", page), said
    assert "2 jobs failed" in page
