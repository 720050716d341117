"""Inpainting: sample the unknown pixels of a picture given the known ones, without gradients.

The target is the conditional distribution p(x0 | x0 = y where known). An `Inpainting` wraps any sampler as another
sampler, so guidance, thresholds and conditions work as usual. In its samples, the known pixels equal those of y.
docs/mathematics.md states how far each method is from its target on a Gaussian, where the exact moments are known.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.editing import check
from diffusion.process.sampler import Evaluator, Past, Point, Sampler, Stepped, Time
from diffusion.process.sampler.loop import Grid, Threshold
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams


@dataclass(eq=False)
class Inpainting:
    """Base class: inpainting(sampler, picture, known) wraps a sampler as another sampler. Subclasses define `step`."""

    def __call__(self, sampler: Sampler, picture: Tensor, known: Tensor) -> "Inpainted":
        """A sampler that fills in the unknown pixels of `picture`.

        Args:
            sampler: the sampler to wrap.
            picture: y, (C, H, W) in [−1, 1]; its unknown pixels have no influence.
            known: bool, (H, W) or (C, H, W), with at least one unknown pixel.

        Raises UserError otherwise, and as `editing.check`.
        """
        check(sampler, picture)
        if known.dtype != torch.bool or bool(known.all()):
            raise UserError(
                f"mask: got {known.dtype}; expected bool, true where the picture is known, false to fill it"
            )
        known = known.expand(picture.shape)[None]
        return Inpainted(*self.outer(sampler), method=self, inner=sampler, picture=picture[None], known=known)

    def outer(self, sampler: Sampler) -> tuple[int, Grid, Threshold | None]:
        """The number of steps, the grid and the threshold of the wrapping sampler."""
        return sampler.steps, sampler.grid, sampler.threshold

    def step(self, to: "Inpainted", denoise: Evaluator, x_t: Tensor, t: Time, s: Time, streams: Streams) -> Stepped:
        """A step of the wrapping sampler."""
        raise NotImplementedError


@dataclass(eq=False)
class Inpainted(Sampler):
    """The sampler returned by an `Inpainting`. The final result has the known pixels of `picture`.

    Args:
        method: the inpainting method.
        inner: the wrapped sampler.
        picture: y, (1, C, H, W).
        known: bool, of the same shape.
    """

    method: Inpainting = field(kw_only=True)
    inner: Sampler = field(kw_only=True)
    picture: Tensor = field(kw_only=True)
    known: Tensor = field(kw_only=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """See `Sampler`."""
        return self.with_known(super().__call__(*args, **kwargs), self.picture)

    def with_known(self, x: Tensor, values: Tensor) -> Tensor:
        """x with the known pixels replaced by `values`."""
        return torch.where(self.known.to(x.device), values.to(x), x)

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        return self.method.step(self, denoise, x_t, t, s, streams)


@dataclass(eq=False)
class RePaint(Inpainting):
    """Replace the known pixels of x_t by noised ones, and repeat each step several times (RePaint, Algorithm 1).

    Before a step from t to s, the known pixels are set to alpha_t y + sigma_t z. After it, noise takes x_s back to t,
        x_t = (alpha_t/alpha_s) x_s + √(sigma_t² − (alpha_t/alpha_s)² sigma_s²) z,
    and the step is repeated, which makes known and unknown pixels consistent (Lugmayr et al. 2022, with jumps of one
    step). A multistep solver takes first-order steps, because its earlier estimates belong to other noise. A single
    pass is plain replacement, which does not converge to the conditional distribution, however many steps are used.
    Many passes are Langevin dynamics at each noise level, with that distribution as their limit.

    Args:
        passes: how many times each step except the last is run; each pass costs as much as plain sampling.
    """

    passes: Annotated[int, Ge(1)] = 10

    def step(self, to: Inpainted, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, streams: Streams) -> Stepped:
        for left in reversed(range(self.passes if s.sigma > 0 else 1)):
            x_t = to.with_known(x_t, t.alpha * to.picture.to(x_t) + t.sigma * streams.normal_like(x_t))
            x_s, now = to.inner.step(denoise, x_t, t, s, [], streams)
            if left:
                added = t.sigma * math.sqrt(-math.expm1(2 * (t.lam - s.lam)))
                x_t = t.alpha / s.alpha * x_s + added * streams.normal_like(x_s)
        return x_s, now


@dataclass(eq=False)
class SplitGibbs(Inpainting):
    """Gibbs sampling of (x0, z), z = x0 + ρ·noise, with z = y where known, for decreasing ρ (PnP-DM, Algorithm 1).

    For each of the decreasing noise levels ρ = sigma_t/alpha_t, chosen from the sampler's grid, draw
        z  | x0:  y where known, and x0 + ρ ε elsewhere;
        x0 | z:   a sample of the sampler, started from x_t = alpha_t z at time t.
    (Coeurdoux et al. 2023; Wu et al. 2024, "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play
    Priors".) If the second draw is exact, the stationary distribution at a fixed ρ is exactly p(x0 | x0 + ρ ε = y where
    known), which is the target as ρ → 0. An exact draw is random, so it needs a sampler that adds noise.

    Args:
        rounds: the number of noise levels, at most the sampler's number of steps; each round runs all steps of the
            grid below its level.
    """

    rounds: Annotated[int, Ge(1)] = 20

    def outer(self, sampler: Sampler) -> tuple[int, Grid, None]:
        """Times of the sampler's grid, about evenly spaced in it, then 0; the sampler itself applies its threshold."""

        def levels(schedule: Schedule, n: int) -> Tensor:
            chosen = (torch.arange(n + 1, dtype=torch.float64) * sampler.steps / n).round().long()
            return sampler.grid(schedule, sampler.steps)[chosen]

        return min(self.rounds, sampler.steps), levels, None

    def step(self, to: Inpainted, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, streams: Streams) -> Stepped:
        last: list[Any] = []
        x_t = to.with_known(x_t, t.alpha * to.picture)
        x0 = to.inner(denoise.denoise, None, streams, lambda k, x, estimate: last.append(estimate), (x_t, t.t))
        denoise.evaluations += to.inner.evaluations
        x0 = to.with_known(x0, to.picture)
        x_s = x0 if s.sigma == 0 else s.alpha * x0 + s.sigma * streams.normal_like(x0)
        return x_s, Point(t, x_t, last[-1])
