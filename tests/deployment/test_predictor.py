"""An exported network among files: every layout, bad ones among them, and nothing answered that cannot be."""

import io
import os
import tarfile
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from PIL import Image

from lensstudy.deployment.predictor import Predictor, class_by_folder, find, predict, prior_shift


@pytest.fixture(scope="module")
def predictor(exported) -> Predictor:
    """One that was told how large the pixels of files are that do not say."""
    return Predictor(exported, pixel_scale=0.1)


@pytest.fixture(scope="module")
def untold(exported) -> Predictor:
    return Predictor(exported)


@pytest.fixture
def image(blobs) -> np.ndarray:
    return np.array(blobs.part("test").images[0, 0])


def reasons(predictor, *images) -> list[str]:
    return list(predictor.predict(list(images))["reason"])


def test_it_predicts_rightly_and_finds_its_own_images_in_distribution(predictor, blobs):
    test = blobs.part("test")
    table = predictor.predict(test.images)
    known = table["in_distribution"].astype(bool)
    assert known.mean() > 0.85
    assert (table["prediction"] == test.catalogue["class"])[known].mean() > 0.85
    np.testing.assert_allclose(table[list(predictor.classes)].sum(axis=1), 1)
    assert list(table.columns) == [c for c in predictor.columns if c != "file"]


def test_what_the_network_cannot_know_is_refused_with_the_reason(untold, image):
    colour = np.random.default_rng(0).normal(size=(3, 16, 16))
    border = image.copy()
    border[:, 0] = np.nan
    bad = {
        "the network takes one band, and the image has 3; choose one with --band": colour,
        "16 x 12 pixels; cut out a square": image[:, :12],
        "sees the central 16 x 16": image[:8, :8],
        "the network was trained on 16 x 16 at 0.1 arcsec": np.pad(image, 8),
        "16 pixels of what the network sees are NaN": border,
        "every pixel has the same value": np.ones((16, 16)),
    }
    for expected, found in zip(bad, reasons(untold, *bad.values()), strict=True):
        assert expected in found
    table = untold.predict(list(bad.values()))
    assert (table["prediction"] == "").all() and table[list(untold.classes)].isna().all(axis=None)
    assert (table["state"] == "rejected").all()


def test_without_a_pixel_scale_no_class_is_named(untold, predictor, blobs):
    """Lenses 0.7 times as large as the network knows them can look like others: nobody else can tell."""
    images = blobs.part("test").images
    table, told = untold.predict(images), predictor.predict(images)
    assert set(table["state"]) <= {"pixel scale unknown", "out of distribution"} and "ok" in set(told["state"])
    assert (table["prediction"] == "").all() and not table["in_distribution"].eq(True).any()
    pd.testing.assert_frame_equal(table[["no_sub", "sub", "ood_score"]], told[["no_sub", "sub", "ood_score"]])
    reasons = table["reason"][table["state"] == "pixel scale unknown"]
    assert reasons.str.endswith("if it is, say --pixel-scale 0.1").all() and len(reasons)
    (row,) = untold.predict([np.random.default_rng(0).normal(size=(16, 16))]).to_dict("records")
    assert row["state"] == "out of distribution" and "the size of its pixels is unknown" in row["reason"]


def test_a_network_that_knows_no_pixel_scale_cannot_ask_for_one(untold, blobs):
    card = untold.card.model_copy(update={"images": untold.card.images.model_copy(update={"pixel_scale": None})})
    table = Predictor.of(card, untold.network, untold.distribution).predict(blobs.part("test").images)
    assert "ok" in set(table["state"])


def test_a_grey_picture_stored_in_colour_is_grey(predictor, image):
    grey, colour = predictor.predict([image]), predictor.predict([np.stack([image] * 3)])
    pd.testing.assert_frame_equal(grey, colour)


@pytest.mark.parametrize("scale, rejected", [(0.1, False), (0.101, False), (0.05, True), (0.2, True)])
def test_pixel_scale_of_the_user(exported, image, scale, rejected):
    (reason,) = reasons(Predictor(exported, pixel_scale=scale, resample=False), image)
    assert reason.startswith(f"pixels of {scale:.4g} arcsec, and the network was trained on 0.1") == rejected


@pytest.mark.parametrize("scale", [0.05, 0.0937, 0.13, 0.2])
def test_an_image_in_other_pixels_is_resampled_and_said(exported, predictor, scale):
    """The same blobs in pixels of another size, of as much flux an area: the network finds the same."""
    size = 2 * int(18 * 0.1 / scale / 2 + 1)
    fine = np.stack([blob(size, scale, ratio) for ratio in (1.0, 3.0, 1.0, 3.0)]) * (scale / 0.1) ** 2
    table = Predictor(exported, pixel_scale=scale).predict(fine)
    own = predictor.predict(np.stack([blob(16, 0.1, ratio) for ratio in (1.0, 3.0, 1.0, 3.0)]))
    assert set(table["note"]) == {f"resampled from {scale:.4g} to 0.1 arcsec a pixel"} and set(own["note"]) == {""}
    np.testing.assert_allclose(table["sub"], own["sub"], atol=0.25)
    assert ((table["sub"] > 0.5) == [False, True, False, True]).all()


def blob(size: int, scale: float, ratio: float) -> np.ndarray:
    """As `make_blobs` draws them, with the noise of pixels of that size, in units of the peak."""
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * scale / 0.1
    draw = np.random.default_rng(int(1000 * scale + 10 * ratio)).normal(0, 0.05 * 0.1 / scale, x.shape)
    return np.exp(-(x**2 / ratio + y**2 * ratio) / 8) + draw


@pytest.mark.parametrize("size", [12, 13, 14, 15])
def test_a_cutout_that_lacks_few_pixels_is_padded_with_sky_and_its_noise(exported, predictor, size):
    whole = np.stack([blob(16, 0.1, ratio) + 0.5 for ratio in (1.0, 3.0, 1.0, 3.0)])
    cut = whole[:, 1 : 1 + size, 1 : 1 + size] if size > 13 else whole[:, 2 : 2 + size, 2 : 2 + size]
    padded, note = predictor.prepare(cut[0][None])
    edge, kept = (17 - size) // 2, size // 2 * 2
    inside = np.s_[edge : edge + kept, edge : edge + kept]
    np.testing.assert_array_equal(padded[0][inside], cut[0, :kept, :kept].astype(np.float32))
    assert note == f"padded from {size} to 16 pixels a side with sky and its noise" and padded.shape == (1, 16, 16)
    np.testing.assert_array_equal(padded, predictor.prepare(cut[0][None])[0])
    around = np.ones((16, 16), bool)
    around[inside] = False
    drawn = np.concatenate([predictor.prepare(one[None])[0][0][around] for one in cut])
    assert abs(drawn.mean() - 0.5) < 0.12 and 0.02 < drawn.std() < 0.2
    assert "sees the central 16 x 16" in reasons(Predictor(exported), cut[0])[0], "of an unknown pixel scale"
    assert "sees the central 16 x 16" in reasons(Predictor(exported, pixel_scale=0.1, resample=False), cut[0])[0]


def test_a_cutout_is_padded_after_it_was_resampled_and_not_where_much_is_missing(exported, predictor, tmp_path):
    """In pixels as Euclid's against the network's, in `predict` and in `check_files`."""
    with_scale(blob(14, 0.1067, 3.0), 0.1067).writeto(tmp_path / "little.fits")
    with_scale(blob(10, 0.1067, 3.0), 0.1067).writeto(tmp_path / "much.fits")
    said = "resampled from 0.1067 to 0.1 arcsec a pixel; padded from 14 to 16 pixels a side with sky and its noise"
    for rows in (predictor.predict_files([tmp_path]), predictor.check_files([tmp_path])):
        little, much = rows
        assert little["note"] == said and little["state"] in ("ok", "out of distribution")
        assert much["state"] == "rejected" and "the network sees the central 16 x 16" in much["reason"]


@pytest.mark.parametrize("size, padded", [(61, True), (62, True), (60, False), (57, False)])
def test_of_a_large_field_five_per_cent_may_be_missing(predictor, size, padded):
    about = predictor.card.images.model_copy(update={"crop": 65, "image_size": 65})
    large = Predictor.of(predictor.card.model_copy(update={"images": about}), predictor.network)
    image = np.random.default_rng(0).normal(size=(1, size, size))
    if padded:
        assert large.prepare(image, 0.1)[0].shape == (1, 65, 65)
    else:
        with pytest.raises(ValueError, match="sees the central 65 x 65"):
            large.prepare(image, 0.1)


@pytest.mark.parametrize("scale", [0.033, 0.31, float("inf")])
def test_pixels_more_than_three_times_as_large_or_small_are_refused(exported, scale):
    (reason,) = reasons(Predictor(exported, pixel_scale=scale), np.random.default_rng(0).normal(size=(96, 96)))
    assert "more than a factor of 3 apart" in reason


def test_resampling_is_the_same_every_time_and_keeps_holes(exported, image):
    fine = np.random.default_rng(1).normal(size=(40, 40))
    known = Predictor(exported, pixel_scale=0.06)
    first, again = (known.prepare(fine[None])[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    fine[20, 20] = np.inf
    assert "are NaN or infinite; fill them with noise (--fill)" in reasons(known, fine)[0]


def test_holes_are_filled_with_sky_and_its_noise(exported, blobs):
    images = blobs.part("test").images[:10].astype(np.float64) + 0.0
    holed = images.copy()
    holed[:, :, :3] = np.nan
    holed[:, :, 5, 14] = -np.inf
    filling = Predictor(exported, pixel_scale=0.1, fill=True)
    pixels, note = filling.prepare(holed[0])
    assert note == "49 NaN or infinite pixels filled with sky and its noise"
    np.testing.assert_array_equal(pixels[0, 3:, :14], images[0, 0, 3:, :14].astype(np.float32))
    drawn = np.concatenate([filling.prepare(image)[0][0, :3].ravel() for image in holed])
    assert drawn.std() == pytest.approx(0.05, rel=0.35) and abs(drawn.mean()) < 0.05
    table = filling.predict(holed)
    assert (table["prediction"] != "").sum() >= 5
    assert reasons(filling, np.full((16, 16), np.nan)) == [
        "100% of its pixels are NaN or infinite; too little is left to fill them"
    ]


def test_one_of_several_bands_is_chosen_by_its_number(exported, predictor, image):
    noise = np.random.default_rng(0).normal(size=image.shape)
    cube = np.stack([noise, image, noise])
    chosen = Predictor(exported, pixel_scale=0.1, band=1).predict([cube])
    pd.testing.assert_frame_equal(chosen, predictor.predict([image]))
    assert reasons(Predictor(exported, band=3), cube) == ["3 bands, and --band 3 is none of them; they count from 0"]
    with pytest.raises(ValueError, match="band = -1"):
        Predictor(exported, band=-1)


def test_a_network_of_three_bands_says_what_it_takes(untold, image):
    about = untold.card.images.model_copy(update={"channels": 3})
    three = Predictor.of(untold.card.model_copy(update={"images": about}), untold.network)
    with pytest.raises(ValueError, match="takes 3 bands, and the image has 1; give the 3 as one array") as error:
        three.prepare(image[None])
    assert "not a colour" not in str(error.value)
    assert three.prepare(np.stack([image] * 3))[0].shape == (3, 16, 16)


def test_larger_cutouts_are_used_once_their_scale_is_known(exported, predictor, image):
    larger = np.pad(image, 7, mode="edge")  # 30 pixels
    known = Predictor(exported, pixel_scale=0.1)
    pd.testing.assert_frame_equal(known.predict([larger]), predictor.predict([image]))
    odd = known.predict([np.pad(image, ((7, 8), (7, 8)), mode="edge")])
    pd.testing.assert_frame_equal(odd, known.predict([image]))


def test_a_bad_border_outside_the_crop_does_no_harm(exported, predictor, image):
    larger = np.pad(image, 7, constant_values=np.nan)
    known = Predictor(exported, pixel_scale=0.1)
    pd.testing.assert_frame_equal(known.predict([larger]), predictor.predict([image]))
    (reason,) = reasons(Predictor(exported, rotations=8, pixel_scale=0.1), larger)
    assert "NaN" in reason, "a rotation would bring the border into view"


def test_images_out_of_distribution_get_no_prediction(predictor, blobs):
    noise = np.random.default_rng(3).normal(size=(20, 16, 16))
    table = predictor.predict(noise)
    assert not table["in_distribution"].any() and (table["prediction"] == "").all()
    assert table["reason"].str.contains("out of the training distribution").all()
    brighter = predictor.predict(blobs.part("test").images * 30)
    assert not brighter["in_distribution"].any(), "other units of brightness"


def test_rotations_average_and_an_invariant_network_does_not_mind(exported, predictor, blobs):
    images = blobs.part("test").images[:6]
    upright, rotated = predictor.answers(images), Predictor(exported, rotations=4).answers(images)
    np.testing.assert_allclose(upright[0], rotated[0], atol=1e-5)
    eight = Predictor(exported, rotations=8).answers(images)[0]
    assert 1e-5 < np.abs(eight - upright[0]).max() < 0.5
    with pytest.raises(ValueError, match="rotations = 0"):
        Predictor(exported, rotations=0)
    with pytest.raises(ValueError, match="pixel_scale = -1"):
        Predictor(exported, pixel_scale=-1)


def with_scale(image, arcsec, cards=True):
    header = fits.Header()
    if cards:
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CDELT1"], header["CDELT2"] = -arcsec / 3600, arcsec / 3600
        header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 150.0, 2.0, 8, 8
    else:
        header["PIXSCALE"] = arcsec
    return fits.PrimaryHDU(image.astype(np.float32), header)


@pytest.mark.parametrize("cards", [True, False])
def test_pixel_scale_of_a_fits_file_comes_first(exported, image, tmp_path, cards):
    with_scale(image, 0.1, cards).writeto(tmp_path / "right.fits")
    with_scale(image, 0.06, cards).writeto(tmp_path / "wrong.fits")
    rows = list(Predictor(exported, pixel_scale=0.1, resample=False).predict_files([tmp_path / "*.fits"]))
    assert rows[0]["prediction"] and not rows[0]["reason"]
    assert rows[1]["reason"].startswith("pixels of 0.06 arcsec")


def images_of(predictor, path) -> list[dict]:
    """The rows of what is an image by its name: without `info.json` and the like."""
    return [row for row in predictor.predict_files([path]) if row["state"] != "skipped"]


def test_every_layout(predictor, blobs, tmp_path):
    images = np.asarray(blobs.part("test").images[:4, 0])
    expected = predictor.predict(images)["sub"].to_numpy()
    for name in ("a", "b"):
        (tmp_path / "classes" / name).mkdir(parents=True)
    np.save(tmp_path / "classes/a/0.npy", images[0])
    with_scale(images[1], 0.1).writeto(tmp_path / "classes/a/1.fits")
    np.save(tmp_path / "classes/b/2.npy", images[2:, None])
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "classes", "classes")
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["images"], file["labels"] = images[:, None], np.arange(4)
    np.savez(tmp_path / "images.npz", images=images[:, None])
    blobs.part("test").subset(np.arange(4)).save(tmp_path / "dataset")
    for layout in ("classes", "images.tar", "images.h5", "images.npz", "dataset"):
        rows = [row for row in predictor.predict_files([tmp_path / layout]) if row["state"] != "skipped"]
        reasons = [row["reason"] for row in rows if row["reason"]]
        assert all("out of the training" in reason for reason in reasons), layout
        np.testing.assert_allclose([row["sub"] for row in rows], expected, atol=1e-4, err_msg=layout)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("set/no/1.npy", "no_sub"),
        ("set.tgz:test/vort/1.npy", "axion"),
        ("cdm/1.npy", ""),
        ("mine/1.npy", ""),
        ("1.npy", ""),
    ],
)
def test_the_class_that_a_folder_is_named_after(file, expected):
    assert class_by_folder(file, ("no_sub", "axion")) == expected


def test_a_bad_file_is_a_row_and_the_others_go_on(predictor, image, tmp_path):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", image)
    (tmp_path / "1.npy").write_bytes(b"no image")
    (tmp_path / "2.npy").write_bytes(b"")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "3.png")
    np.save(tmp_path / "hostile.npy", np.array([print, image], dtype=object), allow_pickle=True)
    rows = list(predictor.predict_files([tmp_path, tmp_path / "nowhere.npy", tmp_path / "x*.fits"]))
    by_name = {row["file"].split("/")[-1]: row for row in rows}
    for name, reason in {
        "1.npy": "",
        "2.npy": "empty file",
        "3.png": "the image has 3",
        "hostile.npy": "could run",
        "nowhere.npy": "nothing exists",
        "x*.fits": "no file matches",
    }.items():
        assert reason in by_name[name]["reason"] and by_name[name]["reason"], name
        assert by_name[name]["prediction"] == ""
    assert [by_name[f"{i}.npy"]["prediction"] for i in (0, 3, 4)] == [by_name["0.npy"]["prediction"]] * 3
    assert len(rows) == 9


def test_an_image_called_like_labels_is_an_image(predictor, image, tmp_path):
    """The Y band of a survey lies in files called y."""
    with_scale(image, 0.1).writeto(tmp_path / "Y.fits")
    np.save(tmp_path / "y.npy", image)
    np.save(tmp_path / "labels.npy", np.arange(3))
    rows = {os.path.basename(row["file"]): row["state"] for row in predictor.predict_files([tmp_path])}
    assert rows.pop("labels.npy") == "skipped" and rows == {"Y.fits": "ok", "y.npy": "ok"}


def test_a_name_that_no_table_can_hold_is_written_out(predictor, image, tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/lens-\xff.npy")
    try:
        np.save(name, image)
    except OSError:
        pytest.skip("this file system knows no such names")
    (row,) = predictor.predict_files([name])
    assert "not UTF-8" in row["reason"] and row["file"].encode("utf-8").endswith(b"lens-\\udcff.npy")


def test_pixels_that_no_network_can_take_get_no_class(predictor, untold, image):
    hot, outside = image.astype(float), np.pad(image.astype(float), 7, constant_values=1e300)
    hot[3, 3] = 1e38
    table = predictor.predict([hot, image.astype(float) * 1e300, image + 1j, image.astype(str), image * 1e25])
    assert (table["prediction"] == "").all() and table["reason"].str.len().all()
    (reason,) = reasons(predictor.of(predictor.card, predictor.network), hot)
    assert "too large" in reason, "whatever is known of the training images"
    (reason,) = reasons(untold, outside)
    assert "at 0.1 arcsec" in reason


def test_a_pixel_scale_in_the_first_header_counts_for_the_file(predictor, image, tmp_path):
    first = fits.PrimaryHDU()
    first.header["PIXSCALE"] = 0.05
    fits.HDUList([first, fits.ImageHDU(image, name="SCI")]).writeto(tmp_path / "lens.fits")
    (row,) = predictor.predict_files([tmp_path / "lens.fits"])
    assert "16 x 16 pixels of 0.05 arcsec" in row["reason"]


def test_a_folder_without_images_says_so(predictor, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    (row,) = predictor.predict_files([tmp_path])
    assert "no images (1 other files)" in row["reason"] and row["prediction"] == ""


def test_memory_stays_bounded(predictor, tmp_path, image):
    """Of a stack on disk, no more images are in memory than one batch has."""
    np.save(tmp_path / "stack.npy", np.broadcast_to(image, (9000, 16, 16)))
    held = []

    def watched():
        for one in find([tmp_path / "stack.npy"]):
            held.append(one)
            yield one

    rows = predictor._rows(watched())
    for _ in range(300):
        next(rows)
    assert sum(one.pixels is not None for one in held) <= 1
    assert len(held) <= 300 + predictor.batch_size + 1


def test_files_that_belong_to_an_image_are_skipped_and_said(predictor, image, tmp_path):
    """As observations come: a folder of image, noise map, PSF and mask, with the scale beside them."""
    lens, other = tmp_path / "lens", tmp_path / "other"
    for folder in (lens, other):
        folder.mkdir()
    for name in ("data", "noise_map", "psf", "mask_extra_galaxies"):
        fits.PrimaryHDU(image).writeto(lens / f"{name}.fits")
    for name in ("ours", "ours_rms", "theirs_rms"):
        np.save(other / f"{name}.npy", image)
    expected = {
        "data.fits": "ok",
        "noise_map.fits": "skipped",
        "psf.fits": "skipped",
        "mask_extra_galaxies.fits": "skipped",
        "ours.npy": "ok",
        "ours_rms.npy": "skipped",
        "theirs_rms.npy": "ok",
    }
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(lens, "lens")
        tar.add(other, "other")
    for paths in ([lens, other], [lens / "*", other / "*"], [tmp_path / "both.tar"]):
        rows = list(predictor.predict_files(paths))
        assert {row["file"].split("/")[-1]: row["state"] for row in rows} == expected, paths
    (reason,) = {row["reason"] for row in rows if "noise_map" in row["file"]}
    assert reason == "the noise map of an image beside it, and no image itself"
    (alone,) = predictor.predict_files([lens / "psf.fits"])
    assert alone["state"] == "ok", "what is named alone is asked about"


def test_lenstronomys_file_is_one_image_of_its_own_scale(untold, image, tmp_path):
    for name, scale in (("right", 0.1), ("wrong", 0.04)):
        with h5py.File(tmp_path / f"image_{name}.h5", "w") as file:
            file["image_data"], file["exposure_time"] = image, np.ones_like(image)
            file["transform_pix2angle"] = [[-scale, 0], [0, scale]]
        with h5py.File(tmp_path / f"psf_{name}.h5", "w") as file:
            file["kernel_point_source"] = image
    for paths in ([tmp_path], [tmp_path / "*.h5"]):
        rows = [row for row in untold.predict_files(paths) if row["state"] != "skipped"]
        assert [row["state"] for row in rows] == ["ok", "rejected"]
        assert rows[1]["reason"].startswith("16 x 16 pixels of 0.04 arcsec, which are 6 of the network's 0.1,")


def test_the_scale_in_the_information_beside_an_image_counts(untold, image, tmp_path):
    np.save(tmp_path / "lens.npy", image)
    for scale, state in ((0.1, "ok"), (0.5, "rejected")):
        (tmp_path / "info.json").write_text(f'{{"pixel_scale": {scale}}}')
        (row,) = images_of(untold, tmp_path)
        assert row["state"] == state
    (tmp_path / "info.json").write_text("{")
    (row,) = images_of(untold, tmp_path)
    assert "expected JSON" in row["reason"]


def test_an_archive_that_cannot_be_read_on_is_a_row_and_the_others_go_on(predictor, image, tmp_path):
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file.create_dataset("images", (1, 16, 16), "f4", external=[(str(tmp_path / "raw"), 0, 1024)])
    np.save(tmp_path / "good.npy", image)
    rows = list(predictor.predict_files([tmp_path / "elsewhere.h5", tmp_path / "good.npy"]))
    assert [row["state"] for row in rows] == ["rejected", "ok"]
    assert "takes its numbers from other files" in rows[0]["reason"]


def test_real_files_each_get_a_row_and_none_a_prediction_that_cannot_be_given(untold, evaluation_data):
    """Telescope cutouts of other sizes and scales, noise maps and PSFs beside them, and colour pictures."""
    rows = list(untold.predict_files([evaluation_data / "lenses", evaluation_data / "deeplense-common-test"]))
    assert len(rows) > 20
    states = {row["file"].removeprefix(str(evaluation_data)): row["state"] for row in rows}
    skipped = {name.split("/")[-1] for name, state in states.items() if "slacs" in name and state == "skipped"}
    assert {name for name in skipped if not name.endswith(".json")} == {
        "mask_extra_galaxies.fits",
        "noise_map.fits",
        "psf.fits",
    }
    for row in rows:
        assert row["reason"] and (row["prediction"] == ""), row
    assert sum("the network was trained on 16 x 16 at 0.1 arcsec" in row["reason"] for row in rows) >= 15
    assert sum("resampled from" in row["note"] for row in rows) >= 6  # lenstronomy's three, and info.json


def test_a_damaged_member_of_a_zip_leaves_no_image_without_a_row(predictor, image, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.npy", npy(image))
        start = archive.getinfo("b.npy").header_offset + 30 + len("b.npy")
    damaged = bytearray((tmp_path / "all.zip").read_bytes())
    damaged[start : start + 40] = b"\xff" * 40
    (tmp_path / "all.zip").write_bytes(damaged)
    rows = {row["file"][-5:]: row for row in predictor.predict_files([tmp_path / "all.zip"])}
    assert set(rows) == {"a.npy", "b.npy", "c.npy"}
    assert rows["a.npy"]["state"] == "ok" and rows["b.npy"]["state"] == "rejected"


def npy(image) -> bytes:
    stored = io.BytesIO()
    np.save(stored, image)
    return stored.getvalue()


def test_a_damaged_data_set_is_a_row_and_the_others_go_on(predictor, image, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "dataset.json").write_text("{")
    with h5py.File(tmp_path / "lens.h5", "w") as file:
        file["image_data"], file["transform_pix2angle"] = image, np.array([[b"a", b"b"], [b"c", b"d"]])
    np.save(tmp_path / "good.npy", image)
    rows = list(predictor.predict_files([tmp_path / name for name in ("set", "lens.h5", "good.npy")]))
    assert [row["state"] for row in rows if row["state"] != "skipped"] == ["rejected", "rejected", "ok"]


@pytest.mark.parametrize("scale", ["NaN", "-0.1", "0"])
def test_a_pixel_scale_that_is_none_is_no_scale(untold, image, tmp_path, scale):
    np.save(tmp_path / "lens.npy", image)
    (tmp_path / "info.json").write_text(f'{{"pixel_scale": {scale}}}')
    (row,) = images_of(untold, tmp_path)
    assert row["state"] == "rejected" and "expected arcseconds of one pixel" in row["reason"]
    with pytest.raises(ValueError, match="pixels of nan arcsec"):
        untold.prepare(image[None], float("nan"))


def test_the_information_beside_a_stack_counts(untold, image, tmp_path):
    np.savez(tmp_path / "stack.npz", images=np.stack([image[None]] * 2))
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["images"] = np.stack([image[None]] * 2)
    (tmp_path / "info.json").write_text('{"pixel_scale": 0.1}')
    for name in ("stack.npz", "stack.h5"):
        assert [row["state"] for row in untold.predict_files([tmp_path / name])] == ["ok"] * 2
    assert {row["state"] for row in images_of(untold, tmp_path)} == {"ok"}


def test_weights_beside_an_image_are_no_image(predictor, image, tmp_path):
    for name in ("m87_sci", "m87_wht", "m87_ctx"):
        fits.PrimaryHDU(image).writeto(tmp_path / f"{name}.fits")
    states = {row["file"][-8:-5]: row["state"] for row in predictor.predict_files([tmp_path])}
    assert states == {"sci": "ok", "wht": "skipped", "ctx": "skipped"}


def test_an_archive_among_images_is_not_passed_over_in_silence(predictor, image, tmp_path):
    np.save(tmp_path / "a.npy", image)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "a.npy", "b.npy")
    rows = {os.path.basename(row["file"]): row for row in predictor.predict_files([tmp_path])}
    assert rows["a.npy"]["state"] == "ok"
    assert rows["more.zip"]["state"] == "skipped" and "give its path" in rows["more.zip"]["reason"]
    assert len(list(predictor.predict_files([tmp_path / "more.zip"]))) == 1
    os.rename(tmp_path / "more.zip", os.fsencode(tmp_path) + b"/\xff.zip")
    files = [row["file"].encode() for row in predictor.predict_files([tmp_path])]  # what no table holds would raise
    assert len(files) == 2


def test_a_noise_map_of_a_drizzled_image_is_no_image(predictor, image, tmp_path):
    for name in ("x_drz", "x_rms", "y_drz"):
        np.save(tmp_path / f"{name}.npy", image)
    states = {os.path.basename(row["file"]): row["state"] for row in predictor.predict_files([tmp_path])}
    assert states == {"x_drz.npy": "ok", "x_rms.npy": "skipped", "y_drz.npy": "ok"}


def test_a_member_that_does_not_unpack_leaves_the_others(predictor, image, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a", "b", "c"):
            with io.BytesIO() as file:
                np.save(file, image)
                archive.writestr(f"{name}.npy", file.getvalue())
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        start = archive.getinfo("b.npy").header_offset + 35
    content = bytearray((tmp_path / "set.zip").read_bytes())
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "set.zip").write_bytes(content)
    states = [row["state"] for row in predictor.predict_files([tmp_path / "set.zip"])]
    assert states == ["ok", "rejected", "ok"]


def test_predict_takes_arrays_and_paths_alike(exported, blobs, tmp_path):
    images = blobs.part("test").images[:3]
    for number, image in enumerate(images):
        np.save(tmp_path / f"{number}.npy", image[0])
    table = predict(exported, images, pixel_scale=0.1)
    of_files = predict(Predictor(exported, pixel_scale=0.1), tmp_path)
    assert len(table) == len(of_files) == 3
    np.testing.assert_allclose(table["sub"], of_files["sub"], atol=1e-6)
    (one,) = predict(exported, [tmp_path / "1.npy"], pixel_scale=0.1)["sub"]
    assert one == pytest.approx(table["sub"][1], abs=1e-6)


def test_probabilities_follow_the_frequency_of_the_classes(exported, predictor, blobs):
    """Saerens' formula, p * new / old over its sum, on the calibrated probabilities."""
    images = blobs.part("test").images[:8]
    old = np.array(predictor.card.training["class_shares"])
    assert old == pytest.approx(np.bincount(blobs.part("train").labels) / len(blobs.part("train")))
    plain = predictor.predict(images)[["no_sub", "sub"]].to_numpy()
    new = np.array([0.99, 0.01])
    shifted = Predictor(exported, pixel_scale=0.1, prior={"sub": 0.01, "no_sub": 0.99}).predict(images)
    expected = plain * new / old
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shifted[["no_sub", "sub"]], expected, rtol=1e-9)
    same = Predictor(exported, pixel_scale=0.1, prior="train").predict(images)
    np.testing.assert_allclose(same[["no_sub", "sub"]], plain, rtol=1e-9)
    never = Predictor(exported, pixel_scale=0.1, prior=[1, 0]).predict(images)
    assert (never["sub"] == 0).all() and not (never["prediction"] == "sub").any()


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([0.5, 0.2], "prior 0.5, 0.2 with a sum of 0.7; expected 2 shares with a sum of 1, of no_sub, sub"),
        ([0.5, 0.3, 0.2], "expected 2 shares"),
        ([1.5, -0.5], "expected 2 shares"),
        ([np.nan, 1], "expected 2 shares"),
        ({"no_sub": 0.5, "cdm": 0.5}, "prior for no_sub, cdm; expected a share of each of no_sub, sub"),
        ("trian", "prior = 'trian'; expected shares of no_sub, sub, or 'train'"),
    ],
)
def test_a_prior_that_is_none_is_refused(exported, prior, message):
    with pytest.raises(ValueError, match=message):
        Predictor(exported, prior=prior)


def test_a_network_of_balanced_classes_assumes_equal_shares(untold):
    training = untold.card.training | {"class_weights": "balanced", "class_shares": [0.9, 0.1]}
    card = untold.card.model_copy(update={"training": training})
    np.testing.assert_allclose(prior_shift(card, "train"), np.log([1.8, 0.2]))
    older = untold.card.model_copy(update={"training": {}})
    with pytest.raises(ValueError, match="does not say how frequent its classes were; export it again"):
        prior_shift(older, [0.5, 0.5])


@pytest.mark.parametrize(
    ("auc", "chance"), [((0.95, 0.9, 0.98), False), ((0.59, 0.55, 0.63), True), ((0.7, 0.49, 0.9), True)]
)
def test_a_network_at_chance_says_so_in_every_row(untold, image, auc, chance):
    about = {"validation": {"auc": {"value": auc[0], "interval": list(auc[1:])}}}
    card = untold.card.model_copy(update={"metrics": about})
    (row,) = Predictor.of(card, untold.network, untold.distribution).predict([image]).to_dict("records")
    assert ("network at chance: validation AUC" in row["note"]) == chance == bool(card.warning)


def test_what_would_become_of_an_image_is_told_without_the_network(predictor, image, tmp_path):
    """The same states and reasons as a prediction's, but for what only the network can tell."""
    colour = np.random.default_rng(0).normal(size=(3, 16, 16))
    for name, array in (("good", image), ("colour", colour), ("narrow", image[:, :9]), ("good_rms", image)):
        np.save(tmp_path / f"{name}.npy", array)
    with_scale(np.pad(image, 20, mode="reflect"), 0.06).writeto(tmp_path / "fine.fits")
    (tmp_path / "broken.npy").write_bytes(b"no image")
    told = {row["file"]: row for row in predictor.check_files([tmp_path])}
    done = {row["file"]: row for row in predictor.predict_files([tmp_path])}
    assert list(told) == list(done) and len(told) == 6
    for file, row in done.items():
        state = "ok" if row["state"] == "out of distribution" else row["state"]
        assert told[file]["state"] == state and told[file]["note"] == row["note"]
        assert told[file]["reason"] == (row["reason"] if state != "ok" else "")
    assert {row["state"] for row in told.values()} == {"ok", "rejected", "skipped"}


def test_a_band_is_found_by_its_name_among_extensions(predictor, image, tmp_path):
    noise = np.random.default_rng(0).normal(size=image.shape)
    planes = [("DES_G_BGSUB", noise), ("VIS_BGSUB", image), ("VIS_PSF", noise[:5, :5]), ("VIS_RMS", noise)]
    hdus = [fits.ImageHDU(array, name=name) for name, array in planes]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "lens.fits")
    (row,) = predictor.predict_files([tmp_path / "lens.fits"], "VIS")
    assert row["sub"] == pytest.approx(predictor.predict([image])["sub"][0])
    (row,) = predictor.predict_files([tmp_path / "lens.fits"], "NIR_Y")
    assert "no FITS extension 'NIR_Y'; there are DES_G_BGSUB, VIS_BGSUB" in row["reason"]


def test_bands_in_extensions_are_one_input_of_several_bands(untold, predictor, exported, image, tmp_path):
    noise = np.random.default_rng(0).normal(size=image.shape)
    planes = [("R", image), ("RMS", noise), ("G", noise), ("I", noise)]
    hdus = [fits.ImageHDU(array, name=name) for name, array in planes]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "lens.fits")
    said = "extensions 3 G (g), 1 R (r), 4 I (i) were taken as bands, in this order; choose one with --extension"
    (row,) = predictor.predict_files([tmp_path / "lens.fits"])
    assert "takes one band, and the image has 3" in row["reason"] and row["note"] == said
    (row,) = Predictor(exported, pixel_scale=0.1, band=1).predict_files([tmp_path / "lens.fits"])
    assert row["sub"] == predictor.predict([image])["sub"][0] and row["note"] == said
    about = untold.card.images.model_copy(update={"channels": 3})
    three = Predictor.of(untold.card.model_copy(update={"images": about}), untold.network)
    (row,) = three.check_files([tmp_path / "lens.fits"])
    assert (row["state"], row["note"]) == ("pixel scale unknown", said)
