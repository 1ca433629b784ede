"""What the documents promise: examples that run, links that lead somewhere, no host that a reader does not need.

The examples of `docs/extending.md` change the project; they are tried on a copy of it, each on a fresh one.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent
EXAMPLE = re.compile(r"^<!-- example: (\w+) -->\n```(\w+)\n(.*?)^```$", re.M | re.S)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "README.md", *(ROOT / "docs").glob("*.md")]
REPORTS = sorted((ROOT / "reports" / "reference").rglob("*.html"))

# Projects and papers that a reader may be sent to. A page of ours asks none of them for anything by itself.
KNOWN_HOSTS = {
    "arxiv.org",
    "doi.org",
    "github.com",
    "jupyter.org",
    "lightning.ai",
    "pre-commit.com",
    "pytorch.org",
    "www.kernel.org",
    "www.w3.org",  # names of XML dialects, which nothing fetches
}


# Examples -------------------------------------------------------------------------------------------------------------


def examples() -> dict[str, list[tuple[str, str]]]:
    """Kind (`diff` or `python`) and text of each block of each example, in order."""
    found = defaultdict(list)
    for file in sorted((ROOT / "docs").glob("*.md")):
        for name, kind, text in EXAMPLE.findall(file.read_text(encoding="utf-8")):
            found[name].append((kind, text))
    return dict(found)


def apply(change: str, project: Path) -> None:
    """Make a change as the documents write it: `--- file`, then lines that stay, go (`-`) and come (`+`). Where all of
    them come, they are put at the end."""
    first, *lines = change.splitlines()
    file = project / first.removeprefix("--- ")
    before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    text = file.read_text(encoding="utf-8")
    if before:
        assert text.count(before) == 1, f"{first}: these lines stand there {text.count(before)} times:\n{before}"
    file.write_text(text.replace(before, after) if before else text + after, encoding="utf-8")


TRY = """import os, sys, traceback
import e2cnn.nn, pandas, scipy.stats, torch
for name in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    log = os.open(f"{name}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1), os.dup2(log, 2)
    os.chdir(name)
    os.environ["PYTHONPATH"] = sys.path[0] = os.getcwd()
    try:
        exec(open("example.py").read(), {"__name__": "__main__"})
        print("it works", flush=True)
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory) -> Path:
    """Every example has been tried on a copy of its own, in a process of its own that had imported torch, e2cnn and
    others already, and nothing of lensstudy."""
    home = tmp_path_factory.mktemp("examples")
    for name, blocks in examples().items():
        for part in ("lensstudy", "notebooks", "params", "workflow"):
            ignored = shutil.ignore_patterns(".ipynb_checkpoints")  # what is compiled saves seconds
            shutil.copytree(ROOT / part, home / name / part, ignore=ignored)
        for kind, text in blocks:
            if kind == "diff":
                apply(text, home / name)
        code = [text for kind, text in blocks if kind == "python"]
        assert code, "an example shows how to use what it adds"
        (home / name / "example.py").write_text("\n".join(code), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key not in ("LENSSTUDY_HOME", "PYTHONPATH")}
    environment |= {"LENSSTUDY_BATCH": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", TRY, *examples()], cwd=home, env=environment, check=True)
    return home


@pytest.mark.parametrize("name", examples())
def test_an_example_of_the_documents_works(name, tried):
    said = (tried / f"{name}.log").read_text(encoding="utf-8")
    assert said.endswith("it works\n"), said[-3000:]


def test_there_is_an_example_for_each_thing_to_add():
    assert {"register", "network", "preset", "dataset", "format", "notebook"} <= examples().keys()


def test_the_table_of_notebooks_has_a_row_for_each():
    links, _ = in_markdown(ROOT / "notebooks" / "README.md")
    assert {link for link in links if link.endswith(".ipynb")} == {f.name for f in (ROOT / "notebooks").glob("*.ipynb")}


def test_pre_commit_calls_what_is_installed_and_fetches_nothing():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    assert all(hook["entry"].startswith(".venv/bin/") for hook in repositories[0]["hooks"])


# Links ----------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What an HTML page refers to, and the names in it that a link can lead to."""

    def __init__(self, file: Path):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "id" and value:
                self.names.add(value)
            elif key in ("href", "src", "srcset", "data", "poster") and value:
                self.links.append(value)


def in_markdown(file: Path) -> tuple[list[str], set[str]]:
    """Links of a Markdown file, code aside, and the names that GitHub gives its headings."""
    text = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    names = {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.M)
    }
    prose = re.sub(r"`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"<(https?://[^>]+)>", prose), names


def links_and_names(file: Path) -> tuple[list[str], set[str]]:
    if not file.is_file():
        return [], set()
    if file.suffix == ".md":
        return in_markdown(file)
    if file.suffix == ".html":
        page = Page(file)
        return page.links, page.names
    return [], set()


def broken(file: Path) -> list[str]:
    """Links of a page that lead nowhere, out of the project, or to a host that is none of `KNOWN_HOSTS`."""
    wrong = []
    links, own = links_and_names(file)
    for link in links:
        parts = urlsplit(link)
        if parts.scheme == "data" or link == "#":
            continue
        if parts.scheme or parts.netloc:
            if parts.scheme not in ("https", "http", "mailto") or parts.hostname not in KNOWN_HOSTS:
                wrong.append(link)
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        names = own if target == file else links_and_names(target)[1]
        leads = target.is_relative_to(ROOT) and target.exists()
        if not leads or parts.fragment and unquote(parts.fragment) not in names:
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("file", PAGES + REPORTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(file):
    assert not broken(file)


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_module_that_is_named_exists(file):
    """Files of the package and of the tests, and what an example or a sentence imports from them."""
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"(?<![\w/.])(?:lensstudy|tests|docs|notebooks|workflow)/[\w./-]*\w", text):
        assert (ROOT / name).exists(), f"{file.name} names {name}"
    for module, names in re.findall(r"^from (lensstudy[\w.]*) import ([\w, ]+)$", text, re.M):
        for name in (part.split(" as ")[0].strip() for part in names.split(",")):
            if not hasattr(importlib.import_module(module), name):
                importlib.import_module(f"{module}.{name}")


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for link in in_markdown(page)[0]:
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                waiting.append(target)
    assert not set(PAGES) - reached


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# One & two\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#one--two) [c](gone.md) [d](other.md#three) [e](https://example.com/x)\n"
        "[f](../outside.md) [g](https://arxiv.org/abs/1706.04599) `[h](code.md)`\n"
    )
    assert broken(page) == ["gone.md", "other.md#three", "https://example.com/x", "../outside.md"]
    html = tmp_path / "page.html"
    html.write_text('<h1 id="top">x</h1><a href="#top">up</a><a href="#down">down</a><img src="data:image/png,x">')
    assert broken(html) == ["#down"]
    html.write_text('<script src="https://cdn.example.org/a.js"></script>')
    assert broken(html) == ["https://cdn.example.org/a.js"]


@pytest.mark.parametrize("file", PAGES + REPORTS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_path_user_or_host_of_a_machine(file):
    text = re.sub(r"data:[\w/+.-]+;base64,[\w+/=]+", "", file.read_text(encoding="utf-8"))
    found = re.search(r"/(?:home|Users|root|tmp|work|mnt)/\w+|[\w.-]+@[\w-]+\.\w{2,}|\blocalhost\b|[A-Z]:\\\w+", text)
    assert not found, found
