"""How mass bends light and how galaxies shine: deflection fields and Sersic light as pure torch functions.

Every deflection takes positions `x`, `y` in arcseconds and returns the reduced deflection `(alpha_x, alpha_y)` in
arcseconds, so that a ray seen at theta left the source plane at `beta = theta - alpha`. Arguments broadcast: positions
of shape `(1, W)` and `(H, 1)` with parameters of shape `(N, 1, 1)` give fields `(N, H, W)`; what depends on one axis
alone is computed along that axis alone. Everything runs in float32 or float64, on any device, is finite at every centre
and can be differentiated, by `torch.autograd` as well as by `torch.func`.

Ellipticity is `(e1, e2) = (1 - q)/(1 + q) (cos 2 phi, sin 2 phi)` with axis ratio q and the major axis at angle phi.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "point_mass",
    "sersic",
    "sersic_total",
    "shear",
    "sie",
    "sum_of_point_masses",
]

CORE = 1e-10  # arcsec; keeps a singular centre finite


def axis_ratio_and_angle(e1: Tensor, e2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Modulus of the ellipticity, axis ratio q and direction of the major axis in radians."""
    round_ = (e1 == 0) & (e2 == 0)
    e1 = torch.where(round_, torch.full_like(e1, 1e-10), e1)  # a circle has no direction and divides 0 by 0
    modulus = torch.sqrt(e1 * e1 + e2 * e2)
    return modulus, (1 - modulus) / (1 + modulus), 0.5 * torch.atan2(e2, e1)


def sie(x, y, einstein_radius: Tensor, e1: Tensor, e2: Tensor, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid, convergence `theta_E / (2 sqrt(q x^2 + y^2 / q))` along its own axes.

    Keeton and Kochanek (1998) with f = sqrt(1 - q^2), psi = sqrt(q^2 (x^2 + s^2) + y^2) and a core s = 1e-10"/sqrt(q):
    `alpha = theta_E sqrt(q)/f (atan(f x/(psi + s)), atanh(f y/(psi + q^2 s)))`.
    """
    modulus, q, angle = axis_ratio_and_angle(e1, e2)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    dx, dy = x - center_x, y - center_y
    along, across = cosine * dx + sine * dy, cosine * dy - sine * dx
    f = 2 * torch.sqrt(modulus) / (1 + modulus)  # sqrt(1 - q^2) without the cancellation
    core = CORE / torch.sqrt(q)
    psi = torch.sqrt((q * along) ** 2 + across**2 + (q * core) ** 2)
    strength = einstein_radius * torch.sqrt(q) / f
    alpha_along = strength * torch.atan(f * along / (psi + core))
    alpha_across = strength * torch.atanh(f * across / (psi + q * q * core))
    return cosine * alpha_along - sine * alpha_across, sine * alpha_along + cosine * alpha_across


def shear(x, y, shear_1, shear_2) -> tuple[Tensor, Tensor]:
    """External shear about the origin: `alpha = (g1 x + g2 y, g2 x - g1 y)`."""
    return shear_1 * x + shear_2 * y, shear_2 * x - shear_1 * y


def point_mass(x, y, einstein_radius, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Point mass: `alpha = theta_E^2 r / |r|^2`, zero at the mass itself."""
    dx, dy = x - center_x, y - center_y
    strength = einstein_radius**2 / (dx * dx + dy * dy + 1e-24)
    return strength * dx, strength * dy


def sum_of_point_masses(x, y, einstein_radius: Tensor, center_x: Tensor, center_y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection of n point masses together: parameters `(N, n)`, `x` `(1, W)`, `y` `(H, 1)`, result `(N, H, W)`.

    The same as adding up `point_mass`, one mass after another, so that the running sums stay in the processor's cache.
    """
    dx, dy = x - center_x[..., None, None], y - center_y[..., None, None]  # (N, n, 1, W) and (N, n, H, 1)
    dx2, dy2 = dx * dx + 1e-24, dy * dy
    dx, dy = dx * einstein_radius[..., None, None] ** 2, dy * einstein_radius[..., None, None] ** 2
    alpha_x = alpha_y = torch.zeros((), dtype=dx.dtype, device=dx.device)
    for i in range(einstein_radius.shape[1]):
        inverse = torch.reciprocal(dx2[:, i] + dy2[:, i])
        alpha_x, alpha_y = torch.addcmul(alpha_x, dx[:, i], inverse), torch.addcmul(alpha_y, dy[:, i], inverse)
    return alpha_x, alpha_y


def sersic(x, y, amplitude, radius, index, e1: Tensor, e2: Tensor, center_x=0.0, center_y=0.0) -> Tensor:
    """Elliptical Sersic light, `I = amplitude exp(-b_n ((R/radius)^(1/n) - 1))`, per square arcsecond.

    `amplitude` is the intensity at the half-light radius, `R^2 = q x^2 + y^2/q` along the axes of the ellipse (so the
    half-light radius is the product average) and `b_n = 1.9992 n - 0.3271` (Capaccioli 1989), as in lenstronomy.
    """
    modulus, q, angle = axis_ratio_and_angle(e1, e2)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    dx, dy = x - center_x, y - center_y
    along, across = cosine * dx + sine * dy, cosine * dy - sine * dx
    b = 1.9992 * index - 0.3271
    radius_squared = torch.clamp((q * along * along + across * across / q) / radius**2, min=1e-10)
    return amplitude * torch.exp(b - b * radius_squared ** (0.5 / index))


def sersic_total(radius: float, index: float) -> float:
    """Total light of a Sersic profile of amplitude 1, in square arcseconds: `2 pi n R^2 e^b b^(-2n) Gamma(2n)`."""
    b = 1.9992 * index - 0.3271
    return 2 * math.pi * index * radius**2 * math.exp(b) * b ** (-2 * index) * math.gamma(2 * index)
