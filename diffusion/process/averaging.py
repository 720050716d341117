"""Weight averages with a power-function profile, and averages of other lengths computed from them after training.

Karras et al. 2024, EDM2 (arXiv:2312.02696), sections 3.1 and 3.2 and appendix C. The average of the weights w(s) after
n steps is ∫ p(s) w(s) ds, where `Profile` is p. Its length σ_rel is the standard deviation of p as a fraction of n, so
the average always covers the same fraction of the training and forgets the initial weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion.errors import UserError

LONGEST = 12**-0.5  # γ = 0: equal weight for all steps


class Profile(NamedTuple):
    """p(s) = (γ + 1) s^γ / n^(γ+1) for 0 ≤ s ≤ n, else 0; its integral is 1."""

    gamma: float
    n: float


def gamma_of(length: float) -> float:
    """γ of the length σ_rel = √(γ + 1) / ((γ + 2) √(γ + 3)): the largest root of (γ + 2)² (γ + 3) = (γ + 1) / σ_rel².

    Raises UserError for a length outside (0, 1/√12]; a longer one would give early steps more weight than late ones.
    """
    if not 0 < length <= LONGEST:
        raise UserError(f"average length {length:g}: expected a fraction of the training, at most {LONGEST:.4f}")
    t = length**-2
    return max(0.0, *np.roots([1, 7, 16 - t, 12 - t]).real.tolist())


def decay(gamma: float, n: int) -> float:
    """β(n) = (1 − 1/n)^(γ+1) of w̄_n = β(n) w̄_{n−1} + (1 − β(n)) w_n, at step n = 1, 2, …

    The weight of w_s is then exactly ∫ p over (s − 1, s], and that of the initial weights is 0, because β(1) = 0.
    """
    return float((1 - 1 / n) ** (gamma + 1))


def inner_products(rows: Sequence[Profile], columns: Sequence[Profile]) -> Tensor:
    """⟨p_i, p_j⟩ (rows, columns): (γ_i + 1)(γ_j + 1) / ((γ_i + γ_j + 1) n_j) · (n_i/n_j)^{γ_j} for n_i ≤ n_j."""
    gamma_i, n_i = torch.tensor(rows, dtype=torch.float64).T[:, :, None]
    gamma_j, n_j = torch.tensor(columns, dtype=torch.float64).T[:, None, :]
    later = torch.where(n_i <= n_j, gamma_j, gamma_i)
    ratio = torch.minimum(n_i, n_j) / torch.maximum(n_i, n_j)
    scale = (gamma_i + 1) * (gamma_j + 1) / ((gamma_i + gamma_j + 1) * torch.maximum(n_i, n_j))
    return scale * ratio**later


def coefficients(kept: Sequence[Profile], wanted: Profile) -> tuple[Tensor, float]:
    """x (kept,), float64, of the Σ x_i p_i of `kept` closest to `wanted` = p in L², and ‖p − Σ x_i p_i‖ / ‖p‖.

    The solution of A x = b with A = ⟨p_i, p_j⟩ and b = ⟨p_i, p⟩ (algorithm 3) is divided by its sum, as by the authors.
    """
    A, b = inner_products(kept, kept), inner_products(kept, [wanted])[:, 0]
    norms = A.diagonal().sqrt()  # the profiles are scaled to norm 1: otherwise early ones would outweigh late ones
    x = torch.linalg.solve(A / norms[:, None] / norms, b / norms) / norms
    x = x / x.sum()
    square = inner_products([wanted], [wanted]).item()
    missing = (square - 2 * x @ b + x @ A @ x).item() / square
    return x, max(0.0, missing) ** 0.5
