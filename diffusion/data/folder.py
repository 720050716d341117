"""Images from any folder, nested or not: decoded once, with a report of unusable files.

Images are ordered by a hash of (seed, content), so neither the file system, nor names, nor bad files change which
images are used. In that order, the first images are the training split, followed by the validation split and the test
split, so `limit` changes neither validation nor test. With tiles, this is the order of the photographs, and a split
takes one tile from each of its photographs in turn, the largest first.
"""

import csv
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from PIL import Image
from torch import Tensor

from diffusion.console import count
from diffusion.data.batches import Split, labelled
from diffusion.data.image import RESIZE, NotAnImage, Unusable, crop_box, read, resized, size_of
from diffusion.data.module import ImageData
from diffusion.data.store import Made, cache_folder, in_threads, print_on_rank_0, stored
from diffusion.data.tiles import cut, smallest
from diffusion.errors import UserError
from diffusion.files import digest
from diffusion.pixels import Resolution
from diffusion.randomness import seed_for

USUAL_TILES = 70  # per photograph: the 37 bundled ones have 2591
SCORED = 4  # images that scores need
MAX_BYTES = 1 << 31  # per file: no image that can be read is larger, and a film would take minutes

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class Folder(ImageData):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    Every regular file that is not hidden is tried. `report` lists those that cannot be used: as "refused" if it is an
    image or has the extension of one, otherwise as "skipped".

    Raises UserError if the folder does not exist, has no usable image, or has too few for `limit`, `val` and `test`;
    with `labels`, also if an image has no class, or a class has no training image.

    Args:
        root: The folder. Links to files are followed, links to folders are not; hidden files and folders are skipped.
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], to which images are cropped. Smaller images
            are refused.
        tiles: Number of tiles to cut from each photograph, in the same way as the bundled ones, or fewer if there is no
            room. true: 70, about as many as the bundled ones have. Meant for a few large photographs. All tiles of a
            photograph are in the same split. Photographs with a side below 128 pixels, or below the resolution, are
            refused. null: one image per file.
        limit: Maximum number of training images; null for all that are not in validation or test.
        val, test: Number of images; below 1, a fraction of the usable images, at least one, and from 16 images on at
            least the 4 that scores need; 0 for none (training needs validation images). With `tiles`, photographs are
            counted, and one is enough.
        random_crop: Crop at a random position along the side that is cut, drawn from (seed, content), instead of at the
            centre.
        strict: Raise an error for an unusable image, instead of leaving it out.
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
        random_crop: bool = False,
        strict: bool = False,
        repeats: bool = False,
        labels: Literal["folders"] | str | Path | None = None,
        **options: Any,
    ):
        super().__init__(resolution, **options)
        if tiles and random_crop:
            raise UserError(
                "data.random_crop=true: data.tiles already cuts random windows; remove one of the two settings"
            )
        self.root = Path(root).expanduser()
        self.tiles = USUAL_TILES if tiles is True else tiles or None
        self.limit, self.val, self.test, self.labels = limit, val, test, labels
        self.random_crop, self.strict, self.repeats = random_crop, strict, repeats

    def load(self) -> dict[str, Split]:
        files = listed(self.root)
        if not files:
            found = "contains no files" if self.root.is_dir() else "is not an existing folder"
            raise UserError(f"data.root={self.root} {found}; set data.root to a folder of images")
        stats = [(name, path.stat()) for name, path in files.items()]
        stamps = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
        options = self.shape, self.seed, self.random_crop, self.tiles, self.repeats
        key = digest("folder 8", RESIZE, *options, os.fspath(self.root.resolve()), stamps)
        name = cache_folder() / f"folder-{key}"
        images, names, self.report = stored(name, self.shape, partial(self._decode, files))
        every = Split(images, names)
        photos = every.names if self.tiles is None else every.sources  # the file name of each image
        self._check(used=len(photos), found=len(files))
        if self.labels is not None:
            every, self.classes = labelled(every, photos, label_of(self.labels, self.root, files, photos))
        return {name: every.take(rows) for name, rows in self._split(photos).items()}

    def _decode(self, files: dict[str, Path]) -> Iterator[Made]:
        """Yield each file's images, or why it is unusable, in order of (seed, content).

        Of files with the same bytes, only the first by name is used.
        """
        contents = in_threads(_content, [*files.values()], "reading files", "file")
        first: dict[tuple[str, str], str] = {}  # content -> name
        for name, content in zip(files, contents, strict=True):
            first.setdefault((content, name if self.repeats or not content else ""), name)
        order = sorted(first, key=lambda key: (seed_for(self.seed, "order", key[0]), key[0]))
        work = [(files[first[key]], key[0]) for key in order]
        results = in_threads(lambda each: self._images(*each), work, "decoding images")  # Pillow releases the GIL
        for key, made in zip(order, results, strict=True):
            if isinstance(made, Unusable):
                yield Made([], [], [_unusable(first[key], made)])
            else:
                yield Made(made.images, [first[key] + place for place in made.names])

    def _images(self, path: Path, content: str) -> Made | Unusable:
        """The cropped image, or the tiles, each with the suffix that its name adds to the file's name."""
        try:
            if self.tiles is not None:
                least = smallest(self.resolution)
                image = read(path, least, 8 * least, self.channels)
                found = list(cut(image, content, self.resolution, self.tiles, min(size_of(path) or image.size)))
                if not found:
                    return Unusable("nearly uniform: no tile of it has contrast")
                return Made([tile for _, tile in found], [place for place, _ in found])
            image = read(path, self.resolution, 2 * max(self.shape[1:]), self.channels)
            position = seed_for(self.seed, "crop", content) / 2**63 if self.random_crop else 0.5
            return Made([resized(image, self.resolution, crop_box(image.size, position, self.resolution))], [""])
        except Unusable as reason:
            return reason

    def _check(self, used: int, found: int) -> None:
        """Print what is in the report. Raises UserError if no image is usable, or one is refused under `strict`."""
        self.report.sort(key=lambda entry: entry["path"])
        refused = [entry for entry in self.report if entry["action"] == "refused"]
        example = "".join(", for example {path!r} ({reason})".format(**each) for each in [*refused, *self.report][:1])
        if self.report:
            skipped = count(len(self.report) - len(refused), "other file")
            print_on_rank_0(f"data: {count(used, 'image')}, {len(refused)} refused, {skipped} skipped{example}")
        if self.strict and refused:
            raise UserError(
                f"{len(refused)} images in {self.root} can't be used{example}; fix or remove them, or set "
                "data.strict=false (data_report.json in the folder of the run lists all)"
            )
        if not used:
            raise UserError(
                f"data.root={self.root}: none of {found} files is a usable image{example}; set data.root to a folder "
                "of images, or lower data.resolution"
            )

    def _split(self, photos: list[str]) -> dict[str, Tensor]:
        """The positions of each split's images; `photos` are the file names of all images, already ordered."""
        number = {photo: i for i, photo in enumerate(dict.fromkeys(photos))}
        least = SCORED if self.tiles is None else 1
        val, test = (_count(size, len(number), least) for size in (self.val, self.test))
        left = max(len(number) - val - test, 0)
        rows: dict[str, list[tuple[int, int]]] = {"train": [], "val": [], "test": []}
        seen = Counter[str]()
        for i, photo in enumerate(photos):
            k = number[photo]
            rows["train" if k < left else "val" if k < left + val else "test"].append((seen[photo], i))
            seen[photo] += 1
        limit = len(rows["train"]) if self.limit is None else self.limit
        if limit > len(rows["train"]) or left == 0:
            what = "image" if self.tiles is None else "photograph"
            tiles = "" if self.tiles is None else f" ({len(rows['train'])} training tiles)"
            raise UserError(
                f"{self.root} has {count(len(number), f'usable {what}')}{tiles}, fewer than {max(limit, 1)} for "
                f"training, {val} for validation and {test} for test: lower data.limit, data.val or data.test (0.1 is "
                f"a tenth of them), add {what}s" + ", or cut large ones into tiles (data.tiles=true)" * (not tiles)
            )
        index = {name: torch.tensor([i for _, i in sorted(each)], dtype=torch.long) for name, each in rows.items()}
        return index | {"train": index["train"][:limit]}


def listed(root: Path) -> dict[str, Path]:
    """The files below `root` that may be used, by name (relative to the root), sorted.

    Output folders of commands are left out: a model must not be trained on its own samples. Raises UserError for a
    folder that cannot be read.
    """
    files: dict[str, Path] = {}

    def unread(error: OSError) -> None:
        if Path(error.filename) != root:
            raise UserError(
                f"data.root={root}: can't read {error.filename!r}: {error.strerror}; allow it, or remove it"
            )

    for here, folders, names in os.walk(root, onerror=unread):
        if Path(here) != root and not {"run.json", ".hydra"}.isdisjoint([*folders, *names]):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(here, name) for name in names if not name.startswith(".")):
            if path.is_file() and path.stat().st_size <= MAX_BYTES:
                name = os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")  # may not be UTF-8
                files[name] = path
    return dict(sorted(files.items()))


def common_size(root: Path) -> tuple[int, int] | None:
    """(height, width) in pixels of all images in a folder, read from their headers; None if there are no images.

    Raises UserError if their sizes differ.
    """
    first: dict[tuple[int, int], str] = {}
    for name, path in listed(root).items():
        if (size := size_of(path)) is not None:
            first.setdefault(size, name)
    if len(first) > 1:
        found = ", ".join(f"{name} is {width}x{height}" for (width, height), name in [*first.items()][:2])
        raise UserError(
            f"{root}: its images have different sizes ({found}); use images of one size, or resize "
            "them, for example with data.resolution=64"
        )
    return next(iter(first))[::-1] if first else None


def label_of(source: str | Path, root: Path, known: Iterable[str], used: Iterable[str]) -> dict[str, str]:
    """The label of each file that has one, by its name relative to `root`.

    Raises UserError for a table that does not fit the files, for a used file without a label, and if all have the same.

    Args:
        source: "folders", or the path of a CSV file with the columns file,label.
        known, used: the names of all files in `root`, and of those that have images.
    """
    if source == "folders":
        labels = {name: PurePosixPath(composed(name)).parts[0] for name in known if "/" in name}
    else:
        labels = _from_table(Path(source).expanduser(), root, known)
    names = {*used}
    if without := sorted(names - labels.keys()):
        where = "move it into the folder of its class" if source == "folders" else f"add its row to {source}"
        raise UserError(
            f"data.labels={source}: {without[0]!r} in data.root={root} has no label ({len(without)} in all); {where}, "
            "or remove the image"
        )
    if len({labels[name] for name in names}) < 2:
        raise UserError(
            f"data.labels={source}: all images in {root} have the same class, so there is nothing to distinguish; set "
            "data.root to the folder that contains the class folders, or set data.labels=null"
        )
    return labels


def _from_table(file: Path, root: Path, known: Iterable[str]) -> dict[str, str]:
    name_of, labels = {composed(name): name for name in known}, dict[str, str]()
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = [(row["file"] or "", composed(row["label"] or "")) for row in csv.DictReader(stream)]
    except (OSError, ValueError, csv.Error, KeyError) as error:
        raise UserError(
            f"data.labels={file}: not a readable table ({type(error).__name__}: {error}); set it to a CSV file with "
            f"the columns file,label: paths relative to {root}, and their classes; or set data.labels=folders"
        ) from error
    for cell, label in rows:
        name = name_of.get(composed(PurePosixPath(cell.strip()).as_posix()))
        if name is None or not label or labels.setdefault(name, label) != label:
            problem = "is not a file in that folder" if name is None else "has two labels" if label else "has no label"
            raise UserError(
                f"{file}: {cell!r} {problem}; expected one row per file, with its path relative to data.root={root} "
                "and its label"
            )
    return labels


def composed(name: str) -> str:
    """A name in Unicode's composed form: macOS stores é as two characters, and the order of classes must not differ."""
    return unicodedata.normalize("NFC", name.strip())


def _unusable(name: str, reason: Unusable) -> dict[str, str]:
    """The entry of an unusable file: "skipped" if neither its content nor its extension is that of an image."""
    extensions = {".heic", ".heif", ".jxl", *Image.registered_extensions()}
    image = not isinstance(reason, NotAnImage) or Path(name).suffix.lower() in extensions
    return {"path": name, "reason": str(reason), "action": "refused" if image else "skipped"}


def _content(path: Path) -> str:
    """A hash of the bytes of a file; empty if it cannot be read, which `read` then reports."""
    try:
        return digest(path)
    except OSError:
        return ""


def _count(size: int | float, images: int, least: int) -> int:
    """The number of images: `size` itself, or if it is a fraction, that share of `images`.

    A share is at least one image, and at least `least` unless that is more than a quarter of the images.
    """
    return max(round(size * images), min(least, images // 4), 1) if 0 < size < 1 else int(size)
