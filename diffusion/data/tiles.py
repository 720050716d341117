"""Tiles of several scales cut from photographs, split by photograph; and the bundled landscapes, 37 photographs.

The candidates of a photograph are windows with a side log-uniform in [128 px, short side] and a uniform position, drawn
from the photograph's name. One is rejected if its IoU with an earlier window is above 1/2, its luminance has a std
below 10/255 at 64x64, or its 16x16 miniature differs from that of an earlier window by less than 8/255 RMS. They are
taken in turn from the quarters of the range of log s, the largest first, because there is less room for large windows.
Each split takes one window from each of its photographs in turn. The bundled windows are the same at every resolution.

Tiles of any other folder (`data.folder`) are chosen in the same way, but from a photograph that is first reduced to a
short side of four times the smallest window, with positions drawn from its content.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat, zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image
from torchvision.ops import box_iou

from diffusion.data.batches import Split, labelled
from diffusion.data.image import RESIZE, crop_box, read, resized
from diffusion.data.module import ImageData
from diffusion.data.store import Made, cache_folder, in_threads, stored
from diffusion.files import digest
from diffusion.nearest import NEAR
from diffusion.pixels import MODES, Resolution, height_width
from diffusion.randomness import generator_for

HERE = Path(__file__).resolve().parent / "landscapes"
TILES = {"train": 2091, "val": 250, "test": 250}  # 2091 as in the memoir
SMALLEST = 128
MOST_OVERLAP = 0.5
LEAST_CONTRAST = 10
TRIES = 2500  # candidates per photograph; more would only add windows of the smallest sizes


class Window(NamedTuple):
    """A square window of a photograph, in pixels."""

    photo: str
    left: int
    top: int
    side: int

    @property
    def name(self) -> str:
        """The name of its tile; `batches.TILE` recognises the ending."""
        return f"{self.photo} {self.side}px at {self.left},{self.top}"

    def tile(self, photo: Image.Image, resolution: Resolution) -> np.ndarray:
        """The middle of the window, with the aspect ratio of `resolution`, as uint8 (C, H, W)."""
        left, top, right, bottom = crop_box((self.side, self.side), 0.5, resolution)
        box = self.left + left, self.top + top, self.left + right, self.top + bottom
        return resized(photo, resolution, box)


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
        limit: Annotated[int, Ge(1), Le(TILES["train"])] | None = None,
        **options: Any,
    ):
        super().__init__(resolution, channels, **options)
        self.labels, self.limit = labels, limit

    def load(self) -> dict[str, Split]:
        files = [(path.name, path.stat().st_size) for path in sorted((HERE / "photos").glob("*.jpg"))]
        key = digest("tiles 2", RESIZE, self.shape, files)
        images, names, _ = stored(cache_folder() / f"landscapes-{key}", self.shape, self._make)
        every = Split(images, names)
        if self.labels:
            every, self.classes = labelled(every, every.sources, {row["file"]: row["scene"] for row in credits_table()})
        parts = torch.arange(len(every)).split([*TILES.values()])
        splits = {name: every.take(part) for name, part in zip(TILES, parts, strict=True)}
        if self.limit is not None:
            splits["train"] = splits["train"].take(torch.linspace(0, TILES["train"] - 1, self.limit).round().long())
        return splits

    def _make(self) -> Iterator[Made]:
        photos = {path.name: read(path) for path in sorted((HERE / "photos").glob("*.jpg"))}
        windows = [*chain.from_iterable(choose_windows(photos).values())]
        shown = {name: photo.convert(MODES[self.channels]) for name, photo in photos.items()}
        tiles = in_threads(lambda window: window.tile(shown[window.photo], self.resolution), windows, "cutting tiles")
        for window, tile in zip(windows, tiles, strict=True):
            yield Made([tile], [window.name])


def credits_table() -> list[dict[str, str]]:
    """The rows of CREDITS.csv: the file, category, scene, author and licence of each photograph."""
    with (HERE / "CREDITS.csv").open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def split_photos() -> dict[str, list[str]]:
    """The file names of the photographs in each split."""
    categories = defaultdict(list)
    for row in credits_table():
        categories[row["category"]].append(row["file"])
    large = [sorted(files) for files in categories.values() if len(files) >= 3]
    val, test = sorted(files[0] for files in large), sorted(files[1] for files in large)
    train = sorted({file for files in categories.values() for file in files} - {*val, *test})
    return {"train": train, "val": val, "test": test}


def choose_windows(photos: dict[str, Image.Image]) -> dict[str, list[Window]]:
    """Choose the windows of each split from all photographs, by file name."""
    parts = [*in_threads(lambda photo: candidates_of(*photo), [*photos.items()], "choosing windows", "photograph")]
    candidates, miniatures = zip(*chain.from_iterable(parts), strict=True)
    near = near_duplicates(miniatures)
    chosen = np.zeros(len(candidates), bool)

    def choose(files: list[str], number: int) -> Iterator[Window]:
        queues = [iter([i for i, window in enumerate(candidates) if window.photo == file]) for file in files]
        for queue in chain.from_iterable(repeat(queues, number)):
            i = next((i for i in queue if not near[i, chosen].any()), None)
            if i is not None:
                chosen[i] = True
                yield candidates[i]

    return {split: [*islice(choose(files, TILES[split]), TILES[split])] for split, files in split_photos().items()}


def cut(
    photo: Image.Image, content: str, resolution: Resolution, most: int, short: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield up to `most` tiles of any photograph: the ending of its name, and uint8 (C, H, W).

    Args:
        photo: no side may be shorter than `smallest(resolution)`.
        content: a hash of the photograph; seeds the positions.
        short: the short side of the photograph in its file, in pixels; names are in pixels of the file.
    """
    least = smallest(resolution)
    factor = max(1.0, min(photo.size) / (4 * least))
    small = photo.resize([round(side / factor) for side in photo.size], Image.Resampling.LANCZOS)
    candidates = candidates_of(content, small, least)
    if not candidates:
        return
    near = near_duplicates([miniature for _, miniature in candidates])
    chosen: list[int] = []
    for i, (window, _) in enumerate(candidates):
        if len(chosen) < most and not near[i, chosen].any():
            chosen.append(i)
            left, top, side = (round(short / min(small.size) * value) for value in window[1:])
            yield Window("", left, top, side).name, window.tile(small, resolution)


def smallest(resolution: Resolution) -> int:
    """The side of the smallest window, in pixels; no tile is upscaled."""
    return max(SMALLEST, *height_width(resolution))


def near_duplicates(miniatures: Sequence[np.ndarray]) -> np.ndarray:
    """Which pairs of N miniatures, uint8 (C, 16, 16), differ by less than NEAR RMS: bool (N, N).

    The squared distances of integers are exact in float64, so the result is the same on every machine.
    """
    flat = torch.tensor(np.array(miniatures), dtype=torch.float64).flatten(1)
    return (torch.cdist(flat, flat) < NEAR * flat.shape[1] ** 0.5).numpy()


def candidates_of(name: str, photo: Image.Image, smallest: int = SMALLEST) -> list[tuple[Window, np.ndarray]]:
    """The candidate windows of one photograph, large and small in turn, with miniatures, uint8 (C, 16, 16)."""
    width, height = photo.size
    short = min(width, height)
    luminance = photo.convert("L")
    draws = torch.rand(TRIES, 3, dtype=torch.float64, generator=generator_for("tiles", name)).numpy()
    sides = np.rint(smallest * (short / smallest) ** draws[:, 0]).astype(int)
    corners = np.floor(draws[:, 1:] * (np.array([width, height]) - sides[:, None] + 1)).astype(int)
    windows = np.hstack([corners, corners + sides[:, None]])  # left, top, right, bottom
    boxes = torch.from_numpy(windows).double()
    earlier: list[int] = []
    quarters: list[list[tuple[Window, np.ndarray]]] = [[], [], [], []]
    for i, (left, top, right, bottom) in enumerate(windows.tolist()):
        box = left, top, right, bottom
        if (box_iou(boxes[i : i + 1], boxes[earlier]) > MOST_OVERLAP).any():
            continue
        if resized(luminance, 64, box).std() < LEAST_CONTRAST:
            continue
        earlier.append(i)
        quarters[int(4 * draws[i, 0])].append((Window(name, left, top, right - left), resized(photo, 16, box)))
    return [found for turn in zip_longest(*reversed(quarters)) for found in turn if found]
