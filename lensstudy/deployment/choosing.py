"""Which bundled network is for the images at hand: what each takes and is for, and which one fits.

`choose` asks every network whether it takes the first images, as `Predictor` would, and how many are in its
distribution. `listed` is what `lensstudy networks` prints.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lensstudy.data.dataset import DataError, canonical_class
from lensstudy.deployment.card import Card
from lensstudy.deployment.predictor import FURTHEST, find
from lensstudy.deployment.pretraining import pretrained
from lensstudy.networks import names

__all__ = ["LOOKED_AT", "choose", "listed", "same_classes"]

LOOKED_AT = 16  # images, the first ones that can be read
UNSCALED = "Their pixel scale is missing: say --pixel-scale."
NEARLY = 0.8  # share of the most images in distribution that counts as as many: of 16, chance moves some


@dataclass
class _Fit:
    """How a network gets on with the first images: how many it takes, how many of these are in its distribution, by
    which factor (its logarithm) their pixels differ from its own, and why it does not take the first that it does not.
    """

    name: str
    card: Card
    taken: int = 0
    known: int = 0
    distance: float = 0.0
    reason: str = ""

    @property
    def usable(self) -> bool:
        """A network that does not know its pixel scale is told by nothing but its distribution whether images fit."""
        return self.taken > 0 and (self.card.images.pixel_scale is not None or 2 * self.known >= self.taken)


def choose(
    paths: Iterable[str | Path], extension: str | int | None = None, classes: Sequence[str] | None = None, **options
) -> tuple[str, str]:
    """Choose the bundled network that fits the first images at `paths`.

    It takes their pixel scale, field of view and bands. Of several, those come first in whose distribution the most
    images are, then those that take the most, then the nearest pixel scale, then an equivariant one.

    Args:
        paths: files, folders, archives and patterns, as `Predictor.predict_files` takes them.
        extension: FITS extension, HDF5 dataset or npz key of the image.
        classes: the classes that the network is to tell apart; any, if none are given.
        **options: those of `Predictor` that say how images are read: `pixel_scale`, `resample`, `band` and `fill`.

    Returns:
        The name of the network, and one sentence that says why.

    Raises:
        ValueError: no image can be read; or no network fits, with a table of what each would need.

    Example:
        >>> import tempfile
        >>> from lensstudy import simulate
        >>> folder = tempfile.mkdtemp() + "/lenses"
        >>> images = simulate("realistic", 2, seed=1, folder=folder, image_size=48)
        >>> choose([folder])[0]
        'realistic-d4'
    """
    images, unread = [], ""
    for one in find(paths, extension):
        if one.pixels is not None:
            images.append(one)
        elif not unread:
            unread = f"{one.file}: {one.reason.removeprefix(f'{one.file}: ')}"
        if len(images) == LOOKED_AT:
            break
    if not images:
        raise ValueError(f"no image can be read here, so no network can be chosen; {unread}")
    fits = [_fit(name, images, classes, options) for name in names.pretrained_names()]
    usable = [fit for fit in fits if fit.usable]
    if not usable:
        raise ValueError(_misfit(fits, images[0], options.get("pixel_scale")))
    most = max(fit.known for fit in usable)
    close = [fit for fit in usable if fit.known >= NEARLY * most]
    best = max(close, key=lambda fit: (fit.taken, -round(fit.distance, 2), bool(fit.card.symmetry)))
    return best.name, _why(best, images, options.get("pixel_scale"))


def listed(cards: Mapping[str, Card]) -> str:
    """A table of the bundled networks: classes, what each takes and weighs, how well it does, and what it is for."""
    rows = [("name", "classes", "pixel scale", "field of view", "size", "AUC [95 % interval]", "fine-tuning")]
    below = [""]
    for name, card in cards.items():
        unseen, files = card.metrics["unseen"], [*(names.PRETRAINED / name).rglob("*")]
        (low, high), auc = unseen["auc"]["interval"], unseen["auc"]["value"]
        size = sum(file.stat().st_size for file in files if file.is_file()) / 1e3
        further = "yes" if any(file.name == "metrics.json" for file in files) else "no"
        score = f"{auc:.3f} [{low:.3f}, {high:.3f}]"
        rows.append((name, ", ".join(card.classes), *_pixels(card), f"{size:.0f} kB", score, further))
        below.append(f"{card.training['purpose']} AUC on {unseen['of']}.")
    return _aligned(rows, below)


def _pixels(card: Card) -> tuple[str, str]:
    """Pixel scale and field of view of what a network sees, as text."""
    images = card.images
    if not images.pixel_scale:
        return "unknown", f"{images.image_size} pixels"
    return f"{images.pixel_scale:.4g} arcsec", f"{images.crop * images.pixel_scale:.3g} arcsec"


def _fit(name: str, images: list, classes: Sequence[str] | None, options: dict) -> _Fit:
    predictor = pretrained(name, **options)
    fit = _Fit(name, predictor.card)
    own = predictor.card.images.pixel_scale
    if classes and not same_classes(classes, predictor.classes):
        fit.reason = f"classes {', '.join(classes)}"
        return fit
    likely = 0  # images of unknown size that are in its distribution if their pixels are as large as its own
    for one in images:
        scale = one.pixel_scale or predictor.pixel_scale
        try:
            if scale and not own:
                raise ValueError("it does not know how large its own pixels are")
            pixels, _ = predictor.prepare(one.pixels, one.pixel_scale)
        except ValueError as error:
            fit.reason = fit.reason or (UNSCALED if own and not scale else str(error))
            continue
        known = bool(predictor.answers(pixels[None])[1][0] <= 1)
        if own and not scale:
            likely, fit.reason = likely + known, fit.reason or UNSCALED
            continue
        fit.taken, fit.known = fit.taken + 1, fit.known + known
        fit.distance += abs(math.log(scale / own)) if scale and own else 0.0
    fit.distance /= max(fit.taken, 1)
    if 2 * likely >= len(images):
        fit.reason = f"--pixel-scale {own:.4g}, if they have its own: {likely} of {len(images)} are in its distribution"
    fit.reason = fit.reason or "too few of the images are in its distribution, and nothing else tells that they fit"
    return fit


def same_classes(asked: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether two lists name the same classes, in any order and by any of their known names."""

    def known(name: str) -> str:
        with suppress(DataError):
            return canonical_class(name)
        return name

    return set(map(known, asked)) == set(map(known, classes))


def _why(fit: _Fit, images: list, pixel_scale: float | None) -> str:
    """The sentence that says why a network was chosen, and what it is for."""
    about, own = fit.card.images, fit.card.images.pixel_scale
    looked = f"of the first {len(images)} images" if len(images) > 1 else "image"
    if own:
        scales = sorted({scale for one in images if (scale := one.pixel_scale or pixel_scale)})
        theirs = " to ".join(f"{scale:.4g}" for scale in dict.fromkeys((scales[0], scales[-1])))
        fits = f"pixels of {theirs} arcsec, its own {own:.4g}; a field of {about.crop * own:.3g} arcsec or more"
    else:
        fits = f"{about.image_size} x {about.image_size} pixels, and neither says how large they are"
    known = f"{fit.known or 'none'} of them in its distribution"
    if not fit.card.in_distribution:
        known = "and cannot tell which are in its distribution"
    return (
        f"{fit.name} takes {fit.taken} {looked} ({fits}; {_bands(about.channels)}), {known}. What it is for: "
        f"{fit.card.training['purpose']}"
    )


def _misfit(fits: list[_Fit], first, pixel_scale: float | None) -> str:
    """What the first image is, what each network takes, and what is missing for it."""
    (bands, *size), scale = first.pixels.shape, first.pixel_scale or pixel_scale
    each = f"{scale:.4g} arcsec" if scale else "unknown size"
    rows, below = [("name", "classes", "bands", "pixel scale (arcsec)", "field of view")], [""]
    for fit in fits:
        about, own, field = fit.card.images, fit.card.images.pixel_scale, _pixels(fit.card)[1]
        takes = (f"{own / FURTHEST:.3g} to {own * FURTHEST:.3g}", f"at least {field}") if own else ("unknown", field)
        rows.append((fit.name, ", ".join(fit.card.classes), str(about.channels), *takes))
        below.append("" if fit.reason == UNSCALED else fit.reason)
    missing = "What each takes, and what is missing:" if scale else f"{UNSCALED} What each takes:"
    return (
        f"no network that comes with lensstudy fits these images; the first, {first.file}: "
        f"{' x '.join(map(str, size))} pixels of {each}, {_bands(bands)}. {missing}\n\n{_aligned(rows, below)}\n\n"
        "--network NAME predicts with one all the same; `lensstudy train` makes one of your own images."
    )


def _bands(number: int) -> str:
    return "one band" if number == 1 else f"{number} bands"


def _aligned(rows: Sequence[Sequence[str]], below: Sequence[str]) -> str:
    """Rows of a table with columns under one another, each with a text in the lines below, indented."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = " " * (widths[0] + 2)
    lines = []
    for row, text in zip(rows, below, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += textwrap.wrap(text, 120, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)
