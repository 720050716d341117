"""Pictures that are larger than a network's images, from windows of its size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor

from diffusion.process.denoiser import Estimate, Wrapped, outer

TOGETHER = 64  # images of the network at a time


@dataclass(eq=False)
class Tiled(Wrapped):
    """A denoiser whose estimates are averages of those of overlapping windows (MultiDiffusion, Bar-Tal et al. 2023).

    All windows are cut from one x_t, so they share its noise, and meet again after every step. The weights of the
    average are Hann's, almost 0 at the border of a window, so no border can be seen. x_t = alpha_t x0 + sigma_t eps
    still holds.

    Args:
        size: The sides of the windows, in pixels: those of the network's images.
        unit: Windows begin at multiples of it, in pixels.
    """

    size: tuple[int, ...]
    unit: int = 1

    def __call__(self, x_t: Tensor, t: Tensor, picture: Tensor | None = None, **conditions: Any) -> Estimate:
        n, found = len(x_t), list[Tensor]()
        weight = reduce(outer, (torch.hann_window(side + 2, periodic=False)[1:-1] for side in self.size)).to(x_t)
        windows, total, most = [*self.windows(*x_t.shape[2:])], torch.zeros_like(x_t[0, 0]), max(1, TOGETHER // n)
        for i in range(0, len(windows), most):
            some = windows[i : i + most]
            given = {name: value.repeat(len(some), *[1] * (value.ndim - 1)) for name, value in conditions.items()}
            if picture is not None:
                given["picture"] = torch.cat([picture[window] for window in some])
            x = torch.cat([x_t[window] for window in some])
            parts = [each.split(n) for each in self.denoise(x, t.repeat(len(some)), **given) if each is not None]
            found = found or [torch.zeros_like(x_t) for _ in parts]
            for k, window in enumerate(some):
                total[window[1:]] += weight
                for whole, each in zip(found, parts, strict=True):
                    whole[window] += weight * each[k]
        return Estimate(*(whole / total for whole in found))

    def windows(self, *sides: int) -> Iterator[Any]:
        """Yield the windows as indices of (B, C, *sides). Each overlaps its neighbours by at least a quarter."""
        begins = []
        for side, size in zip(sides, self.size, strict=True):
            count = math.ceil((side - size) / (0.75 * size))
            begins.append([round(k * (side - size) / max(1, count) / self.unit) * self.unit for k in range(count + 1)])
        for corner in product(*begins):
            yield ..., *(slice(begin, begin + size) for begin, size in zip(corner, self.size, strict=True))
