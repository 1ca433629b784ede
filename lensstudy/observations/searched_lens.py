"""A lens that is searched for one subhalo, step by step, with what every step finds kept in files.

The steps, in this order: the smooth model; a scan of the arcs; fits of the best places; and, if the search is
`in_full`, the mass that would show elsewhere, how far each parameter of the best may go, and the same fit with other
models. None of them knows what is published of a lens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lensstudy.files import read_json, whole_file, write_json
from lensstudy.observations.cutouts import Observation
from lensstudy.observations.lens import Lens
from lensstudy.observations.lens_model import CORE, MASS, SOURCES, LensModel, isothermal
from lensstudy.observations.model_fits import fingerprint
from lensstudy.observations.one_subhalo import SUBHALO, SubhaloFit, SubhaloSearch, cut_nfw, ends_of

__all__ = ["SearchedLens"]

KNOWN = ("subhalo", "position_angle", "position_angle_degrees")  # of what stands beside an image, for later
FITS = 3  # places of the scan that are fitted
RECIPE = 2  # goes up with every change of what is done or called a subhalo
WITHOUT_MULTIPOLES = range(list(MASS).index("multipole_3_cos"))


@dataclass(frozen=True)
class SearchedLens:
    """What a search for one subhalo found in one image of a lens.

    Places are in arcseconds from the middle of the lens's light, masses within 1 kpc along the line of sight in solar
    masses, falls and rises of chi square as in `SubhaloFit`.

    Attributes:
        name: of the image; `about` it, what stood beside it.
        smooth: numbers of the smooth model: `chi2` a pixel, `einstein_radius`, `slope`, and the `axis` of its mass.
        fits: the best of the scan, as dictionaries of `SubhaloFit` with whether it `counts`, that of most evidence
            first.
        control: by how much chi square falls at most with a negative mass, in the scan or fitted as fully.
        variants: the first of `fits`, with other models; empty unless in full.
        pixel_scale: arcseconds a pixel of `arcs` `(H, H)`, the arcs in units of their noise.
        middle: of the lens's light, in arcseconds from the middle of the image.
        scanned: `(n, 4)`, x, y, mass and fall of chi square where each fit of the scan ends, the best first.
        shows: as in `SubhaloSearch.shows`; empty unless in full.
        profiles: `(4, 2, 9)`, of each of `SUBHALO` values and how much chi square rises, that of a strength as a mass;
            empty unless in full.
    """

    name: str
    about: dict
    smooth: dict[str, float]
    fits: list[dict]
    control: float
    variants: list[dict]
    pixel_scale: float
    middle: np.ndarray
    arcs: np.ndarray
    scanned: np.ndarray
    shows: np.ndarray
    profiles: np.ndarray

    @classmethod
    def of(
        cls, observation: Observation, folder: str | Path, step: float, splines: list[int], in_full: bool
    ) -> SearchedLens:
        """Search an observation; what is in `folder` for the same pixels and settings is taken from there.

        Args:
            observation: with the lens galaxy in it.
            folder: for `NAME.json` and `NAME.npz`.
            step: arcseconds between the places where the scan starts.
            splines: along each axis of the source; those after the first are tried as variants.
            in_full: whether the steps after the fits are taken.

        Raises:
            DataError: no model can be fitted, see `fit_lens_model`.
        """
        file = Path(folder) / f"{observation.name}.json"
        mark = fingerprint(observation, step, splines, in_full, RECIPE)
        if file.exists() and (kept := read_json(file)).pop("fingerprint", "") == mark:
            return cls(**kept, **np.load(file.with_suffix(".npz")))
        found = _searched(observation, step, splines, in_full)
        file.parent.mkdir(parents=True, exist_ok=True)
        numbers = {one.name: getattr(found, one.name) for one in fields(cls)}
        arrays = {name: numbers.pop(name) for name in list(numbers) if isinstance(numbers[name], np.ndarray)}
        with whole_file(file.with_suffix(".npz")) as end:
            np.savez_compressed(end, **arrays)
        write_json(file, numbers | {"fingerprint": mark})
        return found

    @property
    def best(self) -> dict:
        """The fit of most evidence."""
        return self.fits[0]

    @property
    def counts(self) -> bool:
        """Whether the best fit counts as a subhalo."""
        return self.best["counts"]

    @property
    def in_core(self) -> float:
        """By how much chi square falls at most with a positive mass in the core, which the rule leaves out."""
        inside = (np.hypot(*self.scanned[:, :2].T) < CORE) & (self.scanned[:, 2] > 0)
        return float(self.scanned[inside, 3].max(initial=0.0))

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """The 95 % interval of each of `SUBHALO`, that of the strength as a mass and that of the size in arcseconds."""
        ends = {name: ends_of(*one) for name, one in zip(("x", "y", "mass", "size"), self.profiles, strict=False)}
        if "size" in ends:
            ends["size"] = max(ends["size"][0], 0.0), ends["size"][1]  # nothing is smaller than a point
        return ends

    @property
    def table(self) -> pd.DataFrame:
        """The fits, one row each."""
        return pd.DataFrame(
            {
                "x [arcsec]": fit["x"],
                "y [arcsec]": fit["y"],
                "mass within 1 kpc": fit["mass"],
                "+-": fit["mass_error"],
                "truncated at [arcsec]": fit["size"],
                "chi square falls by": fit["chi2_falls"],
                "ln evidence rises by": fit["evidence_rises"],
                "counts": "yes" if fit["counts"] else "no",
            }
            for fit in self.fits
        )


def _searched(observation: Observation, step: float, splines: list[int], in_full: bool) -> SearchedLens:
    lens = Lens.of(observation)
    model = _modelled(lens, splines[0])
    search = SubhaloSearch.of(model)
    scan = search.scan(search.places(step))
    fits = search.fits(scan, FITS)
    best = fits[0]
    arcs = np.where(lens.bare.mask, 0.0, (model.observation.image - model.galaxy) / model.observation.noise)
    values = np.array([one.values[-len(SUBHALO) :] for one in scan])
    falls = [search.smooth.cost - one.cost for one in scan]
    shows, profiles, variants = np.zeros((0, 3)), np.zeros((0, 2, 9)), []
    if in_full:
        shows = search.shows()
        profiles = np.array([_in_units(search, name, *one) for name, one in search.profiles(best).items()])
        variants = list(_variants(lens, model, best, splines))
    return SearchedLens(
        str(observation),
        {key: observation.about[key] for key in KNOWN if key in observation.about},
        {
            "chi2": float(model.chi2),
            "einstein_radius": model.parameters["einstein_radius"],
            "slope": float(search.smooth.values[1]),
            "axis": isothermal(search.smooth.values)[2],
        },
        [_row(fit) | {"counts": search.is_subhalo(fit, scan, fits)} for fit in fits],
        search.control(scan, fits),
        variants,
        observation.pixel_scale,
        np.array(search.middle),
        arcs,
        np.column_stack([values[:, :2] - search.middle, values[:, 2] * search.solar_masses, falls]),
        shows,
        profiles,
    )


def _modelled(lens: Lens, splines: int) -> LensModel:
    return lens.modelled(replace(SOURCES, cells=splines)).model


def _row(fit: SubhaloFit) -> dict:
    return {name: float(value) for name, value in vars(fit).items() if name != "state"}


def _in_units(search: SubhaloSearch, name: str, values: np.ndarray, rises: np.ndarray) -> np.ndarray:
    """A profile likelihood in arcseconds from the lens, or in solar masses."""
    if name in ("x", "y"):
        values = values - search.middle["xy".index(name)]
    elif name == "strength":
        values = values * search.solar_masses
    else:
        values = np.exp(values)
    return np.stack([values, rises])


def _variants(lens: Lens, model: LensModel, best: SubhaloFit, splines: list[int]) -> Iterator[dict]:
    """Fits with other models, each of which starts with a light subhalo where the search has found one."""
    place = best.x, best.y
    flat = replace(model, values=np.where(np.arange(len(MASS)) < len(WITHOUT_MULTIPOLES), model.values, 0.0))
    searches: dict[str, Callable[[], SubhaloSearch]] = {
        "truncated NFW": lambda: SubhaloSearch.of(model, cut_nfw),
        "no multipoles": lambda: SubhaloSearch.of(flat, free=WITHOUT_MULTIPOLES),
    }
    for count in splines[1:]:
        searches[f"{count} splines"] = partial(lambda count: SubhaloSearch.of(_modelled(lens, count)), count)
    for name, prepared in searches.items():
        search = prepared()
        yield {"variant": name, **_row(search.at_place(place))}
