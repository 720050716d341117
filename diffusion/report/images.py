"""Pictures in pages: samples during training and at its end, the denoising steps, figures in files."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.pixels import ABOUT, arranged, opened, spread, tiles
from diffusion.randomness import proportional
from diffusion.report.page import Html, captioned, picture, slider
from diffusion.report.scores import number
from diffusion.runs.folder import Run

PAGE = 1 << 24  # bytes; the most of the samples in a page
STEPS, IMAGES = 24, 8  # of the samples over training in a page
FIRST, MORE = 24, 240  # samples at the top of a page, and in its details
SWIPE = Html('<div class="swipes"></div>')  # assets/page.js lays two of the pictures `side_by_side` over each other


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL in WebP, whose artefacts stay invisible even at several times the size."""
    picture.thumbnail((16_000, 16_000))  # WebP has no longer sides
    content = io.BytesIO()
    picture.convert("RGB").save(content, "webp", quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def img(picture: Image.Image, label: str, scale: float = 1.0, look: str = "") -> Html:
    """A picture, `scale` times as large as its pixels if there is room; `look` is a class of the style sheet."""
    image = Html('<img src="{}" alt="{}" width="{}" class="{}">')
    return image.format(address(picture), label, round(scale * picture.width), look)


def rows_of(rows: np.ndarray, caption: str) -> Html:
    """Rows of images (R, N, H, W, 3), of which the page shows row i at position i of the section's slider."""
    count, n, height, width, _ = rows.shape
    image = img(Image.fromarray(arranged(rows.reshape(-1, height, width, 3), n)), "")
    look = f"aspect-ratio: {n * width} / {height}; width: {n * width * max(1, min(4, 1024 // (n * width)))}px"
    box = Html('<div class="rows" role="img" aria-label="{}" data-rows="{}" style="{}">{}</div>')
    return captioned(box.format(caption, count, look, image), caption)


def over_training(run: Run, most: int) -> tuple[list[int], np.ndarray]:
    """At most so many steps of the grids during training, and the first samples at each: (steps, N, H, W, 3)."""
    chosen = [run.grids[i] for i in spread(len(run.grids), most)]
    rows = [tiles(opened(path))[:IMAGES] for _, path in chosen]
    return [step for step, _ in chosen], np.stack([row[: min(map(len, rows))] for row in rows])


def training_strip(run: Run) -> list[Html]:
    """The first samples of the grids during training, with a slider over the steps."""
    if not run.grids:
        return []
    steps, rows = over_training(run, STEPS)
    return [
        slider("step", [f"step {step:,}" for step in steps], steps),
        rows_of(rows, "Samples from the same noise, at the selected step"),
    ]


STEPS_OF = ("x_t: the picture during denoising", "the network's estimate of x0 in the previous step")


def film(path: Path, label: str = "denoising step", captions: Sequence[str] = STEPS_OF) -> list[Html]:
    """A grid with `times`, as rows of images that a slider over the times selects, in as many parts as captions."""
    if not path.is_file():
        return []
    picture = opened(path)
    times, cut = json.loads(picture.info[ABOUT])["times"], tiles(picture)
    rows = cut.reshape(len(times), len(captions), -1, *cut.shape[1:])
    parts = [rows_of(rows[:, i], caption) for i, caption in enumerate(captions)]
    return [slider(label, [f"t = {number(time)}" for time in times], play=True), *parts]


def gallery(run: Run, caption: str, first: int = 0, most: int = FIRST) -> Html | None:
    """Samples of the run from the `first` one on, each as a picture; None if there are none."""
    counts = run.info.get("classes", {})  # the samples have their proportions
    names = [[*counts][k] for k in proportional([*counts.values()], first + most)] if counts else []
    found = enumerate(samples_of(run)[first : first + most], start=first + 1)
    cells = [img(Image.fromarray(each), f"sample {i}") for i, each in found]
    cells = [*map(captioned, cells, names[first:])] if counts else cells
    return captioned(Html('<div class="gallery">{}</div>').format(Html("").join(cells)), caption) if cells else None


def latest(run: Run, images: int, columns: int) -> Image.Image | None:
    """The first samples as one picture; None without samples."""
    found = samples_of(run)[:images]
    return Image.fromarray(arranged(found, columns)) if len(found) else None


def samples_of(run: Run) -> np.ndarray:
    """The samples of the run, as far as a page has room: (N, H, W, 3)."""
    if (found := drawn(run)) is None:
        return np.empty((0, 1, 1, 3), np.uint8)
    images = tiles(opened(found[1]))
    return images[: max(1, PAGE // images[0].size)]


def drawn(run: Run) -> tuple[int, Path] | None:
    """The step and the file of the samples: those of the last end of the run, which are scored, or the latest grid."""
    if (last := run.folder / "samples/all.png").is_file():
        return json.loads(opened(last).info[ABOUT]).get("step") or run.info.get("steps", 0), last
    return run.grids[-1] if run.grids else None


def before_and_after(run: Run) -> list[Html | str | None]:
    """The first samples of a run that started from a trained model, with the weights there and with its own."""
    if not run.config.get("init") or not run.grids or run.grids[0][0] > 0 or (drawn(run) or run.grids[0])[0] == 0:
        return []
    before = tiles(opened(run.grids[0][1]))
    pair = {"before": before, "after": samples_of(run)[: len(before)]}
    columns = math.ceil(math.sqrt(len(before)))
    page = side_by_side({name: Image.fromarray(arranged(each, columns)) for name, each in pair.items()})
    files = {"before": run.grids[0][1], "after": run.folder / "samples/final.png"}
    return [page, *(picture(f"samples/{file.name}", name) for name, file in files.items() if file.is_file())]


def side_by_side(pictures: Mapping[str, Image.Image]) -> Html | None:
    """Pictures with their names, if there are any."""
    found = [captioned(img(each, name, max(1, min(4, 400 // each.width))), name) for name, each in pictures.items()]
    return Html('<div class="pair">{}</div>').format(Html("").join(found)) if found else None


def figure(folder: Path, file: str, caption: str) -> list[str]:
    """A figure in a file of the folder; nothing if there is none."""
    if not (folder / file).is_file():
        return []
    return [captioned(img(opened(folder / file), caption, look="smooth"), caption), picture(file, caption)]
