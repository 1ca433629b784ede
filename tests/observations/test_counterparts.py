"""Counterparts of a real lens, against what their noise, their subhalo and their fit must be."""

from dataclasses import replace

import numpy as np
import pytest

from lensstudy.observations.counterparts import SIDE, Template, draw, refit
from lensstudy.observations.lens_model import MASS, expected_arcs
from lensstudy.observations.rays import binned
from lensstudy.observations.subhalos import Subhalo


@pytest.fixture(scope="module")
def template(modelled) -> Template:
    lens = modelled.lenses[0]
    return Template.of(lens, lens.model.values, lens.model.residuals, lens.model.used, "key")


@pytest.fixture(scope="module")
def others(template) -> np.ndarray:
    return template.values[None]


def drawn(template, others, seed=3, **options):
    return draw(template, others, np.random.default_rng(seed), **options)


def test_a_template_is_read_as_it_was_written(template, tmp_path):
    template.save(tmp_path / "one.npz")
    again = Template.load(tmp_path / "one.npz")
    assert (again.name, again.key, again.redshifts) == (template.name, "key", template.redshifts)
    np.testing.assert_array_equal(again.observation.image, template.observation.image)
    np.testing.assert_allclose(again.left, template.left, rtol=1e-6)
    assert (again.observation.correlation, again.chi2) == (template.observation.correlation, template.chi2)


def test_chi_square_of_a_template_is_of_fitted_pixels_outside_the_core(modelled, template):
    lens = modelled.lenses[0]
    x, y = lens.bare.grid()
    far = np.hypot(x - lens.light.center[0], y - lens.light.center[1]) > 0.5
    assert template.chi2 == pytest.approx((lens.model.residuals[lens.model.used & far] ** 2).mean())
    given = Template.of(lens, lens.model.values, np.full(lens.bare.image.shape, 2.0), lens.model.used)
    assert given.chi2 == pytest.approx(4)


def test_the_galaxys_errors_are_no_light_of_the_arcs(template):
    """What is added to an image in the shape of a part of the galaxy's light, as much as that may err by, is taken from
    it again, and makes no arcs."""
    extra = np.kron(template.parts[:, :, :], np.ones((1, 2, 2))) / np.sqrt(template.prior)[:, None, None]
    extra = extra[np.argmax(extra.std((1, 2)))]
    assert extra.max() > 5 * template.sky.min()
    row = (len(template.sky) - len(extra)) // 2
    image = template.observation.image.copy()
    image[row : row + len(extra), row : row + len(extra)] += extra
    one = refit(template, image, template.values)
    assert np.linalg.norm(one.arcs) == pytest.approx(template.signal, rel=0.05)


def test_a_lens_is_found_blindly(template, others):
    """From nothing but the image: the Einstein radius, and a fit that is as good as from the true lens."""
    smooth = drawn(template, others, multipoles=0.0)
    found, truth = refit(template, smooth.image), refit(template, smooth.image, smooth.values)
    assert found.state.values[0] == pytest.approx(smooth.values[0], rel=0.05)
    assert found.chi2 == pytest.approx(truth.chi2, rel=0.1)


def test_noise_is_as_large_as_that_of_the_image_and_shared_by_as_many_pixels(template):
    shared = replace(template, observation=replace(template.observation, correlation=2.5))
    chi = np.stack([shared.noise(np.random.default_rng(seed)) / shared.sky for seed in range(40)])
    assert chi.std() == pytest.approx(1, rel=0.02)
    # The variance of a mean over many pixels says how many of them count as one: without use of the kernel.
    blocks = chi.reshape(40, 4, 26, 4, 26).mean((2, 4))
    assert 26 * 26 * blocks.var() == pytest.approx(2.5, rel=0.15)


def test_the_noise_of_another_lens_is_one_of_its_eight_orientations(template):
    left = np.zeros(template.sky.shape)
    left[2, 5] = 50.0
    places = {
        tuple(np.argwhere(template.noise(np.random.default_rng(n), left) / template.sky > 20)[0]) for n in range(60)
    }
    n = len(left) - 1
    assert places == {(r, c) for a, b in ((2, 5), (5, 2)) for r in (a, n - a) for c in (b, n - b)}


def test_a_counterpart_follows_from_its_seed_and_is_as_bright_as_its_lens(template, others):
    first, again, other = drawn(template, others), drawn(template, others), drawn(template, others, seed=4)
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)
    assert first.subhalo is None and first.change is None
    bright = np.linalg.norm(refit(template, first.image, first.values).arcs) / template.signal
    assert abs(np.log(bright)) < 3 * 0.15


def test_multipoles_have_the_amplitude_that_is_asked_for(template, others):
    first = list(MASS).index("multipole_3_cos")
    given = drawn(template, others, multipoles=0.03).values
    assert np.hypot(*given[first + 2 : first + 4]) == pytest.approx(0.03) and not given[first : first + 2].any()
    free = np.array([drawn(template, others, seed=seed).values for seed in range(30)])
    assert 0.02 < np.hypot(free[:, first], free[:, first + 1]).max() <= 0.03


def test_what_a_subhalo_changes_is_where_it_is_and_grows_with_its_mass(template, others):
    light = drawn(template, others, mass=1e9, profile="point")
    heavy = drawn(template, others, mass=1e10, profile="point")
    assert (light.subhalo.x, light.subhalo.y) == (heavy.subhalo.x, heavy.subhalo.y)
    assert np.abs(heavy.change).sum() > 3 * np.abs(light.change).sum()
    x, y = template.observation.grid()
    row, column = np.unravel_index(np.abs(light.change).argmax(), light.change.shape)
    assert np.hypot(x[0, column] - light.subhalo.x, y[row, 0] - light.subhalo.y) < 0.3
    compact = drawn(template, others, mass=1e10, profile="NFW, concentration 60")
    diffuse = drawn(template, others, mass=1e10, profile="NFW, concentration 15")
    assert np.abs(heavy.change).max() > np.abs(compact.change).max() > np.abs(diffuse.change).max()


def test_a_refit_leaves_noise_of_a_smooth_lens_and_the_dent_of_a_subhalo(template, others):
    """A faint smooth lens is explained; a point mass of 1e10 is not, and the scan finds it."""
    faint = replace(template)
    faint.__dict__["signal"] = 100.0
    smooth = drawn(faint, others, multipoles=0.0)
    fitted = refit(faint, smooth.image, smooth.values)
    with_one = drawn(faint, others, multipoles=0.0, mass=1e10, profile="point")
    dented = refit(faint, with_one.image, with_one.values)
    assert fitted.chi2 < 1.3 and dented.chi2 > fitted.chi2
    assert dented.scan > max(5, fitted.scan) and dented.seen(with_one.change) > 5
    assert dented.seen(2 * with_one.change) == pytest.approx(2 * dented.seen(with_one.change))
    assert fitted.channels.shape == (3, SIDE, SIDE)
    arcs, residual, counts = fitted.channels
    assert set(np.unique(counts)) == {0.0, 1.0} and not arcs[counts == 0].any() and not residual[counts == 0].any()
    inside = np.sinh(residual[counts == 1].astype(float))
    assert (inside**2).mean() == pytest.approx(fitted.chi2, rel=0.4)
    assert counts[SIDE // 2, SIDE // 2] == 0  # the core


def test_the_change_that_is_added_to_a_real_image_is_that_of_its_model(template):
    """Beside the arcs that the model of the refit expects with the subhalo, at larger pixels and one ray each."""
    subhalo = Subhalo(*template.place(np.random.default_rng(0)), 3e9)
    model, observation = template.real.search.model, template.observation
    expected = expected_arcs(model, [subhalo], "point") - expected_arcs(model)
    found, _ = binned(replace(observation, image=template.change(subhalo, "point")), 2)
    seen = template.real.task.rays.used
    assert np.corrcoef(found.image[seen], expected[seen])[0, 1] > 0.9
    assert found.image[seen].std() == pytest.approx(expected[seen].std(), rel=0.25)
    none = template.change(replace(subhalo, mass=1e-3), "point")
    assert np.abs(none).max() < 1e-6 * np.abs(found.image).max()
