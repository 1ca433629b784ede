"""Subhalos deflect as single profiles of their mass do."""

import math

import pytest
import torch

from lensstudy.data.dataset import DataError
from lensstudy.lensing.cosmology import area_per_mass, critical_density
from lensstudy.lensing.profiles import nfw_scales, point_mass, truncated_nfw
from lensstudy.observations.subhalos import CONCENTRATION, TRUNCATION, Subhalo, subhalo_deflection

GRID = torch.linspace(-2, 2, 41, dtype=torch.float64)
X, Y = GRID[None, :], GRID[:, None]


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
    scale, _ = nfw_scales(mass, CONCENTRATION, 1 / (math.pi * area_per_mass()), critical_density())
    scale = torch.tensor(float(scale), dtype=torch.float64)
    shape = truncated_nfw(X, Y, 1.0, scale, TRUNCATION * scale, 0.12, 0.23)
    ratio = torch.hypot(*found) / torch.hypot(*shape)
    assert float(ratio.std() / ratio.mean()) < 1e-6


def test_an_unknown_profile_is_refused():
    with pytest.raises(DataError, match="profile 'sphere' is unknown; choose point or truncated_nfw"):
        subhalo_deflection([Subhalo(0, 0, 1e9)], X, Y, (0.5, 1.0), "sphere")
