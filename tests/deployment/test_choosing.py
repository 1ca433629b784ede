"""Which bundled network is chosen for images, and what is said where none fits."""

import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.deployment.card import Card, CardError
from lensstudy.deployment.choosing import choose, listed
from lensstudy.networks import names

UNSEEN = {"of": "blobs simulated anew", "auc": {"value": 0.9, "interval": [0.85, 0.95]}}


@pytest.fixture
def box(exported, tmp_path, monkeypatch):
    """Networks in pixels of 0.1 arcsec, with the symmetry of the square and without, and one of larger pixels."""

    def put(name, pixel_scale, **changes):
        card = Card.read(shutil.copytree(exported, tmp_path / "box" / name))
        card.images.pixel_scale = pixel_scale
        card.training["purpose"], card.metrics["unseen"] = f"For {name}.", UNSEEN
        card.model_copy(update=changes).write(tmp_path / "box" / name)

    put("a-plain", 0.1, symmetry="")
    put("blobs-d4", 0.1)
    put("wide", 0.25)
    monkeypatch.setattr(names, "PRETRAINED", tmp_path / "box")
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return put


@pytest.fixture
def images(blobs, tmp_path):
    """Files of images in the distribution of the networks, which say nothing of their pixels."""
    (tmp_path / "mine").mkdir()
    for number, image in enumerate(blobs.part("test").images[:20, 0]):
        np.save(tmp_path / "mine" / f"{number:02}.npy", image)
    return tmp_path / "mine"


@pytest.mark.parametrize(("scale", "name"), [(0.1, "blobs-d4"), (0.25, "wide"), (0.24, "wide")])
def test_the_pixel_scale_chooses_and_of_two_the_equivariant_one(box, images, scale, name):
    chosen, why = choose([images], pixel_scale=scale)
    assert chosen == name and f"{name} takes 16 of the first 16 images (pixels of {scale} arcsec" in why
    assert why.endswith(f"What it is for: For {name}.")


def test_a_network_in_whose_distribution_images_are_comes_before_one_of_a_nearer_scale(box, images):
    """Here the nearer one cannot tell, which is as good as none."""
    assert choose([images], pixel_scale=0.1009)[0] == "blobs-d4"
    box("blind", 0.1009, in_distribution=None)
    assert choose([images], pixel_scale=0.1009)[0] == "blobs-d4"


def test_without_a_pixel_scale_only_images_in_distribution_choose_a_network_that_has_none(box, images, tmp_path):
    with pytest.raises(
        ValueError, match=r"(?s)00.npy: 16 x 16 pixels of unknown size, one band. Their.*-scale 0.1, if"
    ):
        choose([images])
    box("unscaled", None)
    name, why = choose([images])
    assert name == "unscaled" and "neither says how large they are" in why
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=(16, 16)))
    with pytest.raises(ValueError, match="too few of the images are in its distribution"):
        choose([tmp_path / "noise.npy"])
    with pytest.raises(ValueError, match="no image can be read here, so no network can be chosen; .*: nothing exists"):
        choose([tmp_path / "nowhere"])


def test_images_that_fit_no_network_get_a_table_of_what_each_takes(box, images, tmp_path):
    def predict(*arguments):
        return CliRunner().invoke(app, ["predict", *map(str, arguments)])

    far = predict(images, "--pixel-scale", 1)
    assert far.exit_code == 2 and not (tmp_path / "predictions.csv").exists()
    row, reason = far.output.split("\nwide")[1].splitlines()[:2]
    assert "0.0833 to 0.75" in row and "at least 4 arcsec" in row
    assert "more than a factor of 3 apart" in reason
    np.save("colour.npy", np.random.default_rng(0).normal(size=(3, 16, 16)))
    wrong = predict("colour.npy", "--pixel-scale", 0.1)
    assert wrong.exit_code == 2 and "the network takes one band, and the image has 3" in wrong.output
    other = predict(images, "--pixel-scale", 0.1, "--classes", "lens,nonlens")
    assert other.exit_code == 2 and other.output.count("  classes lens, nonlens\n") == 3
    assert "--classes sub: blobs-d4 tells" in predict(images, "--network", "blobs-d4", "--classes", "sub").output


def test_the_command_says_which_network_it_takes_and_so_does_its_table(box, images, tmp_path):
    np.save(images / "99.npy", np.zeros((4, 4)))  # not among the first, so rejected later
    asked = ["predict", "mine", "--pixel-scale", "0.1", "--classes", "substructure,no_sub", "--html", "page.html"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 1 and "network: blobs-d4 takes 16 of the first 16 images" in done.output
    table = pd.read_csv("predictions.csv")
    assert set(table["network"]) == {"blobs-d4"} and (table["state"] == "rejected").sum() == 1
    assert "blobs-d4 takes 16 of" in (tmp_path / "page.html").read_text()
    named = CliRunner().invoke(app, [*asked[:6], "--network", "a-plain", "--out", "named.csv"])
    assert set(pd.read_csv("named.csv")["network"]) == {"a-plain"} and "What it is for" not in named.output
    told = CliRunner().invoke(app, ["inspect", "mine", "--for", "wide", "--pixel-scale", "0.25"])
    assert told.exit_code == 0 and "20 ok, 1 rejected" in told.output
    before = CliRunner().invoke(app, ["predict", "box/wide", "mine", "--out", "new.csv"])
    assert before.exit_code == 2 and "lensstudy predict IMAGES --network box/wide" in before.output


def test_a_damaged_network_is_named(box, images, tmp_path):
    with (tmp_path / "box/wide/network.onnx").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CardError, match=r"wide/network.onnx: has been altered"):
        choose([images], pixel_scale=0.1)


def test_the_list_says_what_each_takes_and_is_for(box, tmp_path):
    (tmp_path / "box/wide/training").mkdir()
    (tmp_path / "box/wide/training/metrics.json").write_text("{}")
    lines = listed({name: Card.read(tmp_path / "box" / name) for name in names.pretrained_names()}).splitlines()
    assert [line.split()[0] for line in lines[1::2]] == ["a-plain", "blobs-d4", "wide"]
    assert "0.25 arcsec" in lines[5] and " 4 arcsec" in lines[5] and "0.900 [0.850, 0.950]" in lines[5]
    assert [line.split()[-1] for line in lines[1::2]] == ["no", "no", "yes"]
    assert lines[6].strip() == "For wide. AUC on blobs simulated anew."
