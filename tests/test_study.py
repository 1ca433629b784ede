"""A slip in a parameter is an error before anything runs, and the three places that name parameters agree."""

import ast
import json
import subprocess
import sys

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from lensstudy.data.mixture import components_of
from lensstudy.lensing.presets import population_of
from lensstudy.networks.registry import check_name
from lensstudy.study import ParameterError, Study, home, notebook_parameters


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learnig_rate": 0.1}, "'learnig_rate' is unknown; did you mean 'learning_rate'?"),
        ({"zzz": 0.1}, "known are study, pages, question, image_credit, data_path"),
        ({"learning_rate": "1e-3"}, "write 1.0e-3"),
        ({"learning_rate": "2.5e-4"}, "write 2.5e-4"),
        ({"epochs": "5"}, "this is text for YAML, write 5"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2.5}, "epochs = 2.5: input should be a valid integer"),
        ({"test_fraction": 1.0}, "less than 1"),
        ({"scaling": "log"}, "'none', 'min-max', 'maximum', 'asinh', 'z-score' or 'noise'"),
        ({"networks": []}, "at least 1 item"),
        ({"networks": "resnet18"}, "should be a valid list"),
        ({"networks": ["resnet18", "resnet18"]}, "resnet18 stands there twice"),
        ({"seeds": [1, -1]}, "-1 is no seed"),
        ({"population": {"subhalo_mass_min": "1.0e9"}}, "subhalo_mass_min = '1.0e9' is text for YAML; write 1.0e+9"),
        ({"filtering": {"clipped": "1e-3"}}, "write 1.0e-3"),
        ({"population": {"a": [1]}}, "neither a number, a text nor true or false"),
        ({"population": {"presets": [{"population": {"shear_max": "1e-1"}}]}}, "shear_max = '1e-1' is text for YAML"),
        ({"settings": {"resnet18": {"epoch": 2}}}, "resnet18: 'epoch' is no setting of single networks; did you mean"),
        ({"settings": {"resnet18": {"width": 2.0}}}, "'width' is no setting of single networks; known are epochs"),
        ({"settings": {"resnet18": {"augmentation": "all"}}}, "resnet18: augmentation = 'all': input should be 'none'"),
        ({"settings": {"resnet18": {"at_share": 3}}}, "at_share is 3; expected such as"),
        ({"settings": {"resnet18": {"at_share": {"130%": {"epochs": 2}}}}}, "130.0 is no share"),
        ({"settings": {"resnet18": {"at_share": {"1%": {"epoch": 2}}}}}, "did you mean 'epochs'?"),
        ({"data_path": "lenses", "test_images": 50}, "for images that are read use 0"),
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
    files = sorted((root / "params").rglob("*.yml"))
    assert files
    for file in files:
        study = Study.read(file)
        assert study.study == file.stem
        for component in components_of(study.preset, study.population, study.noise_level, study.data_seed):
            population_of(component.preset, component.population)
        for network in (*study.networks, study.network):
            check_name(network)


def test_smoke_names_every_parameter_with_its_default(root):
    text = (root / "params/smoke.yml").read_text()
    assert yaml.safe_load(text) == Study().model_dump()
    assert not [name for name, field in Study.model_fields.items() if f"# {field.description}\n" not in text]


def test_single_parameters_are_changed_and_none_leaves_them_alone():
    study = Study.read("quick", weight_decay=0.5, batch_size=None, study="mine")
    assert study == Study.read("quick").model_copy(update={"weight_decay": 0.5, "study": "mine"})


@pytest.mark.parametrize(
    ("study", "changes", "message"),
    [
        ("smoke", {"epohcs": 3}, "parameter 'epohcs' is unknown; did you mean 'epochs'?"),
        ("smoke", {"epochs": 0}, "smoke.yml, epochs changed: epochs = 0"),
        ("qiuck", {}, "study 'qiuck' is unknown; did you mean 'quick'? known in params/: common-test, "),
    ],
)
def test_a_wrong_name_says_what_was_meant(study, changes, message):
    with pytest.raises(ParameterError) as error:
        Study.read(study, **changes)
    assert message in str(error.value)


def test_every_parameter_that_a_result_depends_on_has_a_group():
    grouped = [name for names in Study.groups().values() for name in names]
    without = {"study", "pages", "question", "image_credit", "plugins", "strategy", "tensorboard"}
    assert set(Study.model_fields) - set(grouped) == without
    assert Study(epochs=7).group("training", "data")["epochs"] == 7
    assert "epochs" not in Study().group("data", "analysis")
    with pytest.raises(ValueError, match="group 'trainning' is unknown; known groups: data, "):
        Study().group("trainning")


NOTEBOOKS = (
    "01-explore-data",
    "02-build-models",
    "03-train",
    "04-analyse",
    "05-improve",
    "06-validate-on-real-lenses",
    "07-known-subhalo",
    "08-apply",
    "09-from-one-telescope-to-another",
    "10-published-networks",
    "11-fit-real-lenses",
    "12-detectability",
    "13-subhalos-in-a-sample",
)


def code_cells(root, notebook):
    cells = nbformat.read(root / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def reading_cells(root, notebook):
    """The `parameters` cell and the statement after it that reads the study."""
    cells = code_cells(root, notebook)
    number = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    after = (ast.unparse(line) for cell in cells[number + 1 :] for line in ast.parse(cell.source).body)
    return cells[number], next(line for line in after if line.startswith("parameters = "))


def test_all_notebooks_are_looked_at(root):
    assert [file.stem for file in sorted((root / "notebooks").glob("*.ipynb"))] == ["00-start-here", *NOTEBOOKS]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebooks_declare_few_parameters_and_leave_them_to_the_study(root, notebook):
    declared = notebook_parameters(root / "notebooks" / f"{notebook}.ipynb")
    first, *names, last = declared
    assert (first, declared[first]) == ("study", "smoke") and (last, declared[last]) == ("more", {})
    assert len(names) <= 8 and {declared[name] for name in names} <= {None}
    cell, reading = reading_cells(root, notebook)
    assert reading == f"parameters = Study.read(study, {', '.join(f'{name}={name}' for name in names)}, **more)"
    for name in names:
        assert f" = None  # {Study.model_fields[name].description}\n" in cell.source, name


@pytest.fixture
def papermill(root, tmp_path):
    """Run the beginning of 03-train by papermill's own command; returns the exit status, the study and the output."""
    cell, reading = reading_cells(root, "03-train")
    written = "import pathlib\npathlib.Path('study.json').write_text(parameters.model_dump_json())"
    cells = [new_code_cell("from lensstudy.study import Study"), cell, new_code_cell(reading), new_code_cell(written)]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=about), tmp_path / "in.ipynb")

    def run(*words):
        command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        found = tmp_path / "study.json"
        return done.returncode, json.loads(found.read_text()) if found.exists() else {}, done.stdout + done.stderr

    return run


def test_papermill_runs_a_study_with_any_parameter_changed(root, papermill):
    """Those that the notebook declares and those that it does not; the rest is as in the file."""
    words = ["-f", str(root / "params/quick.yml"), "-p", "epochs", "3", "-p", "weight_decay", "0.5"]
    status, study, output = papermill(*words)
    assert status == 0, output
    assert study == Study.read("quick", epochs=3, weight_decay=0.5).model_dump()


def test_a_learning_rate_given_to_papermill_is_that_of_every_network(root, papermill):
    """`-f` repeats the file's own and its `settings`, which is no choice; `-p` makes one."""
    quick = str(root / "params/quick.yml")
    own = Study.read("quick").settings
    assert own and papermill("-f", quick)[1]["settings"] == own
    for words in (
        ["-f", quick, "-p", "learning_rate", "0.02"],
        ["-p", "study", "quick", "-p", "learning_rate", "0.005"],
    ):
        status, study, output = papermill(*words)
        assert status == 0, output
        assert Study.of(study).training("resnet18").learning_rate == float(words[-1])


def test_another_preset_comes_with_its_own_population(tmp_path):
    """Whoever names it in a file, in code or in a notebook; changes made for one preset are not carried to another."""
    assert Study().population and Study(preset="model_1").population == Study(preset="realistic").population == {}
    assert Study.read("smoke", preset="realistic").population == Study().population
    assert Study.read("smoke", preset="model_1").population == {}
    given = {"shear_max": 0.05}
    assert Study.read("smoke", preset="mixture", population=given).population == given
    (tmp_path / "mine.yml").write_text("preset: model_2\nepochs: 3\n")
    assert Study.read(tmp_path / "mine.yml").population == {}
    (tmp_path / "mine.yml").write_text("epochs: 3\n")
    assert Study.read(tmp_path / "mine.yml").population == Study().population
    assert Study.read(tmp_path / "mine.yml", preset="model_2").population == {}


def test_another_preset_given_to_papermill_comes_with_its_own_population(root, papermill):
    """`-f` repeats the file's population, which is no choice; `-p` makes one."""
    quick = str(root / "params/quick.yml")
    assert papermill("-f", quick)[1]["population"] == Study.read("quick").population
    assert papermill("-f", quick, "-p", "preset", "model_1")[1]["population"] == {}


def test_a_slip_stops_papermill(papermill):
    status, study, output = papermill("-p", "epohcs", "3")
    assert status != 0 and not study
    assert "parameter 'epohcs' is unknown; did you mean 'epochs'?" in output


def test_home_is_the_nearest_folder_with_notebooks_and_params(tmp_path, monkeypatch):
    monkeypatch.delenv("LENSSTUDY_HOME", raising=False)
    for name in ("notebooks", "params", "notebooks/deep"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks/deep")
    assert home() == tmp_path
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
