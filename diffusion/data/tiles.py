"""The bundled landscapes: multi-scale square tiles of 37 free photographs, split by photograph.

The windows are a fixed list, the same at every resolution and for every seed, so that results can be compared.
Candidates of a photograph: side s log-uniform in [128 px, short side], place uniform, drawn from the photograph's name.
A candidate is rejected if
    IoU > 1/2 with an earlier window of the photograph                                      (overlap)
    std of its luminance < 10/255, at 64x64                                                 (nearly uniform)
    RMS of the difference to the 16x16 miniature of any earlier window < 8/255              (near-duplicate)
Those that pass are taken from the quarters of the range of log s in turn, the largest first: there is less room for
large windows, and they are the ones with sky above land. Of every category with three photographs or more, the first
by name is for validation and the second for test. Each split deals round by round, one window a photograph, until it
has its number of tiles.
"""

import csv
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from diffusion.console import track
from diffusion.data.batches import Split
from diffusion.data.cache import cached, digest, place
from diffusion.data.image import RESIZE, planes, read, square
from diffusion.data.module import ImageData
from diffusion.randomness import generator_for

HERE = Path(__file__).resolve().parent / "landscapes"
TILES = {"train": 2091, "val": 250, "test": 250}  # 2091 as in the memoir
SMALLEST = 128
MOST_OVERLAP = 0.5
LEAST_CONTRAST = 10
LEAST_DIFFERENCE = 8
TRIES = 2500  # candidates per photograph; more would only crowd the smallest windows in


class Window(NamedTuple):
    """A square of a photograph, in pixels."""

    photo: str
    left: int
    top: int
    side: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.side, self.top + self.side


class Landscapes(ImageData):
    """2091 training, 250 validation and 250 test tiles of the photographs in `landscapes/` (CREDITS.csv names them)."""

    def load(self) -> dict[str, Split]:
        photos = sorted((HERE / "photos").glob("*.jpg"))
        key = digest("tiles 1", RESIZE, self.resolution, [(p.name, p.stat().st_size) for p in photos])
        made = cached(place() / f"landscapes-{key}.pt", self._make)
        return {name: Split(made[name]["images"], made[name]["names"]) for name in TILES}

    def _make(self) -> dict[str, Any]:
        photos = {path.name: read(path) for path in sorted((HERE / "photos").glob("*.jpg"))}
        windows = choose_windows(photos)
        chosen = [window for split in windows.values() for window in split]

        def cut(window: Window) -> np.ndarray:
            return planes(square(photos[window.photo], self.resolution, window.box))

        with ThreadPoolExecutor() as pool:  # Pillow resizes outside of the interpreter's lock
            tiles = track(pool.map(cut, chosen), "cutting tiles", len(chosen))
            images = dict(zip(chosen, tiles, strict=True))
        return {
            name: {
                "images": torch.from_numpy(np.stack([images[window] for window in split])),
                "names": [f"{w.photo} {w.side}px at {w.left},{w.top}" for w in split],
            }
            for name, split in windows.items()
        }


def split_photos() -> dict[str, list[str]]:
    """The photographs of each split, by file name."""
    categories = defaultdict(list)
    with (HERE / "CREDITS.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            categories[row["category"]].append(row["file"])
    splits: dict[str, list[str]] = {name: [] for name in TILES}
    for files in map(sorted, categories.values()):
        held = 2 if len(files) >= 3 else 0
        splits["val"] += files[:held][:1]
        splits["test"] += files[:held][1:]
        splits["train"] += files[held:]
    return {name: sorted(files) for name, files in splits.items()}


def choose_windows(photos: dict[str, Image.Image]) -> dict[str, list[Window]]:
    """The windows of each split; `photos` holds every photograph by file name."""
    with ThreadPoolExecutor() as pool:
        found = list(
            track(pool.map(_candidates, photos, photos.values()), "choosing windows", len(photos), "photograph")
        )
    candidates = [window for windows in found for window, _ in windows]
    near = near_duplicates(np.stack([miniature for windows in found for _, miniature in windows]))
    kept = np.zeros(len(candidates), bool)

    def deal(files: list[str], number: int) -> list[Window]:
        queues = [iter([i for i, window in enumerate(candidates) if window.photo == file]) for file in files]
        dealt: list[Window] = []
        for queue in chain.from_iterable(repeat(queues, number)):
            i = next((i for i in queue if not near[i, kept].any()), None)
            if i is not None:
                kept[i] = True
                dealt.append(candidates[i])
            if len(dealt) == number:
                return dealt
        return dealt

    return {split: deal(files, TILES[split]) for split, files in split_photos().items()}


def near_duplicates(miniatures: np.ndarray) -> np.ndarray:
    """Which pairs of miniatures, uint8 (N, ...), differ by less than LEAST_DIFFERENCE RMS: bool (N, N).

    |a - b|^2 = |a|^2 + |b|^2 - 2ab. Centred, each of the three is an integer below 2^24: exact in float32 in whatever
    order a machine sums it, so the answer is the same everywhere.
    """
    flat = miniatures.reshape(len(miniatures), -1).astype(np.float32) - 128
    product = (flat @ flat.T).astype(np.float64)
    norm = product.diagonal()
    return norm[:, None] + norm - 2 * product < LEAST_DIFFERENCE**2 * flat.shape[1]


def _candidates(name: str, photo: Image.Image) -> list[tuple[Window, np.ndarray]]:
    """The windows of one photograph, large and small in turn, with their miniatures, uint8 (16, 16, 3)."""
    width, height = photo.size
    short = min(width, height)
    luminance = photo.convert("L")
    draws = torch.rand(TRIES, 3, dtype=torch.float64, generator=generator_for("tiles", name)).numpy()
    sides = np.rint(SMALLEST * (short / SMALLEST) ** draws[:, 0]).astype(int)
    corners = np.floor(draws[:, 1:] * (np.array([width, height]) - sides[:, None] + 1)).astype(int)
    kept = np.empty((0, 3), int)  # left, top, side
    quarters: list[list[tuple[Window, np.ndarray]]] = [[], [], [], []]
    for (left, top), side, quarter in zip(corners.tolist(), sides.tolist(), 4 * draws[:, 0], strict=True):
        window = Window(name, left, top, side)
        if overlap(np.array([left, top, side]), kept).max(initial=0) > MOST_OVERLAP:
            continue
        if square(luminance, 64, window.box).std() < LEAST_CONTRAST:
            continue
        kept = np.vstack([kept, (left, top, side)])
        quarters[int(quarter)].append((window, square(photo, 16, window.box)))
    turns = zip_longest(*reversed(quarters))
    return [found for turn in turns for found in turn if found]


def overlap(window: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a square (left, top, side) with squares (N, 3): (N,)."""
    least = np.maximum(window[:2], others[:, :2])
    most = np.minimum(window[:2] + window[2], others[:, :2] + others[:, 2:])
    common = np.clip(most - least, 0, None).prod(1)
    return common / (window[2] ** 2 + others[:, 2] ** 2 - common)
