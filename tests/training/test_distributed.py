"""Which norms are synchronised over processes; that the result is that of one process is tested with `fit`."""

import pytest
import torch
from torch import nn

from lensstudy.networks.batchnorm import FieldBatchNorm
from lensstudy.networks.layers import IrrepBatchNorm
from lensstudy.networks.registry import build_network
from lensstudy.training.distributed import SynchronisedNorm, synchronise


@pytest.mark.parametrize("name", ["d4-steerable-cnn", "resnet18", "plain-cnn"])
def test_every_norm_is_synchronised_and_weights_keep_their_names(name):
    network = build_network(name, 32, 2, width=0.25)
    before, images = network.state_dict(), torch.randn(2, 1, 32, 32)
    expected = network.eval()(images)
    norms = sum(isinstance(layer, FieldBatchNorm | nn.BatchNorm2d) for layer in network.modules())
    synchronise(network)
    assert sum(isinstance(layer, SynchronisedNorm) for layer in network.modules()) == norms > 0
    assert not any(isinstance(layer, FieldBatchNorm | nn.BatchNorm2d) for layer in network.modules())
    assert list(network.state_dict()) == list(before)
    torch.testing.assert_close(network.eval()(images), expected)


@pytest.mark.parametrize(
    "layer",
    [
        IrrepBatchNorm(2, 2),
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2, momentum=None),
        nn.BatchNorm2d(2, affine=False),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.InstanceNorm2d(2, track_running_stats=True),
    ],
    ids=repr,
)
def test_a_norm_that_cannot_be_synchronised_is_named(layer):
    with pytest.raises(ValueError, match=rf"norm, a {type(layer).__name__}: cannot .* use devices: 1"):
        synchronise(nn.Sequential(nn.Sequential(nn.ReLU()), nn.ModuleDict({"norm": layer})))


def test_a_norm_of_single_images_is_left_as_it_is():
    network = nn.Sequential(nn.InstanceNorm2d(2), nn.GroupNorm(1, 2))
    assert [type(layer) for layer in synchronise(network)] == [nn.InstanceNorm2d, nn.GroupNorm]


def test_torchs_own_leaves_batch_norm_over_fields_as_it_is():
    """Why there is one here: once torch takes these as well, it may go."""
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(FieldBatchNorm(8, 4), IrrepBatchNorm(2, 2)))
    assert isinstance(theirs[0], FieldBatchNorm)
    assert isinstance(theirs[1], IrrepBatchNorm)
    assert isinstance(theirs[1].scalars, nn.SyncBatchNorm)
