"""What lies between two presets: the images of one, with some of what it differs in taken from another.

A staircase leads from one telescope, and the lenses that it sees, to another. `Between` makes the images on any step of
it: each lens is drawn from both presets, and what is `taken` from the second one is its own. With nothing taken the
images are those of the first preset, and with everything those of the second.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.lensing.instruments import Instrument, noise_variance
from lensstudy.lensing.populations import (
    LENS_LIGHT,
    LISTS,
    MACRO,
    SOURCE,
    VORTEX,
    Preset,
    complete,
    preset_named,
    with_equal_mass,
)
from lensstudy.lensing.presets import LensingError
from lensstudy.lensing.rendering import render_batch
from lensstudy.lensing.simulation import Request, draw_lenses, observe, whole_batches

__all__ = ["DIFFERENCES", "Between"]

DIFFERENCES = {  # in the order of a staircase: the telescope, the galaxies, the dark matter, the simulator
    "noise": "how bright an image is against its noise, and what its noise is",
    "PSF": "the point spread function",
    "field": "the field of view and, with as many pixels, their size",
    "source": "size, profile, shape and place of the source, and how its brightness varies",
    "lens light": "whether the lens shines",
    "lens shape": "ellipticity, shear and centre of the lens",
    "ring size": "the Einstein radius, drawn alike for every class",
    "substructure": "how many subhalos, how heavy and where, and the same of vortices",
    "mass": "whether the mean mass inside the Einstein radius, or the range of that radius, differs between classes",
    "rays": "one ray a pixel, or as many as its noise asks for",
    "unit": "counts, or each image in units of its own peak or range",
}
NOISE = ("zero_point", "sky_magnitude", "exposure_time", "exposures", "read_noise", "background_rms", "photon_noise")
TRUTH = {
    "source": (*SOURCE, "source_angle", "source_image"),
    "lens light": LENS_LIGHT,
    "lens shape": MACRO[1:],
    "ring size": MACRO[:1],
    "substructure": (*VORTEX, "subhalo_truncation", *LISTS),
}
PEAK_IMAGES = 64  # whose median peak says how bright the images of a preset are


@dataclass(frozen=True)
class Between:
    """Two presets, and the images between them.

    Brightness is counted in units of the median peak of each preset's images: where one has ten times the counts of the
    other, that is a difference of noise and of unit, and of nothing else.

    Args:
        home: the preset that images are of where nothing is taken, as `simulation.checked_request` gives it.
        away: the other one, in images of as many pixels, best with another seed. Its lenses take part with theirs.

    Raises:
        LensingError: the images are of different sizes.
    """

    home: Request
    away: Request

    def __post_init__(self):
        if self.home.image_size != self.away.image_size:
            raise LensingError(
                f"images of {self.home.image_size} and {self.away.image_size} pixels; ask for as many of both"
            )

    @cached_property
    def brightness(self) -> float:
        """Median peak of images of `away` in counts, over that of `home`."""
        peaks = []
        for request in (self.away, self.home):
            rows, _ = draw_lenses(request, "no_sub", range(PEAK_IMAGES))
            preset, size = preset_named(request.preset), request.image_size
            images = render_batch(rows, preset, request.instrument, size, noise_level=request.noise_level)
            peaks.append(float(np.median(images.max(axis=(1, 2)))))
        return peaks[0] / peaks[1]

    def images(self, taken: Collection[str], class_name: str, count: int) -> tuple[np.ndarray, pd.DataFrame]:
        """Simulate the first `count` lenses of a class.

        Args:
            taken: some of `DIFFERENCES`, which are as in `away`.
            class_name: `no_sub`, `cdm` or `axion`.
            count: how many.

        Returns:
            Images `(N, 1, H, W)`, float32, and their truth as a catalogue, with the `noise_rms` of the background in
            the images' units and the `noise_time`, the exposure time that photon noise goes by.

        Raises:
            LensingError: something else is to be taken.
        """
        if unknown := sorted(set(taken) - set(DIFFERENCES)):
            raise LensingError(f"'{unknown[0]}' is no difference of two presets; there are {', '.join(DIFFERENCES)}")
        pieces = [self._batch(taken, class_name, numbers) for numbers in whole_batches(self.home, 0, count)]
        images = np.concatenate([images for images, _ in pieces])[:count, None]
        return images, pd.DataFrame([row for _, rows in pieces for row in rows][:count])

    def camera(self, taken: Collection[str]) -> Instrument:
        """The telescope of the images."""
        mine, other = self.home.instrument, self.away.instrument
        changed = {name: getattr(other, name) for name in NOISE} if "noise" in taken else {}
        if "PSF" in taken:
            changed |= {name: getattr(other, name) for name in ("psf_fwhm", "psf_truncation", "psf_file")}
        if "field" in taken:
            changed |= {"image_size": other.image_size, "pixel_scale": other.pixel_scale}
        return replace(mine, **changed)

    def of(self, taken: Collection[str], difference: str) -> Request:
        """Whose a difference is: `away` where it is taken."""
        return self.away if difference in taken else self.home

    def counts(self, taken: Collection[str], difference: str) -> float:
        """The counts that one count of `home` is there."""
        return self.brightness if difference in taken else 1.0

    @cached_property
    def differences(self) -> list[str]:
        """Those of `DIFFERENCES` in which the two presets differ, in their order."""
        presets = [preset_named(one.preset) for one in (self.home, self.away)]
        brighter = not np.isclose(self.brightness, 1, atol=0.01)
        noisier = self.camera(["noise"]) != self.home.instrument or self.home.noise_level != self.away.noise_level
        differ = {
            "noise": noisier or brighter,
            "PSF": self.camera(["PSF"]) != self.home.instrument,
            "field": self.camera(["field"]) != self.home.instrument,
            "mass": _has_equal_mass(self.home) != _has_equal_mass(self.away),
            "rays": presets[0].integration_error != presets[1].integration_error,
            "unit": presets[0].scaling != presets[1].scaling or brighter,
        }
        mine, other = (
            [row for name in ("cdm", "axion") for row in draw_lenses(request, name, range(4))[0]]
            for request in (self.home, self.away)
        )
        for group, names in TRUTH.items():
            pairs = [(one[name], two[name]) for one, two in zip(mine, other, strict=True) for name in names]
            differ[group] = not all(np.array_equal(*pair) for pair in pairs)
        differ["lens light"] &= any(row["lens_light_amplitude"] > 0 for row in mine + other)
        return [name for name in DIFFERENCES if differ[name]]

    def preset(self, taken: Collection[str]) -> Preset:
        """The preset by whose conventions the images are rendered."""
        matter, rays = (preset_named(self.of(taken, name).preset) for name in ("substructure", "rays"))
        conventions: dict[str, Any] = {"area_per_mass": matter.area_per_mass, "vortex_points": matter.vortex_points}
        return replace(preset_named(self.home.preset), integration_error=rays.integration_error, **conventions)

    def _batch(self, taken: Collection[str], class_name: str, numbers: range) -> tuple[np.ndarray, list[dict]]:
        """Images `(n, H, W)` of one batch and their truth. They are rendered in the counts of `home`, for whose noise
        pixels have as many rays as it asks for."""
        rows, times, generators = self._lenses(taken, class_name, numbers)
        preset, level = self.preset(taken), self.of(taken, "noise").noise_level
        lit, size = self.camera(set(taken) - {"noise"}), self.home.image_size
        expected = render_batch(rows, preset, lit, size, noise_level=self.home.noise_level)
        exposed = np.float32(self.counts(taken, "noise")) * expected
        timed = [{"exposure_time": time} for time in times]
        stored, telescope = preset_named(self.of(taken, "unit").preset), self.camera(taken)
        images, unit = observe(exposed, timed, generators, stored, telescope, level)
        if stored.scaling == "counts":
            unit = unit * np.float32(self.counts(taken, "noise") / self.counts(taken, "unit"))
            images = images / unit[:, None, None]
        for row, time, image, one in zip(rows, times, exposed, unit, strict=True):
            dark = noise_variance(np.zeros_like(image), telescope, time)[0, 0]
            rms = np.sqrt(dark) if level is None else level * image.max()
            row |= {"class": class_name, "noise_rms": float(rms / one), "noise_time": time}
        return images, rows

    def _lenses(
        self, taken: Collection[str], class_name: str, numbers: range
    ) -> tuple[list[dict], list[float], list[np.random.Generator]]:
        """Complete rows, the exposure times of their noise and the generators that draw it."""
        equal = _has_equal_mass(self.of(taken, "mass"))
        (mine, own), (others, foreign) = (
            draw_lenses(replace(one, population=one.population | {"equal_mass": equal}), class_name, numbers)
            for one in (self.home, self.away)
        )
        rows = [self._joined(taken, *pair) for pair in zip(mine, others, strict=True)]
        if equal:
            rows = [complete(with_equal_mass(row, self.preset(taken).area_per_mass)) for row in rows]
        times = [row["exposure_time"] for row in (others if "noise" in taken else mine)]
        return rows, times, foreign if "noise" in taken else own

    def _joined(self, taken: Collection[str], mine: dict, other: dict) -> dict:
        """One lens with what is taken from the other. Its substructure stays where it is about the lens."""
        row = mine | {name: other[name] for group in TRUTH if group in taken for name in TRUTH[group]}
        counts = other["exposure_time"] / mine["exposure_time"] / self.brightness
        for group, name in (("source", "source_amplitude"), ("lens light", "lens_light_amplitude")):
            row[name] *= counts if group in taken else 1
        center = other if "substructure" in taken else mine
        for axis in "xy":
            for name in (f"subhalo_{axis}", f"vortex_{axis}"):
                row[name] = row[name] + (row[f"lens_{axis}"] - center[f"lens_{axis}"])
        del row["halo_einstein_radius"]
        return complete(row)


def _has_equal_mass(request: Request) -> bool:
    """Whether the mean mass inside the Einstein radius is the same for every class."""
    return bool(request.population.get("equal_mass", request.preset == "realistic"))
