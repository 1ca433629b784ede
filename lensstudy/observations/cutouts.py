"""Real telescope cutouts: one lens in one band, and the way from it to a network's input.

`network_input` brings an image to the pixels, the field of view and the brightness of a trained network's images.

Arrays are as in FITS: row 0 is at the bottom, x runs to the right and y upwards, in arcseconds from the middle of the
image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from lensstudy.data.dataset import DataError
from lensstudy.data.resampling import resample, shares
from lensstudy.lensing.cosmology import LENS_REDSHIFT, SOURCE_REDSHIFT
from lensstudy.networks.groups import centre_crop

__all__ = ["Observation", "cropped", "filled", "network_input", "psf_fwhm", "redshifts_of"]


@dataclass(frozen=True)
class Observation:
    """One lens in one band.

    `image` and its standard deviation `noise` are `(H, H)`, `mask` is True where a pixel is not to be used, `psf` is
    normalised, with an odd number of pixels a side, or None where unknown. `about` holds what stood beside the
    data (redshifts, published models), `notes` what had to be assumed. `correlation` is how many pixels share their
    noise: in a drizzled image fewer are independent than there are.
    """

    name: str
    band: str
    image: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    psf: np.ndarray | None
    pixel_scale: float  # arcsec
    about: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    correlation: float = 1.0

    @property
    def field_of_view(self) -> float:
        """Side of the image in arcseconds."""
        return len(self.image) * self.pixel_scale

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Pixel centres x `(1, W)` and y `(H, 1)` in arcseconds."""
        centers = (np.arange(len(self.image)) - (len(self.image) - 1) / 2) * self.pixel_scale
        return centers[None, :], centers[:, None]

    def __str__(self) -> str:
        return f"{self.name} {self.band}".strip()


def psf_fwhm(observation: Observation) -> float:
    """Full width at half maximum of the PSF in arcseconds, that of a Gaussian with as many pixels above half its peak;
    a pixel where the PSF is unknown."""
    if observation.psf is None:
        return observation.pixel_scale
    above = (observation.psf > observation.psf.max() / 2).sum()
    return 2 * math.sqrt(above / math.pi) * observation.pixel_scale


def cropped(observation: Observation, side: float) -> Observation:
    """The central `side` arcseconds, or all where the image is smaller."""
    size = len(observation.image)
    wanted = min(size, math.ceil(side / observation.pixel_scale))
    wanted += (size - wanted) % 2
    parts = {name: centre_crop(getattr(observation, name), wanted) for name in ("image", "noise", "mask")}
    return replace(observation, **parts)


def redshifts_of(observation: Observation) -> tuple[tuple[float, float], bool]:
    """Redshifts of lens and source, and whether they are known: those of the simulations where one of them is not said.

    Raises `DataError` where one is not positive or the source does not lie behind the lens: no light would be bent.
    """
    about = observation.about
    named = {which: about.get(f"redshift_{which}") for which in ("lens", "source")}
    named = {which: value for which, value in named.items() if value is not None}
    try:
        given = {which: float(value) for which, value in named.items()}
    except (TypeError, ValueError):
        raise DataError(f"{observation}: redshifts {named}; expected numbers, or none at all") from None
    if wrong := [f"redshift_{which} = {value:g}" for which, value in given.items() if not 0 < value < math.inf]:
        raise DataError(f"{observation}: {wrong[0]}; expected more than 0. Mend info.json, or take it out of it")
    if len(given) < 2:
        return (LENS_REDSHIFT, SOURCE_REDSHIFT), False
    if not given["lens"] < given["source"]:
        raise DataError(
            f"{observation}: redshift_source = {given['source']:g} is not behind redshift_lens = {given['lens']:g}; "
            "are the two exchanged in info.json?"
        )
    return (given["lens"], given["source"]), True


def filled(observation: Observation, generator: np.random.Generator) -> np.ndarray:
    """The image `(H, H)` with its masked pixels replaced by empty sky and a draw of noise."""
    return np.where(observation.mask, generator.normal(0, observation.noise), observation.image)


def network_input(
    image: np.ndarray,
    observation: Observation,
    card: dict,
    *,
    noise: float,
    generator: np.random.Generator,
    center: tuple[float, float] = (0.0, 0.0),
    pixel_scale: float | None = None,
) -> np.ndarray:
    """`image` `(H, H)` of an observation as the images `(1, C, S, S)` that the network of this `card` was trained on.

    The field of view and the pixels are those of the card's data; cropping, binning and scaling happen in
    `TrainedNetwork.predict`. Brightness is scaled so that the sky's noise is `noise`, that of the training images: then
    what the network finds faint is faint. Where the cutout ends before the field of view does, there is empty sky with
    its noise. `pixel_scale` is for a network whose card does not say it. Raises `DataError` where the pixel scale is
    unknown or the cutout covers less than three quarters of the field of view.
    """
    size, scale = card["image_size"], pixel_scale or card["data"].get("pixel_scale")
    if not scale:
        raise DataError(
            f"the card of {card['network']} does not say the pixel scale of its training images (files did not "
            "say it, or presets differ in it), so no real image can be brought to it; say network_input(..., "
            "pixel_scale=0.05)"
        )
    if observation.field_of_view < 0.75 * size * scale:
        raise DataError(
            f"{observation}: {observation.field_of_view:.2f} arcsec wide, but {card['network']} needs "
            f"{size * scale:.2f}; use a larger cutout"
        )
    image = resample(image, observation.pixel_scale, size, scale, center)
    rows = shares(len(observation.noise), observation.pixel_scale, size, scale, center[1]) ** 2
    columns = shares(len(observation.noise), observation.pixel_scale, size, scale, center[0]) ** 2
    sky = float(np.quantile(observation.noise, 0.1))
    variance = rows @ np.full_like(observation.noise, sky**2) @ columns.T
    typical = math.sqrt(np.median(variance))
    beyond = np.sqrt(np.clip(typical**2 - variance, 0, None)) * (variance < 0.5 * typical**2)
    image = (image + generator.normal(0, 1, image.shape) * beyond) * (noise / typical)
    return np.repeat(image[None, None], card["in_channels"], axis=1).astype(np.float32)
