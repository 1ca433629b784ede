"""The interactive parts, moved as a front end moves them; each fits the window of a laptop."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from lensstudy.data.rotation import rotate
from lensstudy.data.simulation import simulate
from lensstudy.evaluation.truth import mistakes
from lensstudy.figures import widgets
from lensstudy.figures.style import strip
from lensstudy.lensing.rendering import render
from lensstudy.networks.description import feature_maps
from lensstudy.networks.registry import build_network

WIDTH, HEIGHT = 1000, 560  # pixels that JupyterLab leaves of a window of 1366 x 768


def parts(widget):
    """Controls by their description, the picture, and the words beside it."""
    controls, (canvas, words) = widget.children[0].children, widget.children[1].children
    return {control.description: control for control in controls}, canvas, words


def picture(canvas) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(canvas.value)))


def fits(widget) -> bool:
    controls, canvas, _ = parts(widget)
    rows = -(-len(controls) // (WIDTH // 304))  # a control is 300 pixels wide with its margins, and 32 high
    return rows * 32 + picture(canvas).shape[0] <= HEIGHT and picture(canvas).shape[1] <= WIDTH


def test_the_class_browser_shows_each_image_with_what_is_known_of_it():
    lenses = simulate("realistic", 5, seed=1, image_size=32).split(0.2, 0.25, seed=1)
    browser = widgets.browse_images(lenses)
    controls, canvas, words = parts(browser)
    assert fits(browser) and picture(canvas).shape[0] == widgets.HEIGHT
    first = picture(canvas)
    controls["class"].value, controls["image"].value = "axion", 2
    assert np.abs(picture(canvas).astype(int) - first).max() > 50
    row = lenses.catalogue[lenses.catalogue["class"] == "axion"].iloc[2]
    assert row["name"] in words.value and row["part"] in words.value
    assert f"{row['einstein_radius']:.3g}" in words.value


def test_the_class_browser_escapes_what_comes_from_files(blobs):
    blobs.catalogue["name"] = [f"<b>{i}</b>" for i in range(len(blobs))]
    _, _, words = parts(widgets.browse_images(blobs))
    assert "&lt;b&gt;0" in words.value


def test_the_bench_shows_what_the_vortex_adds():
    bench = widgets.build_lens()
    controls, canvas, words = parts(bench)
    assert fits(bench)
    left, right = np.split(picture(canvas), 2, axis=1)
    assert left.std() > 10 and right.std() > 10
    lens = {"einstein_radius": 1.2, "lens_e1": 0.1, "shear_1": 0.05, "source_x": 0.05, "source_y": 0.1}
    lens |= {"source_radius": 0.25, "source_amplitude": 1.0, "source_index": 1.0}
    vortex = {"vortex_mass": 1e10, "vortex_half_length": 0.8, "vortex_angle": 0.5}
    with_vortex, without = render(lens | vortex, image_size=64), render(lens | vortex, image_size=64, smooth=True)
    assert f"{np.abs(with_vortex - without).max() / with_vortex.max():.1%}" in words.value
    controls["vortex [M☉]"].value = 1e8
    assert float(words.value.split("at most ")[1].split("%")[0]) == pytest.approx(0, abs=1)


def test_a_slider_shows_the_features_of_the_rotated_lens():
    lens = torch.rand(1, 1, 33, 33, generator=torch.Generator().manual_seed(1))
    network = build_network("c4-steerable-cnn", 33, 3, width=0.25)
    rotating = widgets.rotate_features(network, lens)
    controls, canvas, _ = parts(rotating)
    assert fits(rotating) and picture(canvas).shape[0] == widgets.ROW
    controls["rotation [°]"].value = 90
    field = feature_maps(network, rotate(lens, 90))["relu1"][0, :4].numpy()
    shown = np.asarray(Image.open(io.BytesIO(strip([rotate(lens, 90)[0, 0].numpy(), *field], height=widgets.ROW))))
    np.testing.assert_array_equal(picture(canvas), shown)


def test_the_mistakes_browser_shows_each_mistake_and_says_where_there_is_none():
    images = np.random.default_rng(2).normal(size=(4, 1, 12, 12))
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    wrong = mistakes(np.array([0, 0, 0, 0]), [probabilities], ("no_sub", "<b>"))
    none = mistakes(np.array([0, 1, 1, 0]), [probabilities], ("no_sub", "<b>"))
    browser = widgets.mistakes({"d4": wrong.assign(sigma=[7.0, np.nan]), "plain": none.assign(sigma=[])}, images)
    controls, canvas, words = parts(browser)
    assert fits(browser) and controls["mistake"].max == 2
    first = picture(canvas)
    assert "mistake 1 of 2" in words.value and "0.800" in words.value and "7.0 sigma" in words.value
    assert "&lt;b&gt;" in words.value and "<b>" not in words.value
    controls["mistake"].value = 2
    assert "mistake 2 of 2" in words.value and "0.700" in words.value and "sigma" not in words.value
    assert (picture(canvas) != first).any()
    controls["network"].value = "plain"
    assert words.value == "plain makes no mistake"
