"""The analysis notebook on the studies that it must bear: one network and one seed, learning curves, missing truth."""

import json
import re

import nbformat
import numpy as np
import pytest
import yaml

from lensstudy.report.execution import execute


@pytest.fixture
def images(blobs, tmp_path):
    """The blobs as a folder of files: two classes, and nothing known of any image but its class."""
    for image, name, class_name in zip(blobs.images, blobs.catalogue["name"], blobs.catalogue["class"], strict=True):
        folder = tmp_path / "images" / class_name
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{name}.npy", image[0])
    return tmp_path / "images"


def analyse(root, home, monkeypatch, **changes) -> tuple[dict, str]:
    """Run 04 with `changes`; what it wrote for the index, and everything that a reader of its page is told."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(home))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    study = {"epochs": 1, "width": 0.25, "orientations": 3, "bootstrap_samples": 50}
    output = home / "04.ipynb"
    notebook = root / "notebooks" / "04-analyse.ipynb"
    file = home / "smoke.yml"
    file.write_text(yaml.safe_dump(study | changes))
    execute(notebook, output, study | changes, study_file=file, log=home / "04.log", timeout_s=300, cwd=home)
    cells = nbformat.read(output, as_version=4).cells
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    told = " ".join(re.sub(r"base64,[^\"]+|<style.*?</style>", "", str(one), flags=re.S) for one in data)
    return json.loads((home / "runs/smoke/analysis/summary.json").read_text()), told


@pytest.mark.slow
def test_one_network_one_seed_two_classes_and_no_truth(root, tmp_path, monkeypatch, images):
    summary, told = analyse(root, tmp_path, monkeypatch, data_path=str(images), networks=["d4-steerable-cnn"])
    assert "the only network of this study" in summary["answer"]
    assert summary["pairs"] == summary["images_to_match"] == []
    assert {row["± over seeds"] for row in summary["table"]} == {"one seed", ""}
    assert {"(ring moments)", "(total flux)"} < {row["network"] for row in summary["table"]}
    assert "One seed each" in summary["limitations"]
    assert "no bound can be drawn" in told
    assert "so there is one point each" in told and "nothing can be read off" in told
    assert "there is one network only, and nothing to compare" in told
    assert not re.search(r"\bnan\b", told)


@pytest.mark.slow
def test_learning_curves_of_two_networks_and_two_seeds(root, tmp_path, monkeypatch, images):
    summary, told = analyse(
        root, tmp_path, monkeypatch, data_path=str(images), networks=["d4-steerable-cnn", "plain-cnn"],
        seeds=[1, 2], shares=[50.0, 100.0],
    )  # fmt: skip
    fewer = min(row["images"] for row in summary["ahead"])
    assert f"With {fewer} training images it is " in summary["answer"]
    assert "95 % interval over test images and seeds" in told
    assert "one point each" not in told and ">another network</th>" in told
    (first, second) = summary["images_to_match"]
    assert first["images"] < second["images"]
    assert summary["pairs"][0].keys() == {"first", "second", "value", "low", "high", "p", "p_accuracy"}
    assert all(float(row["± over seeds"]) >= 0 for row in summary["table"] if not row["network"].startswith("("))
    assert not re.search(r"\bnan\b", told)
