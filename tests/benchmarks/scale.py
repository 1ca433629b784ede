"""How time, memory and disk of each step grow with the number of images: the curve of `docs/scale.md`.

Each step is a process of its own, so that its peak memory is its own. `simulate` is done once with one and once with
two processes; of the others two run side by side on the same images, since a study with two processes is two trainings
or two pages at a time. A table for `docs/scale.md` goes to standard error, the figure to `docs/figures/scale.png`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

__all__ = ["run"]

SIZES = (1_000, 10_000, 100_000)
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "scale.png"
LENSSTUDY = shlex.quote(str(Path(sys.executable).with_name("lensstudy")))
PYTHON = f"{shlex.quote(sys.executable)} -c"
LOAD = "from lensstudy.data.dataset import LensDataset; data = LensDataset.load('data')"
# What each step types; {process} numbers the two that run side by side.
STEPS = {
    "simulate": LENSSTUDY + " simulate --preset model_3 --per-class {each} --seed 1 --pixels 32 --noise-level 0.02"
    " --processes {processes} --out {out}",
    "read": PYTHON + " \"from lensstudy.data.reading import read; read('files', folder='read-{process}')\"",
    "filter": PYTHON + f' "{LOAD}; from lensstudy.data.filtering import filter_images; filter_images(data)"',
    "fit one epoch": PYTHON + f' "{LOAD}.split(0.05, 0.05, seed=1);'
    " from lensstudy.study import Study; from lensstudy.training.fitting import fit;"
    " fit(data, Study(network='d4-steerable-cnn', width=0.5, epochs=1), folder='run-{process}')\"",
    "predict": LENSSTUDY + " predict data --network run-0 --out predictions-{process}.csv",
}
# Linux counts the memory of whoever starts a process as its own, so a small process starts each step and measures it.
METER = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = used.ru_utime + used.ru_stime
print(json.dumps({"processor_seconds": seconds, "memory_gb": used.ru_maxrss / 1024**2}))
sys.exit(status)
"""
WRITTEN = {"simulate": "data", "read": "read-0", "fit one epoch": "run-0", "predict": "predictions-0.csv"}


def run() -> list[dict]:
    """Measure every step at every size; one record for each, its value the images a second of one process."""
    rows = []
    for images in SIZES:
        with tempfile.TemporaryDirectory(prefix="lensstudy-scale-") as folder:
            rows += measured(images, Path(folder))
    table = pd.DataFrame(rows)
    FIGURE.parent.mkdir(exist_ok=True)
    draw(table).savefig(FIGURE, dpi=110)
    print(markdown(table), file=sys.stderr)
    return [
        {"name": f"scale-{row['step']}-{row['images']}".replace(" ", "-"), "unit": "images/s"}
        | {"value": row["images"] / row["seconds"], "baseline": "two processes", "spread": None}
        | {"baseline_value": row["images"] / row["seconds_of_two"], "ratio": row["seconds"] / row["seconds_of_two"]}
        | {key: row[key] for key in ("processor_seconds", "memory_gb", "disk_mb")}
        for row in rows
    ]


def measured(images: int, folder: Path) -> list[dict]:
    """One row a step. `seconds_of_two` is what as many images take with two processes, so half of what two take
    side by side that do all of them each."""
    rows = []
    for step, command in STEPS.items():
        values = {"each": -(-images // 3), "out": "data", "processes": 1, "process": 0}
        alone = together([command.format(**values)], folder)
        if step == "simulate":
            both = together([command.format(**values | {"processes": 2, "out": "again"})], folder)
            seconds = both["seconds"]
            write_files(folder)
        else:
            both = together([command.format(**values | {"process": 1 + process}) for process in range(2)], folder)
            seconds = both["seconds"] / 2
        disk = size_of(folder / WRITTEN[step]) if step in WRITTEN else 0.0
        rows.append(alone | {"step": step, "images": 3 * values["each"], "seconds_of_two": seconds, "disk_mb": disk})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def together(commands: list[str], folder: Path) -> dict:
    """Run commands side by side: seconds on the wall, processor seconds of all of them, and the largest memory of one
    process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LENSSTUDY_BATCH": "1", "LENSSTUDY_HOME": str(folder)}
    began = time.perf_counter()
    with open(folder / "log.txt", "a") as log:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", METER, *shlex.split(command)],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            for command in commands
        ]
        ended = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{commands}\n{(folder / 'log.txt').read_text()[-2000:]}")
    usages = [json.loads(usage) for usage in ended]
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": sum(usage["processor_seconds"] for usage in usages),
        "memory_gb": max(usage["memory_gb"] for usage in usages),
    }


def write_files(folder: Path) -> None:
    """The simulated images as DeepLense keeps them, one file each."""
    code = f"{LOAD}; from lensstudy.data.reading import write_deeplense; write_deeplense(data, 'files')"
    together([f"{PYTHON} {shlex.quote(code)}"], folder)


def size_of(path: Path) -> float:
    """MB that a file or the files of a folder take."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def each(rows: pd.DataFrame, column: str) -> float:
    """What one more image costs over the last decade. What it costs to start Python and torch cancels, where a power of
    the number of images would take it for slow growth."""
    return float(np.diff(rows[column])[-1] / np.diff(rows["images"])[-1])


def extrapolated(rows: pd.DataFrame, column: str, images: float = 1e7) -> float:
    """What a column would be for `images`, if each more costs what it does over the last decade."""
    last = rows.iloc[-1]
    return float(last[column] + each(rows, column) * (images - last["images"]))


def draw(table: pd.DataFrame):
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    titles = {"processor_seconds": "Processor time, one process (s)", "memory_gb": "Peak memory (GB)"}
    for axis, (column, title) in zip(axes, (titles | {"disk_mb": "Disk (MB)"}).items(), strict=True):
        for i, (step, rows) in enumerate(table.groupby("step", sort=False)):
            if (rows[column] > 0).all():
                axis.loglog(rows["images"], rows[column], marker="osD^v"[i], color=f"C{i}", label=step, markersize=4)
        axis.set(xlabel="Images", title=title)
    axes[0].loglog(table["images"], table["images"] / 1000, ":", color="grey", label="1,000 images a second")
    axes[0].legend(fontsize=7)
    return figure


def markdown(table: pd.DataFrame) -> str:
    """The table of `docs/scale.md`: processor time, which other programs disturb little, memory and disk of one
    process, and how many times as many images a second two processes do on the wall."""
    sizes = [f"{images:,}" for images in table["images"].unique()]
    lines = ["| Step | " + " | ".join(sizes) + " | one more image | 10^7, extrapolated | two processes |"]
    lines.append("|---|" + "---|" * (len(sizes) + 3))
    for step, rows in table.groupby("step", sort=False):
        cells = [cell(row.processor_seconds, row.memory_gb, row.disk_mb) for row in rows.itertuples()]
        far = cell(*(extrapolated(rows, column) for column in ("processor_seconds", "memory_gb", "disk_mb")))
        last, more = rows.iloc[-1], f"{1e3 * each(rows, 'processor_seconds'):.2f} ms"
        gain = f"{last.seconds / last.seconds_of_two:.2g} times"
        lines.append(f"| {step} | {' | '.join(cells)} | {more} | {far} | {gain} |")
    return "\n".join(lines)


def cell(seconds: float, memory_gb: float, disk_mb: float) -> str:
    time_taken = f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.0f} h"
    disk = f"{disk_mb:,.1f} MB" if disk_mb < 1000 else f"{disk_mb / 1000:,.0f} GB"
    return f"{time_taken}, {memory_gb:.2f} GB" + (f", {disk}" if disk_mb else "")
