"""Each layer against e2cnn's own, and under the group it claims."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import nn

from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.groups import e2cnn, gspace, rotate
from lensstudy.networks.layers import (
    POOLINGS,
    AntialiasedPool,
    ClassicLayers,
    GatedReLU,
    GroupPool,
    IrrepBatchNorm,
    NormReLU,
    ScalarsAndNorms,
    SteerableConv,
    Steps,
    SymmetricPool,
    describe_fields,
)
from lensstudy.networks.registry import build_network

enn = e2cnn.nn


def regular(group, count):
    space = gspace(group)
    return enn.FieldType(space, [space.regular_repr] * count)


def mixed(group):
    space = gspace(group)
    return enn.FieldType(space, [space.trivial_repr] * 3 + [space.regular_repr] * 2)


@pytest.mark.parametrize("group", ["C4", "C8", "D4", "D8"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_steerable_filter_is_that_of_e2cnn(group, kernel_size):
    for inputs, outputs in [(mixed(group), regular(group, 3)), (regular(group, 2), mixed(group))]:
        conv, reference = SteerableConv(inputs, outputs, kernel_size), enn.R2Conv(inputs, outputs, kernel_size)
        assert conv.weight.shape == reference.weights.shape
        reference.weights.data = conv.weight.data
        expected, _ = reference.expand_parameters()
        assert torch.allclose(conv.filter(), expected, atol=1e-6)
        assert conv.filter().is_contiguous(memory_format=torch.channels_last)


def test_initial_weights_have_the_deviations_of_e2cnn():
    inputs, outputs = mixed("D4"), regular("D4", 2)
    conv = enn.R2Conv(inputs, outputs, 5, initialize=False)
    expected = e2cnn.nn.init._generalized_he_init_variances(conv.basisexpansion)  # deviations, despite the name
    torch.manual_seed(0)
    weight = SteerableConv(inputs, outputs, 5).weight
    torch.manual_seed(0)
    assert torch.allclose(weight, expected * torch.randn(len(expected)))


def test_filter_follows_its_weights_in_every_mode():
    conv = SteerableConv(regular("C4", 1), regular("C4", 1), 3).eval()
    before = conv.filter()
    conv.weight.data.mul_(2)
    assert torch.allclose(conv.filter(), 2 * before)
    assert set(conv.state_dict()) == {"weight"}


def test_precision_and_copies_of_one_layer_leave_others_alone():
    first, second = (SteerableConv(regular("D4", 1), regular("D4", 1), 3) for _ in range(2))
    copied = pickle.loads(pickle.dumps(copy.deepcopy(first)))
    assert torch.equal(copied.filter(), first.filter())
    assert first.double().filter().dtype == torch.float64 and second.filter().dtype == torch.float32


@pytest.mark.parametrize("channels_last", [True, False])
def test_field_batch_norm_is_that_of_e2cnn(channels_last):
    fields = regular("D4", 3)
    ours, reference = FieldBatchNorm(fields.size, 8), enn.InnerBatchNorm(fields)
    inner = getattr(reference, "batch_norm_[8]")
    for parameter, other in [(ours.weight, inner.weight), (ours.bias, inner.bias)]:
        parameter.data = torch.randn(3)
        other.data = parameter.data.clone()
    for step in range(3):
        features = torch.randn(4, fields.size, 6, 6) * 3 + 20 + torch.arange(fields.size).view(1, -1, 1, 1)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        x, y = (features.clone(memory_format=layout).requires_grad_() for _ in range(2))
        weights = torch.randn(features.shape)
        a, b = ours(x), reference(enn.GeometricTensor(y, fields)).tensor
        assert torch.allclose(a, b, atol=2e-5), step
        (a * weights).sum().backward()
        (b * weights).sum().backward()
        assert torch.allclose(x.grad, y.grad, atol=2e-5)
        assert torch.allclose(ours.weight.grad, inner.weight.grad, atol=1e-4, rtol=1e-4)
        assert torch.allclose(ours.bias.grad, inner.bias.grad, atol=1e-4, rtol=1e-4)
    assert torch.allclose(ours.running_mean, inner.running_mean, rtol=1e-5)
    assert torch.allclose(ours.running_var, inner.running_var, rtol=1e-5)
    ours.eval(), reference.eval()
    assert torch.allclose(ours(features), reference(enn.GeometricTensor(features, fields)).tensor, atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("pooled", [True, False])
def test_norm_relu_and_pooling_in_one_go_are_those_one_by_one(size, pooled):
    together, single = FieldBatchNorm(8, 4), FieldBatchNorm(8, 4)
    for norm in (together, single):
        norm.weight.data, norm.bias.data = torch.tensor([1.5, -0.5]), torch.tensor([0.3, -0.2])
    pool = SymmetricPool(size) if pooled else nn.Identity()
    for _ in range(2):  # twice, since the memory between is used again
        features = (2 * torch.randn(3, 8, size, size) + 1).contiguous(memory_format=torch.channels_last)
        x, y = features.clone().requires_grad_(), features.clone().requires_grad_()
        one, other = together(x, relu=True, pool=pool if pooled else None), pool(torch.relu(single(y)))
        weights = torch.randn(one.shape)
        (one * weights).sum().backward()
        (other * weights).sum().backward()
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.allclose(x.grad, y.grad, atol=1e-5)
    assert torch.allclose(together.weight.grad, single.weight.grad, atol=1e-4)
    assert torch.allclose(together.bias.grad, single.bias.grad, atol=1e-4)


@pytest.mark.parametrize("size", [6, 7])
def test_norm_relu_and_pooling_in_bfloat16_are_rounded_and_nothing_else(size):
    """Against torch's own batch norm in double precision, on maps whose mean is three times their deviation."""
    torch.manual_seed(0)
    maps = (torch.randn(16, 16, size, size) + 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
    pool, shape = SymmetricPool(size), (16, 16, (size + 1) // 2, (size + 1) // 2)
    direction, seen = torch.randn(shape).to(torch.bfloat16), {}
    for precision in (torch.float64, torch.bfloat16):
        norm = FieldBatchNorm(16, 8)
        norm.weight.data, norm.bias.data = torch.tensor([0.7, 1.3]), torch.tensor([0.2, -0.1])
        norm = norm.double() if precision == torch.float64 else norm
        features = maps.to(precision).requires_grad_()
        if precision == torch.float64:
            output = pool(torch.relu(norm._one_by_one(features)))
        else:
            output = norm(features, relu=True, pool=pool)
        assert output.dtype == precision
        output.backward(direction.to(precision))
        by_weights = (norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var)
        seen[precision] = [value.detach().double() for value in (output, features.grad, *by_weights)]
    for number, (value, expected) in enumerate(zip(seen[torch.bfloat16], seen[torch.float64], strict=True)):
        error = (value - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        assert error < (1e-6 if number >= 4 else 2**-7), number


@pytest.mark.parametrize("name", ["d4-steerable-cnn", "so2-harmonic", "o2-gated", "p4m-cnn", "d8-restricted"])
def test_networks_train_in_mixed_precision(name):
    """Gradients as in single precision within a few roundings, and filters that autocast does not touch."""
    images, labels = torch.randn(8, 1, 33, 33, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3
    gradients = []
    for mixed in (False, True):
        network = build_network(name, 33, 3, width=0.25, seed=1)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            nn.functional.cross_entropy(network(images).float(), labels).backward()
        filters = [layer.filter() for layer in network.modules() if isinstance(layer, SteerableConv)]
        with torch.autocast("cpu", torch.bfloat16):
            again = [layer.filter() for layer in network.modules() if isinstance(layer, SteerableConv)]
        assert all(torch.equal(one, other) for one, other in zip(filters, again, strict=True))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("size", [4, 5])
def test_gradient_of_norm_relu_and_pooling(size):
    norm, pool = FieldBatchNorm(6, 3).double(), SymmetricPool(size)
    norm.weight.data.uniform_(0.5, 2)
    features = torch.randn(2, 6, size, size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    assert torch.autograd.gradcheck(norm, features)
    assert torch.autograd.gradcheck(lambda features: norm(features, relu=True, pool=pool), features)


def test_steps_in_one_go_are_those_one_by_one():
    def steps():
        torch.manual_seed(0)
        norms = [FieldBatchNorm(8, 4) for _ in range(3)]
        return Steps(norms[0], nn.ReLU(), SymmetricPool(8), norms[1], nn.ReLU(), norms[2])

    features = torch.randn(2, 8, 8, 8)  # in this layout the layers run one by one
    assert torch.allclose(steps()(features), steps()(features.contiguous(memory_format=torch.channels_last)), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("size", [12, 13])
def test_pooling_commutes_with_the_square(size, pooling):
    pool, features = POOLINGS[pooling](size), torch.randn(2, 3, size, size)
    assert pool.size == pool(features).shape[-1]
    for degrees in (90, 180, 270):
        rotated = pool(rotate(features, degrees, reflect=True))
        assert torch.allclose(rotated, rotate(pool(features), degrees, reflect=True), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.6, 0.66])
def test_antialiased_pooling_is_that_of_e2cnn(sigma):
    """On odd maps, where e2cnn's windows are symmetric."""
    fields, features = regular("D4", 2), torch.randn(2, 16, 13, 13)
    expected = enn.PointwiseAvgPoolAntialiased(fields, sigma, 2)(enn.GeometricTensor(features, fields)).tensor
    assert torch.allclose(AntialiasedPool(13, sigma)(features), expected, atol=1e-6)


def test_antialiased_pooling_damps_what_it_cannot_show():
    """A stripe a pixel wide is lost on half the pixels; a plain choice of every second pixel would show it as sky."""
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    assert AntialiasedPool(16)(stripes)[..., 1:-1, 1:-1].abs().max() < 1e-6
    assert AntialiasedPool(16)(torch.ones(1, 1, 16, 16))[..., 1:-1, 1:-1].allclose(torch.ones(()))
    assert not AntialiasedPool(16).state_dict()


def test_group_pooling_is_that_of_e2cnn():
    fields, features = regular("D4", 3), torch.randn(2, 24, 5, 5)
    expected = enn.GroupPooling(fields)(enn.GeometricTensor(features, fields)).tensor
    assert torch.equal(GroupPool(8)(features), expected)


def test_the_mean_over_the_group_is_the_projection_on_what_the_group_leaves_alone():
    fields, features = regular("D4", 3), torch.randn(2, 24, 5, 5)
    motions = torch.stack([torch.as_tensor(fields.representation(g)).float() for g in fields.fibergroup.elements])
    projected = torch.einsum("gab,nbxy->naxy", motions, features) / 8
    assert torch.allclose(GroupPool(8, mean=True)(features), projected[:, ::8], atol=1e-6)


class Typed(enn.EquivariantModule):
    """One of our layers with its field types, as e2cnn's own check of equivariance wants it."""

    def __init__(self, layer: nn.Module, in_type, out_type):
        super().__init__()
        self.layer, self.in_type, self.out_type = layer, in_type, out_type

    def forward(self, features):
        return enn.GeometricTensor(self.layer(features.tensor), self.out_type)

    def evaluate_output_shape(self, input_shape):
        return input_shape[0], self.out_type.size, *input_shape[2:]


@pytest.mark.parametrize("group", ["C4", "D4"])
def test_equivariance_by_the_check_of_e2cnn(group, capsys):
    fields, order = regular(group, 2), regular(group, 1).size
    scalars = enn.FieldType(fields.gspace, [fields.gspace.trivial_repr] * 2)
    layers = [
        Typed(SteerableConv(scalars, fields, 5), scalars, fields),
        Typed(SteerableConv(fields, fields, 3), fields, fields),
        Typed(SteerableConv(fields, fields, 1), fields, fields),
        Typed(ClassicLayers(group).conv(fields, fields, 3), fields, fields),
        Typed(FieldBatchNorm(fields.size, order), fields, fields),
        Typed(nn.ReLU(), fields, fields),
        *(Typed(pool(10), fields, fields) for pool in POOLINGS.values()),  # the check takes maps of 10 pixels
        Typed(GroupPool(order), fields, scalars),
    ]
    for layer in layers:
        errors = layer.check_equivariance(atol=2e-5)
        assert len(errors) == order


@pytest.mark.parametrize("group", ["C8", "D8"])
def test_finer_groups_by_the_check_of_e2cnn(group):
    """On the grid only rotations by 90 degrees are exact, so the check sees the fields as those of C4 or D4."""
    fields, part = regular(group, 2), (0, 4) if group == "D8" else 4
    image = enn.FieldType(fields.gspace, [fields.gspace.trivial_repr])
    order = fields.size // 2
    scalars = enn.FieldType(fields.gspace, [fields.gspace.trivial_repr] * 2)
    layers = [
        Typed(SteerableConv(image, fields, 5), image.restrict(part), fields.restrict(part)),
        Typed(SteerableConv(fields, fields, 3), fields.restrict(part), fields.restrict(part)),
        Typed(FieldBatchNorm(fields.size, order), fields.restrict(part), fields.restrict(part)),
        Typed(GroupPool(order), fields.restrict(part), scalars.restrict(part)),
    ]
    for layer in layers:
        assert len(layer.check_equivariance(atol=2e-5)) == order // 2


@pytest.mark.parametrize("group", ["SO2", "O2"])
def test_irreducible_layers_by_the_check_of_e2cnn(group):
    """On the grid only rotations by 90 degrees are exact, so the check sees the fields as those of C4 or D4."""
    space = gspace(group)
    vector = [space.irrep(*((1, k) if group == "O2" else (k,))) for k in (1, 2)]
    scalars = [space.trivial_repr] * 4

    def fields(*representations):
        return enn.FieldType(space, list(representations)).restrict((0.0, 4) if group == "O2" else 4)

    whole, gated, invariants = fields(*scalars, *vector), fields(*scalars[:2], *vector), fields(*scalars, *scalars[:2])
    space_fields = enn.FieldType(space, [*scalars, *vector])
    image = enn.FieldType(space, [space.trivial_repr])
    layers = [
        Typed(SteerableConv(image, space_fields, 5), fields(space.trivial_repr), whole),
        Typed(SteerableConv(space_fields, space_fields, 3), whole, whole),
        Typed(IrrepBatchNorm(4, 2), whole, whole),
        Typed(NormReLU(4, 2), whole, whole),
        Typed(GatedReLU(2, 2), whole, gated),
        Typed(ScalarsAndNorms(4), whole, invariants),
    ]
    for layer in layers:
        assert len(layer.check_equivariance(atol=2e-5)) == (8 if group == "O2" else 4)


def test_irreducible_batch_norm_makes_unit_lengths_and_remembers_them():
    norm, features = IrrepBatchNorm(2, 2, momentum=1.0), 5 * torch.randn(8, 6, 9, 9) + 3
    normed = norm(features)
    assert torch.allclose(normed[:, :2].mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(normed[:, 2:].square().mean((0, 2, 3)).view(2, 2).mean(1), torch.ones(2), atol=1e-4)
    assert torch.allclose(norm.eval()(features), normed, atol=1e-2)


def elements(group):
    """C4 or D4 as e2cnn orders it, each element as the matrix that acts on (x, y): reflection first, then rotation."""
    quarter, mirror = torch.tensor([[0, -1], [1, 0]]), torch.tensor([[-1, 0], [0, 1]])
    return [
        (reflected, turns, torch.linalg.matrix_power(quarter, turns) @ (mirror if reflected else torch.eye(2).long()))
        for reflected in ((False, True) if group == "D4" else (False,))
        for turns in range(4)
    ]


def group_convolution(features, filters, group):
    """Cohen and Welling (2016) in plain torch: `out(x, g) = sum_(y, h) filter(g^-1 (y - x), g^-1 h) features(y, h)`.

    `filters` are `(F_out, F_in, |G|, k, k)`, or `(F_out, F_in, 1, k, k)` for an image without orientations.
    """
    group = elements(group)
    moved = []
    for reflected, turns, matrix in group:
        copy_ = torch.rot90(filters.flip(-1) if reflected else filters, turns, (-2, -1))
        if filters.shape[2] > 1:  # position h holds what was at g^-1 h
            products = [torch.linalg.inv(matrix.double()) @ other.double() for *_, other in group]
            index = [next(i for i, (*_, e) in enumerate(group) if torch.allclose(e.double(), p)) for p in products]
            copy_ = copy_[:, :, index]
        moved.append(copy_.flatten(1, 2))
    weight = torch.stack(moved, dim=1).flatten(0, 1)
    return nn.functional.conv2d(features, weight, padding=filters.shape[-1] // 2)


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("kind", ["steerable", "classic"])
def test_regular_layers_are_group_convolutions(group, kernel_size, kind):
    if kind == "classic" and kernel_size == 5:
        kernel_size = 1
    layers = ClassicLayers(group) if kind == "classic" else None
    options = layers.filters if kind == "classic" and kernel_size == 3 else {}
    order = regular(group, 1).size
    for inputs in (regular(group, 2), enn.FieldType(gspace(group), [gspace(group).trivial_repr] * 2)):
        conv, features = (
            SteerableConv(inputs, regular(group, 3), kernel_size, **options),
            torch.randn(2, inputs.size, 9, 9),
        )
        filters = conv.filter().unflatten(0, (3, order))[:, 0].unflatten(1, (2, -1))  # the copies of the unit element
        assert torch.allclose(conv(features), group_convolution(features, filters, group), atol=1e-5)


@pytest.mark.parametrize(("group", "order"), [("C4", 4), ("D4", 8)])
def test_classic_filters_reach_every_pixel_freely(group, order):
    """As in a group convolution, 9 |G| free numbers between two regular fields, in a well-conditioned basis."""
    conv = SteerableConv(regular(group, 1), regular(group, 1), 3, **ClassicLayers(group).filters)
    assert conv.weight.numel() == 9 * order
    singular = torch.linalg.svdvals(conv.basis_0.flatten(1))
    assert singular[0] / singular[-1] < 1.5


def gradient_check():
    """The gradients of a steerable layer in float64, by images and by weights, against finite differences."""
    conv = SteerableConv(mixed("D4"), regular("D4", 1), 3).double()
    features = torch.randn(1, conv.in_channels, 4, 4, dtype=torch.float64, requires_grad=True)

    def convolution(features, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (features,))

    return torch.autograd.gradcheck(convolution, (features, conv.weight.detach().requires_grad_()))


def test_gradient_of_a_steerable_layer():
    """In a process of its own, since e2cnn shares what it knows of bases between all networks of a process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        assert process.submit(gradient_check).result()


def test_fields_in_words():
    assert describe_fields(mixed("D4")) == "3 trivial(D4) + 2 regular(D4)"
