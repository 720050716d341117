"""A labelled Gaussian data set in closed form: the optimal denoiser with and without class labels."""

from typing import Any

import torch
from torch import Tensor

from diffusion.process.denoiser import Estimate
from diffusion.process.schedule import Schedule
from tests.support.oracle import GaussianOracle, MixtureOracle


class Labelled:
    """(x_t, t, classes=None) -> Estimate for each image's class, N(m_k, Σ_k), or for the mixture of all classes.

    `calls` lists the conditions of each evaluation. The spread of an estimate is `classes`, to identify its condition.
    """

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, covariances: Tensor):
        self.schedule = schedule
        self.each = [GaussianOracle(schedule, m, c) for m, c in zip(means, covariances, strict=True)]
        self.mixture = MixtureOracle(schedule, weights, means, covariances)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        self.calls.append(conditions)
        classes = conditions.get("classes")
        if classes is None:
            return self.mixture(x_t, t)
        every = [oracle(x_t, t) for oracle in self.each]
        rows = torch.arange(len(x_t))
        x0, eps = (torch.stack([e[i] for e in every])[classes, rows] for i in range(2))
        return Estimate(x0, eps, torch.ones_like(x_t) * classes.reshape(-1, 1, 1, 1))
