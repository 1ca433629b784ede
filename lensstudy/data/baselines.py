"""Shortcuts that a serious network must beat: what a few numbers that know nothing of dark matter say about the class.

Where `ring_moments` separate the classes, a network may do so by the size, place and shape of the ring alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from lensstudy.data.dataset import GROUPS, DataError, LensDataset, groups_of

__all__ = ["FEATURES", "baseline_auc", "baseline_scores", "fitted_scores", "halves", "ring_moments", "total_flux"]

BACKGROUND_SHARE = 0.1  # pixels fainter than this share of the peak are omitted: their noise would drown the moments


def ring_moments(images: np.ndarray) -> np.ndarray:
    """18 moments `(N, 18)` of the light of images `(N, C, H, W)`, in pixels, of the first channel.

    Mean and spread of the radius; for m = 1 to 4 `<cos m phi>`, `<r cos m phi>`, `<sin m phi>` and `<r sin m phi>`.
    """
    weights, radius, angle = ring_light(images)
    mean = weights @ radius
    moments = [mean, np.sqrt(np.clip(weights @ radius**2 - mean**2, 0, None))]
    for m in range(1, 5):
        for wave in (np.cos(m * angle), np.sin(m * angle)):
            moments += [weights @ wave, weights @ (radius * wave)]
    return np.stack(moments, axis=1)


def ring_light(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of the light of each pixel `(N, H W)`, and the pixels' distance and direction from the middle `(H W)`."""
    light = np.asarray(images, dtype=np.float64)[:, 0]
    height, width = light.shape[1:]
    light = light - np.median(light, axis=(1, 2), keepdims=True)
    light = np.where(light > BACKGROUND_SHARE * light.max(axis=(1, 2), keepdims=True), light, 0).reshape(len(light), -1)
    y, x = np.mgrid[:height, :width]
    x, y = x.ravel() - (width - 1) / 2, y.ravel() - (height - 1) / 2
    return light / np.maximum(light.sum(axis=1, keepdims=True), 1e-12), np.hypot(x, y), np.arctan2(y, x)


def total_flux(images: np.ndarray) -> np.ndarray:
    """Sum of all pixels, `(N, 1)`."""
    return np.asarray(images, dtype=np.float64).sum(axis=(1, 2, 3))[:, None]


FEATURES: dict[str, Callable] = {"ring_moments": ring_moments, "total_flux": total_flux}


def baseline_auc(
    dataset: LensDataset,
    features: str = "ring_moments",
    *,
    against: Sequence[str] | None = None,
    part: str = "test",
) -> float:
    """Area under the ROC curve of a quadratic ridge on `features`, fitted on the train part and judged on another.

    The mean over the classes, one against the rest; with `against`, over those classes only (`["no_sub"]` asks how well
    smooth lenses are told from all others). Raises `DataError` before `split`.
    """
    scores, labels = baseline_scores(dataset, features, part=part), dataset.part(part).labels
    wanted = [dataset.classes.index(name) for name in against or dataset.classes]
    return float(np.mean([roc_auc_score(labels == k, scores[:, k]) for k in wanted]))


def baseline_scores(dataset: LensDataset, features: str = "ring_moments", *, part: str = "test") -> np.ndarray:
    """What a quadratic ridge on `features`, fitted on the train part, says of the images of another, `(N, classes)`: in
    the place of probabilities for AUC and accuracy, though it may leave 0 to 1. Raises `DataError` before `split`."""
    check_features(features)
    return fitted_scores(dataset.part("train"), dataset.part(part), features)


def fitted_scores(train: LensDataset, judged: LensDataset, features: str) -> np.ndarray:
    """What a quadratic ridge on the features of `train` says of the images of `judged`, `(N, classes)`."""
    model = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), StandardScaler(), Ridge(10.0))
    model.fit(described(train, features), np.eye(len(train.classes))[train.labels])
    return model.predict(described(judged, features))


def halves(dataset: LensDataset) -> tuple[LensDataset, LensDataset]:
    """Two halves of a data set with equal shares of every class; images of one group (copies, bands of one lens) stay
    together."""
    together = groups_of(dataset.catalogue, dataset.description.get("grouped_by", GROUPS))
    split = StratifiedGroupKFold(2, shuffle=True, random_state=0).split(together, dataset.labels, together)
    first, second = next(split)
    return dataset.subset(first), dataset.subset(second)


def check_features(features: str) -> None:
    """Raise `DataError` for features that are unknown."""
    if features not in FEATURES:
        raise DataError(f"features '{features}' are unknown; known: {', '.join(FEATURES)}")


def described(dataset: LensDataset, features: str, piece: int = 1024) -> np.ndarray:
    """The features of all images, computed in pieces so that a memory map is never read whole."""
    check_features(features)
    pieces = [FEATURES[features](dataset.images[start : start + piece]) for start in range(0, len(dataset), piece)]
    return np.concatenate(pieces)
