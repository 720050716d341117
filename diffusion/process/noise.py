"""How training pairs noise with images: callables (x0, streams) -> eps, N(0, I), both (B, ...).

With noise that is independent of its image, x_t given x0 is the forward process's. The other choices bring noise and
image nearer to each other, so that the paths from noise to images cross less. What follows from that:

- The network learns E[x0 | x_t] and E[eps | x_t] of these pairs. The ends of their paths are the images and N(0, I), so
  dx/dt = α'_t E[x0 | x_t] + σ'_t E[eps | x_t] leads from one to the other (Tong et al. 2023). Deterministic samplers
  solve it. (With `nearest`, the noise as a whole is only nearly N(0, I).)
- The score of x_t is no longer −eps/σ_t, and α_t² + σ_t² = 1 no longer keeps the variance. So stochastic samplers and
  guidance are approximations, and so is whatever begins with an image and independent noise.
- The variational bound is one of noise that is independent. The objectives that contain it take no other.
- Classes stay with their images. But all images of a class lie nearer to their noise, so noise given a class is not
  N(0, I), from which its samples begin (Cheng & Schwing 2025).

Validation measures its error with independent noise, so its value does not show what the pairing gains.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import scipy  # whose parts are imported on their first use
import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.randomness import Streams, real_dtype

Noise = Callable[[Tensor, Streams], Tensor]


def independent(x0: Tensor, streams: Streams) -> Tensor:
    """eps_i, drawn from the stream of image i, whatever the image."""
    return streams.normal_like(x0)


def nearest(x0: Tensor, streams: Streams, k: Annotated[int, Ge(1)] = 8) -> Tensor:
    """eps_i = argmin_j ‖x0_i − eps_ij‖ of k noises from the stream of image i (Li et al. 2025, "KNN" noise selection).

    A pair does not depend on the rest of the batch, so neither on devices nor on accumulation.

    Args:
        k: the noises that are drawn for each image; 1: independent noise. They take the memory of k batches of images.
    """
    candidates = streams.normal_like(x0, k)
    distance = (candidates - x0[:, None]).flatten(2).square().sum(dim=2)
    return candidates[torch.arange(len(x0), device=x0.device), distance.argmin(dim=1)]


def assigned(x0: Tensor, streams: Streams, power: Literal[1, 2] = 2) -> Tensor:
    """eps_π(i), where the permutation π of the batch's independent noises minimises Σ_i ‖x0_i − eps_π(i)‖^power.

    With power 2 that is minibatch optimal transport (Tong et al. 2023; Pooladian et al. 2023): between equally many
    points of equal weights, some optimal plan is a permutation. With power 1 it is Immiscible Diffusion (Li et al.
    2024), which adds the distances themselves. Each noise is used once, so those of a batch are what they were.

    A pair depends on the images of its batch: on several devices each assigns within its own part, and of accumulated
    batches each is assigned by itself. The assignment is made on the CPU, which waits there for the device.

    Args:
        power: of the distances that are added.
    """
    eps = streams.normal_like(x0)
    dtype = real_dtype(x0.device)
    distance = torch.cdist(x0.flatten(1).to(dtype), eps.flatten(1).to(dtype))
    _, order = scipy.optimize.linear_sum_assignment((distance**power).cpu().numpy())
    return eps[torch.from_numpy(order).to(eps.device)]


def depends_on_batch(noise: Any) -> bool:
    """Whether a pair depends on the other images of its batch."""
    return getattr(noise, "func", noise) is assigned
