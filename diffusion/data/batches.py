"""Images in memory as uint8 tensors, and batches of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion.data.order import Index
from diffusion.errors import UserError
from diffusion.files import digest

TILE = re.compile(r" \d+px at \d+,\d+$")  # the ending of a tile's name, after the name of its photograph


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

    `labels`, int64 (N,), are indices into `ImageData.classes`; None without labels. `known_key` is the `key`, if it is
    already known.
    """

    images: Tensor
    names: list[str]
    labels: Tensor | None = None
    known_key: str | None = None

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
        if len(index) and torch.equal(index, torch.arange(int(index[0]), int(index[0]) + len(index))):
            first, end = int(index[0]), int(index[0]) + len(index)
            labels = None if self.labels is None else self.labels[first:end]
            return Split(self.images[first:end], self.names[first:end], labels)
        labels = None if self.labels is None else self.labels[index]
        return Split(self.images[index], [self.names[i] for i in index.tolist()], labels)

    def class_counts(self, classes: int) -> list[int]:
        """The number of images in each of `classes` classes; [] without labels."""
        return [] if self.labels is None else torch.bincount(self.labels, minlength=classes).tolist()

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, which depend on the files and on the resizing. Statistics are cached under it.

        Labels do not change it: the images are the same.
        """
        return self.known_key or digest(tuple(self.images.shape), hash_of(self.images))

    @cached_property
    def label_key(self) -> str | None:
        """A hash of the labels; None without them."""
        return None if self.labels is None else hash_of(self.labels)


def check_splits(splits: Mapping[str, Split], shape: tuple[int, int, int], classes: Sequence[str], fix: str) -> None:
    """Raise UserError if what `ImageData.load` returned does not fit the settings of the data set.

    Args:
        shape: (C, H, W) of the images.
        classes: the class names; empty without labels.
        fix: advice in the error about a class without training images.
    """
    for name in ("train", "val", "test"):
        split = splits.get(name) if isinstance(splits, Mapping) else None
        if not isinstance(split, Split) or split.images.dtype != torch.uint8 or len(split.names) != len(split.images):
            raise UserError(
                f"data: `load` returned no proper Split of {name}; it returns a dict with the keys train, val and "
                "test, each a Split with uint8 images, 0 to 255, and as many names"
            )
        if (found := tuple(split.images.shape[1:])) != shape:
            made, expected = ("×".join(map(str, each)) for each in (found, shape))
            raise UserError(
                f"data: the images of {name} are {made} (channels, height, width), but data.channels and "
                f"data.resolution specify {expected}; set them to the shape that `load` returns"
            )
        if len(split.class_counts(len(classes))) != len(classes):
            raise UserError(
                f"data: the labels of {name} do not match {len(classes)} classes: if `load` sets `classes`, every "
                f"split needs labels below {len(classes)}; otherwise no split may have labels"
            )
    counts = {name: split.class_counts(len(classes)) for name, split in splits.items()}
    if without := [i for i, n in enumerate(counts["train"]) if n == 0]:
        val, test = (sum(counts[name][i] for i in without) for name in ("val", "test"))
        raise UserError(
            f"data.labels: the class {classes[without[0]]!r} ({len(without)} in all) has no training image ({val} for "
            f"validation, {test} for test); {fix}"
        )


@dataclass(frozen=True)
class Subset(Dataset[Batch]):
    """The images of a split at the positions `rows` (M,), indexed from 0; none of them is copied."""

    split: Split
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Index) -> Batch:
        """As in `Split`."""
        index, flip, epoch, number = key
        return self.split[self.rows[index], flip, epoch, number]._replace(index=index)

    @property
    def sources(self) -> list[str]:
        """As in `Split`."""
        return [TILE.sub("", self.split.names[i]) for i in self.rows.tolist()]


def hash_of(values: Tensor) -> str:
    """A hash of the values; contiguous values are not copied."""
    return digest(values.contiguous().numpy().data)
