"""The table of one's own image at the end of the first notebook."""

from lensstudy.deployment.predictor import Predictor
from lensstudy.figures.first_look import own_image


def test_a_path_that_leads_nowhere_is_told_in_the_table(exported, blobs):
    """A reader who mistypes a path has run all cells above it already."""
    predictors = {"mine": Predictor(exported)}
    told = own_image("no-such-lens.fits", blobs.images[:1], predictors).to_html()
    assert "nothing exists at this path" in told and "at the given path" in told
    lens = own_image("", blobs.images[:1], predictors).to_html()
    assert "simulated lenses" in lens and blobs.classes[0] in lens and "nothing exists" not in lens
