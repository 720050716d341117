"""Samples that begin elsewhere than at independent noise: at a noised picture, or between two noises."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoise, diffuse, expand
from diffusion.process.guidance import noise_level
from diffusion.process.sampler import Sampler
from diffusion.process.sampler.loop import Watch
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype


@dataclass(eq=False)
class SDEdit:
    """Wraps a sampler as one that begins at a noised picture (Meng et al. 2022): SDEdit(strength)(sampler, picture).

    Of the sampler's N steps the last k are made, k = strength·N, rounded, at least 1. They begin at the time t of the
    grid's point N − k, with x_t = alpha_t y + sigma_t ε.

    Args:
        strength: the share of the steps that are made: what is above the noise level that they begin at is kept of the
            picture, and what is below is drawn anew.
    """

    strength: Annotated[float, Gt(0), Le(1)] = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(
                f"strength={self.strength:g}: it must be above 0, where the picture stays as it is, and at most 1, "
                "where all of it is drawn anew"
            )

    def __call__(self, sampler: Sampler, picture: Tensor) -> "Edited":
        """A sampler of variants of `picture`, y (C, H, W) in [−1, 1]."""
        steps = max(1, round(self.strength * sampler.steps))
        return Edited(steps, sampler.grid, inner=sampler, picture=picture[None])


@dataclass(eq=False)
class Edited(Sampler):
    """The sampler that `SDEdit` makes, of so many `steps`.

    Args:
        inner: the sampler that is wrapped.
        picture: y, (1, C, H, W).
    """

    inner: Sampler = field(kw_only=True)
    picture: Tensor = field(kw_only=True)

    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor | None,
        streams: Streams,
        watch: Watch | None = None,
        start: tuple[Tensor, float] | None = None,
        **conditions: Any,
    ) -> Tensor:
        if noise is None or start is not None:
            raise UserError("sampler: a noised picture is where it begins; give the noise, and no other start")
        t, _ = self.begins(denoise.schedule)
        x_t = diffuse(
            denoise.schedule, self.picture.to(noise), noise, noise.new_tensor(t, dtype=real_dtype(noise.device))
        )
        x = self.inner(denoise, None, streams, watch, (x_t, t), **conditions)
        self.evaluations = self.inner.evaluations
        return x

    def begins(self, schedule: Schedule) -> tuple[float, float]:
        """The time t at which the steps begin, and its noise level sigma/alpha."""
        schedule = copy.deepcopy(schedule).cpu()
        t = self.inner.grid(schedule, self.inner.steps)[self.inner.steps - self.steps]
        return float(t), float(noise_level(schedule, t))


class Between(Streams):
    """Random streams on the way from one set of streams to another: each normal draw is
        z = cos(φ) a + sin(φ) b,  φ = w π/2,
    of the draws a and b of both. As cos² + sin² = 1, z ~ N(0, I) for every w: each is noise like any other, also what a
    sampler draws during its steps, and w = 0 and 1 are the two ends. Where a and b are orthogonal, as noises of many
    pixels nearly are, this is the spherical interpolation of DDIM (eq. 67).

    Args:
        seeds: of the streams at w = 0, one for each of the B examples.
        others: of those at w = 1.
        shares: w of each example, from 0 to 1.
        device: where the numbers are drawn.

    Raises:
        UserError: if an example has the same seed at both ends, where z would not be N(0, I).
    """

    def __init__(
        self, seeds: Sequence[int], others: Sequence[int], shares: Sequence[float], device: torch.device | str = "cpu"
    ):
        super().__init__(seeds, device)
        if any(a == b for a, b in zip(seeds, others, strict=True)):
            raise UserError("interpolate: both ends have the same seed; give two, such as interpolate=[0,1]")
        self.other = Streams(others, device)
        self.angles = [w * math.pi / 2 for w in shares]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        a, b = super().normal(*shape, dtype=dtype), self.other.normal(*shape, dtype=dtype)
        cos, sin = ([f(angle) for angle in self.angles] for f in (math.cos, math.sin))
        return expand(a.new_tensor(cos), a) * a + expand(a.new_tensor(sin), a) * b
