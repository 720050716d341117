"""Measurements keep their values, whatever the kind of file; missing ones are in no figure; bad files are refused."""

import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.base import images
from diffusion.config.build import make
from diffusion.data import Arrays, Folder
from diffusion.data.arrays import Channels
from diffusion.errors import UserError
from diffusion.kinds.measured import MISSING, Measured

VALUES = np.random.default_rng(0).integers(0, 60_000, (12, 2, 10, 9)).astype(np.uint16)
DATA: dict[str, Any] = {"resolution": 8, "channels": 2, "val": 2, "test": 2}


def stack(root: Path, values: np.ndarray = VALUES) -> None:
    np.save(root / "all.npy", values)


def archive(root: Path) -> None:
    np.savez(root / "all.npz", images=VALUES, time=np.arange(12))


def tar(root: Path) -> None:
    with tarfile.open(root / "all.tar", "w") as file:
        for i, value in enumerate(VALUES):
            np.save(content := io.BytesIO(), value)
            info = tarfile.TarInfo(f"{i}.npy")
            info.size = content.tell()
            content.seek(0)
            file.addfile(info, content)


def pages(root: Path, mode: type = np.uint16) -> None:
    for i, value in enumerate(VALUES):
        first, second = (Image.fromarray(each.astype(mode)) for each in value)
        first.save(root / f"{i}.tif", save_all=True, append_images=[second])


def floats(root: Path) -> None:
    pages(root, np.float32)


def loaded(root: Path, **settings: Any) -> Arrays:
    data = Arrays(root=root, **(DATA | settings))
    data.setup()
    return data


@pytest.mark.parametrize("write", [stack, archive, tar, pages, floats])
def test_the_centres_of_all_arrays_are_in_the_splits_unchanged(write: Callable[..., None], tmp_path: Path) -> None:
    (root := tmp_path / "files").mkdir()
    write(root)
    splits = loaded(root).splits
    found = torch.cat([splits[name].images for name in ("train", "val", "test")]).numpy()
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert {each.tobytes() for each in found} == {each[:, 1:9, :8].astype("f4").tobytes() for each in VALUES}


@pytest.mark.parametrize("colours", [False, True])
def test_the_values_of_a_16_bit_png_are_not_rounded(colours: bool, tmp_path: Path) -> None:
    for i, (value, _) in enumerate(VALUES):
        place = tmp_path / f"{i}.png"
        place.write_bytes(rgb16(value)) if colours else Image.fromarray(value).save(place)
    image = loaded(tmp_path, channels=3 if colours else 1).splits["train"].images[0].numpy()
    expected = [x[:1, 1:9, :8] if not colours else np.stack([x[0, :8, :3].T] * 8, 1) for x in VALUES]
    assert image.tobytes() in {each.astype("f4").tobytes() for each in expected}


def test_channels_are_standardised_without_missing_values_and_back(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal([[[280]], [[1e5]]], [[[5]], [[300]]], (40, 2, 8, 8)).astype("f4")
    values[::3, 0, :3] = np.nan
    stack(tmp_path, values)
    data = loaded(tmp_path, names=["t", "p"], units=["K", "Pa"])
    images = data.splits["train"].images
    x = data.kind.inside(images)
    assert data.missing
    for c in (0, 1):
        known = x[:, c][~images[:, c].isnan()].double()
        assert abs(float(known.mean())) < 1e-4
        assert abs(float(known.std(correction=0)) - 0.5) < 1e-4
    torch.testing.assert_close(data.kind.outside(x), images, equal_nan=True)
    assert (data.kind.names, data.kind.units) == (["t", "p"], ["K", "Pa"])


def test_pictures_are_the_channels_side_by_side_with_missing_values_in_grey() -> None:
    values = Measured([0.0, 5.0], [1.0, 2.0], ["a", "b"], ["", "K"])
    low, high = torch.full((8, 8), -3.0), torch.full((8, 8), 11.0)
    low[0, 0] = torch.nan
    picture = values.pictures(torch.stack([low, high])[None])[0]
    assert picture.shape == (3, 8, 16)
    assert picture[:, 0, 0].tolist() == [*MISSING]
    assert picture[:, 1, 1].tolist() == [68, 1, 84]  # viridis at both ends
    assert picture[:, 1, 9].tolist() == [253, 231, 37]


def test_given_channels_are_stored_beside_those_that_are_drawn(tmp_path: Path) -> None:
    stack(tmp_path)
    data = Arrays(root=tmp_path, **(DATA | {"channels": 1}), names=["coarse", "fine"])
    data.condition = condition = Channels(["coarse"])
    data.setup()
    split = data.splits["train"]
    both = torch.cat([split.stored["channels"], split.images], dim=1).numpy()
    assert {each.tobytes() for each in both} <= {each[:, 1:9, :8].astype("f4").tobytes() for each in VALUES}
    data.condition = Channels(["other"])
    with pytest.raises(UserError, match="no channel 'other'"):
        _ = data.drawn
    with pytest.raises(UserError, match="only data=arrays and data=fields have channels"):
        condition.attach(Folder(root=tmp_path, resolution=8))
    given = condition(split.images, split.stored)["channels"]
    assert abs(float(given.mean())) < 1e-5
    assert abs(float(given.std(correction=0)) - 0.5) < 1e-5
    assert not condition.own(torch.full((1, 1, 8, 8), torch.nan))["channels"].any()  # missing: the mean
    split.stored["channels"].fill_(7.0)
    (same := Channels(["coarse"])).attach(data)
    assert (same.own(torch.full((1, 1, 8, 8), 8.0))["channels"] == 0.5).all()  # of a channel with one value


def two_kinds(root: Path) -> None:
    stack(root)
    np.save(root / "bytes.npy", VALUES.astype(np.uint8))


def colours(root: Path) -> None:
    Image.new("RGBA", (10, 9)).save(root / "a.tif")


def constant(root: Path) -> None:
    stack(root, np.stack([VALUES[:, 0], np.full_like(VALUES[:, 0], 0.1, float)], 1))


def nothing(root: Path) -> None:
    stack(root, np.full((12, 2, 8, 8), np.nan, np.float32))


def infinite(root: Path) -> None:
    stack(root, np.full_like(VALUES, np.inf, float))


def broken(root: Path) -> None:
    Image.new("L", (10, 9)).save(root / "a.jpg")  # whose values are not exact


def other_shape(root: Path) -> None:
    stack(root)
    np.save(root / "one.npy", VALUES[0, :1])


def two_arrays(root: Path) -> None:
    np.savez(root / "all.npz", a=VALUES, b=VALUES)


@pytest.mark.parametrize(
    ("write", "settings", "words"),
    [
        (lambda root: stack(root, VALUES + 1j), {}, "complex128"),
        (lambda root: stack(root, VALUES[0, :, 0, 0]), {}, ": 2 of type"),
        (lambda root: np.savez(root / "a.npz", images=VALUES.astype(object)), {}, "a.npz: Object arrays"),
        (lambda root: (root / "a.npy").write_bytes(b"x"), {}, r"data\.root: a\.npy: "),
        (two_arrays, {}, "it has the arrays a, b; name one of them images"),
        (other_shape, {}, "one.npy: 1×10×9 of type uint16; expected 2×8×8"),
        (stack, {"resolution": 16}, "smaller than data.resolution"),
        (two_kinds, {}, "uint16, bytes.npy 0 of uint8|uint8"),
        (colours, {}, "RGBA"),
        (constant, {"resolution": 7}, "the channel 2 has the same value"),
        (nothing, {}, "all are NaN"),
        (infinite, {}, "infinite values"),
        (broken, {}, "a.jpg.*can't be read"),
        (stack, {"names": ["a"]}, "data.names"),
        (stack, {"units": ["K"]}, "data.units"),
        (stack, {"mean": [0.0]}, "data.mean"),
    ],
)
def test_bad_input_is_refused_in_one_line(write: Any, settings: Any, words: str, tmp_path: Path, cache: Path) -> None:
    (root := tmp_path / "files").mkdir()
    write(root)
    with pytest.raises(UserError, match=words):
        loaded(root, **settings)
    assert write in (constant, nothing, infinite, broken) or not [*cache.glob("*.bin")]


def test_a_deviation_of_0_is_refused() -> None:
    node = {"_target_": "diffusion.data.Arrays", "root": "x", "std": [0.0, 1.0], **DATA}
    with pytest.raises(UserError, match="greater than 0"):
        make(node, "data")


def rgb16(value: np.ndarray) -> bytes:
    """A PNG of 8×8 pixels of three colours with 16 bits, which Pillow cannot write."""
    rows = b"".join(b"\0" + value[:8, :3].astype(">u2").tobytes() for _ in range(8))
    parts = (b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


@pytest.mark.parametrize("colours", [False, True])
def test_a_folder_says_that_16_bits_are_rounded(
    colours: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.say_once.cache_clear()
    (root := tmp_path / "files").mkdir()
    for i, (value, _) in enumerate(VALUES):
        (root / f"{i}.png").write_bytes(rgb16(value)) if colours else Image.fromarray(value).save(root / f"{i}.png")
    Folder(root=root, resolution=8, channels=1 if colours else 3).setup()
    assert capsys.readouterr().out.count("16-bit files become 8-bit images") == 1


@pytest.mark.parametrize("tiles", [None, 2])
def test_a_folder_of_grey_16_bit_files_keeps_their_values(tiles: int | None, tmp_path: Path) -> None:
    (root := tmp_path / "files").mkdir()
    scale = 1 if tiles is None else 16  # a tile has 128 pixels
    for i, (value, _) in enumerate(VALUES):
        Image.fromarray(np.kron(value[:8, :8], np.ones((scale, scale), np.uint16))).save(root / f"{i}.tif")
    Image.new("L", (8 * scale, 8 * scale)).save(root / "eight.png")
    data = Folder(root=root, resolution=8, channels=1, tiles=tiles, val=1, test=1)
    data.setup()
    stored = torch.cat([split.images for split in data.splits.values()])
    assert [(entry["path"], entry["reason"]) for entry in data.report] == [
        ("eight.png", "can't be decoded: not grey with 16 bits, as the first file is")
    ]
    if tiles is None:
        assert sorted(stored.flatten().tolist()) == sorted(VALUES[:, 0, :8, :8].flatten().astype(float).tolist())
    else:
        assert (stored % 1 > 0).any()
        assert stored.max() > 255
    inside = data.kind.inside(data.splits["train"].images)
    torch.testing.assert_close(inside.std(correction=0).item(), 0.5)
