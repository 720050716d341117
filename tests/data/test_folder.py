"""A folder has the same splits whatever its bad files; its images are decoded once, labelled, and cut into tiles."""

import os
import shutil
import unicodedata
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from archives import loaded, pets
from PIL import Image

from diffusion.data import Folder, folder
from diffusion.data.module import PLACE
from diffusion.errors import UserError


def picture(i: int, width: int = 12, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path / "pets")


load = partial(loaded, Folder)


def names(data: Folder) -> dict[str, list[str]]:
    return {name: split.names for name, split in data.splits.items()}


def classes(data: Folder) -> dict[str, str]:
    """Image name -> name of its class."""
    return {
        name: data.classes[i]
        for split in data.splits.values()
        for name, i in zip(split.names, split.labels.tolist(), strict=True)
    }


def test_images_are_the_centres_of_disjoint_splits(root: Path) -> None:
    data, less = load(root), load(root, limit=6)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 15, "val": 3, "test": 2}
    assert len({name for split in names(data).values() for name in split}) == 20
    assert names(less) == names(data) | {"train": names(data)["train"][:6]}
    assert names(load(root, seed=1)) != names(data)
    for split in data.splits.values():
        for image, name in zip(split.images, split.names, strict=True):
            centre = np.asarray(picture(int(Path(name).stem)).crop((2, 0, 10, 8)))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), centre)


def test_bad_files_are_reported_once_and_do_not_change_the_splits(root: Path) -> None:
    """More of them are in tests/reliability/test_hostile_images.py."""
    clean = load(root)
    assert clean.report == []
    good = (root / "dog/1.png").read_bytes()
    for name, content in {
        "cut.png": good[:200], "phone.HEIC": b"\0\0\0\x18ftypheic", "README.txt": b"hello", "zoo.png": good,
    }.items():  # fmt: skip
        (root / name).write_bytes(content)
    picture(0, 7, 100).save(root / "cat" / "thin.png")
    (root / "run").mkdir()
    (root / "run/run.json").write_text("{}")
    picture(0).save(root / "run" / "sample.png")  # of another run: never trained on
    data = load(root)
    left_out = ["cat/thin.png", "cut.png", "README.txt", "phone.HEIC", "zoo.png"]
    assert [entry["path"] for entry in data.report] == left_out
    assert data.report[4]["reason"] == "the same content as dog/1.png"
    assert names(data) == names(clean)
    assert data.keys == clean.keys
    assert load(root).report == data.report  # also from the cache
    assert len(load(root, repeats=True, val=0, test=0).splits["train"]) == 21


def test_a_folder_that_cannot_be_read_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(here: str, scan: Any = os.scandir) -> Any:  # permissions do not stop root, which may run the tests
        if str(here).endswith("old"):
            raise PermissionError(13, "Permission denied", here)
        return scan(here)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="cat/old: Permission denied"):
        load(root)


def test_splits_do_not_depend_on_file_names_or_the_order_of_listing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root)
    for i in reversed(range(20)):
        (tmp_path / "moved").mkdir(exist_ok=True)
        shutil.copy(next(root.rglob(f"{i}.png")), tmp_path / "moved" / f"été {19 - i}\n.dat")
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *_, **__: ((a, b, c[::-1]) for a, b, c in walk(*_, **__)))
    assert load(tmp_path / "moved").keys == first.keys


def test_a_second_start_decodes_nothing_and_a_changed_folder_is_read_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = load(root).keys
    with monkeypatch.context() as patched:
        patched.setattr(folder, "read", lambda *_: pytest.fail("a file was decoded"))
        load(root, labels="folders")
        assert load(root).keys == keys
    picture(99).save(root / "dog/1.png")
    assert load(root).keys != keys


def test_images_are_memory_mapped_and_not_copied_and_a_removed_file_is_made_again(root: Path, cache: Path) -> None:
    data = load(root)
    file = next(cache.glob("folder-*.bin"))
    ranges = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(file) in line
    ]
    for split in data.splits.values():
        assert any(int(first, 16) <= split.images.data_ptr() < int(end, 16) for first, end in ranges)
    file.unlink()
    assert load(root).keys == data.keys
    assert file.stat().st_size == 20 * 3 * 8 * 8


def table(file: Path, rows: dict[str, str]) -> Path:
    file.write_text("\n".join(["file,label", *(f"{name},{label}" for name, label in rows.items())]), "utf-8")
    return file


REFUSED: dict[str, dict[str, Any]] = {
    "nowhere": {"root": "nowhere"},
    "a file": {"root": "pets/dog/1.png"},
    "no files": {"root": "empty"},
    "too few images": {"limit": 16},
    "none to train on": {"val": 15, "test": 5},
    "images too small": {"resolution": 9},
    "no table": {"labels": "nowhere.csv"},
    "an image beside the classes": {"labels": "folders", "root": "."},
    "no labels": {"labels": lambda right: {}},
    "an empty label": {"labels": lambda right: {**right, "dog/1.png": " "}},
    "two labels": {"labels": lambda right: {**right, "./dog/1.png": "other"}},
    "one label": {"labels": lambda right: dict.fromkeys(right, "pet")},
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_and_labels_that_cannot_be_used_are_refused(root: Path, name: str) -> None:
    above, options = root.parent, {**REFUSED[name]}
    (above / "empty").mkdir()
    picture(30).save(above / "stray.png")
    if callable(options.get("labels")):
        options["labels"] = str(table(above / "table.csv", options["labels"](by_number(root))))
    with pytest.raises(UserError):
        load(above / options.pop("root", "pets"), **options)


def by_number(root: Path) -> dict[str, str]:
    """A label for each image, other than its folder's."""
    return {p.relative_to(root).as_posix(): "low" if int(p.stem) < 10 else "high" for p in root.rglob("*.png")}


def test_folders_or_a_table_give_the_classes_and_bad_files_do_not_shift_them(root: Path, tmp_path: Path) -> None:
    (root / "cat/0 broken.png").write_bytes(b"hello")
    (root / "bird").mkdir()
    (root / "bird/cut.png").write_bytes((root / "cat/2.png").read_bytes()[:99])  # no usable bird, so no class
    plain, data = load(root), load(root, labels="folders")
    assert data.classes == ["cat", "dog"]
    assert classes(data) == {name: name.split("/")[0] for name in classes(data)}
    assert sorted(classes(data)) == sorted(name for split in plain.splits.values() for name in split.names)
    assert plain.splits["train"].labels is None
    for bad in ("cat/0 broken.png", "bird/cut.png"):
        (root / bad).rename(root / Path(bad).with_suffix(".bad"))
    right = by_number(root)
    for content in (right, {f"./{name}": f" {label} " for name, label in right.items()} | {"bird/cut.bad": "low"}):
        assert classes(load(root, labels=str(table(tmp_path / "table.csv", content)))) == right
    sheet = tmp_path / "sheet.csv"  # as spreadsheets write it, with more columns
    sheet.write_text("\ufefflabel,note,file\n" + "\n".join(f"{v},?,{k}" for k, v in right.items()), "utf-8")
    assert classes(load(root, labels=sheet)) == right


def test_class_names_do_not_depend_on_the_form_of_their_accents(tmp_path: Path) -> None:
    """macOS decomposes é into two characters, which are sorted before z; the composed one is sorted after it."""
    for form in ("NFC", "NFD"):
        for k, name in enumerate(("école", "zebra")):
            (tmp_path / form / unicodedata.normalize(form, name)).mkdir(parents=True)
            for i in range(8):
                picture(8 * k + i).save(tmp_path / form / unicodedata.normalize(form, name) / f"{i}.png")
        data = load(tmp_path / form, labels="folders")
        assert data.classes == ["zebra", "école"]
    written = table(tmp_path / "labels.csv", {f"{n}/{i}.png": n for n in ("école", "zebra") for i in range(8)})
    assert torch.equal(load(tmp_path / "NFD", labels=written).splits["train"].labels, data.splits["train"].labels)


def photograph(i: int, width: int = 600, height: int = 400) -> Image.Image:
    """Large and small spots of many colours."""
    rng = np.random.default_rng(i)
    layers = [Image.fromarray(rng.integers(0, 256, (n * 2, n * 3, 3), np.uint8)) for n in (2, 8, 32)]
    coarse, middle, fine = (layer.resize((width, height), Image.Resampling.BICUBIC) for layer in layers)
    return Image.blend(Image.blend(coarse, middle, 0.4), fine, 0.3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs in two folders, one of them stored on its side, and two without usable tiles."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(8):
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        (root / "ab"[i % 2]).mkdir(exist_ok=True)
        photograph(i, *((1200, 1100) if i == 5 else (600, 400))).save(
            root / "ab"[i % 2] / f"{i}.jpg", quality=95, exif=exif
        )
    Image.new("RGB", (600, 400), "blue").save(root / "sky.png")
    photograph(0, 300, 120).save(root / "small.png")
    return root


def test_tiles_are_the_windows_given_by_their_names_and_those_of_a_photograph_are_in_one_split(photos: Path) -> None:
    data = load(photos, resolution=16, tiles=12, val=1, test=0.2, labels="folders")
    splits = data.splits
    assert {name: name[0] for name in classes(data)} == classes(data)  # the class of their photograph
    assert {*classes(data).values()} == {"a", "b"}
    assert [len(set(split.sources)) for split in splits.values()] == [5, 1, 2]
    assert [entry["path"] for entry in data.report] == ["small.png", "sky.png"]
    for one, other in combinations(splits.values(), 2):
        assert set(one.sources).isdisjoint(other.sources)
    for split in splits.values():
        every = list(dict.fromkeys(split.sources))
        assert split.sources[: len(every)] == every  # one tile of each photograph in turn
        assert max(split.sources.count(photo) for photo in every) <= 12
        for name, image in zip(split.names, split.images, strict=True):
            photo, side, (left, top) = (
                PLACE.sub("", name),
                int(name.split()[1][:-2]),
                map(int, name.split()[3].split(",")),
            )
            with Image.open(photos / photo) as opened:
                upright = opened.rotate(-90, expand=True) if photo.endswith("3.jpg") else opened.copy()
            if min(upright.size) > 512:  # reduced first; places are in pixels of the file
                assert side >= 1100 / 4 - 1
                continue
            there = upright.crop((left, top, left + side, top + side)).resize((16, 16), Image.Resampling.LANCZOS)
            assert side >= 128
            assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(there))
    less = load(photos, resolution=16, tiles=12, val=1, test=0.2, labels="folders", limit=20)
    assert less.splits["train"].names + less.unused.names == splits["train"].names
    assert len(less.splits["train"]) == 20
    with pytest.raises(UserError):
        load(photos, resolution=16, tiles=12, limit=900)


def test_no_class_is_missing_from_validation_if_there_are_three_photographs_of_it(tmp_path: Path, capsys) -> None:
    for i in range(18):
        folder = tmp_path / "photographs" / ("rare" if i < 3 else "single" if i == 3 else "usual")
        folder.mkdir(exist_ok=True, parents=True)
        photograph(i, 200, 150).save(folder / f"{i}.png")
    for tiles, seed in ((1, 0), (2, 1), (None, 3)):
        data = load(tmp_path / "photographs", tiles=tiles, seed=seed, val=4, test=4, labels="folders")
        assert [len(set(split.sources)) for split in data.splits.values()] == [10, 4, 4]
        assert all(data.class_counts(name)[0] and data.class_counts(name)[2] for name in data.splits)
        assert data.class_counts("train")[1]  # no more than one photograph
        assert "val has no image of the class 'single' (1 of 3 classes)" in " ".join(capsys.readouterr().out.split())
