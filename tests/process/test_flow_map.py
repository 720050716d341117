"""Flow maps against closed forms: those of a Gaussian, whose paths are x_t = n_t/n_1 x_1."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion.model import MLP
from diffusion.process import grid, prediction, schedule
from diffusion.process.denoiser import Denoiser, Estimate, denoiser_of, expand
from diffusion.process.flow_map import FlowMap
from diffusion.process.objective import Simple, Uncertainty
from diffusion.process.sampler import FlowMap as FlowMapSampler
from diffusion.process.timesteps import Uniform
from diffusion.randomness import Streams

WIDTH = 0.5  # of the data
SCHEDULES = {"linear": schedule.linear(), "edm": schedule.EDM(), "flow": schedule.Flow(3), "ve": schedule.VE()}


class Gaussian(nn.Module):
    """The best denoiser of N(0, WIDTH² I), and a map by the factor(u, w) of y, by default the exact one."""

    ends = 16

    def __init__(self, on: Any, factor: Any = None):
        super().__init__()
        self.schedule, self.factor, self.prediction = on, factor or self.exact, prediction.V()

    def deviation(self, u: Tensor) -> Tensor:
        return torch.hypot((1 - u) * WIDTH, u)

    def exact(self, u: Tensor, w: Tensor) -> Tensor:
        return self.deviation(w) / self.deviation(u)

    def forward(self, x_t: Tensor, t: Tensor, end: Tensor | None = None) -> Estimate:
        u, y = self.schedule.flow_time(t), x_t / expand(sum(self.schedule(t)), x_t)
        rate = (
            (u - (1 - u) * WIDTH**2) / self.deviation(u) ** 2 if end is None else (self.factor(u, end) - 1) / (end - u)
        )
        v = expand(rate, y) * y
        return Estimate(y - expand(u, y) * v, y + expand(1 - u, y) * v)


def batch(on: Any, n: int = 200) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.linspace(on.first + 0.01, 1, n, dtype=torch.float64)
    return torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double(), t, torch.rand(n).double()


@pytest.mark.parametrize("on", SCHEDULES)
def test_the_exact_map_has_no_residual_and_draws_the_ends_of_paths_on_any_grid(on: str) -> None:
    kind = SCHEDULES[on]
    exact, (x, t, r) = Gaussian(kind), batch(kind)
    x_t = x * expand(torch.hypot(*kind(t)), x)
    assert FlowMap().residual(exact, x_t, t, r, {}).max() < 1e-8
    start = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    alpha, sigma = kind(torch.ones(1, dtype=torch.float64))
    ends = start * torch.hypot(alpha, sigma) * WIDTH / torch.hypot(alpha * WIDTH, sigma)
    for steps, spaced in ((1, grid.flow), (3, grid.karras), (8, grid.log_snr)):
        drawn = FlowMapSampler(steps=steps, grid=spaced)(exact, start, Streams(range(5)))
        torch.testing.assert_close(drawn, ends, rtol=1e-8, atol=1e-8)


def test_a_map_distilled_from_the_exact_velocity_is_exact_to_1e_4() -> None:
    """The factor of y is 1 + (w − u) Σ c_ij T_i(2 u − 1) T_j(2 w/u − 1), with Chebyshev polynomials T.

    The loss holds its target, so it is quadratic in c: steps of Newton's method.
    """
    kind, degrees, n = schedule.Flow(), torch.arange(9, dtype=torch.float64), 1500
    u, r = torch.rand(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def mapped(c: Tensor) -> Gaussian:
        def factor(u: Tensor, w: Tensor) -> Tensor:
            rows, columns = (torch.cos(degrees * torch.arccos(2 * v - 1)[:, None]) for v in (u, w / u))
            return 1 + (w - u) * torch.einsum("bi,ij,bj->b", rows, c.view(9, 9), columns)

        return Gaussian(kind, factor)

    def loss(c: Tensor) -> Tensor:
        return FlowMap().residual(mapped(c), torch.ones(n, 1, 1, 1).double(), u, r, {}).mean()

    c = torch.zeros(81, dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(loss, c)
    for _ in range(6):
        slope = torch.autograd.functional.jacobian(loss, c)[:, None]
        c = c - torch.linalg.lstsq(curvature, slope, driver="gelsd").solution[:, 0]
    error = mapped(c).factor(u, r * u) - Gaussian(kind).exact(u, r * u)
    assert error.square().mean().sqrt() < 1e-4


def learned(**given: int) -> Denoiser:
    """A denoiser and flow map with random weights."""
    torch.manual_seed(0)
    made = MLP(2 + given.get("picture", 0), 2, augment=given["ends"] + given.get("vector", 0) + 3)
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return denoiser_of(made, schedule.cosine(), prediction.V(), **given)


def test_without_an_end_or_with_that_of_t_a_flow_map_is_a_denoiser() -> None:
    """Its labels stand between those of the condition and of the augmentation, which is missing in sampling."""
    denoiser, x, t = learned(ends=4, vector=1), torch.randn(3, 2, 1, 1), torch.tensor([0.2, 0.5, 1.0]).double()
    u, given = denoiser.schedule.flow_time(t), {"vector": torch.ones(3, 1), "augment": torch.ones(3, 3)}
    plain = denoiser(x, t, **given)
    torch.testing.assert_close(denoiser(x, t, end=u, **given), plain)
    seen: list[Tensor] = []
    denoiser.network.register_forward_pre_hook(lambda _, args, named: seen.append(named["augment"]), with_kwargs=True)
    assert not torch.allclose(denoiser(x, t, end=u / 2, **given).x0, plain.x0)
    denoiser(x, t, end=u / 2, vector=torch.ones(3, 1))
    way = torch.outer(u / 2, torch.pi * torch.tensor([1.0, 2.0]).double())
    labels = torch.cat([torch.ones(3, 1), way.sin(), 1 - way.cos(), torch.ones(3, 3)], dim=1).float()
    torch.testing.assert_close(seen[0], labels)
    torch.testing.assert_close(seen[1], labels[:, :-3])


def test_the_map_is_trained_on_a_share_of_the_images_that_does_not_depend_on_the_devices() -> None:
    denoiser, x0 = learned(ends=16), torch.rand(8, 2, 1, 1)

    def added(share: float, rows: slice) -> Tensor:
        found = []
        for made in (FlowMap(share=share), Simple()):
            streams = Streams([*range(8)[rows]], batch_seed=1, first=rows.start, batch_size=8)
            found.append(made(denoiser, x0[rows], streams)["loss"])
        return found[0] - found[1]

    whole, everywhere = added(0.25, slice(0, 8)), added(1.0, slice(0, 8))
    some = whole.abs() > 1e-4
    assert int(some.sum()) == 2
    torch.testing.assert_close(whole[some], everywhere[some] / 0.25, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.cat([added(0.25, slice(0, 4)), added(0.25, slice(4, 8))]), whole)


def test_learned_uncertainty_weighs_both_terms_of_a_map() -> None:
    """It begins with the loss of the map, and is minimal at the log of the sum of both terms: here 4 and 2."""
    denoiser, x0 = learned(ends=16), torch.rand(8, 2, 1, 1)
    found, plain = (made(denoiser, x0, Streams(range(8)))["loss"] for made in (Uncertainty(FlowMap()), FlowMap()))
    torch.testing.assert_close(found, plain)
    assert Uncertainty(FlowMap()).ends == FlowMap.ends

    class Constant(FlowMap):
        def term(self, denoiser: Denoiser, batch: Any) -> Tensor:
            return torch.full((len(batch.t),), 4.0)

        def residual(self, denoiser: Denoiser, x_t: Tensor, *more: Any) -> Tensor:
            return torch.full((len(x_t),), 2.0)

    objective, x0 = Uncertainty(Constant(Uniform(reweight=False), share=1)), torch.rand(32, 2, 1, 1)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    for k in range(200):
        loss = objective(denoiser, x0, Streams(range(32 * k, 32 * k + 32)))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    u = objective.log_loss(denoiser.schedule, torch.linspace(0.2, 0.8, 10).double())
    torch.testing.assert_close(u.exp(), torch.full((10,), 6.0), rtol=0.05, atol=0)
