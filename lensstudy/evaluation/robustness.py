"""Where a network's answers hold and where they fail: images seen otherwise, their truth, fewer images to learn from.

Views are functions of an array of images `(N, C, H, W)` and a random generator: turned, mirrored, shifted, noisier,
through a wider point spread function, with larger or smaller pixels. `recovery` and `accuracy_along` set answers
against what is true of an image, with the bound that its noise sets. `images_to_match` reads two learning curves the
way a reader asks: how many images does the other network need?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from lensstudy.data.dataset import DataError, LensDataset, ellipticity, sky_and_noise
from lensstudy.evaluation.scores import auc, interval, resampled, wilson
from lensstudy.lensing.instruments import SIGMA_PER_FWHM, blur, gaussian_kernel
from lensstudy.networks.groups import rotate

__all__ = [
    "accuracy_along",
    "answers",
    "blurred",
    "images_to_match",
    "learning_curves",
    "mirrored",
    "noisier",
    "physical_parameters",
    "recovery",
    "shifted",
    "transfer_matrix",
    "turned",
    "views",
    "zoomed",
]

CLEAN = 1e-4  # noise in units of the peak below which images count as free of it
PIECE = 256  # images seen at a time, so that a memory map is never read whole

SUBSTRUCTURE = (r"substructure [$10^9\,M_\odot$]", "half-length of vortex [arcsec]")

View = Callable[[np.ndarray, np.random.Generator], np.ndarray]


# The test set seen otherwise -----------------------------------------------------------------------------------------


def turned(images: np.ndarray, degrees: float | np.ndarray) -> np.ndarray:
    """Images turned counter-clockwise by `degrees`, one angle or one an image; exact for multiples of 90."""
    angle = float(degrees) if np.ndim(degrees) == 0 else torch.as_tensor(degrees)
    return rotate(_tensor(images), angle).numpy()


def mirrored(images: np.ndarray) -> np.ndarray:
    """Images with left and right exchanged."""
    return images[..., ::-1]


def shifted(images: np.ndarray, pixels: float, generator: np.random.Generator) -> np.ndarray:
    """Each image moved by `pixels` in its own random direction, to the nearest whole pixel so that noise stays as it
    is. Beyond its edge an image goes on with the edge pixel's value."""
    angle = generator.uniform(0, 2 * np.pi, len(images))
    moves = np.rint(pixels * np.stack([np.sin(angle), np.cos(angle)], 1)).astype(int)
    height, width = images.shape[-2:]
    result = np.empty_like(images)
    for image, (down, right), moved in zip(images, moves, result, strict=True):
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        moved[:] = image[:, rows][..., np.clip(np.arange(width) - right, 0, width - 1)]
    return result


def noisier(images: np.ndarray, factor: float, generator: np.random.Generator) -> np.ndarray:
    """Images with `factor` times the noise that each of them has at its border; 1 % of the peak is added to an image
    that has less than a ten-thousandth of its peak."""
    rms, peak = _noise_and_peak(images)
    added = np.where(rms < CLEAN * peak, 0.01 * peak, rms * np.sqrt(max(factor**2 - 1, 0)))
    noise = generator.normal(0, 1, images.shape) * added[:, None, None, None]
    return images + noise.astype(images.dtype)


def _noise_and_peak(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image `(C, H, W)`, its noise in the first channel and its largest value, `(N,)` both."""
    return np.array([sky_and_noise(image[:1])[1] for image in images]), images.max((1, 2, 3))


def blurred(images: np.ndarray, fwhm_pixels: float) -> np.ndarray:
    """Images seen through one more Gaussian point spread function, of that full width at half maximum in pixels. It
    smooths their noise as well."""
    profile = gaussian_kernel(fwhm_pixels * SIGMA_PER_FWHM)
    flat = _tensor(images).flatten(0, 1)
    return blur(flat, profile.tolist()).view(images.shape).numpy()


def zoomed(images: np.ndarray, factor: float) -> np.ndarray:
    """Images whose lens is `factor` times as large about the centre: pixels that are so much smaller on the sky, at the
    same brightness a pixel (bilinear). Beyond its edge an image goes on with the edge pixel's value."""
    matrix = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]]).expand(len(images), 2, 3)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(
        _tensor(images), grid, mode="bilinear", padding_mode="border", align_corners=False
    ).numpy()


def views(
    images: np.ndarray, shift: float = 2.0, noise: float = 2.0, fwhm: float = 2.0, zoom: float = 1.1, turns: int = 1
) -> dict[str, list[View]]:
    """The ways in which the test `images` are shown, by name, each with one or (random turns) several draws of it.

    `shift` and `fwhm` in pixels; `noise` as a multiple of the noise that each image has (where it has less than a
    ten-thousandth of its peak, noise of 1 % of the peak is added); `zoom` by which factor the lens becomes larger.
    """
    rms, peak = _noise_and_peak(_float(images[:PIECE]))
    clean = np.mean(rms < CLEAN * peak) > 0.5
    return {
        "upright": [lambda x, _: x],
        "turned by 90°": [lambda x, _: turned(x, 90.0)],
        "random turns": [lambda x, g: turned(x, g.uniform(0, 360, len(x)))] * turns,
        "mirrored": [lambda x, _: mirrored(x)],
        f"shifted by {shift:g} pixels": [lambda x, g: shifted(x, shift, g)],
        "with noise of 1 % of the peak" if clean else f"noise × {noise:g}": [lambda x, g: noisier(x, noise, g)],
        f"PSF of {fwhm:g} pixels on top": [lambda x, _: blurred(x, fwhm)],
        f"lens {zoom:g} times as large": [lambda x, _: zoomed(x, zoom)],
    }


def answers(predict: Callable, images: np.ndarray, view: View, seed: int = 0) -> np.ndarray:
    """What `predict` says to `images` `(N, C, H, W)` seen through `view`; what is random in it is drawn from `seed`
    alone, the same for every network. Give each of several draws of a view a seed of its own."""
    said = []
    for start in range(0, len(images), PIECE):
        seen = view(_float(images[start : start + PIECE]), np.random.default_rng((seed, start)))
        said.append(predict(np.ascontiguousarray(seen)))
    return np.concatenate(said)


def _float(images) -> np.ndarray:
    return np.array(images, dtype=np.float32, order="C")


def _tensor(images) -> torch.Tensor:
    return torch.from_numpy(_float(images))


# Against what is true of an image -------------------------------------------------------------------------------------


def physical_parameters(dataset: LensDataset) -> pd.DataFrame:
    """What may make an image hard, one row an image and one column a quantity, named as on an axis: the truth as far as
    the catalogue has it, and what the image itself shows. Quantities that do not vary are left out; substructure that
    is not there has no size."""
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


def recovery(
    evidence: Sequence[np.ndarray],
    smooth: np.ndarray,
    sigma: np.ndarray,
    false_alarms: float = 0.05,
    bins: int = 6,
) -> pd.DataFrame:
    """Share of the lenses with substructure that are recognised, against how many `sigma` `(N,)` it makes.

    `evidence` is one array a seed, larger where a network believes in substructure; its threshold leaves
    `false_alarms` of the `smooth` lenses above it. `bound` is what an observer reaches who knows the signal exactly and
    faces Gaussian noise alone: `Phi(sigma - z)` with `Phi(z) = 1 - false_alarms` (Kay 1998, Detection Theory, 4.3).
    With `sigma` after a refit it holds for who knows nothing of the smooth lens: where lenses are alike, more is known.
    One row a bin of equally many images: `sigma` (median), `share` with its interval, `bound`, `images`.
    """
    found = np.mean([one > np.quantile(one[smooth], 1 - false_alarms, method="higher") for one in evidence], axis=0)
    bound = norm.cdf(sigma - norm.isf(false_alarms))
    seen = ~smooth & np.isfinite(sigma)
    table = pd.DataFrame({"sigma": sigma, "share": found, "bound": bound})[seen]
    return _in_bins(table, "sigma", bins)


def accuracy_along(values: np.ndarray, right: np.ndarray, bins: int = 6) -> pd.DataFrame:
    """Share of right answers (`right` `(N,)`, a mean over seeds) in bins of equally many images along `values`: the
    median `value`, `share` with its interval, `images`. Images without a finite value are left out."""
    known = np.isfinite(values)
    return _in_bins(pd.DataFrame({"value": values[known], "share": right[known]}), "value", bins)


def _in_bins(table: pd.DataFrame, along: str, bins: int) -> pd.DataFrame:
    if table.empty:
        return pd.DataFrame(columns=[*table.columns, "low", "high", "images"])
    groups = table.groupby(pd.qcut(table[along], bins, duplicates="drop", labels=False).fillna(0))
    result = groups.mean().assign(**{along: groups[along].median(), "images": groups.size()}).reset_index(drop=True)
    limits = [wilson(row.share, int(row.images)) for row in result.itertuples()]
    return result.assign(low=[low for low, _ in limits], high=[high for _, high in limits])


# On images of another recipe ------------------------------------------------------------------------------------------


def transfer_matrix(trained_by_recipe: dict[str, list], sets_by_recipe: dict[str, LensDataset]) -> pd.DataFrame:
    """AUC of networks trained on one recipe and tested on another: one row a pair (`trained`, `tested`), with `auc`
    (mean over the networks of a recipe, one a seed), `low` and `high` over test images, `seeds` and `images`.

    A recipe has its `trained.TrainedNetwork`s, and the images it is tested on: give the test part alone. Classes are
    matched by name. What either side does not know is left out: images of a class that the network was never shown, and
    probabilities of classes that the set has not, the rest in proportion. Raises `DataError` where fewer than two
    classes are common.
    """
    rows = []
    for trained, runs in trained_by_recipe.items():
        for tested, images in sets_by_recipe.items():
            common = [name for name in images.classes if all(name in run.classes for run in runs)]
            common = [name for name in common if (images.catalogue["class"] == name).any()]
            if len(common) < 2:
                raise DataError(
                    f"trained on {trained} ({', '.join(runs[0].classes)}), tested on {tested} "
                    f"({', '.join(images.classes)}): fewer than two classes are common"
                )
            judged = images.subset(images.catalogue["class"].isin(common).to_numpy())
            labels = judged.catalogue["class"].map(common.index).to_numpy(int)
            said = []
            for run in runs:
                shown = [run.predict(judged.images[i : i + PIECE]) for i in range(0, len(judged), PIECE)]
                chosen = np.concatenate(shown)[:, [run.classes.index(name) for name in common]]
                said.append(chosen / np.maximum(chosen.sum(1, keepdims=True), 1e-300))
            low, high = interval(labels, said)
            row = {"trained": trained, "tested": tested, "auc": float(np.mean([auc(labels, one) for one in said]))}
            rows.append(row | {"low": low, "high": high, "seeds": len(runs), "images": len(judged)})
    return pd.DataFrame(rows)


# From fewer images ----------------------------------------------------------------------------------------------------


def learning_curves(
    labels: np.ndarray, trainings: pd.DataFrame, weights: np.ndarray, seed: int = 0, metric: str = "auc"
) -> dict[str, pd.DataFrame]:
    """For each network, `metric` against the number of training images in every resample of test images and seeds.

    `trainings` has one row a training: `network`, `images`, `seed` and its test `probabilities`; `weights` come from
    `evaluation.resampling`. A table has one column a number of images and one row a resample, before them, as row 0,
    the score itself; seeds are drawn with replacement, so that their spread is part of what follows.
    """
    generator = np.random.default_rng(seed)
    weights = np.concatenate([np.ones((1, len(labels))), weights])
    curves = {}
    for (network, images), group in trainings.groupby(["network", "images"]):
        of_seed = np.stack([resampled(labels, one, weights, metric) for one in group["probabilities"]])
        drawn = generator.multinomial(len(of_seed), np.full(len(of_seed), 1 / len(of_seed)), len(weights)).T
        drawn[:, 0] = 1  # the score itself counts every seed once
        curves.setdefault(network, {})[images] = (drawn * of_seed).sum(0) / drawn.sum(0)
    return {network: pd.DataFrame(curve).sort_index(axis=1) for network, curve in curves.items()}


def images_to_match(own: pd.DataFrame, other: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """How many training images the `other` network needs for what `own` reaches, from two of `learning_curves`.

    The other's curve is made non-decreasing and read off linearly in the logarithm of the number of images. One row a
    number of `images` of `own`: its `score`; `needed`, `low` and `high` from the resamples, infinite where the other
    never gets there; and `in_words`, with the factor.
    """
    sizes = np.array(other.columns, float)
    rising = np.maximum.accumulate(other.to_numpy(), axis=1)
    rows = []
    for images, wanted in own.items():
        needed = np.array([_read_off(curve, sizes, value) for curve, value in zip(rising, wanted, strict=True)])
        edges = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(needed[1:], edges, method="inverted_cdf")  # no mean of a number and infinity
        row = {"images": images, "score": wanted.iloc[0], "needed": needed[0], "low": low, "high": high}
        rows.append(row | {"in_words": _in_words(needed[0] / images, low / images, high / images, sizes / images)})
    return pd.DataFrame(rows)


def _read_off(curve: np.ndarray, sizes: np.ndarray, value: float) -> float:
    """The number of images at which a non-decreasing curve reaches `value`: the smallest of all where it is above it
    from the start, infinity where it never is."""
    if curve[0] >= value:
        return sizes[0]
    if curve[-1] < value:
        return np.inf
    k = int(np.argmax(curve >= value))
    step = (value - curve[k - 1]) / (curve[k] - curve[k - 1])
    return float(np.exp(np.log(sizes[k - 1]) + step * np.log(sizes[k] / sizes[k - 1])))


def _in_words(factor: float, low: float, high: float, sizes: np.ndarray) -> str:
    """`3.1 [2.0, 5.2] times as many`; where the curve ends before or begins after it, only what is certain."""

    def figure(value: float) -> str:
        if np.isinf(value):
            return f"more than {sizes[-1]:.3g}"
        return f"at most {value:.2g}" if value <= sizes[0] * (1 + 1e-9) else f"{value:.2g}"

    low, factor, high = figure(low), figure(factor), figure(high)
    return f"{factor} times as many" if low == factor == high else f"{factor} [{low}, {high}] times as many"
