import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from diffusion.metric.distances import (
    CMMD,
    FrechetDistance,
    FrechetInfinity,
    KernelDistance,
    Moments,
    frechet,
    frechet_distance,
    mmd2,
)
from diffusion.metric.estimate import Reference, moments
from diffusion.metric.estimate import pool as pooled


class Identity(nn.Identity):
    num_features = 16


def features(n: int, seed: int, shift: float = 0.0, d: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99))
    return (torch.randn(n, d, generator=generator) @ mix + shift).relu()


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(dim=0), x.double().T.cov()


def fd(x: Tensor, y: Tensor) -> float:
    metric = FrechetDistance(Reference.of(y))
    metric.update(x)
    return metric.compute()["fd"].value


def kid(x: Tensor, y: Tensor, **kwargs) -> tuple[float, float, float]:
    metric = KernelDistance(Reference.of(y), **kwargs)
    for batch in x.split(33):
        metric.update(batch)
    found = metric.compute()["kid"]
    return found.value, found.std, found.error


def test_frechet_equals_the_sqrtm_route_torchmetrics_and_torch_fidelity() -> None:
    x, y = features(200, 1), features(300, 2, shift=0.3)
    (m1, s1), (m2, s2) = (tuple(map(np.asarray, statistics(z))) for z in (x, y))
    by_sqrtm = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * scipy.linalg.sqrtm(s1 @ s2).real)
    theirs = FrechetInceptionDistance(feature=Identity())
    theirs.update(x.double(), real=False)
    theirs.update(y.double(), real=True)
    fidelity = fid_statistics_to_metric({"mu": m1, "sigma": s1}, {"mu": m2, "sigma": s2}, verbose=False)
    assert fd(x, y) == pytest.approx(by_sqrtm, rel=1e-8)
    assert fd(x, y) == pytest.approx(float(theirs.compute()), rel=1e-8)
    assert fd(x, y) == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-8)
    assert fd(x, y) == pytest.approx(float(frechet_distance(*statistics(x), *statistics(y))), rel=1e-10)


def test_frechet_of_gaussians_is_the_closed_form() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([3.0, 1.0, 0.5]).double()
    mean = torch.tensor([1.0, -2.0, 0.0]).double()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    exact = 5.0 + float((a - b).square().sum())  # commuting covariances: |μ|² + Σ (a − b)²
    covs = [rotation @ (s**2).diag() @ rotation.T for s in (a, b)]
    assert float(frechet_distance(mean, covs[0], 0 * mean, covs[1])) == pytest.approx(exact, rel=1e-12)
    n = 40_000
    z = torch.randn(2, n, 3, generator=torch.Generator().manual_seed(1)).double()
    sampled = fd(mean + z[0] * a @ rotation.T, z[1] * b @ rotation.T)
    assert sampled == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("n", [8, 200])  # fewer and more than features: covariances of rank 7 and 64
def test_identical_sets_are_at_zero_and_never_below(n: int) -> None:
    for seed in range(10):  # rounding alone would put some of them below
        x = features(n, seed, d=64)
        assert 0 <= fd(x, x) < 1e-10


def test_frechet_of_singular_covariances_is_exact() -> None:
    """Where n < D, the trace of the root is known without any D×D matrix: singular values of the data themselves."""
    x, y = features(20, 1, d=64).double(), features(30, 2, d=64).double()
    cx, cy = x - x.mean(0), y - y.mean(0)
    cross = torch.linalg.svdvals(cx @ cy.T).sum() / math.sqrt(19 * 29)
    exact = (x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum() - 2 * cross
    assert fd(x, y) == pytest.approx(float(exact), rel=1e-10)


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
    whole, *parts = (KernelDistance(Reference.of(y), subsets=5) for _ in range(3))
    sums, *shares = (Moments(16) for _ in range(3))
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
    torch.testing.assert_close(shares[1].compute(), sums.compute(), rtol=1e-10, atol=1e-10)
    merged, expected = parts[1].compute()["kid"], whole.compute()["kid"]
    assert (merged.value, merged.error, merged.std) == pytest.approx(
        (expected.value, expected.error, expected.std), rel=1e-9
    )


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
    square = brute_force_mmd2(x, y[:13])  # of sets of one size, so that leaving one out is known by the definition
    every, others = torch.arange(13)[None], [torch.cat([x[:a], x[a + 1 :]]) for a in (4, 9)]
    own = float(mmd2(x, y[:13], every, every)[0])
    assert own == pytest.approx(square, rel=1e-10)
    between = [
        float(((o @ o.T / 16 + 1) ** 3).fill_diagonal_(0).sum() / 132 - 2 * ((o @ y.T / 16 + 1) ** 3).mean())
        for o in others
    ]
    assert float(without[4] - without[9]) == pytest.approx(between[0] - between[1], rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kernel_distance_agrees_with_torchmetrics() -> None:
    x, y = features(200, 9, shift=0.2), features(200, 10)
    every = torch.arange(200)[None]
    assert float(mmd2(x.double(), y.double(), every, every)[0]) == pytest.approx(
        float(poly_mmd(y.double(), x.double())), rel=1e-10
    )
    torch.manual_seed(0)
    theirs = KernelInceptionDistance(feature=Identity(), subsets=30, subset_size=50)
    theirs.update(x, real=False)
    theirs.update(y, real=True)
    (mean, std, _), (their_mean, their_std) = kid(x, y, subsets=30, subset_size=50), theirs.compute()
    fidelity = kid_features_to_metric(x, y, kid_subsets=30, kid_subset_size=50, rng_seed=0, verbose=False, cuda=False)
    assert mean == pytest.approx(fidelity[KEY_METRIC_KID_MEAN], abs=4 * std / 30**0.5)
    assert float(mean) == pytest.approx(float(their_mean), abs=4 * float(std) / 30**0.5)  # of 30 subsets each
    assert float(std) == pytest.approx(float(their_std), rel=0.5)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_kernel_distance_is_unbiased(shift: float) -> None:
    """Over many draws of 40 from each distribution, values average to that of large sets."""
    drawn = range(40)
    values = [kid(features(40, 5000 + d, shift=shift), features(40, 1000 + d), subsets=40)[0] for d in drawn]
    assert KernelDistance(Reference.of(features(40, 1))).size(40) == 20
    spread = float(np.std(values))
    large, every = [features(1500, 7, shift=shift).double(), features(1500, 8).double()], torch.arange(1500)[None]
    truth = 0.0 if shift == 0 else float(mmd2(*large, every, every)[0])
    assert abs(np.mean(values) - truth) < 3 * spread / math.sqrt(40)


def test_kernel_subsets_are_counted() -> None:
    x, y = features(100, 11, shift=0.1), features(80, 12)

    before = kid(x, y, subsets=10)
    torch.rand(7)  # whatever else the process draws
    assert kid(x, y, subsets=10) == before
    assert kid(x, y, subsets=10, seed=1) != before
    assert kid(x.flip(0), y.roll(3, 0), subsets=10) == pytest.approx(before, rel=1e-9)
    assert before[1] > 0


def test_the_pool_is_bounded_and_ignores_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion.metric.estimate.POOL", 20)
    x = features(50, 13)
    assert pooled(x).shape == (20, 16)
    assert torch.equal(pooled(x), pooled(x.flip(0)))


def test_too_few_features_are_refused() -> None:
    metric = KernelDistance(Reference.of(features(10, 1)))
    metric.update(features(3, 2))
    with pytest.raises(ValueError, match="at least 4"):
        metric.compute()
    one = Moments(16)
    one.update(features(1, 1))
    for compute in (one.compute, lambda: moments(features(1, 1)), lambda: fd(features(1, 1), features(9, 2))):
        with pytest.raises(ValueError, match="at least 2"):
            compute()


def test_frechet_influence_is_the_derivative_by_weight() -> None:
    """Counting an image a little more is repeating all others many times: compare with sets in which that is done."""
    x, reference = features(30, 20).double(), Reference.of(features(50, 21, shift=0.3))
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


def test_frechet_extrapolates_to_infinitely_many_samples() -> None:
    """Of Gaussians whose distance is known, 0: what 150 samples in 16 dimensions have is bias, and it goes."""
    generator, d = torch.Generator().manual_seed(3), 16
    reference = Reference(
        torch.zeros(d).double(), torch.eye(d).double(), torch.randn(20, d, generator=generator), 10**9
    )
    plain, infinite = [], []
    for _ in range(12):
        x = torch.randn(150, d, generator=generator)
        plain.append(frechet(x, reference)[0])
        infinite.append(FrechetInfinity(reference).measure(x)["fd_infinity"].value)
    assert np.mean(plain) > 0.5
    assert abs(np.mean(infinite)) < 0.15 * np.mean(plain)
    with pytest.raises(ValueError, match="at least 20"):
        FrechetInfinity(reference).measure(x[:19])


def test_the_extrapolation_is_exact_where_the_bias_is_b_over_n(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distance of exactly d + b/N at every N has the intercept d, whatever the slope and the number of points."""
    d, b = 3.25, 170.0
    monkeypatch.setattr(
        "diffusion.metric.distances.frechet", lambda x, _: (d + b / len(x), torch.zeros(len(x)).double())
    )
    x = features(200, 1)
    for points in (3, 15):
        found = FrechetInfinity(Reference.of(x), points=points).measure(x)["fd_infinity"]
        assert found.value == pytest.approx(d, abs=1e-9)
        assert found.error == 0


@pytest.mark.parametrize("points", [5, 15])
def test_the_error_of_the_extrapolation_is_the_regressions(points: int) -> None:
    """Far from the reference d² is linear in the mean, with d²'s error 2 |μ1 − μ2| s/√N at every N.

    Means over random subsets of N_j and N_k of the n samples covary as one over n, and over min(N_j, N_k) for j = k. So
    of the intercept Σ_j a_j d²_{N_j} the variance is 4 |μ1 − μ2|² s² (1/n + Σ_j a_j² (1/N_j − 1/n)).
    """
    n, away, s = 4000, 1e4, 3.0
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * s
    reference = Reference(torch.tensor([away, 0.0]).double(), torch.eye(2).double(), x[:4].float(), 10**9)
    sizes = np.linspace(n / 2, n, points).round()
    a = np.linalg.pinv(np.stack([np.ones(points), 1 / sizes], axis=1))[0]  # least squares' intercept
    expected = 2 * away * float(x[:, 0].std()) * math.sqrt(1 / n + (a**2 * (1 / sizes - 1 / n)).sum())
    found = FrechetInfinity(reference, points=points).measure(x)["fd_infinity"].error
    assert found == pytest.approx(expected, rel=0.05)


def cmmd(x: Tensor, y: Tensor, **kwargs) -> float:
    return CMMD(Reference.of(y), **kwargs).measure(x)["cmmd"].value


def test_cmmd_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """1000 (mean k(x, x') + mean k(y, y') − 2 mean k(x, y)), k = exp(−|·|² / 2·10²), pairs with themselves included."""
    monkeypatch.setattr("diffusion.metric.distances.ROWS", 7)
    x, y = 3 * features(20, 1).double(), 3 * features(25, 2).double()

    def k(a: Tensor, b: Tensor) -> float:
        return sum(math.exp(-float((u - v).square().sum()) / 200) for u in a for v in b) / len(a) / len(b)

    assert cmmd(x, y) == pytest.approx(1000 * (k(x, x) + k(y, y) - 2 * k(x, y)), rel=1e-5)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-6)


def test_cmmd_of_gaussians_is_the_closed_form() -> None:
    """E k(x, y) = (σ²/(σ² + a² + b²))^{d/2} exp(−|μ|²/2(σ² + a² + b²)) for N(μ, a² I) and N(0, b² I)."""
    d, n, sigma, a, b, shift = 4, 4000, 2.0, 1.5, 1.0, 0.5
    generator = torch.Generator().manual_seed(5)
    x, y = (s * torch.randn(n, d, generator=generator) for s in (a, b))

    def expected(p: float, q: float, mu2: float) -> float:
        total = sigma**2 + p**2 + q**2
        return (sigma**2 / total) ** (d / 2) * math.exp(-mu2 / (2 * total))

    within = [expected(s, s, 0) for s in (a, b)]
    exact = 1000 * (sum(within) - 2 * expected(a, b, d * shift**2))
    bias = 1000 * sum(1 - w for w in within) / n  # of pairs with themselves
    found = CMMD(Reference.of(y), sigma=sigma).measure(x + shift)["cmmd"]
    assert found.value == pytest.approx(exact + bias, abs=6 * found.error)
    assert found.error < 0.1 * exact
