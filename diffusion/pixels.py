"""Sizes and channels of images: 1 channel is grey, 3 are RGB, 4 are RGBA (the last channel is opacity)."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, MaxLen, MinLen
from torch import Tensor

Side = Annotated[int, Ge(1)]
Resolution = Side | Annotated[list[Side], MinLen(2), MaxLen(2)]
"""The side of square images, or [height, width], in pixels."""
Channels = Literal[1, 3, 4]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> Pillow's mode."""


def height_width(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a `Resolution`."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return height, width


def resolution_of(height: int, width: int) -> int | list[int]:
    """The `Resolution` of H and W."""
    return height if height == width else [height, width]


def to_rgb(images: Tensor) -> Tensor:
    """uint8 (…, C, H, W) -> uint8 (…, 3, H, W): repeat grey, blend RGBA over white, return RGB unchanged.

    With colour c and opacity a, both 0..255, blending is (a c + (255 − a) 255)/255, rounded to nearest.
    """
    channels = images.shape[-3]
    if channels == 1:
        return images.expand(*images.shape[:-3], 3, -1, -1)
    if channels != 4:
        return images
    c, a = images.int().split([3, 1], dim=-3)
    return ((a * c + (255 - a) * 255 + 127) // 255).to(torch.uint8)
