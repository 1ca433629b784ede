"""What puts a network into the box: from a finished training to a folder whose card says how well it does."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.data.simulation import simulate
from lensstudy.deployment import pretraining
from lensstudy.deployment.card import Card, CardError
from lensstudy.evaluation import scores
from lensstudy.networks import names
from lensstudy.study import Study
from lensstudy.training.fitting import fit


def test_a_network_is_put_into_the_box_with_scores_on_images_that_nothing_has_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "UNSEEN_IMAGES", 20)
    study = Study(study="tiny", network="plain-cnn", width=0.25, epochs=1, image_size=33, question="To be tried.")
    data = simulate("model_3", 40, seed=study.data_seed, image_size=33, noise_level=0.02)
    run = fit(data.split(0.1, 0.3, seed=1), study, folder=tmp_path / "training")
    folder = pretraining.put_in(run, study, data.split(0.1, 0.3, seed=1), out=tmp_path / "tiny")
    card = Card.read(folder)  # which checks that it is sealed again
    unseen, training = card.metrics["unseen"], card.training
    assert (
        unseen["images"] == 60
        and unseen["auc"]["interval"][0] <= unseen["auc"]["value"] <= unseen["auc"]["interval"][1]
    )
    assert training["made_by"]["parameters"] == "params/pretrained/tiny.yml" and training["made_by"]["version"]
    assert training["purpose"] == "To be tried." and "simulated by lensstudy itself" in training["data_licence"]
    fresh, what = pretraining.unseen(study, data)
    names = {tuple(image.ravel()[:50]) for image in data.images}
    assert not names & {tuple(image.ravel()[:50]) for image in fresh.images} and "simulated anew" in what
    with pytest.raises(CardError, match="--data-licence"):
        pretraining.put_in(run, study.model_copy(update={"data_path": "somewhere"}), data, out=tmp_path / "other")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CardError, match="did you mean 'realistic-d4'.*realistic-d4, realistic-plain"):
        pretraining.parameter_file("realistc-d4")
    done = CliRunner().invoke(app, ["pretrain", "../smoke"])
    assert done.exit_code == 1 and "realistic-d4" in done.output and "Traceback" not in done.output


@pytest.mark.parametrize("name", names.pretrained_names())
def test_a_network_in_the_box_is_as_good_as_its_card_says(name):
    """On 100 other lenses of each class: the interval of their AUC and that of the card overlap, and a network with the
    symmetry of the square gives the same probabilities after a quarter turn. Opening it checks every file."""
    predictor = pretraining.pretrained(name)
    study = Study.read(pretraining.parameter_file(name))
    lenses = simulate(study.preset, 100, seed=2_026, image_size=study.image_size, **study.population)
    found = predictor.probabilities(lenses.images)
    low, high = scores.interval(lenses.labels, [found], "auc")
    auc, written = scores.auc(lenses.labels, found), predictor.card.metrics["unseen"]["auc"]
    assert low <= written["interval"][1] and high >= written["interval"][0], f"{auc:.3f}, and the card says {written}"
    change = abs(predictor.probabilities(np.rot90(lenses.images, axes=(2, 3)).copy()) - found).max()
    assert (change < 1e-4) == (predictor.card.symmetry == "D4"), change


def test_a_damaged_network_is_named(tmp_path, monkeypatch):
    name = names.pretrained_names()[0]
    shutil.copytree(names.PRETRAINED / name, tmp_path / name)
    with (tmp_path / name / "distribution.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"damaged!")
    monkeypatch.setattr(names, "PRETRAINED", tmp_path)
    with pytest.raises(CardError, match="distribution.safetensors: has been altered"):
        pretraining.pretrained(name)
    with pytest.raises(CardError, match=f"no network 'x' comes with lensstudy; there are {name}"):
        pretraining.pretrained("x")


def test_a_network_in_the_box_predicts_without_what_trains_one():
    code = "import sys, numpy, lensstudy; p = lensstudy.pretrained('realistic-d4'); "
    code += "p.predict(numpy.random.default_rng(0).normal(size=(2, 48, 48))); "
    code += "print(*{'e2cnn', 'lightning', 'torchmetrics', 'onnxscript'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
