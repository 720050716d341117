"""Time grids for samplers: functions (schedule, steps) -> (steps + 1,) times, decreasing from the start to 0, float64.

On a table, `uniform`, `leading` and `linspace` use the times i/T of its rows. (The integer timestep of other libraries
is i − 1.) The other grids take equal steps in a function of the time or of the noise level sigma/alpha, down to the
lowest noise level, and then one step to 0. On a table their times lie between rows, where log-SNR is interpolated.
`leading` and `linspace` need a table. A sampler calls its grid with the schedule and its number of steps.
"""

import copy
import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.schedule import PURE_NOISE, Schedule, pure_noise

Level = Annotated[float, Gt(0)]  # a noise level, sigma/alpha


def _rows(schedule: Schedule, steps: int) -> int:
    """T of a table; 0 for a continuous schedule. Raises UserError unless a table has rows for 1 … `steps` steps."""
    table: int = getattr(schedule, "steps", 0)
    if steps < 1 or (table and steps > table):
        raise UserError(f"sampler: {steps} steps; expected at least 1" + (f", at most T = {table}" if table else ""))
    return table


def mostly_noise(schedule: Schedule) -> bool:
    """Whether a continuous schedule, such as EDM's, is nearly all the time at noise levels that hide the image."""
    if getattr(schedule, "steps", None) is not None:
        return False
    alpha, sigma = copy.deepcopy(schedule).cpu()(torch.tensor(0.05, dtype=torch.float64))
    return bool(sigma > alpha)


def even_times(schedule: Schedule, u: Tensor) -> Tensor:
    """Times for errors that are averaged over u, evenly spread in (0, 1]: t = u, (B,) float64 on the CPU.

    On a schedule that is `mostly_noise`, few of them would contribute to the mean. There, the angle arctan(sigma/alpha)
    is u times that of t = 1, as for a cosine schedule.
    """
    if not mostly_noise(schedule):
        return u
    schedule = copy.deepcopy(schedule).cpu()
    alpha, sigma = schedule(torch.ones(1, dtype=torch.float64))
    return schedule.time(-2 * torch.tan(u * torch.atan2(sigma, alpha)).log()).clamp(max=1)


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """t_k = 1 − k/N, from t = 1 to 0; on a table, rounded to its rows ("trailing" spacing).

    Raises UserError on schedules such as EDM's, which spend nearly all of the time at noise levels that hide the image.
    """
    table = _rows(schedule, steps)
    if mostly_noise(schedule):
        raise UserError(
            "sampler: on this schedule sigma is above alpha at t = 0.05, so hardly any step of the grid uniform is at "
            "low noise; use the grid karras"
        )
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return torch.round(t * table) / table if table else t


def _on_rows(schedule: Schedule, steps: int, rows: Callable[[int], Tensor]) -> Tensor:
    """The times of the decreasing rows(T) of a table, then 0."""
    table = _rows(schedule, steps)
    if not table:
        raise UserError("sampler: the grids leading and linspace need a discrete schedule; use uniform")
    return torch.cat([rows(table) / table, torch.zeros(1, dtype=torch.float64)])


def leading(schedule: Schedule, steps: int) -> Tensor:
    """Rows 1 + k·⌊T/N⌋ of a table, then 0: the spacing of DDIM's reference code. It starts below t = 1 if N < T."""
    return _on_rows(schedule, steps, lambda T: 1 + torch.arange(steps, dtype=torch.float64).flip(0) * (T // steps))


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """N evenly spaced rows of a table from T to 1, both included, then 0 (Improved DDPM's respacing)."""

    def rows(T: int) -> Tensor:
        # Those of torch.linspace differ by a bit, and near a half so by a row.
        chosen = 1 + torch.from_numpy(np.linspace(0, T - 1, steps).round()).flip(0)
        chosen[0] = T
        return chosen

    return _on_rows(schedule, steps, rows)


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps in √t from 1 to √(1/T), or to √0.001 on a continuous schedule, then 0 (DDIM, appendix D.2)."""
    least = 1 / getattr(schedule, "steps", 1000)
    t = torch.linspace(1, math.sqrt(least), steps, dtype=torch.float64) ** 2
    return torch.cat([t, t.new_zeros(1)])


def karras(
    schedule: Schedule,
    steps: int,
    rho: Annotated[float, Gt(0)] = 7.0,
    sigma_min: Level | None = None,
    sigma_max: Level | None = None,
) -> Tensor:
    """Equal steps in (sigma/alpha)^{1/ρ} from sigma_max to sigma_min, then 0 (EDM, eq. 5; the paper: 80 to 0.002).

    Args:
        rho: ρ; a larger value makes the steps shorter at low noise.
        sigma_min: the lowest sigma/alpha before 0, clamped to the schedule's; None: row 1 of a table, else 0.002.
        sigma_max: sigma/alpha at the start, clamped to the schedule's; None: t = 1, counted as 160 if it is pure noise.
    """
    return _noise_levels(schedule, steps, lambda v: v ** (1 / rho), lambda u: u**rho, sigma_min, sigma_max)


def consistency(
    schedule: Schedule,
    steps: int,
    rho: Annotated[float, Gt(0)] = 7.0,
    sigma_min: Level | None = 0.821,
    sigma_max: Level | None = 80.0,
) -> Tensor:
    """The times of consistency sampling: `karras` from 80 to the noise level of the last estimate, then 0.

    Args:
        rho: ρ; a larger value makes the steps shorter at low noise.
        sigma_min: the lowest sigma/alpha before 0, clamped to the schedule's; None: row 1 of a table, else 0.002.
        sigma_max: sigma/alpha at the start, clamped to the schedule's; None: t = 1, counted as 160 if it is pure noise.
    """
    return karras(schedule, steps, rho, sigma_min, sigma_max)


def log_snr(schedule: Schedule, steps: int, sigma_min: Level | None = None, sigma_max: Level | None = None) -> Tensor:
    """Equal steps in log(alpha/sigma), then 0 (DPM-Solver, section 3.4).

    Args:
        sigma_min: the lowest sigma/alpha before 0, clamped to the schedule's; None: row 1 of a table, else 0.002.
        sigma_max: sigma/alpha at the start, clamped to the schedule's; None: t = 1, counted as 160 if it is pure noise.
    """
    return _noise_levels(schedule, steps, torch.log, torch.exp, sigma_min, sigma_max)


def cosine(schedule: Schedule, steps: int, sigma_min: Level | None = None, sigma_max: Level | None = None) -> Tensor:
    """Equal steps in the angle arctan(sigma/alpha), then 0: on any schedule, the noise levels of a cosine schedule.

    Args:
        sigma_min: the lowest sigma/alpha before 0, clamped to the schedule's; None: row 1 of a table, else 0.002.
        sigma_max: sigma/alpha at the start, clamped to the schedule's; None: t = 1, counted as 160 if it is pure noise.
    """
    return _noise_levels(schedule, steps, torch.atan, torch.tan, sigma_min, sigma_max)


def _noise_levels(
    schedule: Schedule,
    steps: int,
    axis: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sigma_min: float | None,
    sigma_max: float | None,
) -> Tensor:
    """N times that are equally spaced in axis(sigma/alpha) from the largest noise level to the smallest, then 0.

    If t = 1 is pure noise, the first time is still t = 1, and the others are placed as if it had level 160.
    """
    schedule = copy.deepcopy(schedule).cpu()
    table = getattr(schedule, "steps", None)
    bounds = torch.tensor([1 / table if table else 0.0, 1.0], dtype=torch.float64)
    first, last = (schedule.log_snr(bounds) / -2).exp().tolist()  # sigma/alpha
    if sigma_max is None and pure_noise(*(float(end) for end in schedule(bounds[1]))):
        largest = PURE_NOISE
    else:
        largest = last if sigma_max is None else min(sigma_max, last)
    smallest = first if table and sigma_min is None else max(sigma_min or 0.002, first)
    if smallest >= largest:
        raise UserError(
            f"sampler: the grid's sigma_min = {smallest:g} is not below its sigma_max = {largest:g}; "
            f"the schedule's noise level sigma/alpha ranges from {first:g} to {last:g}"
        )
    ends = axis(torch.tensor([largest, smallest], dtype=torch.float64))
    levels = inverse(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps, dtype=torch.float64)))
    t = schedule.time(-2 * levels.log()).clamp(0, 1)
    if sigma_max is None or largest == last:
        t[0] = 1.0
    return torch.cat([t, t.new_zeros(1)])
