"""A trained network applied to somebody's images: its predictions, how many are right, and which pixels they use.

`Application` holds what `Predictor` says of a set of images beside the trained network itself, which an exported one no
longer is: attribution needs its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lensstudy.data.dataset import DataError, LensDataset
from lensstudy.data.rotation import rotate
from lensstudy.deployment.predictor import Predictor, class_by_folder
from lensstudy.evaluation.attribution import group_averaged
from lensstudy.evaluation.intervals import wilson
from lensstudy.evaluation.scores import format_interval

__all__ = ["Application"]

FEW = 4  # images that figures show
EXPLORED = 24  # images that the explorer offers
LOOKED_AT = 200  # images, at most, among which these are found


class Application:
    """Predictions of one network for one set of images.

    Args:
        predictor: the exported network.
        network: the same network as it was trained, for attribution.
        images: a file, folder, archive or pattern, or the test part of a study.
        folder: `predictions.csv` is written there, and `test-images/` where `images` is a data set.
        progress: show a progress bar.

    Raises:
        DataError: none of the images is one that the network can take.
    """

    def __init__(
        self,
        predictor: Predictor,
        network: torch.nn.Module,
        images: str | Path | LensDataset,
        folder: str | Path,
        progress: bool = False,
    ):
        self.predictor, self.network, self.card = predictor, network.eval(), predictor.card
        source = images.save(Path(folder) / "test-images") if isinstance(images, LensDataset) else images
        rows = list(predictor.predict_files([source], progress=progress))
        self.table = pd.DataFrame(rows, columns=predictor.columns)
        self.table.to_csv(Path(folder) / "predictions.csv", index=False)
        self._truth = (
            images.catalogue["class"].to_numpy(str)
            if isinstance(images, LensDataset)
            else np.array([class_by_folder(file, self.card.classes) for file in self.table["file"]])
        )
        found = predictor.images([source], at_most=LOOKED_AT)
        if not found:
            first = self.table.iloc[0]
            raise DataError(f"{source}: no image that the network can take. {first['file']}: {first['reason']}")
        self.images = dict(list(found.items())[:: max(len(found) // EXPLORED, 1)])
        self.few = list(self.images)[:: max(len(self.images) // FEW, 1)][:FEW]
        self._rows = {f"{row['file']} {row['image']}": row for row in rows}

    def about(self) -> pd.DataFrame:
        """What the network is and sees, as its card says it: one line a property."""
        card, auc = self.card, self.card.metrics["validation"]["auc"]
        scale = f"{card.images.pixel_scale:.4g} arcsec" if card.images.pixel_scale else "unknown"
        lines = {
            "network": card.network,
            "symmetry": card.symmetry or "none",
            "classes": ", ".join(card.classes),
            "validation AUC": format_interval(auc["value"], *auc["interval"]),
            "sees": f"the central {card.images.crop} of {card.images.image_size} pixels",
            "one pixel": scale,
            "its logits are divided by": f"{card.calibration['temperature']:.2f}",
        }
        return pd.DataFrame(lines.items(), columns=["property", "value"])

    @property
    def limits(self) -> str:
        """What its predictions cannot be used for, as a list in Markdown."""
        also = [
            f"Probabilities are calibrated on {self.card.calibration['validation_images']:,} validation images, and "
            "mean what they say only for images like them.",
            "The OOD score finds what the network and the image statistics tell from the training images; a deviation "
            "that it does not see passes.",
            "Where images come from the training set, the share of right predictions flatters the network.",
        ]
        return "\n".join(f"- {line}" for line in [*self.card.limits, *also])

    def states(self) -> pd.DataFrame:
        """What became of the files and images: `state`, `images` and the most frequent `reason`."""
        grouped = self.table.groupby("state", sort=False)
        frequent = grouped["reason"].agg(lambda reasons: reasons.mode().iloc[0])
        return pd.DataFrame({"images": grouped.size(), "reason": frequent}).rename_axis("state").reset_index()

    def confusion(self) -> pd.DataFrame:
        """True classes against predicted ones, of the images whose class is known and named; a column `right` holds the
        share of each class with its 95 % interval (Wilson 1927). Known are the classes of a test part, and of images in
        folders that bear the name of a class."""
        known = (self.table["prediction"] != "").to_numpy() & (self._truth != "")
        counts = pd.crosstab(self._truth[known], self.table["prediction"].to_numpy()[known])
        counts = counts.reindex(index=self.card.classes, columns=self.card.classes, fill_value=0)
        counts["right"] = [_share(counts.loc[name, name], int(counts.loc[name].sum())) for name in counts.index]
        return counts.rename_axis(index="true class", columns=None)

    @property
    def right(self) -> tuple[int, int]:
        """How many predictions are right, and of how many the class is known."""
        known = (self.table["prediction"] != "").to_numpy() & (self._truth != "")
        return int((self.table["prediction"].to_numpy() == self._truth)[known].sum()), int(known.sum())

    def some(self, rows: int = 8) -> pd.DataFrame:
        """Rows of the table of predictions, evenly spaced."""
        chosen = self.table.iloc[np.unique(np.linspace(0, len(self.table) - 1, rows).astype(int))]
        shown = chosen[["prediction", "state", *self.card.classes, "ood_score", "reason"]].copy()
        shown.insert(0, "image", chosen["file"].str.split("[/:]", regex=True).str[-1])
        return shown

    def row(self, name: str) -> dict:
        """What the table says of one of `images`."""
        return self._rows[name]

    def explain(self, image: np.ndarray, steps: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """What the network sees of an image `(C, H, W)`, and the share of each pixel in the logit of the most probable
        class, both `(S, S)`: integrated gradients from an image of nothing but sky, averaged over the rotations and
        reflections of the square."""
        seen = self.predictor.seen(image[None])
        label = self.network(seen)[0].argmax()
        sky = seen.median() * torch.ones_like(seen)
        shares = group_averaged(lambda x: self.network(x)[:, label], seen, sky, steps)
        return seen[0].mean(0).numpy(), shares[0].mean(0).numpy()

    def rotation_changes(self, degrees: Sequence[float] | np.ndarray) -> np.ndarray:
        """Largest change of a probability of `few` images at each angle against the first, mean over the images."""
        images = [self.images[name][None] for name in self.few]
        rotated = [
            np.concatenate([self.predictor.probabilities(image, float(angle)) for image in images]) for angle in degrees
        ]
        return np.array([np.abs(one - rotated[0]).max(1).mean() for one in rotated])

    def predict(self, name: str, degrees: float, noise: float) -> tuple[np.ndarray, np.ndarray, float]:
        """One of `images` rotated, with noise of `noise` times its range: image, probabilities and OOD score."""
        image = self.images[name]
        draw = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
        image = rotate(torch.from_numpy(image + noise * np.ptp(image) * draw)[None], degrees)[0].numpy()
        (probabilities,), (ood_score,) = self.predictor.answers(image[None])
        return image, probabilities, float(ood_score)


def _share(right: int, images: int) -> str:
    return format_interval(right / images, *wilson(right / images, images), digits=2) if images else "none known"
