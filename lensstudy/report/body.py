"""The cells of an executed notebook as the text of a page: nbconvert turns them into HTML through `templates/cells`.

What a reader of a paper expects is added here: numbered figures, mathematics, a table of contents, tables that keep to
their place and fold where they are long; the answer's figure comes first. What is meant for somebody who works in the
notebook is removed or hidden with the code.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from bs4.element import PreformattedString
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

from lensstudy.report.execution import ADDED_TAGS, tags
from lensstudy.report.mathematics import mathml, text_with_math
from lensstudy.report.pictures import data_uri
from lensstudy.report.words import link_words

__all__ = ["Body", "NUMBER", "cells_to_show", "may_show_images", "page_body"]

TEMPLATES = Path(__file__).parent / "templates"
NO_IMAGES = "*Images of this data set are not in the committed page: they may not be passed on.*"
PICTURE = re.compile(r"<(img|svg|canvas|video|object|embed|iframe|picture)\b|url\(|data:|!\[", re.IGNORECASE)
WIDGET = "application/vnd.jupyter.widget-view+json"
LONG, SMALL = 12, 36  # rows of a table that folds; cells of one whose rows stand below each other on a phone
NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def cells_to_show(notebook: NotebookNode, without_images: bool = False) -> NotebookNode:
    """The cells of the page: widgets and the two parameter cells are omitted (the header has a table of them), and
    where asked for, every figure that shows images of the data."""
    left_out = ADDED_TAGS | {"interactive", "parameters"}
    shown = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    for cell in notebook.cells:
        if left_out & tags(cell):
            continue
        if cell.cell_type == "markdown" and without_images and (cell.get("attachments") or "data:" in cell.source):
            shown.cells.append(nbformat.v4.new_markdown_cell(NO_IMAGES))
            continue
        if cell.cell_type == "code":
            hidden = "hide-output" in tags(cell)
            outputs = [one for one in cell.outputs if not hidden and WIDGET not in one.get("data", {})]
            cell.outputs = [one for one in outputs if not (without_images and may_show_images(one))]
        shown.cells.append(cell)
        if cell.cell_type == "code" and not hidden and len(cell.outputs) < len(outputs):
            shown.cells.append(nbformat.v4.new_markdown_cell(NO_IMAGES))
    return shown


def may_show_images(output: NotebookNode) -> bool:
    """Whether an output may hold images of the data: every picture whose figure has not said that it shows none."""
    if output.get("metadata", {}).get("lensstudy", {}).get("shows_images", True) is False:
        return False
    data = output.get("data", {})
    texts = "".join(str(value) for kind, value in data.items() if kind != "text/plain")
    return any(kind.startswith("image/") for kind in data) or bool(PICTURE.search(texts))


SHOWS_ANSWER = re.compile(r"^Markdown\(.+\.answer\)$", re.M)


class _MathRenderer(IPythonRenderer):
    """Markdown whose mathematics is MathML, which browsers draw without a script."""

    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class _CellExporter(HTMLExporter):
    """The cells of a notebook as HTML through `templates/cells`, without a page around them."""

    def __init__(self):
        super().__init__(template_name="cells", extra_template_basedirs=[str(TEMPLATES)])
        self.register_filter("text_with_math", text_with_math)

    @pass_context
    def markdown2html(self, context, source):
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _MathRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


@dataclass
class Body:
    """The text of a page: its HTML, title and table of contents, the question of the notebook and what it answers,
    and whether that is the answer of its study."""

    html: str
    title: str
    contents: list[dict]
    question: str
    answer: str
    answers: bool
    words: list[dict[str, str]]


def page_body(notebook: NotebookNode, summary: Mapping[str, Any] | None = None, headline: bytes = b"") -> Body:
    """The text of a page. The first heading is the title, figures are numbered, and where these cells have written the
    `summary` of their study, its figure `headline` comes first."""
    soup = BeautifulSoup(_CellExporter().from_notebook_node(notebook)[0], "html.parser")
    first = soup.find("h1")
    title = first.extract().get_text().strip() if first else ""
    _unlink_notebooks(soup)
    question = _take_question(soup)
    _take_out_what_is_for_the_notebook(soup)
    answers = _figure_first(soup, summary or {}, headline)
    contents = _contents(soup)
    _join_code(soup)
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"  # what scrolls must be reachable without a mouse
    for image in soup.find_all("img", src=re.compile("^data:image/png;base64,")):
        with contextlib.suppress(OSError, ValueError, Image.DecompressionBombError):  # a damaged picture stays as it is
            image["src"] = data_uri(base64.b64decode(str(image["src"]).partition(",")[2]), "png")
    for number, figure in enumerate(soup.find_all("figure"), start=1):
        _number_figure(soup, figure, number)
    for number, table in enumerate(soup.find_all("table"), start=1):
        _tame_table(soup, table, number)
    words = link_words(soup)
    _defuse(soup)
    return Body(str(soup), title, contents, question, _answer(notebook), answers, words)


def _contents(soup: BeautifulSoup) -> list[dict]:
    contents: list[dict] = []
    for heading in soup.find_all(["h1", "h2", "h3"]):
        text = heading.get_text().strip()
        name = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        name += f"-{len(contents)}" if any(name == other["name"] for other in contents) else ""
        heading["id"] = name
        contents.append({"name": name, "text": text, "level": int(heading.name[1])})
    return contents


def _take_question(soup: BeautifulSoup) -> str:
    """The question of a notebook, out of its first paragraphs, to stand below the title."""
    for bold in soup.find_all("strong", string="Question."):
        paragraph = bold.find_parent("p")
        if paragraph is not None:
            bold.decompose()
            return " ".join(paragraph.extract().get_text().split())
    return ""


def _answer(notebook: NotebookNode) -> str:
    """What the first cell says that shows an answer, `Markdown(shortcuts.answer)`; empty where there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and SHOWS_ANSWER.search(cell.source):
            said = " ".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs)
            html = MarkdownWithMath(renderer=IPythonRenderer(escape=False)).render(said)
            return " ".join(BeautifulSoup(html, "html.parser").get_text().split())
    return ""


def _take_out_what_is_for_the_notebook(soup: BeautifulSoup) -> None:
    """A reader of a page runs no cells: what one can do after a notebook goes, what to try is shown with the code."""
    for paragraph in soup.find_all("p"):
        text = paragraph.get_text().strip()
        if text.startswith("After this notebook you can"):
            following = paragraph.find_next_sibling()
            if following is not None and following.name == "ul":
                following.decompose()
            paragraph.decompose()
        elif text.startswith("The first code cell loads"):
            paragraph.decompose()
    for quote in soup.find_all("blockquote"):
        if quote.get_text().strip().startswith("Try it."):
            quote["class"] = "try"


def _figure_first(soup: BeautifulSoup, summary: Mapping[str, Any], headline: bytes) -> bool:
    """Put the figure of the answer on top where these cells hold the answer; whether they do. `headline` is the picture
    as the notebook has kept it."""

    def plain(text: str) -> str:
        return " ".join(text.split())

    answer = plain(str(summary.get("answer", "")))
    if not answer or answer not in plain(soup.get_text()):
        return False
    source = f"data:image/png;base64,{base64.b64encode(headline).decode()}"
    picture = soup.find("img", src=source) if headline else None
    figure = picture.find_parent("figure") if picture else None
    if figure is not None:
        note = '<p class="note"><a href="#figure-1">Figure 1</a> is at the top of this page.</p>'
        figure.insert_before(BeautifulSoup(note, "html.parser"))
        soup.insert(0, figure.extract())
    return True


def _unlink_notebooks(soup: BeautifulSoup) -> None:
    """Take out what leads from notebook to notebook or to a document: a page lies elsewhere, and has a way to its study
    of its own. The line of neighbours goes, other links become their text."""
    for link in soup.find_all("a", href=re.compile(r"^(\.\./docs/)?[\w-]+\.(ipynb|md)(#[\w-]+)?$")):
        line = link.find_parent("p")
        if line is not None and line.get_text().lstrip().startswith(("←", "all notebooks")):
            line.decompose()
        elif not link.decomposed:
            link.unwrap()


ACTIVE = ("script", "iframe", "object", "embed", "applet", "link", "meta", "base", "form", "input", "button")
ACTIVE += ("animate", "set", "animatetransform", "foreignobject", "audio", "video", "source")
ADDRESSES = ("href", "src", "srcset", "action", "xlink:href", "poster", "background", "data", "formaction")


def _defuse(soup: BeautifulSoup) -> None:
    """Let nothing in the cells of a notebook act: a name of a file or class may hold anything, and tables of pandas
    pass it on as it is. Elements that act become the text they were written in."""
    for text in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        text.extract()  # comments and the like, where a browser may end them earlier than a parser
    for element in soup.find_all(lambda element: element.name.lower() in ACTIVE):
        element.replace_with(str(element))
    for style in soup.find_all("style"):
        if re.search(r"@import|url\(|expression\(", style.get_text(), re.IGNORECASE):
            style.decompose()
    for element in soup.find_all(True):
        for name, value in list(element.attrs.items()):
            fetches = name.lower() in ADDRESSES and not _is_safe(element, str(value))
            styled = name.lower() == "style" and re.search(r"url\(|expression\(", str(value), re.IGNORECASE)
            if name.lower().startswith("on") or fetches or styled:
                del element[name]


def _is_safe(element: Tag, address: str) -> bool:
    """Whether an address in a page runs nothing and fetches nothing: a place in the page, a file beside it, a picture
    in the page itself, or for a link that somebody may follow, a page of the web."""
    address = re.sub(r"[\s\x00-\x1f]", "", address).lower()
    scheme = re.match(r"[a-z][a-z0-9+.-]*:|//", address)
    if scheme is None:
        return True
    return address.startswith("data:image/") or (element.name == "a" and scheme[0] in ("http:", "https:", "mailto:"))


def _number_figure(soup: BeautifulSoup, figure: Tag, number: int) -> None:
    figure["id"] = f"figure-{number}"
    if picture := figure.find("img"):
        picture.wrap(_scrolling(soup, f"Figure {number}", "scroll drawing"))
    caption = figure.find("figcaption")
    if caption is None:
        caption = soup.new_tag("figcaption")
        figure.append(caption)
    for text in caption.find_all(string=re.compile(r"\$.+\$")):
        text.replace_with(BeautifulSoup(text_with_math(text), "html.parser"))
    label = soup.new_tag("b")
    label.string = f"Figure {number}"
    caption.insert(0, label)
    label.insert_after(" ")


def _join_code(soup: BeautifulSoup) -> None:
    """Code of cells that follow each other without a word or an output between them shares one box."""
    for code in soup.find_all("div", class_="code"):
        before = code.find_previous_sibling()
        between = code.previous_sibling
        while between is not before and isinstance(between, str) and not between.strip():
            between = between.previous_sibling
        if between is before and before is not None and before.name == "div" and "code" in (before.get("class") or []):
            for part in code.find_all("div", class_="highlight"):
                before.append(part.extract())
            code.decompose()


def _tame_table(soup: BeautifulSoup, table: Tag, number: int) -> None:
    """Leave the style of a table to the page: columns of numbers to the right, a wide table in a box that scrolls."""
    del table["border"]
    for style in table.find_previous_siblings("style"):
        if "scoped" in style.attrs:
            style.decompose()
    head = table.thead.find_all("tr") if table.thead else []
    if len(head) == 2 and not any(cell.get_text(strip=True) for cell in head[1].find_all("th")[1:]):
        name_of_index = head[1].find_all("th")[0].get_text()  # pandas puts it into a row of its own
        head[0].find_all("th")[0].string = name_of_index
        head.pop().decompose()
    for row in table.find_all("tr"):
        del row["style"]
        for cell in row.find_all("th"):
            if not cell.get_text(strip=True):
                cell.name = "td"  # an empty heading is none
    if table.tbody:
        columns = zip(*(row.find_all(["th", "td"]) for row in head[-1:] + table.tbody.find_all("tr")), strict=False)
        for column in columns:
            cells = [cell.get_text(strip=True) for cell in column[len(head[-1:]) :] if cell.name == "td"]
            if cells and all(NUMBER.match(text.lstrip("<> ")) or text in ("", "nan", "NaN", "–") for text in cells):
                for cell in column:
                    cell["class"] = [*cell.get("class", []), "number"]
    box = table.wrap(_scrolling(soup, f"Table {number}"))
    if table.caption is not None:
        _caption_before(soup, box, table.caption, number)
    rows = table.tbody.find_all("tr") if table.tbody else []
    if len(head) == 1 and rows:
        _fit_a_phone(table, head[0], rows)
    if len(rows) > LONG:
        _fold(soup, box, f"Table of {len(rows)} rows")


def _caption_before(soup: BeautifulSoup, box: Tag, caption: Tag, number: int) -> None:
    """The caption before the box that scrolls, so that all of it is seen."""
    words = soup.new_tag("p", attrs={"class": "table-caption"})
    label = soup.new_tag("b")
    label.string = f"Table {number}"
    words.extend([label, " ", *list(caption.extract().contents)])
    box.insert_before(words)


def _fit_a_phone(table: Tag, head: Tag, rows: list[Tag]) -> None:
    """On a phone the rows of a small table stand below each other, each cell with the name of its column; in a larger
    one the first column stays while the others scroll."""
    names = [cell.get_text(strip=True) for cell in head.find_all(["th", "td"])]
    small = len(names) > 2 and len(names) * len(rows) <= SMALL
    known = table.get("class") or []
    table["class"] = [*known, "stack" if small else "first-stays"]  # type: ignore[assignment]  # a list will do
    for row in rows:
        for name, cell in zip(names, row.find_all(["th", "td"]), strict=False):
            cell["data-label"] = name


def _fold(soup: BeautifulSoup, box: Tag, what: str) -> None:
    """Fold a long table behind its size."""
    summary = soup.new_tag("summary")
    summary.string = what
    box.wrap(soup.new_tag("details", attrs={"class": "fold"})).insert(0, summary)


def _scrolling(soup: BeautifulSoup, name: str, kind: str = "scroll") -> Tag:
    """A box for what is wider than the screen; what scrolls must be reachable without a mouse."""
    return soup.new_tag("div", attrs={"class": kind, "role": "group", "tabindex": "0", "aria-label": name})
