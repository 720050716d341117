import pytest
import torch
from my_objective import MyObjective

from diffusion.process.denoiser import Denoiser
from diffusion.process.prediction import Eps
from diffusion.process.schedule import linear
from diffusion.randomness import Streams


class Scaled(torch.nn.Module):
    """y_θ = w x_t."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, label):
        return self.w * x


def test_it_is_quadratic_for_small_errors_and_linear_for_large_ones():
    denoiser, x0 = Denoiser(Scaled(), linear(), Eps()), torch.zeros(8, 3, 4, 4)
    small, large = (MyObjective(c)(denoiser, x0, Streams.of(8, "test"))["loss"] for c in (30.0, 1e-6))
    torch.testing.assert_close(60 * small, large**2, rtol=1e-2, atol=0)
    assert large.shape == (8,)


def test_training_reaches_its_minimum():
    """For x0 = 0 the noise is x_t/sigma_t, so the best w lies between 1 and 1/sigma_t of the times drawn."""
    denoiser, x0 = Denoiser(Scaled(), linear(), Eps()), torch.zeros(64, 1, 4, 4)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.02)
    losses = []
    for step in range(60):
        losses.append(MyObjective()(denoiser, x0, Streams.of(64, "test", step))["loss"].mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert denoiser.network.w.item() == pytest.approx(1.1, abs=0.2)
