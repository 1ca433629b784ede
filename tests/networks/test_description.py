"""What a network costs, counted by hand, and what its maps and filters do when the image is rotated."""

import pytest
import torch

from lensstudy.networks.description import (
    count_parameters,
    describe,
    feature_maps,
    peak_memory,
    rotated_filters,
)
from lensstudy.networks.groups import rotate
from lensstudy.networks.registry import build_network, recalibrate_batch_norm
from tests.benchmarks.networks import blobs


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
