"""Distributions of the training times: each matches its paper, and importance weights make all of them unbiased."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.process.schedule import EDM, VP, Flow, Schedule, linear
from diffusion.process.timesteps import (
    FromFloor,
    Laplace,
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    Quantile,
    Uniform,
    UniformTable,
)
from diffusion.randomness import Streams

EVEN = torch.linspace(0, 1, 200_001, dtype=torch.float64)[:-1] + 1 / 400_000  # midpoints of u
DRAWS: dict[str, tuple[Callable[..., Quantile], Schedule]] = {
    "uniform": (Uniform, VP()),
    "log_normal_edm": (LogNormal, EDM()),
    "log_normal_vp": (LogNormal, VP()),
    "log_normal_table": (LogNormal, linear()),
    "laplace_edm": (Laplace, EDM()),
    "laplace_vp": (Laplace, VP()),
    "logit_normal": (LogitNormal, Flow()),
}


class EvenStreams(Streams):
    """Fixed u instead of random ones, which turns a Monte Carlo mean into a quadrature."""

    def __init__(self, u: Tensor):
        self.u = u

    def uniform(self) -> Tensor:
        return self.u


@pytest.mark.parametrize("name", DRAWS)
def test_importance_makes_every_distribution_unbiased(name: str) -> None:
    """E[importance·f(t)] = ∫ f dt, for bumps f in the bulk of the distribution (even u are too coarse in the tails)."""
    build, schedule = DRAWS[name]
    t, importance = build()(schedule, EvenStreams(EVEN))
    assert ((t >= 0) & (t <= 1)).all()
    fine = torch.linspace(0, 1, 1_000_001, dtype=torch.float64)
    for centre in (float(t.quantile(0.3)), float(t.quantile(0.6))):
        bump, exact = (torch.exp(-((3 * (x / centre - 1)) ** 2)) for x in (t, fine))
        torch.testing.assert_close((importance * bump).mean(), torch.trapezoid(exact, fine), rtol=2e-3, atol=0)


def test_log_normal_matches_edm_and_logit_normal_matches_sd3() -> None:
    u = EvenStreams(EVEN)
    normal = [-on.log_snr(LogNormal(0.5, 0.8)(on, u)[0]) / 2 for on in (EDM(), VP())]
    for x in (*normal, torch.logit(LogitNormal(0.5, 0.8)(Flow(), u)[0])):
        assert abs(float(x.mean()) - 0.5) < 1e-3
        assert abs(float(x.std()) - 0.8) < 1e-3


def test_laplace_matches_hang_and_is_truncated_at_the_noisiest_end() -> None:
    """Half of the times on each side of the mean, whose mean distance is the scale; and none beyond t = 1."""
    log_snr = VP().log_snr(Laplace(0.3, 0.7)(VP(), EvenStreams(EVEN))[0])
    assert abs(float(log_snr.median()) - 0.3) < 1e-3
    assert abs(float((log_snr - 0.3).abs().mean()) - 0.7) < 1e-3
    end = float(linear(10).log_snr(torch.ones(1, dtype=torch.float64)))
    for mean in (end - 1, end + 1):
        t, _ = Laplace(mean, 0.7)(linear(10), EvenStreams(EVEN))
        assert t.max() <= 1
        assert (linear(10).log_snr(t) >= end - 1e-9).all()


def test_uniform_table_draws_every_row_equally_often() -> None:
    t, importance = UniformTable()(linear(10), EvenStreams(EVEN))
    assert (importance == 1).all()
    rows, counts = torch.unique((t * 10).round(), return_counts=True)
    assert rows.tolist() == list(range(1, 11))
    assert (counts == len(EVEN) // 10).all()


def test_stratified_draws_are_evenly_spaced() -> None:
    t, _ = Uniform(first=0.0, stratified=True)(VP(), Streams(range(100, 116)))
    gaps = torch.cat([t.sort().values, t.sort().values[:1] + 1]).diff()
    torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / 16))


def learned(steps: int = 20, history: int = 3) -> LossSecondMoment:
    draw = LossSecondMoment(steps, history, uniform=0.01)
    rows = torch.arange(1, steps + 1).repeat(history)
    draw.update(rows / steps, 1.0 / rows)
    return draw


def test_loss_second_moment_is_uniform_until_every_row_has_losses() -> None:
    draw = LossSecondMoment(20, 3)
    draw.update(torch.linspace(0.05, 0.9, 18), torch.full((18,), 100.0))
    assert (draw(linear(20), Streams(range(8)))[1] == 1).all()
    torch.testing.assert_close(draw.probabilities(), torch.full((20,), 1 / 20).double())


def test_loss_second_moment_follows_the_losses_and_is_unbiased() -> None:
    draw, table, steps = learned(), linear(20), 20
    p = 1 / torch.arange(1, 21, dtype=torch.float64)
    torch.testing.assert_close(draw.probabilities(), 0.99 * p / p.sum() + 0.01 / 20, rtol=1e-6, atol=0)
    t, importance = draw(table, EvenStreams(EVEN))
    counts = torch.bincount((t * steps).round().long() - 1, minlength=steps) / len(EVEN)
    torch.testing.assert_close(counts.double(), draw.probabilities(), rtol=1e-3, atol=1e-4)
    for f in (lambda t: t, lambda t: torch.exp(-5 * t)):
        expected = f(torch.arange(1, steps + 1).double() / steps).mean()
        torch.testing.assert_close((importance * f(t)).mean(), expected, rtol=1e-3, atol=0)


def test_loss_second_moment_keeps_the_last_losses_and_is_saved_in_checkpoints() -> None:
    draw = learned()
    draw.update(torch.full((3,), 1 / 20), torch.full((3,), 7.0))  # the same row three times: its whole history
    assert (draw.losses[0] == 7).all()
    assert (draw.losses[1] == 0.5).all()
    other = LossSecondMoment(20, 3, uniform=0.01)
    other.load_state_dict(draw.state_dict())
    torch.testing.assert_close(other.probabilities(), draw.probabilities(), rtol=0, atol=0)


@pytest.mark.parametrize("schedule", [VP(), EDM(), linear(1000)])
def test_from_floor_draws_in_proportion_to_what_is_left_above_the_floor(schedule: Schedule) -> None:
    draw = FromFloor(bins=4, history=2, uniform=0.2)
    middles = draw.middles(schedule)
    draw.floor.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    draw.update(middles, torch.ones(4))
    torch.testing.assert_close(draw.probabilities(), torch.full((4,), 0.25).double())  # a bin needs two losses
    draw.update(middles, torch.tensor([2.0, 4.0, 2.0, 5.0]))  # their means: 1.5, 2.5, 1.5, 3
    expected = 0.05 + 0.8 * torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(draw.probabilities(), expected)
    t, importance = draw(schedule, EvenStreams(EVEN))
    assert (importance == 1).all()
    share = torch.bincount(draw.row(t), minlength=4) / len(EVEN)
    torch.testing.assert_close(share.double(), expected, rtol=0, atol=2e-3)
    if schedule.steps:
        torch.testing.assert_close(t * 1000, (t * 1000).round())
