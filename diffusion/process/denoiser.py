"""From a network to an estimate of the image and the noise.

`Denoise` is any callable (x_t (B, C, *size), t (B,)) -> Estimate that has a `schedule`. A trained network, its EMA
copy, a thresholded denoiser and the tests' closed-form oracles all implement it. To extend a denoiser, wrap it.

In this package, *size is (L,) of series, (H, W) of images or (D, H, W) of volumes. "Image" stands for an example of any
of them, and "pixel" for one of its positions, unless a docstring says (H, W).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.inputs import EndInput, Input, PictureInput, VectorInput, filled
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule

UNUSED = {  # conditions that need an input -> what a model without it is
    "picture": "has no condition with a picture",
    "vector": "has no condition with numbers",
    "way": "is no flow map; train one with the objective flow_map",
}


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


def slope(denoise: Any, y: Tensor, u: Tensor, **conditions: Any) -> Tensor:
    """dy/du = eps − x0 (B, C, *size) of a path at y = x/(alpha + sigma) and the flow time u (B,) > 0."""
    t = denoise.schedule.at_flow_time(u)
    estimate: Estimate = denoise(expand(sum(denoise.schedule(t)), y) * y, t, **conditions)
    return estimate.eps - estimate.x0


class Denoiser(nn.Module):
    """A network and its prediction: y = network(c_in·x_t, label), then x0 and eps from `prediction.solve`.

    The network gets c_in·x_t in the dtype of its weights, and conditions such as `classes` (B,) as keyword arguments.
    Its `inputs` (`process.inputs`) are applied in their order; images without such a condition have zeros. Raises
    UserError for a prediction that does not suit the schedule, for a condition without an input or of another size, and
    for an output of another size.

    With an `EndInput` it is a flow map, too (`flow_map.FlowMap`). Given `end` (B,), the flow time of s ≤ t, its
    estimates satisfy x_s = alpha_s x0 + sigma_s eps on the path of the probability-flow ODE from x_t to s.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction, inputs: Iterable[Input] = ()):
        super().__init__()
        prediction.check(schedule)
        self.network, self.schedule, self.prediction, self.inputs = network, schedule, prediction, (*inputs,)

    def output(self, x_t: Tensor, t: Tensor, **conditions: Any) -> tuple[Tensor, Tensor | None]:
        """The network's y (B, C, *size) and, if it has 2C output channels, the spread; both in the dtype of x_t."""
        c_in, label = self.prediction.inputs(self.schedule, t)
        return self.evaluated(expand(c_in, x_t) * x_t, t, label, **conditions)

    def evaluated(
        self, x: Tensor, t: Tensor, label: Tensor, end: Tensor | None = None, **conditions: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The output of the network for its x (B, C, *size), before its inputs, and its label (B,)."""
        (B, C, *size), dtype = x.shape, x.dtype
        if end is not None:
            conditions["way"] = self.schedule.flow_time(t) - end
        for each in self.inputs:
            x, conditions = each(x, conditions)
        for name, lack in UNUSED.items():
            if conditions.pop(name, None) is not None:
                raise UserError(f"denoiser: this model {lack}")
        dtypes = (weight.dtype for weight in self.network.parameters() if weight.is_floating_point())
        label = label.to(torch.promote_types(dtype, torch.float32))  # bfloat16 would merge neighbouring times
        out = self.network(x.to(next(dtypes, dtype)), label, **conditions)
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if found not in [(B, C, *size), (B, 2 * C, *size)]:
            raise UserError(
                f"denoiser: the network gives {found} for {(B, C, *size)}; expected {C} or {2 * C} channels"
            )
        out = out.to(dtype)
        return out[:, :C], out[:, C:] if out.shape[1] == 2 * C else None

    def estimate(self, x_t: Tensor, t: Tensor, y: Tensor, spread: Tensor | None = None) -> Estimate:
        """The estimates of image and noise implied by the network's output y."""
        (p, q), (u, w) = self.prediction.solve(self.schedule, t)
        x0 = expand(p, x_t) * x_t + expand(q, x_t) * y
        eps = expand(u, x_t) * x_t + expand(w, x_t) * y
        return Estimate(x0, eps, spread)

    def forward(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        return self.estimate(x_t, t, *self.output(x_t, t, **conditions))


class Centred(Denoiser):
    """A denoiser that is given an estimate of the image, whose network learns the difference x0 − c to it alone.

    The first C channels of `picture` (B, P, *size) are √(1 − s²) of the estimate, and noise of deviation s, the first
    number of `vector` (B, V) (0 without one). With c these channels divided by √(1 − s²), the network gets
    c_in·(x_t − alpha_t c), and predicts for data whose variance is larger by that of the noise, s²/(1 − s²). From its
    y', the output is y = f·y' + g·(x_t − alpha_t c) + a·c, by `Prediction.of_output` and `weights`.
    """

    def output(
        self, x_t: Tensor, t: Tensor, picture: Tensor | None = None, vector: Tensor | None = None, **conditions: Any
    ) -> tuple[Tensor, Tensor | None]:
        C, *size = x_t.shape[1:]
        alpha, a = self.schedule(t)[0], self.prediction.weights(self.schedule, t)[0]
        s = torch.zeros_like(t) if vector is None else vector[:, 0].to(t)
        scale = (1 - s**2).sqrt()
        c = filled("picture", None if picture is None else picture[:, :C], x_t, C, *size) / expand(scale, x_t)
        prediction = self.prediction.widened(s / scale)
        c_in, label = prediction.inputs(self.schedule, t)
        x = expand(c_in, x_t) * x_t - expand(c_in * alpha, x_t) * c
        y, spread = self.evaluated(x, t, label, picture=picture, vector=vector, **conditions)
        f, g = self.prediction.of_output(prediction, self.schedule, t)
        y = expand(f, x_t) * y + expand(g, x_t) * (x_t - expand(alpha, x_t) * c)
        return y + expand(a, x_t) * c, spread


def denoiser_of(
    network: nn.Module, schedule: Schedule, prediction: Prediction, picture: int = 0, vector: int = 0,
    centred: bool = False, ends: int = 0,
) -> Denoiser:  # fmt: skip
    """The denoiser of a network that was built for these inputs; 0: without.

    Args:
        picture: channels P of the condition's picture.
        vector: numbers V of the condition's vector, the first of the network's labels.
        centred: whether the picture is an estimate of the image (`Centred`).
        ends: features of the end of a flow map, the next of its labels.
    """
    inputs: list[Input] = []  # the labels of a later one come first
    if ends:
        inputs.append(EndInput(ends))
    if vector:
        inputs.append(VectorInput(vector))
    if picture:
        inputs.append(PictureInput(picture))
    return (Centred if centred else Denoiser)(network, schedule, prediction, inputs)


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
