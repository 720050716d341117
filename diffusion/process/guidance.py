"""Guidance: push a denoiser's estimate away from that of a weaker denoiser.

With D_strong and D_weak the estimates of x0 at the same x_t, and the scale w:
    D_guided = D_weak + w (D_strong − D_weak),  and the same for eps.
The weights sum to 1, so x_t = alpha_t x0 + sigma_t eps still holds. At each noise level, the guided score is that of
p_strong^w p_weak^(1−w). w = 1 is no guidance, w = 0 the weak denoiser; Ho & Salimans write 1 + w for this w.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Estimate, Wrapped, expand
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype

PROBES = 16  # images, and …
LEVEL = 3.0  # … their noise level, for the `limit` of AutoGuidance
DROPPED = ("classes", "picture", "vector")  # what training leaves out of some images, all of it at once
Level = Annotated[float, Ge(0)]  # a noise level, sigma/alpha


@dataclass(eq=False)
class Guidance:
    """Base class: guidance(denoise, weak) wraps a denoiser as another denoiser.

    Guidance applies to images with a noise level sigma/alpha in (low, high]; all others get the unchanged strong
    estimate (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").
    """

    scale: Annotated[float, Ge(0)]  # w
    low: Level | None = None
    high: Level | None = None
    drops_labels: ClassVar[bool] = False  # whether the weak denoiser can be the model itself, without labels
    needs_model: ClassVar[bool] = True  # whether the weak denoiser is another model than the guided one

    @property
    def bounds(self) -> tuple[float, float]:
        """low and high as numbers; 0 and infinity if unset."""
        return 0.0 if self.low is None else self.low, math.inf if self.high is None else self.high

    def __call__(self, denoise: Any, weak: Any = None) -> "Guided":
        """The guided denoiser: (x_t (B, C, *size), t (B,), **conditions) -> Estimate.

        Raises UserError if the interval is outside of the schedule, or the weak denoiser is missing or has another one.
        """
        schedule, (low, high) = denoise.schedule.on_cpu(), self.bounds
        least, largest = schedule.level(torch.tensor([schedule.first, 1.0], dtype=torch.float64)).tolist()
        if not low < high or high < least or low >= largest:
            raise UserError(
                f"guidance: low = {low:g} and high = {high:g}; expected low below high, in the range of the schedule's "
                f"noise level sigma/alpha, from {least:g} to {largest:g}"
            )
        if weak is None:
            weak = self.weakened(denoise)
        else:
            t = torch.linspace(0, 1, 21, dtype=torch.float64)
            here, there = (torch.stack(each(t)) for each in (schedule, weak.schedule.on_cpu()))
            if not torch.allclose(here, there, rtol=1e-6, atol=0):
                raise UserError("guidance: the weak denoiser has another noise schedule; both need the same")
        return Guided(denoise, weak, self)

    def weakened(self, denoise: Any) -> Any:
        """The weak denoiser if no other model is given."""
        raise UserError(f"guidance: {type(self).__name__} needs a weak model: a smaller or less trained one")

    def weak_conditions(self, conditions: dict[str, Any]) -> dict[str, Any]:
        """The conditions for the weak denoiser, selected from those for the strong one; by default all of them."""
        return conditions

    def scale_of(self, strong: Any, weak: Any, like: Tensor, conditions: dict[str, Any]) -> float:
        """w for two denoisers of images like `like` (B, C, *size), given such conditions; here always the scale."""
        return self.scale

    def acts(self, schedule: Schedule, t: Tensor) -> Tensor:
        """(B,) whether the noise level of each image is in (low, high]."""
        low, high = self.bounds
        level = schedule.level(t)
        return (level > low) & (level <= high)


@dataclass(eq=False)
class Guided(Wrapped):
    """The denoiser returned by `Guidance`. The weak denoiser is evaluated only if guidance changes an image."""

    weak: Any
    guidance: Guidance
    scale: float | None = field(default=None, init=False)  # w, computed at the first call

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        if "end" in conditions:
            raise UserError(
                "guidance: guided flow maps are not those of a guided path; use another sampler, or no guidance"
            )
        weak_conditions = self.guidance.weak_conditions(conditions)
        strong: Estimate = self.denoise(x_t, t, **conditions)
        if self.guidance.scale == 1:
            return strong
        acts = self.guidance.acts(self.schedule, t)
        if self.guidance.bounds != (0.0, math.inf) and not acts.any():  # `any` waits for the device
            return strong
        weak: Estimate = self.weak(x_t, t, **weak_conditions)
        where = expand(acts, x_t).bool()
        if self.scale is None:
            self.scale = self.guidance.scale_of(self.denoise, self.weak, x_t, conditions)
        scale = self.scale

        def guided(of_strong: Tensor, of_weak: Tensor) -> Tensor:
            return torch.where(where, of_weak + scale * (of_strong - of_weak), of_strong)

        return strong._replace(x0=guided(strong.x0, weak.x0), eps=guided(strong.eps, weak.eps))


@dataclass(eq=False)
class ClassifierFree(Guidance):
    """Guide away from the estimate without a class label or condition (Ho & Salimans 2022, eq. 6).

    The weak estimate comes from the same denoiser without them, or from an unconditional denoiser if one is given.
    """

    drops_labels: ClassVar[bool] = True
    needs_model: ClassVar[bool] = False

    def weakened(self, denoise: Any) -> Any:
        return denoise

    def weak_conditions(self, conditions: dict[str, Any]) -> dict[str, Any]:
        if all(conditions.get(name) is None for name in DROPPED):
            raise UserError(
                "guidance: ClassifierFree needs a class label per image, or a condition, and a model trained with it"
            )
        return {name: value for name, value in conditions.items() if name not in DROPPED}


@dataclass(eq=False)
class AutoGuidance(Guidance):
    """Guide away from a weak model (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself").

    Both get the same conditions, if any. The weak model is smaller or trained for fewer steps, on the same data.

    A model that is much worse has a colour of its own, and guidance away from it makes images black. So with `limit`, w
    is lowered to 1 + (w − 1) min(1, limit/m), where m is the mean square difference of the two estimates of x0, per
    value, for 16 grey images with fixed noise of sigma/alpha = 3 (and the class 0, without another condition). (APG,
    Sadat et al. 2024, limits the difference of each image at each step instead.)
    """

    limit: Annotated[float, Gt(0)] | None = None

    @torch.no_grad()
    def scale_of(self, strong: Any, weak: Any, like: Tensor, conditions: dict[str, Any]) -> float:
        if self.limit is None:
            return self.scale
        noise, schedule = Streams(range(PROBES), like.device).normal(*like.shape[1:]).to(like), strong.schedule
        level = torch.full((PROBES,), -2 * math.log(LEVEL), dtype=real_dtype(like.device), device=like.device)
        t = schedule.time(level).clamp(0, 1)
        given = {n: torch.zeros_like(rows[:1]).expand(PROBES, *rows.shape[1:]) for n, rows in conditions.items()}
        x_t = expand(schedule(t)[1], noise) * noise
        m = float((strong(x_t, t, **given).x0 - weak(x_t, t, **given).x0).square().mean())
        return self.scale if m <= self.limit else 1 + (self.scale - 1) * self.limit / m


@dataclass(eq=False)
class WindowGuidance(Guidance):
    """Guide away from the estimates of the same network on the four quarters of the image (arXiv 2411.10257).

    In a quarter it does not see the whole: what it knows of distant pixels is strengthened. It needs no other weights
    and no labels. Quarters overlap nowhere; with windows that do, guidance does almost nothing. A series has two halves
    instead, and a volume eight parts.
    """

    needs_model: ClassVar[bool] = False

    def weakened(self, denoise: Any) -> Any:
        return InParts(denoise)


@dataclass(eq=False)
class InParts(Wrapped):
    """A denoiser that estimates each part of x_t (B, C, *size), and of a picture of the condition, by itself."""

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        size, pictures = x_t.shape[2:], conditions.get("picture")
        if any(side % 2 for side in size):
            found = "×".join(map(str, size))
            raise UserError(f"guidance: windows on images of {found} pixels; expected even numbers")
        n = 2 ** len(size)
        given = {name: rows.repeat_interleave(n, dim=0) for name, rows in conditions.items()}
        if pictures is not None:
            given["picture"] = halved(pictures)
        estimate: Estimate = self.denoise(halved(x_t), t.repeat_interleave(n), **given)
        return Estimate(joined(estimate.x0), joined(estimate.eps))


def halved(x: Tensor) -> Tensor:
    """(B, C, *size) -> (2^axes B, C, *size/2): the parts of x that halving it along every axis gives."""
    n = x.ndim - 2
    for axis in reversed(range(2, x.ndim)):
        x = x.unflatten(axis, (2, -1))
    return x.permute(0, *range(2, 2 + 2 * n, 2), 1, *range(3, 3 + 2 * n, 2)).flatten(0, n)


def joined(x: Tensor) -> Tensor:
    """(2^axes B, C, *size/2) -> (B, C, *size): the parts of `halved` in their places."""
    n = x.ndim - 2
    x = x.unflatten(0, (-1, *[2] * n))
    x = x.permute(0, n + 1, *(axis for i in range(n) for axis in (1 + i, n + 2 + i)))
    for axis in range(2, 2 + n):
        x = x.flatten(axis, axis + 1)
    return x
