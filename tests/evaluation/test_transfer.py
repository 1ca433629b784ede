"""Networks away from home: what is scored, what would be chosen without labels, and what is said of it."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.evaluation.transfer import HOME, TOGETHER, Transfer, scored
from lensstudy.figures import plots
from lensstudy.report.summaries import below_chance

CLASSES = ("no_sub", "cdm", "axion")


class Bright:
    """Calls bright images substructure, with some sureness, or the other way round; knows nothing of its kind."""

    classes = CLASSES

    def __init__(self, sureness: float):
        self.sureness = sureness

    def predict(self, images):
        smooth = 1 / (1 + np.exp(self.sureness * (images.mean((1, 2, 3), dtype=float) - 0.5)))
        return np.stack([smooth, 0.6 * (1 - smooth), 0.4 * (1 - smooth)], axis=1)


def lenses(*names: str) -> LensDataset:
    """Dark images of smooth lenses and bright ones of others, twelve a class."""
    table = pd.DataFrame({"name": range(12 * len(names)), "class": np.repeat(names, 12)}).astype({"name": str})
    light = (table["class"] != "no_sub").to_numpy(float) + np.random.default_rng(0).normal(0, 0.1, len(table))
    return LensDataset(np.ones((len(table), 1, 4, 4)) * light[:, None, None, None], table, names)


@pytest.fixture
def transfer() -> Transfer:
    """At home all is well; away the network is upside down as it is, and adapted it is right and surer."""
    away = lenses("no_sub", "axion")  # without one class
    tests = {way: {HOME: lenses(*CLASSES), "away": away} for way in ("as it is", "adapted")}
    runs = {
        "as it is": {HOME: {"one": [Bright(9.0)]}, "away": {"one": [Bright(-1.0)]}},
        "adapted": {HOME: {"one": [Bright(8.0)]}, "away": {"one": [Bright(7.0)]}},
    }
    return Transfer(runs, tests, {way: {"away": away.images} for way in tests})


def test_substructure_against_none_and_the_classes_that_both_know(transfer):
    table = transfer.of("one").set_index(["trained", "tested"])
    assert table["auc"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert table.loc["as it is", "away"]["direction"] == "upside down"
    assert table.loc["adapted", "away"]["accuracy"] == 1.0 and table.loc["adapted", HOME]["accuracy"] == 2 / 3
    assert table["images"].tolist() == [36, 24, 36, 24]


def test_an_accuracy_has_an_interval(transfer):
    """With one seed it is over images alone: that of a binomial, and the rule of three where none is wrong."""
    table = transfer.of("one").set_index(["trained", "tested"])
    home = table.loc["as it is", HOME]
    binomial = binomtest(24, 36).proportion_ci(method="wilson")
    assert (home["accuracy_low"], home["accuracy_high"]) == pytest.approx(tuple(binomial), abs=0.01)
    assert table.loc["adapted", "away"]["accuracy_low"] == pytest.approx(0.05 ** (1 / 24))
    assert transfer.accuracy()["accuracy"][0] == "0.667 [0.498, 0.802]"


def test_the_surest_way_is_chosen_and_no_label_is_asked(transfer):
    chosen = transfer.table[transfer.table["chosen"]]
    assert chosen[["trained", "tested"]].to_numpy().tolist() == [["adapted", "away"]]
    assert transfer.summary().set_index("way")["chosen for"].to_dict() == {"as it is": "", "adapted": "away"}


def test_what_is_saved_is_what_the_list_of_reports_reads(transfer, tmp_path):
    figure = plots.chosen_beside_as_it_is(transfer.table)
    points = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert points["one, as it is"] == [0.0] and points["one, chosen without labels"] == [1.0]
    summary = json.loads(transfer.save(tmp_path, figure).read_text())
    assert summary["answer"] == transfer.answer and summary["figure_alt"] == figure.alt
    assert "one, chosen without labels: away 1.00" in figure.alt
    assert "one as it is: 0.000 away from home; chosen without their labels, 'adapted': 1.000;" in transfer.answer
    assert "tell, with 'adapted': 1.000" in transfer.answer
    assert len(pd.read_csv(tmp_path / "transfer.csv")) == 4


def test_the_list_has_the_answer_in_one_sentence(transfer):
    home = transfer.of("one").query("tested == @HOME").iloc[0]
    assert transfer.plain.replace(f"{home['low']:.2f} to {home['high']:.2f}", "HOME") == (
        "one tells substructure from none with an AUC of 1.00 (HOME) in lenses like those it was trained on, and with "
        "0.00, where a guess has 0.50, in those of 1 other preset; the best of 2 ways of training brings that to 1.00, "
        "and the way of learning from them that is chosen without labels to 1.00."
    )
    assert below_chance([{"network": "one", "way": "as it is", "lowest away": 0.0}])


def test_what_the_inputs_did_is_not_credited_to_the_adaptation():
    """Right with all inputs together, and upside down once adapted."""
    tests = {way: {HOME: lenses(*CLASSES), "away": lenses(*CLASSES)} for way in ("as it is", TOGETHER, "adapted")}
    away = {"as it is": Bright(-1.0), TOGETHER: Bright(7.0), "adapted": Bright(-9.0)}
    runs = {way: {HOME: {"one": [Bright(9.0)]}, "away": {"one": [one]}} for way, one in away.items()}
    told = Transfer(runs, tests, {"adapted": {"away": lenses(*CLASSES).images}})
    assert "all changes of what it sees bring that to 1.00 without a look at these" in told.plain
    assert told.plain.endswith("chosen without labels to 0.00.")
    assert "with all inputs together: 1.000; chosen without their labels, 'adapted': 0.000;" in told.answer
    points = {
        line.get_label(): list(line.get_xdata()) for line in plots.chosen_beside_as_it_is(told.table).axes[0].lines
    }
    assert points["one, all inputs"] == [1.0] and points["one, chosen without labels"] == [0.0]


def test_a_figure_says_every_number_in_words(transfer):
    figure = plots.transfer(transfer.of("one"), transfer.caption("one"))
    assert "trained on adapted, tested on away: 1.000" in figure.alt and "upside down" in figure.caption


def test_one_kind_of_lens_is_no_test():
    with pytest.raises(DataError, match="lenses with substructure and without"):
        scored([Bright(1.0)], lenses("cdm", "axion"))
