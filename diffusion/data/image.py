"""Read one image file as grey, RGB or RGBA pixels, or say why the file cannot be used.

Every colour mode and EXIF orientation is accepted, and colours are converted to sRGB from the file's profile, such as
Display P3; only the first frame of an animation is read. 16-bit integers are white at 65535. Refused are

- files that can't be decoded completely;
- images of more than MAX_PIXELS, a number in the header, before any pixel is decoded;
- images with a side shorter than the resolution: if they were upscaled, the network would learn the blur; and
- pixel values whose white level is unknown.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL import __version__ as PILLOW

from diffusion.pixels import MODES, Channels, Resolution, height_width

MAX_PIXELS = 1 << 27  # 134 million: 108-megapixel pictures of phones are read, those of 200 are not
# EPS is left out because reading it runs an external program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"]
RESIZE = f"Pillow {PILLOW} Lanczos"  # part of every cache key: another Pillow may round differently
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")


class Unusable(Exception):
    """Why an image can't be used, in a few words."""


class NotAnImage(Unusable):
    """The file is not in a known image format."""


def read(
    source: Path | Image.Image, at_least: Resolution = 1, keep: int | None = None, channels: Channels = 3
) -> Image.Image:
    """Read an image, upright, as grey, RGB or RGBA. Raises Unusable.

    Args:
        source: a file, or an image in memory.
        at_least: minimum side in pixels; or minimum [height, width].
        keep: if given, decode a JPEG at a half, a quarter or an eighth of its size, as long as no side becomes shorter
            than this; several times faster.
    """
    try:
        with _opened(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Unusable(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
            if isinstance(source, Path) and image.format == "PNG":  # decoding does not verify the pixels' checksums
                with _opened(source) as twin:
                    twin.verify()
            if keep:
                image.draft(None, (keep, keep))
            image.load()
            upright = _coloured(_upright(image), channels)
    except Unusable:
        raise
    except Image.DecompressionBombError as error:
        raise Unusable(f"too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        raise NotAnImage("not an image in a known format") from error
    except PermissionError as error:
        raise Unusable(f"can't be read: {error.strerror}") from error
    except Exception as error:  # decoders raise almost any exception on damaged bytes
        raise Unusable(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error
    height, width = height_width(at_least)
    if upright.width < width or upright.height < height:
        raise Unusable(f"{upright.width}x{upright.height} pixels, smaller than {width}x{height}")
    return upright


def size_of(file: Path) -> tuple[int, int] | None:
    """(width, height) from the header of `file`; None if it is not an image."""
    try:
        with _opened(file) as image:
            return image.size
    except Exception:  # as in `read`
        return None


def resized(image: Image.Image, resolution: Resolution, box: tuple[int, int, int, int]) -> np.ndarray:
    """The window `box` (left, top, right, bottom) of `image`, resized without using any pixel outside of it.

    Lanczos with antialiasing; RGBA colours are weighted by their opacity. Returns uint8 (H, W, C), or (H, W) for a
    single channel. Fully transparent pixels become black.
    """
    height, width = height_width(resolution)
    pixels = np.asarray(image.crop(box).resize((width, height), Image.Resampling.LANCZOS))
    return pixels * (pixels[..., 3:] > 0) if image.mode == "RGBA" else pixels


def planes(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) or (H, W) -> (C, H, W), contiguous."""
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))


def crop_box(size: tuple[int, int], position: float, resolution: Resolution = 1) -> tuple[int, int, int, int]:
    """The largest window of an image of `size` (width, height), as (left, top, right, bottom).

    Args:
        position: position of the window along the side that is cut, in [0, 1]; 0.5 is the centre.
        resolution: the target resolution, which sets the aspect ratio of the window, to the nearest pixel.
    """
    width, height = size
    down, right = height_width(resolution)
    unit = min(width / right, height / down)
    across, along = round(unit * right), round(unit * down)
    left, top = round(position * (width - across)), round(position * (height - along))
    return left, top, left + across, top + along


@contextlib.contextmanager
def _opened(source: Path | Image.Image) -> Iterator[Image.Image]:
    """Open an image. (Given a path, Pillow maps raw TIFFs into memory, in wrong rows if they are to be rotated.)"""
    if isinstance(source, Image.Image):
        yield source
        return
    with warnings.catch_warnings(), source.open("rb") as file:
        warnings.simplefilter("ignore")  # Pillow's warnings about sizes and metadata
        Image.init()
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            yield image


def _upright(image: Image.Image) -> Image.Image:
    """`image` rotated according to its EXIF orientation."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # unreadable metadata
        return image


def _coloured(image: Image.Image, channels: Channels) -> Image.Image:
    """Convert `image` to grey (ITU-R 601 luma of its RGB), RGB or RGBA."""
    if image.mode in WIDE:
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        image = _in_srgb(image.convert("RGBA"), image)
        if channels != 4:  # transparent pixels have arbitrary colours: show them on white
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    else:
        image = _in_srgb(image.convert("RGB") if image.mode == "P" else image, image)
    return image if image.mode == MODES[channels] == "RGBA" else image.convert("RGB").convert(MODES[channels])


def _in_srgb(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `pixels` from the colour profile of `image` to sRGB; unchanged without a usable profile."""
    profile = image.info.get("icc_profile")
    if not profile:
        return pixels
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return pixels
        mode = "RGBA" if pixels.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(pixels, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for other channels
        return pixels
    return pixels if converted is None else converted


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers 0..65535 -> 0..255; floats in [0, 1] or [0, 255] -> 0..255. (Pillow's conversion saturates.)

    Refused are 32-bit integers up to 255, and floats slightly above 1: they would be almost black.
    """
    low, high = values.min(), values.max()
    floats = values.dtype.kind == "f"
    white = 65535 if not floats else 1 if high <= 1 else 255
    dark = 1 < high < 16 if floats else values.dtype == np.int32 and 0 < high <= 255
    if dark or not (low >= 0 and high <= white):
        raise Unusable(f"values from {low} to {high}: expected 16-bit integers, or floats in [0, 1] or [0, 255]")
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
