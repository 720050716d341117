"""The images of a zip, an npz and tar shards are those of the same folder; what cannot be read is refused in a line."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archives import files_of, loaded, pets, picture, to_shards, to_zip

from diffusion.data import Archive, Folder
from diffusion.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path / "pets")


def test_a_zip_and_tar_shards_are_the_same_as_their_folder(root: Path, tmp_path: Path) -> None:
    files = files_of(root)
    packed, pattern = to_zip(files, tmp_path / "pets.zip"), to_shards(files, tmp_path / "shards")
    right = loaded(Folder, root, labels="folders")
    assert loaded(Archive, packed, labels=True).keys == right.keys
    assert loaded(Archive, packed, labels="folders").keys == right.keys
    for place in (pattern, tmp_path / "shards", f"{tmp_path}/shards/part-*.tar"):
        assert loaded(Archive, place, labels=True).keys == right.keys
    assert loaded(Archive, pattern).keys == loaded(Folder, root).keys
    names = loaded(Archive, pattern).splits["train"].names
    assert len({*names}) == len(names) == 15  # each shard has its own 000000.png
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(root, ".")  # as `tar -C pets -cf all.tar .`
    assert loaded(Archive, tmp_path / "all.tar", labels="folders").keys == right.keys


def test_tiles_of_a_zip_are_those_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        picture(i, 300, 200).save(tmp_path / "photos" / f"{i}.png")
    options = {"tiles": 3, "val": 1, "test": 1}
    data = loaded(Archive, to_zip(files_of(tmp_path / "photos"), tmp_path / "photos.zip"), **options)
    assert data.keys == loaded(Folder, tmp_path / "photos", **options).keys


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("image", "label")])
@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8), (8, 8, 4)])
def test_arrays_are_read_with_their_classes_as_numbers(tmp_path: Path, names: tuple[str, str], shape) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, *shape), np.uint8)
    if shape[2:] == (4,):
        images[..., 3] = 255
    classes = np.arange(24) % 12  # as text, 10 and 11 would stand before 2
    save = np.savez if shape[2:] else np.savez_compressed
    save(tmp_path / "x.npz", **dict(zip(names, (images, classes), strict=True)))
    data = loaded(
        Archive, tmp_path / "x.npz", labels=True, channels=3 if shape[2:] == (3,) else shape[2:][0] if shape[2:] else 1
    )
    assert data.classes == [str(k) for k in range(12)]
    for split in data.splits.values():
        for image, name, label in zip(split.images, split.names, split.labels.tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), images[int(name)].reshape(8, 8, -1))
            assert label == classes[int(name)]


def test_bad_members_are_reported_and_left_out(root: Path, tmp_path: Path) -> None:
    files = files_of(root)
    good, clean = files["dog/1.png"], loaded(Folder, root)
    bad = {"cut.png": good[:200], "phone.HEIC": b"\0\0\0\x18ftypheic", "README.txt": b"hello"}
    ignored = {".hidden.png": good, "__MACOSX/cat/._1.png": b"notes"}
    packed = to_zip(files | bad | ignored | {"damaged.png": b"0123456789"}, tmp_path / "pets.zip")
    packed.write_bytes(packed.read_bytes().replace(b"0123456789", b"9123456789"))  # the sum of its bytes is wrong now
    data = loaded(Archive, packed)
    assert sorted(entry["path"] for entry in data.report) == ["README.txt", "cut.png", "damaged.png", "phone.HEIC"]
    assert data.keys == clean.keys
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        first = {"dog/1.png": good, "dog/1.txt": b"the caption of dog/1.png"}
        for name, content in (first | files | bad | ignored).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    data = loaded(Archive, tmp_path / "pets.tar")
    assert sorted(entry["path"] for entry in data.report) == ["README.txt", "cut.png", "phone.HEIC"]
    assert data.keys == clean.keys


def encoded(i: int) -> bytes:
    buffer = io.BytesIO()
    picture(i).save(buffer, "PNG")
    return buffer.getvalue()


def short(make: Callable[[Path], object], keep: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * keep)])

    return write


def arrays(**values: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **values)


def ending_early(path: Path) -> None:
    """An npz whose array says that it has more rows than it has."""
    np.savez(path, arr_0=IMAGES)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("arr_0.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", content[:-100])


IMAGES = np.zeros((9, 8, 8, 3), np.uint8)
MANY = {f"{i % 2}/{i}.png": bytes([i]) * 3000 for i in range(9)}
PICTURES = {f"{i}.png": encoded(i) for i in range(9)}
REFUSED: dict[str, tuple[str, Callable[[Path], object] | None, object, str]] = {
    "nowhere": ("x.zip", None, None, "does not exist"),
    "other kinds": ("x.tar.gz", lambda path: path.touch(), None, "not compressed"),
    "a folder without shards": ("x", Path.mkdir, None, "expected one .zip"),
    "floats": ("x.npz", arrays(arr_0=IMAGES / 255), None, "float64"),
    "channels first": ("x.npz", arrays(arr_0=IMAGES.transpose(0, 3, 1, 2)), None, r"\(9, 3, 8, 8\)"),
    "objects": ("x.npz", arrays(arr_0=np.array([{}, {}])), None, "object"),
    "other arrays": ("x.npz", arrays(mu=IMAGES), None, "no array arr_0"),
    "no classes": ("x.npz", arrays(arr_0=IMAGES), True, "no array arr_1"),
    "one-hot classes": ("x.npz", arrays(arr_0=IMAGES, arr_1=np.eye(9)), True, "arr_1"),
    "a zip that is cut": ("x.zip", short(lambda path: to_zip(MANY, path), 0.8), None, "not a zip"),
    "an npz that is cut": ("x.npz", short(arrays(arr_0=IMAGES), 0.9), None, "not a zip"),
    "too few rows": ("x.npz", ending_early, None, "ends at image 8"),
    "a shard that is cut": (
        "part-0000.tar",
        short(lambda path: to_shards(MANY, path.parent, 1), 0.5),
        None,
        "cut short",
    ),
    "labels that are lists": ("x.zip", lambda path: to_zip(MANY, path, [["0/0.png", [0, 1]]]), True, r"\[0, 1\]"),
    "no labels": ("x.zip", lambda path: to_zip(MANY, path, None), True, "no labels in a dataset.json"),
    "an image without a label": ("x.zip", lambda path: to_zip(PICTURES, path, [["0.png", 3]]), True, "has no label"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_that_cannot_be_used_are_refused(tmp_path: Path, cache: Path, name: str) -> None:
    file, make, labels, words = REFUSED[name]
    if make:
        make(tmp_path / file)
    with pytest.raises(UserError, match=words) as refused:
        loaded(Archive, tmp_path / file, labels=labels)
    assert "data.path=" in str(refused.value)
    assert name == "an image without a label" or not [*cache.glob("*.bin")]


def test_a_missing_shard_is_named(root: Path, tmp_path: Path) -> None:
    pattern = to_shards(files_of(root), tmp_path / "shards")
    (tmp_path / "shards" / "part-0001.tar").unlink()
    with pytest.raises(UserError, match=r"part-0001.tar does not exist"):
        loaded(Archive, pattern)


def test_a_pattern_of_shards_can_be_written_on_the_command_line(command, tmp_path: Path) -> None:
    words = ["data=archive", 'data.path="x/part-{0000..0099}.tar"', "--cfg", "job", "-p", "data.path"]
    assert "part-{0000..0099}.tar" in command("train", words)[1]
