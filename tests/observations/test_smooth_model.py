"""Smooth models of lenses with subhalos in them: deflections against those of single profiles, images against those
of the simulator."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lensstudy.data.dataset import DataError
from lensstudy.lensing.cosmology import area_per_mass, critical_density
from lensstudy.lensing.populations import MACRO
from lensstudy.lensing.profiles import nfw_scales, point_mass, truncated_nfw
from lensstudy.lensing.rendering import render
from lensstudy.observations import smooth_model
from lensstudy.observations.lens_light import fit_lens_light, ring_radius, subtract_lens_light
from lensstudy.observations.reading import read_observations
from lensstudy.observations.smooth_model import Subhalo, expected, fit_lens, subhalo_deflection
from lensstudy.observations.writing import write_simulated

GRID = torch.linspace(-2, 2, 41, dtype=torch.float64)
X, Y = GRID[None, :], GRID[:, None]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The simulated lens with a subhalo of 1e10 solar masses, and its smooth model."""
    one = read_observations(write_simulated(tmp_path_factory.mktemp("lenses"), seed=1))[0][1]
    light = fit_lens_light(one)
    return one, fit_lens(subtract_lens_light(one, light), ring_radius(one, light))


def test_points_deflect_like_points():
    subhalos = [Subhalo(0.3, -0.4, 2e9), Subhalo(-1.0, 0.2, 5e9)]
    found = subhalo_deflection(subhalos, X, Y, (0.5, 1.0), "point")
    radii = [math.sqrt(subhalo.mass * area_per_mass()) for subhalo in subhalos]
    wanted = [point_mass(X, Y, radius, subhalo.x, subhalo.y) for radius, subhalo in zip(radii, subhalos, strict=True)]
    for axis in (0, 1):
        torch.testing.assert_close(found[axis], wanted[0][axis] + wanted[1][axis])


def test_a_halo_deflects_like_a_truncated_nfw_of_its_total_mass():
    mass = 3e9
    found = subhalo_deflection([Subhalo(0.12, 0.23, mass)], X, Y, (0.5, 1.0))
    far = subhalo_deflection(
        [Subhalo(0.0, 0.0, mass)], torch.tensor([[500.0]]).double(), torch.zeros(1, 1).double(), (0.5, 1.0)
    )
    assert float(far[0]) == pytest.approx(mass * area_per_mass() / 500, rel=1e-2)
    scale, _ = nfw_scales(mass, smooth_model.CONCENTRATION, 1 / (math.pi * area_per_mass()), critical_density())
    scale = torch.tensor(float(scale), dtype=torch.float64)
    shape = truncated_nfw(X, Y, 1.0, scale, smooth_model.TRUNCATION * scale, 0.12, 0.23)
    ratio = torch.hypot(*found) / torch.hypot(*shape)
    assert float(ratio.std() / ratio.mean()) < 1e-6


def test_an_unknown_profile_is_refused():
    with pytest.raises(DataError, match="profile 'sphere' is unknown; choose point or truncated_nfw"):
        subhalo_deflection([Subhalo(0, 0, 1e9)], X, Y, (0.5, 1.0), "sphere")


def test_a_model_with_a_subhalo_is_what_the_simulator_renders(fitted):
    """The same lens through the other way to an image, which shares only the formulas."""
    _, model = fitted
    lens = {"einstein_radius": 1.2, "lens_e1": 0.1, "lens_e2": 0.05, "lens_x": 0.02, "shear_1": 0.03, "shear_2": -0.04}
    source = {"radius": 0.2, "index": 1.0, "e1": 0.1, "e2": -0.1, "x": 0.05, "y": 0.1}
    row = lens | {f"source_{name}": value for name, value in source.items()} | {"source_amplitude": 7.0}
    subhalo = {"subhalo_x": np.array([0.9]), "subhalo_y": np.array([0.7]), "subhalo_mass": np.array([1e10])}
    given = [row.get(name, 0.0) for name in MACRO], [math.log(7.0 * 0.05**2), math.log(0.2), *list(source.values())[1:]]
    ours = replace(model, values=np.concatenate(given))
    for subhalos, more in (([], {}), ([Subhalo(0.9, 0.7, 1e10)], subhalo)):
        wanted = render(row | more, "realistic", instrument="hst-acs", dtype=torch.float64)[0, 0]
        found = expected(ours, subhalos, "point")
        assert np.abs(found - wanted)[5:-5, 5:-5].max() < 1e-4 * wanted.max()


def test_the_smooth_model_finds_the_lens(fitted):
    _, model = fitted
    assert 0.8 <= model.parameters["einstein_radius"] <= 1.7
    assert model.redshifts == (0.5, 1.0) and model.redshifts_known


def test_a_lens_like_its_model_is_fitted_to_the_noise(fitted):
    _, model = fitted
    image = expected(model) + np.random.default_rng(2).normal(0, model.observation.noise)
    again = fit_lens(replace(model.observation, image=image), model.parameters["einstein_radius"])
    assert again.chi2 == pytest.approx(1.0, abs=0.1)
    for name in ("einstein_radius", "shear_1", "shear_2", "source_x", "source_y"):
        assert again.parameters[name] == pytest.approx(model.parameters[name], abs=0.03), name


def test_nothing_to_fit_is_told(fitted):
    one, _ = fitted
    with pytest.raises(DataError, match="0 pixels to fit within 1.80 arcsec"):
        fit_lens(replace(one, mask=np.ones_like(one.mask)), 1.0)


@pytest.mark.parametrize(
    "about, message",
    [
        ({"redshift_lens": 0.6, "redshift_source": 0.2}, "redshift_source = 0.2 is not behind redshift_lens = 0.6"),
        ({"redshift_lens": 0.5, "redshift_source": 0.5}, "is not behind"),
        ({"redshift_lens": 0.0, "redshift_source": 1.0}, "redshift_lens = 0; expected more than 0"),
        ({"redshift_lens": 0.5, "redshift_source": math.nan}, "redshift_source = nan; expected more than 0"),
        ({"redshift_source": -1.0}, "redshift_source = -1; expected"),
        ({"redshift_lens": "near", "redshift_source": 1.0}, "expected numbers, or none at all"),
    ],
)
def test_redshifts_that_cannot_be_are_told(fitted, about, message):
    one, _ = fitted
    with pytest.raises(DataError, match=message):
        fit_lens(replace(one, about=about), 1.0)


def test_redshifts_that_are_not_said_are_those_of_the_simulations(fitted):
    one, _ = fitted
    assert smooth_model.redshifts_of(replace(one, about={"redshift_lens": 0.2})) == (smooth_model.REDSHIFTS, False)
    assert smooth_model.redshifts_of(replace(one, about={"redshift_lens": 0.2, "redshift_source": 0.6})) == (
        (0.2, 0.6),
        True,
    )
