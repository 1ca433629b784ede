"""p-values of images in distribution are uniform, those of others small, and unsuitable networks are errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import DataError
from lensstudy.data.preprocess import Preprocess
from lensstudy.data.simulation import simulate
from lensstudy.networks.groups import rotate
from lensstudy.networks.registry import build_network, recalibrate_batch_norm
from lensstudy.observations.distribution import (
    SubstructureNetwork,
    TrainingDistribution,
    compare_networks,
    features,
    network_table,
    open_network,
    out_of_distribution_shares,
    prepare_networks,
    simulations_like,
)
from lensstudy.observations.reading import read_observations
from lensstudy.observations.writing import write_simulated
from lensstudy.study import Study
from lensstudy.training.run import TrainedNetwork

SIZE = 32


@pytest.fixture(scope="module")
def judge() -> SubstructureNetwork:
    """An untrained network with settled averages: OOD scores do not depend on what was learnt."""
    images = simulate("model_3", 60, seed=1, image_size=SIZE, noise_level=0.02)
    preprocess = Preprocess.fit(images.images, "asinh")
    network = build_network("d4-steerable-cnn", SIZE, 3, width=0.5, seed=1)
    recalibrate_batch_norm(network, preprocess(images.images))
    card = {"network": "d4-steerable-cnn", "image_size": SIZE, "crop": SIZE, "binning": 1, "in_channels": 1}
    trained = TrainedNetwork(network, preprocess, images.classes, card | {"data": images.description})
    known, held_out = (simulations_like(trained, 100, seed) for seed in (2, 3))
    return SubstructureNetwork.of("a network", trained, known, held_out)


def test_fresh_simulations_are_of_the_preset_and_new(judge):
    again = simulations_like(judge.trained, 5, 1)
    first = simulate("model_3", 60, seed=1, image_size=SIZE, noise_level=0.02)
    np.testing.assert_array_equal(again.images[:5], first.images[:5])
    assert not np.array_equal(simulations_like(judge.trained, 5, 2).images, again.images)


def test_p_values_of_images_like_the_known_ones_are_uniform(judge):
    from scipy.stats import kstest

    p = judge.reference.p_value(simulations_like(judge.trained, 60, 4).images)
    assert kstest(p, "uniform").pvalue > 0.001
    assert (p < 0.05).mean() < 0.12


def test_noise_and_other_presets_are_out_of_distribution(judge):
    noise = np.random.default_rng(0).normal(0, judge.noise, (20, 1, SIZE, SIZE)).astype(np.float32)
    assert (judge.reference.p_value(noise) < 0.01).all()
    assert (judge.reference.p_value(np.zeros((1, 1, SIZE, SIZE), np.float32)) < 0.01).all()
    other = simulate("common_test", 10, seed=1, image_size=SIZE).images
    assert np.median(judge.reference.p_value(other)) < 0.01


def test_a_rotated_image_has_the_same_score(judge):
    images = torch.as_tensor(simulations_like(judge.trained, 5, 5).images)
    rotated = judge.reference.score(rotate(images, 90).numpy())
    np.testing.assert_allclose(rotated, judge.reference.score(images.numpy()), rtol=1e-2)


def test_features_are_the_inputs_of_the_last_layer(judge):
    images = simulations_like(judge.trained, 3, 6).images
    found, statistics, _ = features(judge.trained, images)
    logits = judge.trained.network.classifier(torch.as_tensor(found, dtype=torch.float32)).softmax(1)
    np.testing.assert_allclose(logits.detach().numpy(), judge.trained.predict(images), atol=1e-5)
    assert len(statistics) == len(images)
    assert not judge.trained.network.classifier._forward_pre_hooks


def test_an_exported_network_has_no_gradients_and_points_to_the_training(exported, tmp_path):
    with pytest.raises(ValueError, match="is an exported network.*no gradients; give the run folder"):
        open_network(exported)
    with pytest.raises(OSError, match="no finished training here"):
        open_network(tmp_path)


def test_the_answer_is_any_substructure(judge):
    image = simulations_like(judge.trained, 1, 8).images[:1]
    assert judge.substructure(image)[0] == pytest.approx(judge.trained.predict(image)[0, 1:].sum())


def test_a_real_image_is_seen_in_the_pixels_and_the_noise_of_the_training(judge, tmp_path):
    one = read_observations(write_simulated(tmp_path, seed=2))[0][0]
    noise = np.random.default_rng(0).normal(0, one.noise.min(), one.image.shape)
    assert judge.prepare(one.image, one).shape == (1, 1, SIZE, SIZE)
    assert judge.prepare(noise, one).std() == pytest.approx(judge.noise, rel=0.15)


@pytest.mark.slow
def test_a_network_of_a_mixture_has_what_its_components_have_in_common(judge):
    lit = {"preset": "realistic", "population": {"lens_light": True, "subhalo_profile": "point"}}
    dark = {"preset": "realistic", "population": {"instrument": "euclid-vis"}}

    def of(*components):
        made = mixture.make("mixture", 7, seed=1, image_size=SIZE, population={"presets": list(components)})
        trained = replace(judge.trained, card=judge.trained.card | {"data": made.description})
        return SubstructureNetwork.of("mixed", trained, made, simulations_like(trained, 7, 3))

    both_lit, both_dark = of(lit, lit), of(dark, dark)
    assert not judge.lens_light and judge.profile == "point"
    assert both_lit.lens_light and both_lit.profile == "point"
    assert both_dark.profile == "truncated_nfw" and not both_dark.lens_light
    with pytest.raises(DataError, match="with and without lens light"):
        of(lit, dark | {"population": {}})
    with pytest.raises(DataError, match="of several sizes"):
        of({"preset": "model_1"}, dark)


def test_networks_of_different_classes_stand_compare_networks(judge):
    two = build_network("d4-steerable-cnn", SIZE, 2, width=0.5, seed=2).eval()
    other = replace(judge, label="another", trained=replace(judge.trained, network=two, classes=("no_sub", "sub")))
    images = simulations_like(judge.trained, 1, 9).images
    views = {label: {"a": images[:1], "b": images[1:2]} for label in ("a network", "another")}
    moves = {"a network": {"a": 0.1, "b": 0.2}, "another": {"a": 0.3, "b": 0.4}}
    table = compare_networks([judge, other], views, moves)
    assert list(zip(table["image"], table["network"], table["largest change"], strict=True)) == [
        ("a", "a network", 0.1),
        ("a", "another", 0.3),
        ("b", "a network", 0.2),
        ("b", "another", 0.4),
    ]
    classes = ["no_sub", "cdm", "axion", "sub"]
    np.testing.assert_allclose(table[classes].sum(axis=1), 1)
    assert table["sub"].isna().tolist() == [True, False, True, False]
    substructure = np.concatenate([judge.substructure(images), other.substructure(images)])[[0, 3, 1, 4]]
    np.testing.assert_allclose(1 - table["no_sub"], substructure, rtol=1e-6)  # float32, one image at a time or three
    assert (table["prediction"] == np.where(substructure > 0.5, "substructure", "no_sub")).all()
    assert table["p-value"][1] == other.reference.p_value(images[:1])[0]


def test_what_a_network_cannot_say_is_refused(judge):
    few = simulations_like(judge.trained, 5, 7)
    with pytest.raises(DataError, match="15 known images are too few"):
        TrainingDistribution.fit(judge.trained, few, few)
    with pytest.raises(DataError, match="expected no_sub among the classes"):
        SubstructureNetwork.of("other", replace(judge.trained, classes=("cdm", "axion", "sub")), few, few)
    read = replace(judge.trained, card=judge.trained.card | {"data": {"source": "files"}})
    with pytest.raises(DataError, match="pass the validation part of its data set instead"):
        simulations_like(read, 5, 1)


def test_networks_of_a_study_are_prepared_and_others_skipped_with_their_reason(judge, exported):
    def of(seed, **card):
        return replace(judge.trained, card=judge.trained.card | {"seed": seed} | card)

    read = of(3, data={"source": "files", "pixel_scale": 0.1})
    study = Study(run_folders=[str(exported)], reference_images=50)
    networks, skipped = prepare_networks([of(10), of(1), of(1), read], study)
    assert [one.label for one in networks] == [
        "d4-steerable-cnn model_3 s10",
        "d4-steerable-cnn model_3 s1",
        "d4-steerable-cnn model_3 s1 (2)",
    ]
    assert networks[1].noise == pytest.approx(judge.noise, rel=0.1)
    assert set(networks[1].examples) == {"no_sub", "cdm", "axion"}
    assert networks[1].examples["cdm"].shape == (1, SIZE, SIZE)
    assert (
        "no gradients" in skipped[str(exported)] and "were read, not simulated" in skipped["d4-steerable-cnn read s3"]
    )
    table = network_table(networks, skipped)
    assert table["used"].str.startswith("no: ").tolist() == [False] * 3 + [True] * 2
    with pytest.raises(DataError, match="(?s)none of the networks can be applied.*were read, not simulated"):
        prepare_networks([read], Study())


def test_a_network_trained_on_images_that_were_read_is_judged_by_its_own(judge, tmp_path, monkeypatch):
    """By the validation part and the test part of its data set, which it was not trained on."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    images = simulate("model_3", 60, seed=4, image_size=SIZE, noise_level=0.02).split(0.3, 0.3, 1)
    study = Study(data_path="some/images")
    images.save(study.folder / "dataset")
    about = {"source": "files", "pixel_scale": 0.16}
    trained = replace(judge.trained, card=judge.trained.card | {"seed": 1, "data": about})
    (network,), skipped = prepare_networks([trained], study)
    assert not skipped and len(network.reference.held_out) == len(images.part("test"))


def test_noise_is_out_of_distribution_and_more_of_the_same_is_not(judge):
    shares = out_of_distribution_shares([judge], seed=77)
    assert shares["pure noise"]["a network"] == 1
    assert shares["more images like the training images"]["a network"] < 0.2
