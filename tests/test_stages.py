"""What a notebook starts from: made once, opened again, whatever subset of the parameters it declares."""

import pytest

from lensstudy import stages
from lensstudy.data.dataset import DataError
from lensstudy.provenance import data_state
from lensstudy.study import Study

TINY = {"study": "tiny", "images_per_class": 20, "width": 0.25, "epochs": 1, "batch_size": 16}


@pytest.fixture
def trained(monkeypatch, tmp_path):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    study = Study.of(Study().model_dump() | TINY | {"learning_rates": {"plain-cnn": 0.01}, "weight_decay": 0.1})
    stages.trained(study, "plain-cnn", 1)
    return study


def refits(monkeypatch):
    fitted, fit = [], stages.fit
    monkeypatch.setattr(stages, "fit", lambda *given: (fitted.append(given), fit(*given))[1])
    return fitted


def test_a_notebook_that_declares_few_parameters_opens_what_was_trained(trained, monkeypatch):
    fitted = refits(monkeypatch)
    few = Study.here(TINY | {"learning_rate": 0.003})
    run = stages.trained(few, "plain-cnn", 1)
    assert not fitted
    assert run.card["learning_rate"] == 0.01
    assert run.card["weight_decay"] == 0.1


@pytest.mark.parametrize("changes", [{"epochs": 2}, {"weight_decay": 0.2}, {"crop": 24}, {"scaling": "maximum"}])
def test_a_parameter_that_is_declared_and_differs_trains_anew(trained, monkeypatch, changes):
    fitted = refits(monkeypatch)
    stages.trained(Study.here(TINY | changes), "plain-cnn", 1)
    assert len(fitted) == 1


def test_other_data_train_anew(trained, monkeypatch):
    fitted = refits(monkeypatch)
    stages.trained(Study.here(TINY | {"data_seed": 2}), "plain-cnn", 1)
    assert len(fitted) == 1


def test_studies_across_recipes():
    """Each alone, the others, all; as many images each, and no seed or setting but the recipe changes."""
    recipes = [{"preset": "model_1"}, {"preset": "model_2", "noise_level": 0.01}, {"preset": "realistic"}]
    study = Study(study="x", preset="mixture", population={"recipes": recipes}, noise_level=0.0, images_per_class=90)
    apart, others, whole = stages.across_recipes(study)
    assert {name: (one.study, one.preset, one.noise_level) for name, one in apart.items()} == {
        "model_1": ("x-model_1", "model_1", 0.0),
        "model_2": ("x-model_2", "model_2", 0.01),
        "realistic": ("x-realistic", "realistic", 0.0),
    }
    changed = {"study", "preset", "population", "noise_level"}
    for one in (*apart.values(), *others.values(), whole):
        assert one.model_dump(exclude=changed) == study.model_dump(exclude=changed)
    assert others["model_2"].study == "x-without-model_2"
    assert [one["preset"] for one in others["model_2"].population["recipes"]] == ["model_1", "realistic"]
    assert whole.population["recipes"] == recipes and whole.images_per_class == 90
    apart, others, whole = stages.across_recipes(Study(preset="realistic", population={"shear_max": 0.05}))
    assert apart["realistic"].population == {"shear_max": 0.05} and others["realistic"] is apart["model_3"]
    assert others["realistic"].noise_level == 0.02 and apart["realistic"].noise_level == Study().noise_level
    with pytest.raises(DataError, match="only one"):
        stages.across_recipes(Study(preset="mixture", population={"recipes": [{"preset": "model_1"}]}))
    with pytest.raises(DataError, match="leave it empty"):
        stages.across_recipes(Study(data_path="somewhere"))


@pytest.mark.parametrize("nested", [False, True])
def test_a_point_spread_function_that_changed_under_its_name_makes_other_images(tmp_path, nested):
    file = tmp_path / "psf.fits"
    population = {"psf_file": str(file)}
    given = (
        {"recipes": [{"preset": "realistic", "population": population}, {"preset": "model_1"}]}
        if nested
        else population
    )
    assert data_state("", given) == []
    file.write_bytes(b"one")
    before = data_state("", given)
    assert before == data_state("", given) != []
    file.write_bytes(b"another")
    assert data_state("", given) != before
