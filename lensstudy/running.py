"""A study as Snakemake runs it: the command, the lock that names who runs it, what is done so far, and what failed.

Snakemake gets a process group of its own. It dies with the command that began it, however that one ends, and takes its
jobs on this machine with it; jobs that a cluster holds go on, and the next run of the study waits for them. What is
done and what failed stands in Snakemake's log, which another process, or another machine on the same disk, can read
as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from lensstudy.files import FileError, read_json, whole_file
from lensstudy.study import BUNDLE, Study, home

__all__ = [
    "AlreadyRunning",
    "Jobs",
    "QueueSilent",
    "began",
    "failures",
    "follow_snakemake",
    "holder",
    "job_prefix",
    "jobs_in_queue",
    "keep_failures",
    "know_cancelled_jobs",
    "only_one",
    "run_log",
    "snakemake",
    "started",
    "under_way",
    "wait_for_queue",
]

GRACE_S = 10  # what jobs get to end in once they have been asked to
ENDED = {  # what SLURM says of a job, in words, and what helps
    "OUT_OF_MEMORY": "out of memory; raise mem_mb in the profile",
    "TIMEOUT": "out of time; raise runtime in the profile. The same command goes on from here",
    "CANCELLED": "cancelled; the same command goes on from here",
    "NODE_FAIL": "its node failed; the same command goes on from here",
    "PREEMPTED": "pre-empted by another job; the same command goes on from here",
}


class AlreadyRunning(RuntimeError):
    """Somebody runs this study; the message says which process on which machine, and since when."""


class QueueSilent(RuntimeError):
    """SLURM does not say which jobs it holds; the message says why."""


def snakemake(study_file: Path, *options: object) -> list[str]:
    """The command that runs a study: with the rules of the working folder, or those that came with the package."""
    own = home() / "workflow" / "Snakefile"
    rules = own if own.exists() else BUNDLE / "workflow" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", rules, "--directory", home(), "--nolock", "--nocolor"]
    return [*map(str, command), *map(str, options), "--configfile", str(study_file.resolve())]


@contextmanager
def only_one(study: Study) -> Iterator[IO[str]]:
    """Hold the lock of a study. Two runs at a time would write the same files, so the second is rejected.

    Snakemake's own lock outlives a kill and then has to be removed by hand; this one is the system's, and goes with
    the last process that holds it.

    Raises:
        AlreadyRunning: somebody else holds it.
    """
    with _locked(study) as lock:
        yield lock


def _locked(study: Study) -> IO[str]:
    """The lock file of a study, open, locked, and with the name of this process in it."""
    import fcntl

    lock = _lock_file(study).open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise AlreadyRunning(
            f"{study.study}: is being run already{_words(_lock_file(study))}; wait for it, or stop it there, and "
            f"say this again. `lensstudy status {study.study}` tells how far it is"
        ) from None
    lock.truncate(0)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, lock)
    lock.flush()
    return lock


def holder(study: Study) -> str:
    """Who runs a study now, in words; empty where nobody does."""
    import fcntl

    try:
        with _lock_file(study).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ""
    except BlockingIOError:
        return "being run" + _words(_lock_file(study))
    return ""


def run_log(study: Study) -> Path:
    """Where Snakemake's log of the last run of a study is."""
    return study.folder / "logs" / "run.log"


def _lock_file(study: Study) -> Path:
    study.folder.mkdir(parents=True, exist_ok=True)
    return study.folder / "running.lock"


def _words(lock: Path) -> str:
    with suppress(FileError, FileNotFoundError):
        said = read_json(lock)
        return f" by process {said.get('pid')} on {said.get('host')} since {said.get('since')}"
    return ""  # it has just been opened


@contextmanager
def started(command: list[str], log: Path, lock: IO[str]) -> Iterator[subprocess.Popen]:
    """Start Snakemake, and end it with its jobs when the block ends or this process dies.

    An interrupt reaches all of its group, as Ctrl-C in a terminal would. The watcher, which notices the death of this
    process by the end of its input, does what this process cannot do any more.
    """
    # A shell switches interrupts off in what it runs behind `&`; `kill` is to end a run as Ctrl-C does.
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    log.unlink(missing_ok=True)  # a link to the log of Snakemake's own command stays what it was
    with log.open("w") as output:
        # The lock goes along, so that it holds as long as Snakemake lives, even if this process is killed.
        job = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, pass_fds=[lock.fileno()], start_new_session=True
        )
    script = f"cat; kill -TERM -{job.pid}; sleep {GRACE_S}; kill -KILL -{job.pid}"
    watcher = subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield job
    finally:
        with suppress(ProcessLookupError, PermissionError):  # the group has ended; macOS says it the second way
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    job.wait(3 * GRACE_S)
            os.killpg(job.pid, signal.SIGKILL)  # what is left of it
        job.wait()
        watcher.kill()
        watcher.communicate()
        for one, handler in before.items():
            signal.signal(one, handler)


class Jobs:
    """How far a run is, from its log so far: jobs by rule, and those that are done.

    Example:
        >>> jobs = Jobs("job count\\n--- -\\ntrain 2\\ntotal 2\\n\\nFinished jobid: 3 (Rule: train)\\n")
        >>> jobs.planned, jobs.finished
        ({'train': 2}, {'train': 1})
    """

    def __init__(self, log: str):
        table = re.search(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", log, re.M)
        counts = {rule: int(number) for rule, number in re.findall(r"(\w+) +(\d+)", table[1])} if table else {}
        counts.pop("total", None)
        finished = re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", log, re.M)
        self.planned = {rule: number for rule, number in counts.items() if rule != "all"}
        self.finished = {rule: finished.count(rule) for rule in self.planned if rule in finished}

    @property
    def total(self) -> int:
        return sum(self.planned.values())

    @property
    def done(self) -> int:
        return sum(self.finished.values())


def began(log: str) -> float:
    """When the run of a log began, in seconds since 1970; 0 where it does not say yet."""
    found = re.search(r"^ +Date: (\S+ \S+)$", log, re.M)
    return datetime.fromisoformat(found[1]).timestamp() if found else 0.0


def under_way(study: Study, since: float) -> dict[str, tuple[int, int, str]]:
    """The trainings that have begun, or gone on, `since` and are not finished: epochs done, epochs in all, validation
    AUC."""
    states = {}
    for card in sorted((study.folder / "training").glob("*/card.json")):
        history = card.with_name("history.csv")
        epochs = study.training(card.parent.name.rpartition("-s")[0]).epochs
        try:
            if card.stat().st_mtime < since or card.with_name("metrics.json").exists():
                continue
            rows = history.read_text().splitlines() if history.exists() else []
        except OSError:  # a training that begins anew has just removed it
            continue
        done, auc = 0, ""
        if len(rows) > 1:
            last = dict(zip(rows[0].split(","), rows[-1].split(","), strict=False))
            done, auc = int(last["epoch"]), f"{float(last['validation_auc']):.3f}"
        states[card.parent.name] = (done, epochs, auc)
    return states


def failures(log: str) -> dict[str, str]:
    """What failed in a run, from its log: why each job ended, by the name of its page or training.

    What an interrupt ended has not failed, nor has what is tried again.
    """
    failed = {}
    log, _, _ = log.partition("Terminating processes on user request")
    for found in re.finditer(r"^Error in rule \w+:\n(.*?)(?:^ +shell:|^(?=Error in rule )|\Z)", log, re.M | re.S):
        block = found[1]
        output = re.search(r"^ +output: .*?(?:notebooks|trained|chosen)/([^,\s]+)", block, re.M)
        message = re.search(r"^ +message: (.+)", block, re.M)
        own = re.search(r"^ +log: (\S+)", block, re.M)
        number = re.search(r"^ +jobid: (\d+)", block, re.M)
        if number and re.search(rf"^Trying to restart job {number[1]}\.", log[found.end() :], re.M):
            continue
        if output:
            name = Path(output[1]).name.removesuffix(".ipynb")
            failed[name] = _reason(message[1] if message else "", Path(own[1]) if own else None)
    return failed


def _reason(message: str, log: Path | None) -> str:
    """Why a job ended, in words. Of one that failed its own `log` tells whether by an error or for its memory."""
    if found := re.search(r"SLURM-job '(\S+)' failed.*status is: '(\w+)", message):
        job, state = found.groups()
        said = log.read_text(errors="replace") if log is not None and log.is_file() else ""
        if state == "FAILED" and re.search("exceeded (job )?memory limit|oom.kill", said, re.I):
            state = "OUT_OF_MEMORY"
        if state == "FAILED":
            errors = re.findall(r"^lensstudy: (.+)", said, re.M) or [f"its log is {log}"]
            return f"its job {job} of SLURM ended with an error: {errors[-1]}"
        return f"SLURM ended its job {job}: {ENDED.get(state, state.lower())}"
    if found := re.search(
        r"(?:sbatch failed\. The error message was '|submission failed with exception: )(.+)", message
    ):
        return f"SLURM took no job of it: {found[1].partition('For further error')[0].removesuffix(chr(39) + '.')}"
    return "it ended with an error"


def keep_failures(study: Study, failed: dict[str, str]) -> None:
    """Write what failed for the report, which shows it until the study has run again."""
    study.folder.mkdir(parents=True, exist_ok=True)
    with whole_file(study.folder / "failed.json") as partial:
        partial.write_text(json.dumps(failed, indent=1), encoding="utf-8")


def job_prefix(study: Study) -> str:
    """What the names of a study's jobs in SLURM's queue begin with: the study, and a hash of its folder."""
    name = re.sub(r"[^A-Za-z0-9-]", "-", study.study)[:24]
    return f"lensstudy-{name}-{hashlib.sha256(str(study.folder).encode()).hexdigest()[:8]}"


def jobs_in_queue(study: Study) -> list[str]:
    """The numbers of the jobs of this study that SLURM still holds; none where there is no SLURM.

    Raises:
        QueueSilent: `squeue` fails, as it does while its controller is busy or down.
    """
    if not shutil.which("squeue"):
        return []
    listed = subprocess.run(["squeue", "--me", "--noheader", "--format", "%i %j"], capture_output=True, text=True)
    if listed.returncode:
        raise QueueSilent(f"squeue fails: {' '.join(listed.stderr.split())}")
    rows = (line.partition(" ") for line in listed.stdout.splitlines())  # other jobs may have blanks in their names
    return [number for number, _, name in rows if name.startswith(f"{job_prefix(study)}_")]


def wait_for_queue(study: Study, tell) -> None:
    """Wait until SLURM has ended the jobs of an earlier run of this study: two would write the same files.

    Raises:
        QueueSilent: nobody knows whether there are any. Who waits already goes on waiting.
    """
    told, left = False, [""]
    while left:
        try:
            left = jobs_in_queue(study)
        except QueueSilent:
            if not told:
                raise
        if left and not told:
            tell(
                f"{study.study}: {len(left)} jobs of an earlier run are still with SLURM ({', '.join(left)}); waiting "
                f"for them to end. `scancel {' '.join(left)}` ends them now, and what they have done is kept"
            )
            told = True
        if left:
            time.sleep(GRACE_S)


def follow_snakemake(study: Study, log: Path) -> IO[str]:
    """Take the lock of a study that Snakemake's own command runs, and let `lensstudy status` follow Snakemake's `log`.

    Returns:
        The lock, held as long as this file is open.

    Raises:
        AlreadyRunning: somebody else runs the study.
    """
    lock = _locked(study)
    shown = run_log(study)
    shown.parent.mkdir(parents=True, exist_ok=True)
    shown.unlink(missing_ok=True)
    shown.symlink_to(os.path.relpath(log, shown.parent))
    keep_failures(study, {})
    return lock


def know_cancelled_jobs() -> None:
    """Let Snakemake's executor for SLURM, in this process, notice a job that was cancelled where it asks `sacct`.

    `sacct` calls it "CANCELLED by 1000". The executor, versions 2.4 to 2.8, takes every state that it does not know for
    a job that runs, and waits for ever. Only the first word is the state.
    """
    import snakemake_executor_plugin_slurm as executor

    ask = getattr(executor, "query_job_status", None)
    if ask is None:  # a version of another make
        return

    async def first_words(*asked):
        states, seconds = await ask(*asked)
        return states and {job: state.partition(" ")[0] for job, state in states.items()}, seconds

    executor.query_job_status = first_words
