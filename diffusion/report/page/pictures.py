"""Pictures inside a page: WebP in data: addresses, and JPEG for large ones."""

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
from diffusion.report.images import DRAWN, MANY, tiles

QUALITY = 85  # artefacts below what is seen at several times the size
SHEET = 6_000_000  # characters of a contact sheet in a page, at most
WIDEST = 1200  # pixels of a figure in a page


def address(picture: Image.Image, quality: int = QUALITY) -> str:
    """`picture` as a data: address. JPEG takes a tenth of WebP's time, and a tenth more room."""
    large = picture.width * picture.height > MANY
    kind: tuple[str, dict[str, Any]] = ("jpeg", {"subsampling": 0}) if large else ("webp", {"method": 2})
    content = io.BytesIO()
    picture.convert("RGB").save(content, kind[0], quality=quality, **kind[1])
    return f"data:image/{kind[0]};base64," + base64.b64encode(content.getvalue()).decode()


def opened(path: Path) -> Image.Image:
    """The picture in a file. Raises UserError where it cannot be read."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable picture; delete it, or write it again by sampling") from error


def figure(path: Path) -> dict[str, Any] | None:
    """A drawn figure with its size; None where there is no such file, or, with a line that says so, no readable one."""
    if not path.is_file():
        return None
    try:
        picture = opened(path).convert("RGB")
    except UserError as error:
        console.print(f"left out of report.html: {error}", style="yellow", soft_wrap=True)
        return None
    picture.thumbnail((WIDEST, 4 * WIDEST))
    return {"src": address(picture), "width": picture.width, "height": picture.height}


def sheet(rows: Sequence[Sequence[np.ndarray]], quality: int = QUALITY) -> dict[str, Any]:
    """Tiles (H, W, 3) uint8 in rows of as many, without gaps: one picture, out of which the page cuts the tiles."""
    height, width = rows[0][0].shape[:2]
    pixels = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    src = address(Image.fromarray(pixels), quality)
    return {"src": src, "rows": len(rows), "columns": len(rows[0]), "width": width, "height": height}


def strip(grids: Sequence[tuple[int, Path]], images: int, steps: int) -> dict[str, Any] | None:
    """The first `images` of each of the grids (step, file) as a `sheet` with a row for each step, and the steps.

    Of more than `steps` the first, the last and evenly spread ones between them are taken. None without grids, and
    where they are not pictures of the same layout.
    """
    chosen = [grids[i] for i in np.unique(np.linspace(0, len(grids) - 1, steps).round().astype(int))] if grids else []
    rows = [tiles(opened(path))[:images] for _, path in chosen]
    if len({(len(row), row[0].shape) for row in rows}) != 1:
        return None
    return {**sheet(rows), "steps": [step for step, _ in chosen]}


def contact_sheet(path: Path, most: int = SHEET) -> dict[str, Any] | None:
    """The images of a grid's file as a `sheet`, with how many of how many they are; None where there is no such file.

    Args:
        most: Characters of the sheet, which hold the first images.
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
    """A `sheet` of images (H, W, 3) that is about as high as it is wide; white ones fill the last row."""
    height, width = images[0].shape[:2]
    columns = min(len(images), math.ceil(math.sqrt(len(images) * height / width)))
    padded = [*images, *[np.full_like(images[0], 255)] * (-len(images) % columns)]
    return sheet([padded[i : i + columns] for i in range(0, len(padded), columns)])
