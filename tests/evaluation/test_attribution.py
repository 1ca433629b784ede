"""Attributions add up to what they explain, and rotate with the image."""

import numpy as np
import pytest
import torch

from lensstudy.evaluation.attribution import attribute, group_averaged, integrated_gradients, share_on_light
from lensstudy.networks.registry import build_network


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["d4-steerable-cnn", "resnet18"])
def score(request):
    network = build_network(request.param, 16, 2, width=0.25, seed=1).eval()
    return lambda x: (lambda logits: logits[:, 1] - logits[:, 0])(network(x))


def test_of_a_linear_score_every_pixel_has_its_weight_times_its_change(images):
    weights = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
    found = integrated_gradients(lambda x: (x * weights).sum((1, 2, 3)), images, torch.full_like(images, 0.5), steps=2)
    assert torch.allclose(found, (images - 0.5) * weights, atol=1e-5)


def test_attributions_add_up_to_what_they_explain(images, score):
    baseline = torch.zeros_like(images)
    with torch.no_grad():
        change = score(images) - score(baseline)
        over_group = torch.stack(
            [score(torch.rot90(x, k, (-2, -1))) for x in (images, images.flip(-1)) for k in range(4)]
        ).mean(0) - score(baseline)
    found = integrated_gradients(score, images, baseline, steps=96).sum((1, 2, 3))
    assert torch.allclose(found, change, atol=0.02 * change.abs().max().item())
    found = group_averaged(score, images, baseline, steps=32).sum((1, 2, 3))
    assert torch.allclose(found, over_group, atol=0.02 * over_group.abs().max().item())


def test_the_average_over_the_group_rotates_and_reflects_with_the_image(images, score):
    baseline = torch.zeros_like(images)
    upright = group_averaged(score, images, baseline, steps=4)
    for moved in (lambda x: torch.rot90(x, 1, (-2, -1)), lambda x: x.flip(-1)):
        found = group_averaged(score, moved(images), baseline, steps=4)
        assert torch.allclose(found, moved(upright), atol=1e-5 * upright.abs().max().item() + 1e-7)


def test_an_attribution_is_that_of_the_log_odds_of_the_class(images):
    network = build_network("d4-steerable-cnn", 16, 2, width=0.25, seed=1).eval()
    labels, sky = torch.tensor([1, 0, 1]), images.flatten(2).median(2).values[..., None, None].expand_as(images)
    sign = torch.tensor([1.0, -1.0, 1.0])  # of two classes the log odds are the difference of the logits
    logit = lambda x: sign.repeat(len(x) // 3) * (lambda y: y[:, 1] - y[:, 0])(network(x))  # noqa: E731
    found = attribute(network, images, labels, steps=4)
    torch.testing.assert_close(found, group_averaged(logit, images, sky, steps=4), atol=1e-5, rtol=1e-3)
    with torch.no_grad():
        likeliest = network(images).argmax(1)
    torch.testing.assert_close(attribute(network, images, steps=2), attribute(network, images, likeliest, steps=2))


def test_the_share_on_the_light_is_one_where_all_attribution_lies_there():
    images = np.zeros((2, 10, 10))
    images[:, 2:4, 2:7] = 1.0
    assert share_on_light(images, images) == (1.0, pytest.approx(0.1))
    assert share_on_light(np.ones_like(images), images) == (pytest.approx(0.1), pytest.approx(0.1))
