"""The networks of the study with the interface of scikit-learn: `LensClassifier` and `MassRegressor`.

Both take images as an array `(N, H, W)` or `(N, C, H, W)`, or flattened to `(N, H * W)`, and are trained as in the
study: the same turns and reflections, schedule and choice of the epoch. Their parameters are plain numbers and names,
so that scikit-learn can clone them, search over them, cross-validate them and put them into pipelines.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess
from lensstudy.networks import groups as symmetry
from lensstudy.networks import registry as networks
from lensstudy.study import Study
from lensstudy.training.fitting import fit, load_run

__all__ = ["LensClassifier", "MassRegressor", "as_images"]

LOG_SPREADS = (-5.0, 5.0)  # of one image, in units of the spread of all: beyond them the likelihood teaches nothing


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


class _LensEstimator(BaseEstimator):
    """Parameters that both estimators share, with the meaning that they have in a study."""

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
        augmentation: bool = True,
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


class LensClassifier(ClassifierMixin, _LensEstimator):
    """A network of the study as a classifier of scikit-learn.

        scores = cross_val_score(LensClassifier(epochs=12), images, labels, scoring="roc_auc_ovr")

    Parameters are those of a study; `random_state` is its seed. `classes_` are the labels in the order of the columns
    of `predict_proba`. A part of the images, `validation_fraction`, chooses the epoch and is not trained on.
    """

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


class MassRegressor(RegressorMixin, _LensEstimator):
    """The logarithm of a mass from an image, by the networks of the study: `y` is log10 of the mass of the axion in eV
    or of the substructure in solar masses (columns `axion_mass` and `substructure_mass` of a catalogue).

    The network says a mean and a spread for each image, and learns both from the likelihood of a normal distribution
    (Nix and Weigend 1994): images that say nothing of the mass get a wide one. The epoch of the best likelihood on the
    validation images is kept, and the spreads are stretched until they are right there. Parameters are those of
    `LensClassifier`.
    """

    def fit(self, X, y) -> MassRegressor:
        """Train on images `X` and numbers `y` `(N,)`."""
        images, y = as_images(X), np.asarray(y, dtype=np.float64)
        if y.shape != (len(images),) or not np.isfinite(y).all():
            raise ValueError(f"{len(images)} images need as many finite numbers y; got shape {y.shape}")
        study = self._study()
        networks.check_name(study.network)
        train, validation = train_test_split(
            np.arange(len(y)), test_size=self.validation_fraction, random_state=self.random_state
        )
        self.preprocess_ = Preprocess.fit(images[train], study.scaling, study.crop, study.binning)
        self.centre_, self.spread_ = float(y[train].mean()), float(y[train].std()) or 1.0
        target = torch.from_numpy((y - self.centre_) / self.spread_).float()
        self.network_ = networks.build_network(
            study.network, self.preprocess_.size, 2, in_channels=images.shape[1], width=study.width, seed=study.seed
        )
        self.history_ = self._descend(torch.from_numpy(images), target, train, validation, study)
        mean, log_spread = self._outputs(torch.from_numpy(images[validation])).unbind(1)
        pull = (target[validation] - mean) / log_spread.exp()
        self.stretch_ = float(pull.square().mean().sqrt())
        self.image_shape_, self.n_features_in_ = images.shape[1:], int(np.prod(images.shape[1:]))
        return self

    def _descend(self, images, target, train, validation, study) -> list[float]:
        """Follow the gradient over the epochs; leaves the best weights in `network_`, returns the validation losses."""
        batches = max(len(train) // study.batch_size, 1)
        optimizer = torch.optim.AdamW(
            self.network_.parameters(), lr=study.learning_rate, weight_decay=study.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, study.learning_rate, total_steps=study.epochs * batches, pct_start=study.warmup_fraction
        )
        generator, best, losses = torch.Generator().manual_seed(study.seed), math.inf, []
        for _ in range(study.epochs):
            self.network_.train()
            order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]
            for rows in order.tensor_split(batches):
                shown = images[rows]
                if study.augmentation:
                    shown = symmetry.random_turn(shown, generator, size=self.preprocess_.crop)
                loss = _surprise(self.network_(self.preprocess_(shown)), target[rows])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network_.parameters(), study.gradient_clip or math.inf)
                optimizer.step()
                schedule.step()
            losses.append(float(_surprise(self._outputs(images[validation]), target[validation])))
            if not math.isfinite(losses[-1]):
                raise ValueError(f"the loss is {losses[-1]}; lower learning_rate, which is {study.learning_rate:g}")
            if losses[-1] < best:
                best, kept = losses[-1], {k: v.clone() for k, v in self.network_.state_dict().items()}
        self.network_.load_state_dict(kept)
        return losses

    @torch.no_grad()
    def _outputs(self, images: torch.Tensor) -> torch.Tensor:
        self.network_.eval()
        outputs = torch.cat([self.network_(self.preprocess_(part)) for part in images.split(128)])
        mean, log_spread = outputs.unbind(1)
        return torch.stack([mean, log_spread.clamp(*LOG_SPREADS)], 1)

    def predict(self, X, return_std: bool = False):
        """The expected `y` of each image `(N,)`; with `return_std` also its standard deviation."""
        outputs = self._outputs(torch.from_numpy(self._checked(X))).double().numpy()
        mean = self.centre_ + self.spread_ * outputs[:, 0]
        return (mean, self.spread_ * self.stretch_ * np.exp(outputs[:, 1])) if return_std else mean


def _surprise(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean negative log likelihood of a normal distribution, up to a constant: `s + ((y - m) / e^s)^2 / 2`."""
    mean, log_spread = outputs[:, 0], outputs[:, 1].clamp(*LOG_SPREADS)
    return (log_spread + 0.5 * ((target - mean) * torch.exp(-log_spread)).square()).mean()
