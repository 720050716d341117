"""The order in which a run sees the images: a function of (seed, number of the batch), independent of earlier batches.

Epoch e is a permutation of the images drawn from (seed, "order", e). In it, image i is mirrored if bit i of the draw
from (seed, "flip", e) is set. A global batch has `batch_size` × devices images. An epoch has n global batches; the
images that remain are left out. Global batch k of a run is batch k mod n of epoch ⌊k/n⌋, and device r gets its r-th
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
    """One device's batches of a whole run, or of one part of it after another (`set_epoch`).

    Args:
        size: images in the split.
        batch_size: images of one device in a batch.
        per_epoch: batches in an epoch.
        length: batches in a part; a run of diffusion.train is a single part.
        first: the number of the first batch, which is not 0 when a run is resumed.
        done: batches that the resumed run has done; not `first` if its global batches had another size.
        flip: mirror half of the images.
        seed: seed of the order and of the mirroring.
        rank, devices: which device this is, and the number of devices.
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
        """Continue with another part. Lightning calls this with the number of its epoch."""
        self.part = epoch

    def __len__(self) -> int:
        """The batches of a part, including those that the resumed run has done, because Lightning counts them too."""
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

    The batches differ in size by at most one image, and none is padded. So a mean or an FID over several devices counts
    each image once, and no device waits for a batch that another device does not have.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int, devices: int):
        per_device = -(-len(index) // (batch_size * devices))
        self.batches = index.tensor_split(per_device * devices)[rank::devices]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Index]:
        for i, index in enumerate(self.batches):
            yield index, torch.zeros(len(index), dtype=torch.bool), 0, i
