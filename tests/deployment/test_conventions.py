"""DeepLense's habits: classes by name in any order, their checkpoints, their folders, their encoder and classifier."""

import numpy as np
import pandas as pd
import pytest
import torch

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.reading import read
from lensstudy.deployment import conventions
from lensstudy.deployment.conventions import ORDERS, DeepLenseNetwork, order_of
from lensstudy.networks import registry as networks
from lensstudy.study import Study
from lensstudy.training.fitting import fit, load_run

CLASSES = ("no_sub", "cdm", "axion")


@pytest.fixture(scope="module")
def rings() -> LensDataset:
    """Three classes: a ring, a ring with a spot, a ring with a bar."""
    generator = np.random.default_rng(4)
    y, x = np.mgrid[:20, :20] - 9.5
    ring = np.exp(-((np.hypot(x, y) - 6) ** 2) / 2)
    images, classes = [], []
    for name in CLASSES:
        for angle in generator.uniform(0, 2 * np.pi, 40):
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            extra = {"no_sub": 0, "cdm": np.exp(-((u - 4) ** 2 + v**2) / 2), "axion": np.exp(-(v**2)) * (abs(u) < 5)}
            images.append(ring + extra[name] + generator.normal(0, 0.05, x.shape))
            classes.append(name)
    catalogue = pd.DataFrame({"name": [f"image-{i}" for i in range(len(classes))], "class": classes})
    return LensDataset(np.array(images, np.float32)[:, None], catalogue, CLASSES, {}).split(0.2, 0.2, seed=1)


@pytest.fixture(scope="module")
def run(rings, tmp_path_factory):
    """A training with min-max scaling, as DeepLense's pipelines scale."""
    settings = Study(network="c4-steerable-cnn", width=0.5, epochs=3, batch_size=16, scaling="min-max", binning=2)
    return fit(rings, settings, folder=tmp_path_factory.mktemp("run") / "c4-s1")


@pytest.mark.parametrize("order", ["models", "common-test", ("vortex", "smooth", "subhalo")])
def test_classes_are_matched_by_name(order):
    names = ORDERS[order] if isinstance(order, str) else order
    ours = {"axion": "axion", "vort": "axion", "vortex": "axion", "cdm": "cdm", "sphere": "cdm", "subhalo": "cdm"}
    assert [CLASSES[i] for i in order_of(CLASSES, order)] == [ours.get(name, "no_sub") for name in names]


def test_other_classes_and_orders_are_errors():
    with pytest.raises(DataError, match="which are not the classes no_sub, sub"):
        order_of(CLASSES, "official")
    with pytest.raises(DataError, match="order 'alphabetical' is unknown; there are models, common-test, official"):
        order_of(CLASSES, "alphabetical")


@pytest.mark.parametrize("order", ["models", "common-test"])
def test_state_dict_of_three_logits(order, rings, run, tmp_path):
    """What their pipelines do: crop, scale each image from 0 to 1, load a state_dict, take the largest logit."""
    torch.save(DeepLenseNetwork(load_run(run), order).state_dict(), tmp_path / "model.pth")
    fresh = DeepLenseNetwork(load_run(run), order)
    fresh.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))

    images = torch.from_numpy(np.array(rings.part("test").images))
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    logits = fresh((images - low) / (high - low))
    assert logits.shape == (len(images), 3)
    expected = load_run(run).predict(images.numpy())
    ours = [CLASSES[i] for i in order_of(CLASSES, order)]
    found = pd.DataFrame(torch.softmax(logits.double(), 1).numpy(), columns=ours)[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    larger = torch.nn.functional.pad(images, (5, 5, 5, 5))
    torch.testing.assert_close(fresh(larger), fresh(images), rtol=1e-4, atol=1e-4)


def test_brightness_that_has_a_meaning_cannot_be_scaled_away(run_folder):
    with pytest.raises(DataError, match="trained on images scaled by 'asinh'.*scaling: min-max"):
        DeepLenseNetwork(load_run(run_folder), "official")


def as_torchvision(network) -> dict:
    """The weights of our ResNet-18 under torchvision's names, which are written out here independently."""
    names = {"body.conv.": "conv1.", "body.norm.": "bn1.", "classifier.": "fc."}
    for stage in range(1, 5):
        for block in range(1, 3):
            ours, theirs = f"body.block{stage}-{block}.", f"layer{stage}.{block - 1}."
            pairs = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2"}
            pairs |= {"shortcut.0": "downsample.0", "shortcut.1": "downsample.1"}
            names |= {f"{ours}{a}.": f"{theirs}{b}." for a, b in pairs.items()}
    found = {}
    for name, value in network.state_dict().items():
        start = next(s for s in names if name.startswith(s))
        found[names[start] + name.removeprefix(start)] = value
    return found


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}}])
def test_resnet_of_a_deeplense_checkpoint(tmp_path, wrap):
    network = networks.build_network("resnet18", 50, 3, seed=7)
    images = torch.randn(16, 1, 50, 50)
    networks.recalibrate_batch_norm(network, images).eval()
    weights = as_torchvision(network)
    assert len(weights) == 122 and "layer4.1.bn2.running_var" in weights and "layer2.0.downsample.0.weight" in weights
    torch.save(wrap(weights), tmp_path / "model.pth")
    loaded, classes = conventions.load_resnet(tmp_path / "model.pth", 50, "common-test")
    assert classes == ("no_sub", "cdm", "axion")
    torch.testing.assert_close(loaded(images), network(images))


def test_checkpoints_that_cannot_be_used(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("owned",))

    torch.save({"model": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(DataError, match="something else than weights, so it was not opened"):
        conventions.load_resnet(tmp_path / "hostile.pth", 50)
    assert not (tmp_path / "ran").exists()
    weights = as_torchvision(networks.build_network("resnet18", 50, 2))
    torch.save(weights, tmp_path / "two.pth")
    with pytest.raises(DataError, match="no whole ResNet with 3 logits"):
        conventions.load_resnet(tmp_path / "two.pth", 50)
    torch.save(weights | {"attention.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="'attention.weight' is no weight of a ResNet"):
        conventions.load_resnet(tmp_path / "other.pth", 50)


def test_model_folder(rings, tmp_path):
    folder = conventions.write_model_folder(rings, tmp_path / "Model_X", "models")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*")) == [
        f"{part}/{name}" for part in ("test", "train") for name in ("axion", "cdm", "no_sub")
    ]
    back = read(folder)
    assert set(back.classes) == set(CLASSES) and len(back) == len(rings)
    assert (back.catalogue["source_part"] == "test").sum() == len(rings.part("test"))
    theirs = conventions.write_model_folder(rings, tmp_path / "Common_Test", "common-test")
    assert {p.name for p in (theirs / "train").iterdir()} == {"no", "sphere", "vort"}
    assert read(theirs).catalogue["class"].value_counts().to_dict() == rings.catalogue["class"].value_counts().to_dict()


def test_encoder_and_classifier_are_the_network(rings, run):
    trained = load_run(run)
    encoder, classifier = conventions.split_for_adaptation(trained, "common-test")
    images = np.array(rings.part("test").images)
    with torch.no_grad():
        logits = classifier(encoder.eval()(torch.from_numpy(images)))
    expected = trained.predict(images)[:, order_of(CLASSES, "common-test")]
    np.testing.assert_allclose(torch.softmax(logits.double(), 1).numpy(), expected, atol=1e-6)


def test_the_domain_adaptation_package_trains_them(rings, run, tmp_path):
    supervised = pytest.importorskip(
        "deeplense_domain_adaptation.algorithms.supervised",
        reason="pip install --no-deps deeplense-domain-adaptation==1.0.0 (its own pins are too old for this Python)",
    )
    adda = pytest.importorskip("deeplense_domain_adaptation.algorithms.adda")
    discriminator = pytest.importorskip("deeplense_domain_adaptation.networks.discriminator")
    encoder, classifier = conventions.split_for_adaptation(load_run(run), "common-test")
    train, position = rings.part("train"), np.argsort(order_of(CLASSES, "common-test"))
    data = torch.from_numpy(np.array(train.images)), torch.from_numpy(position[train.labels])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=16)
    settings = {"learning_rate": 1e-3, "weight_decay": 0.0, "cyclic_scheduler": True}
    algorithm = supervised.Supervised(encoder, classifier)
    before = algorithm.evaluate(loader)
    encoder, classifier = algorithm.train(loader, loader, 2, settings, tmp_path / "weights.pth")
    assert algorithm.evaluate(loader) >= min(before, algorithm.history["accuracy"][0])
    target, _ = conventions.split_for_adaptation(load_run(run), "common-test")
    size = classifier.fc.in_features
    settings |= {"learning_rate_target": 1e-4, "learning_rate_discriminator": 1e-4}
    adaptation = adda.Adda(encoder, target, classifier, discriminator.Discriminator(size, 16))
    adaptation.train(loader, loader, loader, 1, settings, tmp_path / "adapted.pth")
    assert len(adaptation.history["loss_encoder"]) == 1 and np.isfinite(adaptation.history["loss_encoder"][0])


@pytest.mark.parametrize(
    "content",
    [torch.ones(3), [1, 2], {"conv1.weight": 3}, {"model": torch.ones(1)}],
    ids=["tensor", "list", "number", "key"],
)
def test_files_that_hold_no_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(DataError, match="no state_dict|no weight of a ResNet"):
        conventions.load_resnet(tmp_path / "model.pth", 64)
    with pytest.raises(DataError, match="nothing exists"):
        conventions.load_resnet(tmp_path / "nowhere.pth", 64)
