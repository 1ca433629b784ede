"""Networks before training: symmetric where their construction says so, measured as one would by hand."""

import time

import numpy as np
import pytest
import torch

from lensstudy import stages
from lensstudy.networks.registry import build_network
from lensstudy.study import Study
from lensstudy.training import untrained
from lensstudy.training.untrained import Invariance


@pytest.fixture(scope="module")
def images():
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    generator = torch.Generator().manual_seed(1)
    centre = 8 * torch.rand(12, 2, 1, 1, generator=generator) - 4
    return torch.exp(-((x - centre[:, 0]) ** 2 + 2 * (y - centre[:, 1]) ** 2) / 20)[:, None]


@pytest.fixture(scope="module")
def networks(images):
    return untrained.build_all(["d4-steerable-cnn", "c4-steerable-cnn", "plain-cnn"], images, width=0.25)


@pytest.fixture(scope="module")
def invariance(networks, images):
    return untrained.invariance(networks, images)


def test_a_network_is_that_of_the_registry_after_a_look_at_the_images(networks, images):
    one = build_network("plain-cnn", 32, 3, width=0.25)
    for mine, theirs in zip(networks["plain-cnn"].parameters(), one.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():  # batch norm has the averages of the images
        network = networks["plain-cnn"].eval()
        normalised = network.body.norm1(network.body.conv1(images))
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-3 and abs(normalised.var() - 1) < 0.1


def test_symmetry_is_exact_where_the_group_has_it_and_only_there(invariance, networks):
    exact = invariance.table[["error at 90°", "error reflected"]] < 1e-5
    assert exact.to_numpy().tolist() == [[True, True], [True, False], [False, False]]
    assert invariance.table["parameters"]["d4-steerable-cnn"] == sum(
        p.numel() for p in networks["d4-steerable-cnn"].parameters()
    )


def test_the_error_is_the_change_over_the_spread(invariance, networks, images):
    """Once more by NumPy's rotation, which turns an array of rows the same way."""
    with torch.no_grad():
        network = networks["plain-cnn"].eval()
        upright = network(images).numpy().astype(float)
        rotated = network(torch.from_numpy(np.rot90(images.numpy(), 1, (2, 3)).copy())).numpy()
    expected = np.sqrt(((rotated - upright) ** 2).mean() / upright.var(axis=0).mean())
    assert invariance.table.loc["plain-cnn", "error at 90°"] == pytest.approx(expected, rel=1e-4)


def test_the_answer_names_what_is_exact_and_what_is_not(invariance):
    assert invariance.answer.startswith("d4-steerable-cnn, c4-steerable-cnn: rotating the image by 90 degrees changes")
    assert "plain-cnn: the outputs move by " in invariance.answer
    assert "nothing" not in Invariance(invariance.table.loc[["plain-cnn"]]).answer
    assert "moves" not in Invariance(invariance.table.iloc[:2]).answer


def test_curves_touch_zero_where_the_grid_allows_it(networks, images):
    curves = untrained.invariance_curves(networks, images, step=45)
    assert list(curves) == [*networks, "interpolation alone"] and list(curves.index) == list(range(0, 361, 45))
    assert curves.loc[::2, ["d4-steerable-cnn", "c4-steerable-cnn"]].to_numpy().max() < 1e-5  # every 90 degrees
    assert curves["plain-cnn"][0] < 1e-5 < 1e-2 < curves["plain-cnn"][90]
    assert curves["interpolation alone"][45] > 1e-2


def test_baselines_follow_the_networks_that_have_them():
    names = untrained.with_baselines(["d4-resnet", "resnet18", "my-own"])
    assert names == ["d4-resnet", "d4-resnet-matched", "d4-resnet-matched-parameters", "resnet18", "my-own"]


def test_costs_are_those_of_a_count_by_hand(images):
    compared = untrained.build_all(untrained.with_baselines(["d4-steerable-cnn"]), images, width=0.25)
    costs = untrained.costs(compared, images, batch_size=8)
    kernels, sizes, channels = (5, 5, 3, 3, 3), (32, 16, 8, 4, 4), [1, 16, 16, 32, 48, 48]
    by_hand = 3 * channels[-1]  # the classifier of the plain network with as many channels
    for kernel, size, inputs, outputs in zip(kernels, sizes, channels[:-1], channels[1:], strict=True):
        by_hand += kernel**2 * size**2 * inputs * outputs
    assert costs.loc["d4-steerable-cnn-matched", "MACs [M]"] == pytest.approx(by_hand / 1e6)
    assert costs["MACs [M]"].iloc[0] == pytest.approx(costs["MACs [M]"].iloc[1], rel=0.01)  # as many channels
    assert costs["parameters"].iloc[0] == pytest.approx(costs["parameters"].iloc[2], rel=0.05)  # as many parameters
    assert (costs > 0).all(axis=None)


def test_functions_take_turns_and_the_fastest_run_counts():
    calls, lasts = [], iter([0.1, 0.05, 0.02])

    def slow():
        calls.append("slow")
        until = time.process_time() + next(lasts)
        while time.process_time() < until:
            pass

    slowest, fastest = untrained.processor_seconds([slow, lambda: calls.append("fast")], rounds=2)
    assert calls == ["slow", "fast"] * 3
    assert slowest == pytest.approx(0.02, abs=0.01) and fastest < 0.005


def test_what_was_measured_is_kept_for_readers(tmp_path, monkeypatch, networks, invariance, images):
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    study = Study(study="kept")
    stages.keep_networks(study, 32, invariance, untrained.costs(networks, images, 4))
    kept = stages.json.loads((study.folder / "networks.json").read_text())
    assert kept["size"] == 32 and [one["network"] for one in kept["networks"]] == list(networks)
    assert set(kept["networks"][0]) == {
        "network", "parameters", "error at 90°", "error reflected", "error at 45°", "floor at 45°", "MACs [M]",
        "training images/s", "training memory [MiB]", "inference images/s", "inference memory [MiB]",
    }  # fmt: skip
