"""Images in memory as uint8 tensors, batches of them, and their order.

The order in which a run sees the images is a function of (seed, batch number), independent of earlier batches. Epoch e
is a permutation of the images drawn from (seed, "order", e), of n global batches of `batch_size` × devices images; the
rest is left out. Global batch k of a run is batch k mod n of epoch ⌊k/n⌋, and device r gets its r-th part.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from diffusion.errors import UserError
from diffusion.files import digest
from diffusion.randomness import generator_for

TILE = re.compile(r" \d+px at \d+,\d+$")  # the ending of a tile's name, after the name of its photograph

Index = tuple[Tensor, Tensor, int, int]
"""index (B,), flip (B,), the epoch, the position of the batch in the epoch"""


class Batch(NamedTuple):
    """B images of one split."""

    image: Tensor
    """(B, C, H, W), uint8 from the loader, float32 in [-1, 1] on the device."""
    index: Tensor  # type: ignore[assignment]  # this hides the tuple's method of that name
    """(B,) int64, the positions of the images in the loader's split. Stays on the CPU."""
    flip: Tensor
    """(B,) bool, which images are mirrored left to right."""
    epoch: int = 0
    number: int = 0
    """The position of the batch in its epoch."""
    classes: Tensor | None = None
    """(B,) int64, the class index of each image; None if the data set has no labels."""


def to_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]: x/127.5 - 1."""
    return image.float().div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to the nearest. Values outside the range are clamped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Split(Dataset[Batch]):
    """Images of one size, uint8 (N, C, H, W), each with a name that tells where it comes from.

    `labels`, int64 (N,), are indices into `ImageData.classes`; None without labels.
    """

    images: Tensor
    names: list[str]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Index) -> Batch:
        """Return a whole batch: one indexing operation for B images."""
        index, flip, epoch, number = key
        classes = None if self.labels is None else self.labels[index]
        return Batch(self.images[index], index, flip, epoch, number, classes)

    @cached_property
    def sources(self) -> list[str]:
        """The source of each image: the photograph of a tile (see `tiles`), otherwise the image's own name."""
        return [TILE.sub("", name) for name in self.names]

    def take(self, index: Tensor) -> "Split":
        """The images at the positions `index` (M,), in that order. A contiguous range is not copied."""
        rows: Tensor | slice = index
        if len(index) and torch.equal(index, torch.arange(int(index[0]), int(index[0]) + len(index))):
            rows = slice(int(index[0]), int(index[0]) + len(index))
        labels = None if self.labels is None else self.labels[rows]
        return Split(self.images[rows], [self.names[i] for i in index.tolist()], labels)

    def class_counts(self, classes: int) -> list[int]:
        """The number of images in each of `classes` classes; [] without labels."""
        return [] if self.labels is None else torch.bincount(self.labels, minlength=classes).tolist()

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, which depend on the files and on the resizing. Statistics are cached under it."""
        return digest(tuple(self.images.shape), hash_of(self.images))


def hash_of(values: Tensor) -> str:
    """A hash of the values; contiguous values are not copied."""
    return digest(values.contiguous().numpy().data)


def check_splits(splits: Mapping[str, Split], shape: tuple[int, int, int], classes: Sequence[str]) -> None:
    """Raise UserError if what `ImageData.load` returned does not fit the settings of the data set.

    Args:
        shape: (C, H, W) of the images.
        classes: the class names; empty without labels.
    """
    for name in ("train", "val", "test"):
        split = splits.get(name) if isinstance(splits, Mapping) else None
        right = (
            isinstance(split, Split)
            and (split.images.dtype, *split.images.shape[1:]) == (torch.uint8, *shape)
            and len(split.names) == len(split)
            and len(split.class_counts(len(classes))) == len(classes)
        )
        if not right:
            found = "another" if isinstance(split, Split) else "no"
            raise UserError(
                f"data: `load` returned {found} Split for {name}; expected uint8 images (N, *{shape}), as given by "
                f"data.channels and data.resolution, N names and, with `classes` ({len(classes)}), labels below it"
            )
    if without := [i for i, n in enumerate(splits["train"].class_counts(len(classes))) if n == 0]:
        raise UserError(
            f"data.labels: the class {classes[without[0]]!r} ({len(without)} in all) has no training image; add images "
            "of it or remove it, lower data.val or data.test, or remove data.limit"
        )


def labelled(images: Split, photos: Sequence[str], label: Mapping[str, str]) -> tuple[Split, list[str]]:
    """`images` with the class indices of their photographs, and the names of the classes, sorted."""
    classes = sorted({label[name] for name in photos})
    number = {name: i for i, name in enumerate(classes)}
    return replace(images, labels=torch.tensor([number[label[name]] for name in photos])), classes


@dataclass(eq=False)
class TrainingBatches(Sampler[Index]):
    """One device's batches of a whole run.

    Args:
        size: images in the split.
        batch_size: images per device in a batch.
        per_epoch: batches in an epoch.
        numbers: the numbers of the batches; they do not begin with 0 if the run is resumed.
        done: batches done before the run was resumed; not those before `numbers` if the global batch size has changed.
        flip: mirror half of the images.
    """

    size: int
    batch_size: int
    per_epoch: int
    numbers: range
    done: int = 0
    flip: bool = True
    seed: int = 0
    rank: int = 0
    devices: int = 1

    def __len__(self) -> int:
        """The number of batches, including those before resuming, because Lightning counts them too."""
        return self.done + len(self.numbers)

    def __iter__(self) -> Iterator[Index]:
        for epoch, in_epoch in groupby(self.numbers, lambda k: k // self.per_epoch):
            order = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
            heads = torch.rand(self.size, generator=generator_for(self.seed, "flip", epoch)) < 0.5
            used = order[: self.per_epoch * self.devices * self.batch_size]
            batches = used.view(self.per_epoch, self.devices, self.batch_size)[:, self.rank]
            for k in in_epoch:
                index = batches[k % self.per_epoch]
                yield index, heads[index] & self.flip, epoch, k % self.per_epoch


class InOrder(Sampler[Index]):
    """One device's share of `size` images, without mirroring: each image once, and as many batches on each device.

    Batch sizes differ by at most one image, no batch is padded, and no device waits for one that another has not.
    """

    def __init__(self, size: int, batch_size: int, rank: int, devices: int):
        per_device = -(-size // (batch_size * devices))
        self.batches = torch.arange(size).tensor_split(per_device * devices)[rank::devices]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Index]:
        for i, index in enumerate(self.batches):
            yield index, torch.zeros(len(index), dtype=torch.bool), 0, i
