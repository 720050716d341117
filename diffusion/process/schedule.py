"""Noise schedules on one clock.

Time t runs over [0, 1]; x_t = alpha_t x0 + sigma_t eps with alpha(0) = 1 and sigma(0) = 0, for every schedule.
    log-SNR          lambda_t = log(alpha_t² / sigma_t²), decreasing in t
    forward SDE      dx = f x dt + g dw,  f = alpha' / alpha,  g² = −sigma² lambda'  (Song et al., eq. 5)
    probability flow dx/dt = alpha' x0 + sigma' eps
A DDPM is a table of T + 1 rows at t = i/T whose row 0 is clean; the memoir's ᾱ_i is alpha(i/T)².
Both alpha and sigma are computed in float64, each without cancellation: in float32, 1 − ᾱ has lost 1.7e-4 relative at
the first step. A new schedule is two formulas, `forward` and `time`; a new table is one function that gives its betas.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.randomness import real_dtype


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"schedule: {name} = {value:g}; it must be positive")


class Schedule(nn.Module):
    """The contract: `forward(t) -> alpha, sigma`, any shape, float64 in, float64 out, and `time`, log-SNR's inverse."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t, sigma_t at times t in [0, 1]; the shape of t."""
        raise NotImplementedError

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`: the t at which the log-SNR takes this value."""
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda_t = log(alpha_t² / sigma_t²); +inf at t = 0."""
        alpha, sigma = self(t)
        return 2 * (alpha.log() - sigma.log())

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha'_t, sigma'_t (per unit of t), by forward-mode differentiation; sigma'(0) may be infinite."""
        return torch.func.jvp(self.forward, (t,), (torch.ones_like(t),))[1]

    def log_snr_rate(self, t: Tensor) -> Tensor:
        """lambda'_t = 2 (alpha'/alpha − sigma'/sigma), negative."""
        (alpha, sigma), (d_alpha, d_sigma) = self(t), self.derivatives(t)
        return 2 * (d_alpha / alpha - d_sigma / sigma)

    def sde(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """f and g² of the forward SDE dx = f x dt + g dw."""
        (alpha, sigma), (d_alpha, d_sigma) = self(t), self.derivatives(t)
        f = d_alpha / alpha
        return f, 2 * sigma * (d_sigma - f * sigma)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Schedule":
        """Move with the module but stay in float64: `module.half()` must not round the tables.

        A device without float64 (Apple's MPS) gets float32.
        """
        for name, table in self._buffers.items():
            if table is not None:
                device = fn(torch.empty((), device=table.device)).device
                self._buffers[name] = table.to(device=device, dtype=real_dtype(device))
        return self


class Discrete(Schedule):
    """A table: β_1 … β_T give ᾱ_i = Π_{j≤i} (1 − β_j) at t = i/T (DDPM, eq. 4; memoir, section 4).

    Between rows log-SNR is interpolated linearly, except in the first interval, where it is infinite at t = 0 and
    sigma² is linear instead, and in the last, where it may be infinite at t = 1 and alpha is.

    Args:
        betas: (T,), T ≥ 2, each in (0, 1).
    """

    def __init__(self, betas: Tensor):
        super().__init__()
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.dim() != 1 or len(betas) < 2:
            raise UserError(f"schedule: a table of shape {tuple(betas.shape)}; steps must be at least 2")
        outside = ((betas <= 0) | (betas >= 1) | betas.isnan()).nonzero()
        if len(outside):
            i = int(outside[0])
            raise UserError(
                f"schedule: β_{i + 1} = {float(betas[i]):g} of {len(betas)} lies outside (0, 1); "
                "choose schedule values with 0 < β < 1"
            )
        log_alpha_bar = torch.cat([betas.new_zeros(1), torch.log1p(-betas).cumsum(0)])
        self.steps = len(betas)
        self.lambdas: Tensor
        self.register_buffer("lambdas", log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar)), persistent=False)

    def log_snr(self, t: Tensor) -> Tensor:
        position = (t.to(self.lambdas.dtype) * self.steps).clamp(0, self.steps)
        gap = position.round() - position
        near = gap.abs() < torch.finfo(t.dtype).eps * self.steps  # few i/T are exact in binary
        position = position + torch.where(near, gap, 0).detach()
        low = position.floor().long().clamp(1, self.steps - 1)
        part = position - low
        first_variance = torch.sigmoid(-self.lambdas[1]) * position.clamp(max=1)
        below = torch.log1p(-first_variance) - first_variance.log()
        between = torch.lerp(self.lambdas[low], self.lambdas[low + 1], part)
        before_last, last = torch.sigmoid(self.lambdas[-2:]).sqrt()
        last_alpha = torch.lerp(before_last, last, part)
        above = 2 * last_alpha.log() - torch.log1p(-(last_alpha**2))
        return torch.where(position < 1, below, torch.where(position > self.steps - 1, above, between))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        rows = self.lambdas[1:]
        log_snr = log_snr.to(rows.dtype)
        low = torch.searchsorted(-rows, -log_snr.detach().contiguous()).clamp(1, self.steps - 1)
        below = torch.sigmoid(-log_snr) / torch.sigmoid(-rows[0])
        between = low + (log_snr - rows[low - 1]) / (rows[low] - rows[low - 1])
        before_last, last = torch.sigmoid(rows[-2:]).sqrt()
        above = self.steps - 1 + (before_last - torch.sigmoid(log_snr).sqrt()) / (before_last - last)
        position = torch.where(log_snr > rows[0], below, torch.where(log_snr < rows[-2], above, between))
        return position.clamp(0, self.steps) / self.steps

    def betas(self) -> Tensor:
        """(T,) β_i = 1 − ᾱ_i / ᾱ_{i−1}."""
        return _betas(nn.functional.logsigmoid(self.lambdas))


def _betas(log_alpha_bar: Tensor) -> Tensor:
    """(T,) from log ᾱ_0 … log ᾱ_T."""
    return -torch.expm1(log_alpha_bar.diff())


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Discrete:
    """β_i linear from `first` to `last` (DDPM, section 4; the memoir's schedule)."""
    return Discrete(torch.linspace(first, last, steps, dtype=torch.float64))


def scaled_linear(steps: int = 1000, first: float = 8.5e-4, last: float = 0.012) -> Discrete:
    """√β_i linear (latent diffusion's code; with DDPM's ends it is the "quad" schedule of DDIM's code)."""
    return Discrete(torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2)


def _squashed(f: Callable[[Tensor], Tensor], steps: int, largest: float) -> Discrete:
    """ᾱ_i = (f(i/T) − f(1)) / (f(0) − f(1)) for a falling f, with β_i ≤ `largest` so that the last stays below 1."""
    f_i = f(torch.arange(steps + 1, dtype=torch.float64) / steps) - f(torch.ones((), dtype=torch.float64))
    return Discrete((1 - f_i[1:] / f_i[:-1]).clamp(max=largest))


def cosine(steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Discrete:
    """ᾱ_i = f(i/T) / f(0), f(u) = cos²(π/2 · (u + s)/(1 + s)), β_i ≤ `largest` (Improved DDPM, eq. 17; s = offset)."""
    return _squashed(lambda u: torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2, steps, largest)


def sigmoid(
    steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, largest: float = 0.999
) -> Discrete:
    """ᾱ_i = (f(i/T) − f(1)) / (f(0) − f(1)), f(u) = 1/(1 + exp((start + u (end − start))/τ)) (Jabri et al., RIN)."""
    return _squashed(lambda u: torch.sigmoid(-(start + u * (end - start)) / tau), steps, largest)


def shifted(table: Discrete, shift: float) -> Discrete:
    """sigma/alpha times `shift` (resolution/64), so lambda − 2 log shift (simple diffusion, section 3.1)."""
    _positive(shift=shift)
    return Discrete(_betas(nn.functional.logsigmoid(table.lambdas - 2 * math.log(shift))))


def zero_terminal_snr(table: Discrete, last_alpha: float = 1e-8) -> Discrete:
    """√ᾱ_i moved and scaled so that √ᾱ_T = 0 and √ᾱ_1 stays (Lin et al., Algorithm 1).

    The zero is `last_alpha`, which x_T does not feel and which keeps log-SNR finite.
    """
    alpha = torch.sigmoid(table.lambdas).sqrt()
    moved = (alpha - alpha[-1]) * alpha[1] / (alpha[1] - alpha[-1])
    return Discrete(_betas(2 * torch.cat([alpha[:1], moved[1:-1], alpha.new_tensor([last_alpha])]).log()))


class VP(Schedule):
    """Variance preserving: alpha² = exp(−B(t)), sigma² = 1 − alpha², B = β_min t + (β_max − β_min) t²/2.

    The continuous limit of DDPM's linear table (Song et al., eq. 33).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0):
        super().__init__()
        _positive(beta_min=beta_min, beta_max=beta_max)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def _time(self, integral: Tensor) -> Tensor:
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
        sigma = 2 / (1 + torch.sqrt(1 + 4 * torch.exp(log_snr)))  # the root of sigma = 1 − alpha² at this log-SNR
        return self._time(-torch.log1p(-sigma))


class VE(Schedule):
    """Variance exploding: alpha = 1, sigma² = σ_min² ((σ_max/σ_min)^(2t) − 1), g of Song et al., eq. 30.

    (Their kernel leaves out the −1, and so starts at σ_min instead of 0.)
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0):
        super().__init__()
        _positive(sigma_min=sigma_min, sigma_max=sigma_max)
        self.sigma_min = sigma_min
        self.rate = 2 * math.log(sigma_max / sigma_min)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.sqrt(torch.expm1(self.rate * t))

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / self.rate


class EDM(Schedule):
    """alpha = 1, sigma = σ_max t (Karras et al., section 3, whose t is sigma itself)."""

    def __init__(self, sigma_max: float = 80.0):
        super().__init__()
        _positive(sigma_max=sigma_max)
        self.sigma_max = sigma_max

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-log_snr / 2) / self.sigma_max


class ContinuousCosine(Schedule):
    """sigma/alpha = s·tan(θt), variance preserving (Hoogeboom et al., simple diffusion, section 3.1).

    Args:
        shift: s, resolution/64, raises the noise of large images.
        lowest: the log-SNR at t = 1, which fixes θ.
    """

    def __init__(self, shift: float = 1.0, lowest: float = -15.0):
        super().__init__()
        _positive(shift=shift)
        self.shift = shift
        self.angle = math.atan(math.exp(-lowest / 2) / shift)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = torch.cos(self.angle * t), self.shift * torch.sin(self.angle * t)
        norm = torch.hypot(alpha, sigma)
        return alpha / norm, sigma / norm

    def time(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2) / self.shift) / self.angle


class Flow(Schedule):
    """Rectified flow: sigma = s t / (1 − t + s t), alpha = 1 − sigma (Lipman et al., eq. 22; the shift s: SD3, eq. 23).

    alpha(1) = 0: the end is pure noise.
    """

    def __init__(self, shift: float = 1.0):
        super().__init__()
        _positive(shift=shift)
        self.shift = shift

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = 1 - t, self.shift * t
        return alpha / (alpha + sigma), sigma / (alpha + sigma)

    def time(self, log_snr: Tensor) -> Tensor:
        return 1 / (1 + self.shift * torch.exp(log_snr / 2))
