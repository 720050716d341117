"""The identities of the memoir (sections 2–5 and appendices), checked numerically.

Notation: β_i, α_i = 1 − β_i, ᾱ_i = Π α_j, β̃_i = β_i (1 − ᾱ_{i−1}) / (1 − ᾱ_i).
"""

import pytest
import torch
from torch import Tensor

from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.schedule import Discrete, linear
from diffusion.process.variance import fixed_large, fixed_small

T = 1000
BETAS = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
ALPHA_BAR = torch.cat([torch.ones(1, dtype=torch.float64), (1 - BETAS).cumprod(0)])
ROWS = torch.tensor([2, 3, 10, 100, 500, 999, 1000])


@pytest.fixture(scope="module")
def schedule() -> Discrete:
    return linear()


def test_alpha_bar_is_the_product_of_one_minus_beta(schedule: Discrete) -> None:
    alpha, sigma = schedule(torch.arange(T + 1, dtype=torch.float64) / T)
    torch.testing.assert_close(alpha**2, ALPHA_BAR, rtol=1e-11, atol=0)
    torch.testing.assert_close(sigma**2, 1 - ALPHA_BAR, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(schedule.betas(), BETAS, rtol=1e-10, atol=0)


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
