"""From a row of the catalogue to an image, and what of its substructure the noise leaves to be seen.

Rays are shot from the centre of every pixel back to the source plane; what shines there is blurred and counted. Lenses
are rendered in batches, and no image depends on the others of its batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lensstudy.lensing.instruments import (
    INSTRUMENTS,
    Instrument,
    blur,
    blur_with_kernel,
    noise_variance,
    psf_profile,
    psf_table,
)
from lensstudy.lensing.populations import (
    COLUMNS,
    LENS_LIGHT,
    LISTS,
    MACRO,
    SOURCE,
    Preset,
    check_row,
    complete,
    preset_named,
)
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.profiles import line, point_mass_sum, sersic, shear, sie, truncated_nfw, truncated_nfw_sum
from lensstudy.lensing.sources import sample

__all__ = [
    "MODES",
    "batch_size",
    "checked_size",
    "detectability",
    "render",
    "render_batch",
    "renderer",
    "substructure_map",
]

MODES = ("eager", "compiled")
RAYS_PER_BATCH = 32 * 64 * 64  # what stays in a processor's cache
STEP = 1e-3  # of a derivative, in the parameter's own unit or as a share of it, whichever is more


@dataclass(frozen=True)
class View:
    """Where light is caught: pixel centres x `(1, W)` and y `(H, 1)` in arcseconds, and the point spread function along
    either axis or as a table."""

    x: Tensor
    y: Tensor
    psf: tuple[float, ...] | Tensor
    pixel_area: float  # arcsec^2


@functools.lru_cache(maxsize=16)
def view_of(instrument: Instrument, image_size: int, dtype: torch.dtype) -> View:
    """The instrument's field of view in `image_size` pixels a side, centred between the middle ones. Raises
    `LensingError` for a tabulated point spread function with pixels of another size."""
    pixel_scale = instrument.field_of_view / image_size
    if instrument.psf_file and image_size != instrument.image_size:
        raise LensingError(
            f"psf_file = {instrument.psf_file!r} has pixels of {instrument.name}, {instrument.pixel_scale:g} arcsec; "
            f"image_size = {image_size} makes them {pixel_scale:.3g}; set image_size to {instrument.image_size}"
        )
    psf = psf_table(instrument.psf_file).to(dtype) if instrument.psf_file else psf_profile(instrument, image_size)
    centers = ((torch.arange(image_size, dtype=torch.float64) - (image_size - 1) / 2) * pixel_scale).to(dtype)
    return View(centers[None, :], centers[:, None], psf, pixel_scale**2)


def batch_size(image_size: int) -> int:
    """Images rendered together: 32 of 64x64, 8 of 150x150. Fixed, so that no rounding depends on how many are made."""
    return max(8, RAYS_PER_BATCH // image_size**2)


def tensors(rows: Sequence[dict], preset: Preset, dtype: torch.dtype) -> dict[str, Any]:
    """Complete rows as tensors: scalars `(N, 1, 1)`; of subhalos `point_*` `(N, n)`, padded with zero mass."""
    p: dict = {name: torch.tensor([row[name] for row in rows], dtype=dtype)[:, None, None] for name in COLUMNS}
    if any(row["source_image"] for row in rows):
        p["source_image"] = [row["source_image"] for row in rows]
    points = [point_masses(row, preset) for row in rows]
    most = max(len(point[0]) for point in points)
    most = -(-most // 8) * 8 if most > 32 else most  # few different lengths, so that compiled code is used again
    padded = np.zeros((4, len(rows), most))
    padded[3] = 1.0  # a scale radius of nothing
    for i, point in enumerate(points):
        padded[: len(point), i, : len(point[0])] = point
    p["point_x"], p["point_y"], mass, p["point_scale_radius"] = torch.tensor(padded, dtype=torch.float64).to(dtype)
    p["point_radius"] = torch.sqrt(mass.double() * preset.area_per_mass).to(dtype)
    p["vortex_radius"] = torch.sqrt(p["vortex_mass"].double() * preset.area_per_mass).to(dtype)
    return p


def point_masses(row: dict, preset: Preset) -> tuple[np.ndarray, ...]:
    """Positions, masses and scale radii of an image's subhalos, or the chain that stands for its vortex."""
    if row["vortex_mass"] == 0 or preset.vortex_points == 0:
        return tuple(np.asarray(row[name], dtype=float) for name in LISTS[: 4 if row["subhalo_truncation"] else 3])
    along = np.linspace(-1, 1, preset.vortex_points) * row["vortex_half_length"]
    x, y = along * np.cos(row["vortex_angle"]), along * np.sin(row["vortex_angle"])
    return row["vortex_x"] + x, row["vortex_y"] + y, np.full(len(x), row["vortex_mass"] / len(x))


def substructure_deflection(
    p: dict[str, Tensor], view: View, kind: str, halo: Callable = truncated_nfw
) -> tuple[Tensor, Tensor]:
    """Deflection `(N, H, W)` of the substructure alone; `kind` is `points`, `halos` or `line`."""
    if kind == "line":
        geometry = (p[f"vortex_{name}"] for name in ("radius", "half_length", "angle", "x", "y"))
        return line(view.x, view.y, *geometry)
    if kind == "halos":
        halos = (p["point_radius"], p["point_scale_radius"], p["subhalo_truncation"][:, 0].expand_as(p["point_radius"]))
        return truncated_nfw_sum(view.x, view.y, *halos, p["point_x"], p["point_y"], halo)
    return point_mass_sum(view.x, view.y, p["point_radius"], p["point_x"], p["point_y"])


def kind_of(rows: Sequence[dict], preset: Preset) -> str:
    """What the substructure of these rows, all of one class, is made of; `none` where there is none."""
    if any(row["vortex_mass"] for row in rows):
        return "points" if preset.vortex_points else "line"
    if any(row["n_subhalos"] for row in rows):
        return "halos" if any(row["subhalo_truncation"] for row in rows) else "points"
    return "none"


def source_positions(
    p: dict[str, Tensor], view: View, kind: str, halo: Callable = truncated_nfw
) -> tuple[Tensor, Tensor]:
    """Where the rays of the pixels come from in the source plane, `(N, H, W)` each.

    With `kind` `none` this is the smooth counterpart: no substructure, and all mass inside the Einstein radius in the
    halo.
    """
    radius = p["einstein_radius"] if kind == "none" else p["halo_einstein_radius"]
    alpha_x, alpha_y = sie(view.x, view.y, radius, *(p[name] for name in MACRO[1:5]))
    shear_x, shear_y = shear(view.x, view.y, p["shear_1"], p["shear_2"])
    beta_x, beta_y = view.x - shear_x - alpha_x, view.y - shear_y - alpha_y
    if kind == "none":
        return beta_x, beta_y
    alpha_x, alpha_y = substructure_deflection(p, view, kind, halo)
    return beta_x - alpha_x, beta_y - alpha_y


def brightness(p: dict[str, Tensor], view: View, rays: tuple[Tensor, Tensor], lens_light: bool) -> Tensor:
    """Noise-free images `(N, H, W)` in counts: the source's light where the rays come from, and the lens's own."""
    light = cutout_light(p, *rays) if "source_image" in p else sersic(*rays, *(p[name] for name in SOURCE))
    if lens_light:
        light = light + sersic(view.x, view.y, *(p[name] for name in (*LENS_LIGHT, "lens_x", "lens_y")))
    seen = blur_with_kernel(light, view.psf) if isinstance(view.psf, Tensor) else blur(light, view.psf)
    return seen * (p["exposure_time"] * view.pixel_area)


def cutout_light(p: dict[str, Any], beta_x: Tensor, beta_y: Tensor) -> Tensor:
    """Light `(N, H, W)` of real galaxies, rotated by `source_angle`, scaled to `source_radius`, where the rays end."""
    dx, dy = (beta_x - p["source_x"]) / p["source_radius"], (beta_y - p["source_y"]) / p["source_radius"]
    cosine, sine = torch.cos(p["source_angle"]), torch.sin(p["source_angle"])
    return p["source_amplitude"] * sample(p["source_image"], cosine * dx + sine * dy, cosine * dy - sine * dx)


def expected_images(
    p: dict[str, Tensor], view: View, kind: str, lens_light: bool = False, halo: Callable = truncated_nfw
) -> Tensor:
    """Noise-free images `(N, H, W)` in counts."""
    return brightness(p, view, source_positions(p, view, kind, halo), lens_light)


def render(
    rows: pd.DataFrame | Sequence[dict] | dict,
    preset: str = "realistic",
    *,
    instrument: str | Instrument | None = None,
    image_size: int | None = None,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
) -> np.ndarray:
    """Render noise-free images of the lenses that `rows` describe.

    Args:
        rows: a catalogue of `simulate`, or one or several dicts with some of its columns (angles in arcsec, masses in
            solar masses); a missing column means that the lens has no such thing.
        preset: the preset whose conventions hold, such as `realistic` or `model_3`.
        instrument: name of an instrument, in place of the preset's own.
        image_size: pixels a side; the field of view stays.
        smooth: leave the substructure out and keep the mass inside the Einstein radius.
        dtype: precision of the rays.

    Returns:
        Images `(N, 1, H, W)` in counts, or in the units of the preset where it divides by the peak.

    Raises:
        LensingError: for a lens that cannot exist, an unknown preset or instrument.

    Example:
        >>> lens = {"einstein_radius": 1.2, "source_amplitude": 1.0, "source_radius": 0.2, "source_index": 1.0}
        >>> render(lens, "model_3", image_size=32).shape
        (1, 1, 32, 32)
    """
    chosen = preset_named(preset)
    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else [rows] if isinstance(rows, dict) else rows
    rows = [complete(row) for row in rows]
    alike: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        check_row(row, row.get("name", f"lens {i}"))
        light = (row["lens_light_amplitude"] > 0, row["source_image"] != "")
        alike.setdefault((kind_of([row], chosen), *light), []).append(i)
    telescope = instrument_named(instrument, chosen)
    size = checked_size(telescope.image_size if image_size is None else image_size)
    images = np.empty((len(rows), 1, size, size), dtype=np.float64 if dtype == torch.float64 else np.float32)
    for numbers in alike.values():
        for start in range(0, len(numbers), batch_size(size)):
            batch = numbers[start : start + batch_size(size)]
            images[batch, 0] = render_batch([rows[i] for i in batch], chosen, telescope, size, smooth, dtype)
    return scaled(images, chosen.scaling) if chosen.scaling == "peak" else images


def render_batch(
    rows: Sequence[dict],
    preset: Preset,
    instrument: Instrument,
    image_size: int,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
    mode: str = "eager",
) -> np.ndarray:
    """Expected counts `(N, H, W)` of complete rows of one class."""
    kind = "none" if smooth else kind_of(rows, preset)
    draw = renderer("eager" if kind == "halos" or rows[0]["source_image"] else mode)
    halo = renderer(mode, truncated_nfw) if kind == "halos" else truncated_nfw  # all the work, and of any number
    lens_light = any(row["lens_light_amplitude"] for row in rows)
    with torch.inference_mode():
        view = view_of(instrument, image_size, dtype)
        return draw(tensors(rows, preset, dtype), view, kind, lens_light, halo).numpy()


@functools.cache
def renderer(mode: str, function: Callable = expected_images) -> Callable:
    """`function`, as it is (`eager`) or through torch.compile (`compiled`), which needs a C++ compiler."""
    if mode not in MODES:
        raise LensingError(f"mode '{mode}' is unknown; known modes: {', '.join(MODES)}")
    return function if mode == "eager" else torch.compile(function, dynamic=function is not expected_images)


def scaled(images: np.ndarray, scaling: str) -> np.ndarray:
    """Images `(..., H, W)` as the preset stores them."""
    low = images.min(axis=(-2, -1), keepdims=True) if scaling == "range" else 0
    high = 1 if scaling == "counts" else images.max(axis=(-2, -1), keepdims=True)
    return (images - low) / (high - low)


def substructure_map(
    row: pd.Series | dict, preset: str = "realistic", *, instrument: str | None = None, image_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Map where the substructure of one lens is, and what it does.

    Args:
        row: one row of a catalogue of `simulate`.
        preset: the preset that drew it.
        instrument: name of an instrument, in place of the preset's own; it sets the field of view.
        image_size: pixels a side of the maps.

    Returns:
        Two maps `(H, W)` over the field of view: mass in solar masses a pixel (halos as points), and the modulus of the
        deflection in arcsec.

    Raises:
        LensingError: for a lens that cannot exist, an unknown preset or instrument.

    Example:
        >>> from lensstudy import simulate
        >>> lens = simulate("model_3", 1, seed=1, image_size=32, classes=["cdm"]).catalogue.iloc[0]
        >>> mass, deflection = substructure_map(lens, "model_3", image_size=32)
        >>> bool(mass.sum() > 1e9)
        True
    """
    chosen, row = preset_named(preset), complete(dict(row))
    check_row(row, row.get("name", "lens"))
    telescope = instrument_named(instrument, chosen)
    size = checked_size(telescope.image_size if image_size is None else image_size)
    view = view_of(telescope, size, torch.float64)
    half = telescope.field_of_view / 2
    if (kind := kind_of([row], chosen)) == "none":
        return np.zeros((size, size)), np.zeros((size, size))
    x, y, mass = point_masses(row, replace(chosen, vortex_points=chosen.vortex_points or 1000))[:3]
    masses, _, _ = np.histogram2d(y, x, bins=size, range=[[-half, half]] * 2, weights=mass)
    with torch.inference_mode():
        alpha_x, alpha_y = substructure_deflection(tensors([row], chosen, torch.float64), view, kind)
    return masses, torch.hypot(alpha_x, alpha_y)[0].numpy()


def instrument_named(name: str | Instrument | None, preset: Preset) -> Instrument:
    """The instrument of that name, the preset's own without one; `LensingError` with the known names otherwise."""
    if isinstance(name, Instrument):
        return name
    if name is not None and name not in INSTRUMENTS:
        raise LensingError(f"instrument '{name}' is unknown; known instruments: {', '.join(INSTRUMENTS)}")
    return preset.instrument if name is None else INSTRUMENTS[name]


def checked_size(image_size: int) -> int:
    """The number of pixels a side; `LensingError` where no image can have it."""
    if not 2 <= image_size <= 4096:
        raise LensingError(f"image_size = {image_size} pixels a side; expected 2 to 4096")
    return image_size


# How much of the substructure the noise leaves


def detectability(
    rows: Sequence[dict], expected: np.ndarray, preset: Preset, instrument: Instrument, noise_level: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """How many sigma the substructure makes in each image `(N, H, W)` of expected counts, alone and after re-fitting.

    Alone: chi of the image against its smooth counterpart at its own noise. After re-fitting: what is left of it when
    the macromodel, the source and the lens light have been adjusted to first order, `min_t |(delta - J t)/sigma|` with
    J the derivatives of the smooth image by every macro and source parameter. Both are infinite without noise.
    """
    if kind_of(rows, preset) == "none":
        return np.zeros(len(rows)), np.zeros(len(rows))
    times = np.array([row["exposure_time"] for row in rows])[:, None, None]
    sigma = np.sqrt(noise_variance(expected, instrument, times, noise_level).astype(np.float64))
    if not sigma.any():
        return np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    smooth, jacobian = smooth_derivatives(rows, preset, instrument, expected.shape[-1])
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
    rows: Sequence[dict], preset: Preset, instrument: Instrument, image_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The smooth counterparts `(N, H, W)` and their derivatives `(N, parameters, H, W)` by macro and source parameters.

    Central differences: forward differentiation gives the same and takes three times as long.
    """
    view, lens_light = view_of(instrument, image_size, torch.float32), any(row["lens_light_amplitude"] for row in rows)
    p = tensors([row | dict.fromkeys(LISTS, ()) | {"vortex_mass": 0.0} for row in rows], preset, torch.float32)
    with torch.inference_mode():
        rays = source_positions(p, view, "none")
        derivatives = []
        rotated = ("source_angle",) if "source_image" in p else ()  # a Sersic source has its ellipticity instead
        for name in (*MACRO, *SOURCE, *rotated, *(LENS_LIGHT if lens_light else ())):
            step = torch.clamp(STEP * p[name].abs(), min=STEP)
            images = []
            for value in (p[name] - step, p[name] + step):
                q = p | {name: value}
                images.append(
                    brightness(q, view, source_positions(q, view, "none") if name in MACRO else rays, lens_light)
                )
            derivatives.append((images[1] - images[0]) / (2 * step))
        return brightness(p, view, rays, lens_light).numpy(), torch.stack(derivatives, dim=1).double().numpy()
