"""Real cutouts: one lens or a folder, several HDUs in a file; what cannot be used is rejected with the way out."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits

from lensstudy.data.dataset import DataError
from lensstudy.observations.reading import read_observation, read_observations
from tests.observations.images import gaussian, noise_image, write_fits


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
    everything, rejected = read_observations(evaluation_data / "lenses")
    assert not rejected
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
    found, rejected = read_observations(tmp_path)
    assert [str(one) for one in found] == ["bands G", "bands Z", "good"]
    assert {
        where.removeprefix(f"{tmp_path}/"): reason.split(": ", 1)[1][:20] for where, reason in rejected.items()
    } == {
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
    found, rejected = read_observations(tmp_path)
    assert [one.name for one in found] == ["one"]
    assert {Path(file).name for file in rejected} == {"two_rms.fits", "sigma_cygni.fits"}
    assert all("called a noise, but of no image beside it" in reason for reason in rejected.values())


def test_damaged_lenstronomy_files_and_headers_do_not_end_the_reading(tmp_path):
    write_fits(tmp_path / "good.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "half.fits", noise_image(), CTYPE1="RA---TAN", CDELT1=1e-5)
    with h5py.File(tmp_path / "image_bad.h5", "w") as stored:
        stored["image_data"], stored["background_rms"] = noise_image(), 0.5
        stored["exposure_time"] = np.ones((3, 3))
    (tmp_path / "other").mkdir()
    write_fits(tmp_path / "other" / "data.fits", noise_image())
    (tmp_path / "other" / "info.json").mkdir()
    found, rejected = read_observations(tmp_path)
    assert [one.name for one in found] == ["good"]
    assert {Path(file).name for file in rejected} == {"half.fits", "image_bad.h5", "data.fits"}


def test_a_scale_in_the_information_beside_the_image_counts(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image())
    (tmp_path / "info.json").write_text(json.dumps({"pixel_scale": 0.05, "redshift_lens": 0.2}))
    assert read_observation(tmp_path).pixel_scale == 0.05
    assert read_observation(tmp_path, pixel_scale=0.07).pixel_scale == 0.07


@pytest.mark.parametrize("table", ["lenses.csv", "J1/of-one.csv"])
def test_the_row_of_a_lens_in_a_table_beside_it_is_read_and_its_own_information_comes_first(tmp_path, table):
    (tmp_path / "J1").mkdir()
    write_fits(tmp_path / "J1" / "data.fits", noise_image())
    (tmp_path / table).write_text("name,pixel_scale,z_lens,z_source,ring\nJ0,0.2,1,2,No\nJ1,0.05,0.2,0.6,Yes\n")
    (tmp_path / "J1" / "info.json").write_text('{"redshift_source": 0.7}')
    one = read_observation(tmp_path / "J1")
    assert one.pixel_scale == 0.05
    assert one.about | {"pixel_scale": 0} == {
        "name": "J1", "pixel_scale": 0, "redshift_lens": 0.2, "redshift_source": 0.7, "ring": "Yes",
    }  # fmt: skip


def test_a_table_of_something_else_is_no_table_of_lenses(tmp_path):
    write_fits(tmp_path / "data.fits", noise_image(), PIXSCALE=0.1)
    (tmp_path / "labels.csv").write_text("file,class\ndata,no\n")
    assert "class" not in read_observation(tmp_path).about


def test_the_coordinates_of_an_image_come_before_a_word_on_its_pixels(tmp_path):
    """Whoever resamples an image keeps its coordinates right."""
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600}
    one = read_observation(write_fits(tmp_path / "lens.fits", noise_image(), PIXSCALE=0.1, **cards))
    assert one.pixel_scale == pytest.approx(0.05)


# Everything in one file


def test_image_noise_psf_and_mask_in_one_file_and_what_is_of_no_known_kind_is_said(tmp_path):
    """As PyAutoLens writes them; the axis of length one is that of radio images."""
    mask = np.zeros((40, 40))
    mask[:3] = 1
    planes = {"DATA": noise_image(), "NOISE_MAP": np.full((1, 40, 40), 0.7), "PSF": gaussian((11, 11), 5, 5)}
    planes |= {"OVER_SAMPLE_SIZE_LP": np.full((40, 40), 4), "OVER_SAMPLE_SIZE_PIXELIZATION": np.full((40, 40), 2)}
    units = [fits.PrimaryHDU(mask), *(fits.ImageHDU(array, name=name) for name, array in planes.items())]
    units[0].name = "MASK"
    fits.HDUList(units).writeto(tmp_path / "dataset.fits")
    one = read_observation(tmp_path / "dataset.fits", pixel_scale=0.05)
    np.testing.assert_array_equal(np.where(one.mask, planes["DATA"], one.image), planes["DATA"])
    assert (one.noise == 0.7).all() and one.mask[:3].all() and not one.mask[3:].any() and one.psf.shape == (11, 11)
    assert one.band == "" and one.notes == (
        "extensions of an unknown kind are not used: OVER_SAMPLE_SIZE_LP, OVER_SAMPLE_SIZE_PIXELIZATION",
    )


def test_a_psf_and_a_mask_can_be_meant_for_all_bands(tmp_path):
    units = [fits.PrimaryHDU(), fits.ImageHDU(gaussian((5, 5), 2, 2), name="PSF")]
    units += [fits.ImageHDU(noise_image(), name=name) for name in ("G_SCI", "R_SCI")]
    units += [fits.ImageHDU(gaussian((7, 7), 3, 3), name="R_PSF")]
    units[0].header["PIXSCALE"] = 0.1
    fits.HDUList(units).writeto(tmp_path / "lens.fits")
    assert {one.band: one.psf.shape for one in read_observations(tmp_path)[0]} == {"G": (5, 5), "R": (7, 7)}


@pytest.mark.parametrize("shape", [(1, 40, 40), (1, 1, 40, 40), (40, 40, 1), (40, 1, 40)])
def test_axes_of_length_one_are_none(tmp_path, shape):
    image = noise_image()
    one = read_observation(write_fits(tmp_path / "lens.fits", image.reshape(shape), PIXSCALE=0.1))
    np.testing.assert_array_equal(one.image, image)


def test_images_without_names_are_asked_for(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(noise_image()) for _ in range(8))]).writeto(tmp_path / "lens.fits")
    with pytest.raises(DataError, match=r"8 extensions could be the image \(1, 2, .*name them by EXTNAME"):
        read_observation(tmp_path, pixel_scale=0.1)


def test_of_two_chips_none_is_taken_by_chance(tmp_path):
    units = [fits.PrimaryHDU()]
    units += [fits.ImageHDU(noise_image(), name=name) for name in ("SCI", "ERR", "SCI", "ERR")]
    fits.HDUList(units).writeto(tmp_path / "lens_flt.fits")
    with pytest.raises(DataError, match=r"2 extensions could be the image \(1 SCI, 3 SCI\)"):
        read_observation(tmp_path, pixel_scale=0.1)


def test_companions_of_every_kind_are_no_observations(tmp_path):
    for name in ("J1", "J2"):
        write_fits(tmp_path / f"{name}.fits", noise_image(), PIXSCALE=0.1)
    for name in ("J1_model", "J1_exp", "J1Depth", "J2_bkg", "J2_chi2", "seg"):
        write_fits(tmp_path / f"{name}.fits", noise_image(seed=9))
    write_fits(tmp_path / "J2NoiseMap.fits", np.full((40, 40), 3.0))
    found, rejected = read_observations(tmp_path)
    assert {one.name: one.noise[0, 0] == 3 for one in found} == {"J1": False, "J2": True} and not rejected


def test_files_called_model_are_images_where_nothing_else_is(tmp_path):
    for number in (1, 2):
        write_fits(tmp_path / f"model_{number}.fits", noise_image(), PIXSCALE=0.1)
    found, rejected = read_observations(tmp_path)
    assert [one.name for one in found] == ["model_1", "model_2"] and not rejected


def test_a_compressed_image_and_its_compressed_noise_map(tmp_path):
    write_fits(tmp_path / "J1.fits.gz", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / "J1_rms.fits.bz2", np.full((40, 40), 2.0))
    one = read_observation(tmp_path)
    assert one.name == "J1" and (one.noise == 2).all()


@pytest.mark.parametrize("name", ["[lens]", "{a,b}", "O'Neill", "$HOME", "~", "50% [x] {y} 'z'"])
def test_a_folder_may_have_any_name(tmp_path, name, monkeypatch):
    (tmp_path / name).mkdir()
    write_fits(tmp_path / name / "data.fits", noise_image(), PIXSCALE=0.1)
    write_fits(tmp_path / name / "noise_map.fits", np.full((40, 40), 2.0))
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name, f"{name}/data.fits"):
        assert (read_observation(path).noise == 2).all()


# Damage


def test_a_scale_that_is_none_is_named_and_a_given_one_counts(tmp_path):
    file = write_fits(tmp_path / "lens.fits", noise_image(), PIXSCALE="coarse")
    with pytest.raises(DataError, match="lens.fits: PIXSCALE = 'coarse'; .* or pass .*pixel_scale=0.05"):
        read_observation(file)
    assert read_observation(file, pixel_scale=0.05).pixel_scale == 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_an_error_with_the_name_of_the_file(tmp_path, seed):
    """Cut anywhere, or with five bytes of a header changed: read as it is, or named."""
    generator = np.random.default_rng(seed)
    units = [fits.PrimaryHDU(noise_image()), fits.ImageHDU(np.ones((40, 40)), name="ERR")]
    units[0].header["PIXSCALE"] = 0.1
    for name in ("J1.fits", "J1_psf.fits"):
        content = io.BytesIO()
        fits.HDUList(units).writeto(content)
        damaged = bytearray(content.getvalue())
        if seed % 2:
            damaged = damaged[: generator.integers(len(damaged))]
        else:
            for place in generator.integers(2880, size=5):
                damaged[place] = generator.integers(32, 127)
        (tmp_path / name).write_bytes(damaged)
    try:
        assert read_observation(tmp_path).image.shape == (40, 40)
    except DataError as error:
        assert "J1" in str(error)


@pytest.mark.parametrize("kind", ["a link", "a group", "text", "numbers elsewhere"])
@pytest.mark.parametrize("name", ["image_data", "kernel_point_source"])
def test_what_is_no_array_of_an_hdf5_file_is_named(tmp_path, kind, name):
    (tmp_path / "raw").write_bytes(bytes(8 * 40 * 40))
    write_fits(tmp_path / "psf_other.fits", noise_image())
    with h5py.File(tmp_path / "image_lens.h5", "w") as image, h5py.File(tmp_path / "psf_lens.h5", "w") as psf:
        image["transform_pix2angle"] = [[0.1, 0], [0, 0.1]]
        for file, key in ((image, "image_data"), (psf, "kernel_point_source")):
            if key != name:
                file[key] = noise_image(21)
            elif kind == "a link":
                file[key] = h5py.ExternalLink(str(tmp_path / "other.h5"), "image")
            elif kind == "a group":
                file.create_group(key)
            elif kind == "text":
                file[key] = "an image"
            else:
                file.create_dataset(key, (40, 40), "f8", external=[(str(tmp_path / "raw"), 0, 8 * 40 * 40)])
    where = "image_lens.h5" if name == "image_data" else "psf_lens.h5"
    with pytest.raises(DataError, match=f"{where}: .*(no array of the file|expected numbers|from other files)"):
        read_observation(tmp_path / "image_lens.h5")
