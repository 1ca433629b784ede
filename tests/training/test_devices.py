"""One rule says what runs where."""

import re
from pathlib import Path

import pytest
import torch

from lensstudy.study import ParameterError, Study
from lensstudy.training import devices

PACKAGE = Path(devices.__file__).parents[1]


@pytest.fixture
def gpus(monkeypatch):
    """Say how many GPUs torch finds."""

    def found(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return found


@pytest.mark.parametrize(
    ("accelerator", "count", "device"),
    [("auto", 0, "cpu"), ("cpu", 0, "cpu"), ("auto", 2, "cuda"), ("gpu", 1, "cuda"), ("cpu", 1, "cpu")],
)
def test_a_gpu_is_used_where_there_is_one_and_the_study_allows_it(gpus, accelerator, count, device):
    gpus(count)
    assert devices.device_of(accelerator).type == device
    assert devices.device_here(accelerator).type == device


def test_a_network_trained_on_a_gpu_predicts_where_there_is_none(gpus):
    gpus(0)
    with devices.on_device(torch.nn.Linear(2, 2), "gpu") as device:
        assert device.type == "cpu"


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({"accelerator": "gpu"}, 0, "accelerator = gpu: torch finds no GPU here; use auto or cpu"),
        ({"precision": "16-mixed"}, 0, "precision = 16-mixed: needs a GPU"),
        ({"devices": 4}, 1, "devices = 4: torch finds 1 GPU here"),
    ],
)
def test_what_this_machine_lacks_is_named(gpus, changes, count, message):
    gpus(count)
    with pytest.raises(ParameterError, match=message):
        devices.check_devices(Study(**changes))


@pytest.mark.parametrize("changes", [{"precision": "bf16-mixed"}, {"devices": 4}, {"accelerator": "cpu"}])
def test_a_processor_is_enough_for_all_else(gpus, changes):
    gpus(0)
    devices.check_devices(Study(**changes))


def test_nothing_else_in_the_package_chooses_a_device():
    choices = re.compile(
        r"cuda\.is_available|device_count|backends\.mps|torch\.device\(|accelerator=(?!device_of)|\.cuda\("
    )
    files = [file for file in PACKAGE.rglob("*.py") if file != Path(devices.__file__)]
    assert [str(file) for file in files if choices.search(file.read_text(encoding="utf-8"))] == []
