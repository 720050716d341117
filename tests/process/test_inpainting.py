"""Inpainting samples the conditional distribution: on a Gaussian, by the exact moments of the result, and on points."""

from functools import partial

import pytest
import torch
from sampler_cases import ALL, COVARIANCE, FINE, MEAN, SCHEDULES
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import grid
from diffusion.process.denoiser import clip
from diffusion.process.editing import LEAST_STEPS
from diffusion.process.inpainting import Inpainting, RePaint, SplitGibbs
from diffusion.process.oracle import GaussianOracle, PointsOracle, sampler_moments
from diffusion.process.sampler import DDIM, AdamsBashforth, DPMSolver, ProbabilityFlow, Sampler, UniPC
from diffusion.randomness import Streams

Y = 0.9  # the known value, 1 standard deviation above its mean
PICTURE = torch.tensor([Y, 7.0, -7.0], dtype=torch.float64).reshape(3, 1, 1)
KNOWN = torch.tensor([True, False, False]).reshape(3, 1, 1)
SDE = partial(DPMSolver, eta=1.0)
METHODS = [RePaint(3), SplitGibbs(4)]


def conditional(rho: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the Gaussian's last two values, given the first one with noise of deviation rho."""
    gain = COVARIANCE[1:, 0] / (COVARIANCE[0, 0] + rho**2)
    return MEAN[1:] + gain * (Y - MEAN[0]), COVARIANCE[1:, 1:] - torch.outer(gain, COVARIANCE[0, 1:])


def wasserstein(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    values, axes = torch.linalg.eigh(other[1])
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    cross = torch.linalg.eigvalsh(root @ one[1] @ root).clamp(min=0).sqrt().sum()
    return float((one[0] - other[0]).square().sum() + (one[1] + other[1]).trace() - 2 * cross) ** 0.5


def law(method: Inpainting, sampler: Sampler, on: str = "vp") -> tuple[Tensor, Tensor]:
    mean, covariance = sampler_moments(method(sampler, PICTURE, KNOWN), GaussianOracle(SCHEDULES[on], MEAN, COVARIANCE))
    assert mean[0] == Y
    assert covariance[0].abs().max() == 0
    return mean[1:], covariance[1:, 1:]


def test_the_conditional_gaussian_has_the_stated_deviations_and_distance():
    mean, covariance = conditional()
    assert covariance.diagonal().sqrt().tolist() == pytest.approx([0.40, 0.36], abs=0.005)
    assert wasserstein((MEAN[1:], COVARIANCE[1:, 1:]), (mean, covariance)) == pytest.approx(0.25, abs=0.005)


# The errors stated in the docstrings.
STATED = [
    (RePaint(1), DDIM, 50, 0.090),
    (RePaint(1), DDIM, 100, 0.087),
    (RePaint(1), DDIM, 400, 0.086),
    (RePaint(10), DDIM, 50, 0.035),
    (RePaint(10), DDIM, 100, 0.020),
    (SplitGibbs(10), SDE, 50, 0.077),
    (SplitGibbs(20), SDE, 50, 0.046),
    (SplitGibbs(50), SDE, 50, 0.023),
    (SplitGibbs(10), DDIM, 50, 0.086),
    (SplitGibbs(20), DDIM, 50, 0.060),
    (SplitGibbs(50), DDIM, 50, 0.042),
]


@pytest.mark.parametrize(("method", "kind", "steps", "stated"), STATED)
def test_samples_follow_the_conditional_distribution_with_the_documented_error(method, kind, steps, stated):
    assert wasserstein(law(method, kind(steps, grid=FINE)), conditional()) == pytest.approx(stated, abs=0.0006)


@pytest.mark.parametrize("on", SCHEDULES)
def test_the_error_is_nearly_the_same_on_every_schedule(on):
    """Except that some end below the noise level where the grid begins."""
    for method, stated in ((RePaint(5), 0.038), (SplitGibbs(20), 0.060)):
        assert wasserstein(law(method, DDIM(50, grid=FINE), on), conditional()) == pytest.approx(stated, abs=0.004)


@pytest.mark.parametrize(
    ("kind", "rho", "rounds", "stated"), [(SDE, 1.0, 8, 0.0015), (SDE, 0.3, 30, 0.0015), (DDIM, 0.3, 30, 0.03)]
)
def test_rounds_at_one_noise_level_sample_the_distribution_given_a_noisy_value(kind, rho, rounds, stated):
    """The theory of split Gibbs sampling. A sampler without noise comes less close, and fails at high noise."""
    inner = kind(60, grid=partial(grid.karras, sigma_min=0.01, sigma_max=2.0))
    sampler = SplitGibbs(rounds)(inner, PICTURE, KNOWN)
    t = SCHEDULES["ve"].time(torch.tensor(rho, dtype=torch.float64).log() * -2)
    held = torch.cat([t * (1 - 1e-5 * torch.arange(rounds) / rounds), torch.zeros(1, dtype=torch.float64)])
    sampler.grid = lambda schedule, n: held
    mean, covariance = sampler_moments(sampler, GaussianOracle(SCHEDULES["ve"], MEAN, COVARIANCE))
    reached = mean[1:], covariance[1:, 1:]
    assert wasserstein(reached, conditional(rho)) < stated
    assert wasserstein(conditional(rho), conditional()) > 0.05  # a different distribution


@pytest.mark.parametrize("method", [RePaint(10), SplitGibbs(20)], ids=["repaint", "split_gibbs"])
@pytest.mark.parametrize("kind", [DDIM, SDE], ids=["ddim", "sde"])
def test_only_points_with_the_known_value_are_drawn_with_equal_frequency(method, kind):
    """Within 0.12 of one half, for 200 samples: 3.4 standard errors."""
    points = torch.tensor([[-0.8, 0.3, 0.4], [-0.8, -0.6, -0.9], [0.6, 0.9, 0.0]], dtype=torch.float64)
    picture = points[0].reshape(3, 1, 1)
    streams = Streams.of(200, "points")
    sampler = method(kind(25, grid=FINE), picture, KNOWN)
    x = sampler(PointsOracle(SCHEDULES["vp"], points), streams.normal(3, 1, 1, dtype=torch.float64), streams)
    distance, nearest = torch.cdist(x.flatten(1), points).min(1)
    assert distance.max() < 0.05
    shares = torch.bincount(nearest, minlength=3) / len(x)
    assert shares[2] == 0
    assert abs(float(shares[0]) - 0.5) < 0.12


def drawn(method: Inpainting, sampler: Sampler, picture: Tensor, n: int = 3, oracle: GaussianOracle | None = None):
    streams = Streams.of(n, "drawn")
    denoise = oracle or GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)
    made = method(sampler, picture, KNOWN)
    return made(denoise, streams.normal(3, 1, 1), streams), made


@pytest.mark.parametrize("method", METHODS, ids=["repaint", "split_gibbs"])
@pytest.mark.parametrize("name", ALL)
def test_every_sampler_returns_known_values_exactly(name, method):
    kind, _, _ = ALL[name]
    x, _ = drawn(method, kind(LEAST_STEPS if name == "probability_flow" else 4, grid=grid.log_snr), PICTURE.float())
    assert x.isfinite().all()
    assert (x[:, 0] == PICTURE.float()[0]).all()
    assert len(x[:, 1].unique()) == 3


@pytest.mark.parametrize("method", METHODS, ids=["repaint", "split_gibbs"])
def test_an_adaptive_sampler_with_few_steps_is_refused(method):
    """Its steps are the only places at which known values can be inserted."""
    with pytest.raises(UserError, match=r"in sampler.steps=2 parts, and an edit can only start between two of them"):
        drawn(method, ProbabilityFlow(2), PICTURE.float())


@pytest.mark.parametrize("method", METHODS, ids=["repaint", "split_gibbs"])
def test_neither_unknown_pixels_nor_the_batch_affect_the_result(method):
    x, _ = drawn(method, SDE(5), PICTURE.float())
    others = torch.where(KNOWN, PICTURE, PICTURE + 3).float()
    assert torch.equal(x, drawn(method, SDE(5), others)[0])
    torch.testing.assert_close(x[:1], drawn(method, SDE(5), PICTURE.float(), n=1)[0], rtol=0, atol=1e-6)


class Counting(GaussianOracle):
    calls = 0
    given: dict[str, Tensor] = {}  # noqa: RUF012

    def __call__(self, x_t, t, **conditions):
        self.calls += 1
        self.given = conditions
        return super().__call__(x_t, t)


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [(RePaint(1), 10), (RePaint(4), 9 * 4 + 1), (SplitGibbs(5), 10 + 8 + 6 + 4 + 2), (SplitGibbs(99), 55)],
)
def test_evaluations_are_counted_and_conditions_and_thresholds_reach_the_denoiser(method, evaluations):
    oracle = Counting(SCHEDULES["cosine"], MEAN, COVARIANCE)
    streams = Streams.of(2, "drawn")
    sampler = method(DDIM(10, threshold=partial(clip, limit=0.01)), PICTURE.float(), KNOWN)
    seen = []
    noise = streams.normal(3, 1, 1)
    x = sampler(oracle, noise, streams, lambda k, x, e: seen.append((k, e)), classes=torch.tensor([4, 5]))
    assert sampler.evaluations == oracle.calls == evaluations
    assert oracle.given["classes"].tolist() == [4, 5]
    assert [k for k, _ in seen] == [*range(1, sampler.steps + 1)]
    assert all(estimate.x0.abs().max() <= 0.011 for _, estimate in seen)
    assert x[:, 1:].abs().max() <= 0.011


@pytest.mark.parametrize("kind", [DPMSolver, UniPC, AdamsBashforth])
def test_repaint_reduces_multistep_solvers_to_first_order(kind):
    for one, other in zip(law(RePaint(2), kind(8, grid=FINE)), law(RePaint(2), DDIM(8, grid=FINE)), strict=True):
        torch.testing.assert_close(one, other)


def test_repaint_gives_known_pixels_fresh_noise_of_the_right_level():
    """Within 5 standard errors. On a Gaussian the result hardly depends on it, but networks expect it."""
    seen = []

    class Spy(GaussianOracle):
        def __call__(self, x_t, t):
            alpha, sigma = self.schedule(t)
            seen.append(((x_t[:, 0, 0, 0] - alpha * Y) / sigma).double())
            return super().__call__(x_t, t)

    streams = Streams.of(500, "spy")
    sampler = RePaint(2)(DDIM(5), PICTURE, KNOWN)
    sampler(Spy(SCHEDULES["cosine"], MEAN, COVARIANCE), streams.normal(3, 1, 1), streams)
    z = torch.stack(seen)
    assert len(z) == 9
    assert z.mean(1).abs().max() < 5 / 500**0.5
    assert (z.std(1) - 1).abs().max() < 5 / 1000**0.5
    assert (torch.corrcoef(z) - torch.eye(9)).abs().max() < 5 / 500**0.5


def test_a_mask_may_omit_the_channel_dimension():
    picture = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    known = torch.zeros(4, 4, dtype=torch.bool)
    known[1] = True
    oracle = GaussianOracle(SCHEDULES["cosine"], torch.zeros(48), torch.eye(48))
    streams = Streams.of(2, "drawn")
    for method in METHODS:
        x = method(DDIM(3), picture, known)(oracle, streams.normal(3, 4, 4), streams)
        assert torch.equal(x[:, :, 1], picture[:, 1].expand(2, 3, 4))
        assert not torch.isclose(x[:, :, 0], picture[:, 0]).any()


def test_a_mask_that_leaves_nothing_to_fill_is_refused():
    with pytest.raises(UserError, match="mask: every pixel is known"):
        RePaint()(DDIM(3), PICTURE, torch.ones(1, 1, dtype=torch.bool))


@pytest.mark.parametrize(("method", "name"), [(RePaint(passes=0), "passes"), (SplitGibbs(rounds=0), "steps")])
def test_methods_without_a_pass_are_refused(method, name):
    with pytest.raises(UserError, match=f"has {name} = 0; it must be at least 1"):
        method(DDIM(3), PICTURE, torch.zeros(1, 1, dtype=torch.bool))
