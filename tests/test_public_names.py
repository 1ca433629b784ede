"""The public face: every name is there and shown, says what it takes and gives in sections, and its examples run."""

import ast
import doctest
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lensstudy

PACKAGE = Path(lensstudy.__file__).parent
CALLED = [name for name in lensstudy.__all__ if name != "plots"]


def test_tab_completion_shows_every_name():
    assert set(lensstudy.__all__) <= set(dir(lensstudy))
    for name in lensstudy.__all__:
        assert getattr(lensstudy, name) is not None


@pytest.mark.parametrize("name", CALLED)
def test_shift_tab_says_what_a_name_takes_and_gives(name):
    thing = getattr(lensstudy, name)
    text = inspect.getdoc(thing)
    assert text.splitlines()[0].endswith("."), name
    described = {name for name, field in getattr(thing, "model_fields", {}).items() if field.description}
    for argument in inspect.signature(thing).parameters.keys() - described:
        assert f"\n    {argument}:" in text or f"\n    **{argument}:" in text, f"{name}: '{argument}' is not explained"
    assert "Example:" in text and ">>>" in text, name
    if not isinstance(thing, type) and inspect.signature(thing).return_annotation not in (None, "None"):
        assert "\nReturns:" in text, name


@pytest.mark.parametrize("name", CALLED)
def test_examples_run(name):
    thing = getattr(lensstudy, name)
    module = sys.modules[thing.__module__]
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(module))):
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example)
        assert not found.failed, name


def test_importing_the_package_waits_for_nothing_heavy():
    code = "import sys, lensstudy; print(*{'torch', 'pandas', 'matplotlib', 'lightning'} & set(sys.modules))"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("face", sorted(PACKAGE.rglob("__init__.py")), ids=lambda file: file.parent.name)
def test_no_function_of_a_face_bears_the_name_of_a_module_beside_it(face):
    """Whoever imports that module would replace the function by it."""
    (table,) = [
        ast.literal_eval(part.value)
        for part in ast.walk(ast.parse(face.read_text(encoding="utf-8")))
        if isinstance(part, ast.keyword) and part.arg == "submod_attrs"
    ]
    offered = {name for names in table.values() for name in names}
    modules = {module.name for module in pkgutil.iter_modules([str(face.parent)])}
    assert offered and not offered & modules
