"""The preset recovered from DeepLense's test of equivariant networks: its alignment, its files, its images."""

import math

import numpy as np
import pytest
from scipy.fft import dctn

from lensstudy.lensing.populations import complete, preset_named
from lensstudy.lensing.rendering import render
from lensstudy.lensing.simulation import draw_batch

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
