"""Bits per dimension against closed forms, for Gaussian data with known optimal denoiser and density."""

import math

import pytest
import torch
from torch import Tensor
from torch.special import ndtr

from diffusion.process.likelihood import flow_likelihood, log_decoder, variational_bound
from diffusion.process.schedule import EDM, VP, Flow, Schedule, SubVP, linear
from diffusion.process.variance import fixed_large, fixed_small
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle

LEVELS = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1
MEAN, STD = -0.2, 0.25  # of the pixels: all but 3 in 10,000 lie within [−1, 1]


def gaussian_images(n: int, size: int = 4, seed: int = 0) -> Tensor:
    """(n, 1, size, size) samples of N(MEAN, STD²), rounded to 8-bit levels."""
    generator = torch.Generator().manual_seed(seed)
    x = MEAN + STD * torch.randn(n, 1, size, size, dtype=torch.float64, generator=generator)
    return LEVELS[((x.clamp(-1, 1) + 1) / 2 * 255).round().long()]


def oracle(schedule: Schedule, size: int = 16) -> GaussianOracle:
    return GaussianOracle(schedule, torch.full((size,), MEAN), STD**2 * torch.eye(size, dtype=torch.float64))


def true_bits(x0: Tensor) -> Tensor:
    """(B,) −log₂ of the probability of each level under N(MEAN, STD²), per dimension."""
    low, high = ((x0 + edge - MEAN) / STD for edge in (-1 / 255, 1 / 255))
    return -(ndtr(high) - ndtr(low)).log2().flatten(1).mean(dim=1)


def test_decoder_probabilities_sum_to_one() -> None:
    """This requires δ₋ = −∞ at the lowest level and δ₊ = ∞ at the highest."""
    for mean, std in ((-1.3, 0.004), (-1.0, 2.0), (-0.21, 0.05), (1.0, 0.05)):
        masses = log_decoder(LEVELS, torch.tensor(mean), torch.tensor(2 * math.log(std))).exp()
        assert abs(float(masses.sum()) - 1) < 1e-12


def test_decoder_is_accurate_in_the_tails_and_in_float32() -> None:
    std = 0.05
    x = LEVELS[[0, 100, 255]]
    low, high = (x - 1 / 255).tolist(), (x + 1 / 255).tolist()
    low[0], high[2] = -math.inf, math.inf

    def phi(z: float) -> float:
        return math.erfc(-z / std / math.sqrt(2)) / 2

    masses = log_decoder(x, *torch.tensor([-0.3, 2 * math.log(std)], dtype=torch.float64)).exp()
    expected = [phi(b + 0.3) - phi(a + 0.3) for a, b in zip(low, high, strict=True)]
    torch.testing.assert_close(masses[:2], torch.tensor(expected[:2], dtype=torch.float64), rtol=1e-9, atol=0)
    far = log_decoder(LEVELS[:255].float(), torch.tensor(1.0), torch.tensor(2 * math.log(0.01)))
    mirrored = log_decoder(-LEVELS[:255].float(), torch.tensor(-1.0), torch.tensor(2 * math.log(0.01)))
    assert far.isfinite().all()
    torch.testing.assert_close(far, mirrored)  # the upper tail is as accurate as the lower one


@pytest.mark.parametrize("variance", [fixed_small, fixed_large])
def test_every_term_of_the_variational_bound_matches_its_closed_form(variance) -> None:  # type: ignore[no-untyped-def]
    """The expectation of every term over x_t, for x0_θ = m + g (x_t − alpha m) with the optimal gain g.

    The mean squared error of x0_θ is (1 − g alpha)² (x0 − m)² + g² sigma².
    """
    table, n = linear(100, 1e-3, 0.2), 256
    x0 = gaussian_images(n)
    found, terms = variational_bound(oracle(table), x0, Streams(range(n)), steps=100, variance=variance)
    beta, bar = table.betas(), torch.cat([torch.ones(1).double(), (1 - table.betas()).cumprod(0)])
    gain = bar[1:].sqrt() * STD**2 / (bar[1:] * STD**2 + 1 - bar[1:])
    deviation = (x0 - MEAN).square().mean()
    error = (1 - gain * bar[1:].sqrt()) ** 2 * deviation + gain**2 * (1 - bar[1:])
    factor = bar[:-1].sqrt() * beta / (1 - bar[1:])
    beta_tilde = beta * (1 - bar[:-1]) / (1 - bar[1:])
    p_variance = beta_tilde if variance is fixed_small else beta  # except in the decoder, below
    ratio = beta_tilde / p_variance
    nats = (ratio - 1 - ratio.log() + factor**2 * error / p_variance) / 2
    bits = terms.mean(dim=0)
    torch.testing.assert_close(
        bits[1:], nats[1:] / math.log(2), rtol=0.12, atol=0
    )  # 4 deviations of a mean of 4096 squares
    torch.testing.assert_close(bits[1:].sum(), nats[1:].sum() / math.log(2), rtol=0.02, atol=0)

    prior = (bar[-1] * x0**2 + (1 - bar[-1]) - 1 - torch.log1p(-bar[-1])) / 2
    torch.testing.assert_close(found, prior.flatten(1).mean(dim=1) / math.log(2), rtol=1e-6, atol=1e-12)

    z = torch.linspace(-7, 7, 1401, dtype=torch.float64)  # L_0 by quadrature over x_1
    weight = torch.exp(-(z**2) / 2) / torch.exp(-(z**2) / 2).sum()
    estimate = MEAN + gain[0] * (bar[1].sqrt() * (LEVELS[:, None] - MEAN) + (1 - bar[1]).sqrt() * z)
    std = beta_tilde[1].sqrt()
    mass = ndtr((LEVELS[:, None] + 1 / 255 - estimate) / std) - ndtr((LEVELS[:, None] - 1 / 255 - estimate) / std)
    level = ((x0 + 1) / 2 * 255).round().long()
    first = -(weight * mass.clamp(min=1e-300).log2()).sum(dim=1)[level].mean()
    torch.testing.assert_close(bits[0], first, rtol=0.03, atol=0)


@pytest.mark.parametrize("schedule", [SubVP(), linear(), Flow(), EDM()], ids=["sub_vp", "linear", "flow", "edm"])
def test_flow_likelihood_matches_the_gaussian_density(schedule: Schedule) -> None:
    """With equal variances, Hutchinson's estimator has no noise, so the value of every single image must be right."""
    n, size = 16, 8
    x0 = gaussian_images(n, size)
    bits = flow_likelihood(oracle(schedule, size**2), x0, Streams(range(n)))
    torch.testing.assert_close(bits, true_bits(x0), rtol=0, atol=0.01)  # the noise of dequantisation
    torch.testing.assert_close(bits.mean(), true_bits(x0).mean(), rtol=0, atol=1e-3)


def test_hutchinsons_estimator_is_unbiased_for_correlated_pixels() -> None:
    n, size = 200, 2
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(4, 4, dtype=torch.float64, generator=generator) * 0.1 + 0.1 * torch.eye(4)
    covariance, mean = root @ root.T + 0.002 * torch.eye(4), torch.zeros(4).double()
    x = torch.randn(1, 4, dtype=torch.float64, generator=generator) @ torch.linalg.cholesky(covariance).T
    x0 = LEVELS[((x + 1) / 2 * 255).round().long()].reshape(1, 1, size, size)
    bits = flow_likelihood(GaussianOracle(VP(), mean, covariance), x0.expand(n, 1, 2, 2), Streams(range(n)))
    density = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x0.flatten())
    expected = -density / (4 * math.log(2)) - math.log2(2 / 255)
    assert bits.std() > 1e-3
    assert abs(float(bits.mean() - expected)) < 4 * float(bits.std()) / math.sqrt(n) + 2e-3
