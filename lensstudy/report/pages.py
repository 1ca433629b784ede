"""One page of one executed notebook, as a single file that needs no connection.

`body` makes the text of the page from the cells; `templates/page.html.j2` is the page itself: title, question, answer
and figure first, where it comes from last.
"""

from __future__ import annotations

import html as html_text
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.filters import FILTERS

from lensstudy.files import read_json, whole_file
from lensstudy.report.body import NUMBER, cells_to_show, page_body
from lensstudy.report.execution import read_executed, source_hash
from lensstudy.report.summaries import (
    Summary,
    below_chance,
    in_plain_words,
    read_summary,
    short_table,
    summary_folder,
)
from lensstudy.report.words import link_words
from lensstudy.study import Study, home

__all__ = [
    "about",
    "as_code_version",
    "as_text",
    "explained",
    "is_marked",
    "link",
    "mark_outdated",
    "parameter_rows",
    "render",
    "restyle",
    "stale_pages",
    "write_page",
]

TEMPLATES = Path(__file__).parent / "templates"
MAIN = '<main id="text">'  # where the text of a page begins
OUTDATED = (
    '<p class="outdated" role="note" style="margin:0 0 1.5rem;padding:.6rem 1rem;border:1px solid">'
    "<b>Made with an earlier version of this notebook</b>, which the foot of the page names. The figures are those of "
    "that version; the study has not been run again since.</p>"
)


RESULTS = re.compile(r'<section aria-labelledby="results">.*?</section>\n', re.S)
TEXTS = re.compile(r'<section aria-labelledby="(?:answer|limitations)">.*?</section>', re.S)
SOURCES, TO_SOURCES = '<section aria-labelledby="sources"', '<li><a href="#sources">'
LIMITATIONS = '<h2 id="limitations">Limitations</h2>'
WORD = re.compile(r'<a class="word" href="#word-[^"]*">(.*?)</a>')
WORDS = re.compile(r'<section class="words".*?</section>\n|<li><a href="#words">.*?</li>\n', re.S)
SAID = {  # what the head of the first page says of a study, and where its pages say the same
    "question": ("<h1>{}</h1>", '<p class="question">{}</p>'),
    "plain": ('<p class="answer">{}</p>',),
    "answer": ("<p>{}</p>",),
}


def render(
    executed: str | Path, html: str | Path, *, parameter_file: str | Path | None = None, committed: bool = False
) -> None:
    """Make the page `html` of the notebook `executed`, which `execute` wrote.

    A page begins with the first answer that its notebook shows, that of the notebook which answers the study with that
    answer and its figure. Mathematics becomes MathML,
    figures are inside, code is hidden until asked for, the words of the glossaries lead to their meaning. Cells may
    carry the tags `hide-input`, `hide-output` and `interactive` (omitted, as are all widgets); the first figure of the
    page, or of a cell tagged `thumbnail`, stands for it on the page of the study. The foot shows the notebook's stamp
    and links to `executed` and `parameter_file`; a page that is `committed` is read without the run folder and links to
    the notebook's source.
    """
    executed, html = Path(executed), Path(html)
    notebook, stamp = read_executed(executed)
    if not stamp:
        raise ValueError(f"{executed}: carries no stamp of lensstudy; run it with lensstudy.report.execution.execute")
    without_images = committed and not stamp.get("redistributable", False)
    summary = read_summary(executed.parent.parent)
    headline = summary_folder(executed.parent.parent) / summary["figure"]
    picture = headline.read_bytes() if headline.is_file() else b""
    body = page_body(cells_to_show(notebook, without_images), summary, picture)
    source = home() / "notebooks" / f"{stamp['notebook']}.ipynb" if committed else executed
    write_page(
        html,
        "page.html.j2",
        title=body.title or executed.stem,
        name=executed.stem,
        stamp=stamp,
        parameters=parameter_rows(stamp["parameters"]),
        seeds={name: value for name, value in stamp["parameters"].items() if name in ("data_seed", "seed", "seeds")},
        question=body.question or stamp["question"],
        plain=in_plain_words(summary) if body.answers else body.answer,
        contents=body.contents,
        body=body.html,
        words=body.words,
        notebook=link(source, html),
        committed=committed,
        parameter_file=link(Path(parameter_file), html) if parameter_file else "",
    )


def stale_pages(folder: str | Path, notebooks: str | Path = "notebooks") -> list[Path]:
    """The pages under `folder` whose notebook in `notebooks` has other code, or is gone, since they were made. With
    other words alone it would show the same."""
    stale = []
    for page in sorted(Path(folder).rglob("*.html")):
        said = about(page)
        if "source" in said:  # index pages are made of several notebooks and carry none
            notebook = Path(notebooks) / f"{said['notebook']}.ipynb"
            if not notebook.exists() or source_hash(notebook) != said["source"]:
                stale.append(page)
    return stale


def mark_outdated(folder: str | Path, notebooks: str | Path = "notebooks") -> list[Path]:
    """Let every page under `folder` whose notebook has changed since say so at its top; returns those pages.

    The figures of such a page are those of the version that it names, until its study is run anew.
    """
    stale = stale_pages(folder, notebooks)
    for page in stale:
        text = page.read_text(encoding="utf-8")
        if OUTDATED not in text:
            page.write_text(text.replace(MAIN, f"{MAIN}\n{OUTDATED}", 1), encoding="utf-8")
    return stale


def restyle(folder: str | Path) -> list[Path]:
    """Give every page under `folder` the style of today, words and figures as they are; returns those that changed."""
    style, changed = (TEMPLATES / "style.css").read_text(encoding="utf-8").rstrip(), []
    for page in sorted(Path(folder).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        head, _, rest = text.partition("<style>\n")
        new = f"{head}<style>\n{style}</style>{rest.partition('</style>')[2]}"
        if rest and new != text:
            page.write_text(new, encoding="utf-8")
            changed.append(page)
    return changed


def reworded(folder: str | Path, params: str | Path = "params") -> list[Path]:
    """Give every study under `folder` that has a `summary.json` its words of today; returns the pages that changed.

    Its plain sentence, answer, table of results and limitations are those of the summary, its question is that of its
    file in `params`. What a notebook printed stays as it was.
    """
    changed = []
    for index in sorted(Path(folder).rglob("index.html")):
        old, file = about(index), index.parent / "summary.json"
        if not (old.get("plain") and file.is_file()):
            continue
        summary = read_json(file, Summary).model_dump()
        new: dict[str, str] = {"plain": in_plain_words(summary), "answer": summary["answer"]}
        if (study := Path(params) / f"{index.parent.name}.yml").is_file():
            new["question"] = yaml.safe_load(study.read_text(encoding="utf-8")).get("question", old.get("question", ""))
        words = [(name, FILTERS["escape"](old[name]), FILTERS["escape"](new[name])) for name in new if old.get(name)]
        table = results(summary) if summary["table"] else ""
        for page in sorted(index.parent.glob("*.html")):
            text = page.read_text(encoding="utf-8")
            said = without_words(text) if page == index else text
            for name, was, now in words:
                if page == index or name != "answer":
                    for around in (f'name="lensstudy-{name}" content="{{}}"', *SAID[name]):
                        said = said.replace(around.format(was), around.format(now))
            if page == index:
                left_open = f"{LIMITATIONS}\n<p>{_escaped(summary['limitations'])}</p>"
                said = re.sub(rf"{LIMITATIONS}\n<p>.*?</p>", _literal(left_open), said, flags=re.S)
                said = explained(RESULTS.sub(_literal(table), said))
            if said != text:
                page.write_text(said, encoding="utf-8")
                changed.append(page)
    return changed


def explained(page: str) -> str:
    """The first page of a study on which words of the glossaries, where answer and limitations first use them, lead to
    their meaning at its foot."""
    said = list(TEXTS.finditer(page))
    soup = BeautifulSoup("".join(one[0] for one in said), "html.parser")
    if not (words := link_words(soup)):
        return page
    for place, section in reversed(list(zip(said, soup.find_all("section", recursive=False), strict=True))):
        page = page[: place.start()] + section.decode(formatter=_escaped) + page[place.end() :]  # type: ignore[arg-type]  # a function will do
    meanings = _environment().get_template("parts.html.j2").module.glossary(words)  # type: ignore[attr-defined]
    page = page.replace(SOURCES, f"{meanings.strip()}\n{SOURCES}", 1)
    return page.replace(TO_SOURCES, f'<li><a href="#words">Words</a></li>\n{TO_SOURCES}', 1)


def without_words(page: str) -> str:
    """A page as it was before `explained`."""
    return WORD.sub(r"\1", WORDS.sub("", page))


def _literal(text: str) -> str:
    """As what `re.sub` puts in, where a backslash would be read."""
    return text.replace("\\", r"\\")


def _escaped(text: str) -> str:
    return str(FILTERS["escape"](text))


def results(summary: Mapping[str, Any]) -> str:
    """The section of the first page that has the table of results."""
    parts = _environment().get_template("parts.html.j2").module
    table = summary["table"]
    made = parts.results(table, short_table(table), below_chance(table))  # type: ignore[attr-defined]
    return f"{made.strip()}\n"


def is_marked(page: Path) -> bool:
    """Whether a page says that it was made with an earlier version of its notebook."""
    return OUTDATED in page.read_text(encoding="utf-8", errors="replace")


def about(page: Path) -> dict[str, str]:
    """What a page says about itself in the `lensstudy-` entries of its head."""
    head = page.read_text(encoding="utf-8", errors="replace").partition("<style>")[0]
    found = re.findall(r'<meta name="lensstudy-(\w+)" content="([^"]*)">', head)
    return {name: html_text.unescape(content) for name, content in found}


# ---- what all pages share --------------------------------------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": as_text, "duration": _as_duration, "code_version": as_code_version}
    environment.tests["numeric"] = lambda value: bool(NUMBER.match(as_text(value)))
    return environment


def write_page(html: Path, template: str, **contents) -> None:
    page = _environment().get_template(template).render(**contents)
    html.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(html) as partial:
        partial.write_text(explained(page), encoding="utf-8")


def link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.absolute(), page.absolute().parent)).as_posix()


def as_text(value: Any) -> str:
    """A value as a reader would write it: five digits at most, lists without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {as_text(one)}" for name, one in value.items()) or "none"
    return "none" if value in (None, "") else str(value)


def _as_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def as_code_version(code: Mapping[str, Any]) -> str:
    commit = f", commit {code['commit']}" if code["commit"] else ""
    return f"{code['version']}{commit}{', modified' if code['modified'] else ''}"


def parameter_rows(parameters: Mapping[str, Any]) -> list[dict]:
    """Name, value, default and meaning of each parameter, those that differ from the default first."""
    rows = []
    for name, value in parameters.items():
        if name not in ("study", "question") and (field := Study.model_fields.get(name)):
            row = {"name": name, "value": value, "default": field.default, "meaning": field.description}
            rows.append(row | {"changed": value != field.default})
    return sorted(rows, key=lambda row: not row["changed"])
