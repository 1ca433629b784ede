"""The networks of the study with the interface of scikit-learn: `LensClassifier`.

It takes images as an array `(N, H, W)` or `(N, C, H, W)`, or flattened to `(N, H * W)`, and is trained as in the study:
the same rotations and reflections, schedule and choice of the epoch. Its parameters are plain numbers and names, so
that scikit-learn can clone it, search over them, cross-validate it and put it into pipelines.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from lensstudy.data.dataset import LensDataset
from lensstudy.study import Study
from lensstudy.training.fitting import fit, load_run

__all__ = ["LensClassifier", "as_images"]


def as_images(X) -> np.ndarray:
    """`X` as finite images `(N, C, H, W)` in float32. Raises `ValueError` for an array that holds no square images."""
    X = np.asarray(X)
    if X.dtype.kind not in "biuf":
        raise ValueError(f"X has dtype {X.dtype}; expected numbers")
    if X.ndim == 2:
        side = math.isqrt(X.shape[1])
        if side * side != X.shape[1] or side < 8:
            raise ValueError(f"X has {X.shape[1]} features a row, which are no square image of 8 x 8 pixels or more")
        X = X.reshape(-1, side, side)
    X = X[:, None] if X.ndim == 3 else X
    if X.ndim != 4 or X.shape[2] != X.shape[3] or not len(X):
        raise ValueError(f"X has shape {X.shape}; expected square images (N, H, H), (N, C, H, H) or (N, H * H)")
    if not np.isfinite(X).all():
        raise ValueError("X holds NaN or infinite pixels; fill them or leave these images out")
    return X.astype(np.float32)


class LensClassifier(ClassifierMixin, BaseEstimator):
    """A network of the study as a classifier of scikit-learn.

        scores = cross_val_score(LensClassifier(epochs=12), images, labels, scoring="roc_auc_ovr")

    Parameters are those of a study; `random_state` is its seed. `classes_` are the labels in the order of the columns
    of `predict_proba`. A part of the images, `validation_fraction`, chooses the epoch and is not trained on.
    """

    def __init__(
        self,
        network: str = "d4-steerable-cnn",
        width: float = 1.0,
        epochs: int = 8,
        batch_size: int = 32,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        scaling: str = "asinh",
        crop: int = 0,
        binning: int = 1,
        augmentation: str = "mixed",
        validation_fraction: float = 0.1,
        random_state: int = 0,
    ):
        self.network, self.width, self.epochs, self.batch_size = network, width, epochs, batch_size
        self.learning_rate, self.weight_decay, self.scaling = learning_rate, weight_decay, scaling
        self.crop, self.binning, self.augmentation = crop, binning, augmentation
        self.validation_fraction, self.random_state = validation_fraction, random_state

    def _study(self) -> Study:
        given = {name: value for name, value in self.get_params().items() if name != "random_state"}
        return Study.of(given | {"seed": self.random_state}, type(self).__name__)

    def _checked(self, X) -> np.ndarray:
        check_is_fitted(self)
        images = as_images(X)
        if images.shape[1:] != self.image_shape_:
            raise ValueError(f"X has images of shape {images.shape[1:]}, and it was fitted on {self.image_shape_}")
        return images

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, True
        tags.non_deterministic = False
        return tags

    def fit(self, X, y) -> LensClassifier:
        """Train on images `X` and labels `y` `(N,)`, two classes or more with three images or more each."""
        images, y = as_images(X), np.asarray(y)
        check_classification_targets(y)
        if y.shape != (len(images),):
            raise ValueError(f"{len(images)} images, but labels of shape {y.shape}; expected one label an image")
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"only the class {self.classes_[0]!r} is there; a classifier needs two or more")
        names = tuple(map(str, self.classes_))
        catalogue = pd.DataFrame({"name": [f"image-{i}" for i in range(len(y))], "class": np.take(names, labels)})
        validation = max(self.validation_fraction, len(names) / len(y))
        _, kept = train_test_split(
            np.arange(len(y)), test_size=validation, stratify=labels, random_state=self.random_state
        )
        catalogue["part"] = np.where(np.isin(np.arange(len(y)), kept), "validation", "train")
        dataset = LensDataset(images, catalogue, names, {"source": "arrays"})
        with tempfile.TemporaryDirectory() as folder:
            self.trained_ = load_run(fit(dataset, self._study(), folder=Path(folder) / "run"))
        self.image_shape_, self.n_features_in_ = images.shape[1:], int(np.prod(images.shape[1:]))
        return self

    def predict_proba(self, X) -> np.ndarray:
        """Probabilities `(N, classes)`, columns in the order of `classes_`."""
        images = self._checked(X)
        return self.trained_.predict(images)

    def predict(self, X) -> np.ndarray:
        """The most probable label of each image, `(N,)`."""
        chosen = self.predict_proba(X).argmax(1)
        return self.classes_[chosen]
