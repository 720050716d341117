"""Any folder of images, nested or not: decoded once, cached by content, with a report of what can't be used.

Every visible regular file is tried by its content, whatever its name. Its place in the order is a hash of (seed, its
bytes), so neither the file system, nor names, nor the bad files beside it change which images are drawn. In that
order the last ones are the test split, those before them the validation split, and the first ones the training split:
no image is in two, and `limit` changes neither validation nor test.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from diffusion.console import count, track
from diffusion.data.batches import Split
from diffusion.data.cache import cached, digest, place, read_json, say, write
from diffusion.data.image import RESIZE, Unusable, crop_box, planes, read, size_of, square
from diffusion.data.module import ImageData
from diffusion.errors import UserError
from diffusion.randomness import seed_for


class Found(NamedTuple):
    """A file: its name below the root, its path, and the hash of its bytes."""

    name: str
    path: Path
    content: str


class Folder(ImageData):
    """The images of a folder, cropped to squares and resized.

    root: the folder. Links to files are followed, links to folders are not; hidden files are skipped.
    limit: the most training images; null takes all that validation and test leave.
    val, test: how many images, or (below 1) which fraction of the usable ones. 0 for none.
    random_crop: the square lies anywhere along the longer side, by (seed, content), instead of at the centre.
    strict: stop at an image that can't be used, instead of going on with the others.
    repeats: use byte-identical files as often as they are there, instead of once.

    Images with a side below `resolution` are refused, never enlarged.
    `report` lists every file that is not used too: "refused" if it is or claims to be an image, else "skipped". These
    are also written beside the cache, and counted on the console.
    `UserError`: no such folder, no usable image in it, too few for `limit`, `val` and `test`, or `strict`.
    """

    def __init__(
        self,
        root: str | Path,
        resolution: int,
        limit: int | None = None,
        val: int | float = 0.1,
        test: int | float = 0.1,
        random_crop: bool = False,
        strict: bool = False,
        repeats: bool = False,
        **options: Any,
    ):
        super().__init__(resolution, **options)
        self.root = Path(root).expanduser()
        self.limit = limit
        self.val = val
        self.test = test
        self.random_crop = random_crop
        self.strict = strict
        self.repeats = repeats
        for name, size in {"val": val, "test": test, "limit": 1 if limit is None else limit}.items():
            if size < 0 or (size >= 1 and size != int(size)) or (name == "limit" and size != int(size)):
                raise UserError(f"data.{name}={size}: expected a number of images; set data.{name}=100")

    def load(self) -> dict[str, Split]:
        files = self._hashed(self._walk())
        seed = self.seed if self.random_crop else None
        names = [(file.name, file.content) for file in files]
        key = digest("folder 1", RESIZE, self.resolution, seed, names, *["repeats"] * self.repeats)
        made = cached(place() / f"folder-{key}.pt", lambda: self._decode(files))
        self.report += made["left_out"]
        self._tell(place() / f"folder-{key}.report.json", used=len(made["names"]), given=len(files))
        return self._split(Split(made["images"], made["names"]), made["contents"])

    def _note(self, name: str, reason: str, action: str) -> None:
        self.report.append({"path": name, "reason": reason, "action": action})

    def _walk(self) -> list[tuple[str, Path, os.stat_result]]:
        """Name, path and status of every file that may be an image, ordered by name."""
        if not self.root.exists():
            raise UserError(f"data.root={self.root}: no such folder; set data.root to a folder of images")
        if not self.root.is_dir():
            raise UserError(
                f"data.root={self.root} is a file, expected a folder of images; set data.root to its folder"
            )
        found = []
        for path in _below(self.root, self._skip):
            name = self._name(path)
            try:
                status = path.stat()
            except OSError as error:
                self._note(name, f"can't be read: {error.strerror}", "refused")
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((name, path, status))
            else:
                reason = "a link to a folder, not followed" if stat.S_ISDIR(status.st_mode) else "not a regular file"
                self._note(name, reason, "skipped")
        if not found:
            raise UserError(f"data.root={self.root} holds no files; set data.root to a folder of images")
        return sorted(found)

    def _name(self, path: Path) -> str:
        return os.fsencode(path.relative_to(self.root).as_posix()).decode("utf-8", "backslashreplace")

    def _skip(self, path: Path, reason: str) -> None:
        self._note(self._name(path), reason, "skipped")

    def _hashed(self, files: list[tuple[str, Path, os.stat_result]]) -> list[Found]:
        """The files with the hash of their bytes, read anew only where size or times differ from the last start's."""
        manifest = place() / f"folder-{digest(os.fspath(self.root.resolve()))}.files.json"
        known = read_json(manifest)
        stamps = {name: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, _, s in files}
        fresh = {name: path for name, path, _ in files if known.get(name, [])[:-1] != stamps[name]}
        contents: dict[str, str] = {name: entry[-1] for name, entry in known.items() if name in stamps}
        if fresh:
            with ThreadPoolExecutor() as pool:
                results = track(pool.map(_hash, fresh.values()), "reading files", len(fresh), "file")
                for name, result in zip(fresh, results, strict=True):
                    contents.pop(name, None)
                    if isinstance(result, OSError):
                        self._note(name, f"can't be read: {result.strerror}", "refused")
                    else:
                        contents[name] = result
            entries = {name: [*stamps[name], content] for name, content in contents.items()}
            write(manifest, json.dumps(entries).encode())
        return [Found(name, path, contents[name]) for name, path, _ in files if name in contents]

    def _decode(self, files: list[Found]) -> dict[str, Any]:
        """The usable images, of each content the first by name unless all are wanted, and why the others are not."""
        suffixes = Image.registered_extensions()
        images: list[np.ndarray] = []
        used: list[Found] = []
        first: dict[str, str] = {}  # content -> name
        left_out = []
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes outside of the interpreter's lock
            results = track(pool.map(self._image, files), "decoding images", len(files))
            for file, result in zip(files, results, strict=True):
                if isinstance(result, Unusable):
                    stray = file.path.suffix.lower() not in suffixes and "not an image" in str(result)
                    reason, action = str(result), "skipped" if stray else "refused"
                elif file.content in first and not self.repeats:
                    reason, action = f"the same bytes as {first[file.content]}", "skipped"
                else:
                    images.append(result)
                    used.append(file)
                    first.setdefault(file.content, file.name)
                    continue
                left_out.append({"path": file.name, "reason": reason, "action": action})
        pixels = np.stack(images) if images else np.empty((0, 3, self.resolution, self.resolution), np.uint8)
        return {
            "images": torch.from_numpy(pixels),
            "names": [file.name for file in used],
            "contents": [file.content for file in used],
            "left_out": left_out,
        }

    def _image(self, file: Found) -> np.ndarray | Unusable:
        try:
            image = read(file.path, self.resolution)
        except Unusable as reason:
            return reason
        position = seed_for(self.seed, "crop", file.content) / 2**63 if self.random_crop else 0.5
        return planes(square(image, self.resolution, crop_box(image.size, position)))

    def _tell(self, file: Path, used: int, given: int) -> None:
        """Writes and counts the report; `UserError` for a refused image under `strict`, or when none is usable."""
        self.report.sort(key=lambda entry: entry["path"])
        refused = [entry for entry in self.report if entry["action"] == "refused"]
        if self.report:
            write(file, json.dumps(self.report, indent=1).encode())
            skipped = len(self.report) - len(refused)
            say(
                f"data: {count(used, 'image')}, {len(refused)} refused, {count(skipped, 'other file')} skipped; "
                f"the reasons are in {file}"
            )
        if self.strict and refused:
            worst = refused[0]
            raise UserError(
                f"{len(refused)} images in {self.root} can't be used, the first is {worst['path']!r} "
                f"({worst['reason']}); mend or remove them (all in {file}), or set data.strict=false"
            )
        if not used:
            raise UserError(
                f"data.root={self.root}: none of {given} files is a usable image (the reasons are in {file}); set "
                f"data.root to a folder of images of at least {self.resolution}x{self.resolution} pixels"
            )

    def _split(self, images: Split, contents: list[str]) -> dict[str, Split]:
        order = sorted(range(len(images)), key=lambda i: (seed_for(self.seed, "order", contents[i]), contents[i]))
        val, test = (_count(size, len(images)) for size in (self.val, self.test))
        left = len(images) - val - test
        train = left if self.limit is None else self.limit
        if train > left or left <= 0:
            raise UserError(
                f"{self.root} has {len(images)} usable images, fewer than {max(train, 1)} for training, {val} for "
                f"validation and {test} for test: lower data.limit, data.val or data.test, or add images"
            )
        parts = {"train": order[:train], "val": order[left : left + val], "test": order[left + val :]}
        return {name: images.take(torch.tensor(index, dtype=torch.long)) for name, index in parts.items()}


def _below(folder: Path, skip: Callable[[Path, str], None]) -> Iterator[Path]:
    """Whatever lies below `folder` and is neither hidden nor a real folder."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        skip(folder, f"can't be read: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            skip(Path(entry.path), "hidden")
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), skip)
        else:
            yield Path(entry.path)


def common_side(root: Path) -> int | None:
    """The side in pixels of all images of a folder, by their headers; None where there are none.

    `UserError` where they are not all square and of one size.
    """
    first: dict[tuple[int, int], str] = {}
    for path in sorted(_below(root, lambda *_: None)):
        if path.is_file() and (size := size_of(path)) is not None:
            first.setdefault(size, path.relative_to(root).as_posix())
    if any(width != height for width, height in first) or len(first) > 1:
        found = ", ".join(f"{name} of {width}x{height}" for (width, height), name in [*first.items()][:2])
        raise UserError(
            f"{root}: its images are not squares of one size ({found}); name a folder of such, or choose the size that "
            "they are brought to by data.resolution=64"
        )
    return next(iter(first))[0] if first else None


def _hash(path: Path) -> str | OSError:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        return error


def _count(size: int | float, images: int) -> int:
    """A number of images as it is; a fraction above 0 of `images`, at least one."""
    return max(round(size * images), 1) if 0 < size < 1 else int(size)
