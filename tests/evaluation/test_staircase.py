"""The staircase: which way a ranking goes, what a step costs, and where it breaks."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.evaluation.staircase import HOME, SMOOTH_FIT, SUBSTRUCTURE, Staircase, direction, walk
from lensstudy.figures import plots
from lensstudy.lensing.populations import CLASSES


class Steps:
    """Images whose middle pixel is the class, right way up until `noise` is taken and upside down after `unit`."""

    differences = ["noise", "unit"]

    class home:
        preset = "here"

    class away:
        preset = "there"

    def images(self, taken, class_name, count):
        strength = -1.0 if "unit" in taken else 0.0 if "noise" in taken else 1.0
        noise = np.random.default_rng(CLASSES.index(class_name)).normal(0, 0.3, count)
        images = np.zeros((count, 1, 3, 3), dtype=np.float32)
        images[:, 0, 1, 1] = strength * (class_name != "no_sub") + noise
        return images, pd.DataFrame({"class": [class_name] * count})


class Knows:
    """A network whose probability of `no_sub` falls with the middle pixel; its classes come in another order."""

    classes = ("axion", "no_sub", "cdm")

    def predict(self, images):
        smooth = 1 / (1 + np.exp(images[:, 0, 1, 1].astype(float)))
        return np.stack([(1 - smooth) / 2, smooth, (1 - smooth) / 2], axis=1)


@pytest.fixture(scope="module")
def stairs() -> Staircase:
    return walk(Steps(), {"knows": [Knows()]}, 60)


def test_every_step_has_a_score_a_cost_and_a_direction(stairs):
    scores = stairs.scores("knows")
    assert scores["step"].tolist() == [HOME, "noise", "unit"]
    assert scores["direction"].tolist() == ["right", "at chance", "upside down"]
    assert scores["auc"][0] > 0.95 and scores["auc"][2] < 0.05 and np.isnan(scores["cost"][0])
    assert scores["cost"][1] == pytest.approx(scores["auc"][0] - scores["auc"][1])
    assert (scores["cost_low"][1:] < scores["cost"][1:]).all() and (scores["cost"][1:] < scores["cost_high"][1:]).all()
    assert stairs.breaks_at("knows") == "noise"
    alone = stairs.scores("knows", walk="alone").set_index("step")
    assert alone.loc["unit", "cost"] == pytest.approx(scores["auc"][0] - alone.loc["unit", "auc"])
    assert stairs.scores("knows", "cdm")["auc"][0] > 0.6


def test_the_table_and_the_answer_say_it(stairs):
    table = stairs.table("knows")
    assert list(table) == ["step", SUBSTRUCTURE, "cdm", "axion", "cost", "cost alone", "direction"]
    assert table["cost"][0] == "" and table["direction"][2] == "upside down"
    assert "from here to there" in stairs.answer and "breaks at the step 'noise'" in stairs.answer
    assert stairs.answer in plots.staircase([stairs], "knows").alt


def test_which_way_a_ranking_goes():
    assert [direction(*edges) for edges in ((0.6, 0.9), (0.4, 0.6), (0.1, 0.3))] == [
        "right",
        "at chance",
        "upside down",
    ]


def test_a_smooth_fit_needs_no_training():
    from lensstudy.lensing.between import Between
    from lensstudy.lensing.simulation import checked_request

    home, away = (checked_request("model_3", 1, 1, 32, None, None, {"equal_mass": k}) for k in (False, True))
    stairs = walk(Between(home, away), {}, 2, fitted=1, alone=False)
    assert stairs.scores(SMOOTH_FIT)["step"].tolist() == [HOME, "mass"]
    assert stairs.scores(SMOOTH_FIT)["auc"].tolist() == [1.0, 1.0]
