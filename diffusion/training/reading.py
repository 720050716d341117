"""Asynchronous copies of numbers from a device to the CPU."""

import torch
from torch import Tensor


class Reading:
    """Numbers that are copied to the CPU without delaying the next step.

    Reading a number directly from a GPU would wait for all work queued since. Here the copy starts immediately, and an
    event marks its completion. (MPS guarantees no non-blocking copies.)
    """

    def __init__(self, numbers: Tensor):
        kind, self.arrived = numbers.device.type, None
        if kind not in ("cpu", "mps"):
            numbers = numbers.to("cpu", non_blocking=True)  # to pinned memory, on CUDA
            self.arrived = getattr(torch, kind).Event()
            self.arrived.record()
        self.numbers = numbers

    def read(self) -> list[float]:
        """Return the numbers; waits only for work that the device received before them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.numbers.tolist()
