"""Loss weights: functions (schedule, prediction, t) -> (B,), the weight of the network's error ‖y − y_θ‖².

With x0 = p·x_t + q·y (`Prediction.solve`), the errors of different predictions differ only by a factor:
    ‖x0 − x0_θ‖² = q² ‖y − y_θ‖²   and   ‖eps − eps_θ‖² = SNR ‖x0 − x0_θ‖².
So each weight is written once, for the error of x0. Only `unit` depends on the prediction.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Positive, Schedule


def _of_x0(weight: Tensor, schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """The weight of ‖y − y_θ‖² that equals `weight` of ‖x0 − x0_θ‖²."""
    (_, q), _ = prediction.solve(schedule, t)
    return weight * q**2


def unit(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """1: the squared error of y. This is L_simple for eps (DDPM, eq. 14) and EDM's weight for its F."""
    return torch.ones_like(t)


def snr(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """SNR·‖x0 − x0_θ‖², which is ‖eps − eps_θ‖² (Salimans & Ho, section 4)."""
    return _of_x0(schedule.log_snr(t).exp(), schedule, prediction, t)


def min_snr(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: Positive = 5.0) -> Tensor:
    """min(SNR, γ)·‖x0 − x0_θ‖² (Hang et al., section 3.4)."""
    return _of_x0(schedule.log_snr(t).exp().clamp(max=gamma), schedule, prediction, t)


def soft_min_snr(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: Positive = 4.0) -> Tensor:
    """‖x0 − x0_θ‖²/(1/SNR + 1/γ), which is at most min(SNR, γ) and at least half of it (Crowson et al., HDiT)."""
    return _of_x0(1 / (torch.exp(-schedule.log_snr(t)) + 1 / gamma), schedule, prediction, t)


def truncated_snr(schedule: Schedule, prediction: Prediction, t: Tensor) -> Tensor:
    """max(‖x0 − x0_θ‖², ‖eps − eps_θ‖²) = max(SNR, 1)·‖x0 − x0_θ‖² (Salimans & Ho, section 4)."""
    return _of_x0(schedule.log_snr(t).exp().clamp(min=1), schedule, prediction, t)


def p2(schedule: Schedule, prediction: Prediction, t: Tensor, gamma: float = 1.0, k: Positive = 1.0) -> Tensor:
    """‖eps − eps_θ‖²/(k + SNR)^γ (Choi et al., eq. 8)."""
    ratio_t = schedule.log_snr(t).exp()
    return _of_x0(ratio_t / (k + ratio_t) ** gamma, schedule, prediction, t)


def edm(schedule: Schedule, prediction: Prediction, t: Tensor, sigma_data: Positive = 0.5) -> Tensor:
    """(σ² + σ_d²)/(σ σ_d)²·‖x0 − x0_θ‖², σ² = 1/SNR (Karras et al., table 1)."""
    return _of_x0(schedule.log_snr(t).exp() + sigma_data**-2, schedule, prediction, t)


def velocity(schedule: Schedule, prediction: Prediction, t: Tensor, clip: Annotated[float, Ge(0)] = 0.05) -> Tensor:
    """‖x0 − x0_θ‖²/max(sigma_t, clip)²: the squared error of the velocity (Li & He, JiT, table 1)."""
    return _of_x0(schedule(t)[1].clamp(min=clip) ** -2, schedule, prediction, t)


def sigmoid(schedule: Schedule, prediction: Prediction, t: Tensor, bias: float = 2.0) -> Tensor:
    """−lambda'/2·sigmoid(b − lambda)·‖eps − eps_θ‖² (Kingma & Gao, VDM++, section 4; the bias b: Hoogeboom et al.).

    On a table, −lambda'/2·SNR comes from the slope of the interpolated table, not from T·(SNR_s − SNR_t)/2.
    """
    (alpha, sigma), (d_alpha, d_sigma) = schedule(t), schedule.derivatives(t)
    of_bound = alpha * (alpha * d_sigma - d_alpha * sigma) / sigma**3  # −lambda'/2·SNR, which is finite where alpha = 0
    return _of_x0(torch.sigmoid(bias - schedule.log_snr(t)) * of_bound, schedule, prediction, t)
