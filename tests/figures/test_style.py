"""What a figure says of itself, and what a reader is told of a table."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lensstudy.figures import captioned, plots, show, style, table


@pytest.fixture
def shown(monkeypatch):
    """What `show` displays, as HTML."""
    texts = []
    monkeypatch.setattr(style, "display", lambda html, metadata: texts.append(html.data))
    return texts


def test_a_figure_is_shown_with_the_caption_that_its_function_wrote(shown):
    show(captioned(plt.figure(), "Loss < 1 & falling.", "a falling line"))
    assert 'alt="a falling line"' in shown[0] and "<figcaption>Loss &lt; 1 &amp; falling.</figcaption>" in shown[0]


def test_what_is_given_to_show_comes_before_what_the_figure_says(shown):
    show(captioned(plt.figure(), "own", "own words"), "given")
    assert 'alt="given"' in shown[0] and "<figcaption>given<" in shown[0]


def test_a_figure_without_a_caption_is_refused():
    with pytest.raises(ValueError, match="without a caption"):
        show(plt.figure())


def test_a_table_rounds_hides_row_numbers_and_escapes():
    frame = pd.DataFrame({"network": ["<b>d4</b>"], "images": [12345], "AUC": [0.98765], "p": [None]})
    html = table(frame, "Scores of <i>one</i> network.", {"AUC": "{:.2f}"}).to_html()
    assert (
        "&lt;b&gt;d4&lt;/b&gt;" in html
        and "12,345" in html
        and "0.99<" in html
        and "<th id" not in html.split("<tbody>")[1]
    )
    assert "Scores of &lt;i&gt;one&lt;/i&gt; network." in html


def test_a_table_without_rows_is_its_caption():
    html = table(pd.DataFrame({"images": [], "share": []}), "Nothing was excluded.").to_html()
    assert "Nothing was excluded." in html and "share" not in html


def test_a_named_index_is_the_first_column():
    frame = pd.DataFrame({"AUC": [0.5, 1.0]}, index=pd.Index(["d4", "plain"], name="network"))
    html = table(frame, "Scores.").to_html()
    assert html.index("network") < html.index("AUC") and html.index("d4") < html.index("0.5")


def test_equivariant_networks_and_their_baselines_have_colours_of_their_own():
    names = ["d4-steerable-cnn", "d4-steerable-cnn-matched", "d4-steerable-cnn-matched-parameters", "resnet18"]
    assert len({style.colour(name) for name in names}) == 4
    assert style.colour("d4-steerable-cnn-matched") == style.colour("plain-cnn")  # which it is


def test_a_study_without_alternatives_has_an_empty_figure_of_them():
    none = pd.DataFrame({"network": ["plain-cnn"], "settings": ["best combination"], "difference": [0.0]})
    assert not plots.alternatives(none).axes[0].get_yticks().size
