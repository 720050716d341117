"""Images in memory as uint8 tensors, and batches of them.

A split is N square RGB images in one uint8 tensor (N, 3, H, W), with the name of each.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffusion.data.cache import digest

TILE = re.compile(r" \d+px at \d+,\d+$")  # what a tile's name has behind the photograph's


class Batch(NamedTuple):
    """B images of one split.

    `image`: (B, 3, H, W), uint8 from the loader, float32 in [-1, 1] once on the device. `index`: (B,) int64, on
    the CPU, the images' positions in the loader's split. `flip`: (B,) bool, which of them are mirrored left to right.
    """

    image: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's method of that name gives way
    flip: Tensor


def to_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]: x/127.5 - 1."""
    return image.float().div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to the nearest; what lies outside is clamped, never wrapped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Split(Dataset[Batch]):
    """`images`: uint8 (N, 3, H, W). `names`: where each comes from."""

    images: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[Tensor, Tensor]) -> Batch:
        """A whole batch at once, for (index (B,), flip (B,)): one gather instead of B."""
        index, flip = key
        return Batch(self.images[index], index, flip)

    @cached_property
    def sources(self) -> list[str]:
        """What each image is of: the photograph of a tile, as `tiles` names it, else the image itself."""
        return [TILE.sub("", name) for name in self.names]

    def take(self, index: Tensor) -> "Split":
        """The split of the images at `index` (M,), in that order."""
        return Split(self.images[index], [self.names[i] for i in index.tolist()])

    @cached_property
    def key(self) -> str:
        """A hash of the pixels, hence of the files' content and the transform: statistics are kept under it."""
        pixels = hashlib.blake2b(self.images.contiguous().numpy().data, digest_size=16).hexdigest()
        return digest(tuple(self.images.shape), pixels)
