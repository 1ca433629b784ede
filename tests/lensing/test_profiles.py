"""Deflections and light against closed forms and against two independent codes, lenstronomy and caustics."""

import math

import numpy as np
import pytest
import torch

from lensstudy.lensing import profiles as lensing

RADII = torch.linspace(0.05, 3.0, 41, dtype=torch.float64)
X, Y = torch.meshgrid(
    torch.linspace(-2.03, 1.97, 23, dtype=torch.float64),
    torch.linspace(-1.91, 2.11, 19, dtype=torch.float64),
    indexing="ij",
)


def t(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


# name, our field, lenstronomy's profile and parameters; caustics' function where it has one of the same convention
FIELDS = {
    "sie": (
        lambda x, y: lensing.sie(x, y, t(1.2), t(0.13), t(-0.2), 0.04, -0.03),
        ("SIE", {"theta_E": 1.2, "e1": 0.13, "e2": -0.2, "center_x": 0.04, "center_y": -0.03}),
    ),
    "shear": (
        lambda x, y: lensing.shear(x, y, t(0.05), t(-0.02)),
        ("SHEAR", {"gamma1": 0.05, "gamma2": -0.02}),
    ),
    "power law": (
        lambda x, y: lensing.power_law(x, y, t(1.2), t(2.3), t(0.13), t(-0.2), 0.04, -0.03),
        ("EPL", {"theta_E": 1.2, "gamma": 2.3, "e1": 0.13, "e2": -0.2, "center_x": 0.04, "center_y": -0.03}),
    ),
    "multipole of order 3": (
        lambda x, y: lensing.multipole(x, y, 3, t(0.03 * math.cos(1.2)), t(0.03 * math.sin(1.2)), 0.04, -0.03),
        ("MULTIPOLE", {"m": 3, "a_m": 0.03, "phi_m": 0.4, "center_x": 0.04, "center_y": -0.03}),
    ),
    "multipole of order 4": (
        lambda x, y: lensing.multipole(x, y, 4, t(0.03 * math.cos(1.6)), t(0.03 * math.sin(1.6)), 0.04, -0.03),
        ("MULTIPOLE", {"m": 4, "a_m": 0.03, "phi_m": 0.4, "center_x": 0.04, "center_y": -0.03}),
    ),
    "point mass": (
        lambda x, y: lensing.point_mass(x, y, t(0.3), 0.2, 0.1),
        ("POINT_MASS", {"theta_E": 0.3, "center_x": 0.2, "center_y": 0.1}),
    ),
    "nfw": (
        lambda x, y: lensing.nfw(x, y, t(0.02), t(0.4), 0.1, 0.2),
        ("NFW", {"alpha_Rs": 0.02, "Rs": 0.4, "center_x": 0.1, "center_y": 0.2}),
    ),
    "truncated nfw": (
        lambda x, y: lensing.truncated_nfw(x, y, t(0.02), t(0.4), t(1.1), 0.1, 0.2),
        ("TNFW", {"alpha_Rs": 0.02, "Rs": 0.4, "r_trunc": 1.1, "center_x": 0.1, "center_y": 0.2}),
    ),
}


@pytest.mark.parametrize("name", FIELDS)
def test_deflection_agrees_with_lenstronomy(name):
    from lenstronomy.LensModel.lens_model import LensModel

    field, (profile, parameters) = FIELDS[name]
    expected = LensModel([profile]).alpha(X.numpy().ravel(), Y.numpy().ravel(), [parameters])
    for ours, theirs in zip(field(X, Y), expected, strict=True):
        assert np.abs(ours.numpy().ravel() - theirs).max() < 1e-9


def test_deflection_agrees_with_caustics():
    from caustics.lenses import func

    q, phi = (1 - math.hypot(0.13, 0.2)) / (1 + math.hypot(0.13, 0.2)), 0.5 * math.atan2(-0.2, 0.13)
    theirs = func.reduced_deflection_angle_sie(0.04, -0.03, t(q), t(phi), t(1.2), X, Y)
    ours = lensing.sie(X, Y, t(1.2), t(0.13), t(-0.2), 0.04, -0.03)
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) < 1e-8
    theirs = func.reduced_deflection_angle_point(0.2, 0.1, t(0.3), X, Y)
    ours = lensing.point_mass(X, Y, t(0.3), 0.2, 0.1)
    assert max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)) < 1e-8


@pytest.mark.parametrize("name", FIELDS)
def test_field_is_finite_at_its_centre_and_differentiable_in_both_precisions(name):
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.0, 0.04, 0.2, 0.1, 1.0], dtype=dtype, requires_grad=True)
        y = torch.tensor([0.0, -0.03, 0.1, 0.2, 1.0], dtype=dtype, requires_grad=True)
        alpha_x, alpha_y = FIELDS[name][0](x, y)
        (alpha_x + alpha_y).sum().backward()
        for value in (alpha_x, alpha_y, x.grad, y.grad):
            assert torch.isfinite(value).all()


def test_isothermal_sphere_has_its_closed_forms():
    alpha_x, alpha_y = lensing.sie(t(1.0), t(2.0), t(1.0), t(0.0), t(0.0))
    assert [alpha_x.item(), alpha_y.item()] == pytest.approx([0.4472136, 0.8944272], abs=1e-7)
    xx, xy, yx, yy = lensing.derivatives(
        lambda x, y: lensing.sie(x, y, t(1.0), t(0.0), t(0.0)), *(t([1.5, 2.0, 3.0]), t([0.0] * 3))
    )
    assert (1 / ((1 - xx) * (1 - yy) - xy * yx)).tolist() == pytest.approx([3, 2, 1.5], abs=1e-7)


def test_isothermal_ellipsoid_is_critical_where_its_convergence_is_a_half():
    e1, q = t(0.2), (1 - 0.2) / (1 + 0.2)
    around = torch.linspace(0.1, 6.2, 17, dtype=torch.float64)
    x, y = 1.3 / math.sqrt(q) * torch.cos(around), 1.3 * math.sqrt(q) * torch.sin(around)  # q x^2 + y^2/q = theta_E^2
    xx, xy, yx, yy = lensing.derivatives(lambda x, y: lensing.sie(x, y, t(1.3), e1, t(0.0)), x, y)
    assert torch.allclose((xx + yy) / 2, t(0.5).expand(17), atol=1e-7)
    assert torch.allclose((1 - xx) * (1 - yy) - xy * yx, t(0.0).expand(17), atol=1e-7)


def test_point_mass_closed_forms():
    alpha = lensing.point_mass(t(3.0), t(1.0), t(1.0))
    assert [a.item() for a in alpha] == pytest.approx([0.3, 0.1])
    many = [torch.rand(2, 7, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    x, y = X[:, :1].T, Y[:1].T
    together = lensing.point_mass_sum(x, y, *many)
    one_by_one = [a.sum(1) for a in lensing.point_mass(x, y, *(value[..., None, None] for value in many))]
    for a, b in zip(together, one_by_one, strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("radius", [0.05, 0.1])
def test_lensing_conserves_surface_brightness(radius):
    """A disc of radius rho behind an isothermal sphere of radius 1 is magnified by 4/rho in total (Einstein ring)."""
    pixels = torch.linspace(-1.3, 1.3, 2601, dtype=torch.float64)
    x, y = pixels[None, :], pixels[:, None]
    alpha_x, alpha_y = lensing.sie(x, y, t(1.0), t(0.0), t(0.0))
    seen = ((x - alpha_x) ** 2 + (y - alpha_y) ** 2 < radius**2).sum().item() * (pixels[1] - pixels[0]).item() ** 2
    assert seen / (math.pi * radius**2) == pytest.approx(4 / radius, rel=2e-3)


def test_line_is_a_chain_of_point_masses_and_a_short_line_is_one():
    geometry = {"einstein_radius": t(0.4), "half_length": t(0.9), "angle": t(0.7), "center_x": 0.1, "center_y": -0.2}
    alpha = lensing.line(X, Y, **geometry)
    count = 4000
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 1.8 - 0.9
    chain = [torch.zeros_like(X), torch.zeros_like(Y)]
    for s in along:
        piece = lensing.point_mass(X, Y, t(0.4 / math.sqrt(count)), 0.1 + s * math.cos(0.7), -0.2 + s * math.sin(0.7))
        chain = [total + part for total, part in zip(chain, piece, strict=True)]
    for a, b in zip(alpha, chain, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    short = lensing.line(X, Y, t(0.4), t(1e-5), t(0.7), 0.1, -0.2)
    for a, b in zip(short, lensing.point_mass(X, Y, t(0.4), 0.1, -0.2), strict=True):
        assert torch.allclose(a, b, atol=1e-8)


def test_line_is_its_integral_on_both_sides_and_on_its_axis():
    """k/2 ln(((u + L)^2 + v^2)/((u - L)^2 + v^2)) along and k (atan((u + L)/v) - atan((u - L)/v)) across."""
    length, k, cosine, sine = 0.9, 0.4**2 / 1.8, math.cos(0.7), math.sin(0.7)
    u, v = X + 0.01, Y + 0.02  # no point on the axis
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x, y = (value.to(dtype) for value in (0.1 + cosine * u - sine * v, -0.2 + sine * u + cosine * v))
        geometry = (torch.tensor(value, dtype=dtype) for value in (0.4, length, 0.7))
        alpha_x, alpha_y = (value.double() for value in lensing.line(x, y, *geometry, 0.1, -0.2))
        along = 0.5 * k * torch.log(((u + length) ** 2 + v**2) / ((u - length) ** 2 + v**2))
        across = k * (torch.atan((u + length) / v) - torch.atan((u - length) / v))
        assert (cosine * alpha_x + sine * alpha_y - along).abs().max() < tolerance
        assert (cosine * alpha_y - sine * alpha_x - across).abs().max() < tolerance
    beyond = torch.tensor([-3.0, -1.0, 1.2, 2.5], dtype=torch.float64)
    alpha_u, alpha_v = lensing.line(beyond, torch.zeros_like(beyond), t(0.4), t(length), t(0.0))
    assert torch.allclose(alpha_u, k * torch.log(((beyond + length) / (beyond - length)).abs()), atol=1e-12)
    assert alpha_v.abs().max() < 1e-12
    alpha_u, alpha_v = lensing.line(t([0.0, 0.5]), t([1e-9, 1e-9]), t(0.4), t(length), t(0.0))  # from above
    assert alpha_v.tolist() == pytest.approx([k * math.pi] * 2, rel=1e-6)
    assert alpha_u.tolist() == pytest.approx([0, k * math.log(1.4 / 0.4)], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_line_is_finite_at_its_ends_and_middle_and_its_derivatives_are_right(dtype):
    x = torch.tensor([0.9, -0.9, 0.0, 0.5, 2.0], dtype=dtype, requires_grad=True)
    y = torch.zeros(5, dtype=dtype, requires_grad=True)
    geometry = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (0.4, 0.9, 0.0)]
    alpha_x, alpha_y = lensing.line(x, y, *geometry)
    for alpha in (alpha_x, alpha_y):
        gradients = torch.autograd.grad(alpha.sum(), (x, y, *geometry), retain_graph=True)
        assert all(torch.isfinite(value).all() for value in (alpha, *gradients))
    assert alpha_x[0] == -alpha_x[1] > 0.3  # it grows without bound there, as a logarithm
    places = torch.tensor([0.0, -0.7, 1.3], dtype=torch.float64), torch.tensor([0.4, 0.3, -0.2], dtype=torch.float64)
    arguments = [value.requires_grad_() for value in (*places, t(0.4), t(0.9), t(0.0))]
    assert torch.autograd.gradcheck(lensing.line, arguments)


def test_light_and_sums_are_finite_and_differentiable_in_both_precisions():
    for dtype in (torch.float32, torch.float64):
        x, y = (torch.tensor(value, dtype=dtype, requires_grad=True) for value in ([[0.1, 0.5]], [[0.2], [0.7]]))
        places = [torch.tensor([values], dtype=dtype) for values in ([0.3, 0.2], [0.1, 0.5], [0.2, 0.7])]
        scales = torch.tensor([[0.2, 0.1]], dtype=dtype), torch.tensor([[5.0, 2.0]], dtype=dtype)
        for values in (
            lensing.point_mass_sum(x, y, *places),
            lensing.truncated_nfw_sum(x, y, places[0], *scales, *places[1:]),
            [lensing.sersic(x, y, 1.0, 0.4, 2.0, *torch.zeros(2, 1, dtype=dtype), 0.1, 0.2)],
        ):
            for value in values:
                gradients = torch.autograd.grad(value.sum(), (x, y), retain_graph=True)
                assert all(torch.isfinite(one).all() and one.dtype == dtype for one in (value, *gradients))


def test_fields_stay_on_the_device_of_their_arguments():
    """A tensor made on the processor would not meet those of the meta device, nor those of a GPU."""
    x, y, one = torch.empty(1, 5, device="meta"), torch.empty(4, 1, device="meta"), torch.empty(2, 1, 1, device="meta")
    many = torch.empty(2, 3, device="meta")
    for function, parameters in (
        (lensing.sie, [one] * 5),
        (lensing.shear, [one] * 2),
        (lensing.point_mass, [one] * 3),
        (lensing.point_mass_sum, [many] * 3),
        (lensing.line, [one] * 5),
        (lensing.nfw, [one] * 4),
        (lensing.truncated_nfw, [one] * 5),
        (lensing.sersic, [one] * 7),
    ):
        made = function(x, y, *parameters)
        for field in [made] if torch.is_tensor(made) else made:
            assert field.shape == (2, 4, 5) and field.device.type == "meta"


def test_nfw_deflection_is_its_formula():
    radius = RADII / 0.4
    for r, value in zip(radius.tolist(), lensing.nfw(RADII, t(0.0), t(0.02), t(0.4))[0].tolist(), strict=True):
        f = math.acosh(1 / r) / math.sqrt(1 - r * r) if r < 1 else math.acos(1 / r) / math.sqrt(r * r - 1)
        assert value == pytest.approx(0.02 / (1 - math.log(2)) * (math.log(r / 2) + f) / r, rel=1e-9)


def test_sersic_light():
    from lenstronomy.LightModel.light_model import LightModel

    assert lensing.sersic(t(1.0), t(2.0), 1.0, 1.0, 1.0, t(0.0), t(0.0)).item() == pytest.approx(0.1265865, abs=1e-7)
    ours = lensing.sersic(X, Y, 1.7, 0.4, t(2.5), t(-0.1), t(0.2), 0.1, -0.1)
    parameters = {
        "amp": 1.7,
        "R_sersic": 0.4,
        "n_sersic": 2.5,
        "e1": -0.1,
        "e2": 0.2,
        "center_x": 0.1,
        "center_y": -0.1,
    }
    theirs = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(X.numpy(), Y.numpy(), [parameters])
    assert np.abs(ours.numpy() - theirs).max() < 1e-9
    pixels = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    light = lensing.sersic(pixels[None, :], pixels[:, None], 1.0, 0.7, t(1.0), t(0.2), t(0.1))
    assert light.sum().item() * 1e-4 == pytest.approx(lensing.sersic_total(0.7, 1.0), rel=1e-3)
