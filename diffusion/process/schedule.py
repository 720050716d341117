"""Noise schedules on one clock.

Time t runs over [0, 1]; x_t = alpha_t x0 + sigma_t eps with alpha(0) = 1 and sigma(0) = 0, for every schedule.
    log-SNR  lambda_t = log(alpha_t² / sigma_t²), decreasing in t.
A DDPM is a table of T + 1 rows at t = i/T whose row 0 is clean; the memoir's ᾱ_i is alpha(i/T)².
Both alpha and sigma are computed in float64 from log ᾱ: in float32, 1 − ᾱ has lost 1.7e-4 relative at the first step.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion.errors import UserError


class Schedule(nn.Module):
    """The contract: `forward(t) -> alpha, sigma`, any shape, float64 in, float64 out. `log_snr` and its inverse."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t, sigma_t at times t in [0, 1]; the shape of t."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda_t = log(alpha_t² / sigma_t²); +inf at t = 0."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: the t at which the log-SNR takes this value."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedule":
        """Move with the module but stay in float64: `module.half()` must not round the tables.

        A device without float64 (Apple's MPS) gets float32.
        """
        for name, table in self._buffers.items():
            if table is not None:
                device = fn(torch.empty((), device=table.device)).device
                dtype = torch.float32 if device.type == "mps" else table.dtype
                self._buffers[name] = table.to(device=device, dtype=dtype)
        return self


class Discrete(Schedule):
    """A table: β_1 … β_T give ᾱ_i = Π_{j≤i} (1 − β_j) at t = i/T (DDPM, eq. 4; memoir, section 4).

    Between rows log-SNR is interpolated linearly, except below row 1, where log-SNR is infinite at t = 0 and
    sigma² is linear instead.

    Args:
        betas: (T,), each in (0, 1).
    """

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        outside = ((betas <= 0) | (betas >= 1) | betas.isnan()).nonzero()
        if len(outside):
            i = int(outside[0])
            raise UserError(
                f"schedule: β_{i + 1} = {float(betas[i]):g} of {len(betas)} lies outside (0, 1); "
                "choose schedule values with 0 < β < 1"
            )
        log_alpha_bar = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])
        self.steps = len(betas)
        self.lambdas: Tensor
        self.register_buffer("lambdas", log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar)), persistent=False)

    def log_snr(self, t: Tensor) -> Tensor:
        position = (t.to(self.lambdas.dtype) * self.steps).clamp(0, self.steps)
        row = position.round()
        near = (position - row).abs() < torch.finfo(t.dtype).eps * self.steps  # few i/T are exact in binary
        position = torch.where(near, row, position)
        low = position.floor().long().clamp(1, max(self.steps - 1, 1))
        high = (low + 1).clamp(max=self.steps)
        between = torch.lerp(self.lambdas[low], self.lambdas[high], position - low)
        first_variance = torch.sigmoid(-self.lambdas[1]) * position  # sigma² linear from 0 to row 1
        below = torch.log1p(-first_variance) - first_variance.log()
        return torch.where(position < 1, below, between)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        falling = -self.lambdas[1:]
        log_snr = log_snr.to(falling.dtype)
        high = torch.searchsorted(falling, -log_snr.contiguous()).clamp(1, self.steps - 1)
        start, end = falling[high - 1], falling[high]
        between = high + (-log_snr - start) / (end - start)
        below = torch.sigmoid(-log_snr) / torch.sigmoid(falling[0])
        return torch.where(-log_snr < falling[0], below, between).clamp(0, self.steps) / self.steps

    def betas(self) -> Tensor:
        """(T,) β_i = 1 − ᾱ_i / ᾱ_{i−1}."""
        log_alpha_bar = nn.functional.logsigmoid(self.lambdas)
        return -torch.expm1(log_alpha_bar.diff())


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Discrete:
    """β_i linear from `first` to `last` (DDPM, section 4; the memoir's schedule)."""
    return Discrete(torch.linspace(first, last, steps, dtype=torch.float64))


def cosine(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Discrete:
    """ᾱ_i = f(i/T) / f(0), f(u) = cos²(π/2 · (u + s)/(1 + s)), β_i ≤ `largest` (Improved DDPM, eq. 17; s = offset)."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return Discrete((1 - f[1:] / f[:-1]).clamp(max=largest))
