"""Work on many files by threads, which neither holds a signal up nor fills the memory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from threading import Condition
from typing import TypeVar

from diffusion.console import track

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image") -> list[Result]:
    """`work` of each item, in their order; see `streamed`."""
    return [*streamed(work, items, label, unit)]


def streamed(
    work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """`work` of each item, in their order, as it is done, with a progress bar.

    An exception, such as a signal's, is not held up: waiting items are dropped, and nothing waits for those under way,
    not even the end of the process. (With a ThreadPoolExecutor that would, also for a disk that does not answer.)
    """
    with ThreadPool(min(32, (os.cpu_count() or 1) + 4)) as pool:  # its threads are daemons
        yield from track(pool.imap(work, items), label, len(items), unit)


class Room:
    """Room for so much at a time, shared by threads. What takes more than all of it gets all of it."""

    def __init__(self, size: int):
        self.size = self.free = size
        self.changed = Condition()

    @contextlib.contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait for the room; within, it is taken."""
        amount = min(amount, self.size)
        with self.changed:
            self.changed.wait_for(lambda: self.free >= amount)
            self.free -= amount
        try:
            yield
        finally:
            with self.changed:
                self.free += amount
                self.changed.notify_all()
