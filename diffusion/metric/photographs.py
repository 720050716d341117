"""Sets of real images drawn by photograph: tiles of one photograph are alike, so they are drawn, or left out, together.

What is judged about samples is compared with what such sets show, since they differ from other photographs as
photographs do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.metric.denoising import numbered
from diffusion.randomness import generator_for


def photographs_of(sources: Sequence[object]) -> Tensor | None:
    """The number of the photograph of each image, (N,), by their sources; None if each image is its own photograph."""
    return numbered(sources) if len({*sources}) < len(sources) else None


def real_sets(photograph: Tensor, n: int, k: int, draws: int) -> tuple[Tensor, Tensor]:
    """Random sets of n images from k photographs each, and all images of the other photographs: bool (draws, N) each.

    Fewer than n if the k photographs have fewer. `photograph` (N,) are the numbers of the photographs, from 0 on.
    """
    chosen, rest = torch.zeros(2, draws, len(photograph), dtype=torch.bool)
    for draw in range(draws):
        generator = generator_for(0, "real sets", draw)
        own = torch.zeros(int(photograph.max()) + 1, dtype=torch.bool)
        own[torch.randperm(len(own), generator=generator)[:k]] = True
        order = torch.randperm(len(photograph), generator=generator)
        chosen[draw, order[own[photograph[order]]][:n]] = True
        rest[draw] = ~own[photograph]
    return chosen, rest
