"""Networks across presets: which training stands in which row, and what is averaged."""

import json

import pandas as pd
import pytest

from lensstudy.evaluation.presets import ALL, OTHERS, AcrossPresets
from lensstudy.evaluation.robustness import transfer_matrix
from lensstudy.figures import plots
from tests.evaluation.test_robustness import CALLED, Brightness, bright


@pytest.fixture
def across() -> AcrossPresets:
    """One network that knows brightness, and one that learnt it the wrong way round except where it saw everything."""
    right, wrong = [Brightness(CALLED)], [Brightness(CALLED, dimmer=True)]
    alone = {"a": {"good": right, "odd": right}, "b": {"good": right, "odd": wrong}}
    without = {"a": {"good": right, "odd": wrong}, "b": {"good": right, "odd": right}}
    tests = {"a": bright(CALLED), "b": bright(("cdm", "no_sub"))}
    return AcrossPresets(alone, without, {"good": right, "odd": right}, tests, images=100)


def test_a_row_is_what_was_trained_and_a_column_what_was_tested(across):
    rows = [(row.trained, row.tested) for row in across.tables["odd"].itertuples()]
    assert sorted(rows) == sorted((trained, tested) for trained in ("a", "b", OTHERS, ALL) for tested in ("a", "b"))
    cells = across.tables["odd"].set_index(["trained", "tested"])["auc"]
    assert cells[("a", "a")] > 0.8 > 0.2 > cells[("b", "b")]
    assert cells[(OTHERS, "a")] < 0.5 and cells[(OTHERS, "b")] > 0.8, "a network that was trained without that preset"


def test_the_summary_averages_home_and_away_apart(across):
    summary = across.summary().set_index("network")
    cells = across.tables["odd"].set_index(["trained", "tested"])["auc"]
    assert summary.loc["odd", "at home"] == pytest.approx((cells[("a", "a")] + cells[("b", "b")]) / 2)
    assert summary.loc["odd", "away, one preset"] == pytest.approx((cells[("a", "b")] + cells[("b", "a")]) / 2)
    assert summary.loc["odd", "away, all others"] == pytest.approx((cells[(OTHERS, "a")] + cells[(OTHERS, "b")]) / 2)
    assert f"good: {summary.loc['good', 'at home']:.3f} at home" in across.answer


def test_what_is_saved_is_what_the_list_of_reports_reads(across, tmp_path):
    summary = json.loads(across.save(tmp_path).read_text())
    assert summary["answer"] == across.answer and [row["network"] for row in summary["table"]] == ["good", "odd"]
    table = pd.read_csv(tmp_path / "transfer.csv")
    again = transfer_matrix({"a": [Brightness(CALLED)]}, {"b": bright(("cdm", "no_sub"))})["auc"][0]
    kept = table[(table["network"] == "good") & (table["trained"] == "a") & (table["tested"] == "b")]["auc"]
    assert kept.item() == pytest.approx(again)


def test_a_figure_says_every_number_in_words(across):
    figure = plots.transfer(across.tables["odd"], across.caption("odd"))
    assert "1 seed" in figure.caption
    for row in across.tables["odd"].itertuples():
        assert f"trained on {row.trained}, tested on {row.tested}: {row.auc:.3f}" in figure.alt
