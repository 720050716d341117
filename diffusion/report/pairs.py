"""The figure of an audit for copies: the most suspect samples above their nearest training images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from diffusion.report import style


@style.styled
def pairs(samples: Tensor, nearest: Tensor, labels: Sequence[str]) -> Figure:
    """`samples` (k, 3, H, W) uint8 in a row, under each its nearest training image of `nearest` (k, 3, H, W)."""
    rows = [[np.ascontiguousarray(x.permute(1, 2, 0).numpy()) for x in images] for images in (samples, nearest)]
    return style.picture_rows(rows, labels, "$r$ =")
