"""The ONNX file of somebody else's folder is looked at before it is run, and belongs to the files beside it."""

import os
import shutil
import time

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from lensstudy.data.simulation import simulate
from lensstudy.deployment import onnx_network
from lensstudy.deployment.card import Card, CardError, file_hash
from lensstudy.deployment.exporting import export
from lensstudy.deployment.onnx_network import OnnxNetwork, write_onnx
from lensstudy.deployment.predictor import Predictor
from lensstudy.networks.folding import folded
from lensstudy.networks.registry import build_network, recalibrate_batch_norm
from lensstudy.study import Study
from lensstudy.training.fitting import fit

IMAGES = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 8, 8])
LOGITS = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
FEATURES = helper.make_tensor_value_info("features", TensorProto.FLOAT, None)


def write(file, nodes, initializers=(), **options):
    graph = helper.make_graph(nodes, "network", [IMAGES], [LOGITS, FEATURES], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], **options)
    file.write_bytes(model.SerializeToString())
    return file


def ends(source="images"):
    return [helper.make_node("Identity", [source], [name]) for name in ("logits", "features")]


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def loop(file):
    """Goes on for as long as a condition holds, which always does."""
    boolean = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    carried = helper.make_tensor_value_info("carried", TensorProto.FLOAT, None)
    more = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("result",)]
    still = helper.make_tensor_value_info("still", TensorProto.BOOL, [])
    body = [helper.make_node("Identity", ["go_on"], ["still"]), helper.make_node("Add", ["carried"] * 2, ["result"])]
    graph = helper.make_graph(body, "body", [number, boolean, carried], [still, *more])
    node = helper.make_node("Loop", ["", "yes", "images"], ["looped"], body=graph)
    return write(file, [node, *ends("looped")], [constant("yes", True)])


def branch(file):
    inner = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["result"])],
        "inner",
        [],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    return write(file, [node, *ends("chosen")], [constant("yes", True)])


def function(file):
    inner = helper.make_function(
        "own", "Relu", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 20)]
    )
    return write(file, ends(), functions=[inner])


def outside(file):
    data = constant("weights", np.zeros((8, 8), np.float32))
    data.ClearField("raw_data")
    data.data_location = TensorProto.EXTERNAL
    data.external_data.add(key="location", value="/etc/passwd")
    return write(file, [helper.make_node("MatMul", ["images", "weights"], ["out"]), *ends("out")], [data])


def huge(file):
    shape = constant("shape", np.array([1, 1, 2**20, 2**20]))
    return write(
        file,
        [
            helper.make_node("Slice", ["images", "zero", "one", "axes"], ["pixel"]),
            helper.make_node("Expand", ["pixel", "shape"], ["large"]),
            helper.make_node("ReduceMax", ["large"], ["out"]),
            *ends("out"),
        ],
        [shape, constant("zero", [0, 0]), constant("one", [1, 1]), constant("axes", [2, 3])],
    )


def many(file):
    nodes = [helper.make_node("Relu", [f"x{i}" if i else "images"], [f"x{i + 1}"]) for i in range(20_000)]
    return write(file, [*nodes, *ends("x20000")])


def foreign(file):
    return write(file, [helper.make_node("Own", ["images"], ["out"], domain="evil"), *ends("out")])


def nothing(file):
    file.write_bytes(b"")
    return file


def noise(file):
    file.write_bytes(os.urandom(1000))
    return file


def pipe(file):
    os.mkfifo(file)
    return file


@pytest.mark.parametrize("make", [loop, branch, function, outside, huge, many, foreign, nothing, noise, pipe])
def test_an_onnx_file_that_is_no_ordinary_network_is_not_run(tmp_path, make):
    start = time.monotonic()
    with pytest.raises(CardError, match=r"network\.onnx"):
        OnnxNetwork(make(tmp_path / "network.onnx"))
    assert time.monotonic() - start < 5


def test_a_module_of_ones_own_is_ordinary(tmp_path):
    class Own(torch.nn.Module):
        in_channels, image_size = 1, 16

        def __init__(self):
            super().__init__()
            kinds = (torch.nn.GELU, torch.nn.SiLU, torch.nn.ELU, torch.nn.Softplus, torch.nn.Tanh, torch.nn.Hardswish)
            layers = [layer for kind in kinds for layer in (torch.nn.Conv2d(4, 4, 3, padding=1), kind())]
            norms = [torch.nn.BatchNorm2d(4), torch.nn.GroupNorm(2, 4), torch.nn.InstanceNorm2d(4)]
            pools = [torch.nn.AvgPool2d(2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.LayerNorm(4)]
            self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), *layers, *norms, *pools, torch.nn.Dropout())
            self.classifier = torch.nn.Linear(4, 3)

        def features(self, images):
            return self.body(images)

        def forward(self, images):
            return self.classifier(self.features(images))

    network = Own().eval()
    images = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        expected = network(images)
    found = OnnxNetwork(write_onnx(network, tmp_path / "network.onnx")).features(images)[0]
    assert (found - expected).abs().max() < 1e-3  # norms over so few pixels magnify what is rounded


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exports of two trainings that differ in width, size and classes."""
    made = {}
    for name, size, width in (("one", 32, 0.25), ("other", 32, 0.5), ("larger", 48, 0.25)):
        folder = tmp_path_factory.mktemp(name)
        lenses = simulate("model_3", 12, seed=1, image_size=size).split(0.2, 0.2, seed=1)
        run = fit(lenses, Study(network="plain-cnn", width=width, epochs=1), folder=folder / "run")
        made[name] = export(run, folder / "export", dataset=lenses)
    return made


@pytest.mark.parametrize("name", ["network.onnx", "distribution.safetensors"])
def test_a_folder_sealed_with_parts_of_two_networks_is_refused(exports, tmp_path, name):
    """With hashes and a seal as they should be: somebody has made the card anew."""
    folder = shutil.copytree(exports["one"], tmp_path / "export")
    Predictor(folder)
    shutil.copyfile(exports["other"] / name, folder / name)
    card = Card.read(exports["one"])
    card.files[name] = file_hash(folder / name)
    card.write(folder)
    with pytest.raises(CardError, match="parts of several networks"):
        Predictor(folder)


@pytest.mark.parametrize("change", [{"size": 12}, {"channels": 3}, {"classes": ["a", "b"]}])
def test_a_card_of_another_network_is_refused(exports, tmp_path, change):
    folder = shutil.copytree(exports["one"], tmp_path / "export")
    card = Card.read(folder)
    for key, value in change.items():
        setattr(card if key == "classes" else card.images, key, value)
    card.write(folder)
    with pytest.raises(CardError, match="parts of several networks"):
        Predictor(folder)


@pytest.mark.parametrize("content", [{}, {"limits": np.ones(2)}, None])
def test_a_damaged_detector_is_named(exports, tmp_path, content):
    folder = shutil.copytree(exports["one"], tmp_path / "export")
    file = folder / "distribution.safetensors"
    if content is None:
        file.write_bytes(b"\xff" * 100)
    else:
        save_file(content, file)
    card = Card.read(exports["one"])
    card.files[file.name] = file_hash(file)
    card.write(folder)
    with pytest.raises(ValueError, match=r"distribution\.safetensors"):
        Predictor(folder)


@pytest.mark.parametrize("content", [b"", b"[" * 1_000_000, b'{"format":', b"\xff\xfe", b"[]", b'{"a":' * 99 + b"1"])
def test_a_damaged_card_is_named(exports, tmp_path, content):
    folder = shutil.copytree(exports["one"], tmp_path / "export")
    (folder / "card.json").write_bytes(content)
    with pytest.raises(CardError, match=r"card\.json"):
        Predictor(folder)


@pytest.mark.slow
def test_the_networks_that_lensstudy_builds_are_ordinary(tmp_path):
    for name in ("d4-steerable-cnn", "so2-harmonic", "o2-gated", "resnet18"):
        network = build_network(name, 32, 3, width=0.25, seed=1).eval()
        OnnxNetwork(write_onnx(network, tmp_path / f"{name}.onnx")).check(1, 32, 3)
        assert onnx.load(tmp_path / f"{name}.onnx").graph.node


@pytest.mark.parametrize(("name", "share"), [("d4-steerable-cnn", 0.2), ("d8-restricted", 0.2)])
def test_a_file_holds_each_filter_once_and_predicts_to_the_last_bit_as_with_all(name, share, tmp_path, monkeypatch):
    """Rotated filters are copies, which onnxruntime makes as it opens the file: what runs then is convolutions."""
    network = build_network(name, 32, 3, width=0.5, seed=1)
    images = torch.randn(20, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    recalibrate_batch_norm(network, images).eval()
    file = write_onnx(network, tmp_path / "network.onnx")
    found = OnnxNetwork(file).features(images)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(file, options)
    opened = onnx.load(tmp_path / "opened.onnx").graph
    assert {node.op_type for node in opened.node}.isdisjoint({"Gather", "Cast", "Transpose"})
    held = {numpy_helper.to_array(array).tobytes() for array in opened.initializer}
    convolutions = [one for one in folded(network).modules() if isinstance(one, torch.nn.Conv2d)]
    assert all(one.weight.contiguous().numpy().tobytes() in held for one in convolutions)
    monkeypatch.setattr(onnx_network, "_each_filter_once", lambda outputs, network: outputs)
    every = write_onnx(network, tmp_path / "every.onnx")
    assert all(torch.equal(*pair) for pair in zip(found, OnnxNetwork(every).features(images), strict=True))
    assert file.stat().st_size < share * every.stat().st_size
    assert b".py" not in file.read_bytes()  # nothing of the folders it was written in
