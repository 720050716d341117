"""Posterior variances, the learned range and the KL divergence of Gaussians."""

import math

import pytest
import torch
from torch import Tensor

from diffusion.process.schedule import VP, Discrete, Flow, linear
from diffusion.process.variance import fixed_large, fixed_small, forward_variance, gaussian_kl, learned_range, ratio

TABLE = linear()
BETAS = TABLE.betas()


@pytest.mark.parametrize(("m1", "v1", "m2", "v2"), [(0.3, 0.5, -0.4, 0.8), (0, 1e-2, 0.05, 2e-2), (1, 2, 1, 2)])
def test_kl_matches_its_integral(m1: float, v1: float, m2: float, v2: float) -> None:
    x = m1 + math.sqrt(v1) * torch.linspace(-14, 14, 200_001, dtype=torch.float64)
    log1 = -((x - m1) ** 2) / (2 * v1) - math.log(2 * math.pi * v1) / 2
    log2 = -((x - m2) ** 2) / (2 * v2) - math.log(2 * math.pi * v2) / 2
    integral = torch.trapezoid(log1.exp() * (log1 - log2), x)
    ours = gaussian_kl(*torch.tensor([m1 - m2, math.log(v1), math.log(v2)], dtype=torch.float64))
    torch.testing.assert_close(ours, integral, rtol=1e-8, atol=1e-12)


def test_ratio_matches_its_definition_and_keeps_precision() -> None:
    """r = alpha_t sigma_s/(alpha_s sigma_t); 1 − r² stays accurate where the subtraction would lose precision."""
    t, s = torch.tensor([0.2, 0.5, 0.9]).double(), torch.tensor([0.1, 0.499, 0.05]).double()
    for schedule in (TABLE, VP(), Flow()):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        r, rest = ratio(schedule, t, s)
        torch.testing.assert_close(r, alpha_t * sigma_s / (alpha_s * sigma_t))
        torch.testing.assert_close(rest, 1 - r**2)
    h = 1e-12
    t, s = torch.tensor([0.5 + h, 0.5], dtype=torch.float64)
    _, rest = ratio(VP(), t, s)
    rate = float(VP().log_snr_rate(s))
    assert abs(float(rest) / (-rate * h) - 1) < 1e-2


def test_variances_of_the_last_step_match_ddpms_code() -> None:
    """Both fixed variances are β̃_2 there; the learned range ends at β_1, as in Improved DDPM's code."""
    t, s = torch.tensor([1e-3, 2e-3]).double(), torch.tensor([0, 1e-3]).double()
    assert fixed_small(TABLE, t, s)[0] == fixed_small(TABLE, t, s)[1]
    assert fixed_small(VP(), torch.ones(()).double(), torch.zeros(()).double()).isfinite()
    torch.testing.assert_close(fixed_large(TABLE, t, s), torch.stack([fixed_small(TABLE, t, s)[0], BETAS[1].log()]))
    torch.testing.assert_close(forward_variance(TABLE, t, s), BETAS[:2].log())


def test_posterior_of_any_pair_is_that_of_the_respaced_chain() -> None:
    """The step from row i to row j equals that of a chain with β = 1 − ᾱ_i/ᾱ_j, so fewer steps need no new betas."""
    rows, bar = torch.arange(0, 1001, 50), torch.cat([torch.ones(1).double(), (1 - BETAS).cumprod(0)])
    short = Discrete(1 - bar[rows[1:]] / bar[rows[:-1]])
    k = torch.arange(len(rows), dtype=torch.float64) / (len(rows) - 1)
    torch.testing.assert_close(short(k), TABLE(rows / 1000), rtol=1e-10, atol=1e-12)
    for variance in (fixed_small, fixed_large):
        torch.testing.assert_close(
            variance(short, k[2:], k[1:-1]), variance(TABLE, rows[2:] / 1000, rows[1:-1] / 1000), rtol=1e-8, atol=1e-8
        )


def test_learned_range_interpolates_the_logarithms() -> None:
    t, s = torch.tensor([0.3, 0.001]).double(), torch.tensor([0.2, 0.0]).double()
    shape = (2, 3, 4, 4)
    small, large = fixed_small(TABLE, t, s), forward_variance(TABLE, t, s)

    def learned(value: float) -> Tensor:
        return learned_range(TABLE, t, s, torch.full(shape, float(value)))

    assert learned(0).shape == shape
    for value, expected in ((-1, small), (1, large), (0, (small + large) / 2), (0.5, 0.25 * small + 0.75 * large)):
        torch.testing.assert_close(learned(value), expected.float().reshape(2, 1, 1, 1).expand(shape))
