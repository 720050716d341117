from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from diffusion.data.conditions import Condition, Tensors


class MyCondition(Condition):
    """The mean colours of the image in bands from top to bottom: a strip of colours, of sky and land.

    Args:
        bands: Their number.
    """

    def __init__(self, bands: Annotated[int, Ge(1)] = 4):
        self.bands = bands

    def __call__(self, x0: Tensor, stored: Tensors) -> dict[str, Tensor]:
        """A picture (B, C, bands, 1) for images x0 (B, C, H, W) in [−1, 1], under a name of your own."""
        return {"strip": F.adaptive_avg_pool2d(x0, (self.bands, 1))}
