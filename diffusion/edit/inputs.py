"""Read a user's pictures and masks, as untrusted files, into tensors in the size of a model's images."""

from pathlib import Path

import torch
from torch import Tensor

from diffusion.data.image import Unusable, crop_box, decoded, planes, resized
from diffusion.errors import UserError
from diffusion.pixels import Channels, resolution_of

GREY = 127  # of 0 to 255: mask pixels brighter than this are filled


def read_picture(file: str | Path, shape: tuple[int, int, int]) -> Tensor:
    """The largest centre crop with the proportions of `shape` (C, H, W), resized to it, as uint8.

    The crop is downscaled, never upscaled. Raises UserError for a file that does not exist or cannot be used.
    """
    return _window(Path(file), shape, "image")[0]


def read_mask(file: str | Path, shape: tuple[int, int, int], picture: str | Path | None = None) -> Tensor:
    """The region to fill as bool (H, W): true where the mask is brighter than grey.

    Args:
        shape: (C, H, W) of the picture.
        picture: the picture's file; None for a picture that already has the proportions of `shape`.

    Raises UserError for a mask that cannot be used, or whose proportions differ from the picture's.
    """
    _, height, width = shape
    mask, proportions = _window(Path(file), (1, height, width), "mask")
    others = width / height if picture is None else _window(Path(picture), shape, "image")[1]
    if abs(proportions / others - 1) > 0.02:
        raise UserError(
            f"mask={file}: its width is {proportions:.3g} times its height, but the picture's is {others:.3g} times; "
            "use a mask with the same proportions, white where the picture is to be filled"
        )
    return mask[0] > GREY


def known_part(picture: Tensor, fill: Tensor) -> Tensor:
    """The picture, uint8 (C, H, W), with grey where `fill`, bool (H, W), is true."""
    grey = torch.full_like(picture, GREY)
    if len(picture) == 4:
        grey[3] = 255  # opaque
    return torch.where(fill, grey, picture)


def _window(file: Path, shape: tuple[int, int, int], name: str) -> tuple[Tensor, float]:
    """The centre crop of a picture, and the picture's aspect ratio, width / height."""
    file, resolution = file.expanduser(), resolution_of(*shape[1:])
    channels: Channels = shape[0]  # type: ignore[assignment]  # checked when the model was made
    if not file.is_file():
        raise UserError(f"{name}={file}: no such file; choose a picture, such as a PNG or JPEG")
    try:
        with decoded(file, resolution, channels=channels) as picture:
            pixels = resized(picture, resolution, crop_box(picture.size, 0.5, resolution))
            return torch.tensor(planes(pixels)), picture.width / picture.height
    except Unusable as error:
        least = f"{shape[2]}x{shape[1]}"
        raise UserError(
            f"{name}={file}: {error}; use an intact picture, such as a PNG or JPEG, of at least {least} pixels"
        ) from error
