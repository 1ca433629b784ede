"""A training learns, is reproducible, goes on after an interruption, and leaves what others can open."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lensstudy import symmetry, training
from lensstudy.parameters import Study

SETTINGS = Study(network="d4-steerable-cnn", width=0.5, epochs=4, batch_size=16, learning_rate=0.01, scaling="none")


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")


def test_it_learns_and_leaves_a_folder_that_opens_again(blobs, tmp_path, quiet):
    folder = training.fit(blobs, SETTINGS, tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    assert metrics["validation_auc"] > 0.9
    assert len(history) == SETTINGS.epochs
    assert metrics["validation_loss"] == pytest.approx(history["validation_loss"].min())
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json", "history.csv", "metrics.json", "predictions.parquet", "weights.safetensors",
    ]  # fmt: skip

    run = training.load_trained(folder)
    validation = blobs.part("validation")
    stored = pd.read_parquet(folder / "predictions.parquet")
    assert list(stored["name"]) == list(validation.catalogue["name"])
    np.testing.assert_allclose(run.predict(validation.images), stored[["no_sub", "sub"]], atol=1e-5)


def test_a_trained_network_does_not_see_which_way_the_telescope_was_turned(blobs, tmp_path, quiet):
    run = training.load_trained(training.fit(blobs, SETTINGS, tmp_path / "run"))
    images = blobs.part("test").images
    upright = run.predict(images)
    for turned in (90.0, 180.0, 270.0):
        np.testing.assert_allclose(run.predict(images, turned), upright, atol=1e-5)
    np.testing.assert_allclose(run.predict(images[..., ::-1]), upright, atol=1e-5)


def test_the_test_part_is_not_opened(blobs, tmp_path, quiet):
    spoilt = blobs.images.copy()
    spoilt[(blobs.catalogue["part"] == "test").to_numpy()] = np.nan
    blobs.images = spoilt
    folder = training.fit(blobs, SETTINGS.model_copy(update={"epochs": 1, "scaling": "asinh"}), tmp_path / "run")
    assert math.isfinite(json.loads((folder / "metrics.json").read_text())["validation_loss"])


def weights(folder):
    return load_file(folder / "weights.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_same_parameters_give_the_same_weights_and_another_seed_does_not(blobs, tmp_path, quiet):
    one = training.fit(blobs, SETTINGS, tmp_path / "one")
    two = training.fit(blobs, SETTINGS, tmp_path / "two")
    other = training.fit(blobs, SETTINGS.model_copy(update={"seed": 2}), tmp_path / "other")
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    drop = ["seconds", "images_per_second"]
    first, second = (pd.read_csv(f / "history.csv").drop(columns=drop) for f in (one, two))
    pd.testing.assert_frame_equal(first, second)


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_where_it_would_have_ended(blobs, tmp_path, quiet, monkeypatch):
    whole = training.fit(blobs, SETTINGS, tmp_path / "whole")
    step, steps = training._Fit.training_step, []

    def stops_in_the_third_epoch(module, batch, index):
        steps.append(index)
        if len(steps) == 11:
            raise Interrupted
        return step(module, batch, index)

    monkeypatch.setattr(training._Fit, "training_step", stops_in_the_third_epoch)
    with pytest.raises(Interrupted):
        training.fit(blobs, SETTINGS, tmp_path / "halves")
    monkeypatch.setattr(training._Fit, "training_step", step)
    assert (tmp_path / "halves/last.ckpt").exists()
    halves = training.fit(blobs, SETTINGS, tmp_path / "halves")
    assert same(weights(whole), weights(halves))
    assert len(pd.read_csv(halves / "history.csv")) == SETTINGS.epochs


def test_a_finished_training_is_left_alone_and_a_changed_one_done_again(blobs, tmp_path, quiet):
    short = SETTINGS.model_copy(update={"epochs": 1})
    folder = training.fit(blobs, short, tmp_path / "run")
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    training.fit(blobs, short, folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    training.fit(blobs, short.model_copy(update={"learning_rate": 0.001}), folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns > before


def test_divergence_stops_at_once_and_says_where(blobs, tmp_path, quiet):
    wild = SETTINGS.model_copy(update={"scaling": "none"})
    blobs.images = blobs.images * np.float32(1e38)
    with pytest.raises(training.TrainingDiverged, match=r"loss is nan in step \d+ at a learning rate of"):
        training.fit(blobs, wild, tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()


def test_gradients_are_clipped_at_the_norm_that_was_asked_for(blobs, tmp_path, quiet, monkeypatch):
    """On real gradients: the norms recorded before clipping exceed the limit, those that AdamW is given do not."""
    applied = []
    original = torch.optim.AdamW.step

    def step(optimizer, closure=None):
        def recording():
            loss = closure()
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            applied.append(torch.nn.utils.get_total_norm(grads).item())
            return loss

        return original(optimizer, recording)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    settings = SETTINGS.model_copy(update={"epochs": 1, "gradient_clip": 0.05})
    folder = training.fit(blobs, settings, tmp_path / "run")
    history = pd.read_csv(folder / "history.csv")
    assert history["gradient_norm"][0] > 0.05
    assert history["clipped_share"][0] > 0.5
    assert max(applied) <= 0.05 * (1 + 1e-4)
    assert len(applied) == 4


def test_schedules_against_their_closed_forms():
    factor = training.schedule_factor
    assert [factor(step, 10, "constant", 0.2) for step in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert factor(0, 10, "constant", 0.0) == 1
    for step in (2, 5, 9):
        assert factor(step, 10, "cosine", 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * (step - 2) / 8)))


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing():
    factors = [training.schedule_factor(step, 1000, "one-cycle", 0.3) for step in range(1000)]
    assert factors[0] == pytest.approx(0.04, abs=1e-3)
    assert np.argmax(factors) in (299, 300)
    assert max(factors) == pytest.approx(1, abs=1e-5)
    assert factors[-1] < 1e-4
    assert (np.diff(factors[:300]) > 0).all()
    assert (np.diff(factors[300:]) < 0).all()


def test_turning_before_cropping_keeps_the_corners(blobs, tmp_path, quiet):
    """A network that sees the central part is given corners from the full image, not blank ones."""
    images = torch.ones(1, 1, 24, 24)
    turned = symmetry.rotate(images, 45.0, size=16)
    assert turned.shape[-1] == 16
    torch.testing.assert_close(turned, torch.ones(1, 1, 16, 16))


def test_binning_keeps_the_symmetry_and_the_mean(blobs, tmp_path, quiet):
    settings = SETTINGS.model_copy(update={"binning": 2, "epochs": 1})
    run = training.load_trained(training.fit(blobs, settings, tmp_path / "run"))
    assert (run.card["size"], run.card["crop"]) == (8, 16)
    images = blobs.part("test").images
    np.testing.assert_allclose(run.predict(images, 90.0), run.predict(images), atol=1e-5)


def test_the_order_of_images_changes_from_epoch_to_epoch_and_is_the_seeds_own():
    batches = training._SeededBatches(40, 8, seed=1)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        orders.append(np.concatenate(list(batches)).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]
    assert orders[0] == np.concatenate(list(training._SeededBatches(40, 8, seed=1))).tolist()
    assert orders[0] != np.concatenate(list(training._SeededBatches(40, 8, seed=2))).tolist()


def test_lightning_tells_the_batches_which_epoch_it_is(blobs, tmp_path, quiet, monkeypatch):
    epochs = []
    monkeypatch.setattr(training._SeededBatches, "set_epoch", lambda batches, epoch: epochs.append(epoch))
    training.fit(blobs, SETTINGS.model_copy(update={"epochs": 3}), tmp_path / "run")
    assert epochs == [0, 1, 2]


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_auc"])
def test_the_kept_epoch_is_the_best_by_what_is_monitored(blobs, tmp_path, quiet, monitor):
    folder = training.fit(blobs, SETTINGS.model_copy(update={"monitor": monitor}), tmp_path / "run")
    history = pd.read_csv(folder / "history.csv")
    best = history[monitor].idxmax() if monitor.endswith("auc") else history[monitor].idxmin()
    assert json.loads((folder / "metrics.json").read_text())["best_epoch"] == history["epoch"][best]


def test_patience_ends_a_training_that_makes_no_progress(blobs, tmp_path, quiet):
    stuck = SETTINGS.model_copy(update={"epochs": 8, "patience": 2, "learning_rate": 1e-12, "schedule": "constant"})
    folder = training.fit(blobs, stuck.model_copy(update={"monitor": "validation_auc"}), tmp_path / "run")
    assert len(pd.read_csv(folder / "history.csv")) < 8


@pytest.mark.parametrize(
    ("image_size", "crop", "binning", "expected"),
    [(150, 96, 2, 48), (150, 0, 1, 150), (64, 0, 1, 64), (101, 0, 1, 101), (64, 0, 3, 20), (65, 0, 3, 21)],
)
def test_what_a_network_sees_is_central_and_symmetric(image_size, crop, binning, expected):
    settings = SETTINGS.model_copy(update={"crop": crop, "binning": binning})
    size = training.working_size(image_size, settings)
    assert size == expected
    assert (image_size - size * binning) % 2 == 0
    assert symmetry.working_size(size) == size


def test_binning_that_cannot_be_central_is_refused_with_the_way_out():
    with pytest.raises(symmetry.SymmetryError, match="choose another binning"):
        training.working_size(65, SETTINGS.model_copy(update={"binning": 2}))
