"""The landscape tiles follow their rules, and are the same windows at every resolution."""

import csv
import hashlib
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Landscapes, tiles
from diffusion.data.image import read
from diffusion.data.tiles import HERE, Window, near_duplicates, split_photos

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


def test_no_photograph_is_in_two_splits_and_each_split_has_many_categories(windows: Windows) -> None:
    with (HERE / "CREDITS.csv").open(newline="") as table:
        category = {row["file"]: row["category"] for row in csv.DictReader(table)}
    used = {split: {window.photo for window in chosen} for split, chosen in windows.items()}
    assert used == {split: set(files) for split, files in split_photos().items()}
    assert sum(map(len, used.values())) == 37
    assert set.union(*used.values()) == category.keys()
    spread = {split: {category[file] for file in files} for split, files in used.items()}
    assert len(spread["train"]) == 12
    assert spread["val"] == spread["test"]
    assert len(spread["val"]) == 6


def test_tiles_are_distributed_evenly_over_photographs(windows: Windows) -> None:
    for split, least in {"train": 36, "val": 41, "test": 41}.items():
        counts = sorted(Counter(window.photo for window in windows[split]).values())
        assert counts[0] >= least
        assert counts[-1] - counts[len(counts) // 2] <= 1  # only photographs without further windows have fewer tiles


def test_windows_lie_inside_their_photographs_and_cover_all_sizes(
    windows: Windows, photos: dict[str, Image.Image]
) -> None:
    everything = [window for chosen in windows.values() for window in chosen]
    for window in everything:
        left, top, right, bottom = window.box
        width, height = photos[window.photo].size
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert 128 <= window.side <= min(width, height)
    sides = np.array([window.side for window in everything])
    assert all(count > 50 for count in np.histogram(sides, [128, 181, 256, 362, 513])[0])


def test_no_window_is_uniform_or_repeats_another(windows: Windows, photos: dict[str, Image.Image]) -> None:
    everything = [window for chosen in windows.values() for window in chosen]
    crops = [photos[window.photo].crop(window.box) for window in everything]
    contrast = [np.asarray(crop.convert("L").resize((64, 64), Image.Resampling.LANCZOS)).std() for crop in crops]
    assert min(contrast) >= 10
    small = np.stack([np.asarray(crop.resize((16, 16), Image.Resampling.LANCZOS), float).ravel() for crop in crops])
    square = (small**2).sum(1)
    rms = np.sqrt(np.maximum(square[:, None] + square - 2 * small @ small.T, 0) / small.shape[1])
    assert rms[~np.eye(len(rms), dtype=bool)].min() >= 8
    for a, b in combinations(everything, 2):
        if a.photo == b.photo:
            wide = min(a.box[2], b.box[2]) - max(a.left, b.left)
            high = min(a.box[3], b.box[3]) - max(a.top, b.top)
            common = max(wide, 0) * max(high, 0)
            assert common <= 0.5 * (a.side**2 + b.side**2 - common)


def test_near_duplicates_differ_by_less_than_eight_levels() -> None:
    base = np.full((16, 16, 3), 100, np.uint8)
    near = near_duplicates(np.stack([base, base + np.uint8(7), base + np.uint8(8), 255 - base]))
    assert near.tolist() == [
        [True, True, False, False],
        [True, True, True, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


def test_every_resolution_uses_the_same_windows(
    windows: Windows, photos: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = {split: chosen[:30] for split, chosen in windows.items()}
    monkeypatch.setattr(tiles, "choose_windows", lambda photos: windows)
    monkeypatch.setattr(tiles, "TILES", dict.fromkeys(windows, 30))
    small, smaller = Landscapes(16), Landscapes(8, seed=5)
    for data in (small, smaller):
        data.prepare_data()
        data.setup()
    assert len({split.images.untyped_storage().data_ptr() for split in small.splits.values()}) == 1  # none is copied
    for split, chosen in windows.items():
        assert small.splits[split].names == smaller.splits[split].names
        for data in (small, smaller):
            window, image = chosen[17], data.splits[split].images[17].permute(1, 2, 0).numpy()
            size = data.shape[1:]
            tile = photos[window.photo].crop(window.box).resize(size, Image.Resampling.LANCZOS)
            assert np.array_equal(image, np.asarray(tile))
    monkeypatch.setattr(tiles, "choose_windows", lambda photos: pytest.fail("the tiles were made again"))
    assert Landscapes(16).load()["train"].key == small.splits["train"].key


def test_limit_keeps_all_photographs_and_affects_only_the_training_split() -> None:
    every, part = Landscapes(8).load(), Landscapes(8, limit=100).load()
    assert len(part["train"]) == len(set(part["train"].names)) == 100
    assert set(part["train"].names) < set(every["train"].names)
    assert set(part["train"].sources) == set(every["train"].sources)
    assert [part[name].key for name in ("val", "test")] == [every[name].key for name in ("val", "test")]
    assert Landscapes(8, limit=2091).load()["train"].key == every["train"].key


def test_the_photographs_are_credited() -> None:
    with (HERE / "CREDITS.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["file"] for row in rows} == {path.name for path in Path(HERE / "photos").iterdir()}
    assert all(row["author"] and row["licence"] for row in rows)
