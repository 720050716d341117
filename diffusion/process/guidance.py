"""Guidance: a denoiser that is pushed away from the estimate of a weaker one.

With D the estimate of x0, strong and weak at the same x_t, and the scale w:
    D_guided = D_weak + w (D_strong − D_weak),  and the same for eps.
The weights w and 1 − w sum to 1, so x_t = alpha_t x0 + sigma_t eps stays true, also where alpha_t or sigma_t is 0. The
guided score is that of p_strong^w p_weak^(1−w) at each noise level. These densities are not those of one distribution
with more and more noise, so for w ≠ 1 guided sampling does not sample from p_strong^w p_weak^(1−w) of the images.

w = 1 is no guidance, w = 0 is the weak denoiser, and w > 1 extrapolates. Ho & Salimans write 1 + w for this w.
A new guidance is a `Guidance` that says which denoiser is the weak one and what conditions it is given.
"""

import copy
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Estimate, expand
from diffusion.process.schedule import Schedule

Level = Annotated[float, Ge(0)]  # a noise level, sigma/alpha


@dataclass(eq=False)
class Guidance:
    """Base class: wraps a denoiser as guidance(denoise, weak), another denoiser that samplers can be given.

    It acts on images whose noise level sigma/alpha is in (low, high]; all others get the strong estimate, unchanged
    (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").

    Args:
        scale: w, the weight of the strong estimate; 1 is no guidance.
        low: guidance acts above this noise level; null: down to 0.
        high: guidance acts up to this noise level; null: from the start.
        ckpt: the worse model: a run, a checkpoint or an exported file; null: none. Commands read it, not this class.
        weights: the worse model: its averaged or raw weights, or a number for the average of this length, where it has
            several (ema=power); null: averaged. Without `ckpt` they are weights of the model itself. Commands read it.
        step: the worse model: the run itself, or that of `ckpt`, after so many optimizer steps, or, of the run itself,
            after a share of them, such as 0.4; null: at its end. A run that trains with it keeps these weights, and
            guides its last samples. Commands read it.

    Raises:
        UserError: for a scale or an interval that cannot be.
    """

    scale: Annotated[float, Ge(0)]
    low: Level | None = None
    high: Level | None = None
    ckpt: str | None = None
    weights: Literal["ema", "raw"] | float | None = None
    step: Annotated[int, Ge(1)] | Annotated[float, Gt(0), Lt(1)] | None = None
    drops_labels: ClassVar[bool] = False  # whether the model's own estimate without a label can be the weak one

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise UserError(f"guidance: scale = {self.scale:g}; it must be at least 0 and finite, and 1 is no guidance")
        low, high = self.bounds()
        if not 0 <= low < high:
            raise UserError(
                f"guidance: low = {low:g} and high = {high:g}; noise levels are at least 0, and low must be below high"
            )

    @property
    def limited(self) -> bool:
        """Whether guidance acts in an interval only."""
        return self.low is not None or self.high is not None

    def bounds(self) -> tuple[float, float]:
        """The interval's ends as numbers, 0 and infinity where there is none."""
        return 0.0 if self.low is None else self.low, math.inf if self.high is None else self.high

    def check(self, schedule: Schedule) -> None:
        """Raise UserError if no noise level of the schedule is in (low, high]."""
        first = 1 / getattr(schedule, "steps", math.inf)  # row 1 of a table, else 0
        ends = torch.tensor([first, 1.0], dtype=torch.float64)
        least, largest = noise_level(copy.deepcopy(schedule).cpu(), ends).tolist()
        low, high = self.bounds()
        if high < least or low >= largest:
            raise UserError(
                f"guidance: low = {low:g} and high = {high:g}, but the schedule's noise level sigma/alpha ranges from "
                f"{least:g} to {largest:g}; choose guidance.low and guidance.high within"
            )

    def __call__(self, denoise: Any, weak: Any = None) -> "Guided":
        """The guided denoiser: (x_t (B, C, H, W), t (B,), **conditions) -> Estimate.

        Args:
            denoise: the strong denoiser.
            weak: another denoiser on the same noise schedule, or None.

        Raises:
            UserError: if the interval is outside of the schedule, or the weak denoiser missing or on another schedule.
        """
        self.check(denoise.schedule)
        if weak is not None and not same(denoise.schedule, weak.schedule):
            raise UserError(
                "guidance: the worse model has another noise schedule than the model; choose one that was trained with "
                "the same schedule"
            )
        return Guided(self, denoise, self.weaker(denoise, weak))

    def weaker(self, denoise: Any, weak: Any) -> Any:
        """The denoiser whose estimate is the weak one."""
        raise NotImplementedError

    def weak_conditions(self, conditions: dict[str, Any]) -> dict[str, Any]:
        """What the weak denoiser is given of the strong one's conditions."""
        raise NotImplementedError

    def acts(self, schedule: Schedule, t: Tensor) -> Tensor:
        """(B,) whether the noise level of each image is in (low, high]."""
        low, high = self.bounds()
        level = noise_level(schedule, t)
        return (level > low) & (level <= high)


class Guided:
    """The denoiser that `Guidance` makes. The weak denoiser is evaluated only where guidance changes an image.

    A learned variance is that of the strong denoiser.
    """

    def __init__(self, guidance: Guidance, strong: Any, weak: Any):
        self.guidance, self.strong, self.weak = guidance, strong, weak
        self.schedule: Schedule = strong.schedule

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        weak_conditions = self.guidance.weak_conditions(conditions)
        strong: Estimate = self.strong(x_t, t, **conditions)
        if self.guidance.scale == 1:
            return strong
        acts = self.guidance.acts(self.schedule, t)
        if self.guidance.limited and not acts.any():  # which waits for the device
            return strong
        weak: Estimate = self.weak(x_t, t, **weak_conditions)
        where = expand(acts, x_t).bool()

        def guided(of_strong: Tensor, of_weak: Tensor) -> Tensor:
            return torch.where(where, of_weak + self.guidance.scale * (of_strong - of_weak), of_strong)

        return strong._replace(x0=guided(strong.x0, weak.x0), eps=guided(strong.eps, weak.eps))


@dataclass(eq=False)
class ClassifierFree(Guidance):
    """Away from the estimate without a class label (Ho & Salimans 2022, eq. 6): scale 1 is conditional, 0 is not.

    The weak estimate is that of the same denoiser without `classes`, or that of an unconditional one if it is given.
    """

    drops_labels: ClassVar[bool] = True

    def weaker(self, denoise: Any, weak: Any) -> Any:
        return denoise if weak is None else weak

    def weak_conditions(self, conditions: dict[str, Any]) -> dict[str, Any]:
        if conditions.get("classes") is None:
            raise UserError(
                "guidance: classifier-free guidance needs a class label for each image, and there are none; give "
                "classes to a model that was trained with them, or choose guidance=none"
            )
        return {name: value for name, value in conditions.items() if name != "classes"}


@dataclass(eq=False)
class AutoGuidance(Guidance):
    """Away from a worse model (Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself").

    Both are given the same conditions, or none. The worse model is smaller or trained for less long, on the same data.
    """

    def weaker(self, denoise: Any, weak: Any) -> Any:
        if weak is None:
            raise UserError(
                "guidance: autoguidance needs a worse model; set guidance.step to an earlier step of the run, "
                "guidance.ckpt to a run, a checkpoint or an exported file of a smaller or less trained model, or "
                "guidance.weights to other weights of this one"
            )
        return weak

    def weak_conditions(self, conditions: dict[str, Any]) -> dict[str, Any]:
        return conditions


def noise_level(schedule: Schedule, t: Tensor) -> Tensor:
    """sigma/alpha at times t, in the shape of t; infinite where alpha = 0."""
    alpha, sigma = schedule(t)
    return sigma / alpha


def same(one: Schedule, other: Schedule) -> bool:
    """Whether both schedules have the same alpha and sigma at all times, up to rounding."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    pairs = zip(*(copy.deepcopy(schedule).cpu()(t) for schedule in (one, other)), strict=True)
    return all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in pairs)
