"""Changes under perturbations, recovery of subhalos and what counts, with networks whose predictions are known."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensstudy.observations.consistency import OBSERVED, Consistency, perturbed
from lensstudy.observations.lens_model import expected_arcs
from lensstudy.observations.recovery import Recovery, noisy_images, on_the_arc
from lensstudy.observations.subhalos import Subhalo
from lensstudy.observations.validation import DistributionCheck, Validation, counting


def by_degrees(images, degrees):
    return 0.5 + degrees / 1000


def by_brightness(images, degrees):
    return images.mean(axis=(1, 2, 3)) / 100


def test_changes_are_those_of_the_network(sample, known_network):
    """One that sees the angle moves by the largest angle, and by nothing else."""
    lens = sample.lenses[0]
    kinds = perturbed(known_network(by_degrees), lens)
    assert list(kinds)[0] == OBSERVED and kinds[OBSERVED].tolist() == [0.5]
    np.testing.assert_allclose(np.ptp(kinds["rotated by 90°"]), 0.27)
    np.testing.assert_allclose(np.ptp(kinds["rotated by 30°"]), 0.33)
    for kind in ("shifted by a pixel", "twice the noise power", "with or without lens light"):
        assert (kinds[kind] == 0.5).all() and len(kinds[kind])
    assert len(kinds["other band"]) == 0


def test_bands_of_one_lens_are_compared_and_other_lenses_are_not(sample, known_network):
    one = replace(sample.lenses[0].observation, band="A")
    bright = replace(one, band="B", image=2 * one.image)
    lens = sample.lenses[0]
    lenses = [replace(lens, observation=band, bare=replace(lens.bare, image=band.image)) for band in (one, bright)]
    found = Consistency.of([known_network(by_brightness)], [*lenses, sample.lenses[1]], seed=1)
    kinds = found.probabilities["known"]
    observed = found.observed["known"]
    assert kinds["simulated-1 A"]["other band"].tolist() == [observed["simulated-1 B"]]
    assert observed["simulated-1 B"] == pytest.approx(2 * observed["simulated-1 A"], rel=1e-3)
    assert len(kinds["simulated-2"]["other band"]) == 0
    assert found.table["other band"]["known"] == pytest.approx(observed["simulated-1 A"], rel=1e-3)
    assert found.largest["known"]["simulated-1 A"] >= found.table["other band"]["known"] - 1e-9


@pytest.fixture(scope="module")
def recovery(modelled, known_network):
    """By a network that compares an image with the smooth model itself: what it cannot recover, noise hides."""
    lens = modelled.lenses[0]
    smooth = known_network(None, size=100, scale=0.05)
    model = lens.seen_by(smooth, lens.model.image)

    def unlike(images, degrees):
        return 1 - np.exp(-((images - model) ** 2).mean(axis=(1, 2, 3)))

    eager, blind = replace(smooth, predict=unlike), replace(smooth, predict=by_degrees, label="blind")
    return Recovery.of([eager, blind], [lens], 6, seed=1)


def test_heavy_subhalos_are_recovered_and_light_ones_are_not(recovery):
    """By who looks; who does not, recovers none."""
    shares = recovery.shares["simulated-2"]
    assert shares["known"][-1] == 1 and shares["known"][0] < 0.5
    assert (shares["blind"] == 0).all()
    assert len(recovery.smooth["simulated-2"]["known"]) == 48
    assert 1e8 < recovery.least_masses["known"]["simulated-2"] < 1e11
    assert recovery.table["blind"]["simulated-2"] == "more than 1e+11"
    assert recovery.error == pytest.approx(0.5 / np.sqrt(6))


def test_what_the_arcs_would_show_lies_on_them(modelled, recovery):
    """And the table tells the least of it and the median."""
    lens, (x, y, mass) = modelled.lenses[0], recovery.shows["simulated-2"].T
    radius = lens.model.parameters["einstein_radius"]
    assert (abs(np.hypot(x, y) / radius - 1) < 0.7).all() and len(x) > 100
    row = recovery.shows_table.iloc[0]
    assert row["least mass anywhere"] == mass.min() < np.median(mass) == row["at half of the places"]


def test_places_are_on_fitted_pixels_of_the_arcs(modelled):
    """In proportion to their brightness, and nowhere else, however bright a pixel that was not fitted."""
    model = modelled.lenses[0].model
    x, y = model.observation.grid()
    inside = model.used & (x > 0)
    places = on_the_arc(replace(model, used=inside), 200, np.random.default_rng(0))
    assert (places[:, 0] > 0).all() and (places[:, 1] > 0).any() and (places[:, 1] < 0).any()


def test_images_of_a_model_have_its_noise_and_the_subhalo(modelled):
    lens, generator = modelled.lenses[0], np.random.default_rng(0)
    place = on_the_arc(lens.model, 1, generator)[0]
    subhalo = Subhalo(*place, 1e10)
    images = np.array(noisy_images(lens, generator, [subhalo], "point", count=50))
    noise = lens.observation.noise
    np.testing.assert_allclose(images.std(axis=0).mean() / noise.mean(), 1, atol=0.02)
    off = (images.mean(axis=0) - expected_arcs(lens.model, [subhalo], "point")) / (noise / np.sqrt(50))
    assert abs(off.mean()) < 0.05 and off.std() == pytest.approx(1, abs=0.05)


def distribution_of(p: float) -> DistributionCheck:
    held_out = {"known": np.linspace(0, 1, 199), "blind": np.linspace(0, 1, 199)}
    p_values = pd.DataFrame({"known": [p], "blind": [0.5]}, index=["simulated-2"])
    return DistributionCheck(1 - p_values, p_values, held_out, 0.05)


def test_a_prediction_counts_where_three_things_come_together(recovery):
    smooth = replace(recovery, smooth={"simulated-2": {"known": np.full(9, 0.4), "blind": np.full(9, 0.4)}})
    loud = replace(recovery, smooth={"simulated-2": {"known": np.full(9, 0.6), "blind": np.full(9, 0.4)}})
    assert counting(distribution_of(0.2), smooth) == {"known": ["simulated-2"]}  # the blind one recovers nothing
    assert counting(distribution_of(0.01), smooth) == {}
    assert counting(distribution_of(0.2), loud) == {}


def test_lenses_are_in_distribution_where_their_p_value_says_so(sample, known_network):
    networks = [known_network(by_degrees, p=0.02), known_network(by_degrees, label="other", p=0.3)]
    check = DistributionCheck.of(networks, sample.lenses, 0.05)
    assert check.inside == {"known": [], "other": ["simulated-1", "simulated-2", "simulated-3"]}
    assert check.threshold["known"] == pytest.approx(0.95)
    assert check.table["in distribution"].tolist() == ["0 of 3", "3 of 3"]
    np.testing.assert_allclose(check.table["least p-value possible"], 1 / 200)
    beyond_all = DistributionCheck.of([known_network(by_degrees, p=1 / 200)], sample.lenses, 0.001)
    assert beyond_all.inside == {"known": []}


def test_the_answer_is_kept_with_everything_behind_it(tmp_path, monkeypatch, modelled, recovery, known_network):
    table = pd.DataFrame(
        {"image": "simulated-2", "network": ["known", "blind"], "prediction": "no_sub", "p-value": [0.2, 0.5]}
    )
    monkeypatch.setattr("lensstudy.observations.validation.compare_networks", lambda *_: table)
    networks = [known_network(by_degrees, size=52), known_network(by_degrees, size=52, label="blind")]
    quiet = replace(recovery, smooth={"simulated-2": {"known": np.full(9, 0.4), "blind": np.full(9, 0.4)}})
    consistency = Consistency.of(networks, modelled.lenses)
    good = Validation(networks, modelled.lenses, distribution_of(0.2), consistency, quiet, True)
    assert good.answer.endswith("known gives simulated-2 0.50.")
    assert "on 1 of 1 image; of the 1 in distribution for every network, on 1." in good.agreement
    bad = replace(good, distribution=distribution_of(0.01))
    assert bad.answer.startswith("No answer about an observed lens counts here: where a lens is in distribution, no")
    summary = json.loads(good.save(tmp_path / "real" / "summary.json").read_text())
    assert set(summary) == {
        "real", "answer", "p_values", "probability_of_substructure", "side_by_side", "least_mass_recovered"
    }  # fmt: skip
    assert summary["least_mass_recovered"]["blind"] == {"simulated-2": None}
    assert summary["p_values"]["known"] == {"simulated-2": 0.2}
