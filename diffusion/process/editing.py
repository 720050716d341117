"""Sampling that starts from a noised picture or from an interpolation of two noises."""

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
from diffusion.randomness import Seeds, Streams, real_dtype

LEAST_STEPS = 10  # of an adaptive sampler that is wrapped


def check(sampler: Sampler, picture: Tensor) -> None:
    """Raise UserError unless a picture is floating point (C, H, W), and a sampler has enough times to start from."""
    if not picture.is_floating_point() or picture.ndim != 3:
        raise UserError(
            f"picture: got {picture.dtype} {tuple(picture.shape)}; expected floating point (C, H, W) in [−1, 1]"
        )
    if sampler.adaptive and sampler.steps < LEAST_STEPS:
        raise UserError(
            f"sampler: {type(sampler).__name__} solves the ODE in {sampler.steps} parts, and an edit can only start "
            "between two of them; set 50 steps, or choose another sampler"
        )


@dataclass(eq=False)
class SDEdit:
    """Wrap a sampler to start from a noised picture (Meng et al. 2022): SDEdit(strength)(sampler, picture).

    Only the last k of the sampler's N steps are run, where k = strength·N, rounded, at least 1. They start at the time
    t of grid point N − k, with x_t = alpha_t y + sigma_t ε.

    Args:
        strength: the fraction of the steps to run; features of the picture stronger than the starting noise level are
            kept, weaker ones are resampled.
    """

    strength: Annotated[float, Gt(0), Le(1)] = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise UserError(f"strength {self.strength:g}; expected a number in (0, 1]; 1 keeps nothing of the picture")

    def __call__(self, sampler: Sampler, picture: Tensor) -> "Edited":
        """A sampler that generates variants of `picture`, y (C, H, W) in [−1, 1]; raises UserError as `check`."""
        check(sampler, picture)
        steps = max(1, round(self.strength * sampler.steps))
        return Edited(steps, sampler.grid, inner=sampler, picture=picture[None])


@dataclass(eq=False)
class Edited(Sampler):
    """The sampler returned by `SDEdit`; `steps` is the number of steps it runs.

    Args:
        inner: the wrapped sampler.
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
            raise UserError("sampler: it starts from the noised picture; pass noise, and no start")
        t, _ = self.begins(denoise.schedule)
        time = noise.new_tensor(t, dtype=real_dtype(noise.device))
        x_t = diffuse(denoise.schedule, self.picture.to(noise), noise, time)
        x = self.inner(denoise, None, streams, watch, (x_t, t), **conditions)
        self.evaluations = self.inner.evaluations
        return x

    def begins(self, schedule: Schedule) -> tuple[float, float]:
        """The starting time t and its noise level sigma/alpha."""
        schedule = copy.deepcopy(schedule).cpu()
        t = self.inner.grid(schedule, self.inner.steps)[self.inner.steps - self.steps]
        return float(t), float(noise_level(schedule, t))


class Between(Streams):
    """Interpolate between two sets of random streams: each normal draw is
        z = cos(φ) a + sin(φ) b,  φ = w π/2,
    where a and b are the draws of the two streams; w = 0 and 1 are the two ends. Because cos² + sin² = 1, z ~ N(0, I)
    for every w, also for the noise that a sampler draws during its steps. If a and b are orthogonal, as noises of many
    pixels nearly are, this is the spherical interpolation of DDIM (eq. 67).

    Args:
        seeds: the seeds at w = 0, one for each of the B examples.
        others: the seeds at w = 1.
        shares: w for each example, from 0 to 1.
        device: the device on which the numbers are drawn.

    Raises:
        UserError: if an example has the same seed at both ends, because z would then not be N(0, I).
    """

    def __init__(self, seeds: Seeds, others: Seeds, shares: Sequence[float], device: torch.device | str = "cpu"):
        super().__init__(seeds, device)
        if any(a == b for a, b in zip(seeds, others, strict=True)):
            raise UserError("interpolation: both ends have the same seed; use two")
        self.other = Streams(others, device)
        self.angles = [w * math.pi / 2 for w in shares]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        a, b = super().normal(*shape, dtype=dtype), self.other.normal(*shape, dtype=dtype)
        cos, sin = ([f(angle) for angle in self.angles] for f in (math.cos, math.sin))
        return expand(a.new_tensor(cos), a) * a + expand(a.new_tensor(sin), a) * b
