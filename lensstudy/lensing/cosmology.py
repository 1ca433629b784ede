"""One cosmology for the package: distances, and the masses and lengths that one arcsecond stands for.

Flat LambdaCDM with H0 = 70 km/s/Mpc and Omega_m = 0.3; a lens at redshift 0.5 and a source at 1 unless told otherwise.
The last two functions are DeepLense's own conventions, which its presets keep.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from astropy import constants, units

if TYPE_CHECKING:
    from astropy.cosmology import FlatLambdaCDM

__all__ = [
    "LENS_REDSHIFT",
    "SOURCE_REDSHIFT",
    "area_per_mass",
    "cosmology",
    "critical_density",
    "critical_surface_density",
    "deeplense_area_per_mass",
    "kpc_per_arcsec",
    "source_convention_factor",
]

LENS_REDSHIFT, SOURCE_REDSHIFT = 0.5, 1.0


@functools.cache
def cosmology(H0: float = 70, Om0: float = 0.3, Ob0: float = 0.05) -> FlatLambdaCDM:
    """The cosmology; H0 in km/s/Mpc."""
    from astropy.cosmology import FlatLambdaCDM  # takes a second, which whoever simulates nothing need not wait for

    return FlatLambdaCDM(H0=H0, Om0=Om0, Ob0=Ob0)


@functools.cache
def area_per_mass(lens_redshift: float = LENS_REDSHIFT, source_redshift: float = SOURCE_REDSHIFT) -> float:
    """Squared Einstein radius of one solar mass in arcsec^2: `4 G M / c^2 * D_LS / (D_L D_S)`."""
    lens, source = (cosmology().angular_diameter_distance(z) for z in (lens_redshift, source_redshift))
    between = cosmology().angular_diameter_distance(lens_redshift, source_redshift)
    area = 4 * constants.G * constants.M_sun / constants.c**2 * between / (lens * source)
    return (area * units.rad**2).to_value(units.arcsec**2, equivalencies=units.dimensionless_angles())


def critical_surface_density(lens_redshift: float = LENS_REDSHIFT, source_redshift: float = SOURCE_REDSHIFT) -> float:
    """Surface density of convergence 1, the mean inside an Einstein radius, in solar masses per arcsec^2."""
    return 1 / (math.pi * area_per_mass(lens_redshift, source_redshift))


@functools.cache
def kpc_per_arcsec(lens_redshift: float = LENS_REDSHIFT) -> float:
    """Length in the lens plane that one arcsecond spans, in kpc."""
    return 1 / cosmology().arcsec_per_kpc_proper(lens_redshift).value


@functools.cache
def critical_density(lens_redshift: float = LENS_REDSHIFT) -> float:
    """Critical density of the universe at the lens, in solar masses per arcsec^3 there."""
    density = cosmology().critical_density(lens_redshift).to_value(units.Msun / units.kpc**3)
    return density * kpc_per_arcsec(lens_redshift) ** 3


@functools.cache
def deeplense_area_per_mass() -> float:
    """Squared Einstein radius of one solar mass in DeepLense's presets, arcsec^2: 1.2815" for 1e12 solar masses.

    The distances are luminosity distances and `D_LS = D_S - D_L`; angular-diameter distances would give 1.66".
    """
    lens, source = cosmology().luminosity_distance(LENS_REDSHIFT), cosmology().luminosity_distance(SOURCE_REDSHIFT)
    area = 4 * constants.G * constants.M_sun / constants.c**2 * (source - lens) / (lens * source)
    return area.to_value(units.dimensionless_unscaled) * 206265.0**2


@functools.cache
def source_convention_factor() -> float:
    """What deflections shrink by when angles are quoted for a source at redshift 2.5 and the source is at 1: 0.6343."""
    theirs = cosmology(H0=69.7, Om0=0.2814, Ob0=0.0464)

    def efficiency(source: float) -> float:
        lens_to_source = theirs.angular_diameter_distance(LENS_REDSHIFT, source)
        return float(lens_to_source / theirs.angular_diameter_distance(source))

    return efficiency(SOURCE_REDSHIFT) / efficiency(2.5)
