"""Time grids for samplers: functions (schedule, steps) -> (steps + 1,) times falling from the start to 0, float64.

`uniform`, `leading` and `linspace` give rows i/T of a table. (The integer timestep of other libraries is i − 1.) The
others are equal steps of a function of the time or of the noise level sigma/alpha, from the start to the least noise,
then 0; on a table their times lie between rows, where log-SNR is interpolated.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.schedule import Schedule


def _rows(schedule: Schedule, steps: int) -> int | None:
    """T of a table, after checking that it has `steps` rows to offer; None for a continuous schedule."""
    _at_least_one(steps)
    table = getattr(schedule, "steps", None)
    if table is not None and steps > table:
        raise UserError(
            f"sampler: steps = {steps}, but the schedule's table has T = {table}; use at most {table} steps"
        )
    return table


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise UserError(f"sampler: steps = {steps}; at least one step is needed")


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """t_k = 1 − k/N, from t = 1 to 0, rounded to rows on a table ("trailing" spacing)."""
    table = _rows(schedule, steps)
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return t if table is None else torch.round(t * table) / table


def leading(schedule: Schedule, steps: int) -> Tensor:
    """Rows 1 + k·⌊T/N⌋ of a table, then 0: DDIM's spacing in the reference code, which starts below t = 1."""
    table = _rows(schedule, steps)
    if table is None:
        raise UserError("sampler: the grid `leading` needs a table schedule; use the grid `uniform`")
    rows = 1 + torch.arange(steps, dtype=torch.float64).flip(0) * (table // steps)
    return torch.cat([rows / table, rows.new_zeros(1)])


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """N rows from T to 1, both included, then 0 (Improved DDPM's respacing)."""
    table = _rows(schedule, steps)
    if table is None:
        raise UserError("sampler: the grid `linspace` needs a table schedule; use the grid `uniform`")
    rows = 1 + torch.linspace(0, table - 1, steps, dtype=torch.float64).round().flip(0)
    rows[0] = table
    return torch.cat([rows / table, rows.new_zeros(1)])


def quadratic(schedule: Schedule, steps: int) -> Tensor:
    """√t in equal steps from 1 to √(1/T), or to √0.001 on a continuous schedule, then 0 (DDIM, appendix D.2)."""
    _at_least_one(steps)
    least = 1 / getattr(schedule, "steps", 1000)
    t = torch.linspace(1, math.sqrt(least), steps, dtype=torch.float64) ** 2
    return torch.cat([t, t.new_zeros(1)])


def karras(
    schedule: Schedule, steps: int, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Tensor:
    """(sigma/alpha)^{1/ρ} in equal steps from sigma_max to sigma_min, then 0 (EDM, eq. 5; its own ends: 80, 0.002)."""
    return _noise_levels(schedule, steps, lambda v: v ** (1 / rho), lambda u: u**rho, sigma_min, sigma_max)


def log_snr(schedule: Schedule, steps: int, sigma_min: float | None = None, sigma_max: float | None = None) -> Tensor:
    """log(alpha/sigma) in equal steps, then 0 (DPM-Solver, section 3.4)."""
    return _noise_levels(schedule, steps, torch.log, torch.exp, sigma_min, sigma_max)


def cosine(schedule: Schedule, steps: int, sigma_min: float | None = None, sigma_max: float | None = None) -> Tensor:
    """The angle arctan(sigma/alpha) in equal steps, then 0: uniform steps of a cosine schedule, on any schedule."""
    return _noise_levels(schedule, steps, torch.atan, torch.tan, sigma_min, sigma_max)


def _noise_levels(
    schedule: Schedule,
    steps: int,
    axis: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    sigma_min: float | None,
    sigma_max: float | None,
) -> Tensor:
    """Times at which axis(sigma/alpha) takes N equal steps from its largest to its smallest, then 0.

    The ends are within the schedule's own. None: the largest is that at t = 1, or 160 where it is infinite (DDPM's
    linear table ends at 157); the smallest is that of a table's first row, or 0.002.
    """
    _at_least_one(steps)
    schedule = copy.deepcopy(schedule).cpu()
    table = getattr(schedule, "steps", None)
    bounds = torch.tensor([1 / table if table else 0.0, 1.0], dtype=torch.float64)
    first, last = (schedule.log_snr(bounds) / -2).exp().tolist()  # sigma/alpha
    largest = min(sigma_max or (last if math.isfinite(last) else 160.0), last)
    smallest = max(sigma_min or (0.0 if table else 0.002), first)
    if smallest >= largest:
        raise UserError(
            f"sampler: the grid's sigma_min = {smallest:g} is not below its sigma_max = {largest:g}; "
            f"the schedule's noise level sigma/alpha goes from {first:g} to {last:g}"
        )
    ends = axis(torch.tensor([largest, smallest], dtype=torch.float64))
    levels = inverse(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps, dtype=torch.float64)))
    t = schedule.time(-2 * levels.log()).clamp(0, 1)
    if largest == last:
        t[0] = 1.0  # not a rounding below
    return torch.cat([t, t.new_zeros(1)])
