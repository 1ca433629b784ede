"""The card of an exported network: what it takes, what it predicts, how far to trust it, and the hash of every file.

An exported network is a folder, and `card.json` is its label. `Card.read(folder)` opens it and checks that the folder
is whole and unaltered; a folder that is not is rejected, for other weights than its card describes would predict
with confidence and wrongly.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lensstudy.files import FileError, read_json
from lensstudy.networks.names import folder_of

__all__ = ["CARD_VERSION", "Card", "CardError", "Images", "check_network", "file_hash"]

CARD_VERSION = 4
LEAST_AUC = 0.6  # on the validation images, below which a network counts as one that guesses
FORMAT: Final = "lensstudy-network"
FORMATS = ("onnx", "int8")  # of the network in it


class CardError(ValueError):
    """An exported network that must not be used. The message says which file, why, and the way out."""


class Images(BaseModel):
    """What the network takes. Sizes in pixels along one side, the pixel scale in arcseconds."""

    channels: int = Field(ge=1, description="bands of an image")
    image_size: int = Field(ge=1, description="pixels of the images it was trained on")
    crop: int = Field(ge=1, description="central pixels that it sees")
    binning: int = Field(ge=1, description="pixels along each side averaged into one")
    size: int = Field(ge=1, description="pixels of the network's input: crop / binning")
    pixel_scale: float | None = Field(gt=0, description="arcseconds of one pixel before binning, null where not known")
    scaling: dict[str, Any] = Field(description="how brightness is stretched: kind and parameters")
    brightness: dict[str, float] = Field(description="median of the training images' minimum, mean and maximum")


class Card(BaseModel):
    """Everything that a user of an exported network needs to know."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["lensstudy-network"] = FORMAT
    format_version: int = CARD_VERSION
    network: str = Field(description="architecture, as named in lensstudy")
    symmetry: str = Field(description="group under which the prediction does not change, empty for none")
    classes: list[str] = Field(description="names of the classes, in the order of the outputs")
    images: Images
    calibration: dict[str, Any] = Field(description="temperature that divides the logits, and what it does")
    in_distribution: dict[str, Any] | None = Field(description="how images out of distribution are found; null: not")
    metrics: dict[str, Any] = Field(description="scores on the validation and test images, with intervals")
    training: dict[str, Any] = Field(description="settings, number of images, fingerprint and source of the data")
    limits: list[str] = Field(description="what it cannot be used for")
    equality: dict[str, float] = Field(description="largest difference of logits to the network that was trained")
    licence: str
    versions: dict[str, str]
    weights: str = Field(description="SHA-256 of the weights of the training that was exported; of several, of theirs")
    files: dict[str, str] = Field(description="SHA-256 of every other file of the folder")
    seal: str = Field("", description="SHA-256 of this card without its seal")

    @classmethod
    def read(cls, folder: str | Path) -> Card:
        """The card of the exported network in `folder`, after every file was checked. Raises `CardError`."""
        folder = Path(folder)
        try:
            content = read_json(folder / "card.json")
        except OSError:
            raise CardError(
                f"{folder}: no card.json, so this is neither an exported network nor a finished training; name one"
            ) from None
        except FileError as error:
            raise CardError(f"{error}; export the network again") from None
        if content.get("format") != FORMAT:
            raise CardError(
                f"{folder}: this card.json is not that of an exported network. If it is the folder of a training, "
                f"`lensstudy export {folder}` exports it"
            )
        if content.get("format_version") != CARD_VERSION:
            raise CardError(
                f"{folder}: its card has version {content.get('format_version')}, and this lensstudy reads version "
                f"{CARD_VERSION}; update lensstudy, or export the network again with the one that is installed"
            )
        try:
            card = cls.model_validate(content)
        except ValidationError as error:
            where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise CardError(f"{folder / 'card.json'}: is incomplete or altered ({where}); export again") from None
        card._check_files(folder)
        if card._own_hash() != card.seal:
            raise CardError(
                f"{folder / 'card.json'}: has been altered since the export (its seal is broken), so it may not "
                "describe the network beside it; copy the folder again, or export again"
            )
        return card

    @property
    def at_chance(self) -> str:
        """The validation AUC of a network that hardly tells its classes apart, as text; empty for any other."""
        auc = self.metrics.get("validation", {}).get("auc")
        if not auc or (auc["value"] >= LEAST_AUC and auc["interval"][0] > 0.5):
            return ""
        return f"validation AUC {auc['value']:.2f} [{auc['interval'][0]:.2f}, {auc['interval'][1]:.2f}]"

    @property
    def warning(self) -> str:
        """What whoever uses a network at chance must know first; empty for any other."""
        return self.at_chance and (
            f"THIS NETWORK IS AT CHANCE: {self.at_chance}, where guessing gives 0.50. Its predictions mean nothing; "
            "train it longer, on more images, or on substructure that is easier to see."
        )

    @property
    def difference(self) -> float:
        """A power of ten, at least 1e-5, below which every logit differs from that of the network that was trained."""
        return 10.0 ** max(math.floor(math.log10(max(*self.equality.values(), 1e-12))) + 1, -5)

    @property
    def prior(self) -> list[float] | None:
        """Shares of the classes that its probabilities assume; None in the card of an older export."""
        if self.training.get("class_weights") == "balanced":
            return [1 / len(self.classes)] * len(self.classes)
        return self.training.get("class_shares")

    def _check_files(self, folder: Path) -> None:
        for name, expected in self.files.items():
            file = folder / name
            if not Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder)):
                raise CardError(f"{folder}: its card names '{name}', which lies outside the folder; do not use it")
            if not file.is_file():
                raise CardError(f"{folder}: '{name}' is missing, which its card lists; copy the whole folder again")
            if file_hash(file) != expected:
                raise CardError(
                    f"{file}: has been altered since the export (its SHA-256 is not that of the card), so its "
                    "predictions would not be those of the network described; copy the folder again, or export again"
                )

    def write(self, folder: Path) -> Path:
        """Write `card.json`, the last file of an export."""
        file = folder / "card.json"
        self.seal = self._own_hash()
        file.write_text(json.dumps(self.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return file

    def _own_hash(self) -> str:
        content = json.dumps(self.model_dump(exclude={"seal"}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def check_network(network: str | Path) -> None:
    """Raise `ValueError` unless `network` comes with the package, or is a folder with the card of an exported network
    or the metrics of a finished training; what is in them is checked by whoever opens them."""
    folder = folder_of(network)
    if (folder / "metrics.json").exists() or (folder / "card.json").exists():
        return
    raise CardError(f"{folder}: no card.json, so this is neither an exported network nor a finished training; name one")


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
