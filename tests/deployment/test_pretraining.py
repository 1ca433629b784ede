"""What puts a network into the box: from a finished training to a folder whose card says how well it does."""

import pytest
from typer.testing import CliRunner

from lensstudy.cli import app
from lensstudy.data.simulation import simulate
from lensstudy.deployment import pretraining
from lensstudy.deployment.card import Card, CardError
from lensstudy.study import Study
from lensstudy.training.fitting import fit


def test_a_network_is_put_into_the_box_with_scores_on_images_that_nothing_has_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "UNSEEN_IMAGES", 20)
    study = Study(study="tiny", network="plain-cnn", width=0.25, epochs=1, image_size=33, question="To be tried.")
    data = simulate("model_3", 40, seed=study.data_seed, image_size=33, noise_level=0.02)
    run = fit(data.split(0.1, 0.3, seed=1), study, folder=tmp_path / "training")
    folder = pretraining.put_in(run, study, data.split(0.1, 0.3, seed=1), out=tmp_path / "tiny")
    card = Card.read(folder)  # which checks that it is sealed again
    unseen, training = card.metrics["unseen"], card.training
    assert (
        unseen["images"] == 60
        and unseen["auc"]["interval"][0] <= unseen["auc"]["value"] <= unseen["auc"]["interval"][1]
    )
    assert training["made_by"]["parameters"] == "params/pretrained/tiny.yml" and training["made_by"]["version"]
    assert training["purpose"] == "To be tried." and "simulated by lensstudy itself" in training["data_licence"]
    fresh, what = pretraining.unseen(study, data)
    names = {tuple(image.ravel()[:50]) for image in data.images}
    assert not names & {tuple(image.ravel()[:50]) for image in fresh.images} and "simulated anew" in what
    with pytest.raises(CardError, match="--data-licence"):
        pretraining.put_in(run, study.model_copy(update={"data_path": "somewhere"}), data, out=tmp_path / "other")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CardError, match="did you mean 'realistic-d4'.*realistic-d4, realistic-plain"):
        pretraining.parameter_file("realistc-d4")
    done = CliRunner().invoke(app, ["pretrain", "../smoke"])
    assert done.exit_code == 1 and "realistic-d4" in done.output and "Traceback" not in done.output
