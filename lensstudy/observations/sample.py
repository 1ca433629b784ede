"""A sample of observed lenses: everything that lies at a path, which of it goes on, and why the rest does not."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError
from lensstudy.evaluation.scores import counted
from lensstudy.observations.cutouts import Observation, psf_fwhm
from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens import Lens
from lensstudy.observations.model_fits import row_of_model
from lensstudy.observations.reading import read_observations
from lensstudy.observations.writing import write_simulated
from lensstudy.progress import progress

__all__ = ["LensSample"]

SHARP = 0.35  # arcsec: a wider PSF hides what a subhalo does to an arc


@dataclass(frozen=True)
class LensSample:
    """Observed lenses, and what became of those that do not go on.

    Attributes:
        path: where they were read; empty for simulated observations.
        observations: every image that could be read, whole.
        lenses: those that go on, in the order of their names.
        skipped: the reason by file or image, of the last step.

    Example:
        >>> sample = LensSample.read()
        >>> [str(lens) for lens in sample.lenses]
        ['simulated-1', 'simulated-2', 'simulated-3']
    """

    path: str
    observations: list[Observation]
    lenses: list[Lens]
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str = "", seed: int = 1) -> LensSample:
        """Read every observation at a path, and take galaxy and arcs apart in those that are sharp enough.

        Args:
            path: a folder or file, as for `read_observations`; empty: simulated observations, written as FITS and read
                back.
            seed: of the simulated observations.

        Raises:
            DataError: nothing can be read, or no image is sharp and shows arcs.
        """
        with tempfile.TemporaryDirectory() as folder:
            observations, skipped = read_observations(path or write_simulated(folder, seed))
        for one in observations:
            if psf_fwhm(one) > SHARP:
                skipped[str(one)] = f"{one}: PSF of {psf_fwhm(one):.2f} arcsec, which hides substructure; up to {SHARP}"
        sharp = [one for one in observations if psf_fwhm(one) <= SHARP]
        lenses = _each(sharp, Lens.of, skipped, "lens light")
        return cls(path, observations, lenses, skipped).checked()

    @property
    def simulated(self) -> bool:
        """Whether these are simulated observations, because no path was given."""
        return not self.path

    @property
    def description(self) -> str:
        """What these images are and how many go on, in Markdown."""
        origin = (
            "**No real data here:** these are simulated observations, written as FITS and read back. Set "
            "`observations_path` to a folder of cutouts to ask about real lenses."
            if self.simulated
            else "Real telescope images."
        )
        read = counted(len(self.observations), "image")
        return f"{origin} {read} read, {len(self.lenses)} of them sharp enough and with arcs.\n\n{self.reasons}".strip()

    @property
    def reasons(self) -> str:
        """What was skipped in the last step and why, as a list in Markdown; empty if nothing was."""
        return "\n".join(["Skipped:\n", *(f"- {why}" for why in self.skipped.values())]) if self.skipped else ""

    @property
    def table(self) -> pd.DataFrame:
        """Every image that was read, and what had to be assumed about it."""
        return pd.DataFrame(
            {
                "lens": one.name,
                "band": one.band,
                "pixels": len(one.image),
                "pixel scale [arcsec]": one.pixel_scale,
                "PSF FWHM [arcsec]": psf_fwhm(one),
                "masked": float(one.mask.mean()),
                "goes on": "yes" if str(one) in set(map(str, self.lenses)) else "no",
                "assumed": "; ".join(one.notes) or "nothing",
            }
            for one in self.observations
        )

    @property
    def images(self) -> dict[str, dict[str, np.ndarray]]:
        """By lens, what was made of it, see `Lens.planes`."""
        return {str(lens): lens.planes for lens in self.lenses}

    @property
    def light_table(self) -> pd.DataFrame:
        """How well the light of the lens galaxies was subtracted."""
        return pd.DataFrame(
            {
                "image": str(lens),
                "chi square a pixel, core": lens.light.chi2_core,
                "elsewhere": lens.light.chi2,
                "pixels of the core masked": int((lens.bare.mask & ~lens.observation.mask).sum()),
                "verdict": "good" if lens.light.good else "the core is not to be trusted",
                "arcs at [arcsec]": lens.ring_radius,
            }
            for lens in self.lenses
        )

    @property
    def model_table(self) -> pd.DataFrame:
        """The smooth models of the lenses that have one."""
        rows = [(lens, row_of_model(lens, lens.model)) for lens in self.lenses if lens.fit]
        return pd.DataFrame(
            {
                "image": str(lens),
                "chi square a pixel": row["chi2"],
                "Einstein radius [arcsec]": row["einstein_radius"],
                "slope": row["slope"],
                "shear": math.hypot(row["shear_1"], row["shear_2"]),
                "redshifts": f"{row['redshift_lens']:g}, {row['redshift_source']:g}"
                + ("" if lens.model.redshifts_known else " (assumed)"),
                "doubts": row["reason"] or "none",
            }
            for lens, row in rows
        )

    def for_networks(self, networks: Sequence[SubstructureNetwork]) -> LensSample:
        """Return the lenses whose cutouts cover three quarters of every network's field of view.

        Raises:
            DataError: none does.
        """
        wanted = 0.75 * max(one.field_of_view for one in networks)
        narrow = {str(lens): lens.observation.field_of_view for lens in self.lenses}
        skipped = {
            name: f"{name}: {side:.2f} arcsec wide, but the networks need {wanted:.2f}"
            for name, side in narrow.items()
            if side < wanted
        }
        lenses = [lens for lens in self.lenses if str(lens) not in skipped]
        return replace(self, lenses=lenses, skipped=skipped).checked()

    def deepest(self) -> list[Lens]:
        """Of each lens the band in which the arcs stand out most."""
        best: dict[str, Lens] = {}
        for lens in self.lenses:
            if lens.name not in best or lens.signal > best[lens.name].signal:
                best[lens.name] = lens
        return list(best.values())

    def modelled(self) -> LensSample:
        """Return the deepest band of every lens with a smooth model, see `Lens.modelled`.

        Raises:
            DataError: no lens has a smooth model.
        """
        skipped: dict[str, str] = {}
        lenses = _each(self.deepest(), Lens.modelled, skipped, "lens models")
        return replace(self, lenses=lenses, skipped=skipped).checked()

    def checked(self) -> LensSample:
        """Return the sample, if a lens is left. Raises `DataError` if none is."""
        if self.lenses:
            return self
        where = self.path or "simulated observations"
        raise DataError("\n".join([f"{where}: no lens goes on:", *(f"- {why}" for why in self.skipped.values())]))


def _each(ones: Iterable, make: Callable[..., Lens], skipped: dict[str, str], label: str) -> list[Lens]:
    """What `make` makes of each, with a progress bar; where it cannot, the reason goes into `skipped`."""
    made = []
    for one in progress(ones, label):
        try:
            made.append(make(one))
        except DataError as error:
            skipped[str(one)] = str(error)
        except np.linalg.LinAlgError as error:
            skipped[str(one)] = f"{one}: cannot be fitted: {error}"
    return made
