"""One image file -> one square of RGB bytes, or a reason why the file cannot be used.

Every colour mode and EXIF orientation is accepted; of an animation the first frame. These are refused: files of more
than MAX_BYTES (before a byte is read), files that can't be decoded completely, images of more than MAX_PIXELS (known
from the header, before any pixel is decoded), images with a side shorter than the resolution (if they were enlarged,
the network would learn the blur), and pixel values of which white is not known.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL import __version__ as PILLOW

from diffusion.data.threads import Room

MAX_PIXELS = 1 << 27  # 134 million: above the 108 of the largest phone pictures
MAX_BYTES = 1 << 31  # of a file: twice what MAX_PIXELS take as 16-bit RGBA, uncompressed
# Pixels that are decoded at a time, by all threads. Decoding takes 8 to 24 bytes a pixel: at most 3.2 GB together.
ROOM = Room(MAX_PIXELS)
# To open a WebP or AVIF image Pillow reads its whole file, and makes room for a frame: one at a time, outside of ROOM.
OPENING = Lock()
# Pillow's pixels lie in blocks of 1 MB, which glibc keeps for the thread that has freed them. Large ones it gives back.
Image.core.set_block_size(1 << 26)  # type: ignore[attr-defined]
# EPS is left out, because reading it runs a program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"]
RESIZE = f"Pillow {PILLOW} Lanczos"  # part of every cache key, because another Pillow may round differently
WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")


class Unusable(Exception):
    """Why an image can't be used, in a few words."""


class NotAnImage(Unusable):
    """The file is not in a known image format."""


def read(file: Path, at_least: int | None = None, keep: int | None = None) -> Image.Image:
    """The upright image in `file`, as RGB. Raises Unusable.

    Args:
        at_least: the shortest side that is accepted, in pixels.
        keep: if given, a JPEG is decoded at a half, a quarter or an eighth of its size where no side gets shorter than
            this, which is several times faster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about sizes and metadata, which are checked here
        try:
            with _open(file) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Unusable(f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
                if at_least and min(width, height) < at_least:
                    raise Unusable(f"{width}x{height} pixels, smaller than {at_least}x{at_least}")
                if image.format == "PNG":  # decoding does not verify the checksums of the pixels
                    with _open(file) as twin:
                        twin.verify()
                if keep:
                    image.draft(None, (keep, keep))
                image.load()
                return _upright(image, _rgb(image))
        except Unusable:
            raise
        except Image.DecompressionBombError as error:
            raise Unusable(f"too many pixels: {error}") from error
        except UnidentifiedImageError as error:
            raise NotAnImage("not an image in a known format") from error
        except Exception as error:  # decoders raise almost any exception on damaged bytes
            raise Unusable(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


@contextlib.contextmanager
def decoded(file: Path, at_least: int | None = None, keep: int | None = None) -> Iterator[Image.Image]:
    """As `read`, for several threads: the images that are in such blocks at a time fit into ROOM; others wait."""
    with ROOM.taken(_weight(file, keep)):
        yield read(file, at_least, keep)


def _weight(file: Path, keep: int | None) -> int:
    """The pixels that `read` decodes, and a quarter of all, of each of which a JPEG's decoder may hold 6 bytes.

    They are known from the header. A file that is read whole counts as the pixels that take as much memory. 0 where the
    file is not an image; `read` says why.
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
    """Whether a file is WebP, or AVIF or another kind of its family, by its first bytes."""
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


def square(image: Image.Image, side: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """The window `box` (left, top, right, bottom) of `image`, resized without using any pixel outside of it.

    Lanczos with antialiasing. uint8 (side, side, 3), or (side, side) for a single channel.
    """
    return np.asarray(image.crop(box).resize((side, side), Image.Resampling.LANCZOS))


def planes(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (3, H, W), contiguous."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def crop_box(size: tuple[int, int], position: float) -> tuple[int, int, int, int]:
    """The largest square window of an image of `size` (width, height), as (left, top, right, bottom).

    Args:
        position: where the window is along the longer side, in [0, 1]; 0.5 is the centre.
    """
    width, height = size
    side = min(width, height)
    left, top = round(position * (width - side)), round(position * (height - side))
    return left, top, left + side, top + side


def check_bytes(size: int) -> None:
    """Raise Unusable for a file of more than MAX_BYTES, such as a sparse one, which would take hours to read."""
    if size > MAX_BYTES:
        raise Unusable(f"{size:,} bytes, more than {MAX_BYTES:,}")


def _open(file: Path) -> Image.Image:
    check_bytes(file.stat().st_size)
    Image.init()
    return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])


def _upright(image: Image.Image, rgb: Image.Image) -> Image.Image:
    """`rgb`, turned according to the EXIF orientation of `image`."""
    try:
        rgb.info = {}
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
    except Exception:  # unreadable metadata: the pixels are not turned
        return rgb
    ImageOps.exif_transpose(rgb, in_place=True)
    return rgb


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE:
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        clear = image.convert("RGBA")  # transparent pixels have arbitrary colours: show them on white
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers 0..65535 -> 0..255; floats in [0, 1] or [0, 255] -> 0..255. (Pillow's conversion saturates.)"""
    low, high = values.min(), values.max()
    white = 65535 if values.dtype.kind in "iu" else 1 if high <= 1 else 255
    if not (low >= 0 and high <= white):
        raise Unusable(f"values from {low} to {high}, expected 0..65535, or as floats [0, 1] or [0, 255]")
    return np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
