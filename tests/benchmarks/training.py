"""What the loader, the augmentation and the logging cost on top of a bare training step of the smallest network."""

import os
import statistics
import tempfile
import time

import numpy as np
import pandas as pd
import torch

from lensstudy.data.dataset import LensDataset
from lensstudy.networks.registry import build_network
from lensstudy.study import Study
from lensstudy.training.fitting import fit

SETTINGS = Study(network="d4-steerable-cnn", epochs=2, batch_size=32)
IMAGES, SIZE = 1280, 64


def bare_seconds() -> float:
    """One epoch of forward, backward and step on images that are there already."""
    network = build_network(SETTINGS.network, SIZE, 2).train()
    optimizer = torch.optim.AdamW(network.parameters())
    images, labels = torch.rand(SETTINGS.batch_size, 1, SIZE, SIZE), torch.arange(SETTINGS.batch_size) % 2
    start = time.perf_counter()
    for _ in range(IMAGES // SETTINGS.batch_size):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def fit_seconds() -> float:
    """The faster of two epochs of `training.fit` on as many images."""
    generator = np.random.default_rng(1)
    count = round(IMAGES / 0.8)
    names = pd.DataFrame({"name": [str(i) for i in range(count)], "class": ["no_sub", "sub"] * (count // 2)})
    images = generator.random((count, 1, SIZE, SIZE), dtype=np.float32)
    dataset = LensDataset(images, names, ("no_sub", "sub")).split(0.1, 1 / 9, 1)
    with tempfile.TemporaryDirectory() as folder:
        return pd.read_csv(fit(dataset, SETTINGS, folder=folder) / "history.csv")["seconds"].min()


def run(repeats: int = 3) -> list[dict]:
    os.environ["LENSSTUDY_BATCH"] = "1"
    torch.set_num_threads(1)
    pairs = [(fit_seconds(), bare_seconds()) for _ in range(repeats)]
    ratios = [bare / ours for ours, bare in pairs]
    ours, bare = (statistics.median(values) for values in zip(*pairs, strict=True))
    return [
        {
            "name": "training-overhead",
            "value": 1000 * ours / (IMAGES // SETTINGS.batch_size),
            "unit": "ms/step",
            "baseline": "the bare step",
            "baseline_value": 1000 * bare / (IMAGES // SETTINGS.batch_size),
            "ratio": statistics.median(ratios),
            "spread": max(ratios) - min(ratios),
        }
    ]
