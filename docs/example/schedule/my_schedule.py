import math
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from diffusion.process.schedule import Schedule


class MySchedule(Schedule):
    """x_t = alpha_t x0 + sigma_t ε on the unit circle, at a constant speed:

        alpha_t = cos(θ t),    sigma_t = sin(θ t),    for t from 0 to 1

    Args:
        degrees: θ; 90 would end in pure noise, from which a network that predicts the noise cannot recover x0.
    """

    def __init__(self, degrees: Annotated[float, Gt(0), Lt(90)] = 89.0):
        super().__init__()
        self.theta = math.radians(degrees)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at times t of any shape."""
        return torch.cos(self.theta * t), torch.sin(self.theta * t)

    def time(self, log_snr: Tensor) -> Tensor:
        """The t at which log(alpha²/sigma²) has this value."""
        return torch.atan(torch.exp(-log_snr / 2)) / self.theta
