"""The solvers have their order of convergence, on a Gaussian and on a mixture whose flow is known."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from sampler_cases import COVARIANCE, DETERMINISTIC, MEAN, SCHEDULES, D, as_images
from stand_ins import SharedStream
from torch import Tensor

from diffusion.process import grid
from diffusion.process.oracle import GaussianOracle, MixtureOracle
from diffusion.process.sampler import Sampler


def orders(kind: Callable[..., Sampler], steps: tuple[int, ...], error_of: Callable[[Sampler], float]) -> list[float]:
    """log₂ of the ratio of errors as the steps double. The grid stops before 0, as the last step is of first order."""
    inner_grid = lambda schedule, n: grid.log_snr(schedule, n + 1, sigma_min=0.05, sigma_max=80.0)[:-1]  # noqa: E731
    errors = [error_of(kind(n, grid=inner_grid)) for n in steps]
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


ORDERS = {
    "ddim": (1.0, 1.0), "euler": (1.0, 1.0), "heun": (2.0, 2.0), "heun_flow": (2.0, 2.0), "midpoint": (2.0, 3.0),
    "dpm_1s": (1.0, 1.0), "dpm_2s": (2.0, 2.0), "dpm_2m": (2.0, 2.0), "dpm_3m": (3.0, 3.0), "unipc": (3.0, 3.0),
    "unipc_3": (4.0, 4.0), "adams_bashforth": (2.0, 2.0), "adams_bashforth_3": (3.0, 3.0),
    "adams_bashforth_4": (4.0, 4.0), "dpm_3m_half": (2.0, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("on", ["vp", "edm", "flow", "linear"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_a_gaussian(name: str, on: str) -> None:
    """Against the exact flow. UniPC-p has order p + 1, as its theorem says. The midpoint rule gains an order here."""
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    noise = as_images(torch.cat([torch.zeros(1, D), torch.eye(D)]).double())

    def error_of(sampler: Sampler) -> float:
        times = sampler.grid(oracle.schedule, sampler.steps)
        alpha, sigma = oracle.schedule(times[0])
        exact = oracle.flow(noise * torch.hypot(alpha, sigma), times[0], times[-1])
        return float((sampler(oracle, noise, SharedStream(0)) - exact).abs().max())

    low, high = ORDERS[name]
    assert all(low - 0.2 < order < high + 0.35 for order in orders(DETERMINISTIC[name][0], (128, 256), error_of))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_a_mixture(name: str) -> None:
    """In one dimension the flow preserves quantiles, F_s(x_s) = F_t(x_t), and F is known for a mixture."""
    weights, means, deviations = (torch.tensor(v).double() for v in ([0.3, 0.7], [-0.8, 0.5], [0.3, 0.2]))
    oracle = MixtureOracle(SCHEDULES["vp"], weights, means[:, None], (deviations**2)[:, None, None])
    noise = torch.linspace(-2, 2, 9).double().reshape(-1, 1, 1, 1)

    def quantile(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = oracle.schedule(t)
        z = (x.flatten(1) - alpha * means) / torch.hypot(alpha * deviations, sigma)
        return torch.special.ndtr(z) @ weights

    def error_of(sampler: Sampler) -> float:
        times = sampler.grid(oracle.schedule, sampler.steps)
        start = quantile(noise * torch.hypot(*oracle.schedule(times[0])), times[0])
        return float((quantile(sampler(oracle, noise, SharedStream(0)), times[-1]) - start).abs().max())

    low = ORDERS[name][0]
    assert low - 0.25 < orders(DETERMINISTIC[name][0], (128, 256), error_of)[0] < low + 0.5
