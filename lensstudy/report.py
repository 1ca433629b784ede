"""What people read: pages of executed notebooks, the page on top of a study, and the comparison of two studies.

Every page is one file that asks the network for nothing. All contents come from files (executed notebooks with their
stamps, `analysis/summary.json`, logs), so that any page can be made again on its own; what is missing is said to be.
"""

from __future__ import annotations

import base64
import html as html_text
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import latex2mathml.converter
import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image

from lensstudy.execution import ADDED_TAGS, NotebookFailed, execute, source_hash, tags
from lensstudy.parameters import Study, home

__all__ = [
    "NotebookFailed",
    "compare",
    "execute",
    "render",
    "source_hash",
    "stale_pages",
    "write_index",
    "write_study_list",
]

TEMPLATES = Path(__file__).parent / "templates"
WIDGET = "application/vnd.jupyter.widget-view+json"
NUMBER = re.compile(r"\s*[-+−]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


# ---- the page of a notebook ------------------------------------------------------------------------------------------


def render(
    executed: str | Path, html: str | Path, *, parameter_file: str | Path | None = None, committed: bool = False
) -> None:
    """Make the page `html` of the notebook `executed`, which `execute` wrote.

    Mathematics becomes MathML, figures are inside, code is folded. Cells may carry the tags `hide-input`, `hide-output`
    and `interactive` (left out, as are all widgets). The header shows the notebook's stamp and links to `executed` and
    `parameter_file`; a page that is `committed` is read without the run folder and links to the notebook's source.
    """
    executed, html = Path(executed), Path(html)
    notebook = nbformat.read(executed, as_version=4)
    stamp = notebook.metadata.get("lensstudy")
    if stamp is None:
        raise ValueError(f"{executed}: carries no stamp of lensstudy; run it with lensstudy.report.execute")
    body, title, contents = _page_body(_cells_to_show(notebook))
    source = home() / "notebooks" / f"{stamp['notebook']}.ipynb" if committed else executed
    _write(
        html,
        "page.html.j2",
        title=title or executed.stem,
        name=executed.stem,
        stamp=stamp,
        parameters=_parameter_rows(stamp["parameters"]),
        seeds={name: value for name, value in stamp["parameters"].items() if name in ("data_seed", "seed", "seeds")},
        contents=contents,
        body=body,
        notebook=_link(source, html),
        committed=committed,
        parameter_file=_link(Path(parameter_file), html) if parameter_file else "",
    )


def stale_pages(folder: str | Path, notebooks: str | Path = "notebooks") -> list[Path]:
    """The pages under `folder` whose notebook in `notebooks` has changed, or gone, since they were made."""
    stale = []
    for page in sorted(Path(folder).rglob("*.html")):
        about = _about(page)
        if "source" in about:  # index pages are made of several notebooks and carry none
            notebook = Path(notebooks) / f"{about['notebook']}.ipynb"
            if not notebook.exists() or source_hash(notebook) != about["source"]:
                stale.append(page)
    return stale


def _about(page: Path) -> dict[str, str]:
    """What a page says about itself in the `lensstudy-` entries of its head."""
    head = page.read_text(encoding="utf-8").partition("<style>")[0]
    found = re.findall(r'<meta name="lensstudy-(\w+)" content="([^"]*)">', head)
    return {name: html_text.unescape(content) for name, content in found}


def _cells_to_show(notebook: NotebookNode) -> NotebookNode:
    """The cells of the page: widgets and the two parameter cells are left out (the header has a table of them)."""
    left_out = ADDED_TAGS | {"interactive", "parameters"}
    shown = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    for cell in notebook.cells:
        if left_out & tags(cell):
            continue
        if cell.cell_type == "code":
            hidden = "hide-output" in tags(cell)
            cell.outputs = [output for output in cell.outputs if not hidden and WIDGET not in output.get("data", {})]
        shown.cells.append(cell)
    return shown


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
    for block in soup.find_all("pre"):
        block["tabindex"] = "0"  # what scrolls must be reachable without a mouse
    for number, figure in enumerate(soup.find_all("figure"), start=1):
        _number_figure(soup, figure, number)
    for number, table in enumerate(soup.find_all("table"), start=1):
        _tame_table(soup, table, number)
    return str(soup), title, contents


def _number_figure(soup: BeautifulSoup, figure: Tag, number: int) -> None:
    figure["id"] = f"figure-{number}"
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


def _tame_table(soup: BeautifulSoup, table: Tag, number: int) -> None:
    """Leave the looks of a table to the page: numbers to the right, a wide table in a box that scrolls."""
    del table["border"]
    for style in table.find_previous_siblings("style"):
        if "scoped" in style.attrs:
            style.decompose()
    for row in table.find_all("tr"):
        del row["style"]
        for cell in row.find_all(["th", "td"]):
            if cell.name == "th" and not cell.get_text(strip=True):
                cell.name = "td"  # a heading that says nothing is none
            if NUMBER.match(cell.get_text()) and not re.search("[a-z]{3}", cell.get_text()):
                cell["class"] = [*cell.get("class", []), "number"]
    table.wrap(soup.new_tag("div", attrs=_scroll_box(f"Table {number}")))


def _scroll_box(label: str) -> dict[str, str]:
    return {"class": "scroll", "role": "group", "tabindex": "0", "aria-label": label}


# ---- the page of a study, and of several -----------------------------------------------------------------------------


def write_index(run_folder: str | Path, report_folder: str | Path, *, committed: bool = False) -> Path:
    """Write `index.html` into `report_folder` from what `run_folder` (`runs/<study>`) holds so far; returns its path.

    It has the answer and its figure, the table of runs, the pages, the jobs with what failed, and where all of it comes
    from. `committed` leaves out links into the run folder.
    """
    run, html = Path(run_folder), Path(report_folder) / "index.html"
    pages, failed = _pages(run, html), _failures(run, html)
    stamps = [page["stamp"] for page in pages + failed if page["stamp"]]
    summary = _summary(run)
    parameter_file = run.parent.parent / "params" / f"{run.name}.yml"
    _write(
        html,
        "index.html.j2",
        study=run.name,
        question=next((stamp["question"] for stamp in stamps if stamp["question"]), ""),
        summary=summary,
        figure=_embedded(run / "analysis" / summary["figure"]),
        pages=pages,
        failed=failed,
        jobs=sorted((one for one in pages + failed if one["stamp"]), key=lambda one: one["stamp"]["started"]),
        graph=_job_graph(run / "jobs.dot"),
        parameters=_parameter_rows(_merged_parameters(stamps)),
        sources=_merged_sources(stamps),
        committed=committed,
        parameter_file=_link(parameter_file, html) if parameter_file.exists() else "",
    )
    return html


def write_study_list(reports: str | Path) -> Path:
    """Write `reports/index.html`, the list of the studies that have an index there; returns its path."""
    html = Path(reports) / "index.html"
    studies = [
        _about(index) | {"link": _link(index, html), "committed": "reference" in index.relative_to(reports).parts}
        for index in sorted(Path(reports).rglob("index.html"))
        if "study" in _about(index)
    ]
    _write(html, "studies.html.j2", studies=studies)
    return html


def compare(run_a: str | Path, run_b: str | Path, html: str | Path) -> Path:
    """Write the page `html` that shows two studies (folders `runs/<study>`) side by side: their answers, the parameters
    in which they differ, and their results, with the difference where both are numbers; returns its path."""
    html = Path(html)
    studies = []
    for run in (Path(run_a), Path(run_b)):
        stamps = [page["stamp"] for page in _pages(run, html) if page["stamp"]]
        if not stamps:
            raise FileNotFoundError(
                f"{run}: holds no executed notebook; `lensstudy run params/{run.name}.yml` makes them"
            )
        summary = _summary(run)
        figure = _embedded(run / "analysis" / summary["figure"])
        studies.append({"name": run.name, "summary": summary, "figure": figure, "sources": _merged_sources(stamps)})
        studies[-1]["parameters"] = _merged_parameters(stamps)
    a, b = studies
    names = [name for name in Study.model_fields if name in a["parameters"] or name in b["parameters"]]
    rows = [(name, a["parameters"].get(name), b["parameters"].get(name)) for name in names if name != "study"]
    _write(
        html,
        "compare.html.j2",
        studies=studies,
        parameters=[row for row in rows if row[1] != row[2]],
        equal=sum(row[1] == row[2] for row in rows),
        results=_matched(a["summary"]["table"], b["summary"]["table"]),
    )
    return html


def _pages(run: Path, html: Path) -> list[dict]:
    """The executed notebooks of a study in reading order: name, title, stamp, link to the page, first figure."""
    pages = []
    for file in sorted((run / "notebooks").glob("*.ipynb")):
        if not file.name.endswith(".failed.ipynb"):
            notebook = nbformat.read(file, as_version=4)
            heading = re.search(
                r"^# (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M
            )
            page = html.parent / f"{file.stem}.html"
            pages.append(
                {
                    "name": file.stem,
                    "title": heading[1] if heading else file.stem,
                    "stamp": notebook.metadata.get("lensstudy", {}),
                    "link": page.name if page.exists() else "",
                    "thumbnail": _thumbnail(notebook),
                }
            )
    return pages


def _failures(run: Path, html: Path) -> list[dict]:
    """The notebooks that did not reach their end: where and why, and the last lines of their logs."""
    failed = []
    for file in sorted((run / "notebooks").glob("*.failed.ipynb")):
        stamp = nbformat.read(file, as_version=4).metadata.get("lensstudy", {})
        name = file.name.removesuffix(".failed.ipynb")
        log = run / "logs" / f"{name}.log"
        failed.append(
            {
                "name": name,
                "stamp": stamp,
                "failure": stamp.get("failure") or {"cell": "", "error": "it was interrupted, or is still running"},
                "notebook": _link(file, html),
                "log": _link(log, html) if log.exists() else "",
                "end_of_log": log.read_text(encoding="utf-8").splitlines()[-25:] if log.exists() else [],
            }
        )
    return failed


def _summary(run: Path) -> dict[str, Any]:
    """What the analysis has written for the index; entries that are not there, or not yet, are empty."""
    file = run / "analysis" / "summary.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return {"answer": "", "figure": "", "figure_alt": "", "figure_caption": "", "table": [], "limitations": ""} | found


def _embedded(picture: Path) -> str:
    kind = {".svg": "svg+xml", ".jpg": "jpeg"}.get(picture.suffix, picture.suffix[1:])
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}" if picture.is_file() else ""


def _thumbnail(notebook: NotebookNode, width: int = 440) -> dict[str, str]:
    """The first figure of a notebook, small and on white, with its alternative text; empty if it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            image = BeautifulSoup(data.get("text/html", ""), "html.parser").find(
                "img", src=re.compile("^data:image/png")
            )
            png = image["src"].partition(",")[2] if image else data.get("image/png")
            if png:
                picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                picture.thumbnail((width, width))
                buffer = io.BytesIO()
                picture.save(buffer, "webp", quality=70)
                source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
                return {"source": source, "alt": image.get("alt", "First figure") if image else "First figure"}
    return {}


def _merged_parameters(stamps: list[Mapping]) -> dict[str, Any]:
    """The parameters of a study from the stamps of its notebooks; those of a single training are left out."""
    merged: dict[str, Any] = {}
    for stamp in stamps:
        merged |= stamp["parameters"]
    return {name: value for name, value in merged.items() if name not in ("network", "seed")}


def _merged_sources(stamps: list[Mapping]) -> dict[str, Any]:
    """Where the pages of a study come from; a value that differs between them is given as often as it differs."""

    def each(key):
        return list(dict.fromkeys(key(stamp) for stamp in stamps if key(stamp)))

    return {
        "data": each(lambda stamp: stamp["data"]),
        "device": each(lambda stamp: stamp["device"]),
        "code": each(lambda stamp: _as_code_version(stamp["code"])),
        "dates": sorted(each(lambda stamp: stamp["started"][:10])),
        "packages": each(lambda stamp: ", ".join(f"{name} {version}" for name, version in stamp["packages"].items())),
        "run_time_s": sum(stamp["run_time_s"] for stamp in stamps),
        "seeds": {k: v for k, v in _merged_parameters(stamps).items() if k in ("data_seed", "seeds")},
    }


def _parameter_rows(parameters: Mapping[str, Any]) -> list[dict]:
    """Name, value, default and meaning of each parameter, those that differ from the default first."""
    rows = []
    for name, value in parameters.items():
        if name not in ("study", "question") and (field := Study.model_fields.get(name)):
            row = {"name": name, "value": value, "default": field.default, "meaning": field.description}
            rows.append(row | {"changed": value != field.default})
    return sorted(rows, key=lambda row: not row["changed"])


def _job_graph(file: Path) -> dict[str, Any]:
    """Which rule needs which, laid out in layers, from what `snakemake --rulegraph` printed into `file`."""
    if not file.exists():
        return {}
    text = file.read_text(encoding="utf-8")
    names = {key: name for key, name in re.findall(r'(\d+)\[label = "(\w+)', text) if name != "all"}
    edges = [(a, b) for a, b in re.findall(r"(\d+) -> (\d+)", text) if a in names and b in names]
    layer = dict.fromkeys(names, 0)
    for _ in names:  # the longest way from the start; as many rounds as there are rules are enough
        for a, b in edges:
            layer[b] = max(layer[b], layer[a] + 1)
    place = {}
    for key in names:
        row = sum(layer[other] == layer[key] for other in place)
        place[key] = (150 * layer[key], 52 * row)
    return {
        "width": max(x for x, _ in place.values()) + 112,
        "height": max(y for _, y in place.values()) + 34,
        "nodes": [{"name": names[key], "x": x, "y": y} for key, (x, y) in place.items()],
        "edges": [(place[a][0] + 110, place[a][1] + 17, place[b][0] + 2, place[b][1] + 17) for a, b in edges],
        "words": "; ".join(f"{names[a]} before {names[b]}" for a, b in edges),
    }


def _matched(a: list[dict], b: list[dict]) -> dict[str, Any]:
    """Rows of two result tables side by side, matched by the columns that name things rather than measure them."""
    rows = a + b
    columns = list(dict.fromkeys(column for row in rows for column in row))

    def names_things(column):
        return column == "seed" or not any(NUMBER.match(_as_text(row.get(column))) for row in rows)

    keys = [column for column in columns if names_things(column)]
    values = [column for column in columns if column not in keys]
    tables = [{tuple(_as_text(row.get(key)) for key in keys): row for row in table} for table in (a, b)]
    matched = []
    for key in dict.fromkeys([*tables[0], *tables[1]]):
        pairs = [tuple(table.get(key, {}).get(column) for table in tables) for column in values]
        matched.append({"key": key, "pairs": [(*pair, _difference(*pair)) for pair in pairs]})
    return {"keys": keys, "values": values, "rows": matched}


def _difference(a: Any, b: Any) -> str:
    found = [NUMBER.match(str(one)) for one in (a, b)]
    if not all(found):
        return ""
    first, second = (float(one[0].replace(",", "").replace("−", "-")) for one in found)
    return f"{second - first:+.3g}".replace("-", "−")


# ---- words and files -------------------------------------------------------------------------------------------------


def _write(html: Path, template: str, **contents) -> None:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": _as_text, "duration": _as_duration, "code_version": _as_code_version}
    environment.tests["numeric"] = lambda value: bool(NUMBER.match(_as_text(value)))
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(environment.get_template(template).render(**contents), encoding="utf-8")


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.absolute(), page.absolute().parent)).as_posix()


def _as_text(value: Any) -> str:
    """A value as a reader would write it: five digits at most, lists without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(one)}" for name, one in value.items()) or "none"
    return "none" if value in (None, "") else str(value)


def _as_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _as_code_version(code: Mapping[str, Any]) -> str:
    commit = f", commit {code['commit']}" if code["commit"] else ""
    return f"{code['version']}{commit}{', modified' if code['modified'] else ''}"
