"""Distances between two sets of feature vectors: Fréchet and kernel (MMD²). All arithmetic is float64."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from diffusion.metric.estimate import (
    PAIRS,
    POOL,
    ROWS,
    Estimate,
    Reference,
    SampleMetric,
    TooFew,
    infinitesimal_jackknife,
    jackknife,
    pool,
    root,
)
from diffusion.randomness import generator_for


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


def frechet(x: Tensor, reference: Reference) -> tuple[float, Tensor]:
    """`frechet_distance` of the Gaussians of features `x` (N, D) and a reference, and each row's influence on it, (N,).

    Here A = (x − μ1)ᵀ/√(N−1), so the trace is the sum of the singular values s_k of Z = Aᵀ B, whose rows are images.
    With V the eigenvectors of ZᵀZ, s_k is the norm of Z's image of v_k. Image i's part of the trace is
    c_i = Σ_k (Z V)_ik² / s_k, since a change of its weight changes ‖Z‖_* by half of the row's share. The influence is

        φ_i = 2 (μ1 − μ2)·(x_i − μ1) + (|x_i − μ1|² − mean of it) − N (c_i − mean of c)
    """
    n, mean, b = len(x), x.double().mean(dim=0), reference.root
    if n < 2:
        raise TooFew(f"Fréchet distance of {n} feature vectors: a covariance needs at least 2")
    z = torch.cat([(rows.double() - mean) @ b for rows in x.split(ROWS)]) / math.sqrt(n - 1)
    zv = z @ torch.linalg.eigh(z.T @ z).eigenvectors
    s = zv.norm(dim=0)
    c = torch.where(s > 0, zv.square() / s, 0).sum(dim=1)
    away = mean - reference.mean
    squares = torch.cat([(rows.double() - mean).square().sum(dim=1) for rows in x.split(ROWS)])
    along = torch.cat([(rows.double() - mean) @ away for rows in x.split(ROWS)])
    spread = squares.sum() / (n - 1) + reference.cov.trace() - 2 * s.sum()
    influence = 2 * along + (squares - squares.mean()) - n * (c - c.mean())
    return float(away.square().sum() + spread.clamp(min=0)), influence


class FrechetDistance(SampleMetric):
    """Squared Fréchet distance of the features' Gaussian to the reference's (FID: Heusel et al. 2017, eq. 6)."""

    higher_is_better = False

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`fd`, never negative."""
        value, influence = frechet(x, self.reference)
        return {"fd": Estimate(value, infinitesimal_jackknife(influence), minimum=0.0)}


class SpatialFrechetDistance(FrechetDistance):
    """Fréchet distance of spatial features, which see where in a picture things are (sFID: Nash et al. 2021, §5).

    (arXiv:2103.03841.) They are few channels of a map within the network, not pooled, so that their number is like that
    of the pooled features.
    """

    needs_spatial = True

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`sfd`, never negative."""
        return {"sfd": super().measure(x)["fd"]}


class FrechetInfinity(SampleMetric):
    """Fréchet distance extrapolated to infinitely many samples (FID∞: Chong & Forsyth 2020, arXiv:1911.07023).

    The distance of N samples is d²_∞ + c/N + …: the line through (1/N, d²_N) for `points` sizes N, evenly from n/2 to
    n, each of a random subset, meets 1/N = 0 there. It is a weighted sum Σ_j a_j d²_{N_j}, and so is its influence.
    (The paper starts at n/10 with n = 50,000, where that is over twice the number of features; below that the terms
    beyond 1/N would rule.) The reference's own finite size stays in it. It is rough where n is less than a few times
    the number of features D, and refused where n < D.
    """

    higher_is_better = False
    settings = ("points",)
    pools = ("samples",)

    def __init__(self, reference: Reference, points: int = 15, **kwargs: Any):
        super().__init__(reference, **kwargs)
        self.points = points

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`fd_infinity`; by chance it can be negative. TooFew for fewer samples than features, or than 20."""
        x = pool(x)
        n, least = len(x), max(20, x.shape[1])
        if n < least:
            raise TooFew(f"extrapolating the Fréchet distance of {n} samples; it needs at least {least}")
        sizes = torch.linspace(n / 2, n, self.points).round().long().tolist()
        u = 1 / torch.tensor(sizes, dtype=torch.float64)
        weights = 1 / len(u) - u.mean() * (u - u.mean()) / (u - u.mean()).square().sum()  # of least squares at u = 0
        value, influence = 0.0, torch.zeros(n, dtype=torch.float64)
        for j, (size, weight) in enumerate(zip(sizes, weights.tolist(), strict=True)):
            chosen = torch.randperm(n, generator=generator_for(self.seed, "fd_infinity", j))[:size]
            part, phi = frechet(x[chosen], self.reference)
            value += weight * part
            influence[chosen] += weight * phi * n / size
        return {"fd_infinity": Estimate(value, infinitesimal_jackknife(influence))}


Kernel = Callable[[Tensor, Tensor], Tensor]  # (N, D), (M, D) -> (N, M)


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = (xᵀy/D + 1)³, (N, D) and (M, D) -> (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i − y_j|², (N, D) and (M, D) -> (N, M)."""
    return (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * x @ y.T).clamp(min=0)


def gaussian(sigma: float) -> Kernel:
    """k(x, y) = exp(−|x − y|² / 2σ²)."""
    return lambda x, y: torch.exp(-squared_distances(x, y) / (2 * sigma**2))


def row_sums(k: Kernel, x: Tensor, y: Tensor) -> Tensor:
    """Σ_j k(x_i, y_j), (N,)."""
    return torch.cat([k(rows, y).sum(dim=1) for rows in x.split(ROWS)])


def pair_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{i ∈ I_s, j ∈ J_s} k(x_i, y_j) for each s, (S,), and Σ_j k(x_i, y_j), (N,), of the cubic kernel.

    `in_x` (S, N) and `in_y` (S, M) are the sets' indicators.
    """
    total, of_rows = x.new_zeros(len(in_x)), []
    for rows in torch.arange(len(x)).split(ROWS):
        block = cubic(x[rows], y)
        total += ((in_x[:, rows] @ block) * in_y).sum(dim=1)
        of_rows.append(block.sum(dim=1))
    return total, torch.cat(of_rows)


def mmd2(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased MMD² (Gretton et al. 2012, eq. 3) of the subsets x[i_s] and y[j_s], float64 (S,).

        MMD² = Σ_{a ≠ b} k(x_a, x_b) / m(m−1) + Σ_{a ≠ b} k(y_a, y_b) / m(m−1) − 2 Σ_{a, b} k(x_a, y_b) / m²

    `x` (N, D), `y` (M, D) float64; `i`, `j` (S, m) indices, distinct in each row. Every kernel value is computed once
    and the subsets are sums of them: for S = 100, m = 1000 and N = M = 2000, 25 times less work than S matrices.

    Second: the MMD² of all of x and y without each x_i in turn, up to a constant, (N,).
    """
    m, n = i.shape[1], len(x)
    in_x = x.new_zeros(len(i), len(x)).scatter_(1, i, 1.0)
    in_y = y.new_zeros(len(j), len(y)).scatter_(1, j, 1.0)
    diagonal_x, diagonal_y = ((z.square().sum(dim=1) / z.shape[1] + 1) ** 3 for z in (x, y))
    (xx, xx_rows), (xy, xy_rows) = pair_sums(x, x, in_x, in_x), pair_sums(x, y, in_x, in_y)
    yy = pair_sums(y, y, in_y, in_y)[0] - in_y @ diagonal_y
    values = (xx - in_x @ diagonal_x + yy) / (m * (m - 1)) - 2 * xy / m**2
    own = xx_rows - diagonal_x
    without = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (xy_rows.sum() - xy_rows) / ((n - 1) * len(y))
    return values, without


class KernelDistance(SampleMetric):
    """Kernel distance to the reference: unbiased MMD² under a cubic polynomial kernel.

    (KID: Bińkowski et al. 2018, arXiv:1801.01401.) The mean over `subsets` random subsets, times 1 (some tables give it
    times 1000), with its standard error; `std` is the standard deviation over the subsets, which other tools report
    and which depends on their size. A subset holds `subset_size` features of each set, at most half of the smaller set:
    with more, all subsets would be the same. Which features make a subset is counted: a function of `seed`, the
    subset's number and the sets.
    """

    higher_is_better = False
    settings = ("subsets",)
    pools = PAIRS

    def __init__(self, reference: Reference, subsets: int = 100, subset_size: int = 1000, **kwargs: Any):
        super().__init__(reference, **kwargs)
        self.subsets, self.subset_size = subsets, subset_size

    def size(self, n: int) -> int:
        """The size of a subset when `n` features are scored."""
        return min(self.subset_size, min(n, POOL) // 2, len(self.reference.features) // 2)

    def settings_for(self, n: int) -> dict[str, Any]:
        """Also the size that the subsets have."""
        return super().settings_for(n) | {"subset_size": self.size(n)}

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`kid`. TooFew for fewer than 4 features in a set."""
        x, y = pool(x).double(), self.reference.features.double()
        m = self.size(len(x))
        if m < 2:
            raise TooFew(f"kernel distance of {len(x)} features to {len(y)}: each set needs at least 4")
        values, without = mmd2(x, y, self._draw("generated", len(x), m), self._draw("reference", len(y), m))
        std = float(values.std(correction=0))
        error = math.hypot(jackknife(without), std / math.sqrt(self.subsets))  # the second: of drawing subsets
        return {"kid": Estimate(float(values.mean()), error, std=std)}

    def _draw(self, which: str, n: int, m: int) -> Tensor:
        draws = [generator_for(self.seed, "kid", which, subset) for subset in range(self.subsets)]
        return torch.stack([torch.randperm(n, generator=draw)[:m] for draw in draws])


class CMMD(SampleMetric):
    """MMD² under a Gaussian kernel, the biased estimate times `scale` (Jayasumana et al. 2023, arXiv:2401.09603).

        CMMD = scale · (mean_{a,b} k(x_a, x_b) + mean_{a,b} k(y_a, y_b) − 2 mean_{a,b} k(x_a, y_b)),
        k(x, y) = exp(−|x − y|² / 2σ²)

    Means take in a = b, as the authors' code does, so sets of one distribution are at about scale · E[1 − k] · 2/N, not
    at 0. The name belongs to the features of CLIP ViT-L/14@336, for whose unit vectors σ = 10 was chosen.
    """

    higher_is_better = False
    settings = ("sigma", "scale")
    pools = PAIRS

    def __init__(self, reference: Reference, sigma: float = 10.0, scale: float = 1000.0, **kwargs: Any):
        super().__init__(reference, **kwargs)
        self.sigma, self.scale = sigma, scale

    def measure(self, x: Tensor) -> dict[str, Estimate]:
        """`cmmd`, never negative."""
        x, y = pool(x).double(), self.reference.features.double()
        n, m, k = len(x), len(y), gaussian(self.sigma)
        xx, xy = row_sums(k, x, x), row_sums(k, x, y)
        value = xx.mean() / n + row_sums(k, y, y).mean() / m - 2 * xy.mean() / m
        without = (xx.sum() - 2 * xx + 1) / (n - 1) ** 2 - 2 * (xy.sum() - xy) / ((n - 1) * m)
        return {"cmmd": Estimate(float(self.scale * value), jackknife(self.scale * without), minimum=0.0)}
