"""The data sets with images of their own: the bundled landscapes, and CIFAR-10."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le, Lt
from torchvision.datasets import CIFAR10

from diffusion.base.files import cache_dir, digest, read_table
from diffusion.base.images import RESIZE, Made, alone, in_threads, read, resized, stored
from diffusion.base.pixels import MODES
from diffusion.data.module import ImageData, Split, labelled, place
from diffusion.errors import UserError
from diffusion.randomness import generator_for

HERE = Path(__file__).resolve().parent / "landscapes"


@dataclass(eq=False, repr=False)
class Landscapes(ImageData):
    """2091 training, 250 validation and 250 test tiles of the photographs in `landscapes/` (see CREDITS.csv).

    Their windows stand in windows.csv, in this order, and are the same at every resolution. docs/windows.py chose them
    among those of `folder.candidates`.

    Args:
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], cut from the middle of the squares.
        channels: 1 for grey, 3 for RGB.
        labels: Label each tile with the scene of its photograph, one of seven such as mountain, for a network with
            `model.classes`. Not every tile shows this scene.
        limit: Number of training tiles, spread evenly over the photographs; null for all 2091.
    """

    origin = "The 37 photographs of diffusion-experiments, by their authors, each with a licence of its own."
    licences = (HERE / "LICENSE", HERE / "CREDITS.csv")

    channels: Literal[1, 3] = 3
    labels: bool = False
    limit: Annotated[int, Ge(1), Le(2091)] | None = None

    def load(self) -> dict[str, Split]:
        windows = read_table(HERE / "windows.csv")  # in the order of the tiles
        key = digest("tiles 4", RESIZE, self.shape, digest(HERE / "windows.csv"))
        images, names, *_ = stored(cache_dir("images") / f"landscapes-{key}", self.shape, partial(self._make, windows))
        every = Split(images, names)
        if self.labels:
            scenes = {row["file"]: row["scene"] for row in read_table(HERE / "CREDITS.csv")}
            every, self.classes = labelled(every, [scenes[row["photo"]] for row in windows])
        split = np.array([row["split"] for row in windows])
        rows = {name: torch.from_numpy(np.flatnonzero(split == name)) for name in ("train", "val", "test")}
        if (n := len(whole := rows["train"])) > (limit := self.limit or n):
            used = torch.zeros(n, dtype=torch.bool)
            used[torch.linspace(0, n - 1, limit).round().long()] = True
            rows["train"], self.unused = whole[used], every.take(whole[~used])
        return {name: every.take(index) for name, index in rows.items()}

    def _make(self, windows: list[dict[str, str]]) -> Iterator[Made]:
        photos = {file.name: read(file, mode=MODES[self.channels]) for file in (HERE / "photos").iterdir()}

        def tile(row: dict[str, str]) -> Made:
            left, top, side = (int(row[column]) for column in ("left", "top", "side"))
            image = resized(photos[row["photo"]], self.resolution, (left, top, left + side, top + side))
            return row["photo"] + place(left, top, side), image, None

        return in_threads(tile, windows, "cutting tiles")


@dataclass(eq=False, repr=False)
class Cifar10(ImageData):
    """CIFAR-10 with the official test split; the seed divides the official training split into train and val.

    Args:
        root: Folder that contains cifar-10-batches-py or its archive, which is downloaded if it is missing (170 MB);
            null for the project's cache.
        resolution: Side of the images, always 32 pixels.
        channels: Always 3 (RGB).
        val: Number of validation images, taken from the 50,000 training images.
        labels: Label each image with its class, one of ten such as airplane, for a network with `model.classes`.
    """

    origin = "[CIFAR-10](https://www.cs.toronto.edu/~kriz/cifar.html) (Krizhevsky 2009), without a stated licence."

    resolution: Literal[32] = 32
    channels: Literal[3] = 3
    root: str | Path | None = None
    val: Annotated[int, Ge(0), Lt(50_000)] = 5000
    labels: bool = False

    def load(self) -> dict[str, Split]:
        official = self._official(train=True)
        order = torch.randperm(len(official), generator=generator_for(self.seed, "split"))
        val, train = order[: self.val].sort().values, order[self.val :].sort().values
        return {"train": official.take(train), "val": official.take(val), "test": self._official(train=False)}

    def _official(self, train: bool) -> Split:
        root = Path(self.root).expanduser() if self.root else cache_dir("cifar10")
        try:
            with alone(cache_dir("images") / "cifar10.lock"):
                data = CIFAR10(root, train=train, download=True)
        except (RuntimeError, OSError) as error:  # missing or damaged files, no network, or no space on the disk
            raise UserError(
                f"CIFAR-10 is not in {root} and can't be downloaded ({' '.join(str(error).split())}): put "
                f"{CIFAR10.filename} there, or set data.root to its folder"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        names = [f"{'train' if train else 'test'} {i}" for i in range(len(images))]
        self.classes = list(data.classes) if self.labels else []
        return Split(images, names, torch.tensor(data.targets) if self.labels else None)
