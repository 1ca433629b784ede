"""DeepLense's Common Test: what networks say of lenses of the preset, and of the original images, simulated elsewhere.

A preset that is right makes networks that learnt from the original images answer as they do on those. `BesideOriginal`
puts their recalls and confusion beside published ones, and says of how detectable substructure they are wrong;
`OriginalImages` asks them of labelled original images, of which it keeps probabilities and no pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.reading import read
from lensstudy.deployment.published import IMAGE_SIZE
from lensstudy.evaluation.intervals import interval, wilson
from lensstudy.evaluation.ladder import IDEAL, SMOOTH_FIT, auc_along
from lensstudy.evaluation.rotation import ROTATIONS, UnderRotation
from lensstudy.evaluation.scores import auc, counted, format_interval
from lensstudy.evaluation.shortcuts import smooth_fit_scores
from lensstudy.progress import side_by_side

__all__ = [
    "CLASSES",
    "ORIGINAL",
    "ORIGINAL_CONFUSION",
    "BesideOriginal",
    "OriginalImages",
    "difference_of_shares",
    "save",
]

CLASSES = ("no_sub", "cdm", "axion")  # there no, sphere and vort
ORIGINAL = "original images"
# Of 2,500 original validation images a class, how many rescnn_75epc_2025-03-16_17-19-40 calls no_sub, cdm and axion:
# github.com/dby516/deeplense_test, test1/scripts/eval.ipynb at 0f723cc. Its axes have numbers alone; which class is
# which was inferred (docs/science.md). There is no such matrix of another network.
ORIGINAL_CONFUSION = {"no_sub": (2320, 101, 79), "cdm": (129, 2202, 169), "axion": (37, 19, 2444)}
EDGES = (0.0, 5.0, 10.0, 20.0, 40.0, np.inf)  # of detectability, in sigma
ANGLES = (0, 90, 180, 270)
LIMITATIONS = (
    "The lenses are simulated by this package's preset of the Common Test, not those on which the published networks "
    "were trained. The accuracy on upright lenses depends on both; the loss under rotation, on the network alone. The "
    "preset is not certified: it was recovered from original images, the 15 asked here among them, with the answers of "
    "both published networks in sight. The 15 images were in the training of the published networks too, so what any "
    "network says of them is no independent test; that of this package was trained for twice as many epochs after the "
    "answers of its predecessor were known. Original recalls are those of one network, which need be neither of "
    "these two, and which class is which in its confusion matrix was inferred."
)


class BesideOriginal:
    """What networks call simulated lenses of the Common Test, beside what one of them calls the original ones.

    Args:
        networks: by name, each with `classes` and `probabilities(images)`, such as a `Predictor`.
        draws: lenses of the preset `common_test`, one set a seed.
        fits: images of each class of the first set to which a smooth lens is fitted; 0: none.

    Raises:
        DataError: a network or a set has other classes than `CLASSES`.

    Attributes:
        labels: the true classes `(N,)` of all lenses, numbers in `CLASSES`.
        sigma: the detectability of their substructure after re-fitting the lens, `(N,)`.
        draw: the number of the set of each lens, `(N,)`.
        probabilities: by network, `(N, 3)` in the order of `CLASSES`.

    Example:
        >>> from lensstudy import pretrained, simulate
        >>> found = BesideOriginal({"common-test": pretrained("common-test")}, [simulate("common_test", 2, seed=1)])
        >>> found.recalls["network"].unique().tolist()
        ['original images', 'common-test']
    """

    def __init__(self, networks: Mapping[str, Any], draws: Sequence[LensDataset], fits: int = 0):
        for one in draws:
            _columns("the lenses", one.classes)
        self.labels = np.concatenate([np.array(_columns("", one.classes)).argsort()[one.labels] for one in draws])
        self.sigma = np.concatenate([one.catalogue["detectability_refit"].to_numpy(float) for one in draws])
        self.draw = np.repeat(np.arange(len(draws)), [len(one) for one in draws])

        def answers(name: str) -> np.ndarray:
            given = np.concatenate([networks[name].probabilities(one.images) for one in draws])
            return given[:, _columns(name, networks[name].classes)]

        self.probabilities = dict(zip(networks, side_by_side(answers, list(networks), "networks"), strict=True))
        self._first, self._fits = draws[0], fits

    @cached_property
    def recalls(self) -> pd.DataFrame:
        """Of each class, the share that is called so: one row a `network` and `class`, the original images first, with
        `recall`, its 95 % interval from `low` to `high` (Wilson), `images`, and `each`, the recall of every draw."""
        rows = []
        for name, counts in self._counts():
            for k, (of, row) in enumerate(zip(CLASSES, counts, strict=True)):
                total, recall = int(row.sum()), row[k] / row.sum()
                low, high = wilson(recall, total)
                each = [] if name == ORIGINAL else [float(value) for value in self._each_draw(name, k)]
                rows.append(
                    {"network": name, "class": of, "recall": recall, "low": low, "high": high, "images": total}
                    | {"each": each}
                )
        return pd.DataFrame(rows)

    @property
    def recall_table(self) -> pd.DataFrame:
        """`recalls` in percent and in words, with how far each is from the original one and the interval of that."""
        original = self.recalls[self.recalls["network"] == ORIGINAL].set_index("class")
        rows = []
        for row in self.recalls.itertuples():
            said = {"network": row.network, "class": row[2], "images": row.images}
            said["recall, %"] = format_interval(100 * row.recall, 100 * row.low, 100 * row.high, 1)
            if row.network == ORIGINAL:
                said |= {"each draw": "", "less the original one, points": ""}
            else:
                of = original.loc[row[2]]
                apart = difference_of_shares(row.recall, row.images, of["recall"], int(of["images"]))
                said["each draw"] = ", ".join(f"{100 * one:.1f}" for one in row.each)
                value, low, high = (100 * one for one in apart)
                said["less the original one, points"] = format_interval(value, low, high, 1)
            rows.append(said)
        return pd.DataFrame(rows)

    @property
    def confusion(self) -> pd.DataFrame:
        """One row a network and true class, the original images first: `network`, `class`, `images`, and for each the
        percentage that is called so, with its 95 % interval (Wilson)."""
        rows = []
        for name, counts in self._counts():
            for of, each in zip(CLASSES, counts, strict=True):
                images = int(each.sum())
                shares = {f"called {one}": _percent(int(k), images) for one, k in zip(CLASSES, each, strict=True)}
                rows.append({"network": name, "class": of, "images": images, **shares})
        return pd.DataFrame(rows)

    @property
    def first_draw(self) -> dict[str, np.ndarray]:
        """`probabilities` of the first set alone."""
        return {name: said[self.draw == 0] for name, said in self.probabilities.items()}

    @property
    def right(self) -> pd.DataFrame:
        """The percentage of lenses that each network puts into their class, by class and detectability."""
        return self._by_detectability(lambda called, k: called == k)

    @property
    def found(self) -> pd.DataFrame:
        """The percentage of lenses that each network calls other than `no_sub`, by class and detectability."""
        return self._by_detectability(lambda called, k: called != 0)

    @property
    def errors(self) -> pd.DataFrame:
        """Where the errors of each network lie: one row a network, its `errors` and the percentage of them on lenses
        without substructure and on those of each detectability."""
        rows = []
        for name, said in self.probabilities.items():
            wrong = said.argmax(1) != self.labels
            shares = {what: f"{100 * (wrong & inside).sum() / max(wrong.sum(), 1):.0f}" for what, inside in self._bins}
            rows.append({"network": name, "errors": int(wrong.sum()), **shares})
        return pd.DataFrame(rows)

    @cached_property
    def smooth_fit(self) -> tuple[np.ndarray, np.ndarray]:
        """The lenses to which a smooth lens was fitted, as rows of all, and chi square of the best fit."""
        if not self._fits:
            return np.zeros(0, int), np.zeros(0)
        rows = np.flatnonzero(self._first.catalogue.groupby("class").cumcount() < self._fits)
        return rows, smooth_fit_scores(self._first.subset(rows), self._fits)[1][:, 1]

    @property
    def scores(self) -> pd.DataFrame:
        """AUC with its 95 % interval over lenses, one row a network and one for the smooth fit: of the three classes,
        of substructure against none, and the latter on the lenses to which a smooth lens was fitted."""
        fitted, chi_square = self.smooth_fit
        on_fitted = f"substructure or none, {len(fitted):,} fitted"
        rows = []
        for name, said in self.probabilities.items():
            row = {"network": name, "three classes": _auc(self.labels, said)}
            row["substructure or none"] = self._substructure(-said[:, 0], slice(None))
            if len(fitted):
                row[on_fitted] = self._substructure(-said[fitted, 0], fitted)
            rows.append(row)
        if len(fitted):
            rows.append({"network": SMOOTH_FIT, on_fitted: self._substructure(chi_square, fitted)})
        return pd.DataFrame(rows)

    @property
    def along_detectability(self) -> pd.DataFrame:
        """AUC of substructure against none, against its detectability, of each network, the smooth fit and an ideal
        observer: what `plots.detection_ladder` draws."""
        fitted, chi_square = self.smooth_fit
        every = np.arange(len(self.labels))
        judged = {name: (every, [-said[:, 0]]) for name, said in self.probabilities.items()}
        if len(fitted):
            judged[SMOOTH_FIT] = (fitted, [chi_square])
        judged[IDEAL] = (every, [])
        curves = [
            auc_along(self.sigma[rows], np.zeros(len(rows)), self.labels[rows] == 0, runs).assign(observer=observer)
            for observer, (rows, runs) in judged.items()
        ]
        return pd.concat(curves, ignore_index=True).assign(population="common_test")

    @property
    def answer(self) -> str:
        """The recalls of each network, beside the original ones."""
        said = {}
        for name, rows in self.recalls.groupby("network", sort=False):
            each = 100 * rows[["recall", "low", "high"]].to_numpy()
            said[name] = ", ".join(format_interval(value, low, high, 1) for value, low, high in each)
        original = said.pop(ORIGINAL)
        networks = "; ".join(f"{name} {numbers}" for name, numbers in said.items())
        return (
            f"Recall in percent of {', '.join(CLASSES)}, on {len(self.labels):,} upright simulated lenses: "
            f"{networks}. On DeepLense's own images a network that was trained on them has {original}."
        )

    @property
    def plain(self) -> str:
        """The first network beside the original images, without brackets."""
        percent = 100 * self.recalls.set_index(["network", "class"])["recall"]
        name = next(iter(self.probabilities))
        simulated, original = ([f"{percent[one, of]:.0f}" for of in CLASSES] for one in (name, ORIGINAL))
        return (
            f"{name} is right about {simulated[0]} of 100 simulated lenses without substructure, {simulated[1]} with "
            f"subhalos and {simulated[2]} with a vortex. A network whose answers to DeepLense's original images are "
            f"published, perhaps none of these, is right about {original[0]}, {original[1]} and {original[2]} there."
        )

    def _counts(self) -> Iterator[tuple[str, np.ndarray]]:
        """The confusion of each network, true class by called class, that of the original images first."""
        yield ORIGINAL, np.array([ORIGINAL_CONFUSION[name] for name in CLASSES])
        for name, said in self.probabilities.items():
            yield name, np.bincount(3 * self.labels + said.argmax(1), minlength=9).reshape(3, 3)

    def _each_draw(self, name: str, k: int) -> Iterator[float]:
        called = self.probabilities[name].argmax(1)
        for draw in np.unique(self.draw):
            yield (called[(self.draw == draw) & (self.labels == k)] == k).mean()

    @property
    def _bins(self) -> list[tuple[str, np.ndarray]]:
        """Which lenses `(N,)` have no substructure, and which have one of a detectability between two `EDGES`."""
        found = [("none", self.labels == 0)]
        for low, high in zip(EDGES, EDGES[1:], strict=False):
            name = f"below {high:g}" if low == 0 else f"above {low:g}" if high == np.inf else f"{low:g} to {high:g}"
            found.append((name, (self.labels > 0) & (self.sigma >= low) & (self.sigma < high)))
        return found

    def _by_detectability(self, counts) -> pd.DataFrame:
        rows = []
        for k, of in enumerate(CLASSES):
            for name, inside in self._bins:
                these = inside & (self.labels == k)
                if images := int(these.sum()):
                    shares = {
                        network: _percent(int(counts(said[these].argmax(1), k).sum()), images, 0)
                        for network, said in self.probabilities.items()
                    }
                    rows.append({"class": of, "detectability, sigma": name, "images": images, **shares})
        return pd.DataFrame(rows)

    def _substructure(self, evidence: np.ndarray, rows) -> str:
        return _auc((self.labels[rows] > 0).astype(int), np.stack([-evidence, evidence], axis=1))


class OriginalImages:
    """What networks say of labelled original images at four rotations. Of the images themselves nothing is kept.

    Args:
        networks: by name, each with `classes` and `probabilities(images, degrees)`, such as a `Predictor`.
        folder: one folder a class, with variables such as `$LENSSTUDY_DATA` or without; empty: none.

    Raises:
        DataError: for what cannot be read, other classes than `CLASSES`, or images of another size.

    Attributes:
        table: one row a `network`, `image` and rotation: the true `class`, `degrees`, the probabilities of `CLASSES`,
            what it is `called`, and whether that is `right`.

    Example:
        >>> OriginalImages({}, "").answer
        'No original images were given.'
    """

    def __init__(self, networks: Mapping[str, Any], folder: str | Path):
        columns = ["network", "image", "class", "degrees", *CLASSES, "called", "right"]
        self.table = pd.DataFrame(columns=columns)
        if not str(folder):
            return
        lenses = read(folder)
        _columns(str(folder), lenses.classes)
        if lenses.images.shape[1:] != (1, IMAGE_SIZE, IMAGE_SIZE):
            expected = (1, IMAGE_SIZE, IMAGE_SIZE)
            raise DataError(f"{folder}: images of shape {lenses.images.shape[1:]}; those of the test have {expected}")
        images, names = np.asarray(lenses.images, np.float32), lenses.catalogue["name"]
        rows = []
        for network, one in networks.items():
            order = _columns(network, one.classes)
            for degrees in ANGLES:
                for image, of, said in zip(
                    names, lenses.catalogue["class"], one.probabilities(images, degrees)[:, order], strict=True
                ):
                    called = CLASSES[said.argmax()]
                    rows.append((network, image, of, degrees, *said, called, called == of))
        self.table = pd.DataFrame(rows, columns=columns)

    @property
    def counts(self) -> pd.DataFrame:
        """How many of the images each network calls right, one row a network and one column a rotation, with the 95 %
        interval of the share in percent (Wilson)."""
        rows = []
        for network, each in self.table.groupby("network", sort=False):
            row = {"network": network}
            for degrees, one in each.groupby("degrees"):
                right, images = int(one["right"].sum()), len(one)
                low, high = wilson(right / images, images)
                row[f"{degrees}°"] = f"{right} of {images} [{100 * low:.0f}, {100 * high:.0f}]"
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def probabilities(self) -> pd.DataFrame:
        """The probabilities of `no_sub`, `cdm` and `axion`, one row a network and image and one column a rotation, with
        what the image is called where that is wrong."""
        rows = []
        for (network, image), each in self.table.groupby(["network", "image"], sort=False):
            said = {}
            for row in each.to_dict("records"):
                three = " ".join(f"{row[one]:.2f}" for one in CLASSES)
                said[f"{row['degrees']}°"] = three if row["right"] else f"{three} ✗ {row['called']}"
            rows.append({"network": network, "image": image, **said})
        return pd.DataFrame(rows)

    @property
    def answer(self) -> str:
        """How many images each network calls right at each rotation."""
        if self.table.empty:
            return "No original images were given."
        counts = self.table.groupby(["network", "degrees"], sort=False)["right"].sum().unstack()
        images = self.table["image"].nunique()
        said = "; ".join(f"{name}: {', '.join(str(int(one)) for one in row)}" for name, row in counts.iterrows())
        return f"Right of {counted(images, 'original image')} at 0, 90, 180 and 270 degrees: {said}."


def difference_of_shares(first: float, n_first: int, second: float, n_second: int) -> tuple[float, float, float]:
    """The difference of two independent shares of so many images and its 95 % interval, from the Wilson intervals of
    both (Newcombe 1998, Statist. Med. 17, 873, method 10).

    Example:
        >>> [round(one, 4) for one in difference_of_shares(56 / 70, 70, 48 / 80, 80)]  # from there
        [0.2, 0.0524, 0.3339]
    """
    (low, high), (low_second, high_second) = wilson(first, n_first), wilson(second, n_second)
    apart = first - second
    return (
        apart,
        float(apart - np.hypot(first - low, high_second - second)),
        float(apart + np.hypot(high - first, second - low_second)),
    )


def save(folder: str | Path, beside: BesideOriginal, rotation: UnderRotation, original: OriginalImages) -> str:
    """Write what was found: tables as `.csv`, and `summary.json` with the answer and the names that the list of reports
    reads; the figure stands beside them as `headline.png`. Returns the answer."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"rotations": rotation.table, "recalls": beside.recalls, "confusion": beside.confusion}
    tables |= {"detectability": beside.right, "original": original.table}
    for name, one in tables.items():
        one.to_csv(folder / f"{name}.csv", index=False)
    shown = rotation.summary().rename(columns={one: f"accuracy, {one}" for one in ROTATIONS})
    largest = shown.pop("rotation consistency").map("{:.3f}".format)
    shown["largest change at right angles"] = largest
    summary = {
        "answer": f"{rotation.answer} {beside.answer} {original.answer}",
        "plain": f"{rotation.plain} {beside.plain}",
        "figure": "headline.png",
        "figure_alt": "AUC of each network on lenses upright and rotated, with intervals.",
        "figure_caption": "AUC on the same lenses upright and rotated, with 95 % intervals over lenses.",
        "table": shown.to_dict("records"),
        "limitations": LIMITATIONS,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False), encoding="utf-8")
    return summary["answer"]


def _columns(name: str, classes: Sequence[str]) -> list[int]:
    """Where `CLASSES` stand among `classes`."""
    if sorted(classes) != sorted(CLASSES):
        raise DataError(f"{name}: of the classes {', '.join(classes)}; expected {', '.join(CLASSES)}")
    return [list(classes).index(one) for one in CLASSES]


def _percent(count: int, images: int, digits: int = 1) -> str:
    low, high = wilson(count / images, images)
    return format_interval(100 * count / images, 100 * low, 100 * high, digits)


def _auc(labels: np.ndarray, scores: np.ndarray) -> str:
    return format_interval(auc(labels, scores), *interval(labels, [scores]))
