"""Image grids and GIFs. Images are uint8 (N, C, H, W), sRGB; greyscale and RGBA images are shown as RGB.

The layout of a grid is stored in the PNG file (`tEXt` chunk "grid"), so `tiles` can split it into the images again.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torchvision.utils import make_grid

from diffusion.errors import UserError
from diffusion.pixels import MODES, to_rgb

GAP = 2  # white pixels between the images of a grid
WIDTH = 640  # pixels; target width of a picture for display
MANY = 1 << 20  # pixels; larger pictures use faster but slightly less compact encoding
LAYOUT = "grid"  # PNG text chunk: the layout of a grid
DRAWN = "drawn"  # PNG text chunk: the number of images; the grid may show only the first ones
FILM_TIMES = "times"  # PNG text chunk: the times t of the rows of a film


def grid(images: Tensor, columns: int | None = None, large: bool = False) -> Image.Image:
    """Arrange `images`, uint8 (N, C, H, W), row by row; ⌈√N⌉ `columns` by default.

    There are `GAP` white pixels between images; empty places in the last row are white. RGB values are not changed.
    Raises ValueError for another dtype or shape, or if there are no images.

    Args:
        large: repeat each pixel, from 1 to 16 times, so that a picture with all `columns` is about `WIDTH` wide.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MODES or len(images) == 0:
        raise ValueError(f"grid: got {images.dtype} {tuple(images.shape)}; expected uint8 (N, C, H, W), N > 0")
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = min(16, max(1, WIDTH // (columns * images.shape[-1]))) if large else 1
    columns = min(columns, len(images))
    pixels = to_rgb(images.detach().cpu()).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    canvas = make_grid(pixels, columns, GAP, pad_value=255)
    if len(images) > 1:  # otherwise, there is no margin
        canvas = canvas[:, GAP:-GAP, GAP:-GAP]
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    height, width = pixels.shape[-2:]
    layout = {"images": len(images), "columns": columns, "height": height, "width": width, "gap": GAP}
    picture.info[LAYOUT] = json.dumps(layout)
    return picture


def spread(n: int, most: int) -> list[int]:
    """The indices 0 … n − 1, or `most` evenly spaced ones with both ends if there are more."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist()


def in_turn(images: Tensor, kinds: int, least: int = 1) -> tuple[Tensor, int]:
    """Reorder `images` (N, C, H, W), which cycle through `kinds`, to one grid row per kind. Also returns the columns.

    Short rows are padded with white images, to at least `least` columns.
    """
    columns = max(least, math.ceil(len(images) / kinds))
    padding = images.new_full((columns * kinds - len(images), *images.shape[1:]), 255)
    return torch.cat([images, padding]).unflatten(0, (columns, kinds)).transpose(0, 1).flatten(0, 1), columns


def picture_of(image: Tensor) -> Image.Image:
    """One image (C, H, W), unchanged: greyscale, RGB or RGBA."""
    pixels = image.detach().cpu().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)


def opened(path: Path) -> Image.Image:
    """Open the picture in a file. Raises UserError if it cannot be read."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable picture; delete it, or recreate it by sampling") from error


def tiles(picture: Image.Image) -> list[np.ndarray]:
    """Split a picture from `grid`, also after `save_png`, into uint8 (H, W, 3) images; other pictures are one tile."""
    pixels = np.asarray(picture.convert("RGB"))
    if LAYOUT not in picture.info:
        return [pixels]
    layout = json.loads(picture.info[LAYOUT])
    height, width, gap, columns = layout["height"], layout["width"], layout["gap"], layout["columns"]
    corners = [((i // columns) * (height + gap), (i % columns) * (width + gap)) for i in range(layout["images"])]
    return [pixels[top : top + height, left : left + width] for top, left in corners]


def enlarged(picture: Image.Image) -> Image.Image:
    """`picture` enlarged by a whole number, from 1 to 16, to about `WIDTH` pixels wide (nearest neighbour)."""
    scale = min(16, max(1, WIDTH // picture.width))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def save_png(picture: Image.Image, path: Path, **text: str) -> Path:
    """Write `picture` as PNG, with the layout of its grid and `text` as text chunks; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = PngInfo()
    if LAYOUT in picture.info:
        text[LAYOUT] = picture.info[LAYOUT]
    for name, content in text.items():
        chunks.add_text(name, content)
    picture.save(path, pnginfo=chunks, compress_level=1 if picture.width * picture.height > MANY else 6)
    return path


def gif(frames: Sequence[Image.Image], path: Path, seconds: float = 4.0, hold: float = 2.0) -> Path:
    """Write a looping GIF of `frames`: `seconds` for all frames but the last, which is shown for `hold` seconds.

    Each frame has its own palette of 256 colours by median cut (the last one refined by k-means), because a common
    palette would spend its colours on the noisy frames. Dithering is off: it would add noise to pictures of noise.
    A frame lasts a whole number of hundredths of a second, at least 2: browsers do not play shorter frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    each = max(2, round(100 * seconds / max(1, len(frames) - 1)))
    durations = [10 * each] * (len(frames) - 1) + [round(100 * hold) * 10]
    indexed = [
        frame.convert("RGB").quantize(
            256, method=Image.Quantize.MEDIANCUT, kmeans=int(frame is frames[-1]), dither=Image.Dither.NONE
        )
        for frame in frames
    ]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False)
    return path
