"""Lenses that were put in are found, from their images in noise alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import signal

from lensstudy.data.dataset import DataError
from lensstudy.lensing.instruments import gaussian_kernel
from lensstudy.lensing.profiles import power_law, sersic, shear
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens_model import (
    SOURCES,
    Assumed,
    Task,
    expected_arcs,
    fit_lens_model,
    isothermal,
    isothermal_radius,
)
from lensstudy.observations.subhalos import Subhalo

PSF = np.outer(gaussian_kernel(1.1), gaussian_kernel(1.1))
SIZE, SCALE = 84, 0.05


def lensed(
    e1=0.08, e2=-0.05, shear_1=0.03, shear_2=-0.02, einstein_radius=1.1, slope=2.0, halo=None, noise=1 / 40
) -> Observation:
    """Arcs of two clumps, by three rays squared in each pixel, in noise of a share of their peak; `halo` bends light as
    well."""
    fine = torch.tensor((np.arange(3 * SIZE) - (3 * SIZE - 1) / 2) * SCALE / 3)
    x, y = fine[None, :], fine[:, None]
    values = (torch.tensor(value, dtype=torch.float64) for value in (einstein_radius, slope, e1, e2))
    alpha, more = power_law(x, y, *values), shear(x, y, shear_1, shear_2)
    third = halo(x + 0 * y, y + 0 * x) if halo else (0.0, 0.0)
    beta = [axis - one - two - three for axis, one, two, three in zip((x, y), alpha, more, third, strict=True)]
    none = torch.zeros((), dtype=torch.float64)
    light = sersic(*beta, 1.0, 0.12, 1.0, none + 0.1, none - 0.2, 0.1, 0.05)
    light = light + sersic(*beta, 1.5, 0.05, 1.0, none, none, -0.05, 0.12)
    light = light.reshape(SIZE, 3, SIZE, 3).mean((1, 3)).numpy()
    light = signal.fftconvolve(light, PSF, mode="same")
    sigma = light.max() * noise
    image = light + np.random.default_rng(1).normal(0, sigma, light.shape)
    return Observation("x", "", image, np.full(light.shape, sigma), np.zeros(light.shape, bool), PSF, SCALE)


@pytest.fixture(scope="module")
def fitted():
    one = lensed()
    return one, fit_lens_model(one, 1.3, sources=replace(SOURCES, cells=18, sizes=(0.5, 1.0)))


def test_a_lens_and_its_source_are_found_to_the_noise(fitted):
    one, model = fitted
    found = model.parameters
    assert found["einstein_radius"] == pytest.approx(1.1, rel=0.01)
    assert found["slope"] == pytest.approx(2.0, abs=0.1)
    assert [found[name] for name in ("lens_e1", "lens_e2")] == pytest.approx([0.08, -0.05], abs=0.04)
    assert [found[name] for name in ("shear_1", "shear_2")] == pytest.approx([0.03, -0.02], abs=0.03)
    assert 0.9 < model.chi2 < 1.15
    assert 0 < model.errors[0] < 0.02
    assert np.abs(model.residuals[~model.used]).max() == 0
    assert not model.at_limits
    radius, behind = model.second
    assert abs(radius / 1.1 - 1) > 0.1 and behind > 30


def test_an_ellipsoid_takes_the_part_of_the_shear():
    """Light bent towards the middle most along x, as by a shear along x, is bent so by mass along y."""
    ellipsoid = [1.2, 2.0, 0.1 * np.cos(1.0), 0.1 * np.sin(1.0), 0.1, -0.1, 0, 0, 0, 0, 0, 0]
    radius, ratio, axis = isothermal(np.array(ellipsoid))
    assert (radius, ratio) == pytest.approx((1.2, 0.9 / 1.1), abs=1e-4) and axis == pytest.approx(np.degrees(0.5))
    sheared = np.array([1.2, 2.0, 0.0, 0.0, 0, 0, 0.04, 0, 0, 0, 0, 0])
    radius, ratio, axis = isothermal(sheared)
    assert radius == pytest.approx(1.2, rel=0.01) and axis == pytest.approx(90, abs=0.1) and 0.7 < ratio < 0.9
    sheared[2] = (1 - ratio) / (1 + ratio)
    assert isothermal(sheared)[1] > 0.97


def test_the_radius_that_is_assumed_is_that_of_a_galaxy():
    """4 pi (sigma/c)^2 D_ls/D_s, by hand: 1.802 arcsec at 250 km/s times .428 for redshifts .5 and 1."""
    assert isothermal_radius(250.0, (0.5, 1.0)) == pytest.approx(1.802 * 0.428, rel=0.01)
    assumed = Assumed.of(None, (0.5, 1.0))
    assert assumed.penalty(assumed.mean) == 0
    further = assumed.mean.copy()
    further[0] += assumed.width[0]
    assert assumed.penalty(further) == pytest.approx(1)
    assert Assumed.of(None, None).penalty(further) == 0


def test_a_subhalo_changes_the_arcs_near_it(fitted):
    one, model = fitted
    change = np.abs(expected_arcs(model, [Subhalo(1.1, 0.0, 1e10)], "point") - model.image)
    x, y = one.grid()
    near = np.hypot(x - 1.1, y) < 0.4
    assert change[near].max() > 5 * change[np.hypot(x - 1.1, y) > 1.5].max() > 0


def test_what_is_masked_does_not_matter():
    """Whatever stands in masked pixels: the source of a lens is the same, and so is how well it fits."""
    one = lensed()
    x, y = one.grid()
    mask = np.hypot(x - 1.1, y) < 0.2
    fits = []
    for image in (one.image, np.where(mask, 1e3, one.image)):
        seen = replace(one, image=image, mask=mask)
        nothing = np.zeros((0, *image.shape)), np.zeros(0)
        task = Task.of(seen, (0.3, 2.0), Assumed.of(None, None), *nothing, replace(SOURCES, cells=10, sizes=(0.5,)))
        assert not (task.rays.used & mask).any()
        fits.append(task.at(np.array([1.1, 2.0, 0.08, -0.05, 0, 0, 0.03, -0.02, 0, 0, 0, 0])))
    assert fits[0].evidence == fits[1].evidence
    np.testing.assert_array_equal(fits[0].solution.source, fits[1].solution.source)


def test_nothing_to_fit_is_told():
    one = lensed()
    with pytest.raises(DataError, match="0 pixels to fit between 0.20 and 2.02 arcsec; need 100"):
        fit_lens_model(Observation("x", "", one.image, one.noise, np.ones_like(one.mask), PSF, SCALE), 1.3)
    with pytest.raises(DataError, match="nothing stands out of the noise"):
        fit_lens_model(Observation("x", "", 0 * one.image, one.noise, one.mask, PSF, SCALE), 1.3)
