"""Schedules: parity with diffusers, precision, the inverse, derivatives, limits, rejected arguments."""

import math

import pytest
import sampler_cases
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from diffusion.process.schedule import VE, VP, Discrete, Flow, ScaledSchedule, Schedule, SubVP, cosine, linear

from diffusion.process.schedule import scaled_linear, shifted, sigmoid, table, zero_terminal_snr  # isort: skip

TABLES = {
    "linear": linear(), "short": linear(10, 1e-3, 0.5), "scaled_linear": scaled_linear(), "cosine": cosine(),
    "sigmoid": sigmoid(), "shifted": shifted(cosine(), 4), "table": table([1e-3, 0.1, 0.2], 50),
    "zero_snr": zero_terminal_snr(scaled_linear()),
}  # fmt: skip
SCHEDULES: dict[str, Schedule] = {**sampler_cases.SCHEDULES, **TABLES}
SCHEDULES["images of a quarter of the contrast"] = ScaledSchedule(cosine(), 4.0)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
each_table = pytest.mark.parametrize("schedule", TABLES.values(), ids=TABLES.keys())
TIMES = torch.linspace(0, 1, 3001, dtype=torch.float64)


@each_schedule
def test_every_schedule_starts_clean_and_decreases_in_snr(schedule: Schedule) -> None:
    alpha, sigma = schedule(TIMES)
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() <= 1e-16).all()
    assert (schedule.log_snr(TIMES).diff() < 0).all()  # also between the rows of a table
    inner = TIMES[1:-1]
    torch.testing.assert_close(schedule.log_snr(inner), 2 * (alpha / sigma).log()[1:-1], rtol=1e-9, atol=1e-9)


@each_schedule
def test_time_inverts_log_snr(schedule: Schedule) -> None:
    times = torch.cat([torch.logspace(-6, 0, 200, dtype=torch.float64), TIMES[1:]])
    torch.testing.assert_close(schedule.time(schedule.log_snr(times)), times, rtol=1e-7, atol=0)


@each_schedule
def test_derivatives_match_finite_differences(schedule: Schedule) -> None:
    steps = schedule.steps or 1000
    t = (torch.arange(1, steps, dtype=torch.float64) + 0.37) / steps  # inside the intervals of a table
    h = 1e-6 / steps
    numeric = [(after - before) / (2 * h) for after, before in zip(schedule(t + h), schedule(t - h), strict=True)]
    for ours, theirs in zip(schedule.derivatives(t), numeric, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6 * float(theirs.abs().max()) + 1e-9)
    rate = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.log_snr_rate(t), rate, rtol=1e-5, atol=1e-4)


def test_sdes_match_song() -> None:
    """f = α'/α and g² = −σ²λ'. VP: f = −β/2, g² = β. Sub-VP: g² = β(1 − e^(−2∫β)). VE: σ_min² r^(2t) 2 log r."""
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    for schedule, f, g2 in (
        (VP(), -beta / 2, beta),
        (SubVP(), -beta / 2, beta * (1 - torch.exp(-2 * integral))),
        (VE(0.01, 50.0), 0 * t, 1e-4 * 5000 ** (2 * t) * 2 * math.log(5000)),
    ):
        alpha, sigma = schedule(t)
        torch.testing.assert_close(schedule.derivatives(t)[0] / alpha, f)
        torch.testing.assert_close(-(sigma**2) * schedule.log_snr_rate(t), g2)


@pytest.mark.parametrize("table", [zero_terminal_snr(scaled_linear()), cosine(), linear(2, 0.1, 0.5)])
def test_derivative_at_the_second_to_last_row_is_that_of_the_last_interval(table: Discrete) -> None:
    """alpha is linear there. From log-SNR, which falls by 21 within one row, the slope would be 60 times as large."""
    row = torch.tensor([1 - 1 / table.steps], dtype=torch.float64)
    for slope, beside in zip(table.derivatives(row), table.derivatives(row + 1e-7), strict=True):
        torch.testing.assert_close(slope, beside, rtol=1e-3, atol=0)
    torch.testing.assert_close(table.log_snr(row), table.lambdas[-2:-1], rtol=1e-12, atol=0)


def test_tables_match_diffusers() -> None:
    scaled = {"beta_start": 0.00085, "beta_end": 0.012}
    theirs = {"linear": ("linear", {}), "cosine": ("squaredcos_cap_v2", {}), "scaled_linear": ("scaled_linear", scaled)}
    for name, (kind, ends) in theirs.items():
        reference, schedule = DDPMScheduler(beta_schedule=kind, **ends), TABLES[name]
        alpha, _ = schedule(torch.arange(1, 1001) / 1000)
        torch.testing.assert_close(schedule.betas().float(), reference.betas, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close((alpha**2).float(), reference.alphas_cumprod, rtol=2e-4, atol=1e-8)


def test_zero_terminal_snr_matches_diffusers() -> None:
    table = zero_terminal_snr(scaled_linear())
    reference = rescale_zero_terminal_snr(scaled_linear().betas())
    torch.testing.assert_close(table.betas(), reference, rtol=1e-6, atol=1e-9)
    alpha, sigma = table(torch.ones((), dtype=torch.float64))
    assert float(alpha) == pytest.approx(1e-8, rel=1e-3)
    assert float(sigma) == 1


def test_the_first_step_keeps_full_precision() -> None:
    """1 − ᾱ_1 = β_1 = 1e-4. In float32, 1 − ᾱ would have a relative error of 1e-4."""
    _, sigma = linear()(torch.tensor([1 / 1000], dtype=torch.float64))
    assert abs(float(sigma**2) / 1e-4 - 1) < 1e-12
    _, sigma = VP()(torch.tensor([1e-9], dtype=torch.float64))
    assert abs(float(sigma**2) / 0.1e-9 - 1) < 1e-6


@each_table
def test_float32_times_find_their_rows_but_are_never_those_of_the_clean_image(schedule: Discrete) -> None:
    """As on MPS, which has no float64: a consistency loss is divided by σ."""
    times = torch.arange(1, schedule.steps + 1).double() / schedule.steps
    torch.testing.assert_close(schedule(times.float()), schedule(times), rtol=0, atol=0)
    t = torch.tensor([1e-8, 1e-7], dtype=torch.float32)
    assert (schedule(t)[1] > 0).all()
    assert schedule.log_snr(t).isfinite().all()


@pytest.mark.parametrize("shift", [0.5, 1.0, 4.0])
def test_shift_multiplies_sigma_over_alpha(shift: float) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    rows = torch.arange(1, 1001, dtype=torch.float64) / 1000
    fall = 2 * math.log(shift)
    torch.testing.assert_close(shifted(linear(), shift).log_snr(rows), linear().log_snr(rows) - fall)
    torch.testing.assert_close(Flow(shift).log_snr(t), Flow().log_snr(t) - fall)


def test_tables_stay_in_float64_when_the_module_is_cast_or_moved() -> None:
    holder = torch.nn.ModuleDict({"schedule": linear()})
    before = holder["schedule"](TIMES)
    for change in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.to("cpu"), lambda m: m.float()):
        change(holder)
        after = holder["schedule"](TIMES)
        assert after[0].dtype == torch.float64
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_given_betas_are_used_exactly_or_interpolated_linearly() -> None:
    betas = cosine(100).betas()
    assert torch.equal(table(betas.tolist()).lambdas, Discrete(betas).lambdas)
    torch.testing.assert_close(table([1e-4, 0.02], 1000).lambdas, linear().lambdas, rtol=1e-12, atol=0)
    middle = table([0.1, 0.3, 0.2], 5).betas()
    torch.testing.assert_close(middle, torch.tensor([0.1, 0.2, 0.3, 0.25, 0.2], dtype=torch.float64))
