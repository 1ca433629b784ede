"""A notebook can be run again in the kernel in which it has run: change one parameter, run all, look."""

import copy

import pytest
import yaml
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests.test_study import NOTEBOOKS, code_cells


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("tiny")
    changes = {"study": "tiny", "images_per_class": 25, "networks": ["plain-cnn"], "network": "plain-cnn"}
    changes |= {"width": 0.25, "epochs": 1, "batch_size": 16, "bootstrap_samples": 50, "preset_images": 10}
    changes |= {"reference_images": 50, "noise_draws": 4, "trials": 1, "range_test_steps": 10, "orientations": 2}
    (home / "tiny.yml").write_text(yaml.safe_dump(changes))
    return home


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
def test_a_notebook_runs_twice_in_one_kernel(root, tiny_home, monkeypatch, notebook):
    """With the same parameters and the same guarded results, whatever names its cells have assigned meanwhile."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tiny_home))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    once = code_cells(root, notebook)
    for cell in once:
        cell.source = cell.source.replace('study: str = "smoke"', f"study: str = {str(tiny_home / 'tiny.yml')!r}")
    once.append(new_code_cell("print(parameters)", metadata={"tags": ["nbval-check-output"]}))
    twice = new_notebook(cells=[*once, *copy.deepcopy(once)])
    NotebookClient(twice, kernel_name="python3", timeout=100).execute()
    guarded = [cell for cell in twice.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    # A kernel sends what a cell prints in as many pieces as it likes.
    texts = ["".join(output.get("text", "") for output in cell.outputs) for cell in guarded]
    first, second = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    assert first == second and "study='tiny'" in first[-1]
