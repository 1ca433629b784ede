"""`Predictor`: a trained network that predicts for images in memory and for thousands of files.

It shows the network what its card says (the central pixels, binned and stretched), divides the logits by the
temperature of the card, and tells images that are out of the training distribution. An image in other pixels is brought
to the network's own; one that cannot be what the network was trained on is rejected with a reason: other bands, pixels
of a very different size, bad pixels. Where the pixel scale is unknown no class is named. An exported network needs
neither e2cnn nor Lightning; the folder of a training is exported first, which needs both.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lensstudy.data.dataset import SCALE_TOLERANCE, DataError, sky_and_noise
from lensstudy.data.labels import class_of, part_of
from lensstudy.data.preprocess import Preprocess
from lensstudy.data.resampling import resample, resample_with_noise
from lensstudy.data.rotation import centre_crop
from lensstudy.data.scanning import Scan, beside_images, scan
from lensstudy.deployment.card import Card
from lensstudy.deployment.onnx_network import AT_ONCE, INT8_FILE, ONNX_FILE, OnnxNetwork
from lensstudy.evaluation.ood import OODDetector, image_statistics, thumbnails
from lensstudy.files import printable
from lensstudy.lensing.presets import SCALING
from lensstudy.networks.names import folder_of

__all__ = ["STATES", "Predictor", "class_by_folder", "find", "predict"]

# What became of an image. `pixel scale unknown`: probabilities that hold only if its pixels are as large as the
# network's; `skipped`: a noise map, PSF or mask that belongs to an image.
STATES = ("ok", "pixel scale unknown", "out of distribution", "rejected", "skipped")

BOUND = 1e30  # pixels beyond it overflow in float32
FURTHEST = 3.0  # factor between two pixel scales beyond which an image is not resampled
REACH = 8  # pixels around what the network sees that resampling takes along
SHORT = 0.05  # share of a side that may lack of what the network sees; it is padded with sky
SHORT_PIXELS = 4  # or so many pixels


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one processor: its other threads wait for more work by spinning, in the way of those of onnxruntime."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Image:
    """One image on its way: where it was found and its pixels `(C, H, W)`, or why there are none; `skipped` if it is
    no image at all, such as a noise map. `note` says what was done to it."""

    file: str
    index: int
    pixels: np.ndarray | None
    reason: str = ""
    pixel_scale: float | None = None
    note: str = ""
    skipped: bool = False


class Predictor:
    """Predict the classes of images with a trained network.

    `predict` takes images in memory, `predict_files` files and folders.
    `classes` are in the order of the probabilities.

    Args:
        folder: an exported network, or the folder of a finished training, which is exported on the way (to `exported`
            inside it, and reused as long as the weights are the same); or the name of one that comes with the package.
        rotations: average the probabilities over this many orientations of each image, evenly spaced.
        pixel_scale: arcseconds of one pixel of the images, for files that do not say.
        batch_size: images in one pass through the network.
        threads: processor threads (default: torch's number).
        resample: bring images whose pixel scale differs by up to a factor of three to the network's, or reject them.
        band: number, from 0, of the band to use of images with several.
        fill: replace NaN and infinite pixels by sky with its noise, instead of rejecting the image.
        prior: how frequent the classes are among the images, as shares in the order of `classes` or by name; `train`:
            as among the training images. Probabilities are those of the training's own shares, if none is given.

    Raises:
        CardError: for a folder that is incomplete, altered or newer than this version.
        ValueError: for a folder that does not exist, or an option out of range.

    Example:
        >>> import tempfile
        >>> from lensstudy import Study, export, fit, simulate
        >>> lenses = simulate("model_3", 12, seed=1, image_size=33).split(0.2, 0.2, seed=1)
        >>> run = fit(lenses, Study(network="d4-steerable-cnn", width=0.25, epochs=1), folder=tempfile.mkdtemp())
        >>> predictor = Predictor(export(run, dataset=lenses))
        >>> len(predictor.predict(lenses.images[:2]))
        2
    """

    def __init__(
        self,
        folder: str | Path,
        rotations: int = 1,
        pixel_scale: float | None = None,
        batch_size: int = 256,
        threads: int = 0,
        resample: bool = True,
        band: int | None = None,
        fill: bool = False,
        prior: Sequence[float] | Mapping[str, float] | Literal["train"] | None = None,
    ):
        folder = folder_of(folder)
        if (folder / "metrics.json").exists():  # a training
            from lensstudy.deployment.exporting import exported

            folder = exported(folder)
        card = Card.read(folder)
        network = OnnxNetwork(folder / (INT8_FILE if INT8_FILE in card.files else ONNX_FILE), threads)
        known = card.in_distribution is not None
        distribution = OODDetector.load(folder / "distribution.safetensors") if known else None
        features = distribution.features.deviations.size if distribution else None
        network.check(card.images.channels, card.images.size, len(card.classes), features)
        self._set(card, network, distribution, rotations, pixel_scale, batch_size, threads, resample, band, fill, prior)

    @classmethod
    def of(cls, card: Card, network: OnnxNetwork, distribution: OODDetector | None = None) -> Predictor:
        """A predictor of a network that is in memory."""
        made = cls.__new__(cls)
        made._set(card, network, distribution)
        return made

    def _set(
        self,
        card,
        network,
        distribution,
        rotations=1,
        pixel_scale=None,
        batch_size=256,
        threads=0,
        resample=True,
        band=None,
        fill=False,
        prior=None,
    ):
        if rotations < 1:
            raise ValueError(f"rotations = {rotations}; expected 1 (as observed) or more orientations to average over")
        if pixel_scale is not None and not pixel_scale > 0:
            raise ValueError(f"pixel_scale = {pixel_scale}; expected arcseconds of one pixel, more than 0")
        if band is not None and band < 0:
            raise ValueError(f"band = {band}; expected the number of a band, from 0")
        self.card, self.network, self.distribution = card, network, distribution
        self.resample, self.band, self.fill = resample, band, fill
        self.rotations, self.pixel_scale, self.batch_size = rotations, pixel_scale, batch_size
        self.classes, self.preprocess = tuple(card.classes), Preprocess.from_dict(card.images.model_dump())
        self.log_shift = np.zeros(len(self.classes)) if prior is None else prior_shift(card, prior)
        self.temperature, self.per_pixel = card.calibration["temperature"], _per_pixel(card)
        self.pool = ThreadPoolExecutor(threads or torch.get_num_threads())

    # What an answer is ------------------------------------------------------------------------------------------------

    def seen(self, images: np.ndarray, degrees: float = 0.0) -> torch.Tensor:
        """What the network sees of images `(N, C, H, W)` that were rotated by `degrees`: `(N, C, size, size)`."""
        with _one_thread():
            return self.preprocess(np.asarray(images), degrees)

    @torch.no_grad()
    def probabilities(self, images: np.ndarray, degrees: float = 0.0) -> np.ndarray:
        """Calibrated probabilities `(N, classes)` of images `(N, C, H, W)` rotated by `degrees`, in one orientation."""
        return self._tempered(self.network.features(self.seen(images, degrees))[0])

    @torch.no_grad()
    def answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated probabilities `(N, classes)` and ood_score `(N,)` (above 1 is out of distribution; NaN
        where the card does not know) of images `(N, C, H, W)` that `prepare` has let pass."""
        logits, *noticed = self._noticed(self.seen(images))
        ood_score = np.full(len(images), np.nan)
        if self.distribution is not None:
            ood_score = self.distribution.score(*noticed)
        others = [self.probabilities(images, 360 * rotation / self.rotations) for rotation in range(1, self.rotations)]
        return np.mean([self._tempered(logits), *others], axis=0), ood_score

    def _noticed(self, seen: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """Logits, features and image statistics; the statistics are measured while the network computes."""
        looked = self.pool.map(image_statistics, [part.numpy() for part in seen.split(AT_ONCE)])
        logits, features = self.network.features(seen)
        return logits, features.numpy().astype(np.float64), np.concatenate(list(looked)), thumbnails(seen.numpy())

    def _tempered(self, logits: torch.Tensor) -> np.ndarray:
        return torch.softmax(logits.double() / self.temperature + torch.from_numpy(self.log_shift), dim=1).numpy()

    def prepare(self, image: np.ndarray, pixel_scale: float | None = None) -> tuple[np.ndarray, str]:
        """Bring an image to what the network can take.

        An image in other pixels is resampled, its sky noise with it (see `resample_with_noise`). Its brightness is
        taken for flux a pixel, as counts are, and so grows with a pixel's area; where the training images were each
        divided by their own peak or range, that of the image is kept instead. (A network that scales each image by its
        own brightness sees no difference.) One that then lacks up to 5 % or 4 pixels of a side of what the network sees
        is padded with sky and its noise.

        Args:
            image: `(C, H, W)`.
            pixel_scale: arcseconds of one of its pixels.

        Returns:
            The image `(C, H, H)` in float32, and what was done to it, empty where nothing was.

        Raises:
            ValueError: with the reason why the network cannot take it.
        """
        about, notes = self.card.images, []
        scale = pixel_scale or self.pixel_scale
        if image.dtype.kind not in "biuf":
            raise ValueError(f"dtype {image.dtype} is no pixel")
        image = self._bands(image)
        height, width = image.shape[1:]
        if height != width:
            raise ValueError(f"{height} x {width} pixels; cut out a square with the lens in its centre")
        given = f"{height} x {height} pixels"
        generator = _generator_of(image)
        if self.fill and (bad := ~np.isfinite(image)).any():
            image = _filled(image, bad, generator)
            notes.append(f"{int(bad.sum())} NaN or infinite pixels filled with sky and its noise")
        if scale and about.pixel_scale and not abs(scale / about.pixel_scale - 1) <= SCALE_TOLERANCE:  # nor for NaN
            image = self._resampled(image, scale, generator)
            given += f" of {scale:.4g} arcsec, which are {image.shape[-1]} of the network's {about.pixel_scale:.4g}"
            notes.append(f"resampled from {scale:.4g} to {about.pixel_scale:.4g} arcsec a pixel")
            scale = about.pixel_scale
        height = image.shape[-1]
        if self.resample and scale and about.pixel_scale and height < about.crop:
            image, note = _padded(image, about.crop, generator)
            notes += [note] if note else []
            height = image.shape[-1]
        if height < about.crop:
            raise ValueError(f"{given}, and the network sees the central {about.crop} x {about.crop}; cut out more")
        if height != about.image_size and not (scale and about.pixel_scale):
            asked = f"{about.pixel_scale:.4g} arcsec a pixel" if about.pixel_scale else "an unknown pixel scale"
            raise ValueError(
                f"{height} x {width} pixels, and the network was trained on {about.image_size} x {about.image_size} at "
                f"{asked}; say how large the pixels are (--pixel-scale), or cut out that size if they are as large"
            )
        if (height - about.crop) % 2:  # the nearest centre is half a pixel away
            image = image[:, :-1, :-1]
        looked_at = image if self.rotations > 1 else centre_crop(image, about.crop)
        if bad := int((~np.isfinite(looked_at)).sum()):
            raise ValueError(
                f"{bad} pixels of what the network sees are NaN or infinite; fill them with noise (--fill), or cut "
                "them off"
            )
        if looked_at.min() == looked_at.max():
            raise ValueError("every pixel has the same value")
        if np.abs(looked_at).max() > BOUND:
            raise ValueError(f"a pixel of {np.abs(looked_at).max():.3g}, too large for a network; use other units")
        kept = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
        return kept.clip(-BOUND, BOUND).astype(np.float32), "; ".join(notes)

    def _bands(self, image: np.ndarray) -> np.ndarray:
        """The bands of an image `(C, H, W)` that the network takes: all, or the one that was chosen."""
        bands, wanted = len(image), self.card.images.channels
        if self.band is not None:
            if self.band >= bands:
                raise ValueError(f"{bands} bands, and --band {self.band} is none of them; they count from 0")
            image = image[self.band :][:1]
        elif bands > 1 and bands != wanted and np.array_equal(image, image[:1].repeat(bands, 0), True):
            image = image[:1]  # a grey picture stored in colour
        if len(image) == wanted:
            return image
        if wanted > 1:
            raise ValueError(
                f"the network takes {wanted} bands, and the image has {len(image)}; give the {wanted} as one array "
                f"({wanted}, H, W), in the order of the training"
            )
        raise ValueError(f"the network takes one band, and the image has {bands}; choose one with --band, from 0")

    def _resampled(self, image: np.ndarray, scale: float, generator: np.random.Generator) -> np.ndarray:
        """An image `(C, H, H)` in the network's pixels, NaN where they touch one that was NaN or infinite."""
        about = self.card.images
        target = about.pixel_scale
        between = f"pixels of {scale:.4g} arcsec, and the network was trained on {target:.4g}"
        if not self.resample:
            raise ValueError(f"{between}; leave out --no-resample, or use a network that was trained on this scale")
        if not 1 / FURTHEST <= scale / target * 1.0001 <= FURTHEST * 1.0002:
            raise ValueError(
                f"{between}: more than a factor of {FURTHEST:g} apart, too far to resample; use a network that was "
                "trained on this scale"
            )
        seen = about.crop * (2**0.5 if self.rotations > 1 else 1) * target / scale + 2 * REACH
        kept = min(image.shape[-1], int(seen) + (image.shape[-1] - int(seen)) % 2)
        image = centre_crop(image, kept).astype(np.float64)
        size = int(kept * scale / target + 1e-6)
        size -= (size - about.crop) % 2  # so that its centre is where the network expects it
        bad = ~np.isfinite(image)
        image = np.where(bad, 0, image).clip(-BOUND, BOUND)
        new = np.stack(
            [
                resample_with_noise(band, scale, size, target, _sky(band, holes)[1], generator)
                for band, holes in zip(image, bad, strict=True)
            ]
        )
        if bad.any():
            new[resample(bad.astype(float), scale, size, target, order=1) > 1e-9] = np.nan
        return new if self.per_pixel else new * (scale / target) ** 2

    def predict(self, images: np.ndarray | Sequence[np.ndarray]) -> pd.DataFrame:
        """One row an image of an array `(N, C, H, W)`, `(N, H, W)` or a list of images: `prediction` (empty where no
        class can be named), `state` (one of `STATES`), a probability a class, `ood_score`, `in_distribution` (empty
        where that cannot be said), the `reason` why no class is named and a `note` of what was done to the image."""
        found = []
        for i, image in enumerate(images):
            pixels = np.asarray(image)
            pixels = pixels[None] if pixels.ndim == 2 else pixels
            if pixels.ndim != 3:
                raise ValueError(f"image {i} has shape {pixels.shape}; expected (H, W) or (C, H, W)")
            found.append(_Image("", i, pixels))
        return pd.DataFrame(list(self._rows(found)), columns=self.columns).drop(columns="file")

    # Files ------------------------------------------------------------------------------------------------------------

    @property
    def columns(self) -> list[str]:
        """Names of what a row holds."""
        return ["file", "image", "prediction", "state", *self.classes, "ood_score", "in_distribution", "reason", "note"]

    def predict_files(
        self,
        paths: Iterable[str | Path],
        extension: str | int | None = None,
        progress: bool = False,
        with_input: bool = False,
    ) -> Iterator[dict]:
        """A row for every image at `paths`: files, folders, tars, zips, HDF5 and data sets, or patterns such as
        `cutouts/*.fits`. Rows come as they are made, so that memory stays bounded. A file that cannot be used is a row
        with its `reason`. `extension` names the FITS extension, HDF5 dataset or npz key; `with_input` adds `input` to
        the row of an image that the network saw, what it saw of it `(C, size, size)`."""
        yield from self._rows(find(paths, extension, progress), with_input)

    def check_files(
        self, paths: Iterable[str | Path], extension: str | int | None = None, progress: bool = False
    ) -> Iterator[dict]:
        """What `predict_files` would do with every image at `paths`, without running the network: rows with `file`,
        `image`, `state`, `reason` and `note`. An image that is `ok` here may still be out of distribution."""
        for one in find(paths, extension, progress):
            state = "skipped" if one.skipped else "rejected"
            if self._prepared(one) is not None:
                state, one.reason = ("ok", "") if self._knows_scale(one) else ("pixel scale unknown", self._unscaled)
            yield {"file": one.file, "image": one.index, "state": state, "reason": one.reason, "note": one.note}

    def images(self, paths: Iterable[str | Path], at_most: int) -> dict[str, np.ndarray]:
        """The first images at `paths` that the network can take, `at_most` so many, `(C, H, W)` by file and number."""
        found: dict[str, np.ndarray] = {}
        for one in find(paths):
            if one.pixels is None:
                continue
            try:
                found[f"{one.file} {one.index}"], _ = self.prepare(one.pixels, one.pixel_scale)
            except ValueError:
                continue
            if len(found) == at_most:
                break
        return found

    def _rows(self, images: Iterable[_Image], with_input: bool = False) -> Iterator[dict]:
        waiting: list[tuple[_Image, np.ndarray | None]] = []
        for one in images:
            pixels = self._prepared(one)
            shapes = {other.shape for _, other in waiting if other is not None}
            if len(waiting) >= self.batch_size or (pixels is not None and shapes - {pixels.shape}):
                yield from self._answered(waiting, with_input)
                waiting = []
            waiting.append((one, pixels))
        yield from self._answered(waiting, with_input)

    def _prepared(self, one: _Image) -> np.ndarray | None:
        """The pixels of an image as the network takes them, or None; its reason and note then say what happened."""
        given, one.pixels = one.pixels, None
        if given is None:
            return None
        try:
            pixels, note = self.prepare(given, one.pixel_scale)
        except ValueError as error:
            one.reason = str(error)
            return None
        chance = self.card.at_chance and f"network at chance: {self.card.at_chance}"
        one.note = "; ".join(filter(None, (one.note, note, chance)))
        return pixels

    def _knows_scale(self, one: _Image) -> bool:
        return bool(one.pixel_scale or self.pixel_scale or not self.card.images.pixel_scale)

    @property
    def _unscaled(self) -> str:
        """Why no class is named where the pixel scale is unknown."""
        arcsec = f"{self.card.images.pixel_scale:.4g}"
        return (
            f"the size of its pixels is unknown, and these probabilities hold only if it is {arcsec} arcsec, as in the "
            f"training images; if it is, say --pixel-scale {arcsec}"
        )

    def _answered(self, waiting: list[tuple[_Image, np.ndarray | None]], with_input: bool) -> Iterator[dict]:
        usable = [pixels for _, pixels in waiting if pixels is not None]
        answers = zip(*self.answers(np.stack(usable)), strict=True) if usable else iter(())
        for one, pixels in waiting:
            row = {"file": one.file, "image": one.index, "prediction": "", "reason": one.reason, "note": one.note}
            row["state"] = "skipped" if one.skipped else "rejected"
            if pixels is not None:
                row |= self._answer(*next(answers), self._knows_scale(one))
                row |= {"input": self.seen(pixels[None])[0].numpy()} if with_input else {}
            yield row

    def _answer(self, probabilities: np.ndarray, ood_score: float, scale_known: bool) -> dict:
        if not np.isfinite(probabilities).all():
            return {"reason": "the network's output is not finite: pixels beyond all bounds, or in other units"}
        row = dict(zip(self.classes, probabilities.tolist(), strict=True))
        row |= {} if np.isnan(ood_score) else {"ood_score": float(ood_score)}
        if ood_score > 1:
            reason = f"out of the training distribution ({ood_score:.3g} times the limit): no prediction"
            reason += "" if scale_known else "; the size of its pixels is unknown, which may be why"
            return row | {"in_distribution": False, "state": "out of distribution", "reason": reason}
        if not scale_known:
            return row | {"state": "pixel scale unknown", "reason": self._unscaled}
        row |= {} if np.isnan(ood_score) else {"in_distribution": True}
        return row | {"state": "ok", "prediction": self.classes[int(probabilities.argmax())]}


def _generator_of(image: np.ndarray) -> np.random.Generator:
    """Random numbers that belong to the pixels of an image: the same wherever and whenever it is asked about."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _filled(image: np.ndarray, bad: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An image `(C, H, H)` with sky and a draw of its noise in the pixels `bad`, all of them NaN or infinite."""
    image = image.astype(np.float64)
    for band, holes in zip(image, bad, strict=True):
        if holes.mean() > 0.5:
            raise ValueError(f"{holes.mean():.0%} of its pixels are NaN or infinite; too little is left to fill them")
        band[holes] = generator.normal(*_sky(band, ~np.isfinite(band)), int(holes.sum()))
    return image


def _padded(image: np.ndarray, size: int, generator: np.random.Generator) -> tuple[np.ndarray, str]:
    """An image `(C, H, H)` that lacks little of `size` pixels a side, with sky and its noise around it, and a note;
    as it is, without a note, where it lacks more."""
    height = image.shape[-1]
    if size - height > max(SHORT * size, SHORT_PIXELS):
        return image, ""
    even = height - (size - height) % 2  # so that its centre stays in the middle
    edge = (size - even) // 2
    bad = np.pad(np.zeros((len(image), even, even), bool), ((0, 0), (edge, edge), (edge, edge)), constant_values=True)
    wide = np.full(bad.shape, np.nan)
    wide[~bad] = image[:, :even, :even].ravel()
    return _filled(wide, bad, generator), f"padded from {height} to {size} pixels a side with sky and its noise"


def _sky(band: np.ndarray, bad: np.ndarray) -> tuple[float, float]:
    """Sky and its noise at the border of what one band `(H, H)` has beside its `bad` pixels."""
    rows, columns = np.nonzero(~bad)
    if not len(rows):
        raise ValueError("every pixel is NaN or infinite")
    inside = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing but holes at the border is an error below
        sky, noise = sky_and_noise(np.where(bad, np.nan, band)[inside][None])
    if not np.isfinite(noise):
        raise ValueError("too few pixels with a value at its border to tell the noise; cut out a smaller part")
    return sky, noise


def prior_shift(card: Card, prior: Sequence[float] | Mapping[str, float] | Literal["train"]) -> np.ndarray:
    """Logarithm `(classes,)` of new over old frequency of each class, which is added to logits: p is proportional to
    p * new / old (Saerens, Latinne and Decaestecker 2002, Neural Computation 14, 21, equation 2.4).

    Raises `ValueError` for shares that are not those of the card's classes.
    """
    classes, old, trained = card.classes, card.prior, card.training.get("class_shares")
    if not old or not trained:
        raise ValueError(f"the card of this {card.network} does not say how frequent its classes were; export it again")
    if isinstance(prior, str):
        if prior != "train":
            raise ValueError(f"prior = '{prior}'; expected shares of {', '.join(classes)}, or 'train'")
        prior = trained
    if isinstance(prior, Mapping):
        if set(prior) != set(classes):
            raise ValueError(f"prior for {', '.join(prior)}; expected a share of each of {', '.join(classes)}")
        prior = [prior[name] for name in classes]
    new = np.array(list(prior), dtype=float)
    if new.shape != (len(classes),) or not (new >= 0).all() or abs(new.sum() - 1) > 0.01:
        given = ", ".join(f"{share:g}" for share in new)
        raise ValueError(
            f"prior {given} with a sum of {new.sum():g}; expected {len(classes)} shares with a sum of 1, of "
            f"{', '.join(classes)}"
        )
    with np.errstate(divide="ignore"):  # a class that does not occur has a probability of 0
        return np.log(new / new.sum()) - np.log(old)


def _per_pixel(card: Card) -> bool:
    """Whether the brightness of the training images was flux a pixel, rather than relative to each image's own peak."""
    peak = card.images.brightness.get("maximum")
    try:
        return SCALING[card.training["data"]["preset"]] == "counts"
    except (KeyError, TypeError):  # images that were read, or a preset of another version
        return peak not in (1.0, 255.0)


def predict(network: str | Path | Predictor, images: np.ndarray | str | Path | Sequence, **options) -> pd.DataFrame:
    """Predict the classes of images, in memory or in files.

    Args:
        network: an exported network, the folder of a finished training, the name of a network that comes with the
            package, or a `Predictor`.
        images: an array `(N, C, H, W)` or `(N, H, W)`, or the path of a file, folder, archive or pattern, or several.
        **options: those of `Predictor`, such as `pixel_scale` in arcseconds.

    Returns:
        One row an image: `prediction`, `state`, a probability a class, `ood_score`, `in_distribution`, `reason`; of
        files also `file` and `image`.

    Raises:
        CardError: for a network that must not be used.

    Example:
        >>> import tempfile
        >>> from lensstudy import Study, fit, simulate
        >>> lenses = simulate("model_3", 12, seed=1, image_size=33).split(0.2, 0.2, seed=1)
        >>> run = fit(lenses, Study(network="d4-steerable-cnn", width=0.25, epochs=1), folder=tempfile.mkdtemp())
        >>> len(predict(run, lenses.images[:2]))
        2
    """
    if isinstance(network, Predictor) and options:
        raise TypeError(f"{', '.join(options)}: a Predictor has its options already; give them to it, or give a folder")
    predictor = network if isinstance(network, Predictor) else Predictor(network, **options)
    given: list = [images] if isinstance(images, str | Path) else list(images)
    if given and all(isinstance(one, str | Path) for one in given):
        return pd.DataFrame(list(predictor.predict_files(given)), columns=predictor.columns)
    return predictor.predict(given)


def find(paths: Iterable[str | Path], extension: str | int | None = None, progress: bool = False) -> Iterator[_Image]:
    """Every image at `paths`, one after the other; a file without one comes with its reason and no pixels."""
    places = [place for path in paths for place in _expanded(path)]
    beside = beside_images([str(place) for place in places if os.path.isfile(place)])
    scans = [beside.get(str(place)) or _scanned(place, extension) for place in places]
    total = sum(len(listed) if isinstance(listed, Scan) else 1 for listed in scans)
    with tqdm(total=total, desc="images", unit="file", disable=not progress, delay=1) as bar:
        for place, listed in zip(places, scans, strict=True):
            if not isinstance(listed, Scan):
                yield _Image(printable(place), 0, None, listed, skipped=str(place) in beside)
                bar.update()
                continue
            for name, reason in listed.skipped.items():
                yield _Image(_shown(place, listed, name), 0, None, reason, skipped=True)
                bar.update()
            yield from _images_of(place, listed, bar)


def _scanned(place: Path, extension: str | int | None) -> Scan | str:
    """What lies at a place, or why nothing can be read there."""
    try:
        if not place.exists():
            return "no file matches this pattern" if glob.has_magic(str(place)) else "nothing exists at this path"
        return scan(place, labelled=False, extension=extension)
    except Exception as error:  # whatever a damaged data set makes a reader raise
        return f"{error}" or type(error).__name__


def _images_of(place: Path, listed: Scan, bar: tqdm) -> Iterator[_Image]:
    last = None
    try:
        for number, found in enumerate(listed):
            file = _shown(place, listed, found.name)
            bar.update(found.name != last)
            last = found.name
            if found.images is None:
                yield _Image(file, 0, None, found.reason, skipped=found.state == "skipped")
                continue
            for i, image in enumerate(found.images):
                index = number if listed.kind == "study" else found.first + i
                yield _Image(
                    file, index, np.asarray(image), "", found.about.get("pixel_scale"), found.about.get("note", "")
                )
    except DataError as error:  # of an array on which others hang
        yield _Image(printable(place), 0, None, str(error))


def class_by_folder(file: str, classes: Sequence[str]) -> str:
    """The one of `classes` by whose name, or another name of it, a folder above `file` goes, the nearest first; empty
    where none does."""
    for folder in reversed(PurePosixPath(file.replace(":", "/")).parent.parts):
        with contextlib.suppress(DataError):
            name = class_of(part_of(folder)[1] or folder, classes=classes)
            if name in classes:
                return name
    return ""


def _expanded(path: str | Path) -> list[Path]:
    """The files of a pattern; a path without one stands for itself, and so does one with brackets that exists."""
    text = os.path.expandvars(os.path.expanduser(str(path)))
    if os.path.exists(text) or not glob.has_magic(text):
        return [Path(text)]
    return [Path(found) for found in sorted(_matching(text))] or [Path(text)]


def _matching(pattern: str) -> list[str]:
    """What a pattern matches, where folders above it may have brackets in their names."""
    folder, *rest = pattern, ""
    parts = Path(pattern).parts
    for k in range(len(parts) - 1, 0, -1):
        folder, rest = str(Path(*parts[:k])), str(Path(*parts[k:]))
        if os.path.exists(folder):
            return [os.path.join(folder, found) for found in glob.glob(rest, root_dir=folder, recursive=True)]
    return glob.glob(pattern, recursive=True)


def _shown(place: Path, listed: Scan, name: str) -> str:
    if listed.kind == "file":
        return printable(place)
    return printable(place / name if listed.kind == "folder" else f"{place}:{name}")
