"""How fast lenses are rendered: this simulator, eager and compiled, beside lenstronomy and caustics on one thread.

The same lenses for everyone: isothermal ellipsoid, shear, 25 point masses, elliptical Sersic source, Gaussian point
spread function, Gaussian noise of 1 % of the peak, and one ray a pixel, as the published presets have it. Times are
processor times, which other programs disturb little.
"""

import time

import numpy as np
import torch

from lensstudy.data.simulation import simulate
from lensstudy.lensing.instruments import SIGMA_PER_FWHM, gaussian_kernel, noisy
from lensstudy.lensing.populations import complete, preset_named
from lensstudy.lensing.rendering import batch_size, render_batch

ROUNDS = 4


def run() -> list[dict]:
    """Records of `simulate-<size>-<mode>` against lenstronomy, of caustics, and of two processes against one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [record for size in (64, 150) for record in at_size(size)] + [two_processes()]
    finally:
        torch.set_num_threads(threads)


def at_size(size: int) -> list[dict]:
    """Images a second of every simulator at `size` pixels a side, measured in turns."""
    preset = preset_named("model_3" if size == 64 else "model_1")
    rows = [complete(preset.draw("cdm", np.random.default_rng(k), {})) for k in range(batch_size(size))]
    contestants = {
        "lenstronomy": lenstronomy_images(rows, preset, size),
        "eager": our_images(rows, preset, size, "eager"),
        "compiled": our_images(rows, preset, size, "compiled"),
        "caustics vmap": caustics_images(rows, preset, size, batched=False),
        "caustics batched": caustics_images(rows, preset, size, batched=True),
    }
    times = {name: [] for name in contestants}
    for names in [list(contestants)[:3]] * ROUNDS + [list(contestants)[3:]]:  # big arrays slow whoever comes after
        for name in names:
            times[name] += seconds_per_image(contestants[name], len(rows))
    rate = {name: 1 / min(values) for name, values in times.items()}  # the least disturbed round
    names = {"eager": f"simulate-{size}-eager", "compiled": f"simulate-{size}-compiled"}
    names |= {"caustics vmap": f"caustics-{size}-vmap", "caustics batched": f"caustics-{size}-batched"}
    return [
        {
            "name": title,
            "value": float(rate[name]),
            "unit": "images/s",
            "baseline": "lenstronomy",
            "baseline_value": float(rate["lenstronomy"]),
            "ratio": float(rate[name] / rate["lenstronomy"]),
            "spread": float(np.std(times[name]) / np.mean(times[name])),
        }
        for name, title in names.items()
    ]


def seconds_per_image(contest, images: int, repeats: int = 10) -> list[float]:
    """Processor time of one image, a few times over, after two calls that compile and fill the caches."""
    contest()
    contest()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        contest()
        times.append((time.process_time() - start) / images)
    return times


def our_images(rows, preset, size, mode):
    generators = [np.random.default_rng(k) for k in range(len(rows))]

    def images():
        expected = render_batch(rows, preset, preset.instrument, size, mode=mode)
        return [noisy(e, preset.instrument, 1.0, g, 0.01) for e, g in zip(expected, generators, strict=True)]

    return images


def lenstronomy_images(rows, preset, size, noise=0.01, rays=1):
    """One reused image model, the way lenstronomy is fastest, with `rays` by `rays` of them a pixel."""
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util import util

    instrument = preset.instrument
    _, _, ra, dec, _, _, transform, _ = util.make_grid_with_coordtransform(size, instrument.pixel_scale, inverse=False)
    grid = {"ra_at_xy_0": ra, "dec_at_xy_0": dec, "transform_pix2angle": transform}
    data = ImageData(np.zeros((size, size)), background_rms=1.0, exposure_time=1.0, **grid)
    point_spread = {"fwhm": instrument.psf_fwhm, "truncation": instrument.psf_truncation}
    psf = PSF("GAUSSIAN", pixel_size=instrument.pixel_scale, **point_spread)
    lens, light = (
        LensModel(["SIE", "SHEAR"] + ["POINT_MASS"] * len(rows[0]["subhalo_mass"])),
        LightModel(["SERSIC_ELLIPSE"]),
    )
    model = ImageModel(
        data, psf, lens_model_class=lens, source_model_class=light, kwargs_numerics={"supersampling_factor": rays}
    )
    generator = np.random.default_rng(0)

    def images():
        made = []
        for row in rows:
            masses, source = lenstronomy_parameters(row, preset.area_per_mass)
            image = model.image(masses, source)
            made.append(image + generator.normal(0, noise * image.max(), image.shape))
        return made

    return images


def lenstronomy_parameters(row: dict, area_per_mass: float) -> tuple[list[dict], list[dict]]:
    """A row of the catalogue in lenstronomy's words."""
    masses = [{"theta_E": row["einstein_radius"], "e1": row["lens_e1"], "e2": row["lens_e2"]}]
    masses += [{"gamma1": row["shear_1"], "gamma2": row["shear_2"]}]
    for x, y, mass in zip(row["subhalo_x"], row["subhalo_y"], row["subhalo_mass"], strict=True):
        masses.append({"theta_E": np.sqrt(mass * area_per_mass), "center_x": x, "center_y": y})
    source = {"amp": row["source_amplitude"], "R_sersic": row["source_radius"], "n_sersic": row["source_index"]}
    source |= {"e1": row["source_e1"], "e2": row["source_e2"]}
    return masses, [source | {"center_x": row["source_x"], "center_y": row["source_y"]}]


def caustics_images(rows, preset, size, batched: bool):
    """caustics, vmapped over the images: one lens a point mass, or its batched plane of them, compiled as it gains."""
    import caustics

    instrument = preset.instrument
    cosmology, redshifts = caustics.FlatLambdaCDM(), {"z_l": 0.5, "z_s": 1.0}
    halo = caustics.SIE(cosmology, x0=0.0, y0=0.0, name="halo")
    field = caustics.ExternalShear(cosmology, x0=0.0, y0=0.0, name="field")
    if batched:
        masses = [caustics.BatchedPlane(cosmology, caustics.Point(cosmology, name="point"), name="masses")]
    else:
        masses = [caustics.Point(cosmology, name=f"point_{i}") for i in range(len(rows[0]["subhalo_mass"]))]
    lens = caustics.SinglePlane(cosmology, [halo, field, *masses], **redshifts, name="plane")
    kernel = gaussian_kernel(instrument.psf_fwhm * SIGMA_PER_FWHM / instrument.pixel_scale, instrument.psf_truncation)
    psf = torch.tensor(np.outer(kernel, kernel), dtype=torch.float32)
    view = {"pixelscale": instrument.pixel_scale, "pixels_x": size, "psf": psf, "psf_mode": "conv2d"}
    simulator = caustics.LensSource(lens, caustics.Sersic(name="source"), **view)
    simulator.to(dtype=torch.float32)
    render = torch.func.vmap(lambda *parameters: simulator(list(parameters)))
    render = torch.compile(render) if batched else render
    parameters = caustics_parameters(rows, preset.area_per_mass, batched)
    generator = np.random.default_rng(0)

    def images():
        with torch.no_grad():
            made = render(*parameters).numpy()
        return [image + generator.normal(0, 0.01 * image.max(), image.shape) for image in made]

    return images


def caustics_parameters(rows: list[dict], area_per_mass: float, batched: bool) -> list[torch.Tensor]:
    """Rows of the catalogue in caustics' words: halo, shear, point masses and source, in the order of its graph."""

    def column(function) -> torch.Tensor:
        return torch.tensor(np.array([function(row) for row in rows]), dtype=torch.float32)

    def ellipse(kind: str) -> list[torch.Tensor]:
        modulus = column(lambda row: np.hypot(row[f"{kind}_e1"], row[f"{kind}_e2"]))
        angle = column(lambda row: 0.5 * np.arctan2(row[f"{kind}_e2"], row[f"{kind}_e1"]))
        return [(1 - modulus) / (1 + modulus), angle]

    names = ("source_index", "source_radius", "source_amplitude")
    masses = [column(lambda row, axis=axis: row[f"subhalo_{axis}"]) for axis in "xy"]
    masses.append(column(lambda row: np.sqrt(row["subhalo_mass"] * area_per_mass)))
    if not batched:
        masses = [value for one in zip(*(value.unbind(1) for value in masses), strict=True) for value in one]
    return [
        *ellipse("lens"),
        column(lambda row: row["einstein_radius"]),
        column(lambda row: row["shear_1"]),
        column(lambda row: row["shear_2"]),
        *masses,
        column(lambda row: row["source_x"]),
        column(lambda row: row["source_y"]),
        *ellipse("source"),
        *(column(lambda row, name=name: row[name]) for name in names),
    ]


def two_processes() -> dict:
    """Whole data sets with population, noise and detectability: two processes of one thread against one."""
    seconds = {}
    for processes in (1, 2):
        simulate("model_3", 1, seed=1, noise_level=0.01, processes=processes)
        start = time.perf_counter()
        simulate("model_3", 2048, seed=1, noise_level=0.01, processes=processes)
        seconds[processes] = time.perf_counter() - start
    rate = {processes: 3 * 2048 / value for processes, value in seconds.items()}
    return {
        "name": "simulate-two-processes",
        "value": rate[2],
        "unit": "images/s",
        "baseline": "one process",
        "baseline_value": rate[1],
        "ratio": rate[2] / rate[1],
        "spread": None,
    }
