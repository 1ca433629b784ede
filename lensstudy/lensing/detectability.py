"""How much of the substructure the noise leaves: in sigma, alone and after the smooth lens has been re-fitted to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lensstudy.lensing.instruments import Instrument, noise_variance
from lensstudy.lensing.integration import Cells
from lensstudy.lensing.populations import LENS_LIGHT, LISTS, MACRO, SOURCE, Preset
from lensstudy.lensing.rendering import (
    View,
    along_rays,
    at_centers,
    counts,
    kind_of,
    lens_brightness,
    over_pixels,
    source_brightness,
    source_positions,
    tensors,
    tolerance_of,
    view_of,
)

__all__ = ["detectability", "pixel_slopes", "smooth_derivatives"]

STEP = 1e-3  # of a derivative, in the parameter's own unit or as a share of it, whichever is more


def detectability(
    rows: Sequence[dict],
    expected: np.ndarray,
    cells: Cells | None,
    preset: Preset,
    instrument: Instrument,
    noise_level: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """How many sigma the substructure makes in each image `(N, H, W)` of expected counts, alone and after re-fitting.

    Alone: chi of the image against its smooth counterpart at its own noise. After re-fitting: what is left of it when
    the macromodel, the source and the lens light have been adjusted to first order, `min_t |(delta - J t)/sigma|` with
    J the derivatives of the smooth image by every macro and source parameter. Both are infinite without noise. The
    smooth counterpart has the rays of the `cells` of the image, so that no error of them is taken for substructure.
    """
    if kind_of(rows, preset) == "none":
        return np.zeros(len(rows)), np.zeros(len(rows))
    times = np.array([row["exposure_time"] for row in rows])[:, None, None]
    sigma = np.sqrt(noise_variance(expected, instrument, times, noise_level).astype(np.float64))
    if not sigma.any():
        return np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    smooth, jacobian = smooth_derivatives(rows, cells, preset, instrument, expected.shape[-1], noise_level)
    delta = ((expected - smooth) / sigma).reshape(len(rows), -1)
    jacobian = (jacobian / sigma[:, None]).reshape(len(rows), jacobian.shape[1], -1)
    bare = np.linalg.norm(delta, axis=1)
    size = np.linalg.norm(jacobian, axis=2, keepdims=True)
    jacobian /= np.where(size > 0, size, 1)  # parameters of any unit weigh alike
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    slope = (jacobian @ delta[..., None])[..., 0]
    explained = np.einsum("ni,nij,nj->n", slope, np.linalg.pinv(normal, rcond=1e-10, hermitian=True), slope)
    return bare, np.sqrt(np.clip(bare**2 - explained, 0, None))


def smooth_derivatives(
    rows: Sequence[dict],
    cells: Cells | None,
    preset: Preset,
    instrument: Instrument,
    image_size: int,
    noise_level: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The smooth counterparts `(N, H, W)` and their derivatives `(N, parameters, H, W)` by macro and source parameters.

    The light of the counterparts comes from the rays of the `cells` of the images and, where the counterparts need more
    of them, of their own. The derivatives have four rays in each pixel that is divided.
    """
    view, lens_light = view_of(instrument, image_size, torch.float32), any(row["lens_light_amplitude"] for row in rows)
    p = tensors([row | dict.fromkeys(LISTS, ()) | {"vortex_mass": 0.0} for row in rows], preset, torch.float32)
    with torch.inference_mode():
        light, divided = at_centers(p, view, "none", lens_light), None
        if cells is not None:
            tolerance = tolerance_of(light, p, view, preset, instrument, noise_level)
            tolerance = tolerance.masked_fill(cells.divided, torch.inf)
            light, own = over_pixels(light, p, view, "none", lens_light, tolerance)
            if len(cells.pixel):
                shared = along_rays(cells, p, view, "none", lambda q, where: at_centers(q, where, "none", lens_light))
                light = cells.mean(light, shared)
            divided = cells.divided | own.divided
        slope = pixel_slopes(p, view, lens_light, divided)
        derivatives = torch.stack([counts(one, p, view) for one in slope], dim=1)
        return counts(light, p, view).numpy(), derivatives.double().numpy()


def pixel_slopes(p: dict[str, Any], view: View, lens_light: bool, divided: Tensor | None = None) -> Tensor:
    """Derivatives `(parameters, N, H, W)` of the mean surface brightness of pixels of smooth lenses, from one ray, or
    from four in pixels `(N, H, W)` that are `divided`; the parameters are `MACRO`, `SOURCE` and `LENS_LIGHT`."""
    slope = light_slopes(p, view, lens_light)
    if divided is None or not divided.any():
        return slope
    whole = Cells.whole(divided, view.x[0], view.y[:, 0])
    rays = along_rays(whole, p, view, "none", lambda q, where: light_slopes(q, where, lens_light))
    return torch.stack([whole.mean(*one) for one in zip(slope, rays, strict=True)])


def light_slopes(p: dict[str, Any], view: View, lens_light: bool) -> Tensor:
    """Derivatives `(parameters, N, H, W)` of the surface brightness of smooth lenses, by central differences.

    A parameter of the lens moves the ends of the rays over the source, whose slope is that by its own position.
    """

    def difference(name: str, function: Callable[[dict[str, Any]], Any]) -> Tensor:
        step = torch.clamp(STEP * p[name].abs(), min=STEP)
        after, before = (function(p | {name: value}) for value in (p[name] + step, p[name] - step))
        return (after - before) / (2 * step)

    rays = source_positions(p, view, "none")
    rotated = ("source_angle",) if "source_image" in p else ()  # a Sersic source has its ellipticity instead
    source = {name: difference(name, lambda q: source_brightness(q, *rays)) for name in (*SOURCE, *rotated)}
    lens, own = {}, {}
    for name in MACRO:
        moved_x, moved_y = difference(name, lambda q: torch.stack(source_positions(q, view, "none")))
        lens[name] = -source["source_x"] * moved_x - source["source_y"] * moved_y
    if lens_light:
        own = {name: difference(name, lambda q: lens_brightness(q, view)) for name in LENS_LIGHT}
        for name in ("lens_x", "lens_y"):
            lens[name] = lens[name] + difference(name, lambda q: lens_brightness(q, view))
    return torch.stack([*lens.values(), *source.values(), *own.values()])
