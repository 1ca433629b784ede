"""Real cutouts: what is read comes back, what cannot be used is refused with the way out, and no flux is lost."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.dataset import DataError
from lensstudy.lensing.instruments import INSTRUMENTS, gaussian_kernel, noise_variance, noisy
from lensstudy.lensing.rendering import render
from lensstudy.observations import cutouts as observations
from lensstudy.observations import lens_light as lenslight
from lensstudy.observations.cutouts import (
    Observation,
    network_input,
    read_observation,
    read_observations,
    write,
    write_simulated,
)
from lensstudy.observations.lens_light import fit_lens_light, ring_radius, subtract_lens_light

CARD = {"network": "a network", "image_size": 32, "in_channels": 1, "data": {"pixel_scale": 0.16}}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> list[Observation]:
    return read_observations(write_simulated(tmp_path_factory.mktemp("lenses"), seed=3))[0]


def noise_image(size=40, seed=0):
    return np.random.default_rng(seed).normal(0, 1.0, (size, size))


def write_fits(file, array, **header):
    unit = fits.PrimaryHDU(array)
    unit.header.update(header)
    unit.writeto(file)
    return file


# Reading


def test_an_observation_comes_back_as_it_was_written(tmp_path, simulated):
    one = simulated[1]
    again = read_observation(write(one, tmp_path / "lens"))
    for name in ("image", "noise", "mask", "psf"):
        np.testing.assert_allclose(getattr(again, name), getattr(one, name), rtol=1e-12)
    assert again.pixel_scale == one.pixel_scale
    assert again.about["subhalo"] == one.about["subhalo"]
    assert again.name == "lens" and again.notes == ()


def test_files_beside_an_image_belong_to_it_by_name(tmp_path):
    for name, level in (("ours", 2.0), ("theirs", 3.0)):
        write_fits(tmp_path / f"{name}.fits", noise_image(), PIXSCALE=0.1)
        write_fits(tmp_path / f"{name}_rms.fits", np.full((40, 40), level))
    write_fits(tmp_path / "psf.fits", np.ones((5, 5)))
    found = {one.name: one for one in read_observations(tmp_path)[0]}
    assert sorted(found) == ["ours", "theirs"]
    assert (found["ours"].noise == 2.0).all() and (found["theirs"].noise == 3.0).all()
    assert found["ours"].psf.sum() == pytest.approx(1)


def test_extensions_of_one_file_are_bands(tmp_path):
    coordinates = {"CTYPE1": "RA---TAN", "CD1_1": -0.1 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.1 / 3600}
    units = [fits.PrimaryHDU()]
    for band in ("VIS", "NIR_H"):
        for role, array in (("FLUX", noise_image()), ("PSF", np.ones((7, 7))), ("RMS", np.full((40, 40), 1.0))):
            units.append(fits.ImageHDU(array, name=f"{band}_{role}"))
            units[-1].header.update(coordinates)
    fits.HDUList(units).writeto(tmp_path / "lens.fits")
    assert [one.band for one in read_observations(tmp_path)[0]] == ["NIR_H", "VIS"]
    assert read_observation(tmp_path / "lens.fits", "VIS").pixel_scale == pytest.approx(0.1)
    with pytest.raises(DataError, match="2 images, of the bands VIS, NIR_H; pass band='VIS'"):
        read_observation(tmp_path / "lens.fits")
    with pytest.raises(DataError, match="band 'R' is not there; there are 'VIS', 'NIR_H'"):
        read_observation(tmp_path / "lens.fits", "R")


def test_lenstronomys_noise_is_sky_and_photons(tmp_path):
    image = np.abs(noise_image()) * 10
    with h5py.File(tmp_path / "image_lens1_F390W.h5", "w") as stored:
        stored["image_data"], stored["background_rms"] = image, 0.5
        stored["exposure_time"], stored["transform_pix2angle"] = np.full((40, 40), 100.0), [[-0.04, 0], [0, 0.04]]
    with h5py.File(tmp_path / "psf_lens1_F390W.h5", "w") as stored:
        stored["kernel_point_source"] = np.ones((3, 3))
    (one,), _ = read_observations(tmp_path)
    np.testing.assert_allclose(one.noise, np.sqrt(0.25 + image / 100))
    assert (one.name, one.band, one.pixel_scale) == ("lens1", "F390W", pytest.approx(0.04))
    assert one.psf.shape == (3, 3)


def test_useless_pixels_are_masked_and_said(tmp_path):
    image, noise = noise_image(), np.full((40, 40), 1.0)
    image[:3] = np.nan
    noise[20, 20:22] = 1e16
    write_fits(tmp_path / "data.fits", image, PIXSCALE=0.1)
    write_fits(tmp_path / "noise_map.fits", noise)
    one = read_observation(tmp_path)
    assert one.mask.sum() == 3 * 40 + 2 and one.mask[:3].all() and one.mask[20, 20:22].all()
    assert np.isfinite(one.image).all() and one.noise.max() == 1.0
    assert "122 pixels" in one.notes[0]


def test_a_missing_noise_map_is_estimated_and_said(tmp_path):
    one = read_observation(write_fits(tmp_path / "lens.fits", 3 * noise_image(100), PIXSCALE=0.1))
    assert one.noise[0, 0] == pytest.approx(3, rel=0.1)
    assert "no noise map" in one.notes[0] and "no PSF" in one.notes[1]


def test_the_shared_lenses_are_read(evaluation_data):
    everything, refused = read_observations(evaluation_data / "lenses")
    assert not refused
    assert {one.name for one in everything} >= {"slacs0946+1006", "cosmos_web_ring", "lens_system1", "lens_system3"}
    assert all(one.psf is not None and not any("no noise" in note for note in one.notes) for one in everything)
    vis = next(one for one in everything if one.band == "VIS" and one.notes)
    assert vis.mask.any() and vis.noise.max() < 1  # 1e16 marks bad pixels


@pytest.mark.parametrize(
    ("image", "header", "message"),
    [
        (noise_image(), {}, r"pixel scale is nowhere.*read_observation\(..., pixel_scale=0.05\)"),
        (noise_image(), {"PIXSCALE": 1e-5}, "in degrees"),
        (np.stack([noise_image()] * 3), {"PIXSCALE": 0.1}, r"shape \(3, 40, 40\); expected one band"),
        (noise_image(8), {"PIXSCALE": 0.1}, "8x8 pixels; expected at least 16"),
        (np.zeros((40, 40)), {"PIXSCALE": 0.1}, "no noise map, and the border has no noise"),
        (np.full((40, 40), np.nan), {"PIXSCALE": 0.1}, "add a noise map"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(tmp_path, image, header, message):
    with pytest.raises(DataError, match=message):
        read_observation(write_fits(tmp_path / "lens.fits", image, **header))


def test_other_mistakes_are_told(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_observation(tmp_path / "absent")
    with pytest.raises(DataError, match="no image in it"):
        read_observation(tmp_path)
    (tmp_path / "lens.fits").write_text("not FITS")
    with pytest.raises(DataError, match="cannot be read as FITS"):
        read_observation(tmp_path)
    (tmp_path / "lens.fits").unlink()
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "noise_map.fits", np.ones((30, 30)))
    with pytest.raises(DataError, match=r"noise map of shape \(30, 30\)"):
        read_observation(tmp_path)
    holes = noise_image()
    holes[10:30] = np.nan
    for name in ("data", "noise_map"):
        (tmp_path / f"{name}.fits").unlink()
    write_fits(tmp_path / "data.fits", holes, PIXSCALE=0.1)
    write_fits(tmp_path / "noise_map.fits", np.ones((40, 40)))
    with pytest.raises(DataError, match="100% of the central pixels are masked"):
        read_observation(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("psf.fits", b"nothing", "psf.fits: no array can be read"),
        ("psf.h5", b"nothing", "psf.h5: no array can be read"),
        ("info.json", b"{", "info.json: .*expected JSON"),
        ("info.json", b"[1]", "info.json: .*expected JSON"),
        ("info.json", b'{"pixel_scale": "small"}', "info.json: .*expected JSON"),
    ],
)
def test_what_lies_beside_an_image_is_named_where_it_is_damaged(tmp_path, name, content, message):
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_observations(tmp_path)


def test_files_without_arrays_beside_an_image(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    fits.PrimaryHDU().writeto(tmp_path / "psf.fits")
    with pytest.raises(DataError, match="psf.fits: no array can be read from it .it is empty"):
        read_observation(tmp_path)


def test_numbers_in_quotes_are_numbers(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image())
    (tmp_path / "info.json").write_text('{"pixel_scale": "0.05"}')
    assert read_observation(tmp_path).pixel_scale == 0.05


def test_of_several_lenses_none_is_taken_by_chance(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_fits(tmp_path / name / "data.fits", noise_image(), PIXSCALE=0.1)
    with pytest.raises(DataError, match="several lenses, one and two"):
        read_observation(tmp_path)
    assert len(read_observations(tmp_path)[0]) == 2


def test_one_bad_file_does_not_end_the_reading_of_a_folder(tmp_path):
    """A damaged file, a damaged companion and a band of another shape: each is named with its reason."""
    for name in ("bad", "good", "lonely"):
        (tmp_path / name).mkdir()
        write_fits(tmp_path / name / "data.fits", noise_image(), PIXSCALE=0.1)
    (tmp_path / "bad" / "data.fits").write_bytes(b"SIMPLE, but no FITS")
    (tmp_path / "lonely" / "psf.fits").write_bytes(b"nothing")
    units = [fits.PrimaryHDU()]
    for band, shape in (("G", (40, 40)), ("R", (3, 40, 40)), ("Z", (40, 40))):
        units.append(fits.ImageHDU(np.broadcast_to(noise_image(), shape), name=f"{band}_FLUX"))
        units[-1].header["PIXSCALE"] = 0.1
    fits.HDUList(units).writeto(tmp_path / "bands.fits")
    found, refused = read_observations(tmp_path)
    assert [str(one) for one in found] == ["bands G", "bands Z", "good"]
    assert {where.removeprefix(f"{tmp_path}/"): reason.split(": ", 1)[1][:20] for where, reason in refused.items()} == {
        "bad/data.fits": "cannot be read as FI",
        "lonely/data.fits": "no array can be read",
        "bands.fits R": "an image of shape (3",
    }
    (tmp_path / "bands.fits").unlink()
    (tmp_path / "good" / "data.fits").unlink()
    with pytest.raises(DataError, match="(?s)cannot be read as FITS.*no array can be read"):
        read_observations(tmp_path)


def test_weights_and_flags_of_a_drizzled_image_are_no_bands(tmp_path):
    arrays = {"SCI": noise_image(), "WHT": np.ones((40, 40)), "CTX": np.ones((40, 40), dtype=np.int32)}
    units = [fits.PrimaryHDU(), *(fits.ImageHDU(array, name=name) for name, array in arrays.items())]
    units[1].header["PIXSCALE"] = 0.1
    fits.HDUList(units).writeto(tmp_path / "lens_drz.fits")
    assert read_observation(tmp_path / "lens_drz.fits").band == ""


def test_what_is_called_a_noise_map_of_no_image_is_named(tmp_path):
    for name in ("one", "two_rms", "sigma_cygni"):
        write_fits(tmp_path / f"{name}.fits", noise_image(), PIXSCALE=0.1)
    found, refused = read_observations(tmp_path)
    assert [one.name for one in found] == ["one"]
    assert {Path(file).name for file in refused} == {"two_rms.fits", "sigma_cygni.fits"}
    assert all("called a noise, but of no image beside it" in reason for reason in refused.values())


def test_damaged_lenstronomy_files_and_headers_do_not_end_the_reading(tmp_path):
    write_fits(tmp_path / "good.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "half.fits", noise_image(), CTYPE1="RA---TAN", CDELT1=1e-5)
    with h5py.File(tmp_path / "image_bad.h5", "w") as stored:
        stored["image_data"], stored["background_rms"] = noise_image(), 0.5
        stored["exposure_time"] = np.ones((3, 3))
    (tmp_path / "other").mkdir()
    write_fits(tmp_path / "other" / "data.fits", noise_image())
    (tmp_path / "other" / "info.json").mkdir()
    found, refused = read_observations(tmp_path)
    assert [one.name for one in found] == ["good"]
    assert {Path(file).name for file in refused} == {"half.fits", "image_bad.h5", "data.fits"}


def test_a_scale_in_the_information_beside_the_image_counts(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image())
    (tmp_path / "info.json").write_text(json.dumps({"pixel_scale": 0.05, "redshift_lens": 0.2}))
    assert read_observation(tmp_path).pixel_scale == 0.05
    assert read_observation(tmp_path, pixel_scale=0.07).pixel_scale == 0.07


# To a network's pixels


def test_a_network_gets_its_own_pixels_and_noise():
    one = Observation("x", "", 5 * noise_image(120), np.full((120, 120), 5.0), np.zeros((120, 120), bool), None, 0.05)
    seen = network_input(one.image, one, CARD, noise=0.02, generator=np.random.default_rng(0))
    assert seen.shape == (1, 1, 32, 32) and seen.dtype == np.float32
    assert seen.std() == pytest.approx(0.02, rel=0.1)


def test_beyond_a_small_cutout_there_is_sky_with_its_noise():
    one = Observation("x", "", noise_image(90), np.ones((90, 90)), np.zeros((90, 90), bool), None, 0.05)  # 4.5 arcsec
    seen = network_input(one.image, one, CARD, noise=1.0, generator=np.random.default_rng(0))[0, 0]
    assert seen[0].std() == pytest.approx(1.0, abs=0.4)
    small = observations.cropped(one, 2.0)
    with pytest.raises(DataError, match="2.00 arcsec wide, but a network needs 5.12; use a larger cutout"):
        network_input(small.image, small, CARD, noise=1.0, generator=np.random.default_rng(0))


def test_a_network_without_a_pixel_scale_is_refused():
    one = Observation("x", "", noise_image(), np.ones((40, 40)), np.zeros((40, 40), bool), None, 0.2)
    card = CARD | {"data": {"source": "files"}}
    with pytest.raises(DataError, match="does not say the pixel scale"):
        network_input(one.image, one, card, noise=1.0, generator=np.random.default_rng(0))


# Lens light


def seen_by_hst(row, seed=1) -> tuple[Observation, np.ndarray]:
    """A lens in one orbit of HST's ACS, and its image without noise."""
    telescope = INSTRUMENTS["hst-acs"]
    clean = render(row | {"exposure_time": 2200.0}, "realistic", instrument=telescope.name)[0, 0].astype(float)
    image = noisy(clean, telescope, 2200.0, np.random.default_rng(seed))
    noise = np.sqrt(noise_variance(clean, telescope, 2200.0))
    profile = gaussian_kernel(telescope.psf_fwhm / telescope.pixel_scale / 2.355)
    return Observation("x", "", image, noise, np.zeros(image.shape, bool), np.outer(profile, profile), 0.05), clean


@pytest.mark.parametrize("einstein_radius, brightness", [(0.35, 20.0), (0.6, 40.0)])
def test_an_arc_that_outshines_the_galaxy_is_not_taken_for_it(einstein_radius, brightness):
    """Arcs nearer to the middle than half an arcsecond, brighter than the galaxy at (-0.1, 0.05)."""
    lens = {"einstein_radius": einstein_radius, "lens_x": -0.1, "lens_y": 0.05}
    source = {"source_amplitude": brightness, "source_radius": 0.08, "source_x": 0.15, "source_y": 0.05}
    galaxy = {"lens_light_amplitude": 2.0, "lens_light_radius": 0.6, "lens_light_index": 2.5}
    one, clean = seen_by_hst(lens | source | {"source_index": 1.0} | galaxy)
    x, y = one.grid()
    row, column = np.unravel_index(clean.argmax(), clean.shape)
    assert np.hypot(x[0, column] + 0.1, y[row, 0] - 0.05) > 0.25, "the brightest place is not the galaxy"
    assert fit_lens_light(observations.cropped(one, 3.6)).center == pytest.approx((-0.1, 0.05), abs=0.05)


def test_the_galaxy_is_found_where_pixels_are_coarse():
    """Half a pixel can be more than the distance within which the brightest spot is looked for."""
    pixel_scale = 0.7
    y, x = (np.indices((32, 32)) - 15.5) * pixel_scale
    image = np.exp(-(x**2 + y**2) / 2) * 100
    one = Observation("x", "", image, np.ones_like(image), np.zeros(image.shape, bool), None, pixel_scale)
    assert np.hypot(*lenslight._center(one)) < pixel_scale


def test_a_sersic_galaxy_is_found_under_its_arcs_within_the_noise():
    """One that was put in: compact arcs 1.2 arcsec around a de Vaucouleurs galaxy, as HST's ACS would see them."""
    source = {"source_amplitude": 30.0, "source_radius": 0.1, "source_index": 1.0, "source_x": 0.08}
    galaxy = {"lens_light_amplitude": 12.0, "lens_light_radius": 0.8, "lens_light_index": 4.0}
    row = source | galaxy | {"einstein_radius": 1.2, "lens_e1": 0.1, "lens_e2": -0.05, "lens_x": 0.03, "shear_1": 0.05}
    one, whole = seen_by_hst(row)
    _, arcs = seen_by_hst(row | {"lens_light_amplitude": 0.0})
    noise = one.noise
    light = fit_lens_light(one)
    assert light.good and light.chi2 == pytest.approx(1, abs=0.1)
    assert np.sqrt((((light.model - whole + arcs) / noise) ** 2).mean()) < 0.5
    x, y = one.grid()
    inside = np.hypot(x, y) < 0.8
    assert light.model[inside].sum() == pytest.approx((whole - arcs)[inside].sum(), rel=0.02)
    assert light.center == pytest.approx((0.03, 0.0), abs=0.005)
    assert light.ellipticity[2:] == pytest.approx((0.1, -0.05), abs=0.04)
    assert ring_radius(one, light) == pytest.approx(1.2, abs=0.15)
    left = subtract_lens_light(one, light)
    assert left.mask.sum() < 5
    assert ((left.image - arcs) / noise)[light.arcs].std() == pytest.approx(1, abs=0.2)


def test_without_arcs_there_is_no_ring():
    one = Observation("x", "", noise_image(60), np.ones((60, 60)), np.zeros((60, 60), bool), None, 0.1)
    with pytest.raises(DataError, match="no arcs stand out"):
        ring_radius(one, fit_lens_light(one))


def test_the_coordinates_of_an_image_come_before_a_word_on_its_pixels(tmp_path):
    """Whoever resamples an image keeps its coordinates right."""
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600}
    one = read_observation(write_fits(tmp_path / "lens.fits", noise_image(), PIXSCALE=0.1, **cards))
    assert one.pixel_scale == pytest.approx(0.05)
