"""Changes of the training images that are inputs of the network: augmentation and random crops.

An augmentation is a callable (x0, streams) -> (x0', labels), (B, C, *size) and (B, A). The labels tell the network how
each image was transformed. Sampling sets them to zero: untransformed images (Karras et al. 2022, appendix F.2).
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MinLen
from torch import Tensor

from diffusion.errors import UserError
from diffusion.randomness import Streams

Augmentation = Callable[[Tensor, Streams], tuple[Tensor, Tensor]]

Matrix = tuple[Tensor, Tensor, Tensor, Tensor]  # [[a, b], [c, d]] of each image as (a, b, c, d), each (B,)


def non_leaky(
    x0: Tensor, streams: Streams, probability: Annotated[float, Ge(0), Le(1)] = 0.12
) -> tuple[Tensor, Tensor]:
    """EDM's six transformations of images (B, C, H, W), in this order, and their labels (table 6).

    Each draws its own z ~ N(0, 1) and angle ~ U(−π, π), except that φ is 0 with probability 1/2 (as in the paper's
    code). The last four are applied with `probability` A, 0.12 in the paper for CIFAR-10 and 0.15 for photographs:

    | transformation | amount | labels |
    | --- | --- | --- |
    | horizontal flip, with probability 1/2 | | a_0 = 1 |
    | vertical flip, with probability A/2 | | a_1 = 1 |
    | scaling | 2^{z/5} | a_2 = z |
    | rotation by θ | | a_3 = cos θ − 1, a_4 = sin θ |
    | stretching along the direction φ and shrinking across it | 2^{z/5} | a_5 = z cos 2φ, a_6 = z sin 2φ |
    | translation to the right and down | z_1 W/8, z_2 H/8 | a_7 = z_1, a_8 = z_2 |

    z along φ is the same as −z along φ + π/2: with the doubled angle, equal labels mean equal transformations. (A
    network of the authors expects z cos φ and z sin φ, equal for a stretching and its inverse, −z along φ + π.) Without
    any of the last four, the pixels keep their values; otherwise the image is resampled once, by bicubic interpolation
    with reflected edges (the paper's code resamples with wavelets). Positive angles are clockwise.
    """
    height, width = x0.shape[2:]
    made = [streams.uniform() < p for p in (0.5, probability / 2, *[probability] * 4)]
    angles = [(2 * math.pi * streams.uniform() - math.pi).float() for _ in range(2)]
    z = streams.normal(4).unbind(1)
    oblique = streams.uniform() < 0.5
    mirrored, upended, *rest = (each.float() for each in made)
    scaled, turned, stretched, shifted = rest
    z_scale, z_stretch, z_right, z_down = z[0] * scaled, z[1] * stretched, z[2] * shifted, z[3] * shifted
    theta, phi = angles[0] * turned, angles[1] * oblique.float()

    x = torch.where(made[0][:, None, None, None], x0.flip(3), x0)
    x = torch.where(made[1][:, None, None, None], x.flip(2), x)
    # The value at p is read at S⁻¹ R⁻¹ A⁻¹ (p − shift): S scales, R rotates, and A = R_φ diag(s, 1/s) R_φ⁻¹.
    zero, stretch, shrink = torch.zeros_like(theta), 2 ** (z_stretch / 5), 2 ** (-z_scale / 5)
    back = product(rotation(-theta), rotation(phi), (1 / stretch, zero, zero, stretch), rotation(-phi))
    back = product((shrink, zero, zero, shrink), back)
    moved = warped(x, back, z_right * width / 8, z_down * height / 8)
    geometric = torch.stack(made[2:]).any(dim=0)
    labels = [
        mirrored, upended, z_scale, theta.cos() - 1, theta.sin(), z_stretch * (2 * phi).cos(),
        z_stretch * (2 * phi).sin(), z_right, z_down,
    ]  # fmt: skip
    return torch.where(geometric[:, None, None, None], moved, x), torch.stack(labels, dim=1)


def rotation(angle: Tensor) -> Matrix:
    """[[cos, −sin], [sin, cos]]."""
    cos, sin = angle.cos(), angle.sin()
    return cos, -sin, sin, cos


def product(first: Matrix, *others: Matrix) -> Matrix:
    for e, f, g, h in others:
        a, b, c, d = first
        first = a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h
    return first


def warped(x: Tensor, back: Matrix, right: Tensor, down: Tensor) -> Tensor:
    """x (B, C, H, W) resampled: the value at p is read at M (p − (right, down)), M = `back`; (0, 0) is the centre."""
    height, width = x.shape[2:]
    columns, rows = (torch.arange(n, dtype=torch.float32, device=x.device) - (n - 1) / 2 for n in (width, height))
    a, b, c, d, right, down = (each.view(-1, 1, 1) for each in (*back, right, down))
    px, py = columns[None, None] - right, rows[None, :, None] - down
    # Normalised: −1 and 1 are the outer edges of the image.
    grid = torch.stack([(a * px + b * py) * 2 / width, (c * px + d * py) * 2 / height], dim=3)
    return F.grid_sample(x, grid.to(x.dtype), mode="bicubic", padding_mode="reflection", align_corners=False)


class Crops:
    """(x0 (B, C, H, W), streams) -> random crops (B, C, H/d, W/d) and their windows (B, 4), int64 (top, left, H, W).

    A convolutional network with the positions as inputs learns E[x0 | x_t] of crops and whole images; sampling uses
    whole images (Wang et al. 2023, "Patch Diffusion"). One d is drawn per batch; positions are uniform for each image.
    """

    def __init__(
        self,
        divisors: Annotated[Sequence[Annotated[int, Ge(1)]], MinLen(1)] = (1, 2, 4),
        probabilities: Sequence[Annotated[float, Ge(0), Le(1)]] = (0.5, 0.3, 0.2),
    ):
        if len(divisors) != len(probabilities) or abs(sum(probabilities) - 1) > 1e-6:
            raise UserError(f"crops: probabilities {[*probabilities]}; expected one per divisor, with a sum of 1")
        self.choices = [(d, p) for d, p in zip(divisors, probabilities, strict=True) if p > 0]

    def check(self, height: int, width: int, factor: int) -> None:
        """Raise UserError unless the sides of all crops of images (…, height, width) are multiples of `factor`."""
        for d, _ in self.choices:
            if height % (d * factor) or width % (d * factor):
                raise UserError(
                    f"crops: the network needs multiples of {factor} pixels; remove the divisor {d} of {height}×{width}"
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
