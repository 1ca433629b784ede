"""The groups that rotate and reflect images, and how far a network is from being invariant under them.

A lens rotated by 90 degrees is the same lens. Here is what follows from that: the groups C_N, D_N, SO(2) and
O(2) of e2cnn (`gspace`), and how far a network is from being invariant (`invariance_error`). Rotating the images
themselves (`rotate`, `random_rotation`) and the sizes that keep the symmetry exactly (`working_size`, `centre_crop`)
come from `data.rotation`. It is also the one place that adapts e2cnn 0.2.3 to today's NumPy and torch: import e2cnn
from here, or after this module.
"""

from __future__ import annotations

import math
import re
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

from lensstudy.data.rotation import SymmetryError, centre_crop, random_rotation, rotate, working_size

__all__ = [
    "SymmetryError",
    "centre_crop",
    "e2cnn",
    "gspace",
    "interpolation_floor",
    "invariance_curve",
    "invariance_error",
    "random_rotation",
    "rotate",
    "working_size",
]


class _Changed:
    """A module as e2cnn expects to find it: the names in `changes` differ, all others are the module's own."""

    def __init__(self, module, **changes):
        self.__dict__.update(changes, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def _array(values, *args, copy=True, **options):
    """`np.array` in which `copy=False` still means 'copy only if you must', as it did before NumPy 2."""
    return np.array(values, *args, copy=copy or None, **options)


def _hash_of_basis(basis) -> int:
    parts = (basis.in_irrep, basis.out_irrep, np.asarray(basis.mu).tobytes(), np.asarray(basis.gamma).tobytes())
    return sum(map(hash, parts))


def _adapt_e2cnn():
    """e2cnn 0.2.3, no longer developed, made to run on NumPy 2 and torch 2.13. Its four breakages:

    `np.array(copy=False)` and `np.float` are gone from NumPy 2, `ndarray.tostring` from NumPy 2.3, and torch no longer
    takes a uint8 tensor as a mask. Each is mended in the module that has it, for this process only.
    """
    if version("e2cnn") != "0.2.3":
        raise ImportError(
            f"e2cnn {version('e2cnn')} is installed, but lensstudy adapts exactly version 0.2.3 to today's NumPy and "
            "torch: pip install e2cnn==0.2.3"
        )
    import e2cnn
    import e2cnn.nn
    from e2cnn.group.groups import o2group
    from e2cnn.kernels import irreps_basis, utils
    from e2cnn.nn.modules.r2_conv import basisexpansion_singleblock as block

    utils.np = _Changed(np, array=_array)
    o2group.np = _Changed(np, float=float)
    block.np, block.torch = _Changed(np, uint8=bool), _Changed(torch, uint8=torch.bool)
    for basis in vars(irreps_basis).values():
        if isinstance(basis, type) and "__hash__" in vars(basis) and hasattr(basis, "sample"):
            basis.__hash__ = _hash_of_basis
    return e2cnn


e2cnn = _adapt_e2cnn()


def gspace(group: str, maximum_frequency: int = 3):
    """The e2cnn space of the plane under `group`: 'C4', 'D8', 'SO2', 'O2' and so on, in any case.

    C_N are rotations by 360/N degrees, D_N the same with reflections (2N elements), SO(2) and O(2) all of them, whose
    irreducible representations are built up to `maximum_frequency`. Raises `SymmetryError` for any other name.
    """
    match = re.fullmatch(r"(SO2|O2|[CD][1-9]\d*)", group.upper())
    if match is None:
        raise SymmetryError(f"group '{group}' is unknown; expected C1, C4, C8, ..., D1, D4, D8, ..., SO2 or O2")
    name, on_plane = match.group(), e2cnn.gspaces
    if name in ("SO2", "O2"):
        space = on_plane.Rot2dOnR2 if name == "SO2" else on_plane.FlipRot2dOnR2
        return space(N=-1, maximum_frequency=maximum_frequency)
    order = int(name[1:])
    if order == 1:
        return on_plane.TrivialOnR2() if name[0] == "C" else on_plane.Flip2dOnR2()
    return (on_plane.Rot2dOnR2 if name[0] == "C" else on_plane.FlipRot2dOnR2)(N=order)


# How invariant a network is -------------------------------------------------------------------------------------------


@torch.no_grad()
def invariance_error(network: nn.Module, images: Tensor, degrees: float = 90.0, reflect: bool = False) -> float:
    """Measure how much the logits change when the images are rotated or reflected.

    The root mean square of `logits(rotated) - logits` over the root mean square of `logits - mean over images`: 0 is
    invariant, 1 means that a rotation changes the answer as much as taking another image does. The network is judged in
    evaluation mode.

    Args:
        network: a module that maps images to logits `(B, n_classes)`.
        images: `(B, C, H, H)`; larger than `network.image_size` they are rotated first and cropped then.
        degrees: angle of the rotation, counter-clockwise.
        reflect: reflect the images first.

    Returns:
        The relative error.

    Example:
        >>> import torch
        >>> from lensstudy import build_network
        >>> images = torch.randn(8, 1, 33, 33, generator=torch.Generator().manual_seed(1))
        >>> invariance_error(build_network("d4-steerable-cnn", 33, 3, width=0.25), images) < 1e-4
        True
    """
    return _relative_change(network, images, lambda size: rotate(images, degrees, reflect, size))


@torch.no_grad()
def interpolation_floor(network: nn.Module, images: Tensor, degrees: float) -> float:
    """The part of `invariance_error` that interpolation alone causes: images rotated by `degrees` and back again."""
    return _relative_change(network, images, lambda size: rotate(rotate(images, degrees), -degrees, False, size))


def invariance_curve(network: nn.Module, images: Tensor, degrees) -> np.ndarray:
    """`invariance_error` at each of `degrees`, as an array of the same length."""
    return np.array([invariance_error(network, images, float(angle)) for angle in degrees])


def _relative_change(network: nn.Module, images: Tensor, rotated) -> float:
    size = getattr(network, "image_size", images.shape[-1])
    training = network.training
    network.eval()
    upright, other = network(centre_crop(images, size)).double(), network(rotated(size)).double()
    network.train(training)
    spread = (upright - upright.mean(0)).square().mean()
    if spread == 0:
        raise SymmetryError(f"the network gives all {len(images)} images the same logits; use images that differ")
    return math.sqrt((other - upright).square().mean() / spread)
