"""What rotation does to scores, on networks of which it is known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.evaluation.rotation import ROTATIONS, RightAngles, UnderRotation


@dataclass
class Asking:
    """A network that goes by whether light lies along the rows (`upright`), or along either axis of the square."""

    upright: bool
    classes: tuple = ("sub", "no_sub")  # in another order than the images have them

    def probabilities(self, images):
        y, x = np.mgrid[: images.shape[-1], : images.shape[-1]] - (images.shape[-1] - 1) / 2
        along = (images[:, 0] * (x**2 - y**2)).sum((1, 2))
        sure = 1 / (1 + np.exp(-along / 100 if self.upright else 5 - np.abs(along) / 100))
        return np.stack([sure, 1 - sure], 1)


@pytest.fixture
def aligned(blobs):
    """Round blobs, and long ones along the x axis."""
    y, x = np.mgrid[:16, :16] - 7.5
    noise = np.random.default_rng(1).normal(0, 0.02, blobs.images.shape)
    ratio = np.where(blobs.labels == 1, 3.0, 1.0)[:, None, None]
    images = np.exp(-(x**2 / ratio + y**2 * ratio) / 8)[:, None] + noise
    return replace(blobs, images=images.astype(np.float32))


def test_what_a_network_loses_to_the_orientation_is_told_with_its_interval(aligned):
    found = UnderRotation({"upright": Asking(True), "square": Asking(False)}, aligned)
    auc = found.table.set_index(["network", "perturbation"])["auc"].unstack()
    assert list(found.summary().columns) == ["network", *ROTATIONS, "rotation consistency"]
    assert auc.loc["upright", "unperturbed"] > 0.95 and auc.loc["upright", "rotated by 180°"] > 0.95
    assert auc.loc["upright", "rotated by 90°"] < 0.05 and auc.loc["upright", "rotated by 270°"] < 0.05
    square = auc.loc["square", ["unperturbed", "rotated by 90°", "rotated by 180°", "rotated by 270°"]]
    assert square.min() > 0.95 and np.ptp(square) < 1e-6 and auc.loc["square", "random rotations"] < square.min()
    assert found.consistency["square"] < 1e-4 < 0.3 < found.consistency["upright"]
    lost, kept = found.losses["upright"], found.losses["square"]
    right = [
        (Asking(True).probabilities(images)[:, ::-1].argmax(1) == aligned.labels).mean()
        for images in (aligned.images, np.rot90(aligned.images, 1, (2, 3)))
    ]
    assert lost.value == pytest.approx(right[0] - right[1]) and 0 < lost.low < lost.value < lost.high
    assert kept.value == 0 and kept.low <= 0 <= kept.high
    assert f"{right[0]:.3f} right upright and {right[1]:.3f} after" in found.answer
    wrong, after = (f"{100 * (1 - one):.0f}" for one in right)
    assert f"upright is wrong {after} times in 100 instead of {wrong}; square " in found.plain
    assert found.plain.endswith(", rotated or not.")


def test_what_is_known_of_upright_lenses_is_not_asked_again(aligned):
    """With probabilities of nobody, the upright score is theirs and the rotated ones are the network's."""
    nobody = np.tile([0.0, 1.0], (len(aligned), 1))
    own = UnderRotation({"upright": Asking(True)}, aligned).table.set_index("perturbation")["accuracy"]
    given = UnderRotation({"upright": Asking(True)}, aligned, upright={"upright": nobody}).table
    found = given.set_index("perturbation")["accuracy"]
    assert list(found.index) == list(ROTATIONS) and found["unperturbed"] == (aligned.labels == 1).mean()
    assert found.drop("unperturbed").equals(own.drop("unperturbed"))


def test_a_network_of_other_classes_is_rejected(aligned):
    with pytest.raises(DataError, match="theirs: tells cdm, axion apart, and the lenses are of no_sub, sub"):
        UnderRotation({"theirs": Asking(True, classes=("cdm", "axion"))}, aligned)


def test_the_answer_of_one_lens_is_the_largest_change_over_right_angles():
    class Turning:
        """Its probability is 0.5, and 0.9 or 0.2 at one right angle."""

        def __init__(self, at_90: float):
            self.at_90 = at_90

        def probabilities(self, images, degrees):
            assert images.shape == (1, 1, 8, 8) and degrees in (0, 90, 180, 270)
            first = self.at_90 if degrees == 90 else 0.5
            return np.array([[first, 1 - first]])

    found = RightAngles(np.zeros((1, 8, 8)), {"fixed": Turning(0.5), "plain": Turning(0.9)})
    assert found.changes == pytest.approx({"fixed": 0.0, "plain": 0.4})
    assert found.answer.endswith("changes by 0.00 with fixed and by 0.40 with plain.")
