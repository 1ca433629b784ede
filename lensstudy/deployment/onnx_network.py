"""A network as ONNX: written by `torch.onnx.export`, rounded to int8 by onnxruntime, and run by it.

The file holds the folded network (`lensstudy.networks.folding`): ordinary convolutions, with batch norm in them. It
maps `images` `(batch, C, S, S)`, as the network sees them, to `logits` and `features`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from lensstudy.networks.registry import Network

__all__ = ["INT8_FILE", "ONNX_FILE", "OnnxNetwork", "write_int8", "write_onnx"]

ONNX_FILE, INT8_FILE = "network.onnx", "network.int8.onnx"
AT_ONCE = 16  # images in one part of a batch
CORRECTION_IMAGES, CORRECTION_BATCH = 64, 32  # images over which biases are corrected


class OnnxNetwork:
    """The network in an ONNX file, run by onnxruntime: parts of a batch side by side on `threads` processors, which is
    a fifth faster than all processors on one part."""

    def __init__(self, file: Path, threads: int = 0):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("an ONNX file needs onnxruntime: pip install onnxruntime") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # x86 processors without VNNI add int8 products in pairs of 16 bits, which overflow: slower there, and right.
        options.add_session_config_entry("session.x64quantprecision", "0" if _has_vnni() else "1")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.pool = ThreadPoolExecutor(threads or torch.get_num_threads())

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, classes)` and the features before the last layer `(B, F)` of network inputs `(B, C, S, S)`."""
        parts = [part.contiguous().numpy() for part in images.split(AT_ONCE)]
        outputs = list(self.pool.map(lambda part: self.session.run(["logits", "features"], {"images": part}), parts))
        logits, features = (torch.from_numpy(np.concatenate(both)) for both in zip(*outputs, strict=True))
        return logits, features


def _has_vnni() -> bool:
    """Whether Linux says that the processor has it; on other systems it is not known."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "vnni" in flags.read_text()


class _Outputs(nn.Module):
    """Logits and features of a folded network, without the check of its input, which has no place in a graph."""

    def __init__(self, network: Network):
        super().__init__()
        self.body, self.invariant, self.classifier = network.body, network.invariant, network.classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.invariant(self.body(images)).mean((2, 3))
        return self.classifier(features), features


def _depthwise(pool, channels: int) -> nn.Conv2d:
    """An average or a blur as a convolution of each channel: as fast in onnxruntime, and fast in int8, where its
    AveragePool is slow."""
    size = pool.kernel_size
    conv = nn.Conv2d(channels, channels, size, 2, pool.padding, groups=channels)
    conv.weight.copy_(pool.blur.expand_as(conv.weight) if hasattr(pool, "blur") else torch.tensor(size**-2.0))
    conv.bias.zero_()  # type: ignore[union-attr]
    return conv


class _OutputsOfOthers(nn.Module):
    """Logits and features of a network that lensstudy did not build; onnxruntime computes what they share once."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images), self.network.features(images)


def _outputs(network: nn.Module) -> nn.Module:
    from lensstudy.networks.folding import folded
    from lensstudy.networks.registry import Network

    return (_Outputs(folded(network)) if isinstance(network, Network) else _OutputsOfOthers(network)).eval()


@torch.no_grad()
def write_onnx(network: Network, file: Path) -> Path:
    """Write `network`, as it is now and in evaluation mode, as ONNX for batches of any size. Returns `file`."""
    return _write(_outputs(network), network, file)


@torch.no_grad()
def _write(outputs: nn.Module, network: Network, file: Path) -> Path:
    from lensstudy.networks.layers import POOLINGS

    outputs = copy.deepcopy(outputs).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = torch.zeros(2, network.in_channels, network.image_size, network.image_size)
    channels: dict[nn.Module, int] = {}
    for module in outputs.modules():
        if isinstance(module, tuple(POOLINGS.values())):
            module.register_forward_pre_hook(lambda pool, given: channels.setdefault(pool, given[0].shape[1]) and None)
    outputs(images)
    for module in list(outputs.modules()):
        for name, child in module.named_children():
            if child in channels:
                setattr(module, name, _depthwise(child, channels[child]))
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                outputs,
                (images,),
                str(file),
                dynamo=True,
                optimize=False,  # onnxscript takes the 1e-8 under a root for zero; onnxruntime optimises as it opens
                verbose=False,
                external_data=False,
                input_names=["images"],
                output_names=["logits", "features"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            )
    finally:
        log.setLevel(level)
    return file


def write_int8(network: Network, images: Tensor, file: Path) -> Path:
    """Write `network` as ONNX whose convolutions compute in int8, by onnxruntime's static quantisation.

    Each channel of a filter has a scale of its own, so rotated copies of a filter are rounded alike and the symmetry of
    regular fields stays. Logits are near those of `network`, not equal.

    Args:
        network: the trained network.
        images: network inputs `(N, C, S, S)` that set the ranges of activations.
        file: where to write.

    Returns:
        `file`.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Inputs(CalibrationDataReader):
        """Hands out the images one by one, as the quantisation asks for them."""

        parts = iter(images.split(1))

        def get_next(self):
            return {"images": part.numpy()} if (part := next(self.parts, None)) is not None else None

    exact = _write(_bias_corrected(_outputs(network), images), network, file.with_suffix(".float.onnx"))
    try:
        quant_pre_process(exact, exact, skip_symbolic_shape=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its histograms
            quantize_static(
                exact,
                file,
                Inputs(),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["Conv", "Relu"],
                calibrate_method=CalibrationMethod.Percentile,  # one bright pixel must not set the range of all
            )
    finally:
        exact.unlink()
    return file


@torch.no_grad()
def _bias_corrected(outputs: nn.Module, images: Tensor) -> nn.Module:
    """`outputs` with biases that make up for the rounding of its filters, in the mean over `images` (Nagel et al. 2019,
    arXiv:1906.04721), each in the eight orientations of the square, so that rotated filters keep equal biases."""
    images = images[:CORRECTION_IMAGES]
    convolutions = [one for one in outputs.modules() if isinstance(one, nn.Conv2d) and one.bias is not None]
    missing = {one: torch.zeros_like(one.bias) for one in convolutions}

    def note(lost: Tensor, conv: nn.Conv2d, given: tuple[Tensor], _output: Tensor):
        change = F.conv2d(given[0], lost, stride=conv.stride, padding=conv.padding).mean((0, 2, 3))
        missing[conv] += change * len(given[0]) / (8 * len(images))

    hooks = [one.register_forward_hook(partial(note, one.weight - _rounded(one.weight))) for one in convolutions]
    for part in images.split(CORRECTION_BATCH):
        for reflected in (part, part.flip(3)):
            for quarter in range(4):
                outputs(reflected.rot90(quarter, (2, 3)).contiguous())
    for hook in hooks:
        hook.remove()
    for one in convolutions:
        one.bias += missing[one]
    return outputs


def _rounded(weight: Tensor) -> Tensor:
    """Filters `(out, in, k, k)` rounded to integers from -127 to 127, with a scale for each of the `out`."""
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30) / 127
    return (weight / scale).round() * scale
