"""A search learns from its trials, goes on after an interruption, and never sees the test part."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from lensstudy.study import ParameterError, Study
from lensstudy.training import tuning as search

SETTINGS = Study(
    study="tiny",
    network="d4-steerable-cnn",
    width=0.25,
    epochs=2,
    search_epochs=2,
    batch_size=16,
    scaling="none",
    trials=5,
    search_space={"learning_rate": [1e-6, 0.03], "augmentation": ["mixed", "none"]},
)


@pytest.fixture(autouse=True)
def quiet_home(monkeypatch, tmp_path):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))


def with_(**changes):
    return SETTINGS.model_copy(update=changes)


def test_a_search_tries_the_studys_own_settings_first_and_keeps_the_best(blobs):
    found = search.search(SETTINGS, blobs, "d4-steerable-cnn")
    table = search.trials(found)
    assert len(table) == SETTINGS.trials
    assert table["learning_rate"][0] == SETTINGS.learning_rate
    complete = table[table["state"] == "complete"]
    assert found.best_value == complete["auc"].max()
    assert set(search.importances(found)) in (set(), {"learning_rate", "augmentation"})


def test_no_trial_can_see_the_test_part(blobs):
    spoilt = blobs.images.copy()
    spoilt[(blobs.catalogue["part"] == "test").to_numpy()] = np.nan
    blobs.images = spoilt
    found = search.search(with_(trials=1, search_epochs=1), blobs, "d4-steerable-cnn")
    assert np.isfinite(found.best_value)
    card = json.loads(next((SETTINGS.folder / "improvement/trials").glob("*/card.json")).read_text())
    assert card["training_images"] == len(blobs.part("train"))


def test_an_interrupted_search_goes_on_and_a_finished_one_does_nothing(blobs, monkeypatch):
    search.search(with_(trials=2, search_epochs=1), blobs, "d4-steerable-cnn")
    fit, fitted = search.fit, []
    monkeypatch.setattr(search, "fit", lambda *given, **named: (fitted.append(given), fit(*given, **named))[1])
    search.search(with_(trials=3, search_epochs=1), blobs, "d4-steerable-cnn")
    assert len(fitted) == 1
    search.search(with_(trials=3, search_epochs=1), blobs, "d4-steerable-cnn")
    assert len(fitted) == 1


def test_a_diverging_trial_is_given_up_and_the_search_goes_on(blobs, monkeypatch):
    fit, calls = search.fit, []

    def diverges_first(*given, **named):
        calls.append(given)
        if len(calls) == 1:
            raise search.TrainingDiverged("the loss is nan")
        return fit(*given, **named)

    monkeypatch.setattr(search, "fit", diverges_first)
    found = search.search(with_(trials=2, search_epochs=1), blobs, "d4-steerable-cnn")
    assert [trial.state for trial in found.trials] == [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE]


def test_trials_far_below_the_others_are_given_up_early(blobs):
    """The median rule on learning curves that are known: good ones run to their end, bad ones stop after a third."""
    found = search.search_of(with_(trials=20, search_epochs=9), blobs, "resnet18")

    def curve(trial):
        good = trial.number < 4
        for epoch in range(1, 10):
            trial.report(0.9 if good else 0.5, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.9

    found.optimize(curve, n_trials=6)
    states = [trial.state.name for trial in found.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"] * 2
    assert found.trials[-1].last_step < 9


def test_the_best_is_written_as_a_study_that_can_be_read(blobs, tmp_path):
    found = search.search(with_(trials=2, search_epochs=1), blobs, "d4-steerable-cnn")
    best = search.best_settings(SETTINGS, found, "d4-steerable-cnn")
    file = search.write_best(SETTINGS, best)
    again = Study.read(file)
    assert again.study == "tiny-best"
    assert again.training("d4-steerable-cnn", 1).learning_rate == found.best_params["learning_rate"]
    assert again.augmentation == found.best_params["augmentation"]
    assert again.width == SETTINGS.width
    assert yaml.safe_load(file.read_text())["networks"] == ["d4-steerable-cnn"]


def test_alternatives_change_one_thing_and_keep_the_rest(blobs):
    changes = [{"optimizer": "sgd"}, {"learning_rate": 1e-9}]
    own = with_(search_epochs=1, grid={"augmentation": ["mixed"]}, alternatives=changes)
    table = search.alternatives(own, blobs, "d4-steerable-cnn")
    assert list(table["settings"]) == [search.BEST, "optimizer = sgd", "learning_rate = 1e-09"]
    assert table["difference"][0] == 0
    cards = [json.loads(f.read_text()) for f in (SETTINGS.folder / "improvement/alternatives").glob("*/card.json")]
    assert sorted(card["optimizer"] for card in cards) == ["adamw", "adamw", "sgd"]


def test_alternatives_are_those_of_the_best_combination(blobs):
    grid = {"learning_rate": [1e-9, 0.01], "augmentation": ["square", "none"]}
    own = with_(search_epochs=1, grid=grid, alternatives=[{"epochs": 2}])
    table = search.combinations(own, blobs, "plain-cnn")
    assert table[list(grid)].to_numpy().tolist() == [[1e-9, "square"], [1e-9, "none"], [0.01, "square"], [0.01, "none"]]
    best = table.loc[table["auc"].idxmax()]
    changed = search.alternatives(own, blobs, "plain-cnn")
    assert changed.loc[0, "folder"] == best["folder"] and changed.loc[0, "auc"] == best["auc"]
    card = json.loads(Path(changed.loc[1, "folder"], "card.json").read_text())
    assert [card[name] for name in ("epochs", *grid)] == [2, *best[list(grid)]]
    assert len(list((SETTINGS.folder / "improvement/alternatives").iterdir())) == 5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning": [0.1, 0.2]}, "no study has a parameter 'learning'"),
        ({"width": []}, "'width' has no values"),
        ({"learning_rate": [-1.0, 0.1]}, "search_space, learning_rate"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(blobs, space, message):
    with pytest.raises(ParameterError, match=message):
        search.search(with_(search_space=space), blobs, "d4-steerable-cnn")


def test_trials_of_other_data_or_another_space_do_not_count(blobs):
    search.search(with_(trials=1, search_epochs=1), blobs, "d4-steerable-cnn")
    other_space = with_(trials=1, search_epochs=1, search_space={"augmentation": ["none"]})
    assert len(search.search(other_space, blobs, "d4-steerable-cnn").trials) == 1
    blobs.images = blobs.images * np.float32(2)
    again = search.search(with_(trials=1, search_epochs=1), blobs, "d4-steerable-cnn")
    assert len(again.trials) == 1
    assert len(list((SETTINGS.folder / "improvement/trials").iterdir())) == 3


def test_a_kill_in_the_first_trial_does_not_lose_the_studys_own_settings(blobs, monkeypatch):
    fit, calls = search.fit, []

    def killed_first(*given, **named):
        calls.append(given)
        if len(calls) == 1:
            raise SystemExit  # neither an error nor a result: the trial stays as if it still ran
        return fit(*given, **named)

    monkeypatch.setattr(search, "fit", killed_first)
    with pytest.raises(SystemExit):
        search.search(with_(trials=2, search_epochs=1), blobs, "d4-steerable-cnn")
    found = search.search(with_(trials=2, search_epochs=1), blobs, "d4-steerable-cnn")
    assert SETTINGS.learning_rate in search.trials(found)["learning_rate"].tolist()


def test_two_processes_search_together_and_take_over_from_one_that_was_killed(blobs, tmp_path, monkeypatch):
    """No trial is lost, none is done twice, none is done too many, and none of the grid is trained twice."""
    own = with_(
        trials=6, search_storage="shared/trials.journal", search_space={"learning_rate": [1e-4, 0.02]},
        grid={"augmentation": ["none", "square"]},
    )  # fmt: skip

    def killed_at_once(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def fit(_dataset, settings, folder, **_):
        if not (folder / "rate").exists():
            time.sleep(0.3)
            folder.mkdir(parents=True)  # fails where another process was here meanwhile
            (folder / "rate").write_text(str(settings.learning_rate))
        return folder

    def work():
        search.search(own, blobs, "plain-cnn")
        search.combinations(own, blobs, "plain-cnn")

    def begin(training):
        monkeypatch.setattr(search, "fit", training)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        return process

    monkeypatch.setattr(search, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr(search, "read_metrics", lambda _: {"validation_auc": 0.5, "validation_loss": 1.0})
    killed = begin(killed_at_once)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    both = [begin(fit), begin(fit)]
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
    found = search.search_of(own, blobs, "plain-cnn")
    assert [trial.state.name for trial in found.trials] == ["FAIL"] + ["COMPLETE"] * 6
    rates = {trial.params["learning_rate"] for trial in found.get_trials(states=search.DONE)}
    assert len(rates) == 6 and own.learning_rate in rates  # with which the killed one had begun
    assert {float(file.read_text()) for file in own.folder.glob("improvement/trials/*/rate")} == rates
    assert len(list(own.folder.glob("improvement/alternatives/*/rate"))) == 2
    assert not list((tmp_path / "shared").glob(f"*.claims/{found.study_name.replace('/', '-')}*"))  # none is held


def test_a_search_in_which_nothing_worked_says_so(blobs, monkeypatch):
    def diverges(*given, **named):
        raise search.TrainingDiverged("the loss is nan")

    monkeypatch.setattr(search, "fit", diverges)
    found = search.search(with_(trials=2), blobs, "d4-steerable-cnn")
    with pytest.raises(ParameterError, match="every trial diverged"):
        search.best_settings(SETTINGS, found, "d4-steerable-cnn")


def test_a_search_taken_up_again_proposes_something_new(blobs):
    wide = with_(trials=1, search_epochs=1, search_space={"learning_rate": [1e-4, 0.002]})
    proposed = []
    for trials in (1, 2, 3):
        found = search.search(wide.model_copy(update={"trials": trials}), blobs, "d4-steerable-cnn")
        proposed.append(found.trials[-1].params["learning_rate"])
    assert len(set(proposed)) == 3
