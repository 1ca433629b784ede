"""The smooth lens that fits an image best, for many images at once: what no training is needed for.

An isothermal ellipsoid with shear and a Sersic source (and lens light, where the preset has it) is fitted to each image
by Levenberg and Marquardt's method, from starts that are read off the image itself. Chi square of the best one says how
much of the image a lens without substructure cannot explain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lensstudy.lensing.detectability import pixel_slopes
from lensstudy.lensing.instruments import Instrument, noise_variance
from lensstudy.lensing.populations import COLUMNS, LENS_LIGHT, MACRO, SOURCE, preset_named
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.rendering import (
    View,
    at_centers,
    batch_size,
    counts,
    instrument_named,
    over_pixels,
    source_positions,
    view_of,
)

__all__ = ["smooth_fit", "smooth_residuals"]

LIMITS = {  # of what is fitted: angles in arcseconds, sizes and brightness by their logarithms
    "einstein_radius": (0.2, 5.0),
    "lens_e1": (-0.5, 0.5),
    "lens_e2": (-0.5, 0.5),
    "lens_x": (-0.2, 0.2),
    "lens_y": (-0.2, 0.2),
    "shear_1": (-0.4, 0.4),
    "shear_2": (-0.4, 0.4),
    "amplitude": (-40.0, 40.0),
    "radius": (math.log(0.02), math.log(3.0)),
    "index": (math.log(0.3), math.log(8.0)),
    "e1": (-0.6, 0.6),
    "e2": (-0.6, 0.6),
    "x": (-2.0, 2.0),
    "y": (-2.0, 2.0),
    "sky": (-1e6, 1e6),
}
LOGARITHMS = ("amplitude", "radius", "index")
RADII = (0.75, 0.85, 0.95, 1.05, 1.15)  # of the starts' Einstein rings, in mean radii of the light
SHEARS = (0.0, 0.1, 0.2)
STARTS = 4  # that are followed for each image
NOISE_FREE = 0.01  # sigma of images without noise, in units of their peak


@dataclass
class Task:
    """Images `(B, H, W)` to be fitted, less their sky, and what is known of them.

    Of each `(B, 1, 1)` the variance of the background and that of photon noise a unit of light; and the camera, what is
    fitted, and the `error` in sigma that a pixel may have.
    """

    images: Tensor
    background: Tensor
    photons: Tensor
    view: View
    names: tuple[str, ...]
    lens_light: bool
    error: float

    def of(self, which: Tensor) -> Task:
        """The task for some of the images."""
        return replace(self, images=self.images[which], background=self.background[which], photons=self.photons[which])

    def variance(self, expected: Tensor, values: Tensor | None = None) -> Tensor:
        """Variance `(B, H, W)` of the noise of expected images; the sky of `values` is no light of theirs."""
        light = expected if values is None else expected - values[:, -1, None, None].float()
        return self.background + self.photons * light.clamp(min=0)

    def model(self, values: Tensor, rays: bool) -> tuple[Tensor, Tensor]:
        """Expected images `(B, H, W)` of `values` `(B, parameters)` and their derivatives `(B, parameters, H, W)`; with
        `rays` pixels have as many of them as their noise asks for."""
        p = self.parameters(values)
        light, divided = at_centers(p, self.view, "none", self.lens_light), None
        if rays and math.isfinite(self.error):
            tolerance = self.error * self.variance(self.images).sqrt() / self.view.pixel_area
            light, cells = over_pixels(light, p, self.view, "none", self.lens_light, tolerance)
            divided = cells.divided
        slopes = pixel_slopes(p, self.view, self.lens_light, divided)
        slopes = torch.stack([counts(slope, p, self.view) for slope in slopes], dim=1)
        expected = counts(light, p, self.view)
        expected = expected + values[:, -1, None, None].float()
        slopes = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1)
        scale = torch.stack([p[n][:, 0, 0] if logarithmic(n) else torch.ones(len(values)) for n in self.names], dim=1)
        return expected, slopes * scale[..., None, None]

    def parameters(self, values: Tensor) -> dict[str, Tensor]:
        """The columns of the catalogue, `(B, 1, 1)` each."""
        p = {name: torch.zeros(len(values), 1, 1) for name in (*COLUMNS, "sky")}
        p["exposure_time"] = torch.ones(len(values), 1, 1)
        for name, value in zip(self.names, values.float().T, strict=True):
            p[name] = (value.exp() if logarithmic(name) else value)[:, None, None]
        return p


def logarithmic(name: str) -> bool:
    """Whether a parameter is fitted by its logarithm."""
    return name not in MACRO and name.endswith(LOGARITHMS)


def smooth_fit(
    images: np.ndarray,
    noise_rms: np.ndarray,
    preset: str = "realistic",
    *,
    instrument: str | Instrument | None = None,
    exposure_time: np.ndarray | float | None = None,
    noise_level: float | None = None,
    lens_light: bool = False,
) -> pd.DataFrame:
    """Fit a lens without substructure to each image.

    Nothing of the images' truth is used: only what an observer knows of the camera, its noise and its exposures.

    Args:
        images: images `(N, 1, H, W)` or `(N, H, W)` in the units of the preset.
        noise_rms: noise of the background of each image `(N,)`, in the images' units; where it is zero, one per cent of
            the image's peak takes its place.
        preset: the preset whose instrument and conventions hold.
        instrument: an instrument, or the name of one, in place of the preset's own.
        exposure_time: exposure time of each image in seconds, which sets the photon noise.
        noise_level: the Gaussian noise, in units of each image's peak, that the images have in place of photon noise.
        lens_light: whether the lens shines.

    Returns:
        One row an image: `chi_square`, a mean over its pixels, `converged`, the parameters of the lens, angles in
        arcseconds and brightness in the images' units, and the `sky` of a pixel. Where noise was clipped at zero, as in
        model 1, chi square of smooth lenses is below 1.

    Raises:
        LensingError: for images of another shape, or an unknown preset or instrument.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 2, seed=1, image_size=32, classes=["no_sub", "cdm"])
        >>> fits = smooth_fit(lenses.images, lenses.catalogue["noise_rms"], "model_3")
        >>> bool(fits["chi_square"][:2].max() < fits["chi_square"][2:].min())
        True
    """
    options = (preset, instrument, exposure_time, noise_level, lens_light)
    return _fitted(images, noise_rms, *options)[0]


def smooth_residuals(
    images: np.ndarray,
    noise_rms: np.ndarray,
    preset: str = "realistic",
    *,
    instrument: str | Instrument | None = None,
    exposure_time: np.ndarray | float | None = None,
    noise_level: float | None = None,
    lens_light: bool = False,
) -> np.ndarray:
    """What the smooth lens that fits an image best leaves of it, in sigma.

    Args:
        images: images `(N, 1, H, W)` or `(N, H, W)` in the units of the preset.
        noise_rms: noise of the background of each image `(N,)`; all arguments are those of `smooth_fit`.
        preset: the preset whose instrument and conventions hold.
        instrument: an instrument, or the name of one.
        exposure_time: exposure time of each image in seconds.
        noise_level: the Gaussian noise in place of photon noise.
        lens_light: whether the lens shines.

    Returns:
        (image - fit) / sigma of every pixel, `(N, H, W)`, float32: white noise where the lens is smooth.

    Raises:
        LensingError: as `smooth_fit`.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32, classes=["no_sub", "cdm"])
        >>> left = smooth_residuals(lenses.images, lenses.catalogue["noise_rms"], "model_3")
        >>> left.shape, bool(left[0].std() < left[1].std())
        ((2, 32, 32), True)
    """
    options = (preset, instrument, exposure_time, noise_level, lens_light)
    return _fitted(images, noise_rms, *options)[1]


def _fitted(
    images, noise_rms, preset, instrument, exposure_time, noise_level, lens_light
) -> tuple[pd.DataFrame, np.ndarray]:
    """The table of `smooth_fit`, and the residuals."""
    chosen = preset_named(preset)
    telescope = instrument_named(instrument, chosen)
    pixels = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    pixels = pixels[:, 0] if pixels.ndim == 4 and pixels.shape[1] == 1 else pixels
    if pixels.ndim != 3 or pixels.shape[1] != pixels.shape[2]:
        raise LensingError(f"images of shape {np.shape(images)}; expected (N, 1, size, size), one channel")
    peak = pixels.amax((1, 2))
    rms = torch.as_tensor(np.asarray(noise_rms, dtype=np.float32))
    if rms.shape != peak.shape:
        raise LensingError(f"{rms.numel()} values of noise_rms for {len(peak)} images; give one an image")
    photons = torch.zeros_like(rms)
    if not noise_level and telescope.photon_noise:
        times = np.broadcast_to(telescope.exposure_time if exposure_time is None else exposure_time, rms.shape)
        dark = noise_variance(np.zeros((len(rms), 1, pixels.shape[-1])), telescope, times[:, None, None])[:, 0, 0]
        photons = telescope.photon_noise * rms / torch.as_tensor(np.sqrt(dark), dtype=torch.float32)
    rms = torch.where(rms > 0, rms, NOISE_FREE * peak)
    names = (*MACRO, *SOURCE, *(LENS_LIGHT if lens_light else ()), "sky")
    border = torch.cat([pixels[:, (0, -1)].flatten(1), pixels[:, :, (0, -1)].flatten(1)], dim=1)
    sky = border.median(1).values
    pixels = pixels - sky[:, None, None]
    view = view_of(telescope, pixels.shape[-1], torch.float32)
    task = Task(
        pixels, rms[:, None, None] ** 2, photons[:, None, None], view, names, lens_light, chosen.integration_error
    )
    with torch.inference_mode():
        batches = torch.arange(len(pixels)).split(batch_size(pixels.shape[-1]))
        fits, residuals = zip(*(fit_batch(task.of(batch)) for batch in batches), strict=True)
    table = pd.concat(fits, ignore_index=True)
    return table.assign(sky=table["sky"] + sky.numpy()), np.concatenate(residuals)


def fit_batch(task: Task) -> tuple[pd.DataFrame, np.ndarray]:
    """The best fit of each image of a batch, and what it leaves of the pixels, in sigma."""
    starts = starts_of(task)
    images = len(task.images)
    followed = torch.arange(images).repeat_interleave(starts.shape[1])
    values, chi, _, _ = adjusted(task.of(followed), starts.flatten(0, 1), 25, rays=False)
    best = chi.view(images, -1).argmin(1)
    values = values.view(*starts.shape)[torch.arange(images), best]
    values, chi, converged, residuals = adjusted(task, values, 30, rays=True)
    table = {"chi_square": chi / task.images[0].numel(), "converged": converged}
    for name, value in zip(task.names, values.T, strict=True):
        table[name] = value.exp() if logarithmic(name) else value
    return pd.DataFrame({name: np.asarray(value) for name, value in table.items()}), residuals.numpy()


def starts_of(task: Task) -> Tensor:
    """The likeliest `(B, STARTS, parameters)` of many lenses, each with the source that its rays make of the image.

    Surface brightness stays as it is on its way: the light of the image, traced back to the source plane, has the
    source's place and size where the lens is the right one.
    """
    view, size = task.view, task.images.shape[-1]
    weight = task.images
    radius = torch.hypot(view.x, view.y).expand(size, size)
    if task.lens_light:
        weight = weight * (radius > 0.5)
    floor = torch.maximum(4 * task.variance(weight).sqrt(), 0.1 * weight.amax((1, 2), keepdim=True))
    weight = torch.where(weight > floor, weight, 0.0)
    weight = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-30)
    mean_radius = (weight * radius).sum((1, 2)).clamp(min=0.3)
    shears = [(g * math.cos(a), g * math.sin(a)) for g in SHEARS for a in np.arange(8) * math.pi / 4 if g or not a]
    found = []
    for factor in RADII:
        for shear_1, shear_2 in shears:
            values = dict.fromkeys(task.names, torch.zeros(len(weight)))
            values |= {"einstein_radius": factor * mean_radius}
            values |= {
                "shear_1": torch.full_like(mean_radius, shear_1),
                "shear_2": torch.full_like(mean_radius, shear_2),
            }
            values |= {name: torch.zeros(len(weight)) for name in task.names if logarithmic(name)}
            p = task.parameters(torch.stack([values[name] for name in task.names], dim=1))
            beta = source_positions(p, view, "none")
            x, y = ((weight * axis).sum((1, 2)) for axis in beta)
            spread = [
                (weight * (axis - mean[:, None, None]) ** 2).sum((1, 2))
                for axis, mean in zip(beta, (x, y), strict=True)
            ]
            values |= {"source_x": x, "source_y": y}
            values["source_radius"] = torch.sqrt((spread[0] + spread[1]) / 2).clamp(0.03, 2.0).log()
            if task.lens_light:
                values |= {
                    "lens_light_radius": torch.full_like(x, math.log(0.8)),
                    "lens_light_index": torch.full_like(x, math.log(3.0)),
                }
            found.append(with_brightness(task, values))
    chi = torch.stack([one for _, one in found], dim=1)
    order = chi.argsort(dim=1, stable=True)[:, :STARTS]
    values = torch.stack([one for one, _ in found], dim=1)
    return values.gather(1, order[..., None].expand(-1, -1, values.shape[2]))


def with_brightness(task: Task, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The start `(B, parameters)` with the amplitude that fits best, and its chi square `(B,)`."""
    p = task.parameters(torch.stack([values[name] for name in task.names], dim=1))
    data, weight = task.images, 1 / task.variance(task.images)
    parts = [at_centers(p, task.view, "none")]
    if task.lens_light:
        parts.append(at_centers(p, task.view, "none", True) - parts[0])
    parts = torch.stack([counts(part, p, task.view) for part in parts], dim=1)
    normal = torch.einsum("nahw,nbhw,nhw->nab", parts, parts, weight).double()
    slope = torch.einsum("nahw,nhw,nhw->na", parts, data, weight).double()
    normal = normal + 1e-9 * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-30 * torch.eye(normal.shape[1])
    share = torch.linalg.solve(normal, slope).clamp(min=1e-6 * slope.abs().amax() / normal.abs().amax()).float()
    chi = (weight * (data - torch.einsum("nahw,na->nhw", parts, share)) ** 2).sum((1, 2))
    values = values | {"source_amplitude": share[:, 0].log()}
    if task.lens_light:
        values["lens_light_amplitude"] = share[:, 1].log()
    return torch.stack([values[name] for name in task.names], dim=1).double(), chi


def adjusted(task: Task, values: Tensor, steps: int, rays: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values near the given ones `(B, parameters)` that fit best, their chi square `(B,)`, whether that had stopped
    to fall, and the residuals in sigma `(B, H, W)`, after at most so many steps of Levenberg and Marquardt's method."""
    low, high = torch.tensor([limits_of(name) for name in task.names], dtype=torch.float64).T
    values = values.clamp(low, high)
    damping = torch.full((len(values),), 1e-2, dtype=torch.float64)
    expected, slopes = task.model(values, rays)
    open_ = torch.arange(len(values))
    converged = torch.zeros(len(values), dtype=torch.bool)
    for _ in range(steps):
        part = task.of(open_)
        weight = 1 / part.variance(expected[open_], values[open_])
        left = part.images - expected[open_]
        before = (weight * left**2).sum((1, 2)).double()
        scaled = (slopes[open_] * weight.sqrt()[:, None]).flatten(2)
        normal = (scaled @ scaled.transpose(1, 2)).double()
        slope = (scaled @ (left * weight.sqrt()).flatten(1)[..., None]).double()
        size = normal.diagonal(dim1=1, dim2=2)
        size = size + 1e-12 * size.amax(1, keepdim=True) + 1e-30
        step = torch.linalg.solve(normal + torch.diag_embed(damping[open_, None] * size), slope)[..., 0]
        trial = (values[open_] + step.nan_to_num()).clamp(low, high)
        new, new_slopes = part.model(trial, rays)
        after = (weight * (part.images - new) ** 2).sum((1, 2)).double()
        better = after < before
        gain = (before - after) / before
        damping[open_] = torch.where(better, damping[open_] * 0.2, damping[open_] * 8).clamp(1e-9, 1e9)
        taken = open_[better]
        values[taken], expected[taken], slopes[taken] = trial[better], new[better], new_slopes[better]
        done = (better & (gain < 1e-4)) | (damping[open_] >= 1e6)
        converged[open_[done]] = True
        open_ = open_[~done]
        if not len(open_):
            break
    residuals = (task.images - expected) / task.variance(expected, values).sqrt()
    return values, (residuals**2).sum((1, 2)).nan_to_num(torch.inf), converged, residuals.nan_to_num()


def limits_of(name: str) -> tuple[float, float]:
    """The least and the largest value of a parameter that is fitted."""
    return LIMITS[name if name in LIMITS else name.removeprefix("source_").removeprefix("lens_light_")]
