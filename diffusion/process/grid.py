"""Time grids for samplers: functions (schedule, steps) -> (steps + 1,) times, decreasing from the start to 0, float64.

On a table, `uniform`, `leading` and `linspace` use the times i/T of its rows. (The integer timestep of other libraries
is i − 1.) The others take equal steps in a function of the time or of the noise level sigma/alpha, then one to 0.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.schedule import PURE_NOISE, Positive, Schedule, pure_noise

Level = Positive | None  # a noise level, sigma/alpha
Map = Callable[[Tensor], Tensor]
Grid = Callable[[Schedule, int], Tensor]


def _rows(schedule: Schedule, steps: int) -> int:
    """T of a table. Raises UserError for a continuous schedule, and for a table with fewer than `steps` rows."""
    if not schedule.steps:
        raise UserError("sampler: this grid needs a discrete schedule; use uniform")
    if steps > schedule.steps:
        raise UserError(f"sampler: {steps} steps; this schedule has at most T = {schedule.steps}")
    return schedule.steps


def mostly_noise(schedule: Schedule) -> bool:
    """Whether a continuous schedule, such as EDM's, is nearly all the time at noise levels that hide the image."""
    return schedule.steps is None and bool(schedule.on_cpu().level(torch.tensor(0.05, dtype=torch.float64)) > 1)


def even_times(schedule: Schedule, u: Tensor) -> Tensor:
    """Times for errors that are averaged over u, evenly spread in (0, 1]: t = u, (B,) float64 on the CPU.

    If that is `mostly_noise`, the angle arctan(sigma/alpha) is u times that of t = 1, as for a cosine schedule.
    """
    if not mostly_noise(schedule):
        return u
    schedule = schedule.on_cpu()
    alpha, sigma = schedule(torch.ones(1, dtype=torch.float64))
    return schedule.time(-2 * torch.tan(u * torch.atan2(sigma, alpha)).log()).clamp(max=1)


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """t_k = 1 − k/N, from t = 1 to 0; on a table, rounded to its rows ("trailing" spacing)."""
    if mostly_noise(schedule):
        raise UserError("sampler: on this schedule, the grid uniform has hardly any step at low noise; use karras")
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return torch.round(t * _rows(schedule, steps)) / schedule.steps if schedule.steps else t


def leading(schedule: Schedule, steps: int) -> Tensor:
    """Rows 1 + k·⌊T/N⌋ of a table, then 0: the spacing of DDIM's reference code. It starts below t = 1 if N < T."""
    T = _rows(schedule, steps)
    return F.pad((1 + torch.arange(steps, dtype=torch.float64).flip(0) * (T // steps)) / T, (0, 1))


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """N evenly spaced rows of a table from T to 1, both included, then 0 (Improved DDPM's respacing)."""
    T = _rows(schedule, steps)
    # Those of torch.linspace differ by a bit, and near a half so by a row.
    rows = 1 + torch.from_numpy(np.linspace(0, T - 1, steps).round()).flip(0)
    rows[0] = T
    return F.pad(rows / T, (0, 1))


def karras(
    schedule: Schedule, steps: int, rho: Positive = 7.0, sigma_min: Level = None, sigma_max: Level = None
) -> Tensor:
    """Equal steps in (sigma/alpha)^{1/ρ} from sigma_max to sigma_min, then 0 (EDM, eq. 5; the paper: 80 to 0.002)."""
    return _noise_levels(schedule, steps, lambda v: v ** (1 / rho), lambda u: u**rho, sigma_min, sigma_max)


def flow(schedule: Schedule, steps: int) -> Tensor:
    """Equal steps in sigma/(alpha + sigma), from t = 1 to 0: on any schedule, the noise levels of a straight flow."""
    schedule, ends = schedule.on_cpu(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    u = torch.linspace(float(schedule.flow_time(ends[:1])), 0, steps + 1, dtype=torch.float64)
    return torch.cat([ends[:1], schedule.at_flow_time(u[1:-1]), ends[1:]])


def log_snr(schedule: Schedule, steps: int, sigma_min: Level = None, sigma_max: Level = None) -> Tensor:
    """Equal steps in log(alpha/sigma), then 0 (DPM-Solver, section 3.4)."""
    return _noise_levels(schedule, steps, torch.log, torch.exp, sigma_min, sigma_max)


def _noise_levels(
    schedule: Schedule, steps: int, axis: Map, inverse: Map, sigma_min: Level, sigma_max: Level
) -> Tensor:
    """N times that are equally spaced in axis(sigma/alpha) from sigma_max to sigma_min, then 0.

    Both are clamped to the schedule's levels. sigma_min None is row 1 of a table, else 0.002; sigma_max None is t = 1,
    whose level counts as 160 if it is pure noise.
    """
    schedule = schedule.on_cpu()
    bounds = torch.tensor([schedule.first, 1.0], dtype=torch.float64)
    first, last = (schedule.log_snr(bounds) / -2).exp().tolist()  # sigma/alpha
    if sigma_max is None and pure_noise(*(float(end) for end in schedule(bounds[1]))):
        largest = PURE_NOISE
    else:
        largest = last if sigma_max is None else min(sigma_max, last)
    smallest = first if schedule.steps and sigma_min is None else max(sigma_min or 0.002, first)
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
    return F.pad(t, (0, 1))
