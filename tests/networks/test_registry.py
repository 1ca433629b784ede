"""Every network of the registry: invariant where it says so, small on disk, the same after loading."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from lensstudy.networks.baselines import same_filters
from lensstudy.networks.description import count_parameters, multiply_accumulates
from lensstudy.networks.groups import SymmetryError, invariance_error
from lensstudy.networks.registry import (
    build_network,
    check_name,
    load_weights,
    network_names,
    plain_baseline,
    recalibrate_batch_norm,
    save_weights,
)
from tests.benchmarks.networks import StraightforwardNetwork, blobs, digits_error

EQUIVARIANT = [name for name in network_names() if not name.startswith(("plain", "resnet", "c1-"))]


SIZES = [33, 64, 97, 100, 101, 129, 150]


def reflects(network):
    return network.group.startswith(("D", "O"))


def is_invariant(network, images):
    errors = [invariance_error(network, images, degrees) for degrees in (90, 180)]
    reflected = invariance_error(network, images, 90, reflect=True)
    return max(errors) < 1e-5 and (reflected < 1e-5 if reflects(network) else reflected > 1e-3)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(name, size, marks=[pytest.mark.slow] * ((row + column) % 2))
        for row, name in enumerate(name for name in EQUIVARIANT if "wide" not in name)  # those differ in channels only
        for column, size in enumerate(SIZES)
    ],
)
def test_equivariant_networks_are_invariant_at_every_size(name, size):
    images = blobs(4, size)
    assert is_invariant(recalibrate_batch_norm(build_network(name, size, 3, width=0.25), images), images)


@pytest.mark.parametrize(("name", "size"), list(zip(EQUIVARIANT, itertools.cycle(SIZES), strict=False)))
def test_equivariant_networks_stay_invariant_in_training(name, size):
    """Every network, and every size for some of them; `tests.benchmarks.networks` has all networks at all sizes."""
    network, images = build_network(name, size, 3, width=0.25), blobs(6, size)
    recalibrate_batch_norm(network, images)
    for layer in network.modules():
        if hasattr(layer, "momentum"):
            layer.momentum = 0.5  # so that the averages of batch norm keep up with a few large steps
    before = network.eval()(images)
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=0.01)
    for _ in range(5):
        loss = F.cross_entropy(network(images), torch.arange(6) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert is_invariant(network, images) and not torch.allclose(network.eval()(images), before, atol=0.1)


def test_plain_networks_are_not():
    for name in ("plain-cnn", "plain-resnet", "resnet18"):
        network, images = build_network(name, 64, 3, width=0.25), blobs(6, 64)
        assert invariance_error(recalibrate_batch_norm(network, images), images, 90) > 1e-2


@pytest.mark.parametrize("name", network_names())
def test_every_network_predicts_and_learns(name):
    network = build_network(name, 32, 4, in_channels=2, width=0.25)
    logits = network(torch.randn(2, 2, 32, 32))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_seed_decides_the_weights_and_leaves_the_global_one_alone():
    torch.manual_seed(0)
    first, second = (build_network("d4-steerable-cnn", 32, 3, seed=5) for _ in range(2))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(first(images), second(images))
    assert not torch.equal(first(images), build_network("d4-steerable-cnn", 32, 3, seed=6)(images))


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'d4-steerable' is unknown.*Did you mean 'd4-steerable-cnn'.*resnet18"):
        build_network("d4-steerable", 64, 3)


def test_grid_that_breaks_the_symmetry_is_refused():
    with pytest.raises(SymmetryError, match="nearest size that works is 8"):
        build_network("d4-steerable-cnn", 7, 3)
    with pytest.raises(SymmetryError, match="use 3 or 5"):
        build_network("d4-steerable-cnn", 64, 3, kernel_sizes=(5, 4, 3, 3, 3))
    with pytest.raises(SymmetryError, match="use 32 or 40"):
        build_network("d4-steerable-cnn", 64, 3, channels=(36, 64, 64, 64, 64))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="no option 'strides'; its options are channels, depth, kernel_sizes"):
        build_network("d4-steerable-cnn", 64, 3, strides=2)
    with pytest.raises(ValueError, match="no option 'pooling'"):
        build_network("resnet18", 64, 3, pooling="antialiased")
    with pytest.raises(ValueError, match="pooling is 'max'; expected average or antialiased"):
        build_network("d4-resnet", 64, 3, pooling="max")
    with pytest.raises(ValueError, match="kernel_sizes has 2 entries, but 5 channels"):
        build_network("d4-steerable-cnn", 64, 3, kernel_sizes=(3, 3))


def test_antialiased_pooling_is_an_option_and_a_name():
    named = build_network("d4-antialiased-cnn", 33, 3)
    chosen = build_network("d4-steerable-cnn", 33, 3, pooling="antialiased")
    averaged, images = build_network("d4-steerable-cnn", 33, 3), blobs(4, 33)
    assert torch.equal(named(images), chosen(images)) and not torch.allclose(named(images), averaged(images))
    assert count_parameters(named) == count_parameters(averaged)
    assert plain_baseline("d4-antialiased-cnn")["name"] == "plain-antialiased-cnn"


def test_the_mean_over_the_group_is_another_head_of_the_same_body():
    mean, largest, images = build_network("d4-mean-cnn", 33, 3), build_network("d4-steerable-cnn", 33, 3), blobs(4, 33)
    assert torch.equal(mean.body(images), largest.body(images)) and not torch.allclose(mean(images), largest(images))
    assert plain_baseline("d4-mean-cnn") == plain_baseline("d4-steerable-cnn")
    alone = [build_network(name, 33, 3)(images) for name in ("c1-mean-cnn", same_filters("d4-mean-cnn"))]
    assert torch.equal(*alone)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 1, 64, 64\)"):
        build_network("d4-steerable-cnn", 64, 3)(torch.zeros(1, 1, 72, 72))


def test_weights_survive_a_file_in_either_mode(tmp_path):
    network, images = build_network("d4-steerable-cnn", 32, 3, seed=1), torch.randn(4, 1, 32, 32)
    network(images)  # moves the averages of batch norm
    expected = network.eval()(images)
    path = save_weights(network, tmp_path / "weights.safetensors")
    for training in (True, False):
        other = build_network("d4-steerable-cnn", 32, 3, seed=2).train(training)
        assert torch.equal(load_weights(other, path).eval()(images), expected)


def test_wrong_weights_are_refused(tmp_path):
    path = save_weights(build_network("c4-steerable-cnn", 32, 3), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="c4-steerable-cnn.*do not fit this 'd4-steerable-cnn'"):
        load_weights(build_network("d4-steerable-cnn", 32, 3), path)
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="not a file of weights"):
        load_weights(build_network("c4-steerable-cnn", 32, 3), path)


def test_resnet18_has_the_parameters_of_he_et_al():
    """11,689,512 with three colours and 1,000 classes."""
    assert count_parameters(build_network("resnet18", 64, 1000, in_channels=3)) == 11_689_512


def test_depth_and_other_groups():
    deep, shallow = (build_network("d4-resnet", 32, 3, depth=depth) for depth in (2, 1))
    assert sum("block" in name for name, _ in deep.body.named_children()) == 12
    assert multiply_accumulates(deep) > 1.8 * multiply_accumulates(shallow)
    images = blobs(6, 32)
    twelve = build_network("c12-steerable-cnn", 32, 3, channels=(24, 24, 48, 48, 48))
    assert is_invariant(recalibrate_batch_norm(twelve, images), images)


@pytest.mark.parametrize("name", ["d4-steerable-cnn", "c8-resnet", "p4m-cnn"])
def test_plain_baselines_match(name):
    network = build_network(name, 32, 3)
    equal_cost, equal_size = (
        build_network(**plain_baseline(name, match), image_size=32, n_classes=3) for match in ("channels", "parameters")
    )
    assert not equal_cost.group and multiply_accumulates(equal_cost) == pytest.approx(
        multiply_accumulates(network), rel=0.01
    )
    assert count_parameters(equal_size) == pytest.approx(count_parameters(network), rel=0.03)
    by_name = build_network(f"{name}-matched-parameters", 32, 3)
    assert count_parameters(by_name) == count_parameters(equal_size) and by_name.name == f"{name}-matched-parameters"
    assert count_parameters(build_network(f"{name}-matched", 32, 3)) == count_parameters(equal_cost)


def test_names_are_checked_without_building():
    for name in (*network_names(), "c16-resnet", "d4-resnet-matched", "d8-steerable-cnn-matched-parameters"):
        check_name(name)
    with pytest.raises(ValueError, match="'d4-resnte' is unknown.*Did you mean 'd4-resnet'"):
        check_name("d4-resnte-matched")
    with pytest.raises(ValueError, match="no plain baseline"):
        check_name("resnet18-matched")


def test_plain_networks_have_no_plain_baseline():
    with pytest.raises(ValueError, match="no plain baseline"):
        plain_baseline("resnet18")
    with pytest.raises(ValueError, match="'cost'; expected 'channels' or 'parameters'"):
        plain_baseline("d4-resnet", "cost")


@pytest.mark.parametrize(("name", "size"), [("d4-steerable-cnn", 32), ("d4-antialiased-cnn", 33)])
def test_network_is_that_of_e2cnn(name, size):
    network, images = build_network(name, size, 3), blobs(6, size)
    reference = StraightforwardNetwork(recalibrate_batch_norm(network, images))
    labels = torch.arange(6) % 3
    for one in (network, reference):
        F.cross_entropy(one(images), labels).backward()
    convolutions = [layer for layer in reference.body.modules() if hasattr(layer, "basisexpansion")]
    assert torch.allclose(network.body.conv3.weight.grad, convolutions[2].weights.grad, atol=1e-5)
    assert torch.allclose(network.eval()(images), reference.eval()(images), atol=1e-5)


@pytest.mark.parametrize("name", network_names())
def test_every_network_fits_its_checkpoint(name, tmp_path):
    network = build_network(name, 32, 3)
    size = save_weights(network, tmp_path / "weights.safetensors").stat().st_size
    assert size < 1.5 * 4 * count_parameters(network)


@pytest.mark.slow
def test_symmetry_halves_the_error_on_rotated_digits():
    """An independent check on data of another kind: 600 rotated digits to learn from, three seeds, equal channels."""
    plain, rotating = (
        sum(digits_error(name, seed) for seed in range(3)) / 3 for name in ("plain-cnn", "c8-steerable-cnn")
    )
    assert rotating < plain / 2


def test_settled_batch_norm_has_the_averages_of_the_images():
    network, images = build_network("d4-resnet", 32, 3), blobs(16, 32)
    settled = recalibrate_batch_norm(network, images).eval()(images)
    assert torch.allclose(settled, network.train()(images), atol=0.05 * settled.std().item())
    assert network.body.norm.momentum == 0.1


@torch.no_grad()
def test_features_are_invariant_and_the_last_layer_alone_makes_logits_of_them():
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network = recalibrate_batch_norm(build_network("d4-steerable-cnn", 32, 3, width=0.5), images).eval()
    features = network.features(images)
    torch.testing.assert_close(network(images), features @ network.classifier.weight.T + network.classifier.bias)
    torch.testing.assert_close(network.features(images.rot90(1, (2, 3))), features, rtol=1e-4, atol=1e-5)
    assert features.std(0).max() > 1e-3
