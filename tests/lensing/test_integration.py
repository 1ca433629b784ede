"""The light of a pixel against closed forms, against lenstronomy's supersampling and against fine grids of rays."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lensstudy.lensing.detectability import detectability
from lensstudy.lensing.instruments import INSTRUMENTS, blur, noise_variance, psf_profile
from lensstudy.lensing.integration import integrated
from lensstudy.lensing.populations import complete, preset_named
from lensstudy.lensing.rendering import render_batch, render_with_cells
from lensstudy.lensing.simulation import checked_request, draw_lenses
from tests.benchmarks.simulate import lenstronomy_images

REALISTIC, CAMERA = preset_named("realistic"), INSTRUMENTS["hst-wfc3-f160w"]
ONE_RAY = replace(REALISTIC, integration_error=math.inf)
BRIGHT = {"source_magnitude_min": 20.0, "source_magnitude_max": 21.0, "source_index_max": 2.0}
HEAVY = {"subhalo_profile": "point", "subhalo_mass_min": 1e9, "axion_fraction_min": 0.04}


def chi(images: np.ndarray, truth: np.ndarray, rows: list[dict]) -> np.ndarray:
    """Difference of images in sigma of their noise, all pixels together."""
    times = np.array([row["exposure_time"] for row in rows])[:, None, None]
    return np.sqrt(((images - truth) ** 2 / noise_variance(truth, CAMERA, times)).sum((1, 2)))


def test_pixels_of_a_gaussian_and_of_a_disc_hold_what_closed_forms_say():
    side, width, radius, places = 0.25, 0.3, 0.8, [0.03, -0.11]
    edges = (torch.arange(17, dtype=torch.float64) - 8) * side
    centers = (edges[1:] + edges[:-1]) / 2

    def light(image, x, y):
        shift = torch.tensor(places, dtype=torch.float64)[image]
        bell = torch.exp(-((x - shift) ** 2 + (y + shift) ** 2) / (2 * width**2))
        return torch.where(image == 0, bell, (torch.hypot(x - shift, y + shift) < radius).double())

    def shine(cells):
        return light(cells.image, *cells.rays)

    at_centers = torch.stack([light(torch.tensor(k), centers[None], centers[:, None]) for k in (0, 1)])
    tolerance = torch.full_like(at_centers, 1e-3)
    found, _ = integrated(at_centers, shine, centers, centers, tolerance)
    share = [torch.erf((edges - shift) / (width * math.sqrt(2))).diff() for shift in (places[0], -places[0])]
    bell = math.pi / 2 * width**2 * share[1][:, None] * share[0] / side**2
    assert (at_centers[0] - bell).abs().max() > 0.03 and (found[0] - bell).abs().max() < 1e-3
    area = [float(image.sum()) * side**2 for image in (at_centers[1], found[1])]
    assert area[1] == pytest.approx(math.pi * radius**2, rel=1e-3) != pytest.approx(area[0], rel=1e-3)
    again, _ = integrated(at_centers, shine, centers, centers, tolerance.fill_(math.inf))
    assert torch.equal(again, at_centers)


def test_an_image_agrees_with_lenstronomy_at_many_rays_a_pixel():
    request = checked_request("realistic", 2, 4, 64, None, None, BRIGHT | HEAVY)
    (row, _), _ = draw_lenses(request, "cdm", range(2))
    heavy = np.argsort(row["subhalo_mass"])[-5:]
    row |= {name: row[name][heavy] for name in ("subhalo_x", "subhalo_y", "subhalo_mass")}
    row |= {"lens_x": 0.0, "lens_y": 0.0, "halo_einstein_radius": row["einstein_radius"]}
    truth = np.stack(lenstronomy_images([row], REALISTIC, 64, noise=0.0, rays=13)())
    truth *= row["exposure_time"]
    assert chi(render_batch([row], ONE_RAY, CAMERA, 64), truth, [row]) > 10
    assert chi(render_batch([row], REALISTIC, CAMERA, 64), truth, [row]) < 1


@pytest.mark.parametrize(("class_name", "population"), [("axion", HEAVY), ("cdm", HEAVY), ("cdm", {}), ("no_sub", {})])
def test_little_is_missing_against_a_fine_grid_of_rays(class_name, population):
    """Subhalos as points and as halos, a line, lens light: all against 25 by 25 rays a pixel."""
    fine, size, images = 25, 32, 3
    given = {"lens_light": True, "subhalo_density_max": 0.02, "lens_light_index_max": 3.0, **BRIGHT, **population}
    rows, _ = draw_lenses(checked_request("realistic", images, 4, size, None, None, given), class_name, range(images))
    sharp = replace(CAMERA, psf_fwhm=1e-9)
    light = render_batch(rows, ONE_RAY, sharp, fine * size).reshape(images, size, fine, size, fine).sum((2, 4))
    truth = blur(torch.from_numpy(light), psf_profile(CAMERA, size)).numpy()
    one, many = (chi(render_batch(rows, preset, CAMERA, size), truth, rows) for preset in (ONE_RAY, REALISTIC))
    assert np.median(one) > 20 and np.median(many) < 4 and (many < 0.1 * one).all()


def test_what_no_subhalo_does_is_not_detected():
    """The smooth counterpart is integrated like the lens: no error of either is taken for substructure."""
    row = complete({"einstein_radius": 1.2, "source_amplitude": 3e3, "source_radius": 0.1, "source_index": 3.0})
    row |= {"source_x": 0.05, "lens_e1": 0.05, "exposure_time": 5400.0}
    lens = complete(row | {"subhalo_x": [1.25], "subhalo_y": [0.0], "subhalo_mass": [1.0]})
    smooth = render_batch([complete(row)], ONE_RAY, CAMERA, 64)
    image, cells = render_with_cells([lens], REALISTIC, CAMERA, 64)
    assert chi(smooth, image, [lens]) > 50
    assert detectability([lens], image, cells, REALISTIC, CAMERA, None)[0] < 0.1
    faint = complete(lens | {"source_amplitude": 1e-3, "subhalo_x": [9.0]})  # and no pixel is divided
    image, cells = render_with_cells([faint], REALISTIC, CAMERA, 64)
    assert not cells.divided.any() and detectability([faint], image, cells, REALISTIC, CAMERA, None)[0] < 1e-4
