"""The OOD detector on samples of known distributions."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lensstudy.evaluation.ood import (
    Gaussians,
    OODDetector,
    PrincipalComponents,
    Ranges,
    _quarters,
    _whole,
    image_statistics,
    thumbnails,
)


def detector_and_held_out():
    """Features with heavy tails beside normal statistics and thumbnails of 6 x 6 pixels."""
    generator = np.random.default_rng(0)
    parts = generator.standard_t(1.5, (600, 40)), generator.normal(size=(600, 16)), generator.normal(size=(600, 36))
    held_out = [part[300:] for part in parts]
    return OODDetector.fit(*(part[:300] for part in parts), np.arange(300) % 3, held_out), *held_out


def test_a_distance_is_about_one_for_the_images_it_was_fitted_to():
    values = np.random.default_rng(0).normal(0, [1.0, 10.0, 0.1], (500, 3))
    fitted = Gaussians.fit(values, np.zeros(500))
    assert fitted.distance(values).mean() == pytest.approx(1, rel=0.05)
    assert fitted.distance(np.array([[10.0, 0, 0]]))[0] > 20


def test_heavy_tails_of_the_features_do_not_hide_what_else_is_unusual():
    detector, features, statistics, thumbnails = detector_and_held_out()
    assert (detector.score(features, statistics, thumbnails) > 1).mean() == pytest.approx(0.03, abs=0.005)
    assert (detector.score(features, statistics + 8, thumbnails) > 1).all()
    one = np.where(np.arange(16) == 3, 9, statistics)
    assert (detector.score(features, one, thumbnails) > 1).all(), "one of sixteen"
    assert (detector.score(features, statistics, 3 * thumbnails) > 1).all()
    infinite = np.full((1, 40), np.inf), statistics[:1], thumbnails[:1]
    assert detector.score(*infinite)[0] == np.inf
    assert detector.score(features[:1], statistics[:1] * np.nan, thumbnails[:1])[0] == np.inf


def test_of_few_held_out_images_the_limit_is_not_exceeded_more_often():
    """The mean share over draws of 60 held-out images, of which one or two lie beyond the limit."""
    draw, shares = np.random.default_rng(0).normal, []
    for _ in range(40):
        known, held_out, others = ([draw(size=(n, m)) for m in (4, 3, 16)] for n in (100, 60, 400))
        detector = OODDetector.fit(*known, np.zeros(100), held_out)
        shares.append((detector.score(*others) > 1).mean())
    assert np.mean(shares) < 0.03


def test_a_statistic_that_never_changes_raises_no_alarm_by_rounding():
    values = np.random.default_rng(0).normal(size=(300, 5))
    values[:, 2] = 1
    fitted = Ranges.fit(values)
    assert fitted.distance(values + [0, 0, 1e-6, 0, 0]).max() < 2
    assert fitted.distance(values + [0, 0, 1, 0, 0]).min() > 100


@pytest.mark.parametrize("side", [8, 9])
def test_principal_components_are_those_of_numpy_and_hold_in_every_orientation(side):
    """Of smooth spots on a small grid, by the singular values of all their orientations."""
    generator = np.random.default_rng(0)
    y, x = np.indices((side, side)) - (side - 1) / 2
    places = generator.normal(0, 1.5, (400, 2, 1, 1))
    spots = np.exp(-((x - places[:, 0]) ** 2 + (y - places[:, 1]) ** 2) / 8)
    fitted = PrincipalComponents.fit(spots.reshape(400, -1))
    rotated = [np.rot90(each, k, (1, 2)) for each in (spots, spots.swapaxes(1, 2)) for k in range(4)]
    stack = np.concatenate(rotated).reshape(3200, -1)
    singular = np.linalg.svd(stack - stack.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(fitted.variances[:20], singular[:20] ** 2 / 3200, rtol=1e-6)
    found = fitted.distances(spots.reshape(400, -1))
    for each in rotated:
        np.testing.assert_allclose(fitted.distances(each.reshape(400, -1)), found, rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(_whole(*_quarters(fitted.basis).values(), side), fitted.basis)
    noise = spots + generator.normal(0, 0.1, spots.shape)
    assert fitted.distances(noise.reshape(400, -1))[:, 1].min() > 2 * found[:, 1].max()


def test_a_saved_detector_gives_the_same_scores_in_a_fraction_of_the_size(tmp_path):
    detector, *others = detector_and_held_out()
    loaded = OODDetector.load(detector.save(tmp_path / "ood.safetensors"))
    np.testing.assert_allclose(loaded.score(*others), detector.score(*others), rtol=1e-5)
    np.testing.assert_array_equal(loaded.limits, detector.limits)
    basis = detector.components.basis
    np.testing.assert_array_equal(loaded.components.basis, basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-6)
    parts = (detector.features, detector.statistics, detector.ranges)
    numbers = basis.size / 4 + sum(array.size for part in parts for array in vars(part).values())
    assert (tmp_path / "ood.safetensors").stat().st_size < 4 * numbers + 2_500
    save_file({"features.means": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors: has no .* export the network again"):
        OODDetector.load(tmp_path / "other.safetensors")


def test_image_statistics_are_what_they_say():
    images = np.random.default_rng(1).normal(size=(3, 2, 20, 20)).astype(np.float32)
    found, mean = image_statistics(images), images.astype(float).mean(axis=1)
    shares = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0]
    np.testing.assert_allclose(found[:, :9].T, np.quantile(mean.reshape(3, -1), shares, axis=1), rtol=1e-5)
    y, x = (np.indices((20, 20)) - 9.5) / 10
    ring = (np.hypot(x, y) * 6).astype(int)
    for number in range(6):
        inside = mean[:, ring == number]
        np.testing.assert_allclose(found[:, 9 + number], inside.mean(axis=1), atol=1e-6)
        spread = (inside**2).mean(axis=1) - inside.mean(axis=1) ** 2
        np.testing.assert_allclose(found[:, 15 + number], np.log(spread + 1e-6), atol=1e-4)
    apart = [one[1:-1, 1:-1] - (one[:-2, 1:-1] + one[2:, 1:-1] + one[1:-1, :-2] + one[1:-1, 2:]) / 4 for one in mean]
    steps = [np.median(np.abs(one)) for one in apart]
    np.testing.assert_allclose(found[:, 27], np.log(steps), atol=0.01)
    for other in (np.rot90(images, axes=(2, 3)), images[..., ::-1]):
        np.testing.assert_allclose(image_statistics(other), found, atol=1e-4)


def test_a_band_of_frequencies_holds_the_wave_that_belongs_to_it():
    wave = np.sin(2 * np.pi * 0.23 * np.arange(40))[None, None, None].repeat(40, 2)
    power = image_statistics(wave.astype(np.float32))[0, 28:38]
    assert power.argmax() == 4, "0.23 of 0.5 a pixel, in ten bands"


@pytest.mark.parametrize("x, y", [(0, 0), (0.3, 0.0), (-0.2, 0.25)])
def test_a_circle_is_found_where_it_is(x, y):
    grid = (np.indices((64, 64)) - 31.5) / 32
    ring = np.exp(-((np.hypot(grid[1] - x, grid[0] - y) - 0.5) ** 2) / 2 / 0.05**2)
    ring += np.random.default_rng(0).normal(0, 1e-3, ring.shape)
    offset, radius, thickness = image_statistics(ring[None, None])[0, 46:49]
    assert offset == pytest.approx(np.hypot(x, y), abs=0.01) and radius == pytest.approx(0.5, abs=0.02)
    assert np.exp(thickness / 2) == pytest.approx(0.05, rel=0.2)


def test_a_star_outside_a_ring_a_dead_column_and_a_plateau_stand_out():
    grid = (np.indices((64, 64)) - 31.5) / 32
    ring = np.exp(-((np.hypot(*grid) - 0.5) ** 2) / 2 / 0.05**2)
    ring += np.random.default_rng(0).normal(0, 0.01, ring.shape)
    star = ring + 2 * np.exp(-((grid[1] - 0.8) ** 2 + grid[0] ** 2) / 2 / 0.05**2)
    dead = ring * (np.arange(64) != 30)
    clean, star, dead, flat = (
        image_statistics(one[None, None])[0] for one in (ring, star, dead, np.minimum(ring, 0.5))
    )
    assert abs(clean[49]) < 0.1 and star[49] > 0.2
    assert dead[52] > clean[52] + 1.5 and dead[51] < clean[51] + 1, "below its neighbours, not above"
    assert clean[55] == pytest.approx(np.log(2)) and flat[55] > np.log(100)
    assert clean[60] == 0 and dead[60] == pytest.approx(np.log(64)), "63 pairs of neighbours"
    assert np.isfinite(image_statistics(np.zeros((1, 1, 8, 8), np.float32))).all()


@pytest.mark.parametrize("size", [16, 33, 48])
def test_a_thumbnail_is_the_mean_over_its_pixels(size):
    images = np.random.default_rng(0).normal(size=(2, 1, size, size)).astype(np.float32)
    found = thumbnails(images)
    side = min(size, 24)
    np.testing.assert_allclose(found.mean(axis=1), images.mean((1, 2, 3)), atol=1e-6)
    rotated = thumbnails(np.rot90(images, axes=(2, 3))).reshape(2, side, side)
    np.testing.assert_allclose(rotated, np.rot90(found.reshape(2, side, side), axes=(1, 2)), atol=1e-6)
    if size == 48:
        np.testing.assert_allclose(found, images.reshape(2, 24, 2, 24, 2).mean((2, 4)).reshape(2, -1), atol=1e-6)
