"""Scores on cases with known answers and against scikit-learn; coverage of intervals and false alarms of tests."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest, norm
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from lensstudy import evaluation
from lensstudy.data.dataset import LensDataset
from lensstudy.evaluation import intervals
from lensstudy.evaluation.scores import resampled

EXPERIMENTS = 2000


def probabilities_of(score):
    positive = 1 / (1 + np.exp(-score))
    return np.stack([1 - positive, positive], 1)


def binormal(generator, n, separation):
    """Labels and probabilities of a two-class problem whose AUC is known: Phi(separation / sqrt 2)."""
    labels = np.repeat([0, 1], n)
    return labels, probabilities_of(generator.normal(size=2 * n) + separation * labels)


def three_classes(generator, n, separation=1.0, classes=3):
    labels = generator.integers(0, classes, n)
    logits = generator.normal(size=(n, classes)) + separation * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_a_perfect_and_a_reversed_answer():
    labels = np.array([0, 0, 1, 1, 2, 2])
    right = np.eye(3)[labels]
    scores = evaluation.point_estimates(labels, right, ["a", "b", "c"])
    assert scores["accuracy"] == scores["auc"] == scores["auc_a"] == scores["average_precision"] == 1
    assert scores["log_loss"] == pytest.approx(0, abs=1e-9)
    assert scores["brier"] == scores["calibration_error"] == 0
    assert evaluation.auc(labels[:4], 1 - right[:4, :2]) == 0
    assert np.array_equal(evaluation.confusion(labels, right), np.eye(3))


def test_scores_with_known_values():
    """Two images, 0.8 for the truth and 0.6 for the other: half right, -ln 0.8 and -ln 0.4, and so on."""
    scores = evaluation.point_estimates(np.array([0, 1]), np.array([[0.8, 0.2], [0.6, 0.4]]), ["no", "yes"])
    assert scores["accuracy"] == 0.5
    assert scores["auc"] == 1
    assert scores["log_loss"] == pytest.approx(-(np.log(0.8) + np.log(0.4)) / 2)
    assert scores["brier"] == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert scores["calibration_error"] == pytest.approx((0.2 + 0.6) / 2)


def test_auc_of_two_normal_distributions():
    labels, probabilities = binormal(np.random.default_rng(1), 20_000, 1.0)
    assert evaluation.auc(labels, probabilities) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("classes", [2, 3])
def test_resampled_scores_are_those_of_scikit_learn_on_the_same_images(classes):
    """Every score of every resample, with ties among the probabilities, against one call for each resample."""
    generator = np.random.default_rng(2)
    labels, probabilities = three_classes(generator, 70, classes=classes)
    probabilities = np.round(probabilities, 1) + 0.011  # off the edges of the bins of confidence
    probabilities /= probabilities.sum(1, keepdims=True)
    weights = evaluation.resampling(labels, 5, seed=3)
    names = [str(k) for k in range(classes)]
    for metric in ("accuracy", "auc", "average_precision", "log_loss", "brier", "calibration_error"):
        fast = resampled(labels, probabilities, weights, metric)
        for value, drawn in zip(fast, weights.astype(int), strict=True):
            rows = np.repeat(np.arange(len(labels)), drawn)
            assert value == pytest.approx(
                evaluation.point_estimates(labels[rows], probabilities[rows], names)[metric], abs=1e-6
            ), metric


def test_macro_scores_are_those_of_scikit_learn():
    labels, probabilities = three_classes(np.random.default_rng(4), 200)
    scores = evaluation.point_estimates(labels, probabilities, ["a", "b", "c"])
    assert scores["auc"] == pytest.approx(metrics.roc_auc_score(labels, probabilities, multi_class="ovr"))
    assert evaluation.influence(labels, probabilities)[0] == pytest.approx(scores["auc"])
    assert evaluation.influence(labels, probabilities, "accuracy")[0] == pytest.approx(scores["accuracy"])
    assert scores["average_precision"] == pytest.approx(metrics.average_precision_score(labels, probabilities))
    assert scores["brier"] == pytest.approx(metrics.brier_score_loss(labels, probabilities, labels=[0, 1, 2]))
    expected = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 3)
    assert scores["calibration_error"] == pytest.approx(expected.item())


def test_resamples_keep_the_number_of_images_of_each_class():
    labels = np.array([0] * 7 + [1] * 3)
    weights = evaluation.resampling(labels, 50)
    assert weights.shape == (50, 10)
    assert (weights[:, :7].sum(1) == 7).all()
    assert (weights[:, 7:].sum(1) == 3).all()


# Coverage of intervals, false alarms of tests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "separation"),
    [
        (60, 2.0),
        (150, 4.0),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [(60, 1.0), (150, 3.2), (400, 4.6)]),
    ],
)
def test_the_interval_of_the_auc_covers_the_truth_as_often_as_it_says(n, separation):
    """95 % nominal covers 93 to 97 % of 2,000 experiments, at an AUC of 0.76, 0.92, 0.988, 0.9977 and 0.9994."""
    generator, truth, covered = np.random.default_rng(5), norm.cdf(separation / np.sqrt(2)), 0
    for _ in range(EXPERIMENTS):
        labels, probabilities = binormal(generator, n, separation)
        low, high = evaluation.interval(labels, [probabilities])
        covered += low <= truth <= high
    assert 0.93 <= covered / EXPERIMENTS <= 0.97


def test_the_interval_of_the_accuracy_covers_the_truth_as_often_as_it_says():
    """150 images of which a network gets nine in ten right: 93 to 97 % of 2,000 experiments."""
    generator, labels, covered = np.random.default_rng(6), np.repeat([0, 1], 75), 0
    for right in generator.random((EXPERIMENTS, 150)) < 0.9:
        low, high = evaluation.interval(labels, [np.eye(2)[np.where(right, labels, 1 - labels)]], "accuracy")
        covered += low <= 0.9 <= high
    assert 0.93 <= covered / EXPERIMENTS <= 0.97


@pytest.mark.slow
def test_the_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    """The Brier score of calibrated answers has a known mean, E[p (1 - p)]: 93 to 97 % of 2,000 experiments."""
    generator, covered = np.random.default_rng(7), 0
    truth = np.mean([p * (1 - p) for p in generator.beta(2, 2, 200_000)])
    for _ in range(EXPERIMENTS):
        p = generator.beta(2, 2, 100)
        labels = (generator.random(100) < p).astype(int)
        weights = evaluation.resampling(np.zeros(100, int), 400, seed=int(generator.integers(1e9)))
        low, high = evaluation.bootstrap_interval(labels, [np.stack([1 - p, p], 1)], weights, "brier")
        covered += low <= truth <= high
    assert 0.93 <= covered / EXPERIMENTS <= 0.97


@pytest.mark.parametrize(("temperature", "least"), [(1.0, 0.92), (0.4, 0.85)])
def test_the_interval_of_a_calibration_error_holds_the_truth(temperature, least):
    """Of calibrated answers it begins at zero; of answers that are too sure it holds the error of 200,000 of them, and
    not zero. Resampling raises this error, so that a percentile interval would miss both."""
    generator, experiments, covered = np.random.default_rng(9), 100, 0

    def answers(count):
        p = generator.beta(2, 2, count)
        labels = (generator.random(count) < p).astype(int)
        sure = 1 / (1 + (1 / p - 1) ** (1 / temperature))
        return labels, np.stack([1 - sure, sure], 1)

    labels, many = answers(200_000)
    truth = 0 if temperature == 1 else evaluation.point_estimates(labels, many, "ab")["calibration_error"]
    for number in range(experiments):
        labels, runs = answers(150)
        weights = evaluation.resampling(labels, 100, seed=number)
        low, high = evaluation.bootstrap_interval(labels, [runs], weights, "calibration_error")
        (value,) = resampled(labels, runs, np.ones((1, len(labels))), "calibration_error")
        assert low <= value <= high
        covered += low <= truth <= high
    assert least <= covered / experiments


@pytest.mark.parametrize("separation", [1.0, pytest.param(2.5, marks=pytest.mark.slow)])
def test_equal_networks_are_called_different_once_in_twenty(separation):
    """Two networks of one seed, equally good on the same images: p < 0.05 in 2 to 6.5 % of the experiments (near 1
    with few images intervals are longer than they had to be). McNemar's exact test may have fewer, never more."""
    generator, labels = np.random.default_rng(8), np.repeat([0, 1], 75)
    alarms, exact, experiments = 0, 0, EXPERIMENTS // 2
    for _ in range(experiments):
        truth = generator.normal(size=150) + separation * labels
        first, second = (probabilities_of(truth - separation / 2 + 0.5 * generator.normal(size=150)) for _ in range(2))
        _, low, high, p = evaluation.compare(labels, first, second)
        assert (p < 0.05) == (not low <= 0 <= high)
        alarms += p < 0.05
        exact += evaluation.mcnemar(labels, first, second) < 0.05
    assert 0.02 <= alarms / experiments <= 0.065
    assert exact / experiments <= 0.065


@pytest.mark.parametrize(
    ("first", "second", "seeds", "least"),
    [(0.96, 0.93, 2, 0.93), (0.999997, 0.9991, 5, 0.92)],
)
def test_intervals_over_images_and_seeds_cover_the_truth_of_all_of_both(first, second, seeds, least):
    """95 % nominal, 250 experiments: 93 %, less one binomial error; the table of docs/science.md has many more. Over
    images alone it is 34 to 85 %."""
    held = evaluation.coverage(first, second, seeds=seeds, images=150, between=0.25, experiments=250)
    assert min(held.values()) >= least - 0.015


def test_two_levels_are_the_variances_of_their_definition():
    """Scores made of a part that images do to all seeds and a part of each seed: both are found again, in the mean of
    many experiments; t has four degrees of freedom where seeds dominate and none are missing where images do."""
    generator, labels, found = np.random.default_rng(13), np.repeat([0, 1], 200), []
    for _ in range(300):
        shared, own = generator.normal(size=400), generator.normal(size=(5, 400))
        shares = (1 + 0.5 * shared + 0.5 * own) / 400
        found.append(
            intervals.spread(labels, intervals.Measured(shares.sum(1) + 0.03 * generator.normal(size=5), shares))
        )
    assert np.mean([one.common for one in found]) == pytest.approx(0.25 / 400, rel=0.05)
    assert np.mean([one.seeds for one in found]) == pytest.approx((0.03**2 + 0.25 / 400) / 5, rel=0.1)
    assert intervals.Spread(0.0, 0.0, 1.0, np.inf, 4).reach(0.95) == pytest.approx(2.776445)
    assert intervals.Spread(1.0, 1.0, 0.0, np.inf, 4).reach(0.95) == pytest.approx(1.959964)


def test_networks_of_different_seeds_are_not_compared():
    labels, one = binormal(np.random.default_rng(14), 20, 1.0)
    with pytest.raises(ValueError, match="2 runs against 1; expected as many of each"):
        evaluation.compare(labels, [one, one], one)


def test_the_variance_of_delong_is_that_of_its_definition():
    """Structural components by comparing every member with every other, as DeLong et al. (1988) write them."""
    generator = np.random.default_rng(9)
    labels, first = binormal(generator, 30, 1.0)
    second = np.round(probabilities_of(np.log(first[:, 1] / first[:, 0]) + generator.normal(size=60)), 1)

    def components(p):
        inside, outside = p[labels == 1, 1][:, None], p[labels == 0, 1][None]
        wins = (inside > outside) + 0.5 * (inside == outside)
        return wins.mean(), wins.mean(1), wins.mean(0)

    (one, v10, v01), (two, w10, w01) = components(first), components(second)
    error = np.sqrt(np.var(v10 - w10, ddof=1) / 30 + np.var(v01 - w01, ddof=1) / 30)
    found = evaluation.compare(labels, [first], [second])
    assert found.value == pytest.approx(one - two)
    difference = evaluation.influence(labels, first)[1] - evaluation.influence(labels, second)[1]
    assert intervals.standard_error(labels, difference) == pytest.approx(error)
    assert found.low <= found.value - 1.959964 * error and found.value + 1.959964 * error <= found.high


def test_equal_networks_differ_by_nothing_and_a_better_one_is_ahead():
    generator = np.random.default_rng(3)
    labels, good = binormal(generator, 150, 2.0)
    _, poor = binormal(generator, 150, 0.5)
    assert evaluation.compare(labels, [good], [good]) == (0, 0, 0, 1)
    ahead = evaluation.compare(labels, [good], [poor])
    assert 0 < ahead.low < ahead.value < ahead.high
    assert ahead.p < 0.001
    table = evaluation.pairwise(labels, {"good": [good], "poor": [poor], "same": [good]})
    assert len(table) == 3
    assert table.p[0] == pytest.approx(min(3 * ahead.p, 1))
    assert table.p[1] == 1
    assert len(evaluation.pairwise(labels, {"good": [good]})) == 0


def test_two_networks_that_are_always_right_are_not_equal_for_certain():
    """The rule of three, as no image tells them apart; a network without information is not significantly behind."""
    labels = np.repeat([0, 1], 20)
    right, surer, nothing = probabilities_of(labels - 0.5), probabilities_of(3.0 * labels - 1), np.full((40, 2), 0.5)
    for metric, images in (("auc", 20), ("accuracy", 40)):
        found = evaluation.compare(labels, [right], [surer], metric)
        reach = 1 - 0.05 ** (1 / images)
        assert found == pytest.approx((0, -reach, reach, 1))
        behind = evaluation.compare(labels, [nothing], [right], metric)
        assert behind.high < 0 and behind.p < 0.001
        assert evaluation.compare(labels, [right], [right], metric) == (0, 0, 0, 1)
    few = evaluation.compare(labels[18:22], [right[18:22]], [nothing[18:22]])
    assert few.low < 0 < few.value < few.high
    assert few.p > 0.05


def test_mcnemar_is_the_binomial_test_of_the_images_that_one_network_alone_gets_right():
    labels = np.zeros(20, int)
    first, second = np.eye(2)[np.r_[[1] * 2, [0] * 18]], np.eye(2)[np.r_[[0] * 2, [1] * 8, [0] * 10]]
    assert evaluation.mcnemar(labels, first, second) == pytest.approx(binomtest(8, 10).pvalue)
    assert evaluation.mcnemar(labels, first, first) == 1


def test_holm_as_worked_out_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 raised to what stands before it, 0.6."""
    assert evaluation.holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert len(evaluation.holm([])) == 0


def test_a_score_of_one_is_not_certain_and_one_image_a_class_says_nothing():
    labels = np.repeat([0, 1], 30)
    low, high = evaluation.interval(labels, [np.eye(2)[labels]])
    assert (low, high) == (pytest.approx(0.05 ** (1 / 30)), 1)
    low, high = evaluation.interval(labels, [np.eye(2)[labels]], "accuracy")
    assert low == pytest.approx(binomtest(60, 60, alternative="greater").proportion_ci(0.95).low)
    assert evaluation.interval(labels[29:31], [np.eye(2)]) == (0, 1)


def test_wilson_is_scipys_and_takes_means_over_seeds():
    for right, images in ((3, 10), (10, 10), (0, 7)):
        expected = binomtest(right, images).proportion_ci(method="wilson")
        assert evaluation.wilson(right / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert evaluation.wilson(0.25, 10)[0] < evaluation.wilson(0.3, 10)[0]


def test_images_of_a_group_count_as_one_where_they_are_alike_and_as_many_where_they_are_not():
    generator, groups = np.random.default_rng(11), np.repeat(np.arange(50), 20)
    one_each = generator.random(50) < 0.3
    assert intervals.effective(one_each[groups], groups) == pytest.approx(50, rel=0.05)
    assert intervals.effective(generator.random(1000) < 0.3, groups) == pytest.approx(1000, rel=0.35)
    assert intervals.effective(np.zeros(1000, bool), groups) == 50


def test_the_interval_of_grouped_images_is_that_of_resampled_groups():
    """Of images whose group shifts their score more in one class than in the other."""
    generator, groups = np.random.default_rng(12), np.tile(np.arange(40), 12)
    labels = np.repeat([0, 1], 240)
    scores = generator.normal(size=480) + labels + generator.normal(size=40)[groups] * (0.2 + labels)
    runs = [np.stack([-scores, scores], 1)]
    grouped = intervals.of_groups(labels, intervals.measured(labels, runs), groups)
    low, high = intervals.interval_of(np.zeros(40, int), grouped, "accuracy")

    def again() -> float:
        chosen = np.concatenate([np.flatnonzero(groups == one) for one in generator.integers(0, 40, 40)])
        return metrics.roc_auc_score(labels[chosen], scores[chosen])

    expected = np.quantile([again() for _ in range(400)], [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.02)
    alone = evaluation.interval(labels, runs)
    assert high - low > 1.2 * (alone[1] - alone[0])


# Calibration and tables -----------------------------------------------------------------------------------------------


def test_the_temperature_of_logits_that_were_made_too_large_is_found_again():
    generator = np.random.default_rng(10)
    logits = 2 * generator.normal(size=(20_000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([generator.choice(3, p=p) for p in honest])
    too_sure = evaluation.tempered(honest, 1 / 3)
    calibration = evaluation.calibrate(labels, too_sure)
    assert calibration.temperature == pytest.approx(3, rel=0.05)
    assert calibration.log_loss_before == pytest.approx(metrics.log_loss(labels, too_sure))
    after = calibration.apply(too_sure)
    assert calibration.log_loss_after == pytest.approx(metrics.log_loss(labels, after))
    assert np.array_equal(after.argmax(1), too_sure.argmax(1))
    errors = [evaluation.point_estimates(labels, p, "abc")["calibration_error"] for p in (too_sure, after)]
    assert errors[1] < 0.02 < errors[0]
    table = evaluation.reliability(labels, after)
    assert table.images.sum() == len(labels)
    assert np.average(abs(table.confidence - table.right), weights=table.images) == pytest.approx(errors[1], abs=1e-6)


def test_a_calibration_is_never_more_confident_than_the_images_can_show():
    labels = np.arange(40) % 2
    sure = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    assert evaluation.calibrate(labels, sure).temperature == 1
    wrong = labels.copy()
    wrong[:20] = 1 - wrong[:20]  # right for half of them: nothing is known
    assert evaluation.calibrate(wrong, sure).temperature > 10


def test_a_balanced_calibration_is_that_of_as_many_images_of_each_class():
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet([1, 1], size=60)
    labels = np.array([0] * 40 + [1] * 20)
    twice = np.concatenate([np.arange(60), np.arange(40, 60)])  # the rare class once more
    expected = evaluation.calibrate(labels[twice], probabilities[twice]).temperature
    assert evaluation.calibrate(labels, probabilities, balanced=True).temperature == pytest.approx(expected)
    assert evaluation.calibrate(labels, probabilities).temperature != pytest.approx(expected)


def test_the_largest_change_is_that_of_any_probability():
    first, second = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.4, 0.6], [0.9, 0.1]])
    assert evaluation.largest_change([first, second, first]) == pytest.approx([0.1, 0.0])


def test_the_table_of_scores_has_the_mean_over_seeds_and_intervals_around_it():
    labels, first = three_classes(np.random.default_rng(11), 300)
    second = evaluation.tempered(first, 2.0)
    table = evaluation.score(labels, [first, second])
    assert table.value["auc"] == pytest.approx(metrics.roc_auc_score(labels, first, multi_class="ovr"), abs=0.02)
    assert table.value["log_loss"] == pytest.approx(np.mean([metrics.log_loss(labels, p) for p in (first, second)]))
    assert (table.low < table.value).all() and (table.value < table.high).all()
    assert (table.low["auc"], table.high["auc"]) == evaluation.interval(labels, [first, second])
    images = np.zeros((300, 1, 4, 4), np.float32)
    catalogue = pd.DataFrame({"name": [str(k) for k in range(300)], "class": [f"c{k}" for k in labels]})
    dataset = LensDataset(images, catalogue, ("c0", "c1", "c2"), {})
    pd.testing.assert_frame_equal(evaluation.score(dataset, [first, second]), table)
    assert evaluation.compare(dataset, first, first) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="probabilities \\(299, 3\\); expected \\(300, 3\\)"):
        evaluation.score(labels, first[1:])
    with pytest.raises(ValueError, match="no image of class 2"):
        evaluation.score(labels.clip(0, 1), first)


def test_summary_has_the_mean_over_seeds_and_says_when_there_is_one():
    generator = np.random.default_rng(4)
    labels, one = binormal(generator, 80, 1.5)
    _, two = binormal(generator, 80, 1.0)
    answers = pd.DataFrame(
        [
            {"network": "a", "seed": 1, "perturbation": "unperturbed", "probabilities": one},
            {"network": "a", "seed": 2, "perturbation": "unperturbed", "probabilities": two},
            {"network": "b", "seed": 1, "perturbation": "unperturbed", "probabilities": two},
            {"network": "b", "seed": 1, "perturbation": "unperturbed", "probabilities": one},
        ]
    )
    table = evaluation.summarise(labels, answers, ["no", "yes"]).set_index("network")
    expected = np.mean([evaluation.auc(labels, one), evaluation.auc(labels, two)])
    assert table.auc["a"] == table.auc["b"] == pytest.approx(expected)
    assert table.auc_low["a"] < table.auc["a"] < table.auc_high["a"]
    assert table.auc_std["a"] > 0
    assert table.seeds["b"] == 1  # two draws of a perturbation are no second seed
    assert np.isnan(table.auc_std["b"])


def test_a_network_behind_is_behind_by_what_the_other_is_ahead():
    first, second = evaluation.Difference(0.02, 0.01, 0.04, 0.001), evaluation.Difference(-0.02, -0.04, -0.01, 0.001)
    assert evaluation.in_words(first, "b") == "ahead of b by 0.020 [0.010, 0.040]"
    assert evaluation.in_words(second, "b") == "behind b by 0.020 [0.010, 0.040]"


def test_digits_follow_the_width_of_the_interval():
    assert evaluation.format_interval(0.97, 0.95, 0.98) == "0.970 [0.950, 0.980]"
    assert evaluation.format_interval(0.99995, 0.9999, 1.0) == "0.99995 [0.99990, 1.00000]"
    assert evaluation.format_p(0.0002) == "< 0.001"
    assert evaluation.format_p(0.0312) == "0.031"
