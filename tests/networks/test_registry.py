"""Every network of the registry: invariant where it says so, small on disk, the same after loading."""

import io
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F

from lensstudy.networks.folding import folded
from lensstudy.networks.groups import SymmetryError, invariance_error, rotate
from lensstudy.networks.layers import SteerableConv
from lensstudy.networks.registry import (
    build_network,
    check_name,
    count_parameters,
    describe,
    feature_maps,
    load_weights,
    multiply_accumulates,
    network_names,
    peak_memory,
    plain_baseline,
    recalibrate_batch_norm,
    rotated_filters,
    save_weights,
)
from tests.benchmarks.networks import StraightforwardNetwork, blobs, digits_error

EQUIVARIANT = [name for name in network_names() if not name.startswith(("plain", "resnet"))]


SIZES = [33, 64, 97, 100, 101, 129, 150]


def reflects(network):
    return network.group.startswith(("D", "O"))


def is_invariant(network, images):
    errors = [invariance_error(network, images, degrees) for degrees in (90, 180)]
    reflected = invariance_error(network, images, 90, reflect=True)
    return max(errors) < 1e-5 and (reflected < 1e-5 if reflects(network) else reflected > 1e-3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in EQUIVARIANT if "wide" not in name])  # those differ in channels only
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


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 1, 64, 64\)"):
        build_network("d4-steerable-cnn", 64, 3)(torch.zeros(1, 1, 72, 72))


def test_description_adds_up():
    network = build_network("d4-steerable-cnn", 64, 3)
    rows = describe(network)
    assert sum(row["parameters"] for row in rows) == count_parameters(network)
    assert rows[0] == {
        "layer": "body.conv1",
        "type": "SteerableConv",
        "fields": "4 regular(D4)",
        "channels": 32,
        "size": 64,
        "parameters": 44,
        "multiply_accumulates": 64**2 * 5**2 * 32,
    }
    assert rows[1]["fields"] == "4 regular(D4)" and network.training


def test_peak_of_memory_is_the_most_at_one_time():
    megabyte = 2**20

    def step():
        first = torch.ones(megabyte // 4)
        second = first.repeat(2)
        del first
        return second.repeat(2)  # two beside four

    assert peak_memory(step) == pytest.approx(6 * megabyte, rel=0.01)
    assert peak_memory(lambda: None) == 0
    network, images = build_network("d4-steerable-cnn", 32, 3), torch.randn(8, 1, 32, 32)
    first, again = (peak_memory(lambda: network(images).sum().backward()) for _ in range(2))
    largest_map = 4 * 8 * 32 * 32**2
    assert first == pytest.approx(again, rel=0.1) and first > 2 * largest_map


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


def test_parameters_of_a_steerable_network_by_hand():
    """A steerable filter is a sum of circular harmonics on rings of pixels: one on the centre, 1 + 2 * 2 on each ring
    around it (frequencies up to 2). That makes 6 free numbers for 3x3 pixels and 11 for 5x5; between regular fields,
    one such filter for each of the 8 relative orientations of D4."""
    fields, harmonics = [4, 8, 16, 24, 24], [11, 11, 6, 6, 6]
    first = harmonics[0] * fields[0]
    others = sum(8 * h * a * b for h, a, b in zip(harmonics[1:], fields[:-1], fields[1:], strict=True))
    norms, classifier = 2 * sum(fields), 24 * 3 + 3
    assert count_parameters(build_network("d4-steerable-cnn", 64, 3)) == first + others + norms + classifier


def test_parameters_of_a_classic_network_by_hand():
    """P4M: nine free pixels a filter, eight orientations in, one filter stored for all orientations out."""
    fields = [4, 4, 8, 8, 16, 16]
    convolutions = 9 * fields[0] + sum(9 * 8 * a * b for a, b in zip(fields[:-1], fields[1:], strict=True))
    assert count_parameters(build_network("p4m-cnn", 64, 3)) == convolutions + 2 * sum(fields) + 16 * 3 + 3


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


@pytest.mark.parametrize("name", network_names())
def test_export_is_the_same_function_in_plain_convolutions(name):
    network, images = build_network(name, 33, 3, width=0.25), blobs(8, 33)
    exported = folded(recalibrate_batch_norm(network, images))
    expected = network.eval()(images)
    assert torch.allclose(exported(images), expected, atol=1e-5 * expected.abs().max().item())
    assert not any(isinstance(layer, SteerableConv) for layer in exported.modules())
    file = io.BytesIO(pickle.dumps(exported))
    assert torch.equal(pickle.loads(file.getvalue())(images), exported(images))


def test_export_can_be_traced():
    network, images = build_network("d4-resnet", 32, 3, width=0.5).eval(), blobs(4, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(folded(network), (images,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(images[:3]), network(images[:3]), atol=1e-6)


def test_export_takes_large_batches_in_pieces():
    network, images = build_network("d4-steerable-cnn", 32, 3).eval(), blobs(7, 32)
    exported = folded(network)
    exported.at_once = 3
    assert torch.allclose(exported(images), network(images), atol=1e-5)
    assert folded(build_network("c4-steerable-cnn", 400, 3, width=0.25)).at_once == 1


def test_export_follows_the_weights_of_its_moment():
    network, images = build_network("d4-steerable-cnn", 32, 3), blobs(4, 32)
    before = folded(recalibrate_batch_norm(network, images))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert network.training and not torch.allclose(before(images), folded(network)(images))


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


def test_feature_maps_rotate_with_the_image():
    network, image = build_network("d4-steerable-cnn", 32, 3), blobs(1, 32)
    recalibrate_batch_norm(network, blobs(6, 32))
    upright, rotated = feature_maps(network, image), feature_maps(network, rotate(image, 90))
    assert list(upright) == [name for name, _ in network.body.named_children()]
    field, moved = upright["relu2"][:, :8], rotated["relu2"][:, :8]  # eight orientations of the first field
    assert torch.allclose(moved[:, 1:4], rotate(field[:, 0:3], 90), atol=1e-6)
    assert network.training


def test_filters_rotate_by_the_group():
    filters = rotated_filters(build_network("d4-steerable-cnn", 32, 3).body.conv1, field=2)
    assert filters.shape == (8, 5, 5)
    assert torch.allclose(filters[1], torch.rot90(filters[0], 1), atol=1e-6)
    assert torch.allclose(filters[4], filters[0].flip(-1), atol=1e-6)


@pytest.mark.parametrize("name", network_names())
def test_every_network_fits_its_checkpoint(name, tmp_path):
    network = build_network(name, 32, 3)
    size = save_weights(network, tmp_path / "weights.safetensors").stat().st_size
    assert size < 1.5 * 4 * count_parameters(network)


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
