"""Distances between two sets of feature vectors: Fréchet and kernel (MMD²), in float64."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.metric import estimate
from diffusion.metric.estimate import (
    ROWS,
    PairwiseMetric,
    RealSet,
    SampleMetric,
    Statistic,
    jackknife,
    over_photographs,
)
from diffusion.randomness import generator_for


def frechet(x: Tensor, reference: RealSet) -> tuple[float, Tensor]:
    """Squared Fréchet distance of two Gaussians (Dowson & Landau 1982), and each sample's influence on it, (N,).

        d² = |μ1 − μ2|² + tr Σ1 + tr Σ2 − 2 tr (Σ1 Σ2)^½

    With Σ1 = A Aᵀ, where A = (x − μ1)ᵀ/√(N−1) for the features `x` (N, D), and Σ2 = B Bᵀ, the last trace is the sum of
    the singular values s_k of Z = Aᵀ B (N, r), which keep their digits even if the covariances are singular. With V the
    eigenvectors of ZᵀZ, s_k is the norm of column k of Z V. Sample i contributes c_i = Σ_k (Z V)_ik² / s_k to the
    trace, and its influence is

        φ_i = 2 (μ1 − μ2)·(x_i − μ1) + (|x_i − μ1|² − its mean) − N (c_i − its mean)
    """
    n, mean = len(x), x.mean(dim=0, dtype=torch.float64)
    shift = mean - reference.mean
    z = torch.cat([(rows.double() - mean) @ reference.root for rows in x.split(ROWS)]) / math.sqrt(n - 1)
    z = z @ torch.linalg.eigh(z.T @ z).eigenvectors
    s = z.norm(dim=0)
    c = torch.cat([torch.where(s > 0, rows.square() / s, 0).sum(dim=1) for rows in z.split(ROWS)])
    squares = torch.cat([(rows.double() - mean).square().sum(dim=1) for rows in x.split(ROWS)])
    along = torch.cat([(rows.double() - mean) @ shift for rows in x.split(ROWS)])
    spread = squares.sum() / (n - 1) + reference.cov.trace() - 2 * s.sum()
    influence = 2 * along + (squares - squares.mean()) - n * (c - c.mean())
    return float(shift.square().sum() + spread.clamp(min=0)), influence


class FrechetDistance(SampleMetric):
    """Squared Fréchet distance of Gaussians with the moments of samples and reference (FID: Heusel et al. 2017)."""

    def measure(self, x: Tensor, reference: RealSet, photographs: Tensor | None = None) -> dict[str, Statistic]:
        """`fd`, never negative."""
        value, influence = frechet(x, reference)
        found = {"fd": Statistic(value, estimate.error_of(influence), minimum=0.0, influence=influence)}
        real = reference.photographs
        return over_photographs(found, lambda: self.measure(reference.features, RealSet.of(x)), photographs, real)


def pair_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_{i ∈ I_s, j ∈ J_s} k(x_i, y_j) for each s, (S,), and Σ_j k(x_i, y_j), (N,), with k(x, y) = (xᵀy/D + 1)³.

    `in_x` (S, N) and `in_y` (S, M) are the indicators of the sets I_s and J_s.
    """
    total, of_rows = x.new_zeros(len(in_x)), []
    for rows in torch.arange(len(x)).split(ROWS):
        block = (x[rows] @ y.T / x.shape[1] + 1) ** 3
        total += ((in_x[:, rows] @ block) * in_y).sum(dim=1)
        of_rows.append(block.sum(dim=1))
    return total, torch.cat(of_rows)


def mmd2(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased MMD² (Gretton et al. 2012, eq. 3) of the subsets x[i_s] and y[j_s], float64 (S,).

    Also the MMD² of all of x and y without each x_i in turn, up to a constant, (N,).

        MMD² = Σ_{a ≠ b} k(x_a, x_b) / m(m−1) + Σ_{a ≠ b} k(y_a, y_b) / m(m−1) − 2 Σ_{a, b} k(x_a, y_b) / m²

    `x` (N, D), `y` (M, D) float64; `i`, `j` (S, m) indices, distinct in each row.
    """
    m, n = i.shape[1], len(x)
    in_x = x.new_zeros(len(i), len(x)).scatter_(1, i, 1.0)
    in_y = y.new_zeros(len(j), len(y)).scatter_(1, j, 1.0)
    diagonal_x, diagonal_y = ((z.square().sum(dim=1) / z.shape[1] + 1) ** 3 for z in (x, y))
    (xx, xx_rows), (xy, xy_rows) = pair_sums(x, x, in_x, in_x), pair_sums(x, y, in_x, in_y)
    yy = pair_sums(y, y, in_y, in_y)[0] - in_y @ diagonal_y
    values = (xx - in_x @ diagonal_x + yy) / (m * (m - 1)) - 2 * xy / m**2
    others = xx_rows - diagonal_x
    without = (others.sum() - 2 * others) / ((n - 1) * (n - 2)) - 2 * (xy_rows.sum() - xy_rows) / ((n - 1) * len(y))
    return values, without


@dataclass
class KernelDistance(PairwiseMetric):
    """Kernel distance: unbiased MMD² with a cubic polynomial kernel (KID: Bińkowski et al. 2018, arXiv:1801.01401).

    The mean over random subsets; not multiplied by 1000, as it is in some tables. `std` is over the subsets.

    Args:
        subsets: Number of random subsets to average. They are functions of the two sets.
        subset_size: Features per set in a subset; at most half of the smaller set, so that subsets differ.
    """

    subsets: Annotated[int, Ge(1)] = 100
    subset_size: Annotated[int, Ge(2)] = 1000

    def settings_for(self, n: int, m: int) -> dict[str, Any]:
        """With the actual size of the subsets."""
        return super().settings_for(n, m) | {"subset_size": min(self.subset_size, min(n, m, estimate.POOL) // 2)}

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """`kid`, of at least 4 features in each set."""
        size = self.settings_for(len(x), len(y))["subset_size"]

        def drawn(which: str, n: int) -> Tensor:
            draws = [generator_for(0, "kid", which, subset) for subset in range(self.subsets)]
            return torch.stack([torch.randperm(n, generator=each)[:size] for each in draws])

        values, without = mmd2(x, y, drawn("generated", len(x)), drawn("reference", len(y)))
        std = float(values.std(correction=0))
        error = math.hypot(jackknife(without), std / math.sqrt(self.subsets))  # second term: from the random subsets
        return {"kid": Statistic(float(values.mean()), error, std=std, influence=(1 - len(x)) * without)}


class EnergyDistance(PairwiseMetric):
    """Energy distance, 2 E|x − y| − E|x − x′| − E|y − y′| (Székely, Rizzo 2013): 0 only for equal distributions.

    The estimate is unbiased, so it may be negative. It suits features of few dimensions, such as points.

    The squared error is the jackknife's, and (2/N²) E h(x, x′)² with h the distance after subtraction of the means of
    its rows and columns: the variance of the terms of second order (Hoeffding 1948, section 5), which alone are left
    where the distributions are equal. There, the jackknife's error is small when the value is, and too small then.
    """

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """`energy`."""
        n, m = len(x), len(y)
        xx, xy, yy = (torch.cat([torch.cdist(r, b).sum(1) for r in a.split(ROWS)]) for a, b in ((x, x), (x, y), (y, y)))
        value = 2 * xy.sum() / (n * m) - xx.sum() / (n * (n - 1)) - yy.sum() / (m * (m - 1))
        without = 2 * (xy.sum() - xy) / ((n - 1) * m) - (xx.sum() - 2 * xx) / ((n - 1) * (n - 2))
        squares = 2 * (x - x.mean(dim=0)).square().sum(dim=1).mean()  # E |x − x′|²
        centred = (squares - 2 * (xx / n).square().mean() + (xx.mean() / n) ** 2).clamp(min=0)  # E h²
        error = math.hypot(jackknife(without), math.sqrt(2 * centred) / n)
        return {"energy": Statistic(float(value), error, influence=(1 - n) * without)}


@dataclass
class CMMD(PairwiseMetric):
    """CMMD: the biased estimate of MMD² with a Gaussian kernel (Jayasumana et al. 2023, arXiv:2401.09603).

        CMMD = scale · (mean_{a,b} k(x_a, x_b) + mean_{a,b} k(y_a, y_b) − 2 mean_{a,b} k(x_a, y_b)),
        k(x, y) = exp(−|x − y|² / 2σ²)

    The means include a = b, as in the authors' code. σ = 10 was chosen for the unit vectors of CLIP ViT-L/14@336.

    Args:
        sigma: Kernel width σ.
        scale: Factor that multiplies the value.
    """

    sigma: Annotated[float, Gt(0)] = 10.0
    scale: Annotated[float, Gt(0)] = 1000.0

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """`cmmd`, never negative."""
        n, m = len(x), len(y)
        xx, xy, yy = self._row_sums(x, x), self._row_sums(x, y), self._row_sums(y, y)
        value = max(float(self.scale * (xx.mean() / n + yy.mean() / m - 2 * xy.mean() / m)), 0.0)
        without = self.scale * ((xx.sum() - 2 * xx + 1) / (n - 1) ** 2 - 2 * (xy.sum() - xy) / ((n - 1) * m))
        return {"cmmd": Statistic(value, jackknife(without), minimum=0.0, influence=(1 - n) * without)}

    def _row_sums(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ_j k(x_i, y_j), (N,)."""
        squares = (r.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * r @ y.T for r in x.split(ROWS))
        return torch.cat([torch.exp(-each.clamp(min=0) / (2 * self.sigma**2)).sum(dim=1) for each in squares])
