"""Running a notebook in batch, and stamping into it where its results come from.

`execute` keeps a notebook only if it reached its last cell. Its stamp, `metadata.lensstudy` of the executed notebook,
holds the hash of its source, parameters, code, data, package versions, device, start and run time; no path, user or
host of the machine stays in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from pydantic import BaseModel, Field

from lensstudy.data.dataset import About, is_redistributable
from lensstudy.files import FileError, printable, read_json, read_text, validated
from lensstudy.provenance import code_version
from lensstudy.study import ParameterError, Study, notebook_parameters

__all__ = ["ADDED_TAGS", "NotebookFailed", "Stamp", "execute", "read_executed", "source_hash", "tags"]

FOREIGN_IMAGES = ("data_path", "observations_path", "searched_lenses", "apply_to")  # that bring somebody's own images

# The packages whose versions a result may depend on.
PACKAGES = ("torch", "e2cnn", "lightning", "numpy", "scipy", "scikit-learn", "pandas", "papermill", "nbconvert")
# Cells that papermill adds while running; a source does not have them.
ADDED_TAGS = {"injected-parameters", "papermill-error-cell-tag"}
TRACEBACK_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class NotebookFailed(RuntimeError):
    """A notebook that did not reach its end; the message says where, why, and which files tell more."""


class Code(BaseModel):
    """Which lensstudy has run a notebook."""

    version: str = ""
    commit: str = ""
    modified: bool = False


class Stamp(BaseModel):
    """Where the results of an executed notebook come from."""

    notebook: str
    source: str = Field(description="hash of the notebook")
    study: str = ""
    question: str = ""
    parameters: dict[str, Any] = {}
    code: Code = Code()
    packages: dict[str, str] = {}
    started: str = Field("", description="date and time, UTC")
    run_time_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    device: str = ""
    data: str = Field("", description="fingerprint of the data set")
    redistributable: bool = False
    failure: dict[str, str] = Field({}, description="cell and error; empty where it reached its end")


def read_executed(file: str | Path) -> tuple[NotebookNode, dict[str, Any]]:
    """An executed notebook and its stamp, as the fields of `Stamp`; empty where it carries none.

    Raises `FileError` for a file that is damaged, or no notebook.
    """
    file = Path(file)
    read_json(file)  # its size and depth have limits
    wrong: dict[str, Any] = {}
    try:
        notebook = nbformat.reads(read_text(file), as_version=4, capture_validation_error=wrong)
    except Exception as error:  # whatever nbformat meets in JSON that is no notebook
        wrong["ValidationError"] = error
    if wrong:
        reason = f"{wrong['ValidationError']}".splitlines()[:1] or ["no notebook"]
        raise FileError(f"{printable(file)}: is damaged, no notebook ({reason[0]})")
    stamp = notebook.metadata.get("lensstudy")
    return notebook, {} if stamp is None else validated(stamp, Stamp, file).model_dump()


def execute(
    notebook: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    study_file: str | Path | None = None,
    log: str | Path,
    timeout_s: int,
    cwd: str | Path = ".",
) -> None:
    """Run `notebook` in the folder `cwd` and write it, with its stamp, to `output`.

    `parameters` may be the whole study: the notebook receives those that its `parameters` cell declares. With a
    `study_file` it reads them there itself, and receives that path as `study` and what differs from the file. All
    parameters are stamped. A cell may take `timeout_s` seconds.
    While it runs, and if it fails, the notebook lies beside `output` as `<name>.failed.ipynb`; only a run that reached
    its last cell gets the name `output`. What cells print goes to `log`.

    Raises `NotebookFailed` (a cell's error, a timeout, a dead kernel, a cell that did not run) and `ParameterError`
    (a parameter that no study has).
    """
    notebook, output, log, cwd = (Path(path).absolute() for path in (notebook, output, log, cwd))
    parameters = dict(parameters or {})
    if unknown := parameters.keys() - Study.model_fields.keys():
        raise ParameterError(f"{notebook.name}: no study has a parameter {', '.join(sorted(unknown))}")
    declared = notebook_parameters(notebook)
    given = {name: parameters[name] for name in declared if name in parameters}
    if study_file and "study" in declared:
        said = Study.read(study_file).model_dump()  # what the notebook reads there itself is not given to it
        given = {name: value for name, value in given.items() if value != said[name]}
        given["study"] = str(Path(study_file).absolute())

    used = {name: value for name, value in (declared | parameters).items() if name in Study.model_fields}
    used = {name: value for name, value in used.items() if name not in ("pages", "question")}

    partial = output.with_suffix(".failed.ipynb")
    for file in (output, partial):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    stamp = {
        "notebook": notebook.stem,
        "source": source_hash(notebook),
        "study": parameters.get("study", ""),
        "question": parameters.get("question", ""),
        "parameters": used,
        "code": code_version(),
        "packages": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    begin, error = time.monotonic(), None
    try:
        with _log_of_papermill(log):
            papermill.execute_notebook(
                _literal(notebook),
                _literal(partial),
                given,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                log_output=True,
                cwd=cwd,
                execution_timeout=timeout_s,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # its warnings concern nobody who reads this
            )
    except Exception as problem:  # whatever stopped it, the partial notebook and the log are worth naming
        error = problem
    stamp["run_time_s"] = round(time.monotonic() - begin, 1)
    stamp["device"] = _device(used.get("accelerator", "auto"))
    stamp["data"] = _data_fingerprint(output.parent.parent)
    stamp["redistributable"] = _redistributable(output.parent.parent, used)
    executed = nbformat.read(partial if partial.exists() else notebook, as_version=4)
    stamp["failure"] = _failure(executed, error)
    executed.metadata["lensstudy"] = stamp
    executed.metadata.get("papermill", {}).update(input_path=notebook.name, output_path=output.name)
    places = _places(cwd, parameters)
    places |= {str(Path(study_file).absolute()): Path(study_file).name} if study_file else {}
    partial.write_text(_without_places(nbformat.writes(executed), places), encoding="utf-8")
    log.write_text(_without_places(log.read_text(encoding="utf-8", errors="replace"), places), encoding="utf-8")
    if stamp["failure"]:
        raise NotebookFailed(
            f"{notebook.name} failed {stamp['failure']['cell']}: {stamp['failure']['error']}"
            f"\n  notebook up to there: {_seen_from_here(partial)}\n  log: {_seen_from_here(log)}"
        ) from error
    partial.replace(output)


def source_hash(notebook: str | Path | NotebookNode) -> str:
    """Hash of what a notebook's numbers and figures come from: source and tags of each code cell. Words, outputs,
    execution counts and the cells that papermill adds do not count, so a notebook and its executed copy have the same.
    """
    opened = notebook if isinstance(notebook, NotebookNode) else nbformat.read(notebook, as_version=4)
    code = [cell for cell in opened.cells if cell.cell_type == "code" and not ADDED_TAGS & tags(cell)]
    cells = [[cell.source, sorted(tags(cell))] for cell in code]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def tags(cell: NotebookNode) -> set[str]:
    """The tags of a cell."""
    return set(cell.metadata.get("tags", []))


def _literal(path: Path) -> str:
    """A path as papermill takes it, which fills parameters into the braces of any."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextmanager
def _log_of_papermill(file: Path):
    """Papermill's log, with all that the cells print, goes to `file` and nowhere else."""
    file.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("papermill")
    handler = logging.FileHandler(file, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error)
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.level, logger.propagate = before


def _failure(executed: NotebookNode, error: Exception | None) -> dict[str, str]:
    """Where a notebook stopped and why; empty if it ran to its end.

    papermill takes `sys.exit()` for success and leaves a notebook whose kernel died looking complete, so the cells are
    counted, too: each one that has code must have run.
    """
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    if error is None and all(cell.execution_count for cell in code if cell.source.strip()):
        return {}
    started = [number for number, cell in enumerate(code) if cell.metadata.get("papermill", {}).get("start_time")]
    number = max(started, default=None)
    reason = "stopped before the cells that follow"
    for i, cell in enumerate(code):
        for output in cell.outputs:
            if output.output_type == "error":
                number, reason = i, f"{output.ename}: {output.evalue}"
    if error is not None and not isinstance(error, PapermillExecutionError):  # timeouts and dead kernels say it best
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
        if type(error).__name__ == "DeadKernelError":
            reason += " (often because memory ran out: fewer or smaller images may help)"
    cell = "before its first cell" if number is None else f"in cell [{number + 1}] ({_first_line(code[number].source)})"
    return {"cell": cell, "error": TRACEBACK_COLOURS.sub("", reason)}


def _first_line(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    return lines[0] if lines else "empty"


def _seen_from_here(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _device(accelerator: str) -> str:
    """What the networks ran on, in words."""
    if accelerator != "cpu":
        import torch  # here, because it takes seconds and only the stamp needs it

        from lensstudy.training.devices import device_here

        if device_here(accelerator).type == "cuda":
            return torch.cuda.get_device_name(0)
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpu_info.read_text()) if cpu_info.exists() else []
    name = re.sub(r"\((R|TM)\)| CPU.*", "", names[0]) if names else platform.machine()
    return f"CPU, {os.cpu_count()} cores ({name})"


def _data_fingerprint(run_folder: Path) -> str:
    about = _about_data(run_folder)
    return about.fingerprint if about else ""


def _about_data(run_folder: Path) -> About | None:
    """What the data set of a study says of itself; None where there is none, or a damaged one, which is made again."""
    try:
        return read_json(run_folder / "dataset" / "dataset.json", About)
    except (FileError, FileNotFoundError):
        return None


def _redistributable(run_folder: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether the images of a study may be shown in public: those of its data set, if that says so, and no others;
    all of them where the study names whom they are credited to."""
    if parameters.get("image_credit"):
        return True
    about = _about_data(run_folder)
    if about is None or any(parameters.get(name) for name in FOREIGN_IMAGES):
        return False
    return is_redistributable(about.description)


def _places(cwd: Path, parameters: Mapping[str, Any]) -> dict[str, str]:
    """What a path of this machine is called in a file that others read."""
    places = {
        str(Path.home()): "~",
        tempfile.gettempdir(): "$TMPDIR",
        str(Path(__file__).resolve().parents[2]): ".",
        str(cwd): ".",
        sys.prefix: "$PYTHON",
    }
    if data := os.environ.get("LENSSTUDY_DATA"):
        places[str(Path(data).absolute())] = "$LENSSTUDY_DATA"
    for value in _texts(parameters):
        folder = re.split(r"[*?\[]", value)[0]  # of a pattern, what stands before it
        folder = folder if folder == value else str(Path(folder + "x").parent)
        if Path(folder).is_absolute():
            places.setdefault(folder, f"…/{Path(folder).name}")
    return {str(Path(place).resolve()): name for place, name in places.items()} | places


def _texts(value: Any) -> Iterator[str]:
    """Every text in a parameter, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _without_places(text: str, places: Mapping[str, str]) -> str:
    for place in sorted(places, key=len, reverse=True):  # the innermost folder first
        if len(place) > 1:
            pattern = rf"(?<![\w.]){re.escape(place.rstrip('/'))}(?![\w-]|\.\w)"
            text = places[place].join(re.split(pattern, text))
    return text
