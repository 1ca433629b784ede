"""A notebook can be run again in the kernel in which it has run (change one parameter, run all, look), and it teaches:
short cells, a story from one notebook to the next, changes to try that work."""

import ast
import copy
import re
import statistics
from pathlib import Path

import nbformat
import pytest
import yaml
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import run_sync
from nbformat.v4 import new_code_cell, new_notebook

from lensstudy.observations.rays import binned
from lensstudy.observations.reading import read_observations
from lensstudy.observations.writing import write, write_simulated
from lensstudy.study import Study, notebook_parameters
from tests.test_study import NOTEBOOKS, code_cells


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("tiny")
    changes = {"study": "tiny", "images_per_class": 25, "networks": ["plain-cnn"], "network": "plain-cnn"}
    changes |= {"width": 0.25, "epochs": 1, "batch_size": 16, "bootstrap_samples": 50, "preset_images": 10}
    changes |= {"reference_images": 50, "noise_draws": 4, "trials": 1, "range_test_steps": 10, "orientations": 2}
    changes |= {"staircase_images": 10, "staircase_fits": 0, "smooth_fit_images": 4, "substructure_shares": [0.1, 1.0]}
    changes |= {"published_images": 10, "published_draws": 1, "published_fits": 0}
    # Two steps from home, noise and unit, where nbval takes all nine to another preset.
    exposed = Study().population | {"exposure_time": 540.0}
    changes |= {"targets": [{"study": "shorter", "preset": "realistic", "population": exposed, "image_size": 32}]}
    with_subhalo = read_observations(write_simulated(home / "simulated"))[0][1]
    lens = str(write(binned(with_subhalo, 4)[0], home / "lens"))
    changes |= {"observations_path": lens, "searched_lenses": [lens]}
    (home / "tiny.yml").write_text(yaml.safe_dump(changes))
    return home


@pytest.fixture(scope="module")
def kernel(tiny_home):
    """One kernel for all of them: its imports take longer than most notebooks. Each begins without the others' names;
    that it runs in a kernel where nothing was imported is what nbval tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_HOME", str(tiny_home))
        patch.setenv("LENSSTUDY_BATCH", "1")
        manager = AsyncKernelManager(kernel_name="python3")  # which the first client starts
        yield manager
        run_sync(manager.shutdown_kernel)(now=True)


def test_the_first_notebook_runs_twice_in_one_kernel_and_needs_no_study(root, tmp_path, monkeypatch):
    """With the same figures both times, and with a path that leads nowhere."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    once, again = code_cells(root, "00-start-here"), code_cells(root, "00-start-here")
    for cell in again:
        cell.source = cell.source.replace('image: str = ""', 'image: str = "no-such-lens.fits"')
    twice = new_notebook(cells=[*once, *again])
    NotebookClient(twice, kernel_name="python3", timeout=100).execute()
    guarded = [cell for cell in twice.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    numbers = ["".join(output.text for output in cell.outputs) for cell in guarded]
    symmetric, plain = map(float, numbers[0].split())
    assert numbers[0] == numbers[1] and symmetric < 0.01 < plain
    assert "nothing exists at this path" in str(twice.cells[-1].outputs) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_notebook_runs_twice_in_one_kernel(root, tiny_home, kernel, notebook):
    """With the same parameters and the same guarded results, whatever names its cells have assigned meanwhile."""
    once = code_cells(root, notebook)
    for cell in once:
        cell.source = cell.source.replace('study: str = "smoke"', f"study: str = {str(tiny_home / 'tiny.yml')!r}")
    once.append(new_code_cell("print(parameters)", metadata={"tags": ["nbval-check-output"]}))
    twice = new_notebook(cells=[new_code_cell("%reset -f"), *once, *copy.deepcopy(once)])
    client = NotebookClient(twice, km=kernel, timeout=300)  # a cell that hangs; as long as nbval waits
    client.execute()
    client.kc.stop_channels()
    guarded = [cell for cell in twice.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    # A kernel sends what a cell prints in as many pieces as it likes.
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in guarded]
    first, second = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert first == second and "study='tiny'" in first[-1]


EVERY = sorted(file.stem for file in Path(__file__).parents[1].glob("notebooks/*.ipynb"))
TRY = re.compile(r"^> \*\*Try it\.\*\* Set (.+?) and run all: .{30,}", re.M)


def lines(cell) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in cell.source.splitlines())


def prose(root, notebook) -> list[str]:
    cells = nbformat.read(root / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


@pytest.mark.parametrize("notebook", EVERY)
def test_cells_are_short_and_do_not_branch(root, notebook):
    """What is longer, or depends on where images come from, is a function of the package, where it is tested."""
    cells = code_cells(root, notebook)
    assert statistics.median(map(lines, cells)) <= 6 and max(map(lines, cells)) <= 15
    assert len(notebook_parameters(root / "notebooks" / f"{notebook}.ipynb")) <= 9
    for cell in cells:
        tree = ast.parse(cell.source)  # no magic commands either
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.Try | ast.FunctionDef)], (
            cell.source
        )


@pytest.mark.parametrize("notebook", EVERY)
def test_a_reader_is_told_what_for_where_to_and_what_was_found(root, notebook):
    text, place = prose(root, notebook), EVERY.index(notebook)
    assert text[0].startswith("# ") and "**After this notebook you can**" in text[0]
    neighbours = EVERY[max(place - 1, 0) : place] + EVERY[place + 1 : place + 2]
    assert "(README.md)" in text[0] and all(f"({name}.ipynb)" in text[0] for name in neighbours)
    assert re.search(r"^## (What was found|Where to go next)$", text[-1], re.M)
    assert "*Run time: " in text[-1]
    assert all(f"({name}.ipynb)" in text[-1] for name in EVERY[place + 1 : place + 2])
    links = re.findall(r"\]\(([^)#:]+)\)", "\n".join(text))
    assert [name for name in links if not (root / "notebooks" / name).exists()] == []


@pytest.mark.parametrize("notebook", EVERY)
def test_what_a_reader_is_asked_to_try_is_a_change_that_the_notebook_takes(root, notebook):
    declared = notebook_parameters(root / "notebooks" / f"{notebook}.ipynb")
    boxes = TRY.findall("\n\n".join(prose(root, notebook)))
    assert len(boxes) == "\n".join(prose(root, notebook)).count("**Try it.**") and 2 <= len(boxes) <= 3
    for box in boxes:
        assigned = ast.parse("\n".join(re.findall(r"`([^`]+)`", box))).body
        changes = {one.targets[0].id: ast.literal_eval(one.value) for one in assigned}
        assert changes and changes.keys() <= declared.keys()
        assert all(value != declared[name] for name, value in changes.items())
        if "study" in declared:
            Study.read(changes.pop("study", declared["study"]), **changes.pop("more", {}), **changes)
