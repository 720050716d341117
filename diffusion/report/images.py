"""Pictures: grids and GIFs in files, and pictures in pages. Images are uint8 (N, C, H, W), sRGB, and shown as RGB.

The layout of a grid is stored in the PNG file (`tEXt` chunk "grid"), so `tiles` can split it into the images again.
"""

import base64
import io
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
from diffusion.report.page import Html, picture, slider, tag
from diffusion.report.scores import number
from diffusion.report.style import spread
from diffusion.runs.folder import Run

GAP = 2  # white pixels between the images of a grid
WIDTH = 640  # pixels; target width of a picture for display
LARGE = 1 << 20  # pixels; larger pictures are encoded faster, and slightly less compactly
PAGE = 1 << 22  # pixels; the most of the samples in a page
LONGEST = 16_000  # pixels; WebP has no longer sides
WIDEST = 1200  # pixels; maximum width of a figure in a page
STEPS, IMAGES = 24, 8  # of the samples over training in a page
LAYOUT = "grid"  # PNG text chunk: the layout of a grid
DRAWN = "drawn"  # PNG text chunk: the number of images; the grid may show only the first ones
FILM_TIMES = "times"  # PNG text chunk: the times t of the rows of a film


def grid(images: Tensor, columns: int | None = None, large: bool = False) -> Image.Image:
    """Arrange `images`, uint8 (N, C, H, W), row by row, with `GAP` white pixels between; ⌈√N⌉ `columns` by default.

    Raises ValueError for another dtype or shape, or if there are no images. With `large`, each pixel is repeated, so
    that a picture with all `columns` is about `WIDTH` wide.
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
    picture.save(path, pnginfo=chunks, compress_level=1 if picture.width * picture.height > LARGE else 6)
    return path


def gif(frames: Sequence[Image.Image], path: Path, seconds: float = 4.0, hold: float = 2.0) -> Path:
    """Write a looping GIF of `frames`: `seconds` for all frames but the last, which is shown for `hold` seconds.

    Each frame has its own palette, because a common one would spend its colours on the noisy frames. Browsers play no
    frames shorter than two hundredths of a second.
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


def sheet(images: Sequence[np.ndarray], columns: int) -> Image.Image:
    """Images (H, W, 3) in rows without gaps; white images fill the last row."""
    padded = [*images, *[np.full_like(images[0], 255)] * (-len(images) % columns)]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL in WebP, whose artefacts stay invisible even at several times the size."""
    picture.thumbnail((LONGEST, LONGEST))
    content = io.BytesIO()
    picture.convert("RGB").save(content, "webp", quality=85, method=0 if picture.width * picture.height > LARGE else 2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def shown(picture: Image.Image, label: str, scale: float = 1.0) -> Html:
    """A picture, `scale` times as large as its pixels if there is room."""
    return tag("img", src=address(picture), alt=label, width=round(scale * picture.width))


def rows_of(rows: Sequence[Sequence[np.ndarray]], caption: str, at: Sequence[int] | None = None) -> Html:
    """Rows of images (H, W, 3), of which the page shows one: row `at[i]`, or row i, at position i of its slider."""
    height, width = rows[0][0].shape[0], rows[0][0].shape[1] * len(rows[0])
    image = shown(sheet([image for row in rows for image in row], len(rows[0])), "")
    look = f"aspect-ratio: {width} / {height}; width: {max(1, min(4, 1024 // width)) * width}px"
    data = {"data_rows": len(rows), "data_at": at}
    box = tag("div", image, class_="rows", role="img", aria_label=caption, style=look, **data)
    return tag("figure", box, tag("figcaption", caption))


def training_strip(run: Run, steps: Sequence[int]) -> Html | None:
    """The first samples of each grid, for a slider over these steps; None without grids, or if their layouts differ."""
    chosen = [run.grids[i] for i in spread(len(run.grids), STEPS)]
    rows = [tiles(opened(path))[:IMAGES] for _, path in chosen]
    if len({(len(row), row[0].shape) for row in rows}) != 1:
        return None
    at = [int(np.abs(np.array([of for of, _ in chosen]) - step).argmin()) for step in steps]
    return rows_of(rows, "Samples from the same noise, at the selected step", at)


def film(path: Path) -> list[Html]:
    """The denoising steps: x_t of some images, and the estimates of x0, with a slider over the steps."""
    if not path.is_file():
        return []
    picture = opened(path)
    times, cut = json.loads(picture.info[FILM_TIMES]), tiles(picture)
    columns = len(cut) // len(times)
    rows, half = [cut[i : i + columns] for i in range(0, len(cut), columns)], columns // 2
    return [
        slider("denoising step", [f"t = {number(time)}" for time in times], play=True),
        rows_of([row[:half] for row in rows], "x_t: the picture during denoising"),
        rows_of([row[half:] for row in rows], "the network's estimate of x0 in the previous step"),
    ]


def all_samples(path: Path) -> Html | None:
    """The images of a grid file with a zoom; only the first ones if they have more than `PAGE` pixels."""
    if not path.is_file():
        return None
    picture = opened(path)
    images = tiles(picture)
    height, width = images[0].shape[:2]
    drawn = max(len(images), int(picture.info.get(DRAWN, 0)))
    images = images[: max(1, PAGE // (height * width))]
    made = shown(sheet(images, math.ceil(math.sqrt(len(images) * height / width))), "Samples at the end of the run")
    some = f"{len(images):,} of " * (len(images) < drawn)
    caption = tag("figcaption", f"{some}{drawn:,} samples at the end of the run.")
    return tag("figure", tag("div", made, class_="zoomed", tabindex=0, role="group"), caption)


def latest(run: Run, images: int, columns: int) -> Image.Image | None:
    """The first samples of the end of the run, or else of the latest grid; None if there are none."""
    final = run.folder / "samples/all.png"
    files = [final] if final.is_file() else [path for _, path in run.grids[-1:]]
    return sheet(tiles(opened(files[0]))[:images], columns) if files else None


def figure(folder: Path, file: str, caption: str) -> list[str]:
    """A figure in a file of the folder; nothing if there is none."""
    if not (folder / file).is_file():
        return []
    made = opened(folder / file)
    made.thumbnail((WIDEST, 4 * WIDEST))
    image = tag("img", src=address(made), alt=caption, width=made.width, class_="smooth")
    return [tag("figure", image, tag("figcaption", caption)), picture(file, caption)]
