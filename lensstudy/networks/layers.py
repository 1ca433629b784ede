"""Layers whose channels are fields of a group: steerable convolutions, batch norm over fields, symmetric pooling.

A feature map is a plain tensor `(B, C, H, W)`; its channels are fields of an e2cnn `FieldType`, which says how they
move when the image is rotated. e2cnn supplies field types and the bases of steerable filters; the layers themselves are
plain torch modules, because e2cnn's own keep filters that go stale, share bases between networks, cannot be pickled,
and force a slow memory layout. All run fastest in the channels-last layout and hold nothing but learned weights in
their state.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.groups import SymmetryError, e2cnn, gspace

__all__ = [
    "POOLINGS",
    "AntialiasedPool",
    "ClassicLayers",
    "GatedReLU",
    "GroupPool",
    "IrrepBatchNorm",
    "IrrepLayers",
    "MeanLayers",
    "NormReLU",
    "PlainLayers",
    "RegularLayers",
    "RestrictedLayers",
    "ScalarsAndNorms",
    "SteerableConv",
    "Steps",
    "SymmetricPool",
    "describe_fields",
]


def describe_fields(fields) -> str:
    """An e2cnn field type in words: '8 regular(D4)', '4 trivial(SO2) + 4 irrep_1(SO2)'."""
    counts = Counter("trivial" if field.is_trivial() else field.name for field in fields.representations)
    group = fields.fibergroup.name.replace("(", "").replace(")", "")
    return " + ".join(f"{count} {name}({group})" for name, count in counts.items())


class SteerableConv(nn.Module):
    """A convolution that commutes with the group: `(B, C_in, H, W)` to `(B, C_out, H, W)`, zero padding, no bias.

    Its filter is a learned combination of e2cnn's basis of steerable kernels, `filter = sum_b weight_b basis_b`, built
    anew in each pass, so it is never stale. `weight` has the order of `e2cnn.nn.R2Conv.weights` and e2cnn's
    generalised He initialisation (Weiler and Cesa 2019); `options` go to R2Conv (`frequencies_cutoff`, `rings`, ...).
    Fields of one kind must be neighbours in `in_fields` and `out_fields`.
    """

    def __init__(self, in_fields, out_fields, kernel_size: int, **options):
        super().__init__()
        self.fields, self.kernel_size = describe_fields(out_fields), kernel_size
        self.in_channels, self.out_channels = in_fields.size, out_fields.size
        conv = e2cnn.nn.R2Conv(in_fields, out_fields, kernel_size, bias=False, initialize=False, **options)
        expansion = conv.basisexpansion
        counts = Counter(field.name for field in in_fields.representations)
        self._in_blocks = {field.name: (counts[field.name], field.size) for field in in_fields.representations}
        counts = Counter(field.name for field in out_fields.representations)
        self._out_blocks = {field.name: (counts[field.name], field.size) for field in out_fields.representations}
        self._ranges = dict(expansion._weights_ranges)
        for number, pair in enumerate(self._ranges):
            basis = getattr(expansion, f"block_expansion_{pair}").sampled_basis  # (basis, out, in, pixels)
            self.register_buffer(f"basis_{number}", basis.transpose(2, 3).contiguous(), persistent=False)
        self.weight = nn.Parameter(_he_deviations(expansion, self._in_blocks) * torch.randn(expansion.dimension()))

    def filter(self) -> Tensor:
        """The filter `(C_out, C_in, k, k)`, channels-last in memory."""
        # In the precision of its weights under autocast too: rotated copies of a filter are then rounded alike, once.
        with torch.autocast(self.weight.device.type, enabled=False):
            blocks = {pair: self._block(pair, getattr(self, f"basis_{n}")) for n, pair in enumerate(self._ranges)}
        rows = []
        for out_name, (out_count, out_size) in self._out_blocks.items():
            row = []
            for in_name, (in_count, in_size) in self._in_blocks.items():
                empty = self.weight.new_zeros(()).expand(out_count * out_size, self.kernel_size**2, in_count * in_size)
                row.append(blocks.get((in_name, out_name), empty))
            rows.append(torch.cat(row, dim=2) if len(row) > 1 else row[0])
        rows = torch.cat(rows) if len(rows) > 1 else rows[0]
        return rows.view(self.out_channels, self.kernel_size, self.kernel_size, -1).permute(0, 3, 1, 2)

    def _block(self, pair, basis: Tensor) -> Tensor:
        """The part of the filter between two kinds of fields, `(C_out, pixels, C_in)`."""
        (in_count, in_size), (out_count, out_size) = self._in_blocks[pair[0]], self._out_blocks[pair[1]]
        coefficients = self.weight[slice(*self._ranges[pair])].view(out_count * in_count, -1)
        block = (coefficients @ basis.flatten(1)).view(out_count, in_count, out_size, self.kernel_size**2, in_size)
        return block.permute(0, 2, 3, 1, 4).reshape(out_count * out_size, self.kernel_size**2, in_count * in_size)

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.filter(), padding=self.kernel_size // 2)

    def extra_repr(self) -> str:
        return f"{self.in_channels} channels -> {self.fields}, kernel_size={self.kernel_size}"


def _he_deviations(expansion, in_blocks: dict) -> Tensor:
    """e2cnn's generalised He initialisation: the standard deviation of each weight, without its slow loop.

    For an output irrep fed by n kinds of irreps, each of them through m weights, it is 1 / sqrt(n m).
    """
    ranges = expansion._weights_ranges
    attributes = {pair: list(getattr(expansion, f"block_expansion_{pair}").get_basis_info()) for pair in ranges}
    weights = defaultdict(Counter)  # output irrep -> input irrep -> number of weights between them
    for (in_name, out_name), elements in attributes.items():
        for element in elements:
            weights[out_name, element["out_irrep_idx"]][element["in_irrep"]] += in_blocks[in_name][0]
    deviations = torch.empty(expansion.dimension())
    for pair, (start, stop) in ranges.items():
        targets = [(weights[pair[1], element["out_irrep_idx"]], element["in_irrep"]) for element in attributes[pair]]
        block = torch.tensor([(len(counts) * counts[irrep]) ** -0.5 for counts, irrep in targets])
        deviations[start:stop] = block.repeat((stop - start) // len(block))
    return deviations


class Steps(nn.Sequential):
    """Layers one after the other; batch norm over fields is fused with the ReLU and the pooling behind it."""

    def forward(self, features: Tensor) -> Tensor:
        layers = [*self, None, None]
        while layers[0] is not None:
            layer, after, later = layers[:3]
            if self.training and isinstance(layer, FieldBatchNorm) and isinstance(after, nn.ReLU):
                pool = later if isinstance(later, SymmetricPool) else None
                features = layer(features, relu=True, pool=pool)
                layers = layers[3 if pool else 2 :]
            else:
                features, layers = layer(features), layers[1:]
        return features


class SymmetricPool(nn.Module):
    """Average pooling that halves a map of `size` pixels and commutes exactly with rotations by 90 degrees.

    Even sizes take 2x2 windows; odd ones 3x3 windows with stride 2 and a pixel of padding, so that first and last row
    are treated alike (Mohamed et al. 2020, "A data and compute efficient design for limited-resources deep learning").
    """

    def __init__(self, size: int):
        super().__init__()
        self.kernel_size, self.padding = (3, 1) if size % 2 else (2, 0)
        self.size = (size + 1) // 2

    def forward(self, features: Tensor) -> Tensor:
        return F.avg_pool2d(features, self.kernel_size, 2, self.padding)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride=2, padding={self.padding}"


class AntialiasedPool(nn.Module):
    """A Gaussian blur of which every second pixel is kept (Zhang 2019, "Making convolutional networks shift-invariant
    again"): halves a map of `size` pixels, commutes exactly with rotations by 90 degrees, and aliases less between
    them.

    Odd sizes take windows of 5x5 pixels around a pixel, as `e2cnn.nn.PointwiseAvgPoolAntialiased` always does; even
    ones 4x4 windows around the corner where four pixels meet. `sigma` is in pixels.
    """

    blur: Tensor

    def __init__(self, size: int, sigma: float = 0.66):
        super().__init__()
        self.kernel_size, self.padding = (5, 2) if size % 2 else (4, 1)
        self.size = (size + 1) // 2
        offsets = torch.arange(self.kernel_size) - (self.kernel_size - 1) / 2
        profile = torch.exp(-offsets.square() / (2 * sigma**2))
        blur = torch.outer(profile, profile)
        self.register_buffer("blur", blur / blur.sum(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        channels = features.shape[1]
        blur = self.blur.expand(channels, 1, -1, -1)
        return F.conv2d(features, blur, stride=2, padding=self.padding, groups=channels)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride=2, padding={self.padding}"


# By the name a study gives them.
POOLINGS: dict[str, type[SymmetricPool | AntialiasedPool]] = {"average": SymmetricPool, "antialiased": AntialiasedPool}


class GroupPool(nn.Module):
    """The largest value of each regular field over its group, or the `mean`: `(B, F*|G|, H, W)` to `(B, F, H, W)`,
    invariant."""

    def __init__(self, field_size: int, mean: bool = False):
        super().__init__()
        self.field_size, self.mean = field_size, mean

    def forward(self, features: Tensor) -> Tensor:
        fields = features.unflatten(1, (-1, self.field_size))
        return fields.mean(2) if self.mean else fields.amax(2)

    def extra_repr(self) -> str:
        return f"{self.field_size} channels a field, {'mean' if self.mean else 'maximum'}"


# Irreducible fields ---------------------------------------------------------------------------------------------------
#
# A map of irreducible fields of SO(2) or O(2) holds its scalars first, then its vectors: fields of two channels that
# rotate k times as fast as the image. Whatever acts on a vector may only use its length.


def _lengths(vectors: Tensor) -> Tensor:
    """`(B, 2V, H, W)` to `(B, V, H, W)`; never quite zero, where the gradient of a length does not exist."""
    vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))  # a square overflows in half precision
    return (vectors.unflatten(1, (-1, 2)).square().sum(2) + 1e-8).sqrt()


class IrrepBatchNorm(nn.Module):
    """Batch norm of scalars and vectors: vectors keep their direction and are divided by the root mean square of their
    components, since the mean of a rotating quantity is zero."""

    running_var: Tensor

    def __init__(self, scalars: int, vectors: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.scalars = nn.BatchNorm2d(scalars, eps, momentum)
        self.weight = nn.Parameter(torch.ones(vectors))
        self.register_buffer("running_var", torch.ones(vectors))

    def forward(self, features: Tensor) -> Tensor:
        scalars, vectors = features.tensor_split([self.scalars.num_features], dim=1)
        variance = self.running_var
        if self.training:
            variance = vectors.to(self.weight.dtype).square().mean((0, 2, 3)).view(-1, 2).mean(1)
            with torch.no_grad():
                self.running_var.lerp_(variance, self.momentum)
        scale = (self.weight * torch.rsqrt(variance + self.eps)).repeat_interleave(2)
        return torch.cat([self.scalars(scalars), vectors * scale.view(1, -1, 1, 1)], dim=1)


class NormReLU(nn.Module):
    """ReLU of scalars; a vector v is shortened to `v relu(|v| - threshold) / |v|` (Worrall et al. 2017)."""

    def __init__(self, scalars: int, vectors: int):
        super().__init__()
        self.scalars = scalars
        self.threshold = nn.Parameter(torch.full((vectors, 1, 1), 0.5))  # batch norm makes lengths of about one

    def forward(self, features: Tensor) -> Tensor:
        scalars, vectors = features.tensor_split([self.scalars], dim=1)
        length = _lengths(vectors)
        kept = torch.relu(length - self.threshold) / length
        return torch.cat([torch.relu(scalars), vectors * kept.repeat_interleave(2, dim=1)], dim=1)


class GatedReLU(nn.Module):
    """ReLU of scalars; a vector is multiplied by the sigmoid of a scalar of its own, its gate (Weiler et al. 2018).

    Takes scalars, gates, vectors and returns scalars, vectors.
    """

    def __init__(self, scalars: int, vectors: int):
        super().__init__()
        self.scalars, self.vectors = scalars, vectors

    def forward(self, features: Tensor) -> Tensor:
        scalars, gates, vectors = features.tensor_split([self.scalars, self.scalars + self.vectors], dim=1)
        return torch.cat([torch.relu(scalars), vectors * torch.sigmoid(gates).repeat_interleave(2, dim=1)], dim=1)


class ScalarsAndNorms(nn.Module):
    """What does not change when the image is rotated: scalars and the lengths of vectors, `(B, S + V, H, W)`."""

    def __init__(self, scalars: int):
        super().__init__()
        self.scalars = scalars

    def forward(self, features: Tensor) -> Tensor:
        scalars, vectors = features.tensor_split([self.scalars], dim=1)
        return torch.cat([scalars, _lengths(vectors)], dim=1)


# Sets of layers: what gives an architecture its symmetry --------------------------------------------------------------


class PlainLayers:
    """Layers without symmetry. Fields are numbers of channels."""

    group = ""

    def image(self, channels: int) -> int:
        return channels

    def fields(self, channels: int) -> int:
        return channels

    def conv(self, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return conv

    def norm(self, fields: int) -> nn.Module:
        return nn.BatchNorm2d(fields)

    def activation(self, fields: int) -> tuple[nn.Module, int]:
        """The nonlinearity, and the fields that it leaves."""
        return nn.ReLU(inplace=True), fields

    def invariant(self, fields: int) -> tuple[nn.Module, int]:
        """The map to invariant features, and their number."""
        return nn.Identity(), fields

    def after_pooling(self, fields, level: int) -> tuple[PlainLayers, int]:
        """The layers to go on with after the pooling numbered `level`, and their view of `fields`."""
        return self, fields


class RegularLayers(PlainLayers):
    """Layers of regular fields of C_N or D_N: each field is |G| channels, one for each element of the group.

    `filters` are options of e2cnn's basis, see `SteerableConv`.
    """

    def __init__(self, group: str, **filters):
        self.space, self.filters = gspace(group), filters
        self.order = self.space.regular_repr.size
        self.group = group if self.order > 1 else ""  # C1 is no symmetry

    def image(self, channels: int):
        return e2cnn.nn.FieldType(self.space, [self.space.trivial_repr] * channels)

    def fields(self, channels: int):
        count, left = divmod(channels, self.order)
        if left or not count:
            raise SymmetryError(
                f"{channels} channels do not divide into regular fields of {self.group}, which have {self.order} "
                f"channels each; use {max(1, count) * self.order} or {(count + 1) * self.order}"
            )
        return e2cnn.nn.FieldType(self.space, [self.space.regular_repr] * count)

    def conv(self, inputs, outputs, kernel_size: int) -> nn.Module:  # type: ignore[override]  # a stride breaks symmetry
        return SteerableConv(inputs, outputs, kernel_size, **self.filters)

    def norm(self, fields) -> nn.Module:
        return FieldBatchNorm(fields.size, fields.representations[0].size)

    def invariant(self, fields) -> tuple[nn.Module, int]:
        return GroupPool(self.order), fields.size // self.order


class ClassicLayers(RegularLayers):
    """The group convolutions of Cohen and Welling (2016): 3x3 filters that are free but for being moved by the group.

    In e2cnn's terms, a basis that reaches every pixel: rings through centre, edges and corners, and all frequencies
    that four pixels on a ring tell apart (-2 and 2 are the same there).
    """

    def __init__(self, group: str):
        every_pixel = {"rings": [0.0, 1.0, math.sqrt(2)], "sigma": [0.005, 0.05, 0.05]}
        frequencies = {"frequencies_cutoff": _two_but_for_the_centre, "basis_filter": _not_minus_two}
        super().__init__(group, **every_pixel, **frequencies)


def _two_but_for_the_centre(radius: float) -> int:
    return 2 if radius else 0


def _not_minus_two(element: dict) -> bool:
    return element["frequency"] != -2


class RestrictedLayers(RegularLayers):
    """Regular fields of D_N that are seen as fields of the smaller D4 after the second pooling, where maps are too
    coarse to tell finer rotations apart."""

    def after_pooling(self, fields, level: int):
        if level != 2:
            return self, fields
        return RegularLayers("D4"), fields.restrict((0, 4))


class MeanLayers(RegularLayers):
    """Regular fields whose invariant features are means over the group: what follows the last nonlinearity
    is then linear, as in a plain network, and all channels of a field learn from every image."""

    def invariant(self, fields) -> tuple[nn.Module, int]:
        return GroupPool(self.order, mean=True), fields.size // self.order


class IrrepLayers(PlainLayers):
    """Layers of irreducible fields of SO(2) or O(2): scalars, and vectors rotating once or twice as fast as the image.

    Vectors pass `NormReLU`, or `GatedReLU` if `gated`; then some scalars of each convolution serve as gates.
    """

    def __init__(self, group: str, gated: bool):
        self.group, self.gated, self.space = group, gated, gspace(group)
        self.irreps = [self.space.irrep(*((1, k) if group == "O2" else (k,))) for k in (1, 2)]
        self.scalars, self.vectors = 4, (2 if gated else 3)  # of 16 channels; vectors once for each frequency

    def image(self, channels: int):
        return e2cnn.nn.FieldType(self.space, [self.space.trivial_repr] * channels)

    def _fields(self, scalars: int, vectors: int):
        irreps = [irrep for irrep in self.irreps for _ in range(vectors)]
        return e2cnn.nn.FieldType(self.space, [self.space.trivial_repr] * scalars + irreps)

    def fields(self, channels: int):
        times, left = divmod(channels, 16)
        if left or not times:
            raise SymmetryError(
                f"{channels} channels cannot be shared between scalars and vectors; use a multiple of 16"
            )
        gates = 2 * self.vectors if self.gated else 0
        return self._fields(times * (self.scalars + gates), times * self.vectors)

    def _counts(self, fields) -> tuple[int, int]:
        """Scalars (gates among them) and vectors of both frequencies."""
        scalars = sum(irrep.is_trivial() for irrep in fields.representations)
        return scalars, len(fields) - scalars

    def conv(self, inputs, outputs, kernel_size: int) -> nn.Module:  # type: ignore[override]  # a stride breaks symmetry
        return SteerableConv(inputs, outputs, kernel_size)

    def norm(self, fields) -> nn.Module:
        return IrrepBatchNorm(*self._counts(fields))

    def activation(self, fields):
        scalars, vectors = self._counts(fields)
        if self.gated:
            scalars -= vectors
        return (GatedReLU if self.gated else NormReLU)(scalars, vectors), self._fields(scalars, vectors // 2)

    def invariant(self, fields) -> tuple[nn.Module, int]:
        return ScalarsAndNorms(self._counts(fields)[0]), len(fields)
