"""Fidelity and diversity: which samples are among the real images, and vice versa.

The support of a set is estimated by a union of balls around its points. The radius of a ball is the distance from its
centre to the k-th nearest neighbour in the same set.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.base.nearest import neighbours
from diffusion.errors import UserError
from diffusion.metric.estimate import ROWS, PairwiseMetric, Statistic, error_of, jackknife


def others(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances (N, k) of each row of `x` to its k nearest other rows, ascending, and their indices (N, k)."""
    if len(x) <= k:
        raise UserError(f"{k} nearest neighbours among {len(x)} features")
    return neighbours(x, x, k, itself=False)


@dataclass
class PrecisionRecall(PairwiseMetric):
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, eq. 1-2).

    Precision is the share of samples in the ball of a real image, recall the share of real images in the ball of a
    sample. Without sample j, the balls that have j among their k nearest neighbours grow to the next neighbour.

    Args:
        k: The radius of a ball is the distance to the k-th nearest neighbour.
    """

    k: Annotated[int, Ge(1)] = 3

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """`precision` and `recall`, of at least k + 2 samples and k + 1 real images."""
        k, real = self.k, others(y, self.k)[0][:, -1]
        to, neighbour = others(x, k + 1)
        radius, grown, neighbour = to[:, k - 1], to[:, k], neighbour[:, :k]
        inside = torch.zeros(len(x), dtype=torch.bool)
        reached, without = 0, torch.zeros(len(x), dtype=torch.float64)
        for rows in torch.arange(len(y)).split(ROWS):
            d = torch.cdist(y[rows], x)
            inside |= (d <= real[rows, None]).any(dim=0)
            covers, would = d <= radius, (d > radius) & (d <= grown)
            left = covers.sum(dim=1, keepdim=True) - covers.float()  # balls that contain the image, except sample j's …
            for f in neighbour.T:
                left.index_add_(1, f, would.float())  # … and those that reach it when j is left out
            reached += int(covers.any(dim=1).sum())
            without += (left > 0.5).sum(dim=0)
        precision, recall = inside.double(), reached / len(y)
        return {
            "precision": Statistic(float(precision.mean()), error_of(precision), share_of=len(x)),
            "recall": Statistic(recall, jackknife(without / len(y)), share_of=len(x)),
        }


@dataclass
class DensityCoverage(PairwiseMetric):
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797, eq. 3-4).

    Density is the mean number of real images' balls that contain a sample, divided by k. Coverage is the share of real
    images' balls that contain a sample.

    Args:
        k: The radius of a ball is the distance to the k-th nearest neighbour.
    """

    k: Annotated[int, Ge(1)] = 5

    def compare(self, x: Tensor, y: Tensor) -> dict[str, Statistic]:
        """`density` and `coverage`, of at least k + 1 real images."""
        real = others(y, self.k)[0][:, -1]
        holding = torch.zeros(len(x), dtype=torch.float64)
        covered, alone = 0, torch.zeros(len(x), dtype=torch.float64)
        for rows in torch.arange(len(y)).split(ROWS):
            held = torch.cdist(y[rows], x) <= real[rows, None]
            count = held.sum(dim=1)
            holding += held.sum(dim=0)
            covered += int((count > 0).sum())
            alone += held[count == 1].sum(dim=0)  # balls that are not covered without sample j
        density, coverage = holding / self.k, covered / len(y)
        return {
            "density": Statistic(float(density.mean()), error_of(density), minimum=0.0),
            "coverage": Statistic(coverage, jackknife(-alone / len(y)), share_of=len(x)),
        }
