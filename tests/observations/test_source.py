"""A source that was put in is found, and what it cannot do is known."""

import numpy as np
import pytest

from lensstudy.observations.source import Mesh, solve


@pytest.fixture(scope="module")
def mesh():
    generator = np.random.default_rng(1)
    return Mesh.around(*generator.normal(0, 0.2, (2, 400)), np.ones(400), cells=9, reach=0.4)


def test_slopes_are_the_derivatives_and_the_edge_is_dark(mesh):
    generator = np.random.default_rng(2)
    coefficients, (x, y), step = generator.normal(size=81), generator.uniform(-0.5, 0.5, (2, 200)), 1e-6
    slopes = mesh.slopes(coefficients, x, y)
    for slope, (dx, dy) in zip(slopes, ((step, 0), (0, step)), strict=True):
        change = (mesh.design(x + dx, y + dy) - mesh.design(x - dx, y - dy)) @ coefficients / (2 * step)
        assert slope == pytest.approx(change, abs=1e-4)
    (left, right), (bottom, top) = mesh.extent
    edge = mesh.design(np.array([left, right - 1e-9, 0, 0]), np.array([0, 0, bottom, top - 1e-9])) @ coefficients
    assert np.abs(edge).max() < 1e-6


def test_brightness_is_that_of_the_design(mesh):
    generator = np.random.default_rng(3)
    coefficients, (x, y) = generator.normal(size=81), generator.uniform(-0.7, 0.7, (2, 30, 10))
    wanted = mesh.design(x.ravel(), y.ravel()) @ coefficients
    assert (wanted == 0).any() and (wanted != 0).any()
    np.testing.assert_allclose(mesh.brightness(coefficients, x, y).ravel(), wanted, atol=1e-12)


def test_a_mesh_reaches_no_further_than_it_may(mesh):
    for low, high in mesh.extent:
        assert high - low == pytest.approx(0.8)


def test_a_smooth_source_and_a_galaxy_are_told_apart_in_noise(mesh):
    generator = np.random.default_rng(3)
    x, y = generator.uniform(-0.4, 0.4, (2, 3000))
    brightness = 40 * np.exp(-(x**2 + (y - 0.1) ** 2) / 2 / 0.12**2)
    galaxy = np.stack([np.cos(9 * x), np.ones(3000)], axis=1)
    data = brightness + galaxy @ [5.0, -3.0] + generator.normal(0, 1, 3000)
    design = mesh.design(x, y).toarray()
    found = solve(design, data, galaxy, 1e-6 * np.eye(2), np.zeros(2), cells=9)
    assert found.galaxy == pytest.approx([5.0, -3.0], abs=1.0)
    assert np.std(design @ found.source - brightness) < 1.0
    assert np.mean((data - found.image) ** 2) == pytest.approx(1.0, abs=0.1)
    assert 10 < found.free < 81
    for strength in (found.strength / 30, found.strength * 30):
        assert solve(design, data, galaxy, 1e-6 * np.eye(2), np.zeros(2), 9, strength).evidence > found.evidence


def test_what_the_source_can_do_is_projected_away(mesh):
    generator = np.random.default_rng(4)
    x, y = generator.uniform(-0.3, 0.3, (2, 1000))
    design = 1e3 * mesh.design(x, y).toarray()
    found = solve(design, generator.normal(size=1000), np.zeros((1000, 0)), np.zeros((0, 0)), np.zeros(0), 9, 1.0)
    inside, outside = design[:, 40], generator.normal(size=1000)
    left = found.beyond(np.stack([inside, outside], axis=1))
    assert left[0, 0] < 1e-3 * (inside @ inside)
    assert left[1, 1] > 0.8 * (outside @ outside)


def test_a_mesh_elsewhere_shows_the_same_source(mesh):
    generator = np.random.default_rng(5)
    coefficients, (x, y) = generator.normal(size=81), generator.uniform(-0.3, 0.3, (2, 50))
    there = mesh.placed(0.4, -0.2, 3.0)
    found = there.design(0.4 + 3 * x, -0.2 + 3 * y) @ coefficients
    assert found == pytest.approx(mesh.design(x, y) @ coefficients, abs=1e-9)


def test_light_is_expected_in_the_middle(mesh):
    expected = mesh.falling(0.2).reshape(9, 9)
    assert expected[4, 4] == expected.max() > 0.8
    assert expected[0, 0] < 0.25 and expected == pytest.approx(expected[::-1, ::-1], rel=0.5)
