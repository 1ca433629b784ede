"""The project's own promises: one list of versions, notebooks with guarded outputs alone, no path of a machine."""

import ast
import json
import re
import sys
import tomllib
from importlib import metadata
from importlib.metadata import version

import pytest
import yaml
from bs4 import BeautifulSoup
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lensstudy import __version__, provenance
from lensstudy.evaluation.scores import format_interval
from tests import refresh_readme

REFERENCE = refresh_readme.ROOT / "reports/reference"


def pinned(root) -> dict[str, str]:
    lines = (root / "constraints.txt").read_text().split()
    assert all("==" in line for line in lines)
    return {canonicalize_name(name): number for name, number in (line.split("==") for line in lines)}


def project(root) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_every_dependency_is_pinned_and_the_pin_satisfies_it(root):
    pins = pinned(root)
    extras = project(root)["optional-dependencies"]
    for line in [*project(root)["dependencies"], *(one for group in extras.values() for one in group)]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line


def test_conda_users_get_the_same_versions(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "--constraint constraints.txt" in pip
    assert "--editable .[test]" in pip
    listed = {canonicalize_name(n): v for n, v in (line.split("==") for line in pip if "==" in line)}
    assert listed == {name: pinned(root)[name] for name in listed}
    assert listed.keys() == {"jupyterlab", "torch", "e2cnn", "papermill", "ipywidgets", "seaborn", "nbval"}
    python = next(entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    assert Requirement(f"python{project(root)['requires-python']}").specifier.contains(python.split("=")[1])


def test_a_release_is_called_the_same_everywhere(root):
    number, cited = project(root)["version"], yaml.safe_load((root / "CITATION.cff").read_text())
    archived = json.loads((root / ".zenodo.json").read_text())
    assert __version__ == cited["version"] == archived["version"] == number
    assert cited["date-released"] == archived["publication_date"]
    assert f"\n## {number} ({cited['date-released']})\n" in (root / "CHANGELOG.md").read_text()
    for name in ("title", "license", "keywords"):
        assert cited[name] == archived[name]
    assert [one["name"] for one in cited["authors"]] == [one["name"] for one in archived["creators"]]


def test_the_pins_are_all_that_is_needed(root):
    """constraints.txt is a lock file: it names every package that another one brings along, and none besides, for each
    Python and for macOS too."""
    systems = [
        {
            "sys_platform": name,
            "platform_system": name.title(),
            "python_version": python,
            "python_full_version": python + ".0",
        }
        for name in ("linux", "darwin")
        for python in ("3.11", "3.12", "3.13")
    ]
    extras = project(root)["optional-dependencies"].values()
    waiting = [
        Requirement(line) for line in [*project(root)["dependencies"], *(one for group in extras for one in group)]
    ]
    places = [place for place in sys.path if "_vendor" not in place]  # setuptools puts copies of its own there
    installed = {canonicalize_name(one.metadata["Name"]): one for one in metadata.distributions(path=places)}
    asked = set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, *sorted(one.extras)) not in asked and name in installed:  # those of another extra may not be
            lines = [line for line in installed[name].requires or [] if one.extras or "extra ==" not in line]
            for line in map(Requirement, lines):
                asked_by = [{"extra": extra, **system} for extra in ("", *one.extras) for system in systems]
                if not line.marker or any(map(line.marker.evaluate, asked_by)):
                    waiting.append(line)
        asked.add((name, *sorted(one.extras)))
    needed = {name for name, *_ in asked}
    of_cuda = re.compile(r"nvidia-|cuda-|triton$|setuptools$")  # what PyTorch for NVIDIA GPUs brings along
    assert {name for name in needed if not of_cuda.match(name)} <= pinned(root).keys()
    assert not (pinned(root).keys() & installed.keys()) - needed


def test_the_pins_take_the_oldest_python_that_is_promised(root):
    """Debian 12 has Python 3.11.2, and a package that asks for a later 3.11 could not be installed there."""
    oldest = re.search(r">=([\d.]+)", project(root)["requires-python"])[1] + ".0"
    asks = {one.metadata["Name"]: one.metadata["Requires-Python"] or "" for one in metadata.distributions()}
    assert not {name: asked for name, asked in asks.items() if not SpecifierSet(asked).contains(oldest)}


def test_every_way_of_installing_takes_the_pins(root):
    """And where PyTorch's build for CUDA would be gigabytes for nothing, its build for processors."""
    installs = {"Makefile": 2, "Dockerfile": 0, ".binder/postBuild": 1, "docs/installing.md": 2, "environment.yml": 1}
    for name, number in installs.items():
        text = (root / name).read_text(encoding="utf-8")
        assert text.count("--constraint constraints.txt") >= number, name
    assert "make install" in (root / "Dockerfile").read_text()
    python = (root / ".binder/runtime.txt").read_text().strip().removeprefix("python-")
    assert Requirement(f"python{project(root)['requires-python']}").specifier.contains(python)
    assert f"FROM python:{python}" in (root / "Dockerfile").read_text()


def test_what_is_installed_is_what_is_pinned(root):
    """A mismatch means that this environment was not made by `make` or environment.yml."""
    differing = {}
    for name in ("torch", "e2cnn", "numpy", "pandas", "scikit-learn", "lightning", "papermill", "pydantic"):
        installed = version(name).split("+")[0]
        if installed != pinned(root)[canonicalize_name(name)]:
            differing[name] = installed
    assert not differing


def test_notebooks_hold_the_outputs_that_are_compared_and_no_others(root):
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    assert notebooks
    for file in notebooks:
        cells = json.loads(file.read_text())["cells"]
        for cell in cells:
            guarded = "nbval-check-output" in cell["metadata"].get("tags", [])
            assert bool(cell.get("outputs")) == guarded, f"{file.name}: say make notebooks"
        assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# "), file.name
        assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1, file.name
        for cell in cells:
            # A parameters cell is a list, one line each, and holds no logic.
            if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
                assert len(cell["source"]) <= 40, f"{file.name}: a cell longer than a screen belongs in the package"


def modules(*names):
    return {
        ".".join(file.relative_to(provenance.PACKAGE).with_suffix("").parts) for file in provenance.module_files(*names)
    }


def test_a_stage_knows_every_module_behind_it():
    behind = modules("training.fitting")
    assert {"training.fitting", "networks.registry", "networks.layers", "data.dataset", "study"} <= behind
    assert not any(name.startswith("report") for name in behind)
    assert {"lensing.populations", "lensing.profiles"} <= modules("data.simulation")
    whole = provenance.code_hash("training.fitting")
    assert whole != provenance.code_hash("training.fitting", without=("study",))
    assert whole != provenance.code_hash("training.fitting", without=("lensing",))


def test_code_that_cannot_be_found_is_an_error():
    """A hash over nothing never changes, so that results of other code would pass as current."""
    for wrong in ("training", "no_such_module", "data.no_such_name", "training.fitting.fit"):
        with pytest.raises(provenance.ProvenanceError, match=wrong):
            provenance.module_files(wrong)
    with pytest.raises(provenance.ProvenanceError, match="simulate"):
        provenance.code_hash("training.fitting", without=("simulate",))


def test_the_modules_that_a_notebook_imports_are_known(root, tmp_path):
    package = "%autoreload 2\nfrom lensstudy import (\n    stages,\n)\nfrom lensstudy.data import LensDataset, read\n"
    code = package, "from lensstudy.training.tuning import search\n", "%%bash\nls -l\n"
    cells = [{"cell_type": "code", "source": text.splitlines(keepends=True)} for text in code]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    found = provenance.imported_modules(tmp_path / "a.ipynb")
    assert found == ["data.dataset", "data.reading", "stages", "training.tuning"]
    for notebook in (root / "notebooks").glob("*.ipynb"):
        needed = {  # by notebooks that train nothing
            "00-start-here": {"deployment.pretraining"},
            "10-published-networks": {"deployment.pretraining"},
            "07-known-subhalo": {"observations.known_subhalo"},
            "11-fit-real-lenses": {"observations.modelled_sample"},
            "13-subhalos-in-a-sample": {"observations.sample_images", "observations.sample_search"},
        }.get(notebook.stem, {"stages"})
        assert needed | {"study"} <= set(provenance.imported_modules(notebook)), notebook.name
    cells[0]["source"] = ["from lensstudy import evaluation\n"]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert {"evaluation.scores", "evaluation.ood"} <= set(provenance.imported_modules(tmp_path / "a.ipynb"))
    cells[0]["source"] = ["import lensstudy as ls\n", "found = !ls\n"]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert {"evaluation.scores", "training.fitting"} <= set(provenance.imported_modules(tmp_path / "a.ipynb"))
    cells[0]["source"] = ["from lensstudy.data import nothing_of_that_name\n"]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(provenance.ProvenanceError, match="nothing_of_that_name"):
        provenance.imported_modules(tmp_path / "a.ipynb")


@pytest.mark.parametrize("pattern", [r"/(home|Users|root)/\w+", r"/tmp/\w+", r"index-url|find-links"])
def test_no_path_or_host_of_a_machine_in_what_people_get(root, pattern):
    folders = ("lensstudy", "notebooks", "params", "docs", "reports/reference")
    files = [file for folder in folders for file in (root / folder).rglob("*") if file.is_file()]
    files += [
        root / name for name in ("README.md", "Makefile", "workflow/Snakefile", "constraints.txt", "environment.yml")
    ]
    for file in files:
        if file.suffix not in {".pyc", ".png", ".onnx", ".safetensors"}:
            text = re.sub(r";base64,[A-Za-z0-9+/=]+", "", file.read_text(encoding="utf-8"))  # pixels spell anything
            found = re.search(pattern, text)
            assert not found, f"{file.relative_to(root)}: {found}"


def test_the_readme_quotes_the_reference_reports(root):
    written = {found[1]: found[0] for found in refresh_readme.BLOCK.finditer((root / "README.md").read_text())}
    assert written == refresh_readme.blocks(root), "say .venv/bin/python tests/refresh_readme.py"
    assert len((root / "README.md").read_text().splitlines()) <= 150, "what is longer stands in docs/"


def test_the_readme_leads_with_the_first_study_of_the_list_that_has_a_picture(tmp_path):
    (tmp_path / "studies.yml").write_text(
        "- question: What?\n  studies: [best, good]\n- question: And?\n  studies: [other]"
    )
    for name in ("other", "good", "best"):
        (tmp_path / name).mkdir()
        assert name == "other" or refresh_readme.leading(tmp_path).name != name, "without a picture it does not lead"
        (tmp_path / name / "front.png").touch()
        assert refresh_readme.leading(tmp_path).name == name


@pytest.mark.parametrize("study", [file.parent.name for file in sorted(REFERENCE.glob("*/summary.json"))])
def test_a_reference_page_says_what_its_summary_says(study):
    """The README quotes the summary; so README, page and summary agree in every number."""
    summary = REFERENCE / study / "summary.json"
    content = json.loads(summary.read_text(encoding="utf-8"))
    soup = BeautifulSoup((summary.parent / "index.html").read_text(encoding="utf-8"), "html.parser")
    for word in soup.select("a.word"):
        word.unwrap()
    soup.smooth()
    page = " ".join(soup.get_text(" ").split())
    for name in ("answer", "task", "limitations"):
        assert " ".join(content.get(name, "").split()) in page, name
    shown = _rows(soup)
    for row in content.get("table", []):
        assert any({value for value in row.values() if isinstance(value, str)} - {""} <= one for one in shown), row
    analysis = summary.with_name("04-analyse.html")
    if analysis.exists() and content.get("pairs"):
        shown = _rows(BeautifulSoup(analysis.read_text(encoding="utf-8"), "html.parser"))
        for pair in content["pairs"]:
            lead = format_interval(pair["value"], pair["low"], pair["high"])
            assert any({pair["first"], pair["second"], lead} <= one for one in shown), pair


def _rows(soup) -> list[set[str]]:
    """The cells of each row of the tables of a page; of a short table, whose first cell holds two, all the same."""
    return [
        {" ".join(cell.get_text(" ").split()) for cell in row.find_all(["td", "th"])} for row in soup.find_all("tr")
    ]


def test_every_package_that_is_imported_is_a_dependency(root):
    """A package that another one happens to bring along, or that one machine happens to have, is none."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]

    def plain(name):
        return re.split(r"[<>=\[ ]", name)[0].lower().replace("_", "-")

    declared = {plain(name) for name in project["dependencies"]}
    tests = (
        declared | {plain(name) for name in project["optional-dependencies"]["test"]} | {"deeplense-domain-adaptation"}
    )
    of_import = metadata.packages_distributions()
    for folder, known in (("lensstudy", declared), ("tests", tests)):
        for file in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
                for name in (
                    {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"lensstudy", "tests"}
                ):
                    brought = {plain(one) for one in of_import.get(name, [name])}
                    assert brought & known, f"{file.name} imports {name}, which pyproject.toml does not name"
