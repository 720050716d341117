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
