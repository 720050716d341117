"""Inpainting samples the conditional distribution; SDEdit starts from the noised image; interpolated noise is noise."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from sampler_cases import ALL, COVARIANCE, FINE, MEAN, SCHEDULES
from torch import Tensor

from diffusion.process import grid
from diffusion.process.denoiser import clip, diffuse
from diffusion.process.editing import Between, Inpainting, RePaint, SDEdit, SplitGibbs
from diffusion.process.operators import MaskOperator, Observation
from diffusion.process.posterior import MMPS
from diffusion.process.sampler import DDIM, DPMSolver, Sampler, UniPC
from diffusion.randomness import Streams, seed_for
from tests.support.oracle import GaussianOracle, sampler_moments

Y = 0.9  # the known value, 1 standard deviation above its mean
KNOWN_FIRST = torch.tensor([Y, 7.0, -7.0], dtype=torch.float64).reshape(3, 1, 1)
KNOWN = torch.tensor([True, False, False]).reshape(3, 1, 1)
SEEN = Observation(MaskOperator(KNOWN), (3, 1, 1), KNOWN_FIRST[None])
SDE = partial(DPMSolver, eta=1.0)


def conditional(rho: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the Gaussian's last two values, given the first one with noise of deviation rho."""
    gain = COVARIANCE[1:, 0] / (COVARIANCE[0, 0] + rho**2)
    return MEAN[1:] + gain * (Y - MEAN[0]), COVARIANCE[1:, 1:] - torch.outer(gain, COVARIANCE[0, 1:])


def wasserstein(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    values, axes = torch.linalg.eigh(other[1])
    root = axes * values.clamp(min=0).sqrt() @ axes.T
    cross = torch.linalg.eigvalsh(root @ one[1] @ root).clamp(min=0).sqrt().sum()
    return float((one[0] - other[0]).square().sum() + (one[1] + other[1]).trace() - 2 * cross) ** 0.5


REPAINT, REPAINT_2, REPAINT_10 = (partial(RePaint, passes=n) for n in (1, 2, 10))
GIBBS_10, GIBBS_20 = (partial(SplitGibbs, rounds=n) for n in (10, 20))


def law(method: Callable[..., Inpainting], sampler: Sampler) -> tuple[Tensor, Tensor]:
    oracle = GaussianOracle(SCHEDULES["vp"], MEAN, COVARIANCE)
    mean, covariance = sampler_moments(method(sampler, SEEN), oracle)
    assert mean[0] == Y
    assert covariance[0].abs().max() == 0
    return mean[1:], covariance[1:, 1:]


# The errors stated in the docstrings.
STATED = [
    (REPAINT, DDIM, 50, 0.090), (REPAINT_10, DDIM, 50, 0.035), (GIBBS_10, SDE, 50, 0.077), (GIBBS_20, DDIM, 50, 0.060),
]  # fmt: skip


@pytest.mark.parametrize(("method", "kind", "steps", "stated"), STATED)
def test_samples_follow_the_conditional_distribution_with_the_documented_error(method, kind, steps, stated):
    assert wasserstein(law(method, kind(steps, grid=FINE)), conditional()) == pytest.approx(stated, abs=0.0006)


class Counting(GaussianOracle):
    given: dict[str, Tensor] = {}  # noqa: RUF012

    def __call__(self, x_t, t, **conditions):
        self.given = conditions
        return super().__call__(x_t, t)


@pytest.mark.parametrize(
    ("method", "evaluations"),
    [
        (REPAINT, 10),
        (REPAINT_2, 9 * 2 + 1),
        (partial(SplitGibbs, rounds=5), 10 + 8 + 6 + 4 + 2),
        (GIBBS_20, 55),
        (MMPS, 10),
    ],
)
def test_evaluations_are_counted_and_conditions_and_thresholds_reach_the_denoiser(method, evaluations):
    oracle = Counting(SCHEDULES["cosine"], MEAN, COVARIANCE)
    streams = Streams.of(2, "drawn")
    sampler = method(DDIM(10, threshold=partial(clip, limit=0.01)), replace(SEEN, y=SEEN.y.float()))
    seen = []
    noise = streams.normal(3, 1, 1)
    x = sampler(oracle, noise, streams, lambda k, x, e: seen.append((k, e)), classes=torch.tensor([4, 5]))
    assert oracle.calls == evaluations
    assert oracle.given["classes"].tolist() == [4, 5]
    assert [k for k, _ in seen] == [*range(1, sampler.steps + 1)]
    assert all(estimate.x0.abs().max() <= 0.011 for _, estimate in seen)
    assert x[:, 1:].abs().max() <= 0.011


@pytest.mark.parametrize("kind", [DPMSolver, UniPC])
def test_repaint_reduces_multistep_solvers_to_first_order(kind):
    for one, other in zip(law(REPAINT_2, kind(8, grid=FINE)), law(REPAINT_2, DDIM(8, grid=FINE)), strict=True):
        torch.testing.assert_close(one, other)


PICTURE = torch.tensor([0.4, -0.3, 0.9]).reshape(3, 1, 1)


def test_a_variant_equals_sampling_from_the_noised_picture():
    """0.6 of 5 steps are 3 steps, which start at the third of the 6 times."""
    sampler = ALL["heun_churn"](5, grid=grid.log_snr)
    oracle = GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)
    edited, seen = SDEdit(sampler, PICTURE, 0.6), []
    streams = Streams.of(2, "x")
    x = edited(oracle, streams.normal(3, 1, 1), streams, lambda k, *_: seen.append(k))

    t = float(grid.log_snr(oracle.schedule, 5)[2])
    streams = Streams.of(2, "x")
    x_t = diffuse(oracle.schedule, PICTURE[None], streams.normal(3, 1, 1), torch.tensor([t, t], dtype=torch.float64))
    assert torch.equal(x, sampler(oracle, x_t, streams, start=t))
    assert (edited.steps, len(seen)) == (3, 3)
    assert SDEdit(sampler, PICTURE, 0.01).steps == 1
    alpha, sigma = oracle.schedule(torch.tensor(t, dtype=torch.float64))
    assert edited.begins(oracle.schedule) == pytest.approx((t, float(sigma / alpha)))


def between(shares):
    n = len(shares)
    return Between([seed_for("a")] * n, [seed_for("b")] * n, shares)


def test_interpolation_ends_equal_each_seeds_noise_and_the_middle_is_unit_noise():
    streams, a, b = between([0, 1, 0.5, 0.25]), Streams([seed_for("a")]), Streams([seed_for("b")])
    for dtype in (torch.float32, torch.float64):  # the second draw, too
        z, first, last = (s.normal(3, 32, 32, dtype=dtype) for s in (streams, a, b))
        assert z.dtype == dtype
        assert torch.equal(z[0], first[0])
        torch.testing.assert_close(z[1], last[0], rtol=0, atol=1e-15)
        torch.testing.assert_close(z[2], (first + last)[0] / 2**0.5)
        assert z.flatten(1).std(1).tolist() == pytest.approx([1] * 4, abs=0.05)
        assert float((z[3] * first[0]).mean()) == pytest.approx(0.92, abs=0.06)  # cos(π/8)
