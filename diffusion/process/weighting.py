"""Loss weights: functions (schedule, prediction, t) -> the (B,) weight of the network's error ‖y − y_θ‖².

The papers state them for different predictions. With x0 = p·x_t + q·y (`Prediction.solve`) the errors are one:
    ‖x0 − x0_θ‖² = q² ‖y − y_θ‖²   and   ‖eps − eps_θ‖² = SNR ‖x0 − x0_θ‖²,
so each is written once, as a weight of the error of x0, and means the same for every prediction. `unit` alone depends
on what is predicted, as the literature's "simple" losses do.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule
from diffusion.process.variance import fixed_small, ratio


def _of_x0(weight: Tensor, schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    (_, q), _ = prediction.solve(schedule, t)
    return weight * q**2


def unit(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """1: the prediction's own squared error; L_simple for eps (DDPM, eq. 14), and EDM's weight for its F."""
    return torch.ones_like(t)


def snr(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """SNR·‖x0 − x0_θ‖², which is ‖eps − eps_θ‖² (Salimans & Ho, section 4)."""
    return _of_x0(schedule.log_snr(t).exp(), schedule, prediction, t)


def truncated_snr(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """max(SNR, 1)·‖x0 − x0_θ‖² (Salimans & Ho, section 4)."""
    return _of_x0(schedule.log_snr(t).exp().clamp(min=1), schedule, prediction, t)


def min_snr(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, γ)·‖x0 − x0_θ‖² (Hang et al., section 3.4)."""
    return _of_x0(schedule.log_snr(t).exp().clamp(max=gamma), schedule, prediction, t)


def soft_min_snr(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: float = 4.0) -> Tensor:
    """1/(σ² + 1/γ)·‖x0 − x0_θ‖², σ² = 1/SNR: min-SNR without the corner (Crowson et al., HDiT)."""
    return _of_x0(1 / (torch.exp(-schedule.log_snr(t)) + 1 / gamma), schedule, prediction, t)


def p2(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """‖eps − eps_θ‖²/(k + SNR)^γ (Choi et al., eq. 8)."""
    ratio_t = schedule.log_snr(t).exp()
    return _of_x0(ratio_t / (k + ratio_t) ** gamma, schedule, prediction, t)


def edm(schedule: Schedule, prediction: Prediction, t: Tensor, sigma_data: float = 0.5) -> Tensor:
    """(σ² + σ_d²)/(σ σ_d)²·‖x0 − x0_θ‖², σ² = 1/SNR (Karras et al., table 1)."""
    return _of_x0(schedule.log_snr(t).exp() + sigma_data**-2, schedule, prediction, t)


def velocity(schedule: Schedule, prediction: Prediction, t: Tensor, clip: Annotated[float, Ge(0)] = 0.05) -> Tensor:
    """‖x0 − x0_θ‖²/max(sigma_t, clip)²: the loss of the velocity (Li & He, JiT, table 1).

    As sigma_t eps_θ = x_t − alpha_t x0_θ, the error of eps is that of x0 times −alpha_t/sigma_t. So on the flow
    schedule, whatever its shift, v = eps − x0 has the error of x0 times −(alpha_t + sigma_t)/sigma_t = −1/sigma_t; on a
    variance preserving one so does v = alpha_t eps − sigma_t x0, times −(alpha_t² + sigma_t²)/sigma_t = −1/sigma_t.

    Args:
        clip: the least sigma_t by which is divided; 0 for the loss of the velocity at every t.
    """
    _, sigma_t = schedule(t)
    return _of_x0(sigma_t.clamp(min=clip) ** -2, schedule, prediction, t)


def sigmoid(schedule: Schedule, prediction: Prediction, t: Tensor, bias: float = 2.0) -> Tensor:
    """−lambda'/2·sigmoid(b − lambda)·‖eps − eps_θ‖² (Kingma & Gao, VDM++, section 4; the bias of Hoogeboom et al.)."""
    log_snr = schedule.log_snr(t)
    weight = -schedule.log_snr_rate(t) / 2 * torch.sigmoid(bias - log_snr) * log_snr.exp()
    return _of_x0(weight, schedule, prediction, t)


def vlb(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """The variational bound's own weight: its expectation over t is the bound, but for L_T and L_0, in nats a pixel.

    On a table T·(alpha_s (1 − r²))²/(2 v)·‖x0 − x0_θ‖², v the small variance and s = t − 1/T, which is T·(SNR_s −
    SNR_t)/2 but at the first row; the memoir's β_t²/(2 β̃_t α_t (1 − ᾱ_t))·‖eps − eps_θ‖². For continuous t its limit
    −lambda'/2·‖eps − eps_θ‖² (Kingma et al., VDM, eq. 17).
    """
    steps: int | None = getattr(schedule, "steps", None)
    if steps is None:
        return _of_x0(-schedule.log_snr_rate(t) / 2 * schedule.log_snr(t).exp(), schedule, prediction, t)
    s = (t - 1 / steps).clamp(min=0)
    alpha_s, _ = schedule(s)
    _, rest = ratio(schedule, t, s)
    return _of_x0(steps * (alpha_s * rest) ** 2 * torch.exp(-fixed_small(schedule, t, s)) / 2, schedule, prediction, t)
