"""Every mode, depth and orientation yields the right pixels, or a reason why the file cannot be used."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusion.data.image import MAX_PIXELS, NotAnImage, Unusable, crop_box, read, resized

Point = tuple[float, float, float]
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image"


def pixels(file: Path, at_least: int = 1) -> np.ndarray:
    image = read(file, at_least)
    assert image.mode == "RGB"
    return np.asarray(image)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth image without any symmetry."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 9)], -1)
    return Image.fromarray(planes.astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_become_white_regardless_of_their_colour(file: Path, mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    options = {}
    if mode in ("P", "L", "RGB"):
        image = image.convert("RGB").convert(mode)
        options = {"transparency": image.getpixel((7, 0))}
    image = image.convert(mode)
    opaque = image.convert("RGB").getpixel((0, 0))
    image.save(file, "PNG", **options)
    assert (pixels(file)[:, 4:] == WHITE).all()
    assert (pixels(file)[:, :4] == opaque).all()


def test_half_transparent_pixels_are_blended_with_white(file: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(file, "PNG")
    assert (pixels(file) == 127).all()


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (np.array([[0, 257, 32896, 65535]], np.uint16), [0, 1, 128, 255]),
        (np.array([[0, 257, 32896, 65535]], np.int32), [0, 1, 128, 255]),
        (np.array([[0, 1 / 255, 0.5, 1]], np.float32), [0, 1, 128, 255]),
        (np.array([[0, 1, 128, 254.6]], np.float32), [0, 1, 128, 255]),
    ],
)
def test_pixels_with_more_than_8_bits_are_scaled_not_clipped(file: Path, values: np.ndarray, bits: list[int]) -> None:
    Image.fromarray(values).save(file, "TIFF")
    assert pixels(file)[0].tolist() == [[v] * 3 for v in bits]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1.0, 0.5]], np.float32), np.array([[300, 0.5]], np.float32), np.array([[np.nan, 0.5]], np.float32),
        np.array([[0, 1.0001]], np.float32), np.array([[0, 9]], np.float32), np.array([[0, 255]], np.int32),
    ],
)  # fmt: skip
def test_pixel_values_whose_white_is_unknown_are_refused(file: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(file, "TIFF")
    with pytest.raises(Unusable, match="values from"):
        read(file)


def profile(red: Point, green: Point, blue: Point, gamma: float) -> bytes:
    """An ICC profile with these primaries (XYZ, relative to D50) and a gamma curve."""

    def fixed(values: Point) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = (0.9642, 1, 0.8249)
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(80), b"cprt": b"text" + bytes(4) + b"x"}
    tags |= {name: b"XYZ " + bytes(4) + fixed(value) for name, value in ((b"wtpt", white), (b"rXYZ", red))}
    tags |= {name: b"XYZ " + bytes(4) + fixed(value) for name, value in ((b"gXYZ", green), (b"bXYZ", blue))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = (
        b"lcms" + struct.pack(">I", 0x02100000) + b"mntrRGB XYZ " + bytes(12) + b"acspAPPL" + bytes(24) + fixed(white)
    )
    return struct.pack(">I", start + len(body)) + head + bytes(48) + struct.pack(">I", len(tags)) + table + body


P3 = profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_converted_to_srgb_from_the_profile_of_the_file(file: Path, mode: str) -> None:
    srgb = ImageCms.createProfile("sRGB")
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    stored = ImageCms.profileToProfile(colours, srgb, ImageCms.ImageCmsProfile(io.BytesIO(P3)))
    assert stored is not None
    stored.convert(mode).save(file, "PNG", icc_profile=P3)
    found = read(file, channels=4 if mode == "RGBA" else 3)
    assert found.mode == mode
    wrong = np.abs(np.asarray(found)[..., :3].astype(int) - np.asarray(colours))
    assert (wrong.mean() < 1, wrong.max() <= 12) == (True, True)
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(colours)).mean() > 10


@pytest.mark.parametrize("damaged", [b"not a profile", P3[:200]])
def test_a_damaged_profile_changes_nothing(file: Path, damaged: bytes) -> None:
    picture().save(file, "PNG", icc_profile=damaged)
    assert np.array_equal(pixels(file), np.asarray(picture()))


@pytest.mark.parametrize("orientation", [5, 6, 8])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_uncompressed_tiffs_are_rotated(file: Path, mode: str, orientation: int) -> None:
    """Pillow maps some of them into memory, if it may, with the rows of the rotated image."""
    image = picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(file, "TIFF")
    upright = pixels(file)
    turn = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    image.transpose(turn).save(file, "TIFF", tiffinfo={0x0112: orientation})
    assert np.array_equal(pixels(file), upright)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files_are_refused(file: Path, kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, kind)
    file.write_bytes(stream.getvalue()[: int(part * len(stream.getvalue()))])
    with pytest.raises(Unusable):
        read(file)


@pytest.mark.parametrize("side", [20_000, 12_000, 1_000_000_000])
def test_decompression_bomb_is_refused_before_decoding(file: Path, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    file.write_bytes(start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(Unusable, match="pixels"):
        read(file)
    assert 12_000 * 9_000 < MAX_PIXELS < 12_000 * 12_000


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff"]
)
def test_files_that_are_not_images_are_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(NotAnImage, match="not an image"):
        read(file)


def test_an_image_smaller_than_the_resolution_is_refused(file: Path) -> None:
    picture(24, 16).save(file, "PNG")
    assert read(file, 16).size == (24, 16)
    with pytest.raises(Unusable, match="24x16 pixels, smaller than 17x17"):
        read(file, 17)


def test_jpeg_draft_decoding_is_close_to_full_decoding(file: Path) -> None:
    picture(800, 600).save(file, "JPEG", quality=95)
    small, full = read(file, 64, 128), read(file)
    assert full.size == (800, 600)
    assert small.size == (200, 150)
    boxes = [crop_box(image.size, 0.5) for image in (small, full)]
    a, b = (resized(i, 64, box).astype(int) for i, box in zip((small, full), boxes, strict=True))
    assert np.abs(a - b).max() <= 4


def test_crop_box_returns_the_square_at_the_given_position() -> None:
    assert crop_box((30, 10), 0.5) == (10, 0, 20, 10)
    assert crop_box((10, 30), 0) == (0, 0, 10, 10)
    assert crop_box((10, 30), 1) == (0, 20, 10, 30)


def test_resizing_a_window_uses_no_pixel_outside_of_it() -> None:
    half = Image.new("RGB", (64, 64), RED)
    half.paste(BLUE, (32, 0, 64, 64))
    assert (resized(half, 4, (0, 0, 32, 32)) == RED).all()


def test_crop_box_has_the_aspect_ratio_of_the_resolution():
    assert crop_box((30, 10), 0.5, [5, 10]) == (5, 0, 25, 10)
    assert crop_box((10, 30), 1, [5, 10]) == (0, 25, 10, 30)
    assert crop_box((1000, 999), 0.5, [7, 7]) == crop_box((1000, 999), 0.5)


def test_grey_is_the_luma_and_transparent_rgba_pixels_become_black(tmp_path):
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(tmp_path / "unseen.png")
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "seen.png")
    assert read(tmp_path / "seen.png", channels=1).getpixel((0, 0)) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert read(tmp_path / "unseen.png", channels=1).getpixel((0, 0)) == 255  # over white
    assert read(tmp_path / "seen.png", channels=4).getpixel((0, 0)) == (200, 100, 50, 255)
    assert not resized(read(tmp_path / "unseen.png", channels=4), 8, (0, 0, 8, 8)).any()
