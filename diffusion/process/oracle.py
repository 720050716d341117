"""Optimal denoisers of known distributions, in closed form: ground truth without training."""

import torch
from torch import Tensor

from diffusion.process.denoiser import Estimate, expand
from diffusion.process.schedule import Schedule


class GaussianOracle:
    """The optimal denoiser of data x0 ~ N(mean, covariance), in closed form.

    E[x0 | x_t] = m + alpha_t Σ (alpha_t² Σ + sigma_t² I)⁻¹ (x_t − alpha_t m), for flattened images of D values.

    Args:
        mean: (D,); covariance: (D, D); computed in float64.
    """

    def __init__(self, schedule: Schedule, mean: Tensor, covariance: Tensor):
        self.schedule = schedule
        self.mean = mean.double()
        self.variances, self.axes = torch.linalg.eigh(covariance.double())

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        alpha_t, sigma_t = (c.reshape(-1, 1) for c in self.schedule(t))
        centred = (x_t.flatten(1).double() - alpha_t * self.mean) @ self.axes  # (B, D) along the axes of Σ
        gain = alpha_t * self.variances / (alpha_t**2 * self.variances + sigma_t**2)
        x0 = (self.mean + (gain * centred) @ self.axes.T).reshape(x_t.shape).to(x_t.dtype)
        eps = (x_t - expand(alpha_t, x_t) * x0) / expand(sigma_t, x_t)
        return Estimate(x0, eps)
