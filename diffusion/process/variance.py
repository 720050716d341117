"""The posterior of the reverse step and its variance, for any pair of times s < t.

    r = alpha_t sigma_s / (alpha_s sigma_t) = exp((lambda_t − lambda_s)/2)
    q(x_s | x_t, x0) = N(alpha_s x0 + sigma_s r eps, sigma_s² (1 − r²) I)
(DDPM, eqs. 6–7; the memoir's Proposition 4.5 for s = t − 1/T). A variance is a function (schedule, t, s, spread) -> log
variance.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import expand
from diffusion.process.schedule import Schedule

Variance = Callable[[Schedule, Tensor, Tensor, Tensor | None], Tensor]


def ratio(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """r and 1 − r². The latter is −expm1(lambda_t − lambda_s), which keeps its precision when t and s are close."""
    difference = schedule.log_snr(t) - schedule.log_snr(s)
    return torch.exp(difference / 2), -torch.expm1(difference)


def fixed_small(schedule: Schedule, t: Tensor, s: Tensor, spread: Tensor | None = None) -> Tensor:
    """log(sigma_s² (1 − r²)): the variance of the posterior, the memoir's β̃_t.

    At s = 0, where it would be 0: that of the step from 2t to t (or from 1 to 1/2), DDPM's β̃_2 if t = 1/T.
    """
    last = s == 0
    s = torch.where(last, t.clamp(max=0.5), s)
    t = torch.where(last, 2 * s, t)
    return torch.log(schedule(s)[1] ** 2 * ratio(schedule, t, s)[1])


def fixed_large(schedule: Schedule, t: Tensor, s: Tensor, spread: Tensor | None = None) -> Tensor:
    """log(sigma_t² (1 − r²)): the memoir's β_t if s = t − 1/T. At s = 0: `fixed_small`, as in DDPM's code."""
    return torch.where(s == 0, fixed_small(schedule, t, s), forward_variance(schedule, t, s))


def forward_variance(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """log(sigma_t² (1 − r²)): the variance of x_t given x_s, the memoir's β_t if s = t − 1/T."""
    return torch.log(schedule(t)[1] ** 2 * ratio(schedule, t, s)[1])


def learned_range(schedule: Schedule, t: Tensor, s: Tensor, spread: Tensor | None = None) -> Tensor:
    """v·log(large) + (1 − v)·log(small), v = (spread + 1)/2 (Improved DDPM, eq. 15).

    Small is `fixed_small`, large is `forward_variance`, even at s = 0, as in Improved DDPM's code.
    """
    if spread is None:
        raise UserError("variance: learned_range needs a network with 2C output channels; use fixed_small")
    small, large = (expand(fixed(schedule, t, s), spread) for fixed in (fixed_small, forward_variance))
    return torch.lerp(small, large, (spread + 1) / 2)


def gaussian_kl(difference: Tensor, log_variance1: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(m₁, v₁) ‖ N(m₂, v₂)) = (v₁/v₂ − 1 − log(v₁/v₂) + (m₁ − m₂)²/v₂)/2, elementwise; `difference` is m₁ − m₂."""
    log_ratio = log_variance1 - log_variance2
    return (torch.expm1(log_ratio) - log_ratio + difference**2 * torch.exp(-log_variance2)) / 2
