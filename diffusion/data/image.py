"""Read one image file as grey, RGB or RGBA pixels, or report why the file cannot be used.

Every colour mode and EXIF orientation is accepted, and colours are converted to sRGB from the file's profile, such as
Display P3; only the first frame of an animation is read. 16-bit integers are white at 65535. Refused are

- files of more than MAX_BYTES, before a byte is read;
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
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL import __version__ as PILLOW

from diffusion.data.threads import Room
from diffusion.pixels import MODES, Channels, Resolution, height_width

MAX_PIXELS = 1 << 27  # 134 million: 108-megapixel pictures of phones are read, those of 200 are not
MAX_BYTES = 1 << 31  # per file: twice the size of MAX_PIXELS in uncompressed 16-bit RGBA
# Pixels being decoded at any time, over all threads. Decoding takes 8 to 24 bytes per pixel: at most 3.2 GB in total.
ROOM = Room(MAX_PIXELS)
# To open a WebP or AVIF image, Pillow reads the whole file and allocates a frame: one at a time, not counted in ROOM.
OPENING = Lock()
# Pillow allocates pixels in blocks of 1 MB, which glibc keeps for the thread that frees them. Large ones it returns to
# the system, or keeps for all threads (`diffusion._keep_freed_memory`): then decoding may need half as much again.
Image.core.set_block_size(1 << 26)  # type: ignore[attr-defined]
# EPS is left out because reading it runs an external program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"]
RESIZE = f"Pillow {PILLOW} Lanczos"  # part of every cache key: another Pillow may round differently
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")


class Unusable(Exception):
    """Why an image can't be used, in a few words."""


class NotAnImage(Unusable):
    """The file is not in a known image format."""


def read(
    file: Path, at_least: Resolution | None = None, keep: int | None = None, channels: Channels = 3
) -> Image.Image:
    """Read the image in `file`, upright, as grey, RGB or RGBA. Raises Unusable.

    Args:
        at_least: minimum side in pixels; or minimum [height, width].
        keep: if given, decode a JPEG at a half, a quarter or an eighth of its size, as long as no side becomes shorter
            than this; several times faster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about sizes and metadata, which are checked here
        try:
            with _open(file) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Unusable(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
                if not (_fits(width, height, at_least) or _fits(height, width, at_least)):  # in either orientation
                    raise _too_small(width, height, at_least)
                if image.format == "PNG":  # decoding does not verify the checksums of the pixels
                    with _open(file) as twin:
                        twin.verify()
                if keep:
                    image.draft(None, (keep, keep))
                image.load()
                upright = _upright(image, _coloured(image, channels))
                if (width > height) != (upright.width > upright.height):
                    width, height = height, width
                if not _fits(width, height, at_least):
                    raise _too_small(width, height, at_least)
                return upright
        except Unusable:
            raise
        except Image.DecompressionBombError as error:
            raise Unusable(f"too many pixels: {error}") from error
        except UnidentifiedImageError as error:
            raise NotAnImage("not an image in a known format") from error
        except Exception as error:  # decoders raise almost any exception on damaged bytes
            raise Unusable(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def _fits(width: int, height: int, at_least: Resolution | None) -> bool:
    down, right = height_width(at_least or 1)
    return width >= right and height >= down


def _too_small(width: int, height: int, at_least: Resolution | None) -> Unusable:
    down, right = height_width(at_least or 1)
    return Unusable(f"{width}x{height} pixels, smaller than {right}x{down}")


@contextlib.contextmanager
def decoded(
    file: Path, at_least: Resolution | None = None, keep: int | None = None, channels: Channels = 3
) -> Iterator[Image.Image]:
    """`read` for several threads: wait until ROOM has space for the image, and occupy it inside the `with` block."""
    with ROOM.taken(_weight(file, keep)):
        yield read(file, at_least, keep, channels)


def in_memory(image: Image.Image, at_least: Resolution | None = None, channels: Channels = 3) -> Image.Image:
    """`read` for an image that is in memory already."""
    upright = _upright(image, _coloured(image, channels))
    if not _fits(*upright.size, at_least):
        raise _too_small(*upright.size, at_least)
    return upright


def _weight(file: Path, keep: int | None) -> int:
    """The share of ROOM for reading a file: the pixels that `read` decodes, plus a quarter of all pixels in the file.

    (A JPEG decoder may need 6 bytes for each of these.) Computed from the header. A file that is read whole counts too,
    as one pixel for every 8 bytes. 0 if the file is not an image; `read` then reports why.
    """
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        whole = _is_read_whole(file)
        with OPENING if whole else contextlib.nullcontext(), _open(file) as image:
            every = image.width * image.height // 4 + (file.stat().st_size // 8 if whole else 0)
            if keep:
                image.draft(None, (keep, keep))
            return image.width * image.height + every
    return 0


def _is_read_whole(file: Path) -> bool:
    """Whether a file is WebP, or AVIF or a related format, judging by its first bytes."""
    with file.open("rb") as opened:
        head = opened.read(12)
    return head[:4] == b"RIFF" or head[4:8] == b"ftyp"


def size_of(file: Path) -> tuple[int, int] | None:
    """(width, height) from the header of `file`; None if it is not an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _open(file) as image:
                return image.size
        except Exception:  # decoders raise almost any exception on damaged bytes
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


def check_bytes(size: int) -> None:
    """Raise Unusable if a file has more than MAX_BYTES, such as a sparse file, which would take hours to read."""
    if size > MAX_BYTES:
        raise Unusable(f"{size:,} bytes, more than {MAX_BYTES:,}")


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    """Open an image. (Given a path, Pillow maps raw TIFFs into memory, in wrong rows if they are to be rotated.)"""
    check_bytes(file.stat().st_size)
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    with file.open("rb") as opened, Image.open(opened, formats=formats) as image:
        yield image


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Rotate `rgb` according to the EXIF orientation of `image`."""
    try:
        rgb.info = {}
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
    except Exception:  # unreadable metadata: the pixels are not turned
        return rgb
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _coloured(image: Image.Image, channels: Channels) -> Image.Image:
    """Convert `image` to grey (ITU-R 601 luma of its RGB), RGB or RGBA."""
    if channels == 4 and image.has_transparency_data and image.mode not in WIDE:
        return _in_srgb(image.convert("RGBA"), image)
    rgb = _rgb(image)
    return rgb if channels == 3 else rgb.convert(MODES[channels])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE:
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        # Transparent pixels have arbitrary colours: show them on white.
        clear = _in_srgb(image.convert("RGBA"), image)
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return _in_srgb(image.convert("RGB") if image.mode == "P" else image, image).convert("RGB")


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
    white = (1 if high <= 1 else 255) if floats else 65535
    if not (low >= 0 and high <= white):
        raise Unusable(f"values from {low} to {high}, expected 0..65535, or floats in [0, 1] or [0, 255]")
    if (floats and 1 < high < 16) or (values.dtype == np.int32 and 0 < high <= 255):
        raise Unusable(
            f"values up to {high}: white is unknown; expected 16-bit integers, or floats in [0, 1] or [0, 255]"
        )
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
