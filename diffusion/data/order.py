"""The order in which a run sees the images: a function of (seed, batch number), independent of earlier batches.

Epoch e is a permutation of the images drawn from (seed, "order", e). Image i is mirrored in it if number i of the draw
from (seed, "flip", e) is below 1/2. A global batch has `batch_size` × devices images. An epoch has n global batches;
the remaining images are left out. Global batch k of a run is batch k mod n of epoch ⌊k/n⌋, and device r gets its r-th
part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor
from torch.utils.data import Sampler

from diffusion.randomness import generator_for

Index = tuple[Tensor, Tensor, int, int]
"""index (B,), flip (B,), the epoch, the position of the batch in the epoch"""


@dataclass(eq=False)
class TrainingBatches(Sampler[Index]):
    """One device's batches of a whole run, or of one part of it at a time (`set_epoch`).

    Args:
        size: images in the split.
        batch_size: images per device in a batch.
        per_epoch: batches in an epoch.
        length: batches in a part; a run of diffusion.train is a single part.
        first: number of the first batch; not 0 if the run is resumed.
        done: batches done before the run was resumed; differs from `first` if the global batch size has changed.
        flip: mirror half of the images.
        seed: seed of the order and of the mirroring.
        rank, devices: rank and world size.
    """

    size: int
    batch_size: int
    per_epoch: int
    length: int
    first: int = 0
    done: int = 0
    flip: bool = True
    seed: int = 0
    rank: int = 0
    devices: int = 1
    part: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        """Select a part. Lightning calls this with its epoch number."""
        self.part = epoch

    def __len__(self) -> int:
        """The number of batches in a part, including those before resuming, because Lightning counts them too."""
        return self.length

    def __iter__(self) -> Iterator[Index]:
        part = max(self.part, self.done // self.length)  # Lightning may call `set_epoch` after the workers have started
        shift = self.first - self.done
        numbers = range(max(part * self.length, self.done) + shift, (part + 1) * self.length + shift)
        for epoch, in_epoch in groupby(numbers, lambda k: k // self.per_epoch):
            order = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
            heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", epoch)) < 0.5
            used = order[: self.per_epoch * self.devices * self.batch_size]
            batches = used.view(self.per_epoch, self.devices, self.batch_size)[:, self.rank]
            for k in in_epoch:
                index = batches[k % self.per_epoch]
                yield index, heads[index] & self.flip, epoch, k % self.per_epoch


class InOrder(Sampler[Index]):
    """One device's share of `index` (M,), without mirroring: each image once, and equally many batches on each device.

    Batch sizes differ by at most one image, and no batch is padded. A mean or an FID over several devices counts each
    image once, and no device waits for a batch that another device does not have.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int, devices: int):
        per_device = -(-len(index) // (batch_size * devices))
        self.batches = index.tensor_split(per_device * devices)[rank::devices]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Index]:
        for i, index in enumerate(self.batches):
            yield index, torch.zeros(len(index), dtype=torch.bool), 0, i
