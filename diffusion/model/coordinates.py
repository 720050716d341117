"""The positions of a crop's pixels in the whole image, as two extra channels (Wang et al. 2023, "Patch Diffusion")."""

import torch
from torch import Tensor


def coordinates(x: Tensor, window: Tensor | None = None) -> Tensor:
    """(B, 2, h, w) for x (B, C, h, w): to the right, then down; −1 and 1 are the centres of the image's outer pixels.

    Args:
        window: (B, 4), the row and column of the crop's first pixel in the whole image, then the height and width of
            that image; None: x is the whole image.
    """
    height, width = x.shape[2:]
    if window is None:
        top = left = torch.zeros(len(x), 1, device=x.device)
        rows, columns = (torch.full((len(x), 1), float(side), device=x.device) for side in (height, width))
    else:
        top, left, rows, columns = window.float().split(1, dim=1)
    across = _line(left, width, columns)[:, None, :].expand(-1, height, -1)
    down = _line(top, height, rows)[:, :, None].expand(-1, -1, width)
    return torch.stack([across, down], dim=1).to(x.dtype)


def _line(first: Tensor, n: int, whole: Tensor) -> Tensor:
    """(B, n): the coordinates of the n pixels from `first` (B, 1) on, in a whole image of `whole` (B, 1) pixels."""
    return (first + torch.arange(n, device=first.device)) / (whole - 1).clamp(min=1) * 2 - 1
