"""Predictions against what is true of an image: mistakes, what makes an image hard, and the bound that noise sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from lensstudy.data.dataset import LensDataset, ellipticity, sky_and_noise
from lensstudy.evaluation.intervals import wilson

__all__ = ["accuracy_along", "detection_rate", "mistakes", "physical_parameters"]

SUBSTRUCTURE = (r"substructure [$10^9\,M_\odot$]", "half-length of vortex [arcsec]")


def physical_parameters(dataset: LensDataset) -> pd.DataFrame:
    """What may make an image hard, one row an image and one column a quantity, named as on an axis: the truth as far as
    the catalogue has it, and what the image itself shows. Quantities that do not vary are omitted; absent substructure
    has no size."""
    images, truth = np.asarray(dataset.images, np.float32), dataset.catalogue
    e1, e2 = ellipticity(images)
    sky, noise = sky_and_noise(images[:, 0])
    known = {
        "Einstein radius [arcsec]": ("einstein_radius",),
        "lens ellipticity": ("lens_e1", "lens_e2"),
        "external shear": ("shear_1", "shear_2"),
        "source radius [arcsec]": ("source_radius",),
        "source offset [arcsec]": ("source_x", "source_y"),
        SUBSTRUCTURE[0]: ("substructure_mass",),
        SUBSTRUCTURE[1]: ("vortex_half_length",),
    }
    known = {label: names for label, names in known.items() if set(names) <= set(truth)}
    table = pd.DataFrame({label: np.hypot.reduce([truth[one] for one in names]) for label, names in known.items()})
    for label in table.columns.intersection(SUBSTRUCTURE):
        table[label] = table[label].where(table[label] > 0)
    if SUBSTRUCTURE[0] in table:
        table[SUBSTRUCTURE[0]] /= 1e9
    table["angle of the light [degrees]"] = np.rad2deg(np.arctan2(e2, e1)) / 2 % 180
    if not known:
        table["ellipticity of the light"] = np.hypot(e1, e2)
    if noise > 0:
        table["peak over noise"] = (images.max((1, 2, 3)) - sky) / noise
    return table.loc[:, table.std() > 1e-6 * table.abs().mean()]


def detection_rate(
    evidence: Sequence[np.ndarray],
    smooth: np.ndarray,
    sigma: np.ndarray,
    false_alarms: float = 0.05,
    bins: int = 6,
) -> pd.DataFrame:
    """Share of the lenses with substructure that are detected, against its detectability `sigma` `(N,)`.

    `evidence` is one array a seed, larger where substructure is more probable; its threshold leaves
    `false_alarms` of the `smooth` lenses above it. `bound` is what an observer reaches who knows the signal exactly and
    faces Gaussian noise alone: `Phi(sigma - z)` with `Phi(z) = 1 - false_alarms` (Kay 1998, Detection Theory, 4.3).
    With `sigma` after re-fitting the macromodel it holds for an observer who knows nothing of the smooth lens; where
    lenses are alike, more is known.
    One row a bin of equally many images: `sigma` (median), `share` with its interval, `bound`, `images`.
    """
    found = np.mean([one > np.quantile(one[smooth], 1 - false_alarms, method="higher") for one in evidence], axis=0)
    bound = norm.cdf(sigma - norm.isf(false_alarms))
    judged = ~smooth & np.isfinite(sigma)
    table = pd.DataFrame({"sigma": sigma, "share": found, "bound": bound})[judged]
    return _in_bins(table, "sigma", bins)


def accuracy_along(values: np.ndarray, right: np.ndarray, bins: int = 6) -> pd.DataFrame:
    """Share of right answers (`right` `(N,)`, a mean over seeds) in bins of equally many images along `values`: the
    median `value`, `share` with its interval, `images`. Images without a finite value are skipped."""
    known = np.isfinite(values)
    return _in_bins(pd.DataFrame({"value": values[known], "share": right[known]}), "value", bins)


def mistakes(labels: np.ndarray, runs: Sequence[np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """The images whose most probable class is not the true one, answers averaged over seeds, the surest mistake first.

    One row an image: its number in the test part (`image`), `true`, `called`, `probability` (of the class that it was
    called), and `probability of <class>` for each class.
    """
    together = np.mean(runs, axis=0)
    called, sure = together.argmax(1), together.max(1)
    wrong = np.flatnonzero(called != labels)
    wrong = wrong[np.argsort(-sure[wrong])]
    names = np.array(classes, dtype=object)
    table = {"image": wrong, "true": names[labels[wrong]], "called": names[called[wrong]], "probability": sure[wrong]}
    return pd.DataFrame(table | {f"probability of {name}": together[wrong, k] for k, name in enumerate(classes)})


def _in_bins(table: pd.DataFrame, along: str, bins: int) -> pd.DataFrame:
    if table.empty:
        return pd.DataFrame(columns=[*table.columns, "low", "high", "images"])
    groups = table.groupby(pd.qcut(table[along], bins, duplicates="drop", labels=False).fillna(0))
    result = groups.mean().assign(**{along: groups[along].median(), "images": groups.size()}).reset_index(drop=True)
    limits = [wilson(row.share, int(row.images)) for row in result.itertuples()]
    return result.assign(low=[low for low, _ in limits], high=[high for _, high in limits])
