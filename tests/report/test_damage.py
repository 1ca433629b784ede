"""A damaged file of one page or one study is named, and keeps no other page and no list from being written."""

import json

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.files import FileError
from lensstudy.report import index as report
from lensstudy.report.execution import Stamp, read_executed

STAMP = Stamp(notebook="01-explore-data", source="0" * 16, study="x", started="2026-01-02T03:04:05").model_dump()
DAMAGES = {
    "empty": b"",
    "cut": b'{"cells": [{"cell_type": "mark',
    "not UTF-8": b'{"cells": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"7",
    "deep": b"[" * 1_000_000,
    "deep and whole": b'{"a":' * 200 + b"1" + b"}" * 200,
    "of another kind": b'{"cells": 3, "metadata": []}',
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Two studies, each with an executed notebook and a summary."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    for name in ("first", "second"):
        for part in ("notebooks", "analysis", "logs", "dataset"):
            (tmp_path / "runs" / name / part).mkdir(parents=True)
        cells = [new_markdown_cell("# Data\n\nA page."), new_code_cell("1 + 1", execution_count=1)]
        executed = new_notebook(cells=cells, metadata={"lensstudy": STAMP | {"study": name}})
        nbformat.write(executed, tmp_path / "runs" / name / "notebooks" / "01-explore-data.ipynb")
        (tmp_path / "runs" / name / "analysis" / "summary.json").write_text(json.dumps({"answer": f"It is {name}."}))
    return tmp_path


def text_of(page):
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").get_text(" ", strip=True)


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_notebook_is_named_and_the_rest_is_written(home, content):
    executed = home / "runs" / "first" / "notebooks" / "01-explore-data.ipynb"
    executed.write_bytes(content)
    with pytest.raises(FileError, match=r"01-explore-data\.ipynb: "):
        read_executed(executed)
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 1 and "01-explore-data.ipynb" in done.output and "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)
    assert "It is second." in text_of(home / "reports" / "index.html")
    index = report.write_index(home / "runs" / "first", home / "reports" / "first")
    assert "01-explore-data" in text_of(index) and "run the study again" in text_of(index)


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_summary_is_named_and_the_rest_is_written(home, content):
    (home / "runs" / "first" / "analysis" / "summary.json").write_bytes(content)
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 0, done.output
    said = text_of(home / "reports" / "first" / "index.html")
    assert "summary.json" in said or content == DAMAGES["of another kind"]  # which has no field of ours at all
    assert "It is second." in text_of(home / "reports" / "index.html")


@pytest.mark.parametrize(
    "summary", [{"answer": 3}, {"table": {"a": 1}}, {"table": [1]}, {"figure": None}, {"limitations": ["a"]}]
)
def test_a_summary_of_other_types_is_named(home, summary):
    (home / "runs" / "first" / "analysis" / "summary.json").write_text(json.dumps(summary))
    assert "incomplete or altered" in text_of(report.write_index(home / "runs" / "first", home / "reports" / "first"))


@pytest.mark.parametrize(
    "stamp", [{"run_time_s": "long"}, {"run_time_s": float("nan")}, {"parameters": 3}, {"code": "new"}, {"started": 7}]
)
def test_a_stamp_of_other_types_is_named(home, stamp):
    executed = home / "runs" / "first" / "notebooks" / "01-explore-data.ipynb"
    content = json.loads(executed.read_text())
    content["metadata"]["lensstudy"] |= stamp
    executed.write_text(json.dumps(content))
    with pytest.raises(FileError, match=next(iter(stamp))):
        read_executed(executed)
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 1 and next(iter(stamp)) in done.output


def test_damaged_pictures_logs_graphs_and_pages_are_no_obstacle(home):
    run, reports = home / "runs" / "first", home / "reports"
    (run / "analysis" / "summary.json").write_text(json.dumps({"answer": "It is.", "figure": "headline.png"}))
    (run / "analysis" / "headline.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (run / "notebooks" / "02-build-models.failed.ipynb").write_bytes(b"")
    (run / "logs" / "02-build-models.log").write_bytes(b"\xff\xfe begin \x80")
    (run / "jobs.dot").write_bytes(b"\xff digraph")
    (run / "dataset" / "dataset.json").write_bytes(b"[")
    (reports / "third").mkdir(parents=True)
    (reports / "third" / "index.html").write_bytes(b"\xff\xfe<html>")
    (reports / "fourth" / "index.html").mkdir(parents=True)
    cell = new_code_cell("1", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": "bm8gcGljdHVyZQ=="})]
    page = run / "notebooks" / "01-explore-data.ipynb"
    nbformat.write(new_notebook(cells=[cell], metadata={"lensstudy": STAMP}), page)
    done = CliRunner().invoke(app, ["report"])
    assert done.exit_code == 0, done.output
    assert "begin" in text_of(reports / "first" / "index.html")
    assert report.may_be_published(run / "analysis" / "headline.png", []) is False
    assert (reports / "first" / "01-explore-data.html").exists()


def test_two_studies_of_which_one_is_damaged_are_not_compared(home):
    (home / "runs" / "first" / "notebooks" / "01-explore-data.ipynb").write_bytes(b"")
    done = CliRunner().invoke(app, ["compare", "first", "second"])
    assert done.exit_code == 1 and "first" in done.output and isinstance(done.exception, SystemExit)
