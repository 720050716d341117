"""Images of the Hugging Face Hub, and local sets in its formats, by the package `datasets` (the extra `hub`)."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusion.console import console
from diffusion.data.folder import Collection, Item, Source
from diffusion.data.images import Label, Unusable
from diffusion.errors import UserError, first_line, pip_install


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
        streaming: Keep no copy of a set of the Hub, which is then read while it is downloaded, and downloaded again for
            another resolution or seed. Local sets are never copied.
    """

    origin = "The images of {path}; the page of a data set on the Hugging Face Hub states its licence."

    path: str
    subset: str | None = None
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None
    streaming: bool = False

    def source(self) -> Source:
        try:
            import datasets
            import huggingface_hub
        except ImportError as error:
            raise UserError(f"data=hub needs the package datasets: {pip_install('hub')}") from error
        for library in (datasets, huggingface_hub):  # the error says it once, without each try
            library.logging.set_verbosity_error()
        if not console.is_terminal:
            datasets.disable_progress_bars()
        split, most = re.fullmatch(r"(.*?)(?:\[:(\d+)\])?", self.split).groups()  # type: ignore[union-attr]
        where, local, stamps = f"data.path={self.path}", Path(self.path).expanduser(), []
        name, _, revision = self.path.partition("@")
        given: dict[str, Any] = {"path": name, "revision": revision or None}
        if local.exists():
            files = sorted(file for file in [local, *local.rglob("*")] if file.is_file())
            stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
            given = {"path": str(local)}
            saved = local / split if (local / "dataset_dict.json").is_file() else local  # by save_to_disk
            if local.is_file() or (saved / "state.json").is_file():
                files = files if local.is_file() else sorted(saved.glob("*.arrow"))
                given = {"path": files[0].suffix[1:], "data_files": {split: [*map(str, files)]}}
        with refusing(where):
            builder = datasets.load_dataset_builder(**given, name=self.subset)

        def items() -> Iterator[Item]:
            with refusing(where):
                if stamps or self.streaming:
                    rows = builder.as_streaming_dataset(split).decode(False)
                    rows = rows if most is None else rows.take(int(most))
                else:
                    builder.download_and_prepare()
                    rows = builder.as_dataset(self.split)
                image, names = self._columns(where, rows.features or {})
                rows = rows.select_columns([image, *names]).cast_column(image, datasets.Image(decode=False))
                for i, row in enumerate(rows):
                    label = next((label_of(row[column], names[column]) for column in names), None)
                    yield Item(f"{split} {i}", partial(content, row[image], builder.name == "imagefolder"), label)

        key = stamps or (name, builder.hash), self.subset, self.split, self.image_column, self.label_column
        return Source(where, key, items(), labels=self.label_column is not None)

    def _columns(self, where: str, features: Mapping[str, Any]) -> tuple[str, dict[str, list[str] | None]]:
        """The column of images; and that of labels, if one is used, with the names of its classes, if it has any."""
        from datasets import ClassLabel, Image, Value

        def holds_images(kind: Any) -> bool:  # as such, as the bytes of files, or with their paths
            return isinstance(kind, Image) or kind == Value("binary") or (isinstance(kind, dict) and "bytes" in kind)

        images, column = [name for name, kind in features.items() if holds_images(kind)], self.label_column
        found = "its columns: " + (
            ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items()) or "none"
        )
        wanted = [self.image_column] if self.image_column else images
        if len(wanted) != 1 or wanted[0] not in images:
            fault = f"{self.image_column} is no column" if self.image_column else f"{len(images)} columns"
            raise UserError(
                f"{where}: {fault} of images; set data.image_column to one of them, or another path; {found}"
            )
        kind = features.get(column or "")
        single = isinstance(kind, Value) and re.match("u?int|bool|(large_)?string", kind.dtype)
        if column and not isinstance(kind, ClassLabel) and not single:
            raise UserError(f"{where}: data.label_column={column} is {kind}; expected numbers or names; {found}")
        return wanted[0], {column: getattr(kind, "names", None)} if column else {}


def label_of(value: Any, names: list[str] | None) -> Label | None:
    """The label in a row: its place among the names of the classes and its name, if there are names."""
    if names is None or value is None:
        return value if isinstance(value, str | None) else int(value)
    return (value, names[value]) if value >= 0 else None  # -1: of a test split without labels


def content(cell: Mapping[str, Any] | None, by_path: bool) -> bytes:
    """The bytes of the image in a row. Only the rows of an imagefolder may name a file instead."""
    cell = cell or {}
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    if not by_path or not cell.get("path"):
        raise Unusable("no image in this row")
    import fsspec

    with fsspec.open(cell["path"], "rb") as file:
        return bytes(file.read())


@contextlib.contextmanager
def refusing(where: str) -> Iterator[None]:
    """Raise a UserError for an error of datasets, which has many kinds of them, with several lines."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        line = first_line(error)
        known = type(error).__name__ in ("DatasetNotFoundError", "ConnectionError")
        hint = "; check the name and the network; a private or gated set needs `hf auth login`" if known else ""
        raise UserError(f"{where}: {line.rstrip('.')}{hint}") from error
