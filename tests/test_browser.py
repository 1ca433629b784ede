"""The interactive parts of the notebooks in JupyterLab, moved by a browser as a reader moves them: code cells of the
notebooks themselves, with parameters that are quick."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import PIL.Image
import pytest

from tests.conftest import ROOT

LAPTOP = {"width": 1366, "height": 768}
NARROW = {"width": 1024, "height": 768}
PATIENCE = 120  # seconds: the first cell imports torch
QUICK = "Study.read('smoke', networks=['d4-steerable-cnn'], images_per_class=40, seeds=[1], shares=[100.0], epochs=1)"


def cells(notebook: str, *beginnings: str) -> list[str]:
    """The code cells of a notebook that begin like this, each once."""
    code = [cell.source for cell in nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells]
    found = [[one for one in code if one.startswith(beginning)] for beginning in beginnings]
    for beginning, ones in zip(beginnings, found, strict=True):
        assert len(ones) == 1, f"{len(ones)} cells of {notebook} begin with {beginning!r}"
    return [ones[0] for ones in found]


PARTS = {
    "rotate a lens": cells(
        "00-start-here", "from IPython", "lens_seed:", "predictors =", "study =", "widgets.rotate_lens"
    ),
    "browse images": [
        *cells("01-explore-data", "from IPython"),
        f"dataset = stages.dataset({QUICK})",
        *cells("01-explore-data", "widgets.browse_images"),
    ],
    "build a lens": cells("01-explore-data", "from IPython", "widgets.build_lens"),
    "rotate features": [
        *cells("02-build-models", "import numpy"),
        f"parameters = {QUICK}",
        *cells("02-build-models", "dataset =", "widgets.rotate_features"),
    ],
    "train": [
        *cells("03-train", "import numpy"),
        f"parameters = {QUICK}.model_copy(update={{'epochs': 500}})\ndataset = stages.dataset(parameters)",
        *cells("03-train", "folder ="),
        "losses = run.history['validation_loss']\n"
        "print(len(losses), run.metrics['best_epoch'], abs(run.metrics['validation_loss'] - losses.min()) < 1e-5)",
    ],
    "mistakes": [
        *cells("04-analyse", "from IPython"),
        f"parameters = {QUICK}",
        *cells("04-analyse", "trained =", "widgets.mistakes"),
    ],
    "explore predictions": [
        *cells("08-apply", "from IPython"),
        f"application = stages.application({QUICK})",
        *cells("08-apply", "widgets.explore"),
    ],
}


# Here and not at the top: a cell that begins otherwise by now is told where there is no browser, too.
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs a browser: `pip install playwright`, then `playwright install chromium`"
)


class Reader:
    """Somebody before JupyterLab, with a notebook of all `PARTS` open."""

    def __init__(self, page) -> None:
        self.page = page

    def begin(self, part: str) -> "Widget":
        """Run the cells of a part until it shows its widget."""
        first = sum(len(codes) for codes in list(PARTS.values())[: list(PARTS).index(part)])
        for index in range(first, first + len(PARTS[part])):
            self.run(index)
            output = self.cell(index).locator(".jp-OutputArea .jupyter-widgets:has(img)").first
            if "widgets." in PARTS[part][index - first]:
                output.wait_for(timeout=1000 * PATIENCE)
                output.scroll_into_view_if_needed()
                return Widget(self, output, index)
        raise AssertionError(f"no widget in {part}")

    def cell(self, index: int):
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def run(self, index: int) -> None:
        """Run a cell, and wait for it unless it shows something that moves meanwhile."""
        prompt = self.cell(index).locator(".jp-InputPrompt")
        for _ in range(10):  # the first keys are lost while JupyterLab is still at work
            self.cell(index).locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            self.page.wait_for_timeout(300)
            if prompt.inner_text().strip() != "[ ]:":
                break
        if "await" not in self.cell(index).inner_text():
            self.ends(index)

    def ends(self, index: int) -> str:
        """What a cell printed or showed, once it has run."""
        playwright.expect(self.cell(index).locator(".jp-InputPrompt")).to_have_text(
            re.compile(r"\[\d+\]:"), timeout=1000 * PATIENCE
        )
        shown = self.cell(index).locator(".jp-OutputArea")
        assert not shown.locator("[data-mime-type*=error]").count(), shown.inner_text()
        return shown.inner_text() if shown.count() else ""


class Widget:
    """A widget that `explorer` made, as a reader sees it."""

    def __init__(self, reader: Reader, place, index: int) -> None:
        self.reader, self.page, self.place, self.index = reader, reader.page, place, index

    def picture(self) -> np.ndarray:
        read = "async e => Array.from(new Uint8Array(await (await fetch(e.src)).arrayBuffer()))"
        data = bytes(self.place.locator("img").evaluate(read))
        return np.asarray(PIL.Image.open(io.BytesIO(data)).convert("L"), float)

    def text(self) -> str:
        return self.place.locator(".widget-html-content").last.inner_text()

    def control(self, label: str):
        return self.place.locator(".widget-inline-hbox", has_text=label).first

    def set(self, label: str, value: str) -> None:
        """Type a value beside a slider, or choose it from a list, and wait until the kernel is done."""
        control = self.control(label)
        if control.locator("select").count():
            control.locator("select").select_option(value)
        else:
            control.locator(".widget-readout").click()
            self.page.keyboard.press("Control+A")
            self.page.keyboard.type(value)
            self.page.keyboard.press("Enter")
        self.settle()

    def push(self, label: str, steps: int) -> None:
        """Move the handle of a slider with the arrow keys."""
        self.control(label).locator(".noUi-handle").focus()
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        self.settle()

    def settle(self) -> None:
        time.sleep(0.3)
        self.page.wait_for_function(
            "() => document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status === 'idle'",
            timeout=1000 * PATIENCE,
        )
        time.sleep(0.3)

    def assert_fits(self) -> None:
        """The whole widget is seen at once, in the part of a laptop's window that JupyterLab leaves to a notebook."""
        seen = self.page.locator(".jp-WindowedPanel-outer").first.bounding_box()
        box = self.place.bounding_box()
        assert box["height"] <= seen["height"] and box["width"] <= seen["width"], (box, seen)
        image = self.place.locator("img").bounding_box()
        assert image["x"] + image["width"] <= seen["x"] + seen["width"], (image, seen)

    def assert_not_squeezed(self) -> None:
        """What is drawn on the page has the shape of the picture that the kernel sent."""
        image = self.place.locator("img")
        image.scroll_into_view_if_needed()
        drawn = np.asarray(PIL.Image.open(io.BytesIO(image.screenshot())).convert("L")) < 240
        rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
        height, width = self.picture().shape
        assert np.ptp(columns) / np.ptp(rows) == pytest.approx(width / height, rel=0.05)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab as `make lab` starts it, with one notebook of all `PARTS`."""
    folder = tmp_path_factory.mktemp("lab")
    codes = [nbformat.v4.new_code_cell(code) for part in PARTS.values() for code in part]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=codes, metadata=about), folder / "parts.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "LENSSTUDY_HOME": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        **{f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "RUNTIME", "DATA")},
        **{f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")},
    }
    options = [f"--port={port}", "--no-browser", "--IdentityProvider.token=", "--ServerApp.allow_root=True"]
    settings = f"--LabApp.app_settings_dir={ROOT / 'workflow' / 'jupyterlab'}"
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options, settings, str(folder)],
            env={name: value for name, value in os.environ.items() if name != "LENSSTUDY_BATCH"} | own,
            stdout=log,
            stderr=log,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(5 * PATIENCE):
            assert server.poll() is None, (folder / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()  # and its kernels
        server.wait(30)


@pytest.fixture(scope="module")
def reader(lab) -> Iterator[Reader]:
    """A reader who has the notebook before him, its kernel ready."""
    own = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as starts:
        if not own and not Path(starts.chromium.executable_path).exists():
            pytest.skip("no Chromium: install one, or run `playwright install chromium`")
        browser = starts.chromium.launch(executable_path=own, args=["--no-sandbox"])
        page = browser.new_page(viewport=LAPTOP)
        page.goto(f"{lab}/lab/tree/parts.ipynb", wait_until="domcontentloaded")
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=1000 * PATIENCE)
        yield Reader(page)
        browser.close()


def probabilities(widget: Widget) -> dict[str, list[float]]:
    """What the bars below each title say."""
    tables = widget.place.locator("table").all()
    names = [table.evaluate("e => e.previousElementSibling.textContent") for table in tables]
    rows = [table.locator("td:last-child").all_inner_texts() for table in tables]
    return {name: [float(value) for value in values] for name, values in zip(names, rows, strict=True)}


def test_a_quarter_turn_leaves_one_network_still_and_moves_the_other(reader):
    widget = reader.begin("rotate a lens")
    widget.assert_fits()
    picture, before = widget.picture(), probabilities(widget)
    assert {name: len(values) for name, values in before.items()} == {"realistic-d4": 3, "realistic-plain": 3}
    widget.set("rotation", "180")
    after = probabilities(widget)
    assert np.abs(widget.picture() - picture).max() > 50
    assert after["realistic-d4"] == pytest.approx(before["realistic-d4"], abs=0.0011)
    assert np.abs(np.subtract(after["realistic-plain"], before["realistic-plain"])).max() > 0.01
    widget.push("rotation", 2)
    assert widget.control("rotation").locator(".widget-readout").inner_text() == "190"


def test_a_reader_leafs_through_the_classes(reader):
    widget = reader.begin("browse images")
    widget.assert_fits()
    first, said = widget.picture(), widget.text()
    assert "no_sub" in said
    widget.set("class", "axion")
    assert "axion" in widget.text() and "substructure [solar masses]" in widget.text()
    assert np.abs(widget.picture() - first).max() > 50
    second = widget.text()
    widget.push("image", 3)
    assert widget.text() != second


def test_a_vortex_without_mass_adds_nothing_to_a_lens(reader):
    widget = reader.begin("build a lens")
    widget.assert_fits()
    reader.page.set_viewport_size(NARROW)
    widget.assert_fits()
    reader.page.set_viewport_size(LAPTOP)
    picture, share = widget.picture(), float(re.search(r"([\d.]+)% of the peak", widget.text())[1])
    assert share > 1
    widget.control("vortex").locator(".noUi-handle").focus()
    reader.page.keyboard.press("Home")
    widget.settle()
    assert float(re.search(r"([\d.]+)% of the peak", widget.text())[1]) < share / 20
    assert np.abs(widget.picture() - picture).max() > 20


def test_features_come_back_when_the_lens_is_upright_again(reader):
    widget = reader.begin("rotate features")
    widget.assert_fits()
    upright = widget.picture()
    widget.set("rotation", "45")
    assert np.abs(widget.picture() - upright).max() > 50
    widget.set("rotation", "0")
    assert np.array_equal(widget.picture(), upright)
    reader.page.set_viewport_size(NARROW)
    widget.assert_fits()
    widget.assert_not_squeezed()
    reader.page.set_viewport_size(LAPTOP)


def test_curves_grow_and_the_button_stops_the_training_and_keeps_the_best(reader):
    widget = reader.begin("train")
    early = widget.picture()
    widget.assert_fits()
    deadline = time.monotonic() + PATIENCE
    while np.array_equal(widget.picture(), early):
        assert time.monotonic() < deadline, "the curves do not grow"
        time.sleep(0.3)
    widget.place.locator("button", has_text="Stop").click()
    reader.ends(widget.index)
    playwright.expect(widget.place.locator("button", has_text="Stop")).to_be_disabled()
    reader.run(widget.index + 1)
    epochs, kept, best = reader.ends(widget.index + 1).split()
    assert 2 <= int(epochs) < 500 and 1 <= int(kept) <= int(epochs) and best == "True"


def test_mistakes_are_gone_through_one_by_one(reader):
    widget = reader.begin("mistakes")
    widget.assert_fits()
    picture, said = widget.picture(), widget.text()
    number, most = map(int, re.search(r"mistake (\d+) of (\d+)", said).groups())
    assert number == 1 and most > 1 and "true: " in said
    shown = [float(value) for value in re.findall(r"(\d\.\d{3})$", said, re.MULTILINE)]
    assert sum(shown) == pytest.approx(1, abs=0.002)
    widget.push("mistake", 1)
    assert f"mistake 2 of {most}" in widget.text() and np.abs(widget.picture() - picture).max() > 20


def test_noise_takes_an_image_out_of_the_distribution(reader):
    widget = reader.begin("explore predictions")
    widget.assert_fits()
    picture, said = widget.picture(), widget.text()
    assert all(name in said for name in ("no_sub", "cdm", "axion", "OOD score"))
    widget.set("noise", "0.5")
    assert "out of distribution" in widget.text() and widget.text() != said
    assert np.abs(widget.picture() - picture).max() > 20
