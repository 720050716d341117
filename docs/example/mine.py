"""A custom network, noise schedule and data set; conf/ names them, and docs/extending.md explains how."""

import math
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.data import ImageData, Split
from diffusion.process.schedule import Schedule
from diffusion.randomness import generator_for


class Convolutions(nn.Module):
    """Three convolutions over the image and the noise level.

    Args:
        width: Channels between the convolutions.
    """

    def __init__(self, width: Annotated[int, Ge(1)] = 32):
        super().__init__()
        self.level = nn.Linear(1, width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """x (B, 3, H, W) and the label (B,), 1000 t − 1, in float32 or float64 -> the prediction (B, 3, H, W)."""
        h = self.first(x) + self.level(label[:, None].to(x.dtype) / 1000)[:, :, None, None]
        return self.last(nn.functional.silu(self.middle(nn.functional.silu(h))))


class Circle(Schedule):
    """alpha = cos(a t), sigma = sin(a t): (alpha, sigma) moves along the unit circle at a constant speed.

    Args:
        angle: a, in degrees.
    """

    def __init__(self, angle: Annotated[float, Ge(1)] = 89.0):
        super().__init__()
        self.a = math.radians(angle)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(self.a * t), torch.sin(self.a * t)

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) / self.a


class Discs(ImageData):
    """A disc of one colour on another colour.

    Args:
        n: Training images; the validation and test splits have n // 2 images each.
    """

    def __init__(self, n: Annotated[int, Ge(2)] = 500, **options: Any):
        super().__init__(**options)
        self.n = n

    def load(self) -> dict[str, Split]:
        return {
            name: self._draw(name, count)
            for name, count in (("train", self.n), ("val", self.n // 2), ("test", self.n // 2))
        }

    def _draw(self, name: str, n: int) -> Split:
        random, (channels, height, width) = generator_for(self.seed, name), self.shape
        radius, row, column = min(height, width) * (torch.rand(3, n, 1, 1, 1, generator=random) * 0.3 + 0.2)
        disc, ground = torch.randint(256, (2, n, channels, 1, 1), generator=random, dtype=torch.uint8)
        inside = (torch.arange(height)[:, None] - row) ** 2 + (torch.arange(width) - column) ** 2 < radius**2
        return Split(torch.where(inside, disc, ground), [f"{name} {i}" for i in range(n)])
