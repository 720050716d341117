"""Every sampler on every schedule, against distributions with known results.

With the optimal denoiser of a Gaussian, a step is affine in x_t and in its noise. So `oracle.sampler_moments` computes
the exact mean and covariance of a sampler's output, without Monte Carlo error. A test compares them with samples.
"""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from sampler_cases import (
    AFFINE,
    ALL,
    COVARIANCE,
    FINE,
    MEAN,
    NONLINEAR,
    SCHEDULES,
    STOCHASTIC,
    D,
    as_images,
)
from stand_ins import SharedStream
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.model import UNet
from diffusion.process import grid, prediction, variance
from diffusion.process.denoiser import Denoise, Denoiser, Estimate
from diffusion.process.oracle import GaussianOracle, MixtureOracle, PointsOracle, sampler_moments
from diffusion.process.sampler import (
    DDIM,
    Ancestral,
    DPMSolver,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
)
from diffusion.randomness import Streams


def sampled(sampler: Sampler, oracle: Denoise, n: int, width: int = D) -> Tensor:
    streams = SharedStream(0)
    return sampler(oracle, streams.normal_like(torch.empty(n, width, 1, 1, dtype=torch.float64)), streams).flatten(1)


def error(mean: Tensor, covariance: Tensor) -> float:
    return max(float((mean - MEAN).abs().max()), float((covariance - COVARIANCE).abs().max()))


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("on", SCHEDULES)
def test_every_sampler_samples_a_gaussian_on_every_schedule(name: str, on: str) -> None:
    kind, steps, stated = AFFINE[name]
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    assert error(*sampler_moments(kind(steps, grid=FINE), oracle)) < stated


@pytest.mark.parametrize("on", SCHEDULES)
def test_probability_flow_samples_a_gaussian(on: str) -> None:
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    sampler = ProbabilityFlow(2, grid=partial(grid.log_snr, sigma_min=1e-3), rtol=1e-7, atol=1e-7)
    basis = as_images(torch.cat([torch.zeros(1, D), torch.eye(D)]).double())
    rows = sampler(oracle, basis, SharedStream(0)).flatten(1)
    G = rows[1:] - rows[0]
    prior = 0.01 if on in ("ve", "edm") else 0.0  # their start N(0, ·) ignores the mean, 0.5 compared with sigma = 50
    assert error(rows[0], G.T @ G) < 1e-3 + prior


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_exact_moments_within_monte_carlo_error(name: str) -> None:
    """Within 4.5 standard errors: the variance of a mean is Σ_ii/n, that of a covariance (Σ_ii Σ_jj + Σ_ij²)/n."""
    kind, _, _ = STOCHASTIC[name]
    n, sampler, oracle = 8000, kind(12, grid=FINE), GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    mean, covariance = sampler_moments(sampler, oracle)
    x = sampled(sampler, oracle, n)
    v = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 4.5 * (v / n).sqrt()).all()
    assert ((x.T.cov() - covariance).abs() < 4.5 * ((torch.outer(v, v) + covariance**2) / n).sqrt()).all()


@pytest.mark.parametrize("on", ["linear", "ve", "flow"])
@pytest.mark.parametrize("predictor", [partial(DDIM, eta=1.0), ReverseDiffusion], ids=["ancestral", "reverse"])
def test_predictor_corrector_samples_a_gaussian(on: str, predictor: Callable[..., Sampler]) -> None:
    """Within 5.5 standard errors plus 0.02 of samples: the steps depend on norms and so are not affine.

    In few dimensions these norms vary so much that the step size is biased. 48 dimensions are enough.
    """
    n, width = 1500, 48
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 14
    mean, covariance = torch.linspace(-0.5, 0.5, width).double(), root @ root.T + 0.05 * torch.eye(width)
    oracle = GaussianOracle(SCHEDULES[on], mean, covariance)
    x = sampled(PredictorCorrector(100, grid=FINE, predictor=predictor, snr=0.1), oracle, n, width)
    v = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 5.5 * (v / n).sqrt() + 0.01).all()
    assert ((x.T.cov() - covariance).abs() < 5.5 * ((torch.outer(v, v) + covariance**2) / n).sqrt() + 0.02).all()


def test_predictor_corrector_takes_no_langevin_step_where_the_score_is_zero() -> None:
    """The output of a new network, and so its score, is zero."""
    new = Denoiser(
        UNet(channels=(8, 16), groups=4, attention=(False, False), blocks=1), SCHEDULES["linear"], prediction.Eps()
    )
    streams = Streams.of(2, "sample")
    assert PredictorCorrector(3)(new, streams.normal(3, 4, 4), streams).isfinite().all()


def test_predictor_corrector_uses_x0_if_its_predictor_does() -> None:
    assert PredictorCorrector(3, predictor=DDIM).uses_x0
    assert not PredictorCorrector(3).uses_x0


@pytest.mark.parametrize(
    ("name", "on"), zip(AFFINE | {"probability_flow": NONLINEAR["probability_flow"]}, list(SCHEDULES) * 3, strict=False)
)
def test_every_sampler_recovers_a_mixture(name: str, on: str) -> None:
    """The Kolmogorov–Smirnov distance of n samples to the exact distribution, per axis, is below 2.2/√n + 0.02."""
    kind, steps, _ = ALL[name]
    means = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7]]).double()
    spread = torch.tensor([[[0.04, 0.02], [0.02, 0.04]], [[0.02, 0.0], [0.0, 0.06]], [[0.01, 0.0], [0.0, 0.01]]])
    weights, n = torch.tensor([0.5, 0.3, 0.2]).double(), 3000
    x = sampled(kind(steps, grid=FINE), MixtureOracle(SCHEDULES[on], weights, means, spread.double()), n, 2)
    for axis in range(2):
        z = (x[:, axis].sort().values[:, None] - means[:, axis]) / spread.double()[:, axis, axis].sqrt()
        distance = (torch.special.ndtr(z) @ weights - (torch.arange(n) + 0.5) / n).abs().max()
        assert distance < 2.2 / math.sqrt(n) + 0.02


@pytest.mark.parametrize(("name", "on"), zip(ALL, list(SCHEDULES)[3:] * 3, strict=False))
def test_every_sampler_recovers_points(name: str, on: str) -> None:
    """Samples land on the points, equally often on each: within 4.5 standard errors of a share plus 0.03."""
    kind, steps, _ = ALL[name]
    points = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7], [-0.5, 0.9]]).double()
    n = 2000
    x = sampled(kind(steps, grid=FINE), PointsOracle(SCHEDULES[on], points), n, 2)
    distance, nearest = torch.cdist(x, points).min(1)
    assert distance.quantile(0.99) < 0.02
    share = nearest.bincount(minlength=4) / n
    assert ((share - 0.25).abs() < 4.5 * math.sqrt(0.25 * 0.75 / n) + 0.03).all()


class OracleDenoiser(Denoiser):
    """A denoiser whose network predicts y = a x0 + b eps with the oracle's x0 and eps."""

    def __init__(self, oracle: GaussianOracle, kind: prediction.Prediction):
        super().__init__(nn.Identity(), oracle.schedule, kind)
        self.oracle = oracle

    def output(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        estimate = self.oracle(x_t, t)
        a, b = (c.reshape(-1, 1, 1, 1) for c in self.prediction.weights(self.schedule, t))
        return a * estimate.x0 + b * estimate.eps, None


@pytest.mark.parametrize("on", SCHEDULES)
@pytest.mark.parametrize("kind", [prediction.Eps, prediction.X0, prediction.V, prediction.Velocity, prediction.EDM])
def test_samples_do_not_depend_on_the_prediction(kind: type, on: str) -> None:
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    if kind is prediction.Eps and on in ("zero_snr", "flow", "flow_shifted"):
        with pytest.raises(UserError, match=r"zero terminal SNR.*use prediction=v"):
            OracleDenoiser(oracle, kind())
        return
    if kind in (prediction.V, prediction.Velocity) and on in ("ve", "edm"):
        return  # rejected, see test_prediction.py
    denoiser = OracleDenoiser(oracle, kind())
    noise = as_images(torch.linspace(-1, 1, 6).double().reshape(2, D))
    for sampler in (DPMSolver(20, grid=FINE), Heun(20, grid=FINE), DDIM(20, grid=FINE, eta=1.0)):
        predicted, direct = (sampler(each, noise, SharedStream(1)) for each in (denoiser, oracle))
        torch.testing.assert_close(predicted, direct, rtol=0, atol=1e-6)


def test_a_learned_variance_lies_between_the_fixed_ones() -> None:
    """Per pixel, spread −1 is the small variance and +1 the large one. A network without a spread is rejected."""
    oracle = GaussianOracle(SCHEDULES["linear"], MEAN, COVARIANCE)

    class Spread(nn.Module):
        schedule = oracle.schedule

        def forward(self, x: Tensor, t: Tensor) -> Estimate:
            return oracle(x, t)._replace(spread=torch.tensor([-1.0, 1.0, -1.0]).expand(len(x), D).reshape(x.shape))

    noise = as_images(torch.linspace(-1, 1, 6).double())
    small, large, learned = (
        Ancestral(1, grid=lambda schedule, n: torch.tensor([0.5, 0.4]), variance=choice)(
            Spread(), noise, SharedStream(3)
        ).flatten(1)
        for choice in (variance.fixed_small, variance.fixed_large, variance.learned_range)
    )
    torch.testing.assert_close(learned, torch.stack([small[:, 0], large[:, 1], small[:, 2]], dim=1))
    with pytest.raises(UserError, match="no output channels for the variance"):
        Ancestral(10, variance=variance.learned_range)(oracle, noise, SharedStream(3))
