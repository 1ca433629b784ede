"""What people read of a study: the page on top of it, and the comparison of two.

Pages of single notebooks are made in `pages`. All contents come from files (executed notebooks with their stamps,
`analysis/summary.json`, logs), so that any page can be made again on its own; what is missing is said to be missing.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from markupsafe import Markup
from nbformat import NotebookNode
from PIL import Image

from lensstudy.files import FileError, read_json, validated
from lensstudy.report.body import NUMBER, may_show_images
from lensstudy.report.execution import NotebookFailed, execute, read_executed, source_hash, tags
from lensstudy.report.pages import (
    as_code_version,
    as_text,
    link,
    mark_outdated,
    parameter_rows,
    render,
    restyle,
    results,
    reworded,
    stale_pages,
    write_page,
)
from lensstudy.report.pictures import data_uri, webp
from lensstudy.report.summaries import in_plain_words, read_summary, summary_folder
from lensstudy.study import Study

__all__ = [
    "NotebookFailed",
    "compare",
    "execute",
    "render",
    "source_hash",
    "mark_outdated",
    "may_be_published",
    "read_executed",
    "restyle",
    "reworded",
    "stale_pages",
    "summary_folder",
    "write_index",
]


def write_index(
    run_folder: str | Path,
    report_folder: str | Path,
    *,
    committed: bool = False,
    study: Study | None = None,
    only: Sequence[str] | None = None,
) -> Path:
    """Write `index.html` into `report_folder` from what `run_folder` (`runs/<study>`) holds so far; returns its path.

    It has the answer and its figure, the table of runs, the pages, the jobs with what failed, and where all of it comes
    from. `committed` leaves out links into the run folder; `study` leaves out trainings that it does not have any more;
    `only` names the pages to list.
    """
    run, html = Path(run_folder), Path(report_folder) / "index.html"
    pages, failed = _pages(run, html, committed), _failures(run, html)
    if study:
        kept = {f"03-train-{network}-s{seed}" for network in study.networks for seed in study.seeds}
        pages, failed = (
            [one for one in group if one["name"] in kept or not one["name"].startswith("03-train")]
            for group in (pages, failed)
        )
    if only is not None:
        pages, failed = [one for one in pages if one["name"] in only], []
    stamps = [page["stamp"] for page in pages + failed if page["stamp"]]
    summary = read_summary(run)
    picture = summary_folder(run) / summary["figure"]
    parameter_file = run.parent.parent / "params" / f"{run.name}.yml"
    write_page(
        html,
        "index.html.j2",
        study=run.name,
        question=study.question if study else next((s["question"] for s in stamps if s["question"]), ""),
        summary=summary,
        plain=in_plain_words(summary),
        results=Markup(results(summary)) if summary["table"] else "",
        figure=_embedded(picture) if not committed or may_be_published(picture, stamps) else "",
        pages=pages,
        failed=failed,
        jobs=sorted((one for one in pages + failed if one["stamp"]), key=lambda one: one["stamp"]["started"]),
        graph=_job_graph(run / "jobs.dot"),
        parameters=parameter_rows(_merged_parameters(stamps)),
        credit=next((c for s in stamps if (c := s["parameters"].get("image_credit"))), ""),
        sources=_merged_sources(stamps),
        committed=committed,
        parameter_file=link(parameter_file, html) if parameter_file.exists() else "",
    )
    return html


def may_be_published(picture: Path, stamps: Sequence[Mapping]) -> bool:
    """Whether a picture of a study may stand on a committed page: where all of its images may, or the picture itself
    says that it shows none."""
    if stamps and all(stamp.get("redistributable", False) for stamp in stamps):
        return True
    if picture.suffix != ".png" or not picture.is_file():
        return False
    try:
        with Image.open(picture) as opened:
            return opened.info.get("ShowsImages") == "no"
    except (OSError, ValueError):  # damaged, so that nobody knows
        return False


def compare(run_a: str | Path, run_b: str | Path, html: str | Path) -> Path:
    """Write the page `html` that shows two studies (folders `runs/<study>`) side by side: their answers, the parameters
    in which they differ, and their results, with the difference where both are numbers; returns its path."""
    html = Path(html)
    studies: list[dict[str, Any]] = []
    for run in (Path(run_a), Path(run_b)):
        stamps = [page["stamp"] for page in _pages(run, html) if page["stamp"]]
        if not stamps:
            raise FileNotFoundError(
                f"{run}: holds no executed notebook; `lensstudy run params/{run.name}.yml` makes them"
            )
        summary = read_summary(run)
        figure = _embedded(summary_folder(run) / summary["figure"])
        studies.append({"name": run.name, "summary": summary, "figure": figure, "sources": _merged_sources(stamps)})
        studies[-1]["parameters"] = _merged_parameters(stamps)
    a, b = studies
    names = [name for name in Study.model_fields if name in a["parameters"] or name in b["parameters"]]
    rows = [(name, a["parameters"].get(name), b["parameters"].get(name)) for name in names if name != "study"]
    write_page(
        html,
        "compare.html.j2",
        studies=studies,
        parameters=[row for row in rows if row[1] != row[2]],
        equal=sum(row[1] == row[2] for row in rows),
        results=_matched(a["summary"]["table"], b["summary"]["table"]),
    )
    return html


def _pages(run: Path, html: Path, committed: bool = False) -> list[dict]:
    """The executed notebooks of a study in reading order: name, title, stamp, link to the page, and the
    first figure that may be shown."""
    pages = []
    for file in sorted((run / "notebooks").glob("*.ipynb")):
        if not file.name.endswith(".failed.ipynb"):
            try:
                notebook, stamp = read_executed(file)
            except FileError:  # which is told among the failures
                continue
            heading = re.search(
                r"^# (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.M
            )
            page = html.parent / f"{file.stem}.html"
            pages.append(
                {
                    "name": file.stem,
                    "title": heading[1] if heading else file.stem,
                    "stamp": stamp,
                    "link": page.name if page.exists() else "",
                    "thumbnail": _thumbnail(notebook, committed and not stamp.get("redistributable", False)),
                }
            )
    return pages


def _failures(run: Path, html: Path) -> list[dict]:
    """The notebooks that did not reach their end or are damaged, and jobs without one: where, why, end of log."""
    failed, ended = [], _ended(run)
    for file in sorted((run / "notebooks").glob("*.ipynb")):
        whole, stamp, wrong = not file.name.endswith(".failed.ipynb"), {}, ""
        try:
            stamp = read_executed(file)[1]
        except FileError as error:
            wrong = f"{error}; run the study again"
        if whole and not wrong:
            continue
        name = file.name.removesuffix(".ipynb").removesuffix(".failed")
        wrong = wrong if whole else ended.pop(name, "it was interrupted, or is still running")
        log = run / "logs" / f"{name}.log"
        failed.append(
            {
                "name": name,
                "stamp": stamp,
                "failure": stamp.get("failure") or {"cell": "", "error": wrong},
                "notebook": link(file, html),
                "log": link(log, html) if log.exists() else "",
                "end_of_log": log.read_text("utf-8", "replace").splitlines()[-25:] if log.is_file() else [],
            }
        )
    for name, reason in ended.items():  # what ended before a notebook was there, and trainings that have none
        if not (run / "notebooks" / f"{name}.ipynb").exists():
            nothing = {"stamp": {}, "notebook": "", "log": "", "end_of_log": []}
            failed.append({"name": name, "failure": {"cell": "", "error": reason}} | nothing)
    return failed


def _ended(run: Path) -> dict[str, str]:
    """Why the last run of a study lost jobs, by the names of their pages or trainings, as `running` wrote it down."""
    try:
        return validated(read_json(run / "failed.json"), dict[str, str], run / "failed.json")
    except (FileError, FileNotFoundError):
        return {}


def _embedded(picture: Path) -> str:
    kind = {".svg": "svg+xml", ".jpg": "jpeg"}.get(picture.suffix, picture.suffix[1:])
    try:
        return data_uri(picture.read_bytes(), kind) if picture.is_file() else ""
    except (OSError, ValueError):  # damaged
        return ""


def _thumbnail(notebook: NotebookNode, without_images: bool = False, width: int = 440) -> dict[str, str]:
    """The first figure of a notebook, small, with its alternative text; empty if it has none. A cell tagged
    `thumbnail` goes first; `without_images` passes over what may show images of the data."""
    for cell in sorted(notebook.cells, key=lambda cell: "thumbnail" not in tags(cell)):
        for output in cell.get("outputs", []):
            if without_images and may_show_images(output):
                continue
            data = output.get("data", {})
            image = BeautifulSoup(data.get("text/html", ""), "html.parser").find(
                "img", src=re.compile("^data:image/png")
            )
            png = str(image["src"]).partition(",")[2] if image else data.get("image/png")
            if png:
                try:
                    picture = Image.open(io.BytesIO(base64.b64decode(png)))
                    picture.thumbnail((width, width))
                    source = data_uri(webp(picture, quality=70), "webp")
                except (OSError, ValueError):  # damaged
                    continue
                return {"source": source, "alt": str(image.get("alt", "First figure")) if image else "First figure"}
    return {}


def _merged_parameters(stamps: list[Mapping]) -> dict[str, Any]:
    """The parameters of a study from the stamps of its notebooks; those of a single training are omitted."""
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
        "code": each(lambda stamp: as_code_version(stamp["code"])),
        "dates": sorted(each(lambda stamp: stamp["started"][:10])),
        "packages": each(lambda stamp: ", ".join(f"{name} {version}" for name, version in stamp["packages"].items())),
        "run_time_s": sum(stamp["run_time_s"] for stamp in stamps),
        "seeds": {k: v for k, v in _merged_parameters(stamps).items() if k in ("data_seed", "seeds")},
    }


def _job_graph(file: Path) -> dict[str, Any]:
    """Which rule needs which, laid out in layers, from what `snakemake --rulegraph` printed into `file`."""
    if not file.exists():
        return {}
    text = file.read_text("utf-8", "replace")
    names = {key: name for key, name in re.findall(r'(\d+)\[label = "(\w+)', text) if name != "all"}
    if not names:
        return {}
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
        return column == "seed" or not any(NUMBER.match(as_text(row.get(column))) for row in rows)

    keys = [column for column in columns if names_things(column)]
    values = [column for column in columns if column not in keys]
    tables = [{tuple(as_text(row.get(key)) for key in keys): row for row in table} for table in (a, b)]
    matched = []
    for key in dict.fromkeys([*tables[0], *tables[1]]):
        pairs = [tuple(table.get(key, {}).get(column) for table in tables) for column in values]
        matched.append({"key": key, "pairs": [(*pair, _difference(*pair)) for pair in pairs]})
    return {"keys": keys, "values": values, "rows": matched}


def _difference(a: Any, b: Any) -> str:
    found = [NUMBER.match(str(one)) for one in (a, b)]
    if not all(found):
        return ""
    first, second = (float(one[0].replace(",", "").replace("−", "-")) for one in found if one)
    return f"{second - first:+.3g}".replace("-", "−")
