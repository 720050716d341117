"""Every sampler on every schedule against distributions whose answer is known.

With a Gaussian's optimal denoiser a step is affine in x_t and in its noise, so `oracle.law` reads off the exact mean
and covariance of what a sampler draws, with no Monte-Carlo error; a test below compares it with real samples.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process import grid, prediction, schedule, variance
from diffusion.process.denoiser import Denoise, Denoiser, Estimate, clip
from diffusion.process.oracle import GaussianOracle, MixtureOracle, PointsOracle, law
from diffusion.process.sampler import (
    DDIM,
    AdamsBashforth,
    Ancestral,
    DPMSolver,
    DPMSolver2S,
    Euler,
    Heun,
    Midpoint,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    UniPC,
)
from diffusion.randomness import Streams

MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.3, 0.2]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
D = 3

SCHEDULES = {
    "linear": schedule.linear(),
    "cosine": schedule.cosine(),
    "zero_snr": schedule.zero_terminal_snr(schedule.linear()),
    "vp": schedule.VP(),
    "sub_vp": schedule.SubVP(),
    "ve": schedule.VE(),
    "edm": schedule.EDM(),
    "cosine_continuous": schedule.ContinuousCosine(),
    "flow": schedule.Flow(),
    "flow_shifted": schedule.Flow(shift=3.0),
}
FINE = partial(grid.karras, sigma_min=0.01, sigma_max=80.0)

# name: (steps -> sampler, steps, error of mean and covariance that is stated for this many steps)
DETERMINISTIC: dict[str, tuple[Callable[..., Sampler], int, float]] = {
    "ddim": (DDIM, 200, 0.012),
    "euler": (Euler, 200, 0.012),
    "heun": (Heun, 50, 0.012),
    "heun_flow": (partial(Heun, c=1.0), 50, 0.006),
    "midpoint": (Midpoint, 50, 0.006),
    "dpm_1s": (partial(DPMSolver, order=1), 200, 0.012),
    "dpm_2s": (DPMSolver2S, 50, 0.006),
    "dpm_2m": (DPMSolver, 50, 0.006),
    "dpm_3m": (partial(DPMSolver, order=3), 50, 0.006),
    "unipc": (UniPC, 50, 0.006),
    "unipc_3": (partial(UniPC, order=3), 50, 0.006),
    "adams_bashforth": (AdamsBashforth, 50, 0.02),
    "adams_bashforth_3": (partial(AdamsBashforth, order=3), 50, 0.006),
}
STOCHASTIC: dict[str, tuple[Callable[..., Sampler], int, float]] = {
    "ancestral": (Ancestral, 200, 0.025),
    "ancestral_large": (partial(Ancestral, variance=variance.fixed_large), 200, 0.025),
    "ddim_half": (partial(DDIM, eta=0.5), 200, 0.015),
    "euler_ancestral": (partial(DDIM, eta=1.0), 200, 0.025),
    "euler_churn": (partial(Euler, churn=20.0), 200, 0.07),
    "heun_churn": (partial(Heun, churn=10.0), 50, 0.012),
    "dpm_1_sde": (partial(DPMSolver, order=1, eta=1.0), 200, 0.025),
    "dpm_2s_sde": (partial(DPMSolver2S, eta=1.0), 50, 0.012),
    "dpm_2m_sde": (partial(DPMSolver, eta=1.0), 50, 0.012),
    "dpm_3m_sde": (partial(DPMSolver, order=3, eta=1.0), 50, 0.012),
    "reverse_diffusion": (ReverseDiffusion, 500, 0.05),
}
AFFINE = DETERMINISTIC | STOCHASTIC
NONLINEAR: dict[str, tuple[Callable[..., Sampler], int, float]] = {
    "predictor_corrector": (partial(PredictorCorrector, predictor=partial(DDIM, eta=1.0), snr=0.1), 100, 0.04),
    "probability_flow": (ProbabilityFlow, 2, 0.001),
}
ALL = AFFINE | NONLINEAR


def as_images(rows: Tensor) -> Tensor:
    return rows.reshape(-1, D, 1, 1)


class Bulk:
    """Streams of one generator, for thousands of small examples."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal_like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def sampled(sampler: Sampler, oracle: Denoise, n: int, width: int = D) -> Tensor:
    streams = Bulk(0)
    return sampler(oracle, streams.normal_like(torch.empty(n, width, 1, 1, dtype=torch.float64)), streams).flatten(1)


def error(mean: Tensor, covariance: Tensor) -> float:
    return max(float((mean - MEAN).abs().max()), float((covariance - COVARIANCE).abs().max()))


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("on", SCHEDULES)
def test_every_sampler_reaches_a_gaussian_on_every_schedule(name: str, on: str) -> None:
    kind, steps, stated = AFFINE[name]
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    assert error(*law(kind(steps, grid=FINE), oracle)) < stated


@pytest.mark.parametrize("on", SCHEDULES)
def test_probability_flow_reaches_a_gaussian(on: str) -> None:
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    sampler = ProbabilityFlow(2, grid=partial(grid.log_snr, sigma_min=1e-3), rtol=1e-7, atol=1e-7)
    basis = as_images(torch.cat([torch.zeros(1, D), torch.eye(D)]).double())
    rows = sampler(oracle, basis, Bulk(0)).flatten(1)
    G = rows[1:] - rows[0]
    prior = 0.01 if on in ("ve", "edm") else 0.0  # their N(0, ·) at t = 1 leaves out the mean, 0.5 beside sigma = 50
    assert error(rows[0], G.T @ G) < 1e-3 + prior


@pytest.mark.parametrize("name", STOCHASTIC)
def test_samples_have_the_law_within_monte_carlo_error(name: str) -> None:
    """The variance of a mean of n is Σ_ii/n, of a covariance (Σ_ii Σ_jj + Σ_ij²)/n: 4.5 standard errors."""
    kind, _, _ = STOCHASTIC[name]
    n, sampler, oracle = 8000, kind(12, grid=FINE), GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    mean, covariance = law(sampler, oracle)
    x = sampled(sampler, oracle, n)
    v = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 4.5 * (v / n).sqrt()).all()
    assert ((x.T.cov() - covariance).abs() < 4.5 * ((torch.outer(v, v) + covariance**2) / n).sqrt()).all()


@pytest.mark.parametrize("on", ["linear", "ve", "flow"])
@pytest.mark.parametrize("predictor", [partial(DDIM, eta=1.0), ReverseDiffusion], ids=["ancestral", "reverse"])
def test_predictor_corrector_reaches_a_gaussian(on: str, predictor: Callable[..., Sampler]) -> None:
    """Its step size depends on the norms of x's noise and score, so it is not affine: 5.5 standard errors, and 0.02.

    In few dimensions those norms vary so much that the rule is biased; 48 are enough.
    """
    n, width = 1500, 48
    root = torch.randn(width, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 14
    mean, covariance = torch.linspace(-0.5, 0.5, width).double(), root @ root.T + 0.05 * torch.eye(width)
    oracle = GaussianOracle(SCHEDULES[on], mean, covariance)
    x = sampled(PredictorCorrector(100, grid=FINE, predictor=predictor, snr=0.1), oracle, n, width)
    v = covariance.diagonal()
    assert ((x.mean(0) - mean).abs() < 5.5 * (v / n).sqrt() + 0.01).all()
    assert ((x.T.cov() - covariance).abs() < 5.5 * ((torch.outer(v, v) + covariance**2) / n).sqrt() + 0.02).all()


def orders(kind: Callable[..., Sampler], steps: tuple[int, ...], error_of: Callable[[Sampler], float]) -> list[float]:
    """log₂ of the error's ratio as the steps double; the grid stops above 0, before the first-order last step."""
    inner = lambda schedule, n: grid.log_snr(schedule, n + 1, sigma_min=0.05, sigma_max=80.0)[:-1]  # noqa: E731
    errors = [error_of(kind(n, grid=inner)) for n in steps]
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


ORDERS = {
    "ddim": (1.0, 1.0), "euler": (1.0, 1.0), "heun": (2.0, 2.0), "heun_flow": (2.0, 2.0), "midpoint": (2.0, 3.0),
    "dpm_1s": (1.0, 1.0), "dpm_2s": (2.0, 2.0), "dpm_2m": (2.0, 2.0), "dpm_3m": (3.0, 3.0), "unipc": (3.0, 3.0),
    "unipc_3": (4.0, 4.0), "adams_bashforth": (2.0, 2.0), "adams_bashforth_3": (3.0, 3.0),
}  # fmt: skip


@pytest.mark.parametrize("on", ["vp", "edm", "flow", "linear"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_a_gaussian(name: str, on: str) -> None:
    """Against the exact flow map. UniPC-p has order p + 1, as its theorem says; the midpoint rule gains one here."""
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    noise = as_images(torch.cat([torch.zeros(1, D), torch.eye(D)]).double())

    def error_of(sampler: Sampler) -> float:
        times = sampler.grid(oracle.schedule, sampler.steps)
        alpha, sigma = oracle.schedule(times[0])
        exact = oracle.flow(noise * torch.hypot(alpha, sigma), times[0], times[-1])
        return float((sampler(oracle, noise, Bulk(0)) - exact).abs().max())

    low, high = ORDERS[name]
    assert all(low - 0.2 < order < high + 0.35 for order in orders(DETERMINISTIC[name][0], (128, 256), error_of))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_order_of_convergence_on_a_mixture(name: str) -> None:
    """In one dimension the flow keeps quantiles, F_s(x_s) = F_t(x_t), and the mixture's F is known."""
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
        return float((quantile(sampler(oracle, noise, Bulk(0)), times[-1]) - start).abs().max())

    low = ORDERS[name][0]
    assert low - 0.25 < orders(DETERMINISTIC[name][0], (128, 256), error_of)[0] < low + 0.5


@pytest.mark.parametrize(
    ("name", "on"), zip(AFFINE | {"probability_flow": NONLINEAR["probability_flow"]}, list(SCHEDULES) * 3, strict=False)
)
def test_every_sampler_recovers_a_mixture(name: str, on: str) -> None:
    """Per axis, the Kolmogorov–Smirnov distance of n samples to the exact distribution: below 2.2/√n, and 0.02."""
    kind, steps, _ = ALL[name]
    means = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7]]).double()
    spread = torch.tensor([[[0.04, 0.02], [0.02, 0.04]], [[0.02, 0.0], [0.0, 0.06]], [[0.01, 0.0], [0.0, 0.01]]])
    weights, n = torch.tensor([0.5, 0.3, 0.2]).double(), 3000
    x = sampled(kind(steps, grid=FINE), MixtureOracle(SCHEDULES[on], weights, means, spread.double()), n, 2)
    for axis in range(2):
        z = (x[:, axis].sort().values[:, None] - means[:, axis]) / spread.double()[:, axis, axis].sqrt()
        distance = (torch.special.ndtr(z) @ weights - (torch.arange(n) + 0.5) / n).abs().max()
        assert distance < 2.2 / math.sqrt(n) + 0.02


@pytest.mark.parametrize(("name", "on"), zip(ALL, list(SCHEDULES)[3:] * 3, strict=False))
def test_every_sampler_recovers_points(name: str, on: str) -> None:
    """Each sample lands on a point, each point as often as the others: 4.5 standard errors of a share, and 0.03."""
    kind, steps, _ = ALL[name]
    points = torch.tensor([[-0.8, -0.2], [0.5, 0.5], [0.6, -0.7], [-0.5, 0.9]]).double()
    n = 2000
    x = sampled(kind(steps, grid=FINE), PointsOracle(SCHEDULES[on], points), n, 2)
    distance, nearest = torch.cdist(x, points).min(1)
    assert distance.quantile(0.99) < 0.02
    share = nearest.bincount(minlength=4) / n
    assert ((share - 0.25).abs() < 4.5 * math.sqrt(0.25 * 0.75 / n) + 0.03).all()


class Routed(Denoiser):
    """A denoiser whose network answers y = a x0 + b eps with the oracle's x0 and eps."""

    def __init__(self, oracle: GaussianOracle, kind: prediction.Prediction):
        super().__init__(nn.Identity(), oracle.schedule, kind)
        self.oracle = oracle

    def output(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        estimate = self.oracle(x_t, t)
        a, b = (c.reshape(-1, 1, 1, 1) for c in self.prediction.weights(self.schedule, t))
        return a * estimate.x0 + b * estimate.eps, None


@pytest.mark.parametrize("on", SCHEDULES)
@pytest.mark.parametrize("kind", [prediction.Eps, prediction.X0, prediction.V, prediction.Velocity, prediction.EDM])
def test_samplers_see_through_every_prediction(kind: type, on: str) -> None:
    oracle = GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE)
    if kind is prediction.Eps and on in ("zero_snr", "flow", "flow_shifted"):
        with pytest.raises(UserError, match=r"zero terminal SNR.*use prediction=v"):
            Routed(oracle, kind())
        return
    routed = Routed(oracle, kind())
    noise = as_images(torch.linspace(-1, 1, 6).double().reshape(2, D))
    for sampler in (DPMSolver(20, grid=FINE), Heun(20, grid=FINE), DDIM(20, grid=FINE, eta=1.0)):
        through, direct = (sampler(each, noise, Bulk(1)) for each in (routed, oracle))
        torch.testing.assert_close(through, direct, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_an_image_depends_on_its_own_seed_alone(name: str) -> None:
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
    sampler(oracle, torch.zeros(2, D, 1, 1), Bulk(0), watch=lambda k, x, estimate: calls.append((k, estimate.x0.shape)))
    assert sampler.evaluations == EVALUATIONS.get(name, 10)
    assert calls == [(k, (2, D, 1, 1)) for k in range(1, 11)]


@pytest.mark.parametrize("name", ALL)
def test_arithmetic_is_float32_around_a_half_precision_network(name: str) -> None:
    """A bfloat16 network of constant output: the result is that of float64 arithmetic to float32's precision."""

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
def test_a_network_under_autocast_gives_float32_images(name: str) -> None:
    torch.manual_seed(0)
    convolution, seen = nn.Conv2d(1, 1, 3, padding=1), set()

    class Network(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            out = convolution(x)
            seen.add(out.dtype)
            return out

    denoiser, kind = Denoiser(Network(), SCHEDULES["vp"], prediction.V()), ALL[name][0]
    noise = torch.randn(2, 1, 4, 4)
    exact = kind(4, grid=FINE)(denoiser, noise, Bulk(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = kind(4, grid=FINE, **({"rtol": 0.1, "atol": 0.1} if kind is ProbabilityFlow else {}))(
            denoiser, noise, Bulk(2)
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
        kind(4, grid=FINE)(Denoiser(net, SCHEDULES["vp"], prediction.V()), noise, Bulk(2))
        for net in (network, compiled)
    )
    torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize("name", ALL)
def test_a_threshold_bounds_every_estimate(name: str) -> None:
    sampler, seen = ALL[name][0](5, grid=FINE, threshold=partial(clip, limit=0.2)), []
    oracle = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    out = sampler(oracle, 2 * torch.ones(2, D, 1, 1), Bulk(0), watch=lambda k, x, e: seen.append(e.x0.abs().max()))
    assert max(seen) <= 0.2
    assert out.abs().max() < 0.25


def test_a_learned_variance_lies_between_the_fixed_ones() -> None:
    """spread −1 is the small variance and +1 the large one, per pixel; a network without a spread is refused."""
    oracle = GaussianOracle(SCHEDULES["linear"], MEAN, COVARIANCE)

    class Spread(nn.Module):
        schedule = oracle.schedule

        def forward(self, x: Tensor, t: Tensor) -> Estimate:
            return oracle(x, t)._replace(spread=torch.tensor([-1.0, 1.0, -1.0]).expand(len(x), D).reshape(x.shape))

    noise = as_images(torch.linspace(-1, 1, 6).double())
    small, large, learned = (
        Ancestral(1, grid=lambda schedule, n: torch.tensor([0.5, 0.4]), variance=choice)(
            Spread(), noise, Bulk(3)
        ).flatten(1)
        for choice in (variance.fixed_small, variance.fixed_large, variance.learned_range)
    )
    torch.testing.assert_close(learned, torch.stack([small[:, 0], large[:, 1], small[:, 2]], dim=1))
    with pytest.raises(UserError, match="no spread"):
        Ancestral(10, variance=variance.learned_range)(oracle, noise, Bulk(3))


def test_bad_orders_and_grids_are_refused() -> None:
    with pytest.raises(UserError, match=r"eta = 2 .* from 0 .* to 1"):
        DDIM(10, eta=2.0)
    for kind in (DPMSolver, UniPC, AdamsBashforth):
        with pytest.raises(UserError, match=r"order = 4 .* from 1 to 3"):
            kind(10, order=4)
    stuck = DDIM(2, grid=lambda schedule, steps: torch.tensor([1.0, 0.5, 0.5]))
    with pytest.raises(UserError, match=r"times 1 and 2 .* 0.5 and 0.5"):
        stuck(GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE), torch.zeros(1, D, 1, 1), Bulk(0))


def test_the_adaptive_solver_stops_at_a_broken_network() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return x / 0

    with pytest.raises(UserError, match="rtol"):
        ProbabilityFlow(2, grid=grid.log_snr)(
            Denoiser(Broken(), SCHEDULES["vp"], prediction.V()), torch.zeros(1, D, 1, 1), Bulk(0)
        )
