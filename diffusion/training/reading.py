"""Numbers on their way from a device to the CPU."""

import torch
from torch import Tensor


class Reading:
    """Numbers that are copied without making the next step wait.

    To read a number from a GPU directly would wait for everything that the GPU has been given since. Here the copy
    starts at once, and an event says when it is complete. (MPS promises no copy that does not block.)
    """

    def __init__(self, numbers: Tensor):
        kind, self.arrived = numbers.device.type, None
        if kind not in ("cpu", "mps"):
            numbers = numbers.to("cpu", non_blocking=True)  # to pinned memory, on CUDA
            self.arrived = getattr(torch, kind).Event()
            self.arrived.record()
        self.numbers = numbers

    def read(self) -> list[float]:
        """The numbers; waits only for what the device was given before them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.numbers.tolist()
