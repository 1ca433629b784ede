"""A smooth lens is found again from its image alone, and what it leaves tells lenses with substructure."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.simulation import simulate
from lensstudy.lensing.fitting import smooth_fit
from lensstudy.lensing.instruments import Instrument
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.rendering import render

BRIGHT = {"source_magnitude_min": 20.0, "source_magnitude_max": 21.0, "subhalo_profile": "point"}
HEAVY = BRIGHT | {"subhalo_mass_min": 1e9, "subhalo_density_min": 0.02, "subhalo_density_max": 0.05}


def fits_of(dataset, **arguments) -> pd.DataFrame:
    about, truth = dataset.description, dataset.catalogue
    given = {"instrument": Instrument(**about["instrument"]), "exposure_time": truth["exposure_time"].to_numpy()}
    given |= {"noise_level": about["noise_level"]} | arguments
    return smooth_fit(dataset.images, truth["noise_rms"].to_numpy(), about["preset"], **given)


def test_smooth_lenses_are_found_again_and_substructure_is_left_over():
    dataset = simulate("realistic", 4, seed=21, image_size=48, classes=["no_sub", "cdm"], **HEAVY)
    fits, truth = fits_of(dataset), dataset.catalogue
    smooth = (truth["class"] == "no_sub").to_numpy()
    assert fits["converged"].all()
    assert fits["chi_square"][smooth].between(0.9, 1.12).all()  # noise alone: 1 +- 0.03
    assert fits["chi_square"][~smooth].min() > 3
    for name, error in (("einstein_radius", 0.01), ("source_x", 0.02), ("shear_1", 0.02), ("source_index", 0.1)):
        assert np.abs(fits[name] - truth[name])[smooth].max() < error
    again = fits_of(dataset.subset(np.arange(2)))  # fewer images beside it
    assert again["chi_square"].to_numpy() == pytest.approx(fits["chi_square"][:2].to_numpy(), abs=2e-3)
    pd.testing.assert_frame_equal(fits_of(dataset.subset(np.arange(2))), again)


def test_photon_counts_that_were_scaled_are_weighed_as_photons():
    """DeepLense's Common Test: scaled from 0 to 1, with ten counts of sky; what is left of smooth lenses is noise."""
    fits = fits_of(simulate("common_test", 2, seed=21, classes=["no_sub"]))
    assert fits["chi_square"].between(0.96, 1.04).all()  # 1 +- 0.0094


def test_lens_light_is_fitted_with_the_lens():
    dataset = simulate("realistic", 2, seed=3, image_size=48, classes=["no_sub"], lens_light=True, **BRIGHT)
    with_light, without = fits_of(dataset, lens_light=True), fits_of(dataset)
    assert with_light["chi_square"].max() < 1.15 < 2 < without["chi_square"].min()
    assert (with_light["lens_light_radius"] / dataset.catalogue["lens_light_radius"]).between(0.7, 1.4).all()


def test_images_of_another_shape_are_rejected():
    with pytest.raises(LensingError, match=r"images of shape \(2, 3, 8, 8\); expected \(N, 1, size, size\)"):
        smooth_fit(np.zeros((2, 3, 8, 8)), np.ones(2))
    with pytest.raises(LensingError, match="3 values of noise_rms for 2 images; give one an image"):
        smooth_fit(np.zeros((2, 1, 8, 8)), np.ones(3))


def test_a_pixel_at_the_centre_of_a_lens_is_dark():
    """An odd number of pixels has one there. An isothermal lens has no central image, so it is as dark as the next."""
    lens = {"einstein_radius": 1.2, "halo_einstein_radius": 1.2, "source_amplitude": 1.0, "source_radius": 0.1}
    image = render(lens | {"source_index": 1.0}, "common_test", image_size=75)[0, 0]
    assert image[37, 37] < 1e-3 * image.max()
