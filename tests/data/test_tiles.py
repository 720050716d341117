"""The landscape tiles are the recorded windows, the same at every resolution, and no photograph is in two splits."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diffusion.base.files import read_table
from diffusion.base.images import read
from diffusion.data import Landscapes, sets
from diffusion.data.sets import HERE

WINDOWS = read_table(HERE / "windows.csv")


@pytest.fixture(autouse=True)
def cache() -> None:
    """That of the session, because the tests of metrics use the same tiles."""


def test_no_photograph_is_in_two_splits_and_tiles_are_distributed_evenly() -> None:
    used = {name: Counter(row["photo"] for row in WINDOWS if row["split"] == name) for name in ("train", "val", "test")}
    assert [sum(counts.values()) for counts in used.values()] == [2091, 250, 250]
    assert len({photo for counts in used.values() for photo in counts}) == sum(map(len, used.values())) == 37
    assert min(count for counts in used.values() for count in counts.values()) >= 36


def test_every_resolution_uses_the_same_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    small, other = Landscapes(16), Landscapes(8, labels=True, channels=1, limit=100)
    for data in (small, other):
        data.setup()
    for name, split in small.splits.items():
        rows = [row for row in WINDOWS if row["split"] == name]
        assert split.sources == [row["photo"] for row in rows]
        left, top, side = (int(rows[17][key]) for key in ("left", "top", "side"))
        window = read(HERE / "photos" / rows[17]["photo"]).crop((left, top, left + side, top + side))
        tile = window.resize((16, 16), Image.Resampling.LANCZOS)
        assert np.array_equal(split.images[17].permute(1, 2, 0).numpy(), np.asarray(tile))
    train = other.splits["train"]
    assert len(train) == len(set(train.names)) == 100
    assert sorted(train.names + other.unused.names) == sorted(small.splits["train"].names)
    assert set(train.sources) == set(small.splits["train"].sources)
    assert other.splits["val"].names == small.splits["val"].names
    scenes = {row["file"]: row["scene"] for row in read_table(HERE / "CREDITS.csv")}
    assert [other.classes[i] for i in train.labels.tolist()] == [scenes[photo] for photo in train.sources]
    assert min(other.class_counts("train")) > 0
    monkeypatch.setattr(sets, "read", lambda *_, **__: pytest.fail("the tiles were made again"))
    assert Landscapes(16).load()["train"].key == small.splits["train"].key


def test_the_photographs_are_credited_and_have_a_scene() -> None:
    rows = read_table(HERE / "CREDITS.csv")
    assert {row["file"] for row in rows} == {path.name for path in (HERE / "photos").iterdir()}
    assert all(row["author"] and row["licence"] for row in rows)
    trained = {row["photo"] for row in WINDOWS if row["split"] == "train"}
    scenes = Counter(row["scene"] for row in rows if row["file"] in trained)
    assert scenes.keys() == {"buildings", "field", "mountain", "sky", "sunset", "trees", "water"}
    assert min(scenes.values()) >= 2
