"""The order in which images are seen: a function of (seed, number of the batch), never of what ran before.

Epoch e is a permutation of the images drawn from (seed, "order", e), and image i is mirrored in it if bit i of the draw
from (seed, "flip", e) is set. A global batch is `batch_size` × devices images; an epoch has n of them, and its remaining
images are left out. Global batch k of a run is batch k mod n of epoch ⌊k/n⌋, and device r gets the r-th part of it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from diffusion.randomness import generator_for

Index = tuple[Tensor, Tensor, int, int]
"""index (B,), flip (B,), the epoch, the batch's number in the epoch"""


class TrainingBatches(Sampler[Index]):
    """One device's batches of a whole run, or of a part of it after another (`set_epoch`).

    Args:
        size: images in the split.
        batch_size: images of one device in a batch.
        per_epoch: batches in an epoch.
        length: batches in a part; a run of diffusion.train is one part.
        first: the batch to begin with, when a run is resumed.
        flip: mirror half of the images.
        rank, devices: which device this is, of how many.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        per_epoch: int,
        length: int,
        first: int = 0,
        flip: bool = True,
        seed: int = 0,
        rank: int = 0,
        devices: int = 1,
    ):
        self.size, self.batch_size, self.per_epoch, self.length, self.first = size, batch_size, per_epoch, length, first
        self.flip, self.seed, self.rank, self.devices = flip, seed, rank, devices
        self.part = 0

    def set_epoch(self, epoch: int) -> None:
        """Continue with another part. Lightning calls this with the number of its epoch."""
        self.part = epoch

    def __len__(self) -> int:
        """The batches of a part, including those before `first`: Lightning counts from the beginning too."""
        return self.length

    def __iter__(self) -> Iterator[Index]:
        start, stop = self.part * self.length, (self.part + 1) * self.length
        k = max(start, self.first)
        while k < stop:
            epoch, begin = divmod(k, self.per_epoch)
            end = min(self.per_epoch, begin + stop - k)
            order = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
            heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", epoch)) < 0.5
            flip = heads & self.flip
            used = self.per_epoch * self.devices * self.batch_size
            batches = order[:used].view(self.per_epoch, self.devices, self.batch_size)[:, self.rank]
            for i in range(begin, end):
                yield batches[i], flip[batches[i]], epoch, i
            k += end - begin


class InOrder(Sampler[Index]):
    """One device's share of `index` (M,), not mirrored: each image once, and equally many batches on each device.

    The images are divided into equal runs (to within one image) instead of being padded: a mean or an FID over several
    devices counts each image once, and no device waits for a batch that another one does not have.
    """

    def __init__(self, index: Tensor, batch_size: int, rank: int, devices: int):
        per_device = -(-len(index) // (batch_size * devices))
        self.batches = index.tensor_split(per_device * devices)[rank::devices]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Index]:
        for i, index in enumerate(self.batches):
            yield index, torch.zeros(len(index), dtype=torch.bool), 0, i
