"""A pytest plugin for nbval: every notebook runs twice in one kernel, against the same outputs both times.

Whoever changes a parameter and runs all again has the names of the run before, and the folders that it left.
"""

from itertools import groupby


def pytest_collection_modifyitems(items):
    """Behind the cells of each notebook the same cells again."""
    notebooks = [list(cells) for _, cells in groupby(items, key=lambda item: item.parent)]
    items[:] = [cell for cells in notebooks for cell in [*cells, *map(_again, cells)]]


def _again(cell):
    options = {name: getattr(cell, name) for name in ("cell_num", "cell", "options")}
    return type(cell).from_parent(cell.parent, name=f"{cell.name} again", **options)
