"""Pairing of noise with images in training: callables (x0, streams) -> eps ~ N(0, I), both (B, ...).

All but `independent` make the paths from noise to images cross less: docs/mathematics.md states what remains exact.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import scipy  # its submodules are imported on first use
import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.randomness import Streams, real_dtype

Noise = Callable[[Tensor, Streams], Tensor]


def independent(x0: Tensor, streams: Streams) -> Tensor:
    """eps_i, drawn from the stream of image i, independently of the image."""
    return streams.normal_like(x0)


def nearest(x0: Tensor, streams: Streams, k: Annotated[int, Ge(1)] = 8) -> Tensor:
    """eps_i = argmin_j ‖x0_i − eps_ij‖ of k noises from the stream of image i (Li et al. 2025, "KNN" noise selection).

    A pair does not depend on the rest of the batch. The noises need the memory of k batches of images.
    """
    candidates = streams.normal_like(x0, k)
    distance = (candidates - x0[:, None]).flatten(2).square().sum(dim=2)
    return candidates[torch.arange(len(x0), device=x0.device), distance.argmin(dim=1)]


def assigned(x0: Tensor, streams: Streams, power: Literal[1, 2] = 2) -> Tensor:
    """eps_π(i), where the permutation π of the batch's independent noises minimises Σ_i ‖x0_i − eps_π(i)‖^power.

    Power 2 is minibatch optimal transport (Tong et al. 2023; Pooladian et al. 2023), power 1 Immiscible Diffusion (Li
    et al. 2024). Each device and each accumulated micro-batch is assigned separately, on the CPU.
    """
    eps = streams.normal_like(x0)
    dtype = real_dtype(x0.device)
    distance = torch.cdist(x0.flatten(1).to(dtype), eps.flatten(1).to(dtype))
    _, order = scipy.optimize.linear_sum_assignment((distance**power).cpu().numpy())
    return eps[torch.from_numpy(order).to(eps.device)]
