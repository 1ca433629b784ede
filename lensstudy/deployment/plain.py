"""A network in plain operations: a list of steps in JSON, its weights as safetensors, the same in ONNX.

`PlainNetwork` runs the list with nothing but torch, `write_onnx` writes it for every ONNX runtime, `write_int8` does so
in whole numbers of 8 bits, less exact and faster. A step names one of the `OPERATIONS`; there is nothing in a file that
could be run, and a step that is unknown is refused.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = [
    "INT8_FILE",
    "ONNX_FILE",
    "OPERATIONS",
    "PlainNetwork",
    "Step",
    "load_plain",
    "save_plain",
    "write_int8",
    "write_onnx",
]

ONNX_FILE, INT8_FILE = "network.onnx", "network.int8.onnx"
ONNX_OPSET = 17
CORRECTED_ON, CORRECTED_AT_ONCE = 64, 32  # images on which the biases are corrected
ONNX_IR_VERSION = 8  # what onnxruntime has read since 2022


@dataclass(frozen=True)
class Step:
    """One operation: `inputs` are outputs of earlier steps or `images`, `weights` names of arrays."""

    operation: str
    inputs: tuple[str, ...]
    output: str
    weights: tuple[str, ...] = ()
    options: dict[str, int] = field(default_factory=dict)


class PlainNetwork(nn.Module):
    """A classifier of float32 images `(B, in_channels, size, size)` given as a list of steps.

    Called, it returns logits `(B, classes)`; `features(images)` returns `(logits, features)`, the latter being what
    the last linear layer sees, `(B, features)`.
    """

    def __init__(self, steps: Sequence[Step], weights: dict[str, Tensor], in_channels: int, size: int):
        super().__init__()
        self.steps, self.in_channels, self.size = tuple(steps), in_channels, size
        known = {"images"}
        for step in self.steps:
            if step.operation not in OPERATIONS:
                raise ValueError(
                    f"step '{step.output}' is '{step.operation}', which this version does not know; it knows "
                    f"{', '.join(OPERATIONS)}. Update lensstudy."
                )
            if missing := (set(step.inputs) - known) | (set(step.weights) - set(weights)):
                raise ValueError(f"step '{step.output}' needs {', '.join(sorted(missing))}, which is not there")
            known.add(step.output)
        if missing := {"features", "logits"} - known:
            raise ValueError(f"no step makes the {' and the '.join(sorted(missing))}")
        for name, weight in weights.items():
            self.register_buffer(name, weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)[0]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        expected = (self.in_channels, self.size, self.size)
        if tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"got images of shape {tuple(images.shape)}; expected (B, {', '.join(map(str, expected))})"
            )
        values = self.outputs(images)
        return values["logits"], values["features"]

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """What every step returns, by the name of its output."""
        values = {"images": images.contiguous(memory_format=torch.channels_last)}
        for step in self.steps:
            inputs, weights = (values[name] for name in step.inputs), (getattr(self, name) for name in step.weights)
            values[step.output] = OPERATIONS[step.operation].torch(*inputs, *weights, **step.options)
        return values


# The operations -------------------------------------------------------------------------------------------------------
#
# Each is written twice, for torch and for ONNX. In a map of irreducible fields the scalars come first, then vectors of
# two channels each (see lensstudy.networks.layers, which has the same nonlinearities for training).


def _lengths(vectors: Tensor) -> Tensor:
    return (vectors.unflatten(1, (-1, 2)).square().sum(2) + 1e-8).sqrt()


def _norm_relu(features: Tensor, threshold: Tensor, scalars: int) -> Tensor:
    numbers, vectors = features.tensor_split([scalars], dim=1)
    length = _lengths(vectors)
    kept = torch.relu(length - threshold) / length
    return torch.cat([torch.relu(numbers), vectors * kept.repeat_interleave(2, dim=1)], dim=1)


def _gated_relu(features: Tensor, scalars: int, vectors: int) -> Tensor:
    numbers, gates, arrows = features.tensor_split([scalars, scalars + vectors], dim=1)
    return torch.cat([torch.relu(numbers), arrows * torch.sigmoid(gates).repeat_interleave(2, dim=1)], dim=1)


def _antialiased_pool(features: Tensor, blur: Tensor, stride: int, padding: int) -> Tensor:
    channels = features.shape[1]
    return F.conv2d(features, blur.expand(channels, 1, -1, -1), stride=stride, padding=padding, groups=channels)


def _scalars_and_norms(features: Tensor, scalars: int) -> Tensor:
    numbers, vectors = features.tensor_split([scalars], dim=1)
    return torch.cat([numbers, _lengths(vectors)], dim=1)


class _OnnxGraph:
    """Nodes and constants of an ONNX graph in the making; a method an operation, named after it."""

    def __init__(self):
        self.nodes, self.constants, self.shapes = [], [], {}

    def node(self, kind: str, *inputs: str, output: str = "", **attributes) -> str:
        from onnx import helper

        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, values, dtype=np.int64, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def split(self, features: str, first: int, last: int) -> str:
        """Channels `first` to `last` of a map."""
        return self.node("Slice", features, *(self.constant([value]) for value in (first, last, 1)))

    def lengths(self, vectors: str, count: int, size: int) -> str:
        pairs = self.node("Reshape", vectors, self.constant([0, count, 2, size, size]))
        sums = self.node("ReduceSum", self.node("Mul", pairs, pairs), self.constant([2]), keepdims=0)
        return self.node("Sqrt", self.node("Add", sums, self.constant(1e-8, np.float32)))

    def each_twice(self, factors: str, count: int, size: int) -> str:
        """One factor a vector to one factor a channel."""
        column = self.node("Reshape", factors, self.constant([0, count, 1, size, size]))
        pairs = self.node("Concat", column, column, axis=2)
        return self.node("Reshape", pairs, self.constant([0, 2 * count, size, size]))

    def convolution(self, output, features, weight, bias=None, *, stride, padding):
        given = [features, weight, *([bias] if bias else [])]
        return self.node("Conv", *given, output=output, strides=[stride] * 2, pads=[padding] * 4)

    def relu(self, output, features):
        return self.node("Relu", features, output=output)

    def add(self, output, one, other):
        return self.node("Add", one, other, output=output)

    def average_pool(self, output, features, *, kernel_size, stride, padding):
        # A convolution of each channel by itself: as fast, and fast in whole numbers too, which AveragePool is not.
        channels = self.shapes[features][1]
        mean = self.constant(np.full((channels, 1, kernel_size, kernel_size), kernel_size**-2), np.float32)
        return self.node(
            "Conv", features, mean, output=output, strides=[stride] * 2, pads=[padding] * 4, group=channels
        )

    def antialiased_pool(self, output, features, blur, *, stride, padding):
        channels = self.shapes[features][1]
        filters = self.node("Expand", blur, self.constant([channels, 1, *self.shapes[blur]]))
        return self.node(
            "Conv", features, filters, output=output, strides=[stride] * 2, pads=[padding] * 4, group=channels
        )

    def max_pool(self, output, features, *, kernel_size, stride, padding):
        window = {"kernel_shape": [kernel_size] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        return self.node("MaxPool", features, output=output, **window)

    def field_maximum(self, output, features, *, field_size):
        _, channels, height, width = self.shapes[features]
        fields = self.constant([0, channels // field_size, field_size, height, width])
        return self.node("ReduceMax", self.node("Reshape", features, fields), output=output, axes=[2], keepdims=0)

    def norm_relu(self, output, features, threshold, *, scalars):
        _, channels, size, _ = self.shapes[features]
        count, vectors = (channels - scalars) // 2, self.split(features, scalars, channels)
        length = self.lengths(vectors, count, size)
        kept = self.node("Div", self.node("Relu", self.node("Sub", length, threshold)), length)
        numbers = self.node("Relu", self.split(features, 0, scalars))
        shortened = self.node("Mul", vectors, self.each_twice(kept, count, size))
        return self.node("Concat", numbers, shortened, output=output, axis=1)

    def gated_relu(self, output, features, *, scalars, vectors):
        _, channels, size, _ = self.shapes[features]
        gates = self.node("Sigmoid", self.split(features, scalars, scalars + vectors))
        arrows = self.split(features, scalars + vectors, channels)
        opened = self.node("Mul", arrows, self.each_twice(gates, vectors, size))
        return self.node("Concat", self.node("Relu", self.split(features, 0, scalars)), opened, output=output, axis=1)

    def scalars_and_norms(self, output, features, *, scalars):
        _, channels, size, _ = self.shapes[features]
        norms = self.lengths(self.split(features, scalars, channels), (channels - scalars) // 2, size)
        return self.node("Concat", self.split(features, 0, scalars), norms, output=output, axis=1)

    def mean(self, output, features):
        return self.node("ReduceMean", features, output=output, axes=[2, 3], keepdims=0)

    def linear(self, output, features, weight, bias):
        return self.node("Gemm", features, weight, bias, output=output, transB=1)


@dataclass(frozen=True)
class Operation:
    """What a step does, for torch and for ONNX."""

    torch: Callable[..., Tensor]
    onnx: Callable[..., str]


OPERATIONS = {
    "convolution": Operation(F.conv2d, _OnnxGraph.convolution),
    "relu": Operation(F.relu, _OnnxGraph.relu),
    "add": Operation(torch.add, _OnnxGraph.add),
    "average_pool": Operation(F.avg_pool2d, _OnnxGraph.average_pool),
    "antialiased_pool": Operation(_antialiased_pool, _OnnxGraph.antialiased_pool),
    "max_pool": Operation(F.max_pool2d, _OnnxGraph.max_pool),
    "field_maximum": Operation(
        lambda features, field_size: features.unflatten(1, (-1, field_size)).amax(2), _OnnxGraph.field_maximum
    ),
    "norm_relu": Operation(_norm_relu, _OnnxGraph.norm_relu),
    "gated_relu": Operation(_gated_relu, _OnnxGraph.gated_relu),
    "scalars_and_norms": Operation(_scalars_and_norms, _OnnxGraph.scalars_and_norms),
    "mean": Operation(lambda features: features.mean((2, 3)), _OnnxGraph.mean),
    "linear": Operation(F.linear, _OnnxGraph.linear),
}


# Files ----------------------------------------------------------------------------------------------------------------


def save_plain(network: PlainNetwork, folder: Path) -> list[Path]:
    """Write `network.json` and `weights.safetensors` into `folder`; returns the two files."""
    description, weights = folder / "network.json", folder / "weights.safetensors"
    about = {"in_channels": network.in_channels, "size": network.size, "steps": [asdict(s) for s in network.steps]}
    description.write_text(json.dumps(about, indent=1))
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
    return [description, weights]


def load_plain(folder: Path) -> PlainNetwork:
    """The network that `save_plain` wrote. Raises `ValueError` for files that describe none."""
    try:
        about = json.loads((folder / "network.json").read_text())
        steps = [
            Step(s["operation"], tuple(s["inputs"]), s["output"], tuple(s["weights"]), s["options"])
            for s in about["steps"]
        ]
        return PlainNetwork(
            steps, load_file(folder / "weights.safetensors"), about["in_channels"], about["size"]
        ).eval()
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: network.json and weights.safetensors describe no network ({error!r})") from error


@torch.no_grad()
def write_onnx(network: PlainNetwork, file: Path) -> Path:
    """Write the network as ONNX: `images` `(batch, C, H, W)` of any batch size to `logits` and `features`."""
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ImportError("writing ONNX needs the package onnx: pip install onnx, or export as pytorch") from error

    graph, size = _OnnxGraph(), network.size
    values = network.outputs(torch.zeros(1, network.in_channels, size, size))
    graph.shapes = {name: tuple(value.shape) for name, value in {**values, **network.state_dict()}.items()}
    for name, weight in network.state_dict().items():
        graph.constant(weight.numpy(), np.float32, name)
    for step in network.steps:
        OPERATIONS[step.operation].onnx(graph, step.output, *step.inputs, *step.weights, **step.options)
    ends = {name: ["batch", *values[name].shape[1:]] for name in ("images", "logits", "features")}
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items()}
    outputs = [infos["logits"], infos["features"]]
    built = helper.make_graph(graph.nodes, "lensstudy", [infos["images"]], outputs, graph.constants)
    opset = [helper.make_opsetid("", ONNX_OPSET)]
    model = helper.make_model(built, opset_imports=opset, ir_version=ONNX_IR_VERSION, producer_name="lensstudy")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)
    return file


def write_int8(network: PlainNetwork, images: Tensor, file: Path) -> Path:
    """Write the network as ONNX whose convolutions compute in whole numbers of 8 bits; the ranges of these are those
    that `images` `(N, C, size, size)`, as the network sees them, bring about. Logits are near those of `network`, not
    equal. Filters that are turned copies of each other hold the same numbers and are rounded alike, so a network
    whose channels only change places under a turn keeps its symmetry."""
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantType,
            quant_pre_process,
            quantize_static,
        )
    except ImportError as error:
        raise ImportError("writing whole numbers needs onnx and onnxruntime: pip install onnx onnxruntime") from error

    class Shown(CalibrationDataReader):
        """Hands out the images one by one, as the quantisation asks for them."""

        parts = iter(images.split(1))

        def get_next(self):
            return {"images": part.numpy()} if (part := next(self.parts, None)) is not None else None

    exact = write_onnx(_bias_corrected(network, images), file.with_suffix(".float.onnx"))
    try:
        quant_pre_process(exact, exact, skip_symbolic_shape=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells of its histograms
            quantize_static(
                exact,
                file,
                Shown(),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["Conv", "Relu"],
                calibrate_method=CalibrationMethod.Percentile,  # a bright pixel shall not take the numbers of all
            )
    finally:
        exact.unlink()
    return file


@torch.no_grad()
def _bias_corrected(network: PlainNetwork, images: Tensor) -> PlainNetwork:
    """The network with biases that make up for the rounding of its filters, in the mean over `images` (Nagel et al.
    2019, arXiv:1906.04721), each in the eight orientations of the square, so that turned filters keep equal biases."""
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    steps = [step for step in network.steps if step.operation == "convolution" and len(step.weights) == 2]
    lost = [weights[step.weights[0]] - _rounded(weights[step.weights[0]]) for step in steps]
    parts = images[:CORRECTED_ON].split(CORRECTED_AT_ONCE)
    shown = [turn.rot90(quarter, (2, 3)) for part in parts for turn in (part, part.flip(3)) for quarter in range(4)]
    for batch in shown:
        values = network.outputs(batch)
        for step, change in zip(steps, lost, strict=True):
            missing = OPERATIONS["convolution"].torch(values[step.inputs[0]], change, **step.options).mean((0, 2, 3))
            weights[step.weights[1]] += missing * len(batch) / (8 * len(images[:CORRECTED_ON]))
    return PlainNetwork(network.steps, weights, network.in_channels, network.size).eval()


def _rounded(weight: Tensor) -> Tensor:
    """Filters `(out, in, k, k)` in whole numbers from -127 to 127, with a unit of its own for each of the `out`."""
    unit = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30) / 127
    return (weight / unit).round() * unit
