"""Read one image file as grey, RGB or RGBA pixels, or say why the file cannot be used.

Every colour mode and EXIF orientation is accepted, and colours are converted to sRGB from the file's profile; only the
first frame of an animation is read. Refused are files that can't be decoded completely, images beyond Pillow's limit of
179 million pixels, and images smaller than the resolution: if they were upscaled, the network would learn the blur.
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

# EPS is left out because reading it runs an external program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"]
RESIZE = f"Pillow {PILLOW} Lanczos"  # part of every cache key: another Pillow may round differently


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
        with contextlib.nullcontext(source) if isinstance(source, Image.Image) else _opened(source) as image:
            if keep:
                image.draft(None, (keep, keep))
            image.load()
            upright = image
            with contextlib.suppress(Exception):  # unreadable metadata
                upright = ImageOps.exif_transpose(image)
            upright = _coloured(upright, channels)
    except Unusable:
        raise
    except UnidentifiedImageError as error:
        raise NotAnImage("not an image in a known format") from error
    except Exception as error:  # decoders raise almost any exception on damaged bytes
        raise Unusable(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error
    height, width = height_width(at_least)
    if upright.width < width or upright.height < height:
        raise Unusable(f"{upright.width}x{upright.height} pixels, smaller than {width}x{height}")
    return upright


def size_of(file: Path) -> tuple[int, int] | None:
    """(width, height) from the header of `file`; None if it is not an image."""
    with contextlib.suppress(Exception), _opened(file) as image:  # as in `read`
        return image.size
    return None


def resized(image: Image.Image, resolution: Resolution, box: tuple[int, int, int, int]) -> np.ndarray:
    """The window `box` (left, top, right, bottom) of `image`, resized without using any pixel outside of it.

    Lanczos with antialiasing; RGBA colours are weighted by their opacity, and fully transparent pixels become black.
    Returns uint8 (C, H, W), contiguous.
    """
    height, width = height_width(resolution)
    pixels = np.atleast_3d(np.asarray(image.crop(box).resize((width, height), Image.Resampling.LANCZOS)))
    if image.mode == "RGBA":
        pixels = pixels * (pixels[..., 3:] > 0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


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
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image. (Given a path, Pillow maps raw TIFFs into memory, in wrong rows if they are to be rotated.)"""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # Pillow's warnings about sizes and metadata
        Image.init()
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
            yield image


def _coloured(image: Image.Image, channels: Channels) -> Image.Image:
    """Convert `image` to grey (ITU-R 601 luma of its RGB), RGB or RGBA."""
    if image.mode == "F":
        raise Unusable("floating-point pixels, whose white is unknown")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion saturates
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = _in_srgb(image.convert("RGBA"), image)
        if channels != 4:  # transparent pixels have arbitrary colours: show them on white
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    else:
        image = _in_srgb(image.convert("RGB") if image.mode == "P" else image, image)
    return image if image.mode == MODES[channels] == "RGBA" else image.convert("RGB").convert(MODES[channels])


def _in_srgb(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `pixels` from the colour profile of `image` to sRGB; unchanged without a usable profile."""
    mode = "RGBA" if pixels.mode == "RGBA" else "RGB"
    with contextlib.suppress(ImageCms.PyCMSError, OSError, KeyError):  # damaged, for other channels, or none
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if not ImageCms.getProfileDescription(source).startswith("sRGB"):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(pixels, source, srgb, outputMode=mode) or pixels
    return pixels
