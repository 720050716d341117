"""Training on random crops, with their positions as network inputs (Wang et al. 2023, "Patch Diffusion").

A convolutional network learns E[x0 | x_t] of crops of several sizes, including whole images. Training steps cost less
on average. Sampling uses whole images.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

import torch
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from diffusion.errors import UserError
from diffusion.randomness import Streams


class Crops:
    """(x0 (B, C, H, W), streams) -> random crops (B, C, H/d, W/d) and their windows (B, 4), int64 (top, left, H, W).

    One d is drawn per batch, from the batch's seed; positions are uniform, each drawn from the stream of its image.

    Args:
        divisors: the possible values of d; 1: whole images.
        probabilities: the probability of each divisor; they sum to 1.
    """

    def __init__(
        self,
        divisors: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (1, 2, 4),
        probabilities: Sequence[Annotated[float, Ge(0), Le(1)]] = (0.5, 0.3, 0.2),
    ):
        if len(divisors) != len(probabilities) or abs(sum(probabilities) - 1) > 1e-6:
            raise UserError(f"crops: probabilities {[*probabilities]}; expected one per divisor, with a sum of 1")
        self.choices = [(d, p) for d, p in zip(divisors, probabilities, strict=True) if p > 0]

    @property
    def share(self) -> float:
        """The mean number of pixels of a crop, as a fraction of the whole image."""
        return sum(p / d**2 for d, p in self.choices)

    def check(self, height: int, width: int, factor: int) -> None:
        """Raise UserError unless the sides of all crops of images (…, height, width) are multiples of `factor`."""
        for d, _ in self.choices:
            if height % (d * factor) or width % (d * factor):
                raise UserError(
                    f"crops: the divisor {d} divides images of {height}×{width} into parts of "
                    f"{height / d:g}×{width / d:g} pixels, but the network needs multiples of {factor}; remove it"
                )

    def __call__(self, x0: Tensor, streams: Streams) -> tuple[Tensor, Tensor]:
        height, width = x0.shape[2:]
        u, edges = streams.shared(), accumulate(p for _, p in self.choices)
        d = next((d for (d, _), edge in zip(self.choices, edges, strict=True) if u < edge), self.choices[-1][0])
        h, w = height // d, width // d
        top, left = ((streams.uniform() * (side + 1)).long().clamp(max=side) for side in (height - h, width - w))
        window = torch.stack([top, left, torch.full_like(top, height), torch.full_like(top, width)], dim=1)
        if d == 1:
            return x0, window
        rows = top[:, None] + torch.arange(h, device=x0.device)
        columns = left[:, None] + torch.arange(w, device=x0.device)
        image = torch.arange(len(x0), device=x0.device)
        parts = x0[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, h, w, C)
        return parts.movedim(3, 1).contiguous(), window
