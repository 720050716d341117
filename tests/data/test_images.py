"""Depths, profiles and raw files yield the right pixels, and crops and sizes are exact.

Orientations, modes, truncated files and bombs are in tests/reliability/test_hostile_images.py.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from diffusion.base.images import Unusable, read, resized

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image"


def pixels(file: Path) -> np.ndarray:
    image = read(file)
    assert image.mode == "RGB"
    return np.asarray(image)


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth image without any symmetry."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 9)], -1)
    return Image.fromarray(planes.astype(np.uint8))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(file: Path, mode: str) -> None:
    image = Image.new("RGB", (8, 8), RED)
    image.paste(BLUE, (0, 0, 4, 8))
    image = image.convert(mode)
    opaque = image.convert("RGB").getpixel((0, 0))
    image.save(file, "PNG", transparency=image.getpixel((7, 0)))
    assert (pixels(file)[:, 4:] == WHITE).all()
    assert (pixels(file)[:, :4] == opaque).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_sixteen_bits_are_scaled_not_clipped_and_floats_are_refused(file: Path, kind: type) -> None:
    Image.fromarray(np.array([[0, 257, 32896, 65535]], kind)).save(file, "TIFF")
    assert pixels(file)[0, :, 0].tolist() == [0, 1, 128, 255]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(file, "TIFF")
    with pytest.raises(Unusable):
        read(file)


# sRGB, under another name, with its red and green primaries swapped: so are the channels of an image with this profile
SWAPPED = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
for old, new in ((b"rXYZ", b"????"), (b"gXYZ", b"rXYZ"), (b"????", b"gXYZ"), (b"s\0R\0G\0B", b"S\0w\0a\0p")):
    SWAPPED = SWAPPED.replace(old, new)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_converted_to_srgb_from_the_profile_of_the_file(file: Path, mode: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(colours[..., [1, 0, 2]]).convert(mode).save(file, "PNG", icc_profile=SWAPPED)
    found = read(file, mode=mode)
    assert found.mode == mode
    assert np.abs(np.asarray(found)[..., :3].astype(int) - colours).max() <= 2
    picture().save(file, "PNG", icc_profile=SWAPPED[:200])  # a damaged profile changes nothing
    assert np.array_equal(pixels(file), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16"])
def test_uncompressed_tiffs_are_rotated(file: Path, mode: str) -> None:
    """Pillow maps some of them into memory, if it may, with the rows of the rotated image."""
    image = picture().convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(file, "TIFF")
    upright = pixels(file)
    image.transpose(Image.Transpose.ROTATE_90).save(file, "TIFF", tiffinfo={0x0112: 6})
    assert np.array_equal(pixels(file), upright)
    assert read(file, [16, 24]).size == (24, 16)  # measured upright
    with pytest.raises(Unusable):
        read(file, [24, 16])


def test_a_jpeg_decoded_at_a_part_of_its_size_is_close_to_the_whole(file: Path) -> None:
    picture(800, 600).save(file, "JPEG", quality=95)
    small, full = read(file, 64, 128), read(file)
    assert (full.size, small.size) == ((800, 600), (200, 150))
    a, b = (resized(each, 64).astype(int) for each in (small, full))
    assert np.abs(a - b).max() <= 4


@pytest.mark.parametrize(
    ("resolution", "box", "red"),
    [([5, 5], None, (10, 0, 20, 10)), ([5, 10], None, (5, 0, 25, 10)), ([4, 4], (2, 1, 6, 9), (2, 3, 6, 7))],
)
def test_the_centre_with_the_right_proportions_is_resized_without_pixels_outside_of_it(resolution, box, red) -> None:
    image = Image.new("RGB", (30, 10), BLUE)
    image.paste(RED, red)
    found = resized(image, resolution, box)
    assert [*found.shape[1:]] == resolution
    assert (found.transpose(1, 2, 0) == RED).all()
    image.paste(BLUE, (red[2] - 1, 0, 30, 10))
    assert not (resized(image, resolution, box).transpose(1, 2, 0) == RED).all()


def test_grey_is_the_luma_and_transparent_rgba_pixels_become_black(file: Path) -> None:
    Image.new("RGB", (8, 8), (200, 100, 50)).save(file, "PNG")
    assert read(file, mode="L").getpixel((0, 0)) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert read(file, mode="RGBA").getpixel((0, 0)) == (200, 100, 50, 255)
    Image.new("RGBA", (8, 8), (200, 100, 50, 0)).save(file, "PNG")
    assert read(file, mode="L").getpixel((0, 0)) == 255  # over white
    assert not resized(read(file, mode="RGBA"), 8, (0, 0, 8, 8)).any()
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(file, "PNG")
    assert (pixels(file) == 127).all()
