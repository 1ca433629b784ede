"""The noise of an image as its empty parts show it: how large it is, and how many pixels share it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import ndimage

from lensstudy.observations.cutouts import Observation

__all__ = ["calibrated"]

LAGS = 2  # pixels: further apart, drizzling hardly correlates them
SMOOTH = 8.0  # pixels: what varies over more is no noise but what the model leaves
LEAST_PIXELS = 500  # to measure noise by


def calibrated(observation: Observation, model: np.ndarray, empty: np.ndarray) -> Observation:
    """The observation with its noise scaled so that chi square is 1 where nothing but `model` shines.

    Args:
        observation: an image with a noise map that is right up to a factor.
        model: what shines there, `(H, H)`.
        empty: True where that is all, `(H, H)`.

    Returns:
        The observation with `noise` scaled, and with `correlation`: the sum of the autocorrelation of the noise over
        all shifts, which is the number of pixels that count as one. What is left of the model's errors, over more
        pixels than `SMOOTH`, is taken out before. Where too few pixels are empty, it is returned as it is.
    """
    use = empty & ~observation.mask
    if use.sum() < LEAST_PIXELS:
        note = f"noise as given: {use.sum()} empty pixels are too few to measure it by"
        return replace(observation, notes=(*observation.notes, note))
    chi = np.where(use, (observation.image - model) / observation.noise, 0.0)
    share = ndimage.gaussian_filter(use.astype(float), SMOOTH)
    smooth = ndimage.gaussian_filter(chi, SMOOTH) / np.maximum(share, 1e-6)
    chi = np.where(use, chi - smooth, 0.0)
    most = 4 * 1.4826 * np.median(np.abs(chi[use]))
    use &= np.abs(chi) < most  # neighbours, cosmic rays
    chi = np.where(use, chi, 0.0)
    size = [2 * side for side in chi.shape]
    products, pairs = (
        np.fft.irfft2(np.abs(np.fft.rfft2(array, s=size)) ** 2, s=size) for array in (chi, use.astype(float))
    )
    near = np.ix_(np.arange(-LAGS, LAGS + 1), np.arange(-LAGS, LAGS + 1))
    variance = products[near] / np.maximum(pairs[near], 1)
    factor = float(np.sqrt(variance[LAGS, LAGS]))
    taken = variance.size * (2 - 1 / 2) / (2 * math.pi * SMOOTH**2)  # by what was subtracted: 2 k - k * k, k a Gaussian
    correlation = max(float(variance.sum() / variance[LAGS, LAGS]) / (1 - taken), 1.0)
    note = f"noise times {factor:.2f}, so that chi square is 1 off the arcs; {correlation:.1f} pixels count as one"
    return replace(
        observation,
        noise=observation.noise * factor,
        correlation=correlation,
        notes=(*observation.notes, note),
    )
