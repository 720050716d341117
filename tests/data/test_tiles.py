"""The landscape tiles are the recorded windows, the same at every resolution, and no photograph is in two splits."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Landscapes, tiles
from diffusion.data.image import read
from diffusion.data.tiles import HERE, Window, credits_table, split_photos

Windows = dict[str, list[Window]]


@pytest.fixture(scope="module")
def photos() -> dict[str, Image.Image]:
    return {path.name: read(path) for path in sorted((HERE / "photos").glob("*.jpg"))}


@pytest.fixture(scope="module")
def windows(photos: dict[str, Image.Image]) -> Windows:
    return tiles.choose_windows(photos)


def test_the_chosen_windows_match_their_recorded_hash(windows: Windows) -> None:
    assert {split: len(chosen) for split, chosen in windows.items()} == {"train": 2091, "val": 250, "test": 250}
    text = "\n".join(f"{split} {tuple(window)}" for split, chosen in windows.items() for window in chosen)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a8fdd1ceb15c511a"


def test_no_photograph_is_in_two_splits_and_tiles_are_distributed_evenly(windows: Windows) -> None:
    used = {split: Counter(window.photo for window in chosen) for split, chosen in windows.items()}
    assert {split: set(counts) for split, counts in used.items()} == {s: set(f) for s, f in split_photos().items()}
    assert len({photo for counts in used.values() for photo in counts}) == sum(map(len, used.values())) == 37
    assert min(count for counts in used.values() for count in counts.values()) >= 36


def test_every_resolution_uses_the_same_windows(
    windows: Windows, photos: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "choose_windows", lambda photos: windows)
    small, other = Landscapes(16), Landscapes(8, labels=True, channels=1, limit=100)
    for data in (small, other):
        data.prepare_data()
    for split, chosen in windows.items():
        assert small.splits[split].names == [window.name for window in chosen]
        window, image = chosen[17], small.splits[split].images[17].permute(1, 2, 0).numpy()
        box = (window.left, window.top, window.left + window.side, window.top + window.side)
        tile = photos[window.photo].crop(box).resize((16, 16), Image.Resampling.LANCZOS)
        assert np.array_equal(image, np.asarray(tile))
    train = other.splits["train"]
    assert len(train) == len(set(train.names)) == 100
    assert set(train.names) < set(small.splits["train"].names)
    assert set(train.sources) == set(small.splits["train"].sources)
    assert other.splits["val"].names == small.splits["val"].names
    scenes = {row["file"]: row["scene"] for row in credits_table()}
    assert [other.classes[i] for i in train.labels.tolist()] == [scenes[photo] for photo in train.sources]
    assert min(other.class_counts("train")) > 0
    monkeypatch.setattr(tiles, "choose_windows", lambda photos: pytest.fail("the tiles were made again"))
    assert Landscapes(16).load()["train"].key == small.splits["train"].key


def test_the_photographs_are_credited_and_have_a_scene() -> None:
    rows = credits_table()
    assert {row["file"] for row in rows} == {path.name for path in Path(HERE / "photos").iterdir()}
    assert all(row["author"] and row["licence"] for row in rows)
    trained = Counter(row["scene"] for row in rows if row["file"] in split_photos()["train"])
    assert trained.keys() == {"buildings", "field", "mountain", "sky", "sunset", "trees", "water"}
    assert min(trained.values()) >= 2
