"""Where the networks of a study fail, and which pixels they use: accuracy along the truth, mistakes, attributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import Preprocess
from lensstudy.evaluation import truth
from lensstudy.evaluation.attribution import Attributions, attribute, share_on_light

__all__ = ["Failures"]

FALSE_ALARMS = 0.05  # share of smooth lenses that a threshold calls something else
EXAMPLES = 4  # images whose attribution is shown


class Failures:
    """Compare the predictions of networks with what is true of the test images.

    Args:
        test: the test images with their catalogue; where the truth is unknown, tables are empty.
        probabilities: by network, `(N, classes)` of these images, one array a seed.
        trained: by network, the `TrainedNetwork` whose predictions are attributed to pixels.
    """

    def __init__(self, test: LensDataset, probabilities: Mapping[str, Sequence[np.ndarray]], trained: Mapping):
        self.test, self.probabilities, self.trained = test, probabilities, trained
        self.labels, self.classes = test.labels, test.classes
        self.bins = int(np.clip(len(test) // 60, 2, 8))

    def accuracy_along(self) -> dict[str, dict[str, pd.DataFrame]]:
        """By property of an image and by network, the share of right answers along it, from `truth.accuracy_along`."""
        right = {
            name: np.mean([one.argmax(1) == self.labels for one in runs], axis=0)
            for name, runs in self.probabilities.items()
        }
        return {
            str(label): {
                name: truth.accuracy_along(values.to_numpy(float), each, self.bins) for name, each in right.items()
            }
            for label, values in truth.physical_parameters(self.test).items()
        }

    @property
    def detectability(self) -> np.ndarray:
        """Sigma that the substructure of each image leaves after re-fitting the macromodel, `(N,)`; nan if unknown."""
        unknown = pd.Series(np.nan, self.test.catalogue.index)
        return self.test.catalogue.get("detectability_refit", unknown).to_numpy(float)

    def detection(self) -> dict[str, pd.DataFrame]:
        """By network, the share of lenses with substructure that are found, against their detectability, beside an
        ideal observer's, from `truth.detection_rate`; empty where no image has a known one."""
        sigma = self.detectability
        if "no_sub" not in self.classes or not np.isfinite(sigma[sigma > 0]).any():
            return {}
        smooth = self.classes.index("no_sub")
        return {
            name: truth.detection_rate(
                [1 - one[:, smooth] for one in runs], self.labels == smooth, sigma, FALSE_ALARMS, self.bins
            )
            for name, runs in self.probabilities.items()
        }

    @cached_property
    def mistakes(self) -> dict[str, pd.DataFrame]:
        """By network, its mistakes, the surest first, from `truth.mistakes`, with the detectability (`sigma`)."""
        tables = {name: truth.mistakes(self.labels, runs, self.classes) for name, runs in self.probabilities.items()}
        return {name: table.assign(sigma=self.detectability[table["image"]]) for name, table in tables.items()}

    @cached_property
    def attributions(self) -> Attributions:
        """What each pixel adds to the log-odds of the true class: the first test images of each class, not chosen."""
        each = EXAMPLES // len(self.classes) or 1
        first = np.sort(np.concatenate([np.flatnonzero(self.labels == k)[:each] for k in range(len(self.classes))]))
        images, labels, maps = self.test.images[first], torch.from_numpy(self.labels[first]), {}
        for name, run in self.trained.items():
            maps[name] = attribute(run.network, run.preprocess(images), labels, steps=16).mean(1).numpy()
        light = Preprocess(run.preprocess.crop, run.preprocess.binning)(images).mean(1).numpy()  # not scaled
        shares = {name: share_on_light(found, light) for name, found in maps.items()}
        bright = next(iter(shares.values()))[1]
        return Attributions(
            light, [self.classes[k] for k in labels], maps, {n: one for n, (one, _) in shares.items()}, bright
        )
