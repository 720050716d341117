"""What a run takes, in run.json: the seconds and the bytes of each part."""

import resource
import sys
import time
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from diffusion.data import ImageData
from diffusion.training.ema import average_of
from diffusion.training.sharding import held

ELSEWHERE = "images (not on the GPU)"  # outside of the peak, which is the GPU's


def peak_bytes(device: torch.device) -> int:
    """The most memory so far, of the GPU's tensors or, without one, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def size(tensors: Iterable[Tensor]) -> int:
    """The bytes of them that this process holds."""
    return sum(held(each).numel() * each.element_size() for each in tensors)


def gradients_of(module: pl.LightningModule) -> int:
    """The bytes of its gradients."""
    return size(weight.grad for weight in module.parameters() if weight.grad is not None)


def bytes_of(trainer: pl.Trainer, module: pl.LightningModule, gradients: int) -> dict[str, int]:
    """The bytes of the tensors that this process holds in training, by part.

    Weights and averages include the buffers. The images are those of all splits, also where they are mapped from a
    file, of which the system holds what has been read.

    Args:
        gradients: Bytes of them, which are let go in validation.
    """
    data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
    average = average_of(trainer)
    states = tree_leaves([dict(optimizer.state) for optimizer in trainer.optimizers])  # some optimizers nest them
    where = ELSEWHERE if module.device.type == "cuda" else "images"
    return {
        "weights": size([*module.parameters(), *module.buffers()]),
        "gradients": gradients,
        "optimizer": size(state for state in states if isinstance(state, Tensor)),
        "averages of weights": 0 if average is None else size(average.tensors),
        where: size(split.images for split in data.splits.values()),
    }


class Spent:
    """Seconds by part. All time is divided: what passes between two marks belongs to the part of the later one.

    These are seconds of the process. A GPU works on by itself: where the process waits for it, the part in which it
    waits has the time of the work. `bytes` are those at the end of the training.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self.last = time.perf_counter()

    def bytes_up_to(self, peak: int) -> dict[str, int]:
        """The bytes, and as "rest" what is missing up to the peak: activations, libraries, scoring."""
        known = sum(size for part, size in self.bytes.items() if part != ELSEWHERE)
        return {**self.bytes, "rest": max(0, peak - known)}

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
        self.gradients: int | None = None  # their bytes, once there are any

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

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """All gradients are there; those of each step take as much."""
        if self.gradients is None:
            self.gradients = gradients_of(pl_module)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are changed."""
        self.spent.mark("optimizer")

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        """What Lightning did since the step."""
        self.spent.mark("other")

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """A validation is done."""
        self.spent.mark("validation")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The optimizer's state is still there."""
        self.spent.bytes = bytes_of(trainer, pl_module, self.gradients or 0)


class Mark(Callback):
    """Stands behind the callbacks of a part, and marks what they did after a step."""

    def __init__(self, spent: Spent, part: str):
        self.spent, self.part = spent, part

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The callbacks before this one are done."""
        self.spent.mark(self.part)
