"""The site: documents, notebooks and reference reports in one table of contents and one search (`make docs`).

Sphinx reads the repository as it is: `docs/science.md` becomes `docs/science.html`, and links between files hold.
Reports are pages already; Sphinx reads their words for the table of contents and the search, and the site gets the
pages themselves. Nothing is fetched from another host when a page is opened.
"""

import json
import re
import shutil
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.parsers import Parser

ROOT = Path(__file__).resolve().parent.parent
MERMAID = re.compile(r"^```mermaid\n(.*?)^```", re.M | re.S)
PLACE = '<nav class="place" aria-label="Place">'  # of a report, with the way back to the list
CONTENTS = yaml.safe_load((ROOT / "docs/contents.yml").read_text(encoding="utf-8"))

project = "lensstudy"
language = "en"
extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "notebooks/*.md", "notebooks/*.ipynb", "reports/reference/**.html"]
exclude_patterns = [".*", "build", "dist", "runs", "site", "tests"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # as committed; below the title stands a link to the page of the notebook when it was run
nb_ipywidgets_js = {}  # which would be fetched from another host
highlight_language = "text"

html_theme = "furo"
html_title = "lensstudy"
html_math_renderer = "mathml"
html_copy_source = html_show_copyright = html_use_index = False
html_show_search_summary = False  # a page that lies on a disk cannot open others to quote them
html_css_files = ["site.css"]
html_static_path = ["site.css"]
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"


class ReportPage(Parser):
    """The words of a report: headings and text for the search, and links to pages below it for the contents."""

    supported = ("report",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        environment, page = document.settings.env, BeautifulSoup(inputstring, "html.parser")
        docname, anchors = environment.current_document.docname, page.find_all(["h2", "h3"], id=True)
        environment.metadata[docname]["myst_slugs"] = {one["id"]: (0, one["id"], one.get_text()) for one in anchors}
        section = nodes.section(ids=["text"])
        study = Path(docname).parent.relative_to("reports/reference").name
        section += nodes.title(text=page.h1.get_text(" ", strip=True) + (study and f" ({study})"))
        if docname.endswith("/index"):
            section += self._pages_below(page, docname)
        for element in page.main.find_all(["h2", "h3", "p", "li", "figcaption"]):
            section += nodes.paragraph(text=element.get_text(" ", strip=True))
        document += section

    def _pages_below(self, page: BeautifulSoup, docname: str) -> addnodes.toctree:
        folder = docname.removesuffix("index")
        links = [link["href"].removesuffix(".html") for link in page.find_all("a", href=True)]
        pages = dict.fromkeys(folder + link for link in links if (ROOT / folder / f"{link}.html").is_file())
        names = {one: one.removesuffix("/index").split("/")[-1] for one in pages if ".." not in one and one != docname}
        return addnodes.toctree(
            entries=[(name, one) for one, name in names.items()], includefiles=list(names), parent=docname,
            maxdepth=-1, glob=False, hidden=True, includehidden=False, numbered=0, titlesonly=True, caption=None,
        )  # fmt: skip


def add_contents(app, docname: str, source: list[str]) -> None:
    """The README is the first page, and holds the table of contents."""
    source[0] = MERMAID.sub(lambda found: f"```{{raw}} html\n{drawn(found[1])}\n```", source[0])
    if docname == root_doc:  # which leads to the list as Markdown; here the page itself can be shown
        source[0] = re.sub(r"\(reports/reference/README\.md[^)]*\)", "(reports/reference/index.html)", source[0])
        for part in CONTENTS:
            lines = "\n".join(f"/{page}" for page in part["pages"])
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {part['part']}\n\n{lines}\n```\n"


def link_executed(app, docname: str, source: list[str]) -> None:
    """Below the title of a notebook, the way to its page in the first study that has one: those of the list in their
    order, then the others."""
    questions = yaml.safe_load((ROOT / "reports/reference/studies.yml").read_text(encoding="utf-8"))
    studies = [ROOT / "reports/reference" / study for one in questions for study in one["studies"]]
    studies += sorted({page.parent for page in ROOT.glob("reports/reference/*/index.html")} - set(studies))
    pages = [page for study in studies for page in sorted(study.glob(f"{Path(docname).name}*.html"))]
    if docname.startswith("notebooks/") and pages:
        notebook, study = json.loads(source[0]), pages[0].parent.name
        text = f"[With its results, from the study {study}](../{pages[0].relative_to(ROOT).as_posix()})"
        notebook["cells"].insert(1, {"cell_type": "markdown", "id": "results", "metadata": {}, "source": text})
        source[0] = json.dumps(notebook)


def drawn(flowchart: str) -> str:
    """A flowchart of lines `a --> b & c` as SVG, since Mermaid's own script would come from another host.

    Each node stands one row below the lowest that points to it, and below the middle of those; an arrow over several
    rows keeps a place in each.
    """
    lines = re.findall(r"^ *(\w+) --> ([\w &]+)$", flowchart, re.M)
    arrows = [(start, end) for start, ends in lines for end in re.split(r" *& *", ends)]
    row = {name: 0 for arrow in arrows for name in arrow}
    for _ in row:
        for start, end in arrows:
            row[end] = max(row[end], row[start] + 1)
    steps = []
    for start, end in arrows:
        stops = [start, *((start, end, at) for at in range(row[start] + 1, row[end])), end]
        row |= {stop: stop[2] for stop in stops[1:-1]}
        steps += zip(stops, stops[1:], strict=False)
    x = {}
    for at in range(max(row.values()) + 1):
        above = {name: [x[a] for a, b in steps if b == name] for name in row if row[name] == at}
        middle = {name: sum(places) / len(places) if places else 0 for name, places in above.items()}
        free = 0
        for name in sorted(middle, key=middle.get):
            x[name] = max(free, middle[name])
            free = x[name] + 124
    for top in (name for name in row if row[name] == 0):
        below = [x[b] for a, b in steps if a == top]
        x[top] = sum(below) / len(below)
    paths, boxes = "", ""
    for a, b in steps:
        begin, end = row[a] * 64 + 32, row[b] * 64
        half, on = (begin + end) / 2, "" if isinstance(b, str) else "v32"
        curve = f"M{x[a] + 56:g} {begin}C{x[a] + 56:g} {half:g} {x[b] + 56:g} {half:g} {x[b] + 56:g} {end}{on}"
        paths += f'<path class="{"on" if on else "last"}" d="{curve}"/>'
    for name in (one for one in row if isinstance(one, str)):
        top = row[name] * 64
        boxes += f'<rect x="{x[name]:g}" y="{top}" width="112" height="32" rx="6"/>'
        boxes += f'<text x="{x[name] + 56:g}" y="{top + 21}">{name}</text>'
    words = "; ".join(f"{start} uses {ends.replace(' &', ',')}" for start, ends in lines)
    size = f"-1 -1 {max(x.values()) + 114:g} {max(row.values()) * 64 + 34}"
    paths += '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    paths += '<path d="M0 1L8 4L0 7"/></marker>'
    return f'<svg class="flowchart" viewBox="{size}" role="img" aria-label="{words}">{paths}{boxes}</svg>'


def copy_pages(app, problem: Exception | None) -> None:
    """The reports as they are, with a way back; what they link to; and the first page under the name hosts look for."""
    if problem:
        return
    site = Path(app.outdir)
    for file in (ROOT / "reports/reference").rglob("*.*"):
        copy = site / file.relative_to(ROOT)
        if file.suffix == ".html":
            home = "../" * (len(copy.relative_to(site).parts) - 1) + "index.html"
            page = file.read_text(encoding="utf-8")
            copy.write_text(page.replace(PLACE, f'{PLACE}<a href="{home}">lensstudy</a> › ', 1), encoding="utf-8")
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    for pattern in ("params/*.yml", "notebooks/*.ipynb"):
        for file in ROOT.glob(pattern):
            (site / file.parent.name).mkdir(exist_ok=True)
            shutil.copy(file, site / file.relative_to(ROOT))
    shutil.copy(site / f"{root_doc}.html", site / "index.html")


def setup(app) -> None:
    app.add_source_suffix(".html", "report")
    app.add_source_parser(ReportPage)
    app.add_html_math_renderer("mathml", (_formula("inline"), None), (_formula("block"), None))
    app.connect("source-read", add_contents)
    app.connect("source-read", link_executed)
    app.connect("build-finished", copy_pages)


def _formula(display: str):
    def visit(translator, node) -> None:
        translator.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit
