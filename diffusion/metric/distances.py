"""Distances between two sets of feature vectors: Fréchet and kernel (MMD²).

Both are torchmetrics classes that take features already extracted, so one pass of the extractor serves both, and both
compare with a reference given at construction. Sums are float64, and states reduce over devices, so any division of
the images gives the same number up to rounding.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from diffusion.randomness import generator_for

POOL = 10_000  # most features of either set that the kernel distance draws its subsets from
ROWS = 1024  # rows of the kernel matrix that are in memory at once


class Moments(Metric):
    """Number, mean and unbiased covariance of feature vectors, in memory that does not grow with their number."""

    full_state_update = False
    total: Tensor
    outer: Tensor
    count: Tensor

    def __init__(self, num_features: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(num_features, num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """`features` (B, D)."""
        x = features.to(self.total.device).double()
        self.total += x.sum(dim=0)
        self.outer += x.T @ x
        self.count += len(x)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D), float64 on the CPU. Raises ValueError for fewer than two vectors."""
        n = int(self.count)
        if n < 2:
            raise ValueError(f"moments of {n} feature vectors: a covariance needs at least 2")
        mean = self.total.cpu() / n
        return mean, (self.outer.cpu() - n * torch.outer(mean, mean)) / (n - 1)

    def compute(self) -> Any:
        return self.moments()


def root(cov: Tensor) -> Tensor:
    """A (D, D) with A Aᵀ = `cov`, for a symmetric positive semi-definite (D, D)."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt()


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982), a float64 scalar; means (D,), covs (D, D).

        d² = |μ1 − μ2|² + tr Σ1 + tr Σ2 − 2 tr (Σ1 Σ2)^½

    With Σ1 = A Aᵀ and Σ2 = B Bᵀ the last trace is the sum of the singular values of Aᵀ B. Those are exact to rounding
    also where the covariances are singular (fewer images than features), where the eigenvalues of Σ1 Σ2 lose half
    their digits and make the distance of identical sets as low as −1e-4. Since ‖A − B U‖² ≥ 0 for every rotation U, the
    sum can't be negative but by rounding (about D · 1e-16 · tr Σ), which the clamp removes.
    """
    a, b = root(cov_1), root(cov_2)
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a.T @ b).sum()
    return (mean_1 - mean_2).square().sum() + spread.clamp(min=0)


class FrechetDistance(Moments):
    """Squared Fréchet distance of the seen features' Gaussian to a reference's (FID: Heusel et al. 2017, eq. 6)."""

    higher_is_better = False
    is_differentiable = False

    def __init__(self, mean: Tensor, cov: Tensor, **kwargs: Any):
        """`mean` (D,) and unbiased `cov` (D, D) of the reference's features."""
        super().__init__(len(mean), **kwargs)
        self.reference = mean.double().cpu(), cov.double().cpu()

    def compute(self) -> Tensor:
        """A float64 scalar, never negative."""
        return frechet_distance(*self.moments(), *self.reference)


def pool(features: Tensor) -> Tensor:
    """At most `POOL` of the rows of `features` (N, D), in an order that depends on their values alone.

    So what is drawn from them does not depend on how the images were batched or divided among devices.
    """
    order = features.double().sum(dim=1).argsort()
    return features[order[torch.randperm(len(features), generator=generator_for("pool"))[:POOL]]]


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (xᵀy/D + 1)³, (N, D) and (M, D) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def pair_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """Σ_{i ∈ I_s, j ∈ J_s} k(x_i, y_j) for each s, (S,); `in_x` (S, N) and `in_y` (S, M) are the sets' indicators."""
    total = x.new_zeros(len(in_x))
    for rows in torch.arange(len(x)).split(ROWS):
        total += ((in_x[:, rows] @ kernel(x[rows], y)) * in_y).sum(dim=1)
    return total


def mmd2(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Unbiased MMD² (Gretton et al. 2012, eq. 3) of the subsets x[i_s] and y[j_s], float64 (S,).

        MMD² = Σ_{a ≠ b} k(x_a, x_b) / m(m−1) + Σ_{a ≠ b} k(y_a, y_b) / m(m−1) − 2 Σ_{a, b} k(x_a, y_b) / m²

    `x` (N, D), `y` (M, D) float64; `i`, `j` (S, m) indices, distinct in each row. Every kernel value is computed once
    and the subsets are sums of them: for S = 100, m = 1000 and N = M = 2000, 25 times less work than S matrices.
    """
    m = i.shape[1]
    in_x = x.new_zeros(len(i), len(x)).scatter_(1, i, 1.0)
    in_y = y.new_zeros(len(j), len(y)).scatter_(1, j, 1.0)
    xx = pair_sums(x, x, in_x, in_x) - in_x @ (x.square().sum(dim=1) / x.shape[1] + 1) ** 3
    yy = pair_sums(y, y, in_y, in_y) - in_y @ (y.square().sum(dim=1) / y.shape[1] + 1) ** 3
    return (xx + yy) / (m * (m - 1)) - 2 * pair_sums(x, y, in_x, in_y) / m**2


class KernelDistance(Metric):
    """Kernel distance of the seen features to a reference's: unbiased MMD² under a cubic polynomial kernel.

    (KID: Bińkowski et al. 2018, arXiv:1801.01401.) The mean and standard deviation over `subsets` random subsets, times
    1 (some tables give it times 1000). A subset holds `subset_size` features of each set, at most half of the smaller
    set: with more, all subsets would be the same and the deviation would be 0 without meaning. At just half, as when
    scoring a few hundred images, the deviation estimates the standard error of the value (delete-half jackknife) where
    the sets differ, and up to twice of it where they hardly do (MMD² is then a degenerate U-statistic). Which features
    make a subset is counted: a function of `seed`, the subset's number and the sets.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    features: list[Tensor]

    def __init__(self, reference: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0, **kwargs: Any):
        """`reference` (M, D): the reference's features, M at least 4."""
        super().__init__(**kwargs)
        self.reference = pool(reference.cpu()).double()
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.add_state("features", [], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """`features` (B, D)."""
        self.features.append(features)

    def size(self, n: int) -> int:
        """The size of a subset when `n` features are scored."""
        return min(self.subset_size, n // 2, len(self.reference) // 2)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the subsets, float64. Raises ValueError for fewer than 4 features."""
        x, y = pool(dim_zero_cat(self.features).cpu()).double(), self.reference
        m = self.size(len(x))
        if m < 2:
            raise ValueError(f"kernel distance of {len(x)} features to {len(y)}: each set needs at least 4")
        values = mmd2(x, y, self._draw("generated", len(x), m), self._draw("reference", len(y), m))
        return values.mean(), values.std(correction=0)

    def _draw(self, which: str, n: int, m: int) -> Tensor:
        draws = [generator_for(self.seed, "kid", which, subset) for subset in range(self.subsets)]
        return torch.stack([torch.randperm(n, generator=draw)[:m] for draw in draws])
