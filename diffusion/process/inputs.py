"""What a network is given besides the noisy image, the time and the class: further channels and labels.

An input of a `denoiser.Denoiser` takes the network's x (B, C, *size) and its keyword arguments, and returns both with
its own part joined to them. So it wraps the network without being a module around it, which would rename the weights.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion.errors import UserError

Given = dict[str, Any]


class Input(Protocol):
    """(x (B, C, *size), the network's keyword arguments) -> both, with a part of its own."""

    def __call__(self, x: Tensor, given: Given) -> tuple[Tensor, Given]: ...


@dataclass(frozen=True)
class PictureInput:
    """The condition's `picture` (B, channels, *size), as channels after those of x."""

    channels: int

    def __call__(self, x: Tensor, given: Given) -> tuple[Tensor, Given]:
        picture = filled("picture", given.pop("picture", None), x, self.channels, *x.shape[2:])
        return torch.cat([x, picture], dim=1), given


@dataclass(frozen=True)
class VectorInput:
    """The condition's `vector` (B, numbers), as the first of the labels `augment`."""

    numbers: int

    def __call__(self, x: Tensor, given: Given) -> tuple[Tensor, Given]:
        return x, labelled(given, filled("vector", given.pop("vector", None), x, self.numbers))


@dataclass(frozen=True)
class EndInput:
    """`features` of a flow map's `way` (B,) from t to its end, in flow time, as the first of the labels `augment`."""

    features: int

    def __call__(self, x: Tensor, given: Given) -> tuple[Tensor, Given]:
        way = given.pop("way", None)
        way = x.new_zeros(len(x)) if way is None else way
        return x, labelled(given, way_features(way, self.features).to(x.dtype))


def filled(name: str, value: Tensor | None, like: Tensor, *size: int) -> Tensor:
    """`value` (B, *size), or zeros if it is None: for images without it. Raises UserError for another size."""
    if value is not None and tuple(value.shape[1:]) != size:
        raise UserError(f"denoiser: the {name} of the condition is {tuple(value.shape[1:])}; the model needs {size}")
    return like.new_zeros(len(like), *size) if value is None else value.to(like.dtype)


def labelled(given: Given, labels: Tensor) -> Given:
    """`given`, with `labels` (B, n) before those in `augment`."""
    more = given.get("augment")
    return {**given, "augment": labels if more is None else torch.cat([labels, more], dim=1)}


def way_features(way: Tensor, n: int) -> Tensor:
    """[sin(k π way), 1 − cos(k π way)] (B, n) for k = 1 … n/2, for `way` (B,) in [0, 1]; 0 at 0."""
    phase = torch.outer(way, math.pi * torch.arange(1, n // 2 + 1, device=way.device, dtype=way.dtype))
    return torch.cat([phase.sin(), 1 - phase.cos()], dim=1)
