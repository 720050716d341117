"""The kind of tensors that a user gives without a model or a data set."""

import torch
from torch import Tensor

from diffusion.base.pixels import MODES
from diffusion.errors import UserError
from diffusion.kinds.kind import Kind
from diffusion.kinds.measured import Measured, figures_of
from diffusion.kinds.pixels import Pixels
from diffusion.kinds.points import PlanePoints


def kind_of_tensor(images: Tensor, real: Tensor | None = None) -> Kind:
    """Pixels for uint8 (n, C, H, W), points for float32 (n, 2, 1, 1), else measurements.

    Args:
        real: measurements by which others are standardised.

    Raises UserError for anything else.
    """
    if images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] in MODES:
        return Pixels()
    if images.dtype == torch.float32 and tuple(images.shape[1:]) == (2, 1, 1):
        return PlanePoints()
    if images.dtype == torch.float32 and images.ndim == 4 and real is not None:
        names = [str(i + 1) for i in range(images.shape[1])]
        return Measured(*figures_of(real), names, [""] * len(names))
    raise UserError(
        f"images: got {images.dtype} {tuple(images.shape)}; expected uint8 (n, C, H, W), C 1, 3 or 4; or float32 "
        "(n, C, H, W) beside a reference of measurements"
    )
