"""The picture for the README: one lens as it is rotated, and the learning curves of a summary."""

import numpy as np
import pytest

from lensstudy.figures import front
from lensstudy.figures.style import png, shows_images
from lensstudy.study import Study
from tests.conftest import make_blobs


class Sees:
    """A network whose probability of class 0 moves by `most` over the rotations of image 0, and less for every next."""

    def __init__(self, most: float):
        self.most = most

    def predict(self, images, degrees=0.0):
        share = self.most * images[:, 0, 0, 0] * np.sin(np.radians(degrees / 2))
        return np.stack([0.9 - share, 0.1 + share], 1)


CURVES = [
    {"network": name, "images": images, "score": score, "low": score - 0.02, "high": score + 0.02}
    for name, images, score in (("d4-steerable-cnn", 240, 0.9), ("d4-steerable-cnn", 960, 0.95), ("resnet18", 240, 0.8))
]


def test_the_lens_is_in_the_middle_for_both_networks():
    """Image 2 is the median of the first network, and at the edge for the second."""
    moves = np.array([[0.1, 0.9, 0.3, 0.2, 0.4], [0.8, 0.5, 0.9, 0.6, 0.7]])
    assert front.typical(moves[:1]) == 2 and front.typical(moves[1:]) == 4 and front.typical(moves) == 4
    assert front.typical(np.array([[0.0, 0.1, 0.2], [0.5, 0.3, 0.4]])) in (1, 2)


def test_what_is_drawn_is_the_median_of_what_is_drawn():
    """At the angles of the curve: a network that moves between the angles of a coarser grid has its true median."""

    class Narrow(Sees):
        def predict(self, images, degrees=0.0):
            return super().predict(images, 180.0 if degrees == 185.0 else 0.0)

    test = make_blobs().part("test")
    test.images[:, 0, 0, 0] = np.linspace(0, 1, len(test))[::-1]
    figure = front.front(test, {"d4-steerable-cnn": Sees(0.2), "resnet18": Narrow(0.5)}, CURVES, seed=1)
    for line, most in zip(figure.subfigs[0].axes[-1].lines, (0.2, 0.5), strict=True):
        assert np.ptp(line.get_ydata()) == pytest.approx(most / 2, abs=most / len(test))
    assert "for resnet18 (median 0.25)" in figure.caption and "seed 1" in figure.caption


def test_the_picture_says_how_far_each_prediction_moves():
    test = make_blobs().part("test")
    test.images[:, 0, 0, 0] = 1.0
    figure = front.front(test, {"d4-steerable-cnn": Sees(0.0), "resnet18": Sees(0.5)}, CURVES, seed=7)
    assert "by 0.00 for d4-steerable-cnn (median 0.00) and by 0.50 for resnet18 (median 0.50)" in figure.caption
    assert "trained with seed 7" in figure.caption
    assert "d4-steerable-cnn 0.950 with 960 images; resnet18 0.800 with 240 images" in figure.alt
    assert shows_images(figure), "a page that may not show images of its data has no such picture"
    curve = figure.subfigs[1].axes[0]
    drawn = {line.get_label(): line for line in curve.containers}
    np.testing.assert_allclose(drawn["d4-steerable-cnn"].lines[0].get_ydata(), [0.1, 0.05])
    assert b"Description" in png(figure)


@pytest.mark.parametrize("summary", [{}, {"pairs": [], "curves": CURVES}, {"pairs": [{"first": "a", "second": "b"}]}])
def test_a_study_that_compares_nothing_has_no_picture(summary):
    assert front.of_study(Study(), summary) is None


def test_a_study_whose_files_are_gone_has_no_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    summary = {"pairs": [{"first": "d4-steerable-cnn", "second": "resnet18"}], "curves": CURVES}
    assert front.of_study(Study(), summary) is None
