"""The site of `make docs`: every page has its place. Nothing is built here, so that no test needs Sphinx."""

import ast
import re
import tomllib
from collections import Counter

import pytest
import yaml

LINK = re.compile(r'<a [^>]*?href="(?![a-z]+:|#)([^"#]+)')


@pytest.fixture(scope="module")
def contents(root) -> list[str]:
    parts = yaml.safe_load((root / "docs/contents.yml").read_text(encoding="utf-8"))
    return [page for part in parts for page in part["pages"]]


def test_every_document_and_notebook_stands_once_in_the_table_of_contents(root, contents):
    files = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("notebooks/*.md"), *root.glob("notebooks/*.ipynb")]
    pages = {str(file.relative_to(root).with_suffix("")) for file in files} | {"reports/reference/index"}
    assert Counter(contents) == Counter(pages - {"README"}), "docs/contents.yml; README is the first page"


def test_every_report_is_reached_from_the_list_and_every_link_leads_somewhere(root):
    """The site holds reports, notebooks and parameter files where the repository does, so these links hold in both."""
    reached, waiting = set(), [root / "reports/reference/index.html"]
    while waiting:
        page = waiting.pop()
        if page not in reached:
            reached.add(page)
            targets = {(page.parent / link).resolve() for link in LINK.findall(page.read_text(encoding="utf-8"))}
            for target in targets:
                assert target.is_file(), f"{page.relative_to(root)} links to {target}"
                place = str(target.relative_to(root))
                assert re.fullmatch(r"params/[^/]+\.yml|notebooks/[^/]+\.ipynb|reports/reference/.*", place), place
            waiting += [target for target in targets if target.suffix == ".html"]
    assert reached == set((root / "reports/reference").rglob("*.html"))


def test_the_site_is_built_by_what_its_extra_names(root):

    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tree = ast.parse((root / "docs/conf.py").read_text(encoding="utf-8"))
    imported = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    brought = {"bs4": "beautifulsoup4", "yaml": "pyyaml", "docutils": "sphinx", "pygments": "sphinx"}
    assert {brought.get(name, name) for name in imported - {"json", "re", "shutil", "pathlib"}} <= set(extras["docs"])
    assert 'extensions = ["myst_nb"]' in (root / "docs/conf.py").read_text() and "myst-nb" in extras["docs"]
