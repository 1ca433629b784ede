"""What a search found is confirmed with new seeds and judged on the test part, with an interval."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lensstudy.evaluation.comparison import Difference
from lensstudy.evaluation.improvement import confirm
from lensstudy.study import Study
from lensstudy.training import tuning
from lensstudy.training.run import load_run

SETTINGS = Study(
    study="tiny", networks=["d4-steerable-cnn", "plain-cnn"], width=0.25, epochs=2, search_epochs=1, batch_size=16,
    scaling="none", trials=2, new_seeds=[101, 102], search_space={"learning_rate": [0.005, 0.03]},
    grid={"augmentation": ["mixed"]}, alternatives=[{"optimizer": "sgd"}],
)  # fmt: skip


@pytest.fixture(autouse=True)
def quiet_home(monkeypatch, tmp_path):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))


def test_the_gain_is_that_of_the_networks_in_the_folders(blobs):
    searches = tuning.all_searches(SETTINGS, blobs)
    found = confirm(SETTINGS, blobs, searches)
    assert found.promised == max(search.best_value for search in searches.values())
    assert found.promised == searches[found.network].best_value
    test, folder = blobs.part("test"), SETTINGS.folder / "improvement"
    means = []
    for label in ("as in the study", "best trial"):
        runs = [load_run(folder / f"{label.replace(' ', '-')}-s{seed}") for seed in (101, 102)]
        assert {run.card["network"] for run in runs} == {found.network}
        by_hand = [roc_auc_score(test.labels, run.predict(test.images)[:, 1]) for run in runs]
        rows = found.table[found.table["settings"] == label]
        assert rows["test AUC"].tolist() == pytest.approx(by_hand)
        assert rows["validation AUC"].tolist() == [run.metrics["validation_auc"] for run in runs]
        means.append(np.mean(by_hand))
    assert found.gain.value == pytest.approx(means[1] - means[0])
    assert found.gain.low <= found.gain.value <= found.gain.high
    summary = json.loads(found.save().read_text())
    assert summary["answer"] == found.answer and summary["figure"] == "headline.png"
    assert f"{found.promised:.4f}" in found.answer and "2 new seeds" in found.answer

    other = found.best.model_copy(update={"learning_rate": 0.007})
    for gain, verdict in (
        (Difference(0.1, 0.05, 0.15, 0.01), "better"),
        (Difference(-0.1, -0.15, -0.05, 0.01), "worse"),
        (Difference(0.1, -0.05, 0.25, 0.3), "not told apart by these test images"),
    ):
        assert replace(found, best=other, gain=gain).verdict == verdict
    assert "none better" in replace(found, best=SETTINGS).verdict


def test_tables_of_all_networks_hold_those_of_each(blobs):
    changes = tuning.all_alternatives(SETTINGS, blobs)
    assert changes["network"].tolist() == ["d4-steerable-cnn"] * 2 + ["plain-cnn"] * 2
    own = changes[changes["settings"] == tuning.BEST].set_index("network")["auc"]
    assert (changes["auc"] - changes["network"].map(own)).tolist() == pytest.approx(changes["difference"].tolist())
    searches = tuning.all_searches(SETTINGS.model_copy(update={"networks": ["plain-cnn"]}), blobs)
    (one,) = searches.values()
    assert tuning.all_trials(searches).drop(columns="network").equals(tuning.trials(one))
    assert tuning.all_importances(searches).empty  # of two trials nothing can be said
