"""The one currency between data, training and prediction: images, a catalogue and the order of classes.

A `LensDataset` is an array of images and a table with one row an image. On disk it is a folder of three files,
`images.npy`, `catalogue.parquet` and `dataset.json`; the last is written last, so a folder that has it is whole.
The order of the class names is data: it is stored, and it is the order of a network's outputs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from lensstudy.files import FileError, read_json, regular, whole_file
from lensstudy.text import nearest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLASS_ALIASES",
    "DataError",
    "LensDataset",
    "batches",
    "canonical_class",
    "ellipticity",
    "groups_of",
    "npy_header",
    "sky_and_noise",
]

# What people call the classes of DeepLense. Alphabetical order differs between namings, so the match is by name.
CLASS_ALIASES = {
    "no_sub": ("no_sub", "no", "nosub", "no_substructure", "smooth"),
    "cdm": ("cdm", "sphere", "subhalo", "subhalos"),
    "wdm": ("wdm", "warm", "warm_dark_matter"),
    "sidm": ("sidm", "self_interacting"),
    "axion": ("axion", "vort", "vortex"),
    "sub": ("sub", "substructure"),
    "lens": ("lens", "lenses", "lensed"),
    "nonlens": ("nonlens", "nonlenses", "no_lens", "no_lenses", "not_lens", "unlensed", "not_lensed", "non_lensed"),
}
PARTS = ("train", "validation", "test")
SCALE_TOLERANCE = 0.02  # pixel scales that agree to 2 % are the same: half a pixel over a cutout of 50
GROUPS = ("group", "lens")  # columns of which rows that agree belong together: copies, and bands of one lens
TINY = 1e-30  # stands in for a divisor of zero; fluxes in erg/s/cm^2 are as small as 1e-18
PIECE = 64  # images handled at a time, so that a memory map is never read whole


class DataError(ValueError):
    """Data that the study cannot use. The message names the file, what was found and the way out."""


def canonical_class(name: str, where: str = "") -> str:
    """The study's name for a class, matched by name through `CLASS_ALIASES` (case, `-`, `_` and spaces do not count).

    Raises `DataError` for a name that no alias matches; `where` (a file or folder) goes into the message.
    """
    aliases = {alias: known for known, group in CLASS_ALIASES.items() for alias in group}
    plain = {alias.replace("_", ""): known for alias, known in aliases.items()}.get(re.sub(r"[-_ ]+", "", name.lower()))
    if plain:
        return plain
    near = nearest(re.sub(r"[- ]+", "_", name.strip().lower()), aliases)
    hint = f" Did you mean '{near}'?" if near else ""
    known = "; ".join(f"{known} (also {', '.join(group[1:])})" for known, group in CLASS_ALIASES.items())
    place = f"{where}: " if where else ""
    raise DataError(f"{place}class '{name}' is unknown.{hint} Known classes: {known}.")


class Description(BaseModel):
    """What is read back of the description of a data set; it says more."""

    model_config = ConfigDict(extra="allow", strict=True)

    pixel_scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    redistributable: bool = False
    grouped_by: list[str] = []
    leak_free: str = ""
    parameters: dict[str, Any] = {}
    rejected: list[dict[str, str]] = []


class About(BaseModel):
    """What `dataset.json` says of the images and the catalogue beside it."""

    classes: list[str] = Field(min_length=1)
    fingerprint: str
    description: dict[str, Any]

    @field_validator("description")
    @classmethod
    def _of_known_types(cls, description: dict[str, Any]) -> dict[str, Any]:
        Description.model_validate(description)
        return description


@dataclass
class LensDataset:
    """Hold images, their catalogue and the order of their classes.

    Args:
        images: `(N, C, H, W)` of any real dtype, a memory map when loaded from disk.
        catalogue: one row an image, with at least `name` (unique) and `class`.
        classes: the order of a network's outputs.
        description: where the set comes from, in JSON (`source`, `preset`, `pixel_scale` in arcseconds, ...).

    Raises:
        DataError: where the parts do not fit together.

    Example:
        >>> images = np.zeros((2, 1, 8, 8), np.float32)
        >>> table = pd.DataFrame({"name": ["a", "b"], "class": ["no_sub", "cdm"]})
        >>> LensDataset(images, table, ("no_sub", "cdm")).labels.tolist()
        [0, 1]
    """

    images: np.ndarray
    catalogue: pd.DataFrame
    classes: tuple[str, ...]
    description: dict = field(default_factory=dict)

    def __post_init__(self):
        self.classes = tuple(self.classes)
        if self.images.ndim != 4:
            raise DataError(f"images have shape {self.images.shape}; expected four axes (N, C, H, W)")
        if len(self.images) != len(self.catalogue):
            raise DataError(f"{len(self.images)} images, but {len(self.catalogue)} rows in the catalogue")
        unknown = set(self.catalogue["class"]) - set(self.classes)
        if unknown:
            raise DataError(f"the catalogue has classes {sorted(unknown)}, which are not among {self.classes}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> np.ndarray:
        """Class of each image as an index into `classes`, int64."""
        return (
            self.catalogue["class"].map({name: i for i, name in enumerate(self.classes)}).to_numpy(np.int64, copy=True)
        )

    @property
    def image_size(self) -> int:
        """Pixels along one side of the (square) images."""
        height, width = self.images.shape[-2:]
        if height != width:
            raise DataError(f"images are {height}x{width} pixels; rotating by 90 degrees needs square ones: crop them")
        return height

    @property
    def redistributable(self) -> bool:
        """Whether these images may be shown in public: simulated ones, and those whose description says so."""
        return is_redistributable(self.description)

    @property
    def fingerprint(self) -> str:
        """Hash of pixels, labels and class order: equal fingerprints mean equal sets, whoever made them."""
        digest = hashlib.sha256(json.dumps([self.classes, self.images.shape, str(self.images.dtype)]).encode())
        digest.update(self.labels.tobytes())
        for start in range(0, len(self), PIECE):
            digest.update(np.ascontiguousarray(self.images[start : start + PIECE]).tobytes())
        return digest.hexdigest()[:16]

    def subset(self, rows: Sequence[int] | np.ndarray) -> LensDataset:
        """The images at `rows` (indices or a mask), as a set of its own; of a memory map nothing is copied."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        lazy = isinstance(self.images, np.memmap | Rows)
        images: Any = Rows(self.images, rows) if lazy else self.images[rows]
        return replace(self, images=images, catalogue=self.catalogue.iloc[rows].reset_index(drop=True))

    def part(self, name: str) -> LensDataset:
        """The `train`, `validation` or `test` part; `split` comes first."""
        if "part" not in self.catalogue:
            raise DataError("this data set is not split yet: call split() first")
        if name not in PARTS:
            raise DataError(f"part '{name}' does not exist; there are {', '.join(PARTS)}")
        return self.subset((self.catalogue["part"] == name).to_numpy())

    def share(self, fraction: float, seed: int) -> LensDataset:
        """A random `fraction` of every class, in nested subsets: what a smaller fraction has, a larger one has too."""
        if not 0 < fraction <= 1:
            raise DataError(f"a share of {fraction} of the images does not exist; expected more than 0 and at most 1")
        shuffled = np.random.default_rng(seed).permutation(len(self))
        labels = self.labels[shuffled]
        chosen = [shuffled[labels == label] for label in range(len(self.classes))]
        return self.subset(np.sort(np.concatenate([rows[: int(np.ceil(fraction * len(rows)))] for rows in chosen])))

    def split(
        self, test_fraction: float, validation_fraction: float, seed: int, group_by: Sequence[str] = GROUPS
    ) -> LensDataset:
        """The same set with a column `part`: `test_fraction` of every class for the test, `validation_fraction` of
        the rest for choosing epochs and parameters. Stratified by class and seeded.

        Rows that agree in any of the columns `group_by` that the catalogue has (duplicates, other images of one lens)
        come into one part together. Rows with a reason in `excluded_because` come into the part `excluded`.
        """
        from sklearn.model_selection import train_test_split  # takes a second, which reading alone need not wait for

        part = np.full(len(self), "excluded", dtype=object)
        kept = np.flatnonzero(_kept(self.catalogue))
        _, first, group = np.unique(
            groups_of(self.catalogue.iloc[kept], group_by), return_index=True, return_inverse=True
        )
        labels = self.labels[kept[first]]
        try:
            train, test = train_test_split(
                np.arange(len(first)), test_size=test_fraction, stratify=labels, random_state=seed
            )
            train, validation = train_test_split(
                train, test_size=validation_fraction, stratify=labels[train], random_state=seed
            )
        except ValueError as error:
            counts = self.catalogue["class"].iloc[kept].value_counts().to_dict()
            raise DataError(
                f"cannot split {counts} images into test ({test_fraction:.0%}) and validation "
                f"({validation_fraction:.0%}): {error}. Use more images of the smallest class or larger fractions."
            ) from error
        of_group = np.full(len(first), "train", dtype=object)
        of_group[validation], of_group[test] = "validation", "test"
        part[kept] = of_group[group]
        about = self.description | ({"grouped_by": list(group_by)} if tuple(group_by) != GROUPS else {})
        return replace(self, catalogue=self.catalogue.assign(part=part), description=about)

    def split_as_given(self, validation_fraction: float, seed: int) -> LensDataset:
        """The same set with a column `part` that keeps the parts in which the images came (`source_part`); where no
        validation part came, `validation_fraction` of the training images becomes one, stratified by class and seeded.

        Raises `DataError` where images came in no part, or none for the test.
        """
        given = self.catalogue.get("source_part", pd.Series(None, self.catalogue.index, dtype=object))
        if given.isna().any() or not (given == "test").any() or not (given == "train").any():
            counts = given.fillna("none").value_counts().to_dict()
            raise DataError(
                f"the parts that came with the images are {counts}; keeping them needs folders for train and test that "
                "hold all images. Split at random otherwise."
            )
        part = given.to_numpy(dtype=object, copy=True)
        part[~_kept(self.catalogue)] = "excluded"
        if not (part == "validation").any():
            train = np.flatnonzero(part == "train")
            drawn = self.subset(train).split(validation_fraction, 0.5, seed).catalogue["part"]
            part[train[(drawn == "test").to_numpy()]] = "validation"
        return replace(self, catalogue=self.catalogue.assign(part=part))

    def check_classes(self) -> None:
        """Raise `DataError` unless there are images of two classes or more, which a network tells apart."""
        present = sorted(set(self.catalogue["class"]))
        if len(present) < 2:
            raise DataError(
                f"only one class ({', '.join(present)}); training needs images of two or more, each in a folder named "
                "after its class"
            )

    def check_leaks(self, group_by: Sequence[str] = ()) -> None:
        """Raise `DataError` if an image, a copy of it rotated by a multiple of 90 degrees or reflected, or another
        image of its group lies in two parts. Groups are those by which the set was split, unless `group_by` does.
        Copies rotated by other angles are found by `filtering.find_duplicates`."""
        group_by = group_by or self.description.get("grouped_by", GROUPS)
        if "part" not in self.catalogue:
            raise DataError("this data set is not split yet: call split() first")
        used = self.subset(self.catalogue["part"].isin(PARTS).to_numpy())
        rows = used.catalogue[["name", "part"]]
        for what, key in {
            "copies of one image": used.orientation_free_hash(),
            "of one group": groups_of(used.catalogue, group_by),
        }.items():
            leaking = rows[rows["part"].groupby(key).transform("nunique") > 1]
            if len(leaking):
                together = rows[key == key[leaking.index[0]]].head(4)
                names = ", ".join(f"'{name}' ({part})" for name, part in together.to_numpy())
                raise DataError(
                    f"{len(leaking)} images leak between parts; {names} are {what}. Run filtering.filter_images "
                    "before split(), which keeps copies together, or split() with the column that tells lenses apart."
                )

    def orientation_free_hash(self) -> np.ndarray:
        """One hash an image, the same for its eight copies rotated by multiples of 90 degrees and reflected."""
        hashes = []
        for start in range(0, len(self), PIECE):
            for image in self.images[start : start + PIECE]:
                rotated = [np.rot90(image, k, (1, 2)) for k in range(4)]
                copies = [np.ascontiguousarray(copy).tobytes() for t in rotated for copy in (t, t[:, :, ::-1])]
                hashes.append(hashlib.blake2b(min(copies), digest_size=8).hexdigest())
        return np.array(hashes)

    def save(self, folder: str | Path) -> Path:
        """Write the set to `folder`; `dataset.json` comes last, so an interrupted write does not look whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("dataset.json", "croissant.json"):  # the data card holds the hash of files that change now
            (folder / name).unlink(missing_ok=True)
        images = folder / "images.npy"
        own = getattr(self.images, "filename", None)
        if own is None or Path(own).resolve() != images.resolve():  # a memory map of this very file stays
            with whole_file(images) as partial:
                _write_images(self.images, partial)
        with whole_file(folder / "catalogue.parquet") as partial:
            self.catalogue.to_parquet(partial)
        about = {"classes": self.classes, "fingerprint": self.fingerprint, "description": self.description}
        with whole_file(folder / "dataset.json") as partial:
            partial.write_text(json.dumps(about, indent=1, default=str))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> LensDataset:
        """Open a folder that `save` wrote, its images as a memory map. Raises `DataError` if it is not whole."""
        folder = Path(folder)
        if not (folder / "dataset.json").exists():
            raise DataError(f"{folder}: no dataset.json, so this is no finished data set; run 01-explore-data first")
        file = folder / "dataset.json"
        try:
            about = read_json(file, About)
            file = folder / "images.npy"
            images = np.load(regular(file), mmap_mode="r", allow_pickle=False)
            file = folder / "catalogue.parquet"
            catalogue = pd.read_parquet(regular(file))
            return cls(images, catalogue, tuple(about.classes), about.description)
        except FileError as error:
            raise DataError(str(error)) from None
        except Exception as error:  # whatever a damaged npy or parquet file raises
            raise DataError(f"{file}: is damaged or does not fit the files beside it ({error})") from error

    def check_fingerprint(self, folder: Path) -> None:
        """Raise `DataError` if this set, loaded from `folder`, is not the one that was saved there."""
        if read_json(folder / "dataset.json", About).fingerprint != self.fingerprint:
            raise DataError(f"{folder}: the images or labels are not those that were saved (the fingerprint differs)")


def _write_images(images: np.ndarray | Rows, file: Path) -> None:
    """Write images as `.npy`, piece by piece; not through a memory map, of which a full disk ends the process."""
    with open(file, "wb") as opened:
        opened.write(npy_header(images.shape, images.dtype))
        for start in range(0, len(images), PIECE):
            opened.write(np.ascontiguousarray(images[start : start + PIECE]).tobytes())


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Header of an .npy file; NumPy pads it, so it is as long for a million images as for none."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def is_redistributable(description: dict) -> bool:
    """Whether a data set of this `description` may be shown in public. Without a word about it, only images that this
    project simulated may, and not those in which a real galaxy is the source: what was read belongs to somebody."""
    simulated = description.get("source") in ("simulated", "mixed") and not _uses_real_galaxies(description)
    return bool(description.get("redistributable", simulated))


def _uses_real_galaxies(about) -> bool:
    if isinstance(about, dict):
        return bool(about.get("source_images")) or any(map(_uses_real_galaxies, about.values()))
    return isinstance(about, list | tuple) and any(map(_uses_real_galaxies, about))


class Rows:
    """Some rows of a large array, read when asked for: indexing and slicing give arrays, `np.asarray` gives all."""

    def __init__(self, array: np.ndarray | Rows, rows: np.ndarray):
        self.array: np.ndarray = array.array if isinstance(array, Rows) else array
        self.rows: np.ndarray = array.rows[rows] if isinstance(array, Rows) else rows
        self.dtype, self.ndim = self.array.dtype, self.array.ndim
        self.shape = (len(rows), *self.array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key):
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis or first is None:
            return np.asarray(self)[key]
        taken = self.array[self.rows[first]]
        return taken[(slice(None), *rest)] if rest and np.ndim(self.rows[first]) else taken[tuple(rest)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array[self.rows].astype(dtype or self.dtype, copy=False)


def _kept(catalogue: pd.DataFrame) -> np.ndarray:
    """Mask of the rows that no rule has excluded."""
    if "excluded_because" not in catalogue:
        return np.ones(len(catalogue), dtype=bool)
    return (catalogue["excluded_because"].fillna("") == "").to_numpy()


def groups_of(catalogue: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """A number for each row, the same for rows that agree, directly or through others, in any of the `columns`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group = np.arange(len(catalogue))
    for column in columns:
        if column not in catalogue:
            continue
        own = pd.Series(np.arange(len(catalogue)), catalogue.index).map("row {}".format)  # where nothing is known
        other = pd.factorize(catalogue[column].astype(object).where(catalogue[column].notna(), own))[0] + len(catalogue)
        edges = coo_array((np.ones(len(group)), (group, other)), shape=(2 * len(group),) * 2)
        group = connected_components(edges, directed=False)[1][group]
    # numbered by first appearance, so that a set without groups is split as if groups did not exist
    return pd.factorize(group)[0]


def batches(
    part: LensDataset, batch_size: int, generator: np.random.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images `(B, C, H, W)` in float32 and labels `(B,)`, once through `part`, shuffled if a `generator` is given.

    Each batch is read when its turn comes, so that a set larger than memory streams from disk.
    """
    import torch

    labels = torch.as_tensor(part.labels)
    order = np.arange(len(part)) if generator is None else generator.permutation(len(part))
    for start in range(0, len(part), batch_size):
        rows = order[start : start + batch_size]
        yield torch.from_numpy(np.asarray(part.images[rows], dtype=np.float32)), labels[rows]


def sky_and_noise(images: np.ndarray) -> tuple[float, float]:
    """Median and robust deviation of the sky, from the outer sixteenth of `images` `(N, H, W)`.

    The deviation is 1.4826 times the median absolute difference of neighbouring pixels, over the square root of two:
    differences see the noise and not the slope of the light.
    """
    width = max(images.shape[-1] // 16, 2)
    edges = images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]
    sky = np.nanmedian(np.concatenate([edge.ravel() for edge in edges]))
    steps = [np.diff(edge, axis=2 if edge.shape[2] > edge.shape[1] else 1).ravel() for edge in edges]
    return float(sky), float(1.4826 * np.nanmedian(np.abs(np.concatenate(steps))) / np.sqrt(2))


def ellipticity(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Components e1 and e2 of the flux of each image `(N, C, H, W)`, from the second moments of its brightness above
    the median, within the largest circle that fits.

    e1 = (Qxx - Qyy) / (Qxx + Qyy) and e2 = 2 Qxy / (Qxx + Qyy) about the centre of light (Bartelmann and Schneider
    2001, section 4.2). x runs along rows to the right and y along columns upwards, as the figures show an image.
    """
    height, width = images.shape[-2:]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    inside = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2) <= min(height, width) / 2
    x, y = x[inside], y[inside]
    result = np.empty((2, len(images)))
    for i, image in enumerate(images):
        light = np.asarray(image, np.float64).mean(0)[inside]
        light = np.clip(light - np.median(light), 0, None)
        light /= light.sum() or 1
        dx, dy = x - light @ x, y - light @ y
        xx, yy, xy = light @ dx**2, light @ dy**2, light @ (dx * dy)
        result[:, i] = (xx - yy, 2 * xy) / np.maximum(xx + yy, TINY)
    return result[0], result[1]
