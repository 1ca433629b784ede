"""The training before this one is kept for whoever works by hand, and for nobody else."""

import numpy as np
import pytest

from lensstudy.figures import plots
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.previous import previous
from lensstudy.training.run import load_run

SETTINGS = Study(network="plain-cnn", width=0.25, epochs=2, batch_size=16, learning_rate=0.01)


def trained(blobs, tmp_path, **changes):
    settings = SETTINGS.model_copy(update=changes)
    return load_run(fit(blobs, settings, folder=tmp_path / settings.training_folder().name))


def test_each_run_is_beside_the_one_before(blobs, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    first = trained(blobs, tmp_path)
    monkeypatch.delenv("LENSSTUDY_BATCH")
    assert previous(first) is None and previous(first) is None
    second = trained(blobs, tmp_path, epochs=3, learning_rate=0.02)  # in the same folder
    for _ in range(2):  # asked again, the same
        before = previous(second)
        assert before.changes.to_dict("index") == {
            "epochs": {"now": 3, "before": 2},
            "learning_rate": {"now": 0.02, "before": 0.01},
        }
        np.testing.assert_allclose(before.history["validation_loss"], first.history["validation_loss"])
    left, right = plots.training_curves(second, before).axes
    drawn = [line.get_ydata() for line in right.lines]
    assert any(np.array_equal(line, first.history["validation_auc"]) for line in drawn)
    other = trained(blobs, tmp_path, network="d4-steerable-cnn")  # in another
    assert previous(other).label == "before: network = plain-cnn, epochs = 3, learning_rate = 0.02"


@pytest.mark.parametrize("damage", ["", "[]", '{"shown": 3}'])
def test_a_damaged_file_is_no_hindrance(blobs, tmp_path, monkeypatch, damage):
    monkeypatch.delenv("LENSSTUDY_BATCH", raising=False)
    run = trained(blobs, tmp_path, epochs=1)
    (tmp_path / "latest.json").write_text(damage)
    assert previous(run) is None


def test_nothing_is_kept_in_a_batch(blobs, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    assert previous(trained(blobs, tmp_path, epochs=1)) is None
    assert not (tmp_path / "latest.json").exists()
