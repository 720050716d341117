"""Tiles cut from photographs: those of the bundled landscapes, and `data.tiles` of any other folder.

The windows of the bundled photographs stand in landscapes/windows.csv and are the same at every resolution.
docs/windows.py chose them in the same way as `cut` chooses those of other photographs: from candidates with a side
log-uniform in [128 px, short side] and a uniform position. One is rejected if its IoU with an earlier window is above
1/2, its luminance has a std below 10/255 at 64x64, or its 16x16 miniature differs from that of an earlier window by
less than 8/255 RMS. They are taken in turn from the quarters of the range of log s, the largest first, because there is
less room for large windows.
"""

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image
from torchvision.ops import box_iou

from diffusion.data.image import RESIZE, Box, Unusable, opened, read, resized
from diffusion.data.module import ImageData, Split, labelled
from diffusion.data.store import cache_folder, in_threads, stored
from diffusion.files import digest
from diffusion.nearest import NEAR
from diffusion.pixels import Channels, Resolution, height_width
from diffusion.randomness import generator_for

HERE = Path(__file__).resolve().parent / "landscapes"
SMALLEST = 128  # pixels
MOST_OVERLAP = 0.5
LEAST_CONTRAST = 10
TRIES = 2500  # candidates per photograph; more would only add windows of the smallest sizes


class Landscapes(ImageData):
    """2091 training, 250 validation and 250 test tiles of the photographs in `landscapes/` (see CREDITS.csv).

    Args:
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], cut from the middle of the squares.
        channels: 1 for grey, 3 for RGB.
        labels: Label each tile with the scene of its photograph, one of seven such as mountain, for a network with
            `model.classes`. Not every tile shows this scene.
        limit: Number of training tiles, spread evenly over the photographs; null for all 2091.
    """

    def __init__(
        self,
        resolution: Resolution,
        labels: bool = False,
        channels: Literal[1, 3] = 3,
        limit: Annotated[int, Ge(1), Le(2091)] | None = None,
        **options: Any,
    ):
        super().__init__(resolution, channels, **options)
        self.labels, self.limit = labels, limit

    def load(self) -> dict[str, Split]:
        windows = table("windows.csv")
        key = digest("tiles 3", RESIZE, self.shape, digest(HERE / "windows.csv"))
        images, names, _ = stored(cache_folder() / f"landscapes-{key}", self.shape, partial(self._make, windows))
        every = Split(images, names)
        if self.labels:
            scenes = {row["file"]: row["scene"] for row in table("CREDITS.csv")}
            every, self.classes = labelled(every, [scenes[row["photo"]] for row in windows])
        split = np.array([row["split"] for row in windows])
        rows = {name: torch.from_numpy(np.flatnonzero(split == name)) for name in ("train", "val", "test")}
        if self.limit is not None:
            rows["train"] = rows["train"][torch.linspace(0, len(rows["train"]) - 1, self.limit).round().long()]
        return {name: every.take(index) for name, index in rows.items()}

    def _make(self, windows: list[dict[str, str]]) -> Iterator[tuple[str, np.ndarray]]:
        photos = {file.name: read(file, channels=self.channels) for file in (HERE / "photos").iterdir()}

        def tile(row: dict[str, str]) -> tuple[str, np.ndarray]:
            left, top, side = (int(row[column]) for column in ("left", "top", "side"))
            image = resized(photos[row["photo"]], self.resolution, (left, top, left + side, top + side))
            return row["photo"] + place(left, top, side), image

        return in_threads(tile, windows, "cutting tiles")


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table of the bundled photographs: CREDITS.csv or windows.csv, in the order of the tiles."""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def place(left: int, top: int, side: int) -> str:
    """The ending of the name of a tile, in pixels of its photograph; `PLACE` matches it."""
    return f" {side}px at {left},{top}"


def cut(
    file: Path, content: str, resolution: Resolution, channels: Channels, most: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield up to `most` tiles of any photograph: the ending of its name, and uint8 (C, H, W).

    The photograph is first reduced to a short side of four times the smallest window, which is never upscaled. Raises
    Unusable if it cannot be read, is smaller than this window, or too uniform.

    Args:
        content: a hash of the photograph; seeds the positions.
    """
    least = max(SMALLEST, *height_width(resolution))
    photo = read(file, least, 8 * least, channels)
    factor = max(1.0, min(photo.size) / (4 * least))
    photo = photo.resize([round(side / factor) for side in photo.size], Image.Resampling.LANCZOS)
    unit = min(opened(file).size) / min(photo.size)  # pixels of the file
    found = candidates(content, photo, least)
    if not found:
        raise Unusable("nearly uniform: no tile of it has contrast")
    near = near_duplicates([miniature for _, miniature in found])
    chosen: list[int] = []
    for i, ((left, top, right, bottom), _) in enumerate(found):
        if len(chosen) < most and not near[i, chosen].any():
            chosen.append(i)
            ending = place(round(unit * left), round(unit * top), round(unit * (right - left)))
            yield ending, resized(photo, resolution, (left, top, right, bottom))


def candidates(seed: str, photo: Image.Image, least: int = SMALLEST) -> list[tuple[Box, np.ndarray]]:
    """The candidate windows of one photograph, large and small in turn, with miniatures, uint8 (C, 16, 16).

    Args:
        least: their smallest side, in pixels.
    """
    luminance, short = photo.convert("L"), min(photo.size)
    draws = torch.rand(TRIES, 3, dtype=torch.float64, generator=generator_for("tiles", seed)).numpy()
    sides = np.rint(least * (short / least) ** draws[:, :1]).astype(int)
    corners = np.floor(draws[:, 1:] * (np.array(photo.size) - sides + 1)).astype(int)
    windows = np.hstack([corners, corners + sides])  # left, top, right, bottom
    boxes = torch.from_numpy(windows).double()
    earlier: list[int] = []
    quarters: list[list[tuple[Box, np.ndarray]]] = [[], [], [], []]
    for i, box in enumerate(map(tuple, windows.tolist())):
        if (box_iou(boxes[i : i + 1], boxes[earlier]) > MOST_OVERLAP).any():
            continue
        if resized(luminance, 64, box).std() >= LEAST_CONTRAST:
            earlier.append(i)
            quarters[int(4 * draws[i, 0])].append((box, resized(photo, 16, box)))
    return [found for turn in zip_longest(*reversed(quarters)) for found in turn if found]


def near_duplicates(miniatures: Sequence[np.ndarray]) -> np.ndarray:
    """Which pairs of N miniatures, uint8 (C, 16, 16), differ by less than NEAR RMS: bool (N, N).

    The squared distances of integers are exact in float64, so the result is the same on every machine.
    """
    flat = torch.tensor(np.array(miniatures), dtype=torch.float64).flatten(1)
    return (torch.cdist(flat, flat) < NEAR * flat.shape[1] ** 0.5).numpy()
