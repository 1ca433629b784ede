"""From a row of the catalogue to an image.

Rays are shot from every pixel back to the source plane, one from its centre or, where the preset asks for it, as many
as the pixel's noise does; what shines there is blurred and counted. Lenses are rendered in batches, and no image
depends on the others of its batch.
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
from lensstudy.lensing.integration import Cells, integrated
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
from lensstudy.lensing.profiles import (
    deflection_of_mass,
    line,
    point_mass,
    point_mass_sum,
    sersic,
    shear,
    sie,
    truncated_nfw,
    truncated_nfw_sum,
)
from lensstudy.lensing.sources import sample

__all__ = [
    "MODES",
    "VECTOR",
    "batch_size",
    "checked_size",
    "render",
    "render_batch",
    "render_with_cells",
    "renderer",
    "substructure_map",
]

MODES = ("eager", "compiled")
RAYS_PER_BATCH = 32 * 64 * 64  # what stays in a processor's cache
COLUMNS_AT_ONCE = 8192  # of four rays each, likewise
VECTOR = 32  # float32 numbers that a processor computes together, at most: two registers of 512 bits
POINTS = ("point_x", "point_y", "point_radius", "point_scale_radius")


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
    centers[centers == 0] = 1e-6 * pixel_scale  # at the very centre an isothermal lens bends light in no direction
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
    """Deflection `(N, H, W)` of the substructure alone; `kind` is `points`, `halos` or `line`. Subhalos are `(N, n)`,
    or `(N, n, 1, W)` where columns of rays have different ones."""
    if kind == "line":
        geometry = (p[f"vortex_{name}"] for name in ("radius", "half_length", "angle", "x", "y"))
        return line(view.x, view.y, *geometry)
    if p["point_x"].ndim == 4:
        center = (p["point_x"], p["point_y"])
        if kind == "points":
            return added_up(point_mass, view, p["point_radius"], *center)
        scale, truncation = p["point_scale_radius"], p["subhalo_truncation"][:, None]
        strength = deflection_of_mass(p["point_radius"], scale, truncation)
        return added_up(truncated_nfw, view, strength, scale, truncation * scale, *center)
    if kind == "halos":
        halos = (p["point_radius"], p["point_scale_radius"], p["subhalo_truncation"][:, 0].expand_as(p["point_radius"]))
        return truncated_nfw_sum(view.x, view.y, *halos, p["point_x"], p["point_y"], halo)
    return point_mass_sum(view.x, view.y, p["point_radius"], p["point_x"], p["point_y"])


def added_up(mass: Callable, view: View, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection `(N, H, W)` of n masses of one profile, with parameters `(N, n, 1, W)`."""
    alpha_x = alpha_y = torch.zeros(())
    for i in range(parameters[0].shape[1]):
        part_x, part_y = mass(view.x, view.y, *(value[:, i] for value in parameters))
        alpha_x, alpha_y = alpha_x + part_x, alpha_y + part_y
    return alpha_x, alpha_y


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


def source_brightness(p: dict[str, Any], beta_x: Tensor, beta_y: Tensor) -> Tensor:
    """Surface brightness `(N, H, W)` of the source where the rays come from."""
    if "source_image" in p:
        return cutout_light(p, beta_x, beta_y)
    return sersic(beta_x, beta_y, *(p[name] for name in SOURCE))


def lens_brightness(p: dict[str, Any], view: View) -> Tensor:
    """Surface brightness `(N, H, W)` of the lens itself."""
    return sersic(view.x, view.y, *(p[name] for name in (*LENS_LIGHT, "lens_x", "lens_y")))


def cutout_light(p: dict[str, Any], beta_x: Tensor, beta_y: Tensor) -> Tensor:
    """Light `(N, H, W)` of real galaxies, rotated by `source_angle`, scaled to `source_radius`, where the rays end."""
    dx, dy = (beta_x - p["source_x"]) / p["source_radius"], (beta_y - p["source_y"]) / p["source_radius"]
    cosine, sine = torch.cos(p["source_angle"]), torch.sin(p["source_angle"])
    return p["source_amplitude"] * sample(p["source_image"], cosine * dx + sine * dy, cosine * dy - sine * dx)


def at_centers(
    p: dict[str, Tensor], view: View, kind: str, lens_light: bool = False, halo: Callable = truncated_nfw
) -> Tensor:
    """Surface brightness `(N, H, W)` where the rays of the pixels' centres end."""
    light = source_brightness(p, *source_positions(p, view, kind, halo))
    return light + lens_brightness(p, view) if lens_light else light


def counts(light: Tensor, p: dict[str, Tensor], view: View) -> Tensor:
    """Noise-free images `(N, H, W)` in counts, of the surface brightness of the pixels."""
    seen = blur_with_kernel(light, view.psf) if isinstance(view.psf, Tensor) else blur(light, view.psf)
    return seen * (p["exposure_time"] * view.pixel_area)


# More rays than one a pixel


def over_pixels(
    light: Tensor,
    p: dict[str, Any],
    view: View,
    kind: str,
    lens_light: bool,
    tolerance: Tensor,
) -> tuple[Tensor, Cells]:
    """Mean surface brightness `(N, H, W)` of the pixels, each to its `tolerance`, from `light` at their centres and the
    rays of the cells, which are returned as well."""

    def shine(cells: Cells) -> Tensor:
        return along_rays(cells, p, view, kind, lambda q, where: at_centers(q, where, kind, lens_light))

    return integrated(light, shine, view.x[0], view.y[:, 0], tolerance, suspects(p, view, kind))


def tolerance_of(
    light: Tensor, p: dict[str, Any], view: View, preset: Preset, instrument: Instrument, noise_level: float | None
) -> Tensor:
    """Error `(N, H, W)` that the mean surface brightness of a pixel may have: the preset's in sigma of the noise. Where
    an image is to be free of noise, the instrument's sets the measure."""
    expected = counts(light, p, view)
    if noise_level:
        sigma = noise_level * expected.amax((1, 2), keepdim=True).expand_as(expected)
    else:
        sigma = torch.sqrt(noise_variance(expected, instrument, p["exposure_time"]))
    return preset.integration_error * sigma / (p["exposure_time"] * view.pixel_area)


def along_rays(
    cells: Cells, p: dict[str, Any], view: View, kind: str, function: Callable[[dict[str, Any], View], Tensor]
) -> Tensor:
    """`function` of the rays of cells, `(..., 4, M)`: of the parameters and the view of one image `(1, 4, M)` it gives
    `(..., 1, 4, M)`."""
    order = torch.argsort(cells.image, stable=True)  # few images in a piece, and their subhalos alone
    x, y = cells.rays
    found, where = [], []
    for columns in pieces(cells.image[order], whole="source_image" in p):
        some = order[columns]
        given = of_columns(p, cells.image[some], kind), replace(view, x=x[:, some], y=y[:, some])
        found.append(function(*given)[..., 0, :, :])
        where.append(some)
    result = found[0].new_empty(*found[0].shape[:-1], len(order))
    result[..., torch.cat(where)] = torch.cat(found, dim=-1)
    return result


def pieces(image: Tensor, whole: bool) -> list[Tensor]:
    """Columns that are traced together, as many as stay in a processor's cache; of one image each if `whole`.

    The last column is repeated to fill up vectors: what is left over from one is computed with other rounding.
    """
    lengths = torch.unique_consecutive(image, return_counts=True)[1].tolist() if whole else COLUMNS_AT_ONCE
    return [
        torch.nn.functional.pad(some[None], (0, -len(some) % VECTOR), mode="replicate")[0]
        for some in torch.arange(len(image)).split(lengths)
    ]


def of_columns(p: dict[str, Any], image: Tensor, kind: str) -> dict[str, Any]:
    """The parameters of an image `(1, 4, M)` of rays whose columns belong to the images of the numbers `image`: scalars
    `(1, 1, M)`, subhalos `(1, n, 1, M)`."""
    scalars = {name: value for name, value in p.items() if isinstance(value, Tensor) and value.ndim == 3}
    q: dict = dict(
        zip(scalars, torch.stack(list(scalars.values())).index_select(1, image).transpose(1, 3), strict=True)
    )
    if kind in ("points", "halos"):
        most = int((p["point_radius"][torch.unique(image)] > 0).sum(1).max())
        q |= {name: p[name].T[:most].index_select(1, image)[None, :, None] for name in POINTS}
    if "source_image" in p:
        q["source_image"] = [p["source_image"][int(image[0])]]
    return q


def suspects(p: dict[str, Tensor], view: View, kind: str) -> Tensor:
    """The pixels `(N, H, W)` with a point mass in them: a ray from the centre may see nothing of what it does."""
    found = torch.zeros(len(p["shear_1"]), view.y.shape[0], view.x.shape[1], dtype=torch.bool)
    if kind != "points":
        return found
    half_width, half_height = (float(x[1] - x[0]) / 2 for x in (view.x[0], view.y[:, 0]))
    near_x = (p["point_x"][..., None] - view.x).abs() <= half_width  # (N, n, W)
    near_y = (p["point_y"][..., None] - view.y[:, 0]).abs() <= half_height
    near_x = near_x & (p["point_radius"] > 0)[..., None]
    return (near_y.float().transpose(1, 2) @ near_x.float()) > 0


def render(
    rows: pd.DataFrame | Sequence[dict] | dict,
    preset: str = "realistic",
    *,
    instrument: str | Instrument | None = None,
    image_size: int | None = None,
    smooth: bool = False,
    noise_level: float | None = None,
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
        noise_level: Gaussian noise, in units of each image's own peak, that is to be added in place of the
            instrument's: errors of the pixels' light are to be small against it.
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
            images[batch, 0] = render_batch(
                [rows[i] for i in batch], chosen, telescope, size, smooth, dtype, noise_level=noise_level
            )
    return scaled(images, chosen.scaling) if chosen.scaling == "peak" else images


def render_batch(
    rows: Sequence[dict],
    preset: Preset,
    instrument: Instrument,
    image_size: int,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
    mode: str = "eager",
    noise_level: float | None = None,
) -> np.ndarray:
    """Expected counts `(N, H, W)` of complete rows of one class, as accurate as the noise that they will get asks."""
    return render_with_cells(rows, preset, instrument, image_size, smooth, dtype, mode, noise_level)[0]


def render_with_cells(
    rows: Sequence[dict],
    preset: Preset,
    instrument: Instrument,
    image_size: int,
    smooth: bool = False,
    dtype: torch.dtype = torch.float32,
    mode: str = "eager",
    noise_level: float | None = None,
) -> tuple[np.ndarray, Cells | None]:
    """The same, and the cells of the pixels that one ray is too few for; None for presets with one ray a pixel."""
    kind = "none" if smooth else kind_of(rows, preset)
    shine = renderer("eager" if kind == "halos" or rows[0]["source_image"] else mode)
    halo = renderer(mode, truncated_nfw) if kind == "halos" else truncated_nfw  # all the work, and of any number
    lens_light = any(row["lens_light_amplitude"] for row in rows)
    with torch.inference_mode():
        view = view_of(instrument, image_size, dtype)
        p = tensors(rows, preset, dtype)
        light, cells = shine(p, view, kind, lens_light, halo), None
        if np.isfinite(preset.integration_error):
            tolerance = tolerance_of(light, p, view, preset, instrument, noise_level)
            light, cells = over_pixels(light, p, view, kind, lens_light, tolerance)
        return counts(light, p, view).numpy(), cells


@functools.cache
def renderer(mode: str, function: Callable = at_centers) -> Callable:
    """`function`, as it is (`eager`) or through torch.compile (`compiled`), which needs a C++ compiler."""
    if mode not in MODES:
        raise LensingError(f"mode '{mode}' is unknown; known modes: {', '.join(MODES)}")
    return function if mode == "eager" else torch.compile(function, dynamic=function is not at_centers)


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
