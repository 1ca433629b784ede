"""What puts a network into the box: from a finished training to a folder whose card says how well it does."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lensstudy import stages
from lensstudy.cli import app
from lensstudy.data.simulation import simulate
from lensstudy.deployment import pretraining
from lensstudy.deployment.card import Card, CardError
from lensstudy.evaluation import scores
from lensstudy.networks import names
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run


def test_a_network_is_put_into_the_box_with_scores_on_images_that_nothing_has_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "UNSEEN_IMAGES", 20)
    study = Study(study="tiny", network="d4-steerable-cnn", width=0.5, epochs=1, image_size=33, question="To be tried.")
    data = simulate("model_3", 40, seed=study.data_seed, image_size=33, noise_level=0.02)
    run = fit(data.split(0.1, 0.3, seed=1), study, folder=tmp_path / "run")
    for _ in range(2):  # the second replaces the first
        folder = pretraining.put_in(run, study, data.split(0.1, 0.3, seed=1), out=tmp_path / "tiny")
    card = Card.read(folder)  # which checks that it is sealed again
    unseen, training = card.metrics["unseen"], card.training
    assert (
        unseen["images"] == 60
        and unseen["auc"]["interval"][0] <= unseen["auc"]["value"] <= unseen["auc"]["interval"][1]
    )
    assert training["made_by"]["parameters"] == "params/pretrained/tiny.yml" and training["made_by"]["version"]
    assert training["purpose"] == "To be tried." and "simulated by lensstudy itself" in training["data_licence"]
    fresh, what = pretraining.unseen(study, data, 20)
    names = {tuple(image.ravel()[:50]) for image in data.images}
    assert not names & {tuple(image.ravel()[:50]) for image in fresh.images} and "simulated anew" in what
    with pytest.raises(CardError, match="--data-licence"):
        pretraining.put_in(run, study.model_copy(update={"data_path": "somewhere"}), data, out=tmp_path / "other")
    size = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    assert set(size) == {*card.files, "card.json", "README.md"}
    assert sum(size.values()) < 300_000, "eight such networks stay below 3 MB"
    given, kept = load_run(run), load_run(folder / "training")
    assert size["training/weights.safetensors"] < 0.7 * (run / "weights.safetensors").stat().st_size
    assert kept.card == given.card and kept.metrics == given.metrics
    images = data.images[:50]
    assert 0 < abs(kept.predict(images) - given.predict(images)).max() < 2e-3, "in float16"
    with (folder / "training" / "weights.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"damaged!")
    with pytest.raises(CardError, match="training/weights.safetensors: has been altered"):
        Card.read(folder)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CardError, match="did you mean 'realistic-d4'.*realistic-d4, realistic-plain"):
        pretraining.parameter_file("realistc-d4")
    done = CliRunner().invoke(app, ["pretrain", "../smoke"])
    assert done.exit_code == 1 and "realistic-d4" in done.output and "Traceback" not in done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", names.pretrained_names())
def test_a_network_in_the_box_is_as_good_as_its_card_says(name, request, tmp_path, monkeypatch):
    """On 150 other lenses of each class, drawn by a seed of their own: the 95 % interval of their AUC and that of the
    card overlap. Where images were read, on the test part. A network with the symmetry of the square gives the same
    probabilities after a quarter rotation."""
    predictor, study = pretraining.pretrained(name), Study.read(pretraining.parameter_file(name))
    read = None
    if study.data_path:
        monkeypatch.setenv("LENSSTUDY_DATA", str(request.getfixturevalue("evaluation_data")))
        monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
        read = stages.dataset(study)
    lenses, _ = pretraining.unseen(study, read, 150, seed=2_026)
    found = predictor.probabilities(lenses.images)
    low, high = scores.interval(lenses.labels, [found], "auc")
    written = predictor.card.metrics["unseen"]["auc"]["interval"]
    assert low <= written[1] and written[0] <= high, f"{low:.4f} to {high:.4f}, and the card says {written}"
    change = abs(predictor.probabilities(np.rot90(lenses.images, axes=(2, 3)).copy()) - found).max()
    assert (change < 1e-4) == (predictor.card.symmetry == "D4"), change


def test_the_box_is_whole_and_small():
    """Reading a card compares the hash of every file that it lists, and it lists all but its README.md."""
    files = {file for file in names.PRETRAINED.rglob("*") if file.is_file()}
    listed = {name: {*card.files, "card.json", "README.md"} for name, card in pretraining.cards().items()}
    assert files == {names.PRETRAINED / name / file for name, those in listed.items() for file in those}
    assert sum(file.stat().st_size for file in files) < 3e6


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


def test_a_wheel_installed_elsewhere_predicts_without_what_trains_networks_and_without_a_connection(root, tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    elsewhere = tmp_path / "elsewhere"
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, root]
    built = subprocess.run(build, capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("hatchling, which builds the wheel, cannot be fetched")
    assert not built.returncode, built.stderr
    subprocess.run([*pip, "install", "--no-deps", "--target", elsewhere, *tmp_path.glob("*.whl")], check=True)
    installed = elsewhere / "lensstudy" / "networks" / "pretrained"
    there = {file.relative_to(names.PRETRAINED): file for file in names.PRETRAINED.rglob("*") if file.is_file()}
    assert {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()} == set(there)
    parameters = elsewhere / "lensstudy" / "bundled" / "params" / "pretrained"
    assert sorted(file.name for file in parameters.iterdir()) == sorted(os.listdir(root / "params" / "pretrained"))
    code = """
import sys
def refuse(event, given):
    if event.startswith("socket."):
        raise PermissionError(event)
sys.addaudithook(refuse)
for name in ("e2cnn", "lightning", "torchmetrics", "onnxscript"):
    sys.modules[name] = None
import json, numpy, lensstudy
images = numpy.random.default_rng(0).normal(size=(2, 1, 48, 48))
predictor = lensstudy.pretrained("realistic-d4")
table = predictor.predict(images)
print(json.dumps([lensstudy.__file__, len(table), predictor.probabilities(images).tolist()]))
"""
    place = os.environ | {"PYTHONPATH": str(elsewhere)}
    done = subprocess.run([sys.executable, "-c", code], env=place, cwd=tmp_path, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    file, number, found = json.loads(done.stdout)
    assert file.startswith(str(elsewhere)) and number == 2
    expected = pretraining.pretrained("realistic-d4").probabilities(
        np.random.default_rng(0).normal(size=(2, 1, 48, 48))
    )
    np.testing.assert_array_equal(found, expected)
