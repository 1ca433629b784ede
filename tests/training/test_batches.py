"""Which images come in which step."""

import numpy as np
import pytest
import torch

from lensstudy.study import Study
from lensstudy.training import batches as module
from lensstudy.training.batches import FreshBatches, FreshImages, SeededBatches, phase_at


def test_the_order_of_images_changes_from_epoch_to_epoch_and_is_the_seeds_own():
    batches = SeededBatches(40, 8, seed=1)
    orders = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        orders.append(np.concatenate(list(batches)).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0] != orders[1]
    assert orders[0] == np.concatenate(list(SeededBatches(40, 8, seed=1))).tolist()
    assert orders[0] != np.concatenate(list(SeededBatches(40, 8, seed=2))).tolist()


def test_few_images_are_shown_again_until_the_steps_are_done():
    rows = np.concatenate(list(SeededBatches(10, 8, seed=1, steps=5)))
    assert len(rows) == 40
    assert np.bincount(rows).tolist() == [4] * 10


@pytest.mark.parametrize("batches", [SeededBatches(40, 8, seed=1), FreshBatches(60, 8, 3, 16, seed=1)])
def test_processes_share_a_batch_without_overlap(batches, monkeypatch):
    whole = [rows if isinstance(rows, np.ndarray) else rows[2] for rows in batches]
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(module, "place", lambda rank=rank: (rank, 2))
        parts.append([rows if isinstance(rows, np.ndarray) else rows[2] for rows in batches])
    for one, two, both in zip(*parts, whole, strict=True):
        assert len(one) == len(two) == 4
        assert sorted([*one, *two]) == sorted(both)


def test_no_fresh_image_comes_twice():
    batches, seen = FreshBatches(64, 8, 3, 16, seed=1), set()
    for epoch in range(3):
        batches.set_epoch(epoch)
        assert len(list(batches)) == len(batches) == 8
        for _, numbers, rows in batches:
            keys = {(number, int(row)) for number in [numbers.start] for row in rows}
            assert not keys & seen
            seen |= keys


@pytest.mark.parametrize(
    ("pixels", "batch", "wanted"), [(50, 30, 300), (48, 100, 1000), (64, 33, 990), (150, 32, 6000)]
)
def test_little_is_simulated_and_not_shown(pixels, batch, wanted, monkeypatch):
    settings = Study(preset="model_3", image_size=pixels, batch_size=batch, fresh_images=wanted)
    fresh = module.training_loader(_Part(("no_sub", "cdm", "axion")), 4, settings).sampler
    drawn = {numbers for _, numbers, _ in fresh}
    assert 3 * sum(map(len, drawn)) < 1.3 * wanted + 3 * 8 * batch
    assert len(fresh) == wanted // batch


def test_fresh_images_are_the_preset_and_all_classes_come():
    settings = Study(preset="model_3", image_size=32, batch_size=12, fresh_images=48)
    loader = module.training_loader(_Part(("no_sub", "cdm", "axion")), 4, settings)
    images, labels = zip(*loader, strict=True)
    assert [len(batch) for batch in images] == [12] * 4
    assert torch.cat(images).shape == (48, 1, 32, 32)
    assert all(torch.bincount(batch, minlength=3).tolist() == [4, 4, 4] for batch in labels)
    again = torch.cat([batch for batch, _ in module.training_loader(_Part(("no_sub", "cdm", "axion")), 4, settings)])
    torch.testing.assert_close(again, torch.cat(images), rtol=0, atol=0)


class _Part:
    def __init__(self, classes):
        self.classes = classes


def test_phases_follow_each_other_and_end_with_the_preset():
    curriculum = [[2, 4.0, 20.0], [1, 2.0, 5.0]]
    assert [phase_at(epoch, curriculum) for epoch in range(5)] == [(4, 20), (4, 20), (2, 5), (1, 1), (1, 1)]


def test_fresh_images_have_another_seed_than_the_data_set():
    assert FreshImages(Study(data_seed=3, seed=1), ("no_sub",)).components[0].seed not in (1, 3)
    assert (
        FreshImages(Study(seed=1), ("no_sub",)).components[0].seed
        != FreshImages(Study(seed=2), ("no_sub",)).components[0].seed
    )
