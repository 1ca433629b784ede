"""A lens whose subhalo is known: where it lies in the image, and what networks make of it.

A published place is given in a frame of its own, and a file may show the sky rotated or reflected. `Orientation` finds
which of the eight rotations and reflections the arcs ask for, without asking a network; `Responses` and `Attributions`
then compare the networks with smooth counterparts and with chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from lensstudy.data.dataset import DataError
from lensstudy.evaluation.scores import counted
from lensstudy.observations.distribution import SubstructureNetwork
from lensstudy.observations.lens import Lens
from lensstudy.observations.recovery import Recovery, evidence_for_subhalo, on_the_arc
from lensstudy.observations.sample import LensSample
from lensstudy.observations.smooth_model import Subhalo, major_axis
from lensstudy.observations.validation import DistributionCheck, counting
from lensstudy.progress import progress
from lensstudy.training.recording import write_json

__all__ = ["FRAMES", "Attributions", "KnownSubhalo", "Orientation", "Responses", "save"]

PUBLISHED = {  # by what the name of a lens contains
    "0946+1006": (Subhalo(-0.651, 1.040, 3.51e9), "Vegetti et al. 2010, arXiv:0910.0760"),
}
FRAMES = {  # (a, b, c, d): the published (x, y) lies at (a x + b y, c x + d y) in the file
    "as it is": (1, 0, 0, 1),
    "rotated by 90°": (0, -1, 1, 0),
    "rotated by 180°": (-1, 0, 0, -1),
    "rotated by 270°": (0, 1, -1, 0),
    "reflected, as it is": (-1, 0, 0, 1),
    "reflected, rotated by 90°": (0, -1, -1, 0),
    "reflected, rotated by 180°": (1, 0, 0, -1),
    "reflected, rotated by 270°": (0, 1, 1, 0),
}
CHANCE_PLACES = 200
NEAR = 0.15  # arcseconds: about a PSF, within which one place cannot be told from another
SMOOTHING = 0.12  # arcsec: about a PSF, over which attributions are averaged


@dataclass(frozen=True)
class KnownSubhalo:
    """A lens with a subhalo whose place and mass are known.

    Attributes:
        lens: with a smooth model of one source.
        subhalo: its place relative to the lens, in the published frame, and its mass.
        reference: where that is published.
        sources: Sersic profiles that the source of this lens takes: a real galaxy is more than one profile, and what
            the model lacks looks like mass.
        note: what stands in place of the lenses that were asked for, if none of them has a known subhalo.
    """

    lens: Lens
    subhalo: Subhalo
    reference: str
    sources: int
    note: str = ""

    @classmethod
    def of(cls, sample: LensSample, seed: int = 1) -> KnownSubhalo:
        """Find the first lens with a known subhalo, published or in its `info.json`; a simulated one, if none has.

        Raises:
            DataError: what `info.json` says of the subhalo is no place and mass.
        """
        for lens in sample.deepest():
            if known := _subhalo(lens):
                sources = 1 if sample.simulated else 3
                return cls(lens.modelled(seed=seed), *known, sources)
        note = (
            f"None of the lenses at {sample.path} has a known subhalo (its `info.json` can say one: "
            '`"subhalo": {"x": -0.65, "y": 1.04, "mass": 3.5e9}`, in arcseconds from the lens and solar masses), so '
            "a simulated lens stands here. "
        )
        known = cls.of(LensSample.read("", seed), seed)
        return cls(known.lens, known.subhalo, known.reference, known.sources, note)

    @property
    def description(self) -> str:
        """Which lens and which subhalo, in a sentence."""
        place = f"({self.subhalo.x:+.2f}, {self.subhalo.y:+.2f}) arcsec"
        return (
            f"{self.note}**{self.lens}**: a subhalo of {self.subhalo.mass:.2e} solar masses at {place} from the lens "
            f"({self.reference})."
        )


def _subhalo(lens: Lens) -> tuple[Subhalo, str] | None:
    """The known subhalo of a lens and where it is published."""
    for key, known in PUBLISHED.items():
        if key in str(lens):
            return known
    if (about := lens.observation.about.get("subhalo")) is None:
        return None
    try:
        subhalo = Subhalo(*(float(about[name]) for name in ("x", "y", "mass")))
    except (KeyError, TypeError, ValueError):
        subhalo = Subhalo(np.nan, np.nan, np.nan)
    if not (np.isfinite([subhalo.x, subhalo.y, subhalo.mass]).all() and subhalo.mass > 0):
        raise DataError(
            f"{lens}: subhalo = {about} in info.json; expected x and y in arcseconds from the lens and a mass in solar "
            'masses, such as {"x": -0.65, "y": 1.04, "mass": 3.5e9}'
        )
    return subhalo, "its info.json"


def in_file(frame: str, positions: np.ndarray) -> np.ndarray:
    """Where `positions` `(n, 2)` of the published frame lie in a file that shows it as `frame` says."""
    a, b, c, d = FRAMES[frame]
    return np.atleast_2d(positions) @ np.array([[a, c], [b, d]])


def axis_in_file(frame: str, degrees: float) -> float:
    """Where an axis at `degrees` counter-clockwise from +x of the published frame points in the file, 0 to 180."""
    x, y = in_file(frame, np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]))[0]
    return float(np.degrees(np.arctan2(y, x)) % 180)


@dataclass(frozen=True)
class Orientation:
    """How the published frame lies in the file, as the arcs see it.

    Attributes:
        known: the lens and its subhalo.
        lens: the lens with the smooth model that is asked, of `known.sources` sources.
        places: of the subhalo under the eight `FRAMES`, `(8, 2)` in arcseconds from the middle of the image.
        gains: how much chi square falls with the subhalo's mass there, `(8,)`.
        chance_places, chance: random places on the arcs `(n, 2)`, and how much chi square falls there.
    """

    known: KnownSubhalo
    lens: Lens
    places: np.ndarray
    gains: np.ndarray
    chance_places: np.ndarray
    chance: np.ndarray

    @classmethod
    def of(cls, known: KnownSubhalo, seed: int = 1) -> Orientation:
        """Ask the arcs for a mass at the eight places, and at random places on the arcs."""
        lens = known.lens if known.sources == 1 else known.lens.modelled(known.sources, seed)
        published = np.array([known.subhalo.x, known.subhalo.y])
        places = np.concatenate([in_file(frame, published) for frame in FRAMES]) + lens.light.center
        random = on_the_arc(lens.model, CHANCE_PLACES, np.random.default_rng(seed))
        gains = evidence_for_subhalo(
            lens.model, np.concatenate([places, random]), known.subhalo.mass, description="places on the arcs"
        )
        return cls(known, lens, places, gains[: len(FRAMES)], random, gains[len(FRAMES) :])

    @property
    def frame(self) -> str:
        """The frame in which the arcs ask most for the subhalo."""
        return list(FRAMES)[self.gains.argmax()]

    @property
    def place(self) -> np.ndarray:
        """Its place `(2,)` in that frame, in arcseconds from the middle of the image."""
        return self.places[self.gains.argmax()]

    @property
    def runner_up(self) -> float:
        """How much chi square falls in the second best frame."""
        return float(np.sort(self.gains)[-2])

    @property
    def elsewhere(self) -> np.ndarray:
        """How much chi square falls at those random places that are `NEAR` none of the eight: beside the subhalo the
        arcs ask for a mass as well, and that is no chance."""
        distance = np.linalg.norm(self.chance_places[:, None] - self.places, axis=2).min(axis=1)
        return self.chance[distance > NEAR]

    @property
    def beaten(self) -> float:
        """Share of random places elsewhere that ask for a mass as much as the best frame, that one counted in."""
        return float((np.sum(self.elsewhere >= self.gains.max()) + 1) / (len(self.elsewhere) + 1))

    @property
    def p_value(self) -> float:
        """How often chance would do as well in one of the eight frames."""
        return 1 - (1 - self.beaten) ** len(FRAMES)

    @property
    def settled(self) -> bool:
        """Whether chance does as well in less than one case in twenty, and the runner-up half as well at most."""
        return bool(self.p_value < 0.05 and self.gains.max() > 2 * self.runner_up)

    @property
    def axis_off(self) -> np.ndarray:
        """Degrees between the axis of the lens's mass and its published direction, in each frame `(8,)`; not a number
        where none is published (`position_angle` in `info.json`: east of north, north up and east to the left)."""
        published = self.lens.observation.about.get("position_angle")
        if published is None:
            return np.full(len(FRAMES), np.nan)
        axis = major_axis(self.lens.model)
        return np.array([abs((axis - axis_in_file(frame, published + 90) + 90) % 180 - 90) for frame in FRAMES])

    @property
    def table(self) -> pd.DataFrame:
        """The eight frames: where the subhalo lies, how much chi square falls, and how the axis of the lens lies."""
        return pd.DataFrame(
            {
                "published frame": list(FRAMES),
                "x [arcsec]": self.places[:, 0],
                "y [arcsec]": self.places[:, 1],
                "chi square falls by": self.gains,
                "axis off by [degrees]": self.axis_off,
            }
        )

    @property
    def verdict(self) -> str:
        """Which frame it is, how sure that is, and what the axis of the lens says."""
        off = self.axis_off
        axis = (
            "No direction of the lens is published beside these files."
            if np.isnan(off).all()
            else f"There the direction of the lens's mass differs by {off[self.gains.argmax()]:.0f}° from the "
            f"published one, against {off.min():.0f}° to {off.max():.0f}° over the eight."
        )
        sure = (
            "which settles the orientation"
            if self.settled
            else "which does not settle the orientation: what follows is conditional on it"
        )
        return (
            f"The arcs ask most for a mass with the published frame **{self.frame}**: chi square falls by "
            f"{self.gains.max():.0f}, the runner-up by {self.runner_up:.0f}. Of {len(self.elsewhere)} random places on "
            f"the arcs, away from these eight, {self.beaten:.1%} ask for one as much; with eight tries, chance gives "
            f"that in {self.p_value:.1%} of cases, {sure}. {axis}"
        )

    @cached_property
    def reach(self) -> float:
        """Half the side of the map in arcseconds."""
        return 1.5 * self.lens.model.parameters["einstein_radius"]

    @cached_property
    def map(self) -> np.ndarray:
        """How much chi square falls with the subhalo at each place, `(21, 21)` from -`reach` to `reach`."""
        axis = np.linspace(-self.reach, self.reach, 21)
        places = np.array([(x, y) for y in axis for x in axis])
        mass = self.known.subhalo.mass
        return evidence_for_subhalo(self.lens.model, places, mass, description="map").reshape(len(axis), -1)


@dataclass(frozen=True)
class Responses:
    """What networks say of the image of a lens with a known subhalo, and of its smooth counterparts.

    Attributes:
        lens: its name.
        observed: probability of substructure of the image, by network.
        smooth: those of its smooth counterparts `(n,)`.
        distribution: whether the image is in the distribution of the training images.
        recovery: subhalos put on the arcs of its smooth model.
    """

    lens: str
    observed: dict[str, float]
    smooth: dict[str, np.ndarray]
    distribution: DistributionCheck
    recovery: Recovery

    @classmethod
    def of(
        cls, networks: Sequence[SubstructureNetwork], lens: Lens, draws: int, abstain_below: float, seed: int = 1
    ) -> Responses:
        """Ask every network about the image, its smooth counterparts, and subhalos put on its arcs; see `Recovery`."""
        recovery = Recovery.of(networks, [lens], draws, seed)
        observed = {one.label: float(one.substructure(lens.seen_by(one))[0]) for one in networks}
        distribution = DistributionCheck.of(networks, [lens], abstain_below)
        return cls(str(lens), observed, recovery.smooth[str(lens)], distribution, recovery)

    @property
    def above(self) -> dict[str, float]:
        """Share of smooth counterparts with a probability at least as high as the image's, that one counted in."""
        return {
            label: float((np.sum(smooth >= self.observed[label]) + 1) / (len(smooth) + 1))
            for label, smooth in self.smooth.items()
        }

    @property
    def table(self) -> pd.DataFrame:
        """One row a network: the image, its smooth counterparts, and whether it is in distribution."""
        return pd.DataFrame(
            {
                "probability of substructure": self.observed,
                "smooth counterparts": {label: float(np.median(smooth)) for label, smooth in self.smooth.items()},
                "smooth counterparts at least as high": self.above,
                "p-value of the image": self.distribution.p_values.loc[self.lens].to_dict(),
            }
        ).rename_axis("network")

    @property
    def answer(self) -> str:
        """How many networks tell the image from its smooth counterparts, and for how many that counts."""
        found = [label for label, share in self.above.items() if share < 0.05]
        counted_on = [label for label in found if label in counting(self.distribution, self.recovery)]
        return (
            f"{self.lens}, whose subhalo is known: {len(found)} of {counted(len(self.observed), 'network')} give its "
            f"image more than all but 5 % of its smooth counterparts; the answers of {len(counted_on)} of them count."
        )


@dataclass(frozen=True)
class Attributions:
    """Where in the image each network sees substructure, compared with the place of the known subhalo.

    Attributes:
        maps: what each pixel adds to the log odds of substructure `(S, S)`, and half the side of the map in arcseconds,
            by network.
        place: of the subhalo, in arcseconds from the lens.
        table: one row a network, against random places on the arcs.
    """

    maps: dict[str, tuple[np.ndarray, float]]
    place: np.ndarray
    table: pd.DataFrame

    @classmethod
    def of(cls, networks: Sequence[SubstructureNetwork], orientation: Orientation) -> Attributions:
        """Attribute the prediction of every network to the pixels, averaged over rotations and reflections."""
        lens, middle = orientation.lens, np.array(orientation.lens.light.center)
        place, random = orientation.place - middle, orientation.chance_places - middle
        maps, rows = {}, {}
        for network in progress(networks, "attributions"):
            found, pixel = network.attribution(lens.seen_by(network))
            maps[network.label] = found, len(found) * pixel / 2
            rows[network.label] = _compared(found, pixel, place, random)
        return cls(maps, place, pd.DataFrame(rows).T.rename_axis("network"))


def _compared(attribution: np.ndarray, pixel: float, place: np.ndarray, random: np.ndarray) -> dict[str, float]:
    """The strength of an attribution `(S, S)` at a place and its peak, against `random` places `(n, 2)`, all in
    arcseconds from the middle."""
    strength = gaussian_filter(np.abs(attribution), SMOOTHING / pixel)
    middle = (len(strength) - 1) / 2

    def at(positions: np.ndarray) -> np.ndarray:
        column, row = np.clip(np.round(positions / pixel + middle).astype(int).T, 0, len(strength) - 1)
        return strength[row, column]

    row, column = np.unravel_index(strength.argmax(), strength.shape)
    distance = float(np.hypot(*((np.array([column, row]) - middle) * pixel - place)))
    stronger = at(random) >= at(place[None])[0]
    return {
        "places on the arc with more": float((np.sum(stronger) + 1) / (len(stronger) + 1)),
        "peak is off by [arcsec]": distance,
        "random places that near": float(np.mean(np.hypot(*(random - place).T) <= distance)),
    }


def save(file: str | Path, orientation: Orientation, responses: Responses, attributions: Attributions) -> Path:
    """Write what was found about a known subhalo as JSON; returns the file."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    summary = {
        "answer": responses.answer,
        "lens": responses.lens,
        "published_frame": orientation.frame,
        "chi_square_falls_by": float(orientation.gains.max()),
        "runner_up": orientation.runner_up,
        "chance": orientation.p_value,
        "networks": responses.table.to_dict(orient="index"),
        "attribution": attributions.table.to_dict(orient="index"),
    }
    write_json(file, summary)
    return file
