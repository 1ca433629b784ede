"""The ladder: AUC against detectability, beside closed forms and hand-made images."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lensstudy import simulate
from lensstudy.data.dataset import DataError
from lensstudy.data.mixture import make
from lensstudy.evaluation.ladder import IDEAL, SMOOTH_FIT, Ladder, auc_along, ideal_auc, populations
from lensstudy.figures import plots

ONE = {"subhalo_number": 1.0, "subhalo_slope": -1.0, "subhalo_radius_max": 1.5, "source_magnitude_min": 20.0}
ONE |= {"source_magnitude_max": 20.0, "subhalo_mass_min": 1e8, "subhalo_mass_max": 1e11}


def test_the_bound_is_the_auc_of_a_likelihood_ratio():
    """A signal of known form in Gaussian noise: its matched filter is normal, `sigma` deviations apart."""
    generator = np.random.default_rng(1)
    for sigma in (0.5, 1.8, 3.0):
        filtered = np.concatenate([generator.normal(0, 1, 40_000), generator.normal(sigma, 1, 40_000)])
        found = roc_auc_score(np.repeat([0, 1], 40_000), filtered)
        assert ideal_auc(np.array(sigma)) == pytest.approx(found, abs=0.006)
    assert ideal_auc(np.sqrt(2) * norm.ppf(0.9)) == pytest.approx(0.9)


def test_an_observer_with_a_matched_filter_lies_on_the_bound_and_a_blind_one_at_a_half():
    generator = np.random.default_rng(2)
    sigma = np.concatenate([np.zeros(4000), 2 ** generator.uniform(-2, 3, 4000)])
    smooth = sigma == 0
    seen = auc_along(sigma, sigma * 1e9, smooth, [sigma + generator.normal(size=8000) for _ in range(2)])
    blind = auc_along(sigma, sigma * 1e9, smooth, [generator.normal(size=8000)])
    ideal = auc_along(sigma, sigma * 1e9, smooth, [])
    assert len(seen) == len(ideal) == 10 and seen["images"].sum() == 4000
    np.testing.assert_allclose(seen["auc"], ideal["auc"], atol=0.03)
    assert (blind["low"] < 0.5).all() and (blind["high"] > 0.5).all()
    np.testing.assert_allclose(seen["mass"], seen["sigma"] * 1e9)


def test_every_lens_has_the_number_of_subhalos_that_was_asked_for():
    lenses = simulate("realistic", 12, seed=1, image_size=24, **(ONE | {"subhalo_number": 3.0}))
    counts = lenses.catalogue.groupby("class")["n_subhalos"].unique()
    assert counts["cdm"].tolist() == [3] and counts["no_sub"].tolist() == [0] and counts["axion"].tolist() == [0]


@pytest.mark.slow
def test_a_mixture_has_a_curve_for_each_population_and_the_fit_finds_what_is_far_above_the_noise():
    heavy = {"subhalo_mass_min": 5e10, "subhalo_profile": "point"}
    presets = [
        {"preset": "realistic", "population": ONE | heavy | {"substructure_boost": boost}} for boost in (0.01, 1)
    ]
    presets.append({"preset": "realistic", "population": ONE | {"subhalo_concentration": 60.0}})
    test = make("mixture", 60, seed=3, image_size=32, population={"presets": presets}, classes=["no_sub", "cdm"])
    names = populations(test)
    assert list(names) == ["subhalo mass 5e+10, point", "subhalo mass 1e+08, truncated nfw"]
    assert [rows.sum() for rows in names.values()] == [80, 40]
    sure = np.where(test.labels[:, None] == [0, 1], 0.9, 0.1)
    ladder = Ladder(test, {"oracle": [sure]}, smooth_fit_images=12)
    assert set(ladder.table["observer"]) == {"oracle", SMOOTH_FIT, IDEAL}
    assert (ladder.table.query("observer == 'oracle'")["auc"] == 1).all()
    assert ladder.reached[IDEAL].unique() == pytest.approx([np.sqrt(2) * norm.ppf(0.9)])
    assert "ideal observer: 1.8 sigma." in ladder.answer
    first = ladder.reached["oracle"].median()
    assert ladder.reached[SMOOTH_FIT].notna().tolist() == [True, False], "this test is of a fit that finds one of two"
    assert ladder.plain == (
        f"Subhalos are told from none well (AUC 0.9, median of 2 populations) from {first:.0f} sigma on by oracle and "
        "only in 1 of 2 populations by the fit of a smooth lens, which needs no training."
    )
    shown = plots.thresholds(ladder.reached)
    assert shown.axes[0].lines[0].get_xdata().tolist() == ladder.reached["oracle"].tolist()
    assert shown.axes[0].lines[1].get_xdata().tolist() == [first, first] and f"oracle {first:.2g}, " in shown.alt
    brightest = ladder.table.query("observer == @SMOOTH_FIT").sort_values("sigma").tail(1)
    assert brightest["sigma"].item() > 30 and brightest["auc"].item() > 0.95


def test_images_of_which_the_truth_is_unknown_are_refused():
    lenses = simulate("model_3", 4, seed=1, image_size=24)  # no noise: every substructure is infinitely detectable
    with pytest.raises(DataError, match="detectability"):
        Ladder(lenses, {"one": [np.full((12, 3), 1 / 3)]})
