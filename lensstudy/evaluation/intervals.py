"""Intervals of AUC and accuracy over test images and trainings, and of the difference of two networks.

A score is meant for the mean over all trainings (seeds that draw training images, weights and order) on all images of
the kind. What is measured, the mean A over S seeds on N images, errs twice. Write A_s for the score of a seed,

    A_s = A + a_s + e + e_s,

with a_s what this training does, e what the test images do to every training alike, and e_s what they do to this one
alone. The variance of the mean over seeds is then, with B the variance between the S measured scores,

    var(A) = c + B / S,      c = var(e),

since B estimates var(a_s) + var(e_s). It is the model of readers and cases of Obuchowski & Rockette (1995, Commun.
Stat. Simul. 24, 285), with trainings for readers. Both parts are measured:

- What images do comes from the influence of each image on the score (DeLong, DeLong & Clarke-Pearson 1988, Biometrics
  44, 837). With V the variance of influences averaged over seeds and v the mean of those of single seeds, V = c + (v -
  c) / S, which gives c.
- B has S - 1 degrees of freedom, so two seeds say little. With t Student's quantiles, the reach

      sqrt(t_images^2 c + t_(S-1)^2 B / S)

  holds at least its nominal share, whichever part dominates (Banerjee 1961, Sankhya 23, 359). It is never less than
  over images alone, t_images sqrt(V), which is all that one seed gives.

The interval of a score is formed on the scale of log-odds, where it is nominal also near 1; that of a difference of two
networks, seed by seed and image by image, on the scale of the score, and longer on the side where one of them may still
be far from 1. `coverage` simulates how often they hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, stdtrit
from scipy.stats import norm, rankdata

__all__ = [
    "Spread",
    "coverage",
    "Measured",
    "difference",
    "difference_of",
    "effective",
    "influence",
    "interval",
    "interval_of",
    "judged",
    "measured",
    "of_groups",
    "spread",
    "standard_error",
    "wilson",
]

TINY = 1e-15
PERFECT = 1e-12  # distance from 0 or 1 below which a score is rounding away from it


def judged(probabilities: np.ndarray) -> Sequence[int]:
    """The classes over which a score is averaged: of two classes the second says all."""
    return [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])


def influence(labels: np.ndarray, probabilities: np.ndarray, metric: str = "auc") -> tuple[float, np.ndarray]:
    """The score `metric` ("auc" or "accuracy") and what each image adds to it to first order, `(N,)`.

    The terms are independent within each class, so their variance over images is that of the score. For the AUC they
    are DeLong's placements, in the fast form with ranks of Sun & Xu (2014, IEEE Signal Proc. Lett. 21, 1389): for a
    member of the class the share of the others that score below it, over the number of members, and the other way
    round; the mean placement of the members is the AUC.
    """
    if metric == "accuracy":
        right = probabilities.argmax(1) == labels
        return float(right.mean()), right / len(labels)
    classes, value, shares = judged(probabilities), 0.0, np.zeros(len(labels))
    for k in classes:
        member, score = labels == k, probabilities[:, k]
        ranks, m, n = rankdata(score), member.sum(), (~member).sum()
        above = (ranks[member] - rankdata(score[member])) / (m * n)
        shares[member] += above
        shares[~member] += 1 / n - (ranks[~member] - rankdata(score[~member])) / (m * n)
        value += above.sum()
    return float(value) / len(classes), shares / len(classes)


class Measured(NamedTuple):
    """A score of each seed, `(S,)`, and what each image adds to it, `(S, N)`."""

    values: np.ndarray
    shares: np.ndarray


def measured(labels: np.ndarray, runs: Sequence, metric: str = "auc") -> Measured:
    """The score of each seed and what each image adds to it. A run is an array of probabilities `(N, classes)`, or
    several of one seed (draws of a perturbation), which count together."""
    values, shares = [], []
    for run in runs:
        draws = [influence(labels, one, metric) for one in ([run] if np.ndim(run) == 2 else run)]
        values.append(np.mean([value for value, _ in draws]))
        shares.append(np.mean([share for _, share in draws], axis=0))
    return Measured(np.array(values), np.stack(shares))


def standard_error(strata: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Standard error over images of a score, from what each image adds to it, `(..., N)`; `strata` `(N,)` names the
    groups of images whose numbers are given."""
    members = [shares[..., strata == one] for one in np.unique(strata)]
    return np.sqrt(sum(one.shape[-1] * one.var(axis=-1, ddof=1) for one in members))


def of_groups(labels: np.ndarray, scored: Measured, groups: np.ndarray) -> Measured:
    """What each group of images adds to a score, where images of one group are alike, such as those that are made from
    one lens; `groups` `(N,)` names them. Groups are few and of any classes: `interval_of` and `difference_of` take them
    as images of one class, whose score is an accuracy.

    Example:
        >>> labels, groups = np.repeat([0, 1], 50), np.tile(np.arange(25), 4)
        >>> scores = np.random.default_rng(0).normal(size=25)[groups] + labels
        >>> scored = measured(labels, [np.stack([-scores, scores], 1)])
        >>> grouped = of_groups(labels, scored, groups)
        >>> low, high = interval_of(np.zeros(25, int), grouped, "accuracy")
        >>> bool(low < scored.values[0] < high)
        True
    """
    shares = scored.shares.copy()
    for one in np.unique(labels):
        shares[:, labels == one] -= shares[:, labels == one].mean(axis=1, keepdims=True)
    members = np.unique(groups, return_inverse=True)[1] == np.arange(len(np.unique(groups)))[:, None]
    return Measured(scored.values, shares @ members.T.astype(float))


def effective(hits: np.ndarray, groups: np.ndarray) -> float:
    """How many independent images tell a share as well as these do, of which those of one group are alike: their number
    over the factor by which the variance between groups exceeds the binomial one (Kish 1965); `hits` `(N,)` are true
    or false."""
    share, names = hits.mean(), np.unique(groups)
    if len(names) < 2 or share in (0, 1):
        return float(len(names))
    sums = np.array([(hits[groups == one] - share).sum() for one in names])
    variance = len(names) / (len(names) - 1) * (sums**2).sum() / len(hits) ** 2
    return float(min(len(hits), share * (1 - share) / variance)) if variance else float(len(hits))


@dataclass(frozen=True)
class Spread:
    """How far a mean over seeds may be from that over all trainings and images: the variance `images` that images give
    it, its part `common` to all seeds, that between `seeds`, and the degrees of freedom of the first and the last."""

    images: float
    common: float
    seeds: float
    images_freedom: float
    seeds_freedom: int

    def reach(self, level: float) -> float:
        """Half of the interval, on the scale of the score."""
        tail = (1 - level) / 2
        of_images = -stdtrit(self.images_freedom, tail)  # Student's quantile, faster than scipy.stats has it
        alone = of_images * np.sqrt(self.images)
        if not self.seeds_freedom:
            return float(alone)
        of_seeds = -stdtrit(self.seeds_freedom, tail) * np.sqrt(self.seeds)
        return float(max(alone, np.hypot(of_images * np.sqrt(self.common), of_seeds)))


def spread(labels: np.ndarray, scored: Measured, metric: str = "auc") -> Spread:
    """The spread of the mean over seeds of a score, or of a difference of two.

    For the AUC the variance is taken within each class, and for the accuracy over all images: a network that calls
    everything one class is right by luck of the draw, and within classes it would not vary.
    """
    values, shares = scored
    strata, seeds = labels if metric == "auc" else np.zeros_like(labels), len(values)
    together = shares.mean(axis=0)
    images = float(standard_error(strata, together) ** 2)
    freedom = _degrees_of_freedom(labels, together) if metric == "auc" else np.inf
    if seeds == 1:
        return Spread(images, images, 0.0, freedom, 0)
    alone = float(np.mean(standard_error(strata, shares) ** 2))
    common = max((seeds * images - alone) / (seeds - 1), 0.0)
    return Spread(images, common, float(values.var(ddof=1)) / seeds, freedom, seeds - 1)


def _degrees_of_freedom(labels: np.ndarray, shares: np.ndarray) -> float:
    """How well the variance of `shares` is known, in degrees of freedom: `2 / (relative variance of the variance)`
    (Satterthwaite 1946), which the fourth moment gives, plus 3, with which an interval holds the truth in 95 to 97 % of
    simulated experiments for AUCs of 0.92 to 0.9994; without, it is too wide where single images decide."""
    squares = np.concatenate([(one - one.mean()) ** 2 for one in (shares[labels == k] for k in np.unique(labels))])
    if not squares.any():
        return np.inf
    return 2 / ((squares**2).sum() / squares.sum() ** 2 - 1 / (len(squares) + 1)) + 3


def interval(labels: np.ndarray, runs: Sequence, metric: str = "auc", level: float = 0.95) -> tuple[float, float]:
    """Interval over test images and seeds of the mean of `metric` ("auc" or "accuracy") over `runs`, one a seed.

    `logit(score) +- reach / (score (1 - score))`. One seed gives an interval over images alone. Where every seed is
    always right, nothing varies, and the bound is what n successes in n trials allow (the rule of three), `(1 -
    level)^(1/n)`, for the AUC with the smallest class's n. A class of one image does not determine its spread: the
    interval is then 0 to 1.
    """
    return interval_of(labels, measured(labels, runs, metric), metric, level)


def interval_of(labels: np.ndarray, scored: Measured, metric: str = "auc", level: float = 0.95) -> tuple[float, float]:
    """`interval` of what has been measured."""
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2:
        return 0.0, 1.0
    value = float(scored.values.mean())
    if min(value, 1 - value) < PERFECT:
        bound = least_certain(counts, metric, level)
        return (bound, 1.0) if value > 0.5 else (0.0, 1 - bound)
    down, up = _distances(value, spread(labels, scored, metric).reach(level))
    return value - down, value + up


def _distances(value: float, reach: float) -> tuple[float, float]:
    """How far the interval on the scale of log-odds goes down from `value`, and up."""
    if min(value, 1 - value) < PERFECT:
        return 0.0, 0.0
    far = reach / (value * (1 - value))
    return float(value - expit(logit(value) - far)), float(expit(logit(value) + far) - value)


def difference(
    labels: np.ndarray, first: Sequence, second: Sequence, metric: str = "auc", level: float = 0.95
) -> tuple[float, float, float, float]:
    """How far the first of two networks is ahead, its interval over test images and seeds, and the p-value of none.

    Seed by seed, since the same seed draws the same training images for both, and image by image, since an image that
    is hard for both cancels. Near 1 the interval of a single score is longer downwards than upwards, and so is this
    one: on each side it is longer by as much as the two single ones together. `p` is the level at which the interval
    ends at zero.

    Raises:
        ValueError: the networks have different numbers of seeds.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} runs against {len(second)}; expected as many of each, one a seed, the same seed in the same "
            "place: drop the seeds that only one of them has"
        )
    if all(np.array_equal(one, other) for one, other in zip(first, second, strict=True)):
        return 0.0, 0.0, 0.0, 1.0
    one, other = (measured(labels, runs, metric) for runs in (first, second))
    return difference_of(labels, one, other, metric, level)


def difference_of(
    labels: np.ndarray, first: Measured, second: Measured, metric: str = "auc", level: float = 0.95
) -> tuple[float, float, float, float]:
    """`difference` of what has been measured of two networks that are not one and the same."""
    counts, ahead = (
        np.unique(labels, return_counts=True)[1],
        Measured(*(a - b for a, b in zip(first, second, strict=True))),
    )
    value = float(ahead.values.mean())
    if counts.min() < 2:
        return value, -1.0, 1.0, 1.0
    apart, each = spread(labels, ahead, metric), [spread(labels, one, metric) for one in (first, second)]
    means = [float(one.values.mean()) for one in (first, second)]
    if apart.reach(level) < TINY:
        bound = 1 - least_certain(counts, metric, level)
        return value, value - bound, value + bound, float((1 - abs(value)) ** _trials(counts, metric))

    def edges(level: float) -> tuple[float, float]:
        reaches = [part.reach(level) for part in each]
        (down, up), (other_down, other_up) = (_distances(*both) for both in zip(means, reaches, strict=True))
        linear, reach = np.hypot(reaches[0], reaches[1]), apart.reach(level)
        if linear < TINY:
            return value - reach, value + reach
        low, high = (max(1.0, np.hypot(*ends) / linear) for ends in ((down, other_up), (up, other_down)))
        return value - reach * low, value + reach * high

    low, high = edges(level)
    return value, float(low), float(high), _p_value(value, edges)


def _p_value(value: float, edges) -> float:
    """One minus the level at which the interval that `edges` gives ends at zero."""

    def beyond(log_p: float) -> float:
        low, high = edges(1 - np.exp(log_p))
        return -low if value > 0 else high

    least, most = np.log(1e-12), -1e-9  # outside, one minus p is no longer a level that differs from 1, or from 0
    if beyond(least) <= 0:
        return 0.0
    return float(np.exp(brentq(beyond, least, most))) if beyond(most) < 0 else 1.0


def least_certain(counts: np.ndarray, metric: str, level: float) -> float:
    """The least score that leaves every image right in more than `1 - level` of the cases: the rule of three."""
    return float((1 - level) ** (1 / _trials(counts, metric)))


def _trials(counts: np.ndarray, metric: str) -> int:
    return int(counts.min() if metric == "auc" else counts.sum())


def wilson(share: float, images: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of `images`; a mean over seeds need not be that of an integer."""
    z2 = norm.isf((1 - level) / 2) ** 2
    centre = (share + z2 / (2 * images)) / (1 + z2 / images)
    reach = np.sqrt(z2 * share * (1 - share) / images + z2**2 / (4 * images**2)) / (1 + z2 / images)
    return float(centre - reach), float(centre + reach)


# How often they hold the truth ----------------------------------------------------------------------------------------


def coverage(
    first: float,
    second: float,
    *,
    seeds: int,
    images: int,
    between: float = 0.2,
    experiments: int = 1000,
    draw: int = 0,
) -> dict[str, float]:
    """Simulate how often the intervals of two networks' AUC and of their difference hold the truth.

    Scores of the images are normal: the two networks share 0.42 of the variance of an image's score, the seeds of one
    network 0.6, and the rest is each seed's own. The separation of the classes varies from seed to seed, by `between`
    of an image's scatter; 0.3 of that variance is what a seed does to both networks.

    Args:
        first: AUC of the first network at its mean separation.
        second: that of the second one.
        seeds: trainings of each network.
        images: test images of each class.
        between: standard deviation between seeds of the separation.
        experiments: simulated experiments, each with its own images and seeds.
        draw: seed of the simulation.

    Returns:
        The share of the experiments whose interval holds the mean AUC over all seeds and images: `first`, `second` and
        `difference`.

    Example:
        >>> min(coverage(0.96, 0.93, seeds=5, images=50, experiments=50).values()) > 0.8
        True
    """
    generator, labels = np.random.default_rng(draw), np.repeat([0, 1], images)
    centres, between = [norm.ppf(auc) * np.sqrt(2) for auc in (first, second)], max(between * (seeds > 1), 0.0)
    truth = [_mean_auc(centre, between) for centre in centres]
    held = {"first": 0, "second": 0, "difference": 0}
    for _ in range(experiments):
        shared, of_seed = generator.normal(size=2 * images), generator.normal(size=seeds)
        networks = []
        for centre in centres:
            own = np.sqrt(0.42) * shared + np.sqrt(0.18) * generator.normal(size=2 * images)
            apart = centre + between * (np.sqrt(0.3) * of_seed + np.sqrt(0.7) * generator.normal(size=seeds))
            scores = own + np.sqrt(0.4) * generator.normal(size=(seeds, 2 * images)) + apart[:, None] * labels
            networks.append([np.stack([-one, one], 1) for one in scores])
        scored = [measured(labels, runs) for runs in networks]
        for name, one, true in zip(held, scored, truth, strict=False):
            low, high = interval_of(labels, one)
            held[name] += low <= true <= high
        _, low, high, _ = difference_of(labels, scored[0], scored[1])
        held["difference"] += low <= truth[0] - truth[1] <= high
    return {name: count / experiments for name, count in held.items()}


def _mean_auc(separation: float, between: float) -> float:
    """The AUC of two normal laws, averaged over a separation that is itself normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(np.average(norm.cdf((separation + between * points) / np.sqrt(2)), weights=weights))
