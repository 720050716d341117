"""Choose the windows of the bundled photographs: rewrites diffusion/data/landscapes/windows.csv in half a minute.

python docs/windows.py

Validation and test each get one photograph of every category with at least three. Each split takes one window from each
of its photographs in turn, except for those whose 16x16 miniature differs from that of an earlier window, of any
photograph, by less than 8/255 RMS.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, islice, repeat

import numpy as np
import torch

from diffusion.base.files import read_table
from diffusion.base.images import in_threads, read, resized
from diffusion.base.nearest import NEAR
from diffusion.data.folder import candidates
from diffusion.data.sets import HERE

SIZES = {"train": 2091, "val": 250, "test": 250}  # 2091 as in the memoir


def split_photos() -> dict[str, list[str]]:
    """The file names of the photographs in each split."""
    categories = defaultdict(list)
    for row in read_table(HERE / "CREDITS.csv"):
        categories[row["category"]].append(row["file"])
    large = [sorted(files) for files in categories.values() if len(files) >= 3]
    val, test = sorted(files[0] for files in large), sorted(files[1] for files in large)
    train = sorted({file for files in categories.values() for file in files} - {*val, *test})
    return {"train": train, "val": val, "test": test}


def choose() -> Iterator[tuple[str, str, int, int, int]]:
    """Yield the rows of the table."""
    photos = {path.name: read(path) for path in sorted((HERE / "photos").glob("*.jpg"))}
    found = [*in_threads(lambda each: candidates(*each), [*photos.items()], "choosing windows", "photograph")]
    names, boxes = zip(*[(name, box) for name, part in zip(photos, found, strict=True) for box in part], strict=True)
    miniatures = np.array([resized(photos[name], 16, box) for name, box in zip(names, boxes, strict=True)])
    flat = torch.tensor(miniatures, dtype=torch.float64).flatten(1)  # squared distances of integers are exact
    near = (torch.cdist(flat, flat) < NEAR * flat.shape[1] ** 0.5).numpy()
    chosen = np.zeros(len(boxes), bool)

    def windows(files: list[str], number: int) -> Iterator[int]:
        queues = [iter([i for i, name in enumerate(names) if name == file]) for file in files]
        for queue in chain.from_iterable(repeat(queues, number)):
            i = next((i for i in queue if not near[i, chosen].any()), None)
            if i is not None:
                chosen[i] = True
                yield i

    for split, files in split_photos().items():
        for i in islice(windows(files, SIZES[split]), SIZES[split]):
            left, top, right, _ = boxes[i]
            yield split, names[i], left, top, right - left


if __name__ == "__main__":
    rows = [*choose()]
    with (HERE / "windows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("split", "photo", "left", "top", "side"), *rows])
