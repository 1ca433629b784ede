"""The networks with scikit-learn's interface: clones, pipelines, cross-validation, and masses."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from lensstudy.deployment.estimators import LensClassifier, as_images
from lensstudy.study import ParameterError

QUICK = {"network": "c4-steerable-cnn", "width": 0.5, "epochs": 5, "batch_size": 16, "learning_rate": 0.01}

# Those of scikit-learn's checks that need no table of a handful of features; all others fit on one.
CHECKS = [
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
]


@pytest.fixture(autouse=True)
def in_batch(monkeypatch):
    monkeypatch.setenv("LENSSTUDY_BATCH", "1")


@pytest.fixture(scope="module")
def spots():
    """Round and elongated spots as flat rows, labelled with text."""
    from tests.conftest import make_blobs

    blobs = make_blobs()
    return blobs.images.reshape(len(blobs), -1), blobs.catalogue["class"].to_numpy()


@pytest.mark.parametrize("check", CHECKS)
def test_checks_of_scikit_learn(check):
    getattr(estimator_checks, check)("LensClassifier", clone(LensClassifier(**QUICK)))


@pytest.fixture(scope="module")
def classifier(spots):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSSTUDY_BATCH", "1")
        return LensClassifier(**QUICK).fit(*spots)


def test_classifier(classifier, spots):
    images, labels = spots
    probabilities = classifier.predict_proba(images)
    assert classifier.classes_.tolist() == ["no_sub", "sub"] and probabilities.shape == (len(images), 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert classifier.score(images, labels) > 0.9
    assert (classifier.predict(images) == classifier.classes_[probabilities.argmax(1)]).all()
    square = classifier.predict_proba(images.reshape(-1, 16, 16))
    np.testing.assert_array_equal(square, probabilities)


def test_it_repeats_and_is_pickled(classifier, spots):
    images, labels = spots
    again = clone(classifier).fit(images, labels)
    np.testing.assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))
    copied = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copied.predict_proba(images), classifier.predict_proba(images))


def test_pipeline_cross_validation_and_search(spots):
    images, labels = spots
    pipeline = make_pipeline(FunctionTransformer(np.sqrt, validate=False), LensClassifier(**QUICK, scaling="min-max"))
    assert cross_val_score(pipeline, images - images.min(), labels, cv=2, scoring="roc_auc").mean() > 0.7
    search = GridSearchCV(LensClassifier(**QUICK), {"epochs": [1, 5]}, cv=2, scoring="roc_auc").fit(images, labels)
    assert search.best_score_ > 0.7 and len(search.cv_results_["params"]) == 2


def test_labels_are_numbers_as_well(spots):
    images, labels = spots
    numbers = np.where(labels == "sub", 7, 3)
    fitted = LensClassifier(**QUICK | {"epochs": 1}).fit(images, numbers)
    assert fitted.classes_.tolist() == [3, 7] and set(fitted.predict(images)) <= {3, 7}


def test_bad_input(classifier, spots):
    images, labels = spots
    with pytest.raises(NotFittedError):
        LensClassifier().predict(images)
    with pytest.raises(ValueError, match="255 features a row, which are no square image"):
        as_images(images[:, 1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        classifier.predict(np.where(np.arange(256) == 5, np.nan, images))
    with pytest.raises(ValueError, match=r"images of shape \(1, 14, 14\), and it was fitted on \(1, 16, 16\)"):
        classifier.predict(images.reshape(-1, 16, 16)[:, 1:-1, 1:-1])
    with pytest.raises(ValueError, match="only the class"):
        LensClassifier().fit(images, np.zeros(len(images)))
    with pytest.raises(ValueError, match="120 images, but labels of shape"):
        LensClassifier().fit(images, labels[:5])
    with pytest.raises(ParameterError, match="epochs = 0"):
        LensClassifier(epochs=0).fit(images, labels)
    with pytest.raises(ValueError, match="did you mean|Did you mean"):
        LensClassifier(network="resnet81").fit(images, labels)
