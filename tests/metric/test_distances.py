import math

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from diffusion.metric.distances import CMMD, EnergyDistance, FrechetDistance, KernelDistance, frechet, mmd2
from diffusion.metric.estimate import RealSet


class Identity(nn.Identity):
    num_features = 16


def features(n: int, seed: int, shift: float = 0.0, d: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return (torch.randn(n, d, generator=generator) @ mix + shift).relu()


def fd(x: Tensor, y: Tensor) -> float:
    return FrechetDistance().measure(x, RealSet.of(y))["fd"].value


def kid(x: Tensor, y: Tensor, **kwargs) -> tuple[float, float, float]:
    found = KernelDistance(**kwargs).measure(x, RealSet.of(y))["kid"]
    return found.value, found.std, found.error


def test_frechet_distance_matches_torchmetrics() -> None:
    x, y = features(200, 1), features(300, 2, shift=0.3)
    theirs = FrechetInceptionDistance(feature=Identity())
    theirs.update(x.double(), real=False)
    theirs.update(y.double(), real=True)
    assert fd(x, y) == pytest.approx(float(theirs.compute()), rel=1e-8)


@pytest.mark.parametrize("n", [8, 200])  # fewer and more images than features: covariances of rank 7 and 64
def test_frechet_distance_of_identical_sets_is_zero_and_never_negative(n: int) -> None:
    for seed in range(10):  # some would be negative by rounding
        x = features(n, seed, d=64)
        assert 0 <= fd(x, x) < 1e-10


def test_frechet_distance_of_singular_covariances_is_exact() -> None:
    """For n < D, the trace follows from the singular values of the data."""
    x, y = features(20, 1, d=64).double(), features(30, 2, d=64).double()
    cx, cy = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.svdvals(cx @ cy.T).sum() / math.sqrt(19 * 29)
    exact = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross
    assert fd(x, y) == pytest.approx(float(exact), rel=1e-10)


def brute_force_mmd2(x: Tensor, y: Tensor) -> float:
    m, d = x.shape

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / d + 1) ** 3

    within = sum(k(s[a], s[b]) for s in (x, y) for a in range(m) for b in range(m) if a != b) / (m * (m - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / m**2


def test_mmd2_equals_its_definition_on_every_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion.metric.distances.ROWS", 5)  # several blocks of rows
    x, y = features(13, 7).double(), features(17, 8).double()
    i = torch.stack([torch.randperm(13)[:6] for _ in range(3)])
    j = torch.stack([torch.randperm(17)[:6] for _ in range(3)])
    expected = [brute_force_mmd2(x[a], y[b]) for a, b in zip(i, j, strict=True)]
    values, without = mmd2(x, y, i, j)
    assert values.tolist() == pytest.approx(expected, rel=1e-10)
    square = brute_force_mmd2(x, y[:13])  # with equal sizes, the definition applies to the values without a sample
    every, others = torch.arange(13)[None], [torch.cat([x[:a], x[a + 1 :]]) for a in (4, 9)]
    whole = float(mmd2(x, y[:13], every, every)[0])
    assert whole == pytest.approx(square, rel=1e-10)
    between = [
        float(((o @ o.T / 16 + 1) ** 3).fill_diagonal_(0).sum() / 132 - 2 * ((o @ y.T / 16 + 1) ** 3).mean())
        for o in others
    ]
    assert float(without[4] - without[9]) == pytest.approx(between[0] - between[1], rel=1e-9)


def test_kernel_distance_agrees_with_torch_fidelity() -> None:
    x, y = features(200, 9, shift=0.2), features(200, 10)
    mean, std, _ = kid(x, y, subsets=30, subset_size=50)
    fidelity = kid_features_to_metric(x, y, kid_subsets=30, kid_subset_size=50, rng_seed=0, verbose=False, cuda=False)
    assert mean == pytest.approx(fidelity[KEY_METRIC_KID_MEAN], abs=4 * std / 30**0.5)


def test_kernel_subsets_depend_only_on_the_sets() -> None:
    x, y = features(100, 11, shift=0.1), features(80, 12)

    before = kid(x, y, subsets=10)
    torch.rand(7)  # other random draws of the process do not matter
    assert kid(x, y, subsets=10) == before
    assert kid(x.flip(0), y.roll(3, 0), subsets=10) == pytest.approx(before, rel=1e-9)
    assert before[1] > 0


def test_frechet_influence_is_the_derivative_with_respect_to_the_weight() -> None:
    """A slightly larger weight of an image equals one more copy of it among many copies of all images."""
    x, reference = features(30, 20).double(), RealSet.of(features(50, 21, shift=0.3))
    value, influence = frechet(x, reference)
    assert abs(float(influence.mean())) < 1e-10
    times = 400
    many = x.repeat(times, 1)
    base = frechet(many, reference)[0]
    for i in (3, 17):
        more = frechet(torch.cat([many, x[i : i + 1]]), reference)[0]
        slope = (more - base) * (len(many) + 1)
        assert slope == pytest.approx(float(frechet(many, reference)[1][i]), rel=0.01)
    assert value > base  # the unbiased covariance of 30 is larger by 30/29


def test_cmmd_of_gaussians_matches_the_closed_form() -> None:
    """E k(x, y) = (σ²/(σ² + a² + b²))^{d/2} exp(−|μ|²/2(σ² + a² + b²)) for N(μ, a² I) and N(0, b² I)."""
    d, n, sigma, a, b, shift = 4, 2000, 2.0, 1.5, 1.0, 0.5
    generator = torch.Generator().manual_seed(5)
    x, y = (s * torch.randn(n, d, generator=generator) for s in (a, b))

    def expected(p: float, q: float, mu2: float) -> float:
        total = sigma**2 + p**2 + q**2
        return (sigma**2 / total) ** (d / 2) * math.exp(-mu2 / (2 * total))

    within = [expected(s, s, 0) for s in (a, b)]
    exact = 1000 * (sum(within) - 2 * expected(a, b, d * shift**2))
    bias = 1000 * sum(1 - w for w in within) / n  # from the pairs a = b
    found = CMMD(sigma).measure(x + shift, RealSet.of(y))["cmmd"]
    assert found.value == pytest.approx(exact + bias, abs=6 * found.error)
    assert found.error < 0.1 * exact


def test_energy_distance_is_that_of_its_definition() -> None:
    x, y = features(9, 1, d=2).double(), features(7, 2, shift=0.3, d=2).double()

    def mean(a: Tensor, b: Tensor, apart: bool = False) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (apart and i == j)]
        return sum(float((a[i] - b[j]).norm()) for i, j in pairs) / len(pairs)

    def energy(a: Tensor) -> float:
        return 2 * mean(a, y) - mean(a, a, True) - mean(y, y, True)

    found = EnergyDistance().measure(x, RealSet.of(y))["energy"]
    assert found.value == pytest.approx(energy(x), rel=1e-5)
    without = torch.tensor([energy(torch.cat([x[:i], x[i + 1 :]])) for i in range(9)])
    h = torch.cdist(x, x)
    h = h - h.mean(dim=0) - h.mean(dim=1, keepdim=True) + h.mean()
    squared = 8 / 9 * (without - without.mean()).square().sum() + 2 / 9**2 * h.square().mean()
    assert found.error == pytest.approx(float(squared.sqrt()), rel=1e-4)
