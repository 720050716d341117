"""The denoising error of held-out images on a frozen grid of (t, eps): L_simple without the luck of the draw."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from diffusion.randomness import Streams, seed_for


def bin_of(t: Tensor, num_bins: int) -> Tensor:
    """The bin of each of `t` (B,): k of (k/num_bins, (k+1)/num_bins], see `DenoisingError`; int64 (B,)."""
    return ((t.double() * num_bins - 1e-6).ceil().long() - 1).clamp(min=0)


class DenoisingError(Metric):
    """Mean of per-example denoising errors, over all and by time; sums in float64, exact whatever the batches.

    Bin k of `num_bins` covers t in (k/num_bins, (k+1)/num_bins]; a time within 1e-6 of a bin above an edge counts as
    the edge, so that float32 table times i/T fall where their exact values do.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    total: Tensor
    count: Tensor

    def __init__(self, num_bins: int = 10):
        super().__init__()
        self.num_bins = num_bins
        self.add_state("total", torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, error: Tensor, t: Tensor) -> None:
        """`error` (B,): squared error per example, a mean over pixels; `t` (B,) in (0, 1]. ValueError outside of it."""
        error, t = (x.detach().to(self.total.device).double() for x in (error, t))
        if not ((t > 0) & (t <= 1)).all():
            raise ValueError(f"times from {t.min():g} to {t.max():g}; expected 0 < t <= 1")
        member = torch.nn.functional.one_hot(
            bin_of(t, self.num_bins), self.num_bins
        ).double()  # a product adds in a fixed order
        self.total += error @ member
        self.count += member.sum(dim=0)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> torch.nn.Module:
        """`.to(device)`, and of `.to(dtype)` nothing: in bfloat16 sums would lose all but two digits.

        To MPS, which has no float64 and says so by TypeError, the sums don't go.
        """
        try:
            return super()._apply(lambda x: x.to(fn(torch.empty_like(x)).device), *args, **kwargs)
        except TypeError:
            return self

    def compute(self) -> dict[str, Tensor]:
        """`mse`: the mean over all examples, float64 scalar; `bins` (num_bins,): the mean of each bin, NaN if empty."""
        return {"mse": self.total.sum() / self.count.sum(), "bins": self.total / self.count}


class FrozenGrid:
    """Times and noise of draw k of example `index`: functions of (seed, index, k), not of batch, order or device.

    The times are a golden-ratio (Weyl) sequence in `index` for each k, and a √2 one in k for each index: so the
    examples 0..N−1 cover (0, 1] evenly for every N (no bin is off by more than a few), with any number of `draws`.
    """

    def __init__(self, draws: int = 1, seed: int = 0, rows: int | None = None):
        """`draws`: how many k = 0, 1, … an example has; `rows`: T of a table, whose times i/T are then hit exactly."""
        self.draws, self.seed, self.rows = draws, seed, rows
        self.start = seed_for(seed, "grid t") / 2**63

    def t(self, index: Tensor, k: int = 0) -> Tensor:
        """`index` (B,) int64 -> t (B,), float64 in (0, 1], on the CPU, where rounding is the same for every device."""
        t = 1 - (self.start + index.cpu().double() * (5**0.5 - 1) / 2 + k * 2**0.5) % 1
        return t if self.rows is None else (t * self.rows).ceil() / self.rows

    def noise(self, index: Tensor, k: int, like: Tensor) -> Tensor:
        """N(0, 1) with shape, dtype and device of `like` (B, ...); drawn on the CPU, so every device sees the same."""
        seeds = [seed_for(self.seed, "grid eps", i, k) for i in index.tolist()]
        return Streams(seeds).normal(*like.shape[1:]).to(like)
