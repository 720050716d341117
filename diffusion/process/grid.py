"""Time grids for samplers: functions (schedule, steps) -> (steps + 1,) times falling from the start to 0, float64.

On a table the times are rows i/T. (The integer timestep of other libraries is i − 1.)
"""

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.schedule import Schedule


def _rows(schedule: Schedule, steps: int) -> int | None:
    """T of a table, after checking that it has `steps` rows to offer; None for a continuous schedule."""
    if steps < 1:
        raise UserError(f"sampler: steps = {steps}; at least one step is needed")
    table = getattr(schedule, "steps", None)
    if table is not None and steps > table:
        raise UserError(
            f"sampler: steps = {steps}, but the schedule's table has T = {table}; use at most {table} steps"
        )
    return table


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """t_k = 1 − k/N, from t = 1 to 0, rounded to rows on a table ("linspace"/"trailing" spacing)."""
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
