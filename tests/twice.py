"""A pytest plugin for nbval: every notebook runs twice in one kernel, against the same outputs both times.

Whoever changes a parameter and runs all again has the names of the run before, and the folders that it left. Notebooks
that keep nothing of what takes long may be named with `--once`.
"""

from itertools import groupby


def pytest_addoption(parser):
    parser.addoption("--once", nargs="*", default=[], metavar="NOTEBOOK", help="notebooks that run a single time")


def pytest_collection_modifyitems(items, config):
    """Behind the cells of each notebook the same cells again."""
    once = config.getoption("once")
    notebooks = [(file.path.stem, list(cells)) for file, cells in groupby(items, key=lambda item: item.parent)]
    items[:] = [cell for name, cells in notebooks for cell in [*cells, *map(_again, cells * (name not in once))]]


def _again(cell):
    options = {name: getattr(cell, name) for name in ("cell_num", "cell", "options")}
    return type(cell).from_parent(cell.parent, name=f"{cell.name} again", **options)
