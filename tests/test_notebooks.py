"""A notebook teaches: short cells, a story from one notebook to the next, changes to try that work. That it runs, and
runs again in the kernel in which it has run, is what nbval tests with tests/twice.py."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from lensstudy.study import Study, notebook_parameters
from tests.test_study import code_cells

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
