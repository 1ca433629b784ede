"""Every network of the registry: invariant where it says so, small on disk, the same after loading."""

import pytest
import torch

from lensstudy.networks import build_network, count_parameters, describe, load_weights, network_names, save_weights
from lensstudy.symmetry import SymmetryError, invariance_error


def blobs(count, size, seed=0):
    """Smooth images that differ: a few bright spots on a little noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    images = 0.02 * torch.randn(count, 1, size, size, generator=generator)
    for _ in range(3):
        centre, width = (
            torch.rand(count, 2, generator=generator) - 0.5,
            0.05 + 0.1 * torch.rand(count, generator=generator),
        )
        distance = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
        images[:, 0] += torch.exp(-distance / width[:, None, None] ** 2)
    return images


@pytest.mark.parametrize("size", [64, 96, 97, 144])
@pytest.mark.parametrize("group", ["c4", "c8", "d4", "d8"])
def test_steerable_networks_are_invariant(group, size):
    network, images = build_network(f"{group}-steerable-cnn", size, 3, width=0.5), blobs(6, size)
    assert invariance_error(network, images, 90) < 1e-5
    assert invariance_error(network, images, 180) < 1e-5
    reflected = invariance_error(network, images, 90, reflect=True)
    assert reflected < 1e-5 if group[0] == "d" else reflected > 1e-3


def test_plain_networks_are_not():
    for name in ("plain-cnn", "resnet18"):
        assert invariance_error(build_network(name, 64, 3, width=0.25), blobs(6, 64), 90) > 1e-2


@pytest.mark.parametrize("name", network_names())
def test_every_network_answers_and_learns(name):
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


@pytest.mark.parametrize(("size", "nearest"), [(66, "64 and 72"), (150, "144 and 152"), (99, "97 and 105")])
def test_size_that_breaks_the_symmetry_is_refused(size, nearest):
    with pytest.raises(SymmetryError, match=nearest):
        build_network("d4-steerable-cnn", size, 3)


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
    }
    assert rows[1]["fields"] == "4 regular(D4)" and network.training


def test_weights_survive_a_file_in_either_mode(tmp_path):
    network, images = build_network("d4-steerable-cnn", 32, 3, seed=1), torch.randn(4, 1, 32, 32)
    network(images)  # moves the averages of batch norm
    expected = network.eval()(images)
    path = save_weights(network, tmp_path / "weights.safetensors")
    assert path.stat().st_size < 1.5 * 4 * count_parameters(network)
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
