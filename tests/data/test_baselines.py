"""What moments of the ring alone say about the class: near nothing where the physics is fair, nearly all where not."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.baselines import baseline_auc, ring_moments, total_flux
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.simulation import simulate
from lensstudy.lensing.populations import CLASSES
from lensstudy.lensing.simulation import draw_batch


def test_ring_moments_of_a_ring():
    y, x = np.mgrid[:65, :65] - 32.0
    ring = (np.abs(np.hypot(x, y) - 20) < 1).astype(float)
    moments = ring_moments(np.stack([ring, ring * (x > 0)])[:, None])
    assert moments.shape == (2, 18)
    assert moments[0, 0] == pytest.approx(20, abs=0.1)
    assert np.abs(moments[0, 2:10]).max() < 1e-9  # a full ring points nowhere: m = 1 and 2
    assert moments[1, 2] == pytest.approx(2 / np.pi, abs=0.02)  # mean cosine over half a circle
    brighter = ring_moments(5 * ring[None, None])
    assert np.allclose(brighter, moments[:1])


def test_total_flux_is_the_sum():
    assert total_flux(np.ones((2, 1, 3, 4))).tolist() == [[12.0], [12.0]]


def lenses(preset: str, count: int, image_size: int, **population) -> LensDataset:
    """The images of `simulate` without their truth, which takes most of its time."""
    images, labels = draw_batch(preset, range(count), seed=11, image_size=image_size, **population)
    names = [CLASSES[label] for label in labels]
    catalogue = pd.DataFrame({"name": [f"{name}-{k}" for k, name in enumerate(names)], "class": names})
    return LensDataset(images.numpy(), catalogue, CLASSES, {"source": "simulated"}).split(0.4, 0.01, seed=0)


def test_model_1_gives_the_class_away():
    dataset = lenses("model_1", 300, 75)
    assert baseline_auc(dataset, against=["no_sub"]) >= 0.95


@pytest.mark.slow
def test_realistic_does_not():
    for population in (
        {},
        {  # as heavy and as easy as a short study needs it
            "subhalo_profile": "point",
            "subhalo_mass_min": 1e9,
            "subhalo_density_min": 0.04,
            "axion_fraction_min": 0.04,
            "axion_fraction_max": 0.08,
            "source_magnitude_max": 23.0,
        },
    ):
        dataset = lenses("realistic", 400, 32, **population)
        assert baseline_auc(dataset) <= 0.60
        assert baseline_auc(dataset, "total_flux") <= 0.60


def test_unknown_features_and_an_unsplit_set_are_refused():
    dataset = simulate("model_3", 4, seed=1, image_size=16)
    with pytest.raises(DataError, match="ring_moments, total_flux"):
        baseline_auc(dataset, "horoscope")
    with pytest.raises(DataError, match="split"):
        baseline_auc(dataset)
