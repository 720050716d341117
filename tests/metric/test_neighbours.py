import math

import pytest
import torch
from torch import Tensor

from diffusion.metric import diversity
from diffusion.metric.diversity import DensityCoverage, PrecisionRecall
from diffusion.metric.estimate import RealSet, jackknife


def normal(n: int, seed: int, shift: float = 0.0, d: int = 5) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + shift


def brute_force(x: Tensor, y: Tensor, k: int) -> dict[str, float]:
    """The four values by their definitions, point by point."""

    def radius(z: Tensor, i: int) -> float:
        return sorted(math.dist(z[i], z[j]) for j in range(len(z)) if j != i)[k - 1]

    real, fake = [radius(y, i) for i in range(len(y))], [radius(x, j) for j in range(len(x))]
    in_real = [[math.dist(y[i], x[j]) <= real[i] for i in range(len(y))] for j in range(len(x))]
    in_fake = [[math.dist(y[i], x[j]) <= fake[j] for j in range(len(x))] for i in range(len(y))]
    return {
        "precision": sum(map(any, in_real)) / len(x),
        "recall": sum(map(any, in_fake)) / len(y),
        "density": sum(map(sum, in_real)) / k / len(x),
        "coverage": sum(map(any, zip(*in_real, strict=True))) / len(y),
    }


@pytest.mark.parametrize(("k", "shift"), [(1, 0.0), (2, 0.5), (5, 2.0)])
def test_values_equal_their_definitions_and_errors_a_brute_force_jackknife(
    k: int, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values are recomputed without each sample in turn."""
    monkeypatch.setattr(diversity, "ROWS", 7)
    x, y = normal(12, 1, shift), normal(17, 2)
    reference = RealSet.of(y)
    found = PrecisionRecall(k).measure(x, reference) | DensityCoverage(k).measure(x, reference)
    assert {name: each.value for name, each in found.items()} == pytest.approx(brute_force(x, y, k), abs=1e-12)
    without = [brute_force(torch.cat([x[:j], x[j + 1 :]]), y, k) for j in range(len(x))]
    for name, estimate in found.items():
        expected = jackknife(torch.tensor([w[name] for w in without], dtype=torch.float64))
        assert estimate.error == pytest.approx(expected, rel=1e-6)
        assert estimate.error > 0
