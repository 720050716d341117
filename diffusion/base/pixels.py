"""Images as numbers: their sizes and channels, and grids and GIFs of them in files.

1 channel is grey, 3 are RGB, 4 are RGBA (the last channel is opacity). What is known about a grid is stored in the PNG
file (`tEXt` chunk "grid"), so `tiles` can split it into images again.
"""

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, MaxLen, MinLen
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from diffusion.base.files import replacing

Side = Annotated[int, Ge(1), Le(4096)]
Resolution = Side | Annotated[list[Side], MinLen(2), MaxLen(2)]
"""The side of square images, or [height, width], in pixels; above 4096, a batch of images fits into no memory."""
Channels = Literal[1, 3, 4]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> Pillow's mode."""
POINTS = 2  # channels of points of the plane, which are images of 1×1
GAP = 2  # white pixels between the images of a grid
WIDTH = 640  # pixels; target width of a picture for display
ABOUT = "grid"  # PNG text chunk: about a grid
LIMIT = 1.6  # the largest coordinate that a picture of points shows
SIDE = 320  # pixels; the longest side of a picture that is `reduced`


def height_width(resolution: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a `Resolution`."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return height, width


def resolution_of(*size: int) -> int | list[int]:
    """The `Resolution` of examples (C, *size)."""
    return size[0] if len({*size}) == 1 else [*size]


def to_unit(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]: x/127.5 - 1. Floats stay as they are."""
    return image if image.is_floating_point() else image.float().div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 0..255, rounded to the nearest. Other values are clamped."""
    return image.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def grey(x: Tensor) -> Tensor:
    """The luma of images (B, C, H, W), without their opacity (ITU-R BT.601, as in Pillow): (B, 1, H, W)."""
    red, green, blue = (x[:, i : i + 1] for i in range(3)) if x.shape[1] > 1 else (x, x, x)
    return 0.299 * red + 0.587 * green + 0.114 * blue


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


def saturated(images: Tensor) -> Tensor:
    """Which images, uint8 (N, C, H, W), are almost black, almost white, or of one colour; bool (N,).

    Black or white are 3/4 of the values within 8 of 0 or of 255, and a standard deviation below 30, which drawings on
    a plain ground exceed; one colour is a deviation below 2. 1.6% of the bundled validation tiles are, by sky or night.
    """
    values = to_rgb(images).flatten(1)
    extreme = torch.maximum((values <= 8).float().mean(dim=1), (values >= 247).float().mean(dim=1))
    deviation = values.float().std(dim=1, correction=0)
    return (extreme > 0.75) & (deviation < 30) | (deviation < 2)


def arranged(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W, 3) as one, row by row without gaps; white ones fill the last row."""
    n, height, width, _ = images.shape
    white = np.full((-n % columns, height, width, 3), 255, np.uint8)
    rows = np.concatenate([images, white]).reshape(-1, columns, height, width, 3)
    return rows.swapaxes(1, 2).reshape(-1, columns * width, 3)


def spread(n: int, most: int) -> list[int]:
    """The indices 0 … n − 1, or `most` evenly spaced ones with both ends if there are more."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def grid(images: Tensor, columns: int | None = None, large: bool = False, **about: Any) -> Image.Image:
    """Arrange `images`, uint8 (N, C, H, W), row by row, with `GAP` white pixels between; ⌈√N⌉ `columns` by default.

    With `large`, pixels are repeated to a width of about `WIDTH` for all `columns`. `about` is kept in the PNG file.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = min(16, max(1, WIDTH // (columns * images.shape[-1]))) if large else 1
    columns = min(columns, len(images))
    pixels = to_rgb(images.detach().cpu()).permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
    padded = np.pad(pixels, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    picture = Image.fromarray(arranged(padded, columns)[:-GAP, :-GAP])
    picture.info[ABOUT] = json.dumps({"images": len(images), "columns": columns, **about})
    return picture


def reduced(pictures: Sequence[Image.Image], side: int = SIDE) -> Tensor:
    """Pictures of one size as uint8 (n, C, H, W), none of whose sides is longer than `side`."""
    scale = min(1.0, side / max(pictures[0].size))
    return torch.stack([pil_to_tensor(each.resize([max(1, round(scale * s)) for s in each.size])) for each in pictures])


def framed(images: Tensor, columns: int, places: Sequence[Sequence[int] | None]) -> Image.Image:
    """A large `grid` of images, with a frame around the place [top, left, height, width] of each, if it has one."""
    picture = grid(images, columns, large=True)
    cell, draw = (picture.width + GAP) // columns, ImageDraw.Draw(picture)
    scale = cell // images.shape[-1]
    for place, (row, column) in zip(places, product(range(len(images)), range(columns)), strict=False):
        if place is not None:
            top, left, height, width = (scale * each for each in place)
            y, x = row * (scale * images.shape[-2] + GAP) + top, column * cell + left
            draw.rectangle((x, y, x + width - 1, y + height - 1), outline=(255, 0, 0), width=2)
    return picture


def tiles(picture: Image.Image) -> np.ndarray:
    """Split a picture from `grid`, also after `save_png`, into uint8 (N, H, W, 3); any other picture is one tile."""
    about = json.loads(picture.info.get(ABOUT, '{"images": 1, "columns": 1}'))
    n, columns = about["images"], about["columns"]
    padded = np.pad(np.asarray(picture.convert("RGB")), ((0, GAP), (0, GAP), (0, 0)))
    down, across = padded.shape[0] // math.ceil(n / columns), padded.shape[1] // columns
    cut = padded.reshape(-1, down, columns, across, 3).swapaxes(1, 2).reshape(-1, down, across, 3)
    return cut[:n, :-GAP, :-GAP]


def in_turn(images: Tensor, kinds: int) -> tuple[Tensor, int]:
    """Reorder `images` (N, C, H, W), which cycle through `kinds`, to one grid row per kind; and the columns."""
    columns = math.ceil(len(images) / kinds)
    padding = images.new_full((columns * kinds - len(images), *images.shape[1:]), 255)
    return torch.cat([images, padding]).unflatten(0, (columns, kinds)).transpose(0, 1).flatten(0, 1), columns


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write `picture` as PNG, with what is known about its grid; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = PngInfo()
    if ABOUT in picture.info:
        chunks.add_text(ABOUT, picture.info[ABOUT])
    with replacing(path) as file:
        picture.save(file, "PNG", pnginfo=chunks)
    return path


def gif(frames: Sequence[Image.Image], path: Path, seconds: float = 4.0, hold: float = 2.0) -> Path:
    """Write a looping GIF of `frames`: `seconds` for all frames but the last, which is shown for `hold` seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = frames
    each = max(20, 10 * round(100 * seconds / max(1, len(others))))  # browsers play no shorter ones
    durations = [each] * len(others) + [round(1000 * hold)]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return path
