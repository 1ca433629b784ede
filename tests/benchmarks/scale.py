"""How time, memory and disk of each step grow with the number of images: the curve of `docs/scale.md`.

Each step is a process of its own, so that its peak memory is its own. `simulate` is done once with one and once with
two processes; of the others two run side by side on the same images, since a study with two processes is two trainings
or two pages at a time. A table for `docs/scale.md` goes to standard error, the figure to `docs/figures/scale.png`.
"""

from __future__ import annotations

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
    """Run commands side by side: seconds on the wall, and processor seconds and peak memory of all with what they
    started."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LENSSTUDY_BATCH": "1", "LENSSTUDY_HOME": str(folder)}
    began = time.perf_counter()
    with open(folder / "log.txt", "a") as log:
        started = [
            subprocess.Popen(shlex.split(command), cwd=folder, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        ended = [os.wait4(process.pid, 0)[1:] for process in started]
    if any(status for status, _ in ended):
        raise RuntimeError(f"{commands}\n{(folder / 'log.txt').read_text()[-2000:]}")
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": sum(usage.ru_utime + usage.ru_stime for _, usage in ended),
        "memory_gb": max(usage.ru_maxrss for _, usage in ended) / 1024**2,
    }


def write_files(folder: Path) -> None:
    """The simulated images as DeepLense keeps them, one file each."""
    code = f"{LOAD}; from lensstudy.data.reading import write_deeplense; write_deeplense(data, 'files')"
    together([f"{PYTHON} {shlex.quote(code)}"], folder)


def size_of(path: Path) -> float:
    """MB that a file or the files of a folder take."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def slope(images: pd.Series, values: pd.Series) -> float:
    """The power of the number of images with which `values` grow over the last decade."""
    return float(np.diff(np.log10(values))[-1] / np.diff(np.log10(images))[-1])


def draw(table: pd.DataFrame):
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
    titles = {"seconds": "time with one process (s)", "memory_gb": "peak memory (GB)", "disk_mb": "disk (MB)"}
    for axis, (column, title) in zip(axes, titles.items(), strict=True):
        for marker, (step, rows) in zip("osD^v", table.groupby("step", sort=False), strict=True):
            if (rows[column] > 0).all():
                axis.loglog(rows["images"], rows[column], marker=marker, label=step, markersize=4)
        axis.set(xlabel="images", title=title)
    axes[0].loglog(table["images"], table["images"] / 1000, ":", color="grey", label="1,000 images a second")
    axes[0].legend(fontsize=7)
    return figure


def markdown(table: pd.DataFrame) -> str:
    """The table of `docs/scale.md`."""
    lines = ["| step | " + " | ".join(f"{images:,}" for images in table["images"].unique()) + " | grows as | two |"]
    lines.append("|---|" + "---|" * (table["images"].nunique() + 2))
    for step, rows in table.groupby("step", sort=False):
        cells = [f"{row.seconds:,.3g} s, {row.memory_gb:.2g} GB, {row.disk_mb:,.2g} MB" for row in rows.itertuples()]
        last = rows.iloc[-1]
        power = f"n^{slope(rows['images'], rows['seconds']):.2f}"
        lines.append(f"| {step} | {' | '.join(cells)} | {power} | {last.seconds / last.seconds_of_two:.2g} times |")
    return "\n".join(lines)
