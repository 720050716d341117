"""Images from any folder, nested or not: decoded once, with a report of unusable files.

Images are ordered by a hash of (seed, content), so neither the file system, nor names, nor bad files change which
images are used. In that order, the first images are the training split, followed by the validation split and the test
split, so `limit` changes neither validation nor test. With tiles, this is the order of the photographs, and a split
takes one tile from each of its photographs in turn, the largest first.
"""

import contextlib
import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor

from diffusion.console import console, count
from diffusion.data.image import RESIZE, Unusable, opened, read, resized
from diffusion.data.module import ImageData, Split, labelled
from diffusion.data.store import cache_folder, in_threads, stored
from diffusion.data.tiles import cut
from diffusion.errors import UserError
from diffusion.files import digest
from diffusion.pixels import Resolution
from diffusion.randomness import seed_for

USUAL_TILES = 70  # per photograph: the 37 bundled ones have 2591
SCORED = 4  # images that scores need

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class Folder(ImageData):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    Every regular file that is not hidden is tried. `report` lists those that cannot be used.

    Raises UserError if the folder does not exist, has no usable image, or has too few for `limit`, `val` and `test`;
    with `labels`, also if an image has no class, or a class has no training image.

    Args:
        root: The folder. Links to files are followed, links to folders are not; hidden files and folders are skipped.
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], to which images are cropped. Smaller images
            are left out.
        tiles: Number of tiles to cut from each photograph, in the same way as the bundled ones, or fewer if there is no
            room. true: 70, about as many as the bundled ones have. Meant for a few large photographs. All tiles of a
            photograph are in the same split. Photographs with a side below 128 pixels, or below the resolution, are
            left out. null: one image per file.
        limit: Maximum number of training images; null for all that are not in validation or test.
        val, test: Number of images; below 1, a fraction of the usable images, at least one, and from 16 images on at
            least the 4 that scores need; 0 for none (training needs validation images). With `tiles`, photographs are
            counted, and one is enough.
        repeats: Use byte-identical files as often as they occur, instead of once.
        labels: Class labels, for a network with `model.classes`. folders: the classes are the folders directly in root.
            FILE.csv: a table with the columns file,label, where file is a path relative to root. A tile has the class
            of its photograph. null: no labels.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: Resolution,
        tiles: Annotated[int, Ge(1)] | bool | None = None,
        limit: Annotated[int, Ge(1)] | None = None,
        val: Share = 0.1,
        test: Share = 0.1,
        repeats: bool = False,
        labels: Literal["folders"] | str | Path | None = None,
        **options: Any,
    ):
        super().__init__(resolution, **options)
        self.root = Path(root).expanduser()
        self.tiles = USUAL_TILES if tiles is True else tiles or None
        self.limit, self.val, self.test, self.repeats, self.labels = limit, val, test, repeats, labels

    def load(self) -> dict[str, Split]:
        files = listed(self.root)
        stats = [(name, file.stat()) for name, file in files.items()]
        stamps = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
        options = self.shape, self.seed, self.tiles, self.repeats
        key = digest("folder 9", RESIZE, *options, os.fspath(self.root.resolve()), stamps)
        images, names, self.report = stored(cache_folder() / f"folder-{key}", self.shape, partial(self._decode, files))
        self.report.sort(key=lambda entry: entry["path"])
        example = ", for example {path!r} ({reason})".format(**self.report[0]) if self.report else ""
        if not names:
            found = (
                f"no usable image among {count(len(files), 'file')}{example}" if files else "no such folder, or empty"
            )
            raise UserError(f"data.root={self.root}: {found}; choose a folder of images, or lower data.resolution")
        if self.report:
            console.print(f"data: {count(len(names), 'image')}, {count(len(self.report), 'file')} left out{example}")
        every = Split(images, names)
        photos = names if self.tiles is None else every.sources
        if self.labels is not None:
            label = labels_of(self.labels, self.root, photos)
            every, self.classes = labelled(every, [label[photo] for photo in photos])
        return {name: every.take(rows) for name, rows in self._split(photos).items()}

    def _decode(self, files: dict[str, Path]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Yield each file's images, or why it is unusable, in order of (seed, content).

        Of files with the same bytes, only the first by name is used.
        """
        contents = in_threads(digest, [*files.values()], "reading files", "file")
        found = [*zip(contents, files, strict=True)]
        if not self.repeats:
            found = [*{content: (content, name) for content, name in reversed(found)}.values()]
        found.sort(key=lambda each: (seed_for(self.seed, "order", each[0]), *each))
        work = [(files[name], content) for content, name in found]
        results = in_threads(lambda each: self._images(*each), work, "decoding images")  # Pillow releases the GIL
        for (_, name), made in zip(found, results, strict=True):
            yield from ((name + place, image) for place, image in made)

    def _images(self, file: Path, content: str) -> list[tuple[str, np.ndarray | str]]:
        """The cropped image, or the tiles, each with the ending of its name; or why there is none."""
        try:
            if self.tiles is not None:
                return [*cut(file, content, self.resolution, self.channels, self.tiles)]
            image = read(file, self.resolution, 2 * max(self.shape[1:]), self.channels)
            return [("", resized(image, self.resolution))]
        except Unusable as reason:
            return [("", str(reason))]

    def _split(self, photos: Sequence[str]) -> dict[str, Tensor]:
        """The positions of each split's images; `photos` are the file names of all images, already ordered."""
        every, seen = [*dict.fromkeys(photos)], Counter[str]()
        least, what = (SCORED, "image") if self.tiles is None else (1, "photograph")
        val, test = (number_of(size, len(every), least) for size in (self.val, self.test))
        left = max(len(every) - val - test, 0)
        split = {photo: "train" if k < left else "val" if k < left + val else "test" for k, photo in enumerate(every)}
        rows: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
        for i, photo in enumerate(photos):
            rows[split[photo]].append((seen[photo], i))
            seen[photo] += 1
        index = {name: torch.tensor([i for _, i in sorted(each)], dtype=torch.long) for name, each in rows.items()}
        if len(index["train"]) < (self.limit or 1):
            raise UserError(
                f"{self.root} has {count(len(every), f'usable {what}')}, which leaves {len(index['train'])} training "
                f"images after {val} for validation and {test} for test: lower data.limit, data.val or data.test (0.1 "
                f"is a tenth of them), add {what}s, or cut large ones into (more) tiles (data.tiles=true)"
            )
        return index | {"train": index["train"][: self.limit]}


def listed(root: Path) -> dict[str, Path]:
    """The files below `root` that may be used, by name (relative to the root), sorted.

    Output folders of commands are left out: a model must not be trained on its own samples.
    """
    files: dict[str, Path] = {}
    for here, folders, names in os.walk(root):
        if Path(here) != root and not {"run.json", ".hydra"}.isdisjoint([*folders, *names]):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(here, name) for name in names if not name.startswith(".")):
            if file.is_file():
                name = os.fsencode(os.path.relpath(file, root)).decode("utf-8", "backslashreplace")  # may not be UTF-8
                files[composed(name)] = file
    return dict(sorted(files.items()))


def composed(name: str) -> str:
    """A name in Unicode's composed form: macOS stores é as two characters, and the order of classes must not differ."""
    return unicodedata.normalize("NFC", name)


def common_size(root: Path) -> tuple[int, int] | None:
    """(height, width) in pixels of all images in a folder, read from their headers; None if there are no images.

    Raises UserError if their sizes differ.
    """
    sizes: dict[tuple[int, int], str] = {}  # the first file of each
    for name, file in listed(root).items():
        with contextlib.suppress(Exception):  # not an image
            sizes.setdefault(opened(file).size, name)
    if len(sizes) > 1:
        found = ", ".join(f"{name} is {width}x{height}" for (width, height), name in [*sizes.items()][:2])
        raise UserError(f"{root}: images of different sizes ({found}); resize them, as with data.resolution=64")
    return next(iter(sizes))[::-1] if sizes else None


def labels_of(source: str | Path, root: Path, files: Sequence[str]) -> dict[str, str]:
    """The label of each file. Raises UserError for one without a label, and if all have the same.

    Args:
        source: "folders", or the path of a CSV file with the columns file,label.
        files: names relative to `root`.
    """
    table = Path(source).expanduser()
    labels = {name: name.split("/")[0] for name in files if "/" in name} if source == "folders" else read_labels(table)
    if without := sorted({*files} - labels.keys()):
        where = "move it into the folder of its class" if source == "folders" else "add a row for it"
        raise UserError(
            f"data.labels={source}: {without[0]!r} in data.root={root} has no label ({len(without)} in all); {where}, "
            "or remove the image"
        )
    if len({labels[name] for name in files}) < 2:
        raise UserError(
            f"data.labels={source}: all images in {root} have the same class; set data.root to the folder above the "
            "folders of the classes, or data.labels=null"
        )
    return labels


def read_labels(table: Path) -> dict[str, str]:
    """The label of each file in a CSV file. Raises UserError if it is not such a table."""
    row, labels = dict[str, str](), dict[str, str]()
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                name, label = (composed(row[column].strip()) for column in ("file", "label"))
                if labels.setdefault(PurePosixPath(name).as_posix(), label) != label or not label:
                    raise ValueError("not one label")
    except (OSError, ValueError, LookupError, AttributeError, csv.Error) as error:
        raise UserError(
            f"data.labels={table}: {type(error).__name__}: {error}, at the row {row}; expected a CSV file with the "
            "columns file,label: for each image its path relative to data.root, and its class; or data.labels=folders"
        ) from error
    return labels


def number_of(size: int | float, images: int, least: int) -> int:
    """The number of images: `size` itself, or if it is a fraction, that share of `images`.

    A share is at least one image, and at least `least` unless that is more than a quarter of the images.
    """
    return max(round(size * images), min(least, images // 4), 1) if 0 < size < 1 else int(size)
