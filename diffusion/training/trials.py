"""Steps of the real recipe, tried on a copy of the module: whether a batch fits into memory, and what a step takes.

Nothing of the run is changed: neither its weights nor torch's generators. (Lightning's BatchSizeFinder fits the module
itself, with its callbacks and loggers, and restores what it knows of; it also knows nothing of a step's divisors.)
"""

import copy
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from diffusion.data import ImageData
from diffusion.training.module import Diffusion
from diffusion.training.schedule_free import averages_itself

SHARE = 0.9  # of the free memory that a step may take; the rest is for fragments, validation and communication
WORKING = 2  # what a step on a CPU takes, as a multiple of the values that it keeps for its backward pass


class Trials:
    """Within: steps of the recipe, beside all that a run holds in training. Afterwards their memory is free.

    Args:
        module: With the memory layout and the precision of the run; it is copied.
        data: Set up.
        copies: Sets of weights that the run holds besides the module's, such as averages.
    """

    def __init__(self, module: Diffusion, data: ImageData, trainer: pl.Trainer, copies: int):
        self.module, self.data, self.trainer, self.copies = module, data, trainer, copies
        self.device = trainer.strategy.root_device
        self.memory = Card(self.device) if self.device.type == "cuda" else Memory()
        self.held: list[Tensor] = []
        self.trained: Diffusion | None = None
        self.optimizer: Optimizer | None = None  # once it has moments
        self.undo = ExitStack()

    @property
    def room(self) -> int:
        """The bytes that a step may take."""
        return self.memory.room

    def __enter__(self) -> "Trials":
        self.undo.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
        return self

    def __exit__(self, *_: Any) -> None:
        self.trained, self.optimizer, self.held = None, None, []
        gc.collect()
        self.memory.release()
        self.undo.close()

    def fits(self, size: int) -> bool:
        """Whether a batch of `size` fits, with the gradients of the batches before it."""
        try:
            if self.optimizer is None:
                self.begin()
            if not self.memory.may_take(size):
                return False
            self.step(size)
        except torch.OutOfMemoryError:
            return False
        return self.memory.sufficed()

    def begin(self) -> None:
        """A first step, after which there are gradients, and moments of the optimizer."""
        self.trained = copy.deepcopy(self.module)
        self.trained.trainer = self.trainer
        self.trained.to(self.device)
        self.held = [torch.zeros_like(p) for _ in range(self.copies) for p in self.trained.parameters()]
        optimizer = self.trained.new_optimizer()
        if averages_itself(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        self.step(1)
        optimizer.step()
        self.optimizer = optimizer
        self.memory.ready()

    def step(self, size: int) -> None:
        """Forward and backward, with the first `size` images."""
        assert self.trained is not None
        with self.memory.watching(size, self.trained):
            loss = self.loss(size)
        loss.backward()

    def loss(self, size: int) -> Tensor:
        """The loss of the first `size` images."""
        assert self.trained is not None
        index = torch.arange(size)
        batch = self.data.splits["train"][index, index < 0, 0, 0]
        batch = self.data.on_after_batch_transfer(self.data.transfer_batch_to_device(batch, self.device, 0), 0)
        with self.trainer.precision_plugin.forward_context():
            return self.trained.losses(batch)["loss"].mean()


class Memory:
    """Main memory. A process that takes too much of it makes the machine swap, so what a step needs is foretold."""

    def __init__(self) -> None:
        self.room = int(SHARE * free_bytes())
        self.kept = 0.0  # bytes for each image, in the step before

    def ready(self) -> None:
        """The run's weights, gradients and moments are there."""
        self.room = int(SHARE * free_bytes())

    def may_take(self, size: int) -> bool:
        """Whether a step of so many images may be tried."""
        return WORKING * self.kept * size <= self.room

    @contextmanager
    def watching(self, size: int, module: Diffusion) -> Iterator[None]:
        """Within: the forward pass of a step of so many images."""
        kept: dict[int, int] = {}  # by address, as some values are kept more than once

        def note(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            yield
        weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self.kept = sum(bytes_ for address, bytes_ in kept.items() if address not in weights) / size

    def sufficed(self) -> bool:
        """Whether the last step had room."""
        return True

    def release(self) -> None:
        """Give back what is free."""


class Card(Memory):
    """The memory of a GPU, whose allocator says what a step has taken, or that it is not there."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.room = int(SHARE * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)))

    def ready(self) -> None:
        """They are part of what a step takes."""

    @contextmanager
    def watching(self, size: int, module: Diffusion) -> Iterator[None]:
        """Within: the forward pass of a step of so many images."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield

    def sufficed(self) -> bool:
        """Whether the last step had room."""
        return torch.cuda.max_memory_reserved(self.device) <= self.room

    def release(self) -> None:
        """Give back what is free, and forget the peak: that of the run is its own."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> tuple[int | None, int | None]:
    """The largest of the ascending `sizes` that fits, and the next one, which does not; None where there is none.

    They are tried in turn: together they cost a few steps, and none is far larger than what fits.
    """
    last = None
    for size in sizes:
        if not fits(size):
            return last, size
        last = size
    return last, None


def free_bytes() -> int:
    """The main memory that can be had without swapping; where the system does not tell, half of all."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
