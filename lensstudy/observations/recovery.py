"""Subhalos put into a smooth model: are they recovered, from which mass on, and where do the arcs prefer one?"""

from __future__ import annotations

import math

import numpy as np
import torch

from lensstudy.observations.smooth_model import (
    SmoothModel,
    Subhalo,
    expected,
    render,
    subhalo_deflection,
    tensors,
)

__all__ = ["evidence_for_subhalo", "least_mass", "on_the_arc", "recovered_share"]


def on_the_arc(model: SmoothModel, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` positions `(count, 2)` in arcseconds, drawn on the model's arcs in proportion to their brightness."""
    image = np.clip(expected(model), 0, None)
    image = np.where(image > 0.1 * image.max(), image, 0)
    chosen = generator.choice(image.size, count, p=(image / image.sum()).ravel())
    rows, columns = np.unravel_index(chosen, image.shape)
    x, y = model.observation.grid()
    return np.stack([x[0, columns], y[rows, 0]], axis=1)


def recovered_share(smooth: np.ndarray, injected: np.ndarray, false_alarms: float = 0.05) -> np.ndarray:
    """Share recovered `(masses,)` of lenses with a subhalo: of the scores `injected` `(masses, n)` those above what
    only `false_alarms` of the scores `smooth` `(n,)` of the smooth counterpart exceed."""
    return (injected > np.quantile(smooth, 1 - false_alarms)).mean(axis=1)


def least_mass(masses: np.ndarray, recovered: np.ndarray, share: float = 0.5) -> float:
    """The least mass from which on at least `share` is recovered at every larger one, interpolated in its logarithm;
    infinite where that is not reached."""
    above = recovered >= share
    if not above[-1]:
        return math.inf
    first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    if first == 0:
        return float(masses[0])
    low, high = recovered[first - 1], recovered[first]
    step = (share - low) / (high - low)
    return float(np.exp(np.log(masses[first - 1]) + step * np.log(masses[first] / masses[first - 1])))


def evidence_for_subhalo(
    model: SmoothModel, positions: np.ndarray, mass: float = 1e9, profile: str = "truncated_nfw"
) -> np.ndarray:
    """How much chi square would fall, to first order, with a subhalo at each of `positions` `(n, 2)`: `(n,)`.

    With r the residuals and d the change that a subhalo of `mass` makes, both projected off what the model's own
    parameters can do:
    `(r.d)^2/(d.d)`, the largest fall for any mass, and 0 where that mass would be negative.
    """
    x, y, psf = tensors(model.observation)
    inside, weight = torch.tensor(model.used), torch.tensor(1 / model.observation.noise[model.used])
    values = torch.tensor(model.values)
    with torch.no_grad():
        smooth = render(values, x, y, psf)[inside]
        slopes = torch.func.jacfwd(lambda v: render(v, x, y, psf)[inside] * weight)(values)
        basis = torch.linalg.svd(slopes / slopes.norm(dim=0).clamp_min(1e-12), full_matrices=False)[0]
        residual = (torch.tensor(model.observation.image[model.used]) - smooth) * weight
        residual = residual - basis @ (basis.T @ residual)
        gains = []
        for at_x, at_y in positions:
            subhalo = subhalo_deflection([Subhalo(float(at_x), float(at_y), mass)], x, y, model.redshifts, profile)
            change = (render(values, x, y, psf, subhalo)[inside] - smooth) * weight
            change = change - basis @ (basis.T @ change)
            size, along = float(change @ change), float(residual @ change)
            gains.append(max(along, 0.0) ** 2 / size if size > 0 else 0.0)
    return np.array(gains)
