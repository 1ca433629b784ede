"""What presets draw: DeepLense's tests as they were recovered, and equal mass in every class."""

import io
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.fft import dctn

from lensstudy.lensing.populations import CLASSES, complete, draw_lens, preset_named
from lensstudy.lensing.rendering import render
from lensstudy.lensing.simulation import draw_batch

DATA = Path(os.environ.get("LENSSTUDY_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
# the luminance table of the JPEG standard (ITU-T T.81, table K.1), row by row, and its scaling to quality 75
STANDARD = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
QUANTA = np.floor((np.array(STANDARD.split(), float).reshape(8, 8) * 50 + 50) / 100)


def test_angles_of_the_equivariant_test_are_radians_read_as_degrees():
    """Of an angle a uniform up to A, mean sin 2a over mean cos 2a is tan A: 0.11 at 2 pi degrees, clockwise here."""
    draw, generator = preset_named("equivariant_test").draw, np.random.default_rng(1)
    lenses = [draw("no_sub", generator, {}) for _ in range(2000)]
    for kind in ("shear_", "source_e", "lens_light_e"):
        first, second = (np.array([lens[f"{kind}{k}"] for lens in lenses]) for k in (1, 2))
        assert second.mean() / first.mean() == pytest.approx(-math.tan(math.radians(2 * math.pi)), abs=0.006)
        assert np.degrees(0.5 * np.arctan2(second, first)).min() > -2 * math.pi and second.max() <= 0


def test_images_of_the_equivariant_test_are_jpeg_files():
    """Blocks of 8 by 8 pixels hold multiples of the standard's quanta at quality 75, but for grey values rounded."""
    images, _ = draw_batch("equivariant_test", range(2), seed=1)
    images = images[:, 0].numpy()
    assert np.array_equal(images, images.round()) and images.min() == 0 and 245 <= images.max() <= 255
    blocks = images[:, :144, :144].reshape(-1, 18, 8, 18, 8).swapaxes(2, 3)
    blocks = blocks[(blocks.min(axis=(-2, -1)) > 3) & (blocks.max(axis=(-2, -1)) < 255)] - 128  # others are cut off
    waves = dctn(blocks, axes=(-2, -1), norm="ortho") / QUANTA
    assert np.abs(waves - waves.round())[:, :4, :4].mean() < 0.06  # 0.25 for any other image


def test_the_galaxy_of_the_equivariant_test_has_a_shape_of_its_own():
    lens = {"einstein_radius": 1.0, "lens_light_amplitude": 1.0, "lens_light_radius": 0.4, "lens_light_index": 2.3}
    flat = render(lens | {"source_radius": 1.0, "source_index": 1.0, "lens_light_e1": 0.3}, "equivariant_test")[0, 0]
    y, x = np.indices(flat.shape) - 74.5
    assert (flat * x**2).sum() > 2 * (flat * y**2).sum()
    assert complete({"lens_e2": 0.1})["lens_light_e2"] == 0.1  # otherwise that of the halo


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    """The first 64 images by name of each class, `(64, 150, 150)`."""
    file = DATA / "deeplense-equivariant" / "lenses.tgz"
    if not file.exists():
        pytest.skip(f"{file} is missing; set LENSSTUDY_DATA to the folder that holds deeplense-equivariant/")
    with tarfile.open(file) as archive:
        contents = {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}

    def first(name: str) -> np.ndarray:
        paths = sorted(path for path in contents if path.startswith(f"lenses/{name}/"))[:64]
        return np.stack([np.asarray(Image.open(io.BytesIO(contents[path])), float) for path in paths])

    return {"no_sub": first("no_sub"), "cdm": first("sub")}


@pytest.mark.parametrize(("einstein_radius", "fits"), [(1.0, True), (0.98, False), (1.02, False)])
def test_a_lens_of_the_equivariant_test_is_an_official_image(official, einstein_radius, fits):
    """What the preset fixes, with fitted values for what it draws, gives the first image to a grey value or less."""
    image = official["no_sub"][0]
    lens = preset_named("equivariant_test").draw("no_sub", np.random.default_rng(0), {})
    lens |= {"einstein_radius": einstein_radius, "shear_1": 0.11, "shear_2": -0.0207}
    lens |= {"source_x": 0.2229, "source_y": -0.0655, "source_e1": 0.0899, "source_e2": -0.0131}
    lens |= {
        "source_amplitude": 0.955 * lens["lens_light_amplitude"],
        "lens_light_e1": 0.3167,
        "lens_light_e2": -0.0076,
    }
    expected = render(lens, "equivariant_test", dtype=torch.float64)[0, 0]
    slope, level = np.polyfit(expected.ravel(), image.ravel(), 1)
    assert ((slope * expected + level - image).std() < 0.75) == fits


@pytest.mark.parametrize("name", ["no_sub", "cdm"])
def test_images_of_the_equivariant_test_look_like_the_official_ones(official, name):
    simulated = draw_batch("equivariant_test", range(64), seed=1, classes=[name])[0][:, 0].numpy()
    y, x = np.indices((150, 150)) - 74.5
    radius = np.hypot(x, y).astype(int).ravel()
    mean = [np.bincount(radius, one.mean(axis=0).ravel())[:60] for one in (simulated, official[name])]
    assert np.abs(np.log(mean[0] / mean[1])).max() < 0.35  # two draws of 64 differ by 0.1 to 0.3 somewhere
    bright = [[(images > level).mean() for level in (4, 16, 64)] for images in (simulated, official[name])]
    assert bright[0] == pytest.approx(bright[1], rel=0.15)


@pytest.mark.parametrize("name", ["model_1", "model_2", "model_3", "common_test", "equivariant_test"])
@pytest.mark.parametrize("class_name", ["cdm", "axion"])
def test_with_equal_mass_the_halo_gives_what_the_substructure_adds(name, class_name):
    """Of an isothermal halo of radius h the mass within R is that of h R: with mass m inside, h R + m A = R^2."""
    preset = preset_named(name)
    published, equal = (
        [draw_lens(preset, class_name, np.random.default_rng(k), {"equal_mass": asked}) for k in range(20)]
        for asked in (False, True)
    )
    assert not any("halo_einstein_radius" in row for row in published)
    for row in equal:
        if class_name == "cdm":
            mass = row["subhalo_mass"][np.hypot(row["subhalo_x"], row["subhalo_y"]) < row["einstein_radius"]].sum()
        else:
            along = np.linspace(-1, 1, 20_001) * row["vortex_half_length"]
            x, y = (row.get(f"vortex_{axis}", 0.0) for axis in "xy")
            x, y = x + along * np.cos(row["vortex_angle"]), y + along * np.sin(row["vortex_angle"])
            mass = row["vortex_mass"] * (np.hypot(x, y) < row["einstein_radius"]).mean()
        left = row["halo_einstein_radius"] * row["einstein_radius"] + mass * preset.area_per_mass
        assert left == pytest.approx(row["einstein_radius"] ** 2, rel=1e-4)


def test_smooth_lenses_of_the_common_test_are_the_same_in_every_class():
    """Rings tell nothing, and the source's distance is uniform, with or without equal mass."""
    draw, generator = preset_named("common_test").draw, np.random.default_rng(1)
    for name in CLASSES:
        lenses = [draw(name, generator, {}) for _ in range(1000)]
        rings = [lens["einstein_radius"] for lens in lenses]
        distances = np.array([math.hypot(lens["source_x"], lens["source_y"]) for lens in lenses])
        for values, low, high in ((rings, 0.9, 1.65), (distances, 0.0, 0.46)):
            assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3
        assert stats.kstest((distances / 0.46) ** 2, "uniform").pvalue < 1e-6  # as in a disc
