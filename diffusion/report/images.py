"""Pictures: grids and GIFs in files, and pictures in pages. Images are uint8 and shown as sRGB.

What is known about a grid is stored in the PNG file (`tEXt` chunk "grid"), so `tiles` can split it into images again.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from diffusion.errors import UserError
from diffusion.pixels import MODES, to_rgb
from diffusion.report.page import Html, captioned, picture, slider
from diffusion.report.scores import number
from diffusion.report.style import spread
from diffusion.runs.folder import Run

GAP = 2  # white pixels between the images of a grid
WIDTH = 640  # pixels; target width of a picture for display
PAGE = 1 << 22  # pixels; the most of the samples in a page
STEPS, IMAGES = 24, 8  # of the samples over training in a page
ABOUT = "grid"  # PNG text chunk: about a grid


def arranged(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (N, H, W, 3) as one, row by row without gaps; white ones fill the last row."""
    n, height, width, _ = images.shape
    white = np.full((-n % columns, height, width, 3), 255, np.uint8)
    rows = np.concatenate([images, white]).reshape(-1, columns, height, width, 3)
    return rows.swapaxes(1, 2).reshape(-1, columns * width, 3)


def grid(images: Tensor, columns: int | None = None, large: bool = False, **about: Any) -> Image.Image:
    """Arrange `images`, uint8 (N, C, H, W), row by row, with `GAP` white pixels between; ⌈√N⌉ `columns` by default.

    With `large`, each pixel is repeated, so that a picture with all `columns` is about `WIDTH` wide. `about` is kept in
    the PNG file. Raises ValueError for another dtype or shape, or if there are no images.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in MODES or len(images) == 0:
        raise ValueError(f"grid: got {images.dtype} {tuple(images.shape)}; expected uint8 (N, C, H, W), N > 0")
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = min(16, max(1, WIDTH // (columns * images.shape[-1]))) if large else 1
    columns = min(columns, len(images))
    pixels = to_rgb(images.detach().cpu()).permute(0, 2, 3, 1).numpy().repeat(scale, 1).repeat(scale, 2)
    padded = np.pad(pixels, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    picture = Image.fromarray(arranged(padded, columns)[:-GAP, :-GAP])
    picture.info[ABOUT] = json.dumps({"images": len(images), "columns": columns, **about})
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
    """Reorder `images` (N, C, H, W), which cycle through `kinds`, to one grid row per kind. Also returns the columns.

    Short rows are padded with white images.
    """
    columns = math.ceil(len(images) / kinds)
    padding = images.new_full((columns * kinds - len(images), *images.shape[1:]), 255)
    return torch.cat([images, padding]).unflatten(0, (columns, kinds)).transpose(0, 1).flatten(0, 1), columns


def opened(path: Path) -> Image.Image:
    """Open the picture in a file. Raises UserError if it cannot be read."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable picture; delete it, or recreate it by sampling") from error


def save_png(picture: Image.Image, path: Path) -> Path:
    """Write `picture` as PNG, with what is known about its grid; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = PngInfo()
    if ABOUT in picture.info:
        chunks.add_text(ABOUT, picture.info[ABOUT])
    picture.save(path, pnginfo=chunks)
    return path


def gif(frames: Sequence[Image.Image], path: Path, seconds: float = 4.0, hold: float = 2.0) -> Path:
    """Write a looping GIF of `frames`: `seconds` for all frames but the last, which is shown for `hold` seconds.

    Pillow gives each frame its own palette. Browsers play no frames shorter than two hundredths of a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = frames
    each = max(20, 10 * round(100 * seconds / max(1, len(others))))
    durations = [each] * len(others) + [round(1000 * hold)]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return path


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL in WebP, whose artefacts stay invisible even at several times the size."""
    picture.thumbnail((16_000, 16_000))  # WebP has no longer sides
    content = io.BytesIO()
    picture.convert("RGB").save(content, "webp", quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def shown(picture: Image.Image, label: str, scale: float = 1.0, look: str = "") -> Html:
    """A picture, `scale` times as large as its pixels if there is room; `look` is a class of the style sheet."""
    image = Html('<img src="{}" alt="{}" width="{}" class="{}">')
    return image.format(address(picture), label, round(scale * picture.width), look)


def rows_of(rows: np.ndarray, caption: str) -> Html:
    """Rows of images (R, N, H, W, 3), of which the page shows row i at position i of the section's slider."""
    count, n, height, width, _ = rows.shape
    image = shown(Image.fromarray(arranged(rows.reshape(-1, height, width, 3), n)), "")
    look = f"aspect-ratio: {n * width} / {height}; width: {n * width * max(1, min(4, 1024 // (n * width)))}px"
    box = Html('<div class="rows" role="img" aria-label="{}" data-rows="{}" style="{}">{}</div>')
    return captioned(box.format(caption, count, look, image), caption)


def training_strip(run: Run) -> list[Html]:
    """The first samples of the grids during training, with a slider over the steps; [] if their layouts differ."""
    chosen = [run.grids[i] for i in spread(len(run.grids), STEPS)]
    rows = [tiles(opened(path))[:IMAGES] for _, path in chosen]
    if len({row.shape for row in rows}) != 1:
        return []
    steps = [step for step, _ in chosen]
    return [
        slider("step", [f"step {step:,}" for step in steps], steps),
        rows_of(np.stack(rows), "Samples from the same noise, at the selected step"),
    ]


def film(path: Path) -> list[Html]:
    """The denoising steps: x_t of some images, and the estimates of x0, with a slider over the steps."""
    if not path.is_file():
        return []
    picture = opened(path)
    times, cut = json.loads(picture.info[ABOUT])["times"], tiles(picture)
    rows = cut.reshape(len(times), 2, -1, *cut.shape[1:])
    return [
        slider("denoising step", [f"t = {number(time)}" for time in times], play=True),
        rows_of(rows[:, 0], "x_t: the picture during denoising"),
        rows_of(rows[:, 1], "the network's estimate of x0 in the previous step"),
    ]


def all_samples(path: Path) -> Html | None:
    """The images of a grid file with a zoom; only the first ones if they have more than `PAGE` pixels."""
    if not path.is_file():
        return None
    picture = opened(path)
    images = tiles(picture)
    drawn, (_, height, width, _) = json.loads(picture.info[ABOUT])["drawn"], images.shape
    images = images[: max(1, PAGE // (height * width))]
    caption = f"{len(images):,} of " * (len(images) < drawn) + f"{drawn:,} samples at the end of the run."
    sheet = Image.fromarray(arranged(images, math.ceil(math.sqrt(len(images) * height / width))))
    return captioned(
        Html('<div class="zoomed" tabindex="0" role="group">{}</div>').format(shown(sheet, caption)), caption
    )


def latest(run: Run, images: int, columns: int) -> Image.Image | None:
    """The first samples of the end of the run, or else of the latest grid; None if there are none."""
    final = run.folder / "samples/all.png"
    files = [final] if final.is_file() else [path for _, path in run.grids[-1:]]
    return Image.fromarray(arranged(tiles(opened(files[0]))[:images], columns)) if files else None


def side_by_side(pictures: Mapping[str, Image.Image]) -> list[str]:
    """Pictures with their names; assets/page.js lays two of them over each other."""
    found = [captioned(shown(each, name, max(1, min(4, 400 // each.width))), name) for name, each in pictures.items()]
    return [Html('<div class="pair">{}</div><div class="swipes"></div>').format(Html("").join(found))]


def figure(folder: Path, file: str, caption: str) -> list[str]:
    """A figure in a file of the folder; nothing if there is none."""
    if not (folder / file).is_file():
        return []
    return [captioned(shown(opened(folder / file), caption, look="smooth"), caption), picture(file, caption)]
