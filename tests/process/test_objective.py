"""Training objectives and the pairing of noise with images."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from diffusion.process import weighting
from diffusion.process.denoiser import Denoiser
from diffusion.process.likelihood import variational_bound
from diffusion.process.noise import assigned, independent, nearest
from diffusion.process.objective import Hybrid, Simple, Uncertainty, VariationalBound
from diffusion.process.prediction import X0, Eps, V
from diffusion.process.schedule import VP, linear
from diffusion.process.timesteps import LogNormal, Uniform
from diffusion.process.variance import fixed_large
from diffusion.randomness import Streams


class Constant(torch.nn.Module):
    """A network with constant output and, optionally, a constant spread."""

    def __init__(self, value: float = 0.0, spread: float | None = None):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))
        self.spread = None if spread is None else torch.nn.Parameter(torch.tensor(spread))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        halves = [p.expand_as(x) for p in (self.value, self.spread) if p is not None]
        return torch.cat(halves, dim=1)


@pytest.mark.parametrize("prediction", [Eps(), X0(), V()])
def test_simple_loss_uses_the_target_of_the_prediction(prediction) -> None:  # type: ignore[no-untyped-def]
    """The error of a network with constant output c is (c − y)², with the target y computed here by hand."""
    x0, c = torch.rand(6, 1, 4, 4), 0.3
    denoiser = Denoiser(Constant(c), VP(), prediction)
    result = Simple(Uniform())(denoiser, x0, Streams(range(6)))
    streams = Streams(range(6))
    streams.uniform()
    eps = streams.normal_like(x0)
    alpha, sigma = (k.float().reshape(-1, 1, 1, 1) for k in VP()(result["t"]))
    target = {"Eps": eps, "X0": x0, "V": alpha * eps - sigma * x0}[type(prediction).__name__]
    torch.testing.assert_close(result["term"], (target - c).square().flatten(1).mean(1))


def test_loss_is_importance_times_weight_times_error() -> None:
    denoiser, x0 = Denoiser(Constant(0.5), VP(), V()), torch.rand(8, 1, 4, 4)
    result = Simple(LogNormal(), weighting.min_snr)(denoiser, x0, Streams(range(8)))
    _, importance = LogNormal()(VP(), Streams(range(8)))
    error = Simple(LogNormal())(denoiser, x0, Streams(range(8)))["term"]
    weight = weighting.min_snr(VP(), V(), result["t"])
    torch.testing.assert_close(result["importance"], importance.float())
    torch.testing.assert_close(result["loss"], (importance * weight).float() * error)


def test_mean_vlb_loss_is_the_variational_bound() -> None:
    """The mean of T·L_t over the rows is Σ L_t: the value of `likelihood.variational_bound` without L_T.

    With a constant estimate of x0, only the term of the last row depends on the noise.
    """
    n, steps = 50, 20

    class EveryRow(Streams):
        def uniform(self) -> Tensor:
            return (torch.arange(steps).double().repeat(n) + 0.5) / steps

    x0 = (2 * torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255 - 1).double()
    denoiser = Denoiser(Constant(0.2), linear(steps, 1e-3, 0.5), X0())
    objective = VariationalBound(variance=fixed_large)
    terms = objective(denoiser, x0.repeat_interleave(steps, dim=0), EveryRow(range(n * steps)))["loss"]
    _, bound = variational_bound(denoiser, x0, Streams(range(n)), steps, fixed_large)
    torch.testing.assert_close(terms.mean(), bound.sum(dim=1).mean(), rtol=0.02, atol=0)


def test_hybrid_trains_the_spread_by_the_bound_and_the_mean_by_the_simple_loss() -> None:
    x0 = (2 * torch.randint(0, 256, (16, 1, 4, 4)) / 255 - 1).float()

    def gradients(objective: Simple | VariationalBound) -> tuple[Tensor, Tensor]:
        network = Constant(0.1, spread=0.2)
        objective(Denoiser(network, linear(), Eps()), x0, Streams(range(16)))["loss"].mean().backward()
        assert network.value.grad is not None
        assert network.spread is not None
        assert network.spread.grad is not None
        return network.value.grad, network.spread.grad

    hybrid, simple = gradients(Hybrid()), gradients(Simple())
    bound = gradients(VariationalBound(variance=Hybrid().bound.variance))
    torch.testing.assert_close(hybrid[0], simple[0])
    assert simple[1] == 0
    assert bound[0].abs() > 0
    torch.testing.assert_close(hybrid[1], 0.001 * bound[1])
    assert hybrid[1].abs() > 0


def test_learned_uncertainty_is_minimal_at_the_log_of_the_loss() -> None:
    """loss/exp(u) + u, and u = 0 at the start."""
    denoiser, x0 = Denoiser(Constant(2.0), VP(), X0()), torch.zeros(16, 1, 2, 2)
    objective = Uncertainty(Simple(Uniform(reweight=False)))
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    first = objective(denoiser, x0, Streams(range(16)))
    torch.testing.assert_close(first["loss"], first["term"])
    first["loss"][0].backward()  # (1 − term)² Σ f²/channels
    assert float(objective.weight.grad.square().sum()) == pytest.approx(9, rel=0.4)
    for k in range(200):
        loss = objective(denoiser, x0, Streams(range(16 * k, 16 * k + 16)))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(float(loss.detach()) - (1 + math.log(4))) < 0.01


@pytest.mark.parametrize("power", [1, 2])
def test_the_assigned_permutation_of_the_noises_has_the_lowest_cost(power: int) -> None:
    x0 = 2 * torch.randn(6, 1, 1, 2, generator=torch.Generator().manual_seed(2))
    drawn, found = independent(x0, Streams(range(10, 16))), assigned(x0, Streams(range(10, 16)), power)
    cost = lambda eps: float((x0 - eps).double().flatten(1).norm(dim=1).pow(power).sum())  # noqa: E731
    assert torch.equal(found, min((drawn[list(order)] for order in permutations(range(6))), key=cost))


def test_nearest_chooses_the_nearest_of_its_candidates() -> None:
    x0 = 2 * torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found, drawn = nearest(x0, Streams(range(10, 16)), 5), Streams(range(10, 16)).normal(5, 1, 2, 2)
    for image, candidates, eps in zip(x0, drawn, found, strict=True):
        assert torch.equal(eps, min(candidates, key=lambda candidate: float((image - candidate).norm())))


def test_values_that_are_not_known_are_left_out_of_the_loss() -> None:
    """With a constant output c, the loss is the mean of (c − target)² over the known values alone."""
    x0, known, c = torch.rand(4, 2, 4, 4), torch.rand(4, 2, 4, 4) < 0.5, 0.3
    objective, denoiser = Simple(Uniform()), Denoiser(Constant(c), VP(), Eps())
    found = objective(denoiser, x0, Streams(range(4)), known=known)
    streams = Streams(range(4))
    streams.uniform()
    error = (streams.normal_like(x0) - c).square()
    expected = torch.stack([each[where].mean() for each, where in zip(error, known, strict=True)])
    torch.testing.assert_close(found["term"], expected)
