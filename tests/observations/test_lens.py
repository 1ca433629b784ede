"""One lens: what a network is given of it; and a sample of them: what goes on, and why the rest does not."""

from dataclasses import replace

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations.cutouts import network_input
from lensstudy.observations.lens import Lens
from lensstudy.observations.sample import LensSample, _each
from lensstudy.observations.writing import write, write_simulated


def nothing(images, degrees):
    return np.zeros(len(images))


def test_a_network_is_given_arcs_and_the_galaxy_if_it_knows_galaxies(sample, known_network):
    """What the lens galaxy adds is what the galaxy alone gives: everything on the way is linear."""
    lens, dark = sample.lenses[0], known_network(nothing)
    lit = replace(dark, lens_light=True)
    card, light = dark.trained.card, lens.light
    alone = network_input(
        lens.galaxy, lens.observation, card, noise=1.0, generator=np.random.default_rng(0), center=light.center
    )
    np.testing.assert_allclose(lens.seen_by(lit) - lens.seen_by(dark), alone, atol=1e-4 * alone.max())
    np.testing.assert_array_equal(lens.seen_by(lit, galaxy=False), lens.seen_by(dark))
    np.testing.assert_allclose(lens.galaxy.min(), 0, atol=0.05 * lens.galaxy.max())


def test_a_shift_moves_the_image_by_as_much(sample, known_network):
    lens, network = sample.lenses[0], known_network(nothing)
    still, shifted = lens.seen_by(network)[0, 0], lens.seen_by(network, shift=(0.2, -0.1))[0, 0]
    np.testing.assert_allclose(shifted[1:, :-2], still[:-1, 2:], atol=1e-3 * still.max())


def test_the_signal_is_that_of_the_arcs_in_units_of_the_noise(sample):
    """Twice the noise map is half the signal; and the arcs of these lenses are seen at hundreds of sigma."""
    lens = sample.lenses[0]
    noisier = replace(lens, observation=replace(lens.observation, noise=2 * lens.observation.noise))
    assert noisier.signal == pytest.approx(lens.signal / 2)
    assert lens.signal > 100


def test_of_several_bands_the_deepest_is_modelled(sample):
    one = sample.lenses[0].observation
    noise = np.random.default_rng(0).normal(0, 3 * one.noise)
    shallow = replace(one, band="A", image=one.image + noise, noise=np.hypot(one.noise, 3 * one.noise))
    lenses = [Lens.of(shallow), Lens.of(replace(one, band="B")), sample.lenses[1]]
    assert [str(lens) for lens in replace(sample, lenses=lenses).deepest()] == ["simulated-1 B", "simulated-2"]


def test_a_lens_that_cannot_be_modelled_is_told_with_its_name(sample):
    lens = sample.lenses[1]
    nearer = replace(lens.bare, about={"redshift_lens": 0.6, "redshift_source": 0.2})
    with pytest.raises(DataError, match="(?s)no lens goes on.*simulated-2: redshift_source = 0.2 is not behind"):
        replace(sample, lenses=[replace(lens, bare=nearer)]).modelled()
    with pytest.raises(DataError, match="simulated-2: has no smooth model yet"):
        _ = lens.model


def test_what_cannot_be_solved_is_told_with_its_name():
    def singular(name):
        raise np.linalg.LinAlgError("Singular matrix")

    skipped: dict[str, str] = {}
    assert _each(["the-lens"], singular, skipped, "lens models") == []
    assert skipped == {"the-lens": "the-lens: cannot be fitted: Singular matrix"}


def test_a_model_is_told_in_a_row(modelled):
    row = modelled.model_table.iloc[0]
    true = modelled.lenses[0].observation.about["einstein_radius_arcsec"]
    assert row["image"] == "simulated-2" and row["redshifts"] == "0.5, 1"
    assert row["Einstein radius [arcsec]"] == pytest.approx(true, rel=0.03)
    assert modelled.images["simulated-2"]["model"].shape == modelled.lenses[0].observation.image.shape


def test_what_does_not_go_on_is_told_with_its_reason(tmp_path, sample, known_network):
    sharp, other, third = (lens.observation for lens in sample.lenses)
    y, x = np.mgrid[-12:13, -12:13]
    write(sharp, write_simulated(tmp_path) / "simulated-1")
    write(replace(other, psf=np.exp(-(x**2 + y**2) / (2 * 4.0**2))), tmp_path / "simulated-2")
    sky = np.random.default_rng(0).normal(0, np.median(third.noise), third.image.shape)
    write(replace(third, image=sky), tmp_path / "simulated-3")
    found = LensSample.read(tmp_path)
    assert [str(lens) for lens in found.lenses] == ["simulated-1"] and not found.simulated
    assert "PSF of 0.4" in found.skipped["simulated-2"] and "no arcs stand out" in found.skipped["simulated-3"]
    assert found.table["goes on"].tolist() == ["yes", "no", "no"]
    assert found.description.startswith("Real telescope images. 3 images read, 1 of them")
    wide = known_network(nothing, size=200)
    with pytest.raises(DataError, match="simulated-1: 5.20 arcsec wide, but the networks need 15.00"):
        found.for_networks([wide, known_network(nothing)])
    assert found.for_networks([known_network(nothing)]).lenses == found.lenses


def test_nothing_that_goes_on_is_an_error_with_all_reasons(tmp_path, sample):
    y, x = np.mgrid[-12:13, -12:13]
    write(replace(sample.observations[0], psf=np.exp(-(x**2 + y**2) / (2 * 4.0**2))), tmp_path / "wide")
    with pytest.raises(DataError, match="(?s)no lens goes on.*wide: PSF of 0.4.* arcsec"):
        LensSample.read(tmp_path)


def test_simulated_observations_are_said_to_be_simulated(sample):
    assert sample.simulated and "simulated observations" in sample.description
    assert sample.reasons == "" and len(sample.light_table) == 3
