"""Pictures and masks of a user as tensors of the size of a model's images, decoded as files that are not trusted."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.data.image import Unusable, crop_box, decoded, planes, resized
from diffusion.errors import UserError
from diffusion.pixels import Channels, resolution_of

GREY = 127  # from 0 to 255: a mask's pixels that are brighter are filled


def read_picture(file: str | Path, shape: tuple[int, int, int], name: str = "image") -> Tensor:
    """uint8 of `shape` (C, H, W): the largest window of these proportions around the picture's centre, resized.

    It is made smaller, never larger.

    Args:
        name: of the setting that names the file, for messages.

    Raises UserError for a file that is not there, or cannot be used.
    """
    return _window(Path(file), shape, name)[0]


def read_mask(file: str | Path, shape: tuple[int, int, int], picture: str | Path | None = None) -> Tensor:
    """bool (H, W): where a picture is to be filled, which is where its mask is brighter than grey.

    Args:
        shape: (C, H, W) of the picture.
        picture: the picture's file; None for one that has these proportions.

    Raises UserError for a mask that cannot be used, or that has other proportions than the picture.
    """
    _, height, width = shape
    mask, proportions = _window(Path(file), (1, height, width), "mask")
    others = width / height if picture is None else _window(Path(picture), shape, "image")[1]
    if abs(proportions / others - 1) > 0.02:
        raise UserError(
            f"mask={file}: its width is {proportions:.3g} times its height, and the picture's {others:.3g} times; "
            "give a mask of the same proportions, white where the picture is to be filled"
        )
    return mask[0] > GREY


def known_part(picture: Tensor, fill: Tensor) -> Tensor:
    """The picture, uint8 (C, H, W), with grey where it is filled, bool (H, W)."""
    grey = torch.full_like(picture, GREY)
    if len(picture) == 4:
        grey[3] = 255  # the grey is seen
    return torch.where(fill, grey, picture)


def _window(file: Path, shape: tuple[int, int, int], name: str) -> tuple[Tensor, float]:
    """The window of a picture, and the picture's width over its height."""
    file, resolution = file.expanduser(), resolution_of(*shape[1:])
    channels: Channels = shape[0]  # type: ignore[assignment]  # checked when the model was made
    if not file.is_file():
        raise UserError(f"{name}={file}: there is no such file; give a picture, such as a PNG or JPEG")
    try:
        with decoded(file, resolution, channels=channels) as picture:
            pixels = resized(picture, resolution, crop_box(picture.size, 0.5, resolution))
            return torch.tensor(planes(pixels)), picture.width / picture.height
    except Unusable as error:
        least = f"{shape[2]}x{shape[1]}"
        raise UserError(
            f"{name}={file}: {error}; give a whole picture, such as a PNG or JPEG, of at least {least} pixels"
        ) from error
