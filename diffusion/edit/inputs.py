"""Read a user's pictures and masks, as untrusted files, into tensors in the size of a model's images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.data.image import Unusable, crop_box, planes, read, resized
from diffusion.errors import UserError
from diffusion.pixels import MODES, Channels, resolution_of

GREY = 127  # of 0 to 255: mask pixels brighter than this are filled


Source = str | Path | Image.Image | np.ndarray
"""A file, an image of Pillow, or an array uint8 (H, W, C) or (H, W); a mask may also be bool (H, W)."""


def read_picture(picture: Source | Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), resized to it, as uint8.

    The crop is downscaled, never upscaled; a tensor must have the shape. Raises UserError for a picture that does not
    exist or cannot be used.
    """
    if isinstance(picture, Tensor):
        return _checked("image", picture, torch.uint8, shape)
    return _window(picture, shape, "image")[0]


def read_mask(mask: Source | Tensor, shape: tuple[int, int, int], picture: Source | None = None) -> Tensor:
    """The region to fill as bool (H, W): true where the mask is brighter than grey.

    Args:
        shape: (C, H, W) of the picture.
        picture: the picture; None for a picture that already has the proportions of `shape`.

    Raises UserError for a mask that cannot be used, or whose proportions differ from the picture's.
    """
    _, height, width = shape
    if isinstance(mask, Tensor):
        return _checked("mask", mask, torch.bool, (height, width))
    values, proportions = _window(mask, (1, height, width), "mask")
    others = width / height if picture is None else _window(picture, shape, "image")[1]
    if abs(proportions / others - 1) > 0.02:
        raise UserError(
            f"mask={_name(mask)}: its width is {proportions:.3g} times its height, but the picture's is {others:.3g} "
            "times; use a mask with the same proportions, white where the picture is to be filled"
        )
    return values[0] > GREY


def known_part(picture: Tensor, fill: Tensor) -> Tensor:
    """The picture, uint8 (C, H, W), with grey where `fill`, bool (H, W), is true."""
    grey = torch.full_like(picture, GREY)
    if len(picture) == 4:
        grey[3] = 255  # opaque
    return torch.where(fill, grey, picture)


def _checked(name: str, given: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if given.dtype != dtype or given.shape != shape:
        raise UserError(f"{name}: got {given.dtype} {tuple(given.shape)}; expected {dtype} {shape}, or a file")
    return given.cpu()


def _window(picture: Source, shape: tuple[int, int, int], name: str) -> tuple[Tensor, float]:
    """The centre crop of a picture, and the picture's aspect ratio, width / height."""
    resolution = resolution_of(*shape[1:])
    channels: Channels = shape[0]  # type: ignore[assignment]  # checked when the model was made
    if isinstance(picture, str | Path):
        picture = Path(picture).expanduser()
        if not picture.is_file():
            raise UserError(f"{name}={picture}: no such file; choose a picture, such as a PNG or JPEG")
    given = _from_array(picture, name) if isinstance(picture, np.ndarray) else picture
    try:
        image = read(given, resolution, channels=channels)
    except Unusable as error:
        least = f"{shape[2]}x{shape[1]}"
        raise UserError(
            f"{name}={_name(picture)}: {error}; use an intact picture, such as a PNG or JPEG, of at least {least} "
            "pixels"
        ) from error
    pixels = resized(image, resolution, crop_box(image.size, 0.5, resolution))
    return torch.tensor(planes(pixels)), image.width / image.height


def _from_array(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in MODES)):
        raise UserError(f"{name}: got an array {pixels.dtype} {pixels.shape}; expected uint8 (H, W, C) or (H, W)")
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _name(picture: Source) -> str:
    """The file of a picture; of other pictures, their class."""
    return str(picture) if isinstance(picture, str | Path) else type(picture).__name__
