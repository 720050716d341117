"""Properties of all samplers: seeds, evaluation counts, precision, compilation, thresholds, rejected arguments."""

import math
from functools import partial

import pytest
import torch
from sampler_cases import AFFINE, ALL, COVARIANCE, DETERMINISTIC, FINE, MEAN, SCHEDULES, D
from stand_ins import SharedStream
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process import grid, prediction
from diffusion.process.denoiser import Denoiser, clip, diffuse
from diffusion.process.oracle import GaussianOracle, MixtureOracle
from diffusion.process.sampler import DDIM, AdamsBashforth, DPMSolver, ProbabilityFlow, UniPC
from diffusion.randomness import Streams


@pytest.mark.parametrize("name", ALL)
def test_an_image_depends_only_on_its_seed(name: str) -> None:
    kind, _, _ = ALL[name]
    means = torch.randn(5, D, generator=torch.Generator().manual_seed(0)) / 2
    oracle = MixtureOracle(SCHEDULES["vp"], torch.full((5,), 0.2), means, COVARIANCE.expand(5, D, D) / 4)

    def images(*seeds: int) -> Tensor:
        streams = Streams(seeds)
        sampler = kind(6, grid=FINE)
        return sampler(oracle, streams.normal(D, 1, 1, dtype=torch.float64), streams)

    together = images(5, 6, 7)
    torch.testing.assert_close(images(6)[0], together[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(images(9, 8, 6, 5)[2], together[1], rtol=0, atol=1e-9)


EVALUATIONS = {"heun": 19, "heun_flow": 19, "heun_churn": 19, "midpoint": 20, "dpm_2s": 19, "dpm_2s_sde": 19}


@pytest.mark.parametrize("name", AFFINE)
def test_evaluations_are_counted(name: str) -> None:
    sampler, calls = AFFINE[name][0](10, grid=FINE), []
    oracle = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    sampler(
        oracle,
        torch.zeros(2, D, 1, 1),
        SharedStream(0),
        watch=lambda k, x, estimate: calls.append((k, estimate.x0.shape)),
    )
    assert sampler.evaluations == EVALUATIONS.get(name, 10)
    assert calls == [(k, (2, D, 1, 1)) for k in range(1, 11)]


@pytest.mark.parametrize("name", ALL)
def test_samplers_compute_in_float32_around_a_bfloat16_network(name: str) -> None:
    """With a bfloat16 network of constant output, the result agrees with float64 arithmetic to float32 precision."""

    class Half(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return torch.full_like(x, 0.3, dtype=torch.bfloat16)

    denoiser = Denoiser(Half(), SCHEDULES["vp"], prediction.X0())
    noise = torch.linspace(-1, 1, 6).reshape(2, D, 1, 1)
    kind, _, _ = ALL[name]
    zero = type("Zero", (), {"normal_like": staticmethod(lambda x: torch.full_like(x, 0.5))})()
    half, single, double = (
        kind(8, grid=FINE)(denoiser, noise.to(d), zero) for d in (torch.bfloat16, torch.float32, torch.float64)
    )
    assert half.dtype == single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_autocast_gives_float32_images(name: str) -> None:
    torch.manual_seed(0)
    convolution, seen = nn.Conv2d(1, 1, 3, padding=1), set()

    class Network(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            out = convolution(x)
            seen.add(out.dtype)
            return out

    denoiser, kind = Denoiser(Network(), SCHEDULES["vp"], prediction.V()), ALL[name][0]
    noise = torch.randn(2, 1, 4, 4)
    exact = kind(4, grid=FINE)(denoiser, noise, SharedStream(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = kind(4, grid=FINE, **({"rtol": 0.1, "atol": 0.1} if kind is ProbabilityFlow else {}))(
            denoiser, noise, SharedStream(2)
        )
    assert half.dtype == torch.float32
    assert seen == {torch.float32, torch.bfloat16}
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("name", ALL)
def test_a_compiled_network_gives_the_same_images(name: str) -> None:
    network = nn.Sequential()
    network.forward = lambda x, label: torch.tanh(x + 0.001 * label.reshape(-1, 1, 1, 1))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    kind, _, _ = ALL[name]
    noise = torch.linspace(-1, 1, 6).reshape(2, D, 1, 1)
    plain, fast = (
        kind(4, grid=FINE)(Denoiser(net, SCHEDULES["vp"], prediction.V()), noise, SharedStream(2))
        for net in (network, compiled)
    )
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("name", ALL)
def test_a_threshold_bounds_every_estimate(name: str) -> None:
    sampler, seen = ALL[name][0](5, grid=FINE, threshold=partial(clip, limit=0.2)), []
    oracle = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    out = sampler(
        oracle, 2 * torch.ones(2, D, 1, 1), SharedStream(0), watch=lambda k, x, e: seen.append(e.x0.abs().max())
    )
    assert max(seen) <= 0.2
    assert out.abs().max() < 0.25


def test_invalid_etas_tolerances_orders_and_grids_are_rejected() -> None:
    with pytest.raises(UserError, match=r"DDIM has eta = 2; .* at least 0 and at most 1"):
        DDIM(10, eta=2.0)
    with pytest.raises(UserError, match=r"DPMSolver has eta = -1; .* at least 0"):
        DPMSolver(10, eta=-1.0)
    with pytest.raises(UserError, match=r"ProbabilityFlow has rtol = nan; .* above 0"):
        ProbabilityFlow(2, rtol=math.nan)
    for kind, highest in ((DPMSolver, 3), (UniPC, 3), (AdamsBashforth, 4)):
        kind(10, order=highest)
        with pytest.raises(UserError, match=rf"order = {highest + 1}; .* at least 1 and at most {highest}"):
            kind(10, order=highest + 1)
    stuck = DDIM(2, grid=lambda schedule, steps: torch.tensor([1.0, 0.5, 0.5]))
    with pytest.raises(UserError, match=r"times 1 and 2 .* 0.5 and 0.5"):
        stuck(GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE), torch.zeros(1, D, 1, 1), SharedStream(0))


def test_the_adaptive_solver_rejects_a_network_with_infinite_output() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x / 0

    with pytest.raises(UserError, match="rtol"):
        ProbabilityFlow(2, grid=grid.log_snr)(
            Denoiser(Broken(), SCHEDULES["vp"], prediction.V()), torch.zeros(1, D, 1, 1), SharedStream(0)
        )


@pytest.mark.parametrize("name", ALL)
def test_a_start_continues_a_trajectory(name: str) -> None:
    """A start from x after k steps makes the rest of the grid's steps, numbered as in the whole trajectory.

    The steps are identical except for the multistep solvers, which restart at order 1.
    """
    kind, oracle = ALL[name][0], GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    zero = type("Zero", (), {"normal_like": staticmethod(torch.zeros_like)})() if name in DETERMINISTIC else None
    states: dict[int, Tensor] = {}
    sampler = kind(6, grid=FINE)
    sampler(
        oracle, torch.linspace(-1, 1, 6).double().reshape(2, D, 1, 1), zero or SharedStream(0),
        watch=lambda k, x, estimate: states.__setitem__(k, x),
    )  # fmt: skip
    seen: dict[int, Tensor] = {}
    t = float(FINE(oracle.schedule, 6)[2])
    x = sampler(
        oracle, None, zero or SharedStream(0), lambda k, x, estimate: seen.__setitem__(k, x), start=(states[2], t)
    )
    assert list(seen) == [3, 4, 5, 6]
    torch.testing.assert_close(x, seen[6], rtol=0, atol=0)
    single_step = name in DETERMINISTIC and not isinstance(sampler, (AdamsBashforth, DPMSolver, UniPC))
    if single_step or name == "probability_flow":
        torch.testing.assert_close(x, states[6], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in ALL if name != "predictor_corrector"])  # biased in 3 dimensions
def test_a_start_between_grid_times_gives_the_right_distribution(name: str) -> None:
    """SDEdit from t = 0.4: with an exact x_t, samples have the moments of the data within 4.5 standard errors."""
    kind, steps, stated = ALL[name]
    n, oracle, sampler = 3000, GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE), kind(steps, grid=FINE)
    x0, streams = oracle.sample(n, torch.Generator().manual_seed(0)).reshape(n, D, 1, 1), SharedStream(0)
    x_t = diffuse(oracle.schedule, x0, streams.normal_like(x0), torch.full((n,), 0.4).double())
    x = sampler(oracle, None, streams, start=(x_t, 0.4)).flatten(1)
    v = COVARIANCE.diagonal()
    assert ((x.mean(0) - MEAN).abs() < 4.5 * (v / n).sqrt() + stated).all()
    assert ((x.T.cov() - COVARIANCE).abs() < 4.5 * ((torch.outer(v, v) + COVARIANCE**2) / n).sqrt() + stated).all()


@pytest.mark.parametrize("name", ALL)
def test_an_image_from_a_start_depends_only_on_its_seed(name: str) -> None:
    oracle = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    x_t = torch.linspace(-1, 1, 4 * D).double().reshape(4, D, 1, 1)

    def images(*seeds: int) -> Tensor:
        return ALL[name][0](6, grid=FINE)(oracle, None, Streams(seeds), start=(x_t[list(seeds)], 0.4))

    torch.testing.assert_close(images(3, 2)[1], images(0, 1, 2, 3)[2], rtol=0, atol=1e-9)


def test_a_start_that_differs_from_a_grid_time_by_rounding_replaces_it() -> None:
    """A start time that differs from a time of the grid by rounding replaces it."""
    oracle, seen = GaussianOracle(SCHEDULES["linear"], MEAN, COVARIANCE), []
    sampler = DPMSolver(10, grid=grid.uniform)
    sampler(oracle, None, SharedStream(0), lambda k, x, e: seen.append(k), start=(torch.zeros(1, D, 1, 1), 0.5000001))
    assert seen == [6, 7, 8, 9, 10]


def test_an_invalid_start_is_rejected() -> None:
    oracle, x = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE), torch.zeros(1, D, 1, 1)
    for t in (0.0, 1.5, math.nan):
        with pytest.raises(UserError, match=r"start has t = .* above 0 and at most 1"):
            DDIM(5)(oracle, None, SharedStream(0), start=(x, t))
    for noise, start in ((x, (x, 0.5)), (None, None)):
        with pytest.raises(UserError, match=r"pass either noise or start"):
            DDIM(5)(oracle, noise, SharedStream(0), start=start)
