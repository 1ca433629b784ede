"""How Snakemake is run: nobody outlives its command, a lock has a name on it, and a log tells what failed."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import snakemake_executor_plugin_slurm as executor
from typer.testing import CliRunner

from lensstudy import cli, running, timing
from lensstudy.report.index import write_index
from lensstudy.study import Study

LOG = """\
  Date: 2026-11-28 22:44:21
Job stats:
job        count
-------  -------
explore        1
train          2
all            1
total          4

Finished jobid: 1 (Rule: explore)
Error in rule train:
    message: SLURM-job '5' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable.
    jobid: 3
    input: notebooks/03-train.ipynb, runs/mine/notebooks/01-explore-data.ipynb
    output: runs/mine/notebooks/03-train-plain-cnn-s1.ipynb, reports/mine/03-train-plain-cnn-s1.html
    shell:
        lensstudy notebook 03-train
Error in rule fit:
    message: SLURM sbatch failed. The error message was 'sbatch: error: Invalid account'.
    sbatch call:
        sbatch --parsable --account mine
For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 4
    output: runs/mine/trained/plain-cnn-s1-10pct
    shell:
        lensstudy fit
Error in rule build:
    message: Job submission failed with exception: [Errno 2] No such file: 'sacct'For further error details see the log
    output: runs/mine/notebooks/02-build-models.ipynb, reports/mine/02-build-models.html
    shell:
        lensstudy notebook 02-build-models
"""
BEGIN = """
import sys
from pathlib import Path
from lensstudy import running
from lensstudy.study import Study
study = Study(study="mine")
children = "sleep 60 & echo $! > child; wait"
with running.only_one(study) as lock, running.started(["sh", "-c", children], Path("log"), lock) as job:
    print(job.pid, flush=True)
    job.wait()
"""


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    return Study(study="mine")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_who_ends_a_run_ends_its_jobs(study, tmp_path, how):
    """Jobs of jobs as well, whether the command could still do something about it or not."""
    command = subprocess.Popen(
        [sys.executable, "-c", BEGIN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    job = int(command.stdout.readline())
    while not (child := tmp_path / "child").exists() or not child.read_text().strip():
        time.sleep(0.05)
    child = int(child.read_text())
    with pytest.raises(running.AlreadyRunning, match=rf"is being run already by process {command.pid} on \S+ since 20"):
        running.only_one(study).__enter__()
    assert f"being run by process {command.pid}" in running.holder(study)
    assert alive(job) and alive(child)
    os.kill(command.pid, how)
    command.wait(20)
    end = time.monotonic() + 20
    while (alive(job) or alive(child)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(job) and not alive(child)
    with running.only_one(study):
        pass
    assert running.holder(study) == ""


def test_a_log_tells_what_is_done_and_why_what_failed_has_failed(study):
    jobs = running.Jobs(LOG)
    assert (jobs.done, jobs.total, jobs.planned) == (1, 3, {"explore": 1, "train": 2})
    assert running.Jobs("").total == 0
    failed = running.failures(LOG)
    assert set(failed) == {"03-train-plain-cnn-s1", "plain-cnn-s1-10pct", "02-build-models"}
    assert "job 5: out of time; raise runtime" in failed["03-train-plain-cnn-s1"]
    assert failed["plain-cnn-s1-10pct"] == "SLURM took no job of it: sbatch: error: Invalid account"
    assert failed["02-build-models"] == "SLURM took no job of it: [Errno 2] No such file: 'sacct'"
    assert running.failures("Terminating processes on user request, this might take some time.\n" + LOG) == {}
    running.keep_failures(study, failed)
    page = write_index(study.folder, "reports/mine").read_text()
    assert "3 jobs failed" in page and re.search(
        r"03-train-plain-cnn-s1</b>\s*: SLURM ended its job 5: out of time", page
    )
    running.keep_failures(study, {})
    assert "failed</h2>" not in write_index(study.folder, "reports/mine").read_text()


def test_what_failed_once_and_is_tried_again_has_not_failed():
    """The profile for SLURM tries every job twice; 3 is tried again, 4 has no attempt left."""
    tried = LOG + "Trying to restart job 3.\nFinished jobid: 3 (Rule: train)\n"
    assert set(running.failures(tried)) == {"plain-cnn-s1-10pct", "02-build-models"}
    again = LOG[LOG.index("Error in rule train:") : LOG.index("Error in rule fit:")]
    assert "03-train-plain-cnn-s1" in running.failures(LOG + "Trying to restart job 3.\n" + again)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "slurmstepd: error: StepId=11.batch exceeded memory limit (147243008 > 125829120), being killed",
            "SLURM ended its job 11: out of memory",
        ),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=11.batch", "SLURM ended its job 11: out of memory"),
        ("lensstudy: x.yml: devices = 4: torch finds 1", "its job 11 of SLURM ended with an error: x.yml: devices = 4"),
        ("Segmentation fault", "its job 11 of SLURM ended with an error: its log is /"),
    ],
)
def test_why_a_job_failed_is_read_from_its_own_log(tmp_path, said, reason):
    """`squeue` says FAILED of one that took too much memory, too, where no control groups watch it."""
    (tmp_path / "11.log").write_text(said + "\n")
    block = (
        "Error in rule fit:\n"
        "    message: SLURM-job '11' failed, SLURM status is: 'FAILED'. Detailed failure reason unavailable\n"
        "    output: runs/tiny/trained/plain-cnn-s8-50pct\n"
        f"    log: {tmp_path}/11.log (check log file(s) for error details)\n"
    )
    assert running.failures(block)["plain-cnn-s8-50pct"].startswith(reason)


def test_a_job_that_sacct_calls_cancelled_by_somebody_has_ended(monkeypatch):
    """Where the first line fails, the executor has learnt it: `know_cancelled_jobs` can go."""
    command = r"printf '5|CANCELLED by 1000\n6|OUT_OF_MEMORY\n'"
    monkeypatch.setattr(executor, "query_job_status", query := executor.query_job_status)
    assert asyncio.run(query(command, None))[0]["5"] == "CANCELLED by 1000"
    running.know_cancelled_jobs()
    assert asyncio.run(executor.query_job_status(command, None))[0] == {"5": "CANCELLED", "6": "OUT_OF_MEMORY"}
    assert asyncio.run(executor.query_job_status("false", logging)) == (None, None)


def test_squeue_is_asked_for_the_jobs_of_an_earlier_run(study, tmp_path, monkeypatch):
    """Beside others of the same person, with blanks in their names or none; where it fails nothing may be begun."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\nprintf '4 my other job\\n5 {running.job_prefix(study)}_x\\n6 \\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert running.jobs_in_queue(study) == ["5"]
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    with pytest.raises(running.QueueSilent, match="squeue fails: slurm_load_jobs error: Socket timed out"):
        running.wait_for_queue(study, print)
    # Who waits already does not take this for the end of the jobs.
    answers = iter([["5"], running.QueueSilent("busy"), []])

    def answer(_):
        if isinstance(said := next(answers), Exception):
            raise said
        return said

    monkeypatch.setattr(running, "jobs_in_queue", answer)
    monkeypatch.setattr(running, "GRACE_S", 0)
    told = []
    running.wait_for_queue(study, told.append)
    assert len(told) == 1 and next(answers, None) is None


def test_a_training_on_several_machines_is_not_begun_on_one(study, tmp_path):
    """It would wait for the others, without a word."""
    (tmp_path / "mine.yml").write_text("study: mine\nnodes: 2\ndevices: 4\nnetworks: [plain-cnn]\n")
    result = CliRunner().invoke(cli.app, ["run", "mine.yml"])
    assert result.exit_code == 1
    assert "srun --nodes 2 --ntasks-per-node 4 lensstudy fit mine.yml" in result.stderr


def test_the_status_of_a_study_is_read_from_its_folder(study, tmp_path):
    (tmp_path / "mine.yml").write_text("study: mine\n")
    nothing = CliRunner().invoke(cli.app, ["status", "mine.yml"])
    assert nothing.exit_code == 1
    assert f"mine: has not run yet in {tmp_path}; `lensstudy run mine.yml` runs it" in nothing.stderr
    (study.folder / "logs").mkdir(parents=True)
    (study.folder / "logs/run.log").write_text(LOG)
    training = study.folder / "training/d4-steerable-cnn-s1"
    training.mkdir(parents=True)
    (training / "card.json").write_text("{}")
    (training / "history.csv").write_text("epoch,validation_auc\n1,0.5\n2,0.75\n")
    os.utime(training / "card.json", (running.began(LOG) + 5,) * 2)
    told = CliRunner().invoke(cli.app, ["status", "mine.yml"]).stdout
    assert "mine: not being run; 1 of 3 jobs of its last run are done" in told
    assert "d4-steerable-cnn-s1: epoch 2 of 8, validation AUC 0.750" in told
    assert "03-train-plain-cnn-s1: failed, SLURM ended its job 5: out of time" in told


def test_how_long_a_study_takes_follows_from_the_speed_of_earlier_trainings(study):
    """3 classes of 1000 images, 81 % of them for training, 10 epochs: 24,300 images; at 81 a second 300 s."""
    study = study.model_copy(update={"images_per_class": 1000, "epochs": 10, "networks": ["plain-cnn"]})
    jobs = running.Jobs(LOG)
    assert "rough guess" in timing.announced(study, jobs, 1)
    earlier = study.folder.parent / "earlier/training/plain-cnn-s1"
    earlier.mkdir(parents=True)
    (earlier / "card.json").write_text(json.dumps({"crop": 64, "image_size": 64, "binning": 1, "width": study.width}))
    (earlier / "metrics.json").write_text(json.dumps({"images_per_second": 81 / 4}))  # of four times the pixels
    each, measured = timing.seconds_of_jobs(study, jobs)
    assert measured and each["train"] == pytest.approx(300 + timing.NOTEBOOK_S)
    assert timing.announced(study, jobs, 2).startswith(
        "mine: 3 jobs, 2 of them trainings; about 6 minutes on 2 processes"
    )
    assert "13 minutes of work" in timing.announced(study, jobs, 0)
    assert timing.left(study, jobs, time.time() - 60) == "about 12 minutes left"
    # The second training goes on from epoch 5 of 10, a minute after the run began, and has done one in the next minute.
    folder = study.folder / "training/plain-cnn-s1"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    (folder / "history.csv").write_text(
        "epoch,validation_auc,seconds\n" + "".join(f"{n},0.5,40\n" for n in range(1, 7))
    )
    os.utime(folder / "card.json", (time.time() - 60,) * 2)
    total, done, earlier = 60 + 2 * 360, 60 + 0.6 * 360, 0.5 * 360
    expected = (total - done) / (done - earlier) * 2.5
    assert timing.left(study, jobs, time.time() - 150) == f"about {expected:.0f} minutes left"
    # Of two notebooks that train nothing, one may take a minute and the other an hour.
    alone = running.Jobs("job count\n--- -\npage 2\ntotal 2\n\nFinished jobid: 1 (Rule: page)\n")
    assert alone.done == 1 and timing.left(study, alone, time.time() - 60) == ""
