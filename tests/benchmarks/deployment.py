"""What a network costs outside the study: images a second through `Predictor`, and the time until the first answer.

The exported D4 network answers for arrays in memory, cropping, stretching and judging strangeness included, and stands
beside the bare forward pass of the ResNet-18 in PyTorch on inputs of the same size, both on two processors. The two run
in turns, so that other load on the machine meets both alike.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lensstudy.card import Card, Images
from lensstudy.deployment import to_plain
from lensstudy.networks import build_network
from lensstudy.plain import write_onnx
from lensstudy.predictor import OnnxNetwork, Predictor
from lensstudy.strangeness import Distribution

NAME, CLASSES, PROCESSORS = "d4-steerable-cnn", ["no_sub", "cdm", "axion"], 2


def predictor(size: int, folder: Path) -> Predictor:
    """An untrained exported network for images of `size` pixels, on two processors."""
    network = to_plain(build_network(NAME, size, len(CLASSES)))
    images = Images(
        channels=1, image_size=size, crop=size, binning=1, size=size, pixel_scale=0.1, brightness={},
        scaling={"kind": "asinh", "parameters": {"sky": [0], "softening": [1], "mean": [0], "deviation": [1]}},
    )  # fmt: skip
    card = Card(
        network=NAME, symmetry="D4", classes=CLASSES, images=images, calibration={"temperature": 1.0},
        in_distribution={}, metrics={}, training={}, limits=[], equality={}, licence="MIT", versions={}, files={},
    )  # fmt: skip
    session = OnnxNetwork(write_onnx(network, folder / "network.onnx"), PROCESSORS)
    made = Predictor.of(card, session)
    noticed = made.noticed(np.random.default_rng(0).normal(size=(200, 1, size, size)))
    made.distribution = Distribution.fit(*noticed, np.arange(200) % len(CLASSES))
    return made


def start_up() -> float:
    """Processor seconds until a fresh process has imported what prediction needs; a free processor takes as long."""
    before = os.times()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", "import lensstudy.cli, lensstudy.predictor"], check=True, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@torch.inference_mode()
def compared(size: int, folder: Path, images: int = 64, repeats: int = 7) -> dict:
    """The record of one size."""
    batch = np.random.default_rng(1).normal(size=(images, 1, size, size)).astype(np.float32)
    exported, resnet = predictor(size, folder), build_network("resnet18", size, len(CLASSES)).eval()
    shown, times = torch.from_numpy(batch), []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        exported.answers(batch)
        middle = time.perf_counter()
        resnet(shown)
        times.append((middle - start, time.perf_counter() - middle))
    ours, theirs = (statistics.median(column) for column in zip(*times[2:], strict=True))
    lower, _, upper = statistics.quantiles([b / a for a, b in times[2:]], n=4)
    return {
        "name": f"predict-onnx-{size}",
        "value": images / ours,
        "unit": "images/s",
        "baseline": "ResNet-18 in PyTorch",
        "baseline_value": images / theirs,
        "ratio": theirs / ours,
        "spread": upper - lower,
    }


def run() -> list[dict]:
    """Prediction at two sizes, the first of them (the one of `params/quick.yml`) as `predict-onnx`, and start-up."""
    before = torch.get_num_threads()
    torch.set_num_threads(PROCESSORS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            records = [compared(size, Path(folder)) for size in (48, 64)]
    finally:
        torch.set_num_threads(before)
    records[0]["name"] = "predict-onnx"
    seconds = min(start_up() for _ in range(3))
    return [*records, {"name": "predict-start-up", "value": seconds, "unit": "s", "baseline": "", "ratio": None}]
