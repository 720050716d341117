"""`data.tiles` cuts a few large photographs into tiles like the bundled ones, and splits them by photograph."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion.data import Folder
from diffusion.data.batches import TILE
from diffusion.errors import UserError


def photograph(i: int, width: int = 600, height: int = 400) -> Image.Image:
    """Large and small spots of many colours."""
    rng = np.random.default_rng(i)
    layers = [Image.fromarray(rng.integers(0, 256, (n * 2, n * 3, 3), np.uint8)) for n in (2, 8, 32)]
    coarse, middle, fine = (layer.resize((width, height), Image.Resampling.BICUBIC) for layer in layers)
    return Image.blend(Image.blend(coarse, middle, 0.4), fine, 0.3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen photographs of 600×400 pixels, one of them stored on its side."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(15):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        photograph(i).save(root / f"{i:02d}.jpg", quality=95, exif=exif)
    return root


def load(root: Path, **options: object) -> Folder:
    data = Folder(**{"root": root, "resolution": 16, "tiles": 12, **options})
    data.prepare_data()
    return data


def test_tiles_of_a_photograph_are_in_one_split(root: Path) -> None:
    splits = load(root).splits
    assert {name: len(set(split.sources)) for name, split in splits.items()} == {"train": 11, "val": 2, "test": 2}
    for one, other in combinations(splits.values(), 2):
        assert set(one.sources).isdisjoint(other.sources)
    for split in splits.values():
        counts = [split.sources.count(photo) for photo in set(split.sources)]
        assert min(counts) > 4
        assert max(counts) <= 12
        assert split.sources[: len(counts)] == list(dict.fromkeys(split.sources))  # one tile of each photograph in turn


def test_each_tile_matches_the_window_given_by_its_name(root: Path) -> None:
    places = {}
    for split in load(root, val=0, test=0).splits.values():
        for name, image in zip(split.names, split.images, strict=True):
            assert TILE.search(name)
            photo, side, (left, top) = name.split()[0], int(name.split()[1][:-2]), map(int, name.split()[3].split(","))
            places.setdefault(photo, []).append((left, top, side))
            with Image.open(root / photo) as opened:
                upright = opened.rotate(-90, expand=True) if photo == "03.jpg" else opened.copy()
            assert side >= 128
            assert left + side <= upright.width
            assert top + side <= upright.height
            there = upright.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.LANCZOS)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(there))
    for windows in places.values():
        for (x, y, s), (u, v, t) in combinations(windows, 2):
            common = max(min(x + s, u + t) - max(x, u), 0) * max(min(y + s, v + t) - max(y, v), 0)
            assert common <= 0.5 * (s * s + t * t - common)


def test_windows_of_large_photographs_are_given_in_original_pixels(tmp_path: Path) -> None:
    photograph(0, 3000, 2000).save(tmp_path / "large.jpg", quality=95)
    names = load(tmp_path, val=0, test=0).splits["train"].names
    sides = [int(name.split()[1][:-2]) for name in names]
    assert min(sides) >= 500 - 1  # a quarter of the short side
    assert 1000 < max(sides) <= 2000


def test_limit_counts_tiles_while_val_and_test_count_photographs(root: Path) -> None:
    whole, less = load(root, val=3, test=0.2), load(root, val=3, test=0.2, limit=20)
    assert [len(set(split.sources)) for split in whole.splits.values()] == [9, 3, 3]
    assert less.splits["train"].names == whole.splits["train"].names[:20]
    assert less.splits["val"].names == whole.splits["val"].names
    with pytest.raises(UserError, match=r"15 usable photographs \(\d+ training tiles\), fewer than 900 for training"):
        load(root, limit=900)
    with pytest.raises(UserError, match=r"fewer than 1 for training, 8 for validation and 7 for test"):
        load(root, val=8, test=7)


def test_tiles_depend_on_the_tiles_setting_but_not_on_file_names(root: Path, tmp_path: Path) -> None:
    for i in range(15):
        (tmp_path / f"b{14 - i}.jpg").write_bytes((root / f"{i:02d}.jpg").read_bytes())
    first = load(root)
    assert load(tmp_path).keys == first.keys
    assert load(root).keys == first.keys
    assert load(root, tiles=None).keys != first.keys
    assert load(root, tiles=True).keys == load(root, tiles=70).keys != first.keys
    assert load(root, tiles=False).keys == load(root, tiles=None).keys


def test_photographs_without_usable_tiles_are_refused(root: Path, tmp_path: Path) -> None:
    Image.new("RGB", (600, 400), "blue").save(tmp_path / "sky.png")
    photograph(0, 300, 120).save(tmp_path / "small.png")
    photograph(1).save(tmp_path / "good.png")
    data = load(tmp_path, val=0, test=0)
    assert {entry["path"]: entry["reason"] for entry in data.report if entry["action"] == "refused"} == {
        "sky.png": "nearly uniform: no tile of it has contrast",
        "small.png": "300x120 pixels, smaller than 128x128",
    }
    with pytest.raises(UserError, match="random_crop"):
        Folder(root, 16, tiles=9, random_crop=True)
