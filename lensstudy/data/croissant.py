"""The data card of a simulated set: `croissant.json`, in the JSON-LD of MLCommons' Croissant 1.0.

It describes the files of the folder with their sizes and SHA-256, the columns of the catalogue, the classes, the
licence, and how the images were simulated. A search engine for data sets, or the library mlcroissant, reads it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from lensstudy import __version__
from lensstudy.data.dataset import LensDataset, is_redistributable
from lensstudy.files import whole_file

__all__ = ["CROISSANT", "data_card", "write_data_card"]

CROISSANT: Final = "croissant.json"
CONFORMS_TO: Final = "http://mlcommons.org/croissant/1.0"
LICENCE: Final = "https://spdx.org/licenses/MIT.html"
FORMATS = {  # of the files that `LensDataset.save` writes
    "images.npy": ("application/x-npy", "Images (N, C, H, W) as a NumPy array; image i is row i of the catalogue."),
    "catalogue.parquet": ("application/x-parquet", "One row an image: its class and what it was made of."),
    "dataset.json": ("application/json", "Order of the classes, fingerprint, and every parameter of the simulation."),
}
# The context that the specification recommends (Croissant 1.0, appendix 1).
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
UNITS = {  # endings of columns, the first that fits
    "einstein_radius": "arcsec",
    "mass": "solar masses",
    "radius": "arcsec",
    "truncation": "scale radii",
    "half_length": "arcsec",
    "angle": "radians, counter-clockwise from +x",
    "_x": "arcsec",
    "_y": "arcsec",
    "exposure_time": "seconds",
    "detectability": "sigma of the noise",
    "detectability_refit": "sigma of the noise, after re-fitting the smooth lens",
    "noise_rms": "units of the image",
}


def write_data_card(folder: str | Path) -> Path:
    """Write `croissant.json` into the folder of a simulated data set.

    Args:
        folder: as `simulate` writes it, with `dataset.json`.

    Returns:
        The file.

    Raises:
        DataError: the folder holds no whole data set.

    Example:
        >>> import tempfile
        >>> from lensstudy import simulate
        >>> lenses = simulate("model_3", 1, seed=1, image_size=32, folder=tempfile.mkdtemp() + "/lenses")
        >>> write_data_card(Path(lenses.images.filename).parent).name
        'croissant.json'
    """
    file = Path(folder) / CROISSANT
    card = json.dumps(data_card(folder), indent=1, allow_nan=False)
    with whole_file(file) as partial:
        partial.write_text(card + "\n", encoding="utf-8")
    return file


def data_card(folder: str | Path) -> dict[str, Any]:
    """What `write_data_card` writes, as the object that JSON holds. Raises `DataError` as it does."""
    folder = Path(folder)
    dataset = LensDataset.load(folder)
    about = dataset.description
    made = datetime.fromtimestamp((folder / "dataset.json").stat().st_mtime, UTC).date().isoformat()
    name = f"lensstudy-{about['preset']}-{dataset.fingerprint}"
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "conformsTo": CONFORMS_TO,
        "description": _description(dataset),
        # The images of this project are its own; those in which somebody's galaxies are the sources are not.
        "license": LICENCE if is_redistributable(about) else "not redistributable: made with images of others",
        "url": f"urn:lensstudy:{dataset.fingerprint}",  # a page of its own it gets only where somebody publishes it
        "version": "1.0.0",
        "datePublished": made,
        "creator": {"@type": "Organization", "name": f"lensstudy {__version__}"},
        "citeAs": f"Simulated by lensstudy {__version__}, fingerprint {dataset.fingerprint}",
        "keywords": ["gravitational lensing", "dark matter", "simulation", *dataset.classes],
        "distribution": [_file(folder / file) for file in FORMATS],
        "rai": "http://mlcommons.org/croissant/RAI/",
        "recordSet": [_classes(dataset), _catalogue(dataset)],
    }


def _description(dataset: LensDataset) -> str:
    about, size = dataset.description, dataset.image_size
    each = dataset.catalogue["class"].value_counts()
    counts = ", ".join(f"{each.get(name, 0)} {name}" for name in dataset.classes)
    return (
        f"{len(dataset)} images of gravitational lenses ({counts}) of {size} x {size} pixels of "
        f"{about['pixel_scale']:.4g} arcsec, simulated by lensstudy {__version__} with the preset {about['preset']} "
        f"(instrument {about['instrument']['name']}) and the seed {about['seed']}. The classes are dark matter without "
        "substructure (no_sub), with subhalos (cdm) and with a vortex (axion). dataset.json holds every parameter; the "
        "same call of simulate makes the same images."
    )


def _file(file: Path) -> dict[str, Any]:
    encoding, words = FORMATS[file.name]
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    about = {"@type": "cr:FileObject", "@id": file.name, "name": file.name, "description": words}
    about |= {"contentUrl": file.name, "contentSize": f"{file.stat().st_size} B"}
    return about | {"encodingFormat": encoding, "sha256": digest}


def _classes(dataset: LensDataset) -> dict[str, Any]:
    """The classes as an enumeration, with the label that each has in the outputs of a network."""
    fields = [
        {"@type": "cr:Field", "@id": f"classes/{name}", "name": name, "dataType": kind, "description": words}
        for name, kind, words in (
            ("name", "sc:Text", "Name of the class."),
            ("label", "sc:Integer", "Place of the class in the outputs of a network."),
        )
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "The classes of the images.",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/name"},
        "field": fields,
        "data": [{"classes/name": name, "classes/label": label} for label, name in enumerate(dataset.classes)],
    }


def _catalogue(dataset: LensDataset) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "catalogue",
        "name": "catalogue",
        "description": "One record an image, in the order of images.npy: its class and what it was made of.",
        "key": {"@id": "catalogue/name"},
        "field": [_field(name, column) for name, column in dataset.catalogue.items()],
    }


def _field(name: Any, column: pd.Series) -> dict[str, Any]:
    lists = column.dtype == object  # one number a subhalo
    kinds = {"i": "sc:Integer", "f": "sc:Float", "b": "sc:Boolean"}
    kind = "sc:Float" if lists else kinds.get(getattr(column.dtype, "kind", ""), "sc:Text")
    unit = next((unit for ending, unit in UNITS.items() if str(name).endswith(ending)), "")
    words = str(name).replace("_", " ") + (f" [{unit}]" if unit else "") + (", one number a subhalo" if lists else "")
    about: dict[str, Any] = {"@type": "cr:Field", "@id": f"catalogue/{name}", "name": str(name)}
    about |= {"description": words, "dataType": kind}
    if lists:
        about["repeated"] = True
    if name == "class":
        about["references"] = {"field": {"@id": "classes/name"}}
    return about | {"source": {"fileObject": {"@id": "catalogue.parquet"}, "extract": {"column": str(name)}}}
