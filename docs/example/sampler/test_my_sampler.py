import pytest
import torch
from my_sampler import MySampler

from diffusion.process.denoiser import Estimate
from diffusion.process.schedule import Flow, linear
from diffusion.randomness import Streams


class Gaussian:
    """The best denoiser for pixels from N(0.3, 0.5²): E[x0 | x_t], and ε from x_t = alpha x0 + sigma ε."""

    def __init__(self, schedule):
        self.schedule = schedule

    def __call__(self, x_t, t):
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in self.schedule(t))
        x0 = 0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x_t - alpha * 0.3)
        return Estimate(x0, (x_t - alpha * x0) / sigma)


@pytest.mark.parametrize("schedule", [Flow(), linear()])
def test_it_reaches_the_moments_of_a_gaussian_and_halves_its_error_with_twice_the_steps(schedule):
    streams = Streams.of(16, "test")
    noise = streams.normal(3, 8, 8, dtype=torch.float64)
    noise, errors = (noise - noise.mean()) / noise.std(), []
    for steps in (50, 100):
        x = MySampler(steps)(Gaussian(schedule), noise, streams)
        errors.append(abs(x.std() - 0.5))
        assert x.mean() == pytest.approx(0.3, abs=0.01)
    assert errors[0] < 0.03
    assert errors[1] < 0.6 * errors[0]
