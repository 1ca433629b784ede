"""A subhalo that was put into a lens is found with its place and mass, and none in a lens without one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lensstudy.lensing.cosmology import area_per_mass, critical_surface_density
from lensstudy.lensing.profiles import point_mass
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens_model import MASS, SOURCES, Assumed, Task, expected_arcs, in_frame, model_of
from lensstudy.observations.one_subhalo import TRIAL_SIZE, Halo, SubhaloSearch, cut_nfw, ends_of, pseudo_jaffe
from lensstudy.observations.subhalos import Subhalo
from tests.observations.test_lens_model import lensed

PLACE, STRENGTH, SIZE = (-1.15, -0.45), 0.008, 0.15  # beside the arc
TRUTH = np.array([1.1, 2.0, 0.08, -0.05, 0, 0, 0.03, -0.02, 0, 0, 0, 0])


def halo(x, y):
    return Halo(pseudo_jaffe, 0.16).deflection(np.array([*PLACE, STRENGTH, math.log(SIZE)]), x, y)


def task_of(one: Observation) -> Task:
    nothing = np.zeros((0, *one.image.shape)), np.zeros(0)
    return Task.of(one, (0.3, 2.0), Assumed.of(None, None), *nothing, replace(SOURCES, cells=16, sizes=(0.5,)))


def searched(one: Observation, as_it_is: bool = False) -> SubhaloSearch:
    """The search in an image of a lens that is known but for a subhalo."""
    task, nothing = task_of(one), np.zeros((0, *one.image.shape))
    state = task.adjusted(TRUTH, np.arange(len(MASS)), rounds=1, steps=3)
    model = model_of(task, state, one, nothing, 1.1, (math.nan, math.inf), (0.5, 1.0), True)
    return SubhaloSearch.of(model, as_it_is=as_it_is)


@pytest.fixture(scope="module")
def found():
    search = searched(lensed(halo=halo, noise=1 / 80))
    scanned = search.scan(np.array([[-1.1, -0.55], [1.0, 0.6]]))
    return search, scanned, search.fits(scanned, 1)[0]


def test_a_subhalo_is_found_where_it_lies(found):
    search, scanned, best = found
    assert np.hypot(best.x - PLACE[0], best.y - PLACE[1]) < 0.1
    true = STRENGTH * math.pi * critical_surface_density(0.5, 1.0)
    assert best.mass == pytest.approx(true, rel=0.35) and best.mass_error < 0.2 * true
    assert search.is_subhalo(best, scanned, [best])
    for none in (replace(best, mass=-best.mass), replace(best, x=0.1, y=0.2), replace(best, evidence_rises=9.0)):
        assert not search.is_subhalo(none, scanned, [best])
    negative = replace(best, mass=-best.mass, chi2_falls=best.chi2_falls + 1)
    assert not search.is_subhalo(best, scanned, [best, negative])
    values = best.state.values * np.where(np.arange(len(best.state.values)) == len(MASS) + 2, -1, 1)
    assert not search.is_subhalo(best, [replace(best.state, values=values)], [best]), "as good in the scan"
    assert best.chi2_falls > 100 and best.evidence_rises > 50
    without, same = search.held(best.state, "strength", [0.0, best.state.values[-2]])
    assert without.cost - best.state.cost > 50 and abs(same.cost - best.state.cost) < 5


def test_derivatives_are_those_of_images_of_nudged_lenses(found):
    """Of every parameter of lens and subhalo, whatever part of the deflection it touches."""
    search, _, best = found
    task, state, nudge = search.task, best.state, 1e-5
    slopes = state.mesh.slopes(state.solution.source, *ends_at(task, state.values))
    changes = task.changes(state, np.arange(len(state.values)))
    for number in range(len(state.values)):
        moved = state.values + nudge * np.eye(len(state.values))[number]
        by = (ends_at(task, moved) - ends_at(task, state.values)) / nudge
        np.testing.assert_allclose(changes[:, number], task.rays.image((slopes * by).sum(0)), rtol=1e-6, atol=1e-6)
        assert np.abs(changes[:, number]).max() > 0


def ends_at(task: Task, values: np.ndarray) -> np.ndarray:
    """Where the middle rays end, in the frame of the source."""
    ends = task.ends(values, *task.rays.centers)
    return np.array(in_frame(ends, task.frame(*ends)))


def test_the_place_and_the_mass_have_intervals(found):
    """And a fit that starts at the place ends there."""
    search, _, best = found
    true = STRENGTH * math.pi * critical_surface_density(0.5, 1.0)
    profiles = search.profiles(best)
    assert all(rises.min() > -1 for _, rises in profiles.values()), "nothing that is held is better than the best"
    low, high = (end * search.solar_masses for end in ends_of(*profiles["strength"]))
    assert 0.5 * true < low < best.mass < high < 2 * true
    again = search.at_place((best.x, best.y))
    assert np.hypot(again.x - best.x, again.y - best.y) < 0.1 and again.mass == pytest.approx(best.mass, rel=0.3)


def test_an_interval_without_an_end_is_infinite():
    values = np.arange(-4.0, 5.0)
    assert ends_of(values, np.where(values < 0, values**2, 0.1 * values)) == (pytest.approx(-1.97, abs=0.02), math.inf)
    assert ends_of(values, np.where(values > 0, values**2, -values)) == (
        pytest.approx(-3.84, abs=0.05),
        pytest.approx(1.97, abs=0.02),
    )


@pytest.fixture(scope="module")
def smooth():
    return searched(lensed(noise=1 / 80))


def test_a_smooth_lens_has_none(smooth):
    search, places = smooth, smooth.places(0.3)
    strength, error = search.responses(places)
    assert ((strength / error) ** 2).max() < 16
    fall = search.sensitivity(places, 1e9)
    assert (fall > 0).all() and search.sensitivity(places, 3e9) == pytest.approx(9 * fall)


def test_what_a_subhalo_changes_is_what_it_changes_of_the_true_lens(smooth):
    """The model knows the source from the image alone, and bends all rays of a pixel alike."""
    model, mass = smooth.model, 5e9
    radius = math.sqrt(mass * area_per_mass())
    bent = lensed(halo=lambda x, y: point_mass(x, y, radius, *PLACE), noise=0)
    true = (bent.image - lensed(noise=0).image)[model.used]
    change = (expected_arcs(model, [Subhalo(*PLACE, mass)], "point") - model.image)[model.used]
    assert np.linalg.norm(change - true) < 0.3 * np.linalg.norm(true)
    np.testing.assert_allclose(expected_arcs(model, [Subhalo(*PLACE, 0.0)], "point"), model.image, atol=1e-9)


def test_what_would_show_is_what_a_full_refit_cannot_take_up():
    """In images without noise: by how much chi square rises where a subhalo is put in that no model has, and mass and
    source are adjusted in full."""

    def seen(bends=None) -> Observation:
        one = lensed(halo=bends, noise=0)
        return replace(one, noise=np.full(one.image.shape, lensed(noise=0).image.max() / 80))

    search = searched(seen(), as_it_is=True)
    shows = search.shows()
    assert (shows[:, 2] > 0).all() and len(shows) == len(search.places())
    for x, y, mass in shows[np.argsort(shows[:, 2])[[0, len(shows) // 4, len(shows) // 2]]]:
        values = np.array([*(search.middle + [x, y]), mass / search.solar_masses, math.log(TRIAL_SIZE)])
        task = task_of(seen(lambda at_x, at_y, values=values: search.halo.deflection(values, at_x, at_y)))
        refitted = task.adjusted(search.smooth.values, np.arange(len(MASS)), rounds=2, steps=5)
        assert refitted.cost - search.smooth.cost == pytest.approx(50, rel=0.3)


@pytest.mark.parametrize("profile", [pseudo_jaffe, cut_nfw])
def test_the_strength_of_a_halo_is_its_mass_within_the_aperture(profile):
    """By Gauss's theorem: the flux of the deflection through a circle is 2 pi times the strength."""
    angle = torch.linspace(0, 2 * math.pi, 101, dtype=torch.float64)[:-1]
    around = 0.3 + 0.2 * torch.cos(angle), -0.1 + 0.2 * torch.sin(angle)
    alpha_x, alpha_y = Halo(profile, 0.2).deflection(np.array([0.3, -0.1, 0.02, math.log(0.4)]), *around)
    outwards = alpha_x * torch.cos(angle) + alpha_y * torch.sin(angle)
    assert float(outwards.mean()) * 0.2 == pytest.approx(0.02, rel=1e-6)


def test_a_pseudo_jaffe_halo_has_its_convergence():
    x = torch.tensor([0.05, 0.2, 0.7], dtype=torch.float64)
    step, size = 1e-5, 0.3
    slope_x = (pseudo_jaffe(x + step, 0 * x, size)[0] - pseudo_jaffe(x - step, 0 * x, size)[0]) / (2 * step)
    slope_y = (pseudo_jaffe(x, 0 * x + step, size)[1] - pseudo_jaffe(x, 0 * x - step, size)[1]) / (2 * step)
    assert (slope_x + slope_y) / 2 == pytest.approx((1 / x - 1 / torch.sqrt(x**2 + size**2)) / 2, rel=1e-4)
