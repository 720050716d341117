"""The work of `diffusion edit`: variants of a picture, inpainting, and interpolation between two noises."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.checkpoint.restore import Restored
from diffusion.config.build import make
from diffusion.config.schema import Edit
from diffusion.console import console, count
from diffusion.data import to_unit
from diffusion.data.images import Unusable, read, resized
from diffusion.errors import UserError
from diffusion.evaluation.commands import begin, make_drawing, save_images
from diffusion.evaluation.drawing import Drawing
from diffusion.pixels import gif, grid, resolution_of
from diffusion.process.editing import Inpainting, SDEdit

STRENGTH = 0.6  # default for SDEdit
COLUMNS = 12  # of grid.png, at most
GREY = 127  # of 0 to 255: mask pixels brighter than this are filled

Source = str | Path | Image.Image | np.ndarray | Tensor
"""A file, an image of Pillow, an array uint8 (H, W, C) or (H, W), or a tensor uint8 (C, H, W); a mask may be bool."""


def draw_edits(settings: Edit, folder: Path) -> None:
    """Write images/*.png, grid.png and images.npz; for an interpolation also interpolation.gif."""
    between = settings.interpolate
    if (settings.image is None) == (between is None):
        raise UserError("set either image=PICTURE, or interpolate=[SEED,SEED] to draw between two noises")
    if between and (settings.mask or settings.strength or settings.labels or settings.seed not in (None, between[0])):
        raise UserError("interpolate has neither mask, strength, labels nor seed (only label=CLASS); remove them")
    if settings.mask is not None and settings.strength is not None:
        raise UserError("mask and strength cannot be combined: remove one of them")
    settings, restored, (device,) = begin(settings)
    drawing, before = edited(make_drawing(settings, restored), settings, restored)
    n = settings.n
    images = drawing(restored.denoiser, n, device, settings.batch_size, f"drawing {count(n, 'image')}")
    save_images(folder, images, overview(before, images), drawing, restored)
    if between:
        gif([grid(image[None], large=True) for image in images], folder / "interpolation.gif")


def edited(
    drawing: Drawing, settings: Edit, restored: Restored, image: Source | None = None, mask: Source | None = None
) -> tuple[Drawing, Tensor]:
    """`drawing`, changed to draw the edit of `settings`; and the user's pictures, uint8 (m, C, H, W).

    Raises UserError for settings that do not fit together.

    Args:
        image, mask: pictures in memory, instead of the files of the settings.
    """
    if settings.interpolate is not None:
        first, last = settings.interpolate
        nothing = torch.zeros(0, *restored.shape, dtype=torch.uint8)
        return replace(drawing, between=(first, last), seed=first), nothing
    source = image if image is not None else str(settings.image)
    picture = read_picture(source, restored.shape)
    if settings.mask is None:
        sampler = SDEdit(drawing.sampler, to_unit(picture), settings.strength or STRENGTH)
        _, level = sampler.begins(restored.denoiser.schedule)
        console.print(f"{count(sampler.steps, 'step')}, from sigma/alpha = {level:.3g}")
        return replace(drawing, sampler=sampler), picture[None]
    fill = read_mask(mask if mask is not None else settings.mask, source, restored.shape)
    filled = filling(drawing, picture, fill, make(settings.inpainting, "inpainting"))
    known = torch.where(fill, torch.tensor([GREY, GREY, GREY, 255])[: len(picture)].view(-1, 1, 1), picture)
    return filled, torch.stack([picture, known.to(torch.uint8)])


def filling(drawing: Drawing, picture: Tensor, fill: Tensor, method: Callable[..., Inpainting]) -> Drawing:
    """`drawing`, changed to fill a picture, uint8 (C, H, W), where `fill`, bool (H, W), is true, and keep the rest."""
    if bool(fill.all()):
        raise UserError("mask: it covers the whole picture, so nothing is kept; use `diffusion sample` instead")
    return replace(drawing, sampler=method(drawing.sampler, to_unit(picture), ~fill))


def overview(before: Tensor, images: Tensor) -> Image.Image:
    """One picture: a row with the user's pictures, if any, and the drawn images below it."""
    columns = max(min(len(images), COLUMNS), len(before))
    padding = images.new_full(((columns - len(before)) * bool(len(before)), *images.shape[1:]), 255)
    return grid(torch.cat([before, padding, images]), columns, large=True)


def read_picture(picture: Source, shape: tuple[int, int, int]) -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), downscaled to it, uint8 (C, H, W).

    Raises UserError for a picture that does not exist, cannot be used, or is smaller.
    """
    return window(upright("image", picture, shape), shape)


def read_mask(mask: Source, picture: Source, shape: tuple[int, int, int]) -> Tensor:
    """The region of a picture to fill, bool (H, W): where the mask is brighter than grey."""
    of_mask = (1, *shape[1:])
    image, other = upright("mask", mask, of_mask), upright("image", picture, shape)
    if abs(image.width * other.height / (image.height * other.width) - 1) > 0.02:
        raise UserError(
            f"mask: it has {image.width}x{image.height} pixels, and the picture {other.width}x{other.height}; use a "
            "mask with the same proportions, white where the picture is to be filled"
        )
    return window(image, of_mask)[0] > GREY


def upright(name: str, picture: Source, shape: tuple[int, int, int]) -> Image.Image:
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
    try:
        return read(file, resolution_of(*shape[1:]), channels=shape[0])  # type: ignore[arg-type]
    except Unusable as error:
        shown = name if isinstance(file, Image.Image) else f"{name}={file}"
        raise UserError(
            f"{shown}: {error}; use an intact picture, such as a PNG or JPEG, of at least {shape[2]}x{shape[1]} pixels"
        ) from error


def window(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """The largest centre crop of an image with the proportions of `shape` (C, H, W), scaled to it, uint8."""
    return torch.tensor(resized(image, resolution_of(*shape[1:])))
