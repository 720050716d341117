"""Pictures and masks of a user as tensors of the size of a model's images, decoded as files that are not trusted."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.data.image import Unusable, crop_box, decoded, planes, square
from diffusion.errors import UserError

GREY = 127  # from 0 to 255: a mask's pixels that are brighter are filled


def read_picture(file: str | Path, side: int, name: str = "image") -> Tensor:
    """uint8 (3, side, side): the largest square around the centre of the picture in `file`, resized.

    It is made smaller, never larger.

    Args:
        name: of the setting that names the file, for messages.

    Raises UserError for a file that is not there, or cannot be used.
    """
    return _squared(Path(file), side, name)[0]


def read_mask(file: str | Path, side: int, picture: str | Path | None = None) -> Tensor:
    """bool (side, side): where a picture is to be filled, which is where its mask is brighter than grey.

    Args:
        picture: the picture's file; None for one that is a square.

    Raises UserError for a mask that cannot be used, or that has other proportions than the picture.
    """
    mask, proportions = _squared(Path(file), side, "mask")
    others = 1.0 if picture is None else _squared(Path(picture), side, "image")[1]
    if abs(proportions / others - 1) > 0.02:
        raise UserError(
            f"mask={file}: its width is {proportions:.3g} times its height, and the picture's {others:.3g} times; "
            "give a mask of the same proportions, white where the picture is to be filled"
        )
    return mask.float().mean(0) > GREY


def known_part(picture: Tensor, fill: Tensor) -> Tensor:
    """The picture, uint8 (3, H, W), with grey where it is filled, bool (H, W)."""
    return torch.where(fill, torch.full_like(picture, GREY), picture)


def _squared(file: Path, side: int, name: str) -> tuple[Tensor, float]:
    """The square of a picture, and the picture's width over its height."""
    file = file.expanduser()
    if not file.is_file():
        raise UserError(f"{name}={file}: there is no such file; give a picture, such as a PNG or JPEG")
    try:
        with decoded(file, side, side) as picture:
            pixels = square(picture, side, crop_box(picture.size, 0.5))
            return torch.from_numpy(planes(pixels)), picture.width / picture.height
    except Unusable as error:
        raise UserError(
            f"{name}={file}: {error}; give a whole picture, such as a PNG or JPEG, of at least {side}x{side} pixels"
        ) from error
