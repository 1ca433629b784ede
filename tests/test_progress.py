"""How work is spread over the processors of a machine."""

import threading

import pytest
import torch

from lensstudy import progress


@pytest.mark.parametrize("description", ["", "doubled"])
def test_items_are_worked_on_at_the_same_time_and_come_in_their_order(monkeypatch, description):
    monkeypatch.setattr(progress, "processors", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    meeting = threading.Barrier(2, timeout=10)

    def doubled(number: int) -> int:
        meeting.wait()  # of another item, which would never come if they were taken one by one
        return 2 * number

    assert list(progress.side_by_side(doubled, [3, 1, 2, 0], description)) == [6, 2, 4, 0]


def test_one_at_a_time_where_torch_takes_every_processor(monkeypatch):
    monkeypatch.setattr(progress, "processors", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    names = set(progress.side_by_side(lambda _: threading.current_thread().name, range(8)))
    assert len(names) == 1


def test_an_error_of_one_item_is_raised():
    def failing(number: int) -> int:
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 1"):
        list(progress.side_by_side(failing, [1]))
