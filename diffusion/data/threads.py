"""Process many files in threads, without delaying signals; a `Room` limits their memory."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from threading import Condition, Event, Semaphore, main_thread
from typing import TypeVar

from diffusion.console import track

AHEAD = 8  # items per thread that may wait for their results to be used

Item = TypeVar("Item")
Result = TypeVar("Result")


def streamed(
    work: Callable[[Item], Result], items: Sequence[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """Apply `work` to each item and yield the results in order as they become available, with a progress bar.

    An exception, such as one from a signal, is raised without delay: waiting items are dropped, and nothing waits for
    running ones, not even process exit. (With a ThreadPoolExecutor, exit would wait, even for a disk that hangs.)
    """
    threads = min(32, (os.cpu_count() or 1) + 4)
    ahead, ended = Semaphore(AHEAD * threads), Event()

    def fed() -> Iterator[Item]:
        """Called in a thread of the pool. Without the limit, results wait in memory if they are used more slowly."""
        for item in items:
            while not ahead.acquire(timeout=1):
                if not main_thread().is_alive():  # it exits with an error whose traceback holds this generator
                    return
            if ended.is_set():
                return
            yield item

    with ThreadPool(threads) as pool:  # its threads are daemons
        try:
            for result in track(pool.imap(work, fed()), label, len(items), unit):
                ahead.release()
                yield result
        finally:
            ended.set()
            ahead.release()


class Room:
    """A capacity of `size` shared by threads. A request for more than `size` gets all of it."""

    def __init__(self, size: int):
        self.size = self.free = size
        self.changed = Condition()

    @contextlib.contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Wait until `amount` is free, and occupy it inside the `with` block."""
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
