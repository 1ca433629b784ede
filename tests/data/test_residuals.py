"""What a smooth lens leaves of an image, as a second channel, compared with the truth of simulated lenses."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from lensstudy import simulate, stages
from lensstudy.data import mixture
from lensstudy.data.dataset import DataError
from lensstudy.data.reading import write_deeplense
from lensstudy.data.residuals import in_sigma
from lensstudy.data.simulation import smooth_counterpart
from lensstudy.deployment.card import CardError
from lensstudy.deployment.exporting import export
from lensstudy.observations.distribution import open_network
from lensstudy.study import ParameterError, Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run, read_card

LENSES = {"source_magnitude_min": 20.0, "source_magnitude_max": 21.0, "subhalo_profile": "point"}
HEAVY = {"subhalo_density_min": 0.02, "subhalo_density_max": 0.05, "subhalo_mass_min": 1e9}


@pytest.fixture(scope="module")
def lenses():
    return simulate("realistic", 8, seed=3, image_size=48, classes=["no_sub", "cdm"], **LENSES, **HEAVY)


def test_residuals_are_noise_where_the_lens_is_smooth_and_substructure_where_it_is_not(lenses):
    seen = in_sigma(lenses)
    assert seen.images.shape == (16, 2, 48, 48) and seen.images.dtype == np.float32
    smooth, clumpy = seen.images[:8, 1], seen.images[8:, 1]
    assert abs(smooth.mean()) < 0.05 and np.median((smooth**2).mean((1, 2))) == pytest.approx(1, abs=0.1)
    assert np.median((clumpy**2).mean((1, 2))) > 2
    with_it, without = smooth_counterpart(lenses.subset(range(8, 16)))
    truth = (with_it - without)[:, 0]
    alike = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(clumpy, truth, strict=True)]
    assert np.median(alike) > 0.3  # the fit takes some of it


def test_the_image_itself_comes_in_units_of_its_noise(lenses):
    given = lenses.images[:, 0] / lenses.catalogue["noise_rms"].to_numpy()[:, None, None]
    offset = in_sigma(lenses).images[:, 0] - given  # the sky
    assert np.ptp(offset, axis=(1, 2)).max() < 1e-3 * given.max()


def test_the_parts_of_a_mixture_are_fitted_each_with_its_own_camera():
    parts = [{"preset": "realistic", "population": LENSES}, {"preset": "model_1"}]
    mixed = mixture.make("mixture", 6, seed=1, image_size=48, population={"presets": parts}, classes=["no_sub", "cdm"])
    seen = in_sigma(mixed, processes=2)
    for part in mixture.components(mixed):
        rows = mixed.catalogue["name"].isin(part.catalogue["name"]).to_numpy()
        np.testing.assert_allclose(seen.images[rows], in_sigma(part).images, atol=1e-4)


@pytest.mark.parametrize("preset", ["model_1", "model_3"])
def test_images_that_were_read_are_fitted_through_their_camera(preset):
    """As files have them: in other units, of an exposure and with a noise that nobody says."""
    made = simulate(preset, 4, seed=1, image_size=48, noise_level=0.02, classes=["no_sub", "cdm"])
    scale = made.description["pixel_scale"]
    files = replace(made, images=0.2 + 3e-3 * made.images, description={"source": "files", "pixel_scale": scale})
    found, known = in_sigma(files, camera=preset).images, in_sigma(made).images
    ratio = found[:, 1].std((1, 2)) / known[:, 1].std((1, 2))  # photons: model_1 exposes each image as it likes
    assert np.abs(np.log(ratio)).max() < np.log(1.6)
    alike = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(found[:, 1], known[:, 1], strict=True)]
    assert np.median(alike) > 0.95


def test_a_study_of_images_that_are_read_names_their_camera(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    made = simulate("model_3", 10, seed=1, image_size=20, noise_level=0.02, classes=["no_sub", "cdm"])
    write_deeplense(made, tmp_path / "files")
    read = {"data_path": str(tmp_path / "files"), "pixel_scale": made.description["pixel_scale"], "residual": "alone"}
    assert stages.seen(Study(study="x", camera="model_3", **read)).images.shape[1:] == (1, 20, 20)
    with pytest.raises(DataError, match="name the preset whose camera"):
        stages.seen(Study(study="y", **read))


def test_what_was_read_needs_a_camera_and_a_pixel_scale(lenses):
    read = replace(lenses, description={"source": "files"})
    with pytest.raises(DataError, match="'files'.*name the preset .*or leave `residual` out"):
        in_sigma(read)
    with pytest.raises(DataError, match="camera: preset 'model_4' is unknown; did you mean 'model_[123]'"):
        in_sigma(read, camera="model_4")
    with pytest.raises(DataError, match="model_2': its images have 64 pixels of 0.101 arcsec, and these have 48"):
        in_sigma(read, camera="model_2")
    with pytest.raises(DataError, match="images of 2 bands"):
        in_sigma(replace(read, images=np.repeat(lenses.images, 2, axis=1)), camera="model_2")


@pytest.mark.slow
def test_a_target_in_other_pixels_stays_in_units_of_its_noise(tmp_path, monkeypatch):
    """And its residuals are read again, not fitted again, as long as the images are the same."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    target = {"study": "fine", "preset": "realistic", "image_size": 64, "images_per_class": 10}
    inputs = {"alone": {"residual": "alone"}, "beside": {"residual": "beside"}}
    study = Study(study="x", image_size=32, images_per_class=10, targets=[target], inputs=inputs)
    seen = stages._shown(study, "beside", "fine")
    assert seen.images.shape[1:] == (2, 32, 32)
    corner = seen.images[:, :, :6, :6]
    assert corner[:, 0].std() == pytest.approx(1, abs=0.15) and corner[:, 1].std() == pytest.approx(1, abs=0.15)
    monkeypatch.setattr(stages, "in_sigma", None)
    alone = stages._shown(study, "alone", "fine")
    np.testing.assert_allclose(alone.images[:, 0], seen.images[:, 1], atol=1e-5)


FEW = {"image_size": 20, "images_per_class": 10, "test_images": 3, "classes": ["no_sub", "cdm"]}
FEW |= {"networks": ["plain-cnn"], "network": "plain-cnn", "epochs": 1, "batch_size": 8, "smooth_fit_images": 0}


ALONE = Study(study="x", residual="alone", substructure_shares=[1.0], **FEW)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The home of a study whose images are simulated and fitted, for each test to copy."""
    home = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_HOME", str(home))
        stages.seen(ALONE)
    return home


@pytest.fixture
def study(fitted, tmp_path, monkeypatch):
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setattr(stages, "LADDER_IMAGES", 3)
    return ALONE


def test_networks_of_a_study_are_trained_on_residuals_and_refuse_images(study, tmp_path):
    """What they learn from is what a fit leaves, and so is what they are judged on, of a preset and of a mixture."""
    shown, images = stages.seen(study), stages.dataset(study)
    assert shown.images.shape == images.images.shape and not np.allclose(shown.images, images.images)
    ladder = stages.ladder(study)
    run = study.training_folder("plain-cnn", 1)
    left = in_sigma(ladder.test).images[:, 1:]
    np.testing.assert_allclose(ladder.probabilities["plain-cnn"][0], load_run(run).predict(left), atol=1e-6)
    assert read_card(run)["data_fingerprint"] == shown.fingerprint != images.fingerprint
    for refused in (stages.trainings, stages.staircases):
        with pytest.raises(ParameterError, match="residual = 'alone': 04-analyse.*12-detectability"):
            refused(study)
    with pytest.raises(CardError, match="residual: alone"):
        export(run)
    with pytest.raises(CardError, match="would be shown images"):
        open_network(run)
    with pytest.raises(ParameterError, match="residual = 'alone': this data set has residual: none"):
        fit(images, study, folder=tmp_path / "images")
    plain = study.model_copy(update={"residual": "none"})
    with pytest.raises(ParameterError, match="residual = 'none': this data set has residual: alone"):
        fit(shown, plain, folder=tmp_path / "none")
    adapted = plain.model_copy(update={"adaptation": "batch-norm", "monitor": "last"})
    with pytest.raises(ParameterError, match="this data set has residual: alone"):
        fit(images, adapted, folder=tmp_path / "target", target=shown)
    with pytest.raises(ValueError, match="sees residual: alone and this one residual: none"):
        fit(images, plain, folder=tmp_path / "tuned", start_from=run)
    with pytest.raises(ParameterError, match="fresh_images: 0"):
        fit(shown, study.model_copy(update={"fresh_images": 24}), folder=tmp_path / "fresh")
    with pytest.raises(DataError, match="of residuals"):
        in_sigma(shown)
    with pytest.raises(DataError, match="residuals are alone and none"):
        fit(mixture.pooled([shown, images]), study, folder=tmp_path / "pooled")


@pytest.mark.slow
def test_a_mixture_is_judged_on_the_residuals_of_its_own_test_images(study):
    parts = [{"preset": "realistic", "population": {"source_magnitude_min": dim}} for dim in (20.0, 22.0)]
    beside = {"preset": "mixture", "population": {"presets": parts}, "residual": "beside"}
    study = Study(**study.model_dump() | beside)
    ladder, shown = stages.ladder(study), stages.seen(study).part("test")
    assert shown.images.shape[1] == 2 and shown.catalogue["name"].tolist() == ladder.test.catalogue["name"].tolist()
    run = load_run(study.training_folder("plain-cnn", 1))
    np.testing.assert_array_equal(ladder.probabilities["plain-cnn"][0], run.predict(shown.images))


def test_what_is_kept_of_the_fits_follows_split_and_damage(study, monkeypatch):
    """Pixels alone are kept: of images that were split anew, the parts are the new ones."""
    before = stages.seen(study)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "in_sigma", None)
        anew = stages.seen(study.model_copy(update={"validation_fraction": 0.3}))
    assert len(anew.part("validation")) > len(before.part("validation"))
    np.testing.assert_array_equal(anew.images, before.images)
    kept = study.folder / "residuals" / "images.npy"
    kept.unlink()  # `before` is mapped from it
    kept.write_bytes(b"cut")
    with pytest.warns(UserWarning, match="the smooth fits are made again"):
        mended = stages.seen(study)
    np.testing.assert_array_equal(mended.images, before.images)
