"""Sets of the Hugging Face Hub, and local ones in its formats, have the images of the folder they were made of."""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from archives import files_of, loaded, pets

from diffusion.data import Folder, Hub
from diffusion.errors import UserError

pytestmark = pytest.mark.doors
FILE = "data/train-00000-of-00001.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path / "pets", nested="cat")  # from nested folders, an imagefolder has no labels


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    from hub import serving

    with serving(tmp_path / "huggingface", sets=True) as hub:
        yield hub


def rows(root: Path) -> Any:
    """A table as datasets makes it: the images of a folder in files' own bytes, their classes, and other columns."""
    import pyarrow as pa
    from datasets import ClassLabel, Features, Image, Value

    files = files_of(root)
    kinds = Features({"picture": Image(), "kind": ClassLabel(names=["cat", "dog"]), "name": Value("string")})
    made = {
        "picture": [{"bytes": content, "path": None} for content in files.values()],
        "kind": [int(name.startswith("dog")) for name in files],
        "name": [name[:3] for name in files],
    }
    return pa.table(made, schema=kinds.arrow_schema)


def parquet(table: Any) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_folder_its_parquet_its_arrow_and_the_hub_are_the_same(hub, root: Path, tmp_path: Path, cache: Path) -> None:
    from datasets import Dataset, DatasetDict
    from datasets.table import InMemoryTable

    right, table = loaded(Folder, root, labels="folders"), rows(root)
    (tmp_path / "pets.parquet").write_bytes(parquet(table))
    saved = Dataset(InMemoryTable(table), fingerprint="made")
    saved.save_to_disk(tmp_path / "saved")
    DatasetDict(train=saved).save_to_disk(tmp_path / "splits")
    hub.commit("me/pets", {FILE: parquet(table)})
    for place in (tmp_path / "pets.parquet", tmp_path / "saved", tmp_path / "splits", "me/pets", "me/pets@main"):
        assert loaded(Hub, place, label_column="kind").keys == right.keys
    hub.commit("me/folder", {f"train/{name}": content for name, content in files_of(root).items()})
    for imagefolder in (root, "me/folder"):
        assert loaded(Hub, imagefolder, label_column="label").keys == right.keys
    shutil.rmtree(cache)  # a streamed set has the images of the set that is downloaded
    for place, label in (("me/pets", "kind"), ("me/folder", "label"), (tmp_path / "splits", "kind"), (root, "label")):
        assert loaded(Hub, place, label_column=label, streaming=True).keys == right.keys
    assert loaded(Hub, tmp_path / "pets.parquet", label_column="name").keys == right.keys
    first = loaded(Hub, tmp_path / "splits", split="train[:12]")
    assert [len(split) for split in first.splits.values()] == [7, 3, 2]
    shutil.rmtree(cache)
    assert loaded(Hub, "me/pets", split="train[:12]", streaming=True).keys == first.keys
    (tmp_path / "pets.parquet").write_bytes(parquet(table[:10]))
    assert sum(map(len, loaded(Hub, tmp_path / "pets.parquet").splits.values())) == 10  # not those of the old file


def test_a_set_that_was_read_once_needs_no_network(hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("me/pets", {FILE: parquet(rows(root))})
    keys = loaded(Hub, "me/pets").keys
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert loaded(Hub, "me/pets").keys == keys
    assert loaded(Hub, "me/pets", resolution=6).splits["train"].images.shape[-1] == 6


def test_rows_without_an_image_are_reported(root: Path, tmp_path: Path, cache: Path) -> None:
    import pyarrow as pa

    cells = [{"bytes": content, "path": None} for content in files_of(root).values()]
    cells += [None, {"bytes": b"hello", "path": None}]
    (tmp_path / "pets.parquet").write_bytes(parquet(pa.table({"image": cells})))
    for streaming in (False, True):
        data = loaded(Hub, tmp_path / "pets.parquet", streaming=streaming)
        assert data.keys == loaded(Folder, root).keys
        assert {entry["path"]: entry["reason"] for entry in data.report} == {
            "train 20": "can't be decoded: no image in this row",
            "train 21": "not an image in a known format",
        }
        shutil.rmtree(cache)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such set": ("me/nothing", {}, "'me/nothing' doesn't exist on the Hub or cannot be accessed; check the name"),
    "a gated set": ("me/gated", {}, "gated.*hf auth login"),
    "no such split": ("me/pets", {"split": "tset"}, "tset"),
    "a part of a stream": ("me/pets", {"split": "train[5:]", "streaming": True}, r"Bad split: train\[5:\]"),
    "a stream of a parquet that is cut": ("me/cut", {"streaming": True}, "me/cut"),
    "no such column": ("me/pets", {"image_column": "image"}, "0 columns of images named image; .*picture"),
    "several columns of images": ("me/two", {}, "2 columns of images; set data.image_column"),
    "labels that are lists": ("me/pets", {"label_column": "lists"}, "label_column=lists"),
    "no such labels": ("me/pets", {"label_column": "class"}, "label_column=class"),
    "a parquet that is cut": ("me/cut", {}, "me/cut"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sets_that_cannot_be_used_are_refused(hub, root: Path, cache: Path, name: str) -> None:
    table = rows(root)
    content = parquet(table.append_column("lists", [[[1, 2]] * 20]))
    two = parquet(table.append_column("other", table["picture"]))
    for of, made in {"me/pets": content, "me/gated": content, "me/cut": content[:-100], "me/two": two}.items():
        hub.commit(of, {FILE: made})
    hub.gated.add("me/gated")
    path, options, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as refused:
        loaded(Hub, path, **options)
    assert str(refused.value).startswith(f"data.path={path}: ")
    assert not [*cache.glob("*.bin")]


def test_a_stream_that_breaks_off_is_not_a_smaller_set(hub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("me/folder", {f"train/{name}": content for name, content in files_of(root).items()})

    def broken(path: str, opened: Any = fsspec.open) -> Any:
        return opened(path if path.endswith("0.png") else "/nowhere")

    monkeypatch.setattr(fsspec, "open", broken)
    with pytest.raises(UserError, match=r"data.path=me/folder: .*nowhere"):
        loaded(Hub, "me/folder", streaming=True)


def test_without_network_one_line_says_so(hub, caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}")
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its tries
    with pytest.raises(UserError, match=r"Couldn't reach 'me/pets' on the Hub .*; check the name and the network"):
        loaded(Hub, "me/pets")
    assert not caplog.records


def test_without_the_package_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install .*\[hub\]"):
        loaded(Hub, "me/pets")
