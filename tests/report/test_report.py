"""Notebooks run in batch and become pages: what is kept, what is stamped, what a reader gets to see."""

import base64
import io
import json
import re
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import mistune
import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from lensstudy import provenance
from lensstudy.figures import style
from lensstudy.files import FileError, read_json
from lensstudy.report import execution, listing, pages, summaries, words
from lensstudy.report import index as report
from lensstudy.report.execution import NotebookFailed, execute, source_hash
from lensstudy.study import ParameterError, Study

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = (
    'study: str = "smoke"  # name\nseed: int = 1  # seed\ndata_path: str = ""  # folder\nepochs: int = 2  # passes'
)
PROSE = r"""# A page of everything

**Question.** Does it render?

**After this notebook you can**

- say what it does.

> **Try it.** Set `seed = 2`.

The equivariance of a steerable convolution: what equivariance is, `equivariance` does not say.

## The lens equation

Inline $\beta = \theta - \alpha(\theta)$ and set apart:

$$\kappa = \frac{\Sigma}{\Sigma_\mathrm{cr}}$$

\begin{equation}\psi = x^2\end{equation}

Some `code with $x$`.

## The lens equation
"""
FIGURE = """import base64, io
from IPython.display import HTML, display
from PIL import Image
buffer = io.BytesIO()
Image.new("RGB", (600, 300), "navy").save(buffer, "png")
picture = base64.b64encode(buffer.getvalue()).decode()
for name in ("first", "second"):
    display(HTML(f'<figure class="lensstudy-figure"><img alt="{name} figure" src="data:image/png;base64,{picture}">'
                 f'<figcaption>The {name} one, with $\\\\theta_E$.</figcaption></figure>'))"""


def markdown(text: str) -> str:
    return mistune.create_markdown(escape=False, plugins=["table"])(text)


def notebook(file: Path, *cells) -> Path:
    """A notebook with a `parameters` cell and these cells, strings being code."""
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    cells = [new_code_cell("import sys"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *cells]
    nbformat.write(new_notebook(cells=cells), file)
    return file


def tagged(source: str, tag: str):
    return new_code_cell(source, metadata={"tags": [tag]})


def run(source: Path, home: Path, study: str = "smoke", name: str = "", timeout_s: int = 60, **parameters) -> Path:
    output = home / "runs" / study / "notebooks" / f"{name or source.stem}.ipynb"
    log = home / "runs" / study / "logs" / f"{name or source.stem}.log"
    parameters = {"study": study, "question": "Does a test reach everything?"} | parameters
    execute(source, output, parameters, log=log, timeout_s=timeout_s, cwd=home)
    return output


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with one study that ran: two notebooks, a data set, a summary; and one notebook that failed."""
    home = tmp_path_factory.mktemp("home")
    dataset, analysis = home / "runs/smoke/dataset", home / "runs/smoke/analysis"
    dataset.mkdir(parents=True)
    analysis.mkdir()
    (dataset / "dataset.json").write_text(
        json.dumps({"classes": ["a", "b"], "fingerprint": "0123456789abcdef", "description": {}})
    )
    Image.new("RGB", (300, 200), "white").save(analysis / "headline.png")
    summary = {
        "answer": "d4 is ahead.",
        "figure": "headline.png",
        "figure_alt": "d4 above resnet18",
        "figure_caption": "Test AUC.",
        "table": [
            {"network": "d4", "AUC": "0.9990 [0.9980, 0.9995]", "parameters": 17000},
            {"network": "resnet18", "AUC": "0.9800 [0.9700, 0.9900]", "parameters": 11000000},
            {"network": "(total flux)", "AUC": "0.5 [0.4, 0.6]", "parameters": ""},
        ],
        "limitations": "Few images.",
    }
    (analysis / "summary.json").write_text(json.dumps(summary))
    page = notebook(
        home / "01-everything.ipynb",
        new_markdown_cell(PROSE),
        FIGURE,
        "import pandas as pd\npd.DataFrame({'name': ['a', 'b'], 'value': [1.5, -2.0], 'p': ['0.02', '< 0.001']})",
        "print('seed', seed, 'at', data_path, 'in', sys.prefix)",
        tagged("hidden_input = 'secret source'; print('output stays')", "hide-input"),
        tagged("print('secret output')", "hide-output"),
        tagged("import ipywidgets\nipywidgets.IntSlider(description='a slider')", "interactive"),
        "ipywidgets.IntSlider(description='another slider')",
        "from IPython.display import Markdown\nMarkdown(f'Found **{seed}** at $x^{seed}$.')",
    )
    for name in ("01-everything", "03-again-s7"):
        run(page, home, name=name, seed=7, data_path="/data/of/somebody/lenses.tgz", epochs=3)
    with pytest.raises(NotebookFailed):
        run(notebook(home / "04-broken.ipynb", "x = 1 / 0", "print('never')"), home)
    return home


@pytest.fixture(scope="module")
def page(home) -> BeautifulSoup:
    html = home / "reports/smoke/01-everything.html"
    report.render(home / "runs/smoke/notebooks/01-everything.ipynb", html, parameter_file=home / "params/smoke.yml")
    return BeautifulSoup(html.read_text(encoding="utf-8"), "html.parser")


# ---- running ---------------------------------------------------------------------------------------------------------


def test_an_executed_notebook_is_stamped(home):
    executed = home / "runs/smoke/notebooks/01-everything.ipynb"
    stamp = nbformat.read(executed, as_version=4).metadata["lensstudy"]
    assert stamp["source"] == source_hash(home / "01-everything.ipynb") == source_hash(executed)
    assert stamp["parameters"] == {"study": "smoke", "seed": 7, "data_path": "…/lenses.tgz", "epochs": 3}
    assert stamp["data"] == "0123456789abcdef"
    assert stamp["packages"]["e2cnn"] == "0.2.3"
    assert {"code", "device", "started", "run_time_s", "question"} <= stamp.keys()
    assert not executed.with_suffix(".failed.ipynb").exists()


def test_no_place_of_this_machine_stays_in_what_others_read(home, page):
    files = [home / "runs/smoke/notebooks/01-everything.ipynb", home / "runs/smoke/logs/01-everything.log"]
    for text in [file.read_text(encoding="utf-8") for file in files] + [str(page)]:
        for place in (str(home), str(Path.home()) + "/", str(ROOT), "/data/of/somebody"):
            assert place not in text
    assert "at …/lenses.tgz in $PYTHON" in files[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "source, message",
    [
        ("x = 1\n1 / 0", r"\(x = 1\): ZeroDivisionError: division by zero"),
        ("import os; os._exit(0)", r"\(import os; os._exit\(0\)\): DeadKernelError"),
        ("import sys; sys.exit(0)", r"\(import sys; sys.exit\(0\)\): SystemExit"),
        ("import time; time.sleep(30)", r"\(import time; time.sleep\(30\)\): CellTimeoutError.* 2 seconds"),
    ],
    ids=["error", "dead kernel", "exit", "timeout"],
)
def test_a_notebook_that_stops_is_kept_aside_and_named(tmp_path, source, message):
    output = tmp_path / "runs/smoke/notebooks/broken.ipynb"
    output.parent.mkdir(parents=True)
    output.write_text("of an older run")
    with pytest.raises(NotebookFailed, match=r"broken.ipynb failed in cell \[4\] " + message) as failed:
        run(notebook(tmp_path / "broken.ipynb", source, "print('never')"), tmp_path, seed=2, timeout_s=2)
    assert not output.exists()
    assert str(output.with_suffix(".failed.ipynb")) in str(failed.value)
    assert str(tmp_path / "runs/smoke/logs/broken.log") in str(failed.value)
    assert output.with_suffix(".failed.ipynb").exists()
    assert (tmp_path / "runs/smoke/logs/broken.log").stat().st_size > 0


def test_a_parameter_that_no_study_has_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ParameterError, match="no study has a parameter epoch$"):
        run(notebook(tmp_path / "a.ipynb"), tmp_path, epoch=3)
    assert not (tmp_path / "runs").exists()


def test_the_hash_follows_the_code_alone(tmp_path):
    def changed(change) -> str:
        file = notebook(tmp_path / "a.ipynb", "print(1)")
        document = nbformat.read(file, as_version=4)
        change(document.cells[-1])
        return source_hash(document)

    def run_it(cell):
        cell.execution_count, cell.outputs = 3, [nbformat.v4.new_output("stream", text="1")]

    same = changed(lambda cell: None)
    assert changed(run_it) == same
    document = nbformat.read(notebook(tmp_path / "a.ipynb", "print(1)"), as_version=4)
    document.cells.append(nbformat.v4.new_markdown_cell("Words."))
    assert source_hash(document) == same
    assert changed(lambda cell: cell.update(source="print(2)")) != same
    assert changed(lambda cell: cell.metadata.update(tags=["hide-input"])) != same


def test_a_parameter_file_of_ones_own_is_no_change_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "lensstudy")
    for name in ("lensstudy/report/execution.py", "notebooks/01-explore-data.ipynb", "workflow/Snakefile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed")
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for said in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", tmp_path, *said], check=True)
    (tmp_path / "params").mkdir()
    (tmp_path / "params/mine.yml").write_text("epochs: 3")
    found = provenance.code_version()
    assert found["commit"] and not found["modified"]
    (tmp_path / "lensstudy/networks.py").write_text("mine")
    assert provenance.code_version()["modified"]


# ---- a page ----------------------------------------------------------------------------------------------------------


def test_a_page_asks_the_network_for_nothing(page):
    for element in page.find_all(src=True):
        assert element["src"].startswith("data:")
    assert not page.find_all("script", src=True)
    assert [link["href"] for link in page.find_all("link")] == ["data:,"]
    assert "url(" not in page.style.string and "@import" not in page.style.string
    assert "widget-" not in str(page)


def test_mathematics_becomes_mathml(page):
    formulas = {math["alttext"]: math for math in page.find_all("math")}
    assert r"\kappa = \frac{\Sigma}{\Sigma_\mathrm{cr}}" in formulas
    assert formulas[r"\kappa = \frac{\Sigma}{\Sigma_\mathrm{cr}}"]["display"] == "block"
    assert formulas[r"\beta = \theta - \alpha(\theta)"].find("mi").string == "β"
    assert r"\begin{equation}\psi = x^2\end{equation}" in formulas
    assert "x^7" in formulas, "mathematics in Markdown that a cell displays"
    assert r"\theta_E" in formulas, "mathematics in a caption"
    assert "Some code with $x$." in page.get_text()


def test_figures_are_numbered_and_described(page):
    figures = page.find_all("figure")
    assert [figure.find("b").string for figure in figures] == ["Figure 1", "Figure 2"]
    assert [figure.img["alt"] for figure in figures] == ["first figure", "second figure"]
    assert [figure["id"] for figure in figures] == ["figure-1", "figure-2"]
    boxes = [figure.img.parent for figure in figures]
    assert [box["aria-label"] for box in boxes] == ["Figure 1", "Figure 2"], "enlarged on a phone, each scrolls alone"
    assert all({"scroll", "drawing"} == set(box["class"]) and box["tabindex"] == "0" for box in boxes)
    picture = Image.open(io.BytesIO(base64.b64decode(figures[0].img["src"].partition(",")[2])))
    assert picture.size == (600, 300) and picture.getcolors() == [(600 * 300, (0, 0, 128))], "not a pixel changed"


def test_contents_list_the_headings(page):
    assert page.h1.string == "A page of everything"
    links = [link["href"][1:] for link in page.select("nav.contents a")]
    assert len(links) == len(set(links)) == 4
    ends = ["Words", "Where this comes from"]
    assert [page.find(id=link).get_text() for link in links] == ["The lens equation"] * 2 + ends


def test_tags_are_honoured(page):
    text = page.find("main").get_text()
    assert "output stays" in text and "secret source" not in text
    assert "secret output'" in text, "the code of hide-output stays"
    assert "Try it" in page.select_one(".try").get_text() and page.select(".code"), "hidden until asked for"
    assert not any("secret output" in pre.get_text() for pre in page.select("pre.printed"))
    assert "a slider" not in text
    assert "another slider" in text and "IntSlider(value" not in text, "a widget leaves its code only"


def test_a_page_begins_with_its_question_and_ends_with_where_it_comes_from(page):
    head = page.find("header").get_text(" ", strip=True)
    assert head == "A page of everything Does it render?", "and no figures of its provenance"
    text = page.main.get_text(" ", strip=True)
    assert "Question." not in text and "say what it does" not in text, (
        "what one can do after a notebook is for its user"
    )
    foot = page.select_one("section.source")
    assert foot.find_next_sibling() is None
    said = foot.get_text(" ", strip=True)
    for part in ("smoke", "0123456789abcdef", "seed 7", "commit", "e2cnn 0.2.3"):
        assert part in said or (part == "commit" and not (ROOT / ".git").exists())
    changed = page.select_one("p.changes").get_text(" ", strip=True)
    assert "seed 7" in changed.replace("\xa0", " ") and "…/lenses.tgz" in changed
    assert Study.model_fields["epochs"].description in said
    links = [link["href"] for link in foot.find_all("a")]
    assert links == ["../../runs/smoke/notebooks/01-everything.ipynb", "../../params/smoke.yml"]


def test_tables_scroll_in_their_own_box_and_numbers_stand_to_the_right(page):
    table = page.select_one("main table.dataframe")
    assert table.parent["class"] == ["scroll"] and table.parent["tabindex"] == "0"
    values = {cell.get_text(): cell.get("class") for cell in table.select("tbody td")}
    number = ["number"]
    assert values == {"a": None, "b": None, "1.5": number, "-2.0": number, "0.02": number, "< 0.001": number}
    heads = {cell.get_text(): cell.get("class") for cell in table.select("thead th")}
    assert heads == {"name": None, "value": number, "p": number}
    assert not page.select("main style")


def test_code_without_output_between_shares_one_fold(page):
    folds = [fold.get_text() for fold in page.select("main div.code")]
    assert sum("hide-output" in fold or "secret output" in fold for fold in folds) == 1
    shared = next(fold for fold in folds if "secret output" in fold)
    assert "another slider" in shared
    assert not any("import pandas" in fold and "print('seed'" in fold for fold in folds), "a table lies between"


def test_a_page_needs_a_stamp(tmp_path):
    with pytest.raises(ValueError, match="no stamp of lensstudy; run it with lensstudy.report.execution.execute"):
        report.render(notebook(tmp_path / "a.ipynb"), tmp_path / "a.html")


def test_stale_pages_are_found(home, page, tmp_path):
    folder, notebooks = home / "reports/smoke", tmp_path
    fresh = nbformat.read(home / "01-everything.ipynb", as_version=4)
    nbformat.write(fresh, notebooks / "01-everything.ipynb")
    assert report.stale_pages(folder, notebooks) == []
    fresh.cells[-1].source += "  # changed"
    nbformat.write(fresh, notebooks / "01-everything.ipynb")
    assert report.stale_pages(folder, notebooks) == [folder / "01-everything.html"]
    (notebooks / "01-everything.ipynb").unlink()
    assert report.stale_pages(folder, notebooks) == [folder / "01-everything.html"]


DRAWS = """import matplotlib.pyplot as plt
from lensstudy.figures import style

def drawn_under_any_name(image):
    figure, axes = plt.subplots()
    axes.imshow(image) if image else axes.plot([0, 1])
    return figure

style.show(drawn_under_any_name([[0, 1], [1, 0]]), "Pixels of an image.", "pixels")
style.show(drawn_under_any_name(None), "A line.", "line")"""


CREDITED = {"observations_path": "somebody/lenses", "image_credit": "Survey & archive"}


@pytest.mark.parametrize(
    ("about", "given", "shown"),
    [
        ({"source": "simulated"}, {}, True),
        ({"source": "lenses.tgz"}, {}, False),
        ({"source": "lenses.tgz", "redistributable": True}, {}, True),
        ({"source": "simulated", "redistributable": False}, {}, False),
        ({"source": "simulated"}, {"observations_path": "somebody/lenses"}, False),
        (None, CREDITED, True),
        (None, {}, False),
    ],
)
def test_images_may_be_published_only_where_the_data_allow_it(tmp_path, about, given, shown):
    describe(tmp_path, about)
    assert execution._redistributable(tmp_path / "runs/smoke", given) == shown


def describe(home, about) -> None:
    """What the data set of the study in `home` says of itself; None: there is none."""
    if about is not None:
        folder = home / "runs" / "smoke" / "dataset"
        folder.mkdir(parents=True)
        content = {"classes": ["a", "b"], "fingerprint": "f", "description": about}
        (folder / "dataset.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("about", "given", "shown"), [({"source": "simulated"}, {}, True), (None, CREDITED, True), (None, {}, False)]
)
def test_a_page_shows_the_images_that_may_be_published(tmp_path, about, given, shown):
    """The mark belongs to the figure and to the data: no name of a function and no parameter decides, and where
    nothing is said nothing is shown."""
    source = notebook(tmp_path / "drawing.ipynb", new_markdown_cell("# Drawn"), DRAWS, FIGURE)
    describe(tmp_path, about)
    executed = run(source, tmp_path, **given)
    for committed in (True, False):
        pages.render(executed, tmp_path / "page.html", committed=committed)
        captions = BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser").find_all("figcaption")
        texts = [caption.get_text() for caption in captions]
        assert any("A line" in text for text in texts)
        assert any("Pixels" in text for text in texts) == (shown or not committed)
        assert any("The first one" in text for text in texts) == (shown or not committed)  # a picture without a mark
        index = report.write_index(executed.parent.parent, tmp_path / "reports", committed=committed).read_text()
        thumbnail = BeautifulSoup(index, "html.parser").select_one(".thumbnail img")["alt"]
        assert thumbnail == ("pixels" if shown or not committed else "line")
        for page in ((tmp_path / "page.html").read_text(), index):
            assert ("Survey &amp; archive</dd>" in page) == ("image_credit" in given)


HOSTILE = """import pandas as pd
import matplotlib.pyplot as plt
from IPython.display import Latex
from lensstudy.figures import style
bad = "<script>alert(1)</script>"
display(pd.DataFrame({bad: [bad]}), pd.DataFrame({bad: [bad]}).style.format(escape="html"))
style.show(plt.figure(), f"{bad} $x$ ${bad}$", f'" onload="alert(1)" {bad}')
print(bad)
Latex(bad)"""


def test_text_from_outside_is_text_on_a_page(tmp_path):
    """Names of files, classes and studies may hold anything; none of it becomes an element of a page."""
    executed = run(notebook(tmp_path / "hostile.ipynb", new_markdown_cell("# Hostile"), HOSTILE), tmp_path)
    content = nbformat.read(executed, as_version=4)
    bad = "<script>alert(1)</script>"
    content.metadata["lensstudy"]["parameters"] |= {"data_path": bad, "question": bad}
    content.metadata["lensstudy"]["data"] = bad
    nbformat.write(content, executed)
    report.render(executed, tmp_path / "page.html", parameter_file=tmp_path / f"{bad[:8]}.yml")
    index = report.write_index(executed.parent.parent, tmp_path / "reports")
    for page in (tmp_path / "page.html", index):
        soup = BeautifulSoup(page.read_text(), "html.parser")
        assert not [one for one in soup.find_all("script") if "alert(" in one.get_text()]
        assert not soup.select("[onload]")
        assert "<script>alert(1)" in soup.get_text() + str([one.attrs for one in soup.find_all()])


ATTACKS = [
    "<!--><img src=x onerror=alert(1)>-->",
    "<svg><a><animate attributeName='href' values='javascript:alert(1)'></animate><text>x</text></a></svg>",
    "<style>@import url(http://far/away.css)</style>",
    "<img src='http://far/away.png' srcset='http://far/away.png 2x'>",
    "<a href=' java\nscript:alert(1)'>x</a>",
    "<IFRAME SRC='javascript:alert(1)'></IFRAME>",
    "<figure><figcaption>$\\href{javascript:alert(1)}{x}$</figcaption></figure>",
    "<p style='background:url(http://far/away.png)' onmouseover='alert(1)'>x</p>",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_cell_acts_or_asks_the_network(tmp_path, attack):
    shown = f"from IPython.display import HTML, display\ndisplay(HTML({attack!r}))"
    executed = run(notebook(tmp_path / "hostile.ipynb", new_markdown_cell("# Hostile"), shown), tmp_path)
    pages.render(executed, tmp_path / "page.html")
    soup = BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser")
    for element in soup.find("main").find_all(True):
        attributes = {name.lower(): str(value).lower() for name, value in element.attrs.items()}
        assert not [name for name in attributes if name.startswith("on")], element
        addresses = [value for name, value in attributes.items() if name not in ("alt", "alttext", "title")]
        assert not [value for value in addresses if re.search(r"script:|http://far", value)], element
        assert element.name not in ("iframe", "animate", "script")
    assert "<img src=x" not in (tmp_path / "page.html").read_text()
    assert not [style for style in soup.find_all("style") if "far" in style.get_text()]


@pytest.mark.parametrize(
    "drawn", ["imshow", "pcolormesh", "contourf", "figimage", "inset", "annotation", "plot", "chart"]
)
def test_a_picture_says_itself_whether_it_shows_images(tmp_path, drawn):
    """Without a word from the data, a headline is published only where it has said that it shows no pixels."""
    figure, axes = plt.subplots()
    pixels = np.eye(4)
    if drawn == "chart":
        axes.set_gid(style.CHART)
        axes.imshow(pixels)
    elif drawn == "inset":
        axes.set_gid(style.CHART)
        axes.inset_axes([0, 0, 0.5, 0.5]).imshow(pixels)
    elif drawn == "annotation":
        axes.add_artist(AnnotationBbox(OffsetImage(pixels), (0.5, 0.5)))
    elif drawn == "figimage":
        figure.figimage(pixels)
    else:
        getattr(axes, drawn)(pixels)
    picture = tmp_path / "headline.png"
    picture.write_bytes(style.png(figure))
    plt.close(figure)
    assert report.may_be_published(picture, [{}]) == (drawn in ("plot", "chart"))
    assert report.may_be_published(picture, [{"redistributable": True}])
    Image.new("RGB", (4, 4)).save(picture)
    assert not report.may_be_published(picture, [{}, {"redistributable": True}])


def test_a_page_of_an_older_notebook_says_so():
    """Each committed page is of the notebook as it is, or tells its reader at the top that it is not."""
    folder = ROOT / "reports/reference"
    stale = set(report.stale_pages(folder, ROOT / "notebooks"))
    for page in folder.rglob("*.html"):
        assert pages.is_marked(page) == (page in stale), f"{page}: say lensstudy report --mark-outdated"


def test_a_committed_page_takes_the_style_of_today_and_keeps_the_rest(tmp_path):
    page = tmp_path / "study/index.html"
    page.parent.mkdir()
    page.write_text("<head><style>\np { color: red }\n</style></head><p>0.9</p><style>b { color: red }</style>")
    assert pages.restyle(tmp_path) == [page] and pages.restyle(tmp_path) == []
    style = (pages.TEMPLATES / "style.css").read_text(encoding="utf-8").rstrip()
    assert page.read_text() == f"<head><style>\n{style}</style></head><p>0.9</p><style>b {{ color: red }}</style>"


def test_a_committed_study_says_what_is_read_off_its_summary_today(tmp_path):
    """On every page of it, in head and text, and a study without a summary stays as it is."""
    old = "a&#39;s 5 &lt; 6."
    for name in ("study", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(
            f'<meta name="lensstudy-plain" content="{old}"><style></style><p class="answer">{old}</p>'
        )
    (tmp_path / "study/04-analyse.html").write_text(f'<p class="answer">{old}</p><p>{old} And more.</p>')
    (tmp_path / "study/summary.json").write_text(json.dumps({"answer": "One.", "plain": "Now & then."}))
    changed = [tmp_path / "study/04-analyse.html", tmp_path / "study/index.html"]
    assert pages.reworded(tmp_path) == changed and pages.reworded(tmp_path) == []
    assert changed[0].read_text() == f'<p class="answer">Now &amp; then.</p><p>{old} And more.</p>'
    assert changed[1].read_text().count("Now &amp; then.") == 2
    assert (tmp_path / "other/index.html").read_text().count(old) == 2


def test_a_committed_study_takes_its_question_answer_and_table_from_where_they_are_written(tmp_path):
    """On its first page; a page of a notebook keeps what the notebook printed."""
    study, params = tmp_path / "study", tmp_path / "params"
    study.mkdir(), params.mkdir()
    old = {"question": "Who?", "plain": "Old.", "answer": "Old, at length."}
    head = "".join(f'<meta name="lensstudy-{name}" content="{said}">' for name, said in old.items())
    body = '<h1>Who?</h1><p>Old, at length.</p><section aria-labelledby="results">\n9\n</section>\n<p>Kept.</p>'
    body = f'{body}<h2 id="limitations">Limitations</h2>\n<p>Few.</p>\n<p>Kept.</p>'
    (study / "index.html").write_text(f"{head}<style></style>{body}")
    (study / "07-page.html").write_text('<p class="question">Who?</p><p>Old, at length.</p>')
    said = {"plain": "New.", "answer": "New, at length.", "table": [{"image": "a", "mass": "3.1 [1.7, no limit]"}]}
    said["limitations"] = r"Many, < 3 and \1."
    (study / "summary.json").write_text(json.dumps(said))
    (params / "study.yml").write_text("study: study\nquestion: What?\n")
    assert len(pages.reworded(tmp_path, params)) == 2 and pages.reworded(tmp_path, params) == []
    page = (study / "index.html").read_text()
    assert pages.about(study / "index.html") == {"question": "What?", "plain": "New.", "answer": "New, at length."}
    assert "<h1>What?</h1><p>New, at length.</p>" in page and "</section>\n<p>Kept.</p>" in page
    assert page.endswith("Limitations</h2>\n<p>Many, &lt; 3 and \\1.</p>\n<p>Kept.</p>")
    assert "3.1 [1.7, no limit]</td>" in page and "\n9\n" not in page
    assert (study / "07-page.html").read_text() == '<p class="question">What?</p><p>Old, at length.</p>'


def test_words_of_a_first_page_lead_to_their_meaning_also_when_it_is_reworded(tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "summary.json").write_text(json.dumps({"answer": "An AUC of 1.", "plain": "The AUC is 1."}))
    page = tmp_path / "study/index.html"
    old = "An AUC of one lens&#39;s subhalo."
    text = (
        f'<meta name="lensstudy-plain" content="Old."><meta name="lensstudy-answer" content="{old}"><style></style>'
        f'<section aria-labelledby="answer"><p class="answer">Old.</p><p>{old}</p></section>'
        '<li><a href="#sources">Sources</a></li><section aria-labelledby="sources"></section>'
    )
    page.write_text(pages.explained(text))
    soup = BeautifulSoup(page.read_text(), "html.parser")
    assert [one["href"] for one in soup.select("p a.word")] == ["#word-auc", "#word-subhalo"]
    assert soup.find(id="word-subhalo") and soup.find("a", href="#words") and not soup.select(".answer a")
    assert pages.without_words(page.read_text()) == text
    assert pages.reworded(tmp_path) == [page] and pages.reworded(tmp_path) == []
    soup = BeautifulSoup(page.read_text(), "html.parser")
    assert soup.find_all("p")[1].get_text() == "An AUC of 1." and not soup.find(id="word-subhalo")
    assert len(soup.find_all("section", class_="words")) == 1


def test_committed_pages_say_what_is_read_off_their_summaries():
    for file in (ROOT / "reports/reference").glob("*/summary.json"):
        said = pages.about(file.parent / "index.html")["plain"]
        assert said == summaries.in_plain_words(read_json(file, summaries.Summary).model_dump()), file


def test_committed_pages_say_nothing_about_a_machine():
    for page in (ROOT / "reports/reference").rglob("*.html"):
        text = re.sub(r"base64,[\w+/=]+", "", page.read_text(encoding="utf-8"))
        found = re.search(r"""(?<![\w.…$~])/(home|root|Users|work|tmp|data|scratch|opt|usr|mnt)/[^\s"'<]*""", text)
        assert not found, f"{page}: holds the path {found[0]}"


# ---- a study, and two ------------------------------------------------------------------------------------------------


def test_the_index_shows_the_answer_the_pages_and_what_failed(home, page):
    index = report.write_index(home / "runs/smoke", home / "reports/smoke")
    soup = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser")
    assert soup.select_one("p.answer").string == "d4 is ahead."
    assert soup.figure.img["alt"] == "d4 above resnet18" and soup.figure.b.string == "Figure 1"
    assert soup.find("meta", attrs={"name": "lensstudy-plain"})["content"] == "d4 is ahead."
    rows = [[cell.get_text() for cell in row.find_all("td")] for row in soup.select("#results ~ div tbody tr")]
    assert rows[:2] == [["d4", "0.9990 [0.9980, 0.9995]", "17000"], ["resnet18", "0.9800 [0.9700, 0.9900]", "11000000"]]
    assert rows[2] == ["(total flux)", "0.5 [0.4, 0.6]", "–"], "what does not apply is no value"
    numbers = [cell.get_text() for cell in soup.select("#results ~ div tbody td.number")]
    assert numbers == [cell for row in rows for cell in row[1:]]
    cards = {card.find_all("span")[-1].string: card for card in soup.select(".cards li")}
    assert cards["01-everything"].a["href"] == "01-everything.html"
    assert "03-again-s7, not rendered" in cards
    thumbnail = cards["01-everything"].img
    assert thumbnail["alt"] == "first figure"
    small = Image.open(io.BytesIO(base64.b64decode(thumbnail["src"].partition(",")[2])))
    assert small.width <= 440 and small.size[0] == 2 * small.size[1]
    failed = soup.select_one("section.failed").get_text(" ", strip=True)
    assert "04-broken in cell [4] (x = 1 / 0): ZeroDivisionError: division by zero" in failed
    assert len(soup.select("#jobs ~ details tbody tr")) == 3
    for link in soup.select("main a"):
        target = link["href"]
        assert target.startswith("#") or (index.parent / target).exists(), target


def test_the_index_of_a_study_that_has_not_run_says_so(tmp_path):
    index = report.write_index(tmp_path / "runs/empty", tmp_path / "reports/empty")
    text = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser").main.get_text()
    assert "No answer yet" in text and "no notebook of this study has run" in text


def test_a_notebook_that_was_cut_off_is_said_to_be(tmp_path):
    folder = tmp_path / "runs/cut/notebooks"
    folder.mkdir(parents=True)
    (folder / "01-explore-data.failed.ipynb").write_text('{"cells": [')
    index = report.write_index(tmp_path / "runs/cut", tmp_path / "reports/cut")
    failed = BeautifulSoup(index.read_text(encoding="utf-8"), "html.parser").select_one("section.failed").get_text()
    assert "01-explore-data" in failed and "interrupted" in failed


def test_the_graph_of_jobs_runs_from_left_to_right(home):
    dot = 'digraph {0[label = "all", c]\n1[label = "analyse", c]\n2[label = "train", c]\n3[label = "explore", c]\n'
    (home / "runs/smoke/jobs.dot").write_text(dot + "1 -> 0\n2 -> 1\n3 -> 2\n3 -> 1\n}")
    graph = report._job_graph(home / "runs/smoke/jobs.dot")
    x = {node["name"]: node["x"] for node in graph["nodes"]}
    assert x.keys() == {"explore", "train", "analyse"} and x["explore"] < x["train"] < x["analyse"]
    assert len(graph["edges"]) == 3


def test_the_list_of_studies(home, page):
    report.write_index(home / "runs/smoke", home / "reports/smoke")
    report.write_index(home / "runs/empty", home / "reports/reference/empty")
    soup = BeautifulSoup(listing.write_study_list(home / "reports").read_text(encoding="utf-8"), "html.parser")
    studies = {article.a["href"]: article.get_text(" ", strip=True) for article in soup.find_all("article")}
    assert studies.keys() == {"smoke/index.html", "reference/empty/index.html"}
    assert "d4 is ahead." in studies["smoke/index.html"] and "1 failed" in studies["smoke/index.html"]
    assert "Does a test reach everything?" in studies["smoke/index.html"]
    assert "No answer yet" in studies["reference/empty/index.html"]


def test_the_list_shows_the_picture_for_newcomers_where_there_is_one(home):
    from PIL.PngImagePlugin import PngInfo

    index, words = report.write_index(home / "runs/smoke", home / "reports/smoke"), PngInfo()
    words.add_text("Description", "A lens, rotated")
    Image.new("RGB", (800, 400)).save(index.parent / "front.png", pnginfo=words)
    picture = listing._figure(index)
    assert picture["alt"] == "A lens, rotated" and picture["source"].startswith("data:image/webp")
    (index.parent / "front.png").write_bytes(b"damaged")
    assert listing._figure(index).get("alt") != "A lens, rotated"


def test_studies_stand_under_their_question_in_the_order_of_the_file(tmp_path):
    for name in ("weak", "mine", "strong"):
        report.write_index(tmp_path / "runs" / name, tmp_path / "reports" / name)
    file = tmp_path / "reports/reference/studies.yml"
    file.parent.mkdir()
    file.write_text("- question: Which?\n  studies: [strong, not-run-yet, weak]\n- question: Nothing yet?\n")
    soup = BeautifulSoup(listing.write_study_list(tmp_path / "reports").read_text(encoding="utf-8"), "html.parser")
    found = {part.h2.string: [one["href"] for one in part.select("h3 a")] for part in soup.select("section")}
    assert found == {listing.OWN: ["mine/index.html"], "Which?": ["strong/index.html", "weak/index.html"]}
    for wrong in ("- question: [a]\n", "strong", "- asks: Which?\n", "a: [b"):
        file.write_text(wrong)
        with pytest.raises(FileError, match="studies.yml: expected a list"):
            listing.write_study_list(tmp_path / "reports")


def test_the_list_can_be_read_where_pages_show_as_source(tmp_path):
    """As Markdown beside `studies.yml`, with answers in numbers; what a study says of itself never acts as markup."""
    folder = tmp_path / "study"
    said = {"answer": "One is *ahead*.", "task": "<script>", "table": [{"network": "a|b", "AUC": "0.9 [0.8, 1.0]"}]}
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(said))
    (folder / "index.html").write_text(
        '<meta name="lensstudy-study" content="study"><meta name="lensstudy-answer" content="One is *ahead*."><style>'
    )
    listing.write_study_list(tmp_path)
    assert not (tmp_path / "README.md").exists(), "a list of one's own is opened in a browser"
    (tmp_path / "studies.yml").write_text("- question: Which?\n  studies: [study]\n")
    listing.write_study_list(tmp_path)
    shown = BeautifulSoup(markdown((tmp_path / "README.md").read_text(encoding="utf-8")), "html.parser")
    assert [one.string for one in shown.find_all(["h2", "h3"])] == ["Which?", "study"]
    assert "One is *ahead*." in [one.get_text() for one in shown.find_all("strong")] and not shown.find_all(
        ["em", "script"]
    )
    assert [one.get_text() for one in shown.find_all("td")] == ["a|b", "0.9 [0.8, 1.0]"]
    assert "<script>" in shown.get_text() and shown.find("a", href="study/index.html")


def test_the_list_of_reference_is_the_same_as_page_and_as_markdown():
    reports = ROOT / "reports/reference"
    text = (reports / "README.md").read_text(encoding="utf-8")
    page = BeautifulSoup((reports / "index.html").read_text(encoding="utf-8"), "html.parser")
    shown = BeautifulSoup(markdown(text), "html.parser")
    for names in ("h2", "h3"):
        assert [one.get_text() for one in shown.find_all(names)] == [one.get_text() for one in page.find_all(names)]
    for article in page.find_all("article"):
        assert article.p.get_text() in [one.get_text() for one in shown.find_all("strong")], article.a["href"]
    for target in [one.get("href") or one["src"] for one in shown.find_all(["a", "img"])]:
        assert (reports / target.partition("#")[0]).is_file(), target


def test_the_list_of_reference_names_studies_that_exist():
    known = {file.stem for file in (ROOT / "params").glob("*.yml")}
    named = [name for one in listing.questions(ROOT / "reports/reference") for name in one.studies]
    assert len(named) == len(set(named)) and set(named) <= known
    assert {folder.parent.name for folder in (ROOT / "reports/reference").glob("*/index.html")} <= set(named)


TABLE = [
    {"network": network, "test images": images, "AUC": "0.9 [0.8, 1.0]", "accuracy": accuracy}
    for network, images, accuracy in (
        ("resnet18", "unperturbed", "0.797 [0.741, 0.843]"),
        ("resnet18", "rotated by 90°", "0.4 [0.3, 0.5]"),
        ("d4-steerable-cnn", "unperturbed", "0.871 [0.753, 0.937]"),
        ("(total flux)", "unperturbed", "0.338 [0.296, 0.383]"),
    )
]


@pytest.mark.parametrize(
    ("summary", "plain"),
    [
        (
            {"answer": "Ahead.", "pairs": [{"first": "d4-steerable-cnn", "second": "resnet18"}]},
            "100, one that does not",
        ),
        (
            {
                "answer": "Ahead.",
                "pairs": [{"first": "d4-cnn", "second": "plain-cnn"}],
                "table": [{"network": one, "accuracy": "0.9"} for one in ("d4-cnn", "plain-cnn", "c1-cnn")],
            },
            "(plain-cnn) 10, and one with the same filters but no symmetry (c1-cnn) 10.",
        ),
        (
            {
                "answer": "Ahead.",
                "pairs": [
                    {"first": "d4-cnn", "second": "plain-cnn"},
                    {"first": "d4-cnn", "second": "c1-cnn", "p": 0.0515},
                ],
                "table": [{"network": one, "accuracy": "0.9"} for one in ("d4-cnn", "plain-cnn", "c1-cnn")],
            },
            "(c1-cnn) 10, though in AUC this difference may be chance.",
        ),
        (
            {
                "answer": "Ahead.",
                "table": TABLE,
                "pairs": [{"first": "d4-steerable-cnn", "second": "resnet18"}],
                "ahead": [
                    {"images": 1200, "network": "resnet18", "value": 0.1, "low": 0.05, "high": 0.2},
                    {"images": 240, "network": "resnet18", "value": -0.1, "low": -0.2, "high": -0.05},
                ],
            },
            "With 1,200 training images, the network that knows",
        ),
        (
            {
                "answer": "Ahead.",
                "pairs": [{"first": "d4-steerable-cnn", "second": "resnet18"}],
                "ahead": [
                    {"images": 240, "network": "resnet18", "value": -0.1, "low": -0.2, "high": -0.05},
                    {"images": 600, "network": "resnet18", "value": 0.1, "low": -0.2, "high": 0.3},
                    {"images": 1200, "network": "resnet18", "value": 0.1, "low": 0.05, "high": 0.2},
                ],
            },
            ". With 240 it is the other way round.",
        ),
        (
            {
                "answer": "Ahead.",
                "pairs": [{"first": "d4-steerable-cnn", "second": "resnet18"}],
                "images_to_match": [
                    {"network": "resnet18", "images": 60, "needed": None, "low": 60.0, "high": None},
                    {"network": "d4-cnn", "images": 60, "needed": 60.0, "low": 60.0, "high": 60.0},
                    {"network": "resnet18", "images": 240, "needed": 576.0, "low": 240.0, "high": 1512.0},
                ],
            },
            ". To be as good as the first is with 240 images, resnet18 needs 2.4 times as many (95\u00a0% interval up",
        ),
        (
            {
                "answer": "Ahead.",
                "pairs": [{"first": "d4-cnn", "second": "plain-cnn"}],
                "table": [{"network": one, "accuracy": "0.9"} for one in ("d4-cnn", "plain-cnn", "c1-cnn")],
                "images_to_match": [
                    {"network": "plain-cnn", "images": 240, "needed": 576.0, "low": 264.0, "high": 1512.0},
                    {"network": "c1-cnn", "images": 60, "needed": 90.0, "low": 60.0, "high": 120.0},
                    {"network": "c1-cnn", "images": 240, "needed": 288.0, "low": 240.0, "high": 528.0},
                ],
            },
            "plain-cnn needs 2.4 times as many (95\u00a0% interval 1.1 to 6.3), c1-cnn 1.2 times (up to 2.2).",
        ),
        (
            {"answer": "These trainings and 450 test images do not tell which of a and b is better.", "pairs": []},
            "is wrong 20 times in 100, d4",
        ),
        ({"answer": "Alone.", "table": TABLE[:2]}, "The network resnet18 is wrong 20 times in 100."),
        (
            {
                "answer": "Ahead.",
                "pairs": [
                    {"first": "d4-cnn", "second": "plain-cnn"},
                    {"first": "d4-cnn", "second": "resnet18", "p": 0.01},
                ],
                "table": [{"network": one, "accuracy": "0.9"} for one in ("d4-cnn", "plain-cnn", "resnet18")],
            },
            "(plain-cnn) 10. ResNet-18 is wrong 10 times.",
        ),
        (
            {
                "answer": "These images do not tell which of d4-cnn and plain-cnn is better.",
                "pairs": [
                    {"first": "d4-cnn", "second": "plain-cnn"},
                    {"first": "d4-cnn", "second": "resnet18", "p": 0.2},
                ],
                "table": [{"network": one, "accuracy": "0.9"} for one in ("d4-cnn", "plain-cnn", "resnet18")],
            },
            "may be chance. ResNet-18 is wrong 10 times, and in AUC this may be chance too.",
        ),
        ({"answer": "One. Two.", "table": []}, "One."),
        ({"answer": "One.", "plain": "Simply one."}, "Simply one."),
        (
            {"answer": "", "table": [{"network": "a", "accuracy": "0.999"}, {"network": "b", "accuracy": "0.98"}]},
            "a is wrong 1 time in 1,000, b 20.",
        ),
    ],
)
def test_an_answer_in_plain_words_counts_mistakes(summary, plain):
    said = summaries.in_plain_words({"table": TABLE} | summary)
    doubtful = any(pair.get("p", 0) > 0.05 for pair in summary.get("pairs", []))
    assert plain in said and ("chance" in said) == ("do not tell which" in summary["answer"] or doubtful)


def test_a_first_page_shows_few_rows_of_a_long_table():
    rows = [{"population": f"{n} sigma", "network": "yes"} for n in range(12)]
    assert summaries.short_table(rows) == rows[:4] and summaries.short_table(rows[:8]) == []
    table = [
        {"network": name, "way": way, "home": 0.9, "target": 0.5, "lowest away": worst, "chosen for": chosen}
        for way, worst, chosen in [
            ("as it is", 0.5, ""),
            ("a", 0.9, ""),
            ("b", 0.8, "x, y"),
            ("together", 0.7, ""),
            ("d", 0, ""),
        ]
        for name in ("d4", "plain")
    ]
    shown = [(row["network"], row["way"]) for row in summaries.short_table(table)]
    together = [("d4", "together"), ("plain", "together")]
    assert shown == [("d4", "as it is"), ("plain", "as it is"), ("d4", "b"), ("plain", "b"), *together]
    assert summaries.short_table(table)[0].keys() == {"network", "way", "home", "lowest away"}


def test_the_page_of_the_answer_begins_with_it(tmp_path):
    """The answer in plain words below the title, and its figure before any text, wherever the notebook shows them."""
    words = new_markdown_cell("# Result\n\nBefore.")
    says = "from IPython.display import Markdown\nMarkdown('**d4 is wrong. In detail.** More.')"
    green = FIGURE.replace('(600, 300), "navy"', '(30, 20), "green"').replace('("first", "second")', '("second",)')
    executed = run(
        notebook(tmp_path / "04-analyse.ipynb", words, FIGURE.replace(', "second"', ","), green, says), tmp_path
    )
    (tmp_path / "runs/smoke/analysis").mkdir()
    Image.new("RGB", (30, 20), "green").save(tmp_path / "runs/smoke/analysis/headline.png")
    summary = {"answer": "d4 is wrong. In detail.", "figure": "headline.png"}
    for answer, first in ((summary["answer"], "second figure"), ("Of another run.", "first figure")):
        (tmp_path / "runs/smoke/analysis/summary.json").write_text(json.dumps(summary | {"answer": answer}))
        pages.render(executed, tmp_path / "page.html")
        page = BeautifulSoup((tmp_path / "page.html").read_text(encoding="utf-8"), "html.parser")
        assert page.figure.img["alt"] == first and page.figure["id"] == "figure-1"
        assert [one.string for one in page.select("header .answer")] == ["d4 is wrong."] * (first == "second figure")
        assert (page.main.find(True).name == "figure") == (first == "second figure")


def test_a_page_begins_with_the_first_answer_that_its_notebook_shows(tmp_path):
    imports = "from types import SimpleNamespace\nfrom IPython.display import Markdown\n"
    answers = f"{imports}first, last = SimpleNamespace(answer='By 0.3 of *1*.'), SimpleNamespace(answer='Last.')"
    cells = [new_markdown_cell("# Page"), answers, "Markdown(first.answer)", "Markdown(last.answer)"]
    pages.render(run(notebook(tmp_path / "01-page.ipynb", *cells), tmp_path), tmp_path / "page.html")
    page = BeautifulSoup((tmp_path / "page.html").read_text(encoding="utf-8"), "html.parser")
    assert page.find(class_="answer").get_text() == "By 0.3 of 1."
    assert page.find("main").get_text().count("By 0.3 of 1.") == 1, "it stays where it is, too"


def test_many_changed_parameters_fold_and_few_do_not():
    changes = pages._environment().get_template("parts.html.j2").module.changes
    for number in (3, 13):
        rows = [
            {"name": f"p{k}", "value": k, "default": 0, "changed": True, "meaning": ""} for k in range(1, number + 1)
        ]
        soup = BeautifulSoup(str(changes(rows)), "html.parser")
        said = soup.find(class_="changes")
        assert len(said.find_all("span")) == number
        assert bool(said.find_parent("details")) == (number > 12)


def test_a_long_table_folds_and_a_small_one_names_its_columns_on_a_phone(tmp_path):
    shows = "import pandas as pd\nfrom IPython.display import display\n"
    shows += "table = pd.DataFrame({'name': list('abcdefghijklmno'), 'p': 1, 'q': 2})\ndisplay(table[:3], table)"
    executed = run(notebook(tmp_path / "a.ipynb", new_markdown_cell("# Tables"), shows), tmp_path)
    pages.render(executed, tmp_path / "page.html")
    captioned = "import pandas as pd\npd.DataFrame({'a': [1]}).style.set_caption('What it holds.')"
    pages.render(run(notebook(tmp_path / "b.ipynb", captioned), tmp_path), tmp_path / "b.html")
    page = BeautifulSoup((tmp_path / "b.html").read_text(), "html.parser")
    assert page.select_one("p.table-caption").get_text() == "Table 1 What it holds." and not page.select("caption")
    small, large = BeautifulSoup((tmp_path / "page.html").read_text(), "html.parser").select("main table.dataframe")
    assert small.find_parent("details") is None and large.find_parent("details").summary.string == "Table of 15 rows"
    assert "stack" in small["class"] and "first-stays" in large["class"]
    assert [cell.get("data-label") for cell in small.tbody.tr.find_all("td")] == ["name", "p", "q"]


def test_words_lead_to_their_meaning_once(page):
    links = page.select("main p a.word")
    assert [link.string for link in links] == ["equivariance", "steerable convolution"]
    for link in links:
        assert page.select_one(f"section.words {link['href']}")
    assert r"\rho(g) f(x)" in page.select_one("#word-equivariance math")["alttext"]
    assert {"subhalo", "equivariance", "AUC"} <= words.glossary().keys()


def test_two_studies_side_by_side(home):
    other = home / "runs/other"
    run(notebook(home / "01-other.ipynb"), home, study="other", seed=7, epochs=9)
    (other / "analysis").mkdir()
    table = [{"network": "d4", "AUC": "0.9950 [0.9900, 0.9990]", "parameters": 17000}, {"network": "c4", "AUC": "0.97"}]
    (other / "analysis/summary.json").write_text(json.dumps({"answer": "c4 is behind.", "table": table}))
    html = report.compare(home / "runs/smoke", other, home / "reports/compare.html")
    soup = BeautifulSoup(html.read_text(encoding="utf-8"), "html.parser")

    def rows(name):
        return [[cell.get_text() for cell in row.find_all("td")] for row in soup.select(f"#{name} ~ div tbody tr")]

    assert rows("parameters") == [["data_path", "…/lenses.tgz", "none"], ["epochs", "3", "9"]]
    results = {row[0]: row[1:] for row in rows("results")}
    assert results["d4"] == ["0.9990 [0.9980, 0.9995]", "0.9950 [0.9900, 0.9990]", "−0.004", "17000", "17000", "+0"]
    assert results["c4"] == ["–", "0.97", "–", "–", "–", "–"]
    with pytest.raises(FileNotFoundError, match="lensstudy run params/nothing.yml"):
        report.compare(home / "runs/smoke", home / "runs/nothing", html)


def test_a_bare_picture_and_an_older_page_are_no_obstacle(tmp_path):
    """A picture that a cell leaves without `figures.show`, and an index made before pages told their question."""
    bare = "from IPython.display import Image, display\nimport io\nfrom PIL import Image as P\nb = io.BytesIO()\n"
    bare += "P.new('RGB', (30, 20)).save(b, 'png')\ndisplay(Image(b.getvalue()))"
    executed = run(notebook(tmp_path / "01-bare.ipynb", bare), tmp_path)
    report.render(executed, tmp_path / "reports/smoke/01-bare.html")
    page = BeautifulSoup((tmp_path / "reports/smoke/01-bare.html").read_text(encoding="utf-8"), "html.parser")
    assert page.figure.img["alt"] and page.figure.b.string == "Figure 1"
    index = report.write_index(tmp_path / "runs/smoke", tmp_path / "reports/smoke")
    index.write_text(
        index.read_text(encoding="utf-8").replace("lensstudy-question", "older-question"), encoding="utf-8"
    )
    assert "smoke" in listing.write_study_list(tmp_path / "reports").read_text(encoding="utf-8")


def test_links_from_notebook_to_notebook_lead_nowhere_from_a_page(tmp_path, monkeypatch):
    """The line of neighbours is removed, and other links are their text; links to the world stay."""
    prose = (
        "# Two\n\n**Question.** Where?\n\n← [one](01-one.ipynb) · [all notebooks](README.md) · [three](03-three.ipynb)"
        " →\n\nSee [three](03-three.ipynb), [more](../docs/science.md#the-claim) and [a paper](https://arxiv.org/abs/0910.0760)."
    )
    source = notebook(tmp_path / "02-two.ipynb", new_markdown_cell(prose), "1")
    execute(source, tmp_path / "out.ipynb", {}, log=tmp_path / "log", timeout_s=60, cwd=tmp_path)
    pages.render(tmp_path / "out.ipynb", tmp_path / "page.html")
    body = BeautifulSoup((tmp_path / "page.html").read_text(encoding="utf-8"), "html.parser").find("main")
    assert "See three, more and a paper." in body.get_text() and "all notebooks" not in body.get_text()
    assert not [link["href"] for link in body.find_all("a", href=re.compile(r"0[13]-|README|science"))]
    assert body.find("a", href="https://arxiv.org/abs/0910.0760")
