"""What is damaged in a run folder is made again from what is not, and said; nothing damaged is used, or ends in a
traceback of its own."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from lensstudy.data.simulation import simulate
from lensstudy.files import FileError
from lensstudy.study import Study
from lensstudy.training import module
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run, read_metrics

STUDY = Study(epochs=2, batch_size=16, patience=0)


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 3))


@pytest.fixture(scope="module")
def lenses():
    return simulate("model_1", 20, seed=1, image_size=16).split(0.2, 0.4, seed=1)


@pytest.fixture(scope="module")
def finished(lenses, tmp_path_factory):
    return fit(lenses, STUDY, network=network(), folder=tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def damages(file, content):
    return {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "other bytes": b"\xff\x00 no file of this kind",
        "deep": b"[" * 200_000,
        "another": b'{"a": 1}',
    }


def weights(folder):
    return load_run(folder, network()).network.state_dict()


KINDS = ("empty", "cut", "other bytes", "deep", "another", "missing", "pipe")


def damage(file, kind):
    content = file.read_bytes()
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind != "missing":
        file.write_bytes(damages(file, content)[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["metrics.json", "predictions.parquet", "card.json", "weights.safetensors", "history.csv"]
)
def test_what_is_damaged_is_made_again(lenses, finished, run, name, kind):
    before = weights(finished)
    damage(run / name, kind)
    never_finished, of_another = (kind, name) == ("missing", "metrics.json"), name == "card.json"
    silent = never_finished or (of_another and kind in ("missing", "another"))
    if silent:
        fit(lenses, STUDY, network=network(), folder=run)
    else:
        with pytest.warns(UserWarning, match=r"again|anew"):
            fit(lenses, STUDY, network=network(), folder=run)
    after = weights(run)
    assert all(torch.equal(before[key], after[key]) for key in before)
    expected, found = (pd.read_parquet(folder / "predictions.parquet") for folder in (finished, run))
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    times = ("seconds", "images_per_second")
    expected, found = ({k: v for k, v in read_metrics(f).items() if k not in times} for f in (finished, run))
    assert found == pytest.approx(expected)
    assert not (run / "validation.npy").exists()


@pytest.mark.parametrize("name", ["metrics.json", "predictions.parquet"])
def test_what_follows_from_the_weights_is_not_trained_again(lenses, run, name, monkeypatch):
    monkeypatch.setattr(module, "Fit", None)  # whoever trains fails
    damage(run / name, "cut")
    with pytest.warns(UserWarning, match="made again from the weights"):
        fit(lenses, STUDY, network=network(), folder=run)
    fit(lenses, STUDY, network=network(), folder=run)


@pytest.mark.parametrize("name", ["metrics.json", "card.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["empty", "cut", "other bytes", "deep", "another", "pipe"])
def test_a_damaged_run_folder_is_not_opened(run, name, kind):
    damage(run / name, kind)
    with pytest.raises(ValueError, match=name):
        load_run(run, network())


@pytest.mark.parametrize(
    "change", [{"classes": 3}, {"classes": []}, {"size": "large"}, {"crop": 0}, {"scaling": {}}, {"scaling": "none"}]
)
def test_a_card_of_other_types_is_named(run, change):
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(FileError, match=rf"card\.json: is incomplete or altered \({next(iter(change))}"):
        load_run(run, network())


def interrupted(lenses, folder):
    """The beginning of a training: its first epoch."""

    def stop(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(lenses, STUDY.model_copy(update={"epochs": 3}), network=network(), folder=folder, watch=stop)
    assert (folder / "last.ckpt").exists()
    return folder


@pytest.mark.parametrize("name", ["last.ckpt", "validation.npy", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["empty", "cut", "other bytes", "pipe", "missing"])
def test_a_damaged_checkpoint_begins_anew(lenses, tmp_path, name, kind):
    study = STUDY.model_copy(update={"epochs": 3})
    whole = fit(lenses, study, network=network(), folder=tmp_path / "whole")
    damage(interrupted(lenses, tmp_path / "cut") / name, kind)
    if kind == "missing" and name == "last.ckpt":
        fit(lenses, study, network=network(), folder=tmp_path / "cut")
    else:
        with pytest.warns(UserWarning, match=r"last\.ckpt: cannot be gone on from"):
            fit(lenses, study, network=network(), folder=tmp_path / "cut")
    one, other = weights(whole), weights(tmp_path / "cut")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert np.isfinite(pd.read_csv(tmp_path / "cut" / "history.csv")["validation_loss"]).sum() == 3
