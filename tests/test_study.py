"""A slip in a parameter is an error before anything runs, and the three places that name parameters agree."""

import pytest
import yaml

from lensstudy.data.mixture import recipes_of
from lensstudy.lensing import populations as population
from lensstudy.networks.registry import check_name
from lensstudy.study import ParameterError, Study, home, notebook_parameters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learnig_rate": 0.1}, "'learnig_rate' is unknown; did you mean 'learning_rate'?"),
        ({"zzz": 0.1}, "known are study, pages, question, data_path"),
        ({"learning_rate": "1e-3"}, "write 1.0e-3"),
        ({"learning_rate": "2.5e-4"}, "write 2.5e-4"),
        ({"epochs": "5"}, "this is text for YAML, write 5"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2.5}, "epochs = 2.5: input should be a valid integer"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"scaling": "log"}, "'none', 'min-max', 'maximum', 'asinh' or 'z-score'"),
        ({"networks": []}, "at least 1 item"),
        ({"networks": "resnet18"}, "should be a valid list"),
        ({"networks": ["resnet18", "resnet18"]}, "resnet18 stands there twice"),
        ({"seeds": [1, -1]}, "-1 is no seed"),
        ({"population": {"subhalo_mass_min": "1.0e9"}}, "subhalo_mass_min = '1.0e9' is text for YAML; write 1.0e+9"),
        ({"filtering": {"outlier": "1e-3"}}, "write 1.0e-3"),
        ({"population": {"a": [1]}}, "neither a number, a text nor true or false"),
        ({"population": {"recipes": [{"population": {"shear_max": "1e-1"}}]}}, "shear_max = '1e-1' is text for YAML"),
        ({"study": "../elsewhere"}, "study = '../elsewhere'"),
        ({"study": "reference"}, "choose another name"),
    ],
)
def test_a_wrong_value_is_refused_with_the_way_out(values, message):
    with pytest.raises(ParameterError) as error:
        Study.of(values, "x.yml")
    assert message in str(error.value)
    assert str(error.value).startswith("x.yml: ")


def test_several_slips_are_told_at_once():
    with pytest.raises(ParameterError, match="epochs.*batch_size"):
        Study.of({"epochs": 0, "batch_size": -1})


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no 'name: value' lines"), ("a: [", "no valid YAML"), ("epochs: 0", "epochs = 0")],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    file = tmp_path / "mine.yml"
    file.write_text(text)
    with pytest.raises(ParameterError) as error:
        Study.read(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"absent\.yml: cannot be read"):
        Study.read(tmp_path / "absent.yml")


def test_the_study_is_named_after_its_file(tmp_path):
    (tmp_path / "mine.yml").write_text("epochs: 3\n")
    study = Study.read(tmp_path / "mine.yml")
    assert (study.study, study.epochs) == ("mine", 3)
    assert study.changes() == {"epochs": 3}


def test_every_study_of_the_project_is_valid_and_named_after_its_file(root):
    files = sorted((root / "params").glob("*.yml"))
    assert files
    for file in files:
        study = Study.read(file)
        assert study.study == file.stem
        for recipe in recipes_of(study.preset, study.population, study.noise_level, study.data_seed):
            population.preset_named(recipe.preset).with_population(recipe.population)
        for network in (*study.networks, study.network):
            check_name(network)


def test_smoke_names_every_parameter_with_its_default(root):
    assert yaml.safe_load((root / "params/smoke.yml").read_text()) == Study().model_dump()


def test_notebooks_declare_parameters_of_the_schema_with_their_defaults(root):
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    assert notebooks
    for notebook in notebooks:
        declared = notebook_parameters(notebook)
        assert declared, notebook.name
        assert declared == {name: getattr(Study(), name) for name in declared}, notebook.name


def test_home_is_the_nearest_folder_with_notebooks_and_params(tmp_path, monkeypatch):
    monkeypatch.delenv("LENSSTUDY_HOME", raising=False)
    for name in ("notebooks", "params", "notebooks/deep"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks/deep")
    assert home() == tmp_path
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
