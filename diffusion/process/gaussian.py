"""Gaussian distributions, whose best denoiser is known: x0 ~ N(m, Σ), where x0 is flattened to D values.

With the eigenvalues λ of Σ = U diag(λ) Uᵀ,

    E[x0 | x_t] = m + U diag(alpha λ/(alpha² λ + sigma²)) Uᵀ (x_t − alpha m),

and where some values y of x0 are known, the others z are Gaussian, too, with the blocks of m and Σ for both:

    E[z | y] = m_z + Σ_zy Σ_yy⁻¹ (y − m_y),    Cov[z | y] = Σ_zz − Σ_zy Σ_yy⁻¹ Σ_yz.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.denoiser import Estimate
from diffusion.process.schedule import ExactTables, Schedule


class Gaussian(ExactTables):
    """mean, m (D,), and covariance, Σ (D, D)."""

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__()
        self.mean, self.covariance = (nn.Buffer(x.double(), persistent=False) for x in (mean, covariance))
        values, vectors = torch.linalg.eigh(self.covariance)
        self.eigenvalues, self.axes = (nn.Buffer(x, persistent=False) for x in (values.clamp(min=0), vectors))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws, float64 (n, D)."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + noise * self.eigenvalues.sqrt() @ self.axes.T

    def given(self, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (n, d) and the covariance (d, d) of the d other values, given y (n, D − d) where `known` (D,)."""
        cross = self.covariance[~known][:, known]
        gain = torch.linalg.solve(self.covariance[known][:, known], cross.T).T
        mean = self.mean[~known] + (y.double() - self.mean[known]) @ gain.T
        return mean, self.covariance[~known][:, ~known] - gain @ cross.T

    def exact(self, schedule: Schedule) -> nn.Module:
        return ExactGaussian(self, schedule)


class ExactGaussian(nn.Module):
    """The best denoiser of a Gaussian on a schedule, (x_t (B, C, *size), t (B,)) -> Estimate, in float64.

    The Gaussian takes the place of a network.
    """

    picture = 0  # channels of a condition

    def __init__(self, gaussian: Gaussian, schedule: Schedule):
        super().__init__()
        self.network: Any = gaussian
        self.schedule: Any = schedule

    def forward(self, x_t: Tensor, t: Tensor) -> Estimate:
        mean, eigenvalues, axes = self.network.mean, self.network.eigenvalues, self.network.axes
        alpha, sigma = (each.to(mean)[:, None] for each in self.schedule(t.to(mean)))
        z = (x_t.flatten(1).to(mean) - alpha * mean) @ axes
        variance = alpha**2 * eigenvalues + sigma**2
        x0, eps = mean + (alpha * eigenvalues / variance * z) @ axes.T, (sigma / variance * z) @ axes.T
        return Estimate(*(each.reshape(x_t.shape).to(x_t.dtype) for each in (x0, eps)))


class Autoregressive:
    """The stationary process x_i = Σ_k a_k x_{i−k} + ε_i with k = 1 … p and ε ~ N(0, deviation²).

    Args:
        coefficients: a_1 … a_p.

    Raises UserError if no stationary process has these coefficients: all roots of 1 − Σ_k a_k z^k are outside of the
    unit circle.
    """

    def __init__(self, coefficients: Sequence[float], deviation: float = 1.0):
        self.coefficients, self.deviation = torch.tensor([*coefficients], dtype=torch.float64), deviation
        p = len(coefficients)
        companion = torch.zeros(p, p, dtype=torch.float64)  # (x_i, …, x_{i−p+1}) of the step before
        companion[0], companion[range(1, p), range(p - 1)] = self.coefficients, 1.0
        if (largest := float(torch.linalg.eigvals(companion).abs().max())) >= 1:
            raise UserError(
                f"coefficients = {[*coefficients]}: the series would grow by the factor {largest:.3g} a step; expected "
                "less than 1: use smaller ones"
            )

    def autocovariance(self, lags: int) -> Tensor:
        """γ_k = E[x_i x_{i+k}] for k = 0 … lags − 1, float64 (lags,), by the equations of Yule and Walker:

        γ_k = Σ_j a_j γ_{|k−j|} + deviation² δ_k.
        """
        p = len(self.coefficients)
        equations, right = torch.eye(p + 1, dtype=torch.float64), torch.zeros(p + 1, dtype=torch.float64)
        right[0] = self.deviation**2
        for k in range(p + 1):
            for j, a in enumerate(self.coefficients.tolist(), start=1):
                equations[k, abs(k - j)] -= a
        gamma = [*torch.linalg.solve(equations, right)]
        while len(gamma) < lags:
            gamma.append((self.coefficients * torch.stack(gamma[: -p - 1 : -1])).sum())
        return torch.stack(gamma[:lags])

    def spectrum(self, frequency: Tensor) -> Tensor:
        """S(f) = deviation²/|1 − Σ_k a_k e^(−2πi f k)|², (m,), at f (m,) in periods per step.

        Its integral over [−1/2, 1/2] is γ_0.
        """
        k = torch.arange(1, len(self.coefficients) + 1, dtype=torch.float64)
        phase = torch.exp(-2j * math.pi * torch.outer(frequency.double(), k))
        return self.deviation**2 / (1 - (self.coefficients * phase).sum(dim=1)).abs().square()

    def series(self, length: int) -> Gaussian:
        """The distribution of `length` values."""
        gamma, i = self.autocovariance(length), torch.arange(length)
        return Gaussian(torch.zeros(length), gamma[(i[:, None] - i).abs()])
