"""A network as ONNX: written by `torch.onnx.export`, rounded to int8 by onnxruntime, and run by it.

The file holds the folded network (`lensstudy.networks.folding`): ordinary convolutions, with batch norm in them. Most
filters of an equivariant network are others, rotated: the file holds each once, and onnxruntime makes the copies as it
opens it. It maps `images` `(batch, C, S, S)`, as the network sees them, to `logits` and `features`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lensstudy.deployment.card import CardError
from lensstudy.files import printable, regular

if TYPE_CHECKING:
    from lensstudy.networks.architectures import Classifier, Network

__all__ = ["INT8_FILE", "ONNX_FILE", "OnnxNetwork", "check_onnx", "write_int8", "write_onnx"]

ONNX_FILE, INT8_FILE = "network.onnx", "network.int8.onnx"
# What our exports are made of, and what a module of one's own may be made of besides: each operation computes once and
# ends. Loops, branches and functions are not among them.
OURS = """Add Cast Concat Constant Conv DequantizeLinear Div Expand Gather Gemm MaxPool Mul Pow QuantizeLinear ReduceMax
ReduceMean ReduceSum Relu Reshape Shape Sigmoid Slice Sqrt Squeeze Sub Transpose Unsqueeze"""
OTHERS = """Abs And ArgMax Atan AveragePool BatchNormalization CastLike Ceil Clip ConstantOfShape ConvTranspose Cos
CumSum Einsum Elu Equal Erf Exp Flatten Floor GatherElements Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool
Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization
LeakyRelu Less LessOrEqual Log LogSoftmax LpPool MatMul Max Min Mish Neg Not Or PRelu Pad Range Reciprocal ReduceL1
ReduceL2 ReduceLogSumExp ReduceMin ReduceProd Round Selu Sign Sin Size Softmax Softplus Softsign Split Tanh
ThresholdedRelu Trilu Where"""
OPERATIONS = frozenset(f"{OURS} {OTHERS}".split())
NODES, LARGEST = 10_000, 2**27  # operations in one network, numbers in one array for one image
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
        check_onnx(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # x86 processors without VNNI add int8 products in pairs of 16 bits, which overflow: slower there, and right.
        options.add_session_config_entry("session.x64quantprecision", "0" if _has_vnni() else "1")
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has kinds of its own
            reason = str(error).splitlines()[0]
            raise CardError(f"{printable(file)}: onnxruntime cannot open it ({reason}); export again") from None
        self.file = file
        self.pool = ThreadPoolExecutor(threads or torch.get_num_threads())

    def check(self, channels: int, size: int, classes: int, features: int | None = None) -> None:
        """Raise `CardError` unless it maps `images` `(B, channels, size, size)` to `logits` `(B, classes)` and
        `features` `(B, features)`, as the files beside it say."""
        nodes = {node.name: node.shape[1:] for node in (*self.session.get_inputs(), *self.session.get_outputs())}
        expected = {"images": [channels, size, size], "logits": [classes], "features": [features]}
        if features is None:
            expected["features"] = nodes.get("features")
        if nodes != expected:
            raise CardError(
                f"{printable(self.file)}: takes and gives {nodes}, where the files beside it expect {expected}; this "
                "folder is made of parts of several networks: copy it again, or export again"
            )

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, classes)` and the features before the last layer `(B, F)` of network inputs `(B, C, S, S)`."""
        parts = [part.contiguous().numpy() for part in images.split(AT_ONCE)]
        outputs = list(self.pool.map(lambda part: self.session.run(["logits", "features"], {"images": part}), parts))
        logits, features = (torch.from_numpy(np.concatenate(both)) for both in zip(*outputs, strict=True))
        return logits, features


def check_onnx(file: Path) -> None:
    """Raise `CardError` unless an ONNX file holds an ordinary network and nothing besides: no loop that need not end,
    no data in other files, no array that is too large to be one of an image's."""
    import onnx

    try:
        if file.stat().st_size > onnx.checker.MAXIMUM_PROTOBUF:
            raise ValueError("larger than 2 GB")
        model = onnx.load_model_from_string(regular(file).read_bytes())
    except Exception as error:  # whatever a damaged file makes protobuf raise
        raise CardError(f"{printable(file)}: is no ONNX file ({error}); export again") from None
    graph = model.graph
    held = [*graph.initializer, *(one.t for node in graph.node for one in node.attribute if one.HasField("t"))]
    kinds = {f"{node.domain}.{node.op_type}".removeprefix(".").removeprefix("ai.onnx.") for node in graph.node}
    inner = [one for node in graph.node for one in node.attribute if one.HasField("g") or one.graphs]
    if others := sorted(kinds - OPERATIONS):
        found = f"the operation {printable(others[0])}"
    elif inner or model.functions or graph.sparse_initializer or model.training_info:
        found = "a graph within the graph"
    elif len(graph.node) > NODES:
        found = f"{len(graph.node):,} operations"
    elif any(one.data_location == onnx.TensorProto.EXTERNAL or one.external_data for one in held):
        found = "data in another file"
    elif (size := _largest(model)) > LARGEST:
        found = f"an array of {size:,} numbers"
    else:
        return
    raise CardError(
        f"{printable(file)}: has {found}, which no network exported by lensstudy has; it was not run. Export again, or "
        "use onnxruntime yourself if you trust it"
    )


def _largest(model) -> int:
    """Numbers in the largest array of one pass with one image, as far as shapes can be told in advance."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # shapes that contradict each other, which onnxruntime finds too
        return 0
    shapes = [value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input, *graph.output)]
    return max((math.prod(side.dim_value or 1 for side in shape) for shape in shapes), default=0)


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


class _RotatedCopies(nn.Module):
    """A convolution that holds each of its filters once, and makes the rotated and reflected ones as it runs.

    Between two fields of a group, of `sizes` channels each, a filter is made of blocks, one for each pair of channels.
    To the last bit, most are others with their pixels rotated or reflected. `blocks` `(fields out, fields in, pixels)`
    holds those that are not, one after the other, and `copies` which of its pixels every pixel of every block is.
    """

    blocks: Tensor
    copies: Tensor

    def __init__(self, conv: nn.Conv2d, sizes: tuple[int, int]):
        super().__init__()
        (size_out, size_in), (outputs, inputs, *kernel) = sizes, conv.weight.shape
        self.shape = (outputs // size_out, inputs // size_in, size_out, size_in, *kernel)
        self.bias, self.stride, self.padding = conv.bias, conv.stride, conv.padding
        pixels = torch.arange(math.prod(kernel)).view(kernel)
        orders = [each.rot90(quarters).flatten() for each in (pixels, pixels.T) for quarters in range(4)]
        blocks: list[Tensor] = []
        copies: list[Tensor] = []
        made: dict[bytes, Tensor] = {}
        weight = conv.weight.unflatten(1, (-1, size_in)).unflatten(0, (-1, size_out)).flatten(4)
        for block in weight.permute(1, 3, 0, 2, 4).flatten(0, 1):  # (fields out, fields in, pixels)
            if (own := block.numpy().tobytes()) not in made:
                for order in reversed(orders):
                    made[block[..., order].numpy().tobytes()] = order + len(blocks) * pixels.numel()
                blocks.append(block)
            copies.append(made[own])
        self.register_buffer("blocks", torch.cat(blocks, dim=2))
        self.register_buffer("copies", torch.cat(copies).to(torch.int16 if len(blocks) < 500 else torch.int32))

    def filter(self) -> Tensor:
        """The filter `(C_out, C_in, k, k)`."""
        fields_out, fields_in, size_out, size_in, *kernel = self.shape
        found = self.blocks.index_select(2, self.copies.long()).view(fields_out, fields_in, size_out, -1)
        return found.transpose(1, 2).reshape(fields_out * size_out, fields_in * size_in, *kernel)

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.filter(), self.bias, self.stride, self.padding)


def _each_filter_once(outputs: nn.Module, network: Classifier) -> nn.Module:
    """`outputs` of `network` with the convolutions between fields of one kind replaced by `_RotatedCopies`."""
    from lensstudy.networks.layers import SteerableConv

    for name, conv in network.named_modules():
        if isinstance(conv, SteerableConv) and len(conv._out_blocks) == len(conv._in_blocks) == 1:
            (_, size_out), (_, size_in) = *conv._out_blocks.values(), *conv._in_blocks.values()
            plain: Any = outputs.get_submodule(name)
            outputs.set_submodule(name, _RotatedCopies(plain, (size_out, size_in)))
    return outputs


class _OutputsOfOthers(nn.Module):
    """Logits and features of a network that lensstudy did not build; onnxruntime computes what they share once."""

    def __init__(self, network: Classifier):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(images), self.network.features(images)


class _OutputsOfMean(nn.Module):
    """Logits and features of a `Mean`, from those of its members."""

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = zip(*(member(images) for member in self.members), strict=True)
        return torch.stack(logits).mean(0), torch.cat(features, dim=1)


def _outputs(network: Classifier) -> nn.Module:
    from lensstudy.networks.architectures import Network
    from lensstudy.networks.averaging import Mean
    from lensstudy.networks.folding import folded

    if isinstance(network, Mean):
        return _OutputsOfMean([_outputs(member) for member in network.members])
    return (_Outputs(folded(network)) if isinstance(network, Network) else _OutputsOfOthers(network)).eval()


@torch.no_grad()
def write_onnx(network: Classifier, file: Path) -> Path:
    """Write `network`, as it is now and in evaluation mode, as ONNX for batches of any size. Returns `file`."""
    return _write(_each_filter_once(_outputs(network), network), network, file)


@torch.no_grad()
def _write(outputs: nn.Module, network: Classifier, file: Path) -> Path:
    from lensstudy.networks.layers import AntialiasedPool, SymmetricPool

    outputs = copy.deepcopy(outputs).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    images = torch.zeros(2, network.in_channels, network.image_size, network.image_size)
    channels: dict[nn.Module, int] = {}
    for module in outputs.modules():
        if isinstance(module, SymmetricPool | AntialiasedPool):
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
    return _without_remarks(file)


def _without_remarks(file: Path) -> Path:
    """Remove what torch writes beside a network, which may be more than the network: of every operation the lines of
    code it came from, in folders of whoever exports, and of every array its shape. Returns `file`."""
    import onnx

    model = onnx.load(file)
    graph = model.graph
    for one in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        one.ClearField("metadata_props")
        one.ClearField("doc_string")
    graph.ClearField("value_info")
    onnx.save(model, file)
    return file


def write_int8(network: Classifier, images: Tensor, file: Path) -> Path:
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
    convolutions = [one for one in outputs.modules() if isinstance(one, nn.Conv2d)]
    biases = {one: one.bias for one in convolutions if one.bias is not None}
    missing = {one: torch.zeros_like(bias) for one, bias in biases.items()}

    def note(lost: Tensor, conv: nn.Conv2d, given: tuple[Tensor], _output: Tensor):
        change = F.conv2d(given[0], lost, stride=conv.stride, padding=conv.padding).mean((0, 2, 3))
        missing[conv] += change * len(given[0]) / (8 * len(images))

    hooks = [one.register_forward_hook(partial(note, one.weight - _rounded(one.weight))) for one in biases]
    for part in images.split(CORRECTION_BATCH):
        for reflected in (part, part.flip(3)):
            for quarter in range(4):
                outputs(reflected.rot90(quarter, (2, 3)).contiguous())
    for hook in hooks:
        hook.remove()
    for one, bias in biases.items():
        bias.add_(missing[one])
    return outputs


def _rounded(weight: Tensor) -> Tensor:
    """Filters `(out, in, k, k)` rounded to integers from -127 to 127, with a scale for each of the `out`."""
    scale = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30) / 127
    return (weight / scale).round() * scale
