"""Training on one's own folder, and beginning with a network that is trained."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.reading import write_deeplense
from lensstudy.data.simulation import simulate
from lensstudy.deployment.card import file_hash
from lensstudy.deployment.exporting import export
from lensstudy.deployment.predictor import Predictor
from lensstudy.deployment.transfer import ADAPTATION, target_like, train_on
from lensstudy.networks import names


@pytest.fixture
def folder(blobs, tmp_path, monkeypatch):
    """Forty images in class folders."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    few = blobs.subset(np.arange(0, len(blobs), 3))
    return write_deeplense(LensDataset(few.images, few.catalogue.drop(columns="part"), few.classes), tmp_path / "mine")


def test_transfer_begins_ahead(folder, run_folder, tmp_path):
    """After one epoch at a low rate, what began with a trained network is far ahead of what began with nothing."""
    settings = {"epochs": 1, "learning_rate": 1e-4, "batch_size": 8, "validation_fraction": 0.3, "width": 0.5}
    run, metrics = train_on(folder, tmp_path / "further", run_folder, **settings)
    _, fresh = train_on(folder, tmp_path / "fresh", network="d4-steerable-cnn", **settings)
    assert metrics["validation_loss"] < 0.5 * fresh["validation_loss"]
    assert json.loads((run / "card.json").read_text())["start_from"]
    assert (tmp_path / "further" / "dataset" / "dataset.json").exists()


def test_command(folder, run_folder, exported, tmp_path):
    def lensstudy(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    out = tmp_path / "out"
    done = lensstudy("train", "--from", run_folder, "--data", folder, "--out", out, "--epochs", 1, "--batch-size", 8)
    assert done.exit_code == 0, done.output
    run = out / "training" / "d4-steerable-cnn-s1"
    assert "validation AUC" in done.output and (run / "metrics.json").exists()
    assert lensstudy("export", run).exit_code == 0, "its data set lies where export looks for it"
    assert json.loads((run / "exported" / "card.json").read_text())["in_distribution"]
    wrong = lensstudy("train", "--from", exported, "--data", folder, "--out", tmp_path / "other")
    assert wrong.exit_code == 2 and "give the run folder that it was exported from" in wrong.output


def test_a_network_is_adapted_to_images_without_labels(folder, run_folder, blobs, tmp_path):
    """They are fainter, in pixels half as large and a few more, and come in those of the images with labels."""
    fine = np.kron(blobs.images[::2], np.ones((2, 2), np.float32)) * 0.1 + 0.3
    fine = np.pad(fine, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    (tmp_path / "target").mkdir()
    for number, image in enumerate(fine + np.random.default_rng(0).normal(0, 0.003, fine.shape)):
        np.save(tmp_path / "target" / f"{number:02}.npy", image)

    def train(*arguments):
        words = ["train", "--data", folder, "--out", tmp_path / "out", "--pixel-scale", 0.1, "--epochs", 1]
        words += ["--batch-size", 8, "--validation-fraction", 0.3, "--network", "d4-mean-cnn", *arguments]
        return CliRunner().invoke(app, list(map(str, words)))

    wrong = train("--adaptation", "sinkhorn")
    assert wrong.exit_code == 2 and "belong to --target" in wrong.output
    wrong = train("--target", tmp_path / "target", "--adaptation", "sinkhron")
    assert wrong.exit_code == 2 and "adaptation = 'sinkhron'" in wrong.output
    wrong = train("--target", tmp_path / "target")
    assert wrong.exit_code == 2 and "say how large with --target-pixel-scale" in wrong.output
    assert not (tmp_path / "out").exists()
    done = train("--target", tmp_path / "target", "--target-pixel-scale", 0.05)
    assert done.exit_code == 0 and "Of 60 images without labels it calls" in done.output, done.output
    card = json.loads((tmp_path / "out" / "training" / "d4-mean-cnn-s1" / "card.json").read_text())
    assert card["adaptation"] == ADAPTATION and card["target"]["images"] == 60
    seen = target_like(LensDataset.load(tmp_path / "out" / "dataset"), tmp_path / "target", 0.05).images
    expected = 0.4 * blobs.images[::2] + 1.2
    np.testing.assert_allclose(seen[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], atol=0.1)

    run = tmp_path / "out" / "training" / "d4-mean-cnn-s1"
    adapted = Predictor(export(run), pixel_scale=0.1)
    new = 0.4 * blobs.images[1::2] + 1.2 + np.random.default_rng(1).normal(0, 0.006, blobs.images[1::2].shape)
    assert adapted.predict(new.astype("f4"))["in_distribution"].mean() > 0.8, "more of the target"
    shutil.rmtree(tmp_path / "out" / "target")
    forgot = Predictor(export(run, tmp_path / "without"), pixel_scale=0.1)
    assert forgot.predict(new.astype("f4"))["in_distribution"].mean() < 0.2, "the source alone"


def test_a_smooth_fit_goes_from_one_camera_to_another(tmp_path, monkeypatch):
    """Images of two presets, as files: what is left of either is noise of unit size in the pixels of the first."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    for preset, size in {"model_3": 24, "model_2": 32}.items():
        made = simulate(preset, 10, seed=1, image_size=size, noise_level=0.05, classes=["no_sub", "cdm"])
        write_deeplense(made, tmp_path / preset)
        scale = made.description["pixel_scale"]
        (tmp_path / preset / "info.json").write_text(json.dumps({"pixel_scale": scale}))

    def train(*arguments):
        words = ["train", "--data", tmp_path / "model_3", "--out", tmp_path / "out", "--epochs", 1, "--batch-size", 8]
        words += ["--network", "plain-cnn", "--camera", "model_3", "--validation-fraction", 0.3, *arguments]
        return CliRunner().invoke(app, list(map(str, words)))

    wrong = train("--target", tmp_path / "model_2")
    assert wrong.exit_code == 2 and "camera and target_camera belong together" in wrong.output
    done = train("--target", tmp_path / "model_2", "--target-camera", "model_2")
    assert done.exit_code == 0 and "lensstudy predict" not in done.output, done.output
    answers = pd.read_csv(tmp_path / "out" / "target.csv")
    assert list(answers.columns) == ["name", "no_sub", "cdm", "class"] and len(answers) == 20
    np.testing.assert_allclose(answers[["no_sub", "cdm"]].sum(axis=1), 1, atol=2e-4)
    seen = LensDataset.load(tmp_path / "out" / "target")
    assert seen.images.shape[1] == 2 and seen.images[:, 1, :4, :4].std() == pytest.approx(1, abs=0.25)
    run = tmp_path / "out" / "training" / "plain-cnn-s1"
    with pytest.raises(ValueError, match="sees images alone|sees the residuals"):
        train_on(tmp_path / "model_3", tmp_path / "further", run)


def test_the_size_of_a_pixel_goes_along(folder, run_folder, tmp_path):
    """A network that knows its own is not trained further on images of which nobody does."""
    begin = shutil.copytree(run_folder, tmp_path / "begin")
    card = json.loads((begin / "card.json").read_text())
    (begin / "card.json").write_text(json.dumps(card | {"data": card["data"] | {"pixel_scale": 0.1}}))

    def lensstudy(*arguments):
        few = ("--data", folder, "--epochs", 1, "--batch-size", 8, "--validation-fraction", 0.3)
        return CliRunner().invoke(
            app, list(map(str, ("train", "--from", begin, "--out", tmp_path / "out", *few, *arguments)))
        )

    unknown = lensstudy()
    assert unknown.exit_code == 2 and "was trained on 0.1 arcsec; say how large yours are" in unknown.output
    assert lensstudy("--pixel-scale", 0.05).exit_code == 0
    trained = json.loads((tmp_path / "out" / "training" / "d4-steerable-cnn-s1" / "card.json").read_text())
    assert trained["data"]["pixel_scale"] == 0.05
    with pytest.raises(DataError, match=r"pixels of 0.05 arcsec, as it says itself \(dataset\), and not of 0.1"):
        train_on(tmp_path / "out" / "dataset", tmp_path / "other", pixel_scale=0.1)


def test_a_network_that_is_trained_further_is_not_chosen(run_folder, folder, tmp_path):
    asked = ["train", "--from", run_folder, "--network", "resnet18", "--data", folder, "--out", tmp_path / "out"]
    done = CliRunner().invoke(app, list(map(str, asked)))
    assert done.exit_code == 2 and "--network resnet18 beside --from" in done.output
    assert not (tmp_path / "out").exists()


def test_a_network_that_saw_simulations_by_a_curriculum_learns_from_the_folder(folder, run_folder, tmp_path):
    """How many images there were, and the machine, belong to the training that is over."""
    begin = shutil.copytree(run_folder, tmp_path / "begin")
    before = {"share": 25, "fresh_images": 6000, "curriculum": [[12, 1.0, 1.0]], "devices": 8, "accelerator": "gpu"}
    card = json.loads((begin / "card.json").read_text())
    (begin / "card.json").write_text(json.dumps(card | before))
    run, _ = train_on(folder, tmp_path / "out", begin, epochs=1, batch_size=8, validation_fraction=0.2)
    card = json.loads((run / "card.json").read_text())
    assert card["training_images"] == card["share"] / 100 * len(
        LensDataset.load(tmp_path / "out/dataset").part("train")
    )
    assert card["fresh_images"] == 0 and card["devices"] == 1


def test_the_network_to_fine_tune_is_not_overwritten(folder, run_folder, tmp_path):
    begin = shutil.copytree(run_folder, tmp_path / "mine" / "training" / "d4-steerable-cnn-s1")
    with pytest.raises(ValueError, match="is the network to fine-tune, which would be lost"):
        train_on(folder, tmp_path / "mine", begin, seed=1)
    assert (begin / "weights.safetensors").exists() and not (tmp_path / "mine" / "dataset").exists()


def test_images_that_do_not_fit(blobs, run_folder, tmp_path):
    small = LensDataset(blobs.images[:, :, 2:-2, 2:-2], blobs.catalogue.drop(columns="part"), blobs.classes)
    with pytest.raises(DataError, match="images of 12 pixels, and the network sees the central 16"):
        train_on(write_deeplense(small, tmp_path / "small"), tmp_path / "out", run_folder)
    with pytest.raises(ValueError, match="no training here"):
        train_on(tmp_path / "small", tmp_path / "out", tmp_path)


def test_one_class_is_said_at_once(blobs, tmp_path):
    blobs.subset(np.flatnonzero(blobs.labels == 0)).save(tmp_path / "alone")
    with pytest.raises(DataError, match=r"only one class \(no_sub\)"):
        train_on(tmp_path / "alone", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_comes_with_the_package_is_fine_tuned_by_its_name(
    blobs, folder, run_folder, tmp_path, monkeypatch
):
    shutil.copytree(run_folder, tmp_path / "box" / "blobs-d4" / "training")
    (tmp_path / "box" / "blobs-d4" / "card.json").touch()
    monkeypatch.setattr(names, "PRETRAINED", tmp_path / "box")

    def train(begin, data):
        asked = ["train", "--from", begin, "--data", data, "--out", tmp_path / "out", "--epochs", 1]
        return CliRunner().invoke(app, [*map(str, asked), "--batch-size", "8", "--validation-fraction", "0.3"])

    assert train("blobs-d4", folder).exit_code == 0
    started = json.loads((tmp_path / "out/training/d4-steerable-cnn-s1/card.json").read_text())["start_from"]
    assert started == file_hash(run_folder / "weights.safetensors")
    unknown = train("blobs-d8", folder)
    assert unknown.exit_code == 2 and "did you mean 'blobs-d4'? there are blobs-d4" in unknown.output
    colour = LensDataset(np.repeat(blobs.images, 3, axis=1), blobs.catalogue.drop(columns="part"), blobs.classes)
    wrong = train("blobs-d4", write_deeplense(colour, tmp_path / "colour"))
    assert wrong.exit_code == 2 and "3 bands, and the network takes 1" in wrong.output
