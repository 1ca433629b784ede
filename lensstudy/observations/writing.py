"""Observations as files in the form of real cutouts, and simulated ones to try what is done with real lenses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from lensstudy.lensing.cosmology import LENS_REDSHIFT, SOURCE_REDSHIFT
from lensstudy.lensing.instruments import INSTRUMENTS, gaussian_kernel, noise_variance, noisy
from lensstudy.lensing.populations import preset_named
from lensstudy.lensing.presets import population_of
from lensstudy.lensing.rendering import render
from lensstudy.observations.cutouts import Observation

__all__ = ["write", "write_simulated"]


def write(observation: Observation, folder: str | Path) -> Path:
    """Write the observation as `data.fits`, `noise_map.fits`, `psf.fits`, `mask.fits` and `info.json`, which
    `read_observation` opens; returns the folder."""
    from astropy.io import fits

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"data": observation.image, "noise_map": observation.noise, "mask": observation.mask.astype(float)}
    for name, array in (parts | ({} if observation.psf is None else {"psf": observation.psf})).items():
        unit = fits.PrimaryHDU(array)
        unit.header["PIXSCALE"] = observation.pixel_scale
        unit.writeto(folder / f"{name}.fits", overwrite=True)
    about = observation.about | {"pixel_scale": observation.pixel_scale}
    (folder / "info.json").write_text(json.dumps(about, indent=1))
    return folder


def write_simulated(
    folder: str | Path, seed: int = 1, subhalo_mass: float = 1e10, magnitudes: tuple[float, float] = (21.0, 21.5)
) -> Path:
    """Three simulated lenses as HST's ACS would see them, lens light included, as FITS files in folders of `folder`.

    The middle one has a subhalo of `subhalo_mass` solar masses on its ring, whose place and mass stand in
    its `info.json` as a published one's would; the others are smooth. The mass of each stands there too, in the words
    of a table of published models. The `magnitudes` are those of the sources, from the brightest to the faintest; by
    default they are as bright as lensed galaxies hardly are, so that a subhalo shows.
    """
    generator, preset, telescope = np.random.default_rng(seed), preset_named("realistic"), INSTRUMENTS["hst-acs"]
    bright = {"source_magnitude_min": magnitudes[0], "source_magnitude_max": magnitudes[1], "source_index_max": 2.0}
    population = population_of("realistic", {"instrument": telescope.name, "lens_light": True, **bright})
    sigma = telescope.psf_fwhm / telescope.pixel_scale / 2.355
    profile = gaussian_kernel(sigma)
    for number in range(3):
        row = preset.draw("no_sub", generator, population)
        modulus, axis = math.hypot(row["lens_e1"], row["lens_e2"]), 0.5 * math.atan2(row["lens_e2"], row["lens_e1"])
        about: dict = {
            "redshift_lens": LENS_REDSHIFT,
            "redshift_source": SOURCE_REDSHIFT,
            "einstein_radius_arcsec": row["einstein_radius"],
            "axis_ratio": (1 - modulus) / (1 + modulus),
            "position_angle_degrees": (math.degrees(axis) - 90) % 180,
        }
        if number == 1:
            angle = generator.uniform(0, 2 * math.pi)
            x, y = row["einstein_radius"] * math.cos(angle), row["einstein_radius"] * math.sin(angle)
            row |= {"subhalo_x": np.array([x]), "subhalo_y": np.array([y]), "subhalo_mass": np.array([subhalo_mass])}
            about["subhalo"] = {"x": x, "y": y, "mass": subhalo_mass}
        clean = render(row, "realistic", instrument=telescope.name)[0, 0].astype(float)
        image = noisy(clean, telescope, row["exposure_time"], generator)
        noise = np.sqrt(noise_variance(clean, telescope, row["exposure_time"]))
        empty = np.zeros(image.shape, bool)
        lens = Observation("", "", image, noise, empty, np.outer(profile, profile), telescope.pixel_scale, about)
        write(lens, Path(folder) / f"simulated-{number + 1}")
    return Path(folder)
