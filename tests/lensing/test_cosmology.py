import math

import pytest

from lensstudy.lensing import cosmology
from lensstudy.lensing.profiles import nfw_scales


def test_scales_of_a_lens_at_half_and_a_source_at_one():
    """Values of lenstronomy, whose G and solar mass differ from the CODATA and IAU values by 3e-4 together."""
    assert cosmology.critical_surface_density() == pytest.approx(1.14856e11, rel=5e-4)
    assert 1 / cosmology.area_per_mass() == pytest.approx(3.6083e11, rel=5e-4)  # inside an Einstein radius of 1"
    assert cosmology.kpc_per_arcsec() == pytest.approx(6.1042, abs=1e-4)


def test_scales_of_other_redshifts_are_those_of_lenstronomy():
    from lenstronomy.Cosmo.lens_cosmo import LensCosmo

    theirs = LensCosmo(0.222, 0.609, cosmo=cosmology.cosmology())  # SLACS J0946+1006
    assert cosmology.area_per_mass(0.222, 0.609) == pytest.approx(1 / (math.pi * theirs.sigma_crit_angle), rel=5e-4)
    assert cosmology.critical_surface_density(0.222, 0.609) == pytest.approx(theirs.sigma_crit_angle, rel=5e-4)
    assert cosmology.kpc_per_arcsec(0.222) == pytest.approx(theirs.dd * 1e3 * math.pi / 648000, rel=1e-6)


def test_nfw_halo_of_a_billion_solar_masses():
    surface, density = cosmology.critical_surface_density(), cosmology.critical_density()
    scale_radius, alpha_rs = nfw_scales(1e9, 13.0, surface, density)
    assert scale_radius == pytest.approx(0.2173, abs=1e-4)
    assert alpha_rs == pytest.approx(2.288e-3, abs=2e-6)


def test_conventions_of_deeplense():
    assert math.sqrt(1e12 * cosmology.deeplense_area_per_mass()) == pytest.approx(1.2815, abs=1e-4)
    assert cosmology.source_convention_factor() == pytest.approx(0.6343, abs=1e-4)
