"""What a run takes, in run.json: the seconds of each part, and the most memory."""

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback


def peak_gigabytes(device: torch.device) -> float:
    """The most memory (10⁹ bytes) so far, of the GPU's tensors or, without one, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Spent:
    """Seconds by part. All time is divided: what passes between two marks belongs to the part of the later one.

    These are seconds of the process. A GPU works on by itself: where the process waits for it, the part in which it
    waits has the time of the work.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def mark(self, part: str) -> None:
        """What has passed since the last mark was for `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    @property
    def rounded(self) -> dict[str, float]:
        """To hundredths of a second."""
        return {part: round(seconds, 2) for part, seconds in self.seconds.items()}


class MarkSteps(Callback):
    """Marks the parts of a step, and the validations. It comes before all callbacks that work after a step."""

    def __init__(self, spent: Spent):
        self.spent = spent

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        """Images are read, the network is built, a checkpoint is loaded."""
        self.spent.mark("preparation")

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The batch is there."""
        self.spent.mark("data")

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """The loss is there."""
        self.spent.mark("forward")

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        """The gradients are there."""
        self.spent.mark("backward")

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are changed."""
        self.spent.mark("optimizer")

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        """What Lightning did since the step."""
        self.spent.mark("other")

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """A validation is done."""
        self.spent.mark("validation")


class Mark(Callback):
    """Stands behind the callbacks of a part, and marks what they did after a step."""

    def __init__(self, spent: Spent, part: str):
        self.spent, self.part = spent, part

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The callbacks before this one are done."""
        self.spent.mark(self.part)
