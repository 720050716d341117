"""Schedules: values against diffusers, precision, the inverse, bad input."""

import pytest
import torch
from diffusers import DDPMScheduler

from diffusion.errors import UserError
from diffusion.process.schedule import Discrete, cosine, linear

TABLES = {"linear": linear, "cosine": cosine}


@pytest.mark.parametrize("name", TABLES)
def test_tables_start_clean_and_lose_signal_steadily(name: str) -> None:
    schedule = TABLES[name]()
    t = torch.linspace(0, 1, 5001, dtype=torch.float64)
    alpha, sigma = schedule(t)
    assert (alpha[0], sigma[0]) == (1, 0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)
    assert (schedule.log_snr(t).diff() < 0).all()  # also between the rows


@pytest.mark.parametrize(("ours", "theirs"), [(linear, "linear"), (cosine, "squaredcos_cap_v2")])
def test_tables_equal_diffusers(ours, theirs: str) -> None:  # type: ignore[no-untyped-def]
    reference = DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs)
    schedule = ours()
    alpha, _ = schedule(torch.arange(1, 1001) / 1000)
    torch.testing.assert_close(schedule.betas().float(), reference.betas, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close((alpha**2).float(), reference.alphas_cumprod, rtol=2e-4, atol=1e-8)


def test_the_first_step_keeps_its_digits() -> None:
    """1 − ᾱ_1 = β_1 = 1e-4, which float32's 1 − ᾱ misses by 1e-4 relative."""
    _, sigma = linear()(torch.tensor([1 / 1000], dtype=torch.float64))
    assert abs(float(sigma**2) / 1e-4 - 1) < 1e-12


@pytest.mark.parametrize("name", TABLES)
def test_float32_times_find_their_rows(name: str) -> None:
    schedule = TABLES[name]()
    rows = torch.arange(1, 1001)
    torch.testing.assert_close(schedule((rows / 1000).float()), schedule(rows.double() / 1000), rtol=0, atol=0)


def test_half_precision_and_moves_leave_the_tables_in_float64() -> None:
    holder = torch.nn.ModuleDict({"schedule": linear()})
    t = torch.linspace(0, 1, 77, dtype=torch.float64)
    before = holder["schedule"](t)
    for change in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.to("cpu"), lambda m: m.float()):
        change(holder)
        after = holder["schedule"](t)
        assert after[0].dtype == torch.float64
        torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_tables_are_not_written_to_checkpoints() -> None:
    assert not linear().state_dict()


@pytest.mark.parametrize("name", TABLES)
def test_time_inverts_log_snr(name: str) -> None:
    schedule = TABLES[name]()
    t = torch.linspace(1e-5, 1, 3001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_betas_outside_zero_one_are_refused_in_one_line(bad: float) -> None:
    with pytest.raises(UserError, match=r"β_2 = .* of 3 lies outside \(0, 1\)") as refusal:
        Discrete(torch.tensor([0.1, bad, 0.1]))
    assert "\n" not in str(refusal.value)
