"""The data card of a simulated set: what Croissant 1.0 requires, and what lies in the folder."""

import hashlib
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.data.croissant import CROISSANT, LICENCE, data_card
from lensstudy.data.dataset import LensDataset

REQUIRED = ("@context", "@type", "conformsTo", "description", "license", "name", "url", "creator", "datePublished")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("croissant") / "set"
    asked = ["--preset", "model_3", "--per-class", "2", "--seed", "1", "--pixels", "32", "--processes", "1"]
    done = CliRunner().invoke(app, ["simulate", *asked, "--out", str(place)])
    assert done.exit_code == 0, done.output
    return place


def test_the_card_describes_every_file_column_and_class(folder):
    card = json.loads((folder / CROISSANT).read_text())
    assert all(card[name] for name in REQUIRED) and card["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    files = {file["@id"]: file for file in card["distribution"]}
    assert files.keys() == {file.name for file in folder.iterdir()} - {CROISSANT}
    for name, about in files.items():
        content = (folder / name).read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest() and about["contentUrl"] == name
        assert about["contentSize"] == f"{len(content)} B"
    classes, catalogue = card["recordSet"]
    assert [row["classes/name"] for row in classes["data"]] == ["no_sub", "cdm", "axion"]
    columns = [field["source"]["extract"]["column"] for field in catalogue["field"]]
    assert columns == list(pd.read_parquet(folder / "catalogue.parquet").columns)
    about = {field["name"]: field for field in catalogue["field"]}
    assert about["einstein_radius"]["description"] == "einstein radius [arcsec]"
    assert about["subhalo_mass"]["repeated"] and about["n_subhalos"]["dataType"] == "sc:Integer"
    assert card["license"] == LICENCE and "preset model_3" in card["description"] and "seed 1" in card["description"]


def test_images_made_with_galaxies_of_others_have_another_licence(folder, tmp_path):
    lenses = LensDataset.load(folder)
    lenses.description["population"] = {"source_images": "galaxies"}
    assert data_card(lenses.save(tmp_path / "set"))["license"] != LICENCE


def test_a_card_does_not_outlive_its_files(folder, tmp_path):
    place = LensDataset.load(folder).save(tmp_path / "set")
    (place / CROISSANT).write_text("{}")
    LensDataset.load(folder).subset([0, 1]).save(place)
    assert not (place / CROISSANT).exists()
