"""While something long runs: how many processors it may use, and a bar with the time that is left, where somebody
watches."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from tqdm.auto import tqdm

__all__ = ["in_batch", "in_processes", "processors", "progress", "side_by_side"]


def in_batch() -> bool:
    """True where nobody watches (`LENSSTUDY_BATCH` is set), so that progress bars keep silent."""
    return bool(os.environ.get("LENSSTUDY_BATCH"))


def progress(items: Iterable, description: str, total: int | None = None) -> Iterator[Any]:
    """Go through `items` with a bar; `total` is their number, where they do not know it."""
    return iter(tqdm(items, desc=description, total=total, disable=in_batch()))


def side_by_side(function: Callable, items: Sequence, description: str = "") -> Iterator[Any]:
    """`function` of each item, in their order, as many at a time as processors allow; a bar, if it has a `description`.
    In threads: for networks, which compute outside Python's lock, each on as many processors as torch takes."""
    import torch  # which whoever shows a bar alone need not wait for

    with ThreadPoolExecutor(max(1, processors() // torch.get_num_threads())) as pool:
        found = pool.map(function, items)
        yield from progress(found, description, len(items)) if description else found


def in_processes(function: Callable, items: Sequence[tuple], processes: int) -> Iterator[Any]:
    """`function` of the arguments in each of `items`, in their order, in so many processes of one thread each."""
    if processes == 1 or len(items) < 2:
        yield from (function(*item) for item in items)
        return
    main = sys.modules["__main__"]
    if not hasattr(main, "__spec__"):  # which IPython's %reset takes away, and the start of a process asks for
        main.__spec__ = None
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        yield from (one.result() for one in [pool.submit(function, *item) for item in items])


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def processors() -> int:
    """Processors that this process may use; macOS does not tell, and has them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
