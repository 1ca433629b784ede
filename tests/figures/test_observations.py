"""Figures of real lenses know their captions, and whether they show pixels of somebody's image."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lensstudy.figures import plots
from lensstudy.figures.style import shows_images
from lensstudy.figures.widgets import subhalo_on_the_ring
from lensstudy.observations.consistency import Consistency
from lensstudy.observations.known_subhalo import Attributions, KnownSubhalo, Orientation, Responses
from lensstudy.observations.validation import DistributionCheck
from tests.observations.conftest import KnownNetwork, modelled, sample  # noqa: F401  fixtures


@pytest.fixture(scope="module")
def network():
    """Its probability is the share of bright pixels, so that a subhalo moves it."""
    one = KnownNetwork(lambda images, degrees: (images > 10).mean(axis=(1, 2, 3)), size=52)
    return replace(one, examples={"no_sub": np.zeros((1, 52, 52)), "cdm": np.ones((1, 52, 52))})


@pytest.fixture(scope="module")
def drawn(modelled, network):  # noqa: F811
    lenses = modelled.lenses
    known = KnownSubhalo.of(modelled, 1)
    orientation, responses = Orientation.of(known, 1), Responses.of([network], known.lens, 4, 0.05, 1)
    maps = {f"network {k}": (np.random.default_rng(k).normal(size=(20, 20)), 2.0) for k in range(4)}
    off = pd.DataFrame({"peak is off by [arcsec]": dict.fromkeys(maps, 0.5)})
    label, perturbed = next(iter(Consistency.of([network], lenses).probabilities.items()))
    return {
        "lens_light": plots.lens_light(lenses),
        "smooth_models": plots.smooth_models(lenses),
        "network_inputs": plots.network_inputs(network, lenses),
        "subhalo_map": plots.subhalo_map(orientation),
        "subhalo_attributions": plots.subhalo_attributions(Attributions(maps, np.array([1.0, 0.5]), off)),
        "ood_scores": plots.ood_scores(DistributionCheck.of([network], lenses, 0.05)),
        "perturbed_predictions": plots.perturbed_predictions(label, perturbed),
        "recovery_curves": plots.recovery_curves(responses.recovery, 1e10),
        "orientations": plots.orientations(orientation),
        "counterparts": plots.counterparts(responses),
    }


def test_figures_know_their_captions_and_which_show_images(drawn):
    for name, figure in drawn.items():
        assert figure.caption.endswith(".") and figure.alt, name
    shown = {name for name, figure in drawn.items() if shows_images(figure)}
    assert shown == {"lens_light", "smooth_models", "network_inputs", "subhalo_map", "subhalo_attributions"}


def test_four_networks_stand_in_two_rows(drawn):
    panels = [axis for axis in drawn["subhalo_attributions"].axes if axis.get_visible()]
    assert len(panels) == 4 and len({round(axis.get_position().y0, 1) for axis in panels}) == 2


def test_the_best_frame_is_the_longest_bar_and_blue(drawn):
    axis = drawn["orientations"].axes[0]
    longest = max(axis.patches, key=lambda bar: bar.get_width())
    blue = plt.matplotlib.colors.to_rgba("#0072B2")
    assert [bar for bar in axis.patches if bar.get_facecolor() == blue] == [longest]


def test_a_heavier_subhalo_changes_picture_and_probability(modelled, network):  # noqa: F811
    explorer = subhalo_on_the_ring(modelled.lenses[0], [network])
    (mass, direction), (canvas, words) = (row.children for row in explorer.children)
    before, text = canvas.value, words.value
    mass.value = 1e11
    assert canvas.value != before and words.value != text and "1.0e+11 solar masses" in words.value
    heavy = canvas.value
    direction.value = 90
    assert canvas.value != heavy
