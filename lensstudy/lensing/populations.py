"""What each preset draws: the truth of one lens, as a row of the catalogue.

Five presets repeat published simulations, quirks included: DeepLense's `model_1`, `model_2` and `model_3`, and
`common_test` and `equivariant_test`, whose settings are not published and were recovered by fitting. In all of them
something other than dark matter gives the class away: rings grow with the substructure (unless `equal_mass` is set),
and in some no two lenses differ. `realistic` is this study's own: lenses differ, and the mean mass inside the Einstein
radius is the same for every class, so that only the substructure itself tells the classes apart.

Angles are in arcseconds, masses in solar masses, directions in radians counter-clockwise from +x.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lensstudy.lensing.cosmology import (
    area_per_mass,
    critical_density,
    critical_surface_density,
    deeplense_area_per_mass,
    kpc_per_arcsec,
    source_convention_factor,
)
from lensstudy.lensing.instruments import INSTRUMENTS, Instrument
from lensstudy.lensing.presets import SCALING, LensingError, RealisticPopulation, check_preset
from lensstudy.lensing.profiles import nfw_scales, sersic_total
from lensstudy.lensing.sources import cutout_files

__all__ = [
    "CLASSES",
    "COLUMNS",
    "LISTS",
    "MACRO",
    "SOURCE",
    "Preset",
    "check_row",
    "complete",
    "draw_lens",
    "heavier",
    "preset_named",
    "with_equal_mass",
]

CLASSES = ("no_sub", "cdm", "axion")
MACRO = ("einstein_radius", "lens_e1", "lens_e2", "lens_x", "lens_y", "shear_1", "shear_2")
SOURCE = tuple(f"source_{name}" for name in ("amplitude", "radius", "index", "e1", "e2", "x", "y"))
LENS_LIGHT = tuple(f"lens_light_{name}" for name in ("amplitude", "radius", "index", "e1", "e2"))
VORTEX = ("axion_mass", "vortex_mass", "vortex_half_length", "vortex_angle", "vortex_x", "vortex_y")
COLUMNS = (
    *MACRO,
    "halo_einstein_radius",
    *SOURCE,
    "source_angle",
    *LENS_LIGHT,
    "exposure_time",
    *VORTEX,
    "subhalo_truncation",
)
LISTS = ("subhalo_x", "subhalo_y", "subhalo_mass", "subhalo_scale_radius")  # one number a subhalo


@dataclass(frozen=True)
class Preset:
    """A population and its conventions: `draw(class_name, generator, population)` gives what is not zero of a row.

    `area_per_mass` is the squared Einstein radius of one solar mass in arcsec^2. A vortex is a chain of `vortex_points`
    equal point masses, or a continuous line where that is 0. Beyond an `integration_error` of so many sigma of its
    noise a pixel gets more than the ray from its centre; where that is infinite it has one, as in the published code.
    """

    name: str
    instrument: Instrument
    draw: Callable[[str, np.random.Generator, dict], dict]
    area_per_mass: float
    vortex_points: int = 0
    integration_error: float = math.inf

    @property
    def scaling(self) -> str:
        """How the brightness of its images is scaled: `counts`, `peak`, `range` or `jpeg`."""
        return SCALING[self.name]


@functools.cache
def preset_named(name: str) -> Preset:
    """The preset of that name; `LensingError` with the known names otherwise."""
    check_preset(name)
    if name == "common_test":
        instrument = INSTRUMENTS["deeplense-common-test"]
        return Preset(name, instrument, draw_common_test, area_per_mass())
    if name == "equivariant_test":
        return Preset(name, INSTRUMENTS["deeplense-equivariant-test"], draw_equivariant_test, area_per_mass())
    if name == "realistic":
        instrument = INSTRUMENTS[RealisticPopulation().instrument]
        return Preset(name, instrument, draw_realistic, area_per_mass(), integration_error=0.04)
    return deeplense_preset(name)


def complete(row: dict) -> dict:
    """A row with every column: what the preset did not set is absent, that is zero or an empty list."""
    full = (
        dict.fromkeys(COLUMNS, 0.0)
        | {"exposure_time": 1.0, "source_image": ""}
        | {name: np.zeros(0) for name in LISTS}
        | row
    )
    same = {"halo_einstein_radius": "einstein_radius", "lens_light_e1": "lens_e1", "lens_light_e2": "lens_e2"}
    full |= {name: full[other] for name, other in same.items() if name not in row}
    full["n_subhalos"] = len(full["subhalo_mass"])
    full["substructure_mass"] = float(np.sum(full["subhalo_mass"])) + full["vortex_mass"]
    return full


def draw_lens(preset: Preset, class_name: str, generator: np.random.Generator, population: dict) -> dict:
    """One lens of a preset, what is not zero of its row; with `equal_mass` its halo gives what substructure adds."""
    row = preset.draw(class_name, generator, population)
    return with_equal_mass(row, preset.area_per_mass) if population.get("equal_mass") else row


def with_equal_mass(row: dict, area: float) -> dict:
    """The same lens with a halo that is lighter by the substructure inside the Einstein radius, whose mass is then that
    of a lens without any. `area` is the squared Einstein radius of one solar mass.

    Raises `LensingError` where nothing would be left of the halo.
    """
    radius, inside = row["einstein_radius"], 0.0
    if "subhalo_mass" in row:
        x, y = (row[f"subhalo_{axis}"] - row.get(f"lens_{axis}", 0.0) for axis in "xy")
        inside = row["subhalo_mass"][np.hypot(x, y) < radius].sum()
    if row.get("vortex_mass"):
        inside = inside + row["vortex_mass"] * line_share_inside(row)
    halo_radius = radius * (1 - inside * area / radius**2)
    if halo_radius <= 0:
        raise LensingError(
            f"substructure of {inside:.3g} solar masses leaves nothing of a lens of {radius**2 / area:.3g}; lower "
            "substructure_boost or the subhalo_* ranges"
        )
    return row | {"halo_einstein_radius": halo_radius}


def heavier(row: dict, factor: float) -> dict:
    """The same lens with `factor` times the mass in every subhalo and in the vortex.

    A halo that gave mass away to its substructure gives so many times as much, so that the mass inside the Einstein
    radius stays. Raises `LensingError` where nothing would be left of the halo.
    """
    if factor == 1:
        return row
    radius = row["einstein_radius"]
    halo_radius = radius + factor * (row.get("halo_einstein_radius", radius) - radius)
    if halo_radius <= 0:
        raise LensingError(
            f"substructure {factor:g} times as heavy leaves nothing of the halo; choose a smaller factor"
        )
    changed = {name: factor * row[name] for name in ("subhalo_mass", "vortex_mass") if name in row}
    if "subhalo_scale_radius" in row:
        changed["subhalo_scale_radius"] = factor ** (1 / 3) * row["subhalo_scale_radius"]  # of the same density
    return row | changed | {"halo_einstein_radius": halo_radius}


def check_row(row: dict, where: str = "lens") -> None:
    """Raise `LensingError` where a complete row is of a lens that cannot exist: negative masses or sizes, an
    ellipticity of 1 or more, numbers that are not finite, a list of subhalos of which some lack a place or a size."""
    for name in (*COLUMNS, *LISTS):
        if not np.all(np.isfinite(row[name])):
            raise LensingError(f"{where}: {name} = {row[name]} is not finite")
    for kind in ("lens", "source", "lens_light"):
        modulus = math.hypot(row[f"{kind}_e1"], row[f"{kind}_e2"])
        if not modulus < 1:
            raise LensingError(
                f"{where}: ellipticity ({kind}_e1, {kind}_e2) has modulus {modulus:g}; expected less than 1"
            )
    positive = ("einstein_radius", "halo_einstein_radius", "source_amplitude", "lens_light_amplitude", "exposure_time")
    for name in (*positive, "vortex_mass", "vortex_half_length", "subhalo_truncation", *LISTS[2:]):
        if np.any(np.asarray(row[name]) < 0):
            raise LensingError(f"{where}: {name} = {row[name]} is negative; expected 0 or more")
    needed = ["source_radius", "source_index", *(["vortex_half_length"] if row["vortex_mass"] else [])]
    needed += LENS_LIGHT[1:3] if row["lens_light_amplitude"] else []
    for name in (*needed, *(LISTS[3:] if row["subhalo_truncation"] else [])):
        if not np.all(np.asarray(row[name]) > 0):
            raise LensingError(f"{where}: {name} = {row[name]}; expected more than 0")
    for name in LISTS if row["subhalo_truncation"] else LISTS[:3]:
        if np.size(row[name]) != np.size(row["subhalo_mass"]):
            raise LensingError(f"{where}: {np.size(row['subhalo_mass'])} subhalo_mass, but {np.size(row[name])} {name}")


def power_law(generator: np.random.Generator, count: int, lowest: float, highest: float, slope: float) -> np.ndarray:
    """`count` masses between `lowest` and `highest` with dN/dm proportional to m^slope."""
    if slope == -1:
        return lowest * (highest / lowest) ** generator.uniform(size=count)
    low, high = lowest ** (slope + 1), highest ** (slope + 1)
    return (low + (high - low) * generator.uniform(size=count)) ** (1 / (slope + 1))


def in_disc(generator: np.random.Generator, radius: float, count: int | None = None):
    """Positions `(x, y)` uniform in a disc."""
    distance, angle = radius * np.sqrt(generator.uniform(size=count)), generator.uniform(0, 2 * np.pi, count)
    return distance * np.cos(angle), distance * np.sin(angle)


def spin_two(modulus: float, angle: float) -> tuple[float, float]:
    """Components of an ellipticity or a shear of that modulus at that position angle."""
    return modulus * math.cos(2 * angle), modulus * math.sin(2 * angle)


# The published presets


def deeplense_preset(name: str) -> Preset:
    """Models 1 to 3. Every lens is a halo of 1e12 solar masses with the same ellipticity and shear: no two differ.

    Quirks of the published code that are kept: luminosity distances in the Einstein radius; a radian of 206265";
    models 2 and 3 quote angles for a source at redshift 2.5; they store model + model where model + noise was meant.
    Released files of model 3 are divided by their maximum, and so are these.
    """
    instrument, area = INSTRUMENTS[f"deeplense-{name.replace('_', '-')}"], deeplense_area_per_mass()
    factor, amplitude, time = 1.0, 20.0, (3.0, 3.5)
    if name != "model_1":
        factor, time = source_convention_factor(), (0.0, 0.0)
        amplitude = 2 * instrument.count_rate(20.0) / sersic_total(0.25, 1.0)
    draw = functools.partial(draw_deeplense, area=area, factor=factor, amplitude=amplitude, log_time=time)
    return Preset(name, instrument, draw, area * factor, 100)


def draw_deeplense(
    class_name: str,
    generator: np.random.Generator,
    population: dict,
    *,
    area: float,
    factor: float,
    amplitude: float,
    log_time: tuple[float, float],
) -> dict:
    """One lens of models 1 to 3. Subhalos are always 25, with dN/dm proportional to m^-0.9 (the published text says
    -1.9, the published code runs -0.9); a vortex goes through the lens centre, and its length is the axion's
    de Broglie wavelength, 0.06"/2 for 1e-22 eV."""
    source_x, source_y = generator.uniform(-0.35, 0.35, 2)
    row: dict = {"einstein_radius": math.sqrt(1e12 * area) * factor, "lens_e1": 0.1, "shear_1": 0.05 * factor}
    row |= {"source_amplitude": amplitude, "source_radius": 0.25, "source_index": 1.0}
    row |= {"source_e1": -0.1, "source_e2": 0.1, "source_x": source_x, "source_y": source_y}
    row |= {"exposure_time": 10 ** generator.uniform(*log_time)}
    if class_name == "cdm":
        radius, angle = generator.uniform(0.25, 2.0, 25), generator.uniform(0, 2 * np.pi, 25)
        row |= {"subhalo_x": radius * np.sin(angle), "subhalo_y": radius * np.cos(angle)}
        row |= {"subhalo_mass": power_law(generator, 25, 1e6, 1e10, -0.9)}
    if class_name == "axion":
        axion_mass = 10 ** generator.uniform(-24, -22)
        row |= {"axion_mass": axion_mass, "vortex_mass": 3e10, "vortex_half_length": 0.06e-22 / (2 * axion_mass)}
        row |= {"vortex_angle": generator.uniform(0, 2 * np.pi)}
    return row


def draw_common_test(class_name: str, generator: np.random.Generator, population: dict) -> dict:
    """One lens of Common Test 1, whose settings were recovered by fitting.

    An isothermal sphere with shear; the source has one size and brightness. Position angles were drawn as radians and
    read as degrees, so every shear and every source lies within 6.3 degrees of the x axis (clockwise, as rows run
    downwards in the files and upwards here). The generator of the same family draws them so, and the source's distance
    uniformly, not its place in a disc (DeepLense-Unsupervised/PyLensing, `gen_params_spherical.py`). Ranges of the
    smooth lens are those of fits of 30 images, and the same for every class: rings of the ten without substructure are
    larger, 1.21" to 1.63" against 0.93" to 1.49", which so few do not make a rule.

    Subhalos follow model 1: 25 point masses, 1e-6 to 1e-2 of the lens, evenly spread over the distance from its centre.
    Added one by one to the fits of five images, the heaviest subhalos weigh 0.9 % (0.87 to 0.94, each known to 0.05 or
    better) wherever the arcs hold them well, others less, as near the centre as 0.1"; a smooth lens leaves a chi square
    of 1.02 to 1.16 in the images (1.00 to 1.38 in ten others) and of 1.01 to 1.32 in simulations. One straight line
    explains each vortex: with it chi square falls from 1.10-1.43 to 0.99-1.01, where noise alone gives 1 +- 0.01; five
    weigh 2.6 to 4.6 % of the lens, have half-lengths of 0.71" to 1.22" and lie up to 1.25" from the centre.
    """
    einstein_radius = generator.uniform(0.9, 1.65)
    shear_1, shear_2 = spin_two(generator.uniform(0, 0.3), -math.radians(generator.uniform(0, 2 * np.pi)))
    axis_ratio = generator.uniform(0.44, 0.92)
    source_e1, source_e2 = spin_two((1 - axis_ratio) / (1 + axis_ratio), -math.radians(generator.uniform(0, 2 * np.pi)))
    distance, direction = generator.uniform(0, 0.46), generator.uniform(0, 2 * np.pi)
    row: dict = {"einstein_radius": einstein_radius, "shear_1": shear_1, "shear_2": shear_2}
    row |= {"source_amplitude": 101 / 0.05**2, "source_radius": 0.5, "source_index": 1.5}
    row |= {"source_x": distance * math.cos(direction), "source_y": distance * math.sin(direction)}
    row |= {"source_e1": source_e1, "source_e2": source_e2}
    lens_mass = einstein_radius**2 / area_per_mass()
    if class_name == "cdm":
        radius, angle = generator.uniform(0.0, 2.0, 25), generator.uniform(0, 2 * np.pi, 25)
        row |= {"subhalo_x": radius * np.sin(angle), "subhalo_y": radius * np.cos(angle)}
        row |= {"subhalo_mass": power_law(generator, 25, 1e-6, 1e-2, -0.9) * lens_mass}
    if class_name == "axion":
        x, y = in_disc(generator, 1.3)
        row |= {"vortex_mass": generator.uniform(0.025, 0.05) * lens_mass, "vortex_x": x, "vortex_y": y}
        row |= {"vortex_half_length": generator.uniform(0.7, 1.25), "vortex_angle": generator.uniform(0, np.pi)}
    return row


def draw_equivariant_test(class_name: str, generator: np.random.Generator, population: dict) -> dict:
    """One lens of DeepLense's official test of equivariant networks, whose settings were recovered by fitting.

    An isothermal sphere with shear, a Sersic source, and a Sersic galaxy in the middle. Position angles were drawn as
    radians and read as degrees, as in `common_test`. Only pixels can be measured, so 0.05" a pixel is a choice; it
    makes the Einstein radius 1".

    Measured by fitting the first 150 `no_sub` files by name: an Einstein radius of 20.0 pixels in all of them (half of
    them within 0.05), shear evenly from 0 to 0.3, axis ratios from 0.7 (source) and 0.5 (galaxy) to 1, the source's
    distance from the centre evenly up to one Einstein radius, its brightness from 0.5 to 1 of the galaxy's; radii and
    indices, corrected by fits of simulated images, to 1 or 2 %; PSF to 1 %. Noise of two thirds of the images is that
    of 500 to 800 seconds, of one in ten much more: its distribution is a guess that gives the mean level of the empty
    sky, 1.0, its quantiles, and the rms of the fits from 4 to 128 grey values.

    `sub` (first 75 files) is `cdm`: smooth fits give Einstein radii of 1.062" to 1.088" (5 and 95 %), so that all have
    the same mass on top of the halo, and leave a third more than noise along the ring. 25 equal point masses out to 1"
    give both, 0.83" and 1.25" too little and too much, 10 masses or unequal ones too much near the centre and too wide
    a range of radii. `axion` is not in that set: a guess, a line of the same mass through the centre.
    """

    def aligned(modulus: float) -> tuple[float, float]:
        return spin_two(modulus, -math.radians(generator.uniform(0, 2 * np.pi)))

    row: dict = {"einstein_radius": 1.0, "exposure_time": generator.triangular(60.0, 800.0, 800.0)}
    row["shear_1"], row["shear_2"] = aligned(generator.uniform(0, 0.3))
    for kind, axis_ratio_min, amplitude, radius, index in (
        ("source", 0.7, generator.uniform(0.6, 1.25), 0.385, 1.4),
        ("lens_light", 0.5, 1.2, 0.4, 2.35),
    ):
        axis_ratio = generator.uniform(axis_ratio_min, 1.0)
        row[f"{kind}_e1"], row[f"{kind}_e2"] = aligned((1 - axis_ratio) / (1 + axis_ratio))
        row |= {f"{kind}_amplitude": amplitude / 0.05**2, f"{kind}_radius": radius, f"{kind}_index": index}
    distance, angle = generator.uniform(0, 1.0), generator.uniform(0, 2 * np.pi)
    row |= {"source_x": distance * math.cos(angle), "source_y": distance * math.sin(angle)}
    substructure_mass = 0.09 * row["einstein_radius"] ** 2 / area_per_mass()
    if class_name == "cdm":
        distance, angle = generator.uniform(0, 1.0, 25), generator.uniform(0, 2 * np.pi, 25)
        row |= {"subhalo_x": distance * np.cos(angle), "subhalo_y": distance * np.sin(angle)}
        row |= {"subhalo_mass": np.full(25, substructure_mass / 25)}
    if class_name == "axion":
        row |= {"vortex_mass": substructure_mass, "vortex_half_length": 0.42}
        row |= {"vortex_angle": generator.uniform(0, np.pi)}
    return row


# The physical preset


def draw_realistic(class_name: str, generator: np.random.Generator, population: dict) -> dict:
    """One lens of the physical preset. Its total mass inside the Einstein radius is drawn first, alike for every
    class; whatever substructure lies inside is then taken out of the smooth halo."""

    def between(name: str) -> float:
        return generator.uniform(population[f"{name}_min"], population[f"{name}_max"])

    instrument = INSTRUMENTS[population["instrument"]]
    einstein_radius, angle = between("einstein_radius"), generator.uniform(0, np.pi, 3)
    axis_ratio, radius, index = between("source_axis_ratio"), between("source_radius"), between("source_index")
    rate = instrument.count_rate(between("source_magnitude"))
    row: dict = {"einstein_radius": einstein_radius, "source_radius": radius, "source_index": index}
    row["source_amplitude"] = rate / sersic_total(radius, index)
    if population["source_images"]:
        files = cutout_files(population["source_images"])
        row |= {"source_image": files[generator.integers(len(files))], "source_angle": generator.uniform(0, 2 * np.pi)}
        row["source_amplitude"] = rate / radius**2  # a cutout's light within its half-light radius squared is 1
    row["lens_e1"], row["lens_e2"] = spin_two(between("ellipticity"), angle[0])
    row["shear_1"], row["shear_2"] = spin_two(between("shear"), angle[1])
    row["source_e1"], row["source_e2"] = spin_two((1 - axis_ratio) / (1 + axis_ratio), angle[2])
    row["lens_x"], row["lens_y"] = in_disc(generator, population["lens_offset_max"])
    row["source_x"], row["source_y"] = in_disc(generator, population["source_offset_max"])
    row["exposure_time"] = population["exposure_time"] or instrument.exposure_time
    if population["lens_light"]:
        radius, index = between("lens_light_radius"), between("lens_light_index")
        rate = instrument.count_rate(between("lens_light_magnitude"))
        row |= {"lens_light_amplitude": rate / sersic_total(radius, index)}
        row |= {"lens_light_radius": radius, "lens_light_index": index}
    if class_name == "cdm":
        row |= draw_subhalos(generator, population, row)
    if class_name == "axion":
        row |= draw_vortex(generator, population, row)
    return with_equal_mass(row, area_per_mass())


def draw_subhalos(generator: np.random.Generator, population: dict, row: dict) -> dict:
    """So many subhalos, or a Poisson number, spread evenly over the disc of `subhalo_radius_max` about the lens."""
    radius_max = population["subhalo_radius_max"]
    density = generator.uniform(population["subhalo_density_min"], population["subhalo_density_max"])
    count = generator.poisson(density * math.pi * (radius_max * kpc_per_arcsec()) ** 2)
    count = round(population["subhalo_number"]) or count
    x, y = in_disc(generator, radius_max, count)
    lowest, highest = population["subhalo_mass_min"], population["subhalo_mass_max"]
    mass = power_law(generator, count, lowest, highest, population["subhalo_slope"]) * population["substructure_boost"]
    subhalos = {"subhalo_x": row["lens_x"] + x, "subhalo_y": row["lens_y"] + y, "subhalo_mass": mass}
    if population["subhalo_profile"] == "truncated_nfw":
        densities = critical_surface_density(), critical_density()
        radius, _ = nfw_scales(mass, population["subhalo_concentration"], *densities)
        subhalos |= {"subhalo_scale_radius": radius, "subhalo_truncation": population["subhalo_truncation"]}
    return subhalos


def draw_vortex(generator: np.random.Generator, population: dict, row: dict) -> dict:
    """A straight line of mass anywhere near the lens; the axion's mass follows from its length as in the presets."""
    low, high = population["vortex_half_length_min"], population["vortex_half_length_max"]
    half_length = low * (high / low) ** generator.uniform()
    fraction = generator.uniform(population["axion_fraction_min"], population["axion_fraction_max"])
    mass = fraction * population["substructure_boost"] * row["einstein_radius"] ** 2 / area_per_mass()
    x, y = in_disc(generator, population["vortex_offset_max"])
    vortex = {"vortex_mass": mass, "vortex_half_length": half_length, "axion_mass": 0.06e-22 / (2 * half_length)}
    vortex |= {
        "vortex_angle": generator.uniform(0, np.pi),
        "vortex_x": row["lens_x"] + x,
        "vortex_y": row["lens_y"] + y,
    }
    return vortex


def line_share_inside(row: dict) -> float:
    """Share of a vortex that lies within the Einstein radius of the lens centre: a chord of that circle."""
    x, y = (row.get(f"vortex_{axis}", 0.0) - row.get(f"lens_{axis}", 0.0) for axis in "xy")
    along = x * math.cos(row["vortex_angle"]) + y * math.sin(row["vortex_angle"])
    half_chord = math.sqrt(max(along**2 - x * x - y * y + row["einstein_radius"] ** 2, 0.0))
    length = row["vortex_half_length"]
    inside = min(length, half_chord - along) - max(-length, -half_chord - along)
    return max(inside, 0.0) / (2 * length)
