"""The package is laid out as docs/architecture.md draws it: subpackages, arrows one way, every module in its table."""

import ast
import importlib
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "lensstudy"
PAGE = PACKAGE.parent / "docs" / "architecture.md"
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py"
}


def imports(module: str) -> set[str]:
    """The modules that one imports, anywhere in its code. The package itself imports from modules, never from faces."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("lensstudy."):
            inside = str(node.module).removeprefix("lensstudy").lstrip(".")
            names = [inside] if inside in MODULES else [f"{inside}.{alias.name}".lstrip(".") for alias in node.names]
            assert set(names) <= set(MODULES) | {"__version__"}, (
                f"{module} imports {names} through the face of a subpackage"
            )
            found |= set(names) & set(MODULES)
    return found - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def subpackage(module: str) -> str:
    return module.split(".")[0]


def drawn() -> dict[str, set[str]]:
    """The arrows of the drawing: `a --> b & c`."""
    (block,) = re.findall(r"```mermaid\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    arrows = re.findall(r"^ *(\w+) --> ([\w &]+)$", block, re.M)
    return {start: set(re.split(r" *& *", ends.strip())) for start, ends in arrows}


def reach(arrows: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), list(arrows.get(start, ()))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += arrows.get(one, ())
    return found


def test_the_drawing_shows_the_imports():
    """Every import follows the arrows, and every arrow is an import: what lies behind two arrows is not drawn again."""
    arrows = drawn()
    between = {
        (subpackage(a), subpackage(b))
        for a, others in IMPORTS.items()
        for b in others
        if subpackage(a) != subpackage(b)
    }
    for start, end in sorted(between):
        assert end in reach(arrows, start), f"{start} imports {end}, and no way of the drawing leads there"
    for start, ends in arrows.items():
        for end in ends:
            assert (start, end) in between, f"the drawing leads from {start} to {end}, and nothing is imported that way"


def test_arrows_go_one_way():
    for start in drawn():
        assert start not in reach(drawn(), start), f"{start} leads back to itself"
    for module in MODULES:
        assert module not in reach(IMPORTS, module), f"{module} imports itself in a circle"


def test_lensing_stands_alone():
    assert {
        subpackage(other) for module in MODULES if subpackage(module) == "lensing" for other in IMPORTS[module]
    } <= {"lensing"}


def test_every_module_has_its_line():
    listed = re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(MODULES)


def test_every_name_of_where_is_resolves():
    """The table leads to functions and classes that are there: a renamed one takes its row along."""
    (table,) = re.findall(r"\n## Where is .*?\n(\|.*?)\n\n", PAGE.read_text(encoding="utf-8"), re.S)
    rows = [row.split("|")[2] for row in table.splitlines()[2:]]
    named = [re.findall(r"`([\w.]+)`", row) for row in rows]
    assert len(rows) > 20 and all(named), "every row names something"
    for name in sum(named, []):
        module = max((one for one in MODULES if f"{name}.".startswith(f"{one}.")), key=len, default="")
        assert module and name != module, f"{name}: a function or class of a module is expected"
        found = importlib.import_module(f"lensstudy.{module}")
        for part in name.removeprefix(f"{module}.").split("."):
            found = getattr(found, part, None)
            assert found is not None, f"docs/architecture.md: {name} does not exist"


def test_every_room_opens_with_a_paragraph():
    for face in PACKAGE.glob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8")))
        assert text and len(text) > 60, face
