"""What is shown of a network's predictions for a set of images, counted again by hand."""

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.deployment.application import Application
from lensstudy.deployment.predictor import Predictor
from lensstudy.figures import plots, widgets
from lensstudy.training.run import load_run


@pytest.fixture(scope="module")
def parts(exported, run_folder):
    return Predictor(exported, pixel_scale=0.1), load_run(run_folder).network


@pytest.fixture
def application(parts, blobs, tmp_path) -> Application:
    return Application(*parts, blobs.part("test"), tmp_path)


def test_its_counts_are_those_of_the_table(application, blobs, tmp_path):
    written, test = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False), blobs.part("test")
    truth = list(test.catalogue["class"])
    pairs = [(t, p) for t, p in zip(truth, written["prediction"], strict=True) if p]
    counts = application.confusion()
    assert {(t, p): counts.loc[t, p] for t in test.classes for p in test.classes} == {
        (t, p): pairs.count((t, p)) for t in test.classes for p in test.classes
    }
    assert application.right == (sum(t == p for t, p in pairs), len(pairs))
    assert application.states()["images"].sum() == len(test)


def test_classes_are_known_from_folders_and_unknown_without(parts, blobs, tmp_path):
    test = blobs.part("test")
    for image, name, folder in zip(test.images, test.catalogue["name"], test.catalogue["class"], strict=True):
        for place in (tmp_path / "known" / folder, tmp_path / "unknown"):
            place.mkdir(parents=True, exist_ok=True)
            np.save(place / f"{name}.npy", image[0])
    known = Application(*parts, tmp_path / "known", tmp_path)
    unknown = Application(*parts, tmp_path / "unknown", tmp_path)
    assert known.right == Application(*parts, test, tmp_path).right
    assert unknown.right == (0, 0) and set(unknown.confusion()["right"]) == {"none known"}


def test_shares_of_pixels_add_up_to_the_difference_of_the_logit(application):
    """Sundararajan et al. 2017: the attributions add up to f(image) - f(baseline), whatever the network."""
    image = application.images[application.few[0]]
    seen = application.predictor.seen(image[None])
    logits = application.network(seen)[0]
    sky = application.network(seen.median().expand_as(seen))[0]
    _, shares = application.explain(image, steps=64)
    assert shares.sum() == pytest.approx(float((logits - sky)[logits.argmax()].detach()), rel=0.05)


def test_a_rotation_by_90_degrees_changes_nothing_for_a_d4_network(application):
    changes = application.rotation_changes([0, 90, 30])
    assert changes[0] == 0 and changes[1] < 1e-5 < changes[2]


def test_images_that_the_network_cannot_take_are_named(parts, tmp_path):
    np.save(tmp_path / "tiny.npy", np.random.default_rng(0).normal(size=(4, 4)))
    with pytest.raises(DataError, match=r"no image that the network can take.*tiny\.npy.*4 x 4"):
        Application(*parts, tmp_path / "tiny.npy", tmp_path)


def test_figures_say_what_they_show(application):
    for figure in (plots.predictions(application), plots.explanations(application), plots.rotations(application)):
        assert figure.caption.endswith(".") and len(figure.alt) > 20


def test_the_explorer_escapes_the_names_of_classes(application):
    application.card = application.card.model_copy(update={"classes": ["<script>", "sub"]})
    explorer = widgets.explore_predictions(application)
    text = explorer.children[1].children[1].value
    assert "&lt;script&gt;" in text and "<script>" not in text
