"""Measures of a search, on scores whose truth is known."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from lensstudy import cli
from lensstudy.evaluation.intervals import wilson
from lensstudy.networks.names import SEARCHING, searching
from lensstudy.observations.counterparts import SIDE
from lensstudy.observations.reading import read_observation
from lensstudy.observations.sample_images import BLIND, BLIND_SUBHALO, REAL, SampleImages
from lensstudy.observations.sample_search import IDEAL, NULLS, SampleSearch, scored
from lensstudy.observations.writing import write, write_simulated
from lensstudy.training.run import load_run

LENSES = [f"J{number:04d}" for number in range(40)]
NFW = "NFW, concentration 60"


def made(generator, shift=0.0, shifted=(REAL,)) -> SampleSearch:
    """A sample whose network scores by significance and noise, with real lenses like their counterparts but for a
    `shift`, which those have, too, that are fitted blindly if so asked."""
    rows = [
        {"lens": lens, "kind": kind, "mass": mass, "profile": NFW if mass else "", "seen": mass / 2e9, "chi2": chi2}
        | {"model": "doubtful" if lens < "J0010" else "ok"}
        for lens in LENSES
        for kind, masses in {
            REAL: [0.0],
            "smooth": [0.0] * 16,
            "real residuals": [0.0] * 8,
            BLIND: [0.0] * 8,
            "multipole 1 %": [0.0] * 4,
            "multipole 3 %": [0.0] * 4,
            "subhalo": np.exp(generator.uniform(*np.log([1e8, 1e11]), 12)),
            "injected": np.exp(generator.uniform(*np.log([1e8, 1e11]), 12)),
            BLIND_SUBHALO: np.exp(generator.uniform(*np.log([10**10.5, 1e11]), 8)),
        }.items()
        for mass in masses
        for chi2 in [generator.normal(1, 0.1)]
    ]
    table = pd.DataFrame(rows).assign(number=range(len(rows)))
    table["scan"] = table["seen"] + generator.normal(size=len(table))
    noise = generator.normal(size=(3, len(table))) * 0.3 + generator.normal(size=len(table))
    score = table["seen"].to_numpy() + noise + shift * table["kind"].isin(shifted).to_numpy()
    images = SampleImages(table, np.zeros((len(table), 3, 8, 8), np.float16), {})
    return SampleSearch(images, {"d4": score, "plain": 0.5 * score + noise}, None)


def uniform(search: SampleSearch) -> float:
    return stats.kstest(search.lenses["p"], "uniform").pvalue


@pytest.fixture(scope="module")
def search() -> SampleSearch:
    return made(np.random.default_rng(0))


def test_one_smooth_counterpart_in_ten_is_above_the_threshold(search):
    for name in search.scores:
        share, low, high = search.share(name, search._of("smooth"))
        assert share == pytest.approx(0.1, abs=0.002) and low < 0.1 < high


def test_the_share_found_is_what_significance_and_noise_give(search):
    """Of a normal score, a share Phi(seen - threshold) is found."""
    found = search.found()
    cell = found[(found["by"] == IDEAL) & (found["bin"] == 3)].iloc[0]
    chosen = search.rows[(search.rows["kind"] == "subhalo") & search.rows["mass"].between(10**9.5, 10**10)]
    expected = stats.norm.cdf(chosen["seen"] - stats.norm.isf(0.1)).mean()
    assert cell["share"] == pytest.approx(expected, abs=0.08)
    shares = found[found["by"] == "d4"]["share"].to_numpy()
    assert shares[0] < 0.3 and shares[-1] > 0.95
    assert found["images"].sum() == 12 * len(LENSES) * len(search.scores)


def test_where_blind_fits_score_high_a_subhalo_must_stand_out_from_those(search):
    """Their threshold is higher by the shift of their scores: a share Phi(seen - shift - threshold) is found."""
    apart = made(np.random.default_rng(0), shift=25.0, shifted=(BLIND,))
    assert apart.threshold("d4", BLIND) - apart.threshold("d4") == pytest.approx(25, abs=0.3)
    found = apart.found(BLIND_SUBHALO, BLIND)
    (cell,) = found[found["by"] == "d4"].itertuples()
    chosen = apart.rows[apart.rows["kind"] == BLIND_SUBHALO]
    sigma = np.hypot(1, 0.3 / np.sqrt(3))
    expected = stats.norm.cdf((chosen["seen"] - 25) / sigma - stats.norm.isf(0.1)).mean()
    assert (cell.bin, cell.images) == (5, 8 * len(LENSES)) and cell.share == pytest.approx(expected, abs=0.05)
    assert f"where both are fitted blindly, {cell.share:.0%} [" in apart.answer
    assert f"where only 10 in 100 of those smooth ones exceed it, it finds {100 * cell.share:.0f} to " in apart.plain
    both = made(np.random.default_rng(0), shift=25.0, shifted=(BLIND, BLIND_SUBHALO))
    assert both.found(BLIND_SUBHALO, BLIND).query("by == 'd4'")["share"].item() > 0.99
    none = replace(search, images=replace(search.images, catalogue=search.rows.replace({"kind": {BLIND: "train"}})))
    assert none.found_table(BLIND_SUBHALO, BLIND).empty and "fitted blindly" not in none.answer


def test_half_are_found_at_the_significance_of_the_threshold(search):
    """A score of unit noise and the significance is above the threshold in half of the cases where both are equal."""
    assert search.half_found == pytest.approx(stats.norm.isf(0.1) * 1.04, rel=0.25)
    row = search.lenses.iloc[0]
    assert row["half_mass"] == pytest.approx(2e9 * search.half_found, rel=0.15)


def test_rates_of_false_alarms_are_uniform_where_lenses_are_like_their_counterparts(search):
    assert uniform(search) > 0.01 and len(search.lenses) == len(LENSES)
    assert search.lenses["p"].between(1 / 33, 1).all()
    apart = made(np.random.default_rng(1), shift=3.0)
    assert uniform(apart) < 1e-6 and "differ from their counterparts" in apart.answer
    alike = "p-value of rates as of blind fits"
    assert float(search.sample_table[alike][0]) > 0.01 and "<" in apart.sample_table[alike][0]


def test_what_blind_fits_do_to_a_score_is_no_sign_of_a_subhalo():
    """Real lenses are suspicious, and smooth counterparts that are fitted like them are just as much."""
    one = made(np.random.default_rng(1), 3.0, (REAL, BLIND))
    assert one.share("d4", one._of(BLIND))[1] > 0.5
    assert float(one.sample_table["p-value of rates as of blind fits"][0]) > 0.01
    assert "no more than chance may give" in one.answer and "in 100 smooth ones and" in one.plain
    own = one._rates(one.scores["d4"], np.flatnonzero(one._of("smooth")), ["smooth"])
    np.testing.assert_allclose(np.sort(own).reshape(16, 40).mean(1), np.arange(1, 17) / 16)  # none is among its own


def test_a_heavy_subhalo_is_not_out_of_distribution():
    """chi square as large as that of counterparts with a subhalo is no cause to distrust an answer."""
    one = made(np.random.default_rng(2))
    rows = one.rows.assign(chi2=np.where(one.rows["kind"].isin([REAL, "subhalo"]), 2.0, one.rows["chi2"]))
    table = SampleSearch(replace(one.images, catalogue=rows), one.runs, None).lenses
    assert table["in_distribution"].all()
    worse = rows.assign(chi2=np.where(rows["kind"] == REAL, 3.0, rows["chi2"]))
    assert not SampleSearch(replace(one.images, catalogue=worse), one.runs, None).lenses["in_distribution"].any()


def test_a_rate_counts_the_counterparts_of_its_own_lens(search):
    row = search.lenses.iloc[5]
    rows, score = search.rows, search.scores["d4"]
    own = (rows["lens"] == row["lens"]).to_numpy()
    null = score[own & rows["kind"].isin(NULLS).to_numpy()]
    real = score[own & (rows["kind"] == REAL).to_numpy()]
    assert row["p"] == pytest.approx((1 + (null >= real).sum()) / 33)
    assert search.lenses["rank"].tolist() == list(range(1, len(LENSES) + 1))
    groups = search.sample_table.set_index("lenses")["number"]
    assert groups["all"] == 40 and groups["smooth model ok"] == 30 >= groups["and chi square as in counterparts"]
    assert search.lenses["p"].is_monotonic_increasing


def test_images_of_one_lens_do_not_count_as_many_lenses():
    """Where all images of a lens are alike, intervals are those of as many images as there are lenses."""
    one = made(np.random.default_rng(4))
    alike = np.random.default_rng(5).normal(size=len(LENSES))[one.rows["lens"].str[1:].astype(int)]
    known = SampleSearch(one.images, {"d4": (alike + 1e-3 * one.scores["d4"])[None]}, None)
    chosen = known._of("multipole 1 %")
    share, low, high = known.share("d4", chosen)
    assert (low, high) == pytest.approx(wilson(share, len(LENSES)), abs=0.02)
    lowest, highest = (
        float(end) for end in re.search(r"\[(.+), (.+)\]", known.aucs.set_index("by")["AUC"]["d4"]).groups()
    )
    independent = one.aucs.set_index("by")["AUC"]["plain"]
    low, high = (float(end) for end in re.search(r"\[(.+), (.+)\]", independent).groups())
    assert highest - lowest < 0.02 < high - low  # alike in both classes, so that a lens cancels


def test_lenses_that_lent_their_residuals_are_told_from_others():
    one = made(np.random.default_rng(6))
    lent = np.where(one.rows["kind"] == "real residuals", "J0007", "")
    more = one.rows.assign(lender=lent)
    more.loc[more["kind"] == "multipole 1 %", ["kind", "lender"]] = ["train", "J0003"]
    table = SampleSearch(replace(one.images, catalogue=more), one.runs, None).sample_table.set_index("lenses")
    assert table["number"][["lent noise to the training", "lent noise to the test"]].tolist() == [1, 1]
    assert "lent noise to the training" not in one.sample_table["lenses"].tolist()


def test_a_probability_is_what_the_validation_shows():
    """Of scores that overlap by one standard deviation, the odds at the middle between both kinds are even."""
    one = made(np.random.default_rng(2))
    number = 4000
    mass = np.repeat([0.0, 1e10], number // 2)
    more = pd.DataFrame(
        {"lens": "J0000", "kind": "validation", "mass": mass, "profile": "", "chi2": 1.0, "model": "ok"}
    )
    table = pd.concat([one.rows, more], ignore_index=True)
    own = np.random.default_rng(3).normal(mass > 0, 1.0)
    images = SampleImages(table, np.zeros((len(table), 3, 8, 8), np.float16), {})
    known = SampleSearch(images, {"d4": np.concatenate([one.scores["d4"], own])[None]}, None)
    # Two Gaussians of unit width at 0 and 1: the odds are exp(score - 1/2).
    given = np.array([-1.0, 0.5, 2.0])
    np.testing.assert_allclose(known.probability(given), 1 / (1 + np.exp(0.5 - given)), atol=0.03)


def test_few_lenses_make_a_report_too():
    """One lens, and no heavy subhalo: tables without rows rather than errors."""
    rows = [{"lens": "A", "kind": kind, "mass": 0.0, "profile": "", "chi2": 1.0} for kind in (REAL, *["smooth"] * 3)]
    rows += [{"lens": "A", "kind": "subhalo", "mass": 2e9, "profile": "point", "chi2": 1.0, "seen": 2.0}] * 2
    table = pd.DataFrame(rows).assign(scan=range(len(rows)), model="ok").fillna({"seen": 0.0})
    images = SampleImages(table, np.zeros((len(rows), 3, 8, 8), np.float16), {})
    one = SampleSearch(images, {"d4": np.arange(12.0).reshape(2, 6)}, None)
    assert "nan" not in one.answer + one.plain and len(one.beside_published) == 5
    assert one.lenses_table["mass half found"].tolist() == ["not known"]


def test_the_better_network_is_ahead_in_the_table_and_in_the_summary(search, tmp_path):
    table = search.aucs.set_index("by")
    assert list(table.index[:2]) == ["d4", "plain"] and table["the first is ahead by"]["plain"].startswith("0.")
    rows = search.false_positives.set_index("by")
    assert IDEAL not in rows.index and rows.loc["d4", "smooth"].startswith("10 ")
    kept = SampleSearch(search.images, search.runs, tmp_path)
    kept.save()
    assert {"lenses.csv", "scores.csv", "summary.json"} <= {file.name for file in tmp_path.iterdir()}
    assert len(pd.read_csv(tmp_path / "lenses.csv")) == len(LENSES)


def test_the_networks_that_come_with_the_package_answer_alike_in_all_orientations():
    images = np.random.default_rng(0).normal(size=(6, 3, SIDE, SIDE)).astype(np.float16)
    for name in SEARCHING:
        runs = [load_run(run) for run in sorted(searching(name).glob("s*"))]
        upright = scored(images, runs)
        assert upright.shape == (len(runs), 6) and len(runs) >= 3 and upright.std() > 0
        for moved in (np.rot90(images, axes=(2, 3)), images[:, :, ::-1]):
            np.testing.assert_allclose(scored(np.ascontiguousarray(moved), runs), upright, atol=1e-3)
    with pytest.raises(ValueError, match="no network 'slcs' searches lenses; there are slacs"):
        searching("slcs")


@pytest.mark.slow
def test_lenses_of_ones_own_are_searched_by_the_command(tmp_path):
    """Two simulated lenses, and one that is empty sky: a row each, and what failed says why."""
    write_simulated(tmp_path / "lenses", 2, magnitudes=(23.0, 23.5))
    empty = read_observation(tmp_path / "lenses" / "simulated-3")
    sky = np.random.default_rng(0).normal(0, empty.noise)
    write(replace(empty, image=sky), tmp_path / "lenses" / "simulated-3")
    command = [str(tmp_path / "lenses"), "--network", "slacs", "--out", str(tmp_path / "found.csv")]
    answer = CliRunner().invoke(cli.app, ["predict", *command])
    assert answer.exit_code == 1, answer.output
    table = pd.read_csv(tmp_path / "found.csv").set_index("lens")
    assert table.loc["simulated-3", "state"] == "failed" and "no arcs stand out" in table.loc["simulated-3", "reason"]
    assert np.isfinite(table["score"].dropna()).all() and table["false_alarms"].dropna().between(0.04, 1).all()
    assert set(table["state"]) <= {"ok", "out of distribution", "failed"} and len(table) == 3


def test_a_search_of_several_paths_or_of_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for paths in (["a", "b"], ["nowhere"]):
        answer = CliRunner().invoke(cli.app, ["predict", *paths, "--network", "slacs"])
        assert answer.exit_code == 2 and "slacs searches the lenses of one folder" in answer.output
    answer = CliRunner().invoke(cli.app, ["predict", "a", "--network", "slacs", "--prior", "0.9,0.1"])
    assert answer.exit_code == 2 and "--prior beside --network slacs" in answer.output
