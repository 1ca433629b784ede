"""Between two presets: with nothing taken the images are those of the one, with everything those of the other."""

import functools

import numpy as np
import pytest

from lensstudy.lensing.between import DIFFERENCES, Between
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.simulation import checked_request, draw_batch

SIZE = 48
POPULATION = {"subhalo_profile": "point", "subhalo_mass_min": 1e9, "subhalo_density_max": 0.01}
HOME = checked_request("realistic", 1, 1, SIZE, None, None, POPULATION)


@functools.cache
def between(away: str) -> Between:
    return Between(HOME, checked_request(away, 1, 2, SIZE, None, None, {}))


@pytest.mark.parametrize(("away", "class_name"), [("model_3", "cdm"), ("common_test", "axion")])
def test_a_staircase_begins_in_one_preset_and_ends_in_the_other(away, class_name):
    about = {"image_size": SIZE, "classes": [class_name]}
    images, _ = between(away).images((), class_name, 2)
    assert np.array_equal(images, draw_batch("realistic", range(2), seed=1, **about, **POPULATION)[0])
    images, _ = between(away).images(DIFFERENCES, class_name, 2)
    there = draw_batch(away, range(2), seed=2, **about)[0].numpy()
    close = np.isclose(images, there, rtol=1e-4, atol=1e-5 * there.max())
    assert close.mean() > 0.99  # rounding changes a Poisson draw here and there


def test_one_difference_is_taken_and_nothing_else():
    steps = between("common_test")
    _, mine = steps.images((), "cdm", 2)
    _, other = steps.images(DIFFERENCES, "cdm", 2)
    _, ring = steps.images(["ring size"], "cdm", 2)
    assert not np.array_equal(ring["einstein_radius"], mine["einstein_radius"])
    for name in ("shear_1", "lens_e1", "source_radius", "source_amplitude", "n_subhalos", "noise_rms", "noise_time"):
        assert ring[name].tolist() == mine[name].tolist()
    _, lens = steps.images(["lens shape"], "cdm", 2)
    assert lens["shear_1"].tolist() == other["shear_1"].tolist()
    for one, two in zip(lens.itertuples(), mine.itertuples(), strict=True):  # subhalos stay about the lens's centre
        np.testing.assert_allclose(one.subhalo_x - one.lens_x, two.subhalo_x - two.lens_x)


def test_mass_is_the_same_in_every_class_until_that_is_taken():
    steps = between("model_3")
    for taken, heavier in ((["substructure"], False), (["substructure", "mass"], True)):
        _, truth = steps.images(taken, "axion", 4)
        assert (truth["halo_einstein_radius"] == truth["einstein_radius"]).all() == heavier


def test_brightness_is_a_matter_of_noise_and_unit():
    """A source ten times as bright is the same image with less noise, and then ten times the counts."""
    brighter = POPULATION | {"exposure_time": 54000.0}
    steps = Between(HOME, checked_request("realistic", 1, 1, SIZE, None, None, brighter))
    assert steps.brightness == pytest.approx(10, rel=0.01) and steps.differences == ["noise", "unit"]
    made = [steps.images(taken, "no_sub", 2) for taken in ((), ("noise",), ("noise", "unit"))]
    light = [images.mean() for images, _ in made]
    assert light[1] == pytest.approx(light[0], rel=0.05) and light[2] == pytest.approx(10 * light[1], rel=0.01)
    noise = [truth["noise_rms"].mean() for _, truth in made]
    assert noise[1] < 0.5 * noise[0] and noise[2] == pytest.approx(10 * noise[1], rel=0.01)


def test_only_what_differs_is_a_step():
    assert between("model_3").differences == [name for name in DIFFERENCES if name not in ("field", "lens light")]
    with pytest.raises(LensingError, match="'colour' is no difference of two presets; there are noise, PSF"):
        between("model_3").images(["colour"], "cdm", 1)
    with pytest.raises(LensingError, match="images of 48 and 32 pixels"):
        Between(HOME, checked_request("model_3", 1, 1, 32, None, None, {}))
