"""Images from any folder, nested or not: decoded once, cached by content, with a report of unusable files.

Every regular file that is not hidden is tried, whatever its name. Images are ordered by a hash of (seed, content), so
neither the file system, nor names, nor bad files change which images are used. In that order, the first images are the
training split, followed by the validation split and the test split: no image is in two splits (with `repeats`, equal
files may be), and `limit` changes neither validation nor test. With tiles, this is the order of the photographs, and a
split takes one tile from each of its photographs in turn, the largest first.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from PIL import Image
from torch import Tensor

from diffusion.console import count
from diffusion.data.batches import Split, hash_of
from diffusion.data.image import RESIZE, NotAnImage, Unusable, crop_box, planes, read, resized, size_of
from diffusion.data.labels import classes_of, label_of, labelled
from diffusion.data.module import ImageData
from diffusion.data.store import Made, cache_folder, in_threads, print_on_rank_0, read_json, stored, write_json
from diffusion.data.tiles import cut, smallest
from diffusion.errors import UserError
from diffusion.files import digest
from diffusion.pixels import Resolution, height_width
from diffusion.randomness import seed_for

USUAL_TILES = 70  # per photograph: the 37 bundled ones have 2591
SCORED = 4  # images that scores need
MAX_BYTES = 1 << 31  # per file: twice the largest image in uncompressed 16-bit RGBA; a sparse file would take hours
LINK = "a link to a folder, not followed"
WRITTEN = {"run.json", ".hydra"}  # present in the output folders of commands
# Extensions of image formats that Pillow does not read.
UNREADABLE = {".heic", ".heif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".exr"}

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class File(NamedTuple):
    """A file: its name relative to the root, its path, its size and times, and a hash of its bytes once it is read."""

    name: str
    path: str
    stamp: str
    content: str = ""


class Folder(ImageData):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    `report` also lists every unused file: as "refused" if it is an image or has the extension of one, otherwise as
    "skipped".

    Raises UserError if the folder does not exist, has no usable image, or has too few for `limit`, `val` and `test`;
    with `labels`, also if an image has no class, or a class has no training image.

    Args:
        root: The folder. Links to files are followed, links to folders are not; hidden files are skipped.
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

    missing_class = "add images of it or remove it, lower data.val or data.test, or remove data.limit"

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
        tiles = USUAL_TILES if tiles is True else tiles or None
        if tiles is not None and random_crop:
            raise UserError(
                "data.random_crop=true: data.tiles already cuts random windows; remove one of the two settings"
            )
        self.root = Path(root).expanduser()
        self.tiles = tiles
        self.least = self.resolution if tiles is None else smallest(self.resolution)  # [height, width] in pixels
        self.limit = limit
        self.val = val
        self.test = test
        self.random_crop = random_crop
        self.strict = strict
        self.repeats = repeats
        self.labels = labels

    def load(self) -> dict[str, Split]:
        files = self._hashed(self._walk())
        options = self.shape, self.seed, self.random_crop, self.tiles, self.repeats
        key = digest("folder 6", RESIZE, *options, [(file.name, file.content) for file in files])
        name = cache_folder() / f"folder-{key}"
        images, made = stored(name, self.shape, partial(self._decode, files))
        every = Split(images, made.names)
        photos = every.names if self.tiles is None else every.sources  # the file name of each image
        self.report = sorted([*self.report, *made.left_out], key=lambda entry: entry["path"])
        self._check(used=len(photos), found=len(files))
        if self.labels is not None:
            names = [*(file.name for file in files), *(entry["path"] for entry in self.report)]
            label = label_of(self.labels, self.root, names)
            self.classes = classes_of(self.labels, self.root, photos, label)
            every = labelled(every, photos, label, self.classes)
        return self._with_keys(name.with_suffix(".keys"), every, self._split(photos))

    def _walk(self) -> list[File]:
        """List every file that may be an image, with its size and times, ordered by name."""
        if not self.root.is_dir():
            found = "is a file" if self.root.exists() else "does not exist"
            raise UserError(f"data.root={self.root} {found}; set data.root to a folder of images")
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise UserError(
                f"data.root={self.root}: this folder can't be read; allow it (chmod u+rx), or choose another"
            )
        files, others = below(self.root)
        self.report += [_entry(self._name(path), reason, action) for path, reason, action in others]
        if not files:
            links = sum(reason == LINK for _, reason, _ in others)
            unfollowed = f" but {count(links, 'link')} to folders, which are not followed" if links else ""
            raise UserError(f"data.root={self.root} contains no files{unfollowed}; set data.root to a folder of images")
        return sorted(
            File(self._name(path), path, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
            for path, status in files.items()
        )

    def _hashed(self, files: Sequence[File]) -> list[File]:
        """The files with hashes of their bytes. Only files whose size or times have changed are read again."""
        manifest = cache_folder() / f"folder-{digest(os.fspath(self.root.resolve()))}.files.json"
        known = read_json(manifest)  # name -> stamp, hash
        changed = [file for file in files if known.get(file.name, [""])[0] != file.stamp]
        for file, content in zip(changed, in_threads(_content, changed, "reading files", "file"), strict=True):
            known[file.name] = [file.stamp, content]
        if changed:
            write_json(manifest, {file.name: known[file.name] for file in files})
        return [file._replace(content=known[file.name][1]) for file in files]

    def _name(self, path: str) -> str:
        """The name of a file relative to the root; bytes that are not UTF-8 are escaped."""
        name = path[len(os.path.join(self.root, "")) :].replace(os.sep, "/")
        return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")

    def _decode(self, files: Sequence[File], first: int = 0) -> Iterator[tuple[Sequence[np.ndarray], Made]]:
        """Yield each file's images, or why it is unusable, from file number `first` on, in order of (seed, content).

        Of files with the same bytes, only the first by name is used.
        """
        twins: dict[str, list[File]] = {}
        for file in files:
            twins.setdefault(file.name if self.repeats else file.content, []).append(file)
        order = sorted(
            twins.values(), key=lambda same: (seed_for(self.seed, "order", same[0].content), same[0].content)
        )[first:]
        # Pillow releases the GIL while it decodes.
        results = in_threads(self._images, [same[0] for same in order], "decoding images")
        for (used, *again), result in zip(order, results, strict=True):
            if isinstance(result, Unusable):
                unknown = isinstance(result, NotAnImage)
                yield [], Made(left_out=[
                    _entry(f.name, str(result), "skipped" if unknown and not _named_image(f.path) else "refused")
                    for f in (used, *again)
                ])  # fmt: skip
            else:
                left_out = [_entry(file.name, f"the same bytes as {used.name}", "skipped") for file in again]
                yield [image for _, image in result], Made([used.name + place for place, _ in result], left_out)

    def _images(self, file: File) -> list[tuple[str, np.ndarray]] | Unusable:
        """The cropped image, or the tiles, each with the suffix that its name adds to the file's name."""
        path = Path(file.path)
        try:
            if self.tiles is not None:
                image = read(path, self.least, 8 * smallest(self.resolution), self.channels)
                short = min(size_of(path) or image.size)
                found = list(cut(image, file.content, self.resolution, self.tiles, short))
                return found or Unusable("nearly uniform: no tile of it has contrast")
            position = seed_for(self.seed, "crop", file.content) / 2**63 if self.random_crop else 0.5
            image = read(path, self.least, 2 * max(self.shape[1:]), self.channels)
            return [("", planes(resized(image, self.resolution, crop_box(image.size, position, self.resolution))))]
        except Unusable as reason:
            return reason

    def _check(self, used: int, found: int) -> None:
        """Print what is in the report. Raises UserError if no image is usable, or one is refused under `strict`."""
        refused = [entry for entry in self.report if entry["action"] == "refused"]
        example = ", for example {path!r} ({reason})".format(**(refused or self.report)[0]) if self.report else ""
        if self.report:
            skipped = count(len(self.report) - len(refused), "other file")
            print_on_rank_0(f"data: {count(used, 'image')}, {len(refused)} refused, {skipped} skipped{example}")
        if self.strict and refused:
            raise UserError(
                f"{len(refused)} images in {self.root} can't be used{example}; fix or remove them, or set "
                "data.strict=false (data_report.json in the folder of the run lists all)"
            )
        if not used:
            height, width = height_width(self.least)
            raise UserError(
                f"data.root={self.root}: none of {found} files is a usable image{example}; set "
                f"data.root to a folder of images of at least {width}x{height} pixels, or lower data.resolution"
            )

    def _split(self, photos: list[str]) -> dict[str, Tensor]:
        """The positions of each split's images; `photos` are the file names of all images, already ordered."""
        number: dict[str, int] = {}  # of each photograph
        turn, seen = [], Counter[str]()  # of each image among those of its photograph
        for photo in photos:
            number.setdefault(photo, len(number))
            turn.append(seen[photo])
            seen[photo] += 1
        least = SCORED if self.tiles is None else 1
        val, test = (_count(size, len(number), least) for size in (self.val, self.test))
        left = max(len(number) - val - test, 0)
        index: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for i, photo in enumerate(photos):
            k = number[photo]
            index["train" if k < left else "val" if k < left + val else "test"].append(i)
        train = len(index["train"]) if self.limit is None else self.limit
        if train > len(index["train"]) or left == 0:
            what = "image" if self.tiles is None else "photograph"
            tiles = "" if self.tiles is None else f" ({len(index['train'])} training tiles)"
            raise UserError(
                f"{self.root} has {count(len(number), f'usable {what}')}{tiles}, fewer than {max(train, 1)} for "
                f"training, {val} for validation and {test} for test: lower data.limit, data.val or data.test (0.1 is "
                f"a tenth of them), add {what}s" + ", or cut large ones into tiles (data.tiles=true)" * (not tiles)
            )
        parts = {
            name: torch.tensor(sorted(rows, key=turn.__getitem__), dtype=torch.long) for name, rows in index.items()
        }
        return parts | {"train": parts["train"][:train]}

    def _with_keys(self, file: Path, every: Split, index: dict[str, Tensor]) -> dict[str, Split]:
        """The splits with cached keys: hashing a million images would take longer than the rest of a run's start."""
        known, splits = read_json(file), {name: every.take(rows) for name, rows in index.items()}
        which = {name: hash_of(rows) for name, rows in index.items()}
        if missing := {which[name]: split.key for name, split in splits.items() if which[name] not in known}:
            known |= missing
            write_json(file, known)
        return {name: replace(split, known_key=known[which[name]]) for name, split in splits.items()}


def below(root: Path) -> tuple[dict[str, os.stat_result], list[tuple[str, str, str]]]:
    """The status of each file below `root` that may be used, by its path; and (path, reason, action) of the others.

    Output folders of commands are left out: a model must not be trained on its own samples.
    """
    files: dict[str, os.stat_result] = {}
    others: list[tuple[str, str, str]] = []

    def unread(path: str, error: OSError) -> None:
        others.append((path, f"can't be read: {error.strerror}", "refused"))

    for here, folders, names in os.walk(root, onerror=lambda error: unread(error.filename, error)):
        if here != os.fspath(root) and not WRITTEN.isdisjoint([*folders, *names]):
            others.append((here, "written by a command of diffusion", "skipped"))
            folders.clear()
            continue
        others += [(os.path.join(here, n), "hidden", "skipped") for n in [*folders, *names] if n.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        others += [(path, LINK, "skipped") for n in folders if os.path.islink(path := os.path.join(here, n))]
        for path in (os.path.join(here, name) for name in names if not name.startswith(".")):
            try:
                status = os.stat(path)
            except OSError as error:
                unread(path, error)
                continue
            if not stat.S_ISREG(status.st_mode):
                others.append((path, "not a regular file", "skipped"))
            elif status.st_size > MAX_BYTES:
                reason = f"{status.st_size:,} bytes, more than {MAX_BYTES:,}"
                others.append((path, reason, "refused" if _named_image(path) else "skipped"))
            else:
                files[path] = status
    return files, others


def common_size(root: Path) -> tuple[int, int] | None:
    """(height, width) in pixels of all images in a folder, read from their headers; None if there are no images.

    Raises UserError if their sizes differ.
    """
    first: dict[tuple[int, int], str] = {}
    for path in sorted(map(Path, below(root)[0])):
        if (size := size_of(path)) is not None:
            first.setdefault(size, path.relative_to(root).as_posix())
    if len(first) > 1:
        found = ", ".join(f"{name} is {width}x{height}" for (width, height), name in [*first.items()][:2])
        raise UserError(
            f"{root}: its images have different sizes ({found}); use images of one size, or resize "
            "them, for example with data.resolution=64"
        )
    return next(iter(first))[::-1] if first else None


def _entry(name: str, reason: str, action: str) -> dict[str, str]:
    """An entry of `ImageData.report`."""
    return {"path": name, "reason": reason, "action": action}


def _named_image(path: str) -> bool:
    """Whether a file has the extension of an image format."""
    extension = Path(path).suffix.lower()
    return extension in UNREADABLE or extension in Image.registered_extensions()


def _content(file: File) -> str:
    """A hash of the bytes of a file; empty if it cannot be read, which `read` then reports."""
    try:
        return digest(Path(file.path))
    except OSError:
        return ""


def _count(size: int | float, images: int, least: int) -> int:
    """The number of images: `size` itself, or if it is a fraction, that share of `images`.

    A share is at least one image, and at least `least` unless that is more than a quarter of the images.
    """
    return max(round(size * images), min(least, images // 4), 1) if 0 < size < 1 else int(size)
