"""`Pixels`: pictures of 8 bits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from diffusion.base.console import console
from diffusion.base.files import listed
from diffusion.base.images import Box, Unusable, read, resized
from diffusion.base.pixels import MODES, reduced, resolution_of, saturated, to_rgb, to_uint8, to_unit
from diffusion.errors import UserError
from diffusion.kinds.kind import Kind, Part, Shape, Source

GREY = 127  # of 0 to 255: mask pixels brighter than this are filled


class Pixels(Kind):
    """Grey, RGB or RGBA pictures, uint8 (N, C, H, W), which are x/127.5 − 1 in the diffusion process."""

    name = "pixels"
    dtype: ClassVar[torch.dtype] = torch.uint8
    examples = "images"
    unit = "pixels"
    bounded: ClassVar[bool] = True
    discrete: ClassVar[bool] = True
    has_faults: ClassVar[bool] = True
    of_usual_deviation: ClassVar[bool] = False

    def described(self, shape: Shape) -> str:
        return f"images of {shape[1]}×{shape[2]} pixels"

    def protocol(self, shape: Shape) -> str:
        read_as = {1: " grey as RGB", 4: " RGBA over white"}  # see `to_rgb`
        return f"{shape[1]}x{shape[2]}{read_as.get(shape[0], '')}"

    def inside(self, examples: Tensor) -> Tensor:
        return to_unit(examples)

    def outside(self, x: Tensor) -> Tensor:
        return to_uint8(x)

    def filled(self, x: Tensor) -> Tensor:
        """Pixels are never missing."""
        return x

    def pictures(self, examples: Tensor, real: Tensor | None = None) -> Tensor:
        return examples

    def saturated(self, examples: Tensor) -> Tensor:
        return saturated(examples)

    # a user's files

    def read(self, source: Source, shape: Shape, setting: str = "image") -> Tensor:
        """The largest centre crop of a picture with the proportions of `shape` (C, H, W), downscaled to it."""
        return read_picture(source, shape, setting)

    def read_all(self, source: Source, shape: Shape, setting: str = "given") -> Tensor:
        """The picture, or the pictures of a folder in the order of their names."""
        if not isinstance(source, str | Path):
            return self.read(source, shape, setting)[None]
        place = Path(source).expanduser()
        where, resolution = f"{setting}={place}", resolution_of(*shape[1:])
        if not place.exists():
            raise UserError(f"{where}: no such file or folder; name a picture, or a folder of pictures")
        found = []
        for file in [place] if place.is_file() else listed(place).values():
            try:
                found.append(torch.tensor(resized(read(file, resolution, mode=MODES[shape[0]]), resolution)))
            except Unusable as error:
                size = f"{shape[2]}x{shape[1]}"
                raise UserError(f"{where}: {file.name}: {error}; the condition has {size} pixels") from error
        if not found:
            raise UserError(f"{where}: no pictures in this folder")
        return torch.stack(found)

    def readable(self, channels: int, shape: Shape) -> bool:
        return channels in MODES

    def read_free(self, source: Source, channels: int, setting: str) -> Tensor:
        return pil_to_tensor(upright(setting, source, (channels, 1, 1)))

    def enlarged(self, example: Tensor, size: Sequence[int]) -> Tensor:
        height, width = size
        return pil_to_tensor(to_pil_image(example).resize((width, height), Image.Resampling.BICUBIC))

    def part(self, source: Source, mask: Source, shape: Shape) -> Part:
        """The window of a picture that the network sees, see `window`."""
        pixels, fill, paste = window(source, mask, shape)
        if bool(fill.all()):
            raise UserError(
                "mask: it covers all that the network sees, so nothing is kept; use a smaller one, or `sample`"
            )
        grey = torch.tensor([GREY, GREY, GREY, 255], dtype=torch.uint8)[: len(pixels)].view(-1, 1, 1)
        before = reduced([upright("image", source, shape), *paste(grey.expand_as(pixels)[None])])
        return Part(pixels, fill, before, paste)

    # scores

    def referee_view(self, examples: Tensor) -> Tensor:
        return to_rgb(examples)

    def eyes(self, shape: Shape) -> Mapping[str, Any]:
        from diffusion.metric.referee import eyes_of_pictures

        return eyes_of_pictures(shape[1:])

    def networks(self, extractor: Any) -> list[Any]:
        from diffusion.metric.features import Lite0

        return [extractor, *[Lite0().to(extractor.device)] * (extractor.name != Lite0.name)]


def read_picture(source: Source, shape: Shape, setting: str = "image") -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), downscaled to it, uint8 (C, H, W).

    Raises UserError for a picture that does not exist, cannot be used, or is smaller.
    """
    return torch.tensor(resized(upright(setting, source, shape), resolution_of(*shape[1:])))


def window(picture: Source, mask: Source, shape: Shape) -> tuple[Tensor, Tensor, Callable[[Tensor], list[Image.Image]]]:
    """What the network sees of a picture to be filled, uint8 (C, H, W); where it fills it, bool (H, W); how to paste.

    It sees a window with the proportions of its images around the bright part of the mask, twice as large as that if
    the picture has the room, and at least as large as its images. Raises UserError if no window holds that part.
    """
    (_, height, width), whole = shape, upright("image", picture, shape)
    fill = upright("mask", mask, (1, height, width))
    if abs(fill.width * whole.height / (fill.height * whole.width) - 1) > 0.02:
        raise UserError(
            f"mask: it has {fill.width}x{fill.height} pixels, and the picture {whole.width}x{whole.height}; use a "
            "mask with the same proportions, white where the picture is to be filled"
        )
    fill = fill.resize(whole.size).point(lambda value: 255 * (value > GREY))
    left, top, right, bottom = fill.getbbox() or (0, 0, 0, 0)
    if right == 0:
        raise UserError("mask: nothing in it is brighter than grey; make it white where the picture is to be filled")
    largest = min(whole.width / width, whole.height / height)
    scale = min(largest, max(1.0, 2 * (right - left) / width, 2 * (bottom - top) / height))
    across, along = round(scale * width), round(scale * height)
    if right - left > across or bottom - top > along:
        raise UserError(
            f"mask: its {right - left}x{bottom - top} pixels are more than the largest window of the network, "
            f"{across}x{along} of {whole.width}x{whole.height}; fill one part after the other"
        )
    x = min(max(0, (left + right - across) // 2), whole.width - across)
    y = min(max(0, (top + bottom - along) // 2), whole.height - along)
    box = x, y, x + across, y + along
    if whole.size != (width, height):
        console.print(f"filling in a window of {across}x{along} pixels at ({x}, {y}), by a network of {width}x{height}")
    touched = fill.resize((width, height), Image.Resampling.BOX, box)  # no pixel to be filled is taken for a known one
    seen = torch.tensor(resized(whole, resolution_of(height, width), box))
    paste = partial(pasted, whole=whole, fill=fill, box=box, blur=(scale - 1) / 2)
    return seen, torch.tensor(np.asarray(touched)) > 0, paste


def pasted(images: Tensor, whole: Image.Image, fill: Image.Image, box: Box, blur: float) -> list[Image.Image]:
    """A picture with each of the fillings, uint8 (n, C, h, w), enlarged to its `box`, where `fill` (L) is 255.

    Along the edge, a filling continues in the colours K around it: with the indicator m of the known pixels, blurred by
    G (a deviation of `blur` pixels), it is w K + (1 − w) filling, where K = G(m whole)/G(m) and w = min(1, 2 G(m)).
    """
    part, mask = whole.crop(box), fill.crop(box)
    blurred = ImageFilter.GaussianBlur(blur)
    known = ImageChops.invert(mask)
    m = np.atleast_3d(np.asarray(known.filter(blurred))) / 255
    kept = Image.composite(part, Image.new(part.mode, part.size), known).filter(blurred)
    weight = np.minimum(1, 2 * m)
    colours = np.atleast_3d(np.asarray(kept)) * (weight / np.maximum(m, 1e-9))
    pictures = [whole.copy() for _ in images]
    for picture, image in zip(pictures, images, strict=True):
        enlarged = np.atleast_3d(np.asarray(to_pil_image(image).resize(part.size, Image.Resampling.BICUBIC)))
        smooth = np.rint(colours + (1 - weight) * enlarged).astype(np.uint8)
        picture.paste(Image.fromarray(smooth.squeeze(2) if smooth.shape[2] == 1 else smooth), box, mask)
    return pictures


def upright(name: str, picture: Source, shape: Shape) -> Image.Image:
    """A picture as an image of at least the size of `shape`, in its mode."""
    if isinstance(picture, Tensor):
        picture = picture.cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.cpu().numpy()
    if isinstance(picture, np.ndarray):
        pixels = picture.astype(np.uint8) * 255 if picture.dtype == bool else np.squeeze(picture)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or pixels.shape[2:] in ((3,), (4,))):
            raise UserError(
                f"{name}: got {picture.dtype} {picture.shape}; expected uint8 (H, W, C), (H, W), or a tensor (C, H, W)"
            )
        picture = Image.fromarray(pixels)
    file = picture if isinstance(picture, Image.Image) else Path(picture).expanduser()
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"{name}={file}: no such file; name a picture, such as a PNG or JPEG")
    try:
        opens = file if isinstance(file, Path) else lambda: file
        return read(opens, resolution_of(*shape[1:]), mode=MODES[shape[0]])
    except Unusable as error:
        shown = name if isinstance(file, Image.Image) else f"{name}={file}"
        raise UserError(
            f"{shown}: {error}; use an intact picture, such as a PNG or JPEG, of at least {shape[2]}x{shape[1]} pixels"
        ) from error
