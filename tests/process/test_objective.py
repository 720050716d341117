"""Training objectives."""

import pytest
import torch
from torch import Tensor

from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Simple, diffuse, eps_error
from diffusion.process.oracle import GaussianOracle
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.randomness import Streams


class Constant(torch.nn.Module):
    """A network that answers a fixed number."""

    def __init__(self, value: float = 0.0):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.value.expand_as(x)


def test_simple_of_a_zero_network_is_the_noise_power() -> None:
    denoiser = Denoiser(Constant(), linear(), Eps())
    result = Simple()(denoiser, torch.rand(64, 3, 8, 8), Streams(range(64)))
    eps_power = result["mse"].detach()
    assert eps_power.shape == (64,)
    assert abs(eps_power.mean() - 1) < 5 * (2 / (64 * 192)) ** 0.5
    torch.testing.assert_close(result["loss"], result["mse"])


def test_simple_depends_on_the_example_seed_alone() -> None:
    denoiser, x0 = Denoiser(Constant(0.3), linear(), Eps()), torch.rand(4, 3, 8, 8)
    together = Simple()(denoiser, x0, Streams([5, 6, 7, 8]))
    alone = Simple()(denoiser, x0[2:3], Streams([7]))
    torch.testing.assert_close(alone["loss"], together["loss"][2:3], rtol=0, atol=0)
    assert alone["t"] == together["t"][2]


def test_eps_error_of_the_oracle_is_the_known_least() -> None:
    """For x0 ~ N(0, v): the least E(eps − eps_θ)² is 1 − sigma²/(alpha² v + sigma²) = alpha² v/(alpha² v + sigma²)."""
    schedule, v, n = linear(), 0.3, 20_000
    generator = torch.Generator().manual_seed(0)
    x0 = v**0.5 * torch.randn(n, 1, dtype=torch.float64, generator=generator)
    eps = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    oracle = GaussianOracle(schedule, torch.zeros(1), torch.tensor([[v]]))
    for t in (0.05, 0.3, 0.8):
        alpha, sigma = schedule(torch.tensor(t, dtype=torch.float64))
        least = alpha**2 * v / (alpha**2 * v + sigma**2)
        error = eps_error(oracle, x0, eps, torch.full((n,), t, dtype=torch.float64)).mean()
        assert abs(error / least - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("t", [0.001, 0.5, 1.0])
def test_diffuse_is_the_forward_process(t: float) -> None:
    schedule = linear()
    x0, eps = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    alpha, sigma = schedule(torch.tensor([t], dtype=torch.float64))
    expected = (alpha * x0 + sigma * eps).float()
    torch.testing.assert_close(diffuse(schedule, x0, eps, torch.full((2,), t)), expected, rtol=1e-5, atol=1e-6)
