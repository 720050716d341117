"""SDEdit starts from the noised image; interpolations between two noises are noise."""

import pytest
import torch
from sampler_cases import ALL, COVARIANCE, MEAN, SCHEDULES

from diffusion.errors import UserError
from diffusion.process import grid
from diffusion.process.denoiser import diffuse
from diffusion.process.editing import Between, SDEdit
from diffusion.process.oracle import GaussianOracle
from diffusion.process.sampler import DDIM, DPMSolver
from diffusion.randomness import Streams, seed_for

PICTURE = torch.tensor([0.4, -0.3, 0.9]).reshape(3, 1, 1)


@pytest.mark.parametrize("name", [name for name in ALL if name != "probability_flow"])  # needs more steps
def test_a_variant_equals_sampling_from_the_noised_picture(name):
    """0.6 of 5 steps are 3 steps, which start at the third of the 6 times."""
    sampler = ALL[name][0](5, grid=grid.log_snr)
    oracle = GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)
    edited, seen = SDEdit(0.6)(sampler, PICTURE), []
    streams = Streams.of(2, "x")
    x = edited(oracle, streams.normal(3, 1, 1), streams, lambda k, *_: seen.append(k))

    t = float(grid.log_snr(oracle.schedule, 5)[2])
    streams = Streams.of(2, "x")
    x_t = diffuse(oracle.schedule, PICTURE[None], streams.normal(3, 1, 1), torch.tensor([t, t], dtype=torch.float64))
    assert torch.equal(x, sampler(oracle, None, streams, start=(x_t, t)))
    assert edited.evaluations == sampler.evaluations
    assert (edited.steps, len(seen)) == (3, 3)
    alpha, sigma = oracle.schedule(torch.tensor(t, dtype=torch.float64))
    assert edited.begins(oracle.schedule) == pytest.approx((t, float(sigma / alpha)))


def test_less_noise_stays_closer_to_the_picture():
    oracle = GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)

    def distance(strength):
        streams = Streams.of(64, "x")
        edited = SDEdit(strength)(DDIM(50), PICTURE)
        return float((edited(oracle, streams.normal(3, 1, 1), streams) - PICTURE).square().mean().sqrt())

    distances = [distance(strength) for strength in (0.001, 0.3, 0.6, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.05  # at least one step
    streams = Streams.of(64, "x")
    plain = DDIM(50)(oracle, streams.normal(3, 1, 1), streams)
    assert distances[-1] == pytest.approx(float((plain - PICTURE).square().mean().sqrt()), rel=0.02)


@pytest.mark.parametrize("strength", [0, -1, 1.01, float("nan")])
def test_an_invalid_strength_is_refused(strength):
    with pytest.raises(UserError, match=rf"strength={strength:g}: it must be in \(0, 1\]"):
        SDEdit(strength)


def test_a_variant_refuses_a_start():
    edited, oracle = SDEdit(0.5)(DDIM(4), PICTURE), GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)
    with pytest.raises(UserError, match="and no start"):
        edited(oracle, None, Streams.of(1, "x"), start=(PICTURE[None], 0.5))


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


def test_a_stochastic_sampler_reproduces_both_ends_of_an_interpolation():
    oracle = GaussianOracle(SCHEDULES["cosine"], MEAN, COVARIANCE)

    def drawn(streams):
        return DPMSolver(6, eta=1.0)(oracle, streams.normal(3, 1, 1), streams)

    x = drawn(between([0, 0.3, 1]))
    torch.testing.assert_close(x[[0, 2]], torch.cat([drawn(Streams([seed_for(end)])) for end in "ab"]))


def test_interpolating_between_equal_seeds_is_refused():
    with pytest.raises(UserError, match="both ends have the same seed"):
        Between([5], [5], [0.5])
