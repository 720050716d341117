"""Muon: orthogonalized momentum for the hidden matrices of a network, and AdamW for all other parameters."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffusion.errors import UserError

A, B, C = 3.4445, -4.7750, 2.0315  # coefficients of the quintic polynomial (Jordan et al. 2024)
SMALLEST = 1e-7  # a matrix with a smaller norm, such as 0, is not scaled up to 1
RMS = 0.2  # of AdamW's typical update of an element, in units of the rate (Liu et al. 2025, section 2.2)


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """U S V^T (m, n) -> U S' V^T in bfloat16, with singular values S' near 1, by Newton–Schulz (Jordan et al. 2024).

    X ← X/‖X‖ (Frobenius); then `steps` times G = X X^T, X ← a X + (b G + c G²) X. A singular value s becomes
    a s + b s³ + c s⁵ at each step. After 5 steps, values above 1/100 of the norm are between 0.68 and 1.21.
    """
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.bfloat16()
    x = x.T if tall else x
    x = x / x.norm().clamp(min=SMALLEST)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x


def hidden_matrices(network: nn.Module, ends: Sequence[str] | None) -> list[nn.Parameter]:
    """The weights with 2 or more dimensions and more than one row and column, except in embeddings and `ends`."""
    try:
        names: Any = network.ends if ends is None else ends
        apart = {id(p) for name in names for p in network.get_submodule(name).parameters()}
    except AttributeError as error:
        raise UserError(
            f"optimizer.ends: name the first and last layers of {type(network).__name__}, such as [first,last], or set "
            f"them as its attribute `ends` ({error})"
        ) from error
    layers = [layer for layer in network.modules() if not isinstance(layer, nn.Embedding | nn.EmbeddingBag)]
    named = [pair for layer in layers for pair in layer.named_parameters(recurse=False)]
    weights = [p for name, p in named if name.endswith("weight") and p.ndim > 1 and id(p) not in apart]
    return [p for p in weights if min(p.flatten(1).shape) > 1]


class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the hidden matrices, AdamW for biases, norms, embeddings and the network's ends.

    For a matrix W (m, n) with gradient g, where the kernel (out, in, h, w) of a convolution is a matrix (out, in·h·w):
        M ← μM + (1 − μ)g;  O = orthogonal((1 − μ)g + μM)
        W ← W − γλW;  W ← W − 0.2 γ √max(m, n) O
    O has an RMS of 1/√max(m, n), so elements change by 0.2 γ, the typical update of AdamW (Liu et al. 2025), and all
    parameters share AdamW's rate γ and decay λ. The results are those of torch.optim.Muon, which takes only matrices,
    with adjust_lr_fn="match_rms_adamw". The matrices and the others are two parameter groups.

    Args:
        params: all parameters, including those of modules other than the network.
        network: the network with the hidden matrices.
        lr: γ.
        weight_decay: λ.
        momentum: μ, for the matrices.
        steps: Newton–Schulz steps.
        betas: for AdamW.
        eps: for AdamW.
        ends: names of the network's first and last layers, which AdamW trains; null: the network's attribute `ends`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        network: nn.Module,
        lr: Annotated[float, Ge(0)] = 3e-4,
        weight_decay: Annotated[float, Ge(0)] = 0.01,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.95,
        steps: Annotated[int, Ge(1)] = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Annotated[float, Ge(0)] = 1e-8,
        ends: list[str] | None = None,
    ):
        params, hidden = list(params), {id(p) for p in hidden_matrices(network, ends)}
        self.adamw = AdamW([p for p in params if id(p) not in hidden], lr, betas, eps, weight_decay)
        own = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "steps": steps}
        matrices = {"params": [p for p in params if id(p) in hidden], **own}
        super().__init__([matrices, *self.adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        matrices, others = self.param_groups
        self.adamw.param_groups, self.adamw.state = [others], self.state  # loading a state replaces both
        loss: float | None = self.adamw.step(closure)
        rate, mu = matrices["lr"], matrices["momentum"]
        for p in matrices["params"]:
            if (g := p.grad) is not None:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(g, memory_format=torch.preserve_format)
                state["momentum"].lerp_(g, 1 - mu)
                o = orthogonal(g.lerp(state["momentum"], mu).flatten(1), matrices["steps"])
                p.mul_(1 - rate * matrices["weight_decay"])
                p.add_(o.unflatten(1, p.shape[1:]), alpha=-RMS * rate * math.sqrt(max(o.shape)))
        return loss
