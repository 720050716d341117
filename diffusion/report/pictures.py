"""Pictures inside a page: data: URLs in WebP, or JPEG for large ones; rows of images of which the page shows one."""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusion.report.blocks import Html, tag
from diffusion.report.formatting import number
from diffusion.report.images import DRAWN, FILM_TIMES, MANY, opened, spread, tiles
from diffusion.runs.folder import Run

QUALITY = 85  # artefacts stay invisible even at several times the size
SHEET = 6_000_000  # maximum characters of a contact sheet in a page
WIDEST = 1200  # pixels; maximum width of a figure in a page
STEPS, IMAGES = 24, 8  # of the samples over training


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL. JPEG takes a tenth of the time of WebP and 10% more space."""
    large = picture.width * picture.height > MANY
    kind: tuple[str, dict[str, Any]] = ("jpeg", {"subsampling": 0}) if large else ("webp", {"method": 2})
    content = io.BytesIO()
    picture.convert("RGB").save(content, kind[0], quality=QUALITY, **kind[1])
    return f"data:image/{kind[0]};base64," + base64.b64encode(content.getvalue()).decode()


def sheet(images: Sequence[np.ndarray], columns: int) -> Image.Image:
    """Images (H, W, 3) in rows without gaps; white images fill the last row."""
    padded = [*images, *[np.full_like(images[0], 255)] * (-len(images) % columns)]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def shown(picture: Image.Image, label: str, scale: float = 1.0) -> Html:
    """A picture, `scale` times as large as its pixels if there is room."""
    return tag("img", src=address(picture), alt=label, width=round(scale * picture.width))


def rows_of(rows: Sequence[Sequence[np.ndarray]], label: str, at: Sequence[int] | None = None) -> Html:
    """Rows of images (H, W, 3), of which the page shows one: row `at[i]`, or row i, at position i of its slider."""
    height, width = rows[0][0].shape[0], rows[0][0].shape[1] * len(rows[0])
    image = tag("img", src=address(sheet([image for row in rows for image in row], len(rows[0]))), alt="")
    look = f"aspect-ratio: {width} / {height}; width: {max(1, min(4, 1024 // width)) * width}px"
    return tag("div", image, class_="rows", role="img", aria_label=label, data_rows=len(rows), data_at=at, style=look)


def training(run: Run, steps: Sequence[int]) -> Html | None:
    """The first samples of each grid, for a slider over these steps; None without grids, or if their layouts differ."""
    chosen = [run.grids[i] for i in spread(len(run.grids), STEPS)]
    rows = [tiles(opened(path))[:IMAGES] for _, path in chosen]
    if len({(len(row), row[0].shape) for row in rows}) != 1:
        return None
    at = [int(np.abs(np.array([of for of, _ in chosen]) - step).argmin()) for step in steps]
    caption = tag("figcaption", "Samples from the same noise, at the selected step.")
    return tag("figure", rows_of(rows, "Samples from the same noise", at), caption)


def film(path: Path) -> Html | None:
    """The denoising steps: x_t of some images, and the estimates of x0, for a slider over the steps."""
    if not path.is_file():
        return None
    picture = opened(path)
    times, cut = json.loads(picture.info[FILM_TIMES]), tiles(picture)
    columns = len(cut) // len(times)
    rows = [cut[i : i + columns] for i in range(0, len(cut), columns)]
    halves = {
        f"x_t of {columns // 2} samples": (slice(columns // 2), "x_t: the picture during denoising"),
        "Estimates of x0": (slice(columns // 2, None), "the network's estimate of x0 in the previous step"),
    }
    figures = [
        tag("figure", rows_of([row[half] for row in rows], label), tag("figcaption", caption))
        for label, (half, caption) in halves.items()
    ]
    texts = [f"t = {number(time)}" for time in times]
    return tag("div", figures, class_="linked", data_label="denoising step", data_texts=texts, data_play=True)


def all_samples(path: Path, most: int = SHEET) -> Html | None:
    """The images of a grid file with a zoom; only the first ones if they would exceed `most` characters."""
    if not path.is_file():
        return None
    picture = opened(path)
    images = tiles(picture)
    n, height, width = len(images), *images[0].shape[:2]
    while True:
        columns = min(n, math.ceil(math.sqrt(n * height / width)))
        made = shown(sheet(images[:n], columns), "Samples at the end of the run")
        if len(made) <= most or n == 1:
            break
        n = max(1, min(n - 1, int(0.95 * n * most / len(made))))
    drawn = max(n, int(picture.info.get(DRAWN, len(images))))
    words = f"{n:,} samples at the end of the run."
    if n < drawn:
        words = f"{n:,} of {drawn:,} samples at the end of the run. The others are omitted to keep this page small."
    return tag("figure", tag("div", made, class_="zoomed", tabindex=0, role="group"), tag("figcaption", words))


def latest(run: Run, images: int, columns: int, side: int | None = None) -> Image.Image | None:
    """The first samples of the end of the run, or else of the latest grid; None if there are none.

    The picture is made smaller if its images have a longer `side` than this.
    """
    final = run.folder / "samples/all.png"
    files = [final] if final.is_file() else [path for _, path in run.grids[-1:]]
    if not files:
        return None
    picture = sheet(tiles(opened(files[0]))[:images], columns)
    if side is not None:
        picture.thumbnail((side * columns, side * math.ceil(images / columns)))
    return picture


def figure(path: Path, caption: str) -> Html | None:
    """The figure in a file; None if there is none."""
    if not path.is_file():
        return None
    picture = opened(path).convert("RGB")
    picture.thumbnail((WIDEST, 4 * WIDEST))
    image = tag("img", src=address(picture), alt=caption, width=picture.width, class_="smooth")
    return tag("figure", image, tag("figcaption", caption))
