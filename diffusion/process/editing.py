"""Sampling from a picture: variants of it, inpainting, and interpolations of two noises.

Each wraps a sampler as another sampler, so guidance, thresholds and conditions work as usual. Inpainting samples
p(x0 | y), where y is the known part of a picture, or another linear observation of it (`operators.py`); here without
gradients, in `posterior.py` with them. docs/samplers.md states how far each method is from it on a Gaussian. Pictures
(C, *size) lie in [−1, 1].
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoise, diffuse, expand
from diffusion.process.operators import MOST, MaskOperator, Nonlinear, Observation
from diffusion.process.sampler import Evaluator, Past, Point, Sampler, Stepped, Time
from diffusion.process.schedule import Schedule
from diffusion.randomness import Seeds, Streams, real_dtype


class Wrapping(Sampler):
    """Base class: a sampler that runs `inner` on a picture."""

    def __init__(self, inner: Sampler):
        super().__init__(inner.steps, inner.grid, inner.threshold)
        self.inner = inner


class SDEdit(Wrapping):
    """Variants of a picture, by a sampler that starts from the noised picture (Meng et al. 2022).

    Only the last k = `steps` of the inner sampler's N steps are run, where k = strength·N, rounded, at least 1. They
    start at the time t of grid point N − k, with x_t = alpha_t y + sigma_t ε.
    """

    def __init__(self, inner: Sampler, picture: Tensor, strength: Annotated[float, Gt(0), Le(1)] = 0.6):
        super().__init__(inner)
        self.picture = picture[None]
        if not 0 < strength <= 1:
            raise UserError(f"strength {strength:g}; expected a number in (0, 1]; 1 keeps nothing of the picture")
        self.steps = max(1, round(strength * inner.steps))

    def __call__(  # type: ignore[override]
        self, denoise: Denoise, noise: Tensor, streams: Streams, watch: Any = None, **conditions: Any
    ) -> Tensor:
        t, _ = self.begins(denoise.schedule)
        time = noise.new_tensor(t, dtype=real_dtype(noise.device))
        x_t = diffuse(denoise.schedule, self.picture.to(noise), noise, time)
        return self.inner(denoise, x_t, streams, watch, t, **conditions)

    def begins(self, schedule: Schedule) -> tuple[float, float]:
        """The starting time t and its noise level sigma/alpha."""
        schedule = schedule.on_cpu()
        t = self.inner.grid(schedule, self.inner.steps)[self.inner.steps - self.steps]
        return float(t), float(schedule.level(t))


class Inpainting(Wrapping):
    """Base class: samples of p(x0 | y) for an observation y. Known pixels are kept exactly if they have no noise."""

    def __init__(self, inner: Sampler, observation: Observation):
        super().__init__(inner)
        self.observation = observation

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.with_known(super().__call__(*args, **kwargs))

    def with_known(self, x: Tensor, alpha: float = 1.0, noise: Tensor | float = 0.0) -> Tensor:
        """x with the known pixels replaced by alpha y + noise, if the observation is `exact`; else x."""
        operator = self.observation.operator
        if not (isinstance(operator, MaskOperator) and self.observation.exact):
            return x
        return torch.where(operator.known.to(x.device), alpha * self.observation.y.to(x) + noise, x)


class RePaint(Inpainting):
    """Replace the known pixels of x_t by noised ones, and repeat each step several times (RePaint, Algorithm 1).

    Before a step from t to s, the known pixels are set to alpha_t y + sigma_t z. After it, noise takes x_s back to t,
        x_t = (alpha_t/alpha_s) x_s + √(sigma_t² − (alpha_t/alpha_s)² sigma_s²) z,
    and the step is repeated, which makes known and unknown pixels consistent (Lugmayr et al. 2022, with jumps of one
    step). Multistep solvers take first-order steps: their earlier estimates belong to other noise. A single pass is
    plain replacement, which does not converge to the conditional distribution.
    """

    def __init__(self, inner: Sampler, observation: Observation, passes: Annotated[int, Ge(1)] = 10):
        super().__init__(inner, observation)
        if not observation.exact:
            raise UserError("inpainting: RePaint only fills a mask, without noise; use mmps, pigdm or split_gibbs")
        self.passes = passes

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        for left in reversed(range(self.passes if s.sigma > 0 else 1)):
            x_t = self.with_known(x_t, t.alpha, t.sigma * streams.normal_like(x_t))
            x_s, now = self.inner.step(denoise, x_t, t, s, [], streams)
            if left:
                added = t.sigma * math.sqrt(-math.expm1(2 * (t.lam - s.lam)))
                x_t = t.alpha / s.alpha * x_s + added * streams.normal_like(x_s)
        return x_s, now


class SplitGibbs(Inpainting):
    """Gibbs sampling of (x0, z), z = x0 + ρ ε, with y = A z + noise, for decreasing ρ (PnP-DM, Algorithm 1).

    For each of the decreasing noise levels ρ = sigma_t/alpha_t, chosen from the sampler's grid, draw
        z  | x0, y:  x0 + ρ ε, replaced by y where known; for other observations, see `conditioned`;
        x0 | z:      a sample of the sampler, started from x_t = alpha_t z at time t.
    (Coeurdoux et al. 2023; Wu et al. 2024.) If the second draw is exact, which needs a sampler that adds noise, the
    stationary distribution at a fixed ρ is exactly p(x0 | A (x0 + ρ ε) + noise = y), the target as ρ → 0.
    """

    def __init__(self, inner: Sampler, observation: Observation, rounds: Annotated[int, Ge(1)] = 20):
        super().__init__(inner, observation)
        if isinstance(observation.operator, Nonlinear):
            raise UserError("inpainting: split Gibbs needs an operator that is linear, as in pixels; use mmps or pigdm")
        self.steps, self.grid, self.threshold = min(rounds, inner.steps), self.levels, None

    def levels(self, schedule: Schedule, n: int) -> Tensor:
        """n times of the sampler's grid, about evenly spaced in it, then 0."""
        chosen = (torch.arange(n + 1, dtype=torch.float64) * self.inner.steps / n).round().long()
        return self.inner.grid(schedule, self.inner.steps)[chosen]

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        last: list[Any] = []
        x_t = self.conditioned(x_t, t, streams)
        x0 = self.inner(denoise.denoise, x_t, streams, lambda k, x, estimate: last.append(estimate), t.t)
        x0 = self.with_known(x0)
        x_s = x0 if s.sigma == 0 else s.alpha * x0 + s.sigma * streams.normal_like(x0)
        return x_s, Point(t, x_t, last[-1])

    def conditioned(self, x_t: Tensor, t: Time, streams: Streams) -> Tensor:
        """x_t = alpha_t (x0 + ρ ε), given y: with y' = alpha_t (y + noise ε'), independent of x_t,
        x_t + sigma_t² Aᵀ (alpha_t² noise² I + sigma_t² A Aᵀ)⁻¹ (y' − A x_t)    (Matheron's rule).
        """
        observed = self.observation
        if observed.exact:
            return self.with_known(x_t, t.alpha)
        seen = observed.operator(x_t)
        residual = t.alpha * (observed.y.to(seen) + observed.noise * streams.normal_like(seen)) - seen
        shift = observed.gain(residual, lambda x: t.sigma**2 * x, t.alpha * observed.noise, MOST)
        return x_t + t.sigma**2 * shift


class Between(Streams):
    """Interpolate between two sets of random streams: each normal draw is
        z = cos(φ) a + sin(φ) b,  φ = w π/2,
    where a and b are the draws of the streams of `seeds` and `others`, and w is an example's share, from 0 to 1. So
    z ~ N(0, I) for every w. If a and b are orthogonal, this is the spherical interpolation of DDIM (eq. 67).
    """

    def __init__(self, seeds: Seeds, others: Seeds, shares: Sequence[float], device: torch.device | str = "cpu"):
        super().__init__(seeds, device)
        if any(a == b for a, b in zip(seeds, others, strict=True)):
            raise UserError("interpolation: both ends have the same seed; use two")  # z would not be N(0, I)
        self.other = Streams(others, device)
        self.angles = [w * math.pi / 2 for w in shares]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        a, b = super().normal(*shape, dtype=dtype), self.other.normal(*shape, dtype=dtype)
        cos, sin = ([f(angle) for angle in self.angles] for f in (math.cos, math.sin))
        return expand(a.new_tensor(cos), a) * a + expand(a.new_tensor(sin), a) * b
