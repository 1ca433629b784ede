"""From the bytes of one file to pixels: `.npy` with or without a pickle inside, `.npz`, HDF5, FITS, tensors, pictures.

Nothing in a file is ever run. `.npy` headers are parsed here, so nothing is loaded with `allow_pickle=True`, and
DeepLense's pickled `[image, axion mass]` arrays go through an unpickler that knows NumPy arrays, numbers and text and
refuses the rest; tensors go through torch's own restricted one.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from lensstudy.data.dataset import DataError
from lensstudy.data.fits import SUFFIXES, read_image
from lensstudy.data.scale import hdf5_scale
from lensstudy.files import regular

__all__ = [
    "HDF5",
    "PICTURES",
    "READABLE",
    "Stored",
    "decode",
    "own_pixels",
    "read_npy",
    "stacked",
]

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp")
HDF5 = (".h5", ".hdf5")
TENSORS = (".pt", ".pth")
READABLE = (".npy", ".npz", *PICTURES, *SUFFIXES, *HDF5, *TENSORS)

BANDS = 12  # an axis of at most so many is the bands of one image, and a longer one a stack of images
HEAVIEST_AXION = 1e-15  # eV; a larger number beside an image is no axion mass (those of DeepLense are near 1e-23)

PIXEL_LIMIT = 2**26  # an image of more than 8192 x 8192 pixels is no lens cutout
ARRAY_LIMIT = 2**30  # bytes in one compressed array; more belongs into .npy, which needs no unpacking


class _Dtype:
    """Stands in for numpy.dtype in a pickle: numbers and objects, and of the state that follows only the byte order."""

    def __init__(self, code: str, *_):
        if not re.fullmatch(r"[biuf]\d{1,2}|O\d?", code):
            raise pickle.UnpicklingError(f"dtype '{code}' in a pickled array; expected numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder({"<": "<", ">": ">"}.get(state[1], "="))


class _Array:
    """Stands in for numpy.ndarray in a pickle. NumPy's own __setstate__ believes what a file says of its memory."""

    def __setstate__(self, state):
        _, shape, kind, fortran, data = state
        if kind.dtype == object:
            self.array = np.empty(len(data), dtype=object)
            for i, item in enumerate(data):
                self.array[i] = _plain(item)
        else:
            self.array = np.frombuffer(data, kind.dtype)
        self.array = self.array.reshape(shape, order="F" if fortran else "C")

    @classmethod
    def from_buffer(cls, data, kind: _Dtype, shape, order) -> _Array:
        array = cls()
        array.array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
        return array


def _unpickle(data: bytes, name: str) -> object:
    """What a pickle of NumPy arrays and plain numbers holds. Anything else in it is rejected before it runs."""
    allowed: dict[tuple[str, str], Callable] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}
    allowed |= {("_codecs", "encode"): lambda text, encoding: text.encode("latin1")}  # bytes in protocol 2
    for core in ("numpy.core", "numpy._core"):
        allowed |= {
            (f"{core}.multiarray", "_reconstruct"): lambda *_: _Array(),
            (f"{core}.multiarray", "scalar"): lambda kind, content: np.frombuffer(content, kind.dtype)[0],
            (f"{core}.numeric", "_frombuffer"): _Array.from_buffer,
        }

    class ArraysOnly(pickle.Unpickler):
        def find_class(self, module, attribute):
            if (module, attribute) not in allowed:
                raise DataError(
                    f"{name}: this pickled file asks for '{module}.{attribute}', which is no array. It could run "
                    "anything on loading, so it was not opened. Do not load it with allow_pickle=True either."
                )
            return allowed[module, attribute]

    content = ArraysOnly(io.BytesIO(data)).load()
    return _plain(content)


def _plain(content: Any) -> Any:
    """What was unpickled, with NumPy's arrays in place of those that stood in for them."""
    if isinstance(content, dict):
        return {key: _plain(item) for key, item in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(item) for item in content]
    return content.array if isinstance(content, _Array) else content


def read_npy(payload: bytes | Path, name: str) -> tuple[np.ndarray, dict]:
    """The array in a `.npy` file and the truth beside it; a large file on disk comes back as a memory map, whose
    images are to be read through `Stored`."""
    with open(regular(payload), "rb") if isinstance(payload, Path) else io.BytesIO(payload) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file)
        start = file.tell()
        if dtype.hasobject:
            content = _unpickle(file.read(), name)
            texts = content.ravel().tolist() if isinstance(content, np.ndarray) and content.ndim == 1 else []
            if texts and all(isinstance(text, str) for text in texts):  # labels, as pandas keeps them
                return np.array(texts), {}
            return _image_and_label(content)
        stored, expected = file.seek(0, io.SEEK_END) - start, int(np.prod(shape, dtype=object)) * dtype.itemsize
        order: Literal["F", "C"] = "F" if fortran else "C"
        if isinstance(payload, Path) and stored >= expected > 2**24 and not fortran:
            return np.memmap(payload, dtype, "r", start, shape), {}
        file.seek(start)
        content = file.read(expected) if stored >= expected else b""
        if len(content) < expected:
            raise ValueError(f"truncated: {stored:,} bytes of pixels where its header promises {expected:,}")
        return np.frombuffer(content, dtype).reshape(shape, order=order), {}


class Stored:
    """Images in a large `.npy` file, read when they are asked for.

    `view`, of any axes and order, belongs to a memory map of the file. It tells where each image lies and is never
    looked into: a mapped file that another program cuts ends the process, one that is read raises `DataError`.
    """

    def __init__(self, view: np.ndarray, mapped: np.memmap):
        self.view, self.file = view, Path(str(mapped.filename))
        self.start = int(mapped.offset) - mapped.__array_interface__["data"][0]
        self.shape, self.dtype, self.ndim = view.shape, view.dtype, view.ndim

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, key) -> np.ndarray:
        part = self.view[key]
        low, high = np.lib.array_utils.byte_bounds(part)
        with open(self.file, "rb") as file:
            file.seek(self.start + low)
            content = file.read(high - low)
        if len(content) < high - low:
            raise DataError(f"{self.file}: was cut while it was being read; see that nobody writes it, and begin again")
        return np.ndarray(part.shape, part.dtype, content, strides=part.strides)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)


def _image_and_label(content: Any) -> tuple[np.ndarray, dict]:
    """What DeepLense's object arrays hold: `[image]`, `[image, axion mass in eV]`, `[image, class]`, the rows of one
    image, many such pairs, or a dict of them; the image, and the `axion_mass` or the `label` beside it."""
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 2 and content.shape[1] == 2:
        return _together([_image_and_label(list(row)) for row in content])
    items = list(content.ravel()) if isinstance(content, np.ndarray) and content.dtype == object else content
    items = items if isinstance(items, list) else [items]
    if len(items) == 1 and isinstance(items[0], dict):
        items = list(items[0].values())
    if len(items) > 1 and all(isinstance(item, list) or _is_pair(item) for item in items):
        return _together([_image_and_label(item) for item in items])
    items = [item.item() if isinstance(item, np.ndarray) and item.ndim == 0 else item for item in items]
    if any(isinstance(item, np.ndarray) and item.ndim >= 2 for item in items):
        items = [_of_one_hot(item) for item in items]
    rows = [item for item in items if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype.kind in "biuf"]
    if len(rows) == len(items) > 1 and {row.shape for row in rows} == {(len(rows),)}:
        return np.stack(rows), {}
    images = [item for item in items if isinstance(item, np.ndarray) and item.ndim >= 2]
    flat = [row.reshape(side, side) for row in rows if (side := math.isqrt(row.size)) ** 2 == row.size > 1]
    others = [item for item in items if not isinstance(item, np.ndarray)]
    images = images or flat
    if len(images) != 1 or len(images) + len(others) != len(items) or len(others) > 2:
        raise ValueError(f"an object array of {len(items)} items; expected [image], [image, axion mass or class]")
    about: dict = {}
    for other in others:
        about |= _mass_or_label(other)
    return images[0], about


def _of_one_hot(item: Any) -> Any:
    """The number of a class where its place in a row of zeros is set to one; anything else as it is."""
    row = np.asarray(item) if isinstance(item, np.ndarray | list) else np.empty(0, object)
    if row.ndim != 1 or row.size < 2 or row.dtype.kind not in "biuf":
        return item
    return int(row.argmax()) if np.isin(row, (0, 1)).all() and row.sum() == 1 else item


def _is_pair(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype == object and item.shape == (2,)


def _mass_or_label(value: Any) -> dict:
    """What a number or a word beside an image says; a class number is no mass."""
    if isinstance(value, str):
        return {"label": value}
    if not isinstance(value, int | float | np.number):
        raise ValueError(f"{type(value).__name__} beside an image; expected an axion mass or a class")
    if 0 < value < HEAVIEST_AXION:
        return {"axion_mass": float(value)}
    if float(value).is_integer():
        return {"label": str(int(value))}
    raise ValueError(f"{value!r} beside an image is neither an axion mass in eV nor the number of a class")


def _together(pairs: list[tuple[np.ndarray, dict]]) -> tuple[np.ndarray, dict]:
    """Many images of one file as `(N, C, H, W)`, and the label or the axion mass of each."""
    images = np.concatenate([stacked(image) for image, _ in pairs])
    labels, masses = ([about.get(key) for _, about in pairs] for key in ("label", "axion_mass"))
    known = {"label": labels} if all(labels) else {}
    return images, known | ({"axion_mass": masses} if any(masses) else {})


def _tensor(data: bytes | Path) -> tuple[np.ndarray, dict]:
    """The image in what `torch.save` wrote: a tensor, or one with a label in a pair or a dict."""
    import torch

    try:
        content = torch.load(io.BytesIO(data) if isinstance(data, bytes) else data, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{str(error).splitlines()[0][:120]}: this file is more than a tensor and could run anything on loading, "
            "so it was not opened; save the tensor alone"
        ) from None
    found = (
        content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else [content]
    )
    return _image_and_label([item.numpy() if isinstance(item, torch.Tensor) else item for item in found])


def _picture(data: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
        if picture.width * picture.height > PIXEL_LIMIT:
            raise ValueError(f"{picture.width} x {picture.height} pixels, too large for a lens image")
        if len(picture.getbands()) > 1 and picture.tile and ";16" in str(picture.tile[0].args):
            raise ValueError(
                f"16-bit colour {picture.format}, which would silently become 8-bit; store it as .npy or FITS"
            )
        if (pages := getattr(picture, "n_frames", 1)) > 1:
            raise ValueError(f"{pages} pictures in one file, of which only the first would be seen; store them as .npy")
        if picture.mode == "P":  # a GIF knows nothing else, grey ones included
            colours = np.asarray(picture.convert("RGB"))
            return colours[..., 0] if (colours == colours[..., :1]).all() else colours
        if picture.mode in ("RGBA", "CMYK", "YCbCr"):
            return np.asarray(picture.convert("RGB"))
        return np.asarray(picture.convert("L") if picture.mode in ("1", "LA") else picture)


def own_pixels(node):
    """The HDF5 dataset `node`, whose numbers lie in its own file and are not made up from next to nothing.

    Raises `DataError` for one that points to other files, or that promises what no compression reaches.
    """
    if node.external or node.is_virtual:
        raise DataError(
            f"{node.name}: this HDF5 dataset takes its numbers from other files. Links can point anywhere; copy them "
            "into one file (h5repack)."
        )
    stored = node.id.get_storage_size()
    if node.nbytes > max(ARRAY_LIMIT, 200 * stored):
        raise DataError(
            f"{node.name}: {stored:,} bytes that unpack to {node.nbytes:,}. This looks like a decompression bomb; "
            "store it as .npy if you trust it."
        )
    return node


def _hdf5(data: bytes | Path, extension: str | int | None) -> tuple[np.ndarray, dict]:
    import h5py

    with h5py.File(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
        found = []
        file.visititems(lambda key, node: found.append(key) if getattr(node, "ndim", 0) >= 2 else None)
        key = extension or (found[0] if len(found) == 1 else next((k for k in found if "image" in k.lower()), None))
        if key is None or key not in file:
            wanted = f"no dataset '{key}'" if key else "no dataset is called image"
            raise ValueError(f"{wanted}; there are {', '.join(found) or 'none'}: choose one with --extension")
        pixels = own_pixels(file[key])[...]
    scale = hdf5_scale(data, str(key))
    return pixels, {"pixel_scale": scale} if scale else {}


def _npz(data: bytes | Path, name: str, extension: str | int | None) -> tuple[np.ndarray, dict]:
    with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
        keys = [key.removesuffix(".npy") for key in archive.namelist()]
        key = extension or (keys[0] if len(keys) == 1 else next((k for k in keys if "image" in k.lower()), None))
        if key not in keys:
            wanted = f"no array '{key}'" if key else "no array is called image"
            raise ValueError(f"{wanted}; there are {', '.join(keys)}: choose one with --extension")
        if archive.getinfo(f"{key}.npy").file_size > ARRAY_LIMIT:
            raise ValueError("more than 1 GiB in one array; store it as .npy")
        return read_npy(archive.read(f"{key}.npy"), name)


def stacked(array: np.ndarray) -> np.ndarray:
    """Any array of images as `(N, C, H, W)`. Of three axes the one that is not a side of the image is its bands if it
    is at most `BANDS` long, else a stack of images; axes of length one count for nothing."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"dtype {array.dtype} is no pixel")
    shape = array.shape
    if array.size == 0 or not 2 <= array.ndim <= 6:
        raise ValueError(f"shape {shape} is neither an image nor a stack of images")
    if sum(side > 1 for side in shape) == 2 and array.ndim != 2:
        return array.reshape(1, 1, *(side for side in shape if side > 1))
    if array.ndim == 2:
        return array[None, None]
    if array.ndim >= 5:  # batches [n_batches, batch, C, H, W]
        return stacked(array.reshape(-1, *shape[2:]))
    if array.ndim == 3:
        last = shape[2] <= BANDS and (shape[0] == shape[1] or shape[2] < shape[0] > BANDS) and shape[1] != shape[2]
        if last:
            return np.moveaxis(array, 2, 0)[None]
        return array[None] if shape[0] <= BANDS else array[:, None]
    if shape[3] <= BANDS and shape[1] == shape[2] != shape[3]:
        return np.moveaxis(array, 3, 1)
    return array


def decode(name: str, content: bytes | Path, extension: str | int | None = None) -> tuple[np.ndarray | Stored, dict]:
    """Images `(N, C, H, W)` in a file, and what it says of them: `axion_mass` in eV, `label`, `pixel_scale` in arcsec,
    and a `note` on what was chosen. Those of a large file are read as they are asked for.

    `name` tells the kind of file, `extension` names the FITS extension, HDF5 dataset or npz key. Raises `ValueError`
    for a damaged file and `DataError` for a hostile one.
    """
    lower, about = name.lower(), {}
    if (regular(content).stat().st_size if isinstance(content, Path) else len(content)) == 0:
        raise ValueError("empty file")
    if lower.endswith(".npy"):
        array, about = read_npy(content, name)
    elif lower.endswith(".npz"):
        array, about = _npz(content, name, extension)
    elif lower.endswith(PICTURES):
        array = _picture(content)
    elif lower.endswith(SUFFIXES):
        array, about = read_image(content, extension)
    elif lower.endswith(TENSORS):
        array, about = _tensor(content)
    else:
        array, about = _hdf5(content, extension)
    images = stacked(array)
    return Stored(images, array) if isinstance(array, np.memmap) else images, about
