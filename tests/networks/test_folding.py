"""A folded network is the same function in plain convolutions, of the weights that it had at that moment."""

import io
import pickle

import pytest
import torch

from lensstudy.networks.folding import folded
from lensstudy.networks.layers import SteerableConv
from lensstudy.networks.registry import build_network, network_names, recalibrate_batch_norm
from tests.benchmarks.networks import blobs


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
