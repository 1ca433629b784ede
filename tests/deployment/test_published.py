"""Networks that others published: their weights become the network they were of, and nothing else is taken for one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lensstudy.data.dataset import DataError
from lensstudy.deployment.published import load_published


def convolution(out, into, size):
    return {"weight": 0.2 * torch.randn(out, into, size, size)}


def norm(channels):
    names = ("weight", "bias", "running_mean", "running_var")
    return {name: torch.rand(channels) + 0.1 for name in names}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    parts = {"fc": {"weight": torch.randn(3, 64), "bias": torch.randn(3)}}
    for stage, (into, channels, first, inner) in enumerate(((1, 16, 7, 5), (16, 32, 3, 3), (32, 64, 3, 3)), 1):
        parts[f"conv{stage}"], parts[f"bn{stage}"] = convolution(channels, into, first), norm(channels)
        for number, size in ((1, inner), (2, 3)):
            parts[f"layer{stage}.conv{number}"] = convolution(channels, channels, size)
            parts[f"layer{stage}.bn{number}"] = norm(channels)
    return {f"{part}.{name}": value for part, held in parts.items() for name, value in held.items()}


def by_hand(weights, images):
    """The same network as a formula, without modules: logits of vort, sphere, no."""

    def convolved(x, name, stride=1):
        w = weights[f"{name}.weight"]
        return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

    def normed(x, name):
        mean, var, w, b = (
            weights[f"{name}.{p}"].view(-1, 1, 1) for p in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * w + b

    x = images
    for stage in "123":
        x = normed(convolved(x, f"conv{stage}", 2), f"bn{stage}").clamp(min=0)
        inner = normed(convolved(x, f"layer{stage}.conv1"), f"layer{stage}.bn1").clamp(min=0)
        x = (x + normed(convolved(inner, f"layer{stage}.conv2"), f"layer{stage}.bn2")).clamp(min=0)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


def test_a_network_is_what_its_weights_say(weights, tmp_path):
    """Whatever the brightness, and in the order of this study's classes."""
    save_file(weights, tmp_path / "one.safetensors")
    (network,) = load_published(tmp_path).values()
    images = torch.rand(3, 1, 150, 150, generator=torch.Generator().manual_seed(1))
    images[0, 0, :2, 0] = torch.tensor([0.0, 1.0])
    scaled = (images - images.amin((2, 3), keepdim=True)) / (images.amax((2, 3), True) - images.amin((2, 3), True))
    vort, sphere, no = by_hand(weights, scaled).softmax(1).unbind(1)
    assert network.classes == ("no_sub", "cdm", "axion")
    found = network.probabilities(7 * images.numpy() + 3)
    np.testing.assert_allclose(found, torch.stack([no, sphere, vort], 1), atol=1e-4)
    np.testing.assert_allclose(
        network.probabilities(images.numpy(), 90), network.probabilities(np.rot90(images, 1, (2, 3))), atol=1e-6
    )
    assert np.isfinite(network.probabilities(np.ones((1, 1, 150, 150)))).all(), "an image of one value"
    with pytest.raises(DataError, match=r"shape \(1, 64, 64\); these networks take \(1, 150, 150\)"):
        network.probabilities(np.ones((1, 1, 64, 64)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.zeros(16, 3, 7, 7)}, r"'conv1.weight' has the shape \(16, 3, 7, 7\); expected \(16, 1"),
        ({"fc.bias": None}, "'fc.bias' is missing"),
        ({"fc.bias": torch.full((3,), torch.nan)}, "'fc.bias' has values that are NaN"),
        ({"head.weight": torch.zeros(2)}, "'head.weight' is no weight of this network"),
    ],
)
def test_weights_of_another_network_are_named(weights, tmp_path, change, message):
    changed = {name: value for name, value in (weights | change).items() if value is not None}
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=f"other.safetensors: {message}.*; expected the weights of a residual network"):
        load_published(tmp_path)


def test_what_is_missing_is_named_with_the_place_to_put_it(tmp_path, monkeypatch):
    assert load_published("") == {}
    monkeypatch.delenv("LENSSTUDY_NOWHERE", raising=False)
    for folder, message in (
        (tmp_path / "gone", "gone: there is no such folder"),
        ("$LENSSTUDY_NOWHERE/networks", "LENSSTUDY_NOWHERE/networks: a variable in it is not set"),
        (tmp_path, "holds no .safetensors file"),
    ):
        with pytest.raises(DataError, match=f"{message}; put the published weights there"):
            load_published(folder)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08" * 20)
    with pytest.raises(DataError, match="cut.safetensors: cannot be read as safetensors"):
        load_published(tmp_path)
