"""Images have the classes of their data set, even if others are left out or cut, and the pixels stay the same."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.config.build import make
from diffusion.data import Batch, Folder, ImageData, Landscapes, Split, folder, tiles
from diffusion.data.store import Decoded, Made
from diffusion.data.tiles import HERE, scenes, split_photos
from diffusion.errors import UserError

Row = tuple[str, str]


def picture(i: int, side: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten cats, half of them in nested folders, and ten dogs."""
    root = tmp_path / "pets"
    (root / "cat" / "old").mkdir(parents=True)
    (root / "dog").mkdir()
    for i in range(20):
        picture(i).save(root / ("dog" if i % 2 else "cat" if i % 4 else "cat/old") / f"{i}.png")
    return root


def load(root: Path, **options: object) -> Folder:
    data = Folder(**{"root": root, "resolution": 8, "batch_size": 2, "val": 3, "test": 3, **options})
    data.prepare_data()
    return data


def labels(data: ImageData) -> dict[str, str]:
    """Image name -> name of its class."""
    found = {}
    for split in data.splits.values():
        assert split.labels is not None
        assert split.labels.dtype == torch.int64
        found |= {name: data.classes[i] for name, i in zip(split.names, split.labels.tolist(), strict=True)}
    return found


def of_folders(names: Iterable[str]) -> dict[str, str]:
    return {name: name.split("/")[0] for name in names}


def table(file: Path, rows: Iterable[Row], header: str = "file,label") -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        stream.write(header + "\n")
        csv.writer(stream).writerows(rows)
    return file


def by_parity(root: Path) -> list[Row]:
    """A row for each image, with a class other than its folder's."""
    paths = sorted(root.rglob("*.png"))
    return [(path.relative_to(root).as_posix(), "low" if int(path.stem) < 10 else "high") for path in paths]


class Toy(ImageData):
    """Image i of a split has the label i mod 3."""

    def load(self) -> dict[str, Split]:
        self.classes = ["a", "b", "c"]
        return {
            name: Split(torch.full((n, 3, 4, 4), n, dtype=torch.uint8), [f"{i}" for i in range(n)], torch.arange(n) % 3)
            for name, n in (("train", 24), ("val", 7), ("test", 5))
        }


def toy(**options: int) -> Toy:
    data = Toy(4, **options)
    data.prepare_data()
    return data


def test_a_split_selects_labels_together_with_its_images() -> None:
    split = Split(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), list("abcd"), torch.tensor([2, 0, 1, 0]))
    taken = split.take(torch.tensor([2, 0]))
    assert taken.names == ["c", "a"]
    assert taken.labels is not None
    assert taken.labels.tolist() == [1, 2]
    classes = split[torch.tensor([3, 0]), torch.tensor([False, True]), 0, 0].classes
    assert classes is not None
    assert classes.tolist() == [0, 2]
    plain = Split(split.images, split.names)
    assert plain.take(torch.tensor([1])).labels is None
    assert plain[torch.tensor([1]), torch.tensor([False]), 0, 0].classes is None
    assert plain.key == split.key


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_carry_the_classes_of_their_images(workers: int) -> None:
    data = toy(num_workers=workers)
    for batch in data.train_dataloader():
        assert torch.equal(batch.classes, batch.index % 3)
        assert torch.equal(data.on_after_batch_transfer(batch, 0).classes, batch.index % 3)
    val, fit = (torch.cat([batch.classes for batch in loader]).tolist() for loader in data.val_dataloader())
    assert val == [0, 1, 2, 0, 1, 2, 0]
    chosen = data.splits["train"].take(torch.randperm(24, generator=tiles.generator_for("overfit"))[:7].sort().values)
    assert fit == [int(name) % 3 for name in chosen.names]


def test_classes_are_transferred_to_the_device_asynchronously() -> None:
    image, flip, classes = mock.Mock(), mock.Mock(), mock.Mock()
    moved = toy().transfer_batch_to_device(Batch(image, torch.zeros(1), flip, classes=classes), torch.device("meta"), 0)
    assert moved.classes is classes.to.return_value
    classes.to.assert_called_once_with(torch.device("meta"), non_blocking=True)
    without = toy().transfer_batch_to_device(Batch(image, torch.zeros(1), flip), torch.device("meta"), 0)
    assert without.classes is None


def test_images_of_each_class_are_counted_per_split() -> None:
    data = toy()
    assert {name: data.class_counts(name) for name in data.splits} == {
        "train": [8, 8, 8],
        "val": [3, 2, 2],
        "test": [2, 2, 1],
    }


def test_the_resume_keys_include_labels_only_for_labelled_data(root: Path) -> None:
    plain, named, other = load(root), load(root, labels="folders"), toy()
    assert plain.keys.keys() == {"train", "val", "test"}
    assert {name: key for name, key in named.keys.items() if name != "labels"} == plain.keys
    known = {other.keys["labels"]}
    other.classes = ["a", "b", "d"]
    known.add(other.keys["labels"])
    split = other.splits["val"]
    other.splits["val"] = Split(split.images, split.names, split.labels.flip(0) // 2)
    assert len({*known, other.keys["labels"]}) == 3


@pytest.mark.parametrize("missing", ["train", "val"])
def test_labels_not_matching_the_classes_give_a_one_line_error(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    sound = Toy.load
    for wrong in (None, torch.full((24,), 3)):

        def load(self: Toy, wrong: torch.Tensor | None = wrong) -> dict[str, Split]:
            splits = sound(self)
            split = splits[missing]
            return {**splits, missing: Split(split.images, split.names, None if wrong is None else wrong[: len(split)])}

        monkeypatch.setattr(Toy, "load", load)
        with pytest.raises(UserError, match=f"the labels of {missing} do not match 3 classes"):
            toy()


def test_a_class_without_training_images_gives_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Toy.load

    def load(self: Toy) -> dict[str, Split]:
        splits = sound(self)
        return {**splits, "train": splits["train"].take(torch.arange(0, 24, 3))}

    monkeypatch.setattr(Toy, "load", load)
    with pytest.raises(
        UserError,
        match=r"each of 2 classes, such as 'b', has no training image \(4 for validation, 3 for test\); add training",
    ):
        toy()


def test_top_level_folders_are_the_classes_of_their_images(root: Path) -> None:
    plain, data = load(root), load(root, labels="folders")
    assert data.classes == ["cat", "dog"]
    found = labels(data)
    assert found == of_folders(found)
    assert len(found) == 20
    for name, split in plain.splits.items():
        assert split.labels is None
        assert split.names == data.splits[name].names
        assert torch.equal(split.images, data.splits[name].images)
    assert plain.classes == plain.class_counts("train") == []
    assert sum(data.class_counts("train")) == 14
    limited = load(root, labels="folders", limit=6)
    assert labels(limited) == {name: found[name] for split in limited.splits.values() for name in split.names}


def test_a_csv_table_assigns_the_classes(root: Path, tmp_path: Path) -> None:
    rows = by_parity(root)
    rows[0] = (f"./{rows[0][0]}", f" {rows[0][1]} ")
    data = load(root, labels=str(table(tmp_path / "table.csv", [*rows, rows[1]], "file,label")))
    assert data.classes == ["high", "low"]
    assert labels(data) == dict(by_parity(root))
    marked = tmp_path / "marked.csv"  # in the format of spreadsheets, with more columns
    marked.write_text("\ufefflabel,note,file\n" + "\n".join(f"{label},?,{name}" for name, label in rows), "utf-8")
    assert labels(load(root, labels=marked)) == labels(data)


def test_a_table_may_contain_unused_files_and_undecodable_names(root: Path) -> None:
    (root / "note.txt").write_text("hello")
    picture(99, 4).save(root / "small.png")
    (root / ".hidden.png").write_bytes(b"")
    odd = root / "caf\udce9.png"
    picture(50).save(odd, "PNG")
    rows = [(name, label) for name, label in by_parity(root / "cat")]
    content = "".join(f"cat/{name},{label}\n" for name, label in rows)
    content += "".join(f"dog/{name},{label}\n" for name, label in by_parity(root / "dog"))
    content += "note.txt,low\nsmall.png,low\n.hidden.png,low\ntable.csv,low\n"
    (root / "table.csv").write_bytes(f"file,label\n{content}".encode() + b"caf\xe9.png,high\n")
    data = load(root, labels=root / "table.csv")
    assert labels(data)["caf\\xe9.png"] == "high"
    assert len(labels(data)) == 21


def test_adding_labels_reuses_the_cached_pixels(root: Path, tmp_path: Path, cache: Path) -> None:
    load(root)
    (file,) = cache.glob("*.bin")
    written = file.stat().st_mtime_ns
    with mock.patch.object(folder, "decoded", side_effect=AssertionError("a file was decoded")):
        load(root, labels="folders")
        data = load(root, labels=table(tmp_path / "table.csv", by_parity(root)))
    assert data.classes == ["high", "low"]
    assert [*cache.glob("*.bin")] == [file]
    assert file.stat().st_mtime_ns == written


def test_tiles_have_the_class_of_their_photograph(tmp_path: Path) -> None:
    for i in range(8):
        kind = tmp_path / ("sea" if i % 2 else "wood")
        kind.mkdir(exist_ok=True)
        picture(i, 10).resize((300, 200), Image.Resampling.BICUBIC).save(kind / f"{i}.png")
    data = load(tmp_path, labels="folders", tiles=5, val=2, test=2, limit=8)
    found = labels(data)
    assert len(found) > 12
    assert found == of_folders(found)


def test_skipped_files_do_not_shift_the_labels(root: Path) -> None:
    sound = labels(load(root, labels="folders"))
    (root / "bird").mkdir()
    (root / "bird/cut.png").write_bytes((root / "cat/2.png").read_bytes()[:99])  # no usable bird, so no class
    (root / "cat/0 broken.png").write_bytes(b"hello")
    (root / "README.txt").write_text("hello")
    (root / "dog/1 again.png").write_bytes((root / "dog/1.png").read_bytes())
    data = load(root, labels="folders")
    assert data.classes == ["cat", "dog"]
    assert labels(data) == {**{n: c for n, c in sound.items() if n != "dog/1.png"}, "dog/1 again.png": "dog"}
    assert not any("whose label" in entry["reason"] for entry in data.report)


@pytest.mark.parametrize("cached", [False, True])
def test_an_image_with_two_labels_is_reported_and_keeps_the_first(root: Path, cached: bool) -> None:
    (root / "dog/2.png").write_bytes((root / "cat/2.png").read_bytes())
    (root / "zebra.png").write_bytes((root / "cat/2.png").read_bytes())  # left out, so it needs no class
    if cached:
        assert [entry["reason"] for entry in load(root).report] == ["the same bytes as cat/2.png"] * 2
    data = load(root, labels="folders")
    assert {entry["path"]: entry["reason"] for entry in data.report} == {
        "dog/2.png": "the same bytes as cat/2.png, whose label is 'cat' and not 'dog'",
        "zebra.png": "the same bytes as cat/2.png",
    }
    assert labels(data)["cat/2.png"] == "cat"
    assert "dog/2.png" not in labels(data)


def refused(root: Path, line: str, **options: object) -> None:
    with pytest.raises(UserError, match=line):
        load(root, **options)


def test_an_image_outside_the_class_folders_gives_a_one_line_error(root: Path) -> None:
    picture(30).save(root / "stray.png")
    refused(root, r"data\.labels=folders: the image 'stray.png' is directly in .*; move", labels="folders")
    picture(31).save(root / "stray2.png")
    refused(root, "each of 2 images, such as 'stray.png', is directly in", labels="folders")


def test_a_single_class_is_refused(root: Path, tmp_path: Path) -> None:
    refused(root.parent, r"20 images in .* have only one class \('pets'\).*set data\.root to", labels="folders")
    alone = table(tmp_path / "one.csv", [(name, "pet") for name, _ in by_parity(root)])
    refused(root, r"one\.csv: 20 images in .* have only one class \('pet'\).*data\.labels=null", labels=alone)


def test_an_invalid_label_table_gives_a_one_line_error(root: Path, tmp_path: Path) -> None:
    rows, file = by_parity(root), tmp_path / "table.csv"
    (first, _), *rest = rows
    for wrong, line in {
        tuple(rest): rf"the image '{first}' in .* has no row; add file,label",
        tuple(rest[2:]): r"each of 3 images, such as '.*', in .* has no row",
        (*rows, ("gone.png", "low")): r"the file 'gone.png' is not in .*; use paths relative",
        (*rows, ("b.png", "low"), ("a.png", "low")): r"each of 2 files, such as 'a.png', is not in",
        ((first, " "), *rest): rf"the row '{first}' has no label; fill in",
        ((first, "other"), *rows): rf"the file '{first}' has two labels; keep one",
        (): "each of 20 images, such as",
    }.items():
        refused(root, rf"table\.csv: .*{line}", labels=table(file, wrong))
    file.write_text(f"file,label\n{first}\n")
    refused(root, "has no label", labels=file)
    for header, line in {
        "file,class": r"no column label in its first line \(file,class\); expected file,label",
        "file;label": r"no column file and no column label in its first line \(file;label\)",
        "": "no column file and no column label",
    }.items():
        refused(root, line, labels=table(file, [], header))
    refused(root, r"nowhere\.csv: .*No such file or directory\); set it to a CSV file", labels=tmp_path / "nowhere.csv")
    refused(root, r"folder: .*No such file.*or set data\.labels=folders", labels="folder")
    refused(root, "Is a directory", labels=root)
    file.write_text("file,label\n" + "x" * (csv.field_size_limit() + 1))
    refused(root, "not a readable table", labels=file)


def test_a_class_missing_from_the_training_split_gives_a_one_line_error(root: Path) -> None:
    data = load(root, labels="folders")
    held_out = data.splits["val"].names[0]
    (root / "rare").mkdir()
    (root / held_out).rename(root / "rare/only.png")
    refused(
        root, r"the class 'rare' has no training image \(1 for validation, 0 for test\); .*data\.val", labels="folders"
    )
    last = data.splits["train"].names[-1]
    (root / "rare/only.png").rename(root / held_out)
    (root / last).rename(root / "rare/only.png")
    refused(root, r"'rare' has no training image \(0 for .*data\.limit", labels="folders", limit=13)
    assert load(root, labels="folders").class_counts("train")[2] == 1


def test_every_scene_has_photographs_in_the_training_split() -> None:
    scene, photos = scenes(), split_photos()
    assert scene.keys() == {path.name for path in (HERE / "photos").iterdir()}
    assert min(Counter(scene.values()).values()) >= 3
    trained = Counter(scene[photo] for photo in photos["train"])
    assert trained.keys() == set(scene.values()) == {
        "buildings", "field", "mountain", "sky", "sunset", "trees", "water",
    }  # fmt: skip
    assert min(trained.values()) >= 2


def test_landscape_tiles_have_the_scene_of_their_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{photo} 128px at {x},0" for photos in split_photos().values() for x in (0, 64) for photo in photos]
    made = Decoded(torch.zeros(len(names), 3, 8, 8, dtype=torch.uint8), Made(names), "")
    monkeypatch.setattr(tiles, "stored", lambda name, shape, make: made)
    monkeypatch.setattr(tiles, "TILES", {split: 2 * len(photos) for split, photos in split_photos().items()})
    monkeypatch.setattr("diffusion.data.duplicates.report", lambda splits: [])
    data, plain = Landscapes(8, labels=True), Landscapes(8)
    for each in (data, plain):
        each.prepare_data()
    assert data.classes == sorted(set(scenes().values()))
    found = labels(data)
    assert found == {name: scenes()[name.split()[0]] for name in found}
    assert len(found) == 74
    assert all(split.labels is None for split in plain.splits.values())
    assert plain.classes == []


def test_label_settings_of_a_wrong_type_give_a_one_line_error() -> None:
    for target, wrong, expected in (
        ("Folder", True, "expected folders or text or null"),
        ("Landscapes", "folders", "expected true or false"),
        ("Cifar10", "true", "expected true or false"),
    ):
        with pytest.raises(UserError, match=rf"data\.labels=\w+: {expected}"):
            make({"_target_": f"diffusion.data.{target}", "root": "x", "resolution": 32, "labels": wrong}, "data")
