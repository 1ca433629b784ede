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
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "deflection_of_mass",
    "derivatives",
    "line",
    "multipole",
    "nfw",
    "nfw_scales",
    "point_mass",
    "power_law",
    "sersic",
    "sersic_total",
    "shear",
    "sie",
    "point_mass_sum",
    "truncated_nfw",
    "truncated_nfw_sum",
]

CORE = 1e-10  # arcsec; keeps the centre of an isothermal halo finite
RAYS_AT_ONCE = 16 * 64 * 64  # of halos: what stays in a processor's cache
SOFTENING = 1e-15  # arcsec^2; keeps the place of a point or line mass finite, its square above the least float32


def ellipse(e1: Tensor, e2: Tensor) -> Tensor:
    """Axis ratio q, `f = sqrt(1 - q^2)`, cosine and sine of the direction of the major axis, stacked along a new axis.

    Stacked, because a compiler then computes them once an image and not again in every pixel.
    """
    round_ = (e1 == 0) & (e2 == 0)
    e1 = torch.where(round_, torch.full_like(e1, 1e-10), e1)  # a circle has no direction and divides 0 by 0
    modulus, angle = torch.sqrt(e1 * e1 + e2 * e2), 0.5 * torch.atan2(e2, e1)
    f = 2 * torch.sqrt(modulus) / (1 + modulus)  # without the cancellation of 1 - q^2
    return torch.stack([(1 - modulus) / (1 + modulus), f, torch.cos(angle), torch.sin(angle)])


def sie(x, y, einstein_radius: Tensor, e1: Tensor, e2: Tensor, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Singular isothermal ellipsoid, convergence `theta_E / (2 sqrt(q x^2 + y^2 / q))` along its own axes.

    Keeton and Kochanek (1998) with f = sqrt(1 - q^2), psi = sqrt(q^2 (x^2 + s^2) + y^2) and a core s = 1e-10"/sqrt(q):
    `alpha = theta_E sqrt(q)/f (atan(f x/(psi + s)), atanh(f y/(psi + q^2 s)))`.
    """
    q, f, cosine, sine = ellipse(e1, e2)
    dx, dy = x - center_x, y - center_y
    along, across = cosine * dx + sine * dy, cosine * dy - sine * dx
    core = CORE / torch.sqrt(q)
    psi = torch.sqrt((q * along) ** 2 + across**2 + (q * core) ** 2)
    strength = einstein_radius * torch.sqrt(q) / f
    alpha_along, alpha_across = torch.atan(f * along / (psi + core)), torch.atanh(f * across / (psi + q * q * core))
    cosine, sine = strength * cosine, strength * sine
    return cosine * alpha_along - sine * alpha_across, sine * alpha_along + cosine * alpha_across


def power_law(
    x, y, einstein_radius: Tensor, slope: Tensor, e1: Tensor, e2: Tensor, center_x=0.0, center_y=0.0, terms: int = 24
) -> tuple[Tensor, Tensor]:
    """Elliptical power law, convergence `(3 - slope)/2 (theta_E / sqrt(q x^2 + y^2 / q))^(slope - 1)`; 2 is `sie`.

    Tessore and Metcalf (2015), eqs 11 and 23 to 29, with t = slope - 1, f = (1 - q)/(1 + q), b = theta_E sqrt(q),
    `R e^(i phi) = q x + i y` and `Omega_n = -f (2n - (2 - t))/(2n + (2 - t)) e^(2 i phi) Omega_(n-1)`:
    `alpha = 2 b/(1 + q) (b/R)^(t - 1) (Omega_0 + Omega_1 + ...)`; the sum stops after `terms`, of order f^terms.
    """
    q, _, cosine, sine = ellipse(e1, e2)
    dx, dy = x - center_x, y - center_y
    along, across = q * (cosine * dx + sine * dy), cosine * dy - sine * dx
    radius = torch.sqrt(along**2 + across**2 + CORE**2)
    t, f = slope - 1, (1 - q) / (1 + q)
    real, imaginary = along / radius, across / radius
    double_real, double_imaginary = real**2 - imaginary**2, 2 * real * imaginary
    sum_real, sum_imaginary = real, imaginary
    twice = torch.arange(2, 2 * terms, 2, dtype=t.dtype, device=t.device).view(-1, *[1] * t.ndim)  # 2n of all terms
    for share in -f * (twice - (2 - t)) / (twice + (2 - t)):
        real, imaginary = (
            share * (double_real * real - double_imaginary * imaginary),
            share * (double_real * imaginary + double_imaginary * real),
        )
        sum_real, sum_imaginary = sum_real + real, sum_imaginary + imaginary
    b = einstein_radius * torch.sqrt(q)
    strength = 2 * b / (1 + q) * (b / radius) ** (t - 1)
    alpha_along, alpha_across = strength * sum_real, strength * sum_imaginary
    return cosine * alpha_along - sine * alpha_across, sine * alpha_along + cosine * alpha_across


def multipole(x, y, order: int, amplitude_cos, amplitude_sin, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Multipole of an isothermal lens, convergence `(a cos m phi + b sin m phi) / (2 r)`, amplitudes in arcseconds.

    Its potential is `r F(phi)`, `F = (a cos m phi + b sin m phi)/(1 - m^2)` (Xu et al. 2015), for orders from 2 on.
    """
    dx, dy = x - center_x, y - center_y
    phi, radius = torch.atan2(dy, dx), torch.sqrt(dx * dx + dy * dy + CORE**2)
    cosine, sine = torch.cos(order * phi), torch.sin(order * phi)
    along = (amplitude_cos * cosine + amplitude_sin * sine) / (1 - order**2)
    around = order * (amplitude_sin * cosine - amplitude_cos * sine) / (1 - order**2)
    return (along * dx - around * dy) / radius, (along * dy + around * dx) / radius


def shear(x, y, shear_1, shear_2) -> tuple[Tensor, Tensor]:
    """External shear about the origin: `alpha = (g1 x + g2 y, g2 x - g1 y)`."""
    return shear_1 * x + shear_2 * y, shear_2 * x - shear_1 * y


def point_mass(x, y, einstein_radius, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Point mass: `alpha = theta_E^2 r / |r|^2`, zero at the mass itself."""
    dx, dy = x - center_x, y - center_y
    strength = einstein_radius**2 / (dx * dx + dy * dy + SOFTENING)
    return strength * dx, strength * dy


def point_mass_sum(x, y, einstein_radius: Tensor, center_x: Tensor, center_y: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection of n point masses together: parameters `(N, n)`, `x` `(1, W)`, `y` `(H, 1)`, result `(N, H, W)`.

    The same as adding up `point_mass`, one mass after another, so that the running sums stay in the processor's cache.
    """
    dx, dy = x - center_x[..., None, None], y - center_y[..., None, None]  # (N, n, 1, W) and (N, n, H, 1)
    dx2, dy2 = dx * dx + SOFTENING, dy * dy
    dx, dy = dx * einstein_radius[..., None, None] ** 2, dy * einstein_radius[..., None, None] ** 2
    alpha_x = alpha_y = torch.zeros((), dtype=dx.dtype, device=dx.device)
    for i in range(einstein_radius.shape[1]):
        inverse = torch.reciprocal(dx2[:, i] + dy2[:, i])
        alpha_x, alpha_y = torch.addcmul(alpha_x, dx[:, i], inverse), torch.addcmul(alpha_y, dy[:, i], inverse)
    return alpha_x, alpha_y


def line(x, y, einstein_radius, half_length, angle: Tensor, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Straight line of uniform mass, `2 half_length` long in direction `angle`; together as heavy as `point_mass`.

    With u along and v across the line and k = theta_E^2 / (2 L), the integral of point masses over the line is
    `alpha_u = k/2 ln(((u + L)^2 + v^2) / ((u - L)^2 + v^2))`, `alpha_v = k (atan((u + L)/v) - atan((u - L)/v))`, here
    with one logarithm and one angle, which keep their digits for a short line.
    """
    cosine, sine = torch.cos(angle), torch.sin(angle)
    dx, dy = x - center_x, y - center_y
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    k = einstein_radius**2 / (2 * half_length)
    side = torch.where(u < 0, -1.0, 1.0)  # alpha_u is odd in u; one half keeps away from log(0) at the other end
    beyond = side * u
    log = torch.log1p(4 * beyond * half_length / ((beyond - half_length) ** 2 + v * v + SOFTENING))
    alpha_u = 0.5 * k * log * side
    alpha_v = k * torch.atan2(2 * half_length * v, u * u + v * v - half_length**2 + SOFTENING)
    return cosine * alpha_u - sine * alpha_v, sine * alpha_u + cosine * alpha_v


def arc_over_root(x: Tensor) -> Tensor:
    """`arccosh(1/x)/sqrt(1 - x^2)` below 1 and `arccos(1/x)/sqrt(x^2 - 1)` above: one smooth function, 1 at x = 1."""
    t = (1 - x) * (1 + x)
    near_one = t.abs() < math.sqrt(torch.finfo(x.dtype).eps)
    root = torch.sqrt(torch.where(near_one, torch.ones_like(t), t).abs())
    arc = torch.where(x < 1, torch.log((1 + root) / x), torch.atan(root))
    return torch.where(near_one, 1 + t / 3, arc / root)


def scaled_radius(dx, dy, scale_radius) -> Tensor:
    """Radius in scale radii, kept away from the centre, where a logarithm and its inverse cancel in rounding."""
    radius_squared = (dx * dx + dy * dy) / scale_radius**2
    return torch.sqrt(torch.clamp(radius_squared, min=torch.finfo(radius_squared.dtype).eps))


def nfw(x, y, alpha_rs, scale_radius, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """Navarro, Frenk and White halo; `alpha_rs` is its deflection at the scale radius, in arcseconds.

    Bartelmann (1996): with X = r/R_s, `alpha = alpha_rs/(1 + ln(1/2)) (ln(X/2) + F(X))/X` and F as `arc_over_root`.
    """
    dx, dy = x - center_x, y - center_y
    radius = scaled_radius(dx, dy, scale_radius)
    mass = torch.log(radius / 2) + arc_over_root(radius)
    strength = alpha_rs / (1 - math.log(2)) * mass / (radius * radius * scale_radius)
    return strength * dx, strength * dy


def truncated_nfw(x, y, alpha_rs, scale_radius, truncation_radius, center_x=0.0, center_y=0.0) -> tuple[Tensor, Tensor]:
    """NFW halo whose density falls as `1/(1 + (r/r_t)^2)` beyond the truncation radius; `alpha_rs` is that of `nfw`.

    Baltz, Marshall and Oguri (2009), eq. A.14, with X = r/R_s and tau = r_t/R_s.
    """
    dx, dy = x - center_x, y - center_y
    radius = scaled_radius(dx, dy, scale_radius)
    tau = truncation_radius / scale_radius
    t2, root = tau * tau, torch.sqrt(tau * tau + radius * radius)
    logarithm = torch.log(radius / (root + tau))
    inner = (t2 + 1 + 2 * (radius * radius - 1)) * arc_over_root(radius) + (t2 - 1) * torch.log(tau)
    mass = t2 / (t2 + 1) ** 2 * (inner + math.pi * (tau - root) + root * (t2 - 1) / tau * logarithm)
    strength = alpha_rs / (1 - math.log(2)) * mass / (radius * radius * scale_radius)
    return strength * dx, strength * dy


def truncated_nfw_sum(
    x, y, mass_radius, scale_radius, truncation, center_x, center_y, halo: Callable = truncated_nfw
) -> tuple[Tensor, Tensor]:
    """Deflection of n truncated halos together: parameters `(N, n)`, shapes as in `point_mass_sum`.

    `mass_radius` is the Einstein radius of a point of the same total mass, `truncation` is in scale radii. Halos
    without mass only fill up the shorter lists and cost nothing. `halo` is `truncated_nfw` or the same compiled.
    """
    alpha_rs = deflection_of_mass(mass_radius, scale_radius, truncation)
    image, place = torch.nonzero(mass_radius, as_tuple=True)
    halos = torch.stack([alpha_rs, scale_radius, truncation * scale_radius, center_x, center_y])[:, image, place]
    height, width = y.shape[0], x.shape[1]
    alpha_x = torch.zeros(len(mass_radius), height, width, dtype=torch.result_type(x, halos), device=halos.device)
    alpha_y, at_once = torch.zeros_like(alpha_x), max(1, RAYS_AT_ONCE // (height * width))
    for numbers, some in zip(image.split(at_once), halos[..., None, None].split(at_once, dim=1), strict=True):
        part_x, part_y = halo(x, y, *some)
        alpha_x.index_add_(0, numbers, part_x)
        alpha_y.index_add_(0, numbers, part_y)
    return alpha_x, alpha_y


def deflection_of_mass(mass_radius: Tensor, scale_radius: Tensor, truncation: Tensor) -> Tensor:
    """`alpha_rs` of `truncated_nfw` for a halo as heavy as a point of Einstein radius `mass_radius`; `truncation` is in
    scale radii.

    From eq. A.4 of Baltz, Marshall and Oguri (2009), far away the bracket of `truncated_nfw` tends to
    `tau^2/(tau^2 + 1)^2 ((tau^2 - 1) ln tau + pi tau - tau^2 - 1)`.
    """
    t2 = truncation * truncation
    total = t2 / (t2 + 1) ** 2 * ((t2 - 1) * torch.log(truncation) + math.pi * truncation - t2 - 1)
    return mass_radius**2 * (1 - math.log(2)) / (scale_radius * total)


def nfw_scales(mass, concentration, critical_surface_density: float, critical_density: float):
    """Scale radius and deflection there, both in arcseconds, of halos of `mass` (200 times the critical density).

    `critical_surface_density` in solar masses per arcsec^2 and `critical_density` in solar masses per arcsec^3 at the
    lens. `R_s = r_200/c`, `rho_s = 200/3 rho_c c^3/(ln(1+c) - c/(1+c))`, `alpha_rs = 4 rho_s R_s^2 (1 - ln 2)/Sigma_c`.
    """
    scale_radius = (3 * mass / (800 * math.pi * critical_density)) ** (1 / 3) / concentration
    concentrated = np.log(1 + concentration) - concentration / (1 + concentration)
    scale_density = 200 / 3 * critical_density * concentration**3 / concentrated
    return scale_radius, 4 * scale_density * scale_radius**2 * (1 - math.log(2)) / critical_surface_density


def sersic(x, y, amplitude, radius, index, e1, e2, center_x=0.0, center_y=0.0) -> Tensor:
    """Elliptical Sersic light, `I = amplitude exp(-b_n ((R/radius)^(1/n) - 1))`, per square arcsecond.

    `amplitude` is the intensity at the half-light radius, `R^2 = q x^2 + y^2/q` along the axes of the ellipse (so the
    half-light radius is the product average) and `b_n = 1.9992 n - 0.3271` (Capaccioli 1989), as in lenstronomy. With
    e^2 = e1^2 + e2^2, `R^2 = ((1 + e^2 - 2 e1) x^2 - 4 e2 x y + (1 + e^2 + 2 e1) y^2) / (1 - e^2)`.
    """
    dx, dy = x - center_x, y - center_y
    squared = e1 * e1 + e2 * e2
    scale = 1 / ((1 - squared) * radius**2)
    xx, xy, yy = (1 + squared - 2 * e1) * scale, 4 * e2 * scale, (1 + squared + 2 * e1) * scale
    radius_squared = torch.clamp((xx * dx - xy * dy) * dx + yy * dy * dy, min=1e-10)
    b = 1.9992 * index - 0.3271
    return amplitude * torch.exp(b - b * torch.exp(torch.log(radius_squared) * (0.5 / index)))  # exp(log) outruns pow


def sersic_total(radius: float, index: float) -> float:
    """Total light of a Sersic profile of amplitude 1, in square arcseconds: `2 pi n R^2 e^b b^(-2n) Gamma(2n)`."""
    b = 1.9992 * index - 0.3271
    return 2 * math.pi * index * radius**2 * math.exp(b) * b ** (-2 * index) * math.gamma(2 * index)


def derivatives(deflection: Callable, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`(d alpha_x/dx, d alpha_x/dy, d alpha_y/dx, d alpha_y/dy)` of a field `deflection(x, y)`, by differentiation.

    The convergence is half of first plus last; the magnification is one over the determinant of unity less the matrix.
    `x` and `y` have the full shape of the field.
    """
    one, zero = torch.ones_like(x), torch.zeros_like(y)
    xx, yx = torch.func.jvp(deflection, (x, y), (one, zero))[1]
    xy, yy = torch.func.jvp(deflection, (x, y), (zero, one))[1]
    return xx, xy, yx, yy
