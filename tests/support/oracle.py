"""Optimal denoisers of known distributions, in closed form: ground truth without training.

Let p_t be the density of x_t = alpha_t x0 + sigma_t eps: the density of alpha_t x0 convolved with N(0, sigma_t² I). The
denoiser with the least mean squared error is E[x0 | x_t], and its eps is the score up to a factor:
    eps = (x_t − alpha_t E[x0 | x_t])/sigma_t = −sigma_t ∇ log p_t(x_t).
Images are flattened to D values. All arithmetic is in float64; estimates are returned in the dtype of x_t.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.process.denoiser import Estimate
from diffusion.process.schedule import Schedule


class MixtureOracle:
    """The denoiser for a mixture of Gaussians, x0 ~ Σ_k w_k N(m_k, Σ_k): w (K,), m (K, D), Σ (K, D, D).

    E[x0 | x_t] = Σ_k p(k | x_t) (m_k + alpha Σ_k (alpha² Σ_k + sigma² I)⁻¹ (x_t − alpha m_k)).
    With Σ_k = 0, it is the denoiser of a finite set of images: a model that has memorised them.
    """

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, covariances: Tensor):
        self.schedule, self.calls = schedule, 0
        self.weights, self.means = weights.double(), means.double()
        self.variances, self.axes = torch.linalg.eigh(covariances.double())  # (K, D), (K, D, D)

    def posterior(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | x_t] (B, D) and log p_t(x_t) (B,) in nats."""
        x, (alpha, sigma) = x_t.flatten(1).double(), (c.reshape(-1, 1, 1) for c in self.schedule(t.double()))
        centred = torch.einsum("bkd,kde->bke", x.unsqueeze(1) - alpha * self.means, self.axes)  # in Σ_k's eigenbasis
        total = alpha**2 * self.variances + sigma**2  # (B, K, D)
        each = self.means + torch.einsum("bke,kde->bkd", alpha * self.variances / total * centred, self.axes)
        log_joint = self.weights.log() - (centred**2 / total + total.log() + math.log(2 * math.pi)).sum(-1) / 2
        return torch.einsum("bk,bkd->bd", log_joint.softmax(1), each), log_joint.logsumexp(1)

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        self.calls += 1
        alpha, sigma = (c.reshape(-1, 1) for c in self.schedule(t.double()))
        x0, _ = self.posterior(x_t, t)
        eps = (x_t.flatten(1).double() - alpha * x0) / sigma
        return Estimate(*(v.reshape(x_t.shape).to(x_t.dtype) for v in (x0, eps)))


class GaussianOracle(MixtureOracle):
    """The denoiser for x0 ~ N(mean (D,), covariance (D, D))."""

    def __init__(self, schedule: Schedule, mean: Tensor, covariance: Tensor):
        super().__init__(schedule, torch.ones(1), mean[None], covariance[None])


def sampler_moments(
    sampler: Callable[[GaussianOracle, Tensor, Any], Tensor], oracle: GaussianOracle
) -> tuple[Tensor, Tensor]:
    """The exact mean (D,) and covariance (D, D) of the output of `sampler` with `oracle`, without Monte-Carlo error.

    With the denoiser of a Gaussian, the output of most samplers is affine in all the noise drawn: running them on unit
    vectors, one for each random value, yields the matrix of this map. A sampler that draws noise during its steps is
    run twice, because its first run tells how much.
    """
    D = oracle.means.shape[1]
    rows, drawn = 0, 1 + D
    while rows < drawn:
        rows, oracle.calls = drawn, 0
        noise = torch.zeros(rows, D, 1, 1, dtype=torch.float64)
        noise[1 : 1 + D, :, 0, 0] = torch.eye(D)
        streams = _UnitNoise(1 + D)
        images = sampler(oracle, noise, streams).flatten(1)
        drawn = streams.row
    G = images[1:] - images[0]
    return images[0], G.T @ G


class _UnitNoise:
    """Streams of which a draw of M values is the M×M identity in the next M rows of the batch, and 0 in all others."""

    def __init__(self, row: int):
        self.row = row  # the next

    def normal_like(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        M = x[0].numel()
        z.flatten(1)[self.row :][:M] = torch.eye(M, dtype=x.dtype)[: max(0, len(x) - self.row)]
        self.row += M
        return z
