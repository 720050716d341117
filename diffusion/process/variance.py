"""The reverse step's posterior, for any pair of times s < t.

    r = alpha_t sigma_s / (alpha_s sigma_t) = exp((lambda_t − lambda_s)/2)
    q(x_s | x_t, x0) = N(alpha_s x0 + sigma_s r eps, sigma_s² (1 − r²) I)
(DDPM, eqs. 6–7; the memoir's Proposition 4.5 for s = t − 1/T). It holds for any pair, so fewer steps are a coarser
grid and need no new betas. A variance is a function (schedule, t, s, spread) -> log variance.
"""

import torch
from torch import Tensor

from diffusion.process.schedule import Schedule


def ratio(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """r and 1 − r², the latter as −expm1(lambda_t − lambda_s) so that close times lose no digits."""
    difference = schedule.log_snr(t) - schedule.log_snr(s)
    return torch.exp(difference / 2), -torch.expm1(difference)


def fixed_small(schedule: Schedule, t: Tensor, s: Tensor, spread: Tensor | None = None) -> Tensor:
    """log(sigma_s² (1 − r²)): the posterior's own variance, the memoir's β̃_t; −inf at s = 0."""
    _, sigma_s = schedule(s)
    _, rest = ratio(schedule, t, s)
    return torch.log(sigma_s**2 * rest)


def fixed_large(schedule: Schedule, t: Tensor, s: Tensor, spread: Tensor | None = None) -> Tensor:
    """log(sigma_t² (1 − r²)): the memoir's β_t when s = t − 1/T."""
    _, sigma_t = schedule(t)
    _, rest = ratio(schedule, t, s)
    return torch.log(sigma_t**2 * rest)
