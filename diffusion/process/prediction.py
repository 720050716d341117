"""What the network predicts: one linear map of (x0, eps).

The target at time t is y = a·x0 + b·eps. Together with x_t = alpha_t x0 + sigma_t eps this is a 2×2 system, so with
det = alpha_t·b − sigma_t·a every prediction is inverted by the same two lines (`denoiser.Denoiser`):
    x0 = (b·x_t − sigma_t·y) / det,    eps = (alpha_t·y − a·x_t) / det.
"""

import torch
from torch import Tensor

from diffusion.process.schedule import Schedule


class Prediction:
    """The contract: the weights (a, b) of the target, and what the network is given."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """a, b (B,) of the target y = a·x0 + b·eps."""
        raise NotImplementedError

    def inputs(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in (B,), by which x_t is multiplied, and label (B,), the number that tells the network the time.

        The label is 1000·t − 1: DDPM's integer index 0 … 999 for T = 1000, so weights travel unchanged.
        """
        return torch.ones_like(t), 1000 * t - 1


class Eps(Prediction):
    """y = eps: the network predicts the noise (DDPM, eq. 14). Singular where alpha_t = 0."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)
