import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from diffusion.metric.distances import FrechetDistance, KernelDistance, Moments, frechet_distance, mmd2
from diffusion.metric.distances import pool as pooled


class Identity(nn.Identity):
    num_features = 16


def features(n: int, seed: int, shift: float = 0.0, d: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return (torch.randn(n, d, generator=generator) @ mix + shift).relu()


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(dim=0), x.double().T.cov()


def frechet(x: Tensor, y: Tensor) -> float:
    metric = FrechetDistance(*statistics(y))
    metric.update(x)
    return float(metric.compute())


def test_frechet_equals_the_sqrtm_route_and_torchmetrics() -> None:
    x, y = features(200, 1), features(300, 2, shift=0.3)
    (m1, s1), (m2, s2) = (tuple(map(np.asarray, statistics(z))) for z in (x, y))
    by_sqrtm = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    theirs = FrechetInceptionDistance(feature=Identity())
    theirs.update(x.double(), real=False)
    theirs.update(y.double(), real=True)
    assert frechet(x, y) == pytest.approx(by_sqrtm, rel=1e-8)
    assert frechet(x, y) == pytest.approx(float(theirs.compute()), rel=1e-8)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    mean = torch.tensor([1.0, -2.0, 0.0]).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    exact = 5.0 + float((a - b).square().sum())  # commuting covariances: |μ|² + Σ (a − b)²
    covs = [rotation @ (s**2).diag() @ rotation.T for s in (a, b)]
    assert float(frechet_distance(mean, covs[0], 0 * mean, covs[1])) == pytest.approx(exact, rel=1e-12)
    n = 40_000
    z = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(1)).double()
    sampled = frechet(mean + z[0] * a @ rotation.T, z[1] * b @ rotation.T)
    assert sampled == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("n", [8, 200])  # fewer and more than features: covariances of rank 7 and 64
def test_identical_sets_are_at_zero_and_never_below(n: int) -> None:
    for seed in range(10):  # rounding alone would put some of them below
        x = features(n, seed, d=64)
        assert 0 <= frechet(x, x) < 1e-10


def test_frechet_of_singular_covariances_is_exact() -> None:
    """Where n < D, the trace of the root is known without any D×D matrix: singular values of the data themselves."""
    x, y = features(20, 1, d=64).double(), features(30, 2, d=64).double()
    cx, cy = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.svdvals(cx @ cy.T).sum() / math.sqrt(19 * 29)
    exact = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross
    assert frechet(x, y) == pytest.approx(float(exact), rel=1e-7)


@pytest.mark.parametrize("sizes", [[37], [1] * 37, [16, 16, 5], [30, 7]])
def test_moments_do_not_depend_on_batches(sizes: list[int]) -> None:
    x = features(37, 3)
    metric = Moments(16)
    for batch in x.split(sizes):
        metric.update(batch)
    mean, cov = metric.compute()
    assert int(metric.count) == 37
    assert mean.dtype == cov.dtype == torch.float64
    torch.testing.assert_close(mean, statistics(x)[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(cov, statistics(x)[1], rtol=1e-11, atol=1e-12)


def test_moments_are_float64_where_float32_would_cancel() -> None:
    x = features(50, 4) + 1000.0
    metric = Moments(16)
    metric.update(x)
    torch.testing.assert_close(metric.compute()[1], statistics(x)[1], rtol=1e-6, atol=1e-7)


def test_states_reduce_over_devices() -> None:
    """What torchmetrics does in a distributed run: sums of sums, and concatenated features, in whatever order."""
    x, y = features(300, 5, shift=0.5), features(200, 6)
    whole, *parts = (KernelDistance(y, subsets=5) for _ in range(3))
    sums, *shares = (FrechetDistance(*statistics(y)) for _ in range(3))
    for metric in (whole, sums):
        metric.update(x)
    for metrics in (parts, shares):
        metrics[0].update(x[1::3])
        metrics[0].update(x[2::3])
        metrics[1].update(x[0::3])
        for name, reduction in metrics[1]._reductions.items():
            both = [getattr(m, name) for m in metrics]
            both = [torch.cat(b) if isinstance(b, list) else b for b in both]
            merged = reduction(both if reduction.__name__.endswith("cat") else torch.stack(both))
            setattr(metrics[1], name, merged)
    assert int(shares[1].count) == 300
    assert float(shares[1].compute()) == pytest.approx(float(sums.compute()), rel=1e-10)
    assert [*map(float, parts[1].compute())] == pytest.approx([*map(float, whole.compute())], rel=1e-9)


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
    assert mmd2(x, y, i, j).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kernel_distance_agrees_with_torchmetrics() -> None:
    x, y = features(200, 9, shift=0.2), features(200, 10)
    every = torch.arange(200)[None]
    assert float(mmd2(x.double(), y.double(), every, every)) == pytest.approx(
        float(poly_mmd(y.double(), x.double())), rel=1e-10
    )
    torch.manual_seed(0)
    theirs = KernelInceptionDistance(feature=Identity(), subsets=30, subset_size=50)
    theirs.update(x, real=False)
    theirs.update(y, real=True)
    ours = KernelDistance(y, subsets=30, subset_size=50)
    ours.update(x)
    (mean, std), (their_mean, their_std) = ours.compute(), theirs.compute()
    assert float(mean) == pytest.approx(float(their_mean), abs=4 * float(std) / 30**0.5)  # of 30 subsets each
    assert float(std) == pytest.approx(float(their_std), rel=0.5)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 1.0, 2.5), (1.5, 0.6, 1.5)])
def test_kernel_distance_is_unbiased_with_its_standard_error(shift: float, low: float, high: float) -> None:
    """Over many draws of 40 from each distribution, values average to that of large sets, and spread as they say."""
    values, stds = [], []
    for draw in range(40):
        metric = KernelDistance(features(40, 1000 + draw), subsets=40)
        metric.update(features(40, 5000 + draw, shift=shift))
        assert metric.size(40) == 20
        mean, std = metric.compute()
        values.append(float(mean))
        stds.append(float(std))
    spread = float(np.std(values))
    large, every = [features(1500, 7, shift=shift).double(), features(1500, 8).double()], torch.arange(1500)[None]
    truth = 0.0 if shift == 0 else float(mmd2(*large, every, every))
    assert abs(np.mean(values) - truth) < 3 * spread / math.sqrt(40)
    assert low < np.mean(stds) / spread < high


def test_kernel_subsets_are_counted() -> None:
    x, y = features(100, 11, shift=0.1), features(80, 12)

    def kid(seed: int, x: Tensor = x, y: Tensor = y) -> tuple[float, ...]:
        metric = KernelDistance(y, subsets=10, seed=seed)
        for batch in x.split(33):
            metric.update(batch)
        return tuple(map(float, metric.compute()))

    before = kid(0)
    torch.rand(7)  # whatever else the process draws
    assert kid(0) == before
    assert kid(1) != before
    assert kid(0, x=x.flip(0), y=y.roll(3, 0)) == pytest.approx(before, rel=1e-9)
    assert kid(0)[1] > 0


def test_the_pool_is_bounded_and_ignores_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion.metric.distances.POOL", 20)
    x = features(50, 13)
    assert pooled(x).shape == (20, 16)
    assert torch.equal(pooled(x), pooled(x.flip(0)))


def test_too_few_features_are_refused() -> None:
    metric = KernelDistance(features(10, 1))
    metric.update(features(3, 2))
    with pytest.raises(ValueError, match="at least 4"):
        metric.compute()
    moments = Moments(16)
    moments.update(features(1, 1))
    with pytest.raises(ValueError, match="at least 2"):
        moments.compute()
