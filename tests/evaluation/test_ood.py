"""The OOD detector on samples of known distributions."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lensstudy.evaluation.ood import Gaussians, OODDetector, image_statistics


def detector_and_held_out():
    """Features with heavy tails beside normal statistics."""
    generator = np.random.default_rng(0)
    features, statistics = generator.standard_t(1.5, (600, 40)), generator.normal(size=(600, 16))
    held_out = features[300:], statistics[300:]
    return OODDetector.fit(features[:300], statistics[:300], np.arange(300) % 3, held_out), *held_out


def test_a_distance_is_about_one_for_the_images_it_was_fitted_to():
    values = np.random.default_rng(0).normal(0, [1.0, 10.0, 0.1], (500, 3))
    fitted = Gaussians.fit(values, np.zeros(500))
    assert fitted.distance(values).mean() == pytest.approx(1, rel=0.05)
    assert fitted.distance(np.array([[10.0, 0, 0]]))[0] > 20


def test_heavy_tails_of_the_features_do_not_hide_unusual_statistics():
    detector, features, statistics = detector_and_held_out()
    assert (detector.score(features, statistics) > 1).mean() == pytest.approx(0.01, abs=0.005)
    assert (detector.score(features, statistics + 8) > 1).all()
    assert detector.score(np.full((1, 40), np.inf), statistics[:1])[0] == np.inf


def test_a_saved_detector_gives_the_same_scores(tmp_path):
    detector, features, statistics = detector_and_held_out()
    loaded = OODDetector.load(detector.save(tmp_path / "ood.safetensors"))
    np.testing.assert_array_equal(loaded.score(features, statistics), detector.score(features, statistics))
    save_file({"features.means": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors: has no .* export the network again"):
        OODDetector.load(tmp_path / "other.safetensors")


def test_image_statistics_are_quantiles_rings_and_the_median_step():
    images = np.random.default_rng(1).normal(size=(3, 2, 20, 20))
    found, mean = image_statistics(images), images.mean(axis=1)
    shares = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0]
    np.testing.assert_allclose(found[:, :9].T, np.quantile(mean.reshape(3, -1), shares, axis=1), rtol=1e-5)
    steps = [np.median(np.r_[abs(np.diff(one, axis=0)).ravel(), abs(np.diff(one, axis=1)).ravel()]) for one in mean]
    np.testing.assert_allclose(found[:, -1], np.log(steps), rtol=1e-4)
    for other in (np.rot90(images, axes=(2, 3)), images[..., ::-1]):
        np.testing.assert_allclose(image_statistics(other), found, rtol=1e-5)
