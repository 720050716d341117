"""Images in archives, which are read without unpacking them: a zip, an npz, or tar shards."""

import glob
import json
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import numpy as np
from PIL import Image

from diffusion.data.folder import Collection, Item, Source, composed
from diffusion.data.images import FORMATS, Label, Unusable
from diffusion.errors import UserError, first_line

Read = tuple[Iterable[Item], int | None]  # items, and their number if it is known
IMAGES = ("arr_0", "images", "image")  # names of arrays in an npz
LABELS = ("arr_1", "labels", "label", "classes")
BLOCK = 512  # bytes; a tar ends with two blocks of zeros
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError)


@dataclass(eq=False, repr=False, kw_only=True)
class Archive(Collection):
    """The images of a zip, an npz or tar shards, as EDM, OpenAI, numpy and webdataset write them.

    Args:
        path: FILE.zip: images in it, as in a folder. FILE.npz: uint8 (N, H, W, C) or (N, H, W) in arr_0, images or
            image. FILE.tar: images in it; several as a folder of them, or a pattern such as "part-{0000..0099}.tar".
        labels: Class labels, for a network with `model.classes`. true: those in the archive, which are dataset.json of
            a zip, the array arr_1, labels, label or classes of an npz, and the .cls files of a tar. folders, FILE.csv:
            as for data=folder. null: no labels.
    """

    path: str | Path
    labels: Literal["folders"] | bool | str | Path | None = None

    def source(self) -> Source:
        where, files = f"data.path={self.path}", expanded(os.path.expanduser(self.path))
        read = {".zip": zipped, ".npz": arrays, ".tar": shards}
        try:
            stats = [(os.fspath(file.resolve()), file.stat()) for file in files]
            stamps = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]
            if len(kinds := {file.suffix.lower() for file in files}) != 1 or not kinds <= read.keys():
                raise ValueError("expected one .zip, one .npz, or .tar files, not compressed; unpack others")
            items, total = read[kinds.pop()](files, self.labels is True)
        except FileNotFoundError as error:
            raise UserError(f"{where}: {error.filename} does not exist") from error
        except (*DAMAGED, ValueError) as error:
            raise UserError(f"{where}: {first_line(error)}") from error
        return Source(where, (stamps, self.labels is True), intact(items, where), total, self.labels)


def expanded(pattern: str) -> list[Path]:
    """The files of a name, of a pattern with * or with a range such as {0000..0099}, or the tar files of a folder."""
    if numbers := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", pattern):
        before, first, last, after = numbers.groups()
        return [Path(f"{before}{i:0{len(first)}d}{after}") for i in range(int(first), int(last) + 1)]
    if "*" in pattern or Path(pattern).is_dir():
        return sorted(map(Path, glob.glob(pattern if "*" in pattern else f"{glob.escape(pattern)}/*.tar")))
    return [Path(pattern)]


def intact(items: Iterable[Item], where: str) -> Iterator[Item]:
    """The items of an archive. Raises UserError where it is damaged."""
    try:
        yield from items
    except (*DAMAGED, ValueError) as error:
        raise UserError(f"{where}: {first_line(error)}; copy or download it again") from error


def shown(name: str) -> bool:
    """Whether a file is used: hidden ones are not, as in a folder, nor are the notes of macOS."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def label_of(value: Any) -> Label:
    """A class label. Raises ValueError for lists, such as one-hot vectors, and fractions."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"the label {value!r}; expected one class for each image, a whole number or a name")
    return value


def zipped(files: Sequence[Path], labelled: bool) -> Read:
    """The files of a zip, and their labels by the dataset.json of EDM: {"labels": [[NAME, CLASS], …]}."""
    archive, about = zipfile.ZipFile(files[0]), "dataset.json"
    names = [each.filename for each in archive.infolist() if not each.is_dir() and shown(each.filename)]
    pairs = json.loads(archive.read(about))["labels"] if labelled and about in names else []
    if labelled and not pairs:
        raise ValueError(f"no labels in a {about}; set data.labels=folders, FILE.csv or null")
    labels = {name: label_of(label) for name, label in pairs}

    def content(name: str) -> bytes:
        try:
            return archive.read(name)
        except DAMAGED as error:  # only this file: encrypted, or not the bytes that were packed
            raise Unusable(f"can't be read: {first_line(error)}") from error

    items = [Item(composed(name), partial(content, name), labels.get(name)) for name in names if name != about]
    return items, len(items)


def arrays(files: Sequence[Path], labelled: bool) -> Read:
    """The rows of an array of images in an npz, which are read one after the other. Nothing is unpickled."""
    archive = zipfile.ZipFile(files[0])

    def member(names: Sequence[str]) -> str:
        for name in names:
            if f"{name}.npy" in archive.namelist():
                return f"{name}.npy"
        raise ValueError(f"no array {' or '.join(names)}, but {', '.join(archive.namelist()) or 'none'}")

    images, labels = member(IMAGES), None
    with archive.open(images) as stream:
        shape, by_columns, dtype = header(stream)
    if dtype != np.uint8 or by_columns or not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))):
        raise ValueError(f"{images} is {dtype} {shape}; expected uint8 (N, H, W, C), of 0 to 255, with C 1, 3 or 4")
    if labelled:
        with archive.open(member(LABELS)) as stream:
            labels = np.load(stream, allow_pickle=False)
        if labels.shape != shape[:1] or labels.dtype.kind not in "iuU":
            raise ValueError(f"{member(LABELS)} is {labels.dtype} {labels.shape}; expected a class for each image")

    def rows() -> Iterator[Item]:
        size, row = int(np.prod(shape[1:])), shape[1:3] if shape[-1] == 1 else shape[1:]
        with archive.open(images) as stream:
            header(stream)
            for i in range(shape[0]):
                if len(content := stream.read(size)) < size:
                    raise EOFError(f"{images} ends at image {i} of {shape[0]}")
                yield Item(str(i), partial(bytes, content), None if labels is None else labels[i].item(), row)

    return rows(), shape[0]


def header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array in a .npy file, of which the header is read."""
    first = np.lib.format.read_magic(stream) == (1, 0)
    return (np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0)(stream)


def shards(files: Sequence[Path], labelled: bool) -> Read:
    """The images of tar files, and their labels: KEY.cls beside KEY.jpg. Links and the like are left out."""
    for file in files:
        size = file.stat().st_size
        if size % BLOCK or size < BLOCK or any(content_of(file, size - BLOCK, BLOCK)):
            raise ValueError(f"{file.name} is cut short, or no tar (no zeros at its end); copy or download it again")
    return samples(files, labelled), None


def samples(files: Sequence[Path], labelled: bool) -> Iterator[Item]:
    """The images of tar files, one after the other. In a sample with an image, its other files are not images.

    A sample are files with the same name to the first dot of its last part, as webdataset divides it.
    """
    Image.init()
    endings = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    for file in files:
        where = f" ({file.name})" if len(files) > 1 else ""  # each may have a 000000.jpg
        with tarfile.open(file, "r:") as tar:
            members = ((re.sub(r"^\./", "", each.name), each) for each in tar if each.isfile() and shown(each.name))
            for key, sample in groupby(members, key=lambda each: re.sub(r"\.[^/]*$", "", each[0])):
                parts = {name: partial(content_of, file, each.offset_data, each.size) for name, each in sample}
                kinds = {name: name[len(key) :].lower() for name in parts}
                classes = [parts[name]().decode().strip() for name in parts if labelled and kinds[name] == ".cls"]
                label = next((int(text) if text.isdecimal() else text for text in classes), None)
                images = [name for name in parts if kinds[name] in endings]
                for name in images or [name for name in parts if kinds[name] != ".cls"]:
                    yield Item(composed(name) + where, parts[name], label)


def content_of(file: Path, start: int, size: int) -> bytes:
    """Bytes of a file."""
    with file.open("rb") as stream:
        stream.seek(start)
        return stream.read(size)
