"""The likelihood of images under a denoiser, in bits per dimension: the variational bound and the probability flow.

Images are 8-bit: x0 = 2k/255 − 1 for the levels k = 0 … 255.
"""

import math

import numpy as np
import scipy  # its submodules are imported on first use
import torch
from torch import Tensor
from torch.special import log_ndtr, ndtr

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoise, Estimate, diffuse, expand
from diffusion.process.grid import Grid, uniform
from diffusion.process.schedule import Schedule
from diffusion.process.variance import Variance, fixed_small, gaussian_kl, ratio
from diffusion.randomness import Streams, real_dtype


def log_decoder(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the probability that N(mean, variance) lies in the interval (δ₋, δ₊) of x0, elementwise (DDPM, eq. 13).

    δ± = x0 ± 1/255, except that δ₋ = −∞ at the lowest level and δ₊ = ∞ at the highest: all probabilities sum to 1.
    """
    low, high = ((x0 + edge - mean) * torch.exp(-log_variance / 2) for edge in (-1 / 255, 1 / 255))
    low = torch.where(x0 < -1 + 1 / 255, -torch.inf, low)
    high = torch.where(x0 > 1 - 1 / 255, torch.inf, high)
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # log_ndtr is accurate below 0
    log_high = log_ndtr(high)
    return log_high + torch.log(-torch.expm1(log_ndtr(low) - log_high))


def bound_term(schedule: Schedule, variance: Variance, estimate: Estimate, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """(B,) the term of the bound for the step from t to s, in bits per dimension (DDPM, eq. 5).

    KL(q(x_s | x_t, x0) ‖ p(x_s | x_t)) where s > 0, and −log p(x0 | x_t) by the decoder where s = 0. The means of q and
    p differ by alpha_s (1 − r²) (x0 − x0_θ).
    """
    alpha_s, _ = schedule(s)
    _, rest = ratio(schedule, t, s)
    log_variance = expand(variance(schedule, t, s, estimate.spread), x0)
    difference = expand(alpha_s * rest, x0) * (x0 - estimate.x0)
    kl = gaussian_kl(difference, expand(fixed_small(schedule, t, s), x0), log_variance)
    last = expand(s, x0) == 0
    mean = torch.where(last, estimate.x0, x0)  # even where the decoder is not used, its gradient must be finite
    nats = torch.where(last, -log_decoder(x0, mean, log_variance), kl)
    return nats.flatten(1).mean(dim=1) / math.log(2)


@torch.no_grad()
def variational_bound(
    denoise: Denoise, x0: Tensor, streams: Streams, steps: int, variance: Variance = fixed_small, grid: Grid = uniform
) -> tuple[Tensor, Tensor]:
    """Upper bounds on −log p(x0), estimated with one x_t for each of the N steps (DDPM, eq. 5; memoir, section 4).

    x0 (B, C, *size) are 8-bit levels in [−1, 1]. The bound in bits per dimension is prior (B,) + Σ terms (B, N). The
    prior is L_T = KL(q(x_T | x0) ‖ N(0, (alpha_T² + sigma_T²) I)); the terms are L_0, L_1 …, one for each step. It is
    loose where a single step changes log-SNR a lot.
    """
    schedule = denoise.schedule
    times = grid(schedule, steps).flip(0).to(x0.device, real_dtype(x0.device))
    terms = []
    for s, t in zip(times[:-1].split(1), times[1:].split(1), strict=True):
        s, t = s.expand(len(x0)), t.expand(len(x0))
        estimate = denoise(diffuse(schedule, x0, streams.normal_like(x0), t), t)
        terms.append(bound_term(schedule, variance, estimate, x0, t, s))
    alpha, sigma = schedule(times[-1:])
    log_q, log_p = (expand(variance, x0) for variance in (2 * sigma.log(), torch.log(alpha**2 + sigma**2)))
    prior = gaussian_kl(expand(alpha, x0) * x0, log_q, log_p).flatten(1).mean(dim=1) / math.log(2)
    return prior, torch.stack(terms, dim=1)


def flow_likelihood(
    denoise: Denoise,
    x0: Tensor,
    streams: Streams,
    lowest: float = 0.002,
    tolerance: float = 1e-5,
    discrete: bool = True,
) -> Tensor:
    """(B,) −log p(x0) in bits per dimension, by the probability flow with uniform dequantisation of levels of 8 bits;
    without it, of the density of values, if they are not `discrete`.

        dx/dλ = (alpha' x0_θ + sigma' eps_θ)/λ',   log p_0(x) = log p_1(x_1) + ∫ div(dx/dλ) dλ
    (Song et al., eq. 39 and appendix D.2). Hutchinson's estimator of the divergence is vᵀ ∂(dx/dλ)/∂x v, with one
    random sign vector v per image; for two values, two vectors make it exact. SciPy's RK45 integrates from the noise
    level `lowest`, on a table at least that of row 1, to t = 1, or to λ = −20 if the schedule ends in pure noise.
    """
    schedule, (batch, size) = denoise.schedule, x0.flatten(1).shape
    level = torch.tensor(lowest, dtype=torch.float64)
    first = max(schedule.first, float(schedule.on_cpu().time(-2 * level.log())))
    probes = [torch.where(streams.normal_like(x0) < 0, -1.0, 1.0).to(x0.dtype)]
    if size == 2:
        probes.append(probes[0] * x0.new_tensor([1, -1]).view(x0.shape[1:]))
    ends = x0.new_tensor([first, 1.0], dtype=real_dtype(x0.device))
    first_alpha = float(schedule(ends)[0][0])
    x = first_alpha * (x0 + (2 * ndtr(streams.normal_like(x0)) - 1) / 255 if discrete else x0)

    def slope(log_snr: float, state: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(state[:-batch]).to(x0).reshape(x0.shape).requires_grad_()
        t = schedule.time(ends.new_tensor([log_snr]))
        rate = schedule.log_snr_rate(t)
        d_alpha, d_sigma = (expand(slope / rate, x0) for slope in schedule.derivatives(t))
        with torch.enable_grad():
            estimate = denoise(x, t.expand(batch))
            dx = d_alpha * estimate.x0 + d_sigma * estimate.eps
            pulled = [torch.autograd.grad(dx, x, probe, retain_graph=True)[0] * probe for probe in probes]
        divergence = sum(pulled).flatten(1).sum(dim=1) / len(probes)  # type: ignore[union-attr]
        return torch.cat([dx.detach().flatten(), divergence]).cpu().double().numpy()

    start, end = schedule.log_snr(ends).clamp(min=-20).tolist()
    state = torch.cat([x.flatten(), x.new_zeros(batch)]).cpu().double().numpy()
    solution = scipy.integrate.solve_ivp(slope, (start, end), state, rtol=tolerance, atol=tolerance)
    if not solution.success:
        raise UserError(f"likelihood: tolerance = {tolerance:g} is out of reach; raise it, or is the output a NaN?")
    final = torch.from_numpy(solution.y[:, -1])
    latent, change = final[:-batch].reshape(batch, size), final[-batch:]
    alpha, sigma = schedule(schedule.time(ends.new_tensor(end)))
    variance = (alpha**2 + sigma**2).cpu()
    log_prior = -(latent**2 / variance + torch.log(2 * math.pi * variance)).sum(dim=1) / 2
    bits = -(log_prior + change) / (size * math.log(2)) - math.log2((2 / 255 if discrete else 1) * first_alpha)
    return bits.to(x0)
