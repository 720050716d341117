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

from diffusion.console import count
from diffusion.data.batches import Split
from diffusion.errors import UserError

FOLDERS = "folders"
COLUMNS = ("file", "label")


def label_of(source: str | Path, root: Path, known: Iterable[str]) -> dict[str, str]:
    """The label of each file that has one, by its name relative to `root`.

    Raises UserError if the table can't be read, lacks a column or a label, has two labels for a file, or names a file
    that is not in `known`.

    Args:
        source: "folders", or the path of a CSV file.
        known: the names of all files in `root`.
    """
    names = set(known)
    if source == FOLDERS:
        return {name: PurePosixPath(composed(name)).parts[0] for name in names if "/" in name}
    file, same = Path(source).expanduser(), {composed(name): name for name in names}
    rows = _rows(file, root)
    rows = [(name if name in names else same.get(composed(name), name), label) for name, label in rows]
    if empty := [name for name, label in rows if not label]:
        raise UserError(f"{file}: {_example(empty, 'row')} has no label; fill in the column label")
    table = dict(rows)
    if twice := [name for name, label in rows if table[name] != label]:
        raise UserError(f"{file}: {_example(twice, 'file')} has two labels; keep one row per file")
    if unknown := sorted(table.keys() - names):
        raise UserError(
            f"{file}: {_example(unknown, 'file')} is not in data.root={root}; use paths relative to that folder, and "
            "remove the rows of missing files"
        )
    return table


def _rows(file: Path, root: Path) -> list[tuple[str, str]]:
    """Read the columns file and label of a CSV file."""
    try:
        # Bytes that are not UTF-8 are escaped as in the file names.
        with file.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as stream:
            table = csv.DictReader(stream)
            rows, columns = list(table), table.fieldnames or []
    except (OSError, csv.Error) as error:
        raise UserError(
            f"data.labels={file}: not a readable table ({getattr(error, 'strerror', None) or error}); set it to a CSV "
            f"file with the columns file,label, or set data.labels=folders for the folders in {root}"
        ) from error
    if missing := [column for column in COLUMNS if column not in columns]:
        raise UserError(
            f"{file}: no column {' and no column '.join(missing)} in its first line ({','.join(columns)}); expected "
            f"file,label: paths relative to data.root={root}, and their classes"
        )
    cells = [((row["file"] or "").strip(), (row["label"] or "").strip()) for row in rows]
    return [(PurePosixPath(name).as_posix(), composed(label)) for name, label in cells]


def composed(name: str) -> str:
    """A name in Unicode's composed form: macOS stores é as two characters, and the order of classes must not differ."""
    return unicodedata.normalize("NFC", name)


def classes_of(source: str | Path, root: Path, photos: Iterable[str], label: Mapping[str, str]) -> list[str]:
    """The names of the classes of the usable images, sorted.

    Raises UserError if an image has no label, or if all have the same label.

    Args:
        photos: the file names of the images, which may repeat.
        label: the label of each file that has one.
    """
    photos = sorted({*photos})
    if without := [name for name in photos if name not in label]:
        found = _example(without, "image")
        raise UserError(
            f"data.labels=folders: {found} is directly in data.root={root}; move such images into folders, one per "
            "class"
            if source == FOLDERS
            else f"{source}: {found} in data.root={root} has no row; add file,label for each, or remove the image"
        )
    classes = sorted({label[name] for name in photos})
    if len(classes) < 2:
        fix = ", set data.root to the folder that contains the class folders," if source == FOLDERS else ""
        raise UserError(
            f"data.labels={source}: {count(len(photos), 'image')} in {root} have only one class ({classes[0]!r}), so "
            f"there is nothing to distinguish; add images of another class{fix} or set data.labels=null"
        )
    return classes


def labelled(images: Split, photos: Sequence[str], label: Mapping[str, str], classes: Sequence[str]) -> Split:
    """`images` with class indices, according to the label of each image's photograph."""
    number = {name: i for i, name in enumerate(classes)}
    return replace(images, labels=torch.tensor([number[label[name]] for name in photos], dtype=torch.long))


def contradicted(
    left_out: Sequence[Mapping[str, str]], content: Mapping[str, str], used: Iterable[str], label: Mapping[str, str]
) -> list[dict[str, str]]:
    """The report entries `left_out`, with a note if a file has the same bytes as a used one but another label.

    Args:
        content: a hash of each file.
        used: the names of the used files.
        label: the label of each file that has one.
    """
    first = {content[name]: name for name in used} if left_out and label else {}
    entries = []
    for entry in left_out:
        name = entry["path"]
        own, other = label.get(name), label.get(first.get(content[name], ""))
        differ = own is not None and other is not None and own != other
        note = f", whose label is {other!r} and not {own!r}" if differ else ""
        entries.append({**entry, "reason": entry["reason"] + note})
    return entries


def check_classes(splits: Mapping[str, Split], classes: Sequence[str], fix: str) -> None:
    """Raise UserError if labels do not match the classes, or if a class has no training image, so it can't be learned.

    Args:
        classes: the class names; empty without labels.
        fix: advice for the error about a class without training images.
    """
    counts = {name: split.class_counts(len(classes)) for name, split in splits.items()}
    if wrong := [name for name, n in counts.items() if len(n) != len(classes)]:
        raise UserError(
            f"data: the labels of {' and '.join(wrong)} do not match {len(classes)} classes: if `load` sets "
            f"`classes`, every split needs labels below {len(classes)}; otherwise no split may have labels"
        )
    if not classes:
        return
    if without := [name for name, n in zip(classes, counts["train"], strict=True) if n == 0]:
        val, test = (sum(counts[split][classes.index(name)] for name in without) for split in ("val", "test"))
        raise UserError(
            f"data.labels: {_example(without, 'class', 'classes')} has no training image ({val} for validation, "
            f"{test} for test); {fix}"
        )


def _example(names: Sequence[str], what: str, several: str = "") -> str:
    """`the file 'a.png'`, or `each of 3 files, such as 'a.png',`: a verb in the singular can follow."""
    if len(names) == 1:
        return f"the {what} {names[0]!r}"
    return f"each of {len(names):,} {several or what + 's'}, such as {names[0]!r},"
