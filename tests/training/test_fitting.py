"""A training learns, is reproducible, goes on after an interruption, and leaves what others can open."""

import copy
import hashlib
import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lensstudy.data.dataset import DataError
from lensstudy.data.preprocess import Preprocess
from lensstudy.networks import groups as symmetry
from lensstudy.networks import names as network_names
from lensstudy.networks import registry
from lensstudy.networks.description import describe
from lensstudy.provenance import plugin_files
from lensstudy.study import ParameterError, Study
from lensstudy.training import fitting as training
from lensstudy.training.batches import SeededBatches, training_loader
from lensstudy.training.module import Fit
from lensstudy.training.recording import Recorder
from lensstudy.training.run import load_run
from tests.conftest import make_blobs

SETTINGS = Study(network="d4-steerable-cnn", width=0.5, epochs=4, batch_size=16, learning_rate=0.01, scaling="none")


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The training of `SETTINGS`, from its beginning to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_BATCH", "1")
        return training.fit(make_blobs(), SETTINGS, folder=tmp_path_factory.mktemp("whole") / "run")


def test_it_learns_and_leaves_a_folder_that_opens_again(blobs, whole):
    folder = whole
    metrics = json.loads((folder / "metrics.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    assert metrics["validation_auc"] > 0.9
    assert len(history) == SETTINGS.epochs
    assert metrics["validation_loss"] == pytest.approx(history["validation_loss"].min())
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json", "history.csv", "metrics.json", "predictions.parquet", "weights.safetensors",
    ]  # fmt: skip

    run = load_run(folder)
    validation = blobs.part("validation")
    stored = pd.read_parquet(folder / "predictions.parquet")
    assert list(stored["name"]) == list(validation.catalogue["name"])
    np.testing.assert_allclose(run.predict(validation.images), stored[["no_sub", "sub"]], atol=1e-5)


def test_a_trained_network_does_not_see_how_the_image_is_rotated(blobs, whole):
    run = load_run(whole)
    images = blobs.part("test").images
    upright = run.predict(images)
    for rotated in (90.0, 180.0, 270.0):
        np.testing.assert_allclose(run.predict(images, rotated), upright, atol=1e-5)
    np.testing.assert_allclose(run.predict(images[..., ::-1]), upright, atol=1e-5)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The training of `SETTINGS` in bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_BATCH", "1")
        settings = SETTINGS.model_copy(update={"precision": "bf16-mixed", "accelerator": "cpu"})
        return training.fit(make_blobs(), settings, folder=tmp_path_factory.mktemp("mixed") / "run")


def test_a_network_trained_in_mixed_precision_keeps_its_symmetry(blobs, whole, mixed):
    """It has learnt as well as in single precision, along a path that differs from the first step on by rounding, and
    predicts in single precision, where its symmetry is exact."""
    run, losses = load_run(mixed), [pd.read_csv(one / "history.csv")["train_loss"] for one in (whole, mixed)]
    assert not losses[1].equals(losses[0]) and losses[1][0] == pytest.approx(losses[0][0], rel=0.02)
    assert run.metrics["validation_auc"] == pytest.approx(load_run(whole).metrics["validation_auc"], abs=0.03)
    images = torch.from_numpy(blobs.part("test").images[:])
    assert symmetry.invariance_error(run.network, run.preprocess(images), 90.0, reflect=True) < 1e-5
    assert {value.dtype for value in run.network.state_dict().values()} <= {torch.float32, torch.int64}


def test_what_a_network_sees_and_how_it_is_judged_is_in_single_precision(blobs, mixed):
    stored = pd.read_parquet(mixed / "predictions.parquet")[["no_sub", "sub"]]
    np.testing.assert_allclose(load_run(mixed).predict(blobs.part("validation").images), stored, atol=1e-5)


def test_the_test_part_is_not_opened(blobs, tmp_path, quiet):
    spoilt = blobs.images.copy()
    spoilt[(blobs.catalogue["part"] == "test").to_numpy()] = np.nan
    blobs.images = spoilt
    folder = training.fit(blobs, SETTINGS.model_copy(update={"epochs": 1, "scaling": "asinh"}), folder=tmp_path / "run")
    assert math.isfinite(json.loads((folder / "metrics.json").read_text())["validation_loss"])


def weights(folder):
    return load_file(folder / "weights.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_same_parameters_give_the_same_weights_and_another_seed_does_not(blobs, whole, tmp_path, quiet):
    one, two = whole, training.fit(blobs, SETTINGS, folder=tmp_path / "two")
    other = training.fit(blobs, SETTINGS.model_copy(update={"seed": 2}), folder=tmp_path / "other")
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))
    drop = ["seconds", "images_per_second"]
    first, second = (pd.read_csv(f / "history.csv").drop(columns=drop) for f in (one, two))
    pd.testing.assert_frame_equal(first, second)


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_where_it_would_have_ended(blobs, whole, tmp_path, quiet, monkeypatch):
    step, steps = Fit.training_step, []

    def stops_in_the_third_epoch(module, batch, index):
        steps.append(index)
        if len(steps) == 11:
            raise Interrupted
        return step(module, batch, index)

    monkeypatch.setattr(Fit, "training_step", stops_in_the_third_epoch)
    with pytest.raises(Interrupted):
        training.fit(blobs, SETTINGS, folder=tmp_path / "halves")
    monkeypatch.setattr(Fit, "training_step", step)
    assert (tmp_path / "halves/last.ckpt").exists()
    halves = training.fit(blobs, SETTINGS, folder=tmp_path / "halves")
    assert same(weights(whole), weights(halves))
    assert len(pd.read_csv(halves / "history.csv")) == SETTINGS.epochs


def test_a_finished_training_is_left_alone_and_a_changed_one_done_again(blobs, tmp_path, quiet):
    short = SETTINGS.model_copy(update={"epochs": 1})
    folder = training.fit(blobs, short, folder=tmp_path / "run")
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    training.fit(blobs, short, folder=folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    training.fit(blobs, short.model_copy(update={"learning_rate": 0.001}), folder=folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns > before


def test_divergence_stops_at_once_and_says_where(blobs, tmp_path, quiet):
    wild = SETTINGS.model_copy(update={"scaling": "none"})
    blobs.images = blobs.images * np.float32(1e38)
    with pytest.raises(training.TrainingDiverged, match=r"loss is nan in step \d+ at a learning rate of"):
        training.fit(blobs, wild, folder=tmp_path / "run")
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
    folder = training.fit(blobs, settings, folder=tmp_path / "run")
    history = pd.read_csv(folder / "history.csv")
    assert history["gradient_norm"][0] > 0.05
    assert history["clipped_share"][0] > 0.5
    assert max(applied) <= 0.05 * (1 + 1e-4)
    assert len(applied) == 4


def test_rotating_before_cropping_keeps_the_corners(blobs, tmp_path, quiet):
    """A network that sees the central part is given corners from the full image, not blank ones."""
    images = torch.ones(1, 1, 24, 24)
    rotated = symmetry.rotate(images, 45.0, size=16)
    assert rotated.shape[-1] == 16
    torch.testing.assert_close(rotated, torch.ones(1, 1, 16, 16))


def test_binning_keeps_the_symmetry_and_the_mean(blobs, tmp_path, quiet):
    settings = SETTINGS.model_copy(update={"binning": 2, "epochs": 1})
    run = load_run(training.fit(blobs, settings, folder=tmp_path / "run"))
    assert (run.card["size"], run.card["crop"]) == (8, 16)
    images = blobs.part("test").images
    np.testing.assert_allclose(run.predict(images, 90.0), run.predict(images), atol=1e-5)


def test_lightning_tells_the_batches_which_epoch_it_is(blobs, tmp_path, quiet, monkeypatch):
    epochs = []
    monkeypatch.setattr(SeededBatches, "set_epoch", lambda batches, epoch: epochs.append(epoch))
    training.fit(blobs, SETTINGS.model_copy(update={"epochs": 3}), folder=tmp_path / "run")
    assert epochs == [0, 1, 2]


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_auc"])
def test_the_best_checkpoint_is_chosen_by_what_is_monitored(blobs, tmp_path, quiet, monitor):
    folder = training.fit(blobs, SETTINGS.model_copy(update={"monitor": monitor}), folder=tmp_path / "run")
    history = pd.read_csv(folder / "history.csv")
    best = history[monitor].idxmax() if monitor.endswith("auc") else history[monitor].idxmin()
    assert json.loads((folder / "metrics.json").read_text())["best_epoch"] == history["epoch"][best]


def test_patience_ends_a_training_that_makes_no_progress(blobs, tmp_path, quiet):
    stuck = SETTINGS.model_copy(update={"epochs": 8, "patience": 2, "learning_rate": 1e-12, "schedule": "constant"})
    folder = training.fit(blobs, stuck.model_copy(update={"monitor": "validation_auc"}), folder=tmp_path / "run")
    assert len(pd.read_csv(folder / "history.csv")) < 8


def test_an_exploding_loss_stops_as_well_and_keeps_the_last_good_checkpoint(blobs, tmp_path, quiet):
    wild = SETTINGS.model_copy(
        update={"network": "plain-cnn", "optimizer": "sgd", "learning_rate": 10.0, "gradient_clip": 0.0, "epochs": 30}
    )
    step, calm = Fit.training_step, []

    def explodes_in_the_second_epoch(module, batch, number):
        calm.append(number)
        images, labels = batch
        return step(module, (images if len(calm) <= module.batches else images * torch.nan, labels), number)

    Fit.training_step = explodes_in_the_second_epoch
    try:
        with pytest.raises(training.TrainingDiverged, match="learning rate"):
            training.fit(blobs, wild.model_copy(update={"learning_rate": 0.01}), folder=tmp_path / "run")
    finally:
        Fit.training_step = step
    assert (tmp_path / "run/last.ckpt").exists()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def with_(**changes):
    return SETTINGS.model_copy(update=changes)


def test_a_share_takes_as_many_steps_and_sees_fewer_images(blobs, tmp_path, quiet, monkeypatch):
    seen, step = [], Fit.training_step

    def noting(module, batch, number):
        seen.append(batch[0])
        return step(module, batch, number)

    monkeypatch.setattr(Fit, "training_step", noting)
    folder = training.fit(blobs, with_(share=25.0, epochs=2), folder=tmp_path / "run")
    train = blobs.part("train")
    different = {image.numpy().tobytes() for image in torch.cat(seen)}
    assert len(seen) == 2 * (len(train) // SETTINGS.batch_size)
    expected = sum(math.ceil(0.25 * count) for count in np.bincount(train.labels))
    assert len(different) == expected == json.loads((folder / "card.json").read_text())["training_images"]


def test_accumulated_batches_make_one_step_of_their_mean(blobs, tmp_path, quiet):
    """Without batch norm's memory of single batches, two halves of a batch give the gradient of the whole."""
    network = training.build(training.card_of(blobs, SETTINGS)).eval()
    images, labels = torch.as_tensor(blobs.images[:16]), torch.as_tensor(blobs.labels[:16])
    loss = torch.nn.functional.cross_entropy

    def gradient(*losses):
        return torch.autograd.grad(sum(losses) / len(losses), list(network.parameters()))

    whole = gradient(loss(network(images), labels))
    halves = gradient(loss(network(images[:8]), labels[:8]), loss(network(images[8:]), labels[8:]))
    for one, other in zip(whole, halves, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    history = pd.read_csv(training.fit(blobs, with_(accumulate=2, epochs=1), folder=tmp_path / "run") / "history.csv")
    assert len(history) == 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_schedule_ends_with_the_training_however_batches_are_accumulated(blobs, tmp_path, quiet, accumulate):
    """Four batches an epoch make two steps, of three and of one; the rate after the last step is the cycle's lowest."""
    settings = with_(accumulate=accumulate, epochs=3, width=0.25, schedule="one-cycle", learning_rate=0.01)
    history = pd.read_csv(training.fit(blobs, settings, folder=tmp_path / "run") / "history.csv")
    assert history["learning_rate"].iloc[0] > 1e-3
    assert history["learning_rate"].iloc[-1] == pytest.approx(0.01 / 25 / 1e4)


def test_label_smoothing_is_in_the_training_loss_only(blobs, tmp_path, quiet):
    plain = pd.read_csv(training.fit(blobs, with_(epochs=1, learning_rate=1e-9), folder=tmp_path / "a") / "history.csv")
    smooth = training.fit(blobs, with_(epochs=1, learning_rate=1e-9, label_smoothing=0.5), folder=tmp_path / "b")
    smooth = pd.read_csv(smooth / "history.csv")
    assert smooth["validation_loss"][0] == pytest.approx(plain["validation_loss"][0], abs=1e-6)
    assert smooth["train_loss"][0] != pytest.approx(plain["train_loss"][0], abs=1e-6)


@pytest.mark.parametrize("network", ["d4-steerable-cnn", "resnet18"])
@pytest.mark.parametrize("averaging", ["ema", "swa"])
def test_averaged_weights_have_batch_norm_statistics_of_their_own(blobs, tmp_path, quiet, averaging, network):
    """The best checkpoint gives the stored predictions, batch norm recalibrated on it, and is exactly symmetric."""
    width = 0.25 if network == "resnet18" else 0.5
    folder = training.fit(
        blobs, with_(network=network, width=width, averaging=averaging, averaging_start=0.5), folder=tmp_path / "run"
    )
    run, validation = load_run(folder), blobs.part("validation")
    stored = pd.read_parquet(folder / "predictions.parquet")[["no_sub", "sub"]]
    np.testing.assert_allclose(run.predict(validation.images), stored, atol=1e-5)
    assert json.loads((folder / "metrics.json").read_text())["validation_auc"] > 0.8
    if network.startswith("d4"):
        np.testing.assert_allclose(run.predict(validation.images, 90.0), stored, atol=1e-4)


def test_the_exponential_average_is_the_closed_form_of_the_steps(blobs, tmp_path, quiet, monkeypatch):
    path, end = [], Fit.on_train_batch_end

    def noting(module, *rest):
        path.append(module.network.classifier.bias.detach().clone())
        end(module, *rest)

    monkeypatch.setattr(Fit, "on_train_batch_end", noting)
    settings = with_(averaging="ema", averaging_decay=0.8, epochs=1, monitor="last")
    kept = weights(training.fit(blobs, settings, folder=tmp_path / "run"))["classifier.bias"]
    expected = path[0]
    for value in path[1:]:
        expected = 0.8 * expected + 0.2 * value
    torch.testing.assert_close(kept, expected)


def test_last_keeps_the_last_epoch_whatever_the_validation_says(blobs, tmp_path, quiet):
    folder = training.fit(blobs, with_(monitor="last", learning_rate=0.3, epochs=3), folder=tmp_path / "run")
    assert json.loads((folder / "metrics.json").read_text())["best_epoch"] == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd"},
        {"averaging": "ema"},
        {"averaging": "swa"},
        {"schedule": "plateau", "decay_patience": 0, "learning_rate": 0.1},
        {"schedule": "cosine"},
        {"schedule": "step"},
        {"schedule": "constant"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_an_interruption_changes_nothing_whatever_is_remembered(blobs, tmp_path, quiet, monkeypatch, changes):
    settings = with_(epochs=4, monitor="last", **changes)
    whole = training.fit(blobs, settings, folder=tmp_path / "whole")
    step, count = Fit.training_step, []

    def stops(module, batch, number):
        count.append(number)
        if len(count) == 3 * module.batches - 1:
            raise Interrupted
        return step(module, batch, number)

    monkeypatch.setattr(Fit, "training_step", stops)
    with pytest.raises(Interrupted):
        training.fit(blobs, settings, folder=tmp_path / "halves")
    monkeypatch.setattr(Fit, "training_step", step)
    assert same(weights(whole), weights(training.fit(blobs, settings, folder=tmp_path / "halves")))


def test_a_folder_that_is_moved_between_interruption_and_resumption_keeps_its_best_checkpoint(
    blobs, tmp_path, quiet, monkeypatch
):
    settings = with_(
        epochs=4, width=0.25, schedule="constant", learning_rate=0.02
    )  # a rate at which it does not settle
    whole = training.fit(blobs, settings, folder=tmp_path / "whole")
    best = json.loads((whole / "metrics.json").read_text())["best_epoch"]
    assert best < settings.epochs
    step, count = Fit.training_step, []

    def stops_after_the_best_epoch(module, batch, number):
        count.append(number)
        if len(count) > best * module.batches:
            raise Interrupted
        return step(module, batch, number)

    monkeypatch.setattr(Fit, "training_step", stops_after_the_best_epoch)
    with pytest.raises(Interrupted):
        training.fit(blobs, settings, folder=tmp_path / "here")
    monkeypatch.setattr(Fit, "training_step", step)
    moved = training.fit(blobs, settings, folder=(tmp_path / "here").rename(tmp_path / "there"))
    assert json.loads((moved / "metrics.json").read_text())["best_epoch"] == best
    assert same(weights(whole), weights(moved))


def test_plateau_lowers_the_rate_once_the_validation_loss_has_not_fallen_for_longer_than_the_patience(
    blobs, tmp_path, quiet
):
    settings = with_(schedule="plateau", decay_patience=1, decay_factor=0.5, warmup_fraction=0.0, epochs=12)
    settings = settings.model_copy(update={"learning_rate": 0.03, "width": 0.25})
    history = pd.read_csv(training.fit(blobs, settings, folder=tmp_path / "run") / "history.csv")
    best, waited, rate, expected = math.inf, 0, 0.03, []
    for loss in history["validation_loss"]:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited > 1:
            rate, waited = rate * 0.5, 0
        expected.append(rate)
    assert expected[-1] < 0.03
    np.testing.assert_allclose(history["learning_rate"], expected)


def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(blobs, tmp_path, quiet):
    """A real SIGKILL, in a process of its own, once a checkpoint is there."""
    settings = with_(epochs=6, width=0.25)
    whole = training.fit(blobs, settings, folder=tmp_path / "whole")
    blobs.save(tmp_path / "blobs")
    script = (
        "import sys; from lensstudy.data.dataset import LensDataset; from lensstudy.study import Study; "
        "from lensstudy.training.fitting import fit; "
        "fit(LensDataset.load(sys.argv[1]), Study.of(eval(sys.argv[2])), folder=sys.argv[3])"
    )
    arguments = [sys.executable, "-c", script, tmp_path / "blobs", repr(settings.model_dump()), tmp_path / "killed"]
    process = subprocess.Popen(list(map(str, arguments)), stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "killed/last.ckpt").exists():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/metrics.json").exists()
    assert same(weights(whole), weights(training.fit(blobs, settings, folder=tmp_path / "killed")))


def parallel(**changes):
    return with_(width=0.25, epochs=2, accelerator="cpu", learning_rate=0.001, decay_patience=0, **changes)


PARALLEL = {
    "d4": parallel(),
    "d4-ema-plateau": parallel(averaging="ema", schedule="plateau"),
    "resnet18": parallel(network="resnet18"),
}


# One task, whatever the devices, as Snakemake asks for. Lightning took it for one of two processes that srun starts.
JOB = {"JOB_ID": "5", "JOB_NAME": "train", "NTASKS": "1", "NNODES": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """A folder with each training of `PARALLEL` on two processes of a SLURM job, and in `told` what one of them says
    that diverges."""
    folder, blobs = tmp_path_factory.mktemp("two"), make_blobs()
    blobs.save(folder / "blobs")
    blobs.images = blobs.images * np.float32(1e38)
    blobs.save(folder / "bright")
    settings = {name: one.model_copy(update={"devices": 2}).model_dump() for name, one in PARALLEL.items()}
    script = (
        "from lensstudy.data.dataset import LensDataset; from lensstudy.study import Study\n"
        "from lensstudy.training.fitting import TrainingDiverged, fit\n"
        f"settings = {settings}\n"
        "for name, one in settings.items(): fit(LensDataset.load('blobs'), Study.of(one), folder=name)\n"
        "try: fit(LensDataset.load('bright'), Study.of(settings['d4']), folder='diverged')\n"
        "except TrainingDiverged as error: open('told', 'w').write(str(error))"
    )
    environment = os.environ | {"LENSSTUDY_BATCH": "1"} | {f"SLURM_{name}": value for name, value in JOB.items()}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_give_the_training_of_one_at_the_same_batch(blobs, on_two, tmp_path, quiet, name):
    """DDP on two processes: the same loss, gradients and predictions within rounding, batch norm included."""
    one = training.fit(blobs, PARALLEL[name], folder=tmp_path / "one")
    first, second = (pd.read_csv(folder / "history.csv") for folder in (one, on_two / name))
    for column in ("train_loss", "validation_loss", "gradient_norm"):
        np.testing.assert_allclose(second[column], first[column], rtol=2e-3, err_msg=column)
    probabilities = [
        pd.read_parquet(folder / "predictions.parquet")[["no_sub", "sub"]] for folder in (one, on_two / name)
    ]
    np.testing.assert_allclose(*probabilities, atol=5e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, "3 devices cannot share a batch equally"),
        ({"precision": "16-mixed", "accelerator": "cpu"}, "needs a GPU, and none is used here; use bf16-mixed"),
        ({"curriculum": [[1, 4.0, 20.0]]}, "fresh_images"),
        ({"fresh_images": 32, "data_path": "somewhere"}, "cannot be drawn anew"),
        ({"fresh_images": 32, "share": 10.0}, "fresh images have no shares"),
    ],
)
def test_parameters_that_do_not_go_together_are_named_with_the_way_out(blobs, tmp_path, quiet, changes, message):
    with pytest.raises(ParameterError, match=message):
        training.fit(blobs, with_(**changes), folder=tmp_path / "run")


def test_a_full_gpu_is_no_traceback(blobs, tmp_path, quiet):
    class Full(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 2)

        def forward(self, images):
            if self.training:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return self.linear(images.flatten(1)[:, :4])

    with pytest.raises(ParameterError, match=r"batch_size = 16: the GPU is out of memory .*--cores"):
        training.fit(blobs, with_(), network=Full(), folder=tmp_path / "run")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_training_on_a_gpu_is_that_on_the_processor(blobs, whole, tmp_path, quiet, precision):
    folder = training.fit(blobs, with_(accelerator="gpu", precision=precision), folder=tmp_path / "run")
    run = load_run(folder)
    assert run.metrics["validation_auc"] == pytest.approx(load_run(whole).metrics["validation_auc"], abs=0.03)
    images = blobs.part("test").images
    np.testing.assert_allclose(run.predict(images, 90.0), run.predict(images), atol=1e-5)
    assert next(run.network.parameters()).device.type == "cpu"


def test_a_training_can_fine_tune_the_weights_of_another(blobs, whole, tmp_path, quiet):
    settings = with_(epochs=1, learning_rate=1e-9, warmup_fraction=0.0)
    second = training.fit(blobs, settings, folder=tmp_path / "second", start_from=whole)
    torch.testing.assert_close(weights(second)["classifier.weight"], weights(whole)["classifier.weight"])
    with pytest.raises(ValueError, match="start from a training of the same"):
        training.fit(blobs, with_(width=1.0), folder=tmp_path / "third", start_from=whole)


def test_a_training_can_start_from_a_network_that_comes_with_the_package(blobs, tmp_path, quiet, monkeypatch):
    """By its name; its weights may be rounded to half precision, and are trained in single precision."""
    first = training.fit(blobs, with_(epochs=1), folder=tmp_path / "first")
    box = tmp_path / "box"
    (box / "blobs-d4" / "training").mkdir(parents=True)
    (box / "blobs-d4" / "card.json").touch()
    monkeypatch.setattr(network_names, "PRETRAINED", box)
    settings = with_(epochs=1, learning_rate=1e-9, warmup_fraction=0.0)
    with pytest.raises(ValueError, match="blobs-d4: comes with lensstudy to predict with, and without the training"):
        training.fit(blobs, settings, folder=tmp_path / "second", start_from="blobs-d4")
    for name in ("card.json", "metrics.json"):
        shutil.copy(first / name, box / "blobs-d4" / "training" / name)
    registry.save_weights(load_run(first).network.half(), box / "blobs-d4" / "training" / "weights.safetensors")
    second = training.fit(blobs, settings, folder=tmp_path / "second", start_from="blobs-d4")
    found, expected = weights(second)["classifier.weight"], weights(first)["classifier.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    with pytest.raises(ValueError, match="blobs-d: there is no such folder.*did you mean 'blobs-d4'"):
        training.fit(blobs, settings, folder=tmp_path / "third", start_from="blobs-d")


def test_the_range_test_finds_the_rates_that_do_not_work(blobs, quiet):
    found = training.range_test(blobs, with_(range_test_steps=40))
    assert found["learning_rate"].is_monotonic_increasing
    assert 1e-5 <= found["learning_rate"].min() < 1e-3
    assert found["smoothed"].min() < 0.7 * found["smoothed"].iloc[0]
    again = training.range_test(blobs, with_(range_test_steps=40))
    pd.testing.assert_frame_equal(found, again)


def test_the_range_test_measures_what_a_loop_by_hand_measures(blobs, quiet):
    """Loss before each step, the rate that grows, and the average: the first point is the loss of an untrained network
    and not half of it."""
    steps, settings = 12, with_(augmentation="none", range_test_steps=12, gradient_clip=0.0)
    found = training.range_test(blobs, settings, lowest=1e-4, highest=0.1)
    train = blobs.part("train")
    preprocess = Preprocess.fit(train.images, "none", 0, 1)
    size = preprocess(train.images[:1]).shape[-1]
    network = registry.build_network(settings.network, size, 2, width=settings.width, seed=settings.seed).train()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=settings.weight_decay)
    losses, batches = [], iter([])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-4 * 1000 ** (step / (steps - 1))
        batch = next(batches, None)
        if batch is None:
            loader = training_loader(train, training.steps_per_epoch(blobs, settings), settings)
            loader.sampler.set_epoch(step // len(loader))
            batches = iter(loader)
            batch = next(batches)
        loss = torch.nn.functional.cross_entropy(network(preprocess(batch[0])), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(2), abs=0.15)
    np.testing.assert_allclose(found["loss"], losses, rtol=1e-3)
    np.testing.assert_allclose(found["learning_rate"], np.logspace(-4, -1, steps))
    memory = 1 - 2 / (2 + 1)  # of a span of two steps
    weights_back = memory ** np.arange(steps)
    by_hand = [np.average(losses[: k + 1][::-1], weights=weights_back[: k + 1]) for k in range(steps)]
    np.testing.assert_allclose(found["smoothed"], by_hand, rtol=1e-3)


def test_a_training_that_is_stopped_by_hand_keeps_its_best_and_goes_on_when_asked_again(blobs, tmp_path, quiet):
    stopped = training.fit(blobs, SETTINGS, folder=tmp_path / "run", watch=lambda history: len(history) == 2)
    run = load_run(stopped)
    assert len(run.history) == run.metrics["epochs"] == 2
    best = run.history.loc[run.history["validation_loss"].idxmin()]
    assert run.metrics["best_epoch"] == best["epoch"]
    given = run.predict(blobs.part("validation").images)
    np.testing.assert_allclose(given, run.validation[["no_sub", "sub"]], atol=1e-5)
    labels = blobs.part("validation").labels
    np.testing.assert_allclose(run.validation["given"], given[np.arange(len(labels)), labels], atol=1e-5)
    training.fit(blobs, SETTINGS, folder=stopped)
    whole = load_run(training.fit(blobs, SETTINGS, folder=tmp_path / "whole"))
    untimed = [name for name in whole.history if "second" not in name]
    pd.testing.assert_frame_equal(load_run(stopped).history[untimed], whole.history[untimed])
    assert sorted(file.name for file in stopped.iterdir()) == sorted(file.name for file in whole.folder.iterdir())


def test_what_differs_between_two_trainings_is_told(blobs, tmp_path, quiet):
    folders = [
        training.fit(blobs, with_(epochs=1), folder=tmp_path / "a"),
        training.fit(blobs, with_(epochs=1, seed=2), folder=tmp_path / "b"),
        training.fit(blobs, with_(epochs=1, weight_decay=0.1), folder=tmp_path / "c"),
    ]
    cards = [json.loads((folder / "card.json").read_text()) for folder in folders]
    assert training.differences(cards[:2]).columns.empty
    found = training.differences(cards)
    assert list(found.columns) == ["weight_decay"]
    assert list(found["weight_decay"]) == [cards[0]["weight_decay"], 0.1]
    few = [card | {"share": 50.0, "training_images": 1} for card in cards]
    assert len(training.differences([*cards, *few])) == 4


def test_whoever_watches_sees_loss_auc_speed_and_the_time_that_is_left(blobs, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("LENSSTUDY_BATCH", raising=False)
    seen = []
    training.fit(
        blobs, with_(epochs=2, width=0.25), folder=tmp_path / "run", watch=lambda history: seen.append(len(history))
    )
    bar = capsys.readouterr().err
    assert all(word in bar for word in ("loss=", "validation AUC=", "images/s=", "8/8", "<"))
    assert "d4\u2011steerable\u2011cnn" in bar and "d4-" not in bar, "a name breaks at no hyphen"
    assert seen == [1, 2]
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    training.fit(blobs, with_(epochs=1, width=0.25), folder=tmp_path / "silent")
    assert capsys.readouterr().err == ""


def test_the_history_is_written_for_tensorboard_where_that_is_asked_for(blobs, tmp_path, quiet):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = training.fit(blobs, with_(epochs=3, width=0.25, tensorboard=True), folder=tmp_path / "run")
    history = pd.read_csv(folder / "history.csv")
    events = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    for column, name in {"train_loss": "loss", "validation_auc": "validation_auc", "recall_sub": "recall_sub"}.items():
        assert [event.value for event in events.Scalars(name)] == pytest.approx(list(history[column]))
    training.fit(blobs, with_(epochs=1, width=0.25), folder=folder)
    assert not (folder / "tensorboard").exists()  # it belonged to another training


def test_where_tensorboard_is_missing_the_way_out_is_told(blobs, tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="tensorboard = true: not installed here; run pip install tensorboard"):
        training.fit(blobs, with_(tensorboard=True), folder=tmp_path / "run")


@pytest.mark.parametrize("monitor", ["validation_loss", "last"])
def test_a_gradient_that_is_no_number_stops_before_anything_is_kept_of_it(blobs, tmp_path, quiet, monkeypatch, monitor):
    """In the last step of the last epoch, at a loss that looks fine."""
    step, seen = Fit.on_before_optimizer_step, []

    def spoilt(module, optimizer):
        seen.append(1)
        if len(seen) == 2 * module.batches:
            module.network.classifier.bias.grad[0] = torch.nan
        step(module, optimizer)

    monkeypatch.setattr(Fit, "on_before_optimizer_step", spoilt)
    with pytest.raises(training.TrainingDiverged, match="norm of the gradient is nan in step 7"):
        training.fit(blobs, with_(epochs=2, monitor=monitor), folder=tmp_path / "run")
    assert not (tmp_path / "run/metrics.json").exists()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    monkeypatch.setattr(Fit, "on_before_optimizer_step", step)
    assert (training.fit(blobs, with_(epochs=2, monitor=monitor), folder=tmp_path / "run") / "metrics.json").exists()


def test_early_stopping_is_not_forgotten_when_the_end_is_interrupted(blobs, tmp_path, quiet, monkeypatch):
    stuck = with_(epochs=8, patience=2, learning_rate=1e-12, schedule="constant", monitor="last")
    whole = training.fit(blobs, stuck, folder=tmp_path / "whole")
    finish = Recorder.finish

    def killed(recorder):
        raise Interrupted

    monkeypatch.setattr(Recorder, "finish", killed)
    with pytest.raises(Interrupted):
        training.fit(blobs, stuck, folder=tmp_path / "halves")
    monkeypatch.setattr(Recorder, "finish", finish)
    halves = training.fit(blobs, stuck, folder=tmp_path / "halves")
    assert len(pd.read_csv(halves / "history.csv")) == len(pd.read_csv(whole / "history.csv")) < 8
    assert same(weights(whole), weights(halves))
    assert not (halves / "last.ckpt").exists()


@pytest.mark.parametrize(
    "changes", [{"network": "no-such-cnn"}, {"kernel_sizes": [3]}, {"fresh_images": 9, "data_path": "x"}]
)
def test_a_wrong_parameter_leaves_the_finished_training_in_the_folder(blobs, tmp_path, quiet, changes):
    folder = training.fit(blobs, with_(epochs=1), folder=tmp_path / "run")
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises((ValueError, ParameterError)):
        training.fit(blobs, with_(epochs=1, **changes), folder=folder)
    assert sorted(file.name for file in folder.iterdir()) == before


@pytest.mark.slow
def test_divergence_on_two_processes_is_told_as_on_one(on_two):
    assert (on_two / "told").read_text().startswith("d4-steerable-cnn: the loss is nan in step 0")
    assert not (on_two / "diverged/metrics.json").exists()


def test_the_range_test_needs_one_device_only_and_is_silent_in_batch(blobs, quiet, capsys):
    assert len(training.range_test(blobs, with_(devices=2))) > 5
    assert capsys.readouterr().err == ""


def test_a_split_that_leaks_is_not_trained_on(blobs, tmp_path, quiet):
    parts = blobs.catalogue["part"].to_numpy()
    images = blobs.images.copy()
    images[np.flatnonzero(parts == "train")[0]] = np.rot90(images[np.flatnonzero(parts == "test")[0]], 1, (1, 2))
    blobs.images = images
    with pytest.raises(DataError, match="leak between parts"):
        training.fit(blobs, SETTINGS, folder=tmp_path / "run")


class OwnNetwork(torch.nn.Module):
    """As somebody writes it who knows nothing of this project."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, channels, 5), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)
        )
        self.last = torch.nn.Linear(channels, 2)

    def forward(self, images):
        return self.last(self.layers(images).flatten(1))


def test_any_module_is_trained_and_opened_again(blobs, tmp_path, quiet):
    torch.manual_seed(0)
    own = OwnNetwork()
    first = {name: value.clone() for name, value in own.state_dict().items()}
    folder = training.fit(blobs, with_(epochs=3), network=own, folder=tmp_path / "run")
    assert all(torch.equal(own.state_dict()[name], value) for name, value in first.items())  # a copy was trained
    run, validation = load_run(folder, network=OwnNetwork()), blobs.part("validation")
    stored = pd.read_parquet(folder / "predictions.parquet")[["no_sub", "sub"]]
    np.testing.assert_allclose(run.predict(validation.images), stored, atol=1e-5)
    images = run.preprocess(validation.images[:5])
    last = run.network.last
    torch.testing.assert_close(run.network.features(images) @ last.weight.T + last.bias, run.network(images))

    written = (folder / "metrics.json").stat().st_mtime_ns
    training.fit(blobs, with_(epochs=3), network=own, folder=folder)
    assert (folder / "metrics.json").stat().st_mtime_ns == written  # this very training
    with torch.no_grad():
        own.last.bias += 1
    training.fit(blobs, with_(epochs=3), network=own, folder=folder)
    assert (folder / "metrics.json").stat().st_mtime_ns != written

    with pytest.raises(
        ValueError, match=r"OwnNetwork, which lensstudy cannot build.*load_run\(folder, network=module\)"
    ):
        load_run(folder)
    with pytest.raises(ValueError, match="do not fit this 'OwnNetwork'"):
        load_run(folder, network=OwnNetwork(channels=4))


PLUGIN = """
from torch import nn
from lensstudy import register

@register("{name}")
def build(image_size, n_classes, in_channels=1, width=1.0):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, n_classes))
"""


@pytest.fixture
def plugins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {})
    (tmp_path / "my_networks.py").write_text(PLUGIN.format(name="my-network"))
    (tmp_path / "no_networks.py").write_text("")
    yield
    for module in ("my_networks", "no_networks"):
        sys.modules.pop(module, None)


def test_a_network_of_a_plugin_is_trained_by_its_name_and_opened_again(blobs, tmp_path, quiet, plugins):
    study = with_(network="my-network", plugins=["my_networks"], epochs=1)
    folder = training.fit(blobs, study, folder=tmp_path / "run")
    stored = pd.read_parquet(folder / "predictions.parquet")[["no_sub", "sub"]]
    np.testing.assert_allclose(load_run(folder).predict(blobs.part("validation").images), stored, atol=1e-5)
    card = json.loads((folder / "card.json").read_text())
    assert card["network_source"] == hashlib.sha256((tmp_path / "my_networks.py").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="Did you mean 'my-network'"):
        training.fit(blobs, with_(network="my-netwrk", plugins=["my_networks"]), folder=tmp_path / "other")


def forget(*modules):
    """As in another process: nothing is registered, and the modules are not imported."""
    registry._REGISTERED.clear()
    for module in [one for one in sys.modules if one.partition(".")[0] in modules]:
        sys.modules.pop(module)
    importlib.invalidate_caches()


def test_a_registered_network_is_opened_again_with_the_plugins_of_its_card(
    blobs, tmp_path, quiet, plugins, monkeypatch
):
    study = with_(network="my-network", plugins=["my_networks"], epochs=1)
    folder = training.fit(blobs, study, folder=tmp_path / "runs/mine/training/my-network-s1")
    stored = pd.read_parquet(folder / "predictions.parquet")[["no_sub", "sub"]]
    forget("my_networks")
    np.testing.assert_allclose(load_run(folder).predict(blobs.part("validation").images), stored, atol=1e-5)
    forget("my_networks")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(
        ValueError, match="'my-network' is registered by 'my_networks', and .* neither in .*elsewhere nor"
    ):
        load_run(folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_networks.py").write_text(PLUGIN.format(name="my-network") + "# other code\n")
    with pytest.raises(ValueError, match="whose code has changed since this training; train again"):
        load_run(folder)


@pytest.mark.parametrize("place", ["run", "runs/evil", "runs"])
def test_nothing_that_came_with_a_run_folder_is_imported(blobs, tmp_path, quiet, plugins, monkeypatch, place):
    """A card may name any module: not one in the run folder or beside it, whatever the working folder."""
    study = with_(network="my-network", plugins=["my_networks"], epochs=1)
    folder = training.fit(blobs, study, folder=tmp_path / "runs/evil/run")
    forget("my_networks")
    evil = {"run": folder, "runs/evil": folder.parent, "runs": folder.parent.parent}[place] / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + PLUGIN.format(name="my-network"))
    card = json.loads((folder / "card.json").read_text())
    for names in (["evil"], [".".join(evil.relative_to(tmp_path).with_suffix("").parts)], ["../evil"], 5, [None]):
        (folder / "card.json").write_text(json.dumps(card | {"plugins": names}))
        for here in {tmp_path, folder} if place == "run" else {tmp_path}:
            monkeypatch.chdir(here)
            with pytest.raises(ValueError, match="its network 'my-network' is registered by"):
                load_run(folder)
            assert not (tmp_path / "ran").exists()
    for module in ("evil", "runs"):
        forget(module)


def test_a_network_of_a_package_counts_with_all_that_it_imports_from_there(blobs, tmp_path, quiet, plugins):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import networks\n")
    (package / "networks.py").write_text(
        PLUGIN.format(name="my-network")
        .replace("nn.Linear", "last")
        .replace("from torch import nn", "from torch import nn\nfrom .layers import last")
    )
    (package / "layers.py").write_text("from torch import nn\nlast = nn.Linear\n")
    (package / "unused.py").write_text("1")

    def card(plugin):
        forget("my_package")
        study = with_(network="my-network", plugins=[plugin], epochs=1)
        return json.loads((training.fit(blobs, study, folder=tmp_path / "run") / "card.json").read_text())

    first = card("my_package")
    assert card("my_package.networks")["network_source"] == first["network_source"]
    (package / "unused.py").write_text("2")
    assert card("my_package")["network_source"] == first["network_source"]
    (package / "layers.py").write_text("from torch import nn\nlast = nn.Linear  # as before\n")
    assert card("my_package")["network_source"] != first["network_source"]
    assert [file.name for file in plugin_files("my_package")] == ["__init__.py", "layers.py", "networks.py"]
    forget("my_package")


def test_a_registered_network_has_all_that_one_of_ours_has(plugins):
    class Layered(torch.nn.Module):
        """As torchvision's, whose layers are called `features`."""

        def __init__(self, classes):
            super().__init__()
            self.features, self.classifier = torch.nn.Flatten(), torch.nn.Linear(64, classes)

        def forward(self, images):
            return self.classifier(self.features(images))

    registry.register("plain")(
        lambda size, classes, in_channels=1, width=1.0: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(in_channels * size**2, classes)
        )
    )
    registry.register("layered")(lambda size, classes, in_channels=1, width=1.0: Layered(classes))
    images = torch.randn(2, 1, 8, 8)
    for name in ("plain", "layered"):
        for network in (registry.build_network(name, 8, 3), copy.deepcopy(registry.build_network(name, 8, 3))):
            assert torch.equal(network.features(images), images.flatten(1))
            assert (network.name, network.group, network.image_size, network.in_channels) == (name, "", 8, 1)
            assert [row["parameters"] for row in describe(network)] == [0, 64 * 3 + 3]
    network = registry.build_network("plain", 8, 3)
    changed = copy.deepcopy(network)
    changed[1] = torch.nn.Identity()
    assert torch.equal(changed.features(images), changed(images)), "a copy looks into itself"
    assert list(network.state_dict()) == ["1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("not_there", "'not_there' cannot be imported.*expected not_there.py in"),
        ("no_networks", "registers no network"),
    ],
)
def test_a_plugin_that_brings_no_network_says_so(blobs, tmp_path, plugins, module, message):
    with pytest.raises(ValueError, match=message):
        training.fit(blobs, with_(plugins=[module]), folder=tmp_path / "run")


def test_a_name_of_lensstudy_cannot_be_registered():
    with pytest.raises(ValueError, match="'resnet18' is one of lensstudy's own"):
        registry.register("resnet18")


class Normed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        self.classifier = torch.nn.Linear(4, 2)

    def forward(self, images):
        return self.classifier(self.layers(images).mean((2, 3)))


def test_a_module_with_batch_norm_is_trained_and_its_code_counts(blobs, tmp_path, quiet, monkeypatch):
    study, module = with_(epochs=1), Normed()
    folder = training.fit(blobs, study, network=module, folder=tmp_path / "run")
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    training.fit(blobs, study, network=module, folder=folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    source = training.inspect.getsource
    monkeypatch.setattr(training.inspect, "getsource", lambda kind: source(kind) + "# changed")
    training.fit(blobs, study, network=module, folder=folder)
    assert (folder / "weights.safetensors").stat().st_mtime_ns > before


def test_the_last_layer_begins_anew_where_the_classes_are_others(blobs, tmp_path, quiet):
    first = training.fit(blobs, with_(epochs=1), folder=tmp_path / "first")
    others = replace(blobs, classes=("sub", "no_sub"))
    settings = with_(epochs=1, learning_rate=1e-9, warmup_fraction=0.0)
    second = training.fit(others, settings, folder=tmp_path / "second", start_from=first)
    assert not torch.allclose(weights(second)["classifier.weight"], weights(first)["classifier.weight"])
    torch.testing.assert_close(weights(second)["body.conv1.weight"], weights(first)["body.conv1.weight"])


def test_rare_classes_count_as_much_as_others_where_weights_are_balanced(blobs, tmp_path, quiet):
    """The loss of the first step is the mean over classes of the mean over their images."""
    rare = blobs.subset(np.flatnonzero((blobs.labels == 0) | (np.arange(len(blobs)) % 5 == 0)))
    part = rare.part("train")
    settings = {"epochs": 1, "learning_rate": 1e-9, "batch_size": len(part), "augmentation": "none"}
    found, cards = {}, {}
    for weights in ("none", "balanced"):
        run = training.fit(rare, with_(class_weights=weights, **settings), folder=tmp_path / weights)
        found[weights] = pd.read_csv(run / "history.csv")["train_loss"][0]
        cards[weights] = json.loads((run / "card.json").read_text())
    counts = np.bincount(part.labels)
    assert cards["none"]["class_shares"] == pytest.approx(counts / counts.sum()) and counts[1] < counts[0] / 2
    run = load_run(tmp_path / "none")
    run.network.train()
    with torch.no_grad():
        logits = run.network(run.preprocess(np.array(part.images)))
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.labels), reduction="none").numpy()
    assert found["none"] == pytest.approx(each.mean(), rel=1e-3)
    by_class = [each[part.labels == k].mean() for k in (0, 1)]
    assert found["balanced"] == pytest.approx(np.mean(by_class), rel=1e-3)
    assert abs(by_class[0] - by_class[1]) > 0.01, "or the two would agree anyway"


def test_one_class_is_refused_before_anything_is_trained(blobs, tmp_path):
    alone = blobs.subset(np.flatnonzero(blobs.labels == 0))
    with pytest.raises(DataError, match=r"only one class \(no_sub\); training needs images of two or more"):
        training.fit(alone, with_(epochs=1), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
