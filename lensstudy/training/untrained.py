"""Networks before training: built for the images of a study, how invariant they are, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lensstudy.networks.description import count_parameters, multiply_accumulates, peak_memory
from lensstudy.networks.folding import folded
from lensstudy.networks.groups import interpolation_floor, invariance_curve, invariance_error
from lensstudy.networks.names import BASELINES, check_name
from lensstudy.networks.registry import build_network, recalibrate_batch_norm
from lensstudy.progress import in_batch

__all__ = ["Invariance", "build_all", "costs", "invariance", "invariance_curves", "processor_seconds", "with_baselines"]

EXACT = 1e-5  # invariance errors below this are those of rounding
ROUNDS = 3  # timed, after one that warms up
OCTAGON = "c8-steerable-cnn"  # the network that interpolation is measured with: it knows every 45 degrees
MEBIBYTE = 2**20


def build_all(names: Iterable[str], images: Tensor, n_classes: int = 3, **options) -> dict[str, nn.Module]:
    """Build networks for the size and channels of `images` `(B, C, S, S)`, by name, with the averages of batch norm
    that training on these images would give. `options` are those of `build_network`."""
    size, channels = images.shape[-1], images.shape[1]
    built = {name: build_network(name, size, n_classes, in_channels=channels, **options) for name in names}
    return {name: recalibrate_batch_norm(network, images) for name, network in built.items()}


def with_baselines(names: Iterable[str]) -> list[str]:
    """The names, each followed by those of its matched plain baselines: as many channels, as many parameters."""
    every: list[str] = []
    for name in names:
        every.append(name)
        try:
            check_name(f"{name}-matched")
        except ValueError:  # a network without symmetry, or somebody's own, has none
            continue
        every += [name + ending for ending in reversed(BASELINES)]
    return list(dict.fromkeys(every))


@dataclass(frozen=True)
class Invariance:
    """How far the outputs of networks move as an image is rotated or reflected: `table` has one row a network."""

    table: pd.DataFrame

    @property
    def answer(self) -> str:
        """Which networks do not move under rotations by 90 degrees, and by how much the others do."""
        errors = self.table["error at 90°"]
        exact, others = errors[errors < EXACT], errors[errors >= EXACT]
        said = []
        if len(exact):
            said += [f"{', '.join(exact.index)}: rotating the image by 90 degrees changes nothing beyond rounding."]
        if len(others):
            moved = f"the outputs move by {others.min():.2f} or more of their own spread"
            said += [f"{', '.join(others.index)}: {moved}, and only training can reduce this."]
        return " ".join(said)


def invariance(networks: Mapping[str, nn.Module], images: Tensor) -> Invariance:
    """Measure the invariance error of each network on `images` `(B, C, S, S)`, and at 45 degrees the part of it that
    interpolation alone causes (`floor`)."""
    rows = {
        name: {
            "parameters": count_parameters(network),
            "error at 90°": invariance_error(network, images, 90),
            "error reflected": invariance_error(network, images, 0, reflect=True),
            "error at 45°": invariance_error(network, images, 45),
            "floor at 45°": interpolation_floor(network, images, 45),
        }
        for name, network in networks.items()
    }
    return Invariance(pd.DataFrame.from_dict(rows, orient="index").astype({"parameters": int}).rename_axis("network"))


def invariance_curves(networks: Mapping[str, nn.Module], images: Tensor, step: int = 15) -> pd.DataFrame:
    """Invariance error of each network, one column each, at every `step` degrees of a full rotation (the index). The
    last column, `interpolation alone`, is what rotating an image there and back does to the C8 network."""
    degrees = np.arange(0, 361, step)
    bar = tqdm(networks.items(), desc="rotating", disable=in_batch())
    curves = {name: invariance_curve(network, images, degrees) for name, network in bar}
    octagon = networks[OCTAGON] if OCTAGON in networks else build_all([OCTAGON], images)[OCTAGON]
    curves["interpolation alone"] = np.array([interpolation_floor(octagon, images, float(angle)) for angle in degrees])
    return pd.DataFrame(curves, index=pd.Index(degrees, name="degrees"))


def costs(networks: Mapping[str, nn.Module], images: Tensor, batch_size: int) -> pd.DataFrame:
    """Measure what each network costs on one thread, for batches of random images as large as `images`.

    Training steps and inference, of the network folded into plain convolutions, alternate over all networks, so that
    other load on the machine meets all alike.

    Returns:
        One row a network: `parameters`; `MACs [M]`, the multiply-accumulates of one image; images per second of
        processor time, and the most memory of all tensors of one step beyond the weights, for training and inference.
    """
    batch = torch.rand(batch_size, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = [step for network in networks.values() for step in _steps(network, batch)]
        memory = np.array([peak_memory(step) for step in steps]).reshape(-1, 2) / MEBIBYTE
        rates = batch_size / processor_seconds(steps).reshape(-1, 2)
    finally:
        torch.set_num_threads(threads)
    table = {
        "parameters": [count_parameters(network) for network in networks.values()],
        "MACs [M]": [multiply_accumulates(network) / 1e6 for network in networks.values()],  # type: ignore[arg-type]
        "training images/s": rates[:, 0],
        "training memory [MiB]": memory[:, 0],
        "inference images/s": rates[:, 1],
        "inference memory [MiB]": memory[:, 1],
    }
    return pd.DataFrame(table, index=pd.Index(list(networks), name="network"))


def _steps(network: nn.Module, batch: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step and an inference of `batch`, as functions of nothing."""
    exported = folded(network)

    def train() -> None:
        network.train()(batch).square().mean().backward()

    @torch.inference_mode()
    def infer() -> None:
        exported(batch)

    return train, infer


def processor_seconds(functions: Sequence[Callable[[], object]], rounds: int = ROUNDS) -> np.ndarray:
    """The fastest of `rounds` runs of each function, in seconds of processor time `(functions,)`. They take turns, and
    all run once before to warm up."""
    times = np.empty((rounds + 1, len(functions)))
    with tqdm(total=times.size, desc="timing", unit="step", disable=in_batch()) as bar:
        for row in times:
            for column, function in enumerate(functions):
                start = time.process_time()
                function()
                row[column] = time.process_time() - start
                bar.update()
    return times[1:].min(axis=0)
