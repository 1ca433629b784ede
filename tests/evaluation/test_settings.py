"""Settings are chosen on validation, and a training has converged if twice the steps gain nothing that can be seen."""

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from lensstudy.evaluation.settings import best_of_each, chosen, convergence, convergences, in_yaml
from lensstudy.study import Study
from lensstudy.training.tuning import BEST


def predictions(distance, images=400):
    """Labels and probabilities whose AUC is that of two normal laws so many deviations apart."""
    labels = np.repeat([0, 1], images)
    odds = np.random.default_rng(1).normal(size=2 * images) + distance * labels
    ahead = 1 / (1 + np.exp(-odds))
    return labels, np.stack([1 - ahead, ahead], 1)


@pytest.fixture
def trainings(tmp_path):
    """A function that writes the validation predictions of a training, and returns a row of its table."""

    def write(network, distance, **settings):
        folder = tmp_path / f"{network}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        labels, probabilities = predictions(distance)
        table = pd.DataFrame({"name": np.arange(len(labels)).astype(str), "class": np.array(["a", "b"])[labels]})
        table[["a", "b"]] = probabilities
        table.to_parquet(folder / "predictions.parquet")
        score = roc_auc_score(labels, probabilities[:, 1])
        return {"network": network, **settings, "auc": score, "folder": str(folder)}

    return write


@pytest.mark.parametrize(("gain", "converged"), [(0.0, True), (0.03, True), (-1.0, True), (0.5, False)])
def test_a_training_has_converged_if_twice_the_steps_gain_less_than_the_interval(gain, converged):
    (labels, own), (_, longer) = predictions(1.0), predictions(1.0 + gain)
    found = convergence(labels, own, longer)
    assert found.auc == roc_auc_score(labels, own[:, 1]) and found.longer == roc_auc_score(labels, longer[:, 1])
    assert 0.02 < found.high - found.low < 0.08  # 400 images a class: an error of 0.015
    assert found.converged == converged


def test_the_best_of_each_augmentation_and_what_was_chosen(trainings):
    grid = {"augmentation": ["none", "any"], "learning_rate": [0.1, 0.2]}
    values = [(a, rate) for a in grid["augmentation"] for rate in grid["learning_rate"]]
    table = pd.DataFrame(
        trainings(network, distance, augmentation=a, learning_rate=rate)
        for network, distances in (("one", (0.5, 1.0, 2.0, 1.5)), ("two", (1.0, 0.5, 0.2, 0.1)))
        for (a, rate), distance in zip(values, distances, strict=True)
    )
    table.loc[(table["network"] == "two") & (table["augmentation"] == "any"), ["auc", "folder"]] = [np.nan, ""]
    best = best_of_each(table, "augmentation", list(grid))
    assert best["network"].tolist() == ["one", "one", "two", "two"]
    assert best["augmentation"].tolist() == ["none", "any", "none", "any"]
    assert best["learning_rate"].tolist()[:3] == [0.2, 0.1, 0.1]
    assert best["validation AUC"].iloc[-1] == "diverged"
    assert best["validation AUC"].iloc[1].startswith(f"{table['auc'].max():.3f} [")
    settings = chosen(table, list(grid))
    assert settings == {
        "one": {"augmentation": "any", "learning_rate": 0.1},
        "two": {"augmentation": "none", "learning_rate": 0.1},
    }
    assert yaml.safe_load(in_yaml(settings)) == {"settings": settings}


def test_only_trainings_with_one_of_twice_the_epochs_beside_them_are_judged(trainings):
    table = pd.DataFrame(
        [
            trainings("one", 1.0, settings=BEST),
            trainings("one", 1.5, settings="epochs = 8"),
            trainings("two", 1.0, settings=BEST),
            trainings("two", 0.95, settings="epochs = 2"),
            trainings("two", 1.0, settings="epochs = 2, width = 2.0"),
            trainings("two", 2.0, settings="gradient_clip = 0.0"),
            trainings("three", 1.0, settings=BEST),
            trainings("three", 2.0, settings="epochs = 16"),
        ]
    )
    found = convergences(Study(search_epochs=4), table)
    assert found["network"].tolist() == ["one", "two"] and found["epochs"].tolist() == [4, 2]
    assert found["converged"].tolist() == ["no", "yes"]
    assert convergences(Study(search_epochs=5), table).empty
