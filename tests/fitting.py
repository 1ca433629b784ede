"""Fit a lens to an image of DeepLense's Common Test 1, smooth or with a line or points of mass.

This is what recovered the parameters of the preset `common_test`.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import least_squares

from lensstudy.lensing.instruments import INSTRUMENTS
from lensstudy.lensing.populations import complete, preset_named
from lensstudy.lensing.rendering import render_batch

PRESET = preset_named("common_test")
INSTRUMENT = INSTRUMENTS["deeplense-common-test"]
SKY = 10.0
CORNERS = (slice(None, 20), slice(-20, None))
START = ("einstein_radius", "shear_1", "shear_2", "source_e1", "source_e2", "source_x", "source_y")
LINE = ("vortex_x", "vortex_y", "vortex_half_length", "vortex_angle", "vortex_mass")


def counts_of(image: np.ndarray) -> np.ndarray:
    """Photon counts `(H, W)` of an image that was scaled from 0 to 1: its values are whole steps apart.

    The minimum was subtracted; the corners, where there is nothing but sky, say how much that was.
    """
    steps = np.diff(np.unique(image))
    counts = image / steps[steps > 1e-9].min()
    corners = np.concatenate([counts[rows, columns].ravel() for rows in CORNERS for columns in CORNERS])
    return counts + np.round(SKY - corners.mean())


def model(parameters: dict, image_size: int = 150) -> np.ndarray:
    """Expected counts `(H, W)` of a lens without sky, float64."""
    lens = complete(parameters | {"halo_einstein_radius": parameters["einstein_radius"]})  # substructure on top of it
    return render_batch([lens], PRESET, INSTRUMENT, image_size, dtype=torch.float64)[0]


def chi_square(parameters: dict, counts: np.ndarray) -> float:
    """Chi square per pixel under photon noise of image and sky."""
    expected = model(parameters) + SKY
    return float(((counts - expected) ** 2 / expected).mean())


def residuals(parameters: dict, counts: np.ndarray) -> np.ndarray:
    """In sigma, one number a pixel."""
    expected = np.maximum(model(parameters), 0) + SKY
    return ((counts - expected) / np.sqrt(expected)).ravel()


def adjust(first, steps, parameters_of: Callable[[np.ndarray], dict], counts: np.ndarray) -> tuple[dict, float]:
    """The parameters near `first` that fit best, in units of `steps`, and half their chi square."""

    def left(values: np.ndarray) -> np.ndarray:
        return residuals(parameters_of(values * steps), counts)

    def slopes(values: np.ndarray) -> np.ndarray:
        here = left(values)
        return np.stack([(left(values + step) - here) / step.max() for step in 2e-3 * np.eye(len(values))], axis=1)

    found = least_squares(left, np.asarray(first) / steps, slopes, max_nfev=30)
    return parameters_of(found.x * steps), found.cost


def fit(counts: np.ndarray, starts: list[dict], free: tuple[str, ...] = START) -> tuple[dict, float]:
    """The best fit from any of `starts`, adjusting the parameters `free`, and its chi square per pixel."""
    found = []
    for start in starts:
        steps = np.array([0.03 * start[name] if "mass" in name else 0.05 for name in free])
        first = [start[name] for name in free]
        found.append(
            adjust(first, steps, lambda v, start=start: start | dict(zip(free, v.tolist(), strict=True)), counts)
        )
    best, _ = min(found, key=lambda one: one[1])
    return best, chi_square(best, counts)


def fit_with_subhalo(lens: dict, counts: np.ndarray) -> tuple[dict, float]:
    """The fit of `lens` with one more point mass, and its chi square per pixel."""
    mass = 0.003 * lens["einstein_radius"] ** 2 / PRESET.area_per_mass
    places = np.arange(-1.95, 2.0, 0.15)
    subhalos = [(x, y) for x in places for y in places if 0.1 < np.hypot(x, y) < 2]
    tried = [with_subhalos(lens, [*subhalos_of(lens), (*subhalo, mass)]) for subhalo in subhalos]
    start = tried[int(np.argmax(gain(tried, lens, counts)))]

    def changed(values: np.ndarray) -> dict:
        macro = dict(zip(START, values[: len(START)].tolist(), strict=True))
        return with_subhalos(start | macro, values[len(START) :].reshape(-1, 3).tolist())

    first = np.concatenate([[start[name] for name in START], np.ravel(subhalos_of(start))])
    steps = np.concatenate([np.full(len(START), 0.05), np.tile([0.05, 0.05, 0.1 * mass], len(subhalos_of(start)))])
    best, _ = adjust(first, steps, changed, counts)
    return best, chi_square(best, counts)


def gain(tried: list[dict], lens: dict, counts: np.ndarray) -> np.ndarray:
    """By how much chi square falls, to first order, where what each of `tried` adds to `lens` may have any mass and the
    smooth lens adjusts to it."""
    left = residuals(lens, counts)
    slopes = [(residuals(lens | {name: lens[name] + 1e-4}, counts) - left) / 1e-4 for name in START]
    smooth, _ = np.linalg.qr(np.stack(slopes, axis=1))
    gains = []
    for one in tried:
        added = left - residuals(one, counts)
        added -= smooth @ (smooth.T @ added)
        gains.append(max(added @ left, 0) ** 2 / (added @ added))
    return np.array(gains)


def subhalos_of(lens: dict) -> list[tuple]:
    return list(zip(lens["subhalo_x"], lens["subhalo_y"], lens["subhalo_mass"], strict=True))


def with_subhalos(lens: dict, subhalos: list) -> dict:
    x, y, mass = np.array(subhalos).T
    return lens | {"subhalo_x": x, "subhalo_y": y, "subhalo_mass": np.maximum(mass, 0)}


def likely_starts(counts: np.ndarray, tried: int = 3000, kept: int = 2, seed: int = 0) -> list[dict]:
    """Of many smooth lenses of the preset, those closest to the image at a third of its resolution."""
    generator = np.random.default_rng(seed)
    rows = [complete(PRESET.draw("no_sub", generator, {})) for _ in range(tried)]
    small = counts.reshape(50, 3, 50, 3).sum(axis=(1, 3)) - 9 * SKY
    batches = [render_batch(rows[i : i + 64], PRESET, INSTRUMENT, 50) for i in range(0, tried, 64)]
    expected = np.concatenate(batches)
    distance = ((expected - small) ** 2 / (expected + 9 * SKY + 0.01 * small.max() * small.clip(0))).mean(axis=(1, 2))
    return [rows[i] for i in np.argsort(distance)[:kept]]
