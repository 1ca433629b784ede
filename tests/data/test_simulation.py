"""Whole images against DeepLense's released files and lenstronomy, equality however they are made, and bad input."""

import errno
import json
import math
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from lensstudy.data import simulation as module
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.simulation import simulate, smooth_counterpart
from lensstudy.lensing import rendering as raytracing
from lensstudy.lensing import simulation as lens_simulation
from lensstudy.lensing.cosmology import area_per_mass
from lensstudy.lensing.detectability import detectability
from lensstudy.lensing.instruments import INSTRUMENTS, Instrument, psf_profile
from lensstudy.lensing.populations import complete, preset_named
from lensstudy.lensing.presets import PRESETS, LensingError
from lensstudy.lensing.profiles import sersic_total
from lensstudy.lensing.rendering import render, substructure_map
from lensstudy.lensing.simulation import draw_batch
from lensstudy.lensing.sources import cutout_files, read_cutout
from tests import fitting
from tests.benchmarks.simulate import lenstronomy_images

DATA = Path(os.environ.get("LENSSTUDY_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
HEAVY = {"subhalo_profile": "point", "subhalo_mass_min": 1e9, "axion_fraction_min": 0.04, "axion_fraction_max": 0.05}


def released(name: str) -> np.ndarray:
    file = DATA / "deeplense-model-3" / name
    if not file.exists():
        pytest.skip(f"{file} is missing; set LENSSTUDY_DATA to the folder that holds deeplense-model-3/")
    return np.load(file)


@pytest.mark.parametrize(
    ("name", "class_name", "drawn"),
    [
        ("nosub.npy", "no_sub", {"source_x": -0.06169957470287696, "source_y": 0.08446788084981578}),
        (
            "axion.npy",
            "axion",
            {
                "source_x": -0.06561635832087118,
                "source_y": 0.07501358795409459,
                "vortex_half_length": 2.084095973161751,
                "vortex_angle": 2.7770049525093032,
            },
        ),
    ],
)
def test_model_3_is_the_released_image(name, class_name, drawn):
    row = preset_named("model_3").draw(class_name, np.random.default_rng(0), {}) | drawn
    assert np.abs(render(row, "model_3", dtype=torch.float64)[0, 0] - released(name)).max() < 1e-10


@pytest.mark.parametrize("preset", ["model_1", "model_2"])
def test_whole_image_agrees_with_lenstronomy(preset):
    chosen = preset_named(preset)
    row = complete(chosen.draw("cdm", np.random.default_rng(5), {})) | {"exposure_time": 1.0}
    ours = render(row, preset, dtype=torch.float64)[0, 0]
    theirs = lenstronomy_images([row], chosen, chosen.instrument.image_size, noise=0.0)()[0]
    assert np.abs(ours - theirs).max() < 1e-6 * theirs.max()
    assert np.abs(render(row, preset)[0, 0] - theirs).max() < 1e-4 * theirs.max()  # float32 beside a point mass


def test_presets_of_the_published_code():
    row = preset_named("model_1").draw("axion", np.random.default_rng(0), {})
    assert row["einstein_radius"] == pytest.approx(1.28149, abs=1e-5)
    assert row["vortex_half_length"] * row["axion_mass"] == pytest.approx(0.03e-22)
    assert math.sqrt(1e12 * area_per_mass()) == pytest.approx(1.6645, abs=5e-4)
    assert preset_named("model_3").draw("no_sub", np.random.default_rng(0), {})["shear_1"] == pytest.approx(
        0.0317, 1e-3
    )
    lenses = [preset_named("model_1").draw("cdm", np.random.default_rng(k), {}) for k in range(400)]
    masses = np.concatenate([lens["subhalo_mass"] for lens in lenses])
    assert masses.mean() == pytest.approx(1.5e9, rel=0.1) and masses.min() > 1e6 and masses.max() < 1e10
    dataset = simulate("model_1", 3, seed=1, classes=["no_sub"])
    assert (dataset.images == dataset.images.round()).all()  # counts


def test_common_test_is_aligned_as_found():
    truth = simulate("common_test", 40, seed=2, image_size=24).catalogue
    for kind in ("source_e", "shear_"):
        angle = np.degrees(0.5 * np.arctan2(truth[f"{kind}2"], truth[f"{kind}1"]))
        assert angle.between(-6.3, 0).all()
    images = simulate("common_test", 2, seed=2).images
    assert images.min(axis=(1, 2, 3)).tolist() == [0] * 6 and images.max(axis=(1, 2, 3)).tolist() == [1] * 6


def counts_of_common_test(class_name: str, number: int) -> np.ndarray:
    file = DATA / "deeplense-common-test" / class_name / f"{number}.npy"
    if not file.exists():
        pytest.skip(f"{file} is missing; set LENSSTUDY_DATA to the folder that holds deeplense-common-test/")
    return fitting.counts_of(np.load(file)[0])


@pytest.mark.parametrize("number", [1, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 4, 5))])
def test_the_recovered_preset_fits_the_smooth_images_of_common_test(number):
    counts = counts_of_common_test("no", number)
    lens, chi_square = fitting.fit(counts, fitting.likely_starts(counts))
    assert 0.95 <= chi_square <= 1.10
    assert 1.2 <= lens["einstein_radius"] <= 1.65
    angle = math.degrees(0.5 * math.atan2(lens["shear_2"], lens["shear_1"]))
    assert -6.5 < angle < 0.5


# Of each vortex a line that many starts found: place, half-length, direction, share of the mass of a smooth fit.
LINES = {
    1: (0.156, 0.659, 0.850, 0.322, 0.036),
    2: (-0.374, -1.177, 0.774, 2.102, 0.036),
    3: (0.216, 0.184, 0.821, 1.734, 0.043),
    4: (-0.427, 0.164, 0.899, 2.296, 0.044),
    5: (-0.116, 1.006, 1.220, 2.774, 0.026),
}


@pytest.mark.parametrize("number", [1, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in (3, 4, 5))])
def test_a_line_within_the_ranges_of_the_preset_explains_each_vortex_of_common_test(number):
    """Little more is left of the image than noise, 1 +- 0.0094. Mass and half-length are held: where a line leaves the
    arcs, a longer and heavier one explains the image as well."""
    counts = counts_of_common_test("vort", number)
    smooth, before = fitting.fit(counts, fitting.likely_starts(counts))
    line = smooth | dict(zip(fitting.LINE, LINES[number], strict=True))
    line["vortex_mass"] *= smooth["einstein_radius"] ** 2 / fitting.PRESET.area_per_mass
    free = (*fitting.START, "vortex_x", "vortex_y", "vortex_angle")
    lens, after = fitting.fit(counts, [line], free)
    share = lens["vortex_mass"] * fitting.PRESET.area_per_mass / lens["einstein_radius"] ** 2
    assert before > 1.09 and 0.97 <= after <= 1.03
    assert 0.025 <= share <= 0.05 and 0.7 <= lens["vortex_half_length"] <= 1.25
    assert math.hypot(lens["vortex_x"], lens["vortex_y"]) <= 1.3


@pytest.mark.slow
def test_the_heaviest_subhalos_of_common_test_weigh_what_the_preset_allows():
    """Three subhalos explain nearly all that a smooth lens leaves of an image with a chi square of 1.16."""
    counts = counts_of_common_test("sphere", 2)
    lens, before = fitting.fit(counts, fitting.likely_starts(counts))
    for _ in range(3):
        lens, after = fitting.fit_with_subhalo(lens, counts)
    shares = lens["subhalo_mass"] * fitting.PRESET.area_per_mass / lens["einstein_radius"] ** 2
    assert before > 1.15 and after < 1.02
    assert (shares > 0.006).all() and (shares < 0.0105).all()


def test_the_same_images_for_any_number_of_images_and_processes(monkeypatch):
    one = simulate("realistic", 40, seed=7, image_size=32, **HEAVY)
    few = simulate("realistic", 3, seed=7, image_size=32, **HEAVY)
    first = one.catalogue["name"].isin(few.catalogue["name"]).to_numpy()
    assert np.array_equal(one.images[first], few.images)
    pd.testing.assert_frame_equal(one.catalogue[first].reset_index(drop=True), few.catalogue, check_exact=True)
    two = simulate("realistic", 40, seed=7, image_size=32, processes=2, **HEAVY)
    assert one.fingerprint == two.fingerprint
    pd.testing.assert_frame_equal(one.catalogue, two.catalogue)
    monkeypatch.setattr(lens_simulation, "CHUNK", 32)
    assert simulate("realistic", 40, seed=7, image_size=32, **HEAVY).fingerprint == one.fingerprint
    assert simulate("realistic", 40, seed=8, image_size=32, **HEAVY).fingerprint != one.fingerprint


@pytest.mark.slow  # compiles C++
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: install g++")
def test_compiled_rendering_is_the_same_but_for_rounding():
    arguments = {"seed": 2, "image_size": 24, "classes": ["cdm"]}
    for preset in ("model_2", "realistic"):  # point masses and truncated halos
        rows, _ = lens_simulation.draw_lenses(
            lens_simulation.checked_request(preset, 8, 2, 24, None, None, {}), "cdm", range(8)
        )
        chosen = preset_named(preset)
        eager, compiled = (
            raytracing.render_batch(rows, chosen, chosen.instrument, 24, mode=mode) for mode in ("eager", "compiled")
        )
        assert np.abs(compiled - eager).max() < 1e-4 * eager.max()
    images = simulate("model_2", 4, mode="compiled", **arguments).images
    assert np.abs(images - simulate("model_2", 4, **arguments).images).max() < 1e-4 * images.max()


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_does_not_depend_on_its_batch(preset):
    truth = simulate(preset, 5, seed=3).catalogue
    alone = np.concatenate([render(row, preset) for row in truth.to_dict("records")])
    assert np.array_equal(render(truth, preset), alone)


def test_every_image_comes_with_its_truth():
    dataset = simulate("realistic", 6, seed=4, image_size=32)
    truth = dataset.catalogue
    assert truth["name"].is_unique and not truth.isna().any().any()
    assert dataset.images.dtype == np.float32 and dataset.images.shape == (18, 1, 32, 32)
    cdm, axion, smooth = (truth[truth["class"] == name] for name in ("cdm", "axion", "no_sub"))
    assert (cdm["n_subhalos"] > 0).all() and (cdm["subhalo_mass"].map(len) == cdm["n_subhalos"]).all()
    assert cdm["substructure_mass"].to_numpy() == pytest.approx([masses.sum() for masses in cdm["subhalo_mass"]])
    assert (axion["vortex_mass"] == axion["substructure_mass"]).all() and (axion["axion_mass"] > 0).all()
    assert (smooth["substructure_mass"] == 0).all() and (smooth["detectability"] == 0).all()
    assert (truth["detectability_refit"] <= truth["detectability"]).all()
    assert dataset.description["preset"] == "realistic" and dataset.description["seed"] == 4
    assert dataset.description["pixel_scale"] == pytest.approx(0.16)
    json.dumps(dataset.description)


def test_classes_of_realistic_weigh_the_same_inside_the_einstein_radius():
    truth = simulate("realistic", 64, seed=5, image_size=16, **HEAVY).catalogue
    for row in truth.to_dict("records"):
        inside = (
            row["einstein_radius"] - row["halo_einstein_radius"]
        )  # in mass: theta_E times this, times pi Sigma_crit
        weight = inside * row["einstein_radius"] / area_per_mass()
        if row["class"] == "cdm":
            radius = np.hypot(row["subhalo_x"] - row["lens_x"], row["subhalo_y"] - row["lens_y"])
            assert weight == pytest.approx(row["subhalo_mass"][radius < row["einstein_radius"]].sum(), rel=1e-6, abs=1)
        if row["class"] == "axion":
            along = np.linspace(-1, 1, 20001) * row["vortex_half_length"]
            x = row["vortex_x"] - row["lens_x"] + along * math.cos(row["vortex_angle"])
            y = row["vortex_y"] - row["lens_y"] + along * math.sin(row["vortex_angle"])
            share = (np.hypot(x, y) < row["einstein_radius"]).mean()
            assert weight == pytest.approx(row["vortex_mass"] * share, rel=1e-3, abs=1e-3 * row["vortex_mass"])
        if row["class"] == "no_sub":
            assert inside == 0


def test_detectability_is_the_chi_of_the_difference():
    dataset = simulate("model_2", 4, seed=6, noise_level=0.02)
    with_substructure, without = smooth_counterpart(dataset)
    noise = dataset.catalogue["noise_rms"].to_numpy()[:, None, None, None]
    chi = np.sqrt((((with_substructure - without) / noise) ** 2).sum(axis=(1, 2, 3)))
    assert dataset.catalogue["detectability"].to_numpy() == pytest.approx(chi, rel=1e-3)
    assert np.isinf(simulate("model_2", 1, seed=6, classes=["cdm"]).catalogue["detectability"]).all()


def test_refit_removes_what_a_smooth_lens_can_explain():
    """A mass at the very centre of a round lens is a larger Einstein radius, nearly; beside the ring it is not."""
    row = complete({"einstein_radius": 1.2, "source_amplitude": 1e4, "source_radius": 0.2, "source_index": 1.0})
    row |= {"source_x": 0.05, "lens_e1": 0.05, "exposure_time": 1.0}
    found = {}
    for name, x in (("centre", 0.0), ("ring", 1.25)):
        lens = complete(row | {"subhalo_x": [x], "subhalo_y": [0.0], "subhalo_mass": [1e9]})
        preset, instrument = preset_named("realistic"), INSTRUMENTS["hst-wfc3-f160w"]
        expected, cells = raytracing.render_with_cells([lens], preset, instrument, 64, noise_level=0.01)
        found[name] = [value[0] for value in detectability([lens], expected, cells, preset, instrument, 0.01)]
    assert found["centre"][1] < 0.2 * found["centre"][0]
    assert found["ring"][1] > 0.4 * found["ring"][0]


@pytest.mark.parametrize("preset", PRESETS)
def test_fresh_images_are_those_of_simulate(preset):
    arguments = {"seed": 5, "image_size": 24, "classes": ["cdm", "axion", "no_sub"]}
    dataset = simulate(preset, 40, **arguments)
    images, labels = draw_batch(preset, range(3, 40), **arguments)
    assert images.dtype == torch.float32 and images.shape == (3 * 37, 1, 24, 24)
    assert [dataset.classes[label] for label in labels[::37]] == ["cdm", "axion", "no_sub"]
    wanted = dataset.catalogue["name"].str[-6:].astype(int) >= 3
    assert np.array_equal(images.numpy(), dataset.images[wanted])


@pytest.mark.parametrize("preset", ["common_test", "realistic"])
def test_heavier_substructure_is_seen_so_much_better(preset):
    chosen, request = preset_named(preset), lens_simulation.checked_request(preset, 32, 3, 64, 0.01, None, {})
    for class_name in ("cdm", "axion"):
        found = []
        for factor in (1e-2, 2e-2):  # so light that an image answers in proportion
            rows, _ = lens_simulation.draw_lenses(request, class_name, range(32), factor)
            expected, cells = raytracing.render_with_cells(rows, chosen, chosen.instrument, 64, noise_level=0.01)
            found.append(detectability(rows, expected, cells, chosen, chosen.instrument, 0.01)[0])
        assert np.median(found[1] / found[0]) == pytest.approx(2, rel=0.05)


def test_substructure_factor_is_the_boost_of_the_physical_preset():
    arguments = {"seed": 3, "image_size": 32}
    heavier, _ = draw_batch("realistic", range(8), substructure_factor=3.0, **arguments)
    boosted, _ = draw_batch("realistic", range(8), substructure_boost=3.0, **arguments)
    plain, _ = draw_batch("realistic", range(8), **arguments)
    assert torch.equal(heavier[:8], plain[:8]) and not torch.equal(heavier[8:], plain[8:])
    assert torch.allclose(heavier, boosted, rtol=0, atol=0.02 * boosted.max().item())  # a count more or less


@pytest.mark.parametrize("preset", ["model_1", "realistic", "model_2"])
def test_noise_falls_as_the_root_of_the_photons(preset):
    arguments = {"seed": 2, "classes": ["no_sub"], "noise_level": 0.05 if preset == "model_2" else None}
    expected = render(simulate(preset, 8, **arguments).catalogue, preset)
    bright = expected > 0.3 * expected.max(axis=(1, 2, 3), keepdims=True)  # model 1 clips the noise of the sky at zero
    images = [draw_batch(preset, range(8), photon_factor=factor, **arguments)[0].numpy() for factor in (1.0, 16.0)]
    spread = [(noisy - expected)[bright].std() for noisy in images]
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"substructure_factor": 0.0}, "substructure_factor = 0"),
        ({"photon_factor": -1.0}, "photon_factor = -1"),
        ({"numbers": range(0)}, "a range of image numbers"),
        ({"numbers": range(0, 8, 2)}, "a range of image numbers"),
        ({"substructure_factor": 1e4}, "leaves nothing of the halo"),
    ],
)
def test_fresh_images_that_cannot_be_are_refused(change, message):
    with pytest.raises((DataError, LensingError), match=message):
        draw_batch(**({"preset": "realistic", "numbers": range(8), "seed": 1, "image_size": 16} | change))


def test_real_galaxies_as_sources(tmp_path):
    """A cutout that is a round exponential gives the image of a Sersic profile of index 1."""
    y, x = np.mgrid[:201, :211] - 100.0
    exponential = np.exp(-1.6721 * np.hypot(x - 3, y) / 15)  # half-light radius 15 pixels
    fits.PrimaryHDU(exponential + np.random.default_rng(0).normal(0, 1e-4, x.shape)).writeto(tmp_path / "galaxy.fits")
    row = {"einstein_radius": 1.2, "lens_e1": 0.1, "source_x": 0.1, "source_radius": 0.3, "source_index": 1.0}
    cutout = render(row | {"source_image": str(tmp_path / "galaxy.fits"), "source_amplitude": 1 / 0.3**2})
    profile = render(row | {"source_amplitude": 1 / sersic_total(0.3, 1.0)})
    assert np.abs(cutout - profile).max() < 0.02 * profile.max()
    dataset = simulate("realistic", 2, seed=1, image_size=24, source_images=str(tmp_path))
    assert dataset.catalogue["source_image"].str.endswith("galaxy.fits").all()
    with pytest.raises((DataError, LensingError), match="no FITS files there"):
        simulate("realistic", 2, seed=1, image_size=24, source_images=str(tmp_path / "nowhere"))


def test_several_galaxies_in_one_file(tmp_path):
    """As GalSim keeps them, with a table beside them: each is a source of its own, by the number of its image."""
    y, x = np.mgrid[:41, :41] - 20.0
    galaxies = [np.exp(-np.hypot(x, y) / size) for size in (2, 5)]
    fits.HDUList([fits.PrimaryHDU(galaxies[0]), fits.ImageHDU(galaxies[1])]).writeto(tmp_path / "both.fits")
    fits.BinTableHDU(np.array([(1,)], dtype=[("IDENT", int)])).writeto(tmp_path / "catalogue.fits")
    fits.PrimaryHDU(galaxies[1]).writeto(tmp_path / "alone.fits")
    alone, first, second = cutout_files(str(tmp_path))
    assert [Path(one).name for one in (alone, first, second)] == ["alone.fits", "both.fits[0]", "both.fits[1]"]
    np.testing.assert_array_equal(read_cutout(second).light, read_cutout(alone).light)
    assert read_cutout(first).radius < read_cutout(second).radius
    with pytest.raises(LensingError, match="no two-dimensional image"):
        read_cutout(str(tmp_path / "both.fits[2]"))
    with pytest.raises(LensingError, match="no two-dimensional image"):
        read_cutout(str(tmp_path / "catalogue.fits"))


def test_a_tabulated_point_spread_function(tmp_path):
    """The instrument's own Gaussian as a table gives its images, a lopsided one moves them, the smooth ones too."""
    instrument = INSTRUMENTS["hst-wfc3-f160w"]
    profile = np.array(psf_profile(instrument, instrument.image_size))
    fits.PrimaryHDU(3 * np.outer(profile, profile)).writeto(tmp_path / "own.fits")
    lopsided = np.zeros((3, 5))
    lopsided[0, 2] = 1.0  # light moves up one row
    fits.PrimaryHDU(lopsided).writeto(tmp_path / "lopsided.fits")
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "even.fits")
    gaussian = simulate("realistic", 2, seed=1, classes=["cdm"], **HEAVY)
    table = simulate("realistic", 2, seed=1, classes=["cdm"], psf_file=str(tmp_path / "own.fits"), **HEAVY)
    smooth, moved = smooth_counterpart(table)[1], smooth_counterpart(gaussian)[1]
    assert np.abs(smooth - moved).max() < 1e-4 * moved.max()
    assert np.allclose(table.catalogue["detectability"], gaussian.catalogue["detectability"], rtol=1e-3)
    row = table.catalogue.iloc[:1]
    blurred = simulate("realistic", 2, seed=1, classes=["cdm"], psf_fwhm=0.4, **HEAVY)
    assert blurred.description["instrument"]["psf_fwhm"] == 0.4
    assert (blurred.images.max(axis=(1, 2, 3)) < gaussian.images.max(axis=(1, 2, 3))).all()
    telescope = replace(instrument, psf_fwhm=0.001)
    sharp = render(row, "model_2", instrument=telescope)[0, 0]  # one ray a pixel, wherever it is bright
    up = render(row, "model_2", instrument=replace(telescope, psf_file=str(tmp_path / "lopsided.fits")))[0, 0]
    assert np.allclose(up[:-1], sharp[1:], rtol=1e-5)
    for psf in ({"psf_fwhm": 0.4}, {"psf_file": str(tmp_path / "lopsided.fits")}):
        moved = simulate("realistic", 2, seed=1, classes=["cdm"], **psf, **HEAVY)
        own = render(moved.catalogue, instrument=Instrument(**moved.description["instrument"]), smooth=True)
        assert np.array_equal(smooth_counterpart(moved)[1], own) and np.abs(own - smooth).max() > 0.02 * smooth.max()
        assert not np.allclose(moved.catalogue["detectability"], gaussian.catalogue["detectability"], rtol=1e-3)
    for given, message in (
        ({"psf_file": str(tmp_path / "own.fits"), "psf_fwhm": 0.4}, "set one of them"),
        ({"psf_file": str(tmp_path / "even.fits")}, "4 by 4 values.*odd by odd"),
        ({"psf_file": str(tmp_path / "none.fits")}, "no such file"),
        ({"psf_file": str(tmp_path / "own.fits"), "image_size": 32}, "set image_size to 64"),
        ({"psf_file": 3}, "the name of a FITS file"),
    ):
        with pytest.raises((DataError, LensingError), match=message):
            simulate("realistic", 2, seed=1, **given)


def test_a_file_where_the_folder_should_be_stays(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises((DataError, LensingError), match="is a file"):
        simulate("realistic", 2, seed=1, image_size=24, folder=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_lens_light_is_added_and_refitted():
    lit = simulate("realistic", 3, seed=1, image_size=32, lens_light=True)
    dark = simulate("realistic", 3, seed=1, image_size=32)
    assert (lit.images.sum(axis=(1, 2, 3)) > dark.images.sum(axis=(1, 2, 3))).all()
    assert (lit.catalogue["detectability_refit"] <= lit.catalogue["detectability"]).all()


def test_the_direction_of_a_real_source_is_refitted(tmp_path):
    """An image that differs from the smooth counterpart by a rotation of its source leaves nothing behind."""
    y, x = np.indices((41, 61)) - np.array([20, 30])[:, None, None]
    fits.writeto(tmp_path / "galaxy.fits", np.exp(-np.hypot(x / 3, y)))
    row = {"einstein_radius": 1.2, "source_amplitude": 1e4, "source_radius": 0.2, "source_index": 1.0, "source_x": 0.2}
    row |= {"lens_e1": 0.05, "exposure_time": 1.0, "source_image": str(tmp_path / "galaxy.fits")}
    row |= {"subhalo_x": [3.0], "subhalo_y": [0.0], "subhalo_mass": [1.0]}
    lens, rotated = (complete(row | {"source_angle": angle}) for angle in (0.5, 0.51))
    preset, instrument = preset_named("realistic"), INSTRUMENTS["hst-wfc3-f160w"]
    expected, cells = raytracing.render_with_cells([rotated], preset, instrument, 64, noise_level=0.01)
    bare, refit = detectability([lens], expected, cells, preset, instrument, 0.01)
    assert refit[0] < 0.1 * bare[0]


def test_maps_of_the_substructure():
    dataset = simulate("realistic", 2, seed=9, image_size=32, **HEAVY)
    with_substructure, without = smooth_counterpart(dataset)
    assert np.array_equal(with_substructure[:2], without[:2])  # no_sub comes first
    for _, row in dataset.catalogue.iterrows():
        mass, deflection = substructure_map(row, image_size=32)
        assert mass.shape == deflection.shape == (32, 32)
        assert mass.sum() <= row["substructure_mass"] * (1 + 1e-9)
        assert (mass.sum() > 0) == (deflection.max() > 0) == (row["class"] != "no_sub")


def test_one_image_of_a_widget_takes_less_than_a_tenth_of_a_second():
    row = simulate("realistic", 1, seed=1, classes=["cdm"], **HEAVY).catalogue.iloc[0].to_dict()
    render(row)
    start = time.process_time()
    render(row)
    assert time.process_time() - start < 0.1


def test_a_folder_is_whole_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setattr(lens_simulation, "CHUNK", 32)
    whole = simulate("model_3", 70, seed=3, image_size=16, noise_level=0.02)
    make, calls = module.make_chunk, []

    def dies_at_the_fifth(*piece):
        calls.append(piece)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return make(*piece)

    monkeypatch.setattr(module, "make_chunk", dies_at_the_fifth)
    arguments = {"seed": 3, "image_size": 16, "noise_level": 0.02, "folder": tmp_path / "set"}
    with pytest.raises(KeyboardInterrupt):
        simulate("model_3", 70, **arguments)
    with pytest.raises((DataError, LensingError), match="no finished data set"):
        LensDataset.load(tmp_path / "set")
    with pytest.raises((DataError, LensingError), match="unfinished data set of other parameters"):
        simulate("model_3", 70, **(arguments | {"seed": 4}))
    dataset = simulate("model_3", 70, **arguments)
    assert len(calls) == 5 + 5  # nine chunks in all, four were there already
    assert dataset.fingerprint == whole.fingerprint
    pd.testing.assert_frame_equal(dataset.catalogue, whole.catalogue)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "catalogue.parquet",
        "dataset.json",
        "images.npy",
    ]
    assert simulate("model_3", 70, **arguments).fingerprint == whole.fingerprint and len(calls) == 10  # read, not made
    with pytest.raises((DataError, LensingError), match="another data set"):
        simulate("model_3", 71, **arguments)


def killed(*piece):
    """In place of `make_chunk`: what the system does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_and_its_work_is_made_up_for(tmp_path, monkeypatch):
    arguments = {"seed": 3, "image_size": 16, "noise_level": 0.02, "folder": tmp_path / "set"}
    with (
        monkeypatch.context() as patch,
        pytest.raises((DataError, LensingError), match="a simulating process was killed"),
    ):
        patch.setattr(module, "make_chunk", killed)
        simulate("model_3", 4, processes=2, **arguments)
    with pytest.raises((DataError, LensingError), match="no finished data set"):
        LensDataset.load(tmp_path / "set")
    dataset = simulate("model_3", 4, **arguments)
    assert dataset.fingerprint == simulate("model_3", 4, **(arguments | {"folder": None})).fingerprint


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises((DataError, LensingError), match="GB left"):
        simulate("model_3", 2, seed=1, image_size=16, folder=tmp_path)
    assert not (tmp_path / "dataset.json").exists()


def test_a_disk_that_fills_up_stops_at_once_and_says_that_it_goes_on(tmp_path, monkeypatch):
    """Nothing is simulated for a folder that takes no more, and what was written counts when there is room again."""
    monkeypatch.setattr(lens_simulation, "CHUNK", 8)
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    make, write, made, written = module.make_chunk, pd.DataFrame.to_parquet, [], []

    def counted(*piece):
        made.append(piece)
        time.sleep(0.01)
        return make(*piece)

    def full(table, file):
        written.append(file)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, file)

    monkeypatch.setattr(module, "make_chunk", counted)
    arguments = {"seed": 3, "image_size": 128, "noise_level": 0.02, "folder": tmp_path / "set"}
    with (
        monkeypatch.context() as patch,
        pytest.raises((DataError, LensingError), match="No space left.*GB left.*goes on where it"),
    ):
        patch.setattr(pd.DataFrame, "to_parquet", full)
        simulate("model_3", 40, processes=2, **arguments)
    assert len(made) < 12  # of 15
    assert not (tmp_path / "set" / "dataset.json").exists()
    made.clear()
    dataset = simulate("model_3", 40, **arguments)
    assert len(made) == 15 - 2
    assert dataset.fingerprint == simulate("model_3", 40, **(arguments | {"folder": None})).fingerprint


def test_numbers_of_numpy_are_numbers(tmp_path):
    numbers = {"seed": np.int64(1), "image_size": np.int64(16), "noise_level": np.float32(0.5)}
    dataset = simulate("realistic", np.int64(1), shear_max=np.float32(0.125), folder=tmp_path / "set", **numbers)
    plain = simulate("realistic", 1, seed=1, image_size=16, noise_level=0.5, shear_max=0.125)
    assert dataset.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images_per_class": 2.5}, "images_per_class = 2.5; expected an integer"),
        ({"seed": 1.5}, "seed = 1.5; expected an integer"),
        ({"preset": "model_9"}, "known presets: model_1"),
        ({"images_per_class": 0}, "expected 1 or more"),
        ({"image_size": 0}, "image_size = 0"),
        ({"noise_level": -0.1}, "noise_level = -0.1"),
        ({"seed": -1}, "seed = -1"),
        ({"classes": ["no", "lens"]}, "simulates no_sub, cdm, axion"),
        ({"mode": "fast"}, "eager, compiled"),
        ({"processes": 0}, "processes = 0"),
        ({"einstein_radius_mim": 1.0}, "Did you mean 'einstein_radius_min'"),
        ({"einstein_radius_min": 2.0}, "above einstein_radius_max"),
        ({"ellipticity_max": 1.0}, "ellipticity_max = 1.0; expected a number from 0 to 0.9"),
        ({"subhalo_mass_min": -1.0}, "subhalo_mass_min = -1.0"),
        ({"subhalo_slope": "steep"}, "subhalo_slope = 'steep'"),
        ({"subhalo_profile": "cored"}, "truncated_nfw, point"),
        ({"preset": "model_1", "shear_max": 0.1}, "Its parameters: equal_mass"),
        (
            {"substructure_boost": 100.0, "axion_fraction_max": 0.5, "axion_fraction_min": 0.4},
            "leaves nothing of a lens",
        ),
    ],
)
def test_bad_input_is_refused_with_the_way_out(arguments, message):
    arguments = {"preset": "realistic", "images_per_class": 32, "seed": 1, "image_size": 16} | arguments
    with pytest.raises((DataError, LensingError), match=message):
        simulate(**arguments)


def test_lenses_that_cannot_be_are_refused():
    good = {"einstein_radius": 1.0, "source_amplitude": 1.0, "source_radius": 0.2, "source_index": 1.0}
    assert np.isfinite(render(good)).all()
    for change, message in (
        ({"lens_e1": 0.8, "lens_e2": 0.7}, "modulus"),
        ({"subhalo_x": [0.1], "subhalo_y": [0.0], "subhalo_mass": [-1e8]}, "subhalo_mass"),
        ({"einstein_radius": -1.0}, "einstein_radius"),
        ({"source_radius": 0.0}, "source_radius"),
        ({"vortex_mass": 1e9}, "vortex_half_length"),
        ({"shear_1": math.nan}, "shear_1 = nan is not finite"),
        ({"halo_einstein_radius": -1.0}, "halo_einstein_radius"),
        ({"lens_light_amplitude": 1.0}, "lens_light_radius = 0.0; expected more than 0"),
        ({"subhalo_mass": [1e8]}, "1 subhalo_mass, but 0 subhalo_x"),
        (
            {"subhalo_x": [0.1], "subhalo_y": [0.0], "subhalo_mass": [1e8], "subhalo_truncation": 5.0},
            "1 subhalo_mass, but 0 subhalo_scale_radius",
        ),
    ):
        with pytest.raises((DataError, LensingError), match=message):
            render(good | change)
    with pytest.raises((DataError, LensingError), match="image_size = 0 pixels"):
        render(good, image_size=0)
    with pytest.raises((DataError, LensingError), match="instrument 'hubble' is unknown; known instruments: .*hst-acs"):
        render(good, instrument="hubble")
