"""Images in archives, which are read without unpacking them: a zip, an npz, or tar shards."""

import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image

from diffusion.base.arrays import IMAGES, content_of
from diffusion.base.files import composed
from diffusion.base.images import FORMATS
from diffusion.data.folder import Collection, Item, Source, stamps
from diffusion.errors import refusing

LABELS = ("arr_1", "labels", "label")
LARGEST = 8 * (Image.MAX_IMAGE_PIXELS or 0)  # bytes of a file: Pillow refuses twice as many pixels, of 4 bytes each


@dataclass(eq=False, repr=False, kw_only=True)
class Archive(Collection):
    """The images of a zip, an npz or tar shards, as EDM, OpenAI, numpy and webdataset write them.

    Args:
        path: FILE.zip: images in it, as in a folder. FILE.npz: uint8 (N, H, W, C) or (N, H, W) in arr_0, images or
            image. FILE.tar: images in it; several as a folder of them, or with a range: "part-{0000..0099}.tar".
        labels: Class labels, for a network with `model.classes`. true: those in the archive, which are dataset.json of
            a zip, the array arr_1, labels or label of an npz, and the .cls files of a tar. folders, FILE.csv:
            as for data=folder. null: no labels.
    """

    path: str | Path
    labels: Literal["folders"] | bool | str | Path | None = None

    def source(self) -> Source:
        files = expanded(os.path.expanduser(self.path))

        @refusing(self.path, key="data.path")
        def items() -> list[Item]:
            kinds, readers = {file.suffix.lower() for file in files}, {".zip": zipped, ".npz": arrays, ".tar": shards}
            if len(kinds) != 1 or not kinds <= readers.keys():
                raise ValueError("expected one .zip, one .npz, or .tar files, not compressed; unpack others")
            return [*readers[kinds.pop()](files, self.labels is True)]

        with refusing(self.path, key="data.path"):
            key = stamps({os.fspath(file.resolve()): file for file in files}), self.labels is True
        return Source(self.path, key, items, self.labels, "data.path")


def expanded(path: str) -> list[Path]:
    """The files of a name, of a range such as part-{0000..0099}.tar, or the tar files of a folder."""
    if numbers := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", path):
        before, first, last, after = numbers.groups()
        return [Path(f"{before}{i:0{len(first)}d}{after}") for i in range(int(first), int(last) + 1)]
    return sorted(Path(path).glob("*.tar")) if Path(path).is_dir() else [Path(path)]


def visible(name: str) -> bool:
    """Whether a file is used: hidden ones are not, as in a folder, nor are the notes of macOS."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def zipped(files: Sequence[Path], labelled: bool) -> Iterator[Item]:
    """The files of a zip, and their labels by the dataset.json of EDM: {"labels": [[NAME, CLASS], …]}."""
    archive, about = zipfile.ZipFile(files[0]), "dataset.json"
    names = [each.filename for each in archive.infolist() if not each.is_dir() and visible(each.filename)]
    labels = dict(json.loads(archive.read(about))["labels"] or {}) if labelled and about in names else {}
    if labelled and not labels:
        raise ValueError(f"no labels in a {about}; set data.labels=folders, FILE.csv or null")
    if wrong := [label for label in labels.values() if not isinstance(label, int | str)]:
        raise ValueError(f"the label {wrong[0]} in {about}; expected one class for each image, a number or a name")
    return (Item(composed(name), partial(unpacked, archive, name), labels.get(name)) for name in names if name != about)


def unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip. Raises ValueError if it is larger than any image that Pillow reads."""
    if (size := archive.getinfo(name).file_size) > LARGEST:
        raise ValueError(f"it has {size / 1e6:,.0f} MB, more than the {LARGEST / 1e6:,.0f} MB of the largest image")
    return archive.read(name)


def arrays(files: Sequence[Path], labelled: bool) -> Iterator[Item]:
    """The rows of an array of images in an npz, which is in memory while they are read. Nothing is unpickled."""
    with np.load(files[0], allow_pickle=False) as archive:
        kinds = (IMAGES, LABELS) if labelled else (IMAGES,)
        images, *classes = (archive[next(filter(archive.__contains__, names), names[0])] for names in kinds)
    if images.dtype != np.uint8 or images.ndim < 3 or images.shape[3:] not in ((), (1,), (3,), (4,)):
        found = f"{images.dtype} {images.shape}"
        raise ValueError(f"the images are {found}; expected uint8 (N, H, W, C), of 0 to 255, with C 1, 3 or 4")
    for labels in classes:
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
            raise ValueError(f"the labels are {labels.dtype} {labels.shape}; expected a class for each image")
    images = np.ascontiguousarray(images[..., 0] if images.shape[3:] == (1,) else images)
    own = classes[0].tolist() if classes else [None] * len(images)
    return (Item(str(i), partial(images.__getitem__, i), label) for i, label in enumerate(own))


def shards(files: Sequence[Path], labelled: bool) -> Iterator[Item]:
    """The images of tar files, and their labels: KEY.cls beside KEY.jpg. Beside an image, other files are not images.

    KEY is the name to the first dot of its last part, as for webdataset.
    """
    Image.init()
    endings = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    for file in files:
        where = f" ({file.name})" if len(files) > 1 else ""  # each may have a 000000.jpg
        with refusing(file, "; copy or download it again", "data.path"), tarfile.open(file, "r:") as tar:
            members = ((each.name.removeprefix("./"), each) for each in tar if each.isfile() and visible(each.name))
            for key, sample in groupby(members, key=lambda each: re.sub(r"\.[^/]*$", "", each[0])):
                parts = {name: partial(content_of, file, each.offset_data, each.size) for name, each in sample}
                kinds = {name: name[len(key) :].lower() for name in parts}
                classes = [parts[name]().decode().strip() for name in parts if labelled and kinds[name] == ".cls"]
                label = next((int(text) if text.isdecimal() else text for text in classes), None)
                images = [name for name in parts if kinds[name] in endings]
                for name in images or [name for name in parts if kinds[name] != ".cls"]:
                    yield Item(composed(name) + where, parts[name], label)
