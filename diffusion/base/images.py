"""Image files as grey, RGB or RGBA pixels, and the cache of decoded images.

Every colour mode, profile and EXIF orientation is accepted; only the first frame of an animation is read. Refused are
files that can't be decoded completely, images beyond Pillow's limit of 179 million pixels, and images smaller than the
resolution: if they were upscaled, the network would learn the blur.
"""

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL import __version__ as PILLOW
from torch import Tensor

from diffusion.base.console import console, track
from diffusion.base.files import lock, replace, replacing
from diffusion.base.pixels import Resolution, height_width

Item = TypeVar("Item")
Result = TypeVar("Result")
Box = tuple[int, int, int, int]  # a window of an image: left, top, right, bottom, in pixels
Label = int | str | tuple[int, str]  # the class of an image; or its place among the classes, and its name
Made = tuple[str, np.ndarray | str, Label | None]  # an image's name, its (C, H, W) or why it is unusable, and label
Entry = dict[str, str]  # a file or an image that needs attention: {"path", "reason", "action"}

# EPS is left out because reading it runs an external program.
FORMATS = ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000"]
RESIZE = f"Pillow {PILLOW} Lanczos"  # part of every cache key: another Pillow may round differently
AHEAD = 512  # items that threads process before their results are used


say_once = cache(console.print)


class Unusable(Exception):
    """Why an image can't be used, in a few words."""


def opened(content: bytes) -> Image.Image:
    """The image in the bytes of a file, of which only the header is decoded yet."""
    Image.init()  # given a path, Pillow would map raw TIFFs into memory, in wrong rows if they are to be rotated
    return Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])


def read(
    source: Path | Callable[[], Image.Image], at_least: Resolution = 1, keep: int | None = None, mode: str = "RGB"
) -> Image.Image:
    """Read an image, upright. Raises Unusable.

    Args:
        source: a file, or what opens an image.
        at_least: minimum side in pixels; or minimum [height, width].
        keep: if given, decode a JPEG at a half, a quarter or an eighth of its size, as long as no side becomes shorter
            than this; several times faster.
        mode: L, RGB or RGBA (`pixels.MODES`), or F: grey files of 16 bits, with their values as floats.
    """
    try:
        image = opened(source.read_bytes()) if isinstance(source, Path) else source()
        if keep:
            image.draft(None, (keep, keep))
        if mode == "F" and not is_fine(image):
            raise ValueError("not grey with 16 bits, as the first file is")
        layout = [str(part[3]) for part in getattr(image, "tile", ())]
        if mode != "F" and (image.mode.startswith("I") or any(";16" in each for each in layout)):
            say_once("data: 16-bit files become 8-bit images; data.channels=1 keeps grey values, data=arrays colours")
        image.load()
        with contextlib.suppress(Exception):  # unreadable metadata
            image = ImageOps.exif_transpose(image)
        image = Image.fromarray(np.asarray(image, dtype=np.float32)) if mode == "F" else _coloured(image, mode)
    except UnidentifiedImageError as error:
        raise Unusable("not an image in a known format") from error
    except Exception as error:  # decoders raise almost any exception on damaged bytes
        raise Unusable(f"can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error
    height, width = height_width(at_least)
    if image.width < width or image.height < height:
        raise Unusable(f"{image.width}x{image.height} pixels, smaller than {width}x{height}")
    return image


def is_fine(image: Image.Image) -> bool:
    """Whether an image is grey with 16 bits."""
    return image.mode.startswith("I;16")


def resized(image: Image.Image, resolution: Resolution, box: Box | None = None) -> np.ndarray:
    """The centre of a window of an image (default: of the whole) with the proportions of `resolution`, resized to it.

    Lanczos with antialiasing, without using any pixel outside of the centre; RGBA colours are weighted by their
    opacity, and fully transparent pixels become black. Returns uint8, or floats of a fine image, (C, H, W), contiguous.
    """
    height, width = height_width(resolution)
    centre = image.crop(middle(box or (0, 0, *image.size), resolution))
    pixels = np.atleast_3d(np.asarray(centre.resize((width, height), Image.Resampling.LANCZOS)))
    if image.mode == "RGBA":
        pixels = pixels * (pixels[..., 3:] > 0)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def middle(box: Box, resolution: Resolution) -> Box:
    """The largest window in the middle of `box` with the proportions of `resolution`."""
    (height, width), (left, top, right, bottom) = height_width(resolution), box
    unit = min((right - left) / width, (bottom - top) / height)
    across, along = round(unit * width), round(unit * height)
    left, top = left + round((right - left - across) / 2), top + round((bottom - top - along) / 2)
    return left, top, left + across, top + along


def _coloured(image: Image.Image, mode: str) -> Image.Image:
    """Convert `image` to grey (ITU-R 601 luma of its RGB), RGB or RGBA."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose white is unknown")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion saturates
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(values.clip(0, 65535) / 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = _in_srgb(image.convert("RGBA"), image)
        if mode != "RGBA":  # transparent pixels have arbitrary colours: show them on white
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    else:
        image = _in_srgb(image.convert("RGB") if image.mode == "P" else image, image)
    return image if image.mode == mode == "RGBA" else image.convert("RGB").convert(mode)


def _in_srgb(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `pixels` from the colour profile of `image` to sRGB; unchanged without a usable profile."""
    mode = "RGBA" if pixels.mode == "RGBA" else "RGB"
    with contextlib.suppress(ImageCms.PyCMSError, OSError, KeyError):  # damaged, for other channels, or none
        source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        if not ImageCms.getProfileDescription(source).startswith("sRGB"):
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(pixels, source, srgb, outputMode=mode) or pixels
    return pixels


def cached(file: Path, make: Callable[[], Any]) -> Any:
    """The JSON value in a file; made and written if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_bytes())
    value = make()
    replace(file, json.dumps(value, indent=1))
    return value


def stored(
    file: Path, shape: tuple[int, ...], make: Callable[[], Iterable[Made]], dtype: torch.dtype = torch.uint8
) -> tuple[Tensor, list[str], list[Label | None], list[Entry]]:
    """The images of a data set, (N, C, H, W), their names and labels; and the files that can't be used.

    Every process memory-maps NAME.bin, so a batch only needs memory for its own images. NAME.json is written last.

    Args:
        file: their place in the cache, without a suffix.
        shape: (C, *size).
        make: makes them, of this `dtype`, if they are missing.
    """
    pixels, about = file.with_suffix(".bin"), file.with_suffix(".json")

    def write() -> dict[str, Any]:
        names, labels, unusable = [], [], []
        with replacing(pixels, durable=True) as stream:
            for name, image, label in make():
                if isinstance(image, str):
                    unusable.append({"path": name, "reason": image, "action": "left out"})
                else:
                    stream.write(image.data)
                    names.append(name)
                    labels.append(label)
        return {"names": names, "labels": labels, "unusable": unusable}

    with alone(file.with_suffix(".lock")):
        if not pixels.is_file():
            about.unlink(missing_ok=True)
        known = cached(about, write)
    n = len(known["names"])
    size = n * math.prod(shape)
    images = torch.from_file(str(pixels), size=size, dtype=dtype) if n else torch.empty(0, dtype=dtype)
    labels = [tuple(label) if isinstance(label, list) else label for label in known["labels"]]  # as JSON has them
    return images.view(n, *shape), known["names"], labels, known["unusable"]


def alone(file: Path) -> contextlib.AbstractContextManager[object]:
    """Wait until no other process has the lock `file`, and return a context in which this one has it."""
    try:
        return lock(file, patience=math.inf) or contextlib.nullcontext()
    except OSError:  # of a folder that is read-only
        return contextlib.nullcontext()


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], label: str, unit: str = "image"
) -> Iterator[Result]:
    """Apply `work`, which releases the GIL, to the items in threads; yield results in order, with a progress bar."""
    left, total = iter(items), len(items) if isinstance(items, Sized) else None
    with ThreadPoolExecutor() as pool:
        results = (each for some in iter(lambda: [*islice(left, AHEAD)], []) for each in pool.map(work, some))
        yield from track(results, label, total, unit)
