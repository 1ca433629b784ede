"""Which images a network sees in which step: shuffled rows of a data set, or images that are simulated on the way.

Every order and every fresh image belongs to the seed and the epoch alone, so that a training which was interrupted goes
on as if nothing had happened. With several processes each takes every n-th image of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lensstudy.data import mixture
from lensstudy.data.dataset import LensDataset
from lensstudy.data.preprocess import as_tensor
from lensstudy.lensing.rendering import batch_size as render_batch
from lensstudy.study import ParameterError, Study
from lensstudy.training.distributed import place

__all__ = [
    "FreshBatches",
    "FreshImages",
    "InOrder",
    "Rows",
    "SeededBatches",
    "loader",
    "phase_at",
    "steps_per_epoch",
    "training_loader",
]


@dataclass
class SeededBatches:
    """Shuffled rows in batches; the order belongs to the seed and the epoch alone. The last, smaller batch is left
    out, since batch normalisation over a handful of images is noise. With more `steps` than the images fill, they are
    shown again in another order within the same epoch."""

    images: int
    batch_size: int
    seed: int
    steps: int = 0  # batches of an epoch; 0: once through the images
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps or max(self.images // self.batch_size, 1)

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng((self.seed, self.epoch))
        rounds = -(-len(self) * self.batch_size // self.images)
        order = np.concatenate([generator.permutation(self.images) for _ in range(rounds)])
        rank, world = place()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield np.sort(order[start : start + self.batch_size])[rank::world]


@dataclass
class InOrder:
    """All rows, one batch after the other; with several processes each sees all of them."""

    images: int
    batch_size: int

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self.images, self.batch_size):
            yield np.arange(start, min(start + self.batch_size, self.images))


class Rows(torch.utils.data.Dataset):
    """Batches of a data set by their rows: one read, no copy of the whole."""

    def __init__(self, part: LensDataset):
        self.images, self.labels = part.images, torch.as_tensor(part.labels)

    def __getitem__(self, rows: np.ndarray):
        return as_tensor(self.images[rows]), self.labels[rows]


@dataclass
class FreshBatches:
    """Batches of images that were never shown: numbers of images to simulate, and which of those make a batch.

    Images are simulated a block at a time, `block` of every class, and come class by class in turn, so that every batch
    has the classes in equal parts.
    """

    images: int  # of one epoch
    batch_size: int
    classes: int
    block: int  # images of each class that are simulated in one go
    seed: int
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:  # called by Lightning
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.images // self.batch_size, 1)

    def __iter__(self) -> Iterator[tuple[int, range, np.ndarray]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        batches_a_block = self.block * self.classes // self.batch_size
        blocks = -(-len(self) // batches_a_block)
        rank, world = place()
        for block in range(blocks):
            first = (self.epoch * blocks + block) * self.block
            order = [generator.permutation(self.block) + k * self.block for k in range(self.classes)]
            order = np.stack(order, axis=1).ravel()
            for batch in range(min(batches_a_block, len(self) - block * batches_a_block)):
                chosen = order[batch * self.batch_size : (batch + 1) * self.batch_size]
                yield self.epoch, range(first, first + self.block), chosen[rank::world]


class FreshImages(torch.utils.data.Dataset):
    """Images of the study's preset, simulated when their turn comes; a curriculum begins with heavier substructure and
    more photons. The seed is another than that of the data set, so that no test image is drawn again."""

    def __init__(self, settings: Study, classes: tuple[str, ...]):
        if settings.data_path:
            raise ParameterError(
                "fresh_images: images that are read cannot be drawn anew; use 0, or a simulated preset"
            )
        self.settings, self.classes = settings, classes
        seed = int(np.random.SeedSequence((settings.data_seed, settings.seed)).generate_state(1)[0])
        self.components = mixture.components_of(settings.preset, settings.population, settings.noise_level, seed)
        self.drawn: range | None = None

    def __getitem__(self, batch: tuple[int, range, np.ndarray]):
        epoch, numbers, chosen = batch
        if numbers != self.drawn:
            substructure, photons = phase_at(epoch, self.settings.curriculum)
            self.images, self.labels = mixture.draw(
                self.components,
                numbers,
                classes=self.classes,
                image_size=self.settings.image_size,
                substructure_factor=substructure,
                photon_factor=photons,
            )
            self.drawn = numbers
        return self.images[chosen], self.labels[chosen]


def phase_at(epoch: int, curriculum: list[list[float]]) -> tuple[float, float]:
    """Factors on the substructure's mass and on the photons in `epoch`, counted from 0; after the last phase the
    preset as it is."""
    begun = 0.0
    for epochs, substructure, photons in curriculum:
        begun += epochs
        if epoch < begun:
            return substructure, photons
    return 1.0, 1.0


def training_loader(train: LensDataset, steps: int, settings: Study) -> torch.utils.data.DataLoader:
    """Batches of one training: of `train`, or fresh ones, `steps` an epoch."""
    if not settings.fresh_images:
        return loader(Rows(train), SeededBatches(len(train), settings.batch_size, settings.seed, steps))
    # Whole batches of the renderer, enough for eight of the network, so that little is drawn and not shown.
    batch, classes = render_batch(settings.image_size), len(train.classes)
    images = FreshImages(settings, train.classes)
    batch *= len(images.components)
    block = batch * -(-8 * settings.batch_size // (batch * classes))
    return loader(images, FreshBatches(settings.fresh_images, settings.batch_size, classes, block, settings.seed))


def loader(images: torch.utils.data.Dataset, batches) -> torch.utils.data.DataLoader:
    """Whole batches, read in this process: a worker would cost more than it saves where nothing is decoded."""
    return torch.utils.data.DataLoader(images, sampler=batches, batch_size=None)


def steps_per_epoch(dataset: LensDataset, settings: Study) -> int:
    """Batches of one epoch: once through the whole train part, whatever share of it is shown, or the fresh images."""
    settings = settings.training()
    images = settings.fresh_images or len(dataset.part("train"))
    return max(images // settings.batch_size, 1)
