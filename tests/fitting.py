"""Fit a smooth lens to an image of DeepLense's Common Test 1: what recovered the recipe of the preset `common_test`."""

import numpy as np
import torch
from scipy.optimize import least_squares

from lensstudy.instrument import INSTRUMENTS
from lensstudy.population import complete, preset_named
from lensstudy.raytracing import render_batch

RECIPE = preset_named("common_test")
INSTRUMENT = INSTRUMENTS["deeplense-common-test"]
SKY = 10.0
CORNERS = (slice(None, 20), slice(-20, None))
START = ("einstein_radius", "shear_1", "shear_2", "source_e1", "source_e2", "source_x", "source_y")


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
    return render_batch([complete(parameters)], RECIPE, INSTRUMENT, image_size, dtype=torch.float64)[0]


def chi_square(parameters: dict, counts: np.ndarray) -> float:
    """Chi square per pixel under photon noise of image and sky."""
    expected = model(parameters) + SKY
    return float(((counts - expected) ** 2 / expected).mean())


def fit(counts: np.ndarray, starts: list[dict], free: tuple[str, ...] = START) -> tuple[dict, float]:
    """The best fit from any of `starts`, adjusting the parameters `free`, and its chi square per pixel."""

    def residuals(values, start):
        expected = np.maximum(model(start | dict(zip(free, values, strict=True))), 0) + SKY
        return ((counts - expected) / np.sqrt(expected)).ravel()

    best = None
    for start in starts:
        found = least_squares(residuals, [start[name] for name in free], args=(start,), x_scale=0.05, max_nfev=25)
        parameters = start | dict(zip(free, found.x.tolist(), strict=True))
        if best is None or found.cost < best[2]:
            best = parameters, chi_square(parameters, counts), found.cost
    return best[:2]


def likely_starts(counts: np.ndarray, tried: int = 3000, kept: int = 2, seed: int = 0) -> list[dict]:
    """Of many smooth lenses of the recipe, those that look most like the image at a third of its resolution."""
    generator = np.random.default_rng(seed)
    rows = [complete(RECIPE.draw("no_sub", generator, {})) for _ in range(tried)]
    small = counts.reshape(50, 3, 50, 3).sum(axis=(1, 3)) - 9 * SKY
    batches = [render_batch(rows[i : i + 64], RECIPE, INSTRUMENT, 50) for i in range(0, tried, 64)]
    expected = np.concatenate(batches)
    distance = ((expected - small) ** 2 / (expected + 9 * SKY + 0.01 * small.max() * small.clip(0))).mean(axis=(1, 2))
    return [rows[i] for i in np.argsort(distance)[:kept]]
