"""What people read: notebooks run in batch, and the pages made of them.

`execute` runs one notebook and keeps it only if it ended well; `render` makes a page of an executed notebook that
needs nothing but itself; `write_index`, `write_study_list` and `compare` lay the pages out. Where a result comes from
(code, data, parameters, versions, device) is stamped into the executed notebook as `metadata.lensstudy`, and the pages
show it. All contents come from files, so that any part can be made again on its own.
"""

from __future__ import annotations

import ast
import hashlib
import html as html_text
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import latex2mathml.converter
import nbformat
import papermill
from bs4 import BeautifulSoup, Tag
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

import lensstudy
from lensstudy.parameters import ParameterError, Study

__all__ = ["NotebookFailed", "execute", "render", "source_hash", "stale_pages"]

TEMPLATES = Path(__file__).parent / "templates"
# The packages whose versions a result may depend on.
PACKAGES = ("torch", "e2cnn", "lightning", "numpy", "scipy", "scikit-learn", "pandas", "papermill", "nbconvert")
# Cells that papermill adds while running; a source does not have them.
ADDED_TAGS = {"injected-parameters", "papermill-error-cell-tag"}


class NotebookFailed(RuntimeError):
    """A notebook that did not reach its end; the message says where, why, and which files tell more."""


# ---- running a notebook ----------------------------------------------------------------------------------------------


def execute(
    notebook: str | Path,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    log: str | Path,
    timeout_s: int,
    cwd: str | Path = ".",
) -> None:
    """Run `notebook` in the folder `cwd` and write it to `output`, stamped with where its results come from.

    `parameters` may be the whole study: the notebook receives those that its `parameters` cell declares. A cell may
    take `timeout_s` seconds. While it runs, and if it fails, the notebook lies beside `output` as
    `<name>.failed.ipynb`; only a run that reached its last cell gets the name `output`. What cells print goes to `log`.

    Raises `NotebookFailed` (a cell's error, a timeout, a dead kernel, a cell that did not run) and `ParameterError`
    (a parameter that no study has).
    """
    notebook, output, log, cwd = (Path(path).absolute() for path in (notebook, output, log, cwd))
    source = nbformat.read(notebook, as_version=4)
    parameters = dict(parameters or {})
    if unknown := parameters.keys() - Study.model_fields.keys():
        raise ParameterError(f"{notebook.name}: no study has a parameter {', '.join(sorted(unknown))}")
    given = {name: value for name, value in parameters.items() if name in _declared(source)}

    partial = output.with_suffix(".failed.ipynb")
    for file in (output, partial):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
    stamp = {
        "notebook": notebook.stem,
        "source": source_hash(source),
        "study": parameters.get("study", output.parent.parent.name),
        "question": parameters.get("question", ""),
        "parameters": {**_declared(source), **given},
        "code": _code_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    begin = time.monotonic()
    try:
        with _logged(log):
            papermill.execute_notebook(
                notebook,
                partial,
                given,
                kernel_name="python3",
                progress_bar=False,
                log_output=True,
                cwd=cwd,
                execution_timeout=timeout_s,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        error = None
    except Exception as problem:  # whatever stopped it, the partial notebook and the log are worth naming
        error = problem
    executed = nbformat.read(partial, as_version=4) if partial.exists() else source
    stamp["run_time_s"] = round(time.monotonic() - begin, 1)
    stamp["device"] = _device()
    stamp["data"] = _data_fingerprint(output.parent.parent)
    executed.metadata["lensstudy"] = stamp
    executed.metadata.get("papermill", {}).update(input_path=notebook.name, output_path=output.name)
    places = _places(cwd, parameters)
    partial.write_text(_without_places(nbformat.writes(executed), places), encoding="utf-8")
    log.write_text(_without_places(log.read_text(encoding="utf-8"), places), encoding="utf-8")
    if error or not _ran_to_the_end(executed):
        raise NotebookFailed(_failure(executed, error, partial, log)) from error
    partial.replace(output)


class _logged:
    """Within this context papermill's log, with all that the cells print, goes to the file `log` alone."""

    def __init__(self, log: Path):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.handler = logging.FileHandler(log, mode="w", encoding="utf-8")
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.logger = logging.getLogger("papermill")

    def __enter__(self) -> None:
        self.before = self.logger.level, self.logger.propagate
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        self.logger.addHandler(self.handler)

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None:
            self.logger.error("%s: %s", kind.__name__, error)
        self.logger.removeHandler(self.handler)
        self.logger.level, self.logger.propagate = self.before
        self.handler.close()


def _ran_to_the_end(executed: NotebookNode) -> bool:
    """Whether every cell with code ran: `sys.exit()` in the middle counts as success for papermill, not here."""
    return all(cell.execution_count for cell in executed.cells if cell.cell_type == "code" and cell.source.strip())


def _failed_cell(executed: NotebookNode) -> tuple[str, str, str]:
    """The cell at which a notebook stopped: its number as JupyterLab shows it, its first line and its error."""
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                return f"cell {number}", _first_line(cell.source), f"{output.ename}: {output.evalue}"
    started = [i for i, cell in enumerate(code) if cell.metadata.get("papermill", {}).get("start_time")]
    if not started:
        return "before the first cell", "", ""
    return f"cell {started[-1] + 1}", _first_line(code[started[-1]].source), ""


def _failure(executed: NotebookNode, error: Exception | None, partial: Path, log: Path) -> str:
    where, line, reason = _failed_cell(executed)
    if not reason and error is not None:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    name = executed.metadata["lensstudy"]["notebook"] + ".ipynb"
    return (
        f"{name} stopped at {where}{f' ({line})' if line else ''}: {reason or 'the cells after it did not run'}\n"
        f"  notebook up to there: {_relative(partial)}\n  log: {_relative(log)}"
    )


def _first_line(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    return lines[0] if lines else ""


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# ---- where a result comes from ---------------------------------------------------------------------------------------


def source_hash(notebook: str | Path | NotebookNode) -> str:
    """Hash of what makes a notebook what it is: kind, source and tags of each cell. Outputs, execution counts and the
    cells that papermill adds do not count, so a notebook and its executed copy have the same."""
    if not isinstance(notebook, NotebookNode):
        notebook = nbformat.read(notebook, as_version=4)
    cells = [
        [cell.cell_type, cell.source, sorted(_tags(cell))] for cell in notebook.cells if not ADDED_TAGS & _tags(cell)
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def stale_pages(folder: str | Path, notebooks: str | Path = "notebooks") -> list[Path]:
    """The pages under `folder` whose notebook in `notebooks` has changed, or gone, since they were made."""
    stale = []
    for page in sorted(Path(folder).rglob("*.html")):
        head = page.read_text(encoding="utf-8")[:2000]
        name = re.search(r'<meta name="lensstudy-notebook" content="([^"]*)"', head)
        source = re.search(r'<meta name="lensstudy-source" content="([^"]*)"', head)
        if name and source:  # index pages are made of several notebooks and carry neither
            notebook = Path(notebooks) / f"{name[1]}.ipynb"
            if not notebook.exists() or source_hash(notebook) != source[1]:
                stale.append(page)
    return stale


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _declared(notebook: NotebookNode) -> dict[str, Any]:
    """Names and defaults of a notebook's `parameters` cell."""
    source = "\n".join(cell.source for cell in notebook.cells if "parameters" in _tags(cell))
    declared = {}
    for line in ast.parse(source).body:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            declared[target.id] = ast.literal_eval(line.value)
    return declared


def _code_version() -> dict[str, Any]:
    """Version of the package, and where it is a git checkout the commit and whether what runs differs from it."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, timeout=30)
        return done.stdout.strip() if done.returncode == 0 else ""

    version: dict[str, Any] = {"version": lensstudy.__version__, "commit": "", "modified": False}
    if (root / ".git").exists():
        version["commit"] = git("rev-parse", "--short", "HEAD")
        version["modified"] = bool(git("status", "--porcelain", "lensstudy", "notebooks", "params", "Snakefile"))
    return version


def _device() -> str:
    """The processor that the networks ran on, in words."""
    import torch  # here, because it takes seconds and only the stamp needs it

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpu_info.read_text()) if cpu_info.exists() else []
    name = names[0].split(" CPU")[0].replace("(R)", "").replace("(TM)", "") if names else platform.machine()
    return f"CPU, {os.cpu_count()} cores ({name})"


def _data_fingerprint(run_folder: Path) -> str:
    about = run_folder / "dataset" / "dataset.json"
    return json.loads(about.read_text(encoding="utf-8")).get("fingerprint", "") if about.exists() else ""


def _places(cwd: Path, parameters: Mapping[str, Any]) -> dict[str, str]:
    """What a path of this machine is called in a file that others read."""
    places = {
        str(Path.home()): "~",
        tempfile.gettempdir(): "$TMPDIR",
        os.environ.get("LENSSTUDY_DATA", ""): "$LENSSTUDY_DATA",
        str(Path(__file__).parent.parent): ".",
        os.environ.get("LENSSTUDY_HOME", ""): ".",
        str(cwd): ".",
        sys.prefix: "$PYTHON",
    }
    for value in parameters.values():
        if isinstance(value, str) and Path(value).is_absolute() and value not in places:
            places[value] = f"…/{Path(value).name}"
    places |= {str(Path(place).resolve()): name for place, name in places.items() if place}
    return {place: name for place, name in places.items() if len(place) > 1}


def _without_places(text: str, places: Mapping[str, str]) -> str:
    for place in sorted(places, key=len, reverse=True):  # the innermost folder first
        text = re.sub(rf"(?<![\w./]){re.escape(place.rstrip('/'))}(?![\w.-])", lambda _, p=place: places[p], text)
    return text


# ---- a page of an executed notebook ----------------------------------------------------------------------------------


def render(
    executed: str | Path,
    html: str | Path,
    *,
    parameter_file: str | Path | None = None,
    committed: bool = False,
) -> None:
    """Make the page `html` of the notebook `executed`, which `execute` wrote.

    The page asks the network for nothing: mathematics becomes MathML, figures are inside, widgets are left out. Cells
    may carry the tags `hide-input`, `hide-output` and `interactive` (left out). The header shows the notebook's stamp;
    it links to `executed` and `parameter_file`, or, for a page that is `committed` and read without the run folder,
    to the notebook's source.
    """
    executed, html = Path(executed), Path(html)
    notebook = nbformat.read(executed, as_version=4)
    stamp = notebook.metadata.get("lensstudy")
    if stamp is None:
        raise ValueError(f"{executed}: carries no stamp of lensstudy; run it with lensstudy.report.execute")
    parameters = _parameter_rows(stamp["parameters"])
    body, title, contents = _page_body(_cells_to_show(notebook))
    source = Path("notebooks") / f"{stamp['notebook']}.ipynb" if committed else executed
    page = (
        _templates()
        .get_template("page.html.j2")
        .render(
            title=title or executed.stem,
            name=executed.stem,
            stamp=stamp,
            parameters=parameters,
            changed=[one for one in parameters if one["changed"]],
            seeds={name: value for name, value in stamp["parameters"].items() if "seed" in name},
            contents=contents,
            body=body,
            notebook_link=_link(source, html),
            notebook_kind="Notebook" if committed else "Executed notebook",
            parameter_link=_link(Path(parameter_file), html) if parameter_file else "",
        )
    )
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(page, encoding="utf-8")


def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = _as_text
    environment.filters["duration"] = _as_duration
    environment.filters["code_version"] = _as_code_version
    return environment


def _as_text(value: Any) -> str:
    """A value as a reader would write it: four digits where more mean nothing, lists without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(one)}" for name, one in value.items()) or "none"
    return "none" if value in (None, "") else str(value)


def _as_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def _as_code_version(code: Mapping[str, Any]) -> str:
    commit = f", commit {code['commit']}" if code["commit"] else ""
    return f"{code['version']}{commit}{', modified' if code['modified'] else ''}"


def _link(target: Path, page: Path) -> str:
    return Path(os.path.relpath(target.absolute(), page.absolute().parent)).as_posix()


def _parameter_rows(parameters: Mapping[str, Any]) -> list[dict]:
    """Name, value, default and meaning of each parameter, those that differ from the default first."""
    rows = []
    for name, value in parameters.items():
        if name not in ("study", "question") and (field := Study.model_fields.get(name)):
            row = {"name": name, "value": value, "default": field.default, "meaning": field.description}
            rows.append(row | {"changed": value != field.default})
    return sorted(rows, key=lambda row: not row["changed"])


def _cells_to_show(notebook: NotebookNode) -> NotebookNode:
    """The cells of the page: widgets and the two parameter cells are left out (the header has a table of them)."""
    left_out = ADDED_TAGS | {"interactive", "parameters"}
    shown = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    for cell in notebook.cells:
        if left_out & _tags(cell):
            continue
        if cell.cell_type == "code":
            hidden = "hide-output" in _tags(cell)
            cell.outputs = [] if hidden else [o for o in cell.outputs if not _is_widget(o)]
            if "hide-input" in _tags(cell) and not cell.outputs:
                continue
        shown.cells.append(cell)
    return shown


def _is_widget(output: NotebookNode) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


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
    except Exception:  # the converter knows most of LaTeX and raises many kinds of error on the rest
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
        super().__init__(template_name="cells", extra_template_basedirs=[str(TEMPLATES)], anchor_link_text="")
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
    contents, names = [], set()
    for heading in soup.find_all(["h1", "h2", "h3"]):
        text = heading.get_text().strip()
        name = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        while name in names:
            name += "-"
        names.add(name)
        heading["id"] = name
        contents.append({"name": name, "text": text, "level": int(heading.name[1])})
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
    """Leave the looks of a table to the page, and let a wide one scroll within its own box."""
    for name in ("border", "style"):
        del table[name]
    for style in table.find_previous_siblings("style"):
        if "scoped" in style.attrs:
            style.decompose()
    for row in table.find_all("tr"):
        del row["style"]
    box = soup.new_tag(
        "div", attrs={"class": "scroll", "role": "group", "tabindex": "0", "aria-label": f"Table {number}"}
    )
    table.wrap(box)
