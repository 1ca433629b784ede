"""Images without labels change what a network learns from those with labels, their labels never, and the same twice."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lensstudy.data.dataset import LensDataset
from lensstudy.networks import registry
from lensstudy.study import ParameterError, Study
from lensstudy.training import adaptation
from lensstudy.training import fitting as training
from lensstudy.training.adaptation import Adversarial, Outputs, Sinkhorn, adapt_batch_norm, pseudo_labels
from lensstudy.training.batches import SeededBatches
from lensstudy.training.module import Fit
from lensstudy.training.run import load_run
from tests.conftest import make_blobs

METHODS = ("batch-norm", "sinkhorn", "adversarial", "pseudo-labels")
SETTINGS = Study(
    network="d4-mean-cnn", width=0.25, epochs=2, batch_size=16, learning_rate=0.01, scaling="none", monitor="last"
)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")


def with_(method, **changes):
    return SETTINGS.model_copy(update={"adaptation": method, "confidence": 0.5, **changes})


def fainter(dataset: LensDataset) -> LensDataset:
    """The same lenses through another telescope: less light, more sky."""
    return LensDataset(0.4 * dataset.images + 0.3, dataset.catalogue, dataset.classes)


class Unread(LensDataset):
    """A set whose labels nobody may look at."""

    @property
    def labels(self):
        raise AssertionError("the labels of the target were read")


def weights(run):
    return load_file(run / "weights.safetensors")


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", METHODS)
def test_the_labels_of_the_target_change_nothing_and_its_images_do(blobs, tmp_path, method):
    target = fainter(blobs).part("train")
    scrambled = target.catalogue.assign(**{"class": np.random.default_rng(0).permutation(target.catalogue["class"])})
    settings = with_(method, epochs=1, adaptation_start=0.0)
    known = training.fit(blobs, settings, folder=tmp_path / "known", target=target)
    unread = Unread(target.images, scrambled, target.classes)
    unknown = training.fit(blobs, settings, folder=tmp_path / "unknown", target=unread)
    assert same(weights(known), weights(unknown))
    before = (known / "weights.safetensors").stat().st_mtime_ns
    about = json.loads((known / "card.json").read_text())
    assert about["adaptation"] == method and about["target"]["images"] == len(target)
    training.fit(blobs, settings, folder=known, target=unread)
    assert (known / "weights.safetensors").stat().st_mtime_ns == before, "the same images are the same training"
    training.fit(blobs, settings, folder=known, target=target.subset(np.arange(40)))
    assert not same(weights(known), weights(unknown)), "and others are another"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_interrupted_training_ends_where_it_would_have_ended(blobs, tmp_path, monkeypatch, method):
    settings, target = with_(method, epochs=3, adaptation_start=0.1), fainter(blobs)
    whole = training.fit(blobs, settings, folder=tmp_path / "whole", target=target)
    step, steps = Fit.training_step, []

    def stops(module, batch, number):
        steps.append(number)
        if len(steps) == 2 * module.batches + 2:
            raise Interrupted
        return step(module, batch, number)

    monkeypatch.setattr(Fit, "training_step", stops)
    with pytest.raises(Interrupted):
        training.fit(blobs, settings, folder=tmp_path / "halves", target=target)
    monkeypatch.setattr(Fit, "training_step", step)
    assert same(weights(whole), weights(training.fit(blobs, settings, folder=tmp_path / "halves", target=target)))


def test_batch_norm_of_the_target_brings_back_what_another_brightness_took(blobs, tmp_path):
    target, reached = fainter(blobs), {}
    for method in ("none", "batch-norm"):
        settings = with_(method, epochs=12)
        given = None if method == "none" else target.part("train")
        run = load_run(training.fit(blobs, settings, folder=tmp_path / method, target=given))
        reached[method] = run.predict(target.images)
    accuracy = {method: (found.argmax(1) == blobs.labels).mean() for method, found in reached.items()}
    assert accuracy["none"] < 0.7 and accuracy["batch-norm"] > 0.85, accuracy
    assert adaptation.without_labels(reached).index[0] == "batch-norm", "and it is seen without labels"


def shortcut(weak, strong, labels) -> LensDataset:
    """Images whose left half tells the classes apart, in noise, and whose right half does so too, as `strong` says."""
    noise = np.random.default_rng(len(labels)).normal(0, 0.5, (len(labels), 1, 8, 8))
    noise[..., :4] += weak * (2 * labels - 1)[:, None, None, None]
    noise[..., 4:] = 0.2 * noise[..., 4:] + strong[:, None, None, None]
    table = pd.DataFrame({"name": np.arange(len(labels)).astype(str), "class": np.array(["no_sub", "sub"])[labels]})
    return LensDataset(noise.astype(np.float32), table, ("no_sub", "sub"))


def test_what_the_target_does_not_have_is_not_relied_on(tmp_path):
    """In the target the right half, the easier one, is the same in both classes. Features that are to be alike in both
    sets leave it out, and the target is told apart by the left half."""
    labels = np.arange(400) % 2
    source = shortcut(0.25, 2.0 * labels - 1, labels).split(0.1, 0.1, seed=1)
    target, reached = shortcut(0.25, np.ones(300), labels[:300]), {}
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    torch.manual_seed(1)
    network = torch.nn.Sequential(*layers)
    for method in ("none", "sinkhorn"):
        settings = with_(method, epochs=10, augmentation="none", adaptation_start=0.0)
        given = None if method == "none" else target
        run = training.fit(source, settings, network, tmp_path / method, target=given)
        reached[method] = float((load_run(run, network).predict(target.images).argmax(1) == target.labels).mean())
    assert reached["none"] < 0.7 and reached["sinkhorn"] > 0.8, reached


def test_statistics_of_few_images_are_mixed_with_those_of_the_source():
    """Schneider et al. 2020, equation 1, with N = 16."""
    for norm in (torch.nn.BatchNorm2d(8), registry.build_network("d4-mean-cnn", 16, 2, width=0.25).body.norm1):
        norm.running_mean.fill_(2.0)
        count = 8 * len(norm.running_mean) if not isinstance(norm, torch.nn.BatchNorm2d) else 8
        images = torch.randn(48, count, 5, 5, generator=torch.Generator().manual_seed(1)) + 5
        own = images.view(48, len(norm.running_mean), -1).mean((0, 2))
        adapt_batch_norm(norm, images)
        torch.testing.assert_close(norm.running_mean, (16 * 2.0 + 48 * own) / (16 + 48))
    with pytest.raises(ParameterError, match="has no batch norm; use another adaptation"):
        adapt_batch_norm(torch.nn.Linear(2, 2), torch.zeros(1, 2))


def test_the_sinkhorn_divergence_of_shifted_features_is_half_the_square_of_the_shift():
    points = 3 * torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([0.3, -0.2, 0.0, 0.1, 0.4])
    none = torch.zeros(64, 2)
    assert Sinkhorn.divergence(Outputs(points, none), Outputs(points, none)).abs() < 1e-5
    found = Sinkhorn.divergence(Outputs(points, none), Outputs(points + shift, none))
    assert found.item() == pytest.approx(shift.square().sum().item() / 2, rel=0.02)


def test_the_learnt_weights_are_those_at_which_both_losses_count_alike():
    """The minimum over a and b is at a^2 = cross-entropy, b^2 = divergence; b^2 stays above a^2 / 16."""
    source, target = Outputs(torch.zeros(4, 3), torch.zeros(4, 2)), Outputs(torch.ones(4, 3), torch.zeros(4, 2))
    loss, entropy = Sinkhorn(), torch.tensor(0.5)
    optimizer = torch.optim.LBFGS(loss.parameters(), line_search_fn="strong_wolfe", max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = loss(entropy, source, target, 1.0)
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(loss.log_squares.exp(), torch.tensor([0.5, 1.5]), rtol=0.01, atol=0)


def test_a_weight_beyond_its_bound_comes_back():
    """An optimiser's step may go past the bound, and a divergence that grows later has to move the weight again."""
    source, target = Outputs(torch.zeros(4, 3), torch.zeros(4, 2)), Outputs(torch.full((4, 3), 9.0), torch.zeros(4, 2))
    loss = Sinkhorn()
    with torch.no_grad():
        loss.log_squares[1] = -3.0
    loss(torch.tensor(0.3), source, target, 1.0).backward()
    assert loss.log_squares[1].item() == pytest.approx(-np.log(16), abs=1e-6) and loss.log_squares.grad[1] < -1


def test_the_discriminator_learns_to_tell_and_the_network_that_it_cannot():
    """Each moves its own weights alone: those of the discriminator towards the truth, the features towards one half."""
    outputs = [Outputs(torch.randn(4, 3, requires_grad=True), torch.zeros(4, 2)) for _ in range(2)]
    features, truth = torch.cat([one.features for one in outputs]), torch.tensor([0.0] * 4 + [1.0] * 4)
    loss, entropy = Adversarial(3, weight=2.0), torch.nn.functional.binary_cross_entropy_with_logits
    told = loss.discriminator(features)[:, 0]
    (towards_half,) = torch.autograd.grad(entropy(told, torch.full((8,), 0.5)), outputs[0].features, retain_graph=True)
    towards_truth = torch.autograd.grad(entropy(told, truth), loss.discriminator.parameters())
    for progress in (0.0, 0.5, 1.0):
        loss.zero_grad()
        outputs[0].features.grad = None
        loss(torch.tensor(0.0), *outputs, progress).backward()
        torch.testing.assert_close(outputs[0].features.grad, 2 * math.tanh(5 * progress) * towards_half)
        for weights, expected in zip(loss.discriminator.parameters(), towards_truth, strict=True):
            torch.testing.assert_close(weights.grad, expected)


def test_an_image_gets_a_label_where_all_orientations_name_it():
    """Judged by the upper left corner: of the second image it is another in other orientations, the third is unsure."""
    images = torch.zeros(3, 1, 4, 4)
    images[0], images[1, 0, 0, 0], images[2] = 5.0, 5.0, 0.2

    def predict(seen):
        return torch.stack([seen[:, 0, 0, 0], 1 - seen[:, 0, 0, 0]], 1).softmax(1)

    labels, accepted = pseudo_labels(predict, images, 0.7)
    assert labels[0] == 0 and accepted.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, False, "adaptation = 'sinkhorn': no target images are given; give fit a target, or use none"),
        ({"adaptation": "none"}, True, "nothing is learnt from it, since adaptation = 'none'"),
        ({"monitor": "validation_loss"}, True, "cannot choose an epoch for the target; .* use last"),
        ({"devices": 2}, True, "runs on one device; use devices: 1"),
        ({"crop": 14}, "small", r"images of 12 x 12 pixels and 1 bands, and the network sees the central 14"),
    ],
)
def test_what_does_not_go_together_is_named_with_the_way_out(blobs, tmp_path, changes, given, message):
    images = blobs.images[..., 2:-2, 2:-2] if given == "small" else blobs.images
    target = LensDataset(images, blobs.catalogue, blobs.classes) if given else None
    with pytest.raises(ParameterError, match=message):
        training.fit(blobs, with_("sinkhorn", **changes), folder=tmp_path / "run", target=target)
    assert not (tmp_path / "run").exists()


def test_methods_are_ranked_without_labels():
    sure = np.eye(2)[[0, 1, 0, 1]]
    table = adaptation.without_labels(
        {"one class": np.eye(2)[[0, 0, 0, 0]], "guess": np.full((4, 2), 0.5), "both": sure}
    )
    assert table.index[0] == "both"
    expected = pd.DataFrame({"information": [1.0, 0, 0], "balance": [1.0, 0, 1], "entropy": [0.0, 0, 1]})
    np.testing.assert_allclose(table.to_numpy(), expected, atol=1e-9)


def test_the_target_is_shown_in_an_order_of_its_own():
    """Were it that of the source, sets of the same lenses would be shown lens beside lens."""
    target = adaptation.Target(make_blobs().images)
    rows = np.concatenate(target.batches(SETTINGS, 7, epoch=0))
    source = SeededBatches(120, 16, SETTINGS.seed, 7)
    assert len(set(rows)) == len(rows) == 112
    assert not np.array_equal(rows, np.concatenate(list(source)))
