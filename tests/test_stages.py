"""What a notebook starts from: made once, opened again, whatever subset of the parameters it declares."""

import hashlib
import shutil
import warnings

import numpy as np
import pytest
import torch

from lensstudy import stages
from lensstudy.data.dataset import DataError
from lensstudy.study import Study

TINY = """study: tiny
images_per_class: 20
width: 0.25
epochs: 1
batch_size: 16
settings: {plain-cnn: {learning_rate: 0.01}}
weight_decay: 0.1
"""


@pytest.fixture
def file(monkeypatch, tmp_path):
    """The file of a study of which one network has been trained."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    file = tmp_path / "tiny.yml"
    file.write_text(TINY)
    stages.trained(Study.read(file), "plain-cnn", 1)
    return file


def trained_anew(study, network="plain-cnn", seed=1):
    """Whether the stage trains, and does not open what is there; it is asked twice and must train at most once."""
    weights = study.training_folder(network, seed) / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    stages.trained(study, network, seed)
    after = weights.stat().st_mtime_ns
    stages.trained(study, network, seed)
    assert weights.stat().st_mtime_ns == after
    return after != before


@pytest.mark.parametrize(
    "declared", [{}, {"epochs": None}, {"network": "resnet18", "seed": 5}, {"bootstrap_samples": 50}]
)
def test_a_notebook_that_declares_few_parameters_opens_what_was_trained(file, declared):
    study = Study.read(file, **declared)
    assert not trained_anew(study)
    assert stages.trained(study, "plain-cnn", 1).card["learning_rate"] == 0.01


@pytest.mark.parametrize(
    "line", ["epochs: 2", "weight_decay: 0.2", "crop: 24", "scaling: maximum", "data_seed: 2", "settings: {}"]
)
def test_a_notebook_that_declares_few_parameters_agrees_with_the_batch_on_what_is_stale(file, line):
    """The file has changed since: whoever asks first trains anew, whatever parameters they declare."""
    name = line.partition(":")[0]
    file.write_text("".join(old for old in TINY.splitlines(True) if not old.startswith(f"{name}:")) + line + "\n")
    batch, by_hand = Study.read(file), Study.read(file, network=None, bootstrap_samples=50)
    assert trained_anew(by_hand)
    assert not trained_anew(batch)


def test_a_learning_rate_that_is_given_holds_for_every_network(file):
    """Though the file has one of its own for this network, and even if it is the one that the others have there."""
    assert trained_anew(Study.read(file, learning_rate=0.02))
    assert stages.trained(Study.read(file, learning_rate=0.02), "plain-cnn", 1).card["learning_rate"] == 0.02
    default = Study().learning_rate
    assert Study.read(file, learning_rate=default).training("plain-cnn").learning_rate == default
    both = Study.read(file, learning_rate=0.02, settings={"plain-cnn": {"learning_rate": 0.05}})
    assert [both.training(name).learning_rate for name in ("plain-cnn", "resnet18")] == [0.05, 0.02]


def test_a_share_of_the_training_images_can_have_settings_of_its_own(file):
    own = {"plain-cnn": {"learning_rate": 0.05, "at_share": {"10%": {"learning_rate": 0.03, "weight_decay": 0.4}}}}
    study = Study.read(file, settings=own)
    few, all_images = study.training("plain-cnn", 1, 10), study.training("plain-cnn", 1)
    assert (few.learning_rate, few.weight_decay) == (0.03, 0.4)
    assert (all_images.learning_rate, all_images.weight_decay) == (0.05, study.weight_decay)
    file.write_text(file.read_text().replace("{learning_rate: 0.01}", "{at_share: {10%: {learning_rate: 0.03}}}"))
    assert Study.read(file).training("plain-cnn", 1, 10).learning_rate == 0.03
    assert Study.read(file, learning_rate=0.02).training("plain-cnn", 1, 10).learning_rate == 0.02


def test_the_settings_of_another_network_make_nothing_stale(file):
    settings = {"plain-cnn": {"learning_rate": 0.01}, "resnet18": {"learning_rate": 0.1, "epochs": 3}}
    assert not trained_anew(Study.read(file, settings=settings))


def test_settings_of_no_network_are_a_slip(file):
    with pytest.raises(ValueError, match="Did you mean 'plain-cnn'"):
        stages.dataset(Study.read(file, settings={"plain-cn": {"epochs": 2}}))


def test_images_of_the_test_alone_are_other_images_and_leave_the_rest_for_training(file):
    study = Study.read(file, study="more", test_images=12)
    made, before = stages.dataset(study), stages.dataset(Study.read(file))
    counts = made.catalogue.groupby("part")["class"].value_counts().unstack()
    assert counts.to_numpy().tolist() == [[12] * 3, [18] * 3, [2] * 3]  # test, train, validation
    others = (made.catalogue["part"] != "test").to_numpy()
    assert np.array_equal(made.subset(others).images, before.images)
    assert not set(made.subset(~others).orientation_free_hash()) & set(before.orientation_free_hash())
    assert made.catalogue["name"].is_unique
    assert stages.trained(study, "plain-cnn", 1).card["training_images"] == 54


def test_a_study_of_two_classes_simulates_these(file):
    two = stages.dataset(Study.read(file, study="two", classes=["cdm", "no_sub"]))
    three = stages.dataset(Study.read(file))
    assert two.classes == ("cdm", "no_sub") and len(two) == 40
    for name in two.classes:
        images = [one.images[(one.catalogue["class"] == name).to_numpy()] for one in (two, three)]
        assert np.array_equal(*images)


def test_a_study_says_what_its_networks_are_fine_tuned_from(file):
    study = Study.read(file)
    began = study.training_folder("plain-cnn", 1)
    weights = hashlib.sha256((began / "weights.safetensors").read_bytes()).hexdigest()
    further = Study.read(
        file,
        study="further",
        start_from={"plain-cnn": f"runs/tiny/training/{began.name}"},
        settings={"plain-cnn": {"learning_rate": 1e-9}},
    )
    run = stages.trained(further, "plain-cnn", 1)
    assert run.card["start_from"] == weights
    before, after = (one.network.classifier.weight for one in (stages.trained(study, "plain-cnn", 1), run))
    assert torch.allclose(before, after, atol=1e-6), "at a learning rate near zero nothing moves"
    with pytest.raises(ValueError, match="no network of this name"):
        stages.trained(Study.read(file, study="further", start_from={"plain-cnn": "nowhere"}), "plain-cnn", 1)


def test_targets_are_studies_of_their_own_images():
    """In the pixels of their telescope, with nothing of home's population or noise, and every setting of the study."""
    given = [{"study": "one", "preset": "model_1"}, {"study": "two", "data_path": "somewhere", "split": "given"}]
    study = Study(study="x", population={"shear_max": 0.05}, noise_level=0.1, targets=given)
    one, two = stages.targets(study).values()
    assert (one.study, one.preset, one.image_size, one.noise_level, one.population) == ("x-one", "model_1", 150, 0, {})
    assert (two.study, two.data_path, two.split) == ("x-two", "somewhere", "given")
    changed = {"study", "preset", "population", "noise_level", "image_size"}
    assert one.model_dump(exclude=changed) == study.model_dump(exclude=changed)


def test_inputs_are_changed_alone_and_together():
    inputs = {"noise": {"scaling": "noise"}, "pixels": {"match_pixels": True}, "more": {"images_per_class": 30}}
    ways = stages._ways(Study(study="x", inputs=inputs))
    assert list(ways) == ["as it is", "noise", "pixels", "more", "together"]
    assert [one.scaling for one in ways.values()] == ["asinh", "noise", "asinh", "asinh", "noise"]
    assert [one.study for one in ways.values()] == ["x", "x", "x", "x-more", "x-more"]
    jobs = [stages._Job(Study(study="x", inputs=inputs), way, network="plain-cnn", seed=2) for way in ways]
    folders = [job.folder.parts[-3:] for job in jobs]
    assert folders[2] == folders[0] == ("x", "training", "plain-cnn-s2")  # the same training
    assert len(set(folders)) == 4


def test_an_adapted_network_is_tested_on_its_target_and_at_home():
    study = Study(study="x", targets=[{"study": "one", "preset": "model_1"}, {"study": "two", "preset": "model_3"}])
    job = stages._Job(study, "in units of noise", "sinkhorn", "two", "plain-cnn", 1)
    assert job.tested == ["two", "home"] and job.settings.adaptation == "sinkhorn" and job.settings.monitor == "last"
    assert job.settings.scaling == "noise" and job.folder.parts[-3] == "x-sinkhorn-two"
    assert stages._Job(study, "as it is").tested == ["home", "one", "two"]


def test_one_class_is_said_before_anything_else_is_judged(tmp_path, monkeypatch):
    """Images of nothing but noise would be filtered out, and the filter would be blamed."""
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    (tmp_path / "data/cdm").mkdir(parents=True)
    for number in range(12):
        image = np.random.default_rng(number).normal(size=(32, 32)).astype("f4")
        np.save(tmp_path / f"data/cdm/{number}.npy", image)
    with pytest.raises(DataError, match=r"only one class \(cdm\)"):
        stages.dataset(Study(study="one", data_path=str(tmp_path / "data")))


def test_a_study_reads_images_as_its_parameters_say(monkeypatch, tmp_path):
    """Classes and labels of one's own, the pixel scale, and the parts in which the images came."""
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")
    monkeypatch.setenv("LENSSTUDY_HOME", str(tmp_path))
    for part, count in (("train", 30), ("test", 10)):
        (tmp_path / "data" / part).mkdir(parents=True)
        for i in range(count):
            ring = np.hypot(*(np.mgrid[:32, :32] - 15.5)) - 8 - i % 2
            noise = np.random.default_rng((part == "test", i)).normal(0, 0.02, (32, 32))
            np.save(tmp_path / "data" / part / f"{part}{i}.npy", np.exp(-(ring**2)) + noise)
    rows = [
        f"{part}{i},{('round', 'square')[i % 2]}" for part, count in (("train", 30), ("test", 10)) for i in range(count)
    ]
    (tmp_path / "labels.csv").write_text("lens,shape\n" + "\n".join(rows))
    study = Study(
        study="own",
        data_path=str(tmp_path / "data"),
        labels=str(tmp_path / "labels.csv"),
        label_columns=["lens", "shape"],
        classes=["square", "round"],
        pixel_scale=0.2,
        split="given",
    )
    made = stages.dataset(study)
    assert made.classes == ("square", "round") and made.description["pixel_scale"] == 0.2
    assert made.catalogue["part"].value_counts().to_dict() == {"train": 27, "test": 10, "validation": 3}
    assert (made.catalogue["name"].str.startswith("test") == (made.catalogue["part"] == "test")).all()
    (tmp_path / "labels.csv").write_text("lens,shape\n" + "\n".join(rows).replace("train0,round", "train0,square"))
    with pytest.warns(UserWarning, match="labels.csv"):
        assert (stages.dataset(study).labels == 0).sum() == (made.labels == 0).sum() + 1
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    with warnings.catch_warnings():  # a reader who names another folder has changed no file
        warnings.simplefilter("error")
        moved = stages.dataset(study.model_copy(update={"data_path": str(tmp_path / "elsewhere")}))
    assert len(moved) == len(made)
    with pytest.raises(DataError, match=r"label_columns = \['lens'\]: expected two"):
        stages.dataset(study.model_copy(update={"label_columns": ["lens"]}))
