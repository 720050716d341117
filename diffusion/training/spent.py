"""Time and memory used by each part of a run, for run.json."""

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

ELSEWHERE = "images (not on the GPU)"  # not part of the peak, which is the GPU's


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes, of the GPU's tensors or, without a CUDA GPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def size(tensors: Iterable[Tensor]) -> int:
    """The bytes of the tensors that this process holds."""
    return sum(each.numel() * each.element_size() for each in tensors)


def gradients_of(module: pl.LightningModule) -> int:
    """The bytes of a module's gradients."""
    return size(weight.grad for weight in module.parameters() if weight.grad is not None)


def bytes_of(trainer: pl.Trainer, module: pl.LightningModule, gradients: int) -> dict[str, int]:
    """The bytes of the tensors that this process holds in training, by part.

    Weights and averages include buffers. Images include all splits, even if they are mapped from a file, of which only
    the parts that were read are in memory.

    Args:
        gradients: Bytes of the gradients, which are freed for validation.
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
    """Wall time by part, without gaps: the time between two marks belongs to the part of the later one.

    This is the time of the process. A GPU works asynchronously, so its time counts for the part that waits for it.
    `bytes` are those at the end of training.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self.last = time.perf_counter()

    def bytes_up_to(self, peak: int) -> dict[str, int]:
        """The bytes by part, with the remaining bytes up to the peak as "rest": activations, libraries, scoring."""
        known = sum(size for part, size in self.bytes.items() if part != ELSEWHERE)
        return {**self.bytes, "rest": max(0, peak - known)}

    def mark(self, part: str) -> None:
        """Add the time since the last mark to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    @property
    def rounded(self) -> dict[str, float]:
        """The seconds by part, rounded to hundredths."""
        return {part: round(seconds, 2) for part, seconds in self.seconds.items()}


class MarkSteps(Callback):
    """Marks the parts of a step, and validations. It comes before all callbacks that work after a step."""

    def __init__(self, spent: Spent):
        self.spent = spent
        self.gradients: int | None = None  # bytes of the gradients, once there are any

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        """Images are read, the network is built, a checkpoint is loaded."""
        self.spent.mark("preparation")

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """The batch is loaded."""
        self.spent.mark("data")

    def on_before_backward(self, *args: Any, **kwargs: Any) -> None:
        """The loss is computed."""
        self.spent.mark("forward")

    def on_after_backward(self, *args: Any, **kwargs: Any) -> None:
        """The gradients are computed."""
        self.spent.mark("backward")

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Measure the gradients, once: their size is the same in every step."""
        if self.gradients is None:
            self.gradients = gradients_of(pl_module)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The weights are updated."""
        self.spent.mark("optimizer")

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's own work since the step is done."""
        self.spent.mark("other")

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """A validation is done."""
        self.spent.mark("validation")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the memory while the optimizer's state still exists."""
        self.spent.bytes = bytes_of(trainer, pl_module, self.gradients or 0)


class Mark(Callback):
    """Comes after the callbacks of a part, and marks the time of their work after a step."""

    def __init__(self, spent: Spent, part: str):
        self.spent, self.part = spent, part

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """The callbacks before this one are done."""
        self.spent.mark(self.part)
