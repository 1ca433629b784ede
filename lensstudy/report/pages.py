"""One page of one executed notebook, as a single file that needs no connection.

nbconvert turns the cells into HTML through `templates/cells`; what a reader of a paper expects is added here: numbered
figures, mathematics, a table of contents, tables that keep to their place. `templates/page.html.j2` is the page itself.
"""

from __future__ import annotations

import base64
import contextlib
import html as html_text
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import latex2mathml.converter
import nbformat
from bs4 import BeautifulSoup, Tag
from bs4.element import PreformattedString
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

from lensstudy.files import whole_file
from lensstudy.report.execution import ADDED_TAGS, read_executed, source_hash, tags
from lensstudy.study import Study, home

__all__ = [
    "NUMBER",
    "about",
    "as_code_version",
    "as_text",
    "data_uri",
    "is_marked",
    "link",
    "mark_outdated",
    "may_show_images",
    "parameter_rows",
    "render",
    "stale_pages",
    "webp",
    "write_page",
]

TEMPLATES = Path(__file__).parent / "templates"
NO_IMAGES = "*Images of this data set are left out of the committed page: they may not be passed on.*"
PICTURE = re.compile(r"<(img|svg|canvas|video|object|embed|iframe|picture)\b|url\(|data:|!\[", re.IGNORECASE)
MAIN = '<main id="text">'  # where the text of a page begins
OUTDATED = (
    '<p class="outdated" role="note" style="margin:0 0 1.5rem;padding:.6rem 1rem;border:1px solid">'
    "<b>Made with an earlier version of this notebook</b>, which the foot of the page names. The figures are those of "
    "that version; the study has not been run anew since.</p>"
)
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def render(
    executed: str | Path, html: str | Path, *, parameter_file: str | Path | None = None, committed: bool = False
) -> None:
    """Make the page `html` of the notebook `executed`, which `execute` wrote.

    Mathematics becomes MathML, figures are inside, code is folded. Cells may carry the tags `hide-input`, `hide-output`
    and `interactive` (omitted, as are all widgets); the first figure of the page, or of a cell tagged `thumbnail`,
    stands for it on the page of the study. The header shows the notebook's stamp and links to `executed` and
    `parameter_file`; a page that is `committed` is read without the run folder and links to the notebook's source.
    """
    executed, html = Path(executed), Path(html)
    notebook, stamp = read_executed(executed)
    if not stamp:
        raise ValueError(f"{executed}: carries no stamp of lensstudy; run it with lensstudy.report.execution.execute")
    without_images = committed and not stamp.get("redistributable", False)
    body, title, contents = _page_body(_cells_to_show(notebook, without_images))
    source = home() / "notebooks" / f"{stamp['notebook']}.ipynb" if committed else executed
    write_page(
        html,
        "page.html.j2",
        title=title or executed.stem,
        name=executed.stem,
        stamp=stamp,
        parameters=parameter_rows(stamp["parameters"]),
        seeds={name: value for name, value in stamp["parameters"].items() if name in ("data_seed", "seed", "seeds")},
        contents=contents,
        body=body,
        notebook=link(source, html),
        committed=committed,
        parameter_file=link(Path(parameter_file), html) if parameter_file else "",
    )


def stale_pages(folder: str | Path, notebooks: str | Path = "notebooks") -> list[Path]:
    """The pages under `folder` whose notebook in `notebooks` has changed, or gone, since they were made."""
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


def is_marked(page: Path) -> bool:
    """Whether a page says that it was made with an earlier version of its notebook."""
    return OUTDATED in page.read_text(encoding="utf-8", errors="replace")


def about(page: Path) -> dict[str, str]:
    """What a page says about itself in the `lensstudy-` entries of its head."""
    head = page.read_text(encoding="utf-8", errors="replace").partition("<style>")[0]
    found = re.findall(r'<meta name="lensstudy-(\w+)" content="([^"]*)">', head)
    return {name: html_text.unescape(content) for name, content in found}


def _cells_to_show(notebook: NotebookNode, without_images: bool = False) -> NotebookNode:
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


class _MathRenderer(IPythonRenderer):
    """Markdown whose mathematics is MathML, which browsers draw without a script."""

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return _mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def _mathml(tex: str, display: str) -> str:
    try:
        mathml = latex2mathml.converter.convert(tex.strip(), display=display)
    except Exception:  # the converter knows most of LaTeX, and raises errors of many kinds on the rest
        return f"<code>{html_text.escape(tex)}</code>"
    mathml = mathml.replace("<math ", f'<math alttext="{html_text.escape(" ".join(tex.split()))}" ', 1)
    return f'<span class="equation" tabindex="0">{mathml}</span>' if display == "block" else mathml


def _text_with_math(text: str) -> str:
    """HTML of plain text in which `$...$` is mathematics, as in captions."""
    pieces = re.split(r"(?<!\\)\$(.+?)(?<!\\)\$", text)
    return "".join(_mathml(one, "inline") if i % 2 else html_text.escape(one) for i, one in enumerate(pieces))


class _CellExporter(HTMLExporter):
    """The cells of a notebook as HTML through `templates/cells`, without a page around them."""

    def __init__(self):
        super().__init__(template_name="cells", extra_template_basedirs=[str(TEMPLATES)])
        self.register_filter("text_with_math", _text_with_math)

    @pass_context
    def markdown2html(self, context, source):
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _MathRenderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def _page_body(notebook: NotebookNode) -> tuple[str, str, list[dict]]:
    """Body, title and table of contents of a page. The first heading is the title; figures are numbered."""
    soup = BeautifulSoup(_CellExporter().from_notebook_node(notebook)[0], "html.parser")
    first = soup.find("h1")
    title = first.extract().get_text().strip() if first else ""
    contents: list[dict] = []
    for heading in soup.find_all(["h1", "h2", "h3"]):
        text = heading.get_text().strip()
        name = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        name += f"-{len(contents)}" if any(name == other["name"] for other in contents) else ""
        heading["id"] = name
        contents.append({"name": name, "text": text, "level": int(heading.name[1])})
    _unlink_notebooks(soup)
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
    _defuse(soup)
    return str(soup), title, contents


def _unlink_notebooks(soup: BeautifulSoup) -> None:
    """Take out what leads from notebook to notebook: a page lies elsewhere, and has a way to its study of its own. The
    line of neighbours goes, other links become their text."""
    for link in soup.find_all("a", href=re.compile(r"^[\w-]+\.(ipynb|md)$")):
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
        text.replace_with(BeautifulSoup(_text_with_math(text), "html.parser"))
    label = soup.new_tag("b")
    label.string = f"Figure {number}"
    caption.insert(0, label)
    label.insert_after(" ")


def _join_code(soup: BeautifulSoup) -> None:
    """Code of cells that follow each other without a word or an output between them shares one fold."""
    for code in soup.find_all("details", class_="code"):
        before = code.find_previous_sibling()
        between = code.previous_sibling
        while between is not before and isinstance(between, str) and not between.strip():
            between = between.previous_sibling
        if between is before and before is not None and before.name == "details" and "code" in before["class"]:
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
    table.wrap(_scrolling(soup, f"Table {number}"))


def _scrolling(soup: BeautifulSoup, name: str, kind: str = "scroll") -> Tag:
    """A box for what is wider than the screen; what scrolls must be reachable without a mouse."""
    return soup.new_tag("div", attrs={"class": kind, "role": "group", "tabindex": "0", "aria-label": name})


# ---- what all pages share --------------------------------------------------------------------------------------------


def write_page(html: Path, template: str, **contents) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": as_text, "duration": _as_duration, "code_version": as_code_version}
    environment.tests["numeric"] = lambda value: bool(NUMBER.match(as_text(value)))
    html.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(html) as partial:
        partial.write_text(environment.get_template(template).render(**contents), encoding="utf-8")


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


def data_uri(content: bytes, kind: str) -> str:
    """A picture as it stands in a page; PNG becomes lossless WebP, the same pixels in a third of the bytes."""
    if kind == "png":
        image = Image.open(io.BytesIO(content))
        if max(image.size) < 16383:  # the largest that WebP knows
            content, kind = webp(image, lossless=True, quality=80), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def webp(image: Image.Image, **options) -> bytes:
    """On white, as on paper."""
    image = image.convert("RGBA")
    buffer = io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").save(buffer, "webp", **options)
    return buffer.getvalue()
