"""All samplers, with their orders of convergence or the errors of their moments; all schedules; a Gaussian data set."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffusion.process import grid, schedule, variance
from diffusion.process.sampler import (
    DDIM,
    Ancestral,
    DPMSingle,
    DPMSolver,
    Heun,
    Midpoint,
    PredictorCorrector,
    Sampler,
    UniPC,
)

MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.3, 0.2]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T
D = 3

SCHEDULES = {
    "linear": schedule.linear(),
    "cosine": schedule.cosine(),
    "zero_snr": schedule.zero_terminal_snr(schedule.linear()),
    "vp": schedule.VP(),
    "sub_vp": schedule.SubVP(),
    "ve": schedule.VE(),
    "edm": schedule.EDM(),
    "flow": schedule.Flow(),
    "flow_shifted": schedule.Flow(shift=3.0),
}
FINE = partial(grid.karras, sigma_min=0.01, sigma_max=80.0)

Kind = Callable[..., Sampler]  # of a number of steps, and grid=…

DETERMINISTIC: dict[str, tuple[Kind, int]] = {  # and its order
    "ddim": (DDIM, 1),
    "heun": (Heun, 2),
    "heun_flow": (partial(Heun, c=1.0), 2),
    "midpoint": (Midpoint, 2),
    "dpm_1s": (partial(DPMSolver, order=1), 1),
    "dpm_2s": (DPMSingle, 2),
    "dpm_2m": (DPMSolver, 2),
    "dpm_3m": (partial(DPMSolver, order=3), 3),
    "unipc": (UniPC, 3),  # UniPC-p has order p + 1, as its theorem says
    "unipc_3": (partial(UniPC, order=3), 4),
}
STOCHASTIC: dict[str, tuple[Kind, int, float]] = {  # and the error of mean and covariance with a number of steps
    "ancestral": (Ancestral, 200, 0.025),
    "ancestral_large": (partial(Ancestral, variance=variance.fixed_large), 200, 0.025),
    "ddim_half": (partial(DDIM, eta=0.5), 200, 0.015),
    "euler_ancestral": (partial(DDIM, eta=1.0), 200, 0.025),
    "heun_churn": (partial(Heun, churn=10.0), 50, 0.012),
    "dpm_1_sde": (partial(DPMSolver, order=1, eta=1.0), 200, 0.025),
    "dpm_2s_ancestral": (partial(DPMSingle, eta=1.0), 50, 0.012),
    "dpm_2m_sde": (partial(DPMSolver, eta=1.0), 50, 0.012),
    "dpm_3m_sde": (partial(DPMSolver, order=3, eta=1.0), 50, 0.012),
    "reverse_diffusion": (partial(PredictorCorrector, corrections=0), 500, 0.05),
}
ALL: dict[str, Kind] = {name: kind for name, (kind, *_) in (DETERMINISTIC | STOCHASTIC).items()}


def as_images(rows: Tensor) -> Tensor:
    return rows.reshape(-1, D, 1, 1)
