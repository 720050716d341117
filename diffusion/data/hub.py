"""Images of the Hugging Face Hub, and local sets in its formats, by the package `datasets` (the extra `hub`)."""

import contextlib
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import fsspec

from diffusion.base.console import console
from diffusion.base.files import cache_dir
from diffusion.base.images import Label, Made, in_threads
from diffusion.data.folder import Collection, Item, Source, content_of
from diffusion.errors import imported, refusing


@dataclass(eq=False, repr=False, kw_only=True)
class Hub(Collection):
    """The images of a data set on the Hugging Face Hub, or of a local parquet, arrow, imagefolder or webdataset.

    Args:
        path: USER/NAME on the Hub, or USER/NAME@REVISION with a commit, a branch or a tag; or a folder; or a file.
        subset: One of the set's configurations, if it has several.
        split: Which of its splits is read, such as train, train+test or "train[:5000]"; `val` and `test` are parts of
            this one.
        image_column: The column of images; null: the only one.
        label_column: The column of class labels, for a network with `model.classes`; null: no labels.
        streaming: Read rows while they are downloaded and keep only resized images: for sets too large for the disk.
    """

    origin = "The images of {path}; the page of a data set on the Hugging Face Hub states its licence."

    path: str
    subset: str | None = None
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    streaming: bool = False

    def source(self) -> Source:
        datasets, huggingface_hub = (imported(name, "data=hub", "hub") for name in ("datasets", "huggingface_hub"))
        for library in ("datasets", "huggingface_hub", "httpx", "httpx2"):  # the error says it, once
            huggingface_hub.logging.get_logger(library).setLevel("ERROR")
        if not console.is_terminal:
            datasets.disable_progress_bars()
        local = Path(self.path).expanduser()
        name, _, revision = self.path.partition("@")
        given: dict[str, Any] = {"path": name, "revision": revision or None}
        if local.exists():
            given = {"path": str(local)}
            name = self.split.partition("[")[0]
            saved = local / name if (local / "dataset_dict.json").is_file() else local  # by save_to_disk
            if local.is_file():
                given = {"path": local.suffix[1:], "data_files": str(local)}
            elif (saved / "state.json").is_file():
                given = {"path": "arrow", "data_files": {name: f"{saved}/data-*.arrow"}}
        advice = "; check the name and the network; a private or gated set needs `hf auth login`"
        with refusing(self.path, advice, "data.path"):
            builder = datasets.load_dataset_builder(**given, name=self.subset)

        @refusing(self.path, key="data.path")
        def items() -> Iterable[Item]:
            if self.streaming:
                first = re.fullmatch(r"([\w.]+)\[:(\d+)\]", self.split)
                rows = builder.as_streaming_dataset(first[1] if first else self.split).decode(False)
                rows = rows.take(int(first[2])) if first else rows
            else:
                builder.download_and_prepare()
                rows = builder.as_dataset(self.split)
            image, column = self._image_column(rows.features or {}), self.label_column
            own = partial(label_of, names=getattr((rows.features or {}).get(column or ""), "names", None))
            rows = rows.select_columns([*filter(None, (image, column))])
            rows = rows.cast_column(image, datasets.Image(decode=False))
            pairs: Iterator[tuple[Any, Label | None]]
            if self.streaming:
                pairs = ((cache(partial(content, [row[image]], 0)), own(row.get(column))) for row in rows)
            else:
                labels = rows[column] if column else [None] * len(rows)
                pairs = ((partial(content, rows[image], i), own(label)) for i, label in enumerate(labels))
            return (Item(f"{self.split} {i}", *pair) for i, pair in enumerate(pairs))

        key = builder.dataset_name, builder.config_id, builder.hash, self.split, self.image_column, self.label_column
        return Source(self.path, key, items, self.label_column is not None, "data.path")

    def _decode(self, source: Source) -> Iterator[Made]:
        """See `Collection`. Streamed images wait in a temporary file until all contents are known, and so the order."""
        if not self.streaming:
            yield from super()._decode(source)
            return
        found: list[tuple[str, str, Any]] = []
        with TemporaryFile(dir=cache_dir("images")) as file, refusing(source.place, key=source.setting):
            for content, item, made in in_threads(self._read, source.items(), "reading rows", "row"):
                found.append((content, item.name, (item.label, file.tell())))
                pickle.dump(made, file)
            used, again = self._ordered(found)
            for _, name, (label, place) in used:
                file.seek(place)
                yield from ((name + ending, image, label) for ending, image in pickle.load(file))
            yield from again

    def _read(self, item: Item) -> tuple[str, Item, list[Any]]:
        """The hash of an item's content, the item, and its images. Raises errors of the network."""
        with contextlib.suppress(ValueError):  # no image in this row
            item.read()
        return (hashed := content_of(item)), item, self._images(hashed, item)

    def _image_column(self, features: Mapping[str, Any]) -> str:
        """The column of images. Raises ValueError if it is not clear which one, or if there are no such labels."""
        from datasets import ClassLabel, Image, Value

        def holds_images(kind: Any) -> bool:  # as such, as the bytes of files, or with their paths
            return isinstance(kind, Image) or kind == Value("binary") or (isinstance(kind, dict) and "bytes" in kind)

        found = "its columns: " + ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
        images = [name for name, kind in features.items() if holds_images(kind) and self.image_column in (None, name)]
        if len(images) != 1:
            named = f" named {self.image_column}" if self.image_column else ""
            raise ValueError(f"{len(images)} columns of images{named}; set data.image_column to one of them; {found}")
        kind = features.get(self.label_column or "")
        single = isinstance(kind, Value) and re.match("u?int|bool|(large_)?string", kind.dtype)
        if self.label_column and not isinstance(kind, ClassLabel) and not single:
            raise ValueError(f"data.label_column={self.label_column} is {kind}; expected numbers or names; {found}")
        return images[0]


def label_of(value: Any, names: list[str] | None) -> Label | None:
    """The label in a row: its place among the names of the classes and its name, if there are names."""
    if names is None or value is None:
        return value if isinstance(value, str | None) else int(value)
    return (value, names[value]) if value >= 0 else None  # -1: of a test split without labels


def content(cells: Sequence[Any], i: int) -> bytes:
    """The bytes of the image in a row, which has them or names a file, also one that is not on this machine."""
    cell = cells[i]
    if not cell or not (cell["bytes"] or cell["path"]):
        raise ValueError("no image in this row")
    return cell["bytes"] or (file := fsspec.open(cell["path"])).fs.cat_file(file.path)
