"""Training objectives."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from diffusion.errors import UserError
from diffusion.process import weighting
from diffusion.process.denoiser import Denoiser, diffuse
from diffusion.process.likelihood import variational_bound
from diffusion.process.objective import Hybrid, Simple, Uncertainty, VariationalBound, eps_error, squared
from diffusion.process.oracle import GaussianOracle
from diffusion.process.prediction import X0, Eps, V
from diffusion.process.schedule import VP, cosine, linear
from diffusion.process.timesteps import LogNormal, LossSecondMoment, Uniform, UniformTable
from diffusion.process.variance import fixed_large, fixed_small
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


def test_simple_loss_of_a_zero_network_is_the_noise_power() -> None:
    denoiser = Denoiser(Constant(), linear(), Eps())
    result = Simple()(denoiser, torch.rand(64, 3, 8, 8), Streams(range(64)))
    eps_power = result["term"].detach()
    assert eps_power.shape == (64,)
    assert abs(eps_power.mean() - 1) < 5 * (2 / (64 * 192)) ** 0.5
    torch.testing.assert_close(result["loss"], result["term"], rtol=0, atol=0)


def test_simple_loss_depends_only_on_the_example_seed() -> None:
    denoiser, x0 = Denoiser(Constant(0.3), linear(), Eps()), torch.rand(4, 3, 8, 8)
    together = Simple()(denoiser, x0, Streams([5, 6, 7, 8]))
    alone = Simple()(denoiser, x0[2:3], Streams([7]))
    torch.testing.assert_close(alone["loss"], together["loss"][2:3], rtol=0, atol=0)
    assert alone["t"] == together["t"][2]


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


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (partial(functional.huber_loss, reduction="none", delta=0.5), lambda e: 0.5 * (e.abs() - 0.25)),
        (partial(functional.l1_loss, reduction="none"), lambda e: e.abs()),
    ],
)
def test_the_loss_uses_the_given_distance(distance, expected) -> None:  # type: ignore[no-untyped-def]
    """The error exceeds delta everywhere: x0 = 0.2 and the output is 5."""
    denoiser, x0 = Denoiser(Constant(5.0), VP(), X0()), torch.full((3, 1, 2, 2), 0.2)
    result = Simple(Uniform(reweight=False), distance=distance)(denoiser, x0, Streams(range(3)))
    torch.testing.assert_close(result["loss"].detach(), expected(torch.full((3,), 4.8)))


def test_weights_of_squared_errors_are_refused_for_other_distances() -> None:
    absolute = partial(functional.l1_loss, reduction="none")
    for make in (Simple, Hybrid):
        with pytest.raises(UserError, match="the weighting snr is for squared errors, but the distance is l1_loss"):
            make(weighting=weighting.snr, distance=absolute)
    with pytest.raises(UserError, match="min_snr"):
        Simple(weighting=partial(weighting.min_snr, gamma=1.0), distance=absolute)
    Simple(weighting=partial(weighting.unit), distance=absolute)
    Simple(weighting=partial(weighting.min_snr, gamma=1.0), distance=partial(squared))
    Simple(weighting=lambda schedule, prediction, t: t, distance=absolute)


def test_loss_is_importance_times_weight_times_error() -> None:
    denoiser, x0 = Denoiser(Constant(0.5), VP(), V()), torch.rand(8, 1, 4, 4)
    result = Simple(LogNormal(), weighting.min_snr)(denoiser, x0, Streams(range(8)))
    _, importance = LogNormal()(VP(), Streams(range(8)))
    error = Simple(LogNormal())(denoiser, x0, Streams(range(8)))["term"]
    weight = weighting.min_snr(VP(), V(), result["t"])
    torch.testing.assert_close(result["importance"], importance.float())
    torch.testing.assert_close(result["loss"], (importance * weight).float() * error)


def test_update_reaches_the_loss_aware_timesteps() -> None:
    objective = Simple(LossSecondMoment(10, history=1))
    objective.update(torch.arange(1, 11) / 10, torch.tensor([3.0] + 9 * [1.0]))
    assert isinstance(objective.timesteps, LossSecondMoment)
    p = objective.timesteps.probabilities()
    assert abs(float(p[0] / p[1]) - 3) < 0.02
    assert "timesteps.losses" in objective.state_dict()
    Simple().update(torch.ones(2), torch.ones(2))  # does nothing for other timesteps


class Optimal(torch.nn.Module):
    """A network that predicts the optimal eps for x0 ~ N(0, v) from x_t and the label."""

    def __init__(self, variance: float):
        super().__init__()
        self.variance = variance
        self.schedule = linear(20, 1e-3, 0.5)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in self.schedule((label + 1) / 1000))
        return sigma * x / (alpha**2 * self.variance + sigma**2)


def test_mean_vlb_loss_is_the_variational_bound() -> None:
    """The mean of T·L_t over the rows is Σ L_t: the value of `likelihood.variational_bound` without L_T."""
    n, steps, v = 50, 20, 0.1

    class EveryRow(Streams):
        def uniform(self) -> Tensor:
            return (torch.arange(steps).double().repeat(n) + 0.5) / steps

    generator = torch.Generator().manual_seed(0)
    levels = (255 * (v**0.5 * torch.randn(n, 1, 8, 8, generator=generator).clamp(-3, 3) + 1) / 2).round()
    x0 = (2 * levels / 255 - 1).double()
    denoiser = Denoiser(Optimal(v), linear(steps, 1e-3, 0.5), Eps())
    objective = VariationalBound(variance=fixed_large)
    terms = objective(denoiser, x0.repeat_interleave(steps, dim=0), EveryRow(range(n * steps)))["loss"]
    bound = variational_bound(denoiser, x0, Streams(range(n)), steps, fixed_large)
    torch.testing.assert_close(terms.mean(), (bound.bits - bound.prior).mean(), rtol=0.02, atol=0)


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


def test_gradient_of_the_spread_points_to_the_better_variance() -> None:
    """If the mean is exact, the variance of the posterior (spread −1) is right, so the spread must decrease."""
    x0 = torch.full((32, 1, 4, 4), 2 * 140 / 255 - 1)

    class Exact(Constant):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            alpha, sigma = (c.float().reshape(-1, 1, 1, 1) for c in linear()((label.double() + 1) / 1000))
            assert self.spread is not None
            return torch.cat([(x - alpha * x0) / sigma, self.spread.expand_as(x)], dim=1)

    network = Exact(spread=0.0)
    Hybrid()(Denoiser(network, linear(), Eps()), x0, Streams(range(32)))["loss"].mean().backward()
    assert network.spread is not None
    assert network.spread.grad is not None
    assert network.spread.grad > 0


def test_gradient_of_the_bound_is_finite_at_the_last_row() -> None:
    """There, x0_θ of an untrained network that predicts eps is in the thousands, which affects only the decoder."""
    objective, network, end = Hybrid(), Constant(spread=0.0), torch.ones(256, dtype=torch.float64)
    objective.timesteps = lambda schedule, streams: (end, end)
    x0 = (2 * torch.randint(256, (256, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255 - 1).float()
    objective(Denoiser(network, cosine(), Eps()), x0, Streams(range(256)))["loss"].mean().backward()
    assert network.spread is not None
    assert network.spread.grad is not None
    assert network.spread.grad.isfinite()


def test_bound_objectives_reject_missing_spread_and_continuous_schedules() -> None:
    x0 = torch.zeros(2, 1, 2, 2)
    with pytest.raises(UserError, match="no output channels for the variance"):
        Hybrid()(Denoiser(Constant(), linear(), Eps()), x0, Streams(range(2)))
    with pytest.raises(UserError, match="needs a discrete schedule"):
        VariationalBound(Uniform())(Denoiser(Constant(), VP(), Eps()), x0, Streams(range(2)))


def test_learned_uncertainty_converges_to_the_log_of_the_loss() -> None:
    """loss/exp(u) + u is minimal at u = log(loss). Here the loss is the same at every noise level."""
    denoiser, x0 = Denoiser(Constant(2.0), VP(), X0()), torch.zeros(16, 1, 2, 2)
    objective = Uncertainty(Simple(Uniform(reweight=False)))
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.03)
    first = objective(denoiser, x0, Streams(range(16)))
    torch.testing.assert_close(first["loss"], first["term"])  # u = 0 at the start
    for k in range(200):
        loss = objective(denoiser, x0, Streams(range(16 * k, 16 * k + 16)))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(float(loss.detach()) - (1 + math.log(4))) < 0.01
    objective.update(torch.ones(1), torch.ones(1))


def test_learned_uncertainty_reads_its_earlier_state() -> None:
    objective = Uncertainty(Simple(), channels=4)
    state = {key: value for key, value in objective.state_dict().items() if key != "weight"}
    objective.load_state_dict(state | {"linear.weight": torch.ones(1, 4)})
    assert objective.weight.tolist() == [[2.0] * 4]


def test_learned_uncertainty_with_weights_of_1_has_unit_size() -> None:
    """As in EDM2's code: with weights of 1, u has a root mean square of 1 over noise levels and random features."""
    squares = []
    for seed in range(20):
        objective = Uncertainty(Simple(Uniform(reweight=False)), seed=seed)
        torch.nn.init.ones_(objective.weight)
        x0 = torch.full((64, 1, 2, 2), 2.0)  # equal to the network's output, so the loss is u
        u = objective(Denoiser(Constant(2.0), VP(), X0()), x0, Streams(range(64)))["loss"]
        squares.append(u.detach().square().mean())
    assert 0.7 < float(torch.stack(squares).mean().sqrt()) < 1.4


def test_the_hybrid_objective_refuses_a_variance_that_has_nothing_to_learn() -> None:
    for fixed in (fixed_small, partial(fixed_large)):
        with pytest.raises(UserError, match="trains only a learned variance"):
            Hybrid(variance=fixed)


def test_eps_error_of_the_oracle_is_the_known_minimum() -> None:
    """For x0 ~ N(0, v), the minimum of E(eps − eps_θ)² is alpha² v/(alpha² v + sigma²)."""
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


@pytest.mark.parametrize(("timesteps", "times"), [(Uniform(), 1), (UniformTable(), 0), (LossSecondMoment(1000), 0)])
@pytest.mark.parametrize("prediction", [Eps(), V()])
def test_a_step_computes_the_schedules_coefficients_once_or_looks_rows_up(monkeypatch, prediction, timesteps, times):
    denoiser, asked = Denoiser(Constant(), linear(), prediction), []
    forward = denoiser.schedule.forward
    monkeypatch.setattr(denoiser.schedule, "forward", lambda t: (asked.append(t), forward(t))[1])
    Simple(timesteps)(denoiser, torch.zeros(2, 1, 2, 2), Streams([0, 1]))
    assert len(asked) == times
