"""Image classes, from the folders directly in the data set's folder, or from a table.

They are attached by file name after the images are decoded, so the cached pixels are the same with and without labels.
"""

import csv
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from diffusion.data.batches import Split
from diffusion.errors import UserError


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


def labelled(images: Split, photos: Sequence[str], label: Mapping[str, str]) -> tuple[Split, list[str]]:
    """`images` with the class indices of their photographs, and the names of the classes, sorted."""
    classes = sorted({label[name] for name in photos})
    number = {name: i for i, name in enumerate(classes)}
    return replace(images, labels=torch.tensor([number[label[name]] for name in photos])), classes
