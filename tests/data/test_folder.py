"""A folder has the same splits regardless of its location and of bad files, and reports the files it leaves out."""

import errno
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.config.build import make
from diffusion.data import Folder, cache, folder
from diffusion.errors import UserError


def picture(i: int, width: int = 12, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty good images, half of them in nested folders."""
    root = tmp_path / "photos"
    (root / "a" / "b").mkdir(parents=True)
    for i in range(20):
        picture(i).save(root / ("a/b" if i % 2 else ".") / f"{i}.png")
    return root


def load(root: Path, **options: object) -> Folder:
    data = Folder(**{"root": root, "resolution": 8, "batch_size": 2, "val": 3, "test": 2, **options})
    data.prepare_data()
    data.setup()
    return data


def names(data: Folder) -> dict[str, list[str]]:
    return {name: split.names for name, split in data.splits.items()}


@pytest.mark.parametrize(("images", "share", "held_out"), [(20, 0.1, 4), (20, 0.3, 6), (8, 0.1, 2), (3, 0.1, 1)])
def test_a_share_has_the_images_that_scores_need(root, images, share, held_out):
    for i in range(images, 20):
        (root / ("a/b" if i % 2 else ".") / f"{i}.png").unlink()
    assert len(load(root, val=share, test=0).splits["val"]) == held_out


def reasons(data: Folder) -> dict[str, tuple[str, str]]:
    found = {entry["path"]: (entry["action"], entry["reason"]) for entry in data.report}
    assert len(found) == len(data.report), "each file is named once"
    return found


def add_bad_files(root: Path) -> dict[str, str]:
    """Add bad files of many kinds; return the expected action and reason for each."""
    good = (root / "0.png").read_bytes()
    files = {
        "cut.png": (good[:200], "refused", "can't be decoded"),
        "empty.jpg": (b"", "refused", "not an image"),
        "text.png": (b"hello", "refused", "not an image"),
        "README.txt": (b"hello", "skipped", "not an image"),
        "copy of 0.png": (good, "skipped", "the same bytes as 0.png"),
        ".hidden.png": (good, "skipped", "hidden"),
    }
    for name, (content, _, _) in files.items():
        (root / name).write_bytes(content)
    picture(0, 7, 100).save(root / "a" / "thin.png")
    (root / "a" / "again").symlink_to(root, target_is_directory=True)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "gone.png").symlink_to(root / "nowhere.png")
    os.mkfifo(root / "pipe.png")
    return {name: (action, reason) for name, (_, action, reason) in files.items()} | {
        "a/thin.png": ("refused", "7x100 pixels, smaller than 8x8"),
        "a/again": ("skipped", "a link to a folder"),
        "loop.png": ("refused", "can't be read"),
        "gone.png": ("refused", "can't be read"),
        "pipe.png": ("skipped", "not a regular file"),
    }


def test_identical_files_are_kept_if_repeats_is_set(root: Path) -> None:
    (root / "copy of 0.png").write_bytes((root / "0.png").read_bytes())
    once, often = (len(load(root, repeats=repeats, val=0, test=0).splits["train"]) for repeats in (False, True))
    assert often == once + 1


def test_images_are_cropped_to_the_centre_square(root: Path) -> None:
    data = load(root)
    for split in data.splits.values():
        for image, name in zip(split.images, split.names, strict=True):
            centre = np.asarray(picture(int(Path(name).stem)).crop((2, 0, 10, 8)))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), centre)


def test_splits_are_disjoint_and_limit_affects_only_the_training_split(root: Path) -> None:
    whole, half = names(load(root)), names(load(root, limit=6))
    assert {name: len(split) for name, split in whole.items()} == {"train": 15, "val": 3, "test": 2}
    assert len({name for split in whole.values() for name in split}) == 20
    assert half == {**whole, "train": whole["train"][:6]}
    assert names(load(root, seed=1)) != whole


def test_bad_files_are_reported_once_and_do_not_change_the_splits(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = load(root)
    assert clean.report == []
    assert not list(cache.glob("*.report.json"))
    expected = add_bad_files(root)
    capsys.readouterr()
    data = load(root)
    found = reasons(data)
    assert found.keys() == expected.keys()
    for name, (action, reason) in expected.items():
        assert found[name][0] == action, name
        assert reason in found[name][1], name
    assert names(data) == names(clean)
    assert data.keys == clean.keys
    (file,) = cache.glob("*.report.json")
    assert json.loads(file.read_text()) == data.report
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "refused" in line)
    assert line == f"data: 20 images, 6 refused, 5 other files skipped; the reasons are in {file}"
    assert load(root).report == data.report  # also from the cache


def test_strict_fails_on_refused_images_but_not_on_other_files(root: Path) -> None:
    (root / "README.txt").write_text("hello")
    load(root, strict=True)
    (root / "bad\nname.png").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"1 images .* can't be used, for example 'bad\\nname.png' \(not an image"):
        load(root, strict=True)


def test_splits_do_not_depend_on_file_names_or_directory_order(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(root)
    moved = tmp_path / "moved"
    moved.mkdir()
    for i in reversed(range(20)):
        shutil.copy(next(root.rglob(f"{i}.png")), moved / f"été {19 - i}\n.dat")
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scan(path))))
    assert load(moved).keys == first.keys
    assert load(root).keys == first.keys


def test_undecodable_file_names_are_escaped(root: Path) -> None:
    odd = os.fsencode(root) + b"/\xff.png"
    picture(99).save(os.fsdecode(odd), "PNG")
    assert "\\xff.png" in {name for split in load(root).splits.values() for name in split.names}


def test_a_second_start_reads_and_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    monkeypatch.setattr(folder, "_hash", lambda path: pytest.fail("a file was read"))
    monkeypatch.setattr(folder, "decoded", lambda *_: pytest.fail("a file was decoded"))
    again = load(root)
    assert again.keys == first.keys
    assert names(again) == names(first)
    load(root, limit=4, val=1)  # another choice of the decoded images


def test_a_changed_file_is_read_and_decoded_again(root: Path) -> None:
    first = load(root)
    picture(77).save(root / "0.png")
    assert load(root).keys != first.keys
    (root / "0.png").unlink()
    assert sum(map(len, load(root).splits.values())) == 19
    picture(0).save(root / "0.png")
    assert load(root).keys == first.keys


def test_resolution_and_random_crop_change_the_decoded_images(root: Path) -> None:
    keys = {load(root, **options).keys["train"] for options in ({}, {"resolution": 6}, {"random_crop": True})}
    assert len(keys) == 3
    moved = [load(root, random_crop=True, seed=seed, val=0, test=0).splits["train"] for seed in (0, 1)]
    pixels = [sorted(image.flatten().tolist() for image in split.images) for split in moved]
    assert pixels[0] != pixels[1]


def test_a_random_crop_does_not_depend_on_other_images(root: Path) -> None:
    first = load(root, random_crop=True, val=0, test=0).splits["train"]
    (root / "0.png").unlink()
    second = load(root, random_crop=True, val=0, test=0).splits["train"]
    before = dict(zip(first.names, first.images, strict=True))
    assert all(torch.equal(image, before[name]) for image, name in zip(second.images, second.names, strict=True))


def test_a_damaged_cache_is_reported_and_recomputed(
    root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load(root)
    (file,) = cache.glob("*.bin")
    whole = file.read_bytes()
    position = whole.index(first.splits["train"].images[0].numpy().tobytes())
    for damaged in (whole[: len(whole) // 2], b"", whole[:position] + bytes(9) + whole[position + 9 :]):
        file.write_bytes(damaged)
        capsys.readouterr()
        assert load(root).keys == first.keys
        assert capsys.readouterr().out.count("are damaged: recreating them") == 1
        assert file.read_bytes() == whole
    next(cache.glob("*.files.json")).write_text("{")
    assert load(root).keys == first.keys
    assert not list(cache.glob(".*")), "no leftover"


def test_an_unwritable_cache_gives_a_one_line_error(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(root)
    (file,) = cache.glob("*.bin")
    file.unlink()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"No space left on device.*set DIFFUSION_CACHE"):
        load(root)
    assert not list(cache.glob(".*")), "no leftover"
    cache.parent.rename(cache.parent.with_name("moved"))
    cache.parent.write_text("a file in its place")
    with pytest.raises(UserError, match="set DIFFUSION_CACHE to a writable folder"):
        load(root)


def test_an_unreadable_file_is_reported(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = folder._hash
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(folder, "_hash", lambda path: denied if path.name == "0.png" else original(path))
    assert reasons(load(root)) == {"0.png": ("refused", "can't be read: Permission denied")}


def test_an_invalid_root_or_too_few_images_give_a_one_line_error(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, line in {
        tmp_path / "nowhere": "no such folder",
        root / "0.png": "is a file, expected a folder",
        empty: "contains no files",
    }.items():
        with pytest.raises(UserError, match=line):
            load(wrong)
    (empty / "a.txt").write_text("hello")
    with pytest.raises(UserError, match="none of 1 files is a usable image"):
        load(empty)
    shutil.copy(root / "0.png", empty)
    with pytest.raises(
        UserError, match="one usable image, but training and validation need different ones: add images"
    ):
        load(empty, val=1, test=0)
    with pytest.raises(
        UserError, match="20 usable images, fewer than 18 for training, 3 for validation and 2 for test"
    ):
        load(root, limit=18)
    with pytest.raises(UserError, match="20 usable images, fewer than 1 for training"):
        load(root, val=18)
    with pytest.raises(UserError, match="fewer than a batch of 16"):
        load(root, batch_size=16).train_dataloader()
    share = "a whole number of at least 0 or a number of at least 0 and below 1"
    for wrong, value, expected in (
        ("val", -1, share),
        ("test", 1.5, share),
        ("limit", -1, "a whole number of at least 1 or null"),
        ("limit", 0.5, "a whole number of at least 1 or null"),
    ):
        with pytest.raises(UserError, match=rf"data\.{wrong}={value}: expected {expected}"):
            make({"_target_": "diffusion.data.Folder", "root": str(root), "resolution": 8, wrong: value}, "data")


def test_a_prepared_cache_may_be_read_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".DS_Store").write_bytes(b"hidden")
    expected = load(root).report

    def full(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(cache, "replace", full)
    assert load(root).report == expected


def test_folders_that_cannot_be_read_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "secret").mkdir()
    scandir = os.scandir

    def denied(path: str) -> object:
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert reasons(load(root))["secret"] == ("refused", "can't be read: Permission denied")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="this folder can't be read"):
        load(root)


def test_photographs_in_formats_that_pillow_cannot_read_are_refused(root: Path) -> None:
    (root / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert reasons(load(root))["phone.HEIC"] == ("refused", "not an image in a known format")
    with pytest.raises(UserError, match=r"1 images in .* can't be used, for example 'phone.HEIC'"):
        load(root, strict=True)


def test_a_folder_of_links_to_folders_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for name in ("cats", "dogs"):
        (tmp_path / "links" / name).symlink_to(root, target_is_directory=True)
    with pytest.raises(UserError, match="contains no files but 2 links to folders, which are not followed"):
        load(tmp_path / "links")


def test_class_names_do_not_depend_on_the_form_of_their_accents(tmp_path: Path) -> None:
    """macOS decomposes é into two characters, which are sorted before z; the composed one is sorted after it."""
    classes = []
    for form in ("NFC", "NFD"):
        for k, name in enumerate(("école", "zebra")):
            (tmp_path / form / unicodedata.normalize(form, name)).mkdir(parents=True)
            for i in range(8):
                picture(8 * k + i).save(tmp_path / form / unicodedata.normalize(form, name) / f"{i}.png")
        data = load(tmp_path / form, labels="folders")
        classes.append(data.classes)
    assert classes == [["zebra", "école"]] * 2
    table = tmp_path / "labels.csv"
    rows = [f"{name}/{i}.png,{name}" for name in ("école", "zebra") for i in range(8)]
    table.write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    found = load(tmp_path / "NFD", labels=table)
    assert found.classes == classes[0]
    assert torch.equal(found.splits["train"].labels, data.splits["train"].labels)
