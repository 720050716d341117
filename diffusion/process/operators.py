"""Linear observations of an image: y = A x0 + noise·z, with z ~ N(0, I).

An operator A is any linear function from images (B, C, *size) to (B, ...), or an object that is called like one. Its
adjoint Aᵀ is the method `adjoint`, if it has one, and otherwise computed by autograd.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusion.errors import UserError, refusing
from diffusion.randomness import Streams

Operator = Callable[[Tensor], Tensor]
MOST = 100  # iterations of conjugate gradients that need no network


class MaskOperator:
    """Keeps what is `known` of an image, bool (*size) or (C, *size), and sets the rest to 0. It is its own adjoint."""

    def __init__(self, known: Tensor):
        if known.dtype != torch.bool or bool(known.all()):
            raise UserError("mask: expected bool, true where the picture is known, and false to fill at least a pixel")
        self.known = known

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.known.to(x.device)

    adjoint = __call__


class Nonlinear:
    """A function that is not linear, such as a blur of decoded latents: methods use its derivative at an estimate."""

    def __init__(self, function: Operator):
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


class Derivative:
    """J of a function at x (B, C, *size): v -> J v, by differentiating Jᵀu, and its adjoint; `value` is f(x)."""

    def __init__(self, function: Operator, x: Tensor):
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the only attention that is twice differentiable
            self.x = x.detach().requires_grad_()
            self.made = function(self.x)
        self.value = self.made.detach()

    def __call__(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            u = torch.zeros_like(self.value).requires_grad_()
            return torch.autograd.grad(self.adjoint(u, create_graph=True), u, v)[0]

    def adjoint(self, u: Tensor, **options: bool) -> Tensor:
        return torch.autograd.grad(self.made, self.x, u, retain_graph=True, **options)[0]


def downsampling(x: Tensor, factor: Annotated[int, Ge(2)] = 4) -> Tensor:
    """The mean of each block of `factor` pixels along every axis: (B, C, *size) -> (B, C, *size/factor)."""
    if any(side % factor for side in x.shape[2:]):
        size = "×".join(map(str, x.shape[2:]))
        raise UserError(f"operator: the factor {factor} does not divide images of {size} pixels")
    return (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3](x, factor)


def blur(x: Tensor, width: Annotated[float, Gt(0)] = 2.0) -> Tensor:
    """Gaussian blur of standard deviation `width`, in pixels, along every axis of x (B, C, *size).

    Its weights sum to 1 at the borders, too.
    """
    for _ in x.shape[2:]:  # of the last axis, which then becomes the first
        i = torch.arange(x.shape[-1], dtype=x.dtype, device=x.device)
        x = (x @ (-((i[:, None] - i) ** 2) / (2 * width**2)).softmax(dim=0)).movedim(-1, 2)
    return x


def observe(operator: Operator, x0: Tensor, noise: float, streams: Streams) -> Tensor:
    """y (1, ...) of an image x0 (C, *size), with noise from one stream. Raises UserError if A x0 cannot be computed."""
    with refusing(f"operator: it fails for an image of {tuple(x0.shape)}"):
        y = operator(x0[None])
    return y + noise * streams.normal_like(y)


@dataclass(eq=False)
class Observation:
    """What is known of an image of `shape` (C, *size): y (1, ...). Raises UserError if the operator is not linear."""

    operator: Operator
    shape: tuple[int, ...]
    y: Tensor
    noise: float = 0.0  # its standard deviation, in the units of the image

    def __post_init__(self) -> None:
        if isinstance(self.operator, Nonlinear):
            return
        if isinstance(self.operator, MaskOperator):
            self.y = self.operator(self.y)  # values of unknown pixels, which A x0 cannot have, delay the iterations
        u = Streams.of(1, "u").normal_like(self.y)
        x = Streams.of(1, "x").normal(*self.shape).to(u)
        one, other = float((self.operator(x) * u).sum()), float((x * self.adjoint(u)).sum())
        if not abs(one - other) <= 1e-2 * float(self.operator(x).norm()):  # of which each is a random part; NaN
            raise UserError(f"operator: ⟨A x, u⟩ = {one:.4g}, ⟨x, Aᵀu⟩ = {other:.4g}; A must be linear, Aᵀ its adjoint")

    def near(self, x0: Tensor) -> tuple[Tensor, "Observation"]:
        """A x0 (B, ...), and the observation with the derivative of A at x0 (B, C, *size), if A is not linear."""
        if not isinstance(self.operator, Nonlinear):
            return self.operator(x0), self
        found = copy(self)
        found.operator = Derivative(self.operator, x0)
        return found.operator.value, found

    @property
    def exact(self) -> bool:
        """Whether y are pixels of the image itself, without noise."""
        return isinstance(self.operator, MaskOperator) and self.noise == 0

    def adjoint(self, u: Tensor) -> Tensor:
        """Aᵀu (B, C, *size) for u (B, ...)."""
        if (own := getattr(self.operator, "adjoint", None)) is not None:
            return own(u)
        with torch.enable_grad():
            x = u.new_zeros(len(u), *self.shape).requires_grad_()
            return torch.autograd.grad(self.operator(x), x, u)[0]

    def gain(self, residual: Tensor, V: Callable[[Tensor], Tensor], noise: float, iterations: int) -> Tensor:
        """Aᵀ (noise² I + A V Aᵀ)⁻¹ residual (B, C, *size), by conjugate gradients; V(v) is the product with V.

        An image stops when its residual is √ε of the first, with ε of its dtype, or at a curvature below 0.
        """

        def dot(v: Tensor, w: Tensor) -> Tensor:
            return (v * w).flatten(1).sum(dim=1).view(-1, *[1] * (v.dim() - 1))

        u, r, p, square = torch.zeros_like(residual), residual, residual, dot(residual, residual)
        active, end = square > 0, torch.finfo(r.dtype).eps * square
        for _ in range(iterations):
            q = noise**2 * p + self.operator(V(self.adjoint(p)))
            curvature = dot(p, q)
            active = active & (curvature > 0)
            step = torch.where(active, square / curvature, 0.0)
            u, r, before = u + step * p, r - step * q, square
            square = dot(r, r)
            active = active & (square > end)
            if not active.any():
                break
            p = r + torch.where(active, square / before, 0.0) * p
        return self.adjoint(u)
