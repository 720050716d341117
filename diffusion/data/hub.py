"""Images of the Hugging Face Hub, and local sets in its formats, by the package `datasets` (the extra `hub`)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusion.console import console
from diffusion.data.folder import Collection, Item, Source, refusing
from diffusion.data.images import Label
from diffusion.errors import UserError, pip_install


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
    """

    origin = "The images of {path}; the page of a data set on the Hugging Face Hub states its licence."

    path: str
    subset: str | None = None
    split: str = "train"
    image_column: str | None = None
    label_column: str | None = None

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
        where, local = f"data.path={self.path}", Path(self.path).expanduser()
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
        with refusing(where, "; check the name and the network; a private or gated set needs `hf auth login`"):
            builder = datasets.load_dataset_builder(**given, name=self.subset)

        @refusing(where)
        def items() -> list[Item]:
            builder.download_and_prepare()
            rows = builder.as_dataset(self.split)
            image, column = self._image_column(rows.features), self.label_column
            names = getattr(rows.features.get(column or ""), "names", None)
            labels = [label_of(value, names) for value in rows[column]] if column else [None] * len(rows)
            cells = rows.select_columns(image).cast_column(image, datasets.Image(decode=False))
            return [Item(f"{self.split} {i}", partial(content, cells, i), label) for i, label in enumerate(labels)]

        key = builder.dataset_name, builder.config_id, builder.hash, self.split, self.image_column, self.label_column
        return Source(where, key, items, self.label_column is not None)

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


def content(rows: Any, i: int) -> bytes:
    """The bytes of the image in a row, which has them or names a file."""
    (cell,) = rows[i].values()
    if not cell or not (cell["bytes"] or cell["path"]):
        raise ValueError("no image in this row")
    return cell["bytes"] or Path(cell["path"]).read_bytes()
