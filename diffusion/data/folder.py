"""Any folder of images, nested or not: decoded once, cached by content, with a report of the files that can't be used.

Every regular file that is not hidden is tried, whatever its name. Images are ordered by a hash of (seed, content), so
neither the file system, nor names, nor bad files change which images are used. In that order the last images are the
test split, those before them the validation split, and the first ones the training split: no image is in two splits,
and `limit` changes neither validation nor test. Where images are cut into tiles, this is the order of the photographs;
the tiles of a split are one of each photograph in turn, the largest first.
"""

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from PIL import Image

from diffusion.console import count
from diffusion.data.batches import Split
from diffusion.data.cache import cache_folder, cached, digest, print_once, read_json, write
from diffusion.data.image import RESIZE, NotAnImage, Unusable, check_bytes, crop_box, decoded, planes, resized, size_of
from diffusion.data.labels import classes_of, contradicted, label_of, labelled
from diffusion.data.module import ImageData
from diffusion.data.threads import in_threads
from diffusion.data.tiles import cut, smallest
from diffusion.errors import UserError
from diffusion.pixels import Resolution, height_width
from diffusion.randomness import seed_for

WRITTEN = {"run.json", ".hydra"}  # in the folders that commands write

USUAL_TILES = 70  # of a photograph: of the bundled ones 37 give 2591

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class Found(NamedTuple):
    """A file: its name relative to the root, its path, and the hash of its bytes."""

    name: str
    path: Path
    content: str


class Folder(ImageData):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    `report` also lists every file that is not used: as "refused" if it is an image or has the name of one, else as
    "skipped". It is also written to the cache.

    Raises UserError where there is no such folder, no usable image in it, or too few for `limit`, `val` and `test`; and
    with `labels`, where an image has no class, or a class no training image.

    Args:
        root: The folder. Links to files are followed, links to folders are not; hidden files are skipped.
        resolution: Side of the square images, in pixels; or [HEIGHT,WIDTH], to which images are cropped. Smaller images
            are refused.
        tiles: Cut so many tiles, or fewer where there is no room, out of each photograph, as the bundled ones are cut;
            true: 70, which is about their number. Use it for a few large photographs. All tiles of a photograph are in
            the same split. Photographs with a side below 128 pixels, or below the resolution, are refused. null: one
            image each.
        limit: The most training images; null for all that validation and test leave.
        val, test: A number of images, or as a number below 1 a fraction of the usable images, at least one; 0 for none.
            With `tiles`, photographs are counted.
        random_crop: Place the crop anywhere along the side that is cut, by (seed, content), instead of at the centre.
        strict: Stop at an image that can't be used, instead of leaving it out.
        repeats: Use byte-identical files as often as they occur, instead of once.
        labels: Give each image a class, for a network with `model.classes`: folders takes the folders directly in root
            as the classes; FILE.csv reads a table with the columns file,label, of which file is a path relative to
            root. A tile has the class of its photograph. null: no classes.
    """

    missing_class = "add images of it or take it out, lower data.val or data.test, or leave out data.limit"

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
                "data.random_crop=true: with data.tiles, all windows are random already; leave one of them out"
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
        known = [file.name for file in files] + [entry["path"] for entry in self.report]
        label = {} if self.labels is None else label_of(self.labels, self.root, known)
        seed = self.seed if self.random_crop else None
        names = [(file.name, file.content) for file in files]
        options = ["repeats"] * self.repeats + [f"tiles 1 {self.tiles}"] * (self.tiles is not None)
        options += [f"channels {self.channels}"] * (self.channels != 3)
        key = digest("folder 1", RESIZE, self.resolution, seed, names, *options)
        made = cached(cache_folder() / f"folder-{key}.pt", lambda: self._decode(files))
        photos = self._photos(images := Split(made["images"], made["names"]))
        contents = {file.name: file.content for file in files}
        self.report += contradicted(made["left_out"], contents, photos, label)
        self._check_report(cache_folder() / f"folder-{key}.report.json", used=len(made["names"]), found=len(files))
        if self.labels is not None:
            self.classes = classes_of(self.labels, self.root, photos, label)
            images = labelled(images, photos, label, self.classes)
        return self._split(images, made["contents"])

    def _photos(self, images: Split) -> list[str]:
        """The name of each image's file."""
        return images.names if self.tiles is None else images.sources

    def _walk(self) -> list[tuple[str, Path, os.stat_result]]:
        """Name, path and status of every file that may be an image, ordered by name."""
        if not self.root.exists():
            raise UserError(f"data.root={self.root}: no such folder; set data.root to a folder of images")
        if not self.root.is_dir():
            raise UserError(
                f"data.root={self.root} is a file, expected a folder of images; set data.root to its folder"
            )

        def note(path: Path, reason: str, action: str = "skipped") -> None:
            self.report.append(_entry(self._name(path), reason, action))

        found = []
        for path in _below(self.root, note):
            try:
                status = path.stat()
            except OSError as error:
                note(path, f"can't be read: {error.strerror}", "refused")
                continue
            if not stat.S_ISREG(status.st_mode):
                note(path, "a link to a folder, not followed" if stat.S_ISDIR(status.st_mode) else "not a regular file")
                continue
            try:
                check_bytes(status.st_size)
            except Unusable as reason:
                note(path, str(reason), "refused" if _named_image(path) else "skipped")
                continue
            found.append((self._name(path), path, status))
        if not found:
            raise UserError(f"data.root={self.root} holds no files; set data.root to a folder of images")
        return sorted(found)

    def _name(self, path: Path) -> str:
        return os.fsencode(path.relative_to(self.root).as_posix()).decode("utf-8", "backslashreplace")

    def _hashed(self, files: list[tuple[str, Path, os.stat_result]]) -> list[Found]:
        """The files with the hash of their bytes. Only files whose size or times have changed are read again."""
        manifest = cache_folder() / f"folder-{digest(os.fspath(self.root.resolve()))}.files.json"
        known = read_json(manifest)
        stamps = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, _, s in files}
        changed = {name: path for name, path, _ in files if known.get(name, [])[:-1] != stamps[name]}
        contents = {name: entry[-1] for name, entry in known.items() if name in stamps and name not in changed}
        if changed:
            results = in_threads(_hash, [*changed.values()], "reading files", "file")
            for name, result in zip(changed, results, strict=True):
                if isinstance(result, OSError):
                    self.report.append(_entry(name, f"can't be read: {result.strerror}", "refused"))
                else:
                    contents[name] = result
            entries = {name: [*stamps[name], content] for name, content in contents.items()}
            write(manifest, json.dumps(entries).encode())
        return [Found(name, path, contents[name]) for name, path, _ in files if name in contents]

    def _decode(self, files: list[Found]) -> dict[str, Any]:
        """The usable images, and why the other files are left out. Of files with the same bytes the first is used."""
        images, named, contents, left_out = [], [], [], []
        first: dict[str, str] = {}  # content -> name
        results = in_threads(self._images, files, "decoding images")  # Pillow decodes without the interpreter's lock
        for file, result in zip(files, results, strict=True):
            if isinstance(result, Unusable):
                other = isinstance(result, NotAnImage) and not _named_image(file.path)
                left_out.append(_entry(file.name, str(result), "skipped" if other else "refused"))
            elif file.content in first and not self.repeats:
                left_out.append(_entry(file.name, f"the same bytes as {first[file.content]}", "skipped"))
            else:
                for place, image in result:
                    images.append(image)
                    named.append(file.name + place)
                    contents.append(file.content)
                first.setdefault(file.content, file.name)
        pixels = np.stack(images) if images else np.empty((0, *self.shape), np.uint8)
        return {
            "images": torch.from_numpy(pixels),
            "names": named,
            "contents": contents,
            "left_out": left_out,
        }

    def _images(self, file: Found) -> list[tuple[str, np.ndarray]] | Unusable:
        """The crop of an image, or its tiles, each with what its name adds to that of the file."""
        try:
            if self.tiles is not None:
                with decoded(file.path, self.least, 8 * smallest(self.resolution), self.channels) as image:
                    short = min(size_of(file.path) or image.size)
                    found = list(cut(image, file.content, self.resolution, self.tiles, short))
                return found or Unusable("nearly uniform: no tile of it has contrast")
            position = seed_for(self.seed, "crop", file.content) / 2**63 if self.random_crop else 0.5
            with decoded(file.path, self.least, 2 * max(self.shape[1:]), self.channels) as image:
                box = crop_box(image.size, position, self.resolution)
                return [("", planes(resized(image, self.resolution, box)))]
        except Unusable as reason:
            return reason

    def _check_report(self, file: Path, used: int, found: int) -> None:
        """Write and print the report. Raises UserError where no image is usable, or one is refused under `strict`."""
        self.report.sort(key=lambda entry: entry["path"])
        refused = [entry for entry in self.report if entry["action"] == "refused"]
        if self.report:
            write(file, json.dumps(self.report, indent=1).encode())
            skipped = len(self.report) - len(refused)
            print_once(
                f"data: {count(used, 'image')}, {len(refused)} refused, {count(skipped, 'other file')} skipped; "
                f"the reasons are in {file}"
            )
        if self.strict and refused:
            first = refused[0]
            raise UserError(
                f"{len(refused)} images in {self.root} can't be used, the first is {first['path']!r} "
                f"({first['reason']}); correct or remove them (all are in {file}), or set data.strict=false"
            )
        if not used:
            height, width = height_width(self.least)
            raise UserError(
                f"data.root={self.root}: none of {found} files is a usable image (the reasons are in {file}); set "
                f"data.root to a folder of images of at least {width}x{height} pixels"
            )

    def _split(self, images: Split, contents: list[str]) -> dict[str, Split]:
        photos = self._photos(images)  # what lies in one split
        content, members = dict(zip(photos, contents, strict=True)), defaultdict(list)
        for i, photo in enumerate(photos):
            members[photo].append(i)
        order = sorted(members, key=lambda photo: (seed_for(self.seed, "order", content[photo]), content[photo]))
        val, test = (_count(size, len(order)) for size in (self.val, self.test))
        left = len(order) - val - test
        parts = {"train": order[:left], "val": order[left : left + val], "test": order[left + val :]}
        turns = {name: zip_longest(*(members[photo] for photo in part)) for name, part in parts.items()}
        index = {name: [i for turn in turns[name] for i in turn if i is not None] for name in parts}
        train = len(index["train"]) if self.limit is None else self.limit
        if train > len(index["train"]) or left <= 0:
            what = "image" if self.tiles is None else "photograph"
            more = f"add {what}s" + ", or cut large ones into tiles (data.tiles=true)" * (self.tiles is None)
            tiles = "" if self.tiles is None else f" ({len(index['train'])} training tiles)"
            raise UserError(
                f"{self.root} has {count(len(order), f'usable {what}')}{tiles}, fewer than {max(train, 1)} for "
                f"training, {val} for validation and {test} for test: lower data.limit, data.val or data.test (0.1 is "
                f"a tenth of them), {more}"
            )
        index["train"] = index["train"][:train]
        return {name: images.take(torch.tensor(index[name], dtype=torch.long)) for name in parts}


def common_size(root: Path) -> tuple[int, int] | None:
    """(height, width) in pixels of all images of a folder, from their headers; None where there are none.

    Raises UserError where they are not all of one size.
    """
    first: dict[tuple[int, int], str] = {}
    for path in sorted(_below(root, lambda *_: None)):
        if path.is_file() and (size := size_of(path)) is not None:
            first.setdefault(size, path.relative_to(root).as_posix())
    if len(first) > 1:
        found = ", ".join(f"{name} of {width}x{height}" for (width, height), name in [*first.items()][:2])
        raise UserError(
            f"{root}: its images are not of one size ({found}); give a folder of such images, or set the size that "
            "they are resized to by data.resolution=64"
        )
    return next(iter(first))[::-1] if first else None


def _below(folder: Path, skip: Callable[[Path, str], None]) -> Iterator[Path]:
    """Every path below `folder` that is neither hidden nor a folder, unless it is a link to one.

    What a command has written is left out: a model must not be trained on its own samples.
    """
    folders = [folder]
    while folders:
        here = folders.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            skip(here, f"can't be read: {error.strerror}")
            continue
        if here != folder and not WRITTEN.isdisjoint(entry.name for entry in entries):
            skip(here, "written by a command of diffusion")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                skip(Path(entry.path), "hidden")
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            else:
                yield Path(entry.path)


def _entry(name: str, reason: str, action: str) -> dict[str, str]:
    """An entry of `ImageData.report`."""
    return {"path": name, "reason": reason, "action": action}


def _named_image(path: Path) -> bool:
    """Whether a file's name ends as that of an image."""
    return path.suffix.lower() in Image.registered_extensions()


def _hash(path: Path) -> str | OSError:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        return error


def _count(size: int | float, images: int) -> int:
    """A number of images as it is; a fraction of `images`, at least one."""
    return max(round(size * images), 1) if 0 < size < 1 else int(size)
