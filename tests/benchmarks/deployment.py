"""What a network costs outside the study: images a second through `Predictor`, and the time until the first answer.

The exported D4 network, in ONNX and in int8, predicts for arrays in memory, cropping, stretching and
the OOD score included, and stands beside the bare forward pass of the ResNet-18 in PyTorch on inputs of the same
size, all on two processors. They run in turns, so that other load on the machine meets all alike.
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

from lensstudy.deployment.card import Card, Images
from lensstudy.deployment.exporting import outputs
from lensstudy.deployment.onnx_network import INT8_FILE, ONNX_FILE, OnnxNetwork, write_int8, write_onnx
from lensstudy.deployment.predictor import Predictor
from lensstudy.evaluation.ood import OODDetector
from lensstudy.networks.registry import build_network

NAME, CLASSES, PROCESSORS = "d4-steerable-cnn", ["no_sub", "cdm", "axion"], 2


def predictors(size: int, folder: Path) -> dict[str, Predictor]:
    """An untrained network for images of `size` pixels, exported in two ways, on two processors."""
    network = build_network(NAME, size, len(CLASSES)).eval()
    images = Images(
        channels=1, image_size=size, crop=size, binning=1, size=size, pixel_scale=0.1, brightness={},
        scaling={"kind": "asinh", "parameters": {"sky": [0], "softening": [1], "mean": [0], "deviation": [1]}},
    )  # fmt: skip
    card = Card(
        network=NAME, symmetry="D4", classes=CLASSES, images=images, calibration={"temperature": 1.0},
        in_distribution={}, metrics={}, training={}, limits=[], equality={}, licence="MIT", versions={}, weights="",
        files={},
    )  # fmt: skip
    shown = np.random.default_rng(0).normal(size=(200, 1, size, size))
    seen = torch.from_numpy(np.arcsinh(shown).astype(np.float32))
    files = {"onnx": write_onnx(network, folder / ONNX_FILE), "int8": write_int8(network, seen, folder / INT8_FILE)}
    made = {name: Predictor.of(card, OnnxNetwork(file, PROCESSORS)) for name, file in files.items()}
    for one in made.values():
        known = outputs(card, one.network, shown)[1:]
        one.distribution = OODDetector.fit(*known, np.arange(200) % len(CLASSES), known)
    return made


def start_up() -> float:
    """Processor seconds until a fresh process has imported what prediction needs; a free processor takes as long."""
    before = os.times()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", "import lensstudy.cli, lensstudy.deployment.predictor"], check=True, env=environment
    )
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@torch.inference_mode()
def compared(size: int, folder: Path, images: int = 256, repeats: int = 7) -> list[dict]:
    """The records of one size, `predict-onnx-<size>` and `predict-int8-<size>`."""
    batch = np.random.default_rng(1).normal(size=(images, 1, size, size)).astype(np.float32)
    resnet, shown = build_network("resnet18", size, len(CLASSES)).eval(), torch.from_numpy(batch)
    calls = {name: (lambda one=one: one.answers(batch)) for name, one in predictors(size, folder).items()}
    calls["resnet"] = lambda: resnet(shown)
    times = {name: [] for name in calls}
    for _ in range(repeats + 2):
        for name, call in calls.items():
            time.sleep(0.05)  # until the threads of the one before have stopped waiting for more
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    times = {name: each[2:] for name, each in times.items()}
    records = []
    for name in ("onnx", "int8"):
        ours, theirs = (statistics.median(times[key]) for key in (name, "resnet"))
        lower, _, upper = statistics.quantiles([b / a for a, b in zip(times[name], times["resnet"], strict=True)], n=4)
        records.append(
            {
                "name": f"predict-{name}-{size}",
                "value": images / ours,
                "unit": "images/s",
                "baseline": "ResNet-18 in PyTorch",
                "baseline_value": images / theirs,
                "ratio": theirs / ours,
                "spread": upper - lower,
            }
        )
    return records


def run() -> list[dict]:
    """Prediction at two sizes, the first of them that of `params/quick.yml`, and start-up."""
    before = torch.get_num_threads()
    torch.set_num_threads(PROCESSORS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            records = [record for size in (48, 64) for record in compared(size, Path(folder))]
    finally:
        torch.set_num_threads(before)
    seconds = min(start_up() for _ in range(3))
    return [*records, {"name": "predict-start-up", "value": seconds, "unit": "s", "baseline": "", "ratio": None}]
