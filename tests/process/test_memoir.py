"""The identities of the memoir (sections 2–5 and appendices), checked numerically.

Notation: β_i, α_i = 1 − β_i, ᾱ_i = Π α_j, β̃_i = β_i (1 − ᾱ_{i−1}) / (1 − ᾱ_i).
"""

import math

import pytest
import torch
from torch import Tensor

from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import diffuse
from diffusion.process.prediction import Eps
from diffusion.process.schedule import Discrete, linear
from diffusion.process.variance import fixed_large, fixed_small, ratio

T = 1000
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
ALPHA_BAR = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
ROWS = torch.tensor([2, 3, 10, 100, 500, 999, 1000])


@pytest.fixture(scope="module")
def schedule() -> Discrete:
    return linear()


def normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / torch.sqrt(torch.as_tensor(2 * math.pi * variance))


def test_alpha_bar_is_the_product_of_one_minus_beta(schedule: Discrete) -> None:
    alpha, sigma = schedule(torch.arange(T + 1, dtype=torch.float64) / T)
    torch.testing.assert_close(alpha**2, ALPHA_BAR, rtol=1e-11, atol=0)
    torch.testing.assert_close(sigma**2, 1 - ALPHA_BAR, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(schedule.betas(), BETAS, rtol=1e-10, atol=0)


@pytest.mark.parametrize("i", ROWS.tolist())
def test_posterior_matches_bayes_rule_on_a_grid(schedule: Discrete, i: int) -> None:
    """q(x_{i−1} | x_i, x0) ∝ q(x_i | x_{i−1}) q(x_{i−1} | x0), normalized on a grid of x_{i−1}."""
    t, s = torch.tensor(i / T), torch.tensor((i - 1) / T)
    x0, eps = 0.6, -1.3
    x_t = ALPHA_BAR[i].sqrt() * x0 + (1 - ALPHA_BAR[i]).sqrt() * eps

    alpha_s, sigma_s = schedule(s)
    r, _ = ratio(schedule, t, s)
    mean = alpha_s * x0 + sigma_s * r * eps
    variance = fixed_small(schedule, t, s).exp()

    x = mean + variance.sqrt() * torch.linspace(-12, 12, 20001, dtype=torch.float64)
    joint = normal(x_t, torch.sqrt(1 - BETAS[i - 1]) * x, BETAS[i - 1])
    joint = joint * normal(x, ALPHA_BAR[i - 1].sqrt() * x0, 1 - ALPHA_BAR[i - 1])
    bayes = joint / torch.trapezoid(joint, x)
    torch.testing.assert_close(normal(x, mean, variance), bayes, rtol=1e-6, atol=1e-9 * float(bayes.max()))


def test_posterior_of_any_pair_is_that_of_the_respaced_chain(schedule: Discrete) -> None:
    """The step from row i to row j equals that of a chain with β = 1 − ᾱ_i/ᾱ_j, so fewer steps need no new betas."""
    rows = torch.arange(0, T + 1, 50)
    short = Discrete(1 - ALPHA_BAR[rows[1:]] / ALPHA_BAR[rows[:-1]])
    k = torch.arange(len(rows), dtype=torch.float64) / (len(rows) - 1)
    torch.testing.assert_close(short(k), schedule(rows / T), rtol=1e-10, atol=1e-12)
    for variance in (fixed_small, fixed_large):
        torch.testing.assert_close(
            variance(short, k[2:], k[1:-1]), variance(schedule, rows[2:] / T, rows[1:-1] / T), rtol=1e-8, atol=1e-8
        )


def test_posterior_variances_match_the_memoir(schedule: Discrete) -> None:
    i = torch.arange(2, T + 1)
    beta_tilde = BETAS[i - 1] * (1 - ALPHA_BAR[i - 1]) / (1 - ALPHA_BAR[i])
    torch.testing.assert_close(fixed_small(schedule, i / T, (i - 1) / T).exp(), beta_tilde, rtol=1e-9, atol=0)
    torch.testing.assert_close(fixed_large(schedule, i / T, (i - 1) / T).exp(), BETAS[i - 1], rtol=1e-9, atol=0)


def test_posterior_mean_matches_the_memoirs_two_forms(schedule: Discrete) -> None:
    """μ̃ = √ᾱ_{i−1} β_i/(1−ᾱ_i) x0 + √α_i (1−ᾱ_{i−1})/(1−ᾱ_i) x_i = (x_i − β_i/√(1−ᾱ_i) ε)/√α_i."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, T, dtype=torch.float64, generator=generator)
    i = torch.arange(1, T + 1)
    t, s = i / T, (i - 1) / T
    x_t = diffuse(schedule, x0, eps, t)
    alpha_s, sigma_s = schedule(s)
    r, _ = ratio(schedule, t, s)
    mean = alpha_s * x0 + torch.where(s > 0, sigma_s * r, 0) * eps

    beta, bar_t, bar_s = BETAS[i - 1], ALPHA_BAR[i], ALPHA_BAR[i - 1]
    by_x0 = bar_s.sqrt() * beta / (1 - bar_t) * x0 + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * x_t
    by_eps = (x_t - beta / (1 - bar_t).sqrt() * eps) / (1 - beta).sqrt()
    torch.testing.assert_close(mean, by_x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(mean, by_eps, rtol=1e-9, atol=1e-9)


def test_denoiser_solves_for_the_image_and_the_noise(schedule: Discrete) -> None:
    """x0 = (x_t − √(1−ᾱ_t) ε_θ)/√ᾱ_t, where the network is ε_θ. Its label is DDPM's integer i − 1."""
    generator = torch.Generator().manual_seed(2)
    x_t, out = torch.randn(2, len(ROWS), 3, 4, 4, dtype=torch.float64, generator=generator)
    labels = []

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            labels.append(label)
            return out

    estimate = Denoiser(Network(), schedule, Eps())(x_t, ROWS / T)
    bar = ALPHA_BAR[ROWS].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(labels[0], (ROWS - 1).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(estimate.eps, out)
    torch.testing.assert_close(estimate.x0, (x_t - (1 - bar).sqrt() * out) / bar.sqrt())
