"""Pictures in pages: samples during training and at its end, the denoising steps, figures in files."""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from diffusion.base.pixels import ABOUT, arranged, spread, tiles
from diffusion.findings.numbers import number
from diffusion.randomness import proportional
from diffusion.report.page import Block, html, picture
from diffusion.runs.folder import Run

PAGE = 1 << 24  # bytes; the most of the samples in a page
STEPS, IMAGES = 24, 8  # of the samples over training in a page
FIRST, MORE = 24, 240  # samples at the top of a page, and in its details


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL in WebP, whose artefacts stay invisible even at several times the size."""
    picture.thumbnail((16_000, 16_000))  # WebP has no longer sides
    content = io.BytesIO()
    picture.convert("RGB").save(content, "webp", quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def rows_of(rows: np.ndarray, caption: str) -> Block:
    """Rows of images (R, N, H, W, 3), of which the page shows row i at position i of the section's slider."""
    count, n, height, width, _ = rows.shape
    image = address(Image.fromarray(arranged(rows.reshape(-1, height, width, 3), n)))
    looks = {"count": count, "width": n * width, "height": height, "scale": max(1, min(4, 1024 // (n * width)))}
    return Block(html=html("rows", caption=caption, address=image, **looks))


def over_training(run: Run, most: int) -> tuple[list[int], np.ndarray]:
    """At most so many steps of the grids during training, and the first samples at each: (steps, N, H, W, 3)."""
    chosen = [run.grids[i] for i in spread(len(run.grids), most)]
    rows = [tiles(Image.open(path))[:IMAGES] for _, path in chosen]
    return [step for step, _ in chosen], np.stack([row[: min(map(len, rows))] for row in rows])


def training_strip(run: Run) -> list[Block]:
    """The first samples of the grids during training, with a slider over the steps."""
    if not run.grids:
        return []
    steps, rows = over_training(run, STEPS)
    return [
        Block(html=html("slider", label="step", texts=[f"step {step:,}" for step in steps], steps=steps)),
        rows_of(rows, "Samples from the same noise, at the selected step"),
    ]


STEPS_OF = ("x_t: the picture during denoising", "the network's estimate of x0 in the previous step")


def film(path: Path, label: str = "denoising step", captions: Sequence[str] = STEPS_OF) -> list[Block]:
    """A grid with `times`, as rows of images that a slider over the times selects, in as many parts as captions."""
    if not path.is_file():
        return []
    picture = Image.open(path)
    times, cut = json.loads(picture.info[ABOUT])["times"], tiles(picture)
    rows = cut.reshape(len(times), len(captions), -1, *cut.shape[1:])
    slider = html("slider", label=label, texts=[f"t = {number(time)}" for time in times], play=True)
    return [Block(html=slider), *(rows_of(rows[:, i], caption) for i, caption in enumerate(captions))]


def gallery(run: Run, caption: str, first: int = 0, most: int = FIRST) -> Block | None:
    """Samples of the run from the `first` one on, each as a picture; None if there are none."""
    counts = run.info.get("classes", {})  # the samples have their proportions
    names = [[*counts][k] for k in proportional([*counts.values()], first + most)] if counts else [""] * (first + most)
    samples = [*enumerate(samples_of(run))][first : first + most]
    shown = [(address(Image.fromarray(each)), f"sample {i + 1}", each.shape[1], names[i]) for i, each in samples]
    return Block(html=html("gallery", caption=caption, pictures=shown)) if shown else None


def latest(run: Run, images: int, columns: int) -> Image.Image | None:
    """The first samples as one picture; None without samples."""
    found = samples_of(run)[:images]
    return Image.fromarray(arranged(found, columns)) if len(found) else None


def samples_of(run: Run) -> np.ndarray:
    """The samples of the run, as far as a page has room: (N, H, W, 3)."""
    if (found := drawn(run)) is None:
        return np.empty((0, 1, 1, 3), np.uint8)
    images = tiles(Image.open(found[1]))
    return images[: max(1, PAGE // images[0].size)]


def drawn(run: Run) -> tuple[int, Path] | None:
    """The step and the file of the samples: those of the last end of the run, which are scored, or the latest grid."""
    if (last := run.folder / "samples/all.png").is_file():
        return json.loads(Image.open(last).info[ABOUT]).get("step") or run.info.get("steps", 0), last
    return run.grids[-1] if run.grids else None


def before_and_after(run: Run) -> list[Block | None]:
    """The first samples of a run that started from a trained model, with the weights there and with its own."""
    if not run.config.get("init") or not run.grids or run.grids[0][0] > 0 or (drawn(run) or run.grids[0])[0] == 0:
        return []
    before = tiles(Image.open(run.grids[0][1]))
    pair = {"before": before, "after": samples_of(run)[: len(before)]}
    columns = math.ceil(math.sqrt(len(before)))
    page = side_by_side({name: Image.fromarray(arranged(each, columns)) for name, each in pair.items()})
    files = {"before": f"samples/{run.grids[0][1].name}", "after": "samples/final.png"}
    return [page, *(in_files(run.folder, file, name) for name, file in files.items())]


def side_by_side(pictures: Mapping[str, Image.Image]) -> Block | None:
    """Pictures with their names, small ones enlarged; None if there are none."""
    scales = {name: max(1, min(4, 400 // each.width)) for name, each in pictures.items()}
    shown = [(address(each), name, scales[name] * each.width) for name, each in pictures.items()]
    return Block(html=html("pair", pictures=shown)) if shown else None


def figure(folder: Path, file: str, caption: str) -> Block | None:
    """A figure in a file of the folder; None if there is none."""
    if not (folder / file).is_file():
        return None
    shown = Image.open(folder / file)
    return Block(picture(file, caption), html("figure", caption=caption, address=address(shown), width=shown.width))


def in_files(folder: Path, file: str, caption: str) -> Block | None:
    """A picture that a page shows otherwise; None if there is none."""
    return Block(picture(file, caption), Markup()) if (folder / file).is_file() else None
