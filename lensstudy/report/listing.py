"""The list of studies: grouped by the question they belong to, each with its figure and one plain sentence.

`reports/reference/studies.yml` says which questions there are and in which order studies stand under them. What it does
not name, such as a study of one's own, stands on top, the newest first. The folder of that file has the list as
Markdown too, with the answers in numbers, for whoever looks at a repository in a browser, where pages show as source.
"""

from __future__ import annotations

import base64
import html as html_text
import io
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from lensstudy.files import FileError, printable, read_json, whole_file
from lensstudy.report.pages import about, as_text, link, write_page
from lensstudy.report.pictures import data_uri, webp
from lensstudy.report.summaries import Summary, short_table
from lensstudy.text import in_markdown

__all__ = ["Question", "questions", "write_study_list"]

FILE = "studies.yml"
SAID = {
    "question": "",
    "answer": "",
    "plain": "",
    "date": "",
    "failed": "0",
}  # by pages of today, not by all older ones
OWN = "Studies of your own"
TITLE = "What was asked, and what was found"
ABOUT = "Networks that look for dark matter in gravitational lenses, with and without the symmetry of the sky built in."
READ_HERE = (
    "Each study has pages with all figures and tables. They open in any browser, from a clone or a downloaded archive: "
    "start with [`index.html`](index.html). Brackets are 95 % intervals; "
    "[how to read a report](../../docs/guide-reader.md) explains them. Whether a difference may be chance is tested "
    "over trainings and images and corrected for the number of comparisons, which is stricter than to see whether two "
    "brackets overlap.",
    "Names in parentheses are baselines without a network: `(ring moments)`, the size and brightness of the ring, "
    "`(total flux)`, and `(smooth fit)`, chi square of the best smooth lens. "
    "[The README](../../README.md#what-was-found) says what the names of networks mean.",
)


class Question(BaseModel):
    """One heading of the list: a question, and the names of the studies that ask it, the first one first."""

    model_config = ConfigDict(extra="forbid")

    question: str
    studies: list[str] = []


def questions(reports: str | Path) -> list[Question]:
    """What `studies.yml` says, in `reports` or in its `reference`; nothing where there is no such file.

    Raises:
        FileError: the file does not hold a list of questions with their studies.
    """
    found = [file for file in (Path(reports) / FILE, Path(reports) / "reference" / FILE) if file.is_file()]
    if not found:
        return []
    try:
        return [Question(**one) for one in yaml.safe_load(found[0].read_text(encoding="utf-8"))]
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        expected = "a list, each entry with `question` and `studies`, a list of names"
        raise FileError(f"{printable(found[0])}: expected {expected} ({error})") from error


def write_study_list(reports: str | Path) -> Path:
    """Write `reports/index.html`, the list of the studies that have an index there; returns its path."""
    html = Path(reports) / "index.html"
    studies: list[dict[str, Any]] = [
        SAID
        | about(index)
        | {
            "link": link(index, html),
            "committed": "reference" in index.relative_to(reports).parts,
            "figure": _figure(index),
        }
        for index in sorted(Path(reports).rglob("index.html"))
        if index.is_file() and "study" in about(index)
    ]
    studies.sort(key=lambda study: study["date"], reverse=True)
    known = questions(reports)
    named = [name for one in known for name in one.studies]
    groups = [(OWN if known else "", [study for study in studies if study["study"] not in named])]
    for one in known:
        members = [study for study in studies if study["study"] in one.studies]
        groups.append((one.question, sorted(members, key=lambda study: one.studies.index(study["study"]))))
    groups = [group for group in groups if group[1]]
    write_page(html, "studies.html.j2", title=TITLE, about=ABOUT, groups=groups)
    if (html.parent / FILE).is_file():
        with whole_file(html.with_name("README.md")) as partial:
            partial.write_text(_as_markdown(html.parent, groups), encoding="utf-8")
    return html


def _as_markdown(reports: Path, groups: list[tuple[str, list[dict]]]) -> str:
    lines = [f"# {TITLE}", ABOUT, *READ_HERE]
    for question, studies in groups:
        lines += [f"## {in_markdown(question)}"] if question else []
        for study in studies:
            folder = (reports / study["link"]).parent
            lines.append(f"### {in_markdown(study['question'] or study['study'])}")
            name = next((name for name in ("front.png", "headline.png") if (folder / name).is_file()), "")
            if name:
                words = html_text.escape(study["figure"].get("alt", ""))
                lines.append(f'<img src="{folder.name}/{name}" width="640" alt="{words}">')
            lines.append(f"**{in_markdown(study['plain'] or study['answer'] or 'No answer yet.')}**")
            if (folder / "summary.json").is_file():
                lines += _numbers(read_json(folder / "summary.json", Summary))
            repeat = f"`lensstudy run params/{study['study']}.yml` repeats it."
            lines.append(f"Study [`{study['study']}`]({study['link']}), {study['date']}. {repeat}")
    return "\n\n".join(lines) + "\n"


def _numbers(summary: Summary) -> list[str]:
    """The task, the table that the first page shows, and what the answer leaves open."""
    table = short_table(summary.table) or summary.table
    lines = [in_markdown(summary.task)] if summary.task else []
    if table:
        rows = [
            ["–" if value in ("", None) else in_markdown(as_text(value)) for value in row.values()] for row in table
        ]
        rows = [[in_markdown(column) for column in table[0]], ["---"] * len(table[0]), *rows]
        lines.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if summary.limitations:
        said = in_markdown(summary.limitations)
        lines.append(f"<details><summary>Limitations</summary>\n\n{said}\n\n</details>")
    return lines


def _figure(index: Path, width: int = 640) -> dict[str, str]:
    """The picture for newcomers beside a page (`front.png`), else its first figure, small, with its alternative text;
    empty if it has neither."""
    try:
        with Image.open(index.parent / "front.png") as picture:
            picture.thumbnail((width, width))
            return {"source": data_uri(webp(picture, quality=75), "webp"), "alt": picture.info.get("Description", "")}
    except (OSError, ValueError):  # none, or damaged
        pass
    page = BeautifulSoup(index.read_text(encoding="utf-8", errors="replace"), "html.parser")
    found = page.select_one('figure img[src^="data:image/"]')
    if found is None:
        return {}
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(str(found["src"]).partition(",")[2])))
        picture.thumbnail((width, width))
        return {"source": data_uri(webp(picture, quality=75), "webp"), "alt": str(found.get("alt", ""))}
    except (OSError, ValueError):  # damaged
        return {}
