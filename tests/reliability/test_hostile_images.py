"""Forty hostile files among eight good ones: each is used with the right pixels or named once with a reason.

Files with damage that the decoder does not notice are used: nothing distinguishes them from other images.
"""

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from diffusion.data import Folder

pytestmark = pytest.mark.reliability

Pixels = np.ndarray  # (8, 8, 3) uint8
UPRIGHT = {  # EXIF orientation -> how a viewer turns the stored rows and columns
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x),
}


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 8, 3), np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


def fill(root: Path) -> tuple[dict[str, Pixels], set[str]]:
    """Write the forty files; return name -> right pixels of the usable ones, and the names of the others."""
    used: dict[str, Pixels] = {}
    refused: set[str] = set()
    seeds = iter(range(100, 1000))

    def rgb() -> Image.Image:
        return Image.fromarray(pixels(next(seeds)))

    for form, place in {"PNG": -20, "JPEG": 2, "WEBP": 8, "GIF": 0, "BMP": 15}.items():
        content = encoded(rgb(), form)
        (root / f"cut.{form.lower()}").write_bytes(content[: len(content) * 2 // 3])
        (root / f"flipped.{form.lower()}").write_bytes(flipped(content, place, 3))
        refused |= {f"cut.{form.lower()}", f"flipped.{form.lower()}"}

    for name, content in {
        "empty.png": b"",
        "page.jpg": b"<html><body>404</body></html>",
        "bomb.png": bomb(50_000),
        "small bomb.png": bomb(14_000),
        "1x10000.png": encoded(Image.new("RGB", (1, 10_000)), "PNG"),
        "program.eps": encoded(rgb(), "EPS"),  # reading one would run a program
        "floats.tiff": encoded(Image.fromarray(np.linspace(-9, 9, 64, dtype=np.float32).reshape(8, 8)), "TIFF"),
    }.items():
        (root / name).write_bytes(content)
        refused.add(name)
    (root / ".hidden.png").write_bytes(encoded(rgb(), "PNG"))

    for name, form in {
        "a png.jpg": "PNG", "a webp.txt": "WEBP", "no extension": "PNG", "unïcode ☃.png": "PNG", "new\nline.png": "PNG"
    }.items():  # fmt: skip
        image = rgb()
        (root / name).write_bytes(encoded(image, form, lossless=True))
        used[name] = np.asarray(image)

    for orientation, upright in UPRIGHT.items():
        image = rgb()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        (root / f"exif{orientation}.png").write_bytes(encoded(image, "PNG", exif=exif))
        used[f"exif{orientation}.png"] = upright(np.asarray(image))

    image = rgb()
    (root / "broken exif.png").write_bytes(encoded(image, "PNG", exif=b"Exif\0\0MM\0*\xff"))
    used["broken exif.png"] = np.asarray(image)

    def mode(name: str, content: bytes, right: np.ndarray) -> None:
        (root / name).write_bytes(content)
        used[name] = np.broadcast_to(right[..., None] if right.ndim == 2 else right, (8, 8, 3))

    grey, colour, alpha = pixels(1, 8, 8), pixels(2), np.where(np.arange(8) % 2, 255, 0).astype(np.uint8)
    alpha = np.broadcast_to(alpha, (8, 8))
    mode("L.png", encoded(Image.fromarray(grey), "PNG"), grey)
    pair = Image.merge("LA", (Image.fromarray(grey), Image.fromarray(np.ascontiguousarray(alpha))))
    mode("LA.png", encoded(pair, "PNG"), np.where(alpha, grey, 255))
    clear = Image.fromarray(np.dstack([colour, alpha]))
    mode("RGBA.png", encoded(clear, "PNG"), np.where(alpha[..., None], colour, 255))
    palette = Image.fromarray(np.broadcast_to(np.arange(8, dtype=np.uint8), (8, 8)).copy(), "P")
    colours = pixels(3, 8, 3)
    palette.putpalette(colours.flatten().tolist())
    shown = np.broadcast_to(colours, (8, 8, 3)).copy()
    shown[:, 2] = 255
    mode("P.png", encoded(palette, "PNG", transparency=2), shown)
    wide = (grey.astype(np.uint16) * 257) ^ 3
    mode("16 bit.png", encoded(Image.fromarray(wide), "PNG"), grey)
    bits = grey > 127
    mode("1 bit.png", encoded(Image.fromarray(bits), "PNG"), np.where(bits, 255, 0).astype(np.uint8))
    ink = Image.fromarray(np.dstack([255 - colour, np.zeros((8, 8), np.uint8)]), "CMYK")
    mode("CMYK.tiff", encoded(ink, "TIFF"), colour)
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (40, 200)]
    mode(
        "animated.gif",
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        np.full((8, 8), 40, np.uint8),
    )

    outside = root.parent / "outside"
    outside.mkdir()
    image = rgb()
    image.save(outside / "one.png")
    (root / "escape.png").symlink_to(outside / "one.png")
    used["escape.png"] = np.asarray(image)  # a link counts as its target, wherever that is
    (root / "escape").symlink_to(outside, target_is_directory=True)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mknod(root / "socket.png", 0o600 | stat.S_IFSOCK)
    (root / "the good one again.png").write_bytes((root / "good0.png").read_bytes())
    refused.add("the good one again.png")
    return used, refused


def load(root: Path) -> tuple[dict[str, Pixels], Folder]:
    data = Folder(root=root, resolution=8, batch_size=1, val=0, test=0)
    data.setup()
    split = data.splits["train"]
    return {n: x.permute(1, 2, 0).numpy() for n, x in zip(split.names, split.images, strict=True)}, data


def test_forty_hostile_files_are_used_correctly_or_reported_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path / "cache"))
    loaded = ImageFile.ImageFile.load

    def load_small(self: ImageFile.ImageFile) -> object:
        assert self.width * self.height < 1e6, "a bomb is refused by its header alone"
        return loaded(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load_small)
    root = tmp_path / "photos"
    root.mkdir()
    good = {f"good{i}.png": pixels(i) for i in range(8)}
    for name, right in good.items():
        Image.fromarray(right).save(root / name)
    alone, _ = load(root)
    used, refused = fill(root)
    assert len([*root.iterdir()]) >= 40 + len(good)

    images, data = load(root)
    assert images.keys() == good.keys() | used.keys()
    for name, right in (good | used).items():
        assert np.array_equal(images[name], right), name
    assert [name for name in images if name in good] == list(alone)
    named = [entry["path"] for entry in data.report]
    assert sorted(named) == sorted(refused)
    for entry in data.report:
        assert entry["reason"]
