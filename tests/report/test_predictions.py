"""A page of predictions: whole, offline, sortable, and nothing of a file's name is taken for HTML."""

import base64
import io
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.deployment.card import Card
from lensstudy.report.predictions import MOST_ROWS, SIDE, thumbnail, write_predictions

EVIL = "<img src=x onerror=alert(1)>&\"'.npy"


@pytest.fixture
def page(exported, blobs, tmp_path, monkeypatch):
    """The page of four images, one of them with a name that is HTML and one that cannot be used."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    os.mkdir("mine")
    images = blobs.part("test").images
    for name, image in (("a.npy", images[0]), ("b.npy", images[1]), (EVIL, images[2])):
        np.save(f"mine/{name}", image[0])
    np.save("mine/c.npy", images[0, 0, :, :9])
    options = ["--pixel-scale", "0.1", "--html", "page.html"]
    result = CliRunner().invoke(app, ["predict", "mine", "--network", str(exported), *options])
    assert result.exit_code == 1, result.output
    again = CliRunner().invoke(app, ["predict", "mine", "--network", str(exported), *options, "--out", "other.csv"])
    assert again.exit_code == 2 and "--html page.html: is there already; --force replaces it" in again.output
    return Path("page.html").read_text(encoding="utf-8")


def test_every_image_has_a_row_with_what_the_network_saw(page, exported, blobs):
    soup = BeautifulSoup(page, "html.parser")
    rows = soup.select("tbody tr")
    assert len(rows) == 4
    cells = {row.select("td")[1].text.split("/")[-1].strip(): row for row in rows}
    assert {"a.npy", "b.npy", "c.npy"} <= set(cells)
    assert cells["c.npy"].select_one("img") is None and "cut out a square" in cells["c.npy"].text
    picture = cells["a.npy"].select_one("img")
    assert picture["loading"] == "lazy"
    decoded = Image.open(io.BytesIO(base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))))
    image = blobs.part("test").images[0, 0]
    assert decoded.size == (16, 16)
    assert np.corrcoef(np.asarray(decoded).ravel(), image.ravel())[0, 1] > 0.8, "up to its stretch"
    probabilities = [float(cell.text) for cell in cells["a.npy"].select("td.number")[:2]]
    assert sum(probabilities) == pytest.approx(1, abs=2e-4)
    assert all(re.fullmatch(r"[01]\.\d{4}", cell.text) for cell in cells["a.npy"].select("td.number")[:2])


def test_it_asks_for_nothing_and_takes_no_name_for_html(page):
    soup = BeautifulSoup(page, "html.parser")
    assert "<img src=x" not in page and EVIL in soup.text
    addresses = [one.get("src") or one.get("href") for one in soup.select("[src], link[href]")]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not soup.select("script[src]") and "http" not in page.replace("http-equiv", "")
    heads = [head.text.strip() for head in soup.select("th button")]
    assert heads == ["Image", "Prediction", "State", "no_sub", "sub", "OOD score", "Reason and note"]


def test_thousands_of_images_make_a_page_that_can_be_opened(exported, tmp_path):
    seen = np.random.default_rng(0).normal(size=(1, 150, 150))
    picture = thumbnail(seen)
    assert Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size == (SIDE, SIDE)
    row = {"file": "x.npy", "image": 0, "prediction": "sub", "state": "ok", "no_sub": 0.25, "sub": 0.75}
    row |= {"ood_score": 0.5, "reason": "", "note": "", "thumbnail": picture}
    begin = time.monotonic()
    rows = [row | {"image": i} for i in range(MOST_ROWS + 10)]
    write_predictions(tmp_path / "page.html", rows, Card.read(exported), {"ok": len(rows)}, "table.csv")
    assert time.monotonic() - begin < 60
    text = (tmp_path / "page.html").read_text()
    assert len(text) < 80e6 and text.count("<tr>") == MOST_ROWS + 1
    assert "The first 5,000 are shown; all are in <code>table.csv</code>" in text


@pytest.mark.parametrize("seen", [np.zeros((1, 16, 16)), np.full((3, 16, 16), np.nan)])
def test_a_flat_image_has_a_picture(seen):
    assert thumbnail(seen).startswith("data:image/png;base64,")
