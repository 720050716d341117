"""Pictures in pages: samples during training and at its end, the denoising steps, figures in files."""

import base64
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.pixels import ABOUT, arranged, opened, tiles
from diffusion.report.page import Html, captioned, picture, slider
from diffusion.report.scores import number
from diffusion.report.style import spread
from diffusion.runs.folder import Run

PAGE = 1 << 22  # pixels; the most of the samples in a page
STEPS, IMAGES = 24, 8  # of the samples over training in a page
FIRST = 24  # samples at the top of a page
SWIPE = Html('<div class="swipes"></div>')  # assets/page.js lays two of the pictures `side_by_side` over each other


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


def gallery(run: Run, caption: str) -> Html | None:
    """The first samples of the end of the run, or else of the latest grid, each as a picture; None without samples."""
    file = latest_grid(run)
    if file is None:
        return None
    images = tiles(opened(file))
    most = max(1, min(FIRST, PAGE // images[0].size))
    cells = [shown(Image.fromarray(each), f"sample {i}") for i, each in enumerate(images[:most], start=1)]
    return captioned(Html('<div class="gallery">{}</div>').format(Html("").join(cells)), caption)


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
    file = latest_grid(run)
    return Image.fromarray(arranged(tiles(opened(file))[:images], columns)) if file else None


def latest_grid(run: Run) -> Path | None:
    """The file of the samples of the end of the run, or else of the latest grid; None if there is none."""
    final = run.folder / "samples/all.png"
    return final if final.is_file() else run.grids[-1][1] if run.grids else None


def before_and_after(run: Run) -> Html | None:
    """The first samples of a run that started from a trained model, with the weights there and with its own."""
    if not run.config.get("init") or not run.grids or run.grids[0][0] > 0:
        return None
    grid = tiles(opened(run.grids[0][1]))
    columns = math.ceil(math.sqrt(len(grid)))
    pair = {"before": Image.fromarray(arranged(grid, columns)), "after": latest(run, len(grid), columns)}
    return side_by_side({name: picture for name, picture in pair.items() if picture is not None})


def side_by_side(pictures: Mapping[str, Image.Image]) -> Html | None:
    """Pictures with their names, if there are any."""
    found = [captioned(shown(each, name, max(1, min(4, 400 // each.width))), name) for name, each in pictures.items()]
    return Html('<div class="pair">{}</div>').format(Html("").join(found)) if found else None


def figure(folder: Path, file: str, caption: str) -> list[str]:
    """A figure in a file of the folder; nothing if there is none."""
    if not (folder / file).is_file():
        return []
    return [captioned(shown(opened(folder / file), caption, look="smooth"), caption), picture(file, caption)]
