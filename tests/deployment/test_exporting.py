"""What leaves the study: equal to the trained network, whole, and free of what the study needed."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.data.dataset import DataError
from lensstudy.deployment import exporting as deployment
from lensstudy.deployment.card import CARD_VERSION, Card, CardError, file_hash
from lensstudy.deployment.onnx_network import OnnxNetwork, write_int8, write_onnx
from lensstudy.deployment.predictor import Predictor
from lensstudy.evaluation.odd_images import KINDS, odd_images
from lensstudy.networks import registry as networks
from lensstudy.study import Study
from lensstudy.training.fitting import fit
from lensstudy.training.run import load_run

SIZES = (32, 29)  # even at every pooling, odd at some
NAMES = ["d4-steerable-cnn", "c8-resnet", "resnet18", "so2-harmonic", "o2-gated", "d8-restricted", "d4-antialiased-cnn"]


@pytest.fixture(scope="module")
def bare(run_folder, tmp_path_factory):
    """An export without the images of the training: nothing in it can tell which are in distribution."""
    return deployment.export(run_folder, tmp_path_factory.mktemp("bare") / "network")


@pytest.mark.parametrize(("name", "size"), list(zip(NAMES, itertools.cycle(SIZES), strict=False)))
def test_onnx_predicts_as_the_network(name, size, tmp_path):
    network = networks.build_network(name, size, 3, width=0.5, seed=2)
    images = torch.randn(33, 1, size, size, generator=torch.Generator().manual_seed(1))
    networks.recalibrate_batch_norm(network, images).eval()
    seen = []
    network.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        expected = network(images)
    scale = expected.abs().max()
    assert expected.std() > 0.01 * scale
    logits, features = OnnxNetwork(write_onnx(network, tmp_path / "network.onnx")).features(images)
    assert (logits - expected).abs().max() < 1e-5 * scale
    assert (seen[0] - features).abs().max() < 1e-5 * features.abs().max()


@pytest.mark.parametrize(
    "name", ["d4-steerable-cnn", pytest.param("c8-resnet", marks=pytest.mark.slow), "so2-harmonic"]
)
def test_int8_is_near_and_keeps_the_symmetry_of_the_square(name, tmp_path):
    network = networks.build_network(name, 32, 3, width=0.5, seed=2)
    images = torch.randn(48, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    networks.recalibrate_batch_norm(network, images).eval()
    int8 = OnnxNetwork(write_int8(network, images, tmp_path / "network.int8.onnx"))
    assert [file.name for file in tmp_path.iterdir()] == ["network.int8.onnx"]
    with torch.no_grad():
        expected, found = network(images), int8.features(images)[0]
    apart = (expected[:, 0] - expected[:, 1], found[:, 0] - found[:, 1])
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert np.corrcoef(*apart)[0, 1] > 0.98
    # Rotated copies of a filter are rounded alike; vectors change sign under rotations, and are rounded otherwise.
    limit = 0.1 if name == "so2-harmonic" else 1e-6
    for moved in (images.rot90(1, (2, 3)), images.rot90(2, (2, 3)), images.flip(3)):
        if name != "d4-steerable-cnn" and moved.equal(images.flip(3)):
            continue  # C8 and SO(2) have no reflections
        change = int8.features(moved.contiguous())[0] - found
        assert change.abs().max() < limit * found.abs().max()


def test_card_describes_the_training(exported, run_folder, blobs):
    card, trained = Card.read(exported), load_run(run_folder)
    assert card.classes == list(blobs.classes) and card.symmetry == "D4"
    assert card.images.size * card.images.binning == card.images.crop == trained.card["crop"]
    assert card.images.pixel_scale == 0.1
    assert card.training["data_fingerprint"] == blobs.fingerprint
    assert card.calibration["log_loss_after"] <= card.calibration["log_loss_before"] + 1e-9
    low, high = card.metrics["validation"]["auc"]["interval"]
    assert 0 <= low <= card.metrics["validation"]["auc"]["value"] <= high <= 1
    assert max(card.equality.values()) < 1e-5
    assert set(card.files) == {f.name for f in exported.iterdir()} - {"card.json", "README.md"}


def test_card_says_how_many_odd_images_still_get_a_class(exported, blobs):
    card, predictor = Card.read(exported), Predictor(exported)
    odd = card.in_distribution["odd_images"]
    assert set(odd["named"]) == set(KINDS) and odd["of"] == "test images" and odd["images"] == len(blobs.part("test"))
    clean = blobs.part("test").images[:]
    assert odd["false_alarms"] == pytest.approx((predictor.answers(clean)[1] > 1).mean())
    rows = np.linspace(0, len(clean) - 1, odd["each"]).astype(int)
    for kind in ("gradient", "two lenses"):
        scores = predictor.answers(odd_images(clean[rows], kind, odd["seed"]))[1]
        assert odd["named"][kind] == pytest.approx((scores <= 1).mean())
    assert odd["overall"] == pytest.approx(np.mean(list(odd["named"].values())))
    assert any(
        f"a class to {odd['overall']:.1%} of odd images (23 kinds of {odd['each']}," in one for one in card.limits
    )


def test_an_export_with_a_detector_of_an_earlier_version_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "old")
    arrays = load_file(folder / "distribution.safetensors")
    save_file({name: one for name, one in arrays.items() if "ranges" not in name}, folder / "distribution.safetensors")
    card = Card.read(exported)
    card.files["distribution.safetensors"] = file_hash(folder / "distribution.safetensors")
    card.write(folder)
    with pytest.raises(ValueError, match="distribution.safetensors: has no 'ranges.middle'; export the network again"):
        Predictor(folder)


def test_exported_probabilities_are_those_of_the_training(exported, run_folder, blobs):
    predictor = Predictor(exported)
    images = blobs.part("test").images
    found, ood_score = predictor.answers(images)
    plain = load_run(run_folder).predict(images)
    expected = plain ** (1 / predictor.temperature)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)
    assert np.isfinite(ood_score).all()


def test_several_seeds_are_exported_as_the_mean_of_their_logits(run_folder, blobs, tmp_path, monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    settings = Study(network="d4-steerable-cnn", width=0.5, epochs=6, batch_size=16, learning_rate=0.01, seed=2)
    other = fit(blobs, settings, folder=tmp_path / "other")
    folder = deployment.export([run_folder, other], tmp_path / "mean", dataset=blobs)
    predictor, images = Predictor(folder), blobs.part("test").images
    logits = [np.log(load_run(run).predict(images)) for run in (run_folder, other)]
    expected = np.exp(np.mean(logits, axis=0) / predictor.temperature)
    found, ood_score = predictor.answers(images)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)
    assert np.isfinite(ood_score).all() and predictor.card.symmetry == "D4"
    change = predictor.probabilities(np.rot90(images, axes=(2, 3)).copy()) - predictor.probabilities(images)
    assert abs(change).max() < 1e-5
    said = (folder / "README.md").read_text(encoding="utf-8")
    assert predictor.card.training["seeds"] == [1, 2] and "the mean of the logits of 2 seeds (1, 2)" in said
    validation = [load_run(run).validation for run in (run_folder, other)]
    mean = np.mean([np.log(one[list(blobs.classes)].to_numpy()) for one in validation], axis=0)
    right = mean.argmax(1) == [blobs.classes.index(name) for name in validation[0]["class"]]
    assert predictor.card.metrics["validation"]["accuracy"]["value"] == right.mean()
    longer = fit(blobs, settings.model_copy(update={"epochs": 1}), folder=tmp_path / "longer")
    with pytest.raises(CardError, match="differs from .* in epochs"):
        deployment.export([run_folder, longer], tmp_path / "none", dataset=blobs)


@pytest.mark.slow
def test_an_export_in_int8_says_how_near_it_is(exported, run_folder, blobs, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="takes its ranges from training images"):
        deployment.export(run_folder, tmp_path / "out", "int8")
    folder = deployment.export(run_folder, tmp_path / "out", "int8", blobs, pixel_scale=0.1)
    card, images = Card.read(folder), blobs.part("validation").images[:]
    assert "network.int8.onnx" in card.files and "network.onnx" not in card.files
    found = Predictor(folder).probabilities(images)
    change = np.abs(found - Predictor(exported).probabilities(images))
    assert card.metrics["int8"]["largest_change"] == pytest.approx(change.max(), abs=1e-5)
    assert 0 < change.max() < 0.05
    assert (Predictor(folder, pixel_scale=0.1).predict(images)["state"] == "ok").mean() > 0.9
    monkeypatch.setattr(deployment, "AGREEMENT", 1.01)
    with pytest.raises(CardError, match="names another class for 0.0% of the validation images.*Export it as onnx"):
        deployment.export(run_folder, tmp_path / "far", "int8", blobs)
    assert not (tmp_path / "far").exists()


def test_predictions_need_nothing_of_training_or_simulation(exported):
    """In a process of its own, where importing any of it fails: a prediction does not wait for it either."""
    code = f"""
import sys
for name in ("e2cnn", "lightning", "sklearn", "torchmetrics", "matplotlib", "astropy.cosmology", "scipy.interpolate"):
    sys.modules[name] = None
import numpy as np
from lensstudy.deployment.predictor import Predictor
table = Predictor({str(exported)!r}).predict(np.random.default_rng(0).normal(size=(3, 16, 16)))
print(len(table))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr


def test_without_its_images_every_image_is_taken_for_in_distribution(bare):
    card = Card.read(bare)
    assert card.in_distribution is None and any("cannot tell which images" in limit for limit in card.limits)
    row = Predictor(bare).predict(np.random.default_rng(0).normal(size=(1, 16, 16))).iloc[0]
    assert row["prediction"] in card.classes and np.isnan(row["ood_score"])


def test_other_images_than_those_of_the_training(run_folder, blobs, tmp_path):
    other = blobs.subset(np.arange(1, len(blobs)))
    with pytest.raises(DataError, match="was trained on other images"):
        deployment.export(run_folder, tmp_path / "out", dataset=other)


def test_another_pixel_scale_than_that_of_the_images_is_refused(run_folder, tmp_path):
    run = shutil.copytree(run_folder, tmp_path / "run")
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | {"data": card["data"] | {"pixel_scale": 0.2}}))
    with pytest.raises(DataError, match="pixel scale 0.1: the images of this training have 0.2 arcsec; leave it out"):
        deployment.export(run, tmp_path / "out", pixel_scale=0.1)
    same = deployment.export(run, tmp_path / "out", pixel_scale=0.2001)
    assert Card.read(same).images.pixel_scale == 0.2


def test_export_keeps_what_is_not_its_own(bare, run_folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CardError, match="holds 'thesis.tex', which is of no exported network"):
        deployment.export(run_folder, tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(CardError, match="holds .* which is of no exported network"):
        deployment.export(run_folder, run_folder)
    assert (run_folder / "weights.safetensors").exists(), "a training has a card too, and must not be replaced"
    folder = shutil.copytree(bare, tmp_path / "network")
    (folder / "predictions.csv").write_text("file,prediction")
    with pytest.raises(CardError, match="holds 'predictions.csv'"):
        deployment.export(run_folder, folder)
    (folder / "predictions.csv").unlink()
    assert deployment.export(run_folder, folder) == folder, "an earlier export is replaced"
    with pytest.raises(ValueError, match="format 'pickle' is unknown; there are onnx, int8"):
        deployment.export(run_folder, tmp_path / "out", "pickle")


def test_a_training_on_a_share_of_the_images_does_not_boast_of_the_whole(run_folder, tmp_path):
    name = load_run(run_folder).card["network"]
    scores = {key: 0.9 for value in ("auc", "accuracy") for key in (value, f"{value}_low", f"{value}_high")}
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "table.json").write_text(
        json.dumps([{"network": name, "perturbation": "unperturbed"} | scores])
    )
    for share in (100, 25):
        run = shutil.copytree(run_folder, tmp_path / "training" / f"{share}")
        card = json.loads((run / "card.json").read_text()) | {"share": share}
        (run / "card.json").write_text(json.dumps(card))
        metrics = Card.read(deployment.export(run)).metrics
        assert ("test" in metrics) == (share == 100)


def remove_weights(folder):
    (folder / "distribution.safetensors").unlink()


def alter_weights(folder):
    content = bytearray((folder / "network.onnx").read_bytes())
    content[-100] ^= 1
    (folder / "network.onnx").write_bytes(content)


def edit_card(**changes):
    def edit(folder):
        content = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(content | changes))

    return edit


def cut_card(folder):
    (folder / "card.json").write_text((folder / "card.json").read_text()[:300])


DAMAGES = {
    "a file is missing": (remove_weights, "'distribution.safetensors' is missing"),
    "one bit is altered": (alter_weights, "network.onnx: has been altered"),
    "the card is older": (edit_card(format_version=3), "version 3, .*export the network again"),
    "the card is newer": (edit_card(format_version=CARD_VERSION + 1), f"version {CARD_VERSION + 1}.*update lensstudy"),
    "the classes are exchanged": (edit_card(classes=["sub", "no_sub"]), "card.json: has been altered"),
    "the temperature is altered": (edit_card(calibration={"temperature": 0.01}), "its seal is broken"),
    "the card lists no files": (edit_card(files={}), "its seal is broken"),
    "the card is cut off": (cut_card, "is damaged"),
    "the card lacks its classes": (edit_card(classes=None), "classes"),
    "the card is another's": (edit_card(format="zoo"), "not that of an exported network"),
    "the card is gone": (lambda folder: (folder / "card.json").unlink(), "no card.json"),
    "the card names a file elsewhere": (edit_card(files={"../x": "0"}), "outside the folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder_is_refused(damage, exported, tmp_path):
    spoil, message = DAMAGES[damage]
    folder = shutil.copytree(exported, tmp_path / "copy")
    spoil(folder)
    with pytest.raises(CardError, match=message):
        Predictor(folder)


def test_the_folder_of_a_training_is_exported_once_on_the_way(bare, run_folder, blobs, tmp_path):
    run, images = shutil.copytree(run_folder, tmp_path / "run"), blobs.part("test").images
    expected = Predictor(bare).predict(images)
    pd.testing.assert_frame_equal(Predictor(run).predict(images), expected)
    card = run / "exported" / "card.json"
    written = card.stat().st_mtime_ns
    Predictor(run)
    assert card.stat().st_mtime_ns == written, "an export of the same weights is reused"
    networks.save_weights(load_run(run).network.requires_grad_(False), run / "weights.safetensors")
    Predictor(run)
    assert card.stat().st_mtime_ns == written, "the same weights, written again"
    network = load_run(run).network.requires_grad_(False)
    network.classifier.bias += torch.arange(len(blobs.classes))
    networks.save_weights(network, run / "weights.safetensors")
    assert Predictor(run).predict(images)["sub"].mean() > expected["sub"].mean() + 0.01


@pytest.mark.slow
def test_an_export_on_the_way_is_used_again_only_if_it_is_what_would_be_made(blobs, tmp_path, monkeypatch):
    """Not one that was made before the data set lay there, nor one in int8 in its place; and one in int8 is kept."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    run = fit(
        blobs, Study(network="plain-cnn", width=0.5, epochs=2, batch_size=16), folder=tmp_path / "training" / "run"
    )
    assert Predictor(run).distribution is None
    blobs.save(tmp_path / "dataset")
    assert Predictor(run).distribution is not None, "made anew, now that the data set is there"
    written = (run / "exported/card.json").stat().st_mtime_ns
    rounded = deployment.export(run, format="int8")
    assert rounded == run / "exported-int8" and Predictor(rounded).card.metrics["int8"]
    assert Predictor(run).card.files.keys() == {"network.onnx", "distribution.safetensors"}
    shutil.rmtree(tmp_path / "dataset")
    assert Predictor(run).distribution is not None
    assert (run / "exported/card.json").stat().st_mtime_ns == written, "without its data set nothing better can be made"
    deployment.export(run, run / "exported", "int8", blobs)
    assert "network.onnx" in Predictor(run).card.files
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps(card | {"seed": 77}))
    assert Predictor(run).card.training["seed"] == 77


def test_two_that_export_at_once_do_not_meet(run_folder, tmp_path, monkeypatch):
    """Each writes a folder of its own; who comes second finds the other's, which is the same, and uses that."""
    run = shutil.copytree(run_folder, tmp_path / "run")
    meeting, alone, write = threading.Barrier(2, timeout=60), threading.Lock(), deployment._write

    def together(*arguments):
        with alone:  # torch traces one network at a time
            card = write(*arguments)
        meeting.wait()
        return card

    monkeypatch.setattr(deployment, "_write", together)
    with ThreadPoolExecutor(2) as pool:
        both = [one.result() for one in [pool.submit(deployment.exported, run) for _ in range(2)]]
    assert both == [run / "exported"] * 2 and Predictor(run).card.classes
    assert [file.name for file in run.iterdir() if file.name.startswith(".")] == []


@pytest.mark.slow
def test_the_export_that_another_call_has_made_meanwhile_stays(run_folder, tmp_path, monkeypatch):
    run, write = shutil.copytree(run_folder, tmp_path / "run"), deployment._write

    def slow(*arguments):
        card = write(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(deployment, "_write", write)
            made.append(deployment.export(run, pixel_scale=scale).stat().st_ino)
        return card

    for scale, kept in ((None, True), (0.2, False)):
        made = []
        monkeypatch.setattr(deployment, "_write", slow)
        assert (deployment.export(run).stat().st_ino == made[0]) == kept, scale
        assert Card.read(run / "exported").images.pixel_scale is None


def test_commands(exported, run_folder, blobs, tmp_path, monkeypatch):
    """Export and prediction from the shell, with the exit status that scripts go by."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")

    def lensstudy(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    predict = partial(lensstudy, "predict", "--network", "network")
    data = blobs.save(tmp_path / "dataset")
    done = lensstudy("export", run_folder, "--data", data, "--out", "network", "--pixel-scale", "0.1")
    assert done.exit_code == 0 and "knows no others" in done.output
    np.save("good.npy", blobs.part("test").images[0, 0])
    np.save("colour.npy", np.random.default_rng(0).normal(size=(3, 16, 16)))
    assert predict("good.npy", "--out", "one.csv", "--pixel-scale", "0.1").exit_code == 0
    untold = predict("good.npy", "--out", "untold.csv")
    assert untold.exit_code == 1 and "untold.csv: 1 pixel scale unknown" in untold.output
    assert "the size of its pixels is unknown" in untold.output and pd.read_csv("untold.csv")["prediction"].isna().all()
    assert predict("*.npy", "--out", "two.csv", "--pixel-scale", "0.1").exit_code == 1
    table = pd.read_csv("two.csv").set_index("file")
    assert "the image has 3; choose one with --band" in table["reason"]["colour.npy"]
    cells = Path("two.csv").read_text().splitlines()[2].split(",")
    assert re.fullmatch(r"[01]\.\d{4}", cells[4]) and re.fullmatch(r"[01]\.\d{4}", cells[5]), "four digits"
    assert table["prediction"]["good.npy"] in blobs.classes
    assert predict("colour.npy", "--out", "none.csv").exit_code == 2
    np.save("psf.npy", np.ones((5, 5)))
    beside = predict("good.npy", "psf.npy", "--out", "beside.csv", "--pixel-scale", "0.1")
    assert beside.exit_code == 0 and "beside.csv: 1 ok, 1 skipped" in beside.output
    with h5py.File("labels.h5", "w") as file:
        file["labels"] = np.arange(3)
    assert predict("labels.h5", "--out", "nothing.csv").exit_code == 2, "no image, no success"
    unscaled = lensstudy("export", run_folder, "--data", data, "--out", "unscaled")
    assert "whether their pixels are as large" in unscaled.output
    asked = lensstudy("predict", "good.npy", "--network", "unscaled", "--out", "unscaled.csv")
    assert asked.exit_code == 0 and "check yourself that yours are as large" in asked.output
    rounded = lensstudy("export", run_folder, "--data", data, "--out", "rounded", "--format", "int8")
    assert rounded.exit_code == 0 and "In int8 it names the same class for" in rounded.output
    wrong = predict("good.npy", "--out", "network")
    assert wrong.exit_code == 2 and "the answers are a table; name it .csv" in wrong.output
    before = Path("one.csv").read_bytes()
    again = predict("colour.npy", "--out", "one.csv")
    assert again.exit_code == 2 and "one.csv: is there already; --force replaces it" in again.output
    assert Path("one.csv").read_bytes() == before
    assert predict("colour.npy", "--band", "1", "--out", "one.csv", "--force").exit_code == 0
    assert Path("one.csv").read_bytes() != before
    nothing = predict("god.npy", "--out", "new.csv")
    assert nothing.exit_code == 2 and "god.npy: nothing exists at this path" in nothing.output
    assert not Path("new.csv").exists()
    wrong = lensstudy("predict", "good.npy", "--network", "netwrok", "--out", "new.csv")
    assert wrong.exit_code == 2 and "netwrok: there is no such folder, and no" in wrong.output
    assert "did you mean 'network'?" in wrong.output
    wrong = lensstudy("predict", "good.npy", "--network", tmp_path, "--out", "new.csv")
    assert wrong.exit_code == 2 and "neither an exported network nor a finished training" in wrong.output
    assert lensstudy("export", tmp_path / "nowhere").exit_code == 2
    told = lensstudy("inspect", ".", "--for", "network", "--pixel-scale", "0.1")
    assert told.exit_code == 0 and "good.npy: ok\n" in told.output, told.output
    assert "colour.npy: rejected, the network takes one band, and the image has 3" in told.output
    assert "whether they are in distribution, `predict` tells" in told.output
    assert lensstudy("inspect", "colour.npy", "--for", "network").exit_code == 1
    assert "netwrok: there is no such folder" in lensstudy("inspect", ".", "--for", "netwrok").output
    assert (
        "colour.npy: ok" in lensstudy("inspect", ".", "--for", "network", "--band", "1", "--pixel-scale", "0.1").output
    )
    wrong = predict("good.npy", "--out", "new.csv", "--band", "VIS", "--extension", "SCI")
    assert wrong.exit_code == 2 and "leave one out" in wrong.output
    Path("shares.csv").write_text("class,share\nsub,0.1\nno_sub,0.9\n")
    tables = []
    for number, prior in enumerate(("0.9,0.1", "sub=0.1,no_sub=0.9", "shares.csv")):
        arguments = "good.npy", "--pixel-scale", "0.1", "--out", f"prior{number}.csv"
        assert predict(*arguments, "--prior", prior).exit_code == 0
        tables.append(Path(f"prior{number}.csv").read_text())
    assert len(set(tables)) == 1 and tables[0] != Path("one.csv").read_text()
    wrong = predict("good.npy", "--out", "new.csv", "--prior", "0.9,0,1")
    assert wrong.exit_code == 2 and "expected 2 shares with a sum of 1, of no_sub, sub" in wrong.output
    assert "expected one share a class" in predict(*arguments, "--force", "--prior", "0,9;0,1").output


def test_a_network_at_chance_is_exported_with_a_warning(blobs, tmp_path, monkeypatch):
    """Labels that say nothing of the images: nobody can learn them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    catalogue = blobs.catalogue.assign(**{"class": np.random.default_rng(0).permutation(blobs.catalogue["class"])})
    data = replace(blobs, catalogue=catalogue).split(0.2, 0.4, seed=1)
    run = fit(data, Study(network="plain-cnn", width=0.25, epochs=1, batch_size=16), folder=tmp_path / "run")
    data.save(tmp_path / "dataset")
    done = CliRunner().invoke(
        app, ["export", str(run), "--data", "dataset", "--out", "network", "--pixel-scale", "0.1"]
    )
    assert done.exit_code == 0 and "THIS NETWORK IS AT CHANCE: validation AUC 0." in done.output
    card = Card.read("network")
    assert card.limits[0] == card.warning and "mean nothing" in card.warning
    np.save("one.npy", blobs.images[0, 0])
    asked = CliRunner().invoke(app, ["predict", "one.npy", "--network", "network"])
    assert "THIS NETWORK IS AT CHANCE" in asked.output
    assert pd.read_csv("predictions.csv")["note"][0].startswith("network at chance: validation AUC 0.")


def test_a_network_that_others_wrote_is_exported_like_ours(blobs, tmp_path, monkeypatch):
    """Groups and dilation of its convolutions stay what they are; the features are what its last linear layer gets."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setattr(networks, "_REGISTERED", {})

    @networks.register("theirs")
    def theirs(image_size, n_classes, in_channels=1, width=1.0):
        first = torch.nn.Conv2d(in_channels, 8, 3, padding=2, dilation=2)
        second = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, n_classes)
        return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.BatchNorm2d(8), *head)

    run = fit(blobs, Study(network="theirs", epochs=1, batch_size=16), folder=tmp_path / "run")
    predictor = Predictor(deployment.export(run, tmp_path / "out", dataset=blobs))
    images = blobs.part("test").images
    expected = load_run(run).predict(images)
    np.testing.assert_array_equal(predictor.probabilities(images).argmax(1), expected.argmax(1))
    logits = np.log(predictor.probabilities(images)) * predictor.temperature
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], np.diff(np.log(expected), axis=1)[:, 0], atol=1e-4)
