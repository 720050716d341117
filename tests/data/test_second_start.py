"""A second start of a folder does little work per file: it lists a million files and reads none of them again."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Folder
from diffusion.data import folder as folders
from diffusion.errors import UserError

MOST = 11  # calls per file: its name, its size and times, its place in the split


def folder_of(tmp_path: Path, images: int) -> Folder:
    root = tmp_path / str(images)
    root.mkdir()
    for i in range(images):
        colours = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(colours).save(root / f"{i}.png")
    Folder(root, resolution=8).prepare_data()
    return Folder(root, resolution=8)


def calls(data: Folder) -> int:
    """The number of calls of Python and C functions in a start."""
    made = 0

    def count(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        data.prepare_data()
    finally:
        sys.setprofile(None)
    return made


def test_a_second_start_makes_few_calls_for_each_file(tmp_path: Path) -> None:
    few, many = (calls(folder_of(tmp_path, images)) for images in (100, 300))
    assert many - few <= MOST * 200


@pytest.fixture
def collected() -> Iterator[set[str]]:
    """The functions during which garbage collection runs, with a collection after every tenth new object."""
    before, names = gc.get_threshold(), set()

    def note(_phase: str, _info: dict[str, int]) -> None:
        frame = sys._getframe(1)
        while frame is not None:
            names.add(frame.f_code.co_name)
            frame = frame.f_back

    gc.callbacks.append(note)
    gc.set_threshold(10)
    yield names
    gc.set_threshold(*before)
    gc.callbacks.remove(note)


def test_listing_files_triggers_no_garbage_collection(tmp_path: Path, collected: set[str]) -> None:
    data = folder_of(tmp_path, 50)
    assert gc.isenabled()
    assert "folder_of" in collected
    data.prepare_data()
    assert not collected & {"_walk", "_hashed", "_split"}


def test_files_that_were_read_before_an_interruption_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, read, streamed = folder_of(tmp_path, 8), [], folders.streamed
    for path in data.root.iterdir():
        path.touch()  # other times than those recorded

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for i, result in enumerate(streamed(*arguments)):
            if i == 5:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(folders, "streamed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare_data()
    monkeypatch.setattr(folders, "streamed", streamed)
    once = folders._hash
    monkeypatch.setattr(folders, "_hash", lambda path: read.append(path) or once(path))
    data.prepare_data()
    assert len(read) == 3


def test_prepared_images_can_be_read_from_a_read_only_cache_with_other_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_of(tmp_path, 8)
    for path in data.root.iterdir():
        path.touch()

    def refuse(*_: Any) -> None:
        raise UserError("the cache is read-only")

    monkeypatch.setattr(folders, "write", refuse)
    data.setup()
    assert len(data.splits["train"]) > 0
