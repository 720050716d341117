"""Pictures embedded in a page as data: URLs, in WebP, or JPEG for large ones."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffusion.console import console
from diffusion.errors import UserError
from diffusion.report.images import DRAWN, MANY, opened, spread, tiles
from diffusion.runs.folder import Run

QUALITY = 85  # artefacts stay invisible even at several times the size
SHEET = 6_000_000  # maximum characters of a contact sheet in a page
WIDEST = 1200  # pixels; maximum width of a figure in a page


def address(picture: Image.Image) -> str:
    """`picture` as a data: URL. JPEG takes a tenth of the time of WebP and 10% more space."""
    large = picture.width * picture.height > MANY
    kind: tuple[str, dict[str, Any]] = ("jpeg", {"subsampling": 0}) if large else ("webp", {"method": 2})
    content = io.BytesIO()
    picture.convert("RGB").save(content, kind[0], quality=QUALITY, **kind[1])
    return f"data:image/{kind[0]};base64," + base64.b64encode(content.getvalue()).decode()


def figure(path: Path) -> dict[str, Any] | None:
    """A figure with its size; None if the file does not exist, or (with a console message) if it is unreadable."""
    if not path.is_file():
        return None
    try:
        picture = opened(path).convert("RGB")
    except UserError as error:
        console.print(f"left out of report.html: {error}", style="yellow", soft_wrap=True)
        return None
    picture.thumbnail((WIDEST, 4 * WIDEST))
    return {"src": address(picture), "width": picture.width, "height": picture.height}


def sheet(rows: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """Rows of equally many tiles, uint8 (H, W, 3), as one picture without gaps, from which the page cuts the tiles."""
    height, width = rows[0][0].shape[:2]
    pixels = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    src = address(Image.fromarray(pixels))
    return {"src": src, "rows": len(rows), "columns": len(rows[0]), "width": width, "height": height}


def strip(grids: Sequence[tuple[int, Path]], images: int, steps: int, side: int | None = None) -> dict[str, Any] | None:
    """The first `images` of each of the grids (step, file) as a `sheet` with a row per step, and the steps.

    If there are more than `steps` grids, the first, the last and evenly spaced ones in between are taken. None if there
    are no grids or their layouts differ. Images with a longer `side` than this are made smaller.
    """
    chosen = [grids[i] for i in spread(len(grids), steps)]
    rows = [[within(image, side) for image in tiles(opened(path))[:images]] for _, path in chosen]
    if len({(len(row), row[0].shape) for row in rows}) != 1:
        return None
    return {**sheet(rows), "steps": [step for step, _ in chosen]}


def within(image: np.ndarray, side: int | None) -> np.ndarray:
    """An image (H, W, 3), made smaller if one of its sides is longer than `side`."""
    if side is None or max(image.shape[:2]) <= side:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    return np.asarray(picture)


def latest(run: Run, images: int, side: int | None = None) -> dict[str, Any] | None:
    """The first `images` samples from the end of the run, or else of the latest grid, as `strip`; None without any."""
    final = run.folder / "samples/all.png"
    return strip([(0, final)] if final.is_file() else run.grids[-1:], images, 1, side)


def contact_sheet(path: Path, most: int = SHEET) -> dict[str, Any] | None:
    """The images of a grid file as a `sheet`, with the numbers of shown and drawn images; None if there is no file.

    Args:
        most: The maximum number of characters; the sheet contains only the first images if all would exceed it.
    """
    if not path.is_file():
        return None
    picture = opened(path)
    found = tiles(picture)
    n = len(found)
    while len((made := square(found[:n]))["src"]) > most and n > 1:
        n = max(1, min(n - 1, int(0.95 * n * most / len(made["src"]))))
    return {**made, "images": n, "drawn": max(n, int(picture.info.get(DRAWN, len(found))))}


def square(images: Sequence[np.ndarray]) -> dict[str, Any]:
    """A roughly square `sheet` of images (H, W, 3); white images fill the last row."""
    height, width = images[0].shape[:2]
    columns = min(len(images), math.ceil(math.sqrt(len(images) * height / width)))
    padded = [*images, *[np.full_like(images[0], 255)] * (-len(images) % columns)]
    return sheet([padded[i : i + columns] for i in range(0, len(padded), columns)])
