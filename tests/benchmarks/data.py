"""How fast data come in: reading the official set, feeding batches, finding copies among 30,000 images.

`run()` returns one record a benchmark. A ratio above 1 is faster than the baseline; the spread is the relative
difference between the slower and the faster of two runs. Where data are missing, `value` says so.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import rotate

from lensstudy.data.dataset import LensDataset, batches
from lensstudy.data.filtering import find_duplicates
from lensstudy.data.reading import read

__all__ = ["run"]


def run() -> list[dict]:
    return [read_official_set(), loader_64(), duplicates_30k()]


def _timed(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _record(name: str, unit: str, value, baseline: str = "", baseline_value=None, ratio=None, spread=None) -> dict:
    return dict(
        name=name,
        value=value,
        unit=unit,
        baseline=baseline,
        baseline_value=baseline_value,
        ratio=ratio,
        spread=spread,
    )


def _seconds(name: str, work, baseline: str, plain) -> dict:
    """Best of two runs of `work` and of `plain`, side by side."""
    (ours, theirs), (ours_again, theirs_again) = [(_timed(work), _timed(plain)) for _ in range(2)]
    value, baseline_value = min(ours, ours_again), min(theirs, theirs_again)
    return _record(
        name, "s", value, baseline, baseline_value, baseline_value / value, max(ours, ours_again) / value - 1
    )


def read_official_set() -> dict:
    root = os.environ.get("LENSSTUDY_DATA") or Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(root) / "deeplense-equivariant" / "lenses.tgz"
    if not path.exists():
        return _record("read-official-set", "s", "deeplense-equivariant/lenses.tgz is missing; set LENSSTUDY_DATA")

    def plain_loop():
        with tarfile.open(path) as tar:
            members = [member for member in tar if member.name.endswith(".jpg")]
            images = [np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read()))) for member in members]
        return np.stack(images)

    return _seconds(
        "read-official-set", lambda: read(path), "plain loop over the tar, no checks, no catalogue", plain_loop
    )


def loader_64() -> dict:
    """Shuffled batches of 64 from 20,000 images of 64 x 64 pixels in a memory map, against one file an image."""
    images = np.random.default_rng(0).random((20_000, 1, 64, 64), dtype=np.float32)
    catalogue = pd.DataFrame({"name": np.arange(len(images)).astype(str), "class": "no_sub"})
    with tempfile.TemporaryDirectory() as folder:
        LensDataset(images, catalogue, ("no_sub",)).save(folder)
        part = LensDataset.load(folder).subset(np.arange(len(images)))
        files = [Path(folder) / f"{i}.npy" for i in range(2_000)]
        for file, image in zip(files, images, strict=False):
            np.save(file, image)

        def loader():
            return sum(len(labels) for _, labels in batches(part, 64, np.random.default_rng(1)))

        def plain_loop():
            order = np.random.default_rng(1).permutation(len(files))
            for start in range(0, len(order), 64):
                np.stack([np.load(files[i]) for i in order[start : start + 64]])

        loader()  # torch is imported and the pages are in memory, as from the second epoch on
        rates = [(len(images) / _timed(loader), len(files) / _timed(plain_loop)) for _ in range(2)]
    (ours, theirs), spread = np.max(rates, axis=0), np.ptp(rates, axis=0)[0] / np.max(rates, axis=0)[0]
    return _record(
        "loader-64",
        "images/s",
        float(ours),
        "plain loop over 2,000 .npy files",
        float(theirs),
        float(ours / theirs),
        float(spread),
    )


def arcs(count: int, seed: int, size: int = 64) -> np.ndarray:
    """`count` images `(N, 1, size, size)` of a ring with two brighter arcs, with noise of 2 % of the peak."""
    random = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2).astype(np.float32)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    images = random.normal(0, 0.02, (count, 1, size, size)).astype(np.float32)
    for image in images:
        ring, width = size * random.uniform(0.18, 0.34), random.uniform(1.5, 3)
        profile = np.exp(-0.5 * ((radius - ring) / width) ** 2)
        for brightness in random.uniform(0.2, 0.7, 2):
            arc = np.exp(random.uniform(2, 8) * (np.cos(angle - random.uniform(0, 7)) - 1))
            image[0] += profile * (0.15 + brightness * arc)
    return images


def duplicates_30k() -> dict:
    """All copies among 30,000 images, 100 of them planted, rotated by any angle and half of them reflected. Nothing to
    compare with: a plain loop over 450 million pairs and all angles takes days."""
    images = arcs(30_000, seed=0)
    for i in range(100):
        copy = images[i, :, :, ::-1] if i % 2 else images[i]
        images[15_000 + i] = rotate(copy, 3.6 * i, (1, 2), reshape=False, order=3, mode="nearest")
    found = []
    seconds = _timed(lambda: found.append(find_duplicates(images)))
    pairs = set(zip(found[0]["first"], found[0]["second"], strict=True))
    planted = sum((i, 15_000 + i) in pairs for i in range(100))
    return _record(
        "duplicates-30k", "s", seconds, f"{planted} of 100 planted copies found, {len(pairs) - planted} others"
    )


if __name__ == "__main__":
    for record in run():
        print(record)
