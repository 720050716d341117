"""The exact flow of a Gaussian. (That eps is the score of the closed-form denoisers: test_guidance.)"""

import torch
from torch import Tensor

from diffusion.process import schedule
from tests.support.oracle import GaussianOracle

VP = schedule.VP()


def test_flow_solves_the_ode() -> None:
    """d/ds flow(x, t, s) at s = t is alpha' x0 + sigma' eps, and the flow maps the distribution at t to that at s."""
    covariance = torch.tensor([[0.04, 0.02], [0.02, 0.04]]).double()
    oracle = GaussianOracle(VP, torch.tensor([0.5, 0.5]), covariance)
    t, s = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
    x = torch.linspace(-1, 1, 8).double().reshape(4, 2, 1, 1)

    def moved(u: Tensor) -> Tensor:
        return oracle.flow(x, t, u)

    _, velocity = torch.func.jvp(moved, (t,), (torch.ones_like(t),))
    (d_alpha, d_sigma), estimate = VP.derivatives(t), oracle(x, t.expand(4))
    torch.testing.assert_close(velocity, d_alpha * estimate.x0 + d_sigma * estimate.eps)
    rows = oracle.flow(torch.cat([torch.zeros(1, 2), torch.eye(2)]).double(), t, s)
    A = (rows[1:] - rows[0]).T
    (alpha_t, sigma_t), (alpha_s, sigma_s) = VP(t), VP(s)
    one = torch.eye(2).double()
    before, after = (a**2 * covariance + b**2 * one for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
    torch.testing.assert_close(A @ before @ A.T, after)
