"""Noise schedules on a common clock.

Time t runs over [0, 1] and x_t = alpha_t x0 + sigma_t eps, with alpha(0) = 1 and sigma(0) = 0 for every schedule.
    log-SNR          lambda_t = log(alpha_t² / sigma_t²), decreasing in t
    forward SDE      dx = f x dt + g dw,  f = alpha' / alpha,  g² = −sigma² lambda'  (Song et al., eq. 5)
    probability flow dx/dt = alpha' x0 + sigma' eps
A DDPM schedule is a table of T + 1 rows at the times t = i/T, and row 0 is the clean image. The memoir's ᾱ_i is
alpha(i/T)². All is computed in float64 without cancellation.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.randomness import real_dtype

Steps = Annotated[int, Ge(2)]  # T; the rows of a table are 0 … T
Beta = Annotated[float, Gt(0), Lt(1)]  # the variance of the noise that one step adds
Positive = Annotated[float, Gt(0)]
PURE_NOISE = 160.0  # sigma/alpha from which x_t counts as pure noise; DDPM's linear table ends just below, at 157


def pure_noise(alpha: float, sigma: float) -> bool:
    """Whether alpha is so close to 0 that x_t counts as pure noise; never on schedules with alpha = 1, such as VE."""
    return alpha * PURE_NOISE < min(sigma, 1.0)


class ExactTables(nn.Module):
    """A module whose buffers are tables that keep their precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ExactTables":
        """Move the tables with the module, but keep them in `real_dtype`: `module.half()` must not round them."""
        for name, table in self._buffers.items():
            if table is not None:
                device = fn(torch.empty((), device=table.device)).device
                self._buffers[name] = table.to(device=device, dtype=real_dtype(device))
        return self


class Schedule(ExactTables):
    """Base class. Subclasses define `forward` and `time`, for times of any shape; float64 in, float64 out."""

    steps: int | None = None  # T of a table

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t at times t in [0, 1], each in the shape of t."""
        raise NotImplementedError

    def time(self, log_snr: Tensor) -> Tensor:
        """The time t at which the log-SNR has this value: the inverse of `log_snr`."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda_t = log(alpha_t² / sigma_t²); +inf at t = 0."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def level(self, t: Tensor) -> Tensor:
        """The noise level sigma_t / alpha_t; +inf where alpha_t = 0."""
        alpha, sigma = self(t)
        return sigma / alpha

    def flow_time(self, t: Tensor) -> Tensor:
        """u = sigma/(alpha + sigma), from 0 to 1: the time of the straight flow that has this noise level."""
        alpha, sigma = self(t)
        return sigma / (alpha + sigma)

    def at_flow_time(self, u: Tensor) -> Tensor:
        """The time t in [0, 1] with this `flow_time`."""
        return self.time(2 * torch.log((1 - u) / u)).clamp(0, 1)

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha'_t and sigma'_t (per unit of t), by forward-mode differentiation. sigma'(0) may be infinite."""
        t = t.contiguous()  # elements of an expanded tensor share their memory, which jvp does not allow
        return torch.func.jvp(self.forward, (t,), (torch.ones_like(t),))[1]

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """lambda'_t = 2 (alpha'/alpha − sigma'/sigma), which is negative."""
        (alpha, sigma), (d_alpha, d_sigma) = self(t), self.derivatives(t)
        return 2 * (d_alpha / alpha - d_sigma / sigma)

    @property
    def first(self) -> float:
        """The smallest time at which a network is trained: 1/T of a table, else 0."""
        return 1 / self.steps if self.steps else 0.0

    def on_cpu(self) -> "Schedule":
        """A copy on the CPU, whose numbers are read without waiting for a device."""
        return copy.deepcopy(self).cpu()


class Discrete(Schedule):
    """A table: β_1 … β_T, each in (0, 1), give ᾱ_i = Π_{j≤i} (1 − β_j) at t = i/T (DDPM, eq. 4; memoir, section 4).

    Between rows, log-SNR is interpolated linearly. In the first interval sigma² is linear instead, because log-SNR is
    infinite at t = 0; in the last one alpha is, because log-SNR may be infinite at t = 1. The derivative at a row is
    that of the interval after it.
    """

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            raise UserError(f"schedule: betas from {betas.min():g} to {betas.max():g}; expected at least 2, in (0, 1)")
        log_alpha_bar = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])
        self.steps: int = len(betas)
        self.lambdas = nn.Buffer(log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar)), persistent=False)

    def log_snr(self, t: Tensor) -> Tensor:
        position = t.to(self.lambdas.dtype) * self.steps
        # torch 2.15's clamp has slope 0 at its ends, and there is a derivative at t = 1.
        position = position + (position.clamp(0, self.steps) - position).detach()
        gap = position.round() - position
        near = gap.abs() < torch.finfo(t.dtype).eps * self.steps  # snap to the row: few i/T are exact in binary
        near &= position > 0.5  # but never to the clean image
        position = position + (gap * near).detach()
        low = position.long().clamp(1, self.steps - 1)
        fraction = position - low
        variance_1, before_last, last = self._ends()
        first_variance = variance_1 * position.clamp(max=1)
        below = torch.log1p(-first_variance) - first_variance.log()
        between = torch.lerp(self.lambdas[low], self.lambdas[low + 1], fraction)
        last_alpha = torch.lerp(before_last, last, fraction)
        above = 2 * last_alpha.log() - torch.log1p(-(last_alpha**2))
        return torch.where(position < 1, below, torch.where(position >= self.steps - 1, above, between))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        rows = self.lambdas[1:]
        log_snr = log_snr.to(rows.dtype)
        low = torch.searchsorted(-rows, -log_snr.detach().contiguous()).clamp(1, self.steps - 1)
        variance_1, before_last, last = self._ends()
        below = torch.sigmoid(-log_snr) / variance_1
        between = low + (log_snr - rows[low - 1]) / (rows[low] - rows[low - 1])
        above = self.steps - 1 + (before_last - torch.sigmoid(log_snr).sqrt()) / (before_last - last)
        position = torch.where(log_snr > rows[0], below, torch.where(log_snr < rows[-2], above, between))
        return position.clamp(0, self.steps) / self.steps

    def _ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """sigma² at row 1, and alpha at the rows T − 1 and T."""
        return torch.sigmoid(-self.lambdas[1]), *torch.sigmoid(self.lambdas[-2:]).sqrt()

    def betas(self) -> Tensor:
        """(T,) β_i = 1 − ᾱ_i / ᾱ_{i−1}."""
        return _betas(nn.functional.logsigmoid(self.lambdas))


def _betas(log_alpha_bar: Tensor) -> Tensor:
    """(T,) from log ᾱ_0 … log ᾱ_T."""
    return -torch.expm1(log_alpha_bar.diff())


def linear(steps: Steps = 1000, first: Beta = 1e-4, last: Beta = 0.02) -> Discrete:
    """β_i linear in i, from β_1 = `first` to β_T = `last` (DDPM, section 4; the memoir's schedule)."""
    return Discrete(torch.linspace(first, last, steps, dtype=torch.float64))


def scaled_linear(steps: Steps = 1000, first: Beta = 8.5e-4, last: Beta = 0.012) -> Discrete:
    """√β_i linear in i (the code of latent diffusion). With DDPM's β_1 and β_T: the "quad" schedule of DDIM's code."""
    return Discrete(torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2)


def table(betas: Sequence[Beta] = (1e-4, 0.02), steps: Steps | None = None) -> Discrete:
    """β_i interpolated linearly between the given values, evenly spaced from i = 1 to T = `steps`, or their number."""
    values = torch.tensor([*betas], dtype=torch.float64)
    position = torch.linspace(0, len(values) - 1, steps or len(values), dtype=torch.float64)
    low = position.floor().long().clamp(max=len(values) - 2)
    return Discrete(torch.lerp(values[low], values[low + 1], position - low))


def _normalised(f: Callable[[Tensor], Tensor], steps: int, largest: float) -> Discrete:
    """ᾱ_i = (f(i/T) − f(1)) / (f(0) − f(1)) for a decreasing f. β_i is clamped to `largest`, because β_T would be 1."""
    f_i = f(torch.arange(steps + 1, dtype=torch.float64) / steps) - f(torch.ones((), dtype=torch.float64))
    return Discrete((1 - f_i[1:] / f_i[:-1]).clamp(max=largest))


def cosine(steps: Steps = 1000, offset: Annotated[float, Ge(0)] = 0.008, largest: Beta = 0.999) -> Discrete:
    """ᾱ_i = f(i/T) / f(0), f(u) = cos²(π/2 · (u + s)/(1 + s)), s = `offset` (Improved DDPM, eq. 17)."""
    return _normalised(lambda u: torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2, steps, largest)


def sigmoid(
    steps: Steps = 1000, start: float = -3.0, end: float = 3.0, tau: Positive = 1.0, largest: Beta = 0.999
) -> Discrete:
    """ᾱ_i = (f(i/T) − f(1)) / (f(0) − f(1)), f(u) = 1/(1 + exp((start + u (end − start))/τ)) (Jabri et al., RIN)."""
    return _normalised(lambda u: torch.sigmoid(-(start + u * (end - start)) / tau), steps, largest)


def shifted(table: Discrete, shift: Positive) -> Discrete:
    """sigma/alpha multiplied by `shift`: lambda becomes lambda − 2 log shift (simple diffusion, section 3.1)."""
    return Discrete(_betas(nn.functional.logsigmoid(table.lambdas - 2 * math.log(shift))))


def zero_terminal_snr(table: Discrete, last_alpha: Beta = 1e-8) -> Discrete:  # instead of 0: log-SNR stays finite
    """√ᾱ_i shifted and scaled so that √ᾱ_T becomes 0 and √ᾱ_1 does not change (Lin et al., Algorithm 1)."""
    alpha = torch.sigmoid(table.lambdas).sqrt()
    moved = (alpha - alpha[-1]) * alpha[1] / (alpha[1] - alpha[-1])
    return Discrete(_betas(2 * torch.cat([alpha[:1], moved[1:-1], alpha.new_tensor([last_alpha])]).log()))


class VP(Schedule):
    """Variance preserving: alpha² = exp(−B(t)), sigma² = 1 − alpha², B = β_min t + (β_max − β_min) t²/2.

    The continuous limit of DDPM's linear table (Song et al., eq. 33).
    """

    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0):
        super().__init__()
        self.beta_min, self.beta_max = beta_min, beta_max

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def _time(self, integral: Tensor) -> Tensor:
        """The t at which B(t) = `integral`."""
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral = self._integral(t)
        return torch.exp(-integral / 2), torch.sqrt(-torch.expm1(-integral))

    def time(self, log_snr: Tensor) -> Tensor:
        return self._time(nn.functional.softplus(-log_snr))


class SubVP(VP):
    """Sub-variance preserving: VP's alpha, and sigma = 1 − alpha² (Song et al., eq. 29)."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        integral = self._integral(t)
        return torch.exp(-integral / 2), -torch.expm1(-integral)

    def time(self, log_snr: Tensor) -> Tensor:
        sigma = 2 / (1 + torch.sqrt(1 + 4 * torch.exp(log_snr)))  # solves sigma = 1 − alpha² at this log-SNR
        return self._time(-torch.log1p(-sigma))


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma² = σ_min² ((σ_max/σ_min)^(2t) − 1), with the g of Song et al., eq. 30.

    Their perturbation kernel omits the −1, so it starts at sigma = σ_min instead of 0.
    """

    def __init__(self, sigma_min: Positive = 0.01, sigma_max: Positive = 50.0):
        super().__init__()
        self.sigma_min = sigma_min
        self.rate = 2 * math.log(sigma_max / sigma_min)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.sqrt(torch.expm1(self.rate * t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / self.rate


class EDM(Schedule):
    """alpha = 1, sigma = σ_max t (Karras et al., section 3, where t is sigma itself)."""

    def __init__(self, sigma_max: Positive = 80.0):
        super().__init__()
        self.sigma_max = sigma_max

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / self.sigma_max


class Flow(Schedule):
    """Rectified flow: sigma = s t / (1 − t + s t), alpha = 1 − sigma (Lipman et al., eq. 22; shift s: SD3, eq. 23)."""

    def __init__(self, shift: Positive = 1.0):
        super().__init__()
        self.shift = shift

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = 1 - t, self.shift * t
        return alpha / (alpha + sigma), sigma / (alpha + sigma)

    def time(self, log_snr: Tensor) -> Tensor:
        return 1 / (1 + self.shift * torch.exp(log_snr / 2))


class ScaledSchedule(Schedule):
    """The schedule for images whose values are multiplied by `scale`, in their own units: alpha_t, sigma_t/scale.

    The scale changes the signal of images with little or much contrast to the usual one (Chen 2023, arXiv 2301.10972,
    section 2.2). x_t is that of the multiplied images, divided by the scale.
    """

    def __init__(self, base: Schedule, scale: Positive):
        super().__init__()
        self.base, self.scale, self.steps = base, scale, base.steps

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.base(t)
        return alpha, sigma / self.scale

    def log_snr(self, t: Tensor) -> Tensor:
        return self.base.log_snr(t) + 2 * math.log(self.scale)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.base.time(log_snr - 2 * math.log(self.scale))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ScaledSchedule":
        self.base._apply(fn)
        return self
