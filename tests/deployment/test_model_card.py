"""The README.md of an exported network: all of it from the card, in the form that the Hugging Face Hub reads."""

import mistune
import pytest
import yaml
from bs4 import BeautifulSoup

from lensstudy.deployment.card import Card
from lensstudy.deployment.model_card import README, model_card
from lensstudy.networks.names import PRETRAINED, pretrained_names

NASTY = 'a <script>x</script> | b [c](javascript:d) **e** `f` _g_ &lt; $h$ "i": \n# j\n- k'


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def page(text: str) -> BeautifulSoup:
    """The text below the metadata as a browser gets it: HTML in it stays HTML, as on the Hub."""
    markdown = mistune.create_markdown(escape=False, plugins=["table", "strikethrough"])
    return BeautifulSoup(markdown(text.split("---\n", 2)[2]), "html.parser")


@pytest.mark.parametrize("name", pretrained_names())
def test_the_page_of_a_network_in_the_box_is_made_from_its_card(name):
    card = Card.read(PRETRAINED / name)
    text = (PRETRAINED / name / README).read_text(encoding="utf-8")
    assert text == model_card(card), "write it again with python -m tests.refresh_model_cards"
    about = metadata(text)
    assert about["license"] == "mit" and about["library_name"] == "lensstudy"
    assert about["pipeline_tag"] == "image-classification" and ("equivariance" in about["tags"]) == bool(card.symmetry)
    (index,) = about["model-index"]
    assert index["name"] == name
    for result in index["results"]:  # without any of these keys the Hub rejects a model index
        assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
        assert [metric["type"] for metric in result["metrics"]] == about["metrics"] == ["roc_auc", "accuracy"]
    unseen = card.metrics["unseen"]
    assert index["results"][0]["metrics"][0]["value"] == pytest.approx(unseen["auc"]["value"], abs=5e-5)
    single = "the seeds of the study" in card.metrics.get("test", {}).get("of", "")
    assert ("test images, unperturbed, mean of single seeds" in text) == ("over seeds too" in text) == single
    shown = page(text)
    titles = ["Intended use", "Training data", "Training", "Evaluation", "Limits", "Licence"]
    assert [title.text for title in shown.find_all("h2")] == titles
    low, high = unseen["accuracy"]["interval"]
    assert f"{unseen['accuracy']['value']:.3f} [{low:.3f}, {high:.3f}]" in [cell.text for cell in shown.find_all("td")]
    assert [item.text for item in shown.find_all("li")][-len(card.limits) :] == card.limits
    assert f'lensstudy.pretrained("{name}")' in shown.code.text


def test_text_of_a_card_is_shown_and_never_markup():
    card = Card.read(PRETRAINED / "realistic-plain")
    plain = page(model_card(card))
    card.classes[0] = card.network = card.licence = card.limits[0] = card.calibration["method"] = NASTY
    card.training |= dict.fromkeys(("purpose", "optimizer", "data_licence"), NASTY)
    card.training["data"] |= {"preset": NASTY}
    card.training["made_by"] |= {"command": NASTY, "parameters": f"params/{NASTY}.yml"}
    card.metrics["unseen"]["of"] = NASTY
    card.in_distribution["method"] = NASTY
    text = model_card(card)
    shown = page(text)
    tags = [element.name for element in shown.find_all(True)]
    assert sorted(tags) == sorted(element.name for element in plain.find_all(True)), "as many cells, items and titles"
    assert shown.find_all("li")[0].text == " ".join(NASTY.split())
    about = metadata(text)
    assert about.keys() == metadata((PRETRAINED / "realistic-plain" / README).read_text()).keys()
    assert about["license"] == NASTY.lower() and NASTY in about["model-index"][0]["results"][0]["dataset"]["name"]
