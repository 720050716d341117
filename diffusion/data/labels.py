"""Image classes: the list of classes, and the class index of each image.

Classes come from the folders directly in the data set's folder, or from a table. They are attached by file name after
the images are decoded, so the cached pixels are the same with and without labels.
"""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from diffusion.data.batches import Split
from diffusion.errors import UserError

FOLDERS = "folders"


def label_of(source: str | Path, root: Path, known: Iterable[str]) -> dict[str, str]:
    """The label of each file that has one, by its name relative to `root`.

    Raises UserError if the table can't be read, lacks a column or a label, has two labels for a file, or names a file
    that is not in `known`.

    Args:
        source: "folders", or the path of a CSV file.
        known: the names of all files in `root`.
    """
    if source == FOLDERS:
        return {name: PurePosixPath(composed(name)).parts[0] for name in known if "/" in name}
    name_of, file, labels = {composed(name): name for name in known}, Path(source).expanduser(), dict[str, str]()
    try:
        # Bytes that are not UTF-8 are escaped as in the file names.
        with file.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as stream:
            rows = [(row["file"] or "", composed(row["label"] or "")) for row in csv.DictReader(stream)]
    except (OSError, csv.Error, KeyError) as error:
        found = f"no column {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise UserError(
            f"data.labels={file}: not a readable table ({found}); set it to a CSV file with the columns file,label: "
            f"paths relative to {root}, and their classes; or set data.labels=folders for the folders in {root}"
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


def classes_of(source: str | Path, root: Path, photos: Iterable[str], label: Mapping[str, str]) -> list[str]:
    """The names of the classes of the usable images, sorted.

    Raises UserError if an image has no label, or if all have the same label.

    Args:
        photos: the file names of the images, which may repeat.
        label: the label of each file that has one.
    """
    names = {*photos}
    if without := sorted(names - label.keys()):
        where = "move it into the folder of its class" if source == FOLDERS else f"add its row to {source}"
        raise UserError(
            f"data.labels={source}: {without[0]!r} in data.root={root} has no label ({len(without)} in all); {where}, "
            "or remove the image"
        )
    classes = sorted({label[name] for name in names})
    if len(classes) < 2:
        raise UserError(
            f"data.labels={source}: all images in {root} have the class {classes[0]!r}, so there is nothing to "
            "distinguish; set data.root to the folder that contains the class folders, or set data.labels=null"
        )
    return classes


def labelled(images: Split, photos: Sequence[str], label: Mapping[str, str], classes: Sequence[str]) -> Split:
    """`images` with class indices, according to the label of each image's photograph."""
    number = {name: i for i, name in enumerate(classes)}
    return replace(images, labels=torch.tensor([number[label[name]] for name in photos], dtype=torch.long))
