"""Figures of real lenses know their captions, and whether they show pixels of somebody's image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lensstudy.figures import plots
from lensstudy.figures.style import shows_images
from lensstudy.figures.widgets import subhalo_on_the_ring
from lensstudy.observations.consistency import Consistency
from lensstudy.observations.known_subhalo import KnownSubhalo, Published
from lensstudy.observations.recovery import Recovery
from lensstudy.observations.validation import DistributionCheck
from tests.observations.conftest import KnownNetwork, modelled, sample  # noqa: F401  fixtures
from tests.observations.test_known_subhalo import searched


@pytest.fixture(scope="module")
def network():
    """Its probability is the share of bright pixels, so that a subhalo moves it."""
    one = KnownNetwork(lambda images, degrees: (images > 10).mean(axis=(1, 2, 3)), size=52)
    return replace(one, examples={"no_sub": np.zeros((1, 52, 52)), "cdm": np.ones((1, 52, 52))})


@pytest.fixture(scope="module")
def drawn(modelled, network):  # noqa: F811
    lenses = modelled.lenses
    images = [searched("J0946+1006"), searched("slacs0946+1006", "rotated by 90°")]
    known = KnownSubhalo(images, [], Published.of("J0946+1006", {}), Path("nowhere"))
    recovery = Recovery.of([network], lenses, 4, 1)
    label, perturbed = next(iter(Consistency.of([network], lenses).probabilities.items()))
    return {
        "lens_light": plots.lens_light(lenses),
        "all_models": plots.all_models(modelled.images),
        "network_inputs": plots.network_inputs(network, lenses),
        "subhalo_scans": plots.subhalo_scans([*images, searched("other", in_full=False)]),
        "subhalo_profiles": plots.subhalo_profiles(images),
        "found_subhalos": plots.found_subhalos(known),
        "ood_scores": plots.ood_scores(DistributionCheck.of([network], lenses, 0.05)),
        "perturbed_predictions": plots.perturbed_predictions(label, perturbed),
        "recovery_curves": plots.recovery_curves(recovery),
        "sensitivity_maps": plots.sensitivity_maps(recovery),
    }


def test_figures_know_their_captions_and_which_show_images(drawn):
    for name, figure in drawn.items():
        assert figure.caption.endswith(".") and figure.alt, name
    shown = {name for name, figure in drawn.items() if shows_images(figure)}
    assert shown == {"lens_light", "all_models", "network_inputs", "sensitivity_maps", "subhalo_scans"}


def test_a_heavier_subhalo_changes_picture_and_probability(modelled, network):  # noqa: F811
    explorer = subhalo_on_the_ring(modelled.lenses[0], [network])
    (mass, direction), (canvas, words) = (row.children for row in explorer.children)
    before, text = canvas.value, words.value
    mass.value = 1e11
    assert canvas.value != before and words.value != text and "1.0e+11 solar masses" in words.value
    heavy = canvas.value
    direction.value = 90
    assert canvas.value != heavy
