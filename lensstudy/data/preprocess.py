"""How an image becomes a network's input: its central pixels, binned and scaled.

`Preprocess` holds the three together. It is fitted on the training images alone, stored in the card of a network, and
shared by training, evaluation and deployment, so that every one of them shows a network the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lensstudy.data.dataset import TINY, DataError, sky_and_noise
from lensstudy.data.rotation import SymmetryError, centre_crop, rotate, working_size

__all__ = ["Preprocess", "as_tensor"]

SCALINGS = ("none", "min-max", "maximum", "asinh", "z-score", "noise")
PEAK_IN_SIGMA = 1e3  # of an image with less noise than that, such as one without any
BINNED_SAMPLE, SAMPLE = 1024, 512  # images, evenly spaced, that a scaling is fitted on


def as_tensor(images: np.ndarray) -> Tensor:
    """Copy images of any real dtype into a float32 tensor."""
    return torch.from_numpy(np.array(images, dtype=np.float32, order="C"))


class Preprocess(nn.Module):
    """Crop, bin and scale images, as one network expects them.

    The scalings are

    - `none`: as it is;
    - `min-max`: each image to 0 ... 1, DeepLense's habit;
    - `maximum`: each image divided by its largest absolute value;
    - `z-score`: `(x - mean) / deviation` over the training images;
    - `asinh`: the same after `x -> asinh((x - sky) / softening)` (Lupton, Gunn and Szalay 1999), linear in the noise
      and logarithmic above it;
    - `noise`: the same after `x -> asinh((x - sky) / noise)` with sky and noise of each image's own border, so that an
      image looks alike in whatever units and with whatever exposure it comes. A peak of more than a thousand sigma
      counts as a thousand.

    Args:
        crop: central pixels along one side that are kept.
        binning: pixels along one side that are averaged into one.
        scaling: one of the names above.
        statistics: what the scaling needs (`mean`, `deviation`, `sky`, `softening`), one number a channel.

    Raises:
        DataError: the scaling is unknown.

    Example:
        >>> images = np.random.default_rng(0).normal(5, 1, (20, 1, 32, 32))
        >>> preprocess = Preprocess.fit(images, scaling="z-score", crop=16)
        >>> preprocess(images, degrees=90).shape
        torch.Size([20, 1, 16, 16])
    """

    def __init__(
        self, crop: int, binning: int = 1, scaling: str = "none", statistics: dict[str, list[float]] | None = None
    ):
        super().__init__()
        if scaling not in SCALINGS:
            raise DataError(f"scaling '{scaling}' is unknown; there are {', '.join(SCALINGS)}")
        self.crop, self.binning, self.scaling, self.statistics = crop, binning, scaling, statistics or {}

    @classmethod
    def fit(cls, images: np.ndarray, scaling: str = "asinh", crop: int = 0, binning: int = 1) -> Preprocess:
        """Choose the crop that keeps symmetry exact, and measure what the scaling needs on training images.

        Args:
            images: `(N, C, H, H)` of any real dtype; at most a thousand, evenly spaced, are read.
            scaling: one of the names of the class's description.
            crop: central pixels to keep at most (0: all); what is kept is the largest size at which pooling keeps the
                symmetry.
            binning: pixels along one side that are averaged into one.

        Returns:
            The `Preprocess` of these images.

        Raises:
            SymmetryError: no size keeps the symmetry.
            DataError: the scaling is unknown, or the pixels are not finite or all the same.
        """
        size = _central_size(images.shape[-1], crop, binning)
        made = cls(size * binning, binning, scaling)
        if scaling in ("asinh", "z-score", "noise"):
            some = as_tensor(images[:: max(len(images) // BINNED_SAMPLE, 1)])
            some = some[:: max(len(some) // SAMPLE, 1)]
            seen = made._binned(_in_units_of_noise(some) if scaling == "noise" else some)
            made.statistics = _measured(scaling, seen.numpy().astype(np.float64), size)
        return made

    @property
    def size(self) -> int:
        """Pixels along one side of what the network sees."""
        return self.crop // self.binning

    def forward(self, images: Tensor | np.ndarray, degrees: float | Tensor = 0.0) -> Tensor:
        """Return images as the network sees them.

        Args:
            images: `(B, C, H, H)`.
            degrees: angle counter-clockwise by which they are rotated before the crop, one or one for each image.

        Returns:
            `(B, C, size, size)`, in float.

        Raises:
            SymmetryError: the images are smaller than the crop, or their centre is not a pixel's of the crop.
        """
        images = as_tensor(images) if isinstance(images, np.ndarray) else images
        if self.scaling == "noise":  # before a rotation, which smooths the noise
            images = _in_units_of_noise(images if images.is_floating_point() else images.float())
        upright = not isinstance(degrees, Tensor) and degrees == 0
        images = centre_crop(images, self.crop) if upright else rotate(images, degrees, size=self.crop)
        return self._scaled(self._binned(images if images.is_floating_point() else images.float()))

    def _binned(self, images: Tensor) -> Tensor:
        return avg_pool2d(images, self.binning) if self.binning > 1 else images

    def _scaled(self, x: Tensor) -> Tensor:
        if self.scaling == "min-max":
            low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
            return (x - low) / (high - low).clamp_min(TINY)
        if self.scaling == "maximum":
            return x / x.abs().amax((1, 2, 3), keepdim=True).clamp_min(TINY)
        if self.scaling == "none":
            return x
        if self.scaling == "asinh":
            x = _asinh((x - self._of("sky", x)) / self._of("softening", x))
        if self.scaling == "noise":
            x = _asinh(x)
        return (x - self._of("mean", x)) / self._of("deviation", x)

    def _of(self, name: str, x: Tensor) -> float | Tensor:
        values = self.statistics[name]
        return values[0] if len(values) == 1 else x.new_tensor(values).view(-1, 1, 1)

    def to_dict(self) -> dict:
        """Return what a card says of it: `crop`, `binning`, `size` and `scaling`."""
        scaling = {"kind": self.scaling, "parameters": self.statistics}
        return {"crop": self.crop, "binning": self.binning, "size": self.size, "scaling": scaling}

    @classmethod
    def from_dict(cls, about: dict) -> Preprocess:
        """Make it again from a card, or from any other dictionary with what `to_dict` gives."""
        scaling = about["scaling"]
        return cls(about["crop"], about["binning"], scaling["kind"], scaling.get("parameters"))

    def extra_repr(self) -> str:
        return f"crop={self.crop}, binning={self.binning}, scaling='{self.scaling}'"


def _central_size(image_size: int, crop: int, binning: int) -> int:
    """Pixels along one side of the central part after binning, such that symmetry is exact."""
    wanted = crop or image_size
    for size in range(min(wanted, image_size) // binning, 7, -1):
        centred = (image_size - size * binning) % 2 == 0
        if centred and working_size(size) == size:
            return size
    raise SymmetryError(
        f"no central part of at most {wanted} of {image_size} pixels, averaged over {binning} x {binning}, keeps exact "
        "symmetry; choose another binning or a larger crop"
    )


def _measured(scaling: str, images: np.ndarray, size: int) -> dict[str, list[float]]:
    """What a scaling needs of binned images `(N, C, H, H)`. Mean and deviation are those of the central `size` pixels,
    which is what the network sees; sky and noise come from the borders."""
    if not np.isfinite(images).all():
        raise DataError("the images hold NaN or infinite pixels, which cannot be scaled; filter them first")
    channels, statistics = np.moveaxis(images, 1, 0), {}
    if scaling == "noise":
        channels = np.arcsinh(channels)
    if scaling == "asinh":
        sky, noise = np.array([sky_and_noise(channel) for channel in channels]).T
        # Noise-free images have no noise to be linear in; a hundredth of the peak then serves.
        softening = np.maximum(noise, 0.01 * (np.median(channels.max((2, 3)), axis=1) - sky))
        statistics = {"sky": sky, "softening": softening}
        per_pixel = (slice(None), None, None, None)
        channels = np.arcsinh((channels - sky[per_pixel]) / np.maximum(softening, TINY)[per_pixel])
    start = (images.shape[-1] - size) // 2
    channels = channels[..., start : start + size, start : start + size]
    statistics |= {"mean": channels.mean((1, 2, 3)), "deviation": channels.std((1, 2, 3))}
    if not all(statistics["deviation"] > 0):
        raise DataError("every pixel of the images has the same value, so there is nothing to scale")
    return {name: [float(number) for number in values] for name, values in statistics.items()}


def _in_units_of_noise(images: Tensor) -> Tensor:
    """Images `(B, C, H, H)` less their sky, each channel in units of its own noise: `dataset.sky_and_noise` of every
    image at once, so that the eight rotations and reflections of the square leave both as they are."""
    width = max(images.shape[-1] // 16, 2)
    edges = [images[..., :width, :], images[..., -width:, :], images[..., :width].mT, images[..., -width:].mT]
    steps = torch.cat([edge.diff(dim=-1).abs() for edge in edges], dim=-2)
    sky, noise = _median(torch.cat(edges, dim=-2)), _median(steps) * (1.4826 / 2**0.5)
    images = images - sky
    return images / torch.maximum(noise, images.amax((2, 3), keepdim=True) / PEAK_IN_SIGMA).clamp_min(TINY)


def _median(x: Tensor) -> Tensor:
    """Median over the pixels of `(B, C, H, W)`, `(B, C, 1, 1)`; torch's own is the lower one of the middle two."""
    ordered = x.flatten(2).sort(dim=2).values
    count = ordered.shape[2]
    return ((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)[..., None, None]


def _asinh(x: Tensor) -> Tensor:
    """asinh in a form three times as fast as torch's where |x| < 1, which in the sky is everywhere, and as accurate."""
    a = x.abs()
    return (a + a * a / (1 + (1 + a * a).sqrt())).log1p().copysign(x)
