"""The closed-form denoisers against their definitions, computed independently."""

import pytest
import torch
from torch import Tensor

from diffusion.process import schedule
from tests.support.oracle import GaussianOracle, MixtureOracle

VP = schedule.VP()
MEANS = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7]]).double()
COVARIANCES = torch.tensor([[[0.04, 0.02], [0.02, 0.04]], [[0.02, 0.0], [0.0, 0.06]], [[0.01, 0.0], [0.0, 0.01]]])
WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).double()
ORACLES: dict[str, MixtureOracle] = {
    "gaussian": GaussianOracle(VP, MEANS[1], COVARIANCES[0]),
    "mixture": MixtureOracle(VP, WEIGHTS, MEANS, COVARIANCES),
    "points": MixtureOracle(VP, WEIGHTS, MEANS, torch.zeros(3, 2, 2)),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("time", [0.02, 0.3, 1.0])
def test_eps_is_the_score(name: str, time: float) -> None:
    """eps = −sigma ∇ log p_t (Tweedie's formula), with the gradient by automatic differentiation."""
    oracle, t = ORACLES[name], torch.full((4,), time, dtype=torch.float64)
    x = torch.linspace(-1, 1, 8).double().reshape(4, 2, 1, 1).requires_grad_()
    (score,) = torch.autograd.grad(oracle.posterior(x, t)[1].sum(), x)
    estimate = oracle(x.detach(), t)
    alpha, sigma = VP(t[0])
    torch.testing.assert_close(estimate.eps, -sigma * score)
    torch.testing.assert_close(alpha * estimate.x0 + sigma * estimate.eps, x.detach())


def test_flow_solves_the_ode() -> None:
    """d/ds flow(x, t, s) at s = t is alpha' x0 + sigma' eps, and the flow maps the distribution at t to that at s."""
    oracle = ORACLES["gaussian"]
    assert isinstance(oracle, GaussianOracle)
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
    before, after = (a**2 * COVARIANCES[0].double() + b**2 * one for a, b in ((alpha_t, sigma_t), (alpha_s, sigma_s)))
    torch.testing.assert_close(A @ before @ A.T, after)
