"""The light of a lens galaxy that was put in is found under its arcs."""

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.lensing.instruments import INSTRUMENTS, gaussian_kernel, noise_variance, noisy
from lensstudy.lensing.rendering import render
from lensstudy.observations import lens_light as lenslight
from lensstudy.observations.cutouts import Observation, cropped
from lensstudy.observations.lens_light import fit_lens_light, ring_radius, subtract_lens_light
from tests.observations.images import noise_image


def seen_by_hst(row, seed=1) -> tuple[Observation, np.ndarray]:
    """A lens in one orbit of HST's ACS, and its image without noise."""
    telescope = INSTRUMENTS["hst-acs"]
    clean = render(row | {"exposure_time": 2200.0}, "realistic", instrument=telescope.name)[0, 0].astype(float)
    image = noisy(clean, telescope, 2200.0, np.random.default_rng(seed))
    noise = np.sqrt(noise_variance(clean, telescope, 2200.0))
    profile = gaussian_kernel(telescope.psf_fwhm / telescope.pixel_scale / 2.355)
    return Observation("x", "", image, noise, np.zeros(image.shape, bool), np.outer(profile, profile), 0.05), clean


@pytest.mark.parametrize("einstein_radius, brightness", [(0.35, 20.0), (0.6, 40.0)])
def test_an_arc_that_outshines_the_galaxy_is_not_taken_for_it(einstein_radius, brightness):
    """Arcs nearer to the middle than half an arcsecond, brighter than the galaxy at (-0.1, 0.05)."""
    lens = {"einstein_radius": einstein_radius, "lens_x": -0.1, "lens_y": 0.05}
    source = {"source_amplitude": brightness, "source_radius": 0.08, "source_x": 0.15, "source_y": 0.05}
    galaxy = {"lens_light_amplitude": 2.0, "lens_light_radius": 0.6, "lens_light_index": 2.5}
    one, clean = seen_by_hst(lens | source | {"source_index": 1.0} | galaxy)
    x, y = one.grid()
    row, column = np.unravel_index(clean.argmax(), clean.shape)
    assert np.hypot(x[0, column] + 0.1, y[row, 0] - 0.05) > 0.25, "the brightest place is not the galaxy"
    assert fit_lens_light(cropped(one, 3.6)).center == pytest.approx((-0.1, 0.05), abs=0.05)


def test_the_galaxy_is_found_where_pixels_are_coarse():
    """Half a pixel can be more than the distance within which the brightest spot is looked for."""
    pixel_scale = 0.7
    y, x = (np.indices((32, 32)) - 15.5) * pixel_scale
    image = np.exp(-(x**2 + y**2) / 2) * 100
    one = Observation("x", "", image, np.ones_like(image), np.zeros(image.shape, bool), None, pixel_scale)
    assert np.hypot(*lenslight._center(one)) < pixel_scale


def test_a_sersic_galaxy_is_found_under_its_arcs_within_the_noise():
    """One that was put in: compact arcs 1.2 arcsec around a de Vaucouleurs galaxy, as HST's ACS would see them."""
    source = {"source_amplitude": 30.0, "source_radius": 0.1, "source_index": 1.0, "source_x": 0.08}
    galaxy = {"lens_light_amplitude": 12.0, "lens_light_radius": 0.8, "lens_light_index": 4.0}
    row = source | galaxy | {"einstein_radius": 1.2, "lens_e1": 0.1, "lens_e2": -0.05, "lens_x": 0.03, "shear_1": 0.05}
    one, whole = seen_by_hst(row)
    _, arcs = seen_by_hst(row | {"lens_light_amplitude": 0.0})
    noise = one.noise
    light = fit_lens_light(one)
    assert light.good and light.chi2 == pytest.approx(1, abs=0.1)
    assert np.sqrt((((light.model - whole + arcs) / noise) ** 2).mean()) < 0.5
    x, y = one.grid()
    inside = np.hypot(x, y) < 0.8
    assert light.model[inside].sum() == pytest.approx((whole - arcs)[inside].sum(), rel=0.02)
    assert light.center == pytest.approx((0.03, 0.0), abs=0.005)
    assert light.ellipticity[2:] == pytest.approx((0.1, -0.05), abs=0.04)
    assert ring_radius(one, light) == pytest.approx(1.2, abs=0.15)
    left = subtract_lens_light(one, light)
    assert left.mask.sum() < 5
    assert ((left.image - arcs) / noise)[light.arcs].std() == pytest.approx(1, abs=0.2)


def test_without_arcs_there_is_no_ring():
    one = Observation("x", "", noise_image(60), np.ones((60, 60)), np.zeros((60, 60), bool), None, 0.1)
    with pytest.raises(DataError, match="no arcs stand out"):
        ring_radius(one, fit_lens_light(one))
