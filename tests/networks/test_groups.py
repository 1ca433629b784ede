"""Rotating images, the sizes that keep the symmetry, and e2cnn on today's NumPy and torch."""

import importlib.metadata
import math

import numpy as np
import pytest
import torch
from torch import nn

from lensstudy.networks import groups as symmetry
from lensstudy.networks.groups import (
    SymmetryError,
    centre_crop,
    e2cnn,
    gspace,
    interpolation_floor,
    invariance_curve,
    invariance_error,
    random_rotation,
    rotate,
    working_size,
)


def test_array_without_a_copy():
    phases = e2cnn.kernels.utils.psi(0.3, k=2, gamma=0.1)
    np.testing.assert_allclose(phases[:, :, 0, 0], [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])


BASES = {  # the classes of e2cnn's kernel bases, and what each takes after two irreps
    "D1": ("R2FlipsSolution", {"axis": 0.0, "max_frequency": 2}),
    "C4": ("R2DiscreteRotationsSolution", {"max_frequency": 2}),
    "D4": ("R2FlipsDiscreteRotationsSolution", {"axis": 0.0, "max_frequency": 2}),
    "SO2": ("R2ContinuousRotationsSolution", {}),
    "O2": ("R2FlipsContinuousRotationsSolution", {"axis": 0.0}),
}


@pytest.mark.parametrize("group", BASES)
def test_equal_bases_have_equal_hashes(group):
    kind, options = BASES[group]
    space = gspace(group)
    irreps = list(space.fibergroup.irreps.values())
    build = getattr(e2cnn.kernels.irreps_basis, kind)
    first, second = (build(space.fibergroup, irreps[-1], irreps[-1], **options) for _ in range(2))
    assert hash(first) == hash(second) and first == second
    assert hash(first) != hash(build(space.fibergroup, irreps[0], irreps[-1], **options))


def test_pointwise_convolution_of_a_trivial_field():
    space = gspace("C4")
    fields = e2cnn.nn.FieldType(space, [space.trivial_repr])
    conv = e2cnn.nn.R2Conv(fields, fields, 1, bias=False)
    assert conv.weights.numel() == 1


def test_float_of_numpy_in_the_group_o2():
    group = gspace("O2").fibergroup
    induced = group.induced_representation((None, -1), group.subgroup((None, -1))[0].irrep(1))
    turn = induced((0, 0.4))
    np.testing.assert_allclose(turn @ turn.T, np.eye(len(turn)), atol=1e-10)


def test_another_version_of_e2cnn_is_refused(monkeypatch):
    monkeypatch.setattr(symmetry, "version", lambda _package: "0.3.0")
    with pytest.raises(ImportError, match=r"0\.3\.0.*pip install e2cnn==0\.2\.3"):
        symmetry._adapt_e2cnn()
    assert importlib.metadata.version("e2cnn") == "0.2.3"


def test_unknown_group_is_refused():
    with pytest.raises(SymmetryError, match="'Q8' is unknown"):
        gspace("Q8")


@pytest.fixture
def images():
    return torch.randn(3, 2, 13, 13, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("degrees", [0, 90, 180.0, 270, -90, 450])
@pytest.mark.parametrize("reflect", [False, True])
def test_right_angles_move_pixels_exactly_and_agree_with_interpolation(images, degrees, reflect):
    exact = rotate(images, degrees, reflect)
    assert torch.equal(exact, torch.rot90(images.flip(-1) if reflect else images, int(degrees) // 90, (-2, -1)))
    sampled = rotate(images, torch.full((3,), float(degrees)), torch.full((3,), reflect))
    assert torch.allclose(exact, sampled, atol=2e-5)
    assert torch.allclose(rotate(images, degrees, reflect, 7), sampled[..., 3:10, 3:10], atol=2e-5)


def test_rotating_agrees_with_the_action_of_e2cnn(images):
    space = gspace("D4")
    fields = e2cnn.nn.FieldType(space, [space.trivial_repr] * 2)
    for reflected, quarter in space.testing_elements:
        moved = e2cnn.nn.GeometricTensor(images, fields).transform((reflected, quarter)).tensor
        assert torch.equal(moved, rotate(images, 90 * quarter, bool(reflected)))


def test_any_angle_rotates_counter_clockwise():
    image = torch.zeros(1, 1, 41, 41)
    image[0, 0, 20, 32] = 1.0  # right of the centre
    row, column = divmod(int(rotate(image, 30.0).argmax()), 41)
    assert (row, column) == (14, 30)  # 12 sin 30 up, 12 cos 30 to the right


def test_each_image_has_its_own_angle(images):
    rotated = rotate(images, torch.tensor([0.0, 30.0, -70.0]), torch.tensor([True, False, True]))
    for index, (degrees, reflect) in enumerate([(0.0, True), (30.0, False), (-70.0, True)]):
        one = rotate(images[index : index + 1], torch.tensor([degrees]), reflect)
        assert torch.allclose(rotated[index], one[0], atol=1e-6)


def test_crop_of_a_rotated_image_sees_what_lay_outside():
    image = torch.ones(1, 1, 64, 64)
    assert torch.allclose(rotate(image, 45.0, size=44, padding="zeros"), torch.ones(1, 1, 44, 44))


def test_random_rotations_repeat_with_their_generator_and_differ_between_images(images):
    first = random_rotation(images[:1].expand(4, -1, -1, -1), torch.Generator().manual_seed(3), size=9)
    again = random_rotation(images[:1].expand(4, -1, -1, -1), torch.Generator().manual_seed(3), size=9)
    assert first.shape == (4, 2, 9, 9) and torch.equal(first, again)
    assert not torch.allclose(first[0], first[1])


def test_augmentation_by_right_angles_blurs_nothing_and_mixed_does_half_of_it(images):
    batch = images[:1].expand(400, -1, -1, -1)
    moves = torch.cat([rotate(images[:1], 90 * k, reflect) for k in range(4) for reflect in (False, True)])
    shares = {}
    for angles in ("any", "mixed", "square"):
        rotated = random_rotation(batch, torch.Generator().manual_seed(5), angles=angles)
        apart = (rotated[:, None] - moves[None]).abs().amax((2, 3, 4))
        shares[angles] = float((apart.amin(1) < 1e-4).float().mean())
        counts = torch.bincount(apart.argmin(1), minlength=8)
    assert shares["any"] == 0.0 and abs(shares["mixed"] - 0.5) < 0.1 and shares["square"] == 1.0
    assert counts.min() > 25, "each of the eight as often as the others, 50 times of 400"


def test_rotating_there_and_back_keeps_small_scales():
    """A wave of four pixels keeps nine tenths of its amplitude; bilinear leaves two thirds."""
    noise = torch.randn(20, 1, 65, 65, generator=torch.Generator().manual_seed(2))
    x = torch.arange(65.0)
    wave = torch.cos(2 * math.pi * 0.25 * x).expand(1, 1, 65, 65) + 0.01 * noise
    back = rotate(rotate(wave, 30.0), -30.0)[..., 20:45, 20:45]
    kept = (back * wave[..., 20:45, 20:45]).mean((1, 2, 3)) / wave[..., 20:45, 20:45].square().mean((1, 2, 3))
    assert 0.9 < kept.min() < 1.1


def test_only_square_images_rotate():
    with pytest.raises(SymmetryError, match="8x9"):
        rotate(torch.zeros(1, 1, 8, 9), 90)


@pytest.mark.parametrize("size", [64, 97, 100, 101, 129, 150])
def test_every_common_size_works_as_it_is(size):
    assert working_size(size) == size


def test_working_size_obeys_its_limit_and_keeps_parity():
    assert working_size(150, at_most=97) == 96
    assert working_size(101, at_most=64) == 63
    assert working_size(64, at_most=150) == 64
    with pytest.raises(SymmetryError, match="at least 8"):
        working_size(6)


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_centre_crop_keeps_the_centre(make):
    images = make((2, 1, 9, 9))
    images[..., 4, 4] = 1
    assert centre_crop(images, 5)[0, 0, 2, 2] == 1
    with pytest.raises(SymmetryError, match="use 5 or 7"):
        centre_crop(images, 6)
    with pytest.raises(SymmetryError, match="smaller"):
        centre_crop(images, 11)


class FirstPixels(nn.Module):
    """As far from invariant as can be: the logits are two corner pixels."""

    def forward(self, images):
        return images[:, 0, 0, :2]


class Brightness(nn.Module):
    """Invariant under every rotation of the square."""

    def forward(self, images):
        return images.mean((2, 3))


def test_invariance_error_tells_invariant_from_not(images):
    assert invariance_error(Brightness(), images, 90, reflect=True) < 1e-5
    many = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    assert invariance_error(FirstPixels(), many, 180) == pytest.approx(np.sqrt(2), rel=0.05)  # independent pixels


def test_invariance_curve_and_its_floor(images):
    curve = invariance_curve(Brightness(), images, [0, 45, 90])
    assert curve.shape == (3,) and curve[0] == 0 and curve[1] > 1e-3 and curve[2] < 1e-5
    assert interpolation_floor(Brightness(), images, 45.0) > 1e-3


def test_invariance_needs_images_that_differ():
    with pytest.raises(SymmetryError, match="images that differ"):
        invariance_error(Brightness(), torch.zeros(4, 1, 8, 8))
