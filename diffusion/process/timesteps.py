"""How training times are drawn. A draw is a function (schedule, streams) -> t (B,), importance (B,).

`importance` is what the loss at t is multiplied by so that its expectation is the one under uniform times.
"""

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams


def uniform_table(schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
    """t uniform on the rows {1/T, …, 1} of a table (DDPM, Algorithm 1); importance 1."""
    steps = getattr(schedule, "steps", None)
    if steps is None:
        raise UserError("timesteps: uniform_table needs a table schedule (such as schedule=linear)")
    rows = 1 + torch.floor(streams.uniform() * steps)
    return rows / steps, torch.ones_like(rows)
