"""A folder of lenses is fitted unattended: one bad lens stops nothing, and what is done is not done again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lensstudy.data.dataset import DataError
from lensstudy.observations.lens import Lens
from lensstudy.observations.model_fits import doubts, fit_folder
from lensstudy.observations.writing import write
from tests.observations.test_lens_model import lensed


@pytest.fixture
def folder(tmp_path):
    """A lens, an image without one, and a file that cannot be read."""
    one = lensed()
    x, y = one.grid()
    galaxy = one.image + 3 * one.image.max() * np.exp(-(x**2 + y**2) / 2 / 0.3**2)
    write(replace(one, image=galaxy), tmp_path / "lenses" / "lens")
    empty = np.random.default_rng(2).normal(0, one.noise)
    write(replace(one, image=empty), tmp_path / "lenses" / "empty")
    (tmp_path / "lenses" / "broken.fits").write_bytes(b"SIMPLE")
    return tmp_path / "lenses"


def test_lenses_are_fitted_once_and_failures_are_named(folder, tmp_path, monkeypatch):
    lines = []
    table = fit_folder(folder, tmp_path / "out", done=lines.append, draw=lambda lens, model: b"drawn")
    states = dict(zip(table["lens"].str.split("/").str[-1], table["state"], strict=True))
    assert states == {"broken.fits": "failed", "empty": "failed", "lens": "ok"}
    assert len(lines) == 3 and table["reason"].str.contains("no arcs stand out").any()
    row = table[table["lens"] == "lens"].iloc[0]
    assert row["einstein_radius"] == pytest.approx(1.1, rel=0.03)
    with np.load(tmp_path / "out" / row["planes"]) as planes:
        assert set(planes) >= {"observed", "arcs", "mask", "noise", "galaxy", "model", "residuals", "used"}
        assert (planes["residuals"][~planes["used"]] == 0).all() and planes["used"].any()
    assert (tmp_path / "out" / "lens.png").read_bytes() == b"drawn"
    assert pd.read_csv(tmp_path / "out" / "lenses.csv")["lens"].tolist() == table["lens"].tolist()

    monkeypatch.setattr(Lens, "modelled", lambda *_: pytest.fail("is fitted again"))
    assert fit_folder(folder, tmp_path / "out").equals(table)


def test_a_folder_without_images_is_told(tmp_path):
    with pytest.raises(DataError, match="no image in it"):
        fit_folder(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "change, why",
    [
        ({}, []),
        ({"chi2": 2.5}, ["chi square a pixel: 2.50"]),
        ({"second_chi2": -5.0}, ["an Einstein radius of 0.70 explains the arcs about as well"]),
        ({"second_chi2": None, "second_einstein_radius": None}, []),
        ({"started_einstein_radius": 1.3}, ["with a small source the Einstein radius is 1.30"]),
        ({"at_limits": "slope shear_1"}, ["the slope ends at its limit: 1.68"]),
    ],
)
def test_what_may_be_wrong_with_a_model_is_named(change, why):
    row = {"chi2": 1.0, "einstein_radius": 1.0, "started_einstein_radius": 1.05, "slope": 1.68, "at_limits": "shear_1"}
    assert doubts(row | {"second_einstein_radius": 0.7, "second_chi2": 500.0} | change) == why
