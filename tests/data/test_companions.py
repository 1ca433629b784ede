"""Which files belong to an image is told by their names, and only where that image is there."""

import time

import pytest

from lensstudy.data.companions import belongs, companions, role_and_key, says_image, stem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lens/J1.fits", "J1"),
        ("J1.fits.fz", "J1"),
        ("J1.FITS.BZ2", "J1"),
        ("J1.fit.gz", "J1"),
        ("J1.fts.gz", "J1"),
        ("stk.i.unconv.wt.fits", "stk.i.unconv.wt"),
        ("group/image", "image"),
    ],
)
def test_the_name_without_its_endings(name, expected):
    assert stem(name) == expected


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("psf", "psf PSF_image imagePSF PSFimage psfimage PSFIMAGE J1PSFmodel J1-kernel J1.psf psfs ePSF"),
        ("noise", "rms noise_map noiseMap NoiseMap noisemap stdmap std_dev uncertainties bkg_rms fluxerr SCI_ERR unc"),
        ("variance", "var VARIANCE wt varmap image_variance"),
        ("inverse variance", "ivar invvar inverse_variance InverseVariance inv-var IVAR1"),
        ("weight", "wht WEIGHT weightmap wtmap WGT wei weights J1_drz_wht"),
        ("mask", "mask msk maskbits maskbit dqmap inv_mask DQ flags flag badpixels bpm mask_extra_galaxies skymask"),
        (
            "other",
            "exp exposure exposure_time nexp num seg segm bkg background model resid residual_map chi2 chi_squared_map"
            " snr signal_to_noise_map SignalToNoise depth galdepth psfdepth psfsize psf_err noise_model_psf expwt ctx"
            " model_image skymodel alpha kappa seg_mask SegmentationMask J1SNR J1ChiSquared drz_con",
        ),
        (
            "image",
            "lens variant modelled expression standard maskedman errand F814W numbers signal SIGNAL_1 sizes"
            " bkg_sub J1_sky_subtracted background_subtracted_r SkySub model_removed",
        ),
    ],
)
def test_the_role_that_a_name_gives(role, names):
    for name in names.split():
        assert role_and_key(name)[0] == role, name


def test_files_of_one_lens_share_their_words():
    for name in ("J1", "J1NoiseMap", "j1_psf", "PSF-J1", "J1Image", "j1.exposure.time", "J1WHT"):
        assert role_and_key(name)[1] == ("j1",), name
    assert role_and_key("lens12rms")[1] == role_and_key("lens12")[1] == ("lens12",)
    assert role_and_key("J1_F814W_unc")[1] == ("j1", "f814w")


def test_a_map_belongs_to_the_image_with_the_nearest_name():
    images = {("j1",), ("j1", "new"), ("j2", "g"), ("j2", "r")}
    expected = {
        (): images,
        ("j1",): {("j1",)},
        ("j1", "old"): {("j1",)},
        ("j1", "new"): {("j1", "new")},
        ("j1", "new", "2"): {("j1", "new")},
        ("j2",): {("j2", "g"), ("j2", "r")},
        ("j3",): set(),
    }
    assert {key: {one for one in images if belongs(key, one, images)} for key in expected} == expected


def test_whether_a_name_says_image():
    assert says_image("VIS_BGSUB") and says_image("SCI") and says_image("imageR")
    assert not says_image("R") and not says_image("model_image") and not says_image("psfimage")


@pytest.mark.parametrize(
    ("images", "others"),
    [
        ("brick-0012p003-image-g.fits brick-0012p003-image-r.fits",
         "brick-0012p003-invvar-g.fits brick-0012p003-nexp-r.fits brick-0012p003-maskbits.fits.fz"),
        ("rings.v3.skycell.g.fits", "rings.v3.skycell.g.exp.fits rings.v3.skycell.g.num.fits.fz"),
        ("image.fits", "snr_no_lens.fits noiseMap.fits psf_sub.fits model_data.fits"),
        ("J2.fits J3.fits.gz", "J2NoiseMap.fits J3Psf.fits imagePSF.fits J2_seg.png J3-flag.npy"),
        ("images/0/1.npy images/0/2.npy", "masks/0/1.npy noise_maps/0/2.npy"),
        ("cdm/cdm_sim_4.npy axion/axion_sim_4.npy", "cdm/cdm_alpha_4.npy axion/axion_alpha_4.npy"),
        ("lens/0.fits other/1.fits lens/2_rms.fits other/0_rms.fits", "lens/0_rms.fits"),
    ],
)  # fmt: skip
def test_companions_are_told_from_images(images, others):
    found = companions([*others.split(), *images.split()])
    assert sorted(found) == sorted(others.split())


@pytest.mark.parametrize(
    "names",
    [
        "model_3/model_3_0001.npy model_3/model_3_0002.npy model_3/sim_9.npy",
        "exp1.npy exp2.npy",
        "num_12.png",
        "std/std_1.npy std/std_2.npy lens/sim_1.npy",
        "psf.fits",
        "model/1.npy sim_free/1.npy no_sub/1.npy",
        "background/1.npy signal/1.npy",
        "images/strong_lens_1/exposure_1_F106 images/strong_lens_1/exposure_1_F129",
        "exp_1.fits lens_2.fits",
    ],
)
def test_without_an_image_of_the_same_lens_a_name_says_nothing(names):
    assert companions(names.split()) == {}


def test_what_each_holds_is_said():
    found = companions(
        ["J1.fits", "J1_err.fits", "J1_psf.fits", "J1_ivar.fits", "J1_wht.fits", "J1_dq.fits", "J1_chi2.fits"]
    )
    assert list(found.values()) == ["noise map", "PSF", "inverse variance map", "weight map", "mask", "chi2 map"]


def test_lenstronomys_arrays_are_no_images():
    found = companions(["image_data", "exposure_time", "transform_pix2angle"])
    assert "image_data" not in found and set(found) == {"exposure_time", "transform_pix2angle"}


def test_the_time_grows_with_the_number_of_names_and_not_with_its_square():
    names = [f"set/{i}{kind}.fits" for i in range(10_000) for kind in ("", "_rms")]
    start = time.perf_counter()
    assert len(companions(names)) == 10_000
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize("word", ["expmap", "Expmap", "exp", "wt", "1rms"])
def test_a_name_made_to_be_parted_in_many_ways_takes_no_time(word):
    start = time.perf_counter()
    assert role_and_key(word * 40 + "x")
    assert role_and_key(word * 2000 + "x")
    assert time.perf_counter() - start < 2
