"""DeepLense's habits: classes by name in any order, their checkpoints, their folders, their encoder and classifier."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

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


@pytest.fixture(autouse=True)
def no_checkpoint_stays(tmp_path):
    """Each takes 45 MB, and pytest keeps the folders of three runs."""
    yield
    for file in [*tmp_path.glob("*.pth"), *tmp_path.glob("*.ckpt"), *tmp_path.glob("*.safetensors")]:
        file.unlink()


def as_torchvision(network) -> dict:
    """The weights of our ResNets under torchvision's names, which are written out here independently."""
    names = {"body.conv.": "conv1.", "body.norm.": "bn1.", "classifier.": "fc."}
    for stage in range(1, 5):
        for block in range(1, 7):
            ours, theirs = f"body.block{stage}-{block}.", f"layer{stage}.{block - 1}."
            pairs = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2", "conv3": "conv3"}
            pairs |= {"norm3": "bn3", "shortcut.0": "downsample.0", "shortcut.1": "downsample.1"}
            names |= {f"{ours}{a}.": f"{theirs}{b}." for a, b in pairs.items()}
    found = {}
    for name, value in network.state_dict().items():
        start = next(s for s in names if name.startswith(s))
        found[names[start] + name.removeprefix(start)] = value
    return found


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-18 with averages of its own, images, and its weights as torchvision names them."""
    network = networks.build_network("resnet18", 50, 3, seed=7)
    images = torch.randn(16, 1, 50, 50, generator=torch.Generator().manual_seed(0))
    networks.recalibrate_batch_norm(network, images).eval()
    weights = as_torchvision(network)
    assert len(weights) == 122 and "layer4.1.bn2.running_var" in weights and "layer2.0.downsample.0.weight" in weights
    return network, images, weights


def prefixed(prefix: str):
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


def head(name: str):
    return lambda weights: {key.replace("fc.", name): value for key, value in weights.items()}


def as_children(weights: dict) -> dict:
    """Under the names of `nn.Sequential(nn.Sequential(*list(resnet.children())[:-1]), Linear)`."""
    places = {"conv1": "0.0", "bn1": "0.1", "fc": "1"} | {f"layer{stage}": f"0.{stage + 3}" for stage in range(1, 5)}
    return {f"{places[name.split('.')[0]]}.{name.split('.', 1)[1]}": value for name, value in weights.items()}


WRAPPINGS = {
    "bare": lambda w: w,
    "key": lambda w: {"state_dict": w, "epoch": 3},
    "data parallel": lambda w: {"model_state_dict": prefixed("module.")(w)},
    "compiled": prefixed("_orig_mod."),
    "compiled inside": lambda w: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in w.items()},
    "timm's": prefixed("base_model."),
    "lightning": lambda w: {"state_dict": prefixed("model.net.")(w), "optimizer_states": [{"state": {}}]},
    "nest": lambda w: {"net": prefixed("_orig_mod.module.encoder.backbone.")(w)},
    "one's own prefix": prefixed("my_resnet."),
    "key in a key": lambda w: {"model": {"state_dict": w}},
    "dropout": head("fc.1."),
    "dropout, named": head("fc.linear."),
    "head beside": lambda w: head("classifier.")({f"encoder.{n}" if n[:2] != "fc" else n: v for n, v in w.items()}),
    "children": as_children,
    "half precision": lambda w: {n: v.half() if v.is_floating_point() else v for n, v in w.items()},
    "score of numpy": lambda w: {"model": w, "best": np.float64(0.98), "epoch": np.int64(7), "done": np.bool_(True)},
    "optimiser": lambda w: {"net": w, "optimizer": torch.optim.Adam([torch.nn.Parameter(w["fc.bias"])]).state_dict()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.filterwarnings("error")
def test_resnet_of_a_checkpoint(resnet, tmp_path, wrapping):
    network, images, weights = resnet
    torch.save(WRAPPINGS[wrapping](weights), tmp_path / "model.pth")
    loaded, classes = conventions.load_resnet(tmp_path / "model.pth", 50, "common-test")
    assert classes == ("no_sub", "cdm", "axion") and loaded.name == "resnet18" and not loaded.training
    tolerance = {"rtol": 0.02, "atol": 0.02} if wrapping == "half precision" else {}
    torch.testing.assert_close(loaded(images), network(images), **tolerance)


def test_resnet_in_safetensors(resnet, tmp_path):
    network, images, weights = resnet
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
    torch.testing.assert_close(conventions.load_resnet(tmp_path / "model.safetensors", 50)[0](images), network(images))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:999])
    with pytest.raises(DataError, match="cut.safetensors: cannot be read as safetensors"):
        conventions.load_resnet(tmp_path / "cut.safetensors", 50)


BESIDE = {
    "loss": ({"criterion.weight": torch.ones(3)}, "criterion.weight"),
    "loss_fn": ({"loss_fn.pos_weight": torch.ones(1)}, "loss_fn.pos_weight"),
    "metrics": ({"train_acc.tp": torch.zeros(3), "val_auroc.confmat": torch.zeros(3, 3)}, "train_acc.tp, val_auroc"),
    "many": ({f"metrics.MulticlassF1Score.state{i}": torch.zeros(3) for i in range(9)}, "state4 and 4 more"),
    "average": ({"n_averaged": torch.tensor(7)}, "n_averaged"),
    "number": ({"epoch": 3}, "epoch"),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_what_training_keeps_beside_a_network_is_ignored_and_named(resnet, tmp_path, beside):
    network, images, weights = resnet
    extra, named = BESIDE[beside]
    torch.save({"state_dict": prefixed("model.")(weights) | extra}, tmp_path / "model.ckpt")
    with pytest.warns(UserWarning, match=f"model.ckpt: ignored, as not part of the network: .*{named}"):
        loaded, _ = conventions.load_resnet(tmp_path / "model.ckpt", 50)
    torch.testing.assert_close(loaded(images), network(images))


def test_of_two_sets_of_weights_the_note_names_the_one_not_used(resnet, tmp_path):
    network, images, weights = resnet
    average = {name: torch.zeros_like(value) for name, value in weights.items()}
    torch.save({"state_dict_ema": average, "state_dict": weights}, tmp_path / "model.pth")
    with pytest.warns(UserWarning, match="under 'state_dict' are used, not those under state_dict_ema"):
        loaded, _ = conventions.load_resnet(tmp_path / "model.pth", 50)
    torch.testing.assert_close(loaded(images), network(images))


def test_one_logit_is_the_log_odds_of_the_second_class(resnet, tmp_path):
    network, images, weights = resnet
    one = weights | {"fc.weight": weights["fc.weight"][:1], "fc.bias": torch.tensor([0.3])}
    torch.save(one, tmp_path / "model.pth")
    with pytest.warns(UserWarning, match="one logit .'fc.weight'. is taken for the log odds of sub against no_sub"):
        loaded, classes = conventions.load_resnet(tmp_path / "model.pth", 50, "official")
    expected = torch.sigmoid(network.features(images) @ one["fc.weight"][0] + 0.3)
    assert classes == ("no_sub", "sub")
    torch.testing.assert_close(torch.softmax(loaded(images), 1)[:, 1], expected)
    with pytest.raises(DataError, match="model.pth: has 1 logit .*'models' names 3 classes.*names of its 2 classes"):
        conventions.load_resnet(tmp_path / "model.pth", 50)


def plain_resnet50(weights: dict, images: torch.Tensor) -> torch.Tensor:
    """The forward pass of ResNet-50 as He et al. and torchvision have it, written out independently of ours."""
    f = torch.nn.functional

    def norm(x, name):
        values = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return f.batch_norm(x, *values)

    def conv(x, name, **options):
        return f.conv2d(x, weights[f"{name}.weight"], **options)

    x = f.max_pool2d(f.relu(norm(conv(images, "conv1", stride=2, padding=3), "bn1")), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = f.relu(norm(conv(x, f"{name}.conv1"), f"{name}.bn1"))
            y = f.relu(norm(conv(y, f"{name}.conv2", stride=stride, padding=1), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
            if block == 0:
                x = norm(conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
            x = f.relu(x + y)
    return f.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_deeper_resnets_and_bands_are_known_by_their_shapes(tmp_path, name):
    options = {"bottleneck": True} if name == "resnet50" else {}
    network = networks.build_network("resnet34", 40, 3, in_channels=3, seed=3, **options)
    images = torch.randn(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    networks.recalibrate_batch_norm(network, images).eval()
    weights = as_torchvision(network)
    torch.save(weights, tmp_path / "model.pth")
    loaded, _ = conventions.load_resnet(tmp_path / "model.pth", 40)
    assert loaded.name == name and loaded.in_channels == 3
    torch.testing.assert_close(loaded(images), network(images))
    if name == "resnet50":
        assert sum(v.numel() for v in network.parameters()) - 3 * 2049 == 23_508_032  # torchvision's, but for its fc
        torch.testing.assert_close(loaded(images), plain_resnet50(weights, images), rtol=1e-3, atol=1e-3)


CHANGES = {
    "two logits": (lambda w: w | {"fc.weight": w["fc.weight"][:2], "fc.bias": w["fc.bias"][:2]}, "has 2 logits"),
    "attention": (lambda w: w | {"attention.weight": torch.zeros(3)}, "'attention.weight' is no weight of a ResNet"),
    "own mean": (lambda w: w | {"mean": torch.zeros(1)}, "'mean' is no weight of a ResNet.*write the file without it"),
    "biases": (lambda w: w | {"conv1.bias": torch.zeros(64)}, "'conv1.bias' is no weight of a ResNet"),
    "small stem": (
        lambda w: w | {"conv1.weight": torch.zeros(64, 1, 3, 3)},
        r"expected 'conv1.weight' of shape \(64, 1, 7, 7\), found \(64, 1, 3, 3\)",
    ),
    "a layer is missing": (
        lambda w: {n: v for n, v in w.items() if n != "layer3.1.bn1.running_var"},
        r"expected 'layer3.1.bn1.running_var' of shape \(256,\), found nothing",
    ),
    "deeper": (lambda w: w | {"layer1.2.conv1.weight": torch.zeros(3)}, r"of 3 \+ 2 \+ 2 \+ 2 basic blocks"),
    "encoder alone": (lambda w: {n: v for n, v in w.items() if "fc" not in n}, "without its last layer"),
    "two layers behind": (lambda w: head("fc.0.")(w) | {"fc.2.weight": torch.ones(3, 3)}, "fc.0.weight, fc.2.weight"),
    "teacher and student": (lambda w: prefixed("a.")(w) | prefixed("b.")(w), "several networks .a.conv1.*b.conv1"),
    "twice": (lambda w: w | prefixed("module.")(w), "several networks .*conv1.weight, module.conv1.weight"),
    "diverged": (lambda w: w | {"bn1.weight": torch.full((64,), torch.nan)}, "'bn1.weight' has values that are NaN"),
    "int8": (lambda w: w | {"conv1.weight": w["conv1.weight"].to(torch.int8)}, "'conv1.weight' is torch.int8"),
    "vgg": (lambda w: {"features.0.weight": torch.zeros(64, 1, 3, 3)}, "'features.0.weight' is no weight of a ResNet"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_networks_that_are_not_quite_a_resnet(resnet, tmp_path, change):
    edit, message = CHANGES[change]
    torch.save(edit(resnet[2]), tmp_path / "model.pth")
    with pytest.raises(DataError, match=f"model.pth: .*{message}"):
        conventions.load_resnet(tmp_path / "model.pth", 50)


def test_a_checkpoint_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("owned",))

    torch.save({"model": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(DataError, match="hostile.pth: .*so it was not opened .*runs its code.*model.state_dict"):
        conventions.load_resnet(tmp_path / "hostile.pth", 50)
    assert not (tmp_path / "ran").exists()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(DataError, match="module.pth: .*found 'torch.nn.modules.linear.Linear'.*model.state_dict"):
        conventions.load_resnet(tmp_path / "module.pth", 50)


def test_files_that_are_no_checkpoint(tmp_path):
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(DataError, match="text.pth: holds something else than weights"):
        conventions.load_resnet(tmp_path / "text.pth", 64)
    with pytest.raises(DataError, match="nowhere.pth: nothing exists"):
        conventions.load_resnet(tmp_path / "nowhere.pth", 64)
    with pytest.raises(DataError, match="is no file"):
        conventions.load_resnet(tmp_path, 64)
    with pytest.raises(DataError, match="order 'alphabetical' is unknown"):
        conventions.load_resnet(tmp_path / "text.pth", 64, "alphabetical")
    with pytest.raises(DataError, match="names one class twice"):
        conventions.load_resnet(tmp_path / "text.pth", 64, ("cdm", "sphere", "axion"))


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
    [torch.ones(3), [1, 2], {"conv1.weight": 3}, {"model": 1}],
    ids=["tensor", "list", "number", "key"],
)
def test_files_that_hold_no_state_dict(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(DataError, match="model.pth: holds no state_dict.*expected weights, bare or under one of"):
        conventions.load_resnet(tmp_path / "model.pth", 64)
