"""Subhalos of known mass, and how they bend light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lensstudy.data.dataset import DataError
from lensstudy.lensing.cosmology import area_per_mass, critical_density, critical_surface_density
from lensstudy.lensing.profiles import nfw_scales, point_mass_sum, truncated_nfw_sum

__all__ = ["Subhalo", "subhalo_deflection"]

CONCENTRATION, TRUNCATION = 13.0, 5.0  # of a halo of dark matter, as in the simulations


@dataclass(frozen=True)
class Subhalo:
    """A subhalo: its place in arcseconds and its mass in solar masses."""

    x: float
    y: float
    mass: float


def subhalo_deflection(
    subhalos: Sequence[Subhalo],
    x: Tensor,
    y: Tensor,
    redshifts: tuple[float, float],
    profile: str = "truncated_nfw",
    concentration: float = CONCENTRATION,
) -> tuple[Tensor, Tensor]:
    """Deflection `(H, W)` of the subhalos together, in arcseconds.

    Args:
        subhalos: with their places from the point where `x` and `y` are zero.
        x, y: where light passes, `(1, W)` and `(H, 1)`, or both `(H, W)`, in arcseconds.
        redshifts: of lens and source.
        profile: `point` or `truncated_nfw`.
        concentration: of a halo: its virial radius over its scale radius.

    Raises:
        DataError: the profile is unknown.
    """
    mass = np.array([one.mass for one in subhalos], dtype=float)
    radius = torch.tensor(np.sqrt(mass * area_per_mass(*redshifts)))[None]
    center_x, center_y = (torch.tensor([[getattr(one, axis) for one in subhalos]], dtype=x.dtype) for axis in "xy")
    if profile == "point":
        alpha_x, alpha_y = point_mass_sum(x, y, radius, center_x, center_y)
    elif profile == "truncated_nfw":
        densities = critical_surface_density(*redshifts), critical_density(redshifts[0])
        scale, _ = nfw_scales(mass, concentration, *densities)
        scale, truncation = torch.tensor(scale)[None], torch.full_like(radius, TRUNCATION)
        alpha_x, alpha_y = truncated_nfw_sum(x, y, radius, scale, truncation, center_x, center_y)
    else:
        raise DataError(f"profile '{profile}' is unknown; choose point or truncated_nfw")
    return alpha_x[0], alpha_y[0]
