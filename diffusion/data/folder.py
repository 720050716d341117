"""Images from any folder, nested or not: decoded once, cached by content, with a report of unusable files.

Every regular file that is not hidden is tried, whatever its name. Images are ordered by a hash of (seed, content), so
neither the file system, nor names, nor bad files change which images are used. In that order, the first images are the
training split, followed by the validation split and the test split: no image is in two splits (with `repeats`, equal
files may be), and `limit` changes neither validation nor test. With tiles, this is the order of the photographs, and a
split takes one tile from each of its photographs in turn, the largest first.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Lt
from PIL import Image
from torch import Tensor

from diffusion.console import count
from diffusion.data import store
from diffusion.data.batches import Split, hash_of
from diffusion.data.cache import cache_folder, digest, print_on_rank_0, read_json, without_gc, write
from diffusion.data.image import RESIZE, NotAnImage, Unusable, check_bytes, crop_box, decoded, planes, resized, size_of
from diffusion.data.labels import classes_of, contradicted, label_of, labelled
from diffusion.data.listing import below
from diffusion.data.module import ImageData
from diffusion.data.store import Made
from diffusion.data.threads import streamed
from diffusion.data.tiles import cut, smallest
from diffusion.errors import UserError
from diffusion.pixels import Resolution, height_width
from diffusion.randomness import seed_for

USUAL_TILES = 70  # per photograph: the 37 bundled ones have 2591
SCORED = 4  # images that scores need
# Extensions of image formats that Pillow does not read.
UNREADABLE = {".heic", ".heif", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".exr"}

Share = Annotated[int, Ge(0)] | Annotated[float, Ge(0), Lt(1)]


class Found(NamedTuple):
    """A file: its name relative to the root, its path, and the hash of its bytes."""

    name: str
    path: str
    content: str


class Files(NamedTuple):
    """Files, ordered by name. (Stored as columns: creating a tuple for each of a million files is slow.)"""

    names: list[str]
    paths: list[str]
    contents: list[str]  # hashes of the bytes; sizes and times before the files are read


class Folder(ImageData):
    """The images of a folder, cropped and resized; or, with `tiles`, many tiles of each photograph.

    `report` also lists every unused file: as "refused" if it is an image or has the extension of one, otherwise as
    "skipped". It is also written to the cache.

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
        label: dict[str, str] = {}
        if self.labels is not None:
            label = label_of(self.labels, self.root, [*files.names, *(entry["path"] for entry in self.report)])
        options = ["repeats"] * self.repeats + [f"tiles 1 {self.tiles}"] * (self.tiles is not None)
        options += [f"channels {self.channels}"] * (self.channels != 3)
        crop = self.seed if self.random_crop else None
        key = digest("folder 5", RESIZE, self.resolution, crop, files.names, files.contents, *options)
        name = cache_folder() / f"folder-{key}-{self.seed}"
        decoded = store.stored(name, self.shape, partial(self._decode, files))
        made = decoded.made
        images = Split(decoded.images, made.names)
        photos = images.names if self.tiles is None else images.sources  # the file name of each image
        contents = dict(zip(files.names, files.contents, strict=True)) if made.left_out else {}
        self.report += contradicted(made.left_out, contents, photos, label)
        self._check_report(cache_folder() / f"folder-{key}.report.json", used=len(made.names), found=len(files.names))
        if self.labels is not None:
            self.classes = classes_of(self.labels, self.root, photos, label)
            images = labelled(images, photos, label, self.classes)
        index = self._split(photos)
        return self._with_keys(name, decoded.hash, {part: (images, index[part]) for part in index})

    @without_gc()
    def _walk(self) -> Files:
        """List every file that may be an image, with its size and times."""
        if not self.root.exists():
            raise UserError(f"data.root={self.root}: no such folder; set data.root to a folder of images")
        if not self.root.is_dir():
            raise UserError(
                f"data.root={self.root} is a file, expected a folder of images; set data.root to its folder"
            )
        if not os.access(self.root, os.R_OK | os.X_OK):
            raise UserError(
                f"data.root={self.root}: this folder can't be read; allow it (chmod u+rx), or choose another"
            )
        start = len(os.path.join(self.root, ""))

        def named(path: str) -> str:
            name = path[start:].replace(os.sep, "/")
            return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")

        def note(path: str, reason: str, action: str = "skipped") -> None:
            self.report.append(_entry(named(path), reason, action))

        found = []
        for entry in below(self.root, note):  # no `Path` for each: it would take longer than the rest
            path = entry.path
            try:
                status = entry.stat()
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
            found.append((named(path), path, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"))
        if not found:
            links = sum("link to a folder" in entry["reason"] for entry in self.report)
            unfollowed = f" but {count(links, 'link')} to folders, which are not followed" if links else ""
            raise UserError(f"data.root={self.root} contains no files{unfollowed}; set data.root to a folder of images")
        return Files(*map(list, zip(*sorted(found), strict=True)))

    @without_gc()
    def _hashed(self, files: Files) -> Files:
        """The files with hashes of their bytes. Only files whose size or times have changed are read again."""
        manifest = cache_folder() / f"folder-{digest(os.fspath(self.root.resolve()))}.files.json"
        names, paths, stamps = files
        known = read_json(manifest)
        if known.get("names") == names and known.get("stamps") == stamps:
            return Files(names, paths, known["contents"])
        stamp = dict(zip(names, stamps, strict=True))
        before = zip(*(known.get(column, ()) for column in ("names", "stamps", "contents")), strict=False)
        contents = {name: content for name, at, content in before if stamp.get(name) == at}
        changed = {name: Path(path) for name, path in zip(names, paths, strict=True) if name not in contents}
        try:
            results = streamed(_hash, [*changed.values()], "reading files", "file")
            for name, result in zip(changed, results, strict=True):
                if isinstance(result, OSError):
                    self.report.append(_entry(name, f"can't be read: {result.strerror}", "refused"))
                else:
                    contents[name] = result
        finally:  # after an interruption, what was read is not read again
            read = [name for name in names if name in contents]
            columns = {"names": read, "stamps": [stamp[n] for n in read], "contents": [contents[n] for n in read]}
            with contextlib.suppress(UserError):  # in a read-only cache, they are read at each start
                write(manifest, json.dumps(columns).encode())
        path = dict(zip(names, paths, strict=True))
        return Files(read, [path[name] for name in read], columns["contents"])

    def _decode(self, files: Files, first: int = 0) -> Iterator[tuple[Sequence[np.ndarray], Made]]:
        """Yield each file's images, or why it is unusable, from file number `first` on, in order of (seed, content).

        Of files with the same bytes, only the first by name is used.
        """
        twins: dict[str, list[Found]] = defaultdict(list)
        for file in map(Found, *files):
            twins[file.name if self.repeats else file.content].append(file)
        order = sorted(
            twins.values(), key=lambda same: (seed_for(self.seed, "order", same[0].content), same[0].content)
        )[first:]
        # Pillow releases the GIL while it decodes.
        results = streamed(self._images, [same[0] for same in order], "decoding images")
        for same, result in zip(order, results, strict=True):
            yield self._made(same, result)

    def _made(
        self, same: list[Found], result: list[tuple[str, np.ndarray]] | Unusable
    ) -> tuple[Sequence[np.ndarray], Made]:
        """The images of files with the same bytes, and their description."""
        used, *again = same
        if isinstance(result, Unusable):
            unknown = isinstance(result, NotAnImage)
            return [], Made(left_out=[
                _entry(file.name, str(result), "skipped" if unknown and not _named_image(file.path) else "refused")
                for file in same
            ])  # fmt: skip
        reason = f"the same bytes as {used.name}"
        return [image for _, image in result], Made(
            [used.name + place for place, _ in result],
            [_entry(file.name, reason, "skipped") for file in again],
        )

    def _images(self, file: Found) -> list[tuple[str, np.ndarray]] | Unusable:
        """The cropped image, or the tiles, each with the suffix that its name adds to the file's name."""
        try:
            if self.tiles is not None:
                with decoded(Path(file.path), self.least, 8 * smallest(self.resolution), self.channels) as image:
                    short = min(size_of(Path(file.path)) or image.size)
                    found = list(cut(image, file.content, self.resolution, self.tiles, short))
                return found or Unusable("nearly uniform: no tile of it has contrast")
            position = seed_for(self.seed, "crop", file.content) / 2**63 if self.random_crop else 0.5
            with decoded(Path(file.path), self.least, 2 * max(self.shape[1:]), self.channels) as image:
                box = crop_box(image.size, position, self.resolution)
                return [("", planes(resized(image, self.resolution, box)))]
        except Unusable as reason:
            return reason

    def _check_report(self, file: Path, used: int, found: int) -> None:
        """Write and print the report. Raises UserError if no image is usable, or one is refused under `strict`."""
        self.report.sort(key=lambda entry: entry["path"])
        refused = [entry for entry in self.report if entry["action"] == "refused"]
        if self.report:
            content = json.dumps(self.report, indent=1).encode()
            if not file.exists() or file.read_bytes() != content:  # a prepared cache may be read-only
                write(file, content)
            skipped = len(self.report) - len(refused)
            print_on_rank_0(
                f"data: {count(used, 'image')}, {len(refused)} refused, {count(skipped, 'other file')} skipped; "
                f"the reasons are in {file}"
            )
        if self.strict and refused:
            first = refused[0]
            raise UserError(
                f"{len(refused)} images in {self.root} can't be used, for example {first['path']!r} "
                f"({first['reason']}); fix or remove them (full list in {file}), or set data.strict=false"
            )
        if not used:
            height, width = height_width(self.least)
            raise UserError(
                f"data.root={self.root}: none of {found} files is a usable image (the reasons are in {file}); set "
                f"data.root to a folder of images of at least {width}x{height} pixels, or lower data.resolution"
            )

    @without_gc()
    def _split(self, photos: list[str]) -> dict[str, Tensor]:
        """The positions of each split's images; `photos` are the file names of all images, already ordered."""
        number = {photo: i for i, photo in enumerate(dict.fromkeys(photos))}
        numbers = np.fromiter(map(number.__getitem__, photos), np.int64, len(photos))
        starts = np.searchsorted(numbers, np.arange(len(number) + 1))  # the first image of each photograph
        turn = np.arange(len(photos)) - starts[numbers]
        least = SCORED if self.tiles is None else 1
        val, test = (_count(size, len(number), least) for size in (self.val, self.test))
        left = max(len(number) - val - test, 0)
        ends = [0, *starts[[left, min(left + val, len(number))]].tolist(), len(photos)]
        parts = {name: slice(*each) for name, each in zip(("train", "val", "test"), pairwise(ends), strict=True)}
        order = {name: part.start + np.argsort(turn[part], kind="stable") for name, part in parts.items()}
        index = {name: torch.from_numpy(each) for name, each in order.items()}
        train = len(index["train"]) if self.limit is None else self.limit
        if train > len(index["train"]) or left == 0:
            what = "image" if self.tiles is None else "photograph"
            more = f"add {what}s" + ", or cut large ones into tiles (data.tiles=true)" * (self.tiles is None)
            if len(number) < 2:
                raise UserError(
                    f"{self.root} has one usable {what}, but training and validation need different ones: {more}"
                )
            tiles = "" if self.tiles is None else f" ({len(index['train'])} training tiles)"
            raise UserError(
                f"{self.root} has {count(len(number), f'usable {what}')}{tiles}, fewer than {max(train, 1)} for "
                f"training, {val} for validation and {test} for test: lower data.limit, data.val or data.test (0.1 is "
                f"a tenth of them), {more}"
            )
        return index | {"train": index["train"][:train]}

    def _with_keys(self, name: Path, content: str, parts: dict[str, tuple[Split, Tensor]]) -> dict[str, Split]:
        """The splits with cached keys: hashing a million images would take longer than the rest of a run's start.

        Args:
            content: a hash of all images.
            parts: split name -> (all images, the positions of the split's images).
        """
        file = name.with_suffix(".keys")
        known, splits = read_json(file), {}
        for part, (images, index) in parts.items():
            split, which = images.take(index), digest(content, hash_of(index))
            if which not in known:
                known[which] = split.key
                write(file, json.dumps(known).encode())
            splits[part] = replace(split, known_key=known[which])
        return splits


def common_size(root: Path) -> tuple[int, int] | None:
    """(height, width) in pixels of all images in a folder, read from their headers; None if there are no images.

    Raises UserError if their sizes differ.
    """
    first: dict[tuple[int, int], str] = {}
    for path in sorted(Path(entry.path) for entry in below(root, lambda *_: None)):
        if path.is_file() and (size := size_of(path)) is not None:
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


def _hash(path: Path) -> str | OSError:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        return error


def _count(size: int | float, images: int, least: int) -> int:
    """The number of images: `size` itself, or if it is a fraction, that share of `images`.

    A share is at least one image, and at least `least` unless that is more than a quarter of the images.
    """
    return max(round(size * images), min(least, images // 4), 1) if 0 < size < 1 else int(size)
