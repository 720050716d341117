"""Images in memory as uint8 tensors, and batches of them."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion.data.cache import digest
from diffusion.data.order import Index

TILE = re.compile(r" \d+px at \d+,\d+$")  # the part of a tile's name that follows the name of its photograph


class Batch(NamedTuple):
    """B images of one split."""

    image: Tensor
    """(B, 3, H, W), uint8 from the loader, float32 in [-1, 1] on the device."""
    index: Tensor  # type: ignore[assignment]  # this hides the tuple's method of that name
    """(B,) int64, the positions of the images in the loader's split. It stays on the CPU."""
    flip: Tensor
    """(B,) bool, which images are mirrored left to right."""
    epoch: int = 0
    number: int = 0
    """The position of the batch in its epoch."""


def to_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]: x/127.5 - 1."""
    return image.float().div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to the nearest. Values outside the range are clamped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Split(Dataset[Batch]):
    """Square RGB images, uint8 (N, 3, H, W), and the name of each one, which says where it comes from."""

    images: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Index) -> Batch:
        """A whole batch at once, so that B images take one indexing operation."""
        index, flip, epoch, number = key
        return Batch(self.images[index], index, flip, epoch, number)

    @cached_property
    def sources(self) -> list[str]:
        """The source of each image: the photograph of a tile (see `tiles`), or else the name of the image."""
        return [TILE.sub("", name) for name in self.names]

    def take(self, index: Tensor) -> "Split":
        """The images at the positions `index` (M,), in that order."""
        return Split(self.images[index], [self.names[i] for i in index.tolist()])

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, and so of the files and of how they were resized. Statistics are cached under it."""
        pixels = hashlib.blake2b(self.images.contiguous().numpy().data, digest_size=16).hexdigest()
        return digest(tuple(self.images.shape), pixels)
