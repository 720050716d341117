"""Grids of sampling times: ends, spacing, parity with diffusers, rejected arguments."""

from functools import partial

import diffusers
import pytest
import sampler_cases
import torch

from diffusion.process import grid, schedule
from diffusion.process.schedule import Schedule

SCHEDULES = sampler_cases.SCHEDULES | {"short": schedule.linear(20)}
EVERYWHERE = [grid.uniform, grid.karras, grid.log_snr, grid.flow]
ON_TABLES = [grid.leading, grid.linspace]


@pytest.mark.parametrize("on", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_times_decrease_to_zero(on: str, steps: int) -> None:
    table = SCHEDULES[on].steps
    fitting = [*EVERYWHERE[on == "edm" :], *(ON_TABLES if table else [])]  # `uniform` does not suit EDM
    for choice in fitting:
        times = choice(SCHEDULES[on], steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert (times.diff() < 0).all()
        assert times[-1] == 0
        assert times[0] == 1 or choice is grid.leading
        if choice in (grid.uniform, *ON_TABLES) and table:
            torch.testing.assert_close(times * table, (times * table).round(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("choice", "spacing"), [(grid.uniform, "trailing"), (grid.leading, "leading"), (grid.linspace, "linspace")]
)
@pytest.mark.parametrize("steps", [1, 7, 27, 999])
def test_row_spacings_match_diffusers(choice: object, spacing: str, steps: int) -> None:
    """With one step, diffusers' linspace starts at timestep 0. Here it starts from pure noise."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    ours = (choice(SCHEDULES["linear"], steps)[:-1] * 1000 - 1).round().long()
    if (spacing, steps) == ("linspace", 1):
        assert ours.tolist() == [999]
    else:
        assert ours.tolist() == scheduler.timesteps.tolist()


def level(on: Schedule, times: torch.Tensor) -> torch.Tensor:
    alpha, sigma = on(times[:-1])
    return sigma / alpha


@pytest.mark.parametrize("on", ["linear", "ve", "flow"])
@pytest.mark.parametrize(
    ("choice", "axis"),
    [(partial(grid.karras, rho=5.0), lambda v: v**0.2), (grid.log_snr, torch.log)],
    ids=["karras", "log_snr"],
)
def test_noise_levels_are_equally_spaced_on_their_axis(choice: partial, axis: object, on: str) -> None:
    values = level(SCHEDULES[on], choice(SCHEDULES[on], 30, sigma_min=0.02, sigma_max=40.0))
    assert values[0] == pytest.approx(40, rel=1e-9)
    assert values[-1] == pytest.approx(0.02, rel=1e-9)
    steps = axis(values).diff()
    torch.testing.assert_close(steps, steps.mean().expand(29), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("on", ["vp", "edm"])
def test_many_of_the_evenly_spread_times_contribute_to_a_mean_error(on: str) -> None:
    """For the error of eps of the best denoiser of N(0, 1/4), (Σe)²/Σe² is the effective number of 250 times."""
    t = grid.even_times(SCHEDULES[on], (torch.arange(250, dtype=torch.float64) + 0.5) / 250)
    assert (t.diff() > 0).all()
    assert ((t > 0) & (t <= 1)).all()
    alpha, sigma = SCHEDULES[on](t)
    error = alpha**2 / (alpha**2 + 4 * sigma**2)
    assert float(error.sum() ** 2 / error.square().sum()) > 25
