"""The images of a zip, an npz and tar shards are those of the same folder; what cannot be read is refused in a line."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import files_of, loaded, pets, to_shards, to_zip

from diffusion.data import Archive, Folder
from diffusion.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path / "pets")


def test_a_zip_and_tar_shards_are_the_same_as_their_folder(root: Path, tmp_path: Path) -> None:
    files = files_of(root)
    packed, pattern = to_zip(files, tmp_path / "pets.zip"), to_shards(files, tmp_path / "shards")
    right = loaded(Folder, root, labels="folders")
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(root, ".")  # as `tar -C pets -cf all.tar .`
    for place in (packed, pattern, tmp_path / "shards"):
        assert loaded(Archive, place, labels=True).keys == right.keys
    for place in (packed, tmp_path / "all.tar"):
        assert loaded(Archive, place, labels="folders").keys == right.keys
    names = loaded(Archive, pattern).splits["train"].names
    assert len({*names}) == len(names) == 15  # each shard has its own 000000.png
    (tmp_path / "shards" / "part-0001.tar").unlink()
    with pytest.raises(UserError, match=r"No such file .*part-0001.tar"):
        loaded(Archive, pattern)


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("image", "label")])
@pytest.mark.parametrize(("shape", "channels"), [((8, 8, 3), 3), ((8, 8), 1), ((8, 8, 1), 1)])
def test_arrays_are_read_with_their_classes_as_numbers(tmp_path: Path, names, shape, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, *shape), np.uint8)
    classes = np.arange(24) % 12  # as text, 10 and 11 would stand before 2
    np.savez(tmp_path / "x.npz", **dict(zip(names, (images, classes), strict=True)))
    data = loaded(Archive, tmp_path / "x.npz", labels=True, channels=channels)
    assert data.classes == [str(k) for k in range(12)]
    for split in data.splits.values():
        for image, name, label in zip(split.images, split.names, split.labels.tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), images[int(name)].reshape(8, 8, -1))
            assert label == classes[int(name)]


def test_bad_members_are_reported_and_left_out(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("diffusion.data.archive.LARGEST", 10_000)
    files, clean = files_of(root), loaded(Folder, root).keys
    bad = {"cut.png": files["dog/1.png"][:200], "phone.HEIC": b"\0\0\0\x18ftypheic"}
    every = files | bad | {".hidden.png": b"", "__MACOSX/cat/._1.png": b"notes"}
    of_zip = {"damaged.png": b"0123456789", "large.png": files["dog/1.png"] + bytes(10_000)}
    packed = to_zip(every | of_zip, tmp_path / "pets.zip")
    packed.write_bytes(packed.read_bytes().replace(b"0123456789", b"9123456789"))  # the sum of its bytes is wrong now
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        sample = {"dog/1.txt": b"the caption of dog/1.png", "dog/1.png": files["dog/1.png"]}
        for name, content in (sample | every).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    for file, more in ((packed, of_zip), (tmp_path / "pets.tar", [])):
        data = loaded(Archive, file)
        assert sorted(entry["path"] for entry in data.report) == sorted([*bad, *more])
        assert data.keys == clean


def short(make: Callable[[Path], object], keep: float) -> Callable[[Path], object]:
    """What writes only a part of the file that `make` writes."""
    return lambda path: make(path) or path.write_bytes((content := path.read_bytes())[: int(len(content) * keep)])


def arrays(**values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **values)


def shard(path: Path) -> None:
    to_shards(MANY, path.parent, 1)


IMAGES = np.zeros((9, 8, 8, 3), np.uint8)
MANY = {f"{i % 2}/{i}.png": bytes([i]) * 3000 for i in range(9)}
REFUSED: dict[str, tuple[str, Callable[[Path], object] | None, object, str]] = {
    "nowhere": ("x.zip", None, None, "No such file"),
    "other kinds": ("x.tar.gz", lambda path: path.touch(), None, "not compressed"),
    "a folder without shards": ("x", Path.mkdir, None, "expected one .zip"),
    "floats": ("x.npz", arrays(arr_0=IMAGES / 255), None, "float64"),
    "channels first": ("x.npz", arrays(arr_0=IMAGES.transpose(0, 3, 1, 2)), None, r"\(9, 3, 8, 8\)"),
    "objects": ("x.npz", arrays(arr_0=np.array([{}, {}])), None, "allow_pickle"),
    "other arrays": ("x.npz", arrays(mu=IMAGES), None, "arr_0 is not a file in the archive"),
    "one-hot classes": ("x.npz", arrays(arr_0=IMAGES, arr_1=np.eye(9)), True, r"labels are float64 \(9, 9\)"),
    "a zip that is cut": ("x.zip", short(lambda path: to_zip(MANY, path) and None, 0.8), None, "not a zip"),
    "a shard that is cut": ("part-0000.tar", short(shard, 0.5), None, "part-0000.tar: unexpected end of data"),
    "labels that are lists": ("x.zip", lambda path: to_zip(MANY, path, [["0/0.png", [0, 1]]]), True, r"\[0, 1\]"),
    "no labels": ("x.zip", lambda path: to_zip(MANY, path, None), True, "no labels in a dataset.json"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_cannot_be_used_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    file, make, labels, words = REFUSED[name]
    if make:
        make(tmp_path / file)
    with pytest.raises(UserError, match=words) as refused:
        loaded(Archive, tmp_path / file, labels=labels)
    assert "data.path=" in str(refused.value)
    assert not [*cache.glob("*.bin")]


def test_an_image_without_a_label_is_refused(root: Path, tmp_path: Path) -> None:
    packed = to_zip(files_of(root), tmp_path / "x.zip", [["dog/1.png", 3]])
    with pytest.raises(UserError, match=r"the labels of .*x.zip: 'cat/.* has no label \(19 in all\)"):
        loaded(Archive, packed, labels=True)
