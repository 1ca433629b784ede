"""What the tests share: the folder of the checkout, the evaluation data, and a tiny data set."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from lensstudy.data.dataset import LensDataset

ROOT = Path(__file__).parent.parent
ALIKE = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=6, **ALIKE)
settings.register_profile("many", max_examples=300, **ALIKE)  # of `make bench`
settings.load_profile("few")
LONGEST = ("test_cli.py", "test_notebooks.py", "test_docs.py", "test_fitting.py")  # minutes each


def pytest_collection_modifyitems(items):
    """The longest files first, so that of two processes none is left with one of them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def evaluation_data() -> Path:
    """The folder of real evaluation data; the tests that use it skip where it is not."""
    folder = Path(os.environ.get("LENSSTUDY_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no evaluation data: set LENSSTUDY_DATA to the folder that holds deeplense-model-3/ and the others")
    return folder


@pytest.fixture
def blobs() -> LensDataset:
    return make_blobs()


def make_blobs() -> LensDataset:
    """Round and elongated blobs in any direction, with noise: two classes that a network learns in seconds."""
    generator = np.random.default_rng(5)
    size, each = 16, 60
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    images, classes = [], []
    for name, ratio in (("no_sub", 1.0), ("sub", 3.0)):
        for angle in generator.uniform(0, np.pi, each):
            u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            images.append(np.exp(-(u**2 / ratio + v**2 * ratio) / 8) + generator.normal(0, 0.05, x.shape))
            classes.append(name)
    names = [f"{name}-{i}" for i, name in enumerate(classes)]
    catalogue = pd.DataFrame({"name": names, "class": classes})
    images = np.array(images, np.float32)[:, None]
    return LensDataset(images, catalogue, ("no_sub", "sub"), {"source": "blobs"}).split(0.2, 0.2, seed=1)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory) -> Path:
    """A finished training on the blobs."""
    from lensstudy.study import Study
    from lensstudy.training.fitting import fit

    settings = Study(network="d4-steerable-cnn", width=0.5, epochs=6, batch_size=16, learning_rate=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_BATCH", "1")
        return fit(make_blobs(), settings, folder=tmp_path_factory.mktemp("training") / "d4-steerable-cnn-s1")


@pytest.fixture(scope="session")
def exported(run_folder, tmp_path_factory) -> Path:
    """The same network exported, for pixels of 0.1 arcsec."""
    from lensstudy.deployment.exporting import export

    return export(run_folder, tmp_path_factory.mktemp("exported") / "network", "onnx", make_blobs(), 0.1)
