"""Trial steps of the real recipe on a copy of the module: whether a batch fits into memory, and the time of a step.

The run is not changed, neither its weights nor torch's generators. (Lightning's BatchSizeFinder trains the module
itself, with its callbacks and loggers, and restores only the state that it knows; it also does not know that batches
must divide a step.)
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
from diffusion.errors import out_of_memory
from diffusion.training.module import Diffusion
from diffusion.training.schedule_free import averages_itself

SHARE = 0.9  # fraction of free memory that a step may use; the rest is for fragments, validation and communication
WORKING = 2  # memory of a step on a CPU, as a multiple of the values saved for its backward pass


class Trials:
    """Context for trial steps with the memory of a training run allocated; on exit, it is freed.

    Args:
        module: The module with the memory layout and precision of the run; it is copied.
        data: The data, already set up.
        copies: Number of weight sets that the run holds besides the module's, such as averages.
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
        """The bytes that a step may use."""
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
            if not self.memory.allows(size):
                return False
            self.step(size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return self.memory.was_enough()

    def begin(self) -> None:
        """Make a first step, which allocates the gradients and the optimizer's moments."""
        self.trained = copy.deepcopy(self.module)
        self.trained.trainer = self.trainer
        self.trained.to(self.device)
        self.held = [
            torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for _ in range(self.copies)
            for p in self.trained.parameters()
        ]
        optimizer = self.trained.new_optimizer()
        if averages_itself(optimizer):
            optimizer.train()  # type: ignore[attr-defined]
        self.step(1)
        optimizer.step()
        self.optimizer = optimizer
        self.memory.ready()

    def step(self, size: int) -> None:
        """Run the forward and backward pass of the first `size` images."""
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
    """Main memory. A process that uses too much of it makes the machine swap, so the memory of a step is predicted."""

    def __init__(self) -> None:
        self.room = int(SHARE * free_bytes())
        self.kept = 0.0  # bytes per image saved in the previous step

    def ready(self) -> None:
        """Measure the room, now that the run's weights, gradients and moments are allocated."""
        self.room = int(SHARE * free_bytes())

    def allows(self, size: int) -> bool:
        """Whether a step of `size` images may be tried."""
        return WORKING * self.kept * size <= self.room

    @contextmanager
    def watching(self, size: int, module: Diffusion) -> Iterator[None]:
        """Context for the forward pass of a step of `size` images."""
        kept: dict[int, int] = {}  # by address, because some values are saved more than once

        def note(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            yield
        weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self.kept = sum(bytes_ for address, bytes_ in kept.items() if address not in weights) / size

    def was_enough(self) -> bool:
        """Whether the last step fit into memory."""
        return True

    def release(self) -> None:
        """Return unused memory to the system."""


class Card(Memory):
    """The memory of a GPU: its allocator reports what a step has used, or raises if it is too much."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.room = int(SHARE * (torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)))

    def ready(self) -> None:
        """Do nothing: weights, gradients and moments count as part of a step."""

    @contextmanager
    def watching(self, size: int, module: Diffusion) -> Iterator[None]:
        """Context for the forward pass of a step of `size` images."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        yield

    def was_enough(self) -> bool:
        """Whether the last step fit into memory."""
        return torch.cuda.max_memory_reserved(self.device) <= self.room

    def release(self) -> None:
        """Return unused memory to the system, and reset the peak, so that the run's does not include the trials."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> tuple[int | None, int | None]:
    """Return the largest of the ascending `sizes` that fits, and the next one, which does not; None if there is none.

    They are tried in ascending order: this costs only a few steps, and none is much larger than the size that fits.
    """
    last = None
    for size in sizes:
        if not fits(size):
            return last, size
        last = size
    return last, None


def free_bytes() -> int:
    """Main memory that is available without swapping; half of all memory if the system does not report it."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, LookupError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
