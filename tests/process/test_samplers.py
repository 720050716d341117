"""Samplers against distributions with known results, their orders of convergence, and properties of the shared loop.

With the optimal denoiser of a Gaussian, a step is affine in x_t and in its noise. So `oracle.sampler_moments` computes
the exact mean and covariance of a sampler's output, without Monte Carlo error.
"""

import math
from functools import partial
from itertools import cycle

import pytest
import torch
from sampler_cases import ALL, COVARIANCE, DETERMINISTIC, FINE, MEAN, SCHEDULES, STOCHASTIC, D, as_images
from stand_ins import SharedStream
from torch import Tensor

from diffusion.process import grid
from diffusion.process.denoiser import clip
from diffusion.process.sampler import PredictorCorrector, Sampler
from diffusion.randomness import Streams
from tests.support.oracle import GaussianOracle, MixtureOracle, sampler_moments

VP = SCHEDULES["vp"]


def gaussian(on: str = "vp") -> GaussianOracle:
    return GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)


def error(mean: Tensor, covariance: Tensor) -> float:
    return max(float((mean - MEAN).abs().max()), float((covariance - COVARIANCE).abs().max()))


@pytest.mark.parametrize(("name", "on"), zip(STOCHASTIC, cycle(("linear", "ve", "flow_shifted")), strict=False))
def test_stochastic_samplers_have_the_moments_of_a_gaussian(name: str, on: str) -> None:
    kind, steps, stated = STOCHASTIC[name]
    assert error(*sampler_moments(kind(steps, grid=FINE), gaussian(on))) < stated


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_a_mixture(name: str) -> None:
    """In one dimension the flow preserves quantiles, F_s(x_s) = F_t(x_t), and F is known for a mixture.

    The grid stops before 0, as the last step is of first order.
    """
    weights, means, deviations = (torch.tensor(v).double() for v in ([0.3, 0.7], [-0.8, 0.5], [0.3, 0.2]))
    oracle = MixtureOracle(VP, weights, means[:, None], (deviations**2)[:, None, None])
    noise = torch.linspace(-2, 2, 9).double().reshape(-1, 1, 1, 1)

    def quantile(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = oracle.schedule(t)
        z = (x.flatten(1) - alpha * means) / torch.hypot(alpha * deviations, sigma)
        return torch.special.ndtr(z) @ weights

    def error_of(sampler: Sampler) -> float:
        times = sampler.grid(oracle.schedule, sampler.steps)
        start = quantile(noise * torch.hypot(*oracle.schedule(times[0])), times[0])
        return float((quantile(sampler(oracle, noise, SharedStream(0)), times[-1]) - start).abs().max())

    inner_grid = lambda schedule, n: grid.log_snr(schedule, n + 1, sigma_min=0.05, sigma_max=80.0)[:-1]  # noqa: E731
    kind, order = DETERMINISTIC[name]
    few, many = (error_of(kind(n, grid=inner_grid)) for n in (128, 256))
    assert order - 0.25 < math.log2(few / many) < order + 0.5


# The loop


def test_an_image_depends_only_on_its_seed() -> None:
    means = torch.randn(5, D, generator=torch.Generator().manual_seed(0)) / 2
    oracle = MixtureOracle(VP, torch.full((5,), 0.2), means, COVARIANCE.expand(5, D, D) / 4)

    def images(*seeds: int) -> Tensor:
        streams = Streams(seeds)
        return PredictorCorrector(6, FINE, snr=0.1)(oracle, streams.normal(D, 1, 1, dtype=torch.float64), streams)

    torch.testing.assert_close(images(9, 8, 6, 5)[2], images(6)[0], rtol=0, atol=1e-9)
    assert (images(5) - images(6)).abs().max() > 0.1


EVALUATIONS = {
    "heun": 19, "heun_flow": 19, "heun_churn": 19, "midpoint": 20, "dpm_2s": 19, "dpm_2s_ancestral": 19
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_evaluations_are_counted_and_a_threshold_bounds_every_estimate(name: str) -> None:
    oracle, seen, noise = gaussian(), [], torch.full((2, D, 1, 1), 2.0)
    sampler = ALL[name](10, grid=FINE, threshold=partial(clip, limit=0.2))
    x = sampler(oracle, noise, SharedStream(0), watch=lambda *now: seen.append(now))
    assert oracle.calls == EVALUATIONS.get(name, 10)
    assert [k for k, *_ in seen] == [*range(1, 11)]
    assert seen[-1][1] is x
    assert max(float(estimate.x0.abs().max()) for *_, estimate in seen) < 0.2001
    assert x.abs().max() < 0.25


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm_2m"])
def test_a_start_continues_a_trajectory(name: str) -> None:
    """From x after 2 of 6 steps, the other 4, numbered as before; a multistep solver restarts at order 1."""
    sampler, states, seen = ALL[name](6, grid=FINE), {}, {}
    noise = as_images(torch.linspace(-1, 1, 6).double())
    whole = sampler(gaussian(), noise, SharedStream(0), lambda k, x, estimate: states.update({k: x}))
    start = float(FINE(VP, 6)[2]) * (1 + 1e-7)  # a time that differs by rounding replaces the grid's
    x = sampler(gaussian(), states[2], SharedStream(0), lambda k, x, estimate: seen.update({k: x}), start)
    assert [*seen] == [3, 4, 5, 6]
    torch.testing.assert_close(x, whole, rtol=0, atol=1e-6 if name != "dpm_2m" else 0.2)
