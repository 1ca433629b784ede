"""What lies beside an image and belongs to it: its noise map, its PSF, its mask, and what is written about it.

Observations come as several files (`data.fits`, `noise_map.fits`, `psf.fits`), told apart by their names. Whoever takes
every file of a folder for an image gets predictions for noise maps: `companions` says which files are no images. A name
alone does not decide: `model_3_0001.npy` is an image unless an image of the same lens lies beside it.
"""

from __future__ import annotations

import csv
import itertools
import math
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from lensstudy.data.dataset import DataError
from lensstudy.files import FileError, read_json, read_text

__all__ = [
    "COMPRESSED",
    "FILLERS",
    "LENSTRONOMY",
    "ROLES",
    "about_folder",
    "belongs",
    "companions",
    "information",
    "read_information",
    "role_and_key",
    "row_of",
    "says_image",
    "stem",
]

_WORDS = {  # words in the name of a file or of a FITS extension that say what is in it
    "psf": "psf psfs epsf psfex kernel kernels",
    "noise": "noise noises rms sigma sigmas sig err errs error errors unc uncs uncert uncertainty uncertainties"
    " std stds stddev stdev",
    "variance": "var vars variance variances wt wts",  # Pan-STARRS calls its variances wt
    "inverse variance": "ivar ivars invvar invvars",
    "weight": "wht whts weight weights wgt wgts wtmap wei",
    "mask": "mask masks msk msks maskbit maskbits bitmask bitmasks dq dqmap flag flags bpm badpix badpixel badpixels",
    "other": "exp exps expmap exposure exposures exptime expwt nexp nexps nobs num nums coverage cov hits ctx context"
    " con seg segs segm segmap segmentation segmentations bkg bkgd bkgs bg back background backgrounds sky"
    " model models resid resids residual residuals res chi chi2 chisq chisquare chisquared snr snrs s2n"
    " depth depths galdepth psfdepth psfsize"
    " alpha alphas deflection deflections kappa convergence potential magnification shear",
    "image": "data image images img imgs flux bgsub sci science drz drc flt flc sim",
}
ROLES = {role: tuple(words.split()) for role, words in _WORDS.items()}
FILLERS = ("map", "maps", "extra", "galaxies", "squared", "time", "to")  # words that tell no file from another
ANOTHER = ("signal", "size", "seg", "segm", "segmentation")  # signal to noise is no noise map, a PSF's size no PSF
WITHOUT = ("sub", "subtr", "subtracted", "removed", "corrected")  # an image without its sky is an image
INVERSE = ("inv", "inverse")
LONGEST = 32  # letters of several words in one: the ways to part them grow with a power of their number
COMPRESSED = (".gz", ".bz2", ".xz", ".fz")
ALIASES = {"z_lens": "redshift_lens", "z_source": "redshift_source"}  # columns of tables of lenses
NUMBERS = ("pixel_scale", "redshift_lens", "redshift_source", "position_angle")  # of `info.json`
LENSTRONOMY = "image_data"  # beside which lenstronomy's HDF5 holds exposure times and coordinates

_ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
_KNOWN = {*_ROLE_OF, *FILLERS, *ANOTHER, *INVERSE}
_ANY = re.compile("|".join(_KNOWN))
_LONG = "|".join(sorted((word for word in _KNOWN if len(word) > 2), key=len, reverse=True))


def stem(name: str) -> str:
    """The name of a file without its folder and its endings.

    Example:
        >>> stem("lens/J1NoiseMap.fits.fz")
        'J1NoiseMap'
    """
    name = name.rpartition("/")[2]
    packed = next((ending for ending in COMPRESSED if name.lower().endswith(ending)), "")
    return name[: len(name) - len(packed)].rsplit(".", 1)[0]


@lru_cache(maxsize=4096)
def role_and_key(name: str) -> tuple[str, tuple[str, ...]]:
    """Say what a file or a FITS extension holds by its name.

    Args:
        name: without its endings; words are parted by punctuation, by capitals (`J1NoiseMap`), by digits, or are
            written as one (`noisemap`).

    Returns:
        One of the roles in `ROLES`, `image` where the name says nothing, and the words that it shares with the other
        files of the same lens.

    Example:
        >>> role_and_key("J1NoiseMap"), role_and_key("signal_to_noise_map"), role_and_key("J1_F814W")
        (('noise', ('j1',)), ('other', ()), ('image', ('j1', 'f814w')))
    """
    words = _words(name)
    roles = {_ROLE_OF[word] for word in words if word in _ROLE_OF}
    maps, used = roles - {"image", "other"}, {*_ROLE_OF, *FILLERS}
    if "variance" in maps and any(word in INVERSE for word in words):
        maps, used = maps - {"variance"} | {"inverse variance"}, used | {*INVERSE}
    if maps and any(word in ANOTHER for word in words):
        maps, roles, used = set(), {"other"}, used | {*ANOTHER}
    if len(maps) == 1:
        (role,) = maps
    else:  # the error of a PSF is neither a PSF nor a noise map
        role = "other" if maps or "other" in roles else "image"
    return role, tuple(word for word in words if word not in used)


def says_image(name: str) -> bool:
    """Whether a name says in a word that an image is there, rather than nothing."""
    return role_and_key(name)[0] == "image" and any(word in ROLES["image"] for word in _words(name))


def _words(name: str) -> list[str]:
    """The words of a name in lower case; what stands between known ones in one piece is a word of its own."""
    words: list[str] = []
    for token in re.split(r"[\s_.+-]+", name):
        rest = "" if _ANY.search(token.lower()) else token.lower()
        for piece in [] if rest else [token] if token.lower() in _KNOWN else _pieces(token):
            known = [piece.lower()] if piece.lower() in _KNOWN else _parts(piece.lower())
            if known:
                words += [rest, *known]
            rest = "" if known else rest + piece.lower()
        words.append(rest)
    words = [word for word in words if word]
    pairs = itertools.zip_longest(words, words[1:], fillvalue="")
    return [f"{word}-" if _ROLE_OF.get(word) == "other" and following in WITHOUT else word for word, following in pairs]


def _pieces(token: str) -> list[str]:
    """`J1NoiseMap` in its pieces `J`, `1`, `Noise`, `Map`; words without a small letter between capitals stay whole."""
    pieces = []
    for part in re.findall(r"\d+|\D+", token):
        split = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^A-Za-z]+", part)
        pieces += [part] if _parts(part.lower()) else split
    return pieces


def _parts(word: str) -> list[str]:
    """The known words that make up `word` (`noisemap`), none where they do not."""
    together = word.isalpha() and len(word) <= LONGEST and re.fullmatch(f"(?:{_LONG})+", word)
    return re.findall(_LONG, word) if together else []


def belongs(key: tuple[str, ...], image: tuple[str, ...], images: Collection[tuple[str, ...]]) -> bool:
    """Whether a map belongs to an image, by their words.

    Args:
        key: the words of the map; without any it is meant for all images, as `psf.fits`.
        image: those of the image.
        images: those of all images of the folder. An image with the same words comes first, then the one with whose
            words the map's begin, then those that begin with the map's.

    Example:
        >>> images = {("j1",), ("j1", "new")}
        >>> [belongs(("j1", "new"), image, images) for image in sorted(images)]
        [False, True]
    """
    if not key:
        return True
    begins = [key[:i] for i in range(len(key), -1, -1) if key[:i] in images]
    return image == begins[0] if begins else image[: len(key)] == key


def companions(names: Iterable[str]) -> dict[str, str]:
    """Say which files are no images but belong to one beside them.

    Args:
        names: paths of files, or of the arrays in an HDF5 file.

    Returns:
        What each of these holds, by its name: those of the same name as an image in the same folder, those that are
        named for all images there, and those in a folder `masks` beside a folder `images`.

    Example:
        >>> companions(["a/J1.fits", "a/J1_rms.fits", "a/exp1.fits", "images/7.npy", "masks/7.npy"])
        {'a/J1_rms.fits': 'noise map', 'masks/7.npy': 'mask'}
    """
    names = list(names)
    images: dict[tuple, set] = {}
    beginnings: dict[tuple, set] = {}  # of the words of the images
    maps = []
    for name in names:
        for place, role, key in _places(name):
            if role == "image":
                images.setdefault(place, set()).add(key)
                beginnings.setdefault(place, set()).update(key[:i] for i in range(len(key) + 1))
            else:
                maps.append((name, place, role, key))
    by_lenstronomy = {posixpath.dirname(name) for name in names if posixpath.basename(name) == LENSTRONOMY}
    found = {name: "array" for name in names if by_lenstronomy and posixpath.dirname(name) in by_lenstronomy}
    for name, place, role, key in maps:
        near = images.get(place, set())
        if key in beginnings.get(place, ()) or any(key[:i] in near for i in range(len(key))):  # as in `belongs`
            found[name] = {"psf": "PSF", "mask": "mask"}.get(role) or f"{_kind(name, role)} map"
    return {name: role for name, role in found.items() if posixpath.basename(name) != LENSTRONOMY}


def _kind(name: str, role: str) -> str:
    words = [word for part in (stem(name), *name.split("/")[:-1]) for word in _words(part)]
    said = (word for word in words if _ROLE_OF.get(word) == role or (role == "other" and word in ANOTHER))
    return role if role != "other" else next(said, "") or " ".join(word for word in words if word in _ROLE_OF)


def _places(name: str) -> Iterator[tuple[tuple, str, tuple[str, ...]]]:
    """Where a file could belong, its role and its words: in its folder, and beside every folder above that has a role
    for a name."""
    *folders, file = name.split("/")
    role, key = role_and_key(stem(file))
    yield (*folders,), role, key
    for i, folder in enumerate(folders):
        role_of_folder, more = role_and_key(folder)
        if folder and not more and (role_of_folder != "image" or says_image(folder)):
            yield ((*folders[:i],), (*folders[i + 1 :],)), role_of_folder, key


def information(file: Path) -> dict:
    """`info.json` beside an image, as PyAutoLens keeps it: pixel scale, redshifts, published parameters. Raises
    `DataError` where it is damaged."""
    return read_information(file.with_name("info.json"))


def about_folder(folder: Path) -> Path:
    """The file beside a folder that says what `info.json` says of its images. Class folders may have nothing else among
    them, since other programs take every entry for a class."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}-info.json")


def read_information(beside: Path) -> dict:
    """What a file in the form of `info.json` says; nothing where there is none."""
    try:
        about = read_json(beside) if beside.exists() else {}
        numbers = {key: float(about[key]) for key in NUMBERS if about.get(key) is not None}
    except FileError as error:
        raise DataError(f"{error}; expected JSON such as {{'pixel_scale': 0.05}}") from None
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{beside}: {error}; expected JSON such as {{'pixel_scale': 0.05}}") from None
    scale = numbers.get("pixel_scale", 1.0)
    if not 0 < scale < math.inf:
        raise DataError(f"{beside}: pixel_scale = {scale:g}; expected arcseconds of one pixel, more than 0")
    return about | numbers


def row_of(file: Path) -> dict:
    """What a table says of the lens in an image: the row of a CSV file with a column `name`, beside the image or beside
    its folder, that is called as the image or its folder is; cells that are numbers as numbers.

    Raises `DataError` where the table cannot be read.
    """
    file = file.absolute()
    called = (stem(file.name), file.parent.name)
    for table in (*sorted(file.parent.glob("*.csv")), *sorted(file.parent.parent.glob("*.csv"))):
        rows = _rows(table, table.stat().st_mtime_ns)
        for name in called:
            if name in rows:
                return rows[name]
    return {}


@lru_cache(maxsize=4)
def _rows(table: Path, _changed: int) -> dict[str, dict]:
    try:
        rows = list(csv.DictReader(read_text(table).splitlines()))
    except (FileError, csv.Error) as error:
        raise DataError(f"{error}; expected a table of lenses with a column 'name', or move it elsewhere") from None
    return {
        row["name"]: {ALIASES.get(key, key): _number(cell) for key, cell in row.items() if key and cell}
        for row in rows
        if row.get("name")
    }


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell
