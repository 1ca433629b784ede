"""An observation that is written and read comes back."""

import numpy as np

from lensstudy.observations.reading import read_observation, read_observations
from lensstudy.observations.writing import write, write_simulated


def test_an_observation_comes_back_as_it_was_written(tmp_path):
    one = read_observations(write_simulated(tmp_path / "lenses", seed=3))[0][1]
    again = read_observation(write(one, tmp_path / "lens"))
    for name in ("image", "noise", "mask", "psf"):
        np.testing.assert_allclose(getattr(again, name), getattr(one, name), rtol=1e-12)
    assert again.pixel_scale == one.pixel_scale
    assert again.about["subhalo"] == one.about["subhalo"]
    assert again.name == "lens" and again.notes == ()
