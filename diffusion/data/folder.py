"""Images from any folder, nested or not: decoded once, with a report of unusable files.

`Collection` does this for every `Source` of images: a folder here, others in archive.py and hub.py.

Images are ordered by a hash of (seed, content), so neither the file system, nor names, nor bad files change which
images are used. In that order, the first images are the training split, followed by the validation split and the test
split, so `limit` changes neither validation nor test. With tiles, this is the order of the photographs, and a split
takes one tile from each of its photographs in turn, the largest first.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product, zip_longest
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

from diffusion.base.console import console, count
from diffusion.base.files import cache_dir, composed, digest, listed, read_table
from diffusion.base.images import RESIZE, Box, Label, Made, Unusable, in_threads, is_fine, opened, read, resized, stored
from diffusion.base.pixels import MODES, Resolution, height_width
from diffusion.data.module import ImageData, Split, labelled, place
from diffusion.errors import UserError, refusing
from diffusion.kinds.measured import Measured, figures_of
from diffusion.randomness import generator_for, seed_for

USUAL_TILES = 70  # per photograph: the 37 bundled ones have 2591
SCORED = 4  # images that scores need
SMALLEST = 128  # pixels
MOST_OVERLAP = 0.5
LEAST_CONTRAST = 10
FINE = "F"  # the mode that keeps the values of grey images of 16 bits
TRIES = 2500  # candidates per photograph; more would only add windows of the smallest sizes

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class Item(NamedTuple):
    """One image of a source. `read` returns the bytes of its file, or uint8 (H, W[, C])."""

    name: str
    read: Callable[[], bytes | np.ndarray]
    label: Label | None = None

    def open(self) -> Image.Image:
        """The image, of which only the header is decoded yet."""
        content = self.read()
        return opened(content) if isinstance(content, bytes) else Image.fromarray(content)


class Source(NamedTuple):
    """Where images come from."""

    place: object  # PHOTOS, for messages
    key: object  # changes with the images
    items: Callable[[], Iterable[Item]]
    labels: str | Path | bool | None = None  # `Folder.labels`; True: each item has its own
    setting: str = "data.root"  # that names the place


@dataclass(eq=False, repr=False, kw_only=True)
class Collection(ImageData):
    """The images of a source, cropped and resized; or, with `tiles`, many tiles of each photograph.

    Every file is tried, and `report` lists those that cannot be used. Subclasses define `source`.

    Args:
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], to which images are cropped. Smaller images
            are left out.
        tiles: Number of tiles to cut from each photograph, or fewer if there is no room. true: 70, about as many as the
            bundled ones have. Meant for a few large photographs. All tiles of a photograph are in the same split.
            Photographs with a side below 128 pixels, or below the resolution, are left out. null: one image per file.
        limit: Maximum number of training images; null for all that are not in validation or test.
        val, test: Number of images; below 1, a fraction of the usable images, at least the 4 that scores need; 0 for
            none (training needs validation images). With `tiles`, photographs are counted, and one is enough.
        repeats: Use byte-identical files as often as they occur, instead of once.
    """

    tiles: Annotated[int, Ge(1)] | bool | None = None
    limit: Annotated[int, Ge(1)] | None = None
    val: Share = 0.1
    test: Share = 0.1
    repeats: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tiles = USUAL_TILES if self.tiles is True else self.tiles or None
        self.mode = MODES.get(self.channels, "")  # how files are read, see `images.read`

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """(C, *size) of the images in the cache."""
        return self.shape

    @property
    def advice_if_few(self) -> str:
        """How there can be more images."""
        return "" if self.tiles else ", or cut large ones into tiles (data.tiles=true)"

    def photographs(self, every: Split) -> list[str]:
        """For each image what it is a part of: images of the same photograph are in the same split."""
        return every.names if self.tiles is None else every.sources

    def source(self) -> Source:
        """The images. Raises UserError if there are none."""
        raise NotImplementedError

    def load(self) -> dict[str, Split]:
        source = self.source()
        shape = self.stored_shape
        key = digest("images 12", RESIZE, shape, self.seed, self.tiles, self.repeats, source.key)
        cache = cache_dir("images") / f"{type(self).__name__.lower()}-{key}"
        images, names, own, self.report = stored(cache, shape, partial(self._decode, source), self.kind.dtype)
        self.report.sort(key=lambda entry: (entry["reason"], entry["path"]))  # what is not an image comes last
        example = ", for example {path!r} ({reason})".format(**self.report[0]) if self.report else ""
        if not names:
            raise UserError(
                f"{source.place}: none of {count(len(self.report), 'file')} is a usable image{example}; give other "
                "images, or lower data.resolution",
                key=source.setting,
            )
        if self.report:
            console.print(f"data: {count(len(names), 'image')}, {count(len(self.report), 'file')} left out{example}")
        every = Split(images, names)
        photos = self.photographs(every)
        label = labels_of(source, photos, own)
        if label:
            every, self.classes = labelled(every, [label[photo] for photo in photos])
        splits = {name: every.take(rows) for name, rows in self._split(source, photos, label).items()}
        if (n := len(whole := splits["train"])) > (limit := self.limit or n):
            splits["train"] = whole.take(torch.arange(limit))
            self.unused = whole.take(torch.arange(limit, n)) if self.tiles else None
        for name in ("val", "test") if label else ():
            found = {self.classes[i] for i in splits[name].labels.tolist()}  # type: ignore[union-attr]
            if found and (missing := [kind for kind in self.classes if kind not in found]):
                which = f"the class {missing[0]!r} ({len(missing)} of {len(self.classes)} classes)"
                console.print(f"data.labels: {name} has no image of {which}; add images of it, or raise data.{name}")
        return splits

    def _decode(self, source: Source) -> Iterator[Made]:
        """Yield each item's images, or why it is unusable, in order of (seed, content)."""
        items = [*source.items()]
        contents = in_threads(content_of, items, "reading files", "file")
        found, again = self._ordered((content, item.name, item) for content, item in zip(contents, items, strict=True))
        results = in_threads(lambda each: self._images(each[0], each[2]), found, "decoding images")  # without the GIL
        for (_, name, item), made in zip(found, results, strict=True):
            yield from ((name + ending, image, item.label) for ending, image in made)
        yield from again

    def _ordered(self, found: Iterable[tuple[str, str, Any]]) -> tuple[list[tuple[str, str, Any]], list[Made]]:
        """Sort (content, name, …) by (seed, content); of the same content, only the first by name is used."""
        every = sorted(found, key=lambda each: (seed_for(self.seed, "order", each[0]), *each[:2]))
        used, again = list[tuple[str, str, Any]](), list[Made]()
        for _, same in groupby(every, key=itemgetter(0, 1) if self.repeats else itemgetter(0)):
            first, *others = same
            used.append(first)
            again += [(name, f"the same content as {first[1]}", None) for _, name, _ in others]
        return used, again

    def _images(self, content: str, item: Item) -> list[tuple[str, np.ndarray | str]]:
        """The cropped image, or the tiles, each with the ending of its name; or why there is none."""
        try:
            if self.tiles is not None:
                return [*cut(item.open, content, self.resolution, self.mode, self.tiles)]
            image = read(item.open, self.resolution, 2 * max(self.shape[1:]), self.mode)
            return [("", resized(image, self.resolution))]
        except Unusable as reason:
            return [("", str(reason))]

    def _split(self, source: Source, photos: Sequence[str], label: Mapping[str, Label]) -> dict[str, Tensor]:
        """The positions of each split's images; `photos` are the file names of all images, already ordered."""
        every, seen = [*dict.fromkeys(photos)], Counter[str]()
        least, what = (SCORED, "image") if self.tiles is None else (1, "photograph")
        val, test = (
            max(round(size * len(every)), least) if 0 < size < 1 else int(size) for size in (self.val, self.test)
        )
        left = max(len(every) - val - test, 0)
        split = {photo: "train" if k < left else "val" if k < left + val else "test" for k, photo in enumerate(every)}
        if label:
            share_classes(split, label)
        rows: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
        for i, photo in enumerate(photos):
            rows[split[photo]].append((seen[photo], i))
            seen[photo] += 1
        index = {name: torch.tensor([i for _, i in sorted(each)], dtype=torch.long) for name, each in rows.items()}
        if len(index["train"]) < (self.limit or 1):
            more = "cut more tiles (data.tiles)" if self.tiles else "cut large ones into tiles (data.tiles=true)"
            raise UserError(
                f"{source.place} has {count(len(every), f'usable {what}')}, which leaves {len(index['train'])} "
                f"training images after {val} for validation and {test} for test: lower data.limit, data.val or "
                f"data.test (0.1 is a tenth of them), add {what}s, or {more}",
                key=source.setting,
            )
        return index


@dataclass(eq=False, repr=False, kw_only=True)
class Folder(Collection):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    Every file is tried, and `report` lists those that cannot be used. With channels=1, grey files of 16 bits are
    measurements (`Measured`), without rounding to 8 bits, if the first one is such a file. Raises UserError if the
    usable files are too few.

    Args:
        root: The folder. Links to files are followed, links to folders are not; hidden files and folders are skipped.
        labels: Class labels, for a network with `model.classes`. folders: the classes are the folders directly in root.
            FILE.csv: a table with the columns file,label, where file is a path relative to root. A tile has the class
            of its photograph. Photographs change splits so that a class with at least three is in each split with room
            for it. null: no labels.
    """

    root: str | Path
    labels: Literal["folders"] | str | Path | None = None

    def load(self) -> dict[str, Split]:
        first = next(iter(self.source().items()), None) if self.channels == 1 else None
        with contextlib.suppress(Exception):  # not an image
            if first and is_fine(first.open()):
                self.mode, self.kind = FINE, Measured()  # until they are read
        splits = super().load()
        if self.mode == FINE:
            self.kind = Measured(*figures_of(splits["train"].images), ["grey"], [""])
        return splits

    def source(self) -> Source:
        root = Path(self.root).expanduser()
        files = listed(root)
        items = [Item(name, file.read_bytes) for name, file in files.items()]
        key = os.fspath(root.resolve()), stamps(files), self.mode
        return Source(root, key, lambda: items, self.labels)


def stamps(files: Mapping[str, Path]) -> list[tuple[str, int, int, int]]:
    """The names, sizes in bytes, and times of files."""
    stats = [(name, file.stat()) for name, file in files.items()]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def content_of(item: Item) -> str:
    """A hash of the content of an item; of its name if it cannot be read, for which the decoding has the reason."""
    try:
        return digest(bytes(item.read()))
    except Exception:
        return digest(item.name)


def share_classes(split: dict[str, str], label: Mapping[str, Label]) -> None:
    """Exchange photographs between the splits until each class with three photographs is in all that have room for it.

    A class that is missing gets the place of a photograph of the split's most frequent class, which keeps others there.
    `split`, photograph -> train, val or test, is changed in place; `label` is photograph -> class.
    """
    present = {(label[photo], name) for photo, name in split.items()}
    for name, kind in product(("train", "val", "test"), sorted(set(label.values()))):
        here = Counter(label[photo] for photo in split if split[photo] == name) if (kind, name) not in present else None
        if here and (most := here.most_common(1)[0])[1] > 1:
            source, n = Counter(split[photo] for photo in split if label[photo] == kind).most_common(1)[0]
            if n > 1 or name == "train":
                given = next(photo for photo in reversed(split) if (label[photo], split[photo]) == (kind, source))
                taken = next(photo for photo in split if (label[photo], split[photo]) == (most[0], name))
                split[given], split[taken] = name, source


def sizes(source: Source) -> Iterator[tuple[int, int]]:
    """Yield (width, height) in pixels of each image of a source, read from its header."""
    for item in source.items():
        with contextlib.suppress(Exception):  # not an image
            yield item.open().size


def common_size(source: Source) -> tuple[int, int] | None:
    """(height, width) in pixels of all images of a source; None if there are none. Raises UserError for two sizes."""
    every = {*sizes(source)}
    if len(every) > 1:
        found = " and ".join(f"{width}x{height}" for width, height in sorted(every)[:2])
        line = f"{source.place}: images of different sizes, such as {found}; set data.resolution=64"
        raise UserError(line, key=source.setting)
    return every.pop()[::-1] if every else None


def labels_of(source: Source, files: Sequence[str], own: Sequence[Label | None]) -> Mapping[str, Label]:
    """The label of each of `files`, {} for none; `own` are those of the source. Raises UserError if one has none."""
    labels: Mapping[str, Label]
    match source.labels:
        case None | False:
            return {}
        case True:
            labels = {name: label for name, label in zip(files, own, strict=True) if label is not None}
            if len({type(label) for label in labels.values()}) > 1:  # some are numbers
                labels = {name: str(label) for name, label in labels.items()}
            mend = "give it one"
        case "folders":
            labels = {name: name.split("/")[0] for name in files if "/" in name}
            mend = "move it into the folder of its class"
        case _:
            labels, mend = read_labels(Path(source.labels).expanduser()), "add a row for it"
    what = f"the labels of {source.place}" if source.labels is True else f"data.labels={source.labels}"
    if without := sorted({*files} - labels.keys()):
        raise UserError(
            f"{what}: {without[0]!r} in {source.place} has no label ({len(without)} in all); {mend}, or remove "
            "the image"
        )
    if len({labels[name] for name in files}) < 2:
        raise UserError(
            f"{what}: all images of {source.place} have the same class; give images of several classes (data.root: the "
            "folder above those of the classes), or use no labels"
        )
    return labels


def read_labels(table: Path) -> dict[str, str]:
    """The label of each file in a CSV file. Raises UserError if it is not such a table."""
    labels = dict[str, str]()
    wanted = "a CSV file with the columns file,label: for each image its path relative to data.root, and its one class"
    with refusing(f"data.labels={table}", f"; expected {wanted}; or data.labels=folders"):
        for row in read_table(table):
            name, label = (composed(row.get(column) or "").strip() for column in ("file", "label"))
            if not label or labels.setdefault(PurePosixPath(name).as_posix(), label) != label:
                raise ValueError(f"the row {row}")
    return labels


def cut(
    image: Callable[[], Image.Image], content: str, resolution: Resolution, mode: str, most: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield up to `most` tiles of a photograph with the hash `content`: the ending of the name, and uint8 (C, H, W).

    `image` opens the photograph, which is first reduced to a short side of four times the smallest window, and never
    upscaled. Raises Unusable if it cannot be read, is smaller than this window, or too uniform.
    """
    least = max(SMALLEST, *height_width(resolution))
    photo = read(image, least, 8 * least, mode)
    factor = max(1.0, min(photo.size) / (4 * least))
    photo = photo.resize([round(side / factor) for side in photo.size], Image.Resampling.LANCZOS)
    unit = min(image().size) / min(photo.size)  # pixels of the file
    found = candidates(content, photo, least)
    if not found:
        raise Unusable("nearly uniform: no tile of it has contrast")
    for left, top, right, bottom in found[:most]:
        ending = place(round(unit * left), round(unit * top), round(unit * (right - left)))
        yield ending, resized(photo, resolution, (left, top, right, bottom))


def candidates(seed: str, photo: Image.Image, least: int = SMALLEST) -> list[Box]:
    """The windows of one photograph for tiles, with a side log-uniform in [least, short side] and a uniform position.

    A window is left out if its IoU with an earlier one is above 1/2, or its luminance has a std below 10/255 at 64x64.
    They are taken in turn from the quarters of the range of log s, the largest first: these have the least room.
    """
    grey = photo.point(lambda level: level * (1 / 257) + 0) if photo.mode == "F" else photo  # of 16 bits
    luminance, short = grey.convert("L"), min(photo.size)
    draws = torch.rand(TRIES, 3, dtype=torch.float64, generator=generator_for("tiles", seed)).numpy()
    sides = np.rint(least * (short / least) ** draws[:, :1]).astype(int)
    corners = np.floor(draws[:, 1:] * (np.array(photo.size) - sides + 1)).astype(int)
    windows = np.hstack([corners, corners + sides])  # left, top, right, bottom
    boxes = torch.from_numpy(windows).double()
    free, quarters = torch.ones(TRIES, dtype=torch.bool), list[list[Box]]([[], [], [], []])
    for i, box in enumerate(map(tuple, windows.tolist())):
        if free[i] and resized(luminance, 64, box).std() >= LEAST_CONTRAST:
            free &= box_iou(boxes[i : i + 1], boxes)[0] <= MOST_OVERLAP
            quarters[int(4 * draws[i, 0])].append(box)
    return [box for turn in zip_longest(*reversed(quarters)) for box in turn if box]
