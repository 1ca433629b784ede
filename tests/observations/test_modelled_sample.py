"""A sample of smooth models beside published ones: the comparison counts every lens once and in the right direction."""

import json

import numpy as np
import pandas as pd
import pytest

from lensstudy.figures import plots
from lensstudy.figures.style import Note
from lensstudy.observations import modelled_sample
from lensstudy.observations.modelled_sample import ModelledSample, median_interval, model_in_detail
from lensstudy.observations.writing import write_simulated
from lensstudy.report.summaries import in_plain_words, read_summary

TABLE = pd.DataFrame(
    {
        "lens": ["near", "far", "alone", "broken"],
        "band": ["", "f814w", "", ""],
        "state": ["ok", "doubtful", "ok", "failed"],
        "reason": ["", "chi square a pixel: 4.00", "", "no arcs"],
        "einstein_radius": [1.02, 1.5, 1.1, np.nan],
        "slope": [2.0, 2.1, 2.0, np.nan],
        "axis_ratio": [0.8, 0.7, 0.95, np.nan],
        "axis": [178.0, 45.0, 10.0, np.nan],
        "sie_axis_ratio": [0.82, 0.7, 0.95, np.nan],
        "sie_axis": [178.0, 45.0, 10.0, np.nan],
        "shear_1": [0.03, 0.0, 0.0, np.nan],
        "shear_2": [0.04, 0.0, 0.0, np.nan],
        "chi2": [1.0, 4.0, 1.1, np.nan],
        "published_einstein_radius_arcsec": [1.0, 1.0, np.nan, 1.2],
        "published_axis_ratio": [0.8, 0.8, np.nan, 0.8],
        "published_position_angle_degrees": [92.0, 0.0, np.nan, 0.0],
        "published_automated_fit_median": [1.06, np.nan, np.nan, 1.2],
    }
)


@pytest.fixture
def sample(tmp_path):
    return ModelledSample("lenses", tmp_path, TABLE)


def test_lenses_with_a_model_and_a_published_radius_are_compared(sample):
    assert sample.compared["lens"].tolist() == ["near", "far"]
    assert sample.compared["difference"].tolist() == pytest.approx([0.02, 0.5])
    assert sample.compared["published_axis"].tolist() == [2.0, 90.0]  # north of an image is +y
    assert sample.far["lens"].tolist() == ["far"]
    assert sample.models["lens"].tolist() == ["near", "far f814w", "alone", "broken"]
    assert sample.models["shear"][0] == pytest.approx(0.05)
    medians = sample.medians.set_index("models")
    assert medians["lenses"].to_dict() == {"all": 2, "those marked ok": 1, "a published automated fit": 1}
    assert medians.loc["a published automated fit", "median difference"] == "6.0% [6.0%, 6.0%]"


def test_the_answer_counts_every_lens_and_names_no_number_that_is_not_in_the_table(sample, tmp_path):
    assert sample.answer == (
        "4 lenses, fitted automatically: 2 ok, 1 doubtful, 1 failed. The Einstein radius differs from the published "
        "one by 26.0% [2.0%, 50.0%] in the median of 2. That of a published automated fit differs by 6.0% [6.0%, "
        "6.0%]. More than 10% off: 1, of which 1 are marked doubtful."
    )
    (tmp_path / "lenses").mkdir()
    ModelledSample("lenses", tmp_path / "lenses", TABLE).save()
    assert "to within 26% for half of 2 real lenses, and to within 10% for 1 of them" in in_plain_words(
        read_summary(tmp_path)
    )
    nearer = TABLE.assign(einstein_radius=[1.006, 1.006, 1.1, np.nan])
    assert (
        " to within 1% for half of 2 real lenses, and to within 10% for 2 of them"
        in ModelledSample("lenses", tmp_path, nearer).plain
    )


def test_directions_are_compared_around_the_half_turn(sample):
    figure = plots.against_published(sample.compared)
    assert "24 degrees between directions (2 lenses" in figure.caption  # the median of 180 - 176 and of 45


def test_without_a_published_value_the_page_says_so(tmp_path):
    sample = ModelledSample("lenses", tmp_path, TABLE.iloc[[2, 3]])
    assert isinstance(plots.against_published(sample.compared), Note)
    assert sample.far.empty and sample.medians.empty
    assert sample.answer == "2 lenses, fitted automatically: 1 ok, 1 failed."
    assert sample.plain == "1 of 2 lenses have a smooth model."


def test_the_interval_of_a_median_is_that_of_order_statistics():
    values = pd.Series(np.random.default_rng(5).exponential(size=45))
    low, high = median_interval(values)
    ordered = np.sort(values)
    assert ordered[14] <= low <= ordered[17] and ordered[27] <= high <= ordered[30]  # the 16th and the 30th of 45: 96 %


def test_the_truth_of_simulated_lenses_stands_beside_them(tmp_path):
    folder = write_simulated(tmp_path, seed=3)
    about = json.loads((folder / "simulated-1" / "info.json").read_text())
    lens, model = model_in_detail(str(folder), "simulated-1")
    assert model.parameters["einstein_radius"] == pytest.approx(about["einstein_radius_arcsec"], rel=0.02)
    off = (model.axis - about["position_angle_degrees"] - 90 + 90) % 180 - 90
    assert abs(off) < 15 and lens.name == "simulated-1"
    assert set(modelled_sample.PUBLISHED[:3]) <= set(about)
