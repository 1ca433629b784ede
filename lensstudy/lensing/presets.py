"""The presets of the simulator: which there are, what each is for, and what can be set in its population.

Only names and limits, and nothing that draws: a misspelt parameter is found before anything heavy is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["PRESETS", "SCALING", "LensingError", "RealisticPopulation", "check_preset", "population_of"]

PRESETS = {
    "model_1": "DeepLense's model 1: photon and background noise, 150 pixels of 0.05 arcsec; all lenses alike",
    "model_2": "DeepLense's model 2: Euclid, no noise, 64 pixels of 0.101 arcsec; all lenses alike",
    "model_3": "DeepLense's model 3: HST, no noise, divided by the peak, 64 pixels of 0.08 arcsec; all lenses alike",
    "common_test": "DeepLense's Common Test 1, as fitting recovered it: 150 pixels of 0.05 arcsec, scaled from 0 to 1",
    "equivariant_test": "DeepLense's test of equivariant networks, recovered by fitting: lens light, 150 pixels, JPEG",
    "realistic": "lenses that differ, classes told apart by substructure alone: HST or Euclid with noise, in counts",
}
SCALING = {  # in counts, each image divided by its own peak, its range made 0 to 1, or made 0 to 255 and kept as a JPEG
    "model_1": "counts",
    "model_2": "counts",
    "model_3": "peak",
    "common_test": "range",
    "equivariant_test": "jpeg",
    "realistic": "counts",
}


class LensingError(ValueError):
    """A lens, population or instrument that cannot be. The message names the value, what was expected and the way
    out."""


def _number(default: float, least: float, most: float):
    return Field(default, ge=least, le=most)


class PublishedPopulation(BaseModel):
    """What can be changed of a published preset. With `equal_mass` the substructure's mass inside the Einstein radius
    is taken out of the halo, so that the size of the ring does not tell the classes apart.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    equal_mass: bool = False


class RealisticPopulation(BaseModel):
    """What `realistic` draws: between `<name>_min` and `<name>_max`, or as one number says. Angles in arcseconds,
    masses in solar masses."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    einstein_radius_min: float = _number(0.8, 0.01, 10.0)
    einstein_radius_max: float = _number(1.6, 0.01, 10.0)
    ellipticity_min: float = _number(0.0, 0.0, 0.9)  # modulus, any direction
    ellipticity_max: float = _number(0.2, 0.0, 0.9)
    shear_min: float = _number(0.0, 0.0, 0.5)  # strength, any direction
    shear_max: float = _number(0.1, 0.0, 0.5)
    source_magnitude_min: float = _number(22.0, 10.0, 32.0)  # unlensed
    source_magnitude_max: float = _number(24.0, 10.0, 32.0)
    source_radius_min: float = _number(0.1, 0.001, 10.0)
    source_radius_max: float = _number(0.5, 0.001, 10.0)
    source_index_min: float = _number(0.5, 0.3, 10.0)
    source_index_max: float = _number(4.0, 0.3, 10.0)
    source_axis_ratio_min: float = _number(0.4, 0.05, 1.0)
    source_axis_ratio_max: float = _number(1.0, 0.05, 1.0)
    lens_light_magnitude_min: float = _number(19.0, 10.0, 32.0)
    lens_light_magnitude_max: float = _number(21.0, 10.0, 32.0)
    lens_light_radius_min: float = _number(0.5, 0.001, 10.0)
    lens_light_radius_max: float = _number(1.5, 0.001, 10.0)
    lens_light_index_min: float = _number(2.0, 0.3, 10.0)
    lens_light_index_max: float = _number(5.0, 0.3, 10.0)
    subhalo_density_min: float = _number(0.01, 0.0, 10.0)  # per kpc^2
    subhalo_density_max: float = _number(0.1, 0.0, 10.0)
    subhalo_number: float = _number(0.0, 0.0, 1000.0)  # in every lens with subhalos; 0: Poisson, by their density
    subhalo_mass_min: float = _number(1e7, 1.0, 1e12)  # dN/dm is proportional to m^subhalo_slope
    subhalo_mass_max: float = _number(1e10, 1.0, 1e12)
    axion_fraction_min: float = _number(0.01, 0.0, 0.5)  # mass of the vortex over the mass inside the Einstein radius
    axion_fraction_max: float = _number(0.05, 0.0, 0.5)
    vortex_half_length_min: float = _number(0.03, 0.001, 10.0)  # uniform in its logarithm
    vortex_half_length_max: float = _number(3.0, 0.001, 10.0)
    lens_offset_max: float = _number(0.05, 0.0, 1.0)
    source_offset_max: float = _number(0.3, 0.0, 3.0)
    vortex_offset_max: float = _number(1.0, 0.0, 3.0)
    subhalo_radius_max: float = _number(3.0, 0.1, 10.0)
    subhalo_slope: float = _number(-1.9, -4.0, 1.0)
    subhalo_concentration: float = _number(13.0, 1.0, 100.0)
    subhalo_truncation: float = _number(5.0, 0.5, 100.0)  # in scale radii
    substructure_boost: float = _number(1.0, 0.0, 100.0)  # times the mass of every subhalo and vortex
    exposure_time: float = _number(0.0, 0.0, 1e9)  # seconds; 0: the instrument's own
    psf_fwhm: float = _number(0.0, 0.0, 10.0)  # arcsec, Gaussian; 0: the instrument's own
    field_of_view: float = _number(0.0, 0.0, 100.0)  # arcsec a side, in however many pixels; 0: the instrument's own
    instrument: Literal["hst-wfc3-f160w", "hst-acs", "euclid-vis"] = "hst-wfc3-f160w"
    subhalo_profile: Literal["truncated_nfw", "point"] = "truncated_nfw"
    lens_light: bool = False
    source_images: str = ""  # folder of FITS cutouts that take the place of Sersic sources; empty: none
    psf_file: str = ""  # FITS file with a point spread function in the instrument's pixels; empty: its Gaussian

    @model_validator(mode="after")
    def _ranges_go_upwards(self):
        for name, low in self:
            high = getattr(self, f"{name.removesuffix('_min')}_max", low)
            if name.endswith("_min") and low > high:
                most = f"{name.removesuffix('_min')}_max"
                raise ValueError(f"{name} = {low} is above {most} = {high}; swap them or change one")
        return self


def check_preset(name: str) -> None:
    """Raise `LensingError`, with the nearest and all known names, if no preset is called `name`."""
    if name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        mixed = " (a mixture is made by `lensstudy run`, from presets in its population)" if name == "mixture" else ""
        raise LensingError(f"preset '{name}' is unknown; {hint}known presets: {', '.join(PRESETS)}{mixed}")


def population_of(preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a preset's population, those `given` in place of their defaults.

    Raises `LensingError` for an unknown preset or parameter, or a value out of range.
    """
    check_preset(preset)
    model = RealisticPopulation if preset == "realistic" else PublishedPopulation
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}  # numpy's
    try:
        return model(**plain).model_dump()
    except ValidationError as error:
        raise LensingError(_in_words(preset, model, error.errors()[0])) from None


def _in_words(preset: str, model: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One problem of pydantic in a sentence: the parameter, its value, what was expected, the way out."""
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    name, value, fields = str(problem["loc"][0]), problem["input"], model.model_fields
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"preset {preset} has no parameter '{name}'.{hint} Its parameters: {', '.join(fields)}."
    if fields[name].annotation is str:
        expected = "a folder of FITS cutouts" if name == "source_images" else "a FITS file"
        return f"{name} = {value!r}; expected the name of {expected}, or nothing"
    if fields[name].annotation is not float:
        known = ", ".join(get_args(fields[name].annotation)) or "False, True"
        return f"{name} = {value!r} is unknown; choose one of {known}"
    limits = fields[name].metadata
    least, most = (next(getattr(one, end) for one in limits if hasattr(one, end)) for end in ("ge", "le"))
    return f"{name} = {value!r}; expected a number from {least:g} to {most:g}"
