"""From a network to an estimate of the image and the noise.

`Denoise` is any callable (x_t (B, C, *size), t (B,)) -> Estimate that has a `schedule`. A trained network, its EMA
copy, a thresholded denoiser and the tests' closed-form oracles all implement it. To extend a denoiser, wrap it.

In this package, *size is (L,) of series, (H, W) of images or (D, H, W) of volumes. "Image" stands for an example of any
of them, and "pixel" for one of its positions, unless a docstring says (H, W).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule


class Estimate(NamedTuple):
    """Estimates of x0 and eps, each (B, C, *size), that satisfy x_t = alpha_t x0 + sigma_t eps.

    `spread` (B, C, *size) is the network's output for a learned variance (`variance.learned_range`), or None.
    """

    x0: Tensor
    eps: Tensor
    spread: Tensor | None = None


class Denoise(Protocol):
    """(x_t (B, C, *size), t (B,)) -> Estimate."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate: ...


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """`coefficient`, of shape (), (B,) or that of x (B, ...), cast to the dtype of x, and reshaped to broadcast."""
    shape = coefficient.shape if coefficient.dim() == x.dim() else (-1, *[1] * (x.dim() - 1))
    return coefficient.to(x.dtype).reshape(shape)  # computed in float64, and rounded only here


def outer(a: Tensor, b: Tensor) -> Tensor:
    """a_i b_j (*size, n) of a (*size) and b (n,)."""
    return a[..., None] * b


def diffuse(schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha_t x0 + sigma_t eps (B, C, *size): a sample of q(x_t | x0) in one step (DDPM, eq. 4)."""
    alpha_t, sigma_t = schedule(t)
    return expand(alpha_t, x0) * x0 + expand(sigma_t, x0) * eps


def way_features(way: Tensor, n: int) -> Tensor:
    """[sin(k π way), 1 − cos(k π way)] (B, n) for k = 1 … n/2, for `way` (B,) in [0, 1]; 0 at 0."""
    phase = torch.outer(way, math.pi * torch.arange(1, n // 2 + 1, device=way.device, dtype=way.dtype))
    return torch.cat([phase.sin(), 1 - phase.cos()], dim=1)


def slope(denoise: Any, y: Tensor, u: Tensor, **conditions: Any) -> Tensor:
    """dy/du = eps − x0 (B, C, *size) of a path at y = x/(alpha + sigma) and the flow time u (B,) > 0."""
    t = denoise.schedule.at_flow_time(u)
    estimate: Estimate = denoise(expand(sum(denoise.schedule(t)), y) * y, t, **conditions)
    return estimate.eps - estimate.x0


class Denoiser(nn.Module):
    """A network and its prediction: y = network(c_in·x_t, label), then x0 and eps from `prediction.solve`.

    The network gets c_in·x_t in the dtype of its weights, and conditions such as `classes` (B,) as keyword arguments.
    If it was built for them, `picture` (B, P, *size) are further channels of its input, and `vector` (B, V) the first
    of its labels `augment`; images without these conditions have zeros. Raises UserError for a prediction that does not
    suit the schedule, for other conditions, and for an output of another size.

    If `centred`, the first channels of the picture are √(1 − s²) of an estimate of the image, and noise of deviation s,
    the first number of the vector (0 without one). With c these channels divided by √(1 − s²), the network learns the
    difference x0 − c alone: it gets c_in·(x_t − alpha_t c), and predicts for data whose variance is larger by that of
    the noise, s²/(1 − s²).

    With `ends` > 0 it is a flow map, too (`flow_map.FlowMap`). Given `end` (B,), the flow time of s ≤ t, its estimates
    satisfy x_s = alpha_s x0 + sigma_s eps on the path of the probability-flow ODE from x_t to s. The network's labels
    `augment` then include `ends` features of the way from t to s, 0 at s = t.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, prediction: Prediction, picture: int = 0, vector: int = 0,
        centred: bool = False, ends: int = 0,
    ):  # fmt: skip
        super().__init__()
        prediction.check(schedule)
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.picture, self.vector, self.centred, self.ends = picture, vector, centred, ends  # P, V

    def given(self, name: str, value: Tensor | None, like: Tensor, *size: int) -> Tensor:
        """The condition of this name, which has the shape `size` for each image, or zeros (B, *size)."""
        if value is not None and tuple(value.shape[1:]) != size:
            raise UserError(
                f"denoiser: the {name} of the condition is {tuple(value.shape[1:])}; the model needs {size}"
            )
        return like.new_zeros(len(like), *size) if value is None else value.to(like.dtype)

    def output(
        self, x_t: Tensor, t: Tensor, picture: Tensor | None = None, vector: Tensor | None = None,
        end: Tensor | None = None, **conditions: Any,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The network's y (B, C, *size) and, if it has 2C output channels, the spread; both in the dtype of x_t."""
        prediction, centre = self.prediction, None
        if self.vector or vector is not None:
            vector = self.given("vector", vector, x_t, self.vector)
        if self.picture or picture is not None:
            picture = self.given("picture", picture, x_t, self.picture, *x_t.shape[2:])
            if self.centred:
                s = torch.zeros_like(t) if vector is None else vector[:, 0].to(t)
                scale = (1 - s**2).sqrt()
                centre, prediction = picture[:, : x_t.shape[1]] / expand(scale, x_t), prediction.widened(s / scale)
        c_in, label = prediction.inputs(self.schedule, t)
        x = expand(c_in, x_t) * x_t
        if centre is not None:
            x = x - expand(c_in * self.schedule(t)[0], x) * centre
        if picture is not None:
            x = torch.cat([x, picture], dim=1)
        labels = [] if vector is None else [vector]
        if self.ends:
            u = self.schedule.flow_time(t)
            labels.append(way_features(torch.zeros_like(u) if end is None else u - end, self.ends).to(x.dtype))
        elif end is not None:
            raise UserError("denoiser: this model is no flow map; train one with the objective flow_map")
        if labels:
            more = conditions.get("augment")
            conditions["augment"] = torch.cat([*labels, *([] if more is None else [more])], dim=1)
        dtypes = (weight.dtype for weight in self.network.parameters() if weight.is_floating_point())
        label = label.to(torch.promote_types(x_t.dtype, torch.float32))  # bfloat16 would merge neighbouring times
        out = self.network(x.to(next(dtypes, x_t.dtype)), label, **conditions)
        B, C, *size = x_t.shape
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if found not in [(B, C, *size), (B, 2 * C, *size)]:
            raise UserError(
                f"denoiser: the network gives {found} for {tuple(x_t.shape)}; expected {C} or {2 * C} channels"
            )
        out = out.to(x_t.dtype)
        if centre is not None:
            f, g = self.prediction.of_output(prediction, self.schedule, t)
            y = expand(f, x_t) * out[:, :C] + expand(g, x_t) * (x_t - expand(self.schedule(t)[0], x_t) * centre)
            y = y + expand(self.prediction.weights(self.schedule, t)[0], x_t) * centre
            out = torch.cat([y, out[:, C:]], dim=1)
        return out[:, :C], out[:, C:] if out.shape[1] == 2 * C else None

    def estimate(self, x_t: Tensor, t: Tensor, y: Tensor, spread: Tensor | None = None) -> Estimate:
        """The estimates of image and noise implied by the network's output y."""
        (p, q), (u, w) = self.prediction.solve(self.schedule, t)
        x0 = expand(p, x_t) * x_t + expand(q, x_t) * y
        eps = expand(u, x_t) * x_t + expand(w, x_t) * y
        return Estimate(x0, eps, spread)

    def forward(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        return self.estimate(x_t, t, *self.output(x_t, t, **conditions))


@dataclass(eq=False)
class Wrapped:
    """Base class of denoisers that call another one, on the same schedule."""

    denoise: Any

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule


@dataclass(eq=False)
class Conditioned(Wrapped):
    """A denoiser that passes the same conditions, such as `classes` (B,), one per image, to every evaluation."""

    conditions: dict[str, Any]

    def __call__(self, x_t: Tensor, t: Tensor, **more: Any) -> Estimate:
        return self.denoise(x_t, t, **self.conditions, **more)


@dataclass(eq=False)
class MixedPrecision(Wrapped):
    """A denoiser that computes matrix products and convolutions in `dtype`, by torch.autocast; all else as before."""

    dtype: torch.dtype

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        with torch.autocast(x_t.device.type, self.dtype):
            return self.denoise(x_t, t, **conditions)


@dataclass(eq=False)
class Thresholded(Wrapped):
    """A denoiser that applies `threshold` to x0 and recomputes eps, which keeps x_t = alpha_t x0 + sigma_t eps."""

    threshold: Callable[[Tensor], Tensor]

    def __call__(self, x_t: Tensor, t: Tensor, **more: Any) -> Estimate:
        estimate: Estimate = self.denoise(x_t, t, **more)
        alpha_t, sigma_t = self.schedule(t)
        x0 = self.threshold(estimate.x0)
        eps = (x_t - expand(alpha_t, x_t) * x0) / expand(sigma_t, x_t)
        return estimate._replace(x0=x0, eps=eps)


def clip(x0: Tensor, limit: Annotated[float, Gt(0)] = 1.0) -> Tensor:
    """x0 clamped to [−limit, limit] (DDPM's reference code); the data lie in [−1, 1]."""
    return x0.clamp(-limit, limit)


def dynamic(x0: Tensor, quantile: Annotated[float, Gt(0), Le(1)] = 0.995) -> Tensor:
    """x0 clamped to [−s, s] and divided by s, where s ≥ 1 is a quantile of each image's |x0| (Imagen, section 2.3)."""
    magnitudes = x0.abs().flatten(1).sort(dim=1).values  # not torch's quantile: from 2.15 on, it needs float64
    rank = torch.tensor(quantile, dtype=x0.dtype) * (magnitudes.shape[1] - 1)
    low, high = magnitudes[:, int(rank.floor())], magnitudes[:, int(rank.ceil())]
    s = torch.lerp(low, high, float(rank - rank.floor())).clamp(min=1).reshape(-1, *[1] * (x0.dim() - 1))
    return x0.clamp(-s, s) / s
