"""What does not belong into a study: unusable images, and copies of one another.

`measure` gives each image a few figures of quality, `find_duplicates` looks for copies rotated by any angle or
reflected, and `filter_images` turns all of it into one column of the catalogue, `excluded_because`. Nothing is deleted:
an empty reason means that an image is used, and filtering again with other `Rules` starts afresh.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from lensstudy.data.dataset import PARTS, TINY, DataError, LensDataset

__all__ = [
    "Rules",
    "check_leaks",
    "filter_images",
    "find_duplicates",
    "kept",
    "measure",
    "polar_spectrum",
    "summary",
]

RINGS, ANGLES, ORDERS = 16, 128, 16
CHUNK = 512
COMPONENTS = 9  # by which the search for copies tells which pairs can be near
RESOLVED = 1e-3  # distance of two unit vectors that float32 resolves


@dataclass(frozen=True)
class Rules:
    """Thresholds of the rules that can be chosen; None leaves a rule out. Images that are not finite or constant, and
    exact copies, are always excluded."""

    # Share of the pixels at the image's own maximum: a healthy image has a few, a clipped detector a whole patch.
    saturated: float | None = 0.02
    # Brightest pixel on the border over the brightest of all, smoothed and above the sky: an arc half as bright at the
    # border as anywhere goes on outside the image.
    clipped: float | None = 0.5
    # Distance to a copy over the typical distance to the nearest other image: different lenses lie near 1, interpolated
    # copies well below. In noise-free sets of one and the same lens a few per cent of different images come this near.
    near_duplicate: float | None = 0.3
    # Distance of the centre of light from the centre in half-widths of the image: a ring that fits stays well within.
    off_centre: float | None = 0.6
    # Of the brightest 3 x 3 pixels; the brightest of pure noise reaches about 4.5.
    signal_to_noise: float | None = 6.0
    # A rule that takes more than this share stops instead: the threshold or the data are not what they seem.
    largest_share: float = 0.1


# ---- quality --------------------------------------------------------------------------------------------------------


def _grey(images) -> Iterator[np.ndarray]:
    """Images `(N, C, H, W)` as pieces of `(n, H, W)` in float32, channels averaged."""
    for start in range(0, len(images), CHUNK):
        yield np.asarray(images[start : start + CHUNK], dtype=np.float32).mean(1)


def measure(images: np.ndarray) -> pd.DataFrame:
    """Figures of quality of each image `(N, C, H, W)`.

    minimum, maximum, mean, deviation: of the pixels, in the images' own unit; NaN where the image is not finite.
    saturated_share: share of the pixels at the image's own maximum.
    clipped: brightest pixel on the border over the brightest of all, both above the sky and of means of 3 x 3 pixels.
    off_centre: distance of the centre of light above the sky from the centre of the image, in half-widths.
    signal_to_noise: brightest mean of 3 x 3 pixels above the sky, over its noise; infinite without noise.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        pieces = [_measure_piece(piece) for piece in _grey(images)]
    return pd.concat(pieces, ignore_index=True)


def _measure_piece(x: np.ndarray) -> pd.DataFrame:
    maximum, per_image = x.max((1, 2)), (slice(None), None, None)
    sky, noise = _sky_and_noise_of_each(x)
    smooth = uniform_filter(x, (0, 3, 3), mode="nearest") - sky[per_image]
    peak = smooth.max((1, 2))
    border = np.concatenate([smooth[:, 0], smooth[:, -1], smooth[:, :, 0], smooth[:, :, -1]], axis=1)
    # light: what stands above the noise, and without noise above a twentieth of the peak
    light = np.where(smooth > np.maximum(noise, 0.05 * peak)[per_image], smooth, 0)
    half = (np.array(x.shape[1:]) - 1) / 2
    y = (light.sum(2) @ (np.arange(x.shape[1]) - half[0])) / light.sum((1, 2)) / half[0]
    x_ = (light.sum(1) @ (np.arange(x.shape[2]) - half[1])) / light.sum((1, 2)) / half[1]
    return pd.DataFrame(
        {
            "minimum": x.min((1, 2)),
            "maximum": maximum,
            "mean": x.mean((1, 2)),
            "deviation": [image.std(dtype=np.float64) for image in x],
            "saturated_share": (x == maximum[per_image]).mean((1, 2)),
            "clipped": border.max(1) / peak,
            "off_centre": np.hypot(y, x_),
            "signal_to_noise": peak / (noise / 3),
        }
    ).where(pd.Series(np.isfinite(x).all((1, 2))), axis=0)


def _sky_and_noise_of_each(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `dataset.sky_and_noise`, for each of the images `(n, H, W)`."""
    width = max(x.shape[-1] // 16, 2)
    rows, columns = (
        np.concatenate([x[:, :width], x[:, -width:]], 1),
        np.concatenate([x[..., :width], x[..., -width:]], 2),
    )
    n = len(x)
    sky = np.median(np.concatenate([rows.reshape(n, -1), columns.reshape(n, -1)], 1), axis=1)
    steps = np.concatenate([np.diff(rows, axis=2).reshape(n, -1), np.diff(columns, axis=1).reshape(n, -1)], 1)
    return sky, 1.4826 * np.median(np.abs(steps), axis=1) / np.sqrt(2)


# ---- duplicates -----------------------------------------------------------------------------------------------------


def _polar_grid(size: int) -> tuple[csr_array, np.ndarray]:
    """Matrix that samples an image of `size` x `size` pixels on rings, and the radius of each ring in pixels.

    A sample is a Gaussian mean of one pixel's width: unlike interpolation it does not care where between the pixels it
    lies, so an image and its rotated copy give the same rings.
    """
    centre, radius = (size - 1) / 2, (np.arange(RINGS) + 0.5) / RINGS * (size / 2 - 1)
    angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
    pixel = np.arange(size)
    along_x = np.exp(-0.5 * ((centre + np.outer(radius, np.cos(angle))).reshape(-1, 1) - pixel) ** 2)
    along_y = np.exp(-0.5 * ((centre + np.outer(radius, np.sin(angle))).reshape(-1, 1) - pixel) ** 2)
    for weights in (along_x, along_y):
        weights[weights < 1e-4] = 0
        weights /= weights.sum(1, keepdims=True)
    samples = [np.outer(y, x).ravel() for y, x in zip(along_y, along_x, strict=True)]
    return csr_array(np.array(samples, dtype=np.float32)), radius


def polar_spectrum(images: np.ndarray) -> np.ndarray:
    """Angular Fourier coefficients of each image on 16 rings, `(N, rings, orders)`, complex, of unit length.

    Rotating an image by an angle multiplies order m by exp(-i m angle), and a reflection conjugates all: the moduli are
    the same for every copy. Mean and contrast are divided out, so that a rescaled copy counts as well. Images are first
    averaged down to between 48 and 96 pixels, channels too.
    """
    result, grid = [], None
    for x in _grey(images):
        n, height, width = x.shape
        by = max(min(height, width) // 48, 1)
        size = min(height, width) // by
        x = x / np.maximum(np.abs(x).max((1, 2), keepdims=True), np.finfo(np.float32).tiny)  # squares fit into float32
        top, left = (height - size * by) // 2, (width - size * by) // 2
        x = x[:, top : top + size * by, left : left + size * by].reshape(n, size, by, size, by).mean((2, 4))
        if grid is None:
            grid, radius = _polar_grid(size)
            area = (radius / radius.sum()).astype(np.float32)
        rings = (grid @ x.reshape(n, -1).T).T.reshape(n, RINGS, ANGLES)
        rings = (rings - (rings.mean(2) @ area)[:, None, None]) * np.sqrt(area)[:, None]
        spectrum = np.fft.rfft(rings, axis=2)[:, :, :ORDERS].astype(np.complex64)
        spectrum[:, :, 1:] *= np.sqrt(2)  # order -m says the same as order m
        norm = np.sqrt((np.abs(spectrum) ** 2).sum((1, 2), keepdims=True))
        result.append(spectrum / np.maximum(norm, TINY))
    return np.concatenate(result)


def _aligned(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance of each pair of spectra at the best angle, that angle in degrees, and whether one is reflected."""
    correlations = []
    for other in (second, second.conj()):
        product = (first * other.conj()).sum(1)
        product[:, 1:] /= 2
        correlations.append(np.fft.irfft(product, n=1024, axis=1) * 1024)
    correlation = np.concatenate(correlations, axis=1)
    best = correlation.argmax(1)
    distance = np.sqrt(np.maximum(2 - 2 * correlation.max(1), 0))
    return distance, best % 1024 * 360 / 1024, best >= 1024


def find_duplicates(images: np.ndarray, tolerance: float = 0.3, spectra: np.ndarray | None = None) -> pd.DataFrame:
    """Pairs of images `(N, C, H, W)` that are copies of one another, rotated by any angle, reflected or rescaled.

    The distance of two images is the rms of their difference over their contrast, at the angle where it is smallest.
    Copies are nearer than `tolerance` times the typical distance to the nearest neighbour in this set, and than 0.1.
    The moduli of the spectra alone give a lower bound of the distance, so no pair is missed in the fast first search.

    Returns a table with `first`, `second` (rows), `distance`, `degrees` and `reflected`. Where most images of a set
    have copies that were interpolated, the typical distance is that of copies; raise `tolerance` there.
    """
    spectra = polar_spectrum(images) if spectra is None else spectra
    moduli = np.nan_to_num(np.abs(spectra).reshape(len(spectra), -1), copy=False)  # what is not finite is like nothing
    limit = max(min(tolerance * _typical_distance(spectra, moduli), 0.1), RESOLVED)
    pairs = []
    for piece in _near(moduli, limit):
        pairs.append(piece)
        if sum(map(len, pairs)) > 100 * len(moduli):
            raise DataError(
                f"more than {100 * len(moduli):,} pairs of images are alike to {limit:.3f} of their contrast: the set "
                "is so dense that likeness means little. Lower near_duplicate, or set it to None to leave the rule out."
            )
    pairs = np.concatenate(pairs)
    found = [_aligned(spectra[p[:, 0]], spectra[p[:, 1]]) for p in np.array_split(pairs, len(pairs) // 4096 + 1)]
    distance, degrees, reflected = (np.concatenate(column) for column in zip(*found, strict=True))
    table = {
        "first": pairs[:, 0],
        "second": pairs[:, 1],
        "distance": distance,
        "degrees": degrees,
        "reflected": reflected,
    }
    table = pd.DataFrame(table)
    return table[table["distance"] <= limit].reset_index(drop=True)


def _near(moduli: np.ndarray, limit: float) -> Iterator[np.ndarray]:
    """Pairs of rows `(n, 2)` of unit vectors that are no further apart than `limit`, each pair once, piece by piece.

    Vectors are at least as far apart as their leading components, so a tree of these finds the few that can be near,
    and time grows little faster than the number of images. Where many can be, each is compared with all.
    """
    leading = moduli @ np.linalg.eigh(moduli.T @ moduli)[1][:, -COMPONENTS:]
    tree, reach = cKDTree(leading), np.hypot(limit, RESOLVED)
    likeness = 1 - limit**2 / 2  # |a - b|^2 = 2 - 2 a.b
    for start in range(0, len(moduli), CHUNK):
        rows = leading[start : start + CHUNK]
        if tree.query_ball_point(rows, reach, return_length=True).mean() > min(len(moduli) / 50, 10_000):
            pairs = np.argwhere(moduli[start : start + CHUNK] @ moduli[start:].T >= likeness) + start
        else:
            found = [np.array(others) for others in tree.query_ball_point(rows, reach)]
            near = [o[moduli[o] @ moduli[row] >= likeness] for row, o in enumerate(found, start)]
            first = np.repeat(np.arange(start, start + len(near)), [len(others) for others in near])
            pairs = np.stack([first, np.concatenate(near)], 1)
        yield pairs[pairs[:, 1] > pairs[:, 0]]


def _typical_distance(spectra: np.ndarray, moduli: np.ndarray) -> float:
    """Median distance to the nearest neighbour, from at most 300 images; exact copies do not count."""
    some = np.unique(np.linspace(0, len(spectra) - 1, 300).astype(int))
    likeness = moduli[some] @ moduli.T
    nearest = np.argsort(-likeness, axis=1)[:, 1:17]
    distances = [
        _aligned(np.repeat(spectra[[i]], len(near), 0), spectra[near])[0] for i, near in zip(some, nearest, strict=True)
    ]
    distances = np.where((d := np.array(distances)) > 2e-3, d, np.inf).min(1, initial=np.inf)
    return float(np.median(distances[np.isfinite(distances)])) if np.isfinite(distances).any() else 0.0


def check_leaks(dataset: LensDataset, tolerance: float = 0.3) -> None:
    """Raise `DataError` if an image and a copy of it, rotated by any angle or reflected, lie in two parts."""
    used = dataset.subset(dataset.catalogue["part"].isin(PARTS).to_numpy())
    used.check_leaks()
    pairs, rows = find_duplicates(used.images, tolerance), used.catalogue
    first, second = rows.iloc[pairs["first"]], rows.iloc[pairs["second"]]
    across = np.flatnonzero(first["part"].to_numpy() != second["part"].to_numpy())
    if len(across):
        a, b, turn = first.iloc[across[0]], second.iloc[across[0]], pairs.iloc[across[0]]
        raise DataError(
            f"{len(across)} pairs of copies straddle the split, such as '{a['name']}' ({a['part']}) and '{b['name']}' "
            f"({b['part']}), rotated by {turn['degrees']:.0f} degrees{' and reflected' if turn['reflected'] else ''}. "
            "Run filter_images before split()."
        )


# ---- all rules together ---------------------------------------------------------------------------------------------


def filter_images(dataset: LensDataset, rules: Rules | None = None) -> LensDataset:
    """Measure every image and give each one that a rule excludes its reason.

    Args:
        dataset: images `(N, C, H, W)` with a catalogue.
        rules: thresholds; the defaults if none.

    Returns:
        The same set with the columns of the measures, `group` (one for all duplicates) and `excluded_because` (empty
        for what stays). Nothing is removed; `split` leaves the excluded images out.

    Raises:
        DataError: where more images are excluded than the rules allow.

    Example:
        >>> from lensstudy import simulate
        >>> lenses = filter_images(simulate("model_3", 4, seed=1, image_size=32))
        >>> bool((lenses.catalogue["excluded_because"] == "").all())
        True
    """
    rules = rules or Rules()
    catalogue = dataset.catalogue.assign(**measure(dataset.images), excluded_because="")

    def left() -> np.ndarray:
        return np.flatnonzero(catalogue["excluded_because"] == "")

    def exclude(reason: str | pd.Series, bad: pd.Series, threshold: str = "") -> None:
        bad = bad & (catalogue["excluded_because"] == "")
        _check_share(reason if isinstance(reason, str) else threshold, bad, threshold, rules)
        catalogue.loc[bad, "excluded_because"] = reason if isinstance(reason, str) else reason[bad]

    exclude("not finite", catalogue["mean"].isna())
    exclude("constant", catalogue["minimum"] == catalogue["maximum"])
    if rules.saturated is not None:
        exclude("saturated", catalogue["saturated_share"] > rules.saturated, "saturated")
    if rules.signal_to_noise is not None:
        exclude("low signal to noise", catalogue["signal_to_noise"] < rules.signal_to_noise, "signal_to_noise")
    if rules.clipped is not None:
        exclude("clipped at an edge", catalogue["clipped"] > rules.clipped, "clipped")
    if rules.off_centre is not None:
        exclude("off centre", catalogue["off_centre"] > rules.off_centre, "off_centre")

    catalogue["group"] = pd.factorize(_hashes(dataset))[0]
    copies = _extra_copies(catalogue, "exact duplicate")
    exclude(copies, copies != "", "exact duplicate")
    if rules.near_duplicate is not None:
        rows = left()
        spectra = polar_spectrum(dataset.subset(rows).images)
        pairs = find_duplicates(dataset.images, rules.near_duplicate, spectra)
        catalogue["group"] = _joined(catalogue["group"].to_numpy(), rows[pairs["first"]], rows[pairs["second"]])
        copies = _extra_copies(catalogue, "near duplicate")
        exclude(copies, copies != "", "near_duplicate")
    description = dataset.description | {"filtering": {"rules": asdict(rules)}}
    return replace(dataset, catalogue=catalogue, description=description)


def _check_share(reason: str, bad: pd.Series, threshold: str, rules: Rules) -> None:
    count, total = int(bad.sum()), len(bad)
    if count > max(rules.largest_share * total, 2):  # two of a small set are no sign of a wrong threshold
        value = getattr(rules, threshold, None)
        change = f"Move its threshold ({threshold} = {value}), set it to None" if value is not None else "Mend the data"
        raise DataError(
            f"the rule '{reason}' would exclude {count} of {total} images ({count / total:.0%}), more than "
            f"largest_share = {rules.largest_share:.0%}: either the threshold or the data are not as they should be. "
            f"{change}, or raise largest_share if it is right."
        )


def _hashes(dataset: LensDataset) -> pd.Series:
    if "hash" in dataset.catalogue:
        return dataset.catalogue["hash"]
    return pd.Series([hashlib.blake2b(image.tobytes()).hexdigest() for image in dataset.images])


def _joined(group: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups after each pair of rows `first`, `second` has been put into one group."""
    edges = coo_array((np.ones(len(first)), (group[first], group[second])), shape=(group.max() + 1,) * 2)
    return connected_components(edges, directed=False)[1][group]


def _extra_copies(catalogue: pd.DataFrame, what: str) -> pd.Series:
    """The reason for excluding each image that has a copy among those not excluded yet, and for the others nothing."""
    left = catalogue[catalogue["excluded_because"] == ""]
    groups = left.groupby("group")
    reason = (what + ": of " + groups["name"].transform("first").astype(str)).where(left["group"].duplicated(), "")
    contradicting = groups["class"].transform("nunique") > 1
    reason = reason.mask(contradicting, f"{what}: copies have different classes")
    return reason.reindex(catalogue.index, fill_value="")


def kept(dataset: LensDataset) -> LensDataset:
    """The images that no rule has excluded."""
    if "excluded_because" not in dataset.catalogue:
        raise DataError("this data set is not filtered yet: call filter_images() first")
    return dataset.subset((dataset.catalogue["excluded_because"] == "").to_numpy())


def summary(dataset: LensDataset, examples: int = 6) -> pd.DataFrame:
    """One row a reason: how many images it took, what share that is, and the rows of a few `examples`. Files that were
    not read at all stand under `unreadable`, `wrong shape` or `wrong dtype`."""
    reasons = dataset.catalogue["excluded_because"].str.split(":").str[0]
    groups = reasons[reasons != ""].groupby(reasons, sort=False)
    rows = [(reason, len(group), group.index[:examples].tolist()) for reason, group in groups]
    rejected = [entry["reason"].split(" ")[0] for entry in dataset.description.get("rejected", [])]
    names = Counter(f"wrong {word}" if word in ("shape", "dtype") else "unreadable" for word in rejected)
    rows = [(reason, files, []) for reason, files in names.most_common()] + rows
    table = pd.DataFrame(rows, columns=["reason", "images", "examples"]).set_index("reason")
    table.insert(1, "share", table["images"] / (len(dataset) + len(rejected)))
    return table
