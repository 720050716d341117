"""The denoising error on a frozen grid of (t, eps): L_simple without the variance of random times and noise."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from diffusion.randomness import Streams, seed_for

BINS = 10  # of t


def bin_of(t: Tensor) -> Tensor:
    """The bins of the times `t` (B,), see `DenoisingError`; int64 (B,)."""
    return ((t.double() * BINS - 1e-6).ceil().long() - 1).clamp(min=0)


class DenoisingError(Metric):
    """Mean of per-example denoising errors, over all times and in bins of t; sums in float64.

    Bin k covers t in (k/BINS, (k+1)/BINS]. A time less than 1e-6 of a bin above an edge counts as the edge, so
    the float32 times i/T of a table are in the same bin as their exact values.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(BINS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, error: Tensor, t: Tensor) -> None:
        """Add errors (B,), means over pixels, at times t (B,). Raises ValueError if a t is not in (0, 1]."""
        error, t = (x.detach().to(self.total.device).double() for x in (error, t))
        if not ((t > 0) & (t <= 1)).all():
            raise ValueError(f"times from {t.min():g} to {t.max():g}; expected 0 < t <= 1")
        member = F.one_hot(bin_of(t), BINS).double()
        self.total += error @ member  # a matrix product sums in a fixed order
        self.count += member.sum(dim=0)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        """Move the sums to a device, but never change their dtype: bfloat16 would keep only two digits.

        They are not moved to MPS, which has no float64 (a TypeError).
        """
        try:
            return super()._apply(lambda x: x.to(fn(torch.empty_like(x)).device), *args, **kwargs)
        except TypeError:
            return self

    def compute(self) -> dict[str, Tensor]:
        """`mse`: the mean over all examples, float64; `bins` (BINS,): the mean of each bin, NaN if empty."""
        return {"mse": self.total.sum() / self.count.sum(), "bins": self.total / self.count}


class FrozenGrid:
    """Times and noise of draw k of example `index`: functions of (seed, index, k), not of batch, order or device.

    The times are a golden-ratio (Weyl) sequence in `index` for each k, and a √2 sequence in k for each index. So
    examples 0..N−1 cover (0, 1] evenly for every N and every number of draws.

    Args:
        draws: number of draws per example, k = 0, 1, …
        rows: T of a table; times are then rounded up to i/T. None for continuous times.
    """

    def __init__(self, draws: int = 1, seed: int = 0, rows: int | None = None):
        self.draws, self.seed, self.rows = draws, seed, rows
        self.start = seed_for(seed, "grid t") / 2**63

    def t(self, index: Tensor, k: int = 0) -> Tensor:
        """`index` (B,) int64 -> t (B,), float64 in (0, 1], on the CPU, so rounding does not depend on the device."""
        t = 1 - (self.start + index.cpu().double() * (5**0.5 - 1) / 2 + k * 2**0.5) % 1
        return t if self.rows is None else (t * self.rows).ceil() / self.rows

    def noise(self, index: Tensor, k: int, like: Tensor) -> Tensor:
        """N(0, 1) with the shape, dtype and device of `like` (B, ...); equal on all devices up to rounding."""
        seeds = [seed_for(self.seed, "grid eps", i, k) for i in index.tolist()]
        return Streams(seeds, like.device).normal(*like.shape[1:]).to(like)
