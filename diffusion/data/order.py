"""The order in which images are seen: a function of (seed, epoch, batch), never of what ran before.

In epoch e the training order is the permutation drawn from (seed, "order", e), and image i is mirrored if bit i of the
draw from (seed, "flip", e) is set. Global batch k is the k-th run of `batch_size` × devices images of that order, and
device r takes the r-th run of `batch_size` within it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from diffusion.data.batches import Batch
from diffusion.randomness import generator_for


class Shuffled(Sampler[tuple[Tensor, Tensor]]):
    """One device's training batches (index (B,), flip (B,)) in the order of `epoch`; the partial last is dropped."""

    def __init__(self, size: int, batch_size: int, flip: bool, seed: int, rank: int, world: int):
        self.size, self.batch_size, self.flip, self.seed = size, batch_size, flip, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.first = 0  # the batch to begin at, when a run is resumed within the epoch

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(self.size, generator=generator_for(self.seed, "order", self.epoch))
        heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", self.epoch)) < 0.5
        flip = heads & self.flip
        used = len(self) * self.world * self.batch_size
        for index in order[:used].view(len(self), self.world, self.batch_size)[self.first :, self.rank]:
            yield index, flip[index]


class InOrder(Sampler[tuple[Tensor, Tensor]]):
    """One device's share of `index` (M,), unflipped: every image once, and as many batches on each device.

    The images are cut into equal runs (to within one image) rather than padded, so that a mean or an FID over
    several devices counts each image once, and no device waits for a batch that another does not have.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int, world: int):
        per_device = -(-len(index) // (batch_size * world))
        self.batches = index.tensor_split(per_device * world)[rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in self.batches:
            yield index, torch.zeros(len(index), dtype=torch.bool)


class TrainLoader(DataLoader[Batch]):
    """A loader that Lightning resumes at the next batch: its state is the epoch and how many batches it has given."""

    sampler: Shuffled
    given = 0
    resume: tuple[int, int] | None = None  # (epoch, batches given) of the run that is resumed

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: nothing is drawn before Lightning has set the epoch.
        epoch, given = self.resume or (0, 0)
        self.given = self.sampler.first = given if epoch == self.sampler.epoch else 0
        self.resume = None
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume = state["epoch"], state["given"]
