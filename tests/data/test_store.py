"""Decoded images are memory-mapped and not copied, and preparing them resumes where it was killed."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.data import Folder, batches, duplicates, folder, store
from diffusion.data.batches import Split
from diffusion.data.store import Made

SHAPE = (3, 4, 4)


def rows(first: int, n: int) -> Iterator[tuple[list[np.ndarray], Made]]:
    """Items first, …, n − 1; every third has no image, and every fourth has two."""
    for i in range(first, n):
        number = 0 if i % 3 == 2 else 1 + (i % 4 == 3)
        images = [np.full(SHAPE, (i + k) % 256, np.uint8) for k in range(number)]
        yield images, Made([f"{i}.{k}" for k in range(number)], [{"path": f"{i}"}] * (not number))


def whole(folder: Path) -> store.Decoded:
    return store.stored(folder / "whole", SHAPE, lambda first: rows(first, 50))


def mapped(values: torch.Tensor) -> bool:
    """Whether the values are in a memory-mapped file."""
    address = values.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, end = (int(word, 16) for word in line.split()[0].split("-"))
        if first <= address < end:
            return line.endswith(".bin")
    return False


@pytest.mark.parametrize("killed", [1, 9, 10, 11, 33, 49])
def test_preparation_resumes_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> None:
    monkeypatch.setattr(store, "EVERY", 10)
    begun = []

    def make(first: int) -> Iterator[tuple[list[np.ndarray], Made]]:
        begun.append(first)
        for i, made in enumerate(rows(first, 50), first):
            if i == killed and len(begun) == 1:
                raise KeyboardInterrupt
            yield made

    with pytest.raises(KeyboardInterrupt):
        store.stored(tmp_path / "images", SHAPE, make)
    again, alone = store.stored(tmp_path / "images", SHAPE, make), whole(tmp_path)
    assert begun == [0, killed // 10 * 10]
    assert torch.equal(again.images, alone.images)
    assert (again.made, again.hash) == (alone.made, alone.hash)
    assert sorted(path.name for path in tmp_path.glob("images*")) == ["images.bin", "images.json", "images.lock"]


def test_without_file_locks_two_processes_may_make_the_same_images(tmp_path: Path, monkeypatch) -> None:
    """The second one begins and ends while the first one works."""
    monkeypatch.setattr(store, "lock", lambda *_: None)
    others: list[store.Decoded] = []

    def make(first: int) -> Iterator[tuple[list[np.ndarray], Made]]:
        for i, made in enumerate(rows(first, 20)):
            if i == 10:
                others.append(store.stored(tmp_path / "images", SHAPE, lambda first: rows(first, 20)))
            yield made

    found = store.stored(tmp_path / "images", SHAPE, make)
    assert torch.equal(found.images, others[0].images)
    assert found.made == others[0].made
    assert sorted(path.name for path in tmp_path.glob("images*")) == ["images.bin", "images.json"]


def test_progress_is_recorded_after_some_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SECONDS", -1.0)
    begun = []

    def make(first: int) -> Iterator[tuple[list[np.ndarray], Made]]:
        begun.append(first)
        yield from rows(first, 5)
        if len(begun) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stored(tmp_path / "images", SHAPE, make)
    store.stored(tmp_path / "images", SHAPE, make)
    assert begun == [0, 5]


@pytest.mark.parametrize(("line", "first"), [(1, 10), (0, 0)])
def test_progress_counts_up_to_the_first_damaged_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: int, first: int
) -> None:
    monkeypatch.setattr(store, "EVERY", 10)

    def stopped(first: int) -> Iterator[tuple[list[np.ndarray], Made]]:
        yield from rows(first, 25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stored(tmp_path / "images", SHAPE, stopped)
    log = tmp_path / "images.progress"
    entries = log.read_text().splitlines()
    assert len(entries) == 2
    entries[line] = entries[line][:-30]
    log.write_text("\n".join(entries))
    begun = []

    def make(first: int) -> Iterator[tuple[list[np.ndarray], Made]]:
        begun.append(first)
        return rows(first, 50)

    again = store.stored(tmp_path / "images", SHAPE, make)
    assert begun == [first]
    assert torch.equal(again.images, whole(tmp_path).images)


def test_a_file_with_a_new_timestamp_is_accepted_and_hashed_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = whole(tmp_path)
    os.utime(tmp_path / "whole.bin", ns=(0, time.time_ns()))
    for _ in range(2):
        found = store.read(tmp_path / "whole", SHAPE)
        assert found is not None
        assert found.hash == made.hash
        monkeypatch.setattr(store, "_hash", lambda _: pytest.fail("the file was hashed"))


def test_splits_stay_memory_mapped_and_are_not_copied(photos: Path, cache: Path) -> None:
    data = Folder(root=photos, resolution=8, batch_size=4, val=8, test=8)
    data.prepare_data()
    assert all(mapped(split.images) for split in data.splits.values())
    assert not mapped(data.splits["train"].images.clone())
    held, train = (loader.dataset for loader in data.val_dataloader())
    assert held is data.splits["val"]
    assert train.split is data.splits["train"]  # the training images used in validation


def test_a_second_start_needs_no_decoding_and_no_hashing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(seed: int) -> Folder:
        data = Folder(root=photos, resolution=8, batch_size=4, val=8, test=8, seed=seed)
        data.prepare_data()
        return data

    keys = load(0).keys
    assert load(1).keys != keys
    monkeypatch.setattr(folder, "decoded", lambda *_: pytest.fail("a file was decoded"))
    monkeypatch.setattr(batches, "hash_of", lambda _: pytest.fail("the pixels were hashed"))
    monkeypatch.setattr(store, "_hash", lambda _: pytest.fail("the file was hashed"))
    assert load(0).keys == keys


def test_near_duplicates_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    train, val = (torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=draws) for n in (70, 40))
    val[[3, 17, 39]] = train[[69, 0, 31]]
    train[[5, 50]] = train[[31, 31]]  # the first of several equal images is named
    splits = {
        name: Split(images, [f"{name}{i}" for i in range(len(images))])
        for name, images in {"train": train, "val": val}.items()
    }
    expected = duplicates.across(splits)
    assert [(pair.name, pair.of) for pair in expected] == [
        ("val3", "train69"),
        ("val17", "train0"),
        ("val39", "train5"),
    ]
    monkeypatch.setattr(duplicates, "KNOWN", 16)
    monkeypatch.setattr(duplicates, "ROWS", 7)
    assert duplicates.across(splits) == expected
    assert duplicates.repeats(val, train, duplicates.EITHER_WAY).nonzero().flatten().tolist() == [3, 17, 39]


def test_a_json_file_describes_the_decoded_images(tmp_path: Path) -> None:
    made = whole(tmp_path)
    about = json.loads((tmp_path / "whole.json").read_text())
    assert (about["hash"], len(about["made"]["names"])) == (made.hash, len(made.images))
